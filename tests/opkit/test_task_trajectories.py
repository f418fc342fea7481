"""Trajectories: reading, gaps, segments, losses, fit and resume, the operator, its evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import opkit
from models import build_model
from opkit.cli import main
from opkit.errors import UsageError
from opkit.evaluate import EvaluateConfig, evaluate
from opkit.fit import FitConfig, fit
from opkit.operator import load
from opkit.predict import PredictConfig, predict
from opkit.report import report
from opkit.tasks._trajectories_learner import (
    TrajectoryData,
    TrajectoryLearner,
    random_windows,
    segments,
)
from opkit.tasks.trajectories import (
    TrajectoriesOptions,
    TrajectoriesTask,
    TrajectoryArrays,
    TrajectoryScale,
)
from pde_data.hdf5 import open_dataset
from pde_data.imports import ImportOptions, import_data

torch.set_num_threads(1)
FAMILIES = ["harmonic_oscillator", "double_well"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two families with other horizons, two environments each, three trajectories."""
    out = tmp_path_factory.mktemp("data") / "two"
    opkit.generate(
        "ode_families", out=out, n=12, n_valid=4, n_test=8, seed=1, resolution=9, progress=False,
        set={"families": FAMILIES, "n_environments": 2},
    )  # fmt: skip
    return out


def settings(data: Path, out: Path, **changes: Any) -> FitConfig:
    base: dict[str, Any] = dict(
        data=data, model="mixer", out=out, epochs=3, repeat=8, threads=1, lr=5e-3,
        options={"width": 8, "depth": 1, "context_size": 2}, task={"horizon": 3, "warmup": 0.5},
    )  # fmt: skip
    return FitConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mixer"
    fit(settings(data, out))
    return out


def task_of(data: Path, **options: Any) -> TrajectoriesTask:
    return TrajectoriesTask.from_dataset(open_dataset(data), TrajectoriesOptions(**options))


# -- descriptions --------------------------------------------------------------------------------


def test_what_it_learns_of_the_data(data):
    task = task_of(data)
    assert task.field == "trajectory" and task.states == ("y0", "y1")
    assert task.environments == (0.0, 1.0, 2.0, 3.0) and task.families == (0.0, 0.0, 3.0, 3.0)
    assert task.family_names == {"0": "harmonic_oscillator", "3": "double_well"}
    np.testing.assert_allclose(task.steps, [10 / 9, 10 / 9, 5 / 9, 5 / 9], rtol=1e-6)
    assert TrajectoriesTask.from_dict(json.loads(json.dumps(task.as_dict()))) == task
    spec = task.spec()
    assert (spec.n_states, spec.n_environments, spec.n_families) == (2, 4, 2)


@pytest.mark.parametrize(
    ("problem", "model", "options"),
    [("ode_families", "mixer", ["--set", "families=[lotka_volterra]"]),
     ("antiderivative", "deeponet", ["--resolution", "32"])],
)  # fmt: skip
def test_generate_suggests_what_fits(problem, model, options, tmp_path, capsys):
    """Samples of several systems are for MixER, those of one map from functions are not."""
    out = str(tmp_path / "d")
    assert main(["generate", problem, "-n", "9", "-o", out, *options]) == 0
    assert f" -m {model} " in capsys.readouterr().err.splitlines()[-1]


def test_reads_each_sample_on_its_own_times(data):
    split = open_dataset(data)["train"]
    a = task_of(data).read(split, np.arange(12))
    assert a.x.shape == (12, 9, 2) and a.observed.all()
    np.testing.assert_array_equal(a.environment, np.arange(12) % 4)
    np.testing.assert_allclose(a.times[0], 10 * np.arange(9) / 9)
    np.testing.assert_allclose(a.times[3], 5 * np.arange(9) / 9)
    np.testing.assert_allclose(a.x[0, 0], [0.4, -0.03], rtol=1e-6)


def test_scale_by_hand(data):
    split = open_dataset(data)["train"]
    task = task_of(data)
    scale = task.fit_normalizer(split)
    a = task.read(split, np.arange(12))
    np.testing.assert_allclose(scale.shift, a.x.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(scale.scale, a.x.std((0, 1)), rtol=1e-12)
    rate = np.diff(a.x, axis=1) / a.x.std((0, 1)) / np.diff(a.times)[..., None]
    assert scale.time == pytest.approx((rate**2).mean() ** -0.5)
    assert task.load_normalizer(json.loads(json.dumps(scale.as_dict()))) == scale
    with pytest.raises(ValueError, match="need as many finite numbers"):
        TrajectoryScale((0.0,), (0.0,), 1.0)


# -- segments ------------------------------------------------------------------------------------


def arrays_of(x, observed=None, times=None) -> TrajectoryArrays:
    x = np.asarray(x, float)
    observed = np.ones(x.shape, bool) if observed is None else observed
    times = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2]) if times is None else times
    n = len(x)
    return TrajectoryArrays(x, times, observed, np.zeros(n), -np.ones(n), 100 + np.arange(n))


