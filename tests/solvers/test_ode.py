"""Initial-value problems against closed forms, invariants and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from solvers.ode import METHODS, compiled_rhs, solve_ode, solve_ode_batch
from solvers.result import SolverDidNotConverge
from solvers.verify import observed_order

T = np.linspace(0.0, 10.0, 21)
EXACT = np.stack([np.cos(2 * T), -2 * np.sin(2 * T)], axis=1)


@compiled_rhs
def oscillator(t, x, p, out):
    out[0], out[1] = x[1], -p[0] * x[0]


@compiled_rhs
def growth(t, x, p, out):
    out[0] = x[0] ** 2


@compiled_rhs
def rotating(t, x, p, out):  # depends on t: stages must use their own times
    out[0] = np.cos(p[0] * t) * x[0]


def python_oscillator(t, x):
    return [x[1], -4.0 * x[0]]


@pytest.mark.parametrize("method", METHODS)
def test_oscillator_by_every_method(method):
    low = method in ("RK23", "Radau", "BDF")
    rtol = 1e-6 if low else 1e-9
    t, exact = (T[:5], EXACT[:5]) if method == "RK23" else (T, EXACT)
    r = solve_ode(python_oscillator, [1.0, 0.0], t, method=method, rtol=rtol)
    error = np.linalg.norm(r.x - exact) / np.linalg.norm(exact)
    assert error < 1000 * rtol
    # the estimate is the error within a factor 2
    assert error / 2 < r.info["time_error"] < 2 * error
    assert r.solver == f"scipy.{method}" and r.iterations > 0
    assert r.residual == 0.0 or math.isnan(r.residual)


def test_compiled_oscillator():
    r = solve_ode(oscillator, [1.0, 0.0], T, params=[4.0])
    error = np.linalg.norm(r.x - EXACT) / np.linalg.norm(EXACT)
    assert error < 1e-9 and error / 2 < r.info["time_error"] < 2 * error
    assert np.array_equal(r.x[0], [1.0, 0.0])
    other = solve_ode(oscillator, [1.0, 0.0], T, params=[4.0], verify="method", rtol=1e-8)
    assert 1e-12 < other.info["time_error"] < 1e-6
    assert math.isnan(solve_ode(oscillator, [1.0, 0.0], T, params=[4.0], verify=None)
                      .info["time_error"])  # fmt: skip


@pytest.mark.parametrize("rtol", [1e-6, 1e-9, 1e-12])
def test_error_follows_the_tolerance(rtol):
    r = solve_ode(oscillator, [1.0, 0.0], T, params=[4.0], rtol=rtol)
    assert np.abs(r.x - EXACT).max() < 30 * rtol


def test_stored_times_do_not_change_the_accuracy():
    few = solve_ode(rotating, [1.0], [0.0, 5.0], params=[3.0])
    many = solve_ode(rotating, [1.0], np.linspace(0, 5, 1001), params=[3.0])
    exact = math.exp(math.sin(15.0) / 3)
    assert abs(few.x[-1, 0] - exact) < 1e-9 and abs(many.x[-1, 0] - exact) < 1e-9
    t = np.linspace(0, 5, 1001)
    assert np.abs(many.x[:, 0] - np.exp(np.sin(3 * t) / 3)).max() < 1e-9


def test_order_of_fixed_steps_is_eight():
    steps, errors = (8, 12, 16, 24), []
    for n in steps:
        x = solve_ode(oscillator, [1.0, 0.0], [0.0, 4.0], params=[4.0], steps=n, verify=None).x
        errors.append(np.abs(x[-1] - [np.cos(8), -2 * np.sin(8)]).max())
    assert abs(observed_order(errors, [1 / n for n in steps]) - 8) < 0.2


def test_same_as_scipys_dop853():
    def pendulum(t, x):
        return [x[1], -np.sin(x[0])]

    @compiled_rhs
    def compiled(t, x, p, out):
        out[0], out[1] = x[1], -np.sin(x[0])

    reference = solve_ivp(pendulum, (0, 10), [2.0, 0.1], "DOP853", T, rtol=1e-12, atol=1e-14).y.T
    assert np.abs(solve_ode(compiled, [2.0, 0.1], T).x - reference).max() < 1e-8
    assert np.abs(solve_ode(pendulum, [2.0, 0.1], T).x - reference).max() < 1e-8


def test_stiff_problem_by_radau():
    def stiff(t, x):
        return [-1e4 * (x[0] - math.cos(t)) - math.sin(t)]

    t = np.linspace(0, 2, 11)
    r = solve_ode(stiff, [1.0], t, method="Radau", rtol=1e-8, jac=np.array([[-1e4]]))
    assert np.abs(r.x[:, 0] - np.cos(t)).max() < 1e-7
    assert r.iterations < 200


def test_batch_equals_one_by_one_bit_for_bit():
    rng = np.random.default_rng(0)
    x0, p = rng.standard_normal((5, 2)), rng.uniform(1, 5, (5, 1))
    batch = solve_ode_batch(oscillator, x0, T, params=p)
    assert batch.x.shape == (5, T.size, 2)
    for b in range(5):
        one = solve_ode(oscillator, x0[b], T, params=p[b])
        assert np.array_equal(one.x, batch.x[b])
        assert one.info["time_error"] == batch.info["time_errors"][b]
    common = solve_ode_batch(oscillator, x0, T, params=p[0], verify=False)
    assert np.array_equal(common.x[0], batch.x[0])
    assert batch.info["time_error"] == max(batch.info["time_errors"])


def test_blow_up_tells_the_time():
    for rhs in (growth, lambda t, x: x**2):  # 1 / (1 - t)
        with pytest.raises(SolverDidNotConverge, match=r"at t=(1|0\.9999\d*),") as e:
            solve_ode(rhs, [1.0], [0.0, 2.0])
        assert "of 0 to 2" in str(e.value)
    with pytest.raises(SolverDidNotConverge, match="trajectory 1: "):
        solve_ode_batch(growth, np.array([[-1.0], [1.0]]), [0.0, 2.0])


def test_too_many_steps():
    for rhs, params in ((oscillator, [4.0]), (python_oscillator, [])):
        with pytest.raises(SolverDidNotConverge, match="too many steps at t="):
            solve_ode(rhs, [1.0, 0.0], T, params=params, max_steps=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x0": [[1.0, 0.0]]}, r"x0 has shape \(1, 2\), expected \(d,\)"),
        ({"x0": [np.nan, 0.0]}, "x0 holds NaN"),
        ({"times": [0.0, 0.0, 1.0]}, "times: need at least two, finite and strictly increasing"),
        ({"times": [1.0]}, "times: need at least two"),
        ({"rtol": 1e-20}, "rtol=1e-20: need"),
        ({"atol": -1.0}, "atol=-1.0: need a number >= 0"),
        ({"method": "dop853"}, "Did you mean 'DOP853'"),
        ({"verify": "twice"}, "verify='twice'"),
        ({"params": [1.0]}, "params belong to a compiled"),
        ({"steps": 3}, "steps=3: only for a compiled"),
        ({"rhs": lambda t, x: [1.0]}, r"rhs returned shape \(1,\), expected \(2,\)"),
    ],
)
def test_mistakes_get_one_line(options, message):
    given = {"rhs": python_oscillator, "x0": [1.0, 0.0], "times": [0.0, 1.0], **options}
    rhs, x0, times = given.pop("rhs"), given.pop("x0"), given.pop("times")
    with pytest.raises(ValueError, match=message) as e:
        solve_ode(rhs, x0, times, **given)
    assert "\n" not in str(e.value)


def test_batch_mistakes():
    with pytest.raises(ValueError, match="compiled_rhs"):
        solve_ode_batch(python_oscillator, np.ones((2, 2)), [0.0, 1.0])
    with pytest.raises(ValueError, match="params has 3 rows, x0 2"):
        solve_ode_batch(oscillator, np.ones((2, 2)), [0.0, 1.0], params=np.ones((3, 1)))
