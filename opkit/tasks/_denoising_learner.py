"""Training of a denoiser: noise, losses, the schedule of proximal matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from models.lpn import ProximalMatching, Stage, proximal_matching_loss

from ..data import _fits, file_blocks
from ..errors import UsageError
from ..learner import Learner
from .denoising import fixed_noise

if TYPE_CHECKING:
    from opkit.fit import FitConfig
    from pde_data.hdf5 import Split

    from .denoising import DenoisingTask, FieldScale

__all__ = ["CleanData", "DenoisingLearner"]


class CleanData(TorchDataset[tuple[Tensor, ...]]):
    """Batches of clean fields: ``data[indices]`` gives fields, noise if asked for, and weights.

    Parameters
    ----------
    split : Split
    task : DenoisingTask
    dtype : torch.dtype
    limit : int, optional
        Use the first samples only.
    noise : bool
        Also give standard normal noise, the same for a sample each time.
    """

    def __init__(
        self, split: Split, task: DenoisingTask, *, dtype: torch.dtype, limit: int | None = None,
        noise: bool = False,
    ) -> None:  # fmt: skip
        self.split, self.task, self.dtype, self.noise = split, task, dtype, noise
        self.n = len(split) if limit is None else min(limit, len(split))
        size = self.n * math.prod(task.shape) * dtype.itemsize * (2 if noise else 1)
        self.cached = _fits(size)
        self._cache: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return self.n

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Samples of each file, for `BatchSampler`; None when all are in memory."""
        return None if self.cached else file_blocks(self.split, self.n)

    def load(self) -> None:
        """Fill the cache, if there is to be one."""
        if self.cached and self._cache is None and self.n:
            self._cache = self._read(np.arange(self.n))

    def _read(self, index: np.ndarray) -> tuple[Tensor, ...]:
        x = self.task.read(self.split, index)
        arrays = [x]
        if self.noise:
            arrays.append(
                np.stack([fixed_noise(i, self.task.shape) for i in self.split.ids[index]])
            )
        return tuple(torch.as_tensor(np.ascontiguousarray(a)).to(self.dtype) for a in arrays)

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, ...]:
        """Read a batch.

        Returns
        -------
        tuple of Tensor
            Fields ``(b, channel, *space)``, noise of the same shape if there is any, weights
            ``(b,)``: 1, or 0 for filling.
        """
        index = np.asarray(indices, np.int64)
        weights = torch.as_tensor(index >= 0).to(self.dtype)
        index = np.where(index < 0, -index - 1, index)
        self.load()
        if self._cache is None:
            return (*self._read(index), weights)
        rows = torch.as_tensor(index)
        return (*(t.index_select(0, rows) for t in self._cache), weights)


class DenoisingLearner(Learner):
    """Denoise; the losses are those of a sample in normalized units.

    ``proximal_matching`` begins with the mean absolute error (`DenoisingTask.pretrain` of the
    steps) and goes on with smaller and smaller gammas, see `models.lpn.ProximalMatching`. Networks
    that have a ``project_`` are projected after each step.
    """

    def __init__(
        self, model: nn.Module, task: DenoisingTask, scale: FieldScale, config: FitConfig
    ) -> None:
        super().__init__(model)
        if config.loss == "proximal_matching" and config.max_seconds is not None:
            raise UsageError(
                f"max_seconds={config.max_seconds}: the schedule of proximal matching counts "
                "steps; set epochs instead, or loss l1 or l2"
            )
        self.loss, self.task, self.scale = str(config.loss), task, scale
        self.sigma = task.noise_std(scale) / scale.scale
        self.n = math.prod(task.shape)
        self._lr = config.lr
        self.stage = Stage(None, config.lr)
        #: How far off the end is, in stages of proximal matching.
        self.to_come = 0.0
        self._optimizer: torch.optim.Optimizer | None = None

    def schedule(self, total: int) -> ProximalMatching:
        """Stages of a training of `total` steps."""
        pretrain = round(self.task.pretrain * total)
        return ProximalMatching(
            gamma_min=self._last_gamma, stages=self.task.stages, pretrain_steps=pretrain,
            steps=total - pretrain, lr_pretrain=self._lr, lr=self._lr * self.task.lr_ratio,
        )  # fmt: skip

    @property
    def _last_gamma(self) -> float:
        return self.task.gamma * self.sigma * math.sqrt(self.n)

    def optimizer(self, config: FitConfig) -> torch.optim.Optimizer:
        """Adam with decoupled weight decay."""
        self._optimizer = super().optimizer(config)
        return self._optimizer

    def before_step(self, step: int, total: int) -> None:
        """Set gamma and learning rate."""
        if self.loss != "proximal_matching":
            return
        schedule = self.schedule(total)
        self.stage = schedule.at(step, sigma=self.sigma, n=self.n)
        self.to_come = (total - 1 - step) * schedule.stages / max(schedule.steps, 1)
        if self.stage.gamma is not None and self._optimizer is not None:
            # the loop sets the rate anew before each step
            for group in self._optimizer.param_groups:
                group["lr"] = group["lr"] * self.task.lr_ratio

    def after_step(self, step: int, total: int) -> None:
        """Keep a proximal network convex."""
        project = getattr(self.model, "project_", None)
        if project is not None:
            project()

    # -- losses ----------------------------------------------------------------------------

    def _normalized(self, x: Tensor) -> Tensor:
        return (x - self.scale.shift) / self.scale.scale

    def _loss(self, prediction: Tensor, clean: Tensor, loss: str, gamma: float | None) -> Tensor:
        if loss == "proximal_matching" and gamma is not None:
            return proximal_matching_loss(prediction, clean, gamma, reduction="none")
        error = (prediction - clean).flatten(1)
        return error.square().mean(1) if loss == "l2" else error.abs().mean(1)

    def losses(self, *batch: Tensor) -> Tensor:
        """Loss of the stage, with new noise."""
        clean = self._normalized(batch[0])
        noisy = clean + self.sigma * torch.randn_like(clean)
        return self._loss(self.model(noisy), clean, self.loss, self.stage.gamma)

    def errors(self, *batch: Tensor) -> dict[str, Tensor]:
        """Errors with the fixed noise of each sample."""
        clean = self._normalized(batch[0])
        prediction = self.model(clean + self.sigma * batch[1])
        physical = (prediction - clean).flatten(1) * self.scale.scale
        size = batch[0].flatten(1).norm(dim=1)
        # a field that is 0 everywhere is judged by the size of others
        size = torch.where(size > 0, size, self.scale.scale * math.sqrt(self.n))
        # the loss of the last gamma lies in [0, 1], and its noise is larger than what annealing the
        # rate gains: earlier weights must not be chosen by chance
        objective = self._loss(prediction, clean, self.loss, self._last_gamma) + self.to_come
        return {
            "loss": self._loss(prediction, clean, self.loss, self.stage.gamma),
            "objective": objective,
            "rel_l2": physical.norm(dim=1) / size,
            "psnr": psnr(physical, self.scale.peak),
        }


def psnr(error: Any, peak: float) -> Any:
    """Peak signal-to-noise ratio in dB of errors (b, n); at most 200.

    Parameters
    ----------
    error : Tensor, shape (b, n)
    peak : float
        Range of the field.
    """
    mse = error.square().mean(1) / peak**2
    return -10 * torch.log10(mse.clamp_min(1e-20))
