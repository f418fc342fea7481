"""DeepONet and its kin: layouts agree, structure is as the theory says, errors name the numbers."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

from models import build_model
from models.deeponet import (
    FNN,
    MLP,
    CNNBranch,
    DeepONet,
    FourierFeatures,
    MIONet,
    ModifiedDeepONet,
    PeriodicFeatures,
    PODDeepONet,
    ZeroOnSides,
    pod_basis,
    resample_to_sensors,
)
from models.spec import FunctionSpec, PointsSpec

STRATEGIES = ("independent", "split_both", "split_branch", "split_trunk")


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 with random weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model


def all_models() -> dict[str, nn.Module]:
    """One of each kind, with its inputs' sizes in `branch_in`."""
    out: dict[str, nn.Module] = {}
    for c, strategy in itertools.product((1, 3), STRATEGIES):
        common = {"out_channels": c, "multi_output": strategy}
        out[f"one {strategy} {c}"] = DeepONet(7, 2, 6, (9,), (8,), "tanh", **common)
        out[f"two {strategy} {c}"] = DeepONet((7, 4), 2, 6, (9,), (8,), "tanh", **common)
    out["stacked"] = DeepONet(7, 2, 6, (9, 5), (8,), "tanh", stacked=True, out_channels=3)
    for merge in ("add", "cat", "join"):
        out[f"mionet {merge}"] = MIONet((7, 4), 2, 6, (9,), (8,), "gelu", merge=merge)
    for c in (1, 3):
        out[f"modified {c}"] = ModifiedDeepONet((7, 4), 2, 6, (9, 9), out_channels=c)
        out[f"fnn {c}"] = FNN((7, 4), 2, (9, 9), "tanh", out_channels=c)
    bounds, sides = ((0.0, 1.0), (0.0, 1.0)), ((True, True), (True, False))
    for c in (1, 3):
        out[f"features {c}"] = DeepONet(
            7, 2, 6, (9,), (8,), "tanh", out_channels=c,
            trunk_features=PeriodicFeatures((1,), (1.0,)),
            output_transform=ZeroOnSides(bounds, sides, 0.5, out_channels=c),
        )  # fmt: skip
    return {k: randomized(m) for k, m in out.items()}


MODELS = all_models()


def functions(model: nn.Module, b: int) -> torch.Tensor | tuple[torch.Tensor, ...]:
    us = tuple(rand(b, m, seed=k) - 0.5 for k, m in enumerate(model.branch_in))
    return us if len(us) > 1 else us[0]


