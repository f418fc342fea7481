"""Domains, meshes by gmsh, refinement, VTK numbering and weights."""

import math
import subprocess
import sys

import numpy as np
import pytest

from solvers.fenicsx import (
    Diffusion,
    Domain,
    channel,
    circle,
    closed_curve,
    l_shape,
    plate_with_holes,
    polygon,
    polygon_with_holes,
    rectangle,
    triangle,
    triangle_with_notch,
    triangulate,
)
from solvers.fenicsx._space import fem_mesh

SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]
DOMAINS = {
    "rectangle": (rectangle((0, -1), (2, 1)), 4.0),
    "l_shape": (l_shape(), 0.75),
    "triangle": (triangle(), math.sqrt(3) / 4),
    "notch": (triangle_with_notch(), math.sqrt(3) / 4 - 0.02 * 0.4),
    "holes": (polygon_with_holes(SQUARE, [0.1 * np.array(SQUARE) + c for c in (0.2, 0.6)]), 0.98),
}


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("degree", [1, 2])
def test_weights_add_up_to_the_area(name, degree):
    domain, area = DOMAINS[name]
    t = triangulate(domain, 0.15)
    for mesh in (t.mesh(degree=degree), t.refined().mesh(degree=degree)):
        assert abs(mesh.measure - area) < 1e-10 and mesh.point_weights.min() > 0
        # linear functions are integrated exactly: the centroid
        centroid = (t.areas[:, None] * t.points[t.cells].mean(axis=1)).sum(axis=0)
        np.testing.assert_allclose(mesh.point_weights @ mesh.points, centroid, atol=1e-12)


def test_every_facet_is_the_side_of_one_triangle_and_closed():
    t = triangulate(plate_with_holes([circle((0.4, 0.5), 0.2), circle((0.8, 0.8), 0.1)]), 0.1)
    for m in (t, t.refined()):
        edges, of_cell = m.edges
        owners = np.bincount(of_cell.ravel(), minlength=len(edges))
        boundary = {tuple(e) for e in edges[owners == 1].tolist()}
        assert boundary == {tuple(sorted(f)) for f in m.facets.tolist()}
        assert set(owners.tolist()) == {1, 2}
        for k in range(3):  # edge k lies opposite corner k
            assert not (edges[of_cell[:, k]] == m.cells[:, [k]]).any()
        # Euler: points - edges + cells = 1 - number of holes
        assert len(m.points) - len(edges) + len(m.cells) == 1 - 2


def test_names_mark_the_sides():
    t = triangulate(channel(2.0, 1.0, [circle((0.5, 0.5), 0.2)]), 0.2)
    middle = t.points[t.facets].mean(axis=1)
    where = {
        "inlet": middle[:, 0] < 1e-12,
        "outlet": middle[:, 0] > 2 - 1e-12,
        "wall": np.abs(middle[:, 1] - 0.5) > 0.5 - 1e-12,
        "hole": np.hypot(*(middle - 0.5).T) < 0.21,
    }
    assert t.names == ("wall", "outlet", "inlet", "hole")
    for code, name in enumerate(t.names):
        np.testing.assert_array_equal(t.markers == code, where[name])


def test_refinement_keeps_points_and_follows_curves():
    t = triangulate(plate_with_holes([circle((0.5, 0.5), 0.3)]), 0.2)
    errors, sizes = [], []
    for _ in range(4):
        r = t.refined()
        np.testing.assert_array_equal(r.points[: len(t.points)], t.points)
        assert len(r.cells) == 4 * len(t.cells)
        on_hole = r.points[np.unique(r.facets[r.markers == r.names.index("hole")])]
        np.testing.assert_allclose(np.hypot(*(on_hole - 0.5).T), 0.3, rtol=1e-12)
        errors.append(float(t.areas.sum()) - (1 - 0.09 * np.pi))
        sizes.append(t.size)
        t = r
    ratios = np.array(errors[:-1]) / errors[1:]  # chords: second order
    np.testing.assert_allclose(ratios, 4, rtol=0.02)


def test_loops_are_meshed_at_their_size():
    t = triangulate(channel(2.0, 1.0, [circle((0.5, 0.5), 0.2, fineness=0.25)]), 0.2)
    length = np.linalg.norm(np.diff(t.points[t.facets], axis=1)[:, 0], axis=1)
    hole = t.markers == t.names.index("hole")
    assert length[hole].max() <= 0.05 + 1e-12 and length[hole].min() > 0.04
    assert length[~hole].max() <= 0.2 + 1e-12
    assert abs(t.size - 0.15) < 0.1


def test_star_shaped_hole():
    def curve(s):
        r = 0.25 + 0.05 * np.cos(6 * np.pi * s)
        return 0.5 + r[:, None] * np.stack([np.cos(2 * np.pi * s), np.sin(2 * np.pi * s)], axis=1)

    domain = plate_with_holes([closed_curve(curve)])
    t = triangulate(domain, 0.05).refined()
    # area of r(phi): 1/2 int r^2 = pi (0.25^2 + 0.05^2/2); chords: second order
    area = 1 - np.pi * (0.25**2 + 0.05**2 / 2)
    gaps = [t.areas.sum() - area, t.refined().areas.sum() - area]
    assert gaps[0] < 1e-3 and abs(gaps[0] / gaps[1] - 4) < 0.2
    centers = t.points[t.cells].mean(axis=1)
    assert domain.contains(centers).mean() > 0.99
    assert not domain.contains(np.array([[0.5, 0.5], [1.2, 0.5], [0.5, -0.1]])).any()
    assert domain.bounds == ((0.0, 1.0), (0.0, 1.0))


