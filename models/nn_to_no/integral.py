r"""Integrals over the whole domain or patches of it, and expansions in functions of the reference.

All rest on two maps between the reference grid and the present one. `restrict` is a quadrature:
with the hat functions :math:`\varphi_a` of the reference nodes and quadrature weights
:math:`\Delta`,

.. math:: (Rf)_a = \sum_i \varphi_a(x_i) f(x_i) \Delta_i \Big/ \sum_i \varphi_a(x_i) \Delta_i,

so that a sum over reference nodes with weights w becomes the integral of f against the kernel that
interpolates :math:`w_a/\Delta_a` multilinearly. `expand` is
:math:`g(y) = \sum_a g_a \varphi_a(y)`. On the reference grid both are the identity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import Axis, Grid
from solvers.meshes import Mesh

from .context import Cloud, Context, OperatorLayer
from .geometry import Geometry, apply_axes, axis_matrix, resample

__all__ = [
    "FunctionTable",
    "IntegralLinear",
    "PatchExpansion",
    "PatchIntegral",
    "expand",
    "restrict",
]


@lru_cache(maxsize=512)
def restriction(source: Axis, reference: Axis) -> Tensor:
    """Matrix (reference.n, source.n) along one axis; from coarser grids it interpolates."""
    if source.spacing > reference.spacing * (1 + 1e-9):
        return axis_matrix(source, reference, "linear")
    hats = axis_matrix(reference, source, "linear")  # value of hat a at x_i
    m = hats.T * torch.as_tensor(source.weights)
    return m / m.sum(1, keepdim=True)


def restrict(f: Tensor, geometry: Geometry | Cloud, reference: Grid) -> Tensor:
    """Integrate against the hat functions of the reference grid.

    Parameters
    ----------
    f : Tensor, shape (..., *geometry.shape), or (..., P) on points
    geometry : Grid, Mesh or Cloud
        Where `f` is given.
    reference : Grid

    Returns
    -------
    Tensor, shape (..., *reference.shape)
    """
    if isinstance(geometry, Grid):
        pairs = zip(geometry.axes, reference.axes, strict=True)
        return apply_axes(f, [None if a == b else restriction(a, b) for a, b in pairs])
    if isinstance(geometry, Mesh):
        points, weights = geometry.points, geometry.point_weights
    else:
        if geometry.points.ndim != 2:
            raise ValueError("restrict: samples of a batch share their points here")
        points = geometry.points.detach().cpu().double().numpy()
        weights = geometry.weights.detach().cpu().double().numpy()
    m = _hats(points, reference).T * weights
    total = m.sum(1)
    if (total <= 0).any():
        raise ValueError(
            f"grid: {int((total <= 0).sum())} of {len(total)} reference nodes have none of the "
            f"{len(points)} points beside them: the points are too coarse or leave out a part of "
            "the domain"
        )
    out = f @ torch.as_tensor((m / total[:, None]).T).to(f)
    return out.reshape(*f.shape[:-1], *reference.shape)


def _hats(points: np.ndarray, reference: Grid) -> np.ndarray:
    """Values of the hat functions at points, (P, nodes)."""
    out = np.ones((len(points), 1))
    for d, axis in enumerate(reference.axes):
        line = axis_matrix.__wrapped__(axis, tuple(points[:, d].tolist()), "linear").numpy()
        out = (out[:, :, None] * line[:, None, :]).reshape(len(points), -1)
    return out


def expand(g: Tensor, reference: Grid, geometry: Geometry | Cloud) -> Tensor:
    """Combine hat functions of the reference grid: multilinear interpolation.

    Parameters
    ----------
    g : Tensor, shape (..., *reference.shape)
    reference : Grid
    geometry : Grid, Mesh or Cloud

    Returns
    -------
    Tensor, shape (..., *geometry.shape) or (..., P)
    """
    if isinstance(geometry, Grid):
        return resample(g, reference, geometry, "linear")
    points = geometry.points
    if isinstance(points, Tensor) and points.ndim == 3:
        parts = [resample(u[None], reference, p, "linear") for u, p in zip(g, points, strict=True)]
        return torch.cat(parts)
    return resample(g, reference, points, "linear")


class IntegralLinear(nn.Module):
    r"""Integral transform with a kernel given on the reference grid.

    .. math:: g(y_j) = \sum_i K(x_i, y_j) f(x_i) \Delta_i + b(y_j)

    `K` and `b` interpolate their values at the reference nodes multilinearly; there it is a linear
    layer on the flattened field, with weights :math:`K(x_i, y_j)\Delta_i`.

    Parameters
    ----------
    in_features, out_features : int
        Channels of the field, or length of the vector where there is no grid.
    input_grid, output_grid : Grid, optional
        Reference of the input and of the output; None: a vector.
    bias : bool
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        input_grid: Grid | None = None,
        output_grid: Grid | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.input_grid, self.output_grid = input_grid, output_grid
        columns, rows = (
            c * (math.prod(g.shape) if g is not None else 1)
            for c, g in ((in_features, input_grid), (out_features, output_grid))
        )
        linear = nn.Linear(columns, rows, bias=bias)
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = in_features, out_features

    def forward(
        self, f: Tensor, grid: Geometry | None = None, query: Geometry | None = None
    ) -> Tensor:
        """Integrate.

        Parameters
        ----------
        f : Tensor, shape (B, in_features, *n), or (B, in_features) without an input grid
        grid : Grid or Mesh, optional
            Of `f`; default the reference's domain with its points.
        query : Grid or Mesh, optional
            Where the result is wanted; default `grid`, or the reference of the output.

        Returns
        -------
        Tensor, shape (B, out_features, *m), or (B, out_features)
        """
        if self.input_grid is not None:
            if grid is None:
                grid = self.input_grid.resized(tuple(f.shape[2:]))
            f = restrict(f, grid, self.input_grid)
        y = F.linear(f.flatten(1), self.weight, self.bias)
        if self.output_grid is None:
            return y
        y = y.unflatten(1, (self.out_features, *self.output_grid.shape))
        target = query if query is not None else grid
        return y if target is None else expand(y, self.output_grid, target)


