"""Linear observation operators with exact adjoints: blur, mask, random projections, Radon, sensors.

Each is a `scipy.sparse.linalg.LinearOperator` on flattened fields, so that ``A @ x``, ``A.T @ y``,
``A.H``, sums and products of operators work; `field_shape` and `data_shape` say what
the vectors are.

Examples
--------
>>> A = Blur((32, 32), gaussian_kernel(1.5))
>>> x = np.zeros((32, 32)); x[16, 16] = 1.0
>>> y = A.apply(x)
>>> y.shape, bool(abs(y.sum() - 1.0) < 1e-12)
((32, 32), True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from .grids import Grid
from .names import check_name

__all__ = [
    "Blur",
    "CosineSensing",
    "MatrixOperator",
    "adjoint_gap",
    "disk_kernel",
    "gaussian_kernel",
    "gaussian_sensing",
    "mask_operator",
    "motion_kernel",
    "point_sensors",
    "radon_operator",
    "ray_integrals",
]


class _FieldOperator(LinearOperator):
    """Operator between arrays of given shapes."""

    def __init__(self, field_shape: Sequence[int], data_shape: Sequence[int]) -> None:
        self.field_shape = tuple(int(n) for n in field_shape)
        self.data_shape = tuple(int(n) for n in data_shape)
        super().__init__(
            np.dtype(np.float64), (math.prod(self.data_shape), math.prod(self.field_shape))
        )

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return ``A x`` of a field, in the shape of the data."""
        if x.shape != self.field_shape:
            raise ValueError(f"x has shape {x.shape}, expected {self.field_shape}")
        return np.asarray(self.matvec(np.ravel(x))).reshape(self.data_shape)

    def adjoint_apply(self, y: np.ndarray) -> np.ndarray:
        """Return ``A^T y`` of data, in the shape of the field."""
        if y.shape != self.data_shape:
            raise ValueError(f"y has shape {y.shape}, expected {self.data_shape}")
        return np.asarray(self.rmatvec(np.ravel(y))).reshape(self.field_shape)


class MatrixOperator(_FieldOperator):
    """A matrix, dense or sparse, between fields and data.

    Parameters
    ----------
    matrix : ndarray or sparse array, shape (M, N)
    field_shape, data_shape : sequence of int
        With N and M entries.
    """

    def __init__(self, matrix: Any, field_shape: Sequence[int], data_shape: Sequence[int]) -> None:
        super().__init__(field_shape, data_shape)
        if tuple(matrix.shape) != self.shape:
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}, expected {self.shape}")
        self.matrix = matrix

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self.matrix @ np.ravel(x)

    def _rmatvec(self, y: np.ndarray) -> np.ndarray:
        return self.matrix.T @ np.ravel(y)


# -- blur ----------------------------------------------------------------------------------------


def _odd(size: int) -> int:
    if isinstance(size, bool) or size != int(size) or size < 1 or size % 2 == 0:
        raise ValueError(f"size={size}: need an odd integer >= 1")
    return int(size)


