"""How a model meets data: which arrays go in, which come out, how they are scaled and judged.

A model names its task in the registry; `opkit.fit`, `evaluate` and `predict` need nothing else. A
new kind of data is one module with a class like `opkit.tasks.grid.GridTask` and one entry here.
"""

from __future__ import annotations

import importlib
from typing import Any

from solvers.names import check_name

__all__ = ["TASKS", "get_task"]

#: Name to ``"module:Class"``; imported when asked for.
TASKS: dict[str, str] = {"grid": "opkit.tasks.grid:GridTask"}


def get_task(name: str) -> type[Any]:
    """Return the class of a task.

    Raises
    ------
    UnknownNameError
    """
    check_name("task", name, list(TASKS))
    module, _, cls = TASKS[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), cls)
    return found
