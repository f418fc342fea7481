"""Fields at the points of meshes to fields at the same points: graph operators, transformers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ..errors import UsageError
from ._task import Evaluation, Picture, Progress, Task
from .normalizer import Normalizer

if TYPE_CHECKING:
    from models.spec import MeshSpec
    from opkit.evaluate import EvaluateConfig
    from opkit.fit import FitConfig
    from opkit.learner import Learner
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Dataset, DatasetSchema, Split
    from solvers.meshes import Mesh

    from ._mesh_operator import MeshOperator

__all__ = ["MeshTask", "NodeVariable"]

#: Meshes of training samples that are looked at for the domain and the mesh width.
MESHES = 256


@dataclass(frozen=True)
class NodeVariable:
    """One input or output: a field at the points, or a scalar that all points share.

    Parameters
    ----------
    name, long_name, units : str
    kind : {"field", "scalar"}
    shape : tuple of int
        Of the components at a point, ``()`` for a scalar field.
    """

    name: str
    long_name: str = ""
    units: str = "1"
    kind: Literal["field", "scalar"] = "field"
    shape: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """Values at a point."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class MeshTask(Task):
    """A map between fields at the points of one mesh, or of a mesh a sample.

    Arrays are ``(batch, point, channel)``. Points carry quadrature weights, those of the dataset,
    with which losses, metrics, scales and the models weigh. Of a time-dependent problem, inputs
    that vary in time are taken at the first stored time and outputs at the last.

    Parameters
    ----------
    inputs, outputs : tuple of NodeVariable
    coordinates : tuple of (str, str)
        Name and units.
    bounds : tuple of (float, float)
        Box that holds the points of the training data.
    spacing : float
        Mean distance of neighboring points in the training data.
    times : tuple of float
        First and last, if the problem is time-dependent.
    """

    inputs: tuple[NodeVariable, ...]
    outputs: tuple[NodeVariable, ...]
    coordinates: tuple[tuple[str, str], ...]
    bounds: tuple[tuple[float, float], ...]
    spacing: float
    times: tuple[float, ...] = ()

    usage: ClassVar[str] = "u = operator(a, mesh)  # values at nodes, or at points with weights="
    name: ClassVar[str] = "mesh"
    default_loss: ClassVar[str] = "l2"
    losses: ClassVar[tuple[str, ...]] = ("l2",)
    metrics: ClassVar[Mapping[str, str]] = {"rel_l2": "relative L2"}
    titles: ClassVar[Mapping[str, str]] = {"max_error": "largest pointwise error"}
    defaults: ClassVar[Mapping[str, Any]] = {"epochs": 100, "batch_size": 4, "lr": 2e-3}

    # -- from and to descriptions ----------------------------------------------------------

    @classmethod
    def from_dataset(cls, dataset: Dataset, options: Any, resolution: Sequence[Any] = ()) -> Self:
        """Task of a dataset."""
        cls.refuse_resolution(resolution)
        return cls._of(dataset.schema, dataset["train"])

    @classmethod
    def _of(cls, schema: DatasetSchema, split: Split | None) -> Self:
        """Task of a schema; domain and mesh width from the samples of a split."""
        if schema.layout not in ("mesh", "ragged"):
            raise UsageError(
                f"problem {schema.problem!r} has layout {schema.layout!r}: the mesh task learns "
                "fields at the points of meshes (layouts 'mesh' and 'ragged')"
            )
        inputs = tuple(_variable(schema, n) for n in schema.inputs)
        outputs = tuple(_variable(schema, n) for n in schema.outputs)
        for v in outputs:
            if v.kind == "scalar":
                raise UsageError(f"output {v.name!r} is a number, no field: the mesh task")
        if schema.time_per_sample:
            raise UsageError(
                f"problem {schema.problem!r} has times of its own in each sample: the mesh task "
                "learns fields at common times"
            )
        moving = any(f.time_varying for f in schema.fields if f.name in schema.outputs)
        times = (schema.time[0], schema.time[-1]) if moving else ()
        names = tuple("xyz"[: schema.dim])
        units = schema.mesh.units if schema.mesh is not None else "m"
        bounds, spacing = ((0.0, 1.0),) * schema.dim, 1.0
        if split is not None:
            first = split.mesh(0)
            units = first.units
            bounds, spacing = _extent(split, schema)
        return cls(inputs, outputs, tuple((n, units) for n in names), bounds, spacing, times)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "inputs": [asdict(v) for v in self.inputs],
            "outputs": [asdict(v) for v in self.outputs],
            "coordinates": [{"name": n, "units": u, "role": "space"} for n, u in self.coordinates],
            "bounds": [list(b) for b in self.bounds],
            "spacing": self.spacing,
            "times": list(self.times),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""

        def variables(items: Sequence[Mapping[str, Any]]) -> tuple[NodeVariable, ...]:
            return tuple(NodeVariable(**{**v, "shape": tuple(v["shape"])}) for v in items)

        return cls(
            variables(d["inputs"]),
            variables(d["outputs"]),
            tuple((str(c["name"]), str(c["units"])) for c in d["coordinates"]),
            tuple((float(a), float(b)) for a, b in d["bounds"]),
            float(d["spacing"]),
            tuple(float(t) for t in d["times"]),
        )

    # -- shapes ----------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Coordinates of a point."""
        return len(self.coordinates)

    @property
    def in_channels(self) -> int:
        """Channels of the model's input."""
        return sum(v.channels for v in self.inputs)

    @property
    def out_channels(self) -> int:
        """Channels of the model's output."""
        return sum(v.channels for v in self.outputs)

    @property
    def parts(self) -> tuple[slice, ...]:
        """Channels of each output."""
        ends = np.cumsum([0, *(v.channels for v in self.outputs)])
        return tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(ends))

    def spec(self) -> MeshSpec:
        """Tell a model factory about the data."""
        from models.spec import MeshSpec

        return MeshSpec(self.in_channels, self.out_channels, self.bounds, self.spacing)

    def read(
        self, split: Split, indices: Sequence[int] | np.ndarray, *, outputs: bool = True
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Read inputs and outputs of some samples, (point, channel) each, as stored."""
        x = self._read(split, indices, self.inputs, slice(0, 1))
        y = self._read(split, indices, self.outputs, slice(-1, None)) if outputs else []
        return x, y

    def _read(
        self,
        split: Split,
        indices: Sequence[int] | np.ndarray,
        variables: Sequence[NodeVariable],
        window: slice,
    ) -> list[np.ndarray]:
        schema = split.schema
        moving = {f.name for f in schema.fields if f.time_varying}
        values: dict[str, Any] = {}
        still = [v.name for v in variables if v.name not in moving]
        timed = [v.name for v in variables if v.name in moving]
        if still:
            values |= split.read(indices, still)
        if timed:
            found = split.read(indices, timed, window=window)
            values |= {n: [a[0] for a in arrays] for n, arrays in found.items()}
        out = []
        for k in range(len(indices)):
            fields = {v.name: np.asarray(values[v.name][k]) for v in variables if v.kind == "field"}
            if fields:
                points = len(next(iter(fields.values())))
            else:
                points = split.mesh(int(indices[k])).n_points
            columns = [
                fields[v.name].reshape(points, -1)
                if v.kind == "field"
                else np.full((points, 1), values[v.name][k])
                for v in variables
            ]
            out.append(np.concatenate(columns, axis=1))
        return out

    def fields(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Split (..., point, channel) into the outputs, components last."""
        return {
            v.name: np.ascontiguousarray(values[..., part].reshape(*values.shape[:-1], *v.shape))
            for v, part in zip(self.outputs, self.parts, strict=True)
        }

    def misfit(self, schema: DatasetSchema, *, inputs_only: bool = False) -> str:
        """Why data do not fit an operator of this task, in one line; ``""`` if they do.

        Meshes may differ; names, units and components may not.
        """
        try:
            other = MeshTask._of(schema, None)
        except UsageError as e:
            return str(e)
        if other.dim != self.dim:
            return f"the data has {other.dim} space dimensions, the operator {self.dim}"
        for role in ("inputs",) if inputs_only else ("inputs", "outputs"):
            mine, theirs = getattr(self, role), getattr(other, role)
            if [(v.name, v.kind, v.shape) for v in mine] != [
                (v.name, v.kind, v.shape) for v in theirs
            ]:
                names = [", ".join(v.name for v in vs) for vs in (theirs, mine)]
                return f"the data has the {role} {names[0]}, the operator {names[1]}"
            for a, b in zip(mine, theirs, strict=True):
                if a.units != b.units:
                    return f"{a.name} is in {b.units!r} in the data, the operator needs {a.units!r}"
        if not inputs_only and self.times and other.times != self.times:
            return f"the data has the times {other.times}, the operator {self.times}"
        return ""

    # -- training --------------------------------------------------------------------------

    def dry_run(self, model: Any) -> None:
        """Apply a new model once to a few points."""
        import torch

        rng = np.random.default_rng(0)
        low, high = np.array(self.bounds).T
        points = torch.as_tensor(low + (high - low) * rng.random((12, self.dim))).float()
        was_training = model.training
        model.eval()
        with torch.no_grad():
            y = model(torch.zeros(1, 12, self.in_channels), points, torch.ones(12) / 12)
        model.train(was_training)
        expected = (1, 12, self.out_channels)
        if tuple(y.shape) != expected:
            raise UsageError(
                f"model: returns shape {tuple(y.shape)} for this dataset, expected {expected}"
            )

    def fit_normalizer(self, split: Split, *, limit: int | None = None) -> Normalizer:
        """Means and deviations over training samples and domains, weighted by quadrature.

        The components of a vector output share one scale.

        Raises
        ------
        UsageError
            A sample with values that are not finite, or an output that is zero everywhere.
        """
        n = len(split) if limit is None else min(limit, len(split))
        x_sums, y_sums = _Sums(self.in_channels), _Sums(self.out_channels)
        for start in range(0, n, 32):
            index = np.arange(start, min(n, start + 32))
            xs, ys = self.read(split, index)
            for i, x, y in zip(index, xs, ys, strict=True):
                self.check_sample(split, int(i), x, y)
                w = split.mesh(int(i)).point_weights
                x_sums.add(x, w)
                y_sums.add(y, w)
        x_scale = Normalizer.usable_scale(np.sqrt(x_sums.variance), x_sums.largest)
        scale = np.empty(self.out_channels)
        for part in self.parts:
            size = math.sqrt(float(y_sums.variance[part].mean()))
            k = part.stop - part.start
            scale[part] = Normalizer.usable_scale(
                np.full(k, size), np.full(k, y_sums.largest[part].max())
            )
        return Normalizer(*(tuple(a.tolist()) for a in (x_sums.mean, x_scale, y_sums.mean, scale)))

    def check_sample(self, split: Split, i: int, x: np.ndarray, y: np.ndarray) -> None:
        """Raise if sample `i` of `split` cannot be learned from or judged by."""
        for what, a in (("inputs", x), ("outputs", y)):
            if not np.isfinite(a).all():
                raise UsageError(
                    f"sample {int(split.ids[i])}: {what} are not finite; see opkit data check"
                )
        for v, part in zip(self.outputs, self.parts, strict=True):
            if not y[:, part].any():
                raise UsageError(
                    f"sample {int(split.ids[i])}: output {v.name!r} is zero everywhere, so it has "
                    "no relative error"
                )

    def load_normalizer(self, d: Mapping[str, Any]) -> Normalizer:
        """Inverse of `Normalizer.as_dict`, checked for its channels."""
        normalizer = Normalizer.from_dict(d)
        for what, n in (("input", self.in_channels), ("output", self.out_channels)):
            if len(getattr(normalizer, f"{what}_scale")) != n:
                raise ValueError(f"need {n} {what} channels")
        return normalizer

    def data(
        self, split: Split, *, dtype: Any, limit: int | None = None, train: bool = False
    ) -> Any:
        """Batches; see `MeshData`."""
        from ._mesh_operator import MeshData

        return MeshData(split, self, dtype=dtype, limit=limit)

    def learner(self, model: Any, normalizer: Any, config: FitConfig) -> Learner:
        """Quadrature-weighted relative errors in physical units."""
        from ._mesh_operator import MeshLearner

        return MeshLearner(model, self, normalizer)

    # -- use -------------------------------------------------------------------------------

    def operator(
        self, model: Any, normalizer: Any, description: Mapping[str, Any], path: Path | None
    ) -> MeshOperator:
        """`MeshOperator`."""
        from ._mesh_operator import MeshOperator, PhysicalMeshModel

        module = PhysicalMeshModel(model, normalizer)
        return MeshOperator(module, self, description, path=path)

    def evaluate(
        self,
        op: Any,
        dataset: Dataset,
        split: Split,
        config: EvaluateConfig,
        progress: Progress | None,
    ) -> dict[str, Evaluation]:
        """Errors on the meshes of the data, and on meshes of other sizes."""
        from ._mesh_evaluation import evaluate_mesh

        return evaluate_mesh(op, dataset, split, config, progress)

    def predict(self, op: Any, config: PredictConfig, progress: Progress | None) -> Path:
        """Write outputs at the points of the inputs."""
        from ._mesh_evaluation import predict_mesh

        return predict_mesh(op, config, progress)

    @classmethod
    def figures(
        cls, description: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> Sequence[Picture]:
        """Best, median and worst sample, histogram of the errors."""
        from ._points_figures import points_figures

        return points_figures(description, evaluation)


class _Sums:
    """Weighted moments of channels; each sample counts by the measure of its domain."""

    def __init__(self, n: int) -> None:
        self.weight, self.mean, self.square = 0.0, np.zeros(n), np.zeros(n)
        self.largest = np.zeros(n)

    def add(self, values: np.ndarray, weights: np.ndarray) -> None:
        """Take in a sample, (point, channel); sums are merged without cancellation."""
        v = np.asarray(values, np.float64)
        total = float(weights.sum())
        mean = weights @ v / total
        square = weights @ (v - mean) ** 2
        shift = mean - self.mean
        both = self.weight + total
        self.square = self.square + square + shift**2 * (self.weight * total / both)
        self.mean = self.mean + shift * (total / both)
        self.weight = both
        self.largest = np.maximum(self.largest, np.abs(v).max(axis=0))

    @property
    def variance(self) -> np.ndarray:
        """By channel."""
        return self.square / self.weight


def _variable(schema: DatasetSchema, name: str) -> NodeVariable:
    for s in schema.scalars:
        if s.name == name:
            return NodeVariable(name, s.long_name, s.units, "scalar")
    f = schema.field(name)
    if f.dims is not None:
        raise UsageError(
            f"{name!r} of problem {schema.problem!r} lies on axes of its own, "
            f"{schema.sample_dims(name)}: the mesh task learns fields at points; models of the "
            "points task take it"
        )
    if f.location == "cell":
        raise UsageError(
            f"{name!r} of problem {schema.problem!r} lives in cells: the mesh task learns fields "
            "at points"
        )
    return NodeVariable(name, f.long_name, f.units, "field", (schema.dim,) * f.rank)


def _extent(split: Split, schema: DatasetSchema) -> tuple[tuple[tuple[float, float], ...], float]:
    """Box of all points, and mean distance of neighbors."""
    count = 1 if schema.mesh is not None else len(split)
    picked = np.unique(np.linspace(0, count - 1, min(count, MESHES)).round().astype(int))
    low, high = np.full(schema.dim, np.inf), np.full(schema.dim, -np.inf)
    spacings = []
    for i in picked:
        mesh = split.mesh(int(i))
        low, high = np.minimum(low, mesh.points.min(0)), np.maximum(high, mesh.points.max(0))
        spacings.append(mean_spacing(mesh))
    bounds = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
    return bounds, float(f"{np.mean(spacings):.6g}")


def mean_spacing(mesh: Mesh) -> float:
    """Spacing of a grid with as many points on the same measure."""
    return float((mesh.measure / mesh.n_points) ** (1 / mesh.dim))
