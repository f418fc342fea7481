"""Meshes in a file: one for all samples, or the meshes of all samples one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from solvers.meshes import Mesh

from ._basic import KIB, MIB, column, filters, get_dataset, has, load, set_attrs
from ._chunks import write_block
from .errors import SchemaError

__all__ = [
    "RaggedMeshes",
    "RaggedReader",
    "Rows",
    "read_mesh",
    "row_chunks",
    "sample_slices",
    "write_mesh",
]

#: name -> dtype of the tables of /mesh; the cells' are left out of point clouds.
POINT_TABLES = {"points": "<f8", "point_weights": "<f8"}
CELL_TABLES = {"connectivity": "<i8", "cell_offsets": "<i8", "cell_types": "u1"}


def row_chunks(row: tuple[int, ...], itemsize: int, *, timed: bool) -> tuple[int, ...]:
    """Chunk of a dataset that grows by rows, the entries at one point: about 128 KiB.

    Small enough that a sample, which begins and ends anywhere, costs little more than itself.
    """
    size = max(1, int(np.prod(row, dtype=np.int64)) * itemsize)
    if timed and size > 4 * MIB:  # very many times
        row = (max(1, 4 * MIB * row[0] // size), *row[1:])
    return (max(1, 128 * KIB // size), *row)


class Rows:
    """A dataset that grows along its first axis, each chunk encoded once.

    Parameters
    ----------
    ds : h5py.Dataset
        Chunked, no rows yet, unlimited along its first axis.
    """

    def __init__(self, ds: h5py.Dataset) -> None:
        self._ds = ds
        self._block = np.empty((ds.chunks[0], *ds.shape[1:]), ds.dtype)
        self._count = 0
        self.n = 0

    def append(self, rows: np.ndarray) -> None:
        """Take in rows."""
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + len(self._block) - self._count)
            self._block[self._count : self._count + stop - start] = rows[start:stop]
            self._count += stop - start
            self.n += stop - start
            start = stop
            if self._count == len(self._block):
                self.flush()

    def flush(self) -> None:
        """Write what has been collected; last, unless a chunk is full."""
        if not self._count:
            return
        first = self.n - self._count
        self._ds.resize(self.n, axis=0)
        if self._ds.compression is None:
            self._ds[first:] = self._block[: self._count]
        else:
            write_block(self._ds, first, self._block[: self._count])
        self._count = 0


def growing(
    f: h5py.Group, name: str, row: tuple[int, ...], dtype: Any, compression: str | None,
    *, timed: bool = False,
) -> h5py.Dataset:  # fmt: skip
    """Create a dataset without rows that can grow."""
    dtype = np.dtype(dtype)
    return f.create_dataset(
        name,
        (0, *row),
        dtype,
        maxshape=(None, *row),
        chunks=row_chunks(row, dtype.itemsize, timed=timed),
        **filters(compression),
    )


# -- one mesh ------------------------------------------------------------------------------------


def write_mesh(f: h5py.File, mesh: Mesh) -> None:
    """Write ``/mesh`` of layout ``"mesh"``; the scales ``point`` and ``cell`` are there."""
    group = f.create_group("mesh")
    names = [*POINT_TABLES, *(CELL_TABLES if mesh.n_cells else ())]
    for name in names:
        values = getattr(mesh, name)
        chunks = row_chunks(values.shape[1:], values.dtype.itemsize, timed=False)
        chunks = (min(chunks[0], len(values)), *chunks[1:])
        group.create_dataset(name, data=values, chunks=chunks, **filters("gzip"))
    set_attrs(group["points"], {"units": mesh.units})
    _attach(f, names)


def _attach(f: h5py.File, names: list[str]) -> None:
    for name in ("points", "point_weights"):
        f[f"mesh/{name}"].dims[0].attach_scale(f["point"])
    f["mesh/points"].dims[1].attach_scale(f["component"])
    if "cell_types" in names:
        f["mesh/cell_types"].dims[0].attach_scale(f["cell"])


def read_mesh(f: h5py.File) -> Mesh:
    """`Mesh` of layout ``"mesh"``.

    Raises
    ------
    SchemaError
    """
    arrays = {n: load(get_dataset(f, f"mesh/{n}")) for n in POINT_TABLES}
    if has(f, "mesh/connectivity"):
        arrays |= {n: load(get_dataset(f, f"mesh/{n}")) for n in CELL_TABLES}
    _check_dtypes(f, arrays)
    return _mesh(f, arrays, _units(f))


def _units(f: h5py.File) -> str:
    attrs = get_dataset(f, "mesh/points").attrs
    if "units" not in attrs:
        raise SchemaError(f"{f.filename}: mesh/points has no attribute 'units'.")
    return str(attrs["units"])


def _check_dtypes(f: h5py.File, arrays: dict[str, Any]) -> None:
    for name, dtype in (POINT_TABLES | CELL_TABLES).items():
        if name in arrays and arrays[name].dtype != np.dtype(dtype):
            raise SchemaError(
                f"{f.filename}: mesh/{name} has dtype {arrays[name].dtype}, expected {dtype}."
            )


def _mesh(f: h5py.File, arrays: dict[str, np.ndarray], units: str, of: str = "") -> Mesh:
    try:
        return Mesh(**arrays, units=units)  # type: ignore[arg-type]
    except ValueError as e:
        raise SchemaError(f"{f.filename}: mesh{of}: {e}.") from e


# -- a mesh a sample -----------------------------------------------------------------------------


class RaggedMeshes:
    """Writes the meshes of all samples one after the other.

    Parameters
    ----------
    f : h5py.File
    dim : int
    compression : {"gzip", None}
    """

    def __init__(self, f: h5py.File, dim: int, compression: str | None) -> None:
        self._group = f.create_group("mesh")
        self._compression = compression
        self._rows = {
            name: Rows(growing(self._group, name, (dim,) * (name == "points"), dtype, compression))
            for name, dtype in POINT_TABLES.items()
        }
        self._points, self._cells = [0], [0]
        self.units: str | None = None
        self.max_diameter = 0.0

    @property
    def n_points(self) -> int:
        """Points of all samples so far."""
        return self._points[-1]

    def add(self, mesh: Mesh) -> None:
        """Take in the mesh of the next sample, in the units of the first."""
        self.units = mesh.units
        if mesh.n_cells and "cell_types" not in self._rows:
            for name, dtype in CELL_TABLES.items():
                ds = growing(self._group, name, (), dtype, self._compression)
                self._rows[name] = Rows(ds)
            self._rows["cell_offsets"].append(np.zeros(1, "<i8"))
        for name in POINT_TABLES:
            self._rows[name].append(getattr(mesh, name))
        if mesh.n_cells:
            assert mesh.cell_offsets is not None
            shift = self._rows["connectivity"].n
            self._rows["connectivity"].append(np.asarray(mesh.connectivity))
            self._rows["cell_types"].append(np.asarray(mesh.cell_types))
            self._rows["cell_offsets"].append(mesh.cell_offsets[1:] + shift)
        self._points.append(self._points[-1] + mesh.n_points)
        self._cells.append(self._cells[-1] + mesh.n_cells)
        self.max_diameter = max(self.max_diameter, mesh.max_diameter)

    def finish(self) -> None:
        """Write offsets and scales; the scales' datasets are made here."""
        f = self._group.file
        for rows in self._rows.values():
            rows.flush()
        set_attrs(self._group["points"], {"units": self.units or "1"})
        has_cells = "cell_types" in self._rows
        for name, offsets in (
            ("sample_point_offsets", self._points),
            *((("sample_cell_offsets", self._cells),) if has_cells else ()),
        ):
            column(self._group, name, np.array(offsets, "<i8"), checksum=True)
        counts = {"point": self._points[-1]} | ({"cell": self._cells[-1]} if has_cells else {})
        for name, n in counts.items():
            scale = growing(f, name, (), "<i8", self._compression)
            numbers = Rows(scale)
            for a in range(0, n, MIB):
                numbers.append(np.arange(a, min(n, a + MIB), dtype="<i8"))
            numbers.flush()
            scale.make_scale(name)
        _attach(f, list(self._rows))


