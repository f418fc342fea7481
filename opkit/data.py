"""Reading a dataset for torch: lazy and worker-safe, or held in memory when it fits.

What does not fit is read a few files at a time: samples are shuffled within such a window, and two
threads, or worker processes, read the next batches while one is used.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

if TYPE_CHECKING:
    from pde_data.hdf5 import Split

    from .tasks.grid import GridTask

__all__ = [
    "BatchSampler",
    "FieldData",
    "SplitData",
    "available_memory",
    "epoch_seed",
    "make_loader",
]

#: Part of the free memory that the data of a split may take.
MEMORY_FRACTION = 0.25
#: Files whose samples are shuffled together when the data is not held in memory.
WINDOW = 8
#: Batches read ahead, their bytes (but one batch at least), and threads that do so.
READ_AHEAD, MAX_AHEAD, READERS = 4, 64 * 2**20, 2


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


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    cache : bool or "auto"
        Hold all in memory; ``"auto"``: if it takes less than a quarter of what is free.

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
        cache: bool | Literal["auto"] = "auto",
    ) -> None:
        self.split, self.task, self.dtype = split, task, dtype
        self.n = len(split) if limit is None else min(limit, len(split))
        self.n *= task.items_per_sample()
        points = math.prod(split.schema.grid.shape)
        size = self.n * points * (task.in_channels + task.out_channels) * dtype.itemsize
        self.cached = _fits(size) if cache == "auto" else cache
        self._cache: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.n

    def load(self) -> None:
        """Fill the cache, if there is to be one."""
        if self.cached and self._cache is None and self.n:
            step = max(1, 2**22 // max(1, math.prod(self.split.schema.grid.shape)))
            starts = range(0, self.n, step)
            parts = [self._read(np.arange(a, min(a + step, self.n))) for a in starts]
            self._cache = (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Samples of each file, for `BatchSampler`; None when all are in memory."""
        if self.cached:
            return None
        k = self.task.items_per_sample()
        return tuple(k * n for n in file_blocks(self.split, self.n // k))

    def _read(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        x, y = self.task.read_items(self.split, index)
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
        x, y = rows_of(self._cache, index)
        return x, y, weights


class FieldData(TorchDataset[dict[str, Tensor]]):
    """Batches of any fields and scalars: ``data[indices]`` gives a tensor each, as stored.

    Parameters
    ----------
    split : Split
        From `pde_data.hdf5.open_dataset`.
    names : sequence of str, optional
        Default the inputs and outputs.
    limit : int, optional
        Use the first samples only.
    resolution : int or sequence of int, optional
        Points per axis of a coarser grid that is nested in the stored one.
    window : slice, optional
        Of the stored times.
    components : mapping of str to sequence, optional
        Field -> entries of its last axis, by number or by label.
    cache : bool or "auto"
        Hold all in memory; ``"auto"``: if it takes less than a quarter of what is free.

    Raises
    ------
    ValueError
        The stored grid does not contain the points of one of this `resolution`.

    Notes
    -----
    For layouts other than ``"ragged"``, whose samples differ in shape. An index below 0 stands for
    sample ``-index - 1`` and fills up the last batch, see `BatchSampler`.

    Examples
    --------
    >>> data = FieldData(open_dataset("burgers")["train"], resolution=65)  # doctest: +SKIP
    >>> loader = make_loader(data, BatchSampler(len(data), 32, seed=0, blocks=data.blocks))
    ...     # doctest: +SKIP
    """

    def __init__(
        self,
        split: Split,
        names: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        resolution: int | Sequence[int] | None = None,
        window: slice | None = None,
        components: Mapping[str, Sequence[int | str]] | None = None,
        cache: bool | Literal["auto"] = "auto",
    ) -> None:
        schema = split.schema
        if schema.layout == "ragged":
            raise ValueError("layout 'ragged': samples differ in shape; read them from the split")
        self.split = split
        self.names = tuple(names if names is not None else (*schema.inputs, *schema.outputs))
        self.n = len(split) if limit is None else min(limit, len(split))
        self._cut: dict[str, Any] = {}
        if resolution is not None:
            self._cut["stride"] = nested_stride(schema.grid, resolution)
        if window is not None:
            self._cut["window"] = window
        if components is not None:
            self._cut["components"] = components
        one = self._read(np.arange(min(1, self.n)))
        size = self.n * sum(t.nbytes for t in one.values())
        self.cached = _fits(size) if cache == "auto" else cache
        self._cache: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return self.n

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Samples of each file, for `BatchSampler`; None when all are in memory."""
        return None if self.cached else file_blocks(self.split, self.n)

    def load(self) -> None:
        """Fill the cache, if there is to be one."""
        if self.cached and self._cache is None:
            self._cache = self._read(np.arange(self.n))

    def _read(self, index: np.ndarray) -> dict[str, Tensor]:
        values = self.split.read(index, self.names, **self._cut)
        return {n: torch.as_tensor(values[n]) for n in self.names}

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """Read a batch.

        Parameters
        ----------
        indices : sequence of int, length b

        Returns
        -------
        dict of str to Tensor
            ``(b, [T], *space, [D], [D])`` a field, ``(b,)`` a scalar.
        """
        index = np.asarray(indices, np.int64)
        index = np.where(index < 0, -index - 1, index)
        self.load()
        if self._cache is None:
            return self._read(index)
        rows = torch.as_tensor(index)
        return {n: t.index_select(0, rows) for n, t in self._cache.items()}


def nested_stride(grid: Any, resolution: int | Sequence[int]) -> tuple[int, ...]:
    """Points to step over on each axis to get a grid of `resolution`.

    Raises
    ------
    ValueError
        It is not nested.
    """
    wanted = [resolution] * grid.dim if isinstance(resolution, int) else list(resolution)
    out = []
    for axis, n in zip(grid.axes, wanted, strict=True):
        have, want = (axis.n, n) if axis.periodic else (axis.n - 1, n - 1)
        if want < 1 or have % want or (have != want and axis.location != "node"):
            raise ValueError(
                f"resolution={resolution}: axis {axis.name!r} has {axis.n} points "
                f"({axis.location}), which do not contain those of a grid of {n}"
            )
        out.append(have // want)
    return tuple(out)


def rows_of(tensors: Sequence[Tensor], index: np.ndarray) -> tuple[Tensor, ...]:
    """Rows of tensors; the tensors themselves if it is all of them in order."""
    n = len(tensors[0])
    if len(index) == n and np.array_equal(index, np.arange(n)):
        return tuple(tensors)
    rows = torch.as_tensor(index)
    return tuple(t.index_select(0, rows) for t in tensors)


def _fits(size: int) -> bool:
    share = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return size < MEMORY_FRACTION * available_memory() / share


def file_blocks(split: Split, n: int) -> tuple[int, ...]:
    """Count the samples of each file, of the first `n`."""
    counts, left = [], n
    for size in split.part_sizes:
        counts.append(min(size, left))
        left -= counts[-1]
    return tuple(c for c in counts if c)


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
    blocks : sequence of int, optional
        Samples of each file, in order: shuffle the files, and the samples of `window` files
        together. Without, all samples are shuffled together.
    window : int
        Files.
    repeat : int
        Passes over the samples an epoch, each shuffled anew.
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
        blocks: Sequence[int] | None = None,
        window: int = WINDOW,
        repeat: int = 1,
    ) -> None:
        if blocks is not None and sum(blocks) != n:
            raise ValueError(f"blocks has {sum(blocks)} samples, expected n={n}")
        if window < 1:
            raise ValueError(f"window={window}: need an integer >= 1")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.world, self.epoch = rank, world, epoch
        self.blocks, self.window, self.repeat = blocks, window, repeat

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.repeat * -(-self.n // (self.batch_size * self.world))

    def order(self, number: int | None = None) -> np.ndarray:
        """Return all samples in the order of a pass, by default the first of this epoch."""
        if self.seed is None or self.batch_size * self.world >= self.n:
            return np.arange(self.n)  # one batch holds all, in whatever order
        number = self.epoch * self.repeat if number is None else number
        rng = np.random.default_rng(epoch_seed(self.seed, number))
        if self.blocks is None or len(self.blocks) <= self.window:
            return rng.permutation(self.n)
        ends = np.cumsum(self.blocks)
        files = rng.permutation(len(self.blocks))
        parts = []
        for k in range(0, len(files), self.window):
            together = [
                np.arange(ends[f] - self.blocks[f], ends[f]) for f in files[k:][: self.window]
            ]
            parts.append(rng.permutation(np.concatenate(together)))
        return np.concatenate(parts)

    def __iter__(self) -> Iterator[list[int]]:
        for k in range(self.repeat):
            yield from self._batches(self.order(self.epoch * self.repeat + k))

    def _batches(self, order: np.ndarray) -> Iterator[list[int]]:
        mine = order[self.rank :: self.world]
        most = -(-self.n // self.world)
        if len(mine) < most:  # the others have one more
            mine = np.append(mine, -order[0] - 1)
        for start in range(0, most, self.batch_size):
            yield mine[start : start + self.batch_size].tolist()


class _ReadAhead(DataLoader[Any]):
    """A loader without worker processes whose batches threads read ahead."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        indices = iter(self.sampler)
        with ThreadPoolExecutor(min(READERS, available_cores()), "opkit-read-ahead") as pool:
            ahead: deque[Future[Any]] = deque()
            try:
                ahead.extend(pool.submit(self._read, i) for i in itertools.islice(indices, 1))
                while ahead:
                    batch = ahead.popleft().result()
                    most = max(1, min(READ_AHEAD, MAX_AHEAD // max(1, _bytes_of(batch))))
                    for i in itertools.islice(indices, max(0, most - len(ahead))):
                        ahead.append(pool.submit(self._read, i))
                    yield batch
                    del batch  # not kept while the next is waited for
            finally:
                for waiting in ahead:
                    waiting.cancel()

    def _read(self, indices: Sequence[int]) -> Any:
        batch = self.dataset[indices]  # type: ignore[index]
        if not self.pin_memory:
            return batch
        if isinstance(batch, Mapping):
            return {name: t.pin_memory() for name, t in batch.items()}
        return tuple(t.pin_memory() for t in batch)


def _bytes_of(batch: Any) -> int:
    """Bytes of the tensors in a batch."""
    if isinstance(batch, Mapping):
        batch = batch.values()
    elif not isinstance(batch, tuple | list):
        return int(getattr(batch, "nbytes", 0))
    return sum(map(_bytes_of, batch))


def make_loader(
    data: SplitData | FieldData,
    sampler: BatchSampler,
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
    start_method: Literal["fork", "spawn", "forkserver"] = "fork",
) -> DataLoader[Any]:
    """Loader of whole batches; their order does not depend on who reads them.

    Parameters
    ----------
    data : SplitData or FieldData
    sampler : BatchSampler
        With ``blocks=data.blocks``, so that data out of memory are read a few files at a time.
    num_workers : int
        Processes that read ahead; of no use when the data is held in memory. With 0 and data that
        is not, two threads read ahead.
    start_method : {"fork", "spawn", "forkserver"}
        Of the processes.
    """
    data.load()
    kind = DataLoader if data.cached or num_workers else _ReadAhead
    prefetch = None  # batches read ahead by each worker
    if num_workers:
        size = num_workers * sampler.batch_size * _bytes_of(data[[0]]) if len(data) else 0
        prefetch = 1 if size > MAX_AHEAD else 2
    return kind(
        data,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        prefetch_factor=prefetch,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        # its own, so that the global generator is not touched
        generator=torch.Generator().manual_seed(sampler.seed or 0),
        multiprocessing_context=start_method if num_workers else None,
    )
