"""Physical checks of imported samples, by what the equation says and not by the file's solver.

Each returns why a sample cannot be right, ``""`` if it can.
"""

from __future__ import annotations

import numpy as np

from solvers.grids import Grid

__all__ = ["advection", "burgers", "darcy", "logistic", "mass"]


def advection(u: np.ndarray, t: np.ndarray, grid: Grid, speed: float) -> str:
    """``u(x, t) = u0(x - speed t)`` on a periodic axis, shapes (T, X); speeds off by 2 % show.

    The shift is exact in Fourier space. Sharp fronts that a finite-volume code smears are
    forgiven, a wrong speed is not.
    """
    (n,) = grid.shape
    length = grid.bounds[0][1] - grid.bounds[0][0]
    k = 2 * np.pi / length * np.arange(n // 2 + 1)
    hat = np.fft.rfft(u, axis=1)
    exact = hat[0] * np.exp(-1j * k * speed * (t - t[0])[:, None])
    exact[:, 0] = hat[:, 0]
    moving = np.linalg.norm(hat[0, 1:])
    if moving == 0:
        return ""
    error = float(np.linalg.norm((hat - exact)[:, 1:], axis=1).max() / moving)
    if error <= 0.1:
        return ""
    found = _speed(hat, t, k)
    if abs(found - speed) > 0.02 * abs(speed) or error > 0.5:
        return (
            f"u is not u0(x - beta t): relative error {error:.2f} with beta={speed:g}, the data "
            f"moves with {found:.3g}."
        )
    return ""


def _speed(hat: np.ndarray, t: np.ndarray, k: np.ndarray) -> float:
    """Speed at which the phase of the strongest long wave turns."""
    longest = slice(1, max(2, min(5, len(k))))
    m = 1 + int(np.argmax(np.abs(hat[0, longest])))
    phase = np.unwrap(np.angle(hat[:, m]))
    tau = t - t[0]
    return float(-(tau @ (phase - phase[0])) / (k[m] * (tau @ tau)))


def burgers(u: np.ndarray) -> str:
    """Mean conserved and maximum principle, shape (T, X), periodic."""
    size = float(np.abs(u[0]).max())
    drift = float(np.abs(u.mean(axis=1) - u[0].mean()).max())
    if drift > 0.01 * size:
        return f"the mean of u drifts by {drift:.3g}, which Burgers' equation conserves."
    excess = max(float(u.max() - u[0].max()), float(u[0].min() - u.min()))
    if excess > 0.02 * size:
        return f"u leaves the range of u0 by {excess:.3g}, against the maximum principle."
    return ""


def logistic(u: np.ndarray, t: np.ndarray, rate: float) -> str:
    """``d/dt mean(u) = rate mean(u (1 - u))``, periodic: catches a wrong limit or rate."""
    gain = rate * (u * (1 - u)).mean(axis=tuple(range(1, u.ndim)))
    total = np.concatenate([[0.0], np.cumsum(0.5 * (gain[1:] + gain[:-1]) * np.diff(t))])
    mean = u.mean(axis=tuple(range(1, u.ndim)))
    gap = float(np.abs(mean - mean[0] - total).max())
    size = max(float(np.ptp(mean)), float(np.abs(total).max()), 1e-3)
    if gap > 0.05 * size:
        return f"the mean of u does not grow as rho u (1 - u) says: off by {gap:.3g} of {size:.3g}."
    return ""


def mass(density: np.ndarray) -> str:
    """Mass is conserved, shape (T, *space), periodic or closed."""
    total = density.reshape(len(density), -1).mean(axis=1)
    drift = float(np.abs(total - total[0]).max())
    if drift > 0.01 * abs(float(total[0])):
        return f"the mass drifts by {drift / abs(total[0]):.1%}."
    return ""


def darcy(a: np.ndarray, u: np.ndarray, grid: Grid, forcing: float) -> str:
    """``-div(a grad u) = forcing``, zero on the walls: compared with opkit's own solution."""
    from solvers.diffusion import solve_diffusion

    if float(a.min()) <= 0:
        return f"the coefficient has minimum {a.min():.3g}, it must be positive."
    low = float(u.min())
    if forcing > 0 and low < -1e-3 * float(np.abs(u).max()):
        return f"u has minimum {low:.3g}; a positive source with u = 0 on the walls forbids it."
    own = solve_diffusion(a, forcing, grid, solver="pyamg").x
    error = grid.norm(u - own) / grid.norm(own)
    if error > 0.1:
        return f"u is {error:.0%} away from opkit's solution for the same a and forcing."
    return ""
