"""Figures show the numbers they are given, on scales that do not mislead."""

from __future__ import annotations

import numpy as np
import pytest

from opkit import plots

X = np.linspace(0.0, 1.0, 5)
Y = np.linspace(0.0, 2.0, 9)


def test_field_is_drawn_the_right_way_up() -> None:
    values = np.add.outer(10 * X, Y)  # grows along x ten times as fast as along y
    ax = plots.plot_field(values, (X, Y), label="u [Pa]", axis_names="xy", axis_units=("m", "m"))
    (image,) = ax.get_images()
    drawn = np.asarray(image.get_array())
    assert drawn.shape == (9, 5)  # rows are y
    assert drawn[8, 4] == values[4, 8] == 12.0
    assert drawn[0, 4] == values[4, 0] == 10.0
    assert image.origin == "lower"
    # the pixel centers are the points
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == pytest.approx((-0.125, 1.125, -0.125, 2.125))
    assert ax.get_aspect() == 1.0
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x [m]", "y [m]")
    assert image.colorbar is not None


def test_scales_are_sequential_or_centered_at_zero() -> None:
    assert plots._scale(np.array([1.0, 4.0])) == (1.0, 4.0, "viridis")
    assert plots._scale(np.array([-3.0, 2.0])) == (-3.0, 3.0, "RdBu_r")
    # a dip of rounding size below zero is no change of sign
    assert plots._scale(np.array([-1e-9, 2.0]))[2] == "viridis"


def test_truth_and_prediction_share_a_scale_and_the_error_has_its_own() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 2, (1, 5, 9))
    prediction = truth + 0.5
    figure = plots.plot_sample(truth, truth, prediction, (X, Y), output_labels=["u [Pa]"])
    images = [ax.get_images()[0] for ax in figure.axes if ax.get_images()]
    assert len(images) == 4
    assert images[1].get_clim() == images[2].get_clim() == (truth.min(), prediction.max())
    np.testing.assert_allclose(np.asarray(images[3].get_array()), 0.5)
    assert images[3].get_clim()[0] == 0.0
    figure.canvas.draw()  # lays out without a warning


def test_one_and_three_dimensions() -> None:
    line = plots.plot_field(X**2, (X,))
    np.testing.assert_array_equal(line.get_lines()[0].get_xydata()[:, 1], X**2)
    cube = np.arange(5 * 9 * 3, dtype=float).reshape(5, 9, 3)
    ax = plots.plot_field(cube, (X, Y, np.array([0.0, 0.5, 1.0])))
    np.testing.assert_array_equal(np.asarray(ax.get_images()[0].get_array()), cube[:, :, 1].T)
    assert "z = 0.5" in ax.get_title()


def test_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"values has shape \(9, 5\), expected \(5, 9\)"):
        plots.plot_field(np.zeros((9, 5)), (X, Y))
    with pytest.raises(ValueError, match="truth has shape"):
        plots.plot_sample(np.zeros((1, 5, 9)), np.zeros((1, 5, 9)), np.zeros((2, 5, 9)), (X, Y))


def test_history_marks_the_epoch_that_was_kept() -> None:
    history = {
        "epoch": [1.0, 2.0, 3.0],
        "train_loss": [0.5, 0.3, 0.2],
        "valid_loss": [0.5, 0.2, 0.4],
        "valid_rel_l2": [0.4, 0.1, 0.3],
    }
    ax = plots.plot_history(history)
    assert ax.get_yscale() == "log"
    kept = next(line for line in ax.get_lines() if str(line.get_label()).startswith("kept"))
    assert tuple(kept.get_xydata()[0]) == (2.0, 0.1)


def test_histogram_counts_every_sample_and_names_the_quantiles() -> None:
    errors = np.geomspace(0.01, 0.1, 101)
    ax = plots.plot_error_histogram(errors)
    assert sum(p.get_height() for p in ax.patches) == 101
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels == [f"median: {np.median(errors):.2%}", f"95 %: {np.quantile(errors, 0.95):.2%}"]
    plots.plot_error_histogram(np.full(3, 0.02)).figure.canvas.draw()  # all equal
    plots.plot_error_histogram(np.array([np.nan, 0.0]))  # nothing to draw


def test_spectrum_and_comparison_draw_what_they_get() -> None:
    spectrum = {"k": [0, 1, 2], "truth": [9, 4, 1], "prediction": [9, 4, 2], "error": [0, 0, 0.5]}
    ax = plots.plot_spectrum(spectrum)
    truth, _, error = ax.get_lines()
    np.testing.assert_array_equal(truth.get_xydata(), [[1, 4], [2, 1]])  # k = 0 has no place
    np.testing.assert_array_equal(error.get_xydata(), [[2, 0.5]])
    comparison = {
        "solver": "structured",
        "model_seconds": 0.01,
        "curve": [
            {"resolution": [65, 65], "error": 1e-3, "seconds": 2e-3},
            {"resolution": [33, 33], "error": 4e-3, "seconds": 1e-3},
        ],
    }
    ax = plots.plot_comparison(comparison, model_error=0.02)
    curve, model = ax.get_lines()
    np.testing.assert_array_equal(curve.get_xydata(), [[1e-3, 4e-3], [2e-3, 1e-3]])
    np.testing.assert_array_equal(model.get_xydata(), [[0.01, 0.02]])


def test_axes_that_are_given_are_used() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.plot_error_histogram(np.array([0.1, 0.2]), ax=ax) is ax
    assert plots.plot_field(X, (X,), ax=ax) is ax
