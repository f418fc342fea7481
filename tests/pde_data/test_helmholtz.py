import re

import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem


def test_own_checks_hold():
    checks = list(get_problem("helmholtz").checks())
    assert all(c.passed for c in checks), [str(c) for c in checks if not c.passed]
    assert sum(c.kind == "order" for c in checks) == 4


def test_mgno_preset():
    """The facts of the data set: frequency, speeds near 20, flux on part of the upper side."""
    problem = get_problem("helmholtz", preset="mgno")
    p = problem.params
    assert (p.omega, p.speed, p.speed_range, p.tau, p.alpha) == (1000.0, 20.0, 1.0, 3.0, 2.0)
    # N(0, (-Laplacian + 9)^-2) itself, not scaled
    assert problem.field.sigma == pytest.approx(1.0, rel=1e-12)
    inputs = problem.sample(np.random.default_rng(0))
    s = problem.solve(inputs, (101, 101), solver="elements")
    c, u = s.fields["c"], s.fields["u"]
    assert 19 < c.min() < 20 < c.max() < 21 and abs(c.mean() - 20) < 0.05
    grid = problem.grid((101, 101))
    # int k^2 u = -int_side du/dn = -0.3, from the equation integrated over the square
    total = float(np.sum(grid.weights * (1000.0 / c) ** 2 * u))
    assert total == pytest.approx(-0.3, abs=2e-2 * np.sqrt(np.sum(grid.weights * (2500 * u) ** 2)))
    schema = problem.schema((101, 101))
    assert schema.inputs == ("c",) and schema.outputs == ("u",)
    assert schema.boundary_of("u") == (("neumann", "neumann"), ("neumann", "none"))
    assert get_problem("helmholtz", preset="mgno", degree=1).params.degree == 1


@pytest.mark.parametrize(
    ("params", "resolution"),
    [
        ({"boundary": "pml"}, 33),
        ({"boundary": "impedance", "source": "plane_wave"}, 33),
        ({"boundary": "impedance", "source": "flux"}, 33),
        ({"boundary": "neumann", "source": "flux"}, 33),
        ({"boundary": "dirichlet"}, 33),
        ({"boundary": "mixed"}, 33),
        ({"boundary": "robin", "dim": 1}, 65),
        ({"boundary": "periodic"}, 32),
        ({"boundary": "impedance", "dim": 3, "degree": 2, "omega": 3.0}, 9),
        ({"boundary": "pml", "dim": 1}, 65),
    ],
)
def test_estimates_are_honest(params, resolution):
    params = {"omega": 12.0, "width_min": 0.08, "width_max": 0.12, **params}
    problem = get_problem("helmholtz", **params)
    shape = problem.check_resolution(resolution)
    inputs = problem.sample(np.random.default_rng(0))
    s = problem.solve(inputs, shape, solver="elements")
    assert s.residual <= 1e-10
    schema = problem.schema(shape)
    finer = get_problem("helmholtz", **{**params, "degree": 4})  # in 3-D it must be small
    factor = 2 if problem.dim == 3 else 4
    fine = finer.solve(inputs, schema.grid.refined(factor).shape, solver="elements")
    w, worst = schema.grid.weights, 0.0
    for name in schema.outputs:
        truth = fine.fields[name][(slice(None, None, factor),) * problem.dim]
        error = np.sum(w * (s.fields[name] - truth) ** 2) / np.sum(w * truth**2)
        worst = max(worst, float(np.sqrt(error)))
    estimate = problem.discretization_error(inputs, s, shape, solver="elements")
    assert 0.5 < estimate / worst < 2.0, (estimate, worst)


def test_two_degrees_agree():
    a, b = (get_problem("helmholtz", omega=15.0, degree=d) for d in (2, 4))
    inputs = a.sample(np.random.default_rng(3))
    u, v = (p.solve(inputs, (65, 65), solver="elements").fields["u_re"] for p in (a, b))
    assert np.linalg.norm(u - v) < 5e-3 * np.linalg.norm(v)


def test_a_plane_wave_passes_a_uniform_medium():
    problem = get_problem("helmholtz", source="plane_wave", speed_range=0.0, omega=15.0)
    s = problem.solve(problem.sample(np.random.default_rng(0)), (33, 33), solver="elements")
    for part in ("re", "im"):
        np.testing.assert_allclose(s.fields[f"u_{part}"], s.fields[f"w_{part}"], atol=2e-4)
    assert np.all(s.fields["c"] == 1.0)


@pytest.mark.parametrize(
    ("params", "resolution", "message"),
    [
        ({}, 65, "resolution=65x65: 8 points on the shortest wave"),
        ({"omega": 100.0}, 101, "5 points on the shortest wave, need min_points_per_wavelength=8"),
        ({"omega": 5.0}, 64, "resolution=64: elements of degree=4 need a multiple of 4 cells"),
    ],
)
def test_resolutions_that_do_not_resolve_are_refused(params, resolution, message):
    if message.startswith("resolution=65x65"):  # 8.04: just enough
        assert get_problem("helmholtz", **params).check_resolution(resolution) == (65, 65)
        return
    with pytest.raises(ProblemError, match=re.escape(message)) as e:
        get_problem("helmholtz", **params).check_resolution(resolution)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"speed_range": 1.0}, "speed_range=1.0: must be below speed=1.0"),
        ({"source": "plane_wave", "boundary": "pml"}, "comes in through impedance sides"),
        ({"source": "flux", "boundary": "periodic"}, "source='flux' goes with"),
        ({"boundary": "pml", "pml_cells": 6}, "pml_cells=6: need a multiple of degree=4"),
        ({"width_min": 0.1}, "width_min=0.1, width_max=0.06"),
        ({"location": "cell_center"}, "location='cell_center'"),
        ({"degree": 5}, "degree=5: input should be less than or equal to 4"),
        ({"omega": -1.0}, "omega=-1.0: input should be greater than 0"),
    ],
)
def test_bad_parameters_are_named_in_one_line(params, message):
    with pytest.raises(ProblemError, match=re.escape(message)) as e:
        get_problem("helmholtz", **params)
    assert "\n" not in str(e.value)
