"""Checks that time-dependent problems share: orders in space and time, honest error estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from solvers.grids import Grid
from solvers.result import SolveResult

from ..verification import Check, order_check
from ._evolution import Evolution, space_time_error

__all__ = ["space_checks", "time_checks"]

#: Values of the outputs at a grid's points and the times, shape (T, *grid.shape).
Exact = Callable[[Grid, np.ndarray], Mapping[str, np.ndarray]]


def space_checks(
    problem: Evolution,
    inputs: Any,
    exact: Exact,
    resolutions: Sequence[int],
    *,
    solver: str,
    label: str,
    order: float | None = None,
) -> Iterator[Check]:
    """Order of the error against an exact solution, and its estimates: right within a factor 2.

    `order` is what is asked of the order; default the problem's `convergence_order`.
    """
    errors, ratios, spacings = [], [], []
    for n in resolutions:
        shape = problem.check_resolution(n)
        grid = problem.grid(shape)
        s = problem.solve(inputs, shape, solver=solver)
        truth = exact(grid, problem.times)
        own = {name: s.fields[name] for name in truth}
        errors.append(space_time_error(own, truth, grid, problem.times))
        estimate = problem.discretization_error(inputs, s, shape, solver=solver)
        ratios.append(estimate / errors[-1])
        spacings.append(max(grid.spacing))
    p = problem.convergence_order(solver) if order is None else order
    yield order_check(f"order in space, {solver}, {label}", spacings, errors, p)
    worst = max(ratios, key=lambda r: abs(np.log(r)))
    note = "estimate over true error: " + ", ".join(f"{r:.2f}" for r in ratios)
    if np.isfinite(p):
        ok = bool(0.5 <= worst <= 2.0)
        name = f"estimate of the error, {solver}, {label}"
        yield Check(name, float(worst), "1/2 to 2", ok, "estimate", note)


def time_checks(
    run: Callable[[float], SolveResult],
    steps: Sequence[float],
    order: float,
    *,
    grid: Grid,
    times: np.ndarray,
    label: str,
    reference: np.ndarray | None = None,
) -> Iterator[Check]:
    """Order of the error of fixed steps on one grid, and the estimate stored with the result.

    `reference` is by default the run with an eighth of the shortest step.
    """
    from solvers.evolution._common import relative_change

    truth = run(steps[-1] / 8).x if reference is None else reference
    results = [run(h) for h in steps]
    errors = [relative_change(r.x, truth, grid, times) for r in results]
    yield order_check(f"order in time, {label}", steps, errors, order)
    ratios = [r.info["time_error"] / e for r, e in zip(results, errors, strict=True)]
    worst = max(ratios, key=lambda r: abs(np.log(r)))
    note = "estimate over true error: " + ", ".join(f"{r:.2f}" for r in ratios)
    yield Check(
        f"estimate of the time error, {label}", float(worst), "1/2 to 2",
        bool(0.5 <= worst <= 2.0), "estimate", note,
    )  # fmt: skip
