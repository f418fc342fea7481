"""Plug-and-play iterations that say whether they converge: PGD, ADMM, Douglas-Rachford.

All minimize ``F(x) = h(x) + w R(x)``, with the misfit ``h(x) = s/2 |A x - y|^2`` and the
regularizer `R` of the prior, whose proximal operator is the network. The weight `w` is not free to
be chosen after the training: it is ``1 / step`` (PGD) or `rho` (ADMM, DRS). Descent needs
``w > L = s |A|^2``; the maximum a posteriori estimate for noise ``sigma_n`` and a prior trained at
``sigma`` needs ``w / s = sigma_n^2 / sigma^2``. Both hold when ``sigma < sigma_n / |A|``.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from .forward import LinearForward, NonlinearForward, _dots, _norms, as_forward
from .prior import as_prior

__all__ = [
    "Certificate",
    "InverseResult",
    "StepSizeWarning",
    "fixed_point_residual",
    "pnp_admm",
    "pnp_drs",
    "pnp_pgd",
]

#: `w / s` may be off ``sigma_n^2 / sigma^2`` by this factor and still be called consistent.
CONSISTENT = 1.1
#: An iterate this many times larger than data and start explain has diverged.
DIVERGED = 1e4


class StepSizeWarning(UserWarning):
    """A step size beyond the guarantee."""


@dataclass(frozen=True)
class Certificate:
    """What is known about a reconstruction before and after it was computed.

    Attributes
    ----------
    method : str
    lipschitz : float
        L, an upper bound of ``s |A|^2``; NaN for nonlinear maps.
    lipschitz_source : str
        Where it is from, see `NormBound`.
    weight : float
        w: ``1 / step`` or `rho`, the weight of the regularizer.
    condition : str
        What the theorem asks.
    guaranteed : bool
        Whether all of it holds: every iterate then lowers the objective, and steps go to 0.
    monotone : bool
        Whether the objective never rose by more than rounding.
    largest_increase : float
        Of the objective in one iteration; NaN without a regularizer.
    sigma_train, sigma_noise : float
        Noise of the training and of the data; NaN if unknown.
    ratio : float
        ``(w / s) / (sigma_n^2 / sigma^2)``, for the sample that is farthest from 1.
    consistent : bool
        Whether `ratio` is 1 up to a factor of 1.1: the fixed point is a stationary point of the
        posterior that the data's noise and the prior define.
    reasons : tuple of str
        One line for each "no".
    """

    method: str
    lipschitz: float
    lipschitz_source: str
    weight: float
    condition: str
    guaranteed: bool
    monotone: bool
    largest_increase: float
    sigma_train: float
    sigma_noise: float
    ratio: float
    consistent: bool
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether convergence is guaranteed and the weight is that of the posterior."""
        return self.guaranteed and self.consistent

    def as_dict(self) -> dict[str, Any]:
        """JSON types; NaN becomes None."""
        out: dict[str, Any] = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in self.__dict__.items()
        }
        out["reasons"] = list(self.reasons)
        out["convergence"] = "yes" if self.guaranteed else "no"
        out["map_consistency"] = "yes" if self.consistent else "no"
        return out

    def __str__(self) -> str:
        yes = {True: "yes", False: "no"}
        text = (
            f"convergence guaranteed: {yes[self.guaranteed]}; consistent with the noise: "
            f"{yes[self.consistent]}"
        )
        return f"{text} ({'; '.join(self.reasons)})" if self.reasons else text


