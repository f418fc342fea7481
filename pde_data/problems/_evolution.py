"""What time-dependent problems on grids share: stored times, schema, errors in space and time."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from solvers.grids import Axis, Grid

from ..hdf5.schema import BoundarySpec, DatasetSchema, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, Problem, Solution, restrict_to, richardson_factor

__all__ = ["Evolution", "EvolutionParameters", "space_time_error"]


class EvolutionParameters(Parameters):
    """Parameters of every `Evolution`; a subclass repeats a field to change its default."""

    t_end: float = Field(1.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        11, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    time_rtol: float = Field(
        1e-6, ge=1e-12, le=0.1, description="relative space-time L2 error the time steps may make"
    )


class Evolution(Problem):
    """A time-dependent problem on a `Grid`, periodic or not.

    A subclass gives `input_specs`, `output_specs` and, where the axes are not those of `grid`
    here, its own `grid`; `sample` as every problem; and `evolve`, which solves. First stored time
    is 0. `schema`, `solve` and `discretization_error` follow.
    """

    default_resolution: int = 64
    min_resolution: int = 8
    #: Units of time and length, and whether the axes are periodic, for the default `grid`.
    time_units: ClassVar[str] = "1"
    length_units: ClassVar[str] = "1"
    periodic: ClassVar[bool] = True
    Params: ClassVar[type[Parameters]] = EvolutionParameters

    # -- what a problem defines ------------------------------------------------------------

    @abstractmethod
    def input_specs(self) -> tuple[FieldSpec | ScalarSpec, ...]:
        """Describe the inputs, in a model's order: fields, and scalars that vary."""

    @abstractmethod
    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the outputs, ``time_varying=True``; their first value is the initial one."""

    @abstractmethod
    def evolve(
        self,
        inputs: Any,
        grid: Grid,
        times: np.ndarray,
        *,
        solver: str,
        rtol: float,
        refine: float = 1.0,
    ) -> Solution:
        """Solve on a grid and return all fields of the schema at `times`.

        Parameters
        ----------
        inputs
            What `sample` drew.
        grid : Grid
        times : ndarray, shape (T,)
            Increasing from 0.
        solver : str
        rtol : float
            Relative residual of algebraic solves, where there are any.
        refine : float
            Divide the time steps by it, or an adaptive tolerance by ``refine**order``.

        Returns
        -------
        Solution
            With `time_error`: the estimated relative L2 error, in space and time, that comes from
            the steps; see `space_time_error`.

        Raises
        ------
        SolverDidNotConverge
        """

    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Return the ends of the domain per axis: the parameter `bounds`, without it 0 and 1."""
        given = getattr(self.params, "bounds", None)
        return ((0.0, 1.0),) * self.dim if given is None else tuple(given)

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Grid with `resolution` points per axis."""
        return Grid(
            tuple(
                Axis(name, n, lower, upper, periodic=self.periodic, units=self.length_units)
                for name, n, (lower, upper) in zip("xyz", resolution, self.bounds(), strict=False)
            )
        )

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Scalars that are stored with the data set and are no inputs."""
        return ()

    def boundary_specs(self) -> tuple[BoundarySpec, ...]:
        """Boundary conditions; those of periodic axes come by themselves."""
        return ()

    # -- what follows from it ---------------------------------------------------------------

    @property
    def times(self) -> np.ndarray:
        """Stored times, shape (n_times,)."""
        p: Any = self.params
        return np.linspace(0.0, p.t_end, p.n_times)

    @property
    def horizon(self) -> float:
        """Time up to which errors are measured: the parameter `horizon` if set, else the end."""
        return getattr(self.params, "horizon", None) or float(self.times[-1])

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Describe inputs and outputs on the grid at the stored times."""
        inputs, outputs = self.input_specs(), self.output_specs()
        grid = self.grid(resolution)
        fields = {f.name: f for f in (*inputs, *outputs) if isinstance(f, FieldSpec)}
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=grid,
            fields=tuple(fields.values()),
            inputs=tuple(f.name for f in inputs),
            outputs=tuple(f.name for f in outputs),
            scalars=(*(s for s in inputs if isinstance(s, ScalarSpec)), *self.constants()),
            boundary_conditions=self.boundary_specs(),
            problem_type="time_dependent",
            time=tuple(map(float, self.times)),
            time_units=self.time_units,
            dtype=dtype,
            equation=self.equation,
            sampling="nodal" if grid.axes[0].location == "node" else "cell centers",
        )

    def solve(
        self, inputs: Any, resolution: tuple[int, ...], *, solver: str, rtol: float = 1e-10
    ) -> Solution:
        """Solve at the stored times on the grid of this resolution."""
        self.check_solver(solver)
        return self.evolve(inputs, self.grid(resolution), self.times, solver=solver, rtol=rtol)

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose the first of `solvers`."""
        return self.solvers[0]

    def discretization_error(
        self,
        inputs: Any,
        solution: Solution,
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> float:
        """Estimated relative error of the outputs in L2 of space and time, up to `horizon`.

        The same inputs are solved on the twice refined grid *and* with time steps half as long;
        the difference on the common points, times ``2^p / (2^p - 1)`` with `p` of
        `convergence_order`. Of several outputs the worst counts.
        """
        grid = self.grid(resolution)
        fine_grid = grid.refined(2)
        fine = self.evolve(inputs, fine_grid, self.times, solver=solver, rtol=rtol, refine=2.0)
        names = [f.name for f in self.output_specs()]
        truth = {n: restrict_to(grid, fine_grid, fine.fields[n], first_axis=1) for n in names}
        own = {n: solution.fields[n] for n in names}
        error = space_time_error(own, truth, grid, self.times, horizon=self.horizon)
        return error * richardson_factor(self.convergence_order(solver))


def space_time_error(
    fields: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    grid: Grid,
    times: np.ndarray,
    *,
    horizon: float = math.inf,
) -> float:
    """Relative difference in the L2 norm of space and time, worst over the fields of `truth`.

    Parameters
    ----------
    fields, truth : mapping of str to ndarray, shape (T, *grid.shape, ...)
    grid : Grid
        Weighs space.
    times : ndarray, shape (T,)
        Increasing; weighed by the trapezoidal rule.
    horizon : float
        Later times do not count.

    Returns
    -------
    float
        ``sqrt(int |u - v|^2 / int |v|^2)``; infinite where `v` is 0 and `u` is not.
    """
    t = np.asarray(times, np.float64)
    kept = int(np.searchsorted(t, horizon * (1 + 1e-12), side="right"))
    w_time = np.zeros(len(t))
    steps = np.diff(t[:kept])
    w_time[: kept - 1] += 0.5 * steps
    w_time[1:kept] += 0.5 * steps
    worst = 0.0
    for name, v in truth.items():
        trailing = (1,) * (v.ndim - 1 - grid.dim)
        w = np.multiply.outer(w_time, grid.weights).reshape(len(t), *grid.shape, *trailing)[:kept]
        num = float(np.sum(w * (fields[name][:kept] - v[:kept]) ** 2))
        den = float(np.sum(w * v[:kept] ** 2))
        if num != 0.0:  # NaN counts
            worst = max(worst, math.sqrt(num / den) if den > 0 else math.inf)
            if math.isnan(num):
                return math.nan
    return worst
