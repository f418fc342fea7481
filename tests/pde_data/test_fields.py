import math
import re

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from pde_data.fields import (
    BASES,
    FieldSample,
    GaussianBumps,
    GaussianField,
    SineSum,
    TrigonometricProduct,
    bounded,
    level_set,
    lognormal,
)
from solvers.grids import Axis, Grid


def box(dim: int, n: int, *, location="node", periodic=False, bounds=None) -> Grid:
    bounds = bounds or ((0.0, 1.0),) * dim
    return Grid(
        tuple(
            Axis(name, n + k, lo, hi, location=location, periodic=periodic)
            for k, (name, (lo, hi)) in enumerate(zip("xyz", bounds, strict=False))
        )
    )


def phi(basis: str, j: int, x: float, lower: float, upper: float) -> tuple[float, float]:
    """Basis function number j at x and its frequency, from the textbook."""
    length = upper - lower
    s = (x - lower) / length
    if basis == "sine":
        return math.sqrt(2 / length) * math.sin(math.pi * (j + 1) * s), math.pi * (j + 1) / length
    if j == 0:
        return 1 / math.sqrt(length), 0.0
    if basis == "cosine":
        return math.sqrt(2 / length) * math.cos(math.pi * j * s), math.pi * j / length
    k = (j + 1) // 2
    f = math.cos if j % 2 else math.sin
    return math.sqrt(2 / length) * f(2 * math.pi * k * s), 2 * math.pi * k / length


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_series_equals_a_loop_over_the_modes(basis, dim):
    bounds = ((0.0, 1.0), (-1.0, 1.5), (2.0, 2.5))[:dim]
    modes = (4, 3, 2)[:dim]
    field = GaussianField(1.7, 2.5, 0.8, basis=basis, n_modes=modes, bounds=bounds)
    sample = field.draw(np.random.default_rng(1))
    xi = np.random.default_rng(1).standard_normal(sample.coefficients.shape)
    grid = box(dim, 3, bounds=bounds)
    values = sample(grid)
    assert values.shape == grid.shape and values.dtype == np.float64
    for point in np.ndindex(*grid.shape):
        total = variance = 0.0
        for mode in np.ndindex(*xi.shape):
            product, square = 1.0, 0.0
            for d in range(dim):
                p, w = phi(basis, mode[d], grid.coords[d][point[d]], *bounds[d])
                product, square = product * p, square + w * w
            lam = 0.8**2 * (square + 2.5**2) ** -1.7
            total += math.sqrt(lam) * xi[mode] * product
            variance += lam * product**2
        assert values[point] == pytest.approx(total, abs=1e-13)
        assert field.variance(grid)[point] == pytest.approx(variance, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("basis", BASES)
def test_basis_is_orthonormal_in_l2(basis):
    field = GaussianField(basis=basis, n_modes=6, bounds=((-1.0, 2.0),))
    # the midpoint rule is exact for trigonometric polynomials of this degree
    grid = Grid((Axis("x", 64, -1.0, 2.0, location="cell_center"),))
    m = field.eigenvalues.size
    values = np.array([FieldSample(field, np.eye(m)[j])(grid) for j in range(m)])
    np.testing.assert_allclose((values * grid.weights) @ values.T, np.eye(m), atol=1e-13)


@pytest.mark.parametrize(
    ("basis", "zero_mean"),
    [("cosine", False), ("cosine", True), ("sine", False), ("fourier", False)],
)
def test_sample_covariance_is_the_exact_one(basis, zero_mean):
    field = GaussianField(2.0, 3.0, basis=basis, n_modes=8, zero_mean=zero_mean)
    grid = Grid.unit(5, dim=2, location="cell_center")
    rng, n = np.random.default_rng(7), 4000
    draws = np.array([field.draw(rng)(grid).ravel() for _ in range(n)])
    points = np.stack([x.ravel() for x in grid.meshgrid()], axis=1)
    exact = field.covariance(points, points)
    np.testing.assert_allclose(np.diag(exact).reshape(grid.shape), field.variance(grid), rtol=1e-12)
    # the mean over n Gaussian draws of x_i x_j has this standard deviation; of 325 entries (and
    # 25 means) none is beyond 4.5 of them, but for one seed in 400
    std = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / n)
    assert np.abs((draws.T @ draws / n - exact) / std).max() < 4.5
    assert np.abs(draws.mean(0) / np.sqrt(np.diag(exact) / n)).max() < 4.5


