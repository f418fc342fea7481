"""Finite volumes for ``-div(a grad u) + c u = f`` on a `Grid`, in 1-D to 3-D.

`a` is a scalar field, or one field an axis (a diagonal tensor).

Vertex-centered on node axes (the end cells are half as wide), cell-centered on the others. The
balance of one control volume is

    sum_faces k_face (u_i - u_j) + |V_i| c_i u_i = |V_i| f_i,     k_face = a_face |face| / distance,

with `a_face` the harmonic or arithmetic mean of the two sides. Through a Robin side
``alpha u + beta a du/dn = g`` comes ``|face| (g - alpha u) / beta``; where the unknown lies half a
cell off, `u` on the face is eliminated. The matrix is symmetric and, but for pure Neumann or
periodic conditions, positive definite. `FiniteVolumeSystem` keeps the conductances;
`matrix` and `apply` are two independent ways to the same operator.

References
----------
.. [1] Eymard, Gallouet, Herbin, "Finite volume methods", Handbook of Numerical Analysis VII (2000).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .grids import Boundary, Grid, normalize_boundary
from .names import check_name
from .result import SolverDidNotConverge

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = [
    "BoundaryValues",
    "Coefficient",
    "FiniteVolumeSystem",
    "Robin",
    "check_coefficient",
    "check_field",
    "discretize",
    "face_values",
    "robin_values",
]


class Robin(NamedTuple):
    """Data of a Robin side, ``alpha u + beta a du/dn = g`` with the outward normal.

    Each is a number or an array in the shape of the face; ``alpha >= 0``, ``beta > 0``. A plain
    tuple does as well.

    Examples
    --------
    >>> from solvers import Grid, solve_diffusion
    >>> sides, kinds = {(0, 1): Robin(alpha=2.0, g=1.0)}, [("dirichlet", "robin")]
    >>> grid = Grid.unit(11, dim=1)
    >>> r = solve_diffusion(1.0, 0.0, grid, boundary=kinds, boundary_values=sides)
    >>> round(float(r.x[-1]), 6)  # u = x / 3
    0.333333
    """

    alpha: float | np.ndarray
    beta: float | np.ndarray = 1.0
    g: float | np.ndarray = 0.0


#: A scalar field, or one an axis.
Coefficient = float | np.ndarray | Sequence[float | np.ndarray]
#: A number, or ``(axis, side) -> number, array or (alpha, beta, g)``, side 0 (lower) or 1 (upper).
BoundaryValues = float | Mapping[tuple[int, int], Any]


@dataclass(frozen=True)
class FiniteVolumeSystem:
    """The discrete equations on the unknowns (all points that hold no Dirichlet value).

    Attributes
    ----------
    conductance : tuple of ndarray
        For each axis, the conductances of the faces across it: the shape of the unknowns, one
        longer along that axis. The first and the last belong to the sides: to a ghost value 0
        for Dirichlet and Robin, 0 for Neumann, the same wrap-around face twice for periodic.
    reaction : ndarray or None
        ``|V| c`` on the unknowns.
    rhs : ndarray
        Right-hand side on the unknowns, boundary data included.
    volume : ndarray
        Control volumes of the unknowns.
    lift : ndarray
        The grid's shape: Dirichlet values on boundary nodes, 0 elsewhere.
    singular : bool
        Whether constants are in the null space.
    robin : dict
        ``(axis, side) -> (alpha, beta)`` on the faces of Robin sides.
    """

    grid: Grid
    boundary: Boundary
    conductance: tuple[np.ndarray, ...]
    reaction: np.ndarray | None
    rhs: np.ndarray
    volume: np.ndarray
    unknowns: tuple[slice, ...]
    lift: np.ndarray
    singular: bool
    robin: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]]

    def with_data(
        self,
        f: float | np.ndarray,
        boundary_values: BoundaryValues = 0.0,
        *,
        singular: str = "raise",
    ) -> FiniteVolumeSystem:
        """Return the same operator with another source and other boundary data.

        Raises
        ------
        ValueError
            As for `discretize`, or `alpha` and `beta` of a Robin side differ from the operator's.
        """
        check_name("singular", singular, ("raise", "project"))
        rhs = self.volume * check_field("f", f, self.grid)[self.unknowns]
        lift = np.zeros(self.grid.shape)
        weights = [ax.weights[s] for ax, s in zip(self.grid.axes, self.unknowns, strict=True)]
        for k, axis in enumerate(self.grid.axes):
            others = [w for i, w in enumerate(weights) if i != k]
            area = np.asarray(reduce(np.multiply.outer, others) if others else 1.0)
            face = tuple(s for i, s in enumerate(self.unknowns) if i != k)
            for side, kind in enumerate(self.boundary[k]):
                if kind == "periodic":
                    continue
                row = np.moveaxis(rhs, k, 0)[-side, ...]  # a view, in 1-D too
                to_ghost = np.moveaxis(self.conductance[k], k, 0)[-side, ...]
                if kind == "robin":
                    alpha, beta, g = robin_values(boundary_values, self.grid, k, side)
                    own = self.robin[k, side]
                    if np.any(alpha != own[0]) or np.any(beta != own[1]):
                        raise ValueError(
                            f"boundary_values[{k}, {side}]: alpha and beta belong to the operator, "
                            "which was prepared with others"
                        )
                    # A ghost value g / alpha, or a flux where alpha = 0
                    alpha, beta, g = alpha[face], beta[face], g[face]
                    ghost = g / np.where(alpha > 0, alpha, 1.0)
                    row += np.where(alpha > 0, to_ghost * ghost, area * g / beta)
                    continue
                value = face_values(boundary_values, self.grid, k, side)
                row += (area if kind == "neumann" else to_ghost) * value[face]
                if kind == "dirichlet" and axis.location == "node":
                    np.moveaxis(lift, k, 0)[-side] = value
        if self.singular:
            total, scale = float(rhs.sum()), float(np.abs(rhs).sum())
            if singular == "raise" and abs(total) > 1e-10 * scale:
                raise ValueError(
                    f"f and the boundary fluxes integrate to {total:.3g}; without a Dirichlet side "
                    "they must integrate to 0 (singular='project' removes the mean)"
                )
            rhs -= self.volume * (total / self.volume.sum())
        return replace(self, rhs=rhs, lift=lift)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Which axes wrap around."""
        return self.grid.periodic

    def apply(self, u: np.ndarray) -> np.ndarray:
        """Return ``A u`` by summing fluxes; `u` and ``A u`` have the shape of the unknowns."""
        out = np.zeros_like(u) if self.reaction is None else self.reaction * u
        for k, c in enumerate(self.conductance):
            c, v, o = (np.moveaxis(w, k, 0) for w in (c, u, out))  # views
            flux = c[1:-1] * (v[1:] - v[:-1])
            o[:-1] -= flux
            o[1:] += flux
            below, above = (v[-1], v[0]) if self.periodic[k] else (0.0, 0.0)
            o[0] += c[0] * (v[0] - below)
            o[-1] += c[-1] * (v[-1] - above)
        return out

    def matrix(self) -> sp.csr_array:
        """Assemble the same operator."""
        import scipy.sparse as sp  # here, so that listing the solvers stays quick

        shape = self.rhs.shape
        index = np.arange(self.rhs.size).reshape(shape)
        diag = np.zeros(shape) if self.reaction is None else self.reaction.copy()
        rows, cols, vals = [], [], []
        for k, c in enumerate(self.conductance):
            n = shape[k]
            diag += np.take(c, np.arange(n), axis=k) + np.take(c, np.arange(1, n + 1), axis=k)
            i, j = np.take(index, np.arange(n - 1), axis=k), np.take(index, np.arange(1, n), axis=k)
            v = np.take(c, np.arange(1, n), axis=k)
            pairs = [(i, j, v)]
            if self.periodic[k]:
                last, first = np.take(index, [n - 1], axis=k), np.take(index, [0], axis=k)
                pairs.append((last, first, np.take(c, [n], axis=k)))
            for p, q, w in pairs:
                rows += [p.ravel(), q.ravel()]
                cols += [q.ravel(), p.ravel()]
                vals += [-w.ravel(), -w.ravel()]
        rows.append(index.ravel())
        cols.append(index.ravel())
        vals.append(diag.ravel())
        n_unknowns = self.rhs.size
        coo = sp.coo_array(
            (np.concatenate(vals), (np.concatenate(rows), np.concatenate(cols))),
            shape=(n_unknowns, n_unknowns),
        )
        return sp.csr_array(coo)  # sums entries that coincide

    def residual(self, u: np.ndarray) -> float:
        """``||b - A u|| / ||b||`` of unknowns `u`; the absolute norm if ``b = 0``."""
        norm = float(np.linalg.norm(self.rhs))
        r = float(np.linalg.norm(self.rhs - self.apply(u)))
        return r / norm if norm > 0 else r

    def failure(
        self, solver: str, u: np.ndarray, *, iterations: int, rtol: float
    ) -> SolverDidNotConverge:
        """Return the exception for an iterate `u`; it says so when rounding is the reason."""
        size = np.zeros_like(u) if self.reaction is None else self.reaction.copy()
        for k, c in enumerate(self.conductance):
            c, s = np.moveaxis(c, k, 0), np.moveaxis(size, k, 0)  # views
            s += c[:-1] + c[1:]
        eps, norm = np.finfo(np.float64).eps, float(np.linalg.norm(self.rhs))
        floor = eps * float(np.linalg.norm(size * u)) / norm if norm > 0 else 0.0
        residual = self.residual(u)
        note = ""
        if residual < 100 * floor:
            note = (
                f"float64 rounding allows about {floor:.0e} here: the coefficient varies too "
                "much for this tolerance and mesh"
            )
        elif solver.startswith("structured"):
            note = (
                "point smoothing is weak where the coefficient's strong direction changes from "
                "place to place: use solver 'pyamg' or 'direct'"
            )
        return SolverDidNotConverge(
            solver, iterations=iterations, residual=residual, rtol=rtol, note=note
        )

    def embed(self, u: np.ndarray) -> np.ndarray:
        """Solution on the whole grid; of zero mean if the system is singular."""
        if self.singular:
            u = u - np.sum(self.volume * u) / np.sum(self.volume)
        x = self.lift.copy()
        x[self.unknowns] = u
        return x


