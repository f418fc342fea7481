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

import numpy as np
from numba import njit

from ..finite_volume import FiniteVolumeSystem
from ..result import SolverDidNotConverge

__all__ = ["solve_structured"]

NAME = "structured.boxmg+cg"
#: The coarsest system is inverted densely; larger ones are coarsened further.
COARSEST, COARSEST_MAX = 64, 1500
# Reassociation lets sums vectorize; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}
jit = njit(cache=True, fastmath=FAST, nogil=True, error_model="numpy")

# Fields of a coarse level, float32, each (m1 + 2, m2 + 2); HW..CSE interpolate from this level to
# the next finer one and are indexed by the coarse cell whose upper left corner is (I, J).
D, DINV, E, S, SE, SW, U, B, R = range(9)
HW, HE, VN, VS, CNW, CNE, CSW, CSE = range(9, 17)
N_FIELDS = 17
# Fields of the split finest level, float32, each (m1 + 2, (m2 + 1) // 2 + 1): conductances of the
# red points, inverse diagonals, right-hand sides and unknowns of both colors, residual on red.
RN, RS, RW, RE, RD, BD, RB, BB, RU, BU, RR = range(11)
N_SPLIT = 11


# -- setup: 9-point operators by Galerkin products, float64 ---------------------------------------


@jit
def _wrap(x, per0, per1):  # type: ignore[no-untyped-def]
    """Fill the ghost layer of a padded array from the opposite side."""
    n1, n2 = x.shape
    if per0:
        for j in range(n2):
            x[0, j] = x[n1 - 2, j]
            x[n1 - 1, j] = x[1, j]
    if per1:
        for i in range(n1):
            x[i, 0] = x[i, n2 - 2]
            x[i, n2 - 1] = x[i, 1]


@jit
def _nine_point(kx, ky, c, has_c, per0, per1):  # type: ignore[no-untyped-def]
    """Padded 9-point form (diag, east, south, southeast, southwest, row sum) of the 5-point one."""
    m1, m2 = c.shape
    op = np.zeros((6, m1 + 2, m2 + 2))
    for i in range(1, m1 + 1):
        for j in range(1, m2 + 1):
            kn, ks = kx[i - 1, j - 1], kx[i, j - 1]
            kw, ke = ky[i - 1, j - 1], ky[i - 1, j]
            row = c[i - 1, j - 1] if has_c else 0.0
            if not per0:
                if i == 1:
                    row += kn
                if i == m1:
                    row += ks
            if not per1:
                if j == 1:
                    row += kw
                if j == m2:
                    row += ke
            op[0, i, j] = kn + ks + kw + ke + (c[i - 1, j - 1] if has_c else 0.0)
            op[1, i, j] = ke if (j < m2 or per1) else 0.0
            op[2, i, j] = ks if (i < m1 or per0) else 0.0
            op[5, i, j] = row
    for k in range(6):
        _wrap(op[k], per0, per1)
    return op


