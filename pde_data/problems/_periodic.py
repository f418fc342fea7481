"""Periodic evolution: random initial conditions, pseudo-spectral solution, shared checks."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from solvers.grids import Grid
from solvers.result import SolverDidNotConverge, SolveResult
from solvers.spectral import Fourier, solve_evolution

from ..fields import GaussianField, RandomWaves
from ..problem import Solution
from ..verification import Check, at_most, order_check
from ._evolution import Evolution, EvolutionParameters, space_time_error

__all__ = ["InitialParameters", "PeriodicEvolution", "PeriodicParameters"]


class PeriodicParameters(EvolutionParameters):
    """Parameters of every `PeriodicEvolution`."""

    oversample: int = Field(
        1, ge=1, le=64, description="compute on a grid so many times finer, store every n-th point"
    )
    max_tail: float = Field(
        1e-2,
        gt=0,
        le=1,
        description="refuse a sample if the outermost sixth of the modes holds more than this part "
        "of the norm at a stored time after the first: the grid does not resolve it",
    )


class InitialParameters(PeriodicParameters):
    """Parameters of one random periodic initial condition."""

    initial: Literal["gaussian", "waves"] = Field(
        "gaussian",
        description="gaussian: N(0, sigma^2 (-Laplacian + tau^2)^(-alpha)); waves: a sum of "
        "n_waves random sine waves, as in PDEBench",
    )
    alpha: float = Field(2.0, gt=0.5, le=20, description="smoothness of the Gaussian field")
    tau: float = Field(5.0, ge=0, le=1e4, description="inverse correlation length, 1/length")
    sigma: float = Field(25.0, gt=0, le=1e6, description="amplitude of the Gaussian field")
    std: float | None = Field(
        None, gt=0, le=1e6, description="standard deviation of the Gaussian field, instead of sigma"
    )
    n_modes: int = Field(64, ge=2, le=4096, description="wave numbers an axis of the Gaussian")
    n_waves: int = Field(2, ge=1, le=100, description="waves of initial=waves")
    max_wave_number: int = Field(
        8, ge=1, le=1000, description="largest wave number of initial=waves, per domain length"
    )
    amplitude: float = Field(
        1.0, gt=0, le=1e6, description="largest amplitude of a wave of initial=waves"
    )


class PeriodicEvolution(Evolution):
    """``du/dt = L u + N(u)`` on a periodic box by `solvers.spectral.solve_evolution`.

    A subclass gives `linear`, `nonlinear` and `initial`, and `unpack` if it has several fields.
    """

    solvers: ClassVar[tuple[str, ...]] = ("spectral",)
    Params: ClassVar[type[PeriodicParameters]] = PeriodicParameters
    #: Highest degree of the products in `nonlinear`.
    degree: ClassVar[int] = 2

    @abstractmethod
    def linear(self, space: Fourier) -> np.ndarray:
        """Symbol of the linear part; broadcasts to the coefficients of the state."""

    @abstractmethod
    def nonlinear(self, space: Fourier, inputs: Any) -> Callable[[np.ndarray, float], np.ndarray]:
        """Return the other terms as a function of coefficients and time."""

    @abstractmethod
    def initial(self, inputs: Any, grid: Grid) -> np.ndarray:
        """Return the initial state, shape (..., *grid.shape)."""

    @abstractmethod
    def unpack(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Fields of the schema from the states, shape (T, ..., *grid.shape)."""

    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Return (0, length) for every axis; length 1 without such a parameter."""
        return ((0.0, float(getattr(self.params, "length", 1.0))),) * self.dim

    def fields_of(self, mean_free: bool = False) -> GaussianField | RandomWaves:
        """Return the distribution of initial fields that `InitialParameters` describe."""
        p: Any = self.params
        if p.initial == "waves":
            return RandomWaves(p.n_waves, p.max_wave_number, p.amplitude, bounds=self.bounds())
        field = GaussianField(
            p.alpha, p.tau, p.sigma, basis="fourier", n_modes=p.n_modes, bounds=self.bounds(),
            zero_mean=mean_free or p.tau == 0,
        )  # fmt: skip
        return field if p.std is None else field.normalized(p.std)

    def run(
        self, u0: np.ndarray, grid: Grid, times: Sequence[float] | np.ndarray, *,
        inputs: Any = None, dt: float | None = None, rtol: float | None = None,
        forcing: Callable[[float], np.ndarray] | None = None,
    ) -> SolveResult:  # fmt: skip
        """Solve from given initial values, for checks: with fixed steps or a forcing as well.

        Parameters
        ----------
        forcing : callable
            Values on `grid` of what is added to the right-hand side, at a time.
        """
        p: Any = self.params
        space = Fourier(grid, degree=self.degree)
        terms = self.nonlinear(space, inputs)
        if forcing is not None:
            own, extra = terms, forcing
            terms = lambda v, t: own(v, t) + space.coefficients(extra(t))  # noqa: E731
        horizon = getattr(p, "horizon", None)
        return solve_evolution(
            self.linear(space), terms, u0, space, times, dt=dt,
            rtol=p.time_rtol if rtol is None else rtol, horizon=horizon,
        )  # fmt: skip

    def evolve(
        self,
        inputs: Any,
        grid: Grid,
        times: np.ndarray,
        *,
        solver: str,
        rtol: float,
        refine: float = 1.0,
    ) -> Solution:
        """Solve on the grid refined `oversample` times; see `Evolution.evolve`.

        Raises
        ------
        SolverDidNotConverge
            Blow-up, a time error above `time_rtol`, or a grid that does not resolve the solution.
        """
        p: Any = self.params
        grid = grid.refined(p.oversample)
        r = self.run(
            self.initial(inputs, grid), grid, times, inputs=inputs,
            rtol=max(1e-12, p.time_rtol / refine**4),
        )  # fmt: skip
        space = Fourier(grid, degree=1)
        tail = float(np.max([space.tail(space.coefficients(x)) for x in r.x[1:]]))
        if not tail <= p.max_tail:
            raise SolverDidNotConverge(
                r.solver, iterations=r.iterations, residual=tail, rtol=p.max_tail,
                note=f"the residual here is the part of the norm in the outermost sixth of the "
                f"modes: {'x'.join(map(str, grid.shape))} points do not resolve the solution; take "
                "a higher resolution, oversample, or more dissipation",
            )  # fmt: skip
        every: Any = (..., *(slice(None, None, p.oversample),) * self.dim)
        fields = self.unpack(np.ascontiguousarray(r.x[every]))
        return Solution(
            fields, r.residual, r.iterations, r.seconds, r.solver, time_error=r.info["time_error"]
        )

    def convergence_order(self, solver: str) -> float:
        """Infinite: the error falls faster than any power of h while the solution is smooth."""
        return math.inf

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        p: Any = self.params
        n = "x".join(str(r * p.oversample) for r in resolution)
        return f"Fourier pseudo-spectral, {n} points, dealiased; ETDRK4 with adaptive steps"

    # -- checks that several problems share --------------------------------------------------

    def time_order(
        self, u0: np.ndarray, grid: Grid, t_end: float, steps: Sequence[int], *, inputs: Any = None
    ) -> Check:
        """Observed order of fixed steps against a solution with time error 1e-11."""
        truth = self.run(u0, grid, [0.0, t_end], inputs=inputs, rtol=1e-11).x[-1]
        errors = []
        for n in steps:
            x = self.run(u0, grid, [0.0, t_end], inputs=inputs, dt=t_end / n).x[-1]
            errors.append(float(np.linalg.norm(x - truth) / np.linalg.norm(truth)))
        return order_check("order in time, ETDRK4", [t_end / n for n in steps], errors, 4.0)

    def manufactured(
        self, exact: Callable[[float], np.ndarray], forcing: Callable[[float], np.ndarray],
        grid: Grid, t_end: float, *, limit: float = 1e-9, inputs: Any = None,
    ) -> Check:  # fmt: skip
        """Error of a manufactured solution with the forcing derived by hand."""
        r = self.run(exact(0.0), grid, [0.0, t_end], inputs=inputs, forcing=forcing, rtol=1e-10)
        truth = exact(t_end)
        error = float(np.linalg.norm(r.x[-1] - truth) / np.linalg.norm(truth))
        return at_most("manufactured solution, relative L2 error", error, limit)

    def reference_error(
        self, inputs: Any, resolution: int, *, limit: float, factor: int = 4
    ) -> list[Check]:
        """Compare a sample with one on a `factor` times finer grid, its step 1/factor too.

        The second row says how far the stored estimate is from that distance.
        """
        n = (resolution,) * self.dim
        s = self.solve(inputs, n, solver="spectral")
        grid = self.grid(n)
        fine = self.evolve(
            inputs, grid.refined(factor), self.times, solver="spectral", rtol=1e-10, refine=factor
        )
        every: Any = (slice(None), *(slice(None, None, factor),) * self.dim)
        names = [f.name for f in self.output_specs()]
        truth = {k: fine.fields[k][every] for k in names}
        error = space_time_error(s.fields, truth, grid, self.times, horizon=self.horizon)
        estimate = self.discretization_error(inputs, s, n, solver="spectral")
        return [
            at_most(f"distance to a {factor} times finer reference", error, limit),
            Check(
                "estimated over true discretization error", estimate / error, "0.5 to 2",
                0.5 <= estimate / error <= 2.0, "estimate", f"{estimate:.2e} and {error:.2e}",
            ),
        ]  # fmt: skip
