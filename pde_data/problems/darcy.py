"""Darcy flow through a random porous medium."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.diffusion import choose_solver, solve_diffusion
from solvers.grids import Axis, Grid

from ..fields import GaussianField, SpaceFunction, bounded, level_set, lognormal
from ..hdf5.schema import BoundarySpec, DatasetSchema, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, Problem, ProblemError, Solution, register

__all__ = ["Darcy", "DarcyParameters"]

#: Defaults that depend on the kind of coefficient; other parameters do not apply to it.
_BY_COEFFICIENT: dict[str, dict[str, float]] = {
    "two_valued": {"alpha": 2.0, "low": 3.0, "high": 12.0},
    "log_normal": {"alpha": 2.0, "sigma": 1.0},
    "smooth": {"alpha": 4.0, "low": 3.0, "high": 12.0},
}
_SPECIFIC = ("low", "high", "sigma")


class DarcyParameters(Parameters):
    """Parameters of `Darcy`."""

    coefficient: Literal["two_valued", "log_normal", "smooth"] = Field(
        "two_valued",
        description="two_valued: high where a Gaussian field is >= 0, else low; log_normal: its "
        "exponential; smooth: between low and high, (low + high)/2 + (high - low)/2 tanh(field)",
    )
    low: float | None = Field(
        None, gt=0, description="smaller value of a, m^2/(Pa*s); two_valued and smooth, default 3"
    )
    high: float | None = Field(
        None, gt=0, description="larger value of a, m^2/(Pa*s); two_valued and smooth, default 12"
    )
    alpha: float | None = Field(
        None,
        gt=1,
        le=20,
        description="smoothness of the Gaussian field, N(0, (-Laplacian + tau^2)^(-alpha)) with "
        "zero Neumann conditions; default 2, for smooth 4",
    )
    tau: float = Field(3.0, gt=0, description="inverse correlation length of the field, 1/m")
    sigma: float | None = Field(
        None,
        gt=0,
        le=10,
        description="standard deviation of log a, averaged over the domain; log_normal, default 1",
    )
    n_modes: int = Field(
        128, ge=2, le=4096, description="cosine modes per axis; the field has no finer detail"
    )
    zero_mean: bool = Field(
        True,
        description="leave out the constant mode of the field, as the FNO data do; false: "
        "two_valued samples of a single value occur, and repeat",
    )
    forcing: float = Field(1.0, gt=0, description="f, constant, 1/s")
    bounds: tuple[tuple[float, float], tuple[float, float]] = Field(
        ((0.0, 1.0), (0.0, 1.0)), description="the rectangle, one (lower, upper) pair an axis, m"
    )
    location: Literal["node", "cell_center"] = Field(
        "node", description="node: boundary points included; cell_center: centers of n cells"
    )
    average: Literal["harmonic", "arithmetic"] = Field(
        "harmonic", description="mean of a on the faces of finite volumes; fenicsx ignores it"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        kind = values.get("coefficient", "two_valued") if isinstance(values, Mapping) else None
        if kind not in _BY_COEFFICIENT:
            return values  # the field's own check names it
        defaults = _BY_COEFFICIENT[kind]
        for name in _SPECIFIC:
            if values.get(name) is not None and name not in defaults:
                raise ValueError(f"{name}={values[name]} has no effect with coefficient={kind!r}")
        return {**values, **{k: v for k, v in defaults.items() if values.get(k) is None}}

    @model_validator(mode="after")
    def _check(self) -> DarcyParameters:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: need low < high")
        for lower, upper in self.bounds:
            if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
                raise ValueError(f"bounds={self.bounds}: need finite ends, lower < upper")
        return self


@register
class Darcy(Problem):
    """Steady flow: ``-div(a grad u) = f`` in a rectangle, ``u = 0`` on its boundary.

    Parameters
    ----------
    **params
        Fields of `DarcyParameters`.

    Notes
    -----
    The default coefficient is that of the FNO paper's data [1]_, 12 where a Gaussian field is
    positive and 3 elsewhere, with two differences: the field has 128 cosine modes per axis at every
    resolution, so that a sample is one function of space; and the solution is computed at the grid
    points, not spline-interpolated from one grid to another, so that it stays positive.

    *Accuracy*, relative L2 against 1025 x 1025 at n = 33, 65, 129, 257 points per axis (mean of 6
    samples, 4 for fenicsx; the reference of two_valued is itself good to about 5e-4):

    ==========  ===========  =======  =======  =======  =======  =====
    a           faces        33       65       129      257      order
    ==========  ===========  =======  =======  =======  =======  =====
    two_valued  harmonic     1.3e-2   5.9e-3   2.7e-3   1.3e-3   1.1
    two_valued  arithmetic   1.9e-2   9.4e-3   4.9e-3   2.4e-3   1.0
    two_valued  fenicsx P1   2.6e-2   1.3e-2   6.6e-3   3.6e-3   1.0
    log_normal  harmonic     3.0e-3   7.9e-4   1.9e-4   4.8e-5   2.0
    log_normal  arithmetic   5.7e-3   1.7e-3   4.8e-4   1.2e-4   1.9
    log_normal  fenicsx P1   8.1e-3   2.4e-3   6.8e-4   1.8e-4   1.8
    smooth      harmonic     7.4e-4   1.8e-4   4.6e-5   1.1e-5   2.0
    smooth      arithmetic   8.7e-4   2.2e-4   5.4e-5   1.3e-5   2.0
    smooth      fenicsx P1   1.1e-3   2.8e-4   7.0e-5   1.7e-5   2.0
    ==========  ===========  =======  =======  =======  =======  =====

    Interfaces cut the cells anywhere, which costs an order; harmonic means halve the error there,
    and are the default. Richardson's estimate with ``p = 1`` (two_valued) is 1.0 to 1.6 times the
    true error from 65 points on, at 33 up to 2.4 times; with ``p = 2`` (others) 0.9 to 1.1 times.

    References
    ----------
    .. [1] Li et al., "Fourier neural operator for parametric partial differential equations",
       ICLR 2021, arXiv:2010.08895, section 5.2.
    """

    name: ClassVar[str] = "darcy"
    title: ClassVar[str] = "Darcy flow through a random medium"
    equation: ClassVar[str] = r"-\nabla\cdot(a\,\nabla u) = f,\quad u|_{\partial\Omega} = 0"
    solvers: ClassVar[tuple[str, ...]] = ("structured", "pyamg", "direct", "fenicsx")
    dim = 2
    Params: ClassVar[type[Parameters]] = DarcyParameters
    params: DarcyParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        assert p.alpha is not None
        self.field = GaussianField(
            p.alpha, p.tau, n_modes=p.n_modes, bounds=p.bounds, zero_mean=p.zero_mean
        ).normalized(p.sigma or 1.0)

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Grid with `resolution` points per axis."""
        return Grid(
            tuple(
                Axis(name, n, lower, upper, location=self.params.location, units="m")
                for name, n, (lower, upper) in zip(
                    "xy", resolution, self.params.bounds, strict=True
                )
            )
        )

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Permeability `a` in, pressure `u` out."""
        p = self.params
        low = 0.0 if p.low is None else p.low
        # Talenti's comparison: u is at most that of a = low on the disk of equal area
        area = math.prod(upper - lower for lower, upper in p.bounds)
        u_max = None if p.low is None else p.forcing * area / (4 * math.pi * p.low)
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=(
                FieldSpec(
                    "a", "permeability over viscosity", "m^2/(Pa*s)", location=p.location,
                    valid_min=low, valid_max=p.high,
                ),
                FieldSpec(
                    "u", "pressure", "Pa", location=p.location, valid_min=0.0, valid_max=u_max
                ),
            ),
            inputs=("a",),
            outputs=("u",),
            scalars=(ScalarSpec("forcing", "volumetric source", "1/s", p.forcing),),
            boundary_conditions=tuple(
                BoundarySpec(axis, "dirichlet", ("u",), units="Pa") for axis in "xy"
            ),
            dtype=dtype,
            equation=self.equation,
            sampling="nodal" if p.location == "node" else "cell centers",
        )  # fmt: skip

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the coefficient: ``{"a": function of space}``."""
        p, mu = self.params, self.field.draw(rng)
        if p.low is None or p.high is None:
            return {"a": lognormal(mu)}
        if p.coefficient == "two_valued":
            return {"a": level_set(mu, p.low, p.high)}
        return {"a": bounded(mu, p.low, p.high)}

    def solve(
        self,
        inputs: Mapping[str, SpaceFunction],
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> Solution:
        """Solve for the pressure on a grid."""
        grid = self.grid(resolution)
        a = inputs["a"](grid)
        r = solve_diffusion(
            a, self.params.forcing, grid, average=self.params.average,
            solver=self.check_solver(solver), rtol=rtol,
        )  # fmt: skip
        return Solution({"a": a, "u": r.x}, r.residual, r.iterations, r.seconds, r.solver)

    def convergence_order(self, solver: str) -> float:
        """1 where `a` jumps or is rough, else 2: measured, see the class."""
        rough = self.params.coefficient == "two_valued" or self.field.alpha < 2
        return 1.0 if rough else 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        if solver == "fenicsx":
            cells = "x".join(str(n - 1) for n in resolution)
            return f"P1 Lagrange, {cells} squares cut into triangles, a piecewise linear"
        where = "vertex" if self.params.location == "node" else "cell"
        return f"{where}-centered finite volumes, {self.params.average} face means of a"

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose the fastest solver for the grid, see `solvers.diffusion.choose_solver`."""
        return choose_solver(self.grid(resolution))

    def check_solver(self, solver: str) -> str:
        """Return `solver` if it can solve the problem with these parameters."""
        super().check_solver(solver)
        if solver == "fenicsx" and self.params.location != "node":
            raise ProblemError(
                f"solver 'fenicsx' needs location='node', got {self.params.location!r}; "
                "structured, pyamg and direct solve both"
            )
        return solver
