"""Reading uncompressed chunks past HDF5: straight from the file to where they belong.

HDF5 copies a chunk twice and takes its checksum word by word, which costs more than reading it.
Here the operating system writes a chunk into the array it is for, and the checksum runs
on all lanes of the processor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, njit, types
from numba.extending import intrinsic

from ._places import chunk_offsets

__all__ = ["Descriptor", "RawChunks", "read_chunks"]

#: Bytes from which two threads are faster than one.
MIN_THREADED = 2**19
_LANES = 32
_ROWS = 256  # the sums of so many 16-bit words stay below 2**32


#: Of the C library: a Python call for each chunk would cost as much as reading it.
_preadv = types.ExternalFunction(
    "preadv", types.intp(types.int32, types.CPointer(types.uintp), types.int32, types.int64)
)


@intrinsic
def _row_sums(typingctx, address, rows, out):  # type: ignore[no-untyped-def]
    """Add up rows of 16-bit words, and their partial sums, one of each a lane.

    Written out as vectors: LLVM finds no good ones in a loop.
    """
    signature = types.void(types.uintp, types.intp, types.CPointer(types.uint32))

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        address, rows, out = args
        words = ir.VectorType(ir.IntType(16), _LANES)
        sums = ir.VectorType(ir.IntType(32), _LANES)
        base = builder.inttoptr(address, ir.PointerType(words))
        before, loop = builder.block, builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        row, first, second = (builder.phi(t) for t in (rows.type, sums, sums))
        for value in (row, first, second):
            value.add_incoming(ir.Constant(value.type, None), before)
        word = builder.load(builder.gep(base, [row]), align=2)
        one = builder.add(first, builder.zext(word, sums))
        two = builder.add(second, one)
        following = builder.add(row, ir.Constant(row.type, 1))
        for value, to in ((row, following), (first, one), (second, two)):
            value.add_incoming(to, loop)
        after = builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", following, rows), loop, after)
        builder.position_at_end(after)
        to = builder.bitcast(out, ir.PointerType(sums))
        builder.store(one, to, align=4)
        builder.store(two, builder.gep(to, [ir.Constant(ir.IntType(32), 1)]), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _pointer(typingctx, address):  # type: ignore[no-untyped-def]
    """Pointer to 16-bit words."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.uintp), generate


