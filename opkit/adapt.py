"""`adapt`: contexts of new environments for a trained model, all weights frozen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import UsageError

if TYPE_CHECKING:
    from .operator import Operator

__all__ = ["AdaptConfig", "adapt"]

#: Called as ``progress(steps done, steps in all, note)``.
Progress = Callable[[int, int, str], None]


class AdaptConfig(BaseModel):
    """Settings of `adapt`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(description="directory that fit has written, of a model with contexts")
    data: str = Field(description="dataset of the new environments")
    out: str = Field(description="run directory to write")
    split: str = Field("train", description="trajectories to adapt to")
    n_trajectories: int | None = Field(
        None, ge=1, description="use the first ones of each environment only"
    )
    route: Literal["best", "gate"] = Field(
        "best", description="best: try every expert and keep the one with the least loss; gate: "
        "start from a zero context and follow the gate",
    )  # fmt: skip
    steps: int = Field(500, ge=1, description="of Adam on the contexts")
    lr: float = Field(1e-2, gt=0, allow_inf_nan=False, description="learning rate")
    overwrite: bool = Field(False, description="replace the run that is in `out`")
    threads: int | None = Field(None, ge=1, description="CPU threads; default torch's own")
    device: str = Field("cpu", description="where the model runs")

    @field_validator("run", "data", "out", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, os.PathLike) else value


def adapt(config: AdaptConfig, *, progress: Progress | None = None) -> Operator:
    """Find contexts of new environments from a few of their trajectories; no weight changes.

    Parameters
    ----------
    config : AdaptConfig
    progress : callable, optional
        Called as ``progress(steps done, steps in all, note)``.

    Returns
    -------
    Operator
        For the new environments, as `opkit.load` gives it. Its directory also has ``adapt.json``:
        of each environment the expert, the loss under each expert tried, and the loss with a
        context of zero, in normalized units.

    Raises
    ------
    UsageError
        A model without contexts, data that does not fit it, a missing split.
    FileExistsError
        `out` exists and `overwrite` is not set.
    OperatorError, DatasetError
        From loading the run, from reading the data.
    """
    import numpy as np
    import torch

    from models.mixer.adaptation import adapt_contexts
    from pde_data.hdf5 import open_dataset

    from ._threads import cpu_threads
    from .operator import load
    from .tasks._trajectories_learner import segments
    from .tasks._trajectories_operator import TrajectoryOperator

    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise FileExistsError(f"{out} exists already; use --overwrite to replace it")
    if out.exists() and (not (out / "operator.json").is_file() or _same(out, config.run)):
        raise UsageError(f"out={config.out}: not a run that may be replaced; choose another")
    op = load(config.run, device=config.device)
    if not isinstance(op, TrajectoryOperator):
        raise UsageError(f"{config.run}: model {op.name!r} has no contexts to adapt; mixer has")
    model, task, scale = op.model, op.task, op.scale
    if model.gating == "environment":
        raise UsageError(
            f"{config.run}: gating=environment has an expert for each environment and none for new"
        )
    if model.gating == "oracle" and config.route == "gate":
        raise UsageError(f"route=gate: {config.run} was told the families and has no gate")
    dataset = open_dataset(config.data)
    if reason := task.misfit(dataset.schema):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")
    new = task.for_split(split)
    arrays = task.read(split, np.arange(len(split)))
    rows = new.environment_index(arrays.environment)
    x, times, observed, sample = segments(arrays, task.settings.horizon)
    if config.n_trajectories is not None:
        keep = np.zeros(len(rows), bool)
        for e in range(len(new.environments)):
            keep[np.flatnonzero(rows == e)[: config.n_trajectories]] = True
        kept = keep[sample]
        x, times, observed, sample = x[kept], times[kept], observed[kept], sample[kept]

    def tensor(a: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(a).to(op.device, op.dtype)

    environments = torch.as_tensor(rows[sample]).to(op.device)
    with cpu_threads(config.threads):
        found = adapt_contexts(
            model,
            tensor((x - np.array(scale.shift)) / np.array(scale.scale)),
            tensor((times - times[:, :1]) / scale.time),
            torch.as_tensor(observed).to(op.device),
            environments,
            n=len(new.environments),
            route=config.route,
            steps=config.steps,
            lr=config.lr,
            forcing=task.settings.forcing if model.bank.discrete else 1.0,
            progress=progress,
        )
    bad = ~torch.isfinite(found.losses.min(dim=1).values)
    if bool(bad.any()):
        lost = new.environments[int(torch.argmax(bad.long()))]
        raise RuntimeError(f"environment {lost:g}: no context with a finite loss was found")
    model.reset_environments(len(new.environments))
    with torch.no_grad():
        model.contexts.values.copy_(found.contexts)
        if config.route == "best":
            model.assigned.copy_(found.experts)
    _write(out, op, new, found, dataset, config, len(np.unique(sample)))
    return load(out, device=config.device)


def _same(out: Path, run: str) -> bool:
    return out.resolve() == Path(run).resolve()


def _write(
    out: Path, op: Any, task: Any, found: Any, dataset: Any, config: AdaptConfig, n: int
) -> None:
    """Write a run directory like that of `fit`, all or nothing."""
    import yaml

    from .checkpoint import save_json, save_weights

    work = out.parent / f".{out.name}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        description = dict(op.description)
        description["fields"] = task.as_dict()
        description["data"] = {
            **description["data"],
            "name": Path(config.data).resolve().name,
            "problem": dataset.schema.problem,
            "content_digest": dataset.content_digest,
            "n_train": n,
            "config": dataset.config,
            "adapted_from": Path(config.run).resolve().name,
            "adapted_on": config.split,
        }
        save_json(work / "operator.json", description)
        save_json(work / "normalizer.json", op.scale.as_dict())
        save_weights(work / "model.safetensors", op.model)
        losses = found.losses.detach().cpu().double()
        finite = [[v if v < float("inf") else None for v in row] for row in losses.tolist()]
        save_json(
            work / "adapt.json",
            {
                "settings": config.model_dump(mode="json"),
                "environments": list(task.environments),
                "experts": found.experts.tolist(),
                "losses": finite,
                "start_losses": found.start_losses.detach().cpu().double().tolist(),
            },
        )
        if (Path(config.run) / "config.yaml").is_file():
            stated = yaml.safe_load((Path(config.run) / "config.yaml").read_text("utf-8"))
            text = yaml.safe_dump(
                {**stated, "data": config.data, "out": config.out}, sort_keys=False
            )
            (work / "config.yaml").write_text(text, encoding="utf-8")
        if (Path(config.run) / "history.csv").is_file():
            shutil.copyfile(Path(config.run) / "history.csv", work / "history.csv")
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
