"""What all importers share: options, streaming into shards, all or nothing."""

from __future__ import annotations

import importlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from solvers.grids import Axis, Grid
from solvers.names import check_name

from ..hdf5 import (
    DatasetConfig,
    DatasetSchema,
    InvalidSampleError,
    MissingMetadataError,
    PhysicsCheckError,
    SchemaError,
    ShardWriter,
    default_samples_per_shard,
    rebuild_index,
)
from ..hdf5.errors import NotAnOpkitFileError
from ..hdf5.manifest import file_sha256

__all__ = ["FORMATS", "Foreign", "ImportOptions", "Sample", "axis_from_coords", "import_data"]

#: Format -> module with ``read(files, options, stack) -> Foreign``, and what its files are.
FORMATS = {
    "pdebench": ("pdebench", "PDEBench's HDF5 files of all five kinds"),
    "well": ("well", "a directory or file of The Well"),
    "neuraloperator": ("arrays", "neuraloperator's .pt files"),
    "fno": ("arrays", "MATLAB .mat files of the FNO data, v5 and v7.3"),
    "deepxde": ("arrays", "DeepXDE's .npz files, aligned and unaligned"),
    "trajectories": ("trajectories", "tables (.csv) of time series, one row a time"),
}


@dataclass(frozen=True)
class ImportOptions:
    """What the user knows of foreign data and the file does not say.

    Parameters
    ----------
    domain : tuple of (float, float), optional
        Ends of the domain, one pair an axis.
    boundary : str, optional
        Condition on all sides: ``dirichlet`` (zero), ``neumann`` (zero flux), ``periodic``,
        ``outflow``.
    units : mapping of str to str
        Units of fields, and of ``x`` and ``time``.
    fields : mapping of str to str
        Name in the source -> field name.
    values : mapping of str to mapping of float to float
        Name in the source -> what its values stand for: ``{"x": {0: 3, 1: 12}}``.
    location : {"node", "cell_center"}, optional
    valid_min : mapping of str to float
        Lower bounds of fields, checked on every sample.
    valid, test : sequence of path
        Files of these splits.
    drop_invalid : bool
        Move samples that fail the checks to ``/failures`` instead of refusing.
    compression : {"gzip", None}
    """

    domain: tuple[tuple[float, float], ...] | None = None
    boundary: str | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    location: Literal["node", "cell_center"] | None = None
    valid_min: Mapping[str, float] = field(default_factory=dict)
    valid: Sequence[Path] = ()
    test: Sequence[Path] = ()
    drop_invalid: bool = False
    compression: Literal["gzip"] | None = "gzip"

    def __post_init__(self) -> None:
        if self.boundary is not None:
            check_name("bc", self.boundary, ("dirichlet", "neumann", "periodic", "outflow"))
        if self.location is not None:
            check_name("location", self.location, ("node", "cell_center"))
        for lower, upper in self.domain or ():
            if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
                raise ValueError(f"domain={lower:g},{upper:g}: need lower < upper")

    def require(self, path: Path, *names: str, more: Sequence[tuple[str, str]] = ()) -> None:
        """Raise `MissingMetadataError` with all options of `names` that are not given.

        `more` are further findings, (what is missing, option that says it).
        """
        said = {"boundary": ("boundary conditions", "--bc")}
        lacks = [said.get(n, (n, f"--{n}")) for n in names if not getattr(self, n)]
        lacks += more
        if lacks:
            raise MissingMetadataError(
                f"{path.name} holds no {', '.join(w for w, _ in lacks)}. Give "
                f"{', '.join(o for _, o in lacks)} (see opkit data import --help)."
            )


@dataclass(frozen=True)
class Sample:
    """One foreign sample: fields in the schema's shapes, scalars, times where they differ."""

    fields: dict[str, np.ndarray]
    scalars: dict[str, float] = field(default_factory=dict)
    time: np.ndarray | None = None


@dataclass(frozen=True)
class Foreign:
    """A foreign dataset, opened.

    Parameters
    ----------
    name : str
        Of the files to write, an identifier.
    schema : DatasetSchema
    splits : mapping of str to sequence of callable
        One function a sample, which reads it.
    source : mapping of str to str
        ``source``, ``license``, ``citation``, ``import_notes``: for the provenance.
    files : sequence of path
        What was read, for the checksums.
    check : callable
        Says why a sample is physically wrong, ``""`` if it is not.
    """

    name: str
    schema: DatasetSchema
    splits: Mapping[str, Sequence[Callable[[], Sample]]]
    source: Mapping[str, str]
    files: Sequence[Path]
    check: Callable[[Sample], str] = lambda s: ""


