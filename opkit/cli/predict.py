"""``opkit predict``."""

from __future__ import annotations


def predict() -> None:
    """Wait for predict."""
