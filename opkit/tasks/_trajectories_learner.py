"""Training on trajectories: segments, losses, and the meta-training's alternation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from models.mixer import MetaTraining, MixER
from models.mixer.adaptation import masked_mse
from models.mixer.contexts import nearest_contexts

from ..errors import UsageError
from ..learner import AdamW, Learner
from .trajectories import TrajectoriesTask, TrajectoryArrays, TrajectoryScale

if TYPE_CHECKING:
    from opkit.fit import FitConfig
    from pde_data.hdf5 import Split

__all__ = ["TrajectoryData", "TrajectoryLearner", "segments"]


def segments(
    arrays: TrajectoryArrays, horizon: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut trajectories where all states are observed, at most `horizon` steps apart if possible.

    Parameters
    ----------
    arrays : TrajectoryArrays
    horizon : int, optional
        Default: one segment a trajectory, from its first complete state on.

    Returns
    -------
    x, times, observed : ndarray, shape (m, L, ...)
        Short ones are filled up with the last time and nothing observed.
    sample : ndarray, shape (m,)
        Which trajectory each comes from.

    Raises
    ------
    UsageError
        A trajectory has no time at which all states are observed, or nothing after it.
    """
    pieces: list[tuple[int, int, int]] = []
    for i in range(len(arrays.x)):
        seen = np.flatnonzero(arrays.observed[i].any(axis=1))
        complete = np.flatnonzero(arrays.observed[i].all(axis=1))
        if not len(complete) or seen[-1] <= complete[0]:
            raise UsageError(
                f"sample {int(arrays.ids[i])} (environment {arrays.environment[i]:g}): a "
                "trajectory needs a time at which all states are observed, and values after it"
            )
        start, end = int(complete[0]), int(seen[-1])
        while start < end:
            stop = end
            if horizon is not None:
                inside = complete[(complete > start) & (complete <= start + horizon)]
                later = complete[complete > start]
                stop = int(inside[-1] if len(inside) else later[0] if len(later) else end)
            pieces.append((i, start, stop))
            start = stop
    longest = max(stop - start for _, start, stop in pieces) + 1
    m, d = len(pieces), arrays.x.shape[2]
    x, observed = np.zeros((m, longest, d)), np.zeros((m, longest, d), bool)
    times = np.zeros((m, longest))
    for row, (i, start, stop) in enumerate(pieces):
        n = stop - start + 1
        x[row, :n], observed[row, :n] = (
            arrays.x[i, start : stop + 1],
            arrays.observed[i, start : stop + 1],
        )
        times[row, :n] = arrays.times[i, start : stop + 1]
        times[row, n:] = times[row, n - 1]
    return x, times, observed, np.array([i for i, _, _ in pieces])


