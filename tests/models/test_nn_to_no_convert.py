"""Conversion of networks: what is kept, what is refused, and other geometries."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.nn_to_no import (
    ConversionWarning,
    UnsupportedLayerError,
    discretization_error,
    grid,
    register_conversion,
    to_operator,
)
from solvers.meshes import Mesh

PERIODIC = grid((16, 16), layout="periodic")
VERTEX = grid((17, 17))


def wave(x, y):
    return np.sin(2 * np.pi * x) + np.cos(2 * np.pi * (x + y))


def on(g, f=wave):
    return torch.as_tensor(f(*g.meshgrid())).float()[None, None]


def conv(a: int, b: int, k: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, padding=k // 2, padding_mode="circular", **options)


def test_the_network_is_left_alone():
    net = nn.Sequential(conv(1, 2), nn.GELU(), conv(2, 1)).train()
    state = copy.deepcopy(net.state_dict())
    op = to_operator(net, reference=PERIODIC)
    assert type(net[0]) is nn.Conv2d and net.training and op.training
    with torch.no_grad():
        for p in op.parameters():
            p.add_(1.0)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_it_is_a_module_like_any_other():
    torch.manual_seed(0)
    net = nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), nn.GELU(), conv(4, 1))
    op = to_operator(net, reference=PERIODIC)
    assert dict(op.named_parameters()).keys() == dict(net.named_parameters()).keys()
    x = on(PERIODIC.refined(2))
    for other in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert torch.equal(other.eval()(x), op.eval()(x))
    wrapped = nn.Sequential(op)
    wrapped.load_state_dict({f"0.{k}": v for k, v in net.state_dict().items()})
    op.train()
    assert op.network.training
    op.double()
    assert next(op.network.parameters()).dtype == torch.float64
    assert op(x.double()).dtype == torch.float64
    # it learns at any resolution
    op.float().zero_grad()
    op(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in op.parameters())


def test_training_statistics_of_batch_norm_weigh_the_points():
    net = nn.Sequential(nn.BatchNorm2d(1))
    for reference in (PERIODIC, VERTEX):
        op = to_operator(net, reference=reference, example=(1, *reference.shape)).train()
        x = torch.randn(4, 1, *reference.shape)
        y = op(x).detach()
        w = torch.as_tensor(reference.weights).float()
        assert abs(float((y * w).sum() / (4 * w.sum()))) < 1e-5
        mean = float((x * w).sum() / (4 * w.sum()))
        assert float(op.network[0].running_mean) == pytest.approx(0.1 * mean, rel=1e-4)


def test_tied_weights_stay_tied():
    one = conv(2, 2)
    net = nn.Sequential(one, nn.Tanh(), one)
    twin = nn.Sequential(conv(2, 2), conv(2, 2))
    twin[1].weight = twin[0].weight
    for n, count in ((net, 2), (twin, 3)):
        op = to_operator(n, reference=PERIODIC)
        assert len(list(op.parameters())) == count
        assert op.network[0].weight is op.network[-1].weight
        assert list(op.state_dict()) == list(n.state_dict())


def test_parametrized_weights():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(conv(1, 3)), nn.GELU(), conv(3, 1))
    op = to_operator(net, reference=PERIODIC)
    x = on(PERIODIC)
    torch.testing.assert_close(op(x), net(x))
    assert list(op.state_dict()) == list(net.state_dict())
    assert op(on(PERIODIC.refined(2))).shape == (1, 1, 32, 32)


def test_padding_layers_in_front_of_convolutions():
    last = nn.Conv2d(2, 1, 3, padding=1, padding_mode="replicate")
    net = nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(1, 2, 5), nn.GELU(), last)
    op = to_operator(net, reference=VERTEX)
    x = on(VERTEX)
    torch.testing.assert_close(op(x), net(x))
    assert list(op.state_dict()) == list(net.state_dict())
    table = discretization_error(op, wave, [VERTEX.refined(s) for s in (1, 2, 4)], VERTEX)
    assert max(table.drift) < 0.1
    with pytest.raises(UnsupportedLayerError, match=r"^0 \(ZeroPad2d\): padding"):
        to_operator(nn.Sequential(nn.ZeroPad2d(1), nn.GELU()), reference=VERTEX)


def test_pixel_shuffle():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.PixelUnshuffle(2), conv(4, 8), nn.GELU(), conv(8, 4), nn.PixelShuffle(2)
    ).double()
    reference = grid((16, 16), layout="cell")
    op = to_operator(net, reference=reference, example=(1, 16, 16))
    x = on(reference).double()
    assert torch.equal(op(x), net(x))
    table = discretization_error(op, wave, [reference.refined(s) for s in (1, 2, 4)])
    assert table.error[1] < table.error[0]


def test_upsampling_and_pooling_converge():
    torch.manual_seed(0)
    for pool, mode in ((nn.AvgPool2d(2), "bilinear"), (nn.MaxPool2d(2), "nearest")):
        net = nn.Sequential(
            conv(1, 4), nn.GELU(), pool, conv(4, 4), nn.Upsample(scale_factor=2, mode=mode),
            conv(4, 1),
        ).double()  # fmt: skip
        reference = grid((32, 32), layout="cell")
        op = to_operator(net, reference=reference)
        x = on(reference).double()
        torch.testing.assert_close(op(x), net(x), rtol=0, atol=1e-12)
        table = discretization_error(op, wave, [reference.refined(s) for s in (1, 2, 4, 8)],
                                     reference)  # fmt: skip
        assert table.observed_order > 0.9 and max(table.drift) < 0.1


# -- refusals ------------------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = conv(1, 1)
        self.head = nn.Linear(256, 3)
        self.kind = kind

    def forward(self, x):
        x = self.conv(x)
        if self.kind == "interpolate":
            return F.interpolate(x, scale_factor=2)
        if self.kind == "view":
            return self.head(x.view(len(x), -1))
        if self.kind == "roll":
            return torch.roll(x, 1, 2)
        if self.kind == "sum":
            return x.sum((2, 3))
        if self.kind == "pool":
            return F.max_pool2d(x, 2)
        return F.conv2d(x, self.conv.weight, padding=1)


@pytest.mark.parametrize("kind", ["interpolate", "view", "roll", "sum", "pool", "conv2d"])
def test_functions_of_the_grid_in_a_forward_are_found(kind):
    net = nn.Sequential(nn.Identity(), Functional(kind))
    with pytest.raises(UnsupportedLayerError, match=r"^1 \(Functional\): ") as e:
        to_operator(net, reference=PERIODIC, example=(1, 16, 16))
    assert e.value.path == "1" and "\n" not in str(e.value)
    with pytest.warns(ConversionWarning, match=r"kept as it is: 1 \(Functional\)"):
        op = to_operator(net, reference=PERIODIC, example=(1, 16, 16), strict=False)
    torch.testing.assert_close(op(on(PERIODIC)), net(on(PERIODIC)))


class Strange(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.LayerNorm((1, 16, 16)), "weights for single points"),
        (nn.AdaptiveAvgPool2d(4), "pooling to a fixed number"),
        (nn.AdaptiveMaxPool2d(2), "pooling to a fixed number"),
        (nn.LSTM(16, 16), "recurrence"),
        (nn.Embedding(16, 4), "numbers of points"),
        (nn.Unfold(2), "cuts the grid"),
        (nn.AlphaDropout(), "noise of single points"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.MaxPool2d(2, return_indices=True), "return_indices"),
        (nn.Upsample(size=(32, 32)), "counts points"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), "bicubic"),
        (Strange(1, 1, 3), "forward of its own"),
        (nn.Conv3d(1, 1, 3), "3 axes"),
    ],
)
def test_layers_without_an_analogue(layer, reason):
    net = nn.Sequential(conv(1, 1), nn.ModuleDict({"odd": layer}))
    with pytest.raises(UnsupportedLayerError, match=reason) as e:
        to_operator(net, reference=PERIODIC, example=(1, 16, 16))
    assert e.value.path == "1.odd" and e.value.kind == type(layer).__name__
    assert isinstance(e.value, ValueError) and "\n" not in str(e.value)


def test_a_softmax_over_points_needs_equal_weights():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(2, 4)

        def forward(self, x):
            q = self.q(x)
            return torch.softmax(q @ q.transpose(1, 2), -1) @ x

    to_operator(Attention(), reference=grid(16, layout="periodic"), example=(16, 2))
    with pytest.raises(UnsupportedLayerError, match="softmax over points"):
        to_operator(Attention(), reference=grid(17), example=(17, 2))


def test_attention_called_as_a_function_is_weighed():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(2, 4), nn.Linear(2, 4)

        def forward(self, x):
            q, k = self.q(x)[:, None], self.k(x)[:, None]
            return F.scaled_dot_product_attention(q, k, x[:, None])[:, 0]

    torch.manual_seed(0)
    op = to_operator(Attention().double(), reference=grid(17), example=(17, 2))

    def tokens(n):
        x = np.linspace(0, 1, n)
        return torch.as_tensor(np.stack([np.exp(x), np.cos(3 * x)], -1))[None]

    with torch.no_grad():
        fine = op(tokens(4097))[0, ::256]
        found = {n: op(tokens(n))[0, :: (n - 1) // 16] for n in (17, 33, 65)}
    errors = [float((u - fine).abs().max()) for u in found.values()]
    assert errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3


def test_bad_input_is_named():
    op = to_operator(nn.Sequential(conv(1, 2), conv(2, 1)), reference=PERIODIC)
    with pytest.raises(ValueError, match="expected 2 axes"):
        op(torch.zeros(1, 1, 16))
    with pytest.raises(ValueError, match=r"fewer than 2 points at the present spacing of 0.25"):
        op(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"runs from 0 to 2 with spacing 0.125"):
        other = grid((16, 16), [(0, 2), (0, 1)], layout="periodic")
        op(torch.zeros(1, 1, 16, 16), grid=other)
    with pytest.raises(ValueError, match="another layout"):
        op(torch.zeros(1, 1, 16, 16), grid=grid((16, 16)))
    with pytest.raises(ValueError, match=r"the grid \(8, 8\)"):
        op(torch.zeros(1, 1, 16, 16), grid=PERIODIC.resized(8))
    with pytest.raises(ValueError, match="example has shape"):
        to_operator(conv(1, 1), reference=PERIODIC, example=(1, 9, 9))
    with pytest.raises(ValueError, match="does not take"):
        to_operator(nn.Sequential(conv(5, 3), conv(4, 1)), reference=PERIODIC)
    with pytest.raises(ValueError, match="antialias=0"):
        to_operator(conv(1, 1), reference=PERIODIC, antialias=0)
    with pytest.raises(ValueError, match="go with a reference that is a shape"):
        to_operator(conv(1, 1), reference=PERIODIC, boundary="cell")


# -- own conversions, tables, points -------------------------------------------------------------


def test_own_conversion():
    class Blur(nn.Module):
        def forward(self, x):
            return F.avg_pool2d(x, 3, 1, 1)

    net = nn.Sequential(conv(1, 1), Blur())
    with pytest.raises(UnsupportedLayerError, match="avg_pool2d"):
        to_operator(net, reference=PERIODIC)

    @register_conversion(Blur)
    def convert(layer, scope):
        from models.nn_to_no.convert import _CONVERSIONS

        scope.note(layer, "mean over a window")
        return _CONVERSIONS[nn.AvgPool2d](nn.AvgPool2d(3, 1, 1), scope)

    x = on(PERIODIC)
    op = to_operator(net, reference=PERIODIC)
    torch.testing.assert_close(op(x), net(x))
    by_path = to_operator(net, reference=PERIODIC, registry={"1": lambda layer, scope: layer})
    assert type(by_path.network[1]) is Blur


class Positioned(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv = conv(1, 1)
        setattr(self, name, nn.Parameter(on(PERIODIC, lambda x, y: np.sin(2 * np.pi * y))))
        self.name = name

    def forward(self, x):
        return self.conv(x + getattr(self, self.name))


def test_tables_of_positions_are_functions():
    op = to_operator(Positioned("position"), reference=PERIODIC)
    fine = PERIODIC.refined(4)
    table = discretization_error(op, wave, [PERIODIC.refined(s) for s in (1, 2, 4)], PERIODIC)
    assert max(table.drift) < 0.03
    op(on(fine)).sum().backward()
    assert op.position.grad is not None and op.position.grad.abs().max() > 0
    with pytest.raises(UnsupportedLayerError, match="'scale': 'table'"):
        to_operator(Positioned("scale"), reference=PERIODIC)
    op = to_operator(Positioned("scale"), reference=PERIODIC, registry={"scale": "table"})
    assert op(on(fine)).shape == (1, 1, 64, 64)


def test_output_at_other_points():
    op = to_operator(nn.Sequential(conv(1, 2), nn.GELU(), conv(2, 1)), reference=PERIODIC)
    x = on(PERIODIC.refined(2))
    assert torch.equal(op(x, query=PERIODIC), op(x)[..., ::2, ::2])
    mesh = Mesh(np.random.default_rng(0).random((5, 2)), np.full(5, 0.2))
    assert op(x, query=mesh).shape == (1, 1, 5)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_convolutions_on_scattered_points(interpolation):
    """The kernel of the grid, on the same points without an order and on random ones."""
    torch.manual_seed(0)
    reference = grid((16, 16), layout="periodic")
    net = nn.Sequential(conv(1, 3), nn.GELU(), conv(3, 1)).double()
    op = to_operator(net, reference=reference, interpolation=interpolation)
    fine = reference.refined(2)
    rng = np.random.default_rng(0)
    order = rng.permutation(32 * 32)
    points = np.stack(fine.meshgrid(), -1).reshape(-1, 2)[order]
    mesh = Mesh(points, fine.weights.ravel()[order])
    x = on(fine).double()
    there = op(x.flatten(2)[..., order], grid=mesh)[0, 0]
    torch.testing.assert_close(there, op(x)[0, 0].flatten()[order], rtol=0, atol=1e-10)
    # a jittered grid, its weights from areas that the jitter changes
    jittered = (points + rng.uniform(-0.2, 0.2, points.shape) / 32) % 1.0
    values = torch.as_tensor(wave(*jittered.T))[None, None]
    got = op(values, grid=Mesh(jittered, mesh.point_weights))[0, 0].detach()
    truth = torch.as_tensor(wave(*points.T))
    assert float((got - there.detach()).norm() / there.detach().norm()) < 0.3
    assert got.shape == truth.shape
    with pytest.raises(ValueError, match="add up to"):
        op(values, grid=Mesh(jittered, 2 * mesh.point_weights))
    strided = to_operator(conv(1, 1, stride=2), reference=reference)
    with pytest.raises(ValueError, match="a stride has no meaning"):
        strided(values.float(), grid=mesh)


def test_the_same_points_for_a_transformer():
    """Weights of a mesh, of rows that only fill up, and of points given twice."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Linear(2, 8), layer, nn.Linear(8, 1)).double().eval()
    reference = grid((8, 8))
    op = to_operator(net, reference=reference, example=(64, 2))
    x = torch.randn(2, 64, 2, dtype=torch.float64)
    points = torch.as_tensor(np.stack(reference.meshgrid(), -1).reshape(-1, 2))
    w = torch.as_tensor(reference.weights.ravel())
    there = op(x, points=points, weights=w)
    torch.testing.assert_close(there, op(x), rtol=0, atol=1e-12)
    more = torch.cat([x, torch.randn(2, 5, 2, dtype=torch.float64)], 1)
    filled = op(
        more,
        points=torch.cat([points, points[:5]])[None].expand(2, -1, -1),
        weights=torch.cat([w, torch.zeros(5, dtype=torch.float64)])[None].expand(2, -1),
    )
    torch.testing.assert_close(filled[:, :64], there, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="negative"):
        op(x, points=points, weights=-w)


