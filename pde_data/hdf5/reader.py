"""`open_dataset`: samples as numpy arrays, from a directory, a shard, a view or one plain file."""

from __future__ import annotations

import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from solvers.meshes import Mesh
from solvers.names import suggest

from . import _file
from ._mesh import RaggedReader
from ._places import chunk_offsets
from .errors import (
    ChecksumError,
    DatasetError,
    MissingShardError,
    NotAnOpkitFileError,
    SchemaError,
    translate_h5,
)
from .manifest import build_manifest, chunks_digest, find_shards, shard_facts
from .schema import FORMAT, FORMAT_VERSION, DatasetSchema, FieldSpec

if TYPE_CHECKING:
    from ._raw import Descriptor, RawChunks

__all__ = ["Dataset", "Split", "close_files", "open_dataset"]

MAX_OPEN_FILES = 16
#: Descriptors are cheaper than files open in HDF5.
MAX_DESCRIPTORS = 64
#: Fewer samples at once are left to HDF5: they are not worth loading a compiler.
MIN_RAW = 8
#: Bytes of a batch that is held in one piece.
MAX_BLOCK = 64 * _file.MIB


# -- open files ----------------------------------------------------------------------------------


class _Open:
    """A file open for reading, with the datasets looked up so far."""

    def __init__(self, file: h5py.File, checked: set[_Part]) -> None:
        self.file, self.checked = file, checked
        self._datasets: dict[str, h5py.Dataset] = {}
        self._meshes: RaggedReader | None = None
        self._raw: dict[str, RawChunks | None] = {}

    @property
    def meshes(self) -> RaggedReader:
        """Meshes of the samples, for layout ``"ragged"``."""
        if self._meshes is None:
            with translate_h5(self.file.filename, "mesh"):
                self._meshes = RaggedReader(self.file)
        return self._meshes

    def dataset(self, path: str) -> h5py.Dataset:
        """Dataset in this very file.

        Raises
        ------
        SchemaError
        """
        if path not in self._datasets:
            with translate_h5(self.file.filename, path):
                self._datasets[path] = _file.get_dataset(self.file, path)
        return self._datasets[path]

    def raw(self, path: str) -> RawChunks | None:
        """Chunks of a dataset that can be read without HDF5."""
        if path not in self._raw:
            ds = self.dataset(path)
            if chunk_offsets(ds) is None:  # do not load a compiler for nothing
                self._raw[path] = None
            else:
                from ._raw import RawChunks

                self._raw[path] = RawChunks.of(ds)
        return self._raw[path]

    def close(self) -> None:
        """Close the file and with it the datasets."""
        self._datasets.clear()
        self._raw.clear()
        self._meshes = None
        self.file.close()


