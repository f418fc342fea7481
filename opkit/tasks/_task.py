"""The contract between datasets and models: what `fit`, `evaluate`, `predict` and `report` ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..errors import UsageError

if TYPE_CHECKING:
    from opkit.evaluate import EvaluateConfig
    from opkit.fit import FitConfig
    from opkit.learner import Learner
    from opkit.operator import Operator
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Dataset, DatasetSchema, Split

__all__ = ["Evaluation", "Picture", "Task", "TaskOptions"]

#: Called as ``progress(done, in all, note)``.
Progress = Callable[[int, int, str], None]


class TaskOptions(BaseModel):
    """Settings of a task, ``opkit fit --task key=value``; a task without any takes none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation of some samples leaves in ``RUN/evaluation/<name>/``.

    Parameters
    ----------
    ids : ndarray, shape (n,)
        Sample ids.
    errors : mapping of str to ndarray, shape (n,)
        Columns of ``per_sample.csv``. Mean, median, 95 % quantile, maximum and worst sample of
        each go into ``metrics.json``. All values are finite: a task raises otherwise.
    facts : mapping
        More for ``metrics.json``, JSON types; ``seconds_per_sample`` and ``resolution`` are shown
        by the report where they are.
    tables : mapping
        Name -> columns of equal length, written as ``<name>.csv``.
    arrays : mapping of str to ndarray
        ``samples.npz``: what `Task.figures` draws.
    """

    ids: np.ndarray
    errors: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A matplotlib figure for the report page.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    alt : str
        For those who do not see it.
    caption : str
    raster : bool
        Draw as pixels: pictures of fields, many points.
    pair : bool
        Half as wide, beside the next one that is.
    """

    figure: Any
    alt: str
    caption: str = ""
    raster: bool = False
    pair: bool = False


class Task(ABC):
    """How one kind of model meets data.

    Subclasses are frozen dataclasses that JSON can hold. They are made from a dataset when a
    training starts and from ``operator.json`` when an operator is loaded. Arrays are in physical
    units in datasets, operators and metrics; models see normalized units.
    """

    #: Name in `opkit.tasks.TASKS`.
    name: ClassVar[str]
    #: Allowed values of `FitConfig.loss`.
    losses: ClassVar[tuple[str, ...]]
    default_loss: ClassVar[str]
    #: Errors of a sample that `Learner.errors` gives, with titles for people. The mean of the
    #: first over valid chooses the weights that are kept.
    metrics: ClassVar[Mapping[str, str]]
    #: Titles of further columns of `Evaluation.errors`.
    titles: ClassVar[Mapping[str, str]] = {}
    #: Settings of `FitConfig` where the task's own default differs; a `ModelEntry` may have more.
    defaults: ClassVar[Mapping[str, Any]] = {}
    #: A line of Python that applies an operator, for the report.
    usage: ClassVar[str] = "y = operator(x)"
    #: Settings of the task.
    Options: ClassVar[type[TaskOptions]] = TaskOptions

    # -- descriptions ----------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def from_dataset(cls, dataset: Dataset, options: Any, resolution: Sequence[Any] = ()) -> Self:
        """Task of a dataset.

        Parameters
        ----------
        dataset : Dataset
        options : Options
        resolution : sequence
            ``FitConfig.resolution``; a task that does not train at chosen resolutions calls
            `refuse_resolution`.

        Raises
        ------
        UsageError
            Data that this task does not learn from: one line that says why.
        """

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """JSON types; ``fields`` of ``operator.json``."""

    @classmethod
    @abstractmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""

    @abstractmethod
    def spec(self) -> Any:
        """Tell a model factory about the data, see `models.spec`."""

    @abstractmethod
    def misfit(self, schema: DatasetSchema, *, inputs_only: bool = False) -> str:
        """Why data do not fit an operator of this task, in one line; ``""`` if they do."""

    @classmethod
    def refuse_resolution(cls, resolution: Sequence[Any]) -> None:
        """Raise if `resolution` is given, for tasks that take none."""
        if resolution:
            raise UsageError(
                f"resolution={list(resolution)}: the {cls.name} task trains on the data as stored"
            )

    # -- training --------------------------------------------------------------------------

    @abstractmethod
    def dry_run(self, model: Any) -> None:
        """Apply a new model once, so that what does not fit shows before anything is written.

        Raises
        ------
        UsageError
            It returns other shapes than the data has.
        """

    @abstractmethod
    def fit_normalizer(self, split: Split, *, limit: int | None = None) -> Any:
        """Scales from the first `limit` training samples; has ``as_dict()`` (JSON)."""

    @abstractmethod
    def load_normalizer(self, d: Mapping[str, Any]) -> Any:
        """Inverse of the normalizer's ``as_dict``; checks that it fits the task (ValueError)."""

    def prepare(self, model: Any, split: Split, normalizer: Any, *, limit: int | None) -> None:
        """Set what a new model computes from training data, such as a basis; default nothing."""
        return

    @abstractmethod
    def data(
        self, split: Split, *, dtype: Any, limit: int | None = None, train: bool = False
    ) -> Any:
        """Batches of a split for torch.

        Returns
        -------
        torch.utils.data.Dataset
            ``len(data)`` items; ``data[indices]`` a tuple of tensors, the last one weights
            ``(b,)``: 1, or 0 for an index below 0, which only fills up a batch (item
            ``-index - 1``); ``data.cached``, ``data.blocks`` and ``data.load()`` as in
            `opkit.data.SplitData`.
        """

    @abstractmethod
    def learner(self, model: Any, normalizer: Any, config: FitConfig) -> Learner:
        """Make what a training step computes."""

    # -- use -------------------------------------------------------------------------------

    @abstractmethod
    def operator(
        self, model: Any, normalizer: Any, description: Mapping[str, Any], path: Path | None
    ) -> Operator:
        """Make what `opkit.load` returns."""

    @abstractmethod
    def evaluate(
        self,
        op: Any,
        dataset: Dataset,
        split: Split,
        config: EvaluateConfig,
        progress: Progress | None,
    ) -> dict[str, Evaluation]:
        """Errors of an operator on a split.

        Returns
        -------
        dict
            Suffix of the directory's name -> result: ``""`` for the split itself, more for
            variants such as ``"_res64"``.

        Raises
        ------
        EvaluationError
            Values that are not finite.
        """

    @abstractmethod
    def predict(self, op: Any, config: PredictConfig, progress: Progress | None) -> Path:
        """Write `config.out`, which does not exist or may be replaced, all or nothing."""

    @classmethod
    def figures(
        cls, description: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> Sequence[Picture]:
        """Pictures of an evaluation.

        Parameters
        ----------
        description : mapping
            ``operator.json``.
        evaluation : mapping
            ``metrics`` (``metrics.json``), ``samples`` (arrays), ``per_sample`` and each of
            `Evaluation.tables` (columns).
        """
        return ()

    @classmethod
    def report_html(cls, evaluation: Mapping[str, Any]) -> str:
        """More of an evaluation for the report page, below the pictures; default nothing."""
        return ""
