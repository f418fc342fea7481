"""Banks of experts: vector fields that a context conditions, with stacked weights.

A bank holds E experts of one kind. ``bank.pick(experts)`` takes the weights of some of them, and
``bank.bind(picked, context)`` makes a field of them, which is evaluated at ``x``, shape
``(groups, rows, states)``: all groups in one batched matrix product.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._sizes import positive

__all__ = ["BANKS", "Bank", "CoDABank", "GEPSBank", "NCFBank", "PLRNNBank", "taylor_field"]

#: A field of bound weights and contexts, (G, P, d) -> (G, P, d).
Field = Callable[[Tensor], Tensor]
Picked = dict[str, Tensor]


class Bank(nn.Module):
    """E experts of one kind; subclasses add parameters of shape ``(E, ...)``.

    Parameters
    ----------
    n_experts, n_states : int
    context_size : int
        Of the part of the context that an expert sees.

    Notes
    -----
    All experts start equal.
    """

    #: Whether all rows of a group must have one context: the weights depend on it.
    by_environment: ClassVar[bool] = False
    #: Whether it is a map from one stored time to the next, not a vector field.
    discrete: ClassVar[bool] = False

    def __init__(self, n_experts: int, n_states: int, context_size: int) -> None:
        super().__init__()
        positive(n_experts=n_experts, n_states=n_states, context_size=context_size)
        self.n_experts, self.n_states, self.context_size = n_experts, n_states, context_size

    def _add(self, name: str, *shape: int, scale: float) -> None:
        one = torch.empty(shape).uniform_(-scale, scale) if scale else torch.zeros(shape)
        self.register_parameter(name, nn.Parameter(one.expand(self.n_experts, *shape).clone()))

    def pick(self, experts: Tensor) -> Picked:
        """Take the weights of some experts, (G,) -> name to (G, ...)."""
        return {k: p.index_select(0, experts) for k, p in self.named_parameters()}

    def bind(self, w: Picked, context: Tensor) -> Field:
        """Make a field of weights and contexts, (G, P, c)."""
        raise NotImplementedError

    def rates(self, x: Tensor, context: Tensor, experts: Tensor) -> Tensor:
        """Evaluate: environment b's rows x, (B, P, d), by expert ``experts[b]`` -> (B, P, d).

        Parameters
        ----------
        x : Tensor, shape (B, P, d)
        context : Tensor, shape (B, c)
        experts : Tensor, shape (B,)
        """
        return self.bind(self.pick(experts), context[:, None].expand(-1, x.shape[1], -1))(x)

    @torch.no_grad()
    def copy_(self, source: int = 0) -> None:
        """Make all experts equal to one."""
        for p in self.parameters():
            p.copy_(p[source : source + 1].expand_as(p).clone())


def _widths(first: int, last: int, depth: int) -> list[int]:
    """Geometric interpolation of layer widths, ends included."""
    return [round(first * (last / first) ** (i / depth)) for i in range(depth + 1)]


class NCFBank(Bank):
    """Neural context flows: a network of the context, one of the state, and a main one of both.

    Parameters
    ----------
    width, depth : int
        Of the hidden layers of the main network, and their number.
    intermediate : int
        Width at the end of the two small networks; widths on the way are interpolated
        geometrically.
    depth_small : int
        Layers of the small networks.
    shift_context : bool
        Add a learned number of each expert to its contexts.

    Notes
    -----
    The activation is swish, ``z sigmoid(b z)``, with one learned b > 0 a layer and expert; b is
    moved into the neighboring weights once a trajectory. So is the network of the context.

    References
    ----------
    .. [1] Nzoyem, Barton, Deakin, "Neural context flows for meta-learning of dynamical systems",
       ICLR 2025, arXiv:2405.02154.
    """

    def __init__(
        self,
        n_experts: int,
        n_states: int,
        context_size: int,
        *,
        width: int = 64,
        depth: int = 3,
        intermediate: int = 32,
        depth_small: int = 1,
        shift_context: bool = True,
    ) -> None:
        super().__init__(n_experts, n_states, context_size)
        positive(width=width, depth=depth, intermediate=intermediate, depth_small=depth_small)
        self.layers: dict[str, int] = {}
        self._network("context", _widths(context_size, intermediate, depth_small))
        self._network("state", _widths(n_states, intermediate, depth_small))
        self._network("main", [2 * intermediate, *[width] * depth, n_states])
        if shift_context:
            self._add("shift", 1, 1, scale=0.0)

    def _network(self, name: str, widths: Sequence[int]) -> None:
        self.layers[name] = len(widths) - 1
        for i, (a, b) in enumerate(pairwise(widths)):
            self._add(f"{name}_weight{i}", a, b, scale=1 / math.sqrt(a))
            self._add(f"{name}_bias{i}", 1, b, scale=1 / math.sqrt(a))
            if name != "main" or i + 1 < len(widths) - 1:
                self._add(f"{name}_beta{i}", 1, 1, scale=0.0)

    def _folded(self, w: Picked, name: str, before: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases with swish's b moved in; `before` divides the first layer's input."""
        out = []
        for i in range(self.layers[name]):
            weight, bias = w[f"{name}_weight{i}"], w[f"{name}_bias{i}"]
            if before is not None:
                weight = weight / before
            beta = w.get(f"{name}_beta{i}")
            before = None if beta is None else beta.exp()
            if before is not None:
                weight, bias = weight * before, bias * before
            out.append((weight, bias))
        return out

    def bind(self, w: Picked, context: Tensor) -> Field:
        """Make a field of weights and contexts, (G, P, c)."""
        z = context + w["shift"] if "shift" in w else context
        for weight, bias in self._folded(w, "context", None):
            z = F.silu(torch.baddbmm(bias, z, weight))
        state = self._folded(w, "state", None)
        main = self._folded(w, "main", None)
        first, bias = main[0]
        k = first.shape[1] // 2
        last = [w[f"{n}_beta{self.layers[n] - 1}"].exp() for n in ("state", "context")]
        constant = torch.baddbmm(bias, z / last[1], first[:, k:])
        from_state, rest = first[:, :k] / last[0], main[1:]

        def field(x: Tensor) -> Tensor:
            for weight, bias in state:
                x = F.silu(torch.baddbmm(bias, x, weight))
            x = torch.baddbmm(constant, x, from_state)
            for weight, bias in rest:
                x = torch.baddbmm(bias, F.silu(x), weight)
            return x

        field.tensors = (  # type: ignore[attr-defined]
            constant, from_state, *(t for pair in (*state, *rest) for t in pair)
        )  # fmt: skip
        return field


