"""`ShardWriter`: one shard, written sample by sample, that appears whole or not at all."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from solvers.grids import Axis
from solvers.meshes import Mesh

from . import _file
from ._atomic import AtomicH5, is_being_written
from ._chunks import write_block
from ._mesh import RaggedMeshes, Rows
from ._places import field_bytes, frame
from .errors import (
    ConfigMismatchError,
    DatasetError,
    InvalidSampleError,
    SchemaError,
    translate_h5,
)
from .manifest import ShardFacts, ViewPart, all_facts, file_sha256, stamp
from .schema import DatasetConfig, DatasetSchema, FieldSpec, check_split_name
from .stats import Moments
from .units import check_units

__all__ = [
    "ShardWriter",
    "clean_temporaries",
    "is_complete_shard",
    "n_shards",
    "shard_defect",
    "shard_name",
    "shard_path",
]

#: Distributions whose versions go into the file, where installed.
SOFTWARE = (
    "opkit",
    "numpy",
    "scipy",
    "h5py",
    "numba",
    "pyamg",
    "fenics-dolfinx",
    "dolfinx-solver-real",
    "petsc4py",
    "mpi4py",
)


def n_shards(n: int, samples_per_shard: int) -> int:
    """Count the shards of a split of `n` samples."""
    return -(-n // samples_per_shard)


def shard_name(problem: str, split: str, shard: int) -> str:
    """``darcy_train_00003.h5``."""
    return f"{problem}_{check_split_name(split)}_{shard:05d}.h5"


def shard_path(root: str | Path, split: str, shard: int, *, problem: str) -> Path:
    """Where a shard lies: ``<root>/data/<split>/<problem>_<split>_<shard>.h5``."""
    return Path(root) / "data" / split / shard_name(problem, split, shard)


def clean_temporaries(
    root: str | Path, split: str, shard: int, *, problem: str, force: bool = False
) -> int:
    """Remove what killed writers of one shard left behind; returns how many files.

    With `force` also what living ones, perhaps on other machines, are at work on.
    """
    path = shard_path(root, split, shard, problem=problem)
    found = path.parent.glob(f".{path.stem}.*.tmp")
    stale = [p for p in found if force or not is_being_written(p)]
    for p in stale:
        p.unlink(missing_ok=True)
    return len(stale)


def shard_defect(path: str | Path, *, ids: Collection[int] | None = None) -> str:
    """Say what is structurally wrong with a shard, in one line; ``""`` if nothing is.

    Reads no field values, so it takes milliseconds.

    Parameters
    ----------
    ids : collection of int, optional
        Ids the shard must account for, as samples or as failures.
    """
    try:
        with _file.open_file(path) as f, translate_h5(path):
            schema = _file.read_schema(f)
            _file.check_shapes(f, schema, scales=True)
            if ids is not None:
                have = {*f["sample"][...].tolist(), *f["failures/sample_id"][...].tolist()}
                if have != set(ids):
                    return f"{path}: holds {len(have)} of the {len(ids)} samples asked for."
    except (DatasetError, OSError) as e:
        return str(e)
    return ""


def is_complete_shard(path: str | Path, *, ids: Collection[int] | None = None) -> bool:
    """Whether `path` is a finished shard; `shard_defect` says why not."""
    return not shard_defect(path, ids=ids)


@functools.lru_cache(maxsize=1)
def software() -> dict[str, str]:
    """Versions of what makes the data, as installed."""
    out = {"python": platform.python_version(), "hdf5": h5py.version.hdf5_version}
    for name in SOFTWARE:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


@functools.lru_cache(maxsize=1)
def git_commit() -> str:
    """Commit of opkit's own checkout, ``-dirty`` appended if changed; ``""`` if installed."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return ""
    git = ["git", "-C", str(top)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
        diff = subprocess.run(
            [*git, "diff-index", "--quiet", "HEAD"], capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("-dirty" if diff.returncode == 1 else "")


def public_command(command: str) -> str:
    """Return a command line without the directories of absolute paths."""
    return re.sub(r"(?<![^\s='\"])/(?:[^\s/'\"]+/)*(?=[^\s/'\"]*)", "", command)


def provenance(
    schema: DatasetSchema,
    config: DatasetConfig,
    command: str | None = None,
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Attributes of ``/provenance``."""
    versions = software()
    out: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "opkit_version": versions.get("opkit", ""),
        "git_commit": git_commit(),
        "config": json.dumps(config.as_dict(), sort_keys=True),
        "config_sha256": config.sha256,
        "seed": np.uint64(config.seed) if config.seed < 2**64 else str(config.seed),
        "equation": schema.equation,
        "solver": config.solver,
        "solver_tolerance": config.rtol,
        "discretization": schema.discretization,
        "solve_dtype": "float64",
        "sampling": schema.sampling,
        "software": json.dumps(versions),
        "platform": f"{platform.system()} {platform.machine()}",
        "license": schema.license,
        "citation": schema.citation,
    }
    if schema.grid.axes:
        out["mesh_size"] = max(map(largest_gap, schema.grid.axes))
    elif schema.mesh is not None and schema.mesh.n_cells:
        out["mesh_size"] = schema.mesh.max_diameter
    if source is not None:  # nobody knows what was asked of the solver
        out = {**out, "solver_tolerance": math.nan, "solve_dtype": "unknown", **source}
    if command is not None:
        out["command"] = public_command(command)
    return out


class ShardWriter:
    """Writes one shard of a dataset.

    Inside a ``with`` block every id of `sample_ids` is handed to `add` or `fail`, in order.
    Leaving the block without an exception renames the file into place; with one, or with ids
    left over, the temporary file is removed and nothing has changed.

    Parameters
    ----------
    root : path
        Directory of the dataset.
    split : str
    shard : int
        Number of the shard within its split.
    schema : DatasetSchema
    config : DatasetConfig
    command : str, optional
        Command line for the provenance; directories of absolute paths are left out.
    estimator : mapping, optional
        Attributes of ``quality/discretization_error``: ``estimator`` ("richardson",
        "reference", "manufactured", "none"), ``order``, ``reference_resolution``.
    source : mapping, optional
        For imported data: attributes of the provenance, ``source`` (DOI or address),
        ``source_file``, ``source_sha256``, ``import_notes``. Residual and wall time may be NaN.
    publisher : Executor, optional
        A thread that waits for the disk and renames the file, see `published`.

    Attributes
    ----------
    path : Path
    sample_ids : tuple of int
    published : Future or None
        With a `publisher`: done when the file is in place.

    Raises
    ------
    UnitsError
        Units that pint does not understand.
    SchemaError
        Schema and configuration contradict each other, or `add` got other names or shapes.
    InvalidSampleError
        From `add`: the sample is not data; record it with `fail`.
    DatasetError
        Ids left over, or a sample that came out different from the shard being replaced.
    OSError
        Disk full; nothing is left behind.

    Examples
    --------
    >>> with ShardWriter("darcy", split="train", shard=0, schema=schema, config=config) as w:
    ...     for i in w.sample_ids:
    ...         s = problem.solve(problem.sample(w.rng(i)), ...)
    ...         w.add(i, fields=s.fields, residual=s.residual, iterations=s.iterations,
    ...               wall_time=s.seconds)  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str,
        shard: int,
        schema: DatasetSchema,
        config: DatasetConfig,
        command: str | None = None,
        estimator: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        publisher: Executor | None = None,
    ) -> None:
        for name in ("problem", "dtype"):
            a, b = getattr(schema, name), getattr(config, name)
            if a != b:
                raise SchemaError(f"{name} is {a!r} in the schema, {b!r} in the configuration")
        if schema.layout == "grid" and schema.grid.shape != config.resolution:
            raise SchemaError(
                f"the grid has shape {schema.grid.shape}, the configuration's resolution is "
                f"{config.resolution}"
            )
        if not 0 <= shard < config.n_shards(split):
            raise DatasetError(
                f"shard={shard}: split {split!r} has {config.n_shards(split)} shards, "
                "numbered from 0"
            )
        if shard == 0:  # once a split: pint takes half a second to load
            check_units(schema)
        self.schema, self.config, self.split, self.shard = schema, config, split, shard
        self.sample_ids = config.sample_ids(split, shard)
        self.path = shard_path(root, split, shard, problem=config.problem)
        self._command = command
        self._source = source
        self._publisher = publisher
        self.published: Future[None] | None = None
        self._estimator = {"estimator": "none", **(estimator or {})}
        self._out: AtomicH5 | None = None

    def __enter__(self) -> Self:
        n = len(self.sample_ids)
        self._left = dict.fromkeys(self.sample_ids)
        self._ids: list[int] = []
        self._quality: dict[str, list[Any]] = {
            name: [] for name in (*_file.QUALITY, *_file.OPTIONAL_QUALITY)
        }
        self._times: list[np.ndarray] = []
        self._scalars: dict[str, list[float]] = {
            s.name: [] for s in self.schema.scalars if s.value is None
        }
        self._failures: list[tuple[int, int, str]] = []
        self._moments = {s.name: Moments.empty(self.schema, s) for s in self.schema.fields}
        self._constant: dict[str, np.ndarray] = {}
        self._shapes = {s.name: self.schema.sample_shape(s.name) for s in self.schema.fields}
        self._provenance = provenance(self.schema, self.config, self._command, self._source)
        self._out = AtomicH5(self.path)
        try:
            f = self._out.file
            _file.write_frame(
                f,
                self.schema,
                split=self.split,
                shard=self.shard,
                provenance=self._provenance,
            )
            self._meshes: RaggedMeshes | None = None
            if self.schema.layout == "ragged":
                self._meshes = RaggedMeshes(f, self.schema.dim, self.config.compression)
            self._boundary: dict[str, list[np.ndarray]] = {}
            self._buffers: dict[str, _Buffer | Rows] = {}
            for s in self.schema.fields:
                ds = _file.create_field(f, self.schema, s, n, self.config.compression)
                grows = _file.rows_of(self.schema, s) in ("point", "cell")
                self._buffers[s.name] = Rows(ds) if grows else _Buffer(ds, s)
        except BaseException:
            self._out.discard()
            raise
        return self

    def seed(self, sample_id: int) -> int:
        """Return the seed of a sample: the only source of randomness it may have."""
        return self.config.sample_seed(sample_id)

    def rng(self, sample_id: int) -> np.random.Generator:
        """Return the generator of a sample, from its own seed."""
        return np.random.default_rng(self.seed(sample_id))

    def add(
        self,
        sample_id: int,
        *,
        fields: Mapping[str, np.ndarray],
        residual: float,
        iterations: int,
        wall_time: float,
        scalars: Mapping[str, float] | None = None,
        discretization_error: float = math.nan,
        time_error: float = math.nan,
        mesh: Mesh | None = None,
        time: np.ndarray | None = None,
        group: int | None = None,
    ) -> None:
        """Store one sample.

        Parameters
        ----------
        sample_id : int
            The next ids first; skipped ones may not come later.
        fields : mapping of str to ndarray
            Every field of the schema, float64, in ``schema.sample_shape(name)``; with the
            points of `mesh` where that says -1.
        residual : float
            Relative algebraic residual, recomputed in float64 from the unrounded solution.
        iterations : int
            Of the outer solver.
        wall_time : float
            Seconds of the solve.
        scalars : mapping of str to float
            Every scalar of the schema that varies with the sample.
        discretization_error : float
            Estimated relative L2 distance to the continuous solution; NaN if not estimated.
        time_error : float
            Estimated relative L2 error that the time step makes; NaN if there is none.
        mesh : Mesh, optional
            Of this sample, for layout ``"ragged"``.
        time : ndarray, shape (T,), optional
            Of this sample, strictly increasing, where the schema has `time_per_sample`.
        group : int, optional
            Samples of one group must lie in one split. Given for all samples or none.

        Raises
        ------
        SchemaError
            Wrong names or shapes.
        InvalidSampleError
            Non-finite values, or values outside ``valid_min``/``valid_max``.
        OSError
            Disk full.
        """
        out = self._take(sample_id)
        if self._ids and sample_id < self._ids[-1]:
            raise DatasetError(f"sample id {sample_id} comes after {self._ids[-1]}: keep the order")
        what = f"sample {sample_id}"
        _same_names(f"{what}: fields", fields, [s.name for s in self.schema.fields])
        _same_names(f"{what}: scalars", scalars or {}, self._scalars)
        self._check_mesh(mesh, what)
        times = self._checked_time(time, what)
        arrays = {s.name: self._stored(s, fields[s.name], what, mesh) for s in self.schema.fields}
        stored = {s.name: _file.to_file(self.schema, s, arrays[s.name]) for s in self.schema.fields}
        values = dict(stored)
        for p in self.schema.scalars:
            value = p.value if p.value is not None else float((scalars or {})[p.name])
            if not math.isfinite(value):
                raise InvalidSampleError(f"{what}: scalar {p.name} is {value}.")
            values[p.name] = np.asarray(value, "<f8")
        for name, number in (("residual", residual), ("wall_time", wall_time)):
            unknown = self._source is not None and math.isnan(number)
            if not unknown and not (math.isfinite(number) and number >= 0):
                raise InvalidSampleError(f"{what}: {name} is {number}.")
        if self._ids and (group is None) != (not self._quality["group"]):
            raise SchemaError(f"{what}: group is given for some samples and not for others.")
        digest, input_digest = _file.sample_digests(self.schema, values, mesh)
        boundary = _boundary_points(self.schema, mesh)

        # nothing can be wrong with the sample from here on
        k = len(self._ids)
        if self._meshes is not None and mesh is not None:
            for name, points in boundary.items():
                self._boundary.setdefault(name, []).append(points + self._meshes.n_points)
            self._meshes.add(mesh)
        for s in self.schema.fields:
            if s.sample_varying or k == 0:
                self._moments[s.name].add(arrays[s.name])
                buffer = self._buffers[s.name]
                if isinstance(buffer, Rows):
                    buffer.append(stored[s.name])
                else:
                    buffer.put(k, stored[s.name])
        if times is not None:
            self._times.append(times)
        self._ids.append(sample_id)
        del self._left[sample_id]
        for name in self._scalars:
            self._scalars[name].append(float(values[name]))
        row = {
            "seed": self.seed(sample_id),
            "residual": residual,
            "iterations": iterations,
            "converged": True,
            "discretization_error": discretization_error,
            "wall_time": wall_time,
            "time_error": time_error,
            "digest": digest,
            "input_digest": input_digest,
        }
        for name, cell in row.items():
            self._quality[name].append(cell)
        if group is not None:
            self._quality["group"].append(group)
        out.check()

    def fail(self, sample_id: int, reason: str) -> None:
        """Record that a sample was tried and rejected."""
        self._take(sample_id)
        del self._left[sample_id]
        self._failures.append((sample_id, self.seed(sample_id), " ".join(reason.split())))

    def _take(self, sample_id: int) -> AtomicH5:
        if self._out is None:
            raise DatasetError("ShardWriter is used outside its with block")
        if sample_id not in self._left:
            known = sample_id in self.sample_ids
            raise DatasetError(
                f"sample id {sample_id} "
                + ("was stored or failed already" if known else "does not belong to this shard")
                + f" ({self.path.name}: {self.sample_ids[0]} to {self.sample_ids[-1]})"
            )
        return self._out

    def _check_mesh(self, mesh: Mesh | None, what: str) -> None:
        if (self.schema.layout == "ragged") != (mesh is not None):
            raise SchemaError(
                f"{what}: mesh is {'missing' if mesh is None else 'given'}, the layout is "
                f"{self.schema.layout!r}; a mesh a sample belongs to layout 'ragged'."
            )
        if mesh is None or self._meshes is None:
            return
        if mesh.dim != self.schema.dim:
            raise SchemaError(
                f"{what}: the mesh has {mesh.dim} coordinates a point, the schema's space_dim is "
                f"{self.schema.dim}."
            )
        if self._meshes.units not in (None, mesh.units):
            raise SchemaError(
                f"{what}: the mesh's units are {mesh.units!r}, those of the first sample "
                f"{self._meshes.units!r}."
            )

    def _checked_time(self, time: np.ndarray | None, what: str) -> np.ndarray | None:
        if self.schema.time_per_sample != (time is not None):
            raise SchemaError(
                f"{what}: time is {'missing' if time is None else 'given'}, the schema says "
                f"time_per_sample={self.schema.time_per_sample}."
            )
        if time is None:
            return None
        values = np.array(time, "<f8")
        if values.shape != (len(self.schema.time),):
            raise SchemaError(
                f"{what}: time has shape {values.shape}, expected ({len(self.schema.time)},)."
            )
        if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
            raise InvalidSampleError(f"{what}: time is not strictly increasing and finite.")
        return values

    def _stored(
        self, spec: FieldSpec, values: np.ndarray, what: str, mesh: Mesh | None
    ) -> np.ndarray:
        """Return the values in the stored dtype, checked, axes as in the schema."""
        dtype = np.dtype(self.schema.dtype).newbyteorder("<")
        array = np.asarray(values)
        expected = self._shapes[spec.name]
        if mesh is not None:
            count = mesh.n_cells if spec.location == "cell" else mesh.n_points
            expected = tuple(count if k == -1 else k for k in expected)
        if array.shape != expected:
            raise SchemaError(
                f"{what}: {spec.name} has shape {array.shape}, expected {expected} from "
                f"{', '.join(self.schema.sample_dims(spec.name))}."
            )
        if array.dtype.kind not in "fiub":
            raise SchemaError(f"{what}: {spec.name} has dtype {array.dtype}, expected float64.")
        with np.errstate(over="ignore"):
            array = np.asarray(array, dtype, order="C")
        if not array.size:
            return array
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int(np.count_nonzero(~np.isfinite(array)))
            raise InvalidSampleError(
                f"{what}: {spec.name} has {bad} non-finite values of {array.size} in {dtype.name}."
            )
        slack = _file.rounding(spec, self.schema.dtype, max(-low, high))
        if spec.valid_min is not None and low < spec.valid_min - slack:
            raise InvalidSampleError(
                f"{what}: {spec.name} has minimum {low:.6g}, below valid_min={spec.valid_min:g}."
            )
        if spec.valid_max is not None and high > spec.valid_max + slack:
            raise InvalidSampleError(
                f"{what}: {spec.name} has maximum {high:.6g}, above valid_max={spec.valid_max:g}."
            )
        if not spec.sample_varying:
            first = self._constant.setdefault(spec.name, array)
            if not np.array_equal(first, array):
                raise SchemaError(f"{what}: {spec.name} varies, but sample_varying is False.")
        return array

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        out, self._out = self._out, None
        if out is None:
            return
        try:
            if kind is not None:
                return
            self._finish(out)
        except BaseException:
            out.discard()
            raise
        finally:
            if kind is not None:
                out.discard()
        if self._publisher is None:
            self._publish(out)
        else:
            out.close()
            self.published = self._publisher.submit(self._publish, out)

    def _publish(self, out: AtomicH5) -> None:
        try:
            out.publish()
        except FileNotFoundError:
            # another process cleaned up after finishing the same shard
            if not is_complete_shard(self.path, ids=self.sample_ids):
                raise

    def _finish(self, out: AtomicH5) -> None:
        if self._left:
            raise DatasetError(
                f"{self.path.name}: {len(self._left)} samples were neither stored nor failed, "
                f"first {next(iter(self._left))}; the shard is not written"
            )
        f, n = out.file, len(self._ids)
        for spec in self.schema.fields:
            self._buffers[spec.name].flush()
            ds = f[_file.field_path(self.schema, spec.name)]
            if _file.rows_of(self.schema, spec) == "sample" and ds.shape[0] != n:
                ds.resize(n, axis=0)
        if self._meshes is not None:
            self._meshes.finish()
            if self._meshes.max_diameter:
                f["provenance"].attrs["mesh_size"] = self._meshes.max_diameter
            _file.write_boundary_points(f, self.schema, self._boundary)
        quality = {
            name: np.array(self._quality[name], dtype) for name, dtype in _file.QUALITY.items()
        }
        if self._quality["group"]:
            quality["group"] = np.array(self._quality["group"], "<i8")
        if np.isfinite(self._quality["time_error"]).any():
            quality["time_error"] = np.array(self._quality["time_error"], "<f8")
        statistics = {name: m.as_dict() for name, m in self._moments.items()}
        f["provenance"].attrs["statistics"] = json.dumps(statistics)
        ids = np.array(self._ids, "<i8")
        self._compare_with_old(ids, quality["digest"])
        scalars = {k: np.array(v, "<f8") for k, v in self._scalars.items()}
        times = np.array(self._times, "<f8")
        _file.write_columns(
            f,
            self.schema,
            ids=ids,
            quality=quality,
            scalars=scalars,
            failures=self._failures,
            estimator=self._estimator,
            times=times,
        )
        made = dict(sorted(self._provenance.items()))  # in the order in which HDF5 gives it
        view = ViewPart(quality, scalars, times, self._estimator, made)
        sets = (f[_file.field_path(self.schema, spec.name)] for spec in self.schema.fields)
        self._written = ids, statistics, view, field_bytes(f, sets)

    def facts(self, like: ShardFacts) -> ShardFacts:
        """Return what the index needs of the shard that has been written.

        It is not opened, unless the places of its samples are needed.

        Parameters
        ----------
        like : ShardFacts
            Of another shard with the same schema and configuration.
        """
        if self.config.compression is None or self.schema.layout == "ragged":
            return all_facts(self.path)
        ids, statistics, view, places = self._written
        digests = view.quality["digest"]
        return replace(
            like,
            path=self.path,
            stamp=stamp(self.path),
            frame={} if places is None else frame(self.path, places),
            ids=ids,
            digests=digests,
            failures=list(self._failures),
            residual=view.quality["residual"],
            error=view.quality["discretization_error"],
            content_digest=_file.content_digest(ids, digests),
            statistics=statistics,
            sha256=file_sha256(self.path),
            view=view,
        )

    def _compare_with_old(self, ids: np.ndarray, digests: np.ndarray) -> None:
        """Check that the samples of a shard being replaced come out as they were."""
        if not self.path.exists() or shard_defect(self.path):
            return
        with _file.open_file(self.path) as f, translate_h5(self.path):
            old_config = DatasetConfig.from_dict(_file.provenance_json(f, "config"))
            old = dict(zip(f["sample"][...].tolist(), f["quality/digest"][...], strict=True))
        if old_config.sha256 != self.config.sha256:
            raise ConfigMismatchError(
                f"{self.path} was made with another configuration: "
                f"{old_config.differences(self.config)}. Choose a new directory, or drop the "
                "change."
            )
        new = dict(zip(ids.tolist(), digests, strict=True))
        for i in old.keys() & new.keys():
            if old[i] != new[i]:
                raise DatasetError(
                    f"{self.path}: sample {i} came out different from the one stored before; the "
                    "software or the machine has changed. Start a new dataset."
                )


def largest_gap(axis: Axis) -> float:
    """Mesh width of an axis."""
    try:
        return axis.spacing
    except ValueError:  # not uniform
        return float(np.diff(axis.coords).max())


def _boundary_points(schema: DatasetSchema, mesh: Mesh | None) -> dict[str, np.ndarray]:
    """Points of a sample where each group of boundary conditions holds, by the group's name."""
    if mesh is None or not schema.boundary_conditions:
        return {}
    try:
        points = mesh.boundary_points()
    except ValueError as e:
        raise SchemaError(f"boundary_conditions: {e}") from None
    return dict.fromkeys(_file.boundary_names(schema), points)


class _Buffer:
    """Collects the samples of one chunk, so that each chunk is encoded once."""

    def __init__(self, ds: h5py.Dataset, spec: FieldSpec) -> None:
        self._ds = ds
        self._varying = spec.sample_varying
        size = ds.chunks[0] if ds.chunks and spec.sample_varying else 1
        self._block = np.empty((size, *ds.shape[1:]), ds.dtype) if size > 1 else None
        self._first = self._count = 0

    def put(self, k: int, array: np.ndarray) -> None:
        """Take sample number `k`."""
        if not self._varying:
            self._ds[...] = array
        elif self._block is None:
            self._write(k, array[np.newaxis])
        else:
            self._block[self._count] = array
            self._count += 1
            if self._count == len(self._block):
                self.flush()

    def flush(self) -> None:
        """Write what has been collected."""
        if self._block is not None and self._count:
            self._write(self._first, self._block[: self._count])
            self._first, self._count = self._first + self._count, 0

    def _write(self, first: int, block: np.ndarray) -> None:
        if self._ds.compression is None:
            self._ds[first : first + len(block)] = block
        else:
            write_block(self._ds, first, block)


def _same_names(what: str, given: Collection[str], expected: Collection[str]) -> None:
    if set(given) != set(expected):
        raise SchemaError(f"{what} are {sorted(given)}, expected {sorted(expected)}.")
