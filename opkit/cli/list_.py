"""``opkit list``: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ._options import Debug, Json, emit


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
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List problems, models, solvers and metrics."""
    kinds = list(Kind) if kind is None else [kind]
    found = {str(k): _entries(k) for k in kinds}
    if json:
        emit(found)
        return
    for name, entries in found.items():
        typer.echo(f"{name}:")
        width = max(map(len, entries), default=0)
        for key, entry in entries.items():
            typer.echo(f"  {key:<{width}}  {entry['title']}")
            if kind is Kind.problems:
                for parameter, p in entry["parameters"].items():
                    typer.echo(f"      --set {parameter}={p['default']}  {p['description']}")


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
