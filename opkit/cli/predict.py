"""``opkit predict``: apply a run to a dataset or an array."""

from __future__ import annotations

from typing import Annotated

import typer

from ._options import Config, Debug, Json, Text, emit, option, tell


def predict(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Directory that opkit fit wrote.")
    ] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Dataset, or .npy file of inputs.")
    ] = None,
    out: Annotated[
        Text, option("-o", "--out", metavar="FILE", help="File to write: .h5, .npz or .npy.")
    ] = None,
    split: Annotated[
        Text, option("--split", metavar="NAME", help="Which samples (default test).")
    ] = None,
    points: Annotated[
        Text,
        option(
            "--points",
            metavar="FILE",
            help="Query points (.csv, .npy, .h5), for models that answer anywhere.",
        ),
    ] = None,
    batch_size: Annotated[
        Text, option("--batch-size", metavar="N", help="Samples at once (default 16).")
    ] = None,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the file there.")] = False,
    device: Annotated[
        Text, option("--device", metavar="NAME", help="Where the model runs (default cpu).")
    ] = None,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run's predictions for the samples of a dataset or an array."""
    from opkit._functions import run_predict
    from opkit.config import number, resolve
    from opkit.predict import PredictConfig

    given = {
        "run": run,
        "data": data,
        "out": out,
        "split": split,
        "points": points,
        "batch_size": number(batch_size),
        "overwrite": overwrite or None,
        "device": device,
    }
    settings = resolve(PredictConfig, given, config=config, what="opkit predict")
    tell(f"predicting with {settings.run} for {settings.data}, into {settings.out}")
    path = run_predict(settings)
    if json:
        emit({"predictions": str(path)})
    else:
        typer.echo(str(path))
