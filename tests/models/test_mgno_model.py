"""The network: presets, walls, function bias, refinement, the factory's choices."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from models.mgno import MgNO, MultigridOperator, build_mgno
from models.mgno_official import OfficialCycle, official_model
from models.spec import ModelSpec
from solvers.grids import Axis, Grid

F64 = torch.float64


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def n_parameters(model: torch.nn.Module, without: str = "\0") -> int:
    return sum(p.numel() for name, p in model.named_parameters() if without not in name)


def spec(grid: Grid, kind="dirichlet", value: float | None = 0.0, channels=(1, 1)) -> ModelSpec:
    boundary = tuple((kind, kind) if isinstance(kind, str) else kind[d] for d in range(grid.dim))
    return ModelSpec(*channels, grid, boundary, value)


# -- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("darcy_smooth", 678_093),
        ("darcy_rough", 572_661),
        ("pipe", 783_876),
        ("helmholtz", 5_351_806),
        ("navier_stokes", 2_885_194),
    ],
)
def test_official_presets_have_the_authors_parameter_counts(name, count):
    model = MgNO.from_preset(name, variant="official")
    assert n_parameters(model) == count
    if name == "navier_stokes":
        assert n_parameters(model, without="norms") == 1_144_394


@pytest.mark.parametrize("name", ["darcy_smooth", "navier_stokes", "helmholtz"])
def test_official_presets_run_on_their_size(name):
    model = official_model(name)
    s = model.settings
    with torch.no_grad():
        y = model(torch.randn(1, s.in_channels, s.size, s.size))
    assert y.shape == (1, 1, s.size, s.size)
    with pytest.raises(ValueError, match="the authors' model works on one size"):
        model(torch.zeros(1, s.in_channels, s.size + 1, s.size))


def test_official_cycle_is_the_recursion_written_out():
    """Darcy, three levels: f -> R f, u -> Pi u, no residual, unrolled by hand."""
    from dataclasses import replace

    settings = official_model("darcy_rough").settings
    settings = replace(settings, size=16, smoothing=((1, 0), (1, 1), (2, 0)), up_kernels=(4, 4))
    cycle = OfficialCycle(2, 3, settings).double()
    w = {k: v.detach() for k, v in cycle.named_parameters()}

    def conv(x, name, stride=1):
        return F.conv2d(x, w[f"{name}.weight"], stride=stride, padding=1)

    def up(x, name):
        return F.conv_transpose2d(x, w[f"{name}.weight"], stride=2, padding=1)

    f0 = rand(2, 2, 16, 16)
    u0 = conv(f0, "S.0.0")
    f1, u1 = conv(f0, "R.0", 2), conv(u0, "Pi.0", 2)
    u1 = u1 + conv(f1 - conv(u1, "A.1.0"), "S.1.0")
    f2, u2 = conv(f1, "R.1", 2), conv(u1, "Pi.1", 2)
    u2 = u2 + conv(f2 - conv(u2, "A.2.0"), "S.2.0")
    u2 = u2 + conv(f2 - conv(u2, "A.2.1"), "S.2.1")
    u1 = u1 + up(u2, "P.1")
    u1 = u1 + conv(f1 - conv(u1, "A.1.1"), "S.1.1")
    u0 = u0 + up(u1, "P.0")
    assert float((cycle(f0) - u0).detach().abs().max()) <= 1e-12


@pytest.mark.parametrize(
    ("name", "n"), [("darcy_smooth", 211), ("navier_stokes", 64), ("helmholtz", 101), ("pipe", 128)]
)
def test_paper_presets(name, n):
    model = MgNO.from_preset(name)
    channels = 2 if name == "pipe" else 1
    with torch.no_grad():
        assert model(torch.randn(1, channels, n, n)).shape == (1, 1, n, n)


def test_unknown_presets():
    with pytest.raises(ValueError, match=r"'darcy_ruff'\. Did you mean 'darcy_rough'"):
        MgNO.from_preset("darcy_ruff")
    with pytest.raises(ValueError, match="unknown variant 'repo'"):
        MgNO.from_preset("pipe", variant="repo")  # type: ignore[arg-type]


# -- walls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -0.73])
@pytest.mark.parametrize("rule", ["free", "free_input", "solution"])
def test_dirichlet_walls_are_exact(value, rule):
    model = MgNO(2, 1, 6, 2, levels=3, boundary_value=value, continuation=rule)
    u = model(torch.randn(3, 2, 17, 33))
    wall = torch.ones(17, 33, dtype=torch.bool)
    wall[1:-1, 1:-1] = False
    assert torch.equal(u[..., wall], torch.full_like(u[..., wall], value))
    assert bool((u[..., ~wall] != value).all())


def test_walls_only_where_dirichlet():
    boundary = [("dirichlet", "neumann"), "periodic"]
    model = MgNO(1, 1, 6, 2, levels=3, boundary=boundary, boundary_value=2.0)
    u = model(torch.randn(1, 1, 17, 16))  # 16 unknowns and one wall
    assert bool((u[0, 0, 0] == 2.0).all())
    assert bool((u[0, 0, 1:] != 2.0).all())
    model = MgNO(1, 1, 6, 2, levels=3, layout="cell", boundary_value=2.0)
    assert bool((model(torch.randn(1, 1, 16, 16)) != 2.0).all())
    model = MgNO(1, 1, 6, 2, levels=3, output_boundary=False)
    assert bool((model(torch.randn(1, 1, 15, 15)) != 0.0).all())


def test_boundary_values_as_a_field():
    model = MgNO(1, 1, 6, 2, levels=3).double()
    x, g = rand(2, 1, 17, 17), rand(1, 1, 17, 17, seed=1)
    u, v = model(x), model(x, boundary_values=g)
    assert torch.equal(u[..., 1:-1, 1:-1], v[..., 1:-1, 1:-1])
    assert torch.equal(v[:, :, 0], g[:, :, 0].expand(2, -1, -1))
    assert torch.equal(v[..., -1], g[..., -1].expand(2, -1, -1))


@pytest.mark.parametrize(
    ("rule", "counts"), [("free", True), ("free_input", True), ("solution", False)]
)
def test_whether_wall_values_of_the_input_count(rule, counts):
    model = MgNO(1, 1, 6, 1, levels=3, continuation=rule).double()
    x = rand(1, 1, 17, 17)
    y = x.clone()
    y[..., 0, :] += 1.0
    assert torch.equal(model(x), model(y)) != counts


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [("solution", "ddd"), ("free_input", "ndd"), ("free", "nnn")],
)
def test_continuation_written_out(rule, kinds):
    """Even cycles act on the closed grid, the others on its interior."""
    model = MgNO(
        1, 1, 4, 2, levels=3, continuation=rule, bias=None, activation="identity", head="multigrid"
    ).double()
    x = rand(1, 1, 17, 17)
    names = {"d": "dirichlet", "n": "neumann"}
    u, closed = x, True
    for k, cycle in enumerate([*model.cycles, model.head]):
        if closed and kinds[k] == "d":
            u, closed = u[..., 1:-1, 1:-1], False
        same = MultigridOperator(
            cycle.in_channels, cycle.out_channels, levels=3, boundary=names[kinds[k]]
        ).double()
        same.load_state_dict(cycle.state_dict())
        w = same(u)
        u = w + model.pointwise[k](u) if k < 2 else w
    u = u[..., 1:-1, 1:-1] if closed else u
    torch.testing.assert_close(model(x)[..., 1:-1, 1:-1], u, rtol=0, atol=1e-12)


def test_continuation_on_other_grids():
    cell = MgNO(1, 1, 4, 1, levels=3, continuation="free_input", layout="cell")
    assert cell.cycles[0].axes[0].left == "neumann"
    with pytest.raises(ValueError, match="continuation='free' needs the values on Dirichlet walls"):
        MgNO(1, levels=3, continuation="free", output_boundary=False)


# -- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boundary", "layout", "points"),
    [
        ("dirichlet", "vertex", lambda n: (torch.arange(n, dtype=F64) + 1) / (n + 1)),
        ("neumann", "vertex", lambda n: torch.arange(n, dtype=F64) / (n - 1)),
        ("dirichlet", "cell", lambda n: (torch.arange(n, dtype=F64) + 0.5) / n),
    ],
)
def test_function_bias_interpolates_linear_functions_exactly(boundary, layout, points):
    model = MgNO(
        1, 1, 1, 1, levels=2, boundary=boundary, layout=layout, output_boundary=False,
        bias_resolution=5, uneven="ceil",
    ).double()  # fmt: skip
    bias = model.biases[0]
    t = torch.linspace(0, 1, 5, dtype=F64)
    with torch.no_grad():
        bias.values.copy_((2 * t[:, None] - 3 * t[None] + 1)[None])
    for shape in ((7, 11), (30, 8)):
        x, y = (points(n) for n in shape)
        assert torch.allclose(bias(shape)[0, 0], 2 * x[:, None] - 3 * y[None] + 1, atol=1e-13)


def test_function_bias_knows_the_walls():
    """At the same points of the domain whether a layer's functions include the walls or not."""
    for rule, shapes in (("free", [17, 17]), ("free_input", [15, 15]), ("solution", [15, 15])):
        model = MgNO(1, 1, 1, 2, levels=3, dim=1, continuation=rule, bias_resolution=5).double()
        for bias, n in zip(model.biases, shapes, strict=True):
            with torch.no_grad():
                bias.values.copy_(torch.linspace(0, 1, 5, dtype=F64)[None])
            x = torch.linspace(0, 1, 17, dtype=F64)
            expected = x if n == 17 else x[1:-1]
            torch.testing.assert_close(bias((n,))[0, 0], expected, rtol=0, atol=1e-14)


