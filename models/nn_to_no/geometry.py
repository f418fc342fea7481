"""Grids and point clouds for operators: layouts, quadrature weights, transfers between grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from solvers.grids import Axis, Grid
from solvers.meshes import Mesh

__all__ = [
    "Geometry",
    "Layout",
    "PointCloud",
    "apply_axes",
    "axis_matrix",
    "cloud_weights",
    "grid",
    "is_closed",
    "quadrature_weights",
    "resample",
    "same_domain",
    "scale_of",
]

#: ``"vertex"``: points on both ends; ``"cell"``: centers of cells; ``"periodic"``: nodes, the end
#: left out.
Layout = Literal["vertex", "cell", "periodic"]
#: Points with quadrature weights and, if known, cells: the house's `solvers.meshes.Mesh`.
PointCloud = Mesh
Geometry = Grid | Mesh
Method = Literal["linear", "cubic", "fourier"]
Rule = Literal["auto", "trapezoid", "simpson", "uniform", "delaunay"]


def grid(
    shape: int | Sequence[int],
    bounds: Sequence[tuple[float, float]] | None = None,
    *,
    layout: Layout | Sequence[Layout] = "vertex",
) -> Grid:
    """Tensor grid from its number of points.

    Parameters
    ----------
    shape : int or sequence of int
        Points per axis.
    bounds : sequence of (float, float), optional
        Ends of the domain per axis, default 0 and 1.
    layout : {"vertex", "cell", "periodic"}, or one an axis

    Returns
    -------
    solvers.grids.Grid

    Examples
    --------
    >>> grid((64, 32), layout=("periodic", "vertex")).spacing[0]
    0.015625
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    layouts = [layout] * len(shape) if isinstance(layout, str) else list(layout)
    ends = [(0.0, 1.0)] * len(shape) if bounds is None else list(bounds)
    for what, values in (("layout", layouts), ("bounds", ends)):
        if len(values) != len(shape):
            raise ValueError(f"{what} has {len(values)} entries, the shape {shape} {len(shape)}")
    known = {"vertex": "node", "cell": "cell_center", "periodic": "node"}
    if bad := [v for v in layouts if v not in known]:
        raise ValueError(f"layout={bad[0]!r}: allowed are {', '.join(known)}")
    return Grid(
        tuple(
            Axis(name, int(n), float(a), float(b), known[how], how == "periodic")  # type: ignore[arg-type]
            for name, n, (a, b), how in zip("xyz", shape, ends, layouts, strict=False)
        )
    )


def is_closed(axis: Axis) -> bool:
    """Whether both ends of the axis are points."""
    return axis.location == "node" and not axis.periodic


def scale_of(reference: Grid, other: Grid) -> tuple[float, ...]:
    """Spacing of `reference` over that of `other`, per axis."""
    return tuple(a.spacing / b.spacing for a, b in zip(reference.axes, other.axes, strict=True))


def same_domain(a: Grid, b: Grid) -> str:
    """Why two grids do not cover the same domain in the same layout; ``""`` if they do."""
    if a.dim != b.dim:
        return f"{b.dim} axes, expected {a.dim}"
    for x, y in zip(a.axes, b.axes, strict=True):
        if (x.location, x.periodic) != (y.location, y.periodic):
            return f"axis {y.name!r} has another layout than the reference"
        length = x.upper - x.lower
        if max(abs(x.lower - y.lower), abs(x.upper - y.upper)) > 1e-9 * length:
            return (
                f"axis {y.name!r} runs from {y.lower:g} to {y.upper:g} with spacing "
                f"{y.spacing:g}, the reference from {x.lower:g} to {x.upper:g} with spacing "
                f"{x.spacing:g}: operators know their own domain alone"
            )
    return ""


# -- quadrature ------------------------------------------------------------------------------------


