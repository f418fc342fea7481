"""``opkit demo``: generate, fit, evaluate, report in minutes."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ._options import Debug, Json, Text, command_line, emit, option, shown, tell


def demo(
    out: Annotated[
        Text, option("-o", "--out", metavar="DIR", help="Directory to make (default demo).")
    ] = None,
    overwrite: Annotated[bool, option("--overwrite", help="Make it anew.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate Darcy data, train MgNO, evaluate and report; some minutes on two cores."""
    from pathlib import Path

    import opkit
    from opkit._functions import run_evaluate, run_fit, run_generate
    from opkit._threads import cpu_threads
    from opkit.config import resolve
    from opkit.demo import DATA, TRAINING, prepare
    from opkit.evaluate import EvaluateConfig
    from opkit.fit import FitConfig
    from opkit.progress import duration
    from pde_data.generate import GenerateConfig

    from .evaluate import comparison_line, table
    from .generate import lines

    start = time.monotonic()
    data, run = prepare(Path(out or "demo"), overwrite=overwrite)
    tell(
        "1/4 data: permeability a, pressure u of Darcy flow, -div(a grad u) = 1, u = 0 on the walls"
    )
    made = run_generate(resolve(GenerateConfig, {"out": data, **DATA}), command=command_line())
    tell(lines(made))
    tell(f"2/4 training {TRAINING['model']} to map a to u, {TRAINING['epochs']} epochs")
    with cpu_threads(1):
        run_fit(resolve(FitConfig, {"data": data, "out": run, **TRAINING}))
        tell("3/4 errors on samples the training never saw, and the solver at the same accuracy")
        metrics = run_evaluate(resolve(EvaluateConfig, {"run": run, "data": data}))
    tell("4/4 report")
    page = opkit.report(run)
    error = metrics["rel_l2"]
    if json:
        emit({"report": str(page), "run": str(run), "data": str(data), "metrics": metrics})
    else:
        typer.echo(table(metrics))
        typer.echo(
            f"\nrelative L2 error on the test split: mean {error['mean']:.2%}, worst "
            f"{error['max']:.2%}\n{comparison_line(metrics)}\nreport: {page}"
        )
    tell(f"done in {duration(time.monotonic() - start)}. Look at it: open {shown(page)}")
    tell(f"next: opkit data info {shown(data)}")
    tell("      opkit generate darcy -n 1000 --resolution 65 -o darcy")
