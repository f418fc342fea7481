"""Networks of torch-geometric as operators, against sums written out and on other points."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from models.nn_to_no import (
    UnsupportedLayerError,
    find_neighbors,
    grid,
    resample,
    to_operator,
)
from solvers.meshes import Mesh

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package's own, at import
    gnn = pytest.importorskip("torch_geometric.nn")
    from torch_geometric.data import Data
    from torch_geometric.utils import softmax

REFERENCE = grid((10, 10), layout="cell")
RADIUS = 0.24
OFFSETS = {"edge_attr": lambda z: torch.cat([z, z.norm(dim=-1, keepdim=True)], -1) / RADIUS}


def points_of(g) -> np.ndarray:
    return np.stack(g.meshgrid(), -1).reshape(-1, 2)


def edges_of(points: np.ndarray, radius: float = RADIUS) -> torch.Tensor:
    found = find_neighbors(points, radius)
    pairs = torch.stack([found.source, found.target])
    return pairs[:, pairs[0] != pairs[1]]


def mlp(a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Linear(a, 8), nn.ReLU(), nn.Linear(8, b))


class Net(nn.Module):
    """Two layers of message passing between pointwise ones."""

    def __init__(self, make, between: nn.Module | None = None) -> None:
        super().__init__()
        self.lift = nn.Linear(2, 6)
        self.a, self.b = make(6, 6), make(6, 6)
        self.between = nn.GELU() if between is None else between
        self.out = nn.Linear(6, 1)

    def forward(self, x, edge_index):
        x = self.between(self.a(self.lift(x), edge_index))
        return self.out(self.b(x, edge_index))


class EdgeNet(Net):
    def forward(self, x, edge_index, edge_attr):
        x = self.between(self.a(self.lift(x), edge_index, edge_attr))
        return self.out(self.b(x, edge_index, edge_attr))


class PositionNet(Net):
    def forward(self, x, pos, edge_index):
        x = self.between(self.a(self.lift(x), pos, edge_index))
        return self.out(self.b(x, pos, edge_index))


class DataNet(Net):
    def forward(self, data):
        return super().forward(data.x, data.edge_index)


class PoolNet(Net):
    def forward(self, x, edge_index, batch):
        x = self.a(self.lift(x), edge_index)
        return self.out(x + gnn.global_mean_pool(x, batch)[batch])


class Own(gnn.MessagePassing):
    """A user's layer."""

    def __init__(self, a: int, b: int, aggr: str = "mean") -> None:
        super().__init__(aggr=aggr)
        self.mlp = mlp(2 * a, b)

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_i, x_j):
        return self.mlp(torch.cat([x_i, x_j], -1))


class OwnSoftmax(Own):
    def message(self, x_i, x_j, index):
        v = self.mlp(torch.cat([x_i, x_j], -1))
        return v * softmax(v[:, :1], index)


def built(network, make, *between) -> nn.Module:
    torch.manual_seed(0)
    return network(make, *between).double().eval()


