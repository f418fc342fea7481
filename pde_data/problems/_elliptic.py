"""What stationary problems on boxes share: sides, grids, and data stored from a finer grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from solvers.diffusion import choose_solver
from solvers.finite_volume import Robin
from solvers.grids import Axis, Boundary, Grid

from ..fields import GaussianField
from ..hdf5.schema import BoundarySpec
from ..problem import Parameters, Problem, ProblemError

__all__ = ["BoxParameters", "BoxProblem", "balanced", "relative_l2"]

Sides = Literal["dirichlet", "neumann", "robin", "mixed", "periodic"]


class BoxParameters(Parameters):
    """Parameters of every `BoxProblem`; a subclass repeats a field to change its description."""

    dim: int = Field(2, ge=1, le=3, description="space dimensions, 1 to 3")
    boundary: Sides = Field(
        "dirichlet",
        description="condition on all sides; mixed: dirichlet on the lower side of every axis, "
        "neumann on the upper one",
    )
    transfer: float = Field(
        10.0, gt=0, le=1e6, allow_inf_nan=False,
        description="kappa of robin sides, flux + kappa u = g; coefficient per length",
    )  # fmt: skip
    bounds: tuple[tuple[float, float], ...] = Field(
        ((0.0, 1.0), (0.0, 1.0)),
        description="the box, one (lower, upper) pair an axis, default (0, 1) for each",
    )
    location: Literal["node", "cell_center"] = Field(
        "node", description="node: boundary points included; cell_center: centers of n cells"
    )
    solve_refinement: int = Field(
        1, ge=1, le=64,
        description="solve on a grid that many times finer and store every such point: stored "
        "data then have the finer grid's error",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _fill_box(cls, values: Any) -> Any:
        dim = values.get("dim", 2) if isinstance(values, Mapping) else None
        if "bounds" in (values or {}) or dim not in (1, 3):
            return values
        return {**values, "bounds": ((0.0, 1.0),) * dim}

    @model_validator(mode="after")
    def _check_box(self) -> BoxParameters:
        if len(self.bounds) != self.dim:
            raise ValueError(
                f"bounds={self.bounds}: need {self.dim} (lower, upper) pairs, dim={self.dim}"
            )
        for lower, upper in self.bounds:
            if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
                raise ValueError(f"bounds={self.bounds}: need finite ends, lower < upper")
        if self.location == "cell_center" and self.solve_refinement % 2 == 0:
            raise ValueError(
                f"solve_refinement={self.solve_refinement}: with location='cell_center' need an "
                "odd number, so that the centers are centers of smaller cells"
            )
        return self


class BoxProblem(Problem):
    """A stationary problem on a box with one of the usual conditions on its sides."""

    length_units: ClassVar[str] = "1"
    params: BoxParameters

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.dim = self.params.dim
        points = {1: 257, 2: type(self).default_resolution, 3: 33}[self.dim]
        # as many cells without the upper end
        self.default_resolution = points - (self.params.boundary == "periodic")

    @property
    def sides(self) -> Boundary:
        """Kind of condition, one (lower, upper) pair an axis."""
        kind = self.params.boundary
        pair = ("dirichlet", "neumann") if kind == "mixed" else (kind, kind)
        return (pair,) * self.dim

    def grid(self, resolution: tuple[int, ...]) -> Grid:
        """Grid with `resolution` points per axis."""
        p = self.params
        return Grid(
            tuple(
                Axis(
                    name, n, lower, upper, location=p.location,
                    periodic=p.boundary == "periodic", units=self.length_units,
                )
                for name, n, (lower, upper) in zip("xyz", resolution, p.bounds, strict=False)
            )
        )  # fmt: skip

    def solve_grid(self, resolution: tuple[int, ...]) -> Grid:
        """Grid that the equation is solved on."""
        return self.grid(resolution).refined(self.params.solve_refinement)

    def stored(self, u: np.ndarray) -> np.ndarray:
        """Values at the stored points of a field on `solve_grid`."""
        r = self.params.solve_refinement
        first = r // 2 if self.params.location == "cell_center" else 0
        return np.ascontiguousarray(u[(slice(first, None, r),) * self.dim])

    def field_basis(self) -> Literal["cosine", "fourier"]:
        """Basis of random fields that fits the sides."""
        return "fourier" if self.params.boundary == "periodic" else "cosine"

    def gaussian_field(self, **options: Any) -> GaussianField:
        """Gaussian field on the box."""
        return GaussianField(basis=self.field_basis(), bounds=self.params.bounds, **options)

    def boundary_specs(
        self, field: str, units: str, *, flux_units: str, known: bool = True
    ) -> tuple[BoundarySpec, ...]:
        """Conditions for the file; none for sides whose data vary (``known=False``)."""
        if not known:
            return ()
        out = []
        for axis, (lower, upper) in zip("xyz", self.sides, strict=False):
            kinds = {"both": lower} if lower == upper else {"lower": lower, "upper": upper}
            side: Literal["both", "lower", "upper"]
            for side, kind in kinds.items():  # type: ignore[assignment]
                if kind == "dirichlet":
                    out.append(BoundarySpec(axis, kind, (field,), side, units=units))
                elif kind == "neumann":
                    out.append(BoundarySpec(axis, kind, (field,), side, units=flux_units))
                elif kind == "robin":
                    a = self.params.transfer
                    out.append(
                        BoundarySpec(axis, kind, (field,), side, 0.0, a, 1.0, units=flux_units)
                    )
        return tuple(out)

    def side_values(self, g: np.ndarray | None = None) -> dict[tuple[int, int], Any]:
        """Boundary data for `solve_diffusion`: the trace of `g`, 0 without it."""
        out: dict[tuple[int, int], Any] = {}
        for k, pair in enumerate(self.sides):
            for side, kind in enumerate(pair):
                value: Any = 0.0 if g is None else np.take(g, -side, axis=k)
                if kind == "robin":
                    out[k, side] = Robin(self.params.transfer, 1.0, value)
                elif kind != "periodic":
                    out[k, side] = value
        return out

    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Choose the fastest solver for the grid, see `solvers.diffusion.choose_solver`."""
        return choose_solver(self.solve_grid(resolution), self.sides)

    def check_solver(self, solver: str) -> str:
        """Return `solver` if it can solve the problem with these parameters."""
        super().check_solver(solver)
        p = self.params
        others = ", ".join(s for s in self.solvers if s != "fenicsx")
        if solver == "fenicsx" and p.location != "node":
            raise ProblemError(
                f"solver 'fenicsx' needs location='node', got {p.location!r}; {others} solve both"
            )
        if solver == "fenicsx" and p.boundary == "periodic":
            raise ProblemError(f"solver 'fenicsx' has no periodic sides; {others} have")
        return solver


def balanced(f: np.ndarray, grid: Grid) -> np.ndarray:
    """Return `f` less its mean in the grid's weights."""
    w = grid.weights
    return f - float(np.sum(w * f) / np.sum(w))


def relative_l2(grid: Grid, u: np.ndarray, truth: np.ndarray) -> float:
    """Relative L2 distance in the grid's weights."""
    return grid.norm(u - truth) / grid.norm(truth)
