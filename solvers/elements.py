"""Lagrange elements of any degree on the points of a grid, in 1-D to 3-D.

Elements are boxes of ``degree`` cells of the grid an axis, their nodes are its points, so that
fields and solutions are plain arrays of the grid's shape. Coefficients given at the points enter as
polynomials of the same degree. The error of a smooth solution is O(h^(degree + 1)) in L2.

References
----------
.. [1] Ciarlet, "The finite element method for elliptic problems" (1978), chapters 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from .finite_volume import BoundaryValues, face_values, robin_values
from .grids import Axis, Boundary, Grid

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["MAX_DEGREE", "Elements", "apply_sides", "best_degree", "projected_indicator"]

#: Equidistant nodes stay well conditioned up to here.
MAX_DEGREE = 4


def best_degree(grid: Grid) -> int:
    """Highest degree whose elements fill the grid: it divides the number of cells of each axis."""
    cells = [a.n if a.periodic else a.n - 1 for a in grid.axes]
    return max(p for p in range(1, MAX_DEGREE + 1) if all(n % p == 0 for n in cells))


class Elements:
    """Tensor-product Lagrange elements on a node grid.

    Parameters
    ----------
    grid : Grid
        Node axes, periodic or not.
    degree : int
        1 to 4; must divide the number of cells of each axis.

    Raises
    ------
    ValueError
        Cell-centered axes, or a degree that does not fit: one line.

    Examples
    --------
    >>> e = Elements(Grid.unit(9, dim=2), degree=4)
    >>> float(round(e.mass(1.0).sum(), 12))  # the area
    1.0
    """

    def __init__(self, grid: Grid, degree: int) -> None:
        if isinstance(degree, bool) or degree != int(degree) or not 1 <= degree <= MAX_DEGREE:
            raise ValueError(f"degree={degree!r}: need an integer from 1 to {MAX_DEGREE}")
        for axis in grid.axes:
            if axis.location != "node":
                raise ValueError(
                    f"axis {axis.name!r} has location {axis.location!r}, elements need 'node'"
                )
            cells = axis.n if axis.periodic else axis.n - 1
            if cells % degree:
                raise ValueError(
                    f"axis {axis.name!r} has {cells} cells, which elements of degree={degree} do "
                    f"not fill: choose a multiple of {degree}"
                )
        self.grid, self.degree = grid, int(degree)
        self.size = math.prod(grid.shape)
        nodes = np.linspace(0.0, 1.0, degree + 1)
        # Exact for three factors of this degree, or two and the slopes of none
        points, weights = np.polynomial.legendre.leggauss((3 * degree + 2) // 2)
        self._points, self._weights = 0.5 * (points + 1.0), 0.5 * weights
        vandermonde = np.linalg.inv(np.vander(nodes, increasing=True))
        powers = np.arange(degree + 1)
        self._values = self._points[:, None] ** powers @ vandermonde
        slopes = powers * self._points[:, None] ** np.maximum(powers - 1, 0)
        self._slopes = slopes @ vandermonde
        self._all = tuple(range(grid.dim))

    def _width(self, k: int) -> float:
        return self.degree * self.grid.axes[k].spacing

    def _nodes(self, axes: Sequence[int], offset: int = 0) -> np.ndarray:
        """Numbers of the nodes of each element over some axes, shape (elements, nodes)."""
        p, shape = self.degree, self.grid.shape
        strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
        index: np.ndarray = np.full((1, 1), offset, dtype=np.intp)
        for k in axes:
            axis = self.grid.axes[k]
            cells = axis.n if axis.periodic else axis.n - 1
            local = p * np.arange(cells // p)[:, None] + np.arange(p + 1)
            local = (local % axis.n) * strides[k]
            index = (index[:, None, :, None] + local[None, :, None, :]).reshape(
                index.shape[0] * len(local), -1
            )
        return index

    def _basis(self, axes: Sequence[int], slope: int | None = None) -> np.ndarray:
        """Shape functions, or their derivative along one axis, at the quadrature points."""
        out: np.ndarray = np.ones((1, 1))
        for k in axes:
            factor = self._slopes / self._width(k) if k == slope else self._values
            out = np.kron(out, factor)
        return out

    def _measure(self, axes: Sequence[int]) -> np.ndarray:
        return reduce(np.kron, [self._weights * self._width(k) for k in axes], np.ones(1))

    def quadrature_coords(self) -> tuple[np.ndarray, ...]:
        """Coordinates of the quadrature points, one array (elements, points) an axis."""
        axes, q = self._all, len(self._points)
        n_elements = [len(self._nodes((k,))) for k in axes]
        out = []
        for k in axes:
            axis = self.grid.axes[k]
            starts = axis.lower + self._width(k) * np.arange(n_elements[k])
            x = (starts[:, None] + self._width(k) * self._points).reshape(
                [n_elements[i] if i == k else 1 for i in axes] + [q if i == k else 1 for i in axes]
            )
            whole = np.broadcast_to(x, (*n_elements, *(q,) * len(axes)))
            out.append(whole.reshape(math.prod(n_elements), -1))
        return tuple(out)

    def at_quadrature(self, value: Any, axes: Sequence[int] | None = None, offset: int = 0) -> Any:
        """Values of a nodal field at the quadrature points, shape (elements, points).

        Arrays that have this shape already, and numbers, are returned as they are.
        """
        value = np.asarray(value)
        axes = self._all if axes is None else axes
        if value.ndim == 0:
            return value
        if value.size == self.size and value.shape == self.grid.shape:
            return value.ravel()[self._nodes(axes, offset)] @ self._basis(axes).T
        return value

    def _assemble(
        self, weight: Any, left: np.ndarray, right: np.ndarray, axes: Sequence[int], offset: int = 0
    ) -> sp.csr_array:
        import scipy.sparse as sp

        nodes = self._nodes(axes, offset)
        measure = self._measure(axes)
        w = np.broadcast_to(weight * measure, (len(nodes), len(measure)))
        pairs = (left[:, :, None] * right[:, None, :]).reshape(len(measure), -1)
        local = w @ pairs
        m = nodes.shape[1]
        rows = np.repeat(nodes, m, axis=1).ravel()
        cols = np.tile(nodes, (1, m)).ravel()
        coo = sp.coo_array((local.ravel(), (rows, cols)), shape=(self.size, self.size))
        return sp.csr_array(coo)

    def mass(self, c: Any) -> sp.csr_array:
        """Matrix of ``int c u v``; `c` a number, a field, or values at quadrature points."""
        b = self._basis(self._all)
        return self._assemble(self.at_quadrature(c), b, b, self._all)

    def stiffness(self, a: Any) -> sp.csr_array:
        """Matrix of ``int (A grad u) . grad v``.

        Parameters
        ----------
        a : number or field, or a mapping ``(i, j) -> number or field``
            A scalar coefficient, or the entries of the tensor that are not zero.
        """
        entries = a if isinstance(a, dict) else {(k, k): a for k in self._all}
        total: Any = None
        for (i, j), value in entries.items():
            weight = self.at_quadrature(value)
            part = self._assemble(
                weight, self._basis(self._all, i), self._basis(self._all, j), self._all
            )
            total = part if total is None else total + part
        return total

    def convection(self, velocity: Sequence[Any]) -> sp.csr_array:
        """Matrix of ``int (b . grad u) v``, `b` one number or field an axis."""
        total: Any = None
        for k, b in enumerate(velocity):
            weight = self.at_quadrature(b)
            part = self._assemble(
                weight, self._basis(self._all), self._basis(self._all, k), self._all
            )
            total = part if total is None else total + part
        return total

    def load(self, f: Any) -> np.ndarray:
        """Vector of ``int f v``, in the grid's shape."""
        return self._load(self.at_quadrature(f), self._all)

    def _load(self, value: Any, axes: Sequence[int], offset: int = 0) -> np.ndarray:
        nodes, measure = self._nodes(axes, offset), self._measure(axes)
        w = np.broadcast_to(value * measure, (len(nodes), len(measure)))
        local = w @ self._basis(axes)
        out = np.zeros(self.size, dtype=local.dtype)
        np.add.at(out, nodes.ravel(), local.ravel())
        return out.reshape(self.grid.shape)

    def _side(self, axis: int, side: int) -> tuple[tuple[int, ...], int]:
        others = tuple(k for k in self._all if k != axis)
        stride = math.prod(self.grid.shape[axis + 1 :])
        return others, side * (self.grid.shape[axis] - 1) * stride

    def _on_side(self, value: Any, axis: int, side: int) -> Any:
        """Values at the quadrature points of a side of data in the shape of the face."""
        value = np.asarray(value)
        if value.ndim == 0:
            return value
        others, offset = self._side(axis, side)
        whole = np.zeros(self.grid.shape, dtype=value.dtype)
        np.moveaxis(whole, axis, 0)[-side] = value
        return whole.ravel()[self._nodes(others, offset)] @ self._basis(others).T

    def side_mass(self, c: Any, axis: int, side: int) -> sp.csr_array:
        """Matrix of ``int c u v`` over a side; `c` a number or an array in the face's shape."""
        others, offset = self._side(axis, side)
        b = self._basis(others)
        return self._assemble(self._on_side(c, axis, side), b, b, others, offset)

    def side_load(self, g: Any, axis: int, side: int) -> np.ndarray:
        """Vector of ``int g v`` over a side, in the grid's shape."""
        others, offset = self._side(axis, side)
        return self._load(self._on_side(g, axis, side), others, offset)


