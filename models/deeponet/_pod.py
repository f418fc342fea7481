"""POD-DeepONet: the trunk is a basis of the training outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ._models import DeepONet, Functions, Merge, OperatorNet
from ._nets import MLP

__all__ = ["PODDeepONet", "pod_basis"]


def pod_basis(
    outputs: Tensor,
    *,
    modes: int | None = None,
    energy: float = 0.9999,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and modes of some functions.

    Parameters
    ----------
    outputs : Tensor, shape (n, N) or (n, N, C)
        Training functions.
    modes : int, optional
        How many; default so many that they hold `energy` of the variance.
    energy : float
        In (0, 1].
    weights : Tensor, shape (N,), optional
        Quadrature weights of the points; default all equal.

    Returns
    -------
    basis : Tensor, shape (N, q) or (N, C, q)
        Each mode has weighted mean square 1; its largest entry is positive.
    mean : Tensor, shape (N,) or (N, C)
    eigenvalues : Tensor
        Of all modes, decreasing: the mean square (over functions and points) that each holds.

    Raises
    ------
    ValueError
        More modes than functions allow, values that are not finite.
    """
    if outputs.ndim not in (2, 3) or len(outputs) < 2:
        raise ValueError(
            f"outputs has shape {tuple(outputs.shape)}, expected (n, N) or (n, N, C), n >= 2"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise ValueError("outputs have values that are not finite")
    if not 0 < energy <= 1:
        raise ValueError(f"energy={energy}: need 0 < energy <= 1")
    x = outputs.detach().to(torch.float64)
    mean = x.mean(0)
    points = x.shape[1]
    w = torch.ones(points, dtype=torch.float64) if weights is None else weights.to(x)
    if w.shape != (points,) or not bool((w > 0).all()):
        raise ValueError(f"weights: need {points} positive numbers")
    w = w / w.sum()
    root = w.sqrt() if x.ndim == 2 else w.sqrt().unsqueeze(-1)
    centered = ((x - mean) * root).flatten(1)
    _, sigma, right = torch.linalg.svd(centered, full_matrices=False)
    eigenvalues = sigma**2 / len(x) / (1 if x.ndim == 2 else x.shape[2])
    rank = int((sigma > sigma[0] * 1e-12).sum()) if sigma[0] > 0 else 0
    if not rank:
        raise ValueError("outputs are all the same: there are no modes")
    if modes is None:
        held = eigenvalues.cumsum(0) / eigenvalues.sum()
        modes = min(rank, int((held < energy).sum()) + 1)
    if not 1 <= modes <= rank:
        raise ValueError(f"modes={modes}: {len(x)} functions give 1 to {rank}")
    v = right[:modes] * torch.sign(right[:modes].gather(1, right[:modes].abs().argmax(1)[:, None]))
    if x.ndim == 3:  # mean square over points and outputs together
        v = v.reshape(modes, points, -1) * math.sqrt(x.shape[2])
    basis = (v / root).movedim(0, -1)
    return basis.to(outputs.dtype), mean.to(outputs.dtype), eigenvalues


class PODDeepONet(OperatorNet):
    """DeepONet whose trunk is the first modes of the training outputs.

    ``G(u) = (sum_k b_k(u) v_k) / q + mean``, on the points of the training data only; with
    `trunk_layers`, ``p`` trained terms and a trained number are added.

    Parameters
    ----------
    basis : Tensor, shape (N, q) or (N, C, q)
        Modes with mean square 1, see `pod_basis`.
    mean : Tensor, shape (N,) or (N, C)
    branch_in : int or sequence of int
    branch_layers : sequence of int
    activation : str
    points : Tensor, shape (N, d), optional
        Coordinates of the basis; needed for a trunk.
    trunk_layers : sequence of int, optional
        Hidden layers of a trunk beside the modes.
    latent : int
        Terms p of that trunk.
    branch, merge, initializer
        As for `DeepONet`.
    weights : Tensor, shape (N,), optional
        Quadrature weights in which the modes are orthogonal; default equal.

    Notes
    -----
    Basis, mean, points and weights are buffers: saved, moved and cast with the model.

    References
    ----------
    .. [1] Lu et al., CMAME 393 (2022) 114778, section 3.1.3.
    """

    basis: Tensor
    mean: Tensor
    points: Tensor
    weights: Tensor

    def __init__(
        self,
        basis: Tensor,
        mean: Tensor,
        branch_in: int | Sequence[int],
        branch_layers: Sequence[int] = (128, 128),
        activation: str = "relu",
        *,
        points: Tensor | None = None,
        trunk_layers: Sequence[int] | None = None,
        latent: int = 32,
        branch: nn.Module | Sequence[nn.Module] | None = None,
        merge: Merge = "mul",
        initializer: str = "glorot_normal",
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        if basis.ndim not in (2, 3) or mean.shape != basis.shape[:-1]:
            raise ValueError(
                f"basis has shape {tuple(basis.shape)}, mean {tuple(mean.shape)}: need (N, q) and "
                "(N,), or (N, C, q) and (N, C)"
            )
        n, q = basis.shape[0], basis.shape[-1]
        c = 1 if basis.ndim == 2 else basis.shape[1]
        if points is None:
            if trunk_layers is not None:
                raise ValueError("trunk_layers: a trunk needs the points of the basis, points=")
            points = torch.empty(n, 0)
        if points.ndim != 2 or len(points) != n:
            raise ValueError(f"points has shape {tuple(points.shape)}, the basis has {n} points")
        weights = torch.ones(n) if weights is None else weights
        if weights.shape != (n,):
            raise ValueError(f"weights has shape {tuple(weights.shape)}, the basis has {n} points")
        dtype = basis.dtype
        self.register_buffer("basis", basis.detach().clone())
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("points", points.detach().to(dtype).clone())
        weights = weights.detach().double()
        self.register_buffer("weights", (weights / weights.sum()).to(dtype))
        self.trunk_in = points.shape[1]
        self.modes, self.out_channels, self.output_transform = q, c, None
        extra = 0 if trunk_layers is None else latent
        # branch alone: its checks, merging and several functions are those of a DeepONet
        self.net = DeepONet(
            branch_in,
            max(1, self.trunk_in),
            q + extra * c,
            branch_layers,
            (),
            activation,
            branch=branch,
            trunk=nn.Identity(),
            bias=False,
            merge=merge,
            initializer=initializer,
        )
        self.branch_in = self.net.branch_in
        self.trunk = None
        if trunk_layers is not None:
            sizes = (self.trunk_in, *trunk_layers, extra)
            self.trunk = MLP(sizes, activation, last=True, initializer=initializer)
        self.bias = nn.Parameter(torch.zeros(c)) if trunk_layers is not None else None

    @classmethod
    def from_data(
        cls,
        outputs: Tensor,
        branch_in: int | Sequence[int],
        *args: Any,
        modes: int | None = None,
        energy: float = 0.9999,
        weights: Tensor | None = None,
        **others: Any,
    ) -> Self:
        """Model with the modes of some training outputs.

        Parameters
        ----------
        outputs : Tensor, shape (n, N) or (n, N, C)
            Of the training functions, and of these alone.
        branch_in : int or sequence of int
        modes, energy, weights
            See `pod_basis`.
        *args, **others
            As for the class.
        """
        basis, mean, _ = pod_basis(outputs, modes=modes, energy=energy, weights=weights)
        return cls(basis, mean, branch_in, *args, weights=weights, **others)

    @torch.no_grad()
    def set_basis(self, outputs: Tensor) -> None:
        """Take the modes of other training outputs, as many as before."""
        basis, mean, _ = pod_basis(
            outputs.to(self.basis.dtype), modes=self.modes, weights=self.weights.double()
        )
        if basis.shape != self.basis.shape:
            raise ValueError(
                f"outputs have {tuple(basis.shape[:-1])} values, the model {tuple(self.mean.shape)}"
            )
        self.basis.copy_(basis)
        self.mean.copy_(mean)

    def coefficients(self, outputs: Tensor) -> Tensor:
        """Return what the branch would have to give: (B, N) or (B, N, C) to (B, q)."""
        centered = outputs - self.mean
        if self.out_channels == 1:
            return self.modes * (centered * self.weights) @ self.basis
        w = self.weights[:, None]
        return (
            self.modes / self.out_channels * torch.einsum("bnc,ncq->bq", centered * w, self.basis)
        )

    def decode(self, coefficients: Tensor) -> Tensor:
        """Turn branch outputs (B, q) into functions on the points, (B, N) or (B, N, C)."""
        if self.out_channels == 1:
            return torch.addmm(self.mean, coefficients / self.modes, self.basis.mT)
        return torch.einsum("bq,ncq->bnc", coefficients / self.modes, self.basis) + self.mean

    def forward(self, u: Functions, y: Tensor | None = None) -> Tensor:
        """Evaluate on the points of the basis.

        Parameters
        ----------
        u : Tensor, shape (B, m), or tuple of such
        y : Tensor, shape (N, d), optional
            The points of the basis, if they are to be checked.

        Returns
        -------
        Tensor, shape (B, N) or (B, N, C)

        Raises
        ------
        ValueError
            Other points than those of the basis: between them the modes have no values.
        """
        if y is not None and not torch.compiler.is_compiling():
            self._check_grid(y)
        b = self.net.branch_outputs(u).squeeze(-2)
        s = self.decode(b[:, : self.modes])
        if self.trunk is not None:
            t = self.trunk(self.points)
            if self.out_channels == 1:
                s = s + b[:, self.modes :] @ t.mT
            else:
                rest = b[:, self.modes :].unflatten(1, (self.out_channels, -1))
                s = s + torch.einsum("bcp,np->bnc", rest, t)
        return s if self.bias is None else s + self.bias

    def _check_grid(self, y: Tensor) -> None:
        if y.ndim != 2 or len(y) != len(self.points):
            raise ValueError(
                f"y has shape {tuple(y.shape)}: POD-DeepONet answers on the {len(self.points)} "
                "points of its basis; interpolate its output to others"
            )
        if self.trunk_in and y.shape[1] == self.trunk_in:
            gap = (y.detach() - self.points).abs().max()
            if bool(gap > 1e-5 * self.points.abs().max().clamp_min(1e-30)):
                raise ValueError(
                    f"y: points up to {float(gap):.2g} away from those of the basis, on which "
                    "alone POD-DeepONet answers; interpolate its output to others"
                )

    def forward_pairs(self, u: Functions, y: Tensor) -> Tensor:
        """Refused: the modes have no values between their points."""
        raise ValueError(
            f"POD-DeepONet answers on the {len(self.points)} points of its basis, not at pairs"
        )