@dataclass(frozen=True)
class InverseResult:
    """A reconstruction and its evidence.

    Attributes
    ----------
    x : ndarray, shape (batch, *in_shape), or that of one unknown if there was one data array
    objective : ndarray, shape (iterations, batch)
        The objective of each iterate: ``F``, the augmented Lagrangian, or the primal objective
        of a baseline. NaN without a regularizer, and after a sample has converged.
    residuals : ndarray, shape (iterations, batch)
        Relative change in an iteration; for ADMM and DRS the larger of primal and dual residual;
        for `tv` the relative duality gap.
    converged, diverged : ndarray of bool, shape (batch,)
    iterations : ndarray of int, shape (batch,)
    certificate : Certificate or None
        None for baselines.
    misfit : ndarray, shape (batch,)
        ``h`` at `x`.
    regularizer : ndarray, shape (batch,)
        ``R`` at `x`; NaN if there is none.
    fixed_point : ndarray, shape (batch,)
        ``|x - f(x - grad h(x) / w)| / |x|``; NaN for baselines.
    weight : ndarray, shape (batch,)
        Weight of the regularizer.
    restarts : tuple of (iteration, sample)
        Where a step was too long and was halved, which changes the objective.
    seconds : float
    split : ndarray, optional
        The data's variable `z` of ADMM and DRS, which meets `x` at convergence.
    """

    x: np.ndarray
    objective: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    diverged: np.ndarray
    iterations: np.ndarray
    certificate: Certificate | None
    misfit: np.ndarray
    regularizer: np.ndarray
    fixed_point: np.ndarray
    weight: np.ndarray
    restarts: tuple[tuple[int, int], ...]
    seconds: float
    split: np.ndarray | None = None


# -- shared pieces -------------------------------------------------------------------------------


