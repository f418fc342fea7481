"""`predict`: an operator's outputs for a split of a dataset or an array, into one file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import UsageError

__all__ = ["PredictConfig", "predict"]

FORMAT = "opkit-prediction"
FORMAT_VERSION = "1.0"
SUFFIXES = (".h5", ".npz", ".npy")
#: Called as ``progress(samples done, samples in all, note)``.
Progress = Callable[[int, int, str], None]


class PredictConfig(BaseModel):
    """Settings of `predict`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(description="directory that fit has written")
    data: str = Field(description="dataset, or .npy file of inputs (batch, channel, *space)")
    out: str = Field(description="file to write: .h5, .npz or .npy")
    split: str = Field("test", description="which samples of a dataset")
    points: str | None = Field(
        None, description="file of query points (.csv, .npy or .h5), for models that take any"
    )
    batch_size: int = Field(16, ge=1, description="samples at once")
    overwrite: bool = Field(False, description="replace `out`")
    device: str = Field("cpu", description="where the model runs")

    @field_validator("run", "data", "out", "points", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, os.PathLike) else value


def predict(config: PredictConfig, *, progress: Progress | None = None) -> Path:
    """Apply an operator to many inputs.

    Parameters
    ----------
    config : PredictConfig
    progress : callable, optional
        Called as ``progress(samples done, samples in all, note)``.

    Returns
    -------
    Path
        The file. ``.h5``: ``sample`` (ids), the coordinates and ``outputs/<field>``, each with its
        units, name and axes; ``.npz``: ``sample``, the coordinates and the fields; ``.npy``: the
        fields of a single output, without ids. Values are float32, or float64 from a run in that
        precision; the components of vectors come last, as in datasets.

    Raises
    ------
    UsageError
        Unknown suffix, data that does not fit the operator, a split that does not exist, more
        than one output field for ``.npy``.
    FileExistsError
        `out` exists and `overwrite` is not set.
    OperatorError, DatasetError
        From loading the run, from reading the data.
    OSError
        Disk full; nothing is left behind.
    """
    from .operator import load

    out = Path(config.out)
    if out.suffix not in SUFFIXES:
        raise UsageError(f"out={config.out}: need a name that ends in {', '.join(SUFFIXES)}")
    if out.is_dir() or (out.exists() and not config.overwrite):
        raise FileExistsError(f"{out} exists already; use --overwrite to replace it")
    op = load(config.run, device=config.device)
    return op.task.predict(op, config, progress)
