"""Adjoint solves and coefficient gradients of the P1 elements of `solvers.fenicsx.diffusion`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..finite_volume import check_field
from ..grids import Boundary, Grid
from . import diffusion as elements
from ._runtime import compile_forms, current_communicator, require_dolfinx

__all__ = ["prepare_adjoint"]


def prepare_adjoint(
    a: np.ndarray,
    f: float | np.ndarray,
    grid: Grid,
    *,
    boundary: Boundary,
    boundary_values: float | Mapping[tuple[int, int], Any] = 0.0,
    reaction: float | np.ndarray | None = None,
    rtol: float = 1e-12,
) -> tuple[
    Callable[[np.ndarray | None], tuple[np.ndarray, float]],
    Callable[[np.ndarray, np.ndarray], np.ndarray],
]:
    """Set up ``-div(a grad u) + c u = f`` for its solution and adjoint solves.

    Parameters
    ----------
    a : ndarray, shape of the grid
        Positive; piecewise linear on the mesh.
    f, reaction : float or ndarray
    grid : Grid
        Node axes.
    boundary : Boundary
        Dirichlet and Neumann sides.
    boundary_values : float or mapping
    rtol : float

    Returns
    -------
    solve : callable
        ``solve(None) -> (u, residual)`` on the grid's points; ``solve(load)`` for a right-hand side
        that is a number a point (not a density), with homogeneous Dirichlet values.
    slope : callable
        ``slope(p, u)``: at each node i ``p' (dK/da_i) u = int phi_i grad u . grad p dx``.

    Raises
    ------
    ValueError, SolverDidNotConverge, SolverUnavailable
        As `solve_diffusion_fenicsx`; or a run on several processes.
    """
    bc = elements._check_grid(boundary, grid)
    data: dict[str, Any] = {
        "a": check_field("a", a, grid, positive=True), "f": check_field("f", f, grid),
    }  # fmt: skip
    if reaction is not None:
        c = check_field("reaction", reaction, grid, nonnegative=True)
        if np.any(c):
            data["reaction"] = c
    sides = elements._check_sides(boundary_values, grid, bc)
    require_dolfinx()
    comm = current_communicator()
    if comm.size > 1:
        raise ValueError(f"{comm.size} processes: the adjoint runs on one")

    def discretization() -> Any:
        """Fill the shared objects; others may have used them since the last call."""
        made, _ = elements._discretization(comm, grid, bc, 1, "triangle", 1, "reaction" in data)
        made.prepare(elements.choose_algebra(grid.dim, made.dofs))
        made.set_data(data)
        return made, made.assemble(sides)

    def solve(load: np.ndarray | None) -> tuple[np.ndarray, float]:
        with elements._lock:
            disc, lift = discretization()
            if load is not None:
                rhs = np.ravel(load)[disc.points[: disc.owned]].astype(float)
                rhs[disc.fixed[disc.fixed < disc.owned]] = 0.0
                disc.b.getArray()[:] = rhs
            algebra = elements.choose_algebra(grid.dim, disc.dofs)
            x, residual, _, _ = disc.solve(algebra, rtol=rtol, maxiter=500)
            return disc.on_grid(x + lift if load is None else x), residual

    def slope(p: np.ndarray, u: np.ndarray) -> np.ndarray:
        with elements._lock:
            disc, _ = discretization()
            form, first, second = _form(disc)
            first.x.array[:] = np.ravel(p)[disc.points1]
            second.x.array[:] = np.ravel(u)[disc.points1]
            from dolfinx.fem import assemble_vector

            values = np.zeros(len(first.x.array))
            assemble_vector(values, form)
            return disc.on_grid(values[: disc.owned])

    return solve, slope


def _form(disc: Any) -> tuple[Any, Any, Any]:
    """Return ``int v grad p . grad u dx``, compiled once a mesh, and its two functions."""
    import ufl
    from dolfinx import fem

    kept = getattr(disc, "adjoint_form", None)
    if kept is None:
        p, u = fem.Function(disc.W1), fem.Function(disc.W1)
        v = ufl.TestFunction(disc.W1)
        dx = ufl.dx(domain=disc.mesh, metadata={"quadrature_degree": 1})
        (form,) = compile_forms([v * ufl.inner(ufl.grad(p), ufl.grad(u)) * dx], comm=disc.comm)
        kept = disc.adjoint_form = (form, p, u)
    return kept
