"""Small datasets in the real format, made without a solver, and a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models import ModelEntry, ModelSpec, register_model
from models.registry import _MODELS
from pde_data.hdf5 import (
    BoundarySpec,
    DatasetConfig,
    DatasetSchema,
    FieldSpec,
    ScalarSpec,
    ShardWriter,
    rebuild_index,
)
from solvers.grids import Grid


def schema(grid: Grid | None = None, *, vector: bool = False, **changes: Any) -> DatasetSchema:
    grid = grid or Grid.unit(9)
    location = grid.axes[0].location
    out = (
        FieldSpec("v", "velocity", "m/s", 1, location)
        if vector
        else FieldSpec("u", "solution", location=location)
    )
    closed = tuple(
        BoundarySpec(a.name, "dirichlet", (out.name,)) for a in grid.axes if not a.periodic
    )
    values = dict(
        problem="synthetic", title="A smoothed input", grid=grid,
        fields=(FieldSpec("a", "coefficient", location=location), out),
        inputs=("a", "c"), outputs=(out.name,),
        scalars=(ScalarSpec("c", "a number"),), boundary_conditions=closed,
    )  # fmt: skip
    return DatasetSchema(**{**values, **changes})


def sample(s: DatasetSchema, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], float]:
    """Input a, scalar c, output c * bubble * (waves of a)."""
    x = s.grid.meshgrid()
    w = rng.normal(size=(3, s.grid.dim))
    a = sum(np.sin(np.pi * sum(k * y for k, y in zip(row, x, strict=True))) for row in w) + 2
    c = float(rng.uniform(1, 2))
    bubble = np.ones(s.grid.shape)
    for y, axis in zip(x, s.grid.axes, strict=True):
        if not axis.periodic:
            bubble = bubble * np.sin(np.pi * (y - axis.lower) / (axis.upper - axis.lower))
            if axis.location == "node":
                bubble[np.isclose(y, axis.upper)] = 0.0
    u = c * bubble * (1 + 0.2 * a)
    fields = {"a": a}
    for f in s.fields:
        if f.name in s.outputs:
            fields[f.name] = u if f.rank == 0 else np.stack([u] + [2 * u] * (s.grid.dim - 1), -1)
    return fields, c


def write(
    root: Path, s: DatasetSchema | None = None, *, seed: int = 0, n: dict[str, int] | None = None
) -> Path:
    s = s or schema()
    config = DatasetConfig(
        problem=s.problem, params={}, resolution=s.grid.shape, dtype=s.dtype, seed=seed,
        solver="none", rtol=1e-10, n=n or {"train": 12, "valid": 4, "test": 5}, samples_per_shard=5,
    )  # fmt: skip
    for split in config.n:
        for shard in range(config.n_shards(split)):
            with ShardWriter(root, split=split, shard=shard, schema=s, config=config) as w:
                for i in w.sample_ids:
                    fields, c = sample(s, w.rng(i))
                    scalars = {"c": c} if s.scalars else {}
                    w.add(
                        i,
                        fields=fields,
                        residual=1e-12,
                        iterations=1,
                        wall_time=0.5,
                        scalars=scalars,
                    )
    rebuild_index(root)
    return root


class Tiny(nn.Module):
    """Two pointwise layers, a dropout that shows whether random numbers are repeated."""

    def __init__(self, spec: ModelSpec, width: int, dropout: float) -> None:
        super().__init__()
        self.channels = spec.in_channels
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spec.grid.dim]
        self.a = conv(spec.in_channels, width, 3, padding=1)
        self.b = conv(width, spec.out_channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.dropout(torch.tanh(self.a(x))))


class Poisoned(Tiny):
    """Gives NaN from the given call on."""

    def __init__(self, spec: ModelSpec, calls: int) -> None:
        super().__init__(spec, 4, 0.0)
        self.left = calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if self.training:
            self.left -= 1
        return y * torch.nan if self.left < 0 else y


def build_tiny(spec: ModelSpec, *, width: int = 6, dropout: float = 0.1) -> nn.Module:
    return Tiny(spec, width, dropout)


def build_poisoned(spec: ModelSpec, *, calls: int = 5) -> nn.Module:
    return Poisoned(spec, calls)


def build_misfit(spec: ModelSpec, *, width: int = 4) -> nn.Module:
    model = Tiny(spec, width, 0.0)
    model.b = nn.Conv2d(width, spec.out_channels + 1, 1)
    return model


def register() -> None:
    """Make the models known to the registry, once."""
    import sys

    sys.modules.setdefault("opkit_synthetic", sys.modules[__name__])
    for name in ("tiny", "poisoned", "misfit"):
        if name not in _MODELS:
            register_model(ModelEntry(name, name, "grid", f"opkit_synthetic:build_{name}"))