def gaussian_kernel(width: float, size: int | None = None, *, dim: int = 2) -> np.ndarray:
    """Gaussian ``exp(-|i|^2 / (2 width^2))``, sum 1.

    Parameters
    ----------
    width : float
        Standard deviation in pixels.
    size : int, optional
        Odd; default reaches 4 standard deviations.
    dim : int
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width={width}: need a positive number of pixels")
    n = _odd(2 * math.ceil(4 * width) + 1 if size is None else size)
    i = np.arange(n) - n // 2
    line = np.exp(-(i**2) / (2.0 * width**2))
    kernel = np.ones(())
    for _ in range(dim):
        kernel = np.multiply.outer(kernel, line)
    return kernel / kernel.sum()


def disk_kernel(radius: float) -> np.ndarray:
    """Defocus: a disk of `radius` pixels, the share of each pixel inside it, sum 1.

    The share is counted on 16 x 16 points in the pixel.
    """
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius={radius}: need a positive number of pixels")
    m = 16
    half = math.ceil(radius)
    fine = (np.arange((2 * half + 1) * m) + 0.5) / m - half - 0.5
    inside = (fine[:, None] ** 2 + fine**2 <= radius**2).astype(float)
    n = 2 * half + 1
    kernel = inside.reshape(n, m, n, m).mean(axis=(1, 3))
    return kernel / kernel.sum()


def motion_kernel(length: float, angle: float = 0.0) -> np.ndarray:
    """Motion blur: a line of `length` pixels at `angle` (rad, from axis 0), sum 1."""
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"length={length}: need a positive number of pixels")
    half = math.ceil(0.5 * length + 0.5)
    n = 2 * half + 1
    kernel = np.zeros((n, n))
    s = (np.arange(32 * n) + 0.5) / (32 * n) - 0.5  # midpoints, spread bilinearly
    points = half + length * s[:, None] * np.array([math.cos(angle), math.sin(angle)])
    base = np.floor(points).astype(int)
    frac = points - base
    for di in (0, 1):
        for dj in (0, 1):
            w = np.abs(1 - di - frac[:, 0]) * np.abs(1 - dj - frac[:, 1])
            np.add.at(kernel, (base[:, 0] + di, base[:, 1] + dj), w)
    return kernel / kernel.sum()


class Blur(_FieldOperator):
    """Convolution with a kernel, by FFT.

    Parameters
    ----------
    field_shape : sequence of int
    kernel : ndarray
        As many axes, odd sizes, centered.
    boundary : {"periodic", "zero"}
        What lies outside the field.
    """

    def __init__(
        self,
        field_shape: Sequence[int],
        kernel: np.ndarray,
        *,
        boundary: Literal["periodic", "zero"] = "periodic",
    ) -> None:
        import scipy.fft

        super().__init__(field_shape, field_shape)
        self.boundary = check_name("boundary", boundary, ("periodic", "zero"))
        self.kernel = np.asarray(kernel, np.float64)
        if self.kernel.ndim != len(self.field_shape) or any(n % 2 == 0 for n in self.kernel.shape):
            raise ValueError(
                f"kernel has shape {self.kernel.shape}: need {len(self.field_shape)} odd sizes"
            )
        if boundary == "zero":
            full = [n + k - 1 for n, k in zip(self.field_shape, self.kernel.shape, strict=True)]
            self._fft_shape = tuple(scipy.fft.next_fast_len(n, real=True) for n in full)
        else:
            self._fft_shape = self.field_shape
        wrapped = np.zeros(self._fft_shape)
        index = [
            (np.arange(k) - k // 2) % n
            for k, n in zip(self.kernel.shape, self._fft_shape, strict=True)
        ]
        np.add.at(wrapped, np.ix_(*index), self.kernel)  # a kernel wider than the field wraps
        self._symbol = scipy.fft.rfftn(wrapped)

    def _convolve(self, x: np.ndarray, symbol: np.ndarray) -> np.ndarray:
        import scipy.fft

        field = np.reshape(x, self.field_shape)
        spectrum = scipy.fft.rfftn(field, self._fft_shape) * symbol
        out = scipy.fft.irfftn(spectrum, self._fft_shape)
        return out[tuple(slice(n) for n in self.field_shape)].ravel()

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._convolve(x, self._symbol)

    def _rmatvec(self, y: np.ndarray) -> np.ndarray:
        return self._convolve(y, self._symbol.conj())

    def direct(self, x: np.ndarray) -> np.ndarray:
        """Return ``A x`` by the sum over the kernel's entries: slow, and no FFT."""
        mode: Any = "wrap" if self.boundary == "periodic" else "constant"
        halves = [k // 2 for k in self.kernel.shape]
        padded = np.pad(np.asarray(x, np.float64), [(h, h) for h in halves], mode=mode)
        out = np.zeros(self.field_shape)
        for index in np.ndindex(self.kernel.shape):
            # y[i] = sum_m k[m] x[i - m]
            start = [2 * h - m for h, m in zip(halves, index, strict=True)]
            window = tuple(slice(s, s + n) for s, n in zip(start, self.field_shape, strict=True))
            out += self.kernel[index] * padded[window]
        return out


# -- few measurements ----------------------------------------------------------------------------


def mask_operator(keep: np.ndarray) -> MatrixOperator:
    """Values of a field where `keep` is true, in the order of the array.

    Parameters
    ----------
    keep : ndarray of bool, shape of the field
    """
    keep = np.asarray(keep)
    if keep.dtype != bool or not keep.any():
        raise ValueError("keep must be an array of bool with at least one True")
    at = np.flatnonzero(keep)
    matrix = sp.csr_array((np.ones(at.size), (np.arange(at.size), at)), shape=(at.size, keep.size))
    return MatrixOperator(matrix, keep.shape, (at.size,))


def gaussian_sensing(
    field_shape: Sequence[int], n_measurements: int, rng: np.random.Generator
) -> MatrixOperator:
    """Random projections: entries N(0, 1/M), so that ``E |A x|^2 = |x|^2``.

    Parameters
    ----------
    field_shape : sequence of int
    n_measurements : int
        M, from 1 to the number of values of the field.
    rng : Generator
    """
    n, m = math.prod(field_shape), _count(n_measurements, math.prod(field_shape))
    return MatrixOperator(rng.standard_normal((m, n)) / math.sqrt(m), field_shape, (m,))


class CosineSensing(_FieldOperator):
    """Rows of the orthonormal cosine transform of the field with random signs; fast at any size.

    ``A x = sqrt(N/M) (DCT(s * x))[rows]``, with random signs s and M random rows, so that
    ``E |A x|^2 = |x|^2``.

    Parameters
    ----------
    field_shape : sequence of int
    n_measurements : int
        M, from 1 to the number N of values of the field.
    rng : Generator
    """

    def __init__(
        self, field_shape: Sequence[int], n_measurements: int, rng: np.random.Generator
    ) -> None:
        m = _count(n_measurements, math.prod(field_shape))
        super().__init__(field_shape, (m,))
        n = self.shape[1]
        self.signs = rng.choice([-1.0, 1.0], size=self.field_shape)
        self.rows = np.sort(rng.choice(n, size=m, replace=False))
        self.scale = math.sqrt(n / m)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        import scipy.fft

        full = scipy.fft.dctn(self.signs * np.reshape(x, self.field_shape), norm="ortho")
        return self.scale * full.ravel()[self.rows]

    def _rmatvec(self, y: np.ndarray) -> np.ndarray:
        import scipy.fft

        full = np.zeros(self.shape[1])
        full[self.rows] = self.scale * np.ravel(y)
        return (self.signs * scipy.fft.idctn(full.reshape(self.field_shape), norm="ortho")).ravel()

    def direct(self, x: np.ndarray) -> np.ndarray:
        """Return ``A x`` by products with cosine matrices: slow, and no FFT."""
        out = self.signs * np.asarray(x, np.float64)
        for axis, n in enumerate(self.field_shape):
            k, i = np.arange(n)[:, None], np.arange(n)
            matrix = np.sqrt(np.where(k == 0, 1.0, 2.0) / n) * np.cos(np.pi * k * (i + 0.5) / n)
            out = np.moveaxis(np.tensordot(matrix, out, axes=(1, axis)), 0, axis)
        return self.scale * out.ravel()[self.rows]


def _count(m: int, n: int) -> int:
    if isinstance(m, bool) or m != int(m) or not 1 <= m <= n:
        raise ValueError(f"n_measurements={m}: need an integer from 1 to {n}")
    return int(m)


# -- tomography ----------------------------------------------------------------------------------


def _edges(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    if grid.dim != 2 or any(a.location != "cell_center" for a in grid.axes):
        raise ValueError("the Radon transform needs a 2-D grid of cells (location='cell_center')")
    return tuple(np.linspace(a.lower, a.upper, a.n + 1) for a in grid.axes)  # type: ignore


def radon_operator(grid: Grid, angles: np.ndarray, offsets: np.ndarray) -> MatrixOperator:
    """Line integrals of a piecewise constant field: the Radon transform as a sparse matrix.

    ``A[a, s]`` integrates along ``{x : (x - center) . (cos a, sin a) = s}``; entries are the exact
    lengths of the line in each cell.

    Parameters
    ----------
    grid : Grid
        2-D, cells.
    angles : ndarray, shape (A,)
        Of the normal of the lines, rad.
    offsets : ndarray, shape (S,)
        Signed distances of the lines to the center of the grid.

    Returns
    -------
    MatrixOperator
        From fields to sinograms, shape (A, S).

    Notes
    -----
    Lines are cut at all grid lines [1]_. A line that runs along an edge belongs half to either
    side's cell.

    References
    ----------
    .. [1] Siddon, "Fast calculation of the exact radiological path for a three-dimensional CT
       array", Med. Phys. 12 (1985) 252-255.
    """
    ex, ey = _edges(grid)
    angles, offsets = _lines(angles, offsets)
    nx, ny = grid.shape
    center = np.array([0.5 * (ex[0] + ex[-1]), 0.5 * (ey[0] + ey[-1])])
    reach = math.hypot(ex[-1] - ex[0], ey[-1] - ey[0])
    rows, columns, lengths = [], [], []
    for a, angle in enumerate(angles):
        normal = np.array([math.cos(angle), math.sin(angle)])
        normal[np.abs(normal) < 1e-14] = 0.0  # of pi/2
        along = np.array([-normal[1], normal[0]])
        base = center + offsets[:, None] * normal  # (S, 2)
        cuts = [np.full((offsets.size, 1), -reach), np.full((offsets.size, 1), reach)]
        for d, edges in enumerate((ex, ey)):
            if along[d] != 0.0:
                cuts.append((edges - base[:, d : d + 1]) / along[d])
        t = np.sort(np.clip(np.concatenate(cuts, axis=1), -reach, reach), axis=1)
        length, middle = np.diff(t), 0.5 * (t[:, 1:] + t[:, :-1])
        # the nudge to both sides shares what runs along an edge
        for side in (-1.0, 1.0):
            nudge = side * 1e-9 * min(grid.spacing) * normal
            i = np.floor((base[:, :1] + middle * along[0] + nudge[0] - ex[0]) / grid.spacing[0])
            j = np.floor((base[:, 1:] + middle * along[1] + nudge[1] - ey[0]) / grid.spacing[1])
            inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny) & (length > 1e-14 * reach)
            s, _ = np.nonzero(inside)
            rows.append(a * offsets.size + s)
            columns.append((i[inside] * ny + j[inside]).astype(np.int64))
            lengths.append(0.5 * length[inside])
    entries = np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))
    shape = (angles.size * offsets.size, nx * ny)
    matrix = sp.csr_array(sp.coo_array(entries, shape=shape))  # adds up what is given twice
    return MatrixOperator(matrix, grid.shape, (angles.size, offsets.size))


