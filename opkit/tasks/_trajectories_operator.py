"""A trained model of dynamical systems, in physical units."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from models.mixer import MixER

from ..errors import UsageError
from ..operator import Operator

if TYPE_CHECKING:
    from .trajectories import TrajectoriesTask, TrajectoryScale

__all__ = ["TrajectoryOperator"]


class _Physical(nn.Module):
    """The model between physical units."""

    shift: Tensor
    scale: Tensor

    def __init__(self, model: MixER, scale: TrajectoryScale) -> None:
        super().__init__()
        self.model, self.time = model, scale.time
        dtype = model.contexts.values.dtype
        for name in ("shift", "scale"):
            value = torch.tensor(getattr(scale, name), dtype=dtype)
            self.register_buffer(name, value, persistent=False)

    def forward(self, x0: Tensor, times: Tensor, environments: Tensor) -> Tensor:
        start = (x0 - self.shift) / self.scale
        out: Tensor = self.model(start, (times - times[:, :1]) / self.time, environments)
        return self.shift + self.scale * out


class TrajectoryOperator(Operator):
    """Dynamical systems of several environments: initial states to trajectories.

    Attributes
    ----------
    environments : ndarray, shape (N,)
        Numbers of the environments, as in the data.
    contexts : ndarray, shape (N, c)
    experts : ndarray of int, shape (N,)
        Expert that each environment uses.

    Examples
    --------
    >>> op = opkit.load("runs/oscillators")  # doctest: +SKIP
    >>> op([0.4, -0.03], np.linspace(0, 10, 101), environment=3).shape  # doctest: +SKIP
    (101, 2)
    """

    task: TrajectoriesTask
    model: MixER

    def __init__(
        self,
        model: MixER,
        task: TrajectoriesTask,
        scale: TrajectoryScale,
        description: Mapping[str, Any],
        *,
        path: Path | None = None,
    ) -> None:
        model.solver = task.solver
        super().__init__(_Physical(model, scale), model, task, description, path=path)
        self.scale = scale

    def __repr__(self) -> str:
        m = self.model
        return (
            f"<TrajectoryOperator {self.name}: {len(self.task.states)} states, "
            f"{m.n_environments} environments, {m.n_experts} experts>"
        )

    @property
    def environments(self) -> np.ndarray:
        """Numbers of the environments, as in the data."""
        return np.array(self.task.environments)

    @property
    def contexts(self) -> np.ndarray:
        """One row an environment."""
        return np.asarray(self.model.contexts.values.detach().cpu().double().numpy())

    @property
    def experts(self) -> np.ndarray:
        """Expert of each environment."""
        return np.asarray(self.model.experts().cpu().numpy())

    def __call__(
        self, x0: Any, times: Any, environment: Any = None, *, batch_size: int = 1024
    ) -> np.ndarray:
        """Predict trajectories.

        Parameters
        ----------
        x0 : array, shape ([n], d)
            Initial states.
        times : array, shape ([n], T)
            Increasing; the first is that of `x0`.
        environment : number or name, or array of them, shape ([n],)
            As in the data; may be left out if there is only one.
        batch_size : int
            Trajectories at once.

        Returns
        -------
        ndarray, shape ([n], T, d)
            NaN from where a trajectory leaves the box of 100 standard deviations, with a warning.

        Raises
        ------
        ValueError
            Other shapes, times that do not increase, values that are not finite, an unknown
            environment.
        """
        x, single, t, rows = self._arguments(x0, times, environment)
        self.check_times(t, rows)
        out = []
        with torch.no_grad():
            for a in range(0, len(x), batch_size):
                part = slice(a, a + batch_size)
                out.append(
                    self.module(
                        self._tensor(x[part]), self._tensor(t[part]),
                        torch.as_tensor(rows[part]).to(self.device),
                    ).cpu()
                )  # fmt: skip
        found = torch.cat(out).numpy().astype(np.float64)
        gone = self.outside(found)
        if gone.any():
            warnings.warn(
                f"{int(gone.any(axis=1).sum())} of {len(found)} trajectories leave the box of "
                f"{self.model.solver.limit:g} standard deviations and are NaN from there (first: "
                f"number {int(np.argmax(gone.any(axis=1)))})",
                RuntimeWarning,
                stacklevel=2,
            )
            found[np.logical_or.accumulate(gone, axis=1)] = np.nan
        return found[0] if single else found

    def check_times(self, times: np.ndarray, rows: np.ndarray) -> None:
        """Refuse times, (n, T), that a discrete map does not step on; equal neighbors end one.

        Raises
        ------
        UsageError
        """
        if not self.model.bank.discrete:
            return
        wanted = np.array(self.task.steps)[rows][:, None]
        steps = np.diff(times, axis=1)
        bad = (np.abs(steps - wanted) > 1e-3 * wanted) & (steps > 0)
        if bad.any():
            i, k = np.argwhere(bad)[0]
            raise UsageError(
                f"times step by {steps[i, k]:g}: this model is a map over "
                f"{float(wanted[i, 0]):g} in environment {self.task.environments[rows[i]]:g}"
            )

    def outside(self, x: np.ndarray) -> np.ndarray:
        """Where trajectories, (n, T, d), are held at the border or not finite, (n, T)."""
        z = (x - np.array(self.scale.shift)) / np.array(self.scale.scale)
        return ~(np.abs(z) < self.model.solver.limit * (1 - 1e-5)).all(axis=-1)

    def rates(self, x: Any, environment: Any = None) -> np.ndarray:
        """Evaluate the learned vector field.

        Parameters
        ----------
        x : array, shape ([n], d)
        environment : number or name, or array of them, shape ([n],)

        Returns
        -------
        ndarray, shape ([n], d)
            Rates of change in units of the states over that of time.

        Raises
        ------
        ValueError
            The model is a discrete map; otherwise as the call.
        """
        if self.model.bank.discrete:
            raise ValueError(
                "rates: this model is a map from one stored time to the next and has no rates"
            )
        states, single, _, rows = self._arguments(x, np.array([0.0, 1.0]), environment)
        shift, scale = (np.array(v) for v in (self.scale.shift, self.scale.scale))
        with torch.no_grad():
            index = torch.as_tensor(rows).to(self.device)
            z = self._tensor((states - shift) / scale)
            y = self.model.rates(
                z, self.model.contexts(index), self.model.experts()[index], keys=index
            )
        out = y.cpu().double().numpy() * scale / self.scale.time
        return np.asarray(out[0] if single else out)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(x)).to(self.device, self.dtype)

    def _arguments(
        self, x0: Any, times: Any, environment: Any
    ) -> tuple[np.ndarray, bool, np.ndarray, np.ndarray]:
        d = len(self.task.states)
        x, t = np.asarray(x0, np.float64), np.asarray(times, np.float64)
        if x.ndim not in (1, 2) or x.shape[-1] != d:
            raise ValueError(f"x0 has shape {x.shape}, expected ({d},) or (n, {d})")
        single = x.ndim == 1
        x = np.atleast_2d(x)
        n = len(x)
        if t.ndim not in (1, 2) or t.shape[-1] < 2 or (t.ndim == 2 and len(t) != n):
            raise ValueError(f"times has shape {t.shape}, expected (T,) or ({n}, T), T >= 2")
        t = np.array(np.broadcast_to(t, (n, t.shape[-1])))
        if not (np.isfinite(x).all() and np.isfinite(t).all()):
            raise ValueError("x0 or times has values that are not finite")
        if (np.diff(t, axis=1) <= 0).any():
            raise ValueError("times do not increase")
        if environment is None:
            if len(self.task.environments) > 1:
                raise ValueError(
                    f"environment is missing: this operator knows {len(self.task.environments)}"
                )
            environment = self.task.environments[0]
        numbers = np.broadcast_to(np.asarray(environment), (n,))
        return x, single, t, self.task.environment_index(numbers)
