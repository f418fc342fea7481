"""Checks of sizes that all models share."""

from __future__ import annotations

from numbers import Integral

__all__ = ["odd", "positive"]


def positive(**values: int) -> None:
    """Raise unless all values are integers of at least 1.

    Raises
    ------
    ValueError
        Names the first that is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value!r}: need an integer >= 1")


def odd(**values: int) -> None:
    """Raise unless all values are odd and at least 1.

    Raises
    ------
    ValueError
        Names the first that is not.
    """
    for name, value in values.items():
        if value < 1 or value % 2 == 0:
            raise ValueError(f"{name}={value}: need an odd integer >= 1")
