"""Contexts for new environments, with all weights frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .mixer import Forcing, MixER

__all__ = ["Adapted", "adapt_contexts", "masked_mse"]


def masked_mse(prediction: Tensor, data: Tensor, observed: Tensor) -> Tensor:
    """Mean squared error of each trajectory over what is observed, (..., B, T, d) -> (..., B).

    The first time, which is given, does not count.
    """
    error = torch.where(observed, prediction - data, 0.0)[..., 1:, :].square().sum((-1, -2))
    return error / observed[..., 1:, :].sum((-1, -2)).clamp_min(1)


@dataclass(frozen=True)
class Adapted:
    """Contexts of new environments.

    Parameters
    ----------
    contexts : Tensor, shape (N, c)
    experts : Tensor of int, shape (N,)
    losses : Tensor, shape (N, E)
        Loss under each expert with its best context; infinite for experts that were not tried.
    start_losses : Tensor, shape (N,)
        Loss with a context of zero, by the expert that the gate chooses for it.
    """

    contexts: Tensor
    experts: Tensor
    losses: Tensor
    start_losses: Tensor


def adapt_contexts(
    model: MixER,
    x: Tensor,
    times: Tensor,
    observed: Tensor,
    environments: Tensor,
    *,
    n: int,
    route: Literal["best", "gate"] = "best",
    steps: int = 500,
    lr: float = 1e-2,
    forcing: float = 1.0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Adapted:
    """Fit contexts to trajectories of new environments; nothing of the model changes.

    Parameters
    ----------
    model : MixER
    x : Tensor, shape (B, T, d)
        Normalized; observed completely at the first time.
    times : Tensor, shape (B, T)
    observed : Tensor of bool, shape (B, T, d)
    environments : Tensor of int, shape (B,)
        Below `n`, each at least once.
    n : int
        New environments.
    route : {"best", "gate"}
        ``best``: adapt under each expert, from that context of the expert's own environments that
        fits best, and keep the expert with the least loss. ``gate``: start from zero, and ask the
        gate before each step.
    steps : int
    lr : float
        Of Adam; it falls along a cosine.
    forcing : float
        Of discrete maps, see `iterate_map`.
    progress : callable, optional

    Returns
    -------
    Adapted

    Notes
    -----
    Adam scales each context by itself and environments share nothing that changes, so that one
    environment at a time gives the same contexts as all at once.
    """
    e = model.n_experts if route == "best" else 1
    b = len(x)
    counts = torch.bincount(environments, minlength=n).clamp_min(1).to(x)
    zero = x.new_zeros(n, model.context_size)
    start = zero.expand(e, -1, -1).clone()
    if route == "best":
        start = _nearest_known(model, x, times, observed, environments, counts, start)
    frozen = [p for p in model.parameters() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    contexts = start.requires_grad_(True)
    optimizer = torch.optim.Adam([contexts], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    tiled = environments.repeat(e)
    data = tuple(v.repeat(e, *[1] * (v.ndim - 1)) for v in (x, times, observed))
    copy = torch.arange(e, device=x.device).repeat_interleave(b)
    force: Forcing | None = (data[0], data[2], forcing) if forcing < 1 else None

    def losses(values: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each copy and environment, (e, n), and the experts of the rows."""
        experts = copy if route == "best" else model.route(values[0])[tiled]
        found = model.trajectories(
            data[0][:, 0], data[1], values[copy, tiled], experts, keys=copy * n + tiled,
            forcing=force,
        )  # fmt: skip
        each = masked_mse(found, data[0], data[2])
        total = each.new_zeros(e * n).index_add(0, copy * n + tiled, each)
        return total.view(e, n) / counts, experts

    best = contexts.detach().clone()
    least = x.new_full((e, n), torch.inf)
    try:
        for step in range(steps + 1):
            optimizer.zero_grad()
            found, _ = losses(contexts)
            with torch.no_grad():
                better = found < least
                least = torch.where(better, found, least)
                best = torch.where(better[..., None], contexts, best)
            if step == steps:
                break
            found.sum().backward()
            optimizer.step()
            scheduler.step()
            if progress is not None:
                progress(step + 1, steps, f"loss {float(least.min(dim=0).values.mean()):.3g}")
        with torch.no_grad():
            experts = model.route(zero)
            rows = model.trajectories(
                x[:, 0], times, zero[environments], experts[environments], keys=environments
            )
            each = masked_mse(rows, x, observed)
            first = each.new_zeros(n).index_add(0, environments, each) / counts
    finally:
        for p in frozen:
            p.requires_grad_(True)
    if route == "gate":
        experts = model.route(best[0])
        table = x.new_full((n, model.n_experts), torch.inf)
        table[torch.arange(n), experts] = least[0]
        return Adapted(best[0], experts, table, first)
    chosen = least.argmin(dim=0)
    return Adapted(best[chosen, torch.arange(n)], chosen, least.T.clone(), first)


@torch.no_grad()
def _nearest_known(
    model: MixER,
    x: Tensor,
    times: Tensor,
    observed: Tensor,
    environments: Tensor,
    counts: Tensor,
    start: Tensor,
) -> Tensor:
    """Of each expert's own contexts the one with the least loss on each new environment."""
    least = x.new_full(start.shape[:2], torch.inf)
    known, own = model.contexts.values, model.experts()
    for context, expert in zip(known, own.tolist(), strict=True):
        rows = torch.full_like(environments, expert)
        found = model.trajectories(
            x[:, 0], times, context.expand(len(x), -1), rows, keys=torch.zeros_like(rows)
        )
        each = masked_mse(found, x, observed)
        loss = each.new_zeros(len(counts)).index_add(0, environments, each) / counts
        better = loss < least[expert]
        least[expert] = torch.where(better, loss, least[expert])
        start[expert] = torch.where(better[:, None], context, start[expert])
    return start
