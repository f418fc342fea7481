"""The Helmholtz solver against waves in closed form."""

import re

import numpy as np
import pytest

from solvers.finite_volume import Robin
from solvers.grids import Axis, Grid
from solvers.helmholtz import points_per_wavelength, solve_helmholtz
from solvers.result import SolverDidNotConverge
from solvers.verify import observed_order


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_plane_wave_through_impedance_sides(dim):
    k, d = 6.0, np.array([0.6, 0.64, 0.48])[:dim]
    d /= np.linalg.norm(d)
    grid = Grid.unit(25 if dim < 3 else 9, dim=dim)
    phase = sum(a * x for a, x in zip(d, grid.meshgrid(), strict=True))
    exact = np.exp(1j * k * phase)
    values = {
        (i, s): 1j * k * ((2 * s - 1) * d[i] - 1) * np.take(exact, -s, axis=i)
        for i in range(dim) for s in (0, 1)
    }  # fmt: skip
    r = solve_helmholtz(k, 0.0, grid, boundary="impedance", boundary_values=values)
    assert np.abs(r.x - exact).max() < (1e-4 if dim < 3 else 5e-3)
    assert r.residual < 1e-12 and r.info["degree"] == 4


@pytest.mark.parametrize(
    "sides", [("dirichlet", "neumann"), ("robin", "dirichlet"), ("neumann", "robin")]
)
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_orders_between_walls_with_variable_wave_number(sides, degree):
    errors, spacings = [], []
    for n in (25, 37, 61):
        grid = Grid((Axis("x", n, 0.0, 1.0), Axis("y", n, 0.0, 0.5)))
        x, y = grid.meshgrid()
        k = 8.0 + np.sin(2 * x + y)
        u = np.sin(3 * x + 0.4) * np.cos(2 * y)
        slopes = (3 * np.cos(3 * x + 0.4) * np.cos(2 * y), -2 * np.sin(3 * x + 0.4) * np.sin(2 * y))
        values = {}
        for i, slope in enumerate(slopes):
            for s, kind in enumerate(sides):
                du = (2 * s - 1) * np.take(slope, -s, axis=i)
                trace = np.take(u, -s, axis=i)
                values[i, s] = {
                    "dirichlet": trace, "neumann": du, "robin": Robin(0.7, 1.0, du + 0.7 * trace)
                }[kind]  # fmt: skip
        r = solve_helmholtz(
            k, (13 - k**2) * u, grid, boundary=[sides, sides], boundary_values=values, degree=degree
        )
        assert r.x.dtype == np.float64
        errors.append(grid.norm(r.x - u))
        spacings.append(grid.spacing[0])
    # even degrees gain at the nodes of uniform grids
    p = observed_order(errors, spacings)
    assert degree + 1 - 0.25 < p < degree + 3.2


def test_modes_of_walls_and_rings():
    grid = Grid.unit(33, dim=2)
    x, y = grid.meshgrid()
    mode = np.cos(2 * np.pi * x) * np.cos(np.pi * y)
    r = solve_helmholtz(12.0, (5 * np.pi**2 - 144) * mode, grid)
    np.testing.assert_allclose(r.x, mode, atol=2e-5)
    ring = Grid.unit(32, dim=2, periodic=True)
    x, y = ring.meshgrid()
    wave = np.exp(2j * np.pi * (x - 2 * y))
    r = solve_helmholtz(5.0, (20 * np.pi**2 - 25) * wave, ring, boundary="periodic")
    np.testing.assert_allclose(r.x, wave, atol=2e-4)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_layers_absorb_in_one_dimension(degree):
    """A point-like source between layers sends waves both ways and gets none back."""
    k, w = 30.0, 0.02
    grid = Grid.unit(161, dim=1)
    x = grid.coords[0]
    f = np.exp(-((x - 0.5) ** 2) / (2 * w * w)) / (w * np.sqrt(2 * np.pi))
    u = solve_helmholtz(k, f, grid, boundary="pml", degree=degree, pml_cells=32).x
    far = np.abs(x - 0.5) > 0.2
    exact = 0.5j / k * np.exp(1j * k * np.abs(x - 0.5)) * np.exp(-((k * w) ** 2) / 2)
    error = np.abs(u - exact)[far].max() / np.abs(exact[far]).max()
    assert error < {1: 0.05, 2: 1e-3, 4: 1e-4}[degree]


