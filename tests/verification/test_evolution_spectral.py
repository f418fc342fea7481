"""Periodic problems against answers found in other ways, and their estimates against errors."""

import numpy as np
import pytest

from pde_data.problem import get_problem
from pde_data.problems._evolution import space_time_error
from pde_data.problems.burgers import cole_hopf, cole_hopf_2d
from solvers import Grid
from solvers.spectral import Fourier


class Given:
    """A function of space from a formula."""

    def __init__(self, function):
        self.function = function

    def __call__(self, grid):
        return self.function(grid)


@pytest.mark.parametrize("nu", [0.02, 0.05])
def test_burgers_estimate_on_three_meshes(nu):
    """Where space decides, and where time does: within a factor of two of the Cole-Hopf error."""
    inputs = {"u0": Given(lambda grid: cole_hopf(grid, 0.0, nu))}
    for n in (12, 16, 20, 64):
        problem = get_problem("burgers", viscosity=nu, t_end=1.0, n_times=11, max_tail=1.0)
        s = problem.solve(inputs, (n,), solver="spectral")
        truth = {"u": np.stack([cole_hopf(problem.grid((n,)), t, nu) for t in problem.times])}
        error = space_time_error(s.fields, truth, problem.grid((n,)), problem.times)
        estimate = problem.discretization_error(inputs, s, (n,), solver="spectral")
        assert 0.5 < estimate / error < 2.0, (n, estimate, error)


def test_burgers_2d_estimate():
    nu = 0.02

    def component(d):
        return Given(lambda grid: cole_hopf_2d(grid, 0.0, nu)[d])

    inputs = (component(0), component(1))
    for n in (8, 12, 16):
        problem = get_problem("burgers_2d", viscosity=nu, t_end=0.2, n_times=3, max_tail=1.0)
        grid = problem.grid((n, n))
        s = problem.solve(inputs, (n, n), solver="spectral")
        exact = np.stack([cole_hopf_2d(grid, t, nu) for t in problem.times])
        truth = {"u": np.moveaxis(exact, 1, -1)}
        error = space_time_error(s.fields, truth, grid, problem.times)
        estimate = problem.discretization_error(inputs, s, (n, n), solver="spectral")
        assert 0.5 < estimate / error < 2.0, (n, estimate, error)


def brute_force_transport(w, m):
    """-(u . grad w) on the unit torus: for each wave vector the sum over all pairs that make it.

    `w` maps (k, l) in -m..m to coefficients; a pair (p, q) gives
    -i 2 pi (u_p . q) w_q with u_p = i (p_y, -p_x) w_p / (2 pi |p|^2).
    """
    out = dict.fromkeys(w, 0j)
    for (px, py), wp in w.items():
        if (px, py) == (0, 0):
            continue
        u = 1j * np.array([py, -px]) * wp / (2 * np.pi * (px**2 + py**2))
        for (qx, qy), wq in w.items():
            s = (px + qx, py + qy)
            if max(abs(s[0]), abs(s[1])) <= m:
                out[s] += -2j * np.pi * (u[0] * qx + u[1] * qy) * wq
    return out


def test_navier_stokes_terms_equal_the_sum_over_triads():
    m = 3
    grid = Grid.unit(2 * m + 1, periodic=True)
    problem = get_problem("navier_stokes", forcing="none")
    space = Fourier(grid)
    w = space.coefficients(np.random.default_rng(0).standard_normal(grid.shape))
    full = {}
    for i, k in enumerate([*range(m + 1), *range(-m, 0)]):
        for j in range(m + 1):
            full[k, j] = w[i, j]
            full[-k, -j] = np.conj(w[i, j])
    truth = brute_force_transport(full, m)
    got = problem.nonlinear(space, None)(w, 0.0)
    for i, k in enumerate([*range(m + 1), *range(-m, 0)]):
        for j in range(m + 1):
            assert got[i, j] == pytest.approx(truth[k, j], abs=1e-12)


