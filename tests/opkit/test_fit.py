"""Training: what is left behind, what a resumed run gives, and what goes wrong in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from opkit.errors import UsageError
from opkit.fit import FitConfig, TrainingDiverged, fit
from opkit.operator import OperatorError, load
from solvers.grids import Grid
from solvers.names import UnknownNameError

SYNTHETIC = Path(__file__).with_name("synthetic.py")
_spec = importlib.util.spec_from_file_location("opkit_synthetic", SYNTHETIC)
synthetic = sys.modules.setdefault("opkit_synthetic", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(synthetic)
synthetic.register()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("data") / "syn")


def settings(data: Path, out: Path, **changes: Any) -> FitConfig:
    base: dict[str, Any] = dict(data=data, model="tiny", out=out, epochs=4, batch_size=5, lr=1e-2)
    return FitConfig(**{**base, **changes})


def history(run: Path) -> list[list[str]]:
    """All columns but the seconds."""
    return [line.split(",")[:-1] for line in (run / "history.csv").read_text().splitlines()]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def stop_at(step: int, error: type[BaseException]) -> Any:
    def progress(done: int, total: int, note: str) -> None:
        if done == step:
            raise error("stopped by the test")

    return progress


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 4 epochs of 3 steps."""
    run = tmp_path_factory.mktemp("run") / "whole"
    fit(settings(data, run))
    return run


def test_what_a_run_leaves(whole: Path, data: Path) -> None:
    expected = {
        "config.yaml", "operator.json", "normalizer.json", "model.safetensors", "history.csv",
        "checkpoints", "train_samples.npz",
    }  # fmt: skip
    assert {p.name for p in whole.iterdir()} == expected
    assert [p.name for p in (whole / "checkpoints").iterdir()] == ["last.ckpt"]
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config["loss"] == "h1" and config["options"] == {"width": 6, "dropout": 0.1}
    d = json.loads((whole / "operator.json").read_text())
    assert (d["model"], d["task"]) == ("tiny", "grid")
    assert d["data"]["n_train"] == 12 and d["data"]["generate_seconds"] == 0.5 * 16
    assert len(d["data"]["content_digest"]) == 64
    rows = history(whole)
    assert ",".join(rows[0]) == "epoch,step,train_loss,valid_loss,valid_rel_l2,valid_rel_h1,lr"
    assert [r[0] for r in rows[1:]] == ["1", "2", "3", "4"]
    assert [r[1] for r in rows[1:]] == ["3", "6", "9", "12"]
    losses = [float(r[2]) for r in rows[1:]]
    assert losses[-1] < losses[0]
    with np.load(whole / "train_samples.npz", allow_pickle=False) as marks:
        assert marks["input_digest"].shape == marks["seed"].shape == (12,)


def test_best_weights_and_history_are_what_they_say(whole: Path, data: Path) -> None:
    """The kept weights give the best valid error of the history, recomputed apart."""
    from opkit.metrics import relative_error
    from pde_data.hdf5 import open_dataset

    op = load(whole)
    ds = open_dataset(data)
    x, y = op.task.read(ds["valid"], np.arange(4))
    error = relative_error(op(x), y, ds.schema.grid).mean()
    column = [float(r[4]) for r in history(whole)[1:]]
    assert error == pytest.approx(min(column), rel=1e-5)
    assert [r["valid_rel_l2"] for r in op.history] == column


def test_the_normalizer_knows_the_training_split_alone(whole: Path, data: Path) -> None:
    from pde_data.hdf5 import open_dataset

    ds = open_dataset(data)
    stored = json.loads((whole / "normalizer.json").read_text())
    values = ds["train"].read(range(12), ["a", "c", "u"])
    mean = [values["a"].astype(float).mean(), values["c"].mean()]
    std = [values["a"].astype(float).std(), values["c"].std()]
    np.testing.assert_allclose(stored["input"]["shift"], mean, rtol=1e-12)
    np.testing.assert_allclose(stored["input"]["scale"], std, rtol=1e-12)
    rms = np.sqrt(np.mean(values["u"].astype(float) ** 2))
    assert stored["output"]["shift"] == [0.0]  # homogeneous Dirichlet: not centered
    np.testing.assert_allclose(stored["output"]["scale"], [rms], rtol=1e-12)


