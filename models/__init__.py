"""Neural operators as plain torch modules: no files, no training loop, no command line."""

from __future__ import annotations

from .registry import (
    ModelEntry,
    build_model,
    get_model,
    list_models,
    model_options,
    register_model,
)
from .spec import ModelSpec

__all__ = [
    "ModelEntry",
    "ModelSpec",
    "build_model",
    "get_model",
    "list_models",
    "model_options",
    "register_model",
]
