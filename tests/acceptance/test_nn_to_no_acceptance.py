"""The checks of the NN-to-NO specification, section 5, by number; figures are printed."""

# ruff: noqa: T201

from __future__ import annotations

import importlib.util
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.nn_to_no import (
    FiniteDifferenceConv,
    GraphIntegral,
    InputOutputInterpolation,
    KernelConv1d,
    KernelConv2d,
    OperatorTransformer,
    discretization_error,
    find_neighbors,
    grid,
    kernel_symbol,
    observed_order,
    quadrature_attention,
    quadrature_weights,
    to_operator,
)
from models.nn_to_no.networks import CNN, MLP, ResNet, UNet, ViT
from models.nn_to_no.norms import WeightedGroupNorm
from solvers.grids import Grid


@pytest.fixture(autouse=True)
def _no_gradients(request):
    with torch.set_grad_enabled("slow" in request.keywords):
        yield


def double(module: nn.Module, *, biases: bool = True) -> nn.Module:
    """Float64; without biases, which would make a constant the largest part of the output."""
    module = module.double()
    if not biases:
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name.endswith("bias"):
                    p.zero_()
    return module


def waves(x, y):
    """At most three waves."""
    return np.sin(2 * np.pi * x) * np.cos(4 * np.pi * y) + 0.5 * np.cos(6 * np.pi * (x + y))


# -- 1. identity at the reference ----------------------------------------------------------------


def plain_cnn(mode: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, padding_mode=mode), nn.GELU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, padding_mode=mode), nn.BatchNorm2d(8),
        nn.ReLU(), nn.Conv2d(8, 8, 5, padding="same", padding_mode=mode), nn.Tanh(),
        nn.Conv2d(8, 1, 1),
    )  # fmt: skip


class PlainUNet(nn.Module):
    """With pooling, transposed convolutions, group norm; strided convolutions on the way."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1, padding_mode=mode)
        self.norm = nn.GroupNorm(2, 8)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1, padding_mode=mode)
        self.pool = nn.MaxPool2d(2)
        self.middle = nn.Conv2d(16, 16, 3, padding=1, padding_mode=mode)
        self.up1 = nn.Upsample(scale_factor=2, mode="nearest")
        self.up2 = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 1, 3, padding=1, padding_mode=mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.norm(self.first(x)))
        b = self.up1(torch.relu(self.middle(self.pool(self.down(a)))))
        return self.last(torch.cat([a, self.up2(b)], 1))


class Tied(nn.Module):
    """One convolution called twice, at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
        self.again = self.conv
        self.pool = nn.AvgPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv(x))
        return x + self.up(self.again(self.pool(x)))


