"""The wave equation with variable speed between reflecting walls or on periodic grids."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence

import numpy as np

from ..finite_volume import check_field, discretize
from ..grids import Axis, Grid, normalize_boundary
from ..names import check_name
from ..result import SolverDidNotConverge, SolveResult
from ._common import check_positive, check_state, check_times, relative_change, step_gaps

__all__ = ["solve_wave"]

Operator = Callable[[np.ndarray], np.ndarray]
#: The discrete energy is conserved but for rounding; more than this is a fault.
_MAX_DRIFT = 1e-6


def _spectral_derivative(axis: Axis, kinds: tuple[str, str]) -> tuple[np.ndarray, slice]:
    """Matrix from values at the unknowns to the derivative at all points, and the unknowns."""
    length = axis.upper - axis.lower
    s = (axis.coords - axis.lower) / length
    node = axis.location == "node"
    lower, upper = kinds
    first = int(node and lower == "dirichlet")
    last = axis.n - int(node and upper == "dirichlet")
    index = np.arange(last - first)
    if lower == "periodic":
        wave = 2 * np.pi * ((index + 1) // 2)
        phase = np.multiply.outer(s, wave)
        odd = index % 2 == 1
        values = np.where(odd, np.cos(phase), np.sin(phase))
        values[:, 0] = 1.0
        slopes = wave * np.where(odd, -np.sin(phase), np.cos(phase))
        slopes[:, 0] = 0.0
        if axis.n % 2 == 0:  # only the cosine of the highest wave is seen; its slope is not
            values[:, -1] = np.cos(np.pi * axis.n * s) if node else np.sin(np.pi * axis.n * s)
            slopes[:, -1] = 0.0
    else:
        shift = {
            ("neumann", "neumann"): 0.0, ("dirichlet", "dirichlet"): 1.0,
        }.get(kinds, 0.5)  # fmt: skip
        wave = np.pi * (index + shift)
        phase = np.multiply.outer(s, wave)
        if lower == "neumann":
            values, slopes = np.cos(phase), -wave * np.sin(phase)
        else:
            values, slopes = np.sin(phase), wave * np.cos(phase)
    inside = slice(first, last)
    return np.linalg.solve(values[inside].T, slopes.T).T / length, inside


def _operator(
    c2: np.ndarray, grid: Grid, kinds: tuple[tuple[str, str], ...], space: str
) -> tuple[Operator, np.ndarray, tuple[slice, ...]]:
    """Return ``u -> div(c^2 grad u)`` on the unknowns, their volumes, and where they are."""
    if space == "finite_volume":
        # a reaction of 1, taken off again, keeps the matrix regular and the data as they are
        system = discretize(c2, 0.0, grid, boundary=list(kinds), reaction=1.0)
        volume = system.volume
        return (lambda u: u - system.apply(u) / volume), volume, system.unknowns
    pairs = [_spectral_derivative(a, k) for a, k in zip(grid.axes, kinds, strict=True)]
    inside = tuple(s for _, s in pairs)
    volume = grid.weights[inside]
    weights = []
    for k in range(grid.dim):  # all points along k, unknowns across
        here = tuple(slice(None) if i == k else s for i, s in enumerate(inside))
        weights.append((grid.weights * c2)[here])

    def apply(u: np.ndarray) -> np.ndarray:
        out = np.zeros_like(u)
        for k, (d, _) in enumerate(pairs):
            if grid.dim == 1:
                out -= d.T @ (weights[k] * (d @ u))
            elif grid.dim == 2 and k == 1:
                out -= (weights[k] * (u @ d.T)) @ d
            else:
                flux = weights[k] * np.moveaxis(np.tensordot(d, u, axes=(1, k)), 0, k)
                out -= np.moveaxis(np.tensordot(d.T, flux, axes=(1, k)), 0, k)
        return out / volume

    return apply, volume, inside


def _spectral_radius(a: Operator, shape: tuple[int, ...], volume: np.ndarray) -> float:
    """Largest eigenvalue of ``-a`` by power iteration, a safe bound: 15 % above the last value."""
    u = np.random.default_rng(0).standard_normal(shape)
    value = 0.0
    for _ in range(30):
        u /= np.sqrt(np.sum(volume * u**2))
        v = -a(u)
        value = float(np.sqrt(np.sum(volume * v**2)))
        u = v
        if value == 0.0:
            break
    return 1.15 * value


def solve_wave(
    u0: np.ndarray,
    times: Sequence[float] | np.ndarray,
    grid: Grid,
    *,
    speed: float | np.ndarray = 1.0,
    v0: np.ndarray | None = None,
    boundary: str | tuple | list = "neumann",
    space: str = "spectral",
    rtol: float = 1e-6,
    dt: float | None = None,
    max_steps: int = 1_000_000,
) -> SolveResult:
    """Solve ``u_tt = div(c^2 grad u)`` with ``u = u0``, ``u_t = v0`` at the first time.

    Parameters
    ----------
    u0 : ndarray, shape of the grid
    times : sequence of float, shape (T,)
        Stored times, increasing.
    grid : Grid
        1-D to 3-D, node or cell-centered.
    speed : float or ndarray
        ``c > 0``.
    v0 : ndarray, optional
        Default 0.
    boundary : str or sequence
        ``"neumann"`` and ``"dirichlet"``: reflecting walls, of ``du/dn = 0`` and ``u = 0``;
        ``"periodic"``. One for all, per axis or per side.
    space : {"spectral", "finite_volume"}
        Sines, cosines or Fourier series, of spectral accuracy if `u` and `c` continue smoothly
        across the walls (`c` even, `u` even at Neumann and odd at Dirichlet walls); or second
        order.
    rtol : float
        Relative L2 error in space and time that the steps may make.
    dt : float, optional
        Longest step, instead of one chosen by `rtol`.
    max_steps : int

    Returns
    -------
    SolveResult
        `x` of shape (T, *grid.shape); `info` holds ``time_error``, ``energy_drift`` (relative, of
        the discrete energy) and ``steps``.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
        The estimated error stays above `rtol`, or energy is not conserved: an unstable step.

    Notes
    -----
    The scheme of the modified equation, ``u(t+h) - 2 u(t) + u(t-h) = h^2 A u + h^4/12 A^2 u``, is
    of fourth order, stable for ``h^2 rho(A) <= 12``, and conserves a discrete energy exactly since
    both forms of ``A`` are self-adjoint [1]_. Steps are halved until the difference to the last
    run, over fifteen, is below `rtol`; the finer run is returned.

    References
    ----------
    .. [1] Cohen, "Higher-order numerical methods for transient wave equations", Springer (2002),
       chapter 4; Shubin & Bell, SIAM J. Sci. Stat. Comput. 8 (1987) 135-151.
    """
    t = check_times(times)
    u0 = check_state("u0", u0, grid.shape)
    v = np.zeros(grid.shape) if v0 is None else check_state("v0", v0, grid.shape)
    c = check_field("speed", speed, grid, positive=True)
    check_name("space", space, ("spectral", "finite_volume"))
    check_positive("rtol", rtol)
    if dt is not None:
        check_positive("dt", dt)
    kinds = normalize_boundary(boundary, grid)
    start = clock.perf_counter()
    a, volume, inside = _operator(c**2, grid, kinds, space)
    gaps = step_gaps(t)
    rho = _spectral_radius(a, volume.shape, volume)
    stable = 0.9 * np.sqrt(12.0 / rho) if rho > 0 else float(gaps.max())
    longest = 0.7 * stable if dt is None else dt
    if longest > stable:
        raise ValueError(f"dt={dt}: unstable, at most {stable:.3g} is allowed here")
    counts = np.maximum(np.ceil(gaps / longest - 1e-9).astype(int), 1)
    name = f"{space}.leapfrog4"
    coarse, _ = _run(a, volume, u0[inside], v[inside], gaps, counts)
    steps, error, drift = 0, np.inf, 0.0
    while True:
        counts = 2 * counts
        steps = int(counts.sum())
        fine, drift = _run(a, volume, u0[inside], v[inside], gaps, counts)
        a_run, b_run = _embed(coarse, grid, inside), _embed(fine, grid, inside)
        error = relative_change(a_run, b_run, grid, t) / 15
        if not np.isfinite(error) or not drift <= _MAX_DRIFT:
            raise SolverDidNotConverge(
                name, iterations=steps, residual=error, rtol=rtol,
                note=f"the energy changed by {drift:.1e}: unstable",
            )  # fmt: skip
        if error <= rtol or dt is not None:
            break
        if 2 * steps > max_steps:
            raise SolverDidNotConverge(
                name, iterations=steps, residual=error, rtol=rtol,
                note=f"max_steps={max_steps} reached; residual is the estimated time error",
            )  # fmt: skip
        coarse = fine
    return SolveResult(
        x=_embed(fine, grid, inside), residual=0.0, residuals=np.zeros(1), iterations=steps,
        solver=name, seconds=clock.perf_counter() - start,
        info={"time_error": error, "energy_drift": drift, "steps": steps},
    )  # fmt: skip


def _embed(u: np.ndarray, grid: Grid, inside: tuple[slice, ...]) -> np.ndarray:
    out = np.zeros((len(u), *grid.shape))
    out[(slice(None), *inside)] = u
    return out


def _run(
    a: Operator, volume: np.ndarray, u: np.ndarray, v: np.ndarray, gaps: np.ndarray,
    counts: np.ndarray,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Values at the stored times, and the largest relative change of the discrete energy."""
    out = [u]
    lengths = gaps / counts
    uniform = np.ptp(lengths) <= 1e-12 * lengths.max()
    drift, before, energy0 = 0.0, None, 0.0

    def second(w: np.ndarray, h: float) -> np.ndarray:
        aw = a(w)
        return aw + (h * h / 12.0) * a(aw)

    for gap, n in zip(gaps, counts, strict=True):
        h = float(lengths[0] if uniform else gap / n)
        for _ in range(n):
            bu = second(u, h)
            if before is None:
                av = a(v)
                new = u + h * (v + (h * h / 6.0) * (av + (h * h / 20.0) * a(av))) + 0.5 * h * h * bu
            else:
                new = 2.0 * u - before + h * h * bu
            speed = (new - u) / h
            energy = 0.5 * float(np.sum(volume * (speed**2 - new * bu)))
            if energy0 == 0.0:
                energy0 = energy
            drift = max(drift, abs(energy - energy0) / abs(energy0) if energy0 else 0.0)
            before, u = u, new
            if not np.isfinite(energy):
                return np.full((len(gaps) + 1, *u.shape), np.nan), np.inf
        out.append(u)
        if not uniform:  # steps of another length: start anew from the velocity
            v = _velocity(a, u, before, h)
            before, energy0 = None, 0.0
    return np.stack(out), drift


def _velocity(a: Operator, u: np.ndarray, before: np.ndarray | None, h: float) -> np.ndarray:
    """Velocity at the time of `u` from it and the values a step before, to fourth order.

    From ``before = cos(h w) u - sin(h w)/w v`` with ``w^2 = -a``.
    """
    assert before is not None
    au = a(u)
    rest = u + 0.5 * h * h * au + h**4 / 24 * a(au) - before  # sin(hw)/w v
    v = rest / h
    av = a(v)
    # x / sin x = 1 + x^2/6 + 7 x^4/360
    return v - h * h / 6 * av + 7 * h**4 / 360 * a(av)
