import hashlib
import re

import numpy as np
import pytest

from pde_data.hdf5.schema import DatasetConfig
from pde_data.problem import ProblemError, get_problem
from pde_data.problems.darcy import PRESETS
from solvers.verify import observed_order


def solved(n, *, seed=0, solver="direct", **params):
    problem = get_problem("darcy", **params)
    return problem.solve(problem.sample(np.random.default_rng(seed)), (n, n), solver=solver)


def dense_solution(a, f, h, average):
    """Vertex-centered finite volumes, one equation at a time."""
    n = len(a)
    A, b = np.zeros((n * n, n * n)), np.zeros(n * n)
    for i in range(n):
        for j in range(n):
            row = i * n + j
            if i in (0, n - 1) or j in (0, n - 1):
                A[row, row] = 1.0
                continue
            b[row] = f * h * h
            for p, q in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                s = a[i, j], a[p, q]
                k = 2 / (1 / s[0] + 1 / s[1]) if average == "harmonic" else sum(s) / 2
                A[row, row] += k
                A[row, p * n + q] -= k
    return np.linalg.solve(A, b).reshape(n, n)


@pytest.mark.parametrize("average", ["harmonic", "arithmetic"])
@pytest.mark.parametrize("coefficient", ["two_valued", "log_normal", "smooth"])
@pytest.mark.parametrize("solver", ["direct", "pyamg", "structured"])
def test_equals_brute_force(coefficient, average, solver):
    s = solved(13, coefficient=coefficient, average=average, forcing=2.5, solver=solver)
    truth = dense_solution(s.fields["a"], 2.5, 1 / 12, average)
    # residual 1e-10 times the condition number, below 1e3 here
    np.testing.assert_allclose(s.fields["u"], truth, rtol=0, atol=1e-8 * truth.max())


