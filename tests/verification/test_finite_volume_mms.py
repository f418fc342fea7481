"""Observed order of the finite volumes, by each solver, on manufactured solutions."""

from __future__ import annotations

import pytest

from solvers.diffusion import solve_diffusion
from solvers.grids import Axis, Grid
from solvers.verify import h1_error, l2_error, manufactured_diffusion, observed_order

D, N, P, R = "dirichlet", "neumann", "periodic", "robin"


def order(ms, sizes, location, solver, average="harmonic", reaction=False):
    l2, h1, h = [], [], []
    for n in sizes:
        grid = Grid(
            tuple(
                Axis(
                    name, round(n * (1 + 0.1 * k)), lo, hi, location=location,
                    periodic=pair[0] == P,
                )
                for k, (name, (lo, hi), pair) in enumerate(
                    zip("xyz", ms.bounds, ms.boundary, strict=False)
                )
            )
        )  # fmt: skip
        fields = ms.fields(grid)
        r = solve_diffusion(
            fields["a"], fields["f"], grid, boundary=ms.boundary,
            boundary_values=ms.boundary_values(grid), average=average, solver=solver,
            reaction=fields["c"] if reaction else None, singular="project",
        )  # fmt: skip
        free = not reaction and all(k not in (D, R) for pair in ms.boundary for k in pair)
        l2.append(l2_error(r.x, ms.solution, grid, free_constant=free))
        h1.append(h1_error(r.x, ms.solution, grid, free_constant=free))
        h.append(max(grid.spacing))
    return observed_order(l2, h), observed_order(h1, h)


@pytest.mark.parametrize("solver", ["structured", "pyamg", "direct"])
@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("boundary", [D, N, P, R, ((D, N), (N, R)), ((P, P), (R, N))], ids=str)
def test_second_order_in_2d(boundary, location, solver):
    ms = manufactured_diffusion(2, boundary=boundary, bounds=((0.0, 1.0), (-0.5, 1.0)))
    l2, _ = order(ms, (33, 65, 129), location, solver)
    assert abs(l2 - 2.0) < 0.2


@pytest.mark.parametrize("average", ["harmonic", "arithmetic"])
def test_averages_and_reaction(average):
    ms = manufactured_diffusion(2, boundary=((D, N), (D, D)), reaction=3.0)
    l2, h1 = order(ms, (33, 65, 129), "node", "structured", average, reaction=True)
    assert abs(l2 - 2.0) < 0.2
    assert abs(h1 - 2.0) < 0.2  # difference quotients at the points superconverge


@pytest.mark.parametrize("solver", ["structured", "pyamg", "direct"])
@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("pair", [(D, D), (N, N), (P, P), (R, R), (R, D), (N, R)], ids="-".join)
def test_second_order_in_1d(pair, location, solver):
    ms = manufactured_diffusion(1, boundary=(pair,), bounds=((-0.5, 1.0),))
    l2, h1 = order(ms, (33, 65, 129), location, solver)
    assert abs(l2 - 2.0) < 0.2
    assert abs(h1 - 2.0) < 0.2


@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize(
    "boundary", [D, N, P, R, ((D, N), (P, P), (D, D)), ((R, D), (N, R), (P, P))], ids=str
)
def test_second_order_in_3d(boundary, location):
    ms = manufactured_diffusion(3, boundary=boundary, bounds=((0.0, 1.0), (-0.5, 1.0), (0.0, 0.8)))
    assert abs(order(ms, (16, 24, 36), location, "structured")[0] - 2.0) < 0.2


@pytest.mark.parametrize("solver", ["pyamg", "direct"])
def test_second_order_in_3d_by_the_others(solver):
    ms = manufactured_diffusion(3, boundary=((R, N), (P, P), (D, D)))
    assert abs(order(ms, (10, 14, 20), "node", solver)[0] - 2.0) < 0.2


@pytest.mark.parametrize("average", ["harmonic", "arithmetic"])
@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("factors", [(1.0, 0.2), (1.0, 1e-3)])
def test_second_order_anisotropic_in_2d(factors, location, average):
    ms = manufactured_diffusion(2, boundary=((R, D), (N, R)), anisotropy=factors)
    for solver in ("structured", "pyamg"):
        assert abs(order(ms, (33, 65, 129), location, solver, average)[0] - 2.0) < 0.2


@pytest.mark.parametrize("location", ["node", "cell_center"])
def test_second_order_anisotropic_in_3d(location):
    ms = manufactured_diffusion(3, boundary=((R, D), N, (N, R)), anisotropy=(1.0, 0.2, 30.0))
    assert abs(order(ms, (16, 24, 36), location, "structured")[0] - 2.0) < 0.2


def test_three_solvers_agree_to_discretization_error():
    """FEniCSx and finite volumes differ by no more than their errors on smooth random data."""
    pytest.importorskip("dolfinx_solver")
    ms = manufactured_diffusion(2, boundary=D, variation=1.0)
    for n in (33, 65):
        grid = Grid.unit(n)
        fields = ms.fields(grid)
        values = ms.boundary_values(grid)
        x = {
            s: solve_diffusion(fields["a"], fields["f"], grid, boundary_values=values, solver=s).x
            for s in ("structured", "pyamg", "fenicsx")
        }
        error = {s: l2_error(x[s], ms.solution, grid) for s in x}
        assert grid.norm(x["structured"] - x["pyamg"]) < 1e-8 * grid.norm(x["pyamg"])
        assert grid.norm(x["structured"] - x["fenicsx"]) <= error["structured"] + error["fenicsx"]
