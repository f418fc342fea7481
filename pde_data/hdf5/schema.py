"""What a dataset holds, as frozen dataclasses: one description for writer, reader, models and plots."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from solvers.grids import Grid
from solvers.names import check_name

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "SPLIT_CODES",
    "SPLIT_STRIDE",
    "BoundarySpec",
    "DatasetSchema",
    "FieldSpec",
    "ScalarSpec",
    "split_of_id",
]

FORMAT = "opkit-dataset"
FORMAT_VERSION = "1.0"
#: Sample ids are ``SPLIT_STRIDE * code + index``.
SPLIT_STRIDE = 10**9
SPLIT_CODES = {"train": 0, "valid": 1, "test": 2}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
BC_KINDS = ("dirichlet", "neumann", "robin", "periodic", "outflow", "no_slip", "slip")


def _check_identifier(what: str, name: str) -> None:
    if not NAME.match(name):
        raise ValueError(f"{what} {name!r}: names start with a letter, then letters, digits and _")


@dataclass(frozen=True)
class FieldSpec:
    """One field over the spatial axes.

    Parameters
    ----------
    name, long_name : str
    units : str
        pint symbol, ``"1"`` if dimensionless.
    rank : {0, 1, 2}
        Scalar, vector or tensor.
    location : {"node", "cell_center", "point", "cell"}
    valid_min, valid_max : float, optional
        Physical bounds every stored value obeys.
    """

    name: str
    long_name: str
    units: str = "1"
    rank: int = 0
    location: Literal["node", "cell_center", "point", "cell"] = "node"
    time_varying: bool = False
    sample_varying: bool = True
    valid_min: float | None = None
    valid_max: float | None = None
    symmetric: bool = False
    antisymmetric: bool = False
    element_family: str | None = None
    element_degree: int | None = None

    def __post_init__(self) -> None:
        _check_identifier("field", self.name)
        check_name("location", self.location, ("node", "cell_center", "point", "cell"))
        if self.rank not in (0, 1, 2):
            raise ValueError(f"field {self.name!r}: rank={self.rank}, allowed 0, 1, 2")


@dataclass(frozen=True)
class ScalarSpec:
    """A parameter of the problem: constant in the dataset, or one value a sample.

    Parameters
    ----------
    value : float or None
        The constant; None when it varies with the sample.
    """

    name: str
    long_name: str
    units: str = "1"
    value: float | None = None

    def __post_init__(self) -> None:
        _check_identifier("scalar", self.name)


@dataclass(frozen=True)
class BoundarySpec:
    """A boundary condition ``alpha*u + beta*du/dn = values`` on one or both ends of an axis.

    Parameters
    ----------
    axis : str
        Name of the axis, ``"x"``.
    kind : str
        ``dirichlet``, ``neumann``, ``robin``, ``periodic``, ``outflow``, ``no_slip``, ``slip``.
    side : {"both", "lower", "upper"}
    fields : tuple of str
        Fields it holds for.
    value : float
        Right-hand side, constant along the side.
    """

    axis: str
    kind: str
    fields: tuple[str, ...]
    side: Literal["both", "lower", "upper"] = "both"
    value: float = 0.0
    alpha: float | None = None
    beta: float | None = None
    units: str = "1"

    def __post_init__(self) -> None:
        check_name("boundary condition", self.kind, BC_KINDS)
        check_name("side", self.side, ("both", "lower", "upper"))

    @property
    def coefficients(self) -> tuple[float, float]:
        """``(alpha, beta)``, from the kind unless given."""
        default = {"neumann": (0.0, 1.0), "outflow": (0.0, 1.0), "periodic": (0.0, 0.0)}
        a, b = default.get(self.kind, (1.0, 0.0))
        return (a if self.alpha is None else self.alpha, b if self.beta is None else self.beta)


@dataclass(frozen=True)
class DatasetSchema:
    """Everything about a dataset that is not a sample.

    Parameters
    ----------
    problem : str
        Registry name.
    title : str
        One line for people.
    grid : Grid
    fields : tuple of FieldSpec
    inputs, outputs : tuple of str
        Names of fields (or scalars), in the order of the model's channels.
    time : tuple of float
        Stored times; ``(0.0,)`` for a static problem.
    dtype : {"float32", "float64"}
        Of the stored fields.
    equation : str
        LaTeX.
    discretization, sampling : str
        What the fields are values of, and how they were taken from the discrete solution.
    """

    problem: str
    title: str
    grid: Grid
    fields: tuple[FieldSpec, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scalars: tuple[ScalarSpec, ...] = ()
    boundary_conditions: tuple[BoundarySpec, ...] = ()
    problem_type: Literal["static", "time_dependent"] = "static"
    time: tuple[float, ...] = (0.0,)
    time_units: str = "1"
    layout: Literal["grid"] = "grid"
    dtype: Literal["float32", "float64"] = "float32"
    equation: str = ""
    discretization: str = ""
    sampling: str = "nodal"
    license: str = "CC-BY-4.0"
    citation: str = ""

    def __post_init__(self) -> None:
        _check_identifier("problem", self.problem)
        check_name("dtype", self.dtype, ("float32", "float64"))
        names = [f.name for f in self.fields] + [s.name for s in self.scalars]
        if len(set(names)) != len(names):
            raise ValueError(f"field and scalar names repeat: {names}")
        reserved = {"sample", "time", "component", "component_2", *(a.name for a in self.grid.axes)}
        if clash := reserved & set(names):
            raise ValueError(f"names {sorted(clash)} are names of dimensions; choose others")
        for role, members in (("input", self.inputs), ("output", self.outputs)):
            if not members:
                raise ValueError(f"the schema names no {role}s")
            for m in members:
                check_name(f"{role} field", m, names)
        for bc in self.boundary_conditions:
            check_name("boundary axis", bc.axis, [a.name for a in self.grid.axes])

    def field(self, name: str) -> FieldSpec:
        """The field called `name`."""
        check_name("field", name, [f.name for f in self.fields])
        return next(f for f in self.fields if f.name == name)

    def sample_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample of field `name`: ``([T], *grid, [D], [D])``."""
        f = self.field(name)
        t = (len(self.time),) if f.time_varying else ()
        return t + self.grid.shape + (self.grid.dim,) * f.rank

    def boundary_of(self, field: str) -> tuple[tuple[str, str], ...]:
        """Kind of boundary condition of `field`, one (lower, upper) pair an axis.

        Sides without a stated condition are ``"none"``.
        """
        out = []
        for axis in self.grid.axes:
            pair = ["periodic" if axis.periodic else "none"] * 2
            for bc in self.boundary_conditions:
                if bc.axis == axis.name and field in bc.fields:
                    if bc.side in ("both", "lower"):
                        pair[0] = bc.kind
                    if bc.side in ("both", "upper"):
                        pair[1] = bc.kind
            out.append((pair[0], pair[1]))
        return tuple(out)

    def with_grid(self, grid: Grid) -> DatasetSchema:
        """The same dataset on another grid."""
        return replace(self, grid=grid)


def split_of_id(sample_id: int) -> int:
    """Split code of a sample id.

    >>> split_of_id(2_000_000_017)
    2
    """
    return int(np.int64(sample_id)) // SPLIT_STRIDE


