"""Darcy flow in triangles, L-shapes and polygons with holes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.result import SolveResult

from ..fields import GaussianField
from ..functions import GaussianSpace
from ..hdf5.schema import ExtraAxis, FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, at_most, order_check
from ._fem import FemParameters, FemProblem, at_points

__all__ = ["DarcyGeometry", "DarcyGeometryParameters", "random_polygon"]

Geometry = Literal["triangle", "triangle_notch", "l_shape", "pentagon_hole", "random_polygon"]


class DarcyGeometryParameters(FemParameters):
    """Parameters of `DarcyGeometry`."""

    geometry: Geometry = Field(
        "triangle_notch",
        description="triangle: equilateral, side 1; triangle_notch: with a slit of width 0.02 and "
        "depth 0.4 from below; l_shape: unit square less a quarter; pentagon_hole: regular, in the "
        "unit square, with a smaller one cut out; random_polygon: another one for every sample",
    )
    varying: Literal["boundary", "coefficient"] | None = Field(
        None,
        description="what the map starts from. boundary: u = g(x) on the outer boundary, g a "
        "Gaussian process, a constant; coefficient: a log-normal, u = 0 on the boundary. Default: "
        "boundary; for random_polygon coefficient",
    )
    permeability: float = Field(0.1, gt=0, description="a where it is constant, m^2/(Pa*s)")
    forcing: float = Field(1.0, description="f, constant, 1/s")
    length: float = Field(
        0.2, ge=0.05, le=10, description="correlation length of g, m; squared exponential kernel"
    )
    n_sensors: int = Field(101, ge=2, le=10001, description="points x at which g is stored")
    alpha: float = Field(
        3.0, gt=1, le=20, description="smoothness of log a, N(0, (-Laplacian + tau^2)^(-alpha))"
    )
    tau: float = Field(5.0, gt=0, le=100, description="inverse correlation length of log a, 1/m")
    sigma: float = Field(1.0, gt=0, le=5, description="standard deviation of log a")
    n_corners: tuple[int, int] = Field(
        (4, 8), description="fewest and most corners of random polygons, 3 to 30"
    )
    max_holes: int = Field(2, ge=0, le=2, description="most holes of random polygons")

    @model_validator(mode="after")
    def _check(self) -> DarcyGeometryParameters:
        low, high = self.n_corners
        if not 3 <= low <= high <= 30:
            raise ValueError(f"n_corners={self.n_corners}: need 3 <= fewest <= most <= 30")
        if not math.isfinite(self.forcing):
            raise ValueError(f"forcing={self.forcing}: need a finite number")
        return self


def random_polygon(
    rng: np.random.Generator, n_corners: tuple[int, int], max_holes: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw a polygon around (1/2, 1/2) in the unit square, and holes inside it.

    Corners at sorted angles, one in each of n equal sectors (so that the center lies inside), at
    radii U[0.3, 0.5]; holes are regular triangles to hexagons of radius U[0.04, 0.07] on opposite
    sides of the center, 0.11 away, where they stay inside and apart. A hole that touches the
    outer boundary is left out.

    Returns
    -------
    corners : ndarray, shape (n, 2)
    holes : list of ndarray
    """
    n = int(rng.integers(n_corners[0], n_corners[1] + 1))
    angles = 2 * np.pi * (np.arange(n) + rng.uniform(0.2, 0.8, n)) / n
    radii = rng.uniform(0.3, 0.5, n)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = 0.5 + radii[:, None] * unit
    turn = rng.uniform(0, 2 * np.pi)
    holes = []
    for k in range(int(rng.integers(0, max_holes + 1))):
        direction = turn + k * np.pi
        center = 0.5 + 0.11 * np.array([np.cos(direction), np.sin(direction)])
        m, radius = int(rng.integers(3, 7)), rng.uniform(0.04, 0.07)
        first = rng.uniform(0, 2 * np.pi)
        a = first + 2 * np.pi * np.arange(m) / m
        if _distance(center, corners) > radius + 0.03:
            holes.append(center + radius * np.stack([np.cos(a), np.sin(a)], axis=1))
    return corners, holes


def _distance(x: np.ndarray, corners: np.ndarray) -> float:
    """Distance of a point to a polygon's boundary, negative outside."""
    from solvers.fenicsx import polygon_with_holes

    a, b = corners, np.roll(corners, -1, axis=0)
    t = np.clip(((x - a) * (b - a)).sum(axis=1) / ((b - a) ** 2).sum(axis=1), 0, 1)
    d = float(np.linalg.norm(a + t[:, None] * (b - a) - x, axis=1).min())
    return d if polygon_with_holes(corners).contains(x[None])[0] else -d