def test_constant_coefficient_gives_the_series():
    """a = 3: u = sum 16 / (3 pi^4 i j (i^2 + j^2)) sin sin over odd i, j."""
    k = np.arange(1, 400, 2)
    sign = (-1.0) ** ((k - 1) // 2)
    s = np.outer(sign / k, sign / k) / (k[:, None] ** 2 + k**2)
    center = 16 / (3 * np.pi**4) * s.sum()
    errors, h = [], []
    for n in (17, 33, 65):
        u = solved(n, coefficient="smooth", low=3.0, high=3.0 * (1 + 1e-12)).fields["u"]
        errors.append(abs(u[n // 2, n // 2] - center))
        h.append(1 / (n - 1))
    assert errors[-1] < center / 64**2
    assert abs(observed_order(errors, h) - 2) < 0.2


def test_the_kinds_of_coefficient():
    a = solved(65).fields["a"]
    assert set(np.unique(a)) == {3.0, 12.0}
    assert set(np.unique(solved(17, low=1.0, high=2.0).fields["a"])) == {1.0, 2.0}
    smooth = solved(65, coefficient="smooth").fields["a"]
    assert 3 < smooth.min() < smooth.max() < 12
    problem = get_problem("darcy", coefficient="log_normal", sigma=0.5, n_modes=32)
    logs = [
        np.log(problem.sample(np.random.default_rng(s))["a"](problem.grid((33, 33))))
        for s in range(400)
    ]
    weights = problem.grid((33, 33)).weights
    power = np.array([np.sum(weights * x**2) for x in logs])
    # mean over 400 independent samples; the spread of `power` gives its standard error
    assert abs(power.mean() - 0.25) < 4 * power.std() / 20


def test_two_valued_samples_have_both_values():
    """Without the constant mode the field changes sign, so no two samples are one constant."""
    problem = get_problem("darcy")
    for s in range(50):
        a = problem.sample(np.random.default_rng(s))["a"](problem.grid((65, 65)))
        assert {3.0, 12.0} == set(np.unique(a))


def test_scaling_laws():
    base = solved(33)
    np.testing.assert_allclose(solved(33, forcing=7.0).fields["u"], 7 * base.fields["u"], rtol=1e-9)
    tenfold = solved(33, low=30.0, high=120.0)
    np.testing.assert_allclose(tenfold.fields["u"], base.fields["u"] / 10, rtol=1e-9, atol=1e-15)
    # twice the length: the same picture, four times the pressure
    double = solved(33, bounds=((1.0, 3.0), (0.0, 2.0)), tau=1.5)
    assert np.array_equal(double.fields["a"], base.fields["a"])
    np.testing.assert_allclose(double.fields["u"], 4 * base.fields["u"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("location", ["node", "cell_center"])
def test_bounds_of_the_pressure(location):
    problem = get_problem("darcy", location=location, bounds=((0.0, 1.5), (0.0, 1.0)))
    u = problem.schema((33, 33)).field("u")
    assert u.valid_min == 0 and u.location == location
    assert u.valid_max == pytest.approx(1.5 / (4 * np.pi * 3))
    # nearly all low: the bound is tight
    tight = get_problem("darcy", location=location, low=3.0, high=3.0000001)
    s = tight.solve(tight.sample(np.random.default_rng(0)), (33, 33), solver="direct")
    bound = tight.schema((33, 33)).field("u").valid_max
    assert 0.9 * bound < s.fields["u"].max() < bound
    log_normal = get_problem("darcy", coefficient="log_normal").schema((33, 33))
    assert log_normal.field("u").valid_max is None and log_normal.field("a").valid_min == 0


def test_cells_and_nodes_converge_to_each_other():
    nodes = solved(129, coefficient="smooth").fields["u"]
    gaps, h = [], []
    for n in (16, 32, 64):
        cells = solved(n, coefficient="smooth", location="cell_center").fields["u"]
        step = 128 // n
        at_centers = nodes[step // 2 :: step, step // 2 :: step]
        gaps.append(np.linalg.norm(cells - at_centers) / np.linalg.norm(at_centers))
        h.append(1 / n)
    assert gaps[-1] < 1e-3
    assert abs(observed_order(gaps, h) - 2) < 0.25


def test_estimate_for_two_valued_coefficients():
    """Order one, as the class says: the estimate is near the true error, hardly below it."""
    problem = get_problem("darcy")
    assert problem.convergence_order("structured") == 1.0
    ratios = []
    for seed in range(4):
        inputs = problem.sample(np.random.default_rng(seed))
        fine = problem.solve(inputs, (513, 513), solver="structured").fields["u"]
        for n in (33, 65):
            s = problem.solve(inputs, (n, n), solver="structured")
            truth = fine[:: 512 // (n - 1), :: 512 // (n - 1)]
            error = np.linalg.norm(s.fields["u"] - truth) / np.linalg.norm(truth)
            estimate = problem.discretization_error(inputs, s, (n, n), solver="structured")
            ratios.append(estimate / error)
    assert 0.8 < min(ratios) and max(ratios) < 2.5
    assert 1.0 < np.median(ratios) < 1.6


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"coefficient": "twovalued"}, "coefficient='twovalued'"),
        ({"low": -1.0}, "low=-1.0: input should be greater than 0"),
        ({"low": 5.0, "high": 5.0}, "low=5.0, high=5.0: need low < high"),
        ({"coefficient": "log_normal", "low": 2.0}, "low=2.0 has no effect"),
        ({"sigma": 1.0}, "sigma=1.0 has no effect with coefficient='two_valued'"),
        ({"forcing": 0.0}, "forcing=0.0: input should be greater than 0"),
        ({"tau": "x"}, "tau='x'"),
        ({"n_modes": 1}, "n_modes=1: input should be greater than or equal to 2"),
        ({"bounds": ((0, 1), (1, 0))}, "need finite ends, lower < upper"),
        ({"bounds": ((0, 1),)}, "need 2 (lower, upper) pairs, dim=2"),
        ({"dim": 4}, "dim=4: input should be less than or equal to 3"),
        ({"dim": 3, "coefficient": "multiscale"}, "dim=3: coefficient='multiscale' is defined for"),
        ({"coefficient": "multiscale", "alpha": 2.0}, "alpha=2.0 has no effect"),
        ({"coefficient": "multiscale", "boundary": "periodic"}, "is not periodic"),
        ({"preset": "mgno"}, "preset='mgno'"),
        ({"boundary": "open"}, "boundary='open'"),
        ({"location": "cell_center", "solve_refinement": 2}, "solve_refinement=2: with location="),
        ({"transfer": 0.0}, "transfer=0.0: input should be greater than 0"),
        ({"average": "geometric"}, "average='geometric'"),
    ],
)
def test_bad_parameters_are_named_in_one_line(params, message):
    with pytest.raises(ProblemError, match=re.escape(message)) as e:
        get_problem("darcy", **params)
    assert "\n" not in str(e.value) and str(e.value).startswith("darcy: ")


def test_fenicsx_refuses_cells():
    problem = get_problem("darcy", location="cell_center")
    with pytest.raises(ProblemError, match="solver 'fenicsx' needs location='node'"):
        problem.check_solver("fenicsx")


def test_datasets_of_the_first_version_can_be_continued():
    """Configuration and samples as they were before dim, boundary and presets were added."""
    problem = get_problem("darcy")
    params = problem.params.model_dump(mode="json")
    config = DatasetConfig(
        "darcy", params, (65, 65), "float32", 0, "structured", 1e-10, {"train": 1}
    )
    assert config.sha256 == "88743aec0b96ecbc215c67bb393dda35ac1c034777eced0c9366e155be4e5464"
    a = problem.sample(np.random.default_rng(0))["a"](problem.grid((33, 33)))
    digest = hashlib.sha256((a == 12).astype(np.uint8).tobytes()).hexdigest()
    assert digest == "947061b4171c77d19bcc9083273d5de59586ba01a3bbb55c4af54347a821ee82"
    # parameters that differ are stored, and bring the problem back
    other = get_problem("darcy", preset="mgno_rough", dim=2, boundary="robin")
    stored = other.params.model_dump(mode="json")
    assert stored["boundary"] == "robin" and stored["solve_refinement"] == 2
    assert get_problem("darcy", **stored).params == other.params


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_store_points_of_the_finer_grid(preset):
    problem = get_problem("darcy", preset=preset)
    p, r = problem.params, problem.params.solve_refinement
    inputs = problem.sample(np.random.default_rng(0))
    s = problem.solve(inputs, (17, 17), solver="direct")
    fine = get_problem("darcy", preset=preset, solve_refinement=1)
    n = 16 * r + 1
    t = fine.solve(inputs, (n, n), solver="direct")
    assert s.fields["u"].shape == (17, 17)
    for name in ("a", "u"):
        assert np.array_equal(s.fields[name], t.fields[name][::r, ::r])
    expected = {"mgno_rough": (5.0, 2.0, 12.0), "mgno_multiscale": (3.0, None, None)}
    assert (p.tau, p.low, p.high) == expected.get(preset, (3.0, 3.0, 12.0))
    assert get_problem("darcy", preset=preset, forcing=2.0).params.forcing == 2.0
    bounds = problem.schema((17, 17)).field("a")
    assert bounds.valid_min <= s.fields["a"].min() and s.fields["a"].max() <= bounds.valid_max


def test_cells_of_the_finer_grid():
    problem = get_problem("darcy", location="cell_center", solve_refinement=3, coefficient="smooth")
    fine = get_problem("darcy", location="cell_center", coefficient="smooth")
    inputs = problem.sample(np.random.default_rng(0))
    s = problem.solve(inputs, (8, 8), solver="direct")
    t = fine.solve(inputs, (24, 24), solver="direct")
    assert np.array_equal(s.fields["u"], t.fields["u"][1::3, 1::3])
    np.testing.assert_allclose(s.fields["a"], inputs["a"](problem.grid((8, 8))), rtol=1e-12)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "robin", "mixed", "periodic"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_sides_and_dimensions(boundary, dim):
    problem = get_problem("darcy", boundary=boundary, dim=dim, coefficient="log_normal", n_modes=4)
    shape = (12,) * dim
    schema = problem.schema(shape)
    inputs = problem.sample(np.random.default_rng(0))
    solutions = {}
    for solver in ("structured", "pyamg", "direct", "fenicsx"):
        if solver == "fenicsx" and boundary == "periodic":
            with pytest.raises(ProblemError, match="no periodic sides"):
                problem.check_solver(solver)
            continue
        s = problem.solve(inputs, shape, solver=solver)
        solutions[solver] = s.fields["u"]
        assert s.residual <= 1e-10
    base = solutions["direct"]
    kinds = schema.boundary_of("u")[0]
    expected = {"mixed": ("dirichlet", "neumann")}.get(boundary, (boundary, boundary))
    assert kinds == expected
    for name, u in solutions.items():
        # the same equations to 1e-10 times the condition; elements differ by the error of both
        limit = 0.2 if name == "fenicsx" else 1e-7
        assert np.linalg.norm(u - base) <= limit * np.linalg.norm(base)
    if boundary in ("neumann", "periodic"):
        assert abs(np.sum(schema.grid.weights * base)) < 1e-12
    else:
        assert base.min() >= 0


def test_own_checks_hold():
    for check in get_problem("darcy").checks():
        assert check.passed, check
