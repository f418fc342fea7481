"""Errors of single samples, their summary, and energy spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from solvers.grids import Grid

__all__ = [
    "METRICS",
    "SPECTRUM_FLOOR",
    "energy_spectrum",
    "max_error",
    "relative_error",
    "spectrum_error",
    "summarize",
    "wave_numbers",
]

#: Name to one line, as ``opkit list metrics`` shows them.
METRICS: Mapping[str, str] = {
    "rel_l2": "L2 norm of the error over that of the truth",
    "rel_h1": "H1 norm (values and gradient) of the error over that of the truth",
    "max_error": "largest error over the largest absolute value of the truth",
    "spectrum_error": "mean over the scales of error amplitude over amplitude of the truth",
}
#: Shells with less than this fraction of the truth's energy are rounding, not signal.
SPECTRUM_FLOOR = 1e-10


def relative_error(
    prediction: np.ndarray,
    truth: np.ndarray,
    grid: Grid,
    *,
    kind: str = "l2",
    components: Sequence[int] | None = None,
    dirichlet: Sequence[Any] | None = None,
) -> np.ndarray:
    """Relative L2 or H1 error of each sample, in float64.

    Parameters
    ----------
    prediction, truth : ndarray, shape (batch, channel, *grid.shape)
        Physical units.
    grid : Grid
    kind : {"l2", "h1"}
    components, dirichlet
        As in `opkit.losses.RelativeError`.

    Returns
    -------
    ndarray, shape (batch,)
        Infinite or NaN where the truth is zero, NaN where the prediction is.
    """
    import torch

    from .losses import RelativeError

    norm = RelativeError(grid, kind=kind, components=components, dirichlet=dirichlet)  # type: ignore[arg-type]
    arrays = [torch.as_tensor(np.asarray(u, np.float64)) for u in (prediction, truth)]
    return norm.per_sample(*arrays).numpy()


def max_error(
    prediction: np.ndarray, truth: np.ndarray, *, components: Sequence[int] | None = None
) -> np.ndarray:
    """Largest error at a point, over the largest absolute value of the true field.

    The length of the vector is taken for vector fields, the largest ratio over the fields.

    Parameters
    ----------
    prediction, truth : ndarray, shape (batch, channel, *space)
    components : sequence of int, optional
        Channels of each field; default one field with all channels.

    Returns
    -------
    ndarray, shape (batch,), dimensionless
    """
    out = []
    for p, t in _fields(prediction, truth, components):
        error, size = (np.sqrt(np.sum(u**2, axis=1)).reshape(len(u), -1) for u in (p - t, t))
        with np.errstate(divide="ignore", invalid="ignore"):
            out.append(error.max(axis=1) / size.max(axis=1))
    return np.max(out, axis=0)


def wave_numbers(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Shells of wave numbers of a grid.

    Parameters
    ----------
    grid : Grid

    Returns
    -------
    k : ndarray, shape (shells,)
        Middle of each shell in cycles per unit of length: multiples of the coarsest axis'
        lowest wave number, 1/L on a periodic axis, 1/(2L) on another.
    shell : ndarray of int, shape grid.shape
        Shell of each mode of `energy_spectrum`'s transform: ``round(|k| / spacing)``.
    """
    per_axis = []
    for axis in grid.axes:
        length = axis.upper - axis.lower
        if axis.periodic:
            per_axis.append(np.abs(np.fft.fftfreq(axis.n, 1 / axis.n)) / length)
        else:
            per_axis.append(np.arange(axis.n) / (2 * length))
    step = max(k[1] for k in per_axis)
    squares = np.zeros(())
    for k in per_axis:
        squares = np.add.outer(squares, k**2)
    shell = np.rint(np.sqrt(squares) / step).astype(np.int64)
    return step * np.arange(int(shell.max()) + 1), shell


