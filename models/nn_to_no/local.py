"""Differential and local integral operators on grids of any spacing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from solvers.grids import Grid

from .kernels import _CONV, extend

__all__ = ["Antialiased", "FiniteDifferenceConv", "LocalIntegral"]


class FiniteDifferenceConv(nn.Module):
    r"""A convolution that becomes a derivative as the grid is refined.

    .. math:: g = \sum_{|\alpha| = m} W_\alpha\, \partial^\alpha f \;(+ b), \qquad m = 1, 2

    The derivatives along the axes (and, of order 2, the mixed ones) are central differences with
    the spacing of each axis: second order inside. At the ends of an axis that is not periodic they
    are one-sided, of second order too, and no value from beyond is made up.

    Parameters
    ----------
    in_channels, out_channels : int
    reference : Grid
        Layout and domain; any number of points may be given later.
    order : {1, 2}
        Of the derivatives.
    bias : bool

    Notes
    -----
    neuraloperator's layer of this name divides a periodically padded stencil by one spacing: for
    input that is not periodic it grows like 1/h.

    References
    ----------
    .. [1] Liu-Schiaffini et al., "Neural operators with localized integral and differential
       kernels", ICML 2024.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        reference: Grid,
        order: Literal[1, 2] = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if order not in (1, 2):
            raise ValueError(f"order={order}: allowed are 1, 2")
        self.order, self.reference = order, reference
        self.in_channels = in_channels
        self.terms = list(itertools.combinations_with_replacement(range(reference.dim), order))
        size = in_channels * len(self.terms)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, len(self.terms)))
        nn.init.uniform_(self.weight, -1 / math.sqrt(size), 1 / math.sqrt(size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, f: Tensor, grid: Grid | None = None) -> Tensor:
        """Differentiate (B, in_channels, *n)."""
        grid = self.reference.resized(tuple(f.shape[2:])) if grid is None else grid
        if grid.shape != tuple(f.shape[2:]) or f.shape[1] != self.in_channels:
            raise ValueError(
                f"f has shape {tuple(f.shape)}, expected (batch, {self.in_channels}, {grid.shape})"
            )
        parts = [self.derivative(f, grid, t) for t in self.terms]
        y = torch.einsum("oct,tbc...->bo...", self.weight, torch.stack(parts))
        return y if self.bias is None else y + self.bias.reshape(-1, *(1,) * grid.dim)

    def derivative(self, f: Tensor, grid: Grid, term: Sequence[int]) -> Tensor:
        """Differentiate along the axes in `term`."""
        if len(term) == 2 and term[0] == term[1]:
            return _second(f, grid, term[0])
        for d in term:
            f = _first(f, grid, d)
        return f


def _first(f: Tensor, grid: Grid, d: int) -> Tensor:
    axis, k = grid.axes[d], d + 2
    n = axis.n
    if axis.periodic:
        x = extend(f, k, 1, 1, "circular")
        return (x.narrow(k, 2, n) - x.narrow(k, 0, n)) / (2 * axis.spacing)
    if n < 3:
        raise ValueError(f"axis {axis.name!r} has {n} points, a derivative needs 3")
    inner = (f.narrow(k, 2, n - 2) - f.narrow(k, 0, n - 2)) / 2
    a, b, c = (f.narrow(k, i, 1) for i in (0, 1, 2))
    p, q, r = (f.narrow(k, n - 1 - i, 1) for i in (0, 1, 2))
    low, high = (-3 * a + 4 * b - c) / 2, (3 * p - 4 * q + r) / 2
    return torch.cat([low, inner, high], k) / axis.spacing


def _second(f: Tensor, grid: Grid, d: int) -> Tensor:
    axis, k = grid.axes[d], d + 2
    n = axis.n
    if axis.periodic:
        x = extend(f, k, 1, 1, "circular")
        return (x.narrow(k, 2, n) - 2 * f + x.narrow(k, 0, n)) / axis.spacing**2
    if n < 4:
        raise ValueError(f"axis {axis.name!r} has {n} points, a second derivative needs 4")
    inner = f.narrow(k, 2, n - 2) - 2 * f.narrow(k, 1, n - 2) + f.narrow(k, 0, n - 2)
    ends = []
    for at in ([0, 1, 2, 3], [n - 1, n - 2, n - 3, n - 4]):
        a, b, c, e = (f.narrow(k, i, 1) for i in at)
        ends.append(2 * a - 5 * b + 4 * c - e)
    return torch.cat([ends[0], inner, ends[1]], k) / axis.spacing**2


class LocalIntegral(nn.Module):
    r"""Integral over a ball with a kernel in a fixed basis (discrete-continuous convolution).

    .. math:: g(y) = \int_{|x - y| < r} \kappa(x - y) f(x)\,dx, \quad
              \kappa(z) = \sum_j W_j\,\psi_j(z)

    The basis are hat functions in the radius, times cosines and sines of the angle in two
    dimensions. The taps are made anew for each grid spacing, with its quadrature weights, and kept.

    Parameters
    ----------
    in_channels, out_channels : int
    radius : float
        In the units of the coordinates.
    reference : Grid
        Layout and domain.
    n_radial, n_angular : int
        Rings and angular wave numbers (two dimensions; in one, parity).
    groups : int
    bias : bool

    References
    ----------
    .. [1] Ocampo, Price & McEwen, "Scalable and equivariant spherical CNNs by
       discrete-continuous convolutions", ICLR 2023.
    .. [2] Liu-Schiaffini et al., ICML 2024.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        radius: float,
        *,
        reference: Grid,
        n_radial: int = 3,
        n_angular: int = 2,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not radius > 0:
            raise ValueError(f"radius={radius}: need a positive number")
        if n_radial < 1 or n_angular < 0:
            raise ValueError(f"n_radial={n_radial}, n_angular={n_angular}: need >= 1 and >= 0")
        self.reference, self.radius = reference, float(radius)
        self.n_radial, self.n_angular, self.groups = n_radial, n_angular, groups
        self.dim = reference.dim
        z = np.zeros((self.dim, 1))
        n_basis = len(self.basis(z))
        size = in_channels // groups * n_basis
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, n_basis))
        nn.init.uniform_(self.weight, -1 / math.sqrt(size), 1 / math.sqrt(size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._taps: dict[tuple[float, ...], Tensor] = {}

    def basis(self, z: np.ndarray) -> np.ndarray:
        """Basis functions at offsets z, shape (dim, ...), without a factor for the measure."""
        r = np.sqrt((z**2).sum(0)) / self.radius
        out = []
        for ring in range(self.n_radial):
            hat = np.maximum(0.0, 1 - np.abs(r * self.n_radial - ring))
            hat = np.where(r < 1, hat, 0.0)
            if self.dim == 1:
                waves: list[Any] = [np.ones_like(r)]
                if ring and self.n_angular:
                    waves.append(np.sign(z[0]))
            elif self.dim == 2:
                angle = np.arctan2(z[1], z[0])
                waves = [np.ones_like(r)]
                if ring:  # at the center angles mean nothing
                    for m in range(1, self.n_angular + 1):
                        waves += [np.cos(m * angle), np.sin(m * angle)]
            else:
                waves = [np.ones_like(r)]
                if ring and self.n_angular:
                    waves += [c / (r * self.radius + 1e-300) for c in z]
            out += [hat * w for w in waves]
        return np.stack(out)

    def taps(self, grid: Grid) -> Tensor:
        """Taps of each basis function on a grid, shape (basis, *taps), with quadrature weights."""
        key = grid.spacing
        if key not in self._taps:
            reach = [math.ceil(self.radius / h - 1e-9) for h in key]
            if min(reach) < 2:
                raise ValueError(
                    f"radius={self.radius:g}: holds fewer than 2 points at the spacing {max(key):g}"
                )
            lines = [np.arange(-k, k + 1) * h for k, h in zip(reach, key, strict=True)]
            z = np.stack(np.meshgrid(*lines, indexing="ij"))
            psi = self.basis(z)
            # over the measure of the ball, so that weights of order 1 give outputs of order 1
            ball = {1: 2.0, 2: math.pi, 3: 4 / 3 * math.pi}[self.dim] * self.radius**self.dim
            self._taps[key] = torch.as_tensor(psi * (math.prod(key) / ball))
        return self._taps[key]

    def forward(self, f: Tensor, grid: Grid | None = None) -> Tensor:
        """Integrate (B, in_channels, *n); beyond ends that are not periodic `f` is 0."""
        grid = self.reference.resized(tuple(f.shape[2:])) if grid is None else grid
        if grid.shape != tuple(f.shape[2:]):
            raise ValueError(f"f has shape {tuple(f.shape)}, expected (..., {grid.shape})")
        psi = self.taps(grid).to(f)
        kernel = torch.tensordot(self.weight, psi, dims=([2], [0]))
        # at the ends of closed axes the points stand for half a cell
        for d, axis in enumerate(grid.axes):
            if not axis.periodic:
                line = torch.as_tensor(axis.weights / axis.spacing).to(f)
                f = f * line.reshape(-1, *(1,) * (grid.dim - 1 - d))
            reach = psi.shape[1 + d] // 2
            f = extend(f, d + 2, reach, reach, "circular" if axis.periodic else "zeros")
        return _CONV[grid.dim](f, kernel, self.bias, groups=self.groups)  # type: ignore[operator]


class Antialiased(nn.Module):
    """A pointwise nonlinearity applied on a finer grid, brought back without its high modes.

    Parameters
    ----------
    activation : nn.Module
    reference : Grid
        Its periodic axes are refined by trigonometric polynomials; others are mirrored at their
        ends first.
    factor : int
    """

    def __init__(self, activation: nn.Module, reference: Grid, factor: int = 2) -> None:
        super().__init__()
        self.activation, self.reference, self.factor = activation, reference, factor

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (B, channel, *n)."""
        if x.ndim != self.reference.dim + 2:
            out: Tensor = self.activation(x)
            return out
        sizes = tuple(x.shape[2:])
        mirrored = x
        for d, axis in enumerate(self.reference.axes):
            if not axis.periodic:
                # about the last point, or between it and its image
                flipped = mirrored.flip(d + 2)
                if axis.location == "node":
                    flipped = flipped.narrow(d + 2, 1, sizes[d] - 2)
                mirrored = torch.cat([mirrored, flipped], d + 2)
        dims = tuple(range(2, x.ndim))
        n = mirrored.shape[2:]
        fine = [self.factor * m for m in n]
        u = torch.fft.fftn(mirrored, dim=dims, norm="forward")
        for d in range(len(n)):
            u = _resize_modes(u, d + 2, fine[d])
        y = self.activation(torch.fft.ifftn(u, dim=dims, norm="forward").real)
        u = torch.fft.fftn(y, dim=dims, norm="forward")
        for d in range(len(n)):
            u = _resize_modes(u, d + 2, n[d])
        out = torch.fft.ifftn(u, dim=dims, norm="forward").real
        for d in range(len(n)):
            out = out.narrow(d + 2, 0, sizes[d])
        return out


def _resize_modes(u: Tensor, axis: int, m: int) -> Tensor:
    """Keep or add modes; the highest of an even number is shared by both signs."""
    n = u.shape[axis]
    if m == n:
        return u
    k = min(n, m)
    low = u.narrow(axis, 0, (k + 1) // 2)
    high = u.narrow(axis, n - k // 2, k // 2)
    if k % 2 == 0:
        # the mode n/2: half at each sign when there is room, joined when there is not
        if m > n:
            middle = u.narrow(axis, n // 2, 1) / 2
            low = torch.cat([low, middle], axis)
            high = torch.cat([middle, u.narrow(axis, n - k // 2 + 1, k // 2 - 1)], axis)
        else:
            middle = u.narrow(axis, k // 2, 1) + u.narrow(axis, n - k // 2, 1)
            high = torch.cat([middle, u.narrow(axis, n - k // 2 + 1, k // 2 - 1)], axis)
    gap = m - low.shape[axis] - high.shape[axis]
    shape = list(u.shape)
    shape[axis] = gap
    return torch.cat([low, u.new_zeros(shape), high], axis)
