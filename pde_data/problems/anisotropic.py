"""Diffusion in a random anisotropic medium."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.diffusion import choose_solver, solve_diffusion
from solvers.elements import best_degree
from solvers.finite_volume import Robin
from solvers.grids import Axis, Grid
from solvers.tensor_diffusion import solve_tensor_diffusion

from ..fields import FieldSample
from ..hdf5.schema import DatasetSchema, FieldSpec, ScalarSpec
from ..problem import Dtype, Parameters, ProblemError, Solution, register
from ..verification import Check, at_most, order_check
from ._elliptic import BoxParameters, BoxProblem, balanced

__all__ = ["AnisotropicDiffusion", "AnisotropicDiffusionParameters", "RandomTensor"]

_FINITE_VOLUMES = ("structured", "pyamg", "direct")


class AnisotropicDiffusionParameters(BoxParameters):
    """Parameters of `AnisotropicDiffusion`."""

    location: Literal["node"] = Field("node", description="boundary points are included")
    tensor: Literal["rotated", "diagonal"] = Field(
        "rotated",
        description="rotated: principal axes at a random angle, 2-D; diagonal: along the axes",
    )
    ratio_max: float = Field(
        10.0, ge=1, le=1000,
        description="largest over smallest diffusivity, log-uniform from 1 to this in each sample",
    )  # fmt: skip
    sigma: float = Field(
        0.5, ge=0, le=3,
        description="standard deviation of log a, the diffusivity along the first principal axis, "
        "exp of a Gaussian field",
    )  # fmt: skip
    angle_std: float = Field(
        0.0, ge=0, le=10,
        description="standard deviation of the angle about the sample's mean one, a Gaussian "
        "field, radians; 0: one angle a sample; rotated",
    )  # fmt: skip
    alpha: float = Field(
        3.0, gt=0.5, le=20, description="smoothness of the fields, (-Laplacian + tau^2)^-alpha"
    )
    tau: float = Field(3.0, gt=0, le=1e4, description="their inverse correlation length, 1/length")
    n_modes: int = Field(16, ge=2, le=512, description="their modes per axis")
    forcing: float = Field(
        1.0, gt=0, le=1e12, allow_inf_nan=False,
        description="f, constant; with neumann or periodic sides the amplitude of a cosine along x",
    )  # fmt: skip
    transfer: float = Field(
        1.0, gt=0, le=1e6, allow_inf_nan=False,
        description="kappa of robin sides, n . A grad u + kappa u = 0",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("dim") in (1, 3):
            return {"tensor": "diagonal", **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> AnisotropicDiffusionParameters:
        if self.tensor == "rotated" and self.dim != 2:
            raise ValueError(f"dim={self.dim}: tensor='rotated' is defined for dim=2")
        if self.tensor == "diagonal" and self.angle_std > 0:
            raise ValueError(f"angle_std={self.angle_std} has no effect with tensor='diagonal'")
        return self


class RandomTensor:
    """One diffusion tensor: a function of space.

    ``A = a R diag(1, 1/ratio) R^T`` with the rotation `R` by `angle`, and in other dimensions than
    two ``a diag(1/ratios)``.

    Parameters
    ----------
    log_a : SpaceFunction or None
        None where `a` is 1.
    ratios : ndarray, shape (dim,)
        Of the largest diffusivity over that along each principal axis.
    angle : float
    turn : SpaceFunction or None
        Added to the angle.
    """

    def __init__(
        self, log_a: Any, ratios: np.ndarray, angle: float = 0.0, turn: Any = None
    ) -> None:
        self.log_a, self.ratios, self.angle, self.turn = log_a, ratios, angle, turn

    def __call__(self, grid: Grid) -> np.ndarray:
        """Tensor at the points of `grid`, shape ``(*grid, dim, dim)``."""
        d = grid.dim
        a = np.ones(grid.shape) if self.log_a is None else np.exp(self.log_a(grid))
        out = np.zeros((*grid.shape, d, d))
        for k in range(d):
            out[..., k, k] = a / self.ratios[k]
        if self.angle == 0.0 and self.turn is None:
            return out
        theta = self.angle + (np.zeros(grid.shape) if self.turn is None else self.turn(grid))
        c, s = np.cos(theta), np.sin(theta)
        first, second = out[..., 0, 0].copy(), out[..., 1, 1].copy()
        out[..., 0, 0] = c * c * first + s * s * second
        out[..., 1, 1] = s * s * first + c * c * second
        out[..., 0, 1] = out[..., 1, 0] = c * s * (first - second)
        return out


@register
class AnisotropicDiffusion(BoxProblem):
    """``-div(A grad u) = f`` in a box with a random symmetric tensor `A`.

    Parameters
    ----------
    **params
        Fields of `AnisotropicDiffusionParameters`.

    Notes
    -----
    The ratio of the principal diffusivities is log-uniform in ``[1, ratio_max]``, the angle of the
    first principal axis uniform in ``[0, pi]``; log a and, if asked for, the angle vary in space.
    Tensors along the axes are solved by finite volumes, which obey the maximum principle, oblique
    ones by bilinear or biquadratic elements, which need not.

    Scaled to an isotropic medium a corner of the box has another angle, up to nearly ``pi``, and
    the solution is singular there: orders above 2 are seen on smooth solutions only, and the error
    estimate of oblique tensors takes 2 for all methods.

    Sides: ``u = 0``, ``n . A grad u = 0``, ``n . A grad u + kappa u = 0`` or periodic.

    References
    ----------
    .. [1] Hermeline, J. Comput. Phys. 160 (2000) 481-499: what oblique anisotropy does to schemes.
    """

    name: ClassVar[str] = "anisotropic_diffusion"
    title: ClassVar[str] = "Diffusion in an anisotropic medium"
    equation: ClassVar[str] = (
        r"-\nabla\cdot(A\,\nabla u) = f,\quad A = a\,R_\theta\,\mathrm{diag}(1, 1/\rho)\,R_\theta^T"
    )
    solvers: ClassVar[tuple[str, ...]] = ("elements2", "elements1", "fenicsx", *_FINITE_VOLUMES)
    quick_resolution = 33
    quick_params: ClassVar[Mapping[str, Any]] = {"ratio_max": 5.0}
    reference: ClassVar[str] = "Hermeline 2000, doi:10.1006/jcph.2000.6466"
    Params: ClassVar[type[Parameters]] = AnisotropicDiffusionParameters
    params: AnisotropicDiffusionParameters

    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Tensor `A` in, `u` out."""
        p = self.params
        monotone = p.tensor == "diagonal" and p.boundary not in ("neumann", "periodic")
        return DatasetSchema(
            problem=self.name,
            title=self.title,
            grid=self.grid(resolution),
            fields=(
                FieldSpec("A", "diffusion tensor", rank=2, symmetric=True),
                FieldSpec("u", "solution", valid_min=0.0 if monotone else None),
            ),
            inputs=("A",),
            outputs=("u",),
            scalars=(ScalarSpec("forcing", "source", value=p.forcing),),
            boundary_conditions=self.boundary_specs("u", "1", flux_units="1"),
            dtype=dtype,
            equation=self.equation,
        )

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the tensor."""
        p = self.params
        field = self.gaussian_field(
            alpha=p.alpha, tau=p.tau, n_modes=p.n_modes, zero_mean=True
        ).normalized()
        ratios = np.exp(rng.uniform(0.0, math.log(p.ratio_max), self.dim))
        angle = float(rng.uniform(0.0, np.pi)) if p.tensor == "rotated" else 0.0
        log_a, turn = field.draw(rng), field.draw(rng)
        if p.tensor == "rotated":
            ratios[0] = 1.0
        else:
            ratios[rng.integers(self.dim)] = 1.0
        return {
            "A": RandomTensor(
                _scaled(log_a, p.sigma), ratios, angle, _scaled(turn, p.angle_std)
            )
        }  # fmt: skip

    def source(self, grid: Grid) -> np.ndarray:
        """Source at the points of a grid."""
        p = self.params
        if p.boundary not in ("neumann", "periodic"):
            return np.full(grid.shape, p.forcing)
        lower, upper = p.bounds[0]
        waves = 1 if p.boundary == "neumann" else 2
        s = (grid.meshgrid()[0] - lower) / (upper - lower)
        return balanced(p.forcing * np.cos(waves * np.pi * s), grid)

    def solve(
        self,
        inputs: Mapping[str, Any],
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> Solution:
        """Solve on a grid."""
        self.check_solver(solver)
        grid = self.solve_grid(resolution)
        A, f = inputs["A"](grid), self.source(grid)
        values = self.side_values()
        if solver in _FINITE_VOLUMES:
            diagonal = tuple(np.ascontiguousarray(A[..., k, k]) for k in range(self.dim))
            r = solve_diffusion(
                diagonal, f, grid, boundary=self.sides, boundary_values=values, solver=solver,
                rtol=rtol, singular="project",
            )  # fmt: skip
        elif solver == "fenicsx":
            from solvers.fenicsx.transport import solve_transport_fenicsx

            r = solve_transport_fenicsx(
                A, f, grid, boundary=self.sides, boundary_values=values, rtol=rtol
            )
        else:
            r = solve_tensor_diffusion(
                A, f, grid, boundary=self.sides, boundary_values=values,
                degree=self._degree(solver, grid), rtol=rtol, singular="project",
            )  # fmt: skip
        fields = {"A": self.stored(A), "u": self.stored(r.x)}
        return Solution(fields, r.residual, r.iterations, r.seconds, r.solver)

    @staticmethod
    def _degree(solver: str, grid: Grid) -> int:
        return 2 if solver == "elements2" and best_degree(grid) in (2, 4) else 1

    def check_solver(self, solver: str) -> str:
        """Return `solver` if it can solve the problem with these parameters."""
        super(BoxProblem, self).check_solver(solver)
        if solver == "fenicsx" and self.params.boundary in ("neumann", "periodic"):
            raise ProblemError(
                f"solver 'fenicsx' needs dirichlet, robin or mixed sides, got "
                f"{self.params.boundary!r}; the others have all"
            )
        if solver in _FINITE_VOLUMES and self.params.tensor == "rotated":
            raise ProblemError(
                f"solver {solver!r} needs tensor='diagonal', got 'rotated'; elements1 and "
                "elements2 solve both"
            )
        return solver

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Finite volumes along the axes, else elements of degree 2."""
        if self.params.tensor == "rotated":
            return "elements2"
        return choose_solver(self.solve_grid(resolution), self.sides)

    def convergence_order(self, solver: str) -> float:
        """2; of elements of degree 2, along the axes, 3: oblique tensors open the corners."""
        return 3.0 if solver == "elements2" and self.params.tensor == "diagonal" else 2.0

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with."""
        grid = self.solve_grid(resolution)
        shape = "x".join(map(str, grid.shape))
        if solver in _FINITE_VOLUMES:
            return f"vertex-centered finite volumes on {shape} points"
        if solver == "fenicsx":
            return f"P1 Lagrange elements on simplices, {shape} nodes"
        return f"Lagrange elements of degree {self._degree(solver, grid)} on boxes, {shape} nodes"

    def checks(self) -> Iterator[Check]:
        """Manufactured orders for oblique tensors, agreement of methods, rotation, flow balance."""
        for method, order in (("elements1", 2.0), ("elements2", 4.0)):
            for kind in ("dirichlet", "mixed"):
                yield manufactured_tensor(method, order, kind)
        for kind in ("neumann", "robin", "periodic"):
            yield manufactured_tensor("elements1", 2.0, kind)
        along = AnisotropicDiffusion(tensor="diagonal")
        inputs = along.sample(np.random.default_rng(0))
        a = along.solve(inputs, (33, 33), solver="elements2")
        b = along.solve(inputs, (33, 33), solver="structured")
        grid = along.grid((33, 33))
        gap = grid.norm(a.fields["u"] - b.fields["u"]) / grid.norm(a.fields["u"])
        estimates = [
            along.discretization_error(inputs, s, (33, 33), solver=n)
            for n, s in (("elements2", a), ("structured", b))
        ]
        yield at_most(
            "finite volumes against elements, 33 x 33", gap, 2 * sum(estimates), kind="agreement"
        )
        # turned by a right angle, tensor and solution turn with the square
        tensor = np.array([[2.0, 0.7], [0.7, 1.0]])
        turned = np.array([[1.0, -0.7], [-0.7, 2.0]])
        u = solve_tensor_diffusion(tensor, 1.0, Grid.unit(17)).x
        v = solve_tensor_diffusion(turned, 1.0, Grid.unit(17)).x
        yield at_most(
            "turned by a right angle", float(np.abs(np.rot90(u) - v).max() / u.max()), 1e-12,
            kind="invariant",
        )  # fmt: skip
        # on a grid stretched along x, diag(4, 1) is the Laplacian
        wide = Grid((Axis("x", 33, 0.0, 2.0), Axis("y", 33)))
        u = solve_tensor_diffusion(np.diag([4.0, 1.0]), 1.0, wide, degree=2).x
        yield at_most(
            "center of a stretched square against the series", abs(u[16, 16] / 0.0736713532815 - 1),
            1e-4, note="sum of the Fourier series: 0.0736713533",
        )  # fmt: skip


def _scaled(field: FieldSample, factor: float) -> FieldSample | None:
    return None if factor == 0 else replace(field, coefficients=factor * field.coefficients)


def manufactured_tensor(method: str, order: float, kind: str) -> Check:
    """Order of elements for a smooth solution and an oblique tensor of ratio 10 that varies."""
    w = 2 * np.pi if kind == "periodic" else 2.0
    free = kind in ("neumann", "periodic")
    errors, spacings = [], []
    for n in (17, 33, 65):
        grid = Grid.unit(n - (kind == "periodic"), dim=2, periodic=kind == "periodic")
        x, y = grid.meshgrid()
        u = np.sin(w * x + 0.3) * np.cos(w * y + 0.5)
        ux = w * np.cos(w * x + 0.3) * np.cos(w * y + 0.5)
        uy = -w * np.sin(w * x + 0.3) * np.sin(w * y + 0.5)
        uxy = -w * w * np.cos(w * x + 0.3) * np.sin(w * y + 0.5)
        uxx = uyy = -w * w * u
        z = 2 * np.pi * (x + y)
        a, slope = 1.0 + 0.3 * np.sin(z), 0.6 * np.pi * np.cos(z)  # a_x = a_y
        t = 0.6
        c, s = np.cos(t), np.sin(t)
        k11, k22, k12 = c * c + s * s / 10, s * s + c * c / 10, c * s * 0.9
        tensor = a[..., None, None] * np.array([[k11, k12], [k12, k22]])
        px, py = k11 * ux + k12 * uy, k12 * ux + k22 * uy
        f = -(slope * (px + py) + a * (k11 * uxx + 2 * k12 * uxy + k22 * uyy))
        values: dict[tuple[int, int], Any] = {}
        pair = ("dirichlet", "neumann") if kind == "mixed" else (kind, kind)
        for k, p in enumerate((a * px, a * py)):
            for side, name in enumerate(pair):
                flux = (2 * side - 1) * np.take(p, -side, axis=k)
                trace = np.take(u, -side, axis=k)
                if name == "dirichlet":
                    values[k, side] = trace
                elif name == "neumann":
                    values[k, side] = flux
                elif name == "robin":
                    values[k, side] = Robin(0.8, 1.0, flux + 0.8 * trace)
        if method == "fenicsx":
            from solvers.fenicsx.transport import solve_transport_fenicsx

            r = solve_transport_fenicsx(
                tensor, f, grid, boundary=[pair, pair], boundary_values=values
            )
        else:
            r = solve_tensor_diffusion(
                tensor, f, grid, boundary=[pair, pair], boundary_values=values,
                degree=int(method[-1]), singular="project",
            )  # fmt: skip
        e = r.x - u
        if free:
            e = balanced(e, grid)
        errors.append(grid.norm(e))
        spacings.append(grid.spacing[0])
    return order_check(f"order in space, {method}, {kind} sides, ratio 10", spacings, errors, order)
