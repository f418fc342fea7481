"""``opkit data``: look at, check and index datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Json, emit, shown, tell

app = typer.Typer(
    help="Look at, check and index datasets.", rich_markup_mode=None, no_args_is_help=True
)

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Dataset directory, shard, view (train.h5) or single file."
    ),
]


@app.command()
def info(path: Data, json: Json = False, debug: Debug = False) -> None:
    """Say what a dataset is: fields, units, boundary conditions, samples, solver, quality."""
    from pde_data.hdf5 import dataset_info, format_info

    found = dataset_info(path)
    if json:
        emit(found)
    else:
        typer.echo(format_info(found))


@app.command()
def check(
    path: Data,
    quick: Annotated[bool, typer.Option("--quick", help="Structure alone, no checksums.")] = False,
    physics: Annotated[
        bool, typer.Option("--physics", help="Also bounds, boundary values and residuals.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a dataset; one finding a line, exit status 1 if there is any."""
    from pde_data.hdf5 import check_dataset

    tell(f"checking {path}{' (structure alone)' if quick else ''}")
    findings = check_dataset(path, quick=quick, physics=physics)
    if json:
        emit([{"kind": f.kind, "file": f.file, "message": f.message} for f in findings])
    else:
        for finding in findings:
            typer.echo(str(finding))
    tell(f"{len(findings)} finding{'s' * (len(findings) != 1)}" if findings else "sound")
    raise typer.Exit(1 if findings else 0)


@app.command()
def index(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write dataset.json, stats.yaml and the views again from the shards alone."""
    from pde_data.hdf5 import rebuild_index

    manifest = rebuild_index(directory)
    if json:
        emit(manifest)
        return
    for name, split in manifest["splits"].items():
        typer.echo(f"{name}: {split['written']} samples in {len(split['shards'])} shards")
    tell(f"next: opkit data check {shown(directory)}")