@pytest.mark.parametrize(
    ("dim", "alpha", "n_modes", "rtol"),
    # cut-off modes leave (tau L / 2 pi m)^(2 alpha - d) of the variance
    [(1, 1.0, 4000, 2e-3), (1, 2.0, 400, 1e-5), (2, 2.0, 80, 5e-3), (2, 3.0, 80, 5e-5)],
)
def test_inside_a_large_box_it_is_a_matern_field(dim, alpha, n_modes, rtol):
    import gstools

    tau, sigma = 30.0, 1.3
    nu = alpha - dim / 2
    variance = sigma**2 * math.gamma(nu) / math.gamma(alpha) / (4 * math.pi) ** (dim / 2)
    variance *= tau ** (-2 * nu)
    matern = gstools.Matern(dim=dim, var=variance, len_scale=math.sqrt(nu) / tau, nu=nu)
    field = GaussianField(
        alpha, tau, sigma, basis="fourier", n_modes=n_modes, bounds=((0.0, 1.0),) * dim
    )
    r = np.array([0.0, 0.01, 0.02, 0.04, 0.08])
    points = np.full((len(r), dim), 0.4)
    points[:, 0] += r
    ours = field.covariance(points[:1], points)[0]
    np.testing.assert_allclose(ours, matern.covariance(r), rtol=0, atol=rtol * variance)


def test_exponential_covariance_in_one_dimension():
    """alpha=1 in 1-D: sigma^2/(2 tau) exp(-tau r), from the Green's function on the line."""
    field = GaussianField(1.0, 30.0, basis="cosine", n_modes=8000, bounds=((0.0, 1.0),))
    x, y = np.array([[0.5]]), np.array([[0.5], [0.53], [0.6]])
    exact = np.exp(-30.0 * np.array([0, 0.03, 0.1])) / 60.0
    # tail of the series: 2 sum_{k>m} (pi k)^-2 < 2/(pi^2 m); images in the walls: exp(-30)
    np.testing.assert_allclose(field.covariance(x, y)[0], exact, atol=2 / (np.pi**2 * 8000))


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_nested_grids_share_values(basis, dim):
    field = GaussianField(2.0, 3.0, basis=basis, n_modes=32 if dim < 3 else 8,
                          bounds=((0.0, 1.0),) * dim)  # fmt: skip
    sample = field.draw(np.random.default_rng(3))
    grid = Grid.unit(9, dim=dim)
    every_second = (slice(None, None, 2),) * dim
    coarse, fine = sample(grid), sample(grid.refined(2))
    np.testing.assert_allclose(coarse, fine[every_second], rtol=0, atol=1e-12)
    points = np.stack([x.ravel() for x in grid.meshgrid()], axis=1)
    np.testing.assert_allclose(sample.at(points), coarse.ravel(), rtol=0, atol=1e-12)
    # cells of one grid are the middle cells of the grid three times as fine
    cells = Grid.unit(6, dim=dim, location="cell_center")
    third = (slice(1, None, 3),) * dim
    np.testing.assert_allclose(sample(cells), sample(cells.refined(3))[third], rtol=0, atol=1e-12)
    if basis == "fourier":
        ring = Grid.unit(8, dim=dim, periodic=True)
        np.testing.assert_allclose(sample(ring), coarse[(slice(0, -1),) * dim], rtol=0, atol=1e-12)