class _Setup:
    """Checked arguments of an iteration, as batches."""

    def __init__(
        self, forward: Any, data: Any, prior: Any, scale: Any, x0: Any, tol: float, max_iter: int,
        sigma_noise: Any, name: str,
    ) -> None:  # fmt: skip
        self.name = name
        self.forward = as_forward(forward)
        self.linear = isinstance(self.forward, LinearForward)
        if isinstance(self.forward, LinearForward):
            self.forward.check()
        self.y, self.single = check_data(data, self.forward)
        self.n = len(self.y)
        self.prior = as_prior(prior, self.forward.in_shape)
        self.scale = _positive("scale", scale, self.n)
        self.sigma_noise = (
            None if sigma_noise is None else _positive("sigma_noise", sigma_noise, self.n)
        )
        if not (math.isfinite(tol) and tol >= 0):
            raise ValueError(f"tol={tol}: need a number >= 0")
        if isinstance(max_iter, bool) or int(max_iter) != max_iter or max_iter < 1:
            raise ValueError(f"max_iter={max_iter}: need an integer >= 1")
        self.tol, self.max_iter = tol, int(max_iter)
        self.x0 = self._start(x0)
        self.one = (-1, *(1,) * len(self.forward.in_shape))
        self.size = _norms(self.y)
        #: Relative error of predicted data.
        self.accuracy = (
            self.forward.accuracy if isinstance(self.forward, NonlinearForward) else 2e-13
        )
        self.start = time.perf_counter()

    def _start(self, x0: Any) -> np.ndarray:
        shape = (self.n, *self.forward.in_shape)
        if x0 is None:
            return np.zeros(shape)
        x0 = np.asarray(x0, np.float64)
        if x0.shape not in (shape, shape[1:]):
            raise ValueError(f"x0 has shape {x0.shape}, expected {shape[1:]} or {shape}")
        if not np.isfinite(x0).all():
            raise ValueError("x0 holds NaN or infinity")
        return np.array(np.broadcast_to(x0, shape))

    def bound(self) -> tuple[float, str]:
        """Upper bound of ``L = s |A|^2`` and its source."""
        assert isinstance(self.forward, LinearForward)
        b = self.forward.norm_bound()
        return float(self.scale.max()) * b.value**2, b.source

    def misfit(self, x: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Misfit and gradient of some samples."""
        s = self.scale[at]
        if isinstance(self.forward, LinearForward):
            r = self.forward(x) - self.y[at]
            h = 0.5 * s * _dots(r, r)
            g = self.forward.adjoint(r)
        else:
            h, g = self.forward.misfit_and_gradient(x, self.y[at])
            h = s * h
        return h, s.reshape(self.one) * g

    def rounding(self, h: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Bound the error of `h` that an error of `accuracy` in the predicted data leaves."""
        data = np.sqrt(self.scale[at]) * self.size[at]
        return self.accuracy * (np.sqrt(2 * np.abs(h)) * data + np.abs(h))

    def certificate(
        self, *, weight: np.ndarray, lipschitz: tuple[float, str], condition: str, step_ok: bool,
        step_reason: str, log: _Log,
    ) -> Certificate:  # fmt: skip
        reasons = []
        if not step_ok:
            reasons.append(step_reason)
        if not self.prior.exact:
            reasons.append(self.prior.inexact)
        sigma, noise = self.prior.sigma, self.sigma_noise
        ratio = math.nan
        if sigma is None:
            reasons.append("consistency: the prior does not say at which noise it was trained")
        elif noise is None:
            reasons.append("consistency: the noise level of the data is missing")
        else:
            ratios = (weight / self.scale) / (noise**2 / sigma**2)
            ratio = float(ratios[np.argmax(np.abs(np.log(ratios)))])
            if not 1 / CONSISTENT <= ratio <= CONSISTENT:
                more = "more" if ratio > 1 else "less"
                reasons.append(
                    f"consistency: the prior weighs {max(ratio, 1 / ratio):.3g} times {more} than "
                    f"noise {_mean(noise):.3g} and training at sigma={sigma:.3g} ask"
                )
        inflated = self.forward.inflated
        if inflated:
            reasons.append(
                f"consistency: the noise of {inflated} of {self.y[0].size} directions of the "
                "data was inflated"
            )
        return Certificate(
            method=self.name, lipschitz=lipschitz[0], lipschitz_source=lipschitz[1],
            weight=float(weight.max()), condition=condition,
            guaranteed=step_ok and self.prior.exact, monotone=log.monotone,
            largest_increase=log.largest_increase,
            sigma_train=math.nan if sigma is None else sigma,
            sigma_noise=math.nan if noise is None else _mean(noise),
            ratio=ratio, consistent=bool(1 / CONSISTENT <= ratio <= CONSISTENT) and not inflated,
            reasons=tuple(reasons),
        )  # fmt: skip

    def result(
        self, x: np.ndarray, regularizer: np.ndarray, log: _Log, weight: np.ndarray,
        certificate: Certificate, split: np.ndarray | None = None,
    ) -> InverseResult:  # fmt: skip
        everyone = np.arange(self.n)
        h = np.full(self.n, np.inf)
        fixed = np.full(self.n, np.inf)
        fine = everyone[~log.diverged]
        if fine.size:
            h[fine], g = self.misfit(x[fine], fine)
            again, _ = self.prior(x[fine] - g / weight[fine].reshape(self.one))
            fixed[fine] = _norms(again - x[fine]) / _sizes(x[fine])
        return InverseResult(
            x=x[0] if self.single else x, objective=log.table(log.objective),
            residuals=log.table(log.residuals), converged=log.converged, diverged=log.diverged,
            iterations=log.iterations, certificate=certificate, misfit=h, regularizer=regularizer,
            fixed_point=fixed, weight=weight, restarts=tuple(log.restarts),
            seconds=time.perf_counter() - self.start,
            split=split[0] if split is not None and self.single else split,
        )  # fmt: skip


class _Log:
    """Histories of a batch; samples leave it when they have converged or diverged."""

    def __init__(self, setup: _Setup) -> None:
        n = setup.n
        self.objective: list[np.ndarray] = []
        self.residuals: list[np.ndarray] = []
        self.converged, self.diverged = np.zeros(n, bool), np.zeros(n, bool)
        self.iterations = np.zeros(n, int)
        self.restarts: list[tuple[int, int]] = []
        self.largest_increase = math.nan
        self.monotone = True
        self._last = np.full(n, np.nan)
        self._reach = DIVERGED * (
            1.0 + _norms(setup.x0) + _norms(setup.y) / max(_scale_of(setup), 1e-300)
        )
        # F is a sum of terms much larger than itself: rounding in them is no increase
        self._rounding = max(1e3 * setup.prior.precision, setup.accuracy)
        self._tol, self._n = setup.tol, n

    @property
    def active(self) -> np.ndarray:
        """Samples that still iterate."""
        return np.flatnonzero(~(self.converged | self.diverged))

    def record(
        self, at: np.ndarray, x: np.ndarray, objective: np.ndarray, residual: np.ndarray,
        *, size: np.ndarray, watch: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """Add an iteration; return which of `at` have diverged in it."""
        row = np.full((2, self._n), np.nan)
        row[0, at], row[1, at] = objective, residual
        self.objective.append(row[0])
        self.residuals.append(row[1])
        self.iterations[at] += 1
        finite = np.isfinite(x.reshape(len(x), -1)).all(1)
        with np.errstate(invalid="ignore", over="ignore"):
            lost = ~finite | ~(_norms(x) <= self._reach[at])
        self.diverged[at[lost]] = True
        self.converged[at[~lost & (residual <= self._tol)]] = True
        if watch:
            rise = objective - self._last[at]
            known = np.isfinite(rise)
            if known.any():
                worst = float(rise[known].max())
                if not worst <= self.largest_increase:  # NaN at first
                    self.largest_increase = worst
                if np.any(rise[known] > self._rounding * size[known]):
                    self.monotone = False
        self._last[at] = objective
        return lost

    def restart(self, at: np.ndarray) -> None:
        """Begin the objective's log anew for some samples."""
        self._last[at] = np.nan
        self.restarts += [(len(self.objective), int(i)) for i in at]

    def table(self, rows: list[np.ndarray]) -> np.ndarray:
        return np.stack(rows) if rows else np.empty((0, self._n))


def check_data(data: Any, forward: LinearForward | NonlinearForward) -> tuple[np.ndarray, bool]:
    """Return data as a batch, and whether there was one array alone.

    Raises
    ------
    ValueError
        The shape does not fit the operator, or a value is not finite.
    """
    y = np.asarray(data, np.float64)
    single = y.shape == forward.out_shape
    if not single and (y.shape[1:] != forward.out_shape or len(y) == 0):
        raise ValueError(
            f"data has shape {y.shape}, expected {forward.out_shape} or (batch, "
            f"{', '.join(map(str, forward.out_shape))}): the operator maps {forward.in_shape} to "
            f"{forward.out_shape}"
        )
    if not np.isfinite(y).all():
        raise ValueError(f"data holds {int(np.sum(~np.isfinite(y)))} values that are not finite")
    return (y[None] if single else y), single


def _positive(name: str, value: Any, n: int) -> np.ndarray:
    v = np.asarray(value, np.float64)
    if v.shape not in ((), (n,)) or not np.all(np.isfinite(v) & (v > 0)):
        raise ValueError(f"{name}={value}: need a positive number, or one for each of {n} samples")
    return np.array(np.broadcast_to(v, (n,)))


def _sizes(x: np.ndarray) -> np.ndarray:
    """Norms, 1 where they are 0."""
    size = _norms(x)
    return np.where(size > 0, size, 1.0)


def _mean(v: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(v))))