@register
class DarcyGeometry(FemProblem):
    """Steady flow ``-div(a grad u) = f`` in a domain that is no square.

    Parameters
    ----------
    **params
        Fields of `DarcyGeometryParameters`.

    Notes
    -----
    ``varying="boundary"`` on ``triangle`` and ``triangle_notch`` is the map of the fair comparison
    of DeepONet and FNO [1]_: ``div(K grad h) = -1`` with K = 0.1, ``h = g(x)`` on the outer sides,
    0 in the notch, g a Gaussian process with a squared exponential kernel of length 0.2, given at
    101 points x in [0, 1]. (Their generating script, data/darcy_triangular_notch in the paper's
    repository, solves the same equation divided by K.) Where the notch opens, the boundary values
    jump, and the solution with them: the L2 error is of order 1 there.

    With boundary values, `g` is the input at the sensors; on grids (``sample_on="grid"``) also
    `g_x`, the function of x as a field, as in the FNO data of [1]_.

    References
    ----------
    .. [1] Lu, Meng, Cai, Mao, Goswami, Zhang, Karniadakis, "A comprehensive and fair comparison of
       two neural operators", CMAME 393 (2022) 114778, section 5.3.
    """

    name: ClassVar[str] = "darcy_geometry"
    title: ClassVar[str] = "Darcy flow in triangles, L-shapes and polygons"
    equation: ClassVar[str] = (
        r"-\nabla\cdot(a\,\nabla u) = f,\quad u|_{\Gamma_\mathrm{outer}} = g,"
        r"\quad u|_{\Gamma_\mathrm{inner}} = 0"
    )
    quick_resolution = 12
    reference: ClassVar[str] = "Lu et al., CMAME 393 (2022) 114778"
    Params: ClassVar[type[DarcyGeometryParameters]] = DarcyGeometryParameters
    params: DarcyGeometryParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.fixed_domain = p.geometry != "random_polygon"
        default = "boundary" if self.fixed_domain else "coefficient"
        self.varying = p.varying or default
        self.box = ((0.0, 1.0), (0.0, 1.0))
        if p.geometry in ("triangle", "triangle_notch"):
            self.box = ((0.0, 1.0), (0.0, math.sqrt(3) / 2))
        self.process = GaussianSpace(length=p.length)
        self.field = GaussianField(p.alpha, p.tau, n_modes=32).normalized(p.sigma)

    def domain(self, inputs: Any) -> Any:
        """Domain of a sample."""
        from solvers.fenicsx import l_shape, polygon_with_holes, triangle, triangle_with_notch

        kind = self.params.geometry
        if kind == "random_polygon":
            return polygon_with_holes(*inputs["polygon"])
        if kind == "pentagon_hole":
            a = np.pi / 2 + 2 * np.pi * np.arange(5) / 5
            unit = np.stack([np.cos(a), np.sin(a)], axis=1)
            return polygon_with_holes(0.5 + 0.5 * unit, [0.5 + 0.15 * unit])
        return {"triangle": triangle, "triangle_notch": triangle_with_notch, "l_shape": l_shape}[
            kind
        ]()

    def point_fields(self) -> tuple[FieldSpec, ...]:
        """Pressure, and the coefficient or (on grids) the boundary values."""
        out = [FieldSpec("u", "pressure", "Pa", element_family="Lagrange", element_degree=1)]
        if self.varying == "coefficient":
            out.append(FieldSpec("a", "permeability over viscosity", "m^2/(Pa*s)", valid_min=0.0))
        elif self.params.sample_on == "grid":
            out.append(FieldSpec("g_x", "boundary pressure as a function of x", "Pa"))
        return tuple(out)

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of inputs and outputs."""
        if self.varying == "coefficient":
            return ("a",), ("u",)
        return ("g_x" if self.params.sample_on == "grid" else "g",), ("u",)

    def extra_fields(self) -> tuple[tuple[FieldSpec, ...], tuple[ExtraAxis, ...]]:
        """Boundary values at the sensors."""
        if self.varying == "coefficient":
            return (), ()
        x = tuple(np.linspace(0.0, 1.0, self.params.n_sensors).tolist())
        return (
            (FieldSpec("g", "pressure on the outer boundary", "Pa", dims=("sensor",)),),
            (ExtraAxis("sensor", x, "m", "x of the boundary point"),),
        )

    def extra_values(self, inputs: Any) -> dict[str, np.ndarray]:
        """Boundary values at the sensors."""
        if self.varying == "coefficient":
            return {}
        return {"g": inputs["g"](np.linspace(0.0, 1.0, self.params.n_sensors))}

    def scalar_specs(self) -> tuple[ScalarSpec, ...]:
        """Source, and the constant permeability."""
        out = [ScalarSpec("forcing", "volumetric source", "1/s", self.params.forcing)]
        if self.varying == "boundary":
            value = self.params.permeability
            out.append(ScalarSpec("permeability", "permeability", "m^2/(Pa*s)", value))
        return tuple(out)

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the polygon, and boundary values or coefficient."""
        p = self.params
        out: dict[str, Any] = {}
        if not self.fixed_domain:
            out["polygon"] = random_polygon(rng, p.n_corners, p.max_holes)
        if self.varying == "boundary":
            out["g"] = self.process.draw(rng)
        else:
            out["log_a"] = self.field.draw(rng)
        return out

    def compute(
        self, inputs: Mapping[str, Any], mesh: Any, rtol: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        """Solve with P1 elements."""
        from solvers.fenicsx import Diffusion

        p = self.params
        solver = self.family(mesh, Diffusion)
        inner = {n: 0.0 for n in mesh.names if n != "outer"}
        if self.varying == "boundary":
            g = inputs["g"]

            def boundary(x: np.ndarray) -> np.ndarray:
                return g(np.clip(x[0], 0.0, 1.0))

            # values of the notch win in its corners
            r = solver.solve(
                p.permeability, p.forcing, dirichlet={"outer": boundary, **inner}, rtol=rtol
            )
            fields = {"u": r.x}
            if p.sample_on == "grid":
                fields["g_x"] = boundary(mesh.points.T)
            return fields, r, {}
        log_a = inputs["log_a"]
        r = solver.solve(lambda x: np.exp(at_points(log_a, x.T)), p.forcing, rtol=rtol)
        return {"u": r.x, "a": np.exp(at_points(log_a, mesh.points))}, r, {}

    def convergence_order(self, solver: str) -> float:
        """1 with values that jump at the notch, 4/3 at corners of 270 degrees, else 2."""
        if self.params.geometry == "triangle_notch":
            return 1.0
        if self.params.geometry == "triangle":
            return 2.0
        return 4 / 3

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return f"P1 Lagrange on triangles of size {self.mesh_size(resolution):.3g}"

    def checks(self) -> Iterable[Check]:
        """Harmonic function, singular corner, maximum principle."""
        yield from diffusion_checks()


def diffusion_checks() -> Iterable[Check]:
    """Known solutions of the diffusion equation on this problem's domains."""
    from solvers.fenicsx import Diffusion, l_shape, triangle_with_notch, triangulate

    # quadratic polynomial: P2 is exact on any mesh
    mesh = triangulate(triangle_with_notch(), 1 / 8)
    d = Diffusion(mesh, degree=2)

    def square(x: np.ndarray) -> np.ndarray:
        return x[0] ** 2 - 3 * x[0] * x[1] + 2 * x[1] ** 2

    error, _ = d.errors(d.solve(2.0, -12.0, dirichlet=square).x, square)
    yield at_most("quadratic solution by P2, notched triangle", error, 1e-12)

    # the singular function of the corner of 270 degrees: r^(2/3) sin(2/3 phi)
    def corner(x: np.ndarray) -> np.ndarray:
        phi = np.mod(np.arctan2(x[1] - 0.5, x[0] - 0.5) - np.pi / 2, 2 * np.pi)
        return np.hypot(x[0] - 0.5, x[1] - 0.5) ** (2 / 3) * np.sin(2 / 3 * phi)

    def smooth(x: np.ndarray) -> np.ndarray:
        return np.exp(x[0]) * np.sin(x[1] + 0.3)

    for name, exact, order in (("smooth", smooth, 2.0), ("singular at the corner", corner, 4 / 3)):
        mesh = triangulate(l_shape(), 1 / 8)
        sizes, errors = [], []
        for _ in range(3):
            solver = Diffusion(mesh)
            errors.append(solver.errors(solver.solve(1.0, 0.0, dirichlet=exact).x, exact)[0])
            sizes.append(mesh.size)
            mesh = mesh.refined()
        yield order_check(f"order in space, L-shape, {name}", sizes, errors, order)
