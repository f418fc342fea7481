"""Tests of the verification tools, against hand-computed numbers and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.grids import Axis, Grid
from solvers.verify import (
    h1_error,
    l2_error,
    manufactured_diffusion,
    observed_order,
    relative_residual,
)

BOUNDARIES = [
    (1, "dirichlet"),
    (1, "periodic"),
    (1, [("neumann", "dirichlet")]),
    (2, "dirichlet"),
    (2, "neumann"),
    (2, "periodic"),
    (2, [("dirichlet", "neumann"), "periodic"]),
    (3, ["neumann", "periodic", ("neumann", "dirichlet")]),
    (1, "robin"),
    (2, [("robin", "dirichlet"), ("neumann", "robin")]),
    (3, [("robin", "neumann"), ("dirichlet", "robin"), "robin"]),
]
BOUNDS = ((-1.0, 1.5), (2.0, 3.0), (0.0, 0.7))


def make(dim, boundary, homogeneous, anisotropy=None):
    return manufactured_diffusion(
        dim, boundary=boundary, bounds=BOUNDS[:dim], homogeneous=homogeneous, reaction=2.0,
        anisotropy=anisotropy,
    )  # fmt: skip


def grid_of(ms, n):
    return Grid(
        tuple(
            Axis(name, n, lo, hi, periodic=pair[0] == "periodic")
            for name, (lo, hi), pair in zip("xyz", ms.bounds, ms.boundary, strict=False)
        )
    )


@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize(("dim", "boundary"), BOUNDARIES)
def test_source_and_gradient_match_finite_differences(dim, boundary, homogeneous, anisotropic):
    ms = make(dim, boundary, homogeneous, (1.0, 0.3, 2.0)[:dim] if anisotropic else None)
    rng = np.random.default_rng(0)
    lower, upper = np.array(ms.bounds).T
    x = (lower + (upper - lower) * rng.random((40, dim))).T

    def shifted(k, h):
        y = x.copy()
        y[k] += h
        return y

    def coefficient(y):
        return ms.coefficient(y) if anisotropic else [ms.coefficient(y)] * dim

    h = 2e-3
    div, grad = 0.0, []
    for k in range(dim):
        # fourth order: (8 (v(h) - v(-h)) - (v(2h) - v(-2h))) / 12 h
        def slope(function, k=k):
            v = [function(shifted(k, s * h)) for s in (-2, -1, 1, 2)]
            return (8 * (v[2] - v[1]) - (v[3] - v[0])) / (12 * h)

        grad.append(slope(ms.solution))
        div = div + slope(lambda y, k=k: coefficient(y)[k] * ms.gradient(y)[k])
    # truncation h^4 / 30 times a fifth derivative, at most (2 pi / 0.7)^5 = 6e4 in 3-D
    np.testing.assert_allclose(np.stack(grad), ms.gradient(x), atol=1e-7)
    expected = -div + ms.reaction(x) * ms.solution(x)
    np.testing.assert_allclose(ms.source(x), expected, atol=2e-8 * np.abs(expected).max() + 1e-6)


@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize(("dim", "boundary"), BOUNDARIES)
def test_boundary_data(dim, boundary, homogeneous):
    ms = make(dim, boundary, homogeneous)
    grid = grid_of(ms, 6)
    values, u = ms.boundary_values(grid), ms.fields(grid)["u"]
    assert set(values) == {
        (k, s) for k, p in enumerate(ms.boundary) for s in (0, 1) if p[s] != "periodic"
    }
    for (k, side), v in values.items():
        robin = ms.boundary[k][side] == "robin"
        if homogeneous:
            np.testing.assert_allclose(v[2] if robin else v, 0.0, atol=1e-13)
            if not robin:
                continue
        if ms.boundary[k][side] == "dirichlet":
            np.testing.assert_allclose(v, np.take(u, -side, k), rtol=1e-13)
        else:
            # one-sided difference into the domain, second order
            h = 1e-5
            x = np.stack(grid.meshgrid())
            face = np.take(x, -side, k + 1)
            inner = [face.copy() for _ in range(3)]
            for i in range(3):
                inner[i][k] += (-1 if side else 1) * i * h
            w = [ms.solution(p) for p in inner]
            du = (1.5 * w[0] - 2 * w[1] + 0.5 * w[2]) / h
            if robin:
                assert np.all(v.alpha > 0) and np.all(v.beta > 0)
                expected = v.alpha * w[0] + v.beta * ms.coefficient(face) * du
                np.testing.assert_allclose(v.g, expected, atol=1e-6)
                continue
            np.testing.assert_allclose(v, ms.coefficient(face) * du, atol=1e-6)
            assert np.ptp(v) > 1e-3 or dim == 1


@pytest.mark.parametrize("boundary", ["periodic", ["periodic", "dirichlet"]])
def test_periodic_fields_wrap_around(boundary):
    ms = manufactured_diffusion(2, boundary=boundary, reaction=1.0)
    x = np.random.default_rng(1).random((2, 30))
    for function in (ms.solution, ms.coefficient, ms.source, ms.reaction):
        np.testing.assert_allclose(function(x), function(x + np.array([[1.0], [0.0]])), atol=1e-11)


def test_coefficient_varies_as_told_and_reaction_is_not_negative():
    ms = manufactured_diffusion(2, variation=1.5, reaction=3.0)
    fields = ms.fields(Grid.unit(101))
    assert np.isclose(fields["a"].max(), np.exp(1.5), rtol=1e-2)
    assert np.isclose(fields["a"].min(), np.exp(-1.5), rtol=1e-2)
    assert np.isclose(fields["c"].min(), 1.5) and np.isclose(fields["c"].max(), 4.5)


def test_manufactured_rejects():
    with pytest.raises(ValueError, match="dim=4"):
        manufactured_diffusion(4)
    with pytest.raises(ValueError, match="bounds="):
        manufactured_diffusion(2, bounds=[(0, 1)])
    with pytest.raises(ValueError, match="bounds="):
        manufactured_diffusion(1, bounds=[(1, 0)])
    with pytest.raises(ValueError, match="reaction=-1"):
        manufactured_diffusion(1, reaction=-1)
    with pytest.raises(ValueError, match=r"anisotropy=.*2 positive numbers"):
        manufactured_diffusion(2, anisotropy=(1.0, 0.0))
    with pytest.raises(ValueError, match="2 entries"):
        manufactured_diffusion(3, boundary=["dirichlet", "dirichlet"])
    ms = manufactured_diffusion(2)
    with pytest.raises(ValueError, match="expected"):
        ms.solution(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="bounds"):
        ms.fields(Grid((Axis("x", 4, 0, 2), Axis("y", 4))))
    with pytest.raises(ValueError, match="periodic"):
        ms.boundary_values(Grid.unit(4, periodic=True))


def test_observed_order():
    h = np.array([0.1, 0.05, 0.02, 0.01])
    assert observed_order(3 * h**1.5, h) == pytest.approx(1.5, abs=1e-12)
    # least squares, by hand: x = (0, 1, 2) log 2, y = (0, 1, 4) log 2 -> slope 2
    assert observed_order([1.0, 2.0, 16.0], [1.0, 2.0, 4.0]) == pytest.approx(2.0, abs=1e-12)


@pytest.mark.parametrize(
    ("errors", "spacings", "message"),
    [
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, 3], [1, 2, 4, 8], "shapes"),
        ([1, 2, 0.0], [1, 2, 4], "errors must be positive"),
        ([1, 2, np.nan], [1, 2, 4], "errors must be positive"),
        ([1, 2, 3], [1, -2, 4], "spacings must be positive"),
        ([1, 2, 3], [1, 1, 4], "must differ"),
    ],
)
def test_observed_order_rejects(errors, spacings, message):
    with pytest.raises(ValueError, match=message):
        observed_order(errors, spacings)


def test_relative_residual():
    A = np.array([[2.0, 1.0], [0.0, 4.0]])
    x, b = np.array([1.0, 1.0]), np.array([3.0, 0.0])  # b - A x = (0, -4)
    for operator in (A, sp.csr_array(A), lambda v: A @ v):
        assert relative_residual(operator, x, b) == pytest.approx(4 / 3)
    assert relative_residual(A, x, np.zeros(2)) == pytest.approx(5.0)
    # float32 input is promoted before the product
    y = np.array([1 + 2**-20, 1.0], np.float32)
    assert relative_residual(np.eye(2), y, np.ones(2)) == pytest.approx(2**-20 / np.sqrt(2))
    with pytest.raises(ValueError, match="A has shape"):
        relative_residual(A, np.ones(3), b)
    with pytest.raises(ValueError, match="x holds NaN"):
        relative_residual(A, np.array([np.nan, 1]), b)


def test_l2_error_by_hand():
    grid = Grid.unit(3, dim=1)  # weights 1/4, 1/2, 1/4
    u, exact = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0])
    assert l2_error(u, exact, grid) == pytest.approx(np.sqrt(0.5 * 1 + 0.25 * 4))
    size = np.sqrt(0.25 + 0.5 + 0.25 * 4)
    assert l2_error(u, exact, grid, relative=True) == pytest.approx(np.sqrt(1.5) / size)
    # mean of the error (0, 1, 2) is 1: left is (-1, 0, 1)
    assert l2_error(u, exact, grid, free_constant=True) == pytest.approx(np.sqrt(0.5))
    assert l2_error(u, lambda x: x[0], grid) == pytest.approx(np.sqrt(0.25 + 0.5 * 2.25 + 0.25 * 9))
    with pytest.raises(ValueError, match="exact is 0"):
        l2_error(u, np.zeros(3), grid, relative=True)
    with pytest.raises(ValueError, match="u has shape"):
        l2_error(np.ones(4), exact, grid)
    with pytest.raises(ValueError, match="u holds NaN"):
        l2_error(np.array([np.nan, 0, 0]), exact, grid)


def test_h1_error_by_hand():
    grid = Grid.unit(3, dim=1)
    u = np.array([0.0, 0.5, 0.0])
    # quotients of the error: slopes 1 and -1; L2 part sqrt(1/2 * 1/4)
    assert h1_error(u, np.zeros(3), grid) == pytest.approx(np.sqrt(1 + 0.125))
    # against u = x, du = 1: slopes of the interpolant 1, -1, differences 0 and -2
    error = h1_error(u, lambda x: x[0], grid, gradient=np.ones_like)
    assert error == pytest.approx(np.sqrt(2 + 0.25 * 1))
    # periodic, two points: hat of height 1 over a unit circle has slopes 2 and -2
    circle = Grid.unit(2, dim=1, periodic=True)
    hat = np.array([0.0, 1.0])
    expected = np.sqrt(4 + 0.5)
    assert h1_error(hat, np.zeros(2), circle) == pytest.approx(expected)
    zero = h1_error(hat, lambda x: 0 * x[0], circle, gradient=np.zeros_like)
    assert zero == pytest.approx(expected)


def test_h1_error_in_2d_is_an_integral():
    grid = Grid((Axis("x", 4, 0, 2), Axis("y", 3, 1, 2)))
    x, y = grid.meshgrid()
    # u = x y is bilinear; against v = 0: |grad u|^2 = x^2 + y^2, its integral 8/3 + 14/3
    error = h1_error(x * y, lambda p: 0 * p[0], grid, gradient=np.zeros_like)
    assert error == pytest.approx(np.sqrt(grid.norm(x * y) ** 2 + 22 / 3))
    exact = h1_error(x * y, lambda p: p[0] * p[1], grid, gradient=lambda p: p[::-1])
    assert exact == pytest.approx(0.0, abs=1e-13)
    with pytest.raises(ValueError, match="gradient returned shape"):
        h1_error(x * y, x * y, grid, gradient=lambda p: p[0])


@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
def test_interpolation_has_the_orders_of_theory(boundary):
    ms = manufactured_diffusion(2, boundary=boundary)
    errors, h = [], []
    for n in (16, 32, 64):
        grid = grid_of(ms, n)
        u = ms.fields(grid)["u"]
        errors.append(h1_error(u, ms.solution, grid, gradient=ms.gradient))
        h.append(max(grid.spacing))
    assert abs(observed_order(errors, h) - 1) < 0.05
