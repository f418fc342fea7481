"""opkit: operator learning with a solver backend.

Every command is a function of the same name and options; what a function needs is imported when
it is first used, so ``import opkit`` is cheap.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pde_data.hdf5 import open_dataset

    from ._functions import adapt, compare, evaluate, fit, generate, invert, predict, repair, verify
    from .discretization import discretization_report
    from .operator import load
    from .report import report

    __version__: str

__all__ = [
    "__version__",
    "adapt",
    "compare",
    "discretization_report",
    "evaluate",
    "fit",
    "generate",
    "invert",
    "load",
    "open_dataset",
    "predict",
    "repair",
    "report",
    "verify",
]

#: Public name -> module that has it.
_HOME = {
    "generate": "opkit._functions",
    "fit": "opkit._functions",
    "adapt": "opkit._functions",
    "evaluate": "opkit._functions",
    "predict": "opkit._functions",
    "compare": "opkit._functions",
    "invert": "opkit._functions",
    "repair": "opkit._functions",
    "verify": "opkit._functions",
    "report": "opkit.report",
    "load": "opkit.operator",
    "open_dataset": "pde_data.hdf5",
    "discretization_report": "opkit.discretization",
}


class _Package(ModuleType):
    """The package; `opkit.fit` is the function even after the module ``opkit.fit`` is loaded.

    Python binds a loaded submodule to its parent's attribute, which would hide the function of the
    same name. ``from opkit.fit import FitConfig`` works all the same.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("opkit")
        elif name in _HOME:
            from importlib import import_module

            value = getattr(import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module 'opkit' has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
