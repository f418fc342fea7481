"""Pictures of inversions: which way up, and what the median of finished samples is."""

from __future__ import annotations

import numpy as np

from opkit.inverse import pnp_pgd
from opkit.inverse.figures import plot_convergence, plot_reconstructions

FIELD = np.arange(12.0).reshape(1, 3, 4)


def test_images_have_their_rows_downward_and_fields_their_first_axis_to_the_right() -> None:
    for image in (True, False):
        figure = plot_reconstructions(
            {"a": FIELD, "b": FIELD + 1.0}, error_of=("a", "b"), image=image
        )
        shown = figure.axes[0].images[0]
        expected = FIELD[0] if image else FIELD[0].T
        assert np.array_equal(shown.get_array(), expected)
        assert shown.origin == ("upper" if image else "lower")
        # one scale for both fields
        assert shown.get_clim() == figure.axes[1].images[0].get_clim() == (0.0, 12.0)


def test_median_of_samples_that_are_done_is_their_last_value() -> None:
    def shrink(z: np.ndarray) -> np.ndarray:
        return 0.5 * z

    y = np.array([[1.0, 0.0], [1.0, 1e-3], [0.0, 1.0]])
    found = pnp_pgd(np.eye(2), y, shrink, tol=1e-3, max_iter=50, x0=np.diag([1.0, 1.0, 1.0])[:, :2])
    assert found.converged.all()
    ended = np.full(3, np.nan)
    held = []
    for row in found.residuals:
        ended = np.where(np.isfinite(row), row, ended)
        held.append(np.median(ended))
    median = plot_convergence(found).lines[-1]
    assert np.allclose(median.get_ydata(), held)
