import re
from typing import ClassVar

import numpy as np
import pytest
from pydantic import Field

from pde_data.fields import RandomWaves
from pde_data.hdf5.schema import FieldSpec, ScalarSpec
from pde_data.problem import ProblemError, Solution, get_problem
from pde_data.problems._evolution import Evolution, EvolutionParameters, space_time_error
from solvers import Grid, SolverDidNotConverge

PERIODIC = (
    "advection", "allen_cahn", "burgers", "burgers_2d", "cahn_hilliard", "fitzhugh_nagumo",
    "gray_scott", "kdv", "kuramoto_sivashinsky", "navier_stokes",
)  # fmt: skip


class DecayParameters(EvolutionParameters):
    horizon: float | None = Field(None, gt=0, description="errors count up to here")
    bounds: tuple[tuple[float, float], ...] = Field(((0.0, 2.0),), description="the interval")


class Decay(Evolution):
    """u = exp(-t) cos(pi x) with an error c (h^2 + dt^2) (1 + t) cos(pi x) built in."""

    name, title, dim, equation = "decay", "Known errors", 1, "u_t = -u"
    solvers: ClassVar[tuple[str, ...]] = ("made_up",)
    Params = DecayParameters

    def input_specs(self):
        return (FieldSpec("u0", "start"), ScalarSpec("c", "size of the error"))

    def output_specs(self):
        return (FieldSpec("u", "solution", time_varying=True),)

    def sample(self, rng):
        return float(rng.random())

    def evolve(self, inputs, grid, times, *, solver, rtol, refine=1.0):
        wave = np.cos(np.pi * grid.axes[0].coords)
        h, dt = grid.spacing[0], 0.01 / refine
        amplitude = np.exp(-times) + inputs * (h**2 + dt**2) * (1 + times)
        u = np.multiply.outer(amplitude, wave)
        return Solution({"u0": u[0], "u": u}, 0.0, 1, 1.0, solver, {"c": inputs}, time_error=dt**2)


def test_schema_and_stored_times():
    problem = Decay(t_end=3.0, n_times=7)
    schema = problem.schema((16,), "float64")
    assert schema.time == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    assert schema.problem_type == "time_dependent"
    assert schema.inputs == ("u0", "c") and schema.outputs == ("u",)
    assert schema.sample_shape("u") == (7, 16) and schema.sample_shape("u0") == (16,)
    assert schema.grid.bounds == ((0.0, 2.0),) and schema.grid.periodic == (True,)
    assert schema.boundary_of("u") == (("periodic", "periodic"),)
    assert [s.name for s in schema.scalars] == ["c"]
    assert problem.choose_solver((16,)) == "made_up"
    s = problem.solve(0.5, (16,), solver="made_up")
    assert s.fields["u"].shape == (7, 16)
    with pytest.raises(ValueError, match="solver of decay"):
        problem.solve(0.5, (16,), solver="spectral")


def test_discretization_error_refines_space_and_time():
    """Second order in both: Richardson gives the built-in error up to that of the truth's norm."""
    problem = Decay(t_end=2.0, n_times=41)
    s = problem.solve(0.5, (16,), solver="made_up")
    times = problem.times
    w = np.full(41, 0.05)
    w[[0, -1]] /= 2
    built_in = 0.5 * (0.125**2 + 0.01**2)
    truth = np.sqrt(np.sum(w * (built_in * (1 + times)) ** 2) / np.sum(w * np.exp(-2 * times)))
    estimate = problem.discretization_error(0.5, s, (16,), solver="made_up")
    assert estimate == pytest.approx(truth, rel=0.02)
    early = Decay(t_end=2.0, n_times=41, horizon=0.5)
    assert early.discretization_error(0.5, s, (16,), solver="made_up") < 0.6 * estimate


