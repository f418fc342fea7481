"""Vision transformer: attention between patches of the grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import Grid

from .._sizes import positive
from ..spec import ModelSpec
from ._grid import Boundary, GridModel, conv_class, pad

__all__ = ["ViT", "build_vit"]


class ViT(GridModel):
    """Vision transformer for grids of any size in 1-D, 2-D and 3-D.

    Patches of points become tokens, a learned table adds their position (interpolated where the
    grid has other sizes), blocks of attention and MLP with the norm in front follow, and each
    token is mapped back to its patch. A grid whose size is no multiple of the patch is continued
    at its upper ends, as the boundary conditions say, and cut again.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
        Its shape sets the size of the table of positions.
    boundary : sequence of (str, str)
        Kinds per axis and side, see `pad`.
    patch_size : int
        Points per axis of a patch.
    hidden_channels : int
        Of a token, a multiple of `n_heads`.
    n_layers, n_heads : int
    mlp_ratio : int
        Width of the MLP over `hidden_channels`.
    coordinates : bool
        See `GridModel`; the table of positions makes them unnecessary.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    Notes
    -----
    Keys have no bias: softmax does not see it.

    References
    ----------
    .. [1] Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition
       at scale", ICLR 2021, arXiv:2010.11929.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        boundary: Boundary,
        patch_size: int = 4,
        hidden_channels: int = 128,
        n_layers: int = 6,
        n_heads: int = 4,
        mlp_ratio: int = 4,
        coordinates: bool = False,
    ) -> None:
        super().__init__(in_channels, grid=grid, coordinates=coordinates)
        positive(
            patch_size=patch_size, hidden_channels=hidden_channels, n_layers=n_layers,
            n_heads=n_heads, mlp_ratio=mlp_ratio,
        )  # fmt: skip
        if hidden_channels % n_heads:
            raise ValueError(
                f"hidden_channels={hidden_channels}: need a multiple of n_heads={n_heads}"
            )
        self.boundary, self.patch, self.out_channels = tuple(boundary), patch_size, out_channels
        width, dim = hidden_channels, grid.dim
        tokens = [-(-n // patch_size) for n in grid.shape]
        self.embed = conv_class(dim)(self.features, width, patch_size, stride=patch_size)
        self.position = nn.Parameter(torch.randn(1, width, *tokens) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, n_heads, mlp_ratio) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.unembed = conv_class(dim, transposed=True)(
            width, out_channels, patch_size, stride=patch_size
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (batch, in_channels, *n), to (batch, out_channels, *n)."""
        x = self.prepare(x)
        size = x.shape[2:]
        x = self.embed(pad(x, [(0, -n % self.patch) for n in size], self.boundary))
        x = x + self._position(tuple(x.shape[2:]))
        tokens = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).transpose(1, 2).unflatten(2, tokens)
        x = self.unembed(x)
        for d, n in enumerate(size):
            x = x.narrow(d + 2, 0, n)
        return x

    def _position(self, tokens: tuple[int, ...]) -> Tensor:
        """Table of positions for so many tokens per axis."""
        if tokens == tuple(self.position.shape[2:]):
            return self.position
        mode = ("linear", "bilinear", "trilinear")[len(tokens) - 1]
        return F.interpolate(self.position, tokens, mode=mode, align_corners=False)


class _Block(nn.Module):
    """Attention and MLP on tokens (batch, token, width), each with the norm in front."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            part(y).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.mlp(self.norm2(x))


def build_vit(
    spec: ModelSpec,
    *,
    patch_size: int | None = None,
    hidden_channels: int = 128,
    n_layers: int = 6,
    n_heads: int = 4,
    mlp_ratio: int = 4,
    coordinates: bool = False,
) -> ViT:
    """Vision transformer for a dataset.

    Parameters
    ----------
    spec : ModelSpec
    patch_size : int, optional
        Points per axis of a patch. Default: the smallest power of two from 2 on with which the
        grid has at most 512 patches.
    hidden_channels, n_layers, n_heads, mlp_ratio, coordinates
        As in `ViT`.

    Returns
    -------
    ViT
    """
    if patch_size is None:
        patch_size = 2
        while math.prod(-(-n // patch_size) for n in spec.grid.shape) > 512:
            patch_size *= 2
    model = ViT(
        spec.in_channels, spec.out_channels, grid=spec.grid, boundary=spec.boundary,
        patch_size=patch_size, hidden_channels=hidden_channels, n_layers=n_layers,
        n_heads=n_heads, mlp_ratio=mlp_ratio, coordinates=coordinates,
    )  # fmt: skip
    model.resolved_options = {"patch_size": patch_size}
    return model
