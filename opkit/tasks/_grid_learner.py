"""Training of a model between fields on grids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data import nested_stride
from ..learner import Learner
from ._grid_operator import PhysicalModel

if TYPE_CHECKING:
    from .grid import GridTask
    from .normalizer import Normalizer

__all__ = ["GridLearner"]


class GridLearner(Learner):
    """Relative errors in physical units, at the resolutions of the task.

    With several resolutions each training batch is cut down to one of them, drawn from torch's
    generator; errors on valid are means over them.
    """

    def __init__(self, model: nn.Module, task: GridTask, normalizer: Normalizer, loss: str) -> None:
        super().__init__(model)
        # hidden from torch: the weights are those of `model`
        self._physical = (PhysicalModel(model, normalizer, task.grid.dim),)
        self.shapes = task.resolutions or (task.grid.shape,)
        self.cut = bool(task.resolutions)
        self._norms = [
            {
                kind: task.error(
                    kind,
                    grid=task.grid.resized(shape),
                    normalizer=normalizer,
                    components=task.model_components,
                )
                for kind in {loss, "l2", "h1"}
            }
            for shape in self.shapes
        ]
        self.loss, self.metrics = loss, tuple(task.metrics)
        self._grid = task.grid

    def _at(self, k: int, *fields: Tensor) -> tuple[Tensor, ...]:
        """Fields, shape (b, channel, *space), on the grid of resolution `k`."""
        if not self.cut:
            return fields
        stored = self._grid.resized(tuple(fields[0].shape[2:]))
        strides = nested_stride(stored, self.shapes[k])
        part: tuple[Any, ...] = (..., *(slice(None, None, s) for s in strides))
        return tuple(f[part].contiguous() for f in fields)

    def losses(self, *batch: Tensor) -> Tensor:
        """Relative error of each sample."""
        x, y, _ = batch
        k = int(torch.randint(len(self.shapes), ())) if len(self.shapes) > 1 else 0
        x, y = self._at(k, x, y)
        return self._norms[k][self.loss].per_sample(self._physical[0](x), y)

    def errors(self, *batch: Tensor) -> dict[str, Tensor]:
        """Relative errors of each sample."""
        parts: list[dict[str, Tensor]] = []
        for k, norms in enumerate(self._norms):
            x, y = self._at(k, *batch[:2])
            prediction = self._physical[0](x)
            found = {kind: norm.per_sample(prediction, y) for kind, norm in norms.items()}
            parts.append(found)
        means: dict[str, Any] = {
            kind: torch.stack([p[kind] for p in parts]).mean(0) for kind in parts[0]
        }
        return {"loss": means[self.loss], "rel_l2": means["l2"], "rel_h1": means["h1"]}
