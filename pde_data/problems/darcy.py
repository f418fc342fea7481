"""Darcy flow through a random porous medium."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from solvers.diffusion import solve_diffusion
from solvers.grids import Grid
from solvers.verify import l2_error, manufactured_diffusion

from ..fields import SpaceFunction, TrigonometricProduct, bounded, level_set, lognormal
from ..hdf5.schema import DatasetSchema, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, Solution, register
from ..verification import Check, at_most, order_check
from ._elliptic import BoxParameters, BoxProblem, balanced

__all__ = ["PRESETS", "Darcy", "DarcyParameters"]

#: Defaults that depend on the kind of coefficient; other parameters do not apply to it.
_BY_COEFFICIENT: dict[str, dict[str, float]] = {
    "two_valued": {"alpha": 2.0, "low": 3.0, "high": 12.0},
    "log_normal": {"alpha": 2.0, "sigma": 1.0},
    "smooth": {"alpha": 4.0, "low": 3.0, "high": 12.0},
    "multiscale": {},
}
_SPECIFIC = ("alpha", "low", "high", "sigma")
#: Data sets of papers; the resolution that goes with each is in the class.
PRESETS: dict[str, dict[str, Any]] = {
    "fno": {"coefficient": "two_valued", "tau": 3.0, "low": 3.0, "high": 12.0,
            "solve_refinement": 2},
    "mgno_smooth": {"coefficient": "two_valued", "tau": 3.0, "low": 3.0, "high": 12.0,
                    "solve_refinement": 2},
    "mgno_rough": {"coefficient": "two_valued", "tau": 5.0, "low": 2.0, "high": 12.0,
                   "solve_refinement": 2},
    "mgno_multiscale": {"coefficient": "multiscale", "solve_refinement": 4},
}  # fmt: skip
#: Parameters that datasets of the first version do not have; left out of a configuration at these
#: values, so that those datasets can be continued.
_ADDED = {"dim": 2, "boundary": "dirichlet", "transfer": 10.0, "solve_refinement": 1,
          "preset": None}  # fmt: skip


class DarcyParameters(BoxParameters):
    """Parameters of `Darcy`."""

    preset: Literal["fno", "mgno_smooth", "mgno_rough", "mgno_multiscale"] | None = Field(
        None, description="data set of a paper: sets the parameters that are not given"
    )
    coefficient: Literal["two_valued", "log_normal", "smooth", "multiscale"] = Field(
        "two_valued",
        description="two_valued: high where a Gaussian field is >= 0, else low; log_normal: its "
        "exponential; smooth: between low and high, (low + high)/2 + (high - low)/2 tanh(field); "
        "multiscale: product of six pairs of waves, 2-D",
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
        128,
        ge=2,
        le=4096,
        description="modes per axis; the field has no finer detail; default in 3-D: 32",
    )
    zero_mean: bool = Field(
        True,
        description="leave out the constant mode of the field, as the FNO data do; false: "
        "two_valued samples of a single value occur, and repeat",
    )
    forcing: float = Field(
        1.0,
        gt=0,
        description="f, 1/s: constant; with neumann or periodic sides the amplitude of a cosine "
        "along x, half a wave or a whole one, so that as much goes in as out",
    )
    transfer: float = Field(
        10.0, gt=0, le=1e6, allow_inf_nan=False,
        description="kappa of robin sides, a du/dn + kappa u = 0, m/(Pa*s)",
    )  # fmt: skip
    bounds: tuple[tuple[float, float], ...] = Field(
        ((0.0, 1.0), (0.0, 1.0)),
        description="the box, one (lower, upper) pair an axis, m; default (0, 1) for each",
    )
    average: Literal["harmonic", "arithmetic"] = Field(
        "harmonic", description="mean of a on the faces of finite volumes; fenicsx ignores it"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = values.get("preset")
        if isinstance(preset, str):
            values = {**PRESETS.get(preset, {}), **values}
        if values.get("dim") == 3:
            values = {"n_modes": 32, **values}
        kind = values.get("coefficient", "two_valued")
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
        if self.coefficient == "multiscale" and self.dim != 2:
            raise ValueError(f"dim={self.dim}: coefficient='multiscale' is defined for dim=2")
        if self.coefficient == "multiscale" and self.boundary == "periodic":
            raise ValueError("boundary='periodic': coefficient='multiscale' is not periodic")
        return self

    @model_serializer(mode="wrap")
    def _without_added_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        return {k: v for k, v in values.items() if k not in _ADDED or v != _ADDED[k]}


@register
class Darcy(BoxProblem):
    """Steady flow: ``-div(a grad u) = f`` in a box, ``u = 0`` on its boundary by default.

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

    *Data sets* (`preset`), with the resolution to ask for; each is solved on the finer grid of the
    original and stored at every second or fourth point:

    ===============  ======================================================  ==========  =======
    preset           coefficient                                             resolution  solved
    ===============  ======================================================  ==========  =======
    fno              12 / 3, tau = 3                                         211         421
    mgno_smooth      the same                                                211         421
    mgno_rough       12 / 2, tau = 5                                         257 (256)   513
    mgno_multiscale  product of trigonometric functions, 2.4e-4 to 130       257 (256)   1025
    ===============  ======================================================  ==========  =======

    In brackets the size in the original, which leaves out one boundary point. The shortest waves of
    the multiscale coefficient [2]_ are 0.013 long, 3.4 points of a 257 grid: the data resolve the
    solution, not the coefficient. Its values differ by a factor of 10^5, so that rounding allows a
    relative residual of 1e-10 at best on 1025 points; 1e-9 is asked at most.

    *Sides*: Robin is ``a du/dn + kappa u = 0``; with Neumann or periodic sides the source is
    ``forcing cos(pi x)`` or ``forcing cos(2 pi x)`` across the box, and `u` has mean zero.

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

    The multiscale coefficient is of order 2 once it is resolved: harmonic means on 65, 129, 257 and
    513 points are off by 1.2e-1, 6.6e-2, 1.9e-2 and 4e-3 against 1025, and the estimate with
    ``p = 2`` is 0.6, 1.0 and 1.0 times the error on the first three.

    Interfaces cut the cells anywhere, which costs an order; harmonic means halve the error there,
    and are the default. Richardson's estimate with ``p = 1`` (two_valued) is 1.0 to 1.6 times the
    true error from 65 points on, at 33 up to 2.4 times; with ``p = 2`` (others) 0.9 to 1.1 times.

    References
    ----------
    .. [1] Li et al., "Fourier neural operator for parametric partial differential equations",
       ICLR 2021, arXiv:2010.08895, section 5.2.
    .. [2] He, Liu, Xu, "MgNO: efficient parameterization of linear operators via multigrid",
       ICLR 2024, arXiv:2310.19809, section 5.
    """

    name: ClassVar[str] = "darcy"
    title: ClassVar[str] = "Darcy flow through a random medium"
    equation: ClassVar[str] = r"-\nabla\cdot(a\,\nabla u) = f,\quad u|_{\partial\Omega} = 0"
    reference: ClassVar[str] = "Li et al. 2021, arXiv:2010.08895; He et al. 2024, arXiv:2310.19809"
    length_units: ClassVar[str] = "m"
    quick_resolution = 33
    quick_params: ClassVar[Mapping[str, Any]] = {"coefficient": "smooth", "n_modes": 32}
    solvers: ClassVar[tuple[str, ...]] = ("structured", "pyamg", "direct", "fenicsx")
    mpi_solvers: ClassVar[tuple[str, ...]] = ("fenicsx",)
    Params: ClassVar[type[Parameters]] = DarcyParameters
    params: DarcyParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        p = self.params
        self.field = self.gaussian_field(
            alpha=p.alpha or 2.0, tau=p.tau, n_modes=p.n_modes, zero_mean=p.zero_mean
        ).normalized(p.sigma or 1.0)

    def source(self, grid: Grid) -> np.ndarray:
        """Source at the points of a grid."""
        p = self.params
        if p.boundary not in ("neumann", "periodic"):
            return np.full(grid.shape, p.forcing)
        lower, upper = p.bounds[0]
        waves = 1 if p.boundary == "neumann" else 2
        s = (grid.meshgrid()[0] - lower) / (upper - lower)
        return balanced(p.forcing * np.cos(waves * np.pi * s), grid)  # rounding alone is taken off

    def _pressure_bounds(self) -> tuple[float | None, float | None]:
        """Bounds by the maximum principle and Talenti's comparison.

        The pressure is at most that of ``a = low`` on the ball of equal volume.
        """
        p = self.params
        low = TrigonometricProduct().low if p.coefficient == "multiscale" else p.low
        if p.boundary in ("neumann", "periodic"):
            return None, None
        if low is None or p.boundary != "dirichlet":
            return 0.0, None
        volume = math.prod(upper - lower for lower, upper in p.bounds)
        if self.dim == 2:
            return 0.0, p.forcing * volume / (4 * math.pi * low)
        if self.dim == 3:
            return 0.0, p.forcing * (volume * 0.75 / math.pi) ** (2 / 3) / (6 * low)
        # half a cell less of resistance at each end lets cell centers exceed it
        return 0.0, p.forcing * volume**2 / (8 * low) if p.location == "node" else None

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Permeability `a` in, pressure `u` out."""
        p = self.params
        waves = TrigonometricProduct()
        low, high = (waves.low, waves.high) if p.coefficient == "multiscale" else (p.low, p.high)
        u_min, u_max = self._pressure_bounds()
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=(
                FieldSpec(
                    "a", "permeability over viscosity", "m^2/(Pa*s)", location=p.location,
                    valid_min=0.0 if low is None else low, valid_max=high,
                ),
                FieldSpec(
                    "u", "pressure", "Pa", location=p.location, valid_min=u_min, valid_max=u_max
                ),
            ),
            inputs=("a",),
            outputs=("u",),
            scalars=(ScalarSpec("forcing", "volumetric source", "1/s", p.forcing),),
            boundary_conditions=self.boundary_specs("u", "Pa", flux_units="m/s"),
            dtype=dtype,
            equation=self.equation,
            sampling="nodal" if p.location == "node" else "cell centers",
        )  # fmt: skip

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the coefficient: ``{"a": function of space}``."""
        p = self.params
        if p.coefficient == "multiscale":
            return {"a": TrigonometricProduct().draw(rng)}
        mu = self.field.draw(rng)
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
        grid = self.solve_grid(resolution)
        a = inputs["a"](grid)
        if self.params.coefficient == "multiscale":
            rtol = max(rtol, 1e-9)  # on 1025 points rounding allows no less than 1e-10
        r = solve_diffusion(
            a, self.source(grid), grid, boundary=self.sides, boundary_values=self.side_values(),
            average=self.params.average, solver=self.check_solver(solver), rtol=rtol,
            singular="project",
        )  # fmt: skip
        fields = {"a": self.stored(a), "u": self.stored(r.x)}
        return Solution(fields, r.residual, r.iterations, r.seconds, r.solver)

    def convergence_order(self, solver: str) -> float:
        """1 where `a` jumps or is rough, else 2: measured, see the class."""
        rough = self.params.coefficient == "two_valued" or self.field.alpha < 2
        return 1.0 if rough else 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        shape = self.solve_grid(resolution).shape
        if solver == "fenicsx":
            cells = "x".join(str(n - 1) for n in shape)
            kind = {1: "intervals", 2: "squares cut into triangles", 3: "cubes cut into tetrahedra"}
            return f"P1 Lagrange, {cells} {kind[self.dim]}, a piecewise linear"
        where = "vertex" if self.params.location == "node" else "cell"
        text = f"{where}-centered finite volumes, {self.params.average} face means of a"
        if self.params.solve_refinement == 1:
            return text
        points = "x".join(map(str, shape))
        return f"{text}, on {points} points"

    def checks(self) -> Iterator[Check]:
        """Manufactured solutions for every kind of side, scaling, and what flows out."""
        for kind in ("dirichlet", "neumann", "robin", "mixed", "periodic"):
            yield manufactured_order(kind, 2)
        for dim in (1, 3):
            yield manufactured_order("dirichlet", dim)
        problem = Darcy(coefficient="smooth", n_modes=32)
        inputs = problem.sample(np.random.default_rng(0))
        errors, spacings = [], []
        for n in (33, 65, 129):
            s = problem.solve(inputs, (n, n), solver="structured")
            errors.append(abs(outflow(s.fields["a"], s.fields["u"], problem.grid((n, n))) - 1.0))
            spacings.append(1 / (n - 1))
        yield at_most(
            "flow through the sides against the source, 129 x 129", errors[-1], 2e-2,
            kind="invariant", note="one-sided differences at the sides; "
            + ", ".join(f"{e:.1e}" for e in errors),
        )  # fmt: skip


def outflow(a: np.ndarray, u: np.ndarray, grid: Grid) -> float:
    """Flow out through the sides, one-sided differences of second order."""
    total = 0.0
    for k, axis in enumerate(grid.axes):
        others = [x.weights for i, x in enumerate(grid.axes) if i != k]
        w = np.asarray(math.prod(others) if len(others) < 2 else np.multiply.outer(*others))
        for v, b in ((u, a), (np.flip(u, k), np.flip(a, k))):
            slope = np.take(v, 1, k) * 4 - np.take(v, 2, k) - 3 * np.take(v, 0, k)
            total += float(np.sum(w * np.take(b, 0, k) * slope)) / (2 * axis.spacing)
    return total


def manufactured_order(kind: str, dim: int) -> Check:
    """Observed order of the finite volumes on a known solution with this kind of side."""
    sides = {"mixed": ("dirichlet", "neumann")}.get(kind, (kind, kind))
    ms = manufactured_diffusion(dim, boundary=[sides] * dim)
    free = kind in ("neumann", "periodic")
    errors, spacings = [], []
    for n in (17, 33, 65) if dim < 3 else (9, 17, 25):
        grid = Grid.unit(n, dim=dim, periodic=kind == "periodic")
        data = ms.fields(grid)
        r = solve_diffusion(
            data["a"], data["f"], grid, boundary=ms.boundary,
            boundary_values=ms.boundary_values(grid), singular="project",
        )  # fmt: skip
        errors.append(l2_error(r.x, ms.solution, grid, relative=True, free_constant=free))
        spacings.append(grid.spacing[0])
    return order_check(f"order in space, {kind} sides, {dim}-D", spacings, errors, 2.0)
