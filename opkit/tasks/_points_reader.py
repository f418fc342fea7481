"""Functions at sensors and outputs at points, read from datasets of any layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ._points_geometry import (
    Coordinate,
    Function,
    MeshLocator,
    PointSet,
    farthest_points,
    lattice_shape,
    mesh_of,
    output_coordinates,
    spread,
)

if TYPE_CHECKING:
    from pde_data.hdf5 import DatasetSchema, Split

    from .points import PointsTask

__all__ = ["Reader", "describe_function", "shared_points"]

#: Points per axis of the lattice that functions on meshes of their own are interpolated to.
LATTICE = {1: 64, 2: 24, 3: 12}


def shared_points(
    schema: DatasetSchema, names: Sequence[str]
) -> tuple[tuple[Coordinate, ...], PointSet | None, bool]:
    """Coordinates of the outputs, their points if all samples share them, and labelled or not."""
    coordinates, location, labelled = output_coordinates(schema, names)
    on_mesh = any(not c.values and c.role == "space" for c in coordinates)
    if schema.time_per_sample and any(c.role == "time" for c in coordinates):
        return coordinates, None, labelled
    if schema.layout == "ragged" and on_mesh:
        return coordinates, None, labelled
    mesh = None
    if on_mesh:
        assert schema.mesh is not None
        mesh = mesh_of(schema.mesh, location)
        low, high = mesh.points.min(0), mesh.points.max(0)
        coordinates = bounded(coordinates, low, high)
    return coordinates, PointSet(coordinates, mesh), labelled


def bounded(
    coordinates: tuple[Coordinate, ...], low: np.ndarray, high: np.ndarray
) -> tuple[Coordinate, ...]:
    """Give the space coordinates of a mesh their bounds."""
    bounds = iter(zip(low.tolist(), high.tolist(), strict=True))
    out = []
    for c in coordinates:
        if c.role == "space" and not c.values:
            lower, upper = next(bounds)
            c = replace(c, lower=lower, upper=upper)
        out.append(c)
    return tuple(out)


def describe_function(
    schema: DatasetSchema,
    name: str,
    sensors: int | None,
    box: tuple[np.ndarray, np.ndarray] | None,
) -> Function:
    """Sensors of one input.

    Parameters
    ----------
    sensors : int, optional
        At most so many; default all points.
    box : pair of ndarray, optional
        Bounds of the domain, of layout ``"ragged"``.

    Raises
    ------
    UsageError
        More sensors than there are points.
    """
    f = next((f for f in schema.fields if f.name == name), None)
    if f is None:
        s = next(s for s in schema.scalars if s.name == name)
        return Function(name, s.long_name, s.units)
    components = schema.dim**f.rank
    base = Function(name, f.long_name, f.units, components)
    if f.dims is None and schema.layout == "ragged":
        assert box is not None
        dim = schema.dim
        shape = (LATTICE[dim],) * dim if sensors is None else lattice_shape(sensors, dim)
        lines = zip(*box, shape, strict=True)
        axes = tuple(tuple(np.linspace(a, b, n).tolist()) for a, b, n in lines)
        names = ("x", "y", "z")[:dim]
        return replace(base, channels=components + 1, axes=axes, lattice=True, axis_names=names)
    if f.dims is None and schema.layout == "mesh":
        assert schema.mesh is not None
        points = mesh_of(schema.mesh, "cell" if f.location == "cell" else "point").points
        if sensors is not None:
            _check_count(name, sensors, len(points))
            points = points[farthest_points(points, sensors)]
        return replace(base, points=tuple(map(tuple, points.tolist())))
    lengths = {a.name: np.array(a.coords) for a in (*schema.axes, *schema.grid.axes)}
    if f.dims is not None:
        dims = f.dims[:-1] if f.labels else f.dims
        base = replace(base, channels=len(f.labels) if f.labels else 1)
    else:
        varying = f.dim_varying or (True,) * schema.grid.dim
        dims = tuple(a.name for a, v in zip(schema.grid.axes, varying, strict=True) if v)
    axes_values = [lengths[d] for d in dims]
    if sensors is not None and dims:
        total = math.prod(len(a) for a in axes_values)
        _check_count(name, sensors, total)
        counts = [sensors] if len(dims) == 1 else list(lattice_shape(sensors, len(dims)))
        axes_values = [
            a[spread(len(a), min(n, len(a)))] for a, n in zip(axes_values, counts, strict=True)
        ]
    return replace(base, axes=tuple(tuple(a.tolist()) for a in axes_values), axis_names=dims)


def _check_count(name: str, sensors: int, most: int) -> None:
    if sensors > most:
        raise UsageError(f"sensors={sensors}: input {name!r} is stored at {most} points")


def _positions(stored: np.ndarray, wanted: np.ndarray, name: str) -> np.ndarray:
    """Where the sensors lie among the stored points of an axis."""
    position = np.clip(np.searchsorted(stored, wanted), 0, len(stored) - 1)
    left = np.maximum(position - 1, 0)
    nearer = np.abs(stored[left] - wanted) < np.abs(stored[position] - wanted)
    position = np.where(nearer, left, position)
    scale = max(float(np.abs(stored).max()), float(np.ptp(stored)), 1e-300)
    gap = np.abs(stored[position] - wanted)
    if (gap > 1e-6 * scale).any():
        i = int(gap.argmax())
        raise UsageError(
            f"input {name!r} is not stored at the sensor {wanted[i]:g} that the model was trained "
            f"with (nearest {stored[position[i]]:g}); resample it first, see "
            "models.deeponet.resample_to_sensors"
        )
    return position


class Reader:
    """Arrays of a dataset for a task.

    Parameters
    ----------
    task : PointsTask
    schema : DatasetSchema
        Of the data, which may have other points than the training's.

    Raises
    ------
    UsageError
        An input is not given at the sensors.
    """

    def __init__(self, task: PointsTask, schema: DatasetSchema, *, outputs: bool = True) -> None:
        self.task, self.schema = task, schema
        self._pick: list[tuple[np.ndarray, ...] | None] = [
            self._selection(f) for f in task.functions
        ]
        self.shared: PointSet | None = None
        if outputs:
            names = [v.name for v in task.outputs]
            self.coordinates, self.shared, self.labelled = shared_points(schema, names)
            self.location = output_coordinates(schema, names)[1]

    def _selection(self, f: Function) -> tuple[np.ndarray, ...] | None:
        """Find the sensors along the axes of the stored array; None if all, in order."""
        schema = self.schema
        if f.is_scalar or f.lattice:
            return None
        if f.points:
            assert schema.mesh is not None
            from scipy.spatial import cKDTree

            stored = mesh_of(schema.mesh, self._location(f.name)).points
            wanted = np.array(f.points)
            if stored.shape == wanted.shape and np.array_equal(stored, wanted):
                return None
            gap, index = cKDTree(stored).query(wanted)
            if (gap > 1e-6 * np.ptp(stored, axis=0).max()).any():
                raise UsageError(
                    f"input {f.name!r} is not stored at the {len(wanted)} sensors that the model "
                    "was trained with: this data has another mesh"
                )
            return (np.asarray(index),)
        lengths = {a.name: np.array(a.coords) for a in (*schema.axes, *schema.grid.axes)}
        picks = []
        for name, values in zip(f.axis_names, f.axes, strict=True):
            picks.append(_positions(lengths[name], np.array(values), f.name))
        whole = all(
            np.array_equal(p, np.arange(len(lengths[n])))
            for p, n in zip(picks, f.axis_names, strict=True)
        )
        return None if whole else tuple(picks)

    def _location(self, name: str) -> str:
        return "cell" if self.schema.field(name).location == "cell" else "point"

    # -- inputs ----------------------------------------------------------------------------

    def functions(
        self, split: Split, indices: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Values at the sensors, (n, channels * sensors) each, channels first."""
        names = [f.name for f in self.task.functions]
        stored = {f.name for f in self.schema.fields if f.time_varying}
        static = [n for n in names if n not in stored]
        values = split.read(indices, static) if static else {}
        moving = [n for n in names if n in stored]
        if moving:  # as they are at first
            found = split.read(indices, moving, window=slice(0, 1))
            values |= {
                n: [a[0] for a in found[n]] if isinstance(found[n], list) else found[n][:, 0]
                for n in moving
            }
        out = []
        locators: dict[int, MeshLocator] = {}
        for f, pick in zip(self.task.functions, self._pick, strict=True):
            a = values[f.name]
            if f.lattice:
                rows = [
                    self._on_lattice(f, split, int(i), v, locators)
                    for i, v in zip(indices, a, strict=True)
                ]
                out.append(np.stack(rows))
                continue
            n = len(f.shape)
            a = np.asarray(a)
            a = a.reshape(*a.shape[: 1 + n], -1)
            if pick is not None:
                a = a[(slice(None), *np.ix_(*pick))]
            out.append(np.moveaxis(a, -1, 1).reshape(len(a), -1))
        return tuple(out)

    def _on_lattice(
        self, f: Function, split: Split, i: int, values: np.ndarray,
        locators: dict[int, MeshLocator],
    ) -> np.ndarray:  # fmt: skip
        if i not in locators:
            locators[i] = MeshLocator(mesh_of(split.mesh(i), self._location(f.name)))
        locator = locators[i]
        x = f.sensor_points()
        inside = locator.inside(x)
        index, weight = locator.weights(x)
        flat = np.asarray(values, np.float64).reshape(len(values), -1)
        at = np.einsum("qk,qkc->cq", weight, flat[index]) * inside
        return np.concatenate([at, inside[None].astype(np.float64)]).ravel()

    # -- outputs ---------------------------------------------------------------------------

    def outputs(self, split: Split, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read outputs at the shared points, (n, N, C)."""
        assert self.shared is not None
        names = [v.name for v in self.task.outputs]
        values = split.read(indices, names)
        n = len(self.shared)
        parts = [np.asarray(values[k]).reshape(len(values[k]), n, -1) for k in names]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def own(self, split: Split, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (N, d), weights (N,) that add up to 1 and outputs (N, C) of one sample."""
        if self.shared is not None:
            return self.shared.points, self.shared.weights, self.outputs(split, [i])[0]
        names = [v.name for v in self.task.outputs]
        values = split.read([i], names)
        points = self.points_of(split, i)
        parts = [np.asarray(values[k][0]).reshape(len(points), -1) for k in names]
        return points.points, points.weights, np.concatenate(parts, axis=1)

    def points_of(self, split: Split, i: int) -> PointSet:
        """Points of one sample."""
        if self.shared is not None:
            return self.shared
        coordinates = list(self.coordinates)
        for k, c in enumerate(coordinates):
            if c.role == "time" and self.schema.time_per_sample:
                t = split.times(i)
                from ._points_geometry import axis_weights

                coordinates[k] = replace(
                    c, values=tuple(t.tolist()), weights=tuple(axis_weights(t).tolist())
                )
        mesh = None
        if self.schema.layout in ("mesh", "ragged") and any(
            not c.values and c.role == "space" for c in coordinates
        ):
            mesh = mesh_of(split.mesh(i), self.location)
        return PointSet(tuple(coordinates), mesh)
