"""Heat conduction in polygons with holes, steady and unsteady."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.result import SolveResult

from ..fields import GaussianField
from ..hdf5.schema import FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, agreement, at_most, order_check
from ._fem import FemParameters, FemProblem, at_points
from .darcy_geometry import random_polygon

__all__ = ["HeatGeometry", "HeatGeometryParameters"]


class HeatGeometryParameters(FemParameters):
    """Parameters of `HeatGeometry`."""

    unsteady: bool = Field(True, description="cooling from u0 in time; false: steady, heated by f")
    geometry: Literal["random_polygon", "l_shape", "square"] = Field(
        "random_polygon", description="random_polygon: another one for every sample, with holes"
    )
    cooling: Literal["dirichlet", "robin"] = Field(
        "robin",
        description="outer boundary. robin: k du/dn + h u = 0; dirichlet: u = 0. Holes are "
        "insulated",
    )
    transfer: float = Field(
        5.0, gt=0, le=1e6, description="heat transfer coefficient h, W/(m^2*K): robin"
    )
    log_k: float = Field(
        0.5, ge=0, le=3, description="standard deviation of log k (k log-normal, median 1 W/(m*K))"
    )
    alpha: float = Field(3.0, gt=1.5, le=20, description="smoothness of the Gaussian fields")
    tau: float = Field(6.0, gt=0, le=100, description="inverse correlation length, 1/m")
    final_time: float = Field(0.05, gt=0, le=100, description="last time, s: unsteady")
    n_times: int = Field(6, ge=2, le=1001, description="stored times, unsteady")
    time_tol: float = Field(
        1e-3, gt=1e-9, le=0.1, description="relative L2 error that time steps may make, unsteady"
    )
    n_corners: tuple[int, int] = Field(
        (4, 8), description="fewest and most corners of random polygons, 3 to 30"
    )
    max_holes: int = Field(2, ge=0, le=2, description="most holes of random polygons")

    @model_validator(mode="after")
    def _check(self) -> HeatGeometryParameters:
        low, high = self.n_corners
        if not 3 <= low <= high <= 30:
            raise ValueError(f"n_corners={self.n_corners}: need 3 <= fewest <= most <= 30")
        return self


@register
class HeatGeometry(FemProblem):
    """Heat conduction ``u_t - div(k grad u) = f`` in a polygon, heat capacity 1 J/(m^3 K).

    Parameters
    ----------
    **params
        Fields of `HeatGeometryParameters`.

    Notes
    -----
    Unsteady: the initial temperature is a smooth Gaussian field, f = 0; steady: the source `f` is
    that field. `u` is the temperature above the surroundings; the conductivity is log-normal.
    With ``cooling="dirichlet"`` the initial temperature jumps at the boundary, and a layer forms
    that only a fine mesh resolves: the first times have large discretization errors.
    """

    name: ClassVar[str] = "heat_geometry"
    title: ClassVar[str] = "Heat conduction in random polygons"
    equation: ClassVar[str] = r"\partial_t u - \nabla\cdot(k\,\nabla u) = f"
    quick_resolution = 10
    reference: ClassVar[str] = "Carslaw & Jaeger, Conduction of Heat in Solids"
    Params: ClassVar[type[HeatGeometryParameters]] = HeatGeometryParameters
    params: HeatGeometryParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.fixed_domain = p.geometry != "random_polygon"
        self.field = GaussianField(p.alpha, p.tau, n_modes=32).normalized()
        if p.unsteady:
            self.times = tuple(np.linspace(0.0, p.final_time, p.n_times).tolist())

    def domain(self, inputs: Any) -> Any:
        """Domain of a sample."""
        from solvers.fenicsx import Domain, l_shape, polygon, polygon_with_holes

        kind = self.params.geometry
        if kind == "random_polygon":
            return polygon_with_holes(*inputs["polygon"])
        if kind == "l_shape":
            return l_shape()
        return Domain(polygon([(0, 0), (1, 0), (1, 1), (0, 1)], names="outer"))

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw polygon, conductivity, and initial temperature or source."""
        p = self.params
        out: dict[str, Any] = {}
        if not self.fixed_domain:
            out["polygon"] = random_polygon(rng, p.n_corners, p.max_holes)
        out["log_k"], out["data"] = self.field.draw(rng), self.field.draw(rng)
        return out

    def point_fields(self) -> tuple[FieldSpec, ...]:
        """Temperature, conductivity, and initial temperature or source."""
        t = self.params.unsteady
        data = (
            FieldSpec("u0", "initial temperature above the surroundings", "K")
            if t
            else FieldSpec("f", "heat source", "W/m^3")
        )
        return (
            FieldSpec(
                "u", "temperature above the surroundings", "K", time_varying=t,
                element_family="Lagrange", element_degree=1,
            ),
            FieldSpec("k", "conductivity", "W/(m*K)", valid_min=0.0),
            data,
        )  # fmt: skip

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Conductivity and initial temperature or source in, temperature out."""
        return ("k", "u0" if self.params.unsteady else "f"), ("u",)

    def scalar_specs(self) -> tuple[ScalarSpec, ...]:
        """Heat transfer coefficient."""
        if self.params.cooling == "dirichlet":
            return ()
        return (
            ScalarSpec("transfer", "heat transfer coefficient", "W/(m^2*K)", self.params.transfer),
        )

    def compute(
        self, inputs: Mapping[str, Any], mesh: Any, rtol: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        """Solve with P1 elements."""
        from solvers.fenicsx import Diffusion, Heat

        p = self.params

        def k(x: np.ndarray) -> np.ndarray:
            return np.exp(p.log_k * at_points(inputs["log_k"], x.T))

        def data(x: np.ndarray) -> np.ndarray:
            return at_points(inputs["data"], x.T)

        conditions: dict[str, Any] = {"dirichlet": {"outer": 0.0}}
        if p.cooling == "robin":
            conditions = {"dirichlet": {}, "robin": {"outer": (p.transfer, 0.0)}}
        fields = {"k": k(mesh.points.T)}
        values = data(mesh.points.T)
        if p.unsteady:
            r = self.family(mesh, Heat).solve(
                data, self.times, k=k, time_tol=p.time_tol, rtol=rtol, **conditions
            )
            fields |= {"u": r.x, "u0": values}
        else:
            r = self.family(mesh, Diffusion).solve(k, data, rtol=rtol, **conditions)
            fields |= {"u": r.x, "f": values}
        return fields, r, {}

    def convergence_order(self, solver: str) -> float:
        """4/3 at re-entrant corners, else 2."""
        return 2.0 if self.params.geometry == "square" else 4 / 3

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return f"P1 Lagrange on triangles of size {self.mesh_size(resolution):.3g}" + (
            ", TR-BDF2 in time" if self.params.unsteady else ""
        )

    def checks(self) -> Iterable[Check]:
        """Decaying sine in space and time, Robin wall, conservation."""
        yield from heat_checks()


def heat_checks() -> Iterable[Check]:
    """Known temperatures."""
    from solvers.fenicsx import Diffusion, Heat, rectangle, triangulate

    def sine(t: float) -> Any:
        return lambda x: math.exp(-2 * np.pi**2 * t) * np.sin(np.pi * x[0]) * np.sin(np.pi * x[1])

    mesh = triangulate(rectangle(), 1 / 8)
    sizes, errors = [], []
    for _ in range(3):
        heat = Heat(mesh)
        x = heat.solve(sine(0.0), [0.0, 0.05], time_tol=1e-5, n_steps=16).x
        errors.append(heat.space.errors(x[1], sine(0.05))[0])
        sizes.append(mesh.size)
        mesh = mesh.refined()
    yield order_check("order in space, decaying sine", sizes, errors, 2.0)

    # in time, on one mesh: the semi-discrete problem solved with very small steps
    heat = Heat(triangulate(rectangle(), 1 / 8))
    runs = {
        n: heat.solve(sine(0.0), [0.0, 0.1], time_tol=1e9, n_steps=n).x[1] for n in (2, 4, 8, 256)
    }
    errors = [float(np.linalg.norm(runs[n] - runs[256])) for n in (2, 4, 8)]
    yield order_check("order in time", [1 / 4, 1 / 8, 1 / 16], errors, 2.0)

    # estimate against the truth
    r = heat.solve(sine(0.0), [0.0, 0.1], time_tol=1e9, n_steps=4)
    truth = float(
        np.linalg.norm(r.x[1] - runs[256]) / np.linalg.norm(np.stack([r.x[0], runs[256]]))
    )
    yield agreement(
        "estimated over true error in time", r.info["time_error"] / truth, 1.0, within=0.5,
        kind="estimate",
    )  # fmt: skip

    # a wall between u = 1 and air: k u' + h u = 0 at the right; exact for P1
    wall = Diffusion(triangulate(rectangle(), 1 / 4))
    h = 3.0
    x = wall.solve(1.0, 0.0, dirichlet={"left": 1.0}, robin={"right": (h, 0.0)},
                   flux={"top": 0.0, "bottom": 0.0}).x  # fmt: skip
    error = np.abs(x - (1 - wall.mesh.points[:, 0] * h / (1 + h))).max()
    yield at_most("wall with heat transfer", error, 1e-12)

    # what is heated leaves through the boundary
    x = wall.solve(lambda x: 1 + x[0], 2.0).x
    out = -float(wall.reactions(x, lambda x: 1 + x[0], 2.0).sum())
    yield agreement("heat out", out, 2.0, within=1e-10, kind="invariant")
