"""Algebraic multigrid (PyAMG) preconditioned conjugate gradients."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..finite_volume import FiniteVolumeSystem
from ..names import check_name

__all__ = ["Hierarchy"]


class Hierarchy:
    """CG, preconditioned by one V-cycle of Ruge-Stueben or smoothed aggregation.

    Parameters
    ----------
    system : FiniteVolumeSystem
        Its operator is coarsened, once for any number of right-hand sides.
    method : {"ruge_stuben", "smoothed_aggregation"}

    References
    ----------
    .. [1] Bell, Olson, Schroder, Southworth, JOSS 8 (2023) 5495.
    """

    def __init__(
        self,
        system: FiniteVolumeSystem,
        *,
        method: Literal["ruge_stuben", "smoothed_aggregation"] = "ruge_stuben",
    ) -> None:
        import pyamg

        check_name("method", method, ("ruge_stuben", "smoothed_aggregation"))
        self.name = f"pyamg.{method}+cg"
        A = system.matrix()
        A.indices, A.indptr = A.indices.astype(np.int32), A.indptr.astype(np.int32)
        build = {
            "ruge_stuben": pyamg.ruge_stuben_solver,
            "smoothed_aggregation": pyamg.smoothed_aggregation_solver,
        }[method]
        coarse = "pinv" if system.singular else "splu"
        options = {"symmetry": "symmetric"} if method == "smoothed_aggregation" else {}
        self.A = A
        self.levels = build(A, coarse_solver=coarse, max_coarse=200, **options)

    def solve(
        self, system: FiniteVolumeSystem, *, rtol: float, maxiter: int
    ) -> tuple[np.ndarray, np.ndarray, int, str]:
        """Solve for the right-hand side of `system`.

        PyAMG measures convergence in its own way; the true residual decides here, and CG is
        restarted from the iterate when it falls short.

        Returns
        -------
        u : ndarray
        residuals : ndarray
            Relative residual after each iteration.
        iterations : int
        name : str
        """
        import pyamg

        M = self.levels.aspreconditioner(cycle="V")
        A, b = self.A, system.rhs.ravel()
        norm = float(np.linalg.norm(b))
        u = np.zeros_like(b)
        residuals = [1.0 if norm > 0 else 0.0]
        iterations = 0
        while residuals[-1] > rtol and iterations < maxiter:
            history: list[float] = []
            u, _ = pyamg.krylov.cg(
                A, b, x0=u, tol=0.5 * rtol, maxiter=maxiter - iterations, M=M, residuals=history
            )
            if len(history) < 2:
                break
            iterations += len(history) - 1
            true = float(np.linalg.norm(b - A @ u)) / norm
            residuals += [h / norm for h in history[1:-1]] + [true]
        return u.reshape(system.rhs.shape), np.array(residuals), iterations, self.name
