"""Convection and diffusion of a passive scalar in a random flow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.convection_diffusion import imbalance, solve_convection_diffusion
from solvers.finite_volume import Robin
from solvers.grids import Grid

from ..fields import GaussianField
from ..hdf5.schema import DatasetSchema, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, ProblemError, Solution, register
from ..verification import Check, at_least, at_most, order_check
from ._elliptic import BoxParameters, BoxProblem

__all__ = ["ConvectionDiffusion", "ConvectionDiffusionParameters", "RandomFlow"]

#: Points per axis of the grid on which the largest velocity is measured.
_REFERENCE = {1: 2, 2: 129, 3: 33}


class ConvectionDiffusionParameters(BoxParameters):
    """Parameters of `ConvectionDiffusion`."""

    location: Literal["node"] = Field("node", description="boundary points are included")
    diffusivity: float = Field(0.04, gt=0, le=1e6, allow_inf_nan=False, description="eps, m^2/s")
    speed: float = Field(
        1.0, gt=0, le=1e6, allow_inf_nan=False, description="largest |b| in a sample, m/s"
    )
    velocity: Literal["mixed", "stream", "constant"] = Field(
        "mixed",
        description="constant: one random direction; stream: divergence-free, from a random stream "
        "function (2-D) or vector potential (3-D) that lets nothing through walls; mixed: their "
        "sum, equal largest speeds; in 1-D all are constant",
    )
    alpha: float = Field(3.0, gt=0.5, le=20, description="smoothness of the stream function")
    tau: float = Field(3.0, gt=0, le=1e4, description="its inverse correlation length, 1/m")
    n_modes: int = Field(8, ge=1, le=256, description="its modes per axis")
    reaction: float | None = Field(
        None, ge=0, le=1e9, allow_inf_nan=False,
        description="rate c >= 0, 1/s; default 0, with neumann or periodic sides 1",
    )  # fmt: skip
    source: Literal["gaussian_field", "constant"] = Field(
        "gaussian_field", description="f: a Gaussian random field, stored, or constant"
    )
    amplitude: float = Field(
        1.0, gt=0, le=1e12, allow_inf_nan=False,
        description="value of f, or its standard deviation, 1/s",
    )  # fmt: skip
    max_cell_peclet: float = Field(
        1.0, gt=0, le=1e3,
        description="refuse grids on which speed h / eps is larger; above 1 the order falls "
        "towards 1",
    )  # fmt: skip
    transfer: float = Field(
        1.0, gt=0, le=1e6, allow_inf_nan=False,
        description="kappa of robin sides, eps du/dn + kappa u = 0, m/s",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("reaction") is not None:
            return values
        closed = values.get("boundary") in ("neumann", "periodic")
        return {**values, "reaction": 1.0 if closed else 0.0}

    @model_validator(mode="after")
    def _check(self) -> ConvectionDiffusionParameters:
        if self.boundary in ("neumann", "periodic") and not self.reaction:
            raise ValueError(
                f"reaction={self.reaction}: with boundary={self.boundary!r} need a positive number"
            )
        return self


class RandomFlow:
    """One velocity field: a function of space.

    Parameters
    ----------
    mean : ndarray, shape (dim,)
    potentials : tuple of FieldSample
        Stream function (2-D) or vector potential (3-D); none for a constant.
    scale : float
        Of the part that comes from the potentials.
    """

    def __init__(self, mean: np.ndarray, potentials: tuple[Any, ...] = (), scale: float = 1.0):
        self.mean, self.potentials, self.scale = mean, potentials, scale

    def __call__(self, grid: Grid) -> np.ndarray:
        """Velocity at the points of `grid`, shape ``(*grid, dim)``."""
        out = np.empty((*grid.shape, grid.dim))
        out[:] = self.mean
        if len(self.potentials) == 1:
            (psi,) = self.potentials
            out[..., 0] += self.scale * psi.derivative(1)(grid)
            out[..., 1] -= self.scale * psi.derivative(0)(grid)
        elif self.potentials:
            for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
                a, b = self.potentials[k], self.potentials[j]
                out[..., i] += self.scale * (a.derivative(j)(grid) - b.derivative(k)(grid))
        return out


@register
class ConvectionDiffusion(BoxProblem):
    """``-eps laplace(u) + b . grad u + c u = f`` in a box, ``div b = 0``.

    Parameters
    ----------
    **params
        Fields of `ConvectionDiffusionParameters`.

    Notes
    -----
    Exponentially fitted finite volumes [1]_ obey the discrete maximum principle at every cell
    Peclet number ``P = speed h / eps``. While ``P`` is below 1, which `max_cell_peclet` demands,
    they and central differences are of order 2, elements of degree 2 of order 3, at their nodes 4
    (of degree 1 and order 2 where the number of cells is odd). Central differences, monotone up to
    ``P = 2`` and the more accurate the smaller eps, are the default where ``P <= 1``. FEniCSx
    solves with linear elements and SUPG.

    Sides: ``u = 0``, ``du/dn = 0``, ``eps du/dn + kappa u = 0`` or periodic.

    References
    ----------
    .. [1] Scharfetter & Gummel, IEEE Trans. Electron Devices 16 (1969) 64-77.
    """

    name: ClassVar[str] = "convection_diffusion"
    title: ClassVar[str] = "Convection and diffusion in a random flow"
    equation: ClassVar[str] = (
        r"-\varepsilon\,\Delta u + b\cdot\nabla u + c\,u = f,\quad \nabla\cdot b = 0"
    )
    solvers: ClassVar[tuple[str, ...]] = ("central", "exponential", "galerkin", "fenicsx")
    length_units: ClassVar[str] = "m"
    quick_resolution = 33
    quick_params: ClassVar[Mapping[str, Any]] = {"diffusivity": 0.05}
    reference: ClassVar[str] = "Roos, Stynes, Tobiska, Springer 2008"
    Params: ClassVar[type[Parameters]] = ConvectionDiffusionParameters
    params: ConvectionDiffusionParameters

    def check_resolution(self, resolution: int | tuple[int, ...] | None) -> tuple[int, ...]:
        """Return one number of points an axis, if the cell Peclet number is small enough."""
        shape = super().check_resolution(resolution)
        p = self.params
        peclet = p.speed * max(self.solve_grid(shape).spacing) / p.diffusivity
        if peclet > p.max_cell_peclet:
            finer = math.ceil(max(shape) * peclet / p.max_cell_peclet) + 1
            raise ProblemError(
                f"resolution={'x'.join(map(str, shape))}: the cell Peclet number is {peclet:.3g}, "
                f"allowed max_cell_peclet={p.max_cell_peclet:g}; try {finer} or more, or "
                "solve_refinement"
            )
        return shape

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Velocity `b`, source `f` if random, in; `u` out."""
        p = self.params
        random = p.source == "gaussian_field"
        assert p.reaction is not None
        walls = not random  # f > 0: nothing falls below the zero of the sides
        top = p.amplitude / p.reaction if walls and p.reaction > 0 else None
        fields = [
            FieldSpec(
                "b", "velocity", "m/s", rank=1, valid_min=-1.02 * p.speed, valid_max=1.02 * p.speed
            )
        ]
        if random:
            fields.append(FieldSpec("f", "source", "1/s"))
        scalars = [
            ScalarSpec("diffusivity", "diffusivity", "m^2/s", p.diffusivity),
            ScalarSpec("reaction", "reaction rate", "1/s", p.reaction),
        ]
        if not random:
            scalars.append(ScalarSpec("source", "source", "1/s", p.amplitude))
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=(
                *fields,
                FieldSpec("u", "concentration", valid_min=0.0 if walls else None, valid_max=top),
            ),
            inputs=("b", "f") if random else ("b",),
            outputs=("u",),
            scalars=tuple(scalars),
            boundary_conditions=self.boundary_specs("u", "1", flux_units="m/s"),
            dtype=dtype,
            equation=self.equation,
        )

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the flow, and the source if it is random."""
        p = self.params
        direction = rng.standard_normal(self.dim)
        direction *= p.speed / np.linalg.norm(direction)
        flow = RandomFlow(direction)
        if p.velocity != "constant" and self.dim > 1:
            field = GaussianField(
                p.alpha, p.tau, basis="fourier" if p.boundary == "periodic" else "sine",
                n_modes=p.n_modes, bounds=p.bounds, zero_mean=p.boundary == "periodic",
            )  # fmt: skip
            potentials = tuple(field.draw(rng) for _ in range(1 if self.dim == 2 else 3))
            n, periodic = _REFERENCE[self.dim], p.boundary == "periodic"
            reference = self.grid((n,) * self.dim).resized(n - periodic)

            def largest(flow: RandomFlow) -> float:
                return float(np.linalg.norm(flow(reference), axis=-1).max())

            eddies = RandomFlow(np.zeros(self.dim), potentials)
            scale = p.speed / largest(eddies)
            mean = direction if p.velocity == "mixed" else np.zeros(self.dim)
            whole = largest(RandomFlow(mean, potentials, scale)) / p.speed
            flow = RandomFlow(mean / whole, potentials, scale / whole)
        out: dict[str, Any] = {"b": flow}
        if p.source == "gaussian_field":
            field = self.gaussian_field(alpha=3.0, tau=3.0, n_modes=16)
            out["f"] = field.normalized(p.amplitude).draw(rng)
        return out

    def solve(
        self,
        inputs: Mapping[str, Any],
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> Solution:
        """Solve on a grid."""
        p, grid = self.params, self.solve_grid(resolution)
        b = inputs["b"](grid)
        f = inputs["f"](grid) if "f" in inputs else np.full(grid.shape, p.amplitude)
        self.check_solver(solver)
        if solver == "fenicsx":
            from solvers.fenicsx.transport import solve_transport_fenicsx

            r = solve_transport_fenicsx(
                p.diffusivity, f, grid, velocity=tuple(np.moveaxis(b, -1, 0)),
                reaction=p.reaction or None, boundary=self.sides,
                boundary_values=self.side_values(), rtol=rtol,
            )  # fmt: skip
        else:
            r = solve_convection_diffusion(
                p.diffusivity, tuple(np.moveaxis(b, -1, 0)), f, grid, boundary=self.sides,
                boundary_values=self.side_values(), reaction=p.reaction or None, scheme=solver,
                rtol=rtol,
            )  # fmt: skip
        fields = {"b": self.stored(b), "u": self.stored(r.x)}
        if "f" in inputs:
            fields["f"] = self.stored(f)
        return Solution(fields, r.residual, r.iterations, r.seconds, r.solver)

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose central differences where they are monotone, else exponential fitting."""
        p = self.params
        peclet = p.speed * max(self.solve_grid(resolution).spacing) / p.diffusivity
        return "central" if peclet <= 1.0 and p.max_cell_peclet <= 1.0 else "exponential"

    def check_solver(self, solver: str) -> str:
        """Return `solver` if it can solve the problem with these parameters."""
        super(BoxProblem, self).check_solver(solver)
        if solver == "fenicsx" and self.params.boundary == "periodic":
            raise ProblemError("solver 'fenicsx' has no periodic sides; the others have")
        if solver in ("central", "galerkin") and self.params.max_cell_peclet > 1.9:
            raise ProblemError(
                f"solver {solver!r} needs max_cell_peclet <= 1.9, got "
                f"{self.params.max_cell_peclet:g}; 'exponential' has no limit"
            )
        return solver

    def convergence_order(self, solver: str) -> float:
        """2; of elements 3 (4 where all is smooth); of exponential fitting 1 at large Peclet."""
        if solver == "exponential" and self.params.max_cell_peclet > 2:
            return 1.0
        return 3.0 if solver == "galerkin" else 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        shape = "x".join(map(str, self.solve_grid(resolution).shape))
        if solver == "fenicsx":
            return f"P1 Lagrange elements on simplices, SUPG, {shape} nodes"
        if solver == "galerkin":
            return f"Galerkin elements of degree 2 on boxes, {shape} nodes"
        kind = {"central": "central", "exponential": "exponentially fitted"}[solver]
        return f"vertex-centered finite volumes, {kind} fluxes, {shape} points"

    def checks(self) -> Iterator[Check]:
        """Manufactured orders, a boundary layer, maximum principle, what leaves through walls."""
        for scheme, order in (("central", 2.0), ("exponential", 2.0), ("galerkin", 4.0)):
            yield manufactured_flow(scheme, order)
        for kind in ("neumann", "robin", "periodic"):
            yield manufactured_flow("central", 2.0, kind)
        grid = Grid.unit(17, dim=1)
        x = grid.coords[0]
        r = solve_convection_diffusion(0.01, (1.0,), 1.0, grid)
        exact = x - np.exp((x - 1) * 100.0) * np.expm1(-100 * x) / np.expm1(-100)
        yield at_most(
            "boundary layer in 1-D, cell Peclet number 6", float(np.abs(r.x - exact).max()), 1e-12
        )
        problem = ConvectionDiffusion(
            diffusivity=1e-3, source="constant", reaction=0.5, max_cell_peclet=100
        )
        inputs = problem.sample(np.random.default_rng(0))
        u = problem.solve(inputs, (33, 33), solver="exponential").fields["u"]
        yield at_least("smallest value, cell Peclet number 31", u.min(), 0.0, kind="bounds")
        yield at_most("largest value times c / f", 0.5 * u.max(), 1.0 + 1e-12, kind="bounds")
        problem, losses = ConvectionDiffusion(source="constant", diffusivity=0.1), []
        inputs = problem.sample(np.random.default_rng(1))
        for n in (33, 65, 129):
            grid = problem.grid((n, n))
            s = problem.solve(inputs, (n, n), solver="central")
            b = np.moveaxis(s.fields["b"], -1, 0)
            losses.append(abs(imbalance(s.fields["u"], 0.1, tuple(b), 1.0, grid)))
        yield at_most(
            "source less outflow, 129 x 129", losses[-1], 5e-3, kind="invariant",
            note=", ".join(f"{v:.1e}" for v in losses),
        )  # fmt: skip


