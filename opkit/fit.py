"""`fit`: train a model on a dataset, by Lightning, into a run directory."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from solvers.names import check_name

from .errors import UsageError

if TYPE_CHECKING:
    from pde_data.hdf5 import Dataset

    from .operator import Operator
    from .tasks import Task

__all__ = ["FitConfig", "TrainingDiverged", "fit"]

#: Called as ``progress(steps done, steps in all, note)``.
Progress = Callable[[int, int, str], None]
#: Settings that may differ when a run is resumed.
_FREE = (
    "data",
    "out",
    "resume",
    "overwrite",
    "num_workers",
    "threads",
    "logger",
    "patience",
    "accelerator",
)


class TrainingDiverged(RuntimeError):
    """The loss is not finite any more; the message names the step."""


class FitConfig(BaseModel):
    """Settings of `fit`.

    Where a task or a model has other defaults, `fit` fills them in for what was not given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    data: str = Field(description="dataset with the splits train and valid")
    model: str = Field(description="name in the model registry")
    out: str = Field(description="run directory to write")
    epochs: int = Field(50, ge=1, description="parts of the training, each ends with a validation")
    repeat: int = Field(1, ge=1, description="passes over the training data an epoch")
    max_seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="train for so long instead; the learning rate follows the time",
    )
    batch_size: int = Field(8, ge=1, description="samples a batch, in each process")
    lr: float = Field(2e-3, gt=0, allow_inf_nan=False, description="largest learning rate")
    weight_decay: float = Field(1e-4, ge=0, allow_inf_nan=False, description="of AdamW")
    scheduler: Literal["onecycle", "cosine", "constant"] = Field(
        "onecycle", description="of the learning rate, which changes with every step"
    )
    loss: str | None = Field(
        None, description="default the task's; on grids h1, l2 or h1_spectral, in physical units"
    )
    resolution: tuple[int | tuple[int, ...], ...] = Field(
        (), description="points per axis: cut each training batch down to one of these"
    )
    task: dict[str, Any] = Field(default_factory=dict, description="settings of the model's task")
    seed: int = Field(0, ge=0, description="of the initial weights and of the shuffling")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the model")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a lower error on valid"
    )
    resume: bool = Field(False, description="go on from the last finished epoch in `out`")
    overwrite: bool = Field(False, description="remove the run that is in `out`")
    n_train: int | None = Field(None, ge=1, description="train on the first samples only")
    gradient_clip: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="largest norm of the gradient"
    )
    accumulate: int = Field(1, ge=1, description="batches a step")
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = Field(
        "auto", description="as Lightning's Trainer takes it, like the next four"
    )
    devices: int | Literal["auto"] = Field(1, description="number of devices on each machine")
    num_nodes: int = Field(1, ge=1, description="machines")
    strategy: str = Field("auto", description="how devices work together: ddp, fsdp, ...")
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="of weights and arithmetic"
    )
    num_workers: int | None = Field(
        None, ge=0, description="reading processes; default none if the data fits in memory"
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads; default torch's own. 1 for small grids on busy cores"
    )
    logger: Literal["csv", "tensorboard", "wandb"] = Field(
        "csv", description="history.csv is always written; the others beside it, if installed"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_dataset(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if len(value) != 1:
                raise ValueError(f"data: need one dataset, got {len(value)}")
            value = value[0]
        return str(value) if isinstance(value, os.PathLike) else value

    @field_validator("out", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, os.PathLike) else value

    @field_validator("devices")
    @classmethod
    def _some_device(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"devices={value}: need 'auto' or an integer >= 1")
        return value

    @property
    def alone(self) -> bool:
        """Whether one process trains in full precision, so that nothing needs Lightning's help."""
        single = self.devices == 1 and self.num_nodes == 1 and self.strategy == "auto"
        return single and self.precision.endswith("true")


def fit(config: FitConfig, *, progress: Progress | None = None) -> Operator:
    """Train a model and leave a run directory.

    The normalizer is fitted on train alone; the weights kept are those of the epoch with the
    lowest mean error on valid (the first of the task's
    `metrics`; on grids relative L2); test is never looked at. The same configuration gives
    the same weights bit by bit on the CPU, in one go or resumed.

    Parameters
    ----------
    config : FitConfig
    progress : callable, optional
        Called as ``progress(steps done, steps in all, note)``.

    Returns
    -------
    Operator
        With the best weights, as `opkit.load` gives it.

    Raises
    ------
    UsageError
        Unknown names, a model that does not fit the data, a missing split.
    FileExistsError
        `out` exists, and neither `resume` nor `overwrite` is set.
    DatasetError
        From reading the data.
    TrainingDiverged
        The loss is not finite: the last good checkpoint is kept.
    KeyboardInterrupt
        After Ctrl-C; all finished epochs are kept.
    """
    import torch

    from models import build_model, get_model
    from pde_data.hdf5 import open_dataset

    from ._threads import cpu_threads, keep_memory
    from .operator import load
    from .tasks import get_task

    entry = get_model(config.model)
    task_class = get_task(entry.task)
    out = Path(config.out)
    follower = _is_follower()
    if not follower:
        _check_out(out, config)
    dataset = open_dataset(config.data)
    for name in ("train", "valid"):
        if name not in dataset or not len(dataset[name]):
            have = ", ".join(f"{s} {len(dataset[s])}" for s in dataset.splits)
            raise UsageError(f"{config.data} has no samples in split {name!r}. It has: {have}.")
    config, task_options = _complete(config, entry, task_class)
    task = task_class.from_dataset(dataset, task_options, config.resolution)

    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), cpu_threads(config.threads):
        torch.manual_seed(config.seed)
        model, options = build_model(config.model, task.spec(), config.options)
        config = config.model_copy(update={"options": options})
        task.dry_run(model)
        normalizer = task.fit_normalizer(dataset["train"], limit=config.n_train)
        task.prepare(model, dataset["train"], normalizer, limit=config.n_train)
        checkpoint = out / "checkpoints" / "last.ckpt"
        resume_from = checkpoint if config.resume and checkpoint.is_file() else None
        first_epoch = 0 if resume_from is None else finished_epochs(resume_from)
        keep_memory()
        with _quiet(), _signals(), _no_search_for_gpus():
            trainer = _trainer(config, progress)
            if not follower:
                _prepare(out, config, dataset, task, normalizer, model)
            if first_epoch < config.epochs:
                module = _module(model, task, normalizer, dataset, config, first_epoch)
                _train(trainer, module, config, resume_from)
    return load(out)


# -- before --------------------------------------------------------------------------------------


def _is_follower() -> bool:
    """Whether this process was started beside another that writes the directory."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return os.environ[name] != "0"
    return False


def _check_out(out: Path, config: FitConfig) -> None:
    if config.resume and config.overwrite:
        raise UsageError("resume and overwrite exclude each other")
    if not out.exists():
        if config.resume:
            raise UsageError(f"{out}: no run to resume there")
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} exists and is no directory")
    if not any(out.iterdir()):
        return
    is_run = (out / "operator.json").is_file() and (out / "config.yaml").is_file()
    if config.resume or config.overwrite:
        if not is_run:
            raise UsageError(
                f"{out} is not empty and no run of opkit fit; choose another directory"
            )
        return
    hint = "; use --resume to go on or --overwrite to start anew" if is_run else ""
    raise FileExistsError(f"{out} exists already{hint}")


def _complete(config: FitConfig, entry: Any, task: type[Task]) -> tuple[FitConfig, Any]:
    """Fill in what depends on the model and its task, and judge the task's settings."""
    from .config import resolve

    given = config.model_fields_set
    defaults = {**task.defaults, **entry.defaults}
    update = {k: v for k, v in defaults.items() if k not in given}
    if config.max_seconds is not None and "epochs" not in given:
        update["epochs"] = 10**6
    options = resolve(task.Options, config.task, what=f"--task (task {task.name!r})")
    loss = config.loss or update.get("loss") or task.default_loss
    check_name("loss", loss, task.losses)
    return config.model_copy(update={**update, "loss": loss}), options


def _prepare(
    out: Path, config: FitConfig, dataset: Dataset, task: Any, normalizer: Any, model: Any
) -> None:
    """Write what does not change during the training, or check that it has not changed."""
    import yaml

    from .checkpoint import replace_file, save_arrays, save_json
    from .operator import count_parameters

    description = describe(config, dataset, task, count_parameters(model))
    if config.resume:
        _check_same(out, config, description)
        return
    if out.exists() and config.overwrite:
        shutil.rmtree(out)
    stated = config.model_dump(mode="json", exclude={"resume", "overwrite"})
    text = yaml.safe_dump(stated, sort_keys=False)
    marks = sample_marks(dataset, config.n_train)
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        replace_file(out / "config.yaml", lambda p: p.write_text(text, encoding="utf-8"))
        save_json(out / "normalizer.json", normalizer.as_dict())
        save_arrays(out / "train_samples.npz", marks)
        save_json(out / "operator.json", description)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def describe(config: FitConfig, dataset: Dataset, task: Any, n_parameters: int) -> dict[str, Any]:
    """Content of ``operator.json``."""
    from importlib.metadata import version

    from .operator import FORMAT, FORMAT_VERSION

    names = ("opkit", "torch", "lightning", "neuraloperator", "numpy")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": config.model,
        "options": config.options,
        "task": task.name,
        "fields": task.as_dict(),
        "n_parameters": n_parameters,
        "dtype": "float64" if config.precision.startswith("64") else "float32",
        "loss": config.loss,
        "data": {
            "name": Path(config.data).resolve().name,
            "problem": dataset.schema.problem,
            "content_digest": dataset.content_digest,
            "resolution": list(dataset.schema.grid.shape),
            "n_train": min(config.n_train or 10**18, len(dataset["train"])),
            "n_valid": len(dataset["valid"]),
            "config": dataset.config,
            "generate_seconds": generate_seconds(dataset, config.n_train),
        },
        "software": {n: version(n) for n in names},
    }


