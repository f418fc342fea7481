"""What `opkit verify` shows: each check with what was measured and what is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solvers.result import SolverDidNotConverge, SolverUnavailable
from solvers.verify import observed_order

if TYPE_CHECKING:
    from .hdf5.schema import DatasetSchema
    from .problem import Problem, Solution

__all__ = [
    "Check",
    "agreement",
    "at_least",
    "at_most",
    "order_check",
    "quick_problem",
    "relative_difference",
    "verify",
]

#: Samples each solver is tried on.
N_SAMPLES = 4
#: Of these, the ones whose discretization error is estimated and that are compared.
N_ESTIMATES = 2


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Parameters
    ----------
    name : str
        What is checked, such as ``"order in space, structured, Dirichlet"``.
    measured : float
    asked : str
        What is asked of the number: ``"2 +- 0.2"``, ``"<= 1e-8"``.
    passed : bool
    kind : str
        ``order``, ``analytic``, ``agreement``, ``invariant``, ``bounds``, ``residual`` or
        ``estimate``.
    note : str
        Numbers behind it: errors on the grids, the reference's source.
    """

    name: str
    measured: float
    asked: str
    passed: bool
    kind: str = "analytic"
    note: str = ""


def at_most(
    name: str, measured: float, limit: float, *, kind: str = "analytic", note: str = ""
) -> Check:
    """Pass if ``measured <= limit`` (NaN fails)."""
    return Check(name, float(measured), f"<= {limit:.3g}", bool(measured <= limit), kind, note)


def at_least(
    name: str, measured: float, limit: float, *, kind: str = "analytic", note: str = ""
) -> Check:
    """Pass if ``measured >= limit`` (NaN fails)."""
    return Check(name, float(measured), f">= {limit:.3g}", bool(measured >= limit), kind, note)


def agreement(
    name: str,
    measured: float,
    expected: float,
    *,
    within: float,
    kind: str = "agreement",
    note: str = "",
) -> Check:
    """Pass if `measured` differs from `expected` by at most `within` (absolute)."""
    ok = abs(measured - expected) <= within
    return Check(name, float(measured), f"{expected:.6g} +- {within:.2g}", bool(ok), kind, note)


def order_check(
    name: str,
    spacings: Sequence[float],
    errors: Sequence[float],
    order: float,
    *,
    within: float = 0.2,
) -> Check:
    """Pass if the observed order of `errors` over `spacings` (or time steps) is `order`.

    Faster convergence than `order` passes too where `order` is infinite: then the last error must
    be at rounding, 1e-9.
    """
    note = "errors " + ", ".join(f"{e:.2e}" for e in errors)
    if math.isinf(order):
        return Check(
            name, float(errors[-1]), "<= 1e-9 (spectral)", errors[-1] <= 1e-9, "order", note
        )
    p = observed_order(errors, spacings)
    return Check(name, p, f"{order:g} +- {within:g}", abs(p - order) <= within, "order", note)


def quick_problem(cls: type[Problem], **params: Any) -> Problem:
    """Return a problem at its cheap setting, `params` on top."""
    return cls(**{**cls.quick_params, **params})


def relative_difference(schema: DatasetSchema, a: Solution, b: Solution) -> float:
    """Relative L2 distance of two solutions on the same points; of several outputs the worst."""
    worst = 0.0
    for spec in schema.fields:
        if spec.name not in schema.outputs:
            continue
        u, v = (np.asarray(s.fields[spec.name], np.float64) for s in (a, b))
        if u.shape != v.shape:
            raise ValueError(f"{spec.name} has shapes {u.shape} and {v.shape}")
        w = _weights(schema, spec.name, a, u.ndim)
        num, den = float(np.sum(w * (u - v) ** 2)), float(np.sum(w * v**2))
        if num > 0:
            worst = max(worst, math.sqrt(num / den) if den > 0 else math.inf)
    return worst


def _weights(schema: DatasetSchema, name: str, s: Solution, ndim: int) -> np.ndarray:
    spec = schema.field(name)
    if spec.dims is not None or spec.location == "cell":
        return np.ones(())
    mesh = s.mesh if s.mesh is not None else schema.mesh
    w = np.ones(())
    if mesh is not None:
        w = mesh.point_weights
    else:
        for axis, varies in zip(
            schema.grid.axes, spec.dim_varying or (True,) * schema.grid.dim, strict=True
        ):
            if varies:
                w = np.multiply.outer(w, axis.weights)
    first = int(spec.time_varying)
    return w.reshape((1,) * first + w.shape + (1,) * (ndim - first - w.ndim))


