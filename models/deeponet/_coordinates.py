"""What happens to the points before the trunk, and to the values after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._nets import check_sizes

__all__ = ["FourierFeatures", "PeriodicFeatures", "ZeroOnSides", "resample_to_sensors"]


class PeriodicFeatures(nn.Module):
    """``x -> cos(2 pi k x / P), sin(2 pi k x / P)``, ``k = 1 .. n``, for periodic coordinates.

    The other coordinates come first, untouched; the input tensor is not changed.

    Parameters
    ----------
    dims : sequence of int
        Which coordinates are periodic.
    periods : sequence of float
        Of each of them.
    n : int
        Frequencies.
    """

    def __init__(self, dims: Sequence[int], periods: Sequence[float], n: int = 2) -> None:
        super().__init__()
        if len(dims) != len(periods) or len(set(dims)) != len(dims):
            raise ValueError(f"dims={tuple(dims)}, periods={tuple(periods)}: need one period each")
        if not all(p > 0 and math.isfinite(p) for p in periods):
            raise ValueError(f"periods={tuple(periods)}: need positive numbers")
        (self.n,) = check_sizes("n", (n,))
        self.dims, self.periods = tuple(dims), tuple(float(p) for p in periods)

    def width(self, d: int) -> int:
        """Features of `d` coordinates."""
        if self.dims and not 0 <= min(self.dims) <= max(self.dims) < d:
            raise ValueError(f"dims={self.dims}: the points have {d} coordinates")
        return d + (2 * self.n - 1) * len(self.dims)

    def forward(self, y: Tensor) -> Tensor:
        """(..., d) to (..., width)."""
        parts = [y[..., k : k + 1] for k in range(y.shape[-1]) if k not in self.dims]
        for k, period in zip(self.dims, self.periods, strict=True):
            # a whole number of periods is taken off, so that points one period apart agree
            x = torch.remainder(y[..., k : k + 1] / period, 1.0)
            for j in range(1, self.n + 1):
                angle = 2 * math.pi * j * x
                parts += [torch.cos(angle), torch.sin(angle)]
        return torch.cat(parts, dim=-1)


class FourierFeatures(nn.Module):
    """``y -> y, cos(2 pi F y), sin(2 pi F y)`` with fixed random frequencies.

    Parameters
    ----------
    d : int
        Coordinates.
    n : int
        Frequencies.
    scale : float
        Standard deviation of the frequencies.
    seed : int

    References
    ----------
    .. [1] Tancik et al., NeurIPS 2020, arXiv:2006.10739.
    """

    frequencies: Tensor

    def __init__(self, d: int, n: int = 32, *, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale={scale}: need a positive number")
        (self.n,) = check_sizes("n", (n,))
        generator = torch.Generator().manual_seed(seed)
        frequencies = scale * torch.randn(d, n, generator=generator, dtype=torch.float64)
        self.register_buffer("frequencies", frequencies.to(torch.get_default_dtype()))

    def width(self, d: int) -> int:
        """Features of `d` coordinates."""
        if d != len(self.frequencies):
            raise ValueError(f"d={len(self.frequencies)}: the points have {d} coordinates")
        return d + 2 * self.n

    def forward(self, y: Tensor) -> Tensor:
        """(..., d) to (..., d + 2 n)."""
        angle = 2 * math.pi * (y @ self.frequencies)
        return torch.cat([y, torch.cos(angle), torch.sin(angle)], dim=-1)


class ZeroOnSides(nn.Module):
    """Hard conditions: the output is `value` on some sides of a box, whatever the weights.

    ``s -> value + s * prod_k phi_k(y)``; with ``z`` in [0, 1] along coordinate k, ``phi`` is
    ``z`` or ``1 - z`` if one side is fixed, ``4 z (1 - z)`` if both are.

    Parameters
    ----------
    bounds : sequence of (float, float)
        Of each coordinate.
    sides : sequence of (bool, bool)
        Whether the lower and the upper side of each coordinate is fixed.
    value : float
    out_channels : int
        Of the model; above 1, values have a channel axis.
    """

    def __init__(
        self,
        bounds: Sequence[tuple[float, float]],
        sides: Sequence[tuple[bool, bool]],
        value: float = 0.0,
        *,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        if len(bounds) != len(sides):
            raise ValueError(f"{len(bounds)} bounds, {len(sides)} sides: need as many")
        if any(not a < b for a, b in bounds):
            raise ValueError(f"bounds={list(bounds)}: need lower < upper")
        self.bounds = tuple((float(a), float(b)) for a, b in bounds)
        self.sides, self.value = tuple((bool(a), bool(b)) for a, b in sides), float(value)

    def factor(self, y: Tensor) -> Tensor:
        """(..., d) to (...)."""
        out = torch.ones_like(y[..., 0])
        for k, ((low, high), (lower, upper)) in enumerate(
            zip(self.bounds, self.sides, strict=True)
        ):
            x = y[..., k]
            if lower:
                out = out * ((x - low) / (high - low))
            if upper:
                out = out * ((high - x) / (high - low))
            if lower and upper:
                out = out * 4.0
        return out

    def forward(self, u: object, y: Tensor, s: Tensor) -> Tensor:
        """Points (..., d) and values there to values; `u` is not used."""
        factor = self.factor(y)
        return self.value + s * (factor.unsqueeze(-1) if self.out_channels > 1 else factor)


# -- models --------------------------------------------------------------------------------------


def resample_to_sensors(x_known: Tensor, values: Tensor, sensors: Tensor) -> Tensor:
    """Values at the sensors, linear between the points where a function is known.

    Parameters
    ----------
    x_known : Tensor, shape (n,)
        Strictly increasing.
    values : Tensor, shape (..., n)
    sensors : Tensor, shape (m,)
        From ``x_known[0]`` to ``x_known[-1]``.

    Returns
    -------
    Tensor, shape (..., m)

    Raises
    ------
    ValueError
        Shapes that do not fit, points that do not increase, a sensor outside.
    """
    if x_known.ndim != 1 or sensors.ndim != 1 or values.shape[-1:] != x_known.shape:
        raise ValueError(
            f"x_known has shape {tuple(x_known.shape)}, values {tuple(values.shape)}, sensors "
            f"{tuple(sensors.shape)}: need (n,), (..., n) and (m,)"
        )
    if len(x_known) < 2 or not bool((x_known.diff() > 0).all()):
        raise ValueError("x_known: need two or more strictly increasing points")
    outside = (sensors < x_known[0]) | (sensors > x_known[-1]) | ~torch.isfinite(sensors)
    if bool(outside.any()):
        raise ValueError(
            f"sensor {float(sensors[outside][0])} lies outside the known points, "
            f"{float(x_known[0])} to {float(x_known[-1])}"
        )
    right = torch.searchsorted(x_known, sensors.contiguous()).clamp(1, len(x_known) - 1)
    left = right - 1
    part = (sensors - x_known[left]) / (x_known[right] - x_known[left])
    return values[..., left] * (1 - part) + values[..., right] * part
