"""Denoisers without the structure of a proximal operator, to compare `models.lpn` with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .spec import DenoisingSpec

__all__ = ["DnCNN", "UNetDenoiser", "build_dncnn", "build_unet_denoiser"]

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class DnCNN(nn.Module):
    """Residual convolutional denoiser, ``x - net(x)``, without batch normalization.

    Parameters
    ----------
    channels : int
    dim : int
        Space dimensions, 1 to 3.
    hidden_channels : int
    depth : int
        Convolutions, at least 2.
    kernel_size : int
        Odd.
    circular : bool
        The field is periodic; else zeros lie outside.

    References
    ----------
    .. [1] Zhang et al., Beyond a Gaussian denoiser, IEEE Trans. Image Process. 26 (2017).
    """

    def __init__(
        self, channels: int, dim: int, *, hidden_channels: int = 64, depth: int = 6,
        kernel_size: int = 3, circular: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if dim not in _CONV:
            raise ValueError(f"dim={dim}: need 1, 2 or 3 space dimensions")
        if hidden_channels < 1 or depth < 2:
            raise ValueError(
                f"hidden_channels={hidden_channels}, depth={depth}: need integers >= 1 and >= 2"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: need an odd number")
        widths = [channels, *[hidden_channels] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [
                _CONV[dim](
                    a, b, kernel_size, padding=kernel_size // 2,
                    padding_mode="circular" if circular else "zeros",
                ),
                nn.ReLU(),
            ]  # fmt: skip
        self.net = nn.Sequential(*layers[:-1])
        last = layers[-2]
        with torch.no_grad():  # start from the identity
            last.weight.mul_(0.1)  # type: ignore[operator, union-attr]
            last.bias.zero_()  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (B, channels, *space)."""
        out: Tensor = x - self.net(x)
        return out


class UNetDenoiser(nn.Module):
    """Residual U-Net denoiser, ``x - unet(x)``, without normalization inside.

    Parameters
    ----------
    shape : sequence of int
        ``(channels, *space)`` of a field; 1 to 3 space dimensions.
    periodic : sequence of bool
        By axis; other axes are continued by reflection.
    hidden_channels : int
        On the finest grid.
    n_levels : int, optional
        Grids; default 3, or fewer so that the coarsest has 3 points an axis.
    kernel_size : int
        Odd.
    """

    def __init__(
        self, shape: Sequence[int], periodic: Sequence[bool], *, hidden_channels: int = 16,
        n_levels: int | None = None, kernel_size: int = 3,
    ) -> None:  # fmt: skip
        from solvers.grids import Grid

        from .baselines.unet import UNet

        super().__init__()
        channels, *space = shape
        if n_levels is None:
            n_levels = max(1, min(3, 1 + int(math.log2(max(min(space) / 3, 1.0)))))
        sides = [("periodic",) * 2 if p else ("neumann",) * 2 for p in periodic]
        self.net = UNet(
            channels, channels, grid=Grid.unit(tuple(space)), boundary=sides,  # type: ignore[arg-type]
            hidden_channels=hidden_channels, n_levels=n_levels, kernel_size=kernel_size,
            norm=False, coordinates=False,
        )  # fmt: skip
        with torch.no_grad():  # start from the identity
            self.net.project.weight.mul_(0.1)
            self.net.project.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (B, channels, *space)."""
        out: Tensor = x - self.net(x)
        return out


def build_dncnn(
    spec: DenoisingSpec, *, hidden_channels: int = 64, depth: int = 6, kernel_size: int = 3
) -> DnCNN:
    """Build a `DnCNN` for the fields of a dataset."""
    channels, *space = spec.shape
    if not space:
        raise ValueError(f"shape {spec.shape}: dncnn needs fields on a grid; use lpn")
    return DnCNN(
        channels, len(space), hidden_channels=hidden_channels, depth=depth,
        kernel_size=kernel_size, circular=all(spec.periodic),
    )  # fmt: skip


def build_unet_denoiser(
    spec: DenoisingSpec, *, hidden_channels: int = 16, n_levels: int | None = None,
    kernel_size: int = 3,
) -> UNetDenoiser:  # fmt: skip
    """Build a `UNetDenoiser` for the fields of a dataset."""
    if len(spec.shape) < 2:
        raise ValueError(f"shape {spec.shape}: unet_denoiser needs fields on a grid; use lpn")
    periodic = spec.periodic or (False,) * (len(spec.shape) - 1)
    return UNetDenoiser(
        spec.shape, periodic, hidden_channels=hidden_channels, n_levels=n_levels,
        kernel_size=kernel_size,
    )  # fmt: skip
