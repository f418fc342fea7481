"""What a model is told about the data it will see."""

from __future__ import annotations

from dataclasses import dataclass

from solvers.grids import Grid

__all__ = ["DenoisingSpec", "ModelSpec"]


@dataclass(frozen=True)
class ModelSpec:
    """Channels, grid and boundary conditions of a dataset, as a model factory gets them.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
        The grid of the training data; every axis says location and periodicity.
    boundary : tuple of (str, str)
        Kind per axis and side of the first output: ``"dirichlet"``, ``"neumann"``,
        ``"periodic"``, ... or ``"none"`` where the data states none.
    boundary_value : float or None
        The constant Dirichlet value, in the normalized units that the model outputs, if all
        Dirichlet sides share one. None (unknown, or several values): models do not fix the
        walls but learn them; in normalized units there is no neutral value.
    """

    in_channels: int
    out_channels: int
    grid: Grid
    boundary: tuple[tuple[str, str], ...]
    boundary_value: float | None = None


@dataclass(frozen=True)
class DenoisingSpec:
    """The fields that a denoiser sees.

    Parameters
    ----------
    shape : tuple of int
        Of one sample: ``(channels, *space)``.
        ``(1,)`` for numbers.
    periodic : tuple of bool
        By space axis.
    """

    shape: tuple[int, ...]
    periodic: tuple[bool, ...] = ()
