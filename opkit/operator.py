"""`Operator`: what `fit` leaves and `load` returns."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .checkpoint import OperatorError, load_json, load_weights
from .errors import UsageError
from .tasks import get_task

if TYPE_CHECKING:
    from .tasks import Task

__all__ = ["Operator", "OperatorError", "load"]

FORMAT = "opkit-operator"
FORMAT_VERSION = "1.0"
#: Files that make an operator; the rest of a run directory is evidence.
FILES = ("operator.json", "normalizer.json", "model.safetensors", "config.yaml", "history.csv")


class Operator:
    """A trained model; each task has a subclass that is called on its kind of data.

    Parameters
    ----------
    module : nn.Module
        Computes in physical units.
    model : nn.Module
        The bare model, between normalized units; a part of `module`.
    task : Task
    description : mapping
        Content of ``operator.json``.
    path : Path, optional
        The run directory.

    Attributes
    ----------
    module, model, task, description, path
    """

    def __init__(
        self,
        module: nn.Module,
        model: nn.Module,
        task: Task,
        description: Mapping[str, Any],
        *,
        path: Path | None = None,
    ) -> None:
        self.module, self.model, self.task = module.eval(), model, task
        self.description, self.path = dict(description), path

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.description['data']['problem']}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the operator."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Name of the model in the registry."""
        return str(self.description["model"])

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the model."""
        return dict(self.description["options"])

    @property
    def n_parameters(self) -> int:
        """Number of trained real numbers."""
        return count_parameters(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision it computes in."""
        return next(self.model.parameters()).dtype.to_real()

    def to(self, *args: Any) -> Operator:
        """Move to a device or precision, as `torch.nn.Module.to`."""
        self.module.to(*args)
        return self

    @property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json`` of each evaluated split; empty before the first evaluation."""
        found = sorted((self.path / "evaluation").glob("*/metrics.json")) if self.path else []
        return {p.parent.name: load_json(p) for p in found}

    @property
    def history(self) -> list[dict[str, float]]:
        """Rows of ``history.csv``."""
        if self.path is None or not (self.path / "history.csv").is_file():
            return []
        with (self.path / "history.csv").open(newline="", encoding="utf-8") as f:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]

    # -- files -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Copy the operator, without checkpoints and evaluations, to a new directory.

        Raises
        ------
        FileExistsError
            `path` exists.
        OperatorError
            The operator does not come from a directory.
        """
        path = Path(path)
        if self.path is None:
            raise OperatorError("this operator has no directory to copy")
        if path.exists():
            raise FileExistsError(f"{path} exists already")
        path.mkdir(parents=True)
        for name in FILES:
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, path / name)
        return path


def count_parameters(module: nn.Module) -> int:
    """Trained real numbers; a complex weight counts two."""
    return sum(
        p.numel() * (2 if p.is_complex() else 1) for p in module.parameters() if p.requires_grad
    )


def load(run: str | Path, *, device: str = "cpu") -> Operator:
    """Load what `opkit fit` has left.

    Runs no code from the directory: weights are safetensors, all else is JSON, and models are
    known by their name in the registry alone.

    Parameters
    ----------
    run : path
        Run directory.
    device : str
        Where to put the model.

    Returns
    -------
    Operator

    Raises
    ------
    OperatorError
        Not a run, of another version, or damaged: one line that names the file.
    UsageError
        No such device here.
    """
    run = Path(run)
    if not run.is_dir():
        raise OperatorError(f"{run}: no such run directory; make one with opkit fit DATA -o {run}")
    if not (run / "operator.json").is_file():
        raise OperatorError(f"{run}: no run of opkit fit (operator.json is missing)")
    description = read_description(run)
    from models import build_model

    try:
        task: Task = get_task(description["task"]).from_dict(description["fields"])
        with torch.random.fork_rng(devices=[]):
            model, _ = build_model(description["model"], task.spec(), description["options"])
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise OperatorError(f"{run / 'operator.json'}: {' '.join(str(e).split())}") from None
    try:
        normalizer = task.load_normalizer(load_json(run / "normalizer.json"))
    except (KeyError, TypeError, ValueError) as e:
        if isinstance(e, OperatorError):
            raise
        raise OperatorError(f"{run / 'normalizer.json'} is damaged: {e}") from None
    load_weights(run / "model.safetensors", model)
    if description.get("dtype") == "float64":
        model.double()
    op = task.operator(model, normalizer, description, run)
    try:
        return op.to(device)
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"device={device!r}: {str(e).splitlines()[0]}") from None


def read_description(run: Path) -> dict[str, Any]:
    """``operator.json``, checked for format and version.

    Raises
    ------
    OperatorError
    """
    path = run / "operator.json"
    d = load_json(path)
    if d.get("format") != FORMAT:
        raise OperatorError(f"{path}: not an operator of opkit ('format' is not {FORMAT!r})")
    version = str(d.get("format_version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise OperatorError(
            f"{path}: format_version {version}, this opkit reads {FORMAT_VERSION.split('.')[0]}.x"
        )
    for key, kind in (("model", str), ("options", dict), ("fields", dict), ("data", dict)):
        if not isinstance(d.get(key), kind):
            raise OperatorError(f"{path} is damaged: {key!r} is missing or of the wrong type")
    return d
