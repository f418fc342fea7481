"""Compiled setup of black-box multigrid: interpolation, Galerkin products, storage of the levels.

See `structured` for the method. The first index runs south, the second east.
"""

from __future__ import annotations

import numpy as np
from numba import njit

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
def wrap(x, per0, per1):
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
def nine_point(kx, ky, c, has_c, per0, per1):
    """Return the padded 9-point form: diagonal, E, S, SE, SW couplings, row sums."""
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
        wrap(op[k], per0, per1)
    return op


@jit
def add(A, k, v0, v1, v2, v3):
    """Add k v v^T to A on the four corners (NW, NE, SW, SE); upper triangle."""
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
def interpolation(op, per0, per1):
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
def galerkin(op, P, per0, per1, five_point):
    """Coarse operator ``P^T A P``, summed cell by cell from the energy of the fine couplings.

    A cell is a block of 3 x 3 fine points with coarse points in its corners; it owns the couplings
    of its center, those across its corners, and those along its north and west borders. The center
    c = y / d is interpolated by its own equation, so its couplings leave the Schur complement
    ``sum_a k_a x_a x_a^T - y y^T / d``. On an odd periodic axis the last cell ends in the first
    fine row, which is no coarse row, and couplings across that seam come on top.
    """
    m1, m2 = op.shape[1] - 2, op.shape[2] - 2
    c1, c2 = m1 // 2, m2 // 2
    odd0, odd1 = per0 and m1 % 2 == 1, per1 and m2 % 2 == 1
    wrap0, wrap1 = per0 and not odd0, per1 and not odd1
    diag, east, south, se, sw, row = op[0], op[1], op[2], op[3], op[4], op[5]
    out = np.zeros((6, c1 + 2, c2 + 2))
    A = np.zeros(10)
    for I in range(c1 if wrap0 else c1 + 1):
        i = 2 * I + 1
        north, mid0 = I > 0 or wrap0, i <= m1
        last0 = odd0 and I == c1
        for J in range(c2 if wrap1 else c2 + 1):
            j = 2 * J + 1
            west, mid1 = J > 0 or wrap1, j <= m2
            last1 = odd1 and J == c2
            # Upper triangle of the cell's matrix; corners 0 NW, 1 NE, 2 SW, 3 SE.
            a00 = a01 = a02 = a03 = a11 = a12 = a13 = a22 = a23 = a33 = 0.0
            nw_, ne_ = P[0, I, J], P[1, I, J]  # north edge point from its two coarse points
            wn_, ws_ = P[2, I, J], P[3, I, J]  # west
            if mid0 and mid1:
                if last1:
                    en_, es_ = P[5, I, 0], P[7, I, 0]
                else:
                    en_, es_ = P[2, I, J + 1], P[3, I, J + 1]
                if last0:
                    sw_, se_ = P[6, 0, J], P[7, 0, J]
                else:
                    sw_, se_ = P[0, I + 1, J], P[1, I + 1, J]
                kn = south[i - 1, j] if north else 0.0
                kw = east[i, j - 1] if west else 0.0
                ks = 0.0 if last0 else south[i, j]
                ke = 0.0 if last1 else east[i, j]
                d = diag[i, j]
                if odd0 or odd1:  # couplings across the seam are not interpolated by
                    d = row[i, j] + kn + kw + ks + ke
                y0 = kn * nw_ + kw * wn_
                y1 = kn * ne_ + ke * en_
                y2 = ks * sw_ + kw * ws_
                y3 = ks * se_ + ke * es_
                a00 = kn * nw_ * nw_ + kw * wn_ * wn_
                a01 = kn * nw_ * ne_
                a11 = kn * ne_ * ne_ + ke * en_ * en_
                a02 = kw * wn_ * ws_
                a22 = kw * ws_ * ws_ + ks * sw_ * sw_
                a23 = ks * sw_ * se_
                a33 = ks * se_ * se_ + ke * es_ * es_
                a13 = ke * en_ * es_
                if not five_point:
                    k0 = se[i - 1, j - 1] if north and west else 0.0
                    k1 = sw[i - 1, j + 1] if north and not last1 else 0.0
                    k2 = sw[i, j] if west and not last0 else 0.0
                    k3 = 0.0 if last0 or last1 else se[i, j]
                    if odd0 or odd1:
                        d += k0 + k1 + k2 + k3
                    y0 += k0
                    y1 += k1
                    y2 += k2
                    y3 += k3
                    a00 += k0
                    a11 += k1
                    a22 += k2
                    a33 += k3
                    # Couplings between edge points, energy k (x - y)^2.
                    k = sw[i - 1, j] if north and west else 0.0  # north - west
                    v = nw_ - wn_
                    a00 += k * v * v
                    a01 += k * v * ne_
                    a02 -= k * v * ws_
                    a11 += k * ne_ * ne_
                    a12 -= k * ne_ * ws_
                    a22 += k * ws_ * ws_
                    k = 0.0 if last1 or not north else se[i - 1, j]  # north - east
                    v = ne_ - en_
                    a11 += k * v * v
                    a01 += k * v * nw_
                    a13 -= k * v * es_
                    a00 += k * nw_ * nw_
                    a03 -= k * nw_ * es_
                    a33 += k * es_ * es_
                    k = 0.0 if last0 or not west else se[i, j - 1]  # west - south
                    v = ws_ - sw_
                    a22 += k * v * v
                    a02 += k * v * wn_
                    a23 -= k * v * se_
                    a00 += k * wn_ * wn_
                    a03 -= k * wn_ * se_
                    a33 += k * se_ * se_
                    k = 0.0 if last0 or last1 else sw[i, j + 1]  # east - south
                    v = es_ - se_
                    a33 += k * v * v
                    a13 += k * v * en_
                    a23 -= k * v * sw_
                    a11 += k * en_ * en_
                    a12 -= k * en_ * sw_
                    a22 += k * sw_ * sw_
                if d > 0.0:
                    d = 1.0 / d
                a00 -= y0 * y0 * d
                a01 -= y0 * y1 * d
                a02 -= y0 * y2 * d
                a03 -= y0 * y3 * d
                a11 -= y1 * y1 * d
                a12 -= y1 * y2 * d
                a13 -= y1 * y3 * d
                a22 -= y2 * y2 * d
                a23 -= y2 * y3 * d
                a33 -= y3 * y3 * d
            if north and mid1:
                k = row[i - 1, j]
                ke = 0.0 if last1 else east[i - 1, j]
                kw = east[i - 1, j - 1] if west else 0.0
                a00 += kw * (1.0 - nw_) * (1.0 - nw_) + ke * nw_ * nw_ + k * nw_ * nw_
                a01 -= kw * (1.0 - nw_) * ne_ + ke * nw_ * (1.0 - ne_) - k * nw_ * ne_
                a11 += kw * ne_ * ne_ + ke * (1.0 - ne_) * (1.0 - ne_) + k * ne_ * ne_
            if west and mid0:
                k = row[i, j - 1]
                ks = 0.0 if last0 else south[i, j - 1]
                kn = south[i - 1, j - 1] if north else 0.0
                a00 += kn * (1.0 - wn_) * (1.0 - wn_) + ks * wn_ * wn_ + k * wn_ * wn_
                a02 -= kn * (1.0 - wn_) * ws_ + ks * wn_ * (1.0 - ws_) - k * wn_ * ws_
                a22 += kn * ws_ * ws_ + ks * (1.0 - ws_) * (1.0 - ws_) + k * ws_ * ws_
            if north and west:
                a00 += row[i - 1, j - 1]
            if last0 or last1:
                for k in range(10):
                    A[k] = 0.0
                seam(A, op, P, I, J, last0, last1, north, west)
                a00, a01, a02, a03 = a00 + A[0], a01 + A[1], a02 + A[2], a03 + A[3]
                a11, a12, a13 = a11 + A[4], a12 + A[5], a13 + A[6]
                a22, a23, a33 = a22 + A[7], a23 + A[8], a33 + A[9]
            out[0, I, J] += a00
            out[0, I, J + 1] += a11
            out[0, I + 1, J] += a22
            out[0, I + 1, J + 1] += a33
            out[1, I, J] -= a01
            out[1, I + 1, J] -= a23
            out[2, I, J] -= a02
            out[2, I, J + 1] -= a13
            out[3, I, J] -= a03
            out[4, I, J + 1] -= a12
    finish(out, per0, per1)
    return out