@pytest.mark.parametrize("step", [1, 7, 9])
def test_resumed_equals_uninterrupted_bit_for_bit(
    data: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    """Stopped in the first epoch, in the third, and at its last step."""
    run = tmp_path / "run"
    with pytest.raises(MemoryError):
        fit(settings(data, run), progress=stop_at(step, MemoryError))
    fit(settings(data, run, resume=True))
    assert history(run) == history(whole)
    a, b = (load_file(r / "model.safetensors") for r in (run, whole))
    assert same(a, b)
    one, other = checkpoint(run), checkpoint(whole)
    for key in (
        "state_dict",
        "optimizer_states",
        "callbacks",
        "epoch",
        "global_step",
    ):
        assert same(one[key], other[key]), key


@pytest.mark.parametrize("model", ["fno", "mgno"])
def test_real_models_resume_too(data: Path, tmp_path: Path, model: str) -> None:
    options = {"fno": {"hidden_channels": 4, "n_layers": 2}, "mgno": {"hidden_channels": 4}}[model]
    kw: dict[str, Any] = dict(model=model, options=options, epochs=3)
    fit(settings(data, tmp_path / "a", **kw))
    with pytest.raises(MemoryError):
        fit(settings(data, tmp_path / "b", **kw), progress=stop_at(5, MemoryError))
    op = fit(settings(data, tmp_path / "b", resume=True, **kw))
    assert history(tmp_path / "a") == history(tmp_path / "b")
    weights = [load_file(tmp_path / r / "model.safetensors") for r in "ab"]
    assert same(*weights)
    x = np.random.default_rng(0).normal(size=(2, 2, 9, 9))
    np.testing.assert_array_equal(op(x), load(tmp_path / "a")(x))


@pytest.mark.slow
def test_two_processes_equal_one(data: Path, tmp_path: Path) -> None:
    """Half the batch on each of two processes gives the same steps and the same errors."""
    code = f"""
    import sys
    from opkit.fit import FitConfig, fit
    if __name__ == "__main__":
        n, out = int(sys.argv[1]), sys.argv[2]
        fit(FitConfig(data={str(data)!r}, model="fno", out=out, epochs=3, batch_size=4 // n,
                      devices=n, accelerator="cpu", strategy="ddp" if n > 1 else "auto",
                      options={{"hidden_channels": 4, "n_layers": 2}}))
    """
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(code))
    for n in (1, 2):
        run = [sys.executable, str(script), str(n), str(tmp_path / f"run{n}")]
        subprocess.run(run, check=True, timeout=300)
    one, two = ([[float(v) for v in r] for r in history(tmp_path / f"run{n}")[1:]] for n in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_resume_after_sigkill(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = f"""
    import importlib.util, os, signal, sys
    spec = importlib.util.spec_from_file_location("opkit_synthetic", {str(SYNTHETIC)!r})
    module = importlib.util.module_from_spec(spec)
    sys.modules["opkit_synthetic"] = module
    spec.loader.exec_module(module)
    module.register()
    from opkit.fit import FitConfig, fit
    def progress(done, total, note):
        if done == 8:
            os.kill(os.getpid(), signal.SIGKILL)
    fit(FitConfig(data={str(data)!r}, model="tiny", out={str(run)!r}, epochs=4, batch_size=5,
                  lr=1e-2), progress=progress)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert done.stdout == done.stderr == b""  # Lightning keeps silent
    assert checkpoint(run)["epoch"] == 1
    fit(settings(data, run, resume=True))
    assert history(run) == history(whole)
    assert same(load_file(run / "model.safetensors"), load_file(whole / "model.safetensors"))


def test_ctrl_c_keeps_finished_epochs_and_the_handler(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)

    def progress(done: int, total: int, note: str) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="1 finished epochs are kept"):
        fit(settings(data, run), progress=progress)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(history(run)) == 2
    assert load(run).history[0]["step"] == 3


def test_the_global_generator_is_left_alone(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    np_state = np.random.get_state()[1].copy()  # noqa: NPY002  to see it untouched
    state = torch.get_rng_state()
    fit(settings(data, tmp_path / "a", epochs=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], np_state)  # noqa: NPY002
    torch.manual_seed(6)
    fit(settings(data, tmp_path / "b", epochs=1))
    weights = [load_file(tmp_path / r / "model.safetensors") for r in "ab"]
    assert same(*weights)  # and the training does not depend on it
    fit(settings(data, tmp_path / "c", epochs=1, seed=1))
    assert not same(weights[0], load_file(tmp_path / "c" / "model.safetensors"))


def test_workers_and_lazy_reading_change_nothing(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import opkit.data

    monkeypatch.setattr(opkit.data, "MEMORY_FRACTION", 0.0)
    fit(settings(data, tmp_path / "run", num_workers=2))
    assert history(tmp_path / "run") == history(whole)


def test_double_precision_and_accumulation(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    op = fit(settings(data, run, precision="64-true", accumulate=2, epochs=1, gradient_clip=1.0))
    assert {t.dtype for t in load_file(run / "model.safetensors").values()} == {torch.float64}
    assert op.dtype == torch.float64 and op.history[0]["step"] == 2  # 3 batches, 2 steps


def test_mixed_precision_judges_in_full(data: Path, tmp_path: Path) -> None:
    """The loss is not rounded to bfloat16: it is that of the stored weights to 1 %."""
    op = fit(settings(data, tmp_path / "run", precision="bf16-mixed", epochs=2))
    values = [r["valid_rel_l2"] for r in op.history]
    assert all(v != float(torch.tensor(v).bfloat16()) for v in values)
    from pde_data.hdf5 import open_dataset

    x, y = op.task.read(open_dataset(data)["valid"], np.arange(4))
    error = float(op.task.error("l2")(torch.tensor(op(x)), torch.tensor(y)))
    assert error == pytest.approx(min(values), rel=1e-2)


def test_early_stop(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(settings(data, run, patience=2, epochs=50, lr=1e-12, scheduler="constant"))
    rows = [float(r[4]) for r in history(run)[1:]]
    best = int(np.argmin(rows))
    assert len(rows) == best + 3 < 50
    fit(settings(data, run, patience=2, epochs=50, lr=1e-12, scheduler="constant", resume=True))
    assert len(history(run)) == len(rows) + 1


def test_nan_loss_names_the_step_and_keeps_the_last_epoch(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(
        TrainingDiverged, match=r"loss is nan at step 5 \(epoch 2\).*smaller --lr"
    ) as e:
        fit(settings(data, run, model="poisoned", options={"calls": 4}))
    assert "\n" not in str(e.value)
    assert checkpoint(run)["epoch"] == 0 and len(history(run)) == 2
    assert all(torch.isfinite(t).all() for t in load_file(run / "model.safetensors").values())
    with pytest.raises(TrainingDiverged, match="no epoch was finished"):
        fit(settings(data, tmp_path / "first", model="poisoned", options={"calls": 0}))
    assert not (tmp_path / "first").exists()


def test_existing_output(data: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"exists already; use --resume .* --overwrite"):
        fit(settings(data, whole))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    for flag in ("overwrite", "resume"):
        with pytest.raises(UsageError, match="no run of opkit fit"):
            fit(settings(data, tmp_path / "mine", **{flag: True}))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    with pytest.raises(UsageError, match="no run to resume"):
        fit(settings(data, tmp_path / "none", resume=True))
    run = tmp_path / "run"
    fit(settings(data, run, epochs=1))
    fit(settings(data, run, epochs=2, overwrite=True))
    assert len(history(run)) == 3
    fit(settings(data, run, epochs=2, resume=True))  # finished already
    assert len(history(run)) == 3


def test_resume_refuses_other_settings(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(settings(data, run, epochs=1))
    with pytest.raises(UsageError, match=r"epochs 1 -> 2, lr 0.01 -> 0.1"):
        fit(settings(data, run, epochs=2, lr=0.1, resume=True))
    other = synthetic.write(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="the content of the dataset"):
        fit(settings(other, run, epochs=1, resume=True))
    (run / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UsageError, match=r"last.ckpt is damaged"):
        fit(settings(data, run, epochs=1, resume=True))


def test_a_constant_rate_may_go_on_longer(data: Path, tmp_path: Path) -> None:
    kw: dict[str, Any] = dict(scheduler="constant")
    fit(settings(data, tmp_path / "a", epochs=3, **kw))
    fit(settings(data, tmp_path / "b", epochs=1, **kw))
    fit(settings(data, tmp_path / "b", epochs=3, resume=True, **kw))
    assert history(tmp_path / "a") == history(tmp_path / "b")


def test_mistakes_leave_nothing_behind(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        (dict(model="mgnoo"), UnknownNameError, "Did you mean 'mgno'"),
        (dict(options={"widht": 3}), UnknownNameError, "Did you mean 'width'"),
        (dict(data=tmp_path / "nowhere"), FileNotFoundError, "no such file"),
        (
            dict(model="misfit"),
            UsageError,
            r"returns shape \(1, 2, 9, 9\).*expected \(1, 1, 9, 9\)",
        ),
        (dict(strategy="ddpp"), UsageError, "strategy=ddpp"),
    ]
    for change, error, text in cases:
        with pytest.raises(error, match=text) as e:
            fit(settings(**{"data": data, "out": run, **change}))
        assert "\n" not in str(e.value)
        assert not run.exists(), change
    for logger in ("wandb", "tensorboard"):
        if importlib.util.find_spec(logger) is None:
            with pytest.raises(UsageError, match=f"pip install {logger}"):
                fit(settings(data, run, logger=logger))
            assert not run.exists()
    only_train = synthetic.write(tmp_path / "t", n={"train": 3})
    with pytest.raises(UsageError, match=r"no samples in split 'valid'. It has: train 3"):
        fit(settings(only_train, run))


def test_settings_are_checked() -> None:
    from pydantic import ValidationError

    for change in (
        dict(epochs=0), dict(lr=-1.0), dict(lr=float("nan")), dict(batch_size=0), dict(devices=0),
        dict(repeat=0), dict(max_seconds=0), dict(learning_rate=1.0), dict(data=["a", "b"]),
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            settings(**{"data": Path("d"), "out": Path("o"), **change})
    assert FitConfig(data=["d"], model="m", out="o").data == "d"


def test_learning_rate() -> None:
    from opkit._lightning import learning_rate

    for total in (1, 2, 5, 1000):
        for name in ("onecycle", "cosine", "constant"):
            factors = [learning_rate(name, s, total) for s in range(total + 2)]
            assert all(0 < f <= 1 for f in factors)
    assert max(learning_rate("onecycle", s, 1001) for s in range(1001)) == pytest.approx(1)
    assert learning_rate("onecycle", 100, 1001) == pytest.approx(1)
    assert learning_rate("cosine", 1000, 1001) == pytest.approx(1e-3)
    assert learning_rate("cosine", 500, 1001) == pytest.approx(0.5005)


def test_the_loss_sees_physical_units(tmp_path: Path) -> None:
    """Vector output, periodic cells: the trained loss is the metric of the decoded output."""
    from opkit.metrics import relative_error
    from pde_data.hdf5 import open_dataset

    grid = Grid.unit(8, location="cell_center", periodic=True)
    data = synthetic.write(tmp_path / "d", synthetic.schema(grid, vector=True))
    op = fit(settings(data, tmp_path / "run", epochs=1, loss="h1"))
    ds = open_dataset(data)
    x, y = op.task.read(ds["valid"], np.arange(4))
    assert y.shape == (4, 2, 8, 8)
    error = relative_error(op(x), y, grid, kind="h1", components=(2,)).mean()
    assert error == pytest.approx(op.history[0]["valid_loss"], rel=1e-5)
    scale = json.loads((tmp_path / "run" / "normalizer.json").read_text())["output"]["scale"]
    assert scale[0] == scale[1]  # directions are kept


def test_load_names_a_device_that_is_not_there(whole: Path) -> None:
    with pytest.raises(UsageError, match="device='warp'"):
        load(whole, device="warp")


def test_load_refuses_what_is_no_run(whole: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(OperatorError, match="no such run directory"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OperatorError, match=r"operator\.json is missing"):
        load(tmp_path / "empty")

    def broken(name: str, content: bytes | None) -> Path:
        run = tmp_path / "broken"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(content)
        return run

    d = json.loads((whole / "operator.json").read_text())
    cases = [
        ("operator.json", b"{", "operator.json is damaged"),
        ("operator.json", b"[1]", "no JSON object"),
        ("operator.json", json.dumps({**d, "format_version": "2"}).encode(), "format_version 2,"),
        ("operator.json", json.dumps({**d, "format": "x"}).encode(), "not an operator of opkit"),
        ("operator.json", json.dumps({**d, "model": "nope"}).encode(), "unknown model 'nope'"),
        ("operator.json", json.dumps({**d, "fields": {}}).encode(), "operator.json: 'inputs'"),
        ("operator.json", json.dumps({**d, "data": None}).encode(), "'data' is missing"),
        ("operator.json", json.dumps({**d, "options": {"width": 7}}).encode(), "has shape"),
        ("normalizer.json", b'{"input": {}}', "normalizer.json is damaged"),
        ("model.safetensors", None, "finished no epoch"),
        ("model.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!", "is damaged"),
        ("model.safetensors", (whole / "model.safetensors").read_bytes()[:-9], "is damaged"),
    ]  # fmt: skip
    for name, content, text in cases:
        with pytest.raises(OperatorError, match=text) as e:
            load(broken(name, content))
        assert "\n" not in str(e.value)


def test_threads_are_set_for_the_run_alone(data, tmp_path):
    before, seen = torch.get_num_threads(), []
    wanted = before + 1
    fit(
        settings(data, tmp_path / "run", threads=wanted),
        progress=lambda *_: seen.append(torch.get_num_threads()),
    )
    assert set(seen) == {wanted}
    assert torch.get_num_threads() == before
