"""Problems on real geometries: layouts, inputs, parameters, reproducibility."""

import pickle

import numpy as np
import pytest

from pde_data.problem import ProblemError, get_problem
from pde_data.problems.darcy_geometry import _distance, random_polygon
from pde_data.problems.stokes import draw_obstacles
from solvers.fenicsx import Diffusion, polygon_with_holes
from solvers.result import SolverDidNotConverge

NAMES = (
    "darcy_geometry", "elasticity", "hyperelasticity", "stokes_flow", "navier_stokes_flow",
    "heat_geometry",
)  # fmt: skip
RAGGED = {"darcy_geometry": {"geometry": "random_polygon"}}


def solved(problem, resolution=8, seed=0):
    shape = problem.check_resolution(resolution)
    inputs = problem.sample(np.random.default_rng(seed))
    return inputs, problem.solve(inputs, shape, solver="fenicsx"), problem.schema(shape)


def assert_shapes(schema, solution):
    for f in schema.fields:
        expected, shape = schema.sample_shape(f.name), solution.fields[f.name].shape
        assert len(expected) == len(shape)
        assert all(n in (-1, m) for n, m in zip(expected, shape, strict=True)), f.name


@pytest.mark.parametrize("name", NAMES)
def test_ragged_and_grid_hold_the_same_solution(name):
    params = RAGGED.get(name, {})
    n = 16 if "flow" in name else 12
    ragged = get_problem(name, **params)
    _, s, schema = solved(ragged, n)
    assert schema.layout == "ragged" and s.mesh is not None
    assert_shapes(schema, s)
    gridded = get_problem(name, sample_on="grid", **params)
    assert gridded.dim == 2
    inputs_2, g, schema = solved(gridded, n + 1)
    assert schema.layout == "grid" and g.mesh is None and schema.inputs[0] == "mask"
    assert_shapes(schema, g)
    mask = g.fields["mask"].astype(bool)
    x = np.stack([c[mask] for c in schema.grid.meshgrid()], axis=1)
    domain = gridded.domain(inputs_2)
    inside = np.zeros(schema.grid.shape, bool)
    inside[mask] = domain.contains(x + 1e-9 * (0.5 - x))
    h = max(schema.grid.spacing)
    # the mesh's chords and points on the boundary may fall either way
    assert (mask & ~inside).sum() <= 2 * sum(schema.grid.shape)
    area = float((schema.grid.weights * mask).sum())
    assert abs(area - s.mesh.measure) < 4 * h * s.mesh.measure**0.5
    for output in schema.outputs:
        u = g.fields[output]
        t = schema.field(output).time_varying
        assert not u[(slice(None),) * t + (~mask,)].any()
        # where a point of the mesh is a grid point they agree: take the corners' neighborhood
        a, b = np.abs(s.fields[output]).max(), np.abs(u).max()
        assert b <= a * (1 + 1e-6) or name in ("elasticity", "hyperelasticity")


@pytest.mark.parametrize("name", NAMES)
def test_same_sample_in_a_fresh_problem(name):
    params = RAGGED.get(name, {})
    problem = get_problem(name, **params)
    solved(problem, 8, seed=1)  # other meshes and factorizations in between
    _, a, _ = solved(problem, 8, seed=0)
    fresh = pickle.loads(pickle.dumps(problem))
    _, b, _ = solved(fresh, 8, seed=0)
    assert all(np.array_equal(v, b.fields[k]) for k, v in a.fields.items())
    assert a.mesh.equals(b.mesh) and a.scalars == b.scalars


def test_samples_do_not_depend_on_the_mesh():
    problem = get_problem("darcy_geometry", geometry="l_shape", varying="coefficient")
    inputs = problem.sample(np.random.default_rng(0))
    coarse = problem.triangulation(inputs, (8,))
    a = problem.compute(inputs, coarse, 1e-10)[0]["a"]
    b = problem.compute(inputs, coarse.refined(), 1e-10)[0]["a"]
    np.testing.assert_array_equal(a, b[: len(a)])


def test_boundary_values_of_the_fair_comparison():
    problem = get_problem("darcy_geometry")  # notch, as published
    inputs, s, schema = solved(problem, 12)
    mesh = problem.triangulation(inputs, (12,))
    assert schema.layout == "mesh" and schema.inputs == ("g",)
    assert schema.field("g").dims == ("sensor",) and s.fields["g"].shape == (101,)
    assert {s.name: s.value for s in schema.scalars} == {"forcing": 1.0, "permeability": 0.1}
    u, x = s.fields["u"], mesh.points
    nodes = {n: np.unique(mesh.facets[mesh.markers == k]) for k, n in enumerate(mesh.names)}
    assert not u[nodes["notch"]].any()
    outer = np.setdiff1d(nodes["outer"], nodes["notch"])
    np.testing.assert_allclose(u[outer], inputs["g"](x[outer, 0]), atol=1e-14)
    # the same by hand: -laplace(u) = 10
    by_hand = Diffusion(mesh).solve(
        1.0, 10.0, dirichlet={"outer": lambda x: inputs["g"](np.clip(x[0], 0, 1)), "notch": 0.0}
    )
    np.testing.assert_allclose(u, by_hand.x, atol=1e-11)
    # covariance of g: squared exponential, length 0.2
    rng = np.random.default_rng(0)
    g = np.array([problem.sample(rng)["g"](np.array([0.3, 0.5])) for _ in range(4000)])
    np.testing.assert_allclose(np.cov(g.T), [[1, np.exp(-0.5)], [np.exp(-0.5), 1]], atol=0.1)
    grid = get_problem("darcy_geometry", sample_on="grid")
    _, s, schema = solved(grid, 13)
    assert schema.inputs == ("mask", "g_x")
    inside = s.fields["mask"].astype(bool)
    columns = np.broadcast_to(np.linspace(0, 1, 13)[:, None], (13, 13))
    np.testing.assert_allclose(
        s.fields["g_x"][inside],
        inputs["g"](columns[inside]),
        atol=0.1 * np.abs(s.fields["g"]).max(),
    )


