"""Operators on points with quadrature weights: graph operators and transformers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .attention import Kind, QuadratureAttention
from .graph import GraphIntegral, Neighbors, SeparableKernel, find_neighbors
from .networks import awake

__all__ = ["OperatorGNN", "PointTransformer"]

Bounds = Sequence[tuple[float, float]]
#: Edges of point sets that a graph operator keeps, 16 bytes each.
KEPT = 2**24


class _Points(nn.Module):
    """Shared: checks, and features of the coordinates."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bounds: Bounds,
        periodic: Sequence[bool] | None,
        frequencies: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.bounds = tuple((float(a), float(b)) for a, b in bounds)
        self.periodic = (False,) * len(self.bounds) if periodic is None else tuple(periodic)
        self.frequencies = frequencies
        self.dim = len(self.bounds)
        self.features = sum(2 * frequencies if p else 1 + 2 * frequencies for p in self.periodic)

    def position(self, points: Tensor) -> Tensor:
        """Coordinates over the box, and sines and cosines of them, (..., features)."""
        out = []
        for d, ((a, b), p) in enumerate(zip(self.bounds, self.periodic, strict=True)):
            t = (points[..., d] - a) / (b - a)
            if not p:
                out.append(2 * t - 1)
            for k in range(1, self.frequencies + 1):
                # half waves fit an axis that is not periodic
                angle = (2 if p else 1) * math.pi * k * t
                out += [torch.sin(angle), torch.cos(angle)]
        return torch.stack(out, -1)

    def check(
        self, f: Tensor, points: Tensor, weights: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Points and weights of each sample, (B, P, D) and (B, P); 0 for filling."""
        if f.ndim != 3 or f.shape[2] != self.in_channels:
            raise ValueError(
                f"f has shape {tuple(f.shape)}, expected (batch, points, {self.in_channels}): "
                f"this model was built with in_channels={self.in_channels}"
            )
        b, p = f.shape[:2]
        if not p:
            raise ValueError(f"f has shape {tuple(f.shape)}: no points")
        for what, given, shape in (
            ("points", points, (p, self.dim)),
            ("weights", weights, (p,)),
            ("mask", mask, (b, p)),
        ):
            allowed = [shape] if what == "mask" else [shape, (b, *shape)]
            if given is not None and tuple(given.shape) not in allowed:
                raise ValueError(
                    f"{what}: shape {tuple(given.shape)}, expected "
                    f"{' or '.join(map(str, allowed))}: f has shape {tuple(f.shape)}"
                )
        weights = weights.to(f).expand(b, p)
        if bool((weights < 0).any()):
            raise ValueError(f"weights: {int((weights < 0).sum())} are negative")
        if mask is not None:
            weights = weights * mask.to(f)
        return points.to(f), weights


class OperatorGNN(_Points):
    r"""Graph neural operator on meshes and point clouds.

    Each layer adds to every point a learned function of its own value, of an integral over the ball
    of a fixed radius, and of the mean over the domain:

    .. math:: h(y) \leftarrow h(y) + \sigma\Big(A\,h(y) + \frac{\int_{B_r(y)}
              \kappa(x - y)\,V h(x)\,dx}{\int_{B_r(y)} dx} + \frac{M}{|\Omega|}
              \int_\Omega h(x)\,dx\Big)

    Parameters
    ----------
    in_channels, out_channels : int
    bounds : sequence of (float, float)
        A box that holds the points.
    radius : float
        In the units of the coordinates; about three mesh widths of the training data.
    hidden_channels, n_layers, frequencies : int
        Width, layers, sines and cosines of the coordinates.
    periodic : sequence of bool, optional
    weighted : bool
        False: neighbors count alike, a graph network, for comparison.
    knn : int, optional
        Take so many nearest neighbors instead of a ball; for comparison: that is no operator.

    References
    ----------
    .. [1] Li et al., "Neural operator: graph kernel network", arXiv:2003.03485.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bounds: Bounds,
        radius: float,
        hidden_channels: int = 48,
        n_layers: int = 4,
        frequencies: int = 4,
        periodic: Sequence[bool] | None = None,
        weighted: bool = True,
        knn: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, bounds, periodic, frequencies)
        if not radius > 0:
            raise ValueError(f"radius={radius}: need a positive number")
        self.radius, self.weighted, self.knn = float(radius), weighted, knn
        c = hidden_channels
        self.lift = nn.Linear(in_channels + self.features, c)
        self.local = nn.ModuleList(
            [
                GraphIntegral(
                    SeparableKernel(self.dim, c, 32), self.radius, weighted=weighted,
                    taper=knn is None,
                )
                for _ in range(n_layers)
            ]
        )  # fmt: skip
        self.own = nn.ModuleList([nn.Linear(c, c) for _ in range(n_layers)])
        self.whole = nn.ModuleList([nn.Linear(c, c, bias=False) for _ in range(n_layers)])
        self.mix = nn.ModuleList([nn.Linear(c, c) for _ in range(n_layers)])
        self.project = nn.Sequential(nn.Linear(c, c), nn.GELU(), nn.Linear(c, out_channels))
        self.act = nn.GELU()
        self._edges: OrderedDict[tuple[bytes, int], Neighbors] = OrderedDict()

    def _neighbors(self, points: Tensor) -> Neighbors:
        """Edges of a point set, kept for the next time."""
        array = points.detach().cpu().double().numpy()
        key = (array.tobytes(), len(array))
        if key in self._edges:
            self._edges.move_to_end(key)
            return self._edges[key]
        if self.knn is not None:
            found = _nearest(array, self.knn)
        else:
            period = [
                b - a if p else None for (a, b), p in zip(self.bounds, self.periodic, strict=True)
            ]
            found = find_neighbors(array, self.radius, period=period)
        self._edges[key] = found
        while len(self._edges) > 1 and sum(len(e.target) for e in self._edges.values()) > KEPT:
            self._edges.popitem(last=False)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the kept edges."""
        return {**super().__getstate__(), "_edges": OrderedDict()}

    def forward(
        self, f: Tensor, points: Tensor, weights: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Apply the operator.

        Parameters
        ----------
        f : Tensor, shape (B, P, in_channels)
        points : Tensor, shape (P, D), or (B, P, D)
        weights : Tensor, shape (P,) or (B, P)
            Quadrature weights.
        mask : Tensor of bool, shape (B, P), optional
            False for rows that only fill up a sample.

        Returns
        -------
        Tensor, shape (B, P, out_channels)
        """
        given = points
        points, w = self.check(f, points, weights, mask)
        b, p = f.shape[:2]
        period = [
            hi - lo if per else None
            for (lo, hi), per in zip(self.bounds, self.periodic, strict=True)
        ]
        position = self.position(points).expand(b, p, -1)
        h = self.lift(torch.cat([f, position], -1))
        if given.ndim == 2:
            edges, where, weight = self._neighbors(given), points, w[0]
        else:
            edges, where, weight = self._batched(given, mask), points.flatten(0, 1), w.flatten()
        share = w if self.weighted else (w > 0).to(w)
        share = (share / share.sum(1, keepdim=True))[..., None]
        layers = zip(self.local, self.own, self.whole, self.mix, strict=True)
        for local, own, whole, mix in layers:
            if given.ndim == 2:
                near = local(h, where, weight, edges, period=period)
            else:
                near = local(h.reshape(1, b * p, -1), where, weight, edges, period=period)
                near = near.reshape(b, p, -1)
            mean = (h * share).sum(1, keepdim=True)
            h = h + mix(self.act(own(h) + near + whole(mean)))
        out: Tensor = self.project(h)
        return out

    def _batched(self, points: Tensor, mask: Tensor | None) -> Neighbors:
        """Edges of all samples, their rows one after the other; filling points at itself."""
        b, p = points.shape[:2]
        targets, sources = [], []
        for k in range(b):
            n = p if mask is None else int(mask[k].sum())
            one = self._neighbors(points[k, :n])
            fill = torch.arange(n, p)
            targets += [one.target + k * p, fill + k * p]
            sources += [one.source + k * p, fill + k * p]
        return Neighbors(torch.cat(targets), torch.cat(sources), b * p)


