"""Lagrange elements: matrices against integrals known in closed form."""

import math
import re

import numpy as np
import pytest

from solvers.elements import Elements, best_degree, projected_indicator
from solvers.grids import Axis, Grid


def test_linear_elements_in_one_dimension():
    h = 0.25
    e = Elements(Grid.unit(5, dim=1), 1)
    K = (np.diag([1.0, 2, 2, 2, 1]) - np.eye(5, k=1) - np.eye(5, k=-1)) / h
    M = h / 6 * (np.diag([2.0, 4, 4, 4, 2]) + np.eye(5, k=1) + np.eye(5, k=-1))
    C = 0.5 * (np.eye(5, k=1) - np.eye(5, k=-1))
    C[0, 0], C[-1, -1] = -0.5, 0.5
    np.testing.assert_allclose(e.stiffness(1.0).toarray(), K, atol=1e-13)
    np.testing.assert_allclose(e.mass(1.0).toarray(), M, atol=1e-15)
    np.testing.assert_allclose(e.convection([1.0]).toarray(), C, atol=1e-14)


def grid_of(dim, cells, *, periodic=False):
    ends = ((0.0, 1.0), (-1.0, 1.0), (1.0, 1.5))
    return Grid(
        tuple(
            Axis("xyz"[k], cells + (not periodic), *ends[k], periodic=periodic) for k in range(dim)
        )
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_polynomials_of_the_degree_are_exact(dim, degree):
    """Bilinear forms of polynomials that lie in the space equal their integrals."""
    grid = grid_of(dim, degree if dim == 3 else 2 * degree)
    e = Elements(grid, degree)
    x = grid.meshgrid()

    def moment(k, p):  # int x^p over axis k
        lo, hi = grid.bounds[k]
        return (hi ** (p + 1) - lo ** (p + 1)) / (p + 1)

    u = math.prod((c**degree for c in x), start=np.ones(grid.shape)).ravel()
    one = np.ones(u.size)
    exact = math.prod(moment(k, 2 * degree) for k in range(dim))
    assert u @ (e.mass(1.0) @ u) == pytest.approx(exact, rel=1e-11)
    assert one @ (e.mass(1.0) @ u) == pytest.approx(e.load(1.0).ravel() @ u, rel=1e-11)
    gradient = sum(
        degree**2 * moment(k, 2 * degree - 2)
        * math.prod(moment(i, 2 * degree) for i in range(dim) if i != k)
        for k in range(dim)
    )  # fmt: skip
    assert u @ (e.stiffness(1.0) @ u) == pytest.approx(gradient, rel=1e-11)
    assert np.abs(e.stiffness(1.0) @ one).max() < 1e-10  # constants have no energy
    # div of a constant velocity: one . C u is the flux through the sides in x
    through = grid.bounds[0][1] ** degree - grid.bounds[0][0] ** degree
    through *= math.prod(moment(i, degree) for i in range(1, dim))
    velocity = [1.0] + [0.0] * (dim - 1)
    assert one @ (e.convection(velocity) @ u) == pytest.approx(through, rel=1e-11)
    # on a side
    face = math.prod(moment(i, 2 * degree) for i in range(1, dim))
    upper = grid.bounds[0][1] ** (2 * degree)
    assert u @ (e.side_mass(1.0, 0, 1) @ u) == pytest.approx(upper * face, rel=1e-11)
    on_side = grid.bounds[0][1] ** degree * math.prod(moment(i, degree) for i in range(1, dim))
    assert e.side_load(1.0, 0, 1).ravel() @ u == pytest.approx(on_side, rel=1e-11)
    assert np.count_nonzero(e.side_load(1.0, 0, 0)[1:]) == 0


def test_tensor_entries():
    grid = grid_of(2, 4)
    e, (x, y) = Elements(grid, 2), grid.meshgrid()
    u, v = (x**2).ravel(), (x * y).ravel()
    # int A grad v . grad u with A = [[1, 2], [2, 5]]: (2x) (y + 2x), y is odd: 2 int 4 x^2 / 2 ...
    A = e.stiffness({(0, 0): 1.0, (0, 1): 2.0, (1, 0): 2.0, (1, 1): 5.0})
    assert u @ (A @ v) == pytest.approx(2 * 4 / 3, rel=1e-12)


def test_variable_coefficients_enter_as_polynomials():
    grid = grid_of(1, 4)
    x = grid.coords[0]
    e = Elements(grid, 2)
    assert np.ones(5) @ (e.mass(x**2) @ x) == pytest.approx(1 / 4, rel=1e-12)
    assert x @ (e.stiffness(x**2) @ x) == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_periodic_waves(degree):
    """Rayleigh quotient of a wave is its eigenvalue up to h^(2 degree)."""
    errors = []
    for n in (12, 24):
        grid = Grid.unit(n, dim=2, periodic=True)
        e, x = Elements(grid, degree), grid.meshgrid()[0]
        u = np.cos(2 * np.pi * x).ravel()
        quotient = (u @ (e.stiffness(1.0) @ u)) / (u @ (e.mass(1.0) @ u))
        errors.append(abs(quotient / (4 * np.pi**2) - 1))
    assert math.log2(errors[0] / errors[1]) > 2 * degree - 0.3
    assert e.mass(1.0).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_projected_indicator_has_exact_integrals(degree):
    axis = Axis("x", 13, 0.0, 2.0)
    g = projected_indicator(axis, degree, 0.37, 1.31)
    e, x = Elements(Grid((axis,)), degree), axis.coords
    load = e.mass(1.0) @ g
    for p in range(degree + 1):
        exact = (1.31 ** (p + 1) - 0.37 ** (p + 1)) / (p + 1)
        assert load @ x**p == pytest.approx(exact, rel=1e-11)
    np.testing.assert_allclose(projected_indicator(axis, degree, -1.0, 3.0), 1.0, atol=1e-12)


def test_what_does_not_fit_is_named():
    assert [best_degree(Grid.unit(n)) for n in (9, 7, 11, 8)] == [4, 3, 2, 1]
    assert best_degree(Grid.unit(8, periodic=True)) == 4
    with pytest.raises(ValueError, match=re.escape("axis 'x' has 9 cells")):
        Elements(Grid.unit(10), 2)
    with pytest.raises(ValueError, match="degree=5: need an integer from 1 to 4"):
        Elements(Grid.unit(6), 5)
    with pytest.raises(ValueError, match="elements need 'node'"):
        Elements(Grid.unit(8, location="cell_center"), 2)
