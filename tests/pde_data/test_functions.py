"""Random functions of one variable against their covariance and against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erf

from pde_data.functions import GaussianSpace, input_space

KINDS = [
    ("gaussian", {}),
    ("gaussian", {"length": 0.05, "sigma": 2.0, "bounds": (-1.0, 3.0)}),
    ("gaussian", {"periodic": True}),
    ("chebyshev", {}),
    ("chebyshev", {"n_terms": 5, "amplitude": 3.0, "bounds": (1.0, 2.5)}),
    ("power_series", {}),
    ("power_series", {"n_terms": 6, "bounds": (-2.0, 1.0)}),
]


@pytest.mark.parametrize("length", [0.01, 0.2, 1.5])
def test_gaussian_covariance_is_the_kernel(length):
    space = GaussianSpace(length=length, sigma=1.7)
    x = np.linspace(0, 1, 41)
    kernel = 1.7**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * length**2))
    assert np.abs(space.covariance(x, x) - kernel).max() < 1e-13


def test_periodic_covariance_is_the_wrapped_kernel():
    space = GaussianSpace(length=0.2, periodic=True)
    x = np.linspace(0, 1, 21)
    r = x[:, None] - x
    wrapped = sum(np.exp(-((r + m) ** 2) / (2 * 0.2**2)) for m in range(-9, 10))
    wrapped /= sum(np.exp(-(m**2) / (2 * 0.2**2)) for m in range(-9, 10))
    assert np.abs(space.covariance(x, x) - wrapped).max() < 1e-13
    f = space.draw(np.random.default_rng(1))
    assert np.abs(f(x + 1) - f(x)).max() < 1e-12


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_samples_have_the_covariance(kind, options):
    space = input_space(kind, **options)
    rng = np.random.default_rng(0)
    x = np.linspace(*space.bounds, 7)
    n = 4000
    values = np.array([space.draw(rng)(x) for _ in range(n)])
    exact = space.covariance(x, x)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    # the sample covariance scatters by at most sqrt(2/n) of the scale; 5 standard deviations
    assert np.abs((values.T @ values / n - exact) / scale).max() < 5 * np.sqrt(2 / n)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_derivative_and_integral(kind, options):
    space = input_space(kind, **options)
    f = space.draw(np.random.default_rng(3))
    lower, upper = space.bounds
    x = lower + (upper - lower) * np.array([0.1, 0.45, 0.8])
    h = 1e-5 * (upper - lower)
    central = (f(x + h) - f(x - h)) / (2 * h)
    assert np.allclose(f.derivative(x), central, rtol=1e-6, atol=1e-5)
    for end in (*x, upper):
        exact, _ = quad(lambda s: float(f(s)), lower, end, epsabs=1e-12, epsrel=1e-12, limit=200)
        assert abs(f.integral(end) - exact) < 1e-11
    assert abs(f.integral(lower)) < 1e-15


def test_covariance_with_the_integral():
    space, x, y = GaussianSpace(length=0.2), np.linspace(0, 1, 9), np.linspace(0, 1, 7)
    cross = (space.features(y, derivative=-1) * space.variances) @ space.features(x).T
    scale = np.sqrt(2) * 0.2
    exact = 0.2 * np.sqrt(np.pi / 2) * (erf((y[:, None] - x) / scale) + erf(x / scale))
    assert np.abs(cross - exact).max() < 1e-14


@pytest.mark.parametrize(
    ("m", "floor"), [(2, 1.26e-1), (3, 3.68e-2), (4, 4.58e-3), (5, 6.23e-4), (8, 3.91e-6)]
)
def test_what_sensors_leave_unknown_of_the_integral(m, floor):
    """Posterior variance of the antiderivative given m sensors, averaged over [0, 1].

    The reference values were averaged over a grid of 100 points or so: 5 %.
    """
    space = GaussianSpace(length=0.2)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    y, w = 0.5 * (nodes + 1), 0.5 * weights
    sensors = space.features(np.linspace(0, 1, m)) * np.sqrt(space.variances)
    target = space.features(y, derivative=-1) * np.sqrt(space.variances)
    projection = np.linalg.solve(sensors @ sensors.T, sensors @ target.T)
    posterior = np.sum(target**2, 1) - np.sum((target @ sensors.T) * projection.T, 1)
    assert float(w @ posterior) == pytest.approx(floor, rel=0.05)


def test_shapes_and_reproducibility():
    space = input_space("gaussian")
    f, g = (space.draw(np.random.default_rng(7)) for _ in range(2))
    x = np.linspace(0, 1, 12).reshape(3, 4)
    assert f(x).shape == (3, 4)
    assert np.array_equal(f(x), g(x))
    assert f(0.5).shape == ()
    assert np.allclose(f(x), (f.coefficients * space.features(x.ravel())).sum(1).reshape(3, 4))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gausian", {}, "Did you mean 'gaussian'"),
        ("gaussian", {"lenght": 1.0}, "Did you mean 'length'"),
        ("gaussian", {"length": -1.0}, "length=-1.0: need a positive number"),
        ("gaussian", {"length": 1e-5}, "length=1e-05: need at least"),
        ("chebyshev", {"n_terms": 0}, "n_terms=0: need an integer >= 1"),
        ("power_series", {"amplitude": 0.0}, "amplitude=0.0"),
        ("power_series", {"bounds": (1.0, 0.0)}, "need finite ends"),
    ],
)
def test_mistakes_get_one_line(kind, options, message):
    with pytest.raises(ValueError, match=message) as e:
        input_space(kind, **options)
    assert "\n" not in str(e.value)


def test_outside_the_bounds():
    f = input_space("chebyshev").draw(np.random.default_rng(0))
    with pytest.raises(ValueError, match="outside the function's bounds"):
        f(np.array([0.5, 1.1]))
