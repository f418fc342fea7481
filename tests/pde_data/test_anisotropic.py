import re

import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem

NAME = "anisotropic_diffusion"


def test_own_checks_hold():
    checks = list(get_problem(NAME).checks())
    assert all(c.passed for c in checks), [str(c) for c in checks if not c.passed]
    assert sum(c.kind == "order" for c in checks) == 7


def test_tensors_have_the_drawn_angle_and_ratio():
    problem = get_problem(NAME, ratio_max=50.0)
    grid = problem.grid((9, 9))
    ratios, angles = [], []
    for seed in range(400):
        tensor = problem.sample(np.random.default_rng(seed))["A"]
        A = tensor(grid)
        values, vectors = np.linalg.eigh(A)
        ratios.append(values[..., 1] / values[..., 0])
        np.testing.assert_allclose(ratios[-1], tensor.ratios[1], rtol=1e-9)
        angle = np.arctan2(vectors[..., 1, 1], vectors[..., 0, 1]) % np.pi
        gap = np.abs(angle - tensor.angle)
        assert np.minimum(gap, np.pi - gap).max() < 1e-6 or ratios[-1].max() < 1.001
        angles.append(tensor.angle)
    logs = np.log([r[0, 0] for r in ratios]) / np.log(50.0)
    for uniform in (logs, np.array(angles) / np.pi):  # means of 400 uniform numbers
        assert 0 <= uniform.min() and uniform.max() <= 1
        assert abs(uniform.mean() - 0.5) < 4.5 / np.sqrt(12 * 400)


def test_spread_of_the_logarithm_and_of_the_angle():
    problem = get_problem(NAME, sigma=0.3, angle_std=0.2, n_modes=8)
    grid = problem.grid((17, 17))
    power = []
    for seed in range(300):
        t = problem.sample(np.random.default_rng(seed))["A"]
        power.append([np.sum(grid.weights * f(grid) ** 2) for f in (t.log_a, t.turn)])
    power = np.array(power)
    error = power.std(0) / np.sqrt(300)
    assert np.all(np.abs(power.mean(0) - [0.09, 0.04]) < 4.5 * error)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "robin", "mixed", "periodic"])
def test_estimates_are_honest(boundary):
    problem = get_problem(NAME, boundary=boundary, ratio_max=5.0)
    inputs = problem.sample(np.random.default_rng(0))
    n = 33 - (boundary == "periodic")
    grid = problem.grid((n, n))
    truth = problem.solve(inputs, grid.refined(4).shape, solver="elements2").fields["u"][::4, ::4]
    for solver in ("elements1", "elements2", "fenicsx"):
        if solver == "fenicsx" and boundary in ("neumann", "periodic"):
            with pytest.raises(ProblemError, match="needs dirichlet, robin or mixed sides"):
                problem.check_solver(solver)
            continue
        s = problem.solve(inputs, (n, n), solver=solver)
        error = grid.norm(s.fields["u"] - truth) / grid.norm(truth)
        estimate = problem.discretization_error(inputs, s, (n, n), solver=solver)
        assert 0.5 < estimate / error < 2, (solver, estimate, error)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_all_solvers_agree_along_the_axes(dim):
    problem = get_problem(NAME, tensor="diagonal", dim=dim, ratio_max=5.0, n_modes=4)
    shape = (17,) * dim if dim < 3 else (9,) * 3
    inputs = problem.sample(np.random.default_rng(1))
    solutions = {s: problem.solve(inputs, shape, solver=s) for s in problem.solvers}
    errors = {
        s: problem.discretization_error(inputs, v, shape, solver=s) for s, v in solutions.items()
    }
    base = solutions["elements2"].fields["u"]
    for name, s in solutions.items():
        gap = np.linalg.norm(s.fields["u"] - base) / np.linalg.norm(base)
        assert gap <= 2 * (errors[name] + errors["elements2"])
        assert s.fields["u"].min() >= -1e-12
    assert problem.schema(shape).field("u").valid_min == 0.0
    assert get_problem(NAME).schema((9, 9)).field("u").valid_min is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tensor": "rotated", "dim": 3}, "dim=3: tensor='rotated' is defined for dim=2"),
        ({"tensor": "diagonal", "angle_std": 0.1}, "angle_std=0.1 has no effect"),
        ({"ratio_max": 0.5}, "ratio_max=0.5: input should be greater than or equal to 1"),
        ({"sigma": -1.0}, "sigma=-1.0"),
    ],
)
def test_bad_parameters_are_named_in_one_line(params, message):
    with pytest.raises(ProblemError, match=re.escape(message)) as e:
        get_problem(NAME, **params)
    assert "\n" not in str(e.value)
    with pytest.raises(ProblemError, match="'direct' needs tensor='diagonal'"):
        get_problem(NAME).check_solver("direct")
