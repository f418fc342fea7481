"""One call for the diffusion equation on a grid, whatever solves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .finite_volume import BoundaryValues, Coefficient, discretize
from .grids import Grid, normalize_boundary
from .names import check_name
from .result import SolveResult

__all__ = ["SOLVERS", "choose_solver", "solve_diffusion"]

#: name -> one line for ``opkit list solvers``
SOLVERS = {
    "structured": "compiled geometric (operator-dependent) multigrid + CG, 2-D grids",
    "pyamg": "PyAMG algebraic multigrid + CG on finite volumes, 1-D to 3-D",
    "direct": "sparse LU (SuperLU) on finite volumes, 1-D to 3-D",
    "fenicsx": "FEniCSx P1/P2 elements, PETSc CG + GAMG or MUMPS Cholesky, node grids",
}


def choose_solver(grid: Grid, boundary: str | tuple | list = "dirichlet") -> str:
    """Name of the fastest solver for this grid.

    Compiled multigrid in 2-D at all sizes (``benchmarks/bench_elliptic.py``), unless the mesh
    widths differ so much that point smoothing loses its grip; elsewhere a direct solve for small
    systems, algebraic multigrid for large ones.
    """
    normalize_boundary(boundary, grid)
    h = grid.spacing
    if grid.dim == 2 and max(h) <= 3.0 * min(h):
        return "structured"
    if grid.dim == 1 or np.prod(grid.shape) <= (100**2 if grid.dim == 2 else 16**3):
        return "direct"
    return "pyamg"


def solve_diffusion(
    a: Coefficient,
    f: float | np.ndarray,
    grid: Grid,
    *,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: BoundaryValues = 0.0,
    reaction: float | np.ndarray | None = None,
    average: str = "harmonic",
    solver: str | None = None,
    rtol: float = 1e-10,
    maxiter: int = 200,
    singular: str = "raise",
    **options: Any,
) -> SolveResult:
    """Solve ``-div(a grad u) + c u = f`` on a grid.

    Parameters
    ----------
    a : float, ndarray in the grid's shape, or a sequence of these, one an axis
        Positive coefficient at the points; several are the diagonal of a tensor.
    f : float or ndarray, shape of the grid
        Source at the points.
    grid : Grid
        1-D to 3-D, node or cell-centered.
    boundary : str or sequence
        ``"dirichlet"``, ``"neumann"``, ``"robin"`` or ``"periodic"``, one for all, per axis or per
        side.
    boundary_values : float or mapping ``(axis, side) -> value``
        Dirichlet values, outward fluxes ``a du/dn`` on Neumann sides, ``(alpha, beta, g)`` for
        ``alpha u + beta a du/dn = g`` on Robin sides (`solvers.finite_volume.Robin`).
    reaction : float or ndarray, optional
        ``c >= 0``.
    average : {"harmonic", "arithmetic"}
        Mean of `a` on a face (finite volumes).
    solver : {"structured", "pyamg", "direct", "fenicsx"}, optional
        Default: `choose_solver`.
    rtol : float
        Relative residual to reach.
    maxiter : int
    singular : {"raise", "project"}
        What to do with data that do not integrate to zero when no side is Dirichlet.
    **options
        Options of that one solver, such as ``degree=2`` for ``"fenicsx"``.

    Returns
    -------
    SolveResult
        `x` in the grid's shape, boundary values included; of zero mean when constants are free.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge

    Examples
    --------
    >>> from solvers.grids import Grid
    >>> r = solve_diffusion(1.0, 1.0, Grid.unit(65))
    >>> round(float(r.x.max()), 4)  # the series gives 0.07367
    0.0737
    """
    solver = choose_solver(grid, boundary) if solver is None else solver
    check_name("solver", solver, SOLVERS)
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol}: need a number between 0 and 1")
    if isinstance(maxiter, bool) or int(maxiter) != maxiter or maxiter < 1:
        raise ValueError(f"maxiter={maxiter}: need an integer >= 1")
    if solver == "fenicsx":
        from .fenicsx.diffusion import solve_diffusion_fenicsx

        return solve_diffusion_fenicsx(
            a, f, grid, boundary=normalize_boundary(boundary, grid),
            boundary_values=boundary_values, reaction=reaction, rtol=rtol, maxiter=maxiter,
            singular=singular, **options,
        )  # fmt: skip
    # Imports and compilation are no part of the time of a solve.
    run: Callable[..., tuple[np.ndarray, np.ndarray, int, str]]
    if solver == "direct":
        from .direct import solve_direct

        run = solve_direct
    elif solver == "pyamg":
        from .multigrid.pyamg import solve_pyamg

        run = partial(solve_pyamg, rtol=rtol, maxiter=maxiter)
    else:
        from .multigrid.structured import compile_kernels, solve_structured

        compile_kernels()
        run = partial(solve_structured, rtol=rtol, maxiter=maxiter)
    start = time.perf_counter()
    system = discretize(
        a, f, grid, boundary=boundary, boundary_values=boundary_values, reaction=reaction,
        average=average, singular=singular,
    )  # fmt: skip
    u, residuals, iterations, name = run(system, **options)
    seconds = time.perf_counter() - start
    residual = system.residual(u)
    if not residual <= rtol:
        raise system.failure(name, u, iterations=iterations, rtol=rtol)
    return SolveResult(
        x=system.embed(u), residual=residual, residuals=residuals, iterations=iterations,
        solver=name, seconds=seconds, info={"average": average},
    )  # fmt: skip
