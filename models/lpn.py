"""Learned proximal networks: denoisers that are the proximal operator of a prior, exactly.

The gradient of a differentiable convex function is the proximal operator of some function R, in
general nonconvex. `LPN` is that gradient for a convex network, so R exists by construction, can be
evaluated, and iterations that use the network in place of a proximal operator minimize an
objective that is known.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers.names import check_name

from ._sizes import positive
from .spec import DenoisingSpec

__all__ = [
    "LPN",
    "InverseOfProx",
    "InversionError",
    "ProximalMatching",
    "Stage",
    "build_lpn",
    "proximal_matching_loss",
]

Arch = Literal["mlp", "conv", "patch"]
Positivity = Literal["clip", "softplus"]
Init = Literal["exp_normal", "uniform", "balanced"]
Tiling = Literal["zeros", "periodic"]

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_T: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
#: softplus(40) = 40 to the last bit in double precision; torch's own threshold, 20, leaves a jump
#: of 2e-9 downwards there, and a function that jumps down is not convex.
_THRESHOLD = 40.0


class InversionError(RuntimeError):
    """The network could not be inverted at a point, so R is not known there.

    Parameters
    ----------
    message : str
    residual : Tensor, shape (B,)
        ``norm(f(y) - x)`` reached.
    """

    def __init__(self, message: str, residual: Tensor) -> None:
        super().__init__(message)
        self.residual = residual


@dataclass(frozen=True)
class InverseOfProx:
    """Pre-images of points under a proximal network.

    Attributes
    ----------
    y : Tensor, shape (B, *shape)
        ``f(y) = x`` up to the residual.
    residual : Tensor, shape (B,)
        ``norm(f(y) - x)``, in the Euclidean norm.
    converged : Tensor of bool, shape (B,)
        ``residual <= tol * max(1, norm(x))``.
    iterations : int
        Of the sample that took most.
    """

    y: Tensor
    residual: Tensor
    converged: Tensor
    iterations: int


# -- linear maps with their adjoints -------------------------------------------------------------


class _Map(nn.Module):
    """A linear map; `positive` ones have nonnegative entries."""

    def __init__(self, weight: Tensor, positive: Positivity | None) -> None:
        super().__init__()
        self.positive = positive
        self.weight = nn.Parameter(weight)

    def matrix(self) -> Tensor:
        """Entries as they act."""
        return F.softplus(self.weight) if self.positive == "softplus" else self.weight

    def set_matrix(self, value: Tensor) -> None:
        """Set the entries; nonnegative ones where the map is positive."""
        with torch.no_grad():
            if self.positive == "softplus":
                # inverse of softplus; log(expm1(v)) without overflow, nor -inf at 0
                v = value.clamp_min(torch.finfo(value.dtype).tiny)
                value = v + torch.log(-torch.expm1(-v))
            self.weight.copy_(value)


class _Dense(_Map):
    """``(B, *in) -> (B, n_out)``; the last one, of one output, is the weight of the sum."""

    def __init__(self, size: tuple[int, ...], n_out: int, positive: Positivity | None) -> None:
        super().__init__(torch.empty(n_out, math.prod(size)), positive)
        self.size, self.out_size = size, (n_out,)
        self.fan_in = math.prod(size)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.matrix())

    def adjoint(self, d: Tensor) -> Tensor:
        return (d @ self.matrix()).reshape(-1, *self.size)


class _Conv(_Map):
    """Convolution with an odd kernel, zeros outside; point j of the output lies on ``stride j``."""

    def __init__(
        self, size: tuple[int, ...], n_out: int, kernel: int, stride: int,
        positive: Positivity | None,
    ) -> None:  # fmt: skip
        channels, *space = size
        super().__init__(torch.empty(n_out, channels, *(kernel,) * len(space)), positive)
        self.size, self.stride, self.dim = size, stride, len(space)
        self.padding = kernel // 2
        self.out_size = (n_out, *(-(-n // stride) for n in space))
        self.fan_in = channels * kernel**self.dim
        # a transposed convolution returns (m - 1) stride + 1 points, and as many more
        self.missing = tuple(
            n - (m - 1) * stride - 1 for n, m in zip(space, self.out_size[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return _CONV[self.dim](x, self.matrix(), stride=self.stride, padding=self.padding)

    def adjoint(self, d: Tensor) -> Tensor:
        return _CONV_T[self.dim](
            d, self.matrix(), stride=self.stride, padding=self.padding,
            output_padding=self.missing,
        )  # fmt: skip


class _Potential(nn.Module):
    """A convex network: ``z_k = g(W_k z_{k-1} + H_k x + b_k)``, ``w . z_K + h . x + b``.

    Parameters
    ----------
    size : tuple of int
        Of x, without the batch.
    layers : sequence of (lateral, skip)
        Maps W_k (None in the first layer) and H_k, to spaces of the same size.
    beta : float
    positive : {"clip", "softplus"}
    """

    def __init__(
        self, size: tuple[int, ...], layers: Sequence[tuple[Any, Any]], beta: float,
        positive: Positivity,
    ) -> None:  # fmt: skip
        super().__init__()
        self.beta = beta
        self.skip = nn.ModuleList(skip for _, skip in layers)
        self.lateral = nn.ModuleList(lateral for lateral, _ in layers[1:])
        sizes = [skip.out_size for _, skip in layers]
        self.bias = nn.ParameterList(
            nn.Parameter(torch.zeros(s[0], *(1,) * (len(s) - 1))) for s in sizes
        )
        self.head = _Dense(sizes[-1], 1, positive)
        self.linear = nn.Parameter(torch.zeros(size))
        self.constant = nn.Parameter(torch.zeros(()))

    def positive_maps(self) -> dict[str, _Map]:
        """W_k and w by name."""
        named = {f"lateral.{k}.weight": m for k, m in enumerate(self.lateral)}
        return {**named, "head.weight": self.head}  # type: ignore[dict-item]

    def forward(self, x: Tensor, *, value: bool, gradient: bool) -> tuple[Any, Any]:
        """Return values (B,) and gradients (B, *size), None where not asked for.

        The gradient is written out, not left to autograd: it needs no graph of its own, so it
        works where gradients are off, and training differentiates it once.
        """
        last = len(self.skip) - 1
        slopes, z = [], x
        for k, (skip, bias) in enumerate(zip(self.skip, self.bias, strict=True)):
            a = skip(x) + bias
            if k:
                a = a + self.lateral[k - 1](z)
            if gradient:
                slopes.append(torch.sigmoid(self.beta * a))
            if k < last or value:
                z = F.softplus(a, self.beta, _THRESHOLD)
        v = g = None
        if value:
            v = self.head(z)[:, 0] + (x * self.linear).flatten(1).sum(1) + self.constant
        if gradient:
            d = self.head.matrix().reshape(self.head.size) * slopes[-1]
            g = self.linear + self.skip[last].adjoint(d)  # type: ignore[operator]
            for k in range(last - 1, -1, -1):
                d = self.lateral[k].adjoint(d) * slopes[k]  # type: ignore[operator]
                g = g + self.skip[k].adjoint(d)  # type: ignore[operator]
        return v, g

    def initialize(self, init: Init) -> None:
        """Draw all weights from torch's global generator."""
        with torch.no_grad():
            for skip, bias in zip(self.skip, self.bias, strict=True):
                bound = 1 / math.sqrt(skip.fan_in)  # type: ignore[arg-type]
                nn.init.uniform_(skip.weight, -bound, bound)  # type: ignore[arg-type]
                bias.uniform_(-bound, bound)
            for m in self.positive_maps().values():
                like = torch.empty_like(m.weight)
                if init == "uniform":
                    bound = 1 / math.sqrt(m.fan_in)  # type: ignore[arg-type]
                    m.set_matrix(like.uniform_(-bound, bound).clamp_min(0.0))
                elif init == "exp_normal":
                    m.set_matrix(like.normal_(-10.0, 0.1).exp())
                else:  # rows sum to one, so that every layer sees the same sizes
                    like.normal_(0.0, 0.5).exp_()
                    like /= like.flatten(1).sum(1).reshape(-1, *(1,) * (like.dim() - 1))
                    if isinstance(m, _Conv):  # most of it on the same channel and point
                        like *= 0.3
                        n_out, n_in = like.shape[:2]
                        middle = like  # a view
                        for k in like.shape[2:]:
                            middle = middle.select(2, k // 2)
                        middle[torch.arange(n_out), torch.arange(n_out) % n_in] += 0.7
                    m.set_matrix(like)

    def scale_curvature(self, target: float) -> None:
        """Scale w so that the mean eigenvalue of the Hessian at normal random points is `target`.

        The network is linear in w, so that this is exact up to the eight probes.
        """
        x = torch.randn(8, *self.linear.shape, dtype=self.linear.dtype)
        v = torch.randn_like(x).sign()
        rise = _hessian_product(lambda x: self(x, value=False, gradient=True)[1], x, v)
        mean = float((v * rise).mean())
        with torch.no_grad():
            self.head.set_matrix(self.head.matrix() * (target / mean))


def _mlp(
    size: tuple[int, ...], hidden: int, layers: int, beta: float, positive: Positivity
) -> _Potential:
    maps = [
        (_Dense((hidden,), hidden, positive) if k else None, _Dense(size, hidden, None))
        for k in range(layers)
    ]
    return _Potential(size, maps, beta, positive)


def _conv(
    size: tuple[int, ...], hidden: int, strides: Sequence[int], kernel: int, skip_kernel: int,
    dense: int, beta: float, positive: Positivity,
) -> _Potential:  # fmt: skip
    maps: list[tuple[Any, Any]] = []
    total = 1
    for k, stride in enumerate(strides):
        total *= stride
        skip = _Conv(size, hidden, skip_kernel + 2 * (total - 1), total, None)
        lateral = _Conv(maps[-1][1].out_size, hidden, kernel, stride, positive) if k else None
        maps.append((lateral, skip))
    if dense:
        maps.append((_Dense(maps[-1][1].out_size, dense, positive), _Dense(size, dense, None)))
    return _Potential(size, maps, beta, positive)


# -- patches -------------------------------------------------------------------------------------


def patch_index(shape: Sequence[int], patch: int, stride: int, tiling: Tiling) -> Tensor:
    """Where the points of overlapping patches lie in the flat field; -1 for zeros outside.

    Every point of the field lies in the same number of patches, ``(patch / stride)**dim``, so that
    the average over the patches is a symmetric operation: averages with other counts at the border
    are not, and a denoiser made of them is no proximal operator.

    Parameters
    ----------
    shape : sequence of int
        ``(channels, *space)``.
    patch, stride : int
        Points per axis of a patch and between patches; `patch` a multiple of `stride`.
    tiling : {"zeros", "periodic"}

    Returns
    -------
    Tensor of int64, shape (n_patches, channels * patch**dim)
    """
    channels, *space = shape
    lines = []
    for n in space:
        first = 0 if tiling == "periodic" else stride - patch
        starts = torch.arange(first, n, stride)
        at = starts[:, None] + torch.arange(patch)
        at = at % n if tiling == "periodic" else torch.where((at >= 0) & (at < n), at, -1)
        lines.append(at)
    rows = []
    for corner in itertools.product(*(range(len(a)) for a in lines)):
        index = torch.zeros((), dtype=torch.int64)
        outside = torch.zeros((), dtype=torch.bool)
        for d, n in enumerate(space):
            at = lines[d][corner[d]].reshape(-1, *(1,) * (len(space) - 1 - d))
            index = index * n + at
            outside = outside | (at < 0)
        flat = torch.arange(channels).reshape(-1, *(1,) * len(space)) * math.prod(space) + index
        rows.append(torch.where(outside, -1, flat).flatten())
    return torch.stack(rows)


# -- the network ---------------------------------------------------------------------------------


class LPN(nn.Module):
    r"""Learned proximal network: the gradient of a convex function, so a proximal operator.

    :math:`f = \nabla\psi = \mathrm{prox}_R`,
    :math:`\psi(x) = w^T z_K + h^T x + b + \frac{\alpha}{2}\|x\|^2`,
    :math:`z_k = g(W_k z_{k-1} + H_k x + b_k)`, :math:`W_k, w \ge 0` in each entry and
    :math:`g(t) = \log(1 + e^{\beta t}) / \beta`.

    Parameters
    ----------
    shape : sequence of int
        Of one sample: ``(n,)``, or ``(channels, *space)`` (convolutions and patches need it).
    hidden : int
        Units or channels of a hidden layer.
    layers : int
        Hidden layers.
    beta : float
        Sharpness of g, > 0. Inputs are supposed to be of order 1.
    alpha : float
        Strong convexity, >= 0: eigenvalues of the Jacobian of f are at least `alpha`. The official
        code adds ``alpha * norm(x)**2``, so that its number is half of this one.
    arch : {"mlp", "conv", "patch"}
        Fully connected; convolutions of which every other one has stride 2; a fully connected
        network on overlapping patches, whose mean it is.
    positivity : {"clip", "softplus"}
        How W and w are kept nonnegative: by `project_` after each step of an optimizer, or as
        softplus of free weights.
    init : {"exp_normal", "uniform", "balanced"}
        Of W and w: ``exp(N(-10, 0.1^2))``; the positive part of a uniform distribution; positive
        with row sums of one (of convolutions 0.7 on the channel's own predecessor), w such that
        the Jacobian's mean eigenvalue is 1/2.
    strides : sequence of int, optional
        "conv": of each layer; default 1, 2, 1, 2, ...
    kernel_size, skip_kernel : int
        "conv": of W_k, odd; of H_k on the input, odd, and wider by ``2 (s - 1)`` in a layer whose
        points are s apart.
    dense : int
        "conv": width of a last, fully connected hidden layer; 0 for none.
    patch, stride : int
        "patch": points per axis of a patch and between patches.
    tiling : {"zeros", "periodic"}
        "patch": what lies outside of the field.

    Raises
    ------
    ValueError
        Parameters out of range, or a shape that the architecture does not take.

    Notes
    -----
    All layers are smooth, convex and nondecreasing in what comes from the layer before, so
    :math:`\psi` is convex for any weights that `check_convexity` accepts [3]_. By [2]_ f is the
    proximal operator of :math:`R = \psi^* - \frac12\|\cdot\|^2`, and
    :math:`R(f(y)) = \langle y, f(y)\rangle - \frac12\|f(y)\|^2 - \psi(y)` [1]_. R is known up to
    a constant. The gradient is evaluated without autograd: f works where gradients are off, and
    training differentiates once.

    References
    ----------
    .. [1] Fang, Buchanan, Sulam, What's in a Prior? Learned Proximal Networks for Inverse Problems,
       ICLR 2024, arXiv:2310.14344.
    .. [2] Gribonval, Nikolova, A characterization of proximity operators, J. Math. Imaging Vis. 62
       (2020), 773-789.
    .. [3] Amos, Xu, Kolter, Input convex neural networks, ICML 2017.

    Examples
    --------
    >>> net = LPN((1, 16, 16), hidden=8, layers=2, arch="conv")
    >>> x, r = net.prox_and_regularizer(torch.zeros(3, 1, 16, 16))
    >>> x.shape, r.shape
    (torch.Size([3, 1, 16, 16]), torch.Size([3]))
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        hidden: int = 64,
        layers: int = 3,
        beta: float = 10.0,
        alpha: float = 0.01,
        arch: Arch = "mlp",
        positivity: Positivity = "clip",
        init: Init = "exp_normal",
        strides: Sequence[int] | None = None,
        kernel_size: int = 3,
        skip_kernel: int = 3,
        dense: int = 0,
        patch: int = 8,
        stride: int = 4,
        tiling: Tiling = "zeros",
    ) -> None:
        super().__init__()
        shape = tuple(int(n) for n in shape)
        _check(shape, hidden, layers, beta, alpha, arch, positivity, init)
        self.shape, self.beta, self.alpha = shape, float(beta), float(alpha)
        self.arch: Arch = arch
        self.positivity: Positivity = positivity
        self._patching = (patch, stride, tiling)
        self.index: Tensor | None
        self.register_buffer("index", None, persistent=False)
        self.copies = 1
        if arch == "mlp":
            self.net = _mlp(shape, hidden, layers, self.beta, positivity)
        elif arch == "conv":
            steps = tuple(strides or [1 + k % 2 for k in range(layers)])
            if len(steps) != layers or min(steps) < 1:
                raise ValueError(f"strides={list(steps)}: need {layers} integers >= 1")
            for name, n in (("kernel_size", kernel_size), ("skip_kernel", skip_kernel)):
                if n < 1 or n % 2 == 0:
                    raise ValueError(f"{name}={n}: need an odd number >= 1")
            if dense < 0:
                raise ValueError(f"dense={dense}: need an integer >= 0")
            self.net = _conv(
                shape, hidden, steps, kernel_size, skip_kernel, dense, self.beta, positivity
            )
        else:
            _check_patches(shape, patch, stride, tiling)
            size = (shape[0], *(patch,) * (len(shape) - 1))
            self.net = _mlp((math.prod(size),), hidden, layers, self.beta, positivity)
            self._set_patches()
        self.net.initialize(init)
        if init == "balanced":
            self.net.scale_curvature(0.5)
        self.register_load_state_dict_pre_hook(_refuse_negative)

    def extra_repr(self) -> str:
        """Show what decides the function."""
        return (
            f"shape={self.shape}, arch={self.arch!r}, beta={self.beta}, alpha={self.alpha}, "
            f"positivity={self.positivity!r}"
        )

    def _set_patches(self) -> None:
        patch, stride, tiling = self._patching
        index = patch_index(self.shape, patch, stride, tiling)
        like = self.net.linear
        self.index = torch.where(index < 0, math.prod(self.shape), index).to(like.device)
        self.copies = (patch // stride) ** (len(self.shape) - 1)

    def with_shape(self, shape: Sequence[int]) -> LPN:
        """Network for fields of another size that shares the weights; patches alone.

        Raises
        ------
        ValueError
            Another architecture, or a size that patches do not cover evenly.
        """
        if self.arch != "patch":
            raise ValueError(f"arch={self.arch!r}: this network is tied to shape {self.shape}")
        shape = tuple(int(n) for n in shape)
        if len(shape) != len(self.shape) or shape[0] != self.shape[0]:
            raise ValueError(f"shape={shape}: need {self.shape[0]} channels, as in {self.shape}")
        _check_patches(shape, *self._patching)
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        other.shape = shape
        other._set_patches()
        return other

    # -- potential and gradient ------------------------------------------------------------

    def _evaluate(self, x: Tensor, *, value: bool, gradient: bool) -> tuple[Any, Any]:
        if x.dim() != len(self.shape) + 1 or x.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {expected})")
        if self.index is None:
            v, g = self.net(x, value=value, gradient=gradient)
        else:
            v, g = self._over_patches(x, self.index, value=value, gradient=gradient)
        if value:
            v = v + 0.5 * self.alpha * x.flatten(1).square().sum(1)
        if gradient:
            g = g + self.alpha * x
        return v, g

    def _over_patches(
        self, x: Tensor, index: Tensor, *, value: bool, gradient: bool
    ) -> tuple[Any, Any]:
        flat = F.pad(x.flatten(1), (0, 1))  # the last entry stands for what lies outside
        patches = flat[:, index]
        n_patches, n = index.shape
        v, g = self.net(patches.reshape(-1, n), value=value, gradient=gradient)
        if value:
            v = v.reshape(-1, n_patches).sum(1) / self.copies
        if gradient:
            total = torch.zeros_like(flat).index_add(
                1, index.flatten(), g.reshape(-1, n_patches * n)
            )
            g = (total[:, :-1] / self.copies).reshape(x.shape)
        return v, g

    def potential(self, x: Tensor) -> Tensor:
        r"""Evaluate :math:`\psi`, shape (B,)."""
        return self._evaluate(x, value=True, gradient=False)[0]

    def forward(self, x: Tensor) -> Tensor:
        r"""Evaluate :math:`f(x) = \nabla\psi(x)`.

        Parameters
        ----------
        x : Tensor, shape (B, *shape)

        Returns
        -------
        Tensor
            As `x`. Carries gradients to `x` and to the weights, unless they are switched off.

        Raises
        ------
        ValueError
            Another shape.
        """
        return self._evaluate(x, value=False, gradient=True)[1]

    def prox_and_regularizer(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Denoise, and evaluate R at the result: no inversion is needed there.

        Parameters
        ----------
        z : Tensor, shape (B, *shape)

        Returns
        -------
        x : Tensor, shape (B, *shape)
            ``f(z)``.
        r : Tensor, shape (B,)
            ``R(x)``.
        """
        v, x = self._evaluate(z, value=True, gradient=True)
        zf, xf = z.flatten(1), x.flatten(1)
        return x, (zf * xf).sum(1) - 0.5 * xf.square().sum(1) - v

    # -- convexity -------------------------------------------------------------------------

    def project_(self) -> Self:
        """Set negative entries of W and w to zero; call it after each step of an optimizer."""
        if self.positivity == "clip":
            with torch.no_grad():
                for m in self.net.positive_maps().values():
                    m.weight.clamp_(min=0.0)
        return self

    def check_convexity(self) -> float:
        r"""Check that :math:`\psi` is convex: W and w are nonnegative.

        Returns
        -------
        float
            Smallest entry.

        Raises
        ------
        ValueError
            A negative entry, or one that is not finite: names the tensor.
        """
        smallest = math.inf
        for name, m in self.net.positive_maps().items():
            smallest = min(smallest, _smallest(f"net.{name}", m.matrix()))
        return smallest

    # -- inversion -------------------------------------------------------------------------

    def invert(
        self,
        x: Tensor,
        *,
        method: Literal["lbfgs", "cg"] = "lbfgs",
        tol: float = 1e-6,
        max_iter: int = 500,
    ) -> InverseOfProx:
        r"""Find y with ``f(y) = x``: minimize :math:`\psi(y) - \langle x, y\rangle`.

        Parameters
        ----------
        x : Tensor, shape (B, *shape)
        method : {"lbfgs", "cg"}
            Limited-memory BFGS; or Newton's method, each step by conjugate gradients with exact
            Hessian products: for small `alpha` and high accuracy.
        tol : float
            On ``norm(f(y) - x) / max(1, norm(x))``.
        max_iter : int
            Of L-BFGS, or of Newton's method.

        Returns
        -------
        InverseOfProx
            In double precision, whatever the network's. Samples do not influence each other.

        Raises
        ------
        ValueError
            Another shape, values that are not finite, `tol` or `max_iter` out of range.

        Notes
        -----
        Points outside of the range of f have no pre-image (`alpha` = 0): the result has not
        converged.
        """
        check_name("method", method, ["lbfgs", "cg"])
        if not tol > 0 or max_iter < 1:
            raise ValueError(f"tol={tol}, max_iter={max_iter}: need tol > 0 and max_iter >= 1")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x has values that are not finite")
        with torch.no_grad():
            return _invert(self._double(), x.detach().double(), method, tol, max_iter)

    def regularizer(
        self, x: Tensor, *, method: Literal["lbfgs", "cg"] = "lbfgs", tol: float = 1e-6,
        max_iter: int = 500,
    ) -> Tensor:  # fmt: skip
        """Evaluate R at any point, by `invert`.

        Parameters
        ----------
        x : Tensor, shape (B, *shape)
        method, tol, max_iter
            As `invert` takes them.

        Returns
        -------
        Tensor, shape (B,)
            In double precision. It is a lower bound, whose error falls with the square of the
            residual.

        Raises
        ------
        InversionError
            A sample did not reach `tol`; carries the residuals.
        """
        inverse = self.invert(x, method=method, tol=tol, max_iter=max_iter)
        if not bool(inverse.converged.all()):
            bad = torch.nonzero(~inverse.converged)[:, 0]
            raise InversionError(
                f"R is not known at {len(bad)} of {len(x)} points (the first is number "
                f"{int(bad[0])}): no y with f(y) = x was found, norm(f(y) - x) = "
                f"{float(inverse.residual[bad].max()):.3g}",
                inverse.residual,
            )
        with torch.no_grad():
            xd, y = x.detach().double().flatten(1), inverse.y
            value = self._double().potential(y)
            return (xd * y.flatten(1)).sum(1) - 0.5 * xd.square().sum(1) - value

    def _double(self) -> LPN:
        """Return the network in double precision, itself if it is."""
        if self.net.linear.dtype == torch.float64:
            return self
        return copy.deepcopy(self).double()


def _check(
    shape: tuple[int, ...], hidden: int, layers: int, beta: float, alpha: float, arch: str,
    positivity: str, init: str,
) -> None:  # fmt: skip
    check_name("arch", arch, ["mlp", "conv", "patch"])
    check_name("positivity", positivity, ["clip", "softplus"])
    check_name("init", init, ["exp_normal", "uniform", "balanced"])
    if not shape or min(shape) < 1:
        raise ValueError(f"shape={shape}: need positive sizes")
    if arch != "mlp" and not 2 <= len(shape) <= 4:
        raise ValueError(
            f"shape={shape}: arch={arch!r} needs (channels, *space) with 1 to 3 space dimensions"
        )
    positive(hidden=hidden, layers=layers)
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta={beta}: need a finite number > 0")
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha={alpha}: need a finite number >= 0")


def _check_patches(shape: tuple[int, ...], patch: int, stride: int, tiling: str) -> None:
    check_name("tiling", tiling, ["zeros", "periodic"])
    if stride < 1 or patch < stride or patch % stride:
        raise ValueError(
            f"patch={patch}, stride={stride}: need a patch that is a multiple of the stride, so "
            "that every point lies in as many patches"
        )
    if tiling == "periodic" and any(n % stride or n < patch for n in shape[1:]):
        raise ValueError(
            f"shape={shape}: periodic tiling needs axes that are multiples of stride={stride} "
            f"and at least patch={patch}"
        )


def _smallest(name: str, weight: Tensor) -> float:
    """Return the smallest entry; raise if the potential is not convex with it."""
    low = float(weight.detach().min())
    if not bool(torch.isfinite(weight.detach()).all()):
        raise ValueError(f"{name} has entries that are not finite")
    if low < 0:
        raise ValueError(
            f"{name} has the entry {low:.3g}: entries must be nonnegative for the potential to be "
            "convex; call project_() after each step of the optimizer"
        )
    return low


def _refuse_negative(module: LPN, state: dict[str, Any], prefix: str, *args: Any) -> None:
    """Refuse weights with which the network is no proximal operator, before any is copied."""
    if module.positivity != "clip":
        return
    for name in module.net.positive_maps():
        key = f"{prefix}net.{name}"
        if key in state:
            _smallest(key, state[key])


# -- inversion -----------------------------------------------------------------------------------

#: Pairs that L-BFGS remembers.
_MEMORY = 12


def _invert(net: LPN, x: Tensor, method: str, tol: float, max_iter: int) -> InverseOfProx:
    goal = tol * x.flatten(1).norm(dim=1).clamp_min(1.0)
    y, residual, iterations = x.clone(), torch.empty_like(goal), 0
    todo = torch.arange(len(x))
    points = x
    value, slope = _objective(net, points, x)
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    fresh = torch.ones(len(x), dtype=torch.bool)  # steepest descent was tried last
    for iterations in range(max_iter + 1):
        norms = slope.flatten(1).norm(dim=1)
        y[todo], residual[todo] = points, norms
        on = norms > goal[todo]
        if not bool(on.any()) or iterations == max_iter:
            break
        if not bool(on.all()):
            todo, points, value, slope = todo[on], points[on], value[on], slope[on]
            fresh = fresh[on]
            memory = [(s[on], d[on], r[on]) for s, d, r in memory]
        target = x[todo]
        if method == "cg":
            step = _newton_step(net, points, slope)
        else:
            step = _lbfgs_step(slope, memory)
        downhill = _dot(step, slope) < 0
        step = torch.where(_column(downhill, step), step, -slope)
        length, ok = _line_search(net, points, target, value, slope, step)
        length = torch.where(ok, length, 0.0)
        new = points + _column(length, step) * step
        new_value, new_slope = _objective(net, new, target)
        s, d = new - points, new_slope - slope
        curvature = _dot(s, d)
        # of no use where rounding has the say; those samples start their memory anew
        good = ok & (curvature > 1e-14 * _dot(d, d).sqrt() * _dot(s, s).sqrt())
        rho = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
        memory = [(a, b, torch.where(ok, r, 0.0)) for a, b, r in memory[-_MEMORY + 1 :]]
        memory.append((s, d, rho))
        stuck = ~ok & fresh
        fresh = ~ok
        points, value, slope = new, new_value, new_slope
        if bool(stuck.any()):  # not even downhill: rounding, or no pre-image
            keep = ~stuck
            norms = slope.flatten(1).norm(dim=1)
            y[todo], residual[todo] = points, norms
            todo, points, value, slope = todo[keep], points[keep], value[keep], slope[keep]
            fresh = fresh[keep]
            memory = [(a[keep], b[keep], r[keep]) for a, b, r in memory]
            if not len(todo):
                break
    return InverseOfProx(y, residual, residual <= goal, iterations)


def _objective(net: LPN, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    v, f = net._evaluate(y, value=True, gradient=True)
    return v - _dot(x, y), f - x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _column(v: Tensor, like: Tensor) -> Tensor:
    return v.reshape(-1, *(1,) * (like.dim() - 1))


def _lbfgs_step(slope: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Two-loop recursion; pairs with rho = 0 do not count."""
    q = -slope
    weights = []
    for s, d, rho in reversed(memory):
        a = rho * _dot(s, q)
        q = q - _column(a, q) * d
        weights.append(a)
    scale = torch.ones_like(slope.flatten(1)[:, 0])
    for s, d, rho in memory:  # of the last pair that counts
        scale = torch.where(rho > 0, _dot(s, d) / _dot(d, d).clamp_min(1e-300), scale)
    q = _column(scale, q) * q
    for (s, d, rho), a in zip(memory, reversed(weights), strict=True):
        b = rho * _dot(d, q)
        q = q + _column(a - b, q) * s
    return q


def _hessian_product(gradient: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """``J v``, J the Jacobian of a gradient: symmetric, so that reverse mode gives it."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (product,) = torch.autograd.grad((gradient(x) * v).sum(), x)
    return product


def _newton_step(net: LPN, y: Tensor, slope: Tensor) -> Tensor:
    """Solve ``J p = -slope`` by conjugate gradients, J the symmetric Jacobian of f at y."""
    p = torch.zeros_like(slope)
    r = -slope
    d = r
    rr = _dot(r, r)
    norm = rr.sqrt()
    # quadratic convergence: the closer, the more accurate
    goal = norm * norm.clamp(1e-6, 0.1)
    for _ in range(min(4 * slope[0].numel(), 500)):
        on = rr.sqrt() > goal
        if not bool(on.any()):
            break
        jd = _hessian_product(net.forward, y, d)
        curvature = _dot(d, jd)
        on = on & (curvature > 0)
        a = torch.where(on, rr / torch.where(on, curvature, 1.0), 0.0)
        p = p + _column(a, p) * d
        r = r - _column(a, r) * jd
        new = _dot(r, r)
        d = torch.where(_column(on, d), r + _column(new / rr.clamp_min(1e-300), d) * d, d)
        rr = torch.where(on, new, 0.0)
    return p


def _line_search(
    net: LPN, y: Tensor, x: Tensor, value: Tensor, slope: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """Weak Wolfe conditions by bisection, for each sample; the sum of values may round."""
    descent = _dot(step, slope)
    noise = 1e-13 * (value.abs() + _dot(x, y).abs())
    low, high = torch.zeros_like(value), torch.full_like(value, math.inf)
    length, ok = torch.ones_like(value), torch.zeros_like(value, dtype=torch.bool)
    todo = torch.arange(len(value))
    for _ in range(50):
        t = length[todo]
        p = step[todo]
        v, g = _objective(net, y[todo] + _column(t, p) * p, x[todo])
        drop = v <= value[todo] + 1e-4 * t * descent[todo] + noise[todo]
        flat = _dot(g, p) >= 0.9 * descent[todo]
        ok[todo] = drop & flat
        high[todo] = torch.where(drop, high[todo], t)
        low[todo] = torch.where(drop & ~flat, t, low[todo])
        todo = todo[~(drop & flat)]
        if not len(todo):
            break
        a, b = low[todo], high[todo]
        length[todo] = torch.where(torch.isinf(b), 2 * a, 0.5 * (a + b))
    return length, ok


# -- proximal matching ---------------------------------------------------------------------------


def proximal_matching_loss(
    prediction: Tensor,
    target: Tensor,
    gamma: float,
    *,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    r"""Proximal matching loss, :math:`1 - \exp(-\|f(y) - x\|^2 / \gamma^2)`.

    The norm is that of a whole sample, not of its entries. As gamma goes to 0 the minimizer tends
    to the maximum of the posterior, which is the proximal operator of :math:`-\sigma^2\log p`;
    the squared error has the posterior mean.

    Parameters
    ----------
    prediction, target : Tensor, shape (B, ...)
    gamma : float
        > 0, in the units of the norm of a sample.
    reduction : {"mean", "none"}
        Mean over the batch, or shape (B,).

    Raises
    ------
    ValueError
        Shapes that differ, or `gamma` out of range.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}"
        )
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma={gamma}: need a finite number > 0")
    square = (prediction - target).flatten(1).square().sum(1)
    loss = -torch.expm1(-square / gamma**2)
    return loss.mean() if reduction == "mean" else loss


@dataclass(frozen=True)
class Stage:
    """What a step of a training minimizes.

    Attributes
    ----------
    gamma : float or None
        Of the proximal matching loss; None: mean absolute error.
    lr : float
        Learning rate.
    """

    gamma: float | None
    lr: float


@dataclass(frozen=True)
class ProximalMatching:
    """Schedule of a training by proximal matching: absolute error first, then smaller gammas.

    With a small gamma from the start the exponential is 0 everywhere, and so is its gradient.

    Parameters
    ----------
    gamma_min : float, optional
        The last gamma; the first is ``2**(stages - 1)`` times as large. Default
        ``0.8 * sigma * sqrt(n)`` for noise sigma and n entries a sample: the paper's 0.08 sqrt(n)
        at its sigma = 0.1.
    stages : int
        Values of gamma, with the same number of steps each.
    pretrain_steps, steps : int
        With the absolute error, and with proximal matching.
    lr_pretrain, lr : float
        Learning rates of the two.

    Examples
    --------
    >>> schedule = ProximalMatching(gamma_min=0.1, stages=2, pretrain_steps=10, steps=10)
    >>> [schedule.at(k, sigma=1.0, n=1).gamma for k in (0, 10, 15)]
    [None, 0.2, 0.1]
    """

    gamma_min: float | None = None
    stages: int = 4
    pretrain_steps: int = 20_000
    steps: int = 20_000
    lr_pretrain: float = 1e-3
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if self.gamma_min is not None and not (
            math.isfinite(self.gamma_min) and self.gamma_min > 0
        ):
            raise ValueError(f"gamma_min={self.gamma_min}: need a finite number > 0")
        if self.stages < 1 or self.pretrain_steps < 0 or self.steps < 0:
            raise ValueError(
                f"stages={self.stages}, pretrain_steps={self.pretrain_steps}, steps={self.steps}: "
                "need stages >= 1 and steps >= 0"
            )
        if not (self.lr_pretrain > 0 and self.lr > 0):
            raise ValueError(f"lr_pretrain={self.lr_pretrain}, lr={self.lr}: need numbers > 0")

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return self.pretrain_steps + self.steps

    def gammas(self, *, sigma: float, n: int) -> tuple[float, ...]:
        """Gamma of each stage.

        Parameters
        ----------
        sigma : float
            Standard deviation of the noise.
        n : int
            Entries of a sample.
        """
        last = self.gamma_min if self.gamma_min is not None else 0.8 * sigma * math.sqrt(n)
        return tuple(last * 2.0**k for k in range(self.stages - 1, -1, -1))

    def at(self, step: int, *, sigma: float, n: int) -> Stage:
        """Loss and learning rate of step `step`, counted from 0; the last stage goes on."""
        if step < self.pretrain_steps or not self.steps:
            return Stage(None, self.lr_pretrain)
        k = (step - self.pretrain_steps) * self.stages // self.steps
        return Stage(self.gammas(sigma=sigma, n=n)[min(k, self.stages - 1)], self.lr)


# -- registry ------------------------------------------------------------------------------------


def build_lpn(
    spec: DenoisingSpec,
    *,
    arch: Literal["auto", "mlp", "conv", "patch"] = "auto",
    hidden: int = 64,
    layers: int = 3,
    beta: float = 10.0,
    alpha: float = 0.01,
    positivity: Literal["clip", "softplus"] = "clip",
    init: Literal["exp_normal", "uniform", "balanced"] = "balanced",
    strides: list[int] | None = None,
    kernel_size: int = 3,
    skip_kernel: int = 3,
    dense: int = 0,
    patch: int = 8,
    stride: int = 4,
    tiling: Literal["auto", "zeros", "periodic"] = "auto",
) -> LPN:
    """Build an `LPN` for the fields of a dataset; `arch` "auto": convolutions on 16 or more points.

    The options are those of `LPN`. Fields that are periodic along all axes are tiled so.
    """
    space = spec.shape[1:]
    if arch == "auto":
        arch = "conv" if space and min(space) >= 16 else "mlp"
    if tiling == "auto":
        tiling = "periodic" if space and all(spec.periodic) else "zeros"
    model = LPN(
        spec.shape, hidden=hidden, layers=layers, beta=beta, alpha=alpha, arch=arch,
        positivity=positivity, init=init, strides=strides, kernel_size=kernel_size,
        skip_kernel=skip_kernel, dense=dense, patch=patch, stride=stride, tiling=tiling,
    )  # fmt: skip
    model.resolved_options = {"arch": arch, "tiling": tiling}  # type: ignore[assignment]
    return model
