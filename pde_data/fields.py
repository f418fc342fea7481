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
    "BumpSample",
    "FieldSample",
    "GaussianBumps",
    "GaussianField",
    "RandomWaves",
    "SineSum",
    "SpaceFunction",
    "TransformedField",
    "TrigonometricProduct",
    "TrigonometricSample",
    "WaveSample",
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

    def _functions(self, axis: int, x: np.ndarray, *, slope: bool = False) -> np.ndarray:
        """Orthonormal basis functions of one axis at `x`, shape (len(x), functions), or slopes."""
        lower, upper = self.bounds[axis]
        omega = self._frequencies(axis)
        phase = np.multiply.outer(np.asarray(x, np.float64) - lower, omega)
        scale = np.sqrt(np.where(omega == 0, 1.0, 2.0) / (upper - lower))
        if slope:
            scale = scale * omega
            phase = phase + 0.5 * np.pi  # sin' = cos, cos' = -sin
        if self.basis == "cosine":
            return scale * np.cos(phase)
        if self.basis == "sine":
            return scale * np.sin(phase)
        out = np.empty_like(phase)
        out[:, 0] = 1.0  # its slope has scale 0
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

    def _products(self, points: np.ndarray, slopes: tuple[int, ...] = ()) -> np.ndarray:
        """All basis functions at points, shape (m, number of modes); slopes along some axes."""
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(f"points have shape {points.shape}, expected (m, {self.dim})")
        for k in range(self.dim):
            self._check_inside(f"points[:, {k}]", k, points[:, k].min(), points[:, k].max())
        out = np.ones((len(points), 1))
        for k in range(self.dim):
            f = self._functions(k, points[:, k], slope=k in slopes)
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
    slopes : tuple of int
        Axes along which it is a derivative.
    """

    field: GaussianField
    coefficients: np.ndarray
    slopes: tuple[int, ...] = ()

    def derivative(self, axis: int) -> FieldSample:
        """Return the partial derivative along `axis`, of the series term by term.

        Raises
        ------
        ValueError
            No such axis, or the derivative along it was taken before.
        """
        if not 0 <= axis < self.field.dim or axis in self.slopes:
            raise ValueError(f"axis={axis}: need one of the {self.field.dim} axes, each once")
        return replace(self, slopes=(*self.slopes, axis))

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
        matrices = [
            self.field._functions(k, x, slope=k in self.slopes)
            for k, x in enumerate(self.field._coords(grid))
        ]
        return _contract(self.coefficients, matrices)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Values at points of shape (m, dim); shape (m,)."""
        return self.field._products(points, self.slopes) @ self.coefficients.ravel()


@dataclass(frozen=True)
class SineSum:
    """Sum of sine waves with independent uniform coefficients, zero on the boundary.

        f(x) = amplitude sum_k a_k |k|^(-2 decay) prod_i sin(pi k_i s_i),    a_k ~ U[-1, 1],

    with ``s_i`` from 0 to 1 across the box and every ``k_i`` from 1 to `n_modes`. The inverse
    of the Laplacian maps such functions to such functions.

    Parameters
    ----------
    n_modes : int
    decay : float
        0.5 is ``a_k / |k|``; negative for coefficients that grow.
    amplitude : float
    bounds : tuple of (lower, upper)

    References
    ----------
    .. [1] Raonic et al., "Convolutional neural operators for robust and accurate learning of PDEs",
       NeurIPS 2023, arXiv:2302.01178: the form of the sources of the Poisson set, ``n_modes=16``,
       ``amplitude=pi/16**2`` in 2-D.
    """

    n_modes: int = 16
    decay: float = 0.5
    amplitude: float = 1.0
    _: KW_ONLY
    bounds: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 1.0))

    @property
    def basis(self) -> GaussianField:
        """A field with the same basis functions, for their values alone."""
        return GaussianField(basis="sine", n_modes=self.n_modes, bounds=self.bounds)

    @property
    def weights(self) -> np.ndarray:
        """Largest coefficients of the sines, one array axis a space axis."""
        k = np.arange(1, self.n_modes + 1) ** 2.0
        square = np.zeros(())
        for _ in self.bounds:
            square = np.add.outer(square, k)
        weights: np.ndarray = self.amplitude * square**-self.decay
        return weights

    def draw(self, rng: np.random.Generator) -> FieldSample:
        """Draw a sample: one uniform number a mode."""
        a = self.weights * rng.uniform(-1.0, 1.0, (self.n_modes,) * len(self.bounds))
        norm = math.prod(math.sqrt((upper - lower) / 2) for lower, upper in self.bounds)
        return FieldSample(self.basis, a * norm)  # sqrt(2 / L) sin is orthonormal

    def variance(self, grid: Grid) -> np.ndarray:
        """Exact variance at the points of a grid: that of U[-1, 1] is 1/3."""
        norm = math.prod((upper - lower) / 2 for lower, upper in self.bounds)
        field = self.basis
        squares = [field._functions(k, x) ** 2 for k, x in enumerate(field._coords(grid))]
        return _contract(self.weights**2 / 3 * norm, squares)


