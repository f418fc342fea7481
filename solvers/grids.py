"""Grids: where the unknowns sit, what lies at the ends, and how much each point weighs.

Defined once, in numpy alone: datasets describe themselves with it, solvers discretize on it,
models read their boundary conditions from it, and losses and metrics weigh with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .names import check_name

__all__ = ["BOUNDARY_KINDS", "Axis", "Boundary", "Grid", "Location", "normalize_boundary"]

Location = Literal["node", "cell_center"]
#: One pair (lower, upper) of boundary kinds an axis.
Boundary = tuple[tuple[str, str], ...]

LOCATIONS = ("node", "cell_center")
BOUNDARY_KINDS = ("dirichlet", "neumann", "robin", "periodic")


@dataclass(frozen=True)
class Axis:
    """One uniform coordinate axis.

    Parameters
    ----------
    name : str
        ``"x"``, ``"y"``, ``"z"``.
    n : int
        Number of points, at least 2.
    lower, upper : float
        Ends of the domain, ``lower < upper``.
    location : {"node", "cell_center"}
        ``"node"``: both ends are points (a periodic axis leaves out the upper one);
        ``"cell_center"``: `n` cells, the points are their centers.
    periodic : bool
    units : str
        A symbol that pint can parse.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.
    """

    name: str
    n: int
    lower: float = 0.0
    upper: float = 1.0
    location: Location = "node"
    periodic: bool = False
    units: str = "1"

    def __post_init__(self) -> None:
        check_name("location", self.location, LOCATIONS)
        if isinstance(self.n, bool) or self.n != int(self.n) or self.n < 2:
            raise ValueError(f"n={self.n} points on axis {self.name!r}: need an integer >= 2")
        if not (
            math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper
        ):
            raise ValueError(
                f"axis {self.name!r} runs from {self.lower} to {self.upper}: "
                "need finite ends, lower < upper"
            )

    @property
    def spacing(self) -> float:
        """Distance between neighboring points."""
        closed = self.location == "node" and not self.periodic
        return (self.upper - self.lower) / (self.n - 1 if closed else self.n)

    @property
    def coords(self) -> np.ndarray:
        """Coordinates of the points, float64, shape (n,)."""
        if self.location == "node" and not self.periodic:
            return np.linspace(self.lower, self.upper, self.n)
        shift = 0.5 if self.location == "cell_center" else 0.0
        return self.lower + self.spacing * (np.arange(self.n) + shift)

    @property
    def weights(self) -> np.ndarray:
        """Quadrature weights, shape (n,): trapezoidal on closed node axes, midpoint else.

        They add up to the length of the axis.
        """
        w = np.full(self.n, self.spacing)
        if self.location == "node" and not self.periodic:
            w[[0, -1]] *= 0.5
        return w

    def resized(self, n: int) -> Axis:
        """Return the same axis with `n` points."""
        return replace(self, n=n)

    def refined(self, factor: int = 2) -> Axis:
        """Return the axis with a `factor` times smaller spacing."""
        closed = self.location == "node" and not self.periodic
        return self.resized((self.n - 1) * factor + 1 if closed else self.n * factor)


@dataclass(frozen=True)
class Grid:
    """Tensor-product grid.

    Parameters
    ----------
    axes : tuple of Axis
        One to three; none where there is no space, as for ordinary differential equations, or
        where a mesh takes its place.

    Examples
    --------
    >>> g = Grid.unit(65, dim=2)
    >>> g.shape, g.spacing
    ((65, 65), (0.015625, 0.015625))
    >>> float(g.weights.sum())
    1.0
    """

    axes: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        if len(self.axes) > 3:
            raise ValueError(f"a grid has at most 3 axes, got {len(self.axes)}")
        if len({a.name for a in self.axes}) != len(self.axes):
            raise ValueError(f"axis names repeat: {[a.name for a in self.axes]}")

    @classmethod
    def unit(
        cls,
        n: int | tuple[int, ...],
        *,
        dim: int | None = None,
        location: Location = "node",
        periodic: bool = False,
        units: str = "1",
    ) -> Grid:
        """Grid on the unit interval, square or cube.

        Parameters
        ----------
        n : int or tuple of int
            Points per axis.
        dim : int, optional
            Number of axes when `n` is one number (default 2).
        """
        shape = (n,) * (2 if dim is None else dim) if isinstance(n, int | np.integer) else tuple(n)
        if dim is not None and len(shape) != dim:
            raise ValueError(f"n={n} has {len(shape)} entries, expected dim={dim}")
        return cls(
            tuple(
                Axis(name, int(k), location=location, periodic=periodic, units=units)
                for name, k in zip("xyz", shape, strict=False)
            )
        )

    @property
    def dim(self) -> int:
        """Number of space dimensions."""
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Points per axis."""
        return tuple(a.n for a in self.axes)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Mesh width per axis."""
        return tuple(a.spacing for a in self.axes)

    @property
    def coords(self) -> tuple[np.ndarray, ...]:
        """Coordinates per axis."""
        return tuple(a.coords for a in self.axes)

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Ends of the domain per axis."""
        return tuple((a.lower, a.upper) for a in self.axes)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Which axes are periodic."""
        return tuple(a.periodic for a in self.axes)

    @property
    def weights(self) -> np.ndarray:
        """Quadrature weights in the shape of the grid; they add up to the domain's measure."""
        w = np.ones(())
        for axis in self.axes:
            w = np.multiply.outer(w, axis.weights)
        return w

    def meshgrid(self) -> tuple[np.ndarray, ...]:
        """Coordinates of all points, one array of the grid's shape per axis."""
        return tuple(np.meshgrid(*self.coords, indexing="ij"))

    def resized(self, shape: int | tuple[int, ...]) -> Grid:
        """Return the same domain with other numbers of points."""
        shape = (int(shape),) * self.dim if isinstance(shape, int | np.integer) else tuple(shape)
        if len(shape) != self.dim:
            raise ValueError(f"shape {shape} has {len(shape)} entries, expected {self.dim}")
        return Grid(tuple(a.resized(n) for a, n in zip(self.axes, shape, strict=True)))

    def refined(self, factor: int = 2) -> Grid:
        """Return the grid with a `factor` times smaller spacing; node grids stay nested."""
        return Grid(tuple(a.refined(factor) for a in self.axes))

    def norm(self, u: np.ndarray) -> float:
        """Quadrature-weighted L2 norm of a field in the grid's shape."""
        if u.shape != self.shape:
            raise ValueError(f"u has shape {u.shape}, expected {self.shape}")
        return float(np.sqrt(np.sum(self.weights * np.asarray(u, np.float64) ** 2)))


