"""Integration of a batch of trajectories, each on a time grid of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._sizes import positive

__all__ = ["Solver", "iterate_map", "odeint_scaled"]

Field = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solver:
    """How trajectories are integrated.

    Parameters
    ----------
    method : {"rk4", "dopri5"}
        Runge-Kutta of order 4 with `substeps` equal steps between stored times, or torchdiffeq's
        method of order 5, which chooses its steps.
    substeps : int
    limit : float
        States are clamped to [-limit, limit], so that what blows up stays finite.
    gradients : {"direct", "adjoint"}
        Through the steps, or by torchdiffeq's adjoint equation, whose memory does not grow with the
        number of steps (dopri5).
    rtol, atol : float
        Of dopri5.
    """

    method: Literal["rk4", "dopri5"] = "rk4"
    substeps: int = 2
    limit: float = 100.0
    gradients: Literal["direct", "adjoint"] = "direct"
    rtol: float = 1e-3
    atol: float = 1e-6

    def __post_init__(self) -> None:
        if self.method not in ("rk4", "dopri5"):
            raise ValueError(f"method={self.method!r}: allowed 'rk4', 'dopri5'")
        positive(substeps=self.substeps)
        if not self.limit > 0:
            raise ValueError(f"limit={self.limit}: need a number > 0")
        if self.gradients == "adjoint" and self.method == "rk4":
            raise ValueError("gradients='adjoint' needs method='dopri5'")

    def __call__(
        self, field: Field, x0: Tensor, times: Tensor, *, parameters: Sequence[Tensor] = ()
    ) -> Tensor:
        """Integrate, see `odeint_scaled`."""
        return odeint_scaled(
            field, x0, times, method=self.method, substeps=self.substeps, limit=self.limit,
            gradients=self.gradients, parameters=parameters, rtol=self.rtol, atol=self.atol,
        )  # fmt: skip


def odeint_scaled(
    field: Field,
    x0: Tensor,
    times: Tensor,
    *,
    method: Literal["rk4", "dopri5"] = "rk4",
    substeps: int = 2,
    limit: float = float("inf"),
    gradients: Literal["direct", "adjoint"] = "direct",
    parameters: Sequence[Tensor] = (),
    rtol: float = 1e-3,
    atol: float = 1e-6,
) -> Tensor:
    r"""Integrate :math:`\dot x = f(x)` for many trajectories at once.

    The autonomous field is followed in scaled time: between the stored times i and i + 1 it is
    :math:`dx/ds = (t_{i+1} - t_i) f(x)` on s in [0, 1], exactly the same trajectory, so that
    trajectories of other lengths and irregular grids share a batch.

    Parameters
    ----------
    field : callable
        (..., d) -> (..., d).
    x0 : Tensor, shape (..., d)
        States at the first time.
    times : Tensor, shape (..., T)
        Increasing; equal neighbors hold the state, which pads a short trajectory.
    method, substeps, limit, gradients, rtol, atol
        See `Solver`.
    parameters : sequence of Tensor
        What `field` depends on, for the adjoint equation.

    Returns
    -------
    Tensor, shape (..., T, d)

    Notes
    -----
    ``rk4`` is the 3/8 rule, as in torchdiffeq, to whose result it is equal up to rounding.

    References
    ----------
    .. [1] Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, table II.1.2.
    """
    if x0.shape[:-1] != times.shape[:-1]:
        raise ValueError(
            f"x0 has shape {tuple(x0.shape)} and times {tuple(times.shape)}: their leading axes "
            "must agree"
        )
    steps = times.diff(dim=-1)
    if method == "rk4":
        states, x = [x0], x0
        for i in range(steps.shape[-1]):
            h = steps[..., i, None] / substeps
            for _ in range(substeps):
                x = _rk4(field, x, h).clamp(-limit, limit)
            states.append(x)
        return torch.stack(states, dim=-2)
    return _dopri5(field, x0, steps, limit, gradients, parameters, rtol, atol)


def _rk4(field: Field, x: Tensor, h: Tensor) -> Tensor:
    third = h / 3
    k1 = field(x)
    k2 = field(torch.addcmul(x, third, k1))
    k3 = field(x + h * k2 - third * k1)
    k4 = field(x + h * (k1 - k2 + k3))
    return torch.addcmul(x, h / 8, k1 + 3 * (k2 + k3) + k4)


def _dopri5(
    field: Field,
    x0: Tensor,
    steps: Tensor,
    limit: float,
    gradients: str,
    parameters: Sequence[Tensor],
    rtol: float,
    atol: float,
) -> Tensor:
    from torchdiffeq import odeint, odeint_adjoint

    def solve(h: Tensor, x: Tensor, s: Tensor) -> Tensor:
        def rate(_: Tensor, x: Tensor) -> Tensor:
            # a field that has left the box stands still: no step size could follow it
            inside = x.abs().amax(-1, keepdim=True) < limit
            return torch.where(inside, h * field(x.clamp(-limit, limit)), 0.0)

        if gradients == "adjoint":
            found: Tensor = odeint_adjoint(
                rate, x, s, rtol=rtol, atol=atol, method="dopri5",
                adjoint_params=tuple(p for p in parameters if p.requires_grad),
            )  # fmt: skip
            return found
        found = odeint(rate, x, s, rtol=rtol, atol=atol, method="dopri5")
        return found

    n = steps.shape[-1]
    uniform = (
        bool((steps - steps[..., :1]).abs().amax() <= 1e-6 * steps.abs().amax()) if n else True
    )
    if n == 0:
        return x0.unsqueeze(-2)
    if uniform:
        s = torch.arange(n + 1, dtype=x0.dtype, device=x0.device)
        return solve(steps[..., :1], x0, s).movedim(0, -2).clamp(-limit, limit)
    unit = torch.tensor([0.0, 1.0], dtype=x0.dtype, device=x0.device)
    states = [x0]
    for i in range(n):  # the rate jumps at the stored times
        states.append(solve(steps[..., i, None], states[-1], unit)[-1].clamp(-limit, limit))
    return torch.stack(states, dim=-2)


def iterate_map(
    step: Field,
    x0: Tensor,
    n: int,
    *,
    data: Tensor | None = None,
    observed: Tensor | None = None,
    forcing: float = 1.0,
    limit: float = 100.0,
) -> Tensor:
    """Apply a discrete map `n` - 1 times, with teacher forcing where data is given.

    Before each application the state becomes ``forcing * z + (1 - forcing) * x``, x the data,
    where it is observed: 1 runs free.

    Parameters
    ----------
    step : callable
        (..., d) -> (..., d).
    x0 : Tensor, shape (..., d)
    n : int
        Number of states to return, `x0` included.
    data, observed : Tensor, shape (..., n, d), optional
        Data and where it is observed (bool).
    forcing : float, in [0, 1]
    limit : float
        States are clamped to [-limit, limit].

    Returns
    -------
    Tensor, shape (..., n, d)
        States before the forcing.

    References
    ----------
    .. [1] Hess, Monfared, Brenner, Durstewitz, "Generalized teacher forcing for learning chaotic
       dynamics", ICML 2023, equation 6.
    """
    states, z = [x0], x0
    for i in range(n - 1):
        if data is not None and forcing < 1.0 and i > 0:
            forced = forcing * z + (1.0 - forcing) * data[..., i, :]
            z = forced if observed is None else torch.where(observed[..., i, :], forced, z)
        z = step(z).clamp(-limit, limit)
        states.append(z)
    return torch.stack(states, dim=-2)
