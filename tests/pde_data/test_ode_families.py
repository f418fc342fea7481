"""Families of ODE systems: constants, environments, accuracy, datasets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import check_dataset, open_dataset
from pde_data.problem import ProblemError, get_problem
from pde_data.problems.ode_families import FAMILIES, reference_rhs

NAMES = [f.name for f in FAMILIES]
#: Derivatives, from the published equations in another form than the solver's.
AT = {
    "harmonic_oscillator": lambda y, c: (y[1], -c[0] * y[0]),
    "damped_oscillator": lambda y, c: (y[1], -c[0] * y[0] - c[1] * y[1]),
    "pendulum": lambda y, c: (y[1], -c[0] * np.sin(y[0])),
    "double_well": lambda y, c: (y[1], -c[0] * y[1] + y[0] * (1 - y[0]) * (1 + y[0])),
    "bead_on_hoop": lambda y, c: (y[1], 0.5 * np.sin(2 * y[0]) - c[0] * np.sin(y[0])),
    "shear_flow": lambda y, c: (
        np.cos(y[0]) / np.tan(y[1]),
        np.sin(y[0]) * (1 + (c[0] - 1) * np.sin(y[1]) ** 2),
    ),
    "van_der_pol": lambda y, c: (y[1], c[0] * (1 - y[0] ** 2) * y[1] - y[0]),
    "van_der_pol_lienard": lambda y, c: (c[0] * (y[1] + y[0] - y[0] ** 3 / 3), -y[0] / c[0]),
    "glycolytic_oscillator": lambda y, c: (
        -y[0] + (c[0] + y[0] ** 2) * y[1], c[1] - c[0] * y[0] - y[0] ** 2 * y[1],
    ),
    "duffing": lambda y, c: (y[1], c[0] * (1 - y[0] ** 2) * y[1] - y[0]),
    "lotka_volterra": lambda y, c: (y[0] * (0.5 - c[0] * y[1]), y[1] * (c[1] * y[0] - 0.5)),
    "selkov": lambda y, c: (
        -y[0] + (0.1 + y[0] ** 2) * y[1], c[0] - (0.1 + y[0] ** 2) * y[1],
    ),
}  # fmt: skip


def test_checks():
    failed = [c for c in get_problem("ode_families").checks() if not c.passed]
    assert not failed, failed


@pytest.mark.parametrize("name", AT)
def test_right_hand_sides(name):
    i = NAMES.index(name)
    rng = np.random.default_rng(i)
    for _ in range(5):
        y, c = rng.uniform(0.2, 1.5, FAMILIES[i].dim), rng.uniform(0.3, 2, 2)
        assert np.allclose(reference_rhs(i, tuple(c))(0.0, y), AT[name](y, c), rtol=1e-13)


def test_glycolytic_balances():
    """Conserved and known sums of the reaction rates, Daniels & Nemenman's network."""
    y = np.array([1.0, 0.9, 0.1, 0.2, 0.15, 1.3, 0.07])
    k1, big = 90.0, 0.75
    d = reference_rhs(NAMES.index("glycolytic"), (k1, big))(0.0, y)
    v1 = k1 * y[0] * y[5] / (1 + (y[5] / big) ** 4)
    v2, v3 = 6 * y[1] * (1 - y[4]), 16 * y[2] * (4 - y[5])
    v4, v6 = 100 * y[3] * y[4], 12 * y[1] * y[4]
    flow, out = 13 * (y[3] - y[6]), 1.8 * y[6]
    assert d[0] == pytest.approx(2.5 - v1)
    assert 2 * d[0] + d[1] == pytest.approx(5.0 - v2 - v6)
    assert d[1] + d[2] + d[3] == pytest.approx(2 * v1 - v6 - v4 - flow)
    assert d[2] == pytest.approx(v2 - v3)
    assert d[4] == pytest.approx(v2 - v4 - v6)
    assert d[5] - 2 * d[0] == pytest.approx(2 * v3 - 1.28 * y[5] - 5.0)
    assert d[6] == pytest.approx(0.1 * flow - out)


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_within_1e_7_of_a_tight_run(name):
    p = get_problem("ode_families", families=name)
    family = FAMILIES[NAMES.index(name)]
    n = p.default_resolution
    for i in range(0, len(p.table), max(1, len(p.table) // 4)):
        q = p.draw(np.random.default_rng(i), 10**9 + i)
        s = p.solve(q, (n,), solver="dop853")
        t = p.times(family, n)
        y = solve_ivp(
            reference_rhs(q.family, q.parameters), (0, t[-1]), q.x0, "DOP853", t, rtol=1e-11,
            atol=1e-13,
        ).y.T  # fmt: skip
        error = np.abs(s.fields["trajectory"] - y).max()
        assert error < 1e-7
        assert s.time_error < 1e-8
        assert np.array_equal(s.fields["trajectory"][0], q.x0)


@pytest.mark.parametrize("name", NAMES)
def test_environments_are_distinct_and_published(name):
    p = get_problem("ode_families", families=name)
    values = np.array([c for _, c in p.table])
    count = {"lotka_volterra": 9, "glycolytic": 9, "selkov": 21}.get(name, 16)
    assert len(np.unique(values, axis=0)) == len(values) == count
    family = FAMILIES[NAMES.index(name)]
    if family.values:
        center = np.array(family.values)
        assert np.allclose(values.min(0), 0.9 * center) and np.allclose(values.max(0), 1.1 * center)
    other = get_problem("ode_families", families=name, environments="adaptation")
    assert len(other.table) == (6 if name == "selkov" else 4)
    assert not set(other.table) & set(p.table)


def test_published_grids():
    lv = get_problem("ode_families", families="lotka_volterra")
    assert [c for _, c in lv.table] == [(b, d) for b in (0.5, 0.75, 1) for d in (0.5, 0.75, 1)]
    assert np.array_equal(lv.times(FAMILIES[10], 20), np.arange(20) / 2)
    gly = get_problem("ode_families", families="glycolytic")
    expected = {(k, c) for k in (80.0, 90.0, 100.0) for c in (0.5, 0.75, 1.0)}
    assert {c for _, c in gly.table} == expected
    sel = get_problem("ode_families", families="selkov")
    b = [c[0] for _, c in sel.table]
    assert b[:7] == list(np.linspace(-1, -0.25, 7)) and b[7] == -0.1 and b[20] == 1.0
    assert np.array_equal(sel.times(FAMILIES[12], 11), np.linspace(0, 40, 11))
    assert sel.default_resolution == 11
    duffing = get_problem("ode_families", families="duffing", environments="adaptation")
    assert [c[0] for _, c in duffing.table] == list(np.linspace(0.8 * 0.886, 1.2 * 0.886, 4))


def test_ids_decide_on_the_environment():
    p = get_problem("ode_families", families="harmonic_oscillator,selkov")
    n_env = 16 + 21
    rng = np.random.default_rng
    a, b = p.draw(rng(0), 3), p.draw(rng(1), 3 + n_env)
    assert (a.environment, a.number, b.environment, b.number) == (3, 0, 3, 1)
    assert a.parameters == b.parameters
    assert tuple(a.x0) == (0.4, -0.03) and tuple(b.x0) == (0.0, 0.2)  # published corners
    assert p.draw(rng(0), 16).family == NAMES.index("selkov")
    c = p.draw(rng(0), 10**9 + 3)  # validation: other trajectories of the same environments
    assert c.parameters == a.parameters and tuple(c.x0) != tuple(a.x0)
    third = p.draw(rng(2), 3 + 2 * n_env)
    assert 0 <= third.x0[0] <= 0.4 and -0.03 <= third.x0[1] <= 0.2
    free = get_problem("ode_families", families="harmonic_oscillator", corners=False)
    assert tuple(free.draw(rng(0), 3).x0) != (0.4, -0.03)


def test_dataset_of_families_with_times_of_their_own(tmp_path):
    params = {"families": ["double_well", "bead_on_hoop"], "n_environments": 2}
    generate(
        GenerateConfig(
            problem="ode_families",
            out=tmp_path / "d",
            n=8,
            n_valid=4,
            n_test=4,
            resolution=10,
            dtype="float64",
            params=params,
        )
    )
    assert check_dataset(tmp_path / "d", physics=True) == []
    ds = open_dataset(tmp_path / "d")
    assert ds.schema.time_per_sample
    for i in range(8):
        s = ds["train"][i]
        family = int(s["params"]["family"])
        assert NAMES[family] == ("double_well", "bead_on_hoop")[i % 4 // 2]
        assert s["params"]["environment"] == i % 4 and s["params"]["trajectory_number"] == i // 4
        horizon = FAMILIES[family].horizon
        assert np.allclose(s["time"], horizon * np.arange(10) / 10)
        x = s["outputs"]["trajectory"]
        assert x.shape == (10, 2) and np.array_equal(x[0], s["inputs"]["initial_state"])
        y = solve_ivp(
            reference_rhs(family, (s["params"]["c0"],)), (0, horizon), x[0], "DOP853", s["time"],
            rtol=1e-11, atol=1e-13,
        ).y.T  # fmt: skip
        assert np.abs(x - y).max() < 1e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": "lotka"}, "Did you mean 'lotka_volterra'"),
        ({"families": ("selkov", "glycolytic")}, "numbers of states differ: selkov 2, glycolytic"),
        ({"families": ()}, "need names of families"),
        ({"families": "lotka_volterra", "n_environments": 7}, "n_environments=7"),
        ({"families": "selkov", "n_environments": 10}, "n_environments=10: selkov needs a mult"),
        (
            {"families": "selkov", "environments": "adaptation", "n_environments": 4},
            "n_environments=4 has no effect",
        ),
    ],
)
def test_mistakes_get_one_line(options, message):
    with pytest.raises(ProblemError, match=message) as e:
        get_problem("ode_families", **options)
    assert "\n" not in str(e.value)