def manufactured_flow(scheme: str, order: float, kind: str = "mixed") -> Check:
    """Order for a smooth solution in the divergence-free flow of one stream function."""
    eps, c, kappa = 0.05, 0.7, 0.8
    w = 2 * np.pi if kind == "periodic" else 2.0
    errors, spacings = [], []
    for n in (17, 33, 65):
        grid = Grid.unit(n - (kind == "periodic"), dim=2, periodic=kind == "periodic")
        x, y = grid.meshgrid()
        tx, ty = w * x + 0.3, w * y + 0.5
        u, ux, uy = (
            np.sin(tx) * np.cos(ty),
            w * np.cos(tx) * np.cos(ty),
            -w * np.sin(tx) * np.sin(ty),
        )
        # stream function sin(2 pi x) cos(2 pi y) / (2 pi), and a mean flow
        bx = 0.3 - np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
        by = 0.2 - np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y)
        f = eps * 2 * w**2 * u + bx * ux + by * uy + c * u
        values: dict[tuple[int, int], Any] = {}
        sides: list[Any] = []
        for k, slope in enumerate((ux, uy)):
            pair = ("dirichlet", "neumann") if kind == "mixed" else (kind, kind)
            sides.append(pair)
            for side, name in enumerate(pair):
                flux = (2 * side - 1) * eps * np.take(slope, -side, axis=k)
                trace = np.take(u, -side, axis=k)
                if name == "dirichlet":
                    values[k, side] = trace
                elif name == "neumann":
                    values[k, side] = flux
                elif name == "robin":
                    values[k, side] = Robin(kappa, 1.0, flux + kappa * trace)
        r = solve_convection_diffusion(
            eps, (bx, by), f, grid, boundary=sides, boundary_values=values, reaction=c,
            scheme=scheme,
        )  # fmt: skip
        errors.append(grid.norm(r.x - u))
        spacings.append(grid.spacing[0])
    return order_check(f"order in space, {scheme}, {kind} sides", spacings, errors, order)