@jit
def _add(A, k, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """A += k v v^T on the four corners (NW, NE, SW, SE); upper triangle."""
    if k != 0.0:
        w0, w1, w2 = k * v0, k * v1, k * v2
        A[0] += w0 * v0
        A[1] += w0 * v1
        A[2] += w0 * v2
        A[3] += w0 * v3
        A[4] += w1 * v1
        A[5] += w1 * v2
        A[6] += w1 * v3
        A[7] += w2 * v2
        A[8] += w2 * v3
        A[9] += k * v3 * v3


@jit
def _interpolation(op, per0, per1):  # type: ignore[no-untyped-def]
    """Weights of black-box interpolation, (8, mc1 + 2, mc2 + 2)."""
    m1, m2 = op.shape[1] - 2, op.shape[2] - 2
    c1, c2 = m1 // 2, m2 // 2
    odd0, odd1 = per0 and m1 % 2 == 1, per1 and m2 % 2 == 1
    wrap0, wrap1 = per0 and not odd0, per1 and not odd1
    diag, east, south, se, sw, row = op[0], op[1], op[2], op[3], op[4], op[5]
    P = np.zeros((8, c1 + 2, c2 + 2))
    for i in range(2, 2 * c1 + 1, 2):  # points on coarse rows
        for j in range(1, m2 + 1, 2):
            J = j // 2
            w = se[i - 1, j - 1] + east[i, j - 1] + sw[i, j]
            e = sw[i - 1, j + 1] + east[i, j] + se[i, j]
            if J == 0 and not wrap1:
                w = 0.0
            if J == c2 and not wrap1:
                e = 0.0
            total = w + e
            if w == 0.0 or e == 0.0:
                total += max(row[i, j], 0.0)
            if total > 0.0:
                P[0, i // 2, J] = w / total
                P[1, i // 2, J] = e / total
    for i in range(1, m1 + 1, 2):  # points on coarse columns
        I = i // 2
        for j in range(2, 2 * c2 + 1, 2):
            n = se[i - 1, j - 1] + south[i - 1, j] + sw[i - 1, j + 1]
            s = sw[i, j] + south[i, j] + se[i, j]
            if I == 0 and not wrap0:
                n = 0.0
            if I == c1 and not wrap0:
                s = 0.0
            total = n + s
            if n == 0.0 or s == 0.0:
                total += max(row[i, j], 0.0)
            if total > 0.0:
                P[2, I, j // 2] = n / total
                P[3, I, j // 2] = s / total
    if wrap0:
        for k in range(8):
            for J in range(c2 + 2):
                P[k, 0, J] = P[k, c1, J] if k < 2 else P[k, 0, J]
    if wrap1:
        for k in range(8):
            for I in range(c1 + 2):
                P[k, I, 0] = P[k, I, c2] if k == 2 or k == 3 else P[k, I, 0]
    for i in range(1, m1 + 1, 2):  # cell centers
        I = i // 2
        for j in range(1, m2 + 1, 2):
            J = j // 2
            n, s = south[i - 1, j], south[i, j]
            w, e = east[i, j - 1], east[i, j]
            nw, ne = se[i - 1, j - 1], sw[i - 1, j + 1]
            so_w, so_e = sw[i, j], se[i, j]
            d = diag[i, j]
            # The wrap-around neighbor of an odd periodic axis is no coarse point: lump it.
            if odd0 and i == 1:
                d -= n + nw + ne
                n = nw = ne = 0.0
            if odd0 and i == m1:
                d -= s + so_w + so_e
                s = so_w = so_e = 0.0
            if odd1 and j == 1:
                d -= w + nw + so_w
                w = nw = so_w = 0.0
            if odd1 and j == m2:
                d -= e + ne + so_e
                e = ne = so_e = 0.0
            if d > 0.0:
                P[4, I, J] = (nw + n * P[0, I, J] + w * P[2, I, J]) / d
                P[5, I, J] = (ne + n * P[1, I, J] + e * P[2, I, J + 1]) / d
                P[6, I, J] = (so_w + s * P[0, I + 1, J] + w * P[3, I, J]) / d
                P[7, I, J] = (so_e + s * P[1, I + 1, J] + e * P[3, I, J + 1]) / d
    # Cell c of an even periodic axis is cell 0 again.
    if wrap0:
        for k in range(8):
            for J in range(c2 + 2):
                if k >= 2:
                    P[k, c1, J] = P[k, 0, J]
    if wrap1:
        for k in range(8):
            for I in range(c1 + 2):
                if k != 2 and k != 3:
                    P[k, I, c2] = P[k, I, 0]
    return P


@jit
def _pair(A, k, x, y):  # type: ignore[no-untyped-def]
    """A += k (x - y)(x - y)^T for two rows of interpolation weights."""
    if k != 0.0:
        _add(A, k, x[0] - y[0], x[1] - y[1], x[2] - y[2], x[3] - y[3])


@jit
def _galerkin(op, P, per0, per1):  # type: ignore[no-untyped-def]
    """Coarse operator ``P^T A P``, summed cell by cell from the energy of the fine couplings.

    A cell is a block of 3 x 3 fine points with coarse points in its corners; it owns the couplings
    of its center, those across its corners, and those along its north and west borders. On an odd
    periodic axis the last cell ends in the first fine row, which is no coarse row.
    """
    m1, m2 = op.shape[1] - 2, op.shape[2] - 2
    c1, c2 = m1 // 2, m2 // 2
    odd0, odd1 = per0 and m1 % 2 == 1, per1 and m2 % 2 == 1
    wrap0, wrap1 = per0 and not odd0, per1 and not odd1
    east, south, se, sw, row = op[1], op[2], op[3], op[4], op[5]
    out = np.zeros((6, c1 + 2, c2 + 2))
    A = np.empty(10)
    p = np.zeros((9, 4))  # NW N NE, W center E, SW S SE
    for I in range(c1 if wrap0 else c1 + 1):
        i = 2 * I + 1
        north, mid0 = I > 0 or wrap0, i <= m1
        last0 = odd0 and I == c1
        for J in range(c2 if wrap1 else c2 + 1):
            j = 2 * J + 1
            west, mid1 = J > 0 or wrap1, j <= m2
            last1 = odd1 and J == c2
            A[:] = 0.0
            p[:] = 0.0
            p[0, 0] = 1.0
            p[1, 0], p[1, 1] = P[0, I, J], P[1, I, J]
            p[3, 0], p[3, 2] = P[2, I, J], P[3, I, J]
            for k in range(4):
                p[4, k] = P[4 + k, I, J]
            if last1:
                p[2, 1] = P[1, I, 0]
                p[5, 1], p[5, 3] = P[5, I, 0], P[7, I, 0]
            else:
                p[2, 1] = 1.0
                p[5, 1], p[5, 3] = P[2, I, J + 1], P[3, I, J + 1]
            if last0:
                p[6, 2] = P[3, 0, J]
                p[7, 2], p[7, 3] = P[6, 0, J], P[7, 0, J]
                p[8, 3] = P[7, 0, 0] if last1 else P[3, 0, J + 1]
            else:
                p[6, 2] = 1.0
                p[7, 2], p[7, 3] = P[0, I + 1, J], P[1, I + 1, J]
                p[8, 3] = P[1, I + 1, 0] if last1 else 1.0
            if mid0 and mid1:
                _add(A, row[i, j], p[4, 0], p[4, 1], p[4, 2], p[4, 3])
                _pair(A, south[i, j], p[4], p[7])
                _pair(A, east[i, j], p[4], p[5])
                _pair(A, se[i, j], p[4], p[8])
                _pair(A, sw[i, j + 1], p[5], p[7])
                if north:
                    _pair(A, south[i - 1, j], p[4], p[1])
                    _pair(A, sw[i - 1, j + 1], p[4], p[2])
                    _pair(A, se[i - 1, j], p[1], p[5])
                if west:
                    _pair(A, east[i, j - 1], p[4], p[3])
                    _pair(A, sw[i, j], p[4], p[6])
                    _pair(A, se[i, j - 1], p[3], p[7])
                if north and west:
                    _pair(A, se[i - 1, j - 1], p[4], p[0])
                    _pair(A, sw[i - 1, j], p[1], p[3])
            if north and mid1:
                _add(A, row[i - 1, j], p[1, 0], p[1, 1], 0.0, 0.0)
                _pair(A, east[i - 1, j], p[1], p[2])
                if west:
                    _pair(A, east[i - 1, j - 1], p[0], p[1])
            if west and mid0:
                _add(A, row[i, j - 1], p[3, 0], 0.0, p[3, 2], 0.0)
                _pair(A, south[i, j - 1], p[3], p[6])
                if north:
                    _pair(A, south[i - 1, j - 1], p[0], p[3])
            if north and west:
                _add(A, row[i - 1, j - 1], 1.0, 0.0, 0.0, 0.0)
            _scatter(out, A, I, J)
    _finish(out, per0, per1)
    return out


@jit
def _scatter(out, A, I, J):  # type: ignore[no-untyped-def]
    """Add the matrix of one cell to the coarse operator."""
    out[0, I, J] += A[0]
    out[0, I, J + 1] += A[4]
    out[0, I + 1, J] += A[7]
    out[0, I + 1, J + 1] += A[9]
    out[1, I, J] -= A[1]
    out[1, I + 1, J] -= A[8]
    out[2, I, J] -= A[2]
    out[2, I, J + 1] -= A[6]
    out[3, I, J] -= A[3]
    out[4, I, J + 1] -= A[5]


@jit
def _finish(out, per0, per1):  # type: ignore[no-untyped-def]
    """Fold what went to the ghost layer back, fill it, and take the row sums."""
    c1, c2 = out.shape[1] - 2, out.shape[2] - 2
    for k in range(5):
        if per0:
            for j in range(c2 + 2):
                out[k, c1, j] += out[k, 0, j]
                out[k, 1, j] += out[k, c1 + 1, j]
        if per1:
            for i in range(c1 + 2):
                out[k, i, c2] += out[k, i, 0]
                out[k, i, 1] += out[k, i, c2 + 1]
        _wrap(out[k], per0, per1)
    for i in range(1, c1 + 1):
        for j in range(1, c2 + 1):
            off = out[1, i, j] + out[1, i, j - 1] + out[2, i, j] + out[2, i - 1, j]
            off += out[3, i, j] + out[3, i - 1, j - 1] + out[4, i, j] + out[4, i - 1, j + 1]
            s = out[0, i, j] - off
            out[5, i, j] = s if abs(s) > 1e-13 * out[0, i, j] else 0.0
    _wrap(out[5], per0, per1)


# -- the levels: one flat float32 buffer, views made where needed ----------------------------------


@jit
def _level(buffer, table, k):  # type: ignore[no-untyped-def]
    n1, n2 = table[k, 0] + 2, table[k, 1] + 2
    start = table[k, 2]
    return buffer[start : start + N_FIELDS * n1 * n2].reshape(N_FIELDS, n1, n2)


@jit
def _store(level, op):  # type: ignore[no-untyped-def]
    for i in range(op.shape[1]):
        for j in range(op.shape[2]):
            level[D, i, j] = op[0, i, j]
            level[DINV, i, j] = 1.0 / op[0, i, j] if op[0, i, j] > 0.0 else 0.0
            level[E, i, j] = op[1, i, j]
            level[S, i, j] = op[2, i, j]
            level[SE, i, j] = op[3, i, j]
            level[SW, i, j] = op[4, i, j]


@jit
def _dense(op, per0, per1):  # type: ignore[no-untyped-def]
    """The coarsest operator as a matrix."""
    m1, m2 = op.shape[1] - 2, op.shape[2] - 2
    A = np.zeros((m1 * m2, m1 * m2))
    for i in range(1, m1 + 1):
        for j in range(1, m2 + 1):
            p = (i - 1) * m2 + j - 1
            A[p, p] += op[0, i, j]
            for k in range(1, 5):
                di = 0 if k == 1 else 1
                dj = 0 if k == 2 else (-1 if k == 4 else 1)
                ii, jj = i - 1 + di, j - 1 + dj
                if (0 <= ii < m1 or per0) and (0 <= jj < m2 or per1):
                    q = (ii % m1) * m2 + jj % m2
                    A[p, q] -= op[k, i, j]
                    A[q, p] -= op[k, i, j]
    return A


@jit
def _setup(kx, ky, c, has_c, per0, per1, table, buffer, split, fine):  # type: ignore[no-untyped-def]
    """Build all levels; return the dense coarsest operator."""
    op = _nine_point(kx, ky, c, has_c, per0, per1)
    if split:
        _split_store(fine, kx, ky, op[0])
    for k in range(table.shape[0]):
        if k > 0 or not split:
            _store(_level(buffer, table, k), op)
        if k + 1 < table.shape[0]:
            P = _interpolation(op, per0, per1)
            coarse = _level(buffer, table, k + 1)
            coarse[HW:] = P
            op = _galerkin(op, P, per0, per1)
    return _dense(op, per0, per1)


# -- the cycle, float32 ----------------------------------------------------------------------------


@jit
def _sum4(t, a, x, b, y):  # type: ignore[no-untyped-def]
    for q in range(t.shape[0]):
        t[q] = a[q] * x[q] + b[q] * y[q]


@jit
def _add2(t, a, x, b, y):  # type: ignore[no-untyped-def]
    for q in range(t.shape[0]):
        t[q] += a[q] * x[q] + b[q] * y[q]


@jit
def _add1(t, a, x):  # type: ignore[no-untyped-def]
    for q in range(t.shape[0]):
        t[q] += a[q] * x[q]


@jit
def _gs_forward(level, t):  # type: ignore[no-untyped-def]
    """One forward Gauss-Seidel sweep from u = 0 (ghosts included)."""
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    u, b, dinv = level[U], level[B], level[DINV]
    e, s, se, sw = level[E], level[S], level[SE], level[SW]
    u[0] = 0.0
    for i in range(1, m1 + 1):
        t[:m2] = b[i, 1 : m2 + 1]
        if i > 1:
            _add2(t[:m2], s[i - 1, 1 : m2 + 1], u[i - 1, 1 : m2 + 1], se[i - 1, :m2], u[i - 1, :m2])
            _add1(t[:m2], sw[i - 1, 2:], u[i - 1, 2:])
        ui, ei, di = u[i], e[i], dinv[i]
        ui[0] = ui[m2 + 1] = np.float32(0.0)
        prev = np.float32(0.0)
        for j in range(1, m2 + 1):
            prev = di[j] * t[j - 1] + (di[j] * ei[j - 1]) * prev
            ui[j] = prev
    u[m1 + 1] = 0.0


@jit
def _gs_backward(level, t, per0, per1):  # type: ignore[no-untyped-def]
    """One backward sweep; wrap-around values are those from before the sweep."""
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    u, b, dinv = level[U], level[B], level[DINV]
    e, s, se, sw = level[E], level[S], level[SE], level[SW]
    _wrap(u, per0, per1)
    for i in range(m1, 0, -1):
        t[:m2] = b[i, 1 : m2 + 1]
        _add2(t[:m2], s[i - 1, 1 : m2 + 1], u[i - 1, 1 : m2 + 1], se[i - 1, :m2], u[i - 1, :m2])
        _add2(t[:m2], sw[i - 1, 2:], u[i - 1, 2:], s[i, 1 : m2 + 1], u[i + 1, 1 : m2 + 1])
        _add2(t[:m2], se[i, 1 : m2 + 1], u[i + 1, 2:], sw[i, 1 : m2 + 1], u[i + 1, :m2])
        _add1(t[:m2], e[i, :m2], u[i, :m2])
        ui, ei, di = u[i], e[i], dinv[i]
        prev = ui[m2 + 1]
        for j in range(m2, 0, -1):
            prev = di[j] * t[j - 1] + (di[j] * ei[j]) * prev
            ui[j] = prev


@jit
def _residual(level, t, per0, per1):  # type: ignore[no-untyped-def]
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    u, b, d, r = level[U], level[B], level[D], level[R]
    e, s, se, sw = level[E], level[S], level[SE], level[SW]
    _wrap(u, per0, per1)
    for i in range(1, m1 + 1):
        t[:m2] = b[i, 1 : m2 + 1]
        _add2(t[:m2], s[i - 1, 1 : m2 + 1], u[i - 1, 1 : m2 + 1], se[i - 1, :m2], u[i - 1, :m2])
        _add2(t[:m2], sw[i - 1, 2:], u[i - 1, 2:], s[i, 1 : m2 + 1], u[i + 1, 1 : m2 + 1])
        _add2(t[:m2], se[i, 1 : m2 + 1], u[i + 1, 2:], sw[i, 1 : m2 + 1], u[i + 1, :m2])
        _add2(t[:m2], e[i, :m2], u[i, :m2], e[i, 1 : m2 + 1], u[i, 2:])
        ri, di, ui = r[i], d[i], u[i]
        for j in range(1, m2 + 1):
            ri[j] = t[j - 1] - di[j] * ui[j]
    _wrap(r, per0, per1)


@jit
def _restrict(level, coarse):  # type: ignore[no-untyped-def]
    """Coarse right-hand side ``P^T r``."""
    c1, c2 = coarse.shape[1] - 2, coarse.shape[2] - 2
    r, b = level[R], coarse[B]
    hw, he, vn, vs = coarse[HW], coarse[HE], coarse[VN], coarse[VS]
    nw, ne, sw, se = coarse[CNW], coarse[CNE], coarse[CSW], coarse[CSE]
    for I in range(1, c1 + 1):
        i = 2 * I
        for J in range(1, c2 + 1):
            j = 2 * J
            v = r[i, j] + he[I, J - 1] * r[i, j - 1] + hw[I, J] * r[i, j + 1]
            v += vs[I - 1, J] * r[i - 1, j] + vn[I, J] * r[i + 1, j]
            v += se[I - 1, J - 1] * r[i - 1, j - 1] + sw[I - 1, J] * r[i - 1, j + 1]
            v += ne[I, J - 1] * r[i + 1, j - 1] + nw[I, J] * r[i + 1, j + 1]
            b[I, J] = v


@jit
def _prolong(level, coarse, per0, per1):  # type: ignore[no-untyped-def]
    """``u += P e``."""
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    c1, c2 = coarse.shape[1] - 2, coarse.shape[2] - 2
    u, e = level[U], coarse[U]
    hw, he, vn, vs = coarse[HW], coarse[HE], coarse[VN], coarse[VS]
    nw, ne, sw, se = coarse[CNW], coarse[CNE], coarse[CSW], coarse[CSE]
    _wrap(e, per0, per1)
    for I in range(1, c1 + 1):
        i = 2 * I
        for J in range(1, c2 + 1):
            u[i, 2 * J] += e[I, J]
        for J in range((m2 + 1) // 2):
            u[i, 2 * J + 1] += hw[I, J] * e[I, J] + he[I, J] * e[I, J + 1]
    for I in range((m1 + 1) // 2):
        i = 2 * I + 1
        for J in range(1, c2 + 1):
            u[i, 2 * J] += vn[I, J] * e[I, J] + vs[I, J] * e[I + 1, J]
        for J in range((m2 + 1) // 2):
            v = nw[I, J] * e[I, J] + ne[I, J] * e[I, J + 1]
            u[i, 2 * J + 1] += v + sw[I, J] * e[I + 1, J] + se[I, J] * e[I + 1, J + 1]


@jit
def _coarse_cycle(buffer, table, first, inverse, t, per0, per1):  # type: ignore[no-untyped-def]
    """V(1,1) cycle on the 9-point levels from `first` down, right-hand side in its field B."""
    last = table.shape[0] - 1
    for k in range(first, last):
        level, coarse = _level(buffer, table, k), _level(buffer, table, k + 1)
        _gs_forward(level, t)
        _residual(level, t, per0, per1)
        _restrict(level, coarse)
    level = _level(buffer, table, last)
    m1, m2 = table[last, 0], table[last, 1]
    b = level[B, 1 : m1 + 1, 1 : m2 + 1].copy().reshape(m1 * m2)
    level[U, 1 : m1 + 1, 1 : m2 + 1] = (inverse @ b).reshape(m1, m2)
    for k in range(last - 1, first - 1, -1):
        level, coarse = _level(buffer, table, k), _level(buffer, table, k + 1)
        _prolong(level, coarse, per0, per1)
        _gs_backward(level, t, per0, per1)


# -- the finest level, two colors apart ------------------------------------------------------------
# Red points of padded row i have columns j = 2 q + i % 2, black ones j = 2 q + 1 - i % 2.


@jit
def _split_store(fine, kx, ky, diag):  # type: ignore[no-untyped-def]
    m1, m2 = diag.shape[0] - 2, diag.shape[1] - 2
    fine[:] = 0.0
    for i in range(m1 + 2):
        p = i % 2
        for q in range(fine.shape[2]):
            j = 2 * q + p
            if j <= m2 + 1:
                row, col = 1 <= i <= m1, 1 <= j <= m2
                if col and i > 0:
                    fine[RN, i, q] = kx[i - 1, j - 1]
                if col and i <= m1:
                    fine[RS, i, q] = kx[i, j - 1]
                if row and j > 0:
                    fine[RW, i, q] = ky[i - 1, j - 1]
                if row and j <= m2:
                    fine[RE, i, q] = ky[i - 1, j]
                if row and col:
                    fine[RD, i, q] = 1.0 / diag[i, j]
            j = 2 * q + 1 - p
            if 1 <= i <= m1 and 1 <= j <= m2:
                fine[BD, i, q] = 1.0 / diag[i, j]


@jit
def _wrap_split(x, m1, m2, red, per0, per1):  # type: ignore[no-untyped-def]
    """Ghosts of one color; even numbers of points, so each ghost has the color of its source."""
    if per0:
        x[0] = x[m1]
        x[m1 + 1] = x[1]
    if per1:
        half = m2 // 2
        for i in range(m1 + 2):
            if (i % 2 == 0) == red:
                x[i, 0] = x[i, half]
            else:
                x[i, half] = x[i, 0]


@jit
def _relax(out, t, b, d):  # type: ignore[no-untyped-def]
    for q in range(t.shape[0]):
        out[q] = (t[q] + b[q]) * d[q]


@jit
def _red(fine, t, m1, m2, residual, per0, per1):  # type: ignore[no-untyped-def]
    """Red half-sweep, or the residual on red after a red-black sweep from zero."""
    x = fine[BU]
    _wrap_split(x, m1, m2, False, per0, per1)
    for i in range(1, m1 + 1):
        p = i % 2
        lo, hi = 1 - p, (m2 - p) // 2 + 1
        v = fine[RR, i, lo:hi] if residual else t[: hi - lo]
        _sum4(v, fine[RN, i, lo:hi], x[i - 1, lo:hi], fine[RS, i, lo:hi], x[i + 1, lo:hi])
        w, e = lo - 1 + p, lo + p
        n = hi - lo
        _add2(v, fine[RW, i, lo:hi], x[i, w : w + n], fine[RE, i, lo:hi], x[i, e : e + n])
        if not residual:
            _relax(fine[RU, i, lo:hi], v, fine[RB, i, lo:hi], fine[RD, i, lo:hi])


@jit
def _black(fine, t, m1, m2, per0, per1):  # type: ignore[no-untyped-def]
    x = fine[RU]
    _wrap_split(x, m1, m2, True, per0, per1)
    for i in range(1, m1 + 1):
        p = i % 2
        lo, hi = p, (m2 - 1 + p) // 2 + 1
        n = hi - lo
        v = t[:n]
        _sum4(v, fine[RS, i - 1, lo:hi], x[i - 1, lo:hi], fine[RN, i + 1, lo:hi], x[i + 1, lo:hi])
        w, e = lo - p, lo - p + 1
        _add2(v, fine[RE, i, w : w + n], x[i, w : w + n], fine[RW, i, e : e + n], x[i, e : e + n])
        _relax(fine[BU, i, lo:hi], v, fine[BB, i, lo:hi], fine[BD, i, lo:hi])


@jit
def _split_cycle(fine, buffer, table, inverse, t, per0, per1):  # type: ignore[no-untyped-def]
    m1, m2 = table[0, 0], table[0, 1]
    coarse = _level(buffer, table, 1)
    c1, c2 = table[1, 0], table[1, 1]
    for i in range(1, m1 + 1):
        lo, hi = 1 - i % 2, (m2 - i % 2) // 2 + 1
        for q in range(lo, hi):
            fine[RU, i, q] = fine[RB, i, q] * fine[RD, i, q]
    _black(fine, t, m1, m2, per0, per1)
    _red(fine, t, m1, m2, True, per0, per1)
    _wrap_split(fine[RR], m1, m2, True, per0, per1)
    r, b = fine[RR], coarse[B]
    nw, ne, sw, se = coarse[CNW], coarse[CNE], coarse[CSW], coarse[CSE]
    for I in range(1, c1 + 1):
        up, mid, down = r[2 * I - 1], r[2 * I], r[2 * I + 1]
        for J in range(1, c2 + 1):
            v = mid[J] + se[I - 1, J - 1] * up[J - 1] + sw[I - 1, J] * up[J]
            b[I, J] = v + ne[I, J - 1] * down[J - 1] + nw[I, J] * down[J]
    _coarse_cycle(buffer, table, 1, inverse, t, per0, per1)
    e, u = coarse[U], fine[RU]
    _wrap(e, per0, per1)
    for I in range(1, c1 + 1):
        for J in range(1, c2 + 1):
            u[2 * I, J] += e[I, J]
    for I in range((m1 + 1) // 2):
        for J in range((m2 + 1) // 2):
            v = nw[I, J] * e[I, J] + ne[I, J] * e[I, J + 1]
            u[2 * I + 1, J] += v + sw[I, J] * e[I + 1, J] + se[I, J] * e[I + 1, J + 1]
    _black(fine, t, m1, m2, per0, per1)
    _red(fine, t, m1, m2, False, per0, per1)


# -- conjugate gradients, float64 ------------------------------------------------------------------


@jit
def _apply(kx, ky, c, has_c, p, q, per0, per1):  # type: ignore[no-untyped-def]
    """``q = A p`` with `p` padded; returns ``<p, q>``."""
    m1, m2 = q.shape
    _wrap(p, per0, per1)
    dot = 0.0
    for i in range(m1):
        up, mid, down = p[i, 1 : m2 + 1], p[i + 1], p[i + 2, 1 : m2 + 1]
        qi, kn, ks, kh = q[i], kx[i], kx[i + 1], ky[i]
        for j in range(m2):
            v = mid[j + 1]
            qi[j] = kn[j] * (v - up[j]) + ks[j] * (v - down[j])
        for j in range(m2):
            v = mid[j + 1]
            qi[j] += kh[j] * (v - mid[j]) + kh[j + 1] * (v - mid[j + 2])
        if has_c:
            ci = c[i]
            for j in range(m2):
                qi[j] += ci[j] * mid[j + 1]
        for j in range(m2):
            dot += qi[j] * mid[j + 1]
    return dot


@jit
def _precondition(r, z, fine, buffer, table, inverse, t, split, per0, per1):  # type: ignore[no-untyped-def]
    m1, m2 = r.shape
    if split:
        for i in range(m1):
            p = (i + 1) % 2  # padded row i + 1, natural column j - 1
            ri, red, black = r[i], fine[RB, i + 1], fine[BB, i + 1]
            if p == 0:
                for q in range(1, m2 // 2 + 1):
                    red[q] = ri[2 * q - 1]
                for q in range((m2 + 1) // 2):
                    black[q] = ri[2 * q]
            else:
                for q in range((m2 + 1) // 2):
                    red[q] = ri[2 * q]
                for q in range(1, m2 // 2 + 1):
                    black[q] = ri[2 * q - 1]
        _split_cycle(fine, buffer, table, inverse, t, per0, per1)
        for i in range(m1):
            p = (i + 1) % 2
            zi, red, black = z[i], fine[RU, i + 1], fine[BU, i + 1]
            if p == 1:
                red, black = black, red
            for q in range(1, m2 // 2 + 1):
                zi[2 * q - 1] = red[q]
            for q in range((m2 + 1) // 2):
                zi[2 * q] = black[q]
    else:
        level = _level(buffer, table, 0)
        for i in range(m1):
            for j in range(m2):
                level[B, i + 1, j + 1] = r[i, j]
        _coarse_cycle(buffer, table, 0, inverse, t, per0, per1)
        for i in range(m1):
            for j in range(m2):
                z[i, j] = level[U, i + 1, j + 1]


@jit
def _remove_mean(x):  # type: ignore[no-untyped-def]
    x -= x.mean()


@jit
def _cg(
    kx, ky, c, has_c, b, x, singular, per0, per1, fine, buffer, table, inverse, split, tol, maxiter
):  # type: ignore[no-untyped-def]
    """Flexible CG; `b` has norm 1 and `x` is padded. Returns the history of residual norms."""
    m1, m2 = b.shape
    history = np.empty(maxiter + 1)
    r = np.empty((m1, m2))
    _apply(kx, ky, c, has_c, x, r, per0, per1)
    norm = 0.0
    for i in range(m1):
        for j in range(m2):
            r[i, j] = b[i, j] - r[i, j]
            norm += r[i, j] * r[i, j]
    history[0] = np.sqrt(norm)
    p, q, z = np.zeros((m1 + 2, m2 + 2)), np.empty((m1, m2)), np.empty((m1, m2))
    t = np.empty(m2 + 2, dtype=np.float32)
    rz_old, alpha, n = 1.0, 0.0, 0
    while n < maxiter and history[n] > tol:
        _precondition(r, z, fine, buffer, table, inverse, t, split, per0, per1)
        if singular:
            _remove_mean(z)
        rz, qz = 0.0, 0.0
        for i in range(m1):
            ri, zi, qi = r[i], z[i], q[i]
            for j in range(m2):
                rz += ri[j] * zi[j]
            if n > 0:
                for j in range(m2):
                    qz += qi[j] * zi[j]
        beta = 0.0 if n == 0 else -alpha * qz / rz_old  # = <z, r - r_old> / <z_old, r_old>
        for i in range(m1):
            pi, zi = p[i + 1], z[i]
            for j in range(m2):
                pi[j + 1] = zi[j] + beta * pi[j + 1]
        pq = _apply(kx, ky, c, has_c, p, q, per0, per1)
        if not (pq > 0.0 and rz > 0.0):
            break
        alpha = rz / pq
        norm = 0.0
        for i in range(m1):
            xi, pi, ri, qi = x[i + 1], p[i + 1], r[i], q[i]
            for j in range(m2):
                xi[j + 1] += alpha * pi[j + 1]
            for j in range(m2):
                ri[j] -= alpha * qi[j]
            for j in range(m2):
                norm += ri[j] * ri[j]
        rz_old = rz
        n += 1
        history[n] = np.sqrt(norm)
    return history[: n + 1]


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
    # The preconditioner must not depend on the units of the coefficient.
    scale = 1.0 / max(float(kx.max()), float(ky.max()))
    kx, ky, c = kx * scale, ky * scale, c * scale
    dense = _setup(kx, ky, c, has_c, per0, per1, table, buffer, split, fine)
    if system.singular:
        dense += np.trace(dense) / dense.size
    inverse = np.linalg.inv(dense).astype(np.float32)
    b = system.rhs / norm
    x = np.zeros((shape[0] + 2, shape[1] + 2))
    history = [1.0]
    for _ in range(3):  # once more where rounding kept the recursion from the true residual
        new = _cg(
            kx, ky, c, has_c, b, x, system.singular, per0, per1, fine, buffer, table, inverse,
            split, 0.9 * rtol, maxiter - (len(history) - 1),
        )  # fmt: skip
        history = history[:-1] + new.tolist()
        u = x[1:-1, 1:-1] * (norm * scale)
        residual = system.residual(u)
        if residual <= rtol or len(history) > maxiter or len(new) == 1:
            break
    iterations = len(history) - 1
    if not residual <= rtol:
        raise SolverDidNotConverge(NAME, iterations=iterations, residual=residual, rtol=rtol)
    return u, np.array(history), iterations, NAME