def test_antialiased_activations():
    """Products of waves that the grid cannot hold are cut, not folded back."""
    net = nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 1)).double()
    x = on(PERIODIC, lambda x, y: np.cos(12 * np.pi * x) + 0 * y).double()
    rough = to_operator(net, reference=PERIODIC)
    op = to_operator(net, reference=PERIODIC, antialias=2)
    assert not all(r.exact for r in op.report())
    assert list(op.state_dict()) == list(net.state_dict())

    def shift(model):
        """Shift by half a point, which a function without aliasing allows."""
        k = torch.fft.fftfreq(16, 1 / 16, dtype=torch.float64)
        turn = torch.exp(-2j * np.pi * k[:, None] * 0.5 / 16)
        move = lambda u: torch.fft.ifft2(torch.fft.fft2(u) * turn).real  # noqa: E731
        return float((model(move(x)) - move(model(x))).norm() / model(x).norm())

    with torch.no_grad():
        assert shift(op) < 0.5 * shift(rough)


def test_dropout_drops_channels():
    op = to_operator(nn.Sequential(nn.Dropout(0.5)), reference=PERIODIC, example=(8, 16, 16))
    y = op.train()(torch.ones(4, 8, 16, 16))
    assert torch.equal(y.amax((2, 3)), y.amin((2, 3))) and set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(op.eval()(torch.ones(1, 8, 16, 16)), torch.ones(1, 8, 16, 16))


