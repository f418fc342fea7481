"""Predictions at many points take no more memory than at few."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import opkit
from opkit.fit import FitConfig, fit
from pde_data.generate import GenerateConfig, generate

#: Prints the growth of the largest resident size, in MiB, over a first small prediction.
SCRIPT = """
import resource, sys
import numpy as np
import torch
from opkit.predict import PredictConfig, predict

torch.set_num_threads(1)
run, data, few, many, out = sys.argv[1:]


def peak(points):
    predict(PredictConfig(run=run, data=data, points=points, out=out, overwrite=True))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before = peak(few)
after = peak(many)
print(before, after)
"""


def growth(tmp_path: Path, n: int, out: str) -> tuple[float, float]:
    generate(
        GenerateConfig(
            problem="antiderivative", out=str(tmp_path / "data"), n=4, n_valid=1, n_test=1,
            params={"n_sensors": 10}, resolution=5, error_fraction=0.0,
        )
    )  # fmt: skip
    fit(
        FitConfig(
            data=str(tmp_path / "data"), model="deeponet", out=str(tmp_path / "run"), epochs=1,
            options={"branch_layers": [8], "trunk_layers": [32], "latent": 16}, threads=1,
        )
    )  # fmt: skip
    rng = np.random.default_rng(0)
    np.save(tmp_path / "few.npy", rng.random((200_000, 1)))
    many = np.lib.format.open_memmap(tmp_path / "many.npy", "w+", np.float64, (n, 1))
    many[:] = rng.random((n, 1))
    many.flush()
    files = [str(tmp_path / f) for f in ("run", "data", "few.npy", "many.npy", out)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files], capture_output=True, text=True, check=True
    )
    before, after = map(float, done.stdout.split())
    return before, after


def check(tmp_path: Path, n: int) -> None:
    before, after = growth(tmp_path, n, "out.npy")
    sys.stdout.write(f"peak {before:.0f} MiB with 200,000 points, {after:.0f} MiB with {n:,}\n")
    assert after - before < 50  # MiB; the points alone are 8 bytes each
    op = opkit.load(tmp_path / "run")
    u = opkit.open_dataset(tmp_path / "data")["test"].read([0], ["u"])["u"]
    got = np.load(tmp_path / "out.npy", mmap_mode="r")
    y = np.load(tmp_path / "many.npy", mmap_mode="r")
    assert got.shape == (1, n)
    for part in (slice(0, 5), slice(n // 2, n // 2 + 5), slice(n - 5, n)):
        np.testing.assert_allclose(got[:, part], op(u, np.array(y[part])), rtol=1e-5, atol=1e-6)


def test_flat_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two million points: 16 MB of coordinates, 256 MB of hidden units if all at once."""
    monkeypatch.chdir(tmp_path)
    check(tmp_path, 2_000_000)


@pytest.mark.slow
def test_ten_million_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(tmp_path, 10_000_000)