def sample_slices(f: h5py.File) -> dict[str, np.ndarray]:
    """Offsets of the samples, int64 (N + 1,), by ``"point"`` and ``"cell"``.

    Raises
    ------
    SchemaError
        They do not start at 0, fall, or do not end where the tables do.
    """
    out = {}
    ends = {"point": int(get_dataset(f, "mesh/points").shape[0]), "cell": 0}
    if has(f, "mesh/cell_types"):
        ends["cell"] = int(get_dataset(f, "mesh/cell_types").shape[0])
    n = int(get_dataset(f, "sample").shape[0])
    for kind, end in ends.items():
        path = f"mesh/sample_{kind}_offsets"
        if kind == "cell" and not has(f, path):
            out[kind] = np.zeros(n + 1, np.int64)
            continue
        o = load(get_dataset(f, path))
        if o.shape != (n + 1,) or o.dtype != np.dtype("<i8"):
            raise SchemaError(
                f"{f.filename}: {path} is {o.dtype} {o.shape}, expected int64 {n + 1}."
            )
        bad = np.flatnonzero(np.diff(o) < (kind == "point"))
        if bad.size:
            raise SchemaError(
                f"{f.filename}: {path} does not increase at index {int(bad[0]) + 1} "
                f"({o[bad[0]]} to {o[bad[0] + 1]})."
            )
        if o[0] != 0 or o[-1] != end:
            raise SchemaError(
                f"{f.filename}: {path} runs from {o[0]} to {o[-1]}, expected 0 to {end}."
            )
        out[kind] = o
    return out


