"""``opkit list``: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ._options import Debug, Json, emit, tell


class Kind(StrEnum):
    """What can be listed."""

    problems = "problems"
    models = "models"
    solvers = "solvers"
    metrics = "metrics"


def list_(
    kind: Annotated[
        Kind | None,
        typer.Argument(metavar="[problems|models|solvers|metrics]", help="All by default."),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of them, with its parameters.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List problems, models, solvers and metrics."""
    kinds = list(Kind) if kind is None else [kind]
    found = {str(k): _entries(k) for k in kinds}
    if name is not None and kind is not None:
        from solvers.names import check_name

        check_name(str(kind).removesuffix("s"), name, list(found[kind]))
        found = {str(kind): {name: found[kind][name]}}
    if json:
        emit(found)
        return
    for plural, entries in found.items():
        typer.echo(f"{plural}:")
        width = max(map(len, entries), default=0)
        for key, entry in entries.items():
            typer.echo(f"  {key:<{width}}  {entry['title']}")
            if name is not None:
                for parameter, p in entry.get("parameters", {}).items():
                    typer.echo(f"      --set {parameter}={p['default']}  {p['description']}")
    if kind is Kind.problems and name is None:
        tell("parameters of one: opkit list problems NAME")


def _entries(kind: Kind) -> dict[str, dict[str, Any]]:
    if kind is Kind.problems:
        from pde_data.problem import list_problems

        return {
            name: {
                "title": p.title,
                "equation": p.equation,
                "dim": p.dim,
                "solvers": list(p.solvers),
                "parameters": {
                    k: {"default": f.default, "description": f.description or ""}
                    for k, f in p.Params.model_fields.items()
                },
            }
            for name, p in list_problems().items()
        }
    if kind is Kind.models:
        from models.registry import list_models

        return {
            name: {"title": m.title, "task": m.task, "reference": m.reference}
            for name, m in list_models().items()
        }
    if kind is Kind.solvers:
        from solvers.diffusion import SOLVERS

        return {name: {"title": title} for name, title in SOLVERS.items()}
    from opkit.metrics import METRICS

    return {name: {"title": title} for name, title in METRICS.items()}
