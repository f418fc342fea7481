"""Progress on stderr: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any, Self, TextIO

__all__ = ["Progress", "duration"]

#: Seconds between two plain lines.
INTERVAL = 10.0


class Progress:
    """Progress of one piece of work.

    Parameters
    ----------
    what : str
        Of the work, such as ``"generating"``.
    total : int, optional
        Units of work.
    unit : str
        Of the work, such as ``"samples"``.
    stream : file, optional
        Default ``sys.stderr``.

    Notes
    -----
    Rate and time left come from the work done since the first `update`, so that neither a resumed
    run nor a slow start distorts them.
    """

    def __init__(
        self, what: str, total: int | None = None, unit: str = "", *, stream: TextIO | None = None
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.stream = sys.stderr if stream is None else stream
        self.start = time.monotonic()
        self.done = 0
        self.initial: int | None = None
        self.note = ""
        self._last = self._first = self.start
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn
            from rich.progress import Progress as Bar

            console = Console(file=self.stream)
            columns = ("{task.description}", BarColumn(), "{task.fields[text]}")
            self._bar = Bar(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, text="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.done:
            self._line()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Tell that `done` units of work are done in all.

        Parameters
        ----------
        done : int
        total : int, optional
            Replaces the total.
        note : str
            What else to show, such as the loss.
        """
        if self.initial is None:
            self.initial, self._first = done, time.monotonic()
        self.done, self.note = done, note
        self.total = total if total is not None else self.total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total, text=self.text())
        elif time.monotonic() - self._last >= INTERVAL:
            self._line()

    def text(self) -> str:
        """``"120/300 samples, 41/s, 4 s left, loss 0.02"``."""
        elapsed = time.monotonic() - self._first
        here = self.done - (self.initial or 0)
        parts = [f"{self.done}{f'/{self.total}' if self.total else ''} {self.unit}".rstrip()]
        if here > 0 and elapsed > 0:
            rate = here / elapsed
            parts.append(f"{rate:.3g}/s" if rate >= 0.1 else f"{duration(1 / rate)} each")
            if self.total and self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
            elif self.total:
                parts.append(f"took {duration(time.monotonic() - self.start)}")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _line(self) -> None:
        self._last = time.monotonic()
        self.stream.write(f"{self.what}: {self.text()}\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """Write a time for people, to the second from one second on.

    >>> duration(0.0123), duration(7.4), duration(754), duration(7300)
    ('12 ms', '7 s', '12 min 34 s', '2 h 1 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
