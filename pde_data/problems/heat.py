"""Heat conduction with variable conductivity, sources and walls of all kinds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.evolution import solve_parabolic
from solvers.grids import Axis, Grid
from solvers.verify import manufactured_diffusion

from ..fields import GaussianField, SpaceFunction, TransformedField, lognormal
from ..hdf5.schema import BoundarySpec, FieldSpec, ScalarSpec
from ..problem import ProblemError, Solution, register
from ..verification import Check, at_most, order_check
from ._evolution import Evolution, EvolutionParameters
from ._evolution_checks import space_checks, time_checks

__all__ = ["Heat", "HeatParameters"]


class HeatParameters(EvolutionParameters):
    """Parameters of `Heat`."""

    t_end: float = Field(0.1, gt=0, allow_inf_nan=False, description="last stored time, s")
    dim: Literal[1, 2] = Field(2, description="space dimensions")
    walls: Literal["mixed", "dirichlet", "neumann", "robin"] = Field(
        "mixed",
        description="dirichlet: u = 0; neumann: insulated; robin: a du/dn + transfer u = 0; mixed: "
        "dirichlet at the lower end of x, robin at its upper end, the others insulated",
    )
    transfer: float = Field(
        1.0, ge=0, le=1e6, description="heat transfer coefficient of robin sides, W/(m^2*K)"
    )
    conductivity: float = Field(
        1.0, gt=0, le=1e6, description="median of the thermal conductivity a, W/(m*K)"
    )
    sigma: float = Field(
        0.5, ge=0, le=5, description="standard deviation of log a; 0: a is constant"
    )
    capacity: float = Field(
        1.0, gt=0, le=1e12, description="heat capacity of a unit volume c, J/(m^3*K)"
    )
    source: float = Field(
        10.0, ge=0, le=1e12, description="standard deviation of the heat source f, W/m^3"
    )
    u0: float = Field(
        1.0, ge=0, le=1e6, description="standard deviation of the initial temperature, K"
    )
    alpha: float = Field(
        4.0, gt=1, le=20, description="smoothness of the Gaussian fields, covariance "
        "(-Laplacian + tau^2)^(-alpha)",
    )  # fmt: skip
    tau: float = Field(8.0, gt=0, le=1e3, description="inverse correlation length, 1/m")
    n_modes: int = Field(32, ge=2, le=1024, description="modes per axis of the fields")

    @model_validator(mode="after")
    def _check(self) -> HeatParameters:
        if self.u0 == 0 and self.source == 0:
            raise ValueError("u0=0.0 and source=0.0: one must be positive, or nothing happens")
        return self


@register
class Heat(Evolution):
    """Heat conduction ``c u_t = div(a grad u) + f`` in the unit interval or square.

    Conductivity `a` is log-normal, source `f` and initial temperature Gaussian fields; `u` is the
    temperature above the surroundings. The initial temperature vanishes at Dirichlet walls.
    """

    name: ClassVar[str] = "heat"
    title: ClassVar[str] = "Heat conduction in a random medium"
    equation: ClassVar[str] = r"c\,\partial_t u = \nabla\cdot(a\,\nabla u) + f"
    solvers: ClassVar[tuple[str, ...]] = ("finite_volume",)
    time_units: ClassVar[str] = "s"
    length_units: ClassVar[str] = "m"
    periodic: ClassVar[bool] = False
    default_resolution: int = 65
    quick_resolution: ClassVar[int] = 17
    quick_params: ClassVar[Mapping[str, Any]] = {"n_times": 5, "time_rtol": 1e-5}
    reference: ClassVar[str] = "Carslaw & Jaeger, Conduction of heat in solids (1959)"
    Params: ClassVar[type[EvolutionParameters]] = HeatParameters
    params: HeatParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.dim = p.dim
        bounds = ((0.0, 1.0),) * p.dim
        basis: Any = "sine" if p.walls == "dirichlet" else "cosine"
        common: dict[str, Any] = {"n_modes": p.n_modes, "bounds": bounds}
        self.field = GaussianField(p.alpha, p.tau, **common).normalized()
        self.start = GaussianField(p.alpha, p.tau, basis=basis, **common).normalized()

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Conductivity, source and initial temperature."""
        return (
            FieldSpec("a", "thermal conductivity", "W/(m*K)", valid_min=0.0),
            FieldSpec("f", "heat source", "W/m^3"),
            FieldSpec("u0", "initial temperature above the surroundings", "K"),
        )

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Return the temperature."""
        return (FieldSpec("u", "temperature above the surroundings", "K", time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Heat capacity and transfer coefficient."""
        p = self.params
        return (
            ScalarSpec("capacity", "heat capacity of a unit volume", "J/(m^3*K)", p.capacity),
            ScalarSpec("transfer", "heat transfer coefficient", "W/(m^2*K)", p.transfer),
        )

    def _kinds(self) -> list[tuple[str, str]]:
        """Kind of every side, robin included."""
        walls = self.params.walls
        if walls == "mixed":
            return [("dirichlet", "robin"), ("neumann", "neumann")][: self.dim]
        return [(walls, walls)] * self.dim

    def boundary_specs(self) -> tuple[BoundarySpec, ...]:
        """Walls; Robin with alpha, and beta = 1 for ``a du/dn``."""
        out = []
        for axis, pair in zip("xyz", self._kinds(), strict=False):
            for side, kind in zip(("lower", "upper"), pair, strict=True):
                alpha, units = None, {"dirichlet": "K", "neumann": "W/m^2", "robin": "W/m^2"}[kind]
                beta = None
                if kind == "robin":
                    alpha, beta = self.params.transfer, 1.0
                out.append(
                    BoundarySpec(axis, kind, ("u",), side, alpha=alpha, beta=beta, units=units)  # type: ignore[arg-type]
                )
        return tuple(out)

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw conductivity, source and initial temperature."""
        p = self.params
        log_a, f, u0 = self.field.draw(rng), self.field.draw(rng), self.start.draw(rng)
        ramp = p.walls == "mixed"  # zero at the lower wall of x

        def initial(grid: Grid) -> np.ndarray:
            u = p.u0 * u0(grid)
            if ramp:
                axis = grid.axes[0]
                s = (axis.coords - axis.lower) / (axis.upper - axis.lower)
                u = u * np.sin(0.5 * np.pi * s).reshape(-1, *(1,) * (grid.dim - 1))
            return u

        scaled = TransformedField(log_a, lambda g: p.sigma * g + math.log(p.conductivity))
        return {
            "a": lognormal(scaled),
            "f": TransformedField(f, lambda g: p.source * g),
            "u0": initial,
        }

    def evolve(
        self, inputs: Mapping[str, SpaceFunction], grid: Grid, times: np.ndarray, *,
        solver: str, rtol: float, refine: float = 1.0,
    ) -> Solution:  # fmt: skip
        """Solve by finite volumes and ARK4."""
        p = self.params
        a, f, u0 = (inputs[n](grid) for n in ("a", "f", "u0"))
        kinds = self._kinds()
        robin = {
            (k, s): p.transfer for k, pair in enumerate(kinds)
            for s, kind in enumerate(pair) if kind == "robin"
        }  # fmt: skip
        boundary = [tuple("neumann" if k == "robin" else k for k in pair) for pair in kinds]
        r = solve_parabolic(
            u0, times, grid, diffusivity=a, source=f, capacity=p.capacity, boundary=boundary,
            robin=robin, rtol=p.time_rtol / refine**4,
        )  # fmt: skip
        fields = {"a": a, "f": f, "u0": u0, "u": r.x}
        return Solution(
            fields, r.residual, r.iterations, r.seconds, r.solver, time_error=r.info["time_error"]
        )

    def convergence_order(self, solver: str) -> float:
        """Finite volumes with smooth coefficients: 2."""
        return 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return "vertex-centered finite volumes, harmonic means of a; ARK4(3)6L in time"

    def check_resolution(self, resolution: int | tuple[int, ...] | None) -> tuple[int, ...]:
        """Return one number of points an axis, at most 1025 in 2-D."""
        out = super().check_resolution(resolution)
        if self.dim == 2 and max(out) > 1025:
            raise ProblemError(f"resolution={max(out)}: heat in 2-D allows at most 1025")
        return out

    def checks(self) -> Iterator[Check]:
        """Decaying eigenmodes for each kind of wall, a manufactured solution, order in time."""
        for dim in (1, 2):
            for walls in ("dirichlet", "neumann", "robin", "mixed"):
                yield from self._eigenmode(dim, walls)
        yield from self._manufactured()

    def _eigenmode(self, dim: int, walls: str) -> Iterator[Check]:
        # capacity 2, a = 3: u = exp(-k^2 a/c t) times the mode of wave number k on each axis
        p = Heat(
            dim=dim, walls=walls, conductivity=3.0, capacity=2.0, transfer=1.5, sigma=0,
            t_end=0.2, n_times=4, time_rtol=1e-7,
        )  # fmt: skip
        shapes = [_mode(pair, 3.0, 1.5) for pair in p._kinds()]
        rate = 1.5 * sum(k**2 for k, _ in shapes)

        def mode(grid: Grid) -> np.ndarray:
            u = np.ones(())
            for (_, shape), axis in zip(shapes, grid.axes, strict=True):
                u = np.multiply.outer(u, shape(axis.coords))
            return u

        inputs = {
            "a": lambda g: np.full(g.shape, 3.0), "f": lambda g: np.zeros(g.shape), "u0": mode,
        }  # fmt: skip
        yield from space_checks(
            p, inputs,
            lambda g, t: {"u": np.multiply.outer(np.exp(-rate * t), mode(g))},
            (17, 33, 65) if dim == 1 else (9, 17, 33), solver="finite_volume",
            label=f"eigenmode, {walls}, {dim}-D",
        )  # fmt: skip

    def _manufactured(self) -> Iterator[Check]:
        # u = exp(-t) U(x) with variable a; f = exp(-t) (F - U) depends on time
        t = np.linspace(0.0, 0.5, 3)
        for kinds in ("dirichlet", "neumann", [("dirichlet", "neumann"), ("neumann", "neumann")]):
            ms = manufactured_diffusion(2, boundary=kinds, homogeneous=True)
            errors, h = [], []
            for n in (9, 17, 33):
                grid = Grid.unit(n)
                v = ms.fields(grid)
                r = solve_parabolic(
                    v["u"], t, grid, diffusivity=v["a"], boundary=kinds, rtol=1e-6,
                    source=partial(_decaying, v["f"] - v["u"]),
                )  # fmt: skip
                errors.append(grid.norm(r.x[-1] - np.exp(-t[-1]) * v["u"]))
                h.append(grid.spacing[0])
            yield order_check(f"manufactured, variable a, 2-D, {kinds}", h, errors, 2.0)
        grid = Grid((Axis("x", 33),))
        x = grid.coords[0]
        u0 = np.sin(np.pi * x) + 0.3 * np.sin(3 * np.pi * x)

        def run(dt: float) -> Any:
            return solve_parabolic(
                u0, t, grid, boundary="dirichlet", dt=dt, diffusivity=0.2,
                source=lambda s: np.cos(5 * s) * x * (1 - x),
            )  # fmt: skip

        yield from time_checks(
            run, (0.125, 0.0625, 0.03125), 4.0, grid=grid, times=t, label="ARK4, time-dependent f"
        )
        # nothing enters or leaves through insulated walls
        rng = np.random.default_rng(0)
        p = Heat(walls="neumann", source=0.0)
        s = p.solve(p.sample(rng), (17, 17), solver="finite_volume")
        w = p.grid((17, 17)).weights
        heat = np.sum(w * s.fields["u"], axis=(1, 2))
        size = np.sum(w * np.abs(s.fields["u0"]))
        yield at_most(
            "heat is conserved between insulated walls", np.abs(heat - heat[0]).max() / size,
            1e-12, kind="invariant",
        )  # fmt: skip


def _decaying(f: np.ndarray, t: float) -> np.ndarray:
    return np.exp(-t) * f


def _mode(pair: tuple[str, str], a: float, transfer: float) -> tuple[float, Any]:
    """Wave number and shape of an eigenmode on the unit interval between these walls."""
    from scipy.optimize import brentq

    if pair == ("dirichlet", "dirichlet"):
        return np.pi, lambda x: np.sin(np.pi * x)
    if pair == ("neumann", "neumann"):
        return np.pi, lambda x: np.cos(np.pi * x)
    if pair == ("dirichlet", "robin"):  # a k cos k + transfer sin k = 0
        k = brentq(lambda k: a * k * np.cos(k) + transfer * np.sin(k), 0.5 * np.pi, np.pi)
        return k, lambda x: np.sin(k * x)
    # robin on both sides: even about the middle, a k tan(k/2) = transfer
    k = brentq(lambda k: a * k * np.sin(k / 2) - transfer * np.cos(k / 2), 1e-6, np.pi)
    return k, lambda x: np.cos(k * (x - 0.5))
