"""Finite volumes and elements for convection and diffusion."""

import re

import numpy as np
import pytest

from solvers.convection_diffusion import (
    SCHEMES,
    bernoulli,
    cell_peclet,
    imbalance,
    solve_convection_diffusion,
)
from solvers.finite_volume import Robin
from solvers.grids import Grid


def test_bernoulli_function():
    z = np.array([-800.0, -50.0, -1.0, -1e-5, 0.0, 1e-5, 1.0, 50.0, 800.0])
    exact = [800.0, 50.0, 1 / (1 - np.exp(-1.0)), 1.000005, 1.0, 0.999995, 1 / np.expm1(1.0)]
    np.testing.assert_allclose(bernoulli(z)[:7], exact, rtol=1e-9)
    assert 0 < bernoulli(z)[7] < 1e-19 and bernoulli(z)[8] < 1e-300
    np.testing.assert_allclose(bernoulli(-z[2:7]), bernoulli(z[2:7]) + z[2:7], rtol=1e-12)


@pytest.mark.parametrize("eps", [1.0, 0.05, 0.003])
@pytest.mark.parametrize("b", [1.0, -2.0])
def test_one_dimension_is_exact_at_the_nodes(eps, b):
    grid = Grid.unit(14, dim=1)
    x = grid.coords[0]
    r = solve_convection_diffusion(
        eps, (b,), 3.0, grid, boundary_values={(0, 0): 0.5, (0, 1): -1.0}
    )
    # u = 3 x / b + p + q (e^(b x / eps) - 1) / (e^(b / eps) - 1)
    s = b / eps
    layer = (
        np.exp(s * (x - 1)) * np.expm1(-s * x) / np.expm1(-s) if s > 0
        else np.expm1(s * x) / np.expm1(s)
    )  # fmt: skip
    exact = 3 * x / b + 0.5 + (-1.5 - 3 / b) * layer
    np.testing.assert_allclose(r.x, exact, atol=1e-11)


