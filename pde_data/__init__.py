"""PDE and ODE data with evidence: problems, random fields, generation, the HDF5 format.

Names are imported when first used; ``from pde_data.generate import generate`` makes a dataset.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "problem": (
        "Parameters",
        "Problem",
        "ProblemError",
        "Solution",
        "get_problem",
        "list_problems",
        "problem_class",
        "register",
    ),
    "fields": (
        "FieldSample",
        "GaussianField",
        "RandomWaves",
        "SpaceFunction",
        "TransformedField",
        "WaveSample",
        "bounded",
        "level_set",
        "lognormal",
    ),
    "functions": ("FunctionSample", "FunctionSpace", "input_space"),
    "images": ("image_source",),
    # not `generate` itself: the module of that name would take its place
    "generate": ("GenerateConfig", "GenerateError", "GenerateResult", "ProgressEvent"),
    "hdf5": ("check_dataset", "dataset_info", "open_dataset"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
