"""Pooling over windows of fixed physical size, and interpolating upsampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import Axis, Grid

from .context import Context, OperatorLayer
from .geometry import is_closed
from .kernels import (
    Interpolation,
    Mode,
    anchor,
    cell_width,
    conv_size,
    extend,
    smooth,
    taps,
    transposed,
)

__all__ = ["PhysicalPool", "PhysicalUpsample", "max_pool_axis"]


def _tuple(value: Any, dim: int) -> tuple[int, ...]:
    return (int(value),) * dim if isinstance(value, int) else tuple(int(v) for v in value)


def max_pool_axis(
    x: Tensor, axis: int, spec: Axis, s: float, *, k: int, stride: int, dilation: int, pad: int
) -> Tensor:
    """Largest value within the reach of the reference's window, along one axis.

    The window runs from the first to the last point it has at the reference; where an end lies
    between points, the value there is interpolated.
    """
    if k == 1 and stride == 1:
        return x
    n = x.shape[axis]
    offset = anchor(spec, stride)
    ends = [s * (-pad - offset) + offset, s * (-pad - offset + dilation * (k - 1)) + offset]
    ends = [round(e) if abs(e - round(e)) < 1e-9 else e for e in ends]
    size = conv_size(n, s, spec, extent=dilation * (k - 1), stride=stride, pad=2 * pad)
    if s == 1.0:
        inside = [ends[0] + dilation * i for i in range(k)]
    else:
        inside = [float(m) for m in range(math.ceil(ends[0]), math.floor(ends[1]) + 1)]
    where = sorted({*inside, *ends})
    first, last = math.floor(where[0]), math.ceil(where[-1])
    # what lies outside never wins, but a window is not cut where it has no padding at all
    mode = ("circular" if spec.periodic else "replicate") if pad == 0 else None
    left, right = -first, stride * (size - 1) + last - n + 1
    if mode is not None:
        x = extend(x, axis, left, right, mode)  # type: ignore[arg-type]
    else:
        low = torch.finfo(x.dtype).min
        fill = [0] * (2 * (x.ndim - axis))
        fill[-2:] = [max(0, left), max(0, right)]
        x = F.pad(x, fill, value=low)
        x = extend(x, axis, min(0, left), min(0, right), "zeros")
    out: Tensor | None = None
    for c in where:
        m = math.floor(c)
        part = c - m
        v = _strided(x, axis, m - first, stride, size)
        if part > 0:
            w = _strided(x, axis, m + 1 - first, stride, size)
            mixed = (1 - part) * v + part * w
            # beside the padding there is nothing to interpolate
            low = torch.finfo(x.dtype).min
            v = torch.where((v == low) | (w == low), torch.maximum(v, w), mixed)
        out = v if out is None else torch.maximum(out, v)
    assert out is not None
    return out


def _strided(x: Tensor, axis: int, start: int, stride: int, size: int) -> Tensor:
    index: list[Any] = [slice(None)] * x.ndim
    index[axis] = slice(start, start + stride * (size - 1) + 1, stride)
    return x[tuple(index)]


def mean_pool(
    x: Tensor,
    scale: Sequence[float],
    axes: Sequence[Axis],
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    interpolation: Interpolation = "linear",
) -> Tensor:
    """Average over windows: the kernel operator of equal taps."""
    filters: list[Tensor | None] = []
    strides: list[tuple[int, int]] = []
    for d, (s, axis) in enumerate(zip(scale, axes, strict=True)):
        k, q, p = kernel[d], stride[d], padding[d]
        offset = anchor(axis, q)
        z = tuple(float(i - p) - offset for i in range(k))
        first, matrix = taps(z, s, offset, 0, interpolation)
        n = x.shape[2 + d]
        size = conv_size(n, s, axis, extent=k - 1, stride=q, pad=2 * p)
        mode = "zeros" if p else ("circular" if axis.periodic else "replicate")
        last = first + len(matrix) - 1
        more = q * (size - 1) + last - n + 1
        x = extend(x, 2 + d, -first, more, mode, cell_width(axis, s))  # type: ignore[arg-type]
        filters.append(matrix.mean(1))
        strides.append((q, size))
    y = smooth(x, filters)
    for d, (q, size) in enumerate(strides):
        y = _strided(y, 2 + d, 0, q, size)
    return y


class _Pool(OperatorLayer):
    """Forward of pooling layers; mixed into torch's."""

    kind: str
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any = 1
    count_include_pad: bool = True

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Pool (batch, channel, *space)."""
        self.require_grid()
        scale = self.scale(x.shape[2:], grid)
        base: Any = super()
        if all(s == 1.0 for s in scale) and not isinstance(self, PhysicalPool):
            out: Tensor = base.forward(x)
            return out
        dim, axes = x.ndim - 2, self.context.axes
        kernel, padding = _tuple(self.kernel_size, dim), _tuple(self.padding, dim)
        stride = kernel if self.stride is None else _tuple(self.stride, dim)
        if self.kind == "mean":
            window: Any = {
                "kernel": kernel, "stride": stride, "padding": padding,
                "interpolation": self.context.kernel,
            }  # fmt: skip
            y = mean_pool(x, scale, axes, **window)
            if any(padding) and not self.count_include_pad:
                y = y / mean_pool(torch.ones_like(x[:1, :1]), scale, axes, **window)
            return y
        dilation = _tuple(self.dilation, dim)
        for d, (s, axis) in enumerate(zip(scale, axes, strict=True)):
            x = max_pool_axis(
                x, 2 + d, axis, s, k=kernel[d], stride=stride[d], dilation=dilation[d],
                pad=padding[d],
            )  # fmt: skip
        return x


class PhysicalPool(_Pool, nn.Module):
    """Mean or largest value over a window of fixed physical size.

    Parameters
    ----------
    kernel_size, stride, padding : int or tuple of int
        In points of the reference; the stride counts points of the present grid.
    reference : Grid
    kind : {"mean", "max"}
    dilation : int
        Of ``"max"``.
    count_include_pad : bool
        Of ``"mean"``: the zeros beyond the ends count.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        *,
        reference: Grid,
        kind: Literal["mean", "max"] = "mean",
        dilation: int | tuple[int, ...] = 1,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        if kind not in ("mean", "max"):
            raise ValueError(f"kind={kind!r}: allowed are mean, max")
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.kind, self.dilation, self.count_include_pad = kind, dilation, count_include_pad
        self.attach(Context(reference))


