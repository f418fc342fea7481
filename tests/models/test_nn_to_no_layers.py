"""Layers of NN-to-NO against brute force and analysis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from models.nn_to_no import (
    FunctionTable,
    GlobalMean,
    IntegralLinear,
    KernelConv1d,
    KernelConv2d,
    KernelConvTranspose2d,
    LocalIntegral,
    OperatorGNN,
    PatchExpansion,
    PatchIntegral,
    PhysicalPool,
    PointTransformer,
    QuadratureAttention,
    find_neighbors,
    grid,
    observed_order,
    quadrature_weights,
    resample,
)
from models.nn_to_no.geometry import cloud_weights
from models.nn_to_no.kernels import basis, taps
from models.nn_to_no.networks import Refine
from solvers.meshes import Mesh


@pytest.fixture(autouse=True)
def _float64_without_gradients():
    with torch.no_grad():
        yield


# -- kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("s", [1.0, 2.0, 3.0, 1.5, 7 / 3, 0.5, 0.75])
def test_taps(kernel, s):
    z = (-1.5, -0.5, 0.5, 1.5)
    first, m = taps(z, s, 0.5, 0, kernel)
    assert torch.allclose(m.sum(0), torch.ones(4, dtype=torch.float64))
    if s == 1:
        assert first == -1 and torch.equal(m, torch.eye(4, dtype=torch.float64))
    if s in (1.0, 2.0, 3.0):
        # by the formula itself, without the normalization
        x = (np.arange(first, first + len(m)) - 0.5) / s
        formula = basis(x[:, None] - np.array(z)[None], kernel) / s
        np.testing.assert_allclose(m.numpy(), formula, atol=1e-12)


@pytest.mark.parametrize("layout", ["vertex", "cell", "periodic"])
@pytest.mark.parametrize(
    ("k", "stride", "padding", "dilation", "mode"),
    [(3, 1, 1, 1, "zeros"), (5, 1, 4, 2, "circular"), (3, 2, 1, 1, "reflect"),
     (2, 2, 0, 1, "zeros"), (3, 1, 0, 1, "zeros"), (1, 2, 0, 1, "zeros")],
)  # fmt: skip
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_smoothing_and_dilation_are_the_dense_kernel(
    layout, k, stride, padding, dilation, mode, kernel
):
    """Whole ratios take a short cut; nearly whole ones the dense kernel."""
    n = 13 if layout == "vertex" else 12
    reference = grid((n, n), layout=layout)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    layers = [
        KernelConv2d(4, 6, k, groups=2, padding_mode=mode, reference=reference,
                     interpolation=kernel, **options).double(),
        KernelConvTranspose2d(4, 6, k, groups=2, reference=reference, interpolation=kernel,
                              **options).double(),
    ]  # fmt: skip
    x = torch.randn(2, 4, *reference.refined(2).shape, dtype=torch.float64)
    for layer in layers:
        fast = layer(x)
        layer.scale = lambda *_: (2.0 + 1e-13,) * 2
        torch.testing.assert_close(fast, layer(x), rtol=0, atol=1e-10)


def test_a_kernel_by_hand():
    """Taps 1, 2, 4 on twice as many points: the hats between them, halved."""
    conv = KernelConv1d(1, 1, 3, padding=1, bias=False, reference=grid(8, layout="periodic"))
    conv.weight.copy_(torch.tensor([[[1.0, 2.0, 4.0]]]))
    x = torch.zeros(1, 1, 16)
    x[..., 8] = 1
    expected = torch.tensor([0, 2, 4, 3, 2, 1.5, 1, 0.5, 0]) / 2  # mirrored: x at +m meets tap m
    assert torch.allclose(conv(x)[0, 0, 4:13], expected)


def test_physical_stride_keeps_the_number_of_outputs():
    reference = grid((16, 16), layout="periodic")
    conv = KernelConv2d(
        1, 2, 3, stride=2, padding=1, padding_mode="circular", reference=reference,
        stride_rule="physical",
    ).double()  # fmt: skip
    x = lambda g: torch.as_tensor(np.sin(2 * np.pi * g.meshgrid()[0]))[None, None]  # noqa: E731
    a, b, c = (conv(x(reference.refined(s))) for s in (1, 4, 16))
    assert a.shape == b.shape == c.shape == (1, 2, 8, 8)
    assert float((b - c).abs().max()) < 0.1 * float((a - c).abs().max())


@pytest.mark.parametrize("layout", ["vertex", "cell", "periodic"])
def test_refine_interpolates(layout):
    """At the reference: linear functions are kept inside, and waves converge."""
    errors = []
    for n in (8, 16, 32):
        coarse = grid((n + (layout == "vertex"),), layout=layout)
        fine = coarse.refined(2)
        f = lambda g: torch.as_tensor(np.cos(2 * np.pi * g.coords[0]))[None, None]  # noqa: E731
        got = Refine(coarse)(f(coarse), fine.shape)
        errors.append(float((got - f(fine)).abs().max()))
    assert observed_order([1, 1 / 2, 1 / 4], errors) > 1.6


def test_pools_by_hand():
    reference = grid((8,), layout="cell")
    x = torch.arange(16.0).reshape(1, 1, 16)
    # reference: pairs; here the trapezoid window of a pair of hats, and the hull of their centers
    top = PhysicalPool(2, reference=reference, kind="max")(x)
    assert torch.equal(top[0, 0, :3], torch.tensor([1.5, 3.5, 5.5]))
    mean = PhysicalPool(2, reference=reference)(x)
    assert torch.allclose(mean[0, 0, 1:-1], torch.arange(2.5, 14, 2.0))
    with pytest.raises(ValueError, match="kind='min'"):
        PhysicalPool(2, reference=reference, kind="min")


# -- integrals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["vertex", "cell", "periodic"])
def test_integral_transform(layout):
    reference = grid((8 + (layout == "vertex"),), layout=layout)
    layer = IntegralLinear(2, 3, input_grid=reference, output_grid=reference).double()
    f = torch.randn(4, 2, *reference.shape, dtype=torch.float64)
    plain = nn.functional.linear(f.flatten(1), layer.weight, layer.bias).reshape(4, 3, -1)
    torch.testing.assert_close(layer(f), plain)
    functional = IntegralLinear(1, 1, input_grid=reference, bias=False).double()
    functional.weight.copy_(torch.as_tensor(reference.weights)[None])
    # the plain integral of x^2 (or of sin^2): exact in the limit
    g = lambda x: np.sin(np.pi * x) ** 2 if layout == "periodic" else x**2  # noqa: E731
    exact = 0.5 if layout == "periodic" else 1 / 3
    fine = reference.refined(32)
    value = functional(torch.as_tensor(g(fine.coords[0]))[None, None], fine)
    assert float((value - exact).abs()) < 1e-3


def test_patches():
    reference = grid((16, 16), layout="cell")
    embed = PatchIntegral(1, 5, 4, reference=reference).double()
    back = PatchExpansion(5, 1, 4, reference=reference).double()
    wave = lambda g: torch.as_tensor(np.cos(np.pi * g.meshgrid()[0]))[None, None]  # noqa: E731
    tokens = [embed(wave(reference.refined(s))) for s in (1, 4, 8)]
    assert {t.shape for t in tokens} == {(1, 5, 4, 4)}
    assert float((tokens[1] - tokens[2]).abs().max()) < 0.02
    rng = np.random.default_rng(0)
    cloud = rng.random((4000, 2))
    mesh = Mesh(cloud, quadrature_weights(cloud))
    scattered = embed(torch.as_tensor(np.cos(np.pi * cloud[:, 0]))[None, None], mesh)
    assert float((scattered - tokens[2]).abs().max()) < 0.05 * float(tokens[2].abs().max())
    assert back(tokens[0], mesh).shape == (1, 1, 4000)
    assert back(tokens[0]).shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match="patch=3: does not divide"):
        PatchIntegral(1, 5, 3, reference=reference)


def test_function_table():
    reference = grid((9, 9))
    table = FunctionTable(1, reference).double()
    table.values.copy_(torch.as_tensor(sum(reference.meshgrid()))[None])
    other = grid((33, 20))
    torch.testing.assert_close(table(other)[0], torch.as_tensor(sum(other.meshgrid())))
    assert torch.equal(table(), table.values)


def test_local_integral():
    """The taps of each grid integrate the same function; beyond closed ends it is 0."""
    for layout, order in (("periodic", 1.8), ("vertex", 0.9)):
        for dim in (1, 2):
            reference = grid((16 + (layout == "vertex"),) * dim, layout=layout)
            torch.manual_seed(0)
            layer = LocalIntegral(1, 2, 0.21, reference=reference).double()
            outputs = []
            scales = (1, 2, 4, 8, 16, 64) if dim == 1 else (1, 2, 4, 8)
            for s in scales:
                g = reference.refined(s)
                f = torch.as_tensor(np.cos(2 * np.pi * g.meshgrid()[0]))[None, None]
                part = (..., *(slice(None, None, s),) * dim)
                outputs.append(layer(f)[part])
            errors = [float((u - outputs[-1]).abs().max()) for u in outputs[:-1]]
            # kinks of the kernel meet the points of each grid in their own way
            found = observed_order([1 / s for s in scales[:-1]], errors)
            assert found > order - 0.4, (layout, dim, errors)
    with pytest.raises(ValueError, match="fewer than 2 points"):
        LocalIntegral(1, 1, 0.05, reference=grid(9))(torch.zeros(1, 1, 9))


def test_global_mean():
    mean = GlobalMean(grid(5))
    x = torch.tensor([[[1.0, 0, 0, 0, 1]]])
    assert float(mean(x)) == pytest.approx(0.25)
    assert float(GlobalMean(grid(5), rule="uniform")(x)) == pytest.approx(0.4)


# -- points --------------------------------------------------------------------------------------


def test_neighbors_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    points, queries = rng.random((60, 2)), rng.random((20, 2))
    for period in (None, (1.0, None), (1.0, 1.0)):
        found = find_neighbors(points, 0.3, queries, period=period)
        gap = points[None] - queries[:, None]
        for d, length in enumerate(period or ()):
            if length:
                gap[..., d] -= length * np.round(gap[..., d] / length)
        expected = np.argwhere((gap**2).sum(-1) <= 0.09)
        got = np.stack([found.target.numpy(), found.source.numpy()], -1)
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="no neighbor"):
        find_neighbors(points, 1e-6, queries)


@pytest.mark.parametrize("kind", ["softmax", "linear"])
def test_attention_layer_by_hand(kind):
    torch.manual_seed(0)
    layer = QuadratureAttention(6, 2, kind=kind).double()
    f = torch.randn(2, 9, 6, dtype=torch.float64)
    w = torch.rand(9, dtype=torch.float64)
    q, k, v = (m(f).reshape(2, 9, 2, 3) for m in (layer.to_q, layer.to_k, layer.to_v))
    out = torch.zeros(2, 9, 2, 3, dtype=torch.float64)
    for b, h in itertools.product(range(2), range(2)):
        a, c, e = q[b, :, h], k[b, :, h], v[b, :, h]
        if kind == "softmax":
            score = torch.exp(a @ c.T / 3**0.5) * w
            out[b, :, h] = score @ e / score.sum(1, keepdim=True)
        else:
            p = w / w.sum()
            norm = lambda t, p=p: (t - p @ t) / ((p @ (t - p @ t) ** 2) + 1e-6).sqrt()  # noqa: E731
            out[b, :, h] = (a @ norm(c).T * p) @ norm(e)
    torch.testing.assert_close(layer(f, w), layer.out(out.flatten(2)))


def models(**options):
    torch.manual_seed(0)
    bounds = ((0.0, 1.0), (0.0, 1.0))
    return [
        OperatorGNN(1, 2, bounds=bounds, radius=0.25, hidden_channels=8, n_layers=2, **options),
        PointTransformer(1, 2, bounds=bounds, hidden_channels=8, n_layers=2, n_heads=2, **options),
        PointTransformer(
            1, 2, bounds=bounds, hidden_channels=8, n_layers=2, n_heads=2, kind="linear", **options
        ),
    ]


def test_point_models_do_not_see_filling_nor_order_nor_the_batch():
    rng = np.random.default_rng(0)
    points = [torch.as_tensor(rng.random((n, 2))) for n in (40, 55)]
    weights = [torch.as_tensor(quadrature_weights(p.numpy())) for p in points]
    fields = [torch.as_tensor(rng.standard_normal((len(p), 1))) for p in points]
    most = 60

    def fill(a: torch.Tensor, value: float) -> torch.Tensor:
        return torch.cat([a, torch.full((most - len(a), *a.shape[1:]), value).to(a)])

    mask = torch.stack([torch.arange(most) < len(p) for p in points])
    for model in models():
        model = model.double()
        alone = [model(f[None], p, w)[0] for f, p, w in zip(fields, points, weights, strict=True)]
        together = model(
            torch.stack([fill(f, 1e3) for f in fields]),
            torch.stack([fill(p, 0.5) for p in points]),
            torch.stack([fill(w, 7.0) for w in weights]),
            mask,
        )
        order = torch.as_tensor(rng.permutation(40))
        for k, u in enumerate(alone):
            torch.testing.assert_close(together[k, : len(u)], u, rtol=0, atol=1e-10)
        turned = model(fields[0][None, order], points[0][order], weights[0][order])[0]
        torch.testing.assert_close(turned, alone[0][order], rtol=0, atol=1e-10)


def test_point_models_converge_where_their_twins_do_not():
    """Points clustered towards one side: with weights the same function as on uniform ones."""

    def output(model, cluster: int, n: int) -> torch.Tensor:
        x = np.linspace(0, 1, n)
        line = x**cluster
        p = np.stack(np.meshgrid(line, x, indexing="ij"), -1).reshape(-1, 2)
        w = np.outer(*(quadrature_weights(t[:, None]) for t in (line, x))).ravel()
        f = torch.as_tensor(np.sin(3 * p[:, :1]) + p[:, 1:])[None]
        y = model.double()(f, torch.as_tensor(p), torch.as_tensor(w))[0]
        # at the corners, which all have
        return y[[0, n - 1, n * n - n, n * n - 1]]

    for weighted, plain in zip(models(), models(weighted=False), strict=True):
        truth = output(weighted, 1, 49)
        own = [float((output(weighted, 2, n) - truth).abs().max()) for n in (13, 25, 49)]
        twin = float((output(plain, 2, 49) - output(plain, 1, 49)).abs().max())
        assert own[2] < own[0] and own[2] < 0.2 * twin, (own, twin)


def test_every_parameter_of_the_point_models_takes_part():
    with torch.enable_grad():
        for model in models():
            points = torch.rand(30, 2)
            y = model(torch.randn(2, 30, 1), points, torch.ones(30) / 30)
            y.square().sum().backward()
            for name, p in model.named_parameters():
                assert p.grad is not None and p.grad.abs().max() > 0, name


def test_point_models_name_what_is_wrong():
    for model in models():
        good = (torch.zeros(1, 8, 1), torch.rand(8, 2), torch.ones(8))
        with pytest.raises(ValueError, match="in_channels=1"):
            model(torch.zeros(1, 8, 2), *good[1:])
        with pytest.raises(ValueError, match="points: shape"):
            model(good[0], torch.rand(8, 3), good[2])
        with pytest.raises(ValueError, match="weights: 8 are negative"):
            model(*good[:2], -good[2])


# -- geometry ------------------------------------------------------------------------------------


def test_quadrature_rules():
    w = quadrature_weights(grid(9), "simpson")
    x = grid(9).coords[0]
    assert w @ x**3 == pytest.approx(0.25, abs=1e-15)
    assert quadrature_weights(grid((4, 5)), "uniform").sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="has 8 points, need an odd number"):
        quadrature_weights(grid(8), "simpson")
    with pytest.raises(ValueError, match="rule='gauss'"):
        quadrature_weights(grid(8), "gauss")
    with pytest.raises(ValueError, match="no Delaunay"):
        quadrature_weights(np.stack([x, x], -1))
    points = np.array([[0.0], [0.0], [1.0]])
    np.testing.assert_allclose(quadrature_weights(points), [0.25, 0.25, 0.5])
    with pytest.raises(ValueError, match="add up to"):
        cloud_weights(torch.rand(4, 2), torch.ones(4), 1.0)


@pytest.mark.parametrize("method", ["linear", "cubic", "fourier"])
@pytest.mark.parametrize("layout", ["vertex", "cell", "periodic"])
def test_resample(layout, method):
    errors = []
    for n in (16, 32, 64):
        a = grid((n, n + 4), layout=layout)
        b = grid((23, 31), layout=layout)
        f = lambda g: np.sin(2 * np.pi * g.meshgrid()[0]) * np.cos(2 * np.pi * g.meshgrid()[1])  # noqa: E731
        there = resample(torch.as_tensor(f(a)), a, b, method)
        points = np.stack(b.meshgrid(), -1).reshape(-1, 2)
        torch.testing.assert_close(
            resample(torch.as_tensor(f(a)), a, points, method), there.flatten(), rtol=0, atol=1e-10
        )
        errors.append(float((there - torch.as_tensor(f(b))).abs().max()))
    if layout == "periodic" and method == "fourier":
        assert max(errors) < 1e-12
    else:
        # the outermost half cells are constant for linear interpolation
        least = {"linear": 1.8 if layout != "cell" else 0.8}.get(method, 2.8)
        assert observed_order([1, 1 / 2, 1 / 4], errors) > least
