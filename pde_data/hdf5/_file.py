"""The inside of one HDF5 file: what surrounds the samples, written and read back.

Every function that writes has the one that reads next to it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from solvers.grids import Axis, Grid

from .errors import (
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
    FieldSpec,
    ScalarSpec,
)

KIB, MIB = 2**10, 2**20
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
FIELD_GROUPS = ("t0_fields", "t1_fields", "t2_fields")
WELL_TYPE = {
    "dirichlet": "WALL",
    "no_slip": "WALL",
    "slip": "WALL",
    "robin": "WALL",
    "outflow": "OPEN",
    "periodic": "PERIODIC",
}
STR = h5py.string_dtype()


# -- small things --------------------------------------------------------------------------------


def field_path(schema: DatasetSchema, name: str) -> str:
    """``t0_fields/a``."""
    return f"t{schema.field(name).rank}_fields/{name}"


def set_attrs(obj: h5py.HLObject, values: Mapping[str, Any]) -> None:
    """Write attributes; a sequence of str becomes a 1-D string array, also when empty."""
    for key, value in values.items():
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            obj.attrs.create(key, np.array(list(value), dtype=object), (len(value),), STR)
        else:
            obj.attrs[key] = value


def strings(value: Any) -> tuple[str, ...]:
    """Return a stored ``str[]`` as a tuple; one lone string counts as a list of one."""
    if isinstance(value, str | bytes):
        value = [value]
    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(value).ravel())


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


def sample_digests(schema: DatasetSchema, values: Mapping[str, np.ndarray]) -> tuple[bytes, bytes]:
    """``(digest, input_digest)`` of one sample as stored: 32 hex characters each.

    Parameters
    ----------
    values : mapping
        Arrays of the inputs and outputs in the stored dtype, little-endian, C order.
    """
    h = hashlib.blake2b(digest_size=16)
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


def column(
    f: h5py.Group,
    name: str,
    values: np.ndarray,
    attrs: Mapping[str, Any] | None = None,
    *,
    checksum: bool = False,
) -> h5py.Dataset:
    """Create a small dataset; with a checksum in one chunk, which costs 2 kB of HDF5's index."""
    values = np.asarray(values)
    if values.dtype.kind == "O":
        ds = f.create_dataset(name, values.shape, STR, data=values if values.size else None)
    elif checksum and values.ndim and values.size:
        ds = f.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
    else:
        ds = f.create_dataset(name, data=values)
    set_attrs(ds, attrs or {})
    return ds


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
            "grid_type": "cartesian",
            "n_spatial_dims": schema.grid.dim,
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
        members = [s.name for s in schema.fields if s.rank == rank]
        set_attrs(f.create_group(name), {"field_names": members})
    set_attrs(f.create_group("scalars"), {"field_names": [s.name for s in schema.scalars]})
    for role, names in (("inputs", schema.inputs), ("outputs", schema.outputs)):
        group = f.create_group(role)
        set_attrs(group, {"field_names": names})
        scalars = {s.name for s in schema.scalars}
        for name in names:
            target = f"scalars/{name}" if name in scalars else field_path(schema, name)
            group[name] = h5py.SoftLink(f"/{target}")
    bcs = f.create_group("boundary_conditions")
    for bc in schema.boundary_conditions:
        _write_boundary(f, bcs, bc)
    f.create_group("quality")
    f.create_group("failures")
    set_attrs(f.create_group("provenance"), provenance)


def _axes(schema: DatasetSchema) -> Iterable[tuple[str, np.ndarray, dict[str, Any]]]:
    fixed = {"sample_varying": False, "time_varying": False}
    yield (
        "time",
        np.array(schema.time, "<f8"),
        {"units": schema.time_units, "sample_varying": False, "time_varying": True},
    )
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
    for name in ("component", "component_2")[:rank]:
        yield name, np.arange(schema.grid.dim, dtype="<i8"), fixed


def _write_boundary(f: h5py.File, bcs: h5py.Group, bc: BoundarySpec) -> None:
    kind = WELL_TYPE.get(bc.kind, "WALL" if bc.value == 0 else "OPEN")
    name = f"{bc.axis}_{kind.lower()}" + ("" if bc.side == "both" else f"_{bc.side}")
    # other fields on the same side come under a number
    taken = sum(k == name or k.startswith(f"{name}_n") for k in bcs)
    group = bcs.create_group(f"{name}_n{taken + 1}" if taken else name)
    alpha, beta = bc.coefficients
    set_attrs(
        group,
        {
            "bc_type": kind,
            "kind": bc.kind,
            "alpha": alpha,
            "beta": beta,
            "associated_dims": [bc.axis],
            "associated_fields": bc.fields,
            "sample_varying": False,
            "time_varying": False,
            "units": bc.units,
        },
    )
    mask = np.zeros(f[bc.axis].shape, bool)
    mask[0] = bc.side != "upper"
    mask[-1] = bc.side != "lower"
    column(group, "mask", mask).dims[0].attach_scale(f[bc.axis])
    group.create_dataset("values", data=np.float64(bc.value))


