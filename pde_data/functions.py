"""Random functions of one variable, as DeepONet's input spaces: drawn once, evaluated anywhere.

Examples
--------
>>> u = input_space("gaussian", length=0.2).draw(np.random.default_rng(0))
>>> u(np.linspace(0, 1, 100)).shape
(100,)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from solvers.names import check_name, suggest

__all__ = [
    "ChebyshevSpace",
    "FunctionSample",
    "FunctionSpace",
    "GaussianSpace",
    "PowerSeriesSpace",
    "input_space",
]

#: Terms of the Gaussian's Fourier series left out are below this part of the variance.
_CUT = 1e-18


@dataclass(frozen=True)
class FunctionSpace(ABC):
    """Random functions ``f(x) = sum_k c_k phi_k(x)`` with independent coefficients of mean zero."""

    _: KW_ONLY
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        lower, upper = self.bounds
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            raise ValueError(f"bounds={self.bounds}: need finite ends, lower < upper")

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> FunctionSample:
        """Draw a function."""

    @property
    @abstractmethod
    def variances(self) -> np.ndarray:
        """Variances of the coefficients, shape (K,)."""

    @abstractmethod
    def evaluate(self, coefficients: np.ndarray, x: np.ndarray, derivative: int) -> np.ndarray:
        """Value (0), first derivative (1) or integral from the lower end (-1) at `x`."""

    def check_inside(self, x: np.ndarray) -> None:
        """Raise ValueError if a point lies outside `bounds` by more than rounding."""
        lower, upper = self.bounds
        slack = 1e-9 * (upper - lower)
        if x.size and not (x.min() >= lower - slack and x.max() <= upper + slack):
            raise ValueError(
                f"x runs from {x.min()} to {x.max()}, outside the function's bounds {lower} to "
                f"{upper}"
            )

    def features(self, x: np.ndarray, *, derivative: int = 0) -> np.ndarray:
        """Values of the functions ``phi_k`` at `x`, shape (len(x), K)."""
        x = np.asarray(x, np.float64)
        self.check_inside(x)
        units = np.eye(self.variances.size)
        return np.stack([self.evaluate(e, x, derivative) for e in units], axis=-1)

    def covariance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Exact covariance ``E f(x_i) f(y_j)``, shape (len(x), len(y))."""
        return (self.features(x) * self.variances) @ self.features(y).T


@dataclass(frozen=True, eq=False)
class FunctionSample:
    """One random function.

    Attributes
    ----------
    space : FunctionSpace
    coefficients : ndarray, shape (K,)
    """

    space: FunctionSpace
    coefficients: np.ndarray

    def _at(self, x: Any, derivative: int) -> np.ndarray:
        x = np.asarray(x, np.float64)
        self.space.check_inside(x)
        return self.space.evaluate(self.coefficients, x, derivative)

    def __call__(self, x: Any) -> np.ndarray:
        """Values at `x`, float64, in its shape.

        Raises
        ------
        ValueError
            `x` lies outside the space's bounds (which a periodic space does not have).
        """
        return self._at(x, 0)

    def derivative(self, x: Any) -> np.ndarray:
        """First derivative at `x`, exact."""
        return self._at(x, 1)

    def integral(self, x: Any) -> np.ndarray:
        """Integral from the lower end of the bounds to `x`, exact."""
        return self._at(x, -1)


