"""What converted layers know of the grid that a call is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from solvers.grids import Axis, Grid
from solvers.meshes import Mesh

from .geometry import Geometry, Rule, is_closed, quadrature_weights, same_domain, scale_of

if TYPE_CHECKING:
    from .message_passing import GraphCall

__all__ = ["Context", "OperatorLayer", "spatial_weights"]


class Context:
    """The reference of a conversion and the grid of the present call; shared by its layers.

    Parameters
    ----------
    reference : Grid or Mesh
        Where the weights are those of the network.
    rule : str
        Of the quadrature, see `quadrature_weights`.
    kernel : {"linear", "cubic"}
        What kernels are between their taps, see `kernels.taps`.

    Attributes
    ----------
    scale : tuple of float
        Reference spacing over present spacing, per axis.
    fixed : bool
        A layer of this call has gone over to a number of points that does not depend on the
        grid, as the patches of a vision transformer.
    cloud : Cloud or None
        Points and weights, where the present geometry is no grid.
    graph : GraphCall or None
        Of a network of torch-geometric.
    density : Tensor or None
        Quadrature weights of the present points over the mean weight of the reference, (N,) or
        (B, N); None where they are all 1.
    managed : bool
        Set by an `OperatorModule`; else layers look at the shape of their input.
    """

    def __init__(
        self,
        reference: Geometry | None,
        rule: Rule = "auto",
        *,
        kernel: Literal["linear", "cubic"] = "linear",
        managed: bool = False,
    ) -> None:
        self.reference, self.rule, self.managed = reference, rule, managed
        self.kernel = kernel
        self.dry = False
        #: Count points of whatever grid, as networks do.
        self.frozen = False
        self.reset()

    def reset(self) -> None:
        """Go back to the reference."""
        dim = self.reference.dim if self.reference is not None else 0
        self.scale: tuple[float, ...] = (1.0,) * dim
        self.fixed = False
        self.cloud: Cloud | None = None
        self.graph: GraphCall | None = None
        self.density: Tensor | None = None
        self.n_points = 0
        self.target: Geometry | None = self.reference

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Axes of the reference grid."""
        return self.reference.axes if isinstance(self.reference, Grid) else ()

    @property
    def at_reference(self) -> bool:
        """Whether the present grid is the reference."""
        return self.cloud is None and all(s == 1.0 for s in self.scale)

    @property
    def uniform(self) -> bool:
        """Whether all points of a grid weigh the same."""
        return self.rule == "uniform" or not any(is_closed(a) for a in self.axes)

    def enter(self, geometry: Geometry) -> None:
        """Begin a call on `geometry`."""
        self.reset()
        self.target = geometry
        if isinstance(self.reference, Grid) and isinstance(geometry, Grid):
            if why := same_domain(self.reference, geometry):
                raise ValueError(f"grid: {why}")
            scale = scale_of(self.reference, geometry)
            self.scale = tuple(_near(s) for s in scale)
            self.n_points = math.prod(geometry.shape)
        elif isinstance(geometry, Mesh):
            if self.reference is not None and geometry.dim != self.reference.dim:
                raise ValueError(
                    f"grid: points have {geometry.dim} coordinates, the reference "
                    f"{self.reference.dim}"
                )
            self.n_points = geometry.n_points
        self._set_density(geometry)

    def _set_density(self, geometry: Geometry) -> None:
        if isinstance(geometry, Grid) and self.uniform and self.at_reference:
            return
        w = quadrature_weights(geometry, self.rule)
        self.density = torch.as_tensor(w.reshape(-1) / self.mean_weight)

    @property
    def mean_weight(self) -> float:
        """Mean quadrature weight of the reference's points."""
        if isinstance(self.reference, Mesh):
            return self.reference.measure / self.reference.n_points
        if isinstance(self.reference, Grid):
            measure = math.prod(b - a for a, b in self.reference.bounds)
            return measure / math.prod(self.reference.shape)
        return 1.0


