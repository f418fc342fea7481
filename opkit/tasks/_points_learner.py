"""Training of a model from functions to functions at points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..learner import Learner
from ._points_operator import PhysicalPoints, at_points

if TYPE_CHECKING:
    from opkit.fit import FitConfig

    from .points import PointsNormalizer, PointsTask

__all__ = ["PointsLearner"]

#: Points drawn for a step where each sample has points of its own.
QUERIES = 1024


class WeightedSquares(torch.autograd.Function):
    """``((p - scale * s)**2 * w).sum(-1)`` of outputs (b, N) with weights (N,) or (b, N).

    In place and in fewer passes over memory than autograd takes: the batch may be all of the data.
    Backward once.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, s: Tensor, w: Tensor, scale: float) -> Tensor:
        ctx.root = w.to(p.dtype).sqrt()
        ctx.error = torch.sub(p, s, alpha=scale).mul_(ctx.root)
        return torch.linalg.vector_norm(ctx.error, dim=-1).square()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        error, ctx.error = ctx.error, None  # its memory becomes the gradient's
        return error.mul_((2.0 * grad).unsqueeze(-1)).mul_(ctx.root), None, None, None


class PointsLearner(Learner):
    """Quadrature-weighted errors; of points drawn by their weights while training.

    The loss ``mse`` is the mean square of the error in units of the outputs' deviations, ``l2``
    the relative L2 error in physical units, the mean over the outputs.
    """

    def __init__(
        self, model: nn.Module, task: PointsTask, normalizer: PointsNormalizer, config: FitConfig
    ) -> None:
        super().__init__(model)
        self.task, self.loss = task, str(config.loss)
        physical = PhysicalPoints(model, task, normalizer)
        if hasattr(model, "check_finite"):
            model.check_finite = False  # type: ignore[assignment]  # the loop looks at each loss
        # hidden from torch: the weights are those of `model`
        self._physical = (physical,)
        self._last: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = (), ()
        self.k = len(task.functions)
        self.fixed_points = hasattr(model, "basis")
        self.queries = task.options.queries
        self.points: Tensor | None
        self.weights: Tensor | None
        dtype = torch.float64 if config.precision.startswith("64") else torch.float32
        shared = task.shared
        points = None if shared is None else torch.as_tensor(task.to_model(shared.points)).to(dtype)
        weights = None if shared is None else torch.as_tensor(shared.weights).to(dtype)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        if self.queries is not None and self.fixed_points:
            self.queries = None  # all points cost no more than some
        #: Shift and inverse scale where these are two numbers.
        self.one_scale: tuple[float, float] | None = None
        if task.out_channels == 1 and self.loss == "mse" and normalizer.mean is None:
            scales = normalizer.scales
            self.one_scale = (scales.output_shift[0], 1.0 / scales.output_scale[0])
        self.residual = None
        if task.options.physics:
            from ..physics import residual_of

            self.residual = residual_of(task)

    def _batch(
        self, batch: tuple[Tensor, ...], *, draw: bool
    ) -> tuple[Any, Tensor, Tensor, Tensor, Tensor | None]:
        """Functions, points, normalized outputs, weights, and which of the shared points."""
        us = self._scaled(batch[: self.k])
        u = us if len(us) > 1 else us[0]
        rows = None
        if len(batch) == self.k + 2:  # shared points
            y, s, w = self.points, batch[self.k], self.weights
            assert y is not None and w is not None
            if draw and self.queries is not None and self.queries < len(y):
                rows = torch.multinomial(w, self.queries, replacement=True)
                y, s = y[rows], s[:, rows]
                w = w.new_full((self.queries,), 1.0 / self.queries)
            return u, y, s, w, rows
        y, s, w = batch[self.k : self.k + 3]
        n = self.queries or QUERIES
        if draw and n < y.shape[1]:
            chosen = torch.multinomial(w, n, replacement=True)
            y = y.gather(1, chosen[..., None].expand(-1, -1, y.shape[2]))
            s = s.gather(1, chosen[..., None].expand(-1, -1, s.shape[2]))
            w = w.new_full((len(w), n), 1.0 / n)
        return u, y, s, w, rows

    def _scaled(self, us: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Functions in units of the model; those of a full batch are the same in every step."""
        given, scaled = self._last
        if len(given) != len(us) or any(a is not b for a, b in zip(given, us, strict=True)):
            scaled = self._physical[0].scale_functions(us)
            self._last = us, scaled
        return scaled

    def losses(self, *batch: Tensor) -> Tensor:
        """Training loss of each sample."""
        physical, options = self._physical[0], self.task.options
        total: Any = 0.0
        if options.data_weight:
            u, y, s, w, rows = self._batch(batch, draw=True)
            if y.ndim == 3 and y.shape[1] == 1:
                p = self.model.forward_pairs(u, y[:, 0]).unsqueeze(1)  # type: ignore[operator]
            else:
                p = self.model(u, None if self.fixed_points else y)
            if self.one_scale is not None:
                shift, inverse = self.one_scale
                p = p + shift * inverse if shift else p
                total = WeightedSquares.apply(p, s.squeeze(-1), w, inverse)
                if options.data_weight == 1.0 and self.residual is None:
                    return total
                return options.data_weight * total + self._physics(batch)
            p = p.unsqueeze(-1) if self.task.out_channels == 1 else p
            if self.loss == "mse":
                error = (p - physical.scale_outputs(s, rows)).square().mean(-1)
                total = options.data_weight * (error * w).sum(-1)
            else:
                total = options.data_weight * self.relative(physical.unscale(p, rows), s, w)
        return total + self._physics(batch)  # type: ignore[no-any-return]

    def _physics(self, batch: tuple[Tensor, ...]) -> Any:
        """Weighted residual of the equation, or 0."""
        if self.residual is None:
            return 0.0
        return self.task.options.physics * self.residual(self._physical[0], batch[: self.k])

    def relative(self, p: Tensor, s: Tensor, w: Tensor) -> Tensor:
        """Relative L2 error of each sample, the mean over the outputs."""
        parts = []
        for part in self.task.parts:
            error = ((p[..., part] - s[..., part]).square().sum(-1) * w).sum(-1)
            size = (s[..., part].square().sum(-1) * w).sum(-1)
            parts.append((error / size.clamp_min(torch.finfo(size.dtype).tiny)).sqrt())
        return torch.stack(parts).mean(0)

    def errors(self, *batch: Tensor) -> dict[str, Tensor]:
        """Errors of each sample at all of its points."""
        physical = self._physical[0]
        u, y, s, w, _ = self._batch(batch, draw=False)
        p = at_points(self.model, u, y, self.fixed_points)
        p = p.unsqueeze(-1) if self.task.out_channels == 1 else p
        unscaled = physical.unscale(p, None)
        rel = self.relative(unscaled, s, w)
        mse = ((unscaled - s).square().mean(-1) * w).sum(-1)
        loss = rel
        if self.loss == "mse":
            error = (p - physical.scale_outputs(s, None)).square().mean(-1)
            loss = (error * w).sum(-1)
        return {"loss": loss, "rel_l2": rel, "mse": mse}
