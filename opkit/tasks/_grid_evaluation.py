"""How an operator on grids is judged: errors, spectra, and the solver at the same accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solvers.grids import Axis, Grid

from ..errors import UsageError
from ..evaluate import EvaluateConfig, recreate
from ._judging import ROLES, median_seconds, representatives, require_finite, resolution_suffix
from ._task import Evaluation, Progress

if TYPE_CHECKING:
    from pde_data.hdf5 import Dataset, DatasetSchema, Split
    from pde_data.problem import Problem

    from ._grid_operator import GridOperator as Operator
    from .grid import Variable

__all__ = ["break_even", "coarser_shapes", "evaluate_grid", "interpolate", "solve_samples"]

#: Redrawn samples may differ from the stored ones by rounding, no more.
SAME = 1e-3
#: Relative residual asked of the solver in the comparison; its measured error tells the effect.
SOLVER_RTOL = 1e-6


def evaluate_grid(
    op: Operator,
    dataset: Dataset,
    split: Split,
    config: EvaluateConfig,
    progress: Progress | None,
) -> dict[str, Evaluation]:
    """Errors on the split, and at other resolutions; `GridTask.evaluate`.

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
    samples = Samples(split.ids, dataset.schema.grid, lambda i: op.task.read(split, i))
    found = {"": _measure(op, samples, config, progress)}
    comparison, note = None, "not asked for"
    if config.compare:
        comparison, note = compare_with_solver(op, dataset, split, found[""], config)
    found[""] = _with_comparison(found[""], comparison, note)
    solved: dict[tuple[int, ...], Samples] = {}
    for resolution in config.resolution:
        problem, note = recreate(dataset, split)
        if problem is None:
            raise UsageError(f"resolution={resolution}: samples cannot be solved anew: {note}")
        shape = problem.check_resolution(resolution)
        solved[shape] = _solve_anew(op, problem, split, shape, config)
        other = _measure(op, solved[shape], config, None)
        note = "measured at the resolution of the data"
        name = resolution_suffix(shape)
        found[name] = _with_comparison(other, None, note)
    if solved and problem is not None:
        own = problem.check_resolution(op.grid.shape)
        if own not in solved:
            solved[own] = _solve_anew(op, problem, split, own, config)
        if len(solved) > 2 and any(math.prod(s) > math.prod(own) for s in solved):
            found[""] = _with_certificate(op, found[""], solved, own, problem.name)
    return found


def _with_certificate(
    op: Operator,
    found: Evaluation,
    solved: Mapping[tuple[int, ...], Samples],
    own: tuple[int, ...],
    problem: str,
) -> Evaluation:
    """Add how the output depends on the grid, see `opkit.discretization`."""
    from ..discretization import certify

    outputs, truth = [], []
    for samples in solved.values():
        x, y = samples.read(np.arange(len(samples.ids)))
        outputs.append(_predict(op, x))
        truth.append(y)
    report = certify(
        outputs, [s.grid for s in solved.values()], reference=solved[own].grid, model=op.name,
        inputs=f"problem {problem}, solved on each grid", truth=truth,
        components=op.task.out_components,
    )  # fmt: skip
    facts = report.as_dict()
    columns = {
        "resolution": np.array(["x".join(map(str, s)) for s in report.shapes]),
        **{k: np.array(getattr(report, k)) for k in ("spacing", "change", "order", "drift")},
        "error": np.array(report.error),
    }
    return replace(
        found,
        facts={**found.facts, "discretization": facts},
        tables={**found.tables, "discretization": columns},
    )


def _with_comparison(found: Evaluation, comparison: dict[str, Any] | None, note: str) -> Evaluation:
    why = {"comparison_note": note} if comparison is None else {}
    return replace(found, facts={**found.facts, "comparison": comparison, **why})


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


def _measure(
    op: Operator, samples: Samples, config: EvaluateConfig, progress: Progress | None
) -> Evaluation:
    """Errors of all samples, spectra, examples, time."""
    import torch

    from .. import metrics as m

    task, grid, n = op.task, samples.grid, len(samples.ids)
    components = task.out_components
    norms = {f"rel_{kind}": task.error(kind, grid=grid) for kind in ("l2", "h1")}
    errors: dict[str, list[np.ndarray]] = {k: [] for k in m.METRICS}
    spectra: list[np.ndarray] = []
    by_time: list[np.ndarray] = []
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
        if len(task.times) > 1:
            by_time.append(_error_by_time(op, *pair, grid))
        spectra.append(_spectra(prediction, truth, grid, components))
        if progress is not None:
            progress(int(index[-1]) + 1, n, "")
    values = {k: np.concatenate(v) for k, v in errors.items()}
    picked = representatives(values["rel_l2"])
    parts = [samples.read(np.array([i])) for i in picked]
    x, truth = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    examples = {
        "ids": samples.ids[picked],
        "roles": np.array(ROLES),
        "inputs": x,
        "truth": truth,
        "prediction": _predict(op, x).astype(truth.dtype),
    }
    k, _ = m.wave_numbers(grid)
    return Evaluation(
        samples.ids,
        values,
        {
            "resolution": list(grid.shape),
            "seconds_per_sample": time_model(op, samples, config),
            "batch_size": min(n, config.batch_size),
            "device": str(op.device),
            "threads": torch.get_num_threads(),
        },
        {"spectrum": {"k": k, **_mean_spectra(spectra, n)}, **_table_by_time(op, by_time)},
        examples,
    )


