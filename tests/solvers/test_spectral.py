import math
import pickle

import numpy as np
import pytest

from solvers import Axis, Grid, SolverDidNotConverge
from solvers.spectral import Fourier, etdrk4_coefficients, resample, solve_evolution
from solvers.verify import observed_order


def box(*n, lower=-1.0, upper=2.0):
    """Periodic grid whose sides differ."""
    return Grid(
        tuple(
            Axis(x, k, lower, upper + 0.5 * i, periodic=True)
            for i, (x, k) in enumerate(zip("xyz", n, strict=False))
        )
    )


def random_waves(space, rng, top):
    """Coefficients of a real function with wave numbers up to `top`, and the function itself."""
    terms = []
    for _ in range(6):
        numbers = rng.integers(-top, top + 1, space.dim)
        terms.append((numbers, rng.standard_normal(), 2 * np.pi * rng.random()))

    def function(x, derivative=None):
        out = 0.0
        for numbers, a, phase in terms:
            q = [
                2 * np.pi * n / (axis.upper - axis.lower)
                for n, axis in zip(numbers, space.grid.axes, strict=True)
            ]
            angle = sum(
                k * (c - axis.lower) for k, c, axis in zip(q, x, space.grid.axes, strict=True)
            )
            factor, shift = (1.0, 0.0) if derivative is None else (q[derivative], 0.5 * np.pi)
            out = out + a * factor * np.cos(angle + phase + shift)
        return out

    return function


@pytest.mark.parametrize("n", [(16,), (15,), (12, 9), (9, 12), (8, 7, 10)])
def test_transforms_and_derivatives(n):
    space = Fourier(box(*n))
    f = random_waves(space, np.random.default_rng(0), 3)
    u = f(space.points)
    v = space.coefficients(u)
    assert v.shape == space.shape
    np.testing.assert_allclose(space.values(v), u, atol=1e-13)
    for axis in range(space.dim):
        slope = space.values(space.derivative(v, axis))
        np.testing.assert_allclose(slope, f(space.points, axis), atol=1e-12)
    # the evaluation grid has the same ends, and coefficients do not depend on the grid
    fine = Fourier(space.grid.resized(space.fine_shape), degree=1)
    np.testing.assert_allclose(space.evaluate(v), f(fine.points), atol=1e-13)
    np.testing.assert_allclose(space.project(space.evaluate(v)), v, atol=1e-14)
    # several functions at once
    both = space.coefficients(np.stack([u, 2 * u]))
    np.testing.assert_allclose(both[1], 2 * v, atol=1e-14)


@pytest.mark.parametrize("n", [(16,), (12, 9), (8, 7, 10)])
def test_measures_equal_quadrature(n):
    space = Fourier(box(*n))
    rng = np.random.default_rng(1)
    u, w = (random_waves(space, rng, 3)(space.points) for _ in range(2))
    v, z = space.coefficients(u), space.coefficients(w)
    assert space.mean_square(v) == pytest.approx(np.mean(u**2), rel=1e-12)
    assert space.inner(v, z) == pytest.approx(np.mean(u * w), rel=1e-10, abs=1e-13)
    assert space.mean_square(np.stack([v, z])).shape == (2,)
    k, power = space.spectrum(np.stack([v, z]))
    np.testing.assert_allclose(power.sum(1), space.mean_square(np.stack([v, z])), rtol=1e-12)
    assert k[0] == 0 and power.shape == (2, len(k))