def quadrature_weights(geometry: Geometry | np.ndarray, rule: Rule = "auto") -> np.ndarray:
    """Quadrature weights of a grid or of points.

    Parameters
    ----------
    geometry : Grid, Mesh, or ndarray of points (P, D)
    rule : str
        ``"auto"``: trapezoid on closed axes and midpoint else, the weights of a mesh, Delaunay
        for bare points. ``"simpson"``: on closed axes with an odd number of points.
        ``"uniform"``: the measure shared equally (of bare points: of their bounding box; right
        for random points, Monte-Carlo).
        ``"delaunay"``: each simplex gives an equal part to its corners, the row sums of the P1
        mass matrix.

    Returns
    -------
    ndarray, float64
        In the grid's shape, or (P,). They add up to the measure of the domain.

    Raises
    ------
    ValueError
        Rule that does not fit, or points on one line.

    Examples
    --------
    >>> quadrature_weights(grid(5), "simpson") * 12
    array([1., 4., 2., 4., 1.])
    """
    rules = ("auto", "trapezoid", "simpson", "uniform", "delaunay")
    if rule not in rules:
        raise ValueError(f"rule={rule!r}: allowed are {', '.join(rules)}")
    if isinstance(geometry, Grid):
        if rule == "delaunay":
            raise ValueError("rule='delaunay': for points, a grid has its own weights")
        if rule == "uniform":
            measure = math.prod(b - a for a, b in geometry.bounds)
            return np.full(geometry.shape, measure / math.prod(geometry.shape))
        w = np.ones(())
        for axis in geometry.axes:
            w = np.multiply.outer(w, _simpson(axis) if rule == "simpson" else axis.weights)
        return w
    if rule in ("trapezoid", "simpson"):
        raise ValueError(f"rule={rule!r}: for grids, not for points")
    if isinstance(geometry, Mesh):
        if rule == "uniform":
            return np.full(geometry.n_points, geometry.measure / geometry.n_points)
        if rule == "auto":
            return geometry.point_weights
        geometry = geometry.points
    points = np.asarray(geometry, np.float64)
    if points.ndim != 2:
        raise ValueError(f"points have shape {points.shape}, expected (P, D)")
    if rule == "uniform":
        return np.full(len(points), float(np.prod(np.ptp(points, axis=0))) / len(points))
    return _delaunay(points)


def _simpson(axis: Axis) -> np.ndarray:
    if not is_closed(axis):
        return axis.weights
    if axis.n % 2 == 0:
        raise ValueError(
            f"rule='simpson': axis {axis.name!r} has {axis.n} points, need an odd number"
        )
    w = np.full(axis.n, 2.0)
    w[1::2] = 4.0
    w[[0, -1]] = 1.0
    return w * axis.spacing / 3


def _delaunay(points: np.ndarray) -> np.ndarray:
    """Weights of the Delaunay triangulation; points given twice share."""
    from scipy.spatial import Delaunay, QhullError

    unique, inverse, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    if points.shape[1] == 1:
        gaps = np.diff(unique[:, 0])
        if not len(gaps):
            raise ValueError("points: need at least two different ones")
        w = np.zeros(len(unique))
        w[:-1] += gaps / 2
        w[1:] += gaps / 2
        return w[inverse] / counts[inverse]
    try:
        cells = Delaunay(unique).simplices
    except QhullError as e:
        first = str(e).strip().splitlines()[0]
        raise ValueError(f"points: no Delaunay triangulation ({first})") from None
    w = Mesh.simplices(unique, cells).point_weights
    return w[inverse] / counts[inverse]


def cloud_weights(points: Tensor, weights: Tensor | None, measure: float | None) -> Tensor:
    """Check the quadrature weights of points.

    Parameters
    ----------
    points : Tensor, shape (P, D) or (B, P, D)
    weights : Tensor, shape (P,) or (B, P)
    measure : float, optional
        Of the domain; the weights must add up to it within 1e-6.

    Raises
    ------
    ValueError
        Negative or wrong weights.
    """
    if weights is None:
        raise ValueError("weights: points without quadrature weights; see quadrature_weights")
    if weights.shape != points.shape[:-1]:
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}, expected {tuple(points.shape[:-1])}"
        )
    if bool((weights < 0).any()):
        raise ValueError(f"weights: {int((weights < 0).sum())} are negative")
    if measure is not None:
        total = weights.sum(-1).double()
        off = float((total - measure).abs().max())
        if off > 1e-6 * abs(measure):
            raise ValueError(
                f"weights add up to {float(total.reshape(-1)[0]):.9g}, the measure of the domain "
                f"is {measure:.9g}"
            )
    return weights


# -- transfers along one axis ----------------------------------------------------------------------


