"""A clamped plate with a random hole under load, at small strains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.result import SolveResult

from ..functions import GaussianSpace
from ..hdf5.schema import ExtraAxis, FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, agreement, at_most, order_check
from ._fem import FemParameters, FemProblem, hole_shape

__all__ = ["Elasticity", "ElasticityParameters", "PlateWithHole"]


class ElasticityParameters(FemParameters):
    """Parameters of `Elasticity`."""

    youngs_modulus: float = Field(1.0, gt=0, description="E, Pa")
    poisson_ratio: float = Field(0.3, ge=0, le=0.49, description="nu, dimensionless")
    load: Literal["traction", "displacement"] = Field(
        "traction",
        description="traction: force an area on the top side, along y; displacement: the top side "
        "is moved along y",
    )
    load_range: tuple[float, float] = Field(
        (0.5, 1.0), description="smallest and largest load, uniform; Pa for traction, m for "
        "displacement"
    )  # fmt: skip
    r_min: float = Field(0.2, ge=0.05, le=0.4, description="smallest radius of the hole, m")
    r_max: float = Field(0.4, ge=0.05, le=0.45, description="largest radius of the hole, m")
    roughness: float = Field(
        1.5, gt=0, le=4, description="standard deviation of the field that shapes the hole"
    )
    length: float = Field(
        0.25, ge=0.05, le=1, description="correlation length of that field, turns around the hole"
    )
    n_angles: int = Field(42, ge=4, le=1024, description="angles at which the radius is stored")

    @model_validator(mode="after")
    def _check(self) -> ElasticityParameters:
        if not self.r_min < self.r_max:
            raise ValueError(f"r_min={self.r_min}, r_max={self.r_max}: need r_min < r_max")
        low, high = self.load_range
        if not -1e12 < low <= high < 1e12:
            raise ValueError(f"load_range={self.load_range}: need smallest <= largest, finite")
        return self


class PlateWithHole(FemProblem):
    """What the plates share: the unit square with a star-shaped hole, clamped below.

    The radius is ``r_min + (r_max - r_min) / (1 + exp(z))`` with `z` a periodic Gaussian process of
    the angle, as in the elasticity data of Geo-FNO [1]_ (there r between 0.2 and 0.4).

    References
    ----------
    .. [1] Li, Huang, Liu, Anandkumar, "Fourier neural operator with learned deformations for PDEs
       on general geometries", JMLR 24 (2023), section 4.
    """

    fixed_domain = False
    default_resolution = 24
    quick_resolution = 8

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.process = GaussianSpace(length=p.length, sigma=p.roughness, periodic=True)

    def domain(self, inputs: Any) -> Any:
        """Plate of a sample."""
        from solvers.fenicsx import plate_with_holes

        return plate_with_holes([hole_shape((0.5, 0.5), inputs["radius"], fineness=0.7)])

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the hole's radius (a function of the turn in [0, 1]) and the load."""
        p, z = self.params, self.process.draw(rng)

        def radius(s: np.ndarray) -> np.ndarray:
            return p.r_min + (p.r_max - p.r_min) / (1 + np.exp(z(s)))

        return {"radius": radius, "load": float(rng.uniform(*p.load_range))}

    def point_fields(self) -> tuple[FieldSpec, ...]:
        """Displacement and stress."""
        return (
            FieldSpec(
                "displacement", "displacement", "m", rank=1, element_family="Lagrange",
                element_degree=2,
            ),
            FieldSpec("stress", self._stress_name, "Pa", rank=2, symmetric=True),
        )  # fmt: skip

    _stress_name = "stress"

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Hole and load in, displacement and stress out."""
        return ("radius", "load"), ("displacement", "stress")

    def extra_fields(self) -> tuple[tuple[FieldSpec, ...], tuple[ExtraAxis, ...]]:
        """Radius of the hole over the angle."""
        p = self.params
        angles = tuple((2 * np.pi * np.arange(p.n_angles) / p.n_angles).tolist())
        return (
            (
                FieldSpec(
                    "radius", "radius of the hole", "m", dims=("angle",), valid_min=p.r_min,
                    valid_max=p.r_max,
                ),
            ),
            (ExtraAxis("angle", angles, "rad", "angle around the center of the hole"),),
        )  # fmt: skip

    def extra_values(self, inputs: Any) -> dict[str, np.ndarray]:
        """Radius at the angles."""
        n = self.params.n_angles
        return {"radius": inputs["radius"](np.arange(n) / n)}

    def scalar_specs(self) -> tuple[ScalarSpec, ...]:
        """Load, which varies, and material."""
        p = self.params
        units = "Pa" if p.load == "traction" else "m"
        return (
            ScalarSpec("load", f"{p.load} of the top side", units),
            ScalarSpec("youngs_modulus", "Young's modulus", "Pa", p.youngs_modulus),
            ScalarSpec("poisson_ratio", "Poisson ratio", "1", p.poisson_ratio),
        )

    def _solved(
        self, kind: Any, inputs: Mapping[str, Any], mesh: Any, rtol: float, lam: float, mu: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        load = inputs["load"]
        solver = self.family(mesh, kind)
        supports: dict[str, Any] = {"bottom": 0.0}
        traction: dict[str, Any] = {}
        if self.params.load == "traction":
            traction["top"] = (0.0, load)
        else:
            supports["top"] = (0.0, load)
        r = solver.solve(lam, mu, supports, traction=traction, rtol=rtol)
        fields = {"displacement": r.x[: len(mesh.points)], "stress": solver.stress(r.x, lam, mu)}
        return fields, r, {"load": load}

    def convergence_order(self, solver: str) -> float:
        """1: the stress is singular where the clamped side ends, and counts most."""
        return 1.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return (
            f"P2 Lagrange displacement on triangles of size {self.mesh_size(resolution):.3g}, "
            "stress projected onto P1"
        )


@register
class Elasticity(PlateWithHole):
    """Linear elasticity in plane strain: a plate with a random hole, clamped below, loaded above.

    Parameters
    ----------
    **params
        Fields of `ElasticityParameters`.

    Notes
    -----
    Displacement and stress are proportional to the load. The other sides and the hole are free.

    *Accuracy.* Stresses are singular at the ends of the clamped side, so that the error of the
    stress, which the estimate reports, falls slowly there (order about 1); displacements are
    far more accurate.

    References
    ----------
    .. [1] Li, Huang, Liu, Anandkumar, JMLR 24 (2023), section 4, for the shape of the hole.
    """

    name: ClassVar[str] = "elasticity"
    title: ClassVar[str] = "Linear elasticity of a plate with a random hole"
    equation: ClassVar[str] = (
        r"-\nabla\cdot\sigma = 0,\quad \sigma = 2\mu\,\varepsilon(u) + \lambda\,"
        r"\mathrm{tr}\,\varepsilon(u)\,I,\quad u|_\mathrm{bottom} = 0,\quad"
        r" \sigma n|_\mathrm{top} = (0, t)"
    )
    reference: ClassVar[str] = "shape of the hole: Li et al., JMLR 24 (2023), Geo-FNO"
    Params: ClassVar[type[ElasticityParameters]] = ElasticityParameters
    params: ElasticityParameters

    def compute(
        self, inputs: Mapping[str, Any], mesh: Any, rtol: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        """Solve with P2 elements."""
        from solvers.fenicsx import Elasticity as Solver
        from solvers.fenicsx import lame

        lam, mu = lame(self.params.youngs_modulus, self.params.poisson_ratio)
        return self._solved(Solver, inputs, mesh, rtol, lam, mu)

    def checks(self) -> Iterable[Check]:
        """Patch test, manufactured solution, Kirsch's plate, energy balance."""
        yield from elasticity_checks()


