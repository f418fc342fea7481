"""`evaluate`: errors of an operator on a split, and the solver's time at the same accuracy."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from solvers.grids import Axis, Grid

from .errors import UsageError

if TYPE_CHECKING:
    from pde_data.hdf5 import Dataset, Split
    from pde_data.problem import Problem

    from .operator import Operator

__all__ = ["DataWarning", "EvaluateConfig", "EvaluationError", "evaluate"]

#: Called as ``progress(samples done, samples in all, note)``.
Progress = Callable[[int, int, str], None]
#: Redrawn samples may differ from the stored ones by rounding, no more.
SAME = 1e-3
#: Relative residual asked of the solver in the comparison; its measured error tells the effect.
SOLVER_RTOL = 1e-6


class DataWarning(UserWarning):
    """The numbers may not mean what they seem to: other data, or data the training has seen."""


class EvaluationError(RuntimeError):
    """The operator gives values that are not finite."""


class EvaluateConfig(BaseModel):
    """Settings of `evaluate`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(description="directory that fit has written")
    data: str = Field(description="dataset")
    split: str = Field("test", description="which samples")
    resolution: tuple[int | tuple[int, ...], ...] = Field(
        (), description="also at these numbers of points per axis: the samples are solved anew"
    )
    batch_size: int = Field(16, ge=1, description="samples at once, in predictions and timings")
    compare: bool = Field(True, description="measure the solver at the same accuracy")
    n_solve: int = Field(
        8, ge=1, description="samples solved for the comparison and at each other resolution"
    )
    repeats: int = Field(5, ge=1, description="timings of which the median is taken")
    device: str = Field("cpu", description="where the model runs")

    @field_validator("run", "data", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, os.PathLike) else value

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, int) else value


