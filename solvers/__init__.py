"""Numerical solvers: discretize, assemble, solve, verify. numpy in, numpy out, no torch.

Examples
--------
>>> from solvers import Grid, solve_diffusion
>>> result = solve_diffusion(a=1.0, f=1.0, grid=Grid.unit(65))
>>> result.residual <= 1e-10
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .convection_diffusion import solve_convection_diffusion
    from .diffusion import (
        choose_solver,
        prepare_diffusion,
        solve_diffusion,
        solve_diffusion_batch,
    )
    from .finite_volume import Robin
    from .grids import Axis, Grid, normalize_boundary
    from .helmholtz import solve_helmholtz
    from .names import UnknownNameError
    from .observation import (
        Blur,
        CosineSensing,
        MatrixOperator,
        adjoint_gap,
        disk_kernel,
        gaussian_kernel,
        gaussian_sensing,
        mask_operator,
        motion_kernel,
        point_sensors,
        radon_operator,
        ray_integrals,
    )
    from .ode import compiled_rhs, solve_ode, solve_ode_batch
    from .result import SolverDidNotConverge, SolveResult, SolverUnavailable
    from .spectral import Fourier, solve_evolution
    from .tensor_diffusion import solve_tensor_diffusion
    from .verify import manufactured_diffusion, observed_order

_PUBLIC = {
    "mask_operator": "observation",
    "ray_integrals": "observation",
    "radon_operator": "observation",
    "point_sensors": "observation",
    "motion_kernel": "observation",
    "gaussian_sensing": "observation",
    "gaussian_kernel": "observation",
    "disk_kernel": "observation",
    "adjoint_gap": "observation",
    "MatrixOperator": "observation",
    "CosineSensing": "observation",
    "Blur": "observation",
    "Axis": "grids",
    "Fourier": "spectral.fourier",
    "Grid": "grids",
    "Robin": "finite_volume",
    "SolveResult": "result",
    "SolverDidNotConverge": "result",
    "SolverUnavailable": "result",
    "UnknownNameError": "names",
    "choose_solver": "diffusion",
    "compiled_rhs": "ode",
    "manufactured_diffusion": "verify",
    "normalize_boundary": "grids",
    "observed_order": "verify",
    "prepare_diffusion": "diffusion",
    "solve_convection_diffusion": "convection_diffusion",
    "solve_diffusion": "diffusion",
    "solve_evolution": "spectral.etdrk4",
    "solve_diffusion_batch": "diffusion",
    "solve_helmholtz": "helmholtz",
    "solve_ode": "ode",
    "solve_ode_batch": "ode",
    "solve_tensor_diffusion": "tensor_diffusion",
}

__all__ = [
    "Axis",
    "Blur",
    "CosineSensing",
    "Fourier",
    "Grid",
    "MatrixOperator",
    "Robin",
    "SolveResult",
    "SolverDidNotConverge",
    "SolverUnavailable",
    "UnknownNameError",
    "adjoint_gap",
    "choose_solver",
    "compiled_rhs",
    "disk_kernel",
    "gaussian_kernel",
    "gaussian_sensing",
    "manufactured_diffusion",
    "mask_operator",
    "motion_kernel",
    "normalize_boundary",
    "observed_order",
    "point_sensors",
    "prepare_diffusion",
    "radon_operator",
    "ray_integrals",
    "solve_convection_diffusion",
    "solve_diffusion",
    "solve_diffusion_batch",
    "solve_evolution",
    "solve_helmholtz",
    "solve_ode",
    "solve_ode_batch",
    "solve_tensor_diffusion",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
