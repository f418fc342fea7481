"""What goes wrong, in one line, and the exit status that says whose turn it is."""

from __future__ import annotations

__all__ = ["UsageError", "describe", "exit_status"]

#: Exit statuses: the work failed, the caller's mistake, interrupted.
FAILED, USAGE, INTERRUPTED = 1, 2, 130


class UsageError(ValueError):
    """The caller's mistake; the message names the argument, the value and what is allowed."""


def exit_status(error: BaseException) -> int:
    """Exit status of a command that ended with `error`.

    Returns
    -------
    int
        130 interrupted; 2 the caller's mistake (a `ValueError`: unknown names, bad values,
        datasets and models that do not fit; a path that is missing or taken); else 1.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if any(cls.__name__ == "TooManyFailuresError" for cls in type(error).__mro__):
        return FAILED  # a DatasetError, but what failed is the work
    paths = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
    return USAGE if isinstance(error, (ValueError, *paths)) else FAILED


def describe(error: BaseException) -> str:
    """Tell the error in one line, without a traceback.

    Errors that opkit does not raise itself (a bug, then) also say their type and how to see more.
    """
    if isinstance(error, KeyboardInterrupt):
        text = " ".join(str(error).split())
        return f"interrupted; {text}" if text else "interrupted"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    if type(error).__module__.startswith("pydantic"):
        from pde_data.problem import validation_line

        return validation_line(error)  # type: ignore[arg-type]
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, RuntimeError, OSError, ImportError)) and text:
        return text
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {text}' if text else ''}"
    return f"{type(error).__name__}: {text} (--debug shows where)"
