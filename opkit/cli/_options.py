"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file with the names of the options; options win.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option by name; may be repeated."),
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


def settings(model: type[Any], given: dict[str, Any], config: Path | None, command: str) -> Any:
    """Resolve the settings of a command from its options and its ``--config`` file."""
    from opkit.config import resolve

    return resolve(model, given, config=config, what=command)
