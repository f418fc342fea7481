"""The Helmholtz equation ``-laplace(u) - k^2 u = f`` on a grid, with walls or absorbing sides.

Waves go as ``exp(-i omega t)``, so that ``exp(i k r)`` runs outwards. The real or complex,
symmetric, indefinite equations of `solvers.elements` are solved by sparse LU.

References
----------
.. [1] Ihlenburg, "Finite element analysis of acoustic scattering" (1998), chapter 4: phase errors
   of degree p are ``k (k h / 2p)^(2p)`` times a constant, h the size of an element.
.. [2] Berenger, J. Comput. Phys. 114 (1994) 185-200; Chew & Weedon, Microw. Opt. Technol. Lett. 7
   (1994) 599-604: perfectly matched layers as complex coordinates.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .elements import Elements, best_degree
from .finite_volume import Robin
from .grids import Axis, Grid
from .names import check_name
from .result import SolverDidNotConverge, SolveResult

__all__ = ["HELMHOLTZ_SIDES", "points_per_wavelength", "solve_helmholtz"]

HELMHOLTZ_SIDES = ("dirichlet", "neumann", "robin", "impedance", "pml", "periodic")
NAME = "elements.superlu"
#: Reflection of a perfectly matched layer at normal incidence, were it not for its discretization.
PML_REFLECTION = 1e-8


def points_per_wavelength(k: float | np.ndarray, grid: Grid) -> float:
    """Smallest number of grid points a wave, ``2 pi / (k h)``."""
    largest = float(np.max(np.abs(k)))
    return math.inf if largest == 0 else 2 * math.pi / (largest * max(grid.spacing))


def solve_helmholtz(
    k: float | np.ndarray,
    f: float | np.ndarray,
    grid: Grid,
    *,
    boundary: str | tuple | list = "neumann",
    boundary_values: float | Mapping[tuple[int, int], Any] = 0.0,
    degree: int | None = None,
    pml_cells: int = 16,
    min_points_per_wavelength: float = 8.0,
    rtol: float = 1e-10,
) -> SolveResult:
    """Solve ``-laplace(u) - k^2 u = f``.

    Parameters
    ----------
    k : float or ndarray, shape of the grid
        Wave number at the points, >= 0.
    f : float or ndarray, shape of the grid
        Source at the points, real or complex.
    grid : Grid
        Node axes, 1-D to 3-D.
    boundary : str or sequence
        One for all sides, per axis or per side: ``"dirichlet"`` (u = g), ``"neumann"``
        (du/dn = g), ``"robin"`` (alpha u + beta du/dn = g), ``"impedance"`` (du/dn - i k u = g,
        absorbs waves that meet the side at a right angle), ``"pml"`` (perfectly matched layers
        outside the grid: absorbs waves of any direction), ``"periodic"``.
    boundary_values : float or mapping ``(axis, side) -> value``
        `g`: a number or an array in the shape of the face, 0 where left out; of robin sides
        ``(alpha, beta, g)``.
    degree : {1, 2, 3, 4}, optional
        Of the elements; default: the highest that divides the cells of all axes.
    pml_cells : int
        Width of perfectly matched layers, in cells of the grid; a multiple of `degree`.
    min_points_per_wavelength : float
        Refuse coarser grids.
    rtol : float
        Relative residual to reach.

    Returns
    -------
    SolveResult
        `x` in the grid's shape, real if all data and sides are. `info`: `degree`,
        `points_per_wavelength`.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
        `k` is too close to a resonance.

    Examples
    --------
    >>> import numpy as np
    >>> g = Grid.unit(81, dim=1)
    >>> u = solve_helmholtz(20.0, 0.0, g, boundary=[("dirichlet", "impedance")],
    ...                     boundary_values={(0, 0): 1.0}).x
    >>> bool(np.abs(u - np.exp(20j * g.coords[0])).max() < 1e-4)
    True
    """
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol}: need a number between 0 and 1")
    sides = _check_sides(boundary, grid)
    wave, source = _check("k", k, grid), _check("f", f, grid)
    if np.iscomplexobj(wave) or np.any(wave < 0):
        raise ValueError("k must be real and not negative")
    ppw = points_per_wavelength(wave, grid)
    if ppw < min_points_per_wavelength:
        raise ValueError(
            f"k={float(np.max(wave)):.6g}: the grid has {ppw:.2g} points per wavelength, need "
            f"min_points_per_wavelength={min_points_per_wavelength:g}; refine the grid"
        )
    degree = best_degree(grid) if degree is None else degree
    values = _check_values(boundary_values, grid, sides)
    layered = [(i, s) for i, pair in enumerate(sides) for s in (0, 1) if pair[s] == "pml"]
    if layered and (pml_cells < 1 or pml_cells % degree):
        raise ValueError(f"pml_cells={pml_cells}: need a positive multiple of degree={degree}")
    if layered and not np.any(wave > 0):
        raise ValueError("k=0: a pml absorbs waves, choose other sides")

    start = time.perf_counter()
    pads = [tuple(pml_cells if kind == "pml" else 0 for kind in pair) for pair in sides]
    whole = Grid(
        tuple(
            axis if pad == (0, 0) else Axis(
                axis.name, axis.n + sum(pad), axis.lower - pad[0] * axis.spacing,
                axis.upper + pad[1] * axis.spacing,
            )
            for axis, pad in zip(grid.axes, pads, strict=True)
        )
    )  # fmt: skip
    elements = Elements(whole, degree)
    inner = tuple(slice(lo, lo + n) for (lo, _), n in zip(pads, grid.shape, strict=True))
    wide_k, wide_f = np.pad(wave, pads, mode="edge"), np.pad(source, pads)
    if layered:
        stretch = _stretching(elements, grid, sides, pml_cells, float(np.median(wave[wave > 0])))
        product = np.prod(stretch, axis=0)
        A: Any = elements.stiffness({(i, i): product / s**2 for i, s in enumerate(stretch)})
        A = A - elements.mass(elements.at_quadrature(wide_k**2) * product)
    else:
        A = elements.stiffness(1.0) - elements.mass(wide_k**2)
    b = elements.load(wide_f)
    fixed = np.zeros(whole.shape, dtype=bool)
    lift = np.zeros(whole.shape, dtype=np.result_type(b, *(v for v, _ in values.values())))
    for (i, side), (g, alpha) in values.items():
        kind = sides[i][side]
        if kind in ("dirichlet", "pml"):
            np.moveaxis(fixed, i, 0)[-side] = True
            if kind == "dirichlet":
                part: Any = tuple(s for n, s in enumerate(inner) if n != i)
                np.moveaxis(lift, i, 0)[(-side, *part)] = g
            continue
        if np.any(g):
            face = np.zeros(_face(whole, i), dtype=g.dtype)
            face[tuple(s for n, s in enumerate(inner) if n != i)] = g
            b = b + elements.side_load(face, i, side)
        if kind == "impedance":
            A = A + elements.side_mass(-1j * np.take(wide_k, -side, axis=i), i, side)
        elif kind == "robin":
            A = A + elements.side_mass(alpha, i, side)
    free = ~fixed.ravel()
    rhs = (b.ravel() - A @ lift.ravel())[free]
    A = A[free][:, free]
    x, residual = _lu_solve(A, rhs, rtol)
    u = lift.astype(np.result_type(x, lift)).ravel()
    u[free] = x
    seconds = time.perf_counter() - start
    return SolveResult(
        x=np.ascontiguousarray(u.reshape(whole.shape)[inner]), residual=residual,
        residuals=np.array([residual]), iterations=0, solver=NAME, seconds=seconds,
        info={"degree": int(degree), "points_per_wavelength": ppw},
    )  # fmt: skip


def _lu_solve(A: Any, b: np.ndarray, rtol: float) -> tuple[np.ndarray, float]:
    """Solve by LU with refinement; return the solution and its relative residual."""
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    dtype = np.result_type(A.dtype, b.dtype)
    A, b = sp.csc_array(A.astype(dtype)), b.astype(dtype)
    norm = float(np.linalg.norm(b))
    x = np.zeros_like(b)
    if norm == 0 or b.size == 0:
        return x, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spla.MatrixRankWarning)
        try:
            lu = spla.splu(
                A, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01,
                options={"SymmetricMode": True},
            )  # fmt: skip
        except RuntimeError:  # exactly singular
            raise SolverDidNotConverge(
                NAME, iterations=0, residual=1.0, rtol=rtol, note="k is a resonance"
            ) from None
        residual = math.inf
        for _ in range(4):
            x = x + lu.solve(b - A @ x)
            before, residual = residual, float(np.linalg.norm(b - A @ x)) / norm
            if residual <= 0.01 * rtol or residual > 0.5 * before:
                break
    if not residual <= rtol:
        raise SolverDidNotConverge(
            NAME, iterations=0, residual=residual, rtol=rtol, note="k is too close to a resonance"
        )
    return x, residual


def _face(grid: Grid, axis: int) -> tuple[int, ...]:
    return grid.shape[:axis] + grid.shape[axis + 1 :]


def _stretching(
    elements: Elements, grid: Grid, sides: Any, cells: int, k: float
) -> list[np.ndarray]:
    """Complex stretching ``1 + i sigma / k`` at the quadrature points, one array an axis."""
    out = []
    for axis, pair, x in zip(grid.axes, sides, elements.quadrature_coords(), strict=True):
        width = cells * axis.spacing
        depth = np.zeros_like(x)
        if pair[0] == "pml":
            depth += np.maximum(axis.lower - x, 0.0)
        if pair[1] == "pml":
            depth += np.maximum(x - axis.upper, 0.0)
        sigma = 1.5 * math.log(1 / PML_REFLECTION) / width * (depth / width) ** 2
        out.append(1.0 + 1j * sigma / k)
    return out


def _check(name: str, value: Any, grid: Grid) -> np.ndarray:
    array = np.asarray(value)
    array = array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
    if array.shape not in ((), grid.shape):
        raise ValueError(f"{name} has shape {array.shape}, expected {grid.shape} (the grid's)")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds NaN or infinity")
    return np.broadcast_to(array, grid.shape)


def _check_sides(boundary: Any, grid: Grid) -> tuple[tuple[str, str], ...]:
    per_axis = [boundary] * grid.dim if isinstance(boundary, str) else list(boundary)
    if len(per_axis) != grid.dim:
        raise ValueError(f"boundary has {len(per_axis)} entries, the grid has {grid.dim} axes")
    out = []
    for axis, kind in zip(grid.axes, per_axis, strict=True):
        pair = (kind, kind) if isinstance(kind, str) else tuple(kind)
        for k in pair:
            check_name("boundary", k, HELMHOLTZ_SIDES)
        if len(pair) != 2 or (("periodic" in pair) != axis.periodic) or (
            axis.periodic and pair[0] != pair[1]
        ):  # fmt: skip
            raise ValueError(
                f"axis {axis.name!r}: boundary {pair} but the grid's periodic={axis.periodic}"
            )
        out.append((pair[0], pair[1]))
    return tuple(out)


def _check_values(
    boundary_values: Any, grid: Grid, sides: Any
) -> dict[tuple[int, int], tuple[np.ndarray, Any]]:
    """``(axis, side) -> (g, alpha / beta)`` for all sides that are not periodic."""
    if isinstance(boundary_values, Mapping):
        for key in boundary_values:
            if key not in {(i, s) for i in range(grid.dim) for s in (0, 1)}:
                raise ValueError(f"boundary_values has the key {key!r}: allowed are (axis, side)")
    out = {}
    for i, pair in enumerate(sides):
        for side, kind in enumerate(pair):
            if kind == "periodic":
                continue
            g = (
                boundary_values.get((i, side), 0.0)
                if isinstance(boundary_values, Mapping)
                else boundary_values
            )
            alpha: Any = None
            if kind == "robin":
                if not isinstance(g, tuple | list) or len(g) != 3:
                    raise ValueError(
                        f"boundary_values[{i}, {side}] is {g!r}: a 'robin' side needs "
                        "(alpha, beta, g)"
                    )
                robin = Robin(*g)
                if not np.all(np.asarray(robin.beta) > 0):
                    raise ValueError(f"boundary_values[{i}, {side}]: beta must be positive")
                alpha = np.asarray(robin.alpha) / robin.beta
                g = np.asarray(robin.g) / robin.beta
            array = np.asarray(g)
            if array.shape not in ((), _face(grid, i)) or not np.all(np.isfinite(array)):
                raise ValueError(
                    f"boundary_values[{i}, {side}]: need finite values of shape () or "
                    f"{_face(grid, i)}, got shape {array.shape}"
                )
            if kind == "pml" and np.any(array):
                raise ValueError(f"boundary_values[{i}, {side}]: a 'pml' side takes no value")
            out[i, side] = (array, alpha)
    return out