def _scale_of(setup: _Setup) -> float:
    """How large data are for an unknown of norm 1."""
    return setup.forward.norm_bound().value if isinstance(setup.forward, LinearForward) else 1.0


def _warn(name: str, value: float, bound: float) -> None:
    warnings.warn(
        f"{name}={value:.4g} is beyond the guarantee, {bound:.4g}: convergence is not certain",
        StepSizeWarning, stacklevel=3,
    )  # fmt: skip


def fixed_point_residual(
    forward: Any, data: Any, prior: Any, x: Any, *, weight: float, scale: float = 1.0
) -> np.ndarray:
    """Return ``|x - f(x - grad h(x) / w)| / |x|``, (batch,): 0 at what the iterations look for.

    Parameters
    ----------
    forward, data, prior, scale
        As for `pnp_pgd`.
    x : ndarray, shape (batch, *in_shape) or in_shape
    weight : float
        ``1 / step``, or `rho`.
    """
    setup = _Setup(forward, data, prior, scale, None, 0.0, 1, None, "fixed point")
    x = np.asarray(x, np.float64).reshape(setup.n, *setup.forward.in_shape)
    _, g = setup.misfit(x, np.arange(setup.n))
    again, _ = setup.prior(x - g / weight)
    return _norms(again - x) / _sizes(x)


# -- iterations ----------------------------------------------------------------------------------