def energy_spectrum(u: np.ndarray, grid: Grid) -> np.ndarray:
    r"""Energy of a field in shells of the wave number.

    Periodic axes are transformed by FFT, others by cosines (DCT-I on nodes, DCT-II on cell
    centers), whose even continuation makes no jump at the ends. The spectrum adds up to the
    squared L2 norm :math:`\int u^2` by the grid's quadrature.

    Parameters
    ----------
    u : ndarray, shape (..., *grid.shape)
    grid : Grid

    Returns
    -------
    ndarray, shape (..., shells)
        Shells as in `wave_numbers`.
    """
    import scipy.fft

    if u.shape[u.ndim - grid.dim :] != grid.shape:
        raise ValueError(f"u has shape {u.shape}, expected (..., {grid.shape})")
    v: np.ndarray = np.asarray(u, np.float64) * np.sqrt(grid.weights)
    lead = u.ndim - grid.dim
    for d, axis in enumerate(grid.axes):
        if axis.periodic:
            continue
        kind = 1 if axis.location == "node" else 2
        v = scipy.fft.dct(v, type=kind, axis=lead + d, norm="ortho", orthogonalize=True)
    periodic = [lead + d for d, axis in enumerate(grid.axes) if axis.periodic]
    if periodic:
        v = scipy.fft.fftn(v, axes=periodic, norm="ortho")
    energy = np.abs(v).reshape(-1, int(np.prod(grid.shape))) ** 2
    k, shell = wave_numbers(grid)
    flat = shell.ravel()
    out = np.stack([np.bincount(flat, weights=e, minlength=len(k)) for e in energy])
    return out.reshape(*u.shape[:lead], len(k))


def spectrum_error(
    prediction: np.ndarray,
    truth: np.ndarray,
    grid: Grid,
    *,
    components: Sequence[int] | None = None,
) -> np.ndarray:
    r"""Error at all scales alike: mean over shells of :math:`\sqrt{E_{p-t}(k) / E_t(k)}`.

    0 is perfect; a scale that the prediction lacks counts 1. The relative L2 error hardly sees
    the small scales, which hold little energy; here each shell counts the same. Shells in which
    the truth has less than `SPECTRUM_FLOOR` of its energy are left out.

    Parameters
    ----------
    prediction, truth : ndarray, shape (batch, channel, *grid.shape)
    grid : Grid
    components : sequence of int, optional
        Channels of each field, whose errors are averaged; default one field.

    Returns
    -------
    ndarray, shape (batch,), dimensionless
    """
    out = []
    for p, t in _fields(prediction, truth, components):
        energy = energy_spectrum(t, grid).sum(axis=1)
        error = energy_spectrum(p - t, grid).sum(axis=1)
        used = energy > SPECTRUM_FLOOR * energy.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.sqrt(np.where(used, error / energy, 0.0)).sum(axis=1)
            mean = ratio / used.sum(axis=1)
        # a NaN must not vanish in an empty comparison
        out.append(np.where(np.isfinite(error).all(axis=1), mean, np.nan))
    return np.mean(out, axis=0)


def _fields(
    prediction: np.ndarray, truth: np.ndarray, components: Sequence[int] | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prediction and truth of each field, float64."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}")
    sizes = [truth.shape[1]] if components is None else list(components)
    if sum(sizes) != truth.shape[1]:
        raise ValueError(f"truth has {truth.shape[1]} channels, the fields {sum(sizes)}")
    cuts = np.cumsum(sizes)[:-1]
    p, t = (np.split(np.asarray(u, np.float64), cuts, axis=1) for u in (prediction, truth))
    return list(zip(p, t, strict=True))


def summarize(values: np.ndarray, ids: np.ndarray) -> dict[str, float | int]:
    """Mean, median, 95 % quantile, maximum, and the id of the worst sample.

    A value that is NaN makes all numbers NaN and its sample the worst: nothing is left out.

    Parameters
    ----------
    values, ids : ndarray, shape (n,)

    Raises
    ------
    ValueError
        No values, or another number of ids.
    """
    values, ids = np.asarray(values, np.float64), np.asarray(ids)
    if values.ndim != 1 or values.shape != ids.shape or not len(values):
        raise ValueError(f"values have shape {values.shape}, ids {ids.shape}: need (n,), n >= 1")
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "max": float(values.max()),
        "worst_id": int(ids[np.argmax(np.where(np.isnan(values), np.inf, values))]),
    }