def _error_by_time(op: Operator, prediction: Any, truth: Any, grid: Grid) -> np.ndarray:
    """Relative L2 error of each sample at each time, the mean over the fields, (n, times)."""
    import torch

    parts = []
    norm = op.task.error("l2", grid=grid, components=op.task.components_at_a_time)
    times = len(op.task.times)
    for k in range(times):
        channels: list[int] = []
        first = 0
        for v, c in zip(op.task.outputs, op.task.out_components, strict=True):
            size = c // max(1, v.times)
            at = first + (k * size if v.times else 0)
            channels += range(at, at + size)
            first += c
        parts.append(norm.per_sample(prediction[:, channels], truth[:, channels]))
    return np.asarray(torch.stack(parts, dim=1))


def _table_by_time(op: Operator, parts: list[np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    if not parts:
        return {}
    errors = np.concatenate(parts)
    columns = {"mean": errors.mean(0), "median": np.median(errors, 0), "max": errors.max(0)}
    return {"by_time": {"time": np.asarray(op.task.times), **columns}}


def _predict(op: Operator, x: np.ndarray) -> np.ndarray:
    """Float64 outputs of float64 or float32 inputs."""
    return np.asarray(op(x), np.float64)


def _check_values(
    prediction: np.ndarray, truth: np.ndarray, ids: np.ndarray, components: Sequence[int]
) -> None:
    bad = ~np.isfinite(prediction).reshape(len(ids), -1).all(axis=1)
    require_finite(ids[bad], len(ids))
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
    from ..metrics import energy_spectrum

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
    return median_seconds(lambda: op(x), config.repeats) / len(x)


def _solve_anew(
    op: Operator,
    problem: Problem,
    split: Split,
    shape: tuple[int, ...],
    config: EvaluateConfig,
) -> Samples:
    """Solve samples of `split` on another grid, in memory."""
    picked = _pick(len(split), config.n_solve)
    x, y = solve_samples(op, problem, split.quality("seed")[picked], shape)
    grid = problem.schema(shape).grid
    return Samples(split.ids[picked], grid, lambda i: (x[i], y[i]))


def solve_samples(
    op: Operator, problem: Problem, seeds: Sequence[int] | np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw samples by their seeds and solve them: inputs and outputs, (n, channel, *space)."""
    solver, schema = problem.choose_solver(shape), problem.schema(shape)
    xs, ys = [], []
    for seed in seeds:
        inputs = problem.sample(np.random.default_rng(int(seed)))
        x, y = _arrays(op, problem.solve(inputs, shape, solver=solver), shape, schema, None)
        xs.append(x)
        ys.append(y)
    return np.concatenate(xs), np.concatenate(ys)


def _pick(n: int, most: int) -> np.ndarray:
    """At most `most` positions, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def _arrays(
    op: Operator, solution: Any, shape: tuple[int, ...], schema: DatasetSchema, only: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Channels of a solution; only the outputs' if asked."""
    constants = {s.name: s.value for s in schema.scalars if s.value is not None}
    values = {**constants, **solution.scalars, **solution.fields}
    moving = {f.name for f in schema.fields if f.time_varying}
    last = len(op.task.times)

    def channels(variables: Sequence[Variable], window: slice) -> np.ndarray:
        batch = {}
        for v in variables:
            a = np.asarray(values[v.name])
            if v.name in moving:
                a = a[window] if v.times else a[window][-1]
            batch[v.name] = a[None]
        return op.task.channels(batch, variables, shape)

    y = channels(op.task.outputs, slice(-last, None))
    if only == "outputs":
        return y, y
    return channels(op.task.inputs, slice(0, max(1, op.task.history))), y


def compare_with_solver(
    op: Operator,
    dataset: Dataset,
    split: Split,
    measured: Evaluation,
    config: EvaluateConfig,
) -> tuple[dict[str, Any] | None, str]:
    """Measure the solver's time at the model's error; see `evaluate_grid`.

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
        model_error=float(measured.errors["rel_l2"].mean()),
        model_seconds=measured.facts["seconds_per_sample"],
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
    pairs = zip(_arrays(op, solution, shape, split.schema, None), (x, y), strict=True)
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
        _, y = _arrays(op, solution, shape, split.schema, "outputs")
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
