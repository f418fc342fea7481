"""Finite elements with DOLFINx and PETSc. Importing this package loads neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._runtime import communicator
    from .diffusion import solve_diffusion_fenicsx

__all__ = ["communicator", "solve_diffusion_fenicsx"]


def __getattr__(name: str) -> Any:
    if name == "communicator":
        from ._runtime import communicator

        return communicator
    if name in __all__:
        from . import diffusion

        return getattr(diffusion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
