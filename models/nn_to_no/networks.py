"""Plain networks on grids, to be trained as they are or turned into operators.

They count points: a kernel is so many points wide, whatever the spacing. Nothing in them is made
for the conversion but two layers: `field_conv`, a convolution that continues fields by the layout
of each axis, and `Refine`, linear interpolation between the points of such grids (which torch's
``Upsample`` knows for cells alone).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solvers.grids import Grid

from . import kernels
from .context import Context, OperatorLayer, adopt
from .convert import Scope, register_conversion
from .kernels import cell_width, extend, transposed

__all__ = ["CNN", "MLP", "Coordinates", "Refine", "ResNet", "UNet", "ViT", "field_conv"]

Walls = Literal["replicate", "zeros", "reflect"]


class Coordinates(nn.Module):
    """Appends the coordinates of the true domain: x in [0, 1], on periodic axes sine and cosine.

    Parameters
    ----------
    grid : Grid
        Layout and domain.
    axes : sequence of int
        Which axes.
    """

    def __init__(self, grid: Grid, axes: Sequence[int]) -> None:
        super().__init__()
        self.grid, self.axes = grid, tuple(axes)
        self._known: tuple[Any, Tensor] | None = None

    @property
    def channels(self) -> int:
        """Channels that are added."""
        return sum(2 if self.grid.axes[d].periodic else 1 for d in self.axes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *n) to (B, C + channels, *n)."""
        if not self.axes:
            return x
        size = tuple(x.shape[2:])
        key = (size, x.dtype, x.device)
        if self._known is None or self._known[0] != key:
            fields = []
            for d in self.axes:
                axis = self.grid.axes[d].resized(size[d])
                t = (torch.as_tensor(axis.coords) - axis.lower) / (axis.upper - axis.lower)
                waves = (torch.sin(2 * math.pi * t), torch.cos(2 * math.pi * t))
                for v in waves if axis.periodic else (t,):
                    fields.append(v.reshape(-1, *(1,) * (len(size) - 1 - d)).expand(size))
            self._known = (key, torch.stack(fields).to(x))
        coords = self._known[1]
        return torch.cat([x, coords.expand(x.shape[0], *coords.shape)], 1)