@pytest.mark.parametrize("name", MODELS)
def test_layouts_agree(name: str) -> None:
    """Cartesian, ragged and pairs give the same to 1e-12, also where all sizes coincide."""
    model = MODELS[name]
    for b, n in ((4, 5), (3, 3), (1, 2)):
        u, y = functions(model, b), rand(n, 2, seed=9)
        cartesian = model(u, y)
        c = model.out_channels
        assert cartesian.shape == ((b, n) if c == 1 else (b, n, c))
        ragged = model(u, y.expand(b, n, 2))
        torch.testing.assert_close(ragged, cartesian, rtol=1e-12, atol=1e-12)
        us = u if isinstance(u, tuple) else (u,)
        rows = tuple(x.repeat_interleave(n, 0) for x in us)
        pairs = model.forward_pairs(rows if len(us) > 1 else rows[0], y.repeat(b, 1))
        torch.testing.assert_close(
            pairs.reshape(cartesian.shape), cartesian, rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("name", MODELS)
def test_every_part_is_used(name: str) -> None:
    """Each weight has a gradient, and zeroing a weight tensor changes the output."""
    import copy

    model = copy.deepcopy(MODELS[name])
    u, y = functions(model, 3), rand(5, 2, seed=9)
    before = model(u, y)
    before.square().sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and bool(p.grad.abs().sum() > 0), key
        kept = p.detach().clone()
        with torch.no_grad():
            p.zero_()
            assert not torch.allclose(model(u, y), before), key
            p.copy_(kept)


def test_trunk_sees_each_point_once() -> None:
    """The Cartesian path evaluates the trunk on exactly N points."""
    seen = []

    class Counting(MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape[:-1].numel())
            return super().forward(x)

    model = DeepONet(7, 2, 6, trunk=Counting((2, 8, 6), last=True))
    model(torch.zeros(11, 7), torch.zeros(5, 2))
    assert seen == [5]


def test_output_is_of_rank_p_and_that_of_an_mlp_is_not() -> None:
    """Separable structure: G(u_i)(y_j) - b0 has rank p."""
    model = randomized(DeepONet(7, 1, 5, (20,), (20,), "tanh"))
    u, y = rand(40, 7), rand(40, 1, seed=1)

    def sixth(g: torch.Tensor) -> float:
        s = torch.linalg.svdvals(g.detach())
        return float(s[5] / s[0])

    assert sixth(model(u, y) - model.bias) < 1e-10
    assert sixth(randomized(FNN(7, 1, (20, 20), "tanh"))(u, y)) > 1e-6


def test_stacked_is_block_diagonal_unstacked() -> None:
    model = MODELS["stacked"]
    other = model.unstacked()
    u, y = rand(8, 7), rand(9, 2, seed=1)
    torch.testing.assert_close(other(u, y), model(u, y), rtol=1e-12, atol=1e-12)
    assert any(isinstance(m, MLP) for m in other.branches[0])
    # each term of the stacked branch depends on weights of its own
    b = model.branch_outputs(u).flatten(1)
    with torch.no_grad():
        other.branches[0][0][0].weight[:9] *= 2
    changed = (other.branch_outputs(u).flatten(1) - b).abs().amax(0) > 1e-12
    assert changed.tolist() == [True] + [False] * 5


def test_architecture_of_the_paper() -> None:
    """Linear branch head, activation behind the trunk, Glorot weights, zero biases, b0 = 0."""
    torch.manual_seed(0)
    model = DeepONet(100, 1, 40, (40,), (40,), "relu")
    y = torch.linspace(-1, 1, 50)[:, None]
    t = model.trunk_outputs(y)
    assert bool((t >= 0).all()) and bool((model.branch_outputs(torch.randn(9, 100)) < 0).any())
    first = model.branches[0][0][0]
    assert abs(float(first.weight.detach().std()) / (2 / 140) ** 0.5 - 1) < 0.1
    assert not any(bool(p.any()) for k, p in model.named_parameters() if k.endswith("bias"))
    assert DeepONet(3, 1, bias=False).bias is None


# -- features and hard conditions ----------------------------------------------------------------


def test_periodic_features_are_periodic_and_leave_their_input_alone() -> None:
    features = PeriodicFeatures((0,), (1.0,), n=3)
    model = randomized(DeepONet(7, 2, 6, trunk_features=features))
    u, y = rand(4, 7), rand(30, 2, seed=1)
    kept = y.clone()
    shifted = y.clone()
    shifted[:, 0] += 1
    gap = (model(u, shifted) - model(u, y)).detach().abs().max()
    assert float(gap) <= 1e-12
    assert torch.equal(y, kept)
    expected = torch.stack(
        [y[:, 1]]
        + [f(2 * torch.pi * k * y[:, 0]) for k in (1, 2, 3) for f in (torch.cos, torch.sin)],
        dim=1,
    )
    torch.testing.assert_close(features(y), expected, rtol=0, atol=1e-13)


def test_fourier_features() -> None:
    features = FourierFeatures(2, 5, scale=3.0, seed=1).double()
    y = rand(6, 2)
    z = features(y)
    assert z.shape == (6, features.width(2)) and torch.equal(z[:, :2], y)
    torch.testing.assert_close(z[:, 2:7] ** 2 + z[:, 7:] ** 2, torch.ones(6, 5).double())
    assert torch.equal(
        FourierFeatures(2, 5, seed=1).frequencies, FourierFeatures(2, 5, seed=1).frequencies
    )
    assert "frequencies" in features.state_dict()


@pytest.mark.parametrize("c", [1, 3])
def test_hard_conditions_hold_for_any_weights(c: int) -> None:
    sides = ((True, True), (True, False))
    transform = ZeroOnSides(((0.0, 1.0), (-1.0, 1.0)), sides, 0.25, out_channels=c)
    model = randomized(DeepONet(7, 2, 6, out_channels=c, output_transform=transform))
    t = torch.linspace(0, 1, 11).double()
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    for y in ((zero, 2 * t - 1), (one, 2 * t - 1), (t, -one)):
        s = model(rand(4, 7), torch.stack(y, 1))
        assert bool((s == 0.25).all())
    free = model(rand(4, 7), torch.stack((t, one), 1))[:, 1:-1]
    assert bool((free != 0.25).all())


# -- POD -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_pod_identities(c: int | None, weighted: bool) -> None:
    """Exact coefficients give the projection; on train its error is the sum of what is left out."""
    n, points, q = 30, 23, 6
    w = rand(points, seed=5) + 0.2 if weighted else torch.ones(points).double()
    w = w / w.sum()
    shape = (points,) if c is None else (points, c)
    decay = 0.5 ** torch.arange(n)
    train = (rand(n, n, seed=1) * decay) @ rand(n, points * (c or 1), seed=2)
    test = (rand(8, n, seed=3) * decay) @ rand(n, points * (c or 1), seed=2)
    train, test = train.reshape(n, *shape), test.reshape(8, *shape)
    model = PODDeepONet.from_data(train, 4, modes=q, weights=w if weighted else None).double()
    _, _, eigenvalues = pod_basis(train, modes=q, weights=w)
    wide = w if c is None else w[:, None]

    def mean_square(e: torch.Tensor) -> float:
        return float((e**2 * wide).flatten(1).sum(1).mean() / (c or 1))

    torch.testing.assert_close(mean_square(model.basis.movedim(-1, 0)), 1.0)  # RMS 1
    rebuilt = model.decode(model.coefficients(train))
    left_out = float(eigenvalues[q:].sum())
    assert abs(mean_square(rebuilt - train) / left_out - 1) < 1e-8
    # test: the same as the orthogonal projection by least squares
    root = wide.sqrt()
    v = (model.basis * root[..., None]).flatten(0, -2)
    rest = ((test - model.mean) * root).flatten(1)
    projected = rest - (torch.linalg.lstsq(v, rest.T).solution.T @ v.T)
    error = ((model.decode(model.coefficients(test)) - test) * root).flatten(1)
    torch.testing.assert_close(error, -projected, rtol=0, atol=1e-10)


def test_pod_branch_with_exact_coefficients_gives_the_projection() -> None:
    """Through `forward`: a branch that returns the exact coefficients."""
    train = rand(20, 15, seed=1)

    class Exact(nn.Module):
        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return model.coefficients(u)

    model = PODDeepONet.from_data(train, 15, modes=4, branch=Exact()).double()
    test = rand(5, 15, seed=2)
    unit = model.basis / 15**0.5
    projection = model.mean + (test - model.mean) @ unit @ unit.T
    torch.testing.assert_close(model(test), projection, rtol=0, atol=1e-10)


def test_pod_energy_and_state() -> None:
    train = rand(20, 15, seed=1)
    few = PODDeepONet.from_data(train, 7, energy=0.5)
    most = PODDeepONet.from_data(train, 7, energy=1.0)
    assert few.modes < most.modes == 15
    state = few.state_dict()
    assert {"basis", "mean", "points", "weights"} <= set(state)
    other = PODDeepONet(torch.zeros(15, few.modes), torch.zeros(15), 7).double()
    other.load_state_dict(state)
    assert torch.equal(other.basis, few.basis) and other.basis.dtype == torch.float64
    u = rand(3, 7)
    few.double()
    other.load_state_dict(few.state_dict())
    assert torch.equal(other(u), few(u))


def test_pod_with_trunk_and_other_grids() -> None:
    points = rand(15, 2, seed=4)
    train = rand(20, 15, 2, seed=1)
    model = PODDeepONet.from_data(
        train, (7, 3), modes=4, points=points, trunk_layers=(8,), latent=5
    )
    model = model.double()
    model.net.branches[0][0][-1].weight.data *= 3
    u = (rand(3, 7), rand(3, 3))
    assert model(u, points).shape == (3, 15, 2)
    assert torch.equal(model(u), model(u, points))
    before = model(u)
    model.trunk[0].weight.data *= 2
    assert not torch.equal(model(u), before)
    with pytest.raises(ValueError, match=r"14, 2.*15"):
        model(u, points[:14])
    with pytest.raises(ValueError, match="away"):
        model(u, points + 0.1)
    with pytest.raises(ValueError, match="not at pairs"):
        model.forward_pairs(u, points[:3])
    with pytest.raises(ValueError, match=r"modes=20.*1 to 15"):
        pod_basis(train[..., 0], modes=20)
    with pytest.raises(ValueError, match="no modes"):
        pod_basis(torch.ones(4, 5))


# -- errors, transforms of torch, parts ----------------------------------------------------------


def test_errors_name_argument_and_numbers() -> None:
    model = DeepONet(100, 2)
    y = torch.zeros(5, 2)
    cases = [
        (lambda: model(torch.zeros(3, 99), y), "99.*branch_in=100"),
        (lambda: model(torch.zeros(3, 100), torch.zeros(5, 3)), "5, 3.*trunk_in=2"),
        (lambda: model(torch.zeros(3, 100), torch.zeros(4, 5, 2)), "4 functions, u has 3"),
        (lambda: model.forward_pairs(torch.zeros(3, 100), torch.zeros(4, 2)), "4.*3"),
        (lambda: model((torch.zeros(3, 100),) * 2, y), "2 input functions, expected 1"),
        (lambda: model(torch.full((3, 100), torch.nan), y), "300 sensor values are not finite"),
        (lambda: DeepONet(4, 2, 10, out_channels=3), "latent=10.*out_channels=3"),
        (lambda: DeepONet(4, 2, 10, trunk=MLP((2, 7)))(torch.zeros(1, 4), y), "7.*width 10"),
        (lambda: DeepONet(4, 2, 10, branch=MLP((4, 7)))(torch.zeros(1, 4), y), "7.*10"),
        (lambda: DeepONet(4, 2, activation="rleu"), "relu"),
        (lambda: DeepONet(0, 2), "branch_in"),
        (lambda: MIONet((4,), 2), "two or more"),
        (lambda: ModifiedDeepONet(4, 2, layers=(8, 9)), "one width"),
        (lambda: PeriodicFeatures((3,), (1.0,)).width(2), "2 coordinates"),
        (lambda: ZeroOnSides(((1.0, 0.0),), ((True, False),)), "lower < upper"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", ["one split_both 1", "two split_trunk 3", "modified 1", "fnn 3"])
def test_vmap_and_derivatives(name: str) -> None:
    """`vmap` over functions; second derivatives in y against finite differences."""
    model = MODELS[name]
    u, y = functions(model, 4), rand(5, 2, seed=9)
    us = u if isinstance(u, tuple) else (u,)

    def one(*row: torch.Tensor) -> torch.Tensor:
        batch = tuple(r[None] for r in row)
        return model(batch if len(batch) > 1 else batch[0], y)[0]

    torch.testing.assert_close(torch.func.vmap(one)(*us), model(u, y), rtol=1e-12, atol=1e-12)
    e = torch.tensor([1.0, 0.0]).double().expand(5, 2)
    with warnings.catch_warnings():  # of torch, where it compiles its own rules at first use
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (y,), (y,))

    def slope(z: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(lambda v: model(u, v), (z,), (e,))[1]

    _, second = torch.func.jvp(slope, (y,), (e,))
    h = 1e-4
    difference = (model(u, y + h * e) - 2 * model(u, y) + model(u, y - h * e)) / h**2
    torch.testing.assert_close(second, difference, rtol=1e-5, atol=1e-6)


def test_compile() -> None:
    """The graph is captured whole and computes the same."""
    model = MODELS["one split_both 1"]
    u, y = functions(model, 4), rand(5, 2, seed=9)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(u, y), model(u, y), rtol=1e-12, atol=1e-12)


def test_building_draws_only_from_torchs_generator_and_changes_no_global_state() -> None:
    before = torch.get_default_dtype()
    state = torch.random.get_rng_state()
    FourierFeatures(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(3)
    a = DeepONet(4, 1)(torch.ones(1, 4), torch.ones(1, 1))
    torch.manual_seed(3)
    b = DeepONet(4, 1)(torch.ones(1, 4), torch.ones(1, 1))
    assert torch.equal(a, b) and torch.get_default_dtype() == before


def test_cnn_branch_and_custom_modules() -> None:
    torch.manual_seed(0)
    branch = CNNBranch(2, (12, 9), 10, channels=(4, 6), layers=(16,))
    model = DeepONet(2 * 12 * 9, 2, 10, branch=branch)
    u = torch.randn(3, 2, 12, 9)
    y = torch.rand(5, 2)
    torch.testing.assert_close(model(u, y), model(u.flatten(1), y))
    shifted = torch.roll(u, 1, dims=2)
    assert not torch.allclose(model(shifted, y), model(u, y))
    with pytest.raises(ValueError, match="three axes"):
        CNNBranch(1, (3, 3, 3, 3))


def test_resample_to_sensors() -> None:
    x = torch.tensor([0.0, 0.5, 2.0])
    values = torch.tensor([[0.0, 1.0, 4.0], [1.0, 1.0, -2.0]])
    got = resample_to_sensors(x, values, torch.tensor([0.0, 0.25, 1.25, 2.0]))
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.5, 2.5, 4.0], [1.0, 1.0, -0.5, -2.0]]))
    with pytest.raises(ValueError, match=r"outside the known points, 0\.0 to 2\.0"):
        resample_to_sensors(x, values, torch.tensor([2.5]))
    with pytest.raises(ValueError, match="increasing"):
        resample_to_sensors(x.flip(0), values, torch.tensor([0.5]))