@dataclass(frozen=True)
class Samples:
    """What is evaluated: some samples on one grid.

    Attributes
    ----------
    ids : ndarray, shape (n,)
    grid : Grid
    read : callable
        Positions to inputs and truth, each (n, channel, *space).
    """

    ids: np.ndarray
    grid: Grid
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def evaluate(config: EvaluateConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Evaluate an operator and write ``RUN/evaluation/<split>/``.

    Parameters
    ----------
    config : EvaluateConfig
    progress : callable, optional
        Called as ``progress(samples done, samples in all, note)``.

    Returns
    -------
    dict
        ``metrics.json`` of the split: errors (`opkit.metrics.METRICS`) with mean, median, 95 %
        quantile, maximum and worst sample; seconds a sample; the comparison with the solver,
        None with the reason in ``comparison_note`` where there is none. Other resolutions come
        under ``resolutions``, by their directory's name.

    Raises
    ------
    UsageError
        The data does not fit the operator, or has no such split.
    OperatorError, DatasetError
        From loading the run, from reading the data.
    EvaluationError
        The operator gives NaN or infinity; nothing is written.

    Warns
    -----
    DataWarning
        The data is not what the operator was trained beside, or holds inputs it was trained on.

    Notes
    -----
    The comparison redraws samples of the split from their stored seeds and solves them on
    coarser and coarser grids with the solver the problem chooses there; the solutions are
    interpolated linearly to the data's grid and compared with the stored truth, exactly as the
    model's output is. The solver's time is that at the model's mean error, on the measured
    curve of error against time. With

    .. math:: N^* = (T_{generate} + T_{train}) / (t_{solver} - t_{model})

    solutions, data, training and predictions have cost as much as the solver [1]_; "never" if
    the model is not faster. Solving itself is timed, not drawing the coefficient; the model's time
    is that of a warm batch, divided by its size. The truth carries the discretization error of
    its own grid, in which the solver on that grid has no error at all.

    References
    ----------
    .. [1] McGreivy & Hakim, "Weak baselines and reporting biases lead to overoptimism in machine
       learning for fluid-related partial differential equations", Nature Machine Intelligence 6
       (2024).
    """
    from pde_data.hdf5 import open_dataset

    from .operator import load

    op = load(config.run, device=config.device)
    dataset = open_dataset(config.data)
    if reason := op.task.misfit(dataset.schema):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")
    _warn_of_leaks(op, dataset, split, Path(config.run))

    samples = Samples(split.ids, dataset.schema.grid, lambda i: op.task.read(split, i))
    measured = _measure(op, samples, config, progress)
    metrics = measured["metrics"]
    metrics["data"] = _data_facts(config, dataset, split.name, samples.grid)
    comparison, note = None, "not asked for"
    if config.compare:
        comparison, note = compare(op, dataset, split, metrics, config)
    metrics["comparison"] = comparison
    if comparison is None:
        metrics["comparison_note"] = note
    _write(Path(config.run) / "evaluation" / split.name, measured)

    others = {}
    for resolution in config.resolution:
        problem, note = recreate(dataset, split)
        if problem is None:
            raise UsageError(f"resolution={resolution}: samples cannot be solved anew: {note}")
        shape = problem.check_resolution(resolution)
        found = _measure(op, _solve_anew(op, problem, split, shape, config), config, None)
        found["metrics"]["data"] = _data_facts(config, dataset, split.name, op.grid.resized(shape))
        found["metrics"]["comparison"] = None
        found["metrics"]["comparison_note"] = "measured at the resolution of the data"
        name = f"{split.name}_res{'x'.join(map(str, dict.fromkeys(shape)))}"
        _write(Path(config.run) / "evaluation" / name, found)
        others[name] = found["metrics"]
    return {**metrics, "resolutions": others} if others else metrics


def _data_facts(config: EvaluateConfig, dataset: Dataset, split: str, grid: Grid) -> dict[str, Any]:
    return {
        "name": Path(config.data).resolve().name,
        "content_digest": dataset.content_digest,
        "split": split,
        "resolution": list(grid.shape),
    }


def _warn_of_leaks(op: Operator, dataset: Dataset, split: Split, run: Path) -> None:
    """Warn if the samples are not from the training's dataset, or were trained on."""
    from pde_data.hdf5 import DatasetError

    trained = op.description["data"]
    if dataset.content_digest != trained["content_digest"]:
        warnings.warn(
            f"{dataset.path} is not the dataset the operator was trained on ({trained['name']}, "
            f"{trained['content_digest'][:8]}): its train split may differ",
            DataWarning,
            stacklevel=3,
        )
    try:
        with np.load(run / "train_samples.npz", allow_pickle=False) as stored:
            marks = {k: stored[k] for k in stored.files}
    except (OSError, ValueError):
        return
    config, own = trained.get("config") or {}, dataset.config
    keys = ["input_digest"]
    if all(config.get(k) == own.get(k) is not None for k in ("problem", "params")):
        keys.append("seed")  # the same function, on whatever grid
    seen = np.zeros(len(split), bool)
    for key in keys:
        if key in marks:
            try:
                column = split.quality(key).astype(marks[key].dtype)
            except DatasetError:
                continue
            seen |= np.isin(column, marks[key])
    if seen.any():
        warnings.warn(
            f"{int(seen.sum())} of {len(split)} samples of {split.name} were in the training "
            f"(first: {int(split.ids[np.argmax(seen)])}): their errors say nothing of new inputs",
            DataWarning,
            stacklevel=3,
        )


# -- errors --------------------------------------------------------------------------------------


def _measure(
    op: Operator, samples: Samples, config: EvaluateConfig, progress: Progress | None
) -> dict[str, Any]:
    """Errors of all samples, spectra, examples, time: what goes into the directory."""
    import torch

    from . import metrics as m

    task, grid, n = op.task, samples.grid, len(samples.ids)
    components = task.out_components
    norms = {f"rel_{kind}": task.error(kind, grid=grid) for kind in ("l2", "h1")}
    errors: dict[str, list[np.ndarray]] = {k: [] for k in m.METRICS}
    spectra: list[np.ndarray] = []
    for start in range(0, n, config.batch_size):
        index = np.arange(start, min(n, start + config.batch_size))
        x, truth = samples.read(index)
        prediction = _predict(op, x)
        truth = truth.astype(np.float64)
        _check_values(prediction, truth, samples.ids[index], components)
        pair = torch.as_tensor(prediction), torch.as_tensor(truth)
        for name, norm in norms.items():
            errors[name].append(norm.per_sample(*pair).numpy())
        errors["max_error"].append(m.max_error(prediction, truth, components=components))
        errors["spectrum_error"].append(
            m.spectrum_error(prediction, truth, grid, components=components)
        )
        spectra.append(_spectra(prediction, truth, grid, components))
        if progress is not None:
            progress(int(index[-1]) + 1, n, "")
    values = {k: np.concatenate(v) for k, v in errors.items()}
    order = np.argsort(values["rel_l2"], kind="stable")
    picked = order[[0, (n - 1) // 2, n - 1]]
    parts = [samples.read(np.array([i])) for i in picked]
    x, truth = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    examples = {
        "ids": samples.ids[picked],
        "roles": np.array(["best", "median", "worst"]),
        "inputs": x,
        "truth": truth,
        "prediction": _predict(op, x).astype(truth.dtype),
    }
    k, _ = m.wave_numbers(grid)
    return {
        "metrics": {
            "n_samples": n,
            **{name: m.summarize(v, samples.ids) for name, v in values.items()},
            "seconds_per_sample": time_model(op, samples, config),
            "batch_size": min(n, config.batch_size),
            "device": str(op.device),
            "threads": torch.get_num_threads(),
        },
        "per_sample": {"id": samples.ids, **values},
        "samples": examples,
        "spectrum": {"k": k, **_mean_spectra(spectra, n)},
    }


def _predict(op: Operator, x: np.ndarray) -> np.ndarray:
    """Float64 outputs of float64 or float32 inputs."""
    return np.asarray(op(x), np.float64)


def _check_values(
    prediction: np.ndarray, truth: np.ndarray, ids: np.ndarray, components: Sequence[int]
) -> None:
    bad = ~np.isfinite(prediction).reshape(len(ids), -1).all(axis=1)
    if bad.any():
        raise EvaluationError(
            f"the operator gives values that are not finite for {int(bad.sum())} of {len(ids)} "
            f"samples (first: {int(ids[np.argmax(bad)])})"
        )
    for field in np.split(truth, np.cumsum(components)[:-1], axis=1):
        zero = ~field.reshape(len(ids), -1).any(axis=1)
        if zero.any():
            raise UsageError(
                f"sample {int(ids[np.argmax(zero)])}: an output is zero everywhere, so it has no "
                "relative error"
            )


def _spectra(
    prediction: np.ndarray, truth: np.ndarray, grid: Grid, components: Sequence[int]
) -> np.ndarray:
    """Energies (3, shells) of truth, prediction and error, summed over the samples.

    Several fields are scaled by the energy of their truth, as their units may differ.
    """
    from .metrics import energy_spectrum

    cuts = np.cumsum(components)[:-1]
    parts = []
    for p, t in zip(np.split(prediction, cuts, axis=1), np.split(truth, cuts, axis=1), strict=True):
        energy = np.stack([energy_spectrum(u, grid).sum(axis=1) for u in (t, p, p - t)])
        if len(components) > 1:
            energy /= energy[0].sum(axis=-1, keepdims=True)
        parts.append(energy.sum(axis=1))
    return np.sum(parts, axis=0)


def _mean_spectra(parts: list[np.ndarray], n: int) -> dict[str, np.ndarray]:
    total = np.sum(parts, axis=0) / n
    return dict(zip(("truth", "prediction", "error"), total, strict=True))


def time_model(op: Operator, samples: Samples, config: EvaluateConfig) -> float:
    """Seconds a sample: a warm batch from array to array, the median of some repeats."""
    x, _ = samples.read(np.arange(min(len(samples.ids), config.batch_size)))
    x = x.astype(np.float64 if str(op.dtype) == "torch.float64" else np.float32)
    op(x)
    seconds = []
    for _ in range(config.repeats):
        start = time.perf_counter()
        op(x)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / len(x)


def _write(directory: Path, found: Mapping[str, Any]) -> None:
    """Put the files into `directory`, all or none."""
    from .checkpoint import save_arrays, save_json

    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".tmp", dir=directory.parent))
    try:
        work.chmod(0o777 & ~_umask())
        save_json(work / "metrics.json", found["metrics"])
        for name in ("per_sample", "spectrum"):
            (work / f"{name}.csv").write_text(_table(found[name]), encoding="utf-8")
        save_arrays(work / "samples.npz", found["samples"])
        if directory.exists():
            shutil.rmtree(directory)
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _table(columns: Mapping[str, np.ndarray]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))
    return out.getvalue()


