"""Incompressible flow past a cylinder in a channel, steady and unsteady."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from solvers.result import SolveResult

from ..hdf5.schema import ExtraAxis, FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, agreement, order_check
from ._fem import FemParameters, FemProblem
from .stokes import manufactured_flow, obstacle_axes, obstacle_field

__all__ = ["NavierStokesFlow", "NavierStokesFlowParameters"]

LENGTH, HEIGHT = 2.2, 0.41
#: Published values of the benchmark 2D-1: drag and lift coefficient.
DFG_2D_1 = (5.57953523384, 0.010618948146)


class NavierStokesFlowParameters(FemParameters):
    """Parameters of `NavierStokesFlow`."""

    unsteady: bool = Field(
        False,
        description="store the flow at n_times times, from the Stokes flow on, instead of "
        "the steady flow",
    )
    re_range: tuple[float, float] | None = Field(
        None,
        description="smallest and largest Reynolds number, of the mean inflow and the diameter; "
        "log-uniform. 1 to 500; default 5 to 40, unsteady 50 to 100",
    )
    x_range: tuple[float, float] = Field((0.15, 0.3), description="x of the cylinder's center, m")
    y_range: tuple[float, float] = Field((0.16, 0.25), description="y of the cylinder's center, m")
    r_range: tuple[float, float] = Field((0.04, 0.06), description="radius of the cylinder, m")
    mean_speed: float = Field(0.2, gt=0, le=100, description="mean inflow velocity U, m/s")
    final_time: float = Field(
        4.0, gt=0, le=100, description="last time, in D / U (diameter 0.1 m): unsteady"
    )
    n_times: int = Field(11, ge=2, le=1001, description="stored times, unsteady")
    time_tol: float = Field(
        0.01, gt=0, le=0.2, description="relative L2 error that time steps may make, unsteady"
    )

    @model_validator(mode="after")
    def _check(self) -> NavierStokesFlowParameters:
        for name in ("re_range", "x_range", "y_range", "r_range"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1] < 1e4:
                raise ValueError(f"{name}={pair}: need 0 < smallest <= largest")
        r = self.r_range[1] + 0.02
        if self.re_range is not None and not 1 <= self.re_range[0] <= self.re_range[1] <= 500:
            raise ValueError(f"re_range={self.re_range}: need values from 1 to 500")
        if self.x_range[0] < r or self.x_range[1] > LENGTH - 0.5:
            raise ValueError(f"x_range={self.x_range}: need {r:g} to {LENGTH - 0.5:g}")
        if self.y_range[0] < r or self.y_range[1] > HEIGHT - r:
            raise ValueError(f"y_range={self.y_range}: need {r:g} to {HEIGHT - r:g}")
        return self


@register
class NavierStokesFlow(FemProblem):
    """Flow past a cylinder in a channel: the DFG benchmark with a random cylinder.

    Parameters
    ----------
    **params
        Fields of `NavierStokesFlowParameters`.

    Notes
    -----
    Channel 2.2 m x 0.41 m; inflow ``6 U y (H - y) / H^2``; no slip on walls and cylinder; outflow
    ``nu du/dn = p n``; density 1 kg/m^3, `p` the kinematic pressure. The Reynolds number ``U D /
    nu`` uses the sample's diameter. With center (0.2, 0.2), radius 0.05 and Re = 20 this is the
    benchmark 2D-1 [1]_, ``c_D = 5.5795``, ``c_L = 0.0106``; the unsteady one starts from the
    Stokes flow in the same channel, and has the viscosity of 2D-2 at Re = 100. Its first pressure
    is that of the first time step; `time_error` is that of the velocity.

    References
    ----------
    .. [1] Schaefer & Turek, "Benchmark computations of laminar flow around a cylinder" (1996);
       reference values: featflow.de, "DFG flow around cylinder benchmark 2D-1".
    """

    name: ClassVar[str] = "navier_stokes_flow"
    title: ClassVar[str] = "Incompressible flow past a cylinder in a channel"
    equation: ClassVar[str] = (
        r"\partial_t u + (u\cdot\nabla)u - \nu\,\Delta u + \nabla p = 0,\quad \nabla\cdot u = 0"
    )
    default_resolution = 64
    quick_resolution = 24
    fixed_domain = False
    box = ((0.0, LENGTH), (0.0, HEIGHT))
    reference: ClassVar[str] = "Schaefer & Turek (1996), DFG benchmark 2D-1, 2D-2"
    Params: ClassVar[type[NavierStokesFlowParameters]] = NavierStokesFlowParameters
    params: NavierStokesFlowParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.re_range = p.re_range or ((50.0, 100.0) if p.unsteady else (5.0, 40.0))
        if p.unsteady:
            t = np.linspace(0.0, p.final_time * 0.1 / p.mean_speed, p.n_times)
            self.times = tuple(t.tolist())

    def domain(self, inputs: Any) -> Any:
        """Channel of a sample."""
        from solvers.fenicsx import channel, circle

        x, y, r = inputs["obstacles"][0].tolist()
        return channel(LENGTH, HEIGHT, [circle((x, y), r, fineness=0.25)])

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the cylinder and the Reynolds number."""
        p = self.params
        obstacle = [float(rng.uniform(*r)) for r in (p.x_range, p.y_range, p.r_range)]
        low, high = self.re_range
        re = math.exp(rng.uniform(math.log(low), math.log(high)))
        return {"obstacles": np.array([obstacle]), "reynolds": re}

    def point_fields(self) -> tuple[FieldSpec, ...]:
        """Velocity and pressure."""
        t = self.params.unsteady
        return (
            FieldSpec(
                "velocity", "velocity", "m/s", rank=1, time_varying=t, element_family="Lagrange",
                element_degree=2,
            ),
            FieldSpec(
                "p", "kinematic pressure", "m^2/s^2", time_varying=t, element_family="Lagrange",
                element_degree=1,
            ),
        )  # fmt: skip

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Cylinder and Reynolds number in, velocity and pressure out."""
        return ("obstacles", "reynolds"), ("velocity", "p")

    def extra_fields(self) -> tuple[tuple[FieldSpec, ...], tuple[ExtraAxis, ...]]:
        """Center and radius of the cylinder."""
        return (obstacle_field(),), tuple(obstacle_axes(1))

    def extra_values(self, inputs: Any) -> dict[str, np.ndarray]:
        """Center and radius of the cylinder."""
        return {"obstacles": inputs["obstacles"]}

    def scalar_specs(self) -> tuple[ScalarSpec, ...]:
        """Reynolds number, viscosity, and for steady flows the forces."""
        out = [
            ScalarSpec("reynolds", "Reynolds number of mean inflow and diameter"),
            ScalarSpec("viscosity", "kinematic viscosity", "m^2/s"),
        ]
        if not self.params.unsteady:
            out += [ScalarSpec("drag", "drag coefficient"), ScalarSpec("lift", "lift coefficient")]
        return tuple(out)

    def compute(
        self, inputs: Mapping[str, Any], mesh: Any, rtol: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        """Solve with Taylor-Hood elements."""
        from solvers.fenicsx import NavierStokes, Stokes

        p, n = self.params, len(mesh.points)
        diameter = 2 * float(inputs["obstacles"][0, 2])
        nu = p.mean_speed * diameter / inputs["reynolds"]
        scalars = {"reynolds": inputs["reynolds"], "viscosity": nu}

        def inflow(x: np.ndarray) -> np.ndarray:
            return np.stack([6 * p.mean_speed * x[1] * (HEIGHT - x[1]) / HEIGHT**2, 0 * x[1]])

        velocity = {"inlet": inflow, "wall": 0.0, "hole": 0.0}
        flow = self.family(mesh, NavierStokes)
        if p.unsteady:
            u0 = self.family(mesh, Stokes).solve(nu, velocity, rtol=rtol).x[:, :2]
            # steps in which the inflow crosses a quarter of a cell
            interval = self.times[1] - self.times[0]
            steps = max(4, math.ceil(interval * 3 * p.mean_speed / (0.5 * mesh.size)))
            r = flow.evolve(
                u0, self.times, nu, velocity, time_tol=p.time_tol, n_steps=steps, rtol=rtol
            )
            return {"velocity": r.x[:, :n, :2], "p": r.x[:, :n, 2]}, r, scalars
        r = flow.solve(nu, velocity, rtol=rtol)
        drag, lift = 2 * flow.force(r.x, nu, "hole") / (p.mean_speed**2 * diameter)
        scalars |= {"drag": float(drag), "lift": float(lift)}
        return {"velocity": r.x[:n, :2], "p": r.x[:n, 2]}, r, scalars

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return f"Taylor-Hood P2-P1 on triangles of size {self.mesh_size(resolution):.3g}" + (
            ", SBDF2 in time" if self.params.unsteady else ""
        )

    def checks(self) -> Iterable[Check]:
        """Manufactured flow, the benchmark's drag and lift, decaying vortex in time."""
        yield from navier_stokes_checks()


