"""Evaluation on real Darcy data: every number recomputed apart, the comparison with the solver."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

import opkit.operator
from opkit.errors import UsageError
from opkit.evaluate import (
    DataWarning,
    EvaluateConfig,
    EvaluationError,
    evaluate,
)
from opkit.fit import FitConfig, fit
from opkit.predict import PredictConfig, predict
from opkit.tasks._grid_evaluation import break_even, coarser_shapes, interpolate
from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import DatasetError, open_dataset
from solvers.grids import Axis, Grid

_spec = importlib.util.spec_from_file_location(
    "opkit_synthetic", Path(__file__).with_name("synthetic.py")
)
synthetic = sys.modules.setdefault("opkit_synthetic", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(synthetic)
synthetic.register()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "darcy"
    generate(
        GenerateConfig(problem="darcy", out=root, n=24, n_valid=6, n_test=7, resolution=17, seed=3)
    )
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "fno"
    fit(
        FitConfig(
            data=data, model="fno", out=out, epochs=15, batch_size=4, lr=1e-2,
            options={"hidden_channels": 8, "n_modes": 6, "n_layers": 2},
        )
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def metrics(run: Path, data: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluate(EvaluateConfig(run=run, data=data, n_solve=3, repeats=2))


def _rows(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    return {k: np.array([float(r[k]) for r in rows]) for k in rows[0]}


def test_training_learned_something(metrics: dict[str, Any]) -> None:
    """A few seconds of training on 24 samples beat any constant by far."""
    assert metrics["rel_l2"]["mean"] < 0.4


def test_errors_recomputed_with_loops(run: Path, data: Path, metrics: dict[str, Any]) -> None:
    split = open_dataset(data)["test"]
    op = opkit.load(run)
    w = split.schema.grid.weights
    h = 1 / 16
    l2, h1, worst = [], [], []
    for i in range(len(split)):
        s = split[i]
        u = s["outputs"]["u"].astype(float)
        e = op(s["inputs"]["a"]).astype(float) - u

        def energy(v: np.ndarray) -> float:
            along = w[0] * 2  # trapezoidal weights of one axis times h, on the first row h/2
            along = along / along.sum()
            dx = (np.diff(v, axis=0) / h) ** 2 * along[None, :] * h
            dy = (np.diff(v, axis=1) / h) ** 2 * along[:, None] * h
            return float(dx.sum() + dy.sum())

        square = [float(np.sum(w * v**2)) for v in (e, u)]
        l2.append(np.sqrt(square[0] / square[1]))
        h1.append(np.sqrt((square[0] + energy(e)) / (square[1] + energy(u))))
        worst.append(np.abs(e).max() / np.abs(u).max())
    rows = _rows(run / "evaluation" / "test" / "per_sample.csv")
    assert rows["id"].astype(int).tolist() == split.ids.tolist()
    np.testing.assert_allclose(rows["rel_l2"], l2, rtol=1e-5)
    np.testing.assert_allclose(rows["rel_h1"], h1, rtol=1e-5)
    np.testing.assert_allclose(rows["max_error"], worst, rtol=1e-5)
    assert metrics["rel_l2"]["mean"] == pytest.approx(np.mean(l2), rel=1e-5)
    assert metrics["rel_l2"]["p95"] == pytest.approx(np.quantile(l2, 0.95), rel=1e-5)
    assert metrics["rel_l2"]["worst_id"] == split.ids[int(np.argmax(l2))]


def test_layout_of_the_directory(run: Path, data: Path, metrics: dict[str, Any]) -> None:
    where = run / "evaluation" / "test"
    assert {p.name for p in where.iterdir()} == {
        "metrics.json", "per_sample.csv", "samples.npz", "spectrum.csv",
    }  # fmt: skip
    assert [p.name for p in where.parent.iterdir()] == ["test"]  # no temporaries
    assert json.loads((where / "metrics.json").read_text()) == metrics
    assert opkit.load(run).metrics == {"test": metrics}
    for name in ("rel_l2", "rel_h1", "max_error", "spectrum_error"):
        assert set(metrics[name]) == {"mean", "median", "p95", "max", "worst_id"}
    digest = open_dataset(data).content_digest
    assert metrics["data"] == {
        "name": "darcy", "content_digest": digest, "split": "test", "resolution": [17, 17],
    }  # fmt: skip
    with np.load(where / "samples.npz", allow_pickle=False) as s:
        assert s["roles"].tolist() == ["best", "median", "worst"]
        assert s["inputs"].shape == s["truth"].shape == s["prediction"].shape == (3, 1, 17, 17)
        split = open_dataset(data)["test"]
        for k, i in enumerate(s["ids"]):
            stored = split[split.ids.tolist().index(i)]
            np.testing.assert_array_equal(s["inputs"][k, 0], stored["inputs"]["a"])
            np.testing.assert_array_equal(s["truth"][k, 0], stored["outputs"]["u"])
        errors = [np.linalg.norm(s["prediction"][k] - s["truth"][k]) for k in range(3)]
        assert s["ids"][2] == metrics["rel_l2"]["worst_id"] and errors[0] < errors[2]
    spectrum = _rows(where / "spectrum.csv")
    energy = np.mean([split.schema.grid.norm(u) ** 2 for u in split.read(range(7), ["u"])["u"]])
    assert spectrum["truth"].sum() == pytest.approx(energy, rel=1e-6)
    assert spectrum["k"][1] == 0.5


def test_comparison_against_own_solves(run: Path, data: Path, metrics: dict[str, Any]) -> None:
    from pde_data.problem import get_problem

    c = metrics["comparison"]
    ds = open_dataset(data)
    assert [p["resolution"][0] for p in c["curve"]] == [5, 7, 9, 12, 17]
    problem = get_problem("darcy", **ds.config["params"])
    errors = []
    for i in (0, 3, 6):
        inputs = problem.sample(np.random.default_rng(int(ds["test"].quality("seed")[i])))
        u = problem.solve(inputs, (9, 9), solver="direct").fields["u"]
        x = np.linspace(0, 1, 9)
        fine = RegularGridInterpolator((x, x), u)(np.stack(ds.schema.grid.meshgrid(), -1))
        truth = ds["test"][i]["outputs"]["u"]
        errors.append(ds.schema.grid.norm(fine - truth) / ds.schema.grid.norm(truth))
    assert c["curve"][2]["error"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert c["curve"][-1]["error"] < 1e-5  # the data's own grid
    wall = [ds[s].quality("wall_time").sum() for s in ("train", "valid")]
    assert c["generate_seconds"] == pytest.approx(sum(wall))
    assert c["train_seconds"] == opkit.load(run).history[-1]["seconds"]
    assert c["model_seconds"] == metrics["seconds_per_sample"] > 0
    hit = next(p for p in c["curve"] if p["resolution"] == c["resolution"])
    assert hit["error"] == c["solver_error"] <= metrics["rel_l2"]["mean"]


def _curve(*points: tuple[int, float, float]) -> list[dict[str, Any]]:
    return [
        {"resolution": [n], "error": e, "seconds": t, "solver": f"s{n}"} for n, e, t in points
    ]  # fmt: skip


def test_break_even_by_hand() -> None:
    curve = _curve((5, 0.4, 1.0), (9, 0.1, 4.0), (17, 0.025, 16.0), (33, 1e-8, 64.0))
    kw: dict[str, Any] = dict(generate_seconds=90.0, train_seconds=10.0, data_resolution=[33])

    def at(error: float, seconds: float) -> dict[str, Any]:
        return break_even(curve, model_error=error, model_seconds=seconds, **kw)

    c = at(0.2, 0.5)  # half way, in logarithms, between the first two
    assert c["resolution"] == [9] and c["solver_seconds"] == pytest.approx(2.0)
    assert c["break_even"] == 67  # 100 / 1.5, rounded up
    assert at(0.1, 0.5)["solver_seconds"] == pytest.approx(4.0)
    assert at(0.9, 0.5)["solver_seconds"] == 1.0  # the coarsest grid is good enough
    assert at(0.9, 0.5)["resolution"] == [5]
    assert at(0.01, 0.5)["solver_seconds"] == 64.0  # the data's grid: its own time
    assert at(0.2, 2.5)["break_even"] == "never"
    assert at(0.2, 2.0)["break_even"] == "never"
    assert at(0.2, 0.5)["solver"] == "s9"


def test_coarser_shapes() -> None:
    assert coarser_shapes(Grid.unit(65), 33) == [(33, 33), (46, 46), (65, 65)]
    mixed = Grid((Axis("x", 17), Axis("y", 32, periodic=True)))
    assert coarser_shapes(mixed, 9) == [(9, 16), (12, 23), (17, 32)]


@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("periodic", [False, True])
def test_interpolation(location: str, periodic: bool) -> None:
    def make(n: int) -> Grid:
        return Grid(tuple(Axis(a, n, 0.0, 2.0, location=location, periodic=periodic) for a in "xy"))

    coarse, fine = make(9), make(24)
    if not periodic:  # linear functions, up to the walls
        u = 3 * coarse.meshgrid()[0] - coarse.meshgrid()[1] + 1
        v = 3 * fine.meshgrid()[0] - fine.meshgrid()[1] + 1
        np.testing.assert_allclose(interpolate(u, coarse, fine), v, rtol=1e-13, atol=1e-13)
    else:
        errors = []
        for n in (16, 32, 64):
            u, v = (np.sin(np.pi * g.meshgrid()[1]) for g in (make(n), make(50)))
            errors.append(np.abs(interpolate(u[None], make(n), make(50))[0] - v).max())
        rate = np.log2(np.divide(errors[:-1], errors[1:]))
        assert np.all(rate > 1.7), rate
    assert np.array_equal(interpolate(np.ones(coarse.shape), coarse, coarse), np.ones(coarse.shape))


def test_other_resolutions_are_solved_anew(run: Path, data: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(run, tmp_path / "run")
    config = EvaluateConfig(run=mine, data=data, resolution=(17, 25), n_solve=4, compare=False)
    found = evaluate(config)
    assert found["comparison"] is None and found["comparison_note"] == "not asked for"
    assert set(found["resolutions"]) == {"test_res17", "test_res25"}
    assert (mine / "evaluation" / "test_res25" / "samples.npz").is_file()
    # at the data's own resolution: the stored samples, up to float32
    per_sample = _rows(mine / "evaluation" / "test" / "per_sample.csv")
    again = _rows(mine / "evaluation" / "test_res17" / "per_sample.csv")
    assert again["id"].tolist() == per_sample["id"][[0, 2, 4, 6]].tolist()
    np.testing.assert_allclose(again["rel_l2"], per_sample["rel_l2"][[0, 2, 4, 6]], rtol=1e-3)
    with pytest.raises(ValueError, match="resolution=2"):
        evaluate(EvaluateConfig(run=mine, data=data, resolution=(2,), compare=False))


def test_data_that_was_trained_on_is_told(run: Path, data: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(run, tmp_path / "run")
    with pytest.warns(DataWarning, match="24 of 24 samples of train were in the training"):
        evaluate(EvaluateConfig(run=mine, data=data, split="train", compare=False))
    # the same functions on another grid: other digests, the same seeds
    finer = tmp_path / "finer"
    generate(GenerateConfig(problem="darcy", out=finer, n=4, n_test=2, resolution=21, seed=3))
    with pytest.warns(DataWarning) as found:
        evaluate(EvaluateConfig(run=mine, data=finer, split="train", compare=False))
    texts = [str(w.message) for w in found]
    assert len(texts) == 2 and "not the dataset the operator was trained on" in texts[0]
    assert "4 of 4 samples" in texts[1]
    with pytest.warns(DataWarning) as found:
        evaluate(EvaluateConfig(run=mine, data=finer, compare=False))
    assert len(found) == 1  # other data, but nothing the training has seen


def test_data_without_a_problem_has_no_comparison(tmp_path: Path) -> None:
    data = synthetic.write(tmp_path / "syn")
    run = tmp_path / "run"
    fit(FitConfig(data=data, model="tiny", out=run, epochs=1))
    found = evaluate(EvaluateConfig(run=run, data=data))
    assert found["comparison"] is None
    assert "unknown problem 'synthetic'" in found["comparison_note"]
    assert found["n_samples"] == 5
    with pytest.raises(UsageError, match="cannot be solved anew"):
        evaluate(EvaluateConfig(run=run, data=data, resolution=12))


def test_other_software_is_noticed(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pde_data.problems.darcy import Darcy

    sample = Darcy.sample
    monkeypatch.setattr(Darcy, "sample", lambda self, rng: (rng.random(), sample(self, rng))[1])
    mine = shutil.copytree(run, tmp_path / "run")
    found = evaluate(EvaluateConfig(run=mine, data=data))
    assert found["comparison"] is None
    assert "gives other values than stored" in found["comparison_note"]


def test_misfits_and_nan(run: Path, data: Path, tmp_path: Path) -> None:
    syn = synthetic.write(tmp_path / "syn")
    with pytest.raises(
        UsageError, match=r"does not fit .*: the data has the inputs a, c, the operator a"
    ):
        evaluate(EvaluateConfig(run=run, data=syn))
    with pytest.raises(DatasetError, match="no split 'tset'"):
        evaluate(EvaluateConfig(run=run, data=data, split="tset"))
    mine = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(mine / "evaluation", ignore_errors=True)
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(mine / "model.safetensors")
    weights["fno.projection.fcs.1.bias"] = torch.tensor([torch.nan])
    save_file(weights, mine / "model.safetensors")
    with pytest.raises(EvaluationError, match="not finite for 7 of 7 samples"):
        evaluate(EvaluateConfig(run=mine, data=data))
    assert not (mine / "evaluation").exists()


# -- predict -------------------------------------------------------------------------------------


def test_predictions_of_a_split(run: Path, data: Path, tmp_path: Path) -> None:
    split = open_dataset(data)["test"]
    expected = opkit.load(run)(split.read(range(7), ["a"])["a"])
    files = {}
    for suffix in ("h5", "npz", "npy"):
        done: list[int] = []
        out = predict(
            PredictConfig(run=run, data=data, out=tmp_path / f"p.{suffix}", batch_size=3),
            progress=lambda n, total, note, done=done: done.append(n),
        )
        assert done == [3, 6, 7]
        files[suffix] = out
    with h5py.File(files["h5"]) as f:
        np.testing.assert_allclose(f["outputs/u"][...], expected, rtol=1e-5, atol=1e-7)
        assert f["sample"][...].tolist() == split.ids.tolist()
        assert f["outputs/u"].attrs["units"] == "Pa" and f["x"].attrs["units"] == "m"
        assert [f["outputs/u"].dims[k][0].name for k in range(3)] == ["/sample", "/x", "/y"]
        assert f.attrs["split"] == "test" and f.attrs["problem"] == "darcy"
        np.testing.assert_array_equal(f["y"][...], split.schema.grid.coords[1])
    with np.load(files["npz"], allow_pickle=False) as f:
        np.testing.assert_allclose(f["u"], expected, rtol=1e-5, atol=1e-7)
        assert f["sample"].tolist() == split.ids.tolist() and len(f["x"]) == 17
    np.testing.assert_allclose(np.load(files["npy"]), expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(FileExistsError, match="--overwrite"):
        predict(PredictConfig(run=run, data=data, out=files["npy"]))
    predict(PredictConfig(run=run, data=data, out=files["npy"], overwrite=True, split="valid"))
    assert np.load(files["npy"]).shape == (6, 17, 17)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.h5", "p.npy", "p.npz"]


def test_predictions_of_an_array(run: Path, tmp_path: Path) -> None:
    a = np.random.default_rng(0).uniform(3, 12, size=(3, 20, 20))
    np.save(tmp_path / "a.npy", a)
    out = predict(PredictConfig(run=run, data=tmp_path / "a.npy", out=tmp_path / "u.h5"))
    with h5py.File(out) as f:
        assert f["sample"][...].tolist() == [0, 1, 2]
        np.testing.assert_allclose(f["outputs/u"][...], opkit.load(run)(a), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(f["x"][...], np.linspace(0, 1, 20))


def test_mistakes_of_predict(run: Path, data: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.zeros((2, 3, 9, 9)))
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    cases: list[tuple[Any, str, type[Exception], str]] = [
        (data, "p.csv", UsageError, "need a name that ends in .h5, .npz, .npy"),
        (tmp_path / "bad.npy", "p.h5", UsageError, r"shape \(2, 3, 9, 9\), expected \(batch, 1"),
        (tmp_path / "text.npy", "p.h5", UsageError, "no .npy file of numbers"),
        (tmp_path / "objects.npy", "p.h5", UsageError, "no .npy file of numbers"),
        (tmp_path / "none.npy", "p.h5", FileNotFoundError, "none.npy"),
        (tmp_path / "none", "p.h5", FileNotFoundError, "no such file"),
    ]
    for source, name, error, text in cases:
        with pytest.raises(error, match=text):
            predict(PredictConfig(run=run, data=source, out=tmp_path / name))
        assert not (tmp_path / name).exists()