# -- the solver at the same accuracy -------------------------------------------------------------


def recreate(dataset: Dataset, split: Split) -> tuple[Problem | None, str]:
    """Build the problem that made a dataset, from its provenance.

    Returns
    -------
    Problem or None
    str
        Why there is none.
    """
    from pde_data.hdf5 import DatasetError
    from pde_data.problem import get_problem

    config = dataset.config
    if not config.get("problem"):
        return None, "the data does not say what problem it was made with"
    try:
        split.quality("seed")
    except DatasetError:
        return None, "the data has no seeds of its samples"
    try:
        return get_problem(config["problem"], **config.get("params", {})), ""
    except ValueError as e:
        return None, f"its problem cannot be made again: {' '.join(str(e).split())}"


def _solve_anew(
    op: Operator,
    problem: Problem,
    split: Split,
    shape: tuple[int, ...],
    config: EvaluateConfig,
) -> Samples:
    """Solve samples of `split` on another grid, in memory."""
    picked = _pick(len(split), config.n_solve)
    seeds = split.quality("seed")[picked]
    solver = problem.choose_solver(shape)
    xs, ys = [], []
    for seed in seeds:
        inputs = problem.sample(np.random.default_rng(int(seed)))
        x, y = _arrays(op, problem.solve(inputs, shape, solver=solver), shape, split, None)
        xs.append(x)
        ys.append(y)
    x, y = np.concatenate(xs), np.concatenate(ys)
    grid = problem.schema(shape).grid
    return Samples(split.ids[picked], grid, lambda i: (x[i], y[i]))


