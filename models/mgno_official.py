"""The authors' MgNO program, weight for weight, to compare with and to load its settings.

Rewritten from the recursion of github.com/xlliu2017/MgNO at commit 3a68a90 (MIT license,
(c) 2024 Xinliang Liu). Known differences to the paper, kept here on purpose: R acts on f and not
on the residual, u is restricted too, transposed convolutions pad with zeros whatever the
boundary, R and P are half a cell apart, LayerNorms have weights per pixel, and the Helmholtz
model carries finest stencils A that it never uses. The results are theirs to rounding; the work
is done with channels innermost in memory and sums in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.names import check_name

from .mgno import _activate, _channels_last, _pointwise

__all__ = ["OfficialCycle", "OfficialMgNO", "official_model"]


@dataclass(frozen=True)
class _Settings:
    """One experiment: everything that its class and command line fix."""

    size: int
    n_layers: int
    hidden_channels: int
    smoothing: tuple[tuple[int, int], ...]
    up_kernels: tuple[int, ...]
    in_channels: int = 1
    padding_mode: str = "zeros"
    transfer_padding: int = 1
    stencil_bias: bool = False
    growth: bool = False
    unused_A: bool = False
    level_norm: bool = False
    layer_norm: bool = False
    pointwise: bool = True
    multigrid_head: bool = False
    residual: bool = False


_ONE, _TWO = (1, 0), (2, 0)
_SETTINGS = {
    "darcy_smooth": _Settings(211, 5, 24, (*[_ONE] * 5, _TWO), (3, 4, 3, 3, 4)),
    "darcy_rough": _Settings(256, 4, 24, (*[_ONE] * 5, _TWO), (4,) * 5),
    "pipe": _Settings(128, 5, 24, (*[_ONE] * 4, (1, 1), _TWO), (4,) * 5, in_channels=2),
    "navier_stokes": _Settings(
        64, 5, 32, (*[_ONE] * 3, _TWO, _TWO), (4,) * 4, padding_mode="circular",
        stencil_bias=True, level_norm=True, pointwise=False, residual=True,
    ),
    "helmholtz": _Settings(
        101, 4, 20, (*[_ONE] * 4, _TWO), (3, 4, 4, 3), padding_mode="reflect", transfer_padding=0,
        stencil_bias=True, growth=True, unused_A=True, layer_norm=True, pointwise=False,
        multigrid_head=True,
    ),
}  # fmt: skip


class OfficialCycle(nn.Module):
    """The authors' cycle on one fixed size.

    Parameters
    ----------
    n_f, n_u : int
        Channels of right-hand side and solution on the finest level.
    settings : _Settings
    """

    def __init__(self, n_f: int, n_u: int, settings: _Settings) -> None:
        super().__init__()
        s = settings
        self.smoothing = s.smoothing
        levels = len(s.smoothing)
        self.S, self.A = nn.ModuleList(), nn.ModuleList()
        self.R, self.Pi, self.P = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.norms = nn.ModuleList()
        stencil: dict[str, Any] = {
            "kernel_size": 3, "padding": 1, "padding_mode": s.padding_mode, "bias": s.stencil_bias
        }  # fmt: skip
        transfer: dict[str, Any] = {
            "kernel_size": 3, "stride": 2, "padding": s.transfer_padding, "bias": False,
            "padding_mode": s.padding_mode if s.transfer_padding else "zeros",
        }  # fmt: skip
        for i, (pre, post) in enumerate(s.smoothing):
            here, next_ = ((i + 1), (i + 2)) if s.growth else (1, 1)
            f, u = n_f * here, n_u * here
            skip = int(i == 0 and not s.unused_A)
            self.S.append(nn.ModuleList(nn.Conv2d(f, u, **stencil) for _ in range(pre + post)))
            self.A.append(
                nn.ModuleList(nn.Conv2d(u, f, **stencil) for _ in range(pre + post - skip))
            )
            if i == levels - 1:
                break
            self.R.append(nn.Conv2d(f, n_f * next_, **transfer))
            self.Pi.append(nn.Conv2d(u, n_u * next_, **transfer))
            self.P.append(
                nn.ConvTranspose2d(
                    n_u * next_,
                    u,
                    s.up_kernels[i],
                    stride=2,
                    padding=s.transfer_padding,
                    bias=False,
                )
            )
            if s.level_norm:
                self.norms.append(nn.LayerNorm([u, s.size // 2**i, s.size // 2**i]))
        self.to(memory_format=torch.channels_last)

    def forward(self, f: Tensor) -> Tensor:
        """Apply the cycle to `f`, shape (batch, n_f, size, size)."""
        return self._solve(_channels_last(f), None, 0)

    def _solve(self, f: Tensor, u: Tensor | None, i: int) -> Tensor:
        pre, _ = self.smoothing[i]
        S: Any = self.S[i]
        A: Any = self.A[i]
        offset = len(S) - len(A)  # the first step of the finest level may have no A
        for k in range(pre):
            u = S[k](f) if u is None else _step(f, u, A[k - offset], S[k])
        assert u is not None  # every experiment smooths before
        if i == len(self.smoothing) - 1:
            return u
        u = self.P[i](self._solve(self.R[i](f), self.Pi[i](u), i + 1)).add_(u)
        if self.norms:
            u = self.norms[i](u)
        for k in range(pre, len(S)):
            u = _step(f, u, A[k - offset], S[k])
        return u


def _step(f: Tensor, u: Tensor, A: nn.Conv2d, S: nn.Conv2d) -> Tensor:
    """Smooth once; nobody else keeps what a convolution returns, so sums are made in place."""
    minus = None if A.bias is None else -A.bias
    if A.padding_mode == "zeros":
        defect = F.conv2d(u, -A.weight, minus, padding=1)
    else:
        defect = F.conv2d(F.pad(u, (1,) * 4, mode=A.padding_mode), -A.weight, minus)
    return S(defect.add_(f)).add_(u)


class OfficialMgNO(nn.Module):
    """The authors' network for one of their experiments (see `official_model`)."""

    def __init__(self, settings: _Settings) -> None:
        super().__init__()
        s = settings
        self.settings = s
        sizes = [s.in_channels] + [s.hidden_channels] * s.n_layers
        self.cycles = nn.ModuleList(OfficialCycle(f, u, s) for f, u in pairwise(sizes))
        self.pointwise = nn.ModuleList(
            nn.Conv2d(f, u, 1) for f, u in pairwise(sizes) if s.pointwise
        )
        shape = [s.hidden_channels, s.size, s.size]
        self.norms = nn.ModuleList(nn.LayerNorm(shape) for _ in range(s.n_layers * s.layer_norm))
        self.head: nn.Module = (
            OfficialCycle(s.hidden_channels, 1, s)
            if s.multigrid_head
            else nn.Conv2d(s.hidden_channels, 1, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to `x`, shape (batch, in_channels, size, size).

        Raises
        ------
        ValueError
            If the channels or the size are not those of the experiment.
        """
        s = self.settings
        expected: Sequence[int] = (s.in_channels, s.size, s.size)
        if tuple(x.shape[1:]) != tuple(expected):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (batch, {', '.join(map(str, expected))}): "
                "the authors' model works on one size"
            )
        u = _channels_last(x)
        for k, cycle in enumerate(self.cycles):
            w = cycle(u)
            if self.pointwise:
                conv: Any = self.pointwise[k]
                w = w.add_(_pointwise(u, conv.weight)).add_(conv.bias[:, None, None])
            if self.norms:
                w = self.norms[k](w)
            u = _activate(w, F.gelu)
        head: Any = self.head
        u = head(u) if s.multigrid_head else _pointwise(u, head.weight)
        return u + x if s.residual else u


def official_model(name: str) -> OfficialMgNO:
    """Return the authors' model of an experiment, untrained.

    Parameters
    ----------
    name : {"darcy_smooth", "darcy_rough", "pipe", "navier_stokes", "helmholtz"}

    Raises
    ------
    UnknownNameError
    """
    check_name("preset", name, tuple(_SETTINGS))
    return OfficialMgNO(_SETTINGS[name])
