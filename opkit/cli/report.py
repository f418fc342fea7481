"""``opkit report``: one self-contained page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Json, emit, tell


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that opkit fit wrote.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="HTML file. [default: RUN/report.html]"),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one self-contained HTML page: data, training, errors, comparison with the solver."""
    import opkit

    tell(f"reporting on {run}")
    page = opkit.report(run, out=out)
    if json:
        emit({"report": str(page)})
    else:
        typer.echo(str(page))
    tell("open it in a browser; it needs no network")