@jit
def seam(A, op, P, I, J, last0, last1, north, west):
    """Energy of the couplings across the seam of odd periodic axes, on one cell's corners."""
    i, j = 2 * I + 1, 2 * J + 1
    east, south, se, sw = op[1], op[2], op[3], op[4]
    a, b, c, d = P[4, I, J], P[5, I, J], P[6, I, J], P[7, I, J]
    hw, he, vn, vs = P[0, I, J], P[1, I, J], P[2, I, J], P[3, I, J]
    # Weights of the east, south and southeast points of the cell.
    en, es = (P[5, I, 0], P[7, I, 0]) if last1 else (P[2, I, J + 1], P[3, I, J + 1])
    s2, s3 = (P[6, 0, J], P[7, 0, J]) if last0 else (P[0, I + 1, J], P[1, I + 1, J])
    ne = P[1, I, 0] if last1 else 1.0
    sw2 = P[3, 0, J] if last0 else 1.0
    if last0 and last1:
        corner = P[7, 0, 0]
    elif last0:
        corner = P[3, 0, J + 1]
    else:
        corner = P[1, I + 1, 0]
    if last0:
        add(A, south[i, j], a, b, c - s2, d - s3)
        if west:
            add(A, sw[i, j], a, b, c - sw2, d)
            add(A, se[i, j - 1], vn, 0.0, vs - s2, -s3)
            add(A, south[i, j - 1], vn, 0.0, vs - sw2, 0.0)
        add(A, sw[i, j + 1], 0.0, en, -s2, es - s3)
    if last1:
        add(A, east[i, j], a, b - en, c, d - es)
        if north:
            add(A, sw[i - 1, j + 1], a, b - ne, c, d)
            add(A, se[i - 1, j], hw, he - en, 0.0, -es)
            add(A, east[i - 1, j], hw, he - ne, 0.0, 0.0)
        if not last0:
            add(A, sw[i, j + 1], 0.0, en, -s2, es - s3)
    add(A, se[i, j], a, b, c, d - corner)


