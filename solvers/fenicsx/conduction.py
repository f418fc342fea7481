"""Diffusion and heat conduction on any plane mesh.

`Diffusion` is ``-div(a grad u) + c u = f`` with Dirichlet, flux and Robin conditions; `Heat` is
``rho u_t - div(k grad u) = f``. Both keep spaces, patterns, compiled forms and the symbolic
factorization of their mesh: make one object and solve with it many times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from ..names import check_name
from ..result import SolveResult
from ._algebra import System, product
from ._space import (
    Data,
    FemMesh,
    abstract_space,
    bind,
    compile_abstract,
    evaluate,
    fem_mesh,
)
from .geometry import Triangulation

__all__ = ["Diffusion", "Heat"]


@cache
def _form(kind: str, degree: int) -> tuple[Any, Any]:
    """Compiled form and its coefficient."""
    import ufl

    space = abstract_space("P", degree)
    u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
    q = 2 * degree
    dx = ufl.dx(metadata={"quadrature_degree": q, "quadrature_rule": "default"})
    ds = ufl.ds(1, metadata={"quadrature_degree": 2 * degree + 1})
    if kind == "stiffness":
        a = ufl.Coefficient(abstract_space("Q", q))
        form = a * ufl.inner(ufl.grad(u), ufl.grad(v)) * dx
    elif kind == "tensor":
        a = ufl.Coefficient(abstract_space("Q", q, (2, 2)))
        form = ufl.inner(a * ufl.grad(u), ufl.grad(v)) * dx
    elif kind == "mass":
        a = ufl.Coefficient(abstract_space("Q", q))
        form = a * u * v * dx
    elif kind == "load":
        a = ufl.Coefficient(abstract_space("Q", q))
        form = a * v * dx
    elif kind == "flux":
        a = ufl.Coefficient(abstract_space("P", degree + 1))
        form = a * v * ds
    else:  # "robin"
        a = ufl.Coefficient(abstract_space("P", degree + 1))
        form = a * u * v * ds
    return compile_abstract(form), a


class Diffusion:
    """``-div(a grad u) + c u = f`` on a mesh, with Lagrange elements.

    Parameters
    ----------
    mesh : Triangulation
        From `solvers.fenicsx.triangulate`.
    degree : {1, 2}
        Of the elements: the L2 error is of order ``degree + 1`` for smooth solutions on domains
        with straight sides; on curved sides, which the mesh replaces by chords, of order 2.
    tensor : bool
        `a` is a symmetric tensor, shape (2, 2).

    Examples
    --------
    >>> from solvers.fenicsx import Diffusion, l_shape, triangulate
    >>> mesh = triangulate(l_shape(), 1 / 32)  # doctest: +SKIP
    >>> u = Diffusion(mesh).solve(1.0, 1.0).x  # doctest: +SKIP
    """

    def __init__(
        self, mesh: Triangulation | FemMesh, *, degree: int = 1, tensor: bool = False
    ) -> None:
        if isinstance(degree, bool) or degree not in (1, 2):
            raise ValueError(f"degree={degree!r}: allowed are 1 and 2")
        self.mesh, self.degree, self.tensor = fem_mesh(mesh), int(degree), bool(tensor)
        from dolfinx import fem  # after fem_mesh, which orders the libraries

        self.space = self.mesh.space(self.degree)
        self._dofs = self.mesh.dofs(self.space, self.degree)
        q = self.quadrature = 2 * self.degree
        scalars = self.mesh.quadrature_space(q)
        self._a = fem.Function(self.mesh.quadrature_space(q, (2, 2)) if tensor else scalars)
        self._c, self._f = fem.Function(scalars), fem.Function(scalars)
        self._g = fem.Function(self.mesh.space(self.degree + 1))
        self._forms: dict[Any, Any] = {}
        self._matrix = fem.create_matrix(self._bound("tensor" if tensor else "stiffness"))
        self._systems: dict[Any, System] = {}

    # -- assembly --------------------------------------------------------------------------

    def _bound(self, kind: str, part: str | None = None) -> Any:
        key = (kind, part)
        if key not in self._forms:
            compiled, coefficient = _form(kind, self.degree)
            data = {
                "stiffness": self._a, "tensor": self._a, "mass": self._c, "load": self._f
            }.get(kind, self._g)  # fmt: skip
            n = 1 if kind in ("load", "flux") else 2
            self._forms[key] = bind(
                compiled, [self.space] * n, self.mesh, coefficients={coefficient: data}, part=part
            )
        return self._forms[key]

    def _side_data(self, part: str, value: Data, name: str) -> None:
        """Fill `_g` on a part of the boundary."""
        x = self._g.function_space.tabulate_dof_coordinates()
        dofs = self._side_dofs(part)
        self._g.x.array[:] = 0.0
        if callable(value):
            self._g.x.array[dofs] = evaluate(value, x[dofs, :2].T, name)
        elif np.ndim(value) == 0:
            self._g.x.array[dofs] = float(value)
        else:
            raise ValueError(f"{name}: need a number or a function of coordinates")

    def _side_dofs(self, part: str) -> np.ndarray:
        key = ("dofs", part)
        if key not in self._forms:
            from dolfinx import fem

            mesh = self.mesh.mesh
            mesh.topology.create_connectivity(1, 2)
            mesh.topology.create_connectivity(2, 1)
            pairs = self.mesh.part_entities(part).reshape(-1, 2)
            of_cell = mesh.topology.connectivity(2, 1).array.reshape(-1, 3)
            facets = of_cell[pairs[:, 0], pairs[:, 1]]
            self._forms[key] = fem.locate_dofs_topological(
                self._g.function_space, 1, np.sort(facets).astype(np.int32)
            )
        return self._forms[key]

    def _add(self, kind: str, part: str | None = None) -> None:
        from dolfinx import fem

        fem.assemble_matrix(self._matrix, self._bound(kind, part))

    def _vector(self, kind: str, part: str | None = None) -> np.ndarray:
        from dolfinx import fem

        out = np.zeros(len(self._dofs))
        fem.assemble_vector(out, self._bound(kind, part))
        return out

    def _weights(self) -> np.ndarray:
        """Positive quadrature weights of the unknowns."""
        out = np.empty(len(self._dofs))
        out[self._dofs] = self.mesh.node_weights(self.degree)
        return out

    def _set(self, function: Any, value: Data, name: str) -> np.ndarray:
        shape = (2, 2) if function is self._a and self.tensor else ()
        values = self.mesh.at_quadrature(value, self.quadrature, name, shape)
        self.mesh.fill(function, values)
        return values

    def _set_coefficient(self, a: Data, name: str = "a") -> None:
        values = self._set(self._a, a, name)
        if self.tensor:
            if not np.allclose(values, np.swapaxes(values, -1, -2), rtol=1e-12, atol=0):
                raise ValueError(f"{name} must be symmetric")
            smallest = float(np.linalg.eigvalsh(values).min())
        else:
            smallest = float(values.min())
        if not smallest > 0:
            raise ValueError(f"{name} must be positive, its minimum is {smallest:.6g}")

    def _system(self, parts: tuple[str, ...]) -> tuple[System, np.ndarray]:
        """Equations with the values given on these parts, and the given unknowns."""
        if parts not in self._systems:
            nodes = [self.mesh.part_nodes(p, self.degree) for p in parts]
            fixed = self._dofs[np.unique(np.concatenate([np.empty(0, np.int64), *nodes]))]
            self._systems[parts] = System(self._matrix.to_scipy(), fixed, "spd")
        return self._systems[parts], self._dofs

    def _given(self, dirichlet: Mapping[str, Data]) -> np.ndarray:
        """Vector with the boundary values; where parts meet, the later one wins."""
        out = np.zeros(len(self._dofs))
        for part, value in dirichlet.items():
            nodes = self.mesh.part_nodes(part, self.degree)
            out[self._dofs[nodes]] = self.mesh.at_nodes(
                value, self.degree, f"dirichlet[{part!r}]", nodes=nodes
            )
        return out

    def _conditions(
        self,
        dirichlet: Data | Mapping[str, Data],
        flux: Mapping[str, Data],
        robin: Mapping[str, tuple[Data, Data]],
    ) -> dict[str, Data]:
        """Dirichlet data by part; a single value holds on all parts without another condition."""
        names = self.mesh.names
        for mapping in (flux, robin):
            for part in mapping:
                check_name("part of the boundary", part, names)
        if not isinstance(dirichlet, Mapping):
            dirichlet = {n: dirichlet for n in names if n not in flux and n not in robin}
        for part in dirichlet:
            check_name("part of the boundary", part, names)
        for part in names:
            if (part in dirichlet) + (part in flux) + (part in robin) > 1:
                raise ValueError(f"part {part!r} of the boundary has more than one condition")
        return dict(dirichlet)

    def _prepare(self, flux: Any, robin: Any, mass: bool) -> None:
        """Compile and bind the forms that a solve needs, before its clock starts."""
        self._bound("load")
        if mass:
            self._bound("mass")
        for part in (*flux, *robin):
            self._bound("flux", part)
            self._side_dofs(part)
        for part in robin:
            self._bound("robin", part)

    def _assemble(
        self,
        f: Data,
        flux: Mapping[str, Data],
        robin: Mapping[str, tuple[Data, Data]],
        reaction: Data | None,
    ) -> np.ndarray:
        """Assemble the matrix of the coefficient that is set; return the right-hand side."""
        self._matrix.set_value(0.0)
        self._add("tensor" if self.tensor else "stiffness")
        if reaction is not None:
            if not float(self._set(self._c, reaction, "reaction").min()) >= 0:
                raise ValueError("reaction must not be negative")
            self._add("mass")
        for part, (alpha, _) in robin.items():
            self._side_data(part, alpha, f"robin[{part!r}]")
            if not float(self._g.x.array.min()) >= 0:
                raise ValueError(f"robin[{part!r}]: the first number must not be negative")
            self._add("robin", part)
        return self._load(f, flux, robin)

    def _load(
        self, f: Data, flux: Mapping[str, Data], robin: Mapping[str, tuple[Data, Data]]
    ) -> np.ndarray:
        b = np.zeros(len(self._dofs))
        if callable(f) or np.any(f):
            self._set(self._f, f, "f")
            b = self._vector("load")
        for part, g in [*flux.items(), *((p, g) for p, (_, g) in robin.items())]:
            self._side_data(part, g, f"flux[{part!r}]")
            if self._g.x.array.any():
                b += self._vector("flux", part)
        return b

    # -- solve -----------------------------------------------------------------------------

    def solve(
        self,
        a: Data,
        f: Data = 0.0,
        *,
        dirichlet: Data | Mapping[str, Data] = 0.0,
        flux: Mapping[str, Data] | None = None,
        robin: Mapping[str, tuple[Data, Data]] | None = None,
        reaction: Data | None = None,
        rtol: float = 1e-10,
    ) -> SolveResult:
        """Solve for one set of data.

        Parameters
        ----------
        a : number, array or callable
            Positive coefficient (with ``tensor=True`` symmetric, shape (2, 2)). Arrays are values
            at the points of the mesh, taken as piecewise linear; callables get coordinates, shape
            (2, n), and are evaluated at the quadrature points, so that jumps stay jumps.
        f : number, array or callable
            Source.
        dirichlet : number, callable or mapping from part to value
            Boundary values; one value holds on all parts that have no other condition.
        flux : mapping from part to number or callable
            Flux into the domain, ``a du/dn`` with the outward normal; 0 on parts left out.
        robin : mapping from part to pair ``(alpha, g)``
            ``a du/dn + alpha u = g``, alpha >= 0.
        reaction : number, array or callable, optional
            ``c >= 0``.
        rtol : float
            Relative residual to reach.

        Returns
        -------
        SolveResult
            `x` at the points of the mesh (degree 2: then at the middles of the edges).

        Raises
        ------
        ValueError
            Names the argument and what is wrong.
        SolverDidNotConverge
        """
        flux, robin = dict(flux or {}), dict(robin or {})
        values = self._conditions(dirichlet, flux, robin)
        parts = tuple(values)
        if not parts and not robin and reaction is None:
            raise ValueError("without dirichlet, robin and reaction the solution is not unique")
        system, dofs = self._system(parts)
        self._prepare(flux, robin, reaction is not None)
        start = time.perf_counter()
        self._set_coefficient(a)
        b = self._assemble(f, flux, robin, reaction)
        system.set_matrix(self._matrix.to_scipy())
        x, residual = system.solve(b, self._given(values), rtol)
        seconds = time.perf_counter() - start
        return SolveResult(
            x=x[dofs], residual=residual, residuals=np.array([residual]), iterations=0,
            solver=system.name, seconds=seconds,
            info={"degree": self.degree, "dofs": len(x), "cells": len(self.mesh.cells)},
        )  # fmt: skip

    def reactions(
        self, u: np.ndarray, a: Data, f: Data = 0.0, *, reaction: Data | None = None
    ) -> np.ndarray:
        """Flux into the domain that the Dirichlet values at each node make, shape (nodes,).

        The equations of the nodes, less the source: 0 at nodes that are free. The sum over a part
        of the boundary is the flux through it, ``int a du/dn``, and converges twice as fast as the
        derivative; all of them and the source balance to rounding.
        """
        self._set_coefficient(a)
        b = self._assemble(f, {}, {}, reaction)
        x = np.empty(len(self._dofs))
        x[self._dofs] = u
        return (self._matrix.to_scipy() @ x - b)[self._dofs]

    def errors(
        self,
        u: np.ndarray,
        exact: Callable[[np.ndarray], Any],
        gradient: Callable[[np.ndarray], Any] | None = None,
    ) -> tuple[float, float]:
        """L2 norms of the errors of a solution and, given the exact one, of its gradient."""
        return self.mesh.errors(u, self.degree, exact, gradient)


class Heat:
    """``rho u_t - div(k grad u) = f`` on a mesh, in time by TR-BDF2.

    Parameters
    ----------
    mesh : Triangulation
    degree : {1, 2}

    Notes
    -----
    TR-BDF2 is of second order and L-stable; with ``gamma = 2 - sqrt(2)`` both stages have one
    matrix, which is factorized once. The number of steps is doubled until the solution changes by
    less than `time_tol`; a third of the last change (second order) is the estimate of the error.

    References
    ----------
    .. [1] Hosea & Shampine, "Analysis and implementation of TR-BDF2", Appl. Numer. Math. 20 (1996).
    """

    def __init__(self, mesh: Triangulation | FemMesh, *, degree: int = 1) -> None:
        self.space = Diffusion(mesh, degree=degree)
        self.mesh = self.space.mesh

    def solve(
        self,
        u0: Data,
        times: Sequence[float],
        *,
        k: Data = 1.0,
        rho: Data = 1.0,
        f: Data | Callable[[float], Data] = 0.0,
        dirichlet: Data | Mapping[str, Data] = 0.0,
        flux: Mapping[str, Data] | None = None,
        robin: Mapping[str, tuple[Data, Data]] | None = None,
        time_tol: float = 1e-4,
        n_steps: int = 4,
        max_steps: int = 2**14,
        source_of_time: bool = False,
        rtol: float = 1e-10,
    ) -> SolveResult:
        """Solve from the first of `times`, where ``u = u0``, to the last.

        Parameters
        ----------
        u0, k, rho : number, array or callable
            Initial values; conductivity and heat capacity, positive.
        times : sequence of float
            Increasing; the solution is returned at these.
        f : number, array or callable
            Source; with `source_of_time` a function of time that returns one of these.
        dirichlet, flux, robin
            As for `Diffusion.solve`, constant in time.
        time_tol : float
            Relative L2 error of the time stepping, over all `times`, to stay below.
        n_steps : int
            Steps from one time to the next to begin with.
        max_steps : int
            Steps from one time to the next at most.
        rtol : float
            Relative residual of each linear solve.

        Returns
        -------
        SolveResult
            `x` has shape (len(times), nodes); `residual` is the largest of all steps, `iterations`
            the number of steps, ``info["time_error"]`` the estimated relative L2 error in time.

        Raises
        ------
        ValueError
        SolverDidNotConverge
            A linear solve fails, or `max_steps` do not reach `time_tol`.
        """
        from ..result import SolverDidNotConverge

        t = np.asarray(times, np.float64)
        if t.ndim != 1 or len(t) < 2 or not (np.diff(t) > 0).all():
            raise ValueError("times: need two or more increasing numbers")
        if not time_tol > 0:
            raise ValueError(f"time_tol={time_tol}: need a positive number")
        d = self.space
        flux, robin = dict(flux or {}), dict(robin or {})
        values = d._conditions(dirichlet, flux, robin)
        system, dofs = d._system(tuple(values))
        d._prepare(flux, robin, True)
        start = time.perf_counter()
        d._set_coefficient(k, "k")
        b_fixed = d._assemble(0.0, flux, robin, None)
        stiff = d._matrix.to_scipy().copy()
        d._matrix.set_value(0.0)
        if not float(d._set(d._c, rho, "rho").min()) > 0:
            raise ValueError("rho must be positive")
        d._add("mass")
        mass = d._matrix.to_scipy().copy()
        given = d._given(values)
        first = np.empty(len(dofs))
        first[dofs] = d.mesh.at_nodes(u0, d.degree, "u0")
        fixed = np.ones(len(first), bool)
        fixed[system.free] = False
        first[fixed] = given[fixed]

        def load(at: float) -> np.ndarray:
            if source_of_time:
                return b_fixed + d._load(f(at), {}, {})  # type: ignore[operator, arg-type]
            return constant

        constant = b_fixed if source_of_time else b_fixed + d._load(f, {}, {})  # type: ignore[arg-type]
        weights = d._weights()

        def run(steps: int) -> tuple[np.ndarray, float]:
            gamma = 2 - math.sqrt(2)
            out, u, worst, step = [first], first, 0.0, -1.0
            explicit = mass.copy()
            f_now = load(t[0])
            for begin, end in pairwise(t.tolist()):
                dt = (end - begin) / steps
                if abs(dt - step) > 1e-12 * dt:
                    matrix = mass.copy()
                    matrix.data += 0.5 * gamma * dt * stiff.data
                    explicit.data[:] = mass.data - 0.5 * gamma * dt * stiff.data
                    system.set_matrix(matrix)
                    step = dt
                for i in range(steps):
                    now = begin + i * dt
                    f_mid, f_next = load(now + gamma * dt), load(now + dt)
                    b = product(explicit, u) + 0.5 * gamma * dt * (f_now + f_mid)
                    mid, r1 = system.solve(b, given, rtol)
                    b = product(mass, mid - (1 - gamma) ** 2 * u) / (gamma * (2 - gamma))
                    b += 0.5 * gamma * dt * f_next  # (1 - gamma) / (2 - gamma) = gamma / 2
                    u, r2 = system.solve(b, given, rtol)
                    worst, f_now = max(worst, r1, r2), f_next
                out.append(u)
            return np.array(out), worst

        def norm(v: np.ndarray) -> float:
            return float(np.sqrt((v**2 @ weights).sum()))

        history, total, steps = [], 0, max(int(n_steps), 1)
        coarse, worst = run(steps)
        total += steps
        while True:
            steps *= 2
            fine, r = run(steps)
            total, worst = total + steps, max(worst, r)
            size = norm(fine)
            error = norm(fine - coarse) / 3 / size if size > 0 else 0.0
            history.append(error)
            if error <= time_tol:
                break
            if 2 * steps > max_steps:
                raise SolverDidNotConverge(
                    "fenicsx.tr-bdf2", iterations=steps, residual=error, rtol=time_tol,
                    note="estimated error in time; use a larger time_tol or max_steps",
                )  # fmt: skip
            coarse = fine
        seconds = time.perf_counter() - start
        return SolveResult(
            x=fine[:, dofs], residual=worst, residuals=np.array([worst]),
            iterations=steps * (len(t) - 1), solver="fenicsx.tr-bdf2+mumps-cholesky",
            seconds=seconds,
            info={"time_error": history[-1], "steps": steps, "degree": d.degree,
                  "dofs": len(dofs), "cells": len(d.mesh.cells)},
        )  # fmt: skip
