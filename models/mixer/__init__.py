"""MixER: families of dynamical systems by a sparse mixture of context-conditioned vector fields.

Nzoyem, Stevens, Sahota, Barton, Deakin, "Towards foundational models for dynamical system
reconstruction: hierarchical meta-learning via mixture of experts", arXiv:2502.05335.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contexts import Contexts
    from .gating import GateResult, GateUpdate
    from .integrate import Solver, odeint_scaled
    from .mixer import MixER, build_mixer
    from .training import MetaTraining
    from .vector_fields import BANKS, CoDABank, GEPSBank, NCFBank, PLRNNBank, taylor_field

__all__ = [
    "BANKS",
    "CoDABank",
    "Contexts",
    "GEPSBank",
    "GateResult",
    "GateUpdate",
    "MetaTraining",
    "MixER",
    "NCFBank",
    "PLRNNBank",
    "Solver",
    "build_mixer",
    "odeint_scaled",
    "taylor_field",
]

_HOME = {
    "Contexts": "contexts",
    "GateResult": "gating",
    "GateUpdate": "gating",
    "Solver": "integrate",
    "odeint_scaled": "integrate",
    "MixER": "mixer",
    "build_mixer": "mixer",
    "MetaTraining": "training",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME.get(name, 'vector_fields')}", __name__), name)
