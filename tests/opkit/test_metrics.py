"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opkit.metrics import (
    energy_spectrum,
    max_error,
    relative_error,
    spectrum_error,
    summarize,
    wave_numbers,
)
from solvers.grids import Axis, Grid

GRIDS = [
    Grid.unit(17),
    Grid.unit(16, location="cell_center"),
    Grid.unit(16, periodic=True),
    Grid((Axis("x", 9), Axis("y", 12, 0.0, 3.0, periodic=True))),
    Grid.unit(21, dim=1),
    Grid.unit(6, dim=3, location="cell_center"),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_spectrum_adds_up_to_the_norm(grid: Grid) -> None:
    u = np.random.default_rng(1).normal(size=(2, *grid.shape))
    total = energy_spectrum(u, grid).sum(axis=-1)
    np.testing.assert_allclose(total, [grid.norm(v) ** 2 for v in u], rtol=1e-12)


@pytest.mark.parametrize(
    ("grid", "wave", "k"),
    [
        (Grid.unit(33, dim=1), lambda x: np.cos(5 * np.pi * x), 2.5),
        (Grid.unit(32, dim=1, location="cell_center"), lambda x: np.cos(5 * np.pi * x), 2.5),
        (Grid.unit(32, dim=1, periodic=True), lambda x: np.sin(2 * np.pi * 3 * x), 3.0),
        (Grid.unit(33), lambda x, y: np.cos(3 * np.pi * x) * np.cos(4 * np.pi * y), 2.5),
        (
            Grid((Axis("x", 32, 0.0, 2.0, periodic=True), Axis("y", 33))),
            lambda x, y: np.cos(np.pi * 3 * x) * np.cos(4 * np.pi * y),
            2.5,
        ),
    ],
)
def test_a_wave_lies_in_its_shell(grid: Grid, wave, k: float) -> None:
    energy = energy_spectrum(wave(*grid.meshgrid()), grid)
    shells, _ = wave_numbers(grid)
    assert shells[np.argmax(energy)] == pytest.approx(k, abs=shells[1] / 2)
    assert energy.max() == pytest.approx(energy.sum(), rel=1e-12)


def test_spectrum_error_counts_scales_alike() -> None:
    grid = Grid.unit(33, dim=1, periodic=True)
    x = grid.coords[0]
    large, small = np.sin(2 * np.pi * x), 1e-3 * np.sin(2 * np.pi * 7 * x)
    truth = (large + small)[None, None]
    # the large scale right, the small one missing: half the scales are 100 % wrong
    assert spectrum_error(large[None, None], truth, grid) == pytest.approx([0.5], rel=1e-9)
    assert relative_error(large[None, None], truth, grid) == pytest.approx([1e-3], rel=1e-3)
    assert spectrum_error(1.2 * truth, truth, grid) == pytest.approx([0.2], rel=1e-9)


def test_max_error_by_hand() -> None:
    truth = np.array([[[1.0, -4.0, 2.0]], [[1.0, 1.0, 1.0]]])
    prediction = np.array([[[2.0, -4.0, 2.0]], [[1.0, 1.0, 0.5]]])
    np.testing.assert_allclose(max_error(prediction, truth), [0.25, 0.5])
    vector = np.array([[[3.0, 0.0], [4.0, 0.0]]])  # lengths 5 and 0
    np.testing.assert_allclose(max_error(vector * 0, vector), [1.0])
    two = np.array([[[1.0, 1.0], [10.0, 10.0]]])
    np.testing.assert_allclose(max_error(two + 1, two, components=(1, 1)), [1.0])


def test_relative_error_is_float64() -> None:
    grid = Grid.unit(9)
    truth = np.full((1, 1, 9, 9), 2.0)
    assert relative_error(truth + 2e-12, truth, grid) == pytest.approx([1e-12], rel=1e-3)
    assert relative_error(truth + 0.5, truth, grid, kind="h1") == pytest.approx([0.25])


def test_nan_is_never_hidden() -> None:
    grid = Grid.unit(9)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 1, 9, 9))
    bad = truth.copy()
    bad[1, 0, 3, 3] = np.nan
    for error in (
        relative_error(bad, truth, grid),
        relative_error(bad, truth, grid, kind="h1"),
        max_error(bad, truth),
        spectrum_error(bad, truth, grid),
    ):
        assert error[0] == 0 and np.isnan(error[1])
        summary = summarize(error, np.array([7, 8]))
        assert summary["worst_id"] == 8
        assert all(math.isnan(summary[k]) for k in ("mean", "median", "p95", "max"))


def test_summary_by_hand() -> None:
    s = summarize(np.array([0.1, 0.4, 0.2, 0.3]), np.array([10, 11, 12, 13]))
    assert s == pytest.approx(
        {"mean": 0.25, "median": 0.25, "p95": 0.385, "max": 0.4, "worst_id": 11}
    )
    with pytest.raises(ValueError, match="n >= 1"):
        summarize(np.array([]), np.array([]))
