"""Fourth-order exponential time differencing (ETDRK4) with adaptive steps and an error estimate."""

from __future__ import annotations

import math
import time as clock
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..result import SolverDidNotConverge, SolveResult
from .fourier import Fourier

__all__ = ["Nonlinear", "etdrk4_coefficients", "solve_evolution"]

#: ``nonlinear(v, t)``: coefficients of the nonlinear terms from those of the state.
Nonlinear = Callable[[np.ndarray, float], np.ndarray]

NAME = "spectral.etdrk4"
#: Steps are the gap between stored times over 4, 8, ... 4 * 2**_LEVELS.
_LEVELS = 30
_RESTARTS = 8


def etdrk4_coefficients(
    linear: np.ndarray, h: float, *, n_points: int = 32
) -> tuple[np.ndarray, ...]:
    """Coefficients of one step ``h`` of ETDRK4 for ``dv/dt = linear * v + N(v)``.

    Parameters
    ----------
    linear : ndarray
        Diagonal of the linear part, real or complex.
    h : float
        Step.
    n_points : int
        Points on the contour.

    Returns
    -------
    tuple of nine ndarray
        With ``p_n`` the functions ``p_0 = exp``, ``p_{n+1}(z) = (p_n(z) - 1/n!)/z``, at
        ``z = h * linear``: ``p_0(z), p_0(z/2), (h/2) p_1(z/2), h p_2(z/2), h p_1(z), 2 h p_2(z)``,
        and the weights ``h (p_1 - 3 p_2 + 4 p_3), h (2 p_2 - 4 p_3), h (4 p_3 - p_2)``.

    Notes
    -----
    The quotients cancel near ``z = 0``. They are analytic, so their mean over a circle around `z`
    is their value: 32 points of the unit circle give it to rounding [1]_.

    References
    ----------
    .. [1] Kassam & Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26
       (2005) 1214-1233.
    """
    values, where = np.unique(np.asarray(linear), return_inverse=True)
    z = h * values
    circle = np.exp(2j * np.pi * (np.arange(n_points) + 0.5) / n_points)
    r = z[:, None] + circle
    e, e2, r3 = np.exp(r), np.exp(0.5 * r), r**3
    quotients = (
        h * (e2 - 1) / r,
        h * 4 * (e2 - 1 - 0.5 * r) / r**2,
        h * (e - 1) / r,
        2 * h * (e - 1 - r) / r**2,
        h * (-4 - r + e * (4 - 3 * r + r**2)) / r3,
        2 * h * (2 + r + e * (r - 2)) / r3,
        h * (-4 - 3 * r - r**2 + e * (4 - r)) / r3,
    )
    means = [q.mean(axis=1) for q in quotients]
    if not np.iscomplexobj(values):
        means = [m.real for m in means]
    parts = (np.exp(z), np.exp(0.5 * z), *means)
    return tuple(p[where].reshape(np.shape(linear)) for p in parts)


