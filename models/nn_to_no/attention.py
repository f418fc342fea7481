"""Attention as a normalized integral."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import OperatorLayer

__all__ = ["QuadratureAttention", "attention_bias", "quadrature_attention"]

Kind = Literal["softmax", "linear"]


def quadrature_attention(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, *, kind: Kind = "softmax"
) -> Tensor:
    r"""Attention over points that weigh differently.

    .. math:: \frac{\sum_i \Delta_i e^{q_j\cdot k_i/\sqrt d} v_i}
                   {\sum_i \Delta_i e^{q_j\cdot k_i/\sqrt d}}
              \quad\text{or}\quad \sum_i q_j\cdot k_i\,v_i\,\Delta_i

    Parameters
    ----------
    q : Tensor, shape (..., M, d)
    k : Tensor, shape (..., N, d)
    v : Tensor, shape (..., N, e)
    weights : Tensor, shape (N,), or broadcasting to (..., N)
        Quadrature weights of the source points; 0 leaves a point out.
    kind : {"softmax", "linear"}

    Returns
    -------
    Tensor, shape (..., M, e)

    References
    ----------
    .. [1] Berner et al., arXiv:2506.10973 (2025), section on attention.
    """
    if kind == "linear":
        return q @ (k.transpose(-1, -2) @ (v * weights[..., None].to(v)))
    bias = torch.log(weights.to(q))[..., None, :]
    shape = torch.broadcast_shapes(bias.shape[:-2], q.shape[:-2])
    bias = bias.expand(*shape, q.shape[-2], k.shape[-2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class QuadratureAttention(nn.Module):
    """Multi-head attention between functions on points.

    Parameters
    ----------
    channels : int
    heads : int
    kind : {"softmax", "linear"}
        Linear attention normalizes keys and values over the domain instead [1]_.

    References
    ----------
    .. [1] Cao, "Choose a Transformer: Fourier or Galerkin", NeurIPS 2021.
    """

    def __init__(self, channels: int, heads: int = 4, *, kind: Kind = "softmax") -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads={heads}: need a divisor of channels={channels}")
        if kind not in ("softmax", "linear"):
            raise ValueError(f"kind={kind!r}: allowed are softmax, linear")
        self.heads, self.kind = heads, kind
        self.to_q = nn.Linear(channels, channels)
        # a bias of the keys cancels, as does one of values whose mean is taken out
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=kind == "softmax")
        self.out = nn.Linear(channels, channels)

    def forward(self, f: Tensor, weights: Tensor, query: Tensor | None = None) -> Tensor:
        """Integrate over the points of `f`.

        Parameters
        ----------
        f : Tensor, shape (B, N, channels)
        weights : Tensor, shape (N,) or (B, N)
        query : Tensor, shape (B, M, channels), optional
            Features at the points where the result is wanted; default `f`.

        Returns
        -------
        Tensor, shape (B, M, channels)
        """
        query = f if query is None else query
        q, k, v = self.to_q(query), self.to_k(f), self.to_v(f)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        w = weights if weights.ndim == 1 else weights[:, None]
        if self.kind == "linear":
            total = w.sum(-1)[..., None, None] if w.ndim > 1 else w.sum()
            # norms over the domain, so that the size does not depend on the points
            k, v = (_standardize(t, w) for t in (k, v))
            y = quadrature_attention(q, k, v, w, kind="linear") / total
        else:
            y = quadrature_attention(q, k, v, w)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def _standardize(t: Tensor, w: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the points."""
    w = (w / w.sum(-1, keepdim=True))[..., None].to(t)
    mean = (t * w).sum(-2, keepdim=True)
    var = ((t - mean).square() * w).sum(-2, keepdim=True)
    return (t - mean) * torch.rsqrt(var + 1e-6)


def attention_bias(density: Tensor | None, n_points: int, keys: int, fixed: bool) -> Tensor | None:
    """Logarithm of the keys' weights, (N,) or (B, N); None where there is nothing to add.

    Keys in front that are no points, as a class token, weigh as one point of the reference.
    """
    if density is None or (fixed and keys != n_points):
        return None
    extra = keys - n_points
    if extra < 0:
        return None
    bias = torch.log(density)
    if extra:
        bias = torch.cat([bias.new_zeros(*bias.shape[:-1], extra), bias], -1)
    elif bias.ndim == 1 and bool((bias == bias[0]).all()):
        return None  # the same for all cancels
    return bias


class WeightedMultiheadAttention(OperatorLayer, nn.MultiheadAttention):
    """Converted `torch.nn.MultiheadAttention`: the keys' weights are added to the logits."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """As torch's."""
        ctx = self.context
        axis = 1 if self.batch_first or key.ndim == 2 else 0
        keys = key.shape[0] if key.ndim == 2 else key.shape[axis]
        bias = attention_bias(ctx.density, ctx.n_points, keys, ctx.fixed)
        if bias is None:
            return super().forward(query, key, value, *args, **kwargs)
        names = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        bias = bias.to(query)
        mask = kwargs.get("attn_mask")
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -math.inf)
        batch = 1 if query.ndim == 2 else query.shape[1 - axis]
        targets = query.shape[0] if query.ndim == 2 else query.shape[axis]
        if bias.ndim == 1:
            whole = bias.expand(targets, keys)
            mask = whole if mask is None else mask + whole
        else:
            if bias.shape[0] != batch:
                raise ValueError(
                    f"{self.path}: {batch} samples, but weights of {bias.shape[0]} point sets"
                )
            whole = bias[:, None, None, :].expand(batch, self.num_heads, targets, keys)
            whole = whole.reshape(-1, targets, keys)
            mask = whole if mask is None else mask + whole
        padding = kwargs.get("key_padding_mask")
        if padding is not None and padding.dtype == torch.bool:
            kwargs["key_padding_mask"] = torch.zeros_like(padding, dtype=query.dtype).masked_fill(
                padding, -math.inf
            )
        kwargs["attn_mask"] = mask
        return super().forward(query, key, value, **kwargs)
