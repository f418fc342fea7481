"""Finite elements with DOLFINx and PETSc. Importing this package loads neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .diffusion import solve_diffusion_fenicsx

__all__ = ["solve_diffusion_fenicsx"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import diffusion

        return getattr(diffusion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
