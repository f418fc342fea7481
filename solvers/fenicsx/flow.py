"""Stokes and incompressible Navier-Stokes flow with Taylor-Hood elements (P2 and P1)."""

from __future__ import annotations

import math
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

__all__ = ["NavierStokes", "Stokes"]

_Q = 4  # quadrature degree of the forces


@cache
def _form(kind: str) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """Compiled form, its coefficients and constants."""
    import ufl

    space = abstract_space("TH")
    (u, p), (v, q) = ufl.TrialFunctions(space), ufl.TestFunctions(space)
    symbols: tuple[Any, ...] = ()
    constants: tuple[Any, ...] = ()
    dx = ufl.dx
    if kind == "linear":
        nu, sigma = (ufl.Constant(space.ufl_domain()) for _ in range(2))
        constants = (nu, sigma)
        form = nu * ufl.inner(ufl.grad(u), ufl.grad(v)) * dx
        form += (sigma * ufl.inner(u, v) - p * ufl.div(v) - q * ufl.div(u)) * dx
    elif kind == "mass":
        form = ufl.inner(u, v) * dx
    elif kind == "load":
        f = ufl.Coefficient(abstract_space("Q", _Q, (2,)))
        symbols = (f,)
        form = ufl.inner(f, v) * dx(
            metadata={"quadrature_degree": _Q, "quadrature_rule": "default"}
        )
    elif kind == "traction":
        g = ufl.Coefficient(abstract_space("P", 2, (2,)))
        symbols, form = (g,), ufl.inner(g, v) * ufl.ds(1)
    else:
        w = ufl.Coefficient(space)
        symbols, state = (w,), ufl.split(w)[0]
        form = ufl.inner(ufl.grad(state) * state, v) * dx(metadata={"quadrature_degree": 5})
        if kind == "convection_jacobian":
            form = ufl.derivative(form, w, ufl.TrialFunction(space))
    return compile_abstract(form), symbols, constants


