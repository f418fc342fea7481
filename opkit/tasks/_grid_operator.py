"""An operator between fields on grids, called on arrays in physical units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from solvers.grids import Grid

from ..operator import Operator
from .normalizer import Normalizer

if TYPE_CHECKING:
    from models import ModelSpec

    from .grid import GridTask, Variable

__all__ = ["GridOperator", "PhysicalModel"]


class PhysicalModel(nn.Module):
    """A model between physical units: scale, apply, scale back.

    Parameters
    ----------
    model : nn.Module
    normalizer : Normalizer
    dim : int
        Space dimensions.
    """

    def __init__(self, model: nn.Module, normalizer: Normalizer, dim: int) -> None:
        super().__init__()
        self.model = model
        self._exact = {
            name: torch.tensor(getattr(normalizer, name), dtype=torch.float64).reshape(
                1, -1, *(1,) * dim
            )
            for name in ("input_shift", "input_scale", "output_shift", "output_scale")
        }
        self._cast: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def _like(self, name: str, x: Tensor) -> Tensor:
        """Return a constant in the dtype and on the device of `x`."""
        key = (name, x.dtype, x.device)
        if key not in self._cast:
            # MPS knows no float64, so cast first
            self._cast[key] = self._exact[name].to(x.dtype).to(x.device)
        return self._cast[key]

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, in_channels, *space) in physical units."""
        y: Tensor = self.model((x - self._like("input_shift", x)) / self._like("input_scale", x))
        # half precision is for the model alone
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        return y * self._like("output_scale", y) + self._like("output_shift", y)


