"""DeepONet, MIONet, modified DeepONet, and the baseline without branch and trunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solvers.names import check_name

from ._nets import MLP, StackedMLP, activation_of, check_sizes, linear

__all__ = ["FNN", "DeepONet", "MIONet", "ModifiedDeepONet"]

MultiOutput = Literal["independent", "split_both", "split_branch", "split_trunk"]
Merge = Literal["mul", "add", "cat", "join"]
Functions = Tensor | tuple[Tensor, ...] | list[Tensor]
#: ``(u, y, s) -> s``.
Transform = Callable[[Functions, Tensor, Tensor], Tensor]


class OperatorNet(nn.Module):
    """Checks and shapes that all models here share."""

    branch_in: tuple[int, ...]
    trunk_in: int
    out_channels: int
    output_transform: Any
    #: Whether to look for sensors that are not finite; a training loop that watches its loss may
    #: save the time.
    check_finite = True

    def _functions(self, u: Functions) -> tuple[Tensor, ...]:
        """Check the inputs and return them as a tuple."""
        us = tuple(u) if isinstance(u, tuple | list) else (u,)
        if len(us) != len(self.branch_in):
            raise ValueError(
                f"u has {len(us)} input functions, expected {len(self.branch_in)}: the model was "
                f"built with branch_in={list(self.branch_in)}"
            )
        for k, (x, m) in enumerate(zip(us, self.branch_in, strict=True)):
            name = "u" if len(us) == 1 else f"u[{k}]"
            if x.ndim < 2 or math.prod(x.shape[1:]) != m:
                raise ValueError(
                    f"{name} has shape {tuple(x.shape)}, expected (batch, {m}): the model was "
                    f"built with branch_in={m} sensors"
                )
            if len(x) != len(us[0]):
                raise ValueError(f"{name} has {len(x)} functions, u[0] has {len(us[0])}")
        if self.check_finite and not torch.compiler.is_compiling():
            self._refuse_not_finite(us)
        return us

    @staticmethod
    def _refuse_not_finite(us: tuple[Tensor, ...]) -> None:
        for k, x in enumerate(us):
            try:  # of all numbers at once: their sum; where it is none, look closer
                fine = bool(torch.isfinite(x.detach().sum())) or bool(torch.isfinite(x).all())
            except RuntimeError:  # under vmap, where no branch may depend on values
                return
            if not fine:
                bad = int((~torch.isfinite(x)).sum())
                name = "u" if len(us) == 1 else f"u[{k}]"
                raise ValueError(f"{name}: {bad} sensor values are not finite")

    def _check_points(self, y: Tensor, ndim: tuple[int, ...], n_functions: int) -> None:
        if y.ndim not in ndim or y.shape[-1] != self.trunk_in:
            shapes = {2: "(N, {d})", 3: "({b}, N, {d})"} if 3 in ndim else {2: "({b}, {d})"}
            allowed = " or ".join(shapes[k] for k in ndim)
            allowed = allowed.format(d=self.trunk_in, b=n_functions)
            raise ValueError(
                f"y has shape {tuple(y.shape)}, expected {allowed}: the model was built with "
                f"trunk_in={self.trunk_in} coordinates"
            )
        if (y.ndim == 3 or ndim == (2,)) and len(y) != n_functions:
            raise ValueError(f"y has points of {len(y)} functions, u has {n_functions} functions")

    def _feature_width(self, features: nn.Module | None) -> int:
        """Count the inputs of the trunk."""
        if features is None:
            return self.trunk_in
        if hasattr(features, "width"):
            return int(features.width(self.trunk_in))  # type: ignore[operator]
        with torch.no_grad():
            return int(features(torch.zeros(1, self.trunk_in)).shape[-1])

    def _finish(self, u: Functions, y: Tensor, s: Tensor) -> Tensor:
        return s if self.output_transform is None else self.output_transform(u, y, s)


class DeepONet(OperatorNet):
    """Branch and trunk, and their inner product.

    Parameters
    ----------
    branch_in : int or sequence of int
        Sensors of the input function, or of each of several.
    trunk_in : int
        Coordinates of a point.
    latent : int
        Terms p of the inner product.
    branch_layers, trunk_layers : sequence of int
        Hidden layers. The branch ends with a linear layer; the trunk has the activation after its
        last layer too.
    activation : str
        relu, gelu, silu, tanh, sin or elu.
    branch : nn.Module or sequence of nn.Module, optional
        Instead of MLPs: ``(B, ...)`` to ``(B, width)``.
    trunk : nn.Module, optional
        Instead of an MLP: ``(..., features)`` to ``(..., width)``.
    stacked : bool
        A net of its own for each term of the branch.
    bias : bool
        Add a trainable number to each output; starts at 0.
    out_channels : int
        Outputs C.
    multi_output : {"split_both", "independent", "split_branch", "split_trunk"}
        How C outputs share the nets: both nets are cut into C groups of ``latent / C``; C models;
        the branch is C times as wide and the trunk shared; or the other way round.
    merge : {"mul", "add", "cat", "join"}
        Of several branches: product or sum of their outputs, a linear layer on all of them behind
        an activation, or one branch net that sees all input functions side by side.
    trunk_features : nn.Module, optional
        Applied to the points first: `PeriodicFeatures`, `FourierFeatures`, ...; has ``width(d)``.
    output_transform : callable, optional
        ``(u, y, s) -> s``, applied last; hard conditions, such as `ZeroOnSides`.
    initializer : str
        glorot_normal, glorot_uniform, he_normal or he_uniform; biases start at 0.

    Raises
    ------
    ValueError
        Widths that do not fit; the message names them.

    References
    ----------
    .. [1] Lu et al., Nature Machine Intelligence 3 (2021) 218-229, arXiv:1910.03193.
    .. [2] Lu et al., CMAME 393 (2022) 114778, section 3.1 (features, several outputs).
    .. [3] Jin, Meng, Lu, MIONet, SIAM J. Sci. Comput. 44 (2022) A3490-A3514.

    Examples
    --------
    >>> model = DeepONet(100, 2)
    >>> model(torch.zeros(8, 100), torch.rand(50, 2)).shape
    torch.Size([8, 50])
    """

    def __init__(
        self,
        branch_in: int | Sequence[int],
        trunk_in: int,
        latent: int = 100,
        branch_layers: Sequence[int] = (128, 128),
        trunk_layers: Sequence[int] = (128, 128),
        activation: str = "relu",
        *,
        branch: nn.Module | Sequence[nn.Module] | None = None,
        trunk: nn.Module | None = None,
        stacked: bool = False,
        bias: bool = True,
        out_channels: int = 1,
        multi_output: MultiOutput = "split_both",
        merge: Merge = "mul",
        trunk_features: nn.Module | None = None,
        output_transform: Transform | None = None,
        initializer: str = "glorot_normal",
    ) -> None:
        super().__init__()
        sizes = (branch_in,) if isinstance(branch_in, int) else tuple(branch_in)
        self.branch_in = check_sizes("branch_in", sizes)
        (self.trunk_in,) = check_sizes("trunk_in", (trunk_in,))
        (self.out_channels,) = check_sizes("out_channels", (out_channels,))
        (self.latent,) = check_sizes("latent", (latent,))
        check_name(
            "multi_output",
            multi_output,
            ["independent", "split_both", "split_branch", "split_trunk"],
        )
        check_name("merge", merge, ["mul", "add", "cat", "join"])
        self.multi_output, self.merge = multi_output, merge
        c = out_channels
        if c == 1:
            groups, widths = 1, (latent, latent)
        elif multi_output == "split_both":
            if latent % c:
                raise ValueError(
                    f"latent={latent} is not divisible by out_channels={c}, which "
                    "multi_output='split_both' needs"
                )
            groups, widths = 1, (latent, latent)
        elif multi_output == "independent":
            groups, widths = c, (latent, latent)
        else:
            wide = multi_output == "split_branch"
            groups, widths = 1, (latent * c, latent) if wide else (latent, latent * c)
        self.groups, self.widths = groups, widths
        self.trunk_features = trunk_features
        features = self._feature_width(trunk_features)

        def make_branches() -> nn.ModuleList:
            if branch is not None:
                given = [branch] if isinstance(branch, nn.Module) else list(branch)
                if len(given) != len(self.branch_in):
                    raise ValueError(
                        f"branch has {len(given)} nets, branch_in={list(self.branch_in)} names "
                        f"{len(self.branch_in)} input functions"
                    )
                return nn.ModuleList(given)
            sizes = (sum(self.branch_in),) if merge == "join" else self.branch_in
            if stacked:
                return nn.ModuleList(
                    StackedMLP(widths[0], (m, *branch_layers), activation, initializer=initializer)
                    for m in sizes
                )
            return nn.ModuleList(
                MLP((m, *branch_layers, widths[0]), activation, initializer=initializer)
                for m in sizes
            )

        if groups > 1 and (branch is not None or trunk is not None):
            raise ValueError(
                "multi_output='independent' needs nets of its own for each output: leave out "
                "branch and trunk, or make one model an output"
            )
        self.branches = nn.ModuleList(make_branches() for _ in range(groups))
        self.mergers = nn.ModuleList()
        if merge == "cat" and len(self.branch_in) > 1:
            width = widths[0] * len(self.branch_in)
            self.mergers = nn.ModuleList(
                nn.Sequential(activation_of(activation), linear(width, widths[0], initializer))
                for _ in range(groups)
            )
        self.trunks = nn.ModuleList(
            trunk
            if trunk is not None
            else MLP(
                (features, *trunk_layers, widths[1]),
                activation,
                last=True,
                initializer=initializer,
            )
            for _ in range(groups)
        )
        self.bias = nn.Parameter(torch.zeros(c)) if bias else None
        self.output_transform = output_transform

    # -- parts -----------------------------------------------------------------------------

    def branch_outputs(self, u: Functions) -> Tensor:
        """Coefficients of the terms.

        Returns
        -------
        Tensor, shape (B, c, q)
            c is the number of outputs, or 1 where they share them.
        """
        shared = self.multi_output == "split_trunk" or self.out_channels == 1
        return self._grouped(self._branch(u), shared)

    def _branch(self, u: Functions) -> list[Tensor]:
        """Evaluate the branches, (B, width) for each group."""
        us = self._functions(u)
        if self.merge == "join" and len(us) > 1:
            us = (torch.cat([x.flatten(1) for x in us], dim=1),)
        out = []
        for g in range(self.groups):
            nets: Any = self.branches[g]
            parts = [net(x) for net, x in zip(nets, us, strict=True)]
            for part in parts:
                if part.ndim != 2 or part.shape[1] != self.widths[0]:
                    raise ValueError(
                        f"branch: gives shape {tuple(part.shape)}, the model needs "
                        f"(batch, {self.widths[0]})"
                    )
            b = parts[0]
            if self.mergers:
                b = self.mergers[g](torch.cat(parts, dim=1))
            else:
                for part in parts[1:]:
                    b = b + part if self.merge == "add" else b * part
            out.append(b)
        return out

    def trunk_outputs(self, y: Tensor) -> Tensor:
        """Values of the terms at the points, shape (..., c, q)."""
        shared = self.multi_output == "split_branch" or self.out_channels == 1
        return self._grouped(self._trunk(y), shared)

    def _trunk(self, y: Tensor) -> list[Tensor]:
        """Evaluate the trunks, (..., width) for each group."""
        features = y if self.trunk_features is None else self.trunk_features(y)
        out = [trunk(features) for trunk in self.trunks]
        for t in out:
            if t.shape[:-1] != y.shape[:-1] or t.shape[-1] != self.widths[1]:
                raise ValueError(
                    f"trunk: gives shape {tuple(t.shape)} at points of shape {tuple(y.shape)}, "
                    f"the branch needs width {self.widths[1]}"
                )
        return out

    def _grouped(self, parts: list[Tensor], shared: bool) -> Tensor:
        if self.groups > 1:
            return torch.stack(parts, dim=-2)
        return parts[0].unflatten(-1, (1 if shared else self.out_channels, -1))

    # -- application -----------------------------------------------------------------------

    def forward(self, u: Functions, y: Tensor) -> Tensor:
        """Evaluate at points.

        Parameters
        ----------
        u : Tensor, shape (B, m), or tuple of such
            Sensor values; any shape behind B that a branch of your own takes.
        y : Tensor, shape (N, d) or (B, N, d)
            Points that all functions share, where the trunk is evaluated once; or each has its own.

        Returns
        -------
        Tensor, shape (B, N) or (B, N, C)
        """
        if self.out_channels == 1:  # without detours: small nets cost calls more than numbers
            (b,) = self._branch(u)
            self._check_points(y, (2, 3), len(b))
            (t,) = self._trunk(y)
            if y.ndim == 2:
                s = b @ t.mT if self.bias is None else torch.addmm(self.bias, b, t.mT)
                return self._finish(u, y, s)
            s = (t @ b.unsqueeze(-1)).squeeze(-1)
        else:
            b = self.branch_outputs(u)
            self._check_points(y, (2, 3), len(b))
            t = self.trunk_outputs(y)
            own = "b" if y.ndim == 3 else ""
            left = "bq" if b.shape[-2] == 1 else "bcq"
            right = f"{own}nq" if t.shape[-2] == 1 else f"{own}ncq"
            b = b.squeeze(-2) if b.shape[-2] == 1 else b
            t = t.squeeze(-2) if t.shape[-2] == 1 else t
            s = torch.einsum(f"{left},{right}->bnc", b, t)
        if self.bias is not None:
            s = s + self.bias
        return self._finish(u, y, s)

    def forward_pairs(self, u: Functions, y: Tensor) -> Tensor:
        """Each function at one point of its own.

        Parameters
        ----------
        u : Tensor, shape (B, m), or tuple of such
        y : Tensor, shape (B, d)

        Returns
        -------
        Tensor, shape (B,) or (B, C)
        """
        b = self.branch_outputs(u)
        self._check_points(y, (2,), len(b))
        s = (b * self.trunk_outputs(y)).sum(-1)
        if self.bias is not None:
            s = s + self.bias
        s = s.squeeze(-1) if self.out_channels == 1 else s
        return self._finish(u, y, s)

    def unstacked(self) -> DeepONet:
        """Turn stacked branches into block-diagonal weights of one branch; the same function."""
        import copy

        other = copy.deepcopy(self)
        for nets in other.branches:
            assert isinstance(nets, nn.ModuleList)
            for k, net in enumerate(nets):
                if isinstance(net, StackedMLP):
                    nets[k] = net.block_diagonal()
        return other


class MIONet(DeepONet):
    """DeepONet of several input functions, each with a branch of its own.

    Parameters
    ----------
    branch_in : sequence of int
        Sensors of each input function; two or more.
    trunk_in : int
    **others
        As for `DeepONet`.

    References
    ----------
    .. [1] Jin, Meng, Lu, MIONet, SIAM J. Sci. Comput. 44 (2022) A3490-A3514, arXiv:2202.06137.
    """

    def __init__(self, branch_in: Sequence[int], trunk_in: int, *args: Any, **others: Any) -> None:
        if isinstance(branch_in, int) or len(branch_in) < 2:
            raise ValueError(f"branch_in={branch_in}: MIONet needs two or more input functions")
        super().__init__(branch_in, trunk_in, *args, **others)


class ModifiedDeepONet(OperatorNet):
    """DeepONet whose hidden layers are mixed with encodings of the function and of the point.

    ``U = act(W_U u)``, ``V = act(W_V y)``; in both nets each hidden layer becomes
    ``(1 - Z) U + Z V`` with ``Z = act(W Z + b)``. Branch and trunk both depend on function and
    point, so that every pair costs as much as a new function.

    Parameters
    ----------
    branch_in : int or sequence of int
        Several input functions are seen side by side.
    trunk_in : int
    latent : int
    layers : sequence of int
        Hidden layers of both nets, all of one width.
    activation : str
    bias, out_channels, trunk_features, output_transform, initializer
        As for `DeepONet`; outputs share the latent terms out evenly.

    References
    ----------
    .. [1] Wang, Wang, Perdikaris, J. Sci. Comput. 92 (2022) 35, arXiv:2110.01654.
    """

    def __init__(
        self,
        branch_in: int | Sequence[int],
        trunk_in: int,
        latent: int = 100,
        layers: Sequence[int] = (128, 128, 128),
        activation: str = "tanh",
        *,
        bias: bool = True,
        out_channels: int = 1,
        trunk_features: nn.Module | None = None,
        output_transform: Transform | None = None,
        initializer: str = "glorot_normal",
    ) -> None:
        super().__init__()
        sizes = (branch_in,) if isinstance(branch_in, int) else tuple(branch_in)
        self.branch_in = check_sizes("branch_in", sizes)
        (self.trunk_in,) = check_sizes("trunk_in", (trunk_in,))
        (self.out_channels,) = check_sizes("out_channels", (out_channels,))
        layers = check_sizes("layers", layers)
        if not layers or len(set(layers)) != 1:
            raise ValueError(f"layers={layers}: need hidden layers of one width in both nets")
        if latent % out_channels:
            raise ValueError(f"latent={latent} is not divisible by out_channels={out_channels}")
        self.trunk_features, self.output_transform = trunk_features, output_transform
        m, h = sum(self.branch_in), layers[0]
        d = self._feature_width(trunk_features)
        self.encoders = nn.ModuleList((linear(m, h, initializer), linear(d, h, initializer)))
        self.nets = nn.ModuleList(
            nn.ModuleList(
                linear(a, b, initializer)
                for a, b in zip((n, *layers), (*layers, latent), strict=True)
            )
            for n in (m, d)
        )
        self.activation = activation_of(activation)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _terms(self, u: Functions, y: Tensor, ndim: tuple[int, ...]) -> Tensor:
        """Products summed over the terms, shape (B, [N], C)."""
        us = self._functions(u)
        x = torch.cat([v.flatten(1) for v in us], dim=1)
        self._check_points(y, ndim, len(x))
        if 3 in ndim:
            x = x.unsqueeze(1)
        z = y if self.trunk_features is None else self.trunk_features(y)
        act = self.activation
        first, second = act(self.encoders[0](x)), act(self.encoders[1](z))
        ends = []
        for net, start in zip(self.nets, (x, z), strict=True):
            value = start
            layers = list(net)  # type: ignore[call-overload]
            for layer in layers[:-1]:
                gate = act(layer(value))
                value = (1 - gate) * first + gate * second
            ends.append(layers[-1](value).unflatten(-1, (self.out_channels, -1)))
        s: Tensor = (ends[0] * ends[1]).sum(-1)
        return s if self.bias is None else s + self.bias

    def forward(self, u: Functions, y: Tensor) -> Tensor:
        """As `DeepONet.forward`."""
        s = self._terms(u, y, (2, 3))
        return self._finish(u, y, s.squeeze(-1) if self.out_channels == 1 else s)

    def forward_pairs(self, u: Functions, y: Tensor) -> Tensor:
        """As `DeepONet.forward_pairs`."""
        s = self._terms(u, y, (2,))
        return self._finish(u, y, s.squeeze(-1) if self.out_channels == 1 else s)


class FNN(OperatorNet):
    """Baseline: one fully connected net on ``[u, y]``.

    Parameters
    ----------
    branch_in : int or sequence of int
        Sensors; several input functions are seen side by side.
    trunk_in : int
    layers : sequence of int
        Hidden layers.
    activation : str
    out_channels, trunk_features, output_transform, initializer
        As for `DeepONet`.
    """

    def __init__(
        self,
        branch_in: int | Sequence[int],
        trunk_in: int,
        layers: Sequence[int] = (128, 128, 128),
        activation: str = "relu",
        *,
        out_channels: int = 1,
        trunk_features: nn.Module | None = None,
        output_transform: Transform | None = None,
        initializer: str = "glorot_normal",
    ) -> None:
        super().__init__()
        sizes = (branch_in,) if isinstance(branch_in, int) else tuple(branch_in)
        self.branch_in = check_sizes("branch_in", sizes)
        (self.trunk_in,) = check_sizes("trunk_in", (trunk_in,))
        (self.out_channels,) = check_sizes("out_channels", (out_channels,))
        layers = check_sizes("layers", layers)
        if not layers:
            raise ValueError("layers=(): need one hidden layer or more")
        self.trunk_features, self.output_transform = trunk_features, output_transform
        d = self._feature_width(trunk_features)
        self.first = linear(sum(self.branch_in) + d, layers[0], initializer)
        self.activation = activation_of(activation)
        self.rest = MLP((*layers, out_channels), activation, initializer=initializer)

    def _values(self, u: Functions, y: Tensor, ndim: tuple[int, ...]) -> Tensor:
        us = self._functions(u)
        x = torch.cat([v.flatten(1) for v in us], dim=1)
        self._check_points(y, ndim, len(x))
        z = y if self.trunk_features is None else self.trunk_features(y)
        # the first layer is linear: functions and points apart, then one sum a pair
        w_u, w_y = self.first.weight.split((x.shape[-1], z.shape[-1]), dim=1)
        left = nn.functional.linear(x, w_u, self.first.bias)
        right = nn.functional.linear(z, w_y)
        s: Tensor = self.rest(self.activation((left.unsqueeze(1) if 3 in ndim else left) + right))
        return s.squeeze(-1) if self.out_channels == 1 else s

    def forward(self, u: Functions, y: Tensor) -> Tensor:
        """As `DeepONet.forward`; every pair costs a pass."""
        return self._finish(u, y, self._values(u, y, (2, 3)))

    def forward_pairs(self, u: Functions, y: Tensor) -> Tensor:
        """As `DeepONet.forward_pairs`."""
        return self._finish(u, y, self._values(u, y, (2,)))
