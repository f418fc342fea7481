"""Residual convolutional networks: plain and dilated."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from solvers.grids import Grid

from .._sizes import odd, positive
from ..spec import ModelSpec
from ._grid import Boundary, BoundaryConv, GridModel, conv_class

__all__ = ["DilatedResNet", "ResNet", "build_dilresnet", "build_resnet"]

#: Dilations of a block in the paper's dilated network.
DILATIONS = (1, 2, 4, 8, 4, 2, 1)


class ResNet(GridModel):
    """Residual network at full resolution for grids of any size in 1-D, 2-D and 3-D.

    Each block adds ``conv(gelu(norm(conv(gelu(norm(x))))))`` to its input; pointwise layers lift
    and project.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
    boundary : sequence of (str, str)
        Kinds per axis and side: how convolutions continue fields, see `pad`.
    hidden_channels, n_blocks : int
    kernel_size : int
        Odd, in points.
    norm : bool
        Normalize over all channels and points of a sample before each activation.
    coordinates : bool
        See `GridModel`.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", ECCV 2016,
       arXiv:1603.05027.
    .. [2] Gupta, Brandstetter, TMLR 2023, arXiv:2209.15616: without downsampling, for PDEs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        boundary: Boundary,
        hidden_channels: int = 64,
        n_blocks: int = 8,
        kernel_size: int = 3,
        norm: bool = True,
        coordinates: bool = True,
    ) -> None:
        super().__init__(in_channels, grid=grid, coordinates=coordinates)
        positive(hidden_channels=hidden_channels, n_blocks=n_blocks)
        odd(kernel_size=kernel_size)
        pointwise, width = conv_class(grid.dim), hidden_channels

        def block() -> nn.Sequential:
            layers: list[nn.Module] = []
            for _ in range(2):
                layers += [nn.GroupNorm(1, width)] if norm else []
                layers += [nn.GELU(), BoundaryConv(width, width, kernel_size, boundary=boundary)]
            return nn.Sequential(*layers)

        self.lift = nn.Sequential(
            pointwise(self.features, width, 1), nn.GELU(), pointwise(width, width, 1)
        )
        self.blocks = nn.ModuleList(block() for _ in range(n_blocks))
        self.project = nn.Sequential(
            pointwise(width, width, 1), nn.GELU(), pointwise(width, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (batch, in_channels, *n), to (batch, out_channels, *n)."""
        x = self.lift(self.prepare(x))
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.project(x)
        return y


class DilatedResNet(GridModel):
    """Dilated residual network for grids of any size in 1-D, 2-D and 3-D.

    Convolutions encode and decode; each block between adds to its input seven convolutions,
    dilated by 1, 2, 4, 8, 4, 2, 1 points, each followed by ReLU.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
    boundary : sequence of (str, str)
        Kinds per axis and side: how convolutions continue fields, see `pad`.
    hidden_channels, n_blocks : int
    kernel_size : int
        Odd, in points.
    dilations : sequence of int
        Of the layers of a block.
    coordinates : bool
        See `GridModel`.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    References
    ----------
    .. [1] Stachenfeld et al., "Learned coarse models for efficient turbulence simulation",
       ICLR 2022, arXiv:2112.15275, section 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        boundary: Boundary,
        hidden_channels: int = 48,
        n_blocks: int = 4,
        kernel_size: int = 3,
        dilations: Sequence[int] = DILATIONS,
        coordinates: bool = True,
    ) -> None:
        super().__init__(in_channels, grid=grid, coordinates=coordinates)
        positive(hidden_channels=hidden_channels, n_blocks=n_blocks)
        odd(kernel_size=kernel_size)
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations={list(dilations)}: need integers >= 1")

        def conv(a: int, b: int, dilation: int = 1) -> BoundaryConv:
            return BoundaryConv(a, b, kernel_size, boundary=boundary, dilation=dilation)

        def block() -> nn.Sequential:
            layers: list[nn.Module] = []
            for dilation in dilations:
                layers += [conv(hidden_channels, hidden_channels, dilation), nn.ReLU()]
            return nn.Sequential(*layers)

        self.encode = conv(self.features, hidden_channels)
        self.blocks = nn.ModuleList(block() for _ in range(n_blocks))
        self.decode = conv(hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (batch, in_channels, *n), to (batch, out_channels, *n)."""
        x = self.encode(self.prepare(x))
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.decode(x)
        return y


def build_resnet(
    spec: ModelSpec,
    *,
    hidden_channels: int = 64,
    n_blocks: int = 8,
    kernel_size: int = 3,
    norm: bool = True,
    coordinates: bool = True,
) -> ResNet:
    """`ResNet` for a dataset; options as there."""
    return ResNet(
        spec.in_channels, spec.out_channels, grid=spec.grid, boundary=spec.boundary,
        hidden_channels=hidden_channels, n_blocks=n_blocks, kernel_size=kernel_size, norm=norm,
        coordinates=coordinates,
    )  # fmt: skip


def build_dilresnet(
    spec: ModelSpec,
    *,
    hidden_channels: int = 48,
    n_blocks: int = 4,
    kernel_size: int = 3,
    dilations: list[int] | None = None,
    coordinates: bool = True,
) -> DilatedResNet:
    """`DilatedResNet` for a dataset; options as there, `dilations` by default the paper's."""
    chosen = list(DILATIONS) if dilations is None else dilations
    model = DilatedResNet(
        spec.in_channels, spec.out_channels, grid=spec.grid, boundary=spec.boundary,
        hidden_channels=hidden_channels, n_blocks=n_blocks, kernel_size=kernel_size,
        dilations=chosen, coordinates=coordinates,
    )  # fmt: skip
    model.resolved_options = {"dilations": chosen}
    return model
