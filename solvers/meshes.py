"""Meshes and point clouds: points, cells in VTK's numbering, quadrature weights. numpy alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["VTK_CELLS", "Mesh"]

#: VTK code -> (name, topological dimension, number of points; 0 for any).
VTK_CELLS = {
    3: ("line", 1, 2),
    5: ("triangle", 2, 3),
    9: ("quad", 2, 4),
    10: ("tetrahedron", 3, 4),
    12: ("hexahedron", 3, 8),
    68: ("lagrange_line", 1, 0),
    69: ("lagrange_triangle", 2, 0),
    70: ("lagrange_quad", 2, 0),
    71: ("lagrange_tetrahedron", 3, 0),
    72: ("lagrange_hexahedron", 3, 0),
}


@dataclass(frozen=True, eq=False)
class Mesh:
    """A mesh, or with no cells a point cloud.

    Parameters
    ----------
    points : ndarray, float64, shape (P, D)
    point_weights : ndarray, float64, shape (P,)
        Quadrature weights; they add up to the measure of the domain.
    connectivity : ndarray, int64, shape (L,)
        Point numbers of the cells, one cell after the other, in VTK's order.
    cell_offsets : ndarray, int64, shape (C + 1,)
        Cell c is ``connectivity[cell_offsets[c]:cell_offsets[c + 1]]``.
    cell_types : ndarray, uint8, shape (C,)
        VTK codes, see `VTK_CELLS`.
    units : str
        Of the coordinates.

    Raises
    ------
    ValueError
        Names the argument and what is wrong with it.
    """

    points: np.ndarray
    point_weights: np.ndarray
    connectivity: np.ndarray | None = None
    cell_offsets: np.ndarray | None = None
    cell_types: np.ndarray | None = None
    units: str = "m"

    def __post_init__(self) -> None:
        def put(name: str, dtype: str) -> np.ndarray:
            value = getattr(self, name)
            array = np.ascontiguousarray(np.empty(0) if value is None else value, dtype)
            object.__setattr__(self, name, array)
            return array

        points, weights = put("points", "<f8"), put("point_weights", "<f8")
        connectivity, types = put("connectivity", "<i8"), put("cell_types", "u1")
        if self.cell_offsets is None:
            object.__setattr__(self, "cell_offsets", np.zeros(1, "<i8"))
        offsets = put("cell_offsets", "<i8")
        if points.ndim != 2 or not 1 <= points.shape[1] <= 3 or not len(points):
            raise ValueError(f"points have shape {points.shape}, expected (P, D), D = 1, 2 or 3")
        if weights.shape != points.shape[:1]:
            raise ValueError(f"point_weights have shape {weights.shape}, expected {len(points)}")
        for name, array in (("points", points), ("point_weights", weights)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name} hold NaN or infinity")
        if offsets.shape != (len(types) + 1,) or offsets[0] != 0 or (np.diff(offsets) <= 0).any():
            raise ValueError("cell_offsets: need 0 first, increasing, one more than cell_types")
        if offsets[-1] != connectivity.size or connectivity.ndim != 1:
            raise ValueError(
                f"cell_offsets end at {offsets[-1]}, connectivity has {connectivity.size} entries"
            )
        if connectivity.size and not 0 <= connectivity.min() <= connectivity.max() < len(points):
            raise ValueError(f"connectivity: point numbers run from 0 to {len(points) - 1}")
        if unknown := sorted(set(types.tolist()) - set(VTK_CELLS)):
            raise ValueError(f"cell_types {unknown}: allowed are {sorted(VTK_CELLS)}")
        for code in np.unique(types):
            name, _, n = VTK_CELLS[int(code)]
            if n and (np.diff(offsets)[types == code] != n).any():
                raise ValueError(f"cell_offsets: a {name} has {n} points")

    @classmethod
    def simplices(cls, points: np.ndarray, cells: np.ndarray, *, units: str = "m") -> Mesh:
        """Mesh of lines, triangles or tetrahedra with lumped (P1) quadrature weights.

        Parameters
        ----------
        points : ndarray, shape (P, D)
        cells : ndarray, int, shape (C, D + 1)
        """
        points, cells = np.asarray(points, np.float64), np.asarray(cells, np.int64)
        dim = points.shape[1]
        if cells.ndim != 2 or cells.shape[1] != dim + 1:
            raise ValueError(f"cells have shape {cells.shape}, expected (C, {dim + 1})")
        edges = points[cells[:, 1:]] - points[cells[:, :1]]
        measure = np.abs(np.linalg.det(edges)) / (1, 1, 2, 6)[dim]
        weights = np.bincount(
            cells.ravel(), np.repeat(measure / (dim + 1), dim + 1), minlength=len(points)
        )
        code = (0, 3, 5, 10)[dim]
        return cls(
            points, weights, cells.ravel(), np.arange(len(cells) + 1) * (dim + 1),
            np.full(len(cells), code, np.uint8), units,
        )  # fmt: skip

    @property
    def dim(self) -> int:
        """Number of coordinates of a point."""
        return int(self.points.shape[1])

    @property
    def n_points(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def n_cells(self) -> int:
        """Number of cells; 0 for a point cloud."""
        assert self.cell_types is not None
        return len(self.cell_types)

    @property
    def measure(self) -> float:
        """Length, area or volume of the domain: the sum of the weights."""
        return float(self.point_weights.sum())

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """VTK code and cells, int64 (C, points a cell), for each kind of cell of one size."""
        assert self.cell_types is not None and self.cell_offsets is not None
        assert self.connectivity is not None
        sizes = np.diff(self.cell_offsets)
        keys = np.stack([self.cell_types.astype(np.int64), sizes], axis=1)
        for code, size in np.unique(keys, axis=0) if len(keys) else ():
            first = self.cell_offsets[:-1][(keys == (code, size)).all(axis=1)]
            yield int(code), self.connectivity[first[:, None] + np.arange(size)]

    def norm(self, u: np.ndarray) -> float:
        """Quadrature-weighted L2 norm of a field, shape (P,) or (P, ...)."""
        if u.shape[:1] != self.points.shape[:1]:
            raise ValueError(f"u has shape {u.shape}, expected ({self.n_points}, ...)")
        squares = np.asarray(u, np.float64).reshape(len(u), -1) ** 2
        return float(np.sqrt(self.point_weights @ squares.sum(axis=1)))

    def equals(self, other: Mesh) -> bool:
        """Whether all arrays and units are equal."""
        return self.units == other.units and all(
            np.array_equal(getattr(self, n), getattr(other, n))
            for n in ("points", "point_weights", "connectivity", "cell_offsets", "cell_types")
        )
