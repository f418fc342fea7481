"""Schemas and random samples that the tests of the format share."""

from __future__ import annotations

import numpy as np

from pde_data.hdf5 import (
    BoundarySpec,
    DatasetConfig,
    DatasetSchema,
    ExtraAxis,
    FieldSpec,
    ScalarSpec,
    ShardWriter,
    rebuild_index,
)
from solvers.grids import Axis, Grid
from solvers.meshes import Mesh


def darcy(n=9, *, dtype="float32", m=None):
    """Static: a in [3, 12] and u >= 0, zero on the boundary of a rectangle."""
    grid = Grid((Axis("x", n, units="m"), Axis("y", m or n, 0.0, 2.0, units="m")))
    return DatasetSchema(
        problem="darcy",
        title="Darcy flow, two-valued permeability",
        grid=grid,
        fields=(
            FieldSpec("a", "permeability", "m^2/(Pa*s)", valid_min=3, valid_max=12),
            FieldSpec(
                "u", "pressure", "Pa", valid_min=0, element_family="Lagrange", element_degree=1
            ),
        ),
        inputs=("a",),
        outputs=("u",),
        scalars=(ScalarSpec("forcing", "source", "1/s", 1.0),),
        boundary_conditions=(
            BoundarySpec("x", "dirichlet", ("u",), units="Pa"),
            BoundarySpec("y", "dirichlet", ("u",), units="Pa"),
        ),
        dtype=dtype,
        equation=r"-\nabla\cdot(a\nabla u) = f",
        discretization="vertex-centered finite volumes",
    )


def flow(shape=(6, 5), *, dtype="float64", times=(0.0, 0.5, 2.0)):
    """Time-dependent, all ranks: periodic cell-centered x, walls in y, a scalar that varies."""
    names = "xyz"[: len(shape)]
    axes = [Axis("x", shape[0], -1.0, 1.0, "cell_center", True, "m")]
    axes += [Axis(a, n, 0.0, 1.0, units="m") for a, n in zip(names[1:], shape[1:], strict=True)]
    walls = tuple(
        spec
        for a in names[1:]
        for spec in (
            BoundarySpec(a, "no_slip", ("velocity",), side="lower", units="m/s"),
            BoundarySpec(a, "neumann", ("p",), side="lower", units="Pa/m"),
            BoundarySpec(a, "robin", ("p",), "upper", 2.5, alpha=0.5, beta=3.0, units="Pa"),
        )
    )
    return DatasetSchema(
        problem="flow",
        title="Made-up flow",
        grid=Grid(tuple(axes)),
        fields=(
            FieldSpec("velocity", "velocity", "m/s", rank=1, time_varying=True),
            FieldSpec("p", "pressure", "Pa", time_varying=True),
            FieldSpec("k", "conductivity", "1", location="cell_center"),
            FieldSpec("depth", "sea floor", "m", sample_varying=False),
            FieldSpec("strain", "strain", "1/s", rank=2, time_varying=True, symmetric=True),
            FieldSpec(
                "inflow", "profile", "m/s", dim_varying=(False,) + (True,) * (len(shape) - 1)
            ),
        ),
        inputs=("k", "nu", "p", "depth"),
        outputs=("p", "velocity", "strain"),
        scalars=(
            ScalarSpec("nu", "viscosity", "m^2/s"),
            ScalarSpec("rho", "density", "kg/m^3", 2.0),
        ),
        boundary_conditions=walls,
        problem_type="time_dependent",
        time=times,
        time_units="s",
        dtype=dtype,
    )


# -- the other layouts ---------------------------------------------------------------------------


def square_mesh(n=4, *, dim=2, rng=None):
    """Triangles (tetrahedra) of a jittered unit square (cube)."""
    from scipy.spatial import Delaunay

    axes = [np.linspace(0, 1, n)] * dim
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dim)
    if rng is not None:
        inside = ((points > 0) & (points < 1)).all(axis=1)
        points[inside] += rng.uniform(-0.2, 0.2, (inside.sum(), dim)) / n
    return Mesh.simplices(points, Delaunay(points, qhull_options="QJ Pp").simplices)


def random_mesh(rng):
    """A triangulation of random points, of another size each time."""
    from scipy.spatial import Delaunay

    points = rng.uniform(-1, 1, (int(rng.integers(6, 40)), 2))
    return Mesh.simplices(points, Delaunay(points).simplices)


def beam():
    """Layout mesh: static, a vector, a value a cell, a Dirichlet condition on the boundary."""
    mesh = square_mesh(5, rng=np.random.default_rng(3))
    return DatasetSchema(
        problem="beam",
        title="Made-up beam",
        grid=Grid(),
        layout="mesh",
        mesh=mesh,
        fields=(
            FieldSpec("E", "stiffness", "Pa", location="cell", valid_min=0),
            FieldSpec("load", "load", "N", location="point"),
            FieldSpec("u", "displacement", "m", rank=1, location="point"),
            FieldSpec("edge", "distance", "m", location="point", sample_varying=False),
        ),
        inputs=("E", "load"),
        outputs=("u",),
        scalars=(ScalarSpec("nu", "Poisson's ratio"),),
        boundary_conditions=(
            BoundarySpec("boundary", "dirichlet", ("load",), units="N"),
            BoundarySpec("boundary", "neumann", ("u",), points=(0, 1, 2), units="1"),
        ),
    )


