"""Diffusion with a full tensor."""

import re

import numpy as np
import pytest

from solvers.diffusion import solve_diffusion
from solvers.finite_volume import Robin
from solvers.grids import Grid
from solvers.result import SolverUnavailable
from solvers.tensor_diffusion import check_tensor, solve_tensor_diffusion
from solvers.verify import l2_error, manufactured_diffusion, observed_order


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "robin", "mixed", "periodic"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_isotropic_tensors_are_the_scalar_equation(kind, dim):
    pair = ("dirichlet", "neumann") if kind == "mixed" else (kind, kind)
    ms = manufactured_diffusion(dim, boundary=[pair] * dim)
    free = kind in ("neumann", "periodic")
    errors, spacings = [], []
    for n in (9, 17, 33) if dim < 3 else (5, 9, 13):
        grid = Grid.unit(n - free * (kind == "periodic"), dim=dim, periodic=kind == "periodic")
        data = ms.fields(grid)
        r = solve_tensor_diffusion(
            data["a"][..., None, None] * np.eye(dim), data["f"], grid, boundary=ms.boundary,
            boundary_values=ms.boundary_values(grid), singular="project",
        )  # fmt: skip
        errors.append(l2_error(r.x, ms.solution, grid, relative=True, free_constant=free))
        spacings.append(grid.spacing[0])
    # on 5^3 points the solution is hardly resolved
    assert abs(observed_order(errors, spacings) - 2) < (0.2 if dim < 3 else 0.4)


def test_agrees_with_finite_volumes_along_the_axes():
    grid = Grid.unit(65)
    x, y = grid.meshgrid()
    a, b = 1 + 0.5 * np.sin(3 * x), 0.2 + 0.1 * np.cos(2 * y)
    tensor = np.zeros((65, 65, 2, 2))
    tensor[..., 0, 0], tensor[..., 1, 1] = a, b
    sides = [("dirichlet", "robin"), ("neumann", "dirichlet")]
    values = {(0, 1): Robin(2.0, 1.0, 0.5), (1, 0): 0.3}
    u = solve_tensor_diffusion(tensor, 1.0, grid, boundary=sides, boundary_values=values, degree=2)
    v = solve_diffusion((a, b), 1.0, grid, boundary=sides, boundary_values=values, solver="direct")
    assert grid.norm(u.x - v.x) / grid.norm(u.x) < 5e-4


def test_agrees_with_fenicsx_on_another_mesh():
    """The integral of the solution, from triangles of degree 2 that know nothing of the grid."""
    from solvers.fenicsx import Diffusion, triangulate
    from solvers.fenicsx.geometry import rectangle

    A = np.array([[1.0, 0.6], [0.6, 0.5]])
    try:
        mesh = triangulate(rectangle(), 0.05)
        solver = Diffusion(mesh, degree=2, tensor=True)
    except SolverUnavailable as e:
        pytest.skip(str(e))
    u = solver.solve(lambda x: np.broadcast_to(A[:, :, None], (2, 2, x.shape[1])), 1.0).x
    theirs = float(mesh.mesh(degree=2).point_weights @ u)
    assert len(u) > len(mesh.points)  # of degree 2
    grid = Grid.unit(65)
    ours = float(np.sum(grid.weights * solve_tensor_diffusion(A, 1.0, grid, degree=4).x))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_balance_of_flow():
    """Robin sides let out what the source puts in."""
    A = np.array([[1.0, 0.6], [0.6, 0.5]])
    grid = Grid.unit(17)
    values = {(k, s): Robin(0.7) for k in (0, 1) for s in (0, 1)}
    u = solve_tensor_diffusion(A, 2.0, grid, boundary="robin", boundary_values=values).x
    w = grid.axes[0].weights
    out = 0.7 * sum(w @ np.take(u, -s, axis=k) for k in (0, 1) for s in (0, 1))
    assert out == pytest.approx(2.0, rel=1e-10)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.eye(3), "tensor has shape (3, 3), expected (9, 9, 2, 2) or (2, 2)"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "tensor must be symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "tensor must be positive definite, its lowest"),
        (np.array([[np.nan, 0.0], [0.0, 1.0]]), "tensor holds NaN"),
    ],
)
def test_bad_tensors_are_named(tensor, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_tensor(tensor, Grid.unit(9))
    with pytest.raises(ValueError, match="integrate to 1"):
        solve_tensor_diffusion(np.eye(2), 1.0, Grid.unit(9), boundary="neumann")
