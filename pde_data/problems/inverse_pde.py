"""Inverse problems of partial differential equations: coefficient or source from noisy sensors."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

import solvers as numerics
from solvers.diffusion import choose_solver, solve_diffusion
from solvers.grids import Grid
from solvers.result import SolveResult
from solvers.verify import manufactured_diffusion

from ..fields import GaussianField, SpaceFunction, bounded, level_set, lognormal
from ..hdf5.schema import BoundarySpec, DatasetSchema, ExtraAxis, FieldSpec, ScalarSpec
from ..images import random_inclusions
from ..problem import Dtype, Parameters, Problem, Solution, register, richardson_factor
from ..verification import Check, agreement, at_most, order_check

__all__ = ["DarcyInverse", "SourceRecovery"]


class SensorParameters(Parameters):
    """Parameters of every problem here."""

    n_sensors: int = Field(
        64, ge=1, le=100_000, description="point sensors; a square number if they are regular"
    )
    sensors: Literal["regular", "random"] = Field(
        "regular", description="a regular lattice inside the square, or uniformly random points, "
        "the same for all samples",
    )  # fmt: skip
    sensor_seed: int = Field(0, ge=0, description="seed of random sensors")
    noise: float = Field(
        0.01, ge=0, le=10, description="standard deviation of the noise over the root mean square "
        "of the clean sensor values",
    )  # fmt: skip

    @model_validator(mode="after")
    def _square(self) -> SensorParameters:
        if self.sensors == "regular" and math.isqrt(self.n_sensors) ** 2 != self.n_sensors:
            raise ValueError(
                f"n_sensors={self.n_sensors}: sensors='regular' needs a square number, such as "
                f"{math.isqrt(self.n_sensors) ** 2 or 1}"
            )
        return self


class DarcyInverseParameters(SensorParameters):
    """Parameters of `DarcyInverse`."""

    coefficient: Literal["log_normal", "smooth", "two_valued"] = Field(
        "log_normal",
        description="of a Gaussian field g: exp(sigma g); between low and high by tanh(g); high "
        "where g >= 0, else low",
    )
    sigma: float = Field(
        1.0, gt=0, le=5, description="standard deviation of log a, averaged; log_normal"
    )
    low: float = Field(
        3.0, gt=0, le=1e6, description="smaller value, m^2/(Pa*s); smooth, two_valued"
    )
    high: float = Field(
        12.0, gt=0, le=1e6, description="larger value, m^2/(Pa*s); smooth, two_valued"
    )
    alpha: float = Field(
        3.0, gt=1, le=20, description="smoothness: N(0, (-Laplacian + tau^2)^(-alpha))"
    )
    tau: float = Field(3.0, gt=0, le=1000, description="inverse correlation length, 1/m")
    n_modes: int = Field(64, ge=2, le=1024, description="cosine modes per axis of the field")
    forcing: float = Field(1.0, gt=0, le=1e6, description="f, constant, 1/s")

    @model_validator(mode="after")
    def _order(self) -> DarcyInverseParameters:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: need low < high")
        return self


class SourceRecoveryParameters(SensorParameters):
    """Parameters of `SourceRecovery`."""

    source: Literal["inclusions", "gaussian"] = Field(
        "inclusions",
        description="q: 1 to n_max ellipses and rectangles of constant value on 0; or a Gaussian "
        "field",
    )
    n_max: int = Field(5, ge=1, le=50, description="most inclusions in a sample")
    low: float = Field(0.3, gt=0, le=1e6, description="smallest value of an inclusion")
    high: float = Field(1.0, gt=0, le=1e6, description="largest value of an inclusion")
    alpha: float = Field(
        3.0, gt=1, le=20, description="smoothness of the Gaussian field, "
        "N(0, (-Laplacian + tau^2)^(-alpha)), variance 1",
    )  # fmt: skip
    tau: float = Field(5.0, gt=0, le=1000, description="its inverse correlation length")

    @model_validator(mode="after")
    def _order(self) -> SourceRecoveryParameters:
        if self.low > self.high:
            raise ValueError(f"low={self.low}, high={self.high}: need low <= high")
        return self


@dataclass(frozen=True)
class SensorInputs:
    """The unknown field, as a function of space, and the seed of the noise."""

    unknown: SpaceFunction
    noise_seed: int


class _FromSensors(Problem):
    """An unknown field, the solution it makes, and what noisy sensors see of that."""

    dim = 2
    default_resolution = 33
    min_resolution = 5
    quick_resolution: ClassVar[int | tuple[int, ...] | None] = 17
    quick_params: ClassVar[dict[str, Any]] = {"n_sensors": 16}
    solvers: ClassVar[tuple[str, ...]] = ("structured", "pyamg", "direct", "fenicsx")
    params: Any
    #: Name, long name, units of the unknown and of the solution.
    unknown: ClassVar[tuple[str, str, str]]
    state: ClassVar[tuple[str, str, str]]
    length_units: ClassVar[str] = "1"

    @abstractmethod
    def forward(self, unknown: np.ndarray, grid: Grid, solver: str, rtol: float) -> SolveResult:
        """Solve the equation."""

    @abstractmethod
    def draw_unknown(self, rng: np.random.Generator) -> SpaceFunction:
        """Draw the unknown."""

    def limits(self) -> tuple[float | None, float | None]:
        """Return bounds of the unknown."""
        return None, None

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Return the constant scalars."""
        return ()

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Grid of the unit square with `resolution` points per axis."""
        return Grid.unit(resolution, dim=2, units=self.length_units)

    def positions(self) -> np.ndarray:
        """Return the sensors' positions, shape (n_sensors, 2)."""
        p = self.params
        if p.sensors == "random":
            return np.random.default_rng(p.sensor_seed).uniform(0.05, 0.95, (p.n_sensors, 2))
        k = math.isqrt(p.n_sensors)
        line = np.arange(1, k + 1) / (k + 1)
        return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)

    def operator(self, resolution: tuple[int, ...]) -> numerics.MatrixOperator:
        """Return what the sensors see of a field: bilinear interpolation, a sparse matrix."""
        return _sensors(self.grid(resolution), tuple(map(tuple, self.positions())))

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Describe: sensor values and positions in, unknown out; and the solution."""
        low, high = self.limits()
        name, long_name, units = self.unknown
        u, u_name, u_units = self.state
        axes = (
            ExtraAxis.index("sensor", self.params.n_sensors),
            ExtraAxis.index("coordinate", 2, long_name="x, y"),
        )
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=(
                FieldSpec(name, long_name, units, valid_min=low, valid_max=high),
                FieldSpec(u, u_name, u_units),
                FieldSpec("measurement", "noisy sensor values", u_units, dims=("sensor",)),
                FieldSpec("clean", "sensor values without noise", u_units, dims=("sensor",)),
                FieldSpec(
                    "position", "position of the sensors", self.length_units,
                    dims=("sensor", "coordinate"), labels=("x", "y"), sample_varying=False,
                ),
            ),
            inputs=("measurement",),
            outputs=(name,),
            axes=axes,
            scalars=(
                ScalarSpec("noise_std", "standard deviation of the sensors' noise", u_units),
                *self.constants(),
            ),
            boundary_conditions=tuple(
                BoundarySpec(axis, "dirichlet", (u,), units=u_units) for axis in "xy"
            ),
            dtype=dtype,
            equation=self.equation,
            sampling="nodal; sensors: bilinear interpolation of the nodal solution",
        )  # fmt: skip

    def sample(self, rng: np.random.Generator) -> SensorInputs:
        """Draw the unknown and the seed of the noise."""
        return SensorInputs(self.draw_unknown(rng), int(rng.integers(2**62)))

    def _clean(
        self, inputs: SensorInputs, resolution: tuple[int, ...], solver: str, rtol: float
    ) -> tuple[np.ndarray, SolveResult, np.ndarray]:
        grid = self.grid(resolution)
        unknown = inputs.unknown(grid)
        r = self.forward(unknown, grid, self.check_solver(solver), rtol)
        return unknown, r, self.operator(resolution).apply(r.x)

    def solve(
        self, inputs: SensorInputs, resolution: tuple[int, ...], *, solver: str,
        rtol: float = 1e-10,
    ) -> Solution:  # fmt: skip
        """Solve the equation, read the sensors, add the noise."""
        unknown, r, clean = self._clean(inputs, resolution, solver, rtol)
        std = self.params.noise * float(np.sqrt(np.mean(clean**2)))
        noise = np.random.default_rng(inputs.noise_seed).standard_normal(clean.shape)
        fields = {
            self.unknown[0]: unknown,
            self.state[0]: r.x,
            "measurement": clean + std * noise,
            "clean": clean,
            "position": self.positions(),
        }
        return Solution(
            fields, r.residual, r.iterations, r.seconds, r.solver, scalars={"noise_std": std}
        )

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose the fastest solver for the grid, see `solvers.diffusion.choose_solver`."""
        return choose_solver(self.grid(resolution))

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        if solver == "fenicsx":
            return "P1 Lagrange on triangles"
        return "vertex-centered finite volumes, harmonic face means of the coefficient"

    def discretization_error(
        self, inputs: SensorInputs, solution: Solution, resolution: tuple[int, ...], *,
        solver: str, rtol: float = 1e-10,
    ) -> float:  # fmt: skip
        """Estimate the relative l2 error of the clean sensor values, by a twice refined grid.

        The unknown, the output, is exact at the nodes; the error lies in the measurement.
        """
        fine_grid = self.grid(resolution).refined(2)
        _, _, fine = self._clean(inputs, fine_grid.shape, solver, rtol)
        gap = float(np.linalg.norm(solution.fields["clean"] - fine))
        size = float(np.linalg.norm(fine))
        if size == 0:
            return 0.0 if gap == 0 else math.inf
        return gap / size * richardson_factor(self.convergence_order(solver))

    def _common_checks(self) -> Iterable[Check]:
        grid = self.grid((9, 13))
        A = self.operator(grid.shape)
        gap = numerics.adjoint_gap(A, np.random.default_rng(0))
        yield at_most("sensors: adjoint", gap, 1e-12, kind="invariant")
        x, y = grid.meshgrid()
        px, py = self.positions().T
        error = float(np.abs(A.apply(1 + 2 * x - y + 3 * x * y) - (1 + 2 * px - py + 3 * px * py))
                      .max())  # fmt: skip
        yield at_most("sensors are exact for bilinear fields", error, 1e-12)
        inputs = self.sample(np.random.default_rng(2))
        noise = []
        for seed in range(20):
            s = self.solve(SensorInputs(inputs.unknown, seed), (9, 9), solver="direct")
            noise.append((s.fields["measurement"] - s.fields["clean"]) / s.scalars["noise_std"])
        flat = np.concatenate(noise)
        yield agreement(
            "standard deviation of the noise over noise_std", float(flat.std()), 1.0,
            within=5 / math.sqrt(2 * flat.size), kind="invariant",
        )  # fmt: skip


