"""Two species that react and diffuse, periodic: FitzHugh-Nagumo and Gray-Scott."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from solvers.grids import Grid
from solvers.spectral import Fourier

from ..fields import GaussianField, SpaceFunction, TransformedField
from ..hdf5.schema import FieldSpec, ScalarSpec
from ..problem import register
from ..verification import Check, at_most
from ._periodic import PeriodicEvolution, PeriodicParameters

__all__ = ["FitzHughNagumo", "FitzHughNagumoParameters", "GrayScott", "GrayScottParameters"]


class FitzHughNagumoParameters(PeriodicParameters):
    """Parameters of `FitzHughNagumo`."""

    dim: Literal[1, 2, 3] = Field(2, description="space dimensions")
    length: float = Field(2.0, gt=0, le=1e6, description="side of the periodic box")
    diffusion_u: float = Field(1e-3, gt=0, le=10, description="D_u, activator")
    diffusion_v: float = Field(5e-3, gt=0, le=10, description="D_v, inhibitor")
    k: float = Field(5e-3, ge=-1, le=1, description="constant term of the activator")
    t_end: float = Field(5.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        26, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    alpha: float = Field(3.0, gt=0.5, le=20, description="smoothness of both initial fields")
    tau: float = Field(10.0, gt=0, le=1e4, description="inverse correlation length, 1/length")
    std: float = Field(1.0, gt=0, le=10, description="standard deviation of both initial fields")
    n_modes: int = Field(24, ge=2, le=4096, description="wave numbers an axis of the fields")


class GrayScottParameters(PeriodicParameters):
    """Parameters of `GrayScott`."""

    dim: Literal[1, 2, 3] = Field(2, description="space dimensions")
    length: float = Field(0.75, gt=0, le=1e6, description="side of the periodic box")
    diffusion_u: float = Field(2e-5, gt=0, le=10, description="D_u, substrate")
    diffusion_v: float = Field(1e-5, gt=0, le=10, description="D_v, catalyst")
    feed: float = Field(0.029, ge=0, le=0.2, description="F, feed rate")
    kill: float = Field(0.057, ge=0, le=0.2, description="k, removal rate")
    t_end: float = Field(1000.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        21, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    alpha: float = Field(4.0, gt=0.5, le=20, description="smoothness of the initial field")
    tau: float = Field(15.0, gt=0, le=1e4, description="inverse correlation length, 1/length")
    n_modes: int = Field(16, ge=2, le=4096, description="wave numbers an axis of the field")


class _TwoSpecies(PeriodicEvolution):
    """What both problems share: fields `u` and `v`, products of degree three."""

    degree: ClassVar[int] = 3
    default_resolution = 64
    species: ClassVar[tuple[str, str]]
    params: Any

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.dim = int(self.params.dim)
        p = self.params
        self.field = GaussianField(
            p.alpha, p.tau, basis="fourier", n_modes=p.n_modes, bounds=self.bounds(),
        ).normalized(getattr(p, "std", 1.0))  # fmt: skip

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Describe the initial values `u0`, `v0`."""
        return tuple(
            FieldSpec(f"{n}0", f"initial {s}") for n, s in zip("uv", self.species, strict=True)
        )

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Fields `u` and `v`."""
        return tuple(
            FieldSpec(n, s, time_varying=True) for n, s in zip("uv", self.species, strict=True)
        )

    def initial(self, inputs: Mapping[str, SpaceFunction], grid: Grid) -> np.ndarray:
        """Values of `u0` and `v0`."""
        return np.stack([inputs["u0"](grid), inputs["v0"](grid)])

    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """`u0`, `v0`, `u`, `v`."""
        u, v = np.ascontiguousarray(x[:, 0]), np.ascontiguousarray(x[:, 1])
        return {"u0": u[0], "v0": v[0], "u": u, "v": v}

    def uniform(self, start: tuple[float, float], t_end: float) -> Check:
        """Compare a state without space, where only the reaction counts, with scipy's DOP853."""
        from scipy.integrate import solve_ivp

        grid = self.grid((8,) * self.dim)
        u0 = np.stack([np.full(grid.shape, s) for s in start])
        r = self.run(u0, grid, [0.0, t_end], rtol=1e-10)
        ode = solve_ivp(
            lambda t, y: self.reaction(*y), (0.0, t_end), start, method="DOP853", rtol=1e-12,
            atol=1e-14,
        )  # fmt: skip
        error = max(float(np.abs(r.x[-1, c] - ode.y[c, -1]).max()) for c in range(2))
        return at_most("uniform state against DOP853, largest error", error, 1e-8)

    def reaction(self, u: Any, v: Any) -> tuple[Any, Any]:
        """Rates of the reaction, written out once more for checks."""
        raise NotImplementedError

    def waves(self, t_end: float) -> Check:
        """Manufactured travelling waves, forced by what they leave of the equations."""
        grid = self.grid((32,) * self.dim)
        p = self.params
        q = 2 * np.pi / p.length
        phase = q * sum(grid.meshgrid())  # type: ignore[arg-type]
        k2 = self.dim * q**2

        def exact(t: float) -> np.ndarray:
            return np.stack([0.5 + 0.3 * np.sin(phase - t), 0.2 + 0.1 * np.cos(phase - 2 * t)])

        def forcing(t: float) -> np.ndarray:
            u, v = exact(t)
            du, dv = self.reaction(u, v)
            rate = -0.3 * np.cos(phase - t), 0.2 * np.sin(phase - 2 * t)
            return np.stack(
                [
                    rate[0] + p.diffusion_u * k2 * (u - 0.5) - du,
                    rate[1] + p.diffusion_v * k2 * (v - 0.2) - dv,
                ]
            )

        return self.manufactured(exact, forcing, grid, t_end)


