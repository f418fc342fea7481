"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

#: An option whose value the settings of the command parse and judge.
Text = str | None


def option(*names: str, help: str, metavar: str | None = None) -> Any:
    """Describe an option; its default is written in `help`."""
    return typer.Option(*names, help=help, metavar=metavar, show_default=False)


Config = Annotated[
    Path | None,
    option(
        "--config",
        metavar="FILE",
        help="YAML file with the names of the options; options win.",
    ),
]
Debug = Annotated[bool, option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, option("--json", help="Results as JSON on stdout.")]
Set = Annotated[
    list[str] | None,
    option("--set", metavar="KEY=VALUE", help="Set a parameter of the problem or model."),
]


def tell(text: str = "") -> None:
    """Write a line for people to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def emit(result: Any) -> None:
    """Write a result to stdout as JSON."""
    typer.echo(json.dumps(result, indent=2, default=str))


def shown(path: str | Path) -> str:
    """Quote a path as a shell takes it."""
    import shlex

    return shlex.quote(str(path))


def tell_evaluation(run: str, data: str) -> None:
    """Say how to evaluate a run that has just been made, on a split that there is."""
    from pde_data.hdf5 import open_dataset

    splits = open_dataset(data).splits
    split = next((s for s in ("test", "valid") if s in splits), splits[0])
    more = "" if split == "test" else f" --split {split}"
    tell(f"next: opkit evaluate {shown(run)} {shown(data)}{more}")


def size(points: Sequence[int] | int) -> str:
    """Write a resolution: ``"65 x 65"``."""
    return str(points) if isinstance(points, int) else " x ".join(map(str, points))


#: The arguments of this call, for the provenance in files.
arguments: list[str] = []


def command_line() -> str:
    """Return this call as a shell takes it."""
    import shlex

    return shlex.join(["opkit", *arguments])
