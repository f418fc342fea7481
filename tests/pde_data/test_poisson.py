import re

import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem
from pde_data.problems.poisson import inverse_laplacian


def test_own_checks_hold():
    checks = list(get_problem("poisson").checks())
    assert all(c.passed for c in checks), [str(c) for c in checks if not c.passed]
    assert sum(c.kind == "order" for c in checks) == 7


def test_inverse_laplacian_of_one_wave():
    problem = get_problem("poisson", source="sine_sum", n_modes=2, bounds=((0, 2), (0, 1)))
    f = problem.sample(np.random.default_rng(0))["f"]
    grid = problem.grid((33, 17))
    x, y = grid.meshgrid()
    total = np.zeros(grid.shape)
    for k in (1, 2):
        for m in (1, 2):
            wave = np.sin(np.pi * k * x / 2) * np.sin(np.pi * m * y)
            total += (
                np.sum(grid.weights * f(grid) * wave) * 2 * wave / (np.pi**2 * (k * k / 4 + m * m))
            )
    np.testing.assert_allclose(inverse_laplacian(f)(grid), total, atol=1e-12)


@pytest.mark.parametrize("source", ["gaussian_field", "bumps", "sine_sum"])
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "robin", "mixed", "periodic"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_source_with_every_side(source, boundary, dim):
    if source == "sine_sum" and boundary == "periodic":
        with pytest.raises(ProblemError, match="half waves are not periodic"):
            get_problem("poisson", source=source, boundary=boundary, dim=dim)
        return
    problem = get_problem("poisson", source=source, boundary=boundary, dim=dim, n_modes=4)
    shape = (13,) * dim if dim < 3 else (7,) * 3
    inputs = problem.sample(np.random.default_rng(0))
    schema = problem.schema(shape)
    solver = problem.choose_solver(shape)
    s = problem.solve(inputs, shape, solver=solver)
    t = problem.solve(inputs, shape, solver="direct")
    u = s.fields["u"]
    # rounding and the tolerance times the condition number
    assert np.linalg.norm(u - t.fields["u"]) <= 1e-7 * np.linalg.norm(u)
    assert s.fields["f"].std() > 0 and s.residual <= 1e-10
    if boundary in ("neumann", "periodic"):
        w = schema.grid.weights
        assert abs(np.sum(w * s.fields["f"])) < 1e-12 * np.abs(s.fields["f"]).max()
        assert abs(np.sum(w * u)) < 1e-12


def test_random_boundary_data_are_met():
    problem = get_problem("poisson", boundary="mixed", boundary_data="random")
    s = problem.solve(problem.sample(np.random.default_rng(0)), (33, 33), solver="structured")
    u, g = s.fields["u"], s.fields["g"]
    assert np.array_equal(u[0], g[0]) and np.array_equal(u[:, 0], g[:, 0])
    slope = (3 * u[-1] - 4 * u[-2] + u[-3]) * 16  # du/dn at the upper side, second order
    # in the corner with the Dirichlet side the two data do not match
    np.testing.assert_allclose(slope[8:], g[-1, 8:], atol=0.05)
    schema = problem.schema((33, 33))
    assert schema.inputs == ("f", "g") and schema.boundary_of("u")[0] == ("none", "none")
    robin = get_problem("poisson", boundary="robin", boundary_data="random")
    assert robin.schema((9, 9)).boundary_of("u")[0] == ("none", "none")
    known = get_problem("poisson", boundary="robin", transfer=3.0).schema((9, 9))
    assert known.boundary_conditions[0].coefficients == (3.0, 1.0)


def test_refinement_stores_a_smaller_error():
    errors = []
    for r in (1, 2, 4):
        problem = get_problem("poisson", source="sine_sum", n_modes=3, solve_refinement=r)
        inputs = problem.sample(np.random.default_rng(0))
        s = problem.solve(inputs, (17, 17), solver="direct")
        exact = inverse_laplacian(inputs["f"])(problem.grid((17, 17)))
        errors.append(np.linalg.norm(s.fields["u"] - exact) / np.linalg.norm(exact))
        estimate = problem.discretization_error(inputs, s, (17, 17), solver="direct")
        assert 0.8 < estimate / errors[-1] < 1.25
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.1)


@pytest.mark.parametrize("boundary", ["robin", "periodic", "mixed"])
def test_estimates_with_other_sides(boundary):
    problem = get_problem("poisson", boundary=boundary, n_modes=6)
    inputs = problem.sample(np.random.default_rng(1))
    base = 32 + (boundary != "periodic")
    fine = problem.grid((base, base)).refined(8).shape
    truth = problem.solve(inputs, fine, solver="structured").fields["u"][::8, ::8]
    s = problem.solve(inputs, (base, base), solver="structured")
    w = problem.grid((base, base)).weights
    error = np.sqrt(np.sum(w * (s.fields["u"] - truth) ** 2) / np.sum(w * truth**2))
    estimate = problem.discretization_error(inputs, s, (base, base), solver="structured")
    assert 0.5 < estimate / error < 2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_bumps": 7}, "n_bumps=7 has no effect with source='gaussian_field'"),
        ({"source": "bumps", "alpha": 3.0}, "alpha=3.0 has no effect with source='bumps'"),
        ({"source": "bumps", "width_min": 0.3}, "width_min=0.3, width_max=0.2: need min <= max"),
        (
            {"source": "bumps", "boundary": "periodic", "width_max": 0.3},
            "width_max=0.3: with periodic sides at most 0.25",
        ),
        ({"boundary_data": "random", "boundary": "neumann"}, "needs dirichlet, robin or mixed"),
        ({"boundary_data": "random", "location": "cell_center"}, "needs location='node'"),
        ({"source": "sines"}, "source='sines'"),
        ({"amplitude": 0.0}, "amplitude=0.0"),
    ],
)
def test_bad_parameters_are_named_in_one_line(params, message):
    with pytest.raises(ProblemError, match=re.escape(message)) as e:
        get_problem("poisson", **params)
    assert "\n" not in str(e.value)
