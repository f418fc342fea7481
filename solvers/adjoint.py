"""Coefficient to sensors: the misfit of a diffusion problem and its gradient by one adjoint solve.

For ``-div(exp(m) grad u) + c u = f`` and sensors C, ``J(m) = 1/2 |C u(m) - y|^2``. With the
discrete equations ``K(m) u = b`` and the adjoint ``K lambda = -C' (C u - y)`` the gradient is
``dJ/dm_i = lambda' (dK/dm_i) u``: exact for the discrete problem, at the price of two solves with
one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from .diffusion import SOLVERS, DiffusionOperator
from .finite_volume import BoundaryValues
from .grids import Boundary, Grid, normalize_boundary
from .names import check_name

__all__ = ["CoefficientToSensors", "Misfit"]


@dataclass(frozen=True)
class Misfit:
    """Misfit of a coefficient and its gradient.

    Attributes
    ----------
    value : float
        ``1/2 |C u - y|^2``.
    gradient : ndarray, shape of the grid
        With respect to the logarithm of the coefficient at the points.
    data : ndarray, shape (n_sensors,)
        ``C u``.
    u : ndarray, shape of the grid
    residual, adjoint_residual : float
        Relative algebraic residuals of the two solves.
    """

    value: float
    gradient: np.ndarray
    data: np.ndarray
    u: np.ndarray
    residual: float
    adjoint_residual: float


class CoefficientToSensors:
    """The map from a log-coefficient to what sensors see of the solution, with its adjoint.

    Parameters
    ----------
    grid : Grid
    sensors : LinearOperator, shape (n_sensors, number of grid points)
        Such as `solvers.point_sensors`; acts on the solution at the points, flat.
    forcing : float or ndarray, shape of the grid
    boundary : str or sequence
        Dirichlet, Neumann or (not with ``"fenicsx"``) periodic sides; node grids, or cells without
        Dirichlet sides.
    boundary_values : float or mapping
        Dirichlet values and outward fluxes, as for `solvers.solve_diffusion`.
    reaction : float or ndarray, optional
    average : {"harmonic", "arithmetic"}
        Of the coefficient on faces; finite volumes.
    solver : str, optional
        One of `solvers.diffusion.SOLVERS`; default ``"direct"`` up to 129^2 points, else
        ``"structured"``.
    rtol : float
        Relative residual of both solves; the gradient is as exact as they are.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.

    Examples
    --------
    >>> from solvers import Grid, point_sensors
    >>> grid = Grid.unit(9)
    >>> G = CoefficientToSensors(grid, point_sensors(grid, np.array([[0.5, 0.5]])))
    >>> m = G.misfit(np.zeros(grid.shape), np.array([0.1]))
    >>> m.gradient.shape, bool(m.gradient.sum() > 0)  # u is too small: lower the coefficient
    ((9, 9), True)
    """

    def __init__(
        self,
        grid: Grid,
        sensors: Any,
        *,
        forcing: float | np.ndarray = 1.0,
        boundary: str | tuple | list = "dirichlet",
        boundary_values: BoundaryValues = 0.0,
        reaction: float | np.ndarray | None = None,
        average: str = "harmonic",
        solver: str | None = None,
        rtol: float = 1e-12,
    ) -> None:
        n = math.prod(grid.shape)
        if len(sensors.shape) != 2 or sensors.shape[1] != n:
            raise ValueError(f"sensors have shape {sensors.shape}, expected (n_sensors, {n})")
        if solver is None:
            solver = "direct" if n <= 129**2 else "structured"
        check_name("solver", solver, SOLVERS)
        check_name("average", average, ("harmonic", "arithmetic"))
        self.boundary = _supported(normalize_boundary(boundary, grid), grid)
        self.grid, self.sensors = grid, sensors
        self.solver, self.average, self.rtol = solver, average, rtol
        self.forcing, self.boundary_values = forcing, boundary_values
        self.reaction = reaction
        self._zero = _homogeneous(self.boundary)

    @property
    def n_sensors(self) -> int:
        """Number of sensors."""
        return int(self.sensors.shape[0])

    def solve(self, log_a: np.ndarray) -> np.ndarray:
        """Return the solution u for one log-coefficient, in the grid's shape."""
        return self._prepare(log_a)[0](None)[0]

    def apply(self, log_a: np.ndarray) -> np.ndarray:
        """Return what the sensors see, (n_sensors,)."""
        return np.asarray(self.sensors @ self.solve(log_a).ravel())

    def misfit(self, log_a: np.ndarray, data: np.ndarray) -> Misfit:
        """Misfit to data and its gradient.

        Parameters
        ----------
        log_a : ndarray, shape of the grid
        data : ndarray, shape (n_sensors,)

        Raises
        ------
        ValueError
            Wrong shape, or values that are not finite.
        SolverDidNotConverge
        """
        data = np.asarray(data, np.float64)
        if data.shape != (self.n_sensors,):
            raise ValueError(f"data has shape {data.shape}, expected {(self.n_sensors,)}")
        if not np.isfinite(data).all():
            raise ValueError("data holds NaN or infinity")
        solve, slope = self._prepare(log_a)
        u, residual = solve(None)
        seen = np.asarray(self.sensors @ u.ravel())
        r = seen - data
        load = np.asarray(self.sensors.T @ r).reshape(self.grid.shape)
        multiplier, adjoint_residual = solve(-load) if np.any(load) else (np.zeros_like(u), 0.0)
        gradient = np.exp(log_a) * slope(multiplier, u)
        return Misfit(0.5 * float(r @ r), gradient, seen, u, residual, adjoint_residual)

    def _prepare(self, log_a: np.ndarray) -> tuple[Callable[..., Any], Callable[..., np.ndarray]]:
        """Return the solve (None: the problem itself; else a load) and ``l' (dK/da) u``."""
        log_a = np.asarray(log_a, np.float64)
        if log_a.shape != self.grid.shape:
            raise ValueError(f"log_a has shape {log_a.shape}, expected {self.grid.shape}")
        if not np.isfinite(log_a).all():
            raise ValueError("log_a holds NaN or infinity")
        a = np.exp(log_a)
        if self.solver == "fenicsx":
            from .fenicsx.adjoint import prepare_adjoint

            return prepare_adjoint(
                a, self.forcing, self.grid, boundary=self.boundary,
                boundary_values=self.boundary_values, reaction=self.reaction, rtol=self.rtol,
            )  # fmt: skip
        operator = DiffusionOperator(
            a, self.grid, boundary=self.boundary, boundary_values=self.boundary_values,
            reaction=self.reaction, average=self.average, solver=self.solver, rtol=self.rtol,
        )  # fmt: skip
        weights = self.grid.weights

        def solve(load: np.ndarray | None) -> tuple[np.ndarray, float]:
            if load is None:
                r = operator.solve(self.forcing)
            else:  # the system multiplies a source by the volumes
                r = operator.solve(load / weights, self._zero)
            return r.x, r.residual

        return solve, lambda p, u: face_products(p, u, a, self.grid, average=self.average)


