import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem


def test_steady_state_is_the_elliptic_solution():
    """After long times the temperature solves -div(a grad u) = f, by an independent solver."""
    from solvers.diffusion import solve_diffusion

    p = get_problem("heat", walls="dirichlet", t_end=5.0, n_times=2, u0=2.0)
    inputs = p.sample(np.random.default_rng(0))
    s = p.solve(inputs, (25, 25), solver="finite_volume")
    steady = solve_diffusion(s.fields["a"], s.fields["f"], p.grid((25, 25)), solver="direct").x
    np.testing.assert_allclose(s.fields["u"][-1], steady, atol=1e-6 * np.abs(steady).max())


@pytest.mark.parametrize("walls", ["dirichlet", "mixed"])
def test_initial_temperature_vanishes_at_dirichlet_walls(walls):
    p = get_problem("heat", walls=walls)
    u0 = p.sample(np.random.default_rng(1))["u0"](p.grid((17, 17)))
    assert np.abs(u0[0]).max() < 1e-12
    assert np.abs(u0).max() > 0.1


def test_samples_do_not_depend_on_the_grid():
    p = get_problem("heat", dim=1)
    inputs = p.sample(np.random.default_rng(2))
    for name in ("a", "f", "u0"):
        fine, coarse = inputs[name](p.grid((33,))), inputs[name](p.grid((17,)))
        np.testing.assert_allclose(fine[::2], coarse, atol=1e-12)


def test_maximum_principle_without_source():
    p = get_problem("heat", source=0.0, n_times=6, time_rtol=1e-6)
    s = p.solve(p.sample(np.random.default_rng(3)), (25, 25), solver="finite_volume")
    u = s.fields["u"]
    top, bottom = max(u[0].max(), 0), min(u[0].min(), 0)
    assert u.max() <= top + 1e-4 and u.min() >= bottom - 1e-4
    # heat leaves through the walls that are not insulated
    w = p.grid((25, 25)).weights
    energy = np.sum(w * u**2, axis=(1, 2))
    assert np.all(np.diff(energy) < 0)


def test_nothing_to_happen_is_refused():
    with pytest.raises(ProblemError, match=r"u0=0\.0 and source=0\.0"):
        get_problem("heat", u0=0.0, source=0.0)
    with pytest.raises(ProblemError, match="walls='wet'"):
        get_problem("heat", walls="wet")
