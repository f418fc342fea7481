"""Figures and page of an inversion: reconstructions, histories, the prior along a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from .pnp import InverseResult

__all__ = ["plot_convergence", "plot_line", "plot_reconstructions", "save_figures", "write_page"]


def plot_reconstructions(
    rows: Mapping[str, np.ndarray], *, error_of: tuple[str, str] | None = None, label: str = "",
    image: bool = False,
) -> Figure:  # fmt: skip
    """Columns of fields on one color scale, one row a sample; the error on its own.

    Parameters
    ----------
    rows : mapping
        Title -> fields, (n, n1[, n2]).
    error_of : (str, str), optional
        Titles of reconstruction and truth, for a last column.
    label : str
        Of the color bar.
    image : bool
        Photographs and digits: rows downward, gray; else the first axis is to the right.
    """
    from matplotlib.figure import Figure

    from opkit.plots import BLUE, ORANGE, _scale

    titles = list(rows)
    n = len(rows[titles[0]])
    k = len(titles) + (error_of is not None)
    figure = Figure(figsize=(2.4 * k + 0.8, 2.3 * n), layout="constrained")
    axes = figure.subplots(n, k, squeeze=False)
    flat = rows[titles[0]].ndim == 2
    for i in range(n):
        low, high, cmap = _scale(*(rows[t][i] for t in titles))
        if image:
            low, high, cmap = (*_range(rows[t][i] for t in titles), "gray")
        shown = None
        for j, title in enumerate(titles):
            ax = axes[i, j]
            if flat:
                ax.plot(rows[title][i], color=BLUE, lw=1.2)
                ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            else:
                shown = _show(ax, rows[title][i], image, vmin=low, vmax=high, cmap=cmap)
                ax.set(xticks=[], yticks=[])
            if i == 0:
                ax.set_title(title)
        if shown is not None:
            figure.colorbar(shown, ax=list(axes[i, : len(titles)]), shrink=0.85, label=label)
        if error_of is not None:
            ax = axes[i, -1]
            e = np.abs(rows[error_of[0]][i] - rows[error_of[1]][i])
            if flat:
                ax.plot(e, color=ORANGE, lw=1.2)
            else:
                figure.colorbar(_show(ax, e, image, vmin=0, cmap="magma"), ax=ax, shrink=0.85)
                ax.set(xticks=[], yticks=[])
            if i == 0:
                ax.set_title("|error|")
    return figure


def _range(arrays: Iterable[np.ndarray]) -> tuple[float, float]:
    kept = list(arrays)
    return min(float(a.min()) for a in kept), max(float(a.max()) for a in kept)


def _show(ax: Axes, values: np.ndarray, image: bool, **options: Any) -> AxesImage:
    origin: Literal["upper", "lower"] = "upper" if image else "lower"
    return ax.imshow(values if image else values.T, origin=origin, **options)


def plot_convergence(result: InverseResult, *, ax: Axes | None = None) -> Axes:
    """Residuals of all samples over iterations, log scale, the median thick.

    A sample that is done counts in the median with its last value.
    """
    from opkit.plots import BLUE, _new_axes

    ax = _new_axes() if ax is None else ax
    values = np.where(result.residuals > 0, result.residuals, np.nan)
    k = np.arange(1, len(values) + 1)
    ax.plot(k, values, color=BLUE, lw=0.6, alpha=0.4)
    held = values.copy()
    for before, row in pairwise(held):  # in place, so that values are handed on
        row[np.isnan(row)] = before[np.isnan(row)]
    known = np.isfinite(held).any(1)
    ax.plot(k[known], np.nanmedian(held[known], axis=1), color=BLUE, lw=2, label="median")
    ax.set(xlabel="iteration", ylabel="relative change", yscale="log")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_objective(result: InverseResult, *, ax: Axes | None = None) -> Axes:
    """Objective of all samples above the lowest it reached, log scale."""
    from opkit.plots import GREEN, _new_axes

    ax = _new_axes() if ax is None else ax
    values = result.objective[:, np.isfinite(result.objective).any(0)]
    above = values - np.nanmin(values, axis=0)
    ax.plot(np.arange(1, len(values) + 1), np.where(above > 0, above, np.nan), color=GREEN, lw=0.8)
    ax.set(xlabel="iteration", ylabel="objective above its lowest", yscale="log")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    return ax


def plot_line(line: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Negative log-prior along the line from start (0) to reconstruction (1)."""
    from opkit.plots import GRAY, ORANGE, _new_axes

    ax = _new_axes() if ax is None else ax
    ax.plot(line["t"], line["value"], color=ORANGE, lw=1.8)
    for t, name in ((0.0, "start"), (1.0, "reconstruction")):
        ax.axvline(t, color=GRAY, lw=0.8, ls=":")
        ax.annotate(name, (t, 1.0), xycoords=("data", "axes fraction"), fontsize="small",
                    ha="left", va="top", color=GRAY)  # fmt: skip
    ax.set(xlabel="position on the line", ylabel=r"$R/\sigma^2$ above its lowest")
    ax.grid(alpha=0.3, lw=0.5)
    return ax