def _pick(n: int, most: int) -> np.ndarray:
    """At most `most` positions, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def _arrays(
    op: Operator, solution: Any, shape: tuple[int, ...], split: Split, only: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Channels of a solution; only the outputs' if asked."""
    constants = {s.name: s.value for s in split.schema.scalars if s.value is not None}
    values = {**constants, **solution.scalars, **solution.fields}
    batch = {k: np.asarray(v)[None] for k, v in values.items()}
    y = op.task.channels(batch, op.task.outputs, shape)
    x = y if only == "outputs" else op.task.channels(batch, op.task.inputs, shape)
    return x, y


def compare(
    op: Operator,
    dataset: Dataset,
    split: Split,
    metrics: Mapping[str, Any],
    config: EvaluateConfig,
) -> tuple[dict[str, Any] | None, str]:
    """Measure the solver's time at the model's error; see `evaluate`.

    Returns
    -------
    dict or None
        ``comparison`` of ``metrics.json``.
    str
        Why there is none.
    """
    problem, note = recreate(dataset, split)
    if problem is None:
        return None, note
    generate_seconds = op.description["data"].get("generate_seconds")
    if generate_seconds is None:
        return None, "the training data has no times of its solver"
    if not op.history:
        return None, "the run has no history.csv"
    picked = _pick(len(split), config.n_solve)
    x, truth = op.task.read(split, picked)
    draws = [np.random.default_rng(int(s)) for s in split.quality("seed")[picked]]
    inputs = [problem.sample(rng) for rng in draws]
    grid = dataset.schema.grid
    difference = _difference(op, problem, inputs[0], x[:1], truth[:1], split)
    if difference > SAME:
        return None, (
            f"redrawing sample {int(split.ids[picked[0]])} gives other values than stored "
            f"(relative difference {difference:.1e}): other versions of the software made it"
        )
    curve = []
    for shape in coarser_shapes(grid, problem.min_resolution):
        point = _solve_at(op, problem, inputs, truth, shape, split)
        if point is not None:
            curve.append(point)
    return break_even(
        curve,
        model_error=metrics["rel_l2"]["mean"],
        model_seconds=metrics["seconds_per_sample"],
        generate_seconds=generate_seconds,
        train_seconds=op.history[-1]["seconds"],
        data_resolution=list(grid.shape),
    ), ""


def _difference(
    op: Operator, problem: Problem, inputs: Any, x: np.ndarray, y: np.ndarray, split: Split
) -> float:
    """Relative distance of a redrawn sample to the stored one, inputs and outputs."""
    shape = split.schema.grid.shape
    solution = problem.solve(inputs, shape, solver=problem.choose_solver(shape))
    pairs = zip(_arrays(op, solution, shape, split, None), (x, y), strict=True)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def coarser_shapes(grid: Grid, least: int) -> list[tuple[int, ...]]:
    """Shapes from coarse to that of `grid`, the spacing a factor of about sqrt(2) apart.

    >>> coarser_shapes(Grid.unit(33), 5)
    [(5, 5), (7, 7), (9, 9), (12, 12), (17, 17), (24, 24), (33, 33)]
    """
    shapes = []
    for k in range(64):
        shape = []
        for axis in grid.axes:
            closed = axis.location == "node" and not axis.periodic
            shape.append(round((axis.n - closed) / 2 ** (k / 2)) + closed)
        if min(shape) < least:
            break
        shapes.append(tuple(shape))
    return list(dict.fromkeys(shapes))[::-1]