def _nearest(points: np.ndarray, k: int) -> Neighbors:
    from scipy.spatial import cKDTree

    _, index = cKDTree(points).query(points, k=min(k, len(points)))
    index = index.reshape(len(points), -1)
    target = np.repeat(np.arange(len(points)), index.shape[1])
    return Neighbors(
        torch.as_tensor(target), torch.as_tensor(index.ravel().astype(np.int64)), len(points)
    )


class PointTransformer(_Points):
    """Transformer between functions on points, its attention an integral over the domain.

    Parameters
    ----------
    in_channels, out_channels : int
    bounds : sequence of (float, float)
        A box that holds the points.
    hidden_channels, n_layers, n_heads, frequencies : int
    kind : {"softmax", "linear"}
        ``"linear"`` costs a time proportional to the number of points.
    periodic : sequence of bool, optional
    weighted : bool
        False: points count alike, for comparison.

    References
    ----------
    .. [1] Cao, NeurIPS 2021; Li et al., "Transformer for PDEs' operator learning", TMLR 2023.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bounds: Bounds,
        hidden_channels: int = 64,
        n_layers: int = 4,
        n_heads: int = 4,
        frequencies: int = 4,
        kind: Kind = "softmax",
        periodic: Sequence[bool] | None = None,
        weighted: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, bounds, periodic, frequencies)
        c = hidden_channels
        self.weighted = weighted
        self.lift = nn.Linear(in_channels + self.features, c)
        self.norm1 = nn.ModuleList([nn.LayerNorm(c) for _ in range(n_layers)])
        self.attend = nn.ModuleList(
            [QuadratureAttention(c, n_heads, kind=kind) for _ in range(n_layers)]
        )
        self.norm2 = nn.ModuleList([nn.LayerNorm(c) for _ in range(n_layers)])
        self.mix = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
                for _ in range(n_layers)
            ]
        )
        self.project = nn.Sequential(nn.Linear(c, c), nn.GELU(), nn.Linear(c, out_channels))
        awake(self)

    def forward(
        self, f: Tensor, points: Tensor, weights: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Apply the operator; arguments as `OperatorGNN.forward`."""
        points, w = self.check(f, points, weights, mask)
        if not self.weighted:
            w = (w > 0).to(w)
        position = self.position(points).expand(*f.shape[:2], -1)
        h = self.lift(torch.cat([f, position], -1))
        layers = zip(self.norm1, self.attend, self.norm2, self.mix, strict=True)
        for norm1, attend, norm2, mix in layers:
            h = h + attend(norm1(h), w)
            h = h + mix(norm2(h))
        out: Tensor = self.project(h)
        return out
