"""Compiled kernels of the shallow-water solver: ghosts, fluxes with hydrostatic reconstruction."""

import numpy as np
from numba import njit
from numpy import ndarray as Array

WALL, OUTFLOW, PERIODIC = 0, 1, 2
#: Below this depth velocities are zero.
DRY = 1e-12


@njit(cache=True, error_model="numpy")
def ghosts(q: Array, bed: Array, kinds: Array) -> None:
    """Fill two layers of ghost cells; `q` is (h, hu, hv), `kinds` per axis and side."""
    n, m = bed.shape[0] - 4, bed.shape[1] - 4
    for g in range(2):
        for j in range(m + 4):
            for side in range(2):
                k = kinds[0, side]
                ghost = 1 - g if side == 0 else n + 2 + g
                if k == PERIODIC:
                    src = n + 1 - g if side == 0 else 2 + g
                elif k == WALL:
                    src = 2 + g if side == 0 else n + 1 - g
                else:
                    src = 2 if side == 0 else n + 1
                sign = -1.0 if k == WALL else 1.0
                q[0, ghost, j] = q[0, src, j]
                q[1, ghost, j] = sign * q[1, src, j]
                q[2, ghost, j] = q[2, src, j]
                bed[ghost, j] = bed[src, j]
    for g in range(2):
        for i in range(n + 4):
            for side in range(2):
                k = kinds[1, side]
                ghost = 1 - g if side == 0 else m + 2 + g
                if k == PERIODIC:
                    src = m + 1 - g if side == 0 else 2 + g
                elif k == WALL:
                    src = 2 + g if side == 0 else m + 1 - g
                else:
                    src = 2 if side == 0 else m + 1
                sign = -1.0 if k == WALL else 1.0
                q[0, i, ghost] = q[0, i, src]
                q[1, i, ghost] = q[1, i, src]
                q[2, i, ghost] = sign * q[2, i, src]
                bed[i, ghost] = bed[i, src]


@njit(cache=True, inline="always", error_model="numpy")
def limited(a: float, b: float, c: float) -> float:
    """Slope of the monotonized central limiter (van Leer), per cell."""
    left, right = b - a, c - b
    if left * right <= 0.0:
        return 0.0
    s = 0.5 * (left + right)
    cap = 2.0 * min(abs(left), abs(right))
    return s if abs(s) < cap else (cap if s > 0 else -cap)


@njit(cache=True, error_model="numpy")
def hllc(
    hl: float, ul: float, vl: float, hr: float, ur: float, vr: float, g: float
) -> tuple[float, float, float]:
    """Flux of depth, normal and transverse momentum."""
    if hl <= DRY and hr <= DRY:
        return 0.0, 0.0, 0.0
    cl, cr = np.sqrt(g * hl), np.sqrt(g * hr)
    if hl <= DRY:
        sl, sr = ur - 2.0 * cr, ur + cr
    elif hr <= DRY:
        sl, sr = ul - cl, ul + 2.0 * cl
    else:
        hs = 0.5 * (cl + cr) + 0.25 * (ul - ur)
        us = 0.5 * (ul + ur) + cl - cr
        cs = abs(hs)
        sl, sr = min(ul - cl, us - cs), max(ur + cr, us + cs)
    fl0, fl1 = hl * ul, hl * ul * ul + 0.5 * g * hl * hl
    fr0, fr1 = hr * ur, hr * ur * ur + 0.5 * g * hr * hr
    if sl >= 0.0:
        return fl0, fl1, fl0 * vl
    if sr <= 0.0:
        return fr0, fr1, fr0 * vr
    f0 = (sr * fl0 - sl * fr0 + sl * sr * (hr - hl)) / (sr - sl)
    f1 = (sr * fl1 - sl * fr1 + sl * sr * (fr0 - fl0)) / (sr - sl)
    return f0, f1, f0 * (vl if f0 >= 0.0 else vr)


