import re

import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem

NAME = "convection_diffusion"


def test_own_checks_hold():
    checks = list(get_problem(NAME).checks())
    assert all(c.passed for c in checks), [str(c) for c in checks if not c.passed]
    assert sum(c.kind == "order" for c in checks) == 6


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
def test_flows_are_free_of_divergence_and_keep_to_walls(dim, boundary):
    problem = get_problem(NAME, velocity="stream", dim=dim, boundary=boundary, n_modes=3)
    flow = problem.sample(np.random.default_rng(0))["b"]
    n = 33 if dim == 3 else 65
    grid = problem.grid((n - (boundary == "periodic"),) * dim)
    b, h = flow(grid), grid.spacing[0]
    speed = np.linalg.norm(b, axis=-1).max()
    assert 0.9 < speed < 1.02
    inner = (slice(1, -1),) * dim
    divergence = sum(
        ((np.roll(b[..., k], -1, axis=k) - np.roll(b[..., k], 1, axis=k)) / (2 * h))[inner]
        for k in range(dim)
    )
    gradient = np.abs(np.gradient(b[..., 0], h, axis=0)).max()
    assert np.abs(divergence).max() < (0.02 if dim == 2 else 0.1) * gradient  # O(h^2)
    if boundary == "dirichlet":
        for k in range(dim):
            for side in (0, -1):
                assert np.abs(np.take(b[..., k], side, axis=k)).max() < 1e-12
    # a mixed flow has a mean one on top
    mixed = get_problem(NAME, velocity="mixed", dim=dim, boundary=boundary, n_modes=3)
    assert np.linalg.norm(mixed.sample(np.random.default_rng(0))["b"](grid).mean((0, 1))) > 0.1


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "robin", "mixed", "periodic"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_schemes_agree_within_their_errors(boundary, dim):
    problem = get_problem(NAME, boundary=boundary, dim=dim, diffusivity=0.2, n_modes=2)
    shape = problem.check_resolution((17 if dim < 3 else 9) - (boundary == "periodic"))
    inputs = problem.sample(np.random.default_rng(0))
    names = [s for s in problem.solvers if (s, boundary) != ("fenicsx", "periodic")]
    solutions = {s: problem.solve(inputs, shape, solver=s) for s in names}
    estimates = {
        s: problem.discretization_error(inputs, v, shape, solver=s) for s, v in solutions.items()
    }
    base = solutions["galerkin"].fields["u"]
    for s in names:
        gap = np.linalg.norm(solutions[s].fields["u"] - base) / np.linalg.norm(base)
        assert gap < 2 * (estimates[s] + estimates["galerkin"])
    kinds = {"mixed": ("dirichlet", "neumann")}.get(boundary, (boundary, boundary))
    assert problem.schema(shape).boundary_of("u")[0] == kinds


@pytest.mark.parametrize("solver", ["central", "exponential", "galerkin", "fenicsx"])
def test_estimates_are_honest(solver):
    problem = get_problem(NAME, diffusivity=0.05)
    inputs = problem.sample(np.random.default_rng(2))
    truth = problem.solve(inputs, (257, 257), solver="galerkin").fields["u"]
    for n in (33, 65):
        s = problem.solve(inputs, (n, n), solver=solver)
        step = 256 // (n - 1)
        error = np.linalg.norm(s.fields["u"] - truth[::step, ::step])
        error /= np.linalg.norm(truth[::step, ::step])
        estimate = problem.discretization_error(inputs, s, (n, n), solver=solver)
        assert 0.5 < estimate / error < 2


def test_bounds_at_large_peclet_numbers():
    problem = get_problem(
        NAME, diffusivity=1e-3, source="constant", reaction=2.0, max_cell_peclet=100.0
    )
    shape = problem.check_resolution(33)
    assert problem.choose_solver(shape) == "exponential"
    u = problem.schema(shape).field("u")
    assert (u.valid_min, u.valid_max) == (0.0, 0.5)
    for seed in range(3):
        s = problem.solve(problem.sample(np.random.default_rng(seed)), shape, solver="exponential")
        assert 0 <= s.fields["u"].min() and s.fields["u"].max() <= 0.5
    with pytest.raises(ProblemError, match=r"'central' needs max_cell_peclet <= 1\.9"):
        problem.check_solver("central")
    with pytest.raises(ProblemError, match=r"cell Peclet number is 31\.2, allowed") as e:
        get_problem(NAME, diffusivity=1e-3).check_resolution(33)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"diffusivity": 0.0}, "diffusivity=0.0: input should be greater than 0"),
        ({"boundary": "neumann", "reaction": 0.0}, "reaction=0.0: with boundary='neumann' need"),
        ({"velocity": "swirl"}, "velocity='swirl'"),
        ({"speed": -1.0}, "speed=-1.0"),
        ({"location": "cell_center"}, "location='cell_center'"),
    ],
)
def test_bad_parameters_are_named_in_one_line(params, message):
    with pytest.raises(ProblemError, match=re.escape(message)) as e:
        get_problem(NAME, **params)
    assert "\n" not in str(e.value)
