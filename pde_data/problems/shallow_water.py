"""Shallow water: circular dam breaks and random bumps of the surface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.evolution import dam_break_1d, solve_shallow_water
from solvers.evolution.shallow_water import NAME
from solvers.grids import Axis, Grid

from ..fields import GaussianField
from ..hdf5.schema import BoundarySpec, FieldSpec, ScalarSpec
from ..problem import Solution, register, richardson_factor
from ..verification import Check, at_most, order_check
from ._evolution import Evolution, EvolutionParameters, space_time_error

__all__ = ["ShallowWater", "ShallowWaterParameters"]

_SUB = 16


class ShallowWaterParameters(EvolutionParameters):
    """Parameters of `ShallowWater`."""

    t_end: float = Field(1.0, gt=0, allow_inf_nan=False, description="last stored time, s")
    n_times: int = Field(
        21, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    time_rtol: float = Field(
        1e-2,
        ge=1e-6,
        le=0.1,
        description="relative space-time L2 error of h the time steps may make",
    )
    initial: Literal["dam", "bumps"] = Field(
        "dam", description="dam: a circular column of water stands in shallower water; bumps: the "
        "surface is a smooth Gaussian field",
    )  # fmt: skip
    depth: float = Field(1.0, gt=0, le=1e4, description="depth outside the dam, or at rest, m")
    dam_depth: float = Field(2.0, gt=0, le=1e4, description="depth inside the dam, m")
    radius_low: float = Field(0.3, gt=0, le=2, description="smallest radius of the dam, m")
    radius_high: float = Field(0.7, gt=0, le=2, description="largest radius of the dam, m")
    shift: float = Field(
        0.0, ge=0, le=1, description="the dam's center is uniform in (-shift, shift)^2, m"
    )
    bump: float = Field(
        0.1, gt=0, le=0.5, description="amplitude of the bumps over depth: the surface is "
        "depth (1 + bump tanh(field))",
    )  # fmt: skip
    bed: float = Field(
        0.0, ge=0, le=0.5, description="amplitude of a Gaussian-field bed over depth; 0: flat"
    )
    tau: float = Field(2.0, gt=0, le=100, description="inverse correlation length of fields, 1/m")
    gravity: float = Field(1.0, gt=0, le=1000, description="g, m/s^2")
    walls: Literal["wall", "periodic"] = Field(
        "wall", description="wall: reflecting; periodic on both axes"
    )

    @model_validator(mode="after")
    def _check(self) -> ShallowWaterParameters:
        if not self.radius_low <= self.radius_high:
            raise ValueError(
                f"radius_low={self.radius_low}, radius_high={self.radius_high}: need "
                "radius_low <= radius_high"
            )
        if self.initial == "dam" and not self.depth < self.dam_depth:
            raise ValueError(f"dam_depth={self.dam_depth}: must exceed depth={self.depth}")
        return self


@dataclass(frozen=True)
class _Column:
    """Averages over cells of a column's indicator: 1 inside the circle."""

    radius: float
    x: float
    y: float

    def __call__(self, grid: Grid) -> np.ndarray:
        (x, y), (dx, dy) = grid.coords, grid.spacing
        r = np.hypot(x[:, None] - self.x, y[None, :] - self.y)
        out = (r < self.radius).astype(float)
        near = np.argwhere(np.abs(r - self.radius) < 0.75 * np.hypot(dx, dy))
        s = (np.arange(_SUB) + 0.5) / _SUB - 0.5
        xs = x[near[:, 0], None, None] + dx * s[None, :, None] - self.x
        ys = y[near[:, 1], None, None] + dy * s[None, None, :] - self.y
        out[near[:, 0], near[:, 1]] = (np.hypot(xs, ys) < self.radius).mean(axis=(1, 2))
        return out