def field_attrs(schema: DatasetSchema, spec: FieldSpec) -> dict[str, Any]:
    """Attributes of a field's dataset."""
    out: dict[str, Any] = {
        "sample_varying": spec.sample_varying,
        "time_varying": spec.time_varying,
        "dim_varying": np.array(spec.dim_varying or (True,) * schema.grid.dim, bool),
        "units": spec.units,
        "long_name": spec.long_name,
        "location": spec.location,
    }
    optional = ("valid_min", "valid_max", "element_family", "element_degree")
    out |= {k: getattr(spec, k) for k in optional if getattr(spec, k) is not None}
    if spec.rank == 2:
        out |= {"symmetric": spec.symmetric, "antisymmetric": spec.antisymmetric}
    return out


def field_shape(schema: DatasetSchema, spec: FieldSpec, n: int) -> tuple[int, ...]:
    """Shape of a field's dataset for `n` samples."""
    return (n,) * spec.sample_varying + schema.sample_shape(spec.name)


def create_field(
    f: h5py.File, schema: DatasetSchema, spec: FieldSpec, n: int, compression: str | None
) -> h5py.Dataset:
    """Create an empty dataset for `n` samples; it can shrink when samples fail."""
    shape, dtype = field_shape(schema, spec, n), np.dtype(schema.dtype).newbyteorder("<")
    storage: dict[str, Any] = {}
    if 0 not in shape and shape:
        lead = shape if spec.sample_varying else (1, *shape)
        chunks = chunk_shape(lead, dtype.itemsize, timed=spec.time_varying)
        storage = {
            "chunks": chunks if spec.sample_varying else chunks[1:],
            "maxshape": shape,
            "fletcher32": True,
            "shuffle": compression is not None,
            "compression": compression,
            "compression_opts": 4 if compression else None,
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
) -> None:
    """Ids, scalars, quality, failures, the scales of all axes, and `complete` at the end."""
    sample = column(f, "sample", np.asarray(ids, "<i8"), checksum=True)
    sample.make_scale("sample")
    f.attrs["n_trajectories"] = len(ids)
    for spec in schema.fields:
        ds = f[field_path(schema, spec.name)]
        names = ("sample",) * spec.sample_varying + schema.sample_dims(spec.name)
        for i, name in enumerate(names):
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


def get(f: h5py.File, path: str) -> Any:
    """Object at `path`, through hard links alone; never into another file.

    Raises
    ------
    SchemaError
        It is missing, or behind a soft or external link.
    """
    obj = f
    for part in path.split("/"):
        link = obj.get(part, getlink=True) if isinstance(obj, h5py.Group) else None
        if link is None:
            raise SchemaError(f"{f.filename}: {path} is missing.")
        if not isinstance(link, h5py.HardLink):
            raise SchemaError(f"{f.filename}: {path} is a link to elsewhere; that is not followed.")
        obj = obj[part]
    return obj


def get_dataset(f: h5py.File, path: str, *, virtual: bool = False) -> h5py.Dataset:
    """Dataset at `path` whose data lie in this very file."""
    ds = get(f, path)
    if not isinstance(ds, h5py.Dataset):
        raise SchemaError(f"{f.filename}: {path} is a group, expected a dataset.")
    if ds.external or (ds.is_virtual and not virtual):
        raise SchemaError(f"{f.filename}: {path} keeps its data in other files; not followed.")
    return ds


def attr(obj: h5py.HLObject, name: str) -> Any:
    """Attribute that must be there."""
    if name not in obj.attrs:
        raise SchemaError(
            f"{obj.file.filename}: {obj.name.lstrip('/') or 'root'} has no attribute {name!r}."
        )
    return obj.attrs[name]


