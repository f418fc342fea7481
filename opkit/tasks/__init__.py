"""How a model meets data: which arrays go in, which come out, how they are scaled and judged.

A model names its task in the registry; `opkit.fit`, `evaluate`, `predict` and `report` need nothing
else. A new kind of data is a subclass of `Task` in a module of its own and one entry here.
"""

from __future__ import annotations

import importlib

from solvers.names import check_name

from ._task import Evaluation, Picture, Task, TaskOptions

__all__ = ["TASKS", "Evaluation", "Picture", "Task", "TaskOptions", "get_task"]

#: Name to ``"module:Class"``; imported when asked for.
TASKS: dict[str, str] = {
    "denoising": "opkit.tasks.denoising:DenoisingTask",
    "grid": "opkit.tasks.grid:GridTask",
    "mesh": "opkit.tasks.mesh:MeshTask",
    "points": "opkit.tasks.points:PointsTask",
    "trajectories": "opkit.tasks.trajectories:TrajectoriesTask",
}


def get_task(name: str) -> type[Task]:
    """Return the class of a task.

    Raises
    ------
    UnknownNameError
    """
    check_name("task", name, list(TASKS))
    module, _, cls = TASKS[name].partition(":")
    found: type[Task] = getattr(importlib.import_module(module), cls)
    return found