@pytest.mark.parametrize("scheme", ["exponential", "central", "upwind"])
def test_equals_a_loop_over_the_faces(scheme):
    """Every entry of the equations, in 2-D with all kinds of sides."""
    rng = np.random.default_rng(0)
    grid = Grid.unit((4, 5))
    h, w = grid.spacing, [a.weights for a in grid.axes]
    eps, c, f = 0.5 + rng.random(grid.shape), rng.random(grid.shape), rng.random(grid.shape)
    b = [rng.standard_normal(grid.shape) for _ in range(2)]
    sides = [("dirichlet", "neumann"), ("robin", "neumann")]
    values = {(0, 0): rng.random(5), (0, 1): 0.3, (1, 0): Robin(2.0, 0.5, rng.random(4)),
              (1, 1): rng.random(4)}  # fmt: skip
    weight = {
        "exponential": lambda p: p / np.expm1(p), "central": lambda p: 1 - p / 2,
        "upwind": lambda p: 1 + max(-p, 0.0),
    }[scheme]  # fmt: skip
    A, rhs = np.zeros((20, 20)), np.zeros(20)
    for i, j in np.ndindex(4, 5):
        row = 5 * i + j
        if i == 0:
            A[row, row], rhs[row] = 1.0, values[0, 0][j]
            continue
        A[row, row] += w[0][i] * w[1][j] * c[i, j]
        rhs[row] += w[0][i] * w[1][j] * f[i, j]
        for k, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            p, q = (i + step, j) if k == 0 else (i, j + step)
            area = w[1 - k][(i, j)[1 - k]]
            if 0 <= p < 4 and 0 <= q < 5:
                e = 2 / (1 / eps[i, j] + 1 / eps[p, q])
                peclet = step * (b[k][i, j] + b[k][p, q]) / 2 * h[k] / e
                conductance = area * e / h[k] * weight(peclet)
                A[row, row] += conductance
                A[row, 5 * p + q] -= conductance
            elif (k, step) == (1, -1):
                A[row, row] += area * 2.0 / 0.5
                rhs[row] += area * values[1, 0].g[i] / 0.5
            else:
                flux = values[k, 1]
                rhs[row] += area * (flux if np.isscalar(flux) else flux[i])
    r = solve_convection_diffusion(
        eps, b, f, grid, boundary=sides, boundary_values=values, reaction=c, scheme=scheme
    )
    np.testing.assert_allclose(r.x.ravel(), np.linalg.solve(A, rhs), rtol=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_maximum_principle_at_any_peclet_number(dim, seed):
    rng = np.random.default_rng(seed)
    grid = Grid.unit(7, dim=dim)
    velocity = [100 * v for v in rng.standard_normal(dim)]
    if dim > 1:  # eddies on top, free of divergence
        x, y = grid.meshgrid()[:2]
        velocity[0] = velocity[0] + 80 * np.sin(np.pi * x) * np.cos(np.pi * y)
        velocity[1] = velocity[1] - 80 * np.cos(np.pi * x) * np.sin(np.pi * y)
    values = {(k, s): rng.random(grid.shape[1:]) for k in range(dim) for s in (0, 1)}
    r = solve_convection_diffusion(1e-2, velocity, 0.0, grid, boundary_values=values)
    assert r.info["cell_peclet"] > 100
    assert -1e-12 <= r.x.min() and r.x.max() <= 1 + 1e-12
    one = solve_convection_diffusion(1e-2, velocity, 0.0, grid, boundary_values=1.0)
    np.testing.assert_allclose(one.x, 1.0, atol=1e-10)  # constants, whatever the velocity


def test_a_point_without_inflow_is_refused():
    grid = Grid.unit(9, dim=1)
    x = grid.coords[0]
    with pytest.raises(ValueError, match="velocity leaves a point on all sides"):
        solve_convection_diffusion(1e-3, (np.sign(x - 0.5),), 0.0, grid, boundary_values=1.0)


def test_iterations_and_factorization_agree():
    grid = Grid.unit(11, dim=3)
    x, y, z = grid.meshgrid()
    b = (y - 0.5, 0.5 - x, 0.3 + 0 * z)
    a = solve_convection_diffusion(0.05, b, 1.0, grid, solver="direct")
    r = solve_convection_diffusion(0.05, b, 1.0, grid, solver="ilu")
    assert r.iterations > 0 and r.residual <= 1e-10
    np.testing.assert_allclose(r.x, a.x, atol=1e-8 * a.x.max())


def test_elements_and_volumes_converge_to_each_other():
    gaps = []
    for n in (17, 33, 65):
        grid = Grid.unit(n)
        x, y = grid.meshgrid()
        b = (np.sin(np.pi * x) * np.cos(np.pi * y), -np.cos(np.pi * x) * np.sin(np.pi * y))
        solutions = [
            solve_convection_diffusion(0.1, b, 1.0, grid, scheme=s).x
            for s in ("central", "galerkin")
        ]
        gaps.append(grid.norm(solutions[0] - solutions[1]) / grid.norm(solutions[1]))
    assert gaps[-1] < 1e-3
    assert np.all(np.abs(np.log2(np.divide(gaps[:-1], gaps[1:])) - 2) < 0.2)


def test_balance_of_source_and_outflow():
    losses = []
    for n in (33, 65, 129):
        grid = Grid.unit(n)
        x, y = grid.meshgrid()
        b = (0.5 + np.sin(np.pi * x) * np.cos(np.pi * y), -np.cos(np.pi * x) * np.sin(np.pi * y))
        r = solve_convection_diffusion(0.2, b, 1.0, grid, scheme="central")
        losses.append(abs(imbalance(r.x, 0.2, b, 1.0, grid)))
    assert losses[-1] < 2e-3 and losses[0] / losses[-1] > 8  # order above 1.5: corners


def test_cell_peclet_number():
    assert cell_peclet((2.0, -3.0), 0.5, Grid.unit((11, 21))) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, "must be positive"),
        ({"velocity": (1.0,)}, "velocity has 1 entries, expected 2"),
        ({"velocity": (1.0, np.inf)}, "velocity[1] holds NaN or infinity"),
        ({"scheme": "centered"}, "scheme"),
        ({"eps": 0.01, "scheme": "central"}, "scheme='central': the cell Peclet number is 12.5"),
        ({"boundary": "neumann"}, "give a reaction > 0"),
        ({"reaction": -1.0}, "reaction must not be negative"),
        ({"solver": "amg"}, "solver"),
        ({"rtol": 0.0}, "rtol=0.0"),
    ],
)
def test_bad_input_is_named_in_one_line(options, message):
    options = {"eps": 0.1, "velocity": (1.0, 0.0), "f": 1.0, "grid": Grid.unit(9), **options}
    with pytest.raises(ValueError, match=re.escape(message)) as e:
        solve_convection_diffusion(
            options.pop("eps"), options.pop("velocity"), options.pop("f"), options.pop("grid"),
            **options,
        )  # fmt: skip
    assert "\n" not in str(e.value)
    assert SCHEMES[0] == "exponential"
