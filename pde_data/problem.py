"""`Problem`: equation, domain, boundary conditions, inputs and the solvers that can solve it."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from solvers.grids import Grid
from solvers.meshes import Mesh
from solvers.names import check_name, suggest

from .hdf5.schema import DatasetSchema
from .verification import Check, relative_difference

__all__ = [
    "Parameters",
    "Problem",
    "ProblemError",
    "Solution",
    "get_problem",
    "list_problems",
    "register",
]

Dtype = Literal["float32", "float64"]


class ProblemError(ValueError):
    """A parameter, resolution or solver that the problem does not allow."""


class Parameters(BaseModel):
    """Base of a problem's parameters: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Solution:
    """One solved sample.

    Attributes
    ----------
    fields : dict of str to ndarray
        Every field of the schema, float64, in the schema's sample shapes.
    residual, iterations, seconds
        As in `solvers.SolveResult`; of a time stepper the largest residual of its algebraic
        solves, 0 where it has none, and the number of time steps.
    solver : str
        What solved it.
    scalars : dict of str to float
        Scalars that vary with the sample.
    time_error : float
        Estimated relative L2 error of the outputs that the time step makes; NaN if there is none.
    mesh : Mesh, optional
        Of layout ``"ragged"``.
    time : ndarray, shape (T,), optional
        Where the schema has `time_per_sample`.
    group : int, optional
        Samples of one group must lie in one split. Given for all samples or none.
    """

    fields: dict[str, np.ndarray]
    residual: float
    iterations: int
    seconds: float
    solver: str
    scalars: dict[str, float] = field(default_factory=dict)
    time_error: float = math.nan
    mesh: Mesh | None = None
    time: np.ndarray | None = None
    group: int | None = None


class Problem(ABC):
    """Everything opkit needs to know about a PDE.

    A subclass sets the class attributes, defines `Params` and implements `schema`, `sample`
    and `solve`; registered with `register`, it works in the command line, files, models,
    reports and docs without a change elsewhere.

    Parameters
    ----------
    **params
        Fields of `Params`.

    Raises
    ------
    ProblemError
        Unknown or invalid parameter: one line with name, value and what is allowed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    #: LaTeX.
    equation: ClassVar[str]
    #: Names of the solvers that can solve it, best first.
    solvers: ClassVar[tuple[str, ...]]
    #: Those of them that share one solve among MPI processes, `solvers.fenicsx.communicator`.
    mpi_solvers: ClassVar[tuple[str, ...]] = ()
    #: Numbers a resolution has: space dimensions of a grid, 1 for meshes (cells across the domain)
    #: and for ODEs (stored times). An instance may set its own.
    dim: int = 2
    default_resolution: int = 65
    min_resolution: int = 5
    #: What one entry of the resolution counts.
    resolution_counts: ClassVar[str] = "points per axis"
    #: Samples of each split whose discretization error is estimated at least; fewer where the solve
    #: on the finer grid is dear.
    min_estimates: ClassVar[int] = 8
    #: A cheap setting for tests and `opkit verify`: resolution and parameters.
    quick_resolution: ClassVar[int | tuple[int, ...] | None] = None
    quick_params: ClassVar[Mapping[str, Any]] = {}
    #: What the picture in the documentation shows, where it is not the default.
    picture_resolution: ClassVar[int | tuple[int, ...] | None] = None
    picture_params: ClassVar[Mapping[str, Any]] = {}
    #: Where it comes from: papers, data sets.
    reference: ClassVar[str] = ""
    Params: ClassVar[type[Parameters]] = Parameters

    def __init__(self, **params: Any) -> None:
        self.params = self._validate(params)

    @classmethod
    def _validate(cls, params: Mapping[str, Any]) -> Parameters:
        for key in params:
            if key not in cls.Params.model_fields:
                allowed = ", ".join(cls.Params.model_fields)
                raise ProblemError(
                    f"{cls.name} has no parameter {key!r}.{suggest(key, cls.Params.model_fields)} "
                    f"Allowed: {allowed}."
                )
        try:
            return cls.Params(**params)
        except ValidationError as e:
            raise ProblemError(f"{cls.name}: {validation_line(e)}") from None

    # -- what a problem defines ------------------------------------------------------------

    @abstractmethod
    def schema(self, resolution: tuple[int, ...], dtype: Dtype = "float32") -> DatasetSchema:
        """Names, axes, units, boundary conditions of a sample at `resolution`."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Any:
        """Draw the inputs of one sample: functions of space, independent of any grid."""

    def draw(self, rng: np.random.Generator, sample_id: int) -> Any:
        """Draw the inputs of a sample: `sample`, unless the id decides on family or environment.

        Ids count from 0 in train, 10**9 in valid, 2 * 10**9 in test.
        """
        return self.sample(rng)

    @abstractmethod
    def solve(
        self, inputs: Any, resolution: tuple[int, ...], *, solver: str, rtol: float = 1e-10
    ) -> Solution:
        """Evaluate the inputs on the grid and solve.

        Raises
        ------
        SolverDidNotConverge
        """

    @abstractmethod
    def choose_solver(self, resolution: tuple[int, ...]) -> str:
        """Name of the fastest accurate solver at this size."""

    def convergence_order(self, solver: str) -> float:
        """Order of the L2 error in h that Richardson extrapolation may assume.

        Infinity for spectral methods: the solution on the finer grid is then the reference.
        """
        return 2.0

    def checks(self) -> Iterable[Check]:
        """Compare solvers with what is known: manufactured and analytic solutions, invariants.

        `opkit verify` and the tests run these after the general ones, see
        `pde_data.verification`; each takes seconds.
        """
        return ()

    def discretization(self, solver: str, resolution: tuple[int, ...]) -> str:
        """Say what the solver discretizes with, for the file: ``"P1 Lagrange, ..."``."""
        return ""

    # -- what follows from it ---------------------------------------------------------------

    def check_resolution(self, resolution: int | tuple[int, ...] | None) -> tuple[int, ...]:
        """Return one number of points an axis.

        Raises
        ------
        ProblemError
            Not an integer, too small, or the wrong number of entries.
        """
        if resolution is None:
            resolution = self.default_resolution
        entries = (
            (resolution,) * self.dim
            if isinstance(resolution, int | np.integer | float | str)
            else tuple(resolution)
        )
        if len(entries) == 1:
            entries = entries * self.dim
        if len(entries) != self.dim:
            raise ProblemError(
                f"resolution={resolution} has {len(entries)} entries; {self.name} has {self.dim} "
                "axes"
            )
        out = []
        for r in entries:
            if isinstance(r, bool) or not isinstance(r, int | np.integer):
                raise ProblemError(f"resolution={r!r}: need an integer >= {self.min_resolution}")
            if r < self.min_resolution:
                raise ProblemError(
                    f"resolution={r}: {self.name} needs at least {self.min_resolution}"
                )
            out.append(int(r))
        return tuple(out)

    def check_solver(self, solver: str) -> str:
        """Return `solver` if this problem has it.

        Raises
        ------
        UnknownNameError
        """
        return check_name(f"solver of {self.name}", solver, self.solvers)

    def discretization_error(
        self,
        inputs: Any,
        solution: Solution,
        resolution: tuple[int, ...],
        *,
        solver: str,
        rtol: float = 1e-10,
    ) -> float:
        """Estimated relative L2 distance of the outputs to the continuous solution.

        Richardson: the same inputs solved on a grid twice as fine, compared on the common
        points; ``e = |u_h - u_{h/2}| 2^p / (2^p - 1)`` with `p` from `convergence_order`. Of
        several output fields the worst counts.
        """
        schema = self.schema(resolution)
        fine_grid = schema.grid.refined(2)
        fine = self.solve(inputs, fine_grid.shape, solver=solver, rtol=rtol)
        truth = {
            f.name: restrict_to(
                schema.grid, fine_grid, fine.fields[f.name], first_axis=int(f.time_varying)
            )
            for f in schema.fields
            if f.name in schema.outputs
        }
        distance = relative_difference(schema, solution, replace(fine, fields=truth))
        return distance * richardson_factor(self.convergence_order(solver))