def test_segments_start_where_all_is_observed():
    x = np.arange(10.0)[None, :, None] * [1, 10]
    observed = np.ones((1, 10, 2), bool)
    observed[0, 0, 1] = False  # the first state is not complete
    observed[0, 4, 0] = False  # nor is this one, where a segment would start
    observed[0, 8:] = False
    y, t, seen, sample = segments(arrays_of(x, observed), 3)
    # 1 -> 3 (as 4 is not complete), 3 -> 6, 6 -> 7
    assert sample.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(t, [[1, 2, 3, 3], [3, 4, 5, 6], [6, 7, 7, 7]])
    assert seen[:, :, 0].tolist() == [
        [True, True, True, False], [True, False, True, True], [True, True, False, False]
    ]  # fmt: skip
    np.testing.assert_array_equal(y[1, :, 1], [30, 40, 50, 60])
    whole = segments(arrays_of(x, observed))
    assert whole[0].shape == (1, 7, 2) and whole[1][0].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_gap_longer_than_the_horizon_is_bridged():
    observed = np.ones((1, 9, 1), bool)
    observed[0, 2:6] = False
    _, t, seen, _ = segments(arrays_of(np.zeros((1, 9, 1)), observed), 2)
    assert [row[s].tolist() for row, s in zip(t, seen[..., 0], strict=True)] == [
        [0, 1], [1, 6], [6, 7, 8]
    ]  # fmt: skip


def test_trajectories_that_cannot_start():
    observed = np.ones((2, 4, 2), bool)
    observed[1, :, 0] = False
    with pytest.raises(UsageError, match=r"sample 101 \(environment 0\): a trajectory needs"):
        segments(arrays_of(np.zeros((2, 4, 2)), observed))
    observed = np.zeros((1, 4, 1), bool)
    observed[0, 2] = True
    with pytest.raises(UsageError, match="and values after it"):
        segments(arrays_of(np.zeros((1, 4, 1)), observed))


# -- random parts ----------------------------------------------------------------------------------


def test_random_windows_are_parts_of_the_data():
    """Every allowed start and length comes up, nothing else does."""
    torch.manual_seed(0)
    n = 9
    x = torch.arange(n, dtype=torch.float64)[None, :, None] * torch.tensor([1.0, 10.0])
    observed = torch.ones(1, n, 2, dtype=torch.bool)
    observed[0, 2, 1] = False  # no start here
    observed[0, 8:] = False  # ends at 7
    times = torch.arange(n, dtype=torch.float64)[None] ** 1.5
    times[0, 8] = times[0, 7]
    found = set()
    for _ in range(40):
        many = (v.expand(50, *v.shape[1:]) for v in (x, times, observed))
        y, t, seen = random_windows(*many, least=0.5)
        for row in range(50):
            start = int(y[row, 0, 0])
            length = int(seen[row].any(dim=1).nonzero().max())
            found.add((start, length))
            k = slice(start, start + length + 1)
            torch.testing.assert_close(y[row, : length + 1], x[0, k])
            torch.testing.assert_close(t[row, : length + 1], times[0, k] - times[0, start])
            assert torch.equal(seen[row, : length + 1], observed[0, k])
            assert not seen[row, length + 1 :].any()
            assert (t[row, length:] == t[row, length]).all()
    # at least half of 7 steps, rounded up
    expected = {(s, k) for k in range(4, 8) for s in range(8 - k) if s != 2}
    assert found == expected


def test_random_windows_where_only_the_start_is_complete():
    x = torch.randn(3, 5, 2)
    observed = torch.zeros(3, 5, 2, dtype=torch.bool)
    observed[:, 0] = observed[:, 4, 0] = True
    times = torch.arange(5.0).expand(3, 5)
    for _ in range(20):  # a part would have no values
        y, t, seen = random_windows(x, times, observed, least=0.2)
        assert torch.equal(y, x) and torch.equal(t, times) and torch.equal(seen, observed)