class GEPSBank(Bank):
    """Low-rank adaptation: each matrix is ``W + A diag(context) B``, each bias ``b + A' context``.

    Parameters
    ----------
    width, depth : int
        Of the hidden layers, and their number.
    shift_context : bool
        See `NCFBank`.

    References
    ----------
    .. [1] Kassai Koupai, Mifsut Benet, Yin, Vittaut, Gallinari, "GEPS: boosting generalization in
       parametric PDE neural solvers through adaptive conditioning", NeurIPS 2024,
       arXiv:2410.23889, section 3.2.
    """

    def __init__(
        self,
        n_experts: int,
        n_states: int,
        context_size: int,
        *,
        width: int = 64,
        depth: int = 3,
        shift_context: bool = True,
    ) -> None:
        super().__init__(n_experts, n_states, context_size)
        positive(width=width, depth=depth)
        widths = [n_states, *[width] * depth, n_states]
        self.depth = len(widths) - 1
        c = context_size
        for i, (a, b) in enumerate(pairwise(widths)):
            self._add(f"weight{i}", a, b, scale=1 / math.sqrt(a))
            self._add(f"bias{i}", 1, b, scale=1 / math.sqrt(a))
            self._add(f"down{i}", a, c, scale=1 / math.sqrt(a))
            self._add(f"up{i}", c, b, scale=1 / math.sqrt(c))
            self._add(f"bias_up{i}", c, b, scale=1 / math.sqrt(c))
        if shift_context:
            self._add("shift", 1, 1, scale=0.0)

    def bind(self, w: Picked, context: Tensor) -> Field:
        """Make a field of weights and contexts, (G, P, c)."""
        z = context + w["shift"] if "shift" in w else context
        layers = [
            (
                w[f"weight{i}"], w[f"down{i}"], w[f"up{i}"],
                torch.baddbmm(w[f"bias{i}"], z, w[f"bias_up{i}"]),
            )
            for i in range(self.depth)
        ]  # fmt: skip

        def field(x: Tensor) -> Tensor:
            for i, (weight, down, up, bias) in enumerate(layers):
                x = F.silu(x) if i else x
                x = torch.baddbmm(torch.baddbmm(bias, x, weight), torch.bmm(x, down) * z, up)
            return x

        field.tensors = (z, *(t for layer in layers for t in layer))  # type: ignore[attr-defined]
        return field


