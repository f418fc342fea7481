"""Acceptance of learned proximal networks (the model half): structure, priors, patches.

The slow checks train as `benchmarks/bench_lpn.py` does. With its work directory in OPKIT_BENCH_LPN
they use the networks trained there, and compute everything else anew.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.denoisers import DnCNN
from models.lpn import LPN, patch_index, proximal_matching_loss

F64 = torch.float64
KINDS = {
    "mlp": dict(shape=(12,), hidden=32, layers=4, alpha=0.05),
    "conv": dict(shape=(1, 6, 6), arch="conv", hidden=6, layers=3, alpha=0.05),
}
STATES = ("random", "one_step", "trained", "loaded")


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def train(net: LPN, steps: int, *, lr: float = 1e-2) -> None:
    """Denoise blocky signals; convexity is checked after every step."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(net.parameters()).dtype
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        clean = torch.randn(8, *net.shape, generator=generator, dtype=dtype).sign()
        noisy = clean + 0.5 * torch.randn(clean.shape, generator=generator, dtype=dtype)
        optimizer.zero_grad()
        (net(noisy) - clean).abs().mean().backward()
        optimizer.step()
        net.project_()
        assert net.check_convexity() >= 0.0


def build(kind: str, state: str = "random", *, positivity: str = "clip") -> LPN:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = LPN(**KINDS[kind], init="balanced", positivity=positivity).double()
        if state != "random":
            train(net, 1 if state == "one_step" else 60)
        if state == "loaded":
            other = LPN(**KINDS[kind], init="uniform", positivity=positivity).double()
            other.load_state_dict(net.state_dict())
            net = other
    return net


