"""How a model of dynamical systems is judged, and its predictions for a dataset."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UsageError
from ..evaluate import EvaluateConfig, EvaluationError
from ._judging import median_seconds
from ._task import Evaluation, Progress

if TYPE_CHECKING:
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Split

    from ._trajectories_operator import TrajectoryOperator

__all__ = ["evaluate_trajectories", "predict_trajectories"]

#: Environments whose phase portraits are kept.
PORTRAITS = 6


def evaluate_trajectories(
    op: TrajectoryOperator, split: Split, config: EvaluateConfig, progress: Progress | None
) -> Evaluation:
    """Errors of a split's trajectories from their first complete state on.

    Raises
    ------
    UsageError
        Environments that the operator does not know.
    EvaluationError
        A prediction is not finite.
    """
    from ._trajectories_learner import TrajectoryData

    task = op.task
    data = TrajectoryData(split, task, dtype=op.dtype)
    x, times, observed, rows = (v.numpy() for v in data.tensors)
    n, step = len(x), max(config.batch_size, 256)
    op.check_times(times, rows)
    parts = []
    for a in range(0, n, step):
        parts.append(_predict(op, data, slice(a, a + step)))
        if progress is not None:
            progress(min(n, a + step), n, "")
    found = np.concatenate(parts)
    if (bad := ~np.isfinite(found).all(axis=(1, 2))).any():
        raise EvaluationError(
            f"sample {int(split.ids[np.argmax(bad)])}: the predicted trajectory is not finite"
        )
    gone = (op.outside(found) & observed.any(axis=-1)).any(axis=1)
    errors = _errors(op, found, x, observed)
    table = _environments(op, rows, errors["rel_l2"])
    picked = _representatives(op, table)
    arrays: dict[str, np.ndarray] = {
        "environment": np.array([task.environments[e] for e in picked])
    }
    shown = [np.flatnonzero(rows == e)[:3] for e in picked]
    most = max(map(len, shown))
    index = np.array([np.resize(s, most) for s in shown])
    arrays |= {
        "truth": np.where(observed, x, np.nan)[index],
        "prediction": np.where(times[..., None] <= times.max(1)[:, None, None], found, 0.0)[index],
        "times": times[index],
    }
    gaps = np.where(observed, (found - x) / np.array(op.scale.scale), np.nan)
    with np.errstate(all="ignore"):
        arrays["error_by_step"] = np.sqrt(_nanmean(gaps**2, axis=(0, 2)))
    seconds = _seconds(op, data, config)
    families = np.array(task.families)
    experts = op.experts
    facts: dict[str, Any] = {
        "n_environments": len(task.environments),
        "n_experts": op.model.n_experts,
        "experts_used": len(np.unique(experts)),
        "adjusted_rand_index": _rand_index(families, experts),
        "blown_up": [int(i) for i in split.ids[gone]],
        "seconds_per_sample": seconds,
    }
    return Evaluation(split.ids, errors, facts, {"environments": table}, arrays)


def _nanmean(values: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    count = np.isfinite(values).sum(axis=axis)
    return np.asarray(np.nansum(values, axis=axis) / np.where(count, count, np.nan))


def _predict(op: TrajectoryOperator, data: Any, part: slice) -> np.ndarray:
    x, times, _, rows = (v[part].to(op.device) for v in data.tensors)
    with torch.no_grad():
        return np.asarray(op.module(x[:, 0], times, rows).cpu().double().numpy())


def _errors(
    op: TrajectoryOperator, found: np.ndarray, x: np.ndarray, observed: np.ndarray
) -> dict[str, np.ndarray]:
    """As `TrajectoryLearner.errors`, in float64."""
    scale = np.array(op.scale.scale)
    error = np.where(observed, found - x, 0.0)
    count = observed.sum(axis=(1, 2))
    size = np.where(observed, x / scale, 0.0)
    power = (size**2).sum(axis=(1, 2))
    power = np.where(power > 0, power, count)
    return {
        "rel_l2": np.sqrt(((error / scale) ** 2).sum(axis=(1, 2)) / power),
        "mse": (error**2).sum(axis=(1, 2)) / count,
    }


def _environments(
    op: TrajectoryOperator, rows: np.ndarray, error: np.ndarray
) -> dict[str, np.ndarray]:
    """One row an environment: family, expert, error, context."""
    task = op.task
    n = len(task.environments)
    count = np.bincount(rows, minlength=n)
    total = np.bincount(rows, weights=error, minlength=n)
    with np.errstate(invalid="ignore"):
        mean = np.where(count, total / np.maximum(count, 1), np.nan)
    names = [task.family_names.get(f"{f:g}", f"{f:g}") for f in task.families] or ["all"] * n
    contexts = op.contexts
    return {
        "environment": np.array(task.environments),
        "name": np.array([task.environment_name(e) for e in task.environments]),
        "family": np.array(names),
        "expert": op.experts,
        "samples": count,
        "rel_l2": mean,
        **{f"context{i}": contexts[:, i] for i in range(contexts.shape[1])},
    }


def _representatives(op: TrajectoryOperator, table: dict[str, np.ndarray]) -> list[int]:
    """Environments to draw: of each family in turn the middle one, the worst, then the others."""
    present = np.flatnonzero(table["samples"])
    family = table["family"][present]
    queues = []
    for f in dict.fromkeys(family):
        mine = present[family == f]
        worst = mine[np.argsort(table["rel_l2"][mine])[::-1]]
        queues.append(list(dict.fromkeys([int(mine[len(mine) // 2]), *map(int, worst)])))
    turns = itertools.zip_longest(*queues)
    picked = [e for turn in turns for e in turn if e is not None]
    return sorted(picked[:PORTRAITS])


def _rand_index(families: np.ndarray, experts: np.ndarray) -> float | None:
    if len(np.unique(families)) < 2:
        return None
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(families, experts))


def _seconds(op: TrajectoryOperator, data: Any, config: EvaluateConfig) -> float:
    """Median time of a warm batch, divided by its size."""
    part = slice(0, config.batch_size)
    seconds = median_seconds(lambda: _predict(op, data, part), config.repeats)
    return seconds / min(len(data), config.batch_size)


def predict_trajectories(
    op: TrajectoryOperator, config: PredictConfig, progress: Progress | None
) -> Path:
    """Predict from the stored initial states at the stored times, into one file."""
    from pde_data.hdf5 import open_dataset

    out, path = Path(config.out), Path(config.data)
    if config.points is not None:
        raise UsageError(f"points={config.points}: trajectories are predicted at the stored times")
    if path.suffix == ".npy":
        raise UsageError(
            f"{config.data}: an array of initial states says neither times nor environments; call "
            "opkit.load(run)(x0, times, environment) instead"
        )
    dataset = open_dataset(path)
    if reason := op.task.misfit(dataset.schema):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")
    a = op.task.read(split, np.arange(len(split)))
    late = ~a.observed[:, 0].all(axis=1)
    if late.any():
        raise UsageError(
            f"sample {int(a.ids[np.argmax(late)])}: not all states are observed at its first time"
        )
    values = op(a.x[:, 0], a.times, a.environment)
    if progress is not None:
        progress(len(split), len(split), "")
    _write(out, op, split, a, values, config)
    return out


def _write(
    out: Path, op: TrajectoryOperator, split: Split, a: Any, values: np.ndarray, config: Any
) -> None:
    from ..checkpoint import replace_file, save_arrays
    from ..predict import FORMAT, FORMAT_VERSION

    task = op.task
    values = values.astype(np.float64 if str(op.dtype) == "torch.float64" else np.float32)
    if out.suffix == ".npz":
        columns = {"sample": a.ids, "time": a.times, "environment": a.environment}
        save_arrays(out, {**columns, task.field: values})
    elif out.suffix == ".npy":

        def write(path: Path) -> None:
            with path.open("wb") as f:
                np.save(f, values, allow_pickle=False)

        replace_file(out, write)
    else:
        from pde_data.hdf5._atomic import atomic_h5

        with atomic_h5(out) as f:
            f.attrs.update(
                format=FORMAT, format_version=FORMAT_VERSION, model=op.name, split=split.name,
                run=Path(config.run).resolve().name, source=Path(config.data).resolve().name,
                problem=op.description["data"]["problem"],
            )  # fmt: skip
            f.create_dataset("sample", data=a.ids.astype("<i8"), track_times=False)
            f.create_dataset("environment", data=a.environment, track_times=False)
            ds = f.create_dataset("time", data=a.times, track_times=False)
            ds.attrs["units"] = task.time_units
            group = f.create_group("outputs")
            group.attrs["field_names"] = [task.field]
            ds = group.create_dataset(task.field, data=values, track_times=False)
            ds.attrs["units"] = task.units
            ds.attrs["labels"] = list(task.states)
