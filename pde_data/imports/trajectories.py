"""Tables of time series: one row a time, columns for time, states, environment and trajectory."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from solvers.grids import Grid
from solvers.names import check_name

from ..hdf5 import DatasetSchema, ExtraAxis, FieldSpec, ScalarSpec, SchemaError
from ..hdf5.errors import NotAnOpkitFileError
from .common import Foreign, ImportOptions, Sample, with_options

__all__ = ["read"]

#: Columns that are no states, and other names for them.
_ROLES = {
    "time": ("time", "t"),
    "environment": ("environment", "env"),
    "trajectory": ("trajectory", "traj", "series"),
    "family": ("family",),
}
#: What stands for a missing value.
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")


@dataclass(frozen=True)
class _Series:
    """One trajectory of a table."""

    environment: str
    family: str
    number: int
    times: np.ndarray
    x: np.ndarray
    where: str


def read(format: str, files: Sequence[Path], options: ImportOptions, stack: ExitStack) -> Foreign:
    """Open tables of trajectories.

    Times must increase within a trajectory. Empty cells and ``NaN`` are gaps: they are filled along
    straight lines, and the field ``observed`` is 0 there, as it is behind the end of a trajectory
    that is shorter than the longest. All columns that have no other meaning are states.
    ``--map NAME=time``, ``NAME=environment``, ``NAME=trajectory`` and ``NAME=family`` name columns.

    Raises
    ------
    NotAnOpkitFileError
        No table of text.
    SchemaError
        A column is missing, a cell is no number, times that do not increase, tables that differ.
    """
    groups = {"train": list(files), "valid": list(options.valid), "test": list(options.test)}
    states: tuple[str, ...] = ()
    read_: dict[str, list[_Series]] = {}
    for split, paths in groups.items():
        for path in paths:
            names, series = _read_table(path, options)
            if states and names != states:
                raise SchemaError(
                    f"{path}: states {', '.join(names)}, those of {files[0].name} are "
                    f"{', '.join(states)}"
                )
            states = names
            read_.setdefault(split, []).extend(series)
    notes = "units are as stated by the user"
    if "valid" not in read_:
        read_["train"], read_["valid"], how = _hold_out(read_["train"])
        notes += f"; valid: {how}"
    return _foreign(files, states, read_, groups, options, notes)


# -- reading a table -----------------------------------------------------------------------------


def _read_table(path: Path, options: ImportOptions) -> tuple[tuple[str, ...], list[_Series]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            sample = f.read(65536)
            f.seek(0)
            try:
                dialect: type[csv.Dialect] = csv.Sniffer().sniff(sample, delimiters=",;\t")
            except csv.Error:
                dialect = csv.excel
            rows = [
                (number, row)
                for number, row in enumerate(csv.reader(f, dialect), 1)
                if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#")
            ]
    except (UnicodeDecodeError, csv.Error) as e:
        raise NotAnOpkitFileError(f"{path}: not a table of text ({e})") from None
    if len(rows) < 2:
        raise SchemaError(f"{path}: need a line of column names and lines of numbers")
    header = [name.strip() for name in rows[0][1]]
    if len(set(header)) != len(header) or "" in header:
        raise SchemaError(f"{path}: column names are empty or repeat: {', '.join(header)}")
    role = _roles(path, header, options)
    states = [i for i in range(len(header)) if i not in role.values()]
    if not states:
        raise SchemaError(f"{path}: all columns have a role, there are no states")
    collected: dict[tuple[str, str], list[tuple[int, float, list[float]]]] = {}
    family: dict[str, str] = {}
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise SchemaError(f"{path}, line {number}: {len(row)} cells, expected {len(header)}")
        environment = row[role["environment"]].strip() if "environment" in role else "0"
        trajectory = row[role["trajectory"]].strip() if "trajectory" in role else ""
        if "family" in role:
            mine = row[role["family"]].strip()
            if family.setdefault(environment, mine) != mine:
                raise SchemaError(
                    f"{path}, line {number}: environment {environment} is of family {mine!r}, "
                    f"before of {family[environment]!r}"
                )
        time = _number(path, number, header[role["time"]], row[role["time"]])
        if not math.isfinite(time):
            raise SchemaError(f"{path}, line {number}: {header[role['time']]} is missing")
        values = [_number(path, number, header[i], row[i]) for i in states]
        collected.setdefault((environment, trajectory), []).append((number, time, values))
    series = []
    for k, ((environment, trajectory), lines) in enumerate(collected.items()):
        where = f"environment {environment}" + (f", trajectory {trajectory}" if trajectory else "")
        times = np.array([t for _, t, _ in lines])
        late = np.diff(times) <= 0
        if late.any():
            i = int(np.argmax(late)) + 1
            hint = "" if "trajectory" in role else "; a column 'trajectory' tells them apart"
            raise SchemaError(
                f"{path}, line {lines[i][0]}: time {times[i]:g} after {times[i - 1]:g} in {where}: "
                f"times must increase within a trajectory{hint}"
            )
        if len(times) < 2:
            raise SchemaError(f"{path}: {where} has one time, need at least 2")
        x = np.array([v for _, _, v in lines])
        series.append(_Series(environment, family.get(environment, ""), k, times, x, where))
    return tuple(header[i] for i in states), series


def _roles(path: Path, header: Sequence[str], options: ImportOptions) -> dict[str, int]:
    """Column of each role."""
    role: dict[str, int] = {}
    for column, name in options.fields.items():
        check_name(f"column of {path.name}", column, list(header))
        check_name("role", name, list(_ROLES))
        role[name] = header.index(column)
    lower = [name.lower() for name in header]
    for name, others in _ROLES.items():
        for other in others:
            if name not in role and other in lower and lower.index(other) not in role.values():
                role[name] = lower.index(other)
    if "time" not in role:
        raise SchemaError(
            f"{path}: no column 'time' among {', '.join(header)}. Give --map NAME=time."
        )
    return role


def _number(path: Path, line: int, column: str, cell: str) -> float:
    text = cell.strip()
    if text.lower() in _MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise SchemaError(f"{path}, line {line}: {column} is {text!r}, expected a number") from None
    if math.isinf(value):
        raise SchemaError(f"{path}, line {line}: {column} is infinite")
    return value


def _hold_out(series: list[_Series]) -> tuple[list[_Series], list[_Series], str]:
    """Hold out a tenth of the trajectories of each environment, at least one; else late times."""
    by: dict[str, list[_Series]] = {}
    for s in series:
        by.setdefault(s.environment, []).append(s)
    train: list[_Series] = []
    valid: list[_Series] = []
    for mine in by.values():
        held = max(1, len(mine) // 10) if len(mine) > 1 else 0
        train += mine[: len(mine) - held]
        valid += mine[len(mine) - held :]
    if valid:
        return train, valid, "the last trajectories of each environment that has several"
    train = []
    for s in series:
        n = len(s.times)
        cut = n - max(2, n // 5)
        if cut < 2:
            raise SchemaError(
                f"{s.where} is the only trajectory there and too short to hold times out for "
                "validation; give --valid FILE"
            )
        train.append(_Series(s.environment, s.family, s.number, s.times[:cut], s.x[:cut], s.where))
        valid.append(_Series(s.environment, s.family, s.number, s.times[cut:], s.x[cut:], s.where))
    return train, valid, "the last fifth of the times, as each environment has one trajectory"


# -- the dataset ---------------------------------------------------------------------------------


def _numbers(labels: Sequence[str]) -> dict[str, float]:
    """Labels as numbers: themselves if all are, else counted in order of appearance."""
    known = list(dict.fromkeys(labels))
    try:
        values = [float(k) for k in known]
        if all(map(math.isfinite, values)) and len(set(values)) == len(known):
            return dict(zip(known, values, strict=True))
    except ValueError:
        pass
    return {k: float(i) for i, k in enumerate(known)}


def _legend(what: str, numbers: Mapping[str, float]) -> str:
    """Describe: ``"number of the family: 0 a, 1 b"``; plain where labels are numbers."""
    named = [k for k, v in numbers.items() if k != f"{v:g}"]
    if not named:
        return f"number of the {what}"
    clean = ", ".join(f"{v:g} {k.replace(',', ' ').replace(';', ' ')}" for k, v in numbers.items())
    return f"number of the {what}: {clean}"


def _foreign(
    files: Sequence[Path],
    states: tuple[str, ...],
    read_: Mapping[str, Sequence[_Series]],
    groups: Mapping[str, Sequence[Path]],
    options: ImportOptions,
    notes: str,
) -> Foreign:
    every = [s for series in read_.values() for s in series]
    environments = _numbers([s.environment for s in every])
    families = _numbers([s.family for s in every])
    n_times = max(len(s.times) for s in every)
    first = every[0].times
    shared = all(np.array_equal(s.times, first) for s in every)
    gaps = any(len(s.times) < n_times or not np.isfinite(s.x).all() for s in every)
    scalars = [
        ScalarSpec("environment", _legend("environment", environments)),
        ScalarSpec("trajectory_number", "of the table"),
    ]
    if any(s.family for s in every):
        scalars.append(ScalarSpec("family", _legend("family", families)))
    fields = [
        FieldSpec("initial_state", "state at the first time", dims=("state",), labels=states),
        # an input too: other systems may start in the same state
        FieldSpec("system", "number of the environment", dims=("label",)),
        FieldSpec("trajectory", "state", time_varying=True, dims=("state",), labels=states),
    ]
    if gaps:
        fields.append(
            FieldSpec(
                "observed", "1 where the state was measured, 0 where it is filled in",
                time_varying=True, dims=("state",), labels=states, valid_min=0.0, valid_max=1.0,
            )
        )  # fmt: skip
        notes += "; gaps are filled along straight lines and marked in the field observed"
    longest = max(every, key=lambda s: len(s.times)).times
    schema = DatasetSchema(
        problem="trajectories_" + "".join(c if c.isalnum() else "_" for c in files[0].stem),
        title=f"imported from {files[0].name}",
        grid=Grid(),
        layout="series",
        axes=(
            ExtraAxis.index("state", len(states), long_name="component of the state"),
            ExtraAxis.index("label", 1),
        ),
        fields=tuple(fields),
        inputs=("initial_state", "system"),
        outputs=("trajectory",),
        scalars=tuple(scalars),
        problem_type="time_dependent",
        time=tuple(map(float, longest)),
        time_per_sample=not shared,
        dtype="float64",
        sampling="values at the stored times",
    )

    def make(s: _Series) -> Callable[[], Sample]:
        def sample() -> Sample:
            times, x, observed = _padded(s, n_times)
            numbers = {
                "environment": environments[s.environment], "trajectory_number": float(s.number),
            }  # fmt: skip
            if any(spec.name == "family" for spec in scalars):
                numbers["family"] = families[s.family]
            values = {
                "initial_state": x[0], "system": np.array([numbers["environment"]]),
                "trajectory": x,
            }  # fmt: skip
            if gaps:
                values["observed"] = observed.astype(np.float64)
            return Sample(values, numbers, None if shared else times)

        return sample

    splits: dict[str, Sequence[Callable[[], Sample]]]
    splits = {k: [make(s) for s in read_[k]] for k in ("train", "valid", "test") if read_.get(k)}
    source = {"source": "table of trajectories", "import_notes": notes, "license": "unknown"}
    paths = [p for ps in groups.values() for p in ps]
    return Foreign(schema.problem, with_options(schema, options), splits, source, paths)


def _padded(s: _Series, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times, values and what was measured, at `n` times; straight lines fill the gaps."""
    k = len(s.times)
    step = float(np.median(np.diff(s.times)))
    times = np.concatenate([s.times, s.times[-1] + step * np.arange(1, n - k + 1)])
    x, observed = np.zeros((n, s.x.shape[1])), np.zeros((n, s.x.shape[1]), bool)
    observed[:k] = np.isfinite(s.x)
    for i in range(s.x.shape[1]):
        seen = observed[:k, i]
        if seen.any():  # the last value is held behind the end
            x[:, i] = np.interp(times, s.times[seen], s.x[seen, i])
    return times, x, observed
