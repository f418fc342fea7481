"""The models by name; nothing heavy is imported until one is built."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from solvers.names import UnknownNameError, check_name, suggest

from .spec import ModelSpec

__all__ = [
    "ModelEntry",
    "build_model",
    "get_model",
    "list_models",
    "model_options",
    "register_model",
]


@dataclass(frozen=True)
class ModelEntry:
    """One registered model.

    Parameters
    ----------
    name, title : str
    task : str
        The `opkit.tasks` task it is trained by.
    factory : str
        ``"module:function"``. The function is called as ``factory(spec, **options)``, `spec` a
        `ModelSpec`, and returns the torch module; it completes the options from the spec and
        leaves what it has filled in as the module's dict `resolved_options`. Its keyword-only
        arguments with defaults are the options that ``--set`` may change.
    reference : str
        Paper.
    defaults : mapping
        Settings of the training (names of `opkit.fit.FitConfig`) where this model's differ.
    """

    name: str
    title: str
    task: str
    factory: str
    reference: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """Import and return the factory."""
        module, _, func = self.factory.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), func)
        return loaded


_MODELS: dict[str, ModelEntry] = {}


def register_model(entry: ModelEntry) -> ModelEntry:
    """Make a model known.

    Raises
    ------
    ValueError
        If another model has the name.
    """
    if _MODELS.get(entry.name, entry) != entry:
        raise ValueError(f"model {entry.name!r} is registered already")
    _MODELS[entry.name] = entry
    return entry


def list_models() -> dict[str, ModelEntry]:
    """All registered models by name."""
    return dict(sorted(_MODELS.items()))


def get_model(name: str) -> ModelEntry:
    """Return the entry called `name`.

    Raises
    ------
    UnknownNameError
    """
    check_name("model", name, sorted(_MODELS))
    return _MODELS[name]


def model_options(entry: ModelEntry) -> dict[str, tuple[Any, Any]]:
    """Options of a model: name to (type annotation, default), in the factory's order.

    Examples
    --------
    >>> model_options(get_model("fno"))["hidden_channels"]
    (<class 'int'>, 32)
    """
    factory = entry.load()
    hints = get_type_hints(factory)
    return {
        p.name: (hints.get(p.name, Any), p.default)
        for p in inspect.signature(factory).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def build_model(
    name: str, spec: ModelSpec, options: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Build a registered model.

    Parameters
    ----------
    name : str
    spec : ModelSpec
    options : mapping, optional
        Values for some of `model_options`, or strings from a command line: numbers,
        ``true``/``false``, ``none``, JSON lists.

    Returns
    -------
    module : torch.nn.Module
    resolved : dict
        Every option as plain JSON types; ``build_model(name, spec, resolved)`` builds the same
        module.

    Raises
    ------
    UnknownNameError
        Unknown model or option; suggests the nearest.
    ValueError
        A value of the wrong type, or one that the model refuses.
    """
    entry = get_model(name)
    known = model_options(entry)
    resolved = {key: default for key, (_, default) in known.items()}
    for key, value in (options or {}).items():
        if key not in known:
            raise UnknownNameError(
                f"{name} has no option {key!r}.{suggest(key, known)} Allowed: {', '.join(known)}."
            )
        try:
            resolved[key] = _convert(value, known[key][0])
        except (TypeError, ValueError):
            raise ValueError(
                f"{key}={value!r}: {name} needs {_describe(known[key][0])} here"
            ) from None
    module = entry.load()(spec, **resolved)
    resolved.update(getattr(module, "resolved_options", {}))
    return module, json.loads(json.dumps(resolved, allow_nan=False))


_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _convert(value: Any, kind: Any) -> Any:
    """Bring `value` to the annotated type; strings may come from a command line."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return _convert(value, option)
            except (TypeError, ValueError):
                continue
        raise ValueError
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        raise ValueError
    if kind in (None, type(None)):
        if value is None or str(value).lower() in ("none", "null"):
            return None
        raise ValueError
    if origin in (list, tuple):
        return _convert_sequence(value, origin, args)
    if kind is bool:
        text = str(value).lower() if isinstance(value, bool | str) else ""
        if text not in _TRUE + _FALSE:
            raise ValueError
        return text in _TRUE
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        number = kind(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    if kind is str and isinstance(value, str):
        return value
    raise ValueError


def _convert_sequence(value: Any, origin: type, args: tuple[Any, ...]) -> Any:
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text if text.startswith("[") else f"[{text}]")
    if not isinstance(value, list | tuple):
        raise ValueError
    if origin is tuple and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise ValueError
        return tuple(_convert(v, a) for v, a in zip(value, args, strict=True))
    return origin(_convert(v, args[0]) for v in value)


def _describe(kind: Any) -> str:
    """Name a type for a message."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (list, tuple):
        return f"a list of ({_describe(args[0])})"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return "none" if kind in (None, type(None)) else names.get(kind, str(kind))


