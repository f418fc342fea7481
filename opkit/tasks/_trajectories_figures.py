"""Pictures of the evaluation of a model of dynamical systems, for the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._task import Picture

__all__ = ["context_figure", "environment_figure", "portrait_figure", "trajectory_figures"]

#: Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
MARKERS = "osD^vP*X<>"


def trajectory_figures(
    description: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Sequence[Picture]:
    """Phase portraits, map of the contexts, errors by environment."""
    from ..plots import percent, plot_error_histogram

    task, table = description["fields"], evaluation["environments"]
    figure = portrait_figure(evaluation["samples"], table, task)
    what = "Phase portraits" if len(task["states"]) > 1 else "Trajectories"
    pictures = [
        Picture(
            figure,
            f"{what} of some environments",
            f"{what} of some environments: data (points) and predictions from the first state "
            "(lines from one stored time to the next).",
        )
    ]
    contexts = contexts_of(table)
    colors = "colors are experts" + (
        ", markers families" if set(table["family"]) != {"all"} else ""
    )
    if len(contexts) > 2:
        pictures.append(
            Picture(
                context_figure(table),
                "Map of the contexts",
                f"Contexts of the environments on their first two principal components: {colors}.",
                pair=True,
            )
        )
    pictures.append(
        Picture(
            environment_figure(table),
            "Errors by environment",
            f"Mean relative L2 error by environment; {colors}.",
            pair=len(contexts) > 2,
        )
    )
    ax = plot_error_histogram(evaluation["per_sample"]["rel_l2"])
    mean = percent(float(np.mean(evaluation["per_sample"]["rel_l2"])))
    pictures.append(
        Picture(ax.figure, "Histogram of the errors", f"Relative L2 by trajectory, mean {mean}.")
    )
    return pictures


def contexts_of(table: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """Contexts among the columns of ``environments.csv``, (N, c)."""
    names = [k for k in table if k.startswith("context")]
    return np.array([table[k] for k in names], float).T


def portrait_figure(
    samples: Mapping[str, np.ndarray],
    table: Mapping[str, Sequence[Any]],
    task: Mapping[str, Any],
) -> Any:
    """Draw the first two states against each other, or a single one against time."""
    from matplotlib.figure import Figure

    n = len(samples["environment"])
    columns = min(3, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(3.1 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    numbers = [float(e) for e in table["environment"]]
    states = task["states"]
    for ax, e, truth, found, times in zip(
        axes, samples["environment"], samples["truth"], samples["prediction"], samples["times"],
        strict=False,
    ):  # fmt: skip
        at = numbers.index(float(e))
        for k in range(len(truth)):
            color = COLORS[k % len(COLORS)]
            if len(states) > 1:
                ax.plot(found[k, :, 0], found[k, :, 1], color=color, lw=1.1)
                ax.plot(truth[k, :, 0], truth[k, :, 1], ".", color=color, ms=5)
            else:
                ax.plot(times[k], found[k, :, 0], color=color, lw=1.1)
                ax.plot(times[k], truth[k, :, 0], ".", color=color, ms=5)
        name = str(table["family"][at])
        kind = "" if name == "all" else f"{name}, "
        ax.set_title(
            f"{_text(table['name'][at])}\n{kind}expert {int(table['expert'][at])}", fontsize=9
        )
        units = "" if task["units"] in ("1", "") else f" [{task['units']}]"
        time = "" if task["time_units"] in ("1", "") else f" [{task['time_units']}]"
        ax.set_xlabel(f"{states[0]}{units}" if len(states) > 1 else f"time{time}")
        ax.set_ylabel(f"{states[1] if len(states) > 1 else states[0]}{units}")
    for ax in axes[n:]:
        ax.remove()
    return figure


def context_figure(table: Mapping[str, Sequence[Any]]) -> Any:
    """Contexts on their first two principal components; columns of ``environments.csv``."""
    values = contexts_of(table)
    centered = values - values.mean(axis=0)
    _, size, directions = np.linalg.svd(centered, full_matrices=False)
    flat = centered @ directions[:2].T
    if flat.shape[1] < 2:
        flat = np.column_stack([flat, np.zeros(len(flat))])
    power = size**2 / max(float((size**2).sum()), 1e-300)
    ax = _axes()
    _scatter(ax, flat[:, 0], flat[:, 1], table)
    if _named(table):
        for (x, y), name in zip(flat[:, :2], table["name"], strict=True):
            ax.annotate(_text(name), (x, y), (3, 3), textcoords="offset points", fontsize=7)
        ax.margins(0.1)
    ax.set_xlabel(f"first component ({power[0]:.0%} of the variance)")
    ax.set_ylabel(f"second component ({power[1] if len(power) > 1 else 0:.0%})")
    return ax.figure


def environment_figure(table: Mapping[str, Sequence[Any]]) -> Any:
    """Error by environment; columns of ``environments.csv``."""
    ax = _axes()
    numbers = np.array(table["environment"], float)
    _scatter(ax, numbers, np.array(table["rel_l2"], float), table)
    if _named(table):
        ax.set_xticks(numbers, [_text(n) for n in table["name"]], rotation=90, fontsize=8)
    ax.set_yscale("log")
    ax.set_xlabel("environment")
    ax.set_ylabel("mean relative L2 error")
    return ax.figure


def _named(table: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the environments have names, and are few enough to write these."""
    names = [_text(n) for n in table["name"]]
    return len(names) <= 24 and names != [f"{float(e):g}" for e in table["environment"]]


def _axes() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(5.2, 3.8), layout="constrained").subplots()


def _scatter(ax: Any, x: np.ndarray, y: np.ndarray, table: Mapping[str, Sequence[Any]]) -> None:
    """Points colored by expert, with a marker for each family."""
    family = np.array([str(f) for f in table["family"]])
    expert = np.array(table["expert"], int)
    for i, f in enumerate(dict.fromkeys(family)):
        mine = family == f
        ax.scatter(
            x[mine], y[mine], c=[COLORS[e % len(COLORS)] for e in expert[mine]], s=26,
            marker=MARKERS[i % len(MARKERS)], edgecolors="white", linewidths=0.4, zorder=3,
        )  # fmt: skip
        if f != "all":
            ax.plot([], [], MARKERS[i % len(MARKERS)], color="0.4", ms=5, label=f)
    for e in np.unique(expert):
        ax.plot([], [], "s", color=COLORS[e % len(COLORS)], ms=6, label=f"expert {e}")
    ax.grid(color="0.9", lw=0.6, zorder=0)
    outside = {"loc": "outside upper center", "ncols": 3}
    ax.figure.legend(fontsize=8, frameon=False, **outside)


def _text(value: Any) -> str:
    """Write a name as it was before the table was read: numbers without a point."""
    return f"{value:g}" if isinstance(value, float) else str(value)
