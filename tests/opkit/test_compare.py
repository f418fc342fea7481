"""Comparisons: the numbers are those of the runs, the budget is the same, and they resume."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opkit
from opkit.cli import main
from opkit.compare import (
    CompareConfig,
    ComparisonFailed,
    compare,
    plot_error_size,
    plot_error_time,
    table,
)
from opkit.errors import UsageError
from opkit.fit import TrainingDiverged
from opkit.operator import load
from solvers.names import UnknownNameError

_spec = importlib.util.spec_from_file_location(
    "opkit_synthetic", Path(__file__).with_name("synthetic.py")
)
synthetic = sys.modules.setdefault("opkit_synthetic", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(synthetic)
synthetic.register()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("data") / "syn")


# `opkit.fit` is the function, whatever was imported
FIT, EVALUATE = (importlib.import_module(f"opkit.{name}") for name in ("fit", "evaluate"))
RESNET = {"resnet.hidden_channels": 4, "resnet.n_blocks": 1}


def settings(data: Path, out: Path, **changes: Any) -> CompareConfig:
    base: dict[str, Any] = dict(
        data=data, models="tiny,resnet", out=out, seeds=2, epochs=2, options=RESNET,
        fit={"lr": 1e-2, "threads": 1},
    )  # fmt: skip
    return CompareConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("done") / "cmp"
    calls: list[tuple[int, int, str]] = []
    result = compare(settings(data, out), progress=lambda *a: calls.append(a))
    assert [c[0] for c in calls] == sorted(c[0] for c in calls) and calls[-1][:2] == (100, 100)
    return out, result


def errors(result: dict[str, Any]) -> dict[tuple[str, int], dict[str, float]]:
    return {(r["model"], r["seed"]): r["errors"] for r in result["runs"]}


def test_numbers_are_those_of_the_runs(done):
    out, result = done
    assert json.loads((out / "comparison.json").read_text()) == result
    assert result["metric"] == "rel_l2" and result["budget"] == {"epochs": 2}
    means = []
    for entry in result["models"]:
        values = []
        for seed in (0, 1):
            run = out / "runs" / f"{entry['model']}-{seed}"
            metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
            assert metrics["n_samples"] == 5
            values.append(metrics["rel_l2"]["mean"])
            op = load(run)
            assert entry["n_parameters"] == op.n_parameters
            assert len(op.history) == 2
            assert json.loads((run / "operator.json").read_text())["data"]["n_train"] == 12
        error = entry["errors"]["rel_l2"]
        assert error["values"] == values
        assert error["mean"] == pytest.approx(np.mean(values))
        assert error["std"] == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))
        means.append(error["mean"])
    assert means == sorted(means)
    assert load(out / "runs" / "resnet-0").options["hidden_channels"] == 4
    seeds = [load(out / "runs" / f"tiny-{s}").model.a.weight for s in (0, 1)]
    assert not np.array_equal(*(w.detach().numpy() for w in seeds))


def test_files(done):
    out, result = done
    with (out / "comparison.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["model"], int(r["seed"])) for r in rows] == [
        ("tiny", 0), ("resnet", 0), ("tiny", 1), ("resnet", 1)
    ]  # fmt: skip
    found = errors(result)
    for r in rows:
        assert float(r["rel_l2"]) == found[r["model"], int(r["seed"])]["rel_l2"]
        assert (out / r["run"] / "operator.json").is_file()
    page = (out / "comparison.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and page.count("<svg") == 0
    assert page.count("data:image/svg+xml") == 2 and "resnet" in page
    for name in ("error_time.png", "error_parameters.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


def test_table(done):
    _, result = done
    lines = table(result).splitlines()
    assert lines[0].split()[:2] == ["model", "parameters"] and "rel_l2, test" in lines[0]
    first = result["models"][0]
    error = first["errors"]["rel_l2"]
    assert lines[1].startswith(first["model"])
    assert f"{first['n_parameters']:,}" in lines[1] and " +- " in lines[1] and " %" in lines[1]
    shown = float(lines[1].split(" +- ")[0].split()[-1])
    assert shown == pytest.approx(100 * error["mean"], rel=5e-3)
    assert lines[-1] == "syn, 2 epochs each, mean +- standard deviation over 2 seeds"
    assert len({len(line) for line in lines[:-1]}) == 1


def test_plots_show_the_numbers(done):
    _, result = done
    ax = plot_error_size(result)
    points = {
        tuple(np.ravel(c[0].get_xydata())): c.get_label()
        for c in ax.containers
    }  # fmt: skip
    for entry in result["models"]:
        key = (entry["n_parameters"], entry["errors"]["rel_l2"]["mean"])
        assert points[key] == entry["model"]
    ax = plot_error_time(result)
    curves = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    for entry in result["models"]:
        own = [r["curve"] for r in result["runs"] if r["model"] == entry["model"]]
        xy = curves[entry["model"]]
        assert xy[0, 0] == max(c["seconds"][0] for c in own)
        assert xy[-1, 0] == max(c["seconds"][-1] for c in own)
        assert xy[-1, 1] == pytest.approx(np.mean([min(c["error"]) for c in own]))
        assert (np.diff(xy[:, 1]) <= 0).all()


def test_finished_runs_are_not_trained_again(done, data, monkeypatch):
    out, result = done

    def never(*args, **kwargs):
        raise AssertionError("trained or judged again")

    monkeypatch.setattr(FIT, "fit", never)
    monkeypatch.setattr(EVALUATE, "evaluate", never)
    assert compare(settings(data, out, resume=True)) == result


def test_interrupted_comparison_goes_on(done, data, tmp_path, monkeypatch):
    """Killed within the third training, after its first epoch: the end is the same, bit for bit."""
    _, result = done
    out, calls = tmp_path / "cmp", []
    real = FIT.fit

    def interrupted(config, progress=None):
        calls.append(config.out)
        if len(calls) == 3:

            def stop(done, total, note):
                if note.startswith("epoch 2"):
                    raise KeyboardInterrupt

            progress = stop
        return real(config, progress=progress)

    monkeypatch.setattr(FIT, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(settings(data, out))
    assert len(calls) == 3 and not (out / "comparison.json").exists()
    assert not list(out.glob("runs/*/evaluation"))
    again = compare(settings(data, out, resume=True))
    assert calls[2:] == [str(out / "runs" / n) for n in ("tiny-1", "tiny-1", "resnet-1")]
    assert errors(again) == errors(result)


def test_models_and_seeds_may_be_added(done, data, tmp_path, monkeypatch):
    _, result = done
    out, calls = tmp_path / "cmp", []
    first = compare(settings(data, out, models="tiny", seeds=1, options={}))
    assert first["models"][0]["errors"]["rel_l2"]["std"] is None
    assert "one seed" in table(first)
    real = FIT.fit
    monkeypatch.setattr(
        FIT, "fit", lambda c, progress=None: (calls.append(Path(c.out).name), real(c))[1]
    )
    again = compare(settings(data, out, resume=True))
    assert calls == ["resnet-0", "tiny-1", "resnet-1"]
    assert errors(again) == errors(result)


def test_test_is_not_looked_at_before_the_end(data, tmp_path, monkeypatch):
    out, order = tmp_path / "cmp", []
    fit, evaluate = FIT.fit, EVALUATE.evaluate

    def watched_fit(config, progress=None):
        order.append("fit")
        return fit(config)

    def watched_evaluate(config, **kwargs):
        order.append(config.split)
        return evaluate(config, **kwargs)

    monkeypatch.setattr(FIT, "fit", watched_fit)
    monkeypatch.setattr(EVALUATE, "evaluate", watched_evaluate)
    compare(settings(data, out, models="tiny", epochs=1, options={}))
    assert order == ["fit", "fit", "test", "test"]


def test_same_seconds(data, tmp_path):
    result = compare(
        settings(
            data, tmp_path / "cmp", models="tiny", epochs=None, seconds=0.3, options={}, seeds=1
        )
    )
    assert result["budget"] == {"seconds": 0.3}
    assert result["runs"][0]["seconds"] >= 0.3 and result["runs"][0]["epochs"] >= 1
    assert "0.3 seconds each" in table(result)


def test_diverging_training_is_told_and_the_rest_goes_on(data, tmp_path):
    options = {"poisoned.calls": 0}
    result = compare(
        settings(data, tmp_path / "a", models="poisoned,tiny", seeds=1, options=options)
    )
    assert [e["model"] for e in result["models"]] == ["tiny", "poisoned"]
    assert "the loss is nan" in result["models"][1]["failed"]["0"]
    assert "diverged" in table(result) and "poisoned, seed 0: the loss is nan" in table(result)
    assert "the loss is nan" in (tmp_path / "a" / "comparison.html").read_text()
    with pytest.raises(
        ComparisonFailed, match="all trainings diverged; the first: the loss is nan"
    ):
        compare(settings(data, tmp_path / "b", models="poisoned", seeds=1, options=options))
    assert issubclass(ComparisonFailed, RuntimeError) and TrainingDiverged


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": "tiny,misfit"}, UsageError, r"misfit: model: returns shape"),
        ({"models": "tiny,deeponett"}, UnknownNameError, "Did you mean 'deeponet'"),
        ({"models": "tiny", "options": {"width": 4}}, UsageError, "width=4: need model.option"),
        ({"options": {"fno.n_modes": 4}}, UsageError, "'fno' is not compared here"),
        ({"options": {"tiny.widht": 4}}, UsageError, "Did you mean 'width'"),
        ({"fit": {"lrr": 1}}, UnknownNameError, "Did you mean 'lr'"),
        ({"fit": {"epochs": 3}}, UnknownNameError, "unknown setting of fit 'epochs'"),
        ({"fit": {"tiny.lr": -1}}, UsageError, "lr"),
        ({"seconds": 3.0}, UsageError, "epochs and seconds exclude each other"),
        ({"split": "train2"}, UsageError, "no samples in split 'train2'"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(data, tmp_path, changes, error, message):
    options = {} if "resnet" not in changes.get("models", "tiny,resnet") else RESNET
    with pytest.raises(error, match=message) as caught:
        compare(settings(data, tmp_path / "cmp", **{"options": options, **changes}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cmp").exists()


def test_names_of_models(data, tmp_path):
    assert settings(data, tmp_path, models=["a,b", " c "]).models == ("a", "b", "c")
    for models, message in (("", "need one name"), ("a,a", "a is given twice")):
        with pytest.raises(ValueError, match=message):
            settings(data, tmp_path, models=models)


def test_settings_of_fit_for_one_model(data, tmp_path):
    compare(
        settings(
            data, tmp_path / "cmp", seeds=1, epochs=1,
            fit={"threads": 1, "lr": 1e-3, "tiny.lr": 5e-3, "resnet": {"batch_size": 3}},
        )
    )  # fmt: skip
    import yaml

    found = {
        m: yaml.safe_load((tmp_path / "cmp" / "runs" / f"{m}-0" / "config.yaml").read_text())
        for m in ("tiny", "resnet")
    }
    assert (found["tiny"]["lr"], found["resnet"]["lr"]) == (5e-3, 1e-3)
    assert (found["tiny"]["batch_size"], found["resnet"]["batch_size"]) == (8, 3)


def test_directories(done, data, tmp_path):
    out, _ = done
    with pytest.raises(FileExistsError, match="use --resume to go on or --overwrite"):
        compare(settings(data, out))
    with pytest.raises(UsageError, match=r"other settings.*epochs 2 -> 3"):
        compare(settings(data, out, epochs=3, resume=True))
    with pytest.raises(UsageError, match="no comparison to go on with"):
        compare(settings(data, tmp_path / "none", resume=True))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="no comparison of opkit"):
        compare(settings(data, tmp_path / "mine", overwrite=True))
    with pytest.raises(UsageError, match="resume and overwrite exclude"):
        compare(settings(data, out, resume=True, overwrite=True))


def test_command_line(data, tmp_path, capsys):
    out = tmp_path / "cmp"
    arguments = ["compare", str(data), "-m", "tiny", "-o", str(out), "--seeds", "1"]
    arguments += ["--epochs", "1", "--fit", "threads=1", "--set", "tiny.width=3"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["models"][0]["options"]["width"] == 3
    assert main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    printed = capsys.readouterr()
    assert printed.out == table(result) + "\n"
    assert str(out) in printed.err
    assert main([*arguments[:4], "-o", str(tmp_path / "x"), "--fit", "lr"]) == 2


def test_python_function(data, tmp_path):
    result = opkit.compare(
        data, "tiny", out=tmp_path / "cmp", seeds=1, epochs=1, set={"tiny.width": 3},
        fit={"threads": 1}, progress=False,
    )  # fmt: skip
    assert result["models"][0]["model"] == "tiny"
