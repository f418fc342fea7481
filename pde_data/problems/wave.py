"""Acoustic waves in a medium of variable speed of sound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.evolution import solve_wave
from solvers.grids import Axis, Grid
from solvers.result import SolveResult

from ..fields import GaussianField, SpaceFunction, bounded
from ..hdf5.schema import BoundarySpec, FieldSpec
from ..problem import Solution, register
from ..verification import Check, at_most, order_check
from ._evolution import Evolution, EvolutionParameters, space_time_error
from ._evolution_checks import space_checks, time_checks

__all__ = ["Wave", "WaveParameters"]

_BASIS: dict[str, Any] = {"neumann": "cosine", "dirichlet": "sine", "periodic": "fourier"}


class WaveParameters(EvolutionParameters):
    """Parameters of `Wave`."""

    t_end: float = Field(1.0, gt=0, allow_inf_nan=False, description="last stored time, s")
    n_times: int = Field(
        21, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    dim: Literal[1, 2] = Field(2, description="space dimensions")
    walls: Literal["neumann", "dirichlet", "periodic"] = Field(
        "neumann", description="neumann: sound-hard, du/dn = 0; dirichlet: sound-soft, u = 0"
    )
    c_low: float = Field(0.7, gt=0, le=1e4, description="the speed of sound exceeds it, m/s")
    c_high: float = Field(1.3, gt=0, le=1e4, description="the speed of sound is below it, m/s")
    c_tau: float = Field(6.0, gt=0, le=1e3, description="inverse correlation length of c, 1/m")
    c_modes: int = Field(6, ge=2, le=256, description="modes per axis of the field behind c")
    amplitude: float = Field(1.0, gt=0, le=1e6, description="standard deviation of u0, Pa")
    alpha: float = Field(
        4.0, gt=1, le=20, description="smoothness of the Gaussian fields u0 and behind c, "
        "covariance (-Laplacian + tau^2)^(-alpha)",
    )  # fmt: skip
    tau: float = Field(12.0, gt=0, le=1e3, description="inverse correlation length of u0, 1/m")
    n_modes: int = Field(12, ge=2, le=256, description="modes per axis of u0")

    @model_validator(mode="after")
    def _check(self) -> WaveParameters:
        if not self.c_low < self.c_high:
            raise ValueError(f"c_low={self.c_low}, c_high={self.c_high}: need c_low < c_high")
        return self


@register
class Wave(Evolution):
    """Acoustic pressure, ``u_tt = div(c^2 grad u)`` in the unit interval or square.

    Starts from rest, ``u_t = 0``, at a Gaussian field `u0`; the speed of sound is a smooth field
    between `c_low` and `c_high`. `u0` continues smoothly across the walls (even at hard, odd at
    soft ones), `c` evenly, and so does the solution: sine and cosine series are of spectral
    accuracy.
    """

    name: ClassVar[str] = "wave"
    title: ClassVar[str] = "Acoustic waves, variable speed of sound"
    equation: ClassVar[str] = (
        r"\partial_{tt} u = \nabla\cdot(c^2\,\nabla u),\quad \partial_t u|_{t=0} = 0"
    )
    solvers: ClassVar[tuple[str, ...]] = ("spectral", "finite_volume")
    time_units: ClassVar[str] = "s"
    length_units: ClassVar[str] = "m"
    default_resolution: int = 65
    quick_resolution: ClassVar[int] = 24
    quick_params: ClassVar[Mapping[str, Any]] = {
        "t_end": 0.5, "n_times": 6, "n_modes": 3, "c_modes": 3, "time_rtol": 1e-5,
    }  # fmt: skip
    reference: ClassVar[str] = "Cohen, Higher-order methods for transient wave equations (2002)"
    Params: ClassVar[type[EvolutionParameters]] = WaveParameters
    params: WaveParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.dim = p.dim
        bounds = ((0.0, 1.0),) * p.dim
        self.field = GaussianField(
            p.alpha, p.tau, basis=_BASIS[p.walls], n_modes=p.n_modes, bounds=bounds
        ).normalized(p.amplitude)
        self.medium = GaussianField(
            p.alpha, p.c_tau, basis="fourier" if p.walls == "periodic" else "cosine",
            n_modes=p.c_modes, bounds=bounds,
        ).normalized()  # fmt: skip

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Nodes, walls included; periodic if the walls are."""
        periodic = self.params.walls == "periodic"
        return Grid(
            tuple(
                Axis(name, n, periodic=periodic, units="m")
                for name, n in zip("xy", resolution, strict=False)
            )
        )

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Speed of sound and initial pressure."""
        p = self.params
        return (
            FieldSpec("c", "speed of sound", "m/s", valid_min=p.c_low, valid_max=p.c_high),
            FieldSpec("u0", "initial pressure", "Pa"),
        )

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Pressure."""
        return (FieldSpec("u", "pressure", "Pa", time_varying=True),)

    def boundary_specs(self) -> tuple[BoundarySpec, ...]:
        """Reflecting walls."""
        walls = self.params.walls
        if walls == "periodic":
            return ()
        units = {"neumann": "Pa/m", "dirichlet": "Pa"}[walls]
        return tuple(BoundarySpec(axis, walls, ("u",), units=units) for axis in "xy"[: self.dim])

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw speed of sound and initial pressure."""
        p = self.params
        c = bounded(self.medium.draw(rng), p.c_low, p.c_high)
        return {"c": c, "u0": self.field.draw(rng)}

    def evolve(
        self, inputs: Mapping[str, SpaceFunction], grid: Grid, times: np.ndarray, *,
        solver: str, rtol: float, refine: float = 1.0,
    ) -> Solution:  # fmt: skip
        """Solve by the scheme of the modified equation."""
        p = self.params
        c, u0 = inputs["c"](grid), inputs["u0"](grid)
        r = solve_wave(
            u0, times, grid, speed=c, boundary=p.walls, space=solver,
            rtol=p.time_rtol / refine**4,
        )  # fmt: skip
        return Solution(
            {"c": c, "u0": u0, "u": r.x}, r.residual, r.iterations, r.seconds, r.solver,
            time_error=r.info["time_error"],
        )  # fmt: skip

    def convergence_order(self, solver: str) -> float:
        """Infinite for sines, cosines and Fourier series, 2 for finite volumes."""
        return math.inf if solver == "spectral" else 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        if solver == "spectral":
            series = {"neumann": "cosine", "dirichlet": "sine", "periodic": "Fourier"}
            return f"{series[self.params.walls]} collocation; leapfrog of fourth order in time"
        return "vertex-centered finite volumes; leapfrog of fourth order in time"

    def checks(self) -> Iterator[Check]:
        """Standing waves at each kind of wall, agreement in a variable medium, energy, time."""
        for dim in (1, 2):
            for walls in ("neumann", "dirichlet", "periodic"):
                yield from _standing(dim, walls)
        for walls in ("neumann", "dirichlet", "periodic"):
            p = Wave(dim=1, walls=walls, n_times=6, n_modes=5, time_rtol=1e-8)
            inputs = p.sample(np.random.default_rng(2))
            s = p.solve(inputs, (65,), solver="spectral")
            error = p.discretization_error(inputs, s, (65,), solver="spectral")
            yield at_most(f"variable speed, spectral 65 against 129 points, {walls}", error, 1e-6)
            errors = []
            for n in (129, 257, 513):
                size = n - (walls == "periodic")
                v = p.solve(inputs, (size,), solver="finite_volume")
                ref = p.solve(inputs, (129 - (walls == "periodic"),), solver="spectral")
                step = (n - 1) // 128
                own, truth = {"u": v.fields["u"][:, ::step]}, {"u": ref.fields["u"]}
                coarse = p.grid((129 - (walls == "periodic"),))
                errors.append(space_time_error(own, truth, coarse, p.times))
            yield order_check(
                f"variable speed, finite_volume against spectral, {walls}",
                [1 / 128, 1 / 256, 1 / 512], errors, 2.0,
            )  # fmt: skip
        p = Wave(n_times=3, n_modes=4)
        inputs = p.sample(np.random.default_rng(3))
        grid = p.grid((24, 24))
        c, u0 = inputs["c"](grid), inputs["u0"](grid)
        for solver in self.solvers:
            r = solve_wave(u0, p.times, grid, speed=c, space=solver)
            yield at_most(
                f"relative change of energy, {solver}", r.info["energy_drift"], 1e-11,
                kind="invariant",
            )  # fmt: skip
        line = Wave(dim=1, n_times=3, n_modes=4).grid((17,))
        medium = 1.0 + 0.3 * np.cos(np.pi * line.coords[0])
        start = np.cos(2 * np.pi * line.coords[0])

        def run(dt: float) -> SolveResult:
            return solve_wave(start, p.times, line, speed=medium, v0=start, dt=dt)

        yield from time_checks(
            run, (1 / 64, 1 / 128, 1 / 256), 4.0, grid=line, times=p.times, label="leapfrog4"
        )


def _standing(dim: int, walls: str) -> Iterator[Check]:
    """``cos(k c t)`` times a product of sines or cosines."""
    p = Wave(dim=dim, walls=walls, t_end=0.8, n_times=5, time_rtol=1e-8)
    k = 2 * np.pi if walls == "periodic" else np.pi
    wave = np.sin if walls == "dirichlet" else np.cos

    def mode(grid: Grid) -> np.ndarray:
        u = np.ones(())
        for axis in grid.axes:
            u = np.multiply.outer(u, wave(k * axis.coords))
        return u

    def exact(grid: Grid, times: np.ndarray) -> dict[str, np.ndarray]:
        return {"u": np.multiply.outer(np.cos(k * np.sqrt(dim) * times), mode(grid))}

    inputs = {"c": lambda g: np.ones(g.shape), "u0": mode}
    yield from space_checks(
        p, inputs, exact, (16, 32, 64) if walls == "periodic" else (17, 33, 65),
        solver="finite_volume", label=f"standing wave, {walls}, {dim}-D",
    )  # fmt: skip
    s = p.solve(inputs, (12,) * dim, solver="spectral")
    grid = p.grid((12,) * dim)
    error = space_time_error({"u": s.fields["u"]}, exact(grid, p.times), grid, p.times)
    yield at_most(f"standing wave, spectral, {walls}, {dim}-D, 12 points", error, 2e-8)
