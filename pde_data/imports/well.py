"""Datasets of The Well: a directory with ``data/<split>/*.hdf5``, or one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from solvers.grids import Grid

from ..hdf5 import BoundarySpec, DatasetSchema, FieldSpec, ScalarSpec, SchemaError
from .common import (
    Foreign,
    ImportOptions,
    Sample,
    axis_from_coords,
    increasing,
    open_h5,
    readers,
    with_options,
)

__all__ = ["read"]

_SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "test": "test"}


def read(format: str, files: Sequence[Path], options: ImportOptions, stack: ExitStack) -> Foreign:
    """Open a dataset of The Well.

    Its format has no units: they are ``--units``, or ``"1"`` with a note.

    Raises
    ------
    SchemaError
        Not of The Well's layout, a grid that is not uniform, or files that differ.
    """
    found = _files(files, options)
    paths = [p for ps in found.values() for p in ps]
    opened = {p: open_h5(p, stack) for p in paths}
    first = opened[paths[0]]
    schema, constant = _schema(paths[0], first, options)
    schema = _vary_scalars(schema, opened, constant)
    where: list[tuple[Path, int]] = []
    splits: dict[str, list[int]] = {}
    for split, ps in found.items():
        for p in ps:
            _same(p, opened[p], paths[0], schema)
            n = int(opened[p].attrs["n_trajectories"])
            splits.setdefault(split, []).extend(range(len(where), len(where) + n))
            where += [(p, i) for i in range(n)]

    def sample(k: int) -> Sample:
        path, i = where[k]
        f = opened[path]
        fields = {s.name: _values(f, schema, s, i) for s in schema.fields}
        scalars = {s.name: _scalar(f, s.name, i) for s in schema.scalars if s.value is None}
        return Sample(fields, scalars)

    name = str(first.attrs.get("dataset_name", "well"))
    source = {
        "source": f"The Well: {name}",
        "license": "CC-BY-4.0",
        "citation": "Ohana et al., The Well: a large-scale collection of diverse physics "
        "simulations for machine learning, NeurIPS 2024, arXiv:2412.00568",
        "import_notes": "units are as stated by the user; The Well stores none"
        if options.units
        else "units are unknown: The Well stores none, and none were stated",
    }
    schema = with_options(schema, options)
    return Foreign(schema.problem, schema, readers(sample, splits), source, paths)


def _files(files: Sequence[Path], options: ImportOptions) -> dict[str, list[Path]]:
    out: dict[str, list[Path]] = {}
    for given in files:
        if given.is_file():
            out.setdefault("train", []).append(given)
            continue
        base = given / "data" if (given / "data").is_dir() else given
        for directory in sorted(p for p in base.iterdir() if p.is_dir()):
            if split := _SPLITS.get(directory.name):
                here = [p for p in directory.iterdir() if re.search(r"\.(hdf5|h5)$", p.name)]
                out.setdefault(split, []).extend(
                    sorted(p for p in here if not p.name.startswith("."))
                )
    for split, more in (("valid", options.valid), ("test", options.test)):
        if more:
            out.setdefault(split, []).extend(map(Path, more))
    if not any(out.values()):
        raise SchemaError(f"{files[0]}: found no data/train/*.hdf5 of The Well")
    return {s: out[s] for s in ("train", "valid", "test") if out.get(s)}


def _texts(value: Any) -> list[str]:
    flat = np.asarray(value).reshape(-1).tolist()
    return [v.decode() if isinstance(v, bytes) else str(v) for v in flat]


def _schema(
    path: Path, f: h5py.File, options: ImportOptions
) -> tuple[DatasetSchema, dict[str, float]]:
    for group in ("dimensions", "t0_fields", "t1_fields", "t2_fields", "boundary_conditions"):
        if group not in f:
            raise SchemaError(f"{path}: group {group} is missing; not a file of The Well")
    names = _texts(f["dimensions"].attrs["spatial_dims"])
    if str(f.attrs.get("grid_type", "")) != "cartesian":
        raise SchemaError(
            f"{path}: grid_type is {f.attrs.get('grid_type')!r}; opkit's grids are cartesian"
        )
    bcs = dict(_boundaries(f, names))
    location = options.location or "node"
    axes = []
    for new, old in zip("xyz", names, strict=False):
        kind = bcs.get(old, {}).get("both", "")
        axes.append(
            axis_from_coords(
                path, new, f[f"dimensions/{old}"][...], location=location,
                periodic=kind == "periodic", units=options.units.get("x", "1"),
            )
        )  # fmt: skip
    t = f["dimensions/time"][...]
    fields = []
    for rank in (0, 1, 2):
        group = f[f"t{rank}_fields"]
        for name in _texts(group.attrs.get("field_names", list(group))):
            ds = group[name]
            a = ds.attrs
            varying = tuple(bool(v) for v in np.asarray(a.get("dim_varying", [True] * len(names))))
            fields.append(
                FieldSpec(
                    re.sub(r"\W", "_", name), name, rank=rank, location=location,
                    time_varying=bool(a.get("time_varying", True)),
                    sample_varying=bool(a.get("sample_varying", True)),
                    symmetric=rank == 2 and bool(a.get("symmetric", False)),
                    antisymmetric=rank == 2 and bool(a.get("antisymmetric", False)),
                    dim_varying=None if all(varying) else varying,
                )
            )  # fmt: skip
    if not fields:
        raise SchemaError(f"{path}: there are no fields")
    moving = tuple(s.name for s in fields if s.time_varying)
    fixed = tuple(s.name for s in fields if not s.time_varying)
    scalars, constant = [], {}
    for name, ds in f.get("scalars", {}).items():
        if bool(ds.attrs.get("time_varying", False)):
            continue
        if bool(ds.attrs.get("sample_varying", False)):
            scalars.append(ScalarSpec(re.sub(r"\W", "_", name), name))
        else:
            constant[re.sub(r"\W", "_", name)] = float(np.asarray(ds[...]).reshape(()))
    boundary = []
    known = tuple(s.name for s in fields)
    for old, sides in bcs.items():
        if old in names:
            axis = "xyz"[names.index(old)]
            boundary += [BoundarySpec(axis, k, known, side=side) for side, k in sides.items()]  # type: ignore[arg-type]
    dataset = str(f.attrs.get("dataset_name", "well"))
    first = f[f"t{fields[0].rank}_fields"][fields[0].long_name]
    schema = DatasetSchema(
        problem="well_" + re.sub(r"\W", "_", dataset),
        title=f"The Well: {dataset}",
        grid=Grid(tuple(axes)),
        fields=tuple(fields),
        inputs=(*moving, *fixed),
        outputs=moving or fixed,
        scalars=tuple(scalars),
        boundary_conditions=tuple(boundary),
        problem_type="time_dependent" if moving else "static",
        time=increasing(path, "time", t, np.size(t)) if moving else (0.0,),
        time_units=options.units.get("time", "1"),
        dtype="float64" if first.dtype == np.float64 else "float32",
        equation="as documented by The Well",
        sampling="as documented by The Well",
    )
    return schema, constant


def _boundaries(f: h5py.File, names: Sequence[str]) -> Any:
    """Axis -> side -> kind."""
    out: dict[str, dict[str, str]] = {n: {} for n in names}
    kinds = {"PERIODIC": "periodic", "OPEN": "outflow"}
    for name, group in f["boundary_conditions"].items():
        kind = kinds.get(str(group.attrs.get("bc_type", "")).upper())
        dims = [d for d in _texts(group.attrs.get("associated_dims", [])) if d in out]
        if kind is None or len(dims) != 1:
            continue  # a wall: The Well does not say which condition holds there
        side = "lower" if name.endswith("lower") else "upper" if name.endswith("upper") else "both"
        out[dims[0]][side] = kind
    return ((n, s) for n, s in out.items() if s)


def _vary_scalars(
    schema: DatasetSchema, opened: dict[Path, h5py.File], constant: dict[str, float]
) -> DatasetSchema:
    """Scalars that are constant in each file but differ between files vary with the sample."""
    from dataclasses import replace

    more = []
    for name, value in constant.items():
        same = all(_scalar(f, name, 0) == value for f in opened.values())
        more.append(ScalarSpec(name, name, "1", value if same else None))
    return replace(schema, scalars=schema.scalars + tuple(more))


def _original(group: h5py.Group, name: str) -> h5py.Dataset:
    for key in group:
        if re.sub(r"\W", "_", key) == name:
            return group[key]
    raise SchemaError(f"{group.file.filename}: {group.name}/{name} is missing")


def _scalar(f: h5py.File, name: str, i: int) -> float:
    ds = _original(f["scalars"], name)
    value = np.asarray(ds[...])
    return float(value.reshape(-1)[i if value.size > 1 else 0])


def _values(f: h5py.File, schema: DatasetSchema, spec: FieldSpec, i: int) -> np.ndarray:
    ds = _original(f[f"t{spec.rank}_fields"], spec.name)
    values = np.asarray(ds[i] if spec.sample_varying else ds[...], np.float64)
    return values.reshape(schema.sample_shape(spec.name))


def _same(path: Path, f: h5py.File, first: Path, schema: DatasetSchema) -> None:
    """Refuse a file with other fields, times or shapes than the first."""
    for spec in schema.fields:
        ds = _original(f[f"t{spec.rank}_fields"], spec.name)
        shape = ds.shape[1:] if spec.sample_varying else ds.shape
        if int(np.prod(shape)) != int(np.prod(schema.sample_shape(spec.name))):
            raise SchemaError(
                f"{path}: {spec.long_name} has shape {ds.shape}, other than in {first.name}"
            )
    if schema.problem_type == "time_dependent":
        t = f["dimensions/time"][...].reshape(-1)
        if t.shape != (len(schema.time),) or not np.allclose(t, schema.time):
            raise SchemaError(f"{path}: time differs from that of {first.name}")
