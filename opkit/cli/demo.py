"""``opkit demo``."""

from __future__ import annotations


def demo() -> None:
    """Wait for demo."""
