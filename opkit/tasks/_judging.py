"""What the evaluations of all tasks do alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..evaluate import EvaluationError

__all__ = ["ROLES", "median_seconds", "representatives", "require_finite", "resolution_suffix"]

#: Of the samples that `representatives` picks.
ROLES = ("best", "median", "worst")


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of some calls; one more comes first, to warm up."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def representatives(errors: np.ndarray) -> np.ndarray:
    """Positions of the samples with the lowest, the median and the largest error, shape (3,)."""
    order = np.argsort(errors, kind="stable")
    return order[[0, (len(order) - 1) // 2, len(order) - 1]]


def require_finite(bad: Sequence[int] | np.ndarray, n: int) -> None:
    """Raise if there are samples with predictions that are not finite.

    Parameters
    ----------
    bad : sequence of int
        Their ids.
    n : int
        Samples in all.

    Raises
    ------
    EvaluationError
    """
    if len(bad):
        raise EvaluationError(
            f"the operator gives values that are not finite for {len(bad)} of {n} samples "
            f"(first: {int(bad[0])})"
        )


def resolution_suffix(shape: Sequence[int]) -> str:
    """Suffix of an evaluation's directory: ``"_res64"``, ``"_res64x128"``."""
    return f"_res{'x'.join(map(str, dict.fromkeys(shape)))}"
