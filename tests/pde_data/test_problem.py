import re
from typing import ClassVar

import numpy as np
import pytest
from pydantic import Field

from pde_data import problem as module
from pde_data.hdf5 import BoundarySpec, DatasetSchema, FieldSpec
from pde_data.problem import (
    Parameters,
    Problem,
    ProblemError,
    Solution,
    get_problem,
    register,
    restrict_to,
)
from solvers.diffusion import solve_diffusion
from solvers.grids import Axis, Grid
from solvers.names import UnknownNameError
from solvers.result import SolverUnavailable


class ManufacturedParameters(Parameters):
    location: str = "node"
    wave: float = Field(1.0, gt=0, description="half waves across the square")


class Manufactured(Problem):
    """-div((2 + sin(x + 2y)) grad u) = f with u = sin(pi w x) sin(pi y)."""

    name, title, dim, equation = "manufactured", "A known solution", 2, "-div(a grad u) = f"
    solvers: ClassVar[tuple[str, ...]] = ("structured", "direct", "pyamg", "fenicsx")
    Params = ManufacturedParameters

    def schema(self, resolution, dtype="float32"):
        location = self.params.location
        return DatasetSchema(
            self.name,
            self.title,
            Grid(
                tuple(Axis(x, n, location=location) for x, n in zip("xy", resolution, strict=True))
            ),
            (FieldSpec("f", "source", location=location), FieldSpec("u", "u", location=location)),
            ("f",),
            ("u",),
            boundary_conditions=tuple(BoundarySpec(x, "dirichlet", ("u",)) for x in "xy"),
            dtype=dtype,
        )

    def exact(self, grid):
        x, y = grid.meshgrid()
        return np.sin(np.pi * self.params.wave * x) * np.sin(np.pi * y)

    def sample(self, rng):
        return None

    def solve(self, inputs, resolution, *, solver, rtol=1e-10):
        grid, w = self.schema(resolution).grid, self.params.wave
        x, y = grid.meshgrid()
        a = 2 + np.sin(x + 2 * y)
        ax, ay = np.cos(x + 2 * y), 2 * np.cos(x + 2 * y)
        sx, cx = np.sin(np.pi * w * x), np.pi * w * np.cos(np.pi * w * x)
        sy, cy = np.sin(np.pi * y), np.pi * np.cos(np.pi * y)
        f = a * np.pi**2 * (1 + w**2) * sx * sy - ax * cx * sy - ay * sx * cy
        r = solve_diffusion(a, f, grid, solver=solver, rtol=rtol)
        return Solution({"f": f, "u": r.x}, r.residual, r.iterations, r.seconds, r.solver)

    def choose_solver(self, resolution):
        return "structured"


def available(problem: Problem, solver: str) -> str:
    """The solver, or skip if its package is missing."""
    try:
        n = 9
        problem.solve(problem.sample(np.random.default_rng(0)), (n,) * problem.dim, solver=solver)
    except SolverUnavailable as e:
        pytest.skip(str(e))
    return solver


# -- Darcy at several settings; tests/pde_data/test_every_problem.py has every problem ------------

CASES = [
    (name, params)
    for name, variants in {
        "darcy": [
            {},
            {"coefficient": "log_normal"},
            {"coefficient": "smooth", "average": "arithmetic"},
            {"bounds": ((0.0, 2.0), (-1.0, 0.0)), "forcing": 3.0},
        ],
    }.items()
    for params in variants
]


@pytest.mark.parametrize(("name", "params"), CASES)
def test_solvers_agree_on_the_same_inputs(name, params):
    problem = get_problem(name, **params)
    resolution, rtol = (33,) * problem.dim, 1e-10
    schema = problem.schema(resolution, "float64")
    weights = schema.grid.weights
    for seed in range(4):
        found = {}
        for solver in problem.solvers:
            inputs = problem.sample(np.random.default_rng(seed))
            try:
                s = problem.solve(inputs, resolution, solver=solver, rtol=rtol)
            except SolverUnavailable:
                continue
            assert 0 <= s.residual <= 10 * rtol and s.seconds > 0 and s.iterations >= 0
            error = problem.discretization_error(inputs, s, resolution, solver=solver, rtol=rtol)
            assert 0 < error < 0.2
            for spec in schema.fields:
                values = s.fields[spec.name]
                assert values.dtype == np.float64
                assert values.shape == schema.sample_shape(spec.name)
                assert spec.valid_min is None or values.min() >= spec.valid_min
                assert spec.valid_max is None or values.max() <= spec.valid_max
            found[solver] = (s, error)
        assert len(found) >= 3
        first, first_error = found[problem.solvers[0]]
        for solver, (s, error) in found.items():
            for x in schema.inputs:
                assert np.array_equal(s.fields[x], first.fields[x]), (solver, x)
            for u in schema.outputs:
                norm = np.sqrt(np.sum(weights * first.fields[u] ** 2))
                gap = np.sqrt(np.sum(weights * (s.fields[u] - first.fields[u]) ** 2)) / norm
                assert gap <= first_error + error, (solver, u)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_inputs_are_functions_of_space(name, params):
    """What is drawn does not depend on the resolution it is solved at."""
    problem = get_problem(name, **params)
    solver = problem.choose_solver((17,) * problem.dim)
    inputs = problem.sample(np.random.default_rng(11))
    coarse = problem.solve(inputs, (17,) * problem.dim, solver=solver)
    fine = problem.solve(inputs, (33,) * problem.dim, solver=solver)
    grid = problem.schema((17,) * problem.dim).grid
    for x in problem.schema((17,) * problem.dim).inputs:
        shared = restrict_to(grid, grid.refined(2), fine.fields[x])
        np.testing.assert_allclose(coarse.fields[x], shared, rtol=0, atol=1e-11)


