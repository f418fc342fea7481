"""Form families: data, conditions, reuse, failures; the orders are in tests/verification."""

import numpy as np
import pytest

from solvers.fenicsx import (
    Diffusion,
    Elasticity,
    Heat,
    Hyperelasticity,
    NavierStokes,
    Stokes,
    channel,
    circle,
    lame,
    plate_with_holes,
    rectangle,
    triangulate,
)
from solvers.fenicsx import _algebra as algebra
from solvers.result import SolverDidNotConverge

SIDES = ("bottom", "right", "top", "left")


@pytest.fixture(scope="module")
def square():
    return triangulate(rectangle(), 1 / 5)


@pytest.fixture(scope="module")
def plate():
    return triangulate(plate_with_holes([circle((0.5, 0.5), 0.2)]), 1 / 5)


def quadratic(x):
    return 1 + x[0] - 2 * x[1] + x[0] ** 2 - 3 * x[0] * x[1] + 0.5 * x[1] ** 2


def slope(x):
    return np.stack([1 + 2 * x[0] - 3 * x[1], -2 - 3 * x[0] + x[1]])


NORMAL = {"bottom": (0, -1), "right": (1, 0), "top": (0, 1), "left": (-1, 0)}


@pytest.mark.parametrize("dirichlet", SIDES)
@pytest.mark.parametrize("kind", ["flux", "robin"])
def test_conditions_that_meet_in_corners(square, dirichlet, kind):
    """A quadratic by P2 is exact with any conditions; each side must get its own data alone."""
    a, c = 2.0, 1.5
    d = Diffusion(square, degree=2)

    def f(x):
        return -a * 3.0 + c * quadratic(x)

    flux, robin = {}, {}
    for side in SIDES:
        if side == dirichlet:
            continue

        def g(x, n=NORMAL[side]):
            return a * (n[0] * slope(x)[0] + n[1] * slope(x)[1])

        if kind == "flux":
            flux[side] = g
        else:
            alpha = 1.0 + SIDES.index(side)
            robin[side] = (alpha, lambda x, g=g, alpha=alpha: g(x) + alpha * quadratic(x))
    r = d.solve(a, f, dirichlet={dirichlet: quadratic}, flux=flux, robin=robin, reaction=c)
    assert d.errors(r.x, quadratic, slope)[1] < 1e-11
    assert r.residual < 1e-12


