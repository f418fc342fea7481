"""Meshes: quadrature, measures, boundaries."""

import itertools

import numpy as np
import pytest
from scipy.spatial import ConvexHull, Delaunay

from solvers.meshes import Mesh


def mesh_of(points, cells, code, units="m"):
    """Cells of one kind, every point with the same weight."""
    cells = np.asarray(cells)
    offsets = np.arange(len(cells) + 1) * cells.shape[1]
    points = np.asarray(points, float)
    return Mesh(
        points, np.ones(len(points)), cells.ravel(), offsets, np.full(len(cells), code), units
    )


def random_simplices(dim, seed, n=40):
    points = np.random.default_rng(seed).uniform(size=(n, dim))
    if dim == 1:
        order = np.argsort(points[:, 0])
        return Mesh.simplices(points, np.stack([order[:-1], order[1:]], axis=1))
    return Mesh.simplices(points, Delaunay(points).simplices)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_simplices_fill_the_convex_hull(dim, seed):
    m = random_simplices(dim, seed)
    hull = np.ptp(m.points) if dim == 1 else ConvexHull(m.points).volume
    assert m.measure == pytest.approx(hull, rel=1e-12)
    assert m.cell_measures().sum() == pytest.approx(hull, rel=1e-12)
    # exact for linear functions: the integral is the mean over the corners, cell by cell
    u = m.points @ np.arange(1.0, dim + 1) + 2
    ((_, cells),) = m.blocks()
    assert m.point_weights @ u == pytest.approx(m.cell_measures() @ u[cells].mean(axis=1))
    assert m.norm(np.full(m.n_points, 3.0)) == pytest.approx(3 * np.sqrt(hull))
    assert m.norm(np.full((m.n_points, 2), 3.0)) == pytest.approx(3 * np.sqrt(2 * hull))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_boundary_points_are_those_of_the_hull(dim):
    m = random_simplices(dim, 5)
    if dim == 1:
        expected = {int(m.points[:, 0].argmin()), int(m.points[:, 0].argmax())}
    else:
        expected = set(ConvexHull(m.points).vertices.tolist())
    assert set(m.boundary_points().tolist()) == expected


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_max_diameter_is_brute_force(dim):
    m = random_simplices(dim, 7)
    ((_, cells),) = m.blocks()
    pairs = (c for cell in cells for c in itertools.combinations(cell, 2))
    assert m.max_diameter == pytest.approx(
        max(np.linalg.norm(m.points[i] - m.points[j]) for i, j in pairs)
    )


def test_quads_and_triangles_together():
    # a square of one quad and two triangles beside it
    points = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]], float)
    m = Mesh(
        points, np.ones(6), np.array([0, 1, 4, 3, 1, 2, 5, 1, 5, 4]), np.array([0, 4, 7, 10]),
        np.array([9, 5, 5]),
    )  # fmt: skip
    np.testing.assert_allclose(m.cell_measures(), [1, 0.5, 0.5])
    assert m.boundary_points().tolist() == [0, 1, 2, 3, 4, 5]
    assert m.max_diameter == pytest.approx(np.sqrt(2))
    assert {code: len(cells) for code, cells in m.blocks()} == {5: 2, 9: 1}


def test_hexahedra():
    corners = np.array(list(itertools.product(range(4), repeat=3)), float)  # 27 cells of a cube
    number = {tuple(c): i for i, c in enumerate(corners.astype(int).tolist())}
    around = [
        (0, 0, 0),
        (1, 0, 0),
        (1, 1, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 0, 1),
        (1, 1, 1),
        (0, 1, 1),
    ]
    cells = [
        [number[tuple(np.add(o, a))] for a in around] for o in itertools.product(range(3), repeat=3)
    ]
    m = mesh_of(corners, cells, 12)
    inside = ((corners > 0) & (corners < 3)).all(axis=1)
    assert m.boundary_points().tolist() == np.flatnonzero(~inside).tolist()
    assert m.max_diameter == pytest.approx(np.sqrt(3))
    assert not m.is_straight
    with pytest.raises(ValueError, match="cell_measures"):
        m.cell_measures()


def test_quadratic_triangles():
    # two triangles of a square with the middles of their edges; 8 lies inside
    points = np.array(
        [[0, 0], [2, 0], [2, 2], [0, 2], [1, 0], [2, 1], [1, 1], [1, 2], [0, 1]], float
    )
    m = mesh_of(points, [[0, 1, 2, 4, 5, 6], [0, 2, 3, 6, 7, 8]], 69)
    assert m.boundary_points().tolist() == [0, 1, 2, 3, 4, 5, 7, 8]


def test_biquadratic_quads():
    points = np.array([[x, y] for y in (0, 1, 2) for x in (0, 1, 2, 3, 4)], float)
    cells = [[0, 2, 12, 10, 1, 7, 11, 5, 6], [2, 4, 14, 12, 3, 9, 13, 7, 8]]
    m = mesh_of(points, cells, 70)
    assert sorted(set(range(15)) - set(m.boundary_points().tolist())) == [6, 7, 8]


def test_surfaces_and_curves():
    triangle = mesh_of([[0, 0, 0], [3, 0, 4], [0, 1, 0]], [[0, 1, 2]], 5)
    np.testing.assert_allclose(triangle.cell_measures(), [2.5])
    curve = mesh_of([[0, 0], [3, 4]], [[0, 1]], 3)
    np.testing.assert_allclose(curve.cell_measures(), [5])
    with pytest.raises(ValueError, match="boundary of triangle cells in 3D"):
        triangle.boundary_points()
    with pytest.raises(ValueError, match="point cloud"):
        Mesh(np.zeros((2, 2)), np.ones(2)).boundary_points()


def test_equality():
    a, b = random_simplices(2, 0), random_simplices(2, 0)
    assert a == b and hash(a) == hash(b)
    assert a != random_simplices(2, 1) and a != "mesh"
    assert a != Mesh(
        a.points, 2 * a.point_weights, a.connectivity, a.cell_offsets, a.cell_types, a.units
    )
    assert a != Mesh(a.points, a.point_weights, a.connectivity, a.cell_offsets, a.cell_types, "mm")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": np.zeros(3)}, "points have shape"),
        ({"points": np.zeros((3, 4))}, "points have shape"),
        ({"point_weights": np.ones(2)}, "point_weights have shape"),
        ({"points": np.full((3, 2), np.nan)}, "points hold NaN"),
        ({"connectivity": np.array([0, 1, 3])}, "run from 0 to 2"),
        ({"connectivity": np.array([0, 1])}, "cell_offsets end at 3"),
        ({"cell_offsets": np.array([1, 3])}, "cell_offsets"),
        ({"cell_types": np.array([4])}, r"cell_types \[4\]"),
        ({"cell_types": np.array([9])}, "a quad has 4 points"),
    ],
)
def test_bad_meshes(change, words):
    good = {
        "points": np.array([[0.0, 0], [1, 0], [0, 1]]), "point_weights": np.ones(3),
        "connectivity": np.arange(3), "cell_offsets": np.array([0, 3]), "cell_types": np.array([5]),
    }  # fmt: skip
    Mesh(**good)
    with pytest.raises(ValueError, match=words):
        Mesh(**{**good, **change})


def test_simplices_of_another_dimension():
    with pytest.raises(ValueError, match=r"expected \(C, 3\)"):
        Mesh.simplices(np.zeros((4, 2)), np.arange(4)[None])
    with pytest.raises(ValueError, match="u has shape"):
        random_simplices(2, 0).norm(np.zeros(3))
