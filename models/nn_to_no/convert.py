"""`to_operator`: read every layer of a network as an operator between function spaces."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from solvers.grids import Grid
from solvers.meshes import Mesh

from . import integral, kernels, norms, pooling
from .attention import WeightedMultiheadAttention, attention_bias
from .context import Cloud, Context, OperatorLayer, adopt
from .errors import ConversionWarning, UnsupportedLayerError
from .geometry import Geometry, Layout, Rule, cloud_weights, grid, is_closed, resample
from .integral import expand, expand_table, restrict, table_layout
from .local import Antialiased
from .message_passing import (
    EdgeFeatures,
    GraphForm,
    check_splitting,
    convert_message_passing,
    is_message_passing,
)

__all__ = ["LayerReport", "OperatorModule", "Scope", "register_conversion", "to_operator"]


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes
    ----------
    path, layer, operator : str
    exact : bool
        Whether it is the network's layer at the reference grid.
    note : str
    """

    path: str
    layer: str
    operator: str
    exact: bool = True
    note: str = ""


@dataclass
class Scope:
    """What a conversion may look at.

    Attributes
    ----------
    path : str
        Of the layer.
    context : Context
        Shared by the layers; `OperatorLayer.attach` takes it.
    reference : Grid or Mesh
    has_attention : bool
        The module has attention, so that convolutions whose kernel is their stride make patches.
    parent : nn.Module or None
    antialias : int
    """

    path: str
    context: Context
    reference: Geometry
    has_attention: bool
    parent: nn.Module | None
    antialias: int
    rows: list[LayerReport]

    def note(
        self, layer: nn.Module | str, operator: str, exact: bool = True, why: str = ""
    ) -> None:
        """Put a line into the report."""
        kind = layer if isinstance(layer, str) else type(layer).__name__
        self.rows.append(LayerReport(self.path, kind, operator, exact, why))

    def refuse(self, layer: nn.Module, reason: str) -> UnsupportedLayerError:
        """Make the error for a layer."""
        return UnsupportedLayerError(self.path, type(layer).__name__, reason)


#: ``conversion(layer, scope)`` gives the layer that takes its place, or the layer itself changed.
Conversion = Callable[[Any, Scope], nn.Module]
_CONVERSIONS: dict[type, Conversion] = {}


def register_conversion(*layer_types: type) -> Callable[[Conversion], Conversion]:
    """Say how layers of these types become operators.

    The function is called with the layer (a copy that may be changed) and a `Scope`. It returns
    the layer in its place, whose parameters must keep their names, or raises
    `UnsupportedLayerError`.

    Examples
    --------
    >>> class Sine(nn.Module):
    ...     def forward(self, x):
    ...         return torch.sin(x)
    >>> @register_conversion(Sine)
    ... def _(layer, scope):
    ...     scope.note(layer, "pointwise")
    ...     return layer
    """

    def register(conversion: Conversion) -> Conversion:
        for t in layer_types:
            _CONVERSIONS[t] = conversion
        return conversion

    return register


# -- conversions -----------------------------------------------------------------------------------

