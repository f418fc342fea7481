"""Plane domains and their triangulations: gmsh makes the mesh, the rest is numpy.

A `Domain` is bounded by loops, each a closed curve in pieces with a name. `triangulate` puts points
on the curves and lets gmsh fill the inside; `Triangulation.refined` halves every edge and
moves the new boundary points onto the curve, so that the points of the coarse mesh are the first
points of the fine one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..meshes import Mesh
from ..result import SolverUnavailable

__all__ = [
    "Domain",
    "Loop",
    "Triangulation",
    "channel",
    "circle",
    "closed_curve",
    "l_shape",
    "plate_with_holes",
    "polygon",
    "polygon_with_holes",
    "rectangle",
    "triangle",
    "triangle_with_notch",
    "triangulate",
]

_lock = threading.Lock()  # gmsh has one model a process


@dataclass(frozen=True, eq=False)
class Loop:
    """A closed curve ``x(s)``, s from 0 to the number of its pieces.

    Parameters
    ----------
    curve : callable
        Parameter, shape (n,), to points, shape (n, 2); pieces meet at integers.
    names : tuple of str
        Of the pieces; equal names make one part of the boundary.
    straight : bool
        The pieces are straight: no more points than the mesh size asks for.
    fineness : float
        Mesh size on the loop, as a factor of the domain's.
    """

    curve: Callable[[np.ndarray], np.ndarray]
    names: tuple[str, ...]
    straight: bool = True
    fineness: float = 1.0

    def parameters(self, size: float) -> np.ndarray:
        """Parameters of points at most `size` apart (curved loops: along the curve), shape (n,)."""
        out = []
        size *= self.fineness
        for k in range(len(self.names)):
            fine = k + np.linspace(0.0, 1.0, 2 if self.straight else 401)
            steps = np.linalg.norm(np.diff(self.curve(fine), axis=0), axis=1)
            length = np.concatenate([[0.0], np.cumsum(steps)])
            least = 1 if self.straight else 8
            n = max(math.ceil(length[-1] / size - 1e-9), least)
            out.append(np.interp(np.arange(n) / n * length[-1], length, fine))
        return np.concatenate(out)


@dataclass(frozen=True, eq=False)
class Domain:
    """The inside of one loop, less the insides of others.

    Parameters
    ----------
    outer : Loop
    holes : tuple of Loop
        Inside of `outer`, apart from each other.
    """

    outer: Loop
    holes: tuple[Loop, ...] = ()

    @property
    def loops(self) -> tuple[Loop, ...]:
        """All loops, the outer one first."""
        return (self.outer, *self.holes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the parts of the boundary, in the order of their first piece."""
        return tuple(dict.fromkeys(n for loop in self.loops for n in loop.names))

    @cached_property
    def bounds(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Smallest box around the domain: one (lower, upper) pair an axis."""
        s = np.linspace(0, len(self.outer.names), 1 + 64 * len(self.outer.names))
        x = self.outer.curve(s)
        (x0, y0), (x1, y1) = x.min(axis=0).tolist(), x.max(axis=0).tolist()
        return (x0, x1), (y0, y1)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Whether points, shape (n, 2), lie inside; curved pieces taken as 256 chords each."""
        inside = np.ones(len(points), bool)
        for k, loop in enumerate(self.loops):
            m = len(loop.names)
            s = np.arange(m * (1 if loop.straight else 256)) / (1 if loop.straight else 256)
            within = _in_polygon(points, loop.curve(s))
            inside &= within if k == 0 else ~within
        return inside


def _in_polygon(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    x, y = points[:, 0], points[:, 1]
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 <= y) != (y1 <= y)
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


# -- loops ---------------------------------------------------------------------------------------


def polygon(
    corners: Sequence[Sequence[float]] | np.ndarray,
    *,
    names: str | Sequence[str] = "boundary",
    fineness: float = 1.0,
) -> Loop:
    """Make a closed polygon; side k runs from corner k to the next.

    Parameters
    ----------
    corners : ndarray, shape (n, 2)
    names : str or sequence of str
        One name for all sides, or one a side.
    fineness : float
        Mesh size on the loop, as a factor of the domain's.
    """
    x = np.asarray(corners, np.float64)
    if x.ndim != 2 or x.shape[1] != 2 or len(x) < 3 or not np.isfinite(x).all():
        raise ValueError(f"corners have shape {x.shape}, expected (n, 2), n >= 3, finite")
    sides = (names,) * len(x) if isinstance(names, str) else tuple(names)
    if len(sides) != len(x):
        raise ValueError(f"names: {len(sides)} for {len(x)} sides")

    def curve(s: np.ndarray) -> np.ndarray:
        k = np.minimum(np.floor(s).astype(int), len(x) - 1)
        t = (s - k)[:, None]
        return (1 - t) * x[k] + t * x[(k + 1) % len(x)]

    return Loop(curve, sides, fineness=fineness)


def closed_curve(
    curve: Callable[[np.ndarray], np.ndarray], *, name: str = "hole", fineness: float = 1.0
) -> Loop:
    """Smooth closed curve: parameter in [0, 1], shape (n,), to points, shape (n, 2)."""
    return Loop(lambda s: curve(np.mod(s, 1.0)), (name,), straight=False, fineness=fineness)


def circle(
    center: tuple[float, float], radius: float, *, name: str = "hole", fineness: float = 1.0
) -> Loop:
    """Return a circle."""
    if not radius > 0:
        raise ValueError(f"radius={radius}: need a positive number")
    return closed_curve(
        lambda s: (
            np.asarray(center)
            + radius * np.stack([np.cos(2 * np.pi * s), np.sin(2 * np.pi * s)], axis=1)
        ),
        name=name,
        fineness=fineness,
    )


# -- domains -------------------------------------------------------------------------------------


def rectangle(
    lower: tuple[float, float] = (0.0, 0.0), upper: tuple[float, float] = (1.0, 1.0)
) -> Domain:
    """Rectangle with sides ``bottom``, ``right``, ``top``, ``left``."""
    return plate_with_holes((), lower=lower, upper=upper)


def plate_with_holes(
    holes: Sequence[Loop],
    *,
    lower: tuple[float, float] = (0.0, 0.0),
    upper: tuple[float, float] = (1.0, 1.0),
) -> Domain:
    """Rectangle with sides ``bottom``, ``right``, ``top``, ``left``, and holes."""
    (x0, y0), (x1, y1) = lower, upper
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"lower={lower}, upper={upper}: need lower < upper in both directions")
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return Domain(polygon(corners, names=("bottom", "right", "top", "left")), tuple(holes))


