"""The mesh task: read right, weighed right, trained on shared and own meshes, used on others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import opkit
from models import build_model
from opkit.errors import UsageError
from opkit.evaluate import EvaluateConfig, evaluate
from opkit.fit import FitConfig, fit
from opkit.predict import PredictConfig, predict
from opkit.report import report
from opkit.tasks._mesh_operator import MeshData, relative_errors
from opkit.tasks.mesh import MeshTask
from pde_data.hdf5 import (
    DatasetConfig,
    DatasetSchema,
    FieldSpec,
    ScalarSpec,
    ShardWriter,
    open_dataset,
    rebuild_index,
)
from solvers.grids import Grid
from solvers.meshes import Mesh

SMALL = {"hidden_channels": 8, "n_layers": 1, "frequencies": 1}


def mesh_of(n: int, seed: int, power: float = 1.0) -> Mesh:
    """Triangles on (0, 2) x (0, 1), inner points moved, clustered towards x = 0 by `power`."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, n)
    points = np.stack([a.ravel() for a in np.meshgrid(x, x, indexing="ij")], 1)
    inner = ((points > 0) & (points < 1)).all(1)
    points[inner] += rng.uniform(-0.2, 0.2, (int(inner.sum()), 2)) / n
    points[:, 0] = 2 * points[:, 0] ** power
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel(), i[:-1, 1:].ravel()
    cells = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Mesh.simplices(points, cells)


def write(root: Path, layout: str, **changes: Any) -> Path:
    """v = (k a + 1, a), s = a + mean of a; a = c sin(pi x) + d."""
    fields = (
        FieldSpec("a", "input", "m"),
        FieldSpec("v", "vector", "m/s", 1, time_varying=changes.get("moving", False)),
        FieldSpec("s", "scalar", "K"),
    )
    mesh = mesh_of(6, 0) if layout == "mesh" else None
    schema = DatasetSchema(
        "synthetic", "Known functions", Grid(), fields, ("a", "k"), ("v", "s"),
        scalars=(ScalarSpec("k", "number"),), layout=layout, mesh=mesh, space_dim=2,
        dtype="float64",
        **({"problem_type": "time_dependent", "time": (0.0, 1.0, 2.0)}
           if changes.get("moving") else {}),
    )  # fmt: skip
    config = DatasetConfig(
        problem="synthetic", params={}, resolution=(), dtype="float64", seed=0, solver="none",
        rtol=1e-10, n={"train": 6, "valid": 2, "test": 3}, samples_per_shard=4,
    )  # fmt: skip
    for split in config.n:
        for shard in range(config.n_shards(split)):
            with ShardWriter(root, split=split, shard=shard, schema=schema, config=config) as w:
                for number in w.sample_ids:
                    own = mesh
                    if own is None:
                        own = mesh_of(4 + number % 3, number, 1 + number % 2)
                    c, d, k = w.rng(number).uniform(0.5, 1.5, 3)
                    a = c * np.sin(np.pi * own.points[:, 0]) + d
                    v = np.stack([k * a + 1, a], -1)
                    if changes.get("moving"):
                        v = np.stack([t * v for t in (0.0, 1.0, 2.0)])
                    mean = own.point_weights @ a / own.measure
                    w.add(
                        number, residual=1e-12, iterations=1, wall_time=0.5, scalars={"k": k},
                        fields={"a": a, "v": v, "s": a + mean},
                        **({"mesh": own} if mesh is None else {}),
                    )  # fmt: skip
    rebuild_index(root)
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("mesh")
    return {k: write(base / k, k) for k in ("mesh", "ragged")} | {
        "moving": write(base / "moving", "ragged", moving=True)
    }


def task_of(root: Path) -> MeshTask:
    return MeshTask.from_dataset(open_dataset(root), MeshTask.Options())


def trained(root: Path, out: Path, model: str = "operator_gnn", **changes: Any) -> Any:
    options = {**SMALL, **({"n_heads": 2} if "transformer" in model else {})}
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 2, "options": options, **changes}
    return fit(FitConfig(data=str(root), model=model, out=str(out), **settings))


# -- what is read --------------------------------------------------------------------------------


