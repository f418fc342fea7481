"""Compiled black-box multigrid in 3-D: setup by energy, V-cycle in float32, CG in float64.

Each axis may be coarsened or not (semicoarsening), so that strong couplings along one axis are
coarsened first and point smoothing suffices; axes of a single point make it 2-D or 1-D.

A *cell* spans the interval between neighboring coarse points of each axis: positions 0 (lower
coarse point), 1 (the fine point midway, if the axis is coarsened) and 2 (upper coarse point). The
energy of all couplings inside a cell, with its points interpolated from its 8 corners, is an 8 x 8
matrix; their sum is the Galerkin product, symmetric and non-negative whatever the sizes are. A
point or coupling on a face shared by two cells belongs to the one that has it at its lower side.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
from __future__ import annotations

import numpy as np

from ._boxmg_cycle import add_flux, dot, flux
from ._boxmg_setup import jit

# Couplings are kept at the lower end: to (i, j, k) + OFFSETS[q]. The first three alone on the
# finest level.
_AXES = [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
_PLANES = [(0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1), (1, 1, 0), (1, -1, 0)]
_SPACE = [(1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)]
OFFSETS = np.array([*_AXES, *_PLANES, *_SPACE], dtype=np.int64)
# Fields of a level, float32, padded; then its n_couplings couplings. ROW is kept by the setup only.
D, DINV, U, B, R, K0 = range(6)
# Interpolation weights to a cell's own points: along axis 2, 1, 0; faces 12, 02, 01; the center.
_STARTS = {1: 0, 2: 2, 4: 4, 3: 6, 5: 10, 6: 14, 7: 18}
N_WEIGHTS = 26


def _tables():
    """Index tables of the setup, as small arrays."""
    bits = [1 << (2 - axis) for axis in range(3)]
    # For each set of axes at their midpoint and each coupling: is it along the set, local step
    step = np.zeros((8, 13), dtype=np.int64)
    for subset in range(8):
        for q, offset in enumerate(OFFSETS):
            step[subset, q] = sum(
                int(d) * 3 ** (2 - axis) for axis, d in enumerate(offset) if subset & bits[axis]
            )
    # Pairs of corners a < b: the coupling between them, and which of them keeps it
    pairs = []
    index = {tuple(int(d) for d in offset): q for q, offset in enumerate(OFFSETS)}
    for a in range(8):
        for b in range(a + 1, 8):
            d = tuple(int((b >> s) & 1) - int((a >> s) & 1) for s in (2, 1, 0))
            if d in index:
                pairs.append((a, b, index[d], a))
            else:
                pairs.append((a, b, index[tuple(-e for e in d)], b))
    # Couplings that a cell owns, by the set of coarsened axes: local points p, q; which coupling
    edges = np.full((8, 360, 3), -1, dtype=np.int64)
    for coarsened in range(8):
        n = 0
        for q, offset in enumerate(OFFSETS):  # those of the finest level first
            for p in range(27):
                at = [p // 9, p // 3 % 3, p % 3]
                if any(at[axis] == 1 and not coarsened & bits[axis] for axis in range(3)):
                    continue
                to, fits = [], True
                for axis, d in enumerate(offset):
                    t = at[axis] + int(d) * (1 if coarsened & bits[axis] else 2)
                    fits &= 0 <= t <= 2 and not (t == 2 and at[axis] == 2)
                    to.append(t)
                if fits:
                    edges[coarsened, n] = p, 9 * to[0] + 3 * to[1] + to[2], q
                    n += 1
    starts = np.array([_STARTS.get(s, 0) for s in range(8)], dtype=np.int64)
    points = np.full((8, 9), -1, dtype=np.int64)
    for subset in range(8):
        mid = [bool(subset & bit) for bit in bits]
        found = [p for p in range(27) if [p // 9 == 1, p // 3 % 3 == 1, p % 3 == 1] == mid]
        points[subset, : len(found)] = found
    return step, np.array(pairs, dtype=np.int64), edges, starts, points


STEP, PAIRS, EDGES, STARTS, POINTS = _tables()
# Sets of midpoint axes, smaller ones first
SUBSETS = np.array([1, 2, 4, 3, 5, 6, 7], dtype=np.int64)


def intervals(m, periodic, coarsen):
    """Cells of one axis: fine points (lower, mid, upper) and coarse points (lower, upper).

    -1 where there is none. Returns arrays (n_cells, 3) and (n_cells, 2), and the number of coarse
    points. Coarse points are 1, 3, 5, ... (and the last one where an odd axis wraps around): a
    Dirichlet wall takes the place of the coarse point before the first one.
    """
    if not coarsen:
        c = m
        at = list(range(m))
    elif periodic and m % 2:
        c = (m + 1) // 2
        at = [*range(1, m - 1, 2), m - 1]
    else:
        c = m // 2
        at = list(range(1, m, 2))
    fine, coarse = [], []
    for i in range(c if periodic else c + 1):
        lower = i - 1 if i > 0 else (c - 1 if periodic else -1)
        upper = i if i < c else -1
        mid = 2 * i if coarsen and 2 * i < m else -1
        if coarsen and periodic and m % 2 and i == c - 1 and i > 0:
            mid = -1
        if periodic and c == 1:
            lower = -1  # one corner for both ends
        first = at[i - 1] if i > 0 or periodic else -1
        fine.append((first, mid, at[i] if upper >= 0 else -1))
        coarse.append((lower, upper))
    return np.array(fine, dtype=np.int64), np.array(coarse, dtype=np.int64), c


@jit
def seven_point(kx, ky, kz, c, has_c, per):
    """Return diagonal, row sums and 3 couplings, unpadded, float64."""
    m0, m1, m2 = c.shape
    op = np.zeros((5, m0, m1, m2))
    for i in range(m0):
        for j in range(m1):
            for k in range(m2):
                row = c[i, j, k] if has_c else 0.0
                x0, x1 = kx[i, j, k], kx[i + 1, j, k]
                y0, y1 = ky[i, j, k], ky[i, j + 1, k]
                z0, z1 = kz[i, j, k], kz[i, j, k + 1]
                op[0, i, j, k] = row + x0 + x1 + y0 + y1 + z0 + z1
                if not per[0]:
                    if i == 0:
                        row += x0
                    if i == m0 - 1:
                        row += x1
                        x1 = 0.0
                if not per[1]:
                    if j == 0:
                        row += y0
                    if j == m1 - 1:
                        row += y1
                        y1 = 0.0
                if not per[2]:
                    if k == 0:
                        row += z0
                    if k == m2 - 1:
                        row += z1
                        z1 = 0.0
                op[1, i, j, k] = row
                op[2, i, j, k], op[3, i, j, k], op[4, i, j, k] = z1, y1, x1
    return op


@jit
def neighbor(i, d, m, per):
    """Index of the next point, -1 where there is none."""
    i += d
    if i < 0:
        return m - 1 if per else -1
    if i >= m:
        return 0 if per else -1
    return i


@jit
def rank_one(A, x, v):
    """Add ``x v v^T`` to `A`, 8 x 8; written out, so that it becomes vector instructions."""
    v0, v1, v2, v3, v4, v5, v6, v7 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
    for a in range(8):
        y = x * v[a]
        if y != 0.0:
            A[a, 0] += y * v0
            A[a, 1] += y * v1
            A[a, 2] += y * v2
            A[a, 3] += y * v3
            A[a, 4] += y * v4
            A[a, 5] += y * v5
            A[a, 6] += y * v6
            A[a, 7] += y * v7


@jit
def is_held(op, i, j, k, m, per, subset):
    """Whether a point has couplings to both sides along every axis of the subset."""
    below, above = 0, 0
    for q in range(op.shape[0] - 2):
        up = op[2 + q, i, j, k] != 0.0
        ii = neighbor(i, -OFFSETS[q, 0], m[0], per[0])
        jj = neighbor(j, -OFFSETS[q, 1], m[1], per[1])
        kk = neighbor(k, -OFFSETS[q, 2], m[2], per[2])
        down = ii >= 0 and jj >= 0 and kk >= 0 and op[2 + q, ii, jj, kk] != 0.0
        for axis in range(3):
            d = OFFSETS[q, axis]
            if (up and d > 0) or (down and d < 0):
                above |= 4 >> axis
            if (up and d < 0) or (down and d > 0):
                below |= 4 >> axis
    return below & above & subset == subset


@jit
def coarsen(op, per, f0, f1, f2, c0, c1, c2, coarsened, sizes, weights):
    """Galerkin product and, into `weights`, the interpolation it was made with."""
    nq = op.shape[0] - 2
    m = op.shape[1:]
    out = np.zeros((15, sizes[0], sizes[1], sizes[2]))
    W, A, v = np.zeros((27, 8)), np.zeros((8, 8)), np.zeros(8)
    near = np.zeros((3, 3, 3), dtype=np.int64)
    index, exists = np.zeros((27, 3), dtype=np.int64), np.zeros(27, dtype=np.bool_)
    corner, has = np.zeros((8, 3), dtype=np.int64), np.zeros(8, dtype=np.bool_)
    for I in range(f0.shape[0]):
        for J in range(f1.shape[0]):
            for K in range(f2.shape[0]):
                inside = True
                for p in range(27):
                    index[p, 0], index[p, 1] = f0[I, p // 9], f1[J, p // 3 % 3]
                    index[p, 2] = f2[K, p % 3]
                    exists[p] = index[p, 0] >= 0 and index[p, 1] >= 0 and index[p, 2] >= 0
                    if p == 0 or p == 26:
                        inside &= exists[p]
                W[:] = 0.0
                folded = 0  # axes with one corner for both ends, the upper one
                if c0[I, 0] < 0:
                    folded |= 4
                if c1[J, 0] < 0:
                    folded |= 2
                if c2[K, 0] < 0:
                    folded |= 1
                for a in range(8):
                    b0, b1, b2 = a >> 2, a >> 1 & 1, a & 1
                    corner[a, 0], corner[a, 1] = c0[I, b0], c1[J, b1]
                    corner[a, 2] = c2[K, b2]
                    has[a] = corner[a, 0] >= 0 and corner[a, 1] >= 0 and corner[a, 2] >= 0
                    p = 18 * b0 + 6 * b1 + 2 * b2
                    if exists[p]:  # both ends of an axis with one coarse point are its upper corner
                        W[p, a | folded] = 1.0
                for a in range(3):
                    for d in range(-1, 2):
                        near[0, a, 1 + d] = neighbor(f0[I, a], -d, m[0], per[0])
                        near[1, a, 1 + d] = neighbor(f1[J, a], -d, m[1], per[1])
                        near[2, a, 1 + d] = neighbor(f2[K, a], -d, m[2], per[2])
                for s in range(7):
                    subset = SUBSETS[s]
                    if subset & ~coarsened:
                        continue
                    for n in range(8):
                        p = POINTS[subset, n]
                        if p < 0:
                            break
                        if not exists[p]:
                            continue
                        i, j, k = index[p, 0], index[p, 1], index[p, 2]
                        n0, n1, n2 = near[0, p // 9], near[1, p // 3 % 3], near[2, p % 3]
                        total = 0.0
                        w0 = w1 = w2 = w3 = w4 = w5 = w6 = w7 = 0.0
                        for q in range(nq):
                            step = STEP[subset, q]
                            if step == 0:
                                continue
                            for up in range(2):
                                if up:
                                    ii, jj, kk, o = i, j, k, W[p + step]
                                else:
                                    ii = n0[1 + OFFSETS[q, 0]]
                                    jj = n1[1 + OFFSETS[q, 1]]
                                    kk = n2[1 + OFFSETS[q, 2]]
                                    if ii < 0 or jj < 0 or kk < 0:
                                        continue
                                    o = W[p - step]
                                x = op[2 + q, ii, jj, kk]
                                total += x
                                w0 += x * o[0]
                                w1 += x * o[1]
                                w2 += x * o[2]
                                w3 += x * o[3]
                                w4 += x * o[4]
                                w5 += x * o[5]
                                w6 += x * o[6]
                                w7 += x * o[7]
                        # Not held on all sides: a wall (or its absence) and the reaction count
                        if subset == 7 or not (inside or is_held(op, i, j, k, m, per, subset)):
                            total += max(op[1, i, j, k], 0.0)
                        scale = 1.0 / total if total > 0.0 else 0.0
                        w = W[p]
                        w[0], w[1], w[2], w[3] = w0 * scale, w1 * scale, w2 * scale, w3 * scale
                        w[4], w[5], w[6], w[7] = w4 * scale, w5 * scale, w6 * scale, w7 * scale
                        if p // 9 < 2 and p // 3 % 3 < 2 and p % 3 < 2:
                            at = STARTS[subset]
                            for a in range(8):
                                if not a & ~subset:
                                    weights[at, I, J, K] = w[a | (folded & ~subset)]
                                    at += 1
                A[:] = 0.0
                pattern = coarsened  # an axis whose middle is missing here goes from end to end
                if f0[I, 1] < 0:
                    pattern &= 3
                if f1[J, 1] < 0:
                    pattern &= 5
                if f2[K, 1] < 0:
                    pattern &= 6
                for e in range(EDGES.shape[1]):
                    p, r, q = EDGES[pattern, e, 0], EDGES[pattern, e, 1], EDGES[pattern, e, 2]
                    if p < 0 or q >= nq:
                        break
                    if not (exists[p] and exists[r]):
                        continue
                    x = op[2 + q, index[p, 0], index[p, 1], index[p, 2]]
                    if x == 0.0:
                        continue
                    for a in range(8):
                        v[a] = W[p, a] - W[r, a]
                    rank_one(A, x, v)
                for n in range(8):
                    p = 9 * (n >> 2) + 3 * (n >> 1 & 1) + (n & 1)
                    if exists[p]:
                        x = op[1, index[p, 0], index[p, 1], index[p, 2]]
                        if x != 0.0:
                            rank_one(A, x, W[p])
                for a in range(8):
                    if has[a]:
                        row = 0.0
                        for b in range(8):
                            row += A[a, b]
                        out[0, corner[a, 0], corner[a, 1], corner[a, 2]] += A[a, a]
                        out[1, corner[a, 0], corner[a, 1], corner[a, 2]] += row
                for n in range(PAIRS.shape[0]):
                    a, b, q, at = PAIRS[n, 0], PAIRS[n, 1], PAIRS[n, 2], PAIRS[n, 3]
                    if has[a] and has[b]:
                        out[2 + q, corner[at, 0], corner[at, 1], corner[at, 2]] -= A[a, b]
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            for k in range(out.shape[3]):
                if abs(out[1, i, j, k]) <= 1e-13 * out[0, i, j, k]:
                    out[1, i, j, k] = 0.0
    return out


# -- the levels ------------------------------------------------------------------------------------


@jit
def strengths(op):
    """Energy of the linear function along each axis."""
    out = np.zeros(3)
    for q in range(op.shape[0] - 2):
        total = 0.0
        for x in op[2 + q].flat:
            total += x
        for axis in range(3):
            if OFFSETS[q, axis] != 0:
                out[axis] += total
    return out


@jit
def dense(op, per):
    """Return an operator as a matrix."""
    m0, m1, m2 = op.shape[1:]
    A = np.zeros((m0 * m1 * m2, m0 * m1 * m2))
    for i in range(m0):
        for j in range(m1):
            for k in range(m2):
                p = (i * m1 + j) * m2 + k
                A[p, p] += op[0, i, j, k]
                for q in range(op.shape[0] - 2):
                    x = op[2 + q, i, j, k]
                    if x != 0.0:
                        ii = neighbor(i, OFFSETS[q, 0], m0, per[0])
                        jj = neighbor(j, OFFSETS[q, 1], m1, per[1])
                        kk = neighbor(k, OFFSETS[q, 2], m2, per[2])
                        r = (ii * m1 + jj) * m2 + kk
                        A[p, r] -= x
                        A[r, p] -= x
    return A


@jit
def level_of(buffer, table, n):
    """Fields of level `n`, (K0 + couplings, m0 + 2, m1 + 2, m2 + 2)."""
    n0, n1, n2 = table[n, 0] + 2, table[n, 1] + 2, table[n, 2] + 2
    size = table[n, 4] * n0 * n1 * n2
    return buffer[table[n, 3] : table[n, 3] + size].reshape(table[n, 4], n0, n1, n2)


@jit
def weights_of(buffer, table, n):
    """Interpolation to level `n`, (N_WEIGHTS, cells of each axis)."""
    n0, n1, n2 = table[n, 6], table[n, 7], table[n, 8]
    size = N_WEIGHTS * n0 * n1 * n2
    return buffer[table[n, 5] : table[n, 5] + size].reshape(N_WEIGHTS, n0, n1, n2)


@jit
def store(level, op, per):
    """Fill the padded float32 level, ghosts of periodic axes included."""
    m0, m1, m2 = op.shape[1:]
    for q in range(-1, op.shape[0] - 2):
        src = op[0] if q < 0 else op[2 + q]
        dst = level[D] if q < 0 else level[K0 + q]
        for i in range(m0):
            for j in range(m1):
                for k in range(m2):
                    dst[i + 1, j + 1, k + 1] = src[i, j, k]
        wrap(dst, per)
    d, dinv = level[D], level[DINV]
    for i in range(1, m0 + 1):
        for j in range(1, m1 + 1):
            for k in range(1, m2 + 1):
                x = d[i, j, k]
                dinv[i, j, k] = np.float32(1.0) / x if x > 0.0 else np.float32(0.0)


@jit
def wrap(x, per):
    """Fill the ghost layer of a padded array from the opposite side."""
    n0, n1, n2 = x.shape
    if per[0]:
        x[0] = x[n0 - 2]
        x[n0 - 1] = x[1]
    if per[1]:
        for i in range(n0):
            x[i, 0] = x[i, n1 - 2]
            x[i, n1 - 1] = x[i, 1]
    if per[2]:
        for i in range(n0):
            for j in range(n1):
                x[i, j, 0] = x[i, j, n2 - 2]
                x[i, j, n2 - 1] = x[i, j, 1]


# -- the cycle, float32 ----------------------------------------------------------------------------


@jit
def add1(t, a, x):
    for q in range(t.shape[0]):
        t[q] += a[q] * x[q]


@jit
def add2(t, a, x, b, y):
    for q in range(t.shape[0]):
        t[q] += a[q] * x[q] + b[q] * y[q]


@jit
def lower_rows(t, k, i, j, u):
    """Add couplings `k` to rows before (i, j)."""
    m = t.shape[0]
    h = m + 1
    i_, j_ = i - 1, j - 1
    add2(t, k[1, i, j_, 1:h], u[i, j_, 1:h], k[2, i_, j, 1:h], u[i_, j, 1:h])
    if k.shape[0] > 3:
        add2(t, k[3, i, j_, :m], u[i, j_, :m], k[4, i, j_, 2:], u[i, j_, 2:])
        add2(t, k[5, i_, j, :m], u[i_, j, :m], k[6, i_, j, 2:], u[i_, j, 2:])
        add1(t, k[7, i_, j_, 1:h], u[i_, j_, 1:h])
        add2(t, k[9, i_, j_, :m], u[i_, j_, :m], k[10, i_, j_, 2:], u[i_, j_, 2:])
        add1(t, k[8, i_, j + 1, 1:h], u[i_, j + 1, 1:h])
        add2(t, k[11, i_, j + 1, :m], u[i_, j + 1, :m], k[12, i_, j + 1, 2:], u[i_, j + 1, 2:])


@jit
def upper_rows(t, k, i, j, u):
    """Add couplings `k` to rows after (i, j)."""
    m = t.shape[0]
    h = m + 1
    add2(t, k[1, i, j, 1:h], u[i, j + 1, 1:h], k[2, i, j, 1:h], u[i + 1, j, 1:h])
    if k.shape[0] > 3:
        add2(t, k[3, i, j, 1:h], u[i, j + 1, 2:], k[4, i, j, 1:h], u[i, j + 1, :m])
        add2(t, k[5, i, j, 1:h], u[i + 1, j, 2:], k[6, i, j, 1:h], u[i + 1, j, :m])
        add1(t, k[7, i, j, 1:h], u[i + 1, j + 1, 1:h])
        add2(t, k[9, i, j, 1:h], u[i + 1, j + 1, 2:], k[10, i, j, 1:h], u[i + 1, j + 1, :m])
        add1(t, k[8, i, j, 1:h], u[i + 1, j - 1, 1:h])
        add2(t, k[11, i, j, 1:h], u[i + 1, j - 1, 2:], k[12, i, j, 1:h], u[i + 1, j - 1, :m])


@jit
def copy(t, x):
    for q in range(t.shape[0]):
        t[q] = x[q]


@jit
def gs_forward(level, t):
    """One forward Gauss-Seidel sweep from u = 0, ghosts included."""
    m0, m1, m2 = level.shape[1] - 2, level.shape[2] - 2, level.shape[3] - 2
    u, b, dinv, z, c = level[U], level[B], level[DINV], level[K0], level[K0:]
    u[0] = np.float32(0.0)
    u[m0 + 1] = np.float32(0.0)
    for i in range(1, m0 + 1):
        u[i, 0] = np.float32(0.0)
        u[i, m1 + 1] = np.float32(0.0)
        for j in range(1, m1 + 1):
            copy(t, b[i, j, 1 : m2 + 1])
            lower_rows(t, c, i, j, u)
            w, d, e = u[i, j], dinv[i, j], z[i, j]
            w[0] = w[m2 + 1] = previous = np.float32(0.0)
            for k in range(1, m2 + 1):
                previous = d[k] * t[k - 1] + (d[k] * e[k - 1]) * previous
                w[k] = previous


@jit
def gs_backward(level, t, per):
    """One backward sweep; values across the ends of an axis are those from before the sweep."""
    m0, m1, m2 = level.shape[1] - 2, level.shape[2] - 2, level.shape[3] - 2
    u, b, dinv, z, c = level[U], level[B], level[DINV], level[K0], level[K0:]
    wrap(u, per)
    for i in range(m0, 0, -1):
        for j in range(m1, 0, -1):
            copy(t, b[i, j, 1 : m2 + 1])
            lower_rows(t, c, i, j, u)
            upper_rows(t, c, i, j, u)
            w, d, e = u[i, j], dinv[i, j], z[i, j]
            add1(t, e[:m2], w[:m2])
            previous = w[m2 + 1]
            for k in range(m2, 0, -1):
                previous = d[k] * t[k - 1] + (d[k] * e[k]) * previous
                w[k] = previous


@jit
def residual(level, t, per):
    """Residual after `gs_forward`: what it did not see, couplings to points later in its order."""
    m0, m1, m2 = level.shape[1] - 2, level.shape[2] - 2, level.shape[3] - 2
    u, r, z, c = level[U], level[R], level[K0], level[K0:]
    wrap(u, per)
    for i in range(1, m0 + 1):
        for j in range(1, m1 + 1):
            for k in range(m2):
                t[k] = z[i, j, k + 1] * u[i, j, k + 2]
            upper_rows(t, c, i, j, u)
            copy(r[i, j, 1 : m2 + 1], t)
    if per[0] or per[1] or per[2]:
        across(level, per)


@jit
def across(level, per):
    """Add to the residual what couplings to earlier points across the ends of an axis bring."""
    m0, m1, m2 = level.shape[1] - 2, level.shape[2] - 2, level.shape[3] - 2
    u, r = level[U], level[R]
    for q in range(level.shape[0] - K0):
        o0, o1, o2 = OFFSETS[q, 0], OFFSETS[q, 1], OFFSETS[q, 2]
        x = level[K0 + q]
        for i in range(1, m0 + 1):
            edge0 = i - o0 < 1
            for j in range(1, m1 + 1):
                first, last = 1, m2  # a whole row, or its one end
                if not (edge0 or j - o1 < 1 or j - o1 > m1):
                    first, last = (1, o2) if o2 >= 0 else (m2, m2)
                for k in range(first, last + 1):
                    r[i, j, k] += x[i - o0, j - o1, k - o2] * u[i - o0, j - o1, k - o2]


@jit
def restrict(r, b, P, cells, n0, n1, n2):
    """``b = P^T r``. `cells` (3, n, 4): padded fine lower and middle, coarse lower and upper."""
    b[:] = np.float32(0.0)
    for I in range(n0):
        x0, x1, X0, X1 = cells[0, I, 0], cells[0, I, 1], cells[0, I, 2], cells[0, I, 3]
        for J in range(n1):
            y0, y1, Y0, Y1 = cells[1, J, 0], cells[1, J, 1], cells[1, J, 2], cells[1, J, 3]
            for K in range(n2):
                z0, z1, Z0, Z1 = cells[2, K, 0], cells[2, K, 1], cells[2, K, 2], cells[2, K, 3]
                w = P[:, I, J, K]
                rz, ry, rx = r[x0, y0, z1], r[x0, y1, z0], r[x1, y0, z0]
                r12, r02, r01 = r[x0, y1, z1], r[x1, y0, z1], r[x1, y1, z0]
                c = r[x1, y1, z1]
                v = r[x0, y0, z0] + w[0] * rz + w[2] * ry + w[4] * rx
                b[X0, Y0, Z0] += v + w[6] * r12 + w[10] * r02 + w[14] * r01 + w[18] * c
                b[X0, Y0, Z1] += w[1] * rz + w[7] * r12 + w[11] * r02 + w[19] * c
                b[X0, Y1, Z0] += w[3] * ry + w[8] * r12 + w[15] * r01 + w[20] * c
                b[X0, Y1, Z1] += w[9] * r12 + w[21] * c
                b[X1, Y0, Z0] += w[5] * rx + w[12] * r02 + w[16] * r01 + w[22] * c
                b[X1, Y0, Z1] += w[13] * r02 + w[23] * c
                b[X1, Y1, Z0] += w[17] * r01 + w[24] * c
                b[X1, Y1, Z1] += w[25] * c


@jit
def prolong(u, e, P, cells, n0, n1, n2):
    """``u += P e``."""
    for I in range(n0):
        x0, x1, X0, X1 = cells[0, I, 0], cells[0, I, 1], cells[0, I, 2], cells[0, I, 3]
        for J in range(n1):
            y0, y1, Y0, Y1 = cells[1, J, 0], cells[1, J, 1], cells[1, J, 2], cells[1, J, 3]
            for K in range(n2):
                z0, z1, Z0, Z1 = cells[2, K, 0], cells[2, K, 1], cells[2, K, 2], cells[2, K, 3]
                w = P[:, I, J, K]
                a, b, c, d = e[X0, Y0, Z0], e[X0, Y0, Z1], e[X0, Y1, Z0], e[X0, Y1, Z1]
                f, g, h, l = e[X1, Y0, Z0], e[X1, Y0, Z1], e[X1, Y1, Z0], e[X1, Y1, Z1]
                u[x0, y0, z0] += a
                u[x0, y0, z1] += w[0] * a + w[1] * b
                u[x0, y1, z0] += w[2] * a + w[3] * c
                u[x1, y0, z0] += w[4] * a + w[5] * f
                u[x0, y1, z1] += w[6] * a + w[7] * b + w[8] * c + w[9] * d
                u[x1, y0, z1] += w[10] * a + w[11] * b + w[12] * f + w[13] * g
                u[x1, y1, z0] += w[14] * a + w[15] * c + w[16] * f + w[17] * h
                v = w[18] * a + w[19] * b + w[20] * c + w[21] * d
                u[x1, y1, z1] += v + w[22] * f + w[23] * g + w[24] * h + w[25] * l


@jit
def cycle(buffer, table, cells, periodic, inverse, t):
    """V(1,1) cycle for the right-hand side in field B of level 0; leaves the result in U."""
    last = table.shape[0] - 1
    for n in range(last):
        level, coarse = level_of(buffer, table, n), level_of(buffer, table, n + 1)
        row = t[: table[n, 2]]
        gs_forward(level, row)
        residual(level, row, periodic[n])
        P = weights_of(buffer, table, n)
        restrict(level[R], coarse[B], P, cells[n], table[n, 6], table[n, 7], table[n, 8])
    level = level_of(buffer, table, last)
    m0, m1, m2 = table[last, 0], table[last, 1], table[last, 2]
    p = 0
    for i in range(m0):
        for j in range(m1):
            for k in range(m2):
                v, row, q = np.float32(0.0), inverse[p], 0
                for ii in range(m0):
                    for jj in range(m1):
                        for kk in range(m2):
                            v += row[q] * level[B, ii + 1, jj + 1, kk + 1]
                            q += 1
                level[U, i + 1, j + 1, k + 1] = v
                p += 1
    for n in range(last - 1, -1, -1):
        level, coarse = level_of(buffer, table, n), level_of(buffer, table, n + 1)
        P = weights_of(buffer, table, n)
        prolong(level[U], coarse[U], P, cells[n], table[n, 6], table[n, 7], table[n, 8])
        gs_backward(level, t[: table[n, 2]], periodic[n])


# -- conjugate gradients, float64 ------------------------------------------------------------------


@jit
def apply(kx, ky, kz, c, has_c, per, p, q):
    """``q = A p`` as a sum of fluxes, padded vectors; returns ``<p, q>``."""
    m0, m1, m2 = c.shape
    wrap(p, per)
    total = 0.0
    for i in range(m0):
        for j in range(m1):
            v, o = p[i + 1, j + 1, 1 : m2 + 1], q[i + 1, j + 1, 1 : m2 + 1]
            flux(o, v, kx[i, j], p[i, j + 1, 1 : m2 + 1], kx[i + 1, j], p[i + 2, j + 1, 1 : m2 + 1])
            add_flux(
                o, v, ky[i, j], p[i + 1, j, 1 : m2 + 1], ky[i, j + 1], p[i + 1, j + 2, 1 : m2 + 1]
            )
            add_flux(o, v, kz[i, j, :m2], p[i + 1, j + 1, :m2], kz[i, j, 1:], p[i + 1, j + 1, 2:])
            if has_c:
                add1(o, c[i, j], v)
            total += dot(v, o)
    return total


@jit
def cg(kx, ky, kz, c, has_c, rhs, work, buffer, table, cells, periodic, inverse, rtol, maxiter):
    """Flexible CG from ``work[0]``; `rhs` (unpadded) has norm 1, `work` is (4, padded shape).

    Returns the history of residual norms, the last one recomputed.

    A constant that the preconditioner adds in a singular problem changes neither `r` nor the
    inner products, because `r` sums to zero.
    """
    per = periodic[0]
    x3, r3, p3, q3 = work[0], work[1], work[2], work[3]
    n = r3.size
    r, p, q, x = r3.reshape(n), p3.reshape(n), q3.reshape(n), x3.reshape(n)
    r[:] = 0.0
    p[:] = 0.0
    q[:] = 0.0
    t = np.empty(table[:, 2].max(), dtype=np.float32)
    level = level_of(buffer, table, 0)
    b32, z = level[B].reshape(n), level[U].reshape(n)
    history = np.empty(maxiter + 1)
    history[0] = true_residual(kx, ky, kz, c, has_c, per, rhs, x3, r3)
    for k in range(n):
        b32[k] = r[k]
    rz_old, alpha, done = 1.0, 0.0, 0
    while done < maxiter and history[done] > rtol:
        cycle(buffer, table, cells, periodic, inverse, t)
        rz, qz = 0.0, 0.0
        for k in range(n):
            rz += r[k] * z[k]
            qz += q[k] * z[k]
        beta = -alpha * qz / rz_old  # = <z, r - r_old> / <z_old, r_old>
        for k in range(n):
            pk = p[k]
            x[k] += alpha * pk
            p[k] = z[k] + beta * pk
        pq = apply(kx, ky, kz, c, has_c, per, p3, q3)
        if not (pq > 0.0 and rz > 0.0):
            alpha = 0.0
            break
        alpha = rz / pq
        norm = 0.0
        for k in range(n):
            v = r[k] - alpha * q[k]
            r[k] = v
            b32[k] = v
            norm += v * v
        rz_old = rz
        done += 1
        history[done] = np.sqrt(norm)
    for k in range(n):
        x[k] += alpha * p[k]
    history[done] = true_residual(kx, ky, kz, c, has_c, per, rhs, x3, r3)
    return history[: done + 1]


@jit
def true_residual(kx, ky, kz, c, has_c, per, rhs, x, r):
    """``r = rhs - A x``; returns its norm."""
    apply(kx, ky, kz, c, has_c, per, x, r)
    norm = 0.0
    for i in range(rhs.shape[0]):
        for j in range(rhs.shape[1]):
            for k in range(rhs.shape[2]):
                v = rhs[i, j, k] - r[i + 1, j + 1, k + 1]
                r[i + 1, j + 1, k + 1] = v
                norm += v * v
    return np.sqrt(norm)
