"""What the DeepONet papers claim, on our own data; trainings by benchmarks/bench_deeponet.py.

Checks of structure that need no training are in tests/models/test_deeponet.py. The trainings here
take minutes to hours on one CPU; results are kept in the directory ``OPKIT_BENCH_WORK`` names, so
that they are not repeated.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "opkit_bench_deeponet", ROOT / "benchmarks" / "bench_deeponet.py"
)
bench: Any = sys.modules.setdefault("opkit_bench_deeponet", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(bench)


def test_floor_of_few_sensors() -> None:
    """The posterior variance against the spec's figures and against a direct computation."""
    known = {2: 1.26e-1, 3: 3.68e-2, 4: 4.58e-3, 5: 6.23e-4, 6: 1.08e-4}
    for m, value in known.items():
        assert bench.posterior_floor(m) == pytest.approx(value, rel=0.01), m
    # draw u on a fine grid, condition on the sensors by linear algebra, integrate by trapezoids
    x = np.linspace(0, 1, 201)
    k = np.exp(-((x[:, None] - x) ** 2) / (2 * 0.2**2))
    weights = np.tril(np.ones((201, 201))) / 200
    weights[np.arange(201), np.arange(201)] /= 2
    weights[:, 0] /= 2
    weights[0] = 0
    at = [0, 67, 133, 200]  # not quite thirds
    post = k - k[:, at] @ np.linalg.solve(k[np.ix_(at, at)], k[at])
    variance = np.einsum("yi,ij,yj->y", weights, post, weights)
    mean = float(np.trapezoid(variance, x))
    assert bench.posterior_floor(4) == pytest.approx(mean, rel=0.03)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("OPKIT_BENCH_WORK") or tmp_path_factory.mktemp("deeponet"))


def result(work: Path, name: str) -> Any:
    """Run an experiment unless its result is there."""
    found = bench.Bench(work, 3, "plain").result(name)
    sys.stdout.write(f"{name} {json.dumps(found)}\n")
    return found


@pytest.mark.slow
def test_sensor_floor(work: Path) -> None:
    """Below the floor would be leakage, far above it wrong sensors."""
    found = result(work, "sensors")
    for m in ("3", "4", "5"):
        assert 0.95 <= found[m]["over_floor"]["median"] <= 1.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "factor"),
    [
        ("generalization_antiderivative", 10),
        ("generalization_gravity_pendulum", 2),
        ("large_nonlinear_ode", 2),
    ],
)
def test_generalization_against_fnn(work: Path, experiment: str, factor: float) -> None:
    """Test error, and a generalization gap of at most a third."""
    found = result(work, experiment)["best_fnn_over_deeponet"]
    assert found["test_mse"] >= factor
    assert found["gap"] >= 3


@pytest.mark.slow
def test_order_in_dataset_size(work: Path) -> None:
    assert result(work, "order")["slope"] <= -1


@pytest.mark.slow
def test_antiderivative_at_the_papers_size(work: Path) -> None:
    """9.27e-7 is the test error of the published demo (README of lululxvi/deeponet)."""
    assert result(work, "paper_antiderivative")["test_mse"] <= 9.27e-7


@pytest.mark.slow
def test_diffusion_reaction(work: Path) -> None:
    found = result(work, "diffusion_reaction")
    ours, *fnns = (
        found[k]["test_rel_l2_median"]["median"] for k in ("deeponet", "fnn", "fnn_components")
    )
    fnn = min(fnns)
    assert ours < 0.10 and ours <= fnn / 2
    assert found["deeponet"]["off_grid_rel_l2_median"]["median"] <= 1.5 * ours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "deeponet", "pod"), [("triangle", 0.0043, 0.0018), ("notch", 0.0264, 0.0100)]
)
def test_fair_comparison(work: Path, data: str, deeponet: float, pod: float) -> None:
    """Relative L2 errors of Lu et al. 2022 on 1,900 samples."""
    assert result(work, data)["test_rel_l2"] <= deeponet
    assert result(work, f"{data}_pod")["test_rel_l2"] <= pod