def _solve_at(
    op: Operator,
    problem: Problem,
    inputs: Sequence[Any],
    truth: np.ndarray,
    shape: tuple[int, ...],
    split: Split,
) -> dict[str, Any] | None:
    """Error and time of the solver on one grid; None if it does not converge there."""
    import torch

    from solvers.result import SolverDidNotConverge

    solver = problem.choose_solver(shape)
    coarse, fine = problem.schema(shape).grid, split.schema.grid
    norm = op.task.error("l2", grid=fine)
    errors, seconds = [], []
    name = solver
    for one, stored in zip(inputs, truth, strict=True):
        best = math.inf
        for _ in range(2):  # the first may compile
            try:
                solution = problem.solve(one, shape, solver=solver, rtol=SOLVER_RTOL)
            except SolverDidNotConverge:
                return None
            best = min(best, solution.seconds)
            if best > 5.0:
                break
        _, y = _arrays(op, solution, shape, split, "outputs")
        y = interpolate(y, coarse, fine)
        pair = torch.as_tensor(y), torch.as_tensor(stored[None].astype(np.float64))
        errors.append(float(norm.per_sample(*pair)))
        seconds.append(best)
        name = solution.solver
    return {
        "resolution": list(shape),
        "error": statistics.fmean(errors),
        "seconds": statistics.median(seconds),
        "solver": name,
    }


def break_even(
    curve: Sequence[Mapping[str, Any]],
    *,
    model_error: float,
    model_seconds: float,
    generate_seconds: float,
    train_seconds: float,
    data_resolution: Sequence[int],
) -> dict[str, Any]:
    """Find the solver's time at the model's error, and the solutions until the model pays.

    Parameters
    ----------
    curve : sequence of mapping
        ``resolution``, ``error``, ``seconds``, ``solver``, from coarse to fine.

    Notes
    -----
    The grid named is the coarsest whose error is not above the model's. The time is read off the
    straight line in logarithms between it and the next coarser grid, which misses the error.
    Not so if it is the grid of the data, where the solver's error against the data is nil and
    says nothing: there the time is its own.
    """
    hit = next((i for i, p in enumerate(curve) if p["error"] <= model_error), len(curve) - 1)
    point = curve[hit]
    seconds = point["seconds"]
    if hit > 0 and point["resolution"] != list(data_resolution) and point["error"] > 0:
        coarse = curve[hit - 1]
        span = math.log(point["error"] / coarse["error"])
        part = math.log(model_error / coarse["error"]) / span
        seconds = coarse["seconds"] * (point["seconds"] / coarse["seconds"]) ** part
    gain = seconds - model_seconds
    cost = generate_seconds + train_seconds
    return {
        "solver": point["solver"],
        "resolution": point["resolution"],
        "solver_error": point["error"],
        "solver_seconds": seconds,
        "model_error": model_error,
        "model_seconds": model_seconds,
        "generate_seconds": generate_seconds,
        "train_seconds": train_seconds,
        "break_even": math.ceil(cost / gain) if gain > 0 else "never",
        "curve": [dict(p) for p in curve],
    }


def interpolate(u: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """Multilinear interpolation of fields to another grid of the same domain.

    Between the first cell center and the wall the nearest two values are continued linearly.

    Parameters
    ----------
    u : ndarray, shape (..., *grid.shape)

    Returns
    -------
    ndarray, shape (..., *target.shape)
    """
    lead = u.ndim - grid.dim
    for d, (axis, to) in enumerate(zip(grid.axes, target.axes, strict=True)):
        u = np.moveaxis(np.tensordot(_weights(axis, to), u, (1, lead + d)), 0, lead + d)
    return u


def _weights(axis: Axis, to: Axis) -> np.ndarray:
    """Matrix (to.n, axis.n) of linear interpolation."""
    position = (to.coords - axis.coords[0]) / axis.spacing
    left = np.floor(position + 1e-12).astype(int)
    if not axis.periodic:
        left = np.clip(left, 0, axis.n - 2)
    part = position - left
    w = np.zeros((to.n, axis.n))
    rows = np.arange(to.n)
    np.add.at(w, (rows, left % axis.n), 1 - part)
    np.add.at(w, (rows, (left + 1) % axis.n), part)
    return w
