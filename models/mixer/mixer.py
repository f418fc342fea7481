"""MixER: contexts, a gate on them, and a bank of experts of which each environment uses one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from .._sizes import positive
from ..spec import TrajectorySpec
from .contexts import Contexts
from .integrate import Solver, iterate_map
from .vector_fields import BANKS, Bank, taylor_field

__all__ = ["Forcing", "MixER", "Plan", "build_mixer", "make_plan"]

#: What a group of its own, and a second stack of groups, cost in rows (measured on a CPU).
_GROUP, _STACK = 10, 150

Gating = Literal["warmup", "paper", "gradient", "environment", "oracle"]
#: Data and mask for teacher forcing of a discrete map, and its alpha.
Forcing = tuple[Tensor, Tensor, float]


class Plan:
    """Rows sorted into groups of one key, one or two stacks of equal ones; a row fills a short one.

    Parameters
    ----------
    index : Tensor of int, shape (R,)
        Row in each slot.
    position : Tensor of int, shape (B,)
        A slot of each row.
    shapes : tuple of (int, int)
        Groups and slots a group of each stack.
    """

    def __init__(
        self, index: Tensor, position: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> None:
        self.index, self.position, self.shapes = index, position, shapes
        self.shape = shapes[0] if len(shapes) == 1 else (len(index),)
        starts = self.split(torch.arange(len(index), device=index.device))
        self._first = index.index_select(0, torch.cat([s[:, 0] for s in starts]))

    def scatter(self, x: Tensor) -> Tensor:
        """Sort, (B, ...) -> (G, P, ...), or (R, ...) with two stacks."""
        return x.index_select(0, self.index).view(*self.shape, *x.shape[1:])

    def split(self, x: Tensor) -> list[Tensor]:
        """Cut what is sorted into its stacks, (G, P, ...) of each."""
        flat = x.reshape(len(self.index), *x.shape[len(self.shape) :])
        parts = flat.split([g * p for g, p in self.shapes])
        return [v.view(*s, *v.shape[1:]) for v, s in zip(parts, self.shapes, strict=True)]

    def first(self, x: Tensor) -> Tensor:
        """Of the first row of each group, (B, ...) -> (groups, ...)."""
        return x.index_select(0, self._first)

    def gather(self, x: Tensor) -> Tensor:
        """Sort back."""
        return x.flatten(0, len(self.shape) - 1).index_select(0, self.position)


def _size(counts: np.ndarray) -> tuple[int, int]:
    """Size of the groups with the least work for keys of so many rows, and the work in rows."""
    sizes = np.unique(np.ceil(counts[:, None] / np.arange(1, 17)).astype(int))
    work = (-(-counts[:, None] // sizes)).sum(axis=0) * (sizes + _GROUP)
    return int(sizes[work.argmin()]), int(work.min())


def make_plan(keys: Tensor) -> Plan:
    """Group rows by key, so that little is padded however unequal the keys are.

    Keys of many rows get larger groups than those of few where this saves more than what twice as
    many operations cost; never on a GPU.

    Parameters
    ----------
    keys : Tensor of int, shape (B,)
    """
    k = keys.detach().cpu().numpy()
    order = np.argsort(k, kind="stable")
    counts = np.unique(k[order], return_counts=True)[1]
    offsets = np.cumsum(counts) - counts
    by_size = np.argsort(-counts, kind="stable")
    ranked = counts[by_size]
    size, work = _size(ranked)
    cuts, sizes = [0, len(ranked)], [size]
    if ranked[0] > ranked[-1] and keys.device.type == "cpu":
        cut = int((ranked[:-1] / ranked[1:]).argmax()) + 1
        (large, work_large), (small, work_small) = _size(ranked[:cut]), _size(ranked[cut:])
        if work_large + work_small + _STACK < work:
            cuts, sizes = [0, cut, len(ranked)], [large, small]
    index, shapes = [], []
    for (a, b), size in zip(pairwise(cuts), sizes, strict=True):
        mine = by_size[a:b]
        groups = -(-counts[mine] // size)
        key = np.repeat(mine, groups * size)
        start = np.repeat((np.cumsum(groups) - groups) * size, groups * size)
        within = np.arange(len(key)) - start  # which of the key's rows; past its last, repeat one
        within = np.where(within < counts[key], within, within // size * size)
        index.append(order[offsets[key] + within])
        shapes.append((int(groups.sum()), size))
    found = np.concatenate(index)
    position = np.empty(len(k), np.int64)
    position[found[::-1]] = np.arange(len(found))[::-1]
    slots, slot_of = (torch.as_tensor(v).to(keys.device) for v in (found, position))
    return Plan(slots, slot_of, tuple(shapes))


class MixER(nn.Module):
    """Top-1 mixture of context-conditioned experts.

    Parameters
    ----------
    bank : Bank
        The experts; its ``context_size`` is that of the part of a context an expert sees.
    n_environments : int
    gating : {"warmup", "paper", "gradient", "environment", "oracle"}
        ``warmup`` and ``paper``: a linear gate on the contexts that no gradient reaches, set by
        `GateUpdate`. ``gradient``: a gate as in the Switch transformer: the expert's output is
        multiplied by its softmax probability, so that gradients reach the gate. ``environment``:
        expert i for environment i. ``oracle``: `assigned` is set from outside.
    split_context : bool
        Each expert sees its own part of the context, the gate all of it.
    solver : Solver

    Attributes
    ----------
    contexts : Contexts
    gate : Tensor, shape (c + 1, E)
        ``argmax([context, 1] @ gate)`` is the expert; a parameter with ``gradient``, else a buffer.
    assigned : Tensor of int, shape (n_environments,)
        Expert of an environment where it is not the gate's choice, else -1.
    shared : Tensor of bool
        All environments use expert 0: the warm-up is not over.

    References
    ----------
    .. [1] Nzoyem, Stevens, Sahota, Barton, Deakin, "Towards foundational models for dynamical
       system reconstruction", arXiv:2502.05335.
    .. [2] Fedus, Zoph, Shazeer, "Switch transformers", JMLR 23 (2022), section 2.1.
    """

    gate: Tensor
    assigned: Tensor
    shared: Tensor

    def __init__(
        self,
        bank: Bank,
        n_environments: int,
        *,
        gating: Gating = "warmup",
        split_context: bool = False,
        solver: Solver | None = None,
    ) -> None:
        super().__init__()
        e = bank.n_experts
        if gating not in get_args(Gating):
            allowed = ", ".join(map(repr, get_args(Gating)))
            raise ValueError(f"gating={gating!r}: allowed {allowed}")
        if gating == "environment" and e != n_environments:
            raise ValueError(
                f"n_experts={e}: gating='environment' needs one for each of {n_environments} "
                "environments"
            )
        if gating == "gradient" and bank.discrete:
            raise ValueError("gating='gradient' multiplies rates: it needs an expert in time")
        self.bank, self.gating, self.split_context = bank, gating, split_context
        self.solver = solver or Solver()
        self.context_size = bank.context_size * (e if split_context else 1)
        self.contexts = Contexts(n_environments, self.context_size)
        bound = 1 / self.context_size**0.5
        gate = torch.empty(self.context_size + 1, e).uniform_(-bound, bound)
        if gating == "gradient":
            self.gate = nn.Parameter(gate)
        else:
            self.register_buffer("gate", gate)
        assigned = torch.full((n_environments,), -1, dtype=torch.long)
        if gating == "environment":
            assigned = torch.arange(n_environments)
        self.register_buffer("assigned", assigned)
        self.register_buffer("shared", torch.tensor(False))

    @property
    def n_experts(self) -> int:
        """Return E."""
        return self.bank.n_experts

    @property
    def n_environments(self) -> int:
        """Return N."""
        return len(self.contexts.values)

    # -- routing ---------------------------------------------------------------------------

    def scores(self, context: Tensor) -> Tensor:
        """Logits of the gate, (B, c) -> (B, E)."""
        return torch.addmm(self.gate[-1], context, self.gate[:-1])

    def route(self, context: Tensor) -> Tensor:
        """Experts that the gate chooses for contexts, (B, c) -> (B,)."""
        if self.shared:
            return torch.zeros(len(context), dtype=torch.long, device=context.device)
        return self.scores(context.detach()).argmax(dim=1)

    def experts(self) -> Tensor:
        """Expert of each environment, (N,)."""
        routed = self.route(self.contexts.values)
        return torch.where(self.assigned >= 0, self.assigned, routed)

    def piece(self, context: Tensor, experts: Tensor) -> Tensor:
        """Part of each context that its expert sees, (B, c) -> (B, c')."""
        if not self.split_context:
            return context
        parts = context.view(len(context), self.n_experts, -1)
        return parts[torch.arange(len(parts), device=parts.device), experts]

    # -- dynamics --------------------------------------------------------------------------

    def _probability(self, context: Tensor, experts: Tensor) -> Tensor | None:
        """Return what the gradient gate multiplies outputs with, (B,)."""
        if self.gating != "gradient":
            return None
        return self.scores(context).softmax(dim=1).gather(1, experts[:, None])[:, 0]

    def rates(
        self, x: Tensor, context: Tensor, experts: Tensor, keys: Tensor | None = None
    ) -> Tensor:
        """Evaluate the vector field: a state of each context, (B, d) -> (B, d).

        Parameters
        ----------
        x : Tensor, shape (B, d)
        context : Tensor, shape (B, c)
        experts : Tensor, shape (B,)
        keys : Tensor, shape (B,), optional
            Equal only for rows of one context and expert; default: no rows share one.
        """
        plan, field, _ = self._bound(context, experts, keys, None, 0)
        y = plan.gather(field(plan.scatter(x)))
        p = self._probability(context, experts)
        return y if p is None else y * p[:, None]

    def _bound(
        self,
        context: Tensor,
        experts: Tensor,
        keys: Tensor | None,
        near: Tensor | None,
        order: int,
    ) -> tuple[Plan, Callable[[Tensor], Tensor], tuple[Tensor, ...]]:
        """Plan of the batch, the field of its sorted rows, and the tensors that it depends on."""
        if self.bank.by_environment:
            if keys is None:
                keys = torch.arange(len(context), device=context.device)
        else:
            keys = experts
        plan = make_plan(keys)
        picked = self.bank.pick(plan.first(experts))
        own = plan.split(plan.scatter(self.piece(context, experts)))
        weights = zip(*(w.split([g for g, _ in plan.shapes]) for w in picked.values()), strict=True)
        make = [partial(self.bank.bind, dict(zip(picked, w, strict=True))) for w in weights]
        if near is None or order == 0:
            fields = [m(c) for m, c in zip(make, own, strict=True)]
        else:
            other = plan.split(plan.scatter(self.piece(near, experts)))
            fields = [taylor_field(*v, order) for v in zip(make, own, other, strict=True)]
        tensors = tuple(t for f in fields for t in getattr(f, "tensors", ()))
        if len(fields) == 1:
            return plan, fields[0], tensors

        def field(x: Tensor) -> Tensor:
            parts = zip(fields, plan.split(x), strict=True)
            return torch.cat([f(v).flatten(0, 1) for f, v in parts])

        return plan, field, tensors

    def trajectories(
        self,
        x0: Tensor,
        times: Tensor,
        context: Tensor,
        experts: Tensor,
        *,
        keys: Tensor | None = None,
        near: Tensor | None = None,
        order: int = 0,
        forcing: Forcing | None = None,
        solver: Solver | None = None,
    ) -> Tensor:
        """Integrate trajectories, each with a context and an expert of its own.

        Parameters
        ----------
        x0 : Tensor, shape (B, d)
        times : Tensor, shape (B, T)
            Increasing; equal neighbors hold the state. Of a discrete map only T counts.
        context : Tensor, shape (B, c)
        experts : Tensor, shape (B,)
        keys : Tensor, shape (B,), optional
            See `rates`.
        near, order
            Expand the field about these contexts, (B, c): see `taylor_field`.
        forcing : (Tensor (B, T, d), Tensor (B, T, d), float), optional
            Data, where it is observed, and alpha: for discrete maps, see `iterate_map`.
        solver : Solver, optional

        Returns
        -------
        Tensor, shape (B, T, d)
        """
        solver = solver or self.solver
        plan, field, tensors = self._bound(context, experts, keys, near, order)
        start = plan.scatter(x0)
        if self.bank.discrete:
            more: dict[str, Any] = {}
            if forcing is not None:
                data, observed, alpha = forcing
                more = {
                    "data": plan.scatter(data), "observed": plan.scatter(observed),
                    "forcing": alpha,
                }  # fmt: skip
            return plan.gather(
                iterate_map(field, start, times.shape[1], limit=solver.limit, **more)
            )
        p = self._probability(context, experts)
        if p is not None:
            scale, inner = plan.scatter(p)[..., None], field

            def field(x: Tensor) -> Tensor:
                return inner(x) * scale

            tensors = (*tensors, scale)
        return plan.gather(solver(field, start, plan.scatter(times), parameters=tensors))

    def forward(
        self, x0: Tensor, times: Tensor, environments: Tensor, solver: Solver | None = None
    ) -> Tensor:
        """Predict trajectories of known environments.

        Parameters
        ----------
        x0 : Tensor, shape (B, d)
        times : Tensor, shape (B, T)
        environments : Tensor of int, shape (B,)

        Returns
        -------
        Tensor, shape (B, T, d)
        """
        experts = self.experts()[environments]
        return self.trajectories(
            x0, times, self.contexts(environments), experts, keys=environments, solver=solver
        )

    @torch.no_grad()
    def every_expert(
        self, x0: Tensor, times: Tensor, environments: Tensor, solver: Solver | None = None
    ) -> Tensor:
        """Predict each trajectory by each expert, (E, B, T, d)."""
        b, e = len(x0), self.n_experts
        experts = torch.arange(e, device=x0.device).repeat_interleave(b)
        keys = experts * self.n_environments + environments.repeat(e)
        found = self.trajectories(
            x0.repeat(e, 1), times.repeat(e, 1), self.contexts(environments).repeat(e, 1), experts,
            keys=keys, solver=solver,
        )  # fmt: skip
        return found.view(e, b, *found.shape[1:])

    # -- for new environments --------------------------------------------------------------

    def reset_environments(self, n: int) -> None:
        """Replace the environments by `n` new ones with zero contexts that the gate routes."""
        like = self.contexts.values
        self.contexts = Contexts(n, self.context_size).to(like.device, like.dtype)
        self.assigned = torch.full((n,), -1, dtype=torch.long, device=like.device)


def build_mixer(
    spec: TrajectorySpec,
    *,
    n_experts: int | None = None,
    expert: Literal["ncf", "coda", "geps", "plrnn"] = "ncf",
    gating: Literal["warmup", "paper", "gradient", "environment", "oracle"] = "warmup",
    context_size: int | None = None,
    split_context: bool | None = None,
    width: int = 64,
    depth: int = 3,
    shift_context: bool = True,
) -> MixER:
    """Build a mixture for the environments of a dataset.

    Parameters
    ----------
    spec : TrajectorySpec
    n_experts : int, optional
        Default: the number of families if the data says it, else a third of the environments, at
        most 4; one for each environment with ``gating="environment"``.
    expert : {"ncf", "coda", "geps", "plrnn"}
        Kind of the experts, see `models.mixer.vector_fields`. plrnn is a map from one stored time
        to the next.
    gating : {"warmup", "paper", "gradient", "environment", "oracle"}
        See `MixER`; ``paper`` is the published scheme to the letter, ``warmup`` trains one shared
        expert first, ``oracle`` is told the families.
    context_size : int, optional
        Of all of a context; default 8, or 4 for each expert with `split_context`.
    split_context : bool, optional
        Default only with ``gating="paper"``, as published.
    width, depth : int
        Of the hidden layers of an expert, and their number.
    shift_context : bool
        Add a learned number of each expert to its contexts.

    Raises
    ------
    ValueError
        A context that cannot be split; an oracle without families, or not an expert for each.
    """
    n = spec.n_environments
    if n_experts is None:
        n_experts = spec.n_families or max(1, min(4, n // 3))
        n_experts = n if gating == "environment" else min(n_experts, n)
    positive(n_experts=n_experts)
    if gating == "oracle" and n_experts != spec.n_families:
        raise ValueError(
            f"n_experts={n_experts}: gating='oracle' needs one for each of the data's "
            f"{spec.n_families or 0} families"
        )
    split = gating == "paper" if split_context is None else split_context
    if context_size is None:
        context_size = 4 * n_experts if split else 8
    if context_size < 1 or (split and context_size % n_experts):
        needed = f"a multiple of n_experts={n_experts}" if split else "an integer >= 1"
        raise ValueError(
            f"context_size={context_size}: need {needed} with split_context={str(split).lower()}"
        )
    kind = BANKS[expert]
    sizes: dict[str, int] = {"width": width}
    if not kind.discrete:
        sizes["depth"] = depth
    part = context_size // n_experts if split else context_size
    bank = kind(n_experts, spec.n_states, part, shift_context=shift_context, **sizes)  # type: ignore[call-arg]
    model = MixER(bank, n, gating=gating, split_context=split)
    model.resolved_options = {  # type: ignore[assignment]
        "n_experts": n_experts, "context_size": context_size, "split_context": split,
    }  # fmt: skip
    return model
