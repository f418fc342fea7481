"""Two-dimensional incompressible Navier-Stokes equations in vorticity form, periodic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.grids import Grid
from solvers.spectral import Fourier

from ..fields import GaussianField, SpaceFunction
from ..hdf5.schema import FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, at_most, order_check
from ._periodic import PeriodicEvolution, PeriodicParameters

__all__ = ["NavierStokes", "NavierStokesParameters"]


class NavierStokesParameters(PeriodicParameters):
    """Parameters of `NavierStokes`."""

    viscosity: float = Field(
        1e-3,
        ge=1e-6,
        le=1,
        description="nu; 1e-4 needs about 128 points an axis (or oversample=2 on 64), 1e-5 256",
    )
    length: float = Field(1.0, gt=0, le=1e6, description="side of the periodic square")
    forcing: Literal["fno", "none", "kolmogorov"] = Field(
        "fno",
        description="fno: A (sin(q (x + y)) + cos(q (x + y))), q = 2 pi n/length, with n=1; "
        "kolmogorov: A cos(q y); none: decaying",
    )
    forcing_amplitude: float | None = Field(
        None, gt=0, le=1e4, description="A; default 0.1 for fno, 1 for kolmogorov"
    )
    forcing_wave_number: int | None = Field(
        None, ge=1, le=1000, description="n; default 1 for fno, 4 for kolmogorov"
    )
    drag: float = Field(0.0, ge=0, le=100, description="linear friction, -drag * w")
    t_end: float = Field(50.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        51, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    horizon: float | None = Field(
        None,
        gt=0,
        description="errors count up to this time, default t_end; for long turbulent runs, whose "
        "trajectories no arithmetic follows",
    )
    alpha: float = Field(2.5, gt=1, le=20, description="smoothness of the initial vorticity")
    tau: float = Field(7.0, gt=0, le=1e4, description="inverse correlation length, 1/length")
    sigma: float = Field(
        math.sqrt(2.0) * 7.0**1.5,
        gt=0,
        le=1e6,
        description="amplitude: w0 ~ N(0, sigma^2 (-Laplacian + tau^2)^(-alpha)) of mean zero",
    )
    n_modes: int = Field(32, ge=2, le=4096, description="wave numbers an axis of the field")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        kind = values.get("forcing", "fno") if isinstance(values, Mapping) else None
        defaults = {"fno": (0.1, 1), "kolmogorov": (1.0, 4), "none": (None, None)}
        if not isinstance(kind, str) or kind not in defaults:
            return values  # the field's own check names it
        names = ("forcing_amplitude", "forcing_wave_number")
        if kind == "none":
            for name in names:
                if values.get(name) is not None:
                    raise ValueError(f"{name}={values[name]} has no effect with forcing='none'")
            return values
        fill = dict(zip(names, defaults[kind], strict=True))
        return {**values, **{k: v for k, v in fill.items() if values.get(k) is None}}


@register
class NavierStokes(PeriodicEvolution):
    """``w_t + u . grad(w) = nu laplace(w) - drag w + f`` on a periodic square; dimensionless.

    Vorticity ``w = dv/dx - du/dy`` of the velocity ``(u, v)`` with divergence and mean zero.

    Parameters
    ----------
    **params
        Fields of `NavierStokesParameters`.

    Notes
    -----
    The defaults are the set-up of the FNO paper [1]_ with ``nu = 1e-3`` and ``T = 50`` on 64 x 64
    points. Its text says ``N(0, 7^(3/2) (-Laplacian + 49)^(-2.5))``; the code that made its data
    takes ``7^(3/2)`` as amplitude, not variance, draws sine and cosine for each wave vector and
    for its negative, which doubles the variance, and leaves out the mean. `sigma` here follows the
    code. The field has `n_modes` wave numbers whatever the resolution. The paper's data were
    computed on 256 x 256 points with steps of 1e-4 of first order; these with a time error below
    `time_rtol`.

    *Errors.* `time_error` and `discretization_error` are distances of trajectories. At
    ``nu = 1e-3`` the flow is laminar and they are small. With ``nu <= 1e-4`` it is turbulent: small
    scales that 64 x 64 points lack change the trajectory, and the estimate says how much; samples
    whose outermost modes hold more than `max_tail` are refused. `oversample=4` computes 64 x 64
    points on 256 x 256.

    References
    ----------
    .. [1] Li et al., "Fourier neural operator for parametric partial differential equations",
       ICLR 2021, arXiv:2010.08895, section 5.3 and appendix A.3.3.
    .. [2] Basdevant, J. Comput. Phys. 50 (1983) 209-214: four transforms an evaluation.
    """

    name: ClassVar[str] = "navier_stokes"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "Navier-Stokes equations, vorticity, periodic"
    equation: ClassVar[str] = (
        r"\partial_t w + u\cdot\nabla w = \nu\,\Delta w - \mu\,w + f,\quad "
        r"\nabla\times u = w,\quad \nabla\cdot u = 0"
    )
    reference: ClassVar[str] = "FNO, arXiv:2010.08895, section 5.3"
    dim = 2
    default_resolution = 64
    quick_resolution: ClassVar[int] = 32
    quick_params: ClassVar[Mapping[str, Any]] = {"t_end": 1.0, "n_times": 3, "n_modes": 8}
    Params: ClassVar[type[PeriodicParameters]] = NavierStokesParameters
    params: NavierStokesParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.field = GaussianField(
            p.alpha, p.tau, p.sigma, basis="fourier", n_modes=p.n_modes, bounds=self.bounds(),
            zero_mean=True,
        )  # fmt: skip

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial vorticity `w0`."""
        return (FieldSpec("w0", "initial vorticity"),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Vorticity `w`."""
        return (FieldSpec("w", "vorticity", time_varying=True),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Viscosity and drag."""
        return (
            ScalarSpec("viscosity", "kinematic viscosity", "1", self.params.viscosity),
            ScalarSpec("drag", "linear friction", "1", self.params.drag),
        )

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial vorticity."""
        return {"w0": self.field.draw(rng)}

    def source(self, grid: Grid) -> np.ndarray:
        """Values of the forcing `f` of the vorticity."""
        p = self.params
        if p.forcing_amplitude is None or p.forcing_wave_number is None:
            return np.zeros(grid.shape)
        x, y = grid.meshgrid()
        q = 2 * np.pi * p.forcing_wave_number / p.length
        if p.forcing == "kolmogorov":
            return p.forcing_amplitude * np.cos(q * y)
        return p.forcing_amplitude * (np.sin(q * (x + y)) + np.cos(q * (x + y)))

    def linear(self, space: Fourier) -> np.ndarray:
        """``-nu k^2 - drag``."""
        return -self.params.viscosity * space.k2 - self.params.drag

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``f - u . grad(w)``, as ``f + (d_yy - d_xx)(u v) + d_xy (u^2 - v^2)``."""
        kx, ky = space.k
        inverse = -1j * space.inverse_laplacian(np.ones(space.shape))
        to_velocity = np.stack([ky * inverse, -kx * inverse])
        stress = np.stack([kx**2 - ky**2, -kx * ky])
        f = space.coefficients(self.source(space.grid))

        def terms(w: np.ndarray, t: float) -> np.ndarray:
            u, v = space.evaluate(to_velocity * w)
            products = np.empty((2, *u.shape))
            np.multiply(u, v, out=products[0])
            np.multiply(u + v, u - v, out=products[1])
            tau = space.project(products)
            tau *= stress
            out: np.ndarray = tau[0] + tau[1]
            out += f
            return out

        return terms

    def initial(self, inputs: Mapping[str, SpaceFunction], grid: Grid) -> np.ndarray:
        """Values of `w0`."""
        return inputs["w0"](grid)

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`w0` and `w`."""
        return {"w0": x[0], "w": x}

    def checks(self) -> Iterable[Check]:
        """Compare Taylor-Green and a manufactured flow, the balances, orders in time and space."""
        problem = NavierStokes(forcing="none", viscosity=0.01, drag=0.05)
        grid = problem.grid((32, 32))
        x, y = (2 * np.pi * c for c in grid.meshgrid())
        vortices = np.cos(x) * np.cos(y)
        r = problem.run(vortices, grid, [0.0, 1.0, 2.0], rtol=1e-9)
        truth = vortices * np.exp(-(0.01 * 8 * np.pi**2 + 0.05) * 2.0)
        error = float(np.linalg.norm(r.x[-1] - truth) / np.linalg.norm(truth))
        yield at_most("Taylor-Green vortices decay, relative L2 error", error, 1e-10)
        yield self._manufactured()
        yield self._balance()
        problem = NavierStokes(n_modes=6)
        inputs = problem.sample(np.random.default_rng(0))
        grid = problem.grid((32, 32))
        yield problem.time_order(problem.initial(inputs, grid), grid, 2.0, (8, 16, 32))
        problem = NavierStokes(n_modes=4, viscosity=0.01)
        truth, errors = np.zeros(()), []
        for n in (128, 16, 32, 64):
            grid = problem.grid((n, n))
            w = problem.run(problem.initial(inputs, grid), grid, [0.0, 1.0], rtol=1e-10).x[-1]
            w = w[:: n // 16, :: n // 16]
            if n == 128:
                truth = w
            else:
                errors.append(float(np.linalg.norm(w - truth) / np.linalg.norm(truth)))
        yield order_check("order in space", [1 / 16, 1 / 32, 1 / 64], errors, math.inf)

    def _manufactured(self) -> Check:
        """Two waves whose product drives the flow: the terms derived by hand."""
        problem = NavierStokes(forcing="none", viscosity=0.005)
        grid = problem.grid((32, 32))
        q = 2 * np.pi
        x, y = (q * c for c in grid.meshgrid())

        def exact(t: float) -> np.ndarray:
            # psi = sin(x)/q^2 + c cos(x + 2y)/(5 q^2), w = -laplace(psi)
            return np.sin(x) + np.cos(t) * np.cos(x + 2 * y)

        def forcing(t: float) -> np.ndarray:
            c = np.cos(t)
            u = -c * 2 * np.sin(x + 2 * y) / (5 * q)  # d psi/dy
            v = -(np.cos(x) - c * np.sin(x + 2 * y) / 5) / q  # -d psi/dx
            w_x = q * (np.cos(x) - c * np.sin(x + 2 * y))
            w_y = -2 * q * c * np.sin(x + 2 * y)
            diffusion = -(q**2) * (np.sin(x) + 5 * c * np.cos(x + 2 * y))
            return -np.sin(t) * np.cos(x + 2 * y) + u * w_x + v * w_y - 0.005 * diffusion

        return problem.manufactured(exact, forcing, grid, 1.0)

    def _balance(self) -> Check:
        """Energy and enstrophy change by what forcing, viscosity and drag put in and take out."""
        problem = NavierStokes(forcing="kolmogorov", drag=0.1, n_modes=8, viscosity=2e-3)
        grid = problem.grid((48, 48))
        space = Fourier(grid)
        times = np.linspace(0.0, 1.0, 201)
        r = problem.run(
            problem.initial(problem.sample(np.random.default_rng(0)), grid), grid, times, rtol=1e-9
        )
        v = space.coefficients(r.x)
        f = space.coefficients(problem.source(grid))
        p, worst = problem.params, 0.0
        for weight in (-space.inverse_laplacian(np.ones(space.shape)), np.ones(space.shape)):
            size = 0.5 * space.inner(weight * v, v)  # energy, then enstrophy
            loss = p.viscosity * space.inner(weight * space.k2 * v, v) + 2 * p.drag * size
            rate = space.inner(weight * v, np.broadcast_to(f, v.shape)) - loss
            # Simpson's rule over the stored times
            h = times[1]
            integral = h / 3 * (rate[0] + rate[-1] + 4 * rate[1::2].sum() + 2 * rate[2:-1:2].sum())
            worst = max(worst, abs(float(size[-1] - size[0] - integral)) / float(size[0]))
        return at_most(
            "balance of energy and of enstrophy, relative error", worst, 1e-7, kind="invariant"
        )