# -- the error estimate --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "solver"),
    [("node", "structured"), ("node", "direct"), ("node", "fenicsx"), ("cell_center", "structured"),
     ("cell_center", "direct")],
)  # fmt: skip
@pytest.mark.parametrize("wave", [1.0, 3.0])
def test_estimate_is_within_a_factor_two_of_the_truth(location, solver, wave):
    problem = Manufactured(location=location, wave=wave)
    available(problem, solver)
    n0 = 17 if location == "node" else 16
    for n in (n0, 2 * n0 - (location == "node"), 4 * n0 - 3 * (location == "node")):
        s = problem.solve(None, (n, n), solver=solver)
        grid = problem.schema((n, n)).grid
        exact = problem.exact(grid)
        truth = grid.norm(s.fields["u"] - exact) / grid.norm(exact)
        estimate = problem.discretization_error(None, s, (n, n), solver=solver)
        assert truth / 2 < estimate < 2 * truth, (n, estimate / truth)


def test_estimate_takes_the_worst_output_and_knows_time_and_components():
    class Two(Manufactured):
        def schema(self, resolution, dtype="float32"):
            grid = super().schema(resolution).grid
            fields = (
                FieldSpec("f", "f"),
                FieldSpec("u", "u", time_varying=True),
                FieldSpec("v", "v", "m", rank=1),
            )
            return DatasetSchema(
                "two", "two", grid, fields, ("f",), ("u", "v"),
                problem_type="time_dependent", time=(0.0, 1.0),
            )  # fmt: skip

        def solve(self, inputs, resolution, *, solver, rtol=1e-10):
            h = 1.0 / (resolution[0] - 1)
            u = np.full((2, *resolution), 1.0 + h**2)
            v = np.full((*resolution, 2), 1e6 * (1.0 + 3 * h**2))
            return Solution({"f": np.zeros(resolution), "u": u, "v": v}, 0.0, 0, 0.0, solver)

    problem = Two()
    s = problem.solve(None, (11, 11), solver="direct")
    estimate = problem.discretization_error(None, s, (11, 11), solver="direct")
    assert estimate == pytest.approx(3 * 0.1**2, rel=0.03)


def test_restriction_keeps_cubics_and_other_axes():
    rng = np.random.default_rng(0)
    grid = Grid((Axis("x", 6, location="cell_center"), Axis("y", 5, -1.0, 1.0)))
    cx, cy = rng.standard_normal((2, 4))

    def cubic(g):
        x, y = g.meshgrid()
        return np.polyval(cx, x) * np.polyval(cy, y)

    fine = grid.refined(2)
    np.testing.assert_allclose(restrict_to(grid, fine, cubic(fine)), cubic(grid), atol=1e-12)
    stack = np.stack([cubic(fine), 2 * cubic(fine)])[..., None]
    out = restrict_to(grid, fine, stack, first_axis=1)
    np.testing.assert_allclose(out[1, ..., 0], 2 * cubic(grid), atol=1e-12)
    with pytest.raises(ValueError, match="u has 6 points on axis 'x', expected 12"):
        restrict_to(grid, fine, cubic(grid))


def test_restriction_wraps_around_periodic_cells():
    grid = Grid((Axis("x", 64, location="cell_center", periodic=True),))
    fine = grid.refined(2)
    u = [np.sin(2 * np.pi * g.coords[0] + 1) for g in (grid, fine)]
    # midpoint interpolation with step H: error 3/128 H^4 |u''''|
    bound = 3 / 128 * (1 / 128) ** 4 * (2 * np.pi) ** 4 * 1.01
    assert np.abs(restrict_to(grid, fine, u[1]) - u[0]).max() < bound


# -- names and values ----------------------------------------------------------------------------


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'darcy'"):
        get_problem("darcey")
    with pytest.raises(ProblemError, match=r"has no parameter 'forcin'\. Did you mean 'forcing'"):
        get_problem("darcy", forcin=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'pyamg'"):
        get_problem("darcy").check_solver("pyamgg")


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        (4, "resolution=4: manufactured needs at least 5"),
        (0, "resolution=0: manufactured needs at least 5"),
        (33.5, "resolution=33.5: need an integer >= 5"),
        (True, "resolution=True: need an integer"),
        ("33", "resolution='33': need an integer"),
        ((33, 33, 33), "has 3 entries; manufactured has 2 axes"),
    ],
)
def test_bad_resolutions_are_named(resolution, message):
    with pytest.raises(ProblemError, match=re.escape(message)):
        Manufactured().check_resolution(resolution)


def test_good_resolutions():
    problem = Manufactured()
    assert problem.check_resolution(33) == problem.check_resolution((33,)) == (33, 33)
    assert problem.check_resolution((9, 17)) == (9, 17)
    assert problem.check_resolution(None) == (problem.default_resolution,) * 2
    assert problem.check_resolution(np.int64(9)) == (9, 9)


def test_registering_twice_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "_CLASSES", dict(module._CLASSES))
    register(Manufactured)
    register(Manufactured)  # the same class again, as a notebook does
    assert get_problem("manufactured", wave=2.0).params.wave == 2.0
    other = type("Other", (Manufactured,), {})
    with pytest.raises(ValueError, match="'manufactured' is registered already"):
        register(other)


def test_packages_stay_light():
    import subprocess
    import sys

    code = (
        "import sys, pde_data, pde_data.problem; "
        "sys.exit(bool({'torch', 'dolfinx', 'h5py', 'scipy', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_can_be_imported():
    import pde_data

    for name in pde_data.__all__:
        assert getattr(pde_data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        pde_data.generat  # noqa: B018
