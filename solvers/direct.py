"""Sparse direct solution of finite-volume systems (SuperLU)."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .finite_volume import FiniteVolumeSystem

__all__ = ["solve_direct"]

NAME = "direct.superlu"


def solve_direct(system: FiniteVolumeSystem) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Solve by LU in symmetric mode, minimum-degree ordered, with one step of refinement.

    Returns
    -------
    u : ndarray
        Unknowns.
    residuals : ndarray, shape (1,)
    iterations : int
        0.
    name : str
    """
    A, b = system.matrix(), system.rhs.ravel()
    if system.singular:
        # Pin one unknown: the equations are consistent, so the pinned one holds as well.
        keep = np.arange(1, b.size)
        A, b = A[keep][:, keep], b[keep]
    if b.size == 0:
        u = np.zeros((0,), dtype=np.float64)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error", spla.MatrixRankWarning)
            lu = spla.splu(
                sp.csc_array(A),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        u = lu.solve(b)
        u += lu.solve(b - A @ u)
    if system.singular:
        u = np.concatenate([[0.0], u])
    x = np.asarray(u, dtype=np.float64).reshape(system.rhs.shape)
    return x, np.array([system.residual(x)]), 0, NAME