class CoDABank(Bank):
    """All weights are linear in the context: ``theta_0 + B context``.

    Parameters
    ----------
    width, depth : int
        Of the hidden layers, and their number.
    shift_context : bool
        See `NCFBank`.

    References
    ----------
    .. [1] Kirchmeyer, Yin, Dona, Baskiotis, Rakotomamonjy, Gallinari, "Generalizing to new physical
       systems via context-informed dynamics model", ICML 2022, arXiv:2202.01889, equation 4.
    """

    by_environment = True

    def __init__(
        self,
        n_experts: int,
        n_states: int,
        context_size: int,
        *,
        width: int = 64,
        depth: int = 3,
        shift_context: bool = True,
    ) -> None:
        super().__init__(n_experts, n_states, context_size)
        positive(width=width, depth=depth)
        widths = [n_states, *[width] * depth, n_states]
        self.depth = len(widths) - 1
        for i, (a, b) in enumerate(pairwise(widths)):
            scale = 1 / math.sqrt(a)
            self._add(f"weight{i}", a, b, scale=scale)
            self._add(f"bias{i}", 1, b, scale=scale)
            self._add(f"weight_code{i}", context_size, a * b, scale=scale)
            self._add(f"bias_code{i}", context_size, b, scale=scale)
        if shift_context:
            self._add("shift", 1, 1, scale=0.0)

    def bind(self, w: Picked, context: Tensor) -> Field:
        """Make a field of weights and contexts, (G, P, c), equal in each group."""
        z = context[:, :1] + w["shift"] if "shift" in w else context[:, :1]
        layers = [
            (
                w[f"weight{i}"] + torch.bmm(z, w[f"weight_code{i}"]).view_as(w[f"weight{i}"]),
                torch.baddbmm(w[f"bias{i}"], z, w[f"bias_code{i}"]),
            )
            for i in range(self.depth)
        ]

        def field(x: Tensor) -> Tensor:
            for i, (weight, bias) in enumerate(layers):
                x = torch.baddbmm(bias, F.silu(x) if i else x, weight)
            return x

        field.tensors = tuple(t for layer in layers for t in layer)  # type: ignore[attr-defined]
        return field


