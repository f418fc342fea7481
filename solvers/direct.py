"""Sparse direct solution of finite-volume systems (SuperLU)."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .finite_volume import FiniteVolumeSystem

__all__ = ["Factorization"]


class Factorization:
    """LU in symmetric mode, minimum-degree ordered, for any number of right-hand sides.

    Parameters
    ----------
    system : FiniteVolumeSystem
        Its operator is factorized.
    """

    NAME = "direct.superlu"

    def __init__(self, system: FiniteVolumeSystem) -> None:
        self.A = system.matrix()
        if system.singular:
            # Pin one unknown: the equations are consistent, so the pinned one holds as well.
            keep = np.arange(1, system.rhs.size)
            self.A = self.A[keep][:, keep]
        with warnings.catch_warnings():
            warnings.simplefilter("error", spla.MatrixRankWarning)
            self.lu = (
                spla.splu(
                    sp.csc_array(self.A),
                    permc_spec="MMD_AT_PLUS_A",
                    diag_pivot_thresh=0.0,
                    options={"SymmetricMode": True},
                )
                if self.A.shape[0]
                else None
            )

    def solve(
        self, system: FiniteVolumeSystem, *, rtol: float, maxiter: int
    ) -> tuple[np.ndarray, np.ndarray, int, str]:
        """Solve for the right-hand side of `system`, with one step of refinement.

        Returns
        -------
        u : ndarray
            Unknowns.
        residuals : ndarray, shape (1,)
        iterations : int
            0.
        name : str
        """
        b = system.rhs.ravel()[1 if system.singular else 0 :]
        u = np.zeros(b.shape)
        if self.lu is not None:
            u = self.lu.solve(b)
            u += self.lu.solve(b - self.A @ u)
        if system.singular:
            u = np.concatenate([[0.0], u])
        x = np.asarray(u, dtype=np.float64).reshape(system.rhs.shape)
        return x, np.array([system.residual(x)]), 0, self.NAME
