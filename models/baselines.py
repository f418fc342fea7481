"""Baselines from neuraloperator, repaired where 2.0.0 is wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import Grid

from .spec import ModelSpec

__all__ = ["GridFNO", "build_fno", "spectral_conv"]

Norm = Literal["group_norm", "instance_norm"]


def _import(name: str) -> Any:
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
    base = _import("neuralop.layers.spectral_convolution").SpectralConv

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


class _EvenPadding(nn.Module):
    """Zeros beyond the upper ends, up to a fixed multiple of each axis' length.

    The period stays the same physical length at every resolution, and sizes are even. Offers
    the two methods of neuraloperator's `DomainPadding`.
    """

    def __init__(self, fractions: Sequence[float], closed: Sequence[bool]) -> None:
        super().__init__()
        self.fractions, self.closed = tuple(fractions), tuple(closed)
        self._size: tuple[int, ...] = ()

    def padded(self, size: Sequence[int]) -> tuple[int, ...]:
        """Sizes after padding."""
        out = []
        for n, fraction, closed in zip(size, self.fractions, self.closed, strict=True):
            target = math.ceil((n - closed) * (1 + fraction))
            out.append(n if fraction == 0 else max(n + 1, target + target % 2))
        return tuple(out)

    def pad(self, x: Tensor) -> Tensor:
        """Append zeros."""
        self._size = tuple(x.shape[2:])
        flat = [
            w
            for n, m in reversed(list(zip(self._size, self.padded(self._size), strict=True)))
            for w in (0, m - n)
        ]
        return F.pad(x, flat)

    def unpad(self, x: Tensor) -> Tensor:
        """Cut what `pad` has appended."""
        for d, n in enumerate(self._size):
            x = x.narrow(d + 2, 0, n)
        return x


class GridFNO(nn.Module):
    """neuraloperator's FNO with a repaired spectral layer, on a grid that knows its layout.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
        Layout and periodicity of the axes; any number of points may be given later.
    n_modes : tuple of int
        Fourier modes per axis, both signs counted.
    hidden_channels, n_layers : int
    padding : float
        Zeros appended to every axis that is not periodic, as a fraction of its length.
    coordinates : bool
        Append coordinates: x in [0, 1], on periodic axes sine and cosine of 2 pi x.
    use_channel_mlp : bool
    norm : {"group_norm", "instance_norm"} or None

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    References
    ----------
    .. [1] Li et al., "Fourier neural operator for parametric partial differential equations",
       ICLR 2021, arXiv:2010.08895.
    .. [2] Kossaifi et al., neuraloperator, arXiv:2412.10354.
    """

    #: What a factory has filled in, as plain JSON types.
    resolved_options: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        n_modes: tuple[int, ...],
        hidden_channels: int,
        n_layers: int,
        padding: float,
        coordinates: bool,
        use_channel_mlp: bool,
        norm: Norm | None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.grid = grid
        self.coordinates = coordinates
        extra = sum(2 if p else 1 for p in grid.periodic) if coordinates else 0
        # neuraloperator's fno_block_precision, factorization ... stay at their defaults
        self.fno: Any = _import("neuralop.models.fno").FNO(
            n_modes=n_modes,
            in_channels=in_channels + extra,
            out_channels=out_channels,
            hidden_channels=hidden_channels,
            n_layers=n_layers,
            positional_embedding=None,
            use_channel_mlp=use_channel_mlp,
            norm=norm,
            conv_module=spectral_conv(),
        )
        # neuraloperator's models put their constructor's arguments among the weights
        self.register_state_dict_post_hook(_drop_metadata)
        fractions = [0.0 if p else padding for p in grid.periodic]
        if any(fractions):
            self.fno.domain_padding = _EvenPadding(fractions, _closed(grid))
        self._coords: tuple[tuple[int, ...], Tensor] | None = None
        self.resolved_options = {}

    def _coordinates(self, x: Tensor) -> Tensor:
        """Coordinate channels, shape (extra, *n), cached for the last size."""
        size = tuple(x.shape[2:])
        if self._coords is None or self._coords[0] != size:
            fields = []
            for d, axis in enumerate(self.grid.resized(size).axes):
                t = (torch.as_tensor(axis.coords) - axis.lower) / (axis.upper - axis.lower)
                values = [t]
                if axis.periodic:
                    values = [torch.sin(2 * math.pi * t), torch.cos(2 * math.pi * t)]
                shape = [1] * len(size)
                shape[d] = size[d]
                fields += [v.reshape(shape).expand(size) for v in values]
            self._coords = (size, torch.stack(fields))
        if self._coords[1].device != x.device or self._coords[1].dtype != x.dtype:
            self._coords = (size, self._coords[1].to(x))
        return self._coords[1]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator.

        Parameters
        ----------
        x : Tensor, shape (batch, in_channels, *n)

        Returns
        -------
        Tensor, shape (batch, out_channels, *n)

        Raises
        ------
        ValueError
            Wrong number of axes or channels.
        """
        dim = self.grid.dim
        if x.ndim != dim + 2 or x.shape[1] != self.in_channels:
            sizes = ", ".join(f"n{d + 1}" for d in range(dim))
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (batch, {self.in_channels}, {sizes}): "
                f"this model was built with in_channels={self.in_channels}, dim={dim}"
            )
        if self.coordinates:
            coords = self._coordinates(x)
            x = torch.cat([x, coords.expand(x.shape[0], *coords.shape)], dim=1)
        return self.fno(x)