def field_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    grid: Grid,
    stride: int = 1,
    walls: Walls = "replicate",
    dilation: int = 1,
) -> nn.Module:
    """Convolution of fields on a grid: periodic axes go around, others end in `walls`.

    A stride of 2 on cells joins pairs: its kernel has an even size there, one point more.
    """
    dim = grid.dim
    sizes, pads = [], []
    for a in grid.axes:
        even = stride % 2 == 0 and a.location == "cell_center"
        k = kernel + 1 if even else kernel
        sizes.append(k)
        pads.append((k - 1) * dilation // 2)
    conv = _FIELD_CONV[dim](in_channels, out_channels, tuple(sizes), stride=stride, bias=True)
    conv.padding = tuple(pads)
    conv.dilation = (dilation,) * dim
    conv.modes = tuple("circular" if a.periodic else walls for a in grid.axes)
    return conv


class _FieldConv:
    modes: tuple[str, ...]

    def forward(self: Any, x: Tensor) -> Tensor:
        """Convolve (B, C, *n)."""
        for d, (p, mode) in enumerate(zip(self.padding, self.modes, strict=True)):
            x = extend(x, d + 2, p, p, mode)  # type: ignore[arg-type]
        conv = kernels._CONV[len(self.modes)]
        return conv(x, self.weight, self.bias, self.stride, 0, self.dilation)  # type: ignore


class FieldConv1d(_FieldConv, nn.Conv1d):
    """See `field_conv`."""


class FieldConv2d(_FieldConv, nn.Conv2d):
    """See `field_conv`."""


class FieldConv3d(_FieldConv, nn.Conv3d):
    """See `field_conv`."""


_FIELD_CONV: dict[int, Any] = {1: FieldConv1d, 2: FieldConv2d, 3: FieldConv3d}


@register_conversion(FieldConv1d, FieldConv2d, FieldConv3d)
def _(layer: Any, scope: Scope) -> nn.Module:
    dim = len(layer.kernel_size)
    if not isinstance(scope.reference, Grid) or scope.reference.dim != dim:
        raise scope.refuse(layer, f"a kernel over {dim} axes needs a reference grid of as many")
    modes = layer.modes
    adopt(layer, getattr(kernels, f"KernelConv{dim}d"), scope.context, scope.path, axis_modes=modes)
    scope.note(layer, "integral with a kernel of fixed support")
    return layer


class Refine(OperatorLayer, nn.Module):
    """Linear interpolation to twice as many points, for vertex, cell and periodic axes.

    Parameters
    ----------
    grid : Grid
        Layout of the axes.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.attach(Context(grid))
        self.context.frozen = True

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Refine (B, C, *n) to (B, C, *size)."""
        scale, axes = self.scale(x.shape[2:]), self.context.axes
        weight = torch.ones((), dtype=x.dtype, device=x.device)
        pads = []
        for a in axes:
            cell = a.location == "cell_center"
            line = [0.25, 0.75, 0.75, 0.25] if cell else [0.5, 1.0, 0.5]
            pads.append(1)
            weight = weight[..., None] * torch.tensor(line, dtype=x.dtype, device=x.device)
        b, c = x.shape[:2]
        # continued beyond the ends before, so that no value is missing there
        reach = max(2, 2 * math.ceil(max(scale)) + 1)
        for d, (a, s) in enumerate(zip(axes, scale, strict=True)):
            mode: Any = "circular" if a.periodic else "replicate"
            x = extend(x, 2 + d, reach, reach, mode, cell_width(a, s))
        y = transposed(
            x.reshape(b * c, 1, *x.shape[2:]), weight[None, None], None, scale, axes,
            stride=(2,) * len(axes), padding=pads, dilation=(1,) * len(axes), groups=1,
            output_padding=(0,) * len(axes), sizes=[n + 4 * reach for n in size],
            interpolation=self.context.kernel,
        )  # fmt: skip
        y = y.reshape(b, c, *y.shape[2:])
        for d, n in enumerate(size):
            y = y.narrow(2 + d, 2 * reach, n)
        return y


def awake(module: nn.Module) -> nn.Module:
    """Give parameters that start as zeros small values, so that each takes part at once."""
    with torch.no_grad():
        for p in module.parameters():
            if not bool(p.any()):
                p.normal_(0.0, 0.02)
    return module


class _Field(nn.Module):
    """A network on fields with coordinates appended to its input."""

    #: `to_operator` need not try whether it takes other grids.
    ready_made = True

    def __init__(self, grid: Grid, coordinates: bool | None) -> None:
        super().__init__()
        wanted = range(grid.dim)
        if coordinates is None:
            wanted = [d for d in wanted if not grid.axes[d].periodic]  # type: ignore[assignment]
        self.coordinates = Coordinates(grid, wanted if coordinates is not False else ())


class CNN(_Field):
    """Convolutions and GELU.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
        Layout and domain.
    hidden_channels, n_layers, kernel_size : int
    coordinates : bool, optional
        Append them; default those of axes that are not periodic.
    walls : {"replicate", "zeros", "reflect"}
        How fields go on beyond the ends of axes that are not periodic.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        hidden_channels: int = 32,
        n_layers: int = 4,
        kernel_size: int = 7,
        coordinates: bool | None = None,
        walls: Walls = "replicate",
    ) -> None:
        super().__init__(grid, coordinates)
        sizes = [in_channels + self.coordinates.channels] + [hidden_channels] * (n_layers - 1)
        layers: list[nn.Module] = []
        for a, b in zip(sizes, [*sizes[1:], out_channels], strict=True):
            layers += [field_conv(a, b, kernel_size, grid=grid, walls=walls), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, *n) to (B, out_channels, *n)."""
        y: Tensor = self.layers(self.coordinates(x))
        return y


class _Block(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, a: int, b: int, kernel: int, grid: Grid, walls: Walls, norm: bool) -> None:
        super().__init__()
        groups = math.gcd(8, b)
        self.conv1 = field_conv(a, b, kernel, grid=grid, walls=walls)
        self.conv2 = field_conv(b, b, kernel, grid=grid, walls=walls)
        # scale and shift are left to the next convolution
        self.norm = nn.GroupNorm(groups, b, affine=False) if norm else nn.Identity()
        self.act = nn.GELU()
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[grid.dim]
        self.around = nn.Identity() if a == b else kind(a, b, 1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv1(x)))
        out: Tensor = self.act(self.conv2(y) + self.around(x))
        return out


class ResNet(_Field):
    """Residual blocks at one resolution, with dilations that grow.

    Parameters
    ----------
    in_channels, out_channels, grid, hidden_channels, kernel_size, coordinates, walls
        As `CNN`.
    n_blocks : int
    norm : bool
        Group norm in the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        hidden_channels: int = 32,
        n_blocks: int = 4,
        kernel_size: int = 5,
        norm: bool = False,
        coordinates: bool | None = None,
        walls: Walls = "replicate",
    ) -> None:
        super().__init__(grid, coordinates)
        c = hidden_channels
        self.lift = field_conv(
            in_channels + self.coordinates.channels, c, kernel_size, grid=grid, walls=walls
        )
        self.blocks = nn.Sequential(
            *[_Block(c, c, kernel_size, grid, walls, norm) for _ in range(n_blocks)]
        )
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[grid.dim]
        self.project: nn.Module = kind(c, out_channels, 1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, *n) to (B, out_channels, *n)."""
        y: Tensor = self.project(self.blocks(self.lift(self.coordinates(x))))
        return y


