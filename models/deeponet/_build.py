"""The models for a dataset, from the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..spec import PointsSpec
from ._coordinates import FourierFeatures, PeriodicFeatures, ZeroOnSides
from ._models import FNN, DeepONet, Merge, MIONet, ModifiedDeepONet, MultiOutput
from ._nets import MLP, CNNBranch
from ._pod import PODDeepONet

Activation = Literal["relu", "gelu", "silu", "tanh", "sin", "elu"]
Initializer = Literal["glorot_normal", "glorot_uniform", "he_normal", "he_uniform"]


def _features(spec: PointsSpec, n_periodic: int, n_fourier: int, scale: float) -> nn.Module | None:
    """Trunk features: periodic coordinates by themselves, random frequencies if asked."""
    dims = [k for k, p in enumerate(spec.periodic) if p]
    parts: list[nn.Module] = []
    if dims:
        periods = [spec.bounds[k][1] - spec.bounds[k][0] for k in dims]
        parts.append(PeriodicFeatures(dims, periods, n_periodic))
    if n_fourier:
        if dims:
            raise ValueError(
                f"n_fourier={n_fourier}: this data has periodic coordinates, whose features would "
                "lose their period; use n_periodic"
            )
        parts.append(FourierFeatures(spec.trunk_in, n_fourier, scale=scale))
    return parts[0] if parts else None


def _transform(spec: PointsSpec, hard: str) -> ZeroOnSides | None:
    """Hard conditions where the data has them."""
    if hard == "none" or not any(a or b for a, b in spec.fixed):
        return None
    return ZeroOnSides(spec.bounds, spec.fixed, out_channels=spec.out_channels)


def _latent(latent: int | None, spec: PointsSpec, multi_output: str = "split_both") -> int:
    if latent is not None:
        return latent
    c = spec.out_channels if multi_output == "split_both" else 1
    return -(-100 // c) * c


def _branches(
    spec: PointsSpec,
    branch: str,
    width: int,
    layers: Sequence[int],
    channels: Sequence[int],
    kernel: int,
    activation: str,
) -> list[nn.Module] | None:
    """Convolutional branches for fields on grids; None for the model's own."""
    on_grid = [len(f.shape) > 1 and min(f.shape) >= 8 for f in spec.functions]
    if branch == "mlp" or (branch == "auto" and not any(on_grid)):
        return None
    if branch == "cnn" and not any(f.shape for f in spec.functions):
        raise ValueError("branch='cnn': the inputs of this data are no functions on a grid")
    nets: list[nn.Module] = []
    for f, is_field in zip(spec.functions, on_grid, strict=True):
        if is_field or (branch == "cnn" and f.shape):
            nets.append(
                CNNBranch(
                    f.channels,
                    f.shape,
                    width,
                    channels=channels,
                    kernel=kernel,
                    layers=layers,
                    activation=activation,
                )
            )
        else:
            nets.append(MLP((f.size, *layers, width), activation))
    return nets


def _resolved(module: Any, **options: Any) -> Any:
    module.resolved_options = options
    return module


def build_deeponet(
    spec: PointsSpec,
    *,
    latent: int | None = None,
    branch_layers: list[int] = [128, 128],  # noqa: B006  read only
    trunk_layers: list[int] = [128, 128],  # noqa: B006
    activation: Activation = "gelu",
    stacked: bool = False,
    bias: bool = True,
    multi_output: MultiOutput = "split_both",
    merge: Merge = "join",
    branch: Literal["auto", "mlp", "cnn"] = "auto",
    branch_channels: list[int] = [32, 64],  # noqa: B006
    branch_kernel: int = 5,
    n_periodic: int = 2,
    n_fourier: int = 0,
    fourier_scale: float = 1.0,
    hard: Literal["auto", "none"] = "auto",
    initializer: Initializer = "glorot_normal",
) -> DeepONet:
    """DeepONet for a dataset; see `DeepONet`.

    Periodic coordinates get periodic features, and sides where the data states one value get it
    exactly (``hard="none"``: learned). A field on a grid of two or three axes gets a convolutional
    branch, all else a fully connected one.
    """
    p = _latent(latent, spec, multi_output)
    c = spec.out_channels
    width = p * c if multi_output == "split_branch" and c > 1 else p
    nets = None
    if multi_output != "independent" and not stacked:
        nets = _branches(
            spec, branch, width, branch_layers, branch_channels, branch_kernel, activation
        )
    elif branch == "cnn":
        raise ValueError("branch='cnn': not with stacked=true or multi_output='independent'")
    if nets is not None and len(nets) > 1 and merge == "join":
        merge = "mul"  # nets of different kinds see their inputs apart
    model = DeepONet(
        [f.size for f in spec.functions],
        spec.trunk_in,
        p,
        branch_layers,
        trunk_layers,
        activation,
        branch=nets,
        stacked=stacked,
        bias=bias,
        out_channels=c,
        multi_output=multi_output,
        merge=merge,
        trunk_features=_features(spec, n_periodic, n_fourier, fourier_scale),
        output_transform=_transform(spec, hard),
        initializer=initializer,
    )
    return _resolved(model, latent=p, merge=merge)  # type: ignore[no-any-return]