def test_the_spectrum_finds_a_wave_in_its_shell():
    space = Fourier(Grid.unit(32, periodic=True))
    x, y = space.points
    u = 3 * np.sin(2 * np.pi * (3 * x + 4 * y))
    k, power = space.spectrum(space.coefficients(u))
    assert k[5] == pytest.approx(10 * np.pi) and power[5] == pytest.approx(4.5)
    assert power.sum() - power[5] < 1e-25


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("n", [(8,), (9,), (6, 7)])
def test_products_are_free_of_aliasing(n, degree):
    """Against the convolution of the coefficients, one term at a time."""
    space = Fourier(box(*n), degree=degree)
    rng = np.random.default_rng(2)
    u = rng.standard_normal(n)
    v = space.coefficients(u)
    got = space.project(space.evaluate(v) ** degree)
    m = [(k - 1) // 2 for k in n]
    full = {}
    for index in np.ndindex(*space.shape):
        k = tuple(i if i <= b else i - 2 * b - 1 for i, b in zip(index, m, strict=True))
        full[k] = v[index]
        full[tuple(-q for q in k)] = np.conj(v[index])
    for k in list(full):  # the last axis has k >= 0 alone; conjugates fill the rest
        assert full[k] == pytest.approx(np.conj(full[tuple(-q for q in k)]))
    product = {k: 1.0 * (not any(k)) for k in full}
    for _ in range(degree):
        longer = {}
        for k, a in product.items():
            for q, b in full.items():
                s = tuple(i + j for i, j in zip(k, q, strict=True))
                longer[s] = longer.get(s, 0.0) + a * b
        product = longer
    for index in np.ndindex(*space.shape):
        k = tuple(i if i <= b else i - 2 * b - 1 for i, b in zip(index, m, strict=True))
        assert got[index] == pytest.approx(product[k], abs=1e-13)


def test_poisson_and_velocity():
    space = Fourier(box(16, 15))
    rng = np.random.default_rng(3)
    v = space.coefficients(random_waves(space, rng, 4)(space.points))
    w = space.inverse_laplacian(v)
    expected = v.copy()
    expected[0, 0] = 0
    np.testing.assert_allclose(-space.k2 * w, expected, atol=1e-13)
    u = space.velocity(v)
    divergence = space.derivative(u[0], 0) + space.derivative(u[1], 1)
    curl = space.derivative(u[1], 0) - space.derivative(u[0], 1)
    np.testing.assert_allclose(divergence, 0, atol=1e-13)
    np.testing.assert_allclose(curl, expected, atol=1e-13)
    with pytest.raises(ValueError, match="velocity needs 2 axes, the grid has 1"):
        Fourier(box(8)).velocity(np.zeros(4, complex))


@pytest.mark.parametrize(("old", "new"), [((9,), (16,)), ((16,), (9,)), ((9, 12), (14, 8))])
def test_resample_is_exact_for_waves_both_grids_carry(old, new):
    f = random_waves(Fourier(Grid.unit(old, periodic=True)), np.random.default_rng(4), 3)
    coarse = f(Grid.unit(old, periodic=True).meshgrid())
    fine = f(Grid.unit(new, periodic=True).meshgrid())
    np.testing.assert_allclose(resample(coarse, new), fine, atol=1e-13)
    both = resample(np.stack([coarse, -coarse]), new)
    np.testing.assert_allclose(both[1], -fine, atol=1e-13)


def test_tail_is_the_part_of_the_norm_in_the_outer_modes():
    space = Fourier(Grid.unit(64, dim=1, periodic=True))
    x = 2 * np.pi * space.points[0]
    v = space.coefficients(5.0 + np.sin(x) + 1e-3 * np.cos(30 * x))
    assert space.tail(v) == pytest.approx(1e-3, rel=1e-5)
    assert space.tail(space.coefficients(np.sin(20 * x))) < 1e-13
    assert space.tail(np.zeros(space.shape, complex)) == 0


@pytest.mark.parametrize("z", [0.0, 1e-9, -0.01, -1.0, 0.7, -30.0, -1e5, 2j, -0.3 + 40j])
def test_coefficients_equal_the_series(z):
    """Quotients p_n(z) = (p_(n-1)(z) - 1/(n-1)!)/z in 60 digits, by their Taylor series."""
    from fractions import Fraction

    def p(n, z):
        if abs(z) < 5:
            return sum(z**j / math.factorial(j + n) for j in range(60))
        value = np.exp(z)
        for j in range(n):
            value = (value - float(Fraction(1, math.factorial(j)))) / z
        return value

    h = 0.25
    truth = (
        p(0, z), p(0, z / 2), h / 2 * p(1, z / 2), h * p(2, z / 2), h * p(1, z), 2 * h * p(2, z),
        h * (p(1, z) - 3 * p(2, z) + 4 * p(3, z)), h * (2 * p(2, z) - 4 * p(3, z)),
        h * (4 * p(3, z) - p(2, z)),
    )  # fmt: skip
    got = etdrk4_coefficients(np.array([z / h]), h)
    np.testing.assert_allclose([g[0] for g in got], truth, rtol=1e-12, atol=1e-15)


def forced(stiffness):
    """``v' = L v + N(v, t)`` with the solution cos(t + x), whatever the stiffness."""
    space = Fourier(Grid(((Axis("x", 16, 0.0, 2 * np.pi, periodic=True)),)))
    x = space.points[0]

    def nonlinear(v, t):
        u = np.cos(x + t)
        force = space.coefficients(-np.sin(x + t) + stiffness * u)
        # u^2 - cos^2(x + t) vanishes for the solution, not for its errors
        return force + space.project(space.evaluate(v) ** 2) - space.coefficients(u**2)

    return space, -stiffness * space.k2, nonlinear, lambda t: np.cos(x + t)


@pytest.mark.parametrize("stiffness", [0.1, 1.0])
def test_order_four_in_time(stiffness):
    space, linear, nonlinear, exact = forced(stiffness)
    steps, errors = (8, 16, 32, 64), []
    for n in steps:
        r = solve_evolution(linear, nonlinear, exact(0.0), space, [0.0, 1.0], dt=1 / n)
        errors.append(np.abs(r.x[-1] - exact(1.0)).max())
        assert r.iterations == n
        # the estimate is near the error, for few steps too
        relative = np.linalg.norm(r.x[-1] - exact(1.0)) / np.linalg.norm(exact(1.0))
        assert 0.5 < r.info["time_errors"][-1] / relative < 2.0
    assert abs(observed_order(errors, [1 / n for n in steps]) - 4) < 0.2


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
def test_adaptive_steps_keep_the_tolerance_and_know_their_error(rtol):
    space, linear, nonlinear, exact = forced(0.3)
    times = np.array([0.0, 0.4, 0.5, 2.0, 3.0])  # uneven
    r = solve_evolution(linear, nonlinear, exact(0.0), space, times, rtol=rtol)
    truth = np.stack([exact(t) for t in times])
    norms = [np.trapezoid((d**2).mean(1), times) for d in (r.x - truth, truth)]
    error = np.sqrt(norms[0] / norms[1])
    assert r.info["time_error"] <= rtol
    assert 0.5 < r.info["time_error"] / error < 2.0
    assert r.residual == 0 and r.converged and r.solver == "spectral.etdrk4"
    assert len(r.info["time_errors"]) == 5 and r.info["time_errors"][0] == 0
    assert np.array_equal(r.x[0], exact(0.0))


def test_steps_adapt_to_the_solution():
    """A fast transient takes short steps, the slow rest long ones."""
    space = Fourier(Grid.unit(32, dim=1, periodic=True))
    u0 = 40.0 * np.sin(2 * np.pi * space.points[0])

    def flux(v, t):
        return -0.5j * space.k[0] * space.project(space.evaluate(v) ** 2)

    r = solve_evolution(-1.0 * space.k2, flux, u0, space, np.linspace(0, 0.5, 6))
    assert r.info["dt_max"] > 30 * r.info["dt_min"]


def test_leading_axes_are_samples():
    space = Fourier(Grid.unit(32, dim=1, periodic=True))
    x = space.points[0]
    u0 = np.stack([np.sin(2 * np.pi * x), 0.5 + 0.2 * np.cos(4 * np.pi * x), np.zeros(32)])

    def flux(v, t):
        return -0.5j * space.k[0] * space.project(space.evaluate(v) ** 2)

    linear, times = -0.05 * space.k2, [0.0, 0.3, 1.0]
    together = solve_evolution(linear, flux, u0, space, times, rtol=1e-9)
    assert together.x.shape == (3, 3, 32)
    for i in range(3):
        alone = solve_evolution(linear, flux, u0[i], space, times, rtol=1e-9)
        np.testing.assert_allclose(together.x[:, i], alone.x, atol=1e-8)


def test_blow_up_raises_with_step_and_time():
    space = Fourier(Grid.unit(8, dim=1, periodic=True))

    def square(v, t):  # u' = u^2 from u = 2 is infinite at t = 1/2
        return space.project(space.evaluate(v) ** 2)

    args = (np.zeros(space.shape), square, np.full(8, 2.0), space)
    with pytest.raises(SolverDidNotConverge, match=r"step \d+, t = 0\.(49|5)"):
        solve_evolution(*args, [0.0, 1.0])
    with pytest.raises(SolverDidNotConverge, match="blow-up"):
        solve_evolution(*args, [0.0, 4.0], dt=0.1)
    with pytest.raises(SolverDidNotConverge, match="max_steps=4") as e:
        solve_evolution(*args, [0.0, 0.4], rtol=1e-9, max_steps=4)
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)
    r = solve_evolution(*args, [0.0, 0.4])
    assert r.x[-1, 0] == pytest.approx(1 / (0.5 - 0.4), rel=1e-5)


