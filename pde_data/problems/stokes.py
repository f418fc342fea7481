"""Creeping flow through a channel with random obstacles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from solvers.result import SolverDidNotConverge, SolveResult

from ..functions import GaussianSpace
from ..hdf5.schema import ExtraAxis, FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, agreement, at_most, order_check
from ._fem import FemParameters, FemProblem

__all__ = ["StokesFlow", "StokesFlowParameters", "draw_obstacles"]


class StokesFlowParameters(FemParameters):
    """Parameters of `StokesFlow`."""

    n_obstacles: int = Field(2, ge=0, le=6, description="round obstacles, their number")
    aspect: float = Field(2.0, ge=1, le=6, description="length of the channel over its height 1")
    r_min: float = Field(0.06, ge=0.02, le=0.3, description="smallest radius, m")
    r_max: float = Field(0.14, ge=0.02, le=0.3, description="largest radius, m")
    gap: float = Field(
        0.06,
        ge=0.02,
        le=0.5,
        description="least distance of obstacles and walls from each other, m",
    )
    viscosity: float = Field(1.0, gt=0, description="dynamic viscosity, Pa*s")
    speed: float = Field(1.0, gt=0, description="largest speed of the parabolic inflow, m/s")
    variation: float = Field(
        0.3,
        ge=0,
        le=1,
        description="standard deviation of the inflow's factor 1 + Gaussian process",
    )
    length: float = Field(0.3, ge=0.05, le=10, description="correlation length of that process, m")
    n_sensors: int = Field(41, ge=2, le=10001, description="points y at which the inflow is stored")

    @model_validator(mode="after")
    def _check(self) -> StokesFlowParameters:
        if not self.r_min <= self.r_max:
            raise ValueError(f"r_min={self.r_min}, r_max={self.r_max}: need r_min <= r_max")
        if 2 * (self.r_max + self.gap) >= 1:
            raise ValueError(f"r_max={self.r_max}: obstacles and gaps do not fit in the channel")
        return self


def draw_obstacles(
    rng: np.random.Generator, n: int, *, radii: tuple[float, float], gap: float, aspect: float
) -> np.ndarray:
    """Draw discs that keep `gap` from each other and the walls, and from the ends twice that.

    Returns
    -------
    ndarray, shape (n, 3)
        Center and radius, sorted by x.

    Raises
    ------
    SolverDidNotConverge
        No room after 2000 trials: the sample counts as failed.
    """
    out: list[tuple[float, float, float]] = []
    for _ in range(2000):
        if len(out) == n:
            break
        r = float(rng.uniform(*radii))
        m = r + gap
        x = float(rng.uniform(m + gap, aspect - m - gap))
        y = float(rng.uniform(m, 1 - m))
        if all(np.hypot(x - a, y - b) >= r + c + gap for a, b, c in out):
            out.append((x, y, r))
    if len(out) < n:
        raise SolverDidNotConverge(
            "obstacles", iterations=2000, residual=float(n - len(out)), rtol=0.0,
            note=f"no room for n_obstacles={n}: take fewer or smaller ones",
        )  # fmt: skip
    return np.array(sorted(out)).reshape(n, 3)


@register
class StokesFlow(FemProblem):
    """Stokes flow through a channel of height 1 around round obstacles.

    Parameters
    ----------
    **params
        Fields of `StokesFlowParameters`.

    Notes
    -----
    Inflow on the left: ``4 U y (1 - y) (1 + z(y))`` with `z` a Gaussian process of squared
    exponential kernel; no slip on walls and obstacles; on the right ``mu du/dn = p n``. Inputs
    are the inflow at the sensors and the obstacles, centers and radii sorted by x.
    """

    name: ClassVar[str] = "stokes_flow"
    title: ClassVar[str] = "Stokes flow around random obstacles"
    equation: ClassVar[str] = r"-\mu\,\Delta u + \nabla p = 0,\quad \nabla\cdot u = 0"
    default_resolution = 48
    quick_resolution = 16
    fixed_domain = False
    Params: ClassVar[type[StokesFlowParameters]] = StokesFlowParameters
    params: StokesFlowParameters
    reference: ClassVar[str] = "channel with obstacles; Taylor & Hood, Computers & Fluids 1 (1973)"

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.box = ((0.0, p.aspect), (0.0, 1.0))
        self.process = GaussianSpace(length=p.length, sigma=max(p.variation, 1e-300))
        self.fixed_domain = p.n_obstacles == 0

    def domain(self, inputs: Any) -> Any:
        """Channel of a sample."""
        from solvers.fenicsx import channel, circle

        obstacles = np.empty((0, 3)) if self.fixed_domain else inputs["obstacles"]
        holes = [circle((x, y), r, fineness=0.6) for x, y, r in obstacles.tolist()]
        return channel(self.params.aspect, 1.0, holes)

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw obstacles and inflow (a function of y)."""
        p, z = self.params, self.process.draw(rng)

        def inflow(y: np.ndarray) -> np.ndarray:
            y = np.clip(y, 0.0, 1.0)
            return 4 * p.speed * y * (1 - y) * (1 + z(y))

        obstacles = draw_obstacles(
            rng, p.n_obstacles, radii=(p.r_min, p.r_max), gap=p.gap, aspect=p.aspect
        )
        return {"inflow": inflow, "obstacles": obstacles}

    def point_fields(self) -> tuple[FieldSpec, ...]:
        """Velocity and pressure."""
        return (
            FieldSpec(
                "velocity", "velocity", "m/s", rank=1, element_family="Lagrange", element_degree=2
            ),
            FieldSpec("p", "pressure", "Pa", element_family="Lagrange", element_degree=1),
        )

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Inflow and obstacles in, velocity and pressure out."""
        inputs = ("inflow", "obstacles") if self.params.n_obstacles else ("inflow",)
        return inputs, ("velocity", "p")

    def extra_fields(self) -> tuple[tuple[FieldSpec, ...], tuple[ExtraAxis, ...]]:
        """Inflow at the sensors, obstacles."""
        y = tuple(np.linspace(0.0, 1.0, self.params.n_sensors).tolist())
        fields = [FieldSpec("inflow", "inflow velocity along x", "m/s", dims=("sensor",))]
        axes = [ExtraAxis("sensor", y, "m", "y at the inlet")]
        if self.params.n_obstacles:
            fields.append(obstacle_field())
            axes += obstacle_axes(self.params.n_obstacles)
        return tuple(fields), tuple(axes)

    def extra_values(self, inputs: Any) -> dict[str, np.ndarray]:
        """Inflow at the sensors, obstacles."""
        out = {"inflow": inputs["inflow"](np.linspace(0.0, 1.0, self.params.n_sensors))}
        if self.params.n_obstacles:
            out["obstacles"] = inputs["obstacles"]
        return out

    def scalar_specs(self) -> tuple[ScalarSpec, ...]:
        """Viscosity."""
        return (ScalarSpec("viscosity", "dynamic viscosity", "Pa*s", self.params.viscosity),)

    def compute(
        self, inputs: Mapping[str, Any], mesh: Any, rtol: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        """Solve with Taylor-Hood elements."""
        from solvers.fenicsx import Stokes

        inflow = inputs["inflow"]
        velocity: dict[str, Any] = {"inlet": lambda x: np.stack([inflow(x[1]), 0 * x[1]])}
        velocity |= {n: 0.0 for n in mesh.names if n in ("wall", "hole")}
        r = self.family(mesh, Stokes).solve(self.params.viscosity, velocity, rtol=rtol)
        n = len(mesh.points)
        return {"velocity": r.x[:n, :2], "p": r.x[:n, 2]}, r, {}

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return f"Taylor-Hood P2-P1 on triangles of size {self.mesh_size(resolution):.3g}"

    def checks(self) -> Iterable[Check]:
        """Poiseuille flow, manufactured solution, conservation of volume."""
        yield from stokes_checks()


def obstacle_field() -> FieldSpec:
    """Centers and radii."""
    return FieldSpec(
        "obstacles", "centers and radii of the obstacles", "m", dims=("obstacle", "parameter"),
        labels=("x", "y", "radius"),
    )  # fmt: skip


def obstacle_axes(n: int) -> list[ExtraAxis]:
    """Axes of `obstacle_field`."""
    return [ExtraAxis.index("obstacle", n), ExtraAxis.index("parameter", 3)]


def vortex(x: np.ndarray) -> np.ndarray:
    """Divergence-free velocity of the manufactured flows."""
    return np.stack([np.sin(x[0]) * np.cos(x[1]), -np.cos(x[0]) * np.sin(x[1])])


def vortex_gradient(x: np.ndarray) -> np.ndarray:
    """Its gradient."""
    (c, s), (d, t) = ((np.cos(v), np.sin(v)) for v in x)
    return np.array([[c * d, -s * t], [s * t, -c * d]])


def vortex_pressure(x: np.ndarray) -> np.ndarray:
    """Return the pressure that goes with it."""
    return np.sin(2 * x[0] + x[1])


def manufactured_flow(solver: Any, nu: float, convection: float) -> tuple[Any, Any, Any]:
    """Mesh sizes and errors of velocity and pressure on three meshes."""
    from solvers.fenicsx import rectangle, triangulate

    def force(x: np.ndarray) -> np.ndarray:
        slope = np.cos(2 * x[0] + x[1])
        convected = 0.5 * np.stack([np.sin(2 * x[0]), np.sin(2 * x[1])])
        return 2 * nu * vortex(x) + np.stack([2 * slope, slope]) + convection * convected

    def traction(x: np.ndarray) -> np.ndarray:
        return nu * vortex_gradient(x)[:, 1] - vortex_pressure(x) * np.array([[0.0], [1.0]])

    mesh = triangulate(rectangle(), 1 / 4)
    sizes, velocities, pressures = [], [], []
    for _ in range(3):
        flow = solver(mesh)
        r = flow.solve(
            nu, dict.fromkeys(("bottom", "left", "right"), vortex), f=force,
            traction={"top": traction},
        )  # fmt: skip
        u, p = flow.errors(r.x, vortex, vortex_pressure)
        velocities.append(u)
        pressures.append(p)
        sizes.append(mesh.size)
        mesh = mesh.refined()
    return sizes, velocities, pressures


def stokes_checks() -> Iterable[Check]:
    """Known Stokes flows."""
    from solvers.fenicsx import Stokes, channel, circle, triangulate

    flow = Stokes(triangulate(channel(2.0, 1.0, []), 1 / 4))

    def poiseuille(x: np.ndarray) -> np.ndarray:
        return np.stack([x[1] * (1 - x[1]), 0 * x[0]])

    x = flow.solve(0.5, {"wall": 0.0, "inlet": poiseuille}).x
    error = max(flow.errors(x, poiseuille, lambda x: 2.0 - x[0]))
    yield at_most("Poiseuille flow, error of velocity and pressure", error, 1e-11)

    sizes, velocities, pressures = manufactured_flow(Stokes, 10.0, 0.0)
    yield order_check("order in space, velocity", sizes, velocities, 3.0)
    yield order_check("order in space, pressure", sizes, pressures, 2.0)

    mesh = triangulate(channel(2.0, 1.0, [circle((0.6, 0.45), 0.2)]), 1 / 8)
    flow = Stokes(mesh)
    x = flow.solve(0.5, {"inlet": poiseuille, "wall": 0.0, "hole": 0.0}).x
    out, into = flow.flow_rate(x, "outlet"), flow.flow_rate(x, "inlet")
    yield agreement("volume in (1/6)", -into, 1 / 6, within=1e-12, kind="invariant")
    yield agreement("volume out over in", -out / into, 1.0, within=1e-9, kind="invariant")
