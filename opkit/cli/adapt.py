"""``opkit adapt``: contexts of new environments for a run, weights frozen."""

from __future__ import annotations

from typing import Annotated

import typer

from ._options import Config, Debug, Json, Text, emit, option, tell, tell_evaluation


def adapt(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Directory that opkit fit wrote.")
    ] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="NEWDATA", help="Dataset of the new environments.")
    ] = None,
    out: Annotated[Text, option("-o", "--out", metavar="RUN", help="Directory to make.")] = None,
    split: Annotated[
        Text, option("--split", metavar="NAME", help="Trajectories to adapt to (default train).")
    ] = None,
    n_trajectories: Annotated[
        Text, option("--n-trajectories", metavar="N", help="The first N of each environment only.")
    ] = None,
    route: Annotated[
        Text,
        option(
            "--route",
            metavar="best|gate",
            help="Try every expert, or follow the gate (default best).",
        ),
    ] = None,
    steps: Annotated[Text, option("--steps", metavar="N", help="(default 500)")] = None,
    lr: Annotated[Text, option("--lr", metavar="X", help="Learning rate (default 1e-2).")] = None,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the run there.")] = False,
    threads: Annotated[Text, option("--threads", metavar="N", help="CPU threads.")] = None,
    device: Annotated[
        Text, option("--device", metavar="NAME", help="Where the model runs (default cpu).")
    ] = None,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Adapt a run to new environments from a few trajectories; no weight changes."""
    from opkit._functions import run_adapt
    from opkit.adapt import AdaptConfig
    from opkit.checkpoint import load_json
    from opkit.config import number, resolve

    given = {
        "run": run,
        "data": data,
        "out": out,
        "split": split,
        "n_trajectories": number(n_trajectories),
        "route": route,
        "steps": number(steps),
        "lr": number(lr),
        "overwrite": overwrite or None,
        "threads": number(threads),
        "device": device,
    }
    settings = resolve(AdaptConfig, given, config=config, what="opkit adapt")
    tell(f"adapting {settings.run} to {settings.data}, in {settings.out}")
    operator = run_adapt(settings)
    if operator.path is None:
        raise RuntimeError("the adapted run has no directory")
    facts = load_json(operator.path / "adapt.json")
    if json:
        emit({"run": settings.out, **{k: v for k, v in facts.items() if k != "settings"}})
    else:
        rows = zip(facts["environments"], facts["experts"], facts["losses"], strict=True)
        for (environment, expert, losses), start in zip(rows, facts["start_losses"], strict=True):
            best = min(v for v in losses if v is not None)
            name = operator.task.environment_name(environment)
            typer.echo(
                f"environment {name}: expert {expert}, mean squared error {best:.3g} "
                f"({start:.3g} before), normalized units"
            )
    tell_evaluation(settings.out, settings.data)