class _Flow:
    """What steady and unsteady, linear and nonlinear flows share."""

    def __init__(self, mesh: Triangulation | FemMesh) -> None:
        self.mesh = fem_mesh(mesh)
        from dolfinx import fem

        self.space = self.mesh.taylor_hood()
        velocity, to_mixed = self.space.sub(0).collapse()
        pressure, p_to_mixed = self.space.sub(1).collapse()
        block = self.mesh.dofs(velocity, 2)
        to_mixed, p_to_mixed = np.ravel(to_mixed), np.ravel(p_to_mixed)
        self._v = to_mixed[np.stack([2 * block, 2 * block + 1], axis=1)]  # (nodes, 2)
        self._p = p_to_mixed[self.mesh.dofs(pressure, 1)]  # (points,)
        self.n = self._v.size + self._p.size
        self._f = fem.Function(self.mesh.quadrature_space(_Q, (2,)))
        self._w = fem.Function(self.space)
        self._g = fem.Function(self.mesh.space(2, (2,)))
        g_block = self.mesh.dofs(self._g.function_space, 2)
        self._g_dofs = np.stack([2 * g_block, 2 * g_block + 1], axis=1)
        self._nu, self._sigma = (fem.Constant(self.mesh.mesh, 1.0) for _ in range(2))
        self._forms: dict[Any, Any] = {}
        self._matrix = fem.create_matrix(self._bound("linear"))
        self._systems: dict[Any, System] = {}

    # -- assembly --------------------------------------------------------------------------

    def _bound(self, kind: str, part: str | None = None) -> Any:
        key = (kind, part)
        if key not in self._forms:
            compiled, symbols, constants = _form(kind)
            function = {"load": self._f, "traction": self._g}.get(kind, self._w)
            rank = 2 if kind in ("linear", "mass", "convection_jacobian") else 1
            self._forms[key] = bind(
                compiled, [self.space] * rank, self.mesh, part=part,
                coefficients=dict.fromkeys(symbols, function),
                constants=dict(zip(constants, (self._nu, self._sigma), strict=False)),
            )  # fmt: skip
        return self._forms[key]

    def _vector(self, kind: str, part: str | None = None) -> np.ndarray:
        from dolfinx import fem

        out = np.zeros(self.n)
        fem.assemble_vector(out, self._bound(kind, part))
        return out

    def _assembled(self, *kinds: str, nu: float = 0.0, sigma: float = 0.0) -> Any:
        """Sum of forms, a matrix of its own."""
        from dolfinx import fem

        self._nu.value, self._sigma.value = nu, sigma
        self._matrix.set_value(0.0)
        for kind in kinds:
            fem.assemble_matrix(self._matrix, self._bound(kind))
        return self._matrix.to_scipy().copy()

    def _convection(self, w: np.ndarray) -> np.ndarray:
        self._w.x.array[:] = w
        return self._vector("convection")

    def _loads(self, f: Any, traction: Mapping[str, Any]) -> np.ndarray:
        b = np.zeros(self.n)
        if callable(f) or np.any(f):
            value = f if callable(f) else np.asarray(f, np.float64)
            self.mesh.fill(self._f, self.mesh.at_quadrature(value, _Q, "f", (2,)))
            b += self._vector("load")
        for part, g in traction.items():
            nodes = self.mesh.part_nodes(part, 2)
            value = g if callable(g) else np.asarray(g, np.float64)
            self._g.x.array[:] = 0.0
            self._g.x.array[self._g_dofs[nodes]] = self.mesh.at_nodes(
                value, 2, f"traction[{part!r}]", (2,), nodes
            )
            b += self._vector("traction", part)
        return b

    def _setup(
        self, nu: float, velocity: Mapping[str, Any], traction: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], np.ndarray, bool]:
        """Check; return the parts with velocities, the given unknowns, whether there is no exit."""
        if not (math.isfinite(nu) and nu > 0):
            raise ValueError(f"nu={nu}: need a positive number")
        for part in (*velocity, *traction):
            check_name("part of the boundary", part, self.mesh.names)
        if both := set(velocity) & set(traction):
            raise ValueError(f"part {min(both)!r} has a velocity and a traction")
        if not velocity:
            raise ValueError("velocity: give it on one part of the boundary at least")
        self._bound("load")
        for part in traction:
            self._bound("traction", part)
        given = np.zeros(self.n)
        for part, value in velocity.items():
            nodes = self.mesh.part_nodes(part, 2)
            data = value if callable(value) else np.asarray(value, np.float64)
            if not callable(data) and data.shape == ():
                data = np.full(2, float(data))
            given[self._v[nodes]] = self.mesh.at_nodes(data, 2, f"velocity[{part!r}]", (2,), nodes)
        return tuple(velocity), given, set(velocity) == set(self.mesh.names)

    def _system(self, parts: tuple[str, ...], closed: bool, kind: Any) -> System:
        key = (tuple(sorted(parts)), kind)
        if key not in self._systems:
            nodes = np.unique(np.concatenate([self.mesh.part_nodes(p, 2) for p in parts]))
            fixed = self._v[nodes].ravel()
            if closed:  # the pressure is known up to a constant
                fixed = np.append(fixed, self._p[0])
            self._systems[key] = System(self._matrix.to_scipy(), fixed, kind)
        return self._systems[key]

    def _result(self, w: np.ndarray, closed: bool) -> np.ndarray:
        """Velocity and pressure at the nodes, shape (..., nodes, 3)."""
        v, p = w[..., self._v], w[..., self._p]
        if closed:
            weights = self.mesh.node_weights(1)
            p = p - (p @ weights / weights.sum())[..., None]
        middle = p[..., self.mesh.edges].mean(axis=-1)
        p = np.concatenate([p, middle], axis=-1)
        return np.concatenate([v, p[..., None]], axis=-1)

    def _unknowns(self, x: np.ndarray) -> np.ndarray:
        w = np.empty(self.n)
        w[self._v] = x[:, :2]
        w[self._p] = x[: len(self._p), 2]
        return w

    def _info(self) -> dict[str, Any]:
        return {"dofs": self.n, "cells": len(self.mesh.cells)}

    # -- what is taken from a solution -----------------------------------------------------

    def force(
        self, x: np.ndarray, nu: float, part: str, *, f: Any = (0.0, 0.0), convection: bool = True
    ) -> np.ndarray:
        """Force of a steady flow of unit density on a part of the boundary, shape (2,).

        From the equations of the nodes on it, which converges twice as fast as the integral of
        the stress [1]_.

        References
        ----------
        .. [1] John & Matthies, "Higher-order finite element discretizations in a benchmark problem
           for incompressible flows", Int. J. Numer. Meth. Fluids 37 (2001), section 3.
        """
        w = self._unknowns(x)
        r = self._assembled("linear", nu=nu) @ w - self._loads(f, {})
        if convection:
            r += self._convection(w)
        return -r[self._v[self.mesh.part_nodes(part, 2)]].sum(axis=0)

    def flow_rate(self, x: np.ndarray, part: str) -> float:
        """Volume leaving through a part a time and depth, ``int u . n``: Simpson's rule, exact."""
        return self.mesh.boundary_flux(x[:, :2], part)

    def divergence(self, x: np.ndarray) -> float:
        """L2 norm of ``div u``, relative to that of ``grad u``."""
        g = self.mesh.gradients(x[:, :2], 2, 2)
        div = self.mesh.integrate(np.trace(g, axis1=-2, axis2=-1) ** 2, 2)
        size = self.mesh.integrate((g**2).sum(axis=(-1, -2)), 2)
        return float(np.sqrt(div / size)) if size > 0 else 0.0

    def errors(
        self,
        x: np.ndarray,
        velocity: Callable[[np.ndarray], Any],
        pressure: Callable[[np.ndarray], Any],
    ) -> tuple[float, float]:
        """L2 norms of the errors of velocity and pressure."""
        n = len(self.mesh.points)
        return (
            self.mesh.errors(x[:, :2], 2, velocity)[0],
            self.mesh.errors(x[:n, 2], 1, pressure)[0],
        )


