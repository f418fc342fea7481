"""What the baselines share: coordinates as channels, checks, padding by boundary condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import Grid

__all__ = ["BoundaryConv", "GridModel", "batch_of", "conv_class", "pad"]

#: Pairs (lower, upper) of boundary kinds, one an axis.
Boundary = Sequence[tuple[str, str]]


class GridModel(nn.Module):
    """A map between fields on a grid; appends coordinates to its input.

    Parameters
    ----------
    in_channels : int
    grid : Grid
        Layout and periodicity of the axes; any number of points may be given later.
    coordinates : bool
        Append coordinates: x in [0, 1], on periodic axes sine and cosine of 2 pi x.

    Attributes
    ----------
    features : int
        Channels after `prepare`.
    resolved_options : dict
        What a factory has filled in, as plain JSON types.
    """

    def __init__(self, in_channels: int, *, grid: Grid, coordinates: bool) -> None:
        super().__init__()
        self.in_channels, self.grid, self.coordinates = in_channels, grid, coordinates
        extra = sum(2 if p else 1 for p in grid.periodic) if coordinates else 0
        self.features = in_channels + extra
        self.resolved_options: dict[str, Any] = {}
        self._coords: tuple[tuple[int, ...], Tensor] | None = None

    def _coordinates(self, x: Tensor) -> Tensor:
        """Coordinate channels, shape (extra, *n), cached for the last size."""
        size = tuple(x.shape[2:])
        if self._coords is None or self._coords[0] != size:
            fields = []
            for d, axis in enumerate(self.grid.resized(size).axes):
                t = (torch.as_tensor(axis.coords) - axis.lower) / (axis.upper - axis.lower)
                values = [t]
                if axis.periodic:
                    values = [torch.sin(2 * math.pi * t), torch.cos(2 * math.pi * t)]
                shape = [1] * len(size)
                shape[d] = size[d]
                fields += [v.reshape(shape).expand(size) for v in values]
            self._coords = (size, torch.stack(fields))
        if self._coords[1].device != x.device or self._coords[1].dtype != x.dtype:
            self._coords = (size, self._coords[1].to(x))
        return self._coords[1]

    def prepare(self, x: Tensor) -> Tensor:
        """Check the input and append coordinates.

        Parameters
        ----------
        x : Tensor, shape (batch, in_channels, *n)

        Returns
        -------
        Tensor, shape (batch, features, *n)

        Raises
        ------
        ValueError
            Wrong number of axes or channels.
        """
        dim = self.grid.dim
        if x.ndim != dim + 2 or x.shape[1] != self.in_channels:
            sizes = ", ".join(f"n{d + 1}" for d in range(dim))
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (batch, {self.in_channels}, {sizes}): "
                f"this model was built with in_channels={self.in_channels}, dim={dim}"
            )
        return batch_of(x, self._coordinates(x)) if self.coordinates else x


def batch_of(x: Tensor, fields: Tensor) -> Tensor:
    """Append the same fields, shape (k, *n), to each sample of `x`, shape (batch, c, *n)."""
    return torch.cat([x, fields.expand(x.shape[0], *fields.shape)], dim=1)


def pad(x: Tensor, widths: Sequence[tuple[int, int]], boundary: Boundary) -> Tensor:
    """Continue fields beyond the ends of the grid as the boundary conditions say.

    Periodic axes wrap around, values are repeated beyond Neumann sides, and zeros follow beyond
    all others: in normalized units, a Dirichlet value that outputs share is 0.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, *n)
    widths : sequence of (int, int)
        Points to add per axis at the lower and upper end.
    boundary : sequence of (str, str)
        Kinds per axis and side.
    """
    for d, ((low, high), (first, last)) in enumerate(zip(widths, boundary, strict=True)):
        if low or high:
            x = _pad_axis(x, d + 2, (low, high), (first, last))
    return x


def _pad_axis(x: Tensor, axis: int, width: tuple[int, int], kinds: tuple[str, str]) -> Tensor:
    n, parts = x.shape[axis], [x]
    for upper, (w, kind) in enumerate(zip(width, kinds, strict=True)):
        if not w:
            continue
        if kind == "periodic":
            index = torch.arange(n, n + w) if upper else torch.arange(-w, 0)
            part = x.index_select(axis, (index % n).to(x.device))
        elif kind == "neumann":
            part = x.narrow(axis, n - 1 if upper else 0, 1)
            part = part.expand(*x.shape[:axis], w, *x.shape[axis + 1 :])
        else:
            part = x.new_zeros(*x.shape[:axis], w, *x.shape[axis + 1 :])
        parts = [*parts, part] if upper else [part, *parts]
    return torch.cat(parts, dim=axis)


class BoundaryConv(nn.Module):
    """Convolution of the same size; pads by boundary condition, see `pad`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
        Odd, in points of whatever grid is given.
    boundary : sequence of (str, str)
    dilation : int
    bias : bool
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        boundary: Boundary,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.boundary = tuple(boundary)
        self.width = dilation * (kernel_size // 2)
        # the library pads zeros without a copy
        self.zeros = not any(k in ("periodic", "neumann") for p in self.boundary for k in p)
        self.conv = conv_class(len(self.boundary))(
            in_channels, out_channels, kernel_size, dilation=dilation, bias=bias,
            padding=self.width if self.zeros else 0,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x`, shape (batch, in_channels, *n)."""
        if not self.zeros and self.width:
            x = pad(x, [(self.width, self.width)] * len(self.boundary), self.boundary)
        y: Tensor = self.conv(x)
        return y


def conv_class(dim: int, *, transposed: bool = False) -> Any:
    """``nn.Conv2d`` and its kind by dimension."""
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    back = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return (back if transposed else plain)[dim - 1]


def max_pool(x: Tensor) -> Tensor:
    """Maximum over pairs of points along each axis."""
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3]
    y: Tensor = pool(x, 2)
    return y