def random_windows(
    x: Tensor, times: Tensor, observed: Tensor, *, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a random part of at least `least` of its steps out of each trajectory.

    Parts start where all states are observed, and have values after that; a trajectory in which
    no other part does is taken from its start on. Draws from torch's global generator.

    Parameters
    ----------
    x, times, observed : Tensor, shape (B, T, d), (B, T), (B, T, d)
        As `segments` gives them.
    least : float, in (0, 1]

    Returns
    -------
    x, times, observed : Tensor
        The same shapes; nothing is observed after the end of a part.
    """
    b, n = times.shape
    at = torch.arange(n, device=x.device)
    seen = observed.any(dim=2)
    last = (at * seen).amax(dim=1)  # of each trajectory
    shortest = torch.ceil(least * last).clamp_min(1)
    draw = torch.rand(2, b, device=x.device)
    length = shortest + ((last - shortest + 1) * draw[0]).floor()
    length = torch.minimum(length, last).long()
    # a start: complete, with a value within the length after it, which ends in the trajectory
    until = seen.cumsum(dim=1)
    end = (at + length[:, None]).clamp_max(n - 1)
    fits = at + length[:, None] <= last[:, None]
    possible = observed.all(dim=2) & fits & (until.gather(1, end) > until)
    count = possible.sum(dim=1)
    number = (draw[1] * count).long()  # of the start among the possible ones
    start = (possible.cumsum(dim=1) > number[:, None]).long().argmax(dim=1)
    length = torch.where(count > 0, length, last)
    index = torch.minimum(start[:, None] + at, (start + length)[:, None])
    inside = at <= length[:, None]
    x, observed = (v.gather(1, index[..., None].expand_as(v)) for v in (x, observed))
    times = times.gather(1, index)
    return x, times - times[:, :1], observed & inside[..., None]


class TrajectoryData(TorchDataset[tuple[Tensor, ...]]):
    """Batches of trajectories: states, times, what is observed, environments, weights.

    Parameters
    ----------
    split : Split
    task : TrajectoriesTask
    dtype : torch.dtype
    limit : int, optional
        Use the first samples only.
    horizon : int, optional
        Cut trajectories, see `segments`; an item is then a segment.
    """

    cached, blocks = True, None

    def __init__(
        self,
        split: Split,
        task: TrajectoriesTask,
        *,
        dtype: torch.dtype,
        limit: int | None = None,
        horizon: int | None = None,
    ) -> None:
        n = len(split) if limit is None else min(limit, len(split))
        arrays = task.read(split, np.arange(n))
        self.arrays, self.dtype = arrays, dtype
        x, times, observed, sample = segments(arrays, horizon)
        self.sample = sample
        environments = task.environment_index(arrays.environment)[sample]
        self.tensors = (
            torch.as_tensor(x).to(dtype),
            torch.as_tensor(times - times[:, :1]).to(dtype),
            torch.as_tensor(observed),
            torch.as_tensor(environments),
        )

    def __len__(self) -> int:
        return len(self.sample)

    def load(self) -> None:
        """All is in memory already."""

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, ...]:
        """Take a batch.

        Returns
        -------
        x, times, observed : Tensor, shape (b, T, d), (b, T), (b, T, d)
            Physical units, times from 0.
        environments : Tensor of int, shape (b,)
            Positions in the model's contexts.
        weights : Tensor, shape (b,)
        """
        index = np.asarray(indices, np.int64)
        weights = torch.as_tensor(index >= 0).to(self.dtype)
        rows = torch.as_tensor(np.where(index < 0, -index - 1, index))
        return (*(t.index_select(0, rows) for t in self.tensors), weights)


class TrajectoryLearner(Learner):
    """Mean squared error of trajectories in normalized units, and `MetaTraining`.

    Parameters
    ----------
    model : MixER
    task : TrajectoriesTask
    scale : TrajectoryScale
    config : FitConfig
    """

    model: MixER
    shift: Tensor
    scale: Tensor

    def __init__(
        self, model: MixER, task: TrajectoriesTask, scale: TrajectoryScale, config: FitConfig
    ) -> None:
        super().__init__(model)
        settings = task.settings
        if config.devices not in (1, "auto") or config.num_nodes != 1:
            raise UsageError(
                f"devices={config.devices}, num_nodes={config.num_nodes}: the gate needs all "
                "environments in one process"
            )
        model.solver = task.solver
        if model.bank.discrete and settings.method != "rk4":
            raise UsageError(f"method={settings.method}: expert=plrnn is a map, not integrated")
        if settings.gradients == "adjoint" and settings.taylor_order:
            raise UsageError("gradients=adjoint: not with taylor_order above 0; use direct")
        if model.gating == "oracle":
            _, kind = np.unique(task.families, return_inverse=True)
            model.assigned.copy_(torch.as_tensor(kind))
        paper, n, e = model.gating == "paper", model.n_environments, model.n_experts
        warmup = settings.warmup
        if warmup is None:
            warmup = 0.3 if model.gating == "warmup" and e > 1 else 0.0
        if warmup and config.max_seconds is not None:
            raise UsageError(
                f"max_seconds={config.max_seconds}: the warm-up counts steps; set epochs instead"
            )
        self.count = settings.contributors or (-(-n // e) if paper else n)
        inner = settings.inner_steps
        inner = (12 if paper else 0) if inner is None else inner
        self.order, self.pool = settings.taylor_order, min(settings.pool, n)
        self.relative, self.context_lr = config.loss == "relative", settings.context_lr
        self.window, self.reweight = settings.window, settings.reweight
        self.forcing = settings.forcing if model.bank.discrete else 1.0
        self.time = scale.time
        try:
            self.meta = MetaTraining(
                model,
                inner_steps=inner,
                beta=settings.beta,
                gate_every=settings.gate_every or (1 if paper else max(12, 4 * e)),
                warmup=warmup,
                regularization=settings.regularization,
                balance=settings.balance,
                seed=config.seed,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
        dtype = torch.float64 if config.precision.startswith("64") else torch.float32
        for name in ("shift", "scale"):
            value = torch.tensor(getattr(scale, name), dtype=dtype)
            self.register_buffer(name, value, persistent=False)
        self._batch: tuple[Tensor, ...] | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    def optimizer(self, config: FitConfig) -> torch.optim.Optimizer:
        """AdamW; contexts with a learning rate of their own."""
        contexts = list(self.model.contexts.parameters())
        own = {id(p) for p in contexts}
        rest = [p for p in self.model.parameters() if id(p) not in own]
        self._optimizer = AdamW(
            [
                {"params": contexts, "lr": config.lr * self.context_lr, "weight_decay": 0.0},
                {"params": rest, "lr": config.lr},
            ],
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=contexts[0].device.type in ("cpu", "cuda"),
        )
        return self._optimizer

    def before_step(self, step: int, total: int) -> None:
        """Choose contexts or weights."""
        self.meta.before_step(step, total)

    def after_step(self, step: int, total: int) -> None:
        """End the warm-up, set the gate; the step's batch shows how good the experts are."""
        self.meta.after_step(step, total, self._expert_losses, self._optimizer)
        if step + 1 == total:
            self.meta.finish()

    def _expert_losses(self) -> tuple[Tensor, Tensor]:
        if self._batch is None:
            raise RuntimeError("no batch was seen")
        x, times, observed, environments, weights = self._batch
        keep = weights > 0
        x, times, observed, environments = (v[keep] for v in (x, times, observed, environments))
        found = self.model.every_expert(x[:, 0], times, environments)
        each = masked_mse(found, x, observed)
        present, row = environments.unique(return_inverse=True)
        total = each.new_zeros(len(each), len(present)).index_add(1, row, each)
        return present, (total / torch.bincount(row)).T

    # -- losses ----------------------------------------------------------------------------

    def normalized(self, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """States and times as the model takes them."""
        return (x - self.shift) / self.scale, times / self.time

    def losses(self, *batch: Tensor) -> Tensor:
        """Error of each trajectory by its environment's expert, plus the terms of `MetaTraining`.

        With fewer contributors than environments, the others' losses are 0 and theirs are scaled.
        """
        x, times, observed, environments, weights = batch
        x, times = self.normalized(x, times)
        self._batch = (x, times, observed, environments, weights)
        model = self.model
        experts = model.experts()
        rows = torch.arange(len(x), device=x.device)
        if self.count < model.n_environments:
            chosen = torch.isin(environments, self.meta.contributors(self.count)) & (weights > 0)
            if bool(chosen.any()):
                rows = rows[chosen]
        mine = environments[rows]
        near, order, copies = None, 0, 1
        keys, context = mine, model.contexts(mine)
        if self.order and self.pool > 1:
            order, copies = self.order, self.pool
            values = model.contexts.values
            other = nearest_contexts(
                values.detach(), torch.arange(len(values), device=x.device), copies
            )[mine]
            near = values[other.T.flatten()]
            context, mine = context.repeat(copies, 1), mine.repeat(copies)
            step = torch.arange(copies, device=x.device).repeat_interleave(len(rows))
            keys = mine * copies + step
        data = x[rows], times[rows], observed[rows]
        if self.window < 1:
            data = random_windows(*data, least=self.window)
        picked = [v.repeat(copies, *[1] * (v.ndim - 1)) for v in data]
        forcing = (picked[0], picked[2], self.forcing) if self.forcing < 1 else None
        found = model.trajectories(
            picked[0][:, 0], picked[1], context, experts[mine], keys=keys, near=near, order=order,
            forcing=forcing,
        )  # fmt: skip
        each = masked_mse(found, picked[0], picked[2])
        if self.relative:
            each = each / _power(picked[0], picked[2])
        each = each.view(copies, len(rows)).mean(dim=0)
        if self.reweight:
            each = each * self._importance(each.detach(), environments[rows], weights[rows])
        if len(rows) < len(x):
            scaled = each * (float(weights.sum()) / len(rows))
            each = each.new_zeros(len(x)).index_add(0, rows, scaled)
        return each + self.meta.penalty()

    def _importance(self, each: Tensor, environments: Tensor, weights: Tensor) -> Tensor:
        """Softmax of the environments' mean losses, of mean 1 over the environments, by row."""
        present, row = environments[weights > 0].unique(return_inverse=True)
        total = each.new_zeros(len(present)).index_add(0, row, each[weights > 0])
        share = (total / torch.bincount(row)).softmax(dim=0) * len(present)
        found = torch.ones_like(each)
        found[weights > 0] = share[row]
        return found

    def errors(self, *batch: Tensor) -> dict[str, Tensor]:
        """Errors of whole trajectories that run free."""
        x, times, observed, environments, _ = batch
        z, times = self.normalized(x, times)
        found = self.model(z[:, 0], times, environments)
        error = torch.where(observed, found - z, 0.0)
        loss = masked_mse(found, z, observed)
        if self.relative:
            loss = loss / _power(z, observed)
        size = torch.where(observed, x / self.scale, 0.0).square().sum((1, 2))
        size = torch.where(size > 0, size, observed.sum((1, 2)).to(size))
        physical = torch.where(observed, error * self.scale, 0.0).square()
        return {
            "loss": loss,
            "rel_l2": (error.square().sum((1, 2)) / size).sqrt(),
            "mse": physical.sum((1, 2)) / observed.sum((1, 2)),
        }


def _power(x: Tensor, observed: Tensor) -> Tensor:
    """Mean square of each trajectory's distance to its mean, at least 1e-4, (B,)."""
    count = observed.sum(1, keepdim=True).clamp_min(1)
    mean = torch.where(observed, x, 0.0).sum(1, keepdim=True) / count
    spread = torch.where(observed, x - mean, 0.0).square().sum((1, 2))
    return (spread / observed.sum((1, 2)).clamp_min(1)).clamp_min(1e-4)


def batch_of(data: TrajectoryData) -> Any:
    """All of it as one batch."""
    return data[np.arange(len(data))]
