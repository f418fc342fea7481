"""``opkit compare``: several models on the same data with the same budget."""

from __future__ import annotations

from typing import Annotated

import typer

from ._options import Config, Debug, Json, Text, emit, option, shown, tell


def compare(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Dataset.")] = None,
    models: Annotated[
        list[str] | None,
        option("-m", "--models", metavar="NAME[,NAME...]", help="See opkit list models."),
    ] = None,
    out: Annotated[Text, option("-o", "--out", metavar="DIR", help="Directory to make.")] = None,
    seeds: Annotated[
        Text, option("--seeds", metavar="N", help="Trainings of each model (default 3).")
    ] = None,
    epochs: Annotated[
        Text, option("--epochs", metavar="N", help="Of every training (default 50).")
    ] = None,
    seconds: Annotated[
        Text, option("--seconds", metavar="S", help="Train each for so long, not for epochs.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        option("--set", metavar="MODEL.OPTION=VALUE", help="Set an option of a model; repeatable."),
    ] = None,
    fit: Annotated[
        list[str] | None,
        option(
            "--fit",
            metavar="[MODEL.]KEY=VALUE",
            help="A setting of opkit fit, for all models or one; repeatable.",
        ),
    ] = None,
    split: Annotated[
        Text, option("--split", metavar="NAME", help="Judges in the end (default test).")
    ] = None,
    n_solve: Annotated[
        Text,
        option("--n-solve", metavar="N", help="Samples solved to time the solver (default 8)."),
    ] = None,
    device: Annotated[
        Text, option("--device", metavar="NAME", help="Where models are judged (default cpu).")
    ] = None,
    resume: Annotated[
        bool | None,
        option("--resume", help="Go on; models and seeds may be added."),
    ] = None,
    overwrite: Annotated[
        bool | None, option("--overwrite", help="Remove the comparison that is in DIR.")
    ] = None,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train models on the same data with the same budget, and judge them on test."""
    from opkit._functions import ALIASES, run_compare
    from opkit.compare import CompareConfig, table
    from opkit.config import number, parse_set, resolve

    given = {
        "data": data,
        "models": tuple(models) if models else None,
        "out": out,
        "seeds": number(seeds),
        "epochs": number(epochs),
        "seconds": number(seconds),
        "set": parse_set(set_) if set_ else None,
        "fit": parse_set(fit, "--fit") if fit else None,
        "split": split,
        "n_solve": number(n_solve),
        "device": device,
        "resume": resume,
        "overwrite": overwrite,
    }
    settings = resolve(
        CompareConfig, given, config=config, what="opkit compare", aliases=ALIASES["compare"]
    )
    tell(f"comparing {', '.join(settings.models)} on {settings.data}, {settings.seeds} seeds")
    result = run_compare(settings)
    if json:
        emit(result)
    else:
        typer.echo(table(result))
    tell(f"files: {shown(settings.out)}/comparison.html, comparison.csv, comparison.json, runs/")
