"""The spec's checks of inversion: certificate numbers, fixed points, adjoints, source recovery.

The slow checks train as `benchmarks/bench_inverse.py` does. With its work directory in
OPKIT_BENCH_INVERSE they use the networks trained there, and compute everything else anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from models.lpn import LPN, proximal_matching_loss
from opkit.inverse import LinearForward, fixed_point_residual, pnp_admm, pnp_drs, pnp_pgd
from opkit.inverse.maps import problem_map
from pde_data.problem import get_problem

ROOT = Path(__file__).parents[2]


def tell(numbers: dict) -> None:
    """Show measured numbers (pytest -s)."""
    sys.stdout.write(json.dumps(numbers) + "\n")


def sparse_signals(n: int, generator: torch.Generator) -> torch.Tensor:
    """64 numbers, one in eight not 0."""
    on = torch.rand(n, 64, generator=generator, dtype=torch.float64) < 0.125
    return on * torch.randn(n, 64, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def trained() -> LPN:
    """A proximal network that has learned sparse signals, by proximal matching."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = LPN((64,), hidden=64, layers=2, beta=10.0, alpha=0.05, init="balanced").double()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    sigma = 0.4
    for k in range(300):
        x = sparse_signals(128, generator)
        z = x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        out = net(z)
        loss = (out - x).abs().mean() if k < 200 else proximal_matching_loss(out, x, 16 * sigma)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.project_()
    x = sparse_signals(200, generator)
    noise = sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    with torch.no_grad():
        assert (net(x + noise) - x).square().mean() < 0.6 * noise.square().mean()
    return net


def test_check_5_convergence_certificate(trained: LPN) -> None:
    """Sparse signals, 64 unknowns, 32 rows, 400 steps: no rise above 1e-10, last step 1e-10."""
    rng = np.random.default_rng(1)
    A = rng.standard_normal((32, 64)) / np.sqrt(32)
    x = sparse_signals(4, torch.Generator().manual_seed(5)).numpy()
    y = x @ A.T + 0.05 * rng.standard_normal((4, 32))
    L = float(np.linalg.norm(A, 2)) ** 2
    report = {}
    for name, method, options in (
        ("pgd .5/L", pnp_pgd, {"step": 0.5 / L}),
        ("pgd .99/L", pnp_pgd, {"step": 0.99 / L}),
        ("admm 1.01L", pnp_admm, {"rho": 1.01 * L}),
        ("admm 1.5L", pnp_admm, {"rho": 1.5 * L}),
        ("drs 1.01L", pnp_drs, {"rho": 1.01 * L}),
    ):
        r = method(A, y, trained, max_iter=400, tol=0.0, **options)
        start = 2 if "admm" in name else 0
        rise = float(np.diff(r.objective[start:], axis=0).max())
        again = fixed_point_residual(A, y, trained, r.x, weight=float(r.weight[0])).max()
        report[name] = (rise, float(r.residuals[-1].max()), float(again))
        assert r.certificate.guaranteed and r.certificate.monotone
        assert rise <= 1e-10
        assert r.residuals[-1].max() <= 1e-10
        assert again <= 1e-10
    tell(report)


def test_two_steps_minimize_two_objectives(trained: LPN) -> None:
    """The trap: another step is another weight of the prior."""
    rng = np.random.default_rng(2)
    A = rng.standard_normal((32, 64)) / np.sqrt(32)
    y = rng.standard_normal((2, 64)) @ A.T
    L = float(np.linalg.norm(A, 2)) ** 2
    runs = {f: pnp_pgd(A, y, trained, step=f / L, max_iter=3000, tol=1e-12) for f in (0.3, 0.99)}

    def objective(x: np.ndarray, factor: float) -> np.ndarray:
        R = trained.regularizer(torch.as_tensor(x), tol=1e-9).numpy()
        return 0.5 * np.sum((x @ A.T - y) ** 2, axis=1) + L / factor * R

    for mine, other in ((0.3, 0.99), (0.99, 0.3)):
        assert np.all(objective(runs[mine].x, mine) < objective(runs[other].x, mine))
        values = runs[mine].objective[runs[mine].iterations - 1, np.arange(2)]
        assert np.allclose(values, objective(runs[mine].x, mine), atol=1e-6)


@pytest.mark.parametrize(
    "name", ["deblurring", "compressed_sensing", "tomography", "source_recovery"]
)
def test_adjoint_of_every_operator(name: str) -> None:
    A = problem_map(get_problem(name), (32, 32))
    assert isinstance(A, LinearForward)
    assert A.adjoint_test() <= 1e-10


def test_gradient_of_darcy_sensors() -> None:
    problem = get_problem("darcy_inverse")
    G = problem_map(problem, (33, 33))
    rng = np.random.default_rng(0)
    m = np.log(problem.draw_unknown(rng)(problem.grid((33, 33))))
    assert G.gradient_test(0.5 * m, G(m)) < 1e-5  # type: ignore[union-attr]


# -- the table: trainings of minutes -------------------------------------------------------------


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "bench_inverse", ROOT / "benchmarks" / "bench_inverse.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("OPKIT_BENCH_INVERSE") or tmp_path_factory.mktemp("inverse"))


def table(bench: ModuleType, work: Path, name: str, levels: tuple, methods: tuple) -> list[dict]:
    return [
        bench.cell(work, name, level, seed, method, 1.0)
        for seed in range(3)
        for level in levels
        for method in methods
    ]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_check_8_source_recovery(bench: ModuleType, work: Path) -> None:
    """32 x 32 points, 64 sensors, 1 % noise, three seeds: at most 0.85 of the best baseline."""
    cells = table(bench, work, "source", (0.01,), ("lpn", "tv", "tikhonov"))
    error = {
        m: [c["errors"]["rel_l2"]["mean"] for c in cells if c["method"] == m]
        for m in ("lpn", "tv", "tikhonov")
    }
    best = min(statistics.fmean(error["tv"]), statistics.fmean(error["tikhonov"]))
    tell(error | {"ratio": statistics.fmean(error["lpn"]) / best})
    assert statistics.fmean(error["lpn"]) <= 0.85 * best
    for c in cells:
        if c["method"] == "lpn":
            assert c["certificate"]["convergence"] == "yes" and c["certificate"]["monotone"]
            assert c["diverged"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_digits_at_three_noise_levels(bench: ModuleType, work: Path) -> None:
    """One decibel above TV and Tikhonov, none diverges; the plain denoiser within 0.3 dB."""
    cells = table(bench, work, "digits", bench.DIGITS["levels"], ("lpn", "dncnn", "tv", "tikhonov"))
    for entry in bench.comparison(bench.summary(cells)):
        tell(entry)
        assert entry["gain_db"] >= 1.0
        assert entry["behind_dncnn_db"] <= 0.3
    assert sum(c["diverged"] for c in cells if c["method"] == "lpn") == 0