REFERENCE = grid((32, 32), layout="periodic")
NETWORKS = {
    **{f"cnn-{m}": (lambda m=m: plain_cnn(m))
       for m in ("zeros", "circular", "reflect", "replicate")},
    **{f"unet-{m}": (lambda m=m: PlainUNet(m)) for m in ("zeros", "circular")},
    "tied": Tied,
    "resnet": lambda: ResNet(2, 1, grid=REFERENCE, hidden_channels=6, norm=True),
    "mlp": lambda: MLP(2, 1, grid=REFERENCE, hidden_channels=16),
    "vit": lambda: ViT(2, 1, grid=REFERENCE, hidden_channels=16, n_layers=2),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", ["periodic", "cell", "vertex"])
def test_1_identity_at_the_reference(name, layout):
    torch.manual_seed(0)
    net = double(NETWORKS[name]()).eval()
    x = torch.randn(2, 2, 32, 32, dtype=torch.float64)
    reference = grid((32, 32), layout=layout)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    op = to_operator(net, reference=reference, rule="uniform")
    difference = float((op(x) - net(x)).abs().max())
    assert difference <= 1e-11
    assert list(op.state_dict()) == list(net.state_dict())
    op.load_state_dict(net.state_dict())
    net.load_state_dict(op.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(r.exact for r in op.report())
    # parameters are shared where they were
    assert len(list(op.parameters())) == len(list(net.parameters()))


def test_1_identity_of_a_graph_network():
    """A radius graph network: mean over neighbors; uniform weights make the integral the mean."""
    torch.manual_seed(0)
    points = torch.as_tensor(np.stack(grid((12, 12), layout="cell").meshgrid(), -1)).reshape(-1, 2)
    edges = find_neighbors(points, 0.2)
    kernel = nn.Sequential(nn.Linear(2 + 3 + 3, 8), nn.GELU(), nn.Linear(8, 3)).double()
    f = torch.randn(1, len(points), 3, dtype=torch.float64)
    integral = GraphIntegral(kernel, 0.2, taper=False)
    got = integral(f, points, torch.full((len(points),), 1 / 144, dtype=torch.float64), edges)
    i, j = edges.source, edges.target
    z = (points[i] - points[j])[None] / 0.2
    messages = kernel(torch.cat([z, f[:, i], f[:, j]], -1))
    plain = torch.zeros(1, len(points), 3, dtype=torch.float64).index_add(1, j, messages)
    plain = plain / torch.bincount(j)[None, :, None]
    assert float((got - plain).abs().max()) <= 1e-11


# -- 2. exact symbol -----------------------------------------------------------------------------


def repository_taps(weight: torch.Tensor, s: int) -> torch.Tensor:
    """NNs-to-NOs: s (k - 1) + 1 taps by torch's interpolate, over the ratio of their numbers."""
    k = weight.shape[-1]
    dim = weight.ndim - 2
    size = (s * (k - 1) + 1,) * dim
    mode = {1: "linear", 2: "bilinear"}[dim]
    big = nn.functional.interpolate(weight, size=size, mode=mode, align_corners=False)
    return big * (k / size[0]) ** dim


@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_2_exact_symbol(k, dim, interpolation):
    torch.manual_seed(k)
    reference = grid((32,) * dim, layout="periodic")
    kind = {1: KernelConv1d, 2: KernelConv2d}[dim]
    conv = kind(
        1, 1, k, padding=k // 2, padding_mode="circular", bias=False, reference=reference,
        interpolation=interpolation,
    ).double()  # fmt: skip
    w = conv.weight.detach()
    wave = (4, 3)[:dim]  # a quarter of the reference's Nyquist number is 4
    symbol = kernel_symbol(w[0, 0].numpy(), reference.spacing, wave)
    if interpolation == "cubic":
        from models.nn_to_no.kernels import basis

        # the transform of the cubic, by quadrature, in place of sinc^2
        t = np.linspace(-2, 2, 200_001)
        for kd in wave:
            exact = np.trapezoid(basis(t, "cubic") * np.cos(2 * np.pi * kd / 32 * t), t)
            symbol = symbol / np.sinc(kd / 32) ** 2 * exact
    errors, plain, repository = [], [], []
    scales = (1, 2, 4, 8)
    for s in scales:
        g = reference.refined(s)
        phase = 2 * np.pi * sum(a * x for a, x in zip(wave, g.meshgrid(), strict=True))
        exact = symbol * np.exp(1j * phase)

        def error(apply, phase=phase, exact=exact):
            real, imaginary = (
                apply(torch.as_tensor(f(phase))[None, None])[0, 0].detach().numpy()
                for f in (np.cos, np.sin)
            )
            return float(np.abs(real + 1j * imaginary - exact).max() / w.abs().sum())

        errors.append(error(conv))
        fixed = [nn.functional.conv1d, nn.functional.conv2d][dim - 1]

        def fixed_taps(x, taps, fixed=fixed):
            left, right = (taps.shape[-1] - 1) // 2, taps.shape[-1] // 2
            return fixed(nn.functional.pad(x, (left, right) * dim, mode="circular"), taps)

        plain.append(error(lambda x: fixed_taps(x, w)))
        repository.append(error(lambda x, s=s: fixed_taps(x, repository_taps(w, s))))
    slope = observed_order([1 / s for s in scales], errors)
    print(f"k={k} dim={dim} {interpolation}: {errors}, order {slope:.2f}")
    assert slope >= 1.9
    if interpolation == "linear":
        # fixed taps tend to the sum of the weights, away from the symbol
        total = abs(float(w.sum()) - symbol) / float(w.abs().sum())
        assert abs(plain[-1] - total) < 0.3 * max(total, 0.05) + 0.05
        assert plain[-1] > 10 * errors[-1]
        assert observed_order([1 / s for s in scales], repository) < 1.5


def test_2_fixed_taps_stay_away():
    """A derivative's taps, which a fixed stencil loses: at least 0.3 away at every scale."""
    reference = grid(32, layout="periodic")
    conv = KernelConv1d(
        1, 1, 3, padding=1, padding_mode="circular", bias=False, reference=reference
    ).double()
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[-1.0, 0.0, 1.0]]]))
    k = 4.0
    symbol = kernel_symbol(conv.weight.detach().numpy()[0, 0], reference.spacing, (k,))
    for s in (2, 4, 8):
        x = reference.refined(s).coords[0]
        f = torch.as_tensor(np.exp(2j * np.pi * k * x))
        plain = torch.roll(f, -1) - torch.roll(f, 1)
        ours = conv(f.real[None, None])[0, 0] + 1j * conv(f.imag[None, None])[0, 0]
        truth = torch.as_tensor(symbol) * f
        assert float((plain - truth).abs().max()) >= 0.3
        assert float((ours - truth).abs().max()) <= 0.06 / s**2 * 4