def richardson_factor(order: float) -> float:
    """``2^p / (2^p - 1)``: from the difference to a grid twice as fine to the error; 1 for inf."""
    return 1.0 / (1.0 - 2.0**-order)


def validation_line(error: ValidationError) -> str:
    """Return the first finding as ``name=value: what is allowed``."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and (not name or f"{name}=" in message):
        return " ".join(message.split())
    if first["type"] == "missing":
        return f"{name} is missing"
    return " ".join(f"{name}={first['input']!r}: {message[0].lower()}{message[1:]}".split())


def restrict_to(grid: Grid, fine_grid: Grid, u: np.ndarray, *, first_axis: int = 0) -> np.ndarray:
    """Values of a field on the twice refined grid at the points of `grid`.

    Injection on node axes; cubic interpolation between the cells of cell-centered ones, whose
    error h^4 does not disturb a comparison of second-order solutions.

    Parameters
    ----------
    grid, fine_grid : Grid
    u : ndarray
        The grid's axes are `first_axis`, `first_axis` + 1, ...; others stay.
    """
    for k, (axis, fine) in enumerate(zip(grid.axes, fine_grid.axes, strict=True)):
        if u.shape[first_axis + k] != fine.n:
            raise ValueError(
                f"u has {u.shape[first_axis + k]} points on axis {axis.name!r}, expected {fine.n}"
            )
        v = np.moveaxis(u, first_axis + k, 0)
        if axis.location == "node":
            v = v[::2]
        else:
            if axis.periodic:
                ghosts = v[-1:], v[:1]
            else:  # cubic extrapolation
                ghosts = tuple(4 * w[:1] - 6 * w[1:2] + 4 * w[2:3] - w[3:4] for w in (v, v[::-1]))
            w = np.concatenate([ghosts[0], v, ghosts[1]])
            v = (9 * (w[1:-2:2] + w[2:-1:2]) - w[:-3:2] - w[3::2]) / 16
        u = np.moveaxis(v, 0, first_axis + k)
    return u


# -- registry ------------------------------------------------------------------------------------

#: name -> "module:Class"; modules are imported when the problem is asked for.
_REGISTRY: dict[str, str] = {
    "advection": "pde_data.problems.advection:Advection",
    "allen_cahn": "pde_data.problems.phase_field:AllenCahn",
    "burgers": "pde_data.problems.burgers:Burgers",
    "burgers_2d": "pde_data.problems.burgers:Burgers2D",
    "cahn_hilliard": "pde_data.problems.phase_field:CahnHilliard",
    "fitzhugh_nagumo": "pde_data.problems.reaction_diffusion:FitzHughNagumo",
    "gray_scott": "pde_data.problems.reaction_diffusion:GrayScott",
    "kdv": "pde_data.problems.kdv:KdV",
    "kuramoto_sivashinsky": "pde_data.problems.kuramoto_sivashinsky:KuramotoSivashinsky",
    "navier_stokes": "pde_data.problems.navier_stokes:NavierStokes",
    "advection_diffusion": "pde_data.problems.deeponet_pde:AdvectionDiffusion",
    "deeponet_advection": "pde_data.problems.deeponet_pde:DeepONetAdvection",
    "deeponet_diffusion_reaction": "pde_data.problems.deeponet_pde:DeepONetDiffusionReaction",
    "diffusion_reaction": "pde_data.problems.diffusion_reaction:DiffusionReaction",
    "diffusion_sorption": "pde_data.problems.diffusion_sorption:DiffusionSorption",
    "fisher_kpp": "pde_data.problems.diffusion_reaction:FisherKPP",
    "heat": "pde_data.problems.heat:Heat",
    "shallow_water": "pde_data.problems.shallow_water:ShallowWater",
    "wave": "pde_data.problems.wave:Wave",
    "darcy": "pde_data.problems.darcy:Darcy",
    "poisson": "pde_data.problems.poisson:Poisson",
    "anisotropic_diffusion": "pde_data.problems.anisotropic:AnisotropicDiffusion",
    "convection_diffusion": "pde_data.problems.convection_diffusion:ConvectionDiffusion",
    "helmholtz": "pde_data.problems.helmholtz:Helmholtz",
    "antiderivative": "pde_data.problems.deeponet_ode:Antiderivative",
    "nonlinear_ode": "pde_data.problems.deeponet_ode:NonlinearODE",
    "gravity_pendulum": "pde_data.problems.deeponet_ode:GravityPendulum",
    "ode_families": "pde_data.problems.ode_families:ODEFamilies",
    "darcy_geometry": "pde_data.problems.darcy_geometry:DarcyGeometry",
    "elasticity": "pde_data.problems.elasticity:Elasticity",
    "hyperelasticity": "pde_data.problems.hyperelasticity:Hyperelasticity",
    "stokes_flow": "pde_data.problems.stokes:StokesFlow",
    "navier_stokes_flow": "pde_data.problems.navier_stokes_flow:NavierStokesFlow",
    "heat_geometry": "pde_data.problems.heat_geometry:HeatGeometry",
    "deblurring": "pde_data.problems.inverse_imaging:Deblurring",
    "compressed_sensing": "pde_data.problems.inverse_imaging:CompressedSensing",
    "tomography": "pde_data.problems.inverse_imaging:Tomography",
    "darcy_inverse": "pde_data.problems.inverse_pde:DarcyInverse",
    "source_recovery": "pde_data.problems.inverse_pde:SourceRecovery",
}
_CLASSES: dict[str, type[Problem]] = {}


def register(cls: type[Problem]) -> type[Problem]:
    """Class decorator: make a problem known under its name."""
    other = _CLASSES.get(cls.name)
    if other is not None and other is not cls and other.__qualname__ != cls.__qualname__:
        raise ValueError(f"problem {cls.name!r} is registered already")
    _CLASSES[cls.name] = cls
    return cls


def list_problems() -> dict[str, type[Problem]]:
    """All registered problems by name."""
    names = sorted({*_REGISTRY, *_CLASSES})
    return {n: problem_class(n) for n in names}


def problem_class(name: str) -> type[Problem]:
    """Class of a registered problem.

    Raises
    ------
    UnknownNameError
    """
    if name in _CLASSES:
        return _CLASSES[name]
    check_name("problem", name, sorted({*_REGISTRY, *_CLASSES}))
    module, _, cls = _REGISTRY[name].partition(":")
    found: type[Problem] = getattr(importlib.import_module(module), cls)
    return found


def get_problem(name: str, **params: Any) -> Problem:
    """Problem `name` with the given parameters.

    Raises
    ------
    UnknownNameError, ProblemError
    """
    return problem_class(name)(**params)
