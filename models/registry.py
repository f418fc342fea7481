"""The models by name; nothing heavy is imported until one is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from solvers.names import check_name

__all__ = ["ModelEntry", "get_model", "list_models", "register_model"]


@dataclass(frozen=True)
class ModelEntry:
    """One registered model.

    Parameters
    ----------
    name, title : str
    task : str
        The `opkit.tasks` task it is trained by.
    factory : str
        ``"module:function"``. The function is called as ``factory(spec, **options)``, `spec` a
        `ModelSpec`, and returns the torch module; it completes the options from the spec. Its
        keyword-only arguments with defaults are the options that ``--set`` may change.
    reference : str
        Paper.
    """

    name: str
    title: str
    task: str
    factory: str
    reference: str = ""

    def load(self) -> Callable[..., Any]:
        """Import and return the factory."""
        module, _, func = self.factory.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), func)
        return loaded


_MODELS: dict[str, ModelEntry] = {}


def register_model(entry: ModelEntry) -> ModelEntry:
    """Make a model known.

    Raises
    ------
    ValueError
        If another model has the name.
    """
    if _MODELS.get(entry.name, entry) != entry:
        raise ValueError(f"model {entry.name!r} is registered already")
    _MODELS[entry.name] = entry
    return entry


def list_models() -> dict[str, ModelEntry]:
    """All registered models by name."""
    return dict(sorted(_MODELS.items()))


def get_model(name: str) -> ModelEntry:
    """The entry called `name`.

    Raises
    ------
    UnknownNameError
    """
    check_name("model", name, sorted(_MODELS))
    return _MODELS[name]


register_model(
    ModelEntry(
        "mgno",
        "MgNO: linear maps are learned multigrid V-cycles",
        "grid",
        "models.mgno:build_mgno",
        "He, Liu, Xu, arXiv:2310.19809",
    )
)
register_model(
    ModelEntry(
        "fno",
        "FNO: Fourier neural operator (neuraloperator)",
        "grid",
        "models.baselines:build_fno",
        "Li et al., arXiv:2010.08895",
    )
)
