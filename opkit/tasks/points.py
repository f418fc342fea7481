"""Functions at sensors to functions at any points: DeepONet and its kin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from ..errors import UsageError
from ._points_geometry import Coordinate, Function, PointSet
from ._points_reader import Reader, bounded, describe_function, shared_points
from ._task import Evaluation, Picture, Progress, Task, TaskOptions
from .grid import walls_of
from .normalizer import ChannelMoments, Normalizer

if TYPE_CHECKING:
    from models.spec import PointsSpec
    from opkit.evaluate import EvaluateConfig
    from opkit.fit import FitConfig
    from opkit.learner import Learner
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Dataset, DatasetSchema, Split

    from ._points_operator import PointsOperator

__all__ = ["OutputField", "PointsNormalizer", "PointsOptions", "PointsTask"]


class PointsOptions(TaskOptions):
    """Settings of `PointsTask`."""

    sensors: int | None = Field(
        None, ge=1, description="points where each input function is seen, of those stored; "
        "default all (for a mesh a sample: of a lattice, default 24 an axis in 2-D)"
    )  # fmt: skip
    queries: int | None = Field(
        None, ge=1, description="points drawn anew for each training step, by quadrature weight; "
        "default all (1024 for points of each sample's own)"
    )  # fmt: skip
    points: int | None = Field(
        None, ge=1, description="train on so many points of each function alone, drawn once; 1 "
        "for the pairs of the DeepONet paper"
    )  # fmt: skip
    input_modes: int | None = Field(
        None, ge=1, description="describe each input function by so many principal components of "
        "the training samples, each scaled to deviation 1, in place of its sensor values: smooth "
        "functions train much faster; numbers stay as they are"
    )  # fmt: skip
    scaling: Literal["global", "pointwise"] = Field(
        "global", description="of the outputs: one mean and deviation, or one at each point, "
        "interpolated between them; pointwise leaves no room for hard conditions"
    )  # fmt: skip
    physics: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight of the residual of the problem's own "
        "equation in the training loss, see opkit.physics"
    )  # fmt: skip
    data_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of the data in the training loss; 0 "
        "trains by physics alone"
    )  # fmt: skip


@dataclass(frozen=True)
class OutputField:
    """One output.

    Parameters
    ----------
    name, long_name, units : str
    channels : int
    shape : tuple of int
        Of the components at a point, ``()`` for a scalar.
    labels : tuple of str
        Names of the components where they are different quantities, such as states of an ODE.
    fixed : tuple of float or None
        Value of each component on the sides where conditions hold exactly.
    """

    name: str
    long_name: str = ""
    units: str = "1"
    channels: int = 1
    shape: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    fixed: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class PointsNormalizer:
    """Scales of the functions and the outputs.

    Parameters
    ----------
    scales : Normalizer
        Inputs: all channels of all functions, in order. Outputs: by channel.
    mean, std : ndarray, shape (N, C), optional
        With ``scaling="pointwise"``, in the units that `scales` leaves.
    modes : tuple of ndarray or None
        With ``input_modes``, of each function: (1 + size, k), mean and scaled principal
        components of what `scales` leaves.
    """

    scales: Normalizer
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    modes: tuple[np.ndarray | None, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        out = self.scales.as_dict()
        if self.mean is not None and self.std is not None:
            out["pointwise"] = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        if self.modes:
            out["modes"] = [None if m is None else m.tolist() for m in self.modes]
        return out


@dataclass(frozen=True, eq=False)
class PointsTask(Task):
    """A map from functions at sensors to functions at points.

    Inputs may be fields on a grid or a mesh, functions on axes of their own, or numbers; outputs
    fields on a grid, on one mesh, on a mesh a sample, or functions of time or other axes. Time is
    one more coordinate. Models see coordinates scaled to [-1, 1].

    Parameters
    ----------
    functions : tuple of Function
        The inputs and their sensors.
    outputs : tuple of OutputField
    coordinates : tuple of Coordinate
        Of the points.
    shared : PointSet, optional
        The training points, if all samples share them.
    fixed : tuple of (bool, bool)
        Sides of the coordinates on which all outputs have their fixed value exactly.
    options : PointsOptions
    equation : mapping
        Problem and parameters, for the residual of its equation.
    """

    functions: tuple[Function, ...]
    outputs: tuple[OutputField, ...]
    coordinates: tuple[Coordinate, ...]
    shared: PointSet | None
    fixed: tuple[tuple[bool, bool], ...]
    options: PointsOptions
    equation: Mapping[str, Any]

    usage: ClassVar[str] = "s = operator(u, points)  # u at operator.sensors(), s at points (N, d)"
    name: ClassVar[str] = "points"
    #: Mean squares are what one point of each function gives too.
    default_loss: ClassVar[str] = "mse"
    losses: ClassVar[tuple[str, ...]] = ("mse", "l2")
    metrics: ClassVar[Mapping[str, str]] = {
        "rel_l2": "relative L2",
        "mse": "mean squared error",
    }
    titles: ClassVar[Mapping[str, str]] = {"max_error": "largest pointwise error"}
    defaults: ClassVar[Mapping[str, Any]] = {"epochs": 100, "batch_size": 32, "lr": 1e-3}
    Options: ClassVar[type[TaskOptions]] = PointsOptions

    # -- from and to descriptions ----------------------------------------------------------

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, options: PointsOptions, resolution: Sequence[Any] = ()
    ) -> Self:
        """Task of a dataset.

        Outputs that have the same value at the first stored time in all training samples have it
        exactly, as on sides of a grid with one Dirichlet value.
        """
        cls.refuse_resolution(resolution)
        schema, split = dataset.schema, dataset["train"]
        names = schema.outputs
        coordinates, shared, labelled = shared_points(schema, names)
        box = None
        if schema.layout == "ragged" or shared is None:
            box, coordinates = _own_bounds(split, coordinates)
        functions = tuple(describe_function(schema, n, options.sensors, box) for n in schema.inputs)
        outputs = tuple(_output(schema, n, labelled) for n in names)
        fixed, values = _fixed_sides(schema, split, coordinates, outputs)
        if options.scaling == "pointwise":
            if shared is None:
                raise UsageError("scaling='pointwise': the samples have points of their own")
            fixed, values = ((False, False),) * len(coordinates), None
        if values is not None:
            first = np.cumsum([0, *(v.channels for v in outputs)])
            outputs = tuple(
                replace(v, fixed=tuple(values[a : a + v.channels]))
                for v, a in zip(outputs, first, strict=False)
            )
        if options.points is not None and shared is not None and options.points > len(shared):
            raise UsageError(
                f"points={options.points}: the outputs are stored at {len(shared)} points"
            )
        config = dataset.config
        constants = {s.name: s.value for s in schema.scalars if s.value is not None}
        equation = {
            "problem": schema.problem,
            "params": {**dict(config.get("params") or {}), **constants},
        }
        task = cls(functions, outputs, coordinates, shared, fixed, options, equation)
        if options.physics:
            from ..physics import residual_of

            residual_of(task)
        elif not options.data_weight:
            raise UsageError("data_weight=0: needs physics > 0, or there is nothing to train by")
        return task

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "inputs": [asdict(f) for f in self.functions],
            "outputs": [asdict(v) for v in self.outputs],
            "coordinates": [asdict(c) for c in self.coordinates],
            "shared": None if self.shared is None else self.shared.as_dict(),
            "fixed": [list(p) for p in self.fixed],
            "options": self.options.model_dump(mode="json"),
            "equation": dict(self.equation),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""

        def function(v: Mapping[str, Any]) -> Function:
            axes, points = (tuple(tuple(map(float, a)) for a in v[k]) for k in ("axes", "points"))
            return Function(
                **{**v, "axes": axes, "points": points, "axis_names": tuple(v["axis_names"])}
            )

        def output(v: Mapping[str, Any]) -> OutputField:
            fixed = None if v["fixed"] is None else tuple(v["fixed"])
            return OutputField(
                **{**v, "shape": tuple(v["shape"]), "labels": tuple(v["labels"]), "fixed": fixed}
            )

        return cls(
            tuple(map(function, d["inputs"])),
            tuple(map(output, d["outputs"])),
            tuple(map(Coordinate.from_dict, d["coordinates"])),
            None if d["shared"] is None else PointSet.from_dict(d["shared"]),
            tuple((bool(a), bool(b)) for a, b in d["fixed"]),
            PointsOptions(**d["options"]),
            dict(d["equation"]),
        )

    # -- shapes ----------------------------------------------------------------------------

    @property
    def out_channels(self) -> int:
        """Channels of the model's output."""
        return sum(v.channels for v in self.outputs)

    @property
    def parts(self) -> tuple[slice, ...]:
        """Channels of each output."""
        ends = np.cumsum([0, *(v.channels for v in self.outputs)])
        return tuple(
            slice(int(a), int(a) + v.channels) for a, v in zip(ends, self.outputs, strict=False)
        )

    def to_model(self, y: Any) -> Any:
        """Scale coordinates, (..., d), to [-1, 1]; arrays or tensors."""
        low = [c.lower for c in self.coordinates]
        size = [c.upper - c.lower for c in self.coordinates]
        if isinstance(y, np.ndarray):
            return 2.0 * (y - np.array(low)) / np.array(size) - 1.0
        return 2.0 * (y - y.new_tensor(low)) / y.new_tensor(size) - 1.0

    def spec(self) -> PointsSpec:
        """Tell a model factory about the data."""
        from models.spec import FunctionSpec, PointsSpec

        k = self.options.input_modes
        return PointsSpec(
            tuple(
                FunctionSpec(f.name, f.channels, f.shape)
                if k is None or f.is_scalar
                else FunctionSpec(f.name, 1, (k,))
                for f in self.functions
            ),
            len(self.coordinates),
            self.out_channels,
            ((-1.0, 1.0),) * len(self.coordinates),
            tuple(c.periodic for c in self.coordinates),
            self.fixed,
            0 if self.shared is None else len(self.shared),
        )

    def fields(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Split (..., C) into the outputs, (..., *components) each."""
        return {
            v.name: np.ascontiguousarray(values[..., part].reshape(*values.shape[:-1], *v.shape))
            for v, part in zip(self.outputs, self.parts, strict=True)
        }

    def misfit(self, schema: DatasetSchema, *, inputs_only: bool = False) -> str:
        """Why data do not fit an operator of this task, in one line; ``""`` if they do.

        The points of the outputs may differ; sensors, coordinates, names and components may not.
        """
        known = {f.name for f in (*schema.fields, *schema.scalars)}
        if missing := [f.name for f in self.functions if f.name not in known]:
            return f"the data has no {missing[0]!r}, which the operator takes"
        try:
            box = (np.zeros(schema.dim), np.ones(schema.dim)) if schema.layout == "ragged" else None
            for f in self.functions:
                other = describe_function(schema, f.name, None, box)
                if other.units != f.units:
                    return f"{f.name} is in {other.units!r} in the data, not in {f.units!r}"
                same = (other.channels, other.lattice, other.axis_names, bool(other.points))
                if same != (f.channels, f.lattice, f.axis_names, bool(f.points)):
                    return f"input {f.name!r} lies on other axes, or has other components"
            Reader(self, schema, outputs=False)
            if inputs_only:
                return ""
            if missing := [v.name for v in self.outputs if v.name not in known]:
                return f"the data has no output {missing[0]!r}"
            coordinates, _, labelled = shared_points(schema, [v.name for v in self.outputs])
        except UsageError as e:
            return str(e)
        mine = [(c.name, c.units, c.role, c.periodic) for c in self.coordinates]
        theirs = [(c.name, c.units, c.role, c.periodic) for c in coordinates]
        if mine != theirs:
            names = [", ".join(c[0] for c in cs) for cs in (theirs, mine)]
            return f"the data has the coordinates {names[0]}, the operator {names[1]}"
        for v in self.outputs:
            got = _output(schema, v.name, labelled)
            if (got.channels, got.units) != (v.channels, v.units):
                return f"output {v.name!r} has other components or units in the data"
        return ""

    # -- training --------------------------------------------------------------------------

    def dry_run(self, model: Any) -> None:
        """Apply a new model once."""
        import torch

        us = tuple(torch.zeros(1, f.size) for f in self.spec().functions)
        n = 3 if self.shared is None else len(self.shared)
        y = torch.zeros(n, len(self.coordinates)) if n <= 4096 else None
        if y is None and not hasattr(model, "basis"):
            n, y = 3, torch.zeros(3, len(self.coordinates))
        with torch.no_grad():
            s = model(us if len(us) > 1 else us[0], y)
        if self.options.physics:
            from ..physics import residual_of

            residual_of(self).check_model(model)
        c = self.out_channels
        expected = (1, n) if c == 1 else (1, n, c)
        if tuple(s.shape) != expected:
            raise UsageError(
                f"model: returns shape {tuple(s.shape)} for this dataset, expected {expected}"
            )

    def fit_normalizer(self, split: Split, *, limit: int | None = None) -> PointsNormalizer:
        """Mean and deviation of each channel over training samples and sensors or points.

        Outputs with fixed sides keep their value: it is subtracted, not the mean. The components
        of a vector share one scale.

        Raises
        ------
        UsageError
            A sample with values that are not finite, or an output that is zero everywhere.
        """
        n = len(split) if limit is None else min(limit, len(split))
        reader = Reader(self, split.schema)
        inputs = [ChannelMoments() for _ in self.functions]
        outputs, pointwise = ChannelMoments(), ChannelMoments()
        size = 4096 if reader.shared is None else len(reader.shared)
        step = max(1, min(256, 2**22 // size))
        for start in range(0, n, step):
            index = np.arange(start, min(n, start + step))
            us = reader.functions(split, index)
            for moments, f, u in zip(inputs, self.functions, us, strict=True):
                _check_finite(split, index, "inputs", u)
                moments.add(u.reshape(len(u), f.channels, -1))
            if reader.shared is not None:
                s = reader.outputs(split, index)
                self.check_outputs(split, index, s)
                outputs.add(np.moveaxis(s, -1, 1))
                if self.options.scaling == "pointwise":
                    pointwise.add(s.reshape(len(s), -1, 1))
            else:
                for i in index:
                    s = reader.own(split, int(i))[2][None]
                    self.check_outputs(split, index[index == i], s)
                    outputs.add(np.moveaxis(s, -1, 1))
        shift, scale = np.empty(0), np.empty(0)
        for v, part in zip(self.outputs, self.parts, strict=True):
            about = outputs.mean[part] if v.fixed is None else np.array(v.fixed)
            one = math.sqrt(float(np.mean(outputs.square_distance(part, about))))
            usable = Normalizer.usable_scale(
                np.full(v.channels, one), np.full(v.channels, outputs.largest[part].max())
            )
            if v.labels:  # other quantities: a scale each
                each = np.sqrt(outputs.square_distance(part, about))
                usable = Normalizer.usable_scale(each, outputs.largest[part])
            shift, scale = np.append(shift, about), np.append(scale, usable)
        in_shift = np.concatenate([m.mean for m in inputs])
        in_scale = np.concatenate([Normalizer.usable_scale(m.std, m.largest) for m in inputs])
        ends = np.cumsum([f.channels for f in self.functions])
        for f, end in zip(self.functions, ends, strict=True):
            if f.lattice:  # the indicator stays 0 or 1
                in_shift[end - 1], in_scale[end - 1] = 0.0, 1.0
        scales = Normalizer(*(tuple(a.tolist()) for a in (in_shift, in_scale, shift, scale)))
        modes = self._modes(split, reader, n, scales)
        if self.options.scaling == "global":
            return PointsNormalizer(scales, modes=modes)
        mean = (pointwise.mean.reshape(-1, self.out_channels) - shift) / scale
        std = pointwise.std.reshape(-1, self.out_channels) / scale
        return PointsNormalizer(scales, mean, np.where(std > 1e-6, std, 1.0), modes)

    def _modes(
        self, split: Split, reader: Reader, n: int, scales: Normalizer
    ) -> tuple[np.ndarray | None, ...]:
        """Mean and principal components of the scaled functions."""
        k = self.options.input_modes
        if k is None:
            return ()
        out: list[np.ndarray | None] = []
        first = 0
        for j, f in enumerate(self.functions):
            part = slice(first, first + f.channels)
            first += f.channels
            if f.is_scalar:
                out.append(None)
                continue
            u = np.concatenate(
                [reader.functions(split, np.arange(a, min(n, a + 256)))[j]
                 for a in range(0, n, 256)]
            ).astype(np.float64)  # fmt: skip
            repeat = f.size // f.channels
            u = (u - np.repeat(scales.input_shift[part], repeat)) / np.repeat(
                scales.input_scale[part], repeat
            )
            mean = u.mean(0)
            _, sigma, v = np.linalg.svd(u - mean, full_matrices=False)
            usable = int((sigma > 1e-5 * sigma[0]).sum())
            if k > usable:
                raise UsageError(
                    f"input_modes={k}: {f.name!r} has {usable} components above rounding in "
                    f"{n} training samples"
                )
            v = v[:k] * np.sign(v[np.arange(k), np.abs(v[:k]).argmax(1)])[:, None]
            w = v.T * (math.sqrt(n) / sigma[:k])
            out.append(np.concatenate([-(mean @ w)[None], w]))
        return tuple(out)

    def check_outputs(self, split: Split, indices: np.ndarray, s: np.ndarray) -> None:
        """Raise if samples cannot be learned from or judged by."""
        _check_finite(split, indices, "outputs", s)
        for v, part in zip(self.outputs, self.parts, strict=True):
            zero = ~s[..., part].reshape(len(s), -1).any(axis=1)
            if zero.any():
                i = int(split.ids[indices[np.argmax(zero)]])
                raise UsageError(
                    f"sample {i}: output {v.name!r} is zero everywhere, so it has no relative error"
                )

    def load_normalizer(self, d: Mapping[str, Any]) -> PointsNormalizer:
        """Inverse of `PointsNormalizer.as_dict`."""
        scales = Normalizer.from_dict(d)
        n = sum(f.channels for f in self.functions)
        for what, k in (("input", n), ("output", self.out_channels)):
            if len(getattr(scales, f"{what}_scale")) != k:
                raise ValueError(f"need {k} {what} channels")
        modes = self._load_modes(d)
        if "pointwise" not in d:
            return PointsNormalizer(scales, modes=modes)
        mean, std = (np.array(d["pointwise"][k], np.float64) for k in ("mean", "std"))
        expected = (0 if self.shared is None else len(self.shared), self.out_channels)
        if mean.shape != expected or std.shape != expected:
            raise ValueError(f"need means and deviations of shape {expected}")
        return PointsNormalizer(scales, mean, std, modes)

    def _load_modes(self, d: Mapping[str, Any]) -> tuple[np.ndarray | None, ...]:
        k = self.options.input_modes
        if k is None:
            return ()
        modes = tuple(None if m is None else np.array(m, np.float64) for m in d["modes"])
        shapes = [None if m is None else m.shape for m in modes]
        expected = [None if f.is_scalar else (1 + f.size, k) for f in self.functions]
        if shapes != expected:
            raise ValueError(f"modes have shapes {shapes}, expected {expected}")
        return modes

    def prepare(self, model: Any, split: Split, normalizer: Any, *, limit: int | None) -> None:
        """Set the basis of a POD-DeepONet, from training outputs alone."""
        from models.deeponet import PODDeepONet

        if not isinstance(model, PODDeepONet):
            return
        import torch

        from ._points_operator import scale_outputs

        assert self.shared is not None
        n = len(split) if limit is None else min(limit, len(split))
        reader = Reader(self, split.schema)
        s = np.concatenate(
            [reader.outputs(split, np.arange(a, min(n, a + 64))) for a in range(0, n, 64)]
        )
        s = scale_outputs(s, normalizer)
        points = self.to_model(self.shared.points)
        with torch.no_grad():
            model.points.copy_(torch.as_tensor(points))
            model.weights.copy_(torch.as_tensor(self.shared.weights))
        try:
            model.set_basis(torch.as_tensor(s[..., 0] if self.out_channels == 1 else s).double())
        except ValueError as e:
            raise UsageError(f"pod_deeponet: {e}") from None

    def data(
        self, split: Split, *, dtype: Any, limit: int | None = None, train: bool = False
    ) -> Any:
        """Batches; see `PointsData`."""
        from ._points_data import PointsData

        return PointsData(split, self, dtype=dtype, limit=limit, train=train)

    def learner(self, model: Any, normalizer: Any, config: FitConfig) -> Learner:
        """Weighted mean squares, or relative L2 errors, and the residual of the equation."""
        from ._points_learner import PointsLearner

        return PointsLearner(model, self, normalizer, config)

    # -- use -------------------------------------------------------------------------------

    def operator(
        self, model: Any, normalizer: Any, description: Mapping[str, Any], path: Path | None
    ) -> PointsOperator:
        """`PointsOperator`."""
        from ._points_operator import PhysicalPoints, PointsOperator

        return PointsOperator(PhysicalPoints(model, self, normalizer), self, description, path=path)

    def evaluate(
        self,
        op: Any,
        dataset: Dataset,
        split: Split,
        config: EvaluateConfig,
        progress: Progress | None,
    ) -> dict[str, Evaluation]:
        """Errors at the points of the data, whatever they are."""
        from ._points_evaluation import evaluate_points

        return evaluate_points(op, dataset, split, config, progress)

    def predict(self, op: Any, config: PredictConfig, progress: Progress | None) -> Path:
        """Write outputs at given points, or at those of the training."""
        from ._points_prediction import predict_points

        return predict_points(op, config, progress)

    @classmethod
    def figures(
        cls, description: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> Sequence[Picture]:
        """Best, median and worst sample, histogram of the errors."""
        from ._points_figures import points_figures

        return points_figures(description, evaluation)


def _output(schema: DatasetSchema, name: str, labelled: bool) -> OutputField:
    f = schema.field(name)
    shape = (len(f.labels),) if labelled else (schema.dim,) * f.rank
    labels = tuple(f.labels) if labelled else ()
    return OutputField(name, f.long_name, f.units, math.prod(shape), shape, labels)


def _own_bounds(
    split: Split, coordinates: tuple[Coordinate, ...]
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[Coordinate, ...]]:
    """Bounds of the points of all training samples."""
    schema = split.schema
    low, high = np.full(schema.dim, np.inf), np.full(schema.dim, -np.inf)
    first, last = math.inf, -math.inf
    for i in range(len(split)):
        if schema.layout == "ragged":
            points = split.mesh(i).points
            low, high = np.minimum(low, points.min(0)), np.maximum(high, points.max(0))
        if schema.time_per_sample:
            t = split.times(i)
            first, last = min(first, float(t[0])), max(last, float(t[-1]))
    if schema.layout == "ragged":
        coordinates = bounded(coordinates, low, high)
    if schema.time_per_sample:
        coordinates = tuple(
            replace(c, lower=first, upper=last) if c.role == "time" else c for c in coordinates
        )
    return (low, high), coordinates


def _fixed_sides(
    schema: DatasetSchema,
    split: Split,
    coordinates: tuple[Coordinate, ...],
    outputs: tuple[OutputField, ...],
) -> tuple[tuple[tuple[bool, bool], ...], list[float] | None]:
    """Sides on which each output has one value, the same on all of them, and these values."""
    fixed = [[False, False] for _ in coordinates]
    values: list[float] | None = None
    grid = {a.name: d for d, a in enumerate(schema.grid.axes)}
    walls = [walls_of(schema, v.name) for v in outputs]
    found = [{x for pair in w for x in pair if x is not None} for w in walls]
    if schema.layout == "grid" and all(len(f) == 1 for f in found):
        values = [next(iter(f)) for f, v in zip(found, outputs, strict=True)
                  for _ in range(v.channels)]  # fmt: skip
        for k, c in enumerate(coordinates):
            if c.role == "space" and c.name in grid:
                for side in (0, 1):
                    fixed[k][side] = all(w[grid[c.name]][side] is not None for w in walls)
    if coordinates[-1].role == "time" and not schema.time_per_sample:
        start = _start_values(schema, split, outputs)
        if start is not None and values in (None, start):
            values, fixed[-1][0] = start, True
    if not any(a or b for a, b in fixed):
        return tuple((a, b) for a, b in fixed), None
    return tuple((a, b) for a, b in fixed), values


def _start_values(
    schema: DatasetSchema, split: Split, outputs: tuple[OutputField, ...]
) -> list[float] | None:
    """Values at the first stored time, if they are the same everywhere in all samples."""
    if schema.layout == "ragged":
        return None
    names = [v.name for v in outputs]
    values: list[float] | None = None
    for start in range(0, len(split), 256):
        index = np.arange(start, min(len(split), start + 256))
        found = split.read(index, names, window=slice(0, 1))
        now = []
        for v in outputs:
            a = np.asarray(found[v.name]).reshape(-1, v.channels)
            if (a != a[0]).any():
                return None
            now += a[0].astype(float).tolist()
        if values not in (None, now):
            return None
        values = now
    return values


def _check_finite(split: Split, indices: np.ndarray, what: str, a: np.ndarray) -> None:
    bad = ~np.isfinite(a).reshape(len(a), -1).all(axis=1)
    if bad.any():
        i = int(split.ids[indices[np.argmax(bad)]])
        raise UsageError(f"sample {i}: {what} are not finite; see opkit data check")
