"""The inside of one HDF5 file: what surrounds the samples, written and read back.

Every function that writes has the one that reads next to it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from solvers.grids import Axis, Grid
from solvers.meshes import Mesh

from . import _mesh
from ._basic import (
    KIB,
    MIB,
    attr,
    column,
    filters,
    get,
    get_dataset,
    get_group,
    has,
    load,
    root_addresses,
    scale_names,
    set_attrs,
    strings,
)
from .errors import (
    ChecksumError,
    FormatVersionError,
    IncompleteShardError,
    NotAnOpkitFileError,
    SchemaError,
    translate_h5,
)
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    BoundarySpec,
    DatasetSchema,
    ExtraAxis,
    FieldSpec,
    NonuniformAxis,
    ScalarSpec,
)

__all__ = [
    "FIELD_GROUPS",
    "KIB",
    "LAYOUTS",
    "MIB",
    "OPTIONAL_QUALITY",
    "QUALITY",
    "WELL_TYPE",
    "attr",
    "boundary_names",
    "check_head",
    "check_heaps",
    "check_shapes",
    "check_version",
    "chunk_shape",
    "column",
    "content_digest",
    "create_field",
    "field_attrs",
    "field_dims",
    "field_path",
    "field_shape",
    "filters",
    "from_file",
    "get",
    "get_dataset",
    "get_group",
    "has",
    "join_columns",
    "load",
    "open_file",
    "provenance_json",
    "quality_columns",
    "read_schema",
    "root_addresses",
    "rounding",
    "rows_of",
    "sample_digests",
    "sample_rows",
    "scale_names",
    "set_attrs",
    "strings",
    "to_file",
    "well_type",
    "write_boundary_points",
    "write_columns",
    "write_frame",
]

#: name -> dtype of the columns of /quality.
QUALITY = {
    "seed": "<u8",
    "residual": "<f8",
    "iterations": "<i4",
    "converged": "?",
    "discretization_error": "<f8",
    "wall_time": "<f8",
    "digest": "S32",
    "input_digest": "S32",
}
#: First bytes of a global heap, its usual size, and how much of either end is searched for it.
HEAP, HEAP_SIZE, HEAP_PART = b"GCOL\x01\x00\x00\x00", 4 * KIB, 256 * KIB
#: Columns that need not be there.
OPTIONAL_QUALITY = {"time_error": "<f8", "group": "<i8"}
LAYOUTS = ("grid", "mesh", "ragged", "series")
FIELD_GROUPS = ("t0_fields", "t1_fields", "t2_fields")
WELL_TYPE = {
    "dirichlet": "WALL",
    "no_slip": "WALL",
    "slip": "WALL",
    "robin": "WALL",
    "outflow": "OPEN",
    "periodic": "PERIODIC",
}


# -- small things --------------------------------------------------------------------------------


def field_path(schema: DatasetSchema, name: str) -> str:
    """``t0_fields/a`` or ``extra_fields/state``."""
    spec = schema.field(name)
    group = f"t{spec.rank}_fields" if spec.dims is None else "extra_fields"
    return f"{group}/{name}"


def rows_of(schema: DatasetSchema, spec: FieldSpec) -> str:
    """Say what the first axis of a field's dataset counts.

    ``"point"`` or ``"cell"`` where those of all samples are concatenated, ``"sample"`` where
    there is one row a sample, else ``""``.
    """
    if schema.layout == "ragged" and spec.dims is None:
        return "cell" if spec.location == "cell" else "point"
    return "sample" if spec.sample_varying else ""


def to_file(schema: DatasetSchema, spec: FieldSpec, array: np.ndarray) -> np.ndarray:
    """One sample as it is stored: of concatenated samples, points come before times."""
    if rows_of(schema, spec) in ("point", "cell") and spec.time_varying:
        return np.ascontiguousarray(np.moveaxis(array, 0, 1))
    return array


def from_file(schema: DatasetSchema, spec: FieldSpec, array: np.ndarray) -> np.ndarray:
    """Inverse of `to_file`."""
    if rows_of(schema, spec) in ("point", "cell") and spec.time_varying:
        return np.ascontiguousarray(np.moveaxis(array, 0, 1))
    return array


def chunk_shape(shape: tuple[int, ...], itemsize: int, *, timed: bool) -> tuple[int, ...]:
    """Chunk of a dataset ``(N, [T], *space)``: one sample, or parts or groups of it.

    Snapshots above 4 MiB are split along their slowest axis, times are grouped up to 1 MiB,
    and samples below 64 KiB are grouped to a chunk.
    """
    n, *rest = shape
    sample = math.prod(rest) * itemsize
    if sample < 64 * KIB:
        return (max(1, min(n, -(-64 * KIB // max(sample, 1)))), *rest)
    steps, space = (rest[0], rest[1:]) if timed else (1, rest)
    snapshot = sample // steps
    if snapshot > 4 * MIB:
        row = snapshot // space[0]
        space = [max(1, min(space[0], 4 * MIB // row)), *space[1:]]
    time = [max(1, min(steps, MIB // snapshot))] if timed else []
    return (1, *time, *space)


def sample_digests(
    schema: DatasetSchema, values: Mapping[str, np.ndarray], mesh: Mesh | None = None
) -> tuple[bytes, bytes]:
    """``(digest, input_digest)`` of one sample as stored: 32 hex characters each.

    Parameters
    ----------
    values : mapping
        Arrays of the inputs and outputs as they are stored: dtype, little-endian, C order.
    mesh : Mesh, optional
        Of the sample, for layout ``"ragged"``.
    """
    h = hashlib.blake2b(digest_size=16)
    if schema.layout == "ragged" and mesh is not None:
        _feed(h, "points", mesh.points)
        _feed(h, "connectivity", np.asarray(mesh.connectivity))
    for name in schema.inputs:
        _feed(h, name, values[name])
    inputs = h.copy()
    for name in schema.outputs:
        _feed(h, name, values[name])
    return h.hexdigest().encode(), inputs.hexdigest().encode()


def _feed(h: Any, name: str, array: np.ndarray) -> None:
    h.update(name.encode() + b"\0" + array.dtype.str.encode() + b"\0")
    h.update(np.array(array.shape, "<i8").tobytes())
    h.update(np.ascontiguousarray(array).data if array.ndim else array.tobytes())


def content_digest(ids: np.ndarray, digests: np.ndarray) -> str:
    """SHA-256 over the ids and then the digests, both in the order given."""
    h = hashlib.sha256(np.ascontiguousarray(ids, "<i8").tobytes())
    h.update(np.ascontiguousarray(digests, "S32").tobytes())
    return h.hexdigest()


def rounding(spec: FieldSpec, dtype: str, scale: float) -> float:
    """How far a stored value may lie outside its bounds for rounding alone."""
    bounds = [abs(b) for b in (spec.valid_min, spec.valid_max) if b is not None]
    return float(np.finfo(dtype).eps) * max([scale, *bounds])


# -- writing -------------------------------------------------------------------------------------


def write_frame(
    f: h5py.File, schema: DatasetSchema, *, split: str, shard: int, provenance: Mapping[str, Any]
) -> None:
    """Everything that does not depend on the samples."""
    constants = {s.name: s.value for s in schema.scalars if s.value is not None}
    set_attrs(
        f,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "layout": schema.layout,
            "title": schema.title,
            "problem": schema.problem,
            "problem_type": schema.problem_type,
            "split": split,
            "shard_index": shard,
            "dataset_name": schema.problem,
            "grid_type": "unstructured" if schema.layout in ("mesh", "ragged") else "cartesian",
            "n_spatial_dims": schema.dim,
            "simulation_parameters": list(constants),
            **constants,
        },
    )
    for name, values, attrs in _axes(schema):
        column(f, name, values, attrs).make_scale(name)
    dims = f.create_group("dimensions")
    set_attrs(dims, {"spatial_dims": [a.name for a in schema.grid.axes]})
    for name in ("time", *(a.name for a in schema.grid.axes)):
        dims[name] = h5py.SoftLink(f"/{name}")
    for rank, name in enumerate(FIELD_GROUPS):
        members = [s.name for s in schema.fields if s.rank == rank and s.dims is None]
        set_attrs(f.create_group(name), {"field_names": members})
    if extra := [s.name for s in schema.fields if s.dims is not None]:
        set_attrs(f.create_group("extra_fields"), {"field_names": extra})
    set_attrs(f.create_group("scalars"), {"field_names": [s.name for s in schema.scalars]})
    for role, names in (("inputs", schema.inputs), ("outputs", schema.outputs)):
        group = f.create_group(role)
        set_attrs(group, {"field_names": names})
        scalars = {s.name for s in schema.scalars}
        for name in names:
            target = f"scalars/{name}" if name in scalars else field_path(schema, name)
            group[name] = h5py.SoftLink(f"/{target}")
    bcs = f.create_group("boundary_conditions")
    if schema.mesh is not None:
        _mesh.write_mesh(f, schema.mesh)
    for bc in schema.boundary_conditions:
        _write_boundary(f, bcs, bc, schema)
    f.create_group("quality")
    f.create_group("failures")
    set_attrs(f.create_group("provenance"), provenance)


def _axes(schema: DatasetSchema) -> Iterable[tuple[str, np.ndarray, dict[str, Any]]]:
    fixed = {"sample_varying": False, "time_varying": False}
    if schema.time_per_sample:  # `time` itself is (sample, step), written at the end
        yield "step", np.arange(len(schema.time), dtype="<i8"), fixed
    else:
        yield "time", np.array(schema.time, "<f8"), _time_attrs(schema)
    for a in schema.grid.axes:
        yield (
            a.name,
            np.asarray(a.coords, "<f8"),
            {
                "units": a.units,
                **fixed,
                "location": a.location,
                "bounds": np.array([a.lower, a.upper]),
                "periodic": a.periodic,
            },
        )
    rank = max((s.rank for s in schema.fields), default=0)
    if schema.layout in ("mesh", "ragged"):  # the points' coordinates have it
        rank = max(rank, 1)
    for name in ("component", "component_2")[:rank]:
        yield name, np.arange(schema.dim, dtype="<i8"), fixed
    if schema.mesh is not None:
        yield "point", np.arange(schema.mesh.n_points, dtype="<i8"), fixed
        if schema.mesh.n_cells:
            yield "cell", np.arange(schema.mesh.n_cells, dtype="<i8"), fixed
    for e in schema.axes:
        attrs = {"units": e.units, "long_name": e.long_name, **fixed}
        yield e.name, np.array(e.coords, "<f8"), attrs


def _time_attrs(schema: DatasetSchema) -> dict[str, Any]:
    return {
        "units": schema.time_units,
        "sample_varying": schema.time_per_sample,
        "time_varying": True,
    }


def well_type(bc: BoundarySpec) -> str:
    """Return The Well's kind of a boundary."""
    return WELL_TYPE.get(bc.kind, "WALL" if bc.value == 0 else "OPEN")


