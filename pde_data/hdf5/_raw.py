"""Reading uncompressed chunks past HDF5: straight from the file to where they belong.

HDF5 copies a chunk twice and takes its checksum word by word, which costs more than reading it.
Here the operating system writes a chunk into the array it is for, and the checksum runs
on all lanes of the processor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import numpy as np
from numba import njit, types

__all__ = ["Descriptor", "RawChunks", "chunk_runs", "read_chunks"]

#: Bytes from which two threads are faster than one.
MIN_THREADED = 2**19
_LANES = 64
_ROWS = 256  # of lanes: the sums of so many 16-bit words stay below 2**32


#: Of the C library: a Python call for each chunk would cost as much as reading it.
_preadv = types.ExternalFunction(
    "preadv", types.intp(types.int32, types.CPointer(types.uintp), types.int32, types.int64)
)


@njit(cache=True, nogil=True)
def _sums(words, s1, s2):  # type: ignore[no-untyped-def]
    """Both sums of HDF5's checksum modulo 65535, see `_chunks.fletcher32`; s1, s2 are scratch."""
    first = second = np.uint64(0)
    n = len(words)
    start = 0
    while n - start >= _LANES:
        rows = min(_ROWS, (n - start) // _LANES)
        s1[:] = 0
        s2[:] = 0
        whole = rows // 8 * 8
        for r in range(0, whole, 8):  # eight rows for one load and store of the sums
            block = words[start + r * _LANES : start + (r + 8) * _LANES]
            for k in range(_LANES):
                t = np.uint32(block[k])  # one by one: of loops LLVM makes slower code
                u = t
                t += np.uint32(block[k + _LANES])
                u += t
                t += np.uint32(block[k + 2 * _LANES])
                u += t
                t += np.uint32(block[k + 3 * _LANES])
                u += t
                t += np.uint32(block[k + 4 * _LANES])
                u += t
                t += np.uint32(block[k + 5 * _LANES])
                u += t
                t += np.uint32(block[k + 6 * _LANES])
                u += t
                t += np.uint32(block[k + 7 * _LANES])
                u += t
                s2[k] += s1[k] * np.uint32(8) + u
                s1[k] += t
        for r in range(whole, rows):
            block = words[start + r * _LANES : start + (r + 1) * _LANES]
            for k in range(_LANES):
                s1[k] += block[k]
                s2[k] += s1[k]
        count = np.uint64(rows * _LANES)
        second += count * first
        for k in range(_LANES):  # word k of a row is k behind the first
            second += np.uint64(_LANES) * np.uint64(s2[k]) - np.uint64(k) * np.uint64(s1[k])
            first += np.uint64(s1[k])
        first %= np.uint64(65535)
        second %= np.uint64(65535)
        start += rows * _LANES
    for i in range(start, n):
        first += np.uint64(words[i])
        second += first
    return int(first % np.uint64(65535)), int(second % np.uint64(65535))


@njit(cache=True, nogil=True)
def _read(fds, offsets, places, values, checksum, good):  # type: ignore[no-untyped-def]
    """Read chunks into rows of `values` and note which could be read and have their checksum."""
    s1, s2 = np.zeros(_LANES, np.uint32), np.zeros(_LANES, np.uint32)
    tail = np.zeros(2, np.uint16)
    size = values.shape[1] * 2
    vector = np.array([0, size, tail.ctypes.data, 4], np.uintp)
    for i in range(len(fds)):
        target = values[places[i]]
        vector[0] = target.ctypes.data
        n = _preadv(fds[i], vector.ctypes, 1 + checksum, offsets[i])
        ok = n == size + 4 * checksum
        if ok and checksum:
            first, second = _sums(target, s1, s2)
            # of two values that are 0 modulo 65535 HDF5 may have stored either
            ok = (
                np.uint64(tail[0]) % 65535 == 256 * first % 65535
                and np.uint64(tail[1]) % 65535 == 256 * second % 65535
            )
        good[i] = ok


_POOL: list[ThreadPoolExecutor] = []
os.register_at_fork(after_in_child=_POOL.clear)  # threads do not survive a fork


def read_chunks(
    fds: np.ndarray,
    places: np.ndarray,
    targets: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    checksum: bool = True,
) -> np.ndarray:
    """Read chunks in the order given, one sample each.

    Parameters
    ----------
    fds : ndarray of int, shape (n,)
        Descriptor of the file of each sample.
    places : ndarray of int, shape (n,)
        Its row in the arrays.
    targets : sequence of (offsets, out)
        For each field: where in its file the chunk of each sample begins, and an array that is
        contiguous.

    Returns
    -------
    ndarray of bool, shape (n,)
        Of which samples all chunks could be read and had the right checksum.
    """
    n = len(fds)
    fds, places = fds.astype(np.int32), places.astype(np.int64)
    good = np.zeros((len(targets), n), np.bool_)
    fields = [(o.astype(np.int64), a.reshape(len(a), -1).view(np.uint16)) for o, a in targets]

    def read(rows: slice) -> None:
        for (offsets, values), ok in zip(fields, good, strict=True):
            _read(fds[rows], offsets[rows], places[rows], values, checksum, ok[rows])

    size = n * sum(values[:1].nbytes for _, values in fields)
    half = n // 2 if size >= MIN_THREADED and len(os.sched_getaffinity(0)) > 1 else 0
    if half and not _POOL:
        _POOL.append(ThreadPoolExecutor(1, "opkit-read"))
    other = _POOL[0].submit(read, slice(0, half)) if half else None
    try:
        read(slice(half, n))
    finally:
        if other is not None:
            other.result()
    return good.all(axis=0)


def chunk_runs(ds: h5py.Dataset) -> list[list[int]] | None:
    """Where the chunks of a dataset lie, as runs ``[first sample, byte, bytes to the next]``.

    None if HDF5 must read it, or if it has no checksum, or if its chunks are scattered.
    """
    raw = RawChunks.of(ds)
    if raw is None or not raw.has_checksum or not len(raw.offsets):
        return None
    offsets = raw.offsets.tolist()
    runs: list[list[int]] = []
    i = 0
    while i < len(offsets):
        step = offsets[i + 1] - offsets[i] if i + 1 < len(offsets) else 0
        runs.append([i, offsets[i], step])
        i += 1
        while step and i < len(offsets) and offsets[i] - offsets[i - 1] == step:
            i += 1
    return runs if len(runs) <= 8 + len(offsets) // 8 else None


class Descriptor:
    """A file open for reading, closed with the last reference to it.

    Parameters
    ----------
    path : str
    stamp : sequence of int
        Size, time of the last change in ns, and inode that it must have.

    Raises
    ------
    OSError
    ValueError
        It is another file by now.
    """

    fd = -1

    def __init__(
        self, path: str, stamp: Sequence[int], stamp_of: Callable[[os.stat_result], tuple[int, ...]]
    ) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if stamp_of(os.fstat(self.fd)) != tuple(stamp):
            raise ValueError(f"{path}: replaced")

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class RawChunks:
    """The chunks of a dataset without compression, one sample each.

    Parameters
    ----------
    fd : int
        Descriptor of the open file.
    offsets : ndarray of int64
        Where the chunks begin.
    has_checksum : bool
    """

    def __init__(self, fd: int, offsets: np.ndarray, has_checksum: bool) -> None:
        self._fd, self.offsets, self.has_checksum = fd, offsets, has_checksum

    @classmethod
    def of(cls, ds: h5py.Dataset) -> RawChunks | None:
        """Chunks of a dataset; None if HDF5 must read it."""
        names = {ds.id.get_create_plist().get_filter(i)[0] for i in range(_n_filters(ds))}
        checksum = names == {h5py.h5z.FILTER_FLETCHER32}
        plain = ds.ndim > 1 and ds.chunks == (1, *ds.shape[1:])
        itemsize = ds.dtype.itemsize
        if not plain or (names and not checksum) or ds.dtype.str not in ("<f4", "<f8"):
            return None
        if ds.file.driver != "sec2" or ds.file.userblock_size:
            return None
        size = itemsize * int(np.prod(ds.shape[1:], dtype=np.int64))
        offsets = np.full(ds.shape[0], -1, np.int64)

        def note(info: Any) -> None:
            if info.filter_mask == 0 and info.size == size + 4 * checksum:
                offsets[info.chunk_offset[0]] = info.byte_offset

        ds.id.chunk_iter(note)
        if offsets.min(initial=0) < 0 or size % 2:
            return None
        return cls(ds.file.id.get_vfd_handle(), offsets, checksum)

    def read(self, rows: np.ndarray, to: np.ndarray, out: np.ndarray) -> bool:
        """``out[to] = ds[rows]``; whether all could be read and had the right checksum."""
        if not out.flags.c_contiguous:
            return False
        fds, targets = np.full(len(rows), self._fd), [(self.offsets[rows], out)]
        return bool(read_chunks(fds, to, targets, checksum=self.has_checksum).all())


def _n_filters(ds: h5py.Dataset) -> int:
    return int(ds.id.get_create_plist().get_nfilters())
