"""Where functions are given and where outputs are asked for: points, weights, interpolation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from solvers.meshes import Mesh

from ..errors import UsageError

if TYPE_CHECKING:
    import scipy.sparse as sp

    from pde_data.hdf5 import DatasetSchema

__all__ = [
    "Coordinate",
    "MeshLocator",
    "PointSet",
    "axis_weights",
    "farthest_points",
    "mesh_of",
    "spread",
]


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of the points that a model is asked at.

    Parameters
    ----------
    name, units : str
    lower, upper : float
        Of the domain; models see it scaled to [-1, 1].
    role : {"space", "time", "axis"}
    periodic : bool
    values : tuple of float
        Along this axis where the points are a product of axes, else empty.
    weights : tuple of float
        Quadrature weights of `values`.
    """

    name: str
    units: str
    lower: float
    upper: float
    role: Literal["space", "time", "axis"] = "space"
    periodic: bool = False
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`, of JSON types."""
        return cls(**{**d, "values": tuple(d["values"]), "weights": tuple(d["weights"])})

    @property
    def n(self) -> int:
        """Stored values."""
        return len(self.values)


def axis_weights(x: np.ndarray) -> np.ndarray:
    """Trapezoidal weights of increasing coordinates."""
    if len(x) == 1:
        return np.ones(1)
    half = np.diff(x) / 2
    return np.append(half, 0.0) + np.append(0.0, half)


@dataclass(frozen=True, eq=False)
class PointSet:
    """Points that all samples share: a product of axes, or a mesh times the axis of time.

    Parameters
    ----------
    coordinates : tuple of Coordinate
        In the order that models see: space or other axes first, time last.
    mesh : Mesh, optional
        Of the coordinates with role space, which then have no values.
    """

    coordinates: tuple[Coordinate, ...]
    mesh: Mesh | None = None

    @property
    def _axes(self) -> list[int]:
        """Coordinates that are axes, in the order in which stored arrays run: time first."""
        own = [k for k, c in enumerate(self.coordinates) if c.values]
        return sorted(own, key=lambda k: self.coordinates[k].role != "time")

    @cached_property
    def points(self) -> np.ndarray:
        """Float64, shape (N, d)."""
        axes = [np.array(self.coordinates[k].values) for k in self._axes]
        shape = tuple(len(a) for a in axes)
        size = 1 if self.mesh is None else self.mesh.n_points
        out = np.empty((*shape, size, len(self.coordinates)))
        for position, (k, a) in enumerate(zip(self._axes, axes, strict=True)):
            where = [1] * (len(shape) + 1)
            where[position] = len(a)
            out[..., k] = a.reshape(where)
        if self.mesh is not None:
            space = [k for k, c in enumerate(self.coordinates) if not c.values]
            for j, k in enumerate(space):
                out[..., k] = self.mesh.points[:, j]
        return out.reshape(-1, len(self.coordinates))

    @cached_property
    def weights(self) -> np.ndarray:
        """Quadrature weights, float64, shape (N,); they add up to 1."""
        out = np.ones(1)
        for k in self._axes:
            out = np.multiply.outer(out, np.array(self.coordinates[k].weights)).ravel()
        if self.mesh is not None:
            out = np.multiply.outer(out, self.mesh.point_weights).ravel()
        return np.asarray(out / out.sum())

    def __len__(self) -> int:
        return len(self.points)

    def interpolation(self, y: np.ndarray) -> sp.csr_array:
        """Matrix (Q, N) of linear interpolation from these points to `y`, shape (Q, d).

        Linear in cells of meshes of simplices and multilinear along axes; outside the nearest
        value on the boundary is taken, across a seam the function goes on.
        """
        import scipy.sparse as sp

        rows = np.arange(len(y))
        index, weight = np.zeros((len(y), 1), np.int64), np.ones((len(y), 1))
        for k in self._axes:
            c = self.coordinates[k]
            j, w = _bracket(c, y[:, k])
            index, weight = _combine(index, weight, c.n, j, w)
        if self.mesh is not None:
            space = [k for k, c in enumerate(self.coordinates) if not c.values]
            j, w = MeshLocator(self.mesh).weights(y[:, space])
            index, weight = _combine(index, weight, self.mesh.n_points, j, w)
        width = index.shape[1]
        return sp.csr_array(
            (weight.ravel(), (np.repeat(rows, width), index.ravel())), shape=(len(y), len(self))
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        from dataclasses import asdict

        out: dict[str, Any] = {"coordinates": [asdict(c) for c in self.coordinates], "mesh": None}
        if (m := self.mesh) is not None:
            names = ("points", "point_weights", "connectivity", "cell_offsets", "cell_types")
            out["mesh"] = {n: getattr(m, n).tolist() for n in names} | {"units": m.units}
        return out

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""
        mesh = None
        if (m := d["mesh"]) is not None:
            mesh = Mesh(
                np.array(m["points"]),
                np.array(m["point_weights"]),
                np.array(m["connectivity"]),
                np.array(m["cell_offsets"]),
                np.array(m["cell_types"]),
                m["units"],
            )
        return cls(tuple(map(Coordinate.from_dict, d["coordinates"])), mesh)


def _combine(
    index: np.ndarray, weight: np.ndarray, n: int, j: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Product of two sets of neighbors."""
    both = index[:, :, None] * n + j[:, None, :]
    return both.reshape(len(j), -1), (weight[:, :, None] * w[:, None, :]).reshape(len(j), -1)


def _bracket(c: Coordinate, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbors of `x` along an axis and their weights, each (Q, 2)."""
    values = np.array(c.values)
    if c.n == 1:
        return np.zeros((len(x), 1), np.int64), np.ones((len(x), 1))
    order = np.arange(c.n)
    if c.periodic:
        period = c.upper - c.lower
        x = values[0] + np.mod(x - values[0], period)
        values, order = np.append(values, values[0] + period), np.append(order, 0)
    right = np.clip(np.searchsorted(values, x, side="right"), 1, len(values) - 1)
    part = (x - values[right - 1]) / (values[right] - values[right - 1])
    part = np.clip(part, 0.0, 1.0)
    return np.stack([order[right - 1], order[right]], 1), np.stack([1 - part, part], 1)


class MeshLocator:
    """Linear interpolation on a mesh of simplices; on others, and outside, the nearest point.

    Parameters
    ----------
    mesh : Mesh
    """

    def __init__(self, mesh: Mesh) -> None:
        from scipy.spatial import cKDTree

        self.mesh = mesh
        blocks = [c for code, c in mesh.blocks() if code in (3, 5, 10)]
        self.cells = None
        if len(blocks) == 1 and blocks[0].shape[1] == mesh.dim + 1:
            self.cells = blocks[0]
            corners = mesh.points[self.cells]
            self._origin = corners[:, 0]
            self._inverse = np.linalg.inv(np.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2))
            self._centers = cKDTree(corners.mean(1))
        self._points = cKDTree(mesh.points)

    def locate(self, x: np.ndarray, *, most: int = 24) -> tuple[np.ndarray, np.ndarray]:
        """Cell of each point and barycentric weights; -1 where it lies in none.

        Of the `most` cells with the nearest centers.
        """
        assert self.cells is not None
        found = np.full(len(x), -1)
        weights = np.zeros((len(x), self.cells.shape[1]))
        most = min(most, len(self.cells))
        for start in range(0, len(x), 2**16):
            part = slice(start, start + 2**16)
            _, near = self._centers.query(x[part], k=most)
            near = np.asarray(near).reshape(-1, most)
            rest = x[part][:, None] - self._origin[near]
            local = np.einsum("qkij,qkj->qki", self._inverse[near], rest)
            all_weights = np.concatenate([1 - local.sum(-1, keepdims=True), local], -1)
            worst = all_weights.min(-1)
            best = worst.argmax(1)
            rows = np.arange(len(best))
            inside = worst[rows, best] >= -1e-9
            found[part] = np.where(inside, near[rows, best], -1)
            weights[part] = np.where(inside[:, None], all_weights[rows, best], 0.0)
        return found, weights

    def weights(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neighbors of `x` and their weights, each (Q, k); outside the nearest point."""
        _, nearest = self._points.query(x)
        if self.cells is None:
            return np.asarray(nearest)[:, None], np.ones((len(x), 1))
        cell, weight = self.locate(x)
        index = self.cells[cell]
        outside = cell < 0
        index[outside] = np.asarray(nearest)[outside, None]
        weight[outside] = 1.0 / index.shape[1]
        return index, weight

    def inside(self, x: np.ndarray) -> np.ndarray:
        """Whether the points lie in the domain; of a point cloud, near one of its points."""
        if self.cells is not None:
            return np.asarray(self.locate(x)[0] >= 0)
        size = (self.mesh.measure / self.mesh.n_points) ** (1 / self.mesh.dim)
        return np.asarray(self._points.query(x)[0] <= size)


def mesh_of(mesh: Mesh, location: str) -> Mesh:
    """Mesh whose points carry the values: itself, or the cloud of its cells' centers."""
    if location != "cell":
        return mesh
    centers = np.zeros((mesh.n_cells, mesh.dim))
    assert mesh.connectivity is not None and mesh.cell_offsets is not None
    sizes = np.diff(mesh.cell_offsets)
    np.add.at(centers, np.repeat(np.arange(mesh.n_cells), sizes), mesh.points[mesh.connectivity])
    return Mesh(centers / sizes[:, None], mesh.cell_measures(), units=mesh.units)


def spread(n: int, count: int) -> np.ndarray:
    """`count` of `n` positions, ends included, as evenly as they lie."""
    return np.unique(np.linspace(0, n - 1, count).round().astype(np.int64))


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """`count` points spread over a cloud: each is the farthest from those before it."""
    chosen = [int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))]
    distance = ((points - points[chosen[0]]) ** 2).sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1), out=distance)
    return np.sort(np.array(chosen))


def lattice_shape(count: int, dim: int) -> tuple[int, ...]:
    """Shape of a lattice of at most `count` points."""
    n = max(1, math.floor(count ** (1 / dim) + 1e-9))
    return (n,) * dim


def output_coordinates(
    schema: DatasetSchema, names: Sequence[str]
) -> tuple[tuple[Coordinate, ...], str, bool]:
    """Coordinates of the outputs.

    Returns
    -------
    tuple of Coordinate
        On meshes the space coordinates have no values, and no bounds yet.
    str
        Location of the outputs on a mesh.
    bool
        Whether the last axis of the stored arrays are the components of a state.
    """
    kinds = {_kind(schema, n) for n in names}
    if len(kinds) > 1:
        listed = ", ".join(f"{n} on {_kind(schema, n)[0] or 'time'}" for n in names)
        raise UsageError(f"the outputs lie on different axes ({listed}): the points task needs one")
    ((axes, location, labelled, moves),) = kinds
    grid = {a.name: a for a in schema.grid.axes}
    extra = {a.name: a for a in schema.axes}
    out = []
    for name in axes:
        if name in grid:
            g = grid[name]
            out.append(
                Coordinate(
                    name, g.units, g.lower, g.upper, "space", g.periodic,
                    tuple(g.coords.tolist()), tuple(g.weights.tolist()),
                )
            )  # fmt: skip
        elif name in extra:
            x = np.array(extra[name].coords)
            low, high = (float(x[0]), float(x[-1])) if len(x) > 1 else (x[0] - 0.5, x[0] + 0.5)
            out.append(
                Coordinate(
                    name, extra[name].units, low, high, "axis", False,
                    tuple(x.tolist()), tuple(axis_weights(x).tolist()),
                )
            )  # fmt: skip
        else:  # a direction of space on a mesh
            units = schema.mesh.units if schema.mesh is not None else "m"
            out.append(Coordinate(name, units, -math.inf, math.inf))
    if moves:
        t = np.array(schema.time)
        if not schema.time_per_sample and len(t) < 2:
            raise UsageError("the outputs change in time, but one time is stored")
        values = () if schema.time_per_sample else tuple(t.tolist())
        weights = () if schema.time_per_sample else tuple(axis_weights(t).tolist())
        out.append(
            Coordinate(
                "time", schema.time_units, float(t[0]), float(t[-1]), "time", False, values, weights
            )
        )
    if not out:
        raise UsageError(f"output {names[0]!r} is a number: the points task learns functions")
    return tuple(out), location, labelled


def _kind(schema: DatasetSchema, name: str) -> tuple[tuple[str, ...], str, bool, bool]:
    """Axes of an output, its location on a mesh, whether its last axis are components, time."""
    f = next((f for f in schema.fields if f.name == name), None)
    if f is None:
        raise UsageError(f"output {name!r} is a number: the points task learns functions")
    if f.dims is not None:
        dims = f.dims[:-1] if f.labels else f.dims
        return dims, "", bool(f.labels), f.time_varying
    if schema.layout in ("mesh", "ragged"):
        directions = ("x", "y", "z")[: schema.dim]
        return directions, "cell" if f.location == "cell" else "point", False, f.time_varying
    if f.dim_varying is not None and not all(f.dim_varying):
        raise UsageError(f"output {name!r} does not vary along all axes of the grid")
    return tuple(a.name for a in schema.grid.axes), "", False, f.time_varying


@dataclass(frozen=True)
class Function:
    """One input: a function at sensors, or a number.

    Parameters
    ----------
    name, long_name, units : str
    channels : int
        Components at a sensor.
    axes : tuple of tuple of float
        Coordinates of the sensors where they are a product of axes.
    points : tuple of tuple of float
        Where they are scattered.
    lattice : bool
        The values are interpolated to the sensors on each sample's own mesh; a last channel is 1
        inside its domain and 0 outside, where the others are 0.
    """

    name: str
    long_name: str = ""
    units: str = "1"
    channels: int = 1
    axes: tuple[tuple[float, ...], ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    lattice: bool = False
    axis_names: tuple[str, ...] = field(default=())

    @property
    def shape(self) -> tuple[int, ...]:
        """Sensors per axis; () for a number."""
        return (len(self.points),) if self.points else tuple(len(a) for a in self.axes)

    @property
    def size(self) -> int:
        """Numbers that a model sees."""
        return self.channels * math.prod(self.shape)

    @property
    def is_scalar(self) -> bool:
        """Whether it is a number."""
        return not self.axes and not self.points

    def sensor_points(self) -> np.ndarray:
        """Coordinates of the sensors, shape (m, d)."""
        if self.points:
            return np.array(self.points)
        if not self.axes:
            return np.zeros((1, 0))
        parts = np.meshgrid(*(np.array(a) for a in self.axes), indexing="ij")
        return np.stack([p.ravel() for p in parts], axis=1)