def channel(length: float, height: float, obstacles: Sequence[Loop]) -> Domain:
    """Channel (0, length) x (0, height): ``inlet`` left, ``outlet`` right, ``wall``, obstacles."""
    corners = [(0.0, 0.0), (length, 0.0), (length, height), (0.0, height)]
    return Domain(polygon(corners, names=("wall", "outlet", "wall", "inlet")), tuple(obstacles))


def triangle() -> Domain:
    """Equilateral triangle over the side from (0, 0) to (1, 0); its boundary is ``outer``."""
    return Domain(polygon([(0, 0), (1, 0), (0.5, math.sqrt(3) / 2)], names="outer"))


def triangle_with_notch(width: float = 0.02, depth: float = 0.4) -> Domain:
    """Equilateral triangle with a slit from below: ``outer`` and ``notch``."""
    if not (0 < width < 0.5 and 0 < depth < 0.6):
        raise ValueError(f"width={width}, depth={depth}: need 0 < width < 0.5, 0 < depth < 0.6")
    left, right = 0.5 - width / 2, 0.5 + width / 2
    corners = [
        (0, 0), (left, 0), (left, depth), (right, depth), (right, 0), (1, 0),
        (0.5, math.sqrt(3) / 2),
    ]  # fmt: skip
    names = ("outer", "notch", "notch", "notch", "outer", "outer", "outer")
    return Domain(polygon(corners, names=names))


def l_shape() -> Domain:
    """Take the unit square less its upper right quarter; its boundary is ``outer``."""
    corners = [(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)]
    return Domain(polygon(corners, names="outer"))


def polygon_with_holes(
    corners: Sequence[Sequence[float]] | np.ndarray, holes: Sequence[np.ndarray] = ()
) -> Domain:
    """Polygon ``outer`` with polygonal holes ``hole``."""
    return Domain(polygon(corners, names="outer"), tuple(polygon(h, names="hole") for h in holes))


