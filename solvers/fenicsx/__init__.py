"""Finite elements with DOLFINx and PETSc. Importing this package loads neither.

A domain, a mesh, a solve, whatever the equation::

    mesh = triangulate(plate_with_holes([circle((0.5, 0.5), 0.2)]), 1 / 32)
    body = Elasticity(mesh)
    u = body.solve(*lame(1.0, 0.3), {"bottom": 0.0}, traction={"top": (0.0, 1.0)}).x

`Diffusion`, `Heat`, `Elasticity`, `Hyperelasticity`, `Stokes` and `NavierStokes` keep what belongs
to their mesh (spaces, patterns, bound forms, symbolic factorizations) between solves. Forms are
compiled once a machine, for all meshes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._runtime import communicator
    from .conduction import Diffusion, Heat
    from .diffusion import solve_diffusion_fenicsx
    from .flow import NavierStokes, Stokes
    from .geometry import (
        Domain,
        Loop,
        Triangulation,
        channel,
        circle,
        closed_curve,
        l_shape,
        plate_with_holes,
        polygon,
        polygon_with_holes,
        rectangle,
        triangle,
        triangle_with_notch,
        triangulate,
    )
    from .solid import Elasticity, Hyperelasticity, kirsch_stress, lame

_MODULES = {
    "Diffusion": "conduction",
    "Domain": "geometry",
    "Elasticity": "solid",
    "Heat": "conduction",
    "Hyperelasticity": "solid",
    "Loop": "geometry",
    "NavierStokes": "flow",
    "Stokes": "flow",
    "Triangulation": "geometry",
    "channel": "geometry",
    "circle": "geometry",
    "closed_curve": "geometry",
    "communicator": "_runtime",
    "kirsch_stress": "solid",
    "l_shape": "geometry",
    "lame": "solid",
    "plate_with_holes": "geometry",
    "polygon": "geometry",
    "polygon_with_holes": "geometry",
    "rectangle": "geometry",
    "solve_diffusion_fenicsx": "diffusion",
    "triangle": "geometry",
    "triangle_with_notch": "geometry",
    "triangulate": "geometry",
}

__all__ = [
    "Diffusion",
    "Domain",
    "Elasticity",
    "Heat",
    "Hyperelasticity",
    "Loop",
    "NavierStokes",
    "Stokes",
    "Triangulation",
    "channel",
    "circle",
    "closed_curve",
    "communicator",
    "kirsch_stress",
    "l_shape",
    "lame",
    "plate_with_holes",
    "polygon",
    "polygon_with_holes",
    "rectangle",
    "solve_diffusion_fenicsx",
    "triangle",
    "triangle_with_notch",
    "triangulate",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
