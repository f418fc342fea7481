"""Fields on a grid to fields on the same grid: MgNO, FNO and their kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from solvers.grids import Axis, Grid

from ..errors import UsageError
from ._task import Evaluation, Picture, Progress, Task, TaskOptions
from .normalizer import ChannelMoments, Normalizer

if TYPE_CHECKING:
    from models import ModelSpec
    from opkit.evaluate import EvaluateConfig
    from opkit.fit import FitConfig
    from opkit.learner import Learner
    from opkit.losses import RelativeError
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Dataset, DatasetSchema, Split

    from ._grid_operator import GridOperator

__all__ = ["GridOptions", "GridTask", "Variable"]

#: Conditions that fix the value itself.
_DIRICHLET = ("dirichlet", "no_slip")


@dataclass(frozen=True)
class Variable:
    """One input or output: a field, or a scalar that becomes a constant channel.

    Parameters
    ----------
    name, long_name, units : str
    kind : {"field", "scalar"}
    rank : {0, 1, 2}
    axes : tuple of bool
        Axes of the grid that the field varies along.
    times : int
        Stored times that are channels, 0 for a field at one time.
    """

    name: str
    long_name: str = ""
    units: str = "1"
    kind: Literal["field", "scalar"] = "field"
    rank: int = 0
    axes: tuple[bool, ...] = ()
    times: int = 0

    def components(self, dim: int) -> int:
        """Return the number of channels."""
        return dim**self.rank * max(1, self.times)


#: What is learned of a time-dependent problem.
TimeMap = Literal["final", "all", "step"]


class GridOptions(TaskOptions):
    """Settings of `GridTask`."""

    time: TimeMap | None = Field(
        None,
        description="what a time-dependent problem is learned as: the fields at the last stored "
        "time, at all stored times after the first, or at the next one (step); default final",
    )
    history: int = Field(1, ge=1, description="stored times that a step starts from")


@dataclass(frozen=True)
class GridTask(Task):
    """A map between fields on one grid.

    Arrays are ``(batch, channel, *space)``: scalar fields take one channel, vectors and tensors
    one a component, scalars of the problem one that is constant in space. Of a time-dependent
    problem, inputs that vary in time are taken at the first stored time, and outputs at the last
    one (``time="final"``) or at all others (``time="all"``: channels run through the times, and
    through the components at each). With ``time="step"`` the model maps the fields at `history`
    times in a row to those at the next one; pairs from all times train it, and the operator starts
    from the first times and applies it again and again.

    Parameters
    ----------
    inputs, outputs : tuple of Variable
    grid : Grid
        Of the training data; models may be called on others of the same layout.
    boundary : tuple of (str, str)
        Kinds per axis and side that hold for all outputs; ``"none"`` elsewhere.
    walls : tuple, one entry an output
        Dirichlet values per axis and side, None where there is no such condition.
    times : tuple of float
        Of the outputs, if the problem is time-dependent.
    resolutions : tuple of tuple of int
        Points per axis that each training batch is cut down to one of; empty: as stored. `grid`
        is that of the first.
    history : int
        Times that a step starts from; 0 if the model makes no steps.
    initial : tuple of str
        Inputs of the dataset that a step does not take: initial values of the outputs.
    """

    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    grid: Grid
    boundary: tuple[tuple[str, str], ...]
    walls: tuple[tuple[tuple[float | None, float | None], ...], ...]
    times: tuple[float, ...] = ()
    resolutions: tuple[tuple[int, ...], ...] = ()
    history: int = 0
    initial: tuple[str, ...] = ()

    name: ClassVar[str] = "grid"
    #: The gradient counts: the MgNO paper's choice for elliptic problems.
    default_loss: ClassVar[str] = "h1"
    losses: ClassVar[tuple[str, ...]] = ("h1", "l2", "h1_spectral")
    metrics: ClassVar[Mapping[str, str]] = {"rel_l2": "relative L2", "rel_h1": "relative H1"}
    titles: ClassVar[Mapping[str, str]] = {
        "max_error": "largest pointwise error",
        "spectrum_error": "spectrum",
    }
    usage: ClassVar[str] = "u = operator(a)  # arrays (batch, channel, *space), physical units"
    Options: ClassVar[type[TaskOptions]] = GridOptions

    # -- from and to descriptions ----------------------------------------------------------

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, options: GridOptions, resolution: Sequence[Any] = ()
    ) -> Self:
        """Task of a dataset; see `from_schema`."""
        step = options.time == "step"
        if options.history != 1 and not step:
            raise UsageError(f"history={options.history}: only with time=step")
        return cls.from_schema(
            dataset.schema,
            time=options.time,
            resolution=resolution,
            history=options.history,
            initial=_initial_values(dataset) if step else (),
        )

    @classmethod
    def from_schema(
        cls,
        schema: DatasetSchema,
        *,
        time: TimeMap | None = None,
        resolution: Sequence[int | Sequence[int]] = (),
        history: int = 1,
        initial: Sequence[str] = (),
    ) -> Self:
        """Task of a dataset's schema.

        Parameters
        ----------
        schema : DatasetSchema
        time : {"final", "all", "step"}, optional
            See `GridOptions`.
        resolution : sequence
            Points per axis, of grids nested in the stored one.
        history : int
            With ``time="step"``: times that a step starts from.
        initial : sequence of str
            With ``time="step"``: inputs that are initial values, which a step does not take.

        Raises
        ------
        UsageError
            Data that this task does not learn from: one line that says why.
        """
        if schema.layout != "grid":
            raise UsageError(
                f"problem {schema.problem!r} has layout {schema.layout!r}: the grid task learns "
                "fields on grids"
            )
        for name in (*schema.inputs, *schema.outputs):
            if any(f.name == name and f.dims is not None for f in schema.fields):
                raise UsageError(
                    f"{name!r} of problem {schema.problem!r} lies on axes of its own, "
                    f"{schema.sample_dims(name)}: the grid task learns fields over space"
                )
        if schema.time_per_sample:
            raise UsageError(
                f"problem {schema.problem!r} has times of its own in each sample: the grid task "
                "learns fields at common times"
            )
        if not schema.grid.dim:
            raise UsageError(f"problem {schema.problem!r} has no space: the grid task needs a grid")
        moving = [n for n in schema.outputs if _moves(schema, n)]
        if time is not None and not moving:
            raise UsageError(
                f"time={time!r}: the outputs of problem {schema.problem!r} do not depend on time"
            )
        inputs = tuple(_variable(schema, n) for n in schema.inputs)
        outputs = tuple(_variable(schema, n) for n in schema.outputs)
        times = tuple(schema.time[-1:]) if moving else ()
        first = 0
        if time == "step":
            first = history
            _check_steps(schema, moving, history)
            states = tuple(replace(v, times=history) for v in outputs)
            known = {v.name for v in outputs} | set(initial)
            inputs = (*states, *(v for v in inputs if v.name not in known))
        if time in ("all", "step"):
            times = tuple(schema.time[max(1, first) :])
            outputs = tuple(
                replace(v, times=len(times)) if v.name in moving else v for v in outputs
            )
        for v in outputs:
            if v.kind == "scalar" or not all(v.axes):
                raise UsageError(
                    f"output {v.name!r} is no field over all axes of the grid: the grid task "
                    "learns scalar, vector and tensor fields"
                )
        kinds = [schema.boundary_of(v.name) for v in outputs]
        boundary = tuple(
            (_common([k[d][0] for k in kinds]), _common([k[d][1] for k in kinds]))
            for d in range(schema.grid.dim)
        )
        walls = tuple(walls_of(schema, v.name) for v in outputs)
        shapes = _resolutions(schema.grid, resolution)
        grid = schema.grid.resized(shapes[0]) if shapes else schema.grid
        used = tuple(initial) if time == "step" else ()
        return cls(inputs, outputs, grid, boundary, walls, times, shapes, first, used)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "inputs": [asdict(v) for v in self.inputs],
            "outputs": [asdict(v) for v in self.outputs],
            "axes": [asdict(a) for a in self.grid.axes],
            "boundary": [list(p) for p in self.boundary],
            "walls": [[list(p) for p in w] for w in self.walls],
            "times": list(self.times),
            "resolutions": [list(r) for r in self.resolutions],
            "history": self.history,
            "initial": list(self.initial),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""

        def variables(items: Sequence[Mapping[str, Any]]) -> tuple[Variable, ...]:
            return tuple(Variable(**{**v, "axes": tuple(v["axes"])}) for v in items)

        return cls(
            variables(d["inputs"]),
            variables(d["outputs"]),
            Grid(tuple(Axis(**a) for a in d["axes"])),
            tuple((str(a), str(b)) for a, b in d["boundary"]),
            tuple(tuple((a, b) for a, b in w) for w in d["walls"]),
            tuple(float(t) for t in d.get("times", ())),
            tuple(tuple(int(n) for n in r) for r in d.get("resolutions", ())),
            int(d.get("history", 0)),
            tuple(d.get("initial", ())),
        )

    # -- shapes ----------------------------------------------------------------------------

    @property
    def in_channels(self) -> int:
        """Channels of the model's input."""
        return sum(v.components(self.grid.dim) for v in self.inputs)

    @property
    def out_channels(self) -> int:
        """Channels of the model's output."""
        return sum(self.out_components)

    @property
    def out_components(self) -> tuple[int, ...]:
        """Channels of each output field."""
        return tuple(v.components(self.grid.dim) for v in self.outputs)

    @property
    def model_components(self) -> tuple[int, ...]:
        """Channels of each field that the model gives: of one time if it makes steps."""
        return tuple(
            n // max(1, v.times) if self.history else n
            for v, n in zip(self.outputs, self.out_components, strict=True)
        )

    @property
    def components_at_a_time(self) -> tuple[int, ...]:
        """Channels of each output field at one time."""
        return tuple(self.grid.dim**v.rank for v in self.outputs)

    @property
    def model_channels(self) -> int:
        """Channels of the model's output."""
        return sum(self.model_components)

    def items_per_sample(self) -> int:
        """Training items of one sample: pairs of times if the model makes steps."""
        return len(self.times) if self.history else 1

    def spec(self) -> ModelSpec:
        """Tell a model factory about the data.

        If each output has one value on all its Dirichlet sides, the boundary value is 0 in the
        units of the model, as `fit_normalizer` subtracts it.
        """
        from models import ModelSpec

        shared = all(_wall_value(w) is not None for w in self.walls)
        value = 0.0 if shared else None  # `fit_normalizer` has subtracted it
        return ModelSpec(self.in_channels, self.model_channels, self.grid, self.boundary, value)

    def channels(
        self, values: Mapping[str, np.ndarray], variables: Sequence[Variable], space: Sequence[int]
    ) -> np.ndarray:
        """Arrays of a batch as they lie in files, stacked to (batch, channel, *space).

        Parameters
        ----------
        values : mapping
            ``(batch, [times], *space, [D], [D])`` a field, ``(batch,)`` a scalar.
        variables : sequence of Variable
        space : sequence of int
            Points per axis.
        """
        dim, out = self.grid.dim, []
        for v in variables:
            a = np.asarray(values[v.name])
            if v.kind == "scalar":
                a = a.reshape(-1, *(1,) * dim)
            elif v.times:
                a = a.reshape(len(a), v.times, *space, -1)
                a = np.moveaxis(a, -1, 2)
                out.append(a.reshape(len(a), -1, *space))
                continue
            else:
                missing = [d for d in range(dim) if not v.axes[d]]
                a = np.expand_dims(a, tuple(d + 1 for d in missing))
            a = a.reshape(*a.shape[: dim + 1], -1)
            if len(variables) == 1 and a.shape[1:] == (*space, 1):
                return np.moveaxis(a, -1, 1)  # as it is: a copy costs as much as reading it
            a = np.broadcast_to(a, (a.shape[0], *space, a.shape[-1]))
            out.append(np.moveaxis(a, -1, 1))
        return np.concatenate(out, axis=1)

    def read(
        self, split: Split, indices: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read inputs and outputs of some samples, each (n, channel, *space), as stored."""
        names = [v.name for v in (*self.inputs, *self.outputs)]
        if any(_moves(split.schema, name) for name in names):
            return self.read_inputs(split, indices), self.read_outputs(split, indices)
        values, shape = split.read(indices, names), split.schema.grid.shape  # all at once
        return (
            self.channels(values, self.inputs, shape),
            self.channels(values, self.outputs, shape),
        )

    def read_inputs(self, split: Split, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read inputs alone, (n, channel, *space)."""
        return self._read(split, indices, self.inputs, slice(0, max(1, self.history)))

    def read_outputs(self, split: Split, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read outputs alone, (n, channel, *space)."""
        return self._read(split, indices, self.outputs, slice(-len(self.times), None))

    def _read(
        self,
        split: Split,
        indices: Sequence[int] | np.ndarray,
        variables: Sequence[Variable],
        window: slice,
    ) -> np.ndarray:
        schema = split.schema
        moving = [v.name for v in variables if _moves(schema, v.name)]
        values = {}
        if len(moving) < len(variables):
            values.update(split.read(indices, [v.name for v in variables if v.name not in moving]))
        if moving:
            found = split.read(indices, moving, window=window)
            for v in variables:
                if v.name in moving:
                    values[v.name] = found[v.name] if v.times else found[v.name][:, 0]
        return self.channels(values, variables, schema.grid.shape)

    def read_items(self, split: Split, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read training items, inputs and outputs of the model, each (n, channel, *space).

        Item ``i`` is sample ``i``; if the model makes steps, step ``i % k`` of sample ``i // k``
        with ``k = items_per_sample()``.
        """
        if not self.history:
            return self.read(split, items)
        samples, rows = np.unique(items // self.items_per_sample(), return_inverse=True)
        steps = items % self.items_per_sample()
        shape = split.schema.grid.shape
        names = [v.name for v in self.outputs]
        fields = split.read(samples, names)
        x: dict[str, np.ndarray] = {}
        y: dict[str, np.ndarray] = {}
        for name in names:
            window = steps[:, None] + np.arange(self.history + 1)
            a = fields[name][rows[:, None], window]
            x[name], y[name] = a[:, :-1], a[:, -1]
        static = [v for v in self.inputs if v.name not in names]
        if static:
            x |= {k: a[rows] for k, a in split.read(samples, [v.name for v in static]).items()}
        targets = [replace(v, times=0) for v in self.outputs]
        return self.channels(x, self.inputs, shape), self.channels(y, targets, shape)

    def fields(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Split (batch, channel, *space) into the fields of a dataset, components last.

        A field at several times is ``(batch, times, *space, [D], [D])``.
        """
        dim, out, start = self.grid.dim, {}, 0
        for v, n in zip(self.outputs, self.out_components, strict=True):
            a = outputs[:, start : start + n]
            if v.times:
                a = a.reshape(len(a), v.times, -1, *a.shape[2:])
            a = np.moveaxis(a, 2 if v.times else 1, -1)
            out[v.name] = np.ascontiguousarray(a.reshape(*a.shape[:-1], *(dim,) * v.rank))
            start += n
        return out

    # -- scaling and judging ---------------------------------------------------------------

    def fit_normalizer(self, split: Split, *, limit: int | None = None) -> Normalizer:
        """Statistics of the training samples, read once in small batches, in float64.

        Inputs get mean 0 and deviation 1. Outputs with Dirichlet sides of one value keep it:
        the value is subtracted, not the mean, so that a wall is 0 for the model and exact
        after decoding; others get mean 0. The components of a vector share one scale.

        Raises
        ------
        UsageError
            A sample with values that are not finite, or an output that is zero everywhere, of
            which no relative error exists.
        """
        k = self.items_per_sample()
        n = k * (len(split) if limit is None else min(limit, len(split)))
        step = max(1, min(64, 2**23 // max(1, math.prod(split.schema.grid.shape))))
        x_moments, y_moments = ChannelMoments(), ChannelMoments()
        for start in range(0, n, step):
            items = np.arange(start, min(n, start + step))
            x, y = self.read_items(split, items)
            self.check_samples(split, items // k, x, y)
            x_moments.add(x)
            y_moments.add(y)
        x_scale = Normalizer.usable_scale(x_moments.std, x_moments.largest)
        shift = np.empty(0)
        scale = np.empty(0)
        first = 0
        for walls, k in zip(self.walls, self.model_components, strict=True):
            part = slice(first, first + k)
            first += k
            value = _wall_value(walls)
            about = y_moments.mean[part] if value is None else np.full(k, value)
            # one scale, so that the direction of a vector is kept
            size = np.sqrt(np.mean(y_moments.square_distance(part, about)))
            usable = Normalizer.usable_scale(
                np.full(k, size), np.full(k, y_moments.largest[part].max())
            )
            shift, scale = np.append(shift, about), np.append(scale, usable)
        return Normalizer(
            tuple(x_moments.mean.tolist()),
            tuple(x_scale.tolist()),
            tuple(shift.tolist()),
            tuple(scale.tolist()),
        )

    def check_samples(
        self, split: Split, samples: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> None:
        """Raise if some samples of `split` cannot be learned from or judged by."""
        for what, a in (("inputs", x), ("outputs", y)):
            bad = ~np.isfinite(a).reshape(len(a), -1).all(axis=1)
            if bad.any():
                i = int(split.ids[samples[np.argmax(bad)]])
                raise UsageError(f"sample {i}: {what} are not finite; see opkit data check")
        first = 0
        for v, k in zip(self.outputs, self.model_components, strict=True):
            zero = ~y[:, first : first + k].reshape(len(y), -1).any(axis=1)
            first += k
            if zero.any():
                i = int(split.ids[samples[np.argmax(zero)]])
                raise UsageError(
                    f"sample {i}: output {v.name!r} is zero everywhere, so it has no relative error"
                )

    def error(
        self,
        kind: str,
        *,
        grid: Grid | None = None,
        normalizer: Normalizer | None = None,
        components: Sequence[int] | None = None,
    ) -> RelativeError:
        """Relative error in physical units, as a loss or a metric.

        Parameters
        ----------
        kind : {"l2", "h1", "h1_spectral"}
        grid : Grid, optional
            Another resolution.
        normalizer : Normalizer, optional
            Tells typical sizes of the outputs, for float32.
        components : sequence of int, optional
            Channels of each field, if they are not the operator's `out_components`.
        """
        from opkit.losses import RelativeError

        scales = None
        if normalizer is not None:
            first = np.cumsum((0, *self.model_components[:-1]))
            scales = [normalizer.output_scale[i] for i in first]
        return RelativeError(
            grid or self.grid,
            kind=kind,  # type: ignore[arg-type]
            components=components or self.out_components,
            dirichlet=self.walls,
            scales=scales,
        )

    def misfit(self, schema: DatasetSchema, *, inputs_only: bool = False) -> str:
        """Why data do not fit an operator of this task, in one line; ``""`` if they do.

        The number of points may differ; names, components, axes, layout and domain may not.
        """
        time: TimeMap | None = "all" if any(v.times for v in self.outputs) else None
        try:
            other = GridTask.from_schema(
                schema,
                time="step" if self.history else time,
                history=max(1, self.history),
                initial=self.initial,
            )
        except UsageError as e:
            return str(e)
        if self.times != other.times and not inputs_only:
            return f"the data has the times {other.times}, the operator {self.times}"
        for role in ("inputs",) if inputs_only else ("inputs", "outputs"):
            mine, theirs = getattr(self, role), getattr(other, role)
            keys = [[(v.name, v.kind, v.rank) for v in vs] for vs in (mine, theirs)]
            if keys[0] != keys[1]:
                return f"the data has the {role} {_names(theirs)}, the operator {_names(mine)}"
            for a, b in zip(mine, theirs, strict=True):
                if a.units != b.units:
                    return f"{a.name} is in {b.units!r} in the data, the operator needs {a.units!r}"
        mine, theirs = self.grid.axes, other.grid.axes
        if len(mine) != len(theirs):
            return f"the data has {len(theirs)} space dimensions, the operator {len(mine)}"
        for a, b in zip(mine, theirs, strict=True):
            for key in ("name", "location", "periodic", "lower", "upper"):
                x, y = getattr(a, key), getattr(b, key)
                same = math.isclose(x, y, abs_tol=1e-9) if isinstance(x, float) else x == y
                if not same:
                    return (
                        f"axis {b.name!r} has {key}={y!r} in the data, the operator was trained "
                        f"with {x!r}"
                    )
        return ""

    # -- training and use ------------------------------------------------------------------

    def dry_run(self, model: Any) -> None:
        """Apply a new model once; see `Task.dry_run`."""
        import torch

        was_training = model.training
        for shape in self.resolutions or (self.grid.shape,):
            with torch.no_grad():
                model.eval()
                y = model(torch.zeros(1, self.in_channels, *shape))
                model.train(was_training)
            expected = (1, self.model_channels, *shape)
            if tuple(y.shape) != expected:
                raise UsageError(
                    f"model: returns shape {tuple(y.shape)} for this dataset, expected {expected}"
                )

    def load_normalizer(self, d: Mapping[str, Any]) -> Normalizer:
        """Inverse of `Normalizer.as_dict`, checked for its channels."""
        normalizer = Normalizer.from_dict(d)
        for what, n in (("input", self.in_channels), ("output", self.model_channels)):
            if len(getattr(normalizer, f"{what}_scale")) != n:
                raise ValueError(f"need {n} {what} channels")
        return normalizer

    def data(
        self, split: Split, *, dtype: Any, limit: int | None = None, train: bool = False
    ) -> Any:
        """Batches of inputs, outputs and weights; see `opkit.data.SplitData`."""
        from opkit.data import SplitData

        return SplitData(split, self, dtype=dtype, limit=limit)

    def learner(self, model: Any, normalizer: Any, config: FitConfig) -> Learner:
        """Relative errors in physical units."""
        from ._grid_learner import GridLearner

        return GridLearner(model, self, normalizer, str(config.loss))

    def operator(
        self, model: Any, normalizer: Any, description: Mapping[str, Any], path: Path | None
    ) -> GridOperator:
        """`GridOperator`."""
        from ._grid_operator import GridOperator, PhysicalModel

        step = PhysicalModel(model, normalizer, self.grid.dim)
        return GridOperator(step, self, description, path=path)

    def evaluate(
        self,
        op: Any,
        dataset: Dataset,
        split: Split,
        config: EvaluateConfig,
        progress: Progress | None,
    ) -> dict[str, Evaluation]:
        """Errors, spectra, the solver at the same accuracy, other resolutions."""
        from ._grid_evaluation import evaluate_grid

        return evaluate_grid(op, dataset, split, config, progress)

    def predict(self, op: Any, config: PredictConfig, progress: Progress | None) -> Path:
        """Write outputs on the grid of the inputs."""
        from ._grid_prediction import predict_grid

        return predict_grid(op, config, progress)

    @classmethod
    def figures(
        cls, description: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> Sequence[Picture]:
        """Best, median and worst sample, histogram of the errors, spectra."""
        from ._grid_figures import grid_figures

        return grid_figures(description, evaluation)

    @classmethod
    def report_html(cls, evaluation: Mapping[str, Any]) -> str:
        """Compare with the solver; how the output depends on the grid, if that was measured."""
        from opkit.report import certificate_html, comparison_html

        metrics = evaluation["metrics"]
        return comparison_html(metrics) + certificate_html(metrics)


def _check_steps(schema: DatasetSchema, moving: Sequence[str], history: int) -> None:
    """Raise unless the same map leads from each time to the next."""
    fixed = [n for n in schema.outputs if n not in moving]
    if fixed:
        raise UsageError(f"time='step': output {fixed[0]!r} does not depend on time")
    steps = np.diff(schema.time)
    if len(steps) < history:
        raise UsageError(f"history={history}: the data has {len(schema.time)} times")
    if not np.allclose(steps, steps[0], rtol=1e-6, atol=0.0):
        raise UsageError(
            f"time='step': the stored times are not equally spaced ({steps.min():g} to "
            f"{steps.max():g} apart), so there is no one step to learn"
        )
    if later := [n for n in schema.inputs if _moves(schema, n) and n not in moving]:
        raise UsageError(f"time='step': input {later[0]!r} changes in time; only outputs may")


def _initial_values(dataset: Dataset) -> tuple[str, ...]:
    """Find inputs that are outputs at the first stored time, on the first sample."""
    schema, split = dataset.schema, dataset["train"]
    outputs = [n for n in schema.outputs if _moves(schema, n)]
    kept = {f.name for f in schema.fields}
    inputs = [n for n in schema.inputs if n in kept and not _moves(schema, n)]
    if not inputs or not outputs:
        return ()
    start = split.read([0], outputs, window=slice(0, 1))
    given = split.read([0], inputs)
    return tuple(
        name
        for name, a in given.items()
        if any(a.shape == u[:, 0].shape and np.array_equal(a, u[:, 0]) for u in start.values())
    )


def _moves(schema: DatasetSchema, name: str) -> bool:
    return any(f.name == name and f.time_varying for f in schema.fields)


def _resolutions(grid: Grid, wanted: Sequence[int | Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the grids that training batches are cut down to."""
    if not wanted:
        return ()  # without torch
    from opkit.data import nested_stride

    shapes = []
    for n in wanted:
        shape = (n,) * grid.dim if isinstance(n, int) else tuple(n)
        if len(shape) != grid.dim:
            raise UsageError(f"resolution={n}: need one number, or one for each of {grid.dim} axes")
        try:
            nested_stride(grid, shape)
        except ValueError as e:
            raise UsageError(str(e)) from None
        shapes.append(shape)
    if len(set(shapes)) < len(shapes):
        raise UsageError(f"resolution={list(wanted)}: a resolution is given twice")
    return tuple(shapes)


def _variable(schema: DatasetSchema, name: str) -> Variable:
    for s in schema.scalars:
        if s.name == name:
            return Variable(name, s.long_name, s.units, "scalar", 0, (False,) * schema.grid.dim)
    f = schema.field(name)
    axes = f.dim_varying or (True,) * schema.grid.dim
    return Variable(name, f.long_name, f.units, "field", f.rank, tuple(bool(a) for a in axes))


def _names(variables: Sequence[Variable]) -> str:
    kinds = {0: "", 1: " (vector)", 2: " (tensor)"}
    return ", ".join(f"{v.name}{kinds[v.rank]}" for v in variables)


def _common(kinds: list[str]) -> str:
    kinds = ["dirichlet" if k in _DIRICHLET else k for k in kinds]
    return kinds[0] if len(set(kinds)) == 1 else "none"


def walls_of(schema: DatasetSchema, field: str) -> tuple[tuple[float | None, float | None], ...]:
    out: list[tuple[float | None, float | None]] = []
    for axis in schema.grid.axes:
        pair: list[float | None] = [None, None]
        for bc in schema.boundary_conditions:
            if bc.axis == axis.name and field in bc.fields and bc.kind in _DIRICHLET:
                value = bc.value / (bc.coefficients[0] or 1.0)
                for side in {"both": (0, 1), "lower": (0,), "upper": (1,)}[bc.side]:
                    pair[side] = value
        out.append((pair[0], pair[1]))
    return tuple(out)


def _wall_value(walls: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Return the value that all Dirichlet sides share; None if there are none or several."""
    values = {v for pair in walls for v in pair if v is not None}
    return values.pop() if len(values) == 1 else None