@njit(cache=True, nogil=True)
def _sums(words, lanes):  # type: ignore[no-untyped-def]
    """Both sums of HDF5's checksum modulo 65535, see `_chunks.fletcher32`; `lanes` is scratch."""
    first = second = np.uint64(0)
    n = len(words)
    start = 0
    while n - start >= _LANES:
        rows = min(_ROWS, (n - start) // _LANES)
        _row_sums(words.ctypes.data + 2 * start, rows, lanes.ctypes)
        second += np.uint64(rows * _LANES) * first
        for k in range(_LANES):  # word k of a row is k behind the first
            s1, s2 = np.uint64(lanes[k]), np.uint64(lanes[_LANES + k])
            second += np.uint64(_LANES) * s2 - np.uint64(k) * s1
            first += s1
        first %= np.uint64(65535)
        second %= np.uint64(65535)
        start += rows * _LANES
    for i in range(start, n):
        first += np.uint64(words[i])
        second += first
    return int(first % np.uint64(65535)), int(second % np.uint64(65535))


@njit(cache=True, nogil=True)
def _read(fds, starts, index, places, tables, ends, addresses, sizes, checksum, good):  # type: ignore[no-untyped-def]
    """Read the chunks of samples and note of which all could be read and have their checksum."""
    n_fields = len(addresses)
    lanes = np.zeros(2 * _LANES, np.uint32)
    tails = np.zeros((n_fields, 2), np.uint16)
    vector = np.zeros((n_fields, 4), np.uintp)
    offsets = np.zeros(n_fields, np.int64)
    for k in range(n_fields):
        vector[k, 1] = sizes[k]
        vector[k, 2] = tails[k].ctypes.data
        vector[k, 3] = 4 * checksum
    for i in range(len(index)):
        wanted = index[i]
        fd = fds[np.searchsorted(starts, wanted, "right") - 1]
        good[i] = fd >= 0
        if fd < 0:
            continue
        for k in range(n_fields):
            table = tables[ends[k] : ends[k + 1]]
            first, start, step = table[np.searchsorted(table[:, 0], wanted, "right") - 1]
            offsets[k] = start + (wanted - first) * step
            vector[k, 0] = addresses[k] + places[i] * sizes[k]
        begin = 0
        while begin < n_fields:  # fields that lie behind one another at once
            end, length = begin, 0
            while end < n_fields and end - begin < 256 and offsets[end] == offsets[begin] + length:
                length += sizes[end] + 4 * checksum
                end += 1
            n = _preadv(fd, vector[begin].ctypes, 2 * (end - begin), offsets[begin])
            good[i] &= n == length
            begin = end
        if checksum and good[i]:
            for k in range(n_fields):
                words = carray(_pointer(vector[k, 0]), sizes[k] // 2)
                first, second = _sums(words, lanes)
                # of two values that are 0 modulo 65535 HDF5 may have stored either
                good[i] &= np.uint64(tails[k, 0]) % 65535 == 256 * first % 65535
                good[i] &= np.uint64(tails[k, 1]) % 65535 == 256 * second % 65535


_POOL: list[ThreadPoolExecutor] = []
os.register_at_fork(after_in_child=_POOL.clear)  # threads do not survive a fork


def read_chunks(
    fds: np.ndarray,
    starts: np.ndarray,
    index: np.ndarray,
    places: np.ndarray,
    tables: Sequence[np.ndarray],
    out: Sequence[np.ndarray],
    *,
    checksum: bool = True,
) -> np.ndarray:
    """Read samples, of which each has one chunk a field.

    Parameters
    ----------
    fds : ndarray of int32, shape (k,)
        Descriptors of the files; -1: not to be read.
    starts : ndarray of int64, shape (k,)
        First sample of each file.
    index : ndarray of int64, shape (n,)
        Samples, best in the order in which they lie.
    places : ndarray of int64, shape (n,)
        Row of each in the arrays.
    tables : sequence of ndarray of int64, shape (runs, 3)
        For each field runs of samples: the first, where it lies, and bytes to the next.
    out : sequence of ndarray
        For each field an array that is contiguous.

    Returns
    -------
    ndarray of bool, shape (n,)
        Of which samples all chunks could be read and had the right checksum.
    """
    n = len(index)
    good = np.zeros(n, np.bool_)
    sizes = np.array([a.nbytes // max(1, len(a)) for a in out])
    ends = np.cumsum([0, *map(len, tables)])
    addresses = np.array([a.ctypes.data for a in out])
    table = np.concatenate(tables) if len(tables) > 1 else tables[0]

    def read(a: int, b: int) -> None:
        _read(
            fds, starts, index[a:b], places[a:b], table, ends, addresses, sizes, checksum, good[a:b]
        )

    half = n // 2 if n * sizes.sum() >= MIN_THREADED and _may_share() else 0
    if half and not _POOL:
        _POOL.append(ThreadPoolExecutor(1, "opkit-read"))
    other = _POOL[0].submit(read, 0, half) if half else None
    try:
        read(half, n)
    finally:
        if other is not None:
            other.result()
    return good


def _may_share() -> bool:
    """Whether a second thread helps: a thread that reads ahead is one itself."""
    main = threading.current_thread() is threading.main_thread()
    return main and len(os.sched_getaffinity(0)) > 1


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
        found = chunk_offsets(ds)
        return found and cls(ds.file.id.get_vfd_handle(), *found)

    def read(self, rows: np.ndarray, to: np.ndarray, out: np.ndarray) -> bool:
        """``out[to] = ds[rows]``; whether all could be read and had the right checksum."""
        if not out.flags.c_contiguous:
            return False
        fds, starts = np.array([self._fd], np.int32), np.zeros(1, np.int64)
        table = np.stack([np.arange(len(self.offsets)), self.offsets, 0 * self.offsets], axis=1)
        good = read_chunks(fds, starts, rows, to, [table], [out], checksum=self.has_checksum)
        return bool(good.all())
