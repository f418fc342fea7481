"""Compiled multigrid cycle (float32) and conjugate gradients (float64) on the levels of `setup`."""

from __future__ import annotations

import numpy as np

from ._boxmg_setup import (
    BB,
    BD,
    BU,
    CNE,
    CNW,
    CSE,
    CSW,
    DINV,
    HE,
    HW,
    RB,
    RD,
    RE,
    RN,
    RR,
    RS,
    RU,
    RW,
    SE,
    SW,
    VN,
    VS,
    B,
    D,
    E,
    R,
    S,
    U,
    jit,
    level_of,
    wrap,
)

# -- the cycle, float32 ----------------------------------------------------------------------------


@jit
def copy(t, x):
    for q in range(x.shape[0]):
        t[q] = x[q]


@jit
def sum4(t, a, x, b, y):
    for q in range(t.shape[0]):
        t[q] = a[q] * x[q] + b[q] * y[q]


@jit
def add2(t, a, x, b, y):
    for q in range(t.shape[0]):
        t[q] += a[q] * x[q] + b[q] * y[q]


@jit
def add1(t, a, x):
    for q in range(t.shape[0]):
        t[q] += a[q] * x[q]


@jit
def gs_forward(level, t):
    """One forward Gauss-Seidel sweep from u = 0 (ghosts included)."""
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    u, b, dinv = level[U], level[B], level[DINV]
    e, s, se, sw = level[E], level[S], level[SE], level[SW]
    for j in range(m2 + 2):
        u[0, j] = u[m1 + 1, j] = np.float32(0.0)
    for i in range(1, m1 + 1):
        copy(t, b[i, 1 : m2 + 1])
        if i > 1:
            add2(t[:m2], s[i - 1, 1 : m2 + 1], u[i - 1, 1 : m2 + 1], se[i - 1, :m2], u[i - 1, :m2])
            add1(t[:m2], sw[i - 1, 2:], u[i - 1, 2:])
        ui, ei, di = u[i], e[i], dinv[i]
        ui[0] = ui[m2 + 1] = np.float32(0.0)
        prev = np.float32(0.0)
        for j in range(1, m2 + 1):
            prev = di[j] * t[j - 1] + (di[j] * ei[j - 1]) * prev
            ui[j] = prev


@jit
def gs_backward(level, t, per0, per1):
    """One backward sweep; wrap-around values are those from before the sweep."""
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    u, b, dinv = level[U], level[B], level[DINV]
    e, s, se, sw = level[E], level[S], level[SE], level[SW]
    wrap(u, per0, per1)
    for i in range(m1, 0, -1):
        copy(t, b[i, 1 : m2 + 1])
        add2(t[:m2], s[i - 1, 1 : m2 + 1], u[i - 1, 1 : m2 + 1], se[i - 1, :m2], u[i - 1, :m2])
        add2(t[:m2], sw[i - 1, 2:], u[i - 1, 2:], s[i, 1 : m2 + 1], u[i + 1, 1 : m2 + 1])
        add2(t[:m2], se[i, 1 : m2 + 1], u[i + 1, 2:], sw[i, 1 : m2 + 1], u[i + 1, :m2])
        add1(t[:m2], e[i, :m2], u[i, :m2])
        ui, ei, di = u[i], e[i], dinv[i]
        prev = ui[m2 + 1]
        for j in range(m2, 0, -1):
            prev = di[j] * t[j - 1] + (di[j] * ei[j]) * prev
            ui[j] = prev


@jit
def residual(level, t, per0, per1):
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    u, b, d, r = level[U], level[B], level[D], level[R]
    e, s, se, sw = level[E], level[S], level[SE], level[SW]
    wrap(u, per0, per1)
    for i in range(1, m1 + 1):
        copy(t, b[i, 1 : m2 + 1])
        add2(t[:m2], s[i - 1, 1 : m2 + 1], u[i - 1, 1 : m2 + 1], se[i - 1, :m2], u[i - 1, :m2])
        add2(t[:m2], sw[i - 1, 2:], u[i - 1, 2:], s[i, 1 : m2 + 1], u[i + 1, 1 : m2 + 1])
        add2(t[:m2], se[i, 1 : m2 + 1], u[i + 1, 2:], sw[i, 1 : m2 + 1], u[i + 1, :m2])
        add2(t[:m2], e[i, :m2], u[i, :m2], e[i, 1 : m2 + 1], u[i, 2:])
        ri, di, ui = r[i], d[i], u[i]
        for j in range(1, m2 + 1):
            ri[j] = t[j - 1] - di[j] * ui[j]
    wrap(r, per0, per1)


