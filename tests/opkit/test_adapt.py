"""Adaptation: contexts alone change, the right expert is found, the result is an operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import opkit
from models.mixer import build_mixer
from models.mixer.adaptation import adapt_contexts, masked_mse
from models.spec import TrajectorySpec
from opkit.adapt import AdaptConfig, adapt
from opkit.cli import main
from opkit.errors import UsageError
from opkit.fit import FitConfig, fit
from opkit.operator import load
from pde_data.imports import ImportOptions, import_data

torch.set_num_threads(1)
FAMILIES = ["harmonic_oscillator", "double_well"]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("work")
    for name, n, more in (
        ("data", 12, {"n_environments": 2}), ("new", 8, {"environments": "adaptation"})
    ):  # fmt: skip
        opkit.generate(
            "ode_families", out=path / name, n=n, n_valid=8, n_test=8, resolution=6, seed=3,
            progress=False, set={"families": FAMILIES, **more},
        )  # fmt: skip
    fit(
        FitConfig(
            data=path / "data",
            model="mixer",
            out=path / "run",
            epochs=2,
            repeat=4,
            threads=1,
            options={"width": 8, "depth": 1, "context_size": 2},
            task={"horizon": 2},
        )
    )
    return path


def settings(work: Path, out: str, **changes: Any) -> AdaptConfig:
    base = dict(run=work / "run", data=work / "new", out=work / out, steps=15, threads=1)
    return AdaptConfig(**{**base, **changes})


@pytest.mark.parametrize("route", ["best", "gate"])
def test_contexts_alone_change(work, route):
    before = load_file(work / "run" / "model.safetensors")
    op = adapt(settings(work, route, route=route))
    after = load_file(work / route / "model.safetensors")
    assert set(before) == set(after)
    for name, value in before.items():
        if name.startswith("bank") or name in ("gate", "shared"):
            assert torch.equal(value, after[name]), name  # bit for bit
    assert after["contexts.values"].shape == (8, 2) and before["contexts.values"].shape == (4, 2)
    assert after["contexts.values"].abs().sum() > 0
    facts = json.loads((work / route / "adapt.json").read_text())
    assert op.experts.tolist() == facts["experts"] and len(facts["losses"]) == 8
    best = np.array([min(v for v in row if v is not None) for row in facts["losses"]])
    if route == "gate":  # from zero: it cannot be worse than that
        assert (best <= np.array(facts["start_losses"]) * (1 + 1e-5)).all()
    else:
        tried = np.array(facts["losses"])
        assert np.isfinite(tried).all()
        np.testing.assert_array_equal(tried.argmin(1), op.experts)
    assert op.environments.tolist() == list(range(8))
    assert op.task.families == (0.0,) * 4 + (3.0,) * 4
    m = opkit.evaluate(work / route, work / "new", progress=False)
    assert np.isfinite(m["mse"]["mean"]) and m["n_environments"] == 8


def analytic() -> Any:
    """Two experts whose best contexts are known: dx/dt = (context + shift_k) times a direction."""
    torch.manual_seed(0)
    model = build_mixer(TrajectorySpec(2, 4, 2), n_experts=2, context_size=2, width=16, depth=1)
    return model.double()


def test_best_finds_expert_and_context_that_made_the_data():
    model = analytic()
    with torch.no_grad():
        for p in model.bank.parameters():
            p.add_(0.5 * torch.randn_like(p))
        model.assigned.copy_(torch.tensor([0, 0, 1, 1]))
        model.contexts.values.copy_(torch.tensor([[0.3, -0.3], [-2, 2], [-0.1, 0.4], [2, 0.3]]))
    truth = torch.tensor([[0.5, -0.4], [-0.2, 0.6], [1.8, 0.1]]).double()
    experts = torch.tensor([0, 1, 1])
    x0 = torch.randn(12, 2).double()
    environments = torch.arange(12) % 3
    times = torch.linspace(0, 2, 6).double().expand(12, 6)
    with torch.no_grad():
        x = model.trajectories(x0, times, truth[environments], experts[environments])
    observed = torch.ones_like(x, dtype=torch.bool)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    found = adapt_contexts(model, x, times, observed, environments, n=3, steps=300, lr=0.05)
    assert found.experts.tolist() == experts.tolist()
    assert (found.losses.min(1).values < 1e-4 * found.start_losses).all()
    assert (found.losses.max(1).values > 30 * found.losses.min(1).values).all()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_bulk_equals_one_environment_at_a_time():
    model = analytic()
    with torch.no_grad():
        for p in model.bank.parameters():
            p.add_(0.2 * torch.randn_like(p))
    x = torch.randn(6, 4, 2).double()
    times = torch.linspace(0, 1, 4).double().expand(6, 4)
    observed = torch.ones_like(x, dtype=torch.bool)
    environments = torch.tensor([0, 1, 2, 0, 1, 2])
    bulk = adapt_contexts(model, x, times, observed, environments, n=3, steps=20)
    for e in range(3):
        mine = environments == e
        alone = adapt_contexts(
            model, x[mine], times[mine], observed[mine], torch.zeros(2, dtype=torch.long), n=1,
            steps=20,
        )  # fmt: skip
        torch.testing.assert_close(alone.contexts[0], bulk.contexts[e], rtol=1e-8, atol=1e-10)


def test_masked_mse_by_hand():
    x = torch.tensor([[[0.0], [1.0], [5.0]]])
    seen = torch.tensor([[[True], [True], [False]]])
    assert masked_mse(x, torch.zeros(1, 3, 1), seen).tolist() == [1.0]
    assert masked_mse(x, torch.full((1, 3, 1), torch.nan), seen & False).tolist() == [0.0]


def test_fewer_trajectories(work):
    op = adapt(settings(work, "few", n_trajectories=1, split="test", steps=2))
    assert op.description["data"]["n_train"] == 8
    assert op.description["data"]["adapted_from"] == "run"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"out": "run"}, FileExistsError, "exists already"),
        ({"out": "run", "overwrite": True}, UsageError, "not a run that may be replaced"),
        ({"split": "nothing"}, ValueError, "nothing"),
        ({"steps": 0}, ValueError, "steps"),
    ],
)
def test_refused(work, changes, error, message):
    out = changes.pop("out", "refused")
    with pytest.raises(error, match=message):
        adapt(settings(work, out, **changes))


def test_command_line(work, capsys):
    arguments = ["adapt", str(work / "run"), str(work / "new"), "-o", str(work / "cli")]
    assert main([*arguments, "--steps", "3", "--threads", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 8 and out[0].startswith("environment 0: expert ")
    assert main([*arguments, "--steps", "3", "--overwrite", "--json", "--threads", "1"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["environments"] == list(range(8))
    assert main(["adapt", str(work / "run"), str(work / "new")]) == 2
    assert "out is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "more", "message"),
    [
        ("environment,time,w,v", {"time": "s"}, "the states of trajectory are w, v in the data, "
         "the operator's v, w"),
        ("environment,time,v,w", {"time": "ms"}, "times are in 'ms' in the data, the operator "
         "needs 's'"),
    ],
)  # fmt: skip
def test_tables_that_mean_something_else(tmp_path, head, more, message, capsys):
    """Columns in another order, or another unit of time, would give wrong numbers silently."""
    rows = [f"{e},{t},{np.sin(t + e):.4f},{np.cos(t + e):.4f}" for e in range(2) for t in range(9)]
    table(tmp_path / "a", "environment,time,v,w", rows, {"time": "s"})
    table(tmp_path / "b", head, rows, more)
    options = ["--set", "n_experts=1", "--epochs", "1", "--repeat", "1", "--threads", "1"]
    run = str(tmp_path / "run")
    assert main(["fit", str(tmp_path / "a"), "-m", "mixer", "-o", run, *options]) == 0
    # such tables have no split test
    assert "a --split valid" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UsageError, match=message):
        adapt(AdaptConfig(run=run, data=tmp_path / "b", out=tmp_path / "new"))


def table(out: Path, head: str, rows: list[str], units: dict[str, str]) -> None:
    file = out.with_suffix(".csv")
    file.write_text("\n".join([head, *rows]) + "\n")
    import_data("trajectories", [file], out, ImportOptions(units=units))


def fit_briefly(work: Path, name: str, gating: str) -> Path:
    run = work / name
    options = {"width": 8, "depth": 1, "gating": gating}
    fit(
        FitConfig(
            data=work / "data", model="mixer", out=run, epochs=1, repeat=1, threads=1,
            options=options,
        )
    )  # fmt: skip
    return run


def test_an_oracle_has_no_gate_to_follow(work):
    run = fit_briefly(work, "oracle", "oracle")
    with pytest.raises(UsageError, match="was told the families and has no gate"):
        adapt(settings(work, "oracle-new", run=run, route="gate"))
    op = adapt(settings(work, "oracle-new", run=run, steps=2))
    assert op.experts.shape == (8,)


def test_report_of_an_adapted_run(work):
    adapt(settings(work, "reported", steps=2, n_trajectories=1))
    opkit.evaluate(work / "reported", work / "new", progress=False)
    page = opkit.report(work / "reported").read_text("utf-8")
    assert "8 samples of the new environments." in page
    assert f"opkit adapt {work / 'run'} {work / 'new'} -o NEW_RUN --split train" in page
    assert "opkit fit --config" not in page


def test_without_experts_for_new_environments(work):
    run = fit_briefly(work, "own", "environment")
    assert load(run).experts.tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="gating=environment has an expert for each"):
        adapt(settings(work, "own-new", run=run))