@lru_cache(maxsize=512)
def axis_matrix(source: Axis, target: tuple[float, ...] | Axis, method: Method) -> Tensor:
    """Interpolation along one axis as a matrix, float64, shape (target points, source.n).

    ``linear`` is constant beyond the outermost cell centers; ``cubic`` is a local Lagrange
    polynomial; ``fourier`` the trigonometric polynomial through the points of a periodic axis.
    """
    x = target.coords if isinstance(target, Axis) else np.asarray(target, np.float64)
    start = source.coords[0]
    t = (x - start) / source.spacing  # in points of the source
    n = source.n
    if method == "fourier":
        return torch.as_tensor(_fourier_matrix(t, n))
    out = np.zeros((len(t), n))
    rows = np.arange(len(t))
    if method == "linear":
        # rounding must not turn a point into two
        near = np.abs(t - np.round(t)) < 1e-9
        t = np.where(near, np.round(t), t)
        if not source.periodic:
            t = np.clip(t, 0, n - 1)
        left = np.floor(t).astype(int)
        part = t - left
        for k, w in ((left, 1 - part), (left + 1, part)):
            k = k % n if source.periodic else np.clip(k, 0, n - 1)
            np.add.at(out, (rows, k), w)
        return torch.as_tensor(out)
    if n < 4:
        return axis_matrix(source, target, "linear")
    left = np.floor(t + 1e-9).astype(int) - 1
    if not source.periodic:
        left = np.clip(left, 0, n - 4)
    for i in range(4):
        w = np.ones(len(t))
        for j in range(4):
            if j != i:
                w = w * (t - (left + j)) / (i - j)
        np.add.at(out, (rows, (left + i) % n), w)
    return torch.as_tensor(out)


def _fourier_matrix(t: np.ndarray, n: int) -> np.ndarray:
    """Periodic cardinal functions of `n` points at `t`."""
    d = t[:, None] - np.arange(n)[None, :]
    k = np.arange(1, (n - 1) // 2 + 1)
    out = 1 + 2 * np.cos(2 * np.pi * d[..., None] * k / n).sum(-1)
    if n % 2 == 0:
        out = out + np.cos(np.pi * d)
    return out / n


def apply_axes(u: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Apply a matrix along each of the last axes of `u`; None leaves an axis alone."""
    dim = len(matrices)
    for d, m in enumerate(matrices):
        if m is None:
            continue
        axis = u.ndim - dim + d
        u = torch.tensordot(u, m.to(u), dims=([axis], [1])).movedim(-1, axis)
    return u


def resample(
    f: Tensor,
    grid_from: Grid,
    grid_to: Grid | np.ndarray | Tensor,
    method: Method = "linear",
) -> Tensor:
    """Values of a field at other points of its domain.

    Interpolates between the coordinates that the grids really have: `torch`'s
    ``interpolate`` knows only vertex (``align_corners=True``) or cell grids.

    Parameters
    ----------
    f : Tensor, shape (..., *grid_from.shape)
    grid_from : Grid
    grid_to : Grid, or points (Q, D)
        A periodic axis repeats; beyond the ends of another the nearest value counts.
    method : {"linear", "cubic", "fourier"}
        ``"fourier"`` on periodic axes, cubic on the others.

    Returns
    -------
    Tensor, shape (..., *grid_to.shape) or (..., Q)

    Raises
    ------
    ValueError
        Shape, number of axes or method that does not fit.
    """
    if method not in ("linear", "cubic", "fourier"):
        raise ValueError(f"method={method!r}: allowed are linear, cubic, fourier")
    if tuple(f.shape[f.ndim - grid_from.dim :]) != grid_from.shape:
        raise ValueError(f"f has shape {tuple(f.shape)}, expected (..., {grid_from.shape})")
    how = [_axis_method(a, method) for a in grid_from.axes]
    if isinstance(grid_to, Grid):
        if grid_to.dim != grid_from.dim:
            raise ValueError(f"grid_to has {grid_to.dim} axes, grid_from {grid_from.dim}")
        pairs = zip(grid_from.axes, grid_to.axes, how, strict=True)
        return apply_axes(f, [None if a == b else axis_matrix(a, b, m) for a, b, m in pairs])
    points = np.asarray(grid_to.detach().cpu() if isinstance(grid_to, Tensor) else grid_to)
    if points.ndim != 2 or points.shape[1] != grid_from.dim:
        raise ValueError(f"points have shape {points.shape}, expected (Q, {grid_from.dim})")
    # one axis after the other, each for all points: the products of rows
    out: Tensor | None = None
    letters = "xyz"[: grid_from.dim]
    rows = [
        axis_matrix.__wrapped__(a, tuple(points[:, d].tolist()), m).to(f)
        for d, (a, m) in enumerate(zip(grid_from.axes, how, strict=True))
    ]
    out = torch.einsum(f"...{letters},{','.join('q' + c for c in letters)}->...q", f, *rows)
    return out


def _axis_method(axis: Axis, method: Method) -> Method:
    return "cubic" if method == "fourier" and not axis.periodic else method


def as_geometry(geometry: Any, reference: Geometry) -> Geometry:
    """Check what a caller gives as a grid or points."""
    if isinstance(geometry, Grid | Mesh):
        return geometry
    raise ValueError(
        f"grid={geometry!r}: need a solvers.grids.Grid or a solvers.meshes.Mesh, as the reference "
        f"({type(reference).__name__})"
    )