class _Stepper:
    """ETDRK4 steps of any length, coefficients kept for the lengths in use."""

    def __init__(self, linear: np.ndarray, nonlinear: Nonlinear) -> None:
        self.linear, self.nonlinear = linear, nonlinear
        self._cache: OrderedDict[float, tuple[np.ndarray, ...]] = OrderedDict()

    def coefficients(self, h: float) -> tuple[np.ndarray, ...]:
        if h not in self._cache:
            self._cache[h] = etdrk4_coefficients(self.linear, h)
            if len(self._cache) > 8:
                self._cache.popitem(last=False)
        self._cache.move_to_end(h)
        return self._cache[h]

    def step(
        self, v: np.ndarray, n_v: np.ndarray, t: float, h: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return state, nonlinear terms, and the difference to an embedded third-order result."""
        e, e2, q1, q2, c1, c2, f1, f2, f3 = self.coefficients(h)
        half = e2 * v
        half += q1 * n_v
        n_a = self.nonlinear(half, t + 0.5 * h)
        half += q2 * (n_a - n_v)
        n_b = self.nonlinear(half, t + 0.5 * h)
        whole = e * v
        stage = whole + c1 * n_v
        stage += c2 * (n_b - n_v)
        n_c = self.nonlinear(stage, t + h)
        n_a += n_b
        new = whole
        new += f1 * n_v
        new += f2 * n_a
        new += f3 * n_c
        n_new = self.nonlinear(new, t + h)
        # weights (f1, 2 f2, 0, f3) over (v, a + b, c, new) are of third order, as in RK4(3) [3]
        return new, n_new, f3 * (n_c - n_new)


def solve_evolution(
    linear: np.ndarray,
    nonlinear: Nonlinear,
    u0: np.ndarray,
    space: Fourier,
    times: Sequence[float] | np.ndarray,
    *,
    dt: float | None = None,
    rtol: float = 1e-6,
    horizon: float | None = None,
    max_steps: int = 1_000_000,
) -> SolveResult:
    """Solve ``dv/dt = linear * v + nonlinear(v, t)`` for the Fourier coefficients `v` of a field.

    Parameters
    ----------
    linear : ndarray
        Symbol of the linear part, such as ``-nu * space.k2``; broadcasts to the shape of `v`.
    nonlinear : callable ``(v, t) -> ndarray``
        The other terms, by ``space.project(product of space.evaluate(v))``. It must not change `v`
        and must return an array of its own.
    u0 : ndarray, shape (..., *grid.shape)
        Initial values; leading axes are components or samples, advanced together.
    space : Fourier
    times : sequence of float, shape (T,)
        Strictly increasing; `u0` holds at the first.
    dt : float, optional
        Longest step. By default steps adapt to `rtol`.
    rtol : float, default 1e-6
        Largest time error, see Notes, in adaptive mode.
    horizon : float, optional
        Time after which the error no longer counts; for chaotic flows, whose trajectories no
        step keeps for long.
    max_steps : int

    Returns
    -------
    SolveResult
        `x` has shape (T, ..., *grid.shape), ``x[0]`` being `u0`; `iterations` counts steps;
        `residual` is 0, as the scheme is explicit. ``info["time_error"]`` is the estimated relative
        error in L2 of space and time, ``info["time_errors"]`` that in space at each time, both the
        worst over leading axes.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
        The solution blows up, or `rtol` cannot be reached; says at which step and time.

    Notes
    -----
    The scheme is Krogstad's variant [2]_ of ETDRK4 [1]_: the same cost, and its order stays four
    where Cox and Matthews' falls to three on stiff problems such as Cahn-Hilliard.

    Steps come in blocks of four equal ones, a power-of-two fraction of the gap between stored
    times. An embedded third-order formula [3]_, free because its last stage is the next step's
    first, chooses the length. The same blocks, taken in two steps and in one, give two more
    solutions. Their distances ``D2 = |u_4h - u_2h|, D1 = |u_2h - u_h|`` show the order at work,
    ``r = D2/D1 = 2^p`` (16 for smooth solutions, less where the data excite stiff modes), and the
    error of `u_h` is ``D1 / (r - 1)``, with `r` held within 4 and 16. If that exceeds `rtol`, the
    run is repeated with a smaller tolerance a step.

    References
    ----------
    .. [1] Cox & Matthews, J. Comput. Phys. 176 (2002) 430-455; Kassam & Trefethen, SIAM J. Sci.
       Comput. 26 (2005) 1214-1233.
    .. [2] Krogstad, "Generalized integrating factor methods for stiff PDEs", J. Comput. Phys. 203
       (2005) 72-88.
    .. [3] Balac & Mahe, Comput. Phys. Commun. 184 (2013) 1211-1219: RK4 with an embedded third
       order formula.
    """
    start = clock.perf_counter()
    t = np.asarray(times, np.float64)
    if t.ndim != 1 or len(t) < 2 or not np.all(np.isfinite(t)) or np.any(np.diff(t) <= 0):
        raise ValueError(f"times={_short(t)}: need at least 2 strictly increasing finite numbers")
    u0 = np.asarray(u0, np.float64)
    if u0.shape[-space.dim :] != space.grid.shape:
        raise ValueError(f"u0 has shape {u0.shape}, expected (..., {space.grid.shape})")
    if not np.all(np.isfinite(u0)):
        raise ValueError("u0 holds NaN or infinity")
    if not 1e-13 <= rtol < 1:
        raise ValueError(f"rtol={rtol}: need a number from 1e-13 to 1")
    if dt is not None and not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"dt={dt}: need a positive number")
    if horizon is not None and not horizon > t[0]:
        raise ValueError(f"horizon={horizon}: need a time after the first, {t[0]}")
    v0 = space.coefficients(u0)
    linear = np.asarray(linear)
    try:
        np.broadcast_to(linear, v0.shape)
    except ValueError:
        raise ValueError(
            f"linear has shape {linear.shape}, which does not broadcast to {v0.shape}"
        ) from None
    stepper = _Stepper(linear, nonlinear)
    if not np.all(np.isfinite(stepper.nonlinear(v0, float(t[0])))):
        raise ValueError("nonlinear(u0) holds NaN or infinity")
    kept = len(t) if horizon is None else int(np.searchsorted(t, horizon * (1 + 1e-12), "right"))
    if kept < 2:
        raise ValueError(f"horizon={horizon}: the first stored time after 0 is {t[1]}")

    march = _March(stepper, v0, space, t, max_steps, rtol)
    tolerance, worst = rtol, math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        for attempt in range(_RESTARTS):
            states, blocks = march.fine(tolerance, dt)
            runs = (states, march.coarse(blocks, 2), march.coarse(blocks, 4))
            error, errors = _estimate(space, runs, t, kept)
            worst = min(worst, error) if math.isfinite(error) else worst
            if dt is not None or error <= rtol:
                restarts = attempt
                break
            # the error goes with the tolerance, unless a longer step blew up: halve the steps then
            ratio = rtol / error if math.isfinite(error) else 0.0
            tolerance *= min(0.25, max(0.5 * ratio, 1 / 32))
        else:
            raise SolverDidNotConverge(
                NAME, iterations=march.steps, residual=worst, rtol=rtol,
                note="the residual here is the relative time error; a chaotic solution needs a "
                "shorter time, a horizon or a larger rtol",
            )  # fmt: skip
    x = space.values(states)
    x[0] = u0
    steps = [h for _, h in blocks]
    return SolveResult(
        x, 0.0, np.zeros(1), 4 * len(blocks), NAME, clock.perf_counter() - start,
        info={
            "time_error": error, "time_errors": errors.tolist(), "restarts": restarts,
            "dt_min": min(steps), "dt_max": max(steps), "all_steps": march.steps,
        },
    )  # fmt: skip


class _March:
    """Runs over the stored times, in blocks of four steps, adaptive or of a given length."""

    def __init__(
        self, stepper: _Stepper, v0: np.ndarray, space: Fourier, t: np.ndarray, max_steps: int,
        rtol: float,
    ) -> None:  # fmt: skip
        self.stepper, self.v0, self.space, self.t = stepper, v0, space, t
        self.max_steps, self.rtol, self.steps = max_steps, rtol, 0
        gaps = np.diff(t)
        if np.ptp(gaps) <= 1e-9 * gaps.max():  # one length, so that coefficients are shared
            gaps = np.full(len(gaps), (t[-1] - t[0]) / len(gaps))
        self.gaps = gaps
        self.level = 2

    def fine(
        self, tolerance: float, dt: float | None
    ) -> tuple[np.ndarray, list[tuple[int, float]]]:
        """States at the stored times, and the blocks of four steps: (interval, step)."""
        space, step = self.space, self.stepper.step
        v, n_v = self.v0, self.stepper.nonlinear(self.v0, float(self.t[0]))
        states = np.empty((len(self.t), *v.shape), np.complex128)
        states[0] = v
        blocks: list[tuple[int, float]] = []
        size = np.sqrt(space.mean_square(v))
        level, first = self.level, True
        for i, gap in enumerate(self.gaps.tolist()):
            if dt is not None:
                n = max(1, math.ceil(gap / (4 * dt) * (1 - 1e-12)))
                h = gap / (4 * n)
                for j in range(4 * n):
                    v, n_v, _ = step(v, n_v, self.t[i] + j * h, h)
                    self._count(1, self.t[i] + j * h, not np.isfinite(v.flat[0]))
                blocks += [(i, h)] * n
                self._check(v, self.t[i + 1])
                states[i + 1] = v
                continue
            position, end = 0, 1 << _LEVELS
            while position < end:
                length = 1 << (_LEVELS - level)
                h = gap / (4 << level)
                now = self.t[i] + gap * (position / end)
                w, n_w, worst = v, n_v, np.zeros(size.shape)
                for j in range(4):
                    w, n_w, d = step(w, n_w, now + j * h, h)
                    worst = np.fmax(worst, np.sqrt(space.mean_square(d)))
                self._count(4, now)
                new_size = np.fmax(size, np.sqrt(space.mean_square(w)))
                floor = np.fmax(new_size, 1e-8 * new_size.max())
                ratio = float(np.max(worst / np.where(floor > 0, floor, 1.0))) / tolerance
                if not np.all(np.isfinite(w)) or not ratio <= 1.0:
                    level += 1
                    if level > _LEVELS - 1:
                        self._fail(now, "the step became too small: blow-up")
                    continue
                v, n_v, size = w, n_w, new_size
                blocks.append((i, h))
                position += length
                if first:
                    self.level, first = level, False
                # a step twice as long has 2^4 times the difference; room for half as much again
                if ratio < 1 / 24 and level > 0 and position % (2 * length) == 0:
                    level -= 1
            states[i + 1] = v
        return states, blocks

    def coarse(self, blocks: Iterable[tuple[int, float]], factor: int) -> np.ndarray:
        """States at the stored times with steps `factor` times as long, 2 or 4."""
        v, n_v = self.v0, self.stepper.nonlinear(self.v0, float(self.t[0]))
        states = np.empty((len(self.t), *v.shape), np.complex128)
        states[0] = v
        interval, now = 0, float(self.t[0])
        for i, h in blocks:
            if i != interval:
                states[i] = v
                interval, now = i, float(self.t[i])
            for _ in range(4 // factor):
                v, n_v, _ = self.stepper.step(v, n_v, now, factor * h)
                now += factor * h
                self.steps += 1
        states[-1] = v
        return states

    def _count(self, n: int, now: float, blown_up: bool = False) -> None:
        self.steps += n
        if self.steps > 3 * self.max_steps:
            self._fail(now, f"more than max_steps={self.max_steps} steps")
        if blown_up:
            self._fail(now, "blow-up: the solution is no longer finite")

    def _check(self, v: np.ndarray, now: float) -> None:
        if not np.all(np.isfinite(v)):
            self._fail(now, "blow-up: the solution is no longer finite; take a smaller dt")

    def _fail(self, now: float, why: str) -> None:
        raise SolverDidNotConverge(
            NAME, iterations=self.steps, residual=math.inf, rtol=self.rtol,
            note=f"{why}, step {self.steps}, t = {now:.6g}",
        )  # fmt: skip


def _estimate(
    space: Fourier, runs: Sequence[np.ndarray], t: np.ndarray, kept: int
) -> tuple[float, np.ndarray]:
    """Relative error in space and time, and in space at each time, worst over leading axes.

    `runs` are the states with steps h, 2h and 4h.
    """
    fine, coarse, coarsest = runs
    squares = []
    for d in (fine, coarse - fine, coarsest - coarse):
        square = space.mean_square(d).reshape(len(t), -1)
        squares.append(np.where(np.isfinite(square), square, np.inf))
    size, d1, d2 = (np.trapezoid(s[:kept], t[:kept], axis=0) for s in squares)
    # 8, the order of a stiff transient, where the longest steps blew up
    r = np.where(np.isfinite(d2), np.sqrt(d2 / np.where(d1 > 0, d1, 1.0)), 8.0)
    divisor = np.clip(r, 4.0, 16.0) - 1.0
    relative = np.sqrt(d1 / np.where(size > 0, size, 1.0)) / divisor
    worst = int(np.argmax(relative))
    at_times = np.sqrt(squares[1][:, worst]) / divisor[worst]
    sizes = np.sqrt(squares[0][:, worst])
    return float(relative[worst]), at_times / np.where(sizes > 0, sizes, 1.0)


def _short(t: np.ndarray) -> Any:
    return t.tolist() if t.size <= 6 else f"array of shape {t.shape}"
