"""Where the values of fields lie in a file, and a checksum of all its other bytes.

What a shard says of itself depends on those other bytes alone: while they are the ones that passed
the check of its structure, nobody has to go through them again.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = ["chunk_offsets", "chunk_runs", "field_bytes", "frame", "has_frame"]

#: Runs of bytes from which on a checksum of the others is not worth its place in the index.
MAX_RUNS = 64
_BLOCK = 2**20


def field_bytes(f: h5py.File, sets: Iterable[h5py.Dataset]) -> list[list[int]] | None:
    """Find the bytes that the chunks of datasets take, as runs ``[start, stop)`` in order.

    None if they are too many, or not where HDF5 says (behind a user block).
    """
    places: list[tuple[int, int]] = []

    def note(chunk: Any) -> None:
        places.append((chunk.byte_offset, chunk.byte_offset + chunk.size))

    for ds in sets:
        if ds.chunks:
            ds.id.chunk_iter(note)
    runs: list[list[int]] = []
    for start, stop in sorted(places):
        if runs and start <= runs[-1][1]:
            runs[-1][1] = max(stop, runs[-1][1])
        else:
            runs.append([start, stop])
    return runs if len(runs) <= MAX_RUNS and not f.userblock_size else None


def frame(path: Path, fields: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Entry of the index: `fields` from `field_bytes`, and the checksum of all other bytes.

    Raises
    ------
    ValueError
        The file has no such bytes.
    OSError
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        flat = [0, *itertools.chain.from_iterable(fields), size]
        if any(a > b for a, b in itertools.pairwise(flat)):
            raise ValueError(f"{path}: {size} bytes, without some of {fields}")
        digest.update(struct.pack(f"<{len(flat)}q", *flat))
        for start, stop in zip(flat[::2], flat[1::2], strict=True):
            file.seek(start)
            for left in range(stop - start, 0, -_BLOCK):
                digest.update(file.read(min(left, _BLOCK)))
    return {"fields": [list(run) for run in fields], "digest": digest.hexdigest()}


def has_frame(path: Path, entry: Any) -> bool:
    """Whether all bytes of a file beside the fields are those that `entry` was made of."""
    try:
        return bool(frame(path, entry["fields"]) == entry)
    except (KeyError, TypeError, ValueError, OverflowError, OSError, struct.error):
        return False


# -- chunks that can be read without HDF5 --------------------------------------------------------


def chunk_offsets(ds: h5py.Dataset) -> tuple[np.ndarray, bool] | None:
    """Where the chunks of a dataset without compression begin, if each is one sample.

    Returns
    -------
    offsets : ndarray of int64, shape (N,)
    checksum : bool
        Whether four bytes of it follow each.
    None
        HDF5 must read the dataset.
    """
    created = ds.id.get_create_plist()
    names = {created.get_filter(i)[0] for i in range(created.get_nfilters())}
    checksum = names == {h5py.h5z.FILTER_FLETCHER32}
    plain = ds.ndim > 1 and ds.chunks == (1, *ds.shape[1:])
    if not plain or (names and not checksum) or ds.dtype.str not in ("<f4", "<f8"):
        return None
    if ds.file.driver != "sec2" or ds.file.userblock_size:
        return None
    size = ds.dtype.itemsize * int(np.prod(ds.shape[1:], dtype=np.int64))
    offsets = np.full(ds.shape[0], -1, np.int64)

    def note(chunk: Any) -> None:
        if chunk.filter_mask == 0 and chunk.size == size + 4 * checksum:
            offsets[chunk.chunk_offset[0]] = chunk.byte_offset

    ds.id.chunk_iter(note)
    if offsets.min(initial=0) < 0 or size % 2:
        return None
    return offsets, checksum


def chunk_runs(ds: h5py.Dataset) -> list[list[int]] | None:
    """Where the chunks of a dataset lie, as runs ``[first sample, byte, bytes to the next]``.

    None if HDF5 must read it, or if it has no checksum, or if its chunks are scattered.
    """
    found = chunk_offsets(ds)
    if found is None or not found[1] or not len(found[0]):
        return None
    offsets = found[0].tolist()
    runs: list[list[int]] = []
    i = 0
    while i < len(offsets):
        step = offsets[i + 1] - offsets[i] if i + 1 < len(offsets) else 0
        runs.append([i, offsets[i], step])
        i += 1
        while step and i < len(offsets) and offsets[i] - offsets[i - 1] == step:
            i += 1
    return runs if len(runs) <= 8 + len(offsets) // 8 else None