class Stokes(_Flow):
    """``-nu laplace(u) + grad p = f``, ``div u = 0`` on a mesh.

    Parameters
    ----------
    mesh : Triangulation

    Examples
    --------
    >>> from solvers.fenicsx import Stokes, channel, circle, triangulate
    >>> mesh = triangulate(channel(2, 1, [circle((0.5, 0.5), 0.1)]), 1 / 16)  # doctest: +SKIP
    >>> walls = {"inlet": lambda x: [x[1] * (1 - x[1]), 0 * x[0]], "wall": 0, "hole": 0}
    >>> x = Stokes(mesh).solve(1.0, walls).x  # doctest: +SKIP
    """

    def solve(
        self,
        nu: float,
        velocity: Mapping[str, Data | Sequence[float]],
        *,
        f: Data | Sequence[float] = (0.0, 0.0),
        traction: Mapping[str, Any] | None = None,
        rtol: float = 1e-10,
    ) -> SolveResult:
        """Solve for velocity and pressure.

        Parameters
        ----------
        nu : float
            Viscosity.
        velocity : mapping from part to vector
            Pair of numbers, or callable of coordinates (2, n) that returns (2, n); 0 for a wall.
            Parts left out are open: ``nu du/dn - p n = 0``, or `traction`. With velocities on
            all parts the pressure has mean zero.
        f : pair or callable
            Force a volume.
        traction : mapping from part to pair or callable
            ``nu du/dn - p n``.
        rtol : float
            Relative residual to reach.

        Returns
        -------
        SolveResult
            `x` has shape (nodes, 3): velocity and pressure at the points of the mesh, then the
            middles of the edges.

        Raises
        ------
        ValueError
        SolverDidNotConverge
        """
        traction = dict(traction or {})
        parts, given, closed = self._setup(nu, velocity, traction)
        system = self._system(parts, closed, "symmetric")
        start = time.perf_counter()
        system.set_matrix(self._assembled("linear", nu=nu))
        w, residual = system.solve(self._loads(f, traction), given, rtol)
        x = self._result(w, closed)
        seconds = time.perf_counter() - start
        return SolveResult(
            x=x, residual=residual, residuals=np.array([residual]), iterations=0,
            solver=system.name, seconds=seconds, info=self._info(),
        )  # fmt: skip