def test_layers_may_stand_beside_walls():
    """A mode of a duct runs out through a layer at one end."""
    k, grid = 12.0, Grid((Axis("x", 65, 0.0, 2.0), Axis("y", 33)))
    x, y = grid.meshgrid()
    kx = np.sqrt(k**2 - np.pi**2)
    exact = np.exp(1j * kx * x) * np.cos(np.pi * y)
    u = solve_helmholtz(
        k, 0.0, grid, boundary=[("dirichlet", "pml"), "neumann"],
        boundary_values={(0, 0): exact[0]}, pml_cells=24,
    ).x  # fmt: skip
    assert np.abs(u - exact).max() < 1e-3


def test_symmetry_of_source_and_receiver():
    grid = Grid.unit(17, dim=2)
    rng = np.random.default_rng(0)
    k = 10 + rng.random(grid.shape)
    f, g = (np.zeros(grid.shape) for _ in range(2))
    f[3, 4], g[12, 8] = 1.0, 1.0
    u, v = (solve_helmholtz(k, s, grid, boundary="impedance").x for s in (f, g))
    # int f v = int g u with the elements' quadrature
    from solvers.elements import Elements

    e = Elements(grid, 4)
    assert np.sum(e.load(g) * u) == pytest.approx(np.sum(e.load(f) * v), rel=1e-10)


def test_a_resonance_is_no_solution():
    from scipy.linalg import eigh

    from solvers.elements import Elements

    grid = Grid.unit(9, dim=1)
    e = Elements(grid, 4)
    values = eigh(e.stiffness(1.0).toarray(), e.mass(1.0).toarray(), eigvals_only=True)
    k = float(np.sqrt(values[1]))
    with pytest.raises(SolverDidNotConverge, match="resonance"):
        for _ in range(3):  # to rounding, k^2 is the eigenvalue of the discrete problem
            solve_helmholtz(k, grid.coords[0], grid, rtol=1e-15)


def test_points_per_wavelength():
    assert points_per_wavelength(2 * np.pi, Grid.unit(11)) == pytest.approx(10.0)
    assert points_per_wavelength(0.0, Grid.unit(11)) == np.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 90.0}, "k=90: the grid has 2.2 points per wavelength"),
        ({"k": -1.0}, "k must be real and not negative"),
        ({"k": np.ones(3)}, "k has shape (3,), expected (33, 33)"),
        ({"f": np.nan}, "f holds NaN"),
        ({"boundary": "open"}, "boundary"),
        ({"boundary": "periodic"}, "the grid's periodic=False"),
        ({"boundary": "pml", "pml_cells": 6}, "pml_cells=6: need a positive multiple of degree=4"),
        ({"boundary": "pml", "boundary_values": 1.0}, "a 'pml' side takes no value"),
        ({"boundary": "robin"}, "a 'robin' side needs (alpha, beta, g)"),
        ({"boundary_values": {(2, 0): 1.0}}, "boundary_values has the key (2, 0)"),
        ({"boundary_values": {(0, 0): np.ones(4)}}, "got shape (4,)"),
        ({"degree": 3}, "degree=3"),
        ({"rtol": 2.0}, "rtol=2.0"),
    ],
)
def test_bad_input_is_named_in_one_line(options, message):
    options = {"k": 10.0, "f": 1.0, **options}
    k, f = options.pop("k"), options.pop("f")
    with pytest.raises(ValueError, match=re.escape(message)) as e:
        solve_helmholtz(k, f, Grid.unit(33), **options)
    assert "\n" not in str(e.value)
