"""Evidence that a solver is right: manufactured solutions, errors, observed order, residuals.

A check of a solver takes three lines, whatever the solver is::

    ms = manufactured_diffusion(2, boundary=["dirichlet", ("neumann", "dirichlet")])
    errors = [l2_error(solve(ms, g).x, ms.solution, g) for g in grids]
    assert abs(observed_order(errors, [max(g.spacing) for g in grids]) - 2) < 0.2
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from .finite_volume import Robin
from .grids import Axis, Boundary, Grid, normalize_boundary

__all__ = [
    "ManufacturedDiffusion",
    "h1_error",
    "l2_error",
    "manufactured_diffusion",
    "observed_order",
    "relative_residual",
]


def observed_order(errors: Sequence[float], spacings: Sequence[float]) -> float:
    """Order of convergence: least-squares slope of ``log(error)`` against ``log(h)``.

    Parameters
    ----------
    errors, spacings : sequence of float, the same length, at least 3
        Errors and mesh widths of the same problem, all positive.

    Raises
    ------
    ValueError
        Fewer than three meshes, lengths that differ, mesh widths that repeat, or values that are
        not positive and finite (an error of 0 has no order: the solution lies in the space).

    Examples
    --------
    >>> round(observed_order([4e-2, 1e-2, 2.5e-3], [1 / 8, 1 / 16, 1 / 32]), 6)
    2.0
    """
    e, h = np.asarray(errors, np.float64), np.asarray(spacings, np.float64)
    if e.ndim != 1 or e.shape != h.shape or e.size < 3:
        raise ValueError(
            f"errors and spacings have shapes {e.shape} and {h.shape}: need one number each for at "
            "least 3 meshes"
        )
    for name, values in (("errors", e), ("spacings", h)):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError(f"{name} must be positive and finite, got {values.tolist()}")
    if np.unique(h).size != h.size:
        raise ValueError(f"spacings must differ, got {h.tolist()}")
    x, y = np.log(h), np.log(e)
    x -= x.mean()
    return float(x @ y / (x @ x))


def relative_residual(A: Any, x: np.ndarray, b: np.ndarray) -> float:
    """``||b - A x|| / ||b||`` in float64, of arrays taken as vectors; ``||A x||`` if ``b = 0``.

    Parameters
    ----------
    A : ndarray, sparse array, LinearOperator or callable, shape (n, n)
        A callable gets `x` as a vector.
    x, b : ndarray, n entries
        Any shape.

    Raises
    ------
    ValueError
        `x` and `b` differ in size from `A`, or hold NaN or infinity.
    """
    v, rhs = np.asarray(x, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    shape = getattr(A, "shape", (rhs.size, v.size))
    if tuple(shape) != (rhs.size, v.size):
        raise ValueError(f"A has shape {tuple(shape)}, x {v.size} and b {rhs.size} entries")
    for name, values in (("x", v), ("b", rhs)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} holds NaN or infinity")
    product = A(v) if callable(A) and not hasattr(A, "shape") else A @ v
    r = float(np.linalg.norm(rhs - np.asarray(product, np.float64).ravel()))
    norm = float(np.linalg.norm(rhs))
    return r / norm if norm > 0 else r


def l2_error(
    u: np.ndarray,
    exact: np.ndarray | Callable[[np.ndarray], np.ndarray],
    grid: Grid,
    *,
    relative: bool = False,
    free_constant: bool = False,
) -> float:
    """L2 norm of ``u - exact`` with the grid's quadrature weights.

    Parameters
    ----------
    u : ndarray, shape of the grid
    exact : ndarray or callable
        Values at the points, or a function of coordinates, shape (dim, ...) -> (...).
    grid : Grid
    relative : bool
        Divide by the norm of `exact`.
    free_constant : bool
        Remove the mean of the error, for solutions that are known up to a constant.

    Raises
    ------
    ValueError
        A wrong shape, NaN or infinity, or ``relative=True`` with ``exact = 0``.
    """
    e, truth = _difference(u, exact, grid, free_constant)
    return _scaled(grid.norm(e), grid.norm(truth) if relative else None)


def h1_error(
    u: np.ndarray,
    exact: np.ndarray | Callable[[np.ndarray], np.ndarray],
    grid: Grid,
    *,
    gradient: Callable[[np.ndarray], np.ndarray] | None = None,
    relative: bool = False,
    free_constant: bool = False,
) -> float:
    """H1 norm of ``u - exact``: the root of squared L2 errors of values and of gradients.

    Parameters
    ----------
    u : ndarray, shape of the grid
    exact : ndarray or callable
        Values at the points, or a function of coordinates, shape (dim, ...) -> (...).
    grid : Grid
    gradient : callable, optional
        Gradient of the exact solution, shape (dim, ...) -> (dim, ...). With it the gradient of the
        multilinear interpolant of `u` is compared between the points, by Gauss quadrature: order 1
        at best. Without it the difference quotients of ``u - exact`` are taken, which see errors
        at the points alone: order 2 for many methods (superconvergence).
    relative, free_constant : bool
        As for `l2_error`; relative to the H1 norm of `exact`, taken in the same way.

    Notes
    -----
    Cells lie between neighboring points, across the ends of periodic axes as well; half cells at
    the ends of cell-centered axes are left out.
    """
    e, truth = _difference(u, exact, grid, free_constant)
    if gradient is None:
        slopes = [_quotient_norm(v, grid) for v in (e, truth)]
    else:
        slopes = list(_gradient_norms(np.asarray(u, np.float64), gradient, grid))
    size = np.hypot(grid.norm(truth), slopes[1]) if relative else None
    return _scaled(float(np.hypot(grid.norm(e), slopes[0])), size)


def _difference(
    u: np.ndarray, exact: Any, grid: Grid, free_constant: bool
) -> tuple[np.ndarray, np.ndarray]:
    truth = exact(np.stack(grid.meshgrid())) if callable(exact) else exact
    u, truth = np.asarray(u, np.float64), np.asarray(truth, np.float64)
    for name, values in (("u", u), ("exact", truth)):
        if values.shape != grid.shape:
            raise ValueError(f"{name} has shape {values.shape}, expected {grid.shape} (the grid's)")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} holds NaN or infinity")
    e = u - truth
    if free_constant:
        w = grid.weights
        e -= np.sum(w * e) / np.sum(w)
    return e, truth


def _scaled(error: float, size: float | None) -> float:
    if size is None:
        return error
    if size == 0:
        raise ValueError("exact is 0: its relative error is not defined")
    return float(error / size)


def _closed(u: np.ndarray, grid: Grid) -> np.ndarray:
    """Append the first values of periodic axes at their end."""
    for k, periodic in enumerate(grid.periodic):
        if periodic:
            u = np.concatenate([u, np.take(u, [0], axis=k)], axis=k)
    return u


def _quotient_norm(u: np.ndarray, grid: Grid) -> float:
    total = 0.0
    for k, axis in enumerate(grid.axes):
        ends = np.take(u, [0], axis=k) if axis.periodic else np.take(u, [], axis=k)
        slope = np.diff(np.concatenate([u, ends], axis=k), axis=k) / axis.spacing
        w = np.ones(())
        for i, other in enumerate(grid.axes):
            across = np.full(slope.shape[k], axis.spacing) if i == k else other.weights
            w = np.multiply.outer(w, across)
        total += float(np.sum(w * slope**2))
    return float(np.sqrt(total))


def _gradient_norms(u: np.ndarray, gradient: Any, grid: Grid) -> tuple[float, float]:
    """Norms of ``grad(interpolant) - gradient`` and of `gradient`, three Gauss points an axis."""
    u = _closed(u, grid)
    nodes, weights = np.polynomial.legendre.leggauss(3)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    h, starts = grid.spacing, [x[: u.shape[k] - 1] for k, x in enumerate(grid.coords)]
    error = size = 0.0
    for index in itertools.product(range(3), repeat=grid.dim):
        s = nodes[list(index)]
        w = float(np.prod(weights[list(index)]) * np.prod(h))
        x = np.stack(np.meshgrid(*(c + s[k] * h[k] for k, c in enumerate(starts)), indexing="ij"))
        truth = np.asarray(gradient(x), np.float64)
        if truth.shape != x.shape:
            raise ValueError(f"gradient returned shape {truth.shape}, expected {x.shape}")
        for k in range(grid.dim):
            v = u
            for i in range(grid.dim):
                lower = np.take(v, np.arange(v.shape[i] - 1), axis=i)
                upper = np.take(v, np.arange(1, v.shape[i]), axis=i)
                v = (upper - lower) / h[i] if i == k else (1 - s[i]) * lower + s[i] * upper
            error += w * float(np.sum((v - truth[k]) ** 2))
        size += w * float(np.sum(truth**2))
    return float(np.sqrt(error)), float(np.sqrt(size))


@dataclass(frozen=True)
class ManufacturedDiffusion:
    """Closed-form solution of ``-div(a grad u) + c u = f`` on a box; see `manufactured_diffusion`.

    Every method takes coordinates, shape (dim, ...), and returns values of shape (...), `gradient`
    of shape (dim, ...). On a box with sides ``(l_i, l_i + L_i)`` and ``s_i = (x_i - l_i) / L_i``::

        u   = prod_i sin(w_i s_i + d_i)
        a   = exp(v sin(2 pi (s_1 + ... + s_dim) + 1/2))
        c   = r (1 + cos(2 pi (s_1 + ... + s_dim)) / 2)
        f   = -sum_i d/dx_i (a_i du/dx_i) + c u,    a_i = a
        a_i = m_i exp(v sin(2 pi (s_1 + ... + s_dim) + 1/2 + i)), i = 0, 1, ..., if anisotropic

    On Robin sides ``beta = 4/5`` and ``alpha = 3/2 + sin(s_1 + ... + s_dim) / 2``, or, if the data
    are to be zero, the `alpha` for which they are.

    Attributes
    ----------
    boundary : tuple
        Kinds, one (lower, upper) pair an axis.
    bounds : tuple
        Ends of the domain per axis.
    frequency, phase : tuple of float
        ``w_i`` and ``d_i``.
    variation : float
        ``v``; `a` lies between ``exp(-v)`` and ``exp(v)``.
    rate : float
        ``r``.
    anisotropy : tuple of float, optional
        ``m_i``; then `coefficient` has shape (dim, ...), one field an axis.
    homogeneous : bool
        Whether the data of all sides are zero.
    """

    boundary: Boundary
    bounds: tuple[tuple[float, float], ...]
    frequency: tuple[float, ...]
    phase: tuple[float, ...]
    variation: float = 0.5
    rate: float = 0.0
    anisotropy: tuple[float, ...] | None = None
    homogeneous: bool = False

    @property
    def dim(self) -> int:
        """Number of space dimensions."""
        return len(self.bounds)

    def _scaled(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates on the unit box, and its sides' lengths, both broadcastable."""
        x = np.asarray(x, np.float64)
        if x.ndim < 1 or x.shape[0] != self.dim:
            raise ValueError(f"x has shape {x.shape}, expected ({self.dim}, ...)")
        lower, upper = np.array(self.bounds).T.reshape(2, self.dim, *(1,) * (x.ndim - 1))
        return (x - lower) / (upper - lower), upper - lower

    def _factors(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Factors of `u`, their derivatives, and the angular frequencies, shape (dim, ...)."""
        s, length = self._scaled(x)
        column = (self.dim, *(1,) * (s.ndim - 1))
        w, d = np.reshape(self.frequency, column), np.reshape(self.phase, column)
        return np.sin(w * s + d), w / length * np.cos(w * s + d), w / length

    def solution(self, x: np.ndarray) -> np.ndarray:
        """Return ``u``."""
        return np.prod(self._factors(x)[0], axis=0)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return ``grad u``."""
        factor, slope, _ = self._factors(x)
        return np.stack(
            [slope[k] * np.prod(np.delete(factor, k, axis=0), axis=0) for k in range(self.dim)]
        )

    def coefficient(self, x: np.ndarray) -> np.ndarray:
        """Return ``a``, shape (...), or (dim, ...) if it is anisotropic."""
        a = np.stack([self._along(x, k)[0] for k in range(self.dim)])
        return a if self.anisotropy else a[0]

    def _along(self, x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """``a_i`` and the derivative of its logarithm along its axis."""
        s, length = self._scaled(x)
        angle = 2 * np.pi * s.sum(axis=0) + 0.5 + (axis if self.anisotropy else 0)
        size = self.anisotropy[axis] if self.anisotropy else 1.0
        slope = 2 * np.pi / length[axis] * self.variation * np.cos(angle)
        return size * np.exp(self.variation * np.sin(angle)), slope

    def reaction(self, x: np.ndarray) -> np.ndarray:
        """Return ``c``."""
        s, _ = self._scaled(x)
        return self.rate * (1.0 + 0.5 * np.cos(2 * np.pi * s.sum(axis=0)))

    def source(self, x: np.ndarray) -> np.ndarray:
        """Return ``f``."""
        u, slope, frequency = self.solution(x), self.gradient(x), self._factors(x)[2]
        out = self.reaction(x) * u
        for k in range(self.dim):
            a, log_slope = self._along(x, k)
            out -= a * (log_slope * slope[k] - frequency[k] ** 2 * u)
        return out

    def outward_flux(self, x: np.ndarray, axis: int, side: int) -> np.ndarray:
        """Return ``a du/dn`` for the outward normal of one side."""
        return (1 if side else -1) * self._along(x, axis)[0] * self.gradient(x)[axis]

    def robin(self, axis: int, side: int) -> Robin:
        """``alpha``, ``beta`` and ``g`` of a Robin side, functions of the coordinates."""

        def alpha(x: np.ndarray) -> np.ndarray:
            s, length = self._scaled(x)
            if not self.homogeneous:
                return 1.5 + 0.5 * np.sin(s.sum(axis=0))
            w = self.frequency[axis]
            slope = w / np.tan(w * side + self.phase[axis]) / length[axis]
            return 0.8 * self._along(x, axis)[0] * (-slope if side else slope)

        def g(x: np.ndarray) -> np.ndarray:
            return alpha(x) * self.solution(x) + 0.8 * self.outward_flux(x, axis, side)

        return Robin(alpha, lambda x: np.full(x.shape[1:], 0.8), g)  # type: ignore[arg-type]

    def side_functions(self) -> dict[tuple[int, int], Any]:
        """Boundary data as functions of the coordinates.

        `solution` on Dirichlet sides, the flux on Neumann sides, a `Robin` of three functions on
        Robin sides.
        """
        return {
            (k, side): self.solution
            if kind == "dirichlet"
            else self.robin(k, side)
            if kind == "robin"
            else partial(self.outward_flux, axis=k, side=side)
            for k, pair in enumerate(self.boundary)
            for side, kind in enumerate(pair)
            if kind != "periodic"
        }

    def boundary_values(self, grid: Grid) -> dict[tuple[int, int], Any]:
        """Boundary data as arrays in the shape of the faces, at the grid's points."""
        self._check(grid)
        out: dict[tuple[int, int], Any] = {}
        for (k, side), data in self.side_functions().items():
            coords = list(grid.coords)
            coords[k] = np.array([grid.bounds[k][side]])
            x = np.stack(np.meshgrid(*coords, indexing="ij"))
            if isinstance(data, Robin):
                out[k, side] = Robin(*(np.take(v(x), 0, k) for v in cast("Any", data)))
            else:
                out[k, side] = np.take(data(x), 0, k)
        return out

    def fields(self, grid: Grid) -> dict[str, np.ndarray]:
        """Arrays at the grid's points: ``a``, ``f``, ``c`` and ``u``, as the solvers take them."""
        self._check(grid)
        x = np.stack(grid.meshgrid())
        return {
            "a": self.coefficient(x),
            "f": self.source(x),
            "c": self.reaction(x),
            "u": self.solution(x),
        }

    def _check(self, grid: Grid) -> None:
        normalize_boundary(self.boundary, grid)
        if grid.bounds != self.bounds:
            raise ValueError(f"the grid's bounds are {grid.bounds}, the solution's {self.bounds}")


def manufactured_diffusion(
    dim: int,
    *,
    boundary: str | tuple | list = "dirichlet",
    bounds: Sequence[tuple[float, float]] | None = None,
    homogeneous: bool = False,
    variation: float = 0.5,
    reaction: float = 0.0,
    anisotropy: Sequence[float] | None = None,
) -> ManufacturedDiffusion:
    """Exact solution, smooth variable coefficient and source of the diffusion equation.

    Parameters
    ----------
    dim : {1, 2, 3}
    boundary : str or sequence
        Kinds, as for `solvers.grids.normalize_boundary`.
    bounds : sequence of (lower, upper), optional
        Default: the unit box.
    homogeneous : bool
        Let the data of all sides be zero; otherwise values and fluxes vary along them.
    variation : float
        `a` lies between ``exp(-variation)`` and ``exp(variation)``.
    reaction : float
        Size of ``c >= 0``, which varies by half of it.
    anisotropy : sequence of float, optional
        Positive factor of the coefficient along each axis, whose fields then differ in phase, too.

    Returns
    -------
    ManufacturedDiffusion

    Notes
    -----
    Without reaction and Dirichlet and Robin sides the integrals of source and fluxes add up to
    zero, their quadrature does so up to its error only: solve with ``singular="project"``, and
    measure with ``free_constant=True``.

    Examples
    --------
    >>> ms = manufactured_diffusion(2, homogeneous=True)
    >>> bool(abs(ms.solution(np.array([0.5, 1.0]))) < 1e-15)
    True
    """
    if isinstance(dim, bool) or dim not in (1, 2, 3):
        raise ValueError(f"dim={dim!r}: allowed are 1, 2 and 3")
    if reaction < 0:
        raise ValueError(f"reaction={reaction}: must not be negative")
    ends = tuple(
        (float(lo), float(hi)) for lo, hi in (((0, 1),) * dim if bounds is None else bounds)
    )
    if len(ends) != dim or not all(lo < hi for lo, hi in ends):
        raise ValueError(f"bounds={bounds}: need {dim} pairs (lower, upper), lower < upper")
    kinds = [boundary] * dim if isinstance(boundary, str) else list(boundary)
    kinds += ["dirichlet"] * (dim - len(kinds))  # too few: normalize_boundary says so
    periodic = [kind == "periodic" or "periodic" in tuple(kind) for kind in kinds]
    grid = Grid(tuple(Axis("xyz"[k], 2, periodic=periodic[k]) for k in range(dim)))
    bc = normalize_boundary(boundary, grid)
    factors = None if anisotropy is None else tuple(float(m) for m in anisotropy)
    if factors is not None and (len(factors) != dim or min(factors) <= 0):
        raise ValueError(f"anisotropy={anisotropy}: need {dim} positive numbers")
    waves = []
    start = {"dirichlet": 0.0, "robin": 0.25 * np.pi, "neumann": 0.5 * np.pi}
    for i, pair in enumerate(bc):
        if pair[0] == "periodic":
            waves.append((2 * np.pi, 0.3 + 0.4 * i))
        elif homogeneous:
            stop = np.pi - start[pair[1]]
            if pair == ("neumann", "neumann"):
                stop = 1.5 * np.pi
            waves.append((stop - start[pair[0]], start[pair[0]]))
        else:
            waves.append((2.5 - 0.4 * i, 0.4 + 0.3 * i))
    return ManufacturedDiffusion(
        boundary=bc, bounds=ends, frequency=tuple(w for w, _ in waves),
        phase=tuple(d for _, d in waves), variation=float(variation), rate=float(reaction),
        anisotropy=factors, homogeneous=bool(homogeneous),
    )  # fmt: skip