# -- 3. whole networks ---------------------------------------------------------------------------

FIELD_NETWORKS = {
    "cnn": lambda g, walls: CNN(
        1, 1, grid=g, hidden_channels=4, n_layers=3, kernel_size=3, coordinates=False, walls=walls
    ),
    "resnet": lambda g, walls: ResNet(
        1, 1, grid=g, hidden_channels=4, n_blocks=2, kernel_size=3, coordinates=False, walls=walls,
    ),
    "unet": lambda g, walls: UNet(
        1, 1, grid=g, hidden_channels=4, n_levels=2, coordinates=False, walls=walls
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELD_NETWORKS)
@pytest.mark.parametrize(
    ("layout", "walls", "order", "interpolation"),
    [
        ("periodic", "replicate", 1.8, "linear"),
        ("periodic", "replicate", 1.8, "cubic"),
        ("cell", "replicate", 1.8, "cubic"),
        ("vertex", "replicate", 1.8, "cubic"),
        ("cell", "zeros", 0.9, "cubic"),
        ("vertex", "zeros", 0.9, "cubic"),
    ],
)
def test_3_networks_converge_to_what_they_are(name, layout, walls, order, interpolation):
    torch.manual_seed(0)
    n = 33 if layout == "vertex" else 32
    reference = grid((n, n), layout=layout)
    net = double(FIELD_NETWORKS[name](reference, walls), biases=False)
    op = to_operator(net, reference=reference, interpolation=interpolation)
    grids = [reference.refined(s) for s in (1, 2, 4, 8)]
    table = discretization_error(op, waves, grids, reference)
    print(name, layout, walls, interpolation, table.observed_order, table.drift)
    assert table.observed_order >= order
    assert max(table.drift) <= 0.2
    # other ratios, and axes of their own
    others = [(48, 48), (40, 56)] if layout != "vertex" else [(49, 49), (41, 57)]
    table = discretization_error(op, waves, [reference.resized(s) for s in others], reference)
    assert max(table.drift) <= 0.2
    if layout == "periodic":
        plain = discretization_error(net, waves, grids, reference)
        print("plain", plain.drift)
        # a network converges too, to something else
        assert plain.drift[-1] >= 3 * max(table.drift)


def test_3_a_plain_cnn_drifts():
    """Larger kernels: what the network computes at eight times the points is another function."""
    torch.manual_seed(0)
    net = double(
        CNN(1, 1, grid=REFERENCE, hidden_channels=4, n_layers=3, kernel_size=7, coordinates=False),
        biases=False,
    )
    grids = [REFERENCE.refined(s) for s in (1, 2, 4)]
    plain = discretization_error(net, waves, grids, REFERENCE)
    ours = discretization_error(to_operator(net, reference=REFERENCE), waves, grids, REFERENCE)
    print(plain.drift, ours.drift)
    assert min(plain.drift[1:]) >= 0.5
    assert max(ours.drift) <= 0.2


class PixelViT(nn.Module):
    """The negative example: patches of so many pixels, positions interpolated."""

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.vit
        y = v.embed(x)
        c = y.shape[1]
        table = v.position.transpose(1, 2).reshape(1, c, 8, 8)
        table = nn.functional.interpolate(table, size=y.shape[2:], mode="bilinear")
        tokens = v.layers(y.flatten(2).transpose(1, 2) + table.flatten(2).transpose(1, 2))
        return v.expand(v.norm(tokens).transpose(1, 2).unflatten(2, y.shape[2:]))


@pytest.mark.parametrize("layout", ["periodic", "cell"])
def test_3_vision_transformer(layout):
    torch.manual_seed(0)
    reference = grid((32, 32), layout=layout)
    vit = double(ViT(1, 1, grid=reference, hidden_channels=32, n_layers=2)).eval()
    op = to_operator(vit, reference=reference)
    at_home = op(torch.as_tensor(waves(*reference.meshgrid()))[None, None])
    errors, drift, pixel = [], [], []
    outputs = []
    scales = (1, 2, 4, 8)
    for s in scales:
        g = reference.refined(s)
        f = torch.as_tensor(waves(*g.meshgrid()))[None, None]
        with torch.no_grad():
            outputs.append(op(f, query=reference))
            if s in (2, 4):
                step = PixelViT(vit)(f)[..., ::s, ::s]
                pixel.append(float((step - at_home).norm() / at_home.norm()))
        drift.append(float((outputs[-1] - at_home).norm() / at_home.norm()))
    errors = [float((u - outputs[-1]).norm() / outputs[-1].norm()) for u in outputs]
    order = observed_order([1 / s for s in scales], errors)
    print(layout, errors, order, drift, pixel)
    assert order >= 1.8 and max(drift) <= 0.2
    assert min(pixel) >= 3 * max(drift)
    # other ratios
    for shape in ((48, 48), (40, 56)):
        g = reference.resized(shape)
        f = torch.as_tensor(waves(*g.meshgrid()))[None, None]
        there = op(f, query=reference)
        assert float((there - at_home).norm() / at_home.norm()) <= 0.2


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@pytest.mark.parametrize("layout", ["periodic", "cell", "vertex"])
def test_3_transformer(kind, layout):
    torch.manual_seed(0)
    n = 9 if layout == "vertex" else 8
    reference = grid((n, n), layout=layout)
    op = double(
        OperatorTransformer(
            1, 1, reference=reference, hidden_channels=16, n_layers=2, n_heads=2, kind=kind
        )
    )
    grids = [reference.refined(s) for s in (1, 2, 4, 8)]
    table = discretization_error(
        op, lambda x, y: np.sin(2 * np.pi * x) + np.cos(2 * np.pi * y), grids, grids[1]
    )
    print(kind, layout, table)
    errors = table.error
    if max(errors) > 1e-9:  # trapezoids of few waves on periodic grids are exact
        assert table.observed_order >= 1.8
    assert max(table.drift) <= 0.2


def test_3_transformer_encoder_of_torch():
    """torch's own encoder on points of a vertex grid: the converted one is of second order."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
    net = double(nn.Sequential(nn.Linear(2, 16), layer, layer, nn.Linear(16, 1))).eval()
    reference = grid(17)
    op = to_operator(net, reference=reference, example=(17, 2))

    def tokens(n: int) -> torch.Tensor:
        x = np.linspace(0, 1, n)
        return torch.as_tensor(np.stack([np.exp(x), np.cos(3 * x)], -1))[None]

    with torch.no_grad():
        outputs = {n: op(tokens(n))[0, :: (n - 1) // 16] for n in (17, 33, 65, 129, 1025)}
        plain = {n: net(tokens(n))[0, :: (n - 1) // 16] for n in (17, 33, 65, 129, 1025)}
        uniform = to_operator(net, reference=reference, example=(17, 2), rule="uniform")
        assert float((uniform(tokens(17)) - net(tokens(17))).abs().max()) <= 1e-11

    def order(found):
        errors = [float((found[n] - outputs[1025]).abs().max()) for n in (17, 33, 65, 129)]
        return observed_order([1 / (n - 1) for n in (17, 33, 65, 129)], errors)

    print(order(outputs), order(plain))
    assert order(outputs) >= 1.8 and order(plain) <= 1.2


# -- 4. quadrature -------------------------------------------------------------------------------


def attention_at(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Softmax attention of smooth keys and values at three fixed queries."""
    q = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-1.0, 1.0]], dtype=torch.float64)
    k = torch.stack([torch.sin(3 * x), x**2], -1)
    v = torch.stack([torch.exp(x), torch.cos(5 * x)], -1)
    return quadrature_attention(q, k, v, w)


