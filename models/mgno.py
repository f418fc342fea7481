"""MgNO: neural operators whose linear maps are learned multigrid V-cycles.

`MultigridOperator` is one V-cycle of small convolutions: linear, O(N), and with the problem's
boundary rule in every stencil, smoother and transfer alike. `MgNO` is a network of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.grids import BOUNDARY_KINDS
from solvers.names import check_name

from ._sizes import positive
from .spec import ModelSpec

__all__ = ["BoundaryTransposedConv", "MgNO", "MultigridOperator", "build_mgno", "pad_boundary"]

Coarse = Literal["residual", "fas", "restrict"]
Uneven = Literal["error", "ceil"]
Activation = Literal["gelu", "relu", "silu", "tanh", "identity"]
Bias = Literal["function", "constant"]
Head = Literal["linear", "multigrid"]
Continuation = Literal["solution", "free_input", "free"]
BoundaryLike = str | Sequence[str | Sequence[str]]
Widths = tuple[tuple[int, int], ...]

LAYOUTS = ("vertex", "cell")
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_T = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


# -- where the unknowns sit ------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """Boundary rule of one axis; `n` counts its unknowns (Dirichlet vertices are none)."""

    left: str
    right: str
    layout: str

    @property
    def offset(self) -> int:
        """Fine index of coarse vertex 0."""
        return int(self.layout == "vertex" and self.left == "dirichlet")

    @property
    def taps(self) -> tuple[int, int]:
        """First and last tap of a transfer, relative to fine index ``2 j + offset``."""
        return (-1, 1) if self.layout == "vertex" else (-1, 2)

    def coarsens(self, n: int) -> bool:
        """Whether the coarse points lie on the fine ones up to both ends."""
        if self.layout == "cell" or self.left == "periodic":
            return n >= 2 and n % 2 == 0
        end = n if self.right == "dirichlet" else n - 1  # index of the last boundary vertex
        return n >= 2 and (end - self.offset) % 2 == 0

    def coarse(self, n: int) -> int:
        """Size of the next coarser level (0 if nothing is left)."""
        return 0 if n < 2 else (n - self.offset + 1) // 2

    @property
    def rule(self) -> str:
        """Sizes that `coarsens` accepts `k` times, for messages."""
        closed = self.layout == "vertex" and self.left != "periodic"
        if closed and self.left == self.right:
            return "2**k*m - 1, m >= 2," if self.left == "dirichlet" else "2**k*m + 1"
        return "2**k*m"

    def ghost(self, i: int, n: int) -> tuple[int, int]:
        """Index and sign (0 on a Dirichlet vertex) of the unknown that gives ghost `i`."""
        if self.left == "periodic":
            return i % n, 1
        if n == 1 and self.layout == "vertex" and self.left == self.right == "neumann":
            return 0, 1
        sign = 1
        vertex = self.layout == "vertex"
        while not 0 <= i < n:
            kind = self.left if i < 0 else self.right
            odd = kind == "dirichlet"
            if vertex and odd and i in (-1, n):
                return 0, 0
            shift = (2 if odd else 0) if vertex else 1  # twice the way from the end to the mirror
            i = -shift - i if i < 0 else 2 * (n - 1) + shift - i
            sign = -sign if odd else sign
        return i, sign


def _check_literal(name: str, value: str, literal: Any) -> None:
    check_name(name, value, get_args(literal))


def _make_axes(boundary: BoundaryLike, layout: str | Sequence[str], dim: int) -> tuple[_Axis, ...]:
    """One `_Axis` an axis from the user's notation."""
    if dim not in (1, 2, 3):
        raise ValueError(f"dim={dim}: need 1, 2 or 3")
    kinds = [boundary] * dim if isinstance(boundary, str) else list(boundary)
    layouts = [layout] * dim if isinstance(layout, str) else list(layout)
    if len(kinds) != dim or len(layouts) != dim:
        raise ValueError(
            f"boundary={boundary!r}, layout={layout!r}: need one name, or one entry for each of "
            f"dim={dim} axes"
        )
    axes = []
    for d, (kind, lay) in enumerate(zip(kinds, layouts, strict=True)):
        pair = (kind, kind) if isinstance(kind, str) else tuple(kind)
        if len(pair) != 2:
            raise ValueError(f"boundary of axis {d} is {kind!r}: need one name or a pair")
        for k in pair:
            check_name("boundary", k, [b for b in BOUNDARY_KINDS if b != "robin"])
        check_name("layout", lay, LAYOUTS)
        if (pair[0] == "periodic") != (pair[1] == "periodic"):
            raise ValueError(f"boundary of axis {d} is {pair}: 'periodic' must hold on both sides")
        axes.append(_Axis(pair[0], pair[1], lay))
    return tuple(axes)


# -- memory ----------------------------------------------------------------------------------


def _is_channels_last(x: Tensor) -> bool:
    """Whether channels are innermost in memory, one channel included."""
    step = 1
    for d in (1, *range(x.ndim - 1, 1, -1), 0):
        if x.stride(d) != step and (x.shape[d] > 1 or d == 1):
            return False
        step *= x.shape[d]
    return True


def _channels_last(x: Tensor) -> Tensor:
    """Put channels innermost in memory, where convolutions are fastest; 1-D fields as they are."""
    if x.ndim == 3 or _is_channels_last(x):
        return x
    return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def _weight(*shape: int, fan_in: int) -> nn.Parameter:
    """Weight of a convolution, drawn as torch does, kept with channels last."""
    return nn.Parameter(_channels_last(_kaiming(torch.empty(*shape), fan_in)))


