"""Pictures of the evaluation of a denoiser, for the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from solvers.grids import Axis

from ._task import Picture

__all__ = ["denoising_figures", "prior_line_figure", "prior_noise_figure"]


def denoising_figures(
    description: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Sequence[Picture]:
    """Best, median and worst sample, histogram of the errors, the prior."""
    from ..plots import percent, plot_error_histogram, plot_sample

    samples, task = evaluation["samples"], description["fields"]
    pictures = []
    if samples["clean"].ndim > 2:
        axes = [Axis(**a) for a in task["axes"]]
        space = samples["clean"].shape[2:]
        coords = [a.coords for a in axes] or [np.arange(n, dtype=float) for n in space]
        label = f"log {task['field']}" if task["log"] else task["field"]
        if task["units"] not in ("1", "") and not task["log"]:
            label = f"{label} [{task['units']}]"
        ids = [int(i) for i in evaluation["per_sample"].get("id", ())]
        for i, role in enumerate(str(r) for r in samples["roles"]):
            at = ids.index(int(samples["ids"][i]))
            error = evaluation["per_sample"]["rel_l2"][at]
            figure = plot_sample(
                samples["noisy"][i],
                samples["clean"][i],
                samples["denoised"][i],
                coords,
                input_labels=[label] * len(samples["clean"][i]),
                output_labels=[label] * len(samples["clean"][i]),
                axis_names=[a.name for a in axes] or ("x", "y", "z"),
                axis_units=[a.units for a in axes] or ("1", "1", "1"),
            )
            caption = (
                f"{role} sample, id {samples['ids'][i]}: noisy, clean, denoised, difference; "
                f"relative L2 error {percent(error)}"
            )
            pictures.append(Picture(figure, f"Denoising: {caption}", caption, raster=True))
    histogram = plot_error_histogram(np.asarray(evaluation["per_sample"]["rel_l2"])).figure
    alt = "Histogram of the relative L2 error"
    pictures.append(Picture(histogram, alt, "Error of each sample.", pair=True))
    if evaluation.get("prior_noise"):
        caption = (
            "Prior against noise added to clean fields: mean and range over samples, less the "
            "value at the clean field. A prior that knows the data rises."
        )
        figure = prior_noise_figure(evaluation["prior_noise"])
        pictures.append(Picture(figure, "Prior against noise", caption, pair=True))
    if evaluation.get("prior_line"):
        caption = "Prior along the line through two clean fields, at t = 0 and t = 1."
        figure = prior_line_figure(evaluation["prior_line"])
        pictures.append(Picture(figure, "Prior along a line", caption, pair=True))
    return pictures


def _axes() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(5.2, 3.4), layout="constrained").subplots()


def prior_noise_figure(table: Mapping[str, Sequence[float]]) -> Any:
    """R over sigma squared against noise; columns of ``prior_noise.csv``."""
    from ..plots import BLUE

    ax = _axes()
    level = np.asarray(table["noise_over_sigma"], float)
    ax.fill_between(level, table["low"], table["high"], color=BLUE, alpha=0.2, lw=0)
    ax.plot(level, table["mean"], color=BLUE, marker="o", lw=1.5)
    ax.set_xlabel("added noise / training noise")
    ax.set_ylabel(r"$R/\sigma^2$ above the clean field")
    return ax.figure


def prior_line_figure(table: Mapping[str, Sequence[float]]) -> Any:
    """R over sigma squared along a line; columns of ``prior_line.csv``."""
    from ..plots import BLUE

    ax = _axes()
    ax.plot(table["t"], table["value"], color=BLUE, lw=1.5)
    for t in (0.0, 1.0):
        ax.axvline(t, color="0.6", lw=0.8, ls=":")
    ax.set_xlabel("t in (1 - t) x0 + t x1")
    ax.set_ylabel(r"$R/\sigma^2$ above its least value")
    return ax.figure
