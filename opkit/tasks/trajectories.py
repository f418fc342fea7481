"""Trajectories of dynamical systems, of one or many environments: what MixER is trained by."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from solvers.names import check_name

from ..errors import UsageError
from ._task import Evaluation, Picture, Progress, Task, TaskOptions
from .normalizer import ChannelMoments, Normalizer

if TYPE_CHECKING:
    from models.mixer import Solver
    from models.spec import TrajectorySpec
    from opkit.evaluate import EvaluateConfig
    from opkit.fit import FitConfig
    from opkit.learner import Learner
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Dataset, DatasetSchema, FieldSpec, Split

    from ._trajectories_operator import TrajectoryOperator

__all__ = ["TrajectoriesOptions", "TrajectoriesTask", "TrajectoryArrays", "TrajectoryScale"]

#: More states than this are no ordinary differential equation but a field.
MAX_STATES = 256


class TrajectoriesOptions(TaskOptions):
    """Settings of `TrajectoriesTask`."""

    field: str | None = Field(
        None, description="name of a field that varies in time; default the first output that does"
    )
    horizon: int | None = Field(
        None, ge=1, description="stored times that a training trajectory is followed before it "
        "starts anew from the data (multiple shooting); default the whole trajectory",
    )  # fmt: skip
    window: float = Field(
        1.0, gt=0, le=1, description="each step trains on a random part of each trajectory (or of "
        "what the horizon leaves of it), at least this long; 1: on all of it",
    )  # fmt: skip
    method: Literal["rk4", "dopri5"] = Field(
        "rk4", description="rk4: fixed steps; dopri5: torchdiffeq's, which chooses its steps"
    )
    substeps: int = Field(2, ge=1, description="steps of rk4 from one stored time to the next")
    gradients: Literal["direct", "adjoint"] = Field(
        "direct", description="through the steps, or by the adjoint equation (dopri5)"
    )
    rtol: float = Field(1e-3, gt=0, description="of dopri5, like the next, in normalized units")
    atol: float = Field(1e-6, gt=0, description="of dopri5")
    inner_steps: int | None = Field(
        None, ge=0, description="steps on the contexts, then as many on the weights, with proximal "
        "terms; default 0, both together, with gating=paper 12",
    )  # fmt: skip
    beta: float = Field(10.0, ge=0, description="of the proximal terms")
    gate_every: int | None = Field(
        None, ge=1, description="steps from one gate to the next; default 4 for each expert and at "
        "least 12, with gating=paper 1",
    )  # fmt: skip
    warmup: float | None = Field(
        None, ge=0, lt=1, description="part of the steps in which all environments share one "
        "expert; default 0.3, 0 with other gatings than warmup",
    )  # fmt: skip
    contributors: int | None = Field(
        None, ge=1, description="environments in a step: a random one and the nearest in context "
        "space; default all, with gating=paper as many as one expert has on average",
    )  # fmt: skip
    taylor_order: Literal[0, 1, 2] = Field(
        0, description="contextual self-modulation: expand the field about neighboring contexts"
    )
    pool: int = Field(2, ge=1, description="nearest contexts to expand about, itself included")
    regularization: float = Field(
        0.0, ge=0, description="times the mean of the contexts' absolute values"
    )
    balance: float = Field(
        0.0, ge=0, description="of the load balancing loss, with gating=gradient"
    )
    reweight: bool = Field(
        False, description="weigh environments by the softmax of their losses, so that those "
        "learned worst count most",
    )  # fmt: skip
    context_lr: float = Field(
        1.0, gt=0, description="learning rate of the contexts over that of the weights"
    )
    forcing: float = Field(
        0.9, ge=0, le=1, description="teacher forcing of discrete maps (plrnn): part of the state "
        "that is kept, 1 for none",
    )  # fmt: skip


@dataclass(frozen=True)
class TrajectoryScale:
    """``(x - shift) / scale`` for the states, ``t / time`` for times.

    Parameters
    ----------
    shift, scale : tuple of float
        Mean and standard deviation of each state over the training split.
    time : float
        One over the root mean square rate of change of normalized states, so that a model's rates
        are of size 1.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    time: float

    def __post_init__(self) -> None:
        values = (*self.shift, *self.scale, self.time)
        positive = (*self.scale, self.time)
        if (
            len(self.shift) != len(self.scale)
            or not all(map(math.isfinite, values))
            or min(positive) <= 0
        ):
            raise ValueError(
                f"shift={self.shift}, scale={self.scale}, time={self.time}: need as many finite "
                "numbers, scale and time > 0"
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"shift": list(self.shift), "scale": list(self.scale), "time": self.time}


