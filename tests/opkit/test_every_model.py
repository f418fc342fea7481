"""Every registered model, trained for one epoch: what `load` gives, and the certificate."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import models
import opkit
from models import list_models, model_options
from opkit.checkpoint import load_json
from opkit.cli import main
from opkit.fit import FitConfig, fit
from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import open_dataset

torch.set_num_threads(1)
#: opkit's own: other tests register models of theirs.
MODELS = {k: m for k, m in list_models().items() if m.factory.startswith("models.")}
#: Small values of options, for models that have them.
SMALL = {
    "hidden_channels": 4, "n_layers": 1, "n_blocks": 1, "hidden": 4, "layers": [8], "width": 8,
    "depth": 2, "branch_layers": [8], "trunk_layers": [8], "modes": 3, "context_size": 2,
}  # fmt: skip
#: Settings by task.
SETTINGS: dict[str, dict[str, Any]] = {
    "denoising": {"batch_size": 4},
    "trajectories": {"repeat": 4, "task": {"horizon": 3, "warmup": 0.5}},
}


def points_data() -> Any:
    """Load the module beside this one, which the tests of the points task share."""
    name = "opkit_points_data"
    if name not in sys.modules:
        source = Path(__file__).with_name("points_data.py")
        spec = importlib.util.spec_from_file_location(name, source)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset for each task."""
    root = tmp_path_factory.mktemp("data")
    generate(
        GenerateConfig(
            problem="darcy", out=root / "darcy", n=6, n_valid=2, n_test=2, resolution=9, seed=1,
            error_fraction=0.0,
        )
    )  # fmt: skip
    generate(
        GenerateConfig(
            problem="ode_families", out=root / "ode", n=6, n_valid=2, n_test=2, resolution=9,
            params={"families": ["harmonic_oscillator"], "n_environments": 2},
        )
    )  # fmt: skip
    write = points_data().write
    return {
        "grid": root / "darcy",
        "denoising": root / "darcy",
        "trajectories": root / "ode",
        "points": write(root / "points", "grid"),
        "mesh": write(root / "mesh", "ragged"),
    }


def options_of(name: str) -> dict[str, Any]:
    known = model_options(MODELS[name])
    small = {k: v for k, v in SMALL.items() if k in known}
    if name == "lpn":
        small |= {"layers": 2, "arch": "conv"}
    return small


@pytest.mark.parametrize("name", sorted(MODELS))
def test_round_trip(name, data, tmp_path, monkeypatch, capsys):
    entry = MODELS[name]
    build, built = models.build_model, []

    def remember(*args: Any, **options: Any) -> Any:
        model, resolved = build(*args, **options)
        built.append(model)
        return model, resolved

    monkeypatch.setattr(models, "build_model", remember)
    config = FitConfig(
        data=data[entry.task], model=name, out=tmp_path / "run", epochs=1, threads=1,
        options=options_of(name), **SETTINGS.get(entry.task, {}),
    )  # fmt: skip
    fit(config)
    trained = built[0].eval()
    op = opkit.load(tmp_path / "run")
    assert op.model is not trained
    state = op.model.state_dict()
    assert list(state) == list(trained.state_dict())
    assert all(torch.equal(v, state[k]) for k, v in trained.state_dict().items())

    # the same errors on unseen samples, to the bit
    split = open_dataset(config.data)["test"]
    batch = op.task.data(split, dtype=torch.float32)[[0, 1]]
    config = FitConfig(**yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()))
    normalizer = op.task.load_normalizer(load_json(tmp_path / "run" / "normalizer.json"))
    found = []
    for model in (trained, op.model):
        with torch.enable_grad():  # the lpn's output is a gradient
            errors = op.task.learner(model, normalizer, config).eval().errors(*batch)
        found.append({k: v.detach() for k, v in errors.items()})
    assert found[0].keys() == found[1].keys()
    for k, v in found[0].items():
        assert bool(torch.isfinite(v).all()) and torch.equal(v, found[1][k]), k

    if entry.task == "grid":
        arguments = ["--no-compare", "--repeats", "1", "--n-solve", "2", "--resolution", "9,17,33"]
        assert main(["evaluate", str(tmp_path / "run"), str(config.data), *arguments]) == 0
        assert f"{name}: " in capsys.readouterr().out
        metrics = tmp_path / "run" / "evaluation" / "test" / "metrics.json"
        facts = json.loads(metrics.read_text())["discretization"]
        assert facts["shapes"] == [[9, 9], [17, 17], [33, 33]]
        assert facts["verdict"] in ("agnostic", "tied to its grid")
        assert all(math.isfinite(v) for v in [*facts["drift"], *facts["error"]])
        assert opkit.discretization_report(tmp_path / "run", resolutions=(9, 17)).drift[0] == 0
