"""Relative errors of fields: L2 and H1 by the quadrature of the grid, and a spectral norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from solvers.grids import Grid
from solvers.names import check_name

__all__ = ["LOSSES", "FieldNorm", "RelativeError"]

LOSSES = ("l2", "h1", "h1_spectral")
Kind = Literal["l2", "h1", "h1_spectral"]
#: Dirichlet values per axis and side; None where the side has no such condition.
DirichletValues = tuple[tuple[float | None, float | None], ...]


class FieldNorm:
    r"""Squared norm of fields on a grid, channel by channel.

    .. math:: \|u\|_{L^2}^2 = \int u^2, \qquad \|u\|_{H^1}^2 = \int u^2 + |\nabla u|^2

    The first integral uses the grid's quadrature weights; the second, per axis, the difference
    along each edge between neighboring points, which is second order at its middle, and the
    trapezoidal or midpoint weights across. Edges fill a closed axis of nodes; on a periodic axis
    one more joins its ends. On a cell-centered axis half a cell is left at either end: the last
    edge stands for it, or, on a Dirichlet side, the difference to the value on the wall.

    ``"h1_spectral"`` is what the MgNO authors' program calls H1: Fourier coefficients of the values
    as if they were periodic, weighted by :math:`1 + \sum_d k_d^2`, with integer :math:`k_d`,
    no :math:`2\pi`, that count as 0 from `k_max` on. Not a Sobolev norm: a jump between opposite
    ends counts, lengths do not, and fine detail has the weight 1.

    Parameters
    ----------
    grid : Grid
        Lengths as in the data: the two terms of the H1 norm weigh as the unit of length says.
    kind : {"l2", "h1", "h1_spectral"}
    dirichlet : sequence with one (lower, upper) pair an axis, optional
        Wall values for cell-centered axes, None where there are none.
    average : bool
        Divide by the measure of the domain.
    k_max : int, optional
        Of ``"h1_spectral"``; None: no limit.

    Examples
    --------
    >>> import torch
    >>> grid = Grid.unit(65, dim=1)
    >>> u = torch.as_tensor(grid.coords[0]).reshape(1, 1, -1)
    >>> float(FieldNorm(grid, kind="h1")(u).sqrt())  # sqrt(4/3)
    1.154718...
    """

    def __init__(
        self,
        grid: Grid,
        *,
        kind: Kind = "l2",
        dirichlet: DirichletValues | None = None,
        average: bool = False,
        k_max: int | None = 20,
    ) -> None:
        check_name("loss", kind, LOSSES)
        self.grid, self.kind = grid, kind
        walls = dirichlet if dirichlet is not None else ((None, None),) * grid.dim
        if len(walls) != grid.dim:
            raise ValueError(f"dirichlet has {len(walls)} entries, the grid has {grid.dim} axes")
        #: wall value by (axis, side), where a half cell lies between it and the data
        self.walls = {
            (d, side): float(value)
            for d, (axis, pair) in enumerate(zip(grid.axes, walls, strict=True))
            for side, value in enumerate(pair)
            if value is not None and axis.location == "cell_center" and not axis.periodic
        }
        if k_max is not None and k_max < 1:
            raise ValueError(f"k_max={k_max}: need an integer >= 1, or None")
        weights = {"points": grid.weights}
        if kind == "h1_spectral":
            weights["modes"] = _mode_weights(grid, k_max)
        for d in range(grid.dim if kind == "h1" else 0):
            weights[f"edges{d}"] = self._edge_weights(d)
            weights[f"wall{d}"] = self._across(d) * 2 / grid.axes[d].spacing
        size = math.prod(b - a for a, b in grid.bounds) if average else 1.0
        self._weights = {k: torch.as_tensor(w / size).flatten() for k, w in weights.items()}

    def _across(self, d: int) -> np.ndarray:
        """Weights of the other axes, with one entry along axis `d`."""
        w = np.ones(())
        for k, axis in enumerate(self.grid.axes):
            w = np.multiply.outer(w, np.ones(1) if k == d else axis.weights)
        return w

    def _edge_weights(self, d: int) -> np.ndarray:
        """Length an edge stands for, times the weights across, over the squared spacing."""
        axis = self.grid.axes[d]
        h = axis.spacing
        along = np.full(axis.n if axis.periodic else axis.n - 1, h)
        if axis.location == "cell_center" and not axis.periodic:
            along[0] += 0.0 if (d, 0) in self.walls else h / 2
            along[-1] += 0.0 if (d, 1) in self.walls else h / 2
        shape = [1] * self.grid.dim
        shape[d] = -1
        return self._across(d) * (along / h**2).reshape(shape)

    def __call__(self, u: Tensor, *, error: bool = False) -> Tensor:
        """Squared norm.

        Parameters
        ----------
        u : Tensor, shape (batch, channel, *grid.shape)
        error : bool
            `u` is a difference of two fields with the same wall values, so it has 0 there.

        Returns
        -------
        Tensor, shape (batch, channel)

        Raises
        ------
        ValueError
            Wrong shape.
        """
        if tuple(u.shape[2:]) != self.grid.shape:
            raise ValueError(
                f"u has shape {tuple(u.shape)}, expected (batch, channel, "
                f"{', '.join(map(str, self.grid.shape))})"
            )
        if self.kind == "h1_spectral":
            if u.dtype in (torch.float16, torch.bfloat16):
                u = u.float()
            modes = torch.view_as_real(torch.fft.rfftn(u, dim=tuple(range(2, u.ndim))))
            return modes.square().sum(-1).flatten(2) @ self._like("modes", u)
        total = u.square().flatten(2) @ self._like("points", u)
        if self.kind == "l2":
            return total
        for d, axis in enumerate(self.grid.axes):
            k = d + 2
            step = torch.roll(u, -1, k) - u if axis.periodic else torch.diff(u, dim=k)
            total = total + step.square().flatten(2) @ self._like(f"edges{d}", u)
            for side in (0, 1):
                if (d, side) in self.walls:
                    value = 0.0 if error else self.walls[d, side]
                    step = u.narrow(k, side * (axis.n - 1), 1) - value
                    total = total + step.square().flatten(2) @ self._like(f"wall{d}", u)
        return total

    def _like(self, name: str, u: Tensor) -> Tensor:
        """Weights in the dtype and on the device of `u`, kept for the next call."""
        weights = self._weights[name]
        if weights.dtype != u.dtype or weights.device != u.device:
            weights = self._weights[name] = weights.to(u)
        return weights


def _mode_weights(grid: Grid, k_max: int | None) -> np.ndarray:
    """Weights of the squared coefficients that ``rfftn`` returns."""
    n = math.prod(grid.shape)
    total = np.ones(())
    for d, m in enumerate(grid.shape):
        last = d == grid.dim - 1
        k = np.abs(np.fft.rfftfreq(m) if last else np.fft.fftfreq(m)) * m
        k[k > (k_max or n) - 0.5] = 0.0
        total = np.add.outer(total, k**2)
    # all but the first and, of an even number, the last column stand for their conjugates too
    both = np.full(grid.shape[-1] // 2 + 1, 2.0)
    both[0] = 1.0
    if grid.shape[-1] % 2 == 0:
        both[-1] = 1.0
    return total * both * float(math.prod(b - a for a, b in grid.bounds)) / n**2


class RelativeError:
    """Norm of the error over the norm of the truth, a mean over the output fields.

    The components of a vector field make one norm; fields of different units are never added.
    Samples count equally.

    Parameters
    ----------
    grid : Grid
    kind : {"l2", "h1", "h1_spectral"}
    components : sequence of int
        Channels of each output field; default one field with all channels.
    dirichlet : optional
        As in `FieldNorm`; one entry an output field, None for fields without.
    scales : sequence of float, optional
        A typical size of each field. The result does not depend on it, but float32 would
        underflow where values are below 1e-19.
    k_max : int, optional
        As in `FieldNorm`.

    Raises
    ------
    ValueError
        When called: shapes that do not fit.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        kind: Kind = "l2",
        components: Sequence[int] | None = None,
        dirichlet: Sequence[DirichletValues | None] | None = None,
        scales: Sequence[float] | None = None,
        k_max: int | None = 20,
    ) -> None:
        self.components = None if components is None else tuple(components)
        n = 1 if self.components is None else len(self.components)
        walls = [None] * n if dirichlet is None else list(dirichlet)
        self.scales = [1.0] * n if scales is None else [float(s) for s in scales]
        if len(walls) != n or len(self.scales) != n:
            raise ValueError(
                f"{len(walls)} Dirichlet entries and {len(self.scales)} scales for {n} fields"
            )
        if not all(math.isfinite(s) and s > 0 for s in self.scales):
            raise ValueError(f"scales={self.scales}: need positive numbers")
        scaled = [
            None if w is None else tuple((_over(a, s), _over(b, s)) for a, b in w)
            for w, s in zip(walls, self.scales, strict=True)
        ]
        self.norms = [
            FieldNorm(grid, kind=kind, dirichlet=w, average=True, k_max=k_max) for w in scaled
        ]

    def per_field(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Relative error of each sample and field, shape (batch, field), no mean taken.

        A truth of zero gives infinity, or NaN where the prediction is zero too.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction has shape {tuple(prediction.shape)}, truth {tuple(truth.shape)}"
            )
        sizes = self.components or (truth.shape[1],)
        if sum(sizes) != truth.shape[1]:
            raise ValueError(f"truth has {truth.shape[1]} channels, the fields {sum(sizes)}")
        # a mixed-precision context would round the sums
        with torch.autocast(truth.device.type, enabled=False):
            return self._per_field(prediction, truth, sizes)

    def _per_field(self, prediction: Tensor, truth: Tensor, sizes: Sequence[int]) -> Tensor:
        out, start = [], 0
        for norm, n, scale in zip(self.norms, sizes, self.scales, strict=True):
            p, t = prediction[:, start : start + n], truth[:, start : start + n]
            start += n
            if scale != 1.0:
                p, t = p / scale, t / scale
            error = norm(p - t, error=True).sum(1)
            ratio = error / norm(t).sum(1)
            zero = ratio == 0  # where the square root has no derivative
            out.append(torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, ratio))))
        return torch.stack(out, 1)

    def per_sample(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Relative error of each sample, shape (batch,)."""
        return self.per_field(prediction, truth).mean(1)

    def __call__(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Mean relative error of the batch, a scalar.

        Parameters
        ----------
        prediction, truth : Tensor, shape (batch, channel, *grid.shape)
            In physical units.
        """
        return self.per_sample(prediction, truth).mean()


def _over(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale
