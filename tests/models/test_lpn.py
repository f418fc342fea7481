"""Learned proximal networks: the potential, its gradient, convexity, inversion, the loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import build_model
from models.lpn import (
    LPN,
    InversionError,
    ProximalMatching,
    patch_index,
    proximal_matching_loss,
)
from models.spec import DenoisingSpec

F64 = torch.float64

NETS = {
    "mlp": dict(shape=(6,), hidden=20, layers=4),
    "mlp_one_layer": dict(shape=(2, 3), hidden=12, layers=1),
    "conv": dict(shape=(2, 9, 8), arch="conv", hidden=5, layers=4),
    "conv_dense": dict(shape=(1, 8, 8), arch="conv", hidden=4, layers=3, dense=6, kernel_size=5),
    "conv_1d": dict(shape=(1, 17), arch="conv", hidden=6, strides=[2, 3], layers=2),
    "conv_3d": dict(shape=(1, 5, 6, 7), arch="conv", hidden=3, layers=2),
    "patch": dict(shape=(1, 7, 6), arch="patch", patch=4, stride=2, hidden=16),
    "patch_periodic": dict(
        shape=(2, 8, 12), arch="patch", patch=4, stride=2, hidden=16, tiling="periodic"
    ),
}
SETTINGS = list(itertools.product(NETS, ["clip", "softplus"]))


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def build(name: str, *, seed: int = 0, **changes) -> LPN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LPN(**{"init": "balanced", **NETS[name], **changes}).double()


@pytest.mark.parametrize(("name", "positivity"), SETTINGS)
def test_gradient_is_that_of_the_potential(name, positivity):
    net = build(name, positivity=positivity)
    x = rand(3, *net.shape).requires_grad_(True)
    (g,) = torch.autograd.grad(net.potential(x).sum(), x)
    torch.testing.assert_close(net(x), g, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NETS)
def test_training_gradient_by_finite_differences(name):
    net = build(name)
    x, target = rand(2, *net.shape), rand(2, *net.shape, seed=1)
    params = list(net.parameters())
    grads = torch.autograd.grad((net(x) - target).square().sum(), params, allow_unused=True)
    assert [g is None for g in grads].count(True) == 1  # the constant of the potential
    step = 1e-6
    for k, (p, g) in enumerate(zip(params, grads, strict=True)):
        if g is None:
            continue
        direction = rand(*p.shape, seed=k)
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                p += sign * step * direction
                values.append(float((net(x) - target).square().sum()))
                p -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert float((g * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_no_grad_and_inputs_untouched():
    net = build("conv")
    x = rand(2, *net.shape)
    with torch.no_grad():
        y = net(x)
    assert not y.requires_grad and not x.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(net(x), y)
    assert net(x).requires_grad  # to the weights


def test_softplus_has_no_step_where_torch_switches():
    # torch's default leaves a jump of 2e-9 downwards at beta t = 20: not convex
    t = torch.linspace(19.9, 20.1, 2001, dtype=F64)
    slope = F.softplus(t).diff()
    assert float(slope.diff().min()) < -1e-9  # so the threshold matters
    net = LPN((1,), hidden=1, layers=1, beta=10.0, alpha=0.0).double()
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.net.skip[0].weight.fill_(1.0)
        net.net.head.weight.fill_(1.0)
        slope = net.potential((t / 10)[:, None]).diff()
    assert float(slope.diff().min()) > -1e-14


@pytest.mark.parametrize("init", ["exp_normal", "uniform", "balanced"])
@pytest.mark.parametrize("positivity", ["clip", "softplus"])
def test_every_initialization_is_convex_and_differs(init, positivity):
    net = LPN((1, 8, 8), arch="conv", hidden=4, init=init, positivity=positivity)
    assert net.check_convexity() >= 0
    w = net.net.lateral[0].matrix().detach()
    if init == "exp_normal":
        torch.testing.assert_close(w.log().mean(), torch.tensor(-10.0), atol=0.05, rtol=0)
        torch.testing.assert_close(w.log().std(), torch.tensor(0.1), atol=0.02, rtol=0)
    if init == "balanced":
        torch.testing.assert_close(w.flatten(1).sum(1), torch.ones(4))
        assert bool((w[range(4), range(4), 1, 1] > 0.7).all())


def test_balanced_starts_with_mean_eigenvalue_one_half():
    net = build("mlp", alpha=0.0, hidden=60)
    x = rand(200, 6)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: net(v[None])[0]))(x)
    mean = float(jacobian.detach().diagonal(dim1=1, dim2=2).mean())
    assert mean == pytest.approx(0.5, rel=0.25)  # from eight random probes


def test_negative_weights_are_refused_at_load():
    net, other = build("mlp"), build("mlp", seed=1)
    state = {k: v.clone() for k, v in other.state_dict().items()}
    state["net.lateral.1.weight"][0, 0] = -1e-30
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"net\.lateral\.1\.weight has the entry -1e-30"):
        net.load_state_dict(state)
    for k, v in net.state_dict().items():
        torch.testing.assert_close(v, before[k], rtol=0, atol=0)  # nothing was copied
    state["net.lateral.1.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        net.load_state_dict(state)
    wrapped = nn.Sequential(net)
    bad = {f"0.{k}": v for k, v in other.state_dict().items()}
    bad["0.net.head.weight"] = -torch.ones(1, 20, dtype=F64)
    with pytest.raises(ValueError, match=r"0\.net\.head\.weight"):
        wrapped.load_state_dict(bad)
    free = build("mlp", positivity="softplus")
    free.load_state_dict({k: v - 1 for k, v in free.state_dict().items()})
    assert free.check_convexity() > 0


def test_project_and_check():
    net = build("conv")
    with torch.no_grad():
        net.net.lateral[0].weight[0, 0, 0, 0] = -0.5
    with pytest.raises(ValueError, match=r"net\.lateral\.0\.weight has the entry -0\.5"):
        net.check_convexity()
    skip = net.net.skip[0].weight.clone()
    assert net.project_() is net
    assert net.check_convexity() == 0.0
    torch.testing.assert_close(net.net.skip[0].weight, skip)  # free weights are left alone


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["lbfgs", "cg"])
def test_inversion_undoes_the_network(name, method):
    net = build(name)
    y = rand(3, *net.shape)
    x = net(y).detach()
    found = net.invert(x, method=method, tol=1e-7)
    assert bool(found.converged.all())
    residual = (net(found.y) - x).detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(found.residual, residual, rtol=1e-6, atol=1e-12)
    assert float(residual.max()) <= 1e-7 * max(1.0, float(x.flatten(1).norm(dim=1).max()))


def test_inversion_of_single_precision_is_in_double():
    net = build("mlp").float()
    x = net(torch.zeros(2, 6)).detach()
    found = net.invert(x, tol=1e-10, method="cg")
    assert found.y.dtype == F64 and bool(found.converged.all())
    assert net.net.linear.dtype == torch.float32
    assert net.regularizer(x).dtype == F64


def test_a_point_outside_the_range_is_told():
    net = build("mlp", alpha=0.0)  # bounded gradient: f has a bounded range
    far = torch.full((2, 6), 1e3, dtype=F64)
    far[0] = net(torch.zeros(1, 6, dtype=F64)).detach()[0]
    found = net.invert(far, max_iter=100)
    assert found.converged.tolist() == [True, False]
    assert float(found.residual[1]) > 1
    with pytest.raises(InversionError, match=r"1 of 2 points \(the first is number 1\)") as e:
        net.regularizer(far, max_iter=100)
    assert float(e.value.residual[1]) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(beta=0.0), "beta=0.0"),
        (dict(beta=math.inf), "beta=inf"),
        (dict(alpha=-0.1), "alpha=-0.1"),
        (dict(hidden=0), "hidden=0"),
        (dict(layers=0), "layers=0"),
        (dict(arch="cnn"), "cnn"),
        (dict(init="zeros"), "zeros"),
        (dict(positivity="abs"), "abs"),
        (dict(shape=()), "shape"),
        (dict(shape=(4,), arch="conv"), "arch='conv'"),
        (dict(shape=(1, 8), arch="conv", kernel_size=4), "kernel_size=4"),
        (dict(shape=(1, 8), arch="conv", layers=2, strides=[1]), "strides"),
        (dict(shape=(1, 8), arch="patch", patch=6, stride=4), "patch=6"),
        (dict(shape=(1, 10), arch="patch", patch=8, stride=4, tiling="periodic"), "periodic"),
    ],
)
def test_bad_parameters(change, message):
    with pytest.raises(ValueError, match=message):
        LPN(**{"shape": (6,), **change})


def test_bad_inputs():
    net = build("conv")
    with pytest.raises(ValueError, match=r"shape \(2, 9, 8\), expected \(batch, 2, 9, 8\)"):
        net(rand(2, 9, 8))
    with pytest.raises(ValueError, match="not finite"):
        net.invert(torch.full((1, 2, 9, 8), float("nan"), dtype=F64))
    with pytest.raises(ValueError, match="tol=0"):
        net.invert(rand(1, 2, 9, 8), tol=0.0)
    with pytest.raises(ValueError, match="newton"):
        net.invert(rand(1, 2, 9, 8), method="newton")


@pytest.mark.parametrize("tiling", ["zeros", "periodic"])
def test_every_point_lies_in_as_many_patches(tiling):
    index = patch_index((2, 12, 8), 8, 4, tiling)
    counts = torch.bincount(index[index >= 0], minlength=2 * 96)
    assert counts.tolist() == [4] * 192


def test_patches_share_weights_over_sizes():
    net = build("patch")
    larger = net.with_shape((1, 10, 12))
    assert larger.net is net.net and net.shape == (1, 7, 6)
    y = larger(rand(2, 1, 10, 12))
    assert y.shape == (2, 1, 10, 12)
    # far from the border a point sees the same patches
    field = torch.zeros(1, 1, 24, 24, dtype=F64)
    field[..., 8:16, 8:16] = rand(1, 1, 8, 8)
    moved = torch.roll(field, (2, 2), (2, 3))
    whole = net.with_shape((1, 24, 24))
    torch.testing.assert_close(
        torch.roll(whole(field), (2, 2), (2, 3))[..., 6:20, 6:20], whole(moved)[..., 6:20, 6:20]
    )
    with pytest.raises(ValueError, match="tied to shape"):
        build("conv").with_shape((2, 16, 16))
    with pytest.raises(ValueError, match="1 channels"):
        net.with_shape((2, 8, 8))


def test_compiled_and_vectorized():
    net = build("conv")
    x = rand(2, *net.shape)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
    nets = [build("mlp", seed=s) for s in range(3)]
    params, buffers = torch.func.stack_module_state(nets)  # several seeds at once
    x = rand(5, 6)

    def call(p, b):
        return torch.func.functional_call(nets[0], (p, b), (x,))

    together = torch.func.vmap(call)(params, buffers)
    torch.testing.assert_close(together, torch.stack([n(x) for n in nets]))


# -- the loss ------------------------------------------------------------------------------------


def test_loss_by_hand():
    error = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    loss = proximal_matching_loss(error, torch.zeros(2, 2), 10.0, reduction="none")
    torch.testing.assert_close(loss, torch.tensor([1 - math.exp(-0.25), 0.0]))
    mean = proximal_matching_loss(error, torch.zeros(2, 2), 10.0)
    torch.testing.assert_close(mean, loss.mean())
    for gamma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="gamma"):
            proximal_matching_loss(error, error, gamma)
    with pytest.raises(ValueError, match="shape"):
        proximal_matching_loss(error, error[:1], 1.0)


def test_loss_is_that_of_a_whole_sample():
    g = 0.7
    one = proximal_matching_loss(torch.tensor([[3 * g, 0.0]]), torch.zeros(1, 2), g)
    two = torch.full((1, 2), 3 * g / math.sqrt(2))
    torch.testing.assert_close(one, proximal_matching_loss(two, torch.zeros(1, 2), g))
    # a sum over entries would give 2 (1 - exp(-4.5)) for the second
    assert float(one) == pytest.approx(1 - math.exp(-9), rel=1e-6)


def test_schedule():
    s = ProximalMatching(pretrain_steps=100, steps=80)
    gammas = s.gammas(sigma=0.1, n=784)
    # the paper's 0.08 sqrt(n) times 8, 4, 2, 1 at its sigma
    assert gammas == pytest.approx([0.08 * 28 * k for k in (8, 4, 2, 1)])
    assert s.total_steps == 180
    stages = [s.at(k, sigma=0.1, n=784) for k in range(200)]
    assert all(x.gamma is None and x.lr == 1e-3 for x in stages[:100])
    assert [stages[k].gamma for k in (100, 119, 120, 159, 179, 199)] == [
        gammas[0], gammas[0], gammas[1], gammas[2], gammas[3], gammas[3]
    ]  # fmt: skip
    assert all(x.lr == 1e-4 for x in stages[100:])
    assert ProximalMatching(gamma_min=0.1, stages=1).gammas(sigma=3.0, n=5) == (0.1,)
    for bad in (dict(gamma_min=0.0), dict(stages=0), dict(steps=-1), dict(lr=0.0)):
        with pytest.raises(ValueError):
            ProximalMatching(**bad)


# -- registry ------------------------------------------------------------------------------------


def test_registered():
    spec = DenoisingSpec((1, 16, 16), (True, True))
    net, options = build_model("lpn", spec, {"hidden": "4", "layers": "2"})
    assert isinstance(net, LPN) and options["arch"] == "conv" and options["tiling"] == "periodic"
    again, same = build_model("lpn", spec, options)
    assert same == options
    again.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(x), net(x))
    assert build_model("lpn", DenoisingSpec((1, 8, 8), (False, False)))[1]["arch"] == "mlp"
    assert build_model("lpn", DenoisingSpec((1,)))[1]["arch"] == "mlp"


def test_dncnn_is_residual_and_starts_near_the_identity():
    spec = DenoisingSpec((2, 12, 10), (False, False))
    net, _ = build_model("dncnn", spec, {"hidden_channels": 8, "depth": 3})
    x = torch.randn(2, 2, 12, 10, generator=torch.Generator().manual_seed(0))
    assert float((net(x) - x).detach().norm() / x.norm()) < 0.1
    net.zero_grad()
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    torch.testing.assert_close(net(x), x)
    wrapped, _ = build_model("dncnn", DenoisingSpec((1, 9), (True,)), {"depth": 2})
    y = torch.randn(1, 1, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(wrapped(y.roll(3, 2)), wrapped(y).roll(3, 2))  # periodic
    with pytest.raises(ValueError, match="depth=1"):
        build_model("dncnn", spec, {"depth": 1})
    with pytest.raises(ValueError, match="use lpn"):
        build_model("dncnn", DenoisingSpec((1,)))


def test_unet_denoiser_is_residual_and_knows_its_sides():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, _ = build_model(
            "unet_denoiser", DenoisingSpec((2, 9, 12), (False, True)), {"hidden_channels": 4}
        )
    x = torch.randn(3, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(x)
        assert y.shape == x.shape
        assert 0 < float((y - x).abs().max()) < 0.5 * float(x.abs().max())
        # two levels: shifts by two points commute along the periodic axis alone
        moved = net(x.roll(2, 3)).roll(-2, 3)
        assert float((moved - y).abs().max()) < 1e-5
        assert float((net(x.roll(2, 2)).roll(-2, 2) - y).abs().max()) > 1e-4
    net, _ = build_model("unet_denoiser", DenoisingSpec((1, 8), (False,)), {})
    assert net(torch.zeros(1, 1, 8)).shape == (1, 1, 8)
    with pytest.raises(ValueError, match="needs fields on a grid; use lpn"):
        build_model("unet_denoiser", DenoisingSpec((1,)))