def test_function_bias_is_periodic():
    model = MgNO(1, 1, 1, 1, levels=2, boundary="periodic", bias_resolution=4, dim=1).double()
    with torch.no_grad():
        model.biases[0].values.copy_(torch.tensor([[1.0, 2.0, 3.0, 5.0]]))
    expected = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 3.0]
    assert model.biases[0]((8,))[0, 0].tolist() == expected


def test_function_bias_learns_an_offset_that_a_constant_cannot():
    """u -> u + b(x), one linear layer (acceptance check 8)."""
    n = 31
    x = torch.arange(1, n + 1) / (n + 1)
    b = (torch.sin(math.pi * x)[:, None] * torch.exp(x)[None])[None, None]
    errors = {}
    for kind in ("function", "constant"):
        torch.manual_seed(0)
        model = MgNO(1, 1, 4, 1, levels=2, activation="identity", bias=kind, output_boundary=False)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=300)
        for _ in range(300):
            u = torch.randn(8, 1, n, n)
            loss = (model(u) - u - b).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            u = torch.randn(64, 1, n, n)
            errors[kind] = float((model(u) - u - b).norm() / (u + b).norm())
            share = float(b.std() / (u + b).square().mean().sqrt())
    assert errors["function"] <= 1e-2
    assert errors["constant"] >= 0.95 * share


