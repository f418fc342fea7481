"""How many CPU threads torch works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cpu_threads"]


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
