"""`predict`: an operator's outputs for a split of a dataset or an array, into one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import UsageError

if TYPE_CHECKING:
    from solvers.grids import Grid

    from .operator import Operator

__all__ = ["PredictConfig", "predict"]

FORMAT = "opkit-prediction"
FORMAT_VERSION = "1.0"
SUFFIXES = (".h5", ".npz", ".npy")
#: Called as ``progress(samples done, samples in all, note)``.
Progress = Callable[[int, int, str], None]


class PredictConfig(BaseModel):
    """Settings of `predict`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(description="directory that fit has written")
    data: str = Field(description="dataset, or .npy file of inputs (batch, channel, *space)")
    out: str = Field(description="file to write: .h5, .npz or .npy")
    split: str = Field("test", description="which samples of a dataset")
    batch_size: int = Field(16, ge=1, description="samples at once")
    overwrite: bool = Field(False, description="replace `out`")
    device: str = Field("cpu", description="where the model runs")

    @field_validator("run", "data", "out", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, os.PathLike) else value


def predict(config: PredictConfig, *, progress: Progress | None = None) -> Path:
    """Apply an operator to many inputs.

    Parameters
    ----------
    config : PredictConfig
    progress : callable, optional
        Called as ``progress(samples done, samples in all, note)``.

    Returns
    -------
    Path
        The file. ``.h5``: ``sample`` (ids), the coordinates and ``outputs/<field>``, each with its
        units, name and axes; ``.npz``: ``sample``, the coordinates and the fields; ``.npy``: the
        fields of a single output, without ids. Values are float32, or float64 from a run in that
        precision; the components of vectors come last, as in datasets.

    Raises
    ------
    UsageError
        Unknown suffix, data that does not fit the operator, a split that does not exist, more
        than one output field for ``.npy``.
    FileExistsError
        `out` exists and `overwrite` is not set.
    OperatorError, DatasetError
        From loading the run, from reading the data.
    OSError
        Disk full; nothing is left behind.
    """
    from .operator import load

    out = Path(config.out)
    if out.suffix not in SUFFIXES:
        raise UsageError(f"out={config.out}: need a name that ends in {', '.join(SUFFIXES)}")
    if out.is_dir() or (out.exists() and not config.overwrite):
        raise FileExistsError(f"{out} exists already; use --overwrite to replace it")
    op = load(config.run, device=config.device)
    if out.suffix == ".npy" and len(op.task.outputs) > 1:
        names = ", ".join(v.name for v in op.task.outputs)
        raise UsageError(f"out={config.out}: .npy takes one field, the outputs are {names}")
    ids, grid, batches, facts = _source(op, config)
    done = 0

    def results() -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        nonlocal done
        for x in batches():
            y = np.asarray(op(x, batch_size=config.batch_size))
            rows = slice(done, done + len(x))
            done += len(x)
            yield rows, op.task.fields(y)
            if progress is not None:
                progress(done, len(ids), "")

    write = _write_h5 if out.suffix == ".h5" else _write_numpy
    write(out, op, ids, grid, results(), facts)
    return out


def _source(
    op: Operator, config: PredictConfig
) -> tuple[np.ndarray, Grid, Callable[[], Iterator[np.ndarray]], dict[str, str]]:
    """Ids, grid, batches of inputs, and what to say about them."""
    dtype = np.float64 if str(op.dtype) == "torch.float64" else np.float32
    step = config.batch_size
    path = Path(config.data)
    facts = {"run": Path(config.run).resolve().name, "source": path.resolve().name}
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as e:
            raise UsageError(
                f"{path}: no .npy file of numbers ({' '.join(str(e).split())})"
            ) from None
        dim, c = op.grid.dim, op.task.in_channels
        if c == 1 and array.ndim == dim + 1:
            array = array[:, None]
        if array.ndim != dim + 2 or array.shape[1] != c or not len(array):
            space = ", ".join(f"n{d + 1}" for d in range(dim))
            raise UsageError(
                f"{path} has shape {array.shape}, expected (batch, {c}, {space}) of "
                f"{', '.join(v.name for v in op.task.inputs)}"
            )
        grid = op.grid.resized(array.shape[2:])
        ids = np.arange(len(array))

        def from_array() -> Iterator[np.ndarray]:
            for a in range(0, len(ids), step):
                yield np.asarray(array[a : a + step], dtype)

        return ids, grid, from_array, facts

    from pde_data.hdf5 import open_dataset

    dataset = open_dataset(path)
    if reason := op.task.misfit(dataset.schema, inputs_only=True):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")

    def from_split() -> Iterator[np.ndarray]:
        for a in range(0, len(split), step):
            index = np.arange(a, min(a + step, len(split)))
            yield op.task.read_inputs(split, index).astype(dtype)

    facts |= {"split": split.name, "content_digest": dataset.content_digest}
    return split.ids, dataset.schema.grid, from_split, facts


def _write_h5(
    out: Path, op: Operator, ids: np.ndarray, grid: Grid, results: Any, facts: dict[str, str]
) -> None:
    from pde_data.hdf5._atomic import atomic_h5

    with atomic_h5(out) as f:
        f.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, model=op.name, **facts)
        f.attrs["problem"] = op.description["data"]["problem"]
        sample = f.create_dataset("sample", data=ids.astype("<i8"), track_times=False)
        scales = [("sample", sample)]
        for axis in grid.axes:
            ds = f.create_dataset(axis.name, data=axis.coords, track_times=False)
            ds.attrs.update(
                units=axis.units,
                location=axis.location,
                bounds=np.array([axis.lower, axis.upper]),
                periodic=axis.periodic,
            )
            scales.append((axis.name, ds))
        if any(v.rank for v in op.task.outputs):
            ds = f.create_dataset("component", data=np.arange(grid.dim), track_times=False)
            scales.append(("component", ds))
        for name, ds in scales:
            ds.make_scale(name)
        group = f.create_group("outputs")
        group.attrs["field_names"] = [v.name for v in op.task.outputs]
        for rows, fields in results:
            for v in op.task.outputs:
                values = fields[v.name]
                if v.name not in group:
                    ds = group.create_dataset(
                        v.name,
                        (len(ids), *values.shape[1:]),
                        values.dtype.newbyteorder("<"),
                        track_times=False,
                    )
                    ds.attrs.update(units=v.units, long_name=v.long_name)
                    for k in range(ds.ndim):
                        ds.dims[k].attach_scale(scales[min(k, len(scales) - 1)][1])
                group[v.name][rows] = values


def _write_numpy(
    out: Path, op: Operator, ids: np.ndarray, grid: Grid, results: Any, facts: dict[str, str]
) -> None:
    from .checkpoint import replace_file, save_arrays

    parts = [fields for _, fields in results]
    fields = {v.name: np.concatenate([p[v.name] for p in parts]) for v in op.task.outputs}
    if out.suffix == ".npz":
        coords = {a.name: a.coords for a in grid.axes}
        save_arrays(out, {"sample": ids, **coords, **fields})
        return
    (values,) = fields.values()

    def write(path: Path) -> None:
        with path.open("wb") as f:
            np.save(f, values, allow_pickle=False)

    replace_file(out, write)
