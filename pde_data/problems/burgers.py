"""Viscous Burgers' equation in one and two dimensions, periodic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from solvers.grids import Axis, Grid
from solvers.result import SolverDidNotConverge
from solvers.spectral import Fourier

from ..fields import SpaceFunction
from ..hdf5.schema import FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, at_most, order_check
from ._periodic import InitialParameters, PeriodicEvolution, PeriodicParameters

__all__ = ["Burgers", "Burgers2D", "Burgers2DParameters", "BurgersParameters"]


class BurgersParameters(InitialParameters):
    """Parameters of `Burgers`."""

    viscosity: float = Field(
        0.1,
        ge=1e-5,
        le=10,
        description="nu; a shock is some 4 nu / jump wide, and samples whose grid does not resolve "
        "it are refused (max_tail)",
    )
    length: float = Field(1.0, gt=0, le=1e6, description="length of the periodic interval")


@register
class Burgers(PeriodicEvolution):
    """``u_t + (u^2/2)_x = nu u_xx``, periodic; all quantities dimensionless.

    Parameters
    ----------
    **params
        Fields of `BurgersParameters`.

    Notes
    -----
    The defaults are the set-up of the FNO paper [1]_: ``u0 ~ N(0, 625 (-Laplacian + 25)^(-2))`` on
    the unit interval, ``nu = 0.1``, the map from ``u0`` to ``u(1)``; here with the times between,
    and with 64 wave numbers. ``initial=waves`` with ``t_end=2`` gives PDEBench's [2]_, which writes
    the diffusion as ``nu/pi``: its ``nu = 0.01`` is ``viscosity=0.00318`` here (about 1024 points).

    References
    ----------
    .. [1] Li et al., "Fourier neural operator for parametric partial differential equations",
       ICLR 2021, arXiv:2010.08895, section 5.1.
    .. [2] Takamoto et al., "PDEBench", NeurIPS 2022, arXiv:2210.07182, appendix D.2.
    """

    name: ClassVar[str] = "burgers"
    title: ClassVar[str] = "Viscous Burgers' equation, periodic"
    equation: ClassVar[str] = r"\partial_t u + \partial_x(u^2/2) = \nu\,\partial_{xx} u"
    reference: ClassVar[str] = "FNO, arXiv:2010.08895, section 5.1"
    dim = 1
    default_resolution = 128
    quick_resolution: ClassVar[int] = 64
    quick_params: ClassVar[Mapping[str, Any]] = {"n_modes": 16}
    Params: ClassVar[type[PeriodicParameters]] = BurgersParameters
    params: BurgersParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.field = self.fields_of()

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial velocity `u0`."""
        return (FieldSpec("u0", "initial velocity"),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Velocity `u`."""
        return (FieldSpec("u", "velocity", time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Viscosity."""
        return (ScalarSpec("viscosity", "viscosity", "1", self.params.viscosity),)

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial velocity."""
        return {"u0": self.field.draw(rng)}

    def linear(self, space: Fourier) -> np.ndarray:
        """``-nu k^2``."""
        return -self.params.viscosity * space.k2

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``-(u^2/2)_x``."""
        factor = -0.5j * space.k[0]

        def flux(v: np.ndarray, t: float) -> np.ndarray:
            u = space.evaluate(v)
            u *= u
            return factor * space.project(u)

        return flux

    def initial(self, inputs: Mapping[str, SpaceFunction], grid: Grid) -> np.ndarray:
        """Values of `u0`."""
        return inputs["u0"](grid)

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`u0` and `u`."""
        return {"u0": x[0], "u": x}

    def checks(self) -> Iterable[Check]:
        """Compare with Cole-Hopf; orders in time and space; refusal of what is too sharp."""
        problem = Burgers(viscosity=0.05)
        errors = []
        for n in (16, 32, 64, 128):
            grid = problem.grid((n,))
            r = problem.run(cole_hopf(grid, 0.0, 0.05), grid, [0.0, 0.5, 1.0], rtol=1e-11)
            truth = cole_hopf(grid, 1.0, 0.05)
            errors.append(float(np.linalg.norm(r.x[-1] - truth) / np.linalg.norm(truth)))
        yield at_most("Cole-Hopf at t = 1, relative L2 error", errors[-1], 1e-8)
        yield order_check("order in space", [1 / 16, 1 / 32, 1 / 64, 1 / 128], errors, np.inf)
        grid = problem.grid((64,))
        yield problem.time_order(cole_hopf(grid, 0.0, 0.05), grid, 0.5, (40, 80, 160))
        sharp = Burgers(viscosity=1e-4, t_end=0.5, n_times=3)
        refused = 0.0
        try:
            sharp.solve(sharp.sample(np.random.default_rng(0)), (64,), solver="spectral")
        except SolverDidNotConverge:
            refused = 1.0
        yield Check(
            "64 points with nu = 1e-4 are refused", refused, "= 1", refused == 1.0, "bounds"
        )


def cole_hopf(grid: Grid, t: float, nu: float) -> np.ndarray:
    """Return the exact ``u = -2 nu phi_x / phi`` of period 1, where ``phi_t = nu phi_xx``."""
    x = 2 * np.pi * (grid.axes[0].coords - grid.axes[0].lower)
    waves = ((1, 0.6, 0.4), (2, 0.25, 1.3), (3, 0.1, 2.5))
    phi, slope = np.ones_like(x), np.zeros_like(x)
    for n, a, shift in waves:
        decay = a * np.exp(-nu * (2 * np.pi * n) ** 2 * t)
        phi += decay * np.cos(n * x + shift)
        slope -= 2 * np.pi * n * decay * np.sin(n * x + shift)
    return -2 * nu * slope / phi


class Burgers2DParameters(InitialParameters):
    """Parameters of `Burgers2D`."""

    viscosity: float = Field(0.01, ge=1e-5, le=10, description="nu")
    length: float = Field(1.0, gt=0, le=1e6, description="side of the periodic square")
    alpha: float = Field(3.0, gt=1, le=20, description="smoothness of the Gaussian field")
    std: float | None = Field(
        1.0, gt=0, le=1e6, description="standard deviation of the Gaussian field, instead of sigma"
    )
    n_modes: int = Field(32, ge=2, le=4096, description="wave numbers an axis of the Gaussian")


@register
class Burgers2D(PeriodicEvolution):
    """``u_t + (u . grad) u = nu laplace(u)``, `u` a vector, periodic; all dimensionless.

    Both components of the initial velocity are drawn independently.

    Parameters
    ----------
    **params
        Fields of `Burgers2DParameters`.
    """

    name: ClassVar[str] = "burgers_2d"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "Two-dimensional Burgers' equation, periodic"
    equation: ClassVar[str] = r"\partial_t u + (u\cdot\nabla)u = \nu\,\Delta u"
    reference: ClassVar[str] = "Fletcher, Int. J. Numer. Meth. Fluids 3 (1983) 213-216 (Cole-Hopf)"
    dim = 2
    default_resolution = 64
    quick_resolution: ClassVar[int] = 24
    quick_params: ClassVar[Mapping[str, Any]] = {
        "n_modes": 5, "viscosity": 0.05, "t_end": 0.2, "n_times": 3,
    }  # fmt: skip
    Params: ClassVar[type[PeriodicParameters]] = Burgers2DParameters
    params: Burgers2DParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.field = self.fields_of()

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial velocity `u0`."""
        return (FieldSpec("u0", "initial velocity", rank=1),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Velocity `u`."""
        return (FieldSpec("u", "velocity", rank=1, time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Viscosity."""
        return (ScalarSpec("viscosity", "viscosity", "1", self.params.viscosity),)

    def sample(self, rng: np.random.Generator) -> tuple[SpaceFunction, SpaceFunction]:
        """Draw the components of the initial velocity."""
        return self.field.draw(rng), self.field.draw(rng)

    def linear(self, space: Fourier) -> np.ndarray:
        """``-nu k^2``."""
        return -self.params.viscosity * space.k2

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``-(u . grad) u = -grad(|u|^2 / 2) + (u_y, -u_x) curl(u)``: six transforms."""
        gradient = -1j * np.stack([np.broadcast_to(k, space.shape) for k in space.k])

        def transport(v: np.ndarray, t: float) -> np.ndarray:
            curl = space.derivative(v[1], 0) - space.derivative(v[0], 1)
            w = space.evaluate(np.concatenate([v, curl[None]]))
            products = np.empty_like(w)
            np.multiply(w[1], w[2], out=products[0])
            np.multiply(w[0], -w[2], out=products[1])
            products[2] = 0.5 * (w[0] ** 2 + w[1] ** 2)
            c = space.project(products)
            out: np.ndarray = gradient * c[2]
            out += c[:2]
            return out

        return transport

    def initial(self, inputs: tuple[SpaceFunction, ...], grid: Grid) -> np.ndarray:
        """Values of the components."""
        return np.stack([f(grid) for f in inputs])

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`u0` and `u`, components last."""
        u = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        return {"u0": u[0], "u": u}

    def checks(self) -> Iterable[Check]:
        """Compare with Cole-Hopf in two dimensions; orders in time and space."""
        problem = Burgers2D(viscosity=0.05)
        errors = []
        for n in (8, 16, 32):
            grid = problem.grid((n, n))
            r = problem.run(cole_hopf_2d(grid, 0.0, 0.05), grid, [0.0, 0.4], rtol=1e-10)
            truth = cole_hopf_2d(grid, 0.4, 0.05)
            errors.append(float(np.linalg.norm(r.x[-1] - truth) / np.linalg.norm(truth)))
        yield at_most("Cole-Hopf at t = 0.4, relative L2 error", errors[-1], 1e-8)
        yield order_check("order in space", [1 / 8, 1 / 16, 1 / 32], errors, np.inf)
        grid = Grid((Axis("x", 24, periodic=True), Axis("y", 24, periodic=True)))
        yield problem.time_order(cole_hopf_2d(grid, 0.0, 0.05), grid, 0.4, (16, 32, 64))


def cole_hopf_2d(grid: Grid, t: float, nu: float) -> np.ndarray:
    """Exact potential flow ``u = -2 nu grad(phi) / phi`` on the unit square, shape (2, n, n)."""
    x = [2 * np.pi * c for c in grid.meshgrid()]
    phi, slopes = np.ones_like(x[0]), np.zeros((2, *x[0].shape))
    for n, a, shift in (((1, 0), 0.3, 0.4), ((1, 2), 0.15, 1.3), ((-1, 1), 0.25, 2.5)):
        decay = a * np.exp(-nu * 4 * np.pi**2 * (n[0] ** 2 + n[1] ** 2) * t)
        angle = n[0] * x[0] + n[1] * x[1] + shift
        phi += decay * np.cos(angle)
        for d in range(2):
            slopes[d] -= 2 * np.pi * n[d] * decay * np.sin(angle)
    return -2 * nu * slopes / phi
