"""Grids: coordinates, weights and refinement against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest

from solvers.grids import Axis, Grid, normalize_boundary


@pytest.mark.parametrize(
    ("axis", "coords", "weights"),
    [
        (Axis("x", 5), [0, 0.25, 0.5, 0.75, 1], [0.125, 0.25, 0.25, 0.25, 0.125]),
        (Axis("x", 4, periodic=True), [0, 0.25, 0.5, 0.75], [0.25] * 4),
        (Axis("x", 4, location="cell_center"), [0.125, 0.375, 0.625, 0.875], [0.25] * 4),
        (Axis("x", 3, lower=-1, upper=3), [-1, 1, 3], [1, 2, 1]),
    ],
)
def test_axis(axis, coords, weights):
    np.testing.assert_allclose(axis.coords, coords, rtol=1e-15)
    np.testing.assert_allclose(axis.weights, weights, rtol=1e-15)
    assert axis.weights.sum() == pytest.approx(axis.upper - axis.lower, rel=1e-15)


def test_refined_node_grids_are_nested():
    g = Grid((Axis("x", 7, -1, 2), Axis("y", 6, periodic=True)))
    fine = g.refined()
    assert fine.shape == (13, 12)
    for a, b in zip(g.coords, fine.coords, strict=True):
        np.testing.assert_allclose(b[::2], a, rtol=0, atol=1e-15)


def test_norm_is_an_integral():
    g = Grid.unit((65, 33))
    x, y = g.meshgrid()
    # trapezoidal rule of sin^2 over full half-periods is exact
    assert g.norm(np.sin(np.pi * x) * np.sin(2 * np.pi * y)) == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Axis("x", 1), r"n=1 points on axis 'x': need an integer >= 2"),
        (lambda: Axis("x", 2.5), r"n=2.5"),
        (lambda: Axis("x", 5, 1.0, 0.0), r"lower < upper"),
        (lambda: Axis("x", 5, location="nodes"), r"Did you mean 'node'\?"),
        (lambda: Grid(tuple(Axis(n, 3) for n in "wxyz")), r"at most 3 axes, got 4"),
        (lambda: Grid((Axis("x", 3), Axis("x", 3))), r"names repeat"),
        (lambda: normalize_boundary("dirichlett", Grid.unit(5)), r"Did you mean 'dirichlet'\?"),
        (lambda: normalize_boundary(("neumann",), Grid.unit(5)), r"has 1 entries"),
        (lambda: normalize_boundary("periodic", Grid.unit(5)), r"periodic=False"),
        (
            lambda: normalize_boundary((("periodic", "neumann"), "neumann"), Grid.unit(5)),
            r"must hold on both sides",
        ),
    ],
)
def test_errors_name_argument_value_and_allowed(call, message):
    with pytest.raises(ValueError, match=message) as e:
        call()
    assert "\n" not in str(e.value)