#: Called with samples done, samples in all.
Progress = Callable[[int, int], None]


def import_data(
    format: str,
    files: Sequence[str | Path],
    root: str | Path,
    options: ImportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn foreign files into a dataset directory.

    Parameters
    ----------
    format : str
        A key of `FORMATS`.
    files : sequence of path
    root : path
        New directory; it appears when all is done, or not at all.
    options : ImportOptions, optional
    progress : callable, optional

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    FileExistsError
        `root` exists.
    FileNotFoundError
    MissingMetadataError
        What the file does not say and the options must.
    PhysicsCheckError
        Samples that cannot be right, with their numbers.
    DatasetError, OSError
    """
    options, root = options or ImportOptions(), Path(root)
    check_name("format", format, list(FORMATS))
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists already; choose another directory")
    paths = [Path(f) for f in (*files, *options.valid, *options.test)]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
    module = importlib.import_module(f".{FORMATS[format][0]}", __package__)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.parent / f".{root.name}.{secrets.token_hex(4)}.tmp"
    try:
        with ExitStack() as stack:
            foreign = module.read(format, [Path(f) for f in files], options, stack)
            _write(foreign, partial, options, progress)
        manifest = rebuild_index(partial)
        if root.exists():
            root.rmdir()
        os.rename(partial, root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _write(foreign: Foreign, root: Path, options: ImportOptions, progress: Progress | None) -> None:
    schema = foreign.schema
    counts = {s: len(samples) for s, samples in foreign.splits.items()}
    if not counts.get("train"):
        raise SchemaError(f"{foreign.files[0]}: there are no samples to train on")
    config = DatasetConfig(
        problem=foreign.name,
        params={"imported_from": foreign.source["source"]},
        resolution=schema.grid.shape or (0,),
        dtype=schema.dtype,
        seed=0,
        solver="unknown",
        rtol=1.0,
        n=counts,
        samples_per_shard=default_samples_per_shard(max(counts.values()), schema.sample_bytes()),
        compression=options.compression,
    )
    source = {
        **foreign.source,
        "source_file": ", ".join(p.name for p in foreign.files),
        "source_sha256": ", ".join(file_sha256(p) for p in foreign.files),
    }
    bad: list[tuple[str, int, str]] = []
    done, total = 0, sum(counts.values())
    for split, samples in foreign.splits.items():
        for k in range(config.n_shards(split)):
            with ShardWriter(
                root, split=split, shard=k, schema=schema, config=config, source=source
            ) as w:
                first = config.sample_ids(split, 0)[0]
                for i in w.sample_ids:
                    number = i - first
                    sample = samples[number]()
                    if reason := _add(w, i, sample, foreign):
                        bad.append((split, number, reason))
                        w.fail(i, reason)
                    done += 1
                    if progress is not None:
                        progress(done, total)
    if bad and not options.drop_invalid:
        listed = ", ".join(f"{s} {i}" for s, i, _ in bad[:8])
        listed += f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise PhysicsCheckError(
            f"{foreign.files[0].name}: {len(bad)} of {total} samples fail the checks ({listed}); "
            f"first: {bad[0][2]} --drop-invalid moves them to failures."
        )


def _add(w: ShardWriter, sample_id: int, sample: Sample, foreign: Foreign) -> str:
    """Store a sample, or say why it is none."""
    try:
        if all(np.isfinite(u).all() for u in sample.fields.values()) and (
            reason := foreign.check(sample)
        ):
            return reason
        more = {} if sample.time is None else {"time": sample.time}
        w.add(
            sample_id, fields=sample.fields, scalars=sample.scalars, residual=math.nan,
            iterations=0, wall_time=math.nan, **more,
        )  # fmt: skip
    except InvalidSampleError as e:
        return str(e)
    return ""


# -- helpers of the importers --------------------------------------------------------------------


def open_h5(path: Path, stack: ExitStack) -> h5py.File:
    """Open a foreign HDF5 file for the time of the import.

    Raises
    ------
    NotAnOpkitFileError
        Not HDF5, or damaged.
    """
    try:
        return stack.enter_context(h5py.File(path, "r"))
    except OSError as e:
        raise NotAnOpkitFileError(f"{path}: not a readable HDF5 file ({e})") from None


def axis_from_coords(
    path: Path,
    name: str,
    coords: np.ndarray,
    *,
    location: Literal["node", "cell_center"],
    periodic: bool,
    units: str,
) -> Axis:
    """Uniform axis through `coords`; cell centers and periodic axes end half or one cell later.

    Raises
    ------
    SchemaError
        Fewer than two points, not increasing, or not uniform.
    """
    x = np.asarray(coords, np.float64).reshape(-1)
    if x.size < 2 or not np.isfinite(x).all() or (np.diff(x) <= 0).any():
        raise SchemaError(f"{path}: coordinate {name} is not strictly increasing")
    h = (x[-1] - x[0]) / (x.size - 1)
    # float32 coordinates are off by rounding
    tolerance = 1e-3 * h + 4 * np.finfo(np.float32).eps * np.abs(x).max()
    if np.abs(x - (x[0] + h * np.arange(x.size))).max() > tolerance:
        raise SchemaError(f"{path}: coordinate {name} is not uniform; opkit's grids are")
    lower, upper = x[0], x[-1]
    if location == "cell_center":
        lower, upper = lower - h / 2, upper + h / 2
    elif periodic:
        upper = upper + h
    return Axis(
        name, x.size, _snap(lower, h), _snap(upper, h),
        location=location, periodic=periodic, units=units,
    )  # fmt: skip


def _snap(value: float, h: float) -> float:
    """Round a domain's end that is a short number up to float32 rounding."""
    near = round(float(value), 6)
    return near if abs(near - value) < 1e-3 * h else float(value)


def increasing(path: Path, name: str, t: np.ndarray, n: int) -> tuple[float, ...]:
    """Return the times of `n` stored frames; PDEBench's list is one too long."""
    t = np.asarray(t, np.float64).reshape(-1)
    if t.size == n + 1:
        t = t[:n]
    if t.size != n:
        raise SchemaError(f"{path}: {name} has {t.size} entries, the data {n} frames")
    if not np.isfinite(t).all() or (np.diff(t) <= 0).any():
        raise SchemaError(f"{path}: {name} is not strictly increasing")
    return tuple(t.tolist())


def split_last(n: int, first_test: int, last_test: int) -> dict[str, range]:
    """Train, valid and test: the given test range, of the rest the last tenth for validation."""
    rest = [i for i in range(n) if not first_test <= i < last_test]
    held = max(1, len(rest) // 10) if len(rest) > 1 else 0
    train = rest[: len(rest) - held]
    valid = rest[len(rest) - held :]
    return {
        "train": range(train[0], train[-1] + 1) if train else range(0),
        "valid": range(valid[0], valid[-1] + 1) if valid else range(0),
        "test": range(first_test, last_test),
    }


def readers(
    read: Callable[[int], Sample], splits: Mapping[str, Iterable[int]]
) -> dict[str, list[Callable[[], Sample]]]:
    """One function a sample; splits without samples are left out."""

    def one(i: int) -> Callable[[], Sample]:
        return lambda: read(i)

    out = {split: [one(i) for i in numbers] for split, numbers in splits.items()}
    return {s: r for s, r in out.items() if r}


def uniform_grid(
    options: ImportOptions, shape: Sequence[int], *, periodic: bool, path: Path
) -> Grid:
    """Grid on the domain that the user stated."""
    domain = options.domain or ()
    if len(domain) == 1:
        domain = tuple(domain) * len(shape)
    if len(domain) != len(shape):
        raise ValueError(
            f"domain has {len(domain)} pairs, the data in {path.name} has {len(shape)} axes"
        )
    units = options.units.get("x", "1")
    location = options.location or "node"
    return Grid(
        tuple(
            Axis(name, n, lo, hi, location=location, periodic=periodic, units=units)
            for name, n, (lo, hi) in zip("xyz", shape, domain, strict=False)
        )
    )


def with_options(schema: DatasetSchema, options: ImportOptions) -> DatasetSchema:
    """Apply units and lower bounds that the user stated."""
    known = {f.name for f in schema.fields}
    for name in (*options.units, *options.valid_min):
        if name not in ("x", "time"):
            check_name("field", name, sorted(known))
    fields = tuple(
        replace(
            f,
            units=options.units.get(f.name, f.units),
            valid_min=options.valid_min.get(f.name, f.valid_min),
        )
        for f in schema.fields
    )
    time = options.units.get("time", schema.time_units)
    return replace(schema, fields=fields, time_units=time)