@register
class FitzHughNagumo(_TwoSpecies):
    """``u_t = D_u laplace(u) + u - u^3 - k - v, v_t = D_v laplace(v) + u - v``; dimensionless.

    Periodic box in 1-D to 3-D. Coefficients, size of the domain and times are those of PDEBench's
    diffusion-reaction set [1]_, which has walls and white noise as initial values; here the box is
    periodic and the initial values are smooth Gaussian fields, drawn independently.

    Parameters
    ----------
    **params
        Fields of `FitzHughNagumoParameters`.

    References
    ----------
    .. [1] Takamoto et al., "PDEBench", NeurIPS 2022, arXiv:2210.07182, appendix D.
    """

    name: ClassVar[str] = "fitzhugh_nagumo"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "FitzHugh-Nagumo reaction and diffusion, periodic"
    equation: ClassVar[str] = (
        r"\partial_t u = D_u\Delta u + u - u^3 - k - v,\quad \partial_t v = D_v\Delta v + u - v"
    )
    reference: ClassVar[str] = "PDEBench, arXiv:2210.07182"
    species: ClassVar[tuple[str, str]] = ("activator", "inhibitor")
    quick_resolution: ClassVar[int] = 24
    quick_params: ClassVar[Mapping[str, Any]] = {
        "t_end": 0.5, "n_times": 3, "n_modes": 6, "length": 1.0,
    }  # fmt: skip
    Params: ClassVar[type[PeriodicParameters]] = FitzHughNagumoParameters

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Coefficients."""
        p = self.params
        return (
            ScalarSpec("diffusion_u", "diffusivity of the activator", "1", p.diffusion_u),
            ScalarSpec("diffusion_v", "diffusivity of the inhibitor", "1", p.diffusion_v),
            ScalarSpec("k", "constant term of the activator", "1", p.k),
        )

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw both initial fields."""
        return {"u0": self.field.draw(rng), "v0": self.field.draw(rng)}

    def linear(self, space: Fourier) -> np.ndarray:
        """Diffusion, and the linear terms of a species in itself."""
        p = self.params
        return np.stack([1.0 - p.diffusion_u * space.k2, -1.0 - p.diffusion_v * space.k2])

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``-u^3 - k - v`` and ``u``."""
        k = self.params.k
        mean: Any = (0,) * space.dim

        def terms(w: np.ndarray, t: float) -> np.ndarray:
            out = np.empty_like(w)
            out[0] = -w[1] - space.project(space.evaluate(w[0]) ** 3)
            out[0][mean] -= k
            out[1] = w[0]
            return out

        return terms

    def reaction(self, u: Any, v: Any) -> tuple[Any, Any]:
        """Rates of the reaction."""
        return u - u**3 - self.params.k - v, u - v

    def checks(self) -> Iterable[Check]:
        """Compare waves, a uniform state and a finer reference; order in time."""
        problem = FitzHughNagumo(dim=1)
        yield problem.waves(1.0)
        yield problem.uniform((0.8, -0.3), 3.0)
        problem = FitzHughNagumo(length=1.0, t_end=0.5, n_times=3, n_modes=6)
        inputs = problem.sample(np.random.default_rng(0))
        yield from problem.reference_error(inputs, 24, limit=1e-2)
        grid = problem.grid((24, 24))
        yield problem.time_order(problem.initial(inputs, grid), grid, 0.5, (16, 32, 64))


@register
class GrayScott(_TwoSpecies):
    """``u_t = D_u laplace(u) - u v^2 + F (1 - u), v_t = D_v laplace(v) + u v^2 - (F + k) v``.

    Periodic box in 1-D to 3-D; dimensionless. Spots, stripes and mazes grow out of the initial
    ``v0 = (1 + tanh(2 (m - 1)))/8, u0 = 1 - 2 v0``, with a Gaussian field `m` of standard
    deviation 1: patches of catalyst in a sea of substrate.

    Parameters
    ----------
    **params
        Fields of `GrayScottParameters`.

    Notes
    -----
    `feed` and `kill` choose the pattern [1]_; the default makes mazes. The diffusivities are those
    of The Well's set [2]_.

    References
    ----------
    .. [1] Pearson, "Complex patterns in a simple system", Science 261 (1993) 189-192.
    .. [2] Ohana et al., "The Well", NeurIPS 2024, arXiv:2412.00568.
    """

    name: ClassVar[str] = "gray_scott"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "Gray-Scott reaction and diffusion, periodic"
    equation: ClassVar[str] = (
        r"\partial_t u = D_u\Delta u - u v^2 + F(1 - u),\quad "
        r"\partial_t v = D_v\Delta v + u v^2 - (F + k) v"
    )
    reference: ClassVar[str] = "Pearson, Science 261 (1993) 189-192"
    species: ClassVar[tuple[str, str]] = ("substrate", "catalyst")
    quick_resolution: ClassVar[int] = 24
    quick_params: ClassVar[Mapping[str, Any]] = {
        "t_end": 20.0, "n_times": 3, "length": 0.3, "n_modes": 4,
    }  # fmt: skip
    Params: ClassVar[type[PeriodicParameters]] = GrayScottParameters

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Coefficients."""
        p = self.params
        return (
            ScalarSpec("diffusion_u", "diffusivity of the substrate", "1", p.diffusion_u),
            ScalarSpec("diffusion_v", "diffusivity of the catalyst", "1", p.diffusion_v),
            ScalarSpec("feed", "feed rate", "1", p.feed),
            ScalarSpec("kill", "removal rate", "1", p.kill),
        )

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the patches of catalyst."""
        m = self.field.draw(rng)
        return {
            "u0": TransformedField(m, lambda x: 0.75 - 0.25 * np.tanh(2.0 * (x - 1.0))),
            "v0": TransformedField(m, lambda x: 0.125 + 0.125 * np.tanh(2.0 * (x - 1.0))),
        }

    def linear(self, space: Fourier) -> np.ndarray:
        """Diffusion, feed and removal."""
        p = self.params
        return np.stack(
            [-p.feed - p.diffusion_u * space.k2, -p.feed - p.kill - p.diffusion_v * space.k2]
        )

    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """``F - u v^2`` and ``u v^2``."""
        feed = self.params.feed
        mean: Any = (0,) * space.dim

        def terms(w: np.ndarray, t: float) -> np.ndarray:
            u, v = space.evaluate(w)
            v *= v
            v *= u
            reaction = space.project(v)
            out = np.stack([-reaction, reaction])
            out[0][mean] += feed
            return out

        return terms

    def reaction(self, u: Any, v: Any) -> tuple[Any, Any]:
        """Rates of the reaction."""
        p = self.params
        return -u * v**2 + p.feed * (1 - u), u * v**2 - (p.feed + p.kill) * v

    def checks(self) -> Iterable[Check]:
        """Compare waves, a uniform state and a finer reference; order in time."""
        problem = GrayScott(dim=1)
        yield problem.waves(1.0)
        yield problem.uniform((0.6, 0.3), 40.0)
        problem = GrayScott(length=0.3, t_end=100.0, n_times=3, n_modes=4)
        inputs = problem.sample(np.random.default_rng(0))
        yield from problem.reference_error(inputs, 24, limit=1e-2)
        line = GrayScott(dim=1, length=0.5)
        grid = line.grid((32,))
        bump = 0.1 * np.cos(4 * np.pi * grid.axes[0].coords)
        u0 = np.stack([0.6 - bump, 0.25 + bump])
        yield line.time_order(u0, grid, 50.0, (100, 200, 400))