class MeanPool1d(_Pool, nn.AvgPool1d):
    """Converted `torch.nn.AvgPool1d`."""

    kind = "mean"


class MeanPool2d(_Pool, nn.AvgPool2d):
    """Converted `torch.nn.AvgPool2d`."""

    kind = "mean"


class MeanPool3d(_Pool, nn.AvgPool3d):
    """Converted `torch.nn.AvgPool3d`."""

    kind = "mean"


class MaxPool1d(_Pool, nn.MaxPool1d):
    """Converted `torch.nn.MaxPool1d`."""

    kind = "max"


class MaxPool2d(_Pool, nn.MaxPool2d):
    """Converted `torch.nn.MaxPool2d`."""

    kind = "max"


class MaxPool3d(_Pool, nn.MaxPool3d):
    """Converted `torch.nn.MaxPool3d`."""

    kind = "max"


class PhysicalUpsample(OperatorLayer, nn.Upsample):
    """Interpolation to a finer grid whose basis functions keep their physical width.

    At the reference `torch.nn.Upsample`. There, `nearest` and `linear` expand the coarse values in
    steps or hats as wide as the reference's coarse spacing; so they do here. With
    ``align_corners=True`` it interpolates between the points of the present grid.
    """

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Refine (batch, channel, *space)."""
        self.require_grid()
        scale = self.scale(x.shape[2:], grid)
        if all(s == 1.0 for s in scale):
            out: Tensor = super().forward(x)
            return out
        axes, dim = self.context.axes, x.ndim - 2
        factor: Any = self.scale_factor
        q = [round(f) for f in (factor if isinstance(factor, tuple) else (factor,) * dim)]
        if self.align_corners:
            sizes = []
            for d, (s, axis) in enumerate(zip(scale, axes, strict=True)):
                n = x.shape[2 + d]
                if is_closed(axis):
                    sizes.append(round((q[d] * ((n - 1) / s + 1) - 1) * s) + 1)
                else:
                    sizes.append(n * q[d])
            return F.interpolate(x, size=sizes, mode=self.mode, align_corners=True)
        # basis functions on the fine reference points
        weight = torch.ones((), dtype=x.dtype, device=x.device)
        padding = []
        for f in q:
            if self.mode == "nearest":
                line, pad = [1.0] * f, 0
            else:
                # hats about the coarse points, which lie between fine ones if f is even
                length = 2 * f - f % 2
                line = [1 - abs(i - (length - 1) / 2) / f for i in range(length)]
                pad = f // 2
            padding.append(pad)
            weight = weight[..., None] * torch.tensor(line, dtype=x.dtype, device=x.device)
        b, c = x.shape[:2]
        mode: Mode | None = None if self.mode == "nearest" else "replicate"
        y = transposed(
            x.reshape(b * c, 1, *x.shape[2:]), weight[None, None], None, scale, axes, stride=q,
            padding=padding, dilation=(1,) * dim, groups=1, output_padding=(0,) * dim,
            mode=mode, sizes=None, interpolation=self.context.kernel,
        )  # fmt: skip
        return y.reshape(b, c, *y.shape[2:])
