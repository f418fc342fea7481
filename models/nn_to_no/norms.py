"""Norms over the domain: moments are integrals."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import Grid

from .context import Context, OperatorLayer, spatial_weights, weighted_moments
from .geometry import Geometry, Rule

__all__ = ["GlobalMean", "WeightedBatchNorm", "WeightedGroupNorm", "WeightedInstanceNorm"]


class _Weighted(OperatorLayer):
    """Shared by the norms: weights of the input, from the conversion or the call."""

    def _weights(self, x: Tensor, weights: Tensor | None) -> Tensor | None:
        w = weights if weights is not None else spatial_weights(self.context, x.shape[2:])
        if w is None or (x.ndim == 2 and len(w) != len(x)):
            return None
        if x.ndim == 2:  # the nodes of a graph
            return w[:, None]
        if w.ndim == x.ndim - 2:
            w = w[None, None]
        elif w.ndim == x.ndim - 1:  # of each sample
            w = w[:, None]
        return w

    def _standalone(self, reference: Geometry | None, rule: Rule) -> None:
        context = Context(reference, rule)
        self.attach(context)


class _GroupNorm(_Weighted):
    num_groups: int
    weight: Any
    bias: Any
    eps: float

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalize (batch, channel, *space) by the moments of each sample and group.

        Parameters
        ----------
        x : Tensor
        weights : Tensor, shape (*space) or (batch, *space), optional
            Quadrature weights; default those of the reference's layout.
        """
        w = self._weights(x, weights)
        if w is None:
            out: Tensor = super().forward(x)  # type: ignore[misc]
            return out
        g = self.num_groups
        parts = x.reshape(x.shape[0], g, -1, *x.shape[2:])
        dims = tuple(range(2, parts.ndim))
        mean, var = weighted_moments(parts, w[:, :, None], dims)
        y = ((parts - mean) * torch.rsqrt(var + self.eps)).reshape(x.shape)
        return _affine(y, self.weight, self.bias)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *(1,) * (y.ndim - 2))
    if weight is not None:
        y = y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


class _BatchMoments(_Weighted):
    """Instance and batch norm: running moments are updated as torch does."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    momentum: float | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    training: bool
    track_running_stats: bool
    per_sample: bool

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalize (batch, channel, *space).

        Parameters
        ----------
        x : Tensor
        weights : Tensor, shape (*space) or (batch, *space), optional
            Quadrature weights; default those of the reference's layout.
        """
        w = self._weights(x, weights)
        from_batch = self.training or self.running_mean is None
        if w is None or not from_batch:
            out: Tensor = super().forward(x)  # type: ignore[misc]
            return out
        dims = tuple(range(2, x.ndim)) if self.per_sample else (0, *range(2, x.ndim))
        mean, var = weighted_moments(x, w, dims)
        if self.training and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self._track(x, mean, var)
        y = (x - mean) * torch.rsqrt(var + self.eps)
        return _affine(y, self.weight, self.bias)

    def _track(self, x: Tensor, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        count = float(self.num_batches_tracked) if self.num_batches_tracked is not None else 1.0
        part = 1.0 / count if self.momentum is None else self.momentum
        n = x.numel() / x.shape[1] / (x.shape[0] if self.per_sample else 1)
        mean, var = mean.mean(0).flatten(), var.mean(0).flatten() * (n / max(1.0, n - 1))
        self.running_mean.lerp_(mean.to(self.running_mean), part)
        self.running_var.lerp_(var.to(self.running_var), part)


class WeightedGroupNorm(_GroupNorm, nn.GroupNorm):
    """`torch.nn.GroupNorm` with moments that are integrals over the domain.

    Parameters
    ----------
    num_groups, num_channels, eps, affine
        As in torch. One group: the layer norm of a field.
    reference : Grid, optional
        Its layout says how points weigh: half at the ends of an axis with points on both.
    rule : str
        ``"uniform"``: as in torch.

    Examples
    --------
    >>> from models.nn_to_no import grid
    >>> norm = WeightedGroupNorm(1, 1, reference=grid(65))
    """

    def __init__(
        self, *args: Any, reference: Grid | None = None, rule: Rule = "auto", **kwargs: Any
    ) -> None:
        nn.GroupNorm.__init__(self, *args, **kwargs)
        self._standalone(reference, rule)


def _batch_norm(dim: int, base: type, per_sample: bool) -> type:
    kind = "instance" if per_sample else "batch"

    def init(
        self: Any, *args: Any, reference: Grid | None = None, rule: Rule = "auto", **kwargs: Any
    ) -> None:
        base.__init__(self, *args, **kwargs)  # type: ignore[misc]
        self._standalone(reference, rule)

    doc = f"`torch.nn.{base.__name__}` with moments that are integrals over the domain."
    name = f"Weighted{kind.capitalize()}Norm{dim}d"
    members = {"__doc__": doc, "__init__": init, "__module__": __name__, "per_sample": per_sample}
    return type(name, (_BatchMoments, base), members)


#: Number of space dimensions -> class.
WeightedInstanceNorm = {
    d: _batch_norm(d, getattr(nn, f"InstanceNorm{d}d"), True) for d in (1, 2, 3)
}
WeightedBatchNorm = {d: _batch_norm(d, getattr(nn, f"BatchNorm{d}d"), False) for d in (1, 2, 3)}
for _cls in (*WeightedInstanceNorm.values(), *WeightedBatchNorm.values()):
    globals()[_cls.__name__] = _cls


class WeightedFieldNorm(_Weighted, nn.LayerNorm):
    """Layer norm over channels and space together, without affine weights of single points."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (batch, channel, *space)."""
        w = self._weights(x, None)
        if w is None:
            # the shape in the layer is the reference's
            return F.layer_norm(x, x.shape[1:], None, None, self.eps)
        mean, var = weighted_moments(x, w, tuple(range(1, x.ndim)))
        return (x - mean) * torch.rsqrt(var + self.eps)


class GlobalMean(_Weighted, nn.Module):
    """Mean over the domain: global average pooling.

    Parameters
    ----------
    reference : Grid, optional
    rule : str
    """

    def __init__(self, reference: Grid | None = None, rule: Rule = "auto") -> None:
        super().__init__()
        self._standalone(reference, rule)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Average (batch, channel, *space) to (batch, channel, 1, ...)."""
        dims = tuple(range(2, x.ndim))
        w = self._weights(x, weights)
        if w is None:
            return x.mean(dims, keepdim=True)
        return weighted_moments(x, w, dims)[0]