class NavierStokes(_Flow):
    """``u_t + (u . grad) u - nu laplace(u) + grad p = f``, ``div u = 0`` on a mesh.

    Parameters
    ----------
    mesh : Triangulation
    """

    def solve(
        self,
        nu: float,
        velocity: Mapping[str, Data | Sequence[float]],
        *,
        f: Data | Sequence[float] = (0.0, 0.0),
        traction: Mapping[str, Any] | None = None,
        rtol: float = 1e-10,
        maxiter: int = 25,
    ) -> SolveResult:
        """Solve for the steady flow; arguments and result as for `Stokes.solve`.

        Newton's method with backtracking from the Stokes flow; if it fails, by way of more viscous
        flows.

        Parameters
        ----------
        maxiter : int
            Newton steps a viscosity.

        Returns
        -------
        SolveResult
            Residuals are relative to the forces that the given velocities and loads make.
        """
        traction = dict(traction or {})
        parts, given, closed = self._setup(nu, velocity, traction)
        stokes = self._system(parts, closed, "symmetric")
        system = self._system(parts, closed, "general")
        self._bound("convection"), self._bound("convection_jacobian")
        start = time.perf_counter()
        b = self._loads(f, traction)
        matrix = self._assembled("linear", nu=nu)
        stokes.set_matrix(matrix)
        w, _ = stokes.solve(b, given, max(rtol, 1e-12))
        lift = np.array(given)
        lift[stokes.free] = 0.0
        scale = float(np.linalg.norm((b - matrix @ lift)[stokes.free]))
        history, total = np.zeros(1), 0
        now, reached, failures = nu, math.inf, 0
        while scale > 0 and reached != nu:
            linear = matrix if now == nu else self._assembled("linear", nu=now)

            def residual(v: np.ndarray, linear: Any = linear) -> np.ndarray:
                return linear @ v + self._convection(v) - b

            def jacobian(v: np.ndarray, now: float = now) -> Any:
                self._w.x.array[:] = v
                return self._assembled("linear", "convection_jacobian", nu=now)

            try:
                w, history = newton(
                    system, residual, jacobian, w, scale=scale, maxiter=maxiter,
                    rtol=rtol if now == nu else 1e-3, name="fenicsx.newton",
                )  # fmt: skip
            except SolverDidNotConverge:
                failures += 1
                if failures > 8:
                    raise
                now = 2 * now if math.isinf(reached) else math.sqrt(now * reached)
                continue
            total += len(history) - 1
            reached, now = now, nu
        x = self._result(w, closed)
        seconds = time.perf_counter() - start
        return SolveResult(
            x=x, residual=float(history[-1]), residuals=history, iterations=total,
            solver="fenicsx.newton+mumps-lu", seconds=seconds, info=self._info(),
        )  # fmt: skip

    def evolve(
        self,
        u0: Any,
        times: Sequence[float],
        nu: float,
        velocity: Mapping[str, Data | Sequence[float]],
        *,
        f: Data | Sequence[float] = (0.0, 0.0),
        traction: Mapping[str, Any] | None = None,
        time_tol: float = 1e-2,
        n_steps: int | None = None,
        max_steps: int = 2**14,
        rtol: float = 1e-10,
    ) -> SolveResult:
        """Solve from the first of `times`, where ``u = u0``, to the last.

        Parameters
        ----------
        u0 : array, shape (nodes, 2), pair or callable
            Initial velocity; values on the boundary are replaced by `velocity`.
        times : sequence of float
            Increasing; the flow is returned at these.
        nu, velocity, f, traction
            As for `solve`, constant in time.
        time_tol : float
            Relative L2 error of the velocity that time steps may make, over all `times`.
        n_steps : int, optional
            Steps from one time to the next to begin with; default: such that the flow crosses half
            a cell in a step.
        max_steps : int
            Steps from one time to the next at most.
        rtol : float
            Relative residual of the linear solves.

        Returns
        -------
        SolveResult
            `x` has shape (len(times), nodes, 3); the first pressure is that of the first step.
            ``info["time_error"]`` is the estimated relative L2 error of the velocity in time.

        Raises
        ------
        ValueError
        SolverDidNotConverge
            `max_steps` do not reach `time_tol`.

        Notes
        -----
        Second-order semi-implicit backward differences (SBDF2 [1]_): viscosity and pressure
        implicit, convection extrapolated, so that one symmetric factorization serves all steps. The
        steps are halved until the velocity changes by less than three times `time_tol`; a third
        of the change is the estimate. A step too long for stability shows as a change.

        References
        ----------
        .. [1] Ascher, Ruuth & Wetton, SIAM J. Numer. Anal. 32 (1995) 797-823.
        """
        t = np.asarray(times, np.float64)
        if t.ndim != 1 or len(t) < 2 or not (np.diff(t) > 0).all():
            raise ValueError("times: need two or more increasing numbers")
        if np.ptp(np.diff(t)) > 1e-9 * np.diff(t).max():
            raise ValueError("times: must be evenly spaced")
        if not time_tol > 0:
            raise ValueError(f"time_tol={time_tol}: need a positive number")
        traction = dict(traction or {})
        parts, given, closed = self._setup(nu, velocity, traction)
        system = self._system(parts, closed, "symmetric")
        self._bound("convection"), self._bound("mass")
        start = time.perf_counter()
        data = u0 if callable(u0) else np.asarray(u0, np.float64)
        first = np.zeros(self.n)
        first[self._v] = self.mesh.at_nodes(data, 2, "u0", (2,))
        fixed = np.ones(self.n, bool)
        fixed[system.free] = False
        first[fixed] = given[fixed]
        b0 = self._loads(f, traction)
        mass = self._assembled("mass")
        weights = self.mesh.node_weights(2)
        interval = float(t[1] - t[0])
        if n_steps is None:
            speed = float(np.sqrt((first[self._v] ** 2).sum(axis=1)).max())
            n_steps = max(4, math.ceil(interval * speed / (0.5 * self._shortest())))

        def run(steps: int) -> tuple[np.ndarray, float]:
            dt = interval / steps
            out, worst = [first], 0.0
            old, now = first, first
            c_old = c_now = self._convection(first)
            system.set_matrix(self._assembled("linear", nu=nu, sigma=1 / dt))
            for i in range(steps * (len(t) - 1)):
                if i == 0:
                    b = b0 - c_now + mass @ now / dt
                else:
                    if i == 1:
                        system.set_matrix(self._assembled("linear", nu=nu, sigma=1.5 / dt))
                    b = b0 - 2 * c_now + c_old + mass @ (2 * now - 0.5 * old) / dt
                if not np.isfinite(b).all() or np.abs(b).max() > 1e100:
                    return np.full((len(t), self.n), np.inf), np.inf
                new, r = system.solve(b, given, rtol)
                worst = max(worst, r)
                if i == 0:
                    out[0] = first.copy()
                    out[0][self._p] = new[self._p]
                old, now = now, new
                c_old, c_now = c_now, self._convection(now)
                if (i + 1) % steps == 0:
                    out.append(now)
            return np.array(out), worst

        def norm(v: np.ndarray) -> float:
            return float(np.sqrt(((v[:, self._v] ** 2).sum(axis=2) @ weights).sum()))

        steps = int(n_steps)
        coarse, _ = run(steps)
        while True:
            steps *= 2
            fine, worst = run(steps)
            stable = bool(np.isfinite(fine).all() and np.isfinite(coarse).all())
            size = norm(fine) if stable else 0.0
            error = norm(fine - coarse) / 3 / size if size > 0 else (0.0 if stable else math.inf)
            if error <= time_tol:
                break
            if 2 * steps > max_steps:
                raise SolverDidNotConverge(
                    "fenicsx.sbdf2", iterations=steps, residual=error, rtol=time_tol,
                    note="estimated error in time; use a larger time_tol or max_steps",
                )  # fmt: skip
            coarse = fine
        x = self._result(fine, closed)
        seconds = time.perf_counter() - start
        return SolveResult(
            x=x, residual=worst, residuals=np.array([worst]), iterations=steps * (len(t) - 1),
            solver="fenicsx.sbdf2+mumps-ldlt", seconds=seconds,
            info={**self._info(), "time_error": error, "steps": steps},
        )  # fmt: skip

    def _shortest(self) -> float:
        ends = self.mesh.points[self.mesh.edges]
        return float(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).min())
