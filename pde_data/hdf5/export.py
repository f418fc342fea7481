"""Datasets for others: netCDF files, and The Well's directory."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from . import _file
from .errors import SchemaError
from .reader import Split, open_dataset
from .schema import DatasetSchema

__all__ = ["export_netcdf", "export_well"]

#: Samples read and written at a time take about this much.
BLOCK_BYTES = 2**25


def export_netcdf(root: str | Path, out: str | Path) -> list[Path]:
    """Write one netCDF-4 file a split: ``out/train.nc``, ...

    Variables are named as the fields, with named dimensions, coordinates and CF attributes
    (``units``, ``long_name``, ``valid_min``); ``quality_*`` hold the evidence of each sample.

    Parameters
    ----------
    root : path
        A dataset of layout grid, mesh or series.
    out : path
        New directory.

    Returns
    -------
    list of Path

    Raises
    ------
    SchemaError
        Layout ragged: netCDF has no arrays of differing length.
    FileExistsError, DatasetError, OSError
    """
    dataset, out = open_dataset(root), Path(out)
    schema = dataset.schema
    if schema.layout == "ragged" or schema.time_per_sample:
        raise SchemaError(
            f"{root}: layout {schema.layout!r} has samples of differing "
            "points or times, which netCDF has no arrays for; use opkit data export h5"
        )
    partial = _start(out)
    try:
        for name in dataset.splits:
            if len(dataset[name]):
                _netcdf_file(partial / f"{name}.nc", dataset[name], dataset.config)
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return sorted(out.glob("*.nc"))


def _start(out: Path) -> Path:
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    partial.mkdir()
    return partial


def _netcdf_file(path: Path, split: Split, config: dict[str, Any]) -> None:
    import h5netcdf

    schema, n = split.schema, len(split)
    with h5netcdf.File(path, "w") as f:
        f.attrs.update(
            {
                "Conventions": "CF-1.11",
                "title": schema.title,
                "problem": schema.problem,
                "equation": schema.equation,
                "split": split.name,
                "license": schema.license,
                "source": f"opkit, {schema.discretization}".rstrip(", "),
                "opkit_config": json.dumps(config, sort_keys=True),
                "inputs": " ".join(schema.inputs),
                "outputs": " ".join(schema.outputs),
            }
        )
        f.dimensions["sample"] = n
        _variable(f, "sample", ("sample",), split.ids)
        for name, values, attrs in _coordinates(schema):
            f.dimensions[name] = len(values)
            _variable(f, name, (name,), values, attrs)
        for scalar in schema.scalars:
            attrs = {"units": scalar.units, "long_name": scalar.long_name}
            if scalar.value is not None:
                _variable(f, scalar.name, (), np.float64(scalar.value), attrs)
            else:
                values = split.read(np.arange(n), [scalar.name])[scalar.name]
                _variable(f, scalar.name, ("sample",), values, attrs)
        for name in ("residual", "discretization_error", "seed", "wall_time"):
            _variable(f, f"quality_{name}", ("sample",), split.quality(name))
        if schema.mesh is not None:
            _mesh(f, schema)
        _fields(f, split)


def _coordinates(schema: DatasetSchema) -> Any:
    if schema.problem_type == "time_dependent":
        # not "s" alone: netCDF readers would make dates or durations of it
        yield "time", np.asarray(schema.time), {"units": schema.time_units, "long_name": "time"}
    for axis in schema.grid.axes:
        yield axis.name, axis.coords, {"units": axis.units, "axis": axis.name.upper()}
    for extra in schema.axes:
        yield extra.name, np.asarray(extra.coords), {"units": extra.units}
    if any(f.rank for f in schema.fields):
        yield "component", np.arange(schema.dim), {}
    if any(f.rank == 2 for f in schema.fields):
        yield "component_2", np.arange(schema.dim), {}


def _mesh(f: Any, schema: DatasetSchema) -> None:
    mesh = schema.mesh
    assert mesh is not None and mesh.cell_types is not None and mesh.cell_offsets is not None
    assert mesh.connectivity is not None
    f.dimensions["point"] = mesh.n_points
    f.dimensions["space"] = mesh.dim
    _variable(f, "points", ("point", "space"), mesh.points, {"units": mesh.units})
    _variable(f, "point_weights", ("point",), mesh.point_weights)
    if mesh.n_cells:
        f.dimensions["cell"] = mesh.n_cells
        f.dimensions["cell_edge"] = mesh.n_cells + 1
        f.dimensions["corner"] = len(mesh.connectivity)
        _variable(f, "connectivity", ("corner",), mesh.connectivity)
        _variable(f, "cell_offsets", ("cell_edge",), mesh.cell_offsets)
        _variable(f, "cell_types", ("cell",), mesh.cell_types)


def _fields(f: Any, split: Split) -> None:
    schema, n = split.schema, len(split)
    for spec in schema.fields:
        dims, shape = schema.sample_dims(spec.name), schema.sample_shape(spec.name)
        lead = (("sample",), (n,)) if spec.sample_varying else ((), ())
        attrs: dict[str, Any] = {"units": spec.units, "long_name": spec.long_name}
        attrs["location"] = spec.location
        attrs |= {
            k: v
            for k, v in (("valid_min", spec.valid_min), ("valid_max", spec.valid_max))
            if v is not None
        }
        var = f.create_variable(
            spec.name, lead[0] + dims, np.dtype(schema.dtype),
            chunks=(1, *shape) if spec.sample_varying else None,
            compression="gzip" if spec.sample_varying else None,
            compression_opts=4 if spec.sample_varying else None,
            shuffle=bool(spec.sample_varying),
        )  # fmt: skip
        var.attrs.update(attrs)
        if not spec.sample_varying:
            var[...] = split.read([0], [spec.name])[spec.name][0]
            continue
        size = max(1, int(np.prod(shape))) * np.dtype(schema.dtype).itemsize
        step = max(1, BLOCK_BYTES // size)
        for a in range(0, n, step):
            b = min(n, a + step)
            var[a:b] = split.read(np.arange(a, b), [spec.name])[spec.name]


def _variable(
    f: Any, name: str, dims: tuple[str, ...], values: Any, attrs: dict[str, Any] | None = None
) -> None:
    values = np.asarray(values)
    var = f.create_variable(name, dims, values.dtype)
    var[...] = values
    var.attrs.update({k: v for k, v in (attrs or {}).items() if v != ""})


def export_well(root: str | Path, out: str | Path) -> Path:
    """Copy a dataset of layout grid into The Well's directory: ``out/data/<split>/*.hdf5``.

    The shards are valid files of The Well as they are; its loader knows the splits train, valid
    and test, so that further ones stay behind.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    SchemaError
        Another layout: The Well has grids alone.
    FileExistsError, DatasetError, OSError
    """
    root, out = Path(root), Path(out)
    dataset = open_dataset(root)
    if dataset.schema.layout != "grid":
        raise SchemaError(f"{root}: layout {dataset.schema.layout!r}; The Well has grids alone")
    if not root.is_dir():
        raise SchemaError(f"{root}: export a dataset's directory to The Well, not a file")
    partial = _start(out)
    try:
        for name in ("train", "valid", "test"):
            if name not in dataset:
                continue
            target = partial / "data" / name
            target.mkdir(parents=True)
            for path in dataset[name].files:
                with _file.open_file(path):
                    shutil.copyfile(path, target / f"{path.stem}.hdf5")
        if (root / "stats.yaml").is_file():
            shutil.copyfile(root / "stats.yaml", partial / "stats.yaml")
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out