class RaggedReader:
    """Reads the mesh of one sample at a time.

    Parameters
    ----------
    f : h5py.File

    Attributes
    ----------
    offsets : dict of str to ndarray
        Of the samples, by ``"point"`` and ``"cell"``.

    Raises
    ------
    SchemaError
    """

    def __init__(self, f: h5py.File) -> None:
        self._file = f
        self.offsets = sample_slices(f)
        self._tables = {n: get_dataset(f, f"mesh/{n}") for n in POINT_TABLES}
        if has(f, "mesh/cell_types"):
            self._tables |= {n: get_dataset(f, f"mesh/{n}") for n in CELL_TABLES}
        _check_dtypes(f, self._tables)
        points = self._tables["points"]
        shapes = {"points": points.shape if points.ndim == 2 else None}
        shapes["point_weights"] = points.shape[:1]
        if len(self._tables) > 2:
            shapes["connectivity"] = self._tables["connectivity"].shape[:1]
            shapes["cell_offsets"] = (self._tables["cell_types"].shape[0] + 1,)
        for name, shape in shapes.items():
            if self._tables[name].shape != shape:
                raise SchemaError(
                    f"{f.filename}: mesh/{name} has shape {self._tables[name].shape}"
                    + (f", expected {shape}." if shape else ", expected two axes.")
                )
        self.units = _units(f)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return int(self._tables["points"].shape[1])

    def read(self, i: int) -> Mesh:
        """Mesh of sample `i`.

        Raises
        ------
        SchemaError
        """
        a, b = (int(v) for v in self.offsets["point"][i : i + 2])
        arrays = {n: self._tables[n][a:b] for n in POINT_TABLES}
        c, d = (int(v) for v in self.offsets["cell"][i : i + 2])
        if d > c:
            o = self._tables["cell_offsets"][c : d + 1]
            stop = self._tables["connectivity"].shape[0]
            if not (0 <= o[0] <= o[-1] <= stop) or (np.diff(o) <= 0).any():
                raise SchemaError(
                    f"{self._file.filename}: mesh/cell_offsets of sample {i} do not increase "
                    f"within 0 to {stop}."
                )
            arrays["connectivity"] = self._tables["connectivity"][int(o[0]) : int(o[-1])]
            arrays["cell_offsets"] = o - o[0]
            arrays["cell_types"] = self._tables["cell_types"][c:d]
        return _mesh(self._file, arrays, self.units, f" of sample {i}")

    def __iter__(self) -> Iterator[Mesh]:
        for i in range(len(self.offsets["point"]) - 1):
            yield self.read(i)
