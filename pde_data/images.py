"""Images for inverse problems: random fields, and small real images that ship with packages.

A source draws images by sample id, so that the splits share no base image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from solvers.grids import Axis, Grid
from solvers.names import check_name

from .fields import GaussianField, bounded
from .hdf5.schema import SPLIT_STRIDE

__all__ = ["SOURCES", "Image", "ImageSource", "Shape", "Shapes", "image_source"]

SOURCES = ("inclusions", "gaussian", "phantom", "digits", "photos")

#: Photographs that scikit-image ships in its package, by split. None is in two.
_PHOTOS: dict[int, tuple[str, ...]] = {
    0: ("astronaut", "camera", "chelsea", "coins", "grass", "hubble_deep_field", "moon", "retina",
        "page", "immunohistochemistry"),
    1: ("coffee", "gravel", "clock"),
    2: ("rocket", "brick", "cell", "text"),
}  # fmt: skip
#: Points per axis of a cell over which sharp shapes are averaged.
_SUB = 4


@dataclass(frozen=True)
class Image:
    """An image and where it comes from.

    Attributes
    ----------
    pixels : callable
        Grid of cells to values in [0, 1], in the grid's shape.
    group : int, optional
        Number of the base image, for real images.
    """

    pixels: Callable[[Grid], np.ndarray]
    group: int | None = None


class ImageSource(Protocol):
    """Draws images."""

    def draw(self, rng: np.random.Generator, sample_id: int) -> Image: ...  # noqa: D102


# -- random shapes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """An ellipse or rectangle of one value.

    Attributes
    ----------
    center, radii : (float, float)
        Half axes, or half sides.
    angle : float
        rad.
    value : float
    box : bool
        A rectangle.
    """

    center: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    value: float
    box: bool = False

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tell which points lie inside."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        dx, dy = x - self.center[0], y - self.center[1]
        u, v = (c * dx + s * dy) / self.radii[0], (c * dy - s * dx) / self.radii[1]
        if self.box:
            return np.maximum(np.abs(u), np.abs(v)) <= 1
        return u**2 + v**2 <= 1


@dataclass(frozen=True)
class Shapes:
    """Piecewise constant function made of shapes, on any box scaled to the unit square.

    Attributes
    ----------
    shapes : tuple of Shape
        In the unit square; later ones cover earlier ones, or are added.
    add : bool
    """

    shapes: tuple[Shape, ...]
    add: bool = False

    def __call__(self, grid: Grid) -> np.ndarray:
        """Cell means (over 4 x 4 points around each grid point), in the grid's shape."""
        lines = []
        for axis in grid.axes:
            width = axis.spacing / (axis.upper - axis.lower)
            middle = (axis.coords - axis.lower) / (axis.upper - axis.lower)
            sub = (np.arange(_SUB) + 0.5) / _SUB - 0.5
            lines.append((middle[:, None] + width * sub).ravel())
        x, y = np.meshgrid(*lines, indexing="ij")
        values = np.zeros(x.shape)
        for shape in self.shapes:
            inside = shape.contains(x, y)
            values = values + shape.value * inside if self.add else np.where(
                inside, shape.value, values
            )  # fmt: skip
        nx, ny = grid.shape
        mean: np.ndarray = values.reshape(nx, _SUB, ny, _SUB).mean(axis=(1, 3))
        return np.clip(mean, 0.0, 1.0) if self.add else mean


def random_inclusions(
    rng: np.random.Generator, *, n_max: int = 5, low: float = 0.3, high: float = 1.0
) -> Shapes:
    """1 to `n_max` ellipses and rectangles, values uniform in [low, high], on background 0."""
    shapes = []
    for _ in range(int(rng.integers(1, n_max + 1))):
        center, radii = rng.uniform(0.2, 0.8, 2), rng.uniform(0.06, 0.2, 2)
        shapes.append(
            Shape(
                (float(center[0]), float(center[1])), (float(radii[0]), float(radii[1])),
                float(rng.uniform(0, np.pi)), float(rng.uniform(low, high)),
                bool(rng.random() < 0.5),
            )
        )  # fmt: skip
    return Shapes(tuple(shapes))


def random_phantom(rng: np.random.Generator) -> Shapes:
    """Draw a head-like phantom: an outer ellipse with 3 to 8 ellipses added, inside the disk."""
    outer = rng.uniform(0.35, 0.46, 2)
    angle = float(rng.uniform(-0.3, 0.3))
    shapes = [Shape((0.5, 0.5), (float(outer[0]), float(outer[1])), angle, 0.4)]
    for _ in range(int(rng.integers(3, 9))):
        r, phi = 0.6 * math.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        center = 0.5 + r * outer * np.array([math.cos(phi), math.sin(phi)])
        radii = rng.uniform(0.03, 0.13, 2)
        value = float(rng.uniform(0.1, 0.3) * rng.choice([-1, 1]))
        shapes.append(
            Shape(
                (float(center[0]), float(center[1])), (float(radii[0]), float(radii[1])),
                float(rng.uniform(0, np.pi)), value,
            )
        )  # fmt: skip
    return Shapes(tuple(shapes), add=True)