def test_turbulence_too_fine_for_the_grid_is_said_to_be_so():
    """nu = 1e-4 on 24 x 24: the estimate is near the distance to a four times finer solution."""
    problem = get_problem(
        "navier_stokes", viscosity=1e-4, t_end=2.0, n_times=3, max_tail=1.0, time_rtol=1e-5
    )
    inputs = problem.sample(np.random.default_rng(0))
    s = problem.solve(inputs, (24, 24), solver="spectral")
    estimate = problem.discretization_error(inputs, s, (24, 24), solver="spectral")
    fine = problem.solve(inputs, (96, 96), solver="spectral").fields["w"][:, ::4, ::4]
    error = space_time_error(s.fields, {"w": fine}, problem.grid((24, 24)), problem.times)
    assert error > 100 * problem.params.time_rtol  # it is the missing scales
    assert 0.5 < estimate / error < 2.0


def test_two_solitons_pass_through_each_other():
    """Hirota's two-soliton solution of u_t + 6 u u_x + u_xxx = 0."""
    a, b = 1.4, 0.9  # speeds a^2, b^2
    mix = ((a - b) / (a + b)) ** 2

    def exact(x, t):
        e = [np.exp(k * (x - x0) - k**3 * t) for k, x0 in ((a, -8.0), (b, 0.0))]
        f = 1 + e[0] + e[1] + mix * e[0] * e[1]
        f1 = a * e[0] + b * e[1] + (a + b) * mix * e[0] * e[1]
        f2 = a**2 * e[0] + b**2 * e[1] + (a + b) ** 2 * mix * e[0] * e[1]
        return 2 * (f2 / f - (f1 / f) ** 2)

    problem = get_problem("kdv", length=60.0)
    grid = problem.grid((256,))
    x = grid.axes[0].coords - 30.0
    t = 10.0  # the fast one starts 8 behind and ends 3 ahead
    r = problem.run(exact(x, 0.0), grid, [0.0, t], rtol=1e-8)
    assert np.abs(r.x[-1] - exact(x, t)).max() < 1e-6  # the tails of the slow one are e^-20


def test_linear_growth_of_kuramoto_sivashinsky_and_cahn_hilliard():
    """Small waves grow at the rate of the linear equation."""
    ks = get_problem("kuramoto_sivashinsky", length=20.0)
    grid = ks.grid((32,))
    q = 2 * np.pi / 20.0
    wave = np.cos(2 * q * grid.axes[0].coords)
    r = ks.run(1e-6 * wave, grid, [0.0, 5.0], rtol=1e-8)
    rate = (2 * q) ** 2 - (2 * q) ** 4
    np.testing.assert_allclose(r.x[-1], 1e-6 * np.exp(5 * rate) * wave, atol=1e-10)
    ch = get_problem("cahn_hilliard", dim=1, epsilon=0.1)
    grid, k = ch.grid((16,)), 2 * np.pi
    wave = np.cos(k * grid.axes[0].coords)
    r = ch.run(1e-6 * wave, grid, [0.0, 0.1], rtol=1e-8)
    rate = k**2 - 0.01 * k**4
    np.testing.assert_allclose(r.x[-1], 1e-6 * np.exp(0.1 * rate) * wave, rtol=1e-6, atol=1e-13)


def test_allen_cahn_front_is_stationary():
    """u = tanh(x / (sqrt(2) eps)), two of them so far apart that they do not feel each other."""
    eps = 0.015
    problem = get_problem("allen_cahn", dim=1, epsilon=eps)
    grid = problem.grid((256,))
    x = grid.axes[0].coords
    u = np.tanh((x - 0.25) / (np.sqrt(2) * eps)) - np.tanh((x - 0.75) / (np.sqrt(2) * eps)) - 1
    r = problem.run(u, grid, [0.0, 1.0], rtol=1e-8)
    # where the two halves meet the sum misses the solution by 2 exp(-sqrt(2) / (4 eps)) = 1e-10
    assert np.abs(r.x[-1] - u).max() < 1e-8
    # each front holds the energy 2 sqrt(2) eps / 3
    assert problem.energy(u, grid) == pytest.approx(2 * 2 * np.sqrt(2) * eps / 3, rel=1e-6)
