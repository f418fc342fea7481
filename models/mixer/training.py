"""What each step of the meta-training trains, its proximal terms, and when the gate is set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .contexts import nearest_contexts
from .gating import GateResult, GateUpdate
from .mixer import MixER

__all__ = ["MetaTraining"]


class MetaTraining(nn.Module):
    r"""Proximal alternating minimization of contexts and weights, and the gate's updates.

    `inner_steps` steps train the contexts with
    :math:`L + \frac\beta2 \overline{(\xi-\xi_{old})^2}`, then as many the weights with
    :math:`L + \frac\beta2 \overline{(\theta-\theta_{old})^2}`, where "old" is the state at the
    beginning of both. After every `gate_every` steps the gate is set anew.

    Parameters
    ----------
    model : MixER
    inner_steps : int
        0: contexts and weights together, without proximal terms.
    beta : float
    gate_every : int
        Steps from one gate to the next.
    warmup : float
        Part of the steps in which all environments share expert 0, which then becomes all experts.
        0 with ``gating="paper"``.
    regularization : float
        Times the mean of the contexts' absolute values, added to the loss.
    balance : float
        Times the squared coefficient of variation of the experts' mean gate probability, added to
        the loss with ``gating="gradient"``.
    seed : int
        Of the centroids and of the noise in the gate.

    Attributes
    ----------
    counts : Tensor of int, shape (3,)
        Updates of the gate, and those skipped as ``empty`` and ``not_converged``.

    Notes
    -----
    The state lies in buffers, so that a resumed training goes on bit by bit. Nothing here is
    trained, and `model` is no submodule.

    References
    ----------
    .. [1] Nzoyem et al., arXiv:2502.05335, algorithms 1 and 2.
    """

    old_contexts: Tensor
    centroids: Tensor
    has_centroids: Tensor
    losses: Tensor
    counts: Tensor
    warmed: Tensor

    def __init__(
        self,
        model: MixER,
        *,
        inner_steps: int = 12,
        beta: float = 10.0,
        gate_every: int = 12,
        warmup: float = 0.0,
        regularization: float = 0.0,
        balance: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("inner_steps", inner_steps, 0), ("beta", beta, 0), ("gate_every", gate_every, 1),
            ("regularization", regularization, 0), ("balance", balance, 0),
        ):  # fmt: skip
            if not value >= least:
                raise ValueError(f"{name}={value}: need a number >= {least}")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup={warmup}: need a number in [0, 1)")
        if model.n_experts > model.n_environments:
            raise ValueError(
                f"n_experts={model.n_experts}: need as many environments, there are "
                f"{model.n_environments}"
            )
        self._model = (model,)
        self.inner_steps, self.beta, self.gate_every = inner_steps, beta, gate_every
        self.warmup, self.regularization, self.balance = warmup, regularization, balance
        self.seed = seed
        e = model.n_experts
        robust = model.gating == "warmup"
        self.update = GateUpdate(
            e,
            assignment="hungarian" if robust else "greedy",
            init="kmeans++" if robust else "paper",
            max_iter=100 if robust else 20,
            repair=robust,
        )
        self.sets_gate = model.gating in ("warmup", "paper") and e > 1
        values = model.contexts.values.detach()
        self.register_buffer("old_contexts", values.clone())
        for i, p in enumerate(model.bank.parameters()):
            self.register_buffer(f"old_weight{i}", p.detach().clone())
        self.register_buffer("centroids", values.new_zeros(e, values.shape[1]))
        self.register_buffer("has_centroids", torch.tensor(False))
        self.register_buffer("losses", values.new_full((len(values), e), math.nan))
        self.register_buffer("counts", torch.zeros(3, dtype=torch.long))
        self.register_buffer("warmed", torch.tensor(self.warmup == 0 or e == 1))
        self.trains: Literal["contexts", "weights", "both"] = "both"

    @property
    def model(self) -> MixER:
        """The model that is trained."""
        return self._model[0]

    def warmup_steps(self, total: int) -> int:
        """Return the number of steps with a shared expert."""
        return round(self.warmup * total) if self.model.n_experts > 1 else 0

    def before_step(self, step: int, total: int) -> None:
        """Choose what this step trains."""
        model, k = self.model, self.inner_steps
        warm = step < self.warmup_steps(total) and not self.warmed
        if bool(model.shared) != warm:
            model.shared.fill_(warm)
        if k == 0:
            return
        if step % (2 * k) == 0:
            with torch.no_grad():
                self.old_contexts.copy_(model.contexts.values)
                for i, p in enumerate(model.bank.parameters()):
                    self.get_buffer(f"old_weight{i}").copy_(p)
        self.trains = "contexts" if step % (2 * k) < k else "weights"
        model.contexts.values.requires_grad_(self.trains == "contexts")
        for p in model.bank.parameters():
            p.requires_grad_(self.trains == "weights")

    def finish(self) -> None:
        """Make all parameters trainable again."""
        for p in self.model.parameters():
            p.requires_grad_(True)

    def penalty(self) -> Tensor:
        """Proximal term of this step, regularization and balance: add it to the loss."""
        model = self.model
        values = model.contexts.values
        total = values.new_zeros(())
        if self.inner_steps and self.beta:
            if self.trains == "contexts":
                total = total + 0.5 * self.beta * (values - self.old_contexts).square().mean()
            else:
                squares, n = values.new_zeros(()), 0
                for i, p in enumerate(model.bank.parameters()):
                    squares = squares + (p - self.get_buffer(f"old_weight{i}")).square().sum()
                    n += p.numel()
                total = total + 0.5 * self.beta * squares / n
        if self.regularization:
            total = total + self.regularization * values.abs().mean()
        if self.balance and model.gating == "gradient":
            importance = model.scores(values).softmax(dim=1).sum(dim=0)
            total = total + self.balance * importance.var() / importance.mean().square()
        return total

    def contributors(self, count: int) -> Tensor:
        """Draw a random environment and return its `count` nearest in context space, itself too."""
        values = self.model.contexts.values.detach()
        first = torch.randint(len(values), (1,), device=values.device)
        return nearest_contexts(values, first, min(count, len(values)))[0]

    @torch.no_grad()
    def after_step(
        self,
        step: int,
        total: int,
        expert_losses: Callable[[], tuple[Tensor, Tensor]],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> GateResult | None:
        """End the warm-up, set the gate.

        Parameters
        ----------
        step, total : int
        expert_losses : callable
            Returns environments, (n,), and the loss of every expert on them, (n, E); called when
            it is time. Of environments that it leaves out the last known losses count; before all
            are known the gate is left as it is.
        optimizer : torch.optim.Optimizer, optional
            Whose moments follow when the shared expert is copied.

        Returns
        -------
        GateResult or None
            None: it was not time.
        """
        model = self.model
        ends = not self.warmed and step + 1 >= self.warmup_steps(total)
        if ends:
            self.warmed.fill_(True)
            model.bank.copy_(0)
            model.shared.fill_(False)
            for p in model.bank.parameters():
                state: dict[str, Any] = optimizer.state.get(p, {}) if optimizer is not None else {}
                for value in state.values():
                    if isinstance(value, Tensor) and value.shape == p.shape:
                        value.copy_(value[:1].expand_as(value).clone())
        due = (step + 1) % self.gate_every == 0 or ends
        if not self.sets_gate or not due or not self.warmed:
            return None
        environments, losses = expert_losses()
        self.losses[environments] = losses.to(self.losses)
        if not bool(torch.isfinite(self.losses).all()):
            return None
        found = self.update(
            model.contexts.values, self.losses, model.gate,
            self.centroids if self.has_centroids else None, seed=self.seed + step,
        )  # fmt: skip
        self.counts[0] += 1
        if found.skipped is None:
            model.gate.copy_(found.weight)
        else:
            self.counts[1 + ("empty", "not_converged").index(found.skipped)] += 1
        self.has_centroids.fill_(found.centroids is not None)
        if found.centroids is not None:
            self.centroids.copy_(found.centroids)
        return found
