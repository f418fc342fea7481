"""Units are symbols that pint understands."""

from __future__ import annotations

import functools
from typing import Any

from .errors import UnitsError
from .schema import DatasetSchema

__all__ = ["check_units"]


def check_units(schema: DatasetSchema, where: str = "schema") -> None:
    """Check that pint understands all units of a schema.

    Parameters
    ----------
    schema : DatasetSchema
    where : str
        File, for the message.

    Raises
    ------
    UnitsError
    """
    named = [("time", schema.time_units), *((a.name, a.units) for a in schema.grid.axes)]
    named += [(f"t{f.rank}_fields/{f.name}", f.units) for f in schema.fields]
    named += [(f"scalars/{s.name}", s.units) for s in schema.scalars]
    named += [(f"boundary condition on {b.axis}", b.units) for b in schema.boundary_conditions]
    for name, units in named:
        if not _parses(units):
            raise UnitsError(
                f"{where}: {name}: units {units!r} are not understood by pint. Use e.g. "
                "'m^2/(Pa*s)' or '1'."
            )


@functools.lru_cache(maxsize=256)
def _parses(units: str) -> bool:
    if units == "1":  # without loading pint
        return True
    try:
        _registry().parse_units(units)
    except Exception:  # pint raises many kinds, for syntax its tokenizer's own
        return False
    return bool(units.strip())


@functools.lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()
