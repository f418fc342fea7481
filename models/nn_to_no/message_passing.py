"""Networks of torch-geometric as operators: message passing becomes integrals over balls."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from solvers.grids import Grid

from .context import Context
from .errors import UnsupportedLayerError
from .graph import find_neighbors, periods, segment_sum

if TYPE_CHECKING:
    from .convert import OperatorModule, Scope

__all__ = ["GraphCall", "GraphForm", "convert_message_passing", "is_message_passing"]

EdgeFeatures = Mapping[str, Callable[[Tensor], Tensor]]
#: Attention normalized over the neighbors: name of the layer -> what holds its weights.
_ATTENTION = {"GATConv": "edge_update", "GATv2Conv": "edge_update", "TransformerConv": "message"}
_NEAREST = ("DynamicEdgeConv", "GravNetConv", "XConv")
_SUMS, _MEANS, _LIMITS = ("add", "sum"), ("mean",), ("max", "min")
#: Point sets whose edges are kept.
KEPT = 64


def is_message_passing(layer: nn.Module) -> bool:
    """Whether a layer is torch-geometric's, found without importing it."""
    return any(
        c.__name__ == "MessagePassing" and c.__module__.startswith("torch_geometric")
        for c in type(layer).__mro__
    )


class GraphCall:
    """Graph of the present call.

    Attributes
    ----------
    edge_index : Tensor of int64, shape (2, E)
        Sources, targets.
    offsets : Tensor, shape (E, D)
        Source less target.
    weights : Tensor, shape (N,)
        Quadrature weights of the nodes over the mean weight of the reference.
    shape : (int, int)
        Samples and points; N is their product.
    loops : bool
        Whether points are neighbors of themselves.
    """

    def __init__(
        self,
        edge_index: Tensor,
        offsets: Tensor,
        weights: Tensor,
        shape: tuple[int, int],
        loops: bool,
    ) -> None:
        self.edge_index, self.offsets, self.weights = edge_index, offsets, weights
        self.shape, self.loops = shape, loops


class GraphForm:
    """How a network takes a graph, and the graph of any points.

    Parameters
    ----------
    network : nn.Module
    radius : float
        Of the balls, in the units of the coordinates.
    edge_features : mapping
        Argument of ``network.forward`` -> function of the offsets (E, D).
    """

    def __init__(self, network: nn.Module, radius: float, edge_features: EdgeFeatures) -> None:
        if not radius > 0:
            raise ValueError(f"radius={radius}: need a positive number")
        self.radius, self.edge_features = float(radius), dict(edge_features)
        self.arguments = _arguments(network, self.edge_features)
        self._known: OrderedDict[Any, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the kept edges."""
        return {**self.__dict__, "_known": OrderedDict()}

    def run(self, network: nn.Module, f: Tensor, context: Context) -> Any:
        """Apply the network to (B, P, C) on the present points."""
        b, p = f.shape[:2]
        points, period = _points(context)
        if period and any(period) and ("pos" in self.arguments or "data" in self.arguments):
            raise ValueError(
                "pos: differences of positions jump where a periodic axis begins again; take the "
                "offsets by edge_features"
            )
        sets = points if points.ndim == 3 else points[None]
        found = [self._edges(one, period) for one in sets]
        found = found if len(found) == b else found * b
        pairs = np.concatenate([e + k * p for k, (e, _) in enumerate(found)], axis=1)
        density = torch.ones(p) if context.density is None else context.density
        context.graph = GraphCall(
            torch.as_tensor(pairs, device=f.device),
            torch.as_tensor(np.concatenate([z for _, z in found])).to(f),
            density.to(f).expand(b, p).reshape(-1),
            (b, p),
            False,
        )
        where = torch.as_tensor(sets).to(f).expand(b, p, -1).reshape(b * p, -1)
        return self.call(network, f.reshape(b * p, -1), where, context.graph)

    def call(self, network: nn.Module, x: Tensor, points: Tensor, graph: GraphCall) -> Any:
        """Apply the network to nodes (N, C)."""
        b, p = graph.shape
        known: dict[str, Any] = {
            "x": x,
            "pos": points,
            "edge_index": graph.edge_index,
            "batch": torch.arange(b, device=x.device).repeat_interleave(p),
        }
        known |= {name: make(graph.offsets) for name, make in self.edge_features.items()}
        if self.arguments == ("data",):
            from torch_geometric.data import Data

            y = network(Data(**known))
        elif self.arguments and self.arguments[0] == "*":
            y = network(*(known[name] for name in self.arguments[1:]))
        else:
            y = network(**{name: known[_ALIASES.get(name, name)] for name in self.arguments})
        if isinstance(y, Tensor) and y.ndim > 1 and len(y) == b * p:
            return y.reshape(b, p, *y.shape[1:])
        return y

    def _edges(
        self, points: np.ndarray, period: tuple[float | None, ...] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (2, E) of different points within the radius, and their offsets."""
        key = (points.tobytes(), points.shape, period)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        found = find_neighbors(points, self.radius, period=period)
        i, j = found.source.numpy(), found.target.numpy()
        other = i != j
        i, j = i[other], j[other]
        if alone := len(points) - len(np.unique(j)):
            raise ValueError(
                f"radius={self.radius:g}: {alone} of {len(points)} points have no neighbor; the "
                "points are too far apart for this network"
            )
        z = points[i] - points[j]
        for d, length in enumerate(period or ()):
            if length:
                z[:, d] -= length * np.round(z[:, d] / length)
        self._known[key] = (np.stack([i, j]), z)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]