@jit
def finish(out, per0, per1):
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
        wrap(out[k], per0, per1)
    for i in range(1, c1 + 1):
        for j in range(1, c2 + 1):
            off = out[1, i, j] + out[1, i, j - 1] + out[2, i, j] + out[2, i - 1, j]
            off += out[3, i, j] + out[3, i - 1, j - 1] + out[4, i, j] + out[4, i - 1, j + 1]
            s = out[0, i, j] - off
            out[5, i, j] = s if abs(s) > 1e-13 * out[0, i, j] else 0.0
    wrap(out[5], per0, per1)


# -- the levels: one flat float32 buffer, views made where needed ----------------------------------


@jit
def level_of(buffer, table, k):
    n1, n2 = table[k, 0] + 2, table[k, 1] + 2
    start = table[k, 2]
    return buffer[start : start + N_FIELDS * n1 * n2].reshape(N_FIELDS, n1, n2)


@jit
def store(level, op):
    for i in range(op.shape[1]):
        for j in range(op.shape[2]):
            level[D, i, j] = op[0, i, j]
            level[DINV, i, j] = 1.0 / op[0, i, j] if op[0, i, j] > 0.0 else 0.0
            level[E, i, j] = op[1, i, j]
            level[S, i, j] = op[2, i, j]
            level[SE, i, j] = op[3, i, j]
            level[SW, i, j] = op[4, i, j]


@jit
def dense(op, per0, per1):
    """Return the coarsest operator as a matrix."""
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
def setup(kx, ky, c, has_c, K, per0, per1, table, buffer, split, fine):
    """Build all levels; return the dense coarsest operator."""
    op = nine_point(kx, ky, c, has_c, per0, per1)
    if split:
        split_store(fine, K, op[0])
    for k in range(table.shape[0]):
        if k > 0 or not split:
            store(level_of(buffer, table, k), op)
        if k + 1 < table.shape[0]:
            P = interpolation(op, per0, per1)
            coarse = level_of(buffer, table, k + 1)
            for f in range(8):
                for I in range(P.shape[1]):
                    for J in range(P.shape[2]):
                        coarse[HW + f, I, J] = P[f, I, J]
            op = galerkin(op, P, per0, per1, k == 0)
    return dense(op, per0, per1)


@jit
def conductances(kx, ky, c, split):
    """Return the array `K` of `apply`; also what the split levels are filled from."""
    m1, m2 = c.shape
    width = (m2 + 1) // 2 + 1 if split else m2 + 2
    K = np.zeros((6, m1 + 2, width))
    for i in range(m1 + 2):
        for j in range(m2 + 2):
            row, col = 1 <= i <= m1, 1 <= j <= m2
            q = j
            if split:
                q = j // 2
                if (i + j) % 2 == 1:
                    if row and col:
                        K[5, i, q] = c[i - 1, j - 1]
                    continue
            if col and i > 0:
                K[0, i, q] = kx[i - 1, j - 1]
            if col and i <= m1:
                K[1, i, q] = kx[i, j - 1]
            if row and j > 0:
                K[2, i, q] = ky[i - 1, j - 1]
            if row and j <= m2:
                K[3, i, q] = ky[i - 1, j]
            if row and col:
                K[4, i, q] = c[i - 1, j - 1]
    return K


@jit
def split_store(fine, K, diag):
    m1, m2 = diag.shape[0] - 2, diag.shape[1] - 2
    for k in range(RD):
        for i in range(m1 + 2):
            for q in range(K.shape[2]):
                fine[k, i, q] = K[k, i, q]
    for i in range(1, m1 + 1):
        for j in range(1, m2 + 1):
            fine[RD if (i + j) % 2 == 0 else BD, i, j // 2] = 1.0 / diag[i, j]
