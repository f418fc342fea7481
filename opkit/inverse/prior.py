"""Priors of plug-and-play iterations: exact proximal operators, or any denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["Prior", "as_prior"]


class Prior:
    """A denoiser between numpy batches, and the regularizer behind it if there is one.

    Parameters
    ----------
    prox : callable
        ``z -> x``, batches (batch, *shape).
    prox_and_value : callable, optional
        ``z -> (x, R(x))`` with `R` of shape (batch,): the denoiser is then the exact proximal
        operator of `R`, ``x = argmin_v 1/2 |v - z|^2 + R(v)``, which certificates rely on.
    value : callable, optional
        ``x -> R(x)`` at any point.
    sigma : float, optional
        Standard deviation of the noise that the prior was trained at, in units of the unknown:
        ``R`` stands for ``-sigma^2 log p``.
    inexact : str
        Why it is no exact proximal operator, for the certificate.
    precision : float
        Unit round-off of its computations.
    """

    def __init__(
        self,
        prox: Callable[[np.ndarray], np.ndarray],
        *,
        prox_and_value: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
        value: Callable[[np.ndarray], np.ndarray] | None = None,
        sigma: float | None = None,
        inexact: str = "the denoiser has no potential: it is not known to be a proximal operator",
        precision: float = float(np.finfo(np.float64).eps),
    ) -> None:
        if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma={sigma}: need a positive number")
        self.prox, self._pair, self._value = prox, prox_and_value, value
        self.sigma, self.precision = sigma, precision
        self.exact = prox_and_value is not None
        self.inexact = "" if self.exact else inexact

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``prox(z)`` and the regularizer there; NaN where there is none."""
        if self._pair is None:
            x = np.asarray(self.prox(z), np.float64)
            return _same_shape(x, z), np.full(len(z), np.nan)
        x, value = self._pair(z)
        return _same_shape(np.asarray(x, np.float64), z), np.asarray(value, np.float64)

    def value(self, x: np.ndarray) -> np.ndarray:
        """Return the regularizer at any points, (batch,).

        Raises
        ------
        ValueError
            The prior has none.
        """
        if self._value is None:
            raise ValueError(f"no regularizer to evaluate: {self.inexact or 'not given'}")
        return np.asarray(self._value(x), np.float64)

    def scaled(self, scale: float, shift: float | np.ndarray = 0.0) -> Prior:
        """Return the prior of ``scale * v + shift`` where `v` has this one.

        ``x -> scale f((x - shift) / scale) + shift`` is the proximal operator of
        ``scale^2 R((x - shift) / scale)``.
        """
        if not scale > 0:
            raise ValueError(f"scale={scale}: need a positive number")

        def pair(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x, value = self((z - shift) / scale)
            return scale * x + shift, scale**2 * value

        return Prior(
            lambda z: pair(z)[0],
            prox_and_value=pair if self.exact else None,
            value=None if self._value is None
            else lambda x: scale**2 * self.value((x - shift) / scale),
            sigma=None if self.sigma is None else scale * self.sigma,
            inexact=self.inexact,
            precision=self.precision,
        )  # fmt: skip


def as_prior(prior: Any, shape: Sequence[int], *, sigma: float | None = None) -> Prior:
    """Make a prior of what describes one.

    Parameters
    ----------
    prior
        A `Prior`; an operator of the denoising task (`opkit.load`); a torch module, by name a
        learned proximal network where it has `prox_and_regularizer`, else a plain denoiser; an
        object with `prox_and_regularizer` on arrays; or a function on arrays (batch, *shape).
    shape : sequence of int
        Of an unknown.
    sigma : float, optional
        Noise level of its training, if it does not say itself.

    Raises
    ------
    ValueError
        A network for another shape, or one that has lost its convexity.
    TypeError
        None of these.
    """
    shape = tuple(shape)
    if isinstance(prior, Prior):
        return prior
    if hasattr(prior, "task") and hasattr(prior, "description"):
        return _from_operator(prior, shape)
    if hasattr(prior, "parameters") and hasattr(prior, "forward"):
        return _from_module(prior, shape, sigma if sigma is not None else _sigma_of(prior))
    if hasattr(prior, "prox_and_regularizer"):
        return Prior(
            lambda z: prior.prox_and_regularizer(z)[0],
            prox_and_value=prior.prox_and_regularizer,
            value=getattr(prior, "regularizer", None),
            sigma=sigma if sigma is not None else _sigma_of(prior),
        )
    if callable(prior):
        return Prior(prior, sigma=sigma)
    raise TypeError(
        f"prior is a {type(prior).__name__}: need an operator of opkit.load, a torch module, a "
        "Prior, or a function"
    )


def _sigma_of(prior: Any) -> float | None:
    value = getattr(prior, "sigma", None)
    return float(value) if isinstance(value, int | float) else None


def _from_module(module: Any, shape: tuple[int, ...], sigma: float | None) -> Prior:
    import copy

    import torch

    if hasattr(module, "prox_and_regularizer"):  # objectives are compared to rounding
        module = copy.deepcopy(module).double()
    parameter = next(module.parameters(), None)
    dtype = torch.float64 if parameter is None else parameter.dtype
    device = "cpu" if parameter is None else parameter.device
    own = getattr(module, "shape", None)
    own = tuple(own) if isinstance(own, tuple | list | torch.Size) else None
    if own is not None and math.prod(own) != math.prod(shape):
        raise ValueError(f"the prior is a network for shape {own}, the unknown has shape {shape}")

    def tensor(z: np.ndarray) -> Any:
        t = torch.as_tensor(np.ascontiguousarray(z), dtype=dtype, device=device)
        if own is not None:
            return t.reshape(len(z), *own)
        # plain denoisers of images expect a channel
        return t if len(shape) == 3 else t[:, None]

    def array(t: Any) -> np.ndarray:
        return t.detach().cpu().numpy().astype(np.float64)

    def prox(z: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return array(module(tensor(z))).reshape(z.shape)

    precision = float(torch.finfo(dtype).eps)
    if not hasattr(module, "prox_and_regularizer"):
        return Prior(prox, sigma=sigma, precision=precision)
    inexact = _lost_convexity(module)
    if inexact:
        return Prior(prox, sigma=sigma, precision=precision, inexact=inexact)

    def pair(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, value = module.prox_and_regularizer(tensor(z))
        return array(x).reshape(z.shape), array(value)

    return Prior(
        prox,
        prox_and_value=pair,
        value=lambda x: array(module.regularizer(tensor(x))),
        sigma=sigma,
        precision=precision,
    )


def _lost_convexity(module: Any) -> str:
    """Why the network is no gradient of a convex function; ``""`` if it is one."""
    check = getattr(module, "check_convexity", None)
    if check is None:
        return ""
    try:
        check()
    except ValueError as e:
        return " ".join(str(e).split())
    return ""


def _from_operator(operator: Any, shape: tuple[int, ...]) -> Prior:
    task = operator.task
    if getattr(task, "name", "") != "denoising":
        raise ValueError(
            f"{operator!r} was trained for the task {getattr(task, 'name', '?')!r}: a prior needs "
            "the task 'denoising', such as opkit fit DATA -m lpn"
        )
    if math.prod(operator.shape) != math.prod(shape):
        raise ValueError(
            f"the prior is for {operator.task.field} of shape {operator.shape}, the unknown has "
            f"shape {shape}"
        )
    if operator.is_prox:
        return _from_module(operator.prox(), shape, operator.sigma)

    def prox(z: np.ndarray) -> np.ndarray:
        batch = z.reshape(len(z), *operator.shape)
        return np.asarray(operator.denoise(batch), np.float64).reshape(z.shape)

    import torch

    return Prior(prox, sigma=operator.sigma, precision=float(torch.finfo(operator.dtype).eps))


def _same_shape(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    if x.shape != z.shape:
        raise ValueError(f"the prior gave shape {x.shape} for an array of shape {z.shape}")
    return x
