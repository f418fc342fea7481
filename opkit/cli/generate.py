"""``opkit generate``: sample, solve, check and write a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Config, Debug, Json, Set, emit, settings, shown, tell


def generate(
    problem: Annotated[
        str | None, typer.Argument(metavar="PROBLEM", help="See opkit list problems.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Directory to make.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", help="Training samples.")] = None,
    n_valid: Annotated[int | None, typer.Option(help="Validation samples. [default: n/10]")] = None,
    n_test: Annotated[int | None, typer.Option(help="Test samples. [default: n/10]")] = None,
    resolution: Annotated[
        str | None,
        typer.Option(metavar="R[,R...]", help="Points an axis. [default: the problem's]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the dataset. [default: 0]")] = None,
    solver: Annotated[
        str | None, typer.Option(help="See opkit list solvers. [default: by size and problem]")
    ] = None,
    set_: Set = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float32|float64", help="Of the fields. [default: float32]"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. [default: 1]")] = None,
    resume: Annotated[
        bool | None, typer.Option("--resume", help="Keep what is there and make the rest.")
    ] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Remove the dataset that is there.")
    ] = None,
    max_failures: Annotated[
        str | None,
        typer.Option(metavar="P%", help="Share of samples that may fail. [default: 5%]"),
    ] = None,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a dataset: sample inputs, solve, check residuals, write HDF5."""
