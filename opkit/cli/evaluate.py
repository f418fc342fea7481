"""``opkit evaluate``: errors of a run on a dataset, and the comparison with the solver."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ._options import Config, Debug, Json, Text, emit, option, shown, size, tell


def evaluate(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Directory that opkit fit wrote.")
    ] = None,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Dataset.")] = None,
    split: Annotated[
        Text, option("--split", metavar="NAME", help="Which samples (default test).")
    ] = None,
    resolution: Annotated[
        list[str] | None,
        option(
            "--resolution",
            metavar="R[,R...]",
            help="Also at each of these numbers of points per axis, solved anew (64x128: one an "
            "axis); three or more grids with the training's give the discretization certificate.",
        ),
    ] = None,
    batch_size: Annotated[
        Text, option("--batch-size", metavar="N", help="Samples at once (default 16).")
    ] = None,
    compare: Annotated[
        bool | None,
        option("--compare/--no-compare", help="Measure the solver at the same accuracy or not."),
    ] = None,
    n_solve: Annotated[
        Text, option("--n-solve", metavar="N", help="Samples solved for that (default 8).")
    ] = None,
    repeats: Annotated[
        Text, option("--repeats", metavar="N", help="Timings, the median counts (default 5).")
    ] = None,
    device: Annotated[
        Text, option("--device", metavar="NAME", help="Where the model runs (default cpu).")
    ] = None,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute errors on a split and compare with the solver at the same accuracy."""
    from opkit._functions import run_evaluate
    from opkit.config import number, resolutions, resolve
    from opkit.evaluate import EvaluateConfig

    given = {
        "run": run,
        "data": data,
        "split": split,
        "resolution": resolutions(",".join(resolution)) if resolution else None,
        "batch_size": number(batch_size),
        "compare": compare,
        "n_solve": number(n_solve),
        "repeats": number(repeats),
        "device": device,
    }
    settings = resolve(EvaluateConfig, given, config=config, what="opkit evaluate")
    tell(f"evaluating {settings.run} on {settings.data}, split {settings.split}")
    metrics = run_evaluate(settings)
    if json:
        emit(metrics)
    else:
        typer.echo(table(metrics))
    tell(f"files: {shown(settings.run)}/evaluation/{settings.split}/")
    tell(f"next: opkit report {shown(settings.run)}")


def table(metrics: dict[str, Any]) -> str:
    """Lay out the metrics for people."""
    columns = ("mean", "median", "p95", "max")
    rows = [f"{'':<15}" + "".join(f"{c:>10}" for c in columns) + "   worst sample"]
    errors = {k: m for k, m in metrics.items() if isinstance(m, dict) and "worst_id" in m}
    for name, m in errors.items():
        numbers = "".join(f"{m[c]:>10.4g}" for c in columns)
        rows.append(f"{name:<15}{numbers}   {m['worst_id']}")
    line = f"{metrics['n_samples']} samples of {metrics['data']['name']}"
    if metrics["data"].get("resolution"):
        line += f" at {size(metrics['data']['resolution'])}"
    if "seconds_per_sample" in metrics:
        line += f", {1000 * metrics['seconds_per_sample']:.3g} ms a prediction"
    rows.append(line)
    if "comparison" in metrics:
        rows.append(comparison_line(metrics))
    first = next(iter(errors))
    for name, other in metrics.get("resolutions", {}).items():
        error = other[first]
        rows.append(f"{name}: {first} mean {error['mean']:.4g}, worst {error['max']:.4g}")
    if "discretization" in metrics:
        from opkit.discretization import DiscretizationReport

        rows += ["", str(DiscretizationReport.from_dict(metrics["discretization"]))]
    return "\n".join(rows)


def comparison_line(metrics: dict[str, Any]) -> str:
    """Tell in one line whether the model pays."""
    c = metrics["comparison"]
    if c is None:
        return f"no comparison with the solver: {metrics['comparison_note']}"
    pays = (
        "so the model never pays off"
        if c["break_even"] == "never"
        else f"so data and training pay off after {float(c['break_even']):,.0f} solutions"
    )
    return (
        f"{c['solver']} reaches this accuracy at {size(c['resolution'])} in "
        f"{1000 * c['solver_seconds']:.3g} ms, {pays}"
    )