@register
class DarcyInverse(_FromSensors):
    """Recover the permeability from noisy pressure sensors: ``-div(a grad u) = f``, u = 0 around.

    Parameters
    ----------
    **params
        Fields of `DarcyInverseParameters`.

    Notes
    -----
    Inputs are the sensor values with noise, relative to their root mean square; output is `a` on
    the nodes of the unit square; the pressure `u` and the clean values are stored beside them, and
    the scalar `noise_std` in Pa. The discretization error is that of the clean sensor values.
    """

    name: ClassVar[str] = "darcy_inverse"
    title: ClassVar[str] = "Permeability from noisy pressure sensors"
    equation: ClassVar[str] = (
        r"y_i = u(p_i) + \varepsilon_i,\quad -\nabla\cdot(a\,\nabla u) = f,\quad "
        r"u|_{\partial\Omega} = 0"
    )
    Params: ClassVar[type[Parameters]] = DarcyInverseParameters
    params: DarcyInverseParameters
    unknown = ("a", "permeability over viscosity", "m^2/(Pa*s)")
    state = ("u", "pressure", "Pa")
    length_units = "m"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        field = GaussianField(p.alpha, p.tau, n_modes=p.n_modes, zero_mean=True)
        self.field = field.normalized(p.sigma if p.coefficient == "log_normal" else 1.0)

    def limits(self) -> tuple[float | None, float | None]:
        """Return bounds of a."""
        p = self.params
        return (0.0, None) if p.coefficient == "log_normal" else (p.low, p.high)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Return the source f."""
        return (ScalarSpec("forcing", "volumetric source", "1/s", self.params.forcing),)

    def draw_unknown(self, rng: np.random.Generator) -> SpaceFunction:
        """Draw the permeability."""
        p, mu = self.params, self.field.draw(rng)
        if p.coefficient == "log_normal":
            return lognormal(mu)
        return (bounded if p.coefficient == "smooth" else level_set)(mu, p.low, p.high)

    def forward(self, unknown: np.ndarray, grid: Grid, solver: str, rtol: float) -> SolveResult:
        """Solve for the pressure."""
        return solve_diffusion(unknown, self.params.forcing, grid, solver=solver, rtol=rtol)

    def convergence_order(self, solver: str) -> float:
        """Return 1.4 where `a` jumps (measured from 17 to 65 points), else 2."""
        return 1.4 if self.params.coefficient == "two_valued" else 2.0

    def checks(self) -> Iterable[Check]:
        """Check sensor values of a manufactured solution, order 2; sensors and noise."""
        yield from self._common_checks()
        ms = manufactured_diffusion(2, homogeneous=True)
        yield from _sensor_order(self, ms.coefficient, ms.source, ms.solution)


@register
class SourceRecovery(_FromSensors):
    """Recover the source from noisy sensors: ``-laplace(u) = q`` in the unit square, u = 0 around.

    Parameters
    ----------
    **params
        Fields of `SourceRecoveryParameters`.

    Notes
    -----
    A linear problem, ``y = C K^-1 q + noise``: C are the sensors (`operator`), K the Laplacian. The
    stored inclusions are means over the cell around each node, so that the solution on the grid
    is that of the true inclusions up to the order of the discretization. All quantities are
    dimensionless. The discretization error is that of the clean sensor values.
    """

    name: ClassVar[str] = "source_recovery"
    title: ClassVar[str] = "Source from noisy sensors"
    equation: ClassVar[str] = (
        r"y_i = u(p_i) + \varepsilon_i,\quad -\Delta u = q,\quad u|_{\partial\Omega} = 0"
    )
    Params: ClassVar[type[Parameters]] = SourceRecoveryParameters
    params: SourceRecoveryParameters
    unknown = ("q", "source", "1")
    state = ("u", "solution", "1")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.field = GaussianField(p.alpha, p.tau, n_modes=32).normalized(1.0)

    def limits(self) -> tuple[float | None, float | None]:
        """Return bounds of q."""
        p = self.params
        return (0.0, p.high) if p.source == "inclusions" else (None, None)

    def draw_unknown(self, rng: np.random.Generator) -> SpaceFunction:
        """Draw the source."""
        p = self.params
        if p.source == "gaussian":
            return self.field.draw(rng)
        return random_inclusions(rng, n_max=p.n_max, low=p.low, high=p.high)

    def forward(self, unknown: np.ndarray, grid: Grid, solver: str, rtol: float) -> SolveResult:
        """Solve Poisson's equation."""
        return solve_diffusion(1.0, unknown, grid, solver=solver, rtol=rtol)

    def checks(self) -> Iterable[Check]:
        """Check sensor values of a manufactured solution, order 2; an eigenfunction; sensors."""
        yield from self._common_checks()

        def source(x: np.ndarray) -> np.ndarray:
            return 13 * np.pi**2 * np.sin(2 * np.pi * x[0]) * np.sin(3 * np.pi * x[1])

        def exact(x: np.ndarray) -> np.ndarray:
            return np.sin(2 * np.pi * x[0]) * np.sin(3 * np.pi * x[1])

        yield from _sensor_order(self, None, source, exact)


def _sensor_order(problem: _FromSensors, coefficient: Any, source: Any, exact: Any) -> list[Check]:
    """Order of the error at sensors that are no nodes."""
    points = np.random.default_rng(3).uniform(0.1, 0.9, (40, 2))
    truth = exact(points.T)
    out = []
    for solver in ("structured", "pyamg", "direct"):
        hs, errors = [], []
        for n in (33, 65, 129):
            grid = problem.grid((n, n))
            x = np.stack(grid.meshgrid())
            a = 1.0 if coefficient is None else coefficient(x)
            u = solve_diffusion(a, source(x), grid, solver=solver, rtol=1e-11).x
            gap = numerics.point_sensors(grid, points).apply(u) - truth
            hs.append(1 / (n - 1))
            errors.append(float(np.linalg.norm(gap) / np.linalg.norm(truth)))
        out.append(order_check(f"order of the sensor values, {solver}", hs, errors, 2.0))
    return out


@lru_cache(maxsize=8)
def _sensors(grid: Grid, points: tuple[tuple[float, ...], ...]) -> numerics.MatrixOperator:
    return numerics.point_sensors(grid, np.array(points))
