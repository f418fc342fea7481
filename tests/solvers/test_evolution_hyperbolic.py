import numpy as np
import pytest

from solvers import Axis, Grid, SolverDidNotConverge
from solvers.evolution import (
    advect_exactly,
    dam_break_1d,
    solve_advection,
    solve_shallow_water,
    solve_wave,
)
from solvers.verify import observed_order


def cells(*shape, lower=-1.0, upper=1.0, periodic=False):
    return Grid(
        tuple(
            Axis(a, n, lower, upper, location="cell_center", periodic=periodic)
            for a, n in zip("xy", shape, strict=False)
        )
    )


# -- waves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["spectral", "finite_volume"])
@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("walls", ["neumann", "dirichlet", "periodic", "mixed"])
def test_wave_equals_the_exponential_of_its_matrix(walls, location, space):
    """cos(t sqrt(-A)) u0 + sin(t sqrt(-A))/sqrt(-A) v0, with A taken column by column."""
    from solvers.evolution.wave import _operator

    rng = np.random.default_rng(0)
    periodic = walls == "periodic"
    grid = Grid((Axis("x", 9, location=location, periodic=periodic),))
    kinds = (("dirichlet", "neumann"),) if walls == "mixed" else ((walls, walls),)
    c = 1 + 0.3 * rng.random(9)
    a, volume, inside = _operator(c**2, grid, kinds, space)
    n = volume.size
    matrix = np.stack([a(e) for e in np.eye(n)], axis=1)
    weighted = volume[:, None] * matrix
    np.testing.assert_allclose(weighted, weighted.T, atol=1e-9 * np.abs(weighted).max())
    root = np.sqrt(volume)
    values, vectors = np.linalg.eigh(root[:, None] * matrix / root)
    assert values.max() < 1e-9 * abs(values.min())
    omega = np.sqrt(np.maximum(-values, 0))
    u0, v0 = np.zeros(9), np.zeros(9)
    u0[inside], v0[inside] = rng.standard_normal(n), rng.standard_normal(n)
    times = np.array([0.0, 0.07, 0.2])
    r = solve_wave(u0, times, grid, speed=c, v0=v0, boundary=list(kinds), space=space, rtol=1e-8)
    p, q = vectors.T @ (root * u0[inside]), vectors.T @ (root * v0[inside])
    for t, x in zip(times, r.x, strict=True):
        s = t * np.sinc(omega * t / np.pi)  # sin(omega t)/omega
        truth = vectors @ (np.cos(omega * t) * p + s * q) / root
        np.testing.assert_allclose(x[inside], truth, atol=3e-7)
    # energy is checked anew where the step changes; uniform times conserve it throughout
    assert r.info["energy_drift"] < 1e-10


def test_wave_in_two_dimensions_conserves_energy():
    grid = Grid.unit(24)
    x, y = grid.meshgrid()
    c = 1 + 0.3 * np.cos(np.pi * x) * np.cos(2 * np.pi * y)
    u0 = np.cos(np.pi * x) + np.cos(3 * np.pi * y)
    for space in ("spectral", "finite_volume"):
        r = solve_wave(u0, np.linspace(0, 2, 5), grid, speed=c, space=space)
        assert r.info["energy_drift"] < 1e-11 and r.info["time_error"] <= 1e-6
        mean = np.sum(grid.weights * r.x, axis=(1, 2))
        np.testing.assert_allclose(mean, mean[0], atol=1e-11)


def test_wave_refuses_unstable_steps():
    grid = Grid.unit(17, dim=1)
    with pytest.raises(ValueError, match=r"dt=1\.0: unstable"):
        solve_wave(np.ones(17), [0, 1.0], grid, dt=1.0)
    with pytest.raises(ValueError, match="speed must be positive"):
        solve_wave(np.ones(17), [0, 1.0], grid, speed=-1.0)


# -- shallow water ---------------------------------------------------------------------------------


