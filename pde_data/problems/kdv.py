"""Korteweg-de Vries equation, periodic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from solvers.grids import Grid
from solvers.spectral import Fourier

from ..fields import SpaceFunction
from ..hdf5.schema import FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, at_most
from ._periodic import InitialParameters, PeriodicEvolution, PeriodicParameters

__all__ = ["KdV", "KdVParameters"]


class KdVParameters(InitialParameters):
    """Parameters of `KdV`."""

    dispersion: float = Field(1.0, gt=0, le=1e3, description="d in u_t + 6 u u_x + d u_xxx = 0")
    length: float = Field(32.0, gt=0, le=1e6, description="length of the periodic interval")
    t_end: float = Field(5.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        26, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    initial: Literal["gaussian", "waves"] = Field(
        "waves",
        description="waves: a sum of n_waves random sine waves; gaussian: "
        "N(0, sigma^2 (-Laplacian + tau^2)^(-alpha))",
    )
    n_waves: int = Field(3, ge=1, le=100, description="waves of initial=waves")
    max_wave_number: int = Field(
        3, ge=1, le=1000, description="largest wave number of initial=waves, per domain length"
    )
    alpha: float = Field(4.0, gt=0.5, le=20, description="smoothness of the Gaussian field")
    tau: float = Field(0.5, ge=0, le=1e4, description="inverse correlation length, 1/length")
    std: float | None = Field(
        0.5, gt=0, le=1e6, description="standard deviation of the Gaussian field, instead of sigma"
    )


@register
class KdV(PeriodicEvolution):
    """``u_t + 6 u u_x + d u_xxx = 0``, periodic; all quantities dimensionless.

    Integrable: waves break up into solitons. Mean and mean square of `u` are conserved.

    Parameters
    ----------
    **params
        Fields of `KdVParameters`.
    """

    name: ClassVar[str] = "kdv"
    title: ClassVar[str] = "Korteweg-de Vries equation, periodic"
    equation: ClassVar[str] = r"\partial_t u + 6\,u\,\partial_x u + d\,\partial_{xxx} u = 0"
    reference: ClassVar[str] = "Zabusky & Kruskal, Phys. Rev. Lett. 15 (1965) 240-243"
    dim = 1
    default_resolution = 128
    quick_resolution: ClassVar[int] = 64
    quick_params: ClassVar[Mapping[str, Any]] = {"t_end": 1.0, "n_times": 5, "amplitude": 0.5}
    Params: ClassVar[type[PeriodicParameters]] = KdVParameters
    params: KdVParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.field = self.fields_of()

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial elevation `u0`."""
        return (FieldSpec("u0", "initial elevation"),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Elevation `u`."""
        return (FieldSpec("u", "elevation", time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Dispersion."""
        return (ScalarSpec("dispersion", "coefficient of dispersion", "1", self.params.dispersion),)

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial elevation."""
        return {"u0": self.field.draw(rng)}

    def linear(self, space: Fourier) -> np.ndarray:
        """``i d k^3``."""
        return 1j * self.params.dispersion * space.k[0] ** 3

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``-3 (u^2)_x``."""
        factor = -3j * space.k[0]
        return lambda v, t: factor * space.project(space.evaluate(v) ** 2)

    def initial(self, inputs: Mapping[str, SpaceFunction], grid: Grid) -> np.ndarray:
        """Values of `u0`."""
        return inputs["u0"](grid)

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`u0` and `u`."""
        return {"u0": x[0], "u": x}

    def checks(self) -> Iterable[Check]:
        """Follow a soliton once around a domain so long that its tails are below rounding."""
        problem = KdV(length=40.0)
        c = 2.25

        def soliton(grid: Grid, t: float) -> np.ndarray:
            distance = (grid.axes[0].coords - 10.0 - c * t + 20.0) % 40.0 - 20.0
            return 0.5 * c / np.cosh(0.5 * np.sqrt(c) * distance) ** 2

        grid = problem.grid((160,))
        r = problem.run(soliton(grid, 0.0), grid, [0.0, 5.0, 10.0], rtol=1e-9)
        truth = soliton(grid, 10.0)
        error = np.linalg.norm(r.x[-1] - truth) / np.linalg.norm(truth)
        yield at_most("soliton at t = 10, relative L2 error", float(error), 1e-7)
        yield problem.time_order(soliton(grid, 0.0), grid, 1.0, (200, 400, 800))
        r = self.run(self.initial(self.sample(np.random.default_rng(1)), self.grid((128,))),
                     self.grid((128,)), [0.0, 1.0], rtol=1e-9)  # fmt: skip
        power = np.mean(r.x**2, axis=1)
        drift = abs(r.x[-1].mean() - r.x[0].mean()) / np.sqrt(power[0])
        yield at_most("mean conserved", float(drift), 1e-12, kind="invariant")
        yield at_most(
            "mean square conserved", float(abs(power[1] / power[0] - 1)), 1e-8, kind="invariant"
        )
