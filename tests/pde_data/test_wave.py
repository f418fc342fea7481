import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem


def test_nothing_arrives_before_sound_can():
    """A pulse in the middle: at distance d nothing before d / c_high (finite speed)."""
    p = get_problem("wave", dim=1, walls="neumann", t_end=0.2, n_times=3)
    inputs = p.sample(np.random.default_rng(0))
    inputs["u0"] = lambda g: np.exp(-(((g.coords[0] - 0.5) / 0.03) ** 2))
    s = p.solve(inputs, (257,), solver="spectral")
    x = p.grid((257,)).coords[0]
    far = np.abs(x - 0.5) > 0.2 * p.params.c_high + 0.18
    assert np.abs(s.fields["u"][-1][far]).max() < 1e-7
    assert np.abs(s.fields["u"][-1]).max() > 0.3


def test_constant_speed_reflects_with_the_right_sign():
    """d'Alembert: the pulse is back in its place at t = 2 L / c, upside down at soft walls."""
    for walls, sign in (("neumann", 1.0), ("dirichlet", 1.0), ("periodic", 1.0)):
        p = get_problem("wave", dim=1, walls=walls, t_end=2.0, n_times=3)
        u0 = lambda g: np.exp(-(((g.coords[0] - 0.4) / 0.06) ** 2))  # noqa: E731
        s = p.solve({"c": lambda g: np.ones(g.shape), "u0": u0}, (128,), solver="spectral")
        u = s.fields["u"]
        np.testing.assert_allclose(u[-1], sign * u[0], atol=5e-6)
        if walls != "periodic":  # at t = 1 mirrored about the middle, -1 at soft walls
            mirrored = u[0][::-1] * (1 if walls == "neumann" else -1)
            np.testing.assert_allclose(u[1], mirrored, atol=5e-6)


def test_estimate_of_the_time_error_holds():
    p = get_problem("wave", n_times=3, time_rtol=1e-4, n_modes=4)
    inputs = p.sample(np.random.default_rng(1))
    s = p.solve(inputs, (24, 24), solver="spectral")
    fine = p.evolve(inputs, p.grid((24, 24)), p.times, solver="spectral", rtol=0, refine=8.0)
    error = np.linalg.norm(s.fields["u"] - fine.fields["u"]) / np.linalg.norm(fine.fields["u"])
    assert error < 1e-4
    assert 0.4 < s.time_error / error < 2.5


def test_speeds_must_be_ordered():
    with pytest.raises(ProblemError, match=r"c_low=2\.0, c_high=1\.3: need c_low < c_high"):
        get_problem("wave", c_low=2.0)
