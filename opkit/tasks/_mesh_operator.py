"""Operators between fields at points: batches, the training step, and what `load` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from solvers.meshes import Mesh

from ..data import _fits, file_blocks
from ..learner import Learner
from ..operator import Operator

if TYPE_CHECKING:
    from pde_data.hdf5 import Split

    from .mesh import MeshTask
    from .normalizer import Normalizer

__all__ = ["MeshData", "MeshLearner", "MeshOperator", "PhysicalMeshModel", "relative_errors"]


class MeshData(TorchDataset[tuple[Tensor, ...]]):
    """``data[indices]`` gives fields, points and weights of samples.

    A batch is ``(x, y, points, w, mask, weights)``: fields (b, P, C), points (b, P, D) with
    quadrature weights (b, P), and `mask`, 1 for points of the sample and 0 for those that fill up
    smaller samples (copies of the first point with weight 0). If all samples share a mesh, points
    are (P, D) and w (P,). Values are in physical units. An index below 0 stands for sample
    ``-index - 1`` with weight 0.

    Parameters
    ----------
    split : Split
    task : MeshTask
    dtype : torch.dtype
    limit : int, optional
        Use the first samples only.
    """

    def __init__(
        self, split: Split, task: MeshTask, *, dtype: torch.dtype, limit: int | None = None
    ) -> None:
        self.split, self.task, self.dtype = split, task, dtype
        self.n = len(split) if limit is None else min(limit, len(split))
        self.shared = split.schema.mesh
        self.cached = True
        if self.n:
            one = sum(t.nbytes for t in self._sample(0))
            self.cached = _fits(2 * self.n * one)
        self._cache: list[tuple[Tensor, ...]] | None = None

    def __len__(self) -> int:
        return self.n

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Samples of each file, for `BatchSampler`; None when all are in memory."""
        return None if self.cached else file_blocks(self.split, self.n)

    def load(self) -> None:
        """Fill the cache, if there is to be one."""
        if self.cached and self._cache is None and self.n:
            found: list[tuple[Tensor, ...]] = []
            for start in range(0, self.n, 64):
                found += self._samples(np.arange(start, min(start + 64, self.n)))
            self._cache = found

    def _sample(self, i: int) -> tuple[Tensor, ...]:
        return self._samples(np.array([i]))[0]

    def _samples(self, index: np.ndarray) -> list[tuple[Tensor, ...]]:
        out = []
        for i, x, y in zip(index, *self.task.read(self.split, index), strict=True):
            arrays = [x, y]
            if self.shared is None:
                mesh = self.split.mesh(int(i))
                arrays += [mesh.points, mesh.point_weights]
            out.append(tuple(torch.as_tensor(np.array(a)).to(self.dtype) for a in arrays))
        return out

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, ...]:
        """Read a batch."""
        index = np.asarray(indices, np.int64)
        weights = torch.as_tensor(index >= 0).to(self.dtype)
        index = np.where(index < 0, -index - 1, index)
        self.load()
        samples = (
            [self._cache[i] for i in index] if self._cache is not None else self._samples(index)
        )
        if self.shared is not None:
            x, y = (torch.stack([s[k] for s in samples]) for k in (0, 1))
            points = torch.as_tensor(self.shared.points).to(self.dtype)
            w = torch.as_tensor(self.shared.point_weights).to(self.dtype)
            return x, y, points, w, torch.ones(x.shape[:2], dtype=self.dtype), weights
        most = max(len(s[0]) for s in samples)
        x, y, points, w = (
            torch.stack([_fill(s[k], most, zero=k == 3) for s in samples]) for k in range(4)
        )
        mask = torch.stack([_fill(torch.ones(len(s[0])), most, zero=True) for s in samples])
        return x, y, points, w, mask.to(self.dtype), weights


def _fill(a: Tensor, n: int, *, zero: bool) -> Tensor:
    """Rows up to `n`: zeros, or copies of the first."""
    more = n - len(a)
    if not more:
        return a
    row = torch.zeros_like(a[:1]) if zero else a[:1]
    return torch.cat([a, row.expand(more, *a.shape[1:])])


def relative_errors(prediction: Tensor, truth: Tensor, w: Tensor, parts: Sequence[slice]) -> Tensor:
    """Relative L2 error of each sample, a mean over the output fields, shape (b,).

    Parameters
    ----------
    prediction, truth : Tensor, shape (b, P, C)
    w : Tensor, shape (P,) or (b, P)
        Quadrature weights.
    parts : sequence of slice
        Channels of each field.
    """
    total: list[Tensor] = []
    w = w / w.sum(-1, keepdim=True)
    for part in parts:
        e = ((prediction[..., part] - truth[..., part]).square().sum(-1) * w).sum(-1)
        t = (truth[..., part].square().sum(-1) * w).sum(-1)
        ratio = e / t
        zero = ratio == 0  # where the square root has no derivative
        total.append(torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, ratio))))
    return torch.stack(total).mean(0)


