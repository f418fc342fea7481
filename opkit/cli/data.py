"""``opkit data``: look at, check and index datasets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Json, emit, shown, tell

app = typer.Typer(
    help="Look at, check and index datasets.", rich_markup_mode=None, no_args_is_help=True
)


class ExportFormat(StrEnum):
    """What a dataset can be exported to."""

    h5 = "h5"


class ImportFormat(StrEnum):
    """What a dataset can be imported from."""

    opkit = "opkit"


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


@app.command("export")
def export(
    format: Annotated[ExportFormat, typer.Argument(metavar="h5", help="Of the file.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.h5", help="New file.")],
    debug: Debug = False,
) -> None:
    """Write all samples into one plain file to send to somebody."""
    from pde_data.hdf5.convert import export_h5

    tell(f"exporting {directory} to {file}")
    typer.echo(str(export_h5(directory, file)))
    tell(f"next: opkit data info {shown(file)}")


@app.command("import")
def import_(
    format: Annotated[ImportFormat, typer.Argument(metavar="opkit", help="Of the file.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.h5", help="What opkit data export made.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to make.")],
    debug: Debug = False,
) -> None:
    """Turn an exported file into a dataset directory again."""
    from pde_data.hdf5.convert import import_h5

    tell(f"importing {file} into {directory}")
    import_h5(file, directory)
    typer.echo(str(directory))
    tell(f"next: opkit data info {shown(directory)}")