@dataclass(frozen=True)
class _Random:
    kind: str
    field: GaussianField | None = None

    def draw(self, rng: np.random.Generator, sample_id: int) -> Image:
        if self.kind == "inclusions":
            return Image(random_inclusions(rng))
        if self.kind == "phantom":
            return Image(random_phantom(rng))
        assert self.field is not None
        return Image(_OnUnitSquare(bounded(self.field.draw(rng), 0.0, 1.0)))


@dataclass(frozen=True)
class _OnUnitSquare:
    """A function of the unit square on a grid of any box."""

    function: Callable[[Grid], np.ndarray]

    def __call__(self, grid: Grid) -> np.ndarray:
        return self.function(Grid(tuple(Axis(a.name, a.n, location=a.location) for a in grid.axes)))


# -- real images ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _digits() -> np.ndarray:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    return np.asarray(load_digits().images, np.float64) / 16.0


@lru_cache(maxsize=32)
def _photo(name: str) -> np.ndarray:
    """Gray values in [0, 1], Rec. 709."""
    from skimage import data  # type: ignore[import-untyped, unused-ignore]

    a = np.asarray(getattr(data, name)(), np.float64) / 255.0
    return a if a.ndim == 2 else a[..., :3] @ np.array([0.2125, 0.7154, 0.0721])


@dataclass(frozen=True)
class _Fixed:
    """Given pixels; the grid must have as many."""

    values: np.ndarray

    def __call__(self, grid: Grid) -> np.ndarray:
        if grid.shape != self.values.shape:
            raise ValueError(
                f"resolution {grid.shape}: the image has {self.values.shape[0]} x "
                f"{self.values.shape[1]} pixels"
            )
        return self.values.copy()


@dataclass(frozen=True)
class _Tile:
    """A tile of a photograph: as many of its pixels as the grid has, at a relative position."""

    name: str
    position: tuple[float, float]

    def __call__(self, grid: Grid) -> np.ndarray:
        photo = _photo(self.name)
        if any(n > m for n, m in zip(grid.shape, photo.shape, strict=True)):
            raise ValueError(f"resolution {grid.shape}: {self.name} has only {photo.shape} pixels")
        start = [
            round(p * (m - n))
            for p, m, n in zip(self.position, photo.shape, grid.shape, strict=True)
        ]
        return photo[tuple(slice(s, s + n) for s, n in zip(start, grid.shape, strict=True))].copy()


class _Digits:
    """Digits 8 x 8: of ten images in a row, 8 train, 1 valid, 1 test."""

    def draw(self, rng: np.random.Generator, sample_id: int) -> Image:
        images = _digits()
        split, i = divmod(int(sample_id), SPLIT_STRIDE)
        last = np.arange(len(images)) % 10
        members = np.flatnonzero(last < 8 if split == 0 else last == (8 if split == 1 else 9))
        base = int(members[i % members.size])
        return Image(_Fixed(images[base]), base)


class _Photos:
    """Tiles at random places of photographs."""

    def draw(self, rng: np.random.Generator, sample_id: int) -> Image:
        split, i = divmod(int(sample_id), SPLIT_STRIDE)
        names = _PHOTOS[min(split, 2)]
        name = names[i % len(names)]
        position = rng.random(2)
        group = [n for part in _PHOTOS.values() for n in part].index(name)
        return Image(_Tile(name, (float(position[0]), float(position[1]))), group)


def image_source(kind: str, **options: Any) -> ImageSource:
    """Return a source of images by name.

    Parameters
    ----------
    kind : {"inclusions", "gaussian", "phantom", "digits", "photos"}
        Random piecewise constant inclusions; a smooth Gaussian field mapped into (0, 1); random
        ellipses in an ellipse; scikit-learn's digits (8 x 8 pixels); tiles of scikit-image's
        photographs (up to 172 x 191 pixels).
    **options
        Of `GaussianField`, for ``"gaussian"``.
    """
    check_name("image source", kind, SOURCES)
    if kind == "digits":
        return _Digits()
    if kind == "photos":
        return _Photos()
    if kind == "gaussian":
        settings = {"alpha": 3.0, "tau": 6.0, "n_modes": 32, **options}
        return _Random(kind, GaussianField(**settings).normalized(1.0))
    return _Random(kind)
