"""`Learner`: the part of a training that a task supplies; `opkit.fit` has the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .fit import FitConfig

__all__ = ["AdamW", "Learner"]


class AdamW(torch.optim.AdamW):
    """torch's AdamW with a step that leaves out what takes longer than the step of a small net.

    `quick_step` changes the weights as `step` does, without hooks, records for a profiler and the
    search for devices.
    """

    _lists: tuple[Any, list[tuple[dict[str, Any], list[list[Tensor]]]]] | None = None

    @torch.no_grad()
    def quick_step(self) -> None:
        """Change the weights by their gradients."""
        from torch.optim.adamw import adamw

        parameters = [p for group in self.param_groups for p in group["params"]]
        if len(self.state) < len(parameters) or any(p.grad is None for p in parameters):
            self.step()
            return
        if self._lists is None or self._lists[0] is not self.state:  # or a state was loaded
            names = ("exp_avg", "exp_avg_sq", "step")
            self._lists = (
                self.state,
                [(g, [[self.state[p][k] for p in g["params"]] for k in names])
                 for g in self.param_groups],
            )  # fmt: skip
        for group, (averages, squares, steps) in self._lists[1]:
            adamw(
                group["params"], [p.grad for p in group["params"]], averages, squares, [], steps,
                fused=group["fused"], foreach=group["foreach"], amsgrad=False,
                beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
            )  # fmt: skip


class Learner(nn.Module):
    """What a step computes.

    Parameters
    ----------
    model : nn.Module
        Its state becomes ``model.safetensors``.

    Notes
    -----
    State that a resumed training needs lies in parameters and buffers. torch's global generator is
    seeded with (seed, epoch, process) before each epoch, so training may draw from it; errors on
    valid depend on the sample alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def losses(self, *batch: Tensor) -> Tensor:
        """Training loss of each item of a batch (without its weights), shape (b,)."""
        raise NotImplementedError

    def errors(self, *batch: Tensor) -> dict[str, Tensor]:
        """``"loss"`` and each of `Task.metrics`, each of shape (b,)."""
        raise NotImplementedError

    def optimizer(self, config: FitConfig) -> torch.optim.Optimizer:
        """AdamW over all parameters, in one kernel where torch has one."""
        parameters = list(self.parameters())
        fused = all(p.device.type in ("cpu", "cuda") and not p.is_complex() for p in parameters)
        return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)

    def on_epoch_start(self, epoch: int) -> None:
        """Prepare an epoch; the generator is seeded."""

    def before_step(self, step: int, total: int) -> None:
        """Prepare step `step` of `total`, before its gradients are computed."""

    def after_step(self, step: int, total: int) -> None:
        """Follow a change of the weights: projections, updates without gradients."""


def weighted_mean(values: Tensor, weights: Tensor) -> Any:
    """Mean of `values`, shape (b,), over items of weight 1."""
    return values @ weights.to(values.dtype) / weights.sum().clamp_min(1.0)
