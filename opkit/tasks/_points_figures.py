"""Pictures of an evaluation at points, for the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._task import Picture

__all__ = ["points_figures"]


def points_figures(
    description: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Sequence[Picture]:
    """Best, median and worst sample, histogram of the errors; `PointsTask.figures`."""
    from ..plots import percent, plot_error_histogram

    samples, task = evaluation["samples"], description["fields"]
    ids = [int(i) for i in evaluation["per_sample"].get("id", ())]
    pictures = []
    for k, role in enumerate(str(r) for r in samples["roles"]):
        error = evaluation["per_sample"]["rel_l2"][ids.index(int(samples["ids"][k]))]
        caption = f"{role} sample, id {samples['ids'][k]}, relative L2 error {percent(error)}"
        part = {
            name: samples.get(f"{name}_{k}")
            for name in ("sensors", "input", "points", "truth", "prediction", "triangles")
        }
        figure = _draw(task, part)
        alt = f"Truth, prediction and error: {caption}"
        pictures.append(Picture(figure, alt, caption, raster=True))
    histogram = plot_error_histogram(np.asarray(evaluation["per_sample"]["rel_l2"])).figure
    alt = "Histogram of the relative L2 error"
    pictures.append(Picture(histogram, alt, "Error of each sample."))
    return pictures


def _with_units(name: str, units: str) -> str:
    return name if units in ("1", "") else f"{name} [{units}]"


def _draw(task: Mapping[str, Any], part: Mapping[str, Any]) -> Any:
    """One sample: curves over one coordinate, colors over two; of three, the last value."""
    from matplotlib.figure import Figure

    outputs = task["outputs"]
    label = _with_units(outputs[0]["name"], outputs[0]["units"])
    axes = [_with_units(c["name"], c["units"]) for c in task["coordinates"]]
    y = np.asarray(part["points"])
    truth, prediction = (np.asarray(part[k])[:, 0] for k in ("truth", "prediction"))
    triangles = part["triangles"]
    if y.shape[1] == 1:
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        order = np.argsort(y[:, 0])
        x = y[order, 0]
        left.plot(x, truth[order], label="truth", color="black")
        left.plot(x, prediction[order], "--", label="prediction", color="tab:orange")
        left.set(xlabel=axes[0], ylabel=label)
        left.legend()
        right.plot(x, np.abs(prediction - truth)[order], color="tab:red")
        right.set(xlabel=axes[0], ylabel=f"|error| of {label}")
        return figure
    if y.shape[1] > 2:  # the last slice
        keep = np.isclose(y[:, -1], y[:, -1].max())
        y, truth, prediction = y[keep, :2], truth[keep], prediction[keep]
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    subplots = figure.subplots(1, 3)
    low, high = float(min(truth.min(), prediction.min())), float(max(truth.max(), prediction.max()))
    signed = low < 0 < high
    size = max(abs(low), abs(high))
    colors: dict[str, Any] = (
        {"cmap": "RdBu_r", "vmin": -size, "vmax": size}
        if signed
        else {"cmap": "viridis", "vmin": low, "vmax": high}
    )
    error = np.abs(prediction - truth)
    shown: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("truth", truth, colors),
        ("prediction", prediction, colors),
        ("|error|", error, {"cmap": "magma"}),
    ]
    for ax, (title, values, style) in zip(subplots, shown, strict=True):
        if triangles is not None and len(truth) == len(np.asarray(part["truth"])):
            drawn: Any = ax.tripcolor(
                y[:, 0], y[:, 1], triangles, values, shading="gouraud", **style
            )
        else:
            drawn = ax.scatter(y[:, 0], y[:, 1], c=values, s=6, linewidths=0, **style)
        figure.colorbar(drawn, ax=ax, label=label if title != "|error|" else f"|error| of {label}")
        ax.set(title=title, xlabel=axes[0], ylabel=axes[1])
        if task["coordinates"][0]["units"] == task["coordinates"][1]["units"] and (
            task["coordinates"][1]["role"] == "space"
        ):
            ax.set_aspect("equal")
    return figure
