"""Random fields as functions of space: a sample is drawn once and evaluated on any grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, Protocol

import numpy as np

from solvers.grids import Grid
from solvers.names import check_name

__all__ = [
    "FieldSample",
    "GaussianField",
    "SpaceFunction",
    "TransformedField",
    "bounded",
    "level_set",
    "lognormal",
]

Basis = Literal["cosine", "sine", "fourier"]
BASES = ("cosine", "sine", "fourier")


class SpaceFunction(Protocol):
    """A function of space: gives its values at the points of a grid, in the grid's shape."""

    def __call__(self, grid: Grid) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class GaussianField:
    """Gaussian random field N(0, sigma^2 (-Laplacian + tau^2)^(-alpha)) on a box.

    Truncated Karhunen-Loeve series over the eigenfunctions of the Laplacian,

        mu(x) = sum_k sqrt(lambda_k) xi_k phi_k(x),    xi_k independent N(0, 1),
        lambda_k = sigma^2 (|omega_k|^2 + tau^2)^(-alpha),

    with `phi_k` orthonormal in L2 of the box. Away from the boundary this approaches a Matern
    field of smoothness ``nu = alpha - dim/2`` and inverse length ``tau``.

    Parameters
    ----------
    alpha : float
        Exponent of the covariance operator; above dim/2 the field is continuous.
    tau : float
        Inverse correlation length, in 1/(units of length).
    sigma : float
        Amplitude. The mean variance over the box is `mean_variance`, not ``sigma**2``; see
        `normalized`.
    basis : {"cosine", "sine", "fourier"}
        Boundary condition of the Laplacian: zero Neumann, zero Dirichlet, periodic.
    n_modes : int or tuple of int
        Wave numbers per axis: 0 to n_modes - 1 (cosine; Fourier, with a sine for each cosine), or
        1 to n_modes (sine).
    bounds : tuple of (lower, upper)
        The box, one pair an axis, 1 to 3 of them.
    zero_mean : bool
        Leave out the constant mode, so that every sample has integral zero.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    Notes
    -----
    The code that made the Darcy data of the FNO paper [1]_ (``GRF.m``) is ``basis="cosine"``,
    ``alpha=2``, ``tau=3``, ``sigma=tau**(alpha - 1)``, ``zero_mean=True``, with as many modes as
    grid points: it multiplies by ``tau^(alpha-1)`` and sets the constant mode to zero, which the
    paper's N(0, (-Laplacian + 9)^(-2)) does not say. Its ``s * idct2(...)`` is the L2-orthonormal
    cosine series at cell centers.

    References
    ----------
    .. [1] Li et al., "Fourier neural operator for parametric partial differential equations",
       ICLR 2021, arXiv:2010.08895, section A.3.2.

    Examples
    --------
    >>> field = GaussianField(alpha=2.0, tau=3.0, n_modes=32)
    >>> sample = field.draw(np.random.default_rng(0))
    >>> coarse, fine = sample(Grid.unit(17)), sample(Grid.unit(33))
    >>> bool(np.allclose(coarse, fine[::2, ::2], rtol=0, atol=1e-12))
    True
    """

    alpha: float = 2.0
    tau: float = 3.0
    sigma: float = 1.0
    _: KW_ONLY
    basis: Basis = "cosine"
    n_modes: int | tuple[int, ...] = 128
    bounds: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 1.0))
    zero_mean: bool = False

    def __post_init__(self) -> None:
        check_name("basis", self.basis, BASES)
        if not 1 <= len(self.bounds) <= 3:
            raise ValueError(f"bounds={self.bounds}: need one (lower, upper) pair for 1 to 3 axes")
        for lower, upper in self.bounds:
            if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
                raise ValueError(f"bounds={self.bounds}: need finite ends, lower < upper")
        modes = self.n_modes if isinstance(self.n_modes, tuple) else (self.n_modes,) * self.dim
        if len(modes) != self.dim:
            raise ValueError(f"n_modes={self.n_modes}: need {self.dim} entries, one an axis")
        for m in modes:
            if isinstance(m, bool) or not isinstance(m, int | np.integer) or m < 1:
                raise ValueError(f"n_modes={self.n_modes}: need integers >= 1")
        object.__setattr__(self, "n_modes", tuple(int(m) for m in modes))
        for name in ("alpha", "sigma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: need a positive number")
        if not (math.isfinite(self.tau) and self.tau >= 0):
            raise ValueError(f"tau={self.tau}: need a number >= 0")
        if self.basis == "sine" and self.zero_mean:
            raise ValueError("zero_mean=True: the sine basis has no constant mode to leave out")
        if self.basis != "sine" and self.tau == 0 and not self.zero_mean:
            raise ValueError("tau=0: the constant mode needs tau > 0, or zero_mean=True")
        if self.basis != "sine" and self.zero_mean and max(modes) < 2:
            raise ValueError(f"n_modes={self.n_modes}: with zero_mean=True need one >= 2")

    @property
    def dim(self) -> int:
        """Number of space dimensions."""
        return len(self.bounds)

    def _frequencies(self, axis: int) -> np.ndarray:
        """Angular frequencies of the basis functions of one axis, ascending."""
        lower, upper = self.bounds[axis]
        m = self.n_modes[axis] if isinstance(self.n_modes, tuple) else self.n_modes
        if self.basis == "cosine":
            return np.pi / (upper - lower) * np.arange(m)
        if self.basis == "sine":
            return np.pi / (upper - lower) * np.arange(1, m + 1)
        return 2 * np.pi / (upper - lower) * ((np.arange(2 * m - 1) + 1) // 2)

    def _functions(self, axis: int, x: np.ndarray) -> np.ndarray:
        """Orthonormal basis functions of one axis at `x`, shape (len(x), functions)."""
        lower, upper = self.bounds[axis]
        omega = self._frequencies(axis)
        phase = np.multiply.outer(np.asarray(x, np.float64) - lower, omega)
        scale = np.sqrt(np.where(omega == 0, 1.0, 2.0) / (upper - lower))
        if self.basis == "cosine":
            return scale * np.cos(phase)
        if self.basis == "sine":
            return scale * np.sin(phase)
        out = np.empty_like(phase)
        out[:, 0] = 1.0
        out[:, 1::2], out[:, 2::2] = np.cos(phase[:, 1::2]), np.sin(phase[:, 2::2])
        return scale * out

    @property
    def eigenvalues(self) -> np.ndarray:
        """Variances `lambda_k` of the coefficients, one array axis a space axis."""
        square = np.zeros(())
        for k in range(self.dim):
            square = np.add.outer(square, self._frequencies(k) ** 2)
        first = (0,) * self.dim
        if self.zero_mean:
            square[first] = 1.0  # left out below; tau may be 0
        lam: np.ndarray = self.sigma**2 * (square + self.tau**2) ** (-self.alpha)
        if self.zero_mean:
            lam[first] = 0.0
        return lam

    def draw(self, rng: np.random.Generator) -> FieldSample:
        """Draw a sample: one normal number a mode, whatever grid it will be evaluated on."""
        scale = np.sqrt(self.eigenvalues)
        return FieldSample(self, scale * rng.standard_normal(scale.shape))

    def variance(self, grid: Grid) -> np.ndarray:
        """Exact variance of the series at the points of a grid."""
        matrices = [self._functions(k, x) ** 2 for k, x in enumerate(self._coords(grid))]
        return _contract(self.eigenvalues, matrices)

    def covariance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Exact covariance of the series between points.

        Parameters
        ----------
        x, y : ndarray, shapes (m, dim) and (n, dim)

        Returns
        -------
        ndarray, shape (m, n)
        """
        left = self._products(x) * self.eigenvalues.ravel()
        return left @ self._products(y).T

    @property
    def mean_variance(self) -> float:
        """Variance of the series, averaged over the box."""
        volume = math.prod(upper - lower for lower, upper in self.bounds)
        return float(self.eigenvalues.sum()) / volume

    def normalized(self, std: float = 1.0) -> GaussianField:
        """Return the same field, scaled to mean variance ``std**2``."""
        return replace(self, sigma=self.sigma * std / math.sqrt(self.mean_variance))

    def _products(self, points: np.ndarray) -> np.ndarray:
        """All basis functions at points, shape (m, number of modes)."""
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(f"points have shape {points.shape}, expected (m, {self.dim})")
        for k in range(self.dim):
            self._check_inside(f"points[:, {k}]", k, points[:, k].min(), points[:, k].max())
        out = np.ones((len(points), 1))
        for k in range(self.dim):
            f = self._functions(k, points[:, k])
            out = (out[:, :, None] * f[:, None, :]).reshape(len(points), -1)
        return out

    def _coords(self, grid: Grid) -> tuple[np.ndarray, ...]:
        if grid.dim != self.dim:
            raise ValueError(f"the grid has {grid.dim} axes, the field {self.dim}")
        for k, axis in enumerate(grid.axes):
            self._check_inside(f"axis {axis.name!r}", k, axis.lower, axis.upper)
            if axis.periodic and self.basis != "fourier":
                raise ValueError(
                    f"axis {axis.name!r} is periodic, the field has basis={self.basis!r}: "
                    "use basis='fourier'"
                )
        return grid.coords

    def _check_inside(self, what: str, k: int, low: float, high: float) -> None:
        lower, upper = self.bounds[k]
        slack = 1e-12 * (upper - lower)
        if not lower - slack <= low <= high <= upper + slack:
            raise ValueError(
                f"{what} runs from {low} to {high}, outside the field's bounds {lower} to {upper}"
            )


@dataclass(frozen=True, eq=False)
class FieldSample:
    """One sample of a `GaussianField`: a function of space.

    Attributes
    ----------
    field : GaussianField
    coefficients : ndarray
        Of the orthonormal basis functions, one array axis a space axis.
    """

    field: GaussianField
    coefficients: np.ndarray

    def __call__(self, grid: Grid) -> np.ndarray:
        """Values at the points of `grid`, float64, in its shape.

        One small matrix product an axis: O(n_modes n (n + n_modes)) operations in 2-D. The same
        bits come out of every process that runs BLAS on one thread.

        Raises
        ------
        ValueError
            The grid leaves the field's box, has another dimension, or is periodic where the field
            is not.
        """
        matrices = [self.field._functions(k, x) for k, x in enumerate(self.field._coords(grid))]
        return _contract(self.coefficients, matrices)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Values at points of shape (m, dim); shape (m,)."""
        return self.field._products(points) @ self.coefficients.ravel()


@dataclass(frozen=True, eq=False)
class TransformedField:
    """A pointwise function of a field.

    Attributes
    ----------
    sample : SpaceFunction
    function : callable
        Array to array of the same shape.
    """

    sample: SpaceFunction
    function: Callable[[np.ndarray], np.ndarray]

    def __call__(self, grid: Grid) -> np.ndarray:
        """Values at the points of `grid`, in its shape."""
        return self.function(self.sample(grid))


def level_set(
    sample: SpaceFunction, low: float, high: float, threshold: float = 0.0
) -> TransformedField:
    """Two values: `high` where ``sample >= threshold``, else `low`.

    With ``threshold=0`` it does not change when the sample is scaled.
    """
    return TransformedField(sample, lambda mu: np.where(mu >= threshold, high, low).astype(float))


def lognormal(sample: SpaceFunction) -> TransformedField:
    """``exp(sample)``: positive, median 1."""
    return TransformedField(sample, np.exp)


def bounded(sample: SpaceFunction, low: float, high: float) -> TransformedField:
    """Map smoothly into (low, high): ``low + (high - low) (1 + tanh(sample)) / 2``."""
    return TransformedField(sample, lambda mu: low + 0.5 * (high - low) * (1.0 + np.tanh(mu)))


def _contract(coefficients: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """``sum_k c_k prod_d B_d[x_d, k_d]``, axis by axis."""
    out = coefficients
    for k, matrix in enumerate(matrices):
        out = np.moveaxis(np.tensordot(matrix, out, axes=(1, k)), 0, k)
    return np.ascontiguousarray(out)