# -- triangulations ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Triangulation:
    """Triangles and the parts of their boundary.

    Attributes
    ----------
    domain : Domain
    points : ndarray, shape (n, 2)
    cells : ndarray, int64, shape (m, 3)
        Counterclockwise.
    facets : ndarray, int64, shape (k, 2)
        Boundary edges.
    markers : ndarray, int32, shape (k,)
        Of each facet: place of its name in ``domain.names``.
    loops : ndarray, int64, shape (k,)
        Loop that the facet lies on.
    parameters : ndarray, shape (k, 2)
        Parameters of its ends on the loop's curve.
    """

    domain: Domain
    points: np.ndarray
    cells: np.ndarray
    facets: np.ndarray
    markers: np.ndarray
    loops: np.ndarray
    parameters: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts of the boundary."""
        return self.domain.names

    @cached_property
    def areas(self) -> np.ndarray:
        """Areas of the triangles, shape (m,)."""
        a, b, c = (self.points[self.cells[:, k]] for k in range(3))
        return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])

    @property
    def size(self) -> float:
        """Mesh size: side of an equilateral triangle of the mean area."""
        return math.sqrt(4 / math.sqrt(3) * float(self.areas.mean()))

    def mesh(self, *, degree: int = 1, units: str = "m") -> Mesh:
        """Points, cells in VTK's numbering and quadrature weights.

        Parameters
        ----------
        degree : {1, 2}
            1: the corners, weights lumped. 2: then the middles of the edges too, in the order of
            `edges`; lumped on the four triangles that they make of each.
        """
        if degree == 1:
            return Mesh.simplices(self.points, self.cells, units=units)
        if degree != 2:
            raise ValueError(f"degree={degree}: allowed are 1 and 2")
        edges, of_cell = self.edges
        n = len(self.points)
        points = np.concatenate([self.points, self.points[edges].mean(axis=1)])
        # VTK: corners, then the middles of (0, 1), (1, 2), (2, 0)
        cells = np.concatenate([self.cells, n + of_cell[:, [2, 0, 1]]], axis=1)
        share = np.repeat([1 / 12, 1 / 4], 3) * self.areas[:, None]
        weights = np.bincount(cells.ravel(), share.ravel(), minlength=len(points))
        m = len(cells)
        return Mesh(
            points, weights, cells.ravel(), np.arange(m + 1) * 6, np.full(m, 69, np.uint8), units
        )

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of all edges, shape (e, 2), lower number first; and those of each cell.

        The cells' edges have shape (m, 3); edge k lies opposite corner k.
        """
        pairs = np.sort(self.cells[:, [[1, 2], [0, 2], [0, 1]]].reshape(-1, 2), axis=1)
        edges, index = np.unique(pairs, axis=0, return_inverse=True)
        return edges, index.reshape(-1, 3)

    def refined(self) -> Triangulation:
        """Halve every edge: four times the triangles, the same points first.

        New points on a curved boundary go onto the curve.
        """
        edges, of_cell = self.edges
        n = len(self.points)
        middle = self.points[edges].mean(axis=1)
        keys = edges[:, 0] * n + edges[:, 1]
        pairs = np.sort(self.facets, axis=1)
        place = np.searchsorted(keys, pairs[:, 0] * n + pairs[:, 1])
        half = self.parameters.mean(axis=1)
        for k, loop in enumerate(self.domain.loops):
            here = self.loops == k
            if not loop.straight:
                middle[place[here]] = loop.curve(half[here])
        a, b, c = self.cells.T
        ea, eb, ec = (n + of_cell).T
        cells = np.stack(
            [a, ec, eb, ec, b, ea, eb, ea, c, ea, eb, ec], axis=1
        ).reshape(-1, 3)  # fmt: skip
        new = n + place
        facets = np.stack([self.facets[:, 0], new, new, self.facets[:, 1]], axis=1).reshape(-1, 2)
        ends = np.stack([self.parameters[:, 0], half, half, self.parameters[:, 1]], axis=1)
        return _checked(
            Triangulation(
                self.domain, np.concatenate([self.points, middle]), cells, facets,
                np.repeat(self.markers, 2), np.repeat(self.loops, 2), ends.reshape(-1, 2),
            )
        )  # fmt: skip

    def moved(self, map_points: Callable[[np.ndarray], np.ndarray]) -> Triangulation:
        """Return the same cells with mapped points, shape (n, 2) to (n, 2)."""
        return _checked(replace(self, points=map_points(self.points)))


def _checked(t: Triangulation) -> Triangulation:
    if not (t.areas > 0).all():
        raise ValueError(
            f"{int((t.areas <= 0).sum())} triangles are turned over: the mesh is too coarse for "
            "the curves of its boundary"
        )
    return t


