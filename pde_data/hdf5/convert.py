"""A dataset as one plain file, to send to somebody, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import _file
from ._atomic import atomic_h5
from ._mesh import RaggedMeshes, RaggedReader, Rows
from .errors import DatasetError, SchemaError, translate_h5
from .manifest import ShardFacts, own_attrs, rebuild_index, shard_facts
from .reader import read_manifest
from .schema import DatasetConfig, DatasetSchema
from .writer import shard_path

__all__ = ["export_h5", "import_h5"]

Failures = Sequence[tuple[int, int, str]]
#: Samples decoded at a time where chunks cannot be copied as they are.
BLOCK_BYTES = 2**24


def export_h5(root: str | Path, file: str | Path) -> Path:
    """Write all splits of a dataset directory into one plain HDF5 file.

    The file has the schema of a shard with ``split="all"`` and a group ``/splits`` with the
    positions of each split's samples; ``/provenance`` holds the texts of ``dataset.json`` and
    ``stats.yaml``. Digests stay as they are; equal input gives equal bytes.

    Parameters
    ----------
    root : path
        Directory with ``dataset.json``.
    file : path
        New file.

    Returns
    -------
    Path
        `file`.

    Raises
    ------
    FileExistsError
        `file` exists.
    FileNotFoundError, DatasetError, OSError
    """
    root, file = Path(root), Path(file)
    if file.exists():
        raise FileExistsError(f"{file} exists already; choose another name")
    if not (root / "dataset.json").exists():
        raise DatasetError(f"{root} has no dataset.json. Make it with: opkit data index {root}")
    manifest = read_manifest(root)
    splits = sorted(manifest["splits"].items(), key=lambda item: int(item[1]["code"]))
    facts = {name: [shard_facts(root / s["file"]) for s in v["shards"]] for name, v in splits}
    shards = [s for group in facts.values() for s in group]
    if not shards:
        raise DatasetError(f"{root}: there are no shards to export")
    texts = {"manifest": root / "dataset.json", "stats": root / "stats.yaml"}

    def add_splits(f: h5py.File) -> None:
        f.create_group("splits")
        start = 0
        for name, group in facts.items():
            stop = start + sum(len(s.ids) for s in group)
            positions = np.arange(start, stop, dtype="<i8")
            _file.column(f["splits"], name, positions).make_scale(name)
            start = stop

    _assemble(
        file,
        [(s.path, 0, len(s.ids)) for s in shards],
        split="all",
        shard=0,
        failures=[x for s in shards for x in s.failures],
        provenance={k: p.read_text(encoding="utf-8") for k, p in texts.items() if p.exists()},
        more=add_splits,
    )
    return file


def import_h5(file: str | Path, root: str | Path) -> dict[str, Any]:
    """Turn a file of `export_h5` into a dataset directory with the same digests.

    Parameters
    ----------
    file : path
    root : path
        New directory.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    FileExistsError
        `root` exists and is not empty.
    FileNotFoundError, DatasetError, OSError
    """
    file, root = Path(file), Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists already; choose another directory")
    facts = shard_facts(file)
    with _file.open_file(file) as f, translate_h5(file):
        if not _file.has(f, "splits"):
            raise SchemaError(f"{file}: not an exported dataset (group 'splits' is missing).")
        positions = {
            name: _file.get_dataset(f, f"splits/{name}")[...]
            for name in _file.get_group(f, "splits")
        }
    config = DatasetConfig.from_dict(facts.config)
    for split in positions:
        for k in range(config.n_shards(split)):
            _import_shard(file, facts, config, root, split, k)
    return rebuild_index(root)


def _import_shard(
    file: Path, facts: ShardFacts, config: DatasetConfig, root: Path, split: str, k: int
) -> None:
    ids = config.sample_ids(split, k)
    a, b = np.searchsorted(facts.ids, [ids[0], ids[-1] + 1])
    failures = [x for x in facts.failures if ids[0] <= x[0] <= ids[-1]]
    if a == b and not failures:  # never written
        return
    path = shard_path(root, split, k, problem=config.problem)
    _assemble(
        path, [(file, int(a), int(b))], split=split, shard=k, failures=failures, provenance={}
    )


def _assemble(
    path: Path,
    pieces: Sequence[tuple[Path, int, int]],
    *,
    split: str,
    shard: int,
    failures: Failures,
    provenance: Mapping[str, Any],
    more: Callable[[h5py.File], None] | None = None,
) -> None:
    """Write a file from rows ``[a, b)`` of others; `more` adds to it before it is complete."""
    head = pieces[0][0]
    n = sum(b - a for _, a, b in pieces)
    with _file.open_file(head) as f, translate_h5(head):
        schema = _file.read_schema(f)
        own = dict(_file.get(f, "provenance").attrs)
        for name in ("statistics", "manifest", "stats"):
            own.pop(name, None)
        has_error = "discretization_error" in _file.quality_columns(f)
        estimator = own_attrs(f["quality/discretization_error"]) if has_error else {}
        compressed = [f[_file.field_path(schema, s.name)].compression for s in schema.fields]
    quality: list[dict[str, np.ndarray]] = []
    columns: dict[str, list[np.ndarray]] = {}
    boundary: dict[str, list[np.ndarray]] = {}
    with atomic_h5(path) as out:
        _file.write_frame(out, schema, split=split, shard=shard, provenance={**own, **provenance})
        compression = next((c for c in compressed if c), None)
        meshes = RaggedMeshes(out, schema.dim, compression) if schema.layout == "ragged" else None
        fields = {s.name: _file.create_field(out, schema, s, n, compression) for s in schema.fields}
        kinds = {s.name: _file.rows_of(schema, s) for s in schema.fields}
        rows = {k: Rows(ds) for k, ds in fields.items() if kinds[k] in ("point", "cell")}
        start = 0
        for source, a, b in pieces:
            with _file.open_file(source) as f, translate_h5(source):
                offsets = {}
                if meshes is not None:
                    offsets = _copy_meshes(f, schema, a, b, meshes, boundary)
                for name, out_ds in fields.items():
                    ds = _file.get_dataset(f, _file.field_path(schema, name))
                    if name in rows:
                        o = offsets[kinds[name]]
                        _copy_rows(ds, int(o[a]), int(o[b]), rows[name])
                    elif kinds[name] == "sample":
                        _copy(ds, a, b, out_ds, start)
                    elif start == 0 and b > a:
                        out_ds[...] = ds[...]
                for name in _columns(schema):
                    columns.setdefault(name, []).append(_file.get_dataset(f, name)[a:b])
                known = _file.quality_columns(f)
                quality.append({c: _file.get_dataset(f, f"quality/{c}")[a:b] for c in known})
            start += b - a
        for r in rows.values():
            r.flush()
        if meshes is not None:
            meshes.finish()
            if meshes.max_diameter:
                out["provenance"].attrs["mesh_size"] = meshes.max_diameter
            _file.write_boundary_points(out, schema, boundary)
        joined = {k: np.concatenate(v) for k, v in columns.items()}
        if more is not None:
            more(out)
        _file.write_columns(
            out,
            schema,
            ids=joined.pop("sample"),
            quality=_file.join_columns(quality),
            scalars={k[8:]: v for k, v in joined.items() if k.startswith("scalars/")},
            failures=failures,
            estimator=estimator,
            times=joined.get("time"),
        )


def _columns(schema: DatasetSchema) -> Iterator[str]:
    yield "sample"
    if schema.time_per_sample:
        yield "time"
    yield from (f"scalars/{s.name}" for s in schema.scalars if s.value is None)


def _copy_meshes(
    f: h5py.File,
    schema: DatasetSchema,
    a: int,
    b: int,
    meshes: RaggedMeshes,
    boundary: dict[str, list[np.ndarray]],
) -> dict[str, np.ndarray]:
    """Meshes of the samples ``a`` to ``b``; returns the offsets of all samples in `f`."""
    reader = RaggedReader(f)
    first, last = (int(reader.offsets["point"][i]) for i in (a, b))
    for name in _file.boundary_names(schema):
        points = _file.get_dataset(f, f"boundary_conditions/{name}/point_index")[...]
        here = points[(points >= first) & (points < last)]
        boundary.setdefault(name, []).append(here - first + meshes.n_points)
    for i in range(a, b):
        meshes.add(reader.read(i))
    return reader.offsets


def _copy_rows(src: h5py.Dataset, a: int, b: int, dst: Rows) -> None:
    step = max(1, BLOCK_BYTES // (max(1, int(np.prod(src.shape[1:]))) * src.dtype.itemsize))
    for i in range(a, b, step):
        dst.append(src[i : min(i + step, b)])


def _copy(src: h5py.Dataset, a: int, b: int, dst: h5py.Dataset, start: int) -> None:
    """``dst[start:start + b - a] = src[a:b]``; whole chunks go over without decoding."""
    same = (
        src.chunks is not None
        and src.chunks == dst.chunks
        and src.chunks[0] == 1
        and (src.compression, src.shuffle, src.fletcher32)
        == (dst.compression, dst.shuffle, dst.fletcher32)
    )
    if same:
        for corner in np.ndindex(*(-(-n // c) for n, c in zip(src.shape, src.chunks, strict=True))):
            if a <= corner[0] < b:
                at = tuple(i * c for i, c in zip(corner, src.chunks, strict=True))
                mask, data = src.id.read_direct_chunk(at)
                dst.id.write_direct_chunk((at[0] - a + start, *at[1:]), data, mask)
        return
    row = max(1, int(np.prod(src.shape[1:]))) * src.dtype.itemsize
    step = max(1, BLOCK_BYTES // row)
    for i in range(a, b, step):
        j = min(i + step, b)
        dst[start + i - a : start + j - a] = src[i:j]
