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

    @property
    def max_diameter(self) -> float:
        """Largest distance between two points of one cell; 0 for a point cloud."""
        worst = 0.0
        for _, cells in self.blocks():
            corners = self.points[cells]  # (C, k, D)
            for i in range(1, cells.shape[1]):
                gaps = corners[:, i:] - corners[:, :-i]
                worst = max(worst, float((gaps**2).sum(axis=2).max()))
        return float(np.sqrt(worst))

    @property
    def is_straight(self) -> bool:
        """Whether the cells' measure follows from their corners: no curved cells, no hexahedra."""
        assert self.cell_types is not None
        return bool(np.isin(self.cell_types, [3, 5, 9, 10]).all())

    def cell_measures(self) -> np.ndarray:
        """Length, area or volume of straight-sided cells, float64, shape (C,).

        Raises
        ------
        ValueError
            Some cell is a hexahedron or of higher order.
        """
        assert self.cell_types is not None and self.cell_offsets is not None
        if not self.is_straight:
            raise ValueError("cell_measures: only for lines, triangles, quads and tetrahedra")
        out = np.empty(self.n_cells)
        for code, cells in self.blocks():
            p = self.points[cells]
            if code == 9:  # the two triangles on either side of a diagonal
                size = _simplex_measures(p[:, [0, 1, 2]]) + _simplex_measures(p[:, [0, 2, 3]])
            else:
                size = _simplex_measures(p)
            out[self.cell_types == code] = size
        return out

    def boundary_points(self) -> np.ndarray:
        """Numbers of the points on faces of one cell alone, int64, increasing.

        Raises
        ------
        ValueError
            A point cloud, cells of less than the space's dimension, or cells of higher order in
            three dimensions.
        """
        if not self.n_cells:
            raise ValueError("a point cloud has no boundary: name the points")
        faces: list[np.ndarray] = []
        points: list[np.ndarray] = []  # all points of each face, padded with its first
        for code, cells in self.blocks():
            name, dim, _ = VTK_CELLS[code]
            local = _faces(code, cells.shape[1])
            if dim != self.dim or local is None:
                raise ValueError(f"the boundary of {name} cells in {self.dim}D is not known here")
            corners, whole = local
            faces += [np.sort(cells[:, c], axis=1) for c in corners]
            points += [cells[:, w] for w in whole]
        width, inner = max(f.shape[1] for f in faces), max(p.shape[1] for p in points)
        keys = np.concatenate([np.pad(f, ((0, 0), (width - f.shape[1], 0)), "edge") for f in faces])
        _, which, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        owners = np.concatenate(
            [np.pad(p, ((0, 0), (inner - p.shape[1], 0)), "edge") for p in points]
        )
        return np.unique(owners[count[which.ravel()] == 1])

    def equals(self, other: Mesh) -> bool:
        """Whether all arrays and units are equal."""
        return self.units == other.units and all(
            np.array_equal(getattr(self, n), getattr(other, n))
            for n in ("points", "point_weights", "connectivity", "cell_offsets", "cell_types")
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Mesh) and self.equals(other))

    def __hash__(self) -> int:
        return hash((self.units, self.points.shape, self.n_cells, self.points[0].tobytes()))


def _simplex_measures(corners: np.ndarray) -> np.ndarray:
    """Measures of simplices, shape (C, k + 1, D), k <= D."""
    edges = corners[:, 1:] - corners[:, :1]
    k = edges.shape[1]
    if k == edges.shape[2]:
        return np.abs(np.linalg.det(edges)) / (1, 1, 2, 6)[k]
    gram = edges @ edges.transpose(0, 2, 1)  # a surface or a curve
    return np.sqrt(np.maximum(np.linalg.det(gram), 0.0)) / (1, 1, 2, 6)[k]


_Face = tuple[int, ...]


def _faces(code: int, n: int) -> tuple[list[_Face], list[_Face]] | None:
    """Corners of each face of a cell of `n` points, and all points of each face."""
    fixed: dict[int, list[_Face]] = {
        3: [(0,), (1,)],
        68: [(0,), (1,)],
        5: [(0, 1), (1, 2), (2, 0)],
        9: [(0, 1), (1, 2), (2, 3), (3, 0)],
        10: [(0, 1, 2), (0, 1, 3), (1, 2, 3), (0, 2, 3)],
        12: [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)],
    }
    if code in fixed:
        return fixed[code], fixed[code]
    if code not in (69, 70):
        return None
    corners = fixed[5 if code == 69 else 9]
    sides = len(corners)
    if code == 69:  # n = (p + 1) (p + 2) / 2
        degree = round(float(np.sqrt(8 * n + 1) - 3) / 2)
    else:
        degree = round(float(np.sqrt(n))) - 1
    inner = degree - 1  # points inside each edge, edge after edge
    whole = [
        (*c, *range(sides + e * inner, sides + (e + 1) * inner)) for e, c in enumerate(corners)
    ]
    return corners, whole
