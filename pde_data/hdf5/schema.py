"""What a dataset holds, as frozen dataclasses: one description for writer, reader and models."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from solvers.grids import Axis, Grid
from solvers.meshes import Mesh
from solvers.names import check_name

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "SPLIT_CODES",
    "SPLIT_STRIDE",
    "BoundarySpec",
    "DatasetConfig",
    "DatasetSchema",
    "ExtraAxis",
    "FieldSpec",
    "NonuniformAxis",
    "ScalarSpec",
    "check_split_name",
    "default_samples_per_shard",
    "split_of_id",
]

FORMAT = "opkit-dataset"
FORMAT_VERSION = "1.0"
#: Sample ids are ``SPLIT_STRIDE * code + index``.
SPLIT_STRIDE = 10**9
SPLIT_CODES = {"train": 0, "valid": 1, "test": 2}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
SPLIT_NAME = re.compile(r"(train|valid|test|test_[A-Za-z0-9_]+)\Z")
#: Attributes of the root group; constant scalars stand beside them, as in The Well.
ROOT_ATTRIBUTES = (
    "format",
    "format_version",
    "layout",
    "title",
    "problem",
    "problem_type",
    "split",
    "shard_index",
    "dataset_name",
    "grid_type",
    "n_spatial_dims",
    "n_trajectories",
    "simulation_parameters",
    "content_digest",
    "complete",
    "view",
)
BC_KINDS = ("dirichlet", "neumann", "robin", "periodic", "outflow", "no_slip", "slip")


def _check_identifier(what: str, name: str) -> None:
    if not NAME.match(name):
        raise ValueError(f"{what} {name!r}: names start with a letter, then letters, digits and _")


@dataclass(frozen=True)
class NonuniformAxis(Axis):
    """A coordinate axis with any spacing, for data made elsewhere.

    It has coordinates and quadrature weights, but no spacing and no finer or coarser version.

    Parameters
    ----------
    points : tuple of float
        The `n` coordinates, strictly increasing, from `lower` to `upper`; of a node axis they
        begin and end there, unless it is periodic.

    Raises
    ------
    ValueError
    """

    points: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        x = np.array(self.points, np.float64)
        object.__setattr__(self, "points", tuple(x.ravel().tolist()))
        inside = x.shape == (self.n,) and self.lower <= x[0] and x[-1] <= self.upper
        if not inside or not (np.diff(x) > 0).all():
            raise ValueError(
                f"axis {self.name!r}: need {self.n} strictly increasing points from {self.lower} "
                f"to {self.upper}"
            )
        slack = 1e-9 * (self.upper - self.lower)
        closed = self.location == "node" and not self.periodic
        if closed and max(x[0] - self.lower, self.upper - x[-1]) > slack:
            raise ValueError(f"axis {self.name!r}: a node axis has points at both of its bounds")

    @property
    def coords(self) -> np.ndarray:
        """Coordinates of the points, float64, shape (n,)."""
        return np.array(self.points)

    @property
    def weights(self) -> np.ndarray:
        """Quadrature weights, shape (n,): the half of the gaps on either side of a point.

        They add up to the length of the axis.
        """
        x = self.coords
        between = (x[1:] + x[:-1]) / 2
        if self.periodic:
            wrap = (x[0] + self.upper - self.lower + x[-1]) / 2
            return np.diff([wrap - self.upper + self.lower, *between, wrap])
        return np.diff([self.lower, *between, self.upper])

    @property
    def spacing(self) -> float:
        """Refused: there is no one spacing."""
        raise ValueError(f"axis {self.name!r} is not uniform and has no spacing")

    def resized(self, n: int) -> Axis:
        """Refused: nothing says where the points of another number would lie."""
        raise ValueError(f"axis {self.name!r} is not uniform: it cannot have {n} points")

    def refined(self, factor: int = 2) -> Axis:
        """Refused, as for `resized`."""
        raise ValueError(f"axis {self.name!r} is not uniform: it cannot be refined")


@dataclass(frozen=True)
class ExtraAxis:
    """An axis that is neither space nor time: sensors, angles, components of an ODE's state.

    Parameters
    ----------
    name : str
    coords : tuple of float
        Strictly increasing; 0, 1, ... where the entries have no coordinate.
    units, long_name : str
    """

    name: str
    coords: tuple[float, ...]
    units: str = "1"
    long_name: str = ""

    def __post_init__(self) -> None:
        _check_identifier("axis", self.name)
        object.__setattr__(self, "coords", tuple(float(c) for c in self.coords))
        steps = [b - a for a, b in zip(self.coords, self.coords[1:], strict=False)]
        if (
            not self.coords
            or not all(map(math.isfinite, self.coords))
            or min(steps, default=1) <= 0
        ):
            raise ValueError(f"axis {self.name!r}: need strictly increasing finite coordinates")

    @classmethod
    def index(cls, name: str, n: int, *, long_name: str = "") -> ExtraAxis:
        """Axis of `n` entries without coordinates."""
        return cls(name, tuple(map(float, range(n))), "1", long_name)


@dataclass(frozen=True)
class FieldSpec:
    """One field: over the spatial axes, or with `dims` over others.

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
    dim_varying : tuple of bool, optional
        Spatial axes the field has, in the grid's order; None for all of them.
    dims : tuple of str, optional
        Names of `ExtraAxis` (and of spatial axes) that take the place of space: an extra field.
        Time comes first by `time_varying`, and is not named here.
    labels : tuple of str
        Names of the entries along the last of `dims`, such as the states of an ODE.
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
    dim_varying: tuple[bool, ...] | None = None
    dims: tuple[str, ...] | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_identifier("field", self.name)
        check_name("location", self.location, ("node", "cell_center", "point", "cell"))
        if self.rank not in (0, 1, 2):
            raise ValueError(f"field {self.name!r}: rank={self.rank}, allowed 0, 1, 2")
        lo = -math.inf if self.valid_min is None else self.valid_min
        hi = math.inf if self.valid_max is None else self.valid_max
        if not lo <= hi:
            raise ValueError(
                f"field {self.name!r}: valid_min={self.valid_min}, valid_max={self.valid_max}: "
                "need valid_min <= valid_max"
            )
        if self.dims is not None and (self.rank or self.dim_varying is not None):
            raise ValueError(f"field {self.name!r}: dims exclude rank and dim_varying")
        if self.labels and not self.dims:
            raise ValueError(f"field {self.name!r}: labels name the entries along the last of dims")
        if (self.symmetric or self.antisymmetric) and self.rank != 2:
            raise ValueError(f"field {self.name!r}: symmetric is for rank 2, not {self.rank}")


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
        if self.value is not None and self.name in ROOT_ATTRIBUTES:
            raise ValueError(f"scalar {self.name!r}: the name is taken by a root attribute")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"scalar {self.name!r}: value={self.value}, need a finite number")