def trapezoid(x: np.ndarray) -> np.ndarray:
    return quadrature_weights(x[:, None])


def test_4_attention_on_grids():
    fine = np.linspace(0, 1, 200_001)
    truth = attention_at(torch.as_tensor(fine), torch.as_tensor(trapezoid(fine)))
    sizes = (33, 65, 129, 257, 513)
    for cluster in (1, 3):
        errors, without = [], []
        for n in sizes:
            x = np.linspace(0, 1, n) ** cluster
            t, w = torch.as_tensor(x), torch.as_tensor(trapezoid(x))
            errors.append(float((attention_at(t, w) - truth).abs().max()))
            without.append(float((attention_at(t, torch.ones(n)) - truth).abs().max()))
        order = observed_order([1 / (n - 1) for n in sizes], errors)
        print(f"cluster {cluster}: {errors} order {order:.2f}; without weights {without}")
        assert order >= 1.8
        if cluster == 3:
            assert min(without) > 0.1 * float(truth.abs().max())


def test_4_attention_on_random_points():
    fine = np.linspace(0, 1, 20_001)
    truth = attention_at(torch.as_tensor(fine), torch.as_tensor(trapezoid(fine)))
    rng = np.random.default_rng(0)
    sizes = (100, 400, 1600, 6400)
    errors = []
    for n in sizes:
        runs = [
            attention_at(torch.as_tensor(rng.random(n)), torch.full((n,), 1 / n)) - truth
            for _ in range(200)
        ]
        errors.append(float(torch.stack(runs).square().mean().sqrt()))
    slope = -observed_order(sizes, errors) * -1
    print(errors, slope)
    assert abs(slope + 0.5) <= 0.15