class _PatchIntegral(OperatorLayer):
    """Forward of `PatchIntegral`; mixed into torch's convolutions of kernel = stride."""

    def forward(self, x: Tensor) -> Tensor:
        """Integrate over patches: as many values as at the reference, whatever the grid."""
        ctx = self.context
        if not ctx.at_reference and not ctx.fixed:
            if not isinstance(ctx.reference, Grid):
                raise ValueError(f"{self.path}: patches need a reference grid")
            where = ctx.cloud if ctx.cloud is not None else ctx.target
            assert where is not None
            x = restrict(x, where, ctx.reference)
        ctx.fixed = True
        out: Tensor = super().forward(x)  # type: ignore[misc]
        return out


class PatchIntegral1d(_PatchIntegral, nn.Conv1d):
    """Patch embedding in one dimension, converted."""


class PatchIntegral2d(_PatchIntegral, nn.Conv2d):
    """Patch embedding in two dimensions, converted."""


class PatchIntegral3d(_PatchIntegral, nn.Conv3d):
    """Patch embedding in three dimensions, converted."""


class PatchIntegral(nn.Module):
    """Integrals over patches of fixed physical size: tokens whose number the grid does not change.

    Parameters
    ----------
    in_channels, out_channels : int
    patch : int or tuple of int
        Points of the reference along the sides of a patch.
    reference : Grid
        Its points per axis are multiples of `patch`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, patch: int | Sequence[int], *, reference: Grid
    ) -> None:
        super().__init__()
        size = (patch,) * reference.dim if isinstance(patch, int) else tuple(patch)
        if any(n % p for n, p in zip(reference.shape, size, strict=True)):
            raise ValueError(f"patch={patch}: does not divide the reference's {reference.shape}")
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[reference.dim]
        self.conv = conv(in_channels, out_channels, size, stride=size)  # type: ignore[arg-type]
        self.reference = reference

    def forward(self, f: Tensor, grid: Geometry | None = None) -> Tensor:
        """Map (B, in_channels, *n) to (B, out_channels, *tokens)."""
        grid = self.reference.resized(tuple(f.shape[2:])) if grid is None else grid
        out: Tensor = self.conv(restrict(f, grid, self.reference))
        return out


class PatchExpansion(nn.Module):
    """Tokens to a function: a combination of the hat functions on the reference nodes.

    Parameters
    ----------
    in_channels, out_channels, patch, reference
        As `PatchIntegral`, the other way.
    """

    def __init__(
        self, in_channels: int, out_channels: int, patch: int | Sequence[int], *, reference: Grid
    ) -> None:
        super().__init__()
        size = (patch,) * reference.dim if isinstance(patch, int) else tuple(patch)
        if any(n % p for n, p in zip(reference.shape, size, strict=True)):
            raise ValueError(f"patch={patch}: does not divide the reference's {reference.shape}")
        kinds = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
        self.conv = kinds[reference.dim](in_channels, out_channels, size, stride=size)  # type: ignore[arg-type]
        self.reference = reference

    def forward(self, g: Tensor, query: Geometry | None = None) -> Tensor:
        """Map (B, in_channels, *tokens) to (B, out_channels, *m) on `query`."""
        y: Tensor = self.conv(g)
        return y if query is None else expand(y, self.reference, query)


class FunctionTable(nn.Module):
    """A learnable function, given by its values at the reference nodes.

    Parameters
    ----------
    channels : int
    reference : Grid
    std : float
        Of the initial values.

    Examples
    --------
    >>> from models.nn_to_no import grid
    >>> table = FunctionTable(2, grid((8, 8)))
    >>> table(grid((15, 15))).shape
    torch.Size([2, 15, 15])
    """

    def __init__(self, channels: int, reference: Grid, *, std: float = 0.02) -> None:
        super().__init__()
        self.values = nn.Parameter(std * torch.randn(channels, *reference.shape))
        self.reference = reference

    def forward(self, query: Geometry | None = None) -> Tensor:
        """Values at `query`, shape (channels, *m)."""
        return self.values if query is None else expand(self.values, self.reference, query)


def table_layout(shape: Sequence[int], reference: Grid) -> str:
    """``"grid"`` for (..., *reference.shape), ``"tokens"`` for (..., points, channels), or ``""``.

    Leading axes but one have length 1.
    """
    n, dim = tuple(reference.shape), reference.dim
    lead = tuple(shape[: len(shape) - dim])
    if tuple(shape[len(shape) - dim :]) == n and len(lead) <= 2 and lead[:-1] in ((), (1,)):
        return "grid"
    if len(shape) >= 2 and shape[-2] == math.prod(n) and tuple(shape[:-2]) in ((), (1,)):
        return "tokens"
    return ""


def expand_table(value: Tensor, layout: str, context: Context) -> Tensor:
    """Values of a table of the reference at the present points."""
    reference = context.reference
    assert isinstance(reference, Grid)
    target: Any = context.cloud if context.cloud is not None else context.target
    if layout == "grid":
        return expand(value, reference, target)
    field = value.movedim(-1, -2).unflatten(-1, reference.shape)
    out = expand(field, reference, target)
    return out.flatten(value.ndim - 1).movedim(-1, -2)