def face_products(
    p: np.ndarray, u: np.ndarray, a: np.ndarray, grid: Grid, *, average: str
) -> np.ndarray:
    """Return ``p' (dK/da_i) u`` of the finite volumes for each point i.

    The sum over the faces of point i of ``(p_i - p_j)(u_i - u_j) dk/da_i``, `k` the conductance;
    Dirichlet nodes count with their value in `u` and 0 in `p`.
    """
    out = np.zeros(grid.shape)
    for k, axis in enumerate(grid.axes):
        others = [ax.weights for i, ax in enumerate(grid.axes) if i != k]
        area = np.asarray(reduce(np.multiply.outer, others) if others else 1.0)
        if axis.periodic:  # the last face leads back to the first point
            lead, here = (np.roll(np.moveaxis(v, k, 0), -1, axis=0) for v in (p, u)), (
                np.moveaxis(p, k, 0), np.moveaxis(u, k, 0),
            )  # fmt: skip
            dp, du = (x - y for x, y in zip(lead, here, strict=True))
            left = np.moveaxis(a, k, 0)
            right = np.roll(left, -1, axis=0)
        else:
            dp, du = (np.diff(np.moveaxis(v, k, 0), axis=0) for v in (p, u))
            moved = np.moveaxis(a, k, 0)
            left, right = moved[:-1], moved[1:]
        flux = dp * du * (area / axis.spacing)
        if average == "harmonic":
            of_left, of_right = (
                2 * right**2 / (left + right) ** 2,
                2 * left**2 / (left + right) ** 2,
            )
        else:
            of_left = of_right = np.full_like(left, 0.5)
        o = np.moveaxis(out, k, 0)  # a view
        if axis.periodic:
            o += flux * of_left
            o += np.roll(flux * of_right, 1, axis=0)
        else:
            o[:-1] += flux * of_left
            o[1:] += flux * of_right
    return out


def _supported(boundary: Boundary, grid: Grid) -> Boundary:
    for k, (axis, pair) in enumerate(zip(grid.axes, boundary, strict=True)):
        for kind in pair:
            if kind == "robin" or (kind == "dirichlet" and axis.location != "node"):
                where = f"axis {axis.name!r} ({axis.location})"
                raise ValueError(
                    f"boundary[{k}]={kind!r} on {where}: the gradient knows 'dirichlet' on node "
                    "axes, 'neumann' and 'periodic'"
                )
    if all(kind != "dirichlet" for pair in boundary for kind in pair):
        raise ValueError("boundary: need a Dirichlet side, else sensors see u up to a constant")
    return boundary


def _homogeneous(boundary: Boundary) -> dict[tuple[int, int], float]:
    return {
        (k, side): 0.0
        for k, pair in enumerate(boundary)
        for side, kind in enumerate(pair)
        if kind != "periodic"
    }
