"""One self-contained HTML page about a run: the data, the training, the errors, the comparison."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UsageError
from .plots import percent

if TYPE_CHECKING:
    from .tasks import Task

__all__ = ["report"]


def report(run: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the report of a run.

    The page holds everything in itself (images, styles) and requests nothing. What has not been
    computed yet is named with the command that computes it.

    Parameters
    ----------
    run : path
        Directory that ``opkit fit`` wrote.
    out : path, optional
        HTML file to write; default ``RUN/report.html``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        `run` is no run directory, or `out` is a directory or does not end in ``.html``.
    """
    run = Path(run)
    facts = _read_run(run)
    out = run / "report.html" if out is None else Path(out)
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"out={out}: need the name of an .html file")
    page = _page(facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.tmp")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


# -- reading the run -----------------------------------------------------------------------------


def _read_run(run: Path) -> dict[str, Any]:
    import yaml

    if not run.is_dir():
        raise UsageError(f"{run}: no such run directory; make one with opkit fit DATA -o {run}")
    if not (run / "operator.json").is_file():
        raise UsageError(f"{run}: no run of opkit fit (operator.json is missing)")
    facts: dict[str, Any] = {"run": run}
    try:
        facts["operator"] = json.loads((run / "operator.json").read_text(encoding="utf-8"))
        facts["config"] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        facts["history"] = _read_csv(run / "history.csv")
        facts["evaluations"] = {
            d.name: _read_evaluation(d)
            for d in sorted((run / "evaluation").glob("*"))
            if (d / "metrics.json").is_file()
        }
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise UsageError(f"{run}: the run is damaged: {' '.join(str(e).split())}") from e
    facts["data"] = _find_data(facts)
    return facts


def _read_evaluation(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "metrics": json.loads((directory / "metrics.json").read_text(encoding="utf-8")),
        "per_sample": _read_csv(directory / "per_sample.csv"),
    }
    found |= {p.stem: _read_csv(p) for p in sorted(directory.glob("*.csv"))}
    with np.load(directory / "samples.npz", allow_pickle=False) as samples:
        found["samples"] = {k: samples[k] for k in samples.files}
    return found


def _read_csv(path: Path) -> dict[str, list[Any]]:
    """Columns by name; numbers where all entries are numbers; empty if there is no such file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    columns: dict[str, list[Any]] = {k: [r[k] for r in rows] for k in (rows[0] if rows else {})}
    return {k: _numbers(v) for k, v in columns.items()}


def _numbers(texts: list[Any]) -> list[Any]:
    try:
        return [float(t) if t not in ("", None) else math.nan for t in texts]
    except ValueError:
        return texts


def _find_data(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Ask the dataset what it is, if it is where the configuration says and unchanged."""
    from pde_data.hdf5 import dataset_info

    stated = facts["config"].get("data")
    if not stated:
        return None
    try:
        info = dataset_info(stated)
    except (ValueError, OSError):
        return None
    digest = facts["operator"].get("data", {}).get("content_digest")
    return info if digest in (None, info["content_digest"]) else None


# -- the page ------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --fg: #1c1e21; --dim: #5b6470; --bg: #ffffff; --card: #f4f6f8;
  --line: #d9dee4; --accent: #0072b2; --warn: #9a4a00; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e8eb; --dim: #9aa4b0; --bg: #15181c;
  --card: #1e2329; --line: #353c45; --accent: #6bb8e8; --warn: #f0a45d; }
  img.equation { filter: invert(1); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 72ch; }
.dim { color: var(--dim); }
.warn { color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
  gap: .7rem; margin: 1.2rem 0; }
.tile { background: var(--card); border-radius: 8px; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.35rem; font-weight: 650; line-height: 1.3; }
.tile span { color: var(--dim); font-size: .84rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr));
  gap: 1rem; align-items: start; }
