"""neuraloperator's spectral convolution, repaired where 2.0.0 is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["import_neuralop", "spectral_conv"]


def import_neuralop(name: str) -> Any:
    """Import from neuraloperator without the change it makes to the warning filters."""
    import importlib

    with warnings.catch_warnings():
        return importlib.import_module(name)


@lru_cache(maxsize=1)
def spectral_conv() -> type[nn.Module]:
    """Return the repaired subclass of neuraloperator's `SpectralConv`.

    neuraloperator 2.0.0 undoes ``fftshift`` with ``fftshift``, which shifts all axes but the last
    by one mode where the size is odd, and aligns weights wrongly where a grid has fewer points
    than modes. The subclass indexes modes by their frequency instead, transforms only the
    columns that are kept, and computes in the precision of its input. Weights, parameter names
    and results on even sizes are those of the original.

    Real data with dense weights in full precision; other settings go to the original.
    """
    base = import_neuralop("neuralop.layers.spectral_convolution").SpectralConv

    class SpectralConv(base):  # type: ignore[valid-type, misc]
        """`neuralop.layers.spectral_convolution.SpectralConv`, right on odd sizes too."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if self.complex_data or self.fno_block_precision != "full" or self.separable:
                raise ValueError(
                    "the repaired SpectralConv handles real data, full precision, separable=False"
                )

        def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
            """Convolve `x`, shape (batch, in_channels, *n), in the Fourier domain."""
            size = tuple(x.shape[2:])
            if output_shape is not None:
                out_size = tuple(output_shape)
            elif self.resolution_scaling_factor is not None:
                factors = self.resolution_scaling_factor
                out_size = tuple(round(s * n) for s, n in zip(factors, size, strict=True))
            else:
                out_size = size
            weight = self.weight.to_tensor() if hasattr(self.weight, "to_tensor") else self.weight
            dtype = x.dtype
            x = _spectral_multiply(x, weight, tuple(self.n_modes), out_size, self.fft_norm)
            x = x.to(dtype)
            return x if self.bias is None else x + self.bias

    return SpectralConv


def _spectral_multiply(
    x: Tensor, weight: Tensor, n_modes: tuple[int, ...], out_size: tuple[int, ...], norm: str
) -> Tensor:
    """Multiply modes: all but the last axis hold frequencies -(m // 2) .. (m - 1) // 2."""
    order = len(out_size)
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    size = tuple(x.shape[2:])
    last = min(n_modes[-1], size[-1] // 2 + 1, out_size[-1] // 2 + 1)
    x = torch.fft.rfft(x, dim=-1, norm=norm)[..., :last]
    weight = weight[..., :last]
    kept: list[tuple[int, int]] = []
    for d in reversed(range(order - 1)):
        room = min(size[d], out_size[d])
        # frequencies below 0, and from 0 up, that both the grids and the weights have
        neg = min(n_modes[d] // 2, room // 2)
        pos = min(n_modes[d] - n_modes[d] // 2, (room + 1) // 2)
        kept.append((neg, pos))
        axis = d + 2
        x = torch.fft.fft(x, dim=axis, norm=norm)
        n = x.shape[axis]
        x = torch.cat([x.narrow(axis, n - neg, neg), x.narrow(axis, 0, pos)], dim=axis)
        zero = weight.shape[axis] // 2
        weight = weight.narrow(axis, zero - neg, neg + pos)
    kept.reverse()
    symbols = "xyz"[:order]
    y = torch.einsum(f"bi{symbols},io{symbols}->bo{symbols}", x, weight.to(x.dtype))
    for d, (neg, pos) in enumerate(kept):
        axis, n = d + 2, out_size[d]
        gap = list(y.shape)
        gap[axis] = n - neg - pos
        y = torch.cat(
            [y.narrow(axis, neg, pos), y.new_zeros(gap), y.narrow(axis, 0, neg)], dim=axis
        )
        y = torch.fft.ifft(y, dim=axis, norm=norm)
    return torch.fft.irfft(y, n=out_size[-1], dim=-1, norm=norm)