def ray_integrals(x: np.ndarray, grid: Grid, angles: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Line integrals of a piecewise constant field, cell by cell and without a matrix.

    Another way to the numbers of `radon_operator`: each cell's chord from where the line enters
    and leaves the box that it is.

    Parameters
    ----------
    x : ndarray, shape of the grid
    grid : Grid
    angles, offsets : ndarray, shape (R,)
        Of each line.

    Returns
    -------
    ndarray, shape (R,)
    """
    ex, ey = _edges(grid)
    angles, offsets = _lines(angles, offsets)
    center = 0.5 * (ex[0] + ex[-1]), 0.5 * (ey[0] + ey[-1])
    out = np.empty(angles.size)
    for r, (angle, offset) in enumerate(zip(angles, offsets, strict=True)):
        normal = [math.cos(angle), math.sin(angle)]
        normal = [0.0 if abs(n) < 1e-14 else n for n in normal]
        along = (-normal[1], normal[0])
        enter = np.full(grid.shape, -np.inf)
        leave = np.full(grid.shape, np.inf)
        share = np.ones(grid.shape)
        for d, edges in enumerate((ex, ey)):
            shape = (-1, 1) if d == 0 else (1, -1)
            low, high = edges[:-1].reshape(shape), edges[1:].reshape(shape)
            start = center[d] + offset * normal[d]
            if along[d] != 0.0:
                t0, t1 = (low - start) / along[d], (high - start) / along[d]
                enter = np.maximum(enter, np.minimum(t0, t1))
                leave = np.minimum(leave, np.maximum(t0, t1))
            else:  # parallel: inside, on an edge (half), or outside
                slack = 1e-9 * min(grid.spacing)
                inside = (start > low - slack) & (start < high + slack)
                edge = (np.abs(start - low) < slack) | (np.abs(start - high) < slack)
                share = share * np.where(edge, 0.5, 1.0) * inside
        out[r] = np.sum(x * share * np.maximum(leave - enter, 0.0))
    return out


def _lines(angles: Any, offsets: Any) -> tuple[np.ndarray, np.ndarray]:
    angles, offsets = np.asarray(angles, np.float64), np.asarray(offsets, np.float64)
    for name, v in (("angles", angles), ("offsets", offsets)):
        if v.ndim != 1 or v.size == 0 or not np.isfinite(v).all():
            raise ValueError(f"{name} must be a vector of finite numbers, got shape {v.shape}")
    return angles, offsets


# -- sensors -------------------------------------------------------------------------------------


def point_sensors(grid: Grid, points: np.ndarray) -> MatrixOperator:
    """Values at points by multilinear interpolation between the grid's points, as sparse matrix.

    Parameters
    ----------
    grid : Grid
    points : ndarray, shape (M, dim)
        Inside the domain; beyond the outermost cell centers the last two are extrapolated.

    Returns
    -------
    MatrixOperator
        From fields to M values. Exact for multilinear functions.

    Raises
    ------
    ValueError
        A point outside the domain: which and where.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != grid.dim or len(points) == 0:
        raise ValueError(f"points have shape {points.shape}, expected (M, {grid.dim})")
    matrix = sp.csr_array(np.ones((len(points), 1)))
    for d, axis in enumerate(grid.axes):
        x = points[:, d]
        slack = 1e-9 * (axis.upper - axis.lower)
        outside = ~((x >= axis.lower - slack) & (x <= axis.upper + slack))
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            raise ValueError(
                f"point {k} at {axis.name}={x[k]} lies outside {axis.lower} to {axis.upper}"
            )
        position = (x - axis.coords[0]) / axis.spacing
        last = axis.n - 1 if axis.periodic else axis.n - 2
        left = np.floor(position) if axis.periodic else np.clip(np.floor(position), 0, last)
        frac = position - left
        left = left.astype(np.int64)
        row = np.arange(len(x))
        line = sp.csr_array(
            sp.coo_array(
                (
                    np.concatenate([1 - frac, frac]),
                    (np.concatenate([row, row]), np.concatenate([left, left + 1]) % axis.n),
                ),
                shape=(len(x), axis.n),
            )
        )
        matrix = _row_kron(matrix, line)
    return MatrixOperator(matrix, grid.shape, (len(points),))


def _row_kron(a: sp.csr_array, b: sp.csr_array) -> sp.csr_array:
    """Kronecker product row by row."""
    rows = [sp.kron(a[[i]], b[[i]], format="csr") for i in range(a.shape[0])]
    return sp.csr_array(sp.vstack(rows, format="csr"))


def adjoint_gap(A: LinearOperator, rng: np.random.Generator, *, n: int = 4) -> float:
    """Largest ``|<A x, y> - <x, A^T y>| / (|A x| |y|)`` over `n` random pairs."""
    worst = 0.0
    for _ in range(n):
        x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
        ax = A.matvec(x)
        size = float(np.linalg.norm(ax) * np.linalg.norm(y)) or 1.0
        worst = max(worst, abs(float(ax @ y) - float(x @ A.rmatvec(y))) / size)
    return worst