@dataclass(frozen=True)
class GaussianSpace(FunctionSpace):
    """Gaussian process of mean zero and covariance ``sigma^2 exp(-(x - y)^2 / (2 length^2))``.

    Parameters
    ----------
    length : float
        Correlation length, in the units of x; DeepONet's default 0.2.
    sigma : float
        Standard deviation.
    periodic : bool
        Periodic on `bounds`: the kernel is wrapped around the period, scaled so that the
        variance stays ``sigma^2``. The functions may then be evaluated anywhere.
    bounds : (float, float)

    Notes
    -----
    A Fourier series on a period so much longer than the interval (8.7 correlation lengths) that the
    kernel's copies are below 1e-16 in it: the covariance is exact to rounding, and samples are
    entire functions, with no grid and no interpolation behind them. The official code draws on
    1,000 nodes and interpolates [1]_.

    References
    ----------
    .. [1] Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021) 218-229.

    Examples
    --------
    >>> space = GaussianSpace(length=0.2)
    >>> bool(abs(space.covariance([0.1], [0.4])[0, 0] - np.exp(-0.3**2 / 0.08)) < 1e-13)
    True
    """

    length: float = 0.2
    sigma: float = 1.0
    _: KW_ONLY
    periodic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("length", "sigma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: need a positive number")
        size = self.bounds[1] - self.bounds[0]
        if self.length < 1e-3 * size:
            raise ValueError(f"length={self.length}: need at least 1/1000 of the interval, {size}")

    @property
    def period(self) -> float:
        """Period of the Fourier series."""
        size = self.bounds[1] - self.bounds[0]
        return size if self.periodic else size + 8.7 * self.length

    @property
    def frequencies(self) -> np.ndarray:
        """Angular frequencies ``omega_k``, k = 0 ... n."""
        n = math.ceil(self.period * math.sqrt(-2 * math.log(_CUT)) / (2 * math.pi * self.length))
        return 2 * np.pi / self.period * np.arange(n + 1)

    @property
    def variances(self) -> np.ndarray:
        """Variances of the coefficients: 1, cos(omega_1 x), ..., sin(omega_1 x), ..."""
        w = self.frequencies
        lam = np.exp(-0.5 * (self.length * w) ** 2)
        lam[1:] *= 2
        lam *= self.sigma**2 * (
            1 / lam.sum() if self.periodic else math.sqrt(2 * np.pi) * self.length / self.period
        )
        return np.concatenate([lam, lam[1:]])

    def draw(self, rng: np.random.Generator) -> FunctionSample:
        """Draw a function: one normal number a coefficient."""
        std = np.sqrt(self.variances)
        return FunctionSample(self, std * rng.standard_normal(std.size))

    def check_inside(self, x: np.ndarray) -> None:
        """Raise ValueError outside `bounds`, unless periodic."""
        if not self.periodic:
            super().check_inside(x)

    def evaluate(self, coefficients: np.ndarray, x: np.ndarray, derivative: int) -> np.ndarray:
        """Value (0), first derivative (1) or integral from the lower end (-1) at `x`."""
        w = self.frequencies
        even, odd = coefficients[: w.size], np.concatenate([[0.0], coefficients[w.size :]])
        s = x - self.bounds[0]
        phase = np.multiply.outer(s, w)
        if derivative == 0:
            return np.cos(phase) @ even + np.sin(phase) @ odd
        if derivative == 1:
            return np.cos(phase) @ (w * odd) - np.sin(phase) @ (w * even)
        w = w.copy()
        w[0] = 1.0  # the constant is integrated apart
        even, mean = even / w, even[0]
        even[0] = 0.0
        return mean * s + np.sin(phase) @ even + (1.0 - np.cos(phase)) @ (odd / w)


@dataclass(frozen=True)
class _PolynomialSpace(FunctionSpace):
    n_terms: int = 20
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.n_terms, bool) or self.n_terms != int(self.n_terms) or self.n_terms < 1:
            raise ValueError(f"n_terms={self.n_terms}: need an integer >= 1")
        if not (math.isfinite(self.amplitude) and self.amplitude > 0):
            raise ValueError(f"amplitude={self.amplitude}: need a positive number")

    @property
    def variances(self) -> np.ndarray:
        """Variances ``amplitude^2 / 3`` of the coefficients."""
        return np.full(int(self.n_terms), self.amplitude**2 / 3)

    def draw(self, rng: np.random.Generator) -> FunctionSample:
        """Draw a function: coefficients uniform in [-amplitude, amplitude]."""
        c = rng.uniform(-self.amplitude, self.amplitude, int(self.n_terms))
        return FunctionSample(self, c)

    def _evaluate(
        self, c: np.ndarray, x: np.ndarray, derivative: int, start: float, module: Any
    ) -> np.ndarray:
        lower, upper = self.bounds
        size = (upper - lower) / (1.0 - start)
        s = start + (x - lower) / size  # from the bounds to [start, 1]
        val, der, integ = module
        if derivative == 0:
            return val(s, c)
        if derivative == 1:
            return val(s, der(c)) / size
        return val(s, integ(c, lbnd=start)) * size


