"""Allen-Cahn and Cahn-Hilliard equations, periodic: phases that separate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from solvers.grids import Grid
from solvers.spectral import Fourier

from ..fields import GaussianField, SpaceFunction, TransformedField, bounded
from ..hdf5.schema import FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, at_most
from ._periodic import PeriodicEvolution, PeriodicParameters

__all__ = ["AllenCahn", "AllenCahnParameters", "CahnHilliard", "CahnHilliardParameters"]


class _PhaseParameters(PeriodicParameters):
    """Parameters that both equations have."""

    dim: Literal[1, 2, 3] = Field(2, description="space dimensions")
    length: float = Field(1.0, gt=0, le=1e6, description="side of the periodic box")
    alpha: float = Field(3.0, gt=0.5, le=20, description="smoothness of the Gaussian field")
    n_modes: int = Field(16, ge=2, le=4096, description="wave numbers an axis of the Gaussian")


class AllenCahnParameters(_PhaseParameters):
    """Parameters of `AllenCahn`."""

    epsilon: float = Field(
        0.03,
        gt=0,
        le=10,
        description="width of interfaces over 2.8, unit of length; needs a grid spacing of about "
        "half of it or less",
    )
    t_end: float = Field(10.0, gt=0, allow_inf_nan=False, description="last stored time")
    tau: float = Field(10.0, gt=0, le=1e4, description="inverse correlation length, 1/length")
    bound: float = Field(
        0.9, gt=0, le=1, description="u0 = bound * tanh(Gaussian field of standard deviation 1)"
    )


class CahnHilliardParameters(_PhaseParameters):
    """Parameters of `CahnHilliard`."""

    epsilon: float = Field(
        0.04,
        gt=0,
        le=10,
        description="width of interfaces over 2.8, unit of length; needs a grid spacing of about "
        "half of it or less",
    )
    t_end: float = Field(0.1, gt=0, allow_inf_nan=False, description="last stored time")
    tau: float = Field(20.0, gt=0, le=1e4, description="inverse correlation length, 1/length")
    mean: float = Field(
        0.0, ge=-0.9, le=0.9, description="mean composition, conserved; separates within +-0.577"
    )
    std: float = Field(
        0.1, gt=0, le=0.5, description="standard deviation of the initial composition"
    )


class _PhaseField(PeriodicEvolution):
    """What both equations share: one field, and the free energy that they lower."""

    degree: ClassVar[int] = 3
    default_resolution = 64
    params: Any

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.dim = int(self.params.dim)
        p = self.params
        self.field = self.distribution(
            GaussianField(
                p.alpha, p.tau, basis="fourier", n_modes=p.n_modes, bounds=self.bounds(),
                zero_mean=True,
            )
        )  # fmt: skip

    @abstractmethod
    def distribution(self, field: GaussianField) -> GaussianField:
        """Scale the Gaussian field."""

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial order parameter `u0`."""
        return (FieldSpec("u0", "initial order parameter"),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Order parameter `u`, near -1 and 1 in the phases."""
        return (FieldSpec("u", "order parameter", time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Width of interfaces."""
        return (ScalarSpec("epsilon", "interface parameter", "1", self.params.epsilon),)

    def initial(self, inputs: Mapping[str, SpaceFunction], grid: Grid) -> np.ndarray:
        """Values of `u0`."""
        return inputs["u0"](grid)

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`u0` and `u`."""
        return {"u0": x[0], "u": x}

    def energy(self, u: np.ndarray, grid: Grid) -> float:
        """Mean of ``epsilon^2 |grad u|^2 / 2 + (u^2 - 1)^2 / 4`` over the box."""
        space = Fourier(grid, degree=4)
        v = space.coefficients(u)
        slope = float(space.inner(space.k2 * v, v))
        well = 0.25 * float(np.mean((space.evaluate(v) ** 2 - 1) ** 2))
        return 0.5 * self.params.epsilon**2 * slope + well


def _energy_rise(problem: _PhaseField, x: np.ndarray, grid: Grid) -> float:
    """Largest rise of the energy from one stored time to the next, relative to the first."""
    energy = np.array([problem.energy(u, grid) for u in x])
    return float(max(np.diff(energy).max(), 0.0) / energy[0])


@register
class AllenCahn(_PhaseField):
    """``u_t = eps^2 laplace(u) + u - u^3`` on a periodic box in 1-D to 3-D; dimensionless.

    ``|u| <= 1`` is kept, and the energy ``int eps^2 |grad u|^2/2 + (u^2 - 1)^2/4`` falls.

    Parameters
    ----------
    **params
        Fields of `AllenCahnParameters`.
    """

    name: ClassVar[str] = "allen_cahn"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "Allen-Cahn equation, periodic"
    equation: ClassVar[str] = r"\partial_t u = \epsilon^2\Delta u + u - u^3"
    reference: ClassVar[str] = "Allen & Cahn, Acta Metall. 27 (1979) 1085-1095"
    quick_resolution: ClassVar[int] = 24
    quick_params: ClassVar[Mapping[str, Any]] = {
        "t_end": 1.0, "n_times": 3, "epsilon": 0.1, "n_modes": 4,
    }  # fmt: skip
    Params: ClassVar[type[PeriodicParameters]] = AllenCahnParameters

    def distribution(self, field: GaussianField) -> GaussianField:
        """Scale to standard deviation 1."""
        return field.normalized(1.0)

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial order parameter."""
        b = self.params.bound
        return {"u0": bounded(self.field.draw(rng), -b, b)}

    def linear(self, space: Fourier) -> np.ndarray:
        """``-eps^2 k^2``."""
        return -(self.params.epsilon**2) * space.k2

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``u - u^3``."""
        return lambda v, t: v - space.project(space.evaluate(v) ** 3)

    def checks(self) -> Iterable[Check]:
        """Compare a manufactured and a uniform solution; order in time; bounds and energy."""
        problem = AllenCahn(epsilon=0.1)
        grid = problem.grid((32, 32))
        k = 2 * np.pi
        x, y = grid.meshgrid()

        def exact(t: float) -> np.ndarray:
            return np.cos(t) * np.sin(k * x) * np.sin(k * y)

        def forcing(t: float) -> np.ndarray:
            u, rate = exact(t), -np.sin(t) * np.sin(k * x) * np.sin(k * y)
            return rate + 0.01 * 2 * k**2 * u - u + u**3

        yield problem.manufactured(exact, forcing, grid, 1.0)
        r = problem.run(np.full(grid.shape, 0.1), grid, [0.0, 3.0], rtol=1e-9)
        truth = 0.1 * np.exp(3.0) / np.sqrt(1 + 0.01 * (np.exp(6.0) - 1))
        yield at_most("uniform state, largest error", float(np.abs(r.x[-1] - truth).max()), 1e-8)
        line = AllenCahn(epsilon=0.1, dim=1).grid((32,))
        u0 = 0.5 * np.sin(k * line.axes[0].coords) + 0.3 * np.cos(2 * k * line.axes[0].coords)
        yield AllenCahn(epsilon=0.1, dim=1).time_order(u0, line, 1.0, (16, 32, 64))
        problem = AllenCahn(t_end=4.0, n_times=9)
        grid = problem.grid((64, 64))
        x = problem.run(problem.initial(problem.sample(np.random.default_rng(1)), grid), grid,
                        problem.times).x  # fmt: skip
        yield at_most(
            "largest |u|", float(np.abs(x).max()), 1.0 + 1e-4, kind="bounds",
            note="1 in the continuum; the interpolant may exceed it by the discretization error",
        )  # fmt: skip
        yield at_most("energy never rises", _energy_rise(problem, x, grid), 1e-10, kind="invariant")


@register
class CahnHilliard(_PhaseField):
    """``u_t = laplace(u^3 - u - eps^2 laplace(u))``, periodic, in 1-D to 3-D; dimensionless.

    The mean of `u` is conserved, and the energy ``int eps^2 |grad u|^2/2 + (u^2 - 1)^2/4`` falls.
    Mobility 1; the fastest growing wave has ``k = 1/(sqrt(2) eps)`` and rate ``1/(4 eps^2)``.

    Parameters
    ----------
    **params
        Fields of `CahnHilliardParameters`.
    """

    name: ClassVar[str] = "cahn_hilliard"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "Cahn-Hilliard equation, periodic"
    equation: ClassVar[str] = r"\partial_t u = \Delta(u^3 - u - \epsilon^2\Delta u)"
    reference: ClassVar[str] = "Cahn & Hilliard, J. Chem. Phys. 28 (1958) 258-267"
    quick_resolution: ClassVar[int] = 32
    quick_params: ClassVar[Mapping[str, Any]] = {
        "dim": 1, "t_end": 0.05, "n_times": 4, "epsilon": 0.08, "n_modes": 6,
    }  # fmt: skip
    Params: ClassVar[type[PeriodicParameters]] = CahnHilliardParameters

    def distribution(self, field: GaussianField) -> GaussianField:
        """Scale to standard deviation `std`."""
        return field.normalized(self.params.std)

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial composition."""
        mean = self.params.mean
        return {"u0": TransformedField(self.field.draw(rng), lambda x: mean + x)}

    def linear(self, space: Fourier) -> np.ndarray:
        """``-eps^2 k^4``; the other linear term stands with the cubic one, which it balances."""
        return -(self.params.epsilon**2) * space.k2**2

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``laplace(u^3 - u)``."""
        return lambda v, t: space.k2 * (v - space.project(space.evaluate(v) ** 3))

    def checks(self) -> Iterable[Check]:
        """Compare a manufactured solution; order in time; mass and energy."""
        problem = CahnHilliard(epsilon=0.1, dim=1)
        grid = problem.grid((24,))
        k = 2 * np.pi
        c = np.cos(k * grid.axes[0].coords)

        def forcing(t: float) -> np.ndarray:
            a = np.cos(t)
            # laplace(u^3) of u = a cos(kx): u^3 = a^3 (3 cos(kx) + cos(3kx)) / 4
            cubic = -(a**3) * k**2 * (3 * c + 9 * (4 * c**3 - 3 * c)) / 4
            return -np.sin(t) * c - (cubic + k**2 * a * c - 0.01 * k**4 * a * c)

        yield problem.manufactured(lambda t: np.cos(t) * c, forcing, grid, 0.2)
        # where steps resolve the stiffest mode; above, the order of all ETDRK4 falls to three
        line = CahnHilliard(epsilon=0.2, dim=1)
        u0 = 0.1 + 0.5 * np.sin(k * line.grid((16,)).axes[0].coords)
        yield line.time_order(u0, line.grid((16,)), 0.02, (40, 80, 160))
        problem = CahnHilliard(epsilon=0.08, t_end=0.05, n_times=6, mean=0.1, n_modes=6)
        grid = problem.grid((32, 32))
        u0 = problem.initial(problem.sample(np.random.default_rng(1)), grid)
        x = problem.run(u0, grid, problem.times).x
        drift = float(np.abs(x.mean(axis=(1, 2)) - x[0].mean()).max())
        yield at_most("mean conserved", drift, 1e-13, kind="invariant")
        yield at_most("energy never rises", _energy_rise(problem, x, grid), 1e-10, kind="invariant")
