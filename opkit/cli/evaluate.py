"""``opkit evaluate``."""

from __future__ import annotations


def evaluate() -> None:
    """Wait for evaluate."""
