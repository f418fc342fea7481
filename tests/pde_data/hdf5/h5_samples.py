"""Schemas and random samples that the tests of the format share."""

from __future__ import annotations

import numpy as np

from pde_data.hdf5 import (
    BoundarySpec,
    DatasetConfig,
    DatasetSchema,
    FieldSpec,
    ScalarSpec,
    ShardWriter,
    rebuild_index,
)
from solvers.grids import Axis, Grid


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


def config_of(schema, n, *, samples_per_shard=4, seed=7, **changes):
    values = {
        "problem": schema.problem,
        "params": {"levels": [3, 12]},
        "resolution": schema.grid.shape,
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
    sample comes from a fixed seed."""
    out = {}
    for f in schema.fields:
        source = rng if f.sample_varying else np.random.default_rng(constant_seed)
        u = source.normal(size=schema.sample_shape(f.name))
        if f.name == "a":
            u = np.where(u > 0, 12.0, 3.0)
        if f.name == "u":
            u = np.abs(u)
            u[[0, -1]] = 0
            u[:, [0, -1]] = 0
        out[f.name] = u
    scalars = {s.name: float(rng.uniform()) for s in schema.scalars if s.value is None}
    return out, scalars


def write_shard(root, schema, config, split, shard, *, fail=(), **options):
    """Write one shard; returns id -> (fields, scalars) of what was stored."""
    stored = {}
    with ShardWriter(root, split=split, shard=shard, schema=schema, config=config, **options) as w:
        for i in w.sample_ids:
            fields, scalars = draw(schema, w.rng(i))
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
            )
            stored[i] = (fields, scalars)
    return stored


def write_dataset(root, schema=None, n=None, *, fail=(), config=None, index=True, **changes):
    """A whole dataset; returns (config, id -> (fields, scalars))."""
    schema = schema or darcy()
    config = config or config_of(schema, n or {"train": 10, "valid": 3, "test": 2}, **changes)
    stored = {}
    for split in config.n:
        for k in range(config.n_shards(split)):
            stored |= write_shard(root, schema, config, split, k, fail=fail)
    if index:
        rebuild_index(root)
    return config, stored