def pnp_pgd(
    forward: Any,
    data: Any,
    prior: Any,
    *,
    scale: float | np.ndarray = 1.0,
    step: float | None = None,
    max_iter: int = 500,
    tol: float = 1e-6,
    x0: Any = None,
    sigma_noise: float | np.ndarray | None = None,
    safeguard: bool = True,
) -> InverseResult:
    """Proximal gradient descent, ``x <- f(x - step grad h(x))``, with the prior `f`.

    Parameters
    ----------
    forward : LinearForward, NonlinearForward or what `as_forward` takes
    data : ndarray, shape (batch, *out_shape) or out_shape
        All samples iterate together.
    prior
        See `as_prior`: a learned proximal network (exact, certified) or any denoiser.
    scale : float or ndarray, shape (batch,)
        s in ``h = s/2 |A x - y|^2``.
    step : float, optional
        Default ``0.99 / L``; for a nonlinear map it has to be given, as a first guess. The weight
        of the regularizer is ``1 / step``.
    max_iter : int
    tol : float
        Relative change of an iterate at which a sample is done.
    x0 : ndarray, optional
        Start; default 0.
    sigma_noise : float or ndarray, shape (batch,), optional
        Standard deviation of the noise in the data, for the certificate.
    safeguard : bool
        Halve the step of a sample whose objective rises (exact priors alone), and begin its log
        anew, since another step is another objective. Nonlinear maps are safeguarded always, by
        the test ``h(x+) <= h(x) + <grad h, d> + |d|^2 / (2 step)``.

    Returns
    -------
    InverseResult

    Raises
    ------
    ValueError
        Shapes of operator and data that do not fit, data that are not finite, a wrong adjoint, or
        a bad option: one line.

    Warns
    -----
    StepSizeWarning
        `step` is beyond ``1 / L``; `Certificate.guaranteed` is then False.

    Notes
    -----
    For an exact proximal operator and ``step < 1 / L``,
    ``F(x+) <= F(x) - 1/2 (1 / step - L) |x+ - x|^2`` with ``F = h + R / step``: `R` is
    1-weakly convex, so that no more is needed. `R` at ``x+`` is known from its pre-image.

    References
    ----------
    .. [1] Fang, Buchanan, Sulam, "What's in a Prior? Learned Proximal Networks for Inverse
       Problems", ICLR 2024, arXiv:2310.14344.

    Examples
    --------
    >>> import numpy as np
    >>> soft = Prior(lambda z: np.sign(z) * np.maximum(np.abs(z) - 0.1, 0))
    >>> r = pnp_pgd(np.diag([1.0, 0.5]), np.array([1.0, 0.5]), soft, tol=1e-10)
    >>> r.x.round(2), bool(r.converged[0]), r.certificate.guaranteed
    (array([0.9, 0.6]), True, False)
    """
    setup = _Setup(forward, data, prior, scale, x0, tol, max_iter, sigma_noise, "pgd")
    if setup.linear:
        bound, source = setup.bound()
        limit = 1.0 / bound if bound > 0 else math.inf
        if step is None:
            step = 0.99 * limit if math.isfinite(limit) else 1.0
        inside = _check_step("step", step) < limit
        if not inside:
            _warn("step", step, limit)
        condition = f"step < 1/L = {limit:.6g}"
        reason = f"convergence: step {step:.4g} is not below 1/L = {limit:.4g}"
    else:
        if step is None:
            raise ValueError("step is missing: a nonlinear map needs a first guess, such as 1.0")
        _check_step("step", step)
        bound, source, inside = math.nan, "backtracking", True
        condition = "h(x+) <= h(x) + <grad h, d> + |d|^2 / (2 step), tested in each iteration"
        reason = ""
    steps = np.full(setup.n, float(step))
    log = _Log(setup)
    x, value = setup.x0, np.full(setup.n, np.nan)
    h, g = np.empty(setup.n), np.empty_like(x)
    everyone = np.arange(setup.n)
    h[:], g[:] = setup.misfit(x, everyone)
    failed = False
    for k in range(setup.max_iter):
        at = log.active
        if not at.size:
            break
        while True:
            eta = steps[at].reshape(setup.one)
            new, r = setup.prior(x[at] - eta * g[at])
            with np.errstate(all="ignore"):
                d = new - x[at]
                h_new, g_new = setup.misfit(new, at)
                square = _dots(d, d)
            if setup.linear:
                break
            model = h[at] + _dots(g[at], d) + 0.5 * square / steps[at]
            short = h_new <= model + setup.rounding(np.maximum(h[at], h_new), at)
            if short.all():
                break
            if k > 0:
                log.restart(at[~short])
            steps[at[~short]] *= 0.5
            if steps.min() < 1e-12 * step:
                failed = True
                break
        if failed:
            break
        objective = h_new + r / steps[at]
        size = _norms(new) * _norms(x[at] - eta * g[at]) / steps[at]
        size += np.sqrt(np.abs(h_new) * setup.scale[at]) * setup.size[at] + np.abs(h_new)
        with np.errstate(all="ignore"):
            residual = np.sqrt(square) / _sizes(new)
        before = log._last[at].copy()
        lost = log.record(at, new, objective, residual, size=size)
        keep = ~lost
        x[at[keep]], value[at[keep]] = new[keep], r[keep]
        h[at[keep]], g[at[keep]] = h_new[keep], g_new[keep]
        if safeguard and setup.linear and setup.prior.exact and not inside:
            rises = keep & (objective - before > log._rounding * size)
            if rises.any():
                log.restart(at[rises])
                log.converged[at[rises]] = False
                steps[at[rises]] *= 0.5
    certificate = setup.certificate(
        weight=1.0 / steps, lipschitz=(bound, source), condition=condition,
        step_ok=inside and not failed, log=log,
        step_reason=reason or "convergence: no step passed the test, the gradient may be wrong",
    )  # fmt: skip
    return setup.result(x, value, log, 1.0 / steps, certificate)