def test_channels_and_description(roots: dict[str, Path]) -> None:
    for kind, root in roots.items():
        task = task_of(root)
        assert (task.in_channels, task.out_channels, task.dim) == (2, 3, 2)
        assert task.parts == (slice(0, 2), slice(2, 3))
        assert task.bounds == ((0.0, 2.0), (0.0, 1.0))
        assert task.times == ((0.0, 2.0) if kind == "moving" else ())
        assert MeshTask.from_dict(json.loads(json.dumps(task.as_dict()))) == task
        split = open_dataset(root)["train"]
        xs, ys = task.read(split, [3, 1])
        for i, x, y in zip((3, 1), xs, ys, strict=True):
            sample = split[i]
            np.testing.assert_array_equal(x[:, 0], sample["inputs"]["a"])
            assert (x[:, 1] == sample["params"]["k"]).all()
            v = sample["outputs"]["v"]
            np.testing.assert_array_equal(y[:, :2], v[-1] if kind == "moving" else v)
            np.testing.assert_array_equal(task.fields(y)["s"], sample["outputs"]["s"])
    spacing = np.sqrt(2 / 36)
    assert task_of(roots["mesh"]).spacing == pytest.approx(spacing, rel=1e-5)


def test_scales_are_integrals(roots: dict[str, Path]) -> None:
    """Moments over the domains, weighted by quadrature and by their measure."""
    for root in roots.values():
        task, split = task_of(root), open_dataset(root)["train"]
        found = task.fit_normalizer(split, limit=5)
        xs, ys = task.read(split, range(5))
        w = np.concatenate([split.mesh(i).point_weights for i in range(5)])
        x, y = np.concatenate(xs), np.concatenate(ys)
        mean = w @ x / w.sum()
        np.testing.assert_allclose(found.input_shift, mean, rtol=1e-12)
        np.testing.assert_allclose(found.input_scale, np.sqrt(w @ (x - mean) ** 2 / w.sum()))
        mean = w @ y / w.sum()
        np.testing.assert_allclose(found.output_shift, mean, rtol=1e-12)
        variance = w @ (y - mean) ** 2 / w.sum()
        np.testing.assert_allclose(found.output_scale[:2], np.sqrt(variance[:2].mean()))
        np.testing.assert_allclose(found.output_scale[2], np.sqrt(variance[2]))


@pytest.mark.parametrize("model", ["operator_gnn", "operator_mesh_transformer"])
def test_filling_changes_nothing(roots: dict[str, Path], model: str) -> None:
    """Losses of samples in one batch are those of the samples alone, at any batch."""
    task, split = task_of(roots["ragged"]), open_dataset(roots["ragged"])["train"]
    torch.manual_seed(0)
    options = {**SMALL, **({"n_heads": 2} if "transformer" in model else {})}
    net, _ = build_model(model, task.spec(), options)
    normalizer = task.fit_normalizer(split)
    learner = task.learner(net.double(), normalizer, FitConfig(data="-", model=model, out="-"))
    data = MeshData(split, task, dtype=torch.float64)
    with torch.no_grad():
        together = learner.losses(*data[[0, 1, 2, -4]])
        alone = torch.cat([learner.losses(*data[[i]]) for i in range(4)])
    assert data[[0, 1, 2]][0].shape[1] == 36 and data[[0]][0].shape[1] < 36
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    assert data[[0, -4]][-1].tolist() == [1.0, 0.0]
    # by hand
    _, y, points, w, _, _ = data[[2]]
    mesh = split.mesh(2)
    np.testing.assert_array_equal(points[0].numpy(), mesh.points)
    p = y + 0.1 * torch.randn_like(y)
    e = ((p - y) ** 2)[0].numpy()
    t = (y**2)[0].numpy()
    m = mesh.point_weights
    expected = np.mean([
        np.sqrt((m @ e[:, k].sum(-1)) / (m @ t[:, k].sum(-1))) for k in task.parts
    ])  # fmt: skip
    assert float(relative_errors(p, y, w, task.parts)[0]) == pytest.approx(expected)


