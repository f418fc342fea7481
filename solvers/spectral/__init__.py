"""Fourier pseudo-spectral methods on periodic grids, and ETDRK4 time stepping.

Examples
--------
Burgers' equation in three lines:

>>> import numpy as np
>>> from solvers import Grid
>>> from solvers.spectral import Fourier, solve_evolution
>>> space = Fourier(Grid.unit(64, dim=1, periodic=True))
>>> flux = lambda v, t: -0.5j * space.k[0] * space.project(space.evaluate(v) ** 2)
>>> r = solve_evolution(-0.01 * space.k2, flux, np.sin(2 * np.pi * space.points[0]), space, [0, 1])
>>> r.x.shape, r.info["time_error"] < 1e-6
((2, 64), True)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .etdrk4 import etdrk4_coefficients, solve_evolution
    from .fourier import Fourier, resample

_PUBLIC = {
    "Fourier": "fourier",
    "etdrk4_coefficients": "etdrk4",
    "resample": "fourier",
    "solve_evolution": "etdrk4",
}

__all__ = ["Fourier", "etdrk4_coefficients", "resample", "solve_evolution"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
