"""Affine scaling of channels, fitted on training data in one pass in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ChannelMoments", "Normalizer"]


@dataclass
class ChannelMoments:
    """Running mean and variance of each channel; batches are merged exactly (Chan et al. 1983).

    Examples
    --------
    >>> m = ChannelMoments()
    >>> m.add(np.array([[[1.0, 3.0]]]))
    >>> m.mean, m.std
    (array([2.]), array([1.]))
    """

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    square: np.ndarray = field(default_factory=lambda: np.zeros(0))
    largest: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, values: np.ndarray) -> None:
        """Take in a batch, shape (batch, channel, *space)."""
        v = np.moveaxis(np.asarray(values, np.float64), 1, 0).reshape(values.shape[1], -1)
        mean = v.mean(axis=1)
        square = ((v - mean[:, None]) ** 2).sum(axis=1)
        largest = np.abs(v).max(axis=1)
        if not self.count:
            self.count, self.mean, self.square, self.largest = v.shape[1], mean, square, largest
            return
        total = self.count + v.shape[1]
        shift = mean - self.mean
        self.square = self.square + square + shift**2 * (self.count * v.shape[1] / total)
        self.mean = self.mean + shift * (v.shape[1] / total)
        self.largest = np.maximum(self.largest, largest)
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of all values, shape (channel,)."""
        return np.sqrt(self.square / self.count)

    def square_distance(self, channels: slice, about: np.ndarray) -> np.ndarray:
        """Mean squared distance of some channels to `about`, shape (channels,)."""
        return self.square[channels] / self.count + (self.mean[channels] - about) ** 2


@dataclass(frozen=True)
class Normalizer:
    """``(x - shift) / scale`` by channel, for the inputs and the outputs of a model.

    Parameters
    ----------
    input_shift, input_scale, output_shift, output_scale : tuple of float
        One entry a channel; the scales are positive.

    Raises
    ------
    ValueError
        Not finite, not positive, or lengths that differ.
    """

    input_shift: tuple[float, ...]
    input_scale: tuple[float, ...]
    output_shift: tuple[float, ...]
    output_scale: tuple[float, ...]

    def __post_init__(self) -> None:
        for what in ("input", "output"):
            shift, scale = getattr(self, f"{what}_shift"), getattr(self, f"{what}_scale")
            if len(shift) != len(scale):
                raise ValueError(f"normalizer: {len(shift)} {what} shifts, {len(scale)} scales")
            if not all(map(math.isfinite, (*shift, *scale))) or any(s <= 0 for s in scale):
                raise ValueError(
                    f"normalizer: {what} shift={shift}, scale={scale}: need finite numbers and "
                    "positive scales"
                )

    @staticmethod
    def usable_scale(scale: np.ndarray, largest: np.ndarray) -> np.ndarray:
        """`scale`, or the largest value (or 1) for channels that are constant up to rounding."""
        fallback = np.where(largest > 0, largest, 1.0)
        return np.where(scale > 1e-6 * largest, scale, fallback)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            what: {
                "shift": list(getattr(self, f"{what}_shift")),
                "scale": list(getattr(self, f"{what}_scale")),
            }
            for what in ("input", "output")
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Normalizer:
        """Inverse of `as_dict`; a number comes back bit by bit."""
        keys = [(what, k) for what in ("input", "output") for k in ("shift", "scale")]
        return cls(*(tuple(float(v) for v in d[what][k]) for what, k in keys))