def test_residual_and_heads():
    model = MgNO(1, 1, 4, 1, levels=2, residual=True, boundary="periodic").double()
    x = rand(1, 1, 8, 8)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(model(x), x)
    model = MgNO(1, 3, 4, 2, levels=2, head="multigrid", boundary="periodic").double()
    assert isinstance(model.head, MultigridOperator)
    assert model(x).shape == (1, 3, 8, 8)


def test_zeroing_any_part_changes_the_output():
    model = MgNO(2, 1, 4, 2, levels=3, smoothing=[(1, 1)] * 3, coarse="fas").double()
    x = rand(1, 2, 17, 17)
    with torch.no_grad():
        y = model(x)
        for name, p in model.named_parameters():
            old = p.clone()
            p.zero_()
            assert float((model(x) - y).abs().max()) > 1e-8, name
            p.copy_(old)


def test_periodic_network_commutes_with_shifts():
    model = MgNO(1, 1, 4, 2, levels=3, boundary="periodic", bias="constant").double()
    x = rand(1, 1, 16, 16)
    a, b = model(x.roll((4, 8), (2, 3))), model(x).roll((4, 8), (2, 3))
    assert float((a - b).detach().abs().max()) <= 1e-12


def test_refined_network():
    model = build_mgno(spec(Grid.unit(17, dim=2)), hidden_channels=4, head="multigrid")
    fine = model.refined()
    assert [c.levels for c in fine.cycles] == [c.levels + 1 for c in model.cycles]
    x = torch.randn(1, 1, 33, 33)
    u = fine(x)
    assert u.shape == x.shape
    u.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in fine.parameters())
    rebuilt = build_mgno(
        spec(Grid.unit(33, dim=2)), hidden_channels=4, head="multigrid", **fine.resolved_options
    )
    rebuilt.load_state_dict(fine.state_dict())
    assert torch.equal(rebuilt(x), u)


def test_refined_network_is_near_the_coarse_one():
    """With the Poisson start in the cycle, refining changes the answer by O(h^2) of smooth data."""
    model = MgNO(1, 1, 1, 1, levels=4, smoothing=[(2, 2)] * 4, pointwise=False, bias=None,
                 activation="identity").double()  # fmt: skip
    model.cycles[0].init_poisson(1 / 16)
    with torch.no_grad():
        model.head.weight.fill_(1.0)
    x = torch.linspace(0, 1, 33, dtype=F64)
    f = torch.outer(torch.sin(math.pi * x), torch.sin(math.pi * x))[None, None]
    u, v = model(f[..., ::2, ::2]), model.refined()(f)
    assert float(((v[..., ::2, ::2] - u).abs().max() / u.abs().max()).detach()) < 0.03


