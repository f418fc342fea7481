"""Reading uncompressed chunks past HDF5: straight from the file to where they belong.

HDF5 copies a chunk twice and takes its checksum word by word, which costs more than reading it.
Here the operating system writes a chunk into the array it is for, and the checksum runs
on all lanes of the processor.
"""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np
from numba import njit

__all__ = ["RawChunks"]

_LANES = 64
_ROWS = 256  # of lanes: the sums of so many 16-bit words stay below 2**32


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
        whole = rows // 4 * 4
        for r in range(0, whole, 4):  # four rows for one load and store of the sums
            block = words[start + r * _LANES : start + (r + 4) * _LANES]
            for k in range(_LANES):
                a, b = np.uint32(block[k]), np.uint32(block[k + _LANES])
                c, d = np.uint32(block[k + 2 * _LANES]), np.uint32(block[k + 3 * _LANES])
                ab = a + b
                s2[k] += (s1[k] + a) * np.uint32(4) + b * np.uint32(3) + c * np.uint32(2) + d
                s1[k] += ab + c + d
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
        self._fd, self._offsets, self._has_checksum = fd, offsets, has_checksum
        self._work = np.zeros((2, _LANES), np.uint32)

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
        tail = bytearray(4 * self._has_checksum)
        if not out.flags.c_contiguous:
            return False
        values, offsets = out.reshape(len(out), -1).view(np.uint16), self._offsets
        size, check = values.itemsize * values.shape[1], self._has_checksum
        s1, s2 = self._work
        for row, place in zip(rows.tolist(), to.tolist(), strict=True):
            target = values[place]
            if os.preadv(self._fd, (target, tail), offsets[row]) != size + len(tail):
                return False
            if check:
                first, second = _sums(target, s1, s2)
                stated = int.from_bytes(tail, "little")
                # of two values that are 0 modulo 65535 HDF5 may have stored either
                if (stated & 0xFFFF) % 0xFFFF != 256 * first % 0xFFFF or (
                    stated >> 16
                ) % 0xFFFF != 256 * second % 0xFFFF:
                    return False
        return True


def _n_filters(ds: h5py.Dataset) -> int:
    return int(ds.id.get_create_plist().get_nfilters())
