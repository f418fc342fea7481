"""Small datasets in every layout whose outputs are known functions of input and point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

SENSORS = tuple(np.linspace(0.0, 1.0, 9).tolist())


def mesh_of(n: int, rng: np.random.Generator | None = None, scale: float = 1.0) -> Mesh:
    """Triangles on the unit square, inner points moved a little."""
    x = np.linspace(0, 1, n)
    points = np.stack([a.ravel() for a in np.meshgrid(x, x, indexing="ij")], 1)
    if rng is not None:
        inner = ((points > 0) & (points < 1)).all(1)
        points[inner] += rng.uniform(-0.2, 0.2, (int(inner.sum()), 2)) / n
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel(), i[:-1, 1:].ravel()
    cells = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Mesh.simplices(points * scale, cells)


def schema(kind: str) -> DatasetSchema:
    """Layouts by name."""
    common: dict[str, Any] = {"problem": "synthetic", "title": "Known functions"}
    line = ExtraAxis("sensor", SENSORS)
    if kind == "grid":  # u = c + bubble * mean(a); walls at 0, periodic in y
        grid = Grid((Axis("x", 7), Axis("y", 6, 0.0, 2.0, periodic=True)))
        return DatasetSchema(
            grid=grid,
            fields=(FieldSpec("a", "a"), FieldSpec("u", "u"), FieldSpec("v", "v", "m", 1)),
            inputs=("a", "c"), outputs=("u", "v"), scalars=(ScalarSpec("c", "number"),),
            boundary_conditions=(BoundarySpec("x", "dirichlet", ("u", "v")),), **common,
        )  # fmt: skip
    if kind == "evolution":  # s = t x (1 - x) mean(a): zero at first and at both ends
        return DatasetSchema(
            grid=Grid((Axis("x", 7),)), inputs=("a",), outputs=("s",),
            fields=(FieldSpec("a", "a"), FieldSpec("s", "s", time_varying=True)),
            boundary_conditions=(BoundarySpec("x", "dirichlet", ("s",)),),
            problem_type="time_dependent", time=(0.0, 0.5, 2.0), **common,
        )  # fmt: skip
    if kind == "mesh":
        return DatasetSchema(
            grid=Grid(), layout="mesh", mesh=mesh_of(6, np.random.default_rng(0)), axes=(line,),
            fields=(
                FieldSpec("a", "a"), FieldSpec("g", "g", dims=("sensor",)), FieldSpec("u", "u")
            ),
            inputs=("a", "g"), outputs=("u",), **common,
        )  # fmt: skip
    if kind == "ragged":
        return DatasetSchema(
            grid=Grid(), layout="ragged", space_dim=2, inputs=("a",), outputs=("u",),
            fields=(FieldSpec("a", "a"), FieldSpec("u", "u")), **common,
        )  # fmt: skip
    if kind == "series":  # states (sin, cos) of a t
        states = ExtraAxis.index("state", 2)
        return DatasetSchema(
            grid=Grid(), layout="series", axes=(line, states), inputs=("g",), outputs=("z",),
            fields=(
                FieldSpec("g", "g", dims=("sensor",)),
                FieldSpec("z", "z", time_varying=True, dims=("state",), labels=("p", "q")),
            ),
            problem_type="time_dependent", time=(0.0, 0.25, 0.5, 1.0), **common,
        )  # fmt: skip
    if kind == "modes":
        return DatasetSchema(
            grid=Grid(), layout="series", axes=(line,), inputs=("g",), outputs=("s",),
            fields=(
                FieldSpec("g", "g", dims=("sensor",)),
                FieldSpec("s", "s", time_varying=True, dims=()),
            ),
            problem_type="time_dependent", time=(0.0, 0.5, 1.0), **common,
        )  # fmt: skip
    if kind == "own_times":
        return DatasetSchema(
            grid=Grid(), layout="series", axes=(line,), inputs=("g",), outputs=("s",),
            fields=(
                FieldSpec("g", "g", dims=("sensor",)),
                FieldSpec("s", "s", time_varying=True, dims=()),
            ),
            problem_type="time_dependent", time=(0.0, 1.0, 2.0), time_per_sample=True, **common,
        )  # fmt: skip
    raise ValueError(kind)


def sample(kind: str, s: DatasetSchema, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of `ShardWriter.add`."""
    k = float(rng.uniform(0.5, 1.5))
    if kind == "grid":
        x, y = s.grid.meshgrid()
        c = float(rng.uniform(1, 2))
        u = c * k * x * (1 - x) * (2 + np.cos(np.pi * y))
        fields = {"a": k * (1 + x + 0 * y), "u": u, "v": np.stack([u, -2 * u], -1)}
        return {"fields": fields, "scalars": {"c": c}}
    if kind == "evolution":
        x = s.grid.coords[0]
        return {"fields": {"a": k * (1 + x), "s": np.multiply.outer(s.time, k * x * (1 - x))}}
    g = k * (1 + np.array(SENSORS))
    if kind == "mesh":
        x, y = s.mesh.points.T
        return {"fields": {"a": k * x + 0.1, "g": g, "u": k * (1 + x + 2 * y)}}
    if kind == "ragged":
        mesh = mesh_of(int(rng.integers(4, 7)), rng, float(rng.uniform(0.8, 1.0)))
        x, y = mesh.points.T
        return {"fields": {"a": k * (1 + x - y), "u": k * (1 + x + 2 * y)}, "mesh": mesh}
    if kind == "modes":  # two degrees of freedom
        c = float(rng.uniform(-1, 1))
        x, t = np.array(SENSORS), np.array(s.time)
        return {"fields": {"g": k * (1 + x) + c * np.sin(3 * x), "s": k * t + c * t**2}}
    if kind == "series":
        t = np.array(s.time)
        return {"fields": {"g": g, "z": np.stack([10 * np.sin(k * t), np.cos(k * t)], 1)}}
    t = np.sort(rng.uniform(0, 2, 3))
    return {"fields": {"g": g, "s": k * t}, "time": t}


def write(root: Path, kind: str, *, n: dict[str, int] | None = None, seed: int = 0) -> Path:
    """Dataset of a kind."""
    s = schema(kind)
    config = DatasetConfig(
        problem=s.problem, params={}, resolution=s.grid.shape, dtype=s.dtype, seed=seed,
        solver="none", rtol=1e-10, n=n or {"train": 12, "valid": 4, "test": 5}, samples_per_shard=5,
    )  # fmt: skip
    for split in config.n:
        for shard in range(config.n_shards(split)):
            with ShardWriter(root, split=split, shard=shard, schema=s, config=config) as w:
                for i in w.sample_ids:
                    w.add(
                        i, residual=1e-12, iterations=1, wall_time=0.5,
                        **{"scalars": {}, **sample(kind, s, w.rng(i))},
                    )  # fmt: skip
    rebuild_index(root)
    return root
