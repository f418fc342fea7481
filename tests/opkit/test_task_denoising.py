"""Denoising: what is learned, noise, schedule, the operator that remains, how it is judged."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import opkit
from models import build_model
from models.lpn import proximal_matching_loss
from opkit.errors import UsageError
from opkit.evaluate import EvaluateConfig, evaluate
from opkit.fit import FitConfig, fit
from opkit.operator import load
from opkit.predict import PredictConfig, predict
from opkit.report import report
from opkit.tasks.denoising import DenoisingOptions, DenoisingTask, FieldScale, fixed_noise
from pde_data.hdf5 import FieldSpec, open_dataset
from pde_data.hdf5.schema import ExtraAxis
from solvers.grids import Axis, Grid

SYNTHETIC = Path(__file__).with_name("synthetic.py")
_spec = importlib.util.spec_from_file_location("opkit_synthetic", SYNTHETIC)
synthetic = sys.modules.setdefault("opkit_synthetic", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(synthetic)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("data") / "syn")


def settings(data: Path, out: Path, **changes: Any) -> FitConfig:
    base: dict[str, Any] = dict(
        data=data, model="lpn", out=out, epochs=4, batch_size=5, threads=1, task={"field": "a"},
        options={"arch": "conv", "hidden": 4, "layers": 2},
    )  # fmt: skip
    return FitConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lpn"
    fit(settings(data, out))
    return out


def task_of(data: Path, **options: Any) -> DenoisingTask:
    return DenoisingTask.from_dataset(open_dataset(data), DenoisingOptions(**options))


# -- what is learned -----------------------------------------------------------------------------


def test_default_field_and_round_trip(data):
    task = task_of(data)
    assert task.field == "u" and task.shape == (1, 9, 9)
    again = DenoisingTask.from_dict(json.loads(json.dumps(task.as_dict())))
    assert again == task
    assert task_of(data, field="a", log=True, sigma=0.3).log


def test_numbers_vectors_and_extra_fields(tmp_path, data):
    task = task_of(data, field="c")
    split = open_dataset(data)["train"]
    assert task.shape == (1,)
    np.testing.assert_array_equal(task.read(split, [3, 1])[:, 0], split.read([3, 1], ["c"])["c"])

    vector = synthetic.write(tmp_path / "v", synthetic.schema(vector=True))
    task = task_of(vector)
    split = open_dataset(vector)["train"]
    stored = split.read([0, 2], ["v"])["v"]  # (2, 9, 9, 2)
    assert task.shape == (2, 9, 9)
    np.testing.assert_array_equal(task.read(split, [0, 2]), np.moveaxis(stored, -1, 1))

    opkit.generate("source_recovery", out=str(tmp_path / "s"), n=2, resolution=9, workers=1)
    task = task_of(tmp_path / "s", field="measurement")
    assert task.shape == (1, 64) and task.axes == ()
    assert task_of(tmp_path / "s").field == "q"


def test_last_time_of_a_moving_field(tmp_path):
    opkit.generate("heat", out=str(tmp_path / "h"), n=2, resolution=9, workers=1)
    split = open_dataset(tmp_path / "h")["train"]
    name = next(f.name for f in split.schema.fields if f.time_varying)
    task = task_of(tmp_path / "h", field=name)
    stored = split.read([0, 1], [name])[name]
    np.testing.assert_array_equal(task.read(split, [0, 1])[:, 0], stored[:, -1])


def test_logarithm(data):
    split = open_dataset(data)["train"]
    a = split.read([0, 1], ["a"])["a"]
    if a.min() > 0:
        task = task_of(data, field="a", log=True)
        np.testing.assert_allclose(task.read(split, [0, 1])[:, 0], np.log(a))
    with pytest.raises(UsageError, match=r"log=true: sample .* needs positive values"):
        task_of(data, field="u", log=True).read(split, range(12))


def test_what_it_does_not_learn(data, tmp_path):
    with pytest.raises(ValueError, match="temperature"):
        task_of(data, field="temperature")
    with pytest.raises(UsageError, match="resolution"):
        DenoisingTask.from_dataset(open_dataset(data), DenoisingOptions(), [5])
    with pytest.raises(ValueError, match="sigma"):
        fit(settings(data, tmp_path / "x", task={"sigma": -1}))
    with pytest.raises(UsageError, match="max_seconds=5"):
        fit(settings(data, tmp_path / "y", max_seconds=5))


def test_misfit(data, tmp_path):
    task = task_of(data, field="a")
    assert task.misfit(open_dataset(data).schema) == ""
    other = synthetic.write(tmp_path / "o", synthetic.schema(Grid.unit(7)))
    assert "shape (7, 7) in the data" in task.misfit(open_dataset(other).schema)
    renamed = synthetic.schema(
        Grid((Axis("x", 9),)), fields=(FieldSpec("b", "b"), FieldSpec("u", "u")), inputs=("b",)
    )
    assert "no field 'a'" in task.misfit(renamed)


def test_scale(data):
    task = task_of(data, field="a")
    split = open_dataset(data)["train"]
    values = split.read(range(12), ["a"])["a"].astype(float)
    scale = task.fit_normalizer(split)
    np.testing.assert_allclose([scale.shift, scale.scale], [values.mean(), values.std()])
    assert (scale.low, scale.high) == (values.min(), values.max())
    assert task.load_normalizer(json.loads(json.dumps(scale.as_dict()))) == scale
    few = task.fit_normalizer(split, limit=5)
    np.testing.assert_allclose(few.scale, values[:5].std())
    assert task.noise_std(scale) == pytest.approx(0.1 * values.std())
    assert task_of(data, field="a", sigma_units="absolute").noise_std(scale) == 0.1
    for bad in ((0.0, 0.0, 0.0, 1.0), (0.0, 1.0, 1.0, 1.0), (math.nan, 1.0, 0.0, 1.0)):
        with pytest.raises(ValueError, match="scale > 0"):
            FieldScale(*bad)


def test_stated_bounds_are_the_range_of_psnr(tmp_path):
    opkit.generate("source_recovery", out=str(tmp_path / "s"), n=2, resolution=9, workers=1)
    task = task_of(tmp_path / "s")
    scale = task.fit_normalizer(open_dataset(tmp_path / "s")["train"])
    assert (scale.low, scale.high) == task.bounds == (0.0, 1.0)


# -- training ------------------------------------------------------------------------------------


def test_batches_and_fixed_noise(data):
    task = task_of(data, field="a")
    split = open_dataset(data)["valid"]
    train = task.data(split, dtype=torch.float64, train=True)
    clean, weights = train[[2, -1]]
    stored = torch.as_tensor(split.read([2, 0], ["a"])["a"])[:, None].double()
    torch.testing.assert_close(clean, stored)
    assert weights.tolist() == [1.0, 0.0]
    valid = task.data(split, dtype=torch.float64)
    for index in ([0, 1, 2], [2, 0]):
        noise = valid[index][1]
        for row, i in zip(noise, index, strict=True):
            expected = fixed_noise(int(split.ids[i]), (1, 9, 9))
            np.testing.assert_array_equal(row.numpy(), expected)
    assert not np.allclose(fixed_noise(1, (4,)), fixed_noise(2, (4,)))
    many = np.stack([fixed_noise(i, (50,)) for i in range(200)])
    assert abs(many.mean()) < 0.05 and abs(many.std() - 1) < 0.03


def learner_of(data: Path, loss: str, **options: Any) -> Any:
    task = task_of(data, field="a", **options)
    scale = task.fit_normalizer(open_dataset(data)["train"])
    torch.manual_seed(0)
    model, _ = build_model("lpn", task.spec(), {"arch": "mlp", "hidden": 8, "layers": 2})
    config = FitConfig(data="d", model="lpn", out="o", loss=loss, lr=0.01)
    return task.learner(model.double(), scale, config), task, scale


@pytest.mark.parametrize("loss", ["proximal_matching", "l1", "l2"])
def test_errors_by_hand(data, loss):
    with torch.random.fork_rng():
        learner, task, scale = learner_of(data, loss, sigma=0.2, gamma=0.5)
    split = open_dataset(data)["valid"]
    batch = task.data(split, dtype=torch.float64)[[0, 1, 3]]
    with torch.no_grad():
        found = learner.errors(*batch)
        u = (batch[0] - scale.shift) / scale.scale
        e = (learner.model(u + 0.2 * batch[1]) - u).flatten(1)
    gamma = 0.5 * 0.2 * 9
    expected = {
        "proximal_matching": 1 - torch.exp(-e.square().sum(1) / gamma**2),
        "l1": e.abs().mean(1),
        "l2": e.square().mean(1),
    }
    torch.testing.assert_close(found["objective"], expected[loss])
    # no step was taken yet: proximal matching begins with the absolute error
    torch.testing.assert_close(
        found["loss"], expected["l1" if loss == "proximal_matching" else loss]
    )
    size = batch[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(found["rel_l2"], e.norm(dim=1) * scale.scale / size)
    mse = (e * scale.scale).square().mean(1)
    torch.testing.assert_close(found["psnr"], 10 * torch.log10(scale.peak**2 / mse))


def test_schedule_of_losses_and_rates(data):
    with torch.random.fork_rng():
        learner, task, _ = learner_of(
            data, "proximal_matching", stages=2, pretrain=0.4, lr_ratio=0.5, gamma=0.3, sigma=0.1
        )
        config = FitConfig(data="d", model="lpn", out="o", lr=0.01)
        optimizer = learner.optimizer(config)
        split = open_dataset(data)["train"]
        batch = task.data(split, dtype=torch.float64, train=True)[[0, 1]]
        seen, objectives, to_come = [], [], []
        valid = task.data(open_dataset(data)["valid"], dtype=torch.float64)[[0, 1, 3]]
        for step in range(10):
            for group in optimizer.param_groups:  # what the scheduler of fit does
                group["lr"] = 0.01
            learner.before_step(step, 10)
            seen.append((learner.stage.gamma or 0.0, optimizer.param_groups[0]["lr"]))
            to_come.append(learner.to_come)
            with torch.no_grad():
                objectives.append(learner.errors(*valid)["objective"])
        last = 0.3 * 0.1 * 9
        expected = [(0.0, 0.01)] * 4 + [(2 * last, 0.005)] * 3 + [(last, 0.005)] * 3
        np.testing.assert_allclose(seen, expected)
        # no step was taken, but later is better: what is added falls to 0, 1 in each stage
        np.testing.assert_allclose(to_come, np.arange(9, -1, -1) / 3)
        for n, objective in zip(to_come, objectives, strict=True):
            torch.testing.assert_close(objective, objectives[-1] + n)
        assert bool(((objectives[-1] > 0) & (objectives[-1] <= 1)).all())
        # the training loss is that of the stage, with noise from torch's generator
        torch.manual_seed(5)
        loss = learner.losses(*batch)
        torch.manual_seed(5)
        u = (batch[0] - learner.scale.shift) / learner.scale.scale
        f = learner.model(u + 0.1 * torch.randn_like(u))
        expected_loss = proximal_matching_loss(f, u, last, reduction="none")
        torch.testing.assert_close(loss, expected_loss)


def test_trained_weights_are_nonnegative_and_free_ones_moved(run):
    op = load(run)
    assert op.model.check_convexity() >= 0
    history = op.history
    assert history[-1]["train_loss"] == pytest.approx(history[-1]["valid_loss"], abs=0.5)
    description = json.loads((run / "operator.json").read_text())
    assert description["fields"]["field"] == "a" and description["loss"] == "proximal_matching"


def test_resumed_equals_uninterrupted(data, run, tmp_path):
    """Stopped in the first epoch of proximal matching, whose rate differs."""
    out = tmp_path / "run"

    def stop(done: int, total: int, note: str) -> None:
        if done == 8:
            raise MemoryError

    with pytest.raises(MemoryError):
        fit(settings(data, out), progress=stop)
    fit(settings(data, out, resume=True))
    a, b = (load_file(r / "model.safetensors") for r in (out, run))
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert [r["train_loss"] for r in load(out).history] == [
        r["train_loss"] for r in load(run).history
    ]


def test_losses_give_other_networks(data, tmp_path):
    found = {}
    for loss in ("l1", "l2"):
        op = fit(settings(data, tmp_path / loss, loss=loss, epochs=2))
        found[loss] = op.denoise(np.full((9, 9), 2.0))
    assert not np.allclose(found["l1"], found["l2"])


# -- the operator --------------------------------------------------------------------------------


def test_denoise_is_the_model_in_physical_units(run):
    op = load(run)
    x = np.random.default_rng(0).normal(2, 1, (3, 9, 9))
    u = torch.as_tensor((x - op.scale.shift) / op.scale.scale)[:, None].float()
    with torch.no_grad():
        expected = op.scale.shift + op.scale.scale * op.model(u)[:, 0]
    y = op.denoise(x)
    assert y.shape == x.shape and y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)  # float32, values of order 1
    np.testing.assert_array_equal(op(x), y)
    close = {"rtol": 1e-5, "atol": 1e-5}  # float32; batches are summed in another order
    np.testing.assert_allclose(op.denoise(x[0]), y[0], **close)
    np.testing.assert_allclose(op.denoise(x[:, None])[:, 0], y, **close)
    np.testing.assert_allclose(op.denoise(x, batch_size=2), y, **close)
    t = torch.as_tensor(x, dtype=torch.float32).requires_grad_(True)
    op.denoise(t).sum().backward()
    assert t.grad is not None and float(t.grad.abs().max()) > 0
    for bad in (np.zeros((3, 8, 9)), np.zeros(9), np.full((9, 9), np.nan)):
        with pytest.raises(ValueError, match=r"shape|finite"):
            op.denoise(bad)


def test_prior_in_physical_units(run):
    op = load(run)
    prox = op.prox()
    generator = torch.Generator().manual_seed(0)
    z = 2 + torch.randn(3, 1, 9, 9, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        x, r = prox.prox_and_regularizer(z)
        torch.testing.assert_close(x, prox(z))
    z2 = z.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(prox.potential(z2).sum(), z2)
    torch.testing.assert_close(gradient, x, rtol=1e-9, atol=1e-9)
    # R = <z, x> - |x|^2 / 2 - psi(z), as in normalized units
    with torch.no_grad():
        formula = (z * x).flatten(1).sum(1) - 0.5 * x.flatten(1).square().sum(1)
        torch.testing.assert_close(r, formula - prox.potential(z), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(prox.regularizer(x, method="cg"), r, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(op.regularizer(x.numpy()), r, rtol=1e-6, atol=1e-6)
    assert op.regularizer(x[0, 0].numpy()).shape == ()
    # x minimizes |v - z|^2 / 2 + R(v)
    with torch.no_grad():
        v, rv = prox.prox_and_regularizer(z + 0.3 * torch.randn(z.shape, generator=generator))
        best = 0.5 * (x - z).flatten(1).square().sum(1) + r
        assert bool((0.5 * (v - z).flatten(1).square().sum(1) + rv >= best - 1e-9).all())
    assert prox.shape == (1, 9, 9) and prox.alpha == op.model.alpha


def test_noise_level_is_that_of_the_data(run, data):
    op = load(run)
    a = open_dataset(data)["train"].read(range(12), ["a"])["a"].astype(float)
    assert op.sigma == pytest.approx(0.1 * a.std())
    assert f"sigma={op.sigma:.4g}" in repr(op)


def test_baseline_has_no_prior(data, tmp_path):
    op = fit(
        settings(
            data, tmp_path / "d", model="dncnn", epochs=1,
            options={"hidden_channels": 4, "depth": 2},
        )
    )  # fmt: skip
    assert not op.is_prox and op.description["loss"] == "l2"
    assert op.denoise(np.zeros((9, 9))).shape == (9, 9)
    with pytest.raises(UsageError, match="no proximal operator"):
        op.regularizer(np.zeros((9, 9)))
    found = evaluate(EvaluateConfig(run=str(tmp_path / "d"), data=str(data)))
    assert found["prior"] is None
    assert "no proximal operator" in report(tmp_path / "d").read_text()


# -- evaluation ----------------------------------------------------------------------------------


def test_evaluation_by_hand(run, data):
    found = evaluate(EvaluateConfig(run=str(run), data=str(data), n_solve=3))
    op, split = load(run), open_dataset(data)["test"]
    clean = split.read(range(5), ["a"])["a"].astype(float)
    noise = np.stack([fixed_noise(i, (1, 9, 9))[0] for i in split.ids])
    denoised = op.denoise(clean + op.sigma * noise)
    error = np.linalg.norm((denoised - clean).reshape(5, -1), axis=1)
    relative = error / np.linalg.norm(clean.reshape(5, -1), axis=1)
    assert found["rel_l2"]["mean"] == pytest.approx(relative.mean(), rel=1e-6)
    psnr = 10 * np.log10(op.scale.peak**2 / ((denoised - clean) ** 2).mean(axis=(1, 2)))
    assert found["quality"]["psnr"]["min"] == pytest.approx(psnr.min(), rel=1e-6)
    assert found["quality"]["psnr"]["worst_id"] == int(split.ids[np.argmin(psnr)])
    assert found["sigma"] == pytest.approx(op.sigma)
    prior = found["prior"]
    assert prior["n"] == 3 and prior["mean_increase"][0] == 0
    by_hand = op.regularizer(clean[:3] + 2 * op.sigma * noise[:3]) - op.regularizer(clean[:3])
    assert prior["mean_increase"][3] == pytest.approx(by_hand.mean() / op.sigma**2, rel=1e-4)
    objective = 1 - np.exp(-((error / op.scale.scale) ** 2) / (0.8 * 0.1 * 9) ** 2)
    assert found["objective"]["mean"] == pytest.approx(objective.mean(), rel=1e-5)
    page = report(run).read_text()
    for text in ("SSIM", "Prior along a line", "Prior against noise", "Denoising: best sample"):
        assert text in page


def test_valid_error_of_the_history_is_that_of_the_kept_weights(run, data):
    op = load(run)
    found = evaluate(EvaluateConfig(run=str(run), data=str(data), split="valid", n_solve=1))
    best = min(op.history, key=lambda r: r["valid_objective"])
    assert best["valid_objective"] <= 1 < op.history[0]["valid_objective"]
    assert best["epoch"] == op.history[-1]["epoch"]  # the end of the schedule
    assert found["rel_l2"]["mean"] == pytest.approx(best["valid_rel_l2"], rel=1e-4)
    assert found["quality"]["psnr"]["mean"] == pytest.approx(best["valid_psnr"], rel=1e-4)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".npy"])
def test_predict_denoises_what_the_data_holds(run, data, tmp_path, suffix):
    out = predict(PredictConfig(run=str(run), data=str(data), out=str(tmp_path / f"p{suffix}")))
    expected = load(run).denoise(open_dataset(data)["test"].read(range(5), ["a"])["a"])
    if suffix == ".h5":
        with h5py.File(out) as f:
            found = f["outputs/a"][:]
            assert list(f["sample"]) == open_dataset(data)["test"].ids.tolist()
    elif suffix == ".npz":
        with np.load(out) as f:
            found = f["a"]
    else:
        found = np.load(out)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    array = tmp_path / "in.npy"
    np.save(array, np.zeros((2, 9, 9)))
    out = predict(PredictConfig(run=str(run), data=str(array), out=str(tmp_path / "q.npy")))
    np.testing.assert_allclose(np.load(out), load(run).denoise(np.zeros((2, 9, 9))), rtol=1e-5)
    np.save(array, np.zeros((2, 8, 9)))
    with pytest.raises(UsageError, match=r"shape \(2, 8, 9\), expected \(batch, 1, 9, 9\)"):
        predict(PredictConfig(run=str(run), data=str(array), out=str(tmp_path / "r.npy")))


def test_numbers_and_extra_fields_can_be_trained(data, tmp_path):
    op = fit(settings(data, tmp_path / "c", task={"field": "c"}, options={"hidden": 4}, epochs=1))
    assert op.shape == (1,)
    assert op.denoise(np.array([1.0, 1.5])).shape == (2,)
    assert op.denoise(np.array(1.5)).shape == ()
    found = evaluate(EvaluateConfig(run=str(tmp_path / "c"), data=str(data), n_solve=2))
    assert found["quality"].keys() == {"psnr", "psnr_noisy"}  # no SSIM of numbers
    report(tmp_path / "c")


def test_periodic_axes_reach_the_model(tmp_path):
    grid = Grid.unit(16, periodic=True)
    periodic = synthetic.write(tmp_path / "p", synthetic.schema(grid))
    _, options = build_model("lpn", task_of(periodic, field="a").spec(), {"arch": "patch"})
    assert options["tiling"] == "periodic"
    assert ExtraAxis.index("value", 1).name == "value"


def test_rate_of_proximal_matching_is_the_rate_of_its_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the learner does to the rate before a step holds in the step."""
    from opkit.tasks._denoising_learner import DenoisingLearner

    seen: list[tuple[bool, float]] = []
    after = DenoisingLearner.after_step

    def look(self: DenoisingLearner, step: int, total: int) -> None:
        assert self._optimizer is not None
        seen.append((self.stage.gamma is None, self._optimizer.param_groups[0]["lr"]))
        after(self, step, total)

    monkeypatch.setattr(DenoisingLearner, "after_step", look)
    task = {"field": "a", "pretrain": 0.5, "lr_ratio": 0.25}
    rates: dict[str, Any] = {"scheduler": "constant", "lr": 1e-3, "task": task}
    fit(settings(data, tmp_path / "run", loss="proximal_matching", **rates))
    assert set(seen) == {(True, 1e-3), (False, 0.25e-3)}