@jit
def restrict(level, coarse):
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
def prolong(level, coarse, per0, per1):
    """``u += P e``."""
    m1, m2 = level.shape[1] - 2, level.shape[2] - 2
    c1, c2 = coarse.shape[1] - 2, coarse.shape[2] - 2
    u, e = level[U], coarse[U]
    hw, he, vn, vs = coarse[HW], coarse[HE], coarse[VN], coarse[VS]
    nw, ne, sw, se = coarse[CNW], coarse[CNE], coarse[CSW], coarse[CSE]
    wrap(e, per0, per1)
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
def coarse_cycle(buffer, table, first, inverse, t, per0, per1):
    """V(1,1) cycle on the 9-point levels from `first` down, right-hand side in its field B."""
    last = table.shape[0] - 1
    for k in range(first, last):
        level, coarse = level_of(buffer, table, k), level_of(buffer, table, k + 1)
        gs_forward(level, t)
        residual(level, t, per0, per1)
        restrict(level, coarse)
    level = level_of(buffer, table, last)
    m1, m2 = table[last, 0], table[last, 1]
    for i in range(m1):
        for j in range(m2):
            v = np.float32(0.0)
            row = inverse[i * m2 + j]
            for k in range(m1):
                for l in range(m2):
                    v += row[k * m2 + l] * level[B, k + 1, l + 1]
            level[U, i + 1, j + 1] = v
    for k in range(last - 1, first - 1, -1):
        level, coarse = level_of(buffer, table, k), level_of(buffer, table, k + 1)
        prolong(level, coarse, per0, per1)
        gs_backward(level, t, per0, per1)


# -- the finest level, two colors apart ------------------------------------------------------------
# Red points of padded row i have columns j = 2 q + i % 2, black ones j = 2 q + 1 - i % 2.


@jit
def wrap_split(x, m1, m2, red, per0, per1):
    """Ghosts of one color; even numbers of points, so each ghost has the color of its source."""
    if per0:
        for q in range(x.shape[1]):
            x[0, q] = x[m1, q]
            x[m1 + 1, q] = x[1, q]
    if per1:
        half = m2 // 2
        for i in range(m1 + 2):
            if (i % 2 == 0) == red:
                x[i, 0] = x[i, half]
            else:
                x[i, half] = x[i, 0]


@jit
def relax(out, t, b, d):
    for q in range(t.shape[0]):
        out[q] = (t[q] + b[q]) * d[q]


@jit
def red_row(fine, t, i, m2, residual):
    """Relax the red points of a row, or take their residual after a red-black sweep from zero."""
    x, p = fine[BU], i % 2
    lo, hi = 1 - p, (m2 - p) // 2 + 1
    n, w, e = hi - lo, lo - 1 + p, lo + p
    v = fine[RR, i, lo:hi] if residual else t[:n]
    sum4(v, fine[RN, i, lo:hi], x[i - 1, lo:hi], fine[RS, i, lo:hi], x[i + 1, lo:hi])
    add2(v, fine[RW, i, lo:hi], x[i, w : w + n], fine[RE, i, lo:hi], x[i, e : e + n])
    if not residual:
        relax(fine[RU, i, lo:hi], v, fine[RB, i, lo:hi], fine[RD, i, lo:hi])


@jit
def black_row(fine, t, i, m2):
    x, p = fine[RU], i % 2
    lo, hi = p, (m2 - 1 + p) // 2 + 1
    n, w, e = hi - lo, lo - p, lo - p + 1
    v = t[:n]
    sum4(v, fine[RS, i - 1, lo:hi], x[i - 1, lo:hi], fine[RN, i + 1, lo:hi], x[i + 1, lo:hi])
    add2(v, fine[RE, i, w : w + n], x[i, w : w + n], fine[RW, i, e : e + n], x[i, e : e + n])
    relax(fine[BU, i, lo:hi], v, fine[BB, i, lo:hi], fine[BD, i, lo:hi])


