"""`Operator`: what it is called on and what comes back, in physical units."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import opkit.operator as module
from opkit.tasks._grid_operator import GridOperator as Operator
from opkit.tasks._grid_operator import PhysicalModel
from opkit.tasks.grid import GridTask
from opkit.tasks.normalizer import Normalizer
from pde_data.hdf5 import FieldSpec
from solvers.grids import Grid

_spec = importlib.util.spec_from_file_location(
    "opkit_synthetic", Path(__file__).with_name("synthetic.py")
)
synthetic = sys.modules.setdefault("opkit_synthetic", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(synthetic)


class Linear(nn.Module):
    """Mixes channels by a matrix; everything can be worked out by hand."""

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor(matrix, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oi,bi...->bo...", self.matrix, x)


def operator(schema, matrix, normalizer: Normalizer) -> Operator:
    task = GridTask.from_schema(schema)
    physical = PhysicalModel(Linear(np.array(matrix)), normalizer, task.grid.dim)
    return Operator(physical, task, {"model": "linear", "options": {}})


def scalar_operator() -> Operator:
    """u = 10 * 2 * (a - 1) / 4 + 3."""
    s = synthetic.schema(inputs=("a",))
    return operator(s, [[2.0]], Normalizer((1.0,), (4.0,), (3.0,), (10.0,)))


def test_shapes_in_and_out_at_any_resolution() -> None:
    op = scalar_operator()
    a = np.random.default_rng(0).normal(size=(3, 1, 7, 12))
    expected = 5 * (a - 1) + 3
    for x, u in (
        (a, expected),
        (a[:, 0], expected[:, 0]),
        (a[1, 0], expected[1, 0]),
    ):
        out = op(x)
        assert out.dtype == np.float64
        np.testing.assert_allclose(out, u, rtol=1e-5, atol=1e-5)
        t = op(torch.tensor(x))
        assert isinstance(t, torch.Tensor) and t.dtype == torch.float64
        np.testing.assert_allclose(t.detach(), u, rtol=1e-5, atol=1e-5)
    assert op(a.astype(np.float32)).dtype == np.float32
    assert op((a > 0)[0, 0]).dtype == np.float32
    np.testing.assert_array_equal(op(a, batch_size=2), op(a))
    assert op.n_parameters == 1 and op.metrics == {} and op.history == []


def test_double_precision_is_exact() -> None:
    op = scalar_operator().to(torch.float64)
    a = np.random.default_rng(0).normal(size=(5, 5))
    np.testing.assert_allclose(op(a), 5 * (a - 1) + 3, rtol=1e-14, atol=1e-14)


def test_gradients_flow_through_tensors() -> None:
    op = scalar_operator()
    a = torch.ones(9, 9, requires_grad=True)
    op(a).sum().backward()
    torch.testing.assert_close(a.grad, torch.full((9, 9), 5.0))


def test_by_name_with_scalars_and_vectors() -> None:
    s = synthetic.schema(vector=True)
    normalizer = Normalizer((0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (1.0, 2.0))
    op = operator(s, [[1.0, 0.0], [0.0, 1.0]], normalizer)  # v = (a, 2 c)
    a = np.random.default_rng(1).normal(size=(4, 6, 5))
    c = np.arange(4.0)
    v = op({"a": a, "c": c})["v"]
    assert v.shape == (4, 6, 5, 2)
    np.testing.assert_allclose(v[..., 0], a, rtol=1e-6)
    np.testing.assert_allclose(v[..., 1], np.broadcast_to(2 * c[:, None, None], (4, 6, 5)))
    single = op({"a": a[0], "c": 3.0})["v"]
    assert single.shape == (6, 5, 2) and np.all(single[..., 1] == 6)
    shared = op({"a": a, "c": np.array([3.0])})["v"]
    assert shared.shape == (4, 6, 5, 2) and np.all(shared[..., 1] == 6)
    array = op(np.stack([a[0], np.full((6, 5), 3.0)]))
    np.testing.assert_array_equal(np.moveaxis(array, 0, -1), single)


def test_mistakes_in_one_line() -> None:
    op = scalar_operator()
    two = operator(
        synthetic.schema(), [[1.0, 0.0]], Normalizer((0.0,) * 2, (1.0,) * 2, (0.0,), (1.0,))
    )
    cases = [
        (lambda: op(np.zeros(5)), r"\(5,\), expected \(batch, 1, n1, n2\): the channels are a"),
        (lambda: op(np.zeros((2, 2, 5, 5))), r"shape \(2, 2, 5, 5\)"),
        (lambda: two(np.zeros((5, 5))), r"expected \(batch, 2, n1, n2\): the channels are a, c"),
        (lambda: op(np.full((5, 5), np.nan)), "not finite"),
        (lambda: op(torch.full((5, 5), torch.inf)), "not finite"),
        (lambda: op(np.array([["a"]])), "need real numbers"),
        (lambda: op(np.zeros((5, 5)), batch_size=0), "batch_size=0"),
        (lambda: two({"a": np.zeros((5, 5))}), r"inputs are \['a'\], expected \['a', 'c'\]"),
        (lambda: op({"a": np.zeros(5)}), "input 'a' has shape"),
        (
            lambda: two({"a": np.zeros((2, 5, 5)), "c": np.zeros(3)}),
            "input 'c' has a batch of 3, others of 2",
        ),
    ]  # fmt: skip
    for call, text in cases:
        with pytest.raises(ValueError, match=text) as e:
            call()
        assert "\n" not in str(e.value)


def test_fields_that_disagree_on_the_grid() -> None:
    fields = (FieldSpec("a", ""), FieldSpec("b", ""), FieldSpec("u", ""))
    s = synthetic.schema(Grid.unit(9), fields=fields, inputs=("a", "b"), scalars=())
    op = operator(s, [[1.0, 1.0]], Normalizer((0.0,) * 2, (1.0,) * 2, (0.0,), (1.0,)))
    with pytest.raises(ValueError, match="input 'b' has 6 points on axis 2, others 5"):
        op({"a": np.zeros((5, 5)), "b": np.zeros((5, 6))})


def test_constants_follow_the_dtype() -> None:
    """Scales are cast from float64, not from what float32 left of them."""
    op = scalar_operator()
    third = Normalizer((1 / 3,), (1.0,), (0.0,), (1.0,))
    physical = PhysicalModel(Linear(np.array([[1.0]])), third, 2)
    physical(torch.zeros(1, 1, 3, 3))
    physical.double()
    assert physical(torch.zeros(1, 1, 3, 3).double())[0, 0, 0, 0].item() == -1 / 3
    assert op.device.type == "cpu" and op.dtype == torch.float32


def test_complex_weights_count_twice() -> None:
    layer = nn.Module()
    layer.w = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    layer.b = nn.Parameter(torch.zeros(2))
    assert module.count_parameters(layer) == 8