# -- networks that people have --------------------------------------------------------------------


class FixedSize(nn.Module):
    """Insists on the size of its images, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = conv(1, 2)

    def forward(self, x):
        assert x.shape[2] == 16, f"wrong height {x.shape[2]}"
        return self.embed(x)


class SumsOfSizes(nn.Module):
    """Joins a field that was pooled and refined with the field itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 2, 2)

    def forward(self, x):
        return torch.cat([x, self.up(self.pool(x))], 1)


def test_a_network_that_insists_on_its_size_is_refused():
    message = (
        r"^inner \(FixedSize\): does not take 32 x 16 points, the reference has 16 x 16 "
        r"\(wrong height 32\)"
    )
    net = nn.Sequential()
    net.add_module("inner", FixedSize())
    with pytest.raises(UnsupportedLayerError, match=message):
        to_operator(net, reference=PERIODIC)
    op = to_operator(net, reference=PERIODIC, strict=False)
    assert torch.equal(op(on(PERIODIC)), net(on(PERIODIC)))


def test_grids_that_a_network_cannot_take_are_named():
    op = to_operator(SumsOfSizes(), reference=(16, 16), boundary="vertex")
    op(torch.zeros(1, 1, 31, 31))
    message = (
        r"^f has shape \(1, 1, 32, 32\): the module itself \(SumsOfSizes\) does not take it \("
    )
    with pytest.raises(ValueError, match=message):
        op(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 32, 32), (2, 2, 16), (2, 16, 16), ()])
