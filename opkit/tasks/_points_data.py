"""Batches of functions and points for torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ..data import _fits, file_blocks, rows_of
from ._points_reader import Reader

if TYPE_CHECKING:
    from pde_data.hdf5 import Split

    from .points import PointsTask

__all__ = ["PointsData"]


class PointsData(TorchDataset[tuple[Tensor, ...]]):
    """``data[indices]`` gives functions, outputs and weights of samples.

    Parameters
    ----------
    split : Split
    task : PointsTask
    dtype : torch.dtype
    limit : int, optional
        Use the first samples only.
    train : bool
        Keep `PointsOptions.points` fixed points of each function.

    Notes
    -----
    A batch is ``(u_1, ..., u_k, s, weights)`` if all samples share the points, with ``s``
    (b, N, C), else ``(u_1, ..., u_k, y, s, w, weights)`` with points (b, N, d), scaled for the
    model, and their quadrature weights (b, N), 0 for points that fill up. Values are in physical
    units. An index below 0 stands for sample ``-index - 1`` with weight 0.
    """

    def __init__(
        self,
        split: Split,
        task: PointsTask,
        *,
        dtype: torch.dtype = torch.float32,
        limit: int | None = None,
        train: bool = False,
    ) -> None:
        self.split, self.task, self.dtype = split, task, dtype
        self.n = len(split) if limit is None else min(limit, len(split))
        self.reader = Reader(task, split.schema)
        self.keep = task.options.points if train else None
        self.own = self.reader.shared is None or self.keep is not None
        self.cached = True
        if self.n:
            one = self._read(np.arange(1))
            self.cached = _fits(2 * self.n * sum(t.nbytes for t in one))
        self._cache: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return self.n

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Samples of each file, for `BatchSampler`; None when all are in memory."""
        return None if self.cached else file_blocks(self.split, self.n)

    def load(self) -> None:
        """Fill the cache, if there is to be one."""
        if not self.cached or self._cache is not None or not self.n:
            return
        size = 4096 if self.reader.shared is None else len(self.reader.shared)
        step = max(1, 2**22 // size)
        parts = [self._read(np.arange(a, min(a + step, self.n))) for a in range(0, self.n, step)]
        if self.own:
            parts = _pad(parts)
        one = torch.ones(self.n, dtype=self.dtype)
        self._cache = (*(torch.cat(p) for p in zip(*parts, strict=True)), one)

    def _read(self, index: np.ndarray) -> tuple[Tensor, ...]:
        us = self.reader.functions(self.split, index)
        rest: list[np.ndarray]
        if not self.own:
            rest = [self.reader.outputs(self.split, index)]
        elif self.reader.shared is not None:
            rest = self._kept(index)
        else:
            rest = self._ragged(index)
        return tuple(torch.as_tensor(np.ascontiguousarray(a)).to(self.dtype) for a in (*us, *rest))

    def _kept(self, index: np.ndarray) -> list[np.ndarray]:
        """Keep fixed points of each function, drawn by its id with the quadrature weights."""
        shared, keep = self.reader.shared, self.keep
        assert shared is not None and keep is not None
        s = self.reader.outputs(self.split, index)
        points = self.task.to_model(shared.points)
        y, kept = [], []
        for row, i in zip(s, self.split.ids[index], strict=True):
            chosen = _draw(int(i), shared.weights, keep)
            y.append(points[chosen])
            kept.append(row[chosen])
        return [np.stack(y), np.stack(kept), np.full((len(index), keep), 1.0 / keep)]

    def _ragged(self, index: np.ndarray) -> list[np.ndarray]:
        """Points of each sample, filled up to the same number."""
        found = []
        for i in index:
            y, w, s = self.reader.own(self.split, int(i))
            if self.keep is not None and self.keep < len(y):
                chosen = _draw(int(self.split.ids[i]), w, self.keep)
                y, s, w = y[chosen], s[chosen], np.full(self.keep, 1.0 / self.keep)
            found.append((self.task.to_model(y), s, w))
        most = max(len(w) for _, _, w in found)

        def fill(a: np.ndarray) -> np.ndarray:
            width = [(0, most - len(a))] + [(0, 0)] * (a.ndim - 1)
            return np.pad(a, width, "edge" if a.ndim > 1 else "constant")

        return [np.stack([fill(f[k]) for f in found]) for k in range(3)]

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, ...]:
        """Read a batch."""
        index = np.asarray(indices, np.int64)
        weights = torch.as_tensor(index >= 0).to(self.dtype)
        index = np.where(index < 0, -index - 1, index)
        self.load()
        if self._cache is None:
            return (*self._read(index), weights)
        return (*rows_of(self._cache[:-1], index), weights)


def _draw(sample_id: int, weights: np.ndarray, n: int) -> np.ndarray:
    """`n` of the points, by the sample's id alone and in proportion to the weights."""
    rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(sample_id,)))
    return rng.choice(len(weights), n, replace=False, p=weights / math.fsum(weights))


def _pad(parts: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """Parts with the same number of points: the last three tensors are filled up."""
    most = max(p[-1].shape[1] for p in parts)
    out = []
    for p in parts:
        *us, y, s, w = p
        if (more := most - w.shape[1]) > 0:
            y = torch.cat([y, y[:, -1:].expand(-1, more, -1)], 1)
            s = torch.cat([s, s[:, -1:].expand(-1, more, -1)], 1)
            w = torch.cat([w, w.new_zeros(len(w), more)], 1)
        out.append((*us, y, s, w))
    return out
