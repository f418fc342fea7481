"""Mean, standard deviation and root mean square of fields, in one pass.

All stored values count the same: points of a mesh are not weighted by the area they stand for,
and a sample of a ragged dataset counts by its points. Components of vectors and tensors, and the
named entries of extra fields, are kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .schema import DatasetSchema, FieldSpec

__all__ = ["Moments", "statistics"]


@dataclass
class _Pass:
    """Count, mean and sum of squared deviations per component."""

    n: int
    mean: np.ndarray
    m2: np.ndarray

    def merge(self, n: int, mean: np.ndarray, m2: np.ndarray) -> None:
        """Chan's update [1]_: stable where the sum of squares is not.

        .. [1] Chan, Golub, LeVeque, The American Statistician 37 (1983) 242-247.
        """
        if n == 0:
            return
        total = self.n + n
        delta = mean - self.mean
        self.m2 = self.m2 + m2 + delta**2 * (self.n * n / total)
        self.mean = self.mean + delta * (n / total)
        self.n = total

    def add(self, values: np.ndarray) -> None:
        """Merge values of shape (points, *components), float64; `values` is used up."""
        if len(values) == 0:
            return
        mean = values.mean(axis=0)
        values -= mean
        # the dot product of one component runs in BLAS
        scalar = values.ndim == 1
        m2 = values @ values if scalar else np.einsum("i...,i...->...", values, values)
        self.merge(len(values), mean, np.asarray(m2))


class Moments:
    """Streaming moments of a field, and of its differences in time.

    Parameters
    ----------
    shape : tuple of int
        Components of a value: ``()``, ``(D,)`` or ``(D, D)``; ``(n,)`` for n named entries.
    timed : bool
        The first axis of a sample is time.
    """

    def __init__(self, shape: tuple[int, ...], timed: bool) -> None:
        self.shape, self.timed = shape, timed
        self.value = _Pass(0, np.zeros(shape), np.zeros(shape))
        self.delta = _Pass(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def empty(cls, schema: DatasetSchema, spec: FieldSpec) -> Self:
        """Moments for one field of a schema."""
        shape = (len(spec.labels),) if spec.labels else (schema.dim,) * spec.rank
        return cls(shape, spec.time_varying)

    def add(self, sample: np.ndarray) -> None:
        """Take in one sample, shape ``([T], *space, *components)``."""
        values = np.array(sample, np.float64, order="C")
        with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e154 they are not finite
            if self.timed:
                self.delta.add(np.diff(values, axis=0).reshape(-1, *self.shape))
            self.value.add(values.reshape(-1, *self.shape))

    def merge(self, other: Moments) -> None:
        """Take in what another pass has seen."""
        self.value.merge(other.value.n, other.value.mean, other.value.m2)
        self.delta.merge(other.delta.n, other.delta.mean, other.delta.m2)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            key: {"n": p.n, "mean": p.mean.tolist(), "m2": p.m2.tolist()}
            for key, p in (("value", self.value), ("delta", self.delta))
        }

    def merge_dict(self, d: Mapping[str, Any]) -> None:
        """`merge` with what `as_dict` gave."""
        for key, p in (("value", self.value), ("delta", self.delta)):
            p.merge(int(d[key]["n"]), np.asarray(d[key]["mean"]), np.asarray(d[key]["m2"]))


def statistics(moments: Mapping[str, Moments]) -> dict[str, dict[str, Any]]:
    """Return the content of ``stats.yaml``: The Well's six maps, 8 significant digits.

    Standard deviations are the population's (divided by n).
    """
    out: dict[str, dict[str, Any]] = {
        k: {} for k in ("mean", "std", "rms", "mean_delta", "std_delta", "rms_delta")
    }
    for name, m in moments.items():
        for suffix, p in (("", m.value), ("_delta", m.delta)):
            if p.n == 0:
                continue
            var = p.m2 / p.n
            out[f"mean{suffix}"][name] = _rounded(p.mean)
            out[f"std{suffix}"][name] = _rounded(np.sqrt(var))
            out[f"rms{suffix}"][name] = _rounded(np.sqrt(var + p.mean**2))
    return out


def _rounded(a: np.ndarray) -> Any:
    nested: Any = np.asarray(a, np.float64).tolist()

    def walk(v: Any) -> Any:
        if isinstance(v, list):
            return [walk(w) for w in v]
        return float(f"{v:.8g}") if math.isfinite(v) else v

    return walk(nested)
