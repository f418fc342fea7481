"""What a model is told about the data it will see."""

from __future__ import annotations

import math
from dataclasses import dataclass

from solvers.grids import Grid

__all__ = ["DenoisingSpec", "FunctionSpec", "MeshSpec", "ModelSpec", "PointsSpec", "TrajectorySpec"]


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


@dataclass(frozen=True)
class FunctionSpec:
    """One input function of a `PointsSpec`.

    Parameters
    ----------
    name : str
    channels : int
        Values a sensor.
    shape : tuple of int
        Sensors per axis, ``(m,)`` where they are scattered; ``()`` for numbers.
    """

    name: str
    channels: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers that a branch sees."""
        return self.channels * math.prod(self.shape)


@dataclass(frozen=True)
class PointsSpec:
    """Functions at sensors in, functions at any points out, in the units of the model.

    Parameters
    ----------
    functions : tuple of FunctionSpec
        The model gets a tensor ``(batch, channels * sensors)`` each; one alone is no tuple.
    trunk_in : int
        Coordinates of a point.
    out_channels : int
    bounds : tuple of (float, float)
        Of each coordinate.
    periodic : tuple of bool
        By coordinate.
    fixed : tuple of (bool, bool)
        By coordinate, lower and upper side: whether all outputs are 0 there.
    n_points : int
        Points that all samples share, 0 if they have points of their own.
    """

    functions: tuple[FunctionSpec, ...]
    trunk_in: int
    out_channels: int
    bounds: tuple[tuple[float, float], ...]
    periodic: tuple[bool, ...]
    fixed: tuple[tuple[bool, bool], ...]
    n_points: int = 0


@dataclass(frozen=True)
class TrajectorySpec:
    """Trajectories of one or more dynamical systems.

    Parameters
    ----------
    n_states : int
    n_environments : int
        Systems or parameter sets that are told apart.
    n_families : int or None
        Families that the data sorts them into; None if it does not.
    """

    n_states: int
    n_environments: int
    n_families: int | None = None


@dataclass(frozen=True)
class MeshSpec:
    """Channels and domain of a dataset on meshes or point clouds.

    Parameters
    ----------
    in_channels, out_channels : int
        Values at a point.
    bounds : tuple of (float, float)
        Box that holds all points, per coordinate.
    spacing : float
        Mean distance of neighboring points: that of a grid with as many points a measure.
    """

    in_channels: int
    out_channels: int
    bounds: tuple[tuple[float, float], ...]
    spacing: float