register_model(
    ModelEntry(
        "mgno",
        "MgNO: linear maps are learned multigrid V-cycles",
        "grid",
        "models.mgno:build_mgno",
        "He, Liu, Xu, arXiv:2310.19809",
    )
)
register_model(
    ModelEntry(
        "fno",
        "FNO: Fourier neural operator (neuraloperator)",
        "grid",
        "models.baselines:build_fno",
        "Li et al., arXiv:2010.08895",
    )
)
register_model(
    ModelEntry(
        "tfno",
        "TFNO: Fourier neural operator with factorized weights (neuraloperator)",
        "grid",
        "models.baselines:build_tfno",
        "Kossaifi et al., arXiv:2310.00120",
    )
)
register_model(
    ModelEntry(
        "uno",
        "UNO: U-shaped Fourier neural operator (neuraloperator)",
        "grid",
        "models.baselines:build_uno",
        "Rahman, Ross, Azizzadenesheli, arXiv:2204.11127",
    )
)
register_model(
    ModelEntry(
        "unet",
        "U-Net: convolutions on a hierarchy of grids with skip connections",
        "grid",
        "models.baselines:build_unet",
        "Ronneberger, Fischer, Brox, arXiv:1505.04597",
    )
)
register_model(
    ModelEntry(
        "resnet",
        "ResNet: residual convolutions at full resolution",
        "grid",
        "models.baselines:build_resnet",
        "He et al., arXiv:1603.05027",
    )
)
register_model(
    ModelEntry(
        "dilresnet",
        "Dilated ResNet: residual blocks of dilated convolutions",
        "grid",
        "models.baselines:build_dilresnet",
        "Stachenfeld et al., arXiv:2112.15275",
    )
)
register_model(
    ModelEntry(
        "vit",
        "ViT: vision transformer on patches of the grid",
        "grid",
        "models.baselines:build_vit",
        "Dosovitskiy et al., arXiv:2010.11929",
    )
)
register_model(
    ModelEntry(
        "lpn",
        "LPN: learned proximal network, the gradient of a convex potential",
        "denoising",
        "models.lpn:build_lpn",
        "Fang, Buchanan, Sulam, arXiv:2310.14344",
        {"lr": 5e-3},
    )
)
register_model(
    ModelEntry(
        "dncnn",
        "DnCNN: residual convolutional denoiser without guarantees",
        "denoising",
        "models.denoisers:build_dncnn",
        "Zhang et al., arXiv:1608.03981",
        {"loss": "l2"},
    )
)
register_model(
    ModelEntry(
        "unet_denoiser",
        "Residual U-Net denoiser without guarantees",
        "denoising",
        "models.denoisers:build_unet_denoiser",
        "Ronneberger, Fischer, Brox, arXiv:1505.04597",
        {"loss": "l2"},
    )
)
register_model(
    ModelEntry(
        "deeponet",
        "DeepONet: branch and trunk, answers at any points",
        "points",
        "models.deeponet:build_deeponet",
        "Lu et al., Nature Machine Intelligence 3 (2021) 218-229, arXiv:1910.03193",
    )
)
register_model(
    ModelEntry(
        "mionet",
        "MIONet: DeepONet of several input functions",
        "points",
        "models.deeponet:build_mionet",
        "Jin, Meng, Lu, arXiv:2202.06137",
    )
)
register_model(
    ModelEntry(
        "modified_deeponet",
        "Modified DeepONet: layers mixed with encodings of function and point",
        "points",
        "models.deeponet:build_modified_deeponet",
        "Wang, Wang, Perdikaris, arXiv:2110.01654",
    )
)
register_model(
    ModelEntry(
        "pod_deeponet",
        "POD-DeepONet: the trunk is the modes of the training outputs",
        "points",
        "models.deeponet:build_pod_deeponet",
        "Lu et al., CMAME 393 (2022) 114778, arXiv:2111.05512",
    )
)
register_model(
    ModelEntry(
        "fnn",
        "FNN: one fully connected net on sensors and point, a baseline",
        "points",
        "models.deeponet:build_fnn",
        "Lu et al., Nature Machine Intelligence 3 (2021) 218-229",
    )
)
register_model(
    ModelEntry(
        "mixer",
        "MixER: families of dynamical systems by a sparse mixture of context-conditioned experts",
        "trajectories",
        "models.mixer:build_mixer",
        "Nzoyem et al., arXiv:2502.05335",
    )
)
register_model(
    ModelEntry(
        "operator_cnn",
        "Converted CNN: convolutions as integrals with kernels of fixed size",
        "grid",
        "models.nn_to_no.operators:build_cnn",
        "Berner et al., arXiv:2506.10973",
    )
)
register_model(
    ModelEntry(
        "operator_resnet",
        "Converted residual network",
        "grid",
        "models.nn_to_no.operators:build_resnet",
        "Berner et al., arXiv:2506.10973",
    )
)
register_model(
    ModelEntry(
        "operator_unet",
        "Converted U-Net",
        "grid",
        "models.nn_to_no.operators:build_unet",
        "Berner et al., arXiv:2506.10973",
    )
)
register_model(
    ModelEntry(
        "operator_vit",
        "Converted vision transformer: patches of fixed physical size",
        "grid",
        "models.nn_to_no.operators:build_vit",
        "Berner et al., arXiv:2506.10973",
    )
)
register_model(
    ModelEntry(
        "operator_transformer",
        "Transformer whose attention is an integral over the grid",
        "grid",
        "models.nn_to_no.operators:build_transformer",
        "Berner et al., arXiv:2506.10973",
    )
)
register_model(
    ModelEntry(
        "operator_mlp",
        "Converted dense network: integral transforms with interpolated kernels",
        "grid",
        "models.nn_to_no.operators:build_mlp",
        "Berner et al., arXiv:2506.10973",
    )
)
register_model(
    ModelEntry(
        "operator_gnn",
        "Graph operator: integrals over balls of fixed radius, on meshes",
        "mesh",
        "models.nn_to_no.operators:build_gnn",
        "Berner et al., arXiv:2506.10973",
    )
)
register_model(
    ModelEntry(
        "operator_mesh_transformer",
        "Transformer whose attention is an integral over the mesh",
        "mesh",
        "models.nn_to_no.operators:build_mesh_transformer",
        "Berner et al., arXiv:2506.10973",
    )
)
