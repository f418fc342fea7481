"""Sparse factorizations and Newton's method for the unknowns of an assembled system."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from ..result import SolverDidNotConverge
from ._runtime import petsc

__all__ = ["System", "newton", "product"]

Kind = Literal["spd", "symmetric", "general"]


class System:
    """Equations of the free unknowns: the pattern, its factorization and the right-hand sides.

    Parameters
    ----------
    pattern : csr_array
        A matrix with the pattern of all unknowns; its values do not matter.
    fixed : ndarray of int
        Unknowns that are given.
    kind : {"spd", "symmetric", "general"}
        MUMPS factorizes these by Cholesky, ``L D L^T`` with pivoting, and LU.
    """

    def __init__(self, pattern: Any, fixed: np.ndarray, kind: Kind) -> None:
        self.n, self.kind = pattern.shape[0], kind
        free = np.ones(self.n, bool)
        free[fixed] = False
        self.free = np.flatnonzero(free)
        if not self.free.size:
            raise ValueError("the boundary conditions leave no unknown: need a finer mesh")
        entries = sp.csr_array(
            (np.arange(pattern.nnz, dtype=np.float64), pattern.indices, pattern.indptr),
            shape=pattern.shape,
        )
        reduced = entries[self.free][:, self.free].tocsr()
        reduced.sort_indices()
        self._entries = reduced.data.astype(np.int64)
        self.reduced = sp.csr_array(
            (np.zeros(reduced.nnz), reduced.indices, reduced.indptr), shape=reduced.shape
        )
        self.matrix: Any = None
        PETSc = petsc()
        m = len(self.free)
        self._mat = PETSc.Mat().createAIJ(
            (m, m),
            csr=(reduced.indptr.astype(PETSc.IntType), reduced.indices.astype(PETSc.IntType),
                 np.zeros(reduced.nnz)),
            comm=PETSc.COMM_SELF,
        )  # fmt: skip
        if kind != "general":
            self._mat.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        if kind == "spd":
            self._mat.setOption(PETSc.Mat.Option.SPD, True)
        self._ksp = PETSc.KSP().create(comm=PETSc.COMM_SELF)
        prefix = f"opkit_system_{id(self)}_"
        options = {
            "ksp_type": "preonly", "pc_type": "lu" if kind == "general" else "cholesky",
            "pc_factor_mat_solver_type": "mumps", "mat_mumps_icntl_14": 80,
        }  # fmt: skip
        self._ksp.setOptionsPrefix(prefix)
        database = PETSc.Options()
        for key, value in options.items():
            database[prefix + key] = value
        self._ksp.setFromOptions()
        for key in options:  # or PETSc complains of those that a system never used
            database.delValue(prefix + key)
        self._ksp.setOperators(self._mat)
        self._options = (prefix, options)
        self._x, self._b = self._mat.createVecs()
        self._factorized = False

    @property
    def name(self) -> str:
        """Of the factorization."""
        kinds = {"spd": "cholesky", "symmetric": "ldlt", "general": "lu"}
        return f"fenicsx.mumps-{kinds[self.kind]}"

    def set_matrix(self, matrix: Any) -> None:
        """Take new values, shape and pattern as before, and factorize.

        Raises
        ------
        SolverDidNotConverge
            MUMPS finds no factorization.
        """
        self.matrix = matrix
        self.reduced.data[:] = matrix.data[self._entries]
        self._mat.setValuesCSR(
            self.reduced.indptr.astype(petsc().IntType),
            self.reduced.indices.astype(petsc().IntType), self.reduced.data,
        )  # fmt: skip
        self._mat.assemble()
        self._ksp.setOperators(self._mat)
        database = petsc().Options()
        prefix, options = self._options
        if not self._factorized:  # MUMPS reads its own when it factorizes first
            for key, value in options.items():
                database[prefix + key] = value
        try:
            self._ksp.setUp()
        except petsc().Error as err:
            raise self._failed(f"MUMPS ended with PETSc error {err.ierr}") from None
        finally:
            if not self._factorized:
                for key in options:
                    database.delValue(prefix + key)
        self._factorized = True
        if int(self._ksp.getPC().getFailedReason()) != 0:
            raise self._failed("MUMPS found no factorization")

    def _failed(self, note: str) -> SolverDidNotConverge:
        return SolverDidNotConverge(self.name, iterations=0, residual=math.inf, rtol=0.0, note=note)

    def _apply_inverse(self, r: np.ndarray) -> np.ndarray:
        self._b.getArray()[:] = r
        self._ksp.solve(self._b, self._x)
        return np.array(self._x.getArray())

    def direction(self, r: np.ndarray) -> np.ndarray:
        """Factorized inverse of a vector of all unknowns; 0 at given ones."""
        out = np.zeros(self.n)
        out[self.free] = self._apply_inverse(r[self.free])
        return out

    def solve(self, b: np.ndarray, given: np.ndarray, rtol: float) -> tuple[np.ndarray, float]:
        """Solve with the unknowns of `given` that are not free; return all, and the residual.

        The residual is measured on the answer, relative to the right-hand side of the free
        unknowns, the given ones brought over. It is refined until `rtol`.

        Raises
        ------
        SolverDidNotConverge
            The residual stays above `rtol`.
        """
        lift = np.array(given, np.float64)
        lift[self.free] = 0.0
        rhs = (b - self.matrix @ lift)[self.free] if lift.any() else b[self.free]
        norm = float(np.linalg.norm(rhs))
        if norm == 0.0:
            return lift, 0.0
        x, r, residual, before = np.zeros(len(rhs)), rhs, 1.0, math.inf
        while not residual <= rtol and residual < 0.5 * before:
            x = x + self._apply_inverse(r)
            r = rhs - self.reduced @ x
            before, residual = residual, float(np.linalg.norm(r)) / norm
        if not residual <= rtol:
            raise SolverDidNotConverge(self.name, iterations=0, residual=residual, rtol=rtol)
        lift[self.free] = x
        return lift, residual

    def destroy(self) -> None:
        """Free the PETSc objects."""
        for item in (self._ksp, self._mat, self._x, self._b):
            item.destroy()


def product(matrix: Any, x: np.ndarray) -> np.ndarray:
    """Sparse matrix times vector: part of a right-hand side."""
    out: np.ndarray = matrix @ x
    return out


def newton(
    system: System,
    residual: Callable[[np.ndarray], np.ndarray],
    jacobian: Callable[[np.ndarray], Any],
    x: np.ndarray,
    *,
    scale: float,
    rtol: float,
    maxiter: int = 30,
    name: str = "newton",
) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method with backtracking.

    Parameters
    ----------
    system : System
        Of the Jacobian.
    residual, jacobian : callable
        Of all unknowns; a residual that is not finite marks a state that is not allowed.
    x : ndarray
        Start; its given unknowns stay.
    scale : float
        Residuals are divided by this.
    rtol : float
        Relative residual to reach.

    Returns
    -------
    x : ndarray
    residuals : ndarray, shape (iterations + 1,)

    Raises
    ------
    SolverDidNotConverge
        Too many iterations, or no step reduces the residual.

    Notes
    -----
    A step is halved until ``|F(x + t d)| <= (1 - t/10^4) |F(x)|`` (Armijo's rule for the norm).
    """

    def norm(r: np.ndarray) -> float:
        return float(np.linalg.norm(r[system.free])) / scale

    r = residual(x)
    history = [norm(r)]
    if not math.isfinite(history[0]):
        raise SolverDidNotConverge(
            name, iterations=0, residual=math.inf, rtol=rtol, note="the start is not allowed"
        )
    while not history[-1] <= rtol:
        if len(history) > maxiter:
            raise SolverDidNotConverge(
                name, iterations=maxiter, residual=history[-1], rtol=rtol, note="too many steps"
            )
        system.set_matrix(jacobian(x))
        step = system.direction(r)
        t = 1.0
        while True:
            trial = x - t * step
            r_new = residual(trial)
            size = norm(r_new)
            if math.isfinite(size) and size <= (1 - 1e-4 * t) * history[-1]:
                break
            t *= 0.5
            if t < 1e-6:
                raise SolverDidNotConverge(
                    name, iterations=len(history) - 1, residual=history[-1], rtol=rtol,
                    note="no step along Newton's direction reduces the residual",
                )  # fmt: skip
        x, r = trial, r_new
        history.append(size)
    return x, np.array(history)