def test_space_time_error_by_hand():
    grid = Grid.unit(3, dim=1)  # weights 1/4, 1/2, 1/4
    times = np.array([0.0, 1.0, 4.0])  # weights 1/2, 2, 3/2
    v = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    u = v + np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [4.0, 0.0, 0.0]])
    # |v|^2 = 1/2 + 2 * 4, |u - v|^2 = 2 * 1/2 + 3/2 * 16/4
    assert space_time_error({"u": u}, {"u": v}, grid, times) == pytest.approx(np.sqrt(7 / 8.5))
    # up to t = 1: |v|^2 = 1/2 + 1/2 * 4, |u - v|^2 = 1/2 * 1/2
    got = space_time_error({"u": u}, {"u": v}, grid, times, horizon=1.0)
    assert got == pytest.approx(np.sqrt(0.25 / 2.5))
    # the worst of several fields; a vector counts as one field
    two = {"a": np.stack([u, v], -1), "b": v}, {"a": np.stack([v, v], -1), "b": v}
    assert space_time_error(*two, grid, times) == pytest.approx(np.sqrt(7 / 17))
    assert space_time_error({"u": u}, {"u": 0 * v}, grid, times) == np.inf
    assert space_time_error({"u": v}, {"u": v}, grid, times) == 0
    assert np.isnan(space_time_error({"u": u * np.nan}, {"u": v}, grid, times))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"t_end": 0.0}, "t_end=0.0: input should be greater than 0"),
        ({"n_times": 1}, "n_times=1: input should be greater than or equal to 2"),
        ({"time_rtol": 1.0}, "time_rtol=1.0: input should be less than or equal to 0.1"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ProblemError, match=re.escape(message)):
        Decay(**params)


# -- the periodic problems -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PERIODIC)
def test_time_error_is_honest(name):
    """The stored estimate against the distance to a solution with steps so short it is exact."""
    cls = type(get_problem(name))
    problem = get_problem(name, **{**cls.quick_params, "time_rtol": 1e-5})
    resolution = problem.check_resolution(
        min(cls.quick_resolution, 32) // (2 if problem.dim > 1 else 1)
    )
    grid = problem.grid(resolution)
    inputs = problem.sample(np.random.default_rng(5))
    u0 = problem.initial(inputs, grid)
    r = problem.run(u0, grid, problem.times, inputs=inputs)
    truth = problem.run(u0, grid, problem.times, inputs=inputs, rtol=1e-9)
    found, exact = problem.unpack(r.x), problem.unpack(truth.x)
    names = [f.name for f in problem.output_specs()]
    error = space_time_error(
        {n: found[n] for n in names}, {n: exact[n] for n in names}, grid, problem.times
    )
    if name == "advection":  # exact
        assert error < 1e-13 and r.info["time_error"] < 1e-13
        return
    assert r.info["time_error"] <= 1e-5
    assert 0.5 < r.info["time_error"] / error < 3.0