def pnp_admm(
    forward: Any,
    data: Any,
    prior: Any,
    *,
    scale: float | np.ndarray = 1.0,
    rho: float | None = None,
    max_iter: int = 500,
    tol: float = 1e-6,
    x0: Any = None,
    sigma_noise: float | np.ndarray | None = None,
    solver: str | None = None,
) -> InverseResult:
    """Alternating directions: prior, data, dual.

    ``x = f(z - u)``, ``z = argmin h(z) + rho/2 |x + u - z|^2``, ``u <- u + x - z``.

    Parameters
    ----------
    rho : float, optional
        Weight of the regularizer; default ``1.01 L``.
    solver : {"direct", "cg"}, optional
        For `z`; default by size.
    forward, data, prior, scale, max_iter, tol, x0, sigma_noise
        As for `pnp_pgd`; linear maps alone.

    Returns
    -------
    InverseResult
        `objective` is the augmented Lagrangian, `residuals` the larger of ``|x - z|`` and the
        change of `z`, over ``|x|``.

    Raises
    ------
    ValueError
        As `pnp_pgd`, or a nonlinear map.

    Warns
    -----
    StepSizeWarning
        `rho` is not above L.

    Notes
    -----
    For an exact proximal operator and ``rho > L`` the augmented Lagrangian falls from the second
    iteration on, and the residuals vanish: the dual is ``-grad h(z)``, its change at most L times
    that of `z`.
    """
    setup = _Setup(forward, data, prior, scale, x0, tol, max_iter, sigma_noise, "admm")
    rho, bound, source, inside = _weight(setup, "rho", rho)
    log = _Log(setup)
    linear = setup.forward
    assert isinstance(linear, LinearForward)
    s = setup.scale
    back = s.reshape(setup.one) * linear.adjoint(setup.y)
    x, z, u = setup.x0.copy(), setup.x0.copy(), np.zeros_like(setup.x0)
    value = np.full(setup.n, np.nan)
    for k in range(setup.max_iter):
        at = log.active
        if not at.size:
            break
        pre = z[at] - u[at]
        new, r = setup.prior(pre)
        with np.errstate(all="ignore"):
            b = (back[at] + rho * (new + u[at])) / s[at].reshape(setup.one)
            znew = linear.solve_normal(b, rho / s[at], solver=solver, x0=z[at])
            gap = new - znew
            unew = u[at] + gap
            misfit = linear(znew) - setup.y[at]
            h = 0.5 * s[at] * _dots(misfit, misfit)
            objective = h + rho * (r + _dots(unew, gap) + 0.5 * _dots(gap, gap))
            residual = np.maximum(_norms(gap), _norms(znew - z[at])) / _sizes(new)
            size = h + rho * (_norms(new) * _norms(pre) + _norms(unew) * _norms(gap))
        lost = log.record(at, new, objective, residual, size=size, watch=k > 1)
        keep = ~lost
        x[at[keep]], value[at[keep]] = new[keep], r[keep]
        z[at[keep]], u[at[keep]] = znew[keep], unew[keep]
    certificate = setup.certificate(
        weight=np.full(setup.n, rho), lipschitz=(bound, source), condition=f"rho > L = {bound:.6g}",
        step_ok=inside, log=log,
        step_reason=f"convergence: rho {rho:.4g} is not above L = {bound:.4g}",
    )  # fmt: skip
    return setup.result(x, value, log, np.full(setup.n, rho), certificate, z)