# -- from a dataset ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "levels", "uneven"),
    [(65, 6, "error"), (129, 6, "error"), (128, 6, "ceil"), (33, 5, "error"), (421, 6, "ceil")],
)
@pytest.mark.parametrize("rule", ["free", "free_input", "solution"])
def test_levels_follow_the_grid(n, levels, uneven, rule):
    model = build_mgno(spec(Grid.unit(n, dim=2)), hidden_channels=2, continuation=rule)
    assert model.resolved_options["levels"] == levels
    assert model.resolved_options["uneven"] == uneven
    inner = n if rule == "free" else n - 2
    assert model.cycles[1].level_shapes((inner, inner))[0] == (inner, inner)
    if n <= 129:
        assert model(torch.randn(1, 1, n, n)).shape == (1, 1, n, n)


def test_boundary_of_the_dataset():
    grid = Grid((Axis("x", 17), Axis("y", 16, periodic=True)))
    model = build_mgno(spec(grid, (("dirichlet", "neumann"), ("periodic",) * 2), 0.5))
    assert [(a.left, a.right) for a in model.axes] == [
        ("dirichlet", "neumann"), ("periodic", "periodic"),
    ]  # fmt: skip
    u = model(torch.randn(1, 1, 17, 16))
    assert bool((u[0, 0, 0] == 0.5).all())
    cell = build_mgno(spec(Grid.unit(16, dim=1, location="cell_center")))
    assert cell.axes[0].layout == "cell"
    assert cell.axes[0].left == "dirichlet"


@pytest.mark.parametrize(
    ("kind", "value", "channels", "options"),
    [
        ("none", None, (1, 1), {}),
        ("robin", None, (1, 1), {}),
        ("dirichlet", None, (1, 1), {}),  # several values, or unknown: no wall is invented
        ("dirichlet", 0.0, (1, 2), {}),  # the kind is that of the first output alone
        ("dirichlet", 0.0, (1, 1), {"exact_boundary": False}),
    ],
)
def test_walls_are_learned_where_no_value_is_known(kind, value, channels, options):
    model = build_mgno(spec(Grid.unit(17, dim=2), kind, value, channels), **options)
    assert all(a.left == a.right == "neumann" for a in model.axes)
    u = model(torch.randn(1, 1, 17, 17))
    assert torch.unique(u[0, 0, 0]).numel() == 17


def test_factory_errors():
    with pytest.raises(ValueError, match=r"axis 'x': boundary .*periodic=False"):
        build_mgno(spec(Grid.unit(16, dim=2), "periodic"))
    with pytest.raises(ValueError, match="axis 0 has 17 unknowns and cannot be coarsened 9 times"):
        build_mgno(spec(Grid.unit(17, dim=2)), levels=10)
    with pytest.raises(ValueError, match="smoothing has 2 entries, expected levels=3"):
        build_mgno(spec(Grid.unit(17, dim=2)), levels=3, smoothing=[[1, 0], [1, 0]])
    with pytest.raises(ValueError, match="no interior between the walls"):
        build_mgno(spec(Grid.unit(2, dim=2)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hidden_channels": 0}, "hidden_channels=0: need an integer >= 1"),
        ({"activation": "gellu"}, "unknown activation 'gellu'. Did you mean 'gelu'"),
        ({"bias": "functions"}, "unknown bias 'functions'. Did you mean 'function'"),
        ({"bias_resolution": 1}, "bias_resolution=1: need an integer >= 2"),
        ({"head": "mg"}, "unknown head 'mg'"),
        ({"continuation": "frei"}, "unknown continuation 'frei'. Did you mean 'free'"),
        ({"residual": True, "out_channels": 2}, "in_channels=1 must equal out_channels=2"),
        ({"boundary_value": math.nan}, "boundary_value=nan: need a finite number"),
    ],
)
def test_bad_arguments_of_the_network(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MgNO(1, **kwargs)


def test_bad_inputs_of_the_network():
    model = MgNO(2, levels=2)
    with pytest.raises(
        ValueError, match=r"x has shape \(1, 1, 9, 9\), expected \(batch, 2, n1, n2\)"
    ):
        model(torch.zeros(1, 1, 9, 9))
    with pytest.raises(ValueError, match="2 points on axis 1: no interior"):
        model(torch.zeros(1, 2, 9, 2))
    with pytest.raises(ValueError, match="cannot be coarsened 1 times"):
        model(torch.zeros(1, 2, 10, 10))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_gradients_lie_in_memory_as_the_weights(dim):
    """Or distributed training copies, and warns."""
    model = build_mgno(spec(Grid.unit(9, dim=dim)), hidden_channels=3, head="multigrid")
    model(torch.randn(2, 1, *[9] * dim)).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad.stride() == p.stride(), name
