"""Predictions of an operator on grids, for a split of a dataset or an array, into one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..predict import FORMAT, FORMAT_VERSION, PredictConfig

if TYPE_CHECKING:
    from solvers.grids import Grid

    from ._grid_operator import GridOperator as Operator
    from ._task import Progress

__all__ = ["predict_grid"]


def predict_grid(op: Operator, config: PredictConfig, progress: Progress | None) -> Path:
    """Apply `op` to many inputs; `GridTask.predict`."""
    out = Path(config.out)
    if config.points is not None:
        raise UsageError(
            f"points={config.points}: {op.name} answers on the grid of its inputs, not at points"
        )
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
    from ..checkpoint import replace_file, save_arrays

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