def test_wrong_channels_and_axes_are_named(shape):
    op = to_operator(nn.Sequential(conv(2, 2), nn.GELU()), reference=PERIODIC)
    with pytest.raises(
        ValueError, match=r"f has shape .*expected .*(in_channels=2|axes of points)"
    ):
        op(torch.zeros(shape))


def test_dropout_called_as_a_function_is_found():
    class Drops(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            self.conv, self.p = conv(1, 1), p

        def forward(self, x):
            return F.dropout(self.conv(x), self.p, self.training)

    with pytest.raises(UnsupportedLayerError, match="calls dropout: drops single points"):
        to_operator(Drops(0.5), reference=PERIODIC)
    to_operator(Drops(0.0), reference=PERIODIC)


@torch.no_grad()
def test_pooled_values_are_a_vector_on_every_grid():
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(1, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()  # fmt: skip
    op = to_operator(net, reference=PERIODIC)
    assert torch.equal(op(on(PERIODIC)), net(on(PERIODIC)))
    fine = op(on(PERIODIC.refined(4)))
    assert fine.shape == (1, 3) and float((fine - op(on(PERIODIC))).abs().max()) < 1e-2


def test_encoders_over_points():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.lift, self.out = nn.Linear(1, 8), nn.Linear(8, 1)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x):
            y = self.encoder(self.lift(x.flatten(2).transpose(1, 2)))
            return self.out(y).transpose(1, 2).unflatten(2, x.shape[2:])

    torch.manual_seed(0)
    net = Encoder().eval()
    op = to_operator(net, reference=PERIODIC)
    f = on(PERIODIC)
    with torch.no_grad():
        assert torch.equal(op(f), net(f))
        assert float((op(on(PERIODIC.refined(2)))[..., ::2, ::2] - net(f)).abs().max()) < 1e-3


def test_networks_of_torchvision():
    vision = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net = vision.resnet18(weights=None).eval()
    op = to_operator(net, reference=(32, 32), boundary="cell")
    with torch.no_grad():
        assert float((op(x) - net(x)).abs().max()) <= 1e-5 * float(net(x).abs().max())
        assert op(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
    refused = {
        "does not take 64 x 32 points": vision.VisionTransformer(32, 8, 1, 2, 16, 32),
        "calls adaptive_avg_pool2d": vision.mobilenet_v2(weights=None),
        "calls interpolate": vision.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None
        ),
    }
    for reason, other in refused.items():
        with pytest.raises(UnsupportedLayerError, match=reason):
            to_operator(other, reference=(32, 32), boundary="cell", example=(3, 32, 32))
