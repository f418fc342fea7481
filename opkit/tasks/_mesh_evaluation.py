"""Errors of an operator on meshes, and its predictions in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solvers.meshes import Mesh

from ..errors import UsageError
from ..evaluate import EvaluateConfig, recreate
from ..predict import FORMAT, FORMAT_VERSION, PredictConfig
from ._judging import ROLES, median_seconds, representatives, require_finite, resolution_suffix
from ._task import Evaluation, Progress

if TYPE_CHECKING:
    from pde_data.hdf5 import Dataset, Split

    from ._mesh_operator import MeshOperator
    from .mesh import MeshTask

__all__ = ["evaluate_mesh", "predict_mesh"]

#: Gives input, truth and mesh of sample k.
Sample = Callable[[int], tuple[np.ndarray, np.ndarray, Mesh]]


def evaluate_mesh(
    op: MeshOperator,
    dataset: Dataset,
    split: Split,
    config: EvaluateConfig,
    progress: Progress | None,
) -> dict[str, Evaluation]:
    """Errors on the meshes of the data and, with ``resolution``, on others.

    Samples of the split are solved anew on meshes of the other size, from their stored seeds: the
    truth there is the solver's on that very mesh.

    Returns
    -------
    dict
        ``rel_l2`` (quadrature-weighted, mean over the outputs) and ``max_error`` (over the largest
        true value) of each sample.
    """

    def stored(k: int) -> tuple[np.ndarray, np.ndarray, Mesh]:
        x, y = op.task.read(split, [k])
        return x[0], y[0], split.mesh(k)

    note = "the solver at the same accuracy is measured for models on grids alone"
    found = {"": _measure(op, split.ids, stored, split, config, progress, note)}
    for resolution in config.resolution:
        problem, why = recreate(dataset, split)
        if problem is None:
            raise UsageError(f"resolution={resolution}: samples cannot be solved anew: {why}")
        shape = problem.check_resolution(resolution)
        n = len(split)
        picked = np.unique(np.linspace(0, n - 1, min(n, config.n_solve)).round().astype(int))
        seeds = split.quality("seed")[picked]
        schema = problem.schema(shape)
        solved: list[tuple[np.ndarray, np.ndarray, Mesh]] = []
        for seed in seeds:
            inputs = problem.sample(np.random.default_rng(int(seed)))
            solution = problem.solve(inputs, shape, solver=problem.choose_solver(shape))
            mesh = solution.mesh if solution.mesh is not None else schema.mesh
            if mesh is None:
                raise UsageError(f"resolution={resolution}: the problem gives no mesh")
            constants = {s.name: s.value for s in schema.scalars if s.value is not None}
            values = {**constants, **solution.scalars, **solution.fields}
            solved.append(_stack(op.task, schema, values, mesh))
        name = resolution_suffix(shape)
        found[name] = _measure(op, split.ids[picked], solved.__getitem__, split, config, None, note)
    return found


def _stack(
    task: MeshTask, schema: Any, values: dict[str, Any], mesh: Mesh
) -> tuple[np.ndarray, np.ndarray, Mesh]:
    """Channels of a solution."""
    moving = {f.name for f in schema.fields if f.time_varying}
    out = []
    for variables, moment in ((task.inputs, 0), (task.outputs, -1)):
        columns = []
        for v in variables:
            a = np.asarray(values[v.name])
            a = a[moment] if v.name in moving else a
            columns.append(
                a.reshape(mesh.n_points, -1)
                if v.kind == "field"
                else np.full((mesh.n_points, 1), a)
            )
        out.append(np.concatenate(columns, axis=1))
    return out[0], out[1], mesh


def _measure(
    op: MeshOperator,
    ids: np.ndarray,
    sample: Sample,
    split: Split,
    config: EvaluateConfig,
    progress: Progress | None,
    note: str,
) -> Evaluation:
    rel, worst, bad, points = [], [], [], []
    for k in range(len(ids)):
        x, truth, mesh = sample(k)
        truth = truth.astype(np.float64)
        got = np.asarray(op.apply(x[None], mesh.points, mesh.point_weights)[0], np.float64)
        if not np.isfinite(got).all():
            bad.append(int(ids[k]))
            continue
        r, m = _errors(op.task, got, truth, mesh.point_weights, int(ids[k]))
        rel.append(r)
        worst.append(m)
        points.append(mesh.n_points)
        if progress is not None:
            progress(k + 1, len(ids), "")
    require_finite(bad, len(ids))
    errors = {"rel_l2": np.array(rel), "max_error": np.array(worst)}
    facts = {
        "seconds_per_sample": _seconds(op, sample(0), config),
        "points_per_sample": float(np.mean(points)),
        "comparison": None,
        "comparison_note": note,
    }
    return Evaluation(ids, errors, facts, {}, _examples(op, ids, sample, errors["rel_l2"]))


def _errors(
    task: MeshTask, got: np.ndarray, truth: np.ndarray, w: np.ndarray, sample_id: int
) -> tuple[float, float]:
    rel, worst = [], []
    error = got - truth
    for v, part in zip(task.outputs, task.parts, strict=True):
        size = (truth[:, part] ** 2).sum(-1)
        if not size.any():
            raise UsageError(
                f"sample {sample_id}: output {v.name!r} is zero everywhere, so it has no relative "
                "error"
            )
        e = (error[:, part] ** 2).sum(-1)
        rel.append(np.sqrt((w @ e) / (w @ size)))
        worst.append(np.sqrt(e.max() / size.max()))
    return float(np.mean(rel)), float(np.mean(worst))


def _seconds(
    op: MeshOperator, one: tuple[np.ndarray, np.ndarray, Mesh], config: EvaluateConfig
) -> float:
    """Seconds a sample, its neighbors known: the median of some repeats."""
    x, _, mesh = one
    return median_seconds(
        lambda: op.apply(x[None], mesh.points, mesh.point_weights), config.repeats
    )


def _examples(
    op: MeshOperator, ids: np.ndarray, sample: Sample, errors: np.ndarray
) -> dict[str, np.ndarray]:
    """Best, median and worst sample, each with its points."""
    picked = representatives(errors)
    out: dict[str, np.ndarray] = {"ids": ids[picked], "roles": np.array(ROLES)}
    for k, i in enumerate(picked):
        x, truth, mesh = sample(int(i))
        got = op.apply(x[None], mesh.points, mesh.point_weights)[0]
        out |= {
            f"input_{k}": x,
            f"points_{k}": mesh.points,
            f"truth_{k}": truth,
            f"prediction_{k}": got,
        }
        triangles = [c for code, c in mesh.blocks() if code == 5]
        if triangles:
            out[f"triangles_{k}"] = triangles[0]
    return out


# -- predictions -----------------------------------------------------------------------------------


def predict_mesh(op: MeshOperator, config: PredictConfig, progress: Progress | None) -> Path:
    """Apply `op` to a split; `MeshTask.predict`.

    Samples lie one after the other: sample k has the rows ``offsets[k]`` to ``offsets[k + 1]`` of
    ``points`` and of the fields.
    """
    from pde_data.hdf5 import open_dataset

    out = Path(config.out)
    if config.points is not None:
        raise UsageError(
            f"points={config.points}: {op.name} answers at the points of its inputs, not at others"
        )
    if out.suffix == ".npy":
        raise UsageError(f"out={config.out}: samples have their points; use .npz or .h5")
    if Path(config.data).suffix == ".npy":
        raise UsageError(
            f"{config.data}: an array has no mesh; give a dataset, or call the operator in Python"
        )
    dataset = open_dataset(config.data)
    if reason := op.task.misfit(dataset.schema, inputs_only=True):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")

    def results() -> Iterator[tuple[Mesh, dict[str, np.ndarray]]]:
        for k in range(len(split)):
            x, _ = op.task.read(split, [k], outputs=False)
            mesh = split.mesh(k)
            y = op.apply(x[0][None], mesh.points, mesh.point_weights)[0]
            yield mesh, op.task.fields(y)
            if progress is not None:
                progress(k + 1, len(split), "")

    parts = list(results())
    offsets = np.cumsum([0, *(m.n_points for m, _ in parts)])
    points = np.concatenate([m.points for m, _ in parts])
    fields = {v.name: np.concatenate([f[v.name] for _, f in parts]) for v in op.task.outputs}
    if out.suffix == ".npz":
        from ..checkpoint import save_arrays

        save_arrays(out, {"sample": split.ids, "offsets": offsets, "points": points, **fields})
        return out
    from pde_data.hdf5._atomic import atomic_h5

    facts = {
        "run": Path(config.run).resolve().name,
        "source": Path(config.data).resolve().name,
        "split": split.name,
        "content_digest": dataset.content_digest,
        "problem": op.description["data"]["problem"],
    }
    with atomic_h5(out) as f:
        f.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, model=op.name, **facts)
        f.create_dataset("sample", data=split.ids.astype("<i8"), track_times=False)
        f.create_dataset("offsets", data=offsets.astype("<i8"), track_times=False)
        ds = f.create_dataset("points", data=points, track_times=False)
        ds.attrs["units"] = op.task.coordinates[0][1]
        group = f.create_group("outputs")
        group.attrs["field_names"] = [v.name for v in op.task.outputs]
        for v in op.task.outputs:
            ds = group.create_dataset(v.name, data=fields[v.name], track_times=False)
            ds.attrs.update(units=v.units, long_name=v.long_name)
    return out