class UNet(_Field):
    """U-Net: strided convolutions down, linear interpolation up, blocks and skips between.

    Parameters
    ----------
    in_channels, out_channels, grid, coordinates, walls
        As `CNN`.
    hidden_channels : int
        On the finest level; twice as many on each coarser one, at most four times.
    n_levels : int
        Times the grid is coarsened.
    kernel_size : int
    norm : bool
        Group norm in the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        hidden_channels: int = 24,
        n_levels: int = 3,
        kernel_size: int = 3,
        norm: bool = False,
        coordinates: bool | None = None,
        walls: Walls = "replicate",
    ) -> None:
        super().__init__(grid, coordinates)
        widths = [hidden_channels * min(4, 2**k) for k in range(n_levels + 1)]

        def block(a: int, b: int) -> nn.Module:
            return _Block(a, b, kernel_size, grid, walls, norm)

        self.first = block(in_channels + self.coordinates.channels, widths[0])
        self.down = nn.ModuleList()
        self.left = nn.ModuleList()
        self.right = nn.ModuleList()
        for a, b in itertools.pairwise(widths):
            self.down.append(field_conv(a, b, 3, grid=grid, stride=2, walls=walls))
            self.left.append(block(b, b))
            self.right.append(block(a + b, a))
        self.up = nn.ModuleList([Refine(grid) for _ in range(n_levels)])
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[grid.dim]
        self.project: nn.Module = kind(widths[0], out_channels, 1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, *n) to (B, out_channels, *n)."""
        y = self.first(self.coordinates(x))
        skips = []
        for down, left in zip(self.down, self.left, strict=True):
            skips.append(y)
            y = left(down(y))
        for k in reversed(range(len(skips))):
            fine = self.up[k](y, skips[k].shape[2:])
            y = self.right[k](torch.cat([fine, skips[k]], 1))
        out: Tensor = self.project(y)
        return out


class ViT(_Field):
    """Vision transformer from field to field: patches, attention, patches back.

    Parameters
    ----------
    in_channels, out_channels, coordinates
        As `CNN`.
    grid : Grid
        Points per axis are multiples of `patch`.
    patch : int or tuple of int
        Points along the sides of a patch.
    hidden_channels, n_layers, n_heads : int
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        patch: int | Sequence[int] = 4,
        hidden_channels: int = 96,
        n_layers: int = 4,
        n_heads: int = 4,
        coordinates: bool | None = False,
    ) -> None:
        super().__init__(grid, coordinates)
        size = (patch,) * grid.dim if isinstance(patch, int) else tuple(patch)
        if any(n % p for n, p in zip(grid.shape, size, strict=True)):
            raise ValueError(f"patch={patch}: does not divide the grid's {grid.shape}")
        if hidden_channels % n_heads:
            raise ValueError(f"n_heads={n_heads}: need a divisor of {hidden_channels}")
        c = hidden_channels
        down: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[grid.dim]
        kinds = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
        up: Any = kinds[grid.dim]
        self.embed = down(in_channels + self.coordinates.channels, c, size, stride=size)
        tokens = math.prod(n // p for n, p in zip(grid.shape, size, strict=True))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, c))
        self.layers = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(
                    c, n_heads, 2 * c, dropout=0.0, activation="gelu", batch_first=True,
                    norm_first=True,
                )
                for _ in range(n_layers)
            ]
        )  # fmt: skip
        self.norm = nn.LayerNorm(c)
        self.expand = up(c, out_channels, size, stride=size)
        awake(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, *n) to (B, out_channels, *n)."""
        y = self.embed(self.coordinates(x))
        tokens = self.layers(y.flatten(2).transpose(1, 2) + self.position)
        out: Tensor = self.expand(self.norm(tokens).transpose(1, 2).unflatten(2, y.shape[2:]))
        return out


class MLP(_Field):
    """The whole field to a vector, dense layers, and back.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
    hidden_channels, n_layers : int
        Of the dense layers between.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        hidden_channels: int = 256,
        n_layers: int = 3,
    ) -> None:
        super().__init__(grid, False)
        points = math.prod(grid.shape)
        sizes = [in_channels * points, *[hidden_channels] * n_layers]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.GELU()]
        layers += [nn.Linear(hidden_channels, out_channels * points)]
        self.layers = nn.Sequential(*layers, nn.Unflatten(1, (out_channels, *grid.shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, *n) to (B, out_channels, *n)."""
        y: Tensor = self.layers(x)
        return y
