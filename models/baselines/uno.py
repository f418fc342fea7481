"""UNO: neuraloperator's, with skip connections that know where the points lie."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from solvers.grids import Grid

from .._sizes import positive
from ..spec import ModelSpec
from ._grid import GridModel
from .fno import EvenPadding, closed_axes, drop_metadata, mode_numbers
from .spectral import import_neuralop, spectral_conv

__all__ = ["GridUNO", "build_uno"]


class GridUNO(GridModel):
    """neuraloperator's U-shaped operator: Fourier layers on two grids with skip connections.

    Five layers: one on the grid given, three of twice the width on every second point, one on the
    grid given; the outputs of the first two join the inputs of the last two.

    Parameters
    ----------
    in_channels, out_channels : int
    grid : Grid
    n_modes : sequence of int
        Fourier modes per axis of the outer layers; the inner ones have half of them.
    hidden_channels : int
        Of the outer layers.
    padding : float
        Zeros appended to every axis that is not periodic, as a fraction of its length.
    coordinates : bool
        See `GridModel`.

    Notes
    -----
    neuraloperator 2.0.0 ignores the convolution it is given (`integral_operator`), prints its
    settings, and changes resolution by ``align_corners=True``, as if both ends of an axis were
    points, while its Fourier layers take the axis as periodic: the two halves of a layer then lie
    on different points. Here resampling follows the Fourier layers: exact in Fourier space on
    periodic axes, linear on others.

    References
    ----------
    .. [1] Rahman, Ross, Azizzadenesheli, "U-NO: U-shaped neural operators", TMLR 2023,
       arXiv:2204.11127.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        grid: Grid,
        n_modes: Sequence[int],
        hidden_channels: int,
        padding: float,
        coordinates: bool,
    ) -> None:
        super().__init__(in_channels, grid=grid, coordinates=coordinates)
        fine, coarse = [list(n_modes), [max(2, m // 4 * 2) for m in n_modes]]
        one, half, two = ([f] * grid.dim for f in (1.0, 0.5, 2.0))
        wide = 2 * hidden_channels
        periodic = grid.periodic

        class Conv(spectral_conv()):  # type: ignore[misc]
            """The layer's skip connection changes resolution as the layer does."""

            def transform(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
                size = tuple(x.shape[2:])
                if output_shape is None:
                    factors = self.resolution_scaling_factor or [1.0] * len(size)
                    output_shape = [round(n * f) for n, f in zip(size, factors, strict=True)]
                return resample(x, output_shape, periodic)

        blocks = import_neuralop("neuralop.layers.fno_block").FNOBlocks
        with contextlib.redirect_stdout(io.StringIO()):
            self.uno: Any = import_neuralop("neuralop.models.uno").UNO(
                in_channels=self.features,
                out_channels=out_channels,
                hidden_channels=hidden_channels,
                lifting_channels=2 * hidden_channels,
                projection_channels=2 * hidden_channels,
                positional_embedding=None,
                n_layers=5,
                uno_out_channels=[hidden_channels, wide, wide, wide, hidden_channels],
                uno_n_modes=[fine, coarse, coarse, coarse, fine],
                uno_scalings=[one, half, one, two, one],
                channel_mlp_skip="linear",  # the default cannot change the width
                operator_block=partial(blocks, conv_module=Conv),
            )
        self.register_state_dict_post_hook(drop_metadata)
        fractions = [0.0 if p else padding for p in grid.periodic]
        self.padding: Any = nn.Identity()
        if any(fractions):
            self.padding = EvenPadding(fractions, closed_axes(grid))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (batch, in_channels, *n), to (batch, out_channels, *n)."""
        uno, periodic = self.uno, self.grid.periodic
        x = uno.lifting(self.prepare(x))
        padded = isinstance(self.padding, EvenPadding)
        if padded:
            x = self.padding.pad(x)
        fine = tuple(x.shape[2:])
        coarse = tuple(-(-n // 2) for n in fine)
        sizes = (fine, coarse, coarse, fine, fine)
        kept: dict[int, Tensor] = {}
        for i, (block, size) in enumerate(zip(uno.fno_blocks, sizes, strict=True)):
            if i in uno.horizontal_skips_map:
                skip = kept[uno.horizontal_skips_map[i]]
                x = torch.cat([x, resample(skip, x.shape[2:], periodic)], dim=1)
            x = block(x, output_shape=size)
            if i in uno.horizontal_skips_map.values():
                kept[i] = uno.horizontal_skips[str(i)](x)
        if padded:
            x = self.padding.unpad(x)
        y: Tensor = uno.projection(x)
        return y


def resample(x: Tensor, size: Sequence[int], periodic: Sequence[bool]) -> Tensor:
    """Values at the points ``j / n`` of one period per axis, from those at such points.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, *n)
    size : sequence of int
    periodic : sequence of bool
        Axes to resample in Fourier space; linearly on others.
    """
    for d, (n, smooth) in enumerate(zip(size, periodic, strict=True)):
        axis, old = d + 2, x.shape[d + 2]
        if n == old:
            continue
        if smooth:
            kept = min(n, old)
            modes = torch.fft.rfft(x, dim=axis, norm="forward").narrow(axis, 0, (kept + 1) // 2)
            x = torch.fft.irfft(modes, n=n, dim=axis, norm="forward")
        else:
            at = torch.arange(n, device=x.device, dtype=torch.float64) * (old / n)
            low = at.floor().long().clamp_max(old - 1)
            shape = [1] * x.ndim
            shape[axis] = n
            part = (at - low).to(x.dtype).reshape(shape)
            x = torch.lerp(x.index_select(axis, low), x.index_select(axis, (low + 1) % old), part)
    return x


def build_uno(
    spec: ModelSpec,
    *,
    n_modes: int | list[int] | None = None,
    hidden_channels: int = 24,
    padding: float = 0.125,
    coordinates: bool = True,
) -> GridUNO:
    """U-shaped operator for a dataset.

    Parameters
    ----------
    spec : ModelSpec
    n_modes : int or list of int, optional
        Of the outer layers, even. Default 16, or what the grid resolves if that is less.
    hidden_channels, padding, coordinates
        As in `GridUNO`.

    Returns
    -------
    GridUNO
    """
    positive(hidden_channels=hidden_channels)
    if not 0 <= padding <= 1:
        raise ValueError(f"padding={padding}: need a fraction of the axis from 0 to 1")
    modes = mode_numbers(spec.grid, n_modes)
    model = GridUNO(
        spec.in_channels, spec.out_channels, grid=spec.grid, n_modes=modes,
        hidden_channels=hidden_channels, padding=padding, coordinates=coordinates,
    )  # fmt: skip
    model.resolved_options = {"n_modes": modes}
    return model
