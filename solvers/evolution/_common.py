"""What the time steppers share: checks of arguments, and errors between two runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..grids import Grid

__all__ = ["check_state", "check_times", "relative_change"]


def check_times(times: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the stored times as float64; uniform ones exactly uniform.

    Raises
    ------
    ValueError
        Fewer than two, not finite, or not increasing.
    """
    t = np.asarray(times, np.float64)
    if t.ndim != 1 or t.size < 2 or not np.isfinite(t).all() or not (np.diff(t) > 0).all():
        raise ValueError(f"times={times}: need two or more increasing finite numbers")
    return t


def step_gaps(times: np.ndarray) -> np.ndarray:
    """Gaps between stored times; equal ones are freed of rounding, so that steps repeat."""
    gaps = np.diff(times)
    mean = gaps.mean()
    if np.abs(gaps - mean).max() < 1e-9 * mean:
        return np.full_like(gaps, mean)
    return gaps


def check_state(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `value` as a float64 array of exactly `shape`.

    Raises
    ------
    ValueError
        A wrong shape, NaN or infinity.
    """
    array = np.asarray(value, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array


def check_positive(name: str, value: float) -> float:
    """Return a positive finite number.

    Raises
    ------
    ValueError
    """
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value}: need a positive number")
    return float(value)


def relative_change(x: np.ndarray, y: np.ndarray, grid: Grid, times: np.ndarray) -> float:
    """Relative L2 distance in space and time of two runs, the worst over the components.

    Parameters
    ----------
    x, y : ndarray, shape (T, *grid.shape) or (T, C, *grid.shape)
    grid : Grid
    times : ndarray, shape (T,)
    """
    gaps = np.diff(times)
    w_time = 0.5 * (np.append(gaps, 0.0) + np.append(0.0, gaps))
    w = np.multiply.outer(w_time, grid.weights)
    if x.ndim == grid.dim + 1:
        x, y = x[:, None], y[:, None]
    worst = 0.0
    for c in range(x.shape[1]):
        num = float(np.sum(w * (x[:, c] - y[:, c]) ** 2))
        den = float(np.sum(w * y[:, c] ** 2))
        if num > 0:
            worst = max(worst, float(np.sqrt(num / den)) if den > 0 else np.inf)
        elif np.isnan(num):
            return float("nan")
    return worst
