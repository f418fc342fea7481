"""Finite volumes for ``-div(eps grad u) + b . grad u + c u = f`` on node grids, in 1-D to 3-D.

The balance of node i is ``sum_j w_ij (u_i - u_j) + |V_i| c_i u_i = |V_i| f_i`` with the weights of
exponential fitting (Scharfetter and Gummel),

    w_ij = |face| eps / h  B(P),   P = b_n h / eps,   B(z) = z / (e^z - 1),

`b_n` the velocity from i to j on the face between them. Rows add up to zero and weights are
positive at every cell Peclet number `P`: the discrete solution obeys the maximum principle. In 1-D
with constant data nodal values are exact; the error is O(h^2) once ``|P| < 1``, O(h) while ``|P|``
is large.

References
----------
.. [1] Scharfetter & Gummel, IEEE Trans. Electron Devices 16 (1969) 64-77.
.. [2] Roos, Stynes, Tobiska, "Robust numerical methods for singularly perturbed differential
   equations" (2008), I.2.1.3 and III.3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from .elements import Elements, apply_sides, best_degree
from .finite_volume import BoundaryValues, check_coefficient, check_field, face_values, robin_values
from .grids import Grid, normalize_boundary
from .names import check_name
from .result import SolverDidNotConverge, SolveResult

__all__ = ["SCHEMES", "cell_peclet", "solve_convection_diffusion"]

SCHEMES = ("exponential", "central", "upwind", "galerkin")
#: Unknowns up to which SuperLU is the faster one in 3-D; in 1-D and 2-D it always is.
DIRECT_MAX_3D = 12**3


def bernoulli(z: np.ndarray) -> np.ndarray:
    """``z / (exp(z) - 1)``, 1 at 0."""
    z = np.asarray(z, np.float64)
    small = np.abs(z) < 1e-4
    safe = np.where(small, 1.0, z)
    return np.where(small, 1.0 - z / 2 + z * z / 12, safe / np.expm1(np.minimum(safe, 700.0)))


def cell_peclet(velocity: Sequence[float | np.ndarray], eps: Any, grid: Grid) -> float:
    """Largest ``|b_k| h_k / eps`` over points and axes."""
    e = np.asarray(eps)
    return max(
        float(np.max(np.abs(b) * h / e)) for b, h in zip(velocity, grid.spacing, strict=True)
    )


def solve_convection_diffusion(
    eps: float | np.ndarray,
    velocity: Sequence[float | np.ndarray],
    f: float | np.ndarray,
    grid: Grid,
    *,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: BoundaryValues = 0.0,
    reaction: float | np.ndarray | None = None,
    scheme: str = "exponential",
    solver: str | None = None,
    rtol: float = 1e-10,
    maxiter: int = 500,
) -> SolveResult:
    """Solve ``-div(eps grad u) + b . grad u + c u = f``.

    Parameters
    ----------
    eps : float or ndarray, shape of the grid
        Diffusivity, > 0.
    velocity : sequence of float or ndarray, one an axis
        `b` at the points.
    f : float or ndarray, shape of the grid
    grid : Grid
        Node axes, 1-D to 3-D.
    boundary, boundary_values
        As for `solvers.diffusion.solve_diffusion`; fluxes are the diffusive ones, ``eps du/dn``.
    reaction : float or ndarray, optional
        ``c >= 0``.
    scheme : {"exponential", "central", "upwind", "galerkin"}
        `central` is of order 2 and refused where ``|P| > 2``, where it would oscillate; `upwind` of
        order 1; `galerkin` are elements of degree 2 where they fit the grid, else 1, refused like
        `central`.
    solver : {"direct", "ilu"}, optional
        Sparse LU, or BiCGStab with incomplete LU. Default: the faster one.
    rtol : float
        Relative residual to reach.
    maxiter : int

    Returns
    -------
    SolveResult
        `x` in the grid's shape; ``info["cell_peclet"]`` is the largest one.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid.unit(11, dim=1)
    >>> r = solve_convection_diffusion(0.05, (1.0,), 1.0, grid)
    >>> exact = grid.coords[0] - np.expm1(20 * grid.coords[0]) / np.expm1(20)
    >>> bool(np.abs(r.x - exact).max() < 1e-12)
    True
    """
    check_name("scheme", scheme, SCHEMES)
    if solver is not None:
        check_name("solver", solver, ("direct", "ilu"))
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol}: need a number between 0 and 1")
    if any(axis.location != "node" for axis in grid.axes):
        raise ValueError("location='cell_center': need a grid of node axes")
    bc = normalize_boundary(boundary, grid)
    e = check_coefficient(eps, grid)[0]
    if len(velocity) != grid.dim:
        raise ValueError(f"velocity has {len(velocity)} entries, expected {grid.dim}, one an axis")
    b = [check_field(f"velocity[{k}]", v, grid) for k, v in enumerate(velocity)]
    source = check_field("f", f, grid)
    c = None if reaction is None else check_field("reaction", reaction, grid, nonnegative=True)
    singular = all(k in ("neumann", "periodic") for pair in bc for k in pair)
    if singular and (c is None or not np.any(c > 0)):
        raise ValueError(
            "without a dirichlet or robin side the solution is not unique: give a reaction > 0"
        )
    peclet = cell_peclet(b, e, grid)
    if scheme in ("central", "galerkin") and peclet > 2:
        raise ValueError(
            f"scheme={scheme!r}: the cell Peclet number is {peclet:.3g}, allowed is 2; refine the "
            "grid or take 'exponential'"
        )

    start = time.perf_counter()
    assemble = _assemble_elements if scheme == "galerkin" else _assemble
    A, rhs, fixed, lift = assemble(e, b, source, c, grid, bc, boundary_values, scheme)
    free = ~fixed.ravel()
    if scheme == "exponential":
        _check_inflow(A, free, e, grid)
    right = (rhs.ravel() - A @ lift.ravel())[free]
    A = A[free][:, free]
    if solver is None:
        solver = "ilu" if grid.dim == 3 and right.size > DIRECT_MAX_3D else "direct"
    x, residual, history = _solve(A, right, solver, rtol, maxiter)
    u = lift.ravel()
    u[free] = x
    seconds = time.perf_counter() - start
    method = "elements" if scheme == "galerkin" else "finite_volumes"
    name = f"{method}.superlu" if solver == "direct" else f"{method}.bicgstab+ilu"
    return SolveResult(
        x=u.reshape(grid.shape), residual=residual, residuals=np.array(history),
        iterations=0 if solver == "direct" else len(history), solver=name, seconds=seconds,
        info={"cell_peclet": peclet, "scheme": scheme},
    )  # fmt: skip


def _check_inflow(A: Any, free: np.ndarray, e: np.ndarray, grid: Grid) -> None:
    """Refuse points that the flow leaves on all sides: nothing determines the value there."""
    scale = grid.weights * e * sum(1.0 / h**2 for h in grid.spacing)
    weakest = np.min((A.diagonal() / scale.ravel())[free], initial=np.inf)
    if weakest < 1e-11:
        raise ValueError(
            "velocity leaves a point on all sides, which then has no value to rounding: it must be "
            "free of divergence, or the grid finer"
        )


def _assemble(
    e: np.ndarray, b: list[np.ndarray], f: np.ndarray, c: np.ndarray | None, grid: Grid, bc: Any,
    boundary_values: BoundaryValues, scheme: str,
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    import scipy.sparse as sp

    weights = [a.weights for a in grid.axes]
    volume = reduce(np.multiply.outer, weights)
    index = np.arange(math.prod(grid.shape)).reshape(grid.shape)
    diagonal = np.zeros(grid.shape) if c is None else volume * c
    rhs = volume * f
    fixed, lift = np.zeros(grid.shape, bool), np.zeros(grid.shape)
    rows, cols, vals = [], [], []
    for k, axis in enumerate(grid.axes):
        others = [w for i, w in enumerate(weights) if i != k]
        area = np.asarray(reduce(np.multiply.outer, others) if others else 1.0)

        def shifted(v: np.ndarray, k: int = k, axis: Any = axis) -> tuple[np.ndarray, np.ndarray]:
            v = np.moveaxis(v, k, 0)
            return (v, np.roll(v, -1, axis=0)) if axis.periodic else (v[:-1], v[1:])

        (e0, e1), (b0, b1), (i, j) = shifted(e), shifted(b[k]), shifted(index)
        face = 2 * e0 * e1 / (e0 + e1)
        p = 0.5 * (b0 + b1) * axis.spacing / face
        if scheme == "exponential":
            forward, backward = bernoulli(p), bernoulli(-p)
        elif scheme == "central":
            forward, backward = 1 - p / 2, 1 + p / 2
        else:
            forward, backward = 1 + np.maximum(-p, 0), 1 + np.maximum(p, 0)
        conductance = area * face / axis.spacing
        for here, there, w in ((i, j, conductance * forward), (j, i, conductance * backward)):
            rows.append(here.ravel())
            cols.append(there.ravel())
            vals.append(-w.ravel())
            np.add.at(diagonal.ravel(), here.ravel(), w.ravel())
        for side, kind in enumerate(bc[k]):
            row, diag = np.moveaxis(rhs, k, 0)[-side, ...], np.moveaxis(diagonal, k, 0)[-side, ...]
            if kind == "neumann":
                row += area * face_values(boundary_values, grid, k, side)
            elif kind == "robin":
                alpha, beta, g = robin_values(boundary_values, grid, k, side)
                row += area * g / beta
                diag += area * alpha / beta
            elif kind == "dirichlet":
                np.moveaxis(fixed, k, 0)[-side] = True
                np.moveaxis(lift, k, 0)[-side] = face_values(boundary_values, grid, k, side)
    rows.append(index.ravel())
    cols.append(index.ravel())
    vals.append(diagonal.ravel())
    n = index.size
    entries = (np.concatenate(vals), (np.concatenate(rows), np.concatenate(cols)))
    return sp.csr_array(sp.coo_array(entries, shape=(n, n))), rhs, fixed, lift


def _assemble_elements(
    e: np.ndarray, b: list[np.ndarray], f: np.ndarray, c: np.ndarray | None, grid: Grid, bc: Any,
    boundary_values: BoundaryValues, scheme: str,
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    degree = 2 if best_degree(grid) in (2, 4) else 1
    elements = Elements(grid, degree)
    A = elements.stiffness(e) + elements.convection(b)
    if c is not None:
        A = A + elements.mass(c)
    A, rhs, fixed, lift = apply_sides(elements, A, elements.load(f), bc, boundary_values)
    return A, rhs, fixed, lift


def _solve(
    A: Any, b: np.ndarray, solver: str, rtol: float, maxiter: int
) -> tuple[np.ndarray, float, list[float]]:
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    norm = float(np.linalg.norm(b))
    x = np.zeros_like(b)
    if norm == 0 or b.size == 0:
        return x, 0.0, [0.0]
    csc, history = sp.csc_array(A), []
    if solver == "direct":
        lu = spla.splu(csc, permc_spec="COLAMD")
        for _ in range(3):
            x = x + lu.solve(b - A @ x)
            history = [float(np.linalg.norm(b - A @ x)) / norm]
            if history[0] <= 0.01 * rtol:
                break
    else:
        ilu = spla.spilu(csc, drop_tol=1e-3, fill_factor=8)
        M = spla.LinearOperator(A.shape, ilu.solve)

        def note(xk: np.ndarray) -> None:
            history.append(float(np.linalg.norm(b - A @ xk)) / norm)

        for _ in range(3):  # rounding parts the recursive residual from the true one
            r = b - A @ x
            if float(np.linalg.norm(r)) <= rtol * norm or len(history) >= maxiter:
                break
            start = x

            def note_sum(step: np.ndarray, start: np.ndarray = start) -> None:
                note(start + step)

            goal = 0.5 * rtol * norm / float(np.linalg.norm(r))
            step, _ = spla.bicgstab(
                A, r, rtol=goal, atol=0.0, M=M, maxiter=maxiter - len(history), callback=note_sum
            )
            x = x + step
    residual = float(np.linalg.norm(b - A @ x)) / norm
    if not residual <= rtol:
        name = "superlu" if solver == "direct" else "bicgstab+ilu"
        raise SolverDidNotConverge(name, iterations=len(history), residual=residual, rtol=rtol)
    return x, residual, history


def imbalance(
    x: np.ndarray,
    eps: float,
    velocity: Mapping[int, np.ndarray] | Sequence[Any],
    f: Any,
    grid: Grid,
) -> float:
    """Source less what leaves through the sides, relative to the source.

    One-sided differences of second order at the sides; zero up to the discretization error where
    the velocity is free of divergence.
    """
    out = 0.0
    for k, axis in enumerate(grid.axes):
        others = [a.weights for i, a in enumerate(grid.axes) if i != k]
        w = np.asarray(reduce(np.multiply.outer, others) if others else 1.0)
        for side in (0, 1):
            v = np.flip(x, k) if side else x
            b = np.take(np.broadcast_to(velocity[k], grid.shape), -side, axis=k)
            slope = 3 * np.take(v, 0, k) - 4 * np.take(v, 1, k) + np.take(v, 2, k)
            outward = (2 * side - 1) * b * np.take(v, 0, k) - eps * slope / (2 * axis.spacing)
            out += float(np.sum(w * outward))
    source = np.broadcast_to(np.asarray(f, np.float64), grid.shape)
    total, scale = (float(np.sum(grid.weights * s)) for s in (source, np.abs(source)))
    return (total - out) / scale