@dataclass(frozen=True)
class GaussianBumps:
    """Sum of Gaussian bumps with random centers, widths and heights.

        f(x) = sum_i A_i exp(-|x - c_i|^2 / (2 w_i^2)),    A_i ~ N(0, amplitude^2),

    centers uniform in the box, widths uniform in `width`.

    Parameters
    ----------
    n_bumps : int
    width : (float, float)
        Smallest and largest standard deviation of a bump, in units of length.
    amplitude : float
        Standard deviation of the heights.
    bounds : tuple of (lower, upper)
    periodic : bool
        Sum over the neighboring images of the box, too.
    """

    n_bumps: int = 4
    width: tuple[float, float] = (0.05, 0.2)
    amplitude: float = 1.0
    _: KW_ONLY
    bounds: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 1.0))
    periodic: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.n_bumps, bool) or self.n_bumps != int(self.n_bumps) or self.n_bumps < 1:
            raise ValueError(f"n_bumps={self.n_bumps}: need an integer >= 1")
        if not (len(self.width) == 2 and 0 < self.width[0] <= self.width[1] < math.inf):
            raise ValueError(f"width={self.width}: need 0 < smallest <= largest")
        if not (math.isfinite(self.amplitude) and self.amplitude > 0):
            raise ValueError(f"amplitude={self.amplitude}: need a positive number")

    def draw(self, rng: np.random.Generator) -> BumpSample:
        """Draw a sample."""
        lower, upper = np.array(self.bounds).T
        centers = rng.uniform(lower, upper, (self.n_bumps, len(self.bounds)))
        widths = rng.uniform(*self.width, self.n_bumps)
        return BumpSample(self, centers, widths, self.amplitude * rng.standard_normal(self.n_bumps))


@dataclass(frozen=True, eq=False)
class BumpSample:
    """One sample of `GaussianBumps`: a function of space.

    Attributes
    ----------
    field : GaussianBumps
    centers : ndarray, shape (n, dim)
    widths, heights : ndarray, shape (n,)
    """

    field: GaussianBumps
    centers: np.ndarray
    widths: np.ndarray
    heights: np.ndarray

    def __call__(self, grid: Grid) -> np.ndarray:
        """Values at the points of `grid`, float64, in its shape."""
        bounds = self.field.bounds
        if grid.dim != len(bounds):
            raise ValueError(f"the grid has {grid.dim} axes, the field {len(bounds)}")
        out = np.zeros(grid.shape)
        shifts = range(-1, 2) if self.field.periodic else range(1)
        for center, w, height in zip(self.centers, self.widths, self.heights, strict=True):
            bump = np.full((), height)
            for x, c, (lower, upper) in zip(grid.coords, center, bounds, strict=True):
                distances = np.stack([x - c - m * (upper - lower) for m in shifts])
                factor = np.exp(-(distances**2) / (2 * w**2)).sum(axis=0)
                bump = np.multiply.outer(bump, factor)
            out += bump
        return out


@dataclass(frozen=True)
class TrigonometricProduct:
    """Multiscale coefficient of two dimensions, a product of waves in two directions.

        a = prod_{k=1}^{n_scales} (1 + cos(a_k pi (x + y)) / 2) (1 + sin(a_k pi (y - 3x)) / 2),

    ``a_k`` uniform in ``[2^(k-1), 1.5 2^(k-1)]``. It lies between ``4^-n_scales`` and
    ``(9/4)^n_scales``; the shortest wave has length ``2 / (1.5 sqrt(10) 2^(n_scales - 1))``.

    References
    ----------
    .. [1] He, Liu, Xu, "MgNO: efficient parameterization of linear operators via multigrid",
       ICLR 2024, arXiv:2310.19809: its multiscale Darcy set, ``n_scales=6``.
    """

    n_scales: int = 6

    def __post_init__(self) -> None:
        if isinstance(self.n_scales, bool) or self.n_scales != int(self.n_scales):
            raise ValueError(f"n_scales={self.n_scales}: need an integer >= 1")
        if self.n_scales < 1:
            raise ValueError(f"n_scales={self.n_scales}: need an integer >= 1")

    @property
    def low(self) -> float:
        """Lower bound of every sample."""
        return 0.25**self.n_scales

    @property
    def high(self) -> float:
        """Upper bound of every sample."""
        return 2.25**self.n_scales

    def draw(self, rng: np.random.Generator) -> TrigonometricSample:
        """Draw the frequencies."""
        first = 2.0 ** np.arange(self.n_scales)
        return TrigonometricSample(rng.uniform(first, 1.5 * first))