# -- losses --------------------------------------------------------------------------------------


def learner_of(data: Path, loss: str = "mse", model: dict[str, Any] | None = None, **task: Any):
    t = task_of(data, **task)
    split = open_dataset(data)["train"]
    torch.manual_seed(0)
    options = {"width": 8, "depth": 1, "context_size": 2} | (model or {})
    built, _ = build_model("mixer", t.spec(), options)
    scale = t.fit_normalizer(split)
    config = FitConfig(data=data, model="mixer", out="x", loss=loss)
    batch = t.data(split, dtype=torch.float32, train=True)[np.arange(12)]
    return TrajectoryLearner(built, t, scale, config), batch, t, scale


def test_losses_and_errors_by_hand(data):
    learner, batch, _, scale = learner_of(data)
    x, times, observed, environments, _ = batch
    observed = observed.clone()
    observed[0, 3:] = False
    observed[1, 4, 0] = False
    batch = (x, times, observed, environments, batch[-1])
    with torch.no_grad():
        losses, errors = learner.losses(*batch), learner.errors(*batch)
        z = (x - torch.tensor(scale.shift)) / torch.tensor(scale.scale)
        found = learner.model(z[:, 0], times / scale.time, environments)
    e = (found - z).double().numpy()
    seen = observed.numpy()
    for i in range(12):
        squares = e[i][1:][seen[i][1:]] ** 2
        assert losses[i].item() == pytest.approx(squares.mean(), rel=1e-5)
        size = (x[i].numpy() / scale.scale)[seen[i]]
        rel = np.sqrt((e[i][seen[i]] ** 2).sum() / (size**2).sum())
        assert errors["rel_l2"][i].item() == pytest.approx(rel, rel=1e-5)
        physical = ((e[i] * scale.scale)[seen[i]] ** 2).mean()
        assert errors["mse"][i].item() == pytest.approx(physical, rel=1e-5)


def test_windows_and_weights_by_hand(data):
    learner, batch, _, scale = learner_of(data, window=0.6, reweight=True)
    plain, _, _, _ = learner_of(data)
    plain.model.load_state_dict(learner.model.state_dict())
    x, times, observed, environments, weights = batch
    with torch.no_grad():
        torch.manual_seed(5)
        losses = learner.losses(*batch)
        torch.manual_seed(5)
        z = (x - torch.tensor(scale.shift)) / torch.tensor(scale.scale)
        z, t, seen = random_windows(z, times / scale.time, observed, least=0.6)
        x = z * torch.tensor(scale.scale) + torch.tensor(scale.shift)
        parts = plain.losses(x, t * scale.time, seen, environments, weights)
    assert not torch.allclose(parts, plain.losses(*batch).detach(), rtol=1e-2)
    mean = torch.stack([parts[environments == e].mean() for e in range(4)])
    expected = parts * (4 * mean.softmax(0))[environments]
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
    assert mean.max() > 1.05 * mean.min()  # the weights differ


def test_what_is_not_observed_does_not_matter(data):
    learner, batch, _, _ = learner_of(data)
    observed = batch[2].clone()
    observed[:, 4:] = False
    other = batch[0].clone()
    other[:, 4:] = torch.nan
    for x in (batch[0], other):
        learner.zero_grad()
        learner.losses(x, batch[1], observed, *batch[3:]).sum().backward()
        grads = [p.grad.clone() for p in learner.model.bank.parameters()]
        assert all(torch.isfinite(g).all() for g in grads)
        if x is other:
            assert all(torch.equal(a, b) for a, b in zip(first, grads, strict=True))  # noqa: F821
        first = grads  # noqa: F841


def test_contributors_keep_the_scale_of_the_loss(data):
    learner, batch, _, _ = learner_of(data, contributors=2)
    with torch.no_grad():
        learner.model.contexts.values.copy_(torch.tensor([[0.0, 0], [0, 1], [9, 9], [9, 8]]))
    torch.manual_seed(0)
    losses = learner.losses(*batch).detach()
    chosen = losses != 0
    environments = set(batch[3][chosen].tolist())
    assert environments in ({0, 1}, {2, 3})
    every, _, _, _ = learner_of(data)
    every.model.load_state_dict(learner.model.state_dict())
    torch.testing.assert_close(losses[chosen], 2 * every.losses(*batch).detach()[chosen])