def _activate(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply to all numbers: twice as fast where torch sees that they lie in a row."""
    return function(x.movedim(1, -1)).movedim(-1, 1) if x.ndim > 3 else function(x)


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution; a matrix product where the channels are innermost."""
    if x.ndim == 3:
        return F.conv1d(x, weight)
    return F.linear(x.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)


# -- padding ---------------------------------------------------------------------------------

# per axis: left and right width, and (ghost, source, sign) by padded index; sign 0 is a wall
_Plan = tuple[tuple[int, int, tuple[tuple[int, int, int], ...]], ...]


@lru_cache(maxsize=1024)
def _ghost_plan(axes: tuple[_Axis, ...], widths: Widths, shape: tuple[int, ...]) -> _Plan:
    plan = []
    for axis, (left, right), n in zip(axes, widths, shape, strict=True):
        ghosts = []
        for i in (*range(-left, 0), *range(n, n + right)):
            source, sign = axis.ghost(i, n)
            ghosts.append((i + left, source + left, sign))
        plan.append((left, right, tuple(ghosts)))
    return tuple(plan)


class _GhostPad(torch.autograd.Function):
    """Add ghosts by copying slabs: one pass over the data, for every rule and its adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, plan: _Plan) -> Tensor:
        size = list(x.shape)
        inner: list[slice] = [slice(None), slice(None)]
        for d, (left, right, _) in enumerate(plan):
            inner.append(slice(left, left + size[d + 2]))
            size[d + 2] += left + right
        if x.stride(1) == 1 and x.ndim > 3:  # channels innermost
            out = x.new_empty([size[0], *size[2:], size[1]]).movedim(-1, 1)
        else:
            out = x.new_empty(size)
        out[tuple(inner)] = x
        for d, (_, _, ghosts) in enumerate(plan):
            # axes still to come have no ghosts yet
            part = out[(*inner[: d + 2], slice(None), *inner[d + 3 :])]
            inner[d + 2] = slice(None)
            for ghost, source, sign in ghosts:
                slab = part.select(d + 2, source)
                part.select(d + 2, ghost).copy_(slab if sign == 1 else sign * slab)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.plan = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _GhostFold.apply(grad, ctx.plan), None

    @staticmethod
    def jvp(ctx: Any, x: Tensor, _: None) -> Tensor:
        return _GhostPad.apply(x, ctx.plan)


class _GhostFold(torch.autograd.Function):
    """Adjoint of `_GhostPad`: add the ghosts to their sources and cut them off."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, plan: _Plan) -> Tensor:
        return _fold(y, plan, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.plan = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _GhostPad.apply(grad, ctx.plan), None

    @staticmethod
    def jvp(ctx: Any, y: Tensor, _: None) -> Tensor:
        return _GhostFold.apply(y, ctx.plan)


def _fold(y: Tensor, plan: _Plan, dim: int) -> Tensor:
    """Fold the ghosts of `plan`, of dimensions `dim`, ... of `y`, into a new tensor."""
    if not plan:
        if y.stride(1) == 1 and y.ndim > 3:
            return y.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
        return y.clone(memory_format=torch.contiguous_format)
    left, right, ghosts = plan[0]
    out = _fold(y.narrow(dim, left, y.shape[dim] - left - right), plan[1:], dim + 1)
    for ghost, source, sign in ghosts:
        if sign:
            slab = _fold(y.narrow(dim, ghost, 1), plan[1:], dim + 1)
            out.narrow(dim, source - left, 1).add_(slab, alpha=sign)
    return out


@lru_cache(maxsize=1024)
def _native_mode(axes: tuple[_Axis, ...], widths: Widths, shape: tuple[int, ...]) -> str | None:
    """Torch's own mode for even continuation on all axes: on small grids six times faster.

    On GPUs its derivative sums in no fixed order, so there the slabs are copied.
    """
    if any((a.left, a.right) != ("neumann", "neumann") for a in axes):
        return None
    if all(a.layout == "vertex" for a in axes):
        return "reflect" if all(max(w) < n for w, n in zip(widths, shape, strict=True)) else None
    return (
        "replicate"
        if all(a.layout == "cell" and max(w) <= 1 for a, w in zip(axes, widths, strict=True))
        else None
    )


def _pad(x: Tensor, axes: tuple[_Axis, ...], widths: Widths) -> Tensor:
    """Add ghosts to the last ``len(axes)`` dimensions."""
    if not any(map(any, widths)):
        return x
    mode = _native_mode(axes, widths, tuple(x.shape[2:])) if x.device.type == "cpu" else None
    if mode is not None:
        return F.pad(x, [w for pair in reversed(widths) for w in pair], mode=mode)
    padded: Tensor = _GhostPad.apply(x, _ghost_plan(axes, widths, tuple(x.shape[2:])))
    return padded


def pad_boundary(
    x: Tensor,
    width: int | Sequence[int | Sequence[int]],
    boundary: BoundaryLike,
    layout: str | Sequence[str],
) -> Tensor:
    """Continue a field beyond its ends by the boundary rule.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, *n)
        Values at the unknowns: for ``"vertex"`` layout without the Dirichlet vertices.
    width : int, or one int or (left, right) pair an axis
        Number of ghosts.
    boundary : {"dirichlet", "neumann", "periodic"}, or one of them or a pair an axis
        Homogeneous conditions: odd, even and periodic continuation.
    layout : {"vertex", "cell"}, or one an axis
        Mirror on a vertex, or half a cell beyond the outermost centers.

    Returns
    -------
    Tensor, shape (batch, channel, ...): ``n + left + right`` points an axis

    Raises
    ------
    ValueError
        Unknown boundary or layout, ``"periodic"`` on one side only, negative width.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 2.0, 3.0]]])
    >>> pad_boundary(x, 2, "dirichlet", "vertex")[0, 0].tolist()
    [-1.0, 0.0, 1.0, 2.0, 3.0, 0.0, -3.0]
    >>> pad_boundary(x, 1, [("neumann", "dirichlet")], "cell")[0, 0].tolist()
    [1.0, 1.0, 2.0, 3.0, -3.0]
    """
    dim = x.ndim - 2
    axes = _make_axes(boundary, layout, dim)
    entries = [width] * dim if isinstance(width, int) else list(width)
    if len(entries) != dim:
        raise ValueError(f"width={width!r} has {len(entries)} entries, x has {dim} axes")
    widths = []
    for w in entries:
        pair = (w, w) if isinstance(w, int) else (w[0], w[1])
        if min(pair) < 0:
            raise ValueError(f"width={width!r}: need numbers >= 0")
        widths.append(pair)
    return _pad(x, axes, tuple(widths))


@lru_cache(maxsize=1024)
def _pad_plan(axes: tuple[_Axis, ...], widths: Widths) -> tuple[Widths, tuple[int, ...]]:
    """Split `widths` into ghosts to make and zeros that the convolution itself adds."""
    explicit, zeros = [], []
    for axis, (left, right) in zip(axes, widths, strict=True):
        wall = axis.layout == "vertex" and axis.left == axis.right == "dirichlet"
        by_conv = wall and left == right <= 1
        explicit.append((0, 0) if by_conv else (left, right))
        zeros.append(left if by_conv else 0)
    return tuple(explicit), tuple(zeros)


@lru_cache(maxsize=1024)
def _restriction_widths(axes: tuple[_Axis, ...], shape: tuple[int, ...]) -> Widths:
    """Ghosts that the stride-2 convolution reads."""
    out = []
    for axis, n in zip(axes, shape, strict=True):
        first, last = axis.taps
        m = axis.coarse(n)
        out.append((max(0, -first - axis.offset), max(0, 2 * (m - 1) + axis.offset + last - n + 1)))
    return tuple(out)


@lru_cache(maxsize=1024)
def _prolongation_plan(
    axes: tuple[_Axis, ...], coarse: tuple[int, ...], fine: tuple[int, ...]
) -> tuple[Widths, tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Coarse ghosts, ``padding`` of the transposed convolution, and what to cut from it."""
    widths, padding, cuts = [], [], []
    for axis, m, n in zip(axes, coarse, fine, strict=True):
        first, last = axis.taps
        # the coarse points that reach fine indices 0..n-1; Dirichlet vertices beyond m add zero
        lo = -((last + axis.offset) // 2)
        hi = (n - 1 - first - axis.offset) // 2
        left = max(0, -lo) if not (axis.layout == "vertex" and axis.left == "dirichlet") else 0
        right = max(0, hi - m + 1)
        if axis.layout == "vertex" and axis.right == "dirichlet":
            right = 0
        start = -2 * left + axis.offset + first  # fine index of the first output
        size = 2 * (m + left + right - 1) + (last - first + 1)
        cut_left, cut_right = -start, size + start - n
        p = min(cut_left, cut_right)
        widths.append((left, right))
        padding.append(p)
        cuts.append((cut_left - p, cut_right - p))
    return tuple(widths), tuple(padding), tuple(cuts)


# -- convolutions ----------------------------------------------------------------------------


def _kaiming(weight: Tensor, fan_in: int) -> Tensor:
    """Torch's default initialization of a bias-free convolution."""
    bound = 1.0 / math.sqrt(fan_in)
    return nn.init.uniform_(weight, -bound, bound)


class _Ghosted:
    """A field whose continuation is made once for all convolutions that read it."""

    def __init__(self, field: Tensor, axes: tuple[_Axis, ...]) -> None:
        self.field, self.axes = field, axes
        self._made: dict[Widths, Tensor] = {}

    def padded(self, widths: Widths, stride: int) -> tuple[Tensor, tuple[int, ...]]:
        """Field with at least the ghosts of `widths`, and zeros to be added by the convolution."""
        explicit, zeros = _pad_plan(self.axes, widths)
        for made, x in self._made.items():
            # ghosts beyond the last stride do not count
            if all(
                a == c and b <= d < b + stride
                for (a, b), (c, d) in zip(explicit, made, strict=True)
            ):
                return x, zeros
        x = self._made[explicit] = _pad(self.field, self.axes, explicit)
        return x, zeros


class _Stencil(nn.Module):
    """Convolution with stride 1 (odd kernel) or 2 (restriction) under the boundary rule."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        axes: tuple[_Axis, ...],
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.axes = axes
        self.stride = stride
        fan_in = in_channels * math.prod(kernel)
        self.weight = _weight(out_channels, in_channels, *kernel, fan_in=fan_in)

    def forward(self, x: Tensor | _Ghosted, *, sign: int = 1) -> Tensor:
        """Convolve; ``sign=-1`` with the weight's negative."""
        x = x if isinstance(x, _Ghosted) else _Ghosted(x, self.axes)
        if self.stride == 1:
            widths = tuple((k // 2, k // 2) for k in self.weight.shape[2:])
        else:
            widths = _restriction_widths(self.axes, tuple(x.field.shape[2:]))
        padded, zeros = x.padded(widths, self.stride)
        conv, weight = _CONV[len(self.axes)], self.weight
        if sign == -1 and weight.shape[1] == 1:
            # the negative of a weight of one channel would lose its place in memory
            return conv(padded, weight, stride=self.stride, padding=zeros).neg_()
        signed = weight if sign == 1 else -weight
        return conv(padded, signed, stride=self.stride, padding=zeros)


class BoundaryTransposedConv(nn.Module):
    """Prolongation: the coarse grid continued by the boundary rule, transposed convolution, crop.

    Coarse vertices lie on every second fine vertex (3 taps an axis), coarse cells cover two
    fine cells (4 taps an axis).

    Parameters
    ----------
    in_channels, out_channels : int
    dim : int, default 2
    boundary, layout
        As in `pad_boundary`.

    Attributes
    ----------
    weight : Parameter, shape (in_channels, out_channels, *taps)

    Raises
    ------
    ValueError
        Unknown boundary or layout, ``"periodic"`` on one side only.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dim: int = 2,
        boundary: BoundaryLike = "dirichlet",
        layout: str | Sequence[str] = "vertex",
    ) -> None:
        super().__init__()
        self.axes = _make_axes(boundary, layout, dim)
        kernel = [a.taps[1] - a.taps[0] + 1 for a in self.axes]
        fan_in = out_channels * math.prod(kernel)  # as torch counts it
        self.weight = _weight(in_channels, out_channels, *kernel, fan_in=fan_in)

    def forward(self, x: Tensor, size: Sequence[int], plus: Tensor | None = None) -> Tensor:
        """Interpolate.

        Parameters
        ----------
        x : Tensor, shape (batch, in_channels, *m)
        size : sequence of int
            Fine sizes `n`, which coarsen to `m`.
        plus : Tensor, shape (batch, out_channels, *n), optional
            To be added.

        Returns
        -------
        Tensor, shape (batch, out_channels, *n)

        Raises
        ------
        ValueError
            If `size` does not coarsen to the size of `x`.
        """
        fine, coarse = tuple(size), tuple(x.shape[2:])
        if not torch.compiler.is_compiling():
            expected = tuple(a.coarse(n) for a, n in zip(self.axes, fine, strict=True))
            if expected != coarse:
                raise ValueError(f"size={fine} coarsens to {expected}, but x has shape {coarse}")
        widths, padding, cuts = _prolongation_plan(self.axes, coarse, fine)
        x = _pad(x, self.axes, widths)
        x = _CONV_T[len(self.axes)](x, self.weight, stride=2, padding=padding)
        if not any(map(any, cuts)):
            return x if plus is None else x.add_(plus)
        for d, (left, right) in enumerate(cuts):
            if left or right:
                x = x.narrow(d + 2, left, x.shape[d + 2] - left - right)
        return x if plus is None else x + plus


# -- the V-cycle -----------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _level_shapes(
    axes: tuple[_Axis, ...], shape: tuple[int, ...], levels: int, uneven: str
) -> tuple[tuple[int, ...], ...]:
    shapes = [shape]
    for level in range(levels - 1):
        for d, (axis, n) in enumerate(zip(axes, shapes[-1], strict=True)):
            if axis.coarsens(n) or (uneven == "ceil" and axis.coarse(n) >= 1):
                continue
            near = _nearest_sizes(axis, shape[d], levels, uneven)
            raise ValueError(
                f"axis {d} has {shape[d]} unknowns and cannot be coarsened {levels - 1} times "
                f"(levels={levels}; stops at {n} on level {level + 1}): need {axis.rule} with "
                f"k >= {levels - 1}, {axis.left}/{axis.right} {axis.layout} layout, "
                f"nearest: {' or '.join(map(str, near))}"
                + ("" if uneven == "ceil" else "; or take fewer levels, or uneven='ceil'")
            )
        shapes.append(tuple(a.coarse(n) for a, n in zip(axes, shapes[-1], strict=True)))
    return tuple(shapes)


def _admissible(axis: _Axis, n: int, levels: int, uneven: str = "error") -> bool:
    for _ in range(levels - 1):
        if not (axis.coarsens(n) or (uneven == "ceil" and axis.coarse(n) >= 1)):
            return False
        n = axis.coarse(n)
    return n >= 1


def _nearest_sizes(axis: _Axis, n: int, levels: int, uneven: str) -> list[int]:
    """Next admissible size below (if any) and above `n`."""
    below = next((k for k in range(n, 0, -1) if _admissible(axis, k, levels, uneven)), None)
    above = next(k for k in range(n, n + 2 ** (levels + 1)) if _admissible(axis, k, levels, uneven))
    return [above] if below is None else [below, above]


class _Level(nn.Module):
    """Stencils of one level: `A` (n_u -> n_f), `S` (n_f -> n_u), transfers to the next."""

    def __init__(
        self,
        n_f: int,
        n_u: int,
        axes: tuple[_Axis, ...],
        kernel_size: int,
        *,
        n_A: int,
        n_S: int,
        transfers: bool,
        injects: bool,
    ) -> None:
        super().__init__()
        kernel = (kernel_size,) * len(axes)
        taps = tuple(a.taps[1] - a.taps[0] + 1 for a in axes)
        self.A = nn.ModuleList(_Stencil(n_u, n_f, kernel, axes) for _ in range(n_A))
        self.S = nn.ModuleList(_Stencil(n_f, n_u, kernel, axes) for _ in range(n_S))
        self.R = _Stencil(n_f, n_f, taps, axes, stride=2) if transfers else None
        self.Pi = _Stencil(n_u, n_u, taps, axes, stride=2) if transfers and injects else None
        boundary = [(a.left, a.right) for a in axes]
        self.P = (
            BoundaryTransposedConv(
                n_u, n_u, dim=len(axes), boundary=boundary, layout=[a.layout for a in axes]
            )
            if transfers
            else None
        )


def _check_smoothing(smoothing: Any, levels: int) -> list[tuple[int, int]]:
    if smoothing is None:
        return [(1, 0)] * (levels - 1) + [(2, 0)]
    steps = [tuple(int(k) for k in s) for s in smoothing]
    if len(steps) != levels:
        raise ValueError(f"smoothing has {len(steps)} entries, expected levels={levels}")
    for s in steps:
        if len(s) != 2 or min(s) < 0:
            raise ValueError(f"smoothing={smoothing!r}: every entry is (pre, post), numbers >= 0")
    if sum(steps[-1]) == 0:
        raise ValueError("smoothing: the coarsest level needs at least one step")
    return [(s[0], s[1]) for s in steps]


def _hat_taps(layout: str) -> Tensor:
    """Linear interpolation between the coarse points of one axis, float64."""
    taps = [0.5, 1.0, 0.5] if layout == "vertex" else [0.25, 0.75, 0.75, 0.25]
    return torch.tensor(taps, dtype=torch.float64)


def _kron(vectors: Sequence[Tensor]) -> Tensor:
    out = torch.ones((), dtype=torch.float64)
    for v in vectors:
        out = out[..., None] * v
    return out


class MultigridOperator(nn.Module):
    r"""Linear operator parametrized as one multigrid V-cycle of learned convolutions.

    On level :math:`\ell` with right-hand side f: `pre` times ``u <- u + S * (f - A * u)``, then
    the next level is solved for ``R * (f - A * u)`` and ``P`` times its answer added to u, then
    `post` more smoothing steps. The first step from ``u = 0`` is ``S * f``.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the right-hand side f and of u.
    levels : int, default 5
    smoothing : sequence of (pre, post), optional
        Steps per level, finest first. Default ``(1, 0)``, on the coarsest ``(2, 0)``.
    dim : {1, 2, 3}, default 2
    kernel_size : int, default 3
        Odd. Wider Dirichlet stencils read odd reflections, so the rule stays exact.
    boundary, layout
        As in `pad_boundary`.
    coarse : {"residual", "fas", "restrict"}
        What the next level gets: the restricted residual and ``u = 0`` (textbook), the residual
        and ``u = Pi * u``, or ``R * f`` and ``u = Pi * u`` (the authors' program).
    shared_stencil : bool, default True
        One A per level; False: one for every use.
    uneven : {"error", "ceil"}
        Sizes that do not halve exactly: refuse, or keep every second point and crop. With
        ``"ceil"`` the far wall of the coarse grids is off by up to one of their cells, so the
        boundary rule is exact only up to that; where all sizes halve, nothing changes.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    Notes
    -----
    Sizes: Dirichlet vertices (unknowns without the two walls) ``2**k*m - 1``, Neumann vertices
    ``2**k*m + 1``, cells, periodic axes and mixed vertex axes ``2**k*m``, ``k >= levels - 1``.
    Not resolution-invariant: the stencils contain the mesh width (see `refined`). Parameters
    grow with the number of levels, not with the grid; cost is O(N).

    References
    ----------
    .. [1] He, Liu, Xu, "MgNO: Efficient Parameterization of Linear Operators via Multigrid",
       ICLR 2024, arXiv:2310.19809.

    Examples
    --------
    >>> W = MultigridOperator(2, 3, levels=4, dim=1)
    >>> W(torch.randn(5, 2, 31)).shape
    torch.Size([5, 3, 31])
    >>> W.level_shapes((31,))
    [(31,), (15,), (7,), (3,)]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        levels: int = 5,
        smoothing: Sequence[Sequence[int]] | None = None,
        dim: int = 2,
        kernel_size: int = 3,
        boundary: BoundaryLike = "dirichlet",
        layout: str | Sequence[str] = "vertex",
        coarse: Coarse = "residual",
        shared_stencil: bool = True,
        uneven: Uneven = "error",
    ) -> None:
        super().__init__()
        positive(in_channels=in_channels, out_channels=out_channels, levels=levels)
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size!r}: need an odd integer >= 1")
        _check_literal("coarse", coarse, Coarse)
        _check_literal("uneven", uneven, Uneven)
        self.axes = _make_axes(boundary, layout, dim)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.coarse, self.uneven = kernel_size, coarse, uneven
        self.shared_stencil = shared_stencil
        self.smoothing = _check_smoothing(smoothing, levels)
        self.level = nn.ModuleList(self._make_level(i) for i in range(levels))

    def _make_level(self, i: int) -> _Level:
        last = i == len(self.smoothing) - 1
        return _Level(
            self.in_channels,
            self.out_channels,
            self.axes,
            self.kernel_size,
            n_A=self._count_A(i),
            n_S=sum(self.smoothing[i]),
            transfers=not last,
            injects=self.coarse != "residual" and self._has_u(i),
        )

    def _count_A(self, i: int) -> int:
        """Stencils A of level `i`: none that no path uses."""
        pre, post = self.smoothing[i]
        last = i == len(self.smoothing) - 1
        uses = pre + post - int(pre > 0 and self._starts_from_zero(i))
        if last and pre == 0 and self._starts_from_zero(i):
            uses -= 1  # the first post step starts from zero
        if not last and self.coarse != "restrict" and self._has_u(i):
            uses += 1
        return min(uses, 1) if self.shared_stencil else uses

    def _starts_from_zero(self, i: int) -> bool:
        """Whether level `i` starts from u = 0."""
        return i == 0 or self.coarse == "residual" or not self._has_u(i - 1)

    def _has_u(self, i: int) -> bool:
        """Whether u is set when level `i` hands over to the next."""
        return self.smoothing[i][0] > 0 or not self._starts_from_zero(i)

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.smoothing)

    def level_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Numbers of unknowns per axis on every level, finest first.

        Raises
        ------
        ValueError
            If a size cannot be coarsened ``levels - 1`` times; names the nearest that can.
        """
        if len(shape) != len(self.axes):
            raise ValueError(
                f"shape {tuple(shape)} has {len(shape)} axes, expected {len(self.axes)}"
            )
        shape = tuple(int(n) for n in shape)
        return list(_level_shapes(self.axes, shape, self.levels, self.uneven))

    def forward(self, f: Tensor) -> Tensor:
        """Apply the operator.

        Parameters
        ----------
        f : Tensor, shape (batch, in_channels, *n)

        Returns
        -------
        Tensor, shape (batch, out_channels, *n)

        Raises
        ------
        ValueError
            Wrong number of axes or channels, or sizes that the levels do not allow.
        """
        if not torch.compiler.is_compiling():
            sizes = ", ".join(f"n{d + 1}" for d in range(len(self.axes)))
            if f.ndim != len(self.axes) + 2 or f.shape[1] != self.in_channels:
                raise ValueError(
                    f"f has shape {tuple(f.shape)}, expected (batch, {self.in_channels}, {sizes}): "
                    f"this operator was built with in_channels={self.in_channels}, "
                    f"dim={len(self.axes)}"
                )
            _level_shapes(self.axes, tuple(f.shape[2:]), self.levels, self.uneven)
        return self._cycle(_channels_last(f), None, 0)

    def _cycle(self, f: Tensor, u: Tensor | None, i: int) -> Tensor:
        level: Any = self.level[i]
        pre, post = self.smoothing[i]
        used = 0
        rhs = _Ghosted(f, self.axes)
        now = None if u is None else _Ghosted(u, self.axes)

        # nobody else keeps what a convolution returns, so that sums are made in place
        def defect(u: _Ghosted) -> Tensor:
            nonlocal used
            A = level.A[0 if self.shared_stencil else used]
            used += 1
            return A(u, sign=-1).add_(f)

        def smooth(S: _Stencil, u: _Ghosted | None) -> _Ghosted:
            return _Ghosted(S(rhs) if u is None else S(defect(u)).add_(u.field), self.axes)

        for S in level.S[:pre]:
            now = smooth(S, now)
        if level.P is not None:
            down = rhs if self.coarse == "restrict" or now is None else defect(now)
            start = None if now is None or level.Pi is None else level.Pi(now)
            correction = self._cycle(level.R(down), start, i + 1)
            now = _Ghosted(
                level.P(correction, f.shape[2:], None if now is None else now.field), self.axes
            )
        for S in level.S[pre : pre + post]:
            now = smooth(S, now)
        assert now is not None  # the coarsest level smooths
        return now.field

    # -- weights by hand -----------------------------------------------------------------------

    @torch.no_grad()
    def set_stencils(
        self,
        A: Any = None,
        S: Any = None,
        R: Any = None,
        P: Any = None,
        *,
        Pi: Any = None,
        level: int | None = None,
    ) -> None:
        """Set weights by hand.

        Parameters
        ----------
        A, S, R, P, Pi : array-like, optional
            Weight of the convolution, shape (out, in, *taps) (`P`: (in, out, *taps)), or the bare
            stencil of shape (*taps), which is put on the channel diagonal. What is left out stays;
            what a level does not have is skipped. Transfers lead from `level` to the next coarser.
        level : int, optional
            0 is the finest; default all levels.

        Raises
        ------
        ValueError
            Unknown level or wrong shape.
        """
        if level is not None and not 0 <= level < self.levels:
            raise ValueError(f"level={level}: need 0 to {self.levels - 1}")
        for i in range(self.levels) if level is None else [level]:
            lv: Any = self.level[i]
            parts = [(A, "A", [*lv.A]), (S, "S", [*lv.S]), (R, "R", [lv.R])]
            for value, name, convs in [*parts, (P, "P", [lv.P]), (Pi, "Pi", [lv.Pi])]:
                for conv in convs:
                    if value is not None and conv is not None:
                        _set_weight(conv.weight, value, name)

    def init_poisson(self, spacing: float | Sequence[float], omega: float = 0.8) -> None:
        """Start from the textbook V-cycle for ``-Laplace u = f``.

        Second differences, damped Jacobi, linear interpolation and its adjoint, on the channel
        diagonal; levels coarsen the spacing by 2.

        Parameters
        ----------
        spacing : float or sequence of float
            Mesh width of the finest level, per axis.
        omega : float, default 0.8
            Damping of the Jacobi smoother.
        """
        dim = len(self.axes)
        h = [float(spacing)] * dim if isinstance(spacing, int | float) else [*map(float, spacing)]
        if len(h) != dim or min(h) <= 0:
            raise ValueError(f"spacing={spacing!r}: need a positive number, or one for each axis")
        if self.kernel_size < 3:
            raise ValueError(f"kernel_size={self.kernel_size}: init_poisson needs at least 3")
        c = self.kernel_size // 2
        P = _kron([_hat_taps(a.layout) for a in self.axes])
        for i in range(self.levels):
            A = torch.zeros((self.kernel_size,) * dim, dtype=torch.float64)
            for d in range(dim):
                w = 1.0 / (h[d] * 2**i) ** 2
                for shift, value in ((-1, -w), (0, 2 * w), (1, -w)):
                    index = [c] * dim
                    index[d] += shift
                    A[tuple(index)] += value
            S = torch.zeros_like(A)
            S[(c,) * dim] = omega / A[(c,) * dim]
            self.set_stencils(A, S, P / 2**dim, P, Pi=P / 2**dim, level=i)

    @torch.no_grad()
    def as_matrix(self, shape: Sequence[int]) -> Tensor:
        """Dense matrix of the operator.

        Parameters
        ----------
        shape : sequence of int
            Unknowns per axis.

        Returns
        -------
        Tensor, shape (out_channels * N, in_channels * N)
            Acts on fields flattened in C order, channel first.

        Raises
        ------
        ValueError
            If it has more than 1e8 entries.
        """
        n = math.prod(shape)
        if self.in_channels * self.out_channels * n * n > 10**8:
            raise ValueError(f"shape {tuple(shape)}: the matrix would have more than 1e8 entries")
        weight = next(self.parameters())
        eye = torch.eye(self.in_channels * n, dtype=weight.dtype, device=weight.device)
        return self(eye.view(-1, self.in_channels, *shape)).flatten(1).T

    @torch.no_grad()
    def refined(self) -> MultigridOperator:
        """Return a copy with one finer level in front, for a grid twice as fine.

        The new level takes the finest stencils scaled as those of a second-order operator
        (A times 4, S divided by 4) and linear transfers between the channels, so that what the
        coarse levels have learned goes on acting; it is a start for fine-tuning.
        """
        new = copy.deepcopy(self)
        new.smoothing = [self.smoothing[0], *self.smoothing]
        # what was the finest level is now started from Pi u and may need more A than it had
        shifted: Any = new._make_level(1).to(next(self.parameters()))
        old: Any = self.level[0]
        shifted_state = shifted.state_dict()
        state = {k: v for k, v in old.state_dict().items() if not k.startswith("A.")}
        shifted.load_state_dict({**shifted_state, **state})
        first: Any = new._make_level(0).to(next(self.parameters()))
        for s, s_old in zip(first.S, old.S, strict=True):
            s.weight.copy_(s_old.weight / 4)
        below: Any = self.level[1].A if self.levels > 1 else []
        known = [a.weight for a in old.A] or [a.weight * 4 for a in below][:1]
        for k, a in enumerate(shifted.A):
            # stencils that are new because u no longer starts at zero come first
            j = k - (len(shifted.A) - len(old.A))
            if known:
                a.weight.copy_(known[j if j >= 0 else 0])
        for k, a in enumerate(first.A):
            if known:
                a.weight.copy_(4 * known[min(k, len(known) - 1)])
        P = _kron([_hat_taps(a.layout) for a in self.axes])
        new.level = nn.ModuleList([first, shifted, *list(new.level)[1:]])
        new.set_stencils(R=P / P.sum(), P=P, Pi=P / P.sum(), level=0)
        return new

    def extra_repr(self) -> str:
        """Summarize the geometry."""
        return (
            f"{self.in_channels}, {self.out_channels}, levels={self.levels}, "
            f"smoothing={self.smoothing}, coarse={self.coarse!r}, axes={self.axes}"
        )


def _set_weight(weight: nn.Parameter, value: Any, name: str) -> None:
    value = torch.as_tensor(value, dtype=torch.float64)
    taps = weight.shape[2:]
    if value.shape == taps:
        eye = torch.eye(*weight.shape[:2], dtype=torch.float64)
        value = eye.view(*eye.shape, *[1] * len(taps)) * value
    if value.shape != weight.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected {tuple(weight.shape)} "
            f"or {tuple(taps)}"
        )
    weight.copy_(value)


# -- the network -----------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _interpolation_matrix(axis: _Axis, n: int, r: int) -> Tensor:
    """Linear interpolation from `r` equidistant nodes to the `n` unknowns of an axis, (n, r).

    The nodes include both ends of the domain; on a periodic axis they leave out the upper one.
    """
    i = torch.arange(n, dtype=torch.float64)
    periodic = axis.left == "periodic"
    if axis.layout == "cell":
        x = (i + 0.5) / n
    elif periodic:
        x = i / n
    else:
        left, right = axis.left == "dirichlet", axis.right == "dirichlet"
        x = (i + left) / max(n - 1 + left + right, 1)
    t = x * (r if periodic else r - 1)
    low = t.floor().clamp(0, r - 1)
    frac = t - low
    W = torch.zeros(n, r, dtype=torch.float64)
    W[torch.arange(n), low.long()] += 1 - frac
    high = (low.long() + 1) % r if periodic else (low.long() + 1).clamp(max=r - 1)
    W[torch.arange(n), high] += frac
    return W


class _FunctionBias(nn.Module):
    """b(x) per channel: nodal values on a coarse grid, linearly interpolated to any size."""

    def __init__(
        self, channels: int, fan_in: int, resolution: int, axes: tuple[_Axis, ...]
    ) -> None:
        super().__init__()
        self.axes = axes
        start = torch.empty(channels, *[1] * len(axes))
        _kaiming(start, fan_in)
        # a constant to begin with, as torch would draw it
        self.values = nn.Parameter(start.repeat(1, *[resolution] * len(axes)))

    def forward(self, shape: Sequence[int]) -> Tensor:
        b: Tensor = self.values
        for d, (axis, n) in enumerate(zip(self.axes, shape, strict=True)):
            W = _interpolation_matrix(axis, n, self.values.shape[d + 1]).to(b)
            b = torch.movedim(torch.tensordot(b, W, dims=([d + 1], [1])), -1, d + 1)
        return b[None]


class _ConstantBias(nn.Module):
    """One number per channel."""

    def __init__(self, channels: int, fan_in: int, dim: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(channels, *[1] * dim))
        _kaiming(self.values, fan_in)

    def forward(self, shape: Sequence[int]) -> Tensor:
        return self.values[None]


class MgNO(nn.Module):
    r"""Multigrid neural operator: ``u <- activation(W u + C u + b)`` with V-cycles W.

    Parameters
    ----------
    in_channels : int
        Channels of the input functions; no coordinates are added.
    out_channels : int, default 1
    hidden_channels : int, default 24
    n_layers : int, default 4
    levels, smoothing, boundary, layout, coarse, dim, shared_stencil, uneven
        As in `MultigridOperator`; `levels` defaults to 6 here.
    activation : {"gelu", "relu", "silu", "tanh", "identity"}
    pointwise : bool, default True
        The 1x1 convolution C.
    bias : {"function", "constant"} or None
        b(x) on a grid of `bias_resolution` nodes an axis, linearly interpolated to any size;
        one number a channel; or none.
    bias_resolution : int, default 16
    residual : bool, default False
        Add the input to the output (time steps).
    head : {"linear", "multigrid"}
        Last map: bias-free 1x1 convolution, or one more V-cycle.
    output_boundary : bool, default True
        Fields on vertex grids include the Dirichlet walls: the interior is computed and the walls
        are set to `boundary_value` exactly. False: fields hold the interior alone.
    boundary_value : float, default 0.0
        Dirichlet value; the network computes the difference to it.
    continuation : {"solution", "free_input", "free"}
        How functions go on beyond Dirichlet sides. ``"solution"``: all by the solution's rule;
        input values on the walls do not count (right for sources and previous states).
        ``"free_input"``: the input evenly, walls included (coefficients fulfil no boundary
        condition), hidden functions by the rule. ``"free"``: all evenly; only the output
        fulfils the condition, by its walls. Needs `output_boundary` on vertex grids.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.

    Notes
    -----
    The weights belong to one mesh width; for a grid twice as fine take `refined` and go on
    training.

    References
    ----------
    .. [1] He, Liu, Xu, "MgNO: Efficient Parameterization of Linear Operators via Multigrid",
       ICLR 2024, arXiv:2310.19809.

    Examples
    --------
    >>> model = MgNO(1, levels=4, hidden_channels=8)
    >>> u = model(torch.randn(2, 1, 33, 33))
    >>> u.shape, bool((u[..., 0, :] == 0).all())
    (torch.Size([2, 1, 33, 33]), True)
    """

    #: What a factory has filled in, as plain JSON types.
    resolved_options: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        hidden_channels: int = 24,
        n_layers: int = 4,
        *,
        levels: int = 6,
        smoothing: Sequence[Sequence[int]] | None = None,
        boundary: BoundaryLike = "dirichlet",
        layout: str | Sequence[str] = "vertex",
        coarse: Coarse = "residual",
        activation: Activation = "gelu",
        pointwise: bool = True,
        bias: Bias | None = "function",
        bias_resolution: int = 16,
        residual: bool = False,
        head: Head = "linear",
        dim: int = 2,
        output_boundary: bool = True,
        boundary_value: float = 0.0,
        continuation: Continuation = "solution",
        shared_stencil: bool = True,
        uneven: Uneven = "error",
    ) -> None:
        super().__init__()
        positive(
            in_channels=in_channels,
            out_channels=out_channels,
            hidden_channels=hidden_channels,
            n_layers=n_layers,
        )
        _check_literal("activation", activation, Activation)
        _check_literal("head", head, Head)
        _check_literal("continuation", continuation, Continuation)
        if bias is not None:
            _check_literal("bias", bias, Bias)
        if bias_resolution < 2:
            raise ValueError(f"bias_resolution={bias_resolution}: need an integer >= 2")
        if residual and in_channels != out_channels:
            raise ValueError(
                f"residual=True adds the input to the output: in_channels={in_channels} must "
                f"equal out_channels={out_channels}"
            )
        if not math.isfinite(boundary_value):
            raise ValueError(f"boundary_value={boundary_value}: need a finite number")
        axes = _make_axes(boundary, layout, dim)
        self.axes = axes
        self.in_channels, self.out_channels = in_channels, out_channels
        self.residual, self.boundary_value = residual, float(boundary_value)
        # walls: given points that are no unknowns, (left, right) per axis
        wall = [output_boundary and a.layout == "vertex" for a in axes]
        self.walls: Widths = tuple(
            (int(w and a.left == "dirichlet"), int(w and a.right == "dirichlet"))
            for w, a in zip(wall, axes, strict=True)
        )
        closed = [a.layout == "vertex" and "dirichlet" in (a.left, a.right) for a in axes]
        if continuation != "solution" and not output_boundary and any(closed):
            raise ValueError(
                f"continuation={continuation!r} needs the values on Dirichlet walls: "
                "output_boundary must be True on vertex grids"
            )
        # cycles before this one act evenly on the closed grid, whose coarse vertices are the same
        self.n_free = {"solution": 0, "free_input": 1, "free": n_layers + 1}[continuation]

        def rules(k: int) -> tuple[_Axis, ...]:
            """Axes that the functions of cycle `k` obey."""
            even = {"dirichlet": "neumann"} if k < self.n_free else {}
            return tuple(
                _Axis(even.get(a.left, a.left), even.get(a.right, a.right), a.layout) for a in axes
            )

        def cycle(k: int, n_f: int, n_u: int) -> nn.Module:
            return MultigridOperator(
                n_f, n_u, levels=levels, smoothing=smoothing, dim=dim,
                boundary=[(a.left, a.right) for a in rules(k)], layout=[a.layout for a in axes],
                coarse=coarse, shared_stencil=shared_stencil, uneven=uneven,
            )  # fmt: skip

        sizes = [in_channels] + [hidden_channels] * n_layers
        self.cycles = nn.ModuleList(
            cycle(k, n_f, n_u) for k, (n_f, n_u) in enumerate(pairwise(sizes))
        )
        conv: type[nn.Module] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dim]
        self.pointwise = nn.ModuleList(
            conv(n_f, n_u, 1, bias=False) for n_f, n_u in pairwise(sizes) if pointwise
        )
        self.biases = nn.ModuleList()
        for k, n_f in enumerate(sizes[:-1]):
            if bias == "function":  # acts on the functions that the next cycle reads
                self.biases.append(
                    _FunctionBias(hidden_channels, n_f, bias_resolution, rules(k + 1))
                )
            elif bias == "constant":
                self.biases.append(_ConstantBias(hidden_channels, n_f, dim))
        self.activation = _ACTIVATIONS[activation]()
        self.head = (
            conv(hidden_channels, out_channels, 1, bias=False)
            if head == "linear"
            else cycle(n_layers, hidden_channels, out_channels)
        )
        self.resolved_options = {}

    def _interior(self, x: Tensor) -> Tensor:
        for d, (left, right) in enumerate(self.walls):
            if left or right:
                x = x.narrow(d + 2, left, x.shape[d + 2] - left - right)
        return x

    def forward(self, x: Tensor, boundary_values: Tensor | None = None) -> Tensor:
        """Apply the operator.

        Parameters
        ----------
        x : Tensor, shape (batch, in_channels, *n)
        boundary_values : Tensor, optional
            Broadcastable to the output; its values on the Dirichlet walls are taken instead of
            `boundary_value`.

        Returns
        -------
        Tensor, shape (batch, out_channels, *n)

        Raises
        ------
        ValueError
            Wrong number of axes or channels, or sizes that the levels do not allow.
        """
        if not torch.compiler.is_compiling():
            self._check(x)
        u = _channels_last(x if self.n_free else self._interior(x))
        for k, cycle in enumerate(self.cycles):
            w = cycle(u)
            if self.pointwise:
                local: Any = self.pointwise[k]
                w = w.add_(_pointwise(u, local.weight))
            if k + 1 == self.n_free:
                w = _channels_last(self._interior(w))
            if self.biases:
                w = w.add_(_channels_last(self.biases[k](w.shape[2:])))
            u = _activate(w, self.activation)
        head: Any = self.head
        u = head(u) if isinstance(head, MultigridOperator) else _pointwise(u, head.weight)
        if self.n_free > len(self.cycles):
            u = self._interior(u)
        if self.residual:
            u = u + self._interior(x)
        elif self.boundary_value:
            u = u + self.boundary_value
        if not any(map(any, self.walls)):
            return u
        flat = [w for pair in reversed(self.walls) for w in pair]
        if boundary_values is None:
            return F.pad(u, flat, value=self.boundary_value)
        inside = F.pad(torch.ones_like(u, dtype=torch.bool), flat, value=False)
        return torch.where(inside, F.pad(u, flat), boundary_values)

    def _check(self, x: Tensor) -> None:
        dim = len(self.axes)
        sizes = ", ".join(f"n{d + 1}" for d in range(dim))
        if x.ndim != dim + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (batch, {self.in_channels}, {sizes}): "
                f"this model was built with in_channels={self.in_channels}, dim={dim}"
            )
        for d, ((left, right), n) in enumerate(zip(self.walls, x.shape[2:], strict=True)):
            if n <= left + right:
                raise ValueError(f"x has {n} points on axis {d}: no interior between the walls")

    def refined(self) -> MgNO:
        """Return a copy with one finer level in every V-cycle, for a grid twice as fine.

        Biases and 1x1 convolutions are kept; see `MultigridOperator.refined`. Meant to be
        trained on for some epochs.
        """
        new = copy.deepcopy(self)
        new.cycles = nn.ModuleList(c.refined() for c in self.cycles)  # type: ignore[operator]
        if isinstance(self.head, MultigridOperator):
            new.head = self.head.refined()
        if "levels" in new.resolved_options:
            new.resolved_options["levels"] += 1
            steps = new.resolved_options["smoothing"]
            new.resolved_options["smoothing"] = [steps[0], *steps]
        return new

    @classmethod
    def from_preset(
        cls, name: str, *, variant: Literal["official", "paper"] = "paper"
    ) -> nn.Module:
        """Return the model of one of the paper's experiments, untrained.

        Parameters
        ----------
        name : str
            ``"darcy_smooth"`` (211^2), ``"darcy_rough"`` (256^2), ``"navier_stokes"`` (64^2),
            ``"pipe"`` (128^2) or ``"helmholtz"`` (101^2).
        variant : {"paper", "official"}
            The paper's method with these settings, on any size, or the authors' program, weight
            for weight (`models.mgno_official`), on its size alone.

        Raises
        ------
        UnknownNameError
        """
        check_name("variant", variant, ("official", "paper"))
        check_name("preset", name, tuple(_PRESETS))
        if variant == "official":
            from .mgno_official import official_model

            return official_model(name)
        return cls(**_PRESETS[name])


def _preset(
    n_layers: int, hidden: int, smoothing: list[tuple[int, int]], **options: Any
) -> dict[str, Any]:
    return {
        "in_channels": 1, "hidden_channels": hidden, "n_layers": n_layers,
        "levels": len(smoothing), "smoothing": smoothing, "uneven": "ceil", **options,
    }  # fmt: skip


_ONE, _TWO = (1, 0), (2, 0)
_PRESETS: dict[str, dict[str, Any]] = {
    "darcy_smooth": _preset(5, 24, [_ONE] * 5 + [_TWO]),
    "darcy_rough": _preset(4, 24, [_ONE] * 5 + [_TWO]),
    "pipe": _preset(5, 24, [_ONE] * 4 + [(1, 1), _TWO], in_channels=2),
    "navier_stokes": _preset(
        5, 32, [_ONE] * 3 + [_TWO] * 2, boundary="periodic", pointwise=False, residual=True
    ),
    "helmholtz": _preset(
        4, 20, [_ONE] * 4 + [_TWO], boundary="neumann", pointwise=False, head="multigrid"
    ),
}  # fmt: skip


# -- from a dataset ----------------------------------------------------------------------------

MAX_LEVELS, MIN_COARSE = 6, 3


def _useful_levels(axes: Sequence[_Axis], shape: Sequence[int]) -> int:
    """Most levels (up to 6) whose coarsest grid has 3 points an axis, Dirichlet walls included."""
    levels, sizes = 1, list(shape)
    walls = [(a.layout == "vertex") * [a.left, a.right].count("dirichlet") for a in axes]
    while levels < MAX_LEVELS:
        sizes = [a.coarse(n) for a, n in zip(axes, sizes, strict=True)]
        if min(sizes) < 1 or min(n + w for n, w in zip(sizes, walls, strict=True)) < MIN_COARSE:
            break
        levels += 1
    return levels


def build_mgno(
    spec: ModelSpec,
    *,
    hidden_channels: int = 24,
    n_layers: int = 4,
    levels: int | None = None,
    smoothing: list[list[int]] | None = None,
    coarse: Coarse = "residual",
    activation: Activation = "gelu",
    pointwise: bool = True,
    bias: Bias | None = "function",
    bias_resolution: int | None = None,
    residual: bool = False,
    head: Head = "linear",
    shared_stencil: bool = True,
    exact_boundary: bool = True,
    continuation: Continuation = "free",
    uneven: Uneven | None = None,
) -> MgNO:
    """MgNO for a dataset.

    Boundary and layout come from `spec`. A Dirichlet side keeps its rule, and on node grids the
    walls are set to ``spec.boundary_value`` exactly, when the value is known and there is one
    output. Every other side (``"none"``, unknown kinds, Dirichlet with unknown or several
    values, several outputs) is continued evenly with its end point computed: an even
    continuation prescribes no value.

    Parameters
    ----------
    spec : ModelSpec
    hidden_channels, n_layers, coarse, activation, pointwise, bias, residual, head, shared_stencil
        As in `MgNO`.
    levels : int, optional
        Default: as many as keep 3 points an axis, walls included, on the coarsest grid, at most 6.
    smoothing : list of [pre, post], optional
        Steps per level. Default ``[1, 0]``, on the coarsest ``[2, 0]``.
    bias_resolution : int, optional
        Default: 16, or half the points of the shortest axis if that is less.
    exact_boundary : bool, default True
        False: Dirichlet sides are learned like all others.
    continuation : {"free", "free_input", "solution"}
        As in `MgNO`. On Darcy flow, 33^2, 400 samples, ``"free"`` had 20 to 35 % less relative L2
        error than the two others on both seeds tried: what an activation leaves does not
        vanish on the walls.
    uneven : {"error", "ceil"}, optional
        Default ``"error"`` where all levels halve exactly, else ``"ceil"``.

    Returns
    -------
    MgNO
        Its `resolved_options` rebuild it with the same `spec`.

    Raises
    ------
    ValueError
        Names the argument, the value and what is allowed.
    """
    grid = spec.grid
    if len(spec.boundary) != grid.dim:
        raise ValueError(f"boundary={spec.boundary}: need one pair for each of {grid.dim} axes")
    known = exact_boundary and spec.boundary_value is not None and spec.out_channels == 1
    kinds: list[tuple[str, str]] = []
    for axis, pair in zip(grid.axes, spec.boundary, strict=True):
        if "periodic" in pair and not axis.periodic:
            raise ValueError(
                f"axis {axis.name!r}: boundary {pair} but the grid says periodic=False"
            )
        sides = [
            "periodic"
            if axis.periodic
            else "dirichlet"
            if known and k == "dirichlet"
            else "neumann"
            for k in pair
        ]
        kinds.append((sides[0], sides[1]))
    layouts = ["cell" if a.location == "cell_center" else "vertex" for a in grid.axes]
    _check_literal("continuation", continuation, Continuation)
    # the unknowns of the cycles: without walls where these keep the solution's rule
    inner = [
        ("neumann",) * 2 if continuation == "free" and "periodic" not in k else k for k in kinds
    ]
    axes = _make_axes(inner, layouts, grid.dim)
    shape = [
        n - (a.layout == "vertex") * [a.left, a.right].count("dirichlet")
        for n, a in zip(grid.shape, axes, strict=True)
    ]
    if any(n <= [*k].count("dirichlet") for n, k in zip(grid.shape, kinds, strict=True)):
        raise ValueError(f"grid of {grid.shape} points: no interior between the walls")
    if levels is None:
        levels = len(smoothing) if smoothing is not None else _useful_levels(axes, shape)
    if uneven is None:
        exact = all(_admissible(a, n, levels) for a, n in zip(axes, shape, strict=True))
        uneven = "error" if exact else "ceil"
    if bias_resolution is None:
        bias_resolution = min(16, max(2, min(grid.shape) // 2))
    steps = _check_smoothing(smoothing, levels)
    _level_shapes(axes, tuple(shape), levels, uneven)
    model = MgNO(
        spec.in_channels,
        spec.out_channels,
        hidden_channels,
        n_layers,
        levels=levels,
        smoothing=steps,
        boundary=kinds,
        layout=layouts,
        coarse=coarse,
        activation=activation,
        pointwise=pointwise,
        bias=bias,
        bias_resolution=bias_resolution,
        residual=residual,
        head=head,
        dim=grid.dim,
        boundary_value=spec.boundary_value if known and spec.boundary_value else 0.0,
        continuation=continuation,
        shared_stencil=shared_stencil,
        uneven=uneven,
    )
    model.resolved_options = {
        "levels": levels,
        "smoothing": [list(s) for s in steps],
        "bias_resolution": bias_resolution,
        "uneven": uneven,
    }
    return model
