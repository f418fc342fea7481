"""DeepONet's operators of ordinary differential equations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from pde_data.functions import FunctionSample, input_space
from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import check_dataset, open_dataset
from pde_data.problem import ProblemError, get_problem
from pde_data.problems.deeponet_ode import _derivative, pack
from solvers.result import SolverDidNotConverge

NAMES = ["antiderivative", "nonlinear_ode", "gravity_pendulum"]


@pytest.mark.parametrize("name", NAMES)
def test_checks(name):
    failed = [c for c in get_problem(name).checks() if not c.passed]
    assert not failed, failed


@pytest.mark.parametrize("kind", ["gaussian", "chebyshev", "power_series"])
def test_compiled_forcing_is_the_function(kind):
    u = input_space(kind, bounds=(0.0, 2.0)).draw(np.random.default_rng(0))
    t = np.linspace(0, 2, 37)
    compiled, out = np.empty(t.size), np.empty(1)
    for i, s in enumerate(t):
        _derivative(s, np.zeros(1), pack("antiderivative", u), out)
        compiled[i] = out[0]
    assert np.abs(compiled - u(t)).max() < 1e-13 * max(1, np.abs(u(t)).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", ["gaussian", "chebyshev", "power_series"])
def test_solutions_against_scipy(name, space):
    p = get_problem(name, space=space, horizon=0.8)
    u = p.sample(np.random.default_rng(4))
    rhs = {
        "antiderivative": lambda t, s: [float(u(t))],
        "nonlinear_ode": lambda t, s: [-(s[0] ** 2) + float(u(t))],
        "gravity_pendulum": lambda t, s: [s[1], -np.sin(s[0]) + float(u(t))],
    }[name]
    t = np.linspace(0, 0.8, 7)
    y = solve_ivp(rhs, (0, 0.8), np.zeros(len(p.states)), "DOP853", t, rtol=1e-11, atol=1e-13).y
    for solver in p.solvers:
        s = p.solve(u, (7,), solver=solver)
        for k, (field, _, _) in enumerate(p.states):
            assert np.abs(s.fields[field] - y[k]).max() < 1e-8
        assert np.array_equal(s.fields["u"], u(np.linspace(0, 0.8, 100)))


def test_antiderivative_of_polynomials_is_exact():
    p = get_problem("antiderivative")
    t = np.linspace(0, 1, 11)
    power = FunctionSample(input_space("power_series", n_terms=3), np.array([1.0, -2.0, 3.0]))
    s = p.solve(power, (11,), solver="exact")
    assert np.abs(s.fields["s"] - (t - t**2 + t**3)).max() < 1e-15
    cheb = FunctionSample(input_space("chebyshev", n_terms=3), np.array([0.0, 0.0, 1.0]))
    x = 2 * t - 1  # T_2 = 2 x^2 - 1
    exact = ((2 * x**3 / 3 - x) - (-2 / 3 + 1)) / 2
    assert np.abs(p.solve(cheb, (11,), solver="exact").fields["s"] - exact).max() < 1e-15
    assert s.time_error == 0.0


def test_labels_do_not_depend_on_the_sensors():
    u = get_problem("gravity_pendulum").sample(np.random.default_rng(0))
    few, many = (
        get_problem("gravity_pendulum", n_sensors=m).solve(u, (11,), solver="dop853")
        for m in (3, 200)
    )
    assert np.array_equal(few.fields["s1"], many.fields["s1"])


def test_blow_up_is_a_failure():
    p = get_problem("nonlinear_ode", space="power_series", n_terms=1)
    u = FunctionSample(p.space, np.array([-9.0]))  # -3 tan(3 t): infinite at pi/6
    for solver in p.solvers:
        with pytest.raises(SolverDidNotConverge, match=r"at t=0\.523"):
            p.solve(u, (11,), solver=solver)


def test_pendulum_energy_unforced_and_k():
    p = get_problem("gravity_pendulum", k=4.0, horizon=3.0, space="power_series", n_terms=1)
    s = p.solve(FunctionSample(p.space, np.array([2.0])), (61,), solver="dop853").fields
    # torque 2 against k sin: rest is reached again where 4 (1 - cos s) = 2 s
    energy = 0.5 * s["s2"] ** 2 + 4 * (1 - np.cos(s["s1"])) - 2 * s["s1"]
    assert np.abs(energy).max() < 1e-9
    assert np.abs(s["s2"]).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_dataset(name, tmp_path):
    options = {"target": "state"} if name == "gravity_pendulum" else {}
    config = GenerateConfig(
        problem=name, out=tmp_path / "d", n=3, n_valid=1, n_test=1, resolution=9, dtype="float64",
        params={"n_sensors": 12, **options},
    )  # fmt: skip
    generate(config)
    assert check_dataset(tmp_path / "d", physics=True) == []
    ds = open_dataset(tmp_path / "d")
    sample = ds["train"][1]
    p = get_problem(name, n_sensors=12, **options)
    assert sample["inputs"]["u"].shape == (12,)
    assert tuple(sample["outputs"]) == p.outputs()
    assert all(v.shape == (9,) for v in sample["outputs"].values())
    assert ds.schema.axes[0].coords == tuple(np.linspace(0, 1, 12))
    u = p.sample(np.random.default_rng(int(ds["train"].quality("seed")[1])))
    assert np.array_equal(sample["inputs"]["u"], u(np.linspace(0, 1, 12)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_terms": 5}, "n_terms=5 has no effect with space='gaussian'"),
        ({"space": "chebyshev", "length": 0.1}, "length=0.1 has no effect"),
        ({"space": "wavelet"}, "space='wavelet'"),
        ({"n_sensors": 1}, "n_sensors=1"),
    ],
)
def test_mistakes_get_one_line(options, message):
    with pytest.raises(ProblemError, match=message) as e:
        get_problem("antiderivative", **options)
    assert "\n" not in str(e.value)