class _Handles:
    """The last few files read, per process: handles never cross a fork."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._pid = os.getpid()
        self._open: OrderedDict[str, tuple[tuple[int, ...], _Open]] = OrderedDict()
        #: Stamps of files that were found sound, and what of them agrees with the index.
        self._sound: dict[str, tuple[tuple[int, ...], set[_Part]]] = {}
        self._descriptors: OrderedDict[str, tuple[tuple[int, ...], Descriptor]] = OrderedDict()

    def get(self, path: Path) -> _Open:
        """Open file; hold `lock` while using it."""
        if self._pid != os.getpid():  # forked: the parent's handles are not ours
            self._open = OrderedDict()
            self._pid = os.getpid()
        key = str(path)
        try:
            st = os.stat(key)
        except FileNotFoundError:
            raise MissingShardError(f"{path} is missing. Copy the whole directory.") from None
        stamp = (st.st_dev, st.st_ino, st.st_mtime_ns, st.st_size)
        cached = self._open.get(key)
        if cached is not None and cached[0] == stamp:
            self._open.move_to_end(key)
            return cached[1]
        if cached is not None:  # replaced since
            self._open.pop(key)[1].close()
        while len(self._open) >= MAX_OPEN_FILES:
            self._open.popitem(last=False)[1][1].close()
        known = self._sound.get(key, ((), set()))
        file = _file.open_file(path, check=known[0] != stamp)
        if known[0] != stamp:
            known = self._sound[key] = stamp, set()
        opened = _Open(file, known[1])
        self._open[key] = (stamp, opened)
        return opened

    def descriptor(self, key: str, stamp: tuple[int, ...]) -> Descriptor | None:
        """File open for reading past HDF5; None if it is not the one with this stamp."""
        try:
            if _stamp(os.stat(key)) != stamp:
                return None
            with self.lock:
                cached = self._descriptors.get(key)
                if cached is not None and cached[0] == stamp:
                    self._descriptors.move_to_end(key)
                    return cached[1]
                from ._raw import Descriptor

                file = Descriptor(key, stamp, _stamp)
                self._descriptors[key] = stamp, file
                self._descriptors.move_to_end(key)
                while len(self._descriptors) > MAX_DESCRIPTORS:
                    self._descriptors.popitem(last=False)
                return file
        except (OSError, ValueError):  # HDF5 shall say what is wrong
            return None

    def close(self) -> None:
        """Close all; HDF5 shares what it has cached of a file with whoever opens it again."""
        with self.lock:
            self._descriptors.clear()
            self._sound.clear()
            while self._open and self._pid == os.getpid():
                self._open.popitem()[1][1].close()

    def renew_lock(self) -> None:
        """Make a new lock: a thread of the parent may have held the old one at the fork."""
        self.lock = threading.RLock()


def _stamp(st: os.stat_result) -> tuple[int, ...]:
    return st.st_size, st.st_mtime_ns, st.st_ino


_HANDLES = _Handles()
os.register_at_fork(after_in_child=_HANDLES.renew_lock)


def close_files() -> None:
    """Close the files that this process keeps open for reading; they are opened again as needed."""
    _HANDLES.close()


# -- what a split consists of --------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A run of samples in one file."""

    path: Path
    first: int  # position of its first sample in the file
    n: int
    content_digest: str = ""  # of the whole file, from the manifest
    stamp: tuple[int, ...] = ()
    #: dataset -> runs of samples: the first, where it lies, and bytes to the next
    chunks: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class _Cut:
    """The part of each sample of a field that is wanted."""

    times: slice | None = None  # what the file reads, then every `step`-th of it
    step: int = 1
    space: tuple[slice, ...] = ()  # of the axes after time
    last: tuple[int, ...] | None = None  # entries of the last axis
    timed: bool = False

    @property
    def everything(self) -> bool:
        return self == _Cut(timed=self.timed)

    def read(self, ds: h5py.Dataset, rows: slice | Any) -> np.ndarray:
        """Rows of a dataset; without rows the dataset of a field that does not vary."""
        lead = () if rows is Ellipsis else (rows,)
        u = ds[(*lead, self.times)] if self.times is not None else ds[rows]
        index = ((slice(None),) if lead else ()) + (
            (slice(None, None, self.step),) if self.timed else ()
        )
        u = u[index + self.space]
        return u if self.last is None else u[..., list(self.last)]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a sample's part."""
        whole = np.broadcast_to(np.empty(()), shape)
        if self.times is not None:
            whole = whole[self.times]
        whole = whole[((slice(None, None, self.step),) if self.timed else ()) + self.space]
        return whole.shape if self.last is None else (*whole.shape[:-1], len(self.last))


@dataclass(frozen=True)
class _Plan:
    """What reading some fields and scalars takes."""

    names: tuple[str, ...]
    paths: dict[str, str] = field(default_factory=dict)  # of what lies in the files
    fields: dict[str, str] = field(default_factory=dict)  # what the first axis counts
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of a sample, if all have it
    scalars: dict[str, float] = field(default_factory=dict)


