"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

__all__ = ["AtomicH5", "atomic_h5", "write_text"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Bytes written at once. HDF5 writes a chunk at a time; in large pieces the system keeps a file in
#: large pages, from which it is read a quarter faster.
_PIECE = 2**21


class _Sink:
    """File object that h5py writes through; it keeps the first error instead of raising it.

    HDF5 does not survive a failed write: the file cannot be closed any more, its descriptor
    leaks and the process crashes at exit. So HDF5 is told that all is well, and whoever writes
    asks `check`.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._pos = 0
        self._waiting = bytearray()  # of neighboring writes, up to `_pos` or a seek
        self._start = 0  # where they belong
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error of the operating system."""
        if self._error is not None:
            raise self._error

    def _keep(self, e: OSError) -> None:
        self._error = self._error or e

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            self.flush()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._pos}.get(whence)
        self._pos = offset + (os.fstat(self.fd).st_size if base is None else base)
        return self._pos

    def tell(self) -> int:
        return self._pos

    def readinto(self, buffer: memoryview) -> int:
        self.flush()
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            data = os.pread(self.fd, len(view) - done, self._pos + done)
            if not data:  # lost to an error
                data = bytes(len(view) - done)
            view[done : done + len(data)] = data
            done += len(data)
        self._pos += len(view)
        return len(view)

    def read(self, n: int) -> bytes:
        buffer = bytearray(n)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        if self._pos != self._start + len(self._waiting):
            self.flush()
            self._start = self._pos
        self._waiting += view
        self._pos += len(view)
        if len(self._waiting) >= _PIECE:
            self.flush()
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.flush()
        size = self._pos if size is None else size
        try:
            os.ftruncate(self.fd, size)
        except OSError as e:
            self._keep(e)
        return size

    def flush(self) -> None:
        """Hand over to the system what waits."""
        data, self._waiting = memoryview(self._waiting), bytearray()
        done = 0
        try:
            while self._error is None and done < len(data):
                done += os.pwrite(self.fd, data[done:], self._start + done)
        except OSError as e:
            self._keep(e)
        self._start += len(data)


class AtomicH5:
    """An HDF5 file under a temporary name, renamed when it is finished.

    Parameters
    ----------
    path : Path
        Final name. The temporary ``.<stem>.<random>.tmp`` lies in the same directory.

    Attributes
    ----------
    file : h5py.File
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
        self._tmp = Path(name)
        self._sink = _Sink(fd)
        try:
            os.fchmod(fd, 0o666 & ~_umask())
            with suppress(OSError):  # a file system without locks
                fcntl.flock(fd, fcntl.LOCK_EX)
            # superblock 2 with checksums, readable by HDF5 >= 1.8
            self.file = h5py.File(self._sink, "w", libver=("v108", "v110"))
        except BaseException:
            self.discard()
            raise

    def check(self) -> None:
        """Raise `OSError` if a write has failed."""
        try:
            self._sink.check()
        except OSError as e:
            raise explained(e, self.path) from e

    def close(self) -> None:
        """Close the HDF5 file, all that is left to do with HDF5.

        Raises
        ------
        OSError
            Disk full and the like; nothing is left behind.
        """
        try:
            self.file.close()
            self._sink.flush()
            self._sink.check()
        except BaseException as e:
            self.discard()
            if isinstance(e, OSError):
                raise explained(e, self.path) from e
            raise

    def publish(self) -> None:
        """Close, sync and rename.

        Raises
        ------
        OSError
            Disk full and the like; nothing is left behind.
        FileNotFoundError
            Somebody removed the temporary.
        """
        self.close()
        try:
            os.fsync(self._sink.fd)
            with suppress(OSError):  # HDF5 would not open a locked file
                fcntl.flock(self._sink.fd, fcntl.LOCK_UN)
            os.replace(self._tmp, self.path)
        except BaseException as e:
            self.discard()
            if isinstance(e, OSError):
                raise explained(e, self.path) from e
            raise
        os.close(self._sink.fd)
        sync_directory(self.path.parent)

    def discard(self) -> None:
        """Close and remove the temporary."""
        with suppress(Exception):  # not opened, or damaged by what led here
            self.file.close()
        with suppress(OSError):
            os.close(self._sink.fd)
        self._tmp.unlink(missing_ok=True)


@contextmanager
def atomic_h5(path: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file that appears under `path` when the block ends well."""
    out = AtomicH5(path)
    try:
        yield out.file
    except BaseException:
        out.discard()
        raise
    out.publish()


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    fd, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fchmod(f.fileno(), 0o666 & ~_umask())
            os.fsync(f.fileno())
        os.replace(name, path)
    except BaseException as e:
        Path(name).unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise explained(e, path) from e
        raise
    sync_directory(path.parent)


def explained(e: OSError, path: Path) -> OSError:
    """Return the error with the file it is about, and with what to do about a full disk."""
    why = f"{os.strerror(e.errno or 0)}: cannot write {path}"
    if e.errno in _FULL:
        why += ". Free some space or choose another directory; what is finished is kept."
    return OSError(e.errno, why)


def is_being_written(tmp: Path) -> bool:
    """Whether a live process holds a temporary; the system lets go of it when one dies."""
    try:
        fd = os.open(tmp, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def clean_old(directory: Path, stem: str, age: float = 3600.0) -> None:
    """Remove temporaries of `stem` that no running process can still be writing."""
    for p in directory.glob(f".{stem}.*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - p.stat().st_mtime > age:
                p.unlink()


def sync_directory(path: Path) -> None:
    """Make a rename durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _umask() -> int:
    """Return the process' umask; mkstemp ignores it and makes private files."""
    with suppress(OSError, AttributeError):  # Linux tells it without a change
        m = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        if m:
            return int(m[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
