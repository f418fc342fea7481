"""Errors of an operator at the points of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..evaluate import EvaluateConfig
from ._judging import ROLES, median_seconds, representatives, require_finite
from ._points_reader import Reader
from ._task import Evaluation, Progress

if TYPE_CHECKING:
    from pde_data.hdf5 import Dataset, Split

    from ._points_operator import PointsOperator

__all__ = ["evaluate_points"]

#: Numbers of a batch of outputs held at once.
SIZE = 2**24


def evaluate_points(
    op: PointsOperator,
    dataset: Dataset,
    split: Split,
    config: EvaluateConfig,
    progress: Progress | None,
) -> dict[str, Evaluation]:
    """Evaluate at all points of the data, which may be others than the training's.

    Returns
    -------
    dict
        ``rel_l2`` (mean over the outputs), ``mse`` (quadrature-weighted, physical units) and
        ``max_error`` (over the largest true value) of each sample.
    """
    op.task.refuse_resolution(config.resolution)
    reader = Reader(op.task, split.schema)
    n = len(split)
    size = 4096 if reader.shared is None else len(reader.shared)
    step = max(1, min(config.batch_size, SIZE // (size * op.task.out_channels)))
    columns: dict[str, list[float]] = {"rel_l2": [], "mse": [], "max_error": []}
    points = _to(op, reader.shared.points) if reader.shared is not None else None
    same = (
        reader.shared is not None
        and op.points is not None
        and op.points.shape == reader.shared.points.shape
        and bool(np.allclose(op.points, reader.shared.points, rtol=0, atol=1e-12))
    )
    bad: list[int] = []
    for start in range(0, n, step):
        index = np.arange(start, min(n, start + step))
        with torch.no_grad():
            us = tuple(_to(op, u) for u in reader.functions(split, index))
            if reader.shared is not None:
                truth = reader.outputs(split, index)
                op.task.check_outputs(split, index, truth)
                got = op.at(us, None if same else points).double().cpu().numpy()
                w = reader.shared.weights
                _add(columns, op, got, truth, w, split, index, bad)
            else:
                for k, i in enumerate(index):
                    y, w, s = reader.own(split, int(i))
                    op.task.check_outputs(split, index[k : k + 1], s[None])
                    one = op.at(tuple(u[k : k + 1] for u in us), _to(op, y))
                    got = one.double().cpu().numpy()
                    _add(columns, op, got, s[None], w, split, index[k : k + 1], bad)
        if progress is not None:
            progress(int(index[-1]) + 1, n, "")
    require_finite(bad, n)
    errors = {k: np.array(v) for k, v in columns.items()}
    facts: dict[str, Any] = {
        "seconds_per_sample": _seconds(op, reader, split, config),
        "rms_error": float(np.sqrt(errors["mse"].mean())),
        "points_per_sample": size if reader.shared is not None else None,
        "comparison": None,
        "comparison_note": "the solver at the same accuracy is measured for models on grids alone",
    }
    arrays = _samples(op, reader, split, errors["rel_l2"])
    return {"": Evaluation(split.ids, errors, facts, {}, arrays)}


def _to(op: PointsOperator, a: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(a)).to(op.dtype).to(op.device)


def _add(
    columns: dict[str, list[float]],
    op: PointsOperator,
    got: np.ndarray,
    truth: np.ndarray,
    w: np.ndarray,
    split: Split,
    index: np.ndarray,
    bad: list[int],
) -> None:
    truth = np.asarray(truth, np.float64)
    finite = np.isfinite(got).reshape(len(got), -1).all(axis=1)
    bad += split.ids[index[~finite]].tolist()
    rel, worst = [], []
    with np.errstate(invalid="ignore"):
        error = got - truth
        for part in op.task.parts:
            e = ((error[..., part] ** 2).sum(-1) * w).sum(-1)
            s = ((truth[..., part] ** 2).sum(-1) * w).sum(-1)
            rel.append(np.sqrt(e / s))
            size = np.sqrt((truth[..., part] ** 2).sum(-1)).max(-1)
            worst.append(np.sqrt((error[..., part] ** 2).sum(-1)).max(-1) / size)
        columns["rel_l2"] += np.mean(rel, axis=0).tolist()
        columns["max_error"] += np.mean(worst, axis=0).tolist()
        columns["mse"] += ((error**2).mean(-1) * w).sum(-1).tolist()


def _seconds(op: PointsOperator, reader: Reader, split: Split, config: EvaluateConfig) -> float:
    """Seconds a sample: a warm batch, the median of some repeats."""
    index = np.arange(min(len(split), config.batch_size))
    us = tuple(_to(op, u) for u in reader.functions(split, index))
    y = None
    if reader.shared is None or reader.task.shared is None:
        y = _to(op, reader.own(split, 0)[0])
    with torch.no_grad():
        return median_seconds(lambda: op.at(us, y), config.repeats) / len(index)


def _samples(
    op: PointsOperator, reader: Reader, split: Split, errors: np.ndarray
) -> dict[str, np.ndarray]:
    """Best, median and worst sample, each with its points."""
    picked = representatives(errors)
    out: dict[str, np.ndarray] = {"ids": split.ids[picked], "roles": np.array(ROLES)}
    for k, i in enumerate(picked):
        us = reader.functions(split, [int(i)])
        y, _, s = reader.own(split, int(i))
        with torch.no_grad():
            got = op.at(tuple(_to(op, u) for u in us), _to(op, y))[0].cpu().numpy()
        f = op.task.functions[0]
        out |= {
            f"sensors_{k}": f.sensor_points(),
            f"input_{k}": us[0][0].reshape(f.channels, -1),
            f"points_{k}": y,
            f"truth_{k}": s,
            f"prediction_{k}": got,
        }
        if reader.shared is None or reader.shared.mesh is not None:
            mesh = reader.points_of(split, int(i)).mesh
            cells = [c for code, c in mesh.blocks() if code == 5] if mesh is not None else []
            if cells:
                out[f"triangles_{k}"] = cells[0]
    return out
