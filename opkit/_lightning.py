"""The training loop: a Lightning module, and a callback that keeps the books of a run."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl  # noqa: TID253  imported by `opkit.fit` when it trains
import torch
from torch import Tensor

from .checkpoint import replace_file, save_weights
from .data import BatchSampler, epoch_seed, make_loader
from .fit import TrainingDiverged
from .learner import AdamW, Learner, weighted_mean

if TYPE_CHECKING:
    from .fit import FitConfig

__all__ = ["FitModule", "Recorder", "history_columns", "learning_rate"]

#: Batches for which Lightning is asked once, where one process trains alone: its hooks cost as
#: much as a step of a small network.
CHUNK = 64


def history_columns(metrics: Iterable[str]) -> tuple[str, ...]:
    """Columns of ``history.csv``.

    Epochs count from 1, `lr` is that of the next step, `seconds` the time spent so far, resumed
    parts included.
    """
    valid = [f"valid_{name}" for name in ("loss", *metrics)]
    return ("epoch", "step", "train_loss", *valid, "lr", "seconds")


def learning_rate(scheduler: str, step: int, total: int) -> float:
    """Factor of the learning rate at a step.

    ``onecycle`` rises from 0.1 to 1 over the first tenth and falls to 0.001 along a cosine;
    ``cosine`` falls from the start; ``constant`` is 1.
    """
    if scheduler == "constant":
        return 1.0
    t = min(1.0, step / max(1, total - 1))
    warm = 0.1 if scheduler == "onecycle" else 0.0
    if t < warm:
        return 0.1 + 0.9 * t / warm
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (t - warm) / (1 - warm)))


@dataclass
class Books:
    """What is known of the training so far; goes into checkpoints."""

    rows: list[dict[str, float]]
    best: float = math.inf
    best_epoch: int = -1
    wait: int = 0
    seconds: float = 0.0


class FitModule(pl.LightningModule):
    """Learner and data of one training.

    Parameters
    ----------
    learner : Learner
    metrics : sequence of str
        Of `Learner.errors`; the first chooses the weights.
    train, valid : torch.utils.data.Dataset
        Batches, see `Task.data`.
    config : FitConfig
    first_epoch : int
        Of this process; above 0 when resumed.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        metrics: Iterable[str],
        train: Any,
        valid: Any,
        config: FitConfig,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = not config.alone
        #: Plain numbers: setting an attribute of a module takes ten times as long.
        self.count = SimpleNamespace(steps=0, total=0, batches=0, in_epoch=0, loss=0.0)
        self.learner = learner
        self.metrics = ("loss", *metrics)
        self.train_data, self.valid_data = train, valid
        self.config, self.first_epoch = config, first_epoch
        self.watch: Callable[[int, float], None] | None = None
        #: Seconds of training so far, for `FitConfig.max_seconds`.
        self.elapsed: Callable[[], float] = lambda: 0.0
        self._pending: list[tuple[int, Tensor]] = []
        self._valid_sum: Tensor | None = None
        self.valid_means = dict.fromkeys(self.metrics, math.nan)

    # -- data ------------------------------------------------------------------------------

    def _loader(self, data: Any, *, shuffle: bool) -> Any:
        trainer, config = self.trainer, self.config
        sampler = BatchSampler(
            len(data),
            config.batch_size,
            seed=config.seed if shuffle else None,
            rank=trainer.global_rank,
            world=trainer.world_size,
            epoch=self.first_epoch,
            blocks=data.blocks if shuffle else None,
            repeat=config.repeat if shuffle else 1,
        )
        workers = config.num_workers
        if workers is None:
            workers = 0 if data.cached else min(4, max(1, (os.cpu_count() or 1) // 2))
        return make_loader(
            data, sampler, num_workers=workers, pin_memory=self.device.type == "cuda"
        )

    def train_dataloader(self) -> Any:
        """Shuffled by (seed, epoch)."""
        loader = self._loader(self.train_data, shuffle=True)
        self.count.in_epoch = len(loader)
        return loader if self.automatic_optimization else _Chunks(loader)

    def val_dataloader(self) -> Any:
        """In the order of the ids."""
        return self._loader(self.valid_data, shuffle=False)

    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        per_rank = self.config.batch_size * self.trainer.world_size
        batches = self.config.repeat * -(-len(self.train_data) // per_rank)
        return -(-batches // self.config.accumulate)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch()

    def configure_optimizers(self) -> Any:
        """Take the learner's."""
        optimizer = self.learner.optimizer(self.config)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def rate_factor(self) -> float:
        """Factor of the learning rate at the next step."""
        config = self.config
        if config.max_seconds is None:
            return learning_rate(config.scheduler, self.count.steps, self.count.total)
        part = min(1.0, self.elapsed() / config.max_seconds)
        return learning_rate(config.scheduler, round(10**6 * part), 10**6)

    def _set_rate(self, optimizer: torch.optim.Optimizer) -> None:
        factor = self.rate_factor()
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    # -- steps -----------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Random numbers depend on (seed, epoch, rank) alone, so that resuming changes none."""
        rank = self.trainer.global_rank
        torch.manual_seed(epoch_seed(self.config.seed + 1, self.current_epoch, rank=rank))
        self.count.loss, self.count.batches = 0.0, 0
        self._pending.clear()
        self.learner.on_epoch_start(self.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tell the learner that a step begins; it may change the rate."""
        if self.automatic_optimization and batch_idx % self.config.accumulate == 0:
            self._set_rate(self.trainer.optimizers[0])
            self.learner.before_step(self.count.steps, self.count.total)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Change the weights, then let the learner project them."""
        super().optimizer_step(*args, **kwargs)
        self._follow()

    def _follow(self) -> None:
        with torch.no_grad():
            self.learner.after_step(self.count.steps, self.count.total)
        self.count.steps += 1

    def training_step(self, batch: Any) -> Tensor | None:
        """Mean loss of a batch; or take the steps of a whole chunk of batches."""
        if self.automatic_optimization:
            return self._loss(batch)
        optimizer, limit = self.trainer.optimizers[0], self.config.max_seconds
        on_cpu = self.device.type == "cpu"
        for part in batch:
            if not on_cpu:
                part = self.trainer.strategy.batch_to_device(part)
            self._step(part, optimizer)
            if limit is not None and self.elapsed() >= limit:
                break
        return None

    def _step(self, batch: tuple[Tensor, ...], optimizer: torch.optim.Optimizer) -> None:
        """Do what Lightning does for a batch."""
        accumulate, clip = self.config.accumulate, self.config.gradient_clip
        if self.count.batches % accumulate == 0:
            self._set_rate(optimizer)
            self.learner.before_step(self.count.steps, self.count.total)
            for group in optimizer.param_groups:  # `zero_grad` takes 20 times as long
                for parameter in group["params"]:
                    parameter.grad = None
        loss = self._loss(batch)
        (loss / accumulate if accumulate > 1 else loss).backward()  # type: ignore[no-untyped-call]
        if self.count.batches % accumulate and self.count.batches < self.count.in_epoch:
            return
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), clip)
        if isinstance(optimizer, AdamW):
            optimizer.quick_step()
        else:
            optimizer.step()
        self._follow()

    def _loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        loss: Tensor = weighted_mean(self.learner.losses(*batch), batch[-1])
        self._pending.append((self.count.batches, loss.detach()))
        self.count.batches += 1
        # asking a GPU for a number makes it wait
        if len(self._pending) >= (1 if self.device.type == "cpu" else 32):
            self.flush()
        return loss

    def flush(self) -> None:
        """Look at the losses not looked at yet.

        Raises
        ------
        TrainingDiverged
            One is not finite.
        """
        if not self._pending:
            return
        values = [v for _, v in self._pending]
        losses = [values[0].item()] if len(values) == 1 else torch.stack(values).tolist()
        for (batch, _), loss in zip(self._pending, losses, strict=True):
            if not math.isfinite(loss):
                raise TrainingDiverged(self._diverged(loss, batch))
            self.count.loss += loss
        self._pending.clear()
        if self.watch is not None:
            self.watch(self.count.batches, losses[-1])

    def _diverged(self, loss: float, batch: int) -> str:
        step = self.current_epoch * self.steps_per_epoch() + batch // self.config.accumulate + 1
        return f"the loss is {loss} at step {step} (epoch {self.current_epoch + 1})"

    def on_validation_epoch_start(self) -> None:
        """Start the sums anew."""
        self._valid_sum = None

    def validation_step(self, batch: tuple[Tensor, ...]) -> None:
        """Add the errors of a batch."""
        errors, weights = self.learner.errors(*batch), batch[-1]
        first = errors["loss"]
        values = torch.stack([*(errors[k] for k in self.metrics), torch.ones_like(first)])
        # filling is left out even where it is NaN
        kept = torch.where(weights > 0, values, 0.0).sum(1).to(_sum_dtype(self.device))
        self._valid_sum = kept if self._valid_sum is None else self._valid_sum + kept

    def on_validation_epoch_end(self) -> None:
        """Means over the split."""
        total = self._valid_sum
        if total is None:
            size = len(self.metrics) + 1
            total = torch.zeros(size, dtype=_sum_dtype(self.device), device=self.device)
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        means = (total[:-1] / total[-1]).tolist()
        self.valid_means = dict(zip(self.metrics, means, strict=True))

    def epoch_loss(self) -> float:
        """Mean of the training loss over the epoch's batches and the processes."""
        total = torch.tensor([self.count.loss, float(self.count.batches)], dtype=torch.float64)
        total = total.to(_sum_dtype(self.device)).to(self.device)
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        return float(total[0] / total[1])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep tensors alone: some models put other things into their state."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if isinstance(v, Tensor)}


class _Chunks:
    """A loader whose items are iterators over some batches each."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.sampler = loader, loader.sampler

    def __len__(self) -> int:
        return -(-len(self.loader) // CHUNK)

    def __iter__(self) -> Iterator[Iterator[Any]]:
        loader = self.loader
        plain = loader.num_workers == 0 and loader.dataset.cached and not loader.pin_memory
        batches = (loader.dataset[i] for i in loader.sampler) if plain else iter(loader)
        for _ in range(len(self)):
            yield islice(batches, CHUNK)


def _sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


class Recorder(pl.Callback):
    """After each epoch: history, the best weights on valid, a checkpoint, early stop.

    Parameters
    ----------
    out : Path
    progress : callable, optional
        Called as ``progress(steps done, steps in all, note)``.
    """

    def __init__(
        self,
        out: Path,
        *,
        patience: int | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self.out, self.patience, self.progress = out, patience, progress
        self.books = Books([])
        self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return dict(vars(self.books))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.books = Books(**state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; stop at once if the training had stopped early."""
        module = _own(pl_module)
        self._start = time.monotonic() - self.books.seconds
        module.elapsed = lambda: time.monotonic() - self._start
        module.count.steps = int(self.books.rows[-1]["step"]) if self.books.rows else 0
        module.count.total = module.total_steps
        if self.patience is not None and self.books.wait >= self.patience:
            trainer.should_stop = True
        progress, accumulate = self.progress, module.config.accumulate
        total, per_epoch = module.count.total, module.steps_per_epoch()
        limit = module.config.max_seconds
        if progress is None or not trainer.is_global_zero:
            return

        def watch(batches: int, loss: float) -> None:
            epoch = trainer.current_epoch
            note = self._note(epoch, module, loss)
            if limit is None:
                progress(epoch * per_epoch - (-batches // accumulate), total, note)
            else:
                progress(min(round(module.elapsed()), round(limit)), round(limit), note)

        module.watch = watch

    def _note(self, epoch: int, module: FitModule, loss: float) -> str:
        of = "" if module.config.max_seconds else f"/{module.config.epochs}"
        parts = [f"epoch {epoch + 1}{of}", f"loss {loss:.3g}"]
        if self.books.rows:
            name = module.metrics[1]
            parts.append(f"valid {name} {self.books.rows[-1][f'valid_{name}']:.3g}")
        return ", ".join(parts)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Stop when the time is up."""
        module = _own(pl_module)
        limit = module.config.max_seconds
        if limit is not None and module.elapsed() >= limit:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write everything of the epoch, the checkpoint last."""
        module = _own(pl_module)
        module.flush()
        books, epoch = self.books, trainer.current_epoch
        means = module.valid_means
        train_loss = module.epoch_loss()
        if not math.isfinite(sum(means.values())):
            raise TrainingDiverged(
                f"the error on valid is {means['loss']} after step {module.count.steps} "
                f"(epoch {epoch + 1})"
            )
        books.seconds = time.monotonic() - self._start
        lr = trainer.optimizers[0].param_groups[0]["initial_lr"] * module.rate_factor()
        values = (
            epoch + 1, module.count.steps, train_loss, *means.values(), lr, books.seconds
        )  # fmt: skip
        row = dict(zip(history_columns(module.metrics[1:]), values, strict=True))
        books.rows.append(row)
        books.wait += 1
        error = means[module.metrics[1]]
        better = error < books.best
        if better:
            books.best, books.best_epoch, books.wait = error, epoch, 0
        if trainer.is_global_zero:
            if better:
                save_weights(self.out / "model.safetensors", module.learner.model)
            text = history_text(books.rows)
            replace_file(self.out / "history.csv", lambda p: p.write_text(text, encoding="utf-8"))
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=epoch)
        if self.patience is not None and books.wait >= self.patience:
            trainer.should_stop = True
        self._checkpoint(trainer)

    def _checkpoint(self, trainer: pl.Trainer) -> None:
        path = self.out / "checkpoints" / "last.ckpt"
        temporary = path.with_name(".last.ckpt.tmp")
        trainer.save_checkpoint(temporary, weights_only=False)  # all processes take part
        if trainer.is_global_zero:
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(path)


def _own(module: pl.LightningModule) -> FitModule:
    if not isinstance(module, FitModule):
        raise TypeError(f"{type(module).__name__} is no FitModule")
    return module


def history_text(rows: list[dict[str, float]]) -> str:
    """``history.csv``; numbers are written so that they come back bit by bit."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "seconds": f"{row['seconds']:.3f}"})
    return out.getvalue()
