"""How torch works on a CPU: threads and memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["cpu_threads", "keep_memory"]

#: Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step, where it is glibc.

    Otherwise arrays of some megabytes go back to the system after each operation, and the next one
    waits for fresh pages: a fifth of a step of an FNO at 128 x 128 points.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def cpu_threads(n: int | None) -> Iterator[None]:
    """Let torch work on `n` threads; None leaves its own choice.

    Small arrays gain nothing from a second thread, and lose a factor of ten where other programs
    use the cores too: the threads wait for each other after every operation.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if n is None else n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