def generate_seconds(dataset: Dataset, n_train: int | None = None) -> float | None:
    """Seconds the solver took for what was trained on and selected by; None if not stored."""
    import numpy as np

    from pde_data.hdf5 import DatasetError

    try:
        parts = [
            dataset["train"].quality("wall_time")[:n_train],
            dataset["valid"].quality("wall_time"),
        ]
    except DatasetError:
        return None
    total = float(sum(p.sum() for p in parts))
    return total if np.isfinite(total) else None


def sample_marks(dataset: Dataset, n_train: int | None) -> dict[str, Any]:
    """Digests of the inputs and seeds of the training samples: to see leaks later."""
    from pde_data.hdf5 import DatasetError

    out = {}
    for name, dtype in (("input_digest", "S32"), ("seed", "<u8")):
        try:
            out[name] = dataset["train"].quality(name)[:n_train].astype(dtype)
        except DatasetError:
            continue
    return out


def _check_same(out: Path, config: FitConfig, description: Mapping[str, Any]) -> None:
    """Raise unless `config` is that of the run to resume."""
    import yaml

    from .operator import read_description

    old_description = read_description(out)
    path = out / "config.yaml"
    try:
        old = yaml.safe_load(path.read_text(encoding="utf-8"))
        old_config = FitConfig(**old)
    except (OSError, yaml.YAMLError, TypeError, ValueError) as e:
        raise UsageError(f"{path} is damaged: {' '.join(str(e).split())}") from None
    changes = []
    for name in FitConfig.model_fields:
        a, b = getattr(old_config, name), getattr(config, name)
        longer = name == "epochs" and config.scheduler == "constant" and b >= a
        if name not in _FREE and a != b and not longer:
            changes.append(f"{name} {a} -> {b}")
    if old_description["data"]["content_digest"] != description["data"]["content_digest"]:
        changes.append("the content of the dataset")
    if changes:
        raise UsageError(
            f"{out} was trained with other settings, so it cannot be resumed: {', '.join(changes)}"
        )


