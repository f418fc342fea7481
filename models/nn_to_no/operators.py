"""Ready-made operators, and what the model registry builds for `opkit fit`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solvers.grids import Grid

from .._sizes import odd, positive
from ..spec import MeshSpec, ModelSpec
from .attention import Kind
from .convert import OperatorModule, to_operator
from .geometry import resample
from .networks import CNN, MLP, ResNet, UNet, ViT, Walls
from .points import OperatorGNN, PointTransformer

__all__ = [
    "InputOutputInterpolation",
    "OperatorCNN",
    "OperatorGNN",
    "OperatorMLP",
    "OperatorResNet",
    "OperatorTransformer",
    "OperatorUNet",
    "OperatorViT",
    "PointTransformer",
]


def OperatorCNN(
    in_channels: int, out_channels: int, *, reference: Grid, **options: Any
) -> OperatorModule:
    """Build a `networks.CNN` as an operator; options are those of the network."""
    return _converted(CNN, in_channels, out_channels, reference, options)


def OperatorResNet(
    in_channels: int, out_channels: int, *, reference: Grid, **options: Any
) -> OperatorModule:
    """Build a `networks.ResNet` as an operator; options are those of the network."""
    return _converted(ResNet, in_channels, out_channels, reference, options)


def OperatorUNet(
    in_channels: int, out_channels: int, *, reference: Grid, **options: Any
) -> OperatorModule:
    """Build a `networks.UNet` as an operator; options are those of the network."""
    return _converted(UNet, in_channels, out_channels, reference, options)


def OperatorViT(
    in_channels: int,
    out_channels: int,
    *,
    reference: Grid,
    patch: int | None = None,
    **options: Any,
) -> OperatorModule:
    """Build a `networks.ViT` as an operator; options are those of the network.

    Where `patch` does not divide the points of `reference`, the patches are those of the next
    coarser grid that it divides. Default: at most 16, 10 or 4 patches an axis in one, two or three
    dimensions.
    """
    if patch is None:
        most = (64, 10, 4)[reference.dim - 1]
        patch = max(2, *(-(-n // most) for n in reference.shape))
    if any(n < patch for n in reference.shape) or patch < 1:
        raise ValueError(f"patch={patch}: need 1 to {min(reference.shape)}, the points of an axis")
    nodes = reference.resized(tuple(max(2, n - n % patch) for n in reference.shape))
    return _converted(ViT, in_channels, out_channels, nodes, {"patch": patch, **options})


def OperatorMLP(
    in_channels: int,
    out_channels: int,
    *,
    reference: Grid,
    nodes: int | None = None,
    **options: Any,
) -> OperatorModule:
    """Build a `networks.MLP` as an operator: integrals, dense layers, and an expansion.

    Parameters
    ----------
    nodes : int, optional
        Most points per axis at which the kernels are stored; default 128, 24 or 8 in one, two or
        three dimensions. Between them they are interpolated.
    """
    most = (128, 24, 8)[reference.dim - 1] if nodes is None else nodes
    if most < 2:
        raise ValueError(f"nodes={nodes}: need an integer >= 2")
    coarse = reference.resized(tuple(min(n, most) for n in reference.shape))
    return _converted(MLP, in_channels, out_channels, coarse, options)


def _converted(
    network: Callable[..., nn.Module],
    in_channels: int,
    out_channels: int,
    reference: Grid,
    options: dict[str, Any],
) -> OperatorModule:
    module = network(in_channels, out_channels, grid=reference, **options)
    return to_operator(module, reference=reference, example=(in_channels, *reference.shape))


class OperatorTransformer(nn.Module):
    """`PointTransformer` on grids of any resolution.

    Parameters
    ----------
    in_channels, out_channels : int
    reference : Grid
        Layout and domain.
    options
        Of `PointTransformer`; `kind` is ``"linear"`` by default: softmax attention between all
        points of a fine grid is slow.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, reference: Grid, **options: Any
    ) -> None:
        super().__init__()
        self.reference = reference
        self.transformer = PointTransformer(
            in_channels, out_channels, bounds=reference.bounds, periodic=reference.periodic,
            **{"kind": "linear", **options},
        )  # fmt: skip
        self._known: tuple[Any, Tensor, Tensor] | None = None

    def forward(self, f: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B, in_channels, *n) to (B, out_channels, *n)."""
        c, dim = self.transformer.in_channels, self.reference.dim
        if f.ndim != 2 + dim or f.shape[1] != c:
            axes = ", ".join(f"n{d + 1}" for d in range(dim))
            raise ValueError(
                f"f has shape {tuple(f.shape)}, expected (batch, {c}, {axes}): this operator "
                f"takes in_channels={c}"
            )
        grid = self.reference.resized(tuple(f.shape[2:])) if grid is None else grid
        if grid.shape != tuple(f.shape[2:]):
            raise ValueError(f"f has shape {tuple(f.shape)}, the grid {grid.shape}")
        key = (grid, f.dtype, f.device)
        if self._known is None or self._known[0] != key:
            points = torch.stack([torch.as_tensor(x).flatten() for x in grid.meshgrid()], -1)
            self._known = (key, points.to(f), torch.as_tensor(grid.weights).flatten().to(f))
        _, points, weights = self._known
        y = self.transformer(f.flatten(2).transpose(1, 2), points, weights)
        out: Tensor = y.transpose(1, 2).unflatten(2, grid.shape)
        return out


class InputOutputInterpolation(nn.Module):
    """Baseline: bring the input to the training grid, apply the network, bring the output back.

    Between the coordinates that the grids really have. It cannot see, nor give, anything finer
    than the training grid.

    Parameters
    ----------
    model : nn.Module
    reference : Grid
        Of the training.
    method : {"linear", "cubic", "fourier"}
    """

    def __init__(
        self,
        model: nn.Module,
        reference: Grid,
        method: Literal["linear", "cubic", "fourier"] = "linear",
    ) -> None:
        super().__init__()
        self.model, self.reference, self.method = model, reference, method

    def forward(self, f: Tensor, grid: Grid | None = None) -> Tensor:
        """Map (B, C, *n) to (B, C', *n)."""
        grid = self.reference.resized(tuple(f.shape[2:])) if grid is None else grid
        x = resample(f, grid, self.reference, self.method)  # type: ignore[arg-type]
        return resample(self.model(x), self.reference, grid, self.method)  # type: ignore[arg-type]


# -- registry --------------------------------------------------------------------------------------


def build_cnn(
    spec: ModelSpec,
    *,
    hidden_channels: int = 32,
    n_layers: int = 4,
    kernel_size: int = 7,
    walls: Walls = "replicate",
    coordinates: bool | None = None,
) -> nn.Module:
    """Convolutional operator for a dataset; options as `networks.CNN`."""
    positive(hidden_channels=hidden_channels, n_layers=n_layers)
    odd(kernel_size=kernel_size)
    return OperatorCNN(
        spec.in_channels, spec.out_channels, reference=spec.grid, hidden_channels=hidden_channels,
        n_layers=n_layers, kernel_size=kernel_size, walls=walls, coordinates=coordinates,
    )  # fmt: skip


def build_resnet(
    spec: ModelSpec,
    *,
    hidden_channels: int = 32,
    n_blocks: int = 4,
    kernel_size: int = 5,
    norm: bool = False,
    walls: Walls = "replicate",
    coordinates: bool | None = None,
) -> nn.Module:
    """Residual operator for a dataset; options as `networks.ResNet`."""
    positive(hidden_channels=hidden_channels, n_blocks=n_blocks)
    odd(kernel_size=kernel_size)
    return OperatorResNet(
        spec.in_channels, spec.out_channels, reference=spec.grid, hidden_channels=hidden_channels,
        n_blocks=n_blocks, kernel_size=kernel_size, norm=norm, walls=walls,
        coordinates=coordinates,
    )  # fmt: skip


def build_unet(
    spec: ModelSpec,
    *,
    hidden_channels: int = 24,
    n_levels: int | None = None,
    kernel_size: int = 3,
    norm: bool = False,
    walls: Walls = "replicate",
    coordinates: bool | None = None,
) -> nn.Module:
    """U-shaped operator for a dataset; options as `networks.UNet`.

    Default for `n_levels`: as many as leave 4 points an axis, 1 to 3.
    """
    positive(hidden_channels=hidden_channels)
    odd(kernel_size=kernel_size)
    if n_levels is None:
        n_levels = max(1, min(3, int(math.log2(min(spec.grid.shape) / 4))))
    positive(n_levels=n_levels)
    model = OperatorUNet(
        spec.in_channels, spec.out_channels, reference=spec.grid, hidden_channels=hidden_channels,
        n_levels=n_levels, kernel_size=kernel_size, norm=norm, walls=walls, coordinates=coordinates,
    )  # fmt: skip
    return _resolved(model, n_levels=n_levels)


def build_vit(
    spec: ModelSpec,
    *,
    patch: int | None = None,
    hidden_channels: int = 96,
    n_layers: int = 4,
    n_heads: int = 4,
) -> nn.Module:
    """Vision transformer as an operator for a dataset; options as `OperatorViT`."""
    positive(hidden_channels=hidden_channels, n_layers=n_layers, n_heads=n_heads)
    model = OperatorViT(
        spec.in_channels, spec.out_channels, reference=spec.grid, patch=patch,
        hidden_channels=hidden_channels, n_layers=n_layers, n_heads=n_heads,
    )  # fmt: skip
    network: Any = model.network
    return _resolved(model, patch=int(network.embed.kernel_size[0]))


def build_transformer(
    spec: ModelSpec,
    *,
    hidden_channels: int = 64,
    n_layers: int = 4,
    n_heads: int = 4,
    frequencies: int = 4,
    kind: Kind = "linear",
) -> nn.Module:
    """Build a transformer whose tokens are grid points; options as `PointTransformer`."""
    positive(
        hidden_channels=hidden_channels, n_layers=n_layers, n_heads=n_heads,
        frequencies=frequencies,
    )  # fmt: skip
    return OperatorTransformer(
        spec.in_channels, spec.out_channels, reference=spec.grid, hidden_channels=hidden_channels,
        n_layers=n_layers, n_heads=n_heads, frequencies=frequencies, kind=kind,
    )  # fmt: skip


def build_mlp(
    spec: ModelSpec,
    *,
    hidden_channels: int = 256,
    n_layers: int = 3,
    nodes: int | None = None,
) -> nn.Module:
    """Dense operator for a dataset; options as `OperatorMLP`."""
    positive(hidden_channels=hidden_channels, n_layers=n_layers)
    return OperatorMLP(
        spec.in_channels, spec.out_channels, reference=spec.grid, nodes=nodes,
        hidden_channels=hidden_channels, n_layers=n_layers,
    )  # fmt: skip


def build_gnn(
    spec: MeshSpec,
    *,
    radius: float | None = None,
    hidden_channels: int = 48,
    n_layers: int = 4,
    frequencies: int = 4,
) -> nn.Module:
    """Graph operator for a dataset on meshes; options as `OperatorGNN`.

    Default for `radius`: 3.5 mesh widths of the training data.
    """
    positive(hidden_channels=hidden_channels, n_layers=n_layers, frequencies=frequencies)
    if radius is None:
        radius = float(f"{3.5 * spec.spacing:.6g}")
    model = OperatorGNN(
        spec.in_channels, spec.out_channels, bounds=spec.bounds, radius=radius,
        hidden_channels=hidden_channels, n_layers=n_layers, frequencies=frequencies,
    )  # fmt: skip
    return _resolved(model, radius=radius)


def build_mesh_transformer(
    spec: MeshSpec,
    *,
    hidden_channels: int = 64,
    n_layers: int = 4,
    n_heads: int = 4,
    frequencies: int = 4,
    kind: Kind = "softmax",
) -> nn.Module:
    """Build a transformer for a dataset on meshes; options as `PointTransformer`."""
    positive(
        hidden_channels=hidden_channels, n_layers=n_layers, n_heads=n_heads,
        frequencies=frequencies,
    )  # fmt: skip
    return PointTransformer(
        spec.in_channels, spec.out_channels, bounds=spec.bounds, hidden_channels=hidden_channels,
        n_layers=n_layers, n_heads=n_heads, frequencies=frequencies, kind=kind,
    )  # fmt: skip


def _resolved(model: nn.Module, **options: Any) -> nn.Module:
    model.resolved_options = options  # type: ignore[assignment]
    return model
