"""The commands as Python functions: the same names, keyword arguments for options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from .config import resolve
from .progress import Progress

__all__ = [  # noqa: F822 - made on first use
    "adapt", "compare", "evaluate", "fit", "generate", "invert", "predict", "repair", "verify",
]  # fmt: skip


def run_generate(settings: Any, *, progress: bool = True, command: str | None = None) -> Any:
    """Generate with a progress bar on stderr; ``GenerateResult``."""
    from pde_data.generate import ProgressEvent, generate

    if not progress:
        return generate(settings, command=command)
    with Progress(f"generating {settings.problem}", unit="samples") as bar:

        def show(event: ProgressEvent) -> None:
            note = f"{event.failed} failed" if event.failed else ""
            bar.update(event.done, event.total, note)

        return generate(settings, progress=show, command=command)


def run_fit(settings: Any, *, progress: bool = True) -> Any:
    """Fit with a progress bar on stderr; the `Operator`."""
    from .fit import fit

    if not progress:
        return fit(settings)
    with Progress(f"training {settings.model}", unit="steps") as bar:
        return fit(settings, progress=bar.update)


def run_evaluate(settings: Any, *, progress: bool = True) -> Any:
    """Evaluate with a progress bar on stderr; ``metrics.json`` as a dict."""
    from .evaluate import evaluate

    if not progress:
        return evaluate(settings)
    with Progress("evaluating", unit="samples") as bar:
        return evaluate(settings, progress=bar.update)


def run_predict(settings: Any, *, progress: bool = True) -> Any:
    """Predict with a progress bar on stderr; the file."""
    from .predict import predict

    if not progress:
        return predict(settings)
    with Progress("predicting", unit="samples") as bar:
        return predict(settings, progress=bar.update)


def run_adapt(settings: Any, *, progress: bool = True) -> Any:
    """Adapt with a progress bar on stderr; the `Operator`."""
    from .adapt import adapt

    if not progress:
        return adapt(settings)
    with Progress("adapting", unit="steps") as bar:
        return adapt(settings, progress=bar.update)


def run_invert(settings: Any, *, progress: bool = True) -> Any:
    """Reconstruct with a progress bar on stderr; `opkit.inverse.Inversion`."""
    from .inverse.reconstruct import invert

    if not progress:
        return invert(settings)
    with Progress("reconstructing", unit="samples") as bar:
        return invert(settings, progress=bar.update)


def run_compare(settings: Any, *, progress: bool = True) -> Any:
    """Compare with a progress bar on stderr; ``comparison.json`` as a dict."""
    from .compare import compare

    if not progress:
        return compare(settings)
    with Progress("comparing", unit="%") as bar:
        return compare(settings, progress=bar.update)


def verify(
    problem: str,
    resolution: int | tuple[int, ...] | None = None,
    *,
    seed: int = 0,
    **params: Any,
) -> list[Any]:
    """Check a problem's solvers, as ``opkit verify`` does.

    Parameters
    ----------
    problem : str
        Name in the registry.
    resolution : int or tuple of int, optional
        Default: the problem's cheap setting.
    seed : int
        Of the samples.
    **params
        Parameters of the problem.

    Returns
    -------
    list of pde_data.verification.Check

    Raises
    ------
    UnknownNameError, ProblemError
    """
    from pde_data.problem import problem_class
    from pde_data.verification import quick_problem
    from pde_data.verification import verify as checks_of

    made = quick_problem(problem_class(problem), **params)
    return list(checks_of(made, resolution, seed=seed))


def repair(directory: str | Path, *, progress: bool = True) -> list[dict[str, Any]]:
    """Make damaged and missing shards of a generated dataset again, bit for bit.

    Parameters
    ----------
    directory : path
    progress : bool
        Show progress on stderr.

    Returns
    -------
    list of dict
        ``split``, ``shard`` and ``reason`` of each shard that was made again.

    Raises
    ------
    DatasetError
        Imported data, whose source alone can repair it, or no sound shard to take the
        settings from.
    """
    from pde_data.generate import GenerateConfig, stored_settings
    from pde_data.hdf5 import DatasetError, find_damaged

    root = Path(directory)
    damaged = find_damaged(root)
    if not damaged:
        return []
    stored = stored_settings(root)
    if "imported_from" in stored["set"]:
        raise DatasetError(
            f"{root}: imported from {stored['set']['imported_from']}; import it anew"
        )
    settings = resolve(
        GenerateConfig, {**stored, "out": root, "repair": True}, config=None, what="opkit.repair",
        aliases=ALIASES["generate"],
    )  # fmt: skip
    run_generate(settings, progress=progress)
    return [{"split": d.split, "shard": d.shard, "reason": d.reason} for d in damaged]


#: Function -> module, settings, how it is run, positional arguments.
_COMMANDS: dict[str, tuple[str, str, Callable[..., Any], tuple[str, ...]]] = {
    "generate": ("pde_data.generate", "GenerateConfig", run_generate, ("problem",)),
    "fit": ("opkit.fit", "FitConfig", run_fit, ("data",)),
    "evaluate": ("opkit.evaluate", "EvaluateConfig", run_evaluate, ("run", "data")),
    "predict": ("opkit.predict", "PredictConfig", run_predict, ("run", "data")),
    "compare": ("opkit.compare", "CompareConfig", run_compare, ("data", "models")),
    "adapt": ("opkit.adapt", "AdaptConfig", run_adapt, ("run", "data")),
    "invert": ("opkit.inverse.reconstruct", "InvertConfig", run_invert, ("measurements", "run")),
}
#: Names of the command line that the settings call otherwise.
ALIASES = {
    "generate": {"set": "params"},
    "fit": {"set": "options"},
    "invert": {"set": "params"},
    "compare": {"set": "options"},
}


def __getattr__(name: str) -> Any:
    if name not in _COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = function = _function(name)
    return function


def _function(name: str) -> Callable[..., Any]:
    module, settings, run, positional = _COMMANDS[name]
    model = getattr(import_module(module), settings)

    def function(*args: Any, config: Any = None, progress: bool = True, **options: Any) -> Any:
        if len(args) > len(positional):
            raise TypeError(f"opkit.{name} takes {len(positional)} positional arguments")
        for key, value in zip(positional, args, strict=False):
            if key in options:
                raise TypeError(f"opkit.{name}: {key} is given twice")
            options[key] = value
        resolved = resolve(
            model, options, config=config, what=f"opkit.{name}", aliases=ALIASES.get(name)
        )
        return run(resolved, progress=progress)

    _describe(
        function, name, model, positional, inspect.getdoc(getattr(import_module(module), name))
    )
    return function


def _describe(
    function: Any, name: str, model: Any, positional: tuple[str, ...], doc: str | None
) -> None:
    """Give `function` the name, signature and documentation that the settings imply."""
    parameter = inspect.Parameter
    parameters = []
    lines = []
    for key, f in model.model_fields.items():
        kind = parameter.POSITIONAL_OR_KEYWORD if key in positional else parameter.KEYWORD_ONLY
        default = parameter.empty if f.is_required() else f.get_default(call_default_factory=True)
        parameters.append(parameter(key, kind, default=default))
        tail = "" if f.is_required() else f", default {default!r}"
        lines += [
            f"{key} : {_type_name(f.annotation)}{tail}",
            f"    {_escaped(f.description or '')}",
        ]
    parameters += [
        parameter("config", parameter.KEYWORD_ONLY, default=None),
        parameter("progress", parameter.KEYWORD_ONLY, default=True),
    ]
    lines += [
        "config : path, optional",
        "    YAML file with the same names; arguments win.",
        "progress : bool, default True",
        "    Show progress on stderr.",
    ]
    parameters.sort(key=lambda p: p.kind)
    summary, _, rest = (doc or "").partition("\n\n")
    after = rest[rest.index("Returns\n") :] if "Returns\n" in rest else ""
    text = "\n".join(["Parameters", "----------", *lines])
    function.__doc__ = f"{summary}\n\n{text}\n\n{after}".rstrip() + "\n"
    function.__name__ = function.__qualname__ = name
    function.__module__ = "opkit"
    function.__signature__ = inspect.Signature(parameters)


def _escaped(text: str) -> str:
    """Keep reStructuredText from reading a star as emphasis."""
    return text.replace("*", r"\*")


def _type_name(annotation: Any) -> str:
    """Name a type as numpydoc does: ``int, optional``, ``{'l2', 'h1'}``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(args[0])
    if origin is Literal:
        return "{" + ", ".join(map(repr, args)) + "}"
    if origin in (Union, UnionType):
        return " or ".join(_type_name(a) for a in args)
    if annotation is NoneType:
        return "None"
    if origin is not None:
        inner = [_type_name(a) for a in args if a is not Ellipsis]
        return f"{origin.__name__} of {' to '.join(inner)}"
    return "path" if annotation is Path else str(annotation.__name__)