figure { margin: .8rem 0; background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .5rem; overflow-x: auto; }
figure img { display: block; width: 100%; max-width: 640px; height: auto; margin: 0 auto; }
figure.wide img { min-width: 760px; max-width: none; }
figcaption { color: #444; font-size: .85rem; padding: .2rem .3rem; }
img.equation { display: block; max-width: 100%; height: auto; margin: .8rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .28rem 1.1rem .28rem 0;
  border-bottom: 1px solid var(--line); }
table.pairs td { overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: .88em/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
pre { background: var(--card); padding: .7rem .9rem; border-radius: 8px; overflow-x: auto; }
@media print { figure, .tile { break-inside: avoid; } }
"""


def _page(facts: Mapping[str, Any]) -> str:
    operator = facts["operator"]
    title = f"{operator['model']} on {_problem(facts)}"
    sections = [
        _summary(facts),
        _data_section(facts),
        _training_section(facts),
        *(_evaluation_section(facts, split) for split in facts["evaluations"]),
    ]
    if not facts["evaluations"]:
        sections.append(_missing_evaluation(facts))
    sections.append(_reproduce(facts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_e(title)}</h1>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _e(value: Any) -> str:
    return html.escape(str(value))


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    """Two columns; values that are empty or None are left out."""
    body = "".join(
        f"<tr><th>{_e(name)}</th><td>{_e(value)}</td></tr>"
        for name, value in rows
        if value not in (None, "", [], {})
    )
    return f'<div class="scroll"><table class="pairs">{body}</table></div>'


def _figure(figure: Any, alt: str, *, caption: str = "", raster: bool = False) -> str:
    """Inline image: SVG for lines, PNG where fields are drawn."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    if raster:
        figure.savefig(buffer, format="png", dpi=120)
        kind = "image/png"
    else:
        with mpl.rc_context({"svg.hashsalt": "opkit"}):
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        kind = "image/svg+xml"
    data = base64.b64encode(buffer.getvalue()).decode()
    note = f"<figcaption>{_e(caption)}</figcaption>" if caption else ""
    wide = ' class="wide"' if raster else ""
    return f'<figure{wide}><img alt="{_e(alt)}" src="data:{kind};base64,{data}">{note}</figure>'


def _equation(latex: str) -> str:
    """LaTeX as an inline SVG by matplotlib; as text where matplotlib does not know a command."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    try:
        with mpl.rc_context({"svg.hashsalt": "opkit", "mathtext.fontset": "cm"}):
            figure = Figure()
            figure.text(0, 0, f"${latex.strip().strip('$')}$", fontsize=17)
            figure.savefig(
                buffer, format="svg", bbox_inches="tight", pad_inches=0.04, transparent=True,
                metadata={"Date": None},
            )  # fmt: skip
    except ValueError:
        return f"<pre>{_e(latex)}</pre>"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="equation" alt="{_e(latex)}" src="data:image/svg+xml;base64,{data}">'


def _seconds(value: float) -> str:
    """Write a time in the unit that a person would choose.

    >>> _seconds(0.00032), _seconds(1.5), _seconds(754)
    ('0.32 ms', '1.5 s', '12 min 34 s')
    """
    if value < 1.0:
        return f"{1000 * value:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _size(resolution: Any) -> str:
    return f"{resolution}" if isinstance(resolution, int) else " × ".join(map(str, resolution))


def _units(units: str) -> str:
    return "dimensionless" if units in ("1", "") else units


def _problem(facts: Mapping[str, Any]) -> str:
    data = facts["data"] or facts["operator"].get("data", {})
    return str(data.get("problem") or Path(str(facts["config"].get("data", "data"))).name)


# -- sections ------------------------------------------------------------------------------------


def _summary(facts: Mapping[str, Any]) -> str:
    tiles: list[tuple[str, str]] = []
    split = "test" if "test" in facts["evaluations"] else next(iter(facts["evaluations"]), None)
    if split:
        metrics = facts["evaluations"][split]["metrics"]
        name, title = next(iter(_task(facts).metrics.items()))
        error = metrics[name]
        shown = percent if name.startswith("rel_") else "{:.3g}".format
        tiles += [
            (shown(error["mean"]), f"{title} error, mean on {split}"),
            (shown(error["median"]), "median"),
            (shown(error["max"]), f"worst of {metrics['n_samples']} samples"),
        ]
        if "seconds_per_sample" in metrics:
            tiles.append((_seconds(metrics["seconds_per_sample"]), "for one prediction"))
    n = facts["operator"].get("n_parameters")
    if n:
        tiles.append((f"{n:,}", "parameters"))
    seconds = facts["history"].get("seconds")
    if seconds:
        tiles.append((_seconds(seconds[-1]), "training"))
    boxes = "".join(f'<div class="tile"><b>{_e(v)}</b><span>{_e(k)}</span></div>' for v, k in tiles)
    return f'<p class="dim">{_e(facts["run"].name)}</p><div class="tiles">{boxes}</div>'


def _data_section(facts: Mapping[str, Any]) -> str:
    info = facts["data"]
    head = '<h2 id="data">The data</h2>'
    if info is None:
        stated = facts["config"].get("data")
        return (
            f'{head}<p class="warn">The dataset {_e(stated)} is not here, or has changed since the '
            "training, so it is not described. Run <code>opkit report</code> where it lies.</p>"
        )
    fields = {f["name"]: f for f in info["fields"]}

    def describe(names: Iterable[str]) -> str:
        return "; ".join(
            f"{n}: {fields[n]['long_name']} [{_units(fields[n]['units'])}]"
            + _bounds(fields[n]["valid_min"], fields[n]["valid_max"])
            for n in names
            if n in fields
        )

    axes = "; ".join(
        f"{a['name']} from {a['bounds'][0]:g} to {a['bounds'][1]:g} [{_units(a['units'])}], "
        f"{a['n']} {'cells' if a['location'] == 'cell_center' else 'nodes'}"
        + (", periodic" if a["periodic"] else "")
        for a in info["axes"]
    )
    walls = "; ".join(
        f"{b['axis']}{'' if b['side'] == 'both' else ' ' + b['side']}: {b['kind']} "
        f"{', '.join(b['fields'])}" + ("" if b["kind"] == "periodic" else f" = {b['value']:g}")
        for b in info["boundary_conditions"]
    )
    scalars = "; ".join(
        f"{s['name']}: {s['long_name']} [{_units(s['units'])}]"
        + ("" if s["value"] is None else f" = {s['value']:g}")
        for s in info["scalars"]
    )
    made = info["made_by"]
    parameters = (info.get("config") or {}).get("params") or {}
    table = _table(
        [
            ("title", info["title"]),
            ("domain and grid", axes),
            ("inputs", describe(info["inputs"])),
            ("outputs", describe(info["outputs"])),
            ("boundary conditions", walls),
            ("scalars", scalars),
            ("parameters", ", ".join(f"{k} = {v}" for k, v in parameters.items() if v is not None)),
            ("solver", f"{made['solver']}, relative tolerance {made['solver_tolerance']}"),
            ("discretization", made["discretization"]),
            ("seed", made["seed"]),
            ("made by", f"opkit {made['opkit_version']}"),
            ("license", made["license"]),
            ("content digest", info["content_digest"]),
        ]
    )
    return (
        head
        + (_equation(info["equation"]) if info["equation"] else "")
        + table
        + _quality_table(info["splits"])
    )


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" in [{low:g}, {high:g}]"
    if low is not None:
        return f" ≥ {low:g}"
    return "" if high is None else f" ≤ {high:g}"


def _quality_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    head = (
        "<tr><th>split</th><th>samples</th><th>failed</th><th>largest residual</th>"
        "<th>discretization error, mean (max)</th><th>solver time a sample</th></tr>"
    )
    rows = ""
    for name, s in splits.items():
        error = s.get("discretization_error", {"n": 0})
        estimate = (
            f"{error['mean']:.1e} ({error['max']:.1e}), {error['n']} samples, {s['estimator']}"
            if error["n"]
            else "not estimated"
        )
        residual = f"{s['residual_max']:.1e}" if "residual_max" in s else "unknown"
        mean = s.get("wall_time_mean", math.nan)  # NaN of imported data
        seconds = _seconds(mean) if math.isfinite(mean) else "unknown"
        cells = [s["samples"], s["failures"], residual, estimate, seconds]
        rows += f"<tr><th>{_e(name)}</th>" + "".join(f'<td class="n">{_e(c)}</td>' for c in cells)
        rows += "</tr>"
    return (
        '<h3>Evidence</h3><p class="dim">Residuals are recomputed after the solve. The '
        "discretization error is the estimated relative L2 distance of the stored solution to the "
        "continuous one: an operator's error below it says nothing about the equation.</p>"
        f'<div class="scroll"><table>{head}{rows}</table></div>'
    )


def _training_section(facts: Mapping[str, Any]) -> str:
    from .plots import plot_history

    operator, config, history = facts["operator"], facts["config"], facts["history"]
    options = operator.get("options", {})
    left = "<h3>Model</h3>" + _table(
        [
            ("model", operator["model"]),
            ("task", operator.get("task")),
            ("parameters", f"{operator['n_parameters']:,}" if "n_parameters" in operator else None),
            *options.items(),
        ]
    )
    shown = {k: v for k, v in config.items() if k not in ("data", "model", "out", "options", "set")}
    right = "<h3>Training</h3>" + _table(shown.items())
    curves = ""
    if history:
        axes = plot_history(history)
        curves = _figure(
            axes.figure,
            "Training and validation curves over epochs",
            caption="The weights kept are those of the best epoch on the validation split.",
        )
    return (
        f'<h2 id="training">Model and training</h2><div class="pair"><div>{left}</div>'
        f"<div>{right}</div></div>{curves}"
    )


#: What the training knows of a split.
_SEEN = {
    "train": " that the model was trained on",
    "valid": " that chose the epoch",
    "test": " that the training never saw",
}


def _seen(facts: Mapping[str, Any], split: str) -> str:
    data = facts["operator"].get("data", {})
    if "adapted_from" not in data:
        return _SEEN.get(split, "")
    fitted = split == data.get("adapted_on")
    return " of the new environments" + (", that their contexts were fitted to" if fitted else "")


def _evaluation_section(facts: Mapping[str, Any], split: str) -> str:
    found = facts["evaluations"][split]
    metrics = found["metrics"]
    resolution = metrics["data"]["resolution"]
    parts = [
        f'<h2 id="{_e(split)}">Errors on {_e(split)}</h2>',
        f'<p class="dim">{metrics["n_samples"]} samples{_seen(facts, split)}'
        f"{f', resolution {_size(resolution)}' if resolution else ''}.</p>",
        _metrics_table(metrics, {**_task(facts).metrics, **_task(facts).titles}),
        _worse_than_data(facts, split),
    ]  # fmt: skip
    task = _task(facts)
    row: list[str] = []
    for picture in task.figures(facts["operator"], found):
        html = _figure(picture.figure, picture.alt, caption=picture.caption, raster=picture.raster)
        if picture.pair:
            row.append(html)
        if not picture.pair or len(row) == 2:
            parts += [f'<div class="pair">{"".join(row)}</div>'] * bool(row)
            row = []
        if not picture.pair:
            parts.append(html)
    parts += [f'<div class="pair">{"".join(row)}</div>'] * bool(row)
    parts.append(task.report_html(found))
    return "\n".join(parts)


def _task(facts: Mapping[str, Any]) -> type[Task]:
    from .tasks import get_task

    return get_task(facts["operator"].get("task", "grid"))


def _metrics_table(metrics: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    head = (
        "<tr><th>error</th><th>mean</th><th>median</th><th>95 %</th><th>worst</th>"
        "<th>worst sample</th></tr>"
    )
    rows = ""
    for key, title in titles.items():
        m = metrics.get(key)
        if not m:
            continue
        cells = [f"{m[k]:.4g}" for k in ("mean", "median", "p95", "max")] + [m["worst_id"]]
        rows += f"<tr><th>{title}</th>" + "".join(f'<td class="n">{_e(c)}</td>' for c in cells)
        rows += "</tr>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _worse_than_data(facts: Mapping[str, Any], split: str) -> str:
    """Warn where the model's error is below that of its training data."""
    info = facts["data"] or {"splits": {}}
    estimate = info["splits"].get(split, {}).get("discretization_error", {"n": 0})
    if not estimate["n"]:
        return ""
    model = facts["evaluations"][split]["metrics"].get("rel_l2", {}).get("mean", math.inf)
    if model >= estimate["mean"]:
        return ""
    return (
        f'<p class="warn">The model\'s mean error {percent(model)} lies below the estimated '
        f"discretization error of the data, {percent(estimate['mean'])}: against the continuous "
        "solution it is no better than the data. Use a finer resolution to claim more.</p>"
    )


def comparison_html(metrics: Mapping[str, Any]) -> str:
    from .plots import plot_comparison

    c = metrics.get("comparison")
    head = "<h3>Compared with the numerical solver</h3>"
    if not c:
        return (
            f'{head}<p class="dim">None: {_e(metrics.get("comparison_note", "not measured"))}.</p>'
        )
    error = metrics["rel_l2"]["mean"]
    break_even = c["break_even"]
    if break_even == "never":
        verdict = (
            f"<b>The model never pays off here:</b> the solver reaches the model's accuracy in "
            f"{_seconds(c['solver_seconds'])}, the model needs {_seconds(c['model_seconds'])}."
        )
    else:
        verdict = (
            f"<b>The model pays off after {float(break_even):,.0f} solves.</b> The solver "
            f"reaches the model's accuracy in {_seconds(c['solver_seconds'])}, the model needs "
            f"{_seconds(c['model_seconds'])}."
        )
    table = _table(
        [
            ("solver", f"{c['solver']}, resolution {_size(c['resolution'])}"),
            ("its error there", percent(c["solver_error"])),
            ("its time for one solution", _seconds(c["solver_seconds"])),
            ("the model's error", percent(error)),
            ("the model's time for one solution", _seconds(c["model_seconds"])),
            ("making the training data took", _seconds(c["generate_seconds"])),
            ("training took", _seconds(c["train_seconds"])),
            (
                "break-even",
                break_even if break_even == "never" else f"{float(break_even):,.0f} solves",
            ),
        ]
    )
    axes = plot_comparison(c, model_error=error, data_resolution=metrics["data"]["resolution"])
    figure = _figure(
        axes.figure,
        "Error over time: the solver on several grids and the model",
        caption="The model wins where it lies below and left of the solver's curve.",
    )
    return (
        f"{head}<p>{verdict} Break-even is the number of solutions from which data, training and "
        "predictions together cost less than the solver at the same accuracy.</p>"
        f'<div class="pair"><div>{table}</div>{figure}</div>'
    )


def certificate_html(metrics: Mapping[str, Any]) -> str:
    """How the output depends on the grid; empty if that was not measured."""
    from .discretization import DiscretizationReport

    if not metrics.get("discretization"):
        return ""
    report = DiscretizationReport.from_dict(metrics["discretization"])
    rows = "".join(
        f"<tr><td>{'yes' if holds else 'no'}</td><td>{_e(text)}</td></tr>"
        for holds, text in report.findings.values()
    )
    figure = _figure(
        report.figure(),
        "Change of the output from grid to grid, distance to the reference grid, and error",
        caption="The dotted line is the grid of the training; the horizontal one the allowed "
        "distance.",
    )
    return (
        f"<h3>Dependence on the grid: {_e(report.verdict)}</h3><p>The same {report.n_inputs} "
        f"inputs ({_e(report.inputs)}) on finer and finer grids; distances are relative L2.</p>"
        f'<div class="pair"><div><table>{rows}</table></div>{figure}</div>'
    )


def _missing_evaluation(facts: Mapping[str, Any]) -> str:
    stated, run = facts["config"].get("data", "DATA"), _e(facts["run"])
    return (
        '<h2 id="test">Errors</h2><p>This run has not been evaluated. For errors, plots of the '
        "best, median and worst sample, spectrum, timings and the comparison with the solver:</p>"
        f"<pre>opkit evaluate {run} {_e(stated)}\nopkit report {run}</pre>"
    )


def _again(run: Path) -> str:
    if not (run / "adapt.json").is_file():
        return f"opkit fit --config {_e(run / 'config.yaml')} -o NEW_RUN"
    given = json.loads((run / "adapt.json").read_text("utf-8"))["settings"]
    names = ("split", "n_trajectories", "route", "steps", "lr")
    more = (f"--{k.replace('_', '-')} {given[k]}" for k in names if given[k] is not None)
    return _e(f"opkit adapt {given['run']} {given['data']} -o NEW_RUN {' '.join(more)}")


def _reproduce(facts: Mapping[str, Any]) -> str:
    software = facts["operator"].get("software", {})
    return (
        '<h2 id="again">Use it, make it again</h2>'
        "<pre>import opkit\n\n"
        f"operator = opkit.load({_e(repr(str(facts['run'])))})\n"
        f"{_e(_task(facts).usage)}</pre>"
        f"<pre>{_again(facts['run'])}</pre>" + _table(software.items())
    )
