"""``opkit fit``: train a model on a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from ._options import Config, Debug, Json, Set, Text, emit, option, tell, tell_evaluation


def fit(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Dataset.")] = None,
    model: Annotated[
        Text, option("-m", "--model", metavar="NAME", help="See opkit list models.")
    ] = None,
    out: Annotated[Text, option("-o", "--out", metavar="RUN", help="Directory to make.")] = None,
    epochs: Annotated[Text, option("--epochs", metavar="N", help="(default 50)")] = None,
    batch_size: Annotated[
        Text, option("--batch-size", metavar="N", help="Of each process (default 8).")
    ] = None,
    lr: Annotated[
        Text, option("--lr", metavar="X", help="Largest learning rate (default 2e-3).")
    ] = None,
    weight_decay: Annotated[
        Text, option("--weight-decay", metavar="X", help="Of AdamW (default 1e-4).")
    ] = None,
    scheduler: Annotated[
        Text,
        option(
            "--scheduler",
            metavar="NAME",
            help="onecycle, cosine or constant learning rate (default onecycle).",
        ),
    ] = None,
    loss: Annotated[
        Text, option("--loss", metavar="NAME", help="On grids h1, l2 or h1_spectral.")
    ] = None,
    resolution: Annotated[
        Text,
        option(
            "--resolution",
            metavar="N,N",
            help="Cut each batch down to one of these numbers of points per axis.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        option("--task", metavar="KEY=VALUE", help="A setting of the model's task; repeatable."),
    ] = None,
    repeat: Annotated[
        Text, option("--repeat", metavar="N", help="Passes over the data an epoch (default 1).")
    ] = None,
    max_seconds: Annotated[
        Text, option("--max-seconds", metavar="S", help="Train for so long, not for epochs.")
    ] = None,
    seed: Annotated[
        Text, option("--seed", metavar="N", help="Of weights and shuffling (default 0).")
    ] = None,
    set_: Set = None,
    patience: Annotated[
        Text, option("--patience", metavar="N", help="Stop after N epochs without gain.")
    ] = None,
    resume: Annotated[bool, option("--resume", help="Go on from the last epoch.")] = False,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the run there.")] = False,
    n_train: Annotated[
        Text, option("--n-train", metavar="N", help="Train on the first N samples only.")
    ] = None,
    gradient_clip: Annotated[
        Text, option("--gradient-clip", metavar="X", help="Largest norm of the gradient.")
    ] = None,
    accumulate: Annotated[
        Text, option("--accumulate", metavar="N", help="Batches a step (default 1).")
    ] = None,
    accelerator: Annotated[
        Text,
        option("--accelerator", metavar="NAME", help="auto, cpu, gpu or mps (default auto)."),
    ] = None,
    devices: Annotated[
        Text, option("--devices", metavar="N|auto", help="Number of devices (default 1).")
    ] = None,
    num_nodes: Annotated[
        Text, option("--num-nodes", metavar="N", help="Machines (default 1).")
    ] = None,
    strategy: Annotated[
        Text, option("--strategy", metavar="NAME", help="Lightning's (default auto).")
    ] = None,
    precision: Annotated[
        Text,
        option(
            "--precision",
            metavar="NAME",
            help="32-true, 64-true, bf16-mixed or 16-mixed (default 32-true).",
        ),
    ] = None,
    num_workers: Annotated[
        Text, option("--num-workers", metavar="N", help="Reading processes (default by size).")
    ] = None,
    threads: Annotated[
        Text,
        option(
            "--threads",
            metavar="N",
            help="CPU threads (default torch's own; 1 for small grids on busy cores).",
        ),
    ] = None,
    logger: Annotated[
        Text,
        option("--logger", metavar="NAME", help="csv, tensorboard or wandb (default csv)."),
    ] = None,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a model on a dataset; the best epoch on the validation split is kept."""
    from opkit._functions import ALIASES, run_fit
    from opkit.config import number, parse_set, resolutions, resolve
    from opkit.fit import FitConfig

    given = {
        "data": data,
        "model": model,
        "out": out,
        "epochs": number(epochs),
        "batch_size": number(batch_size),
        "lr": number(lr),
        "weight_decay": number(weight_decay),
        "scheduler": scheduler,
        "loss": loss,
        "resolution": resolutions(resolution),
        "task": parse_set(task or (), "--task") or None,
        "repeat": number(repeat),
        "max_seconds": number(max_seconds),
        "seed": number(seed),
        "set": parse_set(set_ or ()) or None,
        "patience": number(patience),
        "resume": resume or None,
        "overwrite": overwrite or None,
        "n_train": number(n_train),
        "gradient_clip": number(gradient_clip),
        "accumulate": number(accumulate),
        "accelerator": accelerator,
        "devices": number(devices),
        "num_nodes": number(num_nodes),
        "strategy": strategy,
        "precision": precision,
        "num_workers": number(num_workers),
        "threads": number(threads),
        "logger": logger,
    }
    settings = resolve(FitConfig, given, config=config, what="opkit fit", aliases=ALIASES["fit"])
    tell(f"training {settings.model} on {settings.data}, in {settings.out}")
    operator = run_fit(settings)
    history = operator.history
    name, title = next(iter(operator.task.metrics.items()))
    best = min(history, key=lambda row: row[f"valid_{name}"])
    if json:
        emit(
            {
                "run": settings.out,
                "model": settings.model,
                "n_parameters": operator.n_parameters,
                "epochs": len(history),
                "best": best,
                "seconds": history[-1]["seconds"],
            }
        )
    else:
        typer.echo(
            f"{settings.out}: {operator.n_parameters:,} parameters, {len(history)} epochs; kept "
            f"epoch {best['epoch']:.0f}, {title} error {best[f'valid_{name}']:.4g} on valid"
        )
    tell_evaluation(settings.out, settings.data)