def test_4_attention_of_points_given_twice():
    x = torch.linspace(0, 1, 40, dtype=torch.float64)
    w = torch.as_tensor(trapezoid(x.numpy()))
    twice = torch.cat([x, x[10:20]])
    halved = torch.cat([w, w[10:20] / 2])
    halved[10:20] /= 2
    assert float((attention_at(twice, halved) - attention_at(x, w)).abs().max()) <= 1e-12


class Smooth(nn.Module):
    """A kernel of the offset and the source's value."""

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        return torch.cos(2 * e[..., :1]) * torch.exp(e[..., 1:2]) * e[..., 2:3]


def graph_at(points: np.ndarray, w: np.ndarray, *, weighted: bool = True) -> torch.Tensor:
    """Integral over a ball about two points, of cos(12 x)."""
    queries = np.array([[0.35, 0.5], [0.32, 0.6]])
    p = torch.as_tensor(points)
    f = torch.cos(12 * p[:, 0])[None, :, None]
    edges = find_neighbors(points, 0.3, queries)
    integral = GraphIntegral(Smooth(), 0.3, weighted=weighted)
    q = torch.as_tensor(queries)
    return integral(f, p, torch.as_tensor(w), edges, query=q, query_f=torch.zeros(1, 2, 1))


def test_4_graph_integral():
    n = 801
    fine = grid((n, n))
    points = np.stack(fine.meshgrid(), -1).reshape(-1, 2)
    truth = graph_at(points, fine.weights.ravel())
    sizes = (17, 33, 65, 129)
    for cluster in (False, True):
        errors, without = [], []
        for m in sizes:
            x = np.linspace(0, 1, m)
            line = x**3 if cluster else x
            p = np.stack(np.meshgrid(line, x, indexing="ij"), -1).reshape(-1, 2)
            w = np.outer(trapezoid(line), trapezoid(x)).ravel()
            errors.append(float((graph_at(p, w) - truth).abs().max()))
            without.append(float((graph_at(p, w, weighted=False) - truth).abs().max()))
        order = observed_order([1 / (m - 1) for m in sizes], errors)
        print(f"clustered {cluster}: {errors} order {order:.2f}; without weights {without}")
        assert order >= 1.8
    assert min(without) > 0.1 * float(truth.abs().max())


