"""The gate's algebra (acceptance 1), the model's routing, and the alternation of the training."""

import numpy as np
import pytest
import torch

from models.mixer import GateUpdate, MetaTraining, build_mixer
from models.mixer.contexts import nearest_contexts
from models.mixer.gating import kmeans
from models.spec import TrajectorySpec

torch.set_num_threads(1)


def clustered(e=3, per=5, c=4, seed=0):
    """Contexts about e well separated centers, shuffled; losses with one best expert each."""
    rng = np.random.default_rng(seed)
    centers = 3 * rng.standard_normal((e, c))
    family = rng.permutation(np.repeat(np.arange(e), per))
    contexts = centers[family] + 0.05 * rng.standard_normal((e * per, c))
    expert = rng.permutation(e)
    losses = 1 + rng.random((e * per, e))
    losses[np.arange(e * per), expert[family]] = 0.1
    return torch.as_tensor(contexts), torch.as_tensor(losses), family, expert


@pytest.mark.parametrize("assignment", ["greedy", "hungarian"])
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_least_squares_and_routing_is_the_assignment(assignment, seed):
    contexts, losses, family, expert = clustered(seed=seed)
    update = GateUpdate(3, init="kmeans++", noise=0.0, assignment=assignment)
    found = []
    for before in (torch.zeros(5, 3).double(), 100 * torch.randn(5, 3).double()):
        r = update(contexts, losses, before, None, seed=seed)
        assert r.skipped is None
        design = np.concatenate([contexts.numpy(), np.ones((15, 1))], axis=1)
        target = np.eye(3)[expert[family]]
        expected = np.linalg.lstsq(design, target, rcond=None)[0]
        np.testing.assert_allclose(r.weight.numpy(), expected, atol=1e-10)
        routed = (torch.as_tensor(design) @ r.weight).argmax(1)
        assert torch.equal(routed, r.experts)
        np.testing.assert_array_equal(routed.numpy(), expert[family])  # so the Rand index is 1
        found.append(r.weight)
    assert torch.equal(*found)  # the gate before does not matter


