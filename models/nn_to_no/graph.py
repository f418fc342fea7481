"""Graph operators: integrals over balls of fixed radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from solvers.grids import Grid

__all__ = ["GraphIntegral", "Neighbors", "find_neighbors"]

Reduction = Literal["sum", "mean"]


class Neighbors:
    """Pairs of points closer than a radius.

    Attributes
    ----------
    target, source : Tensor of int64, shape (E,)
        Sorted by target.
    n_targets : int
    """

    def __init__(self, target: Tensor, source: Tensor, n_targets: int) -> None:
        self.target, self.source, self.n_targets = target, source, n_targets

    def to(self, device: torch.device) -> Neighbors:
        """Move to a device."""
        if self.target.device == device:
            return self
        return Neighbors(self.target.to(device), self.source.to(device), self.n_targets)


def find_neighbors(
    points: np.ndarray | Tensor,
    radius: float,
    queries: np.ndarray | Tensor | None = None,
    *,
    period: Sequence[float | None] | None = None,
) -> Neighbors:
    """Find the sources within `radius` of each query, by a k-d tree.

    Parameters
    ----------
    points : ndarray, shape (P, D)
    radius : float
    queries : ndarray, shape (Q, D), optional
        Default the points.
    period : sequence of float or None, optional
        Length of periodic axes.

    Raises
    ------
    ValueError
        A radius that is not positive, or a query without any neighbor.
    """
    from scipy.spatial import cKDTree

    if not radius > 0:
        raise ValueError(f"radius={radius}: need a positive number")
    p = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, np.float64)
    q = p if queries is None else np.asarray(
        queries.detach().cpu() if isinstance(queries, Tensor) else queries, np.float64
    )  # fmt: skip
    if period is not None and any(period):
        lower = np.minimum(p.min(0), q.min(0))
        span = np.maximum(p.max(0), q.max(0)) - lower
        box = [float(a) if a else float(s + 2 * radius) for a, s in zip(period, span, strict=True)]
        p, q = p - lower, q - lower
        for d, a in enumerate(period):
            if a:
                p[:, d] %= a
                q[:, d] %= a
        tree = cKDTree(p, boxsize=box)
    else:
        tree = cKDTree(p)
    pairs = tree.query_ball_point(q, radius * (1 + 1e-12))
    counts = np.fromiter((len(k) for k in pairs), np.int64, len(q))
    if (counts == 0).any():
        raise ValueError(
            f"radius={radius}: {int((counts == 0).sum())} of {len(q)} points have no neighbor"
        )
    target = np.repeat(np.arange(len(q)), counts)
    source = np.concatenate([np.sort(k) for k in pairs]).astype(np.int64)
    return Neighbors(torch.as_tensor(target), torch.as_tensor(source), len(q))


def segment_sum(values: Tensor, target: Tensor, n: int) -> Tensor:
    """Sum rows (..., E, C) that share a target, to (..., n, C)."""
    out = values.new_zeros(*values.shape[:-2], n, values.shape[-1])
    return out.index_add(-2, target, values)


class SeparableKernel(nn.Module):
    """A function of the offset alone, times a linear map of the source's value.

    Parameters
    ----------
    dim : int
        Coordinates.
    channels, width : int
    """

    def __init__(self, dim: int, channels: int, width: int) -> None:
        super().__init__()
        self.offset = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, channels))
        self.value = nn.Linear(channels, channels, bias=False)


class GraphIntegral(nn.Module):
    r"""Integral over a ball with a learned kernel.

    .. math:: g(y_j) = \sum_{|x_i - y_j| < r} \kappa(x_i, y_j, f(x_i), f(y_j))\,\Delta_i

    or, with ``reduction="mean"``, divided by the measure of the ball in the domain.

    Parameters
    ----------
    kernel : callable
        Module: ``kernel(edge_features) -> (..., E, out)``; edge features are the offset
        ``x_i - y_j`` over the radius, ``f(x_i)`` and ``f(y_j)``, in this order. A
        `SeparableKernel` is evaluated once at each point and once on each edge.
    radius : float
        In the units of the coordinates.
    reduction : {"mean", "sum"}
    weighted : bool
        False: every neighbor counts alike, as in graph *networks*.
    taper : bool
        Let the kernel fall to 0 at the radius like :math:`(1 - |z|^2/r^2)^2`: points that
        enter or leave the ball change the result continuously, which makes it second order on
        grids.

    References
    ----------
    .. [1] Li et al., "Neural operator: graph kernel network", arXiv:2003.03485.
    .. [2] Berner et al., arXiv:2506.10973 (2025).
    """

    def __init__(
        self,
        kernel: Callable[[Tensor], Tensor],
        radius: float,
        *,
        reduction: Reduction = "mean",
        weighted: bool = True,
        taper: bool = True,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction={reduction!r}: allowed are mean, sum")
        self.kernel = kernel
        self.radius, self.reduction = float(radius), reduction
        self.weighted, self.taper = weighted, taper

    def forward(
        self,
        f: Tensor,
        points: Tensor,
        weights: Tensor,
        neighbors: Neighbors,
        *,
        period: Sequence[float | None] | None = None,
        query: Tensor | None = None,
        query_f: Tensor | None = None,
    ) -> Tensor:
        """Integrate.

        Parameters
        ----------
        f : Tensor, shape (B, P, C)
        points : Tensor, shape (P, D)
        weights : Tensor, shape (P,)
        neighbors : Neighbors
            Of `query`.
        period : sequence of float or None, optional
            Length of periodic axes.
        query : Tensor, shape (Q, D), optional
            Default the points.
        query_f : Tensor, shape (B, Q, C), optional

        Returns
        -------
        Tensor, shape (B, Q, out)
        """
        edges = neighbors.to(f.device)
        i, j = edges.source, edges.target
        there = points if query is None else query
        values = f if query_f is None else query_f
        z = (points[i] - there[j]) / self.radius
        if period is not None:
            for d, length in enumerate(period):
                if length:
                    ratio = length / self.radius
                    z[:, d] = z[:, d] - ratio * torch.round(z[:, d] / ratio)
        w = weights[i] if self.weighted else torch.ones_like(weights)[i]
        if self.taper:
            w = w * (1 - z.square().sum(-1)).clamp_min(0).square()
        w = w.to(f)[:, None]
        z = z.to(f)
        # gathered by index_select, whose backward pass is one index_add
        if isinstance(self.kernel, SeparableKernel):
            messages = self.kernel.value(f).index_select(1, i) * (self.kernel.offset(z) * w)
        else:
            z = z.expand(f.shape[0], -1, -1)
            features = torch.cat([z, f.index_select(1, i), values.index_select(1, j)], -1)
            messages = self.kernel(features) * w
        total = segment_sum(messages, j, edges.n_targets)
        if self.reduction == "sum":
            return total
        measure = segment_sum(w, j, edges.n_targets)
        # rows that only fill up have no neighbor of any weight
        return total / torch.where(measure > 0, measure, 1.0)


def periods(grid: Grid) -> tuple[float | None, ...]:
    """Length of each periodic axis."""
    return tuple(a.upper - a.lower if a.periodic else None for a in grid.axes)


def mean_spacing(weights: Any, dim: int) -> float:
    """Spacing of a grid with as many points of the same measure."""
    w = np.asarray(weights, np.float64)
    return float(math.pow(w.sum() / len(w), 1 / dim))
