"""`check_dataset`: everything that can be found wrong with a dataset, one finding a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from solvers.meshes import Mesh

from . import _file
from ._mesh import RaggedReader
from .errors import (
    ChecksumError,
    DatasetError,
    MissingShardError,
    NotAnOpkitFileError,
    PhysicsCheckError,
    SchemaError,
    SplitLeakError,
    translate_h5,
)
from .manifest import (
    ShardFacts,
    build_manifest,
    file_sha256,
    find_shards,
    shard_facts,
)
from .reader import close_files, open_dataset, read_manifest
from .schema import SPLIT_STRIDE, BoundarySpec, DatasetConfig, DatasetSchema, FieldSpec
from .stats import Moments, statistics
from .units import check_units

__all__ = ["DamagedShard", "Finding", "check_dataset", "find_damaged"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : str
        Name of the `DatasetError` that reading would raise, or that describes it best.
    file : str
        Where.
    message : str
        One line with file, object, found, expected, remedy.
    """

    kind: str
    file: str
    message: str

    def __str__(self) -> str:
        return self.message


class _Report:
    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, kind: type[DatasetError], file: Path, message: str) -> None:
        self.findings.append(Finding(kind.__name__, str(file), " ".join(message.split())))

    @contextmanager
    def catch(self, file: Path) -> Iterator[None]:
        """Record what the block raises about the data."""
        try:
            yield
        except FileNotFoundError as e:
            self.add(MissingShardError, file, str(e))
        except DatasetError as e:
            self.add(type(e), file, str(e))