@dataclass(frozen=True)
class ChebyshevSpace(_PolynomialSpace):
    """``sum_k c_k T_k(s)``, k < n_terms, c_k uniform in [-amplitude, amplitude].

    ``s`` runs from -1 to 1 over the bounds.

    Parameters
    ----------
    n_terms : int
    amplitude : float
    bounds : (float, float)
    """

    def evaluate(self, coefficients: np.ndarray, x: np.ndarray, derivative: int) -> np.ndarray:
        """Value (0), first derivative (1) or integral from the lower end (-1) at `x`."""
        module = chebyshev.chebval, chebyshev.chebder, chebyshev.chebint
        return self._evaluate(coefficients, x, derivative, -1.0, module)


@dataclass(frozen=True)
class PowerSeriesSpace(_PolynomialSpace):
    """``sum_k c_k s^k``, k < n_terms, c_k uniform in [-amplitude, amplitude].

    ``s`` runs from 0 to 1 over the bounds.

    Parameters
    ----------
    n_terms : int
    amplitude : float
    bounds : (float, float)
    """

    def evaluate(self, coefficients: np.ndarray, x: np.ndarray, derivative: int) -> np.ndarray:
        """Value (0), first derivative (1) or integral from the lower end (-1) at `x`."""
        module = polynomial.polyval, polynomial.polyder, polynomial.polyint
        return self._evaluate(coefficients, x, derivative, 0.0, module)


_SPACES: dict[str, type[FunctionSpace]] = {
    "gaussian": GaussianSpace,
    "chebyshev": ChebyshevSpace,
    "power_series": PowerSeriesSpace,
}


def input_space(kind: str, **options: Any) -> FunctionSpace:
    """Space of random functions by name.

    Parameters
    ----------
    kind : {"gaussian", "chebyshev", "power_series"}
    **options
        Of `GaussianSpace` (length, sigma, periodic, bounds), `ChebyshevSpace` or
        `PowerSeriesSpace` (n_terms, amplitude, bounds).

    Raises
    ------
    ValueError
        Unknown kind or option, or a value that is not allowed.

    Examples
    --------
    >>> space = input_space("chebyshev", n_terms=20)
    >>> f = space.draw(np.random.default_rng(0))
    >>> float(f.integral(0.0))
    0.0
    """
    space = _SPACES[check_name("input space", kind, _SPACES)]
    allowed = [k for k in space.__dataclass_fields__ if k != "_"]
    for key in options:
        if key not in allowed:
            raise ValueError(
                f"input space {kind!r} has no option {key!r}.{suggest(key, allowed)} "
                f"Allowed: {', '.join(allowed)}."
            )
    return space(**options)


#: Defaults that depend on the kind of space; other parameters do not apply to it.
SPACE_DEFAULTS: dict[str, dict[str, Any]] = {
    "gaussian": {"length": 0.2, "amplitude": 1.0},
    "chebyshev": {"n_terms": 20, "amplitude": 1.0},
    "power_series": {"n_terms": 20, "amplitude": 1.0},
}


def with_space_defaults(values: Any) -> Any:
    """Fill `length`, `n_terms` and `amplitude` of a problem's parameters from its `space`.

    Raises
    ------
    ValueError
        A parameter that has no effect with this kind of space.
    """
    kind = values.get("space", "gaussian") if isinstance(values, dict) else None
    if kind not in SPACE_DEFAULTS:
        return values  # the field's own check names it
    for name in ("length", "n_terms"):
        if values.get(name) is not None and name not in SPACE_DEFAULTS[kind]:
            raise ValueError(f"{name}={values[name]} has no effect with space={kind!r}")
    missing = {k: v for k, v in SPACE_DEFAULTS[kind].items() if values.get(k) is None}
    return {**values, **missing}
