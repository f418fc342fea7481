"""The repaired spectral layer against sums over modes; what neuraloperator 2.0.0 gets wrong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from neuralop.layers.spectral_convolution import SpectralConv as StockSpectralConv
from neuralop.models import FNO as StockFNO

from models.baselines import build_fno, spectral_conv
from models.spec import ModelSpec
from solvers.grids import Axis, Grid

F64 = torch.float64


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def layer(n_modes, **kwargs):
    torch.manual_seed(0)
    return spectral_conv()(2, 3, n_modes, **kwargs)


def sum_over_modes(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Fourier series of x, multiplied mode by mode and summed at every point.

    Weight index j of all axes but the last belongs to frequency j - m // 2, on the last to j;
    of the last axis only half the modes are stored, the others are conjugates.
    """
    size = x.shape[2:]
    points = np.stack(np.meshgrid(*[np.arange(n) / n for n in size], indexing="ij"), -1)
    out = np.zeros((x.shape[0], weight.shape[1], *size))
    for index in itertools.product(*map(range, weight.shape[2:])):
        k = [j - m // 2 for j, m in zip(index[:-1], weight.shape[2:-1], strict=True)] + [index[-1]]
        if any(not -n / 2 <= f <= n / 2 for f, n in zip(k, size, strict=True)):
            continue
        if any(f == n / 2 for f, n in zip(k[:-1], size[:-1], strict=True)):
            continue  # the same mode as -n / 2
        wave = np.exp(2j * np.pi * points @ np.array(k, float))
        coefficient = (x * wave.conj()).mean(axis=tuple(range(2, x.ndim)))
        y = np.einsum("bi,io->bo", coefficient, weight[(slice(None), slice(None), *index)])
        twice = 1.0 if k[-1] == 0 or 2 * k[-1] == size[-1] else 2.0
        out += twice * (y[(...,) + (None,) * len(size)] * wave).real
    return out + bias


SIZES = [
    ((8,), (16,)), ((8,), (17,)), ((8,), (5,)),
    ((6, 6), (8, 8)), ((6, 6), (9, 9)), ((6, 6), (9, 8)), ((6, 4), (7, 11)),
    ((8, 8), (5, 6)), ((8, 8), (7, 7)), ((4, 6, 4), (5, 7, 6)), ((4, 4, 4), (6, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("n_modes", "size"), SIZES)
def test_equals_the_sum_over_modes(n_modes, size):
    conv = layer(n_modes)
    x = rand(2, 2, *size)
    weight = conv.weight.to_tensor().detach().numpy().astype(complex)
    expected = sum_over_modes(x.numpy(), weight, conv.bias.detach().numpy())
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(16,), (17,), (12, 14), (12, 13), (8, 8, 9)])
def test_equals_neuraloperator_where_that_is_right(size):
    n_modes = (6, 8, 6)[: len(size)]
    conv = layer(n_modes)
    stock = StockSpectralConv(2, 3, n_modes)
    stock.load_state_dict(conv.state_dict())
    x = rand(2, 2, *size).float()
    torch.testing.assert_close(conv(x), stock(x), rtol=1e-4, atol=1e-5)


def test_stock_layer_is_wrong_on_odd_sizes():
    """The reason for the repair; when this fails, neuraloperator can be used as it is."""
    conv = layer((6, 6))
    stock = StockSpectralConv(2, 3, (6, 6))
    stock.load_state_dict(conv.state_dict())
    x = rand(1, 2, 17, 17)
    weight = conv.weight.to_tensor().detach().numpy().astype(complex)
    expected = sum_over_modes(x.numpy(), weight, conv.bias.detach().numpy())
    with torch.no_grad():
        wrong = stock(x.float()).numpy()
        right = conv(x.float()).numpy()
    scale = np.abs(expected).max()
    assert np.abs(wrong - expected).max() > 0.5 * scale
    assert np.abs(right - expected).max() < 1e-4 * scale


def wave(points: np.ndarray) -> np.ndarray:
    """A band-limited field, modes up to 2."""
    a, b = np.meshgrid(points, points, indexing="ij")
    t = 2 * math.pi
    return np.sin(t * a) + 0.5 * np.cos(t * (2 * a - b)) + 0.3 * np.cos(t * (a + 2 * b)) + 0.2


@pytest.mark.parametrize("n", [15, 16, 30, 45, 60])
def test_layer_does_not_depend_on_the_resolution(n):
    """Exact on band-limited data, odd and even: compared at the points common to all grids."""
    torch.manual_seed(0)
    conv = spectral_conv()(1, 1, (8, 8))
    step = n // math.gcd(n, 15)
    fine = torch.as_tensor(wave(np.arange(n) / n))[None, None]
    reference = torch.as_tensor(wave(np.arange(240) / 240))[None, None]
    y, ref = conv(fine), conv(reference)
    every = 240 // (n // step)
    torch.testing.assert_close(
        y[..., ::step, ::step], ref[..., ::every, ::every], rtol=0, atol=1e-10
    )


def test_low_precision_input_is_transformed_in_single():
    conv = layer((4, 4))
    x = rand(1, 2, 8, 8).to(torch.bfloat16)
    y = conv(x)
    torch.testing.assert_close(y, conv(x.float()), rtol=1e-2, atol=1e-2, check_dtype=False)


def test_gradient_is_that_of_the_layer():
    conv = layer((4, 4))
    x = rand(1, 2, 7, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: conv(t), (x,))


def test_settings_that_the_repair_does_not_cover():
    with pytest.raises(ValueError, match="real data, full precision, separable=False"):
        layer((4, 4), complex_data=True)


# -- the model ------------------------------------------------------------------------------------


def spec(grid: Grid, channels=(1, 1)) -> ModelSpec:
    boundary = tuple(("periodic",) * 2 if p else ("none",) * 2 for p in grid.periodic)
    return ModelSpec(*channels, grid, boundary)


def test_is_neuraloperators_fno_on_even_periodic_grids():
    """Same weights, same numbers, when nothing but the conv module differs."""
    grid = Grid.unit(16, dim=2, periodic=True)
    model = build_fno(spec(grid), n_modes=8, hidden_channels=6, n_layers=3, coordinates=False)
    stock = StockFNO(
        n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=6, n_layers=3,
        positional_embedding=None,
    )  # fmt: skip
    stock.load_state_dict(model.fno.state_dict())
    x = rand(2, 1, 16, 16).float()
    torch.testing.assert_close(model(x), stock(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("periodic", [True, False])
def test_model_on_a_finer_grid_agrees_at_common_points(periodic):
    """Smooth input: the answer changes little with the resolution, coordinates and padding too."""
    grid = Grid.unit(32 + (not periodic), dim=1, periodic=periodic)
    torch.manual_seed(0)
    model = build_fno(spec(grid), n_modes=8, hidden_channels=8, padding=0.25).double()
    errors = []
    for factor in (1, 2, 4):
        fine = grid.refined(factor)
        x = torch.as_tensor(np.sin(2 * np.pi * fine.coords[0]) ** 2)[None, None]
        reference = grid.refined(16)
        ref = torch.as_tensor(np.sin(2 * np.pi * reference.coords[0]) ** 2)[None, None]
        with torch.no_grad():
            y, r = model(x)[..., ::factor], model(ref)[..., ::16]
        errors.append(float((y - r).abs().max() / r.abs().max()))
    assert errors[2] < 0.35 * errors[0] or errors[0] < 1e-3
    assert errors[2] < 0.05


def test_padding_is_a_fixed_length_and_even():
    grid = Grid((Axis("x", 65), Axis("y", 64, periodic=True)))
    model = build_fno(spec(grid), padding=0.125)
    pad = model.fno.domain_padding
    assert pad.padded((65, 64)) == (72, 64)
    assert pad.padded((129, 128)) == (144, 128)
    assert pad.padded((33, 32)) == (36, 32)
    x = torch.randn(1, 1, 65, 64)
    assert pad.unpad(pad.pad(x)).equal(x)
    assert build_fno(spec(grid)).fno.domain_padding is None


def test_coordinates():
    grid = Grid((Axis("x", 5, lower=-1.0, upper=3.0), Axis("y", 4, periodic=True, upper=2.0)))
    model = build_fno(spec(grid), n_modes=4)
    c = model._coordinates(torch.zeros(1, 1, 5, 4, dtype=F64))
    assert c.shape == (3, 5, 4)
    assert c[0, :, 0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(c[1, 0], [0, 1, 0, -1], atol=1e-15)
    np.testing.assert_allclose(c[2, 0], [1, 0, -1, 0], atol=1e-15)


def test_modes():
    assert build_fno(spec(Grid.unit(9, dim=2))).resolved_options["n_modes"] == [8, 8]
    assert build_fno(spec(Grid.unit((64, 12)))).resolved_options["n_modes"] == [16, 12]
    with pytest.raises(
        ValueError, match=r"n_modes=12: need even numbers from 2 to 8.*9 points.*'x'"
    ):
        build_fno(spec(Grid.unit(9, dim=2)), n_modes=12)
    with pytest.raises(ValueError, match=r"n_modes=\[4\] has 1 entries, the grid 2 axes"):
        build_fno(spec(Grid.unit(9, dim=2)), n_modes=[4])
    with pytest.raises(ValueError, match="n_modes=5: need even"):
        build_fno(spec(Grid.unit(9, dim=2)), n_modes=5)


def test_bad_options():
    s = spec(Grid.unit(9, dim=2))
    with pytest.raises(ValueError, match="padding=-1: need a fraction"):
        build_fno(s, padding=-1)
    with pytest.raises(ValueError, match="hidden_channels=0: need an integer >= 1"):
        build_fno(s, hidden_channels=0)
    with pytest.raises(
        ValueError, match=r"x has shape \(1, 2, 9, 9\), expected \(batch, 1, n1, n2\)"
    ):
        build_fno(s)(torch.zeros(1, 2, 9, 9))


def test_state_holds_tensors_alone():
    """neuraloperator adds its constructor's arguments, which no safe file format takes."""
    model = torch.nn.Sequential(build_fno(spec(Grid.unit(9, dim=2))))
    assert all(isinstance(v, torch.Tensor) for v in model.state_dict().values())
    assert not [k for k in model.state_dict() if "metadata" in k]


def test_construction_is_silent(capfd):
    build_fno(spec(Grid.unit(9, dim=2)))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_import_keeps_the_warning_filters():
    import subprocess
    import sys

    code = (
        "import torch, warnings; before = list(warnings.filters); "
        "import models.baselines.spectral as b; "
        "b.spectral_conv(); b.import_neuralop('neuralop.models.fno'); "
        "import sys; sys.exit(warnings.filters != before)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
