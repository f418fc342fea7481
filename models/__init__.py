"""Neural operators as plain torch modules: no files, no training loop, no command line."""

from __future__ import annotations

from .registry import ModelEntry, get_model, list_models, register_model
from .spec import ModelSpec

__all__ = ["ModelEntry", "ModelSpec", "get_model", "list_models", "register_model"]