def navier_stokes_checks() -> Iterable[Check]:
    """Known flows."""
    from solvers.fenicsx import NavierStokes, rectangle, triangulate

    sizes, velocities, pressures = manufactured_flow(NavierStokes, 10.0, 1.0)
    yield order_check("order in space, velocity", sizes, velocities, 3.0)
    yield order_check("order in space, pressure", sizes, pressures, 2.0)

    problem = NavierStokesFlow()
    benchmark = {"obstacles": np.array([[0.2, 0.2, 0.05]]), "reynolds": 20.0}
    s = problem.solve(benchmark, (64,), solver="fenicsx")
    note = "DFG benchmark 2D-1, within 1 %"
    for name, value in zip(("drag", "lift"), DFG_2D_1, strict=True):
        yield agreement(
            f"{name} coefficient", s.scalars[name], value, within=0.01 * value, note=note
        )

    # from rest, dragged along by the boundary; compared with much smaller steps
    mesh = triangulate(rectangle(), 1 / 8)
    flow = NavierStokes(mesh)

    def whirl(x: np.ndarray) -> np.ndarray:
        c, s = np.cos(np.pi * x), np.sin(np.pi * x)
        return np.stack([s[0] * c[1], -c[0] * s[1]])

    results = [
        flow.evolve(
            (0.0, 0.0), [0.0, 0.2], 0.05, dict.fromkeys(mesh.names, whirl), time_tol=1e9, n_steps=n
        ).x[1, :, :2]
        for n in (8, 16, 32, 256)
    ]
    errors = [float(np.linalg.norm(x - results[-1])) for x in results[:-1]]
    yield order_check("order in time", [1 / 16, 1 / 32, 1 / 64], errors, 2.0)