def save_figures(
    directory: Path, given: Any, result: InverseResult, x: np.ndarray, record: Mapping[str, Any]
) -> list[tuple[str, Any, str]]:
    """Draw and save the figures as PNG; name, figure and caption of each."""
    directory.mkdir()
    pictures: list[tuple[str, Any, str]] = []
    n = min(3, len(x))
    if x.ndim in (2, 3):
        rows: dict[str, np.ndarray] = {}
        if given.data.shape[1:] == x.shape[1:]:
            rows["data"] = given.data[:n]
        rows["reconstruction"] = x[:n]
        both = None
        if given.truth is not None:
            rows["truth"] = np.exp(given.truth[:n]) if given.log else given.truth[:n]
            both = ("reconstruction", "truth")
        label = given.name if given.units in ("1", "") else f"{given.name} [{given.units}]"
        pictures.append(
            ("reconstruction",
             plot_reconstructions(rows, error_of=both, label=label, image=_is_image(record)),
             f"The first {n} of {len(x)} reconstructions by {record['method']}.")
        )  # fmt: skip
    if len(result.residuals) > 1:
        pictures.append(
            ("convergence", plot_convergence(result).figure, "Relative change in an iteration.")
        )
        if np.isfinite(result.objective).any():
            pictures.append(
                ("objective", plot_objective(result).figure,
                 "What is minimized, above its lowest value: it must not rise.")
            )  # fmt: skip
    line = record.get("prior_line")
    if line and "t" in line:
        pictures.append(
            ("prior_line", plot_line(line).figure,
             "The learned negative log-prior from the start to the reconstruction and beyond.")
        )  # fmt: skip
    for name, figure, _ in pictures:
        figure.savefig(directory / f"{name}.png", dpi=200)
    return pictures


def _is_image(record: Mapping[str, Any]) -> bool:
    name = record["data"].get("problem") or record["data"].get("operator")
    return name in ("deblurring", "compressed_sensing", "blur", "mask")


def write_page(path: Path, record: Mapping[str, Any], pictures: list[tuple[str, Any, str]]) -> None:
    """Write one self-contained page."""
    from opkit.report import _STYLE, _e, _figure, _table

    certificate = record["certificate"]
    rows: list[tuple[str, Any]] = [
        ("data", f"{record['data'].get('problem') or record['data'].get('operator')}, "
         f"{record['n_samples']} samples of {record['data']['source']}"),
        ("prior", record.get("model") and f"{record['model']}, {record['prior']}"),
        ("weight", f"{record['weight']:.4g}"),
        ("iterations", record["iterations"]),
        ("converged", f"{record['converged']} of {record['n_samples']}"),
        ("diverged", record["diverged"] or None),
        ("largest fixed-point residual", record["fixed_point_residual"]),
        ("restarts with a shorter step", record["restarts"] or None),
        ("residual over noise, squared", record.get("misfit_over_noise", {}).get("mean")),
        ("the same by the solver", record.get("misfit_over_noise_by_solver", {}).get("mean")),
    ]  # fmt: skip
    parts = [f"<h2>Reconstruction</h2>{_table(rows)}"]
    if certificate is not None:
        held = certificate["convergence"] == "yes" and certificate["map_consistency"] == "yes"
        marked = "".join(f'<p class="warn">{_e(r)}</p>' for r in certificate["reasons"])
        parts.append(
            f"<h2>Certificate: {'holds' if held else 'does not hold in full'}</h2>"
            + _table(
                [
                    ("convergence guaranteed", certificate["convergence"]),
                    ("condition", certificate["condition"]),
                    ("weight w", certificate["weight"]),
                    ("L, upper bound", f"{certificate['lipschitz']} "
                     f"({certificate['lipschitz_source']})"),
                    ("objective never rose", "yes" if certificate["monotone"] else "no"),
                    ("weight consistent with the noise", certificate["map_consistency"]),
                    ("(w / s) over noise² / sigma²", certificate["ratio"]),
                ]
            )
            + marked
        )  # fmt: skip
    found = record.get("errors")
    if found:
        head = "<tr><th>error</th><th>mean</th><th>median</th><th>worst</th></tr>"
        body = "".join(
            f"<tr><th>{_e(k)}</th>"
            + "".join(f'<td class="n">{v[c]:.4g}</td>' for c in ("mean", "median", "worst"))
            + "</tr>"
            for k, v in found.items()
        )
        parts.append(
            f'<h2>Against the truth</h2><div class="scroll"><table>{head}{body}</table></div>'
        )
    for name, figure, caption in pictures:
        parts.append(_figure(figure, caption, caption=caption, raster=name == "reconstruction"))
    line = record.get("prior_line")
    if line and "note" in line:
        parts.append(f'<p class="dim">{_e(line["note"])}</p>')
    title = f"Inversion by {record['method']}"
    path.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_e(title)}</h1>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n",
        encoding="utf-8",
    )
