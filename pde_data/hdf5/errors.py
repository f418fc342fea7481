"""Errors of the dataset format; each names the file, the object, what is wrong, the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "ChecksumError",
    "ConfigMismatchError",
    "DatasetError",
    "FormatVersionError",
    "IncompleteShardError",
    "InvalidSampleError",
    "MissingMetadataError",
    "MissingShardError",
    "NotAnOpkitFileError",
    "PhysicsCheckError",
    "SchemaError",
    "SplitLeakError",
    "TooManyFailuresError",
    "TruncatedFileError",
    "UnitsError",
    "translate_h5",
]


class DatasetError(ValueError):
    """Something is wrong with a dataset, or with what is to become one."""


class NotAnOpkitFileError(DatasetError):
    """Not HDF5, or HDF5 of another kind."""


class FormatVersionError(DatasetError):
    """A major version that this opkit does not read."""


class TruncatedFileError(DatasetError):
    """The file is shorter than it says."""


class ChecksumError(DatasetError):
    """Stored bytes do not match their checksum."""


class IncompleteShardError(DatasetError):
    """A file that was never finished."""


class MissingShardError(DatasetError):
    """A shard that the manifest or the view names does not exist."""


class SchemaError(DatasetError):
    """Names, shapes, axes or attributes do not fit together."""


class UnitsError(DatasetError):
    """Units that pint cannot parse."""


class PhysicsCheckError(DatasetError):
    """Stored values contradict the stated bounds, boundary conditions or tolerance."""


class SplitLeakError(DatasetError):
    """The same input, or the same group, in two splits."""


class ConfigMismatchError(DatasetError):
    """The dataset was made with another configuration."""


class MissingMetadataError(DatasetError):
    """A foreign file lacks what a dataset must say about itself."""


class TooManyFailuresError(DatasetError):
    """More samples failed than is allowed."""


class InvalidSampleError(DatasetError):
    """One sample has non-finite values, or values outside its stated bounds.

    The sample is not data: record it with `ShardWriter.fail`.
    """


_EOF = re.compile(r"eof = (\d+), sblock->base_addr = (\d+), stored_eof = (\d+)")


@contextmanager
def translate_h5(path: str | Path, obj: str = "") -> Iterator[None]:
    """Turn the errors of h5py into those of this module.

    Parameters
    ----------
    path : path
        File, for the message.
    obj : str
        HDF5 object being read, for the message.
    """
    where = f"{path}: {obj}" if obj else f"{path}"
    try:
        yield
    except (DatasetError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as e:
        # a damaged file can make h5py raise any of these, UnicodeDecodeError among them
        raw = str(e)
        text = " ".join(raw.split())
        if "file signature not found" in text:
            raise NotAnOpkitFileError(f"{where}: not an HDF5 file, so not an opkit dataset.") from e
        if "truncated file" in text:
            if m := _EOF.search(text):
                found = f"the file ends at byte {m[1]} of {m[3]}"
            else:
                found = "the file is shorter than it says"
            raise TruncatedFileError(
                f"{where}: {found}: the copy was cut short. Copy it again, or "
                "make the shard again with: opkit generate --resume"
            ) from e
        if isinstance(e, OSError) and e.errno:  # the operating system's: disk, descriptors, ...
            raise
        if "filter returned failure" in text:
            raise ChecksumError(f"{where}: a chunk fails its checksum.") from e
        if "checksum" in text:
            raise ChecksumError(f"{where}: metadata fails its checksum.") from e
        raise ChecksumError(f"{where}: cannot be read, the file is damaged ({text}).") from e