def test_4_graph_integral_of_points_given_twice_and_cells_split():
    rng = np.random.default_rng(1)
    points = rng.random((500, 2))
    w = quadrature_weights(points)
    twice = np.concatenate([points, points[:100]])
    halved = np.concatenate([w, w[:100] / 2])
    halved[:100] /= 2
    assert float((graph_at(twice, halved) - graph_at(points, w)).abs().max()) <= 1e-12
    # one cell in four
    g = grid((40, 40), layout="cell")
    p = np.stack(g.meshgrid(), -1).reshape(-1, 2)
    v = g.weights.ravel()
    k = int(np.argmin(np.abs(p - 0.55).sum(1)))
    h = g.spacing[0] / 4
    parts = p[k] + h * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    split = graph_at(np.concatenate([np.delete(p, k, 0), parts]),
                     np.concatenate([np.delete(v, k), np.full(4, v[k] / 4)]))  # fmt: skip
    assert float((split - graph_at(p, v)).abs().max()) <= 1e-3
    # repository style: a sum over neighbors grows with their number
    sums = []
    for n in (16, 32, 64):
        c = grid((n, n), layout="cell")
        q = np.stack(c.meshgrid(), -1).reshape(-1, 2)
        edges = find_neighbors(q, 0.3, np.array([[0.5, 0.5]]))
        plain = GraphIntegral(Smooth(), 0.3, reduction="sum", weighted=False)
        f = torch.ones(1, len(q), 1, dtype=torch.float64)
        y = plain(
            f, torch.as_tensor(q), torch.ones(len(q)), edges, query=torch.tensor([[0.5, 0.5]]),
            query_f=torch.zeros(1, 1, 1),
        )  # fmt: skip
        sums.append(float(y))
    assert sums[2] > 10 * sums[0]


def test_4_delaunay_weights():
    """Points clustered as (xi^2, eta): the integral of a smooth function, and of ones."""
    rng = np.random.default_rng(0)
    exact = (math.e - 1) * math.sin(1)
    errors, uniform = [], []
    sizes = (256, 1024, 4096)
    for n in sizes:
        inner = rng.random((n, 2))
        edge = np.linspace(0, 1, round(math.sqrt(n)) + 1)
        sides = [np.stack([edge, np.full_like(edge, v)], -1) for v in (0, 1)]
        xi = np.concatenate([inner, *sides, *(s[1:-1, ::-1] for s in sides)])
        points = np.stack([xi[:, 0] ** 2, xi[:, 1]], -1)
        f = np.exp(points[:, 0]) * np.cos(points[:, 1])
        w = quadrature_weights(points)
        assert abs(w.sum() - 1) < 1e-12
        errors.append(abs(w @ f - exact))
        uniform.append(abs(f.mean() - exact))
    print(errors, uniform)
    assert errors[-1] < 1e-3 and errors[-1] < errors[0] / 4
    assert min(uniform) > 0.1 * exact