def test_chaos_needs_a_horizon():
    space = Fourier(Grid((Axis("x", 48, 0.0, 32.0, periodic=True),)))
    x = space.points[0]
    u0 = np.cos(2 * np.pi * x / 32) + np.sin(6 * np.pi * x / 32 + 1)

    def flux(v, t):
        return -0.5j * space.k[0] * space.project(space.evaluate(v) ** 2)

    times = np.linspace(0, 120, 7)
    linear = space.k2 - space.k2**2
    r = solve_evolution(linear, flux, u0, space, times, rtol=1e-4, horizon=40.0)
    assert r.info["time_error"] <= 1e-4 < r.info["time_errors"][-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0.0]}, r"times=\[0.0\]: need at least 2"),
        ({"times": [0.0, 0.0]}, "strictly increasing"),
        ({"u0": np.zeros(7)}, r"u0 has shape \(7,\), expected \(..., \(8,\)\)"),
        ({"u0": np.full(8, np.nan)}, "u0 holds NaN"),
        ({"rtol": 2.0}, "rtol=2.0: need a number"),
        ({"dt": -1.0}, "dt=-1.0: need a positive"),
        ({"horizon": 0.0}, "horizon=0.0: need a time"),
        ({"horizon": 0.5}, "horizon=0.5: the first stored time after 0 is 1.0"),
        ({"linear": np.zeros(3)}, r"linear has shape \(3,\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    space = Fourier(Grid.unit(8, dim=1, periodic=True))
    args = {
        "linear": np.zeros(space.shape), "nonlinear": lambda v, t: 0 * v, "u0": np.ones(8),
        "space": space, "times": [0.0, 1.0],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message) as e:
        solve_evolution(**{**args, **change})
    assert "\n" not in str(e.value)


def test_bad_spaces_are_named():
    with pytest.raises(ValueError, match="need periodic axes"):
        Fourier(Grid.unit(8, dim=1))
    with pytest.raises(ValueError, match="degree=0: need an integer"):
        Fourier(Grid.unit(8, dim=1, periodic=True), degree=0)
    space = Fourier(Grid.unit(8, dim=1, periodic=True))
    with pytest.raises(ValueError, match="values have shape"):
        space.coefficients(np.zeros(9))
    with pytest.raises(ValueError, match="coefficients have shape"):
        space.values(np.zeros(9, complex))