# -- training ------------------------------------------------------------------------------------


def _trainer(config: FitConfig, progress: Progress | None) -> Any:
    """Lightning's trainer, which says nothing and writes nothing of its own."""
    import lightning.pytorch as pl

    from ._lightning import Recorder

    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=config.precision,
            max_epochs=config.epochs,
            # else `FitModule` sees to them
            gradient_clip_val=None if config.alone else config.gradient_clip,
            accumulate_grad_batches=1 if config.alone else config.accumulate,
            callbacks=[Recorder(Path(config.out), patience=config.patience, progress=progress)],
            logger=_loggers(config),
            default_root_dir=config.out,
            num_sanity_val_steps=0,
            inference_mode=False,  # models keep tensors for the next call
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except UsageError:
        raise
    except (ValueError, RuntimeError, TypeError) as e:
        names = ("accelerator", "devices", "num_nodes", "strategy", "precision")
        stated = ", ".join(f"{k}={getattr(config, k)}" for k in names)
        raise UsageError(f"{stated}: {' '.join(str(e).split())}") from e


def _module(
    model: Any, task: Task, normalizer: Any, dataset: Dataset, config: FitConfig, epoch: int
) -> Any:
    import torch

    from ._lightning import FitModule

    dtype = torch.float64 if config.precision.startswith("64") else torch.float32
    return FitModule(
        task.learner(model, normalizer, config),
        metrics=task.metrics,
        train=task.data(dataset["train"], dtype=dtype, limit=config.n_train, train=True),
        valid=task.data(dataset["valid"], dtype=dtype),
        config=config,
        first_epoch=epoch,
    )


