"""``dataset.json``, ``stats.yaml`` and the virtual views: all can be rebuilt from the shards."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import _file
from ._atomic import atomic_h5, clean_old, write_text
from ._mesh import CELL_TABLES, POINT_TABLES, sample_slices
from ._places import chunk_runs, field_bytes, frame, has_frame
from .errors import (
    ConfigMismatchError,
    DatasetError,
    NotAnOpkitFileError,
    SchemaError,
    translate_h5,
)
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    SPLIT_CODES,
    DatasetSchema,
    check_split_name,
    split_of_id,
)
from .stats import Moments, statistics

__all__ = ["rebuild_index"]

#: A view over more shards than this could run out of file descriptors, silently.
MAX_VIEW_SHARDS = 200


@dataclass(frozen=True)
class ShardFacts:
    """What the index needs to know about one shard."""

    path: Path
    schema: DatasetSchema
    config: dict[str, Any]
    config_sha256: str
    ids: np.ndarray
    digests: np.ndarray
    failures: list[tuple[int, int, str]]
    residual: np.ndarray
    error: np.ndarray
    content_digest: str
    statistics: dict[str, Any]
    chunks: dict[str, list[list[int]]]
    stamp: tuple[int, int, int]
    #: Checksum of all bytes but those of the fields, see `_places.frame`; empty if there is none.
    frame: dict[str, Any]
    #: From `all_facts` alone.
    sha256: str = ""
    view: ViewPart | None = None

    @property
    def code(self) -> int | None:
        """Code of its split; None if it holds nothing at all."""
        known = [*self.ids[:1].tolist(), *(x[0] for x in self.failures[:1])]
        return split_of_id(known[0]) if known else None

    def accounts_for(self, ids: Iterable[int]) -> bool:
        """Whether it holds exactly these samples, as data or as failures."""
        return {*self.ids.tolist(), *(x[0] for x in self.failures)} == set(ids)


def stamp(path: Path) -> tuple[int, int, int]:
    """Size, time of the last change in ns, and inode: others if a file has been touched."""
    st = path.stat()
    return st.st_size, st.st_mtime_ns, st.st_ino


def all_facts(path: Path) -> ShardFacts:
    """Return `shard_facts` and whatever else `rebuild_index` reads of a shard."""
    return replace(shard_facts(path, view=True), sha256=file_sha256(path))


def sound_shards(root: Path) -> list[ShardFacts]:
    """Return `shard_facts` of all shards that are sound.

    A shard of the index is one as long as all bytes beside its fields are those that the index was
    made from; the others are gone through.
    """
    try:
        found = find_shards(root)
    except (NotAnOpkitFileError, FileNotFoundError):
        return []
    entries, facts, like = _entries(_read_json(root / "dataset.json")), [], None
    for path in itertools.chain.from_iterable(found.values()):
        with suppress(DatasetError, OSError):
            known = entries.get(path.relative_to(root).as_posix(), {}).get("frame")
            same = known is not None and has_frame(path, known)
            known = replace(like, frame=known or {}) if same and like is not None else None
            facts.append(shard_facts(path, like=known))
            if same:  # an index is of shards with one schema
                like = facts[-1]
    return facts


def shard_facts(path: Path, *, view: bool = False, like: ShardFacts | None = None) -> ShardFacts:
    """Read everything but the fields of one shard, and check its structure.

    Parameters
    ----------
    view : bool
        Read what a view copies, too.
    like : ShardFacts, optional
        Of a shard with the same schema, and with the `frame` of this one, whose structure is
        known to be sound.

    Raises
    ------
    DatasetError
    """
    before = stamp(path)
    with _file.open_file(path, check=like is None) as f, translate_h5(path):
        schema = _file.read_schema(f) if like is None else like.schema
        n = _file.check_shapes(f, schema) if like is None else len(f["sample"])
        fields = [_file.field_path(schema, s.name) for s in schema.fields]
        rejected = [_file.get_dataset(f, f"failures/{k}") for k in ("sample_id", "seed", "reason")]
        if any(d.shape != rejected[0].shape or d.ndim != 1 for d in rejected):
            raise SchemaError(f"{path}: the columns of failures differ in length.")
        failures = [
            (int(i), int(s), r.decode() if isinstance(r, bytes) else str(r))
            for i, s, r in zip(*(d[...] for d in rejected), strict=True)
        ]
        prov = _file.get(f, "provenance").attrs
        has_quality = "residual" in _file.quality_columns(f)
        columns = {
            k: f[f"quality/{k}"][...] if has_quality else fill
            for k, fill in (
                ("digest", np.zeros(n, "S32")),
                ("residual", np.full(n, np.nan)),
                ("discretization_error", np.full(n, np.nan)),
            )
        }
        return ShardFacts(
            path=path,
            schema=schema,
            config=_file.provenance_json(f, "config"),
            config_sha256=str(prov.get("config_sha256", "")),
            ids=f["sample"][...],
            digests=columns["digest"],
            failures=failures,
            residual=columns["residual"],
            error=columns["discretization_error"],
            content_digest=str(_file.attr(f, "content_digest")),
            statistics=_file.provenance_json(f, "statistics"),
            chunks=_chunks(f, fields),
            stamp=before,
            frame=_frame(f, path, schema, fields) if like is None else like.frame,
            view=_view_part(f, schema) if view else None,
        )


def _frame(
    f: h5py.File, path: Path, schema: DatasetSchema, fields: Sequence[str]
) -> dict[str, Any]:
    """Checksum of all but the values of fields and the meshes of samples."""
    paths = list(fields)
    if schema.layout == "ragged":
        paths += (p for t in (*POINT_TABLES, *CELL_TABLES) if _file.has(f, p := f"mesh/{t}"))
    places = field_bytes(f, (_file.get_dataset(f, p) for p in paths))
    return {} if places is None else frame(path, places)


def _chunks(f: h5py.File, paths: Iterable[str]) -> dict[str, list[list[int]]]:
    """Where the samples of uncompressed fields lie, for readers that need not ask HDF5."""
    runs = {p: chunk_runs(_file.get_dataset(f, p)) for p in paths}
    return {p: r for p, r in runs.items() if r is not None}


def chunks_digest(entry: Mapping[str, Any]) -> str:
    """Checksum of what an entry says of the places of its samples, hex."""
    keys = ("file", "n", "bytes", "content_digest", "stamp", "chunks")
    text = json.dumps([entry[k] for k in keys], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_shards(root: str | Path) -> dict[str, list[Path]]:
    """Shards below ``root/data`` by split, in order; train, valid, test first.

    Raises
    ------
    FileNotFoundError
        `root` does not exist.
    NotAnOpkitFileError
        It has no shards.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such directory")
    found: dict[str, list[Path]] = {}
    for path in sorted((root / "data").glob("*/*.h5")):
        split = path.parent.name
        with suppress(ValueError):
            check_split_name(split)
            if re.search(rf"_{split}_\d{{5,}}\.h5\Z", path.name) and path.name[0] != ".":
                found.setdefault(split, []).append(path)
    if not found:
        raise NotAnOpkitFileError(
            f"{root}: not an opkit dataset (no shards data/<split>/<name>_<split>_00000.h5 in it)."
        )
    order = {s: i for i, s in enumerate(SPLIT_CODES)}
    return {s: found[s] for s in sorted(found, key=lambda s: (order.get(s, 9), s))}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def build_manifest(
    root: Path,
    facts: Mapping[str, Sequence[ShardFacts]],
    *,
    requested: Mapping[str, int] | None = None,
    checksums: bool = True,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the content of ``dataset.json``, views left out.

    Parameters
    ----------
    known : mapping of str to mapping, optional
        Entries of an older manifest by file: the checksum of a file that has not been touched since
        is taken from there. That is not only cheaper: a file that has decayed does not get
        a new checksum that fits.

    Raises
    ------
    DatasetError
        Shards that do not belong together.
    """
    first = next(iter(facts.values()))[0]
    splits: dict[str, Any] = {}
    codes: dict[int, str] = {}
    for split, shards in facts.items():
        code = _split_code(split, shards, codes)
        wanted = max((int(s.config.get("n", {}).get(split, 0)) for s in shards), default=0)
        errors = np.concatenate([s.error[np.isfinite(s.error)] for s in shards])
        residuals = np.concatenate([s.residual for s in shards])
        entries = []
        for s in shards:
            _belongs(s, first)
            name, st = s.path.relative_to(root).as_posix(), s.path.stat()
            entry = {
                "file": name,
                "n": len(s.ids),
                "bytes": st.st_size,
                "sha256": "",
                "content_digest": s.content_digest,
            }
            if checksums:
                entry["stamp"] = [st.st_mtime_ns, st.st_ino]
                old = (known or {}).get(name, {})
                same = all(old.get(k) == v for k, v in entry.items() if k != "sha256")
                fresh = s.sha256 if s.stamp == (st.st_size, st.st_mtime_ns, st.st_ino) else ""
                entry["sha256"] = (same and old.get("sha256")) or fresh or file_sha256(s.path)
                if s.frame and s.stamp == (st.st_size, st.st_mtime_ns, st.st_ino):
                    entry["frame"] = s.frame
                if s.chunks:
                    entry["chunks"] = s.chunks
                    entry["chunks_digest"] = chunks_digest(entry)
            entries.append(entry)
        splits[split] = {
            "code": code,
            "requested": int((requested or {}).get(split, wanted)),
            "written": sum(len(s.ids) for s in shards),
            "failed": sum(len(s.failures) for s in shards),
            "residual_max": float(np.max(residuals)) if residuals.size else None,
            "discretization_error": {
                "n": len(errors),
                "mean": float(errors.mean()) if len(errors) else None,
                "max": float(errors.max()) if len(errors) else None,
            },
            "shards": entries,
        }
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dataset_name": first.schema.problem,
        "title": first.schema.title,
        "problem": first.schema.problem,
        "layout": first.schema.layout,
        "config_sha256": first.config_sha256,
        "seed": first.config.get("seed"),
        "samples_per_shard": first.config.get("samples_per_shard"),
        "content_digest": total_digest(s for shards in facts.values() for s in shards),
        "inputs": list(first.schema.inputs),
        "outputs": list(first.schema.outputs),
        "resolution": list(first.schema.grid.shape or first.config.get("resolution", ())),
        "splits": splits,
    }


def total_digest(shards: Iterable[ShardFacts]) -> str:
    """Content digest over all samples in the order of their ids."""
    shards = list(shards)
    ids = np.concatenate([s.ids for s in shards])
    digests = np.concatenate([s.digests for s in shards])
    order = np.argsort(ids, kind="stable")
    return _file.content_digest(ids[order], digests[order])


def _split_code(split: str, shards: Sequence[ShardFacts], codes: dict[int, str]) -> int:
    found = {s.code for s in shards} - {None}
    code = SPLIT_CODES.get(split)
    if code is None:
        code = min((c for c in found if c is not None), default=len(SPLIT_CODES))
    last = -1
    for s in shards:
        ids = s.ids
        if len(ids) and (split_of_id(ids[0]) != code or split_of_id(ids[-1]) != code):
            raise DatasetError(
                f"{s.path}: sample ids {ids[0]} to {ids[-1]} do not belong to split {split!r} "
                f"(code {code})."
            )
        if len(ids) and not (ids[0] > last and np.all(np.diff(ids) > 0)):
            raise DatasetError(f"{s.path}: sample ids repeat or are out of order near {ids[0]}.")
        last = int(ids[-1]) if len(ids) else last
    if code in codes:
        raise DatasetError(f"splits {codes[code]!r} and {split!r} share the code {code}.")
    codes[code] = split
    return code


def _belongs(s: ShardFacts, first: ShardFacts) -> None:
    if s.config_sha256 != first.config_sha256:
        raise ConfigMismatchError(
            f"{s.path} was made with another configuration than {first.path} "
            f"(config_sha256 {s.config_sha256[:8]} and {first.config_sha256[:8]})."
        )
    if s.schema != first.schema:
        raise DatasetError(f"{s.path} describes its fields differently from {first.path}.")


def rebuild_index(
    root: str | Path,
    *,
    requested: Mapping[str, int] | None = None,
    reuse: bool = False,
    facts: Mapping[Path, ShardFacts] | None = None,
) -> dict[str, Any]:
    """Write ``dataset.json``, ``stats.yaml`` and the views from the shards alone.

    Parameters
    ----------
    root : path
        Directory of the dataset.
    requested : mapping of str to int, optional
        Samples asked for per split; default what the shards' configurations say.
    reuse : bool
        Take the checksums of files untouched since from the ``dataset.json`` there is.
    facts : mapping of Path to ShardFacts, optional
        From `all_facts`: shards untouched since are not opened.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    FileNotFoundError, DatasetError, OSError
    """
    root = Path(root)

    def known_facts(path: Path) -> ShardFacts:
        known = (facts or {}).get(path)
        return known if known is not None and known.stamp == stamp(path) else shard_facts(path)

    found = {s: [known_facts(p) for p in paths] for s, paths in find_shards(root).items()}
    known = _entries(_read_json(root / "dataset.json")) if reuse else None
    manifest = build_manifest(root, found, requested=requested, known=known)
    # the points of a ragged dataset have positions of their own in each shard
    ragged = manifest["layout"] == "ragged"
    small = {s: v for s, v in found.items() if len(v) <= MAX_VIEW_SHARDS and not ragged}
    manifest["views"] = [f"{s}.h5" for s in small]
    for stem in ("dataset", "stats", *found):
        clean_old(root, stem)
    for split in found:
        view = root / f"{split}.h5"
        if split in small:
            write_view(root, split, found[split])
        else:
            view.unlink(missing_ok=True)
    if "train" in found:
        write_text(root / "stats.yaml", stats_text(train_statistics(found["train"])))
    write_text(root / "dataset.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def current_index(
    root: Path, *, requested: Mapping[str, int] | None = None
) -> dict[str, Any] | None:
    """Return ``dataset.json`` if it lists all shards as they are, else None."""
    manifest = _read_json(root / "dataset.json")
    try:
        stamps = {
            p.relative_to(root).as_posix(): [p.stat().st_mtime_ns, p.stat().st_ino]
            for paths in find_shards(root).values()
            for p in paths
        }
        there = all((root / v).is_file() for v in manifest["views"])
        asked = {s: info["requested"] for s, info in manifest["splits"].items()}
    except (KeyError, TypeError, AttributeError, OSError, DatasetError):
        return None
    listed = {name: entry.get("stamp") for name, entry in _entries(manifest).items()}
    same = manifest.get("format_version") == FORMAT_VERSION and listed == stamps
    if not same or not there or not (root / "stats.yaml").is_file():
        return None
    wanted = {s: (requested or asked).get(s, n) for s, n in asked.items()}
    return manifest if asked == wanted else None


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _entries(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries of all shards by file; empty if they cannot be read."""
    with suppress(KeyError, TypeError, AttributeError):
        return {e["file"]: e for s in manifest["splits"].values() for e in s["shards"]}
    return {}


def train_statistics(shards: Sequence[ShardFacts]) -> dict[str, dict[str, Any]]:
    """Statistics of all fields, merged from those the writer left in each shard."""
    schema = shards[0].schema
    moments = {s.name: Moments.empty(schema, s) for s in schema.fields}
    for shard in shards:
        known = shard.statistics or _read_moments(shard)
        for spec in schema.fields:
            if spec.sample_varying or moments[spec.name].value.n == 0:
                moments[spec.name].merge_dict(known[spec.name])
    return statistics(moments)


def _read_moments(shard: ShardFacts) -> dict[str, Any]:
    """Moments of a shard whose writer left none."""
    schema = shard.schema
    moments = {s.name: Moments.empty(schema, s) for s in schema.fields}
    with _file.open_file(shard.path) as f, translate_h5(shard.path):
        offsets = sample_slices(f) if schema.layout == "ragged" else {}
        for spec in schema.fields:
            ds = _file.get_dataset(f, _file.field_path(schema, spec.name))
            for i in range(len(shard.ids) if spec.sample_varying else min(1, len(shard.ids))):
                rows = _file.sample_rows(schema, spec, i, offsets)
                moments[spec.name].add(_file.from_file(schema, spec, ds[rows]))
    return {name: m.as_dict() for name, m in moments.items()}


def stats_text(stats: Mapping[str, Any]) -> str:
    """YAML of ``stats.yaml``."""
    import yaml

    return yaml.safe_dump(dict(stats), sort_keys=False, default_flow_style=None)


# -- views ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ViewPart:
    """What a view copies of one shard."""

    quality: dict[str, np.ndarray]
    scalars: dict[str, np.ndarray]
    times: np.ndarray
    estimator: dict[str, Any]
    provenance: dict[str, Any]


def _view_part(f: h5py.File, schema: DatasetSchema) -> ViewPart:
    known = _file.quality_columns(f)
    estimated = "discretization_error" in known
    return ViewPart(
        quality={c: _file.get_dataset(f, f"quality/{c}")[...] for c in known},
        scalars={
            p.name: _file.get_dataset(f, f"scalars/{p.name}")[...]
            for p in schema.scalars
            if p.value is None
        },
        times=_file.get_dataset(f, "time")[...] if schema.time_per_sample else np.empty(0),
        estimator=own_attrs(f["quality/discretization_error"]) if estimated else {},
        provenance={k: v for k, v in f["provenance"].attrs.items() if k != "statistics"},
    )


def _opened_view_part(s: ShardFacts) -> ViewPart:
    with _file.open_file(s.path) as f, translate_h5(s.path):
        return _view_part(f, s.schema)


def _constant_fields(shards: Sequence[ShardFacts]) -> dict[str, np.ndarray]:
    """Fields that do not vary, from the first shard that has samples."""
    names = [f.name for f in shards[0].schema.fields if not f.sample_varying]
    filled = [s for s in shards if len(s.ids)]
    if not names or not filled:
        return {}
    s = filled[0]
    with _file.open_file(s.path) as f, translate_h5(s.path):
        return {n: _file.get_dataset(f, _file.field_path(s.schema, n))[...] for n in names}


def write_view(root: Path, split: str, shards: Sequence[ShardFacts]) -> Path:
    """One file for a split: fields virtual over the shards, all else copied.

    HDF5 shows the fill value, here NaN, in place of a shard that is missing.
    """
    schema = shards[0].schema
    total = sum(len(s.ids) for s in shards)
    path = root / f"{split}.h5"
    with atomic_h5(path) as f:
        parts = [s.view or _opened_view_part(s) for s in shards]
        constant = _constant_fields(shards)
        _file.write_frame(f, schema, split=split, shard=0, provenance=parts[0].provenance)
        f.attrs["view"] = True
        dtype = np.dtype(schema.dtype).newbyteorder("<")
        for spec in schema.fields:
            name = _file.field_path(schema, spec.name)
            if not spec.sample_varying:
                ds = _file.create_field(f, schema, spec, total, None)
                if spec.name in constant:
                    ds[...] = constant[spec.name]
                continue
            sample = schema.sample_shape(spec.name)
            layout = h5py.VirtualLayout((total, *sample), dtype)
            start = 0
            for s in shards:
                n = len(s.ids)
                if n:
                    source = s.path.relative_to(root).as_posix()
                    layout[start : start + n] = h5py.VirtualSource(source, f"/{name}", (n, *sample))
                start += n
            ds = f.create_virtual_dataset(name, layout, fillvalue=np.nan)
            _file.set_attrs(ds, _file.field_attrs(schema, spec))
        _file.write_columns(
            f,
            schema,
            ids=np.concatenate([s.ids for s in shards]),
            quality=_file.join_columns([p.quality for p in parts]),
            scalars={k: np.concatenate([p.scalars[k] for p in parts]) for k in parts[0].scalars},
            failures=[x for s in shards for x in s.failures],
            estimator=next((p.estimator for p in parts if p.estimator), {}),
            times=np.concatenate([p.times for p in parts]) if schema.time_per_sample else None,
        )
    return path


def own_attrs(ds: h5py.Dataset) -> dict[str, Any]:
    """Attributes of a dataset without those that HDF5 keeps for dimension scales."""
    reserved = ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME")
    return {k: v for k, v in ds.attrs.items() if k not in reserved}
