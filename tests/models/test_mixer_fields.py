"""Experts, Taylor expansion, dispatch and integration of MixER, against mathematics."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from models.mixer import (
    BANKS,
    CoDABank,
    GEPSBank,
    NCFBank,
    PLRNNBank,
    Solver,
    build_mixer,
    odeint_scaled,
    taylor_field,
)
from models.mixer.integrate import iterate_map
from models.mixer.mixer import make_plan
from models.mixer.vector_fields import _load_forward_mode
from models.spec import TrajectorySpec

torch.set_num_threads(1)
_load_forward_mode()  # torch warns of itself when it does so


def random_bank(kind, e=3, d=2, c=4, **options):
    torch.manual_seed(0)
    bank = kind(e, d, c, width=8, **options).double()
    with torch.no_grad():
        for p in bank.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return bank


def random_model(expert="ncf", n=7, **options):
    torch.manual_seed(1)
    model = build_mixer(
        TrajectorySpec(2, n, 3), expert=expert, width=8, context_size=6, **options
    ).double()
    with torch.no_grad():
        model.contexts.values.normal_()
        for p in model.bank.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


# -- the experts are what the papers say ---------------------------------------------------------


def test_geps_is_low_rank_adaptation():
    bank = random_bank(GEPSBank, depth=1)
    x, z = torch.randn(5, 2).double(), torch.randn(4).double()
    y = bank.rates(x[None], z[None], torch.tensor([1]))[0]
    w = {k: p[1] for k, p in bank.named_parameters()}
    code = z + w["shift"][0]
    h = x
    for i in range(2):
        weight = w[f"weight{i}"] + w[f"down{i}"] @ torch.diag(code) @ w[f"up{i}"]
        h = h @ weight + w[f"bias{i}"] + code @ w[f"bias_up{i}"]
        if i == 0:
            h = h * torch.sigmoid(h)
    torch.testing.assert_close(y, h, rtol=1e-12, atol=1e-12)


def test_coda_weights_are_linear_in_the_context():
    bank = random_bank(CoDABank, depth=1)
    x, z = torch.randn(5, 2).double(), torch.randn(4).double()
    y = bank.rates(x[None], z[None], torch.tensor([2]))[0]
    w = {k: p[2] for k, p in bank.named_parameters()}
    code = z + w["shift"][0]
    h = x
    for i in range(2):
        weight = w[f"weight{i}"] + torch.einsum(
            "c,cab->ab", code, w[f"weight_code{i}"].view(4, *w[f"weight{i}"].shape)
        )
        h = h @ weight + w[f"bias{i}"] + code @ w[f"bias_code{i}"]
        if i == 0:
            h = h * torch.sigmoid(h)
    torch.testing.assert_close(y, h, rtol=1e-12, atol=1e-12)


def test_ncf_is_three_networks_with_swish():
    bank = random_bank(NCFBank, depth=2, intermediate=4, depth_small=2)
    x, z = torch.randn(5, 2).double(), torch.randn(4).double()
    y = bank.rates(x[None], z[None], torch.tensor([1]))[0]
    w = {k: p[1] for k, p in bank.named_parameters()}

    def swish(h, name):
        return h * torch.sigmoid(w[name].exp() * h)

    def network(h, name, layers, last):
        for i in range(layers):
            h = h @ w[f"{name}_weight{i}"] + w[f"{name}_bias{i}"]
            h = swish(h, f"{name}_beta{i}") if last or i < layers - 1 else h
        return h

    both = torch.cat(
        [
            network(x, "state", 2, True),
            network(z + w["shift"], "context", 2, True).expand(5, -1),
        ],
        dim=1,
    )
    torch.testing.assert_close(y, network(both, "main", 3, False), rtol=1e-12, atol=1e-12)


def test_plrnn_is_piecewise_linear_and_hierarchical():
    bank = random_bank(PLRNNBank)
    z, code = torch.randn(5, 2).double(), torch.randn(4).double()
    y = bank.rates(z[None], code[None], torch.tensor([0]))[0]
    w = {k: p[0] for k, p in bank.named_parameters()}
    code = code + w["shift"][0]

    def of(name):
        return w[name] + (code @ w[f"{name}_code"]).view_as(w[name])

    hidden = (z @ of("weight2") + of("shift2")).clamp_min(0)
    expected = of("diagonal") * z + hidden @ of("weight1") + of("shift1")
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("expert", list(BANKS))
def test_every_parameter_matters(expert):
    model = random_model(expert)
    environments = torch.arange(14) % 7
    x0, times = torch.randn(14, 2).double(), torch.linspace(0, 1, 5).double().expand(14, 5)
    model.assigned.copy_(torch.arange(7) % 3)
    model(x0, times, environments).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and (p.grad != 0).any(), name
        if name.startswith("bank"):  # of each expert
            assert (p.grad.flatten(1) != 0).any(1).all(), name


def test_experts_start_equal_and_copy():
    bank = NCFBank(3, 2, 4)
    assert all(torch.equal(p[0], p[2]) for p in bank.parameters())
    with torch.no_grad():
        for p in bank.parameters():
            p.normal_()
    first = [p[1].clone() for p in bank.parameters()]
    bank.copy_(1)
    assert all(
        torch.equal(p, f.expand_as(p)) for p, f in zip(bank.parameters(), first, strict=True)
    )


@pytest.mark.parametrize("name", ["n_experts", "n_states", "context_size"])
def test_bad_sizes(name):
    sizes = {"n_experts": 2, "n_states": 2, "context_size": 2} | {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0: need an integer >= 1"):
        NCFBank(**sizes)


# -- contextual self-modulation (acceptance 5) ----------------------------------------------------


def test_taylor_orders_against_explicit_derivatives():
    bank = random_bank(NCFBank)
    x = torch.randn(1, 1, 2).double()
    near, context = torch.randn(1, 1, 4).double(), torch.randn(1, 1, 4).double()
    picked = bank.pick(torch.tensor([2]))

    def value(c):
        return bank.bind(picked, c.view(1, 1, 4))(x).flatten()

    f, d = value(near.flatten()), (context - near).flatten()
    jacobian = torch.func.jacfwd(value)(near.flatten())
    hessian = torch.func.jacfwd(torch.func.jacrev(value))(near.flatten())
    expected = [f, f + jacobian @ d]
    expected.append(expected[1] + 0.5 * torch.einsum("kij,i,j->k", hessian, d, d))
    for order in range(3):
        found = taylor_field(lambda c: bank.bind(picked, c), context, near, order)(x).flatten()
        torch.testing.assert_close(found, expected[order], rtol=0, atol=1e-10)
    assert (expected[2] - expected[1]).abs().max() > 1e-3  # the orders differ


def test_taylor_exact_for_a_quadratic_at_order_two_alone():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 3, generator=g).double(), torch.randn(3, generator=g).double()

    def make(c):
        return lambda x: x * (1 + c @ b + c @ a @ c)

    x, near, context = (torch.randn(3, generator=g).double() for _ in range(3))
    exact = make(context)(x)
    error = [(taylor_field(make, context, near, k)(x) - exact).abs().max().item() for k in range(3)]
    assert error[2] < 1e-12 and min(error[:2]) > 1e-2


def test_taylor_is_differentiable_and_checked():
    bank = random_bank(NCFBank)
    near = torch.randn(1, 1, 4).double().requires_grad_()
    context = torch.randn(1, 1, 4).double().requires_grad_()
    picked = bank.pick(torch.tensor([0]))
    taylor_field(lambda c: bank.bind(picked, c), context, near, 2)(
        torch.randn(1, 3, 2).double()
    ).sum().backward()
    assert near.grad.abs().sum() > 0 and context.grad.abs().sum() > 0
    assert bank.main_weight0.grad[0].abs().sum() > 0
    with pytest.raises(ValueError, match="order=3: allowed 0, 1, 2"):
        taylor_field(lambda c: bank.bind(picked, c), context, near, 3)


# -- dispatch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("expert", list(BANKS))
@pytest.mark.parametrize("split", [False, True])
def test_a_batch_is_its_trajectories_one_by_one(expert, split):
    model = random_model(expert, split_context=split)
    environments = torch.arange(40) % 7
    x0 = torch.randn(40, 2).double()
    times = torch.rand(40, 6).double().cumsum(1)
    experts = model.experts()[environments]
    found = model(x0, times, environments)
    for i in range(40):
        one = model.trajectories(
            x0[i : i + 1], times[i : i + 1], model.contexts(environments[i : i + 1]),
            experts[i : i + 1],
        )  # fmt: skip
        torch.testing.assert_close(found[i : i + 1], one, rtol=1e-10, atol=1e-11)
    every = model.every_expert(x0, times, environments)
    torch.testing.assert_close(every[experts, torch.arange(40)], found, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("counts", "stacks"),
    [((40,), 1), ((1, 1, 1), 1), ((100, 1, 3), 1), ((7, 0, 9), 1), ((500, 2, 2, 2, 2), 2),
     ((3000, 2, 5, 2, 2, 3, 7), 2), ((900, 901, 30, 20, 31, 30, 29, 30), 2)],
)  # fmt: skip
def test_plan_groups_by_key_and_pads_little(counts, stacks):
    keys = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    keys = keys[torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))]
    plan = make_plan(keys)
    assert len(plan.shapes) == stacks
    for stack in plan.split(plan.scatter(keys)):
        assert (stack == stack[:, :1]).all()
    starts = torch.cat([s[:, 0] for s in plan.split(plan.scatter(keys))])
    torch.testing.assert_close(plan.first(keys), starts)
    rows = torch.arange(len(keys))
    torch.testing.assert_close(plan.gather(plan.scatter(rows)), rows)
    slots, used = len(plan.index), len([n for n in counts if n])
    assert slots <= 2 * len(keys) + 22 * used
    assert stacks == 1 or slots <= 1.05 * len(keys)


@pytest.mark.parametrize("expert", list(BANKS))
@pytest.mark.parametrize("order", [0, 1])
def test_two_stacks_and_one_give_the_same(expert, order, monkeypatch):
    """States and gradients, where one expert has nearly all rows."""
    model = random_model(expert)
    model.assigned.copy_(torch.tensor([0, 0, 0, 0, 0, 1, 2]))
    environments = torch.where(torch.arange(1200) < 1150, 0, torch.arange(1200) % 7)
    x0, times = torch.randn(1200, 2).double(), torch.linspace(0, 1, 4).double().expand(1200, 4)
    context = model.contexts(environments)
    near = model.contexts((environments + 1) % 5) if order else None
    experts = model.experts()[environments]

    def run():
        model.zero_grad()
        y = model.trajectories(
            x0, times, context, experts, keys=environments, near=near, order=order
        )
        y.square().mean().backward(retain_graph=True)
        return [y.detach(), *(p.grad.clone() for p in model.parameters())]

    assert len(make_plan(environments if model.bank.by_environment else experts).shapes) == 2
    two = run()
    # one group size for all: what is done off the CPU
    monkeypatch.setattr("models.mixer.mixer._STACK", 10**9)
    assert len(make_plan(experts).shapes) == 1
    for a, b in zip(two, run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_top_one_runs_one_expert_a_trajectory():
    """What the other experts hold does not matter, not even NaN."""
    model = random_model()
    model.assigned.copy_(torch.tensor([0, 1, 0, 1, 0, 1, 0]))
    environments, times = torch.arange(7), torch.linspace(0, 1, 4).double().expand(7, 4)
    x0 = torch.randn(7, 2).double()
    before = model(x0, times, environments)
    with torch.no_grad():
        for p in model.bank.parameters():
            p[2] = torch.nan
    after = model(x0, times, environments)
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    rows = []
    hook = model.bank.bind
    model.bank.bind = lambda w, c: _counting(hook(w, c), rows)
    model(x0, times, environments)
    assert max(rows) <= 2 * 7


def _counting(field, rows):
    def counted(x):
        rows.append(x.shape[0] * x.shape[1])
        return field(x)

    return counted


# -- scaled time (acceptance 6) -------------------------------------------------------------------


def test_two_horizons_in_one_batch_equal_separate_runs():
    model = random_model()
    tau = torch.linspace(0, 1, 9).double()
    horizon = torch.tensor([4.0, 20.0]).double()
    x0, environments = torch.randn(2, 2).double(), torch.tensor([0, 3])
    both = model(x0, horizon[:, None] * tau, environments)
    for i in range(2):
        alone = model(x0[i : i + 1], (horizon[i] * tau)[None], environments[i : i + 1])
        assert (both[i] - alone[0]).abs().max() < 1e-8


def rotation(x):
    return torch.stack([x[..., 1], -x[..., 0]], dim=-1)


def test_order_four_with_a_horizon_of_each():
    x0 = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    times = torch.tensor([[4.0], [20.0]]).double() * torch.linspace(0, 1, 11).double()
    exact = torch.stack(
        [
            torch.stack([times.cos()[0], -times.sin()[0]], dim=-1),
            torch.stack([times.sin()[1], times.cos()[1]], dim=-1),
        ]
    )
    errors = [
        (odeint_scaled(rotation, x0, times, substeps=k) - exact).abs().amax((1, 2)).numpy()
        for k in (4, 8, 16)
    ]
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (order >= 3.8).all(), order


@pytest.mark.parametrize("substeps", [1, 3])
def test_rk4_is_torchdiffeqs(substeps):
    from torchdiffeq import odeint

    def field(x):
        return torch.sin(x) - 0.3 * x.flip(-1)

    x0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    t = torch.linspace(0, 2, 5, dtype=torch.float64)
    fine = torch.linspace(0, 2, 4 * substeps + 1, dtype=torch.float64)
    expected = odeint(lambda _, x: field(x), x0, fine, method="rk4")[::substeps]
    found = odeint_scaled(field, x0, t.expand(5, 5), substeps=substeps)
    torch.testing.assert_close(found.transpose(0, 1), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize("gradients", ["direct", "adjoint"])
def test_dopri5_against_scipy_and_its_gradients(irregular, gradients):
    matrix = nn.Parameter(torch.tensor([[0.0, 1.0], [-2.0, -0.1]]).double())
    x0 = torch.tensor([[1.0, 0.5], [-0.3, 0.2]]).double().requires_grad_()
    times = torch.tensor([[0.0, 0.4, 0.8, 1.2], [0.0, 1.0, 2.0, 3.0]]).double()
    if irregular:
        times = times + torch.tensor([0.0, 0.1, -0.05, 0.3]).double()
    found = odeint_scaled(
        lambda x: x @ matrix.T, x0, times, method="dopri5", gradients=gradients,
        parameters=(matrix,), rtol=1e-9, atol=1e-10,
    )  # fmt: skip
    for i in range(2):
        t = times[i].numpy()
        truth = solve_ivp(
            lambda _, y: matrix.detach().numpy() @ y, (t[0], t[-1]), x0[i].detach().numpy(),
            "DOP853", t, rtol=1e-12, atol=1e-13,
        ).y.T  # fmt: skip
        np.testing.assert_allclose(found[i].detach().numpy(), truth, atol=1e-7)
    found[:, -1].square().sum().backward()
    span = times[:, -1] - times[:, 0]
    flow = torch.linalg.matrix_exp(span[:, None, None] * matrix.detach())
    last = torch.einsum("bij,bj->bi", flow, x0.detach())
    expected = 2 * torch.einsum("bji,bj->bi", flow, last)
    torch.testing.assert_close(x0.grad, expected, rtol=1e-6, atol=1e-6)
    exact = nn.Parameter(matrix.detach().clone())
    flow = torch.linalg.matrix_exp(span[:, None, None] * exact)
    torch.einsum("bij,bj->bi", flow, x0.detach()).square().sum().backward()
    torch.testing.assert_close(matrix.grad, exact.grad, rtol=1e-6, atol=1e-6)


def test_equal_times_hold_the_state():
    x0 = torch.tensor([[1.0, 0.0]]).double()
    times = torch.tensor([[0.0, 1.0, 1.0, 1.0]]).double()
    for method in ("rk4", "dopri5"):
        y = odeint_scaled(rotation, x0, times, method=method)
        torch.testing.assert_close(y[:, 2:], y[:, 1:2].expand(-1, 2, -1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_blow_up_is_held_with_finite_gradients(method):
    weight = nn.Parameter(torch.tensor(1.0).double())
    x0 = torch.tensor([[2.0], [-0.1]]).double()
    times = torch.linspace(0, 3, 7).double().expand(2, 7)
    y = odeint_scaled(lambda x: weight * x**2, x0, times, method=method, limit=50.0)
    assert torch.isfinite(y).all() and y.max() <= 50.0
    exact = x0[1] / (1 - x0[1] * times[1])
    torch.testing.assert_close(y[1, :, 0], exact, rtol=1e-3, atol=1e-4)
    y.square().sum().backward()
    assert torch.isfinite(weight.grad)


def test_solver_settings_are_checked():
    with pytest.raises(ValueError, match="gradients='adjoint' needs method='dopri5'"):
        Solver(gradients="adjoint")
    with pytest.raises(ValueError, match="substeps=0"):
        Solver(substeps=0)
    with pytest.raises(ValueError, match="leading axes must agree"):
        odeint_scaled(rotation, torch.zeros(2, 2), torch.zeros(3, 4))


def test_teacher_forcing():
    data = torch.arange(5.0)[None, :, None] * 10
    observed = torch.ones_like(data, dtype=torch.bool)
    observed[0, 2] = False
    free = iterate_map(lambda z: z + 1, torch.zeros(1, 1), 5)
    assert free.flatten().tolist() == [0, 1, 2, 3, 4]
    half = iterate_map(
        lambda z: z + 1, torch.zeros(1, 1), 5, data=data, observed=observed, forcing=0.5
    )
    # z1 = 1 -> 5.5 -> 6.5 (not observed) -> 7.5 -> 18.75 -> 19.75
    assert half.flatten().tolist() == [0, 1, 6.5, 7.5, 19.75]
