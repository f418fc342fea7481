"""Convolutions as integrals with a kernel of fixed physical support."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import Axis, Grid
from solvers.meshes import Mesh

from .context import Context, OperatorLayer
from .geometry import is_closed

__all__ = [
    "KernelConv1d",
    "KernelConv2d",
    "KernelConv3d",
    "KernelConvTranspose1d",
    "KernelConvTranspose2d",
    "KernelConvTranspose3d",
    "kernel_symbol",
    "taps",
]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_T = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
Mode = Literal["zeros", "circular", "reflect", "replicate"]
Interpolation = Literal["linear", "cubic"]


@lru_cache(maxsize=4096)
def taps(
    z: tuple[float, ...],
    s: float,
    offset: float,
    phases: int = 0,
    kernel: Interpolation = "linear",
) -> tuple[int, Tensor]:
    r"""Matrix from reference taps to taps on another grid, along one axis.

    .. math:: \kappa(x) = \sum_i w_i\,\varphi((x - z_i)/h_0)/h_0

    On a grid of spacing :math:`h = h_0/s \le h_0` the tap at `x` is :math:`h\,\kappa(x)`; on a
    coarser one the input is interpolated at :math:`z_i` by :math:`\varphi(x/h)`. Columns add up to
    1, which at integer `s` they do by themselves: constants are kept. The interpolating function
    :math:`\varphi` is the hat :math:`\max(0, 1 - |t|)`, whose symbol is :math:`\mathrm{sinc}^2`, or
    the cubic one of [1]_, whose symbol differs from 1 by terms of fourth order only: waves of four
    points of the reference lose 19 % by the hat and 6 % by it.

    Parameters
    ----------
    z : tuple of float
        Positions of the reference taps from the output point, in units of h0.
    s : float
        h0 / h.
    offset : float
        Output point from input point 0, in units of h.
    phases : int
        For a transposed convolution of this stride whose taps tile the axis: rows that meet at
        one output point add up to the same for all.
    kernel : {"linear", "cubic"}

    Returns
    -------
    first : int
        Index of the first tap on the grid.
    matrix : Tensor, float64, shape (taps on the grid, len(z))

    References
    ----------
    .. [1] Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans.
       Acoust. Speech Signal Process. 29 (1981), a = -1/2.
    """
    zs = np.asarray(z)
    width = max(s, 1.0)
    reach = width * (2 if kernel == "cubic" else 1)
    lowest = math.ceil(s * zs.min() + offset - reach + 1e-9)
    highest = math.floor(s * zs.max() + offset + reach - 1e-9)
    m = np.arange(lowest, highest + 1)
    # distance to each reference tap over the half-width of the hat
    matrix = basis(((m - offset)[:, None] - s * zs[None, :]) / width, kernel)
    matrix[np.abs(matrix) < 1e-12] = 0.0
    matrix /= matrix.sum(axis=0)
    if phases and len(zs) % phases == 0:
        part = np.mod(m, phases)
        sums = np.bincount(part, matrix.sum(axis=1), minlength=phases)
        if sums.min() > 0:
            matrix *= (len(zs) / phases / sums)[part][:, None]
    used = np.flatnonzero(matrix.any(axis=1))
    matrix = matrix[used[0] : used[-1] + 1]
    return int(m[used[0]]), torch.as_tensor(matrix)


def basis(t: np.ndarray, kernel: Interpolation) -> np.ndarray:
    """Interpolating function of unit spacing."""
    t = np.abs(t)
    if kernel == "linear":
        return np.maximum(0.0, 1.0 - t)
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


@lru_cache(maxsize=4096)
def point_taps(z: tuple[float, ...], s: float, offset: float) -> tuple[int, Tensor]:
    """As `taps`, but the values at the points `z` themselves, interpolated linearly."""
    c = s * np.asarray(z) + offset
    c = np.where(np.abs(c - np.round(c)) < 1e-9, np.round(c), c)
    left = np.floor(c).astype(int)
    first = int(left.min())
    matrix = np.zeros((int(left.max()) + 2 - first, len(z)))
    part = c - left
    matrix[left - first, np.arange(len(z))] += 1 - part
    matrix[left + 1 - first, np.arange(len(z))] += part
    used = np.flatnonzero(matrix.any(axis=1))
    return first + int(used[0]), torch.as_tensor(matrix[used[0] : used[-1] + 1])


def kernel_symbol(
    weight: np.ndarray, spacing: Sequence[float], k: Sequence[float]
) -> complex | np.ndarray:
    r"""Symbol of the continuous kernel of a convolution with reference taps `weight`.

    .. math:: \hat\kappa(k) = \sum_i w_i e^{2\pi i k\cdot z_i} \prod_d \mathrm{sinc}^2(k_d h_0)

    Parameters
    ----------
    weight : ndarray, shape (..., k1, ..., kd)
        Odd sizes, centered.
    spacing : sequence of float
        Reference spacing per axis.
    k : sequence of float
        Wave numbers per axis, in cycles per unit of length.

    Returns
    -------
    complex or ndarray
        Of the leading shape of `weight`.
    """
    out = np.asarray(weight, np.complex128)
    for h, kd in zip(reversed(spacing), reversed(k), strict=True):
        n = out.shape[-1]
        z = (np.arange(n) - (n - 1) / 2) * h
        out = out @ np.exp(2j * np.pi * kd * z) * np.sinc(kd * h) ** 2
    return out


# -- one axis --------------------------------------------------------------------------------------


def extend(x: Tensor, axis: int, left: int, right: int, mode: Mode, width: float = 1.0) -> Tensor:
    """Continue `x` beyond its ends; negative numbers cut.

    Parameters
    ----------
    width : float
        Points in a cell of the reference, where points are centers of cells: the value that goes on
        (``replicate``) is that at the center of the reference's outermost cell, which is also the
        mirror (``reflect``).
    """
    n = x.shape[axis]
    if left <= 0 and right <= 0:
        return x.narrow(axis, -left, n + left + right) if left or right else x
    if mode == "zeros":
        pad = [0] * (2 * (x.ndim - axis))
        pad[-2:] = [left, right]
        return F.pad(x, pad)
    i = torch.arange(-left, n + right, dtype=torch.float64)
    if mode == "circular":
        return x.index_select(axis, (i % n).long().to(x.device))
    beyond = torch.maximum(-i, i - (n - 1)).clamp_min(0)  # points beyond the end
    inside = (i >= 0) & (i < n)
    if mode == "replicate" or n == 1:
        depth = torch.where(inside, 0.0, (width - 1) / 2)  # from the outermost point inwards
    else:
        period = 2 * n - 2
        depth = torch.where(inside, 0.0, beyond - 1 + width)
        depth = depth % period
        depth = torch.where(depth > n - 1, period - depth, depth)
    where = torch.where(i < 0, depth, torch.where(i > n - 1, n - 1 - depth, i)).clamp(0, n - 1)
    low = torch.floor(where + 1e-9)
    part = where - low
    out = x.index_select(axis, low.long().to(x.device))
    if bool((part > 1e-9).any()):
        high = x.index_select(axis, (low + 1).clamp(max=n - 1).long().to(x.device))
        shape = [1] * x.ndim
        shape[axis] = -1
        out = torch.lerp(out, high, part.clamp_min(0).to(x).reshape(shape))
    return out


def cell_width(axis: Axis, s: float) -> float:
    """Points in a reference cell, see `extend`; 1 where points are no cells."""
    return s if axis.location == "cell_center" and s >= 1 else 1.0


def smooth(x: Tensor, filters: Sequence[Tensor | None]) -> Tensor:
    """Correlate each channel with a filter along each of the last axes."""
    dim = len(filters)
    for d, g in enumerate(filters):
        if g is None or (len(g) == 1 and float(g[0]) == 1.0):
            continue
        axis = x.ndim - dim + d
        moved = x.movedim(axis, -1)
        shape = moved.shape
        flat = moved.reshape(-1, 1, shape[-1])
        flat = F.conv1d(flat, g.to(x).reshape(1, 1, -1))
        x = flat.reshape(*shape[:-1], flat.shape[-1]).movedim(-1, axis)
    return x


def anchor(axis: Axis, stride: int) -> float:
    """Output point 0 of a strided layer from input point 0, in points.

    A coarse cell has its center between those of the fine cells it joins.
    """
    return (stride - 1) / 2 if axis.location == "cell_center" else 0.0


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def conv_size(n: int, s: float, axis: Axis, *, extent: int, stride: int, pad: int) -> int:
    """Points of a convolution's output.

    Parameters
    ----------
    extent : int
        Reach of the reference taps, ``dilation * (k - 1)``.
    pad : int
        Points added at both ends together, at the reference.
    """

    def plain(n: int) -> int:
        return (n + pad - extent - 1) // stride + 1

    if s == 1.0:
        return plain(n)
    if is_closed(axis):
        return math.floor((n - 1 - (extent - pad) * s) / stride + 1e-9) + 1
    n0 = max(1, round(n / s))
    if plain(n0) == _ceil_div(n0, stride):
        return _ceil_div(n, stride)
    return max(1, round(plain(n0) * s))


def transposed_size(n: int, s: float, axis: Axis, *, excess: int, stride: int) -> int:
    """Points of a transposed convolution's output, at the reference ``(n - 1) q + excess + 1``."""
    if s == 1.0:
        return (n - 1) * stride + excess + 1
    if is_closed(axis):
        return (n - 1) * stride + math.floor(excess * s + 1e-9) + 1
    n0 = max(1, round(n / s))
    plain = (n0 - 1) * stride + excess + 1
    return n * stride if plain == n0 * stride else max(1, round(plain * s))


