"""Neural networks turned into neural operators."""

from __future__ import annotations

from .discretization import DiscretizationTable, discretization_error
from .geometry import grid, quadrature_weights, resample

__all__ = ["DiscretizationTable", "discretization_error", "grid", "quadrature_weights", "resample"]
