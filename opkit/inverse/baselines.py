"""Reconstruction without a learned prior: Tikhonov, total variation, wavelet sparsity."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from solvers.names import check_name

from .forward import LinearForward, NonlinearForward, _dots, _norms, as_forward, batched_cg
from .pnp import InverseResult, _positive, check_data

__all__ = ["discrepancy_weight", "tikhonov", "tv", "wavelet_l1"]

#: Up to this many unknowns `tv` factorizes its matrix.
DENSE = 4096


def gradient(x: np.ndarray) -> np.ndarray:
    """Forward differences along each axis of a batch, 0 at the far ends: (dim, batch, *shape)."""
    out = np.zeros((x.ndim - 1, *x.shape))
    for d in range(1, x.ndim):
        o, v = np.moveaxis(out[d - 1], d, 0), np.moveaxis(x, d, 0)  # views
        o[:-1] = v[1:] - v[:-1]
    return out


def gradient_adjoint(p: np.ndarray) -> np.ndarray:
    """Adjoint of `gradient` (minus the divergence)."""
    out = np.zeros(p.shape[1:])
    for d in range(1, p.ndim - 1):
        o, v = np.moveaxis(out, d, 0), np.moveaxis(p[d - 1], d, 0)  # views
        o[1:] += v[:-1]
        o[:-1] -= v[:-1]
    return out


def _linear(forward: Any, data: Any, name: str) -> tuple[LinearForward, np.ndarray, bool]:
    made = as_forward(forward)
    if not isinstance(made, LinearForward):
        raise ValueError(f"{name} needs a linear map")
    made.check()
    y, single = check_data(data, made)
    return made, y, single


def _result(
    x: np.ndarray, single: bool, misfit: np.ndarray, penalty: np.ndarray, weight: np.ndarray,
    objective: np.ndarray, residuals: np.ndarray, converged: np.ndarray, iterations: np.ndarray,
    start: float,
) -> InverseResult:  # fmt: skip
    n = len(x)
    return InverseResult(
        x=x[0] if single else x, objective=objective, residuals=residuals, converged=converged,
        diverged=np.zeros(n, bool), iterations=iterations, certificate=None, misfit=misfit,
        regularizer=penalty, fixed_point=np.full(n, np.nan), weight=weight, restarts=(),
        seconds=time.perf_counter() - start,
    )  # fmt: skip


def tikhonov(
    forward: Any,
    data: Any,
    *,
    weight: float | np.ndarray,
    operator: Literal["identity", "gradient"] = "identity",
) -> InverseResult:
    """Minimize ``1/2 |A x - y|^2 + weight/2 |B x|^2``: exactly, or for a nonlinear map locally.

    Parameters
    ----------
    forward : LinearForward, NonlinearForward or what `as_forward` takes
        A nonlinear map is minimized over by L-BFGS from 0, sample by sample.
    data : ndarray, shape (batch, *out_shape) or out_shape
    weight : float or ndarray, shape (batch,)
    operator : {"identity", "gradient"}
        B: size or differences between neighbors.

    Returns
    -------
    InverseResult
        Its one residual is that of the normal equations; of a nonlinear map the norm of the
        objective's gradient over that at 0, converged below 1e-3.

    Raises
    ------
    ValueError
        Shapes that do not fit, data that are not finite, a wrong adjoint, or a bad option.

    Examples
    --------
    >>> tikhonov(np.eye(2), np.array([2.0, 4.0]), weight=1.0).x
    array([1., 2.])
    """
    start = time.perf_counter()
    check_name("operator", operator, ("identity", "gradient"))
    made = as_forward(forward)
    if isinstance(made, NonlinearForward):
        return _tikhonov_nonlinear(made, data, weight, operator, start)
    A, y, single = _linear(made, data, "tikhonov")
    w = _positive("weight", weight, len(y))
    b = A.adjoint(y)
    column = w.reshape(-1, *(1,) * len(A.in_shape))
    if operator == "identity":
        x = A.solve_normal(b, w)
        penalty = 0.5 * _dots(x, x)
        normal = A.adjoint(A(x)) + column * x - b
    else:

        def apply(v: np.ndarray) -> np.ndarray:
            return A.adjoint(A(v)) + column * gradient_adjoint(gradient(v))

        if A.n_unknowns <= DENSE and np.all(w == w[0]):
            x = _Dense(A).solve(b, float(w[0]))
        else:
            x = batched_cg(apply, b, np.zeros_like(b))
        penalty = 0.5 * np.sum(gradient(x).reshape(b.ndim - 1, len(b), -1) ** 2, axis=(0, 2))
        normal = apply(x) - b
    r = A(x) - y
    misfit = 0.5 * _dots(r, r)
    size = _norms(b)
    residual = _norms(normal) / np.where(size > 0, size, 1.0)
    return _result(
        x, single, misfit, penalty, w, (misfit + w * penalty)[None], residual[None],
        residual < 1e-6, np.ones(len(y), int), start,
    )  # fmt: skip


def _tikhonov_nonlinear(
    G: NonlinearForward, data: Any, weight: Any, operator: str, start: float
) -> InverseResult:
    from scipy.optimize import minimize

    y, single = check_data(data, G)
    n = len(y)
    w = _positive("weight", weight, n)
    x, misfit, penalty = np.zeros((n, *G.in_shape)), np.zeros(n), np.zeros(n)
    residual, iterations = np.zeros(n), np.zeros(n, int)

    def parts(v: np.ndarray, i: int) -> tuple[float, float, np.ndarray]:
        h, g = G.misfit_and_gradient(v[None], y[i : i + 1])
        b = gradient(v[None]) if operator == "gradient" else v[None]
        slope = gradient_adjoint(b)[0] if operator == "gradient" else v
        return float(h[0]), 0.5 * float(np.vdot(b, b)), g[0] + w[i] * slope

    for i in range(n):
        h, _, first = parts(x[i], i)
        unit, size = h or 1.0, float(np.linalg.norm(first)) or 1.0  # L-BFGS-B stops by numbers of 1

        def scaled(v: np.ndarray, i: int = i, unit: float = unit) -> tuple[float, np.ndarray]:
            h, p, slope = parts(v.reshape(G.in_shape), i)
            return (h + w[i] * p) / unit, slope.ravel() / unit

        options = {"maxiter": 2000, "maxcor": 30, "ftol": 1e-13, "gtol": 1e-6 * size / unit}
        found = minimize(scaled, x[i].ravel(), jac=True, method="L-BFGS-B", options=options)
        x[i] = found.x.reshape(G.in_shape)
        misfit[i], penalty[i], last = parts(x[i], i)
        residual[i], iterations[i] = np.linalg.norm(last) / size, found.nit
    return _result(
        x, single, misfit, penalty, w, (misfit + w * penalty)[None], residual[None],
        residual < 1e-3, iterations, start,
    )  # fmt: skip


class _Dense:
    """Factorizations of ``A'A + rho grad' grad``, kept for a few values of rho."""

    def __init__(self, A: LinearForward) -> None:
        n = A.n_unknowns
        unit = np.eye(n).reshape(n, *A.in_shape)
        rows = A(unit).reshape(n, -1)
        self.gram = rows @ rows.T
        differences = gradient(unit)
        self.laplace = sum(d.reshape(n, -1) @ d.reshape(n, -1).T for d in differences)
        self._factors: dict[float, Any] = {}

    def solve(self, b: np.ndarray, rho: float) -> np.ndarray:
        from scipy.linalg import cho_factor, cho_solve

        if rho not in self._factors:
            if len(self._factors) > 8:
                self._factors.clear()
            self._factors[rho] = cho_factor(self.gram + rho * self.laplace, check_finite=False)
        flat = b.reshape(len(b), -1)
        return cho_solve(self._factors[rho], flat.T, check_finite=False).T.reshape(b.shape)


def tv(
    forward: Any,
    data: Any,
    *,
    weight: float,
    tol: float = 1e-4,
    max_iter: int = 2000,
) -> InverseResult:
    """Minimize ``1/2 |A x - y|^2 + weight TV(x)``, with a certified duality gap.

    ``TV`` is the isotropic total variation: the sum of the lengths of the differences to the next
    neighbors along the axes.

    Parameters
    ----------
    forward : LinearForward or what `as_forward` takes
        Constants must not be in its null space.
    data : ndarray, shape (batch, *out_shape) or out_shape
    weight : float
    tol : float
        Duality gap, relative to the primal objective, at which a sample is done.
    max_iter : int

    Returns
    -------
    InverseResult
        `objective` is the best primal one so far, `residuals` the relative duality gap: the
        distance to the minimum is at most that.

    Raises
    ------
    ValueError
        As `tikhonov`.

    Notes
    -----
    Alternating directions with splitting ``z = grad x``. Whenever `x` solves its normal equations,
    ``p = A x - y`` and the unprojected multiplier `q` satisfy ``A' p + grad' q = 0``; scaled so
    that ``|q| <= weight`` in each point they are feasible for the dual, which is then a lower bound
    ``-1/2 |p|^2 - <p, y>`` of the minimum. `rho` follows the residuals, so that scales of operator
    and data do not matter. Above 4096 unknowns, conjugate gradients solve for `x`; the bound then
    subtracts what their residual may cost within twice the norm of `x`.
    """
    start = time.perf_counter()
    A, y, single = _linear(forward, data, "tv")
    lam = float(_positive("weight", weight, 1)[0])
    if not tol > 0:
        raise ValueError(f"tol={tol}: need a positive number")
    n, dim = len(y), len(A.in_shape)
    dense = _Dense(A) if A.n_unknowns <= DENSE else None
    b = A.adjoint(y)
    x = np.zeros((n, *A.in_shape))
    z = np.zeros((dim, n, *A.in_shape))
    u = np.zeros_like(z)
    rho = _first_rho(A, dense, y, lam)
    best = np.full(n, np.inf)
    lower = np.full(n, -np.inf)
    best_x = x.copy()
    objective, gaps = [], []
    iterations = np.zeros(n, int)
    for k in range(max_iter):
        rhs = b + rho * gradient_adjoint(z - u)
        if dense is not None:
            x = dense.solve(rhs, rho)
        else:
            x = batched_cg(_normal(A, rho), rhs, x, rtol=1e-8)
        dx = gradient(x)
        q = rho * (dx - z + u)
        p = A(x) - y
        # primal
        length = np.sqrt(np.sum(dx**2, axis=0))
        primal = 0.5 * _dots(p, p) + lam * length.reshape(n, -1).sum(1)
        better = primal < best
        best[better], best_x[better] = primal[better], x[better]
        # dual: scaled to be feasible, by the best factor below the largest that is allowed
        top = np.sqrt(np.sum(q**2, axis=0)).reshape(n, -1).max(1)
        pp, py = _dots(p, p), _dots(p, y)
        most = np.minimum(1.0, lam / np.where(top > 0, top, lam))
        free = np.where(pp > 0, -py / np.where(pp > 0, pp, 1.0), 1.0)
        c = np.clip(free, 0.0, np.where(top > 0, lam / np.where(top > 0, top, 1.0), most))
        rest = _norms(A.adjoint(p) + gradient_adjoint(q))
        dual = -0.5 * c**2 * pp - c * py - c * rest * 2 * _norms(x)
        lower = np.maximum(lower, dual)
        gap = (best - lower) / np.where(best > 0, best, 1.0)
        objective.append(best.copy())
        gaps.append(gap)
        iterations[gaps[-1] > tol] = k + 1
        if np.all(gap <= tol):
            break
        # shrink the lengths of dx + u
        v = dx + u
        size = np.sqrt(np.sum(v**2, axis=0))
        keep = np.maximum(0.0, 1.0 - (lam / rho) / np.where(size > 0, size, 1.0)) * (size > 0)
        znew = keep * v
        u = v - znew
        primal_residual = float(np.linalg.norm(dx - znew))
        dual_residual = rho * float(np.linalg.norm(gradient_adjoint(znew - z)))
        z = znew
        if k % 10 == 9 and k < max_iter // 2:
            reference = float(np.linalg.norm(gradient_adjoint(rho * u))) or 1.0
            scale = max(float(np.linalg.norm(dx)), float(np.linalg.norm(z))) or 1.0
            quotient = (primal_residual / scale) / max(dual_residual / reference, 1e-300)
            if quotient > 5 or quotient < 0.2:
                factor = 2.0 if quotient > 5 else 0.5
                rho, u = rho * factor, u / factor
    p = A(best_x) - y
    length = np.sqrt(np.sum(gradient(best_x) ** 2, axis=0)).reshape(n, -1).sum(1)
    return _result(
        best_x, single, 0.5 * _dots(p, p), length, np.full(n, lam), np.stack(objective),
        np.stack(gaps), gaps[-1] <= tol, iterations, start,
    )  # fmt: skip


def _normal(A: LinearForward, rho: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: A.adjoint(A(v)) + rho * gradient_adjoint(gradient(v))


def _first_rho(A: LinearForward, dense: _Dense | None, y: np.ndarray, lam: float) -> float:
    """Return ``lam`` over the differences of a rough solution: on the scale of the problem."""
    rough = A.solve_normal(A.adjoint(y), 0.01 * A.norm_bound().value ** 2)
    size = np.sqrt(np.sum(gradient(rough) ** 2, axis=0))
    typical = float(np.sqrt(np.mean(size**2)))
    return lam / typical if typical > 0 else max(lam, 1e-300)


def wavelet_l1(
    forward: Any,
    data: Any,
    *,
    weight: float,
    wavelet: str | None = None,
    level: int | None = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> InverseResult:
    """Minimize ``1/2 |A x - y|^2 + weight |W x|_1``: few wavelet coefficients.

    Parameters
    ----------
    forward : LinearForward or what `as_forward` takes
    data : ndarray, shape (batch, *out_shape) or out_shape
    weight : float
    wavelet : str, optional
        An orthogonal wavelet of PyWavelets; periodic at the ends. Default ``"db4"``, ``"haar"``
        below 16 points an axis.
    level : int, optional
        Of the decomposition; default the deepest that halves all axes exactly and is no longer
        than the wavelet allows.
    tol : float
        Relative change at which all samples are done.
    max_iter : int

    Returns
    -------
    InverseResult

    Raises
    ------
    ValueError
        As `tikhonov`; an unknown or not orthogonal wavelet; or axes that are odd.
    ImportError
        PyWavelets is missing.

    Notes
    -----
    FISTA with a restart whenever the objective rises. The coarsest averages are not penalized.

    References
    ----------
    .. [1] Beck & Teboulle, SIAM J. Imaging Sci. 2 (2009) 183-202.
    """
    start = time.perf_counter()
    A, y, single = _linear(forward, data, "wavelet_l1")
    lam = float(_positive("weight", weight, 1)[0])
    shrink, count = _wavelet_prox(A.in_shape, wavelet, level)
    L = A.norm_bound().value ** 2
    step = 1.0 / L if L > 0 else 1.0
    x = np.zeros((len(y), *A.in_shape))
    v, t = x.copy(), 1.0
    objective, residuals = [], []
    last = np.inf
    for _ in range(max_iter):
        new = shrink(v - step * A.adjoint(A(v) - y), step * lam)
        r = A(new) - y
        value = 0.5 * _dots(r, r) + lam * count(new)
        size = _norms(new)
        change = _norms(new - x) / np.where(size > 0, size, 1.0)
        objective.append(value)
        residuals.append(change)
        t_new = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
        if float(value.sum()) > last:  # momentum points uphill
            t_new, v = 1.0, new.copy()
        else:
            v = new + (t - 1) / t_new * (new - x)
        last, t, x = float(value.sum()), t_new, new
        if np.all(change <= tol):
            break
    r = A(x) - y
    return _result(
        x, single, 0.5 * _dots(r, r), count(x), np.full(len(y), lam), np.stack(objective),
        np.stack(residuals), residuals[-1] <= tol, np.full(len(y), len(objective)), start,
    )  # fmt: skip


def _wavelet_prox(
    shape: tuple[int, ...], wavelet: str | None, level: int | None
) -> tuple[Callable[[np.ndarray, float], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    import pywt

    if wavelet is None:
        wavelet = "db4" if min(shape) >= 16 else "haar"
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ValueError(f"wavelet={wavelet!r}: PyWavelets knows no discrete wavelet of that name")
    made = pywt.Wavelet(wavelet)
    if not made.orthogonal:
        raise ValueError(f"wavelet={wavelet!r} is not orthogonal: use haar, dbN, symN or coifN")
    halvings = min((n & -n).bit_length() - 1 for n in shape)
    most = min(halvings, pywt.dwt_max_level(min(shape), made.dec_len))
    if most < 1 or (level is not None and not 1 <= level <= most):
        raise ValueError(
            f"level={level}: axes {shape} and wavelet {wavelet!r} allow at most {most} levels"
        )
    depth = most if level is None else level
    axes = tuple(range(1, 1 + len(shape)))

    def shrink(x: np.ndarray, threshold: float) -> np.ndarray:
        c = pywt.wavedecn(x, made, mode="periodization", level=depth, axes=axes)
        for details in c[1:]:
            for k in details:
                d = details[k]
                details[k] = np.sign(d) * np.maximum(np.abs(d) - threshold, 0.0)
        return pywt.waverecn(c, made, mode="periodization", axes=axes)

    def count(x: np.ndarray) -> np.ndarray:
        c = pywt.wavedecn(x, made, mode="periodization", level=depth, axes=axes)
        parts = [
            np.abs(d).reshape(len(x), -1).sum(1) for details in c[1:] for d in details.values()
        ]
        return np.sum(parts, axis=0)

    return shrink, count


def discrepancy_weight(
    solve: Callable[[float], InverseResult],
    noise: float | np.ndarray,
    n_data: int,
    *,
    low: float,
    high: float,
    steps: int = 20,
) -> float:
    """Find the weight whose misfit is that of the noise: the discrepancy principle of Morozov.

    Parameters
    ----------
    solve : callable
        Weight to result; its misfit grows with the weight.
    noise : float or ndarray, shape (batch,)
        Standard deviation of the noise; the mean over the batch of ``|A x - y|^2`` is to be
        ``n_data noise^2``.
    n_data : int
        Numbers in one data array.
    low, high : float
        Where to look.
    steps : int
        Bisections of the logarithm.

    Returns
    -------
    float
        `low` or `high` where the misfit does not reach the noise between them.
    """
    goal = 0.5 * n_data * float(np.mean(np.square(noise)))
    a, b = np.log(low), np.log(high)
    for _ in range(steps):
        middle = 0.5 * (a + b)
        if float(np.mean(solve(float(np.exp(middle))).misfit)) > goal:
            b = middle
        else:
            a = middle
        if b - a < 0.05:
            break
    return float(np.exp(0.5 * (a + b)))
