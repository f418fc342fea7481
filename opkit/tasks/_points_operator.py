"""An operator from functions at sensors to functions at points, called on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..operator import Operator

if TYPE_CHECKING:
    from .points import PointsNormalizer, PointsTask

__all__ = ["PhysicalPoints", "PointsOperator", "at_points", "scale_outputs"]

#: Points evaluated at once without gradients.
CHUNK = 2**16


def at_points(model: nn.Module, u: Any, y: Tensor, fixed_points: bool = False) -> Tensor:
    """Apply a model; without gradients, some points at a time."""
    if fixed_points:
        return model(u, None)  # type: ignore[no-any-return]
    n = max(1, CHUNK // (len(y) if y.ndim == 3 else 1))
    if torch.is_grad_enabled() or y.shape[-2] <= n:
        return model(u, y)  # type: ignore[no-any-return]
    return torch.cat([model(u, part) for part in y.split(n, dim=-2)], dim=1)


def scale_outputs(s: np.ndarray, normalizer: PointsNormalizer) -> np.ndarray:
    """Bring outputs (..., N, C) to the units of the model, float64."""
    scales = normalizer.scales
    s = (np.asarray(s, np.float64) - scales.output_shift) / scales.output_scale
    if normalizer.mean is not None and normalizer.std is not None:
        s = (s - normalizer.mean) / normalizer.std
    return s


class PhysicalPoints(nn.Module):
    """A model between physical units.

    Parameters
    ----------
    model : nn.Module
        ``(u, y) -> s``.
    task : PointsTask
    normalizer : PointsNormalizer
    """

    def __init__(self, model: nn.Module, task: PointsTask, normalizer: PointsNormalizer) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.fixed_points = hasattr(model, "basis")
        self.normalizer = normalizer
        scales = normalizer.scales
        ends = np.cumsum([0, *(f.channels for f in task.functions)])
        self._inputs = []
        trivial = True
        for f, a in zip(task.functions, ends, strict=False):
            points = f.size // f.channels
            shift = np.repeat(scales.input_shift[a : a + f.channels], points)
            scale = np.repeat(scales.input_scale[a : a + f.channels], points)
            self._inputs.append((shift, scale))
            trivial &= bool((shift == 0).all() and (scale == 1).all())
        self._trivial = trivial
        self._cast: dict[Any, Any] = {}

    def _constants(self, name: str, x: Tensor) -> Any:
        """Shift and scale in the dtype and on the device of `x`."""
        key = (name, x.dtype, x.device)
        if key not in self._cast:
            s = self.normalizer.scales

            def like(a: Any) -> Tensor:
                return torch.as_tensor(np.asarray(a, np.float64)).to(x.dtype).to(x.device)

            if name == "modes":
                modes = self.normalizer.modes
                self._cast[key] = [None if m is None else (like(m[0]), like(m[1:])) for m in modes]
            elif name == "inputs":
                self._cast[key] = [(like(a), like(1.0 / b)) for a, b in self._inputs]
            elif name == "outputs":
                self._cast[key] = (like(s.output_shift), like(s.output_scale))
            else:
                mean, std = self.normalizer.mean, self.normalizer.std
                self._cast[key] = None if mean is None else (like(mean), like(std))
        return self._cast[key]

    def scale_functions(self, us: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Bring inputs to the units of the model."""
        if not self._trivial:
            constants = self._constants("inputs", us[0])
            us = tuple((u - a) * b for u, (a, b) in zip(us, constants, strict=True))
        if not self.normalizer.modes:
            return tuple(us)
        modes = self._constants("modes", us[0])
        return tuple(
            u if m is None else torch.addmm(m[0], u, m[1]) for u, m in zip(us, modes, strict=True)
        )

    def scale_outputs(self, s: Tensor, rows: Tensor | None) -> Tensor:
        """Bring outputs (..., N, C) to the units of the model; `rows` of the shared points."""
        shift, scale = self._constants("outputs", s)
        s = (s - shift) / scale
        if (pointwise := self._constants("pointwise", s)) is not None:
            mean, std = pointwise if rows is None else (a[rows] for a in pointwise)
            s = (s - mean) / std
        return s

    def unscale(self, p: Tensor, rows: Tensor | None) -> Tensor:
        """Inverse of `scale_outputs`."""
        if (pointwise := self._constants("pointwise", p)) is not None:
            mean, std = pointwise if rows is None else (a[rows] for a in pointwise)
            p = p * std + mean
        shift, scale = self._constants("outputs", p)
        return p * scale + shift

    @property
    def bound_to_points(self) -> bool:
        """Whether outputs exist on the training points alone, and are interpolated elsewhere."""
        return self.fixed_points or self.normalizer.mean is not None

    def on_training_points(self, us: Sequence[Tensor]) -> Tensor:
        """Physical outputs (B, N, C) at the shared points."""
        assert self.task.shared is not None
        x = us[0]
        key = ("points", x.dtype, x.device)
        if key not in self._cast:
            y = torch.as_tensor(self.task.to_model(self.task.shared.points))
            self._cast[key] = y.to(x.dtype).to(x.device)
        scaled = self.scale_functions(us)
        u = scaled if len(scaled) > 1 else scaled[0]
        p = at_points(self.model, u, self._cast[key], self.fixed_points)
        p = p.unsqueeze(-1) if self.task.out_channels == 1 else p
        return self.unscale(p, None)

    def forward(self, us: Sequence[Tensor], y: Tensor) -> Tensor:
        """Apply to physical functions (B, size) at physical points (N, d) or (B, N, d).

        Returns
        -------
        Tensor, shape (B, N, C)
        """
        us = self.scale_functions(us)
        u = us if len(us) > 1 else us[0]
        p: Tensor = at_points(self.model, u, self.task.to_model(y))
        p = p.unsqueeze(-1) if self.task.out_channels == 1 else p
        shift, scale = self._constants("outputs", p)
        return p * scale + shift