@pytest.mark.parametrize("name", PERIODIC)
def test_samples_do_not_depend_on_the_grid_and_store_their_input(name):
    cls = type(get_problem(name))
    problem = get_problem(name, **{**cls.quick_params, "n_times": 2, "t_end": 1e-3})
    n = cls.quick_resolution
    coarse, fine = (problem.grid((k,) * problem.dim) for k in (n // 2, n))
    inputs = problem.sample(np.random.default_rng(0))
    every = (..., *(slice(None, None, 2),) * problem.dim)
    start = problem.initial(inputs, fine)[every]
    np.testing.assert_allclose(problem.initial(inputs, coarse), start, atol=1e-12)
    schema = problem.schema((n,) * problem.dim)
    s = problem.solve(inputs, (n,) * problem.dim, solver="spectral")
    assert set(s.fields) == {f.name for f in schema.fields}
    for given, evolved in zip(schema.inputs, schema.outputs, strict=True):
        assert np.array_equal(s.fields[given], s.fields[evolved][0])
        assert s.fields[evolved].shape == schema.sample_shape(evolved)


def test_oversample_stores_every_nth_point_of_the_finer_solution():
    inputs = get_problem("burgers", n_modes=16).sample(np.random.default_rng(1))
    coarse = get_problem("burgers", n_modes=16, oversample=4)
    fine = get_problem("burgers", n_modes=16)
    a = coarse.solve(inputs, (32,), solver="spectral")
    b = fine.solve(inputs, (128,), solver="spectral")
    assert np.array_equal(a.fields["u"], b.fields["u"][:, ::4])
    assert "128 points" in coarse.discretization("spectral", (32,))


def test_what_the_grid_does_not_resolve_is_refused():
    problem = get_problem("burgers", viscosity=1e-3, n_times=3)
    inputs = problem.sample(np.random.default_rng(0))
    with pytest.raises(SolverDidNotConverge, match="64 points do not resolve the solution"):
        problem.solve(inputs, (64,), solver="spectral")


@pytest.mark.parametrize("name", ["allen_cahn", "cahn_hilliard", "fitzhugh_nagumo", "gray_scott"])
@pytest.mark.parametrize("dim", [1, 3])
def test_other_dimensions(name, dim):
    cls = type(get_problem(name))
    t_end = 0.1 * cls.quick_params["t_end"]
    params = {**cls.quick_params, "dim": dim, "n_modes": 3, "n_times": 2, "t_end": t_end}
    problem = get_problem(name, **params, max_tail=1.0)  # 12 points are few
    s = problem.solve(problem.sample(np.random.default_rng(0)), (12,) * dim, solver="spectral")
    assert s.fields["u"].shape == (2, *(12,) * dim) and s.time_error <= 1e-6


def test_three_dimensions_continue_two():
    """A field that does not depend on z evolves as in the plane."""
    flat, solid = get_problem("allen_cahn", dim=2), get_problem("allen_cahn", dim=3)
    u0 = flat.initial(flat.sample(np.random.default_rng(0)), flat.grid((12, 12)))
    a = flat.run(u0, flat.grid((12, 12)), [0.0, 0.5], rtol=1e-8).x[-1]
    lifted = np.repeat(u0[..., None], 8, axis=-1)
    b = solid.run(lifted, solid.grid((12, 12, 8)), [0.0, 0.5], rtol=1e-8).x[-1]
    np.testing.assert_allclose(b, np.repeat(a[..., None], 8, axis=-1), atol=1e-7)


def test_navier_stokes_parameters():
    p = get_problem("navier_stokes", forcing="kolmogorov", drag=0.1)
    assert p.params.forcing_amplitude == 1 and p.params.forcing_wave_number == 4
    grid = p.grid((32, 32))
    y = grid.meshgrid()[1]
    np.testing.assert_allclose(p.source(grid), np.cos(8 * np.pi * y), atol=1e-12)
    assert not get_problem("navier_stokes", forcing="none").source(grid).any()
    with pytest.raises(ProblemError, match=r"forcing_amplitude=1\.0 has no effect"):
        get_problem("navier_stokes", forcing="none", forcing_amplitude=1.0)
    with pytest.raises(ProblemError, match="forcing='wind'"):
        get_problem("navier_stokes", forcing="wind")


def test_navier_stokes_inputs_have_the_variance_of_the_fno_code():
    """sum over k != 0 of 2 * 7^3 (4 pi^2 |k|^2 + 49)^(-2.5), here over the modes it keeps."""
    problem = get_problem("navier_stokes", n_modes=8)
    k = np.arange(-7, 8)
    k2 = np.add.outer(k**2, k**2)
    expected = np.sum((2 * 7.0**3 * (4 * np.pi**2 * k2 + 49.0) ** -2.5)[k2 > 0])
    assert problem.field.mean_variance == pytest.approx(expected, rel=1e-12)


def test_random_waves():
    waves = RandomWaves(3, 4, 2.0, bounds=((0.0, 2.0), (1.0, 2.0)))
    s = waves.draw(np.random.default_rng(0))
    assert s.wave_numbers.shape == (3, 2) and np.abs(s.wave_numbers).max() <= 4
    assert np.all((s.amplitudes > 0) & (s.amplitudes < 2)) and s.wave_numbers.any(axis=1).all()
    x, y = np.array([0.3, 2.3]), np.array([1.2, 1.2])
    expected = sum(
        a * np.sin(2 * np.pi * (n[0] * 0.15 + n[1] * 0.2) + f)
        for a, n, f in zip(s.amplitudes, s.wave_numbers, s.phases, strict=True)
    )
    np.testing.assert_allclose(s.at((x, y)), expected, atol=1e-12)  # the second a period on
    for change, message in (
        ({"n_waves": 0}, "n_waves=0"),
        ({"max_wave_number": 1.5}, "max_wave_number=1.5"),
        ({"amplitude": -1.0}, "amplitude=-1.0"),
        ({"bounds": ()}, "bounds="),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            RandomWaves(**change)
    with pytest.raises(ValueError, match="the grid has 1 axes, the field 2"):
        s(Grid.unit(8, dim=1))
