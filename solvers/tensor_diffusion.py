"""``-div(A grad u) = f`` with a full tensor `A`, by Lagrange elements on a node grid.

Elements of degree 1 are of order 2; they need no alignment of the grid with the tensor, but obey no
discrete maximum principle where `A` is strongly anisotropic and oblique.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from .elements import Elements, apply_sides
from .finite_volume import BoundaryValues, check_field
from .grids import Grid, normalize_boundary
from .result import SolverDidNotConverge, SolveResult

__all__ = ["check_tensor", "solve_tensor_diffusion"]

NAME = "elements.superlu"


def check_tensor(tensor: np.ndarray, grid: Grid) -> np.ndarray:
    """Return `tensor` as float64, shape ``(*grid, dim, dim)``, symmetric positive definite.

    Raises
    ------
    ValueError
        Wrong shape, non-finite, not symmetric or not positive definite.
    """
    a = np.asarray(tensor, dtype=np.float64)
    d = grid.dim
    if a.shape not in ((d, d), (*grid.shape, d, d)):
        raise ValueError(f"tensor has shape {a.shape}, expected {(*grid.shape, d, d)} or {(d, d)}")
    if not np.all(np.isfinite(a)):
        raise ValueError("tensor holds NaN or infinity")
    scale = np.abs(a).max()
    if np.abs(a - np.swapaxes(a, -1, -2)).max() > 1e-12 * scale:
        raise ValueError("tensor must be symmetric")
    lowest = float(np.linalg.eigvalsh(a).min())
    if not lowest > 0:
        raise ValueError(f"tensor must be positive definite, its lowest eigenvalue is {lowest:.6g}")
    return np.broadcast_to(a, (*grid.shape, d, d))


def solve_tensor_diffusion(
    tensor: np.ndarray,
    f: float | np.ndarray,
    grid: Grid,
    *,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: BoundaryValues = 0.0,
    degree: int = 1,
    singular: str = "raise",
    rtol: float = 1e-10,
) -> SolveResult:
    """Solve ``-div(A grad u) = f``.

    Parameters
    ----------
    tensor : ndarray, shape (*grid, dim, dim) or (dim, dim)
        `A` at the points, symmetric positive definite.
    f : float or ndarray, shape of the grid
    grid : Grid
        Node axes, 1-D to 3-D.
    boundary, boundary_values
        As for `solvers.diffusion.solve_diffusion`; fluxes are ``(A grad u) . n``.
    degree : {1, 2, 3, 4}
        Of the elements; must divide the cells of every axis.
    singular : {"raise", "project"}
        What to do with data that do not integrate to zero where constants are free.
    rtol : float
        Relative residual to reach.

    Returns
    -------
    SolveResult
        `x` in the grid's shape; of zero mean where constants are free.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge

    Examples
    --------
    >>> A = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> r = solve_tensor_diffusion(A, 1.0, Grid.unit(33))
    >>> bool(0.03 < r.x.max() < 0.05)
    True
    """
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol}: need a number between 0 and 1")
    bc = normalize_boundary(boundary, grid)
    a, source = check_tensor(tensor, grid), check_field("f", f, grid)
    elements = Elements(grid, degree)
    start = time.perf_counter()
    entries: dict[tuple[int, int], Any] = {
        (i, j): np.ascontiguousarray(a[..., i, j])
        for i in range(grid.dim)
        for j in range(grid.dim)
        if np.any(a[..., i, j])
    }
    A, load, fixed, lift = apply_sides(
        elements, elements.stiffness(entries), elements.load(source), bc, boundary_values
    )
    constants = not fixed.any() and not _has_robin(bc, boundary_values)
    rhs = load.ravel() - A @ lift.ravel()
    ones = elements.load(1.0).ravel()
    if constants:
        total, scale = float(rhs.sum()), float(np.abs(rhs).sum())
        if singular == "raise" and abs(total) > 1e-10 * scale:
            raise ValueError(
                f"f and the boundary fluxes integrate to {total:.3g}; without a Dirichlet side "
                "they must integrate to 0 (singular='project' removes the mean)"
            )
        rhs = rhs - ones * (total / ones.sum())
    free = ~fixed.ravel()
    if constants:
        free[0] = False  # one value is set, its equation follows from the others
    system, b = sp.csc_array(A[free][:, free]), rhs[free]
    x = np.zeros_like(b)
    norm = float(np.linalg.norm(rhs[~fixed.ravel()]))
    if b.size and norm > 0:
        lu = spla.splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                       options={"SymmetricMode": True})  # fmt: skip
        for _ in range(2):
            x = x + lu.solve(b - system @ x)
    u = np.zeros(A.shape[0])
    u[free] = x
    rest = (rhs - A @ u)[~fixed.ravel()]
    residual = float(np.linalg.norm(rest)) / norm if norm > 0 else 0.0
    if not residual <= rtol:
        raise SolverDidNotConverge(NAME, iterations=0, residual=residual, rtol=rtol)
    if constants:
        u -= float(ones @ u) / float(ones.sum())
    seconds = time.perf_counter() - start
    return SolveResult(
        x=u.reshape(grid.shape) + lift, residual=residual, residuals=np.array([residual]),
        iterations=0, solver=NAME, seconds=seconds, info={"degree": degree},
    )  # fmt: skip


def _has_robin(bc: Any, boundary_values: Any) -> bool:
    return isinstance(boundary_values, Mapping) and any(
        kind == "robin" and np.any(np.asarray(boundary_values[k, s][0]) > 0)
        for k, pair in enumerate(bc)
        for s, kind in enumerate(pair)
    )
