"""Kuramoto-Sivashinsky equation, periodic: chaos in one dimension."""

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
from ..verification import Check
from ._periodic import InitialParameters, PeriodicEvolution, PeriodicParameters

__all__ = ["KuramotoSivashinsky", "KuramotoSivashinskyParameters"]


class KuramotoSivashinskyParameters(InitialParameters):
    """Parameters of `KuramotoSivashinsky`."""

    hyperviscosity: float = Field(1.0, gt=0, le=1e3, description="h, coefficient of u_xxxx")
    length: float = Field(
        64.0, gt=0, le=1e5, description="length of the periodic interval; chaotic from about 18"
    )
    t_end: float = Field(50.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        51, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    horizon: float | None = Field(
        None,
        gt=0,
        description="errors count up to this time, default t_end; needed for t_end above some 200, "
        "where no arithmetic follows one trajectory",
    )
    initial: Literal["gaussian", "waves"] = Field(
        "waves",
        description="waves: a sum of n_waves random sine waves; gaussian: "
        "N(0, sigma^2 (-Laplacian + tau^2)^(-alpha)) without its mean",
    )
    n_waves: int = Field(10, ge=1, le=100, description="waves of initial=waves")
    max_wave_number: int = Field(
        8, ge=1, le=1000, description="largest wave number of initial=waves, per domain length"
    )
    alpha: float = Field(4.0, gt=0.5, le=20, description="smoothness of the Gaussian field")
    tau: float = Field(0.5, ge=0, le=1e4, description="inverse correlation length, 1/length")
    std: float | None = Field(
        1.0, gt=0, le=1e6, description="standard deviation of the Gaussian field, instead of sigma"
    )


@register
class KuramotoSivashinsky(PeriodicEvolution):
    """``u_t + u u_x + u_xx + h u_xxxx = 0``, periodic; all quantities dimensionless.

    Parameters
    ----------
    **params
        Fields of `KuramotoSivashinskyParameters`.

    Notes
    -----
    Chaotic: at length 64 nearby trajectories part as ``exp(0.09 t)``, so that the default 50 time
    units lose two digits, which `time_error` and `discretization_error` include: they are distances
    of trajectories. Beyond some 200 units errors of rounding have grown to one and a sample is
    right as a draw of the attractor only; `horizon` then says up to where the errors hold.

    References
    ----------
    .. [1] Kassam & Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214-1233; Cvitanovic, Davidchack &
       Siminos, SIAM J. Appl. Dyn. Syst. 9 (2010) 1-33.
    """

    name: ClassVar[str] = "kuramoto_sivashinsky"
    title: ClassVar[str] = "Kuramoto-Sivashinsky equation, periodic"
    equation: ClassVar[str] = (
        r"\partial_t u + u\,\partial_x u + \partial_{xx} u + h\,\partial_{xxxx} u = 0"
    )
    reference: ClassVar[str] = "Kassam & Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214"
    dim = 1
    default_resolution = 128
    quick_resolution: ClassVar[int] = 64
    quick_params: ClassVar[Mapping[str, Any]] = {
        "length": 32.0, "t_end": 5.0, "n_times": 6, "max_wave_number": 4,
    }  # fmt: skip
    Params: ClassVar[type[PeriodicParameters]] = KuramotoSivashinskyParameters
    params: KuramotoSivashinskyParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.field = self.fields_of(mean_free=True)

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial value `u0`."""
        return (FieldSpec("u0", "initial value"),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Slope of the front `u`."""
        return (FieldSpec("u", "slope of the flame front", time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Hyperviscosity."""
        value = self.params.hyperviscosity
        return (ScalarSpec("hyperviscosity", "coefficient of the fourth derivative", "1", value),)

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial value."""
        return {"u0": self.field.draw(rng)}

    def linear(self, space: Fourier) -> np.ndarray:
        """``k^2 - h k^4``."""
        return space.k2 - self.params.hyperviscosity * space.k2**2

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``-(u^2/2)_x``."""
        factor = -0.5j * space.k[0]
        return lambda v, t: factor * space.project(space.evaluate(v) ** 2)

    def initial(self, inputs: Mapping[str, SpaceFunction], grid: Grid) -> np.ndarray:
        """Values of `u0`."""
        return inputs["u0"](grid)

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`u0` and `u`."""
        return {"u0": x[0], "u": x}

    def checks(self) -> Iterable[Check]:
        """Compare with a manufactured travelling wave and a finer reference; order in time."""
        problem = KuramotoSivashinsky(length=2 * np.pi, hyperviscosity=0.5)
        grid = problem.grid((32,))
        x = grid.axes[0].coords
        # u = sin(x - t): u_t = -cos, u u_x = sin(2 .)/2, u_xx = -sin, h u_xxxx = h sin
        yield problem.manufactured(
            lambda t: np.sin(x - t),
            lambda t: -np.cos(x - t) + 0.5 * np.sin(2 * (x - t)) - 0.5 * np.sin(x - t),
            grid, 2.0,
        )  # fmt: skip
        problem = KuramotoSivashinsky(length=32.0, t_end=20.0, n_times=5, max_wave_number=4)
        inputs = problem.sample(np.random.default_rng(0))
        yield from problem.reference_error(inputs, 64, limit=1e-5)
        grid = problem.grid((32,))  # the stiffest mode within reach of the steps
        start = problem.run(problem.initial(inputs, grid), grid, [0.0, 10.0], rtol=1e-8).x[-1]
        yield problem.time_order(start, grid, 4.0, (160, 320, 640))
