"""Figures: fields on honest scales, training curves, errors, spectra, solver against model.

matplotlib is imported when a figure is drawn, and no window is opened. Functions that fill one
axes take ``ax=None`` and return it; functions that lay out a row return the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_comparison",
    "plot_error_histogram",
    "plot_field",
    "plot_history",
    "plot_sample",
    "plot_spectrum",
]

#: Colors that people with color blindness tell apart (Okabe & Ito).
BLUE, ORANGE, GREEN, GRAY = "#0072b2", "#d55e00", "#009e73", "#666666"


def _new_axes(width: float = 5.2, height: float = 3.4) -> Axes:
    from matplotlib.figure import Figure

    axes: Axes = Figure(figsize=(width, height), layout="constrained").subplots()
    return axes


def percent(value: float) -> str:
    """``"12.34 %"``; two digits below 0.1 %."""
    return f"{100 * value:.2f} %" if value >= 1e-3 else f"{100 * value:.2g} %"


def _with_units(name: str, units: str = "1") -> str:
    return name if units in ("1", "") else f"{name} [{units}]"


def _scale(*arrays: np.ndarray) -> tuple[float, float, str]:
    """Limits and color map: viridis, or a diverging map centered at 0 for fields of both signs."""
    finite = [a[np.isfinite(a)] for a in arrays]
    low = min((float(a.min()) for a in finite if a.size), default=0.0)
    high = max((float(a.max()) for a in finite if a.size), default=1.0)
    # rounding below zero, or one tail of an otherwise positive field, is no change of sign
    if low < -0.1 * high and high > -0.1 * low:
        top = max(-low, high)
        return -top, top, "RdBu_r"
    return low, high, "viridis"


def _extent(coords: Sequence[np.ndarray]) -> tuple[float, ...]:
    """Outer edges of the pixels around the points."""
    ends: list[float] = []
    for c in coords:
        half = 0.5 * float(c[1] - c[0])
        ends += [float(c[0]) - half, float(c[-1]) + half]
    return tuple(ends)


def plot_field(
    values: np.ndarray,
    coords: Sequence[np.ndarray],
    *,
    ax: Axes | None = None,
    title: str = "",
    label: str = "",
    axis_names: Sequence[str] = ("x", "y", "z"),
    axis_units: Sequence[str] = ("1", "1", "1"),
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str | None = None,
) -> Axes:
    """One scalar field on a grid: a line in 1-D, an image in 2-D, the middle slice in 3-D.

    Parameters
    ----------
    values : ndarray, shape (n1[, n2[, n3]])
        ``values[i, j]`` is the value at ``(coords[0][i], coords[1][j])``.
    coords : sequence of ndarray
        Uniform coordinates, one array an axis.
    ax : Axes, optional
    label : str
        Of the color bar (of the vertical axis in 1-D), with units.
    axis_names, axis_units : sequence of str
        ``"1"`` is dimensionless.
    vmin, vmax, cmap
        Color scale; taken from the values by default.

    Returns
    -------
    Axes
    """
    values = np.asarray(values)
    if values.ndim not in (1, 2, 3) or values.shape != tuple(len(c) for c in coords):
        raise ValueError(
            f"values has shape {values.shape}, expected {tuple(len(c) for c in coords)} "
            "(1, 2 or 3 axes, as many points as coords)"
        )
    ax = _new_axes() if ax is None else ax
    if values.ndim == 3:
        middle = values.shape[2] // 2
        at = f"{axis_names[2]} = {coords[2][middle]:.3g}"
        title = f"{title}, {at}" if title else at
        values = values[:, :, middle]
    low, high, chosen = _scale(values)
    vmin, vmax = low if vmin is None else vmin, high if vmax is None else vmax
    ax.set_title(title)
    ax.set_xlabel(_with_units(axis_names[0], axis_units[0]))
    if values.ndim == 1:
        ax.plot(coords[0], values, color=BLUE, lw=1.5)
        pad = 0.05 * (vmax - vmin) or 1.0
        ax.set_ylim(vmin - pad, vmax + pad)
        ax.set_ylabel(label)
        return ax
    image = ax.imshow(
        values.T,
        origin="lower",
        extent=_extent(coords[:2]),  # type: ignore[arg-type]
        vmin=vmin,
        vmax=vmax,
        cmap=cmap or chosen,
        interpolation="nearest",
        aspect="equal",
    )
    ax.set_ylabel(_with_units(axis_names[1], axis_units[1]))
    bar = ax.figure.colorbar(image, ax=ax, label=label)
    bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]
    return ax


def plot_sample(
    inputs: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    coords: Sequence[np.ndarray],
    *,
    input_labels: Sequence[str] = (),
    output_labels: Sequence[str] = (),
    axis_names: Sequence[str] = ("x", "y", "z"),
    axis_units: Sequence[str] = ("1", "1", "1"),
    title: str = "",
) -> Figure:
    """Input, truth, prediction and absolute error in one row for each output channel.

    Truth and prediction share one scale; the error has its own.

    Parameters
    ----------
    inputs : ndarray, shape (c_in, n1[, n2[, n3]])
        The first channel is drawn beside the first output, the second beside the second, ...
    truth, prediction : ndarray, shape (c_out, n1[, n2[, n3]])
    coords : sequence of ndarray
    input_labels, output_labels : sequence of str
        Name and units of each channel.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
    rows = max(len(truth), len(inputs))
    height = 2.75 * rows + (0.3 if title else 0.0)
    figure = Figure(figsize=(13.0, height), layout="compressed")
    axes = figure.subplots(rows, 4, squeeze=False)
    names = {"axis_names": axis_names, "axis_units": axis_units}
    for row in range(rows):
        if row < len(inputs):
            label = input_labels[row] if row < len(input_labels) else ""
            plot_field(inputs[row], coords, ax=axes[row, 0], title="input", label=label, **names)  # type: ignore[arg-type]
        else:
            axes[row, 0].set_axis_off()
        if row >= len(truth):
            for ax in axes[row, 1:]:
                ax.set_axis_off()
            continue
        label = output_labels[row] if row < len(output_labels) else ""
        low, high, cmap = _scale(truth[row], prediction[row])
        shared: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": cmap, "label": label, **names}
        plot_field(truth[row], coords, ax=axes[row, 1], title="truth", **shared)
        plot_field(prediction[row], coords, ax=axes[row, 2], title="prediction", **shared)
        error = np.abs(prediction[row] - truth[row])
        own: dict[str, Any] = {"vmin": 0.0, "cmap": "magma", "label": label, **names}
        plot_field(error, coords, ax=axes[row, 3], title="|error|", **own)
    if title:
        figure.suptitle(title)
    # the first layout sees tick labels that drawing then changes
    figure.draw_without_rendering()
    return figure


