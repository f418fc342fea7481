"""Inverse problems: reconstructions with learned proximal networks, and whether they converge.

`pnp_pgd`, `pnp_admm` and `pnp_drs` minimize ``1/2 s |A x - y|^2 + w R(x)``, `R` the regularizer of
a learned proximal network (or any denoiser, then without a guarantee); each result carries a
`Certificate`. `tikhonov`, `tv` and `wavelet_l1` are what to compare with. `opkit.invert` does it
for datasets and files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .baselines import discrepancy_weight, tikhonov, tv, wavelet_l1
    from .forward import LinearForward, NonlinearForward, NormBound, as_forward, temper
    from .pnp import (
        Certificate,
        InverseResult,
        StepSizeWarning,
        fixed_point_residual,
        pnp_admm,
        pnp_drs,
        pnp_pgd,
    )
    from .prior import Prior, as_prior
    from .tempered import pnp_tempered

_PUBLIC = {
    "Certificate": "pnp",
    "InverseResult": "pnp",
    "LinearForward": "forward",
    "NonlinearForward": "forward",
    "NormBound": "forward",
    "Prior": "prior",
    "StepSizeWarning": "pnp",
    "as_forward": "forward",
    "as_prior": "prior",
    "discrepancy_weight": "baselines",
    "fixed_point_residual": "pnp",
    "pnp_admm": "pnp",
    "pnp_drs": "pnp",
    "pnp_pgd": "pnp",
    "pnp_tempered": "tempered",
    "temper": "forward",
    "tikhonov": "baselines",
    "tv": "baselines",
    "wavelet_l1": "baselines",
}

__all__ = [
    "Certificate",
    "InverseResult",
    "LinearForward",
    "NonlinearForward",
    "NormBound",
    "Prior",
    "StepSizeWarning",
    "as_forward",
    "as_prior",
    "discrepancy_weight",
    "fixed_point_residual",
    "pnp_admm",
    "pnp_drs",
    "pnp_pgd",
    "pnp_tempered",
    "temper",
    "tikhonov",
    "tv",
    "wavelet_l1",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
