"""Problems on real geometries: what the finite-element problems share."""

from __future__ import annotations

import math
import weakref
from abc import abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from solvers.grids import Axis, Grid
from solvers.result import SolveResult

from ..fields import FieldSample
from ..hdf5.schema import DatasetSchema, ExtraAxis, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, Problem, Solution, richardson_factor

if TYPE_CHECKING:
    from solvers.fenicsx import Domain, Triangulation

__all__ = ["FemParameters", "FemProblem", "at_points", "hole_shape"]

Box = tuple[tuple[float, float], tuple[float, float]]


class FemParameters(Parameters):
    """Parameters of every finite-element problem."""

    sample_on: Literal["mesh", "grid"] = Field(
        "mesh",
        description="mesh: values at the points of the mesh; grid: values of the same solution on "
        "a regular grid over the box, and a field mask, 1 inside the domain and 0 outside, where "
        "the other fields are 0. The resolution then counts the grid's points per axis",
    )


class FemProblem(Problem):
    """A problem on a plane domain that gmsh meshes and DOLFINx solves on.

    A subclass says what the `domain` is, which `fields` live on it, and `compute`s them at the
    points of a mesh; this class makes meshes, layouts, grids and error estimates of it.

    The discretization error is estimated from the mesh with every edge halved (points of the
    boundary moved onto its curves), which keeps the points of the coarse mesh.
    """

    solvers: ClassVar[tuple[str, ...]] = ("fenicsx",)
    dim = 1
    default_resolution = 32
    min_resolution = 4
    resolution_counts: ClassVar[str] = "cells across the domain"
    params: Any
    #: One domain for all samples.
    fixed_domain: bool = True
    #: Stored times, for time-dependent problems.
    times: tuple[float, ...] = (0.0,)
    #: Box that holds the domains of all samples.
    box: Box = ((0.0, 1.0), (0.0, 1.0))
    length_units: ClassVar[str] = "m"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        if self.params.sample_on == "grid":
            self.dim, self.resolution_counts = 2, "points per axis"  # type: ignore[misc]
        self._meshes: OrderedDict[Any, Any] = OrderedDict()
        self._solvers: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out meshes and factorizations, which belong to a process."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_meshes", "_solvers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore without meshes."""
        self.__dict__.update(state)
        self._meshes, self._solvers = OrderedDict(), weakref.WeakKeyDictionary()

    # -- what a subclass defines -----------------------------------------------------------

    @abstractmethod
    def domain(self, inputs: Any) -> Domain:
        """Domain of a sample (of all, where `fixed_domain`)."""

    @abstractmethod
    def point_fields(self) -> tuple[FieldSpec, ...]:
        """Fields on the mesh."""

    @abstractmethod
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of inputs and outputs."""

    @abstractmethod
    def compute(
        self, inputs: Any, mesh: Triangulation, rtol: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        """Solve on a mesh: fields at its points (time first), the result, scalars."""

    def extra_fields(self) -> tuple[tuple[FieldSpec, ...], tuple[ExtraAxis, ...]]:
        """Fields that are not on the mesh, and their axes."""
        return (), ()

    def extra_values(self, inputs: Any) -> dict[str, np.ndarray]:
        """Values of `extra_fields`."""
        return {}

    def scalar_specs(self) -> tuple[ScalarSpec, ...]:
        """Scalars of the schema."""
        return ()

    def family(self, mesh: Triangulation, kind: Any, **options: Any) -> Any:
        """Form family of a mesh, kept as long as the mesh is."""
        kept = self._solvers.setdefault(mesh, {})
        key = (kind, *sorted(options.items()))
        if key not in kept:
            kept[key] = kind(mesh, **options)
        return kept[key]

    # -- what follows from it --------------------------------------------------------------

    def mesh_size(self, resolution: tuple[int, ...]) -> float:
        """Length of the edges: the longer side over the resolution, or the grid's spacing."""
        if self.params.sample_on == "grid":
            return max(self.grid(resolution).spacing)
        return max(hi - lo for lo, hi in self.box) / resolution[0]

    def triangulation(self, inputs: Any, resolution: tuple[int, ...], level: int = 0) -> Any:
        """Mesh of a sample, its edges halved `level` times."""
        from solvers.fenicsx import triangulate

        key = (resolution, level)
        if self.fixed_domain and key in self._meshes:
            self._meshes.move_to_end(key)
            return self._meshes[key]
        if level:
            mesh = self.triangulation(inputs, resolution, level - 1).refined()
        else:
            mesh = triangulate(self.domain(inputs), self.mesh_size(resolution))
        if self.fixed_domain:
            self._meshes[key] = mesh
            while len(self._meshes) > 4:
                self._meshes.popitem(last=False)
        return mesh

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Grid over the box."""
        return Grid(
            tuple(
                Axis(name, n, lo, hi, units=self.length_units)
                for name, n, (lo, hi) in zip("xy", resolution, self.box, strict=True)
            )
        )

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Describe the fields in layout ``mesh``, ``ragged`` or (``sample_on="grid"``) ``grid``."""
        extra, axes = self.extra_fields()
        inputs, outputs = self.names()
        fields = (*self.point_fields(), *extra)
        options: dict[str, Any] = {}
        if self.params.sample_on == "grid":
            fields += (
                FieldSpec("mask", "1 inside the domain, 0 outside", valid_min=0.0, valid_max=1.0),
            )
            inputs = ("mask", *inputs)
            grid = self.grid(resolution)
        elif self.fixed_domain:
            grid = Grid()
            mesh = self.triangulation(None, resolution).mesh(units=self.length_units)
            options = {"layout": "mesh", "mesh": mesh}
        else:
            grid = Grid()
            options = {"layout": "ragged", "space_dim": 2}
        if len(self.times) > 1:
            options |= {"problem_type": "time_dependent", "time": self.times, "time_units": "s"}
        return DatasetSchema(
            problem=self.name, title=self.title, grid=grid, fields=fields, inputs=inputs,
            outputs=outputs, scalars=self.scalar_specs(), axes=axes, dtype=dtype,
            equation=self.equation, discretization=self.discretization("fenicsx", resolution),
            sampling="values at the points", **options,
        )  # fmt: skip

    def solve(
        self, inputs: Any, resolution: tuple[int, ...], *, solver: str, rtol: float = 1e-10
    ) -> Solution:
        """Mesh the domain, solve, and take the values at the points of the mesh or the grid."""
        self.check_solver(solver)
        mesh = self.triangulation(inputs, resolution)
        values, r, scalars = self.compute(inputs, mesh, rtol)
        out_mesh = None
        if self.params.sample_on == "grid":
            sampler = _Sampler(mesh, self.grid(resolution))
            values = {n: sampler(v, self._time_axis(n)) for n, v in values.items()}
            values["mask"] = sampler.mask.astype(float)
        elif not self.fixed_domain:
            out_mesh = mesh.mesh(units=self.length_units)
        return Solution(
            {**values, **self.extra_values(inputs)}, r.residual, r.iterations, r.seconds, r.solver,
            scalars=scalars, mesh=out_mesh, time_error=float(r.info.get("time_error", math.nan)),
        )  # fmt: skip

    def _time_axis(self, name: str) -> int:
        return int(next(f for f in self.point_fields() if f.name == name).time_varying)

    def discretization_error(
        self,
        inputs: Any,
        solution: Solution,
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> float:
        """Estimated relative L2 distance of the outputs to the continuous solution, in space.

        Richardson on the mesh with every edge halved, compared at the points of the coarse mesh or
        the grid; of several outputs the worst.
        """
        coarse = self.triangulation(inputs, resolution)
        mesh = self.triangulation(inputs, resolution, 1)
        fine, _, _ = self.compute(inputs, mesh, rtol)
        weights = coarse.mesh().point_weights
        sampler = None
        if self.params.sample_on == "grid":
            grid = self.grid(resolution)
            sampler = _Sampler(mesh, grid)
            weights = grid.weights * solution.fields["mask"] * sampler.mask
        worst = 0.0
        for name in self.names()[1]:
            t = self._time_axis(name)
            u = solution.fields[name]
            if sampler is None:
                truth = np.take(fine[name], np.arange(len(coarse.points)), axis=t)
            else:
                truth = sampler(fine[name], t)
            w = weights.reshape((1,) * t + weights.shape + (1,) * (u.ndim - t - weights.ndim))
            num, den = float((w * (u - truth) ** 2).sum()), float((w * truth**2).sum())
            if num > 0:
                worst = max(worst, math.sqrt(num / den) if den > 0 else math.inf)
        return worst * richardson_factor(self.convergence_order(solver))

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Return the only one."""
        return "fenicsx"


class _Sampler:
    """Values on a grid of piecewise linear functions on a mesh.

    Attributes
    ----------
    mask : ndarray of bool, in the grid's shape
        Points that lie in a triangle.
    """

    def __init__(self, mesh: Triangulation, grid: Grid) -> None:
        lower = np.array([a.lower for a in grid.axes])
        h = np.array(grid.spacing)
        corners = mesh.points[mesh.cells]
        tol = 1e-9
        first = np.maximum(np.ceil((corners.min(axis=1) - lower) / h - tol), 0).astype(int)
        last = np.floor((corners.max(axis=1) - lower) / h + tol).astype(int)
        last = np.minimum(last, np.array(grid.shape) - 1)
        cell = np.full(grid.shape, -1)
        bary = np.zeros((*grid.shape, 3))
        reach = np.maximum((last - first).max(axis=0) + 1, 0)
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        double = 2 * mesh.areas
        for i in range(reach[0]):
            for j in range(reach[1]):
                index = first + np.array([i, j])
                k = np.flatnonzero((index <= last).all(axis=1))
                x = lower + index[k] * h
                l1 = _cross(c[k] - b[k], x - b[k]) / double[k]
                l2 = _cross(a[k] - c[k], x - c[k]) / double[k]
                lam = np.stack([l1, l2, 1 - l1 - l2], axis=1)
                inside = lam.min(axis=1) >= -tol
                at = tuple(index[k[inside]].T)
                cell[at], bary[at] = k[inside], lam[inside]
        self.mask = cell >= 0
        self._corners = mesh.cells[cell]
        self._bary = np.where(self.mask[..., None], bary, 0.0)

    def __call__(self, values: np.ndarray, first_axis: int = 0) -> np.ndarray:
        """Values at the points, shape ([T], n, ...), to ([T], *grid, ...); 0 outside."""
        if first_axis:
            return np.stack([self(v) for v in values])
        return np.einsum("xyk,xyk...->xy...", self._bary, values[self._corners])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out: np.ndarray = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return out


def at_points(sample: FieldSample, x: np.ndarray) -> np.ndarray:
    """Values of a field's sample at points, shape (n, 2); less memory than ``sample.at``."""
    left, right = (sample.field._functions(k, x[:, k]) for k in range(2))
    out: np.ndarray = ((left @ sample.coefficients) * right).sum(axis=1)
    return out


def hole_shape(
    center: tuple[float, float], radius: Any, *, fineness: float = 1.0, name: str = "hole"
) -> Any:
    """Star-shaped hole: `radius` is a function of the turn, from 0 to 1."""
    from solvers.fenicsx import closed_curve

    def curve(s: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * s
        return np.asarray(center) + radius(s)[:, None] * np.stack(
            [np.cos(angle), np.sin(angle)], axis=1
        )

    return closed_curve(curve, name=name, fineness=fineness)
