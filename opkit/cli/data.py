"""``opkit data``: look at, check, repair, import and export datasets."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Json, Text, emit, option, shown, tell

app = typer.Typer(
    help="Look at, check, repair, import and export datasets.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


class ExportFormat(StrEnum):
    """What a dataset can be exported to."""

    h5 = "h5"
    netcdf = "netcdf"
    well = "well"


class ImportFormat(StrEnum):
    """What a dataset can be imported from."""

    opkit = "opkit"
    pdebench = "pdebench"
    well = "well"
    neuraloperator = "neuraloperator"
    fno = "fno"
    deepxde = "deepxde"
    trajectories = "trajectories"


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
    format: Annotated[ExportFormat, typer.Argument(metavar="h5|netcdf|well", help="What to make.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="New file (h5), or directory (netcdf, well).")
    ],
    debug: Debug = False,
) -> None:
    """Write a dataset for others: one plain HDF5 file, netCDF files, or The Well's directory."""
    from pde_data.hdf5 import export_h5, export_netcdf, export_well

    tell(f"exporting {directory} to {out}")
    if format is ExportFormat.h5:
        typer.echo(str(export_h5(directory, out)))
        tell(f"next: opkit data info {shown(out)}")
    elif format is ExportFormat.netcdf:
        for path in export_netcdf(directory, out):
            typer.echo(str(path))
    else:
        typer.echo(str(export_well(directory, out)))


@app.command("import")
def import_(
    format: Annotated[
        ImportFormat,
        typer.Argument(
            metavar="opkit|pdebench|well|neuraloperator|fno|deepxde|trajectories",
            help="Where it comes from; trajectories: tables (.csv) of time series.",
        ),
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE... DIR", help="What to read, then the directory to make."),
    ],
    valid: Annotated[
        list[Path] | None, option("--valid", metavar="FILE", help="Validation samples.")
    ] = None,
    test: Annotated[
        list[Path] | None, option("--test", metavar="FILE", help="Test samples.")
    ] = None,
    domain: Annotated[
        Text, option("--domain", metavar="LO,HI[,LO,HI...]", help="Ends of the domain.")
    ] = None,
    bc: Annotated[
        Text,
        option(
            "--bc",
            metavar="dirichlet|neumann|periodic|outflow",
            help="Boundary condition of all sides.",
        ),
    ] = None,
    units: Annotated[
        list[str] | None,
        option("--units", metavar="NAME=UNIT", help="Of a field, of x or of time."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        option(
            "--map",
            metavar="NAME=FIELD[:{OLD:NEW,...}]",
            help="What an array is called here, and what its values stand for.",
        ),
    ] = None,
    location: Annotated[
        Text, option("--location", metavar="node|cell_center", help="Of the grid's points.")
    ] = None,
    valid_min: Annotated[
        list[str] | None,
        option("--valid-min", metavar="FIELD=X", help="Smallest value that is possible."),
    ] = None,
    drop_invalid: Annotated[
        bool,
        option("--drop-invalid", help="Move samples that fail the checks to failures."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn files of others into a dataset, checked against the physics they claim."""
    from opkit.errors import UsageError
    from opkit.progress import Progress

    *files, directory = paths
    if not files:
        raise UsageError(f"import {format} {directory}: need FILE... and the directory to make")
    named = f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    tell(f"importing {named} into {directory}")
    if format is ImportFormat.opkit:
        from pde_data.hdf5 import import_h5

        if len(files) > 1:
            raise UsageError(f"import opkit: takes one file, got {len(files)}")
        manifest = import_h5(files[0], directory)
    else:
        from pde_data.imports import ImportOptions, import_data

        names, values = parse_map(map_ or ())
        options = ImportOptions(
            domain=parse_domain(domain),
            boundary=bc,
            units=dict(pair("units", u) for u in units or ()),
            fields=names,
            values=values,
            location=location,  # type: ignore[arg-type]
            valid_min={
                k: real("valid-min", v) for k, v in (pair("valid-min", x) for x in valid_min or ())
            },
            valid=tuple(valid or ()),
            test=tuple(test or ()),
            drop_invalid=drop_invalid,
        )
        with Progress("importing", unit="samples") as bar:
            manifest = import_data(format.value, files, directory, options, progress=bar.update)
    if json:
        emit(manifest)
        return
    for name, split in manifest["splits"].items():
        failed = f", {split['failed']} failed the checks" if split["failed"] else ""
        typer.echo(f"{name}: {split['written']} samples{failed}")
    tell(f"next: opkit data info {shown(directory)}")


@app.command()
def repair(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find damaged or missing shards and make them again, bit for bit, from their configuration."""
    from opkit._functions import repair as run

    found = run(directory)
    if json:
        emit(found)
    elif not found:
        typer.echo(f"{directory}: sound, nothing to repair")
    for entry in () if json else found:
        typer.echo(f"{entry['split']} shard {entry['shard']}: made again ({entry['reason']})")
    tell(f"next: opkit data check {shown(directory)}")


# -- parsing -------------------------------------------------------------------------------------


def pair(what: str, text: str) -> tuple[str, str]:
    """``NAME=VALUE`` as a pair."""
    from opkit.errors import UsageError

    name, sep, value = text.partition("=")
    if not sep or not name.strip() or not value.strip():
        raise UsageError(f"--{what} {text}: need NAME=VALUE")
    return name.strip(), value.strip()


def real(what: str, text: str) -> float:
    """Parse a number."""
    from opkit.errors import UsageError

    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--{what}: {text!r} is no number") from None


def parse_domain(text: str | None) -> tuple[tuple[float, float], ...] | None:
    """``0,1,0,2`` as one pair an axis."""
    from opkit.errors import UsageError

    if text is None:
        return None
    ends = [real("domain", part) for part in text.split(",")]
    if not ends or len(ends) % 2:
        raise UsageError(f"--domain {text}: need LO,HI, or one such pair an axis")
    return tuple(zip(ends[::2], ends[1::2], strict=True))


def parse_map(texts: Sequence[str]) -> tuple[dict[str, str], dict[str, dict[float, float]]]:
    """``x=a:{0:3,1:12}``: array x is field a, its 0 stands for 3 and its 1 for 12."""
    from opkit.errors import UsageError

    names: dict[str, str] = {}
    values: dict[str, dict[float, float]] = {}
    for text in texts:
        array, rest = pair("map", text)
        names[array], _, table = rest.partition(":")
        if not table:
            continue
        inner = table.strip()
        if not (inner.startswith("{") and inner.endswith("}")):
            raise UsageError(f"--map {text}: need NAME=FIELD:{{OLD:NEW,...}}")
        entries = [e.split(":") for e in inner[1:-1].split(",")]
        if any(len(e) != 2 for e in entries):
            raise UsageError(f"--map {text}: need NAME=FIELD:{{OLD:NEW,...}}")
        values[array] = {real("map", a): real("map", b) for a, b in entries}
    return names, values
