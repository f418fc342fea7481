"""Linear elements for ``-div(A grad u) + b . grad u + c u = f`` on a node grid, SUPG-stabilized.

An independent check of `solvers.convection_diffusion` and `solvers.tensor_diffusion`: other cells
(simplices), other forms (UFL), other assembly (DOLFINx). The streamline term is weighted with the
residual, so that the order 2 stays; it needs a constant diffusivity, since second derivatives and
slopes of `A` are left out of that residual.

References
----------
.. [1] Brooks & Hughes, Comput. Methods Appl. Mech. Engrg. 32 (1982) 199-259.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..finite_volume import BoundaryValues, check_field, face_values, robin_values
from ..grids import Grid, normalize_boundary
from ..result import SolverDidNotConverge, SolveResult
from ..tensor_diffusion import check_tensor
from ._runtime import compile_forms, require_dolfinx

__all__ = ["solve_transport_fenicsx"]

NAME = "fenicsx.superlu"


def solve_transport_fenicsx(
    diffusivity: float | np.ndarray,
    f: float | np.ndarray,
    grid: Grid,
    *,
    velocity: Sequence[float | np.ndarray] | None = None,
    reaction: float | np.ndarray | None = None,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: BoundaryValues = 0.0,
    rtol: float = 1e-10,
) -> SolveResult:
    """Solve ``-div(A grad u) + b . grad u + c u = f``.

    Parameters
    ----------
    diffusivity : float, or ndarray of shape (dim, dim) or (*grid, dim, dim)
        A constant, or a symmetric positive definite tensor at the points (without a velocity).
    f : float or ndarray, shape of the grid
    grid : Grid
        Node axes, none periodic.
    velocity : sequence of float or ndarray, one an axis, optional
    reaction : float or ndarray, optional
        ``c >= 0``.
    boundary, boundary_values
        As for `solvers.diffusion.solve_diffusion`; fluxes are ``(A grad u) . n``. There must be a
        Dirichlet or Robin side, or a reaction.
    rtol : float
        Relative residual to reach.

    Returns
    -------
    SolveResult
        `x` in the grid's shape.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
    SolverUnavailable
    """
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol}: need a number between 0 and 1")
    for axis in grid.axes:
        if axis.periodic or axis.location != "node":
            raise ValueError(f"axis {axis.name!r}: solver 'fenicsx' needs node axes, not periodic")
    bc = normalize_boundary(boundary, grid)
    d = grid.dim
    tensor = np.asarray(diffusivity, np.float64)
    if tensor.ndim == 0:
        if not (np.isfinite(tensor) and tensor > 0):
            raise ValueError(f"diffusivity={diffusivity}: must be positive")
    elif velocity is not None:
        raise ValueError("diffusivity must be one number where there is a velocity")
    else:
        tensor = check_tensor(tensor, grid)
    b = None
    if velocity is not None:
        if len(velocity) != d:
            raise ValueError(f"velocity has {len(velocity)} entries, expected {d}, one an axis")
        b = [check_field(f"velocity[{k}]", v, grid) for k, v in enumerate(velocity)]
    c = None if reaction is None else check_field("reaction", reaction, grid, nonnegative=True)
    source = check_field("f", f, grid)
    if all(k == "neumann" for pair in bc for k in pair) and (c is None or not np.any(c > 0)):
        raise ValueError("without a dirichlet or robin side or a reaction u is not unique")

    require_dolfinx()
    start = time.perf_counter()
    A, rhs = _assemble(tensor, source, b, c, grid, bc, boundary_values)
    fixed, lift = np.zeros(grid.shape, bool), np.zeros(grid.shape)
    for k, pair in enumerate(bc):
        for side, kind in enumerate(pair):
            if kind == "dirichlet":
                np.moveaxis(fixed, k, 0)[-side] = True
                np.moveaxis(lift, k, 0)[-side] = face_values(boundary_values, grid, k, side)
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    free = ~fixed.ravel()
    right = (rhs - A @ lift.ravel())[free]
    system = sp.csc_array(A[free][:, free])
    norm, x, residual = float(np.linalg.norm(right)), np.zeros_like(right), 0.0
    if norm > 0:
        lu = spla.splu(system)
        for _ in range(2):
            x = x + lu.solve(right - system @ x)
        residual = float(np.linalg.norm(right - system @ x)) / norm
    if not residual <= rtol:
        raise SolverDidNotConverge(NAME, iterations=0, residual=residual, rtol=rtol)
    u = lift.ravel()
    u[free] = x
    return SolveResult(
        x=u.reshape(grid.shape), residual=residual, residuals=np.array([residual]), iterations=0,
        solver=NAME, seconds=time.perf_counter() - start, info={"degree": 1, "dofs": int(u.size)},
    )  # fmt: skip


def _assemble(
    tensor: np.ndarray, f: np.ndarray, b: list[np.ndarray] | None, c: np.ndarray | None,
    grid: Grid, bc: Any, boundary_values: BoundaryValues,
) -> tuple[Any, np.ndarray]:  # fmt: skip
    """Matrix and right-hand side in the order of the grid's points."""
    import ufl
    from dolfinx import fem, mesh
    from mpi4py import MPI

    d, comm = grid.dim, MPI.COMM_SELF
    corners = [[lo for lo, _ in grid.bounds], [hi for _, hi in grid.bounds]]
    cells = [n - 1 for n in grid.shape]
    if d == 1:
        domain = mesh.create_interval(comm, cells[0], [corners[0][0], corners[1][0]])
    elif d == 2:
        domain = mesh.create_rectangle(comm, corners, cells)
    else:
        domain = mesh.create_box(comm, corners, cells)
    V = fem.functionspace(domain, ("Lagrange", 1))
    points = V.tabulate_dof_coordinates()
    index = tuple(
        np.rint((points[:, k] - axis.lower) / axis.spacing).astype(np.intp)
        for k, axis in enumerate(grid.axes)
    )
    place = np.ravel_multi_index(index, grid.shape)  # grid point of each unknown

    def function(values: np.ndarray) -> Any:
        out = fem.Function(V)
        out.x.array[:] = np.broadcast_to(values, grid.shape).ravel()[place]
        return out

    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    # integrands are products of up to four linear functions
    options: dict[str, Any] = {"domain": domain, "metadata": {"quadrature_degree": 4}}
    dx = ufl.Measure("dx", **options)
    fh = function(f)
    if tensor.ndim == 0:
        eps = fem.Constant(domain, float(tensor))
        left = eps * ufl.inner(ufl.grad(u), ufl.grad(v)) * dx
    else:
        entries = [[function(tensor[..., i, j]) for j in range(d)] for i in range(d)]
        left = ufl.inner(ufl.as_matrix(entries) * ufl.grad(u), ufl.grad(v)) * dx
    right = fh * v * dx
    ch = None if c is None else function(c)
    if ch is not None:
        left += ch * u * v * dx
    if b is not None:
        bh = ufl.as_vector([function(w) for w in b])
        along = ufl.dot(bh, ufl.grad(u))
        left += along * v * dx
        h, speed = ufl.CellDiameter(domain), ufl.sqrt(ufl.dot(bh, bh) + 1e-30)
        # h / (2 |b|) min(P / 3, 1) with the cell Peclet number P = |b| h / (2 eps)
        tau = h / (2 * speed) * ufl.min_value(speed * h / (6 * eps), 1.0)
        residual = along if ch is None else along + ch * u
        left += tau * residual * ufl.dot(bh, ufl.grad(v)) * dx
        right += tau * fh * ufl.dot(bh, ufl.grad(v)) * dx
    domain.topology.create_connectivity(d - 1, d)
    found, names = [], []
    for k in range(d):
        for side in (0, 1):
            end, tol = grid.bounds[k][side], 1e-6 * grid.spacing[k]
            facets = mesh.locate_entities_boundary(
                domain, d - 1, lambda x, k=k, end=end, tol=tol: np.abs(x[k] - end) < tol
            )
            found.append(facets)
            names.append(np.full(len(facets), 2 * k + side, np.int32))
    numbers, order = np.unique(np.concatenate(found), return_index=True)
    tags = mesh.meshtags(domain, d - 1, numbers, np.concatenate(names)[order])
    for k, pair in enumerate(bc):
        for side, kind in enumerate(pair):
            if kind not in ("neumann", "robin"):
                continue
            ds = ufl.Measure("ds", subdomain_data=tags, subdomain_id=2 * k + side, **options)

            def on_side(values: np.ndarray, k: int = k, side: int = side) -> Any:
                whole = np.zeros(grid.shape)
                np.moveaxis(whole, k, 0)[-side] = values
                return function(whole)

            if kind == "neumann":
                right += on_side(face_values(boundary_values, grid, k, side)) * v * ds
            else:
                alpha, beta, g = robin_values(boundary_values, grid, k, side)
                left += on_side(alpha / beta) * u * v * ds
                right += on_side(g / beta) * v * ds
    form_a, form_l = compile_forms([left, right])
    matrix = fem.assemble_matrix(form_a).to_scipy()
    vector = fem.assemble_vector(form_l).array
    inverse = np.empty_like(place)
    inverse[place] = np.arange(place.size)
    return matrix.tocsr()[inverse][:, inverse], np.asarray(vector)[inverse]
