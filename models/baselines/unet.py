"""U-Net: convolutions on a hierarchy of grids, with skip connections."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from solvers.grids import Grid

from .._sizes import odd, positive
from ..spec import ModelSpec
from ._grid import Boundary, BoundaryConv, GridModel, conv_class, max_pool, pad

__all__ = ["UNet", "build_unet"]


class UNet(GridModel):
    """U-Net for grids of any size in 1-D, 2-D and 3-D.

    Down: two convolutions, then the maximum over pairs of points; up: a transposed convolution,
    the skip connection, two convolutions. Channels double from grid to grid. An odd number of
    points is continued by one, as the boundary conditions say, and cut again on the way up.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
    boundary : sequence of (str, str)
        Kinds per axis and side: how convolutions continue fields, see `pad`.
    hidden_channels : int
        On the finest grid.
    n_levels : int
        Grids, the finest included.
    kernel_size : int
        Odd, in points.
    norm : bool
        Normalize over all channels and points of a sample after each convolution.
    coordinates : bool
        See `GridModel`.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image
       segmentation", MICCAI 2015, arXiv:1505.04597.
    .. [2] Gupta, Brandstetter, "Towards multi-spatiotemporal-scale generalized PDE modeling",
       TMLR 2023, arXiv:2209.15616: the variant with group norm for PDEs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        boundary: Boundary,
        hidden_channels: int = 32,
        n_levels: int = 4,
        kernel_size: int = 3,
        norm: bool = True,
        coordinates: bool = True,
    ) -> None:
        super().__init__(in_channels, grid=grid, coordinates=coordinates)
        positive(hidden_channels=hidden_channels, n_levels=n_levels)
        odd(kernel_size=kernel_size)
        self.boundary = tuple(boundary)
        widths = [hidden_channels * 2**level for level in range(n_levels)]

        def double(first: int, width: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for c in (first, width):
                layers.append(BoundaryConv(c, width, kernel_size, boundary=boundary))
                layers += [nn.GroupNorm(1, width)] if norm else []
                layers.append(nn.GELU())
            return nn.Sequential(*layers)

        up = conv_class(grid.dim, transposed=True)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(double(a, b) for a, b in pairwise([self.features, *widths]))
        self.up = nn.ModuleList(up(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.merge = nn.ModuleList(double(2 * fine, fine) for fine, _ in pairs)
        self.project = conv_class(grid.dim)(hidden_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (batch, in_channels, *n), to (batch, out_channels, *n)."""
        x = self.prepare(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                skips.append(x)
                x = max_pool(pad(x, [(0, n % 2) for n in x.shape[2:]], self.boundary))
            x = block(x)
        for level in reversed(range(len(skips))):
            skip = skips[level]
            x = self.up[level](x)
            for d, n in enumerate(skip.shape[2:]):
                x = x.narrow(d + 2, 0, n)
            x = self.merge[level](torch.cat([skip, x], dim=1))
        y: Tensor = self.project(x)
        return y


def build_unet(
    spec: ModelSpec,
    *,
    hidden_channels: int = 32,
    n_levels: int | None = None,
    kernel_size: int = 3,
    norm: bool = True,
    coordinates: bool = True,
) -> UNet:
    """U-Net for a dataset.

    Parameters
    ----------
    spec : ModelSpec
    hidden_channels, kernel_size, norm, coordinates
        As in `UNet`.
    n_levels : int, optional
        Grids, the finest included. Default 4, or fewer so that the coarsest has 3 points an axis.

    Returns
    -------
    UNet
    """
    if n_levels is None:
        n, n_levels = min(spec.grid.shape), 1
        while n_levels < 4 and -(-n // 2) >= 3:
            n, n_levels = -(-n // 2), n_levels + 1
    model = UNet(
        spec.in_channels, spec.out_channels, grid=spec.grid, boundary=spec.boundary,
        hidden_channels=hidden_channels, n_levels=n_levels, kernel_size=kernel_size, norm=norm,
        coordinates=coordinates,
    )  # fmt: skip
    model.resolved_options = {"n_levels": n_levels}
    return model