def verify(
    problem: Problem,
    resolution: int | tuple[int, ...] | None = None,
    *,
    seed: int = 0,
    rtol: float = 1e-10,
) -> Iterator[Check]:
    """Check a problem: its samples by each of its solvers, then what it says of itself.

    Parameters
    ----------
    problem : Problem
    resolution : int or tuple of int, optional
        Default: the problem's cheap setting.
    seed : int
        Of the four samples.
    rtol : float
        Asked of the solvers.

    Yields
    ------
    Check
        The general ones: residuals, bounds, reproducibility, error estimates and agreement between
        solvers within the estimated errors; then `Problem.checks`.
    """
    shape = problem.check_resolution(problem.quick_resolution if resolution is None else resolution)
    schema = problem.schema(shape)
    found: dict[str, dict[int, Solution]] = {}
    estimates: dict[str, dict[int, float]] = {}
    for solver in problem.solvers:
        try:
            problem.check_solver(solver)
        except ValueError:  # not with these parameters
            continue
        try:
            found[solver] = _solve(problem, shape, solver, seed, rtol)
        except SolverUnavailable:
            continue
        yield from _check_samples(schema, solver, found[solver], rtol)
        if found[solver]:
            i, solution = next(iter(found[solver].items()))
            again = _solve(problem, shape, solver, seed, rtol, (i,))[i]
            same = all(np.array_equal(v, again.fields[k]) for k, v in solution.fields.items())
            yield Check(
                f"same sample twice, {solver}", float(not same), "equal bits", same, "invariant"
            )
            estimates[solver] = {
                k: problem.discretization_error(
                    problem.draw(_rng(seed, k), k), s, shape, solver=solver, rtol=rtol
                )
                for k, s in list(found[solver].items())[:N_ESTIMATES]
            }
            largest = max(estimates[solver].values())
            finite = all(math.isfinite(e) for e in estimates[solver].values())
            yield Check(f"discretization error, {solver}", largest, "a number", finite, "estimate")
    if not found:
        yield Check("solvers", 0, ">= 1 that can be used", False, "residual")
    names = [n for n in found if found[n]]
    for name in names[1:]:
        first = names[0]
        common = estimates[first].keys() & estimates[name].keys()
        if not common:
            yield Check(f"{name} against {first}", math.nan, "common samples", False, "agreement")
            continue
        # the sample that comes closest to its limit
        pairs = [
            (
                relative_difference(schema, found[name][i], found[first][i]),
                2 * (estimates[name][i] + estimates[first][i]) + 100 * rtol,
            )
            for i in sorted(common)
        ]
        gap, limit = max(pairs, key=lambda p: p[0] / p[1])
        yield at_most(f"{name} against {first}", gap, limit, kind="agreement")
    try:
        yield from problem.checks()
    except Exception as e:
        note = f"{type(e).__name__}: {e}"
        yield Check("own checks", math.nan, "no error", False, "analytic", " ".join(note.split()))


def _rng(seed: int, i: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))


def _solve(
    problem: Problem, shape: tuple[int, ...], solver: str, seed: int, rtol: float,
    ids: Sequence[int] = range(N_SAMPLES),
) -> dict[int, Solution]:  # fmt: skip
    out = {}
    for i in ids:
        inputs = problem.draw(_rng(seed, i), i)
        try:
            out[i] = problem.solve(inputs, shape, solver=solver, rtol=rtol)
        except SolverDidNotConverge:
            continue
    return out


def _check_samples(
    schema: DatasetSchema, solver: str, solutions: dict[int, Solution], rtol: float
) -> Iterator[Check]:
    solved = len(solutions)
    yield at_least(
        f"samples solved of {N_SAMPLES}, {solver}", solved, N_SAMPLES - 1, kind="residual"
    )
    worst = max((s.residual for s in solutions.values()), default=math.nan)
    yield at_most(f"residual, {solver}", worst, 10 * rtol, kind="residual")
    excess = 0.0
    for s in solutions.values():
        for f in schema.fields:
            u = np.asarray(s.fields[f.name], np.float64)
            shape = schema.sample_shape(f.name)
            fits = len(u.shape) == len(shape) and all(
                n in (-1, m) for n, m in zip(shape, u.shape, strict=True)
            )
            if not fits or not np.isfinite(u).all():
                excess = math.inf
                continue
            scale = float(np.abs(u).max(initial=0.0)) or 1.0
            low = -math.inf if f.valid_min is None else f.valid_min
            high = math.inf if f.valid_max is None else f.valid_max
            over = max(low - float(u.min()), float(u.max()) - high, 0.0)
            excess = max(excess, over / scale)
    yield at_most(f"finite, in shape and within bounds, {solver}", excess, 1e-7, kind="bounds")
    if schema.problem_type == "time_dependent":
        errors = [s.time_error for s in solutions.values() if math.isfinite(s.time_error)]
        largest = max(errors, default=math.nan)
        yield Check(
            f"time error, {solver}", largest, "a number", math.isfinite(largest), "estimate"
        )