def face_values(boundary_values: BoundaryValues, grid: Grid, axis: int, side: int) -> np.ndarray:
    """Dirichlet or Neumann values on one side, in the shape of that face; 0 where not given.

    Raises
    ------
    ValueError
        Unknown key, wrong shape or non-finite values.
    """
    if isinstance(boundary_values, Mapping):
        _check_keys(boundary_values, grid)
        value = boundary_values.get((axis, side), 0.0)
    else:
        value = boundary_values
    if isinstance(value, Robin):
        raise ValueError(f"boundary_values[{axis}, {side}] is {value!r}, but no 'robin' side")
    return _on_face(f"boundary_values[{axis}, {side}]", value, grid, axis)


def robin_values(
    boundary_values: BoundaryValues, grid: Grid, axis: int, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``alpha, beta, g`` of a Robin side, arrays in the shape of that face.

    Raises
    ------
    ValueError
        Unknown or missing key, wrong shape, non-finite values, ``alpha < 0`` or ``beta <= 0``.
    """
    name = f"boundary_values[{axis}, {side}]"
    value = None
    if isinstance(boundary_values, Mapping):
        _check_keys(boundary_values, grid)
        value = boundary_values.get((axis, side))
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ValueError(f"{name} is {value!r}: a 'robin' side needs (alpha, beta, g)")
    alpha, beta, g = (
        _on_face(f"{name}: {part}", v, grid, axis)
        for part, v in zip(Robin._fields, value, strict=True)
    )
    if not np.all(alpha >= 0):
        raise ValueError(f"{name}: alpha must not be negative, its minimum is {alpha.min():.6g}")
    if not np.all(beta > 0):
        raise ValueError(f"{name}: beta must be positive, its minimum is {beta.min():.6g}")
    return alpha, beta, g


def _check_keys(boundary_values: Mapping[tuple[int, int], Any], grid: Grid) -> None:
    for key in boundary_values:
        if key not in {(k, s) for k in range(grid.dim) for s in (0, 1)}:
            raise ValueError(
                f"boundary_values has the key {key!r}: allowed are (axis, side), "
                f"axis 0..{grid.dim - 1}, side 0 or 1"
            )


def _on_face(name: str, value: Any, grid: Grid, axis: int) -> np.ndarray:
    shape = grid.shape[:axis] + grid.shape[axis + 1 :]
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, expected a number or an array") from None
    if array.shape not in ((), shape):
        raise ValueError(f"{name} has shape {array.shape}, expected () or {shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds NaN or infinity")
    return np.broadcast_to(array, shape)


def check_field(
    name: str,
    value: float | np.ndarray,
    grid: Grid,
    *,
    positive: bool = False,
    nonnegative: bool = False,
) -> np.ndarray:
    """Return `value` as a float64 array in the grid's shape.

    Raises
    ------
    ValueError
        Wrong shape, non-finite, or the wrong sign.
    """
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), grid.shape):
        raise ValueError(f"{name} has shape {array.shape}, expected {grid.shape} (the grid's)")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds NaN or infinity")
    if positive and not np.all(array > 0):
        raise ValueError(f"{name} must be positive, its minimum is {array.min():.6g}")
    if nonnegative and not np.all(array >= 0):
        raise ValueError(f"{name} must not be negative, its minimum is {array.min():.6g}")
    return np.broadcast_to(array, grid.shape)


def check_coefficient(a: Any, grid: Grid) -> tuple[np.ndarray, ...]:
    """Return the coefficient as one positive array an axis; the same one if `a` is a scalar field.

    Raises
    ------
    ValueError
        Wrong number of entries, wrong shape, non-finite or not positive.
    """
    if isinstance(a, np.ndarray) and a.shape == (grid.dim, *grid.shape):
        a = tuple(a)
    if not isinstance(a, tuple | list):
        return (check_field("a", a, grid, positive=True),) * grid.dim
    if len(a) != grid.dim:
        raise ValueError(
            f"a has {len(a)} entries: one an axis are needed, {grid.dim} of them, or one array"
        )
    return tuple(check_field(f"a[{k}]", v, grid, positive=True) for k, v in enumerate(a))


def discretize(
    a: Coefficient,
    f: float | np.ndarray,
    grid: Grid,
    *,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: BoundaryValues = 0.0,
    reaction: float | np.ndarray | None = None,
    average: str = "harmonic",
    singular: str = "raise",
) -> FiniteVolumeSystem:
    """Discretize ``-div(a grad u) + c u = f``.

    Parameters
    ----------
    a : float, ndarray in the grid's shape, or a sequence of these, one an axis
        Positive coefficient at the points; several are the diagonal of a tensor.
    f : float or ndarray, shape of the grid
        Source at the points.
    grid : Grid
    boundary : str or sequence
        Kinds per axis (and side), see `solvers.grids.normalize_boundary`.
    boundary_values : float or mapping
        Dirichlet: the value; Neumann: the outward flux ``a du/dn``; Robin: ``(alpha, beta, g)``,
        see `Robin`.
    reaction : float or ndarray, optional
        ``c >= 0``.
    average : {"harmonic", "arithmetic"}
        Mean of `a` on a face. Harmonic is exact for layered media whose interfaces lie midway.
    singular : {"raise", "project"}
        Pure Neumann or periodic problems need data whose integral is zero: refuse others, or
        remove their mean.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    """
    check_name("average", average, ("harmonic", "arithmetic"))
    bc = normalize_boundary(boundary, grid)
    coefficient = check_coefficient(a, grid)
    c = None if reaction is None else check_field("reaction", reaction, grid, nonnegative=True)

    unknowns = tuple(
        slice(
            1 if kinds[0] == "dirichlet" and axis.location == "node" else 0,
            axis.n - 1 if kinds[1] == "dirichlet" and axis.location == "node" else axis.n,
        )
        for axis, kinds in zip(grid.axes, bc, strict=True)
    )
    for axis, s in zip(grid.axes, unknowns, strict=True):
        if s.stop - s.start < 1:
            raise ValueError(f"axis {axis.name!r}: n={axis.n} leaves no unknown, need at least 3")
    weights = [axis.weights[s] for axis, s in zip(grid.axes, unknowns, strict=True)]
    volume = reduce(np.multiply.outer, weights)
    robin: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    conductance = []
    for k, axis in enumerate(grid.axes):
        others = [w for i, w in enumerate(weights) if i != k]
        area = np.asarray(reduce(np.multiply.outer, others) if others else 1.0)
        across = tuple(slice(None) if i == k else s for i, s in enumerate(unknowns))
        ak = np.moveaxis(coefficient[k][across], k, 0)
        face = tuple(s for i, s in enumerate(unknowns) if i != k)
        scale = area / axis.spacing
        inner = _mean(ak[:-1], ak[1:], average)
        inner *= scale
        parts = [inner]
        for side, kind in enumerate(bc[k]):
            end = [-side]
            if kind == "periodic":
                extra = _mean(ak[-1:], ak[:1], average) * scale
            elif kind == "neumann":
                extra = np.zeros_like(ak[end])
            elif kind == "robin":
                alpha, beta, _ = robin_values(boundary_values, grid, k, side)
                robin[k, side] = alpha, beta
                transfer = (alpha / beta)[face]
                if axis.location == "cell_center":  # in series with half a cell
                    half = 2.0 * ak[-side, ...] / axis.spacing
                    transfer = half * transfer / (half + transfer)
                extra = (area * transfer)[np.newaxis]
            elif axis.location == "cell_center":
                extra = 2.0 * ak[end] * scale
            else:
                continue  # the face to the boundary node is in `inner`
            parts.insert(0, extra) if side == 0 else parts.append(extra)
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        conductance.append(np.ascontiguousarray(np.moveaxis(whole, 0, k)))

    is_singular = (
        all(k != "dirichlet" for pair in bc for k in pair)
        and not any(np.any(alpha > 0) for alpha, _ in robin.values())
        and (c is None or not np.any(c > 0))
    )
    operator = FiniteVolumeSystem(
        grid=grid, boundary=bc, conductance=tuple(conductance),
        reaction=None if c is None else volume * c[unknowns], rhs=volume, volume=volume,
        unknowns=unknowns, lift=np.zeros(grid.shape), singular=is_singular, robin=robin,
    )  # fmt: skip
    return operator.with_data(f, boundary_values, singular=singular)


def _mean(a: np.ndarray, b: np.ndarray, average: str) -> np.ndarray:
    total = a + b
    if average == "harmonic":
        product = a * b
        product *= 2.0
        product /= total
        return product
    total *= 0.5
    return total
