"""Reading a dataset for torch: lazy and worker-safe, or held in memory when it fits."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

if TYPE_CHECKING:
    from pde_data.hdf5 import Split

    from .tasks.grid import GridTask

__all__ = ["BatchSampler", "SplitData", "available_memory", "epoch_seed", "make_loader"]

#: Part of the free memory that the data of a split may take.
MEMORY_FRACTION = 0.25


def available_memory() -> int:
    """Bytes that can be allocated without swapping; container limits count."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return free


def epoch_seed(seed: int, epoch: int, *, rank: int = 0) -> int:
    """Seed of one epoch: it depends on these numbers alone, so a resumed run draws the same."""
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch, rank))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class SplitData(TorchDataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of one split: ``data[indices]`` gives inputs, outputs and weights.

    Parameters
    ----------
    split : Split
        From `pde_data.hdf5.open_dataset`.
    task : GridTask
        Says which arrays are stacked to channels.
    dtype : torch.dtype
    limit : int, optional
        Use the first samples only.
    cache : bool, optional
        Hold all in memory. Default: if it takes less than a quarter of what is free.

    Notes
    -----
    Without a cache each batch is read from its files when asked for, in the order in which it
    lies in them; any number of loader workers may do so. An index below 0 stands for sample
    ``-index - 1`` with weight 0: it fills up a batch and counts in no mean.
    """

    def __init__(
        self,
        split: Split,
        task: GridTask,
        *,
        dtype: torch.dtype = torch.float32,
        limit: int | None = None,
        cache: bool | None = None,
    ) -> None:
        self.split, self.task, self.dtype = split, task, dtype
        self.n = len(split) if limit is None else min(limit, len(split))
        points = math.prod(split.schema.grid.shape)
        size = self.n * points * (task.in_channels + task.out_channels) * dtype.itemsize
        share = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        if cache is None:
            cache = size < MEMORY_FRACTION * available_memory() / share
        self.cached = cache
        self._cache: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.n

    @property
    def ids(self) -> np.ndarray:
        """Sample ids, shape (len,)."""
        return self.split.ids[: self.n]

    def load(self) -> None:
        """Fill the cache, if there is to be one."""
        if self.cached and self._cache is None and self.n:
            step = max(1, 2**22 // max(1, math.prod(self.split.schema.grid.shape)))
            starts = range(0, self.n, step)
            parts = [self._read(np.arange(a, min(a + step, self.n))) for a in starts]
            self._cache = (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))

    def _read(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        x, y = self.task.read(self.split, index)
        return (
            torch.as_tensor(np.ascontiguousarray(x)).to(self.dtype),
            torch.as_tensor(np.ascontiguousarray(y)).to(self.dtype),
        )

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Read a batch.

        Parameters
        ----------
        indices : sequence of int, length b

        Returns
        -------
        inputs, outputs : Tensor, shape (b, channel, *space)
            Physical units.
        weights : Tensor, shape (b,)
            1, or 0 for filling.
        """
        index = np.asarray(indices, np.int64)
        weights = torch.as_tensor(index >= 0).to(self.dtype)
        index = np.where(index < 0, -index - 1, index)
        self.load()
        if self._cache is None:
            return (*self._read(index), weights)
        rows = torch.as_tensor(index)
        return self._cache[0][rows], self._cache[1][rows], weights


class BatchSampler(Sampler[list[int]]):
    """Batches of indices, the same on every machine for the same (seed, epoch).

    Parameters
    ----------
    n : int
        Samples.
    batch_size : int
        Of each process.
    seed : int, optional
        Shuffle; None keeps the order.
    rank, world : int
        This process and the number of processes. All get as many batches; where the samples do
        not suffice, indices below 0 fill up (see `SplitData`), also in the last batch.
    epoch : int
        The first epoch.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
    ) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.world, self.epoch = rank, world, epoch

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.n)
        if self.seed is not None:
            order = np.random.default_rng(epoch_seed(self.seed, self.epoch)).permutation(self.n)
        mine = order[self.rank :: self.world]
        most = -(-self.n // self.world)
        if len(mine) < most:  # the others have one more
            mine = np.append(mine, -order[0] - 1)
        for start in range(0, most, self.batch_size):
            yield mine[start : start + self.batch_size].tolist()


def make_loader(
    data: SplitData, sampler: BatchSampler, *, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader[Any]:
    """Loader of whole batches.

    Parameters
    ----------
    num_workers : int
        Processes that read ahead; of no use when the data is held in memory.
    """
    data.load()
    return DataLoader(
        data,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        # its own, so that the global generator is not touched
        generator=torch.Generator().manual_seed(sampler.seed or 0),
        multiprocessing_context="fork" if num_workers else None,
    )
