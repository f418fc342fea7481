"""Diffusion of a contaminant that sorbs to the soil (Freundlich isotherm)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.evolution import Storage, solve_parabolic
from solvers.grids import Grid

from ..fields import GaussianField
from ..hdf5.schema import BoundarySpec, FieldSpec, ScalarSpec
from ..problem import Solution, register
from ..verification import Check, at_most, order_check
from ._evolution import Evolution, EvolutionParameters, space_time_error
from ._evolution_checks import space_checks, time_checks

__all__ = ["DiffusionSorption", "DiffusionSorptionParameters"]


class DiffusionSorptionParameters(EvolutionParameters):
    """Parameters of `DiffusionSorption`."""

    t_end: float = Field(500.0, gt=0, allow_inf_nan=False, description="last stored time, s")
    n_times: int = Field(
        101, ge=2, le=100_001, description="stored times, uniform from 0 to t_end, both included"
    )
    D: float = Field(5e-4, gt=0, le=1, description="effective diffusion coefficient, m^2/s")
    porosity: float = Field(0.29, gt=0, lt=1, description="porosity phi of the soil")
    density: float = Field(2880.0, gt=0, le=1e5, description="bulk density rho_s, kg/m^3")
    k: float = Field(3.5e-4, gt=0, le=1, description="Freundlich's parameter k, m^3/kg")
    exponent: float = Field(0.874, gt=0.1, le=1, description="Freundlich's exponent n_f")
    initial: Literal["uniform", "field"] = Field(
        "uniform", description="uniform: one value in (low, high), as PDEBench's; field: a bounded "
        "Gaussian field between them",
    )  # fmt: skip
    low: float = Field(1e-3, ge=1e-6, lt=1, description="lower bound of u0")
    high: float = Field(0.2, gt=0, le=1, description="upper bound of u0")
    tau: float = Field(5.0, gt=0, le=100, description="inverse correlation length of fields, 1/m")

    @model_validator(mode="after")
    def _check(self) -> DiffusionSorptionParameters:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: need low < high")
        return self


@register
class DiffusionSorption(Evolution):
    r"""Diffusion slowed by sorption, ``R(u) u_t = D u_xx`` in (0, 1).

    ``R(u) = 1 + (1 - phi)/phi rho_s k n_f u^(n_f - 1)``; `u` is the concentration over that of the
    source, dimensionless, length in m, time in s. At the left end ``u = 1``; at the right end
    ``D u_x + u = 0`` (with a velocity of 1 m/s): what arrives flows out. The solution stays between
    0 and 1.

    Notes
    -----
    The set-up of PDEBench's diffusion-sorption set [1]_. It is solved in conservation form,
    ``(u + (1 - phi)/phi rho_s k u^n_f)_t = D u_xx``, so that mass is balanced exactly. The paper
    prints the right condition as ``u = D u_x``, which would feed mass in without bound; PDEBench's
    code has the sign used here, and adds 1e-6 to `u` in `R`, which is infinite at 0; here u0 is at
    least `low`, PDEBench's from 0 on.

    References
    ----------
    .. [1] Takamoto et al., "PDEBench", NeurIPS 2022, arXiv:2210.07182, appendix D.
    """

    name: ClassVar[str] = "diffusion_sorption"
    title: ClassVar[str] = "Diffusion with sorption"
    equation: ClassVar[str] = (
        r"R(u)\,\partial_t u = D\,\partial_{xx} u,\quad "
        r"R(u) = 1 + \tfrac{1-\phi}{\phi}\rho_s k n_f u^{n_f-1}"
    )
    solvers: ClassVar[tuple[str, ...]] = ("finite_volume",)
    dim = 1
    periodic: ClassVar[bool] = False
    time_units: ClassVar[str] = "s"
    length_units: ClassVar[str] = "m"
    default_resolution: int = 257
    quick_resolution: ClassVar[int] = 65
    quick_params: ClassVar[Mapping[str, Any]] = {"n_times": 6, "time_rtol": 1e-5}
    reference: ClassVar[str] = "PDEBench, arXiv:2210.07182; Nowak & Guthke, Entropy 18 (2016)"
    Params: ClassVar[type[EvolutionParameters]] = DiffusionSorptionParameters
    params: DiffusionSorptionParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.field = GaussianField(
            3.0, self.params.tau, n_modes=16, bounds=((0.0, 1.0),)
        ).normalized()

    def input_specs(self) -> tuple[FieldSpec, ...]:
        """Return the initial concentration."""
        p = self.params
        return (FieldSpec("u0", "initial concentration", valid_min=p.low, valid_max=p.high),)

    def output_specs(self) -> tuple[FieldSpec, ...]:
        """Concentration; the maximum principle holds it between 0 and 1."""
        return (FieldSpec("u", "concentration", time_varying=True, valid_min=0.0, valid_max=1.0),)

    def constants(self) -> tuple[ScalarSpec, ...]:
        """Coefficients of diffusion and sorption."""
        p = self.params
        return (
            ScalarSpec("D", "effective diffusion coefficient", "m^2/s", p.D),
            ScalarSpec("porosity", "porosity", "1", p.porosity),
            ScalarSpec("density", "bulk density", "kg/m^3", p.density),
            ScalarSpec("k", "Freundlich's parameter", "m^3/kg", p.k),
            ScalarSpec("exponent", "Freundlich's exponent", "1", p.exponent),
        )

    def boundary_specs(self) -> tuple[BoundarySpec, ...]:
        """``u = 1`` at the left, ``u + D u_x = 0`` at the right end."""
        return (
            BoundarySpec("x", "dirichlet", ("u",), "lower", 1.0),
            BoundarySpec("x", "robin", ("u",), "upper", 0.0, alpha=1.0, beta=self.params.D),
        )

    def sample(self, rng: np.random.Generator) -> dict[str, Callable[[Grid], np.ndarray]]:
        """Draw the initial concentration."""
        p = self.params
        if p.initial == "uniform":
            value = float(rng.uniform(p.low, p.high))
            return {"u0": lambda grid: np.full(grid.shape, value)}
        field = self.field.draw(rng)
        return {"u0": lambda g: p.low + 0.5 * (p.high - p.low) * (1 + np.tanh(field(g)))}

    def storage(self) -> Storage:
        """Dissolved and sorbed contaminant in a unit volume of water."""
        p = self.params
        c, n = (1 - p.porosity) / p.porosity * p.density * p.k, p.exponent
        return Storage(lambda u: u + c * u**n, lambda u: 1 + c * n * u ** (n - 1))

    def evolve(
        self, inputs: Mapping[str, Any], grid: Grid, times: np.ndarray, *,
        solver: str, rtol: float, refine: float = 1.0,
    ) -> Solution:  # fmt: skip
        """Solve by finite volumes, ESDIRK4 and Newton's method."""
        p = self.params
        u0 = inputs["u0"](grid)
        r = solve_parabolic(
            u0, times, grid, diffusivity=p.D, storage=self.storage(),
            boundary=[("dirichlet", "neumann")], boundary_values={(0, 0): 1.0},
            robin={(0, 1): 1.0}, rtol=p.time_rtol / refine**4,
        )  # fmt: skip
        return Solution(
            {"u0": u0, "u": r.x}, r.residual, r.iterations, r.seconds, r.solver,
            time_error=r.info["time_error"],
        )  # fmt: skip

    def convergence_order(self, solver: str) -> float:
        """Finite volumes: 2."""
        return 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        return "vertex-centered finite volumes in conservation form; ESDIRK4(3)6L in time"

    def checks(self) -> Iterator[Check]:
        """Linear sorption against its series, a four times finer reference, mass, steady state."""
        yield from _linear()
        p = DiffusionSorption(n_times=6, time_rtol=1e-7)
        inputs = p.sample(np.random.default_rng(0))
        fine = p.solve(inputs, (1025,), solver="finite_volume")
        errors, h, ratios = [], [], []
        for n in (65, 129, 257):
            s = p.solve(inputs, (n,), solver="finite_volume")
            truth = {"u": fine.fields["u"][:, :: 1024 // (n - 1)]}
            errors.append(space_time_error({"u": s.fields["u"]}, truth, p.grid((n,)), p.times))
            h.append(1 / (n - 1))
            e = p.discretization_error(inputs, s, (n,), solver="finite_volume")
            ratios.append(e / errors[-1])
        yield order_check("order in space against 1025 points", h, errors, 2.0)
        worst = max(ratios, key=lambda r: abs(np.log(r)))
        note = "estimate over error: " + ", ".join(f"{r:.2f}" for r in ratios)
        yield Check(
            "estimate of the error", worst, "1/2 to 2", bool(0.5 <= worst <= 2), "estimate", note
        )
        # mass: between closed walls the content is constant
        grid = p.grid((65,))
        x = grid.coords[0]
        store = p.storage()
        r = solve_parabolic(
            0.1 + 0.08 * np.cos(np.pi * x), [0.0, 50.0, 500.0], grid, diffusivity=p.params.D,
            storage=store,
        )  # fmt: skip
        mass = np.sum(grid.weights * store.content(r.x), axis=1)
        yield at_most(
            "mass between closed walls", float(np.abs(mass / mass[0] - 1).max()), 1e-10,
            kind="invariant",
        )  # fmt: skip
        # steady state: linear from 1 to D / (1 + D) at the right end
        late = DiffusionSorption(t_end=1e6, n_times=2)
        s = late.solve(inputs, (65,), solver="finite_volume")
        d = late.params.D
        line = 1 - x / (1 + d)
        yield at_most("steady state", float(np.abs(s.fields["u"][-1] - line).max()), 1e-7)
        t = np.array([0.0, 20.0, 40.0])

        def run(dt: float) -> Any:
            return solve_parabolic(
                0.3 + 0.2 * np.cos(np.pi * x), t, grid, diffusivity=1e-2, storage=store, dt=dt
            )

        yield from time_checks(
            run, (10.0, 5.0, 2.5), 4.0, grid=grid, times=t, label="ESDIRK4, sorption"
        )


def _linear() -> Iterator[Check]:
    """With n_f = 1 sorption is linear: the eigenmodes ``sin(q x)``, ``D q cos q + sin q = 0``."""
    from scipy.optimize import brentq

    p = DiffusionSorption(
        exponent=1.0, t_end=60.0, n_times=4, time_rtol=1e-7, D=5e-3, low=0.5, high=0.9
    )
    d = p.params.D
    factor = float(p.storage().derivative(np.ones(1))[0])
    q = brentq(lambda q: d * q * np.cos(q) + np.sin(q), np.pi / 2 + 1e-9, np.pi)

    def exact(grid: Grid, times: np.ndarray) -> dict[str, np.ndarray]:
        x = grid.coords[0]
        decay = np.exp(-d * q * q / factor * times)
        return {"u": 1 - x / (1 + d) + 0.2 * np.multiply.outer(decay, np.sin(q * x))}

    inputs = {"u0": lambda g: exact(g, np.zeros(1))["u"][0]}
    yield from space_checks(
        p, inputs, exact, (17, 33, 65), solver="finite_volume", label="linear sorption"
    )