def test_maximum_principle():
    problem = get_problem("darcy_geometry", geometry="pentagon_hole", forcing=0.0)
    inputs, s, _ = solved(problem, 16)
    g = inputs["g"](np.linspace(0, 1, 1001))
    assert min(g.min(), 0) - 1e-12 <= s.fields["u"].min()
    assert s.fields["u"].max() <= max(g.max(), 0) + 1e-12


def test_random_polygons_have_room():
    rng = np.random.default_rng(0)
    for _ in range(100):
        corners, holes = random_polygon(rng, (3, 9), 2)
        domain = polygon_with_holes(corners)
        for hole in holes:
            assert domain.contains(hole).all()
            assert min(_distance(x, corners) for x in hole) > 0.02
        assert corners.min() >= 0 and corners.max() <= 1
    assert (
        abs(_distance(np.array([0.5, 0.2]), np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])) - 0.2)
        < 1e-15
    )
    assert _distance(np.array([0.5, -0.2]), np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])) < 0


def test_obstacles_keep_their_distance():
    rng = np.random.default_rng(0)
    for _ in range(50):
        o = draw_obstacles(rng, 3, radii=(0.05, 0.15), gap=0.06, aspect=2.0)
        assert o.shape == (3, 3) and (np.diff(o[:, 0]) >= 0).all()
        for i in range(3):
            x, y, r = o[i]
            assert r + 0.06 <= y <= 1 - r - 0.06 and r + 0.12 <= x <= 2 - r - 0.12
            for a, b, c in o[:i]:
                assert np.hypot(x - a, y - b) >= r + c + 0.06
    with pytest.raises(SolverDidNotConverge, match="no room for n_obstacles=6"):
        draw_obstacles(rng, 6, radii=(0.3, 0.3), gap=0.1, aspect=1.5)


def test_channel_without_obstacles_is_one_mesh():
    problem = get_problem("stokes_flow", n_obstacles=0, variation=0.0)
    _, s, schema = solved(problem, 8)
    assert schema.layout == "mesh" and schema.inputs == ("inflow",)
    x, y = schema.mesh.points.T
    np.testing.assert_allclose(s.fields["velocity"][:, 0], 4 * y * (1 - y), atol=1e-11)
    np.testing.assert_allclose(s.fields["p"], 8 * (2 - x), atol=1e-9)


def test_displacements_are_proportional_to_the_load():
    problem = get_problem("elasticity")
    inputs, s, schema = solved(problem)
    twice = problem.solve({**inputs, "load": 2 * inputs["load"]}, (8,), solver="fenicsx")
    for name in ("displacement", "stress"):
        np.testing.assert_allclose(twice.fields[name], 2 * s.fields[name], rtol=1e-8, atol=1e-10)
    assert s.scalars == {"load": inputs["load"]}
    stress = s.fields["stress"]
    np.testing.assert_array_equal(stress[:, 0, 1], stress[:, 1, 0])
    assert schema.inputs == ("radius", "load")
    r = s.fields["radius"]
    assert r.shape == (42,) and 0.2 <= r.min() <= r.max() <= 0.4
    assert not s.fields["displacement"][s.mesh.points[:, 1] == 0].any()


def test_unsteady_flow_stores_its_times():
    problem = get_problem(
        "navier_stokes_flow", unsteady=True, final_time=0.2, n_times=3, time_tol=0.05
    )
    _, s, schema = solved(problem, 16)
    assert schema.time == pytest.approx((0.0, 0.05, 0.1)) and s.fields["p"].shape[0] == 3
    assert 0 < s.time_error <= 0.05 and "drag" not in s.scalars


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("darcy_geometry", {"geometry": "circle"}, "geometry='circle'"),
        ("darcy_geometry", {"n_corners": (2, 4)}, r"n_corners=\(2, 4\): need 3 <="),
        ("darcy_geometry", {"varying": "both"}, "varying='both'"),
        ("elasticity", {"r_min": 0.4, "r_max": 0.3}, r"r_min=0.4, r_max=0.3: need r_min < r_max"),
        ("elasticity", {"poisson_ratio": 0.5}, "poisson_ratio=0.5"),
        ("elasticity", {"load_range": (2.0, 1.0)}, r"load_range=\(2.0, 1.0\)"),
        ("stokes_flow", {"r_max": 0.3, "gap": 0.3}, "do not fit"),
        ("navier_stokes_flow", {"re_range": (0.1, 4.0)}, "need values from 1 to 500"),
        ("navier_stokes_flow", {"y_range": (0.01, 0.2)}, r"y_range=\(0.01, 0.2\)"),
        ("heat_geometry", {"sample_on": "lattice"}, "sample_on='lattice'"),
    ],
)
def test_bad_parameters_get_one_line(name, params, message):
    with pytest.raises(ProblemError, match=message) as error:
        get_problem(name, **params)
    assert "\n" not in str(error.value)