def test_boundary_conditions():
    grid = Grid.unit(9, dim=2)
    sine = GaussianField(basis="sine", n_modes=16).draw(np.random.default_rng(0))(grid)
    for side in (sine[0], sine[-1], sine[:, 0], sine[:, -1]):
        np.testing.assert_allclose(side, 0, atol=1e-13)
    ring = GaussianField(basis="fourier", n_modes=16).draw(np.random.default_rng(0))(grid)
    np.testing.assert_allclose(ring[0], ring[-1], atol=1e-13)
    wall = GaussianField(basis="cosine", n_modes=16).draw(np.random.default_rng(0))
    slopes = []
    for h in (1e-3, 5e-4):  # du/dn = 0: the difference quotient goes to zero with h
        pairs = np.array([[0.0, 0.3], [h, 0.3], [1.0, 0.3], [1 - h, 0.3]])
        v = wall.at(pairs)
        slopes.append([(v[1] - v[0]) / h, (v[2] - v[3]) / h])
    np.testing.assert_allclose(np.divide(*slopes), 2.0, rtol=1e-3)


def test_zero_mean_and_normalized():
    field = GaussianField(2.0, 3.0, n_modes=16, zero_mean=True, bounds=((0.0, 2.0), (0.0, 1.0)))
    cells = box(2, 64, location="cell_center", bounds=field.bounds)  # midpoint rule is exact
    sample = field.draw(np.random.default_rng(2))(cells)
    assert abs(np.sum(cells.weights * sample)) < 1e-13
    mean_variance = np.sum(cells.weights * field.variance(cells)) / 2.0
    assert field.mean_variance == pytest.approx(mean_variance, rel=1e-12)
    assert field.normalized(0.7).mean_variance == pytest.approx(0.49, rel=1e-12)
    free = GaussianField(2.0, 0.0, n_modes=4, zero_mean=True)  # tau = 0 needs it
    assert np.all(np.isfinite(free.eigenvalues)) and free.eigenvalues[0, 0] == 0


def test_convention_of_the_fno_paper():
    """GRF.m: L = s*coef.*xi; L(1,1) = 0; U = idct2(L), at cell centers."""
    s, alpha, tau = 24, 2.0, 3.0
    xi = np.random.default_rng(5).standard_normal((s, s))
    k = np.arange(s)
    coef = tau ** (alpha - 1) * (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** (-alpha / 2)
    modes = s * coef * xi
    modes[0, 0] = 0
    matlab = scipy.fft.idctn(modes, norm="ortho")
    field = GaussianField(alpha, tau, tau ** (alpha - 1), n_modes=s, zero_mean=True)
    ours = FieldSample(field, np.sqrt(field.eigenvalues) * xi)
    grid = Grid.unit(s, dim=2, location="cell_center")
    np.testing.assert_allclose(ours(grid), matlab, rtol=0, atol=1e-12)


def test_the_same_seed_gives_the_same_bits():
    field, grid = GaussianField(n_modes=20), Grid.unit(17)
    a, b, c = (field.draw(np.random.default_rng(s))(grid) for s in (4, 4, 5))
    assert np.array_equal(a, b) and not np.allclose(a, c)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 2**32 - 1))
def test_level_set_ignores_positive_scaling(scale, seed):
    field, grid = GaussianField(n_modes=6), Grid.unit(9)
    mu = field.draw(np.random.default_rng(seed))
    scaled = FieldSample(field, scale * mu.coefficients)
    a = level_set(mu, 3.0, 12.0)(grid)
    assert np.array_equal(a, level_set(scaled, 3.0, 12.0)(grid))
    assert np.array_equal(a == 12.0, mu(grid) >= 0) and set(np.unique(a)) <= {3.0, 12.0}