def test_pool_of_neighbors_uses_the_expansion(data):
    learner, batch, _, _ = learner_of(data, taylor_order=1, pool=2)
    with torch.no_grad():
        learner.model.contexts.values.normal_()
    plain, _, _, _ = learner_of(data)
    plain.model.load_state_dict(learner.model.state_dict())
    a, b = learner.losses(*batch), plain.losses(*batch)
    assert not torch.allclose(a, b)
    # equal contexts: the expansion is about the context itself
    with torch.no_grad():
        for m in (learner, plain):
            m.model.contexts.values.zero_()
    torch.testing.assert_close(learner.losses(*batch), plain.losses(*batch), rtol=1e-4, atol=1e-5)
    a.sum().backward()
    assert learner.model.contexts.values.grad.abs().sum() > 0


@pytest.mark.parametrize("expert", ["ncf", "coda", "geps", "plrnn"])
def test_all_experts_train_on_gaps_and_blow_ups(data, expert):
    """Weights stay finite even where the first predictions leave every box."""
    learner, batch, _, _ = learner_of(data, model={"expert": expert}, forcing=0.5)
    with torch.no_grad():
        for p in learner.model.bank.parameters():
            p.mul_(30.0)
    observed = batch[2].clone()
    observed[::2, 3] = False
    optimizer = torch.optim.Adam(learner.model.parameters(), lr=1e-2)
    for step in range(3):
        learner.before_step(step, 3)
        optimizer.zero_grad()
        loss = learner.losses(*batch[:2], observed, *batch[3:]).mean()
        loss.backward()
        optimizer.step()
        learner.after_step(step, 3)
        assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in learner.model.parameters())


def test_adjoint_gradients_are_the_direct_ones(data):
    found = []
    for gradients in ("direct", "adjoint"):
        learner, batch, _, _ = learner_of(
            data, method="dopri5", gradients=gradients, rtol=1e-7, atol=1e-8
        )
        learner, batch = learner.double(), [
            b.double() if b.is_floating_point() else b for b in batch
        ]  # fmt: skip
        learner.losses(*batch).sum().backward()
        found.append([p.grad for p in learner.model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


# -- fit -----------------------------------------------------------------------------------------


def test_resumed_equals_uninterrupted(data, run, tmp_path):
    out = tmp_path / "r"
    options = settings(data, out)

    def stop(done: int, *_: Any) -> None:
        if done == 11:  # in the second epoch, before the warm-up is over
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(options, progress=stop)
    fit(options.model_copy(update={"resume": True}))
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("gating", ["paper", "gradient", "environment", "oracle"])
def test_other_gatings_resume_too(data, tmp_path, gating):
    results = []
    for stop_at in (None, 9):
        out = tmp_path / f"{gating}{stop_at}"
        options = settings(
            data, out, options={"width": 8, "depth": 1, "gating": gating}, epochs=2,
            task={"inner_steps": 2, "window": 0.6, "reweight": True},
        )  # fmt: skip

        def stop(done: int, *_: Any, at: int | None = stop_at) -> None:
            if done == at:
                raise KeyboardInterrupt

        if stop_at is not None:
            with pytest.raises(KeyboardInterrupt):
                fit(options, progress=stop)
            options = options.model_copy(update={"resume": True})
        op = fit(options)
        results.append((out / "model.safetensors").read_bytes())
        assert op.model.n_experts == (4 if gating == "environment" else 2)
        if gating == "oracle":
            assert op.experts.tolist() == [0, 0, 1, 1]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"n_experts": 5}}, "n_experts=5: the data has 4 environments"),
        ({"options": {"gating": "oracle", "n_experts": 3}}, "needs one for each of the data's 2"),
        ({"task": {"field": "nothing"}}, "unknown field 'nothing'"),
        ({"task": {"horizon": 0}}, "horizon"),
        ({"task": {"window": 1.5}}, "window"),
        ({"task": {"gradients": "adjoint"}}, "gradients='adjoint' needs method='dopri5'"),
        ({"max_seconds": 5.0}, "the warm-up counts steps"),
        ({"resolution": (8,)}, "the trajectories task trains on the data as stored"),
        ({"options": {"expert": "plrnn"}, "task": {"method": "dopri5"}}, "expert=plrnn is a map"),
    ],
)
def test_what_is_refused_before_anything_is_trained(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as e:
        fit(settings(data, tmp_path / "r", **changes))
    assert "\n" not in str(e.value)


def test_fields_on_large_grids_and_static_data_are_refused(tmp_path):
    opkit.generate("darcy", out=tmp_path / "d", n=2, resolution=9, progress=False)
    with pytest.raises(UsageError, match="no field that varies in time"):
        fit(settings(tmp_path / "d", tmp_path / "r"))


def test_double_precision(data, tmp_path):
    op = fit(settings(data, tmp_path / "r", precision="64-true", epochs=1, repeat=2))
    assert op.dtype == torch.float64
    x0 = np.array([0.123456789012, -0.3])
    start = op(x0, [0.0, 1.0], 0)[0]
    np.testing.assert_allclose(start, x0, rtol=1e-14)  # scales are not rounded


# -- the operator --------------------------------------------------------------------------------


def test_operator_predicts_in_physical_units(data, run):
    op = load(run)
    assert "2 experts" in repr(op) and "4 environments" in repr(op)
    split = open_dataset(data)["test"]
    a = op.task.read(split, np.arange(8))
    found = op(a.x[:, 0], a.times, a.environment)
    one = op(a.x[3, 0], a.times[3], a.environment[3])
    np.testing.assert_allclose(found[3], one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 0], a.x[:, 0], rtol=1e-5, atol=1e-6)
    # times may start anywhere
    np.testing.assert_allclose(op(a.x[3, 0], a.times[3] + 7, a.environment[3]), one, rtol=1e-4)
    assert op.contexts.shape == (4, 2) and op.experts.shape == (4,)