class PointsOperator(Operator):
    """A trained operator that answers at points.

    Call it with the input functions at their sensors, in physical units, and the points.

    Examples
    --------
    >>> op = opkit.load("runs/antiderivative")  # doctest: +SKIP
    >>> s = op(u, t)  # u (batch, sensors) or (sensors,), t (n, 1)  # doctest: +SKIP
    >>> s = op({"u": u}, t)["s"]  # by name, as stored in datasets  # doctest: +SKIP
    >>> op.sensors("u")  # where u is to be given, (sensors, 1)  # doctest: +SKIP
    """

    task: PointsTask
    module: PhysicalPoints

    def __init__(
        self,
        module: PhysicalPoints,
        task: PointsTask,
        description: Mapping[str, Any],
        *,
        path: Path | None = None,
    ) -> None:
        super().__init__(module, module.model, task, description, path=path)

    def __repr__(self) -> str:
        names = [", ".join(v.name for v in vs) for vs in (self.task.functions, self.task.outputs)]
        points = ", ".join(c.name for c in self.task.coordinates)
        return f"<Operator {self.name}: {names[0]} -> {names[1]} at any ({points})>"

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates of a point, in order."""
        return tuple(c.name for c in self.task.coordinates)

    def sensors(self, name: str | None = None) -> np.ndarray:
        """Coordinates of the sensors of an input, shape (m, d); name needed if several."""
        from solvers.names import check_name

        functions = self.task.functions
        if name is None and len(functions) == 1:
            return functions[0].sensor_points()
        check_name("input", str(name), [f.name for f in functions])
        return next(f for f in functions if f.name == name).sensor_points()

    @property
    def points(self) -> np.ndarray | None:
        """Training points, shape (N, d), if all samples shared them."""
        return None if self.task.shared is None else self.task.shared.points

    def __call__(self, inputs: Any, points: Any = None) -> Any:
        """Apply the operator.

        Parameters
        ----------
        inputs : ndarray, Tensor or mapping
            Physical units: values at the sensors, ``([batch], *sensors)``; by name if there are
            several inputs; components of vectors last, as in datasets.
        points : ndarray or Tensor, shape (N, d) or (batch, N, d), optional
            Physical coordinates in the order of `coordinates`; (N,) if there is one. Default the
            training points.

        Returns
        -------
        ndarray, Tensor or dict
            ``([batch], N)``, with components last; by name if the inputs are, or if there are
            several outputs. Tensors carry gradients, of the points too.

        Raises
        ------
        ValueError
            Names, shapes, values that are not finite, or points outside of what the model knows:
            models with a basis or with pointwise scales answer inside their training points only.
        """
        named = isinstance(inputs, Mapping)
        functions = self.task.functions
        if not named:
            if len(functions) > 1:
                listed = ", ".join(f.name for f in functions)
                raise ValueError(f"inputs: need a mapping with {listed}")
            inputs = {functions[0].name: inputs}
        names = [f.name for f in functions]
        if sorted(inputs) != sorted(names):
            raise ValueError(f"inputs are {sorted(inputs)}, expected {sorted(names)}")
        keep = any(isinstance(v, Tensor) for v in (*inputs.values(), points))
        us, single = self._functions(inputs)
        y = self._points(points, len(us[0]))
        if keep:
            s = self.at(us, y)
            out: Any = s
        else:
            with torch.no_grad():
                out = self.at(us, y).cpu().numpy()
        return self._named(out, named, single)

    def _named(self, s: Any, named: bool, single: bool) -> Any:
        s = s[0] if single else s
        outputs = self.task.outputs
        fields = {
            v.name: s[..., p].reshape(*s.shape[:-1], *v.shape)
            for v, p in zip(outputs, self.task.parts, strict=True)
        }
        return fields if named or len(outputs) > 1 else fields[outputs[0].name]

    def _functions(self, inputs: Mapping[str, Any]) -> tuple[tuple[Tensor, ...], bool]:
        tensors, lengths, singles = [], set(), set()
        for f in self.task.functions:
            x = torch.as_tensor(inputs[f.name]).to(self.device, self.dtype)
            shape = (*f.shape, *(() if f.channels == 1 else (f.channels,)))
            flat = (f.size // f.channels, *(() if f.channels == 1 else (f.channels,)))
            for s in (shape, flat):
                if tuple(x.shape) == s:
                    x, single = x[None], True
                    break
                if tuple(x.shape[1:]) == s and x.ndim == len(s) + 1:
                    single = False
                    break
            else:
                raise ValueError(
                    f"{f.name} has shape {tuple(x.shape)}, expected ([batch], "
                    f"{', '.join(map(str, shape))}): the sensors that the model was trained with"
                )
            if not bool(torch.isfinite(x).all()):
                raise ValueError(f"{f.name}: sensor values are not finite")
            if f.channels > 1:
                x = x.reshape(len(x), -1, f.channels).mT
            tensors.append(x.reshape(len(x), f.size))
            lengths.add(len(x))
            singles.add(single)
        if len(lengths) > 1:
            raise ValueError(f"inputs have {sorted(lengths)} functions: need as many of each")
        return tuple(tensors), singles == {True}

    def _points(self, points: Any, batch: int) -> Tensor | None:
        if points is None:
            if self.task.shared is None:
                raise ValueError("points: this model was trained on points of each sample's own")
            return None
        y = torch.as_tensor(points).to(self.device, self.dtype)
        d = len(self.task.coordinates)
        if y.ndim == 1 and d == 1:
            y = y[:, None]
        if y.ndim not in (2, 3) or y.shape[-1] != d or (y.ndim == 3 and len(y) != batch):
            raise ValueError(
                f"points have shape {tuple(y.shape)}, expected (n, {d}) or ({batch}, n, {d}): "
                f"coordinates {', '.join(self.coordinates)}"
            )
        if not bool(torch.isfinite(y.detach()).all()):
            raise ValueError("points have values that are not finite")
        if self.module.bound_to_points:
            self._check_inside(y.detach())
        return y

    def _check_inside(self, y: Tensor) -> None:
        """Raise for points outside the training's: between those outputs are interpolated."""
        for k, c in enumerate(self.task.coordinates):
            slack = 1e-5 * (c.upper - c.lower)
            outside = (y[..., k] < c.lower - slack) | (y[..., k] > c.upper + slack)
            if not c.periodic and bool(outside.any()):
                raise ValueError(
                    f"points: {c.name}={float(y[..., k][outside][0]):g} lies outside the training "
                    f"points, {c.lower:g} to {c.upper:g}, between which this model interpolates"
                )

    def at(self, us: Sequence[Tensor], y: Tensor | None) -> Tensor:
        """Physical outputs (B, N, C) of flattened functions at points, or at the training's."""
        if y is None:
            return self.module.on_training_points(us)
        if not self.module.bound_to_points:
            return self.module(us, y)  # type: ignore[no-any-return]
        values = self.module.on_training_points(us)
        if y.ndim == 3:
            return torch.cat(
                [interpolated(self.task, v[None], z) for v, z in zip(values, y, strict=True)]
            )
        return interpolated(self.task, values, y)


def interpolated(task: PointsTask, values: Tensor, y: Tensor) -> Tensor:
    """Values (B, N, C) at the training points, between them linear, at `y` (Q, d)."""
    assert task.shared is not None
    m = task.shared.interpolation(y.detach().cpu().numpy().astype(np.float64)).tocoo()
    rows, columns = (torch.as_tensor(np.asarray(i)).to(values.device) for i in m.coords)
    weight = torch.as_tensor(m.data).to(values)
    out = values.new_zeros(len(values), len(y), values.shape[2])
    return out.index_add(1, rows, values[:, columns] * weight[:, None])