@dataclass(frozen=True)
class BoundarySpec:
    """A boundary condition ``alpha*u + beta*du/dn = values`` on one or both ends of an axis.

    On a mesh it holds on the whole boundary, or on the points named.

    Parameters
    ----------
    axis : str
        Name of the axis, ``"x"``; on a mesh ``"boundary"``.
    kind : str
        ``dirichlet``, ``neumann``, ``robin``, ``periodic``, ``outflow``, ``no_slip``, ``slip``.
    side : {"both", "lower", "upper"}
    fields : tuple of str
        Fields it holds for.
    value : float
        Right-hand side, constant along the side.
    points : tuple of int, optional
        Of layout ``"mesh"``: numbers of the points where it holds, if not the whole boundary.
    """

    axis: str
    kind: str
    fields: tuple[str, ...]
    side: Literal["both", "lower", "upper"] = "both"
    value: float = 0.0
    alpha: float | None = None
    beta: float | None = None
    units: str = "1"
    points: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_name("boundary condition", self.kind, BC_KINDS)
        check_name("side", self.side, ("both", "lower", "upper"))
        if self.points is not None:
            points = tuple(sorted({int(i) for i in self.points}))
            object.__setattr__(self, "points", points)

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
        Without axes unless the layout is ``"grid"``.
    fields : tuple of FieldSpec
    inputs, outputs : tuple of str
        Names of fields (or scalars), in the order of the model's channels.
    time : tuple of float
        Stored times; ``(0.0,)`` for a static problem.
    layout : {"grid", "mesh", "ragged", "series"}
        One grid, one mesh for all samples, a mesh a sample, or no space at all.
    mesh : Mesh, optional
        Of layout ``"mesh"``.
    space_dim : int, optional
        Coordinates of a point; needed for ``"ragged"``, else known.
    axes : tuple of ExtraAxis
        Of the extra fields.
    time_per_sample : bool
        Each sample has times of its own, as many as `time` (whose values are then placeholders).
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
    layout: Literal["grid", "mesh", "ragged", "series"] = "grid"
    mesh: Mesh | None = None
    space_dim: int | None = None
    axes: tuple[ExtraAxis, ...] = ()
    time_per_sample: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    equation: str = ""
    discretization: str = ""
    sampling: str = "nodal"
    license: str = "CC-BY-4.0"
    citation: str = ""

    def __post_init__(self) -> None:
        _check_identifier("problem", self.problem)
        check_name("dtype", self.dtype, ("float32", "float64"))
        check_name("problem_type", self.problem_type, ("static", "time_dependent"))
        self._check_layout()
        axes = [a.name for a in self.grid.axes]
        if any(n not in "xyz" for n in axes):
            raise ValueError(f"axes are called {axes}, expected x, y, z")
        if self.problem_type == "static" and self.time != (0.0,):
            raise ValueError(f"time={self.time}: a static problem has time (0.0,)")
        steps = [b - a for a, b in zip(self.time, self.time[1:], strict=False)]
        if not self.time or not all(map(math.isfinite, self.time)) or any(d <= 0 for d in steps):
            raise ValueError("time: need strictly increasing finite numbers")
        if self.time_per_sample:  # placeholders, the same ones when read back
            object.__setattr__(self, "time", tuple(map(float, range(len(self.time)))))
        extra = {a.name: len(a.coords) for a in self.axes}
        if unused := set(extra) - {d for f in self.fields for d in f.dims or ()}:
            raise ValueError(f"axes {sorted(unused)}: no field has them")
        for f in self.fields:
            for d in f.dims or ():
                check_name(f"axis of field {f.name!r}", d, [*extra, *axes])
            if f.labels and f.dims and len(f.labels) != self._length(f.dims[-1]):
                raise ValueError(
                    f"field {f.name!r}: {len(f.labels)} labels, axis {f.dims[-1]!r} has "
                    f"{self._length(f.dims[-1])} entries"
                )
            if f.dims is None and self.layout == "series":
                raise ValueError(f"field {f.name!r}: layout 'series' has no space, give dims")
            if f.dims == () and not f.time_varying:
                raise ValueError(f"field {f.name!r}: dims=(): a number a sample is a scalar")
            if self.layout == "ragged" and f.dims is None and not f.sample_varying:
                raise ValueError(f"field {f.name!r}: the points vary with the sample, so does it")
            if f.dim_varying is not None and len(f.dim_varying) != self.grid.dim:
                raise ValueError(
                    f"field {f.name!r}: dim_varying has {len(f.dim_varying)} entries, "
                    f"the grid has {self.grid.dim} axes"
                )
            if f.time_varying and self.problem_type == "static":
                raise ValueError(f"field {f.name!r}: time_varying=True in a static problem")
        names = [f.name for f in self.fields] + [s.name for s in self.scalars]
        if len(set(names)) != len(names):
            raise ValueError(f"field and scalar names repeat: {names}")
        reserved = {"sample", "time", "component", "component_2", "failure", "point", "cell"}
        reserved |= {"step"} if self.time_per_sample else set()
        if clash := (reserved | set(axes)) & set(extra):
            raise ValueError(f"axes {sorted(clash)}: the names are taken; choose others")
        reserved |= {*axes, *extra}
        if clash := reserved & set(names):
            raise ValueError(f"names {sorted(clash)} are names of dimensions; choose others")
        for role, members in (("input", self.inputs), ("output", self.outputs)):
            if not members:
                raise ValueError(f"the schema names no {role}s")
            for m in members:
                check_name(f"{role} field", m, names)
        periodic = {a.name: a.periodic for a in self.grid.axes}
        stated = [bc.axis for bc in self.boundary_conditions]
        meshed = self.layout in ("mesh", "ragged")
        for bc in self.boundary_conditions:
            check_name("boundary axis", bc.axis, ["boundary"] if meshed else axes)
            for f_name in bc.fields:
                check_name("boundary field", f_name, [f.name for f in self.fields])
            if meshed:
                self._check_boundary_points(bc)
            elif bc.points is not None:
                raise ValueError(f"boundary condition on {bc.axis!r}: points are for meshes")
            elif (bc.kind == "periodic") != periodic[bc.axis]:
                raise ValueError(
                    f"boundary condition {bc.kind!r} on axis {bc.axis!r}, whose "
                    f"periodic={periodic[bc.axis]}"
                )
        # a periodic axis says so in the boundary conditions too (The Well reads them alone)
        implied = tuple(
            BoundarySpec(a, "periodic", tuple(f.name for f in self.fields))
            for a in axes
            if periodic[a] and a not in stated
        )
        # one order, so that a schema read back from a file is equal
        ordered = sorted(
            self.boundary_conditions + implied,
            key=lambda b: (b.axis, b.side, b.kind, b.fields, b.points or ()),
        )
        object.__setattr__(self, "boundary_conditions", tuple(ordered))
        ranked = sorted(self.fields, key=lambda f: f.rank if f.dims is None else 3)
        object.__setattr__(self, "fields", tuple(ranked))
        object.__setattr__(self, "axes", tuple(sorted(self.axes, key=lambda a: a.name)))

    def field(self, name: str) -> FieldSpec:
        """Return the field called `name`."""
        check_name("field", name, [f.name for f in self.fields])
        return next(f for f in self.fields if f.name == name)

    @property
    def dim(self) -> int:
        """Number of space dimensions; 0 for ``"series"``."""
        if self.mesh is not None:
            return self.mesh.dim
        return self.grid.dim if self.space_dim is None else self.space_dim

    def _check_boundary_points(self, bc: BoundarySpec) -> None:
        if bc.side != "both":
            raise ValueError(f"boundary condition {bc.kind!r}: side={bc.side!r} is for grids")
        if bc.points is None:
            return
        if self.mesh is None:
            raise ValueError("boundary points differ from sample to sample: leave out points")
        if not bc.points or not 0 <= bc.points[0] <= bc.points[-1] < self.mesh.n_points:
            raise ValueError(
                f"boundary condition {bc.kind!r}: points must lie in 0 to {self.mesh.n_points - 1}"
            )

    def _check_layout(self) -> None:
        check_name("layout", self.layout, ("grid", "mesh", "ragged", "series"))
        if (self.layout == "grid") != bool(self.grid.axes):
            raise ValueError(
                f"layout={self.layout!r}: the grid has {self.grid.dim} axes; layout 'grid' needs "
                "one or more, the others none"
            )
        if (self.layout == "mesh") != (self.mesh is not None):
            raise ValueError(f"layout={self.layout!r}: a mesh belongs to layout 'mesh' alone")
        if self.layout == "ragged" and self.space_dim not in (1, 2, 3):
            raise ValueError(f"space_dim={self.space_dim}: layout 'ragged' needs 1, 2 or 3")
        if self.layout != "ragged" and self.space_dim not in (None, self.dim):
            raise ValueError(f"space_dim={self.space_dim}: the layout has {self.dim}")
        if self.time_per_sample and self.problem_type == "static":
            raise ValueError("time_per_sample=True in a static problem")

    def _length(self, axis: str) -> int:
        """Points on a spatial or extra axis."""
        lengths = {a.name: len(a.coords) for a in self.axes}
        lengths |= {a.name: a.n for a in self.grid.axes}
        return lengths[axis]

    def sample_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample of field `name`.

        ``([T], *grid, [D], [D])``; with a mesh ``([T], P, [D], [D])``, where P is the number of
        points (of cells, for location ``"cell"``), -1 for layout ``"ragged"``; extra fields
        ``([T], *dims)``.
        """
        f = self.field(name)
        t = (len(self.time),) if f.time_varying else ()
        if f.dims is not None:
            return t + tuple(self._length(d) for d in f.dims)
        if self.layout == "ragged":
            space: tuple[int, ...] = (-1,)
        elif self.mesh is not None:
            space = (self.mesh.n_cells if f.location == "cell" else self.mesh.n_points,)
        else:
            varying = f.dim_varying or (True,) * self.grid.dim
            space = tuple(n for n, v in zip(self.grid.shape, varying, strict=True) if v)
        return t + space + (self.dim,) * f.rank

    def sample_dims(self, name: str) -> tuple[str, ...]:
        """Names of the axes of one sample of field `name`.

        Where the times differ from sample to sample, the axis of time is called ``"step"``.
        """
        f = self.field(name)
        t = ("step" if self.time_per_sample else "time",) * f.time_varying
        if f.dims is not None:
            return t + f.dims
        if self.layout in ("mesh", "ragged"):
            space: tuple[str, ...] = ("cell" if f.location == "cell" else "point",)
        else:
            varying = f.dim_varying or (True,) * self.grid.dim
            space = tuple(a.name for a, v in zip(self.grid.axes, varying, strict=True) if v)
        return t + space + ("component", "component_2")[: f.rank]

    def sample_bytes(self) -> int:
        """Bytes of one sample, uncompressed; for ``"ragged"`` as if it had 4096 points."""
        size = np.dtype(self.dtype).itemsize
        shapes = (self.sample_shape(f.name) for f in self.fields)
        return sum(size * math.prod(4096 if n == -1 else n for n in s) for s in shapes)

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
        """Return the same dataset on another grid."""
        return replace(self, grid=grid)


@dataclass(frozen=True)
class DatasetConfig:
    """How a dataset was made: everything its samples depend on.

    Parameters
    ----------
    problem : str
        Registry name.
    params : mapping
        Resolved parameters of the problem, JSON types.
    resolution : tuple of int
        Points per axis.
    dtype : {"float32", "float64"}
    seed : int
        Of the dataset, not negative.
    solver : str
    rtol : float
        Relative residual asked of the solver.
    n : mapping of str to int
        Samples asked for per split. Splits other than train, valid and test get the codes
        3, 4, ... in this order.
    samples_per_shard : int
    compression : {"gzip", None}
    """

    problem: str
    params: Mapping[str, Any]
    resolution: tuple[int, ...]
    dtype: Literal["float32", "float64"]
    seed: int
    solver: str
    rtol: float
    n: Mapping[str, int]
    samples_per_shard: int = 64
    compression: Literal["gzip"] | None = "gzip"

    def __post_init__(self) -> None:
        _check_identifier("problem", self.problem)
        check_name("dtype", self.dtype, ("float32", "float64"))
        if self.compression is not None:
            check_name("compression", self.compression, ("gzip",))
        for name, low in (("seed", 0), ("samples_per_shard", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"{name}={value!r}: need an integer >= {low}")
            object.__setattr__(self, name, int(value))
        object.__setattr__(self, "resolution", tuple(int(r) for r in self.resolution))
        for split, count in self.n.items():
            check_split_name(split)
            if isinstance(count, bool) or not 0 <= count < SPLIT_STRIDE:
                raise ValueError(f"n[{split!r}]={count}: need 0 <= n < {SPLIT_STRIDE}")
        object.__setattr__(self, "n", {s: int(c) for s, c in self.n.items()})
        try:
            clean = json.loads(_json(dict(self.params)))
        except (TypeError, ValueError) as e:
            raise ValueError(f"params={self.params!r}: need JSON types ({e})") from None
        object.__setattr__(self, "params", clean)

    def as_dict(self) -> dict[str, Any]:
        """JSON types; equal configurations give equal dictionaries."""
        return {**asdict(self), "resolution": list(self.resolution)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> DatasetConfig:
        """Inverse of `as_dict`; keys it does not know are left out."""
        known = {f.name for f in fields(cls)}
        kept = {k: v for k, v in d.items() if k in known}
        return cls(**{**kept, "resolution": tuple(d["resolution"])})

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the configuration without the numbers of samples."""
        return hashlib.sha256(_json({**self.as_dict(), "n": None}).encode()).hexdigest()

    def split_code(self, split: str) -> int:
        """Code of a split: the first part of its sample ids.

        Raises
        ------
        UnknownNameError
            `split` is not in `n`.
        """
        check_name("split", split, list(self.n))
        if split in SPLIT_CODES:
            return SPLIT_CODES[split]
        return len(SPLIT_CODES) + [s for s in self.n if s not in SPLIT_CODES].index(split)

    def sample_ids(self, split: str, shard: int) -> tuple[int, ...]:
        """Ids that shard number `shard` of `split` holds if no sample fails."""
        first = SPLIT_STRIDE * self.split_code(split)
        s = self.samples_per_shard
        return tuple(range(first + shard * s, first + min((shard + 1) * s, self.n[split])))

    def n_shards(self, split: str) -> int:
        """Count the shards of `split`."""
        check_name("split", split, list(self.n))
        return -(-self.n[split] // self.samples_per_shard)

    def sample_seed(self, sample_id: int) -> int:
        """Seed of one sample; it depends on the dataset's seed and the id alone."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(int(sample_id),))
        return int(sequence.generate_state(1, np.uint64)[0])

    def differences(self, other: DatasetConfig) -> str:
        """Say what differs from `other`, numbers of samples aside: ``"seed 0 -> 1"``."""
        a, b = self.as_dict(), other.as_dict()
        for d in (a, b):
            d.pop("n")
            d.update({f"params.{k}": v for k, v in d.pop("params").items()})
        keys = [k for k in {**a, **b} if a.get(k) != b.get(k)]
        return ", ".join(f"{k} {_short(a.get(k))} -> {_short(b.get(k))}" for k in keys)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def check_split_name(split: str) -> str:
    """Return `split` if a split may have this name.

    Raises
    ------
    UnknownNameError
        Not ``train``, ``valid``, ``test`` or ``test_<what>``.
    """
    if not SPLIT_NAME.match(split):
        check_name("split", split, ("train", "valid", "test", "test_<what>"))
    return split


def default_samples_per_shard(n: int, sample_bytes: int) -> int:
    """Choose the samples a shard for a split of `n`: ``max(64, n/128)``, less if above 256 MiB.

    >>> default_samples_per_shard(1000, 2**17), default_samples_per_shard(20000, 2**17)
    (64, 157)
    """
    return max(1, min(max(64, -(-n // 128)), 2**28 // max(sample_bytes, 1)))


def split_of_id(sample_id: int) -> int:
    """Split code of a sample id.

    >>> split_of_id(2_000_000_017)
    2
    """
    return int(np.int64(sample_id)) // SPLIT_STRIDE
