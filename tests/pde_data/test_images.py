"""Sources of images: values, splits, shapes."""

from __future__ import annotations

import numpy as np
import pytest

from pde_data.images import SOURCES, Shape, Shapes, image_source
from solvers.grids import Axis, Grid


def pixels(n, m=None):
    return Grid.unit((n, m or n), location="cell_center")


@pytest.mark.parametrize("kind", SOURCES)
def test_values_and_reproducibility(kind):
    source, grid = image_source(kind), pixels(8 if kind == "digits" else 24)
    for i in (0, 5, 10**9, 2 * 10**9 + 3):
        a, b = (source.draw(np.random.default_rng(i), i).pixels(grid) for _ in range(2))
        assert np.array_equal(a, b) and a.shape == grid.shape
        assert a.min() >= 0 and a.max() <= 1 and a.std() > 0.01


@pytest.mark.parametrize(("kind", "total"), [("digits", 1797), ("photos", 17)])
def test_splits_share_no_base_image(kind, total):
    source, seen = image_source(kind), []
    for code in range(3):
        ids = range(code * 10**9, code * 10**9 + 2000)
        rng = np.random.default_rng(0)
        seen.append({source.draw(rng, i).group for i in ids})
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert len(seen[0] | seen[1] | seen[2]) == total


def test_digits_are_scikit_learns():
    images = pytest.importorskip("sklearn.datasets").load_digits().images
    image = image_source("digits").draw(np.random.default_rng(0), 9)  # the ninth is not for test
    assert image.group == 11
    assert np.array_equal(image.pixels(pixels(8)), images[11] / 16)


def test_photos_are_tiles():
    data = pytest.importorskip("skimage.data")
    image = image_source("photos").draw(np.random.default_rng(0), 1)
    tile = image.pixels(pixels(40, 50))
    camera = data.camera() / 255
    windows = np.lib.stride_tricks.sliding_window_view(camera, (40, 50))
    first = np.argwhere(np.abs(windows[:, :, 0, 0] - tile[0, 0]) < 1e-12)
    assert any(np.array_equal(windows[i, j], tile) for i, j in first)
    with pytest.raises(ValueError, match="camera has only"):
        image.pixels(pixels(600))


def test_shapes_are_cell_means_on_any_box():
    box = Shapes((Shape((0.5, 0.5), (0.25, 0.125), 0.0, 2.0, box=True),))
    grid = Grid(tuple(Axis(a, 16, -3.0, 1.0, location="cell_center") for a in "xy"))
    values = box(grid)
    assert values.sum() * (1 / 16) ** 2 == pytest.approx(2 * 0.5 * 0.25, abs=1e-14)
    assert set(np.unique(values)) == {0.0, 2.0}
    disk = Shapes((Shape((0.5, 0.4), (0.3, 0.2), 0.7, 1.0),))
    for n, within in ((16, 5e-3), (128, 2e-4)):
        area = disk(pixels(n)).mean()
        assert area == pytest.approx(np.pi * 0.3 * 0.2, abs=within)
    turned = Shapes((Shape((0.5, 0.5), (0.3, 0.05), np.pi / 2, 1.0, box=True),))(pixels(20))
    assert turned[10].sum() == 12 and turned[:, 10].sum() == 2  # long along y


def test_added_shapes_overlap():
    two = (Shape((0.5, 0.5), (0.4, 0.4), 0.0, 0.4), Shape((0.5, 0.5), (0.2, 0.2), 0.0, 0.25))
    assert Shapes(two, add=True)(pixels(20))[10, 10] == pytest.approx(0.65)
    assert Shapes(two)(pixels(20))[10, 10] == 0.25


def test_unknown_source():
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        image_source("digit")