def test_tensor_coefficient(square):
    K = np.array([[3.0, 1.0], [1.0, 2.0]])
    d = Diffusion(square, degree=2, tensor=True)
    f = -(K[0, 0] * 2 + 2 * K[0, 1] * -3 + K[1, 1] * 1)
    assert d.errors(d.solve(K, f, dirichlet=quadratic).x, quadratic)[0] < 1e-12
    same = d.solve(lambda x: K[:, :, None] * np.ones(x.shape[1]), f, dirichlet=quadratic).x
    assert d.errors(same, quadratic)[0] < 1e-12
    scalar = Diffusion(square, degree=2).solve(2.0, 1.0).x
    np.testing.assert_allclose(d.solve(2 * np.eye(2), 1.0).x, scalar, atol=1e-13)
    with pytest.raises(ValueError, match="a must be symmetric"):
        d.solve(np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="a must be positive, its minimum is -1"):
        d.solve(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_arrays_functions_and_numbers_agree(plate):
    d = Diffusion(plate)
    x = plate.points.T
    one = d.solve(lambda x: 1 + x[0], lambda x: x[1], reaction=lambda x: x[0]).x
    np.testing.assert_allclose(d.solve(1 + x[0], x[1], reaction=x[0]).x, one, atol=1e-14)
    np.testing.assert_allclose(
        d.solve(2.0, 3.0).x, d.solve(np.full(x.shape[1], 2.0), lambda x: 3.0).x, atol=1e-14
    )


def test_against_a_dense_matrix(square):
    """P1 stiffness and load by hand, triangle by triangle."""
    n = len(square.points)
    A, b = np.zeros((n, n)), np.zeros(n)
    for cell, area in zip(square.cells, square.areas, strict=True):
        M = np.column_stack([np.ones(3), square.points[cell]])
        g = np.linalg.inv(M)[1:]
        A[np.ix_(cell, cell)] += 3.0 * area * g.T @ g
        b[cell] += 2.0 * area / 3
    fixed = np.unique(square.facets)
    free = np.setdiff1d(np.arange(n), fixed)
    u = np.zeros(n)
    u[free] = np.linalg.solve(A[np.ix_(free, free)], b[free])
    np.testing.assert_allclose(Diffusion(square).solve(3.0, 2.0).x, u, atol=1e-14)


def test_results_do_not_depend_on_earlier_solves(plate):
    d = Diffusion(plate)
    first = d.solve(1.0, 1.0).x
    d.solve(
        lambda x: 1 + 50 * (x[0] > 0.4), 3.0, dirichlet={"top": 1.0},
        robin={"hole": (1.0, 2.0)}, reaction=2.0,
    )  # fmt: skip
    np.testing.assert_array_equal(d.solve(1.0, 1.0).x, first)
    np.testing.assert_array_equal(Diffusion(plate).solve(1.0, 1.0).x, first)
    s = NavierStokes(triangulate(channel(2, 1, []), 0.3))
    walls = {"wall": 0.0, "inlet": (1.0, 0.0)}
    once = s.solve(0.5, walls).x
    s.solve(0.1, walls, f=(0.0, 1.0))
    np.testing.assert_array_equal(s.solve(0.5, walls).x, once)


def test_jumps_of_the_coefficient_follow_the_mesh():
    """Two layers in series: the flux is that of the harmonic mean, to rounding."""
    mesh = _two_columns()
    d = Diffusion(mesh)
    r = d.solve(
        lambda x: np.where(x[0] < 0.5, 1.0, 4.0), dirichlet={"left": 0.0, "right": 1.0},
        flux={"top": 0.0, "bottom": 0.0},
    )  # fmt: skip
    x = mesh.points[:, 0]
    flux = 1 / (0.5 / 1 + 0.5 / 4)
    exact = np.where(x < 0.5, flux * x, 1 - flux / 4 * (1 - x))
    np.testing.assert_allclose(r.x, exact, atol=1e-12)


def _two_columns():
    """Rectangle of a half and its mirror image, which share the line in the middle."""
    from dataclasses import replace

    half = triangulate(rectangle((0, 0), (0.5, 0.5)), 0.1)
    n = len(half.points)
    on = np.flatnonzero(half.points[:, 0] > 0.5 - 1e-12)
    number = np.arange(n, 2 * n)
    number[on] = on
    others = np.setdiff1d(np.arange(n), on)
    number[others] = n + np.arange(len(others))
    points = np.concatenate([half.points, [1, 0] + half.points[others] * [-1, 1]])
    cells = np.concatenate([half.cells, number[half.cells][:, ::-1]])
    outer = half.markers != half.names.index("right")
    whole = rectangle((0, 0), (1, 0.5))
    mirror = half.markers.copy()
    mirror[half.markers == half.names.index("left")] = whole.names.index("right")
    return replace(
        half, domain=whole, points=points, cells=cells,
        facets=np.concatenate([half.facets[outer], number[half.facets[outer]]]),
        markers=np.concatenate([half.markers[outer], mirror[outer]]),
        loops=np.zeros(2 * outer.sum(), int), parameters=np.zeros((2 * outer.sum(), 2)),
    )  # fmt: skip


def test_reactions_balance_the_source(plate):
    d = Diffusion(plate)
    x = d.solve(lambda x: 1 + x[0], 2.0, dirichlet={"top": 1.0, "hole": 0.0}).x
    r = d.reactions(x, lambda x: 1 + x[0], 2.0)
    assert abs(r.sum() + 2.0 * plate.areas.sum()) < 1e-12
    inner = np.setdiff1d(np.arange(len(r)), np.unique(plate.facets))
    assert np.abs(r[inner]).max() < 1e-13


def test_heat_keeps_its_energy_and_approaches_the_steady_state(plate):
    h = Heat(plate)
    weights = plate.mesh().point_weights
    insulated = {"dirichlet": {}, "flux": dict.fromkeys(plate.names, 0.0)}
    r = h.solve(lambda x: x[0] ** 2, [0, 0.1, 20.0], time_tol=1e-2, **insulated)
    energy = r.x @ weights
    np.testing.assert_allclose(r.x[2], energy[0] / weights.sum(), atol=2e-3)
    steady = Diffusion(plate).solve(1.0, 1.0).x
    r = h.solve(0.0, [0, 5.0], f=1.0, n_steps=64, time_tol=1e-2)
    np.testing.assert_allclose(r.x[1], steady, atol=1e-9)
    moving = h.solve(0.0, [0, 5.0], f=lambda t: 1.0, source_of_time=True, n_steps=64, time_tol=1e-2)
    np.testing.assert_allclose(moving.x, r.x, atol=1e-13)


def test_rigid_motions_make_no_stress(plate):
    def turn(x):
        return 0.3 * np.stack([-x[1], x[0]])

    lam, mu = lame(2.0, 0.3)
    e = Elasticity(plate)
    x = e.solve(lam, mu, dict.fromkeys(("bottom", "top"), turn)).x
    np.testing.assert_allclose(x, turn(e.mesh.node_points(2).T).T, atol=1e-12)
    assert np.abs(e.stress(x, lam, mu)).max() < 1e-11
    # a large rotation of the neo-Hookean solid has no energy
    h = Hyperelasticity(plate)
    c, s = np.cos(0.5), np.sin(0.5)

    def rotation(x):
        return np.stack([(c - 1) * x[0] - s * x[1], s * x[0] + (c - 1) * x[1]])

    r = h.solve(lam, mu, dict.fromkeys(("bottom", "top"), rotation))
    np.testing.assert_allclose(r.x, rotation(h.mesh.node_points(2).T).T, atol=1e-9)
    assert abs(h.energy(r.x, lam, mu)) < 1e-12


def test_hyperelastic_solution_is_a_minimum_of_the_energy(plate):
    h = Hyperelasticity(plate)
    lam, mu = lame(1.0, 0.3)
    r = h.solve(lam, mu, {"bottom": 0.0, "top": (0.0, 0.3)})
    least = h.energy(r.x, lam, mu)
    rng = np.random.default_rng(0)
    y = h.mesh.node_points(2)[:, 1]
    bump = rng.standard_normal(r.x.shape) * (y * (1 - y))[:, None]
    gains = [h.energy(r.x + t * bump, lam, mu) - least for t in (1e-4, -1e-4, 2e-4)]
    assert min(gains) > 0 and gains[2] == pytest.approx(4 * gains[0], rel=0.05)
    assert r.residuals[-1] <= 1e-10 and r.info["min_jacobian"] > 0


def test_large_loads_come_in_parts_or_raise(square):
    h = Hyperelasticity(square)
    r = h.solve(10.0, 1.0, {"bottom": 0.0, "top": (1.0, -0.4)})
    assert r.residual <= 1e-10 and r.info["min_jacobian"] > 0
    with pytest.raises(SolverDidNotConverge, match="of the load"):  # the top below the bottom
        h.solve(1.0, 1.0, {"bottom": 0.0, "top": (0.0, -1.5)}, max_load_steps=8)


def test_partial_supports_and_pure_shear(square):
    lam, mu = 1.0, 1.0
    e = Elasticity(square)
    # pull along x with rollers: u = (e x, -nu' e y), nu' = lam / (lam + 2 mu)
    r = e.solve(lam, mu, {"left": {0: 0.0}, "bottom": {1: 0.0}, "right": {0: 0.1}})
    x, y = e.mesh.node_points(2).T
    np.testing.assert_allclose(r.x, np.stack([0.1 * x, -0.1 / 3 * y], axis=1), atol=1e-13)
    shear = e.solve(
        lam, mu, {"bottom": 0.0}, traction={"top": (1, 0), "right": (0, 1), "left": (0, -1)}
    ).x
    np.testing.assert_allclose(shear, np.stack([y, 0 * y], axis=1), atol=1e-12)


def test_closed_cavity_has_a_pressure_of_mean_zero(square):
    def lid(x):
        return np.stack([x[0] ** 2 * (1 - x[0]) ** 2, 0 * x[0]])

    walls = {"bottom": 0.0, "right": 0.0, "left": 0.0, "top": lid}
    for flow in (Stokes(square), NavierStokes(square)):
        x = flow.solve(0.1, walls).x
        n = len(square.points)
        assert abs(square.mesh().point_weights @ x[:n, 2]) < 1e-12
        assert abs(flow.flow_rate(x, "top")) < 1e-15


def test_steady_flow_is_where_the_unsteady_one_ends():
    mesh = triangulate(channel(2, 1, [circle((0.6, 0.45), 0.2)]), 0.25)
    flow = NavierStokes(mesh)
    walls = {"wall": 0, "hole": 0, "inlet": lambda x: [4 * x[1] * (1 - x[1]), 0 * x[0]]}
    steady = flow.solve(0.1, walls).x
    start = Stokes(mesh).solve(0.1, walls).x[:, :2]
    r = flow.evolve(start, [0.0, 3.0, 6.0], 0.1, walls, n_steps=60, time_tol=0.1)
    assert r.x.shape == (3, *steady.shape)
    assert np.abs(r.x[2] - steady).max() < 1e-6 * np.abs(steady).max()
    rates = [flow.flow_rate(x, "outlet") + flow.flow_rate(x, "inlet") for x in r.x]
    np.testing.assert_allclose(rates, 0, atol=1e-10)


def test_steps_too_long_are_halved_or_refused():
    flow = NavierStokes(triangulate(channel(2, 1, []), 0.25))
    walls = {"wall": 0, "inlet": lambda x: [40 * x[1] * (1 - x[1]), 0 * x[0]]}
    r = flow.evolve((0, 0), [0.0, 1.0], 1e-2, walls, n_steps=2, time_tol=0.05)
    assert r.info["steps"] > 4 and r.info["time_error"] <= 0.05
    with pytest.raises(SolverDidNotConverge, match="estimated error in time"):
        flow.evolve((0, 0), [0.0, 1.0], 1e-2, walls, n_steps=2, max_steps=4, time_tol=1e-6)


def test_hard_flows_go_by_way_of_viscous_ones(monkeypatch):
    mesh = triangulate(channel(3, 1, [circle((0.6, 0.5), 0.15)]), 0.2)
    flow = NavierStokes(mesh)
    walls = {"wall": 0, "hole": 0, "inlet": lambda x: [4 * x[1] * (1 - x[1]), 0 * x[0]]}
    easy = flow.solve(0.05, walls).x
    with pytest.raises(SolverDidNotConverge, match=r"fenicsx\.newton"):
        flow.solve(0.05, walls, maxiter=1)
    hard = flow.solve(0.01, walls, maxiter=4)
    assert hard.residual <= 1e-10
    np.testing.assert_array_equal(flow.solve(0.05, walls).x, easy)


def test_residual_is_measured_on_the_answer(square, monkeypatch):
    d = Diffusion(square)
    inverse = algebra.System._apply_inverse
    monkeypatch.setattr(algebra.System, "_apply_inverse", lambda self, r: 1.7 * inverse(self, r))
    with pytest.raises(SolverDidNotConverge, match=r"residual 7\.00e-01"):
        d.solve(1.0, 1.0)


def test_newton_on_a_small_system():
    """arctan needs the line search: full steps diverge from 2."""

    class Tiny:
        free = np.array([0])

        def set_matrix(self, matrix):
            self.slope = matrix

        def direction(self, r):
            return r / self.slope

    x, history = algebra.newton(
        Tiny(), np.arctan, lambda x: 1 / (1 + x**2), np.array([2.0]), scale=1.0, rtol=1e-12
    )
    assert abs(x[0]) < 1e-12 and (np.diff(history) < 0).all() and len(history) > 3
    with pytest.raises(SolverDidNotConverge, match="too many steps"):
        algebra.newton(
            Tiny(), np.arctan, lambda x: 1 / (1 + x**2), np.array([2.0]), scale=1.0, rtol=1e-12,
            maxiter=2,
        )  # fmt: skip
    with pytest.raises(SolverDidNotConverge, match="no step"):
        algebra.newton(
            Tiny(), lambda x: 1 + x**2, lambda x: 2 * x, np.array([1e-9]), scale=1.0, rtol=1e-12
        )
    with pytest.raises(SolverDidNotConverge, match="start is not allowed"):
        algebra.newton(Tiny(), lambda x: x * np.inf, lambda x: x, np.ones(1), scale=1.0, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: Diffusion(m, degree=3), "degree=3"),
        (lambda m: Diffusion(m).solve(0.0), "a must be positive, its minimum is 0"),
        (lambda m: Diffusion(m).solve(np.ones(3)), r"a has shape \(3,\)"),
        (lambda m: Diffusion(m).solve(lambda x: x[0][:2]), r"a returned shape \(2,\)"),
        (lambda m: Diffusion(m).solve(1.0, np.nan), "f holds NaN"),
        (lambda m: Diffusion(m).solve(1.0, dirichlet={"topp": 0.0}), "Did you mean 'top'"),
        (lambda m: Diffusion(m).solve(1.0, dirichlet={}), "not unique"),
        (lambda m: Diffusion(m).solve(1.0, reaction=-1.0), "reaction must not be negative"),
        (
            lambda m: Diffusion(m).solve(1.0, dirichlet={"top": 0.0}, flux={"top": 0.0}),
            "'top' of the boundary has more than one condition",
        ),
        (lambda m: Diffusion(m).solve(1.0, robin={"top": (-1.0, 0.0)}), "must not be negative"),
        (lambda m: Heat(m).solve(0.0, [0.0]), "two or more increasing"),
        (lambda m: Heat(m).solve(0.0, [0.0, 1.0], rho=0.0), "rho must be positive"),
        (lambda m: Heat(m).solve(0.0, [0.0, 1.0], time_tol=0.0), r"time_tol=0\.0"),
        (lambda m: lame(1.0, 0.5), r"poisson_ratio=0\.5"),
        (lambda m: lame(-1.0, 0.3), r"youngs_modulus=-1\.0"),
        (lambda m: Elasticity(m).solve(1.0, -1.0, {"top": 0.0}), "mu must be positive"),
        (lambda m: Elasticity(m).solve(1.0, 1.0, {"top": {0: 0.0}}), "both components"),
        (lambda m: Elasticity(m).solve(1.0, 1.0, {"top": {2: 0.0}}), "component 2"),
        (lambda m: Stokes(m).solve(0.0, {"top": 0.0}), "nu=0.0"),
        (lambda m: Stokes(m).solve(1.0, {}), "velocity: give it"),
        (
            lambda m: Stokes(m).solve(1.0, {"top": 0.0}, traction={"top": (0, 0)}),
            "'top' has a velocity and a traction",
        ),
        (
            lambda m: NavierStokes(m).evolve((0, 0), [0, 1, 3], 1.0, {"top": 0.0}),
            "evenly spaced",
        ),
    ],
)
def test_bad_input_gets_one_line(square, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(square)
    assert "\n" not in str(error.value)
