"""Fourier series of real functions on periodic grids: transforms, derivatives, products."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..grids import Grid

__all__ = ["Fourier", "resample"]


class Fourier:
    """Real Fourier series on a periodic grid.

    A function is kept as its coefficients ``c_k`` in ``u(x) = sum_k c_k exp(i k . (x - lower))``,
    for all wave numbers that the grid tells apart: the layout of `numpy.fft.rfftn` without the
    Nyquist modes, shape ``(2 m_1 + 1, ..., m_d + 1)`` with ``m = (n - 1) // 2``. Coefficients do
    not depend on the number of points. Leading axes, of components or samples, are free.

    Products are free of aliasing: `evaluate` gives values on a grid so fine that a polynomial of
    `degree` in them, taken back by `project`, has the exact coefficients (for ``degree=2`` the
    "3/2 rule": modes fill 2/3 of the evaluation grid).

    Parameters
    ----------
    grid : Grid
        Periodic along every axis, 1 to 3 of them.
    degree : int, default 2
        Highest degree of the products; 1 evaluates on the grid itself.

    Attributes
    ----------
    k : tuple of ndarray
        Angular wave numbers, one array an axis, which broadcast to `shape`.
    k2 : ndarray
        ``|k|^2``, shape `shape`.
    shape : tuple of int
        Of the coefficients.
    fine_shape : tuple of int
        Points of the evaluation grid per axis.

    Raises
    ------
    ValueError
        An axis is not periodic, or `degree` is no positive integer.

    Examples
    --------
    >>> space = Fourier(Grid.unit(16, dim=1, periodic=True))
    >>> v = space.coefficients(np.sin(2 * np.pi * space.points[0]))
    >>> slope = space.values(space.derivative(v, 0))
    >>> bool(np.allclose(slope, 2 * np.pi * np.cos(2 * np.pi * space.points[0])))
    True
    """

    def __init__(self, grid: Grid, *, degree: int = 2) -> None:
        if not grid.axes or not all(grid.periodic):
            raise ValueError(f"grid has periodic={grid.periodic}: need periodic axes")
        if isinstance(degree, bool) or int(degree) != degree or degree < 1:
            raise ValueError(f"degree={degree!r}: need an integer >= 1")
        self.grid, self.degree, self.dim = grid, int(degree), grid.dim
        self._m = tuple((n - 1) // 2 for n in grid.shape)
        self.shape = (*(2 * m + 1 for m in self._m[:-1]), self._m[-1] + 1)
        from scipy import fft as sfft

        # aliases of a product of modes up to m reach down to n - degree m, which must exceed m
        need = tuple((self.degree + 1) * m + 1 for m in self._m)
        real = (False,) * (self.dim - 1) + (True,)
        self.fine_shape = (
            grid.shape
            if self.degree == 1
            else tuple(sfft.next_fast_len(n, real=r) for n, r in zip(need, real, strict=True))
        )
        k = []
        for axis, (a, m) in enumerate(zip(grid.axes, self._m, strict=True)):
            numbers = np.arange(m + 1)
            if axis < self.dim - 1:
                numbers = np.concatenate([numbers, np.arange(-m, 0)])
            shape = [1] * self.dim
            shape[axis] = len(numbers)
            k.append((2 * np.pi / (a.upper - a.lower) * numbers).reshape(shape))
        self.k = tuple(k)
        self.k2: np.ndarray = sum((q**2 for q in k), np.zeros(self.shape))
        self._mean: Any = (..., *(0,) * self.dim)
        # Parseval: every mode but those with k_d = 0 stands for itself and its conjugate
        self._twice = np.full(self.shape[-1], 2.0)
        self._twice[0] = 1.0

    @property
    def points(self) -> tuple[np.ndarray, ...]:
        """Coordinates of the grid's points, one array of its shape an axis."""
        return self.grid.meshgrid()

    # -- transforms ------------------------------------------------------------------------

    def coefficients(self, u: np.ndarray) -> np.ndarray:
        """Coefficients of values on the grid, shape (..., *grid.shape); Nyquist modes dropped."""
        return self._forward(u, self.grid.shape)

    def values(self, v: np.ndarray) -> np.ndarray:
        """Values on the grid of coefficients, shape (..., *shape)."""
        return self._backward(v, self.grid.shape)

    def evaluate(self, v: np.ndarray) -> np.ndarray:
        """Values on the evaluation grid, shape (..., *fine_shape)."""
        return self._backward(v, self.fine_shape)

    def project(self, w: np.ndarray) -> np.ndarray:
        """Coefficients of values on the evaluation grid."""
        return self._forward(w, self.fine_shape)

    def _forward(self, u: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        u = np.asarray(u, np.float64)
        if u.shape[-self.dim :] != shape:
            raise ValueError(f"values have shape {u.shape}, expected (..., {shape})")
        from scipy import fft as sfft

        c = sfft.rfft(u, axis=-1, norm="forward")[..., : self.shape[-1]]
        for axis in range(self.dim - 1):
            c = sfft.fft(c, axis=axis - self.dim, norm="forward", overwrite_x=axis > 0)
            c = _truncate(c, axis - self.dim, self._m[axis])
        return c

    def _backward(self, v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if v.shape[-self.dim :] != self.shape:
            raise ValueError(f"coefficients have shape {v.shape}, expected (..., {self.shape})")
        from scipy import fft as sfft

        for axis in range(self.dim - 1):
            v = _pad(v, axis - self.dim, self._m[axis], shape[axis])
            v = sfft.ifft(v, axis=axis - self.dim, norm="forward", overwrite_x=True)
        u: np.ndarray = sfft.irfft(v, n=shape[-1], axis=-1, norm="forward")
        return u

    # -- calculus ----------------------------------------------------------------------------

    def derivative(self, v: np.ndarray, axis: int, order: int = 1) -> np.ndarray:
        """Coefficients of a partial derivative."""
        return (1j * self.k[axis]) ** order * v

    def inverse_laplacian(self, v: np.ndarray) -> np.ndarray:
        """Coefficients of the `w` of mean zero with ``laplace(w) = v - mean(v)``."""
        k2 = self.k2.copy()
        k2.flat[0] = 1.0
        w = -v / k2
        w[self._mean] = 0.0
        return w

    def velocity(self, vorticity: np.ndarray) -> np.ndarray:
        """Coefficients of the plane flow of mean zero with this vorticity, shape (2, ...).

        ``u = (d psi/dy, -d psi/dx)`` with ``-laplace(psi) = vorticity``.
        """
        if self.dim != 2:
            raise ValueError(f"velocity needs 2 axes, the grid has {self.dim}")
        psi = -self.inverse_laplacian(vorticity)
        return np.stack([self.derivative(psi, 1), -self.derivative(psi, 0)])

    # -- measures ------------------------------------------------------------------------------

    def mean_square(self, v: np.ndarray) -> np.ndarray:
        """Mean of ``u^2`` over the domain, shape of the leading axes (Parseval)."""
        power = v.real**2 + v.imag**2
        total: np.ndarray = (power @ self._twice).reshape(*v.shape[: -self.dim], -1).sum(-1)
        return total

    def inner(self, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Mean of the product of two functions over the domain."""
        product = (v * np.conj(w)).real
        total: np.ndarray = (product @ self._twice).reshape(*product.shape[: -self.dim], -1).sum(-1)
        return total

    def spectrum(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean of ``u^2`` by shells of wave numbers.

        Returns
        -------
        k : ndarray, shape (S,)
            Middle of the shells, multiples of the smallest wave number.
        power : ndarray, shape (..., S)
            Adds up to `mean_square`: the energy spectrum for ``v`` of a velocity component (halve
            it), that of enstrophy for a vorticity.
        """
        base = min(2 * np.pi / (a.upper - a.lower) for a in self.grid.axes)
        shell = np.rint(np.sqrt(self.k2) / base).astype(np.int64).ravel()
        n = int(shell.max()) + 1
        power = (v.real**2 + v.imag**2) * self._twice
        rows = power.reshape(-1, shell.size)
        sums = np.stack([np.bincount(shell, row, minlength=n) for row in rows])
        return base * np.arange(n), sums.reshape(*v.shape[: -self.dim], n)

    def tail(self, v: np.ndarray) -> np.ndarray:
        """Part of the norm that lies in the outermost sixth of the modes of any axis.

        Near rounding where the grid resolves the function; above 1e-3 or so it does not. The mean
        does not count.
        """
        outer = np.zeros(self.shape, bool)
        for k in self.k:
            outer |= np.abs(k) > 5 / 6 * np.abs(k).max()
        total = self.mean_square(v) - np.abs(v[self._mean]) ** 2
        part = self.mean_square(np.where(outer, v, 0.0))
        ratio: np.ndarray = np.sqrt(part / np.where(total > 0, total, 1.0))
        return ratio


def resample(u: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the trigonometric interpolant on a periodic node grid with other points.

    Parameters
    ----------
    u : ndarray, shape (..., *old)
        Values at nodes; the last ``len(shape)`` axes are periodic.
    shape : tuple of int
        New numbers of points; coarser grids drop the modes they cannot carry.

    Examples
    --------
    >>> x = np.arange(8) / 8
    >>> fine = resample(np.cos(2 * np.pi * x), (16,))
    >>> bool(np.allclose(fine, np.cos(2 * np.pi * np.arange(16) / 16)))
    True
    """
    old = u.shape[u.ndim - len(shape) :]
    source = Fourier(Grid.unit(old, periodic=True), degree=1)
    target = Fourier(Grid.unit(tuple(shape), periodic=True), degree=1)
    v = source.coefficients(u)
    for axis, (m, n) in enumerate(zip(source._m, target._m, strict=True)):
        where = axis - len(shape)
        if where == -1:
            out = np.zeros((*v.shape[:-1], n + 1), v.dtype)
            kept = min(m, n) + 1
            out[..., :kept] = v[..., :kept]
            v = out
        elif n <= m:
            v = _truncate(v, where, n)
        else:
            v = _pad(v, where, m, 2 * n + 1)
    return target.values(v)


def _at(axis: int, part: slice) -> Any:
    """Index of a negative axis."""
    return (..., part, *(slice(None),) * (-axis - 1))


def _pad(v: np.ndarray, axis: int, m: int, n: int) -> np.ndarray:
    """Put modes -m..m, FFT order, into `n` of them; always a copy."""
    shape = list(v.shape)
    shape[axis] = n
    out = np.empty(shape, np.complex128)
    out[_at(axis, slice(0, m + 1))] = v[_at(axis, slice(0, m + 1))]
    out[_at(axis, slice(m + 1, n - m))] = 0.0
    if m:
        out[_at(axis, slice(n - m, n))] = v[_at(axis, slice(v.shape[axis] - m, None))]
    return out


def _truncate(v: np.ndarray, axis: int, m: int) -> np.ndarray:
    """Take modes -m..m, FFT order, out of more of them."""
    n = v.shape[axis]
    if n == 2 * m + 1:
        return v
    parts = [v[_at(axis, slice(0, m + 1))], v[_at(axis, slice(n - m, n))]]
    return np.concatenate(parts, axis=axis)
