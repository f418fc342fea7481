"""The grid task: channels, boundary conditions, scaling, and what does not fit."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opkit.errors import UsageError
from opkit.tasks import TASKS, get_task
from opkit.tasks.grid import GridTask
from opkit.tasks.normalizer import ChannelMoments, Normalizer
from pde_data.hdf5 import BoundarySpec, Dataset, FieldSpec, open_dataset
from solvers.grids import Axis, Grid
from solvers.names import UnknownNameError

_spec = importlib.util.spec_from_file_location(
    "opkit_synthetic", Path(__file__).with_name("synthetic.py")
)
synthetic = sys.modules.setdefault("opkit_synthetic", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(synthetic)
schema = synthetic.schema


def test_registry() -> None:
    assert get_task("grid") is GridTask and "grid" in TASKS
    with pytest.raises(UnknownNameError, match="Did you mean 'grid'"):
        get_task("grids")


@pytest.mark.parametrize(
    "grid",
    [
        Grid.unit(9),
        Grid.unit(8, dim=1, periodic=True),
        Grid((Axis("x", 5), Axis("y", 6, location="cell_center"), Axis("z", 4, periodic=True))),
    ],
)
def test_description_round_trip(grid: Grid) -> None:
    for vector in (False, True):
        task = GridTask.from_schema(schema(grid, vector=vector))
        assert GridTask.from_dict(json.loads(json.dumps(task.as_dict()))) == task
        assert task.out_channels == (grid.dim if vector else 1) and task.in_channels == 2
        assert task.misfit(schema(grid, vector=vector)) == ""


def test_channels_and_fields_are_inverse() -> None:
    grid = Grid((Axis("x", 4), Axis("y", 5)))
    s = replace(
        schema(grid, vector=True),
        fields=(
            FieldSpec("a", "profile", dim_varying=(False, True)),
            FieldSpec("s", "stress", rank=2),
            FieldSpec("v", "velocity", rank=1),
        ),
        inputs=("c", "a"),
        outputs=("v", "s"),
    )
    task = GridTask.from_schema(s)
    rng = np.random.default_rng(0)
    values = {
        "a": rng.normal(size=(3, 5)),
        "c": np.array([1.0, 2.0, 3.0]),
        "v": rng.normal(size=(3, 4, 5, 2)),
        "s": rng.normal(size=(3, 4, 5, 2, 2)),
    }
    x = task.channels(values, task.inputs, grid.shape)
    assert x.shape == (3, 2, 4, 5)
    assert np.all(x[1, 0] == 2.0) and np.all(x[1, 1] == values["a"][1][None, :])
    y = task.channels(values, task.outputs, grid.shape)
    assert y.shape == (3, 6, 4, 5) and np.array_equal(y[:, 2 + 1 * 2 + 0], values["s"][..., 1, 0])
    back = task.fields(y)
    assert all(np.array_equal(back[n], values[n]) for n in ("v", "s"))


def test_what_the_model_is_told() -> None:
    spec = GridTask.from_schema(schema()).spec()
    assert spec.boundary == (("dirichlet", "dirichlet"),) * 2 and spec.boundary_value == 0.0
    walls = (
        BoundarySpec("x", "dirichlet", ("u",), value=3.0),
        BoundarySpec("y", "neumann", ("u",), side="lower"),
    )
    task = GridTask.from_schema(schema(boundary_conditions=walls))
    assert task.spec().boundary == (("dirichlet", "dirichlet"), ("neumann", "none"))
    assert task.spec().boundary_value == 0.0 and task.walls == (((3.0, 3.0), (None, None)),)
    two = (
        BoundarySpec("x", "dirichlet", ("u",), "lower", value=1.0),
        BoundarySpec("x", "dirichlet", ("u",), "upper", value=2.0, alpha=4.0),
    )
    task = GridTask.from_schema(schema(boundary_conditions=two))
    assert task.spec().boundary_value is None and task.walls[0][0] == (1.0, 0.5)
    # what holds for one output only holds for none
    fields = (FieldSpec("a", ""), FieldSpec("u", ""), FieldSpec("w", ""))
    both = schema(fields=fields, outputs=("u", "w"))
    assert GridTask.from_schema(both).spec().boundary == (("none", "none"),) * 2
    assert GridTask.from_schema(both).spec().boundary_value is None
    periodic = GridTask.from_schema(schema(Grid.unit(8, periodic=True))).spec()
    assert periodic.boundary == (("periodic", "periodic"),) * 2 and periodic.boundary_value is None


def _numbers(root: Path, s) -> tuple[Normalizer, dict[str, np.ndarray]]:
    ds = open_dataset(synthetic.write(root, s))
    values = ds["train"].read(range(12), ["a", "c", *s.outputs])
    return GridTask.from_schema(s).fit_normalizer(ds["train"]), {
        k: v.astype(float) for k, v in values.items()
    }


def test_normalizer_against_numpy(tmp_path: Path) -> None:
    n, v = _numbers(tmp_path / "a", schema(dtype="float64"))
    np.testing.assert_allclose(n.input_shift, [v["a"].mean(), v["c"].mean()], rtol=1e-13)
    np.testing.assert_allclose(n.input_scale, [v["a"].std(), v["c"].std()], rtol=1e-12)
    assert n.output_shift == (0.0,)
    np.testing.assert_allclose(n.output_scale, [np.sqrt(np.mean(v["u"] ** 2))], rtol=1e-12)
    free = schema(Grid.unit(8, periodic=True), vector=True, dtype="float64")
    n, v = _numbers(tmp_path / "b", free)
    mean = v["v"].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(n.output_shift, mean, rtol=1e-13)
    size = np.sqrt(np.mean((v["v"] - mean) ** 2))
    np.testing.assert_allclose(n.output_scale, [size, size], rtol=1e-12)
    again = Normalizer.from_dict(json.loads(json.dumps(n.as_dict())))
    assert again == n  # bit by bit


def test_a_wall_value_is_exact_after_decoding(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from opkit.tasks._grid_operator import PhysicalModel

    bc = tuple(BoundarySpec(a, "dirichlet", ("u",), value=273.15) for a in "xy")
    ds = open_dataset(synthetic.write(tmp_path / "d", schema(boundary_conditions=bc)))
    task = GridTask.from_schema(ds.schema)
    normalizer = task.fit_normalizer(ds["train"])
    assert normalizer.output_shift == (273.15,) and task.spec().boundary_value == 0.0

    class Zero(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * x[:, :1]

    y = PhysicalModel(Zero(), normalizer, 2)(torch.ones(1, 2, 9, 9))
    assert torch.all(y == torch.tensor(273.15))


def test_moments_merge_exactly_and_keep_precision() -> None:
    rng = np.random.default_rng(0)
    v = 1e8 + rng.normal(size=(50, 2, 4, 3))
    m = ChannelMoments()
    for part in np.split(v, [1, 7, 30]):
        m.add(part)
    np.testing.assert_allclose(m.mean, v.mean(axis=(0, 2, 3)), rtol=1e-15)
    np.testing.assert_allclose(m.std, v.std(axis=(0, 2, 3)), rtol=1e-8)
    np.testing.assert_allclose(
        m.square_distance(slice(1, 2), np.array([1e8])), [np.mean((v[:, 1] - 1e8) ** 2)], rtol=1e-8
    )


@pytest.mark.parametrize(
    ("scale", "largest", "expected"),
    [(1e-9, 1e-8, 1e-9), (0.0, 5.0, 5.0), (0.0, 0.0, 1.0), (1e-7, 1.0, 1.0), (1e30, 1e31, 1e30)],
)
def test_small_units_are_scaled_and_constants_are_not_blown_up(
    scale: float, largest: float, expected: float
) -> None:
    assert Normalizer.usable_scale(np.array([scale]), np.array([largest])) == [expected]


def test_samples_without_a_relative_error_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = synthetic.sample

    def with_zero(s, rng):
        fields, c = draw(s, rng)
        return {**fields, "u": fields["u"] * (c < 1.9)}, c

    monkeypatch.setattr(synthetic, "sample", with_zero)
    ds = open_dataset(synthetic.write(tmp_path / "d"))
    c = ds["train"].read(range(12), ["c"])["c"]
    first = int(np.argmax(c >= 1.9))
    assert c.max() >= 1.9
    with pytest.raises(UsageError, match=f"sample {first}: output 'u' is zero everywhere"):
        GridTask.from_schema(ds.schema).fit_normalizer(ds["train"])


def test_misfits_are_named() -> None:
    task = GridTask.from_schema(schema())
    wide = Grid((Axis("x", 9), Axis("y", 9, 0.0, 2.0)))
    other = (FieldSpec("b", ""), FieldSpec("u", ""))
    metric = (FieldSpec("a", "", "m"), FieldSpec("u", ""))
    cases = [
        (schema(Grid.unit(9, dim=3)), "3 space dimensions, the operator 2"),
        (schema(Grid.unit(8, periodic=True)), "periodic=True"),
        (schema(Grid.unit(8, location="cell_center")), "location='cell_center'"),
        (schema(wide), "axis 'y' has upper=2.0 in the data"),
        (
            schema(fields=other, inputs=("b", "c")),
            "the data has the inputs b, c, the operator a, c",
        ),
        (schema(vector=True), r"outputs v \(vector\), the operator u"),
        (schema(fields=metric), "a is in 'm' in the data"),
    ]
    for s, text in cases:
        import re

        found = task.misfit(s)
        assert re.search(text, found) and "\n" not in found, found
    assert task.misfit(schema(Grid.unit(33))) == ""
    assert task.misfit(schema(vector=True), inputs_only=True) == ""


def test_outputs_that_are_no_fields_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="output 'c' is no field"):
        GridTask.from_schema(schema(inputs=("a",), outputs=("c",)))
    with pytest.raises(UsageError, match=r"time='all': the outputs .* do not depend on time"):
        GridTask.from_schema(schema(), time="all")


@pytest.fixture(scope="module")
def heat(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from pde_data.generate import GenerateConfig, generate

    out = tmp_path_factory.mktemp("heat") / "heat"
    config = GenerateConfig(problem="heat", n=5, out=out, resolution=17, error_fraction=0)
    generate(config)
    return open_dataset(out)


def test_time_dependent_fields_at_the_last_time_or_at_all(heat: Dataset) -> None:
    split, schema_ = heat["train"], heat.schema
    stored = split.read([1, 3], ["u"])["u"]  # (2, times, *space)
    final = GridTask.from_schema(schema_)
    _, y = final.read(split, [1, 3])
    assert final.times == schema_.time[-1:] and final.out_channels == 1
    np.testing.assert_array_equal(y[:, 0], stored[:, -1])
    np.testing.assert_array_equal(final.fields(y)["u"], stored[:, -1])
    every = GridTask.from_schema(schema_, time="all")
    _, y = every.read(split, [1, 3])
    assert every.times == schema_.time[1:] and every.out_channels == len(schema_.time) - 1
    np.testing.assert_array_equal(y, stored[:, 1:])
    np.testing.assert_array_equal(every.fields(y)["u"], stored[:, 1:])
    assert GridTask.from_dict(json.loads(json.dumps(every.as_dict()))) == every
    for task in (final, every):
        assert task.misfit(schema_) == ""
        normalizer = task.fit_normalizer(split)
        assert task.load_normalizer(normalizer.as_dict()) == normalizer
    assert "the times" in final.misfit(replace(schema_, time=tuple(2 * t for t in schema_.time)))


def test_training_at_two_resolutions_cuts_the_stored_grid_down(heat: Dataset) -> None:
    import torch

    from opkit.tasks._grid_learner import GridLearner

    split, grid = heat["train"], heat.schema.grid
    coarse = tuple(a.n // 2 if a.periodic else (a.n - 1) // 2 + 1 for a in grid.axes)
    task = GridTask.from_schema(heat.schema, resolution=[coarse, grid.shape])
    assert task.grid.shape == coarse
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x[:, : task.out_channels]

    learner = GridLearner(Spy(), task, task.fit_normalizer(split), "l2")
    batch = task.data(split, dtype=torch.float64)[np.arange(3)]
    torch.manual_seed(0)
    losses = [learner.losses(*batch) for _ in range(12)]
    sizes = {tuple(x.shape[2:]) for x in seen}
    assert sizes == {coarse, grid.shape} and all(v.shape == (3,) for v in losses)
    errors = learner.errors(*batch)
    assert set(errors) == {"loss", *GridTask.metrics} and errors["rel_l2"].shape == (3,)
    with pytest.raises(UsageError, match="do not contain those of a grid"):
        GridTask.from_schema(heat.schema, resolution=[grid.shape[0] - 3])
    with pytest.raises(UsageError, match="given twice"):
        GridTask.from_schema(heat.schema, resolution=[coarse, coarse])


def test_steps_pair_all_times_and_roll_out(heat: Dataset) -> None:
    import torch

    from opkit.tasks._grid_operator import GridOperator
    from opkit.tasks.grid import GridOptions

    split, schema_ = heat["train"], heat.schema
    n_times = len(schema_.time)
    task = GridTask.from_dataset(heat, GridOptions(time="step", history=2))
    # u0 is the first stored state; the coefficient and the source are inputs of each step
    assert task.initial == ("u0",) and [v.name for v in task.inputs] == ["u", "a", "f"]
    assert task.items_per_sample() == n_times - 2 and task.model_channels == 1
    assert GridTask.from_dict(json.loads(json.dumps(task.as_dict()))) == task
    stored = split.read([0, 2], ["u", "a", "f"])
    k = task.items_per_sample()
    x, y = task.read_items(split, np.array([2 * k + 3, 0, 2 * k]))
    for row, (sample, step) in enumerate([(1, 3), (0, 0), (1, 0)]):
        np.testing.assert_array_equal(x[row, :2], stored["u"][sample, step : step + 2])
        np.testing.assert_array_equal(x[row, 2], stored["a"][sample])
        np.testing.assert_array_equal(y[row, 0], stored["u"][sample, step + 2])
    data = task.data(split, dtype=torch.float64)
    assert len(data) == k * len(split)
    for cached in (True, False):
        data.cached = cached
        got = data[[2 * k + 3, -1]]
        np.testing.assert_array_equal(got[0][0], x[0])
        assert got[2].tolist() == [1.0, 0.0]

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one * (2 * x[:, 1:2] - x[:, :1])  # goes on along a line

    plain = Normalizer((0.0,) * 4, (1.0,) * 4, (0.0,), (1.0,))
    op = task.operator(Line(), plain, {"model": "line", "options": {}}, None)
    assert isinstance(op, GridOperator)
    inputs, truth = task.read(split, [0, 2])
    out = op(inputs.astype(np.float64))
    assert out.shape == truth.shape == (2, n_times - 2, *schema_.grid.shape)
    a, b = stored["u"][:, 0].astype(float), stored["u"][:, 1].astype(float)
    for j in range(n_times - 2):
        np.testing.assert_allclose(out[:, j], b + (j + 1) * (b - a), rtol=1e-9, atol=1e-9)
    named = op({"u": stored["u"][:, :2], "a": stored["a"], "f": stored["f"]})["u"]
    np.testing.assert_allclose(named, out, rtol=1e-6, atol=1e-6)
    uneven = (*schema_.time[:-1], schema_.time[-1] + 1.0)
    with pytest.raises(UsageError, match="not equally spaced"):
        GridTask.from_schema(replace(schema_, time=uneven), time="step")
    with pytest.raises(UsageError, match=r"history=3: only with time=step"):
        GridTask.from_dataset(heat, GridOptions(history=3))
