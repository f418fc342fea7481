"""Predictions at any points, for a split of a dataset or an array of functions, into one file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UsageError
from ..predict import FORMAT, FORMAT_VERSION, PredictConfig
from ._points_reader import Reader

if TYPE_CHECKING:
    from ._points_operator import PointsOperator
    from ._task import Progress

__all__ = ["PointFile", "predict_points"]

#: Points read, evaluated and written at once.
CHUNK = 2**17


class PointFile:
    """Query points in a file, read some at a time.

    Parameters
    ----------
    path : path
        ``.csv`` (numbers, comma-separated; a first line of names is allowed and then tells the
        order), ``.npy`` (n, d), or ``.h5`` with a dataset ``points`` (n, d).
    names : sequence of str
        Coordinates, in the order that the operator takes.

    Raises
    ------
    UsageError
        Another kind of file, wrong shape or numbers: one line that names the file.
    """

    def __init__(self, path: str | Path, names: tuple[str, ...]) -> None:
        self.path, self.names = Path(path), names
        if not self.path.is_file():
            raise UsageError(f"points={path}: no such file")
        suffix = self.path.suffix
        readers = {".csv": self._csv, ".npy": self._npy, ".h5": self._h5}
        if suffix not in readers:
            raise UsageError(f"points={path}: need a name that ends in {', '.join(readers)}")
        self._chunks = readers[suffix]
        if suffix == ".csv":
            self.n = sum(len(c) for c in self._csv())
        else:
            self.n = self._length()
        if not self.n:
            raise UsageError(f"points={path}: holds no points")

    def _check(self, shape: tuple[int, ...]) -> None:
        d = len(self.names)
        if len(shape) != 2 or shape[1] != d:
            raise UsageError(
                f"points={self.path}: has shape {shape}, expected (n, {d}): coordinates "
                f"{', '.join(self.names)}"
            )

    def _length(self) -> int:
        if self.path.suffix == ".npy":
            a = self._array()
            return len(a)
        import h5py

        try:
            with h5py.File(self.path, "r") as f:
                ds = f["points"]
                self._check(ds.shape)
                return int(ds.shape[0])
        except (OSError, KeyError, AttributeError) as e:
            raise UsageError(
                f"points={self.path}: no HDF5 file with a dataset 'points' ({e})"
            ) from None

    def _array(self) -> np.ndarray:
        try:
            a = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as e:
            raise UsageError(f"points={self.path}: no .npy file of numbers ({e})") from None
        if a.ndim == 1 and len(self.names) == 1:
            a = a[:, None]
        if a.dtype.kind not in "fiu":
            raise UsageError(f"points={self.path}: has dtype {a.dtype}, need numbers")
        self._check(a.shape)
        return a

    def _npy(self) -> Iterator[np.ndarray]:
        n = len(self._array())
        for start in range(0, n, CHUNK):  # mapped anew, so that what was read is let go
            yield np.array(self._array()[start : start + CHUNK], np.float64)

    def _h5(self) -> Iterator[np.ndarray]:
        import h5py

        with h5py.File(self.path, "r") as f:
            ds = f["points"]
            for start in range(0, len(ds), CHUNK):
                yield np.asarray(ds[start : start + CHUNK], np.float64)

    def _csv(self) -> Iterator[np.ndarray]:
        with self.path.open(encoding="utf-8") as f:
            first = f.readline()
            words = [w.strip() for w in first.split(",")]
            order = list(range(len(self.names)))
            line = 1
            if first.strip() and any(_is_name(w) for w in words):
                if sorted(words) != sorted(self.names):
                    raise UsageError(
                        f"points={self.path}: the columns are {', '.join(words)}, expected "
                        f"{', '.join(self.names)}"
                    )
                order = [words.index(n) for n in self.names]
            else:
                f.seek(0)
                line = 0
            while lines := list(itertools.islice(f, CHUNK)):
                text = [t for t in lines if t.strip()]
                try:
                    a = np.loadtxt(text, delimiter=",", ndmin=2) if text else None
                except ValueError as e:
                    raise UsageError(f"points={self.path}, after line {line}: {e}") from None
                line += len(lines)
                if a is not None:
                    self._check(a.shape)
                    yield a[:, order]

    def chunks(self) -> Iterator[np.ndarray]:
        """Points, float64, (at most `CHUNK`, d) at a time."""
        start = 0
        for a in self._chunks():
            bad = ~np.isfinite(a).all(axis=1)
            if bad.any():
                raise UsageError(
                    f"points={self.path}: point {start + int(np.argmax(bad))} is not finite"
                )
            start += len(a)
            yield a


def _is_name(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return True
    return False


def predict_points(op: PointsOperator, config: PredictConfig, progress: Progress | None) -> Path:
    """Apply `op` to many functions at many points; `PointsTask.predict`.

    Memory does not grow with the number of points: they are read, evaluated and written some at a
    time (``.npz`` alone is put together in memory).
    """
    out = Path(config.out)
    if out.suffix == ".npy" and len(op.task.outputs) > 1:
        names = ", ".join(v.name for v in op.task.outputs)
        raise UsageError(f"out={config.out}: .npy takes one field, the outputs are {names}")
    ids, batches, facts = _source(op, config)
    file = None if config.points is None else PointFile(config.points, op.coordinates)
    if file is not None:
        n = file.n
    elif op.points is not None:
        n = len(op.points)
    else:
        raise UsageError(
            "points: this model was trained on points of each sample's own; name a file of points"
        )
    total, done = len(ids) * n, 0

    def results() -> Iterator[tuple[slice, slice, dict[str, np.ndarray]]]:
        nonlocal done
        row = 0
        for us in batches():
            rows = slice(row, row + len(us[0]))
            row = rows.stop
            start = 0
            for y in _points(op, file):
                with torch.no_grad():
                    s = op.at(us, y).cpu().numpy()
                columns = slice(start, start + s.shape[1])
                start = columns.stop
                yield rows, columns, op.task.fields(s)
                done += s.shape[0] * s.shape[1]
                if progress is not None:
                    progress(done, total, "")

    writers = {".h5": _write_h5, ".npy": _write_npy, ".npz": _write_npz}
    writers[out.suffix](out, op, ids, n, file, results(), facts)
    return out


def _points(op: PointsOperator, file: PointFile | None) -> Iterator[torch.Tensor | None]:
    if file is None:
        yield None
        return
    for a in file.chunks():
        y = torch.as_tensor(a).to(op.device, op.dtype)
        try:
            if op.module.bound_to_points:
                op._check_inside(y)
        except ValueError as e:
            raise UsageError(f"points={file.path}: {e}") from None
        yield y


def _known(op: PointsOperator) -> Iterator[np.ndarray]:
    """Yield the training points."""
    assert op.points is not None
    yield op.points


def _source(
    op: PointsOperator, config: PredictConfig
) -> tuple[np.ndarray, Callable[[], Iterator[tuple[torch.Tensor, ...]]], dict[str, str]]:
    """Ids, batches of functions, and what to say about them."""
    path = Path(config.data)
    facts = {"run": Path(config.run).resolve().name, "source": path.resolve().name}
    step = config.batch_size

    def to(a: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(a)).to(op.dtype).to(op.device)

    if path.suffix == ".npy":
        (f, *others) = op.task.functions
        if others:
            raise UsageError(f"{path}: the model has several inputs; give a dataset")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as e:
            raise UsageError(
                f"{path}: no .npy file of numbers ({' '.join(str(e).split())})"
            ) from None
        if array.ndim < 2 or not len(array):
            raise UsageError(f"{path} has shape {array.shape}, expected (batch, sensors)")
        try:
            op._functions({f.name: np.array(array[:1])})
        except ValueError as e:
            raise UsageError(f"{path}: {e}") from None

        def from_array() -> Iterator[tuple[torch.Tensor, ...]]:
            for a in range(0, len(array), step):
                yield op._functions({f.name: np.array(array[a : a + step])})[0]

        return np.arange(len(array)), from_array, facts

    from pde_data.hdf5 import open_dataset

    dataset = open_dataset(path)
    if reason := op.task.misfit(dataset.schema, inputs_only=True):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")
    reader = Reader(op.task, dataset.schema, outputs=False)

    def from_split() -> Iterator[tuple[torch.Tensor, ...]]:
        for a in range(0, len(split), step):
            index = np.arange(a, min(a + step, len(split)))
            yield tuple(to(u) for u in reader.functions(split, index))

    facts |= {"split": split.name, "content_digest": dataset.content_digest}
    return split.ids, from_split, facts


def _write_h5(
    out: Path,
    op: PointsOperator,
    ids: np.ndarray,
    n: int,
    file: PointFile | None,
    results: Any,
    facts: dict[str, str],
) -> None:
    from pde_data.hdf5._atomic import atomic_h5

    with atomic_h5(out) as f:
        f.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, model=op.name, **facts)
        f.attrs["problem"] = op.description["data"]["problem"]
        f.create_dataset("sample", data=ids.astype("<i8"), track_times=False)
        points = f.create_dataset("points", (n, len(op.coordinates)), "<f8", track_times=False)
        points.attrs["coordinates"] = list(op.coordinates)
        points.attrs["units"] = [c.units for c in op.task.coordinates]
        start = 0
        for y in _known(op) if file is None else file.chunks():
            points[start : start + len(y)] = y
            start += len(y)
        group = f.create_group("outputs")
        group.attrs["field_names"] = [v.name for v in op.task.outputs]
        for rows, columns, fields in results:
            for v in op.task.outputs:
                values = fields[v.name]
                if v.name not in group:
                    ds = group.create_dataset(
                        v.name,
                        (len(ids), n, *v.shape),
                        values.dtype.newbyteorder("<"),
                        track_times=False,
                    )
                    ds.attrs.update(units=v.units, long_name=v.long_name)
                group[v.name][rows, columns] = values


def _write_npy(
    out: Path,
    op: PointsOperator,
    ids: np.ndarray,
    n: int,
    file: PointFile | None,
    results: Any,
    facts: dict[str, str],
) -> None:
    from ..checkpoint import replace_file

    (v,) = op.task.outputs
    dtype = np.dtype(np.float64 if str(op.dtype) == "torch.float64" else np.float32)
    shape = (len(ids), n, *v.shape)
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    item = dtype.itemsize * int(np.prod(v.shape, dtype=int))

    def write(path: Path) -> None:
        with path.open("wb") as f:
            np.lib.format.write_array_header_1_0(f, header)
            start = f.tell()
            f.truncate(start + item * len(ids) * n)
            for rows, columns, fields in results:
                for row, values in zip(range(rows.start, rows.stop), fields[v.name], strict=True):
                    f.seek(start + item * (row * n + columns.start))
                    f.write(np.ascontiguousarray(values, dtype).tobytes())

    replace_file(out, write)


def _write_npz(
    out: Path,
    op: PointsOperator,
    ids: np.ndarray,
    n: int,
    file: PointFile | None,
    results: Any,
    facts: dict[str, str],
) -> None:
    from ..checkpoint import save_arrays

    arrays: dict[str, np.ndarray] = {}
    for rows, columns, fields in results:
        for v in op.task.outputs:
            values = fields[v.name]
            if v.name not in arrays:
                arrays[v.name] = np.empty((len(ids), n, *v.shape), values.dtype)
            arrays[v.name][rows, columns] = values
    points = np.concatenate(list(_known(op) if file is None else file.chunks()))
    save_arrays(out, {"sample": ids, "points": points, **arrays})