def jacobians(f: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(batch, n, n)"""
    n = x[0].numel()
    j = torch.func.vmap(torch.func.jacrev(lambda v: f(v[None])[0].flatten()))(x)
    return j.detach().reshape(len(x), n, n)


def asymmetry(j: torch.Tensor) -> float:
    return float((j - j.mT).abs().max() / j.abs().max())


# -- 1: exact structure --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "state"), list(itertools.product(KINDS, STATES)))
@pytest.mark.parametrize("positivity", ["clip", "softplus"])
def test_1_jacobian_is_symmetric_and_at_least_alpha(kind, state, positivity):
    net = build(kind, state, positivity=positivity)
    j = jacobians(net, 2 * rand(10, *net.shape))
    assert asymmetry(j) <= 1e-12
    assert float(torch.linalg.eigvalsh(0.5 * (j + j.mT)).min()) >= net.alpha - 1e-10
    if state in ("trained", "loaded"):
        # it is no trivial map: some directions are damped, in others it is expansive or nearly so
        e = torch.linalg.eigvalsh(j)
        assert float(e.min()) < 0.3 and float(e.max()) > 0.9


@pytest.mark.parametrize(("kind", "state"), list(itertools.product(KINDS, STATES)))
def test_1_strongly_monotone_and_convex(kind, state):
    net = build(kind, state)
    x, y = 3 * rand(1000, *net.shape), 3 * rand(1000, *net.shape, seed=1)
    with torch.no_grad():
        inner = ((net(x) - net(y)) * (x - y)).flatten(1).sum(1)
        distance = (x - y).flatten(1).square().sum(1)
        assert bool((inner >= net.alpha * distance * (1 - 1e-12)).all())
        middle = net.potential(0.5 * (x + y))
        chord = 0.5 * (net.potential(x) + net.potential(y))
        # strong convexity; the rest is rounding
        assert bool((middle <= chord - net.alpha / 8 * distance + 1e-12 * chord.abs()).all())


def test_1_convex_in_single_precision_after_every_step():
    for kind in KINDS:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = LPN(**KINDS[kind], init="balanced")
            train(net, 40)  # checks after every step
        j = jacobians(net.double(), rand(4, *net.shape))
        assert asymmetry(j) <= 1e-12
        assert float(torch.linalg.eigvalsh(j).min()) >= net.alpha - 1e-7  # alpha in float32


def test_1_a_step_without_projection_is_noticed():
    net = build("mlp")
    optimizer = torch.optim.SGD(net.parameters(), lr=100.0)
    net(rand(4, 12)).square().sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="project_"):
        net.check_convexity()
    assert net.project_().check_convexity() == 0.0


@pytest.mark.parametrize("which", ["dncnn", "residual"])
def test_1_other_denoisers_fail(which):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if which == "dncnn":
            net: nn.Module = DnCNN(1, 2, hidden_channels=8, depth=3).double()
            with torch.no_grad():  # as large as after training
                net.net[-1].weight.mul_(10)
        else:
            inner = nn.Sequential(nn.Linear(64, 32), nn.Softplus(), nn.Linear(32, 64)).double()

            class Residual(nn.Module):
                def forward(self, x):
                    return x - inner(x.flatten(1)).reshape(x.shape)

            net = Residual()
        assert asymmetry(jacobians(net, rand(4, 1, 8, 8))) > 1e-2


# -- 2: it is the proximal operator of R ---------------------------------------------------------


@pytest.mark.parametrize(("kind", "state"), list(itertools.product(KINDS, ["random", "trained"])))
def test_2_variational_characterization(kind, state):
    net = build(kind, state)
    z = rand(3, *net.shape)
    with torch.no_grad():
        x, r = net.prox_and_regularizer(z)
    inverse = net.invert(x, method="cg", tol=1e-8)
    assert float(inverse.residual.max()) <= 1e-6
    torch.testing.assert_close(net.regularizer(x, tol=1e-7), r, rtol=0, atol=1e-6)
    for k in range(2):
        # outputs of the network, so that R is known without inversion, and points nearby
        with torch.no_grad():
            images, r_images = net.prox_and_regularizer(z[k] + rand(100, *net.shape, seed=k))
        v = x[k] + 0.02 * rand(100, *net.shape, seed=10 + k)
        inverse = net.invert(v, method="cg", tol=1e-7)
        assert float(inverse.residual.max()) <= 1e-6
        with torch.no_grad():
            y = inverse.y
            r_near = (v * y).flatten(1).sum(1) - 0.5 * v.flatten(1).square().sum(1)
            r_near = r_near - net.potential(y)
        points, values = torch.cat([images, v]), torch.cat([r_images, r_near])
        best = 0.5 * (x[k] - z[k]).square().sum() + r[k]
        others = 0.5 * (points - z[k]).flatten(1).square().sum(1) + values
        assert bool((others >= best - 1e-9).all())


@pytest.mark.parametrize("kind", KINDS)
def test_2_batched_equals_one_by_one(kind):
    net = build(kind, "trained")
    x = rand(7, *net.shape)
    with torch.no_grad():
        images = net(x)
    for method in ("lbfgs", "cg"):
        together = net.regularizer(images, method=method, tol=1e-8)
        for n in (1, 2):
            parts = [net.regularizer(p, method=method, tol=1e-8) for p in images.split(n)]
            torch.testing.assert_close(torch.cat(parts), together, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        one = torch.cat([net(p) for p in x.split(1)])
        torch.testing.assert_close(one, images, rtol=1e-12, atol=1e-13)
        one = torch.cat([net.potential(p) for p in x.split(2)])
        torch.testing.assert_close(one, net.potential(x), rtol=1e-12, atol=1e-13)


# -- 4: the norm is that of a sample --------------------------------------------------------------


def test_4_norm_over_the_sample():
    gamma = 0.3
    zero = torch.zeros(1, 2, dtype=F64)
    one = proximal_matching_loss(torch.tensor([[3 * gamma, 0.0]], dtype=F64), zero, gamma)
    both = torch.full((1, 2), 3 * gamma / np.sqrt(2), dtype=F64)
    assert float(one) == pytest.approx(float(proximal_matching_loss(both, zero, gamma)), rel=1e-12)
    entries = [
        float((1 - torch.exp(-(e**2) / gamma**2)).sum())
        for e in (torch.tensor([3 * gamma, 0.0]), both)
    ]
    assert abs(entries[0] - entries[1]) > 0.5  # a loss by entries tells them apart


# -- 7: patches ----------------------------------------------------------------------------------


def border_average(net: LPN, shape: tuple[int, ...], patch: int, stride: int) -> nn.Module:
    """Mean over whole patches alone, divided by how many there are: fewer at the border."""
    index = patch_index(shape, patch, stride, "zeros")
    index = index[(index >= 0).all(1)]
    n = int(np.prod(shape))
    counts = torch.bincount(index.flatten(), minlength=n)
    assert counts.min() < counts.max()

    class Naive(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            _, g = net.net(flat[:, index].reshape(-1, index.shape[1]), value=False, gradient=True)
            g = g.reshape(len(x), -1)
            total = torch.zeros_like(flat).index_add(1, index.flatten(), g)
            return (total / counts).reshape(x.shape)

    return Naive()


@pytest.mark.parametrize("tiling", ["zeros", "periodic"])
def test_7_patches(tiling):
    shape = (1, 24, 24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = LPN(
            shape, arch="patch", patch=8, stride=4, hidden=24, layers=2, init="balanced",
            tiling=tiling,
        ).double()  # fmt: skip
    x = rand(1, *shape)
    j = jacobians(net, x)
    assert asymmetry(j) <= 1e-12
    assert float(torch.linalg.eigvalsh(j).min()) >= net.alpha - 1e-10
    assert asymmetry(jacobians(border_average(net, shape, 8, 4), x)) > 1e-2


# -- 3, 4, 6: trainings --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bench():
    path = Path(__file__).parents[2] / "benchmarks" / "bench_lpn.py"
    spec = importlib.util.spec_from_file_location("bench_lpn", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_lpn"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return Path(os.environ.get("OPKIT_BENCH_LPN") or tmp_path_factory.mktemp("lpn"))


def test_3_quadrature_is_that_of_the_spec(bench):
    y = np.array([0.5, 1.0, 1.5, 2.0])
    table = {
        ("l2", 0.0): [0.2410, 0.5032, 0.8056, 1.1611],
        ("l1", 0.0): [0.1900, 0.4287, 0.7324, 1.1066],
        ("pm", 0.5): [0.1402, 0.3106, 0.5716, 1.0022],
        ("pm", 0.3): [0.1015, 0.2349, 0.5121, 1.0000],
        ("pm", 0.1): [0.0421, 0.1110, 0.5000, 1.0000],
    }
    for (loss, gamma), values in table.items():
        found = bench.exact(y, bench.laplace_density, 1.0, loss, gamma)
        np.testing.assert_allclose(found, values, atol=3e-3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_3_proximal_matching_finds_the_prior(bench, work, seed):
    runs = {k: bench.laplace(work, seed, k) for k in ("proximal_matching", "l2", "l1")}
    sys.stdout.write(f"{runs}\n")
    ours, square, absolute = runs.values()
    assert ours["rms_to_soft"] <= 0.12
    assert ours["rms_to_soft"] <= 0.6 * square["rms_to_soft"]
    assert square["rms_to_exact"] <= 0.03 and absolute["rms_to_exact"] <= 0.03
    assert 0.85 <= ours["prior"]["1.0"] <= 1.1
    assert 0.40 <= square["prior"]["1.0"] <= 0.52


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_4_finite_gamma(bench, work):
    run = bench.laplace(work, 0, "proximal_matching", task={"gamma": 0.5, "stages": 3}, epochs=12)
    sys.stdout.write(f"{run}\n")
    assert run["f"]["1"] == pytest.approx(0.31, abs=0.06)
    assert run["f"]["2"] == pytest.approx(1.00, abs=0.06)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_4_mixture(bench, work):
    run = bench.mixture(work, 0)
    sys.stdout.write(f"{run}\n")
    assert run["largest_slope_between"] > 1
    assert run["prior_at_0_above_modes"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_6_prior_on_digits(bench, work):
    run = bench.digits(work, 0)
    sys.stdout.write(f"{run}\n")
    assert run["n"] == 100
    assert all(np.diff(run["mean_rise"]) > 0)
    assert min(run["higher_than_clean"]) >= 95
    assert run["psnr"] > run["psnr_noisy"] + 1.5