def test_rates_are_those_of_the_trajectory(run):
    op = load(run).to(torch.float64)
    x = np.array([[0.3, 0.1], [0.2, -0.4]])
    h = 1e-3
    y = op(x, np.array([0.0, h, 2 * h]), [0, 3])
    np.testing.assert_allclose(
        op.rates(x, [0, 3]), (-3 * y[:, 0] + 4 * y[:, 1] - y[:, 2]) / (2 * h), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(op.rates(x[0], 0), op.rates(x, 0)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [0, 1], 0), r"x0 has shape \(1,\), expected \(2,\) or \(n, 2\)"),
        (([1.0, 2.0], [0.0], 0), r"times has shape \(1,\)"),
        (([1.0, 2.0], [0, 0], 0), "times do not increase"),
        (([1.0, np.nan], [0, 1], 0), "not finite"),
        (([1.0, 2.0], [0, 1], 9), r"environment 9 is not among the 4.*opkit adapt"),
        (([1.0, 2.0], [0, 1]), "environment is missing: this operator knows 4"),
    ],
)
def test_bad_calls(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(run)(*arguments)


def test_blow_up_is_said_and_nan(run):
    op = load(run)
    with torch.no_grad():
        for name, p in op.model.bank.named_parameters():
            if name.startswith("main"):
                p.mul_(20)
    with pytest.warns(RuntimeWarning, match=r"of 1 trajectories leave the box of 100 standard"):
        y = op([1.0, 1.0], np.linspace(0, 500, 50), 0)
    assert np.isfinite(y[0]).all() and np.isnan(y[-1]).all()


def test_discrete_maps_have_their_own_step(data, tmp_path):
    op = fit(
        settings(data, tmp_path / "r", options={"expert": "plrnn", "width": 8}, epochs=1, repeat=2)
    )
    step = op.task.steps[0]
    assert op([0.1, 0.2], step * np.arange(4), 0).shape == (4, 2)
    with pytest.raises(UsageError, match="this model is a map over"):
        op([0.1, 0.2], 0.5 * step * np.arange(4), 0)
    with pytest.raises(ValueError, match="has no rates"):
        op.rates([0.1, 0.2], 0)


# -- evaluation, prediction, report --------------------------------------------------------------


def test_evaluation_by_hand_and_report(data, run):
    m = evaluate(EvaluateConfig(run=run, data=data, repeats=1))
    op = load(run)
    a = op.task.read(open_dataset(data)["test"], np.arange(8))
    e = op(a.x[:, 0], a.times, a.environment) - a.x
    assert m["mse"]["mean"] == pytest.approx((e**2).mean(), rel=1e-4)
    scale = np.array(op.scale.scale)
    rel = np.sqrt(((e / scale) ** 2).sum((1, 2)) / ((a.x / scale) ** 2).sum((1, 2)))
    assert m["rel_l2"]["max"] == pytest.approx(rel.max(), rel=1e-4)
    assert m["n_experts"] == 2 and m["n_environments"] == 4 and m["blown_up"] == []
    same = op.experts[0] == op.experts[1] and op.experts[2] == op.experts[3]
    if same and m["experts_used"] == 2:
        assert m["adjusted_rand_index"] == 1.0
    with (run / "evaluation" / "test" / "environments.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [r["family"] for r in rows] == ["harmonic_oscillator"] * 2 + ["double_well"] * 2
    assert [int(r["expert"]) for r in rows] == op.experts.tolist()
    assert float(rows[1]["context1"]) == pytest.approx(op.contexts[1, 1])
    page = report(run).read_text()
    assert "<th>double_well</th>" in page and "Phase portraits" in page
    assert "Map of the contexts" in page and "experts are used" in page


def test_prediction_files(data, run, tmp_path):
    op = load(run)
    a = op.task.read(open_dataset(data)["test"], np.arange(8))
    expected = op(a.x[:, 0], a.times, a.environment)
    for suffix in (".h5", ".npz", ".npy"):
        out = predict(PredictConfig(run=run, data=data, out=tmp_path / f"p{suffix}"))
        if suffix == ".h5":
            with h5py.File(out) as f:
                values, times = f["outputs/trajectory"][...], f["time"][...]
                assert list(f["outputs/trajectory"].attrs["labels"]) == ["y0", "y1"]
            np.testing.assert_array_equal(times, a.times)
        elif suffix == ".npz":
            with np.load(out) as f:
                values = f["trajectory"]
                np.testing.assert_array_equal(f["environment"], a.environment)
        else:
            values = np.load(out)
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match="says neither times nor environments"):
        predict(PredictConfig(run=run, data="x.npy", out=tmp_path / "q.npy"))


def test_own_table_with_gaps_one_environment_and_other_lengths(tmp_path):
    """A user's CSV goes from import to report."""
    rng = np.random.default_rng(0)
    lines = ["trajectory,time,x,v"]
    for k in range(4):
        t = np.sort(rng.uniform(0, 6, 14 + k))
        x = np.stack([np.cos(t + k), -np.sin(t + k)], axis=1)
        for i, (ti, (a, b)) in enumerate(zip(t, x, strict=True)):
            gap = i in (4, 5)
            lines.append(f"{k},{ti},{'' if gap else a},{'NaN' if i == 7 else b}")
    file = tmp_path / "spring.csv"
    file.write_text("\n".join(lines))
    import_data("trajectories", [file], tmp_path / "d", ImportOptions(units={"time": "s"}))
    run = tmp_path / "r"
    op = fit(settings(tmp_path / "d", run, epochs=2, repeat=4))
    assert op.model.n_experts == 1 and op.environments.tolist() == [0.0]
    assert op([1.0, 0.0], [0.0, 0.5, 2.0]).shape == (3, 2)  # one environment needs no name
    m = evaluate(EvaluateConfig(run=run, data=tmp_path / "d", split="valid", repeats=1))
    assert m["adjusted_rand_index"] is None and np.isfinite(m["mse"]["mean"])
    assert "Experts" in report(run).read_text()


def test_environments_by_name(tmp_path):
    lines = ["patient,time,x"] + [f"{p},{t},{t * (1 + (p == 'b'))}" for p in "ab" for t in range(9)]
    file = tmp_path / "p.csv"
    file.write_text("\n".join(lines))
    options = ImportOptions(fields={"patient": "environment"})
    import_data("trajectories", [file], tmp_path / "d", options)
    op = fit(settings(tmp_path / "d", tmp_path / "r", epochs=1, repeat=2))
    times = [0.0, 1.0]
    np.testing.assert_array_equal(op([1.0], times, "b"), op([1.0], times, 1))
    found = op([[1.0], [1.0]], times, ["b", "a"])
    np.testing.assert_allclose(found[0], op([1.0], times, "b"), rtol=1e-6)
    with pytest.raises(ValueError, match=r"unknown environment 'c'.*Allowed: a, b"):
        op([1.0], times, "c")
    evaluate(EvaluateConfig(run=tmp_path / "r", data=tmp_path / "d", split="valid", repeats=1))
    with (tmp_path / "r" / "evaluation" / "valid" / "environments.csv").open() as f:
        assert [row["name"] for row in csv.DictReader(f)] == ["a", "b"]
    report(tmp_path / "r")


def test_new_environments_in_valid_are_named(data, tmp_path):
    task = task_of(data)
    other = TrajectoriesTask.from_dict({**task.as_dict(), "environments": [0.0, 1.0, 2.0]})
    with pytest.raises(UsageError, match=r"environment 3 is not among the 3 that the operator"):
        TrajectoryData(open_dataset(data)["valid"], other, dtype=torch.float32)
