"""The command line: one module a command; what a command needs is imported when it runs.

Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 the work failed,
2 the caller's mistake, 130 interrupted; every error is one line unless ``--debug`` is given.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit status.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        from ._app import run

        with warnings.catch_warnings():
            warnings.showwarning = _show
            status = run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of stdout went away (opkit ... | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in args:
            raise
        from opkit.errors import describe, exit_status

        line = describe(error)
        sys.stderr.write(f"{line}\n" if line.startswith("opkit ") else f"opkit: {line}\n")
        return exit_status(error)


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    """Tell a warning in one line."""
    sys.stderr.write(f"opkit: warning: {' '.join(str(message).split())}\n")