def pnp_drs(
    forward: Any,
    data: Any,
    prior: Any,
    *,
    scale: float | np.ndarray = 1.0,
    rho: float | None = None,
    relaxation: float = 1.0,
    max_iter: int = 500,
    tol: float = 1e-6,
    x0: Any = None,
    sigma_noise: float | np.ndarray | None = None,
    solver: str | None = None,
) -> InverseResult:
    """Douglas-Rachford splitting: data first, then the prior.

    ``z = argmin h(z) + rho/2 |z - v|^2``, ``x = f(2 z - v)``, ``v <- v + relaxation (x - z)``.

    Parameters
    ----------
    relaxation : float
        Between 0 and 2, exclusive.
    forward, data, prior, scale, rho, max_iter, tol, x0, sigma_noise, solver
        As for `pnp_admm`.

    Returns
    -------
    InverseResult
        `objective` is the Douglas-Rachford envelope
        ``h(z) + rho R(x) + <grad h(z), x - z> + rho/2 |x - z|^2``, `residuals` ``|x - z| / |x|``.

    Raises
    ------
    ValueError
        As `pnp_admm`, or a relaxation outside (0, 2).

    Warns
    -----
    StepSizeWarning
        `rho` is not above L.

    Notes
    -----
    The envelope falls for convex `h`, any proximal operator, ``rho > L`` and relaxations in
    (0, 2) [1]_.

    References
    ----------
    .. [1] Themelis & Patrinos, SIAM J. Optim. 30 (2020) 149-181, theorem 4.1.
    """
    setup = _Setup(forward, data, prior, scale, x0, tol, max_iter, sigma_noise, "drs")
    if not 0 < relaxation < 2:
        raise ValueError(f"relaxation={relaxation}: need a number between 0 and 2")
    rho, bound, source, inside = _weight(setup, "rho", rho)
    log = _Log(setup)
    linear = setup.forward
    assert isinstance(linear, LinearForward)
    s = setup.scale
    back = s.reshape(setup.one) * linear.adjoint(setup.y)
    x, v = setup.x0.copy(), setup.x0.copy()
    value = np.full(setup.n, np.nan)
    z = x.copy()
    for _ in range(setup.max_iter):
        at = log.active
        if not at.size:
            break
        with np.errstate(all="ignore"):
            b = (back[at] + rho * v[at]) / s[at].reshape(setup.one)
            z[at] = linear.solve_normal(b, rho / s[at], solver=solver, x0=z[at])
            pre = 2 * z[at] - v[at]
        new, r = setup.prior(pre)
        with np.errstate(all="ignore"):
            gap = new - z[at]
            misfit = linear(z[at]) - setup.y[at]
            h = 0.5 * s[at] * _dots(misfit, misfit)
            slope = rho * (v[at] - z[at])  # the gradient of h at z
            objective = h + rho * r + _dots(slope, gap) + 0.5 * rho * _dots(gap, gap)
            residual = _norms(gap) / _sizes(new)
            size = h + rho * (_norms(new) * _norms(pre)) + _norms(slope) * _norms(gap)
        lost = log.record(at, new, objective, residual, size=size)
        keep = ~lost
        x[at[keep]], value[at[keep]] = new[keep], r[keep]
        v[at[keep]] += relaxation * gap[keep]
    certificate = setup.certificate(
        weight=np.full(setup.n, rho), lipschitz=(bound, source), condition=f"rho > L = {bound:.6g}",
        step_ok=inside, log=log,
        step_reason=f"convergence: rho {rho:.4g} is not above L = {bound:.4g}",
    )  # fmt: skip
    return setup.result(x, value, log, np.full(setup.n, rho), certificate, z)


def _check_step(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value}: need a positive number")
    return float(value)


def _weight(setup: _Setup, name: str, rho: float | None) -> tuple[float, float, str, bool]:
    if not setup.linear:
        raise ValueError(f"{setup.name} needs a linear map; pnp_pgd takes nonlinear ones")
    bound, source = setup.bound()
    if rho is None:
        rho = 1.01 * bound if bound > 0 else 1.0
    inside = _check_step(name, rho) > bound
    if not inside:
        _warn(name, rho, bound)
    return float(rho), bound, source, inside
