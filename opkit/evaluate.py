"""`evaluate`: errors of an operator on a split of a dataset."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import UsageError
from .metrics import summarize

if TYPE_CHECKING:
    from pde_data.hdf5 import Dataset, Split
    from pde_data.problem import Problem

    from .operator import Operator
    from .tasks import Evaluation

__all__ = ["DataWarning", "EvaluateConfig", "EvaluationError", "evaluate", "recreate"]

#: Called as ``progress(samples done, samples in all, note)``.
Progress = Callable[[int, int, str], None]


class DataWarning(UserWarning):
    """The numbers may not mean what they seem to: other data, or data the training has seen."""


class EvaluationError(RuntimeError):
    """The operator gives values that are not finite."""


class EvaluateConfig(BaseModel):
    """Settings of `evaluate`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(description="directory that fit has written")
    data: str = Field(description="dataset")
    split: str = Field("test", description="which samples")
    resolution: tuple[int | tuple[int, ...], ...] = Field(
        (), description="also at these numbers of points per axis: the samples are solved anew"
    )
    batch_size: int = Field(16, ge=1, description="samples at once, in predictions and timings")
    compare: bool = Field(True, description="measure the solver at the same accuracy")
    n_solve: int = Field(
        8, ge=1, description="samples solved for the comparison and at each other resolution"
    )
    repeats: int = Field(5, ge=1, description="timings of which the median is taken")
    device: str = Field("cpu", description="where the model runs")

    @field_validator("run", "data", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, os.PathLike) else value

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, int) else value


def evaluate(config: EvaluateConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Evaluate an operator and write ``RUN/evaluation/<split>/``.

    Parameters
    ----------
    config : EvaluateConfig
    progress : callable, optional
        Called as ``progress(samples done, samples in all, note)``.

    Returns
    -------
    dict
        ``metrics.json`` of the split: errors (`opkit.metrics.METRICS` on grids) with mean, median,
        95 % quantile, maximum and worst sample; seconds a sample; on grids the comparison with the
        solver (`opkit.tasks.grid`), None with the reason in ``comparison_note`` where there is
        none. Other resolutions come under ``resolutions``, by their directory's name.

    Raises
    ------
    UsageError
        The data does not fit the operator, or has no such split.
    OperatorError, DatasetError
        From loading the run, from reading the data.
    EvaluationError
        The operator gives NaN or infinity; nothing is written.

    Warns
    -----
    DataWarning
        The data is not what the operator was trained beside, or holds inputs it was trained on.
    """
    from pde_data.hdf5 import open_dataset

    from .operator import load

    op = load(config.run, device=config.device)
    dataset = open_dataset(config.data)
    if reason := op.task.misfit(dataset.schema):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")
    _warn_of_leaks(op, dataset, split, Path(config.run))

    found = op.task.evaluate(op, dataset, split, config, progress)
    written = {}
    for suffix, evaluation in found.items():
        metrics = {
            "n_samples": len(evaluation.ids),
            **{k: summarize(v, evaluation.ids) for k, v in evaluation.errors.items()},
            **{k: v for k, v in evaluation.facts.items() if k != "resolution"},
            "data": _data_facts(config, dataset, split.name, evaluation),
        }
        name = f"{split.name}{suffix}"
        _write(Path(config.run) / "evaluation" / name, metrics, evaluation)
        written[name] = metrics
    metrics = written.pop(split.name)
    return {**metrics, "resolutions": written} if written else metrics


def _data_facts(
    config: EvaluateConfig, dataset: Dataset, split: str, found: Evaluation
) -> dict[str, Any]:
    return {
        "name": Path(config.data).resolve().name,
        "content_digest": dataset.content_digest,
        "split": split,
        "resolution": found.facts.get("resolution"),
    }


def _warn_of_leaks(op: Operator, dataset: Dataset, split: Split, run: Path) -> None:
    """Warn if the samples are not from the training's dataset, or were trained on."""
    from pde_data.hdf5 import DatasetError

    trained = op.description["data"]
    if dataset.content_digest != trained["content_digest"]:
        warnings.warn(
            f"{dataset.path} is not the dataset the operator was trained on ({trained['name']}, "
            f"{trained['content_digest'][:8]}): its train split may differ",
            DataWarning,
            stacklevel=3,
        )
    try:
        with np.load(run / "train_samples.npz", allow_pickle=False) as stored:
            marks = {k: stored[k] for k in stored.files}
    except (OSError, ValueError):
        return
    config, own = trained.get("config") or {}, dataset.config
    keys = ["input_digest"]
    if all(config.get(k) == own.get(k) is not None for k in ("problem", "params")):
        keys.append("seed")  # the same function, on whatever grid
    seen = np.zeros(len(split), bool)
    for key in keys:
        if key in marks:
            try:
                column = split.quality(key).astype(marks[key].dtype)
            except DatasetError:
                continue
            seen |= np.isin(column, marks[key])
    if seen.any():
        warnings.warn(
            f"{int(seen.sum())} of {len(split)} samples of {split.name} were in the training "
            f"(first: {int(split.ids[np.argmax(seen)])}): their errors say nothing of new inputs",
            DataWarning,
            stacklevel=3,
        )


def _write(directory: Path, metrics: Mapping[str, Any], found: Evaluation) -> None:
    """Put the files into `directory`, all or none."""
    from .checkpoint import save_arrays, save_json

    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".tmp", dir=directory.parent))
    try:
        work.chmod(0o777 & ~_umask())
        save_json(work / "metrics.json", metrics)
        tables = {"per_sample": {"id": found.ids, **found.errors}, **found.tables}
        for name, columns in tables.items():
            (work / f"{name}.csv").write_text(_table(columns), encoding="utf-8")
        save_arrays(work / "samples.npz", dict(found.arrays))
        if directory.exists():
            shutil.rmtree(directory)
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _table(columns: Mapping[str, np.ndarray]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))
    return out.getvalue()


# -- the solver at the same accuracy -------------------------------------------------------------


def recreate(dataset: Dataset, split: Split) -> tuple[Problem | None, str]:
    """Build the problem that made a dataset, from its provenance.

    Returns
    -------
    Problem or None
    str
        Why there is none.
    """
    from pde_data.hdf5 import DatasetError
    from pde_data.problem import get_problem

    config = dataset.config
    if not config.get("problem"):
        return None, "the data does not say what problem it was made with"
    try:
        split.quality("seed")
    except DatasetError:
        return None, "the data has no seeds of its samples"
    try:
        return get_problem(config["problem"], **config.get("params", {})), ""
    except ValueError as e:
        return None, f"its problem cannot be made again: {' '.join(str(e).split())}"