# -- layers ----------------------------------------------------------------------------------------


def check_support(
    layer: OperatorLayer, scale: Sequence[float], extents: Sequence[int], kernel: Sequence[int]
) -> None:
    """Raise where a kernel's support holds fewer than two points of the grid."""
    for d, (s, extent, k) in enumerate(zip(scale, extents, kernel, strict=True)):
        if k > 1 and (extent + 2) * s < 2 - 1e-9:
            axis = layer.context.axes[d]
            raise ValueError(
                f"{layer.path or type(layer).__name__}: the kernel's support on axis {axis.name!r} "
                f"is {extent + 2} reference spacings of {axis.spacing:g} and holds fewer than 2 "
                f"points at the present spacing of {axis.spacing / s:g}"
            )


class _KernelConv(OperatorLayer):
    """Forward of `KernelConv1d`, ...; mixed into torch's convolutions."""

    dim: int
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any
    padding: Any
    kernel_size: tuple[int, ...]
    #: ``"index"``: every q-th point of the present grid; ``"physical"``: every q-th of the
    #: reference, so that the number of output points does not depend on the grid.
    stride_rule: str = "index"
    #: points that a padding layer before this one has added in the network: (left, right, mode)
    extra_padding: tuple[tuple[int, int], ...] = ()
    #: continuation beyond the ends of each axis, where axes differ
    axis_modes: tuple[Mode, ...] = ()

    def mode(self, d: int) -> Any:
        """Continuation beyond the ends of axis `d`."""
        return self.axis_modes[d] if self.axis_modes else self.padding_mode

    def pads(self) -> list[tuple[int, int]]:
        """Points added at both ends of each axis, at the reference."""
        if self.extra_padding:
            return list(self.extra_padding)
        out = []
        for d in range(self.dim):
            if self.padding == "valid":
                out.append((0, 0))
            elif self.padding == "same":
                total = self.dilation[d] * (self.kernel_size[d] - 1)
                out.append((total // 2, total - total // 2))
            else:
                out.append((self.padding[d], self.padding[d]))
        return out

    def forward(self, x: Tensor, grid: Grid | Mesh | None = None) -> Tensor:
        """Apply the integral operator.

        Parameters
        ----------
        x : Tensor, shape (batch, in_channels, *n), or (batch, in_channels, P) on points
        grid : Grid or Mesh, optional
            Of `x`; default the reference's domain with the points of `x`.
        """
        points = self.context.target if self.context.managed else grid
        if isinstance(points, Mesh) or self.context.cloud is not None:
            return self._on_points(x, points)
        if x.ndim != self.dim + 2:
            raise ValueError(
                f"{self.path or type(self).__name__}: x has shape {tuple(x.shape)}, expected "
                f"(batch, {self.weight.shape[1] * self.groups}, {self.dim} axes)"
            )
        scale = self.scale(x.shape[2:], grid if isinstance(grid, Grid) else None)
        if all(s == 1.0 for s in scale):
            if not self.extra_padding and not self.axis_modes:
                out: Tensor = super().forward(x)  # type: ignore[misc]
                return out
            for d, (a, b) in enumerate(self.pads()):
                x = extend(x, d + 2, a, b, self.mode(d))
            return self._conv(x, self.weight, self.stride, self.dilation)
        axes = self.context.axes
        extents = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        check_support(self, scale, extents, self.kernel_size)
        physical = self.stride_rule == "physical"
        stride = list(self.stride)
        if physical:
            for d, s in enumerate(scale):
                if abs(s * stride[d] - round(s * stride[d])) > 1e-9 or s * stride[d] < 1:
                    raise ValueError(
                        f"{self.path or type(self).__name__}: stride='physical' needs a whole "
                        f"number of points, a stride of {stride[d]} reference spacings has "
                        f"{s * stride[d]:g}"
                    )
        else:
            scale_stride = stride
        integer = all(s >= 1 and s == int(s) for s in scale) and any(
            k > 1 for k in self.kernel_size
        )
        matrices: list[Tensor] = []
        filters: list[Tensor | None] = []
        dilation: list[int] = []
        for d, (s, axis, (left, right)) in enumerate(zip(scale, axes, self.pads(), strict=True)):
            k, q, gap = self.kernel_size[d], stride[d], self.dilation[d]
            if physical:
                # the output point lies where the reference has it
                offset0 = anchor(axis, q)
                q = round(s * q)
                start = (offset0 + 0.5) * s - 0.5 if axis.location == "cell_center" else 0.0
                offset, z0 = start, -left - offset0
                n_ref = round(x.shape[2 + d] / s) if not is_closed(axis) else (
                    round((x.shape[2 + d] - 1) / s) + 1
                )  # fmt: skip
                size = conv_size(
                    n_ref, 1.0, axis, extent=extents[d], stride=stride[d], pad=left + right
                )
            else:
                offset = anchor(axis, q)
                z0 = -left - offset
                size = conv_size(
                    x.shape[2 + d], s, axis, extent=extents[d], stride=scale_stride[d],
                    pad=left + right,
                )  # fmt: skip
            z = tuple(z0 + gap * i for i in range(k))
            if k == 1:
                first, matrix = point_taps(z, s, offset)
            else:
                first, matrix = taps(z, s, offset, 0, self.context.kernel)
            last = first + len(matrix) - 1
            if integer and k > 1:
                base = math.floor(s * z0 + offset + 1e-9)
                one_first, one = taps((0.0,), s, s * z0 + offset - base, 0, self.context.kernel)
                filters.append(one[:, 0])
                dilation.append(round(s) * gap)
                first = base + one_first
                last = base + round(s) * gap * (k - 1) + one_first + len(one) - 1
            elif integer:
                filters.append(matrix[:, 0])
                dilation.append(1)
            matrices.append(matrix)
            stride[d] = q
            mode = self.mode(d)
            if left + right == 0:
                mode = "circular" if axis.periodic else "replicate"
            more = q * (size - 1) + last - x.shape[2 + d] + 1
            x = extend(x, d + 2, -first, more, mode, cell_width(axis, s))
        if physical:
            self.context.fixed = True
        if integer:
            return self._conv(smooth(x, filters), self.weight, stride, dilation)
        return self._conv(x, spread(self.weight, matrices), stride, (1,) * self.dim)

    def _conv(
        self, x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
    ) -> Tensor:
        return _CONV[self.dim](  # type: ignore[operator]
            x, weight, self.bias, tuple(stride), 0, tuple(dilation), self.groups
        )

    def _on_points(self, x: Tensor, points: Any) -> Tensor:
        """Apply the same kernel on scattered points."""
        if any(q != 1 for q in self.stride):
            raise ValueError(
                f"{self.path or type(self).__name__}: a stride has no meaning on a point cloud"
            )
        if all(k == 1 for k in self.kernel_size):
            y = F.conv1d(x, self.weight.flatten(2), self.bias, groups=self.groups)
            return y
        cloud = self.context.cloud
        if cloud is not None:
            if cloud.points.ndim != 2:
                raise ValueError(
                    f"{self.path or type(self).__name__}: samples of a batch share their points in "
                    "a convolution; call it for one sample at a time"
                )
            where, weights = cloud.points, cloud.weights
        else:
            where = torch.as_tensor(points.points)
            weights = torch.as_tensor(points.point_weights)
        axes = self.context.axes
        for d, (axis, (left, right)) in enumerate(zip(axes, self.pads(), strict=True)):
            wanted = "circular" if axis.periodic else "zeros"
            if self.mode(d) != wanted and left + right:
                raise ValueError(
                    f"{self.path or type(self).__name__}: padding_mode={self.mode(d)!r} has "
                    f"no meaning on points; axis {axis.name!r} needs {wanted!r}"
                )
        return self._integrate(x, where, weights)

    def _integrate(self, x: Tensor, where: Tensor, weights: Tensor) -> Tensor:
        axes = self.context.axes
        kind = self.context.kernel
        radius = max(
            (gap * (k - 1) + (2 if kind == "cubic" else 1)) * a.spacing
            for gap, k, a in zip(self.dilation, self.kernel_size, axes, strict=True)
        )
        target, source = _box_pairs(where.detach().cpu().numpy(), axes, radius)
        at, i = torch.as_tensor(target), torch.as_tensor(source)
        gap = (where[i] - where[at]).double()
        parts = []
        for d, axis in enumerate(axes):
            g = gap[:, d]
            if axis.periodic:
                length = axis.upper - axis.lower
                g = g - length * torch.round(g / length)
            left, _ = self.pads()[d]
            z = torch.arange(self.kernel_size[d]) * self.dilation[d] - left
            t = g[:, None] / axis.spacing - z
            parts.append(torch.as_tensor(basis(t.detach().cpu().numpy(), kind)).to(t.device))
        hats = parts[0]
        for p in parts[1:]:
            hats = (hats[:, :, None] * p[:, None, :]).flatten(1)
        cell = math.prod(a.spacing for a in axes)
        hats = (hats * (weights[i].double() / cell)[:, None]).to(x)
        w = self.weight.flatten(2)
        out = x.new_zeros(x.shape[0], w.shape[0], where.shape[0])
        for j in range(w.shape[2]):
            used = hats[:, j] != 0
            if bool(used.any()):
                picked = x[:, :, i[used]] * hats[used, j]
                gathered = x.new_zeros(x.shape[0], x.shape[1], where.shape[0])
                gathered = gathered.index_add(2, at[used], picked)
                out = out + F.conv1d(gathered, w[:, :, j : j + 1], groups=self.groups)
        return out if self.bias is None else out + self.bias[None, :, None]


def _box_pairs(
    points: np.ndarray, axes: Sequence[Axis], radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (target, source) of points whose coordinates all differ by less than `radius`."""
    from scipy.spatial import cKDTree

    if any(a.periodic for a in axes):
        lower = np.array([a.lower for a in axes])
        # an axis that is not periodic gets a box so long that nothing wraps
        box = [
            (a.upper - a.lower) * (1 if a.periodic else 4) + (0 if a.periodic else 4 * radius)
            for a in axes
        ]
        shifted = points - lower
        for d, a in enumerate(axes):
            if a.periodic:
                shifted[:, d] %= box[d]
        tree = cKDTree(shifted, boxsize=box)
    else:
        tree = cKDTree(points)
    pairs = tree.query_ball_tree(tree, radius, p=np.inf)
    target = np.repeat(np.arange(len(points)), [len(p) for p in pairs])
    return target, np.fromiter(itertools.chain.from_iterable(pairs), np.int64, len(target))


def spread(weight: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Taps of a weight (out, in, *k) on another grid."""
    for d, m in enumerate(matrices):
        weight = torch.tensordot(weight, m.to(weight), dims=([2 + d], [1])).movedim(-1, 2 + d)
    return weight


class _KernelConvTranspose(OperatorLayer):
    """Forward of `KernelConvTranspose1d`, ...; mixed into torch's transposed convolutions."""

    dim: int
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Any
    output_padding: Any
    kernel_size: tuple[int, ...]
    groups: int

    def forward(
        self, x: Tensor, output_size: Sequence[int] | None = None, grid: Grid | None = None
    ) -> Tensor:
        """Apply the expansion in translates of the kernel.

        Parameters
        ----------
        x : Tensor, shape (batch, in_channels, *n)
        output_size : sequence of int, optional
            As in torch; the present number of points.
        grid : Grid, optional
            Of `x`; default the reference's domain with the points of `x`.
        """
        self.require_grid()
        scale = self.scale(x.shape[2:], grid)
        if all(s == 1.0 for s in scale):
            out: Tensor = super().forward(x, output_size)  # type: ignore[misc]
            return out
        sizes = None if output_size is None else list(output_size)[-self.dim :]
        return transposed(
            x, self.weight, self.bias, scale, self.context.axes, stride=self.stride,
            padding=self.padding, dilation=self.dilation, groups=self.groups,
            output_padding=self.output_padding, sizes=sizes, interpolation=self.context.kernel,
        )  # fmt: skip


def transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Sequence[float],
    axes: Sequence[Axis],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    output_padding: Sequence[int],
    sizes: Sequence[int] | None = None,
    mode: Mode | None = None,
    interpolation: Interpolation = "linear",
) -> Tensor:
    """Transposed convolution with the kernel of the reference, on another grid.

    Where the reference taps of neighboring points do not overlap, the input is continued beyond
    its ends (periodically, or by its last value), as the hats reach there; else, as in torch,
    there is nothing beyond.
    """
    dim = len(axes)
    kernel = weight.shape[2:]
    integer = all(s >= 1 and s == int(s) for s in scale)
    matrices: list[Tensor] = []
    filters: list[Tensor | None] = []
    gaps: list[int] = []
    cuts: list[tuple[int, int]] = []
    for d, (s, axis) in enumerate(zip(scale, axes, strict=True)):
        k, q, gap, p = kernel[d], stride[d], dilation[d], padding[d]
        n = x.shape[2 + d]
        offset = anchor(axis, q)
        z0 = -p - offset
        z = tuple(z0 + gap * i for i in range(k))
        first, matrix = taps(z, s, offset, q if gap == 1 else 0, interpolation)
        last = first + len(matrix) - 1
        if integer:
            base = math.floor(s * z0 + offset + 1e-9)
            one_first, one = taps((0.0,), s, s * z0 + offset - base, 0, interpolation)
            filters.append(one[:, 0].flip(0))
            gaps.append(round(s) * gap)
            first = base + one_first
            last = base + round(s) * gap * (k - 1) + one_first + len(one) - 1
        matrices.append(matrix)
        excess = -2 * p + gap * (k - 1) + output_padding[d]
        size = (
            sizes[d] if sizes is not None else transposed_size(n, s, axis, excess=excess, stride=q)
        )
        left = right = 0
        continued = mode
        if continued is None and (k - 1) * gap < q:
            continued = "circular" if axis.periodic else "replicate"
        if continued is not None:
            left = max(0, last // q)
            right = max(0, (size - 1 - first) // q - (n - 1))
            x = extend(x, d + 2, left, right, continued, cell_width(axis, s))
        # index 0 of what the transposed convolution gives is output point first - q * left
        cuts.append((-(first - q * left), size))
    if integer:
        y = _CONV_T[dim](  # type: ignore[operator]
            x, weight, None, tuple(stride), 0, 0, groups, tuple(gaps)
        )
        for d, g in enumerate(filters):
            y = extend(y, d + 2, len(g) - 1, len(g) - 1, "zeros")  # type: ignore[arg-type]
        y = smooth(y, filters)
    else:
        y = _CONV_T[dim](  # type: ignore[operator]
            x, spread(weight, matrices), None, tuple(stride), 0, 0, groups
        )
    for d, (start, size) in enumerate(cuts):
        have = y.shape[2 + d]
        y = extend(y, d + 2, -start, start + size - have, "zeros")
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * dim)


def _standalone(layer: Any, reference: Grid, dim: int, kernel: Interpolation) -> None:
    if not isinstance(reference, Grid) or reference.dim != dim:
        raise ValueError(f"reference={reference!r}: need a Grid of {dim} axes")
    layer.attach(Context(reference, kernel=kernel))


_DOC = """{title} of fixed physical support, in {dim} dimension(s).

    Arguments as `torch.nn.{base}`; at the reference grid it is that layer, on another the same
    kernel: between its taps it is interpolated by tensor products of hats or cubics (see `taps`).
    A stride counts points of the present grid{more}.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ...
        As `torch.nn.{base}`.
    reference : Grid
        Where the taps are the weights: the grid of the layer's input in the training.{extra}
    interpolation : {{"linear", "cubic"}}

    References
    ----------
    .. [1] Berner et al., "Principled approaches for extending neural architectures to function
       spaces for operator learning", arXiv:2506.10973 (2025); with kernels of exact symbol, see
       `kernel_symbol`.
    """


def _make(dim: int) -> tuple[type, type]:
    base, base_t = getattr(nn, f"Conv{dim}d"), getattr(nn, f"ConvTranspose{dim}d")

    def init(
        self: Any,
        *args: Any,
        reference: Grid,
        stride_rule: Literal["index", "physical"] = "index",
        interpolation: Interpolation = "linear",
        **kwargs: Any,
    ) -> None:
        base.__init__(self, *args, **kwargs)
        if stride_rule not in ("index", "physical"):
            raise ValueError(f"stride_rule={stride_rule!r}: allowed are index, physical")
        self.stride_rule = stride_rule
        _standalone(self, reference, dim, interpolation)

    def init_t(
        self: Any,
        *args: Any,
        reference: Grid,
        interpolation: Interpolation = "linear",
        **kwargs: Any,
    ) -> None:
        base_t.__init__(self, *args, **kwargs)
        _standalone(self, reference, dim, interpolation)

    conv = type(
        f"KernelConv{dim}d",
        (_KernelConv, base),
        {
            "__doc__": _DOC.format(
                title="Integral operator with a kernel",
                dim=dim,
                base=base.__name__,
                more=", or of the reference",
                extra='\n    stride_rule : {"index", "physical"}',
            ),
            "__init__": init,
            "__module__": __name__,
            "dim": dim,
        },
    )
    conv_t = type(
        f"KernelConvTranspose{dim}d",
        (_KernelConvTranspose, base_t),
        {
            "__doc__": _DOC.format(
                title="Expansion in translates of a kernel",
                dim=dim,
                base=base_t.__name__,
                more="",
                extra="",
            ),
            "__init__": init_t,
            "__module__": __name__,
            "dim": dim,
        },
    )
    return conv, conv_t


KernelConv1d, KernelConvTranspose1d = _make(1)
KernelConv2d, KernelConvTranspose2d = _make(2)
KernelConv3d, KernelConvTranspose3d = _make(3)