def _train(trainer: Any, module: Any, config: FitConfig, resume_from: Path | None) -> None:
    try:
        trainer.fit(module, ckpt_path=resume_from, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        if not trainer.interrupted:
            raise
    except TrainingDiverged as e:
        raise TrainingDiverged(f"{e}; {_what_is_left(Path(config.out), config)}") from None
    else:
        return
    done = len(trainer.callbacks[0].books.rows)
    raise KeyboardInterrupt(f"{done} finished epochs are kept in {config.out}; go on with --resume")


def finished_epochs(checkpoint: Path) -> int:
    """Count the epochs that a checkpoint holds.

    Raises
    ------
    UsageError
        Damaged.
    """
    import pickle

    import torch

    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"]) + 1
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as e:
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise UsageError(
            f"{checkpoint} is damaged ({first}); start anew with --overwrite"
        ) from None


def _what_is_left(out: Path, config: FitConfig) -> str:
    advice = f"try a smaller --lr (now {config.lr:g})"
    if config.gradient_clip is None:
        advice += " or --gradient-clip 1"
    if (out / "checkpoints" / "last.ckpt").is_file():
        return f"the last good epoch is kept in {out}; {advice}"
    shutil.rmtree(out, ignore_errors=True)
    return f"no epoch was finished, {out} is removed; {advice}"


def _loggers(config: FitConfig) -> Any:
    if config.logger == "csv":
        return False
    from lightning.pytorch import loggers

    try:
        if config.logger == "tensorboard":
            return loggers.TensorBoardLogger(config.out, name="logs", version="")
        return loggers.WandbLogger(save_dir=config.out, project="opkit", name=Path(config.out).name)
    except ModuleNotFoundError:
        package = {"tensorboard": "tensorboard", "wandb": "wandb"}[config.logger]
        raise UsageError(
            f"logger={config.logger!r} needs a package that is not installed: pip install {package}"
        ) from None


@contextmanager
def _no_search_for_gpus() -> Iterator[None]:
    """Where there is no GPU, keep torch from looking for one in each step: it takes 0.2 ms."""
    import torch

    name = "CUDA_VISIBLE_DEVICES"
    if torch.cuda.is_available() or name in os.environ:
        yield
        return
    os.environ[name] = ""
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from talking; its warnings about what was decided here on purpose too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning.pytorch  # noqa: F401  sets the levels of its loggers

    names = [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "lightning"]
    loggers = [logging.getLogger(n) for n in names]
    levels = [(log, log.level) for log in loggers]
    for log in loggers:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in (
                r".*does not have many workers.*",
                r".*Consider setting `persistent_workers=True`.*",
                r".*is smaller than the logging interval.*",
                r".*use of fork\(\) may lead to deadlocks.*",
                r".*GPU available but not used.*",
                r".*MPS available but not used.*",
                r".*Trying to infer the `batch_size`.*",
                r".*LeafSpec.*is deprecated.*",  # Lightning 2.6 on newer torch
            ):
                warnings.filterwarnings("ignore", message=text)
            yield
    finally:
        for log, level in levels:
            log.setLevel(level)


@contextmanager
def _signals() -> Iterator[None]:
    """Give back the handler of Ctrl-C, which Lightning switches off after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
