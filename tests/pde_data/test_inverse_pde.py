"""Coefficient and source from noisy sensors."""

from __future__ import annotations

import numpy as np
import pytest

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import check_dataset, open_dataset
from pde_data.problem import ProblemError, get_problem
from pde_data.problems.inverse_pde import SensorInputs

NAMES = ["darcy_inverse", "source_recovery"]


@pytest.mark.parametrize("name", NAMES)
def test_checks(name):
    failed = [c for c in get_problem(name).checks() if not c.passed]
    assert not failed, failed


def test_sensors_of_an_eigenfunction():
    p = get_problem("source_recovery", sensors="random", n_sensors=50, noise=0.0)

    def q(grid):
        x, y = grid.meshgrid()
        return np.sin(np.pi * x) * np.sin(2 * np.pi * y)

    s = p.solve(SensorInputs(q, 0), (129, 129), solver="structured")
    x, y = p.positions().T
    exact = np.sin(np.pi * x) * np.sin(2 * np.pi * y) / (5 * np.pi**2)
    assert np.linalg.norm(s.fields["clean"] - exact) < 2e-3 * np.linalg.norm(exact)
    assert np.array_equal(s.fields["clean"], s.fields["measurement"])


def test_linear_in_the_source():
    p = get_problem("source_recovery", n_sensors=9)
    rng = np.random.default_rng(0)
    a, b = p.draw_unknown(rng), p.draw_unknown(rng)

    def clean(f):
        return p.solve(SensorInputs(f, 0), (17, 17), solver="direct").fields["clean"]

    both = clean(lambda grid: 2 * a(grid) - 3 * b(grid))
    assert np.abs(both - 2 * clean(a) + 3 * clean(b)).max() < 1e-14


def test_pressure_scales_with_the_inverse_permeability():
    p = get_problem("darcy_inverse", n_sensors=9)
    inputs = p.sample(np.random.default_rng(0))
    one = p.solve(inputs, (17, 17), solver="direct").fields["clean"]
    ten = SensorInputs(lambda grid: 10 * inputs.unknown(grid), 0)
    assert np.allclose(p.solve(ten, (17, 17), solver="direct").fields["clean"], one / 10, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("darcy_inverse", {}),
        ("darcy_inverse", {"coefficient": "smooth"}),
        ("darcy_inverse", {"coefficient": "two_valued"}),
        ("source_recovery", {"source": "gaussian"}),
        ("source_recovery", {}),
    ],
)
def test_error_estimate_is_honest(name, params):
    p = get_problem(name, **params)
    ratios = []
    for i in range(3):
        inputs = p.sample(np.random.default_rng(i))
        s = p.solve(inputs, (33, 33), solver="direct")
        truth = p.solve(inputs, (257, 257), solver="structured").fields["clean"]
        error = np.linalg.norm(s.fields["clean"] - truth) / np.linalg.norm(truth)
        ratios.append(p.discretization_error(inputs, s, (33, 33), solver="direct") / error)
    assert 0.5 < min(ratios) and max(ratios) < 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sensors", ["regular", "random"])
def test_dataset(name, sensors, tmp_path):
    params = {"n_sensors": 16, "sensors": sensors, "noise": 0.02}
    generate(
        GenerateConfig(
            problem=name, out=tmp_path / "d", n=6, n_valid=2, n_test=2, resolution=17,
            dtype="float64", params=params,
        )
    )  # fmt: skip
    assert check_dataset(tmp_path / "d", physics=True) == []
    ds = open_dataset(tmp_path / "d")
    p = get_problem(name, **params)
    s = ds["train"][3]
    fields = ds["train"].read([3], ["clean", "u", "position"])
    assert np.array_equal(np.reshape(fields["position"], (16, 2)), p.positions())
    clean = fields["clean"][0]
    assert np.abs(p.operator((17, 17)).apply(fields["u"][0]) - clean).max() < 1e-13
    std = s["params"]["noise_std"]
    assert std == pytest.approx(0.02 * np.sqrt(np.mean(clean**2)))
    noise = s["inputs"]["measurement"] - clean
    assert 0.3 * std < noise.std() < 2 * std
    if sensors == "regular":
        assert p.positions()[0] == pytest.approx([0.2, 0.2])


def test_mistakes_get_one_line():
    with pytest.raises(ProblemError, match="n_sensors=15: sensors='regular' needs a square"):
        get_problem("source_recovery", n_sensors=15)
    with pytest.raises(ProblemError, match=r"low=12.0, high=3.0: need low < high"):
        get_problem("darcy_inverse", low=12.0, high=3.0)
