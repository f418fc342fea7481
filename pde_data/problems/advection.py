"""Linear advection with constant velocity, periodic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.grids import Grid
from solvers.spectral import Fourier

from ..fields import RandomWaves, SpaceFunction
from ..hdf5.schema import FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, at_most
from ._periodic import InitialParameters, PeriodicEvolution, PeriodicParameters

__all__ = ["Advection", "AdvectionParameters"]


class AdvectionParameters(InitialParameters):
    """Parameters of `Advection`."""

    velocity: tuple[float, ...] = Field(
        (1.0,), min_length=1, max_length=3, description="constant velocity, one entry an axis"
    )
    length: float = Field(1.0, gt=0, le=1e6, description="side of the periodic box")
    t_end: float = Field(2.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        21, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    initial: Literal["gaussian", "waves"] = Field(
        "waves",
        description="waves: a sum of n_waves random sine waves, as in PDEBench; gaussian: "
        "N(0, sigma^2 (-Laplacian + tau^2)^(-alpha))",
    )

    @model_validator(mode="after")
    def _check(self) -> AdvectionParameters:
        if not np.all(np.isfinite(self.velocity)):
            raise ValueError(f"velocity={self.velocity}: need finite numbers")
        return self


@register
class Advection(PeriodicEvolution):
    """``u_t + beta . grad(u) = 0`` on a periodic box in 1-D to 3-D; all quantities dimensionless.

    The dimension is the number of entries of `velocity`. Each Fourier mode is advanced exactly,
    so the answer is ``u0(x - beta t)`` to rounding if the grid carries all modes of `u0`.

    Parameters
    ----------
    **params
        Fields of `AdvectionParameters`.

    Notes
    -----
    The default inputs are those of PDEBench [1]_ (two sine waves, wave numbers 1 to 8), without the
    absolute value and window that PDEBench applies to a tenth of them.

    References
    ----------
    .. [1] Takamoto et al., "PDEBench", NeurIPS 2022, arXiv:2210.07182, appendix D.1.
    """

    name: ClassVar[str] = "advection"
    title: ClassVar[str] = "Linear advection, periodic"
    equation: ClassVar[str] = r"\partial_t u + \beta\cdot\nabla u = 0"
    reference: ClassVar[str] = "PDEBench, arXiv:2210.07182"
    default_resolution = 128
    quick_resolution: ClassVar[int] = 32
    Params: ClassVar[type[PeriodicParameters]] = AdvectionParameters
    params: AdvectionParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.dim = len(self.params.velocity)
        self.field = self.fields_of()

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial values `u0`."""
        return (FieldSpec("u0", "initial value"),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Transported quantity `u`."""
        return (FieldSpec("u", "transported quantity", time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Velocity."""
        return tuple(
            ScalarSpec(f"velocity_{a}", f"velocity along {a}", "1", b)
            for a, b in zip("xyz", self.params.velocity, strict=False)
        )

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial value."""
        return {"u0": self.field.draw(rng)}

    def linear(self, space: Fourier) -> np.ndarray:
        """``-i beta . k``."""
        parts = [b * k for b, k in zip(self.params.velocity, space.k, strict=True)]
        return -1j * sum(parts, np.zeros(space.shape))

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """Nothing."""
        return lambda v, t: np.zeros_like(v)

    def initial(self, inputs: Mapping[str, SpaceFunction], grid: Grid) -> np.ndarray:
        """Values of `u0`."""
        return inputs["u0"](grid)

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`u0` and `u`."""
        return {"u0": x[0], "u": x}

    def checks(self) -> Iterable[Check]:
        """Compare with ``u0(x - beta t)``, at a speed and at times that fit no grid."""
        for beta in ((0.37,), (1.0, -0.6), (0.5, 0.2, -0.9)):
            problem = Advection(velocity=beta, t_end=1.3, n_times=4, length=2.0)
            u0 = RandomWaves(4, 3, bounds=problem.bounds()).draw(np.random.default_rng(3))
            grid = problem.grid((16,) * len(beta))
            r = problem.run(u0(grid), grid, problem.times)
            x = grid.meshgrid()
            worst = 0.0
            for t, u in zip(problem.times, r.x, strict=True):
                moved = tuple(c - b * t for c, b in zip(x, beta, strict=True))
                worst = max(worst, float(np.abs(u - u0.at(moved)).max()))
            yield at_most(f"u0(x - beta t) in {len(beta)}-D, largest error", worst, 1e-11)