def _points(context: Context) -> tuple[np.ndarray, tuple[float | None, ...] | None]:
    """Points of the present call, (P, D) or (B, P, D), and periods."""
    if context.cloud is not None:
        return context.cloud.points.detach().cpu().double().numpy(), None
    target = context.target
    if isinstance(target, Grid):
        return np.stack(target.meshgrid(), -1).reshape(-1, target.dim), periods(target)
    assert target is not None
    return np.asarray(target.points, np.float64), None


_ALIASES = {"f": "x", "h": "x", "features": "x", "feat": "x", "node_features": "x"}
_KNOWN = ("x", "pos", "edge_index", "batch")


def _arguments(network: nn.Module, edge_features: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the arguments of a network's ``forward`` that are given."""
    signature: Any = getattr(network, "signature", None)  # torch_geometric.nn.Sequential
    star: tuple[str, ...] = ()
    if hasattr(signature, "param_dict"):
        names = dict.fromkeys(signature.param_dict, True)
        star = ("*",)
    else:
        parameters = list(inspect.signature(network.forward).parameters.values())
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names = {p.name: p.default is p.empty for p in plain}
        if list(names)[:1] == ["data"]:
            return ("data",)
    given = []
    for name, needed in names.items():
        known = _ALIASES.get(name, name) in _KNOWN or name in edge_features
        if known and (needed or name in edge_features):
            given.append(name)
        elif needed:
            raise ValueError(
                f"edge_features: the network's forward needs {name!r}; known are "
                f"{', '.join(_KNOWN)}; give edge_features={{{name!r}: function of the offsets}}"
            )
    if unknown := [n for n in edge_features if n not in names]:
        raise ValueError(
            f"edge_features: {unknown[0]!r} is no argument of the network's forward "
            f"({', '.join(names)})"
        )
    return (*star, *given)


# -- layers ----------------------------------------------------------------------------------------


class _Weigh:
    """Hooks of one layer that put quadrature weights into its sums."""

    def __init__(self, context: Context, kind: str) -> None:
        self.context, self.kind = context, kind
        self.edges: Tensor | None = None

    def before(self, layer: Any, inputs: Any) -> None:
        """Note the edges, which a layer may have changed."""
        self.edges = inputs[0]

    def ends(self, layer: Any, edges: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Find sources, targets, and weights of the sources."""
        graph = self.context.graph
        assert graph is not None and edges is not None
        source, target = edges if layer.flow == "source_to_target" else edges.flip(0)
        return source, target, graph.weights[source]

    def message(self, layer: Any, inputs: Any, out: Tensor) -> Tensor:
        """Weigh messages before they are added."""
        _, target, w = self.ends(layer, self.edges)
        n = len(self.context.graph.weights)  # type: ignore[union-attr]
        if self.kind == "mean":
            pairs = torch.stack([torch.ones_like(w), w], -1)
            count, total = segment_sum(pairs, target, n)[target].unbind(-1)
            w = w * count / total
        if self.kind == "softmax":
            w = w[:, None]
            w = w / segment_sum(layer._alpha * w, target, n)[target]
        axis = layer.node_dim % out.ndim
        shape = [1] * out.ndim
        shape[axis : axis + w.ndim] = w.shape
        return out * w.reshape(shape)

    def edge_update(self, layer: Any, inputs: Any, alpha: Tensor) -> Tensor:
        """Weigh attention (E, heads) that has been normalized over the neighbors."""
        _, target, w = self.ends(layer, inputs[0])
        weighed = alpha * w[:, None]
        total = segment_sum(weighed, target, len(self.context.graph.weights))  # type: ignore
        return weighed / total[target]

    def normalized(self, layer: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Weights of the edges of a layer that divides by degrees: these become measures."""
        names = ("x", "edge_index", "edge_weight")
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        edges, given = kwargs["edge_index"], kwargs.get("edge_weight")
        graph = self.context.graph
        assert graph is not None
        _, _, w = self.ends(layer, edges)
        w = w if given is None else w * given.reshape(-1)
        if layer.add_self_loops and not graph.loops:
            every = torch.arange(len(graph.weights), device=edges.device)
            edges = torch.cat([edges, every.expand(2, -1)], 1)
            # without weights of the edges the layer leaves its 2 out
            loop = 2.0 if layer.improved and given is not None else 1.0
            w = torch.cat([w, loop * graph.weights])
        return (), {**kwargs, "edge_index": edges, "edge_weight": w}


def convert_message_passing(layer: Any, scope: Scope) -> nn.Module:
    """Turn a layer of torch-geometric into an integral over a ball, in place.

    Sums become integrals over the reference's mean weight, means are divided by the measure of
    the ball, attention is normalized by an integral; the largest value stays.
    """
    name = next(
        (c.__name__ for c in type(layer).__mro__ if c.__name__ in (*_ATTENTION, "GCNConv")), ""
    )
    if any(c.__name__ in _NEAREST for c in type(layer).__mro__):
        raise scope.refuse(layer, "nearest neighbors are another set on other points: no ball")
    if getattr(layer, "cached", False):
        raise scope.refuse(layer, "cached=True keeps the graph of the first call")
    base = next(c for c in type(layer).__mro__ if c.__name__ == "MessagePassing")
    aggr = layer.aggr
    if type(layer).aggregate is not base.aggregate or not (  # type: ignore[attr-defined]
        isinstance(aggr, str) and aggr in (*_SUMS, *_MEANS, *_LIMITS)
    ):
        raise scope.refuse(
            layer, f"aggr={aggr!r} has no known limit; known are add, mean, max and min"
        )
    exact, why = scope.context.uniform and isinstance(scope.reference, Grid), ""
    if name in _ATTENTION:
        weigh = _Weigh(scope.context, "softmax")
        if layer.edge_dim is not None and getattr(layer, "add_self_loops", False):
            if isinstance(layer.fill_value, str):
                raise scope.refuse(
                    layer, f"fill_value={layer.fill_value!r} counts neighbors; give a number, or "
                    "add_self_loops=False"
                )  # fmt: skip
        if layer.dropout > 0:
            layer.dropout, why = 0.0, "dropout of single weights taken out"
        layer.register_propagate_forward_pre_hook(weigh.before)
        if _ATTENTION[name] == "message":
            layer.register_message_forward_hook(weigh.message)
        else:
            layer.register_edge_update_forward_hook(weigh.edge_update)
        what = "integral over a ball, normalized"
    elif name == "GCNConv" and layer.normalize:
        weigh = _Weigh(scope.context, "degree")
        layer.register_forward_pre_hook(weigh.normalized, with_kwargs=True)
        what = "integral over a ball; degrees are measures"
    elif aggr in _LIMITS:
        what, exact = f"{aggr}imum over a ball", True
    else:
        mean = aggr in _MEANS
        weigh = _Weigh(scope.context, "mean" if mean else "sum")
        layer.register_propagate_forward_pre_hook(weigh.before)
        layer.register_message_forward_hook(weigh.message)
        what = "mean over a ball" if mean else "integral over a ball"
    scope.note(layer, what, exact, why)
    return layer


# -- does it count points? -------------------------------------------------------------------------


def check_splitting(operator: OperatorModule, form: GraphForm, channels: int) -> None:
    """Give half of the points twice, with half the weight each: an operator does not change.

    Raises
    ------
    UnsupportedLayerError
        Names the first layer whose values change.
    """
    # the weights of points that are given twice must not be 0, nor all alike
    op = copy.deepcopy(operator).double().eval()
    ctx, reference = op.context, op.reference
    ctx.enter(reference)
    try:
        points, period = _points(ctx)
        n = len(points)
        rng = np.random.default_rng(0)
        (i, j), z = form._edges(points, period)
        own = np.arange(n)
        i, j = np.concatenate([i, own]), np.concatenate([j, own])
        z = np.concatenate([z, np.zeros((n, points.shape[1]))])
        w = np.ones(n) if ctx.density is None else np.asarray(ctx.density, np.float64)
        twice = np.sort(rng.permutation(n)[: n // 2])
        old = np.concatenate([own, twice])
        second = np.full(n, -1)
        second[twice] = n + np.arange(len(twice))
        parts = []
        for a in (i, second[i]):
            for b in (j, second[j]):
                keep = (a >= 0) & (b >= 0)
                parts.append((a[keep], b[keep], z[keep]))
        split = [np.concatenate([part[k] for part in parts]) for k in range(3)]
        halved = w[old] / np.where(second[old] >= 0, 2, 1)
        x = torch.as_tensor(rng.standard_normal((n, channels)))
        where = torch.as_tensor(points)
        runs = []
        for edges, offsets, weights, index in (
            ((i, j), z, w, own),
            (split[:2], split[2], halved, old),
        ):
            ctx.graph = GraphCall(
                torch.as_tensor(np.stack(edges)), torch.as_tensor(offsets),
                torch.as_tensor(weights), (1, len(index)), True,
            )  # fmt: skip
            runs.append(_recorded(op, form, x[index], where[index], ctx.graph))
    finally:
        ctx.reset()
    for (path, _, a), (_, _, b) in zip(*runs, strict=True):
        if len(a) != n or len(b) != len(old):
            continue
        size = float(a.abs().max())
        if not float((a - b[:n]).abs().max()) <= 1e-8 * max(size, 1e-30):
            path, layer = _responsible(op.network, path)
            raise UnsupportedLayerError(
                path, type(layer).__name__,
                "its values change when points are given twice with half the weight: it counts "
                "neighbors or points (a softmax, degrees, moments); register_conversion says what "
                "it means",
            )  # fmt: skip


def _responsible(network: nn.Module, path: str) -> tuple[str, nn.Module]:
    """Find the layer that gave wrong values to the one at `path`, if that is pointwise itself.

    torch's own layers are, and what a layer of message passing consists of belongs to that.
    """
    parts = path.split(".") if path else []
    chain = [("", network)]
    for k in range(len(parts)):
        chain.append((".".join(parts[: k + 1]), network.get_submodule(".".join(parts[: k + 1]))))
    for where, layer in chain:
        if is_message_passing(layer):
            return where, layer
    while len(chain) > 1 and type(chain[-1][1]).__module__.startswith(("torch.", "models.")):
        chain.pop()
    return chain[-1]


def _recorded(
    op: OperatorModule, form: GraphForm, x: Tensor, points: Tensor, graph: GraphCall
) -> list[tuple[str, nn.Module, Tensor]]:
    """Run once and note the outputs of all layers, inner ones first."""
    found: list[tuple[str, nn.Module, Tensor]] = []
    handles = []
    for path, layer in [*((p, m) for p, m in op.named_modules() if m is not op), ("", op.network)]:

        def note(module: nn.Module, args: Any, out: Any, path: str = path) -> None:
            if isinstance(out, Tensor) and out.ndim > 0:
                found.append((path, module, out))

        handles.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            y = form.call(op.network, x, points, graph)
    finally:
        for h in handles:
            h.remove()
    if not (isinstance(y, Tensor) and y.ndim == 3 and y.shape[1] == len(x)):
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise UnsupportedLayerError(
            "", type(op.network).__name__, f"returns {shape} for {len(x)} points, no value at each"
        )
    return found
