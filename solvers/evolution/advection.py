"""Advection in one dimension with variable speed: exact along characteristics, and upwind."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence

import numpy as np
from numpy.polynomial import chebyshev

from ..finite_volume import check_field
from ..grids import Axis, Grid
from ..result import SolverDidNotConverge, SolveResult
from ._common import check_positive, check_state, check_times, relative_change, step_gaps

__all__ = ["advect_exactly", "solve_advection"]

Function = Callable[[np.ndarray], np.ndarray]
_MAX_DEGREE = 4096


def _line(grid: Grid) -> Axis:
    if grid.dim != 1:
        raise ValueError(f"grid has {grid.dim} axes, advection needs 1")
    return grid.axes[0]


def advect_exactly(
    initial: Function,
    times: Sequence[float] | np.ndarray,
    grid: Grid,
    *,
    speed: Function | float = 1.0,
    inflow: Function | None = None,
    tol: float = 1e-13,
) -> SolveResult:
    """Solve ``s_t + a(x) s_x = 0``, ``a > 0``, by following the characteristics.

    With the travel time ``tau(x) = int dx / a`` from the lower end the solution is
    ``initial(tau^-1(tau(x) - t))``, or ``inflow(t - tau(x))`` where the characteristic entered.
    ``1 / a`` is interpolated at Chebyshev points and integrated exactly.

    Parameters
    ----------
    initial : callable, ndarray -> ndarray
        Values at the first time; called with points of the domain.
    times : sequence of float, shape (T,)
        Stored times, increasing.
    grid : Grid
        1-D; periodic, or with inflow at the lower end.
    speed : float or callable, ndarray -> ndarray
        ``a > 0``, smooth.
    inflow : callable, ndarray -> ndarray, optional
        Value at the lower end as a function of the time since the first one; default 0.
    tol : float
        Relative accuracy of the travel times.

    Returns
    -------
    SolveResult
        `x` of shape (T, n); ``info["time_error"]`` is the error of the travel times, relative to
        that through the whole domain.

    Raises
    ------
    SolverDidNotConverge
        The speed is not positive, or too rough for Chebyshev polynomials of degree 4096.
    """
    t, axis = check_times(times), _line(grid)
    if inflow is not None and axis.periodic:
        raise ValueError("inflow: the grid is periodic")
    start = clock.perf_counter()
    lower, upper = axis.lower, axis.upper
    size = upper - lower

    def slowness(z: np.ndarray) -> np.ndarray:
        x = lower + 0.5 * size * (z + 1)
        a = np.asarray(speed(x), np.float64) if callable(speed) else np.full(x.shape, float(speed))
        if not (np.isfinite(a).all() and a.min() > 0):
            raise SolverDidNotConverge(
                "characteristics", iterations=0, residual=np.nan, rtol=tol,
                note=f"the speed must be positive, its minimum is {a.min():.3g}",
            )  # fmt: skip
        return 1.0 / a

    degree = 16
    while True:
        c = np.asarray(chebyshev.chebinterpolate(slowness, degree))  # type: ignore[type-var]
        tail = float(np.abs(c[-4:]).max() / np.abs(c).max())
        if tail <= tol:
            break
        degree *= 2
        if degree > _MAX_DEGREE:
            raise SolverDidNotConverge(
                "characteristics", iterations=degree, residual=tail, rtol=tol,
                note="the speed is not smooth",
            )  # fmt: skip
    significant = np.flatnonzero(np.abs(c) > 1e-16 * np.abs(c).max())
    c = c[: significant[-1] + 1]
    integral = chebyshev.chebint(c, lbnd=-1) * (0.5 * size)
    total = float(chebyshev.chebval(1.0, integral))

    def travel(x: np.ndarray) -> np.ndarray:
        return chebyshev.chebval(2 * (x - lower) / size - 1, integral)

    tau = travel(axis.coords)
    target = tau[None, :] - (t - t[0])[:, None]
    entered = target < 0
    wanted = np.mod(target, total) if axis.periodic else np.clip(target, 0.0, total)
    x = lower + size * wanted / total  # Newton from the mean speed, kept inside
    for _ in range(50):
        step = (travel(x) - wanted) / chebyshev.chebval(2 * (x - lower) / size - 1, c)
        x = np.clip(x - step, lower, upper)
        if np.abs(step).max() < 1e-14 * size:
            break
    error = float(np.abs(travel(x) - wanted).max()) / total
    if error > 100 * tol:
        raise SolverDidNotConverge("characteristics", iterations=50, residual=error, rtol=tol)
    out = np.asarray(initial(x), np.float64)
    if not axis.periodic and entered.any():
        since = np.maximum(-target, 0.0)
        value = np.zeros_like(since) if inflow is None else np.asarray(inflow(since), np.float64)
        out = np.where(entered, value, out)
    if not np.isfinite(out).all():
        raise ValueError("initial or inflow gave NaN or infinity")
    error = max(error, tail)
    return SolveResult(
        x=out, residual=error, residuals=np.array([error]), iterations=0,
        solver="characteristics", seconds=clock.perf_counter() - start,
        info={"time_error": error},
    )  # fmt: skip


def solve_advection(
    s0: np.ndarray,
    times: Sequence[float] | np.ndarray,
    grid: Grid,
    *,
    speed: float | np.ndarray = 1.0,
    inflow: Callable[[float], float] | None = None,
    rtol: float = 1e-6,
    courant: float = 0.5,
) -> SolveResult:
    """Solve ``s_t + a(x) s_x = 0``, ``a > 0``, by third-order upwind differences and RK4.

    Parameters
    ----------
    s0 : ndarray, shape (n,)
        Values at the nodes.
    times : sequence of float, shape (T,)
    grid : Grid
        1-D, location ``"node"``, at least 5 points; periodic, or with inflow at the lower end.
    speed : float or ndarray, shape (n,)
        ``a > 0``.
    inflow : callable, optional
        Value at the lower end as a function of the time since the first one; default 0.
    rtol : float
        Relative L2 error in space and time that the steps may make.
    courant : float
        Largest ``a dt / dx``, at most 1.

    Returns
    -------
    SolveResult
        `x` of shape (T, n); ``info["time_error"]`` from the run with steps twice as long, over 15.
        Steps are halved until it is below `rtol`.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
    """
    t, axis = check_times(times), _line(grid)
    if axis.location != "node" or axis.n < 5:
        raise ValueError("grid: need 5 or more points of location 'node'")
    s = check_state("s0", s0, grid.shape)
    a = check_field("speed", speed, grid, positive=True)
    if not 0 < courant <= 1:
        raise ValueError(f"courant={courant}: need a number above 0, at most 1")
    if inflow is not None and axis.periodic:
        raise ValueError("inflow: the grid is periodic")
    check_positive("rtol", rtol)
    start = clock.perf_counter()
    h = axis.spacing
    entering = (lambda time: 0.0) if inflow is None else inflow

    def rate(u: np.ndarray) -> np.ndarray:
        d = np.empty_like(u)
        if axis.periodic:
            d = (2 * np.roll(u, -1) + 3 * u - 6 * np.roll(u, 1) + np.roll(u, 2)) / 6
        else:
            d[2:-1] = (2 * u[3:] + 3 * u[2:-1] - 6 * u[1:-2] + u[:-3]) / 6
            d[1] = 0.5 * (u[2] - u[0])
            d[-1] = 0.5 * (3 * u[-1] - 4 * u[-2] + u[-3])
            d[0] = 0.0  # given by the inflow
        return -a * d / h

    def run(parts: int) -> tuple[np.ndarray, int]:
        u, now, out, total = s.copy(), 0.0, [s], 0
        for gap in step_gaps(t):
            n = parts * int(np.ceil(gap * a.max() / (2 * courant * h) - 1e-9))
            dt, first = gap / n, now
            for i in range(n):
                now = first + i * dt

                def at(v: np.ndarray, c: float, now: float = now, dt: float = dt) -> np.ndarray:
                    if not axis.periodic:
                        v[0] = entering(now + c * dt)
                    return v

                u = at(u, 0.0)
                k1 = rate(u)
                k2 = rate(at(u + 0.5 * dt * k1, 0.5))
                k3 = rate(at(u + 0.5 * dt * k2, 0.5))
                k4 = rate(at(u + dt * k3, 1.0))
                u = at(u + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), 1.0)
            now, total = first + gap, total + n
            out.append(u.copy())
        return np.stack(out), total

    coarse, _ = run(1)
    for level in range(1, 12):
        fine, steps = run(2**level)
        error = relative_change(coarse, fine, grid, t) / 15
        if error <= rtol:
            break
        coarse = fine
    else:
        raise SolverDidNotConverge("upwind3.rk4", iterations=steps, residual=error, rtol=rtol)
    return SolveResult(
        x=fine, residual=0.0, residuals=np.zeros(1), iterations=steps, solver="upwind3.rk4",
        seconds=clock.perf_counter() - start, info={"time_error": error, "steps": steps},
    )  # fmt: skip
