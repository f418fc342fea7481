"""Fully connected, stacked and convolutional nets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from solvers.names import check_name

__all__ = ["MLP", "CNNBranch", "StackedMLP"]


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sin": _Sine,
    "elu": nn.ELU,
}
_INITIALIZERS = ("glorot_normal", "glorot_uniform", "he_normal", "he_uniform")


def activation_of(name: str) -> nn.Module:
    check_name("activation", name, list(_ACTIVATIONS))
    return _ACTIVATIONS[name]()


def _initialize(weight: Tensor, initializer: str, fan_in: int, fan_out: int) -> None:
    """Fill `weight` by the variance of `initializer`, whatever its shape."""
    check_name("initializer", initializer, _INITIALIZERS)
    kind, _, law = initializer.partition("_")
    variance = 2.0 / (fan_in + fan_out) if kind == "glorot" else 2.0 / fan_in
    with torch.no_grad():
        if law == "normal":
            weight.normal_(0.0, math.sqrt(variance))
        else:
            bound = math.sqrt(3.0 * variance)
            weight.uniform_(-bound, bound)


def linear(n_in: int, n_out: int, initializer: str) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    _initialize(layer.weight, initializer, n_in, n_out)
    nn.init.zeros_(layer.bias)
    return layer


def check_sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if any(isinstance(n, bool) or n != int(n) or n < 1 for n in sizes):
        raise ValueError(f"{name}={tuple(sizes)}: need integers >= 1")
    return tuple(int(n) for n in sizes)


class MLP(nn.Sequential):
    """Fully connected net.

    Parameters
    ----------
    sizes : sequence of int
        Width of the input, of the hidden layers and of the output.
    activation : str
        relu, gelu, silu, tanh, sin or elu.
    last : bool
        Apply the activation after the last layer too.
    initializer : str
        glorot_normal, glorot_uniform, he_normal or he_uniform; biases start at 0.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        *,
        last: bool = False,
        initializer: str = "glorot_normal",
    ) -> None:
        sizes = check_sizes("sizes", sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes={sizes}: need an input and an output width")
        layers: list[nn.Module] = []
        for k, (a, b) in enumerate(itertools.pairwise(sizes)):
            layers.append(linear(a, b, initializer))
            if last or k < len(sizes) - 2:
                layers.append(activation_of(activation))
        super().__init__(*layers)
        self.sizes = sizes


class StackedMLP(nn.Module):
    """`p` separate nets ``[m, ..., 1]`` side by side: the branch of the theorem.

    Parameters
    ----------
    p : int
        Nets, and outputs.
    sizes : sequence of int
        Width of the input and of the hidden layers of each net; the output is one number.
    """

    def __init__(
        self,
        p: int,
        sizes: Sequence[int],
        activation: str = "relu",
        *,
        initializer: str = "glorot_normal",
    ) -> None:
        super().__init__()
        self.sizes = (*check_sizes("sizes", sizes), 1)
        (self.p,) = check_sizes("latent", (p,))
        pairs = list(itertools.pairwise(self.sizes))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(p, a, b)) for a, b in pairs)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(p, 1, b)) for _, b in pairs)
        for weight, (a, b) in zip(self.weights, pairs, strict=True):
            _initialize(weight, initializer, a, b)
        self.activation = activation_of(activation)

    def forward(self, u: Tensor) -> Tensor:
        """(B, m) to (B, p)."""
        x = u.expand(self.p, *u.shape)
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if k < len(self.weights) - 1:
                x = self.activation(x)
        return x.squeeze(-1).mT

    def block_diagonal(self) -> MLP:
        """One unstacked net that computes the same, with block-diagonal weights."""
        sizes = [self.sizes[0], *(self.p * n for n in self.sizes[1:])]
        net = MLP(sizes).to(self.weights[0])
        layers = [m for m in net if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for k, (layer, w, b) in enumerate(zip(layers, self.weights, self.biases, strict=True)):
                blocks = w.mT
                if k:
                    layer.weight.copy_(torch.block_diag(*blocks))
                else:  # all see the same input
                    layer.weight.copy_(blocks.reshape(-1, self.sizes[0]))
                layer.bias.copy_(b.reshape(-1))
        for k, module in enumerate(net):
            if not isinstance(module, nn.Linear):
                net[k] = self.activation
        return net


class CNNBranch(nn.Module):
    """Branch for fields on a grid: strided convolutions, then a fully connected net.

    Parameters
    ----------
    in_channels : int
    shape : sequence of int
        Points per axis, one to three axes.
    latent : int
        Outputs.
    channels : sequence of int
        Of each convolution.
    kernel, stride : int
    layers : sequence of int
        Hidden layers of the net behind.

    References
    ----------
    .. [1] Lu et al., CMAME 393 (2022) 114778: conv 5x5, stride 2, for piecewise constant Darcy.
    """

    def __init__(
        self,
        in_channels: int,
        shape: Sequence[int],
        latent: int = 100,
        *,
        channels: Sequence[int] = (32, 64),
        kernel: int = 5,
        stride: int = 2,
        layers: Sequence[int] = (128,),
        activation: str = "relu",
        initializer: str = "glorot_normal",
    ) -> None:
        super().__init__()
        self.in_channels, self.shape = in_channels, check_sizes("shape", shape)
        if len(self.shape) not in (1, 2, 3):
            raise ValueError(f"shape={self.shape}: need one to three axes")
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(self.shape) - 1]
        parts: list[nn.Module] = []
        size, c = self.shape, in_channels
        for n in check_sizes("channels", channels):
            layer = conv(c, n, kernel, stride=stride, padding=kernel // 2)
            area = kernel ** len(size)
            _initialize(layer.weight, initializer, c * area, n * area)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            parts += [layer, activation_of(activation)]
            size = tuple((s + 2 * (kernel // 2) - kernel) // stride + 1 for s in size)
            c = n
        self.convolutions = nn.Sequential(*parts)
        self.net = MLP((c * math.prod(size), *layers, latent), activation, initializer=initializer)

    def forward(self, u: Tensor) -> Tensor:
        """(B, in_channels, *shape), or flattened (B, in_channels * points), to (B, latent)."""
        u = u.reshape(-1, self.in_channels, *self.shape)
        return self.net(self.convolutions(u).flatten(1))  # type: ignore[no-any-return]