class PhysicalMeshModel(nn.Module):
    """A model between physical units: scale, apply, scale back."""

    def __init__(self, model: nn.Module, normalizer: Normalizer) -> None:
        super().__init__()
        self.model = model
        names = ("input_shift", "input_scale", "output_shift", "output_scale")
        self._exact = {k: torch.tensor(getattr(normalizer, k), dtype=torch.float64) for k in names}

    def _like(self, name: str, x: Tensor) -> Tensor:
        return self._exact[name].to(x.dtype).to(x.device)

    def forward(self, x: Tensor, points: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply to (b, P, in_channels) in physical units."""
        x = (x - self._like("input_shift", x)) / self._like("input_scale", x)
        y: Tensor = self.model(x, points, w, mask)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        return y * self._like("output_scale", y) + self._like("output_shift", y)


class MeshLearner(Learner):
    """Quadrature-weighted relative L2 errors in physical units."""

    def __init__(self, model: nn.Module, task: MeshTask, normalizer: Normalizer) -> None:
        super().__init__(model)
        # hidden from torch: the weights are those of `model`
        self._physical = (PhysicalMeshModel(model, normalizer),)
        self._parts = task.parts
        self._scale = torch.tensor(normalizer.output_scale, dtype=torch.float64)

    def losses(self, *batch: Tensor) -> Tensor:
        """Relative error of each sample."""
        x, y, points, w, mask, _ = batch
        own = None if points.ndim == 2 else mask > 0
        # in units of the scales, so that squares do not underflow
        scale = self._scale.to(y.dtype).to(y.device)
        prediction = self._physical[0](x, points, w, own)
        return relative_errors(prediction / scale, y / scale, w, self._parts)

    def errors(self, *batch: Tensor) -> dict[str, Tensor]:
        """Relative errors of each sample."""
        found = self.losses(*batch)
        return {"loss": found, "rel_l2": found}


class MeshOperator(Operator):
    """A trained operator on meshes and point clouds.

    Examples
    --------
    >>> op = opkit.load("runs/lshape-gnn")  # doctest: +SKIP
    >>> u = op(a, mesh)  # (P,) or (batch, P, channels), as is u  # doctest: +SKIP
    """

    task: MeshTask
    module: PhysicalMeshModel

    def __init__(
        self,
        module: PhysicalMeshModel,
        task: MeshTask,
        description: Mapping[str, Any],
        *,
        path: Path | None = None,
    ) -> None:
        super().__init__(module, module.model, task, description, path=path)

    def __repr__(self) -> str:
        names = [", ".join(v.name for v in vs) for vs in (self.task.inputs, self.task.outputs)]
        return f"<Operator {self.name}: {names[0]} -> {names[1]}, on meshes>"

    def __call__(  # type: ignore[override]
        self,
        inputs: Any,
        mesh: Mesh | np.ndarray,
        *,
        weights: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Apply the operator.

        Parameters
        ----------
        inputs : ndarray
            Physical units: ``(P,)`` or ``(batch, P)`` if there is one input channel, or with an
            axis of channels last.
        mesh : Mesh, or ndarray of points, shape (P, D)
        weights : ndarray, shape (P,), optional
            Quadrature weights of bare points; default those of their Delaunay triangulation.
        batch_size : int, optional
            Samples at once.

        Returns
        -------
        ndarray
            As the input: without the channel axis if the input had none and there is one output
            channel.

        Raises
        ------
        ValueError
            Shapes that do not fit, values that are not finite, weights that are negative.
        """
        points, w = _points_of(mesh, weights)
        array = np.asarray(inputs)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"inputs have dtype {array.dtype}: need real numbers")
        c, p = self.task.in_channels, len(points)
        bare = c == 1 and array.shape[-1:] == (p,) and array.ndim in (1, 2)
        x = array[..., None] if bare else array
        single = x.ndim == 2
        x = x[None] if single else x
        if x.ndim != 3 or x.shape[1:] != (p, c):
            names = ", ".join(v.name for v in self.task.inputs)
            raise ValueError(
                f"inputs have shape {array.shape}, expected ([batch], {p}, {c}): the points and "
                f"the channels {names}"
            )
        if not np.isfinite(x).all():
            raise ValueError("inputs have values that are not finite")
        if points.shape[1] != self.task.dim:
            raise ValueError(f"points have {points.shape[1]} coordinates, expected {self.task.dim}")
        y = self.apply(x, points, w, batch_size)
        dtype = array.dtype if array.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        y = y.astype(dtype, copy=False)
        y = y[..., 0] if bare and self.task.out_channels == 1 else y
        out: np.ndarray = y[0] if single else y
        return out

    def apply(
        self, x: np.ndarray, points: np.ndarray, w: np.ndarray, batch_size: int | None = None
    ) -> np.ndarray:
        """Apply to (b, P, C) on one set of points."""
        step = batch_size or max(1, 2**16 // len(points))
        parts = []
        with torch.no_grad():
            there, weight = (self._to(a) for a in (points, w))
            for a in range(0, len(x), step):
                parts.append(self.module(self._to(x[a : a + step]), there, weight).cpu().numpy())
        return np.concatenate(parts)

    def _to(self, a: np.ndarray) -> Tensor:
        return torch.as_tensor(np.array(a)).to(self.dtype).to(self.device)


def _points_of(
    mesh: Mesh | np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    from models.nn_to_no import quadrature_weights

    if isinstance(mesh, Mesh):
        if weights is not None:
            raise ValueError("weights: the mesh has its own")
        return mesh.points, mesh.point_weights
    points = np.asarray(mesh, np.float64)
    if points.ndim != 2:
        raise ValueError(f"points have shape {points.shape}, expected (P, D)")
    w = quadrature_weights(points) if weights is None else np.asarray(weights, np.float64)
    if w.shape != points.shape[:1] or (w < 0).any():
        raise ValueError(
            f"weights have shape {w.shape} and {int((w < 0).sum())} negative entries, expected "
            f"({len(points)},) and none"
        )
    return points, w
