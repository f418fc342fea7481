"""Time-dependent equations on grids: diffusion and reaction, waves, shallow water, advection.

Every solver takes the initial values, the times to store and a `Grid`, and returns a `SolveResult`
whose `x` has the shape (T, ...) and whose ``info["time_error"]`` is the estimated relative L2 error
that the time steps make.

Examples
--------
The heat equation in three lines:

>>> import numpy as np
>>> from solvers import Grid
>>> from solvers.evolution import solve_parabolic
>>> grid = Grid.unit(65, dim=1)
>>> u0 = np.sin(np.pi * grid.coords[0])
>>> r = solve_parabolic(u0, [0.0, 0.1], grid, boundary="dirichlet")
>>> bool(abs(r.x[1, 32] / np.exp(-0.1 * np.pi**2) - 1) < 1e-3)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .advection import advect_exactly, solve_advection
    from .parabolic import Storage, solve_parabolic
    from .shallow_water import dam_break_1d, solve_shallow_water
    from .wave import solve_wave

_PUBLIC = {
    "Storage": "parabolic",
    "advect_exactly": "advection",
    "dam_break_1d": "shallow_water",
    "solve_advection": "advection",
    "solve_parabolic": "parabolic",
    "solve_shallow_water": "shallow_water",
    "solve_wave": "wave",
}

__all__ = [
    "Storage",
    "advect_exactly",
    "dam_break_1d",
    "solve_advection",
    "solve_parabolic",
    "solve_shallow_water",
    "solve_wave",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
