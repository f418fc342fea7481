"""Forward maps of opkit's inverse problems: operators, sources, coefficients, trained operators."""

from __future__ import annotations

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
        Of `opkit.load`: one field in, one field out, on grids. It is copied to double precision.
    grid : Grid
        Where the unknown lives.
    sensors : LinearOperator
        What is seen of u.
    log : bool
        The unknown is the logarithm of the operator's input.

    Returns
    -------
    NonlinearForward

    Raises
    ------
    ValueError
        An operator with other inputs or outputs, or another dimension.
    """
    import copy

    import torch

    task = operator.task
    names = [[v.name for v in vs] for vs in (task.inputs, task.outputs)]
    if getattr(task, "name", "") != "grid" or any(len(n) != 1 for n in names):
        raise ValueError(
            f"{operator!r}: need an operator on grids with one field in and one out, it has "
            f"{names[0]} and {names[1]}"
        )
    if operator.grid.dim != grid.dim:
        raise ValueError(
            f"the operator has {operator.grid.dim} space dimensions, the unknown {grid.dim}"
        )
    made = copy.deepcopy(operator).to(torch.float64)
    for p in made.module.parameters():
        p.requires_grad_(False)
    seen = torch.as_tensor(np.asarray(sensors.T @ np.eye(sensors.shape[0])))

    def function(x: Any) -> Any:
        a = torch.exp(x) if log else x
        return made(a[:, None]).flatten(1) @ seen

    return differentiable_map(function, grid.shape, (sensors.shape[0],))


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