def test_transforms():
    field, grid = GaussianField(n_modes=6).normalized(), Grid.unit(9)
    mu = field.draw(np.random.default_rng(0))
    v = mu(grid)
    assert np.array_equal(lognormal(mu)(grid), np.exp(v))
    assert np.array_equal(level_set(mu, 0, 1, 0.5)(grid), (v >= 0.5).astype(float))
    b = bounded(mu, 2.0, 6.0)(grid)
    np.testing.assert_allclose(b, 4 + 2 * np.tanh(v), rtol=1e-15)
    assert level_set(mu, 3, 12)(grid).dtype == np.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "cosin"}, "Did you mean 'cosine'?"),
        ({"alpha": 0.0}, "alpha=0.0: need a positive number"),
        ({"sigma": math.nan}, "sigma=nan"),
        ({"tau": -1.0}, "tau=-1.0: need a number >= 0"),
        ({"tau": 0.0}, "zero_mean=True"),
        ({"n_modes": 0}, "n_modes=0: need integers >= 1"),
        ({"n_modes": True}, "n_modes=True"),
        ({"n_modes": (4,)}, "need 2 entries"),
        ({"n_modes": 1, "zero_mean": True}, "need one >= 2"),
        ({"basis": "sine", "zero_mean": True}, "no constant mode"),
        ({"bounds": ((1.0, 0.0),)}, "lower < upper"),
        ({"bounds": ()}, "1 to 3 axes"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GaussianField(**options)


def test_bad_grids_are_named():
    sample = GaussianField(n_modes=4).draw(np.random.default_rng(0))
    with pytest.raises(ValueError, match="the grid has 1 axes, the field 2"):
        sample(Grid.unit(5, dim=1))
    with pytest.raises(ValueError, match=r"outside the field's bounds 0\.0 to 1\.0"):
        sample(box(2, 5, bounds=((0.0, 2.0), (0.0, 1.0))))
    with pytest.raises(ValueError, match="use basis='fourier'"):
        sample(Grid.unit(5, periodic=True))
    with pytest.raises(ValueError, match=r"points have shape \(3,\), expected \(m, 2\)"):
        sample.at(np.zeros(3))


def test_a_part_of_the_box_is_fine():
    sample = GaussianField(n_modes=4).draw(np.random.default_rng(0))
    part = Grid((Axis("x", 3, 0.25, 0.75), Axis("y", 5)))
    np.testing.assert_allclose(sample(part), sample(Grid.unit(5))[1:4], atol=1e-13)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_derivatives_are_those_of_the_series(basis, dim):
    field = GaussianField(
        basis=basis, n_modes=4, bounds=((0.0, 1.0), (-1.0, 1.0), (2.0, 3.0))[:dim]
    )
    sample = field.draw(np.random.default_rng(2))
    x = np.array([[0.3, 0.2, 2.7], [0.8, -0.4, 2.2]])[:, :dim]
    for k in range(dim):
        step = 1e-5 * np.eye(dim)[k]
        slope = (sample.at(x + step) - sample.at(x - step)) / 2e-5
        np.testing.assert_allclose(sample.derivative(k).at(x), slope, atol=1e-8)
    grid = box(dim, 4, bounds=field.bounds)
    points = np.stack([c.ravel() for c in grid.meshgrid()], axis=1)
    d = sample.derivative(0)
    np.testing.assert_allclose(d(grid).ravel(), d.at(points), atol=1e-13)
    with pytest.raises(ValueError, match="axis=0: need one of"):
        d.derivative(0)


def test_sine_sum_is_the_loop_over_its_waves():
    sines = SineSum(3, 0.5, 2.0, bounds=((0.0, 2.0), (1.0, 2.0)))
    sample = sines.draw(np.random.default_rng(4))
    a = np.random.default_rng(4).uniform(-1, 1, (3, 3))
    grid = box(2, 5, bounds=sines.bounds)
    x, y = grid.meshgrid()
    total, variance = np.zeros(grid.shape), np.zeros(grid.shape)
    for k in range(1, 4):
        for m in range(1, 4):
            wave = np.sin(np.pi * k * x / 2) * np.sin(np.pi * m * (y - 1))
            weight = 2.0 / math.sqrt(k * k + m * m)
            total += weight * a[k - 1, m - 1] * wave
            variance += weight**2 / 3 * wave**2
    np.testing.assert_allclose(sample(grid), total, atol=1e-13)
    np.testing.assert_allclose(sines.variance(grid), variance, atol=1e-13)


def test_sine_sum_has_the_exact_variance():
    sines, grid, n = SineSum(4), Grid.unit(6, location="cell_center"), 3000
    rng = np.random.default_rng(0)
    draws = np.array([sines.draw(rng)(grid) for _ in range(n)])
    # kurtosis of a sum of uniforms is at most that of a Gaussian: std of the estimate var sqrt(2/n)
    exact = sines.variance(grid)
    assert np.abs(((draws**2).mean(0) - exact) / (exact * math.sqrt(2 / n))).max() < 4.5


def test_periodic_bumps_have_the_exact_variance_and_mean():
    w, bounds = 0.1, ((0.0, 1.0), (0.0, 2.0))
    bumps = GaussianBumps(3, (w, w), 0.7, bounds=bounds, periodic=True)
    # n sigma^2 int exp(-|x|^2 / w^2) dx / area, and the images, whose tails are below 1e-10
    exact = 3 * 0.49 * math.pi * w**2 / 2
    grid = Grid((Axis("x", 16, 0.0, 1.0, periodic=True), Axis("y", 32, 0.0, 2.0, periodic=True)))
    rng, n = np.random.default_rng(1), 1500
    power = np.array([np.mean(bumps.draw(rng)(grid) ** 2) for _ in range(n)])
    assert abs(power.mean() - exact) < 4.5 * power.std() / math.sqrt(n)


def test_bumps_are_the_sum_of_exponentials():
    bumps = GaussianBumps(2, (0.1, 0.3))
    sample = bumps.draw(np.random.default_rng(3))
    grid = Grid.unit(7)
    x, y = grid.meshgrid()
    total = sum(
        a * np.exp(-((x - c[0]) ** 2 + (y - c[1]) ** 2) / (2 * w * w))
        for a, c, w in zip(sample.heights, sample.centers, sample.widths, strict=True)
    )
    np.testing.assert_allclose(sample(grid), total, atol=1e-15)
    assert np.all((sample.widths >= 0.1) & (sample.widths <= 0.3))
    ring = GaussianBumps(1, (0.2, 0.2), periodic=True).draw(np.random.default_rng(0))
    closed = ring(Grid.unit(9))
    np.testing.assert_allclose(closed[0], closed[-1], atol=1e-9)
    with pytest.raises(ValueError, match="need 0 < smallest <= largest"):
        GaussianBumps(1, (0.3, 0.2))


def test_trigonometric_product():
    """The formula of the multiscale coefficient at one point, and its bounds and frequencies."""
    field = TrigonometricProduct()
    sample = field.draw(np.random.default_rng(0))
    grid = Grid.unit(11)
    x, y = grid.coords[0][3], grid.coords[1][7]
    value = 1.0
    for a in sample.frequencies:
        value *= (1 + math.cos(a * math.pi * (x + y)) / 2) * (
            1 + math.sin(a * math.pi * (y - 3 * x)) / 2
        )
    assert sample(grid)[3, 7] == pytest.approx(value, rel=1e-12)
    draws = np.array([field.draw(np.random.default_rng(s)).frequencies for s in range(500)])
    first = 2.0 ** np.arange(6)
    assert np.all((draws >= first) & (draws <= 1.5 * first))
    std = 0.5 * first / math.sqrt(12)  # of a uniform number
    assert np.abs((draws.mean(0) - 1.25 * first) / (std / math.sqrt(500))).max() < 4.5
    values = sample(Grid.unit(257))
    assert field.low < values.min() < 0.1 and 10 < values.max() < field.high
