"""Compiled direct solution of tridiagonal and cyclic tridiagonal systems, float64."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
from __future__ import annotations

import numpy as np

from ._boxmg_setup import jit


@jit
def factor(k, c, has_c, cyclic, singular):
    """Factor ``L D L^T`` of the conductances `k` (n + 1,) and reaction `c`.

    Returns the inverse pivots, and what the last unknown, which a cyclic or singular system sets
    apart, does to the others, ``z`` (n,); ``z[n - 1]`` is the inverse of its own pivot, 0 if it is
    pinned.
    """
    n = c.shape[0]
    apart = cyclic or singular
    m = n - 1 if apart else n
    pivot, z = np.zeros(n), np.zeros(n)
    previous = 0.0
    for i in range(m):
        d = k[i] + k[i + 1] + (c[i] if has_c else 0.0)
        if i > 0:
            d -= k[i] * k[i] * previous
        previous = 1.0 / d
        pivot[i] = previous
    if apart:
        # The last unknown couples to the one before and, if cyclic, to the first
        column = np.zeros(n)
        if m > 0:
            column[m - 1] += k[m]
            if cyclic:
                column[0] += k[n]
            solve_pivots(k, pivot, column, z, m)
        own = k[n - 1] + k[n] + (c[n - 1] if has_c else 0.0)
        if m > 0:
            own -= k[m] * z[m - 1]
            if cyclic:
                own -= k[n] * z[0]
        z[n - 1] = 0.0 if singular else 1.0 / own
    return pivot, z


@jit
def solve_pivots(k, pivot, b, x, m):
    """Solve for the first `m` unknowns."""
    previous = 0.0
    for i in range(m):
        previous = b[i] + (k[i] * pivot[i - 1] * previous if i > 0 else 0.0)
        x[i] = previous
    previous = 0.0
    for i in range(m - 1, -1, -1):
        previous = x[i] * pivot[i] + (k[i + 1] * pivot[i] * previous if i < m - 1 else 0.0)
        x[i] = previous


@jit
def solve(k, pivot, z, b, cyclic, singular):
    """Solve with what `factor` left."""
    n = b.shape[0]
    x = np.zeros(n)
    if not (cyclic or singular):
        solve_pivots(k, pivot, b, x, n)
        return x
    m = n - 1
    solve_pivots(k, pivot, b, x, m)
    last = 0.0
    if not singular:
        last = b[m]
        if m > 0:
            last += k[m] * x[m - 1]
            if cyclic:
                last += k[n] * x[0]
        last *= z[m]
        for i in range(m):
            x[i] += last * z[i]
    x[m] = last
    return x
