"""A trained denoiser, and the proximal operator of the prior that it holds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.lpn import LPN, InverseOfProx

from ..errors import UsageError
from ..operator import Operator

if TYPE_CHECKING:
    from .denoising import DenoisingTask, FieldScale

__all__ = ["Denoiser", "PhysicalProx"]


class PhysicalProx(nn.Module):
    r"""A learned proximal network in the units of the field.

    With ``u = (z - shift) / scale`` it is :math:`f(z) = shift + scale\,f_0(u)`, the proximal
    operator of :math:`R(x) = scale^2 R_0((x - shift) / scale)`: the same interface as
    `models.lpn.LPN`. R has the square of the field's units.

    Parameters
    ----------
    net : LPN
    shift, scale : float
    """

    def __init__(self, net: LPN, shift: float, scale: float) -> None:
        super().__init__()
        self.net = net
        self.shift, self.scale = float(shift), float(scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: ``(channels, *space)``."""
        return self.net.shape

    @property
    def alpha(self) -> float:
        """Least eigenvalue of the Jacobian that is certain."""
        return self.net.alpha

    def check_convexity(self) -> float:
        """See `LPN.check_convexity`."""
        return self.net.check_convexity()

    def _inner(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale

    def forward(self, z: Tensor) -> Tensor:
        """Denoise, (B, *shape)."""
        out: Tensor = self.shift + self.scale * self.net(self._inner(z))
        return out

    def potential(self, z: Tensor) -> Tensor:
        """Convex function whose gradient this is, shape (B,)."""
        linear = self.shift * z.flatten(1).sum(1)
        constant = 0.5 * self.shift**2 * z[0].numel()
        return self.scale**2 * self.net.potential(self._inner(z)) + linear - constant

    def prox_and_regularizer(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Denoise, and evaluate R at the result; see `LPN.prox_and_regularizer`."""
        x, r = self.net.prox_and_regularizer(self._inner(z))
        return self.shift + self.scale * x, self.scale**2 * r

    def invert(
        self, x: Tensor, *, method: Literal["lbfgs", "cg"] = "lbfgs", tol: float = 1e-6,
        max_iter: int = 500,
    ) -> InverseOfProx:  # fmt: skip
        """Find y with ``f(y) = x``; see `LPN.invert`. `tol` refers to normalized units."""
        found = self.net.invert(self._inner(x), method=method, tol=tol, max_iter=max_iter)
        return InverseOfProx(
            self.shift + self.scale * found.y, self.scale * found.residual, found.converged,
            found.iterations,
        )  # fmt: skip

    def regularizer(
        self, x: Tensor, *, method: Literal["lbfgs", "cg"] = "lbfgs", tol: float = 1e-6,
        max_iter: int = 500,
    ) -> Tensor:  # fmt: skip
        """Evaluate R at any point; see `LPN.regularizer`. `tol` refers to normalized units."""
        r = self.net.regularizer(self._inner(x), method=method, tol=tol, max_iter=max_iter)
        return self.scale**2 * r


class _PhysicalDenoiser(nn.Module):
    """Any denoiser between physical units."""

    def __init__(self, model: nn.Module, shift: float, scale: float) -> None:
        super().__init__()
        self.model = model
        self.shift, self.scale = shift, scale

    def forward(self, z: Tensor) -> Tensor:
        x = self.model((z - self.shift) / self.scale)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.shift + self.scale * x


class Denoiser(Operator):
    """A trained denoiser of one field, in the field's units.

    A learned proximal network also knows how plausible a field is: R, the prior that it is the
    proximal operator of. With ``log=true`` in the task the field is the natural logarithm
    throughout: of what goes in, of what comes out, and in R.

    Attributes
    ----------
    sigma : float
        Standard deviation of the noise in training, in the units of the field.

    Examples
    --------
    >>> op = opkit.load("runs/digits-lpn")  # doctest: +SKIP
    >>> clean = op.denoise(noisy)  # (8, 8) or (batch, 8, 8)  # doctest: +SKIP
    >>> op.regularizer(clean)  # a number an image  # doctest: +SKIP
    """

    task: DenoisingTask

    def __init__(
        self,
        model: nn.Module,
        task: DenoisingTask,
        scale: FieldScale,
        description: Mapping[str, Any],
        *,
        path: Path | None = None,
    ) -> None:
        module = _PhysicalDenoiser(model, scale.shift, scale.scale)
        super().__init__(module, model, task, description, path=path)
        self.scale = scale
        self.sigma = task.noise_std(scale)

    def __repr__(self) -> str:
        name = f"log {self.task.field}" if self.task.log else self.task.field
        return f"<Denoiser {self.name}: {name} {self.shape}, sigma={self.sigma:.4g}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: ``(channels, *space)``."""
        return self.task.shape

    @property
    def is_prox(self) -> bool:
        """Whether it is the proximal operator of a prior."""
        return isinstance(self.model, LPN)

    def prox(self, dtype: torch.dtype | None = torch.float64) -> PhysicalProx:
        """Return the proximal operator as a torch module, for iterations and certificates.

        Parameters
        ----------
        dtype : torch.dtype, optional
            Of a copy; None: the network itself, as it is.

        Raises
        ------
        UsageError
            The model is no proximal operator.
        """
        if not isinstance(self.model, LPN):
            raise UsageError(
                f"model {self.name!r} is no proximal operator, so it has no prior; train lpn"
            )
        net = self.model if dtype is None else copy.deepcopy(self.model).to(dtype)
        return PhysicalProx(net, self.scale.shift, self.scale.scale)

    def __call__(self, x: Any, *, batch_size: int = 256) -> Any:
        """Denoise; see `denoise`."""
        return self.denoise(x, batch_size=batch_size)

    def denoise(self, x: Any, *, batch_size: int = 256) -> Any:
        """Denoise fields.

        Parameters
        ----------
        x : ndarray or Tensor
            ``([batch], [channel], *space)``, the channel axis only if there are several, or all
            axes. Vectors have their components as channels.
        batch_size : int
            Samples at once.

        Returns
        -------
        ndarray or Tensor
            As `x`. Tensors carry gradients.

        Raises
        ------
        ValueError
            Another shape, or values that are not finite.
        """
        return self._each(x, batch_size, self.module)

    def regularizer(
        self, x: Any, *, method: Literal["lbfgs", "cg"] = "lbfgs", tol: float = 1e-6,
        max_iter: int = 500, batch_size: int = 64,
    ) -> Any:  # fmt: skip
        """Value of the prior R, up to a constant: small for plausible fields.

        The density that the training has estimated is proportional to ``exp(-R / sigma**2)``.

        Parameters
        ----------
        x : ndarray or Tensor
            As `denoise` takes it.
        method, tol, max_iter
            See `models.lpn.LPN.invert`; `tol` refers to normalized units.

        Returns
        -------
        ndarray or Tensor
            In double precision, one number a sample, in the square of the field's units.

        Raises
        ------
        UsageError
            The model is no proximal operator.
        InversionError
            R is not known at some of the points; carries the residuals.
        """
        prox = self.prox()

        def values(x: Tensor) -> Tensor:
            return prox.regularizer(x.double(), method=method, tol=tol, max_iter=max_iter)

        return self._each(x, batch_size, values, numbers=True)

    def _each(
        self,
        x: Any,
        batch_size: int,
        function: Callable[[Tensor], Tensor],
        *,
        numbers: bool = False,
    ) -> Any:
        is_tensor = isinstance(x, Tensor)
        array = x if is_tensor else np.asarray(x)
        if not is_tensor and array.dtype.kind not in "fiub":
            raise ValueError(f"x has dtype {array.dtype}: need real numbers")
        batch, restore = self._as_batch(array)
        dtype = torch.float64 if numbers else self.dtype
        if is_tensor:
            t = batch.to(self.device, dtype)
            if not bool(torch.isfinite(t).all()):
                raise ValueError("x has values that are not finite")
            out = torch.cat([function(part) for part in t.split(batch_size)])
            if not numbers:
                out = out.to(x.device, x.dtype if x.is_floating_point() else out.dtype)
            return restore(out)
        with torch.no_grad():
            t = torch.as_tensor(np.ascontiguousarray(batch)).to(self.device, dtype)
            if not bool(torch.isfinite(t).all()):
                raise ValueError("x has values that are not finite")
            out = torch.cat([function(part) for part in t.split(batch_size)]).cpu()
        result = out.numpy()
        if not numbers and array.dtype in (np.float32, np.float64):
            result = result.astype(array.dtype, copy=False)
        return restore(result)

    def _as_batch(self, x: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Bring to (batch, *shape), and say how to go back."""
        shapes = [self.shape]
        if self.shape[0] == 1 and len(self.shape) > 1:
            shapes.append(self.shape[1:])
        elif self.shape == (1,):
            shapes.append(())
        for shape in shapes:
            k = len(shape)
            if x.ndim in (k, k + 1) and tuple(x.shape[x.ndim - k :]) == shape:
                single = x.ndim == k
                n = 1 if single else x.shape[0]

                def restore(out: Any, single: bool = single, shape: tuple[int, ...] = shape) -> Any:
                    if out.ndim > 1:
                        out = out.reshape(len(out), *shape)
                    return out[0] if single else out

                return x.reshape(n, *self.shape), restore
        expected = " or ".join(str(("batch", *s)).replace("'", "") for s in shapes)
        raise ValueError(f"x has shape {tuple(x.shape)}, expected {expected}, or one sample of it")
