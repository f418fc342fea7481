"""`dataset_info`: what a dataset is, for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from solvers.meshes import VTK_CELLS

from . import _file
from ._mesh import sample_slices
from .errors import translate_h5
from .reader import Dataset, open_dataset
from .schema import DatasetSchema

__all__ = ["dataset_info", "format_info"]


def dataset_info(path: str | Path) -> dict[str, Any]:
    """Describe a directory or a file; no field values are read.

    Parameters
    ----------
    path : path
        Whatever `open_dataset` takes.

    Returns
    -------
    dict
        JSON types: ``format_version``, ``layout``, ``problem``, ``problem_type``, ``title``,
        ``equation``, ``axes``, ``inputs``, ``outputs``, ``fields``, ``scalars``,
        ``boundary_conditions``, ``splits`` (samples, failures, quality, bytes), ``made_by``,
        ``storage``, ``content_digest``; ``split`` and ``shard_index`` for a shard.

    Raises
    ------
    FileNotFoundError, DatasetError
    """
    dataset = open_dataset(path)
    schema = dataset.schema
    files = [p for s in dataset.splits for p in dataset[s].files]
    head = dataset.path if dataset.path.is_file() else files[0]
    with _file.open_file(head) as f, translate_h5(head):
        version = str(f.attrs["format_version"])
        prov = {k: _plain(v) for k, v in f["provenance"].attrs.items()}
        single = (
            dataset.path.is_file() and not _file.has(f, "splits") and not f.attrs.get("view", False)
        )
        shard = {
            "split": str(f.attrs["split"]),
            "shard_index": int(f.attrs["shard_index"]),
        }
    with _file.open_file(files[0] if files else head) as f:
        storage = {s.name: _storage(f[_file.field_path(schema, s.name)]) for s in schema.fields}
    grid_axes = [
        {
            "name": a.name,
            "n": a.n,
            "bounds": [a.lower, a.upper],
            "units": a.units,
            "location": a.location,
            "periodic": a.periodic,
        }
        for a in schema.grid.axes
    ]
    mesh = _mesh(schema, files)
    return {
        "path": str(path),
        "format": "opkit-dataset",
        "format_version": version,
        "layout": schema.layout,
        "problem": schema.problem,
        "problem_type": schema.problem_type,
        "title": schema.title,
        "equation": schema.equation,
        **(shard if single else {}),
        "axes": grid_axes,
        "extra_axes": [
            {
                "name": a.name,
                "n": len(a.coords),
                "first": a.coords[0],
                "last": a.coords[-1],
                "units": a.units,
                "labels": _labels(schema, a.name),
            }
            for a in schema.axes
        ],
        "mesh": mesh,
        "time": {
            "n": len(schema.time),
            "first": None if schema.time_per_sample else schema.time[0],
            "last": None if schema.time_per_sample else schema.time[-1],
            "units": schema.time_units,
            "per_sample": schema.time_per_sample,
        },
        "inputs": list(schema.inputs),
        "outputs": list(schema.outputs),
        "fields": [_field(schema, s.name, storage[s.name]) for s in schema.fields],
        "scalars": [
            {"name": s.name, "long_name": s.long_name, "units": s.units, "value": s.value}
            for s in schema.scalars
        ],
        "boundary_conditions": [
            {
                "axis": b.axis,
                "side": b.side,
                "kind": b.kind,
                "fields": list(b.fields),
                "value": b.value,
            }
            for b in schema.boundary_conditions
        ],
        "splits": {s: _split(dataset, s) for s in dataset.splits},
        "made_by": {
            "created": prov.get("created", ""),
            "opkit_version": prov.get("opkit_version", ""),
            "git_commit": prov.get("git_commit", ""),
            "solver": prov.get("solver", ""),
            "solver_tolerance": prov.get("solver_tolerance"),
            "config_sha256": prov.get("config_sha256", ""),
            "seed": prov.get("seed"),
            "discretization": prov.get("discretization", ""),
            "license": prov.get("license", ""),
        },
        "config": dataset.config,
        "content_digest": dataset.content_digest,
    }


def _mesh(schema: DatasetSchema, files: Sequence[Path]) -> dict[str, Any] | None:
    """Points, cells and extent; smallest and largest number of points where they vary."""
    if schema.layout not in ("mesh", "ragged"):
        return None
    points: list[np.ndarray] = []
    cells, kinds, units, size = [], set[str](), "", math.nan
    for path in dict.fromkeys(files):
        with _file.open_file(path) as f, translate_h5(path):
            offsets = sample_slices(f) if schema.layout == "ragged" else {}
            ds = _file.get_dataset(f, "mesh/points")
            units = str(_file.attr(ds, "units"))
            ends = {"point": np.array([0, len(ds)]), "cell": np.array([0, 0])}
            if _file.has(f, "mesh/cell_types"):
                types = _file.get_dataset(f, "mesh/cell_types")
                ends["cell"] = np.array([0, len(types)])
                first = np.unique(types[: 2**20]).tolist()
                kinds |= {VTK_CELLS[c][0] if c in VTK_CELLS else str(c) for c in first}
            points.append(np.diff(offsets.get("point", ends["point"])))
            cells.append(np.diff(offsets.get("cell", ends["cell"])))
            size = np.fmax(size, float(_file.get(f, "provenance").attrs.get("mesh_size", math.nan)))
        if schema.layout == "mesh":
            break
    counts = {"points": np.concatenate(points), "cells": np.concatenate(cells)}
    return {
        "dim": schema.dim,
        "units": units,
        "cell_types": sorted(kinds),
        "mesh_size": None if math.isnan(size) else float(size),
        **{k: [int(v.min()), int(v.max())] if v.size else [0, 0] for k, v in counts.items()},
    }


def _labels(schema: DatasetSchema, axis: str) -> list[str]:
    """Names of the entries of an axis, as a field on it says."""
    for f in schema.fields:
        if f.dims and f.dims[-1] == axis and f.labels:
            return list(f.labels)
    return []


def _plain(v: Any) -> Any:
    return v.item() if isinstance(v, np.generic) else v


def _storage(ds: h5py.Dataset) -> dict[str, Any]:
    return {
        "chunks": list(ds.chunks) if ds.chunks else None,
        "compression": ds.compression,
        "compression_level": ds.compression_opts,
        "shuffle": bool(ds.shuffle),
        "fletcher32": bool(ds.fletcher32),
    }


def _field(schema: DatasetSchema, name: str, storage: dict[str, Any]) -> dict[str, Any]:
    s = schema.field(name)
    return {
        "name": name,
        "path": _file.field_path(schema, name),
        "dims": list(_file.field_dims(schema, s)),
        "sample_shape": list(schema.sample_shape(name)),
        "dtype": schema.dtype,
        "units": s.units,
        "long_name": s.long_name,
        "valid_min": s.valid_min,
        "valid_max": s.valid_max,
        **storage,
    }


def _split(dataset: Dataset, name: str) -> dict[str, Any]:
    split = dataset[name]
    n = len(split)
    out: dict[str, Any] = {
        "samples": n,
        "first_id": int(split.ids[0]) if n else None,
        "last_id": int(split.ids[-1]) if n else None,
        "files": len(split.files),
        "bytes": sum(p.stat().st_size for p in split.files),
        "failures": 0,
        "estimator": "none",
    }
    for path in split.files:
        with _file.open_file(path) as f, translate_h5(path):
            out["failures"] += len(_file.get_dataset(f, "failures/sample_id"))
            if "discretization_error" in _file.quality_columns(f):
                attrs = f["quality/discretization_error"].attrs
                out["estimator"] = str(attrs.get("estimator", "none"))
            known = _file.quality_columns(f)
            has_quality, has_time_error = "residual" in known, "time_error" in known
    if n and has_quality:
        error = split.quality("discretization_error")
        out["residual_max"] = float(split.quality("residual").max())
        out["iterations_max"] = int(split.quality("iterations").max())
        out["wall_time_mean"] = float(split.quality("wall_time").mean())
        out["discretization_error"] = _summary(error)
        if has_time_error:
            out["time_error"] = _summary(split.quality("time_error"))
    return out


def _summary(values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    return {
        "n": len(known),
        "mean": float(known.mean()) if len(known) else None,
        "max": float(known.max()) if len(known) else None,
    }


# -- for people ----------------------------------------------------------------------------------


def format_info(info: dict[str, Any]) -> str:
    """Lay out what `dataset_info` returned.

    Parameters
    ----------
    info : dict

    Returns
    -------
    str
        A shard in the form of the format description's example; a directory, view or plain
        file with one line a split.
    """
    kind = info["problem_type"].replace("_", "-")
    head = (
        f"{Path(info['path']).name or info['path']}   format={info['format']} "
        f"{info['format_version']}  layout={info['layout']}  problem={info['problem']} ({kind})"
    )
    single = "shard_index" in info
    if single:
        (split,) = info["splits"].values()
        head += f"  split={info['split']} shard {info['shard_index']}   {split['samples']} samples"
    lines = [head, f"  {_axes_line(info, single)}"]
    lines += [f"  {line}" for line in _field_lines(info)]
    if info["scalars"]:
        lines.append(f"  scalars  {'; '.join(_scalar(s) for s in info['scalars'])}")
    if info["boundary_conditions"]:
        lines.append(f"  bc       {'; '.join(_boundaries(info))}")
    if single:
        lines.append(f"  quality  {_quality(split)}")
    else:
        width = max(map(len, info["splits"]))
        for i, (name, s) in enumerate(info["splits"].items()):
            label = "splits   " if i == 0 else " " * 9
            size = f"{s['bytes'] / 2**20:.1f} MiB in {s['files']} file{'s' * (s['files'] != 1)}"
            lines.append(
                f"  {label}{name:<{width}}  {s['samples']} samples · {size} · {_quality(s)}"
            )
    made = info["made_by"]
    tolerance = made["solver_tolerance"]
    lines.append(
        f"  made by  opkit {made['opkit_version']}, {made['solver']}"
        + (f" tol {tolerance:g}" if tolerance is not None else "")
        + f", config {made['config_sha256'][:4]}…, seed {made['seed']}"
    )
    return "\n".join(lines)


def _number(v: float) -> str:
    return f"{v:.6g}"


def _axes_line(info: dict[str, Any], single: bool) -> str:
    parts = []
    if single:
        (split,) = info["splits"].values()
        ids = f" {split['first_id']}…{split['last_id']}" if split["samples"] else ""
        parts.append(f"sample ({split['samples']}) i8{ids}")
    t = info["time"]
    if t["per_sample"]:
        parts.append(f"time (sample,{t['n']}) f8 {t['units']}")
    elif t["n"] == 1:
        parts.append(f"time (1) f8 = {_number(t['first'])}")
    else:
        parts.append(f"time ({t['n']}) f8 {t['units']} {_number(t['first'])}…{_number(t['last'])}")
    for a in info["axes"]:
        low, high = map(_number, a["bounds"])
        periodic = " periodic" if a["periodic"] else ""
        place = a["location"].replace("_", " ")
        parts.append(f"{a['name']} ({a['n']}) f8 {a['units']} [{low},{high}] {place}{periodic}")
    for a in info["extra_axes"]:
        entries = ",".join(a["labels"]) or f"{_number(a['first'])}…{_number(a['last'])}"
        parts.append(f"{a['name']} ({a['n']}) f8 {a['units']} {entries}")
    if info["mesh"]:
        parts.append(_mesh_text(info["mesh"], info["layout"]))
    return "     ".join(parts)


def _field_lines(info: dict[str, Any]) -> Iterator[str]:
    fields = {f["name"]: f for f in info["fields"]}
    scalars = {s["name"] for s in info["scalars"]}
    shown: set[str] = set()
    roles = [("inputs", info["inputs"]), ("outputs", info["outputs"])]
    rest = [n for n in fields if n not in {*info["inputs"], *info["outputs"]}]
    for role, names in [*roles, ("others", rest)]:
        for i, name in enumerate(names):
            label = f"{role:<9}" if i == 0 else " " * 9
            if name in scalars:
                yield f"{label}{name} → scalars/{name}"
                continue
            f = fields[name]
            dims = ",".join(f["dims"])
            code = {"float32": "f4", "float64": "f8"}[f["dtype"]]
            line = f"{label}{name} → {f['path']} ({dims}) {code}  {f['units']}  {f['long_name']}"
            if bounds := _bounds(f):
                line += f"   {bounds}"
            if not shown:
                line += f"   {_storage_text(f)}"
            shown.add(name)
            yield line


def _mesh_text(m: dict[str, Any], layout: str) -> str:
    def count(what: str) -> str:
        low, high = m[what]
        return f"{low}" if low == high else f"{low}…{high}"

    kinds = ", ".join(m["cell_types"])
    cells = f", {count('cells')} cells ({kinds})" if m["cell_types"] else ""
    each = " a sample" if layout == "ragged" else ""
    size = f", mesh size {_number(m['mesh_size'])}" if m["mesh_size"] else ""
    return f"mesh {m['dim']}D {m['units']} {count('points')} points{cells}{each}{size}"


def _bounds(f: dict[str, Any]) -> str:
    low, high = f["valid_min"], f["valid_max"]
    if low is not None and high is not None:
        return f"in [{_number(low)},{_number(high)}]"
    if low is not None:
        return f"≥ {_number(low)}"
    return f"≤ {_number(high)}" if high is not None else ""


def _storage_text(f: dict[str, Any]) -> str:
    if not f["chunks"]:
        return "contiguous"
    words = [f"chunk ({','.join(map(str, f['chunks']))})"]
    if f["compression"]:
        words.append(f"{f['compression']}{f['compression_level']}")
    words += [w for w in ("shuffle", "fletcher32") if f[w]]
    return " ".join(words)


def _scalar(s: dict[str, Any]) -> str:
    if s["value"] is None:
        return f"{s['name']} (sample) f8 {s['units']}"
    return f"{s['name']} () f8 {s['units']} = {_number(s['value'])}"


def _boundaries(info: dict[str, Any]) -> Iterator[str]:
    """Conditions that say the same of several axes on one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for b in info["boundary_conditions"]:
        side = "" if b["side"] == "both" else f" ({b['side']})"
        names = ",".join(b["fields"])
        value = "" if b["kind"] == "periodic" else f" = {_number(b['value'])}"
        groups.setdefault((b["kind"], names + value), []).append(b["axis"] + side)
    for (kind, what), axes in groups.items():
        yield f"{', '.join(axes)}: {kind} {what}"


def _quality(s: dict[str, Any]) -> str:
    parts = []
    if "residual_max" in s:
        parts.append(f"residual max {s['residual_max']:.1e}")
        error = s["discretization_error"]
        if error["n"]:
            parts.append(
                f"discretization_error mean {error['mean']:.1e} "
                f"({s['estimator']}, {error['n']} of {s['samples']})"
            )
        else:
            parts.append("discretization_error not estimated")
        if s.get("time_error", {}).get("n"):
            parts.append(f"time_error max {s['time_error']['max']:.1e}")
        parts.append(f"wall_time {s['wall_time_mean']:.2g} s/sample")
    parts.append(f"failures {s['failures']}")
    return " · ".join(parts)
