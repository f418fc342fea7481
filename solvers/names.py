"""Errors about names: one line that says what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["UnknownNameError", "check_name", "suggest"]


class UnknownNameError(ValueError):
    """A name that is not registered; the message suggests the nearest one."""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed name, else ``""``."""
    close = get_close_matches(str(name).lower(), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_name(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return `name` if it is allowed.

    Raises
    ------
    UnknownNameError
        Names the kind, the value, the nearest allowed name and all of them.
    """
    allowed = list(allowed)
    if name in allowed:
        return name
    raise UnknownNameError(
        f"unknown {kind} {name!r}.{suggest(name, allowed)} Allowed: {', '.join(allowed)}."
    )
