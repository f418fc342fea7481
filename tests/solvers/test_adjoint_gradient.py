"""The coefficient-to-sensor map: its gradient against finite differences, solvers, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from solvers import Grid, point_sensors, solve_diffusion
from solvers.adjoint import CoefficientToSensors, face_products
from solvers.finite_volume import discretize
from solvers.grids import Axis

MIXED = {
    "boundary": [("dirichlet", "neumann"), "neumann"],
    "boundary_values": {(0, 0): 2.0, (0, 1): 1.0, (1, 0): -0.5},
    "reaction": 3.0,
}
NODES = Grid.unit((9, 8), dim=2)
STRIP = Grid((Axis("x", 7, 0.0, 1.0), Axis("y", 6, 0.0, 1.0, periodic=True)))
CELLS = Grid((Axis("x", 7, 0.0, 1.0), Axis("y", 6, 0.0, 2.0, location="cell_center")))
CASES = {
    "direct": (NODES, {"solver": "direct"}),
    "structured": (NODES, {"solver": "structured"}),
    "arithmetic": (NODES, {"average": "arithmetic"}),
    "mixed sides and reaction": (NODES, MIXED),
    "periodic": (STRIP, {"boundary": ["dirichlet", "periodic"]}),
    "cells with neumann sides": (CELLS, {"boundary": ["dirichlet", "neumann"]}),
    "1-D": (Grid.unit(12, dim=1), {}),
    "3-D": (Grid.unit((5, 4, 5), dim=3), {"boundary_values": 1.0}),
    "fenicsx": (NODES, {"solver": "fenicsx"}),
    "fenicsx, mixed sides and reaction": (NODES, {"solver": "fenicsx", **MIXED}),
    "fenicsx 3-D": (Grid.unit((4, 4, 4), dim=3), {"solver": "fenicsx"}),
}


def build(case: str) -> tuple[CoefficientToSensors, np.ndarray, np.ndarray]:
    grid, options = CASES[case]
    if options.get("solver") == "fenicsx":
        pytest.importorskip("dolfinx_solver")
    rng = np.random.default_rng(0)
    low = [a.coords[0] for a in grid.axes]
    high = [a.coords[-1] for a in grid.axes]
    sensors = point_sensors(grid, rng.uniform(low, high, (10, grid.dim)))
    G = CoefficientToSensors(
        grid, sensors, forcing=3.0 + rng.standard_normal(grid.shape), **options
    )
    return G, 0.7 * rng.standard_normal(grid.shape), G.apply(rng.standard_normal(grid.shape))


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_finite_differences_at_every_point(case: str) -> None:
    G, m, y = build(case)
    found = G.misfit(m, y)
    h = 1e-3

    def value(k: tuple[int, ...], step: float) -> float:
        shifted = m.copy()
        shifted[k] += step
        return G.misfit(shifted, y).value

    slopes = np.zeros(m.shape)
    for k in np.ndindex(m.shape):  # fourth order
        slopes[k] = (8 * (value(k, h) - value(k, -h)) - (value(k, 2 * h) - value(k, -2 * h))) / (
            12 * h
        )
    assert np.linalg.norm(found.gradient - slopes) < 1e-7 * np.linalg.norm(slopes)
    assert found.residual < 1e-10 and found.adjoint_residual < 1e-10
    assert found.value == pytest.approx(0.5 * np.sum((G.apply(m) - y) ** 2), rel=1e-10)


def test_solution_is_that_of_the_solver() -> None:
    m = np.random.default_rng(1).standard_normal(NODES.shape)
    G = CoefficientToSensors(NODES, point_sensors(NODES, np.array([[0.3, 0.4]])))
    u = solve_diffusion(np.exp(m), 1.0, NODES, rtol=1e-12).x
    assert np.allclose(G.solve(m), u, rtol=0, atol=1e-12)
    assert np.allclose(G.apply(m), G.sensors @ u.ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", ["harmonic", "arithmetic"])
def test_face_products_are_the_derivative_of_the_matrix(average: str) -> None:
    """Against the difference of two assembled matrices, with boundary nodes at 0."""
    rng = np.random.default_rng(2)
    a = np.exp(rng.standard_normal(NODES.shape))
    p, u = (np.pad(rng.standard_normal((7, 6)), 1) for _ in range(2))
    found = face_products(p, u, a, NODES, average=average)
    inner = (slice(1, -1),) * 2
    for k in [(0, 3), (4, 4), (8, 7), (1, 1)]:
        h = 1e-5 * a[k]
        values = []
        for s in (h, -h):
            b = a.copy()
            b[k] += s
            A = discretize(b, 0.0, NODES, average=average).matrix()
            values.append(float(p[inner].ravel() @ (A @ u[inner].ravel())))
        assert found[k] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6, abs=1e-9)


def test_data_that_fit_have_no_gradient() -> None:
    G, m, _ = build("direct")
    found = G.misfit(m, G.apply(m))
    assert found.value < 1e-25
    assert np.abs(found.gradient).max() < 1e-12


def test_elements_and_volumes_agree_on_a_smooth_coefficient() -> None:
    """Two discretizations of one problem: values and gradients (a density) agree to their order."""
    pytest.importorskip("dolfinx_solver")
    gaps = []
    centers = np.random.default_rng(3).uniform(0.2, 0.8, (20, 2))
    for n in (17, 33):
        grid = Grid.unit((n, n), dim=2)
        x, y = grid.meshgrid()
        m = np.sin(3 * x) * np.cos(2 * y)
        # wide sensors: the adjoint of a point is singular there
        away = [(x - c[0]) ** 2 + (y - c[1]) ** 2 for c in centers]
        sensors = np.stack([(grid.weights * np.exp(-50 * d)).ravel() for d in away])
        data = 0.9 * CoefficientToSensors(grid, sensors).apply(m)
        found = [
            CoefficientToSensors(grid, sensors, solver=s).misfit(m, data).gradient / grid.weights
            for s in ("direct", "fenicsx")
        ]
        gap = (found[0] - found[1])[2:-2, 2:-2]
        gaps.append(np.sqrt(np.mean(gap**2) / np.mean(found[0] ** 2)))
    assert gaps[1] < 0.01
    assert gaps[1] < 0.35 * gaps[0]  # second order: 1/4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lu"}, "solver"),
        ({"average": "mean"}, "average"),
        ({"boundary": "neumann"}, "need a Dirichlet side"),
        ({"boundary": ["dirichlet", ("dirichlet", "robin")]}, r"boundary\[1\]='robin'"),
    ],
)
def test_bad_options_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        CoefficientToSensors(NODES, point_sensors(NODES, np.array([[0.3, 0.4]])), **options)
    assert "\n" not in str(e.value)


def test_bad_arrays_are_one_line() -> None:
    G, m, y = build("direct")
    with pytest.raises(ValueError, match=r"sensors have shape \(10, 72\), expected"):
        CoefficientToSensors(Grid.unit((9, 9), dim=2), G.sensors)
    with pytest.raises(ValueError, match=r"log_a has shape \(3, 3\), expected \(9, 8\)"):
        G.apply(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"data has shape \(9,\), expected \(10,\)"):
        G.misfit(m, y[:9])
    with pytest.raises(ValueError, match="data holds NaN"):
        G.misfit(m, np.full(10, np.nan))
    m[0, 0] = np.inf
    with pytest.raises(ValueError, match="log_a holds NaN or infinity"):
        G.misfit(m, y)
