"""Initial-value problems ``x' = f(t, x)``: any of scipy's methods, and a compiled DOP853.

Examples
--------
>>> from solvers.ode import solve_ode
>>> result = solve_ode(lambda t, x: [x[1], -x[0]], [1.0, 0.0], np.linspace(0.0, 10.0, 101))
>>> result.x.shape, bool(abs(result.x[-1, 0] - np.cos(10.0)) < 1e-9)
((101, 2), True)
>>> result.info["time_error"] < 1e-9
True
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from .names import check_name
from .result import SolverDidNotConverge, SolveResult

__all__ = ["METHODS", "compiled_rhs", "solve_ode", "solve_ode_batch"]

METHODS = ("DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA")
#: What `verify="method"` compares with.
_OTHER = {"Radau": "DOP853", "BDF": "Radau"}
_IMPLICIT = ("Radau", "BDF", "LSODA")
#: No tolerance is tighter: rounding.
_TIGHTEST = 3e-14
Verify = Literal["tolerance", "method"] | None


def compiled_rhs(function: Callable[..., None]) -> Any:
    """Compile a right-hand side for `solve_ode` and `solve_ode_batch` with numba.

    Parameters
    ----------
    function : callable
        ``f(t, x, p, out)`` writes the derivative into `out`; `x`, `out` are float64 arrays of
        shape (d,), `p` one of parameters. It uses what numba compiles.

    Returns
    -------
    numba dispatcher
        Compiled for these types, cached on disk.

    Examples
    --------
    >>> @compiled_rhs
    ... def oscillator(t, x, p, out):
    ...     out[0], out[1] = x[1], -p[0] * x[0]
    >>> r = solve_ode(oscillator, [1.0, 0.0], [0.0, 1.0], params=[4.0])
    >>> bool(abs(r.x[-1, 0] - np.cos(2.0)) < 1e-10)
    True
    """
    import numba

    from ._dop853 import RHS_SIGNATURE

    return numba.njit(RHS_SIGNATURE, cache=_has_file(function))(function)


def _has_file(function: Callable[..., None]) -> bool:
    """Numba caches what comes from a file, not what was typed at a prompt."""
    import os

    return os.path.isfile(function.__code__.co_filename)


def _is_compiled(rhs: Any) -> bool:
    return hasattr(rhs, "py_func") and hasattr(rhs, "signatures")


def solve_ode(
    rhs: Any,
    x0: Sequence[float] | np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    params: Sequence[float] | np.ndarray = (),
    method: str = "DOP853",
    rtol: float = 1e-10,
    atol: float | None = None,
    jac: Any = None,
    max_steps: int = 100_000,
    verify: Verify = "tolerance",
    steps: int | None = None,
) -> SolveResult:
    """Solve an initial-value problem and return the states at the requested times.

    Parameters
    ----------
    rhs : callable
        ``f(t, x) -> derivative``, or a right-hand side from `compiled_rhs`, a hundred times faster.
    x0 : array_like, shape (d,)
        State at ``times[0]``.
    times : array_like, shape (T,)
        Increasing. One-step methods end steps on them; multistep methods (BDF, LSODA) read their
        dense output.
    params : array_like
        The `p` of a compiled right-hand side.
    method : str
        One of `METHODS`; compiled right-hand sides have ``"DOP853"`` of their own, the others call
        the compiled function from scipy. Stiff: ``"Radau"``.
    rtol : float
        Relative tolerance of a step; the error at the end of smooth, not chaotic problems is a few
        to a hundred times it. At least 3e-14.
    atol : float, optional
        Absolute tolerance, default ``rtol / 100``.
    jac : callable or array, optional
        Jacobian for implicit methods, as in `scipy.integrate.solve_ivp`.
    max_steps : int
        More steps than this fail.
    verify : {"tolerance", "method", None}
        Estimate the error: solve again with a hundred times smaller tolerance, or with another
        method (Radau, or DOP853 for Radau) at the same. None leaves it out.
    steps : int, optional
        Compiled DOP853 only: this many equal steps from one time to the next, no step control. The
        error then falls as the eighth power; `verify` is with twice as many.

    Returns
    -------
    SolveResult
        `x` of shape (T, d), `iterations` the steps (accepted and rejected), `residual` 0 for
        explicit methods, which solve no equations, NaN for implicit ones, whose residual scipy does
        not tell. ``info["time_error"]`` is the relative L2 difference over all times and states to
        the second solution, NaN without `verify`; ``info["evaluations"]`` counts calls of `rhs`.

    Raises
    ------
    SolverDidNotConverge
        Blow-up, a step size that vanished, or too many steps; the note gives the time reached.
    ValueError
        An argument is not allowed: name and value.

    References
    ----------
    .. [1] Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 2nd ed., Springer
       1993, section II.5: the method DOP853.
    """
    x0, t = _check(x0, times, 1)
    p = np.ascontiguousarray(params, np.float64)
    check_name("method", method, METHODS)
    atol = _tolerances(rtol, atol, verify, steps)
    if p.size and not _is_compiled(rhs):
        raise ValueError("params belong to a compiled right-hand side; close over them instead")
    if steps is not None and not (_is_compiled(rhs) and method == "DOP853"):
        raise ValueError(f"steps={steps}: only for a compiled right-hand side and method 'DOP853'")

    def run(method: str, rtol: float, atol: float, steps: int) -> tuple[np.ndarray, int, int]:
        if _is_compiled(rhs) and method == "DOP853":
            x, n, done, reached = _compiled(rhs, x0[None], t, p[None], rtol, atol, max_steps, steps)
            _raise_failed(done[0], reached[0], int(n[0]), rtol, t)
            return x[0], int(n[0]), 12 * int(n[0]) + 2
        return _scipy(rhs, x0, t, p, method, rtol, atol, jac, max_steps)

    if _is_compiled(rhs) and method == "DOP853":
        _warm_up()
    start = clock.perf_counter()
    x, n, calls = run(method, rtol, atol, steps or 0)
    seconds = clock.perf_counter() - start
    error = math.nan
    if verify == "method":
        error = _difference(x, run(_OTHER.get(method, "Radau"), rtol, atol, 0)[0])
    elif verify == "tolerance":
        tight = max(rtol / 100, _TIGHTEST)
        error = _difference(x, run(method, tight, atol / 100, 2 * (steps or 0))[0])
    return _result(x, n, method, rhs, seconds, error, calls)


def solve_ode_batch(
    rhs: Any,
    x0: np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    params: np.ndarray | None = None,
    rtol: float = 1e-10,
    atol: float | None = None,
    max_steps: int = 100_000,
    verify: bool = True,
) -> SolveResult:
    """Solve one system from many initial states, each with steps of its own, compiled.

    Parameters
    ----------
    rhs
        From `compiled_rhs`.
    x0 : ndarray, shape (B, d)
    times : array_like, shape (T,)
        Common to all.
    params : ndarray, shape (P,) or (B, P), optional
        Common, or one row a trajectory.
    rtol, atol, max_steps
        As in `solve_ode`.
    verify : bool
        Solve again with a hundred times smaller tolerance.

    Returns
    -------
    SolveResult
        `x` of shape (B, T, d), bit for bit what `solve_ode` gives one by one;
        ``info["time_error"]`` the worst of the trajectories, ``info["time_errors"]`` all of them.

    Raises
    ------
    SolverDidNotConverge
        The first trajectory that failed: its number and time.
    ValueError

    Notes
    -----
    Lotka-Volterra, 20 stored times, rtol 1e-10: 10,000 trajectories take half a second. One step
    size common to all, in numpy, was measured slower below 100 trajectories and 5 to 7 times faster
    from 1,000 on, but its results depend on what else is in the batch.
    """
    if not _is_compiled(rhs):
        raise ValueError("rhs must come from compiled_rhs; loop over solve_ode for others")
    x0, t = _check(x0, times, 2)
    atol = _tolerances(rtol, atol, "tolerance", None)
    p = np.ascontiguousarray(() if params is None else params, np.float64)
    if p.ndim == 2 and len(p) != len(x0):
        raise ValueError(f"params has {len(p)} rows, x0 {len(x0)}")
    if p.ndim not in (1, 2):
        raise ValueError(f"params has shape {p.shape}, expected (P,) or ({len(x0)}, P)")
    p = np.array(np.broadcast_to(p, (len(x0), p.shape[-1])), order="C")
    _warm_up()

    def run(rtol: float, atol: float) -> tuple[np.ndarray, np.ndarray]:
        x, n, done, reached = _compiled(rhs, x0, t, p, rtol, atol, max_steps, 0)
        for b in np.flatnonzero(done != 0)[:1]:
            _raise_failed(done[b], reached[b], int(n[b]), rtol, t, f"trajectory {b}: ")
        return x, n

    start = clock.perf_counter()
    x, n = run(rtol, atol)
    seconds = clock.perf_counter() - start
    errors = np.full(len(x0), np.nan)
    if verify:
        y, _ = run(max(rtol / 100, _TIGHTEST), atol / 100)
        errors = np.array([_difference(a, b) for a, b in zip(x, y, strict=True)])
    total = int(n.sum())
    result = _result(x, total, "DOP853", rhs, seconds, float(errors.max()), 12 * total)
    result.info["time_errors"] = errors
    return result


# -- the parts -----------------------------------------------------------------------------------


def _check(x0: Any, times: Any, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    x0, t = np.array(x0, np.float64, order="C"), np.array(times, np.float64, order="C")
    if x0.ndim != ndim or x0.size == 0:
        raise ValueError(f"x0 has shape {x0.shape}, expected {'(d,)' if ndim == 1 else '(B, d)'}")
    if not np.isfinite(x0).all():
        raise ValueError("x0 holds NaN or infinity")
    if t.ndim != 1 or t.size < 2 or not np.isfinite(t).all() or not np.all(np.diff(t) > 0):
        raise ValueError("times: need at least two, finite and strictly increasing")
    return x0, t


def _tolerances(rtol: float, atol: float | None, verify: Any, steps: int | None) -> float:
    if not _TIGHTEST <= rtol < 1:
        raise ValueError(f"rtol={rtol}: need {_TIGHTEST:g} <= rtol < 1")
    if atol is not None and not 0 <= atol < math.inf:
        raise ValueError(f"atol={atol}: need a number >= 0")
    if verify not in ("tolerance", "method", None):
        raise ValueError(f"verify={verify!r}: allowed 'tolerance', 'method', None")
    if steps is not None and (isinstance(steps, bool) or steps != int(steps) or steps < 1):
        raise ValueError(f"steps={steps}: need an integer >= 1")
    return rtol / 100 if atol is None else float(atol)


def _result(
    x: np.ndarray, n: int, method: str, rhs: Any, seconds: float, error: float, calls: int
) -> SolveResult:
    residual = math.nan if method in _IMPLICIT else 0.0
    where = "compiled" if _is_compiled(rhs) and method == "DOP853" else "scipy"
    return SolveResult(
        x, residual, np.array([residual]), n, f"{where}.{method}", seconds,
        info={"time_error": error, "evaluations": calls},
    )  # fmt: skip


def _difference(x: np.ndarray, y: np.ndarray) -> float:
    """Relative L2 difference; not below rounding, which both share."""
    size = float(np.linalg.norm(y))
    error = float(np.linalg.norm(x - y))
    return max(error / size, 1e-16) if size > 0 else error


def _compiled(
    rhs: Any,
    x0: np.ndarray,
    t: np.ndarray,
    p: np.ndarray,
    rtol: float,
    atol: float,
    max_steps: int,
    steps: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    from ._dop853 import integrate

    x = np.empty((len(x0), t.size, x0.shape[1]))
    n, done = np.zeros(len(x0), np.int64), np.zeros(len(x0), np.int64)
    reached = np.zeros(len(x0))
    for b in range(len(x0)):
        n[b], done[b], reached[b] = integrate(
            rhs, x0[b], t, p[b], rtol, atol, max_steps, steps, x[b]
        )
    return x, n, done, reached


def _warm_up() -> None:
    """Load or compile the kernel outside of the time taken."""
    from . import _dop853  # noqa: F401  (compiled for its one signature when imported)


_REASONS = {1: "the solution blew up", 2: "the step size vanished", 3: "too many steps"}


def _raise_failed(
    done: int, reached: float, n: int, rtol: float, t: np.ndarray, which: str = ""
) -> None:
    if done:
        raise SolverDidNotConverge(
            "compiled.DOP853", iterations=n, residual=math.nan, rtol=rtol,
            note=f"{which}{_REASONS[int(done)]} at t={reached:.6g}, of {t[0]:g} to {t[-1]:g}",
        )  # fmt: skip


def _scipy(
    rhs: Any,
    x0: np.ndarray,
    t: np.ndarray,
    p: np.ndarray,
    method: str,
    rtol: float,
    atol: float,
    jac: Any,
    max_steps: int,
) -> tuple[np.ndarray, int, int]:
    """Go step by step, so that failures tell the time and steps are counted."""
    import scipy.integrate

    f = rhs
    if _is_compiled(rhs):

        def f(s: float, y: np.ndarray) -> np.ndarray:
            out = np.empty_like(y)
            rhs(s, np.ascontiguousarray(y), p, out)
            return out

    def checked(s: float, y: np.ndarray) -> np.ndarray:
        dx = np.asarray(f(s, y), np.float64)
        if dx.shape != y.shape:
            raise ValueError(f"rhs returned shape {dx.shape}, expected {y.shape} (that of x0)")
        return dx

    def failed(why: str) -> SolverDidNotConverge:
        return SolverDidNotConverge(
            f"scipy.{method}", iterations=n, residual=math.nan, rtol=rtol,
            note=f"{why} at t={solver.t:.6g}, of {t[0]:g} to {t[-1]:g}",
        )  # fmt: skip

    extra = {"jac": jac} if method in _IMPLICIT and jac is not None else {}
    x = np.empty((t.size, x0.size))
    x[0] = x0
    n = calls = 0
    # Dense output of Runge-Kutta methods is of lower order than their steps, so these end on the
    # stored times; that of multistep methods is as good as the steps, and a restart is costly.
    ends = t[-1:] if method in ("BDF", "LSODA") else t[1:]
    cls = getattr(scipy.integrate, method)
    filled, begin, y, h = 1, t[0], x0.copy(), 0.0
    with np.errstate(all="ignore"):  # a blow-up is found below
        for end in ends:
            first = {"first_step": min(h, end - begin)} if h else {}
            solver = cls(checked, begin, y, end, rtol=rtol, atol=atol, **first, **extra)
            while solver.status == "running":
                if n >= max_steps:
                    raise failed(_REASONS[3])
                n += 1
                before = solver.t
                solver.step()
                if solver.status == "failed" or solver.t - before <= 4e-16 * abs(before):
                    raise failed(_REASONS[2])
                if not np.isfinite(solver.y).all():
                    raise failed(_REASONS[1])
                to = int(np.searchsorted(t, solver.t, side="right"))
                if to > filled and len(ends) == 1:
                    x[filled:to] = solver.dense_output()(t[filled:to]).T
                    filled = to
                if method not in ("BDF", "LSODA"):  # not the step cut short at the end
                    h = max(h, solver.h_abs) if solver.status == "finished" else solver.h_abs
            calls += int(solver.nfev)
            begin, y = end, solver.y
            if len(ends) > 1:
                x[filled] = y
                filled += 1
    x[-1] = y
    return x, n, calls
