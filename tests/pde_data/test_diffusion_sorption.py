import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem


def test_mass_balance_with_the_fluxes_at_the_ends():
    """d/dt of the content is what enters at x = 0 less what leaves at x = 1."""
    p = get_problem("diffusion_sorption", n_times=201, initial="field", t_end=400.0)
    n = 65
    s = p.solve(p.sample(np.random.default_rng(0)), (n,), solver="finite_volume")
    u, h, t = s.fields["u"], 1 / (n - 1), p.times
    inner = np.r_[0.0, np.full(n - 2, h), 0.5 * h]  # the wall value at x = 0 is given
    content = p.storage().content(u) @ inner
    flux = p.params.D * (u[:, 0] - u[:, 1]) / h - u[:, -1]
    late = t >= 100.0  # the initial layer is too thin for the trapezoidal rule of the stored times
    gained = np.trapezoid(flux[late], t[late])
    change = content[-1] - content[late][0]
    assert abs(change / gained - 1) < 1e-5


def test_retardation_is_the_published_one():
    p = get_problem("diffusion_sorption")
    u = np.array([1e-3, 0.1, 1.0])
    r = 1 + (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * 0.874 * u ** (0.874 - 1)
    np.testing.assert_allclose(p.storage().derivative(u), r, rtol=1e-14)
    step = 1e-6 * u
    content = p.storage().content
    slope = (content(u + step) - content(u - step)) / (2 * step)
    np.testing.assert_allclose(slope, r, rtol=1e-8)


def test_concentration_stays_between_its_bounds_and_advances():
    p = get_problem("diffusion_sorption", n_times=21)
    for seed in range(3):
        u = p.solve(p.sample(np.random.default_rng(seed)), (129,), solver="finite_volume").fields[
            "u"
        ]
        assert u.min() >= 0 and u.max() <= 1
        assert np.all(u[:, 0] == 1.0)
        middle = u[:, 32]
        assert np.all(np.diff(middle) > 0)


def test_bounds_must_be_ordered():
    with pytest.raises(ProblemError, match=r"low=0\.5, high=0\.2"):
        get_problem("diffusion_sorption", low=0.5)