def test_4_norms_on_a_clustered_grid():
    t = np.linspace(0, 1, 129)
    x = t**3
    norm = WeightedGroupNorm(1, 1, affine=False, eps=0.0)
    f = torch.as_tensor(x**2)[None, None]
    w = torch.as_tensor(trapezoid(x))

    def moments(y: torch.Tensor) -> tuple[float, float]:
        """Mean and variance that the norm has used."""
        std = float((f[0, 0, -1] - f[0, 0, 0]) / (y[0, 0, -1] - y[0, 0, 0]))
        return float(f[0, 0, 0] - y[0, 0, 0] * std), std**2

    # x^2 has mean 1/3 and variance 1/5 - 1/9
    mean, variance = moments(norm(f, w))
    assert abs(mean - 1 / 3) < 1e-3 and abs(variance - (1 / 5 - 1 / 9)) < 1e-3
    mean, variance = moments(nn.GroupNorm(1, 1, affine=False, eps=0.0)(f))
    assert abs(mean - 1 / 3) > 0.1


# -- 7. odd sizes --------------------------------------------------------------------------------


def spectral(cls, n: int, seed: int = 0):
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(2, 2, (8, 8), bias=False)


def band_limited(n: int) -> torch.Tensor:
    x = np.arange(n) / n
    a, b = np.meshgrid(x, x, indexing="ij")
    fields = [
        np.sin(2 * np.pi * a) + np.cos(4 * np.pi * (a + b)),
        np.cos(2 * np.pi * (2 * a - b)) + 0.3 * np.sin(6 * np.pi * a),
    ]
    return torch.as_tensor(np.stack(fields))[None].float()


def modes(u: torch.Tensor) -> torch.Tensor:
    """Fourier coefficients -3 to 3 of each axis."""
    c = torch.fft.fft2(u.double(), norm="forward")
    k = torch.arange(-3, 4)
    return c[..., k % u.shape[-2], :][..., k % u.shape[-1]]


def test_7_odd_sizes():
    from models.nn_to_no import SpectralConv

    layer = spectral(SpectralConv, 16)
    for even, odd in ((16, 17), (32, 33), (64, 65)):
        with torch.no_grad():
            a, b = modes(layer(band_limited(even))), modes(layer(band_limited(odd)))
        assert float((a - b).abs().max()) <= 1e-6 * max(1.0, float(a.abs().max()))


def test_7_the_layer_of_the_library_is_wrong_on_odd_sizes():
    from importlib.metadata import version

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.layers.spectral_convolution import SpectralConv as Original
    if version("neuraloperator") != "2.0.0":
        pytest.skip("another version; look whether the repaired layer is still needed")
    layer = spectral(Original, 16)
    with torch.no_grad():
        even, odd = modes(layer(band_limited(32))), modes(layer(band_limited(33)))
        again = modes(layer(band_limited(64)))
    assert float((even - again).abs().max()) <= 1e-6
    assert float((even - odd).abs().max()) >= 0.3 * float(even.abs().max())


# -- 8. loss and difference layer ----------------------------------------------------------------


@pytest.mark.parametrize("layout", ["vertex", "cell", "periodic"])
@pytest.mark.parametrize("kind", ["l2", "h1"])
def test_8_norms_of_functions(layout, kind):
    from opkit.losses import FieldNorm

    functions = {
        "x": (lambda x: x, 1 / 3, 1.0),
        "x^2": (lambda x: x**2, 1 / 5, 4 / 3),
        "sin": (lambda x: np.sin(2 * np.pi * x), 1 / 2, 2 * np.pi**2),
    }
    for name, (f, l2, slope) in functions.items():
        if layout == "periodic" and name != "sin":
            continue  # a jump at the seam has no derivative
        exact = math.sqrt(l2 + (slope if kind == "h1" else 0))
        errors = []
        for n in (16, 32, 64, 128):
            g = grid(n + (layout == "vertex"), layout=layout)
            u = torch.as_tensor(f(g.coords[0]))[None, None]
            errors.append(abs(float(FieldNorm(g, kind=kind)(u).sqrt()) - exact))
        if max(errors) < 1e-12:
            continue
        order = observed_order([1 / n for n in (16, 32, 64, 128)], errors)
        print(layout, kind, name, errors, order)
        assert order >= 1.8


