"""Residuals of the problems' own equations, as training losses of models that answer at points.

With ``opkit fit ... --task physics=1`` the loss gets the mean square of what the equation leaves
over, divided by the mean square of its forcing; ``--task data_weight=0`` trains by that alone.

References
----------
.. [1] Wang, Wang, Perdikaris, Learning the solution operator of parametric partial differential
   equations with physics-informed DeepONets, Sci. Adv. 7 (2021) eabi8605, arXiv:2103.10974.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from .tasks.points import PointsTask

__all__ = ["RESIDUALS", "Residual", "derivative", "residual_of"]

#: ``(functions, points) -> outputs``: (B, size) each, (N, d) to (B, N), in physical units.
Solution = Callable[[Sequence["Tensor"], "Tensor"], "Tensor"]


def derivative(f: Callable[[Tensor], Tensor], y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Value and derivative along coordinate `k` of ``f``, (N, d) to (B, N), forward mode.

    One pass for all functions; may be nested, and differentiated with respect to weights.
    """
    import torch

    direction = torch.zeros_like(y)
    direction[:, k] = 1.0
    with warnings.catch_warnings():  # torch compiles rules of its own at the first call
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*is deprecated.*")
        found: Any = torch.func.jvp(f, (y,), (direction,))
    return found[0], found[1]


