"""Observed order of the finite elements on manufactured solutions; errors over the mesh."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dolfinx_solver")

from solvers.fenicsx.diffusion import clear_cache, solve_diffusion_fenicsx
from solvers.grids import Axis, Grid
from solvers.verify import l2_error, manufactured_diffusion, observed_order

BOUNDARIES = {
    "dirichlet": "dirichlet",
    "neumann": "neumann",
    "mixed": [("dirichlet", "neumann"), ("neumann", "dirichlet")],
    "robin": [("robin", "dirichlet"), ("neumann", "robin")],
    "all robin": "robin",
}
BOUNDS = ((0.0, 1.0), (-0.5, 1.0), (0.0, 0.8))


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    yield
    clear_cache()


def solve(ms, n, *, arrays=False, reaction=None, **options):
    cells = [(n - 1) * (4 + k) // 4 for k in range(ms.dim)]  # one ratio at every resolution
    grid = Grid(
        tuple(
            Axis(name, m + 1, lo, hi)
            for name, m, (lo, hi) in zip("xyz", cells, ms.bounds, strict=False)
        )
    )
    if arrays:
        fields = ms.fields(grid)
        a, f, values = fields["a"], fields["f"], ms.boundary_values(grid)
    else:
        a, f, values = ms.coefficient, ms.source, ms.side_functions()
    result = solve_diffusion_fenicsx(
        a, f, grid, boundary=ms.boundary, boundary_values=values, reaction=reaction,
        singular="project", exact=ms.solution, **options,
    )  # fmt: skip
    assert result.residual <= 1e-10
    return result, grid


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("kind", BOUNDARIES)
def test_order_in_2d(kind, degree, cell):
    ms = manufactured_diffusion(2, boundary=BOUNDARIES[kind], bounds=BOUNDS[:2])
    l2, h1, h = [], [], []
    for n in (17, 33, 65):
        result, grid = solve(ms, n, degree=degree, cell=cell)
        l2.append(result.info["l2_error"])
        h1.append(result.info["h1_error"])
        h.append(max(grid.spacing))
    assert abs(observed_order(l2, h) - (degree + 1)) < 0.2
    assert abs(observed_order(h1, h) - degree) < 0.2


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize("kind", BOUNDARIES)
def test_order_with_nodal_data(kind, cell):
    """Data at the grid's points, errors at the grid's points: second order."""
    ms = manufactured_diffusion(2, boundary=BOUNDARIES[kind], bounds=BOUNDS[:2])
    mesh, nodal, h = [], [], []
    for n in (17, 33, 65):
        result, grid = solve(ms, n, arrays=True, cell=cell)
        mesh.append(result.info["l2_error"])
        nodal.append(l2_error(result.x, ms.solution, grid, free_constant=kind == "neumann"))
        h.append(max(grid.spacing))
    assert abs(observed_order(mesh, h) - 2) < 0.2
    assert abs(observed_order(nodal, h) - 2) < 0.2


@pytest.mark.parametrize("degree", [1, 2])
def test_order_with_reaction(degree):
    ms = manufactured_diffusion(2, boundary="neumann", bounds=BOUNDS[:2], reaction=3.0)
    l2, h = [], []
    for n in (17, 33, 65):
        result, grid = solve(ms, n, degree=degree, reaction=ms.reaction)
        l2.append(result.info["l2_error"])
        h.append(max(grid.spacing))
    assert abs(observed_order(l2, h) - (degree + 1)) < 0.2


@pytest.mark.parametrize(
    ("dim", "cell", "degree", "sizes"),
    [
        (1, "triangle", 1, (17, 33, 65)),
        (1, "triangle", 2, (17, 33, 65)),
        (3, "triangle", 1, (9, 13, 17)),
        (3, "quadrilateral", 1, (9, 13, 17)),
        (3, "triangle", 2, (9, 13, 17)),
    ],
)
def test_order_in_1d_and_3d(dim, cell, degree, sizes):
    ms = manufactured_diffusion(
        dim, boundary=[("dirichlet", "neumann"), "dirichlet", "neumann"][:dim], bounds=BOUNDS[:dim]
    )
    l2, h1, h = [], [], []
    for n in sizes:
        result, grid = solve(ms, n, degree=degree, cell=cell)
        l2.append(result.info["l2_error"])
        h1.append(result.info["h1_error"])
        h.append(max(grid.spacing))
    assert abs(observed_order(l2, h) - (degree + 1)) < 0.2
    assert abs(observed_order(h1, h) - degree) < 0.2


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_polynomials_in_the_space_are_exact(dim, cell, degree):
    """Linear `u` with linear `a` (degree 1), quadratic `u` with linear `a` (degree 2)."""
    grid = Grid(tuple(Axis(n, 4 + k, 0.5, 2.0 + k) for k, n in enumerate("xyz"[:dim])))
    slope = np.array([1.0, -2.0, 0.5])[:dim]
    q = degree - 1  # u = slope . x + q sum(x^2), a = 1 + x_1, c = 0

    def column(x):
        return slope.reshape(-1, *(1,) * (x.ndim - 1))

    def u(x):
        return (column(x) * x).sum(axis=0) + q * (x**2).sum(axis=0)

    def f(x):
        return -(1 + x[0]) * 2 * q * dim - (slope[0] + 2 * q * x[0])

    def flux(x):  # upper side of the first axis
        return (1 + x[0]) * (slope[0] + 2 * q * x[0])

    x = np.stack(grid.meshgrid())
    sides = {(k, s): u for k in range(dim) for s in (0, 1)}
    sides[0, 1] = flux
    result = solve_diffusion_fenicsx(
        1 + x[0], f(x), grid, degree=degree, cell=cell, boundary_values=sides,
        boundary=[("dirichlet", "neumann"), "dirichlet", "dirichlet"][:dim],
        algebra="cholesky", rtol=1e-11, exact=u,
    )  # fmt: skip
    scale = np.abs(u(x)).max()
    assert np.abs(result.x - u(x)).max() < 1e-12 * scale
    assert result.info["h1_error"] < 1e-11 * scale