def pipes(*, dtype="float32"):
    """Layout ragged: time-dependent, a mesh and times a sample, an extra field, cells."""
    return DatasetSchema(
        problem="pipes",
        title="Made-up pipes",
        grid=Grid(),
        layout="ragged",
        space_dim=2,
        fields=(
            FieldSpec("k", "conductivity", "W/(m*K)", location="cell"),
            FieldSpec("T", "temperature", "K", location="point", time_varying=True),
            FieldSpec("q", "flux", "W/m^2", rank=1, location="point", time_varying=True),
            FieldSpec("probe", "probe", "K", dims=("sensor",), time_varying=True),
        ),
        inputs=("k", "q0"),
        outputs=("T", "q", "probe"),
        scalars=(ScalarSpec("q0", "heat", "W"),),
        boundary_conditions=(BoundarySpec("boundary", "dirichlet", ("T",), units="K"),),
        axes=(ExtraAxis("sensor", (0.25, 0.5, 2.0), "m", "position"),),
        problem_type="time_dependent",
        time=(0.0, 1.0, 2.0),
        time_units="s",
        time_per_sample=True,
        dtype=dtype,
    )


def ode(*, per_sample=False):
    """Layout series: two states over time, and an input that does not vary in time."""
    return DatasetSchema(
        problem="ode",
        title="Made-up oscillator",
        grid=Grid(),
        layout="series",
        fields=(
            FieldSpec("state", "state", dims=("state_var",), time_varying=True, labels=("x", "v")),
            FieldSpec("force", "force", "N", dims=("sensor",)),
        ),
        inputs=("force", "k"),
        outputs=("state",),
        scalars=(ScalarSpec("k", "spring", "N/m"),),
        axes=(ExtraAxis.index("state_var", 2), ExtraAxis("sensor", (0.0, 0.1, 0.5, 3.0), "s")),
        problem_type="time_dependent",
        time=(0.0, 0.5, 0.75, 2.0, 3.0),
        time_units="s",
        time_per_sample=per_sample,
        dtype="float64",
    )


def sinogram():
    """Layout grid with an extra field, one of whose axes is the grid's."""
    return DatasetSchema(
        problem="tomography",
        title="Made-up tomography",
        grid=Grid.unit((5, 4), units="m"),
        fields=(
            FieldSpec("image", "density", valid_min=0),
            FieldSpec("lines", "line integrals", "m", dims=("angle", "detector")),
            FieldSpec("trace", "integral over y", "m", dims=("x",)),
        ),
        inputs=("lines",),
        outputs=("image", "trace"),
        axes=(ExtraAxis("angle", (0.0, 0.5, 1.0), "rad"), ExtraAxis.index("detector", 6)),
    )


# -- samples -------------------------------------------------------------------------------------


def config_of(schema, n, *, samples_per_shard=4, seed=7, **changes):
    values = {
        "problem": schema.problem,
        "params": {"levels": [3, 12]},
        "resolution": schema.grid.shape or (4,),
        "dtype": schema.dtype,
        "seed": seed,
        "solver": "direct",
        "rtol": 1e-10,
        "n": dict(n),
        "samples_per_shard": samples_per_shard,
    }
    return DatasetConfig(**{**values, **changes})


def draw(schema, rng, constant_seed=99):
    """Random fields that obey the schema's bounds and Dirichlet values; what varies with neither
    sample comes from a fixed seed. Returns fields, scalars and further arguments of `add`."""
    out, more = {}, {}
    mesh = schema.mesh
    if schema.layout == "ragged":
        mesh = more["mesh"] = random_mesh(rng)
    if schema.time_per_sample:
        more["time"] = np.cumsum(rng.uniform(0.1, 1, len(schema.time)))
    for f in schema.fields:
        source = rng if f.sample_varying else np.random.default_rng(constant_seed)
        shape = schema.sample_shape(f.name)
        if mesh is not None:
            count = mesh.n_cells if f.location == "cell" else mesh.n_points
            shape = tuple(count if n == -1 else n for n in shape)
        u = source.normal(size=shape)
        if f.valid_min == 0:
            u = np.abs(u)
        if f.name == "a":
            u = np.where(u > 0, 12.0, 3.0)
        if f.name == "u" and schema.problem == "darcy":
            u[[0, -1]] = 0
            u[:, [0, -1]] = 0
        if f.name in ("load", "T"):
            u[..., mesh.boundary_points()] = 0
        out[f.name] = u
    scalars = {s.name: float(rng.uniform()) for s in schema.scalars if s.value is None}
    return out, scalars, more


def write_shard(root, schema, config, split, shard, *, fail=(), keep_more=False, **options):
    """Write one shard; returns id -> (fields, scalars) of what was stored."""
    stored = {}
    with ShardWriter(root, split=split, shard=shard, schema=schema, config=config, **options) as w:
        for i in w.sample_ids:
            fields, scalars, more = draw(schema, w.rng(i))
            if i in fail:
                w.fail(i, "did not\nconverge")
                continue
            w.add(
                i,
                fields=fields,
                scalars=scalars,
                residual=1e-12 * (1 + i % 10),
                iterations=i % 5,
                wall_time=0.25,
                discretization_error=1e-3 if i % 4 == 0 else np.nan,
                **more,
            )
            stored[i] = (fields, scalars)
            if keep_more:
                stored[i] = (fields, scalars, more)
    return stored


def write_dataset(
    root, schema=None, n=None, *, fail=(), config=None, index=True, more=False, **changes
):
    """A whole dataset; returns (config, id -> (fields, scalars))."""
    schema = schema or darcy()
    config = config or config_of(schema, n or {"train": 10, "valid": 3, "test": 2}, **changes)
    stored = {}
    for split in config.n:
        for k in range(config.n_shards(split)):
            stored |= write_shard(root, schema, config, split, k, fail=fail, keep_more=more)
    if index:
        rebuild_index(root)
    return config, stored