def test_noise_is_small_and_seeded():
    contexts, losses, _, _ = clustered()
    update = GateUpdate(3, init="kmeans++")
    w = torch.zeros(5, 3).double()
    a, b, c = (update(contexts, losses, w, None, seed=s).weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert (a - c).abs().max() < 0.05


def test_one_best_expert_for_all_is_resolved_one_to_one():
    contexts, losses, family, _ = clustered()
    losses = torch.rand(15, 3, generator=torch.Generator().manual_seed(0)).double() + 1
    losses[:, 1] = 0.0
    for assignment in ("greedy", "hungarian"):
        r = GateUpdate(3, init="kmeans++", assignment=assignment)(
            contexts, losses, torch.zeros(5, 3).double(), None, seed=0
        )
        assert sorted(r.expert_of_cluster.tolist()) == [0, 1, 2]
        assert len(set(zip(family.tolist(), r.experts.tolist(), strict=True))) == 3
    # greedy: the first cluster takes it
    greedy = GateUpdate(3)._assign(losses.numpy(), family)
    assert greedy[0] == 1


def test_hungarian_minimizes_the_sum_where_greedy_does_not():
    labels = np.array([0, 1])
    losses = np.array([[1.0, 2.0], [1.1, 9.0]])
    assert GateUpdate(2)._assign(losses, labels).tolist() == [0, 1]
    assert GateUpdate(2, assignment="hungarian")._assign(losses, labels).tolist() == [1, 0]


def test_median_ignores_one_bad_environment():
    labels = np.zeros(3, int)
    losses = np.array([[1.0, 2.0], [1.0, 2.0], [1e9, 2.0]])
    one = GateUpdate(1)
    assert one.statistic == "median"
    score = np.median(losses, axis=0)
    assert score.argmin() == 0
    labels = np.array([0, 0, 0, 1])
    losses = np.vstack([losses, [5.0, 4.0]])
    assert GateUpdate(2)._assign(losses, labels).tolist() == [0, 1]
    assert GateUpdate(2, statistic="mean")._assign(losses, labels).tolist() == [1, 0]


def test_empty_cluster_leaves_the_gate_bit_identical():
    contexts = torch.zeros(6, 4).double()  # all equal: k-means has one cluster
    w = torch.randn(5, 3).double()
    r = GateUpdate(3)(contexts, torch.rand(6, 3).double(), w, None, seed=0)
    assert r.skipped == "empty" and r.centroids is None and torch.equal(r.weight, w)


def test_no_convergence_leaves_the_gate_bit_identical():
    contexts = torch.as_tensor(np.random.default_rng(0).standard_normal((200, 4)))
    w = torch.randn(5, 3).double()
    r = GateUpdate(3, max_iter=1)(
        contexts, torch.rand(200, 3).double(), w, 2 * torch.eye(3, 4).double(), seed=0
    )
    assert r.skipped == "not_converged" and r.centroids is None and torch.equal(r.weight, w)


def test_repair_of_three_clusters_in_a_row():
    """Least squares on indicators never chooses the middle one (masking)."""
    contexts = torch.tensor([[-1.0], [-1.1], [0.0], [0.1], [1.0], [1.1]]).double()
    losses = 1 - torch.eye(3).double().repeat_interleave(2, dim=0)
    w = torch.zeros(2, 3).double()
    plain = GateUpdate(3, init="kmeans++")(contexts, losses, w, None, seed=0)
    mended = GateUpdate(3, init="kmeans++", repair=True)(contexts, losses, w, None, seed=0)
    design = torch.cat([contexts, torch.ones(6, 1).double()], dim=1)
    assert 1 not in (design @ plain.weight).argmax(1)
    assert (design @ mended.weight).argmax(1).tolist() == [0, 0, 1, 1, 2, 2]


def test_kmeans_assigns_by_l1_and_moves_to_means():
    points = np.array([[0.0, 0.0], [1.0, 1.0], [10.0, 10.0]])
    r = kmeans(points, np.array([[0.4, 0.4], [9.0, 9.0]]))
    assert r.converged and r.labels.tolist() == [0, 0, 1]
    np.testing.assert_allclose(r.centroids, [[0.5, 0.5], [10, 10]])
    assert r.inertia == pytest.approx(2.0)


@pytest.mark.parametrize(("metric", "nearest"), [("l1", 1), ("l2", 0)])
def test_metric_of_the_assignment(metric, nearest):
    points = np.array([[0.0, 0.0], [1.2, 1.2], [2.0, 0.0]])
    # the first point is at L1 2.4 and 2, at L2 1.70 and 2
    r = kmeans(points, points[1:], metric=metric, max_iter=1)
    moved = points[nearest + 1] / 2
    np.testing.assert_allclose(r.centroids[nearest], moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experts": 0}, "n_experts=0: need an integer >= 1"),
        ({"n_experts": 2, "metric": "cosine"}, "metric='cosine': allowed l1, l2"),
        ({"n_experts": 2, "init": "random"}, r"init='random': allowed paper, kmeans\+\+"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        GateUpdate(**options)


def test_bad_shapes():
    update = GateUpdate(3)
    with pytest.raises(ValueError, match=r"expected \(6, 3\) and \(5, 3\)"):
        update(torch.zeros(6, 4), torch.zeros(6, 2), torch.zeros(5, 3), None, seed=0)
    with pytest.raises(ValueError, match="2 environments and n_experts=3"):
        update(torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(5, 3), None, seed=0)


# -- the model -----------------------------------------------------------------------------------


def model_of(n=6, **options):
    torch.manual_seed(0)
    return build_mixer(TrajectorySpec(2, n, 3), width=8, depth=1, **options)


def test_no_gradient_reaches_the_gate():
    model = model_of(context_size=4)
    assert "gate" not in dict(model.named_parameters())
    environments = torch.arange(6)
    x = torch.randn(6, 2)
    experts = model.experts()
    model.rates(x, model.contexts(environments), experts).sum().backward()
    assert model.gate.grad is None and not model.gate.requires_grad


def test_gradient_gate_multiplies_the_output_and_learns():
    model = model_of(gating="gradient", context_size=4)
    with torch.no_grad():
        model.contexts.values.normal_()
    environments, x = torch.arange(6), torch.randn(6, 2)
    context, experts = model.contexts(environments), model.experts()
    y = model.rates(x, context, experts)
    p = torch.cat([context, torch.ones(6, 1)], dim=1) @ model.gate
    p = p.softmax(1)[torch.arange(6), experts]
    plain = model.bank.rates(x[:, None], context, experts)[:, 0]
    torch.testing.assert_close(y, p[:, None] * plain)
    y.square().sum().backward()
    assert (model.gate.grad != 0).any()
    # also through the integration
    model.zero_grad()
    model(x, torch.linspace(0, 1, 3).expand(6, 3), environments).square().sum().backward()
    assert (model.gate.grad != 0).any()


def test_split_context_shows_an_expert_its_piece():
    model = model_of(split_context=True, context_size=6, shift_context=False)
    with torch.no_grad():
        model.contexts.values.normal_()
    x = torch.randn(6, 2)
    experts = torch.tensor([0, 1, 2, 0, 1, 2])
    before = model.rates(x, model.contexts.values, experts)
    with torch.no_grad():
        model.contexts.values[0, 2:] += 1  # expert 0 sees the first two
        model.contexts.values[1, 2:4] += 1  # expert 1 the next two
    after = model.rates(x, model.contexts.values, experts)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experts": 0}, "n_experts=0"),
        ({"context_size": 5, "split_context": True}, "need a multiple of n_experts=3"),
        ({"gating": "environment", "n_experts": 2}, "needs one for each of 6 environments"),
        ({"gating": "gradient", "expert": "plrnn"}, "needs an expert in time"),
    ],
)
def test_models_that_cannot_be(options, message):
    options = {"expert": "ncf"} | options
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        build_mixer(TrajectorySpec(2, 6, 3), **options)


def test_defaults_follow_the_data():
    assert build_mixer(TrajectorySpec(2, 9, None)).n_experts == 3
    assert build_mixer(TrajectorySpec(2, 1, None)).n_experts == 1
    assert build_mixer(TrajectorySpec(2, 10, 2)).n_experts == 2
    own = build_mixer(TrajectorySpec(2, 5, 2), gating="environment")
    assert own.experts().tolist() == [0, 1, 2, 3, 4]
    paper = build_mixer(TrajectorySpec(2, 9, 3), gating="paper")
    assert paper.split_context and paper.context_size == 12
    assert paper.resolved_options["context_size"] == 12


# -- the training --------------------------------------------------------------------------------


def test_alternation_and_proximal_terms():
    model = model_of()
    training = MetaTraining(model, inner_steps=2, beta=10.0)
    weight = next(model.bank.parameters())
    trained = []
    for step in range(8):
        training.before_step(step, 8)
        trained.append((model.contexts.values.requires_grad, weight.requires_grad))
        if step == 0:
            assert float(training.penalty().detach()) == 0
        with torch.no_grad():
            model.contexts.values += 0.5 * (training.trains == "contexts")
            for p in model.bank.parameters():
                p += 0.1 * (training.trains == "weights")
        if step == 1:  # two moves of 0.5 since the copy
            assert float(training.penalty().detach()) == pytest.approx(0.5 * 10 * 1.0**2)
        if step == 3:
            assert float(training.penalty().detach()) == pytest.approx(0.5 * 10 * 0.2**2, rel=1e-4)
    assert (
        trained
        == [(True, False)] * 2 + [(False, True)] * 2 + [(True, False)] * 2 + [(False, True)] * 2
    )
    training.finish()
    assert all(p.requires_grad for p in model.parameters())


def test_warmup_shares_then_copies_with_the_optimizers_moments():
    model = model_of(context_size=4)
    training = MetaTraining(model, inner_steps=0, warmup=0.5, gate_every=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, family = torch.randn(6, 2), torch.arange(6) % 3
    losses = torch.ones(6, 3)
    losses[torch.arange(6), family] = 0
    for step in range(8):
        training.before_step(step, 8)
        assert bool(model.shared) == (step < 4)
        if step < 4:
            assert model.experts().tolist() == [0] * 6
        optimizer.zero_grad()
        y = model.rates(x, model.contexts.values, model.experts())
        (y - family[:, None]).square().sum().backward()
        optimizer.step()
        if step == 3:
            w = model.bank.main_weight0
            assert not torch.equal(w[0], w[1])
            moved = optimizer.state[w]["exp_avg"][0].clone()
        found = training.after_step(step, 8, lambda: (torch.arange(6), losses), optimizer)
        if step == 3:
            assert torch.equal(w[0], w[1]) and torch.equal(w[0], w[2])
            assert torch.equal(optimizer.state[w]["exp_avg"][2], moved)
            assert found is not None and not model.shared
    assert training.counts[0] == 3  # at the end of the warm-up and after steps 6 and 8


def test_gate_waits_until_every_environment_was_seen():
    model = model_of(context_size=4)
    training = MetaTraining(model, gate_every=1)
    before = model.gate.clone()
    some = torch.arange(4)
    assert training.after_step(0, 9, lambda: (some, torch.rand(4, 3))) is None
    with torch.no_grad():
        model.contexts.values.normal_()
    rest = torch.arange(3, 6)
    training.update = GateUpdate(3, init="kmeans++", max_iter=50)
    assert training.after_step(1, 9, lambda: (rest, torch.rand(3, 3))) is not None
    assert not torch.equal(before, model.gate)


def test_contributors_are_neighbors():
    values = torch.tensor([[0.0], [0.1], [5.0], [5.2], [9.0]])
    near = nearest_contexts(values, torch.tensor([2, 0]), 2)
    assert near.tolist() == [[2, 3], [0, 1]]
    equal = nearest_contexts(torch.zeros(4, 2), torch.tensor([3, 1]), 3)
    assert equal[:, 0].tolist() == [3, 1] and all(len(set(r)) == 3 for r in equal.tolist())
    model = model_of(n=5, n_experts=2, context_size=1)
    with torch.no_grad():
        model.contexts.values.copy_(values)
    torch.manual_seed(0)
    groups = {tuple(sorted(MetaTraining(model).contributors(2).tolist())) for _ in range(40)}
    assert groups == {(0, 1), (2, 3), (3, 4)} or groups == {(0, 1), (2, 3), (4, 3)}


def test_balance_and_regularization():
    model = model_of(gating="gradient", context_size=4)
    training = MetaTraining(model, inner_steps=0, balance=2.0, regularization=0.5)
    with torch.no_grad():
        model.contexts.values.fill_(0.0)
        model.gate.zero_()
        assert float(training.penalty().detach()) == pytest.approx(0)
        model.contexts.values.fill_(-3.0)
        assert float(training.penalty().detach()) == pytest.approx(1.5)
        model.gate[-1, 0] = 50.0  # all to one: coefficient of variation squared is 3
        assert float(training.penalty().detach()) == pytest.approx(1.5 + 2 * 3, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 1.0}, r"warmup=1.0: need a number in \[0, 1\)"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"gate_every": 0}, "gate_every=0"),
    ],
)
def test_bad_training_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MetaTraining(model_of(), **options)


def test_more_experts_than_environments():
    with pytest.raises(ValueError, match="n_experts=4: need as many environments, there are 3"):
        MetaTraining(model_of(n=3, n_experts=4))