def build_mionet(
    spec: PointsSpec,
    *,
    latent: int | None = None,
    branch_layers: list[int] = [128, 128],  # noqa: B006
    trunk_layers: list[int] = [128, 128],  # noqa: B006
    activation: Activation = "gelu",
    multi_output: MultiOutput = "split_both",
    merge: Literal["mul", "add", "cat"] = "mul",
    branch: Literal["auto", "mlp", "cnn"] = "auto",
    branch_channels: list[int] = [32, 64],  # noqa: B006
    branch_kernel: int = 5,
    n_periodic: int = 2,
    n_fourier: int = 0,
    fourier_scale: float = 1.0,
    hard: Literal["auto", "none"] = "auto",
    initializer: Initializer = "glorot_normal",
) -> MIONet:
    """MIONet for a dataset of two or more inputs; see `MIONet`, `build_deeponet`."""
    p = _latent(latent, spec, multi_output)
    c = spec.out_channels
    if len(spec.functions) < 2:
        raise ValueError(
            f"mionet needs two or more inputs, this data has {spec.functions[0].name!r} alone; "
            "use deeponet"
        )
    nets = None
    if multi_output != "independent":
        width = p * c if multi_output == "split_branch" and c > 1 else p
        nets = _branches(
            spec, branch, width, branch_layers, branch_channels, branch_kernel, activation
        )
    model = MIONet(
        [f.size for f in spec.functions],
        spec.trunk_in,
        p,
        branch_layers,
        trunk_layers,
        activation,
        branch=nets,
        out_channels=c,
        multi_output=multi_output,
        merge=merge,
        trunk_features=_features(spec, n_periodic, n_fourier, fourier_scale),
        output_transform=_transform(spec, hard),
        initializer=initializer,
    )
    return _resolved(model, latent=p)  # type: ignore[no-any-return]


def build_modified_deeponet(
    spec: PointsSpec,
    *,
    latent: int | None = None,
    layers: list[int] = [128, 128, 128],  # noqa: B006
    activation: Activation = "tanh",
    bias: bool = True,
    n_periodic: int = 2,
    n_fourier: int = 0,
    fourier_scale: float = 1.0,
    hard: Literal["auto", "none"] = "auto",
    initializer: Initializer = "glorot_normal",
) -> ModifiedDeepONet:
    """Build a modified DeepONet for a dataset; see `ModifiedDeepONet`."""
    p = _latent(latent, spec)
    model = ModifiedDeepONet(
        [f.size for f in spec.functions],
        spec.trunk_in,
        p,
        layers,
        activation,
        bias=bias,
        out_channels=spec.out_channels,
        trunk_features=_features(spec, n_periodic, n_fourier, fourier_scale),
        output_transform=_transform(spec, hard),
        initializer=initializer,
    )
    return _resolved(model, latent=p)  # type: ignore[no-any-return]


def build_pod_deeponet(
    spec: PointsSpec,
    *,
    modes: int = 32,
    branch_layers: list[int] = [128, 128],  # noqa: B006
    trunk_layers: list[int] | None = None,
    latent: int = 32,
    activation: Activation = "gelu",
    merge: Merge = "join",
    branch: Literal["auto", "mlp", "cnn"] = "auto",
    branch_channels: list[int] = [32, 64],  # noqa: B006
    branch_kernel: int = 5,
    initializer: Initializer = "glorot_normal",
) -> PODDeepONet:
    """POD-DeepONet for a dataset; the task sets its basis from the training samples.

    Until then mean and modes are zero.
    """
    if not spec.n_points:
        raise ValueError(
            "pod_deeponet needs outputs at the same points in all samples; this data has points of "
            "its own in each, use deeponet"
        )
    c = spec.out_channels
    shape = (spec.n_points,) if c == 1 else (spec.n_points, c)
    width = modes + (0 if trunk_layers is None else latent * c)
    nets = _branches(spec, branch, width, branch_layers, branch_channels, branch_kernel, activation)
    if nets is not None and len(nets) > 1 and merge == "join":
        merge = "mul"
    model = PODDeepONet(
        torch.zeros(*shape, modes),
        torch.zeros(shape),
        [f.size for f in spec.functions],
        branch_layers,
        activation,
        points=torch.zeros(spec.n_points, spec.trunk_in),
        trunk_layers=trunk_layers,
        latent=latent,
        branch=nets,
        merge=merge,
        initializer=initializer,
    )
    return _resolved(model, merge=merge)  # type: ignore[no-any-return]


def build_fnn(
    spec: PointsSpec,
    *,
    layers: list[int] = [128, 128, 128],  # noqa: B006
    activation: Activation = "gelu",
    n_periodic: int = 2,
    n_fourier: int = 0,
    fourier_scale: float = 1.0,
    hard: Literal["auto", "none"] = "auto",
    initializer: Initializer = "glorot_normal",
) -> FNN:
    """Fully connected baseline for a dataset; see `FNN`."""
    return FNN(
        [f.size for f in spec.functions],
        spec.trunk_in,
        layers,
        activation,
        out_channels=spec.out_channels,
        trunk_features=_features(spec, n_periodic, n_fourier, fourier_scale),
        output_transform=_transform(spec, hard),
        initializer=initializer,
    )