def plot_history(history: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """Training and validation curves over epochs, log scale, the chosen epoch marked.

    Parameters
    ----------
    history : mapping
        Columns of ``history.csv``; of ``train_loss``, ``valid_loss``, ``valid_rel_l2``,
        ``valid_rel_h1`` those that exist and hold positive numbers are drawn.
    """
    from matplotlib.ticker import MaxNLocator

    ax = _new_axes() if ax is None else ax
    epochs = np.asarray(history["epoch"], dtype=float)
    columns = {
        "train_loss": ("training loss", BLUE, "-"),
        "valid_loss": ("validation loss", ORANGE, "-"),
        "valid_rel_l2": ("validation relative L2", GREEN, "--"),
        "valid_rel_h1": ("validation relative H1", GRAY, ":"),
    }
    marker = "o" if len(epochs) < 3 else None
    for name, (label, color, style) in columns.items():
        y = np.asarray(history.get(name, ()), dtype=float)
        if y.size == epochs.size and np.any(y > 0):
            ax.plot(epochs, y, style, color=color, label=label, lw=1.5, marker=marker)
    chosen = np.asarray(history.get("valid_rel_l2", ()), dtype=float)
    if chosen.size == epochs.size and np.any(np.isfinite(chosen)):
        best = int(np.nanargmin(chosen))
        ax.plot(
            epochs[best],
            chosen[best],
            "o",
            color=GREEN,
            ms=6,
            label=f"kept: epoch {epochs[best]:g}",
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(yscale="log", xlabel="epoch", ylabel="relative error, loss [dimensionless]")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_error_histogram(
    errors: np.ndarray, *, ax: Axes | None = None, name: str = "relative L2 error"
) -> Axes:
    """Histogram of the errors per sample with median and 95 % quantile.

    Parameters
    ----------
    errors : ndarray, shape (n,)
        Positive; drawn on a log axis.
    """
    ax = _new_axes() if ax is None else ax
    errors = np.asarray(errors, dtype=float)
    positive = errors[np.isfinite(errors) & (errors > 0)]
    if positive.size:
        low, high = float(positive.min()), float(positive.max())
        if high <= low * 1.001:
            low, high = low / 1.5, high * 1.5
        bins = np.geomspace(low, high, max(8, min(40, int(2 * np.sqrt(positive.size)))))
        ax.hist(positive, bins=bins.tolist(), color=BLUE, alpha=0.75)
        for q, label, style in ((0.5, "median", "-"), (0.95, "95 %", "--")):
            at = float(np.quantile(positive, q))
            ax.axvline(at, color=ORANGE, ls=style, lw=1.5, label=f"{label}: {at:.2%}")
        ax.legend(frameon=False, fontsize="small")
    ax.set(xscale="log", xlabel=f"{name} [dimensionless]", ylabel="number of samples")
    _log_ticks(ax.xaxis, 100.0, " %")
    return ax


def _log_ticks(axis: Any, scale: float, unit: str = "") -> None:
    """Ticks at 1, 2 and 5 times powers of ten, times `scale`: legible over less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:g}{unit}"))
    axis.set_minor_formatter(NullFormatter())


def plot_error_by_time(
    table: Mapping[str, Sequence[float]], *, ax: Axes | None = None, units: str = "1"
) -> Axes:
    """Mean, median and largest relative error of the samples against time, log scale.

    Parameters
    ----------
    table : mapping
        Columns ``time``, ``mean``, ``median``, ``max``.
    """
    ax = _new_axes() if ax is None else ax
    styles = {"mean": (BLUE, "-"), "median": (GREEN, "--"), "max": (GRAY, ":")}
    for name, (color, style) in styles.items():
        ax.plot(table["time"], table[name], style, color=color, label=name, lw=1.5)
    ax.set(yscale="log", xlabel=_with_units("time", units), ylabel="relative L2 error")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_spectrum(spectrum: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """Energy over the wave number: truth, prediction and error.

    Parameters
    ----------
    spectrum : mapping
        Columns of ``spectrum.csv``: ``k``, ``truth``, ``prediction``, ``error``.
    """
    ax = _new_axes() if ax is None else ax
    k = np.asarray(spectrum["k"], dtype=float)
    styles = {"truth": (BLUE, "-"), "prediction": (ORANGE, "--"), "error": (GRAY, ":")}
    for name, (color, style) in styles.items():
        y = np.asarray(spectrum[name], dtype=float)
        shown = (k > 0) & (y > 0)
        ax.plot(k[shown], y[shown], style, color=color, label=name, lw=1.5)
    ax.set(xscale="log", yscale="log", xlabel="wave number k", ylabel="energy (mean over samples)")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_comparison(
    comparison: Mapping[str, Any],
    *,
    model_error: float,
    data_resolution: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Error over time of the numerical solver on several grids, and where the model lies.

    Below and left of the curve the model is better than the solver; above and right of it, worse.

    Parameters
    ----------
    comparison : mapping
        ``comparison`` of ``metrics.json``.
    model_error : float
        Relative L2 error of the model.
    data_resolution : sequence of int, optional
        Grid of the truth; the solver's point there is left out, as it has no error against itself.
    """
    ax = _new_axes() if ax is None else ax
    own = None if data_resolution is None else list(data_resolution)
    curve = [p for p in comparison.get("curve", ()) if list(p["resolution"]) != own]
    curve.sort(key=lambda p: p["resolution"])
    if curve:
        seconds = [p["seconds"] for p in curve]
        errors = [p["error"] for p in curve]
        ax.plot(seconds, errors, "o-", color=BLUE, lw=1.5, label=f"solver ({comparison['solver']})")
        for p in curve:
            size = p["resolution"][0]
            ax.annotate(
                f"{size}", (p["seconds"], p["error"]), textcoords="offset points", xytext=(5, 4),
                fontsize="small", color=GRAY,
            )  # fmt: skip
    ax.plot(comparison["model_seconds"], model_error, "*", color=ORANGE, ms=14, label="model")
    ax.set(xscale="log", yscale="log", xlabel="time for one solution [ms]")
    ax.set_ylabel("relative L2 error [dimensionless]")
    _log_ticks(ax.xaxis, 1000.0)
    _log_ticks(ax.yaxis, 100.0, " %")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    ax.legend(frameon=False, fontsize="small")
    return ax
