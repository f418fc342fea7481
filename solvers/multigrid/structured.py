"""Compiled geometric multigrid on 2-D grids, as preconditioner of conjugate gradients.

Black-box multigrid: coarse points are every second point, interpolation follows the operator (so
it stays right where the coefficient jumps), coarse operators are Galerkin products. Any number of
points works. CG runs in float64, the cycle in float32; the residual is measured in float64.

On the finest level the 5-point operator is smoothed red-black, with the two colors stored apart.
Coarse points and cell centers are red, edge midpoints black; after a black half-sweep the residual
is zero on black, and a black half-sweep overwrites what was interpolated to black. So the finest
level needs interpolation to red points alone. Coarser levels have 9-point operators and use a
forward Gauss-Seidel sweep before the correction and a backward one after it.

References
----------
.. [1] Alcouffe, Brandt, Dendy, Painter, SIAM J. Sci. Stat. Comput. 2 (1981) 430-454.
.. [2] Dendy, J. Comput. Phys. 48 (1982) 366-386 (black-box multigrid).
.. [3] Notay, SIAM J. Sci. Comput. 22 (2000) 1444-1460 (flexible CG).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ..finite_volume import FiniteVolumeSystem, discretize
from ..grids import Grid
from ._boxmg_cycle import cg, pack, unpack
from ._boxmg_setup import N_FIELDS, N_SPLIT, conductances, setup

__all__ = ["compile_kernels", "is_compiled", "solve_structured"]

log = logging.getLogger(__name__)

NAME = "structured.boxmg+cg"
#: The coarsest system is inverted densely; larger ones are coarsened further.
COARSEST, COARSEST_MAX = 64, 1500


def is_compiled() -> bool:
    """Whether the kernels are compiled already, in this process or on disk.

    The first use on a machine compiles them, which takes about half a minute.
    """
    return bool(cg.signatures) or any(Path(cg.stats.cache_path).glob("_boxmg_cycle.cg-*.nbi"))


def compile_kernels() -> None:
    """Compile the kernels, or load them from disk, if this process has not done so."""
    if cg.signatures:
        return
    if not is_compiled():
        log.warning("compiling the multigrid kernels, once on this machine: about half a minute")
    solve_structured(discretize(1.0, 1.0, Grid.unit(12)))


def _sizes(m1: int, m2: int) -> list[tuple[int, int]]:
    """Unknowns per level, finest first."""
    sizes = [(m1, m2)]
    while m1 * m2 > COARSEST and min(m1, m2) >= 6:
        m1, m2 = m1 // 2, m2 // 2
        sizes.append((m1, m2))
    return sizes


def solve_structured(
    system: FiniteVolumeSystem, *, rtol: float = 1e-10, maxiter: int = 200
) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Solve a 2-D finite-volume system by multigrid-preconditioned CG.

    Parameters
    ----------
    system : FiniteVolumeSystem
        Any number of points per axis; Dirichlet, Neumann and periodic sides.
    rtol : float
        Relative residual to reach, measured in float64.
    maxiter : int

    Returns
    -------
    u : ndarray
        Unknowns.
    residuals : ndarray
        Relative residual after each iteration.
    iterations : int
    name : str

    Raises
    ------
    ValueError
        Not 2-D, or a grid too elongated to coarsen.
    SolverDidNotConverge
    """
    shape = system.rhs.shape
    if len(shape) != 2:
        raise ValueError(
            f"solver 'structured' is for 2-D grids, got {len(shape)}-D; use 'pyamg' or 'direct'"
        )
    sizes = _sizes(*shape)
    if sizes[-1][0] * sizes[-1][1] > COARSEST_MAX:
        raise ValueError(
            f"solver 'structured' cannot coarsen a grid of {shape[0]} x {shape[1]} unknowns: one "
            "axis is too short for the other; use 'pyamg' or 'direct'"
        )
    norm = float(np.linalg.norm(system.rhs))
    if norm == 0.0:
        return np.zeros(shape), np.zeros(1), 0, NAME
    per0, per1 = system.periodic
    kx, ky = system.conductance
    has_c = system.reaction is not None
    c = system.reaction if system.reaction is not None else np.zeros(shape)
    # Colors need even periodic axes; a single level has nothing below it.
    split = len(sizes) > 1 and not any(
        per and m % 2 for per, m in zip((per0, per1), shape, strict=True)
    )
    offset, rows = 0, []
    for k, (m1, m2) in enumerate(sizes):
        rows.append((m1, m2, offset))
        if k > 0 or not split:
            offset += N_FIELDS * (m1 + 2) * (m2 + 2)
    table = np.array(rows, dtype=np.int64)
    buffer = np.zeros(offset, dtype=np.float32)
    fine = np.zeros(
        (N_SPLIT, shape[0] + 2, (shape[1] + 1) // 2 + 1) if split else (1, 1, 1), dtype=np.float32
    )
    # The float32 cycle must not see the units of the coefficient.
    scale = 1.0 / max(float(kx.max()), float(ky.max()))
    kx, ky, c = kx * scale, ky * scale, c * scale
    K = conductances(kx, ky, c, split)
    dense = setup(kx, ky, c, has_c, K, per0, per1, table, buffer, split, fine)
    if system.singular:
        dense += np.trace(dense) / dense.size
    inverse = np.linalg.inv(dense).astype(np.float32)
    b = pack(system.rhs / norm, split)
    x = np.zeros_like(b)
    history = np.ones(1)
    for _ in range(3):  # once more where rounding kept the recursion from the true residual
        new = cg(
            K, b, x, *shape, has_c, per0, per1, fine, buffer, table, inverse, split, 0.9 * rtol,
            maxiter + 1 - len(history),
        )  # fmt: skip
        history = np.concatenate([history[:-1], new])
        if history[-1] <= rtol or len(history) > maxiter or len(new) == 1:
            break
    u = unpack(x, *shape, split) * (norm * scale)
    iterations = len(history) - 1
    if not history[-1] <= rtol:
        raise system.failure(NAME, u, iterations=iterations, rtol=rtol)
    return u, history, iterations, NAME
