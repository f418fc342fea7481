"""What `opkit verify` shows: each check with what was measured and what is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from solvers.verify import observed_order

__all__ = ["Check", "agreement", "at_least", "at_most", "order_check"]


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Parameters
    ----------
    name : str
        What is checked, such as ``"order in space, structured, Dirichlet"``.
    measured : float
    asked : str
        What is asked of the number: ``"2 +- 0.2"``, ``"<= 1e-8"``.
    passed : bool
    kind : str
        ``order``, ``analytic``, ``agreement``, ``invariant``, ``bounds``, ``residual`` or
        ``estimate``.
    note : str
        Numbers behind it: errors on the grids, the reference's source.
    """

    name: str
    measured: float
    asked: str
    passed: bool
    kind: str = "analytic"
    note: str = ""


def at_most(
    name: str, measured: float, limit: float, *, kind: str = "analytic", note: str = ""
) -> Check:
    """Pass if ``measured <= limit`` (NaN fails)."""
    return Check(name, float(measured), f"<= {limit:.3g}", bool(measured <= limit), kind, note)


def at_least(
    name: str, measured: float, limit: float, *, kind: str = "analytic", note: str = ""
) -> Check:
    """Pass if ``measured >= limit`` (NaN fails)."""
    return Check(name, float(measured), f">= {limit:.3g}", bool(measured >= limit), kind, note)


def agreement(
    name: str,
    measured: float,
    expected: float,
    *,
    within: float,
    kind: str = "agreement",
    note: str = "",
) -> Check:
    """Pass if `measured` differs from `expected` by at most `within` (absolute)."""
    ok = abs(measured - expected) <= within
    return Check(name, float(measured), f"{expected:.6g} +- {within:.2g}", bool(ok), kind, note)


def order_check(
    name: str,
    spacings: Sequence[float],
    errors: Sequence[float],
    order: float,
    *,
    within: float = 0.2,
) -> Check:
    """Pass if the observed order of `errors` over `spacings` (or time steps) is `order`.

    Faster convergence than `order` passes too where `order` is infinite: then the last error must
    be at rounding, 1e-9.
    """
    note = "errors " + ", ".join(f"{e:.2e}" for e in errors)
    if math.isinf(order):
        return Check(
            name, float(errors[-1]), "<= 1e-9 (spectral)", errors[-1] <= 1e-9, "order", note
        )
    p = observed_order(spacings, errors)
    return Check(name, p, f"{order:g} +- {within:g}", abs(p - order) <= within, "order", note)