def _boundary_name(bc: BoundarySpec, others: Sequence[str]) -> str:
    name = f"{bc.axis}_{well_type(bc).lower()}" + ("" if bc.side == "both" else f"_{bc.side}")
    # other fields on the same side come under a number
    taken = sum(k == name or k.startswith(f"{name}_n") for k in others)
    return f"{name}_n{taken + 1}" if taken else name


def boundary_names(schema: DatasetSchema) -> list[str]:
    """Names of the groups of /boundary_conditions, in the schema's order."""
    names: list[str] = []
    for bc in schema.boundary_conditions:
        names.append(_boundary_name(bc, names))
    return names


def write_boundary_points(
    f: h5py.File, schema: DatasetSchema, points: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Positions, in the concatenated points, where each boundary condition holds."""
    for name in boundary_names(schema):
        index = np.concatenate([np.empty(0, "<i8"), *points.get(name, ())]).astype("<i8")
        column(f[f"boundary_conditions/{name}"], "point_index", index, checksum=True)


def _write_boundary(f: h5py.File, bcs: h5py.Group, bc: BoundarySpec, schema: DatasetSchema) -> None:
    kind = well_type(bc)
    group = bcs.create_group(_boundary_name(bc, list(bcs)))
    alpha, beta = bc.coefficients
    set_attrs(
        group,
        {
            "bc_type": kind,
            "kind": bc.kind,
            "alpha": alpha,
            "beta": beta,
            "associated_dims": [bc.axis] if schema.grid.axes else ["point"],
            "associated_fields": bc.fields,
            "sample_varying": False,
            "time_varying": False,
            "units": bc.units,
        },
    )
    group.create_dataset("values", data=np.float64(bc.value))
    if schema.layout == "ragged":  # the points follow with the meshes
        return
    if schema.mesh is not None:
        set_attrs(group, {"whole_boundary": bc.points is None})
        points = schema.mesh.boundary_points() if bc.points is None else np.array(bc.points)
        column(group, "point_index", points.astype("<i8"), checksum=True)
        return
    mask = np.zeros(f[bc.axis].shape, bool)
    mask[0] = bc.side != "upper"
    mask[-1] = bc.side != "lower"
    column(group, "mask", mask).dims[0].attach_scale(f[bc.axis])


def field_attrs(schema: DatasetSchema, spec: FieldSpec) -> dict[str, Any]:
    """Attributes of a field's dataset."""
    out: dict[str, Any] = {
        "sample_varying": spec.sample_varying,
        "time_varying": spec.time_varying,
        "dim_varying": np.array(spec.dim_varying or (True,) * schema.dim, bool),
        "units": spec.units,
        "long_name": spec.long_name,
        "location": spec.location,
    }
    optional = ("valid_min", "valid_max", "element_family", "element_degree")
    out |= {k: getattr(spec, k) for k in optional if getattr(spec, k) is not None}
    if spec.rank == 2:
        out |= {"symmetric": spec.symmetric, "antisymmetric": spec.antisymmetric}
    if spec.dims is not None:
        del out["dim_varying"]
    if spec.labels and spec.dims:
        out[f"{spec.dims[-1]}_names"] = spec.labels
    return out


def field_shape(
    schema: DatasetSchema, spec: FieldSpec, n: int, rows: Mapping[str, int] | None = None
) -> tuple[int, ...]:
    """Shape of a field's dataset for `n` samples with that many points and cells together."""
    shape, kind = schema.sample_shape(spec.name), rows_of(schema, spec)
    if kind in ("point", "cell"):
        return ((rows or {}).get(kind, 0), *(k for k in shape if k != -1))
    return (n,) * spec.sample_varying + shape


def field_dims(schema: DatasetSchema, spec: FieldSpec) -> tuple[str, ...]:
    """Names of the axes of a field's dataset."""
    dims, kind = schema.sample_dims(spec.name), rows_of(schema, spec)
    if kind in ("point", "cell"):
        return (kind, *(d for d in dims if d != kind))
    return ("sample",) * spec.sample_varying + dims


def create_field(
    f: h5py.File, schema: DatasetSchema, spec: FieldSpec, n: int, compression: str | None
) -> h5py.Dataset:
    """Create an empty dataset for `n` samples; it can shrink when samples fail.

    That of a field on concatenated points has no rows yet, and grows.
    """
    shape, dtype = field_shape(schema, spec, n), np.dtype(schema.dtype).newbyteorder("<")
    if rows_of(schema, spec) in ("point", "cell"):
        path = field_path(schema, spec.name)
        ds = _mesh.growing(f, path, shape[1:], dtype, compression, timed=spec.time_varying)
        set_attrs(ds, field_attrs(schema, spec))
        return ds
    storage: dict[str, Any] = {}
    if 0 not in shape and shape:
        lead = shape if spec.sample_varying else (1, *shape)
        chunks = chunk_shape(lead, dtype.itemsize, timed=spec.time_varying)
        storage = {
            "chunks": chunks if spec.sample_varying else chunks[1:],
            "maxshape": shape,
            **filters(compression),
        }
    ds = f.create_dataset(field_path(schema, spec.name), shape, dtype, **storage)
    set_attrs(ds, field_attrs(schema, spec))
    return ds


def write_columns(
    f: h5py.File,
    schema: DatasetSchema,
    *,
    ids: np.ndarray,
    quality: Mapping[str, np.ndarray],
    scalars: Mapping[str, np.ndarray],
    failures: Sequence[tuple[int, int, str]],
    estimator: Mapping[str, Any],
    times: np.ndarray | None = None,
) -> None:
    """Ids, times, scalars, quality, failures, the scales of all axes, `complete` at the end.

    Parameters
    ----------
    times : ndarray, shape (N, T), optional
        Of the samples, where each has its own.
    """
    sample = column(f, "sample", np.asarray(ids, "<i8"), checksum=True)
    sample.make_scale("sample")
    f.attrs["n_trajectories"] = len(ids)
    if schema.time_per_sample:
        table = np.asarray(times, "<f8").reshape(len(ids), len(schema.time))
        ds = column(f, "time", table, _time_attrs(schema), checksum=True)
        ds.dims[0].attach_scale(sample)
        ds.dims[1].attach_scale(f["step"])
    for spec in schema.fields:
        ds = f[field_path(schema, spec.name)]
        for i, name in enumerate(field_dims(schema, spec)):
            ds.dims[i].attach_scale(f[name])
    for s in schema.scalars:
        values = np.float64(s.value) if s.value is not None else np.asarray(scalars[s.name], "<f8")
        attrs = {
            "sample_varying": s.value is None,
            "time_varying": False,
            "units": s.units,
            "long_name": s.long_name,
        }
        ds = column(f["scalars"], s.name, np.asarray(values), attrs, checksum=True)
        if s.value is None:
            ds.dims[0].attach_scale(sample)
    for name, values in quality.items():
        column(f["quality"], name, values, checksum=True).dims[0].attach_scale(sample)
    if "residual" in quality:
        f["quality/residual"].attrs["norm"] = "relative_l2"
        set_attrs(f["quality/discretization_error"], estimator)
    if "time_error" in quality:
        set_attrs(f["quality/time_error"], {"estimator": "solver"})
    failure = column(f, "failure", np.arange(len(failures), dtype="<i8"))
    failure.make_scale("failure")
    for name, values in (
        ("sample_id", np.array([x[0] for x in failures], "<i8")),
        ("seed", np.array([x[1] for x in failures], "<u8")),
        ("reason", np.array([x[2] for x in failures], object)),
    ):
        column(f["failures"], name, values).dims[0].attach_scale(failure)
    digests = quality.get("digest", np.zeros(len(ids), "S32"))
    f.attrs["content_digest"] = content_digest(ids, digests)
    f.attrs["complete"] = True


# -- reading -------------------------------------------------------------------------------------


def open_file(path: str | Path, *, check: bool = True) -> h5py.File:
    """Open for reading and check that it is a finished file this opkit reads.

    Parameters
    ----------
    check : bool
        False: it is known to be one.

    Raises
    ------
    FileNotFoundError
    NotAnOpkitFileError, FormatVersionError, TruncatedFileError, ChecksumError
    IncompleteShardError
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if check:
        check_heaps(path)
    with translate_h5(path):
        f = h5py.File(path, "r", rdcc_nbytes=MIB)  # per dataset, and many are kept open
    if not check:
        return f
    try:
        with translate_h5(path):
            check_head(f, path)
    except BaseException:
        f.close()
        raise
    return f


def check_heaps(path: Path) -> None:
    """Look at the global heaps, where HDF5 keeps strings without a checksum.

    The library (2.0 and earlier) walks through a damaged one for ever. Heaps lie at both ends of a
    file, where the attributes are.

    Raises
    ------
    ChecksumError
    """
    with path.open("rb") as f:
        size = os.fstat(f.fileno()).st_size
        parts = [(0, f.read(HEAP_PART))]
        if size > HEAP_PART:
            start = max(HEAP_PART - HEAP_SIZE, size - HEAP_PART)  # overlapping: none is cut in two
            f.seek(start)
            parts.append((start, f.read()))
    for start, data in parts:
        at = data.find(HEAP)
        while at >= 0:
            end = at + int.from_bytes(data[at + 8 : at + 16], "little")
            pos = at + 16
            while pos + 16 <= min(end, len(data)):
                index = int.from_bytes(data[pos : pos + 2], "little")
                length = int.from_bytes(data[pos + 8 : pos + 16], "little")
                need = 16 + length + -length % 8 if index else length
                if need < 16 or pos + need > end:
                    raise ChecksumError(
                        f"{path}: the heap of strings at byte {start + at} is damaged. Copy the "
                        "file again, or make the shard again with: opkit generate --resume"
                    )
                pos += need
            at = data.find(HEAP, at + 8)


def check_version(version: str, path: Path) -> None:
    """Refuse other major versions.

    Raises
    ------
    FormatVersionError
    """
    major = FORMAT_VERSION.partition(".")[0]
    if version.partition(".")[0] != major:
        raise FormatVersionError(
            f"{path}: format_version {version}, this opkit reads {major}.x. Update opkit, or "
            "export the file with the version that wrote it."
        )


def check_head(f: h5py.File, path: Path) -> None:
    """Format, version, layout and `complete` of an open file."""
    if f.attrs.get("format") != FORMAT:
        keys = sorted(f.keys())
        shown = ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
        found = "is missing" if "format" not in f.attrs else f"is {f.attrs['format']!r}"
        raise NotAnOpkitFileError(
            f"{path}: not an opkit dataset (root attribute 'format' {found}; "
            f"found keys {shown or 'none'}).{_guess(keys)}"
        )
    check_version(str(attr(f, "format_version")), path)
    if not bool(f.attrs.get("complete", False)):
        raise IncompleteShardError(
            f"{path}: attribute 'complete' is missing; the file was renamed by hand while being "
            "written."
        )
    if (layout := str(attr(f, "layout"))) not in LAYOUTS:
        raise SchemaError(f"{path}: layout {layout!r}, this opkit reads {', '.join(LAYOUTS)}.")


def _guess(keys: Sequence[str]) -> str:
    """Say what a foreign file looks like."""
    if "tensor" in keys:
        return f" It looks like PDEBench{' Darcy' if 'nu' in keys else ''} data."
    if {"t0_fields", "dimensions"} <= set(keys):
        return " It looks like a file of The Well."
    if {"coeff", "sol"} <= set(keys):
        return " It looks like FNO's MATLAB data."
    return ""


def read_schema(f: h5py.File, *, virtual: bool = False) -> DatasetSchema:
    """Rebuild the schema and check shapes, axes and attributes against it.

    Raises
    ------
    SchemaError
    """
    where = f.filename
    layout = str(attr(f, "layout"))
    axis_names = strings(attr(get_group(f, "dimensions"), "spatial_dims"))
    prov = get(f, "provenance").attrs
    try:
        axes = tuple(_read_axis(f, name) for name in axis_names)
        time = get_dataset(f, "time")
        times = _read_times(f, time)
        fields, dtypes, extra = [], set(), dict[str, ExtraAxis]()
        root = root_addresses(f) if has(f, "extra_fields") else {}
        groups = [*FIELD_GROUPS, *(["extra_fields"] if has(f, "extra_fields") else [])]
        for rank, group in enumerate(groups):
            for name in strings(attr(get_group(f, group), "field_names")):
                ds = get_dataset(f, f"{group}/{name}", virtual=virtual)
                dtypes.add(ds.dtype)
                if group == "extra_fields":
                    dims = _read_dims(f, ds, f"{group}/{name}", root)
                    fields.append(_read_field(ds, name, 0, dims))
                    for d in dims:
                        if d not in axis_names and d not in extra:
                            extra[d] = _read_extra_axis(f, d)
                else:
                    fields.append(_read_field(ds, name, rank))
        if len(dtypes) != 1 or next(iter(dtypes)).str not in ("<f4", "<f8"):
            found = ", ".join(sorted(str(d) for d in dtypes))
            raise SchemaError(f"{where}: fields have dtype {found}, expected float32 or float64.")
        schema = DatasetSchema(
            problem=str(attr(f, "problem")),
            title=str(attr(f, "title")),
            grid=Grid(axes),
            fields=tuple(fields),
            inputs=strings(attr(get_group(f, "inputs"), "field_names")),
            outputs=strings(attr(get_group(f, "outputs"), "field_names")),
            scalars=tuple(
                _read_scalar(get_dataset(f, f"scalars/{name}"), name)
                for name in strings(attr(get_group(f, "scalars"), "field_names"))
            ),
            boundary_conditions=tuple(
                _read_boundary(f, f"boundary_conditions/{name}", layout)
                for name in get_group(f, "boundary_conditions")
            ),
            problem_type=str(attr(f, "problem_type")),  # type: ignore[arg-type]
            time=times,
            time_units=str(attr(time, "units")),
            layout=layout,  # type: ignore[arg-type]
            mesh=_mesh.read_mesh(f) if layout == "mesh" else None,
            space_dim=int(attr(f, "n_spatial_dims")) if layout == "ragged" else None,
            axes=tuple(extra.values()),
            time_per_sample=time.ndim == 2,
            dtype=next(iter(dtypes)).name,
            equation=str(prov.get("equation", "")),
            discretization=str(prov.get("discretization", "")),
            sampling=str(prov.get("sampling", "")),
            license=str(prov.get("license", "")),
            citation=str(prov.get("citation", "")),
        )
    except SchemaError:
        raise
    except ValueError as e:  # of the dataclasses
        raise SchemaError(f"{where}: {e}") from e
    return schema


def _read_times(f: h5py.File, time: h5py.Dataset) -> tuple[float, ...]:
    if time.ndim == 2:  # placeholders
        return tuple(map(float, range(time.shape[1])))
    values = load(time).astype(np.float64).ravel()
    bad = np.flatnonzero(~(np.diff(values) > 0))
    if bad.size:
        raise SchemaError(
            f"{f.filename}: time is not strictly increasing at index {int(bad[0]) + 1}."
        )
    return tuple(values.tolist())


def _read_dims(
    f: h5py.File, ds: h5py.Dataset, path: str, root: Mapping[int, str]
) -> tuple[str, ...]:
    """Names of an extra field's own axes, from the attached scales."""
    names = []
    for i, scales in enumerate(scale_names(ds, root)):
        if not scales:
            raise SchemaError(f"{f.filename}: {path} has no dimension scale on axis {i}.")
        names.append(scales[0])
    lead = ["sample"] * bool(attr(ds, "sample_varying"))
    own = len(lead) + bool(attr(ds, "time_varying"))
    if names[: len(lead)] != lead:
        raise SchemaError(f"{f.filename}: {path} has axes {', '.join(names)}; sample comes first.")
    return tuple(names[own:])


def _read_extra_axis(f: h5py.File, name: str) -> ExtraAxis:
    ds = get_dataset(f, name)
    values = load(ds)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise SchemaError(f"{f.filename}: {name} is {values.dtype} {values.shape}, no axis.")
    return ExtraAxis(
        name, tuple(values.tolist()), str(attr(ds, "units")), str(ds.attrs.get("long_name", ""))
    )


def _read_axis(f: h5py.File, name: str) -> Axis:
    ds = get_dataset(f, name)
    x = ds[...]
    if x.ndim != 1:
        raise SchemaError(f"{f.filename}: {name} has shape {x.shape}, expected one dimension.")
    bad = np.flatnonzero(~(np.diff(x) > 0))
    if bad.size:
        raise SchemaError(
            f"{f.filename}: {name} is not strictly increasing at index {int(bad[0]) + 1}."
        )
    lower, upper = (float(b) for b in attr(ds, "bounds"))
    axis = Axis(
        name,
        len(x),
        lower,
        upper,
        location=str(attr(ds, "location")),  # type: ignore[arg-type]
        periodic=bool(attr(ds, "periodic")),
        units=str(attr(ds, "units")),
    )
    if np.allclose(x, axis.coords, rtol=0, atol=1e-9 * (upper - lower)):
        return axis
    if "source" in get_group(f, "provenance").attrs:  # made elsewhere
        return NonuniformAxis(
            name, len(x), lower, upper, axis.location, axis.periodic, axis.units,
            tuple(x.tolist()),
        )  # fmt: skip
    i = int(np.argmax(np.abs(x - axis.coords)))
    raise SchemaError(
        f"{f.filename}: {name}[{i}] is {x[i]:.10g}, expected {axis.coords[i]:.10g} from "
        f"bounds, location and periodic; only imported data may have non-uniform axes."
    )


def _read_field(
    ds: h5py.Dataset, name: str, rank: int, dims: tuple[str, ...] | None = None
) -> FieldSpec:
    varying = () if dims is not None else tuple(bool(v) for v in attr(ds, "dim_varying"))
    if dims and f"{dims[-1]}_names" in ds.attrs:
        labels = strings(ds.attrs[f"{dims[-1]}_names"])
    else:
        labels = ()
    optional: dict[str, Any] = {
        k: float(ds.attrs[k]) for k in ("valid_min", "valid_max") if k in ds.attrs
    }
    if "element_family" in ds.attrs:
        optional["element_family"] = str(ds.attrs["element_family"])
    if "element_degree" in ds.attrs:
        optional["element_degree"] = int(ds.attrs["element_degree"])
    return FieldSpec(
        name,
        str(attr(ds, "long_name")),
        units=str(attr(ds, "units")),
        rank=rank,
        location=str(attr(ds, "location")),  # type: ignore[arg-type]
        time_varying=bool(attr(ds, "time_varying")),
        sample_varying=bool(attr(ds, "sample_varying")),
        symmetric=bool(ds.attrs.get("symmetric", False)),
        antisymmetric=bool(ds.attrs.get("antisymmetric", False)),
        dim_varying=None if all(varying) else varying,
        dims=dims,
        labels=labels,
        **optional,
    )


def _read_scalar(ds: h5py.Dataset, name: str) -> ScalarSpec:
    value = None if bool(attr(ds, "sample_varying")) else float(ds[()])
    return ScalarSpec(name, str(ds.attrs.get("long_name", "")), str(attr(ds, "units")), value)


def _read_boundary(f: h5py.File, path: str, layout: str) -> BoundarySpec:
    group = get(f, path)
    alpha, beta = float(attr(group, "alpha")), float(attr(group, "beta"))
    points, side = None, "both"
    if layout in ("mesh", "ragged"):
        axis = "boundary"
        if layout == "mesh" and not bool(attr(group, "whole_boundary")):
            points = tuple(load(get_dataset(f, f"{path}/point_index")).ravel().tolist())
    else:
        axis = (*strings(attr(group, "associated_dims")), "")[0]
        side = _side(f, f"{path}/mask")
    spec = BoundarySpec(
        axis=axis,
        kind=str(attr(group, "kind")),
        fields=strings(attr(group, "associated_fields")),
        side=side,  # type: ignore[arg-type]
        value=float(get_dataset(f, f"{path}/values")[()]),
        units=str(attr(group, "units")),
        points=points,
    )
    if spec.coefficients == (alpha, beta):  # the kind's own
        return spec
    return replace(spec, alpha=alpha, beta=beta)


def _side(f: h5py.File, path: str) -> str:
    """Which ends of its axis a mask marks."""
    mask = load(get_dataset(f, path))
    sides = {(True, True): "both", (True, False): "lower", (False, True): "upper"}
    side = sides.get((bool(mask[0]), bool(mask[-1]))) if mask.ndim == 1 and mask.size else None
    if side is None or mask[1:-1].any():
        raise SchemaError(f"{f.filename}: {path} is not the end of an axis.")
    return side


def check_shapes(
    f: h5py.File, schema: DatasetSchema, *, virtual: bool = False, scales: bool = False
) -> int:
    """Check every shape against `schema` and the number of samples, which is returned.

    Parameters
    ----------
    virtual : bool
        Fields may be virtual.
    scales : bool
        Check the names of the axes too.

    Raises
    ------
    SchemaError
    """
    sample = get_dataset(f, "sample")
    if sample.ndim != 1:
        raise SchemaError(f"{f.filename}: sample has shape {sample.shape}, expected one dimension.")
    _check_dtype(sample, "sample", np.dtype("<i8"))
    n = int(sample.shape[0])
    if int(attr(f, "n_trajectories")) != n:
        raise SchemaError(
            f"{f.filename}: n_trajectories is {attr(f, 'n_trajectories')}, but there are {n} ids."
        )
    root = root_addresses(f) if scales else None
    rows = {}
    if schema.layout == "ragged":
        rows = {kind: int(o[-1]) for kind, o in _mesh.sample_slices(f).items()}
        dim = get_dataset(f, "mesh/points").shape[1:]
        if dim != (schema.dim,):
            raise SchemaError(
                f"{f.filename}: mesh/points have {dim} coordinates, n_spatial_dims is {schema.dim}."
            )
    if schema.time_per_sample:
        expected = (n, len(schema.time))
        _check_shape(get_dataset(f, "time"), "time", expected, ("sample", "step"), root)
    for spec in schema.fields:
        path = field_path(schema, spec.name)
        ds = get_dataset(f, path, virtual=virtual)
        shape = field_shape(schema, spec, n, rows)
        _check_shape(ds, path, shape, field_dims(schema, spec), root)
        _check_dtype(ds, path, np.dtype(schema.dtype).newbyteorder("<"))
    for s in schema.scalars:
        path = f"scalars/{s.name}"
        if s.value is None:
            _check_shape(get_dataset(f, path), path, (n,), ("sample",), root)
    if has(f, "quality") and len(get_group(f, "quality")):
        for name in quality_columns(f):
            path = f"quality/{name}"
            ds = get_dataset(f, path)
            _check_shape(ds, path, (n,), ("sample",), root)
            _check_dtype(ds, path, np.dtype((QUALITY | OPTIONAL_QUALITY)[name]))
    elif "source" not in get(f, "provenance").attrs:
        raise SchemaError(f"{f.filename}: quality is missing, and the data are not imported.")
    return n


def _check_dtype(ds: h5py.Dataset, path: str, expected: np.dtype) -> None:
    if ds.dtype != expected:
        raise SchemaError(
            f"{ds.file.filename}: {path} has dtype {ds.dtype}, expected {expected.name}."
        )


def quality_columns(f: h5py.File) -> list[str]:
    """Names of the columns of /quality that this opkit knows."""
    if not has(f, "quality") or not len(get_group(f, "quality")):
        return []
    return [*QUALITY, *(c for c in OPTIONAL_QUALITY if has(f, f"quality/{c}"))]


def join_columns(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Columns of /quality of several files, one after the other.

    A file in which no sample has a time error has no such column.

    Raises
    ------
    SchemaError
        Another column is missing in some of the files.
    """
    parts = [p for p in parts if p and len(next(iter(p.values())))] or list(parts[:1])
    out = {}
    for name in dict.fromkeys(n for p in parts for n in p):
        if name == "time_error":
            pieces = [p.get(name, np.full(len(next(iter(p.values()))), np.nan)) for p in parts]
        elif all(name in p for p in parts):
            pieces = [p[name] for p in parts]
        else:
            raise SchemaError(f"quality/{name} is missing in some of the files.")
        out[name] = np.concatenate(pieces)
    return out


def sample_rows(
    schema: DatasetSchema, spec: FieldSpec, k: int, offsets: Mapping[str, np.ndarray]
) -> Any:
    """Index of sample `k` in a field's dataset; `offsets` are those of a ragged file."""
    kind = rows_of(schema, spec)
    if kind in ("point", "cell"):
        return slice(int(offsets[kind][k]), int(offsets[kind][k + 1]))
    return k if kind else ...


def _check_shape(
    ds: h5py.Dataset,
    path: str,
    expected: tuple[int, ...],
    dims: Sequence[str],
    root: Mapping[int, str] | None,
) -> None:
    where = ds.file.filename
    if ds.shape != expected:
        raise SchemaError(
            f"{where}: {path} has shape {ds.shape}, expected {expected} from {', '.join(dims)}."
        )
    if root is not None:
        for scales, name in zip(scale_names(ds, root), dims, strict=True):
            if name not in scales:
                raise SchemaError(f"{where}: {path} has no dimension scale {name!r} attached.")


def provenance_json(f: h5py.File, name: str) -> dict[str, Any]:
    """Return a JSON attribute of /provenance; empty if absent."""
    text = get(f, "provenance").attrs.get(name, "{}")
    try:
        value = json.loads(text)
    except ValueError as e:
        raise SchemaError(f"{f.filename}: provenance@{name} is not JSON ({e}).") from e
    return value if isinstance(value, dict) else {}