LAYERS = {
    "SAGEConv": (Net, gnn.SAGEConv),
    "SAGEConv max": (Net, lambda a, b: gnn.SAGEConv(a, b, aggr="max")),
    "GraphConv": (Net, gnn.GraphConv),
    "GINConv": (Net, lambda a, b: gnn.GINConv(mlp(a, b))),
    "GCNConv": (Net, gnn.GCNConv),
    "GCNConv improved": (Net, lambda a, b: gnn.GCNConv(a, b, improved=True)),
    "GCNConv, no loops": (Net, lambda a, b: gnn.GCNConv(a, b, add_self_loops=False)),
    "GCNConv, not normalized": (
        Net,
        lambda a, b: gnn.GCNConv(a, b, normalize=False, add_self_loops=False),
    ),
    "GCNConv, other flow": (Net, lambda a, b: gnn.GCNConv(a, b, flow="target_to_source")),
    "GATConv": (Net, lambda a, b: gnn.GATConv(a, b // 2, heads=2)),
    "GATv2Conv": (Net, lambda a, b: gnn.GATv2Conv(a, b // 2, heads=2, dropout=0.5)),
    "GATv2Conv, edges": (
        EdgeNet,
        lambda a, b: gnn.GATv2Conv(a, b // 2, heads=2, edge_dim=3, add_self_loops=False),
    ),
    "TransformerConv": (EdgeNet, lambda a, b: gnn.TransformerConv(a, b // 2, 2, edge_dim=3)),
    "NNConv": (EdgeNet, lambda a, b: gnn.NNConv(a, b, mlp(3, a * b))),
    "CGConv": (EdgeNet, lambda a, b: gnn.CGConv(a, 3)),
    "PointNetConv": (PositionNet, lambda a, b: gnn.PointNetConv(mlp(a + 2, b))),
    "EdgeConv": (Net, lambda a, b: gnn.EdgeConv(mlp(2 * a, b))),
    "own": (Net, Own),
    "own sum": (Net, lambda a, b: Own(a, b, "add")),
}


def plainly(net: nn.Module, x: torch.Tensor, points: np.ndarray) -> torch.Tensor:
    """Apply the network as its owner does."""
    p, edges = torch.as_tensor(points), edges_of(points)
    if isinstance(net, EdgeNet):
        return net(x, edges, OFFSETS["edge_attr"](p[edges[0]] - p[edges[1]]))
    return net(x, p, edges) if isinstance(net, PositionNet) else net(x, edges)


def converted(net: nn.Module, **options):
    features = OFFSETS if isinstance(net, EdgeNet) else None
    return to_operator(
        net, reference=REFERENCE, radius=RADIUS, example=(100, 2), edge_features=features, **options
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_at_the_reference(name):
    net = built(*LAYERS[name])
    op = converted(net)
    assert list(op.state_dict()) == list(net.state_dict())
    points = points_of(REFERENCE)
    x = torch.randn(2, 100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = op(x)
        for k in range(2):
            assert float((y[k] - plainly(net, x[k], points)).abs().max()) <= 1e-11


def fields(points: np.ndarray) -> torch.Tensor:
    x, y = points.T
    return torch.as_tensor(np.stack([np.sin(3 * x) * np.cos(2 * y), x * y], -1))


CLUSTERED = (np.linspace(0, 1, 29) ** 2, np.linspace(0, 1, 25))


def clustered() -> tuple[np.ndarray, np.ndarray]:
    """Centers and measures of cells that get narrow towards x = 0."""
    centers = [(a[1:] + a[:-1]) / 2 for a in CLUSTERED]
    points = np.stack(np.meshgrid(*centers, indexing="ij"), -1).reshape(-1, 2)
    return points, np.outer(*[np.diff(a) for a in CLUSTERED]).ravel()


@pytest.mark.parametrize("name", LAYERS)
def test_clustered_points_give_what_uniform_ones_do(name):
    net = built(*LAYERS[name])
    op = converted(net)
    uniform = grid((28, 28), layout="cell")
    points, w = clustered()
    with torch.no_grad():

        def distance(a: torch.Tensor, b: torch.Tensor) -> float:
            there = resample(a.reshape(1, 28, 28), uniform, points, "cubic")[0]
            square = ((there - b.flatten()) ** 2 * torch.as_tensor(w)).sum()
            return float((square / a.var()).sqrt())

        on_grid = op(fields(points_of(uniform))[None], uniform)
        on_points = op(
            fields(points)[None], points=torch.as_tensor(points), weights=torch.as_tensor(w)
        )
        converted_error = distance(on_grid, on_points)
        plain_error = distance(
            plainly(net, fields(points_of(uniform)), points_of(uniform)),
            plainly(net, fields(points), points),
        )
    assert converted_error <= 0.25
    # a largest value stays as it is
    if not any(k in name for k in ("max", "PointNet", "EdgeConv")):
        assert plain_error >= 4 * converted_error


@torch.no_grad()
def test_sums_written_out():
    """One layer of each kind on scattered points, by a double loop."""
    rng = np.random.default_rng(0)
    points, w = rng.random((30, 2)), rng.uniform(0.5, 1.5, 30) / 30
    f = torch.as_tensor(rng.standard_normal((30, 2)))
    reference = Mesh.simplices(*triangles(4))
    density = torch.as_tensor(w) / (reference.measure / reference.n_points)
    near = np.linalg.norm(points[:, None] - points[None], axis=2) <= 0.4
    np.fill_diagonal(near, False)

    def op(layer):
        return to_operator(
            layer.double(), reference=reference, radius=0.4, example=(reference.n_points, 2)
        )(f[None], points=torch.as_tensor(points), weights=torch.as_tensor(w))[0]

    torch.manual_seed(0)
    layer = gnn.GraphConv(2, 3)
    found, mean, gcn, gat = op(layer), gnn.SAGEConv(2, 3), gnn.GCNConv(2, 3), gnn.GATConv(2, 3)
    found_mean, found_gcn, found_gat = op(mean), op(gcn), op(gat)
    degree = [density[near[i]].sum() + density[i] for i in range(30)]
    h = f @ gat.lin.weight.T
    for i in range(30):
        total = sum(density[j] * f[j] for j in np.flatnonzero(near[i]))
        want = layer.lin_rel(total) + layer.lin_root(f[i])
        assert float((found[i] - want).abs().max()) <= 1e-12
        want = mean.lin_l(total / density[near[i]].sum()) + mean.lin_r(f[i])
        assert float((found_mean[i] - want).abs().max()) <= 1e-12
        around = [*np.flatnonzero(near[i]), i]
        want = sum(density[j] * f[j] / (degree[i] * degree[j]).sqrt() for j in around)
        assert float((found_gcn[i] - gcn.lin(want) - gcn.bias).abs().max()) <= 1e-12
        scores = [
            density[j]
            * nn.functional.leaky_relu(
                (h[j] * gat.att_src[0, 0]).sum() + (h[i] * gat.att_dst[0, 0]).sum(), 0.2
            ).exp()
            for j in around
        ]
        want = sum(s * h[j] for s, j in zip(scores, around, strict=True)) / sum(scores) + gat.bias
        assert float((found_gat[i] - want).abs().max()) <= 1e-12


def triangles(n: int) -> tuple[np.ndarray, np.ndarray]:
    g = grid((n + 1, n + 1))
    k = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = k[:-1, :-1].ravel(), k[1:, :-1].ravel(), k[1:, 1:].ravel(), k[:-1, 1:].ravel()
    return points_of(g), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


@pytest.mark.parametrize(
    ("network", "make", "between", "where"),
    [
        (Net, OwnSoftmax, None, r"^a \(OwnSoftmax\): .*twice with half the weight"),
        (Net, lambda a, b: gnn.ChebConv(a, b, 3), None, r"^a \(ChebConv\): .*half the weight"),
        (Net, lambda a, b: gnn.SGConv(a, b, K=2), None, r"^a \(SGConv\): .*half the weight"),
        (PoolNet, gnn.SAGEConv, None, r"^\(the module itself\) \(PoolNet\): .*half the weight"),
        (Net, gnn.SAGEConv, gnn.GraphNorm(6), r"^between \(GraphNorm\): .*half the weight"),
        (Net, gnn.SAGEConv, gnn.LayerNorm(6), r"^between \(LayerNorm\): .*half the weight"),
        (Net, lambda a, b: gnn.SAGEConv(a, b, aggr="median"), None, r"^a \(SAGEConv\): aggr='med"),
        (Net, lambda a, b: gnn.GCNConv(a, b, cached=True), None, r"^a \(GCNConv\): cached=True"),
        (EdgeNet, lambda a, b: gnn.GATv2Conv(a, b, edge_dim=3), None, "fill_value='mean'"),
    ],
)
def test_layers_that_count_are_refused(network, make, between, where):
    with pytest.raises(UnsupportedLayerError, match=where):
        converted(built(network, make, *([] if between is None else [between])))


def test_pointwise_norms_are_not_refused():
    converted(built(Net, gnn.SAGEConv, gnn.LayerNorm(6, mode="node")))


def test_networks_that_take_data_and_sequences():
    data, plain = built(DataNet, gnn.SAGEConv), built(Net, gnn.SAGEConv)
    x = torch.randn(1, 100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    edges = edges_of(points_of(REFERENCE))
    with torch.no_grad():
        want = data(Data(x=x[0], edge_index=edges))
        assert torch.equal(converted(data)(x)[0], want)
        assert torch.equal(converted(plain)(x)[0], want)
        torch.manual_seed(0)
        row = gnn.Sequential(
            "x, edge_index", [(gnn.SAGEConv(2, 3), "x, edge_index -> x"), nn.GELU()]
        ).double()
        assert torch.equal(converted(row)(x)[0], row(x[0], edges))


@pytest.mark.parametrize(
    "make",
    [
        lambda: gnn.GraphSAGE(2, 6, 2, 1, dropout=0.1),
        lambda: gnn.GIN(2, 6, 2, 1, jk="cat"),
        lambda: gnn.EdgeCNN(2, 6, 2, 1),
    ],
)
def test_models_of_the_library(make):
    torch.manual_seed(0)
    net = make().double().eval()
    op = to_operator(net, reference=REFERENCE, radius=RADIUS)
    x = torch.randn(1, 100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(op(x)[0], net(x[0], edges_of(points_of(REFERENCE))))


def test_pools_are_refused():
    message = r"pools.0 \(TopKPooling\): picks or joins points"
    with pytest.raises(UnsupportedLayerError, match=message):
        to_operator(gnn.GraphUNet(2, 6, 1, 2), reference=REFERENCE, radius=RADIUS)


def test_samples_on_points_of_their_own():
    op = converted(built(Net, gnn.GraphConv))
    rng = np.random.default_rng(0)
    points = torch.as_tensor(points_of(REFERENCE) + rng.uniform(-0.04, 0.04, (2, 100, 2)))
    w = torch.full((2, 100), 1 / 100, dtype=torch.float64)
    x = torch.as_tensor(rng.standard_normal((2, 100, 2)))
    with torch.no_grad():
        both = op(x, points=points, weights=w)
        for k in range(2):
            one = op(x[k : k + 1], points=points[k], weights=w[k])
            assert float((both[k] - one[0]).abs().max()) <= 1e-12


@torch.no_grad()
def test_batch_norm_in_training_weighs_nodes_and_dropout_drops_channels():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, eps=0.0).double()
    op = converted(built(Net, gnn.SAGEConv, norm)).train()
    points, w = clustered()
    seen = []
    op.network.between.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    op(fields(points)[None], points=torch.as_tensor(points), weights=torch.as_tensor(w))
    y = seen[0][1] / norm.weight
    v = torch.as_tensor(w)[:, None]
    assert float((y * v).sum(0).abs().max()) <= 1e-12
    assert float(((y**2 * v).sum(0) - 1).abs().max()) <= 1e-10

    op = converted(built(Net, gnn.SAGEConv, nn.Dropout(0.5))).train()
    op.network.between.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    op(torch.ones(3, 100, 2, dtype=torch.float64))
    dropped = (seen[1][1] == 0).reshape(3, 100, 6)
    assert bool((dropped == dropped[:, :1]).all()) and bool(dropped.any()) and not dropped.all()


def test_copies_keep_the_weights():
    op = converted(built(Net, gnn.GATConv))
    x = torch.randn(1, 100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points, w = clustered()
    cloud = {"points": torch.as_tensor(points), "weights": torch.as_tensor(w)}
    with torch.no_grad():
        other = copy.deepcopy(op)
        assert torch.equal(other(x), op(x))
        f = fields(points)[None]
        assert torch.equal(other(f, **cloud), op(f, **cloud))


def test_bad_input_is_named():
    net = built(Net, gnn.SAGEConv)
    with pytest.raises(ValueError, match="radius=None: a network of torch-geometric needs"):
        to_operator(net, reference=REFERENCE)
    with pytest.raises(ValueError, match="radius=-1"):
        to_operator(net, reference=REFERENCE, radius=-1.0)
    with pytest.raises(ValueError, match="radius and edge_features go with networks of torch-geom"):
        to_operator(nn.Linear(2, 2), reference=REFERENCE, radius=0.2)
    with pytest.raises(ValueError, match="edge_features: the network's forward needs 'edge_attr'"):
        to_operator(built(*LAYERS["NNConv"]), reference=REFERENCE, radius=RADIUS)
    with pytest.raises(ValueError, match="edge_features: 'edge_attr' is no argument"):
        to_operator(net, reference=REFERENCE, radius=RADIUS, edge_features=OFFSETS)
    with pytest.raises(ValueError, match=r"radius=0.05: 100 of 100 points have no neighbor"):
        to_operator(net, reference=REFERENCE, radius=0.05)
    periodic = grid((10, 10), layout="periodic")
    with pytest.raises(ValueError, match="pos: differences of positions jump"):
        to_operator(built(*LAYERS["PointNetConv"]), reference=periodic, radius=RADIUS)
    op = converted(net)
    with pytest.raises(ValueError, match=r"expected \(batch, points, 2\)"):
        op(torch.zeros(1, 100, 3, dtype=torch.float64))


def test_periodic_neighbors_go_around():
    periodic = grid((10, 10), layout="periodic")
    op = to_operator(
        built(EdgeNet, LAYERS["NNConv"][1]), reference=periodic, radius=RADIUS,
        example=(100, 2), edge_features=OFFSETS,
    )  # fmt: skip
    x = torch.randn(1, 10, 10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = op(x.reshape(1, 100, 2)).reshape(1, 10, 10)
        z = op(x.roll(3, 1).reshape(1, 100, 2)).reshape(1, 10, 10)
    assert float((z - y.roll(3, 1)).abs().max()) <= 1e-11