class GridOperator(Operator):
    """A trained operator on grids.

    Call it on arrays of the inputs, at any resolution the model accepts, in physical units;
    what comes back is of the same kind.

    Examples
    --------
    >>> op = opkit.load("runs/darcy-mgno")  # doctest: +SKIP
    >>> u = op(a)  # (n1, n2) or (batch, n1, n2), as is u  # doctest: +SKIP
    >>> u = op({"a": a})["u"]  # by name, as stored in datasets  # doctest: +SKIP
    """

    task: GridTask
    module: PhysicalModel

    def __init__(
        self,
        module: PhysicalModel,
        task: GridTask,
        description: Mapping[str, Any],
        *,
        path: Path | None = None,
    ) -> None:
        super().__init__(module, module.model, task, description, path=path)

    def __repr__(self) -> str:
        names = [", ".join(v.name for v in vs) for vs in (self.task.inputs, self.task.outputs)]
        return f"<Operator {self.name}: {names[0]} -> {names[1]}, trained at {self.grid.shape}>"

    @property
    def grid(self) -> Grid:
        """Grid of the training data."""
        return self.task.grid

    @property
    def spec(self) -> ModelSpec:
        """What the model was told about the data."""
        return self.task.spec()

    # -- application -----------------------------------------------------------------------

    def __call__(self, inputs: Any, *, batch_size: int | None = None) -> Any:
        """Apply the operator.

        Parameters
        ----------
        inputs : ndarray, Tensor or mapping
            Physical units. An array ``(batch, channel, *space)``, ``(channel, *space)`` for one
            sample, or, if there is one input channel, without its axis. Or name -> array as in
            datasets, ``([batch], *space, [D], [D])`` a field, a number or ``(batch,)`` a scalar.
        batch_size : int, optional
            Samples at once; default all for tensors, about 4 million points for arrays.

        Returns
        -------
        ndarray, Tensor or dict
            As the input: an array without the channel axis if the input had none and there is
            one output channel. Tensors keep their device and dtype and carry gradients; arrays
            come back in their own floating dtype.

        Raises
        ------
        ValueError
            Names or shapes that do not fit, values that are not finite, or a resolution that
            the model does not accept.
        """
        if isinstance(inputs, Mapping):
            return self._call_fields(inputs, batch_size)
        if isinstance(inputs, Tensor):
            x, drop_batch, drop_channel = self._as_batch(inputs)
            y = self._apply_tensor(x.to(self.device, self.dtype), batch_size)
            y = y.to(inputs.device, inputs.dtype if inputs.is_floating_point() else y.dtype)
            return self._undo(y, drop_batch, drop_channel)
        array = np.asarray(inputs)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"inputs have dtype {array.dtype}: need real numbers")
        batch, drop_batch, drop_channel = self._as_batch(array)
        return self._undo(self._apply_array(batch, batch_size), drop_batch, drop_channel)

    def _as_batch(self, x: Any) -> tuple[Any, bool, bool]:
        dim, c = self.grid.dim, self.task.in_channels
        with_channel = x.ndim >= 2 + dim or (c > 1 and x.ndim == 1 + dim)
        bare = c == 1 and x.ndim in (dim, dim + 1)
        if x.ndim > dim + 2 or not (with_channel or bare):
            raise ValueError(self._shape_message(tuple(x.shape)))
        if bare:
            single = x.ndim == dim
            x = x[None, None] if single else x[:, None]
            return x, single, True
        single = x.ndim == 1 + dim
        x = x[None] if single else x
        if x.shape[1] != c:
            raise ValueError(self._shape_message(tuple(x.shape)))
        return x, single, False

    def _shape_message(self, shape: tuple[int, ...]) -> str:
        space = ", ".join(f"n{d + 1}" for d in range(self.grid.dim))
        names = ", ".join(v.name for v in self.task.inputs)
        return (
            f"inputs have shape {shape}, expected (batch, {self.task.in_channels}, {space}): "
            f"the channels are {names}"
        )

    def _undo(self, y: Any, drop_batch: bool, drop_channel: bool) -> Any:
        if drop_channel and self.task.out_channels == 1:
            y = y[:, 0]
        return y[0] if drop_batch else y

    def _apply_tensor(self, x: Tensor, batch_size: int | None) -> Tensor:
        if not torch.isfinite(x).all():
            raise ValueError("inputs have values that are not finite")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: need an integer >= 1")
        if batch_size is None or len(x) <= batch_size:
            return self._run(x)
        return torch.cat([self._run(part) for part in x.split(batch_size)])

    def _run(self, x: Tensor) -> Tensor:
        """Apply the model, or step through all times with it."""
        history = self.task.history
        if not history:
            return self.module(x)  # type: ignore[no-any-return]
        sizes = self.task.model_components
        states = list(x[:, : history * sum(sizes)].split([history * c for c in sizes], dim=1))
        static = x[:, history * sum(sizes) :]
        results: list[list[Tensor]] = [[] for _ in sizes]
        for _ in self.task.times:
            new = self.module(torch.cat([*states, static], dim=1)).split(sizes, dim=1)
            for k, (state, now) in enumerate(zip(states, new, strict=True)):
                states[k] = torch.cat([state[:, sizes[k] :], now], dim=1)
                results[k].append(now)
        return torch.cat([u for field in results for u in field], dim=1)

    def _apply_array(self, x: np.ndarray, batch_size: int | None) -> np.ndarray:
        dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        if batch_size is None:
            batch_size = max(1, 2**22 // max(1, math.prod(x.shape[2:])))
        with torch.no_grad():  # not inference_mode: models keep tensors for the next call
            tensor = torch.as_tensor(np.ascontiguousarray(x)).to(self.device, self.dtype)
            return self._apply_tensor(tensor, batch_size).cpu().numpy().astype(dtype, copy=False)

    def _call_fields(self, inputs: Mapping[str, Any], batch_size: int | None) -> dict[str, Any]:
        names = [v.name for v in self.task.inputs]
        if sorted(inputs) != sorted(names):
            raise ValueError(f"inputs are {sorted(inputs)}, expected {sorted(names)}")
        arrays = {k: np.asarray(v) for k, v in inputs.items()}
        fields = [v for v in self.task.inputs if v.kind == "field"]
        single = all(
            arrays[v.name].ndim == (_lead(v) + sum(v.axes) + v.rank if v.kind == "field" else 0)
            for v in self.task.inputs
        )
        if single:
            arrays = {k: a[None] for k, a in arrays.items()}
        space: dict[int, int] = {}
        n = 1
        for v in self.task.inputs:
            a = arrays[v.name]
            axes = [d for d in range(self.grid.dim) if v.kind == "field" and v.axes[d]]
            rank = v.rank if v.kind == "field" else 0
            lead = _lead(v)
            tail = a.shape[1 + lead + len(axes) :]
            times = a.shape[1 : 1 + lead]
            if (
                a.ndim != 1 + lead + len(axes) + rank
                or tail != (self.grid.dim,) * rank
                or times != (v.times,) * lead
            ):
                raise ValueError(
                    f"input {v.name!r} has shape {np.shape(inputs[v.name])}, expected "
                    f"([batch]{f', {v.times} times' * lead}{''.join(f', n{d + 1}' for d in axes)}"
                    f"{', D' * rank}), D={self.grid.dim}"
                )
            sizes = a.shape[1 + lead : 1 + lead + len(axes)]
            for d, size in zip(axes, sizes, strict=True):
                if space.setdefault(d, size) != size:
                    raise ValueError(
                        f"input {v.name!r} has {size} points on axis {d + 1}, others {space[d]}"
                    )
            if n not in (1, len(a)) and len(a) != 1:
                raise ValueError(f"input {v.name!r} has a batch of {len(a)}, others of {n}")
            n = max(n, len(a))
        if not fields or len(space) != self.grid.dim:
            raise ValueError("inputs: no field says how many points each axis has")
        shape = tuple(space[d] for d in range(self.grid.dim))
        parts = [self.task.channels(arrays, (v,), shape) for v in self.task.inputs]
        x = np.concatenate([np.broadcast_to(p, (n, *p.shape[1:])) for p in parts], axis=1)
        out = self.task.fields(self._apply_array(x, batch_size))
        return {k: v[0] for k, v in out.items()} if single else out


def _lead(v: Variable) -> int:
    """Axes of time."""
    return int(v.kind == "field" and v.times > 0)
