"""`Learner`: the part of a training that a task supplies; `opkit.fit` has the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .fit import FitConfig

__all__ = ["Learner"]


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
        return torch.optim.AdamW(
            parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )

    def on_epoch_start(self, epoch: int) -> None:
        """Prepare an epoch; the generator is seeded."""

    def before_step(self, step: int, total: int) -> None:
        """Prepare step `step` of `total`, before its gradients are computed."""

    def after_step(self, step: int, total: int) -> None:
        """Follow a change of the weights: projections, updates without gradients."""


def weighted_mean(values: Tensor, weights: Tensor) -> Any:
    """Mean of `values`, shape (b,), over items of weight 1."""
    return (values * weights).sum() / weights.sum().clamp_min(1.0)
