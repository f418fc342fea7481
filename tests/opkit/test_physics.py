"""Residuals of the problems' equations vanish for solutions and see what is wrong with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opkit.errors import UsageError
from opkit.fit import FitConfig, fit
from opkit.physics import RESIDUALS, Darcy, DiffusionReaction, derivative, residual_of
from opkit.tasks.points import PointsOptions, PointsTask
from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import open_dataset

PARAMS: dict[str, dict[str, Any]] = {
    "deeponet_diffusion_reaction": {"n_times": 5, "D": 0.02, "k": 0.5},
    "darcy": {"forcing": 2.0, "n_modes": 8},
}
RESOLUTION = {"deeponet_diffusion_reaction": 11, "darcy": 17}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("physics")
    out = {}
    for name in RESIDUALS:
        generate(
            GenerateConfig(
                problem=name, out=str(base / name), n=6, n_valid=2, n_test=2, dtype="float64",
                params=PARAMS.get(name, {"n_sensors": 20}), resolution=RESOLUTION.get(name, 21),
                error_fraction=0.0,
            )
        )  # fmt: skip
        out[name] = base / name
    return out


def task_of(root: Path, **options: Any) -> PointsTask:
    return PointsTask.from_dataset(open_dataset(root), PointsOptions(**options))


def test_derivative_is_that_of_autograd() -> None:
    def f(y: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.sin(3 * y[:, 0]) * y[:, 1], y[:, 0] ** 3 * y[:, 1] ** 2])

    y = torch.rand(7, 2, dtype=torch.float64)
    _, second = derivative(lambda z: derivative(f, z, 0)[1], y, 0)
    expected = torch.stack([-9 * torch.sin(3 * y[:, 0]) * y[:, 1], 6 * y[:, 0] * y[:, 1] ** 2])
    torch.testing.assert_close(second, expected)


#: Solutions s(t) and the forcing u(t) that makes them.
KNOWN = {
    "antiderivative": (lambda t: torch.sin(2 * t), lambda t: 2 * torch.cos(2 * t)),
    "nonlinear_ode": (
        lambda t: torch.sin(2 * t), lambda t: 2 * torch.cos(2 * t) + torch.sin(2 * t) ** 2
    ),
    "gravity_pendulum": (
        lambda t: 1 - torch.cos(t), lambda t: torch.cos(t) + torch.sin(1 - torch.cos(t))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_ode_residuals(roots: dict[str, Path], name: str) -> None:
    residual = residual_of(task_of(roots[name]))
    s, u = KNOWN[name]
    t = torch.as_tensor(residual.line())
    us = (torch.stack([u(t), u(t)]),)

    def solution(_: Any, y: torch.Tensor) -> torch.Tensor:
        return s(y[:, 0]).expand(2, len(y))

    assert float(residual(solution, us).max()) < 1e-24
    wrong = residual(lambda f, y: 1.1 * solution(f, y), us)
    assert float(wrong.min()) > 1e-3


def test_diffusion_reaction_residual(roots: dict[str, Path]) -> None:
    """s = (1 - exp(-t)) sin(pi x) with the source that makes it, at points anywhere."""
    residual = residual_of(task_of(roots["deeponet_diffusion_reaction"]))
    assert isinstance(residual, DiffusionReaction)

    def solution(_: Any, y: torch.Tensor) -> torch.Tensor:
        return ((1 - torch.exp(-y[:, 1])) * torch.sin(torch.pi * y[:, 0]))[None]

    y = torch.rand(50, 2, dtype=torch.float64)
    s = solution(None, y)
    source = torch.exp(-y[:, 1]) * torch.sin(torch.pi * y[:, 0]) + 0.02 * torch.pi**2 * s
    source = source - 0.5 * s**2
    r, _ = residual.at(solution, (), y, source)
    assert float(r.abs().max()) < 1e-12
    r, _ = residual.at(lambda f, z: 1.01 * solution(f, z), (), y, source)
    assert float(r.abs().max()) > 1e-3


def test_darcy_residual_is_the_equation_the_data_were_solved_from(roots: dict[str, Path]) -> None:
    task = task_of(roots["darcy"])
    residual = residual_of(task)
    assert isinstance(residual, Darcy)
    values = open_dataset(roots["darcy"])["train"].read(range(6))
    a, u = (torch.as_tensor(values[k]) for k in ("a", "u"))
    r, f = residual.balance(a, u)
    assert float(f.unique()) == 2.0
    assert float(r.abs().max()) < 1e-6
    shuffled, _ = residual.balance(a.roll(1, 0), u)
    assert float(shuffled.abs().max()) > 1e-2
    order = []

    def solution(us: Any, y: torch.Tensor) -> torch.Tensor:
        order.append(y)
        return u.flatten(1)

    assert float(residual(solution, (a.flatten(1),)).max()) < 1e-12
    np.testing.assert_allclose(order[0].numpy(), task.shared.points)


@pytest.mark.parametrize("name", RESIDUALS)
def test_training_without_outputs(roots: dict[str, Path], tmp_path: Path, name: str) -> None:
    """By physics alone the residual goes down, and the data are not looked at."""
    config = FitConfig(
        data=str(roots[name]), model="deeponet", out=str(tmp_path / "run"), epochs=3, repeat=25,
        batch_size=6, lr=5e-3, threads=1, task={"physics": 1.0, "data_weight": 0.0},
        options={"branch_layers": [24], "trunk_layers": [24], "latent": 16, "branch": "mlp"},
    )  # fmt: skip
    rows = fit(config).history
    assert rows[-1]["train_loss"] < 0.5  # zero everywhere has 1


def test_labels_play_no_part_without_data_weight(roots: dict[str, Path]) -> None:
    from models import build_model

    root = roots["antiderivative"]
    task = task_of(root, physics=1.0, data_weight=0.0)
    split = open_dataset(root)["train"]
    model, _ = build_model("deeponet", task.spec(), {"latent": 4})
    config = FitConfig(data=str(root), model="deeponet", out="x", loss="mse")
    learner = task.learner(model, task.fit_normalizer(split), config)
    u, s, w = task.data(split, dtype=torch.float32)[[0, 1]]
    torch.testing.assert_close(learner.losses(u, s, w), learner.losses(u, s + 100, w))


def test_refusals(roots: dict[str, Path], tmp_path: Path) -> None:
    generate(
        GenerateConfig(
            problem="darcy", out=str(tmp_path / "d"), n=2, n_valid=1, n_test=1, resolution=9,
            params={"boundary": "neumann"}, error_fraction=0.0,
        )
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"boundary='neumann'.*'dirichlet'"):
        task_of(tmp_path / "d", physics=1.0)
    config = FitConfig(
        data=str(roots["gravity_pendulum"]), model="deeponet", out=str(tmp_path / "run"),
        task={"physics": 1.0}, options={"activation": "relu"},
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"relu.*second derivatives"):
        fit(config)