def apply_sides(
    elements: Elements,
    A: Any,
    load: np.ndarray,
    boundary: Boundary,
    boundary_values: BoundaryValues,
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Add Neumann and Robin sides to a system, and list what Dirichlet sides fix.

    Parameters
    ----------
    boundary, boundary_values
        As for `solvers.finite_volume.discretize`.

    Returns
    -------
    A : csr_array
    load : ndarray, shape of the grid
    fixed : ndarray of bool, shape of the grid
        Nodes of Dirichlet sides.
    lift : ndarray, shape of the grid
        Their values, 0 elsewhere.
    """
    grid = elements.grid
    fixed, lift = np.zeros(grid.shape, bool), np.zeros(grid.shape)
    for k, pair in enumerate(boundary):
        for side, kind in enumerate(pair):
            if kind == "dirichlet":
                np.moveaxis(fixed, k, 0)[-side] = True
                np.moveaxis(lift, k, 0)[-side] = face_values(boundary_values, grid, k, side)
            elif kind == "neumann":
                load = load + elements.side_load(
                    face_values(boundary_values, grid, k, side), k, side
                )
            elif kind == "robin":
                alpha, beta, g = robin_values(boundary_values, grid, k, side)
                load = load + elements.side_load(g / beta, k, side)
                A = A + elements.side_mass(alpha / beta, k, side)
    return A, load, fixed, lift


def projected_indicator(axis: Axis, degree: int, lower: float, upper: float) -> np.ndarray:
    """Project the function that is 1 in (lower, upper), else 0, on elements of one axis.

    Its integrals against the shape functions are exact wherever the jumps lie, so that a flux with
    jumps is not moved by part of a cell.

    Returns
    -------
    ndarray, shape (n,)
        Values at the points.
    """
    import scipy.sparse.linalg as spla

    line = Elements(Grid((axis,)), degree)
    powers = np.arange(degree + 1)
    inverse = np.linalg.inv(np.vander(np.linspace(0.0, 1.0, degree + 1), increasing=True))
    width = degree * axis.spacing
    load = np.zeros(axis.n)
    for e, nodes in enumerate(line._nodes((0,))):
        start = axis.lower + e * width
        a, b = (min(max((end - start) / width, 0.0), 1.0) for end in (lower, upper))
        if b > a:
            load[nodes] += width * (b ** (powers + 1) - a ** (powers + 1)) / (powers + 1) @ inverse
    return np.asarray(spla.spsolve(line.mass(1.0).tocsc(), load))