_POINTWISE = (
    nn.Identity, nn.Linear, nn.Bilinear, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.ELU,
    nn.CELU, nn.SELU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Tanh, nn.Sigmoid, nn.LogSigmoid,
    nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardshrink, nn.Tanhshrink, nn.Threshold, nn.GLU, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.FeatureAlphaDropout, nn.ChannelShuffle, nn.LocalResponseNorm, nn.Unflatten, nn.Softmax2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_ACTIVATIONS = _POINTWISE[3:26]


@register_conversion(*_POINTWISE)
def _pointwise(layer: nn.Module, scope: Scope) -> nn.Module:
    if isinstance(layer, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d):
        sizes = layer.output_size
        if any(s != 1 for s in (sizes if isinstance(sizes, tuple) else (sizes,))):
            raise scope.refuse(layer, _ADAPTIVE)
        scope.note(layer, "supremum over the domain")
        return layer
    if scope.antialias > 1 and isinstance(layer, _ACTIVATIONS) and isinstance(
        scope.reference, Grid
    ):  # fmt: skip
        scope.note(layer, f"pointwise on a {scope.antialias} times finer grid", False)
        if next(layer.parameters(), None) is not None:
            raise scope.refuse(layer, "antialias keeps no activation with parameters")
        return Antialiased(layer, scope.reference, scope.antialias)
    scope.note(layer, "pointwise")
    return layer


def _padding_before(layer: nn.Module, scope: Scope) -> tuple[tuple[int, int], ...]:
    """Points that a padding layer just before this one in a Sequential adds."""
    found: tuple[tuple[int, int], ...] = getattr(layer, "_opkit_padding", ())
    return found


@register_conversion(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv(layer: Any, scope: Scope) -> nn.Module:
    dim = len(layer.kernel_size)
    pointwise = all(k == 1 for k in layer.kernel_size) and all(q == 1 for q in layer.stride)
    if pointwise and not any(_int_pads(layer)):
        if dim == scope.reference.dim:
            adopt(layer, getattr(kernels, f"KernelConv{dim}d"), scope.context, scope.path)
        scope.note(layer, "pointwise")
        return layer
    if not isinstance(scope.reference, Grid) or dim != scope.reference.dim:
        raise scope.refuse(
            layer,
            f"a kernel over {dim} axes, but the reference is "
            + (
                f"a grid of {scope.reference.dim} axes"
                if isinstance(scope.reference, Grid)
                else "a point cloud: give a reference grid, or use GraphIntegral"
            ),
        )
    is_patch = (
        scope.has_attention
        and all(k == q > 1 for k, q in zip(layer.kernel_size, layer.stride, strict=True))
        and not any(_int_pads(layer))
        and not getattr(layer, "_opkit_padding", ())
    )
    if is_patch:
        if layer.kernel_size != layer.stride or any(d != 1 for d in layer.dilation):
            raise scope.refuse(layer, "patches with a dilation")
        adopt(layer, getattr(integral, f"PatchIntegral{dim}d"), scope.context, scope.path)
        scope.note(layer, "integrals over patches of fixed physical size")
        return layer
    extra = _padding_before(layer, scope)
    adopt(
        layer, getattr(kernels, f"KernelConv{dim}d"), scope.context, scope.path,
        **({"extra_padding": extra} if extra else {}),
    )  # fmt: skip
    scope.note(layer, "integral with a kernel of fixed support")
    return layer


def _int_pads(layer: Any) -> tuple[int, ...]:
    if layer.padding == "valid":
        return (0,)
    if layer.padding == "same":
        return tuple(d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return tuple(layer.padding)


@register_conversion(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _conv_transpose(layer: Any, scope: Scope) -> nn.Module:
    dim = len(layer.kernel_size)
    if not isinstance(scope.reference, Grid) or dim != scope.reference.dim:
        raise scope.refuse(layer, f"a kernel over {dim} axes needs a reference grid of as many")
    adopt(layer, getattr(kernels, f"KernelConvTranspose{dim}d"), scope.context, scope.path)
    scope.note(layer, "expansion in translates of a kernel of fixed support")
    return layer


@register_conversion(nn.GroupNorm)
def _group_norm(layer: nn.Module, scope: Scope) -> nn.Module:
    adopt(layer, norms.WeightedGroupNorm, scope.context, scope.path)
    scope.note(layer, "moments are integrals", scope.context.uniform)
    return layer


@register_conversion(
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip
def _moment_norm(layer: nn.Module, scope: Scope) -> nn.Module:
    dim = int(type(layer).__name__[-2])
    instance = isinstance(layer, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d)
    table = norms.WeightedInstanceNorm if instance else norms.WeightedBatchNorm
    adopt(layer, table[dim], scope.context, scope.path)
    scope.note(layer, "moments are integrals", scope.context.uniform)
    return layer


@register_conversion(nn.LayerNorm)
def _layer_norm(layer: nn.LayerNorm, scope: Scope) -> nn.Module:
    shape, dim = layer.normalized_shape, scope.reference.dim
    if len(shape) == 1:
        scope.note(layer, "pointwise")
        return layer
    if layer.elementwise_affine:
        raise scope.refuse(
            layer, f"weights for single points (normalized_shape={tuple(shape)}); use GroupNorm"
        )
    if len(shape) != dim + 1:
        raise scope.refuse(layer, f"normalized_shape={tuple(shape)} over a part of the axes")
    adopt(layer, norms.WeightedFieldNorm, scope.context, scope.path)
    scope.note(layer, "moments are integrals", scope.context.uniform)
    return layer


@register_conversion(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def _mean_pool(layer: Any, scope: Scope) -> nn.Module:
    return _pool(layer, scope, "Mean", "mean over a window of fixed size")


@register_conversion(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def _max_pool(layer: Any, scope: Scope) -> nn.Module:
    if layer.return_indices:
        raise scope.refuse(layer, "return_indices: numbers of points mean nothing elsewhere")
    return _pool(layer, scope, "Max", "supremum over a window of fixed size")


def _pool(layer: Any, scope: Scope, kind: str, what: str) -> nn.Module:
    dim = int(type(layer).__name__[-2])
    if not isinstance(scope.reference, Grid) or scope.reference.dim != dim:
        raise scope.refuse(layer, f"windows over {dim} axes need a reference grid of as many")
    if layer.ceil_mode or getattr(layer, "divisor_override", None):
        raise scope.refuse(layer, "ceil_mode and divisor_override have no continuous meaning")
    adopt(layer, getattr(pooling, f"{kind}Pool{dim}d"), scope.context, scope.path)
    scope.note(layer, what)
    return layer


_ADAPTIVE = (
    "pooling to a fixed number of values depends on how the grid is cut; use a pool of fixed size, "
    "or register_conversion with your physical meaning"
)


@register_conversion(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _global_mean(layer: Any, scope: Scope) -> nn.Module:
    sizes = layer.output_size if isinstance(layer.output_size, tuple) else (layer.output_size,)
    if any(s != 1 for s in sizes):
        raise scope.refuse(layer, _ADAPTIVE)
    pool = norms.GlobalMean()
    pool.attach(scope.context, scope.path)
    scope.note(layer, "mean over the domain", scope.context.uniform)
    return pool


@register_conversion(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def _upsample(layer: Any, scope: Scope) -> nn.Module:
    if not isinstance(scope.reference, Grid):
        raise scope.refuse(layer, "needs a reference grid")
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[scope.reference.dim]
    if layer.mode not in ("nearest", linear):
        raise scope.refuse(layer, f"mode={layer.mode!r}; use 'nearest' or {linear!r}")
    factor = layer.scale_factor
    if factor is not None:
        factors = factor if isinstance(factor, tuple) else (factor,)
        if any(f != round(f) for f in factors):
            raise scope.refuse(layer, f"scale_factor={factor} is no integer")
    elif layer.size is not None:
        raise scope.refuse(layer, f"size={layer.size} counts points; use scale_factor")
    adopt(layer, pooling.PhysicalUpsample, scope.context, scope.path)
    scope.note(layer, "interpolation with basis functions of fixed width")
    return layer


class _Shuffle(OperatorLayer):
    """Forward of pixel shuffles: a transposed convolution whose taps are single points."""

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, on any grid."""
        self.require_grid()
        scale = self.scale(x.shape[2:])
        if all(s == 1.0 for s in scale):
            out: Tensor = super().forward(x)  # type: ignore[misc]
            return out
        r = int(getattr(self, "upscale_factor", 0) or getattr(self, "downscale_factor", 1))
        axes = self.context.axes
        one = torch.eye(r * r, dtype=x.dtype, device=x.device).reshape(r * r, 1, r, r)
        b, c = x.shape[:2]
        if isinstance(self, nn.PixelShuffle):
            y = kernels.transposed(
                x.reshape(b * c // r**2, r * r, *x.shape[2:]), one, None, scale, axes,
                stride=(r, r), padding=(0, 0), dilation=(1, 1), groups=1, output_padding=(0, 0),
                interpolation=self.context.kernel,
            )  # fmt: skip
            return y.reshape(b, c // r**2, *y.shape[2:])
        conv = kernels.KernelConv2d(
            1, r * r, r, stride=r, bias=False, reference=self.context.reference
        )
        conv.attach(self.context, self.path)
        conv.shapes = self.shapes
        conv = conv.to(x)
        with torch.no_grad():
            conv.weight.copy_(one)
        conv.weight.requires_grad_(False)
        y = conv(x.reshape(b * c, 1, *x.shape[2:]))
        out = y.reshape(b, c * r * r, *y.shape[2:])
        return out


class _PixelShuffle(_Shuffle, nn.PixelShuffle):
    pass


class _PixelUnshuffle(_Shuffle, nn.PixelUnshuffle):
    pass


@register_conversion(nn.PixelShuffle, nn.PixelUnshuffle)
def _shuffle(layer: nn.Module, scope: Scope) -> nn.Module:
    if not isinstance(scope.reference, Grid) or scope.reference.dim != 2:
        raise scope.refuse(layer, "needs a reference grid of two axes")
    adopt(
        layer, _PixelShuffle if isinstance(layer, nn.PixelShuffle) else _PixelUnshuffle,
        scope.context, scope.path,
    )  # fmt: skip
    scope.note(layer, "expansion in interpolation functions of the reference nodes")
    return layer


class GridFlatten(OperatorLayer, nn.Flatten):
    """A field as the vector of its integrals against the hat functions of the reference."""

    def forward(self, x: Tensor) -> Tensor:
        """As torch's; linear layers that follow see as many values as at the reference."""
        ctx = self.context
        dim = ctx.reference.dim if ctx.reference is not None else 0
        whole = self.start_dim == 1 and self.end_dim in (-1, x.ndim - 1)
        if x.ndim == dim + 2 and whole and not ctx.fixed:
            self.scale(x.shape[2:])  # notes the shape at the reference
            if not ctx.at_reference:
                self.require_grid()
                assert isinstance(ctx.reference, Grid)
                coarse = next(iter(self.shapes))
                if math.prod(coarse) > 1:  # else one value for the whole domain
                    here = ctx.reference.resized(tuple(x.shape[2:]))
                    x = restrict(x, here, ctx.reference.resized(coarse))
            ctx.fixed = True
        return super().forward(x)


@register_conversion(nn.Flatten)
def _flatten(layer: nn.Flatten, scope: Scope) -> nn.Module:
    if not isinstance(scope.reference, Grid):
        raise scope.refuse(layer, "a vector of point values needs a reference grid")
    adopt(layer, GridFlatten, scope.context, scope.path)
    scope.note(layer, "integrals against the hat functions of the reference")
    return layer


@register_conversion(nn.MultiheadAttention)
def _attention(layer: nn.MultiheadAttention, scope: Scope) -> nn.Module:
    adopt(layer, WeightedMultiheadAttention, scope.context, scope.path)
    noisy = layer.dropout > 0
    layer.dropout = 0.0
    scope.note(
        layer, "normalized integral", scope.context.uniform,
        "dropout of single weights taken out" if noisy else "",
    )  # fmt: skip
    return layer


class ChannelDropout(OperatorLayer, nn.Dropout):
    """Drops channels of a sample, not points: noise of single points has no limit."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (B, C, *n), (B, N, C), the nodes of graphs (N, C), or (B, C)."""
        ctx = self.context
        nodes = ctx.graph is not None and x.ndim == 2 and len(x) == len(ctx.graph.weights)
        if not self.training or self.p == 0.0 or (x.ndim < 3 and not nodes):
            return super().forward(x)
        if nodes:
            assert ctx.graph is not None
            b, p = ctx.graph.shape
            kept = F.dropout(x.new_ones(b, 1, x.shape[1]), self.p, True)
            return x * kept.expand(b, p, -1).reshape(x.shape)
        tokens = x.ndim == 3 and (ctx.reference is None or ctx.reference.dim > 1 or (
            x.shape[2] != ctx.n_points and x.shape[1] == ctx.n_points
        ))  # fmt: skip
        shape = (x.shape[0], 1, x.shape[2]) if tokens else (*x.shape[:2], *(1,) * (x.ndim - 2))
        return x * F.dropout(x.new_ones(shape), self.p, True)


@register_conversion(nn.Dropout)
def _dropout(layer: nn.Dropout, scope: Scope) -> nn.Module:
    adopt(layer, ChannelDropout, scope.context, scope.path)
    scope.note(layer, "dropout of channels", layer.p == 0.0, "the network drops single points")
    return layer


def _refuse(reason: str, *names: str) -> None:
    types = [getattr(nn, n) for n in names if hasattr(nn, n)]

    @register_conversion(*types)
    def _(layer: nn.Module, scope: Scope) -> nn.Module:
        raise scope.refuse(layer, reason)


_refuse(
    "recurrence from point to point has no limit as the grid is refined",
    "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell",
)  # fmt: skip
_refuse("numbers of points mean nothing on another grid", "Embedding", "EmbeddingBag",
        "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d")  # fmt: skip
_refuse("cuts the grid by numbers of points", "Fold", "Unfold", "FractionalMaxPool2d",
        "FractionalMaxPool3d", "LPPool1d", "LPPool2d", "LPPool3d")  # fmt: skip
_refuse("noise of single points has no limit; use Dropout or FeatureAlphaDropout", "AlphaDropout")
_refuse(
    "padding outside of a convolution; set padding and padding_mode of the convolution, or put the "
    "padding layer just before it in a Sequential",
    *[f"{k}Pad{d}d" for k in ("Zero", "Constant", "Reflection", "Replication", "Circular")
      for d in (1, 2, 3)],
)  # fmt: skip

_PADS = {
    "Zero": "zeros",
    "Reflection": "reflect",
    "Replication": "replicate",
    "Circular": "circular",
}


def _fuse_padding(module: nn.Sequential, path: str, rows: list[LayerReport]) -> None:
    """Hand padding layers over to the convolutions after them."""
    names = list(module._modules)
    for name, after in itertools.pairwise(names):
        pad, conv = module._modules[name], module._modules[after]
        kind = type(pad).__name__
        stem = kind[:-5] if kind[-5:-2] == "Pad" else ""
        if stem not in _PADS or type(conv) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            continue
        assert isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d) and pad is not None
        if any(_int_pads(conv)):
            continue
        flat: Any = pad.padding
        dim = len(conv.kernel_size)
        flat = (flat,) * (2 * dim) if isinstance(flat, int) else tuple(flat)
        pairs = tuple((flat[2 * d], flat[2 * d + 1]) for d in reversed(range(dim)))
        object.__setattr__(conv, "_opkit_padding", pairs)
        object.__setattr__(conv, "padding_mode", _PADS[stem])
        module._modules[name] = nn.Identity()
        where = f"{path}.{name}" if path else name
        rows.append(LayerReport(where, kind, "done by the convolution after it"))


# -- the walk --------------------------------------------------------------------------------------


def _base_type(layer: nn.Module) -> tuple[type | None, bool]:
    """Find the registered type of a layer, and whether its class computes something else."""
    kind = type(layer)
    if getattr(layer, "parametrizations", None) is not None:
        kind = kind.__mro__[1]  # the class before torch's parametrization
    if kind in _CONVERSIONS:
        return kind, False
    for base in kind.__mro__[1:]:
        if base in _CONVERSIONS:
            names = ("forward", "_conv_forward")
            own = any(getattr(kind, n, None) is not getattr(base, n, None) for n in names)
            return base, own
    return None, False


def _trusted(layer: nn.Module) -> nn.Module:
    """Mark a layer whose conversion says what it means: its forward is not looked into."""
    object.__setattr__(layer, "_opkit_trusted", True)
    return layer


class _Walk:
    def __init__(
        self,
        context: Context,
        reference: Geometry,
        registry: Mapping[Any, Any],
        strict: bool,
        antialias: int,
        has_attention: bool,
    ) -> None:
        self.context, self.reference = context, reference
        self.registry, self.strict, self.antialias = registry, strict, antialias
        self.has_attention = has_attention
        self.done: dict[int, nn.Module] = {}
        self.rows: list[LayerReport] = []

    def visit(self, layer: nn.Module, path: str, parent: nn.Module | None) -> nn.Module:
        """Convert a layer and what is in it; the same layer twice becomes the same operator."""
        if id(layer) in self.done:
            return self.done[id(layer)]
        scope = Scope(
            path, self.context, self.reference, self.has_attention, parent, self.antialias,
            self.rows,
        )  # fmt: skip
        try:
            new = self._convert(layer, scope)
        except UnsupportedLayerError as e:
            if self.strict:
                raise
            warnings.warn(f"kept as it is: {e}", ConversionWarning, stacklevel=4)
            scope.note(layer, "none", True, e.reason)
            new = layer
        self.done[id(layer)] = new
        self.done[id(new)] = new
        return new

    def _convert(self, layer: nn.Module, scope: Scope) -> nn.Module:
        own = self.registry.get(scope.path, self.registry.get(type(layer)))
        if callable(own):
            return _trusted(own(layer, scope))
        if isinstance(layer, OperatorLayer):
            layer.attach(self.context, scope.path)
            scope.note(layer, "an operator already")
            return layer
        kind, changed = _base_type(layer)
        if type(layer).__module__.startswith("torch_geometric.nn.pool"):
            raise scope.refuse(layer, "picks or joins points, other ones on other points")
        if kind is None and is_message_passing(layer):
            layer = convert_message_passing(layer, scope)
        if kind is not None:
            if changed:
                raise scope.refuse(
                    layer, f"a subclass of {kind.__name__} with a forward of its own; "
                    "register_conversion says what it means"
                )  # fmt: skip
            return _trusted(_CONVERSIONS[kind](layer, scope))
        if isinstance(layer, nn.Sequential):
            _fuse_padding(layer, scope.path, self.rows)
        if not layer._modules and type(layer).__module__.split(".")[0] == "torch":
            containers = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
            if not isinstance(layer, (*containers, nn.Sequential)):
                raise scope.refuse(layer, "no conversion is known; see register_conversion")
        for name, child in list(layer._modules.items()):
            if child is None:
                continue
            path = f"{scope.path}.{name}" if scope.path else name
            layer._modules[name] = self.visit(child, path, layer)
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0  # the fused kernel would pass the attention by
        return layer


# -- functions called in a forward -----------------------------------------------------------------

_CALLS = {
    "interpolate": "use nn.Upsample",
    "pad": "use padding and padding_mode of the convolution",
    "unfold": "cuts the grid by numbers of points",
    "fold": "cuts the grid by numbers of points",
    "roll": "shifts by a number of points",
    "grid_sample": "samples by its own rule of coordinates; use resample",
    "pixel_shuffle": "use nn.PixelShuffle",
    "pixel_unshuffle": "use nn.PixelUnshuffle",
    "max_pool": "use nn.MaxPool",
    "avg_pool": "use nn.AvgPool",
    "adaptive": "use nn.AdaptiveAvgPool with output size 1",
    "conv": "use nn.Conv or register_conversion",
    "batch_norm": "use nn.BatchNorm",
    "instance_norm": "use nn.InstanceNorm",
    "group_norm": "use nn.GroupNorm",
}
_EXACT_CALLS = ("interpolate", "pad", "unfold", "fold", "roll", "grid_sample", "pixel_shuffle",
                "pixel_unshuffle", "batch_norm", "instance_norm", "group_norm")  # fmt: skip


def _call_reason(name: str) -> str:
    if name in _EXACT_CALLS:
        return _CALLS[name]
    for stem in ("max_pool", "avg_pool", "adaptive", "conv"):
        if name.startswith(stem) and name[-2:] in ("1d", "2d", "3d"):
            return _CALLS[stem]
    return ""


class _Guard(TorchFunctionMode):
    """Watches a run at the reference for functions that depend on the grid."""

    def __init__(self, owner: OperatorModule, strict: bool) -> None:
        super().__init__()
        self.owner, self.strict = owner, strict
        self.stack: list[tuple[str, nn.Module]] = []
        self.found: dict[tuple[str, str], str] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        path, layer = self.stack[-1] if self.stack else ("", self.owner.network)
        kind = type(layer).__module__.split(".")[0]
        known = isinstance(layer, OperatorLayer) or getattr(layer, "_opkit_trusted", False)
        if kind != "torch" and not known:
            self._look(path, layer, func, args, kwargs or {}, out)
        return out

    def _look(
        self, path: str, layer: nn.Module, func: Any, args: Any, kwargs: Any, out: Any
    ) -> None:
        ctx = self.owner.context
        name = getattr(func, "__name__", "")
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if ctx.fixed or x is None or ctx.reference is None:
            return
        dim, n = ctx.reference.dim, ctx.n_points
        if name == "dropout" and kwargs.get("p", args[1] if len(args) > 1 else 0.5) > 0:
            self._report(path, layer, "calls dropout: drops single points; use nn.Dropout")
        elif reason := _call_reason(name):
            self._report(path, layer, f"calls {name}: {reason}")
        elif name == "scaled_dot_product_attention":
            self.owner._weigh_attention = True
        elif name == "softmax":
            axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            if isinstance(axis, int) and x.shape[axis] >= n > 1:
                if not ctx.uniform or isinstance(ctx.reference, Mesh):
                    self._report(
                        path, layer, "softmax over points that weigh differently; use "
                        "scaled_dot_product_attention or MultiheadAttention"
                    )  # fmt: skip
                self.owner._equal_weights_only = path
        elif name in ("flatten", "view", "reshape") and isinstance(out, Tensor):
            spatial = math.prod(x.shape[2:])
            if x.ndim == dim + 2 and out.ndim == 2 and spatial > 1 and len(out) == len(x):
                self._report(path, layer, f"{name} of a field to a vector; use nn.Flatten()")
        elif name in ("mean", "sum") and isinstance(out, Tensor) and x.ndim == dim + 2:
            axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
            axes = (axes,) if isinstance(axes, int) else axes
            covers = axes is None or {a % x.ndim for a in axes} >= set(range(2, x.ndim))
            if covers and math.prod(x.shape[2:]) > 1 and (name == "sum" or not ctx.uniform):
                self._report(
                    path, layer, f"{name} over points without their weights; use "
                    "nn.AdaptiveAvgPool with output size 1"
                )  # fmt: skip

    def _report(self, path: str, layer: nn.Module, reason: str) -> None:
        self.found.setdefault((path, reason), type(layer).__name__)
        if self.strict:
            raise UnsupportedLayerError(path, type(layer).__name__, reason)


class _WeighAttention(TorchFunctionMode):
    """Adds the points' weights to attention that is called as a function."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.multi_head_attention_forward:
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
            q, k = kwargs["query"], kwargs["key"]
            ctx = self.context
            bias = attention_bias(ctx.density, ctx.n_points, k.shape[-2], ctx.fixed)
            if bias is not None:
                bias = bias.to(q)
                if bias.ndim == 2:
                    bias = bias.reshape(len(bias), *(1,) * (q.ndim - 3), 1, -1)
                whole = bias.expand(*q.shape[:-1], k.shape[-2])
                mask = kwargs.get("attn_mask")
                if mask is not None and mask.dtype == torch.bool:
                    whole = whole.masked_fill(~mask, -math.inf)
                elif mask is not None:
                    whole = whole + mask
                kwargs["attn_mask"] = whole
            return func(**kwargs)
        return func(*args, **kwargs)


# -- the result ------------------------------------------------------------------------------------


class OperatorModule(nn.Module):
    """A network whose layers are operators; made by `to_operator`.

    Parameters, buffers and submodules are those of the network, under their names, so that
    ``state_dict`` goes both ways.

    Attributes
    ----------
    reference : Grid or Mesh
    network : nn.Module
        The converted network; at the reference it computes what the original does.
    """

    context: Context
    network: nn.Module

    def __init__(
        self, network: nn.Module, context: Context, rows: Sequence[LayerReport], strict: bool
    ) -> None:
        super().__init__()
        hold = self.__dict__
        hold["network"] = network  # not a submodule: its parts are this module's own
        hold["context"] = context
        self._rows = list(rows)
        self._strict = strict
        for name in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            hold[name] = getattr(network, name)
        self._tables: dict[str, str] = {}
        self._form = "field"
        self._in_channels: int | None = None
        self._out_shape: tuple[int, ...] = ()
        self._weigh_attention = False
        self._equal_weights_only = ""
        self._graph: GraphForm | None = None
        self.training = network.training

    @property
    def reference(self) -> Geometry:
        """Where the operator is the network."""
        assert self.context.reference is not None
        return self.context.reference

    def train(self, mode: bool = True) -> Self:
        """Set training mode."""
        super().train(mode)
        self.network.training = mode
        return self

    def report(self) -> list[LayerReport]:
        """Layer by layer: what it became, and whether it is exact at the reference."""
        return list(self._rows)

    def forward(
        self,
        f: Tensor,
        grid: Geometry | None = None,
        query: Geometry | None = None,
        *,
        points: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Any:
        """Apply the operator.

        Parameters
        ----------
        f : Tensor
            As the network takes it, on other points: ``(B, C, *n)``, tokens ``(B, N, C)``, or
            values ``(B, n)``; on a point cloud ``(B, C, P)`` or ``(B, P, C)``.
        grid : Grid or Mesh, optional
            Of `f`. Default the reference's domain with as many points as `f` has.
        query : Grid or Mesh, optional
            Where the output is wanted; default where `f` is. Interpolated multilinearly.
        points : Tensor, shape (P, D) or (B, P, D), optional
            In place of `grid`: coordinates, with `weights` of shape (P,) or (B, P); weight 0 for
            points that only fill up a batch.

        Raises
        ------
        ValueError
            Another domain or layout than the reference's, shapes that do not fit, a kernel whose
            support holds fewer than two points, weights that are negative or do not add up to
            the measure.
        """
        ctx = self.context
        self._check_axes(f)
        try:
            if points is not None:
                self._enter_cloud(points, weights)
            else:
                ctx.enter(self._geometry(f, grid))
            if self._equal_weights_only and ctx.density is not None:
                d = ctx.density
                if float(d.max() - d.min()) > 1e-9 * float(d.max()):
                    raise ValueError(
                        f"grid: {self._equal_weights_only or 'the module'} takes a softmax over "
                        "points, which is an integral only where they weigh alike; use "
                        "scaled_dot_product_attention"
                    )
            if ctx.density is not None:
                ctx.density = ctx.density.to(f.device)
            try:
                y = self._run(f)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, AssertionError, IndexError, TypeError) as e:
                if self._form != "flat" and f.shape[self._channel_axis] != self._in_channels:
                    raise ValueError(self._expected(f)) from e
                if ctx.at_reference or not isinstance(ctx.target, Grid):
                    raise
                path, kind, line = self._origin(e)
                where = f"{path or 'the module itself'} ({kind})"
                raise ValueError(
                    f"f has shape {tuple(f.shape)}: {where} does not take it ({line})"
                ) from e
            return self._deliver(y, query)
        finally:
            ctx.reset()

    @property
    def _channel_axis(self) -> int:
        return 1 if self._form == "field" else 2

    def _check_axes(self, f: Tensor) -> None:
        """Raise if `f` has another number of axes than the network takes."""
        space = self.reference.dim if isinstance(self.reference, Grid) else 1
        on_points = isinstance(self.reference, Grid) and self._form == "field" and f.ndim == 3
        axes = {"field": 2 + space, "tokens": 3, "flat": 1 + space}[self._form]
        if f.ndim != axes and not on_points:
            raise ValueError(self._expected(f))

    def _origin(self, error: BaseException) -> tuple[str, str, str]:
        """Path and type of the layer that an exception comes from, and its first line."""
        layer = _raised_in(error, self)
        path = next((p for p, m in self.named_modules() if m is layer), "")
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return path, type(layer).__name__, line

    def _expected(self, f: Tensor) -> str:
        space = ["points"]
        if isinstance(self.reference, Grid):
            space = [f"n{d + 1}" for d in range(self.reference.dim)]
        c = [] if self._in_channels is None else [str(self._in_channels)]
        axes = {"field": [*c, *space], "tokens": ["points", *c], "flat": space}[self._form]
        return (
            f"f has shape {tuple(f.shape)}, expected (batch, {', '.join(axes)}): this operator "
            + (f"takes in_channels={c[0]}" if c else "takes values without channels")
        )

    def _geometry(self, f: Tensor, given: Geometry | None) -> Geometry:
        reference = self.reference
        if given is None and isinstance(reference, Grid):
            dim = reference.dim
            shape = tuple(f.shape[2:]) if self._form == "field" else ()
            if self._form == "flat":
                shape = tuple(f.shape[1:])
            if self._form == "tokens":
                n = f.shape[1]
                side = round(n ** (1 / dim))
                if n == math.prod(reference.shape):
                    shape = reference.shape
                elif dim == 1 or (side**dim == n and len(set(reference.shape)) == 1):
                    shape = (side,) * dim if dim > 1 else (n,)
                else:
                    raise ValueError(f"grid: {n} points of a grid of {dim} axes; say which grid")
            if len(shape) != dim:
                raise ValueError(
                    f"f has shape {tuple(f.shape)}, expected {dim} axes of points; the reference "
                    f"has {reference.shape}"
                )
            return reference.resized(shape)
        geometry = reference if given is None else given
        if not isinstance(geometry, Grid | Mesh):
            raise ValueError(f"grid={given!r}: need a Grid or a Mesh")
        have = f.shape[1] if self._form == "tokens" else f.shape[-1]
        if isinstance(geometry, Mesh):
            if have != geometry.n_points:
                raise ValueError(f"f has {have} points, the point cloud {geometry.n_points}")
            cloud_weights(
                torch.as_tensor(geometry.points), torch.as_tensor(geometry.point_weights),
                self._measure(),
            )  # fmt: skip
        else:
            given_shape = {"field": f.shape[2:], "flat": f.shape[1:]}.get(self._form)
            if given_shape is not None and tuple(given_shape) != geometry.shape:
                raise ValueError(f"f has shape {tuple(f.shape)}, the grid {geometry.shape}")
            if self._form == "tokens" and have != math.prod(geometry.shape):
                raise ValueError(f"f has {have} points, the grid {geometry.shape}")
        return geometry

    def _measure(self) -> float | None:
        """Measure of the domain, where the reference knows it: a grid."""
        reference = self.reference
        if isinstance(reference, Grid):
            return math.prod(b - a for a, b in reference.bounds)
        return None

    def _enter_cloud(self, points: Tensor, weights: Tensor | None) -> None:
        ctx = self.context
        w = cloud_weights(points, weights, self._measure())
        ctx.reset()
        ctx.cloud = Cloud(points, w)
        ctx.target = None
        ctx.n_points = points.shape[-2]
        ctx.density = w / ctx.mean_weight

    def _run(self, f: Tensor) -> Any:
        ctx = self.context
        if self._graph is not None:
            return self._graph.run(self.network, f, ctx)
        if self._form == "flat" and not ctx.at_reference:
            assert isinstance(ctx.reference, Grid) and ctx.target is not None
            f = restrict(f, ctx.target, ctx.reference)
            ctx.fixed = True
        elif self._form == "flat":
            ctx.fixed = True
        at_home = ctx.at_reference and isinstance(ctx.target, Grid) and not ctx.fixed
        tables = {}
        if self._tables and not at_home and not ctx.fixed:
            values: dict[str, Tensor] = dict(self.named_parameters(remove_duplicate=False))
            values |= dict(self.named_buffers(remove_duplicate=False))
            tables = {
                name: expand_table(values[name], layout, ctx)
                for name, layout in self._tables.items()
            }
        with _WeighAttention(ctx) if self._weigh_attention and ctx.density is not None else _none():
            if tables:
                return torch.func.functional_call(self.network, tables, (f,))
            return self.network(f)

    def _deliver(self, y: Any, query: Geometry | None) -> Any:
        """Bring an output to the grid where it is wanted."""
        ctx, reference = self.context, self.reference
        if not isinstance(y, Tensor):
            return y
        here: Any = ctx.cloud if ctx.cloud is not None else ctx.target
        if ctx.fixed and isinstance(reference, Grid) and tuple(y.shape[1:]) == self._out_shape:
            n = reference.shape
            target = here if query is None else query
            if tuple(y.shape[2:]) == n or (self._form == "flat" and tuple(y.shape[1:]) == n):
                return y if target is reference else expand(y, reference, target)
            if y.ndim == 3 and y.shape[1] == math.prod(n):
                g = y.transpose(1, 2).unflatten(2, n)
                return expand(g, reference, target).flatten(2).transpose(1, 2)
            return y
        if query is None or query is here:
            return y
        if not isinstance(here, Grid):
            raise ValueError("query: the output lives on a point cloud; it is not interpolated")
        if self._form == "tokens":
            g = y.transpose(1, 2).unflatten(2, here.shape)
            out = _to(g, here, query)
            return out.flatten(2).transpose(1, 2)
        return _to(y, here, query)


def _to(g: Tensor, here: Grid, query: Geometry) -> Tensor:
    return resample(g, here, query.points if isinstance(query, Mesh) else query, "linear")


@contextmanager
def _none() -> Iterator[None]:
    yield


def to_operator(
    module: nn.Module,
    *,
    reference: Geometry | Sequence[int] | int,
    domain: Sequence[tuple[float, float]] | None = None,
    boundary: Layout | Sequence[Layout] | None = None,
    registry: Mapping[Any, Conversion | str] | None = None,
    strict: bool = True,
    antialias: int = 1,
    interpolation: Literal["linear", "cubic"] = "cubic",
    rule: Rule = "auto",
    example: Tensor | Sequence[int] | None = None,
    radius: float | None = None,
    edge_features: EdgeFeatures | None = None,
) -> OperatorModule:
    """Turn a neural network into a neural operator with the same weights.

    Every layer becomes a discretization of an operator between function spaces: sums over points
    become quadrature, receptive fields keep their physical size. At the reference grid the result
    is the network, on other grids it converges as they are refined.

    Parameters
    ----------
    module : nn.Module
        Left as it is; the result works on a copy.
    reference : Grid, Mesh, or shape
        Where the module was trained. With a shape, `domain` and `boundary` say the rest.
    domain : sequence of (float, float), optional
        Ends of each axis, default 0 and 1.
    boundary : {"vertex", "cell", "periodic"}, or one an axis, optional
        Layout of the points, default ``"vertex"``.
    registry : mapping, optional
        Own conversions by layer type or by path in the module; see `register_conversion`. For
        a parameter or buffer: ``"table"`` (a function of position, interpolated on other
        grids) or ``"finite"`` (no function).
    strict : bool
        Raise on layers without a continuous analogue; else keep them and warn.
    antialias : int
        Activations work on a grid so many times finer, and their high modes are cut.
    interpolation : {"linear", "cubic"}
        What kernels are between their taps: the exact symbol is known for linear ones; cubic ones
        stay closer to the network on finer grids, see `kernels.taps`.
    rule : str
        Of the quadrature, see `quadrature_weights`. ``"uniform"`` reproduces the network exactly on
        vertex grids too, at first order.
    example : Tensor or shape, optional
        An input at the reference, if it cannot be guessed; a shape without the batch axis.
    radius : float, optional
        Of networks of torch-geometric: neighbors are the points within it. The operator takes
        values ``(B, P, C)`` and makes the graph of any points itself.
    edge_features : mapping, optional
        Of such networks: name of an argument of the network's ``forward`` (as ``"edge_attr"``) and
        a function that makes it of the offsets (E, D) from target to source.

    Returns
    -------
    OperatorModule

    Raises
    ------
    UnsupportedLayerError
        Names the path, the type and the reason.
    ValueError
        No input can be guessed, or values that do not fit.

    References
    ----------
    .. [1] Berner et al., "Principled approaches for extending neural architectures to function
       spaces for operator learning", arXiv:2506.10973 (2025).

    Examples
    --------
    >>> net = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    >>> op = to_operator(net, reference=(32, 32), boundary="periodic")
    >>> op(torch.zeros(1, 1, 96, 96)).shape
    torch.Size([1, 1, 96, 96])
    """
    if not isinstance(reference, Grid | Mesh):
        reference = grid(reference, domain, layout=boundary or "vertex")
    elif domain is not None or boundary is not None:
        raise ValueError("domain and boundary go with a reference that is a shape")
    if isinstance(antialias, bool) or int(antialias) != antialias or antialias < 1:
        raise ValueError(f"antialias={antialias}: need an integer >= 1")
    if interpolation not in ("linear", "cubic"):
        raise ValueError(f"interpolation={interpolation!r}: allowed are linear, cubic")
    graph = any(is_message_passing(m) for m in module.modules())
    if not graph and (radius is not None or edge_features is not None):
        raise ValueError("radius and edge_features go with networks of torch-geometric")
    if graph and radius is None:
        raise ValueError(
            "radius=None: a network of torch-geometric needs the radius of the graph it was "
            "trained on; neighbors in a mesh and nearest neighbors make no ball"
        )
    network = copy.deepcopy(module)
    context = Context(reference, rule, kernel=interpolation, managed=True)
    attention = any(
        isinstance(m, nn.MultiheadAttention) or "attention" in type(m).__name__.lower()
        for m in network.modules()
    )
    walk = _Walk(context, reference, registry or {}, strict, int(antialias), attention)
    network = walk.visit(network, "", None)
    operator = OperatorModule(network, context, walk.rows, strict)
    if graph:
        operator._graph = GraphForm(network, float(radius or 0), edge_features or {})
    _find_tables(operator, registry or {}, strict)
    shape = _dry_run(operator, example, strict)
    if operator._form != "flat":
        operator._in_channels = shape[0 if operator._form == "field" else -1]
    if operator._graph is not None and strict:
        check_splitting(operator, operator._graph, shape[-1])
    if strict and isinstance(reference, Grid) and not graph:
        if not getattr(module, "ready_made", False):
            _try_finer(operator, reference, shape)
    return operator


def _try_finer(op: OperatorModule, reference: Grid, shape: tuple[int, ...]) -> None:
    """Run the operator once where the first axis has twice the points: a network may say no."""
    first = reference.axes[0]
    fine = Grid((first.resized(2 * first.n - is_closed(first)), *reference.axes[1:]))
    size = {
        "field": (shape[0], *fine.shape),
        "tokens": (math.prod(fine.shape), shape[-1]),
        "flat": fine.shape,
    }[op._form]
    like = next((p for p in op.parameters() if p.is_floating_point()), torch.zeros(()))
    modes = [(m, m.training) for m in (op.network, *op.network.modules())]
    op.eval()
    try:
        with torch.no_grad():
            op(torch.zeros(1, *size, dtype=like.dtype, device=like.device), fine)
    except UnsupportedLayerError:
        raise
    except ValueError as e:
        path, kind, line = op._origin(e.__cause__ or e)
        raise UnsupportedLayerError(
            path, kind, f"does not take {' x '.join(map(str, fine.shape))} points, the reference "
            f"has {' x '.join(map(str, reference.shape))} ({line})",
        ) from e  # fmt: skip
    finally:
        for m, mode in modes:
            m.training = mode
        op.training = op.network.training


def _raised_in(error: BaseException, op: OperatorModule) -> nn.Module:
    """Find the innermost module of the operator that an exception has come through."""
    known = {id(m) for m in op.modules()}
    found: nn.Module = op.network
    trace = error.__traceback__
    while trace is not None:
        m = trace.tb_frame.f_locals.get("self")
        if isinstance(m, nn.Module) and m is not op and id(m) in known:
            found = m
        trace = trace.tb_next
    return found


def _find_tables(op: OperatorModule, registry: Mapping[Any, Any], strict: bool) -> None:
    """Find parameters that are functions of position."""
    reference = op.reference
    if not isinstance(reference, Grid):
        return
    for path, layer in op.named_modules():
        own = op.network if path == "" else layer
        if type(own).__module__.split(".")[0] == "torch" or isinstance(own, OperatorLayer):
            continue
        values = [*own._parameters.items(), *own._buffers.items()]
        for name, value in values:
            full = f"{path}.{name}" if path else name
            said = registry.get(full)
            layout = "" if value is None else table_layout(value.shape, reference)
            if said == "finite" or (not layout and said is None):
                continue
            if not layout:
                shape = () if value is None else tuple(value.shape)
                raise ValueError(
                    f"registry: {full!r} has shape {shape}, no function on the reference's "
                    f"{reference.shape}"
                )
            likely = any(s in name.lower() for s in ("pos", "table", "grid", "coord", "embed"))
            if said != "table" and not likely:
                error = UnsupportedLayerError(
                    full, "parameter", f"has the reference's shape {tuple(value.shape)}; say "
                    f"registry={{{full!r}: 'table'}} if it is a function of position, or 'finite'",
                )  # fmt: skip
                if strict:
                    raise error
                warnings.warn(str(error), ConversionWarning, stacklevel=3)
                continue
            op._tables[full] = layout
            op._rows.append(LayerReport(full, "parameter", "function, interpolated"))


def _candidates(op: OperatorModule) -> list[tuple[str, tuple[int, ...]]]:
    """Forms and shapes (without batch) that the network's input may have at the reference."""
    reference = op.reference
    n = math.prod(reference.shape) if isinstance(reference, Grid) else reference.n_points
    space = reference.shape if isinstance(reference, Grid) else (n,)
    dim = reference.dim
    out: list[tuple[str, tuple[int, ...]]] = []

    def field(*channels: int) -> None:
        out.extend(("field", (c, *space)) for c in channels if c > 0)

    def tokens(*channels: int) -> None:
        out.extend(("tokens", (n, c)) for c in channels if c > 0)

    if op._graph is not None:
        sizes: list[int] = []
        for layer in op.network.modules():
            for name in ("in_channels", "in_features"):
                size = getattr(layer, name, None)
                sizes += [size] if isinstance(size, int) and size not in sizes else []
        tokens(*sizes, *(s - dim for s in sizes if s - dim not in sizes))
        return out
    for layer in op.network.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            field(layer.in_channels, layer.in_channels - dim, layer.in_channels - 2 * dim)
            break
        if isinstance(layer, nn.GroupNorm | nn.InstanceNorm1d | nn.InstanceNorm2d):
            field(getattr(layer, "num_channels", 0) or getattr(layer, "num_features", 0))
            break
        if isinstance(layer, nn.Linear):
            size = layer.in_features
            if size % n == 0:
                field(size // n)
            if size == n and isinstance(reference, Grid):
                out.append(("flat", reference.shape))
            tokens(size, size - dim, size - 2 * dim)
            field(size)
            break
        if isinstance(layer, nn.LayerNorm):
            tokens(layer.normalized_shape[-1])
            break
        if isinstance(layer, nn.MultiheadAttention):
            tokens(layer.embed_dim)
            break
    field(1, 2, 3)
    return out


def _dry_run(op: OperatorModule, example: Any, strict: bool) -> tuple[int, ...]:
    """Run the operator once at the reference: note shapes, and functions that are called.

    Returns the shape of the input, without the batch.
    """
    reference, ctx = op.reference, op.context
    first = next((p for p in op.parameters() if p.is_floating_point()), torch.zeros(()))
    if example is None:
        tries = _candidates(op)
    else:
        shape = tuple(example.shape[1:]) if isinstance(example, Tensor) else tuple(example)
        n = math.prod(reference.shape) if isinstance(reference, Grid) else reference.n_points
        space = reference.shape if isinstance(reference, Grid) else (n,)
        if shape == space:
            form = "flat"
        elif len(shape) == 1 + len(space) and shape[1:] == space:
            form = "field"
        elif len(shape) == 2 and shape[0] == n:
            form = "tokens"
        else:
            raise ValueError(
                f"example has shape {shape} (without the batch), expected (channels, "
                f"{', '.join(map(str, space))}) or ({n}, channels): the reference has these points"
            )
        tries = [(form, shape)]
    paths = {id(m): p for p, m in op.named_modules()}
    paths[id(op.network)] = ""
    was_training = op.training
    modes = {id(m): m.training for m in op.modules()}
    failure: Exception | None = None
    ctx.dry = True
    op.eval()
    try:
        for form, shape in tries:
            guard = _Guard(op, strict)
            handles = []
            for m in {id(m): m for m in [op.network, *op.network.modules()]}.values():
                if m is op:
                    continue
                handles.append(m.register_forward_pre_hook(_push(guard, paths.get(id(m), ""))))
                handles.append(m.register_forward_hook(_pop(guard), always_call=True))
            x = torch.zeros(1, *shape, dtype=first.dtype, device=first.device)
            op._form = form
            ctx.enter(reference)
            try:
                with torch.no_grad(), guard:
                    y = op._run(x)
            except UnsupportedLayerError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError) as e:
                failure = failure or e
                continue
            finally:
                for h in handles:
                    h.remove()
                ctx.reset()
            op._out_shape = tuple(y.shape[1:]) if isinstance(y, Tensor) else ()
            for (path, reason), kind in guard.found.items():
                warnings.warn(
                    f"kept as it is: {UnsupportedLayerError(path, kind, reason)}",
                    ConversionWarning, stacklevel=3,
                )  # fmt: skip
                op._rows.append(LayerReport(path, kind, "none", True, reason))
            return shape
    finally:
        ctx.dry = False
        op.train(was_training)
        for m in op.modules():
            m.training = modes.get(id(m), was_training)
    line = str(failure).strip().splitlines()[0] if failure is not None else "no layer to ask"
    raise ValueError(
        f"example: the module does not take {' or '.join(str(s) for _, s in tries[:3])} at the "
        f"reference ({line}); give example=(channels, *shape)"
    )


def _push(guard: _Guard, path: str) -> Any:
    def hook(module: nn.Module, args: Any) -> None:
        guard.stack.append((path, module))

    return hook


def _pop(guard: _Guard) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        guard.stack.pop()

    return hook
