"""Poisson's equation with a random source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.diffusion import solve_diffusion
from solvers.verify import l2_error

from ..fields import FieldSample, GaussianBumps, SineSum, SpaceFunction
from ..hdf5.schema import DatasetSchema, FieldSpec
from ..problem import Dtype, Parameters, Solution, register
from ..verification import Check, agreement, at_most, order_check
from ._elliptic import BoxParameters, BoxProblem, balanced
from .darcy import manufactured_order

__all__ = ["Poisson", "PoissonParameters", "inverse_laplacian"]

#: Parameters of each kind of source.
_OF_SOURCE = {
    "gaussian_field": ("alpha", "tau"),
    "bumps": ("n_bumps", "width_min", "width_max"),
    "sine_sum": ("decay",),
}


class PoissonParameters(BoxParameters):
    """Parameters of `Poisson`."""

    source: Literal["gaussian_field", "bumps", "sine_sum"] = Field(
        "gaussian_field",
        description="f: a Gaussian random field; a sum of Gaussian bumps; a sum of sine waves with "
        "uniform coefficients a_k |k|^(-2 decay), as in the Poisson set of CNO",
    )
    amplitude: float = Field(
        1.0, gt=0, le=1e12, allow_inf_nan=False,
        description="of f: standard deviation over the domain (gaussian_field), of the heights "
        "(bumps); largest coefficient of the first wave times dim^decay (sine_sum)",
    )  # fmt: skip
    alpha: float = Field(
        2.0, gt=0.5, le=20, description="smoothness of gaussian_field, (-Laplacian + tau^2)^-alpha"
    )
    tau: float = Field(
        3.0, gt=0, le=1e4, description="inverse correlation length of gaussian_field, 1/length"
    )
    n_modes: int = Field(
        16, ge=2, le=512, description="modes per axis of gaussian_field and sine_sum"
    )
    decay: float = Field(0.5, ge=-2, le=10, description="of the coefficients of sine_sum")
    n_bumps: int = Field(4, ge=1, le=10_000, description="number of bumps")
    width_min: float = Field(
        0.05, gt=0, description="smallest standard deviation of a bump, units of length"
    )
    width_max: float = Field(
        0.2, gt=0,
        description="largest; with periodic sides at most a quarter of the box",
    )  # fmt: skip
    boundary_data: Literal["zero", "random"] = Field(
        "zero",
        description="right-hand side g on the sides: zero, or the trace of a smooth Gaussian "
        "field, stored as input g (values on dirichlet, fluxes on neumann, both on robin sides)",
    )
    boundary_std: float = Field(
        0.1, gt=0, le=1e12, allow_inf_nan=False,
        description="standard deviation of random boundary data, averaged over the domain",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> PoissonParameters:
        given = self.model_fields_set
        for source, names in _OF_SOURCE.items():
            for name in names:
                value = getattr(self, name)
                default = type(self).model_fields[name].default
                if source != self.source and name in given and value != default:
                    raise ValueError(f"{name}={value} has no effect with source={self.source!r}")
        if not self.width_min <= self.width_max:
            raise ValueError(
                f"width_min={self.width_min}, width_max={self.width_max}: need min <= max"
            )
        length = min(upper - lower for lower, upper in self.bounds)
        if self.source == "bumps" and self.boundary == "periodic" and self.width_max > length / 4:
            raise ValueError(
                f"width_max={self.width_max}: with periodic sides at most {length / 4:g}, a "
                "quarter of the box"
            )
        if self.boundary_data == "random" and self.boundary in ("neumann", "periodic"):
            raise ValueError(
                f"boundary_data='random' needs dirichlet, robin or mixed sides, got {self.boundary}"
            )
        if self.boundary_data == "random" and self.location != "node":
            raise ValueError("boundary_data='random' needs location='node'")
        if self.source == "sine_sum" and self.boundary == "periodic":
            raise ValueError("source='sine_sum': half waves are not periodic; use gaussian_field")
        return self


@register
class Poisson(BoxProblem):
    """``-laplace(u) = f`` in a box with a random source.

    Parameters
    ----------
    **params
        Fields of `PoissonParameters`.

    Notes
    -----
    *Sides*: ``u = g``, ``du/dn = g``, ``du/dn + kappa u = g``, or periodic; ``g = 0`` unless
    `boundary_data` is random. Then `g` is an input defined in the whole box, of which only the
    trace counts, and the file states no conditions, since models would take their values for known.
    With Neumann or periodic sides the mean of `f` on the grid is taken off, and `u` has mean zero.

    *Accuracy*: second order. With ``source="sine_sum"`` and Dirichlet sides the exact solution is a
    sum of the same waves (`inverse_laplacian`), to which `checks` compares. The CNO set [1]_ is
    ``source="sine_sum", n_modes=16, amplitude=pi/256``; the sign of its exponent is not clear from
    the text: ``decay=0.5`` damps the coefficients of `f` by ``1/|k|``, ``decay=-0.5`` lets them
    grow.

    References
    ----------
    .. [1] Raonic et al., "Convolutional neural operators for robust and accurate learning of PDEs",
       NeurIPS 2023, arXiv:2302.01178.
    """

    name: ClassVar[str] = "poisson"
    title: ClassVar[str] = "Poisson equation with a random source"
    equation: ClassVar[str] = r"-\Delta u = f"
    solvers: ClassVar[tuple[str, ...]] = ("structured", "pyamg", "direct", "fenicsx")
    quick_resolution = 33
    reference: ClassVar[str] = "Raonic et al. 2023, arXiv:2302.01178 (sine_sum)"
    Params: ClassVar[type[Parameters]] = PoissonParameters
    params: PoissonParameters

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Source `f`, boundary data `g` if random, in; `u` out."""
        p = self.params
        random = p.boundary_data == "random"
        fields = [FieldSpec("f", "source", location=p.location)]
        if random:
            fields.append(
                FieldSpec("g", "boundary data, of which the trace counts", location=p.location)
            )
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=(*fields, FieldSpec("u", "solution", location=p.location)),
            inputs=("f", "g") if random else ("f",),
            outputs=("u",),
            boundary_conditions=self.boundary_specs("u", "1", flux_units="1", known=not random),
            dtype=dtype,
            equation=self.equation,
            sampling="nodal" if p.location == "node" else "cell centers",
        )

    def sample(self, rng: np.random.Generator) -> dict[str, SpaceFunction]:
        """Draw the source, and the boundary data if they are random."""
        p = self.params
        out: dict[str, SpaceFunction] = {}
        if p.source == "gaussian_field":
            field = self.gaussian_field(
                alpha=p.alpha, tau=p.tau, n_modes=p.n_modes,
                zero_mean=p.boundary in ("neumann", "periodic"),
            )  # fmt: skip
            out["f"] = field.normalized(p.amplitude).draw(rng)
        elif p.source == "bumps":
            out["f"] = GaussianBumps(
                p.n_bumps, (p.width_min, p.width_max), p.amplitude, bounds=p.bounds,
                periodic=p.boundary == "periodic",
            ).draw(rng)  # fmt: skip
        else:
            out["f"] = SineSum(p.n_modes, p.decay, p.amplitude, bounds=p.bounds).draw(rng)
        if p.boundary_data == "random":
            smooth = self.gaussian_field(alpha=4.0, tau=3.0, n_modes=16)
            out["g"] = smooth.normalized(p.boundary_std).draw(rng)
        return out

    def solve(
        self,
        inputs: Mapping[str, SpaceFunction],
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> Solution:
        """Solve on a grid."""
        grid = self.solve_grid(resolution)
        f = inputs["f"](grid)
        if self.params.boundary in ("neumann", "periodic"):
            f = balanced(f, grid)
        g = inputs["g"](grid) if "g" in inputs else None
        r = solve_diffusion(
            1.0, f, grid, boundary=self.sides, boundary_values=self.side_values(g),
            solver=self.check_solver(solver), rtol=rtol, singular="project",
        )  # fmt: skip
        fields = {"f": self.stored(f), "u": self.stored(r.x)}
        if "g" in inputs:
            fields["g"] = inputs["g"](self.grid(resolution))
        return Solution(fields, r.residual, r.iterations, r.seconds, r.solver)

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        shape = "x".join(map(str, self.solve_grid(resolution).shape))
        if solver == "fenicsx":
            return f"P1 Lagrange elements on {shape} nodes"
        where = "vertex" if self.params.location == "node" else "cell"
        return f"{where}-centered finite volumes on {shape} points"

    def checks(self) -> Iterator[Check]:
        """Exact solutions of sine sources, manufactured ones for all sides, flow balance."""
        for dim in (1, 2, 3):
            problem = Poisson(source="sine_sum", n_modes=4, dim=dim)
            inputs = problem.sample(np.random.default_rng(0))
            exact = inverse_laplacian(inputs["f"])
            errors, spacings, ratios = [], [], []
            for n in (17, 33, 65) if dim < 3 else (9, 17, 25):
                shape = (n,) * dim
                grid, solver = problem.grid(shape), problem.choose_solver(shape)
                s = problem.solve(inputs, shape, solver=solver)
                errors.append(l2_error(s.fields["u"], exact(grid), grid, relative=True))
                spacings.append(grid.spacing[0])
                if dim < 3:
                    e = problem.discretization_error(inputs, s, shape, solver=solver)
                    ratios.append(e / errors[-1])
            yield order_check(f"order in space against the series, {dim}-D", spacings, errors, 2.0)
            if ratios:
                worst = max(ratios, key=lambda r: abs(np.log(r)))
                yield agreement(
                    f"estimated over true error, {dim}-D", worst, 1.0, within=0.5, kind="estimate"
                )
        for kind in ("neumann", "robin", "mixed", "periodic"):
            yield manufactured_order(kind, 2)
        robin = Poisson(boundary="robin", n_modes=8)
        s = robin.solve(robin.sample(np.random.default_rng(1)), (33, 33), solver="structured")
        grid, u = robin.grid((33, 33)), s.fields["u"]
        w = grid.axes[0].weights
        out = sum(
            float(w @ np.take(u, -side, axis=k)) for k in (0, 1) for side in (0, 1)
        ) * robin.params.transfer  # fmt: skip
        source = float(np.sum(grid.weights * s.fields["f"]))
        scale = float(np.sum(grid.weights * np.abs(s.fields["f"])))
        yield at_most(
            "heat lost through robin sides against the source", abs(out - source) / scale, 1e-8,
            kind="invariant",
        )  # fmt: skip


def inverse_laplacian(f: Any) -> FieldSample:
    """Solution of ``-laplace(u) = f`` with ``u = 0`` on the sides, for a series of sines `f`."""
    square: Any = 0.0
    for k in range(f.field.dim):
        square = np.add.outer(square, f.field._frequencies(k) ** 2)
    return FieldSample(f.field, f.coefficients / square)
