"""Tensors of a ``torch.save`` file, without torch and without running code from the file."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..hdf5.errors import NotAnOpkitFileError

__all__ = ["SafeUnpickler", "load_tensors"]

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class SafeUnpickler(pickle.Unpickler):
    """Unpickler that knows the names in `allowed` and nothing else."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {("collections", "OrderedDict"): OrderedDict}

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for.

        Raises
        ------
        pickle.UnpicklingError
            The file asks for anything else.
        """
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which is not data")


def _rebuild(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """View of a storage, with bounds checked."""
    if len(size) != len(stride) or offset < 0 or any(v < 0 for v in (*size, *stride)):
        raise pickle.UnpicklingError("a tensor has impossible strides")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.size:
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    if not math.prod(size):
        return np.empty(size, storage.dtype)
    bytes_ = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, bytes_, writeable=False)


class _TorchUnpickler(SafeUnpickler):
    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        **SafeUnpickler.allowed,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        **{("torch", name): name for name in _STORAGES},
    }

    def __init__(self, data: bytes, storages: Any) -> None:
        super().__init__(io.BytesIO(data))
        self._storages = storages

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Map a storage into memory."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[1] in _STORAGES):
            raise pickle.UnpicklingError("a storage of unknown kind")
        array: np.ndarray = self._storages(str(pid[2]), _STORAGES[pid[1]], int(pid[4]))
        return array


def load_tensors(path: Path) -> Any:
    """Content of a file of ``torch.save``: tensors as read-only arrays, mapped from the file.

    Raises
    ------
    NotAnOpkitFileError
        Not such a file, older than torch 1.6, damaged, or with more than tensors in it.
    """
    try:
        with zipfile.ZipFile(path) as z, path.open("rb") as raw:
            names = z.namelist()
            pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
            if len(pickles) != 1:
                raise NotAnOpkitFileError(f"{path}: not a file of torch.save")
            head = pickles[0][: -len("data.pkl")]

            def storage(key: str, dtype: str, n: int) -> np.ndarray:
                info = z.getinfo(f"{head}data/{key}")
                item = np.dtype(dtype).itemsize
                if info.compress_type != zipfile.ZIP_STORED or info.file_size < n * item:
                    raise pickle.UnpicklingError(f"storage {key} is cut short")
                raw.seek(info.header_offset)
                fixed = raw.read(30)
                name_length, extra_length = struct.unpack("<HH", fixed[26:30])
                start = info.header_offset + 30 + name_length + extra_length
                if n == 0:
                    return np.empty(0, dtype)
                return np.memmap(path, dtype, "r", start, (n,))

            if f"{head}byteorder" in names and z.read(f"{head}byteorder") != b"little":
                raise NotAnOpkitFileError(f"{path}: written on a big-endian machine")
            return _TorchUnpickler(z.read(pickles[0]), storage).load()
    except zipfile.BadZipFile:
        raise NotAnOpkitFileError(
            f"{path}: not a file of torch.save (of torch 1.6 or later), or damaged"
        ) from None
    except (pickle.UnpicklingError, KeyError, EOFError, ValueError, TypeError, IndexError) as e:
        if isinstance(e, NotAnOpkitFileError):
            raise
        raise NotAnOpkitFileError(f"{path}: {e}") from None
