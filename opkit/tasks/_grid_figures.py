"""Pictures of an evaluation on grids, for the report page."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from solvers.grids import Axis

from ._task import Picture

__all__ = ["grid_figures"]

#: Output channels drawn of a sample; of more, this many evenly spread ones.
MOST = 6


def grid_figures(
    description: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Sequence[Picture]:
    """Best, median and worst sample, histogram of the errors, spectra; `GridTask.figures`."""
    from ..plots import (
        percent,
        plot_error_by_time,
        plot_error_histogram,
        plot_sample,
        plot_spectrum,
    )

    samples, task = evaluation["samples"], description["fields"]
    axes = _axes(task, samples["truth"].shape[2:])
    labels = _labels(task, "outputs")
    shown = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), MOST)).round().astype(int))
    pictures = []
    for i, role in enumerate(str(r) for r in samples["roles"]):
        error = _error_of(evaluation["per_sample"], int(samples["ids"][i]))
        figure = plot_sample(
            samples["inputs"][i],
            samples["truth"][i][shown],
            samples["prediction"][i][shown],
            [a.coords for a in axes],
            input_labels=_labels(task, "inputs"),
            output_labels=[labels[k] for k in shown],
            axis_names=[a.name for a in axes],
            axis_units=[a.units for a in axes],
        )
        known = "" if error is None else f", relative L2 error {percent(error)}"
        caption = f"{role} sample, id {samples['ids'][i]}{known}"
        alt = f"Input, truth, prediction and error: {caption}"
        pictures.append(Picture(figure, alt, caption, raster=True))
    errors = evaluation["per_sample"].get("rel_l2")
    if errors:
        histogram = plot_error_histogram(np.asarray(errors)).figure
        alt = "Histogram of the relative L2 error"
        pictures.append(Picture(histogram, alt, "Error of each sample.", pair=True))
    if evaluation.get("by_time"):
        curve = plot_error_by_time(evaluation["by_time"]).figure
        alt = "Relative L2 error against time"
        pictures.append(Picture(curve, alt, "Error at each stored time.", pair=True))
    if evaluation.get("spectrum"):
        spectrum = plot_spectrum(evaluation["spectrum"]).figure
        alt = "Energy spectrum of truth, prediction and error"
        caption = "Where the error meets the truth, the model resolves no finer scales."
        pictures.append(Picture(spectrum, alt, caption, pair=True))
    return pictures


def _error_of(per_sample: Mapping[str, list[Any]], sample_id: int) -> float | None:
    ids = [int(i) for i in per_sample.get("id", ())]
    return per_sample["rel_l2"][ids.index(sample_id)] if sample_id in ids else None


def _labels(task: Mapping[str, Any], role: str) -> list[str]:
    """Name and units of the input or output channels; vectors have one channel a component."""
    axes = [a["name"] for a in task["axes"]]
    labels = []
    for v in task[role]:
        components = ["".join(p) for p in itertools.product(axes, repeat=v["rank"])]
        moments = [f" at t={t:g}" for t in task.get("times", ())] if v.get("times") else [""]
        for moment, component in itertools.product(moments, components):
            name = (f"{v['name']}_{component}" if component else v["name"]) + moment
            labels.append(name if v["units"] in ("1", "") else f"{name} [{v['units']}]")
    return labels


def _axes(task: Mapping[str, Any], shape: Iterable[int]) -> list[Axis]:
    """Axes of the grid of the stored samples, whatever their resolution."""
    return [Axis(**{**a, "n": n}) for a, n in zip(task["axes"], shape, strict=True)]