# -- registry ------------------------------------------------------------------------------------

SPEC = PointsSpec(
    functions=(FunctionSpec("a", 1, (9, 10)), FunctionSpec("k", 2, ())),
    trunk_in=2,
    out_channels=2,
    bounds=((-1.0, 1.0), (-1.0, 1.0)),
    periodic=(True, False),
    fixed=((False, False), (True, False)),
    n_points=11,
)


@pytest.mark.parametrize("name", ["deeponet", "mionet", "modified_deeponet", "pod_deeponet", "fnn"])
def test_registered_models_follow_the_spec(name: str) -> None:
    """Built twice from resolved options they are the same; features and conditions come along."""
    torch.manual_seed(0)
    model, options = build_model(name, SPEC)
    torch.manual_seed(0)
    again, options_again = build_model(name, SPEC, options)
    assert options == options_again
    u = (torch.randn(3, 90), torch.randn(3, 2))
    y = torch.rand(11, 2)
    if name == "pod_deeponet":
        with torch.no_grad():
            model.basis.normal_()
            model.points.copy_(y)
        again.load_state_dict(model.state_dict())
    s = model(u, y)
    assert s.shape == (3, 11, 2) and torch.equal(again(u, y), s)
    if name == "pod_deeponet":
        return
    shifted = y + torch.tensor([2.0, 0.0])
    torch.testing.assert_close(model(u, shifted), s, rtol=1e-4, atol=1e-5)
    y[:, 1] = -1.0
    assert not bool(model(u, y).any())
    free, _ = build_model(name, SPEC, {"hard": "none"})
    with torch.no_grad():
        for p in free.parameters():
            p.add_(0.01)
    assert bool(free(u, y).any())


def test_registry_refuses_what_cannot_work() -> None:
    from dataclasses import replace

    single = replace(SPEC, functions=SPEC.functions[:1], n_points=0)
    for name, spec, message in (
        ("mionet", single, "use deeponet"),
        ("pod_deeponet", single, "use deeponet"),
        ("deeponet", replace(single, functions=SPEC.functions[1:]), "branch='cnn'"),
    ):
        with pytest.raises(ValueError, match=message):
            build_model(name, spec, {"branch": "cnn"})
    with pytest.raises(ValueError, match="periodic"):
        build_model("fnn", SPEC, {"n_fourier": 4})