def test_stoker_solution_obeys_the_jump_conditions():
    g, left, right = 9.81, 3.0, 1.0
    x = np.linspace(-1, 1, 200001)
    h, u = dam_break_1d(x, 0.1, left=left, right=right, gravity=g)
    jump = np.argmax(np.abs(np.diff(h)))
    h1, u1 = h[jump], u[jump]
    speed = x[jump] / 0.1
    assert abs(speed * (h1 - right) - h1 * u1) < 1e-3
    momentum = h1 * u1**2 + 0.5 * g * (h1**2 - right**2)
    assert abs(speed * h1 * u1 / momentum - 1) < 1e-4
    fan = (u > 1e-9) & (h > h1 + 1e-9)
    np.testing.assert_allclose((u + 2 * np.sqrt(g * h))[fan], 2 * np.sqrt(g * left), rtol=1e-12)


def test_dam_break_converges_to_stoker():
    errors, spacing = [], []
    for n in (100, 200, 400):
        grid = cells(n)
        x = grid.coords[0]
        r = solve_shallow_water(np.where(x < 0, 3.0, 1.0), [0, 0.1], grid)
        h, u = dam_break_1d(x, 0.1, left=3.0, right=1.0)
        gap = np.abs(r.x[1, 0] - h) + np.abs(r.x[1, 1] - h * u)
        errors.append(np.sum(grid.weights * gap))
        spacing.append(grid.spacing[0])
    assert abs(observed_order(errors, spacing) - 1) < 0.2


def test_rows_of_two_dimensions_equal_one_dimension():
    line = cells(40)
    x = line.coords[0]
    h = 1 + 0.3 * np.exp(-20 * x**2)
    one = solve_shallow_water(h, [0, 0.2], line, courant=0.2)
    flat = solve_shallow_water(
        np.repeat(h[:, None], 8, axis=1), [0, 0.2], cells(40, 8), courant=0.2
    )
    # time steps differ; both errors in time are below this
    np.testing.assert_allclose(flat.x[1, 0, :, 3], one.x[1, 0], atol=2e-4)
    turned = solve_shallow_water(
        np.repeat(h[None, :], 8, axis=0), [0, 0.2], cells(8, 40), courant=0.2
    )
    np.testing.assert_allclose(turned.x[1, 0], flat.x[1, 0].T, atol=1e-13)
    np.testing.assert_allclose(turned.x[1, 2], flat.x[1, 1].T, atol=1e-13)


@pytest.mark.parametrize("boundary", ["wall", "periodic"])
def test_mass_is_conserved_and_lakes_rest(boundary):
    grid = cells(20, 24, periodic=boundary == "periodic")
    rng = np.random.default_rng(0)
    bed = 0.5 * rng.random(grid.shape)
    still = solve_shallow_water(1.0 - bed, [0, 1.0], grid, bed=bed, boundary=boundary)
    assert np.abs(still.x[1, 1:]).max() < 1e-13
    np.testing.assert_allclose(still.x[1, 0] + bed, 1.0, atol=1e-13)
    h0 = 1.0 + rng.random(grid.shape)
    moving = solve_shallow_water(h0, [0, 0.5, 1.0], grid, bed=bed, boundary=boundary)
    assert moving.info["mass_drift"] < 1e-13


def test_dry_ground_stays_nonnegative():
    grid = cells(100)
    x = grid.coords[0]
    r = solve_shallow_water(np.where(x < 0, 1.0, 0.0), [0, 0.1], grid)
    assert r.x[:, 0].min() >= -1e-15
    # Ritter: depth 4/9 at the dam
    assert abs(r.x[1, 0, 49] - 4 / 9) < 0.02


