"""Shallow water over a bed: finite volumes that conserve mass and keep lakes at rest."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from functools import cache

import numpy as np

from ..finite_volume import check_field
from ..grids import Axis, Grid
from ..names import check_name
from ..result import SolverDidNotConverge, SolveResult
from ._common import check_positive, check_state, check_times, relative_change, step_gaps

__all__ = ["compile_kernels", "dam_break_1d", "solve_shallow_water"]

_KINDS = {"wall": 0, "outflow": 1, "periodic": 2}
NAME = "finite_volume.hllc"


@cache
def compile_kernels() -> None:
    """Compile or load the kernels, so that it does not count as time of a solve."""
    grid = Grid((Axis("x", 4, location="cell_center"), Axis("y", 4, location="cell_center")))
    _advance_all(np.ones((3, 4, 4)), np.zeros((4, 4)), grid, "wall", 1.0, np.array([0.01]), 0.5, 9)


def _side_kinds(boundary: str | tuple | list, grid: Grid) -> np.ndarray:
    per_axis = [boundary] * grid.dim if isinstance(boundary, str) else list(boundary)
    if len(per_axis) != grid.dim:
        raise ValueError(f"boundary has {len(per_axis)} entries, the grid has {grid.dim} axes")
    out = np.full((2, 2), _KINDS["wall"])
    for k, (axis, kind) in enumerate(zip(grid.axes, per_axis, strict=True)):
        pair = (kind, kind) if isinstance(kind, str) else tuple(kind)
        for s, name in enumerate(pair):
            check_name("boundary", name, _KINDS)
            if (name == "periodic") != axis.periodic:
                raise ValueError(
                    f"axis {axis.name!r}: boundary {name!r} but the grid's periodic={axis.periodic}"
                )
            out[k, s] = _KINDS[name]
    return out


def solve_shallow_water(
    h0: np.ndarray,
    times: Sequence[float] | np.ndarray,
    grid: Grid,
    *,
    velocity0: np.ndarray | None = None,
    bed: float | np.ndarray = 0.0,
    gravity: float = 9.81,
    boundary: str | tuple | list = "wall",
    rtol: float | None = None,
    courant: float = 0.45,
    max_steps: int = 1_000_000,
) -> SolveResult:
    """Solve the shallow-water equations for depth `h` and momentum ``h u`` of cell averages.

    ``h_t + div(h u) = 0``, ``(h u)_t + div(h u u + g h^2/2) = -g h grad(bed)``.

    Parameters
    ----------
    h0 : ndarray, shape of the grid
        Depth, not negative, m.
    times : sequence of float, shape (T,)
        Stored times, increasing, s.
    grid : Grid
        1-D or 2-D, cell-centered.
    velocity0 : ndarray, shape (dim, *shape), optional
        Default 0, m/s.
    bed : float or ndarray
        Height of the bed, m.
    gravity : float
        m/s^2.
    boundary : str or sequence
        ``"wall"`` (reflecting), ``"outflow"`` (zero gradient) or ``"periodic"``, one for all, per
        axis or per side.
    rtol : float, optional
        Halve the steps until ``time_error`` is below it.
    courant : float
        ``dt * max over cells of sum over axes of (|u| + sqrt(g h)) / dx``, at most 1/2 for which
        depths stay positive.
    max_steps : int
        In one gap between stored times.

    Returns
    -------
    SolveResult
        `x` of shape (T, 1 + dim, *grid.shape): depth and momentum. `info` holds ``time_error``,
        ``mass_drift`` (relative, where nothing flows out) and ``steps``.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
        Not finite, negative depths, or too many steps.

    Notes
    -----
    MUSCL reconstruction (monotonized central limiter) of surface, depth and velocity, hydrostatic
    reconstruction at the faces [1]_, HLLC fluxes [2]_, SSP-RK3. A lake at rest over any bed stays
    so to rounding, mass is conserved to rounding. The run with steps half as long is returned; its
    distance in depth to the run with `courant` is ``time_error``, an upper estimate.

    References
    ----------
    .. [1] Audusse et al., SIAM J. Sci. Comput. 25 (2004) 2050-2065.
    .. [2] Toro, "Shock-capturing methods for free-surface shallow flows", Wiley (2001), chapter 10.
    """
    t = check_times(times)
    if grid.dim not in (1, 2) or any(a.location != "cell_center" for a in grid.axes):
        raise ValueError("grid: shallow water needs one or two axes of location 'cell_center'")
    h = check_state("h0", h0, grid.shape)
    if h.min() < 0:
        raise ValueError(f"h0 must not be negative, its minimum is {h.min():.6g}")
    v = np.zeros((grid.dim, *grid.shape))
    if velocity0 is not None:
        v = check_state("velocity0", velocity0, v.shape)
    z = check_field("bed", bed, grid)
    g = check_positive("gravity", gravity)
    if rtol is not None:
        check_positive("rtol", rtol)
    if not 0 < courant <= 0.5:
        raise ValueError(f"courant={courant}: need a number above 0, at most 0.5")
    kinds = _side_kinds(boundary, grid)
    compile_kernels()
    start = clock.perf_counter()
    shape = grid.shape if grid.dim == 2 else (*grid.shape, 1)
    q = np.zeros((3, *shape))
    q[0] = h.reshape(shape)
    q[1 : 1 + grid.dim] = (h * v).reshape(grid.dim, *shape)
    gaps, bed2 = step_gaps(t), np.array(z).reshape(shape)
    size = (len(t), 1 + grid.dim, *grid.shape)

    def run(number: float) -> tuple[np.ndarray, int]:
        out, steps = _advance_all(q, bed2, grid, kinds, g, gaps, number, max_steps)
        return out[:, : 1 + grid.dim].reshape(size), steps

    coarse, _ = run(courant)
    for level in range(1, 8):
        x, steps = run(courant / 2**level)
        error = relative_change(coarse[:, :1], x[:, :1], grid, t)
        if rtol is None or error <= rtol:
            break
        coarse = x
    else:
        raise SolverDidNotConverge(
            NAME, iterations=steps, residual=error, rtol=rtol or 0.0,
            note="the estimated error of the time steps does not fall below rtol",
        )  # fmt: skip
    masses = np.sum(grid.weights * x[:, 0], axis=tuple(range(1, 1 + grid.dim)))
    drift = float(np.abs(masses - masses[0]).max() / masses[0]) if masses[0] > 0 else 0.0
    return SolveResult(
        x=x, residual=0.0, residuals=np.zeros(1), iterations=steps, solver=NAME,
        seconds=clock.perf_counter() - start,
        info={"time_error": error, "mass_drift": drift, "steps": steps},
    )  # fmt: skip


def _advance_all(
    q0: np.ndarray, bed: np.ndarray, grid: Grid, kinds: np.ndarray | str, g: float,
    gaps: np.ndarray, courant: float, max_steps: int,
) -> tuple[np.ndarray, int]:  # fmt: skip
    from ._shallow_kernels import advance

    if isinstance(kinds, str):
        kinds = np.full((2, 2), _KINDS[kinds])
    _, n, m = q0.shape
    q, z = np.zeros((3, n + 4, m + 4)), np.zeros((n + 4, m + 4))
    q[:, 2:-2, 2:-2], z[2:-2, 2:-2] = q0, bed
    dx, dy = grid.spacing[0], grid.spacing[1] if grid.dim == 2 else 1.0
    buffers = np.zeros((9, max(n, m) + 4))
    out, total = [q0], 0
    for gap in gaps:
        steps = advance(q, z, kinds, dx, dy, g, gap, courant, max_steps, buffers)
        depth = q[0, 2:-2, 2:-2]
        if steps < 0 or not np.isfinite(q[:, 2:-2, 2:-2]).all() or depth.min() < -1e-12:
            raise SolverDidNotConverge(
                NAME, iterations=total + abs(steps), residual=np.nan, rtol=0.0,
                note=f"depth reached {depth.min():.3g}, or more than {max_steps} steps",
            )  # fmt: skip
        total += steps
        out.append(q[:, 2:-2, 2:-2].copy())
    return np.stack(out), total


def dam_break_1d(
    x: np.ndarray, t: float, *, left: float, right: float, gravity: float = 9.81
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and velocity after a dam at x = 0 broke over a wet bed (Stoker's solution).

    Parameters
    ----------
    x : ndarray
    t : float
        Positive, s.
    left, right : float
        Depths at rest before, ``left > right > 0``, m.
    gravity : float

    Returns
    -------
    depth, velocity : ndarray

    References
    ----------
    .. [1] Stoker, "Water waves", Interscience (1957), section 10.8.
    """
    from scipy.optimize import brentq

    if not left > right > 0:
        raise ValueError(f"left={left}, right={right}: need left > right > 0")
    check_positive("t", t)
    g, c_left = gravity, np.sqrt(gravity * left)

    def mismatch(h: float) -> float:  # velocity behind the shock less that of the rarefaction
        shock = (h - right) * np.sqrt(0.5 * g * (1 / h + 1 / right))
        return shock - 2 * (c_left - np.sqrt(g * h))

    h = brentq(mismatch, right, left, xtol=1e-15, rtol=1e-15)
    u = 2 * (c_left - np.sqrt(g * h))
    speed = h * u / (h - right)
    s = np.asarray(x, np.float64) / t
    fan = (2 * c_left - s) / 3
    depth = np.where(s < speed, h, right)
    velocity = np.where(s < speed, u, 0.0)
    inside = s < u - np.sqrt(g * h)
    depth = np.where(inside, fan**2 / g, depth)
    velocity = np.where(inside, 2 * (c_left + s) / 3, velocity)
    return np.where(s < -c_left, left, depth), np.where(s < -c_left, 0.0, velocity)