def triangulate(domain: Domain, size: float) -> Triangulation:
    """Mesh a domain with gmsh.

    Parameters
    ----------
    domain : Domain
    size : float
        Length of the edges, in the units of the domain.

    Raises
    ------
    ValueError
        `size` is not positive, or loops cross.
    SolverUnavailable
        gmsh is missing; says what to install.

    Notes
    -----
    The same domain and size give the same mesh, in every process.

    Examples
    --------
    >>> t = triangulate(l_shape(), 1 / 8)  # doctest: +SKIP
    >>> round(float(t.areas.sum()), 12)  # doctest: +SKIP
    0.75
    """
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"size={size}: need a positive number")
    try:
        import gmsh
    except (ImportError, OSError) as err:  # OSError: a system library that gmsh links is missing
        raise SolverUnavailable(f"meshing needs gmsh ({err}): pip install 'opkit[fem]'") from err

    points, facets, markers, loops, ends, count = [], [], [], [], [], 0
    for k, loop in enumerate(domain.loops):
        s = loop.parameters(size)
        n = len(s)
        following = np.append(s[1:], float(len(loop.names)))
        number = count + np.arange(n)
        points.append(loop.curve(s))
        facets.append(np.stack([number, np.roll(number, -1)], axis=1))
        piece = np.minimum(np.floor(s + 1e-9).astype(int), len(loop.names) - 1)
        code = np.array([domain.names.index(name) for name in loop.names], np.int32)
        markers.append(code[piece])
        loops.append(np.full(n, k))
        ends.append(np.stack([s, following], axis=1))
        count += n
    x, edges = np.concatenate(points), np.concatenate(facets)
    _check_apart(points)

    with _lock:
        mine = not gmsh.isInitialized()
        if mine:
            gmsh.initialize(readConfigFiles=False, interruptible=False)
        before = None if mine else gmsh.model.getCurrent()
        try:
            for option, value in (
                ("General.Terminal", 0), ("General.NumThreads", 1), ("Mesh.RandomSeed", 1),
                ("Mesh.Algorithm", 6), ("Mesh.MeshSizeExtendFromBoundary", 1),
                ("Mesh.ElementOrder", 1),
            ):  # fmt: skip
                gmsh.option.setNumber(option, value)
            gmsh.model.add("opkit")
            geo = gmsh.model.geo
            for i, (px, py) in enumerate(x.tolist()):
                geo.addPoint(px, py, 0.0, tag=i + 1)
            for i, (a, b) in enumerate((edges + 1).tolist()):
                geo.addLine(a, b, tag=i + 1)
                geo.mesh.setTransfiniteCurve(i + 1, 2)
            first, rings = 1, []
            for p in points:
                rings.append(geo.addCurveLoop(list(range(first, first + len(p)))))
                first += len(p)
            surface = geo.addPlaneSurface(rings)
            geo.synchronize()
            gmsh.model.mesh.generate(2)
            tags, coords, _ = gmsh.model.mesh.getNodes()
            _, _, nodes = gmsh.model.mesh.getElements(2, surface)
            corner = [
                int(gmsh.model.mesh.getNodes(0, i + 1)[0][0]) for i in range(count)
            ]  # node of each boundary point
        except Exception as err:
            raise ValueError(f"gmsh cannot mesh the domain with size={size}: {err}") from err
        finally:
            gmsh.model.remove()
            if mine:
                gmsh.finalize()
            elif before:
                gmsh.model.setCurrent(before)
    lookup = np.zeros(int(tags.max()) + 1, np.int64)
    inner = np.setdiff1d(tags.astype(np.int64), corner)
    lookup[corner] = np.arange(count)
    lookup[inner] = count + np.arange(len(inner))
    xy = np.empty((len(tags), 2))
    xy[lookup[tags.astype(np.int64)]] = coords.reshape(-1, 3)[:, :2]
    xy[:count] = x
    cells = lookup[nodes[0].astype(np.int64).reshape(-1, 3)]
    t = Triangulation(
        domain, xy, cells, edges, np.concatenate(markers), np.concatenate(loops),
        np.concatenate(ends),
    )  # fmt: skip
    flipped = t.areas < 0
    if flipped.any():  # a clockwise outer loop
        cells = np.where(flipped[:, None], cells[:, ::-1], cells)
        t = replace(t, cells=cells)
    return _checked(t)


def _check_apart(loops: list[np.ndarray]) -> None:
    """Holes lie inside the outer loop and outside each other."""
    for k, hole in enumerate(loops[1:], 1):
        if not _in_polygon(hole, loops[0]).all():
            raise ValueError(f"hole {k} is not inside the outer boundary")
        for j in range(1, k):
            if _in_polygon(hole, loops[j]).any() or _in_polygon(loops[j], hole).any():
                raise ValueError(f"holes {j} and {k} overlap")