def check_dataset(path: str | Path, *, quick: bool = False, physics: bool = False) -> list[Finding]:
    """Check a directory, a shard, a view or a plain file.

    Parameters
    ----------
    path : path
    quick : bool
        Structure alone: names, shapes, axes, units, ids, splits, the manifest. The default reads
        all data too: checksums of files and chunks, digests of samples, finite values, statistics.
    physics : bool
        Also ``valid_min``/``valid_max``, Dirichlet values on the boundary and residuals against
        the solver's tolerance, for every stored sample.

    Returns
    -------
    list of Finding
        Empty if the dataset is sound.

    Raises
    ------
    FileNotFoundError
        No such path.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory")
    close_files()  # look at the disk, not at what was read before
    report = _Report()
    if path.is_dir():
        _check_directory(path, report, quick, physics)
    else:
        _check_file(path, report, quick, physics)
    return report.findings


# -- one file ------------------------------------------------------------------------------------


def _check_file(path: Path, report: _Report, quick: bool, physics: bool) -> None:
    view, shards = False, []
    with report.catch(path):
        with _file.open_file(path) as f, translate_h5(path):
            view = bool(f.attrs.get("view", False))
        dataset = open_dataset(path)
        shards = [p for s in dataset.splits for p in dataset[s].files]
    if not view:
        _check_shard(path, report, quick, physics)
        return
    facts = [x for p in shards if (x := _check_shard(p, report, quick, physics)[0])]
    if shards and len(facts) == len(shards):
        with report.catch(path):
            _check_view(path, facts)


def _check_view(path: Path, shards: Sequence[ShardFacts]) -> None:
    """Compare the copied part of a view with its shards."""
    ids = np.concatenate([s.ids for s in shards])
    digests = np.concatenate([s.digests for s in shards])
    with _file.open_file(path) as f, translate_h5(path):
        if _file.read_schema(f, virtual=True) != shards[0].schema:
            raise SchemaError(f"{path}: describes its fields differently from its shards.")
        if str(_file.attr(f, "content_digest")) != _file.content_digest(ids, digests):
            raise DatasetError(
                f"{path}: out of date. Rebuild it with: opkit data index {path.parent}"
            )


def _check_shard(
    path: Path, report: _Report, quick: bool, physics: bool
) -> tuple[ShardFacts | None, dict[str, Moments]]:
    """Facts of a shard whose structure is sound, and the moments of its fields if read."""
    facts: ShardFacts | None = None
    moments: dict[str, Moments] = {}
    with report.catch(path):
        facts = shard_facts(path)
    if facts is None:
        return None, {}
    with report.catch(path):
        check_units(facts.schema, str(path))
    with report.catch(path):
        _check_columns(facts)
    if quick and not physics:
        return facts, {}
    with report.catch(path), _file.open_file(path) as f, translate_h5(path):
        moments = _check_data(f, facts, report, physics)
        if physics:
            _check_residuals(f, facts, report)
    return facts, moments


def _check_columns(facts: ShardFacts) -> None:
    """Scales, ids, seeds and digests of one file."""
    path, schema = facts.path, facts.schema
    with _file.open_file(path) as f, translate_h5(path):
        _file.check_shapes(f, schema, scales=True)
        for role, names in (("inputs", schema.inputs), ("outputs", schema.outputs)):
            group = _file.get_group(f, role)
            for name in names:
                link = group.get(name, getlink=True)
                scalar = any(s.name == name for s in schema.scalars)
                target = f"/scalars/{name}" if scalar else f"/{_file.field_path(schema, name)}"
                if not isinstance(link, h5py.SoftLink) or link.path != target:
                    raise SchemaError(f"{path}: {role}/{name} is not a soft link to {target}.")
        if schema.time_per_sample:
            times = _file.get_dataset(f, "time")[...]
            bad = ~((np.diff(times, axis=1) > 0).all(axis=1) & np.isfinite(times).all(axis=1))
            if bad.any():
                raise SchemaError(
                    f"{path}: time of sample id {facts.ids[int(np.argmax(bad))]} is not strictly "
                    "increasing and finite."
                )
        if schema.layout in ("mesh", "ragged"):
            n_points = _file.get_dataset(f, "mesh/points").shape[0]
            for name in _file.boundary_names(schema):
                where = f"boundary_conditions/{name}/point_index"
                points = _file.get_dataset(f, where)[...]
                if points.size and not 0 <= points.min() <= points.max() < n_points:
                    raise SchemaError(f"{path}: {where}: points run from 0 to {n_points - 1}.")
        ids = facts.ids
        if len(ids) and not np.all(np.diff(ids) > 0):
            i = int(np.flatnonzero(np.diff(ids) <= 0)[0]) + 1
            raise SchemaError(f"{path}: sample is not strictly increasing at index {i}.")
        stated = _file.content_digest(ids, facts.digests)
        if stated != facts.content_digest:
            raise ChecksumError(
                f"{path}: content_digest is {facts.content_digest[:12]}..., the ids and digests "
                f"give {stated[:12]}...."
            )
        seed = facts.config.get("seed")
        if seed is not None and "source" not in f["provenance"].attrs:
            failed = [(i, s) for i, s, _ in facts.failures]
            pairs = [*zip(ids.tolist(), f["quality/seed"][...].tolist(), strict=True), *failed]
            for i, s in pairs:
                sequence = np.random.SeedSequence(seed, spawn_key=(i,))
                if s != int(sequence.generate_state(1, np.uint64)[0]):
                    raise SchemaError(
                        f"{path}: quality/seed of sample id {i} does not follow from the "
                        f"dataset's seed {seed}."
                    )


def _check_data(
    f: h5py.File, facts: ShardFacts, report: _Report, physics: bool
) -> dict[str, Moments]:
    """Read every value once: chunk checksums, digests, finiteness, physics."""
    schema, path = facts.schema, facts.path
    moments = {s.name: Moments.empty(schema, s) for s in schema.fields}
    fields = {s.name: _file.get_dataset(f, _file.field_path(schema, s.name)) for s in schema.fields}
    scalars = {s.name: _file.get_dataset(f, f"scalars/{s.name}")[...] for s in schema.scalars}
    constant = {s.name: fields[s.name][...] for s in schema.fields if not s.sample_varying}
    has_quality = "digest" in _file.quality_columns(f)
    meshes = RaggedReader(f) if schema.layout == "ragged" else None
    offsets = meshes.offsets if meshes is not None else {}
    if schema.mesh is not None:
        _check_weights(schema.mesh, f"{path}: mesh", path, report)
    inputs = f["quality/input_digest"][...] if has_quality else None
    damaged: dict[str, list[int]] = {}
    changed: list[int] = []
    tests = _Physics(schema) if physics else None
    for k, sample_id in enumerate(facts.ids.tolist()):
        values: dict[str, np.ndarray] = {}
        mesh = schema.mesh
        if meshes is not None:
            try:
                mesh = meshes.read(k)
            except SchemaError as e:
                report.add(SchemaError, path, str(e))
                continue
            except (OSError, RuntimeError):
                damaged.setdefault("mesh", []).append(sample_id)
                continue
            _check_weights(mesh, f"{path}: mesh of sample id {sample_id}", path, report)
        for name, ds in fields.items():
            if name in constant:
                values[name] = constant[name]
                continue
            try:
                values[name] = ds[_file.sample_rows(schema, schema.field(name), k, offsets)]
            except (OSError, RuntimeError):
                damaged.setdefault(_file.field_path(schema, name), []).append(sample_id)
        if len(values) < len(fields):
            continue
        for name, array in values.items():
            if not np.isfinite(array).all():
                report.add(
                    SchemaError,
                    path,
                    f"{path}: {_file.field_path(schema, name)}, sample id {sample_id}: "
                    "has values that are not finite.",
                )
            elif name not in constant or k == 0:
                moments[name].add(_file.from_file(schema, schema.field(name), array))
        for s in schema.scalars:
            values[s.name] = np.asarray(
                scalars[s.name] if s.value is not None else scalars[s.name][k]
            )
        if inputs is not None:
            digest, input_digest = _file.sample_digests(schema, values, mesh)
            if digest != facts.digests[k] or input_digest != inputs[k]:
                changed.append(sample_id)
        if tests is not None:
            tests.test(sample_id, values, mesh)
    for obj, ids in damaged.items():
        report.add(
            ChecksumError,
            path,
            f"{path}: {obj}, sample id {_listed(ids)}: chunk fails its checksum. "
            f"{len(facts.ids) - len(ids)} other samples are readable; delete the file and run "
            "opkit generate --resume to make it again.",
        )
    if changed:
        report.add(
            ChecksumError,
            path,
            f"{path}: sample id {_listed(changed)}: the values do not match quality/digest.",
        )
    if tests is not None:
        for message in tests.messages(len(facts.ids)):
            report.add(PhysicsCheckError, path, f"{path}: {message}")
    return {} if damaged else moments


def _check_weights(mesh: Mesh, what: str, path: Path, report: _Report) -> None:
    """Compare the quadrature with the cells, where these have straight sides."""
    if not mesh.n_cells or not mesh.is_straight:
        return
    size = float(mesh.cell_measures().sum())
    if not abs(mesh.measure - size) <= 1e-10 * size:
        report.add(
            SchemaError,
            path,
            f"{what}: point_weights add up to {mesh.measure:.12g}, the cells to {size:.12g}.",
        )


class _Physics:
    """Bounds and boundary values of all samples, the worst one kept."""

    def __init__(self, schema: DatasetSchema) -> None:
        self.schema = schema
        self._found: dict[str, tuple[int, float, float, int]] = {}
        self._edge: tuple[Mesh | None, np.ndarray] = (None, np.empty(0, int))

    def test(self, sample_id: int, values: Mapping[str, np.ndarray], mesh: Mesh | None) -> None:
        """Look at one sample."""
        for spec in self.schema.fields:
            u = values[spec.name]
            if not u.size or not np.isfinite(u).all():
                continue
            role = "inputs" if spec.name in self.schema.inputs else "outputs"
            low, high = float(u.min()), float(u.max())
            slack = _file.rounding(spec, self.schema.dtype, max(-low, high))
            if spec.valid_min is not None and low < spec.valid_min - slack:
                what = f"{role}/{spec.name} is below valid_min={spec.valid_min:g}"
                self._note(what, spec.valid_min - low, low, sample_id)
            if spec.valid_max is not None and high > spec.valid_max + slack:
                what = f"{role}/{spec.name} is above valid_max={spec.valid_max:g}"
                self._note(what, high - spec.valid_max, high, sample_id)
            u = _file.from_file(self.schema, spec, u).astype(np.float64)
            for bc in self.schema.boundary_conditions:
                if spec.name not in bc.fields or spec.dims is not None:
                    continue
                if mesh is None:
                    self._boundary(sample_id, spec.name, bc, u)
                else:
                    self._mesh_boundary(sample_id, spec, bc, u, mesh)

    def _boundary(self, sample_id: int, name: str, bc: BoundarySpec, u: np.ndarray) -> None:
        spec, axes = self.schema.field(name), self.schema.grid.axes
        i = [a.name for a in axes].index(bc.axis)
        if bc.kind not in ("dirichlet", "no_slip") or spec.location != "node":
            return
        if axes[i].location != "node" or spec.dim_varying is not None:
            return
        value = bc.value / bc.coefficients[0]
        scale = max(float(np.abs(u).max()), abs(value))
        if spec.time_varying:  # the initial state need not obey it
            u = u[1:]
        u = np.moveaxis(u, i + spec.time_varying, 0)
        ends = {"lower": [0], "upper": [-1], "both": [0, -1]}[bc.side]
        what = f"{name} is not {value:g} on the {bc.kind} boundary {bc.axis} ({bc.side})"
        self._compare(sample_id, what, u[ends], value, scale)

    def _mesh_boundary(
        self, sample_id: int, spec: FieldSpec, bc: BoundarySpec, u: np.ndarray, mesh: Mesh
    ) -> None:
        if bc.kind not in ("dirichlet", "no_slip") or spec.location not in ("node", "point"):
            return
        if bc.points is not None:
            points = np.array(bc.points)
        else:
            if mesh is not self._edge[0]:
                self._edge = (mesh, mesh.boundary_points())
            points = self._edge[1]
        value = bc.value / bc.coefficients[0]
        scale = max(float(np.abs(u).max()), abs(value))
        if spec.time_varying:  # the initial state need not obey it
            u = u[1:]
        what = f"{spec.name} is not {value:g} on the {bc.kind} boundary"
        self._compare(
            sample_id, what, np.take(u, points, axis=int(spec.time_varying)), value, scale
        )

    def _compare(
        self, sample_id: int, what: str, u: np.ndarray, value: float, scale: float
    ) -> None:
        off = np.abs(u - value)
        if off.size and off.max() > 4 * np.finfo(self.schema.dtype).eps * scale:
            self._note(what, float(off.max()), float(u.ravel()[int(off.argmax())]), sample_id)

    def _note(self, what: str, excess: float, value: float, sample_id: int) -> None:
        count, worst, shown, where = self._found.get(what, (0, -1.0, 0.0, 0))
        if excess > worst:
            worst, shown, where = excess, value, sample_id
        self._found[what] = (count + 1, worst, shown, where)

    def messages(self, n: int) -> Iterator[str]:
        """One line a kind of violation."""
        for what, (count, _, value, sample_id) in self._found.items():
            yield f"{what} in {count} of {n} samples (worst {value:.4g}, sample id {sample_id})."


def _check_residuals(f: h5py.File, facts: ShardFacts, report: _Report) -> None:
    tolerance = f["provenance"].attrs.get("solver_tolerance")
    if tolerance is None or np.isnan(tolerance) or not len(facts.residual):
        return
    # the recomputed residual of a converged solve is of the size of the tolerance
    limit = max(10 * float(tolerance), 1e-12)
    bad = ~(facts.residual <= limit)
    if bad.any():
        i = int(np.argmax(np.where(np.isnan(facts.residual), np.inf, facts.residual)))
        report.add(
            PhysicsCheckError,
            facts.path,
            f"{facts.path}: quality/residual is above {limit:.0e}, 10 times the solver's "
            f"tolerance, in {int(bad.sum())} of {len(bad)} samples (worst "
            f"{facts.residual[i]:.2e}, sample id {facts.ids[i]}).",
        )


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")


# -- the directory -------------------------------------------------------------------------------


def _check_directory(root: Path, report: _Report, quick: bool, physics: bool) -> None:
    found: dict[str, list[Path]] = {}
    with report.catch(root):
        found = find_shards(root)
    index = root / "dataset.json"
    manifest: dict[str, Any] | None = None
    if not index.exists():
        if found:
            message = f"{index} is missing. Rebuild it with: opkit data index {root}"
            report.add(DatasetError, index, message)
    else:
        with report.catch(index):
            manifest = read_manifest(root)
    stated = _stated_shards(root, manifest, found, report)
    if not found:
        return
    facts: dict[str, list[ShardFacts]] = {}
    moments: dict[str, Moments] | None = None if quick else {}
    sound = True
    for split, paths in found.items():
        for path in paths:
            if not quick and path in stated and (now := file_sha256(path)) != stated[path]:
                report.add(
                    ChecksumError,
                    path,
                    f"{path}: SHA-256 of the file is {now[:12]}..., dataset.json says "
                    f"{stated[path][:12]}....",
                )
            shard, seen = _check_shard(path, report, quick, physics)
            if shard is None or (not quick and not seen):
                sound = False
            if shard is None:
                continue
            facts.setdefault(split, []).append(shard)
            if split == "train" and moments is not None:
                for name, m in seen.items():
                    spec = shard.schema.field(name)
                    if name not in moments:
                        moments[name] = m
                    elif spec.sample_varying:
                        moments[name].merge(m)
    _check_leaks(root, facts, report)
    if not sound or not facts:
        return
    with report.catch(index):
        built = build_manifest(root, facts, checksums=False)
        if manifest is not None:
            for line in _differences(built, manifest):
                message = f"{index}: {line}. Rebuild it with: opkit data index {root}"
                report.add(DatasetError, index, message)
    for name in manifest.get("views", []) if manifest is not None else []:
        with report.catch(root / name):
            open_dataset(root / name)
            _check_view(root / name, facts[Path(name).stem])
    if moments:
        with report.catch(root / "stats.yaml"):
            _check_stats(root / "stats.yaml", statistics(moments))


def _stated_shards(
    root: Path,
    manifest: dict[str, Any] | None,
    found: Mapping[str, Sequence[Path]],
    report: _Report,
) -> dict[Path, str]:
    """SHA-256 by path as the manifest says; shards on one side alone are findings."""
    if manifest is None:
        return {}
    stated = {
        root / s["file"]: str(s.get("sha256", ""))
        for info in manifest["splits"].values()
        for s in info["shards"]
    }
    present = {p for paths in found.values() for p in paths}
    for p in sorted(stated.keys() - present):
        message = f"{root / 'dataset.json'}: {p.relative_to(root)} is missing."
        report.add(MissingShardError, p, message)
    for p in sorted(present - stated.keys()):
        report.add(
            DatasetError,
            p,
            f"{p} is not in dataset.json. Rebuild it with: opkit data index {root}",
        )
    return stated


def _differences(built: Any, stated: Any, where: str = "") -> Iterator[str]:
    """Where the manifest says otherwise than the shards; checksums are compared elsewhere."""
    if isinstance(built, dict) and isinstance(stated, dict):
        for key, value in built.items():
            if key not in ("sha256", "requested"):
                here = f"{where}.{key}" if where else key
                yield from _differences(value, stated.get(key), here)
    elif isinstance(built, list) and isinstance(stated, list) and len(built) == len(stated):
        for i, (a, b) in enumerate(zip(built, stated, strict=True)):
            yield from _differences(a, b, f"{where}[{i}]")
    elif isinstance(built, list) and where.endswith("shards"):
        return  # reported shard by shard
    elif built != stated and not _close(built, stated):
        yield f"{where} is {stated!r}, the shards say {built!r}"


def _close(a: Any, b: Any) -> bool:
    numbers = isinstance(a, float) and isinstance(b, float)
    return numbers and bool(np.isclose(a, b, rtol=1e-9, atol=0, equal_nan=True))


def _check_leaks(root: Path, facts: Mapping[str, Sequence[ShardFacts]], report: _Report) -> None:
    """No input and no group may be in two splits."""
    for column, what in (("input_digest", "inputs"), ("group", "groups")):
        seen: dict[Any, int] = {}
        leaks: dict[tuple[str, str], list[str]] = {}
        names = {0: "train", 1: "valid", 2: "test"}
        for split, shards in facts.items():
            for s in shards:
                if s.code is not None:
                    names[s.code] = split
                for sample_id, key in _column(s, column):
                    first = seen.setdefault(key, sample_id)
                    a, b = first // SPLIT_STRIDE, sample_id // SPLIT_STRIDE
                    if a != b:
                        pair = (names.get(a, str(a)), names.get(b, str(b)))
                        leaks.setdefault(pair, []).append(f"{first}/{sample_id}")
        for (one, two), ids in leaks.items():
            more = ", ..." if len(ids) > 4 else ""
            report.add(
                SplitLeakError,
                root,
                f"{root}: {len(ids)} {what} are in both {one} and {two} "
                f"(sample ids {', '.join(ids[:4])}{more}).",
            )


def _column(s: ShardFacts, name: str) -> Iterator[tuple[int, Any]]:
    try:
        with _file.open_file(s.path) as f, translate_h5(s.path):
            if name not in _file.quality_columns(f):
                return
            values = _file.get_dataset(f, f"quality/{name}")[...].tolist()
    except DatasetError:  # already reported
        return
    yield from zip(s.ids.tolist(), values, strict=True)


def _check_stats(path: Path, expected: Mapping[str, Mapping[str, Any]]) -> None:
    """``stats.yaml`` against the data."""
    import yaml

    if not path.exists():
        raise DatasetError(f"{path} is missing. Rebuild it with: opkit data index {path.parent}")
    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, fields in expected.items():
            if set(stated[key]) != set(fields):
                raise DatasetError(f"{path}: {key} is of {sorted(stated[key])}.")
            for name, value in fields.items():
                scale = np.abs(expected["rms_delta" if "delta" in key else "rms"][name]).max()
                off = np.abs(np.subtract(stated[key][name], value))
                if not np.all(off <= 1e-6 * scale):
                    raise DatasetError(
                        f"{path}: {key} of {name} is {stated[key][name]}, the data of the train "
                        f"split give {value}. Rebuild it with: opkit data index {path.parent}"
                    )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as e:
        if isinstance(e, DatasetError):
            raise
        raise SchemaError(
            f"{path}: cannot be understood ({' '.join(str(e).split())}). Rebuild it with: "
            f"opkit data index {path.parent}"
        ) from e


# -- what to make again --------------------------------------------------------------------------


@dataclass(frozen=True)
class DamagedShard:
    """A shard that has to be made again.

    Attributes
    ----------
    split : str
    shard : int
        Number within the split.
    path : Path
    reason : str
        One line.
    """

    split: str
    shard: int
    path: Path
    reason: str


def find_damaged(root: str | Path) -> list[DamagedShard]:
    """Find the shards of a dataset that are missing or not what they were.

    A shard is sound if its SHA-256 is that of ``dataset.json``; one that is not listed there is
    read: structure, checksums of its chunks, digests of its samples. To repair a dataset, delete
    the files found, generate them again with the configuration of the others, and rebuild the
    index.

    Parameters
    ----------
    root : path

    Returns
    -------
    list of DamagedShard
        In the order of splits and shards.

    Raises
    ------
    FileNotFoundError
        No such directory.
    NotAnOpkitFileError
        It has neither shards nor a ``dataset.json``.
    SchemaError
        ``dataset.json`` lists files that are no shards.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such directory")
    close_files()
    manifest: dict[str, Any] = {}
    with suppress(FileNotFoundError, SchemaError, NotAnOpkitFileError):
        manifest = read_manifest(root)
    entries = {
        root / e["file"]: e
        for info in manifest.get("splits", {}).values()
        for e in info.get("shards", ())
    }
    present: dict[str, list[Path]] = {}
    try:
        present = find_shards(root)
    except NotAnOpkitFileError:
        if not manifest:
            raise
    paths = {p: None for ps in present.values() for p in ps} | dict.fromkeys(entries)
    paths |= dict.fromkeys(_expected_shards(root, paths, manifest))
    out = []
    order = {name: i for i, name in enumerate([*manifest.get("splits", {}), *present])}
    for path in sorted(paths, key=lambda p: (order.get(p.parent.name, len(order)), p.name)):
        if reason := _damage(path, str(entries.get(path, {}).get("sha256", ""))):
            number = path.stem.rpartition("_")[2]
            if not number.isdigit():
                raise SchemaError(f"{root / 'dataset.json'}: {path.name} is no name of a shard.")
            out.append(DamagedShard(path.parent.name, int(number), path, reason))
    return out


def _expected_shards(
    root: Path, paths: Iterable[Path], manifest: Mapping[str, Any]
) -> Iterator[Path]:
    """Shards that the configuration in a sound one asks for, as far as the manifest goes."""
    from .writer import shard_path

    for path in paths:
        with suppress(DatasetError, OSError):
            config = DatasetConfig.from_dict(shard_facts(path).config)
            for split, info in manifest.get("splits", {}).items():
                n = min(int(info.get("requested", 0)), config.n.get(split, 0))
                for k in range(-(-n // config.samples_per_shard)):
                    yield shard_path(root, split, k, problem=config.problem)
            return


def _damage(path: Path, sha256: str) -> str:
    """One line; empty if the shard is sound."""
    if not path.is_file():
        return f"{path} is missing."
    if sha256:
        if (now := file_sha256(path)) == sha256:
            return ""
        return f"{path}: SHA-256 is {now[:12]}..., dataset.json says {sha256[:12]}...."
    report = _Report()
    _check_shard(path, report, quick=False, physics=False)
    return report.findings[0].message if report.findings else ""