@dataclass(frozen=True, eq=False)
class TrigonometricSample:
    """One sample of `TrigonometricProduct`: a function of space.

    Attributes
    ----------
    frequencies : ndarray, shape (n_scales,)
    """

    frequencies: np.ndarray

    def __call__(self, grid: Grid) -> np.ndarray:
        """Values at the points of `grid`, float64, in its shape."""
        if grid.dim != 2:
            raise ValueError(f"the grid has {grid.dim} axes, the field 2")
        x, y = grid.meshgrid()
        out = np.ones(grid.shape)
        for a in self.frequencies:
            out *= 1.0 + 0.5 * np.cos(a * np.pi * (x + y))
            out *= 1.0 + 0.5 * np.sin(a * np.pi * (y - 3.0 * x))
        return out


@dataclass(frozen=True)
class RandomWaves:
    """Periodic sum of a few sine waves with random amplitude, direction, length and phase.

        u(x) = sum_i A_i sin(2 pi n_i . (x - lower) / length + phi_i)

    `A_i` uniform in (0, amplitude), `phi_i` in (0, 2 pi), the wave numbers `n_i` integers: in 1-D
    uniform in 1 ... max_wave_number, in more dimensions each entry uniform in
    -max_wave_number ... max_wave_number, not all 0. In 1-D with ``n_waves=2`` and
    ``max_wave_number=8`` these are the initial conditions of PDEBench [1]_, without the absolute
    value and the window that it applies to some, which are not smooth.

    Parameters
    ----------
    n_waves : int
    max_wave_number : int
    amplitude : float
    bounds : tuple of (lower, upper)
        The box, one pair an axis, 1 to 3 of them.

    References
    ----------
    .. [1] Takamoto et al., "PDEBench: an extensive benchmark for scientific machine learning",
       NeurIPS 2022, arXiv:2210.07182, appendix D.

    Examples
    --------
    >>> u = RandomWaves(bounds=((0.0, 1.0),)).draw(np.random.default_rng(0))
    >>> u(Grid.unit(16, dim=1, periodic=True)).shape
    (16,)
    """

    n_waves: int = 2
    max_wave_number: int = 8
    amplitude: float = 1.0
    _: KW_ONLY
    bounds: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def __post_init__(self) -> None:
        for name in ("n_waves", "max_wave_number"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name}={value}: need an integer >= 1")
        if not (math.isfinite(self.amplitude) and self.amplitude > 0):
            raise ValueError(f"amplitude={self.amplitude}: need a positive number")
        if not 1 <= len(self.bounds) <= 3:
            raise ValueError(f"bounds={self.bounds}: need one (lower, upper) pair for 1 to 3 axes")

    def draw(self, rng: np.random.Generator) -> WaveSample:
        """Draw a sample."""
        dim, n = len(self.bounds), self.max_wave_number
        numbers = np.zeros((self.n_waves, dim), np.int64)
        for row in numbers:
            while not row.any():
                row[:] = rng.integers(-n if dim > 1 else 1, n + 1, dim)
        amplitudes = self.amplitude * rng.random(self.n_waves)
        return WaveSample(self.bounds, numbers, amplitudes, 2 * np.pi * rng.random(self.n_waves))


@dataclass(frozen=True, eq=False)
class WaveSample:
    """One sample of `RandomWaves`: a function of space.

    Attributes
    ----------
    bounds : tuple of (lower, upper)
    wave_numbers : ndarray of int, shape (n_waves, dim)
    amplitudes, phases : ndarray, shape (n_waves,)
    """

    bounds: tuple[tuple[float, float], ...]
    wave_numbers: np.ndarray
    amplitudes: np.ndarray
    phases: np.ndarray

    def __call__(self, grid: Grid) -> np.ndarray:
        """Values at the points of `grid`, float64, in its shape."""
        if grid.dim != len(self.bounds):
            raise ValueError(f"the grid has {grid.dim} axes, the field {len(self.bounds)}")
        return self.at(grid.meshgrid())

    def at(self, x: tuple[np.ndarray, ...]) -> np.ndarray:
        """Values at coordinates, one array an axis."""
        scaled = [(c - lo) / (hi - lo) for c, (lo, hi) in zip(x, self.bounds, strict=True)]
        out = np.zeros(np.broadcast_shapes(*(s.shape for s in scaled)))
        for n, a, phase in zip(self.wave_numbers, self.amplitudes, self.phases, strict=True):
            turns = sum((k * s for k, s in zip(n, scaled, strict=True)), np.zeros(()))
            out += a * np.sin(2 * np.pi * turns + phase)
        return out


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
