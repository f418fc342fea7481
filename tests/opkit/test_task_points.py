"""The points task: every layout is read right, weighed right, trained, and answers anywhere."""

from __future__ import annotations

import importlib.util
import json
import sys
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
from opkit.tasks._points_geometry import MeshLocator, PointSet
from opkit.tasks._points_prediction import PointFile
from opkit.tasks._points_reader import Reader
from opkit.tasks.points import PointsOptions, PointsTask
from pde_data.hdf5 import open_dataset

SOURCE = Path(__file__).with_name("points_data.py")
_spec = importlib.util.spec_from_file_location("opkit_points_data", SOURCE)
data: Any = sys.modules.setdefault("opkit_points_data", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(data)

KINDS = ("grid", "evolution", "mesh", "ragged", "series", "own_times")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("points")
    return {kind: data.write(base / kind, kind) for kind in KINDS}


def task_of(root: Path, **options: Any) -> PointsTask:
    return PointsTask.from_dataset(open_dataset(root), PointsOptions(**options))


# -- what is read --------------------------------------------------------------------------------


def test_points_and_weights(roots: dict[str, Path]) -> None:
    """Values lie at their points; weights integrate linear functions exactly."""
    for kind in KINDS:
        task = task_of(roots[kind])
        split = open_dataset(roots[kind])["train"]
        reader = Reader(task, split.schema)
        for i in (0, 3):
            y, w, s = reader.own(split, i)
            assert w.sum() == pytest.approx(1, abs=1e-12) and s.shape == (len(y), task.out_channels)
            k = float(np.asarray(reader.functions(split, [i])[0]).ravel()[0])
            raw = split[i]
            if kind == "grid":
                c = raw["params"]["c"]
                u = c * k * y[:, 0] * (1 - y[:, 0]) * (2 + np.cos(np.pi * y[:, 1]))
                np.testing.assert_allclose(s, np.stack([u, u, -2 * u], 1), atol=2e-6)
            elif kind == "evolution":
                assert [c.name for c in task.coordinates] == ["x", "time"]
                np.testing.assert_allclose(
                    s[:, 0], k * y[:, 1] * y[:, 0] * (1 - y[:, 0]), atol=2e-6
                )
                # trapezoidal in time: 0.25, 1, 0.75
                assert w @ y[:, 1] == pytest.approx((0.5 * 1 + 2 * 0.75) / 2)
            elif kind == "mesh":
                k = float(raw["inputs"]["g"][0])
                np.testing.assert_allclose(s[:, 0], k * (1 + y[:, 0] + 2 * y[:, 1]), rtol=2e-6)
                assert w @ s[:, 0] == pytest.approx(2.5 * k, rel=1e-5)
            elif kind == "ragged":
                assert len(y) == split.mesh(i).n_points
                a = raw["inputs"]["a"] / (1 + y[:, 0] - y[:, 1])
                np.testing.assert_allclose(s[:, 0], a * (1 + y[:, 0] + 2 * y[:, 1]), rtol=1e-5)
            elif kind == "series":
                np.testing.assert_allclose(
                    s, np.stack([10 * np.sin(k * y[:, 0]), np.cos(k * y[:, 0])], 1), atol=2e-5
                )
            else:
                np.testing.assert_array_equal(y[:, 0], split.times(i))


def test_sensors(roots: dict[str, Path]) -> None:
    """All or some of the stored points; a lattice where meshes differ; found on finer data."""
    split = open_dataset(roots["mesh"])["train"]
    whole, some = task_of(roots["mesh"]), task_of(roots["mesh"], sensors=5)
    assert [f.shape for f in whole.functions] == [(36,), (9,)]
    assert [f.shape for f in some.functions] == [(5,), (5,)]
    a, g = Reader(some, split.schema).functions(split, [2, 1])
    x = some.functions[0].sensor_points()
    k = split.read([2, 1], ["g"])["g"][:, :1]
    np.testing.assert_allclose(a, k * x[:, 0] + 0.1, rtol=1e-5)
    np.testing.assert_allclose(g, k * (1 + some.functions[1].sensor_points()[:, 0]), rtol=1e-5)
    assert len(np.unique(x, axis=0)) == 5

    split = open_dataset(roots["ragged"])["train"]
    task = task_of(roots["ragged"], sensors=30)
    f = task.functions[0]
    assert f.shape == (5, 5) and f.channels == 2
    (u,) = Reader(task, split.schema).functions(split, [0, 4])
    values, inside = u.reshape(2, 2, 25).transpose(1, 0, 2)
    x = f.sensor_points()
    for row, i in enumerate((0, 4)):
        size = split.mesh(i).points.max()
        np.testing.assert_array_equal(inside[row], (x <= size + 1e-9).all(1))
        raw = split[i]
        k = float(raw["inputs"]["a"][0])
        expected = k * (1 + x[:, 0] - x[:, 1]) * inside[row]
        np.testing.assert_allclose(values[row], expected, atol=1e-5)  # linear: exact in cells

    with pytest.raises(UsageError, match=r"sensors=99.*9 points"):
        task_of(roots["series"], sensors=99)


def test_conditions_come_from_the_data(roots: dict[str, Path]) -> None:
    fixed = {kind: task_of(roots[kind]).fixed for kind in KINDS}
    assert fixed["grid"] == ((True, True), (False, False))
    assert fixed["evolution"] == ((True, True), (True, False))
    assert fixed["mesh"] == ((False, False), (False, False))
    assert fixed["series"] == ((True, False),)  # (0, 1) at first in all samples
    assert task_of(roots["series"]).outputs[0].fixed == (0.0, 1.0)
    assert task_of(roots["grid"]).coordinates[1].periodic


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_come_back(roots: dict[str, Path], kind: str) -> None:
    task = task_of(roots[kind], queries=3)
    again = PointsTask.from_dict(json.loads(json.dumps(task.as_dict())))
    assert again.as_dict() == task.as_dict() and again.spec() == task.spec()
    assert not again.misfit(open_dataset(roots[kind]).schema)
    if task.shared is not None:
        np.testing.assert_array_equal(again.shared.points, task.shared.points)
        np.testing.assert_array_equal(again.shared.weights, task.shared.weights)


def test_misfit_says_why(roots: dict[str, Path]) -> None:
    task = task_of(roots["mesh"])
    for kind in ("grid", "ragged", "series"):
        assert task.misfit(open_dataset(roots[kind]).schema)
    assert "no 'g'" in task.misfit(open_dataset(roots["grid"]).schema)


# -- training ------------------------------------------------------------------------------------


def run_of(root: Path, out: Path, model: str = "deeponet", **settings: Any) -> Any:
    base: dict[str, Any] = {"epochs": 2, "batch_size": 5, "threads": 1}
    small = {"branch_layers": [16], "latent": 12}
    options = {"fnn": {"layers": [16]}, "modified_deeponet": {"layers": [8, 8]}}.get(
        model, {**small, **({"modes": 3} if model == "pod_deeponet" else {"trunk_layers": [16]})}
    )
    options.pop("latent") if model == "pod_deeponet" else None
    base["options"] = options
    return fit(FitConfig(data=str(root), model=model, out=str(out), **{**base, **settings}))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_trains_evaluates_and_reports(
    roots: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    few = {"sensors": 25} if kind == "ragged" else {}
    op = run_of(roots[kind], tmp_path / "run", epochs=15, lr=1e-2, task=few)
    rows = op.history
    assert rows[-1]["valid_rel_l2"] < 0.8 * rows[0]["valid_rel_l2"]
    config = EvaluateConfig(run=str(tmp_path / "run"), data=str(roots[kind]), repeats=1)
    found = evaluate(config)
    assert found["n_samples"] == 5 and np.isfinite(found["rel_l2"]["mean"])
    # by hand, from the operator called as users call it
    loaded = opkit.load(tmp_path / "run")
    split = open_dataset(roots[kind])["test"]
    reader = Reader(op.task, split.schema)
    errors = []
    for i in range(5):
        y, w, s = reader.own(split, i)
        us = reader.functions(split, [i])
        inputs = {
            f.name: u[0].reshape(f.channels, *f.shape).transpose(*range(1, len(f.shape) + 1), 0)
            if f.channels > 1 else u[0].reshape(f.shape)
            for f, u in zip(op.task.functions, us, strict=True)
        }  # fmt: skip
        got = loaded(inputs, y)
        parts = []
        for v, part in zip(op.task.outputs, op.task.parts, strict=True):
            e = (got[v.name].reshape(len(y), -1) - s[:, part]).astype(float)
            parts.append(np.sqrt((w @ e**2).sum() / (w @ s[:, part].astype(float) ** 2).sum()))
        errors.append(np.mean(parts))
    assert found["rel_l2"]["mean"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert report(tmp_path / "run").is_file()


def test_resumed_equals_uninterrupted_with_random_queries(
    roots: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"task": {"queries": 7}, "scheduler": "constant", "repeat": 2}
    a = run_of(roots["evolution"], tmp_path / "a", epochs=4, **settings)
    run_of(roots["evolution"], tmp_path / "b", epochs=2, **settings)
    b = run_of(roots["evolution"], tmp_path / "b", epochs=4, resume=True, **settings)
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)
    other = run_of(roots["evolution"], tmp_path / "c", epochs=4, seed=1, **settings)
    assert not torch.equal(next(a.model.parameters()), next(other.model.parameters()))


def test_hard_conditions_hold_in_physical_units(roots: dict[str, Path], tmp_path: Path) -> None:
    op = run_of(roots["evolution"], tmp_path / "run")
    a = np.ones((2, 7), np.float32)
    t = np.linspace(0, 2, 9)
    walls = [np.stack([np.full(9, x), t], 1) for x in (0.0, 1.0)]
    start = np.stack([np.linspace(0, 1, 9), np.zeros(9)], 1)
    for y in (*walls, start):
        assert not op(a, y).any()
    free = run_of(roots["evolution"], tmp_path / "free", options={"hard": "none"})
    assert free(a, start).any()
    states = run_of(roots["series"], tmp_path / "series")
    np.testing.assert_array_equal(states(np.ones(9), np.zeros((1, 1))), [[0.0, 1.0]])


def test_fixed_points_are_drawn_once_by_sample(roots: dict[str, Path]) -> None:
    task = task_of(roots["mesh"], points=1)
    split = open_dataset(roots["mesh"])["train"]
    train = task.data(split, dtype=torch.float64, train=True)
    *_, y, s, w, weights = train[[3, 1, -1]]
    assert y.shape == (3, 1, 2) and w.tolist() == [[1.0]] * 3 and weights.tolist() == [1, 1, 0]
    *_, y2, s2, _, _ = task.data(split, dtype=torch.float64, train=True, limit=4)[[1, 3, 0]]
    torch.testing.assert_close(y2[:2], y[[1, 0]])
    torch.testing.assert_close(s2[:2], s[[1, 0]])
    k = split.read([3, 1], ["g"])["g"][:, 0]
    physical = (y[:2, 0].numpy() + 1) / 2
    np.testing.assert_allclose(
        s[:2, 0, 0].numpy(), k * (1 + physical[:, 0] + 2 * physical[:, 1]), rtol=1e-5
    )
    valid = task.data(split, dtype=torch.float64)
    assert valid[[0]][-2].shape == (1, 36, 1)


def test_drawn_points_estimate_the_weighted_loss(roots: dict[str, Path], tmp_path: Path) -> None:
    """The mean over draws of the training loss is the quadrature-weighted one; ragged too."""
    for kind in ("evolution", "ragged"):
        root = roots[kind]
        task = task_of(root, queries=8)
        split = open_dataset(root)["train"]
        model, _ = build_model("deeponet", task.spec(), {"latent": 4, "branch_layers": [4]})
        config = FitConfig(data=str(root), model="deeponet", out="x", loss="mse")
        normalizer = task.fit_normalizer(split)
        learner = task.learner(model, normalizer, config)
        batch = task.data(split, dtype=torch.float32, train=True)[[0, 1, 2]]
        torch.manual_seed(0)
        with torch.no_grad():
            exact = learner.errors(*batch)["loss"]
            draws = torch.stack([learner.losses(*batch) for _ in range(3000)])
        gap = (draws.mean(0) - exact).abs() / (draws.std(0) / 3000**0.5)
        assert float(gap.max()) < 4.5, kind
        assert bool((draws.std(0) > 0).all())


def test_loss_by_hand(roots: dict[str, Path]) -> None:
    """Mean squares in units of the deviation, at all points; and the relative loss."""
    for kind in ("mesh", "series"):
        task = task_of(roots[kind])
        split = open_dataset(roots[kind])["train"]
        model, _ = build_model("deeponet", task.spec(), {"latent": 4, "branch_layers": [4]})
        normalizer = task.fit_normalizer(split)
        batch = task.data(split, dtype=torch.float64)[[2, 5]]
        model = model.double()
        op = task.operator(model, normalizer, {"model": "deeponet", "options": {}}, None)
        with torch.no_grad():
            got = op.at(tuple(batch[: len(task.functions)]), None).numpy()
        truth = batch[len(task.functions)].numpy()
        w, scale = task.shared.weights, np.array(normalizer.scales.output_scale)
        mse = (((got - truth) / scale) ** 2).mean(-1) @ w
        e, s = (((a**2).sum(-1) @ w) for a in (got - truth, truth))
        for loss, expected in (("mse", mse), ("l2", np.sqrt(e / s))):
            config = FitConfig(data="x", model="deeponet", out="x", loss=loss, precision="64-true")
            learner = task.learner(model, normalizer, config)
            with torch.no_grad():
                np.testing.assert_allclose(learner.losses(*batch).numpy(), expected, rtol=1e-9)
                found = learner.errors(*batch)
            np.testing.assert_allclose(found["loss"].numpy(), expected, rtol=1e-9)
            np.testing.assert_allclose(found["rel_l2"].numpy(), np.sqrt(e / s), rtol=1e-9)


def test_normalizer_by_hand(roots: dict[str, Path]) -> None:
    task = task_of(roots["series"])
    split = open_dataset(roots["series"])["train"]
    n = task.fit_normalizer(split)
    values = split.read(range(12))
    assert n.scales.output_shift == (0.0, 1.0)  # the fixed start
    expected = np.sqrt(((values["z"].astype(float) - [0, 1]) ** 2).mean((0, 1)))
    np.testing.assert_allclose(n.scales.output_scale, expected, rtol=1e-12)
    np.testing.assert_allclose(n.scales.input_shift, values["g"].astype(float).mean(), rtol=1e-6)
    limited = task.fit_normalizer(split, limit=3)
    assert limited.as_dict() != n.as_dict()
    mesh = task_of(roots["mesh"], scaling="pointwise")
    split = open_dataset(roots["mesh"])["train"]
    p = mesh.fit_normalizer(split)
    u = split.read(range(12))["u"].astype(float)
    np.testing.assert_allclose(
        p.mean[:, 0] * p.scales.output_scale[0] + p.scales.output_shift[0], u.mean(0), rtol=1e-6
    )
    np.testing.assert_allclose(p.std[:, 0] * p.scales.output_scale[0], u.std(0), rtol=1e-6)
    again = mesh.load_normalizer(json.loads(json.dumps(p.as_dict())))
    np.testing.assert_array_equal(again.mean, p.mean)


@pytest.mark.parametrize("kind", ["mesh", "evolution", "grid"])
def test_pod_uses_training_outputs_alone_and_interpolates(
    roots: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Another test split leaves the basis bit-identical; between its points, linear."""
    root = roots[kind]
    op = run_of(root, tmp_path / "a", "pod_deeponet", options={"modes": 1, "branch_layers": [8]})
    other = data.write(tmp_path / "other", kind, n={"train": 12, "valid": 4, "test": 3})
    twin = run_of(other, tmp_path / "b", "pod_deeponet", options={"modes": 1, "branch_layers": [8]})
    assert torch.equal(op.model.basis, twin.model.basis) and bool(op.model.basis.any())
    fewer = run_of(
        root, tmp_path / "c", "pod_deeponet", n_train=5, options={"modes": 1, "branch_layers": [8]}
    )
    assert not torch.equal(op.model.basis, fewer.model.basis)
    loaded = opkit.load(tmp_path / "a")
    assert torch.equal(loaded.model.basis, op.model.basis)
    us = tuple(
        torch.as_tensor(u).float()
        for u in Reader(op.task, open_dataset(root).schema).functions(
            open_dataset(root)["test"], [0]
        )
    )
    at_points = loaded.at(us, None)
    torch.testing.assert_close(
        loaded.at(us, torch.as_tensor(op.points).float()), at_points, rtol=1e-4, atol=1e-5
    )
    middle = (op.points[0] + op.points[1]) / 2
    got = loaded.at(us, torch.as_tensor(middle[None]).float())
    torch.testing.assert_close(got[:, 0], at_points[:, :2].mean(1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="outside the training points"):
        loaded._points(op.points[:1] * 0 + 5.0 if kind != "grid" else [[5.0, 0.0]], 1)


@pytest.mark.parametrize("model", ["mionet", "modified_deeponet", "fnn", "pod_deeponet"])
def test_other_models_train(roots: dict[str, Path], tmp_path: Path, model: str) -> None:
    op = run_of(roots["grid"], tmp_path / "run", model, epochs=8, lr=1e-2)
    assert op.history[-1]["train_loss"] < op.history[0]["train_loss"]
    with pytest.raises((UsageError, ValueError), match=r"deeponet|points"):
        run_of(roots["ragged"], tmp_path / "bad", "pod_deeponet")


def test_wrong_settings(roots: dict[str, Path], tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("mesh", {"task": {"scaling": "pointwise", "queries": 0}}, "queries"),
        ("mesh", {"task": {"points": 99}}, "points=99.*36 points"),
        ("ragged", {"task": {"scaling": "pointwise"}}, "points of their own"),
        ("mesh", {"task": {"physics": 1.0}}, "no residual is known for problem 'synthetic'"),
        ("mesh", {"task": {"data_weight": 0}}, "data_weight"),
        ("mesh", {"resolution": (4,)}, "resolution"),
        ("mesh", {"options": {"latent": 0}}, "latent"),
    ]
    for kind, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            run_of(roots[kind], tmp_path / "run", **settings)
        assert not (tmp_path / "run").exists()


# -- interpolation -------------------------------------------------------------------------------


def test_interpolation_is_exact_for_linear_functions(roots: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    for kind in ("mesh", "evolution", "series"):
        task = task_of(roots[kind])
        low = np.array([c.lower for c in task.coordinates])
        high = np.array([c.upper for c in task.coordinates])
        y = low + (high - low) * rng.random((200, len(low)))
        slope = rng.normal(size=len(low))
        m = task.shared.interpolation(y)
        np.testing.assert_allclose(m @ (task.shared.points @ slope), y @ slope, atol=1e-10)
        np.testing.assert_allclose(m.sum(1), 1.0)
    grid = task_of(roots["grid"]).shared
    y = np.array([[0.5, 1.9], [0.5, -0.1], [0.25, 0.1]])  # across the seam of y in [0, 2)
    values = np.cos(np.pi * grid.points[:, 1])
    a, b, _ = grid.interpolation(y) @ values
    assert a == pytest.approx(b)
    last, first = np.cos(np.pi * 5 / 3), 1.0
    assert a == pytest.approx(last + (first - last) * (1.9 - 5 / 3) * 3)
    assert isinstance(grid, PointSet)


def test_locator_knows_inside_from_outside() -> None:
    locator = MeshLocator(data.mesh_of(5))
    x = np.array([[0.5, 0.5], [1.0, 1.0], [1.01, 0.5], [-0.2, 0.1]])
    assert locator.inside(x).tolist() == [True, True, False, False]
    _, w = locator.weights(x)
    np.testing.assert_allclose(w.sum(1), 1.0)


# -- use -----------------------------------------------------------------------------------------


def test_call(roots: dict[str, Path], tmp_path: Path) -> None:
    op = run_of(roots["series"], tmp_path / "run")
    g = np.random.default_rng(0).random((3, 9))
    t = np.linspace(0, 1, 7)
    z = op(g, t)
    assert z.shape == (3, 7, 2) and op(g[0], t).shape == (7, 2)
    np.testing.assert_allclose(op({"g": g}, t[:, None])["z"], z)
    np.testing.assert_allclose(op(g, np.tile(t[:, None], (3, 1, 1))), z, rtol=1e-5, atol=1e-6)
    assert op(g).shape == (3, 4, 2)
    assert op.sensors().shape == (9, 1) and op.coordinates == ("time",)
    y = torch.linspace(0, 1, 5)[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(op(torch.as_tensor(g), y)[..., 0].sum(), y)
    h = 1e-2
    up, down = (op(g, (y.detach() + d).numpy())[..., 0].sum(0) for d in (h, -h))
    np.testing.assert_allclose(slope[:, 0], (up - down) / (2 * h), rtol=2e-2, atol=2e-2)
    for bad, message in (
        ((g[:, :8], t), "g has shape"),
        ((g, np.zeros((3, 2))), "expected"),
        ((np.full((1, 9), np.nan), t), "not finite"),
        ((g, [np.inf]), "not finite"),
        (({"h": g}, t), "expected"),
    ):
        with pytest.raises(ValueError, match=message):
            op(*bad)


def test_predict_at_points_of_every_format(roots: dict[str, Path], tmp_path: Path) -> None:
    op = run_of(roots["evolution"], tmp_path / "run")
    y = np.random.default_rng(0).random((50, 2))
    np.save(tmp_path / "y.npy", y)
    with h5py.File(tmp_path / "y.h5", "w") as f:
        f["points"] = y
    np.savetxt(tmp_path / "y.csv", y, delimiter=",")
    swapped = tmp_path / "z.csv"
    np.savetxt(swapped, y[:, ::-1], delimiter=",", header="time, x", comments="")
    a = open_dataset(roots["evolution"])["test"].read(range(5), ["a"])["a"]
    expected = op(a, y)
    for points in ("y.npy", "y.h5", "y.csv", "z.csv"):
        for suffix in ("h5", "npz", "npy"):
            out = tmp_path / f"out.{suffix}"
            config = PredictConfig(
                run=str(tmp_path / "run"), data=str(roots["evolution"]), out=str(out),
                points=str(tmp_path / points), overwrite=True, batch_size=2,
            )  # fmt: skip
            predict(config)
            if suffix == "h5":
                with h5py.File(out) as f:
                    got = f["outputs/s"][()]
                    np.testing.assert_allclose(f["points"][()], y)
                    assert f["points"].attrs["coordinates"].tolist() == ["x", "time"]
            elif suffix == "npz":
                got = np.load(out)["s"]
            else:
                got = np.load(out)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.save(tmp_path / "a.npy", a)
    config = PredictConfig(
        run=str(tmp_path / "run"), data=str(tmp_path / "a.npy"), out=str(tmp_path / "b.npy")
    )
    predict(config)  # at the training points
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), op(a), rtol=1e-5, atol=1e-6)


def test_bad_point_files(tmp_path: Path) -> None:
    names = ("x", "time")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("1,2\n1,two\n")
    (tmp_path / "c.csv").write_text("1,2,3\n")
    (tmp_path / "d.csv").write_text("")
    (tmp_path / "e.npy").write_bytes(b"no numpy file")
    np.save(tmp_path / "f.npy", np.zeros((3, 3)))
    np.save(tmp_path / "g.npy", np.array([[0.0, np.nan]]))
    (tmp_path / "h.h5").write_bytes(b"no HDF5 file")
    (tmp_path / "i.txt").write_text("1 2")
    for name, message in (
        ("a.csv", "columns are x, y"), ("b.csv", "two"), ("c.csv", "expected"),
        ("d.csv", "no points"),
        ("e.npy", "no .npy file"), ("f.npy", "3, 3"), ("g.npy", "point 0 is not finite"),
        ("h.h5", "no HDF5 file"), ("i.txt", "ends in"), ("j.npy", "no such file"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            list(PointFile(tmp_path / name, names).chunks())


def test_principal_components_of_the_inputs(tmp_path: Path) -> None:
    """White on the training samples, from these alone, and saved with the run."""
    root = data.write(tmp_path / "d", "modes")
    task = task_of(root, input_modes=2)
    assert [f.size for f in task.spec().functions] == [2]
    split = open_dataset(root)["train"]
    normalizer = task.fit_normalizer(split)
    from opkit.tasks._points_operator import PhysicalPoints

    physical = PhysicalPoints(torch.nn.Identity(), task, normalizer)
    (g,) = Reader(task, split.schema).functions(split, range(12))
    (z,) = physical.scale_functions((torch.as_tensor(g).double(),))
    torch.testing.assert_close(z.mean(0), torch.zeros(2).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(z.T @ z / 12, torch.eye(2).double(), atol=1e-5, rtol=0)
    again = task.load_normalizer(json.loads(json.dumps(normalizer.as_dict())))
    np.testing.assert_array_equal(again.modes[0], normalizer.modes[0])
    assert task.fit_normalizer(split, limit=6).as_dict() != normalizer.as_dict()
    op = run_of(root, tmp_path / "run", epochs=10, lr=1e-2, task={"input_modes": 2})
    loaded = opkit.load(tmp_path / "run")
    t = np.linspace(0, 1, 5)
    np.testing.assert_array_equal(loaded(g, t), op(g, t))
    with pytest.raises(UsageError, match=r"input_modes=5: 'g' has 2 components"):
        run_of(root, tmp_path / "bad", task={"input_modes": 5})


@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_weighted_squares_and_their_gradient(shape: tuple[int, ...]) -> None:
    from opkit.tasks._points_learner import WeightedSquares

    generator = torch.Generator().manual_seed(0)
    p, s = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    w = torch.rand(shape, generator=generator, dtype=torch.float64)
    w.view(-1)[0] = 0.0
    before = p.clone()
    p.requires_grad_()
    expected = ((p - 0.3 * s).square() * w).sum(-1)
    found = WeightedSquares.apply(p, s, w, 0.3)
    torch.testing.assert_close(found, expected)
    of = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (right,) = torch.autograd.grad(expected, p, of)
    (gradient,) = torch.autograd.grad(found, p, of)
    torch.testing.assert_close(gradient, right)
    assert torch.equal(p, before)
