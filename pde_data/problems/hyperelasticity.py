"""A clamped rubber plate with a random hole under large strains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from solvers.result import SolveResult

from ..problem import register
from ..verification import Check, at_most, order_check
from .elasticity import ElasticityParameters, PlateWithHole

__all__ = ["Hyperelasticity", "HyperelasticityParameters"]


class HyperelasticityParameters(ElasticityParameters):
    """Parameters of `Hyperelasticity`."""

    load: Literal["traction", "displacement"] = Field(
        "displacement",
        description="displacement: the top side is moved along y; traction: force on the "
        "undeformed top side, along y",
    )
    load_range: tuple[float, float] = Field(
        (0.05, 0.3),
        description="smallest and largest load, uniform; m for displacement, Pa for traction",
    )


@register
class Hyperelasticity(PlateWithHole):
    """Neo-Hookean plate with a random hole in plane strain, clamped below, stretched above.

    Parameters
    ----------
    **params
        Fields of `HyperelasticityParameters`.

    Notes
    -----
    The energy density is ``mu/2 (tr C - 2 - 2 ln J) + lam/2 (ln J)^2``, with Lame's parameters from
    E and nu at small strains. Geometry as in the elasticity data of Geo-FNO [1]_, whose material
    is an incompressible Rivlin-Saunders one: their numbers are not these. `stress` is
    Cauchy's, at the points of the undeformed plate. A sample whose Newton iteration does not
    converge in 64 parts of the load fails, and is recorded.

    References
    ----------
    .. [1] Li, Huang, Liu, Anandkumar, JMLR 24 (2023), section 4.
    """

    name: ClassVar[str] = "hyperelasticity"
    title: ClassVar[str] = "Neo-Hookean plate with a random hole"
    equation: ClassVar[str] = (
        r"-\nabla\cdot P = 0,\quad P = \mu (F - F^{-T}) + \lambda \ln(J)\, F^{-T},\quad"
        r" F = I + \nabla u,\quad u|_\mathrm{bottom} = 0,\quad u|_\mathrm{top} = (0, d)"
    )
    reference: ClassVar[str] = "geometry: Li et al., JMLR 24 (2023), Geo-FNO"
    Params: ClassVar[type[HyperelasticityParameters]] = HyperelasticityParameters  # type: ignore[assignment]
    params: HyperelasticityParameters
    _stress_name = "Cauchy stress"

    def compute(
        self, inputs: Mapping[str, Any], mesh: Any, rtol: float
    ) -> tuple[dict[str, np.ndarray], SolveResult, dict[str, float]]:
        """Solve with P2 elements and Newton's method."""
        from solvers.fenicsx import Hyperelasticity as Solver
        from solvers.fenicsx import lame

        lam, mu = lame(self.params.youngs_modulus, self.params.poisson_ratio)
        return self._solved(Solver, inputs, mesh, rtol, lam, mu)

    def checks(self) -> Iterable[Check]:
        """Homogeneous stretch, limit of small strains, manufactured solution."""
        yield from hyperelasticity_checks()


def hyperelasticity_checks() -> Iterable[Check]:
    """Known solutions of the neo-Hookean solid."""
    from solvers.fenicsx import Elasticity, circle, plate_with_holes, rectangle, triangulate
    from solvers.fenicsx import Hyperelasticity as Solver

    lam, mu = 1.5, 1.0
    everywhere = ("bottom", "right", "top", "left")

    # patch test: a large homogeneous deformation
    F = np.array([[1.3, 0.4], [-0.2, 0.8]])
    body = Solver(triangulate(rectangle(), 1 / 3))

    def linear(x: np.ndarray) -> np.ndarray:
        return (F - np.eye(2)) @ x

    r = body.solve(lam, mu, dict.fromkeys(everywhere, linear))
    J = np.linalg.det(F)
    cauchy = (mu * (F @ F.T - np.eye(2)) + lam * np.log(J) * np.eye(2)) / J
    error = np.abs(body.stress(r.x, lam, mu) - cauchy).max()
    yield at_most("homogeneous deformation, Cauchy stress", error, 1e-8)

    # small strains: linear elasticity, the difference of second order in the load
    mesh = triangulate(plate_with_holes([circle((0.5, 0.5), 0.2)]), 1 / 6)
    soft, stiff = Solver(mesh), Elasticity(mesh)
    gaps, loads = [], (4e-3, 2e-3, 1e-3)
    for load in loads:
        case: dict[str, Any] = {"bottom": 0.0, "top": (0.0, load)}
        u, v = (s.solve(lam, mu, case).x for s in (soft, stiff))
        gaps.append(float(np.linalg.norm(u - v)))
    yield order_check("distance to linear elasticity over the load", loads, gaps, 2.0)

    # manufactured: u = sin(x + y) (1, -1) / 4 shears along the diagonal
    def u_exact(x: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(x[0] + x[1]), -np.sin(x[0] + x[1])]) / 4

    # F = I + k m with m = [[1, 1], [-1, -1]], m^2 = 0: inv(F) = I - k m, J = 1,
    # P = mu (F - inv(F)^T) = mu k (m + m^T), k = cos(x + y)/4; div P = mu (m + m^T) grad k
    def force(x: np.ndarray) -> np.ndarray:
        slope = -np.sin(x[0] + x[1]) / 4
        return -mu * np.stack([2 * slope, -2 * slope])

    mesh = triangulate(rectangle(), 1 / 4)
    sizes, errors = [], []
    for _ in range(3):
        body = Solver(mesh)
        r = body.solve(
            lam, mu, dict.fromkeys(("bottom", "right", "left"), u_exact), f=force,
            traction={"top": lambda x: mu * np.cos(x[0] + x[1]) / 4 * np.array([[0.0], [-2.0]])},
        )  # fmt: skip
        errors.append(body.errors(r.x, u_exact)[0])
        sizes.append(mesh.size)
        mesh = mesh.refined()
    yield order_check("order in space, displacement", sizes, errors, 3.0)
