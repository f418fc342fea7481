"""LocalNO: neuraloperator's Fourier layers beside local integrals and differences."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import warnings
from typing import Any

from torch import Tensor

from ..spec import ModelSpec
from ._grid import GridModel, positive
from .fno import drop_metadata, mode_numbers
from .spectral import import_neuralop, spectral_conv

__all__ = ["GridLocalNO", "build_local_no"]


class GridLocalNO(GridModel):
    """neuraloperator's LocalNO on a 2-D grid, with the repaired spectral layer.

    Parameters
    ----------
    spec : ModelSpec
        Its grid fixes the points of the local kernels.
    n_modes : list of int
        Fourier modes per axis.
    hidden_channels, n_layers : int
    local_integrals, differences : bool
        Put these layers beside the Fourier layers.
    radius : float
        Of the local integrals, over half the side of the domain.
    coordinates : bool
        See `GridModel`.

    Notes
    -----
    neuraloperator 2.0.0 computes the taps of its local integrals once, for the grid of
    construction, and continues fields by zeros there on periodic axes too: the model is tied to
    its grid. On axes of different numbers of points its sizes do not match, so such grids are
    refused. Difference layers wrap around on a grid that is periodic along both axes and repeat
    the last values on others.

    References
    ----------
    .. [1] Liu-Schiaffini et al., "Neural operators with localized integral and differential
       kernels", ICML 2024, arXiv:2402.16845.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        n_modes: list[int],
        hidden_channels: int,
        n_layers: int,
        local_integrals: bool,
        differences: bool,
        radius: float,
        coordinates: bool,
    ) -> None:
        super().__init__(spec.in_channels, grid=spec.grid, coordinates=coordinates)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Local conv layers only support")
            self.local_no: Any = import_neuralop("neuralop.models.local_no").LocalNO(
                n_modes=tuple(n_modes),
                in_channels=self.features,
                out_channels=spec.out_channels,
                hidden_channels=hidden_channels,
                default_in_shape=spec.grid.shape,
                n_layers=n_layers,
                disco_layers=local_integrals,
                diff_layers=differences,
                radius_cutoff=radius,
                domain_length=[2, 2],
                conv_padding_mode="periodic" if all(spec.grid.periodic) else "replicate",
                positional_embedding=None,
                conv_module=spectral_conv(),
            )
        self.register_state_dict_post_hook(drop_metadata)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (batch, in_channels, n1, n2), to (batch, out_channels, n1, n2)."""
        x = self.prepare(x)
        if x.shape[2] != x.shape[3]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: local_no needs as many points per axis"
            )
        y: Tensor = self.local_no(x)
        return y


def build_local_no(
    spec: ModelSpec,
    *,
    n_modes: int | list[int] | None = None,
    hidden_channels: int = 24,
    n_layers: int = 4,
    local_integrals: bool = True,
    differences: bool = True,
    radius: float = 0.25,
    coordinates: bool = True,
) -> GridLocalNO:
    """LocalNO for a dataset.

    Parameters
    ----------
    spec : ModelSpec
        Two axes.
    n_modes, hidden_channels, n_layers, local_integrals, differences, radius, coordinates
        As in `GridLocalNO`.

    Returns
    -------
    GridLocalNO

    Raises
    ------
    ValueError
        Not two equal axes; options out of range; torch-harmonics is not installed.
    """
    if spec.grid.dim != 2:
        raise ValueError(f"the grid has {spec.grid.dim} axes: local_no is for 2")
    first, second = spec.grid.axes
    sizes = [(a.n, a.upper - a.lower) for a in (first, second)]
    if not math.isclose(*(n / length for n, length in sizes)) or first.n != second.n:
        stated = " and ".join(f"{n} points on length {length:g}" for n, length in sizes)
        raise ValueError(f"the grid has {stated}: local_no needs equal axes")
    if importlib.util.find_spec("torch_harmonics") is None:
        raise ValueError(
            "local_no needs a package that is not installed: pip install torch-harmonics==0.7.4"
        )
    positive(hidden_channels=hidden_channels, n_layers=n_layers)
    if not 0 < radius <= 1:
        raise ValueError(f"radius={radius}: need a fraction of half the domain, above 0, at most 1")
    modes = mode_numbers(spec.grid, n_modes)
    model = GridLocalNO(
        spec, n_modes=modes, hidden_channels=hidden_channels, n_layers=n_layers,
        local_integrals=local_integrals, differences=differences, radius=radius,
        coordinates=coordinates,
    )  # fmt: skip
    model.resolved_options = {"n_modes": modes}
    return model
