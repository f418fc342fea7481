"""Every registered model on grids: shapes, gradients, and that each part is really used."""

from __future__ import annotations

import json
import math

import pytest
import torch

from models import ModelSpec, build_model, list_models, model_options
from models.baselines._grid import GridModel
from solvers.grids import Axis, Grid

GRID_MODELS = sorted(name for name, entry in list_models().items() if entry.task == "grid")
#: Small values of options, for models that have them.
SMALL = {"hidden_channels": 4, "n_layers": 2, "n_blocks": 1}
#: Sizes per dimension, even and odd.
SIZES = {1: [(16,), (17,)], 2: [(16, 16), (12, 15)], 3: [(7, 9, 8)]}
#: The costlier tests run on these.
FEW = {1: [(17,)], 2: [(12, 9)], 3: [(5, 6, 5)]}


def spec(shape, kind="dirichlet", channels=(2, 1), location="node") -> ModelSpec:
    grid = Grid.unit(tuple(shape), periodic=kind == "periodic", location=location)
    return ModelSpec(*channels, grid, ((kind, kind),) * len(shape), 0.0)


def small(name: str) -> dict[str, int]:
    return {k: v for k, v in SMALL.items() if k in model_options(list_models()[name])}


def build(name, s, seed=0):
    torch.manual_seed(seed)
    return build_model(name, s, small(name))


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cases(sizes):
    return [
        pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
        for name in GRID_MODELS
        for dim in (1, 2, 3)
        for shape in sizes[dim]
    ]


@pytest.mark.parametrize(("name", "shape"), cases(SIZES))
@pytest.mark.parametrize("kind", ["dirichlet", "periodic"])
def test_shapes(name, shape, kind):
    s = spec(shape, kind)
    module, options = build(name, s)
    x = rand(3, 2, *shape)
    y = module(x)
    assert y.shape == (3, 1, *shape)
    assert torch.isfinite(y).all()
    # samples do not mix, a batch of one works
    torch.testing.assert_close(module(x[1:2]), y[1:2], rtol=1e-4, atol=1e-5)
    # the options in JSON build the same module
    again, same = build_model(name, s, json.loads(json.dumps(options)))
    assert same == options
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x), y)


@pytest.mark.parametrize(("name", "shape"), cases(FEW))
def test_every_part_is_used(name, shape):
    module, _ = build(name, spec(shape))
    module.double()
    x = rand(2, 2, *shape, dtype=torch.float64)
    y = module(x)
    (y * rand(*y.shape, seed=1, dtype=torch.float64)).sum().backward()
    with torch.no_grad():
        parameters = dict(module.named_parameters())
        assert parameters
        for key, p in parameters.items():
            assert p.grad is not None, key
            assert torch.isfinite(p.grad).all() and p.grad.abs().max() > 1e-9, key
            old = p.clone()
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype))
            assert (module(x) - y).abs().max() > 1e-9 * y.abs().max(), key
            p.copy_(old)
        assert torch.allclose(module(x), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "shape"), cases(FEW))
def test_no_channel_is_left_out(name, shape):
    """Each input channel acts on each output channel."""
    module, _ = build(name, spec(shape, channels=(3, 2)))
    module.double()
    x = rand(1, 3, *shape, dtype=torch.float64)
    with torch.no_grad():
        y = module(x)
        assert y.shape[1] == 2
        assert (y[:, 0] - y[:, 1]).abs().max() > 1e-6
        for channel in range(3):
            z = x.clone()
            z[:, channel] += rand(*shape, seed=2, dtype=torch.float64)
            change = (module(z) - y).abs().amax(dim=tuple(range(2, y.ndim)))
            assert (change > 1e-7 * y.abs().max()).all(), channel


@pytest.mark.parametrize("name", GRID_MODELS)
def test_cells(name):
    for n, kind in ((12, "neumann"), (13, "dirichlet")):
        module, _ = build(name, spec((n, n), kind, location="cell_center"))
        assert module(rand(1, 2, n, n)).shape == (1, 1, n, n)


@pytest.mark.parametrize("name", GRID_MODELS)
def test_axes_of_different_kind(name):
    """One periodic axis, one with two different walls, of different length."""
    grid = Grid((Axis("x", 16, upper=2.0, periodic=True), Axis("y", 13, lower=-1.0)))
    s = ModelSpec(1, 1, grid, (("periodic", "periodic"), ("dirichlet", "neumann")), 0.0)
    module, _ = build(name, s)
    assert module(rand(2, 1, 16, 13)).shape == (2, 1, 16, 13)


@pytest.mark.parametrize("name", GRID_MODELS)
@pytest.mark.parametrize("kind", ["dirichlet", "periodic"])
def test_other_sizes_than_built_for(name, kind):
    s = spec((16 + (kind == "dirichlet"),) * 2, kind)
    module, _ = build(name, s)
    for grid in (s.grid.refined(2), s.grid.refined(3)):
        y = module(rand(1, 2, *grid.shape))
        assert y.shape == (1, 1, *grid.shape)
        assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", GRID_MODELS)
def test_seeds(name):
    s = spec((17, 17))
    states = [build(name, s, seed)[0].state_dict() for seed in (3, 3, 4)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert all(isinstance(v, torch.Tensor) for v in states[0].values())


@pytest.mark.parametrize("name", GRID_MODELS)
def test_double_precision(name):
    """Computed in double throughout: far closer to itself in double than float32 can be."""
    module, _ = build(name, spec((17, 17)))
    x = rand(2, 2, 17, 17, dtype=torch.float64)
    with torch.no_grad():
        single = module(x.float())
        module.double()
        double = module(x)
        nudged = module(x * (1 + 1e-12))
    scale = double.abs().max()
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert (single - double).abs().max() < 1e-4 * scale
    assert 0 < (nudged - double).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("name", GRID_MODELS)
def test_construction_is_silent(name, capfd):
    build(name, spec((17, 17)))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("name", GRID_MODELS)
def test_wrong_input_is_refused(name):
    module, _ = build(name, spec((17, 17)))
    if not isinstance(module, GridModel):
        pytest.skip("no baseline")
    for shape in ((1, 3, 17, 17), (1, 2, 17)):
        with pytest.raises(ValueError, match="x has shape") as caught:
            module(torch.zeros(shape))
        assert "\n" not in str(caught.value)
        assert math.prod(shape) and str(shape) in str(caught.value)