class Cloud:
    """Points of a batch of samples with quadrature weights.

    Parameters
    ----------
    points : Tensor, shape (P, D) or (B, P, D)
    weights : Tensor, shape (P,) or (B, P)
        0 for points that only fill up a batch.
    """

    def __init__(self, points: Tensor, weights: Tensor) -> None:
        self.points, self.weights = points, weights


def _near(s: float) -> float:
    """Take out rounding: 1.9999999 is 2, and 1/3 a ratio that comes again."""
    return float(round(s)) if abs(s - round(s)) < 1e-9 else s


class OperatorLayer:
    """Mixin of layers that depend on the grid; `context` is given by the conversion.

    Attributes
    ----------
    context : Context
    path : str
        In the module that was converted.
    shapes : set of tuple of int
        Spatial shapes of the input at the reference.
    """

    context: Context
    path: str
    shapes: set[tuple[int, ...]]

    def attach(self, context: Context, path: str = "") -> None:
        """Make the layer depend on `context`."""
        self.context, self.path, self.shapes = context, path, set()

    def scale(self, shape: Sequence[int], grid: Grid | None = None) -> tuple[float, ...]:
        """Give reference spacing over present spacing where a layer's input has `shape`."""
        ctx, shape = self.context, tuple(shape)
        if ctx.frozen:
            return (1.0,) * len(shape)
        if ctx.managed:
            if ctx.dry:
                self.shapes.add(shape)
            if ctx.fixed and shape in self.shapes:
                return (1.0,) * len(shape)
            return ctx.scale
        if not isinstance(ctx.reference, Grid):
            raise ValueError(f"{type(self).__name__}: was built without a reference grid")
        present = ctx.reference.resized(shape) if grid is None else grid
        if present.shape != shape:
            raise ValueError(f"f has shape (..., {shape}), the grid {present.shape}")
        if why := same_domain(ctx.reference, present):
            raise ValueError(f"grid: {why}")
        return tuple(_near(s) for s in scale_of(ctx.reference, present))

    def spatial_weights(self, shape: Sequence[int]) -> Tensor | None:
        """Quadrature weights of a layer's input, None where all are equal."""
        return spatial_weights(self.context, shape)

    def require_grid(self) -> None:
        """Raise if the present call is on points."""
        if self.context.cloud is not None or isinstance(self.context.target, Mesh):
            raise ValueError(
                f"{self.path or type(self).__name__} ({type(self).__name__}): needs a grid, the "
                "present geometry is a point cloud"
            )


def spatial_weights(context: Context, shape: Sequence[int]) -> Tensor | None:
    """Relative weights in the shape of a layer's input; None where all are equal.

    The nodes of a graph (N, C) have no spatial axes: their weights are of the batch axis.
    """
    if not len(shape):
        return None if context.graph is None else context.graph.weights
    if isinstance(context.target, Mesh) or context.cloud is not None:
        if context.density is None or context.density.shape[-1] != shape[-1]:
            return None
        return context.density
    if context.uniform or len(shape) != len(context.axes):
        return None
    w = torch.ones(())
    for axis, n in zip(context.axes, shape, strict=True):
        line = torch.ones(n, dtype=torch.float64)
        if is_closed(axis) and n > 1:
            line[[0, -1]] = 0.5
        w = w[..., None] * line
    return w


def weighted_moments(x: Tensor, w: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance over `dims`, kept as axes of length 1; `w` broadcasts to `x`."""
    w, dims = w.to(x).expand_as(x), list(dims)
    total = w.sum(dims, keepdim=True)
    mean = (x * w).sum(dims, keepdim=True) / total
    var = ((x - mean).square() * w).sum(dims, keepdim=True) / total
    return mean, var


def adopt(module: nn.Module, cls: type, context: Context, path: str, **attributes: Any) -> None:
    """Turn a layer into its operator in place: parameters, names, hooks and sharing stay."""
    if type(module) is not cls and not issubclass(type(module), cls):
        base = type(module)
        if getattr(module, "parametrizations", None) is not None:
            # parametrized layers have a class of their own, with properties for the weights
            cls = type(cls.__name__, (cls, base), {})
        module.__class__ = cls
    module.attach(context, path)  # type: ignore[operator]
    for name, value in attributes.items():
        object.__setattr__(module, name, value)