class Residual(ABC):
    """What an equation leaves over for the outputs of a model.

    Parameters
    ----------
    task : PointsTask

    Raises
    ------
    UsageError
        Data for which it is not defined.
    """

    #: Highest derivative taken along points; 2 needs a smooth activation.
    order: ClassVar[int] = 1

    def __init__(self, task: PointsTask) -> None:
        self.task = task
        self.params: Mapping[str, Any] = task.equation["params"]
        if len(task.functions) != 1 or task.functions[0].channels != 1 or task.out_channels != 1:
            raise UsageError("physics: needs one input function and one output")
        self.f = task.functions[0]

    @abstractmethod
    def evaluate(self, solution: Solution, us: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Residual and forcing, each (B, K), in physical units."""

    def __call__(self, solution: Any, us: Sequence[Tensor]) -> Tensor:
        """Mean squared residual over the mean squared forcing of the batch, shape (B,)."""

        def outputs(functions: Sequence[Tensor], y: Tensor) -> Tensor:
            s: Tensor = solution(functions, y)
            return s.squeeze(-1) if s.ndim == 3 else s

        residual, forcing = self.evaluate(outputs, us)
        return residual.square().mean(1) / forcing.square().mean().clamp_min(1e-30)

    def check_model(self, model: Any) -> None:
        """Raise for models that have no such derivatives.

        Raises
        ------
        UsageError
        """
        from torch import nn

        if hasattr(model, "basis") and self.order:
            raise UsageError("physics: a model with a basis has no derivatives along the points")
        if self.order > 1 and any(isinstance(m, nn.ReLU) for m in model.modules()):
            raise UsageError(
                "activation='relu': the equation has second derivatives, which are zero then; use "
                "gelu, tanh or sin"
            )

    def number(self, name: str, default: float | None = None) -> float:
        """Return a parameter of the problem."""
        value = self.params.get(name, default)
        if value is None:
            raise UsageError(f"physics: the data does not say the parameter {name!r}")
        return float(value)

    def line(self) -> np.ndarray:
        """Sensors of a function of one coordinate, shape (m,)."""
        if len(self.f.axes) != 1:
            raise UsageError(f"physics: {self.f.name!r} is needed on one axis")
        return np.array(self.f.axes[0])


class FirstOrderODE(Residual):
    """``s' = u - c s^2`` at the sensors of u: antiderivative (c = 0) and nonlinear ODE (c = 1)."""

    square: ClassVar[float] = 0.0

    def evaluate(self, solution: Solution, us: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """At all sensors, where u is known exactly."""
        import torch

        u = us[0]
        t = torch.as_tensor(self.line()).to(u)[:, None]
        s, slope = derivative(lambda y: solution(us, y), t, 0)
        return slope + self.square * s.square() - u, u


class NonlinearODE(FirstOrderODE):
    """``s' = u - s^2``."""

    square = 1.0


class GravityPendulum(Residual):
    """``s'' = -k sin s + u`` for the angle s, at the sensors of u."""

    order = 2

    def evaluate(self, solution: Solution, us: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """At all sensors; s'(0) = 0 has to come from the data."""
        import torch

        u = us[0]
        t = torch.as_tensor(self.line()).to(u)[:, None]

        def slope(y: Tensor) -> Tensor:
            return derivative(lambda z: solution(us, z), y, 0)[1]

        s = solution(us, t)
        _, second = derivative(slope, t, 0)
        return second + self.number("k", 1.0) * torch.sin(s) - u, u


class DiffusionReaction(Residual):
    """``s_t = D s_xx + k s^2 + u(x)``: x at the sensors of u, t drawn anew for each call."""

    order = 2

    def __init__(self, task: PointsTask) -> None:
        super().__init__(task)
        if [c.role for c in task.coordinates] != ["space", "time"]:
            raise UsageError("physics: the diffusion-reaction residual needs coordinates (x, t)")

    def evaluate(self, solution: Solution, us: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """At one random time for each sensor."""
        import torch

        u = us[0]
        x = torch.as_tensor(self.line()).to(u)
        low, high = self.task.coordinates[1].lower, self.task.coordinates[1].upper
        t = low + (high - low) * torch.rand(len(x), dtype=u.dtype, device=u.device)
        return self.at(solution, us, torch.stack([x, t], dim=1), u)

    def at(
        self, solution: Solution, us: Sequence[Tensor], y: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Residual at points `y` (N, 2) where the source is `u` (B, N)."""

        def s_x(z: Tensor) -> Tensor:
            return derivative(lambda v: solution(us, v), z, 0)[1]

        s, s_t = derivative(lambda v: solution(us, v), y, 1)
        _, s_xx = derivative(s_x, y, 0)
        return s_t - self.number("D") * s_xx - self.number("k") * s.square() - u, u


class Darcy(Residual):
    """``-div(a grad u) = f`` with zero walls, in finite volumes on the sensors' grid.

    The balance of each cell around an inner node, with the harmonic mean of `a` on its faces: the
    equation that the data were solved from, which holds across jumps of `a` too, where the strong
    form says nothing.
    """

    order = 0

    def __init__(self, task: PointsTask) -> None:
        super().__init__(task)
        if task.shared is None or task.shared.mesh is not None or len(self.f.axes) != 2:
            raise UsageError("physics: the Darcy residual needs a and u on one grid in 2-D")
        for axis, c in zip(self.f.axes, task.coordinates, strict=True):
            if len(axis) < 3 or axis[0] != c.lower or axis[-1] != c.upper or c.periodic:
                raise UsageError("physics: the Darcy residual needs nodes from wall to wall")
        for name, needed in (("boundary", "dirichlet"), ("average", "harmonic")):
            if self.params.get(name, needed) != needed:
                raise UsageError(
                    f"physics: {name}={self.params[name]!r}: the Darcy residual needs {needed!r}"
                )
        self.forcing = self.number("forcing", 1.0)

    def evaluate(self, solution: Solution, us: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """At all inner nodes."""
        import torch

        a = us[0].unflatten(1, self.f.shape)
        y = torch.as_tensor(self.f.sensor_points()).to(a)
        u = solution(us, y).unflatten(1, self.f.shape)
        return self.balance(a, u)

    def balance(self, a: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Residual and source at the inner nodes, (B, K) each, of fields (B, n1, n2)."""
        import torch

        total: Any = 0.0
        for d, axis in enumerate(self.f.axes, start=1):
            h = float(axis[1] - axis[0])
            n = a.shape[d]
            left, right = a.narrow(d, 0, n - 1), a.narrow(d, 1, n - 1)
            flux = 2 * left * right / (left + right) * u.diff(dim=d) / h
            other = 3 - d
            divergence = flux.diff(dim=d) / h
            total = total - divergence.narrow(other, 1, a.shape[other] - 2)
        residual = total.flatten(1) - self.forcing
        return residual, torch.full_like(residual, self.forcing)


#: Problem -> residual of its equation.
RESIDUALS: dict[str, type[Residual]] = {
    "antiderivative": FirstOrderODE,
    "nonlinear_ode": NonlinearODE,
    "gravity_pendulum": GravityPendulum,
    "deeponet_diffusion_reaction": DiffusionReaction,
    "darcy": Darcy,
}


def residual_of(task: PointsTask) -> Residual:
    """Residual of the equation of a task's problem.

    Raises
    ------
    UsageError
        There is none for this problem or data.
    """
    problem = task.equation["problem"]
    if problem not in RESIDUALS:
        raise UsageError(
            f"physics={task.options.physics:g}: no residual is known for problem {problem!r}; "
            f"there are some for {', '.join(RESIDUALS)}"
        )
    return RESIDUALS[problem](task)
