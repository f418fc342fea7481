"""Elastic bodies in plane strain or plane stress, and neo-Hookean ones at large strains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..names import check_name
from ..result import SolverDidNotConverge, SolveResult
from ._algebra import System, newton
from ._space import Data, FemMesh, abstract_space, bind, compile_abstract, fem_mesh
from .geometry import Triangulation

__all__ = ["Elasticity", "Hyperelasticity", "kirsch_stress", "lame"]

#: Displacement of a part: a vector (number, pair, array, function), or a mapping from component
#: (0 or 1) to its value, which leaves the other free.
Displacement = Data | Sequence[float] | Mapping[int, Data]
_Q = 4  # quadrature degree of everything: exact for straight P2 elements and linear coefficients


def lame(youngs_modulus: float, poisson_ratio: float, *, plane: str = "strain") -> Any:
    """Lame's parameters ``(lambda, mu)``; for plane stress the reduced lambda.

    Raises
    ------
    ValueError
        ``E <= 0``, or a Poisson ratio outside (-1, 1/2).
    """
    check_name("plane", plane, ("strain", "stress"))
    e, nu = float(youngs_modulus), float(poisson_ratio)
    if not e > 0:
        raise ValueError(f"youngs_modulus={e}: need a positive number")
    if not -1 < nu < 0.5:
        raise ValueError(f"poisson_ratio={nu}: need -1 < nu < 0.5")
    mu = e / (2 * (1 + nu))
    lam = e * nu / ((1 + nu) * (1 - 2 * nu))
    return (lam if plane == "strain" else 2 * mu * lam / (lam + 2 * mu)), mu


@cache
def _form(kind: str) -> tuple[Any, tuple[Any, ...]]:
    """Compiled form and its coefficients."""
    import ufl

    space = abstract_space("P", 2, (2,))
    u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
    dx = ufl.dx(metadata={"quadrature_degree": _Q, "quadrature_rule": "default"})
    scalar = abstract_space("Q", _Q)
    lam, mu = ufl.Coefficient(scalar), ufl.Coefficient(scalar)
    data: tuple[Any, ...] = (lam, mu)
    if kind == "stiffness":
        e = ufl.sym(ufl.grad(u))
        form = (2 * mu * ufl.inner(e, ufl.sym(ufl.grad(v))) + lam * ufl.div(u) * ufl.div(v)) * dx
    elif kind == "load":
        f = ufl.Coefficient(abstract_space("Q", _Q, (2,)))
        form, data = ufl.inner(f, v) * dx, (f,)
    elif kind == "traction":
        g = ufl.Coefficient(abstract_space("P", 2, (2,)))
        form, data = ufl.inner(g, v) * ufl.ds(1, metadata={"quadrature_degree": 5}), (g,)
    else:  # "residual", "tangent" of the neo-Hookean solid
        w = ufl.Coefficient(space)
        F = ufl.Identity(2) + ufl.grad(w)
        J = ufl.det(F)
        inverse = ufl.inv(F).T
        P = mu * (F - inverse) + lam * ufl.ln(J) * inverse
        form, data = ufl.inner(P, ufl.grad(v)) * dx, (lam, mu, w)
        if kind == "tangent":
            form = ufl.derivative(form, w, u)
    return compile_abstract(form), data


class _Solid:
    """What linear and nonlinear solids share: P2 displacements, loads, supports, stress."""

    def __init__(self, mesh: Triangulation | FemMesh) -> None:
        self.mesh = fem_mesh(mesh)
        from dolfinx import fem, la

        self.space = self.mesh.space(2, (2,))
        block = self.mesh.dofs(self.space, 2)
        self._dofs = np.stack([2 * block, 2 * block + 1], axis=1)  # (nodes, 2)
        scalar = self.mesh.quadrature_space(_Q)
        self._lam, self._mu = fem.Function(scalar), fem.Function(scalar)
        self._f = fem.Function(self.mesh.quadrature_space(_Q, (2,)))
        self._g, self._u = fem.Function(self.space), fem.Function(self.space)
        self._forms: dict[Any, Any] = {}
        self._matrix = fem.create_matrix(self._bound(self._operator), la.BlockMode.expanded)
        self._systems: dict[Any, System] = {}

    _operator = "stiffness"

    def _bound(self, kind: str, part: str | None = None) -> Any:
        key = (kind, part)
        if key not in self._forms:
            compiled, symbols = _form(kind)
            functions = {
                "stiffness": (self._lam, self._mu),
                "load": (self._f,),
                "traction": (self._g,),
            }.get(kind, (self._lam, self._mu, self._u))
            self._forms[key] = bind(
                compiled, [self.space] * (2 if kind in ("stiffness", "tangent") else 1), self.mesh,
                coefficients=dict(zip(symbols, functions, strict=True)), part=part,
            )  # fmt: skip
        return self._forms[key]

    def _vector(self, kind: str, part: str | None = None) -> np.ndarray:
        from dolfinx import fem

        out = np.zeros(self._dofs.size)
        fem.assemble_vector(out, self._bound(kind, part))
        return out

    def _assembled(self, kind: str) -> Any:
        from dolfinx import fem

        self._matrix.set_value(0.0)
        fem.assemble_matrix(self._matrix, self._bound(kind))
        return self._matrix.to_scipy()

    def _material(self, lam: Data, mu: Data) -> tuple[np.ndarray, np.ndarray]:
        values = []
        for function, value, name in ((self._lam, lam, "lam"), (self._mu, mu, "mu")):
            v = self.mesh.at_quadrature(value, _Q, name)
            self.mesh.fill(function, v)
            values.append(v)
        if not float(values[1].min()) > 0:
            raise ValueError(f"mu must be positive, its minimum is {values[1].min():.6g}")
        if not float((values[0] + values[1]).min()) > 0:
            raise ValueError("lam + mu must be positive")
        return values[0], values[1]

    def _loads(self, f: Data | Sequence[float], traction: Mapping[str, Any]) -> np.ndarray:
        b = np.zeros(self._dofs.size)
        if callable(f) or np.any(f):
            value = f if callable(f) else np.asarray(f, np.float64)
            self.mesh.fill(self._f, self.mesh.at_quadrature(value, _Q, "f", (2,)))
            b += self._vector("load")
        for part, g in traction.items():
            check_name("part of the boundary", part, self.mesh.names)
            nodes = self.mesh.part_nodes(part, 2)
            value = g if callable(g) else np.asarray(g, np.float64)
            self._g.x.array[:] = 0.0
            self._g.x.array[self._dofs[nodes]] = self.mesh.at_nodes(
                value, 2, f"traction[{part!r}]", (2,), nodes
            )
            b += self._vector("traction", part)
        return b

    def _supports(self, displacement: Mapping[str, Displacement]) -> tuple[Any, np.ndarray]:
        """Key of the given unknowns, and their values; where parts meet the later one wins."""
        given = np.zeros(self._dofs.size)
        key = []
        for part, value in displacement.items():
            check_name("part of the boundary", part, self.mesh.names)
            nodes, name = self.mesh.part_nodes(part, 2), f"displacement[{part!r}]"
            if isinstance(value, Mapping):
                for i, v in value.items():
                    if i not in (0, 1):
                        raise ValueError(f"{name}: component {i!r}, allowed are 0 and 1")
                    given[self._dofs[nodes, i]] = self.mesh.at_nodes(v, 2, name, nodes=nodes)
                    key.append((part, i))
                continue
            data = value if callable(value) else np.asarray(value, np.float64)
            if not callable(data) and data.shape == ():
                data = np.full(2, float(data))
            given[self._dofs[nodes]] = self.mesh.at_nodes(data, 2, name, (2,), nodes)
            key += [(part, 0), (part, 1)]
        if not {i for _, i in key} == {0, 1}:
            raise ValueError("displacement: both components need a support somewhere")
        return tuple(sorted(set(key))), given

    def _system(self, key: Any, kind: Any) -> System:
        if key not in self._systems:
            fixed = [self._dofs[self.mesh.part_nodes(part, 2), i] for part, i in key]
            self._systems[key] = System(
                self._matrix.to_scipy(), np.unique(np.concatenate(fixed)), kind
            )
        return self._systems[key]

    def errors(
        self,
        u: np.ndarray,
        exact: Callable[[np.ndarray], Any],
        gradient: Callable[[np.ndarray], Any] | None = None,
    ) -> tuple[float, float]:
        """L2 norms of the errors of a displacement and its gradient, see `FemMesh.errors`."""
        return self.mesh.errors(u, 2, exact, gradient)

    def _info(self) -> dict[str, Any]:
        return {"degree": 2, "dofs": int(self._dofs.size), "cells": len(self.mesh.cells)}


class Elasticity(_Solid):
    """``-div sigma = f``, ``sigma = 2 mu eps(u) + lam div(u) I`` on a mesh, with P2 elements.

    Parameters
    ----------
    mesh : Triangulation

    Examples
    --------
    >>> from solvers.fenicsx import Elasticity, rectangle, triangulate
    >>> body = Elasticity(triangulate(rectangle(), 1 / 16))  # doctest: +SKIP
    >>> u = body.solve(1.0, 1.0, {"bottom": 0.0}, traction={"top": (0, 1)}).x  # doctest: +SKIP
    """

    def solve(
        self,
        lam: Data,
        mu: Data,
        displacement: Mapping[str, Displacement],
        *,
        f: Data | Sequence[float] = (0.0, 0.0),
        traction: Mapping[str, Any] | None = None,
        rtol: float = 1e-10,
    ) -> SolveResult:
        """Solve for the displacement.

        Parameters
        ----------
        lam, mu : number, array or callable
            Lame's parameters, see `lame`.
        displacement : mapping from part to value
            Supports: a vector, or a mapping ``{component: value}`` that leaves the other free.
        f : pair or callable
            Force a volume, shape (2,) or (2, n) of coordinates.
        traction : mapping from part to pair or callable
            Force an area ``sigma n``; 0 on parts left out.
        rtol : float
            Relative residual to reach.

        Returns
        -------
        SolveResult
            `x` has shape (nodes, 2): the points of the mesh, then the middles of the edges.

        Raises
        ------
        ValueError
        SolverDidNotConverge
        """
        traction = dict(traction or {})
        key, given = self._supports(displacement)
        system = self._system(key, "spd")
        self._bound("load")
        for part in traction:
            check_name("part of the boundary", part, self.mesh.names)
            self._bound("traction", part)
        start = time.perf_counter()
        self._material(lam, mu)
        b = self._loads(f, traction)
        system.set_matrix(self._assembled("stiffness"))
        x, residual = system.solve(b, given, rtol)
        seconds = time.perf_counter() - start
        return SolveResult(
            x=x[self._dofs], residual=residual, residuals=np.array([residual]), iterations=0,
            solver=system.name, seconds=seconds, info=self._info(),
        )  # fmt: skip

    def stress(self, u: np.ndarray, lam: Data, mu: Data) -> np.ndarray:
        """Stress at the points of the mesh: L2 projection onto P1, shape (points, 2, 2)."""
        return self.mesh.project(self._stress(u, lam, mu), _Q)

    def _stress(self, u: np.ndarray, lam: Data, mu: Data) -> np.ndarray:
        gradient = self.mesh.gradients(u, 2, _Q)
        strain = 0.5 * (gradient + np.swapaxes(gradient, -1, -2))
        la = self.mesh.at_quadrature(lam, _Q, "lam")[..., None, None]
        m = self.mesh.at_quadrature(mu, _Q, "mu")[..., None, None]
        trace = np.trace(strain, axis1=-2, axis2=-1)[..., None, None]
        return 2 * m * strain + la * trace * np.eye(2)

    def energy(self, u: np.ndarray, lam: Data, mu: Data) -> float:
        """Strain energy a length of the body, ``1/2 int sigma : eps``."""
        gradient = self.mesh.gradients(u, 2, _Q)
        strain = 0.5 * (gradient + np.swapaxes(gradient, -1, -2))
        density = 0.5 * (self._stress(u, lam, mu) * strain).sum(axis=(-1, -2))
        return float(self.mesh.integrate(density, _Q))


class Hyperelasticity(_Solid):
    """Compressible neo-Hookean solid at large strains, plane strain, with P2 elements.

    The energy density is ``mu/2 (tr C - 2 - 2 ln J) + lam/2 (ln J)^2`` with ``C = F^T F``,
    ``F = I + grad u``, ``J = det F``; loads act on the undeformed body.

    Parameters
    ----------
    mesh : Triangulation

    Notes
    -----
    Newton's method with backtracking, which refuses states with ``J <= 0``. The load comes in one
    step if Newton's method takes it, else in smaller ones.

    References
    ----------
    .. [1] Bonet & Wood, Nonlinear continuum mechanics for finite element analysis, section 6.4.3.
    """

    _operator = "tangent"

    def solve(
        self,
        lam: Data,
        mu: Data,
        displacement: Mapping[str, Displacement],
        *,
        f: Data | Sequence[float] = (0.0, 0.0),
        traction: Mapping[str, Any] | None = None,
        rtol: float = 1e-10,
        maxiter: int = 30,
        max_load_steps: int = 64,
    ) -> SolveResult:
        """Solve for the displacement; arguments as for `Elasticity.solve`.

        Parameters
        ----------
        maxiter : int
            Newton steps for each part of the load.
        max_load_steps : int
            The smallest part of the load is its inverse.

        Returns
        -------
        SolveResult
            `x` has shape (nodes, 2). Residuals are relative to the unbalanced force of the full
            load on the undeformed body (with the given displacements in place); `residuals` is the
            history of the last part of the load, ``info["load_steps"]`` how many there were.

        Raises
        ------
        ValueError
        SolverDidNotConverge
        """
        traction = dict(traction or {})
        key, given = self._supports(displacement)
        system = self._system(key, "symmetric")
        self._bound("residual"), self._bound("load")
        for part in traction:
            check_name("part of the boundary", part, self.mesh.names)
            self._bound("traction", part)
        start = time.perf_counter()
        self._material(lam, mu)
        load = self._loads(f, traction)
        fixed = np.ones(given.size, bool)
        fixed[system.free] = False
        zero = np.zeros(given.size)
        self._u.x.array[:] = 0.0
        tangent = self._assembled("tangent").copy()  # linear elasticity
        given = np.where(fixed, given, 0.0)
        scale = float(np.linalg.norm((load - tangent @ given)[system.free]))
        x, done, part_of_load, steps, iterations = zero, 0.0, 1.0, 0, 0
        history = np.zeros(1)
        while done < 1 and scale > 0:
            target = min(1.0, done + part_of_load)

            def residual(v: np.ndarray, target: float = target) -> np.ndarray:
                self._u.x.array[:] = v  # ln(J) is NaN where J < 0: Newton's method steps back
                return self._vector("residual") - target * load

            def jacobian(v: np.ndarray) -> Any:
                self._u.x.array[:] = v
                return self._assembled("tangent")

            try:
                # the increment of the linear problem at this state: boundary values move at once
                # without turning cells over
                step = (target - done) * given
                system.set_matrix(jacobian(x))
                r = residual(x) + self._matrix.to_scipy() @ step
                guess = x + step - system.direction(r)
                x_new, history = newton(
                    system, residual, jacobian, guess, scale=scale, rtol=rtol, maxiter=maxiter,
                    name="fenicsx.newton",
                )  # fmt: skip
            except SolverDidNotConverge as err:
                part_of_load *= 0.5
                if part_of_load < 1 / max_load_steps:
                    raise SolverDidNotConverge(
                        "fenicsx.newton", iterations=iterations, residual=err.residual, rtol=rtol,
                        note=f"at {done:.0%} of the load, in {steps} steps",
                    ) from None  # fmt: skip
                continue
            x, done, steps = x_new, target, steps + 1
            iterations += len(history)  # the linear step counts
        seconds = time.perf_counter() - start
        return SolveResult(
            x=x[self._dofs], residual=float(history[-1]), residuals=history, iterations=iterations,
            solver="fenicsx.newton+mumps-ldlt", seconds=seconds,
            info={**self._info(), "load_steps": steps,
                  "min_jacobian": self.min_jacobian(x[self._dofs])},
        )  # fmt: skip

    def min_jacobian(self, u: np.ndarray) -> float:
        """Smallest ``det F`` at the quadrature points."""
        F = np.eye(2) + self.mesh.gradients(u, 2, _Q)
        return float((F[..., 0, 0] * F[..., 1, 1] - F[..., 0, 1] * F[..., 1, 0]).min())

    def stress(self, u: np.ndarray, lam: Data, mu: Data) -> np.ndarray:
        """Cauchy stress at the points of the undeformed mesh, projected onto P1: (points, 2, 2)."""
        F = np.eye(2) + self.mesh.gradients(u, 2, _Q)
        J = np.linalg.det(F)[..., None, None]
        la = self.mesh.at_quadrature(lam, _Q, "lam")[..., None, None]
        m = self.mesh.at_quadrature(mu, _Q, "mu")[..., None, None]
        B = F @ np.swapaxes(F, -1, -2)
        return self.mesh.project((m * (B - np.eye(2)) + la * np.log(J) * np.eye(2)) / J, _Q)

    def energy(self, u: np.ndarray, lam: Data, mu: Data) -> float:
        """Elastic energy a length of the body."""
        F = np.eye(2) + self.mesh.gradients(u, 2, _Q)
        log = np.log(np.linalg.det(F))
        la, m = (self.mesh.at_quadrature(v, _Q, n) for v, n in ((lam, "lam"), (mu, "mu")))
        square = (F**2).sum(axis=(-1, -2))
        return float(self.mesh.integrate(0.5 * m * (square - 2 - 2 * log) + 0.5 * la * log**2, _Q))


def kirsch_stress(x: np.ndarray, radius: float, tension: float = 1.0) -> np.ndarray:
    """Stress of an infinite plate with a round hole at the origin, pulled along x.

    Parameters
    ----------
    x : ndarray, shape (2, n)
    radius, tension : float

    Returns
    -------
    ndarray, shape (2, 2, n)

    References
    ----------
    .. [1] G. Kirsch, VDI-Zeitschrift 42 (1898); Timoshenko & Goodier, Theory of
       Elasticity, article 35.
    """
    r, t = np.hypot(*x), np.arctan2(x[1], x[0])
    q = (radius / r) ** 2
    c2, c4, s2, s4 = np.cos(2 * t), np.cos(4 * t), np.sin(2 * t), np.sin(4 * t)
    xx = 1 - q * (1.5 * c2 + c4) + 1.5 * q**2 * c4
    yy = -q * (0.5 * c2 - c4) - 1.5 * q**2 * c4
    xy = -q * (0.5 * s2 + s4) + 1.5 * q**2 * s4
    return tension * np.array([[xx, xy], [xy, yy]])