@dataclass(frozen=True)
class TrajectoryArrays:
    """Trajectories as read, physical units.

    Parameters
    ----------
    x : ndarray, shape (n, T, d)
        0 where it is not observed.
    times : ndarray, shape (n, T)
    observed : ndarray of bool, shape (n, T, d)
    environment, family : ndarray, shape (n,)
        Numbers as stored; `family` -1 where the data states none.
    ids : ndarray, shape (n,)
    """

    x: np.ndarray
    times: np.ndarray
    observed: np.ndarray
    environment: np.ndarray
    family: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class TrajectoriesTask(Task):
    """Initial state and times to a trajectory, in a known environment.

    The scalar ``environment`` of a sample says which system it comes from (without one all are of
    the same), ``family`` is used in evaluations alone. A field ``observed`` of the same shape says
    with 0 what was not measured; trajectories start at the first time at which all states are.

    Parameters
    ----------
    field, units, time_units : str
    states : tuple of str
        Labels.
    environments : tuple of float
        Numbers of the environments, as the data has them, in the order of the model's contexts.
    families : tuple of float
        Of each environment; empty if the data states none.
    steps : tuple of float
        Median step of the stored times of each environment.
    family_names, environment_names : mapping of str to str
        Number to name, as far as the data says.
    settings : mapping
        See `TrajectoriesOptions`.
    """

    field: str
    units: str
    time_units: str
    states: tuple[str, ...]
    environments: tuple[float, ...]
    families: tuple[float, ...]
    steps: tuple[float, ...]
    family_names: Mapping[str, str]
    environment_names: Mapping[str, str]
    settings: TrajectoriesOptions

    usage: ClassVar[str] = "x = operator(x0, times, environment=0)  # (times, state)"
    name: ClassVar[str] = "trajectories"
    losses: ClassVar[tuple[str, ...]] = ("mse", "relative")
    default_loss: ClassVar[str] = "mse"
    metrics: ClassVar[Mapping[str, str]] = {
        "rel_l2": "relative L2",
        "mse": "mean squared",
    }
    titles: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {
        "lr": 3e-3, "batch_size": 4096, "weight_decay": 0.0, "epochs": 40, "repeat": 60,
        "scheduler": "cosine",
    }  # fmt: skip
    Options: ClassVar[type[TaskOptions]] = TrajectoriesOptions

    # -- descriptions ----------------------------------------------------------------------

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, options: TrajectoriesOptions, resolution: Sequence[Any] = ()
    ) -> Self:
        """Task of a dataset; see `Task.from_dataset`."""
        cls.refuse_resolution(resolution)
        schema = dataset.schema
        moving = [
            f.name
            for f in schema.fields
            if f.time_varying and f.sample_varying and f.name != "observed"
        ]
        if not moving:
            raise UsageError(
                f"problem {schema.problem!r} has no field that varies in time: the trajectories "
                "task learns dynamics"
            )
        outputs = [n for n in schema.outputs if n in moving]
        name = options.field or (outputs or moving)[0]
        check_name("field", name, moving)
        if schema.layout == "ragged":
            raise UsageError(f"field {name!r}: meshes that differ by sample have no common state")
        n_times, *shape = schema.sample_shape(name)
        d = math.prod(shape)
        if n_times < 2:
            raise UsageError(f"field {name!r} has {n_times} stored time: need at least 2")
        if d > MAX_STATES:
            raise UsageError(
                f"field {name!r} has {d} values at each time: the trajectories task takes at most "
                f"{MAX_STATES}; fields belong to the grid task (opkit list models)"
            )
        f = schema.field(name)
        labels = _labels(f, d)
        found = _environments(dataset["train"])
        return cls(name, f.units, schema.time_units, labels, **found, settings=options)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "field": self.field,
            "units": self.units,
            "time_units": self.time_units,
            "states": list(self.states),
            "environments": list(self.environments),
            "families": list(self.families),
            "steps": list(self.steps),
            "family_names": dict(self.family_names),
            "environment_names": dict(self.environment_names),
            "settings": self.settings.model_dump(mode="json"),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""
        environments, families, steps = (
            tuple(map(float, d[k])) for k in ("environments", "families", "steps")
        )
        return cls(
            str(d["field"]), str(d["units"]), str(d["time_units"]), tuple(d["states"]),
            environments, families, steps, dict(d["family_names"]),
            dict(d["environment_names"]), TrajectoriesOptions(**d["settings"]),
        )  # fmt: skip

    def spec(self) -> TrajectorySpec:
        """Count states, environments and families."""
        from models.spec import TrajectorySpec

        families = len(set(self.families)) or None
        return TrajectorySpec(len(self.states), len(self.environments), families)

    @property
    def solver(self) -> Solver:
        """How the model is integrated."""
        from models.mixer import Solver

        s = self.settings
        try:
            return Solver(s.method, s.substeps, 100.0, s.gradients, s.rtol, s.atol)
        except ValueError as e:
            raise UsageError(str(e)) from None

    def misfit(self, schema: DatasetSchema, *, inputs_only: bool = False) -> str:
        """Why data do not fit an operator, in one line; ``""`` if they do."""
        found = [f for f in schema.fields if f.name == self.field]
        if not found or not found[0].time_varying:
            return f"the data has no field {self.field!r} that varies in time"
        d = math.prod(schema.sample_shape(self.field)[1:])
        if d != len(self.states):
            return f"{self.field} has {d} states in the data, the operator {len(self.states)}"
        if found[0].units != self.units:
            return (
                f"{self.field} is in {found[0].units!r} in the data, the operator needs "
                f"{self.units!r}"
            )
        if schema.time_units != self.time_units:
            return (
                f"times are in {schema.time_units!r} in the data, the operator needs "
                f"{self.time_units!r}"
            )
        if (labels := _labels(found[0], d)) != self.states:
            return (
                f"the states of {self.field} are {', '.join(labels)} in the data, the operator's "
                f"{', '.join(self.states)}"
            )
        return ""

    def for_split(self, split: Split) -> Self:
        """Task of the same model for the environments of another dataset's split."""
        found = _environments(split)
        found["family_names"] = {**self.family_names, **found["family_names"]}
        return replace(self, **found)

    def environment_name(self, number: float) -> str:
        """Name that the data gives an environment, else its number."""
        return self.environment_names.get(f"{number:g}", f"{number:g}")

    def environment_index(self, numbers: Any) -> np.ndarray:
        """Position of environments, by number or by name, in the model's contexts.

        Raises
        ------
        UsageError
            One that the operator has no context for.
        """
        known = np.asarray(self.environments)
        numbers = np.asarray(numbers)
        if numbers.dtype.kind in "UO":
            names = {self.environment_name(e): e for e in self.environments}
            for name in numbers.ravel():
                check_name("environment", str(name), list(names))
            numbers = np.array([names[str(n)] for n in numbers.ravel()]).reshape(numbers.shape)
        numbers = numbers.astype(np.float64)
        at = np.searchsorted(known, numbers).clip(0, len(known) - 1)
        if (bad := known[at] != numbers).any():
            raise UsageError(
                f"environment {float(numbers[np.argmax(bad)]):g} is not among the "
                f"{len(known)} that the operator knows ({_few(known)}); opkit adapt finds "
                "contexts of new ones"
            )
        return np.asarray(at)

    # -- training --------------------------------------------------------------------------

    def dry_run(self, model: Any) -> None:
        """Apply a new model once; see `Task.dry_run`."""
        import torch

        d = len(self.states)
        zero = torch.zeros(1, dtype=torch.long)
        with torch.no_grad():
            y = model(torch.zeros(1, d), torch.tensor([[0.0, 0.1, 0.2]]), zero)
        if tuple(y.shape) != (1, 3, d):
            raise UsageError(f"model: returns shape {tuple(y.shape)}, expected {(1, 3, d)}")

    def read(self, split: Split, indices: Sequence[int] | np.ndarray) -> TrajectoryArrays:
        """Read trajectories; what is not finite counts as not observed."""
        indices = np.asarray(indices)
        schema = split.schema
        x = np.asarray(split.read(indices, [self.field])[self.field], np.float64)
        x = x.reshape(*x.shape[:2], -1)
        observed = np.isfinite(x)
        if any(f.name == "observed" and f.time_varying for f in schema.fields):
            mask = np.asarray(split.read(indices, ["observed"])["observed"])
            observed = observed & (mask.reshape(x.shape) > 0.5)
        times = np.array([split.times(int(i)) for i in indices])
        numbers = [s.name for s in schema.scalars if s.value is None]
        environment = _scalar(split, "environment", numbers, indices)
        family = (
            _scalar(split, "family", numbers, indices)
            if "family" in numbers
            else np.full(len(indices), -1.0)
        )
        ids = np.asarray(split.ids)[indices]
        return TrajectoryArrays(
            np.where(observed, x, 0.0), times, observed, environment, family, ids
        )

    def fit_normalizer(self, split: Split, *, limit: int | None = None) -> TrajectoryScale:
        """Mean and standard deviation of what is observed, and the scale of time.

        Raises
        ------
        UsageError
            Nothing is observed, or nothing moves.
        """
        n = len(split) if limit is None else min(limit, len(split))
        a = self.read(split, np.arange(n))
        moments = []
        for i, label in enumerate(self.states):
            values = a.x[..., i][a.observed[..., i]]
            if not len(values):
                raise UsageError(f"state {label!r} is never observed in the training split")
            m = ChannelMoments()
            m.add(values.reshape(1, 1, -1))
            moments.append(m)
        std = np.array([m.std[0] for m in moments])
        scale = Normalizer.usable_scale(std, np.array([m.largest[0] for m in moments]))
        # mean squared rate of change between neighbors that are both observed
        both = a.observed[:, 1:] & a.observed[:, :-1]
        rate = np.diff(a.x, axis=1) / scale / np.diff(a.times, axis=1)[..., None]
        square = float((rate[both] ** 2).mean()) if both.any() else 0.0
        if square == 0:
            raise UsageError(f"{self.field} does not change in time: there is nothing to learn")
        return TrajectoryScale(
            tuple(float(m.mean[0]) for m in moments), tuple(map(float, scale)), square**-0.5
        )

    def load_normalizer(self, d: Mapping[str, Any]) -> TrajectoryScale:
        """Inverse of `TrajectoryScale.as_dict`."""
        shift, scale = (tuple(map(float, d[k])) for k in ("shift", "scale"))
        if len(shift) != len(self.states):
            raise ValueError(f"shift has {len(shift)} entries, the states are {len(self.states)}")
        return TrajectoryScale(shift, scale, float(d["time"]))

    def prepare(self, model: Any, split: Split, normalizer: Any, *, limit: int | None) -> None:
        """Refuse more experts than environments, and irregular times for discrete maps."""
        if model.n_experts > model.n_environments:
            raise UsageError(
                f"n_experts={model.n_experts}: the data has {model.n_environments} environments, "
                "need as many at least"
            )
        if model.bank.discrete:
            n = len(split) if limit is None else min(limit, len(split))
            a = self.read(split, np.arange(n))
            steps = np.diff(a.times, axis=1)
            uneven = np.abs(steps - steps[:, :1]).max(axis=1) > 1e-3 * steps.max(axis=1)
            if uneven.any():
                raise UsageError(
                    f"sample {int(a.ids[np.argmax(uneven)])}: its times are not uniform; "
                    "expert=plrnn is a map from one stored time to the next, choose another expert"
                )

    def data(
        self, split: Split, *, dtype: Any, limit: int | None = None, train: bool = False
    ) -> Any:
        """Batches of trajectories, in training cut at the horizon."""
        from ._trajectories_learner import TrajectoryData

        horizon = self.settings.horizon if train else None
        return TrajectoryData(split, self, dtype=dtype, limit=limit, horizon=horizon)

    def learner(self, model: Any, normalizer: TrajectoryScale, config: FitConfig) -> Learner:
        """Meta-training."""
        from ._trajectories_learner import TrajectoryLearner

        return TrajectoryLearner(model, self, normalizer, config)

    # -- use -------------------------------------------------------------------------------

    def operator(
        self,
        model: Any,
        normalizer: TrajectoryScale,
        description: Mapping[str, Any],
        path: Path | None,
    ) -> TrajectoryOperator:
        """`TrajectoryOperator`."""
        from ._trajectories_operator import TrajectoryOperator

        return TrajectoryOperator(model, self, normalizer, description, path=path)

    def evaluate(
        self,
        op: Any,
        dataset: Dataset,
        split: Split,
        config: EvaluateConfig,
        progress: Progress | None,
    ) -> dict[str, Evaluation]:
        """Errors by trajectory, experts by environment, contexts, phase portraits."""
        from ._trajectories_evaluation import evaluate_trajectories

        if config.resolution:
            self.refuse_resolution(config.resolution)
        return {"": evaluate_trajectories(op, split, config, progress)}

    def predict(self, op: Any, config: PredictConfig, progress: Progress | None) -> Path:
        """Write predicted trajectories of a split."""
        from ._trajectories_evaluation import predict_trajectories

        return predict_trajectories(op, config, progress)

    @classmethod
    def figures(
        cls, description: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> Sequence[Picture]:
        """Phase portraits, errors against time and by environment, map of the contexts."""
        from ._trajectories_figures import trajectory_figures

        return trajectory_figures(description, evaluation)

    @classmethod
    def report_html(cls, evaluation: Mapping[str, Any]) -> str:
        """Which expert has which environments."""
        metrics, table = evaluation["metrics"], evaluation["environments"]
        families, names = (
            [f"{v:g}" if isinstance(v, float) else str(v) for v in table[k]]
            for k in ("family", "name")
        )
        kinds = sorted(set(families))
        rows = ""
        for e in range(metrics["n_experts"]):
            mine = [i for i, k in enumerate(table["expert"]) if int(k) == e]
            counts = [sum(families[i] == f for i in mine) for f in kinds]
            shown = ", ".join(names[i] for i in mine[:12]) + (", ..." if len(mine) > 12 else "")
            rows += (
                f"<tr><th>expert {e}</th>"
                + "".join(f'<td class="n">{c or "–"}</td>' for c in counts)
                + f"<td>{html.escape(shown) or '–'}</td></tr>"
            )
        titles = [*(["environments"] if kinds == ["all"] else kinds), "which"]
        head = "".join(f"<th>{html.escape(t)}</th>" for t in titles)
        index = metrics["adjusted_rand_index"]
        said = (
            f" Adjusted Rand index of experts against families {index:.3f}: 1 if they are the same "
            "partition, near 0 for a random one."
            if index is not None
            else ""
        )
        blown = metrics["blown_up"]
        warning = (
            f'<p class="warn">{len(blown)} predicted trajectories left the box of 100 standard '
            f"deviations and were held there (samples {', '.join(map(str, blown[:8]))}).</p>"
            if blown
            else ""
        )
        return (
            f"<h3>Experts</h3>{warning}<p>Environments by the expert that they use; "
            f"{metrics['experts_used']} of {metrics['n_experts']} experts are used.{said}</p>"
            f'<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'
        )


def _labels(field: FieldSpec, n: int) -> tuple[str, ...]:
    """Names of a field's `n` states."""
    given = tuple(field.labels or ())
    return given if len(given) == n else tuple(f"x{i}" for i in range(n))


def _scalar(
    split: Split, name: str, numbers: Sequence[str], indices: np.ndarray | None = None
) -> np.ndarray:
    """Values of a scalar; zeros if the data has none of that name."""
    indices = np.arange(len(split)) if indices is None else indices
    if name not in numbers:
        return np.zeros(len(indices))
    return np.asarray(split.read(indices, [name])[name], np.float64).reshape(-1)


def _environments(split: Split) -> dict[str, Any]:
    """Environments of a split, with the family and the median time step of each."""
    schema = split.schema
    numbers = [s.name for s in schema.scalars if s.value is None]
    environment = _scalar(split, "environment", numbers)
    known, first = np.unique(environment, return_index=True)
    families: tuple[float, ...] = ()
    if "family" in numbers:
        family = _scalar(split, "family", numbers)
        families = tuple(map(float, family[first]))
    return {
        "environments": tuple(map(float, known)),
        "families": families,
        "steps": tuple(float(np.median(np.diff(split.times(int(i))))) for i in first),
        "family_names": _names(schema, "family"),
        "environment_names": _names(schema, "environment"),
    }


def _names(schema: DatasetSchema, scalar: str) -> dict[str, str]:
    """Legend of a scalar: ``"number of the family: 0 a, 1 b"`` as ``{"0": "a", "1": "b"}``."""
    text = next((s.long_name for s in schema.scalars if s.name == scalar), "")
    return dict(re.findall(r"(\d+) ([^,;]+)", text.partition(":")[2]))


def _few(values: np.ndarray) -> str:
    shown = ", ".join(f"{v:g}" for v in values[:6])
    return shown if len(values) <= 6 else f"{shown}, ..., {values[-1]:g}"