def test_clockwise_loops_are_meshed_too():
    t = triangulate(Domain(polygon(SQUARE[::-1], names="outer")), 0.3)
    assert (t.areas > 0).all() and abs(t.areas.sum() - 1) < 1e-12
    u = Diffusion(t).solve(1.0, 0.0, dirichlet=lambda x: x[0]).x
    np.testing.assert_allclose(u, t.points[:, 0], atol=1e-12)


def _points(size):
    return triangulate(l_shape(), size).points


def test_the_same_mesh_every_time_and_in_every_process():
    first = _points(0.1)
    triangulate(triangle(), 0.05)  # other meshes in between
    np.testing.assert_array_equal(_points(0.1), first)
    code = (
        "from solvers.fenicsx import l_shape, triangulate; "
        "print(triangulate(l_shape(), 0.1).points.tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.split()[-1] == first.tobytes().hex()


def test_gmsh_of_the_user_is_left_alone():
    gmsh = pytest.importorskip("gmsh")
    gmsh.initialize(interruptible=False)
    try:
        gmsh.model.add("mine")
        triangulate(triangle(), 0.2)
        assert gmsh.isInitialized() and gmsh.model.getCurrent() == "mine"
    finally:
        gmsh.finalize()


def test_numbering_of_nodes_against_coordinates():
    t = triangulate(plate_with_holes([circle((0.5, 0.5), 0.2)]), 0.2)
    m = fem_mesh(t)
    assert fem_mesh(t) is m
    for degree in (1, 2):
        space = m.space(degree)
        x = space.tabulate_dof_coordinates()[:, :2]
        np.testing.assert_allclose(x[m.dofs(space, degree)], m.node_points(degree), atol=1e-14)
        np.testing.assert_allclose(
            m.node_weights(degree), t.mesh(degree=degree).point_weights, atol=1e-15
        )
    # VTK: middles follow their edges
    mesh = t.mesh(degree=2)
    ((code, cells),) = mesh.blocks()
    assert code == 69
    for k, (i, j) in enumerate([(0, 1), (1, 2), (2, 0)]):
        middle = mesh.points[cells[:, [i, j]]].mean(axis=1)
        np.testing.assert_allclose(mesh.points[cells[:, 3 + k]], middle, atol=1e-14)


def test_values_gradients_projection_and_integrals_of_polynomials():
    m = fem_mesh(triangulate(l_shape(), 0.2))
    x, y = m.node_points(2).T
    u = np.stack([x**2 + y, x * y - y**2], axis=1)
    px, py = np.moveaxis(m.quadrature_points(4), -1, 0)
    values, slopes = m.values(u, 2, 4), m.gradients(u, 2, 4)
    np.testing.assert_allclose(values[..., 0], px**2 + py, atol=1e-13)
    np.testing.assert_allclose(slopes[..., 0, 0], 2 * px, atol=1e-12)
    np.testing.assert_allclose(slopes[..., 0, 1], 1, atol=1e-12)
    np.testing.assert_allclose(slopes[..., 1, 0], py, atol=1e-12)
    np.testing.assert_allclose(slopes[..., 1, 1], px - 2 * py, atol=1e-12)
    linear = m.gradients((3 * x - y)[: len(m.points)], 1, 2)
    np.testing.assert_allclose(linear, np.broadcast_to([3.0, -1.0], linear.shape), atol=1e-12)
    projected = m.project(slopes, 4)  # linear functions are in the space
    np.testing.assert_allclose(projected[:, 1, 1], (x - 2 * y)[: len(m.points)], atol=1e-11)
    # int x^2 + y over the L: 1/6 + 1/24 + ... by boxes
    exact = (0.5 / 3 + 0.5**2 / 2) + ((0.5**3 / 3) * 0.5 + 0.5 * (1 - 0.25) / 2)
    assert abs(m.integrate(values, 4)[0] - exact) < 1e-13
    assert abs(m.boundary_integral(u[:, 0] * 0 + 1, "outer") - 4) < 1e-12
    field = np.stack([x, y], axis=1)  # divergence 2
    assert abs(m.boundary_flux(field, "outer") - 1.5) < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: triangulate(triangle(), 0.0), "size=0.0: need a positive number"),
        (lambda: polygon([(0, 0), (1, 0)]), r"corners have shape \(2, 2\)"),
        (lambda: polygon(SQUARE, names=["a"]), "names: 1 for 4 sides"),
        (lambda: circle((0, 0), -1.0), "radius=-1.0"),
        (lambda: plate_with_holes([], lower=(1, 0)), "need lower < upper"),
        (lambda: triangle_with_notch(width=0.7), "width=0.7"),
        (
            lambda: triangulate(plate_with_holes([circle((0.1, 0.5), 0.2)]), 0.1),
            "hole 1 is not inside",
        ),
        (
            lambda: triangulate(
                plate_with_holes([circle((0.4, 0.5), 0.2), circle((0.6, 0.5), 0.2)]), 0.1
            ),
            "holes 1 and 2 overlap",
        ),
        (lambda: triangulate(triangle(), 0.3).mesh(degree=3), "degree=3"),
        (lambda: Diffusion("mesh"), "mesh is a str"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