class Split:
    """The samples of one split, in the order of their ids.

    Holds no open files, so it can be pickled and used after a fork; files are opened when
    read, at most 16 at a time per process.

    Examples
    --------
    >>> split = open_dataset("darcy")["train"]  # doctest: +SKIP
    >>> split[17]["outputs"]["u"].shape, split.read([3, 1, 2])["a"].shape  # doctest: +SKIP
    ((128, 128), (3, 128, 128))

    In a ragged dataset samples have different numbers of points, and `read` returns lists.
    """

    def __init__(self, name: str, schema: DatasetSchema, parts: Sequence[_Part]) -> None:
        self.name, self.schema = name, schema
        self._parts = tuple(p for p in parts if p.n)
        self._starts = np.cumsum([0, *(p.n for p in self._parts)])
        self._ids: np.ndarray | None = None
        self._tables: dict[str, np.ndarray] = {}
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"<Split {self.name!r}: {len(self)} samples of {self.schema.problem}>"

    @property
    def files(self) -> tuple[Path, ...]:
        """Files the samples lie in."""
        return tuple(dict.fromkeys(p.path for p in self._parts))

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """Samples in each file, in order."""
        return tuple(p.n for p in self._parts)

    @property
    def ids(self) -> np.ndarray:
        """Sample ids, int64, shape (len,)."""
        if self._ids is None:
            self._ids = self._column("sample", np.dtype("<i8"))
        return self._ids

    def quality(self, name: str) -> np.ndarray:
        """Return a column of ``/quality``, shape (len,).

        Parameters
        ----------
        name : str
            ``residual``, ``iterations``, ``converged``, ``discretization_error``,
            ``wall_time``, ``seed``, ``digest``, ``input_digest``; ``group`` and ``time_error``
            if stored.

        Raises
        ------
        SchemaError
            There is no such column.
        """
        return self._column(f"quality/{name}", np.dtype(_file.QUALITY.get(name, "<i8")))

    def _column(self, path: str, empty: np.dtype) -> np.ndarray:
        out = []
        for k, p in enumerate(self._parts):
            with _HANDLES.lock:
                opened = self._open(k)
                if path == "quality/time_error" and not _file.has(opened.file, path):
                    out.append(np.full(p.n, np.nan))  # none in this shard
                    continue
                ds = opened.dataset(path)
                with translate_h5(p.path, path):
                    out.append(ds[p.first : p.first + p.n])
        return np.concatenate(out) if out else np.empty(0, empty)

    def _open(self, k: int) -> _Open:
        """File of part `k`, checked against what the manifest says when it was opened."""
        p = self._parts[k]
        opened = _HANDLES.get(p.path)
        if p not in opened.checked:
            with translate_h5(p.path):
                found = str(opened.file.attrs.get("content_digest", ""))
                n = _file.check_shapes(opened.file, self.schema)
            if p.first + p.n > n or (p.content_digest and found != p.content_digest):
                raise DatasetError(
                    f"{p.path}: its content is not what dataset.json says ({n} samples, expected "
                    f"{p.n}); the index is out of date. Rebuild it with: opkit data index"
                )
            opened.checked.add(p)
        return opened

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Return one sample.

        Returns
        -------
        dict
            ``id`` (int), ``inputs`` and ``outputs`` (name -> array in the stored dtype,
            shape ``([T], *space, [D], [D])``), ``coords`` (axis -> (n,) array, ``time`` too;
            with a mesh ``points``, shape (P, D)), ``time`` (of this sample, shape (T,)),
            ``weights`` (quadrature weights, shape of the grid or (P,)), ``params`` (scalars),
            and with a mesh ``mesh`` (`solvers.meshes.Mesh`).

        Raises
        ------
        IndexError
        """
        if isinstance(i, slice | list | tuple | np.ndarray):
            raise TypeError(f"one sample has one index, got {i!r}; use read() for several")
        schema = self.schema
        scalars = [s.name for s in schema.scalars]
        values = self._read([i], dict.fromkeys((*schema.inputs, *schema.outputs, *scalars)), {})
        position = int(values.pop("")[0])
        k, local = self._locate(position)
        with _HANDLES.lock, translate_h5(self._parts[k].path, "sample"):
            sample_id = int(self._open(k).dataset("sample")[local])
        time = self.times(position)
        coords: dict[str, np.ndarray] = {"time": time}
        coords |= {a.name: a.coords for a in schema.grid.axes}
        coords |= {a.name: np.array(a.coords) for a in schema.axes}
        weights, mesh = schema.grid.weights, {}
        if schema.layout in ("mesh", "ragged"):
            mesh = {"mesh": (m := self.mesh(position))}
            coords["points"], weights = m.points, m.point_weights
        return {
            "id": sample_id,
            "inputs": {n: values[n][0] for n in schema.inputs},
            "outputs": {n: values[n][0] for n in schema.outputs},
            "coords": coords,
            "time": time,
            "weights": weights,
            "params": {n: float(values[n][0]) for n in scalars},
            **mesh,
        }

    def mesh(self, i: int) -> Mesh:
        """Return the mesh of one sample.

        Raises
        ------
        IndexError
        SchemaError
            The layout has no mesh, or the stored one is broken.
        """
        i = self._position(i)
        if self.schema.mesh is not None:
            return self.schema.mesh
        if self.schema.layout != "ragged":
            raise SchemaError(f"split {self.name!r} has no mesh: layout {self.schema.layout!r}.")
        k, local = self._locate(i)
        with _HANDLES.lock, translate_h5(self._parts[k].path, "mesh"):
            return self._open(k).meshes.read(local)

    def times(self, i: int) -> np.ndarray:
        """Return the stored times of one sample, float64, shape (T,)."""
        i = self._position(i)
        if not self.schema.time_per_sample:
            return np.array(self.schema.time)
        k, local = self._locate(i)
        with _HANDLES.lock, translate_h5(self._parts[k].path, "time"):
            return np.asarray(self._open(k).dataset("time")[local], np.float64)

    def _position(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(
                f"index {i} is out of range: split {self.name!r} has {len(self)} samples"
            )
        return i % len(self)

    def _locate(self, i: int) -> tuple[int, int]:
        k = int(np.searchsorted(self._starts, i, side="right")) - 1
        return k, self._parts[k].first + i - int(self._starts[k])

    def read(
        self,
        indices: Sequence[int] | np.ndarray | slice,
        names: Iterable[str] | None = None,
        *,
        window: slice | None = None,
        stride: int | Sequence[int] | None = None,
        components: Mapping[str, Sequence[int | str]] | None = None,
    ) -> dict[str, Any]:
        """Several samples at once, or the same part of each.

        Parameters
        ----------
        indices : sequence of int, or slice
            Positions in the split, in any order, repeated or negative ones too.
        names : iterable of str, optional
            Fields and scalars; default the inputs and outputs.
        window : slice, optional
            Of the stored times, forwards; only these are read.
        stride : int or sequence of int, optional
            Every so many points of each spatial axis: the fields at a lower resolution, by
            injection. The coarse points must be points of the grid, ends included.
        components : mapping of str to sequence, optional
            Field -> entries of its last axis, by number or by label.

        Returns
        -------
        dict of str to ndarray
            ``(len(indices), *sample_shape)`` each, in the order asked; for fields on the points
            of a ragged dataset a list of arrays ``([T], P, [D], [D])``.

        Raises
        ------
        IndexError
        SchemaError
            Unknown name, or a part that the field does not have.
        ChecksumError
            Damaged data; the message names the sample.
        """
        if isinstance(indices, slice):
            indices = range(len(self))[indices]
        schema = self.schema
        wanted = dict.fromkeys(names if names is not None else (*schema.inputs, *schema.outputs))
        out = self._read(indices, wanted, self._cuts(wanted, window, stride, components or {}))
        del out[""]
        return out

    def _cuts(
        self,
        names: Iterable[str],
        window: slice | None,
        stride: int | Sequence[int] | None,
        components: Mapping[str, Sequence[int | str]],
    ) -> dict[str, _Cut]:
        """Part of each field; nothing where all of it is wanted."""
        if window is None and stride is None and not components:
            return {}
        schema = self.schema
        names = list(names)
        for name in components:
            if name not in names:
                raise SchemaError(f"components of {name!r}: it is not among {', '.join(names)}.")
        times, step = None, 1
        if window is not None:
            start, stop, step = window.indices(len(schema.time))
            if step < 1 or start >= stop:
                raise SchemaError(
                    f"window={window}: need a forward slice of the {len(schema.time)} times."
                )
            times = slice(start, stop)
        steps = _strides(schema, stride) if stride is not None else {}
        out = {}
        for name in names:
            f = next((f for f in schema.fields if f.name == name), None)
            if f is None:
                if name in components:
                    raise SchemaError(f"components of {name!r}: a scalar has none.")
                continue
            timed = f.time_varying
            space = tuple(
                slice(None, None, steps.get(d, 1)) for d in schema.sample_dims(name)[timed:]
            )
            last = _entries(schema, f, components[name]) if name in components else None
            cut = _Cut(
                times if timed else None, step if timed else 1,
                space if any(s.step != 1 for s in space) else (), last, timed,
            )  # fmt: skip
            if not cut.everything:
                out[name] = cut
        return out

    def _read(
        self,
        indices: Sequence[int] | np.ndarray,
        names: Iterable[str],
        cuts: Mapping[str, _Cut],
    ) -> dict[str, Any]:
        """`read`; the positions, made positive, come under ``""``."""
        schema = self.schema
        index = np.asarray(indices)
        if index.size == 0:
            index = index.astype(np.int64)
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise IndexError(f"indices {indices!r}: need a sequence of integers")
        index = index.astype(np.int64)
        if len(index) and not -len(self) <= index.min() <= index.max() < len(self):
            bad = (index < -len(self)) | (index >= len(self))
            raise IndexError(
                f"index {index[bad][0]} is out of range: split {self.name!r} has {len(self)} "
                "samples"
            )
        index[index < 0] += len(self)
        plan = self._plan(tuple(names))
        todo, fields = plan.paths, plan.fields
        out: dict[str, Any] = {"": index}
        for name in plan.names:
            if name in plan.scalars:
                out[name] = np.full(len(index), plan.scalars[name])
            else:
                out[name] = [None] * len(index)
        shapes = {
            name: (len(index), *(cuts[name].shape(shape) if name in cuts else shape))
            for name, shape in plan.shapes.items()
        }
        out |= _arrays(shapes, np.dtype(schema.dtype))
        whole = {n: p for n, p in todo.items() if n in fields and n not in cuts}
        if len(index) >= MIN_RAW and whole:
            left = self._read_past_hdf5(index, whole, out)
            if len(todo) == len(whole) and not left.any():
                return out
        else:
            left = np.ones(len(index), np.bool_)
        part = np.searchsorted(self._starts, index, side="right") - 1
        for k in np.unique(part) if len(todo) > len(whole) else np.unique(part[left]):
            where = np.flatnonzero(part == k)
            local = index[where] - self._starts[k] + self._parts[k].first
            order = np.argsort(local, kind="stable")
            where, local = where[order], local[order]
            with _HANDLES.lock:
                opened = self._open(int(k))
                for name, path in todo.items():
                    if name in whole and not left[where].any():
                        continue
                    ds = opened.dataset(path)
                    cut = cuts.get(name)
                    rows = fields.get(name, "sample")
                    if rows in ("point", "cell"):
                        offsets = opened.meshes.offsets[rows]
                        spans = [(int(offsets[i]), int(offsets[i + 1])) for i in local]
                        self._fill_ragged(ds, path, spans, local, where, out[name], cut, name)
                    elif rows == "":
                        with translate_h5(self._parts[k].path, path):
                            out[name][where] = ds[...] if cut is None else cut.read(ds, ...)
                    else:
                        raw = opened.raw(path) if cut is None and len(index) >= MIN_RAW else None
                        if raw is None or not raw.read(local, where, out[name]):
                            self._fill(ds, path, local, where, out[name], cut)
        return out

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        """Say what reading some fields and scalars takes.

        Raises
        ------
        SchemaError
            Unknown name.
        """
        if names in self._plans:
            return self._plans[names]
        schema = self.schema
        fields = {f.name: f for f in schema.fields}
        scalars = {s.name: s for s in schema.scalars}
        plan = _Plan(names)
        for name in names:
            if name in fields:
                plan.fields[name] = rows = _file.rows_of(schema, fields[name])
                if rows not in ("point", "cell"):
                    plan.shapes[name] = schema.sample_shape(name)
                plan.paths[name] = _file.field_path(schema, name)
            elif name in scalars:
                value = scalars[name].value
                plan.scalars[name] = math.nan if value is None else value
                if value is None:
                    plan.paths[name] = f"scalars/{name}"
            else:
                raise SchemaError(
                    f"no field or scalar {name!r}.{suggest(name, [*fields, *scalars])} "
                    f"The dataset has {', '.join([*fields, *scalars])}."
                )
        self._plans[names] = plan
        return plan

    def _read_past_hdf5(
        self, index: np.ndarray, paths: Mapping[str, str], out: Mapping[str, Any]
    ) -> np.ndarray:
        """Read what lies where the index says, in files untouched since it was made.

        Returns
        -------
        ndarray of bool, shape of `index`
            Samples left to HDF5, which also says what is wrong with them.
        """
        left = np.ones(len(index), np.bool_)
        order = np.argsort(index, kind="stable")
        wanted = index[order]
        files: list[Descriptor] = []
        fds = np.full(len(self._parts), -1, np.int32)
        for k in set((np.searchsorted(self._starts, wanted, side="right") - 1).tolist()):
            p = self._parts[k]
            if all(path in p.chunks for path in paths.values()):
                file = _HANDLES.descriptor(str(p.path), p.stamp)
                if file is not None:
                    files.append(file)  # open as long as this is
                    fds[k] = file.fd
        if not files:
            return left
        from ._raw import read_chunks

        tables = [self._places(path) for path in paths.values()]
        arrays = [out[name] for name in paths]
        left[order] = ~read_chunks(fds, self._starts[:-1], wanted, order, tables, arrays)
        return left

    def _places(self, path: str) -> np.ndarray:
        """Return runs of samples of all files: the first, where it lies, bytes to the next."""
        if path not in self._tables:
            none = np.array([[0, -1, 0]])
            tables = [p.chunks.get(path, none).copy() for p in self._parts]
            for table, start in zip(tables, self._starts, strict=False):
                table[:, 0] += start
            self._tables[path] = np.concatenate(tables)
        return self._tables[path]

    def _fill_ragged(
        self,
        ds: h5py.Dataset,
        path: str,
        spans: Sequence[tuple[int, int]],
        local: np.ndarray,
        where: np.ndarray,
        out: list[Any],
        cut: _Cut | None,
        name: str,
    ) -> None:
        """One read a sample, which is one slice."""
        schema = self.schema
        spec = schema.field(name)
        for (a, b), to, i in zip(spans, where, local, strict=True):
            try:
                if cut is not None and cut.times is not None:
                    u = ds[a:b, cut.times][:, :: cut.step]
                else:
                    u = ds[a:b]
            except (OSError, RuntimeError) as e:
                with translate_h5(ds.file.filename, "sample"):
                    sample_id = int(_file.get_dataset(ds.file, "sample")[int(i)])
                with translate_h5(ds.file.filename, f"{path}, sample id {sample_id}"):
                    raise e
            u = _file.from_file(schema, spec, u)
            out[to] = u if cut is None or cut.last is None else u[..., list(cut.last)]

    def _fill(
        self,
        ds: h5py.Dataset,
        path: str,
        local: np.ndarray,
        where: np.ndarray,
        out: np.ndarray,
        cut: _Cut | None = None,
    ) -> None:
        """``out[where] = ds[local]``, `local` sorted, one read per run of neighbors."""
        cuts = np.flatnonzero(np.diff(local) != 1) + 1
        for rows, to in zip(np.split(local, cuts), np.split(where, cuts), strict=True):
            a, b = int(rows[0]), int(rows[-1]) + 1
            try:
                if cut is not None:
                    out[to] = cut.read(ds, slice(a, b))
                elif len(to) == 1:
                    out[to[0]] = ds[a]
                elif np.all(np.diff(to) == 1):
                    ds.read_direct(out, np.s_[a:b], np.s_[int(to[0]) : int(to[-1]) + 1])
                else:
                    out[to] = ds[a:b]
            except (OSError, RuntimeError) as e:
                self._blame(ds, path, range(a, b), e)

    def _blame(self, ds: h5py.Dataset, path: str, rows: Iterable[int], error: Exception) -> None:
        """Raise with the id of the sample that cannot be read."""
        where = ds.file.filename
        with translate_h5(where, "sample"):
            ids = _file.get_dataset(ds.file, "sample")[...]
        broken = [i for i in range(len(ids)) if not _readable(ds, i)]
        hit = next((i for i in rows if i in broken), None)
        what = f"{path}, sample id {ids[hit]}" if hit is not None else path
        try:
            with translate_h5(where, what):
                raise error
        except ChecksumError as e:
            raise ChecksumError(
                f"{e} {len(ids) - len(broken)} other samples of the file are readable; delete it "
                "and run opkit generate --resume to make it again."
            ) from error


def _arrays(shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Arrays to fill; those of a batch in one piece of memory.

    The C library gives several pieces back to the system, batch after batch, and to be given clean
    ones costs half as much as reading.
    """
    sizes = [-(-math.prod(shape) * dtype.itemsize // 64) * 64 for shape in shapes.values()]
    if sum(sizes) > MAX_BLOCK:  # who keeps one array shall not keep much else
        return {name: np.empty(shape, dtype) for name, shape in shapes.items()}
    block, out, end = np.empty(sum(sizes), np.uint8), {}, 0
    for (name, shape), size in zip(shapes.items(), sizes, strict=True):
        n = math.prod(shape) * dtype.itemsize
        out[name] = block[end : end + n].view(dtype).reshape(shape)
        end += size
    return out


def _strides(schema: DatasetSchema, stride: int | Sequence[int]) -> dict[str, int]:
    """Points to step over, by axis.

    Raises
    ------
    SchemaError
        The coarse grid is not nested in the fine one.
    """
    axes = schema.grid.axes
    if not axes:
        raise SchemaError(f"stride={stride}: for layout 'grid' alone, this is {schema.layout!r}.")
    steps = [stride] * len(axes) if isinstance(stride, int | np.integer) else list(stride)
    if len(steps) != len(axes):
        raise SchemaError(f"stride={stride}: the grid has {len(axes)} axes.")
    for axis, k in zip(axes, steps, strict=True):
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise SchemaError(f"stride={stride}: need integers >= 1.")
        cells = axis.n if axis.periodic else axis.n - 1
        if k > 1 and axis.location != "node":
            raise SchemaError(
                f"stride={stride}: cells of axis {axis.name!r} have no coarser centers in common."
            )
        if cells % k or cells // k < (2 if axis.periodic else 1):
            raise SchemaError(
                f"stride={stride}: axis {axis.name!r} has {cells} intervals; need a divisor of it."
            )
    return {a.name: int(k) for a, k in zip(axes, steps, strict=True)}


def _entries(
    schema: DatasetSchema, spec: FieldSpec, entries: Sequence[int | str]
) -> tuple[int, ...]:
    """Positions along the last axis of a field."""
    if not spec.rank and not spec.dims:
        raise SchemaError(f"components of {spec.name!r}: a scalar field has none.")
    n = schema.sample_shape(spec.name)[-1]
    out = []
    for e in entries:
        if isinstance(e, str) and e in spec.labels:
            e = spec.labels.index(e)
        if isinstance(e, str | bool) or not 0 <= e < n:
            known = f", or {', '.join(spec.labels)}" if spec.labels else ""
            raise SchemaError(f"components of {spec.name!r}: {e!r}, need 0 to {n - 1}{known}.")
        out.append(int(e))
    return tuple(out)


def _readable(ds: h5py.Dataset, i: int) -> bool:
    try:
        ds[i]
    except (OSError, RuntimeError):
        return False
    return True


class Dataset:
    """A dataset on disk.

    Attributes
    ----------
    path : Path
    schema : DatasetSchema
    manifest : dict
        ``dataset.json``, or what it would say.
    config : dict
        Resolved configuration the data were made with.
    splits : tuple of str
    content_digest : str
    """

    def __init__(
        self,
        path: Path,
        schema: DatasetSchema,
        manifest: dict[str, Any],
        config: dict[str, Any],
        parts: Mapping[str, Sequence[_Part]],
    ) -> None:
        self.path, self.schema, self.manifest, self.config = path, schema, manifest, config
        self._splits = {name: Split(name, schema, p) for name, p in parts.items()}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._splits)

    @property
    def content_digest(self) -> str:
        """SHA-256 over ids and contents of all samples."""
        return str(self.manifest["content_digest"])

    def __getitem__(self, split: str) -> Split:
        """Return a split by name; ``"val"`` means ``"valid"``.

        Raises
        ------
        DatasetError
            The dataset has no such split.
        """
        name = "valid" if split == "val" else split
        if name not in self._splits:
            have = ", ".join(self._splits)
            raise DatasetError(f"{self.path} has no split {split!r}. It has: {have}.")
        return self._splits[name]

    def __contains__(self, split: str) -> bool:
        return ("valid" if split == "val" else split) in self._splits

    def __repr__(self) -> str:
        sizes = ", ".join(f"{n} {len(s)}" for n, s in self._splits.items())
        return f"<Dataset {self.path}: {self.schema.problem}, {sizes}>"


# -- opening -------------------------------------------------------------------------------------


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset for reading.

    Parameters
    ----------
    path : path
        The directory, a shard, a virtual view (``train.h5``; the shards behind it are read) or
        a plain exported file.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        No such path.
    NotAnOpkitFileError, FormatVersionError, TruncatedFileError, ChecksumError
    IncompleteShardError, MissingShardError, SchemaError
        As their names say; each message names file and object.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory")
    return _open_directory(path) if path.is_dir() else _open_file(path)


def safe_source(root: Path, name: str, where: Path) -> Path:
    """Return the path of a file that a manifest or view names, which must lie below `root`.

    Raises
    ------
    SchemaError
        Absolute, or with ``..`` in it.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name:
        raise SchemaError(f"{where}: names the file {name!r}, outside its directory; not followed.")
    return root / pure


def read_manifest(root: Path) -> dict[str, Any]:
    """``dataset.json``, checked for format and version.

    Raises
    ------
    NotAnOpkitFileError, FormatVersionError, SchemaError
    """
    path = root / "dataset.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise SchemaError(
            f"{path}: not JSON ({e}). Rebuild it with: opkit data index {root}"
        ) from e
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise NotAnOpkitFileError(f"{path}: not an opkit dataset ('format' is not {FORMAT!r}).")
    _file.check_version(str(manifest.get("format_version")), path)
    try:
        for info in manifest["splits"].values():
            for s in info["shards"]:
                safe_source(root, s["file"], path)
                int(s["n"])
        str(manifest["content_digest"])
    except (KeyError, TypeError, AttributeError) as e:
        raise SchemaError(
            f"{path}: incomplete ({e}). Rebuild it with: opkit data index {root}"
        ) from e
    return manifest


def _open_directory(root: Path) -> Dataset:
    if (root / "dataset.json").exists():
        manifest = read_manifest(root)
    else:
        facts = {s: [shard_facts(p) for p in ps] for s, ps in find_shards(root).items()}
        manifest = build_manifest(root, facts, checksums=False)
    parts: dict[str, list[_Part]] = {}
    for split, info in manifest["splits"].items():
        position = 0
        parts[split] = []
        for s in info["shards"]:
            path = root / s["file"]
            if not path.exists():
                raise MissingShardError(
                    f"{root / 'dataset.json'}: {s['file']} is missing (samples {position} to "
                    f"{position + s['n'] - 1} of {split}). Copy the whole directory, or make it "
                    "again with: opkit generate --resume"
                )
            stamp, chunks = _chunks(s)
            parts[split].append(_Part(path, 0, s["n"], s.get("content_digest", ""), stamp, chunks))
            position += s["n"]
    files = [p.path for split in parts.values() for p in split]
    if not files:
        raise NotAnOpkitFileError(f"{root}: not an opkit dataset (no shards in it).")
    with _file.open_file(files[0]) as f, translate_h5(files[0]):
        schema = _file.read_schema(f)
        config = _file.provenance_json(f, "config")
    return Dataset(root, schema, manifest, config, parts)


def _chunks(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """Stamp of a shard and the places of its samples; nothing if they are not in order."""
    try:
        if entry["chunks_digest"] != chunks_digest(entry):
            return (), {}
        tables = {k: np.array(v, np.int64).reshape(-1, 3) for k, v in entry["chunks"].items()}
        mtime, inode = entry["stamp"]
        for first in (t[:, 0] for t in tables.values()):
            if first[0] != 0 or (np.diff(first) < 1).any():
                return (), {}
        return (entry["bytes"], mtime, inode), tables
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        return (), {}


def _open_file(path: Path) -> Dataset:
    with _file.open_file(path) as f, translate_h5(path):
        view = bool(f.attrs.get("view", False))
        schema = _file.read_schema(f, virtual=view)
        n = _file.check_shapes(f, schema, virtual=view)
        split = str(_file.attr(f, "split"))
        ids = _file.get_dataset(f, "sample")[...]
        digest = str(_file.attr(f, "content_digest"))
        config = _file.provenance_json(f, "config")
        prov = dict(_file.get(f, "provenance").attrs)
        if view:
            parts = {split: _view_parts(f, path, schema)}
        elif _file.has(f, "splits"):
            parts = {
                name: [_positions(path, name, _file.get_dataset(f, f"splits/{name}")[...], n)]
                for name in _by_code(f, ids)
            }
        else:
            parts = {split: [_Part(path, 0, n)]}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dataset_name": schema.problem,
        "title": schema.title,
        "problem": schema.problem,
        "layout": schema.layout,
        "config_sha256": str(prov.get("config_sha256", "")),
        "seed": config.get("seed"),
        "content_digest": digest,
        "inputs": list(schema.inputs),
        "outputs": list(schema.outputs),
        "resolution": list(schema.grid.shape),
        "splits": {
            name: {"written": sum(p.n for p in ps), "shards": []} for name, ps in parts.items()
        },
    }
    return Dataset(path, schema, manifest, config, parts)


def _by_code(f: h5py.File, ids: np.ndarray) -> list[str]:
    """Names of the splits of a plain file in the order of their samples."""
    group = _file.get_group(f, "splits")
    first = {
        name: int(pos[0]) if (pos := _file.get_dataset(f, f"splits/{name}")[...]).size else len(ids)
        for name in group
    }
    return sorted(first, key=lambda name: (first[name], name))


def _positions(path: Path, name: str, positions: np.ndarray, n: int) -> _Part:
    if len(positions) == 0:
        return _Part(path, 0, 0)
    a, b = int(positions[0]), int(positions[-1]) + 1
    if not (0 <= a < b <= n and np.array_equal(positions, np.arange(a, b))):
        raise SchemaError(f"{path}: splits/{name} is not a run of positions below {n}.")
    return _Part(path, a, b - a)


def _view_parts(f: h5py.File, path: Path, schema: DatasetSchema) -> list[_Part]:
    """Find the shards behind a view; all must exist."""
    varying = [s for s in schema.fields if s.sample_varying]
    if not varying:
        raise SchemaError(f"{path}: a view without a field that varies; open the directory.")
    ds = _file.get_dataset(f, _file.field_path(schema, varying[0].name), virtual=True)
    sources = []
    for v in ds.virtual_sources() if ds.is_virtual else []:
        lower, upper = v.vspace.get_select_bounds()
        sources.append((lower[0], upper[0] + 1, v.file_name))
    parts, ids, position = [], f["sample"][...], 0
    for a, b, name in sorted(sources):
        shard = safe_source(path.parent, name, path)
        if a != position:
            raise SchemaError(f"{path}: {ds.name} names no shard for samples {position} to {a}.")
        if not shard.exists():
            raise MissingShardError(
                f"{path}: {name} is missing (samples {ids[a]}-{ids[b - 1]}). HDF5 would show fill "
                "values in its place. Copy the whole directory, or use "
                "opkit data export h5."
            )
        parts.append(_Part(shard, 0, b - a))
        position = b
    if position != len(ids):
        raise SchemaError(f"{path}: {ds.name} names no shard for samples from {position} on.")
    # a shard that was replaced since would give other samples under the same positions
    for p, start in zip(parts, np.cumsum([0, *(p.n for p in parts)]), strict=False):
        with _file.open_file(p.path) as s, translate_h5(p.path):
            if not np.array_equal(_file.get_dataset(s, "sample")[...], ids[start : start + p.n]):
                raise DatasetError(
                    f"{path}: {p.path.name} holds other samples than when the view was made. "
                    f"Rebuild it with: opkit data index {path.parent}"
                )
    return parts