def open_file(path: str | Path) -> h5py.File:
    """Open for reading and check that it is a finished file this opkit reads.

    Raises
    ------
    FileNotFoundError
    NotAnOpkitFileError, FormatVersionError, TruncatedFileError, ChecksumError
    IncompleteShardError
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    with translate_h5(path):
        f = h5py.File(path, "r", rdcc_nbytes=MIB)  # per dataset, and many are kept open
    try:
        with translate_h5(path):
            check_head(f, path)
    except BaseException:
        f.close()
        raise
    return f


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
    if (layout := str(attr(f, "layout"))) != "grid":
        raise SchemaError(f"{path}: layout {layout!r}, this opkit reads 'grid'.")


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
    axis_names = strings(attr(get(f, "dimensions"), "spatial_dims"))
    prov = get(f, "provenance").attrs
    try:
        axes = tuple(_read_axis(f, name) for name in axis_names)
        time = get_dataset(f, "time")
        fields, dtypes = [], set()
        for rank, group in enumerate(FIELD_GROUPS):
            for name in strings(attr(get(f, group), "field_names")):
                ds = get_dataset(f, f"{group}/{name}", virtual=virtual)
                dtypes.add(ds.dtype)
                fields.append(_read_field(ds, name, rank))
        if len(dtypes) != 1 or next(iter(dtypes)).str not in ("<f4", "<f8"):
            found = ", ".join(sorted(str(d) for d in dtypes))
            raise SchemaError(f"{where}: fields have dtype {found}, expected float32 or float64.")
        schema = DatasetSchema(
            problem=str(attr(f, "problem")),
            title=str(attr(f, "title")),
            grid=Grid(axes),
            fields=tuple(fields),
            inputs=strings(attr(get(f, "inputs"), "field_names")),
            outputs=strings(attr(get(f, "outputs"), "field_names")),
            scalars=tuple(
                _read_scalar(get_dataset(f, f"scalars/{name}"), name)
                for name in strings(attr(get(f, "scalars"), "field_names"))
            ),
            boundary_conditions=tuple(
                _read_boundary(f, f"boundary_conditions/{name}")
                for name in get(f, "boundary_conditions")
            ),
            problem_type=str(attr(f, "problem_type")),  # type: ignore[arg-type]
            time=tuple(time[...].ravel().tolist()),
            time_units=str(attr(time, "units")),
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
    if not np.allclose(x, axis.coords, rtol=0, atol=1e-9 * (upper - lower)):
        i = int(np.argmax(np.abs(x - axis.coords)))
        raise SchemaError(
            f"{f.filename}: {name}[{i}] is {x[i]:.10g}, expected {axis.coords[i]:.10g} from "
            f"bounds, location and periodic (non-uniform axes are not read yet)."
        )
    return axis


def _read_field(ds: h5py.Dataset, name: str, rank: int) -> FieldSpec:
    varying = tuple(bool(v) for v in attr(ds, "dim_varying"))
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
        **optional,
    )


def _read_scalar(ds: h5py.Dataset, name: str) -> ScalarSpec:
    value = None if bool(attr(ds, "sample_varying")) else float(ds[()])
    return ScalarSpec(name, str(ds.attrs.get("long_name", "")), str(attr(ds, "units")), value)


def _read_boundary(f: h5py.File, path: str) -> BoundarySpec:
    group = get(f, path)
    mask = get_dataset(f, f"{path}/mask")[...]
    alpha, beta = float(attr(group, "alpha")), float(attr(group, "beta"))
    sides = {(True, True): "both", (True, False): "lower", (False, True): "upper"}
    side = sides.get((bool(mask[0]), bool(mask[-1])))
    if side is None or mask[1:-1].any():
        raise SchemaError(f"{f.filename}: {path}/mask is not the end of an axis.")
    spec = BoundarySpec(
        axis=strings(attr(group, "associated_dims"))[0],
        kind=str(attr(group, "kind")),
        fields=strings(attr(group, "associated_fields")),
        side=side,  # type: ignore[arg-type]
        value=float(get_dataset(f, f"{path}/values")[()]),
        units=str(attr(group, "units")),
    )
    if spec.coefficients == (alpha, beta):  # the kind's own
        return spec
    return BoundarySpec(
        spec.axis, spec.kind, spec.fields, spec.side, spec.value, alpha, beta, spec.units
    )


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
    n = int(get_dataset(f, "sample").shape[0])
    if int(attr(f, "n_trajectories")) != n:
        raise SchemaError(
            f"{f.filename}: n_trajectories is {attr(f, 'n_trajectories')}, but there are {n} ids."
        )
    for spec in schema.fields:
        path = field_path(schema, spec.name)
        ds = get_dataset(f, path, virtual=virtual)
        dims = ("sample",) * spec.sample_varying + schema.sample_dims(spec.name)
        _check_shape(ds, path, field_shape(schema, spec, n), dims, scales)
    for s in schema.scalars:
        path = f"scalars/{s.name}"
        if s.value is None:
            _check_shape(get_dataset(f, path), path, (n,), ("sample",), scales)
    if "quality" in f and len(get(f, "quality")):
        for name in (*QUALITY, *(["group"] if "group" in f["quality"] else [])):
            path = f"quality/{name}"
            _check_shape(get_dataset(f, path), path, (n,), ("sample",), scales)
    elif "source" not in get(f, "provenance").attrs:
        raise SchemaError(f"{f.filename}: quality is missing, and the data are not imported.")
    return n


def _check_shape(
    ds: h5py.Dataset, path: str, expected: tuple[int, ...], dims: Sequence[str], scales: bool
) -> None:
    where = ds.file.filename
    if ds.shape != expected:
        raise SchemaError(
            f"{where}: {path} has shape {ds.shape}, expected {expected} from {', '.join(dims)}."
        )
    if scales:
        for dim, name in zip(ds.dims, dims, strict=True):
            if name not in dim.keys():
                raise SchemaError(f"{where}: {path} has no dimension scale {name!r} attached.")


def provenance_json(f: h5py.File, name: str) -> dict[str, Any]:
    """Return a JSON attribute of /provenance; empty if absent."""
    text = get(f, "provenance").attrs.get(name, "{}")
    try:
        value = json.loads(text)
    except ValueError as e:
        raise SchemaError(f"{f.filename}: provenance@{name} is not JSON ({e}).") from e
    return value if isinstance(value, dict) else {}