@njit(cache=True, error_model="numpy")
def line(
    q: Array, bed: Array, normal: int, across: int, n: int, dx: float, g: float, out: Array,
    eta: Array, h: Array, u: Array, v: Array, z: Array, sh: Array, se: Array, su: Array, sv: Array,
) -> None:  # fmt: skip
    """Add the flux differences of one row of cells, `n` of them between two ghosts a side.

    `normal` and `across` are the components of momentum along the row and across it.
    """
    for i in range(n + 4):
        h[i], z[i] = q[0, i], bed[i]
        wet = h[i] > DRY
        u[i] = q[normal, i] / h[i] if wet else 0.0
        v[i] = q[across, i] / h[i] if wet else 0.0
        eta[i] = h[i] + z[i]
    for i in range(1, n + 3):
        sh[i] = limited(h[i - 1], h[i], h[i + 1])
        se[i] = limited(eta[i - 1], eta[i], eta[i + 1])
        su[i] = limited(u[i - 1], u[i], u[i + 1])
        sv[i] = limited(v[i - 1], v[i], v[i + 1])
    for i in range(1, n + 2):  # the face between cells i and i + 1
        hl, hr = h[i] + 0.5 * sh[i], h[i + 1] - 0.5 * sh[i + 1]
        zl = eta[i] + 0.5 * se[i] - hl
        zr = eta[i + 1] - 0.5 * se[i + 1] - hr
        top = max(zl, zr)
        hls, hrs = max(0.0, hl + zl - top), max(0.0, hr + zr - top)
        f0, f1, f2 = hllc(
            hls, u[i] + 0.5 * su[i], v[i] + 0.5 * sv[i],
            hrs, u[i + 1] - 0.5 * su[i + 1], v[i + 1] - 0.5 * sv[i + 1], g,
        )  # fmt: skip
        out[0, i] -= f0 / dx
        out[normal, i] -= (f1 + 0.5 * g * (hl * hl - hls * hls)) / dx
        out[across, i] -= f2 / dx
        out[0, i + 1] += f0 / dx
        out[normal, i + 1] += (f1 + 0.5 * g * (hr * hr - hrs * hrs)) / dx
        out[across, i + 1] += f2 / dx
    for i in range(2, n + 2):  # slope of the bed within the cell
        rise = se[i] - sh[i]
        out[normal, i] -= g * h[i] * rise / dx


@njit(cache=True, error_model="numpy")
def rates(
    q: Array, bed: Array, kinds: Array, dx: float, dy: float, g: float, out: Array, buffers: Array
) -> float:  # fmt: skip
    """Time derivatives of the cell averages; returns the largest ``|speed| / width``, summed."""
    n, m = bed.shape[0] - 4, bed.shape[1] - 4
    ghosts(q, bed, kinds)
    out[:] = 0.0
    e, h, u, v, z, sh, se, su, sv = buffers
    for j in range(2, m + 2):
        line(q[:, :, j], bed[:, j], 1, 2, n, dx, g, out[:, :, j], e, h, u, v, z, sh, se, su, sv)
    if m > 1:
        for i in range(2, n + 2):
            line(q[:, i], bed[i], 2, 1, m, dy, g, out[:, i], e, h, u, v, z, sh, se, su, sv)
    fastest = 0.0
    for i in range(2, n + 2):
        for j in range(2, m + 2):
            d = q[0, i, j]
            if d > DRY:
                c = np.sqrt(g * d)
                s = (abs(q[1, i, j] / d) + c) / dx
                if m > 1:
                    s += (abs(q[2, i, j] / d) + c) / dy
                fastest = max(fastest, s)
    return fastest


@njit(cache=True, error_model="numpy")
def advance(
    q: Array, bed: Array, kinds: Array, dx: float, dy: float, g: float, gap: float, courant: float,
    max_steps: int, buffers: Array,
) -> int:  # fmt: skip
    """Advance by `gap` with SSP-RK3; returns the number of steps, negative if it failed."""
    a, b, r = np.empty_like(q), np.empty_like(q), np.empty_like(q)
    t, steps = 0.0, 0
    while t < gap * (1 - 1e-14):
        fastest = rates(q, bed, kinds, dx, dy, g, r, buffers)
        if not np.isfinite(fastest) or steps >= max_steps:
            return -steps - 1
        dt = gap - t
        if fastest > 0.0:
            left = np.ceil((gap - t) * fastest / courant - 1e-9)
            dt = (gap - t) / max(left, 1.0)
        a[:] = q + dt * r
        rates(a, bed, kinds, dx, dy, g, r, buffers)
        b[:] = 0.75 * q + 0.25 * (a + dt * r)
        rates(b, bed, kinds, dx, dy, g, r, buffers)
        q[:] = q / 3.0 + (2.0 / 3.0) * (b + dt * r)
        t += dt
        steps += 1
    return steps