def _drop_metadata(module: nn.Module, state: dict[str, Any], prefix: str, local: Any) -> None:
    state.pop("_metadata", None)


def _closed(grid: Grid) -> list[bool]:
    """Axes with points on both ends."""
    return [a.location == "node" and not a.periodic for a in grid.axes]


def build_fno(
    spec: ModelSpec,
    *,
    n_modes: int | list[int] | None = None,
    hidden_channels: int = 32,
    n_layers: int = 4,
    padding: float = 0.0,
    coordinates: bool = True,
    use_channel_mlp: bool = True,
    norm: Norm | None = None,
) -> GridFNO:
    """FNO for a dataset.

    Parameters
    ----------
    spec : ModelSpec
    n_modes : int or list of int, optional
        Fourier modes per axis, both signs counted, even. Default 16, or what the grid resolves
        if that is less.
    hidden_channels, n_layers, coordinates, use_channel_mlp, norm
        As in `GridFNO`.
    padding : float, default 0.0
        As in `GridFNO`. With coordinates it gains little and costs its share of points: on
        Darcy flow, 33^2, 1/8 lowered the relative error from 2.8 % to 2.7 %.

    Returns
    -------
    GridFNO
        Its `resolved_options` rebuild it with the same `spec`.

    Raises
    ------
    ValueError
        More modes than the grid has points; other values out of range.
    """
    grid = spec.grid
    if not 0 <= padding <= 1:
        raise ValueError(f"padding={padding}: need a fraction of the axis from 0 to 1")
    for name, value in (("hidden_channels", hidden_channels), ("n_layers", n_layers)):
        if value < 1:
            raise ValueError(f"{name}={value}: need an integer >= 1")
    limit = [n - n % 2 for n in grid.shape]
    if n_modes is None:
        modes = [min(16, m) for m in limit]
    else:
        modes = [n_modes] * grid.dim if isinstance(n_modes, int) else list(n_modes)
        if len(modes) != grid.dim:
            raise ValueError(
                f"n_modes={n_modes} has {len(modes)} entries, the grid {grid.dim} axes"
            )
        for m, most, axis in zip(modes, limit, grid.axes, strict=True):
            if m < 2 or m % 2 or m > most:
                raise ValueError(
                    f"n_modes={n_modes}: need even numbers from 2 to {most}, what the "
                    f"{axis.n} points of axis {axis.name!r} resolve"
                )
    model = GridFNO(
        spec.in_channels, spec.out_channels, grid=grid, n_modes=tuple(modes),
        hidden_channels=hidden_channels, n_layers=n_layers, padding=padding,
        coordinates=coordinates, use_channel_mlp=use_channel_mlp, norm=norm,
    )  # fmt: skip
    model.resolved_options = {"n_modes": modes}
    return model