def test_shallow_water_rtol_and_failures():
    grid = cells(60)
    h0 = 1 + 0.1 * np.sin(np.pi * grid.coords[0])
    assert solve_shallow_water(h0, [0, 0.3], grid, rtol=1e-7).info["time_error"] <= 1e-7
    with pytest.raises(SolverDidNotConverge, match="more than 3 steps"):
        solve_shallow_water(h0, [0, 0.3], grid, max_steps=3)
    with pytest.raises(ValueError, match="h0 must not be negative"):
        solve_shallow_water(-h0, [0, 0.3], grid)
    with pytest.raises(ValueError, match="cell_center"):
        solve_shallow_water(np.ones(5), [0, 1], Grid.unit(5, dim=1))
    with pytest.raises(ValueError, match=r"courant=0\.7"):
        solve_shallow_water(h0, [0, 0.3], grid, courant=0.7)
    with pytest.raises(ValueError, match="'wal'"):
        solve_shallow_water(h0, [0, 0.3], grid, boundary="wal")


# -- advection -------------------------------------------------------------------------------------


def test_characteristics_of_linear_speed():
    """a = 1 + x: x + 1 grows as exp(t), the inflow keeps its time."""
    grid = Grid.unit(41, dim=1)
    x, t = grid.coords[0], np.linspace(0, 1.5, 7)
    r = advect_exactly(
        lambda y: np.cos(y), t, grid, speed=lambda y: 1 + y, inflow=lambda s: np.exp(-s)
    )
    foot = (x + 1)[None] * np.exp(-t)[:, None] - 1
    truth = np.where(foot >= 0, np.cos(foot), np.exp(-(t[:, None] - np.log1p(x)[None])))
    np.testing.assert_allclose(r.x, truth, atol=1e-12)


def test_periodic_characteristics_return():
    grid = Grid.unit(40, dim=1, periodic=True)
    speed = lambda y: 1 / (1 + 0.5 * np.cos(2 * np.pi * y))  # noqa: E731  once around in time 1
    start = lambda y: np.sin(2 * np.pi * y) + np.cos(6 * np.pi * y)  # noqa: E731
    r = advect_exactly(start, [0.0, 0.4, 1.0, 7.0], grid, speed=speed)
    np.testing.assert_allclose(r.x[2], r.x[0], atol=1e-11)
    np.testing.assert_allclose(r.x[3], r.x[0], atol=1e-10)
    assert np.abs(r.x[1] - r.x[0]).max() > 0.5
    x = grid.coords[0]
    # travel time x + sin(2 pi x)/(4 pi): the value at (x, 0.4) was at y, tau(y) = tau(x) - 0.4
    from scipy.optimize import brentq

    tau = lambda y: y + np.sin(2 * np.pi * y) / (4 * np.pi)  # noqa: E731
    y = np.array([brentq(lambda y, w=w: tau(y) - w, -1, 1, xtol=1e-14) for w in tau(x) - 0.4])
    np.testing.assert_allclose(r.x[1], start(y), atol=1e-11)


def test_upwind_converges_to_the_characteristics():
    errors, spacing = [], []
    speed = lambda y: 1 + 0.3 * np.sin(3 * y)  # noqa: E731
    start = lambda y: (y * (1 - y)) ** 4 * 100  # noqa: E731
    for n in (51, 101, 201):
        grid = Grid.unit(n, dim=1)
        x = grid.coords[0]
        exact = advect_exactly(start, [0, 0.3, 0.6], grid, speed=speed)
        r = solve_advection(start(x), [0, 0.3, 0.6], grid, speed=speed(x))
        assert r.info["time_error"] <= 1e-6
        errors.append(grid.norm(r.x[-1] - exact.x[-1]))
        spacing.append(grid.spacing[0])
    assert abs(observed_order(errors, spacing) - 3) < 0.2


def test_speeds_that_stop_are_refused():
    grid = Grid.unit(11, dim=1)
    with pytest.raises(SolverDidNotConverge, match="speed must be positive"):
        advect_exactly(np.sin, [0, 1], grid, speed=lambda y: y - 0.5)
    with pytest.raises(SolverDidNotConverge, match="not smooth"):
        advect_exactly(np.sin, [0, 1], grid, speed=lambda y: 1 + (y > 0.3))
    with pytest.raises(ValueError, match="speed must be positive"):
        solve_advection(np.zeros(11), [0, 1], grid, speed=-1.0)