@jit
def first_row(fine, i, m2):
    """Relax the red points of a row from zero."""
    for q in range(1 - i % 2, (m2 - i % 2) // 2 + 1):
        fine[RU, i, q] = fine[RB, i, q] * fine[RD, i, q]


@jit
def correct_row(fine, coarse, i, m2):
    """Add the coarse correction to the red points of a row."""
    u, e, I = fine[RU, i], coarse[U], i // 2
    if i % 2 == 0:
        for J in range(1, coarse.shape[2] - 1):
            u[J] += e[I, J]
    else:
        nw, ne, sw, se = coarse[CNW, I], coarse[CNE, I], coarse[CSW, I], coarse[CSE, I]
        up, down = e[I], e[I + 1]
        for J in range((m2 + 1) // 2):
            v = nw[J] * up[J] + ne[J] * up[J + 1]
            u[J] += v + sw[J] * down[J] + se[J] * down[J + 1]


@jit
def split_cycle(fine, buffer, table, inverse, t, per0, per1):
    """V-cycle from the split level down.

    Without periodic sides the three passes of each half run as one wave over the rows, which
    reads the conductances from memory once instead of twice.
    """
    m1, m2 = table[0, 0], table[0, 1]
    coarse = level_of(buffer, table, 1)
    if per0 or per1:
        for i in range(1, m1 + 1):
            first_row(fine, i, m2)
        wrap_split(fine[RU], m1, m2, True, per0, per1)
        for i in range(1, m1 + 1):
            black_row(fine, t, i, m2)
        wrap_split(fine[BU], m1, m2, False, per0, per1)
        for i in range(1, m1 + 1):
            red_row(fine, t, i, m2, True)
        wrap_split(fine[RR], m1, m2, True, per0, per1)
    else:
        for i in range(1, m1 + 3):
            if i <= m1:
                first_row(fine, i, m2)
            if 2 <= i <= m1 + 1:
                black_row(fine, t, i - 1, m2)
            if i >= 3:
                red_row(fine, t, i - 2, m2, True)
    restrict_red(fine[RR], coarse)
    coarse_cycle(buffer, table, 1, inverse, t, per0, per1)
    wrap(coarse[U], per0, per1)
    if per0 or per1:
        for i in range(1, m1 + 1):
            correct_row(fine, coarse, i, m2)
        wrap_split(fine[RU], m1, m2, True, per0, per1)
        for i in range(1, m1 + 1):
            black_row(fine, t, i, m2)
        wrap_split(fine[BU], m1, m2, False, per0, per1)
        for i in range(1, m1 + 1):
            red_row(fine, t, i, m2, False)
    else:
        for i in range(1, m1 + 3):
            if i <= m1:
                correct_row(fine, coarse, i, m2)
            if 2 <= i <= m1 + 1:
                black_row(fine, t, i - 1, m2)
            if i >= 3:
                red_row(fine, t, i - 2, m2, False)


@jit
def restrict_red(r, coarse):
    """Coarse right-hand side from the residual on red points; it is zero on black ones."""
    b = coarse[B]
    nw, ne, sw, se = coarse[CNW], coarse[CNE], coarse[CSW], coarse[CSE]
    for I in range(1, coarse.shape[1] - 1):
        up, mid, down = r[2 * I - 1], r[2 * I], r[2 * I + 1]
        for J in range(1, coarse.shape[2] - 1):
            v = mid[J] + se[I - 1, J - 1] * up[J - 1] + sw[I - 1, J] * up[J]
            b[I, J] = v + ne[I, J - 1] * down[J - 1] + nw[I, J] * down[J]


# -- conjugate gradients, float64 ------------------------------------------------------------------
# Vectors are flat and padded: (2, m1 + 2, width) red and black when split, else (m1 + 2, m2 + 2).
# Ghosts of r and q are zero, so sums need no care.


@jit
def flux(out, v, a, x, b, y):
    for k in range(v.shape[0]):
        out[k] = a[k] * (v[k] - x[k]) + b[k] * (v[k] - y[k])


@jit
def add_flux(out, v, a, x, b, y):
    for k in range(v.shape[0]):
        out[k] += a[k] * (v[k] - x[k]) + b[k] * (v[k] - y[k])


@jit
def dot(x, y):
    s = 0.0
    for k in range(x.shape[0]):
        s += x[k] * y[k]
    return s


@jit
def true_residual(K, b, x, r, m1, m2, split, has_c, per0, per1):
    """``r = b - A x``; returns its norm."""
    apply(K, x, r, m1, m2, split, has_c, per0, per1)
    norm = 0.0
    for k in range(b.shape[0]):
        r[k] = b[k] - r[k]
        norm += r[k] * r[k]
    return np.sqrt(norm)


@jit
def apply(K, p_flat, q_flat, m1, m2, split, has_c, per0, per1):
    """``q = A p`` as a sum of fluxes; returns ``<p, q>``.

    `K` holds the conductances to the north, south, west and east of the red points (of all points
    if not split), then the reaction (of red, of black).
    """
    pq = 0.0
    if split:
        p, q = p_flat.reshape(2, m1 + 2, K.shape[2]), q_flat.reshape(2, m1 + 2, K.shape[2])
        r, b = p[0], p[1]
        wrap_split(r, m1, m2, True, per0, per1)
        wrap_split(b, m1, m2, False, per0, per1)
        for i in range(1, m1 + 1):
            s = i % 2
            lo, hi = 1 - s, (m2 - s) // 2 + 1
            n = hi - lo
            w, e = lo - 1 + s, lo + s
            v, o = r[i, lo:hi], q[0, i, lo:hi]
            flux(o, v, K[0, i, lo:hi], b[i - 1, lo:hi], K[1, i, lo:hi], b[i + 1, lo:hi])
            add_flux(o, v, K[2, i, lo:hi], b[i, w : w + n], K[3, i, lo:hi], b[i, e : e + n])
            if has_c:
                add1(o, K[4, i, lo:hi], v)
            pq += dot(v, o)
            lo, hi = s, (m2 - 1 + s) // 2 + 1
            n = hi - lo
            w, e = lo - s, lo - s + 1
            v, o = b[i, lo:hi], q[1, i, lo:hi]
            flux(o, v, K[1, i - 1, lo:hi], r[i - 1, lo:hi], K[0, i + 1, lo:hi], r[i + 1, lo:hi])
            add_flux(o, v, K[3, i, w : w + n], r[i, w : w + n], K[2, i, e : e + n], r[i, e : e + n])
            if has_c:
                add1(o, K[5, i, lo:hi], v)
            pq += dot(v, o)
    else:
        p2, q2 = p_flat.reshape(m1 + 2, m2 + 2), q_flat.reshape(m1 + 2, m2 + 2)
        wrap(p2, per0, per1)
        h = m2 + 1
        for i in range(1, m1 + 1):
            v, o = p2[i, 1:h], q2[i, 1:h]
            flux(o, v, K[0, i, 1:h], p2[i - 1, 1:h], K[1, i, 1:h], p2[i + 1, 1:h])
            add_flux(o, v, K[2, i, 1:h], p2[i, :m2], K[3, i, 1:h], p2[i, 2:])
            if has_c:
                add1(o, K[4, i, 1:h], v)
            pq += dot(v, o)
    return pq


@jit
def cg(K, b, x, m1, m2, has_c, per0, per1, fine, buffer, table, inverse, split, tol, maxiter):
    """Flexible CG on flat vectors; `b` has norm 1.

    Returns the history of residual norms, the last one recomputed.

    A constant that the preconditioner adds in a singular problem changes neither `r` nor the
    inner products, because `r` sums to zero.
    """
    n = b.shape[0]
    history = np.empty(maxiter + 1)
    r, p, q = np.zeros(n), np.zeros(n), np.zeros(n)
    t = np.empty(m2 + 2, dtype=np.float32)
    if split:
        rhs, z = fine[RB : BB + 1].reshape(n), fine[RU : BU + 1].reshape(n)
    else:
        level = level_of(buffer, table, 0)
        rhs, z = level[B].reshape(n), level[U].reshape(n)
    history[0] = true_residual(K, b, x, r, m1, m2, split, has_c, per0, per1)
    for k in range(n):
        rhs[k] = r[k]
    rz_old, alpha, done = 1.0, 0.0, 0
    while done < maxiter and history[done] > tol:
        if split:
            split_cycle(fine, buffer, table, inverse, t, per0, per1)
        else:
            coarse_cycle(buffer, table, 0, inverse, t, per0, per1)
        rz, qz = 0.0, 0.0
        for k in range(n):
            rz += r[k] * z[k]
            qz += q[k] * z[k]
        beta = -alpha * qz / rz_old  # = <z, r - r_old> / <z_old, r_old>
        for k in range(n):
            pk = p[k]
            x[k] += alpha * pk
            p[k] = z[k] + beta * pk
        pq = apply(K, p, q, m1, m2, split, has_c, per0, per1)
        if not (pq > 0.0 and rz > 0.0):
            alpha = 0.0
            break
        alpha = rz / pq
        norm = 0.0
        for k in range(n):
            v = r[k] - alpha * q[k]
            r[k] = v
            rhs[k] = v
            norm += v * v
        rz_old = rz
        done += 1
        history[done] = np.sqrt(norm)
    for k in range(n):
        x[k] += alpha * p[k]
    history[done] = true_residual(K, b, x, r, m1, m2, split, has_c, per0, per1)
    return history[: done + 1]


@jit
def pack(x, split):
    """Natural order to the flat padded layout of `cg`."""
    m1, m2 = x.shape
    if split:
        out = np.zeros((2, m1 + 2, (m2 + 1) // 2 + 1))
        for i in range(1, m1 + 1):
            for j in range(1, m2 + 1):
                out[(i + j) % 2, i, j // 2] = x[i - 1, j - 1]
        return out.reshape(out.size)
    out2 = np.zeros((m1 + 2, m2 + 2))
    for i in range(1, m1 + 1):
        for j in range(1, m2 + 1):
            out2[i, j] = x[i - 1, j - 1]
    return out2.reshape(out2.size)


@jit
def unpack(flat, m1, m2, split):
    x = np.empty((m1, m2))
    if split:
        y = flat.reshape(2, m1 + 2, (m2 + 1) // 2 + 1)
        for i in range(1, m1 + 1):
            for j in range(1, m2 + 1):
                x[i - 1, j - 1] = y[(i + j) % 2, i, j // 2]
    else:
        z = flat.reshape(m1 + 2, m2 + 2)
        for i in range(m1):
            for j in range(m2):
                x[i, j] = z[i + 1, j + 1]
    return x
