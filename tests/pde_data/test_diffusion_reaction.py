import numpy as np
import pytest
from scipy.integrate import solve_ivp

from pde_data.problem import ProblemError, get_problem


@pytest.mark.parametrize("solver", ["spectral", "finite_volume"])
def test_uniform_values_follow_the_ode(solver):
    p = get_problem("diffusion_reaction", t_end=5.0, n_times=6, time_rtol=1e-7)
    inputs = {"u0": lambda g: np.full(g.shape, 0.8), "v0": lambda g: np.full(g.shape, -0.3)}
    s = p.solve(inputs, (8, 8), solver=solver)
    ode = solve_ivp(
        lambda t, w: [w[0] - w[0] ** 3 - 5e-3 - w[1], w[0] - w[1]], (0, 5), [0.8, -0.3],
        rtol=1e-11, atol=1e-12, t_eval=p.times,
    ).y  # fmt: skip
    np.testing.assert_allclose(s.fields["u"][:, 3, 4], ode[0], atol=1e-6)
    np.testing.assert_allclose(s.fields["v"][:, 3, 4], ode[1], atol=1e-6)
    assert np.ptp(s.fields["u"], axis=(1, 2)).max() < 1e-12


def test_the_estimate_of_the_spectral_solver_is_honest():
    """Against three times the cells, whose centers include those of the grid."""
    p = get_problem("diffusion_reaction", n_times=3, t_end=1.0, tau=8.0, n_modes=8, time_rtol=1e-5)
    inputs = p.sample(np.random.default_rng(0))
    fine = p.solve(inputs, (60, 60), solver="spectral").fields
    s = p.solve(inputs, (20, 20), solver="spectral")
    gaps = {n: s.fields[n] - fine[n][:, 1::3, 1::3] for n in ("u", "v")}
    errors = [np.linalg.norm(g) / np.linalg.norm(s.fields[n]) for n, g in gaps.items()]
    estimate = p.discretization_error(inputs, s, (20, 20), solver="spectral")
    assert 1e-4 < max(errors) < 0.05
    assert 0.5 < estimate / max(errors) < 2


def test_the_default_grid_resolves_the_default_fields():
    p = get_problem("diffusion_reaction", n_times=3, t_end=1.0, time_rtol=1e-4)
    inputs = p.sample(np.random.default_rng(0))
    s = p.solve(inputs, (64, 64), solver="spectral")
    error = p.discretization_error(inputs, s, (64, 64), solver="spectral")
    assert error < 1e-3


@pytest.mark.parametrize("rho", [1.0, 10.0])
def test_fisher_tends_to_one_not_to_a_half(rho):
    """pdebench/PDEBench#94: its files tend to 0.5."""
    p = get_problem("fisher_kpp", nu=0.5, rho=rho, t_end=20.0 / rho, n_times=11, low=0.1)
    u = p.solve(p.sample(np.random.default_rng(0)), (64,), solver="spectral").fields["u"]
    assert u[-1].min() > 1 - 1e-7 and u.max() <= 1 + 1e-12
    assert np.all(np.diff(u.mean(axis=1)) > 0)


def test_fisher_front_speed():
    """Fronts from compact data move with 2 sqrt(nu rho), less 3/(2 t) sqrt(nu/rho)."""
    nu, rho = 1e-4, 10.0
    p = get_problem("fisher_kpp", nu=nu, rho=rho, t_end=4.0, n_times=41)
    inputs = {"u0": lambda g: 1.0 * (np.abs(g.coords[0] - 0.5) < 0.05)}
    u = p.solve(inputs, (512,), solver="finite_volume").fields["u"]
    half = np.sum(u > 0.5, axis=1) / 512 / 2
    t = p.times
    speed = (half[-1] - half[20]) / (t[-1] - t[20])
    bramson = 2 * np.sqrt(nu * rho) - 1.5 * np.sqrt(nu / rho) * np.log(2) / 2
    assert abs(speed / bramson - 1) < 0.03


def test_bounds_must_be_ordered():
    with pytest.raises(ProblemError, match=r"low=0\.5, high=0\.3"):
        get_problem("fisher_kpp", low=0.5, high=0.3)
