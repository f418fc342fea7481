"""Datasets of others, turned into opkit's: read a sample at a time, checked, never trusted.

Examples
--------
>>> from pde_data.imports import import_data
>>> import_data("pdebench", ["1D_Advection_Sols_beta0.4.hdf5"], "advection")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .common import ImportOptions, import_data

__all__ = ["ImportOptions", "import_data"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(".common", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
