"""DOP853 with step control, compiled once for every right-hand side (numba)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from scipy.integrate import DOP853

__all__ = ["RHS_SIGNATURE", "integrate"]

_V = types.float64[::1]
RHS_SIGNATURE = types.void(types.float64, _V, _V, _V)

# Hairer's tableau (scipy keeps it as attributes of its public class)
_STAGES = int(DOP853.n_stages)
_A = np.ascontiguousarray(DOP853.A[:_STAGES, :_STAGES])
_B = np.ascontiguousarray(DOP853.B)
_C = np.ascontiguousarray(DOP853.C[:_STAGES])
_E3, _E5 = np.ascontiguousarray(DOP853.E3), np.ascontiguousarray(DOP853.E5)


@numba.njit(cache=True)
def _norm(v: np.ndarray, scale: np.ndarray) -> float:
    total = 0.0
    for i in range(v.size):
        total += (v[i] / scale[i]) ** 2
    return np.sqrt(total / v.size)


@numba.njit(
    types.Tuple((types.int64, types.int64, types.float64))(
        types.FunctionType(RHS_SIGNATURE), _V, _V, _V, types.float64, types.float64,
        types.int64, types.int64, types.float64[:, ::1],
    ),
    cache=True,
)  # fmt: skip
def integrate(
    rhs: Any,
    x0: np.ndarray,
    times: np.ndarray,
    p: np.ndarray,
    rtol: float,
    atol: float,
    max_steps: int,
    fixed: int,
    out: np.ndarray,
) -> tuple[int, int, float]:
    """Integrate and write the states at `times` into `out`.

    The steps end on the times, so nothing is interpolated. `fixed` > 0: that many equal steps
    between two times. Returns steps, status (0 done, 1 not finite, 2 step vanished, 3 too many)
    and the time reached.
    """
    d = x0.size
    k = np.zeros((_STAGES + 1, d))
    x, y, scale = x0.copy(), np.empty(d), np.empty(d)
    e3, e5, work = np.empty(d), np.empty(d), np.empty(d)
    t = times[0]
    out[0] = x
    rhs(t, x, p, k[0])
    for i in range(d):
        scale[i] = atol + rtol * abs(x[i])
        if not np.isfinite(k[0, i]):
            return 0, 1, t

    # first step: Hairer, Norsett, Wanner I, section II.4
    d0, d1 = _norm(x, scale), _norm(k[0], scale)
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, times[-1] - t)
    for i in range(d):
        y[i] = x[i] + h0 * k[0, i]
    rhs(t + h0, y, p, work)
    for i in range(d):
        work[i] -= k[0, i]
    d2 = max(d1, _norm(work, scale) / h0)
    h = max(1e-6, h0 * 1e-3) if d2 <= 1e-15 else (0.01 / d2) ** 0.125
    h = min(100 * h0, h)

    n = 0
    for j in range(1, times.size):
        end = times[j]
        step_fixed = (end - times[j - 1]) / max(fixed, 1)
        made = 0
        rejected = False
        while t < end:
            if n >= max_steps:
                return n, 3, t
            n += 1
            if fixed > 0:
                made += 1
                last = made == fixed
                step = end - t if last else step_fixed
            else:
                last = t + 1.000001 * h >= end
                step = end - t if last else h
                if step < 4e-16 * abs(t) or step < 1e-300:
                    return n, 2, t
            for s in range(1, _STAGES):
                for i in range(d):
                    total = 0.0
                    for m in range(s):
                        total += _A[s, m] * k[m, i]
                    y[i] = x[i] + step * total
                rhs(t + _C[s] * step, y, p, k[s])
            for i in range(d):
                total = 0.0
                for m in range(_STAGES):
                    total += _B[m] * k[m, i]
                y[i] = x[i] + step * total
            rhs(t + step, y, p, k[_STAGES])
            bad = False
            for i in range(d):
                if not (np.isfinite(y[i]) and np.isfinite(k[_STAGES, i])):
                    bad = True
            if fixed > 0:
                if bad:
                    return n, 1, t
            elif bad:
                h = 0.1 * step
                rejected = True
                continue
            else:
                for i in range(d):
                    scale[i] = atol + rtol * max(abs(x[i]), abs(y[i]))
                    e3[i] = 0.0
                    e5[i] = 0.0
                    for m in range(_STAGES + 1):
                        e3[i] += _E3[m] * k[m, i]
                        e5[i] += _E5[m] * k[m, i]
                s5, s3 = _norm(e5, scale) ** 2, _norm(e3, scale) ** 2
                error = 0.0 if s5 == 0.0 else abs(step) * s5 / np.sqrt(s5 + 0.01 * s3)
                if not error < 1.0:
                    h = step * (max(0.2, 0.9 * error**-0.125) if np.isfinite(error) else 0.1)
                    rejected = True
                    continue
                factor = 10.0 if error == 0.0 else min(10.0, 0.9 * error**-0.125)
                if rejected:
                    factor = min(1.0, factor)
                rejected = False
                # a step cut short at a stored time must not shrink the next one
                h = max(h, step * factor) if last else step * factor
            t = end if last else t + step
            x[:] = y
            k[0] = k[_STAGES]
        out[j] = x
    return n, 0, t
