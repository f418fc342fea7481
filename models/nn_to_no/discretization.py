"""How the output of a model changes with the grid: the test of a neural operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers.grids import Grid

from .geometry import resample

__all__ = ["DiscretizationTable", "discretization_error", "observed_order"]

#: A function of coordinates: called with one array per axis, in the grid's shape, it gives
#: (channels, *shape) or, for one channel, the shape itself.
Field = Callable[..., Any]


@dataclass(frozen=True)
class DiscretizationTable:
    """Outputs of one model on several grids, compared.

    Attributes
    ----------
    shapes : tuple of tuple of int
        Points per axis, coarse to fine.
    spacing : tuple of float
        Largest mesh width.
    error : tuple of float
        Relative L2 distance to the output on the finest grid (there 0), largest over the inputs;
        with a reference function, to that.
    order : tuple of float
        ``log(e_{i-1} / e_i) / log(h_{i-1} / h_i)``; NaN in the first row and where an error is 0.
    drift : tuple of float
        Relative L2 distance to the output on the reference grid, the one of the training; empty
        without one. A plain network converges too, but away from what it was trained to be.
    """

    shapes: tuple[tuple[int, ...], ...]
    spacing: tuple[float, ...]
    error: tuple[float, ...]
    order: tuple[float, ...]
    drift: tuple[float, ...] = ()

    @property
    def observed_order(self) -> float:
        """Slope of the least-squares line through log error against log spacing."""
        return observed_order(self.spacing, self.error)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per grid, JSON types."""
        names = ("shape", "spacing", "error", "order", "drift")
        drift = self.drift or (math.nan,) * len(self.shapes)
        columns = (map(list, self.shapes), self.spacing, self.error, self.order, drift)
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def __str__(self) -> str:
        lines = [f"{'grid':>14} {'spacing':>9} {'to finest':>10} {'order':>6} {'drift':>9}"]
        for row in self.rows():
            shape = "x".join(map(str, row["shape"]))
            lines.append(
                f"{shape:>14} {row['spacing']:>9.3g} {row['error']:>10.3e} {row['order']:>6.2f} "
                f"{row['drift']:>9.3e}"
            )
        return "\n".join(lines)


def observed_order(spacing: Sequence[float], error: Sequence[float]) -> float:
    """Slope of log error against log spacing, over the entries with a positive error."""
    pairs = [(h, e) for h, e in zip(spacing, error, strict=True) if e > 0 and math.isfinite(e)]
    if len(pairs) < 2:
        return math.nan
    h, e = np.log(np.array(pairs)).T
    return float(np.polyfit(h, e, 1)[0])


def discretization_error(
    model: Callable[[Tensor], Tensor],
    f: Field | Sequence[Field],
    grids: Sequence[Grid],
    reference: Grid | Field | None = None,
) -> DiscretizationTable:
    """Measure how the output of `model` depends on the grid.

    Parameters
    ----------
    model : callable
        ``(1, channels, *n)`` to ``(1, channels, *n)``; in its own precision.
    f : callable, or several
        Input functions: ``f(x, y, ...)`` gives ``(channels, *n)``, or ``(*n)`` for one channel.
    grids : sequence of Grid
        Of one domain and layout. Errors are measured on each grid itself, the finer output
        interpolated there (exactly where grids are nested; by cubic or trigonometric polynomials
        else).
    reference : Grid or callable, optional
        A grid: that of the training, for `DiscretizationTable.drift`. A function: the exact
        output, which takes the place of the finest grid's output.

    Returns
    -------
    DiscretizationTable

    Raises
    ------
    ValueError
        Fewer than two grids, or grids of different domains.

    Examples
    --------
    >>> from models.nn_to_no import grid
    >>> grids = [grid(n, layout="periodic") for n in (8, 16, 32)]
    >>> table = discretization_error(lambda u: u**2, lambda x: np.sin(2 * np.pi * x), grids)
    >>> max(table.error) < 1e-6
    True
    """
    from .geometry import same_domain

    fields = list(f) if isinstance(f, Sequence) else [f]
    grids = sorted(grids, key=lambda g: max(g.spacing), reverse=True)
    if len(grids) < 2 or not fields:
        raise ValueError(f"grids: need two or more and one input at least, got {len(grids)}")
    for g in grids[1:] + ([reference] if isinstance(reference, Grid) else []):
        if why := same_domain(grids[0], g):
            raise ValueError(f"grids: {why}")
    exact = None if reference is None or isinstance(reference, Grid) else reference
    error = np.zeros(len(grids))
    drift = np.zeros(len(grids))
    for field in fields:
        outputs = [apply(model, field, g) for g in grids]
        trained = apply(model, field, reference) if isinstance(reference, Grid) else None
        for i, (g, u) in enumerate(zip(grids, outputs, strict=True)):
            truth = (
                resample(outputs[-1], grids[-1], g, "fourier")
                if exact is None
                else sampled(exact, g)
            )
            error[i] = max(error[i], distance(u, truth, g))
            if trained is not None and isinstance(reference, Grid):
                # on the coarser of the two grids
                if max(g.spacing) <= max(reference.spacing):
                    there = resample(u, g, reference, "fourier")
                    d = distance(there, trained, reference)
                else:
                    d = distance(u, resample(trained, reference, g, "fourier"), g)
                drift[i] = max(drift[i], d)
    h = [max(g.spacing) for g in grids]
    order = [math.nan]
    for i in range(1, len(grids)):
        a, b = error[i - 1], error[i]
        usable = a > 0 and b > 0 and h[i - 1] > h[i]
        order.append(math.log(a / b) / math.log(h[i - 1] / h[i]) if usable else math.nan)
    return DiscretizationTable(
        tuple(g.shape for g in grids),
        tuple(h),
        tuple(error.tolist()),
        tuple(order),
        tuple(drift.tolist()) if isinstance(reference, Grid) else (),
    )


def sampled(f: Field, grid: Grid) -> Tensor:
    """Values of a function, float64, shape (1, channels, *grid.shape)."""
    values = np.asarray(f(*grid.meshgrid()), np.float64)
    if values.shape[-grid.dim :] != grid.shape or values.ndim not in (grid.dim, grid.dim + 1):
        raise ValueError(
            f"f gives shape {values.shape} on a grid of {grid.shape}, expected (channels, *shape)"
        )
    return torch.as_tensor(values).reshape(1, -1, *grid.shape)


def apply(model: Callable[[Tensor], Tensor], f: Field, grid: Grid) -> Tensor:
    """Output of `model` for a function on a grid, float64."""
    x = sampled(f, grid)
    parameters = getattr(model, "parameters", None)
    first = next((p for p in parameters() if p.is_floating_point()), None) if parameters else None
    if first is not None:
        x = x.to(first)
    was_training = getattr(model, "training", False)
    if was_training:
        model.eval()  # type: ignore[attr-defined]
    try:
        with torch.no_grad():
            y = model(x)
    finally:
        if was_training:
            model.train()  # type: ignore[attr-defined]
    if tuple(y.shape[2:]) != grid.shape:
        raise ValueError(
            f"model: output has shape {tuple(y.shape)} for an input {tuple(x.shape)}, expected the "
            "same points"
        )
    return y.double().cpu()


def distance(u: Tensor, truth: Tensor, grid: Grid) -> float:
    """Relative L2 distance, quadrature-weighted; absolute where the truth is zero."""
    w = torch.as_tensor(grid.weights)
    top = float(((u - truth).square() * w).sum().sqrt())
    bottom = float((truth.square() * w).sum().sqrt())
    return top / bottom if bottom > 0 else top
