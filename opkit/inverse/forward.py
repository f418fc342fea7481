"""Forward maps of inverse problems: linear ones with a checked adjoint, and misfits with gradients.

Everything here is numpy in float64 and acts on batches, ``(batch, *in_shape)`` to
``(batch, *out_shape)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LinearForward", "NonlinearForward", "NormBound", "as_forward", "temper"]

#: A relative gap ``|<Ax, y> - <x, A'y>| / (|Ax| |y|)`` above this is a wrong adjoint.
ADJOINT_TOLERANCE = 1e-6
#: Up to this many unknowns (or data) the spectrum of ``A'A`` (or ``AA'``) is computed.
DENSE = 2500
#: Probability that the Lanczos bound on the norm fails, over its random start.
RISK = 1e-10

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class NormBound:
    """An upper bound of a norm and where it is from.

    Attributes
    ----------
    value : float
    source : str
        ``"spectrum"``: computed, up to rounding; ``"kernel"``: the kernel's absolute sum or largest
        Fourier coefficient; ``"lanczos"``: holds with probability 1 - 1e-10 over the random start;
        ``"given"``.
    """

    value: float
    source: str


class LinearForward:
    """A linear map with its adjoint.

    Parameters
    ----------
    matvec, rmatvec : callable
        The map, an array of `in_shape` to one of `out_shape`, and its adjoint. With `batched`
        they take and give a leading axis of samples.
    in_shape, out_shape : sequence of int
        Shapes of an unknown and of its data.
    batched : bool
    norm_bound : NormBound, optional
        Upper bound of the norm, if known; else computed when first asked for.
    inverse : callable, optional
        ``inverse(b, tau) -> (A'A + tau)^-1 b`` for batches, `tau` of shape (batch,); default: by
        the spectrum for small maps, else conjugate gradients.

    Raises
    ------
    ValueError
        A shape that is empty or has no positive sizes.

    Examples
    --------
    >>> A = LinearForward(lambda x: 2 * x[:3], lambda y: 2 * np.append(y, 0.0), (4,), (3,))
    >>> round(A.norm(), 6), A.adjoint_test() < 1e-12
    (2.0, True)
    """

    def __init__(
        self,
        matvec: Map,
        rmatvec: Map,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        batched: bool = False,
        norm_bound: NormBound | None = None,
        inverse: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.in_shape = _shape("in_shape", in_shape)
        self.out_shape = _shape("out_shape", out_shape)
        self._matvec = matvec if batched else _each(matvec)
        self._rmatvec = rmatvec if batched else _each(rmatvec)
        self._bound, self._inverse = norm_bound, inverse
        #: Directions of the data whose noise `temper` has inflated.
        self.inflated = 0
        self._gap: float | None = None
        self._gram: tuple[str, np.ndarray, np.ndarray] | None = None

    @property
    def n_unknowns(self) -> int:
        """Numbers in an unknown."""
        return math.prod(self.in_shape)

    @property
    def n_data(self) -> int:
        """Numbers in its data."""
        return math.prod(self.out_shape)

    def __repr__(self) -> str:
        return f"<LinearForward {self.in_shape} -> {self.out_shape}>"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return ``A x``, one unknown or a batch.

        Raises
        ------
        ValueError
            The shape is neither `in_shape` nor ``(batch, *in_shape)``.
        """
        return self._apply(self._matvec, x, self.in_shape, self.out_shape, "x", "matvec")

    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """Return ``A' y``, of one data array or a batch.

        Raises
        ------
        ValueError
            The shape is neither `out_shape` nor ``(batch, *out_shape)``.
        """
        return self._apply(self._rmatvec, y, self.out_shape, self.in_shape, "y", "rmatvec")

    def _apply(
        self, f: Map, v: np.ndarray, ins: tuple[int, ...], outs: tuple[int, ...],
        name: str, function: str,
    ) -> np.ndarray:  # fmt: skip
        v = np.asarray(v, np.float64)
        single = v.shape == ins
        if not single and v.shape[1:] != ins:
            raise ValueError(f"{name} has shape {v.shape}, expected {ins} or (batch, *{ins})")
        batch = v[None] if single else v
        if not len(batch):
            return np.empty((0, *outs))
        out = np.asarray(f(batch), np.float64)
        if out.shape != (len(batch), *outs):
            raise ValueError(
                f"{function} gave shape {out.shape[1:]} for an array of shape {ins}, "
                f"expected {outs}"
            )
        return out[0] if single else out

    # -- what is known about it ------------------------------------------------------------

    def adjoint_test(self, *, n: int = 4, seed: int = 0) -> float:
        """Return the largest ``|<A x, y> - <x, A' y>| / (|A x| |y|)`` over `n` random pairs."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, *self.in_shape))
        y = rng.standard_normal((n, *self.out_shape))
        ax, aty = self(x).reshape(n, -1), self.adjoint(y).reshape(n, -1)
        gap = np.abs((ax * y.reshape(n, -1)).sum(1) - (aty * x.reshape(n, -1)).sum(1))
        size = _norms(ax) * _norms(y)
        return float(np.max(gap / np.where(size > 0, size, 1.0)))

    def check(self) -> None:
        """Test the adjoint once.

        Raises
        ------
        ValueError
            `rmatvec` is not the adjoint of `matvec`: the relative gap is above 1e-6.
        """
        if self._gap is None:
            self._gap = self.adjoint_test()
        if not self._gap <= ADJOINT_TOLERANCE:
            raise ValueError(
                f"rmatvec is not the adjoint of matvec: |<Ax, y> - <x, A'y>| / (|Ax| |y|) = "
                f"{self._gap:.1e}, allowed is {ADJOINT_TOLERANCE:.0e}"
            )

    def norm(self, *, maxiter: int = 1000, rtol: float = 1e-10, seed: int = 0) -> float:
        """Estimate ``|A|`` by power iteration on ``A'A``: from below, see `norm_bound`."""
        rng = np.random.default_rng(seed)
        v = rng.standard_normal(self.in_shape)
        v /= np.linalg.norm(v)
        value = 0.0
        for _ in range(maxiter):
            w = self.adjoint(self(v))
            new = float(np.linalg.norm(w))
            if new == 0.0:
                return 0.0
            v = w / new
            if abs(new - value) <= rtol * new:
                break
            value = new
        return math.sqrt(new)

    def norm_bound(self) -> NormBound:
        """Return an upper bound of ``|A|``: safe where `norm` may be too small.

        Notes
        -----
        Small maps: the spectrum. Others: `k` steps of Lanczos from a random start; the largest
        Ritz value is below the largest eigenvalue by the factor ``1 - eps`` at most, but for a
        probability of ``1.648 sqrt(n) exp(-sqrt(eps) (2 k - 1))`` [1]_, which is set to 1e-10.

        References
        ----------
        .. [1] Kuczynski & Wozniakowski, SIAM J. Matrix Anal. Appl. 13 (1992) 1094-1122,
           theorem 4.2.
        """
        if self._bound is None:
            if min(self.n_unknowns, self.n_data) <= DENSE:
                values = self._spectrum()[1]
                # eigenvalues of a computed Gram matrix are off by rounding in it
                slack = 1.0 + 1e-14 * (self.n_unknowns + self.n_data)
                value = math.sqrt(max(float(values[-1]), 0.0)) * slack
                self._bound = NormBound(value, "spectrum")
            else:
                self._bound = NormBound(self._lanczos(), "lanczos")
        return self._bound

    def _lanczos(self, steps: int = 100) -> float:
        from scipy.linalg import eigh_tridiagonal

        n = self.n_unknowns
        rng = np.random.default_rng(0)
        basis = [rng.standard_normal(self.in_shape)]
        basis[0] /= np.linalg.norm(basis[0])
        alpha, beta = [], []
        for _ in range(steps):
            w = self.adjoint(self(basis[-1]))
            alpha.append(float(np.vdot(w, basis[-1])))
            for _ in range(2):  # orthogonal to rounding
                for q in basis:
                    w = w - float(np.vdot(q, w)) * q
            b = float(np.linalg.norm(w))
            if b <= 1e-13 * max(alpha):  # the Krylov space is invariant
                break
            beta.append(b)
            basis.append(w / b)
        top = float(eigh_tridiagonal(alpha, beta[: len(alpha) - 1], eigvals_only=True)[-1])
        eps = (math.log(1.648 * math.sqrt(n) / RISK) / (2 * steps - 1)) ** 2
        return math.sqrt(max(top, 0.0) / (1.0 - eps))

    def _spectrum(self) -> tuple[str, np.ndarray, np.ndarray]:
        """Which Gram matrix, its eigenvalues (ascending) and eigenvectors."""
        if self._gram is None:
            if self.n_unknowns <= self.n_data:
                rows = self(np.eye(self.n_unknowns).reshape(-1, *self.in_shape))
                rows = rows.reshape(self.n_unknowns, -1)
                side = "A'A"
            else:
                rows = self.adjoint(np.eye(self.n_data).reshape(-1, *self.out_shape))
                rows = rows.reshape(self.n_data, -1)
                side = "AA'"
            values, vectors = np.linalg.eigh(rows @ rows.T)
            self._gram = (side, values, vectors)
        return self._gram

    def solve_normal(
        self, b: np.ndarray, tau: float | np.ndarray, *, solver: str | None = None,
        rtol: float = 1e-12, x0: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Solve ``(A'A + tau) x = b``.

        Parameters
        ----------
        b : ndarray, shape (batch, *in_shape)
        tau : float or ndarray, shape (batch,)
            Positive.
        solver : {"direct", "cg"}, optional
            The spectrum or conjugate gradients; default by size.
        rtol : float
            Relative residual of conjugate gradients.
        x0 : ndarray, optional
            Their start.
        """
        tau = np.broadcast_to(np.asarray(tau, np.float64), (len(b),))
        if solver is None:
            if self._inverse is not None:
                return self._inverse(b, tau)
            solver = "direct" if min(self.n_unknowns, self.n_data) <= DENSE else "cg"
        if solver == "cg":
            return self._cg(b, tau, rtol, x0)
        side, values, vectors = self._spectrum()
        values = np.maximum(values, 0.0)
        t = tau[:, None]
        if side == "A'A":
            c = (b.reshape(len(b), -1) @ vectors) / (values + t)
            return (c @ vectors.T).reshape(b.shape)
        r = (self(b).reshape(len(b), -1) @ vectors) / (values + t)
        r = (r @ vectors.T).reshape(len(b), *self.out_shape)
        return (b - self.adjoint(r)) / tau.reshape(-1, *(1,) * len(self.in_shape))

    def _cg(self, b: np.ndarray, tau: np.ndarray, rtol: float, x0: np.ndarray | None) -> np.ndarray:
        shape = b.shape
        t = tau.reshape(-1, *(1,) * (b.ndim - 1))

        def apply(v: np.ndarray) -> np.ndarray:
            return self.adjoint(self(v)) + t * v

        return batched_cg(apply, b, np.zeros(shape) if x0 is None else x0, rtol=rtol)


def batched_cg(
    apply: Map, b: np.ndarray, x: np.ndarray, *, rtol: float = 1e-12, maxiter: int = 2000
) -> np.ndarray:
    """Conjugate gradients for a batch of systems at once, each with its own coefficients.

    Ends when every relative residual is at most `rtol`, or none falls any more (rounding).
    """
    x = np.array(x, np.float64)
    r = b - apply(x)
    p = r.copy()
    one = (-1, *(1,) * (b.ndim - 1))
    rr = _dots(r, r)
    goal = (rtol * _norms(b)) ** 2
    best, stalled = rr.copy(), 0
    for _ in range(maxiter):
        if np.all(rr <= goal) or stalled > 50:
            break
        ap = apply(p)
        curvature = _dots(p, ap)
        alpha = np.where(curvature > 0, rr / np.where(curvature > 0, curvature, 1.0), 0.0)
        x += alpha.reshape(one) * p
        r -= alpha.reshape(one) * ap
        new = _dots(r, r)
        p = r + np.where(rr > 0, new / np.where(rr > 0, rr, 1.0), 0.0).reshape(one) * p
        rr = new
        falls = np.any((rr < 0.99 * best) & (best > goal))
        stalled = 0 if falls else stalled + 1
        best = np.minimum(best, rr)
    return x


class NonlinearForward:
    """A misfit ``h(x) = 1/2 |G(x) - y|^2`` of a nonlinear map, with its gradient.

    Parameters
    ----------
    misfit_and_gradient : callable
        ``(x, y) -> (h, grad)`` for one unknown and its data; with `batched` for batches, `h` of
        shape (batch,).
    in_shape, out_shape : sequence of int
    apply : callable, optional
        ``G``, for the prediction of the data.
    batched : bool
    accuracy : float
        Relative error of ``G(x)``: what a solver's tolerance or single precision leave.

    Examples
    --------
    >>> def square(x, y):
    ...     r = x**2 - y
    ...     return 0.5 * float(r @ r), 2 * x * r
    >>> G = NonlinearForward(square, (3,), (3,))
    >>> G.gradient_test(np.array([1.0, 2.0, 3.0]), np.zeros(3)) < 1e-6
    True
    """

    def __init__(
        self,
        misfit_and_gradient: Callable[[np.ndarray, np.ndarray], tuple[Any, np.ndarray]],
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        apply: Map | None = None,
        batched: bool = False,
        accuracy: float = 1e-12,
    ) -> None:
        self.in_shape = _shape("in_shape", in_shape)
        self.out_shape = _shape("out_shape", out_shape)
        self.accuracy = accuracy
        #: Directions of the data whose noise `temper` has inflated.
        self.inflated = 0
        self._function, self._batched = misfit_and_gradient, batched
        self._map = apply

    def __repr__(self) -> str:
        return f"<NonlinearForward {self.in_shape} -> {self.out_shape}>"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return ``G(x)``, of one unknown or a batch.

        Raises
        ------
        ValueError
            No `apply` was given.
        """
        if self._map is None:
            raise ValueError("this forward map has no apply: only its misfit is known")
        x = np.asarray(x, np.float64)
        if x.shape == self.in_shape:
            return np.asarray(self._map(x[None] if self._batched else x)).reshape(self.out_shape)
        return self._map(x) if self._batched else np.stack([self._map(v) for v in x])

    def misfit_and_gradient(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``h`` (batch,) and its gradient (batch, *in_shape)."""
        if self._batched:
            h, g = self._function(x, y)
        else:
            pairs = [self._function(a, b) for a, b in zip(x, y, strict=True)]
            h, g = np.array([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
        h, g = np.asarray(h, np.float64), np.asarray(g, np.float64)
        if h.shape != (len(x),) or g.shape != x.shape:
            raise ValueError(
                f"misfit_and_gradient gave shapes {h.shape} and {g.shape}, expected "
                f"{(len(x),)} and {x.shape}"
            )
        return h, g

    def gradient_test(self, x: np.ndarray, y: np.ndarray, *, n: int = 3, seed: int = 0) -> float:
        """Largest relative gap to central differences along `n` random directions.

        The step is chosen by trying several, so that neither truncation nor rounding decides.
        """
        rng = np.random.default_rng(seed)
        x, y = np.asarray(x, np.float64)[None], np.asarray(y, np.float64)[None]
        _, g = self.misfit_and_gradient(x, y)
        worst = 0.0
        for _ in range(n):
            d = rng.standard_normal(x.shape)
            slope = float(np.vdot(g, d))
            gaps = []
            for step in (1e-2, 1e-3, 1e-4, 1e-5):
                up, _ = self.misfit_and_gradient(x + step * d, y)
                down, _ = self.misfit_and_gradient(x - step * d, y)
                gaps.append(abs(float(up[0] - down[0]) / (2 * step) - slope))
            worst = max(worst, min(gaps) / (abs(slope) or 1.0))
        return worst


def as_forward(
    operator: Any, in_shape: Sequence[int] | None = None, out_shape: Sequence[int] | None = None
) -> LinearForward | NonlinearForward:
    """Make a forward map of what describes one.

    Parameters
    ----------
    operator
        `LinearForward` or `NonlinearForward` (as they are), an operator of `solvers.observation`,
        a scipy `LinearOperator`, a matrix (dense or sparse), or a ``deepinv`` linear physics.
    in_shape, out_shape : sequence of int, optional
        Of unknown and data, where the operator does not know them; a matrix maps vectors without
        them. A deepinv physics needs `in_shape`, without the batch: ``(1, 32, 32)``.

    Raises
    ------
    ValueError
        Shapes that do not fit the operator.
    TypeError
        None of these.
    """
    import scipy.sparse as sp
    from scipy.sparse.linalg import LinearOperator

    if isinstance(operator, LinearForward | NonlinearForward):
        return operator
    if isinstance(operator, np.ndarray) or sp.issparse(operator):
        return _from_matrix(operator, in_shape, out_shape)
    if isinstance(operator, LinearOperator):
        return _from_scipy(operator, in_shape, out_shape)
    if hasattr(operator, "A_adjoint") and hasattr(operator, "A"):
        return _from_deepinv(operator, in_shape)
    raise TypeError(
        f"operator is a {type(operator).__name__}: need a LinearForward, a scipy LinearOperator, "
        "a matrix or a deepinv LinearPhysics"
    )


def _from_matrix(
    matrix: Any, in_shape: Sequence[int] | None, out_shape: Sequence[int] | None
) -> LinearForward:
    if matrix.ndim != 2:
        raise ValueError(f"the matrix has shape {matrix.shape}, expected (data, unknowns)")
    m, n = (int(k) for k in matrix.shape)
    ins = (n,) if in_shape is None else _shape("in_shape", in_shape)
    outs = (m,) if out_shape is None else _shape("out_shape", out_shape)
    if math.prod(ins) != n or math.prod(outs) != m:
        raise ValueError(f"the matrix has shape {(m, n)}, expected {outs} x {ins} values")
    if isinstance(matrix, np.ndarray):
        if not np.isfinite(matrix).all():
            raise ValueError("the matrix holds NaN or infinity")
        matrix = np.asarray(matrix, np.float64)
    transposed = matrix.T.tocsr() if hasattr(matrix, "tocsr") else matrix.T
    return LinearForward(
        lambda x: (matrix @ x.reshape(len(x), -1).T).T.reshape(len(x), *outs),
        lambda y: (transposed @ y.reshape(len(y), -1).T).T.reshape(len(y), *ins),
        ins, outs, batched=True,
    )  # fmt: skip


def _from_scipy(
    operator: Any, in_shape: Sequence[int] | None, out_shape: Sequence[int] | None
) -> LinearForward:
    m, n = (int(k) for k in operator.shape)
    ins = tuple(getattr(operator, "field_shape", (n,)) if in_shape is None else in_shape)
    outs = tuple(getattr(operator, "data_shape", (m,)) if out_shape is None else out_shape)
    if math.prod(ins) != n or math.prod(outs) != m:
        raise ValueError(f"the operator has shape {(m, n)}, expected {outs} x {ins} values")
    if hasattr(operator, "matrix"):
        return _from_matrix(operator.matrix, ins, outs)
    if hasattr(operator, "kernel") and hasattr(operator, "boundary"):
        return _from_blur(operator, ins)
    return LinearForward(
        lambda x: np.asarray(operator.matvec(np.ravel(x))).reshape(outs),
        lambda y: np.asarray(operator.rmatvec(np.ravel(y))).reshape(ins),
        ins, outs,
    )  # fmt: skip


def _from_blur(blur: Any, shape: tuple[int, ...]) -> LinearForward:
    """Convolution of a whole batch by one FFT."""
    import scipy.fft

    axes = tuple(range(1, 1 + len(shape)))
    size, symbol = blur._fft_shape, blur._symbol
    crop = (slice(None), *(slice(n) for n in shape))

    def convolve(x: np.ndarray, s: np.ndarray) -> np.ndarray:
        return scipy.fft.irfftn(scipy.fft.rfftn(x, size, axes=axes) * s, size, axes=axes)[crop]

    inverse = None
    # cutting a convolution on a larger torus does not raise its norm
    bound = float(np.abs(symbol).max()) * (1 + 1e-12)
    if blur.boundary == "periodic":
        power = np.abs(symbol) ** 2

        def inverse(b: np.ndarray, tau: np.ndarray) -> np.ndarray:
            t = tau.reshape(-1, *(1,) * len(shape))
            return scipy.fft.irfftn(scipy.fft.rfftn(b, axes=axes) / (power + t), shape, axes=axes)

    return LinearForward(
        lambda x: convolve(x, symbol), lambda y: convolve(y, symbol.conj()), shape, shape,
        batched=True, norm_bound=NormBound(bound, "kernel"), inverse=inverse,
    )  # fmt: skip


def _from_deepinv(physics: Any, in_shape: Sequence[int] | None) -> LinearForward:
    import torch

    if in_shape is None:
        raise ValueError("in_shape is missing: a deepinv physics needs it, such as (1, 32, 32)")
    ins = _shape("in_shape", in_shape)

    def through(f: Callable[[Any], Any]) -> Map:
        def run(v: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                out = f(torch.as_tensor(v, dtype=torch.float64))
            return np.asarray(out.detach().cpu().numpy(), np.float64)

        return run

    apply, adjoint = through(physics.A), through(physics.A_adjoint)
    outs = apply(np.zeros((1, *ins))).shape[1:]
    return LinearForward(apply, adjoint, ins, outs, batched=True)


def temper(
    forward: Any, noise: float, sigma: float, *, margin: float = 0.99, at: Any = None
) -> tuple[LinearForward | NonlinearForward, Map]:
    """Limit the precision of data to what a prior trained at noise `sigma` can be iterated with.

    The data say how large the component of the unknown along the singular vector of ``s_i`` is, up
    to ``noise / s_i``. Where that is below `sigma`, the noise is taken to be larger, so that it is
    `sigma`; elsewhere nothing changes. Then ``|P A| < noise / sigma``: the weight that the noise
    asks for, ``w / s = noise^2 / sigma^2``, is one that converges, with any prior.

    Parameters
    ----------
    forward : LinearForward or what `as_forward` takes
        At most 2500 unknowns or data.
    noise, sigma : float
        Standard deviations, of the data and of the prior's training.
    margin : float
        ``s_i sigma / noise`` of the directions that are changed: those where it is 1 or more.
    at : ndarray, shape (*in_shape), optional
        Of a nonlinear map, the point whose derivative decides; default 0.

    Returns
    -------
    tempered : LinearForward or NonlinearForward
        ``P A``; `inflated` counts the directions with inflated noise. Certificates say so: the
        result is the maximum of another posterior than that of the noise as it is.
    weigh : callable
        ``y -> P y``, for batches of data.

    Raises
    ------
    ValueError
        Numbers that are not positive, or a map with more unknowns and data.

    Examples
    --------
    >>> P, weigh = temper(np.diag([1.0, 0.1]), noise=0.01, sigma=0.05)
    >>> P.inflated, round(P.norm_bound().value, 3), weigh(np.array([[1.0, 1.0]])).round(3)
    (1, 0.198, array([[0.198, 1.   ]]))
    """
    A = as_forward(forward)
    if isinstance(A, NonlinearForward):
        return _temper_nonlinear(A, noise, sigma, margin, at)
    for name, value in (("noise", noise), ("sigma", sigma), ("margin", margin)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: need a positive number")
    if min(A.n_unknowns, A.n_data) > DENSE:
        raise ValueError(
            f"the map has {A.n_unknowns} unknowns and {A.n_data} data: its spectrum is computed up "
            f"to {DENSE} of either"
        )
    # data directions u_i = A v_i / s_i; what is orthogonal to them does not see the unknown
    side, values, vectors = A._spectrum()
    s = np.sqrt(np.maximum(values, 0.0))
    strong = s > (1 - 1e-6) * noise / sigma
    s, directions = s[strong], vectors[:, strong]
    if side == "A'A":
        u = A(directions.T.reshape(len(s), *A.in_shape)).reshape(len(s), A.n_data) / s[:, None]
    else:
        u = directions.T
    loss = 1.0 - margin * noise / sigma / s

    def weigh(y: np.ndarray) -> np.ndarray:
        flat = y.reshape(len(y), -1)
        return (flat - ((flat @ u.T) * loss) @ u).reshape(y.shape)

    out = LinearForward(
        lambda x: weigh(A(x)), lambda y: A.adjoint(weigh(y)), A.in_shape, A.out_shape, batched=True
    )
    out.inflated = int(strong.sum())
    return out, weigh


def tangent_map(G: NonlinearForward, at: Any = None) -> LinearForward:
    """Return the derivative of a nonlinear map at a point, default 0: a gradient a data value."""
    x = np.zeros(G.in_shape) if at is None else np.asarray(at, np.float64)
    if x.shape != G.in_shape:
        raise ValueError(f"at has shape {x.shape}, expected {G.in_shape}")
    n = math.prod(G.out_shape)
    # the gradient of 1/2 |G(x) - y|^2 for y = G(x) - e_i is row i of the derivative
    y = G(x) - np.eye(n).reshape(n, *G.out_shape)
    rows = G.misfit_and_gradient(np.broadcast_to(x, (n, *G.in_shape)).copy(), y)[1]
    return _from_matrix(rows.reshape(n, -1), G.in_shape, G.out_shape)


def _temper_nonlinear(
    G: NonlinearForward, noise: float, sigma: float, margin: float, at: Any
) -> tuple[NonlinearForward, Map]:
    tangent = tangent_map(G, at)
    linear, weigh = temper(tangent, noise, sigma, margin=margin)

    def misfit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = G(x)
        r = weigh(seen) - y
        # P is symmetric: the gradient is that of G for the residual P r
        return 0.5 * _dots(r, r), G.misfit_and_gradient(x, seen - weigh(r))[1]

    out = NonlinearForward(
        misfit, G.in_shape, G.out_shape, apply=lambda x: weigh(G(x)), batched=True,
        accuracy=G.accuracy,
    )  # fmt: skip
    out.inflated = linear.inflated
    return out, weigh


# -- helpers -------------------------------------------------------------------------------------


def _shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    out = tuple(int(n) for n in shape)
    if not out or any(n < 1 for n in out):
        raise ValueError(f"{name}={tuple(shape)}: need sizes >= 1")
    return out


def _each(f: Map) -> Map:
    return lambda batch: np.stack([np.asarray(f(v)) for v in batch])


def _norms(v: np.ndarray) -> np.ndarray:
    """Euclidean norm of each sample."""
    return np.linalg.norm(v.reshape(len(v), -1), axis=1)


def _dots(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Scalar product of each sample."""
    return np.einsum("bi,bi->b", v.reshape(len(v), -1), w.reshape(len(w), -1))