class PLRNNBank(Bank):
    """Hierarchical shallow piecewise-linear networks, maps from one stored time to the next.

    ``z' = A z + W1 relu(W2 z + h2) + h1`` with A diagonal; all weights are linear in the context.

    Parameters
    ----------
    width : int
        Hidden units.
    shift_context : bool
        See `NCFBank`.

    References
    ----------
    .. [1] Brenner, Weber, Koppe, Durstewitz, "Learning interpretable hierarchical dynamical systems
       models from time series data", ICLR 2025, arXiv:2410.04814.
    .. [2] Hess et al., "Generalized teacher forcing for learning chaotic dynamics", ICML 2023.
    """

    by_environment = True
    discrete = True

    def __init__(
        self,
        n_experts: int,
        n_states: int,
        context_size: int,
        *,
        width: int = 64,
        shift_context: bool = True,
    ) -> None:
        super().__init__(n_experts, n_states, context_size)
        positive(width=width)
        d, c = n_states, context_size
        shapes = {"diagonal": (1, d), "weight1": (width, d), "shift1": (1, d),
                  "weight2": (d, width), "shift2": (1, width)}  # fmt: skip
        for name, (a, b) in shapes.items():
            scale = 1 / math.sqrt(a if name.startswith("weight") else d)
            self._add(name, a, b, scale=0.0 if name == "diagonal" else scale)
            self._add(f"{name}_code", c, a * b, scale=0.1 * scale)
        with torch.no_grad():
            self.get_parameter("diagonal").fill_(0.9)
        if shift_context:
            self._add("shift", 1, 1, scale=0.0)

    def bind(self, w: Picked, context: Tensor) -> Field:
        """Make a map of weights and contexts, (G, P, c), equal in each group."""
        z = context[:, :1] + w["shift"] if "shift" in w else context[:, :1]

        def made(name: str) -> Tensor:
            return w[name] + torch.bmm(z, w[f"{name}_code"]).view_as(w[name])

        a, w1, h1, w2, h2 = map(made, ("diagonal", "weight1", "shift1", "weight2", "shift2"))

        def step(x: Tensor) -> Tensor:
            return torch.baddbmm(a * x + h1, F.relu(torch.baddbmm(h2, x, w2)), w1)

        step.tensors = (a, w1, h1, w2, h2)  # type: ignore[attr-defined]
        return step


BANKS: dict[str, type[Bank]] = {
    "ncf": NCFBank, "geps": GEPSBank, "coda": CoDABank, "plrnn": PLRNNBank,
}  # fmt: skip


def _load_forward_mode() -> None:
    """Import what torch's forward mode loads on first use, without its own deprecation warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def taylor_field(
    make: Callable[[Tensor], Field], context: Tensor, near: Tensor, order: int
) -> Field:
    r"""Taylor expansion of a field in its context: contextual self-modulation.

    .. math:: f(\xi_j) + J(\xi_j)\,(\xi - \xi_j) + \tfrac12 H(\xi_j)[\xi - \xi_j, \xi - \xi_j]

    Parameters
    ----------
    make : callable
        Context -> field, such as ``partial(bank.bind, weights)``.
    context, near : Tensor
        :math:`\xi` and :math:`\xi_j`.
    order : {0, 1, 2}
        Of the last term.

    Returns
    -------
    callable
        x -> expansion of ``make(context)(x)`` about `near`.

    References
    ----------
    .. [1] Nzoyem, Barton, Deakin, "Neural context flows", ICLR 2025, equation 5.
    .. [2] Nzoyem et al., "Extending contextual self-modulation", arXiv:2410.01655.
    """
    if order not in (0, 1, 2):
        raise ValueError(f"order={order}: allowed 0, 1, 2")
    if order == 0:
        return make(near)
    _load_forward_mode()
    direction = context - near

    def expand(x: Tensor) -> Tensor:
        def value(c: Tensor) -> Tensor:
            return make(c)(x)

        def first(c: Tensor) -> Any:
            return torch.func.jvp(value, (c,), (direction,))

        if order == 1:
            y, jd = first(near)
            linear: Tensor = y + jd
            return linear
        # the direction is held fixed in the second derivative
        found: Any = torch.func.jvp(first, (near,), (direction,))
        (y, jd), (_, hdd) = found
        quadratic: Tensor = y + jd + 0.5 * hdd
        return quadratic

    return expand
