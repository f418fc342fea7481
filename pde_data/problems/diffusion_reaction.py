"""Diffusion and reaction: FitzHugh-Nagumo between walls, and Fisher-KPP on a circle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from solvers.evolution import solve_parabolic
from solvers.grids import Axis, Grid

from ..fields import GaussianField, SpaceFunction, bounded
from ..hdf5.schema import BoundarySpec, FieldSpec, ScalarSpec
from ..problem import Solution, register
from ..verification import Check, agreement, at_most, order_check
from ._evolution import Evolution, EvolutionParameters, space_time_error
from ._evolution_checks import space_checks, time_checks

__all__ = [
    "DiffusionReaction",
    "DiffusionReactionParameters",
    "FisherKPP",
    "FisherKPPParameters",
]


class DiffusionReactionParameters(EvolutionParameters):
    """Parameters of `DiffusionReaction`."""

    t_end: float = Field(5.0, gt=0, allow_inf_nan=False, description="last stored time")
    n_times: int = Field(
        101, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    Du: float = Field(1e-3, gt=0, le=10, description="diffusivity of the activator u")
    Dv: float = Field(5e-3, gt=0, le=10, description="diffusivity of the inhibitor v")
    k: float = Field(5e-3, ge=-1, le=1, description="constant k in the reaction of u")
    sigma: float = Field(1.0, gt=0, le=5, description="standard deviation of u0 and v0")
    alpha: float = Field(
        4.0, gt=1, le=20, description="smoothness of the initial Gaussian fields, covariance "
        "(-Laplacian + tau^2)^(-alpha)",
    )  # fmt: skip
    tau: float = Field(25.0, gt=0, le=1e3, description="inverse correlation length of u0 and v0")
    n_modes: int = Field(
        48, ge=2, le=1024, description="cosine modes per axis of u0 and v0: no finer detail"
    )


@register
class DiffusionReaction(Evolution):
    """Two-dimensional FitzHugh-Nagumo system in (-1, 1)^2 with no-flow walls.

    ``u_t = Du laplace(u) + u - u^3 - k - v``, ``v_t = Dv laplace(v) + u - v``, all dimensionless.

    Notes
    -----
    The set-up of PDEBench's 2D diffusion-reaction set [1]_, but for the initial values: there white
    noise on the grid's points, which is no function of space; here Gaussian fields of cosine modes,
    by default of correlation length near 0.1. They continue evenly across the walls, and so does
    the solution: cosine series are of spectral accuracy.

    References
    ----------
    .. [1] Takamoto et al., "PDEBench", NeurIPS 2022, arXiv:2210.07182, appendix D.
    """

    name: ClassVar[str] = "diffusion_reaction"
    min_estimates: ClassVar[int] = 2
    title: ClassVar[str] = "Diffusion-reaction, FitzHugh-Nagumo"
    equation: ClassVar[str] = (
        r"\partial_t u = D_u \Delta u + u - u^3 - k - v,\quad \partial_t v = D_v \Delta v + u - v"
    )
    solvers: ClassVar[tuple[str, ...]] = ("spectral", "finite_volume")
    dim = 2
    periodic: ClassVar[bool] = False
    default_resolution: int = 64
    quick_resolution: ClassVar[int] = 24
    quick_params: ClassVar[Mapping[str, Any]] = {
        "t_end": 1.0, "n_times": 5, "tau": 4.0, "n_modes": 4, "time_rtol": 1e-5,
    }  # fmt: skip
    reference: ClassVar[str] = "PDEBench, arXiv:2210.07182; FitzHugh (1961), Nagumo (1962)"
    Params: ClassVar[type[EvolutionParameters]] = DiffusionReactionParameters
    params: DiffusionReactionParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.field = GaussianField(
            p.alpha, p.tau, n_modes=p.n_modes, bounds=self.bounds()
        ).normalized(p.sigma)

    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Return the square (-1, 1)^2."""
        return ((-1.0, 1.0), (-1.0, 1.0))

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Cells, as in PDEBench: the points are their centers."""
        return Grid(
            tuple(
                Axis(name, n, -1.0, 1.0, location="cell_center")
                for name, n in zip("xy", resolution, strict=True)
            )
        )

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Return the initial values."""
        return (
            FieldSpec("u0", "initial activator", location="cell_center"),
            FieldSpec("v0", "initial inhibitor", location="cell_center"),
        )

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Activator and inhibitor."""
        return (
            FieldSpec("u", "activator", location="cell_center", time_varying=True),
            FieldSpec("v", "inhibitor", location="cell_center", time_varying=True),
        )

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Diffusivities and the constant of the reaction."""
        p = self.params
        return (
            ScalarSpec("Du", "diffusivity of the activator", "1", p.Du),
            ScalarSpec("Dv", "diffusivity of the inhibitor", "1", p.Dv),
            ScalarSpec("k", "constant of the reaction", "1", p.k),
        )

    def boundary_specs(self) -> tuple[BoundarySpec, ...]:
        """No-flow walls."""
        return tuple(BoundarySpec(axis, "neumann", ("u", "v")) for axis in "xy")

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial values."""
        return {"u0": self.field.draw(rng), "v0": self.field.draw(rng)}

    def evolve(
        self, inputs: Mapping[str, SpaceFunction], grid: Grid, times: np.ndarray, *,
        solver: str, rtol: float, refine: float = 1.0,
    ) -> Solution:  # fmt: skip
        """Solve with implicit diffusion and explicit reaction."""
        p = self.params
        start = np.stack([inputs["u0"](grid), inputs["v0"](grid)])

        def reaction(w: np.ndarray, t: float) -> np.ndarray:
            u, v = w
            return np.stack([u - u * u * u - p.k - v, u - v])

        r = solve_parabolic(
            start, times, grid, diffusivity=(p.Du, p.Dv), reaction=reaction, space=solver,
            rtol=p.time_rtol / refine**4,
        )  # fmt: skip
        fields = {"u0": start[0], "v0": start[1], "u": r.x[:, 0], "v": r.x[:, 1]}
        return Solution(
            fields, r.residual, r.iterations, r.seconds, r.solver, time_error=r.info["time_error"]
        )

    def convergence_order(self, solver: str) -> float:
        """Infinite for cosine series, 2 for finite volumes."""
        return math.inf if solver == "spectral" else 2.0

    def discretization_error(
        self, inputs: Any, solution: Solution, resolution: tuple[int, ...], *,
        solver: str, rtol: float = 1e-10,
    ) -> float:  # fmt: skip
        """As for every `Evolution`; of the spectral solver against half as many more cells an axis.

        The finer cosine series is evaluated at the grid's cells, so that no interpolation limits
        the comparison; the estimated error of the time steps is added.
        """
        if solver != "spectral":
            return super().discretization_error(
                inputs, solution, resolution, solver=solver, rtol=rtol
            )
        grid = self.grid(resolution)
        fine = grid.resized(tuple(-(-3 * n // 2) for n in resolution))
        reference = self.evolve(inputs, fine, self.times, solver=solver, rtol=rtol)
        p, q = (_at_cells(n, m) for n, m in zip(grid.shape, fine.shape, strict=True))
        truth = {name: p @ reference.fields[name] @ q.T for name in ("u", "v")}
        own = {name: solution.fields[name] for name in truth}
        return space_time_error(own, truth, grid, self.times) + solution.time_error

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        if solver == "spectral":
            return "cosine collocation at cell centers; ARK4(3)6L in time"
        return "cell-centered finite volumes; ARK4(3)6L in time"

    def checks(self) -> Iterator[Check]:
        """Compare with a linear mode and a finer reference; order in space and time."""
        yield from _linear_mode()
        p = DiffusionReaction(t_end=0.5, n_times=3, tau=4.0, n_modes=4, time_rtol=1e-7)
        inputs = p.sample(np.random.default_rng(1))
        s = p.solve(inputs, (24, 24), solver="spectral")
        error = p.discretization_error(inputs, s, (24, 24), solver="spectral")
        yield at_most("spectral on 24^2 against 36^2", error, 1e-6)
        errors = []
        for n in (24, 40, 64):  # spectral values at the same points, exact to 1e-6
            s = p.solve(inputs, (n, n), solver="finite_volume")
            ref = p.solve(inputs, (n, n), solver="spectral")
            own, truth = ({q: v.fields[q] for q in ("u", "v")} for v in (s, ref))
            errors.append(space_time_error(own, truth, p.grid((n, n)), p.times))
        yield order_check(
            "order in space, finite_volume against spectral", [1 / 24, 1 / 40, 1 / 64], errors, 2.0
        )
        grid = p.grid((12, 12))
        u0 = np.stack([inputs["u0"](grid), inputs["v0"](grid)])
        t = np.array([0.0, 1.0, 2.0])

        def run(dt: float) -> Any:
            return solve_parabolic(
                u0, t, grid, diffusivity=(1e-3, 5e-3), space="spectral", dt=dt,
                reaction=lambda w, s: np.stack([w[0] - w[0] ** 3 - 5e-3 - w[1], w[0] - w[1]]),
            )  # fmt: skip

        yield from time_checks(
            run, (0.25, 0.125, 0.0625), 4.0, grid=grid, times=t, label="ARK4, FitzHugh-Nagumo"
        )


def _linear_mode() -> Iterator[Check]:
    """Around ``u = v = w`` with ``w^3 = -k`` small modes obey a 2 x 2 linear system."""
    from scipy.linalg import expm

    k, eps = 5e-3, 1e-5
    p = DiffusionReaction(t_end=2.0, n_times=5, k=k, time_rtol=1e-8)
    rest = -np.cbrt(k)
    wave = (2 * np.pi / 2) ** 2 * 2  # cos(pi (x + 1)) cos(pi (y + 1)) ... minus its Laplacian
    m = np.array([[-1e-3 * wave + 1 - 3 * rest**2, -1.0], [1.0, -5e-3 * wave - 1.0]])

    def mode(grid: Grid) -> np.ndarray:
        x, y = grid.meshgrid()
        return np.cos(np.pi * (x + 1)) * np.cos(np.pi * (y + 1))

    inputs = {
        "u0": lambda g: rest + eps * mode(g), "v0": lambda g: np.full(g.shape, rest),
    }  # fmt: skip
    for solver, n in (("spectral", 12), ("finite_volume", 48)):
        s = p.solve(inputs, (n, n), solver=solver)
        growth = np.stack([expm(m * t) @ [1.0, 0.0] for t in p.times])
        f = mode(p.grid((n, n)))
        gap = max(
            float(np.abs((s.fields[q] - rest) / eps - np.multiply.outer(growth[:, i], f)).max())
            for i, q in enumerate("uv")
        )
        # second order in eps, and for finite volumes (pi h)^2 / 12 of the decay 2e-2 t
        yield at_most(f"linear mode around the fixed point, {solver}", gap, 2e-4)


def _at_cells(n: int, m: int) -> np.ndarray:
    """Matrix from values at `m` cell centers to their cosine series at `n` cell centers."""
    k = np.arange(m)
    fine = np.cos(np.pi / m * np.outer(k + 0.5, k)) * np.where(k == 0, 1.0, 2.0) / m
    out: np.ndarray = np.cos(np.pi / n * np.outer(np.arange(n) + 0.5, k)) @ fine.T
    return out


class FisherKPPParameters(EvolutionParameters):
    """Parameters of `FisherKPP`."""

    nu: float = Field(0.01, gt=0, le=100, description="diffusivity")
    rho: float = Field(5.0, gt=0, le=1000, description="rate of growth")
    low: float = Field(0.0, ge=0, lt=1, description="lower bound of u0")
    high: float = Field(1.0, gt=0, le=1, description="upper bound of u0")
    alpha: float = Field(
        3.0, gt=0.5, le=20, description="smoothness of the Gaussian field behind u0, covariance "
        "(-Laplacian + tau^2)^(-alpha)",
    )  # fmt: skip
    tau: float = Field(10.0, gt=0, le=1e3, description="its inverse correlation length")
    n_modes: int = Field(16, ge=2, le=1024, description="Fourier modes of that field")

    @model_validator(mode="after")
    def _check(self) -> FisherKPPParameters:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: need low < high")
        return self


@register
class FisherKPP(Evolution):
    """Logistic growth and diffusion, ``u_t = nu u_xx + rho u (1 - u)``, periodic in (0, 1).

    All dimensionless. `u0` lies between `low` and `high`: a bounded Gaussian field. The solution
    stays between 0 and 1 and tends to 1.

    Notes
    -----
    PDEBench's 1D reaction-diffusion set [1]_ solves the same equation (nu from 0.5 to 5, rho from 1
    to 10); its files are reported to tend to 0.5 (pdebench/PDEBench#94). A check here follows
    uniform values along the logistic curve.

    References
    ----------
    .. [1] Takamoto et al., "PDEBench", NeurIPS 2022, arXiv:2210.07182.
    """

    name: ClassVar[str] = "fisher_kpp"
    title: ClassVar[str] = "Fisher-KPP, logistic growth and diffusion"
    equation: ClassVar[str] = r"\partial_t u = \nu\,\partial_{xx} u + \rho\,u(1-u)"
    solvers: ClassVar[tuple[str, ...]] = ("spectral", "finite_volume")
    dim = 1
    default_resolution: int = 128
    quick_resolution: ClassVar[int] = 64
    quick_params: ClassVar[Mapping[str, Any]] = {"n_times": 5, "n_modes": 4, "nu": 0.02}
    reference: ClassVar[str] = "Fisher (1937); Kolmogorov, Petrovsky, Piskunov (1937); PDEBench"
    Params: ClassVar[type[EvolutionParameters]] = FisherKPPParameters
    params: FisherKPPParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.field = GaussianField(
            p.alpha, p.tau, n_modes=p.n_modes, basis="fourier", bounds=((0.0, 1.0),)
        ).normalized()

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Return the initial values."""
        p = self.params
        return (FieldSpec("u0", "initial density", valid_min=p.low, valid_max=p.high),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Density between 0 and 1: the maximum principle."""
        return (FieldSpec("u", "density", time_varying=True, valid_min=0.0, valid_max=1.0),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Diffusivity and rate."""
        p = self.params
        return (
            ScalarSpec("nu", "diffusivity", "1", p.nu),
            ScalarSpec("rho", "rate of growth", "1", p.rho),
        )

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the initial values."""
        p = self.params
        return {"u0": bounded(self.field.draw(rng), p.low, p.high)}

    def evolve(
        self, inputs: Mapping[str, SpaceFunction], grid: Grid, times: np.ndarray, *,
        solver: str, rtol: float, refine: float = 1.0,
    ) -> Solution:  # fmt: skip
        """Solve with implicit diffusion and explicit growth."""
        p = self.params
        u0 = inputs["u0"](grid)
        r = solve_parabolic(
            u0, times, grid, diffusivity=p.nu, boundary="periodic", space=solver,
            reaction=lambda u, t: p.rho * u * (1.0 - u), rtol=p.time_rtol / refine**4,
        )  # fmt: skip
        return Solution(
            {"u0": u0, "u": r.x}, r.residual, r.iterations, r.seconds, r.solver,
            time_error=r.info["time_error"],
        )  # fmt: skip

    def convergence_order(self, solver: str) -> float:
        """Infinite for Fourier series, 2 for finite volumes."""
        return math.inf if solver == "spectral" else 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        if solver == "spectral":
            return "Fourier collocation; ARK4(3)6L in time"
        return "finite volumes on periodic nodes; ARK4(3)6L in time"

    def checks(self) -> Iterator[Check]:
        """Logistic curve, the limit 1, a finer reference, order in time."""
        p = FisherKPP(t_end=2.0, n_times=5, rho=3.0, time_rtol=1e-9)
        for solver in self.solvers:
            s = p.solve({"u0": lambda g: np.full(g.shape, 0.2)}, (32,), solver=solver)
            e = np.exp(3.0 * p.times)
            logistic = 0.2 * e / (1 + 0.2 * (e - 1))
            gap = np.abs(s.fields["u"] - logistic[:, None]).max()
            yield at_most(f"uniform values follow the logistic curve, {solver}", gap, 1e-8)
        late = FisherKPP(t_end=10.0, n_times=3, nu=0.5, rho=5.0, low=0.05)
        s = late.solve(late.sample(np.random.default_rng(0)), (64,), solver="spectral")
        yield agreement("steady state of u", float(s.fields["u"][-1].min()), 1.0, within=1e-8)
        yield from _traveling_wave()
        p = FisherKPP(n_times=3, time_rtol=1e-7)
        inputs = p.sample(np.random.default_rng(1))
        fine = p.solve(inputs, (256,), solver="spectral")
        errors = []
        for n in (64, 128, 256):
            s = p.solve(inputs, (n,), solver="finite_volume")
            truth = {"u": fine.fields["u"][:, :: 256 // n]}
            own = {"u": s.fields["u"]}
            errors.append(space_time_error(own, truth, p.grid((n,)), p.times))
        yield order_check(
            "order in space, finite_volume against spectral on 256",
            [1 / 64, 1 / 128, 1 / 256], errors, 2.0,
        )  # fmt: skip
        grid = p.grid((32,))
        t, u0 = p.times, inputs["u0"](grid)

        def run(dt: float) -> Any:
            return solve_parabolic(
                u0, t, grid, diffusivity=0.01, boundary="periodic", space="spectral", dt=dt,
                reaction=lambda u, s: 5.0 * u * (1 - u),
            )  # fmt: skip

        yield from time_checks(
            run, (0.125, 0.0625, 0.03125), 4.0, grid=grid, times=t, label="ARK4, Fisher-KPP"
        )


def _traveling_wave() -> Iterator[Check]:
    """Ablowitz & Zeppetella's front, ``u = (1 + exp(z sqrt(rho/6nu)))^-2``, speed 5 sqrt(nu rho/6).

    Two of them, back to back, in a circle so long that they do not meet.
    """
    nu, rho = 1e-4, 6.0
    p = FisherKPP(nu=nu, rho=rho, t_end=1.0, n_times=3, time_rtol=1e-8)
    width, speed = np.sqrt(rho / (6 * nu)), 5 * np.sqrt(nu * rho / 6)

    def front(z: np.ndarray) -> np.ndarray:
        return (1 + np.exp(np.minimum(z * width, 300.0))) ** -2.0

    def exact(grid: Grid, times: np.ndarray) -> dict[str, np.ndarray]:
        d = np.abs(grid.coords[0] - 0.5)
        return {"u": np.stack([front(d - 0.2 - speed * t) for t in times])}

    inputs = {"u0": lambda g: exact(g, np.zeros(1))["u"][0]}
    yield from space_checks(
        p, inputs, exact, (128, 256, 512), solver="finite_volume", label="traveling front"
    )
    s = p.solve(inputs, (256,), solver="spectral")
    gap = space_time_error(
        {"u": s.fields["u"]}, exact(p.grid((256,)), p.times), p.grid((256,)), p.times
    )
    yield at_most("traveling front, spectral, 256 points", gap, 1e-7)