@register
class ShallowWater(Evolution):
    """Shallow-water equations in (-2.5, 2.5)^2, from rest.

    ``h_t + div(h v) = 0`` and ``(h v)_t + div(h v v) + g grad(h^2)/2 = -g h grad(bed)``: depth `h`,
    velocity `v`. Values are averages over cells.

    Notes
    -----
    The default is PDEBench's radial dam break [1]_: radius uniform in (0.3, 0.7), depth 2 inside
    and 1 outside, g = 1. There the cells are filled or empty by their centers; here by the part of
    them that the circle covers, so that a sample is one function of space.

    The dam's shock costs order. Relative errors in L2 of space and time of one dam, against 512^2
    cells: of `h` 3.3e-2, 1.9e-2, 1.1e-2, of `v` 0.54, 0.30, 0.16 on 16, 32 and 64 cells
    an axis; the estimate assumes ``p = 0.85``. With `bumps` the order is 1.5 to 2.

    References
    ----------
    .. [1] Takamoto et al., "PDEBench", NeurIPS 2022, arXiv:2210.07182, appendix D.
    """

    name: ClassVar[str] = "shallow_water"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "Shallow water, dam breaks and bumps"
    equation: ClassVar[str] = (
        r"\partial_t h + \nabla\cdot(h v) = 0,\quad "
        r"\partial_t (h v) + \nabla\cdot\left(h\,v\otimes v + \tfrac12 g h^2 I\right) "
        r"= -g h \nabla b"
    )
    solvers: ClassVar[tuple[str, ...]] = ("finite_volume",)
    dim = 2
    time_units: ClassVar[str] = "s"
    length_units: ClassVar[str] = "m"
    default_resolution: int = 128
    quick_resolution: ClassVar[int] = 32
    quick_params: ClassVar[Mapping[str, Any]] = {"n_times": 5}
    resolution_counts: ClassVar[str] = "cells per axis"
    reference: ClassVar[str] = "PDEBench, arXiv:2210.07182; Toro (2001); Audusse et al. (2004)"
    Params: ClassVar[type[EvolutionParameters]] = ShallowWaterParameters
    params: ShallowWaterParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.field = GaussianField(
            4.0, p.tau, n_modes=24, bounds=self.bounds(), zero_mean=True,
            basis="fourier" if p.walls == "periodic" else "cosine",
        ).normalized()  # fmt: skip

    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Return the square (-2.5, 2.5)^2."""
        return ((-2.5, 2.5), (-2.5, 2.5))

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Cells."""
        return Grid(
            tuple(
                Axis(
                    name, n, -2.5, 2.5, location="cell_center", units="m",
                    periodic=self.params.walls == "periodic",
                )
                for name, n in zip("xy", resolution, strict=True)
            )
        )  # fmt: skip

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Return the initial depth, and the bed if it is not flat."""
        p = self.params
        specs = [FieldSpec("h0", "initial depth", "m", location="cell_center", valid_min=0.0)]
        if p.bed > 0:
            specs.append(FieldSpec("bed", "height of the bed", "m", location="cell_center"))
        return tuple(specs)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Depth, never negative, and velocity."""
        return (
            FieldSpec(
                "h", "depth", "m", location="cell_center", time_varying=True, valid_min=0.0
            ),
            FieldSpec("v", "velocity", "m/s", 1, location="cell_center", time_varying=True),
        )  # fmt: skip

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Gravity."""
        return (ScalarSpec("gravity", "gravity", "m/s^2", self.params.gravity),)

    def boundary_specs(self) -> tuple[BoundarySpec, ...]:
        """Reflecting walls: no flow across, no friction along them."""
        if self.params.walls == "periodic":
            return ()
        return tuple(
            b for axis in "xy"
            for b in (
                BoundarySpec(axis, "neumann", ("h",)),
                BoundarySpec(axis, "slip", ("v",), units="m/s"),
            )
        )  # fmt: skip

    def sample(self, rng: np.random.Generator) -> dict[str, Callable[[Grid], np.ndarray]]:
        """Draw the initial depth and the bed."""
        p = self.params
        out: dict[str, Callable[[Grid], np.ndarray]] = {}
        if p.initial == "dam":
            radius = rng.uniform(p.radius_low, p.radius_high)
            column = _Column(float(radius), *map(float, rng.uniform(-p.shift, p.shift, 2)))
            surface = lambda grid: p.depth + (p.dam_depth - p.depth) * column(grid)  # noqa: E731
        else:
            field = self.field.draw(rng)
            surface = lambda grid: p.depth * (1 + p.bump * np.tanh(field(grid)))  # noqa: E731
        if p.bed > 0:
            ground = self.field.draw(rng)
            bed = lambda grid: 0.5 * p.bed * p.depth * (1 + np.tanh(ground(grid)))  # noqa: E731
            out["bed"] = bed
            out["h0"] = lambda grid: surface(grid) - bed(grid)
        else:
            out["h0"] = surface
        return out

    def evolve(
        self, inputs: Mapping[str, Any], grid: Grid, times: np.ndarray, *,
        solver: str, rtol: float, refine: float = 1.0,
    ) -> Solution:  # fmt: skip
        """Solve by MUSCL-HLLC and SSP-RK3; the Courant number ties the steps to the mesh width."""
        p = self.params
        h0 = inputs["h0"](grid)
        bed = inputs["bed"](grid) if "bed" in inputs else None
        r = solve_shallow_water(
            h0, times, grid, gravity=p.gravity, boundary=p.walls, rtol=p.time_rtol,
            bed=0.0 if bed is None else bed,
        )  # fmt: skip
        h = r.x[:, 0]
        v = np.moveaxis(r.x[:, 1:], 1, -1) / np.maximum(h, 1e-12)[..., None]
        fields = {"h0": h0, "h": h, "v": v}
        if bed is not None:
            fields["bed"] = bed
        return Solution(
            fields, r.residual, r.iterations, r.seconds, NAME, time_error=r.info["time_error"]
        )

    def convergence_order(self, solver: str) -> float:
        """Order in L2, as measured: 0.85 with shocks, 1.7 of smooth bumps (limiters cut tops)."""
        return 0.85 if self.params.initial == "dam" else 1.7

    def discretization_error(
        self, inputs: Any, solution: Solution, resolution: tuple[int, ...], *,
        solver: str, rtol: float = 1e-10,
    ) -> float:  # fmt: skip
        """As for every `Evolution`, but that four fine cells are averaged, not interpolated."""
        grid = self.grid(resolution)
        fine = self.evolve(inputs, grid.refined(2), self.times, solver=solver, rtol=rtol)
        truth = {n: _averaged(fine.fields[n]) for n in ("h", "v")}
        own = {n: solution.fields[n] for n in truth}
        error = space_time_error(own, truth, grid, self.times)
        return error * richardson_factor(self.convergence_order(solver))

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return "cell-centered finite volumes, MUSCL-HLLC with hydrostatic reconstruction; SSP-RK3"

    def checks(self) -> Iterator[Check]:
        """Stoker's dam break, a smooth wave, symmetry, lake at rest, mass, the estimate."""
        yield from _stoker()
        yield from _smooth()
        p = ShallowWater(initial="bumps", bed=0.4, n_times=3, gravity=9.81)
        inputs = p.sample(np.random.default_rng(0))
        grid = p.grid((32, 32))
        bed = inputs["bed"](grid)
        r = solve_shallow_water(1.0 - bed, p.times, grid, bed=bed)
        still = float(max(np.abs(r.x[:, 1:]).max(), np.abs(r.x[:, 0] + bed - 1.0).max()))
        yield at_most("lake at rest over a rough bed", still, 1e-12, kind="invariant")
        for walls in ("wall", "periodic"):
            p = ShallowWater(initial="bumps", walls=walls, n_times=3, t_end=3.0, bed=0.2)
            inputs = p.sample(np.random.default_rng(1))
            s = p.solve(inputs, (32, 32), solver="finite_volume")
            mass = s.fields["h"].sum(axis=(1, 2))
            change = float(np.abs(mass / mass[0] - 1).max())
            yield at_most(f"relative change of mass, {walls}", change, 1e-12, kind="invariant")
        p = ShallowWater(n_times=5)
        inputs = p.sample(np.random.default_rng(2))
        s = p.solve(inputs, (40, 40), solver="finite_volume")
        h = s.fields["h"]
        skew = max(np.abs(h - h.transpose(0, 2, 1)).max(), np.abs(h - h[:, ::-1]).max())
        yield at_most("symmetry of a centered dam break", float(skew), 1e-12, kind="invariant")
        for initial in ("dam", "bumps"):
            yield from self._estimate(initial)

    @staticmethod
    def _estimate(initial: str, n_fine: int = 160) -> Iterator[Check]:
        """Compare estimates on three grids with a reference, of a quarter if it is symmetric."""
        p = ShallowWater(initial=initial, n_times=3, t_end=0.5)
        inputs = p.sample(np.random.default_rng(3))
        dam = initial == "dam"
        if dam:  # the quarter (0, 2.5)^2 between walls has twice the cells
            axes = (Axis(a, n_fine, 0.0, 2.5, location="cell_center") for a in "xy")
            s = p.evolve(inputs, Grid(tuple(axes)), p.times, solver="finite_volume", rtol=0)
        else:
            s = p.solve(inputs, (n_fine, n_fine), solver="finite_volume")
        truth = {q: s.fields[q] for q in ("h", "v")}
        ratios, errors = [], []
        first_level = 3 if dam else 2
        sizes = [(2 * n_fine if dam else n_fine) // 2 ** (first_level + k) for k in range(3)]
        for n in sizes:
            while truth["h"].shape[1] > (n // 2 if dam else n):
                truth = {q: _averaged(w) for q, w in truth.items()}
            s = p.solve(inputs, (n, n), solver="finite_volume")
            first = n // 2 if dam else 0
            own = {q: s.fields[q][:, first:, first:] for q in truth}
            size = 2.5 if dam else 5.0
            axes = (Axis(a, n - first, 0.0, size, location="cell_center") for a in "xy")
            errors.append(space_time_error(own, truth, Grid(tuple(axes)), p.times))
            e = p.discretization_error(inputs, s, (n, n), solver="finite_volume")
            ratios.append(e / errors[-1])
        worst = max(ratios, key=lambda r: abs(np.log(r)))
        yield Check(
            f"estimate of the error, {initial}", float(worst), "1/2 to 2",
            bool(0.5 <= worst <= 2), "estimate",
            "estimate over error: " + ", ".join(f"{r:.2f}" for r in ratios) + "; errors "
            + ", ".join(f"{e:.2e}" for e in errors),
        )  # fmt: skip


def _averaged(u: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 cells; axes 1 and 2 are space."""
    t, n, m = u.shape[:3]
    cells = u.reshape(t, n // 2, 2, m // 2, 2, *u.shape[3:])
    out: np.ndarray = cells.mean(axis=(2, 4))
    return out


def _stoker() -> Iterator[Check]:
    errors, h = [], []
    for n in (100, 200, 400):
        grid = Grid((Axis("x", n, -1.0, 1.0, location="cell_center"),))
        x = grid.coords[0]
        start = np.where(x < 0, 2.0, 1.0)
        r = solve_shallow_water(start, [0.0, 0.4], grid, gravity=1.0)
        depth, velocity = dam_break_1d(x, 0.4, left=2.0, right=1.0, gravity=1.0)
        gap = np.abs(r.x[1, 0] - depth) + np.abs(r.x[1, 1] - depth * velocity)
        errors.append(float(np.sum(grid.weights * gap)))
        h.append(grid.spacing[0])
    yield order_check("Stoker's dam break, L1", h, errors, 1.0)


def _smooth() -> Iterator[Check]:
    """Follow a simple wave before it breaks: exact along its straight characteristics."""
    errors, h = [], []
    t = 0.2
    for n in (64, 128, 256):
        grid = Grid((Axis("x", n, location="cell_center", periodic=True),))
        nodes, weights = np.polynomial.legendre.leggauss(4)
        x = grid.coords[0][:, None] + 0.5 * grid.spacing[0] * nodes  # for averages over cells

        def speed(y: np.ndarray) -> np.ndarray:  # sqrt(g h)
            return 1.0 + 0.05 * np.sin(2 * np.pi * y)

        # u = 2 (c - 1): the wave of height c^2 moves with u + c = 3 c - 2
        y = x.copy()
        for _ in range(60):
            y = x - t * (3 * speed(y) - 2)
        c, c0 = speed(y), speed(x)
        mean = lambda f, w=weights: f @ w / 2  # noqa: E731
        h0, hu0 = mean(c0**2), mean(c0**2 * 2 * (c0 - 1))
        r = solve_shallow_water(
            h0, [0.0, t], grid, velocity0=(hu0 / h0)[None], gravity=1.0, boundary="periodic"
        )
        gap = np.abs(r.x[1, 0] - mean(c**2)) + np.abs(r.x[1, 1] - mean(c**2 * 2 * (c - 1)))
        errors.append(float(gap.mean()))
        h.append(grid.spacing[0])
    yield order_check("smooth simple wave, L1", h, errors, 2.0)
