"""The discretization certificate: whether a model gives one function on every grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solvers.grids import Grid

from .errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from pde_data.problem import Problem

    from .tasks._grid_operator import GridOperator

__all__ = ["DiscretizationReport", "certify", "discretization_report"]

#: What "agnostic" means, see `DiscretizationReport`.
TOLERANCE, MIN_ORDER, MAX_GROWTH = 0.2, 0.5, 3.5
#: Changes below this are rounding in single precision: no order can be read off them.
ROUNDING = 1e-5


@dataclass(frozen=True)
class DiscretizationReport:
    """How the output of a model changes with the grid; all distances are relative L2.

    A model is *agnostic* if it approximates one map between functions, whatever the grid:

    1. the outputs converge: the change from each grid to the next finer one falls at a rate of at
       least `min_order`, fitted over the grids from the reference on;
    2. the outputs stay: on every finer grid the output lies within `tolerance` of that on the
       reference grid, the one of the training. A network with a fixed stencil converges too as
       the grid is refined, but to another map;
    3. where solutions are known: on every finer grid the error is at most `max_growth` times that
       on the reference grid.

    Otherwise it is *tied to its grid*.

    Attributes
    ----------
    model, inputs : str
        What was measured, and on what.
    n_inputs : int
    reference : tuple of int
        Points per axis of the reference grid.
    shapes : tuple of tuple of int
        Points per axis, coarse to fine.
    spacing : tuple of float
        Largest mesh width.
    change : tuple of float
        Distance to the output on the next finer grid, mean over the inputs; NaN on the finest.
    order : tuple of float
        Rate of `change` from the grid before; NaN where there is none.
    drift : tuple of float
        Distance to the output on the reference grid, mean over the inputs.
    error : tuple of float
        Distance to the solutions, mean over the inputs; empty without solutions.
    tolerance, min_order, max_growth : float
    """

    model: str
    inputs: str
    n_inputs: int
    reference: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    spacing: tuple[float, ...]
    change: tuple[float, ...]
    order: tuple[float, ...]
    drift: tuple[float, ...]
    error: tuple[float, ...] = ()
    tolerance: float = TOLERANCE
    min_order: float = MIN_ORDER
    max_growth: float = MAX_GROWTH

    @property
    def _from_reference(self) -> range:
        """The reference grid and the finer ones."""
        return range(self.shapes.index(self.reference), len(self.shapes))

    @property
    def observed_order(self) -> float:
        """Rate at which changes fall from the reference grid on; NaN if that cannot be fitted."""
        pairs = [(self.spacing[i], self.change[i]) for i in self._from_reference]
        pairs = [(h, e) for h, e in pairs if math.isfinite(e) and e > ROUNDING]
        if len(pairs) < 2:
            return math.nan
        h, e = np.log(np.array(pairs)).T
        return float(np.polyfit(h, e, 1)[0])

    @property
    def largest_drift(self) -> float:
        """Largest `drift` on a grid finer than the reference."""
        return max(self.drift[i] for i in self._from_reference[1:])

    @property
    def error_growth(self) -> float:
        """Largest error on a finer grid over that on the reference grid; NaN without solutions."""
        if not self.error:
            return math.nan
        own, *finer = (self.error[i] for i in self._from_reference)
        return max(finer) / own if own > 0 else math.inf

    @property
    def findings(self) -> dict[str, tuple[bool, str]]:
        """Each criterion: whether it holds, and the numbers."""
        changes = [self.change[i] for i in self._from_reference if math.isfinite(self.change[i])]
        order = self.observed_order
        if max(changes) <= ROUNDING:
            converges = True, f"the outputs agree to {max(changes):.1e}: rounding"
        elif math.isnan(order) and min(changes) <= ROUNDING:
            converges = True, f"changes fall from {max(changes):.1e} to rounding"
        elif math.isnan(order):
            converges = True, "too few grids for a rate: give two finer than the reference"
        else:
            converges = (
                order >= self.min_order,
                f"changes fall at order {order:.2f} (needed {self.min_order:g})",
            )
        drift = self.largest_drift
        found = {
            "converges": converges,
            "stays": (
                drift <= self.tolerance,
                f"on finer grids at most {drift:.3g} away from the output on "
                f"{_size(self.reference)} (allowed {self.tolerance:g})",
            ),
        }
        if self.error:
            growth = self.error_growth
            found["error"] = (
                growth <= self.max_growth,
                f"error on finer grids at most {growth:.3g} times that on "
                f"{_size(self.reference)} (allowed {self.max_growth:g})",
            )
        return found

    @property
    def agnostic(self) -> bool:
        """Whether all criteria hold."""
        return all(holds for holds, _ in self.findings.values())

    @property
    def verdict(self) -> str:
        """``"agnostic"`` or ``"tied to its grid"``."""
        return "agnostic" if self.agnostic else "tied to its grid"

    def as_dict(self) -> dict[str, Any]:
        """JSON types; numbers that do not exist are None."""
        columns = {k: getattr(self, k) for k in ("spacing", "change", "order", "drift", "error")}
        return {
            "model": self.model,
            "verdict": self.verdict,
            "agnostic": self.agnostic,
            "findings": {k: {"holds": h, "numbers": t} for k, (h, t) in self.findings.items()},
            "observed_order": _number(self.observed_order),
            "largest_drift": self.largest_drift,
            "error_growth": _number(self.error_growth),
            "inputs": self.inputs,
            "n_inputs": self.n_inputs,
            "reference": list(self.reference),
            "shapes": [list(s) for s in self.shapes],
            **{k: [_number(v) for v in values] for k, values in columns.items()},
            "tolerance": self.tolerance,
            "min_order": self.min_order,
            "max_growth": self.max_growth,
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> DiscretizationReport:
        """Inverse of `as_dict`."""

        def column(name: str) -> tuple[float, ...]:
            return tuple(math.nan if v is None else float(v) for v in d[name])

        return cls(
            d["model"], d["inputs"], d["n_inputs"], tuple(d["reference"]),
            tuple(tuple(s) for s in d["shapes"]), column("spacing"), column("change"),
            column("order"), column("drift"), column("error"), d["tolerance"], d["min_order"],
            d["max_growth"],
        )  # fmt: skip

    def __str__(self) -> str:
        names = ["grid", "change", "order", "drift"] + ["error"] * bool(self.error)
        lines = ["".join(f"{n:>12}" for n in names)]
        for i, shape in enumerate(self.shapes):
            numbers = [
                f"{self.change[i]:.3e}", f"{self.order[i]:.2f}", f"{self.drift[i]:.3e}",
                *([f"{self.error[i]:.3e}"] if self.error else []),
            ]  # fmt: skip
            cells = ["" if n == "nan" else n for n in numbers]
            lines.append(f"{_size(shape):>12}" + "".join(f"{n:>12}" for n in cells))
        lines += [f"{self.model}: {self.verdict}"]
        lines += [f"  {'yes' if h else 'no '}  {text}" for h, text in self.findings.values()]
        return "\n".join(lines)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Change, drift and error over the number of points, log-log; the reference marked."""
        from .plots import BLUE, GRAY, GREEN, ORANGE, _log_ticks, _new_axes

        ax = _new_axes() if ax is None else ax
        n = [max(s) for s in self.shapes]
        columns = {
            "change to the next grid": (self.change, BLUE, "o-"),
            "distance to the reference grid": (self.drift, ORANGE, "s--"),
            "error": (self.error, GREEN, "^:"),
        }
        for label, (values, color, style) in columns.items():
            y = np.array(values, float)
            if y.size and np.any(y > 0):
                shown = np.where(y > 0, y, np.nan)
                ax.plot(n, shown, style, color=color, lw=1.5, ms=5, label=label)
        ax.axhline(self.tolerance, color=ORANGE, lw=0.8, alpha=0.6, label="allowed distance")
        ax.axvline(max(self.reference), color=GRAY, lw=0.8, ls=":")
        ax.set(xscale="log", yscale="log", xlabel="points per axis [dimensionless]")
        ax.set(ylabel="relative L2 distance [dimensionless]")
        ax.set_xticks(n, [str(k) for k in n])
        ax.minorticks_off()
        span = ax.get_ylim()
        if span[1] < 1e3 * span[0]:
            _log_ticks(ax.yaxis, 100.0, " %")
        ax.set_title(f"{self.model}: {self.verdict}", fontsize="medium")
        ax.grid(alpha=0.3, lw=0.5)
        ax.legend(frameon=False, fontsize="small")
        return ax

    def figure(self) -> Figure:
        """Draw the plot alone."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        self.plot(ax=figure.subplots())
        return figure


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


# -- from outputs to a report --------------------------------------------------------------------


def certify(
    outputs: Sequence[np.ndarray],
    grids: Sequence[Grid],
    *,
    reference: Grid,
    model: str,
    inputs: str,
    components: Sequence[int] = (),
    truth: Sequence[np.ndarray] = (),
    tolerance: float = TOLERANCE,
    min_order: float = MIN_ORDER,
    max_growth: float = MAX_GROWTH,
) -> DiscretizationReport:
    """Compare outputs for the same functions on several grids.

    Outputs are compared on the points of the coarser grid; the finer one is interpolated there,
    exactly where grids are nested, by cubic polynomials or, on periodic axes, trigonometric ones
    elsewhere.

    Parameters
    ----------
    outputs : sequence of ndarray, shapes (n, channels, *grid.shape)
        Entry i of each belongs to the same input function.
    grids : sequence of Grid
        Of one domain and layout; `reference` is one of them.
    reference : Grid
    model, inputs : str
        For people.
    components : sequence of int
        Channels of each field: distances are relative within a field, and their mean counts.
        Default all channels together.
    truth : sequence of ndarray
        Solutions on the grids, shapes as `outputs`.
    tolerance, min_order, max_growth : float
        See `DiscretizationReport`.

    Returns
    -------
    DiscretizationReport

    Raises
    ------
    UsageError
        No grid finer than the reference, one grid given twice, or outputs that are not finite.
    """
    import torch

    if tolerance <= 0 or min_order <= 0 or max_growth <= 0:
        raise UsageError(
            f"tolerance={tolerance}, min_order={min_order}, max_growth={max_growth}: need numbers "
            "above 0"
        )
    ranked = sorted(range(len(grids)), key=lambda i: max(grids[i].spacing), reverse=True)
    grids = [grids[i] for i in ranked]
    fields = [torch.as_tensor(np.asarray(outputs[i], np.float64)) for i in ranked]
    truths = [torch.as_tensor(np.asarray(truth[i], np.float64)) for i in ranked if truth]
    shapes = [g.shape for g in grids]
    if len(set(shapes)) < len(shapes):
        raise UsageError(f"resolutions {[_size(s) for s in shapes]}: one is given twice")
    own = shapes.index(reference.shape)
    if own == len(grids) - 1:
        raise UsageError(
            f"resolutions {[_size(s) for s in shapes]}: need one finer than the reference grid "
            f"{_size(reference.shape)}"
        )
    for g, u in zip(grids, fields, strict=True):
        if tuple(u.shape[2:]) != g.shape:
            raise UsageError(
                f"the model gives {_size(u.shape[2:])} points on a grid of {_size(g.shape)}"
            )
        if not torch.isfinite(u).all():
            raise UsageError(f"the model gives values that are not finite on {_size(g.shape)}")
    sizes = list(components) or [fields[0].shape[1]]

    def compare(i: int, j: int) -> float:
        """Mean distance of the outputs on grids i < j (j finer), on the points of i."""
        return _distance(_at(fields[j], grids[j], grids[i]), fields[i], grids[i], sizes)

    change = [compare(i, i + 1) for i in range(len(grids) - 1)]
    h = [max(g.spacing) for g in grids]
    order = [math.nan]
    for i in range(1, len(change)):
        usable = min(change[i - 1], change[i]) > ROUNDING
        order.append(
            math.log(change[i - 1] / change[i]) / math.log(h[i - 1] / h[i]) if usable else math.nan
        )
    drift = [0.0 if i == own else compare(*sorted((i, own))) for i in range(len(grids))]
    error = [
        _distance(u, t, g, sizes) for u, t, g in zip(fields, truths, grids, strict=bool(truth))
    ]
    return DiscretizationReport(
        model, inputs, len(fields[0]), reference.shape, tuple(shapes), tuple(h),
        (*change, math.nan), (*order, math.nan)[: len(grids)], tuple(drift), tuple(error),
        tolerance, min_order, max_growth,
    )  # fmt: skip


def _at(u: Tensor, fine: Grid, coarse: Grid) -> Tensor:
    from models.nn_to_no.geometry import resample

    return resample(u, fine, coarse, "fourier")


def _distance(u: Tensor, v: Tensor, grid: Grid, components: Sequence[int]) -> float:
    """Mean over samples and fields of the relative L2 distance of u to v."""
    import torch

    w = torch.as_tensor(grid.weights)
    space = tuple(range(1, 2 + grid.dim))
    parts = []
    for a, b in zip(u.split(list(components), 1), v.split(list(components), 1), strict=True):
        top = ((a - b).square() * w).sum(space).sqrt()
        bottom = (b.square() * w).sum(space).sqrt()
        parts.append(torch.where(bottom > 0, top / bottom.clamp_min(1e-300), top))
    return float(torch.stack(parts).mean())


# -- from a model to outputs ---------------------------------------------------------------------


def discretization_report(
    model: Any,
    data: Any = None,
    *,
    resolutions: Sequence[int | Sequence[int]] = (32, 64, 128, 256),
    reference: int | Sequence[int] | None = None,
    n_inputs: int = 4,
    in_channels: int | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    min_order: float = MIN_ORDER,
    max_growth: float = MAX_GROWTH,
) -> DiscretizationReport:
    """Measure how the output of a model changes with the grid, and judge it.

    The same functions are given to the model on finer and finer grids.

    Parameters
    ----------
    model : path, GridOperator, torch.nn.Module or callable
        A run of ``opkit fit``, what `opkit.load` returns, or any function from arrays or tensors
        ``(n, in_channels, *space)`` to ``(n, out_channels, *space)``.
    data : optional
        What the inputs are. A problem (name or object), or a dataset that a problem has made: its
        inputs, and its solutions on every grid for the third criterion. A `Grid`: smooth random
        fields on its domain. None: the problem of the run; smooth fields on the grid of a
        registered model; else on the periodic unit square.
    resolutions : sequence
        Points per axis: a number, or one an axis.
    reference : optional
        Points per axis of the grid that the model belongs to. Default that of the training or of
        the model's construction; else the first of `resolutions`.
    n_inputs : int
    in_channels : int, optional
        Of a function of which it is not known; default 1.
    seed : int
        Of the inputs.
    tolerance, min_order, max_growth : float
        Criteria, see `DiscretizationReport`.

    Returns
    -------
    DiscretizationReport
        ``print`` it; it has ``verdict``, ``as_dict()`` and ``plot()``.

    Raises
    ------
    UsageError
        Bad arguments, data that do not fit, or a model that refuses a grid.

    Examples
    --------
    >>> report = discretization_report(lambda u: u**2, resolutions=(16, 32, 64))
    >>> report.verdict
    'agnostic'
    """
    if n_inputs < 1:
        raise UsageError(f"n_inputs={n_inputs}: need an integer >= 1")
    if isinstance(model, str | Path):
        from .operator import load

        model = load(model)
    rules: dict[str, Any] = {
        "tolerance": tolerance,
        "min_order": min_order,
        "max_growth": max_growth,
    }
    if hasattr(model, "description") and hasattr(model, "task"):
        from .tasks._grid_operator import GridOperator

        if not isinstance(model, GridOperator):
            raise UsageError(
                f"{model!r}: the certificate is for operators on grids, this one's task is "
                f"{model.task.name!r}"
            )
        problem = _problem_of(data if data is not None else model)
        return _of_operator(model, problem, resolutions, reference, n_inputs, seed, rules)
    if isinstance(data, str | Path) or hasattr(data, "sample"):
        raise UsageError(
            f"data={data!r}: a problem or dataset goes with a trained run, which knows the fields "
            "and their scales; for a bare model give a Grid, or nothing"
        )
    return _of_function(model, data, resolutions, reference, n_inputs, in_channels, seed, rules)


def _problem_of(data: Any) -> Problem:
    """Problem by name, of a dataset, or of the data an operator was trained on."""
    from pde_data.problem import Problem, get_problem, list_problems

    if isinstance(data, Problem):
        return data
    if hasattr(data, "description"):
        config = data.description["data"].get("config") or {}
        if not config.get("problem"):
            raise UsageError("data: the run does not say what problem its data came from; give one")
        return get_problem(config["problem"], **config.get("params", {}))
    if str(data) in list_problems():
        return get_problem(str(data))
    if not Path(data).exists():
        raise UsageError(
            f"data={str(data)!r}: neither a dataset nor a problem (opkit list problems)"
        )
    from pde_data.hdf5 import open_dataset

    from .evaluate import recreate

    dataset = open_dataset(data)
    problem, why = recreate(dataset, dataset[dataset.splits[0]])
    if problem is None:
        raise UsageError(f"data={str(data)!r}: {why}")
    return problem


def _of_operator(
    op: GridOperator,
    problem: Problem,
    resolutions: Sequence[int | Sequence[int]],
    reference: int | Sequence[int] | None,
    n: int,
    seed: int,
    rules: Mapping[str, Any],
) -> DiscretizationReport:
    from .tasks._grid_evaluation import solve_samples

    if problem.schema(problem.check_resolution(None)).grid.dim != op.grid.dim:
        raise UsageError(
            f"problem {problem.name!r} does not fit the operator, whose grid has {op.grid.dim} axes"
        )
    chosen = op.grid.shape if reference is None else reference
    shapes = _shapes([*resolutions, chosen], op.grid.dim)
    seeds = np.random.SeedSequence(seed).generate_state(n, np.uint64)
    outputs, truths, grids = [], [], []
    for shape in shapes:
        points = problem.check_resolution(shape)
        schema = problem.schema(points)
        if why := op.task.misfit(schema):
            raise UsageError(f"problem {problem.name!r} does not fit the operator: {why}")
        x, y = solve_samples(op, problem, seeds, points)
        outputs.append(_apply(op, x, points))
        truths.append(y)
        grids.append(schema.grid)
    return certify(
        outputs, grids, reference=grids[shapes.index(_shape(chosen, op.grid.dim))], model=op.name,
        inputs=f"problem {problem.name}, solved on each grid", truth=truths,
        components=op.task.out_components, **rules,
    )  # fmt: skip


def _of_function(
    model: Any,
    data: Grid | None,
    resolutions: Sequence[int | Sequence[int]],
    reference: int | Sequence[int] | None,
    n: int,
    in_channels: int | None,
    seed: int,
    rules: Mapping[str, Any],
) -> DiscretizationReport:
    known = getattr(model, "grid", None)
    known = known if isinstance(known, Grid) else None
    domain = data or known or Grid.unit(32, periodic=True)
    if not isinstance(domain, Grid):
        raise UsageError(f"data={data!r}: need a Grid, a problem or a dataset")
    if not callable(model):
        raise UsageError(f"model={model!r}: need a run, an operator or a function")
    if reference is None:
        reference = known.shape if known is not None else resolutions[0]
    shapes = _shapes([*resolutions, reference], domain.dim)
    channels = in_channels or int(getattr(model, "in_channels", 1))
    fields = smooth_fields(domain, n, channels, seed=seed)
    grids = [domain.resized(s) for s in shapes]
    outputs = [_apply(model, fields(g), g.shape) for g in grids]
    name = getattr(model, "__name__", type(model).__name__)
    return certify(
        outputs, grids, reference=domain.resized(_shape(reference, domain.dim)), model=name,
        inputs="smooth random fields", **rules,
    )  # fmt: skip


def _shape(resolution: int | Sequence[int], dim: int) -> tuple[int, ...]:
    given = (resolution,) * dim if isinstance(resolution, int | np.integer) else tuple(resolution)
    if len(given) != dim or min(given) < 4:
        raise UsageError(f"resolution {resolution}: need numbers >= 4, one or {dim}")
    return tuple(int(k) for k in given)


def _shapes(resolutions: Sequence[int | Sequence[int]], dim: int) -> list[tuple[int, ...]]:
    return sorted(dict.fromkeys(_shape(r, dim) for r in resolutions))


def smooth_fields(
    domain: Grid, n: int, channels: int, *, seed: int = 0, waves: int = 3
) -> Callable[[Grid], np.ndarray]:
    """Random functions with at most `waves` waves along each axis, one for all grids.

    Parameters
    ----------
    domain : Grid
    n, channels : int
    seed : int
    waves : int

    Returns
    -------
    callable
        Grid to values, float64, shape (n, channels, *grid.shape), of about unit size. Periodic
        along periodic axes.
    """
    rng = np.random.default_rng(seed)
    terms = 8
    # half waves where there are walls
    top = np.array([waves if p else 2 * waves for p in domain.periodic])
    k = rng.integers(-top, top + 1, size=(n, channels, terms, domain.dim))
    k[:, :, 0] = 1
    scale = np.array([2 * np.pi if p else np.pi for p in domain.periodic])
    phase = rng.uniform(0, 2 * np.pi, size=(n, channels, terms))
    size = rng.normal(size=(n, channels, terms)) * np.sqrt(2 / terms)

    def values(grid: Grid) -> np.ndarray:
        out = np.zeros((n, channels, *grid.shape))
        ones = (1,) * grid.dim
        angle = np.repeat(phase.reshape(n, channels, terms, *ones), 1, axis=0)
        for d, axis in enumerate(grid.axes):
            t = (axis.coords - axis.lower) / (axis.upper - axis.lower)
            shape = [1] * grid.dim
            shape[d] = -1
            wave = (k[..., d] * scale[d]).reshape(n, channels, terms, *ones)
            angle = angle + wave * t.reshape(shape)
        out += (size.reshape(n, channels, terms, *ones) * np.cos(angle)).sum(axis=2)
        return out

    return values


def _apply(model: Any, x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Apply a model sample by sample; float64."""
    import torch

    is_module = isinstance(model, torch.nn.Module)
    training = is_module and model.training
    if is_module:
        model.eval()
    first = (
        next((p for p in model.parameters() if p.is_floating_point()), None) if is_module else None
    )
    try:
        parts = []
        with torch.no_grad():
            for row in x:
                given: Any = row[None]
                if first is not None:
                    given = torch.as_tensor(given).to(first)
                elif not hasattr(model, "description"):
                    given = torch.as_tensor(given)
                y = model(given)
                if isinstance(y, torch.Tensor):
                    y = y.detach().cpu().double().numpy()
                parts.append(np.asarray(y, np.float64))
    except (ValueError, RuntimeError, IndexError) as e:
        first_line = " ".join(str(e).split())
        raise UsageError(f"the model does not accept {_size(shape)} points: {first_line}") from e
    finally:
        if training:
            model.train()
    return np.concatenate(parts)
