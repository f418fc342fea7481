import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem
from solvers import SolverDidNotConverge


def test_diffusion_reaction_against_crank_nicolson():
    """An independent scheme, linear part implicit, s^2 by two Picard iterations."""
    p = get_problem("deeponet_diffusion_reaction", D=0.05, k=1.0, n_times=3)
    v = p.sample(np.random.default_rng(0))
    s = p.solve(v, (41,), solver="finite_volume").fields["s"]
    n, m = 161, 2000
    h, dt = 1 / (n - 1), 1 / m
    x = np.linspace(0, 1, n)[1:-1]
    lap = (np.diag(np.full(n - 2, -2.0)) + np.eye(n - 2, k=1) + np.eye(n - 2, k=-1)) * 0.05 / h**2
    left = np.linalg.inv(np.eye(n - 2) - 0.5 * dt * lap)
    w = np.zeros(n - 2)
    for _ in range(m):
        known = w + 0.5 * dt * (lap @ w) + dt * v(x)
        new = w
        for _ in range(3):
            new = left @ (known + 0.5 * dt * (w**2 + new**2))
        w = new
    np.testing.assert_allclose(s[-1][1:-1], w[3::4], atol=1e-5 * np.abs(w).max())
    assert np.all(s[0] == 0) and np.all(s[:, [0, -1]] == 0)


@pytest.mark.parametrize("space", ["gaussian", "chebyshev", "power_series"])
@pytest.mark.parametrize(
    "name", ["deeponet_diffusion_reaction", "deeponet_advection", "advection_diffusion"]
)
def test_every_input_space(name, space):
    p = get_problem(name, space=space, n_times=3)
    s = p.solve(p.sample(np.random.default_rng(1)), (50,), solver=p.solvers[0])
    assert s.fields["u"].shape == (50,) and s.fields["s"].shape == (3, 50)
    assert np.isfinite(s.fields["s"]).all() and np.ptp(s.fields["s"]) > 0


def test_labels_do_not_depend_on_the_sensors():
    """Case I: the published labels come from interpolated sensor values."""
    p = get_problem("deeponet_advection", n_times=5)
    v = p.sample(np.random.default_rng(2))
    few = p.solve(v, (20,), solver="characteristics").fields["s"]
    many = p.solve(v, (200,), solver="characteristics").fields["s"]
    np.testing.assert_allclose(many[:, ::10], few, atol=1e-13)


def test_cases_have_their_sides():
    for case, periodic in (("I", True), ("II", False), ("III", False), ("IV", True)):
        p = get_problem("deeponet_advection", case=case)
        assert p.grid((40,)).axes[0].periodic is periodic
        s = p.solve(p.sample(np.random.default_rng(0)), (40,), solver="characteristics").fields["s"]
        if case == "II":
            assert np.all(s[1:, 0] == 0)
        if case == "III":
            np.testing.assert_allclose(s[:, 0], np.sin(np.pi * p.times), atol=1e-12)
            np.testing.assert_allclose(s[0], p.grid((40,)).coords[0] ** 2, atol=1e-12)


def test_a_speed_that_is_not_positive_fails_as_a_sample():
    p = get_problem("deeponet_advection", case="III", amplitude=100.0)
    with pytest.raises(SolverDidNotConverge, match="speed must be positive"):
        p.solve(p.sample(np.random.default_rng(0)), (40,), solver="upwind")


def test_options_of_other_spaces_are_refused():
    with pytest.raises(ProblemError, match=r"length=0\.1 has no effect with space='chebyshev'"):
        get_problem("advection_diffusion", space="chebyshev", length=0.1)