# -- the whole way -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mesh", "ragged", "moving"])
@pytest.mark.parametrize("model", ["operator_gnn", "operator_mesh_transformer"])
def test_from_data_to_report(roots: dict[str, Path], tmp_path: Path, kind: str, model: str) -> None:
    run = tmp_path / "run"
    op = trained(roots[kind], run, model)
    again = opkit.load(run)
    split = open_dataset(roots[kind])["test"]
    task = again.task
    xs, ys = task.read(split, range(3))
    predictions = [again(x, split.mesh(i)) for i, x in enumerate(xs)]
    np.testing.assert_array_equal(predictions[1], op(xs[1], split.mesh(1)))
    assert predictions[0].shape == ys[0].shape

    metrics = evaluate(EvaluateConfig(run=str(run), data=str(roots[kind])))
    errors = []
    for i, (p, y) in enumerate(zip(predictions, ys, strict=True)):
        w = split.mesh(i).point_weights
        errors.append(np.mean([
            np.sqrt((w @ ((p - y) ** 2)[:, k].sum(-1)) / (w @ (y**2)[:, k].sum(-1)))
            for k in task.parts
        ]))  # fmt: skip
    assert metrics["rel_l2"]["mean"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert metrics["n_samples"] == 3 and metrics["comparison"] is None

    for name in ("p.npz", "p.h5"):
        predict(PredictConfig(run=str(run), data=str(roots[kind]), out=str(tmp_path / name)))
    with np.load(tmp_path / "p.npz") as stored, h5py.File(tmp_path / "p.h5") as f:
        a, b = stored["offsets"][1:3]
        np.testing.assert_allclose(stored["v"][a:b], predictions[1][:, :2], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(stored["points"][a:b], split.mesh(1).points)
        np.testing.assert_array_equal(f["outputs/s"][:], stored["s"])
        assert f["outputs/v"].attrs["units"] == "m/s"
    page = report(run, out=tmp_path / "report.html") if kind == "mesh" else None
    if page is not None:
        assert "relative L2" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_resumed_is_uninterrupted(roots: dict[str, Path], tmp_path: Path) -> None:
    whole = trained(roots["ragged"], tmp_path / "a", epochs=3, scheduler="constant")
    trained(roots["ragged"], tmp_path / "b", epochs=1, scheduler="constant")
    parts = trained(roots["ragged"], tmp_path / "b", epochs=3, scheduler="constant", resume=True)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns(roots: dict[str, Path], tmp_path: Path) -> None:
    """v and s are simple functions of the inputs: the error falls to a part of the first."""
    op = trained(
        roots["ragged"], tmp_path / "run", epochs=40, lr=1e-2,
        options={"hidden_channels": 16, "n_layers": 1, "frequencies": 1},
    )  # fmt: skip
    assert min(r["valid_rel_l2"] for r in op.history) < 0.35 * op.history[0]["valid_rel_l2"]


# -- refusals ------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named(roots: dict[str, Path], tmp_path: Path) -> None:
    op = trained(roots["mesh"], tmp_path / "run", epochs=1)
    mesh = open_dataset(roots["mesh"])["test"].mesh(0)
    x = np.ones((36, 2))
    assert op(x, mesh.points).shape == (36, 3)  # weights of its Delaunay triangulation
    with pytest.raises(ValueError, match=r"expected \(\[batch\], 36, 2\).*a, k"):
        op(np.ones((35, 2)), mesh)
    with pytest.raises(ValueError, match="not finite"):
        op(np.full((36, 2), np.nan), mesh)
    with pytest.raises(ValueError, match="3 coordinates, expected 2"):
        op(x, np.random.default_rng(0).random((36, 3)), weights=np.ones(36))
    with pytest.raises(ValueError, match="36 negative entries"):
        op(x, mesh.points, weights=-np.ones(36))
    with pytest.raises(UsageError, match="at the points of its inputs"):
        predict(PredictConfig(run=str(tmp_path / "run"), data=str(roots["mesh"]),
                              out=str(tmp_path / "p.npz"), points="points.csv"))  # fmt: skip
    with pytest.raises(UsageError, match=r"use .npz or .h5"):
        predict(PredictConfig(run=str(tmp_path / "run"), data=str(roots["mesh"]),
                              out=str(tmp_path / "p.npy")))  # fmt: skip
    schema = open_dataset(roots["mesh"]).schema
    assert op.task.misfit(schema) == ""
    assert "times" in task_of(roots["moving"]).misfit(schema)
    grid = DatasetSchema(
        "flat", "A grid", Grid.unit(4), (FieldSpec("a", "a"), FieldSpec("u", "u")), ("a",), ("u",)
    )
    assert "layout 'grid'" in op.task.misfit(grid)
    with pytest.raises(UsageError, match="trains on the data as stored"):
        trained(roots["mesh"], tmp_path / "other", resolution=(8,))
