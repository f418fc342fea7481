"""Compiled solvers for finite-volume systems on grids: 1-D direct, 2-D and 3-D black-box multigrid.

Black-box multigrid: coarse points are every second point, interpolation follows the operator (so
it stays right where the coefficient jumps), coarse operators are Galerkin products. Any number of
points works. The cycle, in float32, preconditions conjugate gradients in float64; the residual is
measured in float64.

`Plane` (2-D): on the finest level the 5-point operator is smoothed red-black, with the two colors
stored apart. Coarse points and cell centers are red, edge midpoints black; after a black half-sweep
the residual is zero on black, and a black half-sweep overwrites what was interpolated to black. So
the finest level needs interpolation to red points alone. Coarser levels have 9-point operators and
use a forward Gauss-Seidel sweep before the correction and a backward one after it.

`Space` (3-D, and 2-D where the couplings along the axes differ much): 7-point, then 27-point
operators, forward and backward Gauss-Seidel sweeps. Axes whose couplings are weaker than a quarter
of the strongest are not coarsened until they have caught up (semicoarsening), so that point
smoothing works for coefficients or mesh widths that favor one axis everywhere. It does not where
the strong axis changes from place to place.

`Line` (1-D): tridiagonal elimination, around the ends for periodic axes.

References
----------
.. [1] Alcouffe, Brandt, Dendy, Painter, SIAM J. Sci. Stat. Comput. 2 (1981) 430-454.
.. [2] Dendy, J. Comput. Phys. 48 (1982) 366-386 (black-box multigrid).
.. [3] Dendy, "Two multigrid methods for three-dimensional problems with discontinuous and
   anisotropic coefficients", SIAM J. Sci. Stat. Comput. 8 (1987) 673-685.
.. [4] Notay, SIAM J. Sci. Comput. 22 (2000) 1444-1460 (flexible CG).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..finite_volume import FiniteVolumeSystem, discretize
from ..grids import Grid
from . import _boxmg_3d, _boxmg_cycle, _tridiagonal
from ._boxmg_setup import N_FIELDS, N_SPLIT, conductances, setup

__all__ = ["Line", "Plane", "Prepared", "Space", "compile_kernels", "is_compiled", "prepare"]

log = logging.getLogger(__name__)

#: The coarsest system is inverted densely.
COARSEST = 64
#: Axes with couplings below this part of the strongest are not coarsened (`Space`).
WEAK = 0.25
#: Up to this ratio of the couplings of the two axes `Plane` solves in 2-D, above it `Space`.
ISOTROPIC = 6.0

Outcome = tuple[np.ndarray, np.ndarray, int, str]


class Prepared(Protocol):
    """A solver that has seen the operator, for any number of right-hand sides."""

    def solve(self, system: FiniteVolumeSystem, *, rtol: float, maxiter: int) -> Outcome:
        """Return unknowns, relative residual after each iteration, iterations and name."""


def prepare(system: FiniteVolumeSystem) -> Line | Plane | Space:
    """Set up the solver that fits the system."""
    if len(system.rhs.shape) == 1:
        return Line(system)
    return Plane(system) if _is_plane(system) else Space(system)


def _is_plane(system: FiniteVolumeSystem) -> bool:
    if len(system.rhs.shape) != 2:
        return False
    kx, ky = (float(k.mean()) for k in system.conductance)
    m1, m2 = _plane_sizes(*system.rhs.shape)[-1]
    return max(kx, ky) <= ISOTROPIC * min(kx, ky) and m1 * m2 <= 2 * COARSEST


def is_compiled(kind: type = object) -> bool:
    """Whether the kernels of `Line`, `Plane` or `Space` (default: of all) are compiled.

    In this process or on disk. The first use on a machine compiles them, which takes about half a
    minute for `Plane` and for `Space`.
    """
    return all(
        bool(f.signatures) or any(Path(f.stats.cache_path).glob(f"{_file(f)}.*.nbi"))
        for k, f in _KERNEL.items()
        if issubclass(k, kind)
    )


def _file(f: Any) -> str:
    return f"{f.__module__.rsplit('.', 1)[-1]}.{f.py_func.__name__}-*"


def compile_kernels(system: FiniteVolumeSystem) -> None:
    """Compile the kernels for such a system, or load them from disk, if not done before."""
    kind = Line if len(system.rhs.shape) == 1 else Plane if _is_plane(system) else Space
    if _KERNEL[kind].signatures:
        return
    if not is_compiled(kind) and kind is not Line:
        log.warning("compiling the multigrid kernels, once on this machine: about half a minute")
    small = discretize(1.0, 1.0, Grid.unit(12, dim={Line: 1, Plane: 2, Space: 3}[kind]))
    kind(small).solve(small, rtol=1e-10, maxiter=50)


class Line:
    """Tridiagonal elimination, with one step of refinement."""

    NAME = "structured.tridiagonal"

    def __init__(self, system: FiniteVolumeSystem) -> None:
        (self.k,) = system.conductance
        self.c = np.zeros_like(system.rhs) if system.reaction is None else system.reaction
        self.cyclic, self.singular = system.periodic[0], system.singular
        has_c = system.reaction is not None
        self.pivot, self.z = _tridiagonal.factor(self.k, self.c, has_c, self.cyclic, self.singular)

    def solve(self, system: FiniteVolumeSystem, *, rtol: float, maxiter: int) -> Outcome:
        """Solve for the right-hand side of `system`."""
        args = self.k, self.pivot, self.z
        u = _tridiagonal.solve(*args, system.rhs, self.cyclic, self.singular)
        u += _tridiagonal.solve(*args, system.rhs - system.apply(u), self.cyclic, self.singular)
        return u, np.array([system.residual(u)]), 0, self.NAME


def _iterate(
    cg: Callable[[float, int], np.ndarray], rtol: float, maxiter: int
) -> tuple[np.ndarray, int]:
    """Run CG, once more where rounding kept the recursion from the true residual."""
    history = np.ones(1)
    for _ in range(3):
        new = cg(0.9 * rtol, maxiter + 1 - len(history))
        history = np.concatenate([history[:-1], new])
        if history[-1] <= rtol or len(history) > maxiter or len(new) == 1:
            break
    return history, len(history) - 1


def _plane_sizes(m1: int, m2: int) -> list[tuple[int, int]]:
    """Unknowns per level, finest first."""
    sizes = [(m1, m2)]
    while m1 * m2 > COARSEST and min(m1, m2) >= 6:
        m1, m2 = m1 // 2, m2 // 2
        sizes.append((m1, m2))
    return sizes


class Plane:
    """Black-box multigrid in 2-D; see the module."""

    NAME = "structured.boxmg+cg"

    def __init__(self, system: FiniteVolumeSystem) -> None:
        self.shape = shape = system.rhs.shape
        sizes = _plane_sizes(*shape)
        self.per = per0, per1 = system.periodic
        kx, ky = system.conductance
        self.has_c = system.reaction is not None
        c = system.reaction if system.reaction is not None else np.zeros(shape)
        # Colors need even periodic axes; a single level has nothing below it.
        self.split = split = len(sizes) > 1 and not any(
            per and m % 2 for per, m in zip(self.per, shape, strict=True)
        )
        offset, rows = 0, []
        for n, (m1, m2) in enumerate(sizes):
            rows.append((m1, m2, offset))
            if n > 0 or not split:
                offset += N_FIELDS * (m1 + 2) * (m2 + 2)
        self.table = np.array(rows, dtype=np.int64)
        self.buffer = np.zeros(offset, dtype=np.float32)
        fine = (N_SPLIT, shape[0] + 2, (shape[1] + 1) // 2 + 1) if split else (1, 1, 1)
        self.fine = np.zeros(fine, dtype=np.float32)
        # The float32 cycle must not see the units of the coefficient.
        self.scale = 1.0 / max(float(kx.max()), float(ky.max()))
        kx, ky, c = kx * self.scale, ky * self.scale, c * self.scale
        self.K = conductances(kx, ky, c, split)
        dense = setup(
            kx, ky, c, self.has_c, self.K, per0, per1, self.table, self.buffer, split, self.fine
        )
        if system.singular:
            dense += np.trace(dense) / dense.size
        self.inverse = np.linalg.inv(dense).astype(np.float32)

    def solve(self, system: FiniteVolumeSystem, *, rtol: float, maxiter: int) -> Outcome:
        """Solve for the right-hand side of `system`."""
        norm = float(np.linalg.norm(system.rhs))
        if norm == 0.0:
            return np.zeros(self.shape), np.zeros(1), 0, self.NAME
        b = _boxmg_cycle.pack(system.rhs / norm, self.split)
        x = np.zeros_like(b)

        def cg(tol: float, count: int) -> np.ndarray:
            return _boxmg_cycle.cg(
                self.K, b, x, *self.shape, self.has_c, *self.per, self.fine, self.buffer,
                self.table, self.inverse, self.split, tol, count,
            )  # fmt: skip

        history, iterations = _iterate(cg, rtol, maxiter)
        u = _boxmg_cycle.unpack(x, *self.shape, self.split) * (norm * self.scale)
        return u, history, iterations, self.NAME


class Space:
    """Black-box multigrid in 3-D, axes coarsened as their couplings ask for; see the module."""

    NAME = "structured.boxmg3+cg"

    def __init__(self, system: FiniteVolumeSystem) -> None:
        self.shape = system.rhs.shape
        lead = (1,) * (3 - len(self.shape))
        m = lead + self.shape
        per = np.array([False] * len(lead) + list(system.periodic))
        k = [np.zeros((2, *m[1:]))] * len(lead)
        k += [c.reshape(lead + c.shape) for c in system.conductance]
        # The float32 cycle must not see the units of the coefficient.
        self.scale = 1.0 / max(float(c.max()) for c in k)
        self.has_c = system.reaction is not None
        c = np.zeros(m) if system.reaction is None else system.reaction.reshape(m) * self.scale
        self.k = (*(np.ascontiguousarray(v * self.scale) for v in k), c, self.has_c)
        op = _boxmg_3d.seven_point(*self.k, per)
        ops, periodic, transfers, cells = [op], [per], [], []
        while op[0].size > COARSEST:
            op, per, weights, table = _coarsen(op, per)
            ops.append(op)
            periodic.append(per)
            transfers.append(weights)
            cells.append(table)
        self.m, self.periodic = m, np.array(periodic)
        self._fill(ops, transfers, cells)
        dense = _boxmg_3d.dense(ops[-1], per)
        if system.singular:
            dense += np.trace(dense) / dense.size
        self.inverse = np.linalg.inv(dense).astype(np.float32)

    def _fill(
        self, ops: list[np.ndarray], transfers: list[np.ndarray], cells: list[list[np.ndarray]]
    ) -> None:
        """Put the levels into one float32 buffer."""
        start, rows = 0, []
        for n, op in enumerate(ops):
            fields = _boxmg_3d.K0 + op.shape[0] - 2
            at = start + fields * int(np.prod(np.add(op.shape[1:], 2)))
            shape = transfers[n].shape[1:] if n < len(transfers) else (0, 0, 0)
            rows.append((*op.shape[1:], start, fields, at, *shape))
            start = at + _boxmg_3d.N_WEIGHTS * int(np.prod(shape))
        self.table = np.array(rows, dtype=np.int64)
        self.buffer = np.zeros(start, dtype=np.float32)
        longest = max((len(t) for tables in cells for t in tables), default=1)
        self.cells = np.zeros((len(ops), 3, longest, 4), dtype=np.int64)
        for n, op in enumerate(ops):
            _boxmg_3d.store(_boxmg_3d.level_of(self.buffer, self.table, n), op, self.periodic[n])
        for n, weights in enumerate(transfers):
            _boxmg_3d.weights_of(self.buffer, self.table, n)[...] = weights
            for axis, t in enumerate(cells[n]):
                self.cells[n, axis, : len(t)] = t

    def solve(self, system: FiniteVolumeSystem, *, rtol: float, maxiter: int) -> Outcome:
        """Solve for the right-hand side of `system`."""
        norm = float(np.linalg.norm(system.rhs))
        if norm == 0.0:
            return np.zeros(self.shape), np.zeros(1), 0, self.NAME
        b = np.ascontiguousarray(system.rhs.reshape(self.m) / norm)
        work = np.zeros((4, *(n + 2 for n in self.m)))

        def cg(tol: float, count: int) -> np.ndarray:
            return _boxmg_3d.cg(
                *self.k, b, work, self.buffer, self.table, self.cells, self.periodic,
                self.inverse, tol, count,
            )  # fmt: skip

        history, iterations = _iterate(cg, rtol, maxiter)
        u = work[0, 1:-1, 1:-1, 1:-1].reshape(self.shape) * (norm * self.scale)
        return u, history, iterations, self.NAME


def _coarsen(
    op: np.ndarray, per: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Next coarser operator, its periodic axes, the weights, and the cells of each axis."""
    m = np.array(op.shape[1:])
    energy = np.where(m > 1, _boxmg_3d.strengths(op), 0.0)
    # Not positive: walls or reaction outweigh the couplings, and smoothing alone suffices
    strong = (m > 1) & ((energy >= WEAK * energy.max()) | (energy <= 0.0))
    axes = [_boxmg_3d.intervals(*a) for a in zip(m.tolist(), per.tolist(), strong, strict=True)]
    sizes = np.array([n for _, _, n in axes])
    weights = np.zeros((_boxmg_3d.N_WEIGHTS, *(len(f) for f, _, _ in axes)), dtype=np.float32)
    subset = int(strong @ (4, 2, 1))
    fine, coarse = zip(*((f, c) for f, c, _ in axes), strict=True)
    out = _boxmg_3d.coarsen(op, per, *fine, *coarse, subset, sizes, weights)
    tables = []
    for (f, c, n), is_periodic in zip(axes, per, strict=True):
        table = np.concatenate([f[:, :2], c], axis=1) + 1
        if is_periodic and n == 1:
            table[:, 2] = 1  # one corner for both ends
        tables.append(table)
    return out, per & (sizes > 1), weights, tables


_KERNEL: dict[type, Any] = {
    Line: _tridiagonal.solve, Plane: _boxmg_cycle.cg, Space: _boxmg_3d.cg,
}  # fmt: skip