@pytest.mark.parametrize("layout", ["vertex", "cell", "periodic"])
def test_8_difference_layer(layout):
    reference = grid((16, 16), layout=layout)
    layer = FiniteDifferenceConv(1, 1, reference=reference).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[0.6, -0.8]]]))
    inside, everywhere = [], []
    sizes = (16, 32, 64, 128)
    for n in sizes:
        g = grid((n + (layout == "vertex"),) * 2, layout=layout)
        x, y = g.meshgrid()
        f = np.sin(2 * np.pi * x) * np.cos(2 * np.pi * y)
        exact = 2 * np.pi * (
            0.6 * np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y)
            + 0.8 * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
        )  # fmt: skip
        error = np.abs(layer(torch.as_tensor(f)[None, None])[0, 0].detach().numpy() - exact)
        inside.append(float(error[1:-1, 1:-1].max()))
        everywhere.append(float(error.max()))
    h = [1 / n for n in sizes]
    print(layout, inside, everywhere)
    assert observed_order(h, inside) >= 1.9 and observed_order(h, everywhere) >= 1.0


def test_8_no_growth_where_input_is_not_periodic():
    """The coordinate itself: its derivative is 1 at any n, not 1/h at the seam."""
    for layout in ("vertex", "cell"):
        for n in (32, 64, 128, 256):
            g = grid((n, n), layout=layout)
            layer = FiniteDifferenceConv(1, 1, reference=g).double()
            with torch.no_grad():
                layer.weight.copy_(torch.tensor([[[1.0, 0.0]]]))
            d = layer(torch.as_tensor(g.meshgrid()[0])[None, None])
            assert float((d - 1).abs().max()) < 1e-9
    # second derivatives of x^2 are 2 up to the walls
    g = grid((32, 32))
    layer = FiniteDifferenceConv(1, 1, reference=g, order=2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 0.0, 0.0]]]))
    d = layer(torch.as_tensor(g.meshgrid()[0] ** 2)[None, None])
    assert float((d - 2).abs().max()) < 1e-8


# -- 5 and 6: trained ----------------------------------------------------------------------------


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "bench_nn_to_no.py"
    spec = importlib.util.spec_from_file_location("bench_nn_to_no", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_nn_to_no"] = module
    spec.loader.exec_module(module)
    return module


def check_5(summary, seeds: int) -> None:
    """Zero-shot at twice and four times the training resolution, every seed."""
    for entry in summary:
        print(entry)
        assert entry["seeds"] == seeds
        ratios = [*entry["ratio_2x"], *entry["ratio_4x"]]
        if entry["method"] == "converted":
            assert max(ratios) <= (3.5 if len(entry["trained_at"]) == 1 else 1.5), entry
        if entry["method"] == "plain":
            assert min(ratios) >= 8, entry


def check_6(summary, seeds: int) -> None:
    """Finer and locally refined meshes: operators of every seed, and their twins on average."""
    for entry in summary:
        print(entry)
        assert entry["seeds"] == seeds and entry["error"] <= 0.1
        ratios = np.array([entry[k] for k in ("twice", "four_times", "locally_refined")])
        if entry["model"] in ("gnn", "transformer"):
            assert ratios.max() <= 1.5, entry
        else:
            assert ratios[:, 1].max() >= 2, entry


def figures(path: Path, part: str):
    return json.loads(path.read_text())[part]["summary"]


def test_5_and_6_stored_figures():
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "nn_to_no.json"
    check_5(figures(path, "grids"), 3)
    check_6(figures(path, "meshes"), 3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_5_zero_shot_on_solver_data(tmp_path):
    benchmark().zero_shot(tmp_path, 3, tmp_path / "results.json")
    check_5(figures(tmp_path / "results.json", "grids"), 3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_6_irregular_meshes(tmp_path):
    pytest.importorskip("gmsh")
    benchmark().meshes(tmp_path, 3, tmp_path / "results.json")
    check_6(figures(tmp_path / "results.json", "meshes"), 3)


def test_resize_baseline_uses_the_right_coordinates():
    """A band-limited field behind Fourier interpolation is what it is at the training grid."""
    identity = InputOutputInterpolation(nn.Identity(), REFERENCE, "fourier")
    fine = Grid(REFERENCE.refined(3).axes)
    f = torch.as_tensor(waves(*fine.meshgrid()))[None, None]
    assert float((identity(f) - f).abs().max()) < 1e-10