def normalize_boundary(boundary: str | tuple | list, grid: Grid) -> Boundary:
    """Bring a boundary description to one (lower, upper) pair an axis.

    Parameters
    ----------
    boundary : str, or sequence with one str or (lower, upper) pair an axis
        Kinds are those of `BOUNDARY_KINDS`.
    grid : Grid
        Its periodic axes and the periodic kinds must agree.

    Raises
    ------
    ValueError
        Unknown kind, wrong number of axes, or ``"periodic"`` that does not fit the grid.
    """
    per_axis = [boundary] * grid.dim if isinstance(boundary, str) else list(boundary)
    if len(per_axis) != grid.dim:
        raise ValueError(f"boundary has {len(per_axis)} entries, the grid has {grid.dim} axes")
    out: list[tuple[str, str]] = []
    for axis, kind in zip(grid.axes, per_axis, strict=True):
        pair = (kind, kind) if isinstance(kind, str) else tuple(kind)
        if len(pair) != 2:
            raise ValueError(f"boundary of axis {axis.name!r} is {kind!r}: need one kind or a pair")
        for k in pair:
            check_name("boundary", k, BOUNDARY_KINDS)
        if (pair[0] == "periodic") != (pair[1] == "periodic"):
            raise ValueError(f"axis {axis.name!r}: 'periodic' must hold on both sides, got {pair}")
        if (pair[0] == "periodic") != axis.periodic:
            raise ValueError(
                f"axis {axis.name!r}: boundary {pair[0]!r} but the grid's periodic={axis.periodic}"
            )
        out.append((pair[0], pair[1]))
    return tuple(out)