def elasticity_checks() -> Iterable[Check]:
    """Known solutions of linear elasticity."""
    from solvers.fenicsx import Elasticity as Solver
    from solvers.fenicsx import (
        circle,
        kirsch_stress,
        lame,
        plate_with_holes,
        rectangle,
        triangulate,
    )

    lam, mu = 1.5, 1.0
    sides = ("bottom", "right", "left")

    # u = (sin(2x + y), cos(x - y)) / 5
    def u(x: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(2 * x[0] + x[1]), np.cos(x[0] - x[1])]) / 5

    def gradient(x: np.ndarray) -> np.ndarray:
        c, s = np.cos(2 * x[0] + x[1]), np.sin(x[0] - x[1])
        return np.array([[2 * c, c], [-s, s]]) / 5

    def stress(x: np.ndarray) -> np.ndarray:
        g = gradient(x)
        out = mu * (g + np.swapaxes(g, 0, 1))
        out[0, 0] += lam * (g[0, 0] + g[1, 1])
        out[1, 1] += lam * (g[0, 0] + g[1, 1])
        return out

    def force(x: np.ndarray) -> np.ndarray:
        s, c = np.sin(2 * x[0] + x[1]) / 5, np.cos(x[0] - x[1]) / 5
        # -mu laplace(u) - (lam + mu) grad(div u), div u = 2 cos(2x + y)/5 + sin(x - y)/5
        return np.stack(
            [
                5 * mu * s - (lam + mu) * (-4 * s + c),
                2 * mu * c - (lam + mu) * (-2 * s - c),
            ]
        )

    mesh = triangulate(rectangle(), 1 / 4)
    sizes, errors, stresses = [], [], []
    for _ in range(3):
        body = Solver(mesh)
        r = body.solve(
            lam, mu, dict.fromkeys(sides, u), f=force, traction={"top": lambda x: stress(x)[:, 1]}
        )
        errors.append(body.errors(r.x, u)[0])
        truth = np.moveaxis(stress(mesh.points.T), -1, 0)
        stresses.append(mesh.mesh().norm(body.stress(r.x, lam, mu) - truth))
        sizes.append(mesh.size)
        mesh = mesh.refined()
    yield order_check("order in space, displacement", sizes, errors, 3.0)
    yield order_check("order in space, stress", sizes, stresses, 2.0)

    # work of the load = twice the energy, and a pure stretch is exact
    body = Solver(triangulate(plate_with_holes([circle((0.5, 0.5), 0.2)]), 1 / 8))
    r = body.solve(lam, mu, {"bottom": 0.0}, traction={"top": (0.0, 1.0)})
    work = float(body.mesh.boundary_integral(r.x[:, 1], "top"))
    yield agreement(
        "work of the load over twice the energy", work / (2 * body.energy(r.x, lam, mu)), 1.0,
        within=1e-9, kind="invariant",
    )  # fmt: skip

    # a plate of 30 radii, pulled along x: 3 at the top of the hole
    lam, mu = lame(1.0, 0.3)
    plate = plate_with_holes(
        [circle((0.0, 0.0), 1.0, fineness=0.05)], lower=(-15, -15), upper=(15, 15)
    )
    mesh = triangulate(plate, 3.0).refined()
    body = Solver(mesh)
    # the infinite plate's tractions on two sides, the opposite ones on rollers
    r = body.solve(
        lam, mu, {"left": {0: 0.0}, "bottom": {1: 0.0}},
        traction={
            "right": lambda x: kirsch_stress(x, 1.0)[:, 0],
            "top": lambda x: kirsch_stress(x, 1.0)[:, 1],
        },
    )  # fmt: skip
    s = body.stress(r.x, lam, mu)
    at = int(np.argmin(np.linalg.norm(mesh.points - (0.0, 1.0), axis=1)))
    yield agreement(
        "stress at the hole over the tension (Kirsch: 3)", s[at, 0, 0], 3.0, within=0.09
    )
    yield at_most("hole free of load", abs(s[at, 1, 1]), 0.09)
