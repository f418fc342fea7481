"""Forward maps of opkit's inverse problems: operators, sources, coefficients, trained operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from solvers.adjoint import CoefficientToSensors
from solvers.diffusion import prepare_diffusion
from solvers.grids import Grid

from .forward import LinearForward, NonlinearForward, as_forward

__all__ = [
    "coefficient_map",
    "differentiable_map",
    "operator_map",
    "problem_map",
    "source_map",
]


def source_map(grid: Grid, sensors: Any, *, a: float | np.ndarray = 1.0) -> LinearForward:
    """Source to sensors: ``A = C K^-1``, ``K u = -div(a grad u)``, u = 0 around.

    Parameters
    ----------
    grid : Grid
        Node axes.
    sensors : LinearOperator, shape (n_sensors, number of grid points)
        C, such as `solvers.point_sensors`.
    a : float or ndarray

    Returns
    -------
    LinearForward
        From sources on the grid to (n_sensors,). As a matrix, one solve a sensor, so that the
        adjoint is exact; sources on the boundary's nodes have no effect.

    Raises
    ------
    ValueError
        Sensors for another grid.
    """
    n = int(np.prod(grid.shape))
    if sensors.shape[1] != n:
        raise ValueError(f"sensors have shape {sensors.shape}, expected (n_sensors, {n})")
    prepared = prepare_diffusion(a, grid, solver="direct", rtol=1e-12)
    rows = np.asarray(sensors.T @ np.eye(sensors.shape[0])).T.reshape(-1, *grid.shape)
    inside = np.zeros(grid.shape)
    inside[(slice(1, -1),) * grid.dim] = grid.weights[(slice(1, -1),) * grid.dim]
    # K is symmetric; the solver multiplies what it gets by the volumes
    matrix = np.stack([(inside * prepared.solve(row / grid.weights).x).ravel() for row in rows])
    forward = as_forward(matrix, grid.shape, (len(rows),))
    assert isinstance(forward, LinearForward)
    return forward


def coefficient_map(
    grid: Grid, sensors: Any, *, forcing: float | np.ndarray = 1.0, **options: Any
) -> NonlinearForward:
    """Log-coefficient of a diffusion equation to sensors, by the solver and its adjoint.

    Parameters
    ----------
    grid : Grid
    sensors : LinearOperator
    forcing : float or ndarray
    **options
        Of `solvers.adjoint.CoefficientToSensors`: boundary conditions, ``solver="fenicsx"``, ...

    Returns
    -------
    NonlinearForward
    """
    made = CoefficientToSensors(grid, sensors, forcing=forcing, **options)

    def misfit(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        m = made.misfit(x, y)
        return m.value, m.gradient

    return NonlinearForward(
        misfit, grid.shape, (made.n_sensors,), apply=made.apply, accuracy=100 * made.rtol
    )


def differentiable_map(
    function: Callable[[Any], Any], in_shape: Sequence[int], out_shape: Sequence[int], *,
    single: bool = False, accuracy: float | None = None,
) -> NonlinearForward:  # fmt: skip
    """Wrap a map written in torch; its gradient is autograd's.

    Parameters
    ----------
    function : callable
        Tensor (batch, *in_shape) to (batch, *out_shape), differentiable.
    in_shape, out_shape : sequence of int
    single : bool
        Call it in single precision.
    accuracy : float, optional
        Relative error of the function; default 1e-5 in single, 1e-12 in double precision.
    """
    import torch

    dtype = torch.float32 if single else torch.float64

    def apply(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return function(torch.as_tensor(x, dtype=dtype)).double().numpy()

    def misfit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = torch.as_tensor(x, dtype=dtype).requires_grad_()
        with torch.enable_grad():
            r = function(t).double() - torch.as_tensor(y)
            h = 0.5 * r.flatten(1).square().sum(1)
            (g,) = torch.autograd.grad(h.sum(), t)
        return h.detach().numpy(), g.double().numpy()

    return NonlinearForward(
        misfit, in_shape, out_shape, apply=apply, batched=True,
        accuracy=accuracy if accuracy is not None else (1e-5 if single else 1e-12),
    )  # fmt: skip


def operator_map(operator: Any, grid: Grid, sensors: Any, *, log: bool = True) -> NonlinearForward:
    """Log-coefficient to sensors through a trained operator, a -> u.

    Parameters
    ----------
    operator : Operator
        Of `opkit.load`, one field in and one field out: on grids (MgNO, FNO, ...), or at points
        (DeepONet), which is asked at the grid's points that the sensors read and no others. It is
        copied to double precision.
    grid : Grid
        Where the unknown lives. An operator at points needs its own sensors among the grid's
        points: nothing is resampled.
    sensors : LinearOperator, shape (n_sensors, number of grid points)
        What is seen of u.
    log : bool
        The unknown is the logarithm of the operator's input.

    Returns
    -------
    NonlinearForward

    Raises
    ------
    ValueError
        An operator with other inputs or outputs, another dimension, or (at points) with sensors
        that are no points of the grid, or with points that are more than places in space.
    """
    import copy

    import torch

    task = operator.task
    kind = getattr(task, "name", "")
    if kind not in ("grid", "points"):
        raise ValueError(
            f"{operator!r} is of the task {kind!r}: need one of the task 'grid' or 'points', from "
            "coefficient to solution"
        )
    inputs = task.inputs if kind == "grid" else task.functions
    names = [[v.name for v in vs] for vs in (inputs, task.outputs)]
    channels = task.out_channels if kind == "points" else 1
    if any(len(n) != 1 for n in names) or channels != 1:
        raise ValueError(
            f"{operator!r}: need one field in and one field out, it has {names[0]} and {names[1]}"
        )
    if kind == "grid" and operator.grid.dim != grid.dim:
        raise ValueError(
            f"the operator has {operator.grid.dim} space dimensions, the unknown {grid.dim}"
        )
    rows = torch.as_tensor(_sensor_rows(operator, grid) if kind == "points" else np.arange(0))
    if sensors.shape[1] != math.prod(grid.shape):
        raise ValueError(
            f"sensors have shape {sensors.shape}, expected (n_sensors, {math.prod(grid.shape)})"
        )
    matrix = np.asarray(sensors.T @ np.eye(sensors.shape[0]))
    # at points: only those that are read
    read = np.flatnonzero(np.abs(matrix).max(1) > 0) if kind == "points" else np.s_[:]
    points = torch.as_tensor(np.stack([x.ravel()[read] for x in grid.meshgrid()], axis=1))
    seen = torch.as_tensor(matrix[read])
    made = copy.deepcopy(operator).to(torch.float64)
    for p in made.module.parameters():
        p.requires_grad_(False)

    def function(x: Any) -> Any:
        a = torch.exp(x) if log else x
        if kind == "grid":
            return made(a[:, None]).flatten(1) @ seen
        return made.at((a.flatten(1)[:, rows],), points)[..., 0] @ seen

    return differentiable_map(function, grid.shape, (sensors.shape[0],))


def _sensor_rows(operator: Any, grid: Grid) -> np.ndarray:
    """Which points of a grid the sensors of an operator at points are, in their order."""
    function = operator.task.functions[0]
    where = [c.name for c in operator.task.coordinates if c.role != "space"]
    if function.channels != 1 or function.lattice or function.is_scalar or where:
        what = f"is asked at {', '.join(operator.coordinates)}" if where else "sees no plain field"
        raise ValueError(f"{operator!r} {what}: need a field in space, and points in space")
    sensors = function.sensor_points()
    if sensors.shape[1] != grid.dim or len(operator.coordinates) != grid.dim:
        raise ValueError(
            f"the operator has sensors in {sensors.shape[1]} and points in "
            f"{len(operator.coordinates)} dimensions, the unknown has {grid.dim}"
        )
    index = np.zeros(len(sensors), np.int64)
    for d, axis in enumerate(grid.axes):
        x = np.asarray(axis.coords)
        near = np.abs(sensors[:, d, None] - x).argmin(1)
        off = np.abs(sensors[:, d] - x[near])
        if off.max() > 1e-6 * (axis.upper - axis.lower):
            raise ValueError(
                f"the operator sees {function.name} at {axis.name}={sensors[off.argmax(), d]:.6g}, "
                f"which is no point of the unknown's grid {grid.shape}: reconstruct on the grid "
                f"that the operator was trained on, sensors {function.shape}"
            )
        index = index * axis.n + near
    return index


def problem_map(problem: Any, resolution: tuple[int, ...]) -> LinearForward | NonlinearForward:
    """Forward map of an inverse problem of `pde_data`.

    Parameters
    ----------
    problem : Problem
        ``deblurring``, ``compressed_sensing``, ``tomography``, ``source_recovery`` or
        ``darcy_inverse``, whose unknown is the logarithm of the coefficient.
    resolution : tuple of int

    Raises
    ------
    ValueError
        A problem of another kind.
    """
    if not hasattr(problem, "operator"):
        raise ValueError(
            f"problem {problem.name!r} is no inverse problem: need deblurring, "
            "compressed_sensing, tomography, source_recovery or darcy_inverse"
        )
    made = problem.operator(resolution)
    if problem.name == "source_recovery":
        return source_map(problem.grid(resolution), made)
    if problem.name == "darcy_inverse":
        return coefficient_map(problem.grid(resolution), made, forcing=problem.params.forcing)
    return as_forward(made)
