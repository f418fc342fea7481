"""`compare`: several models on the same data with the same budget, over several seeds."""

from __future__ import annotations

import csv
import html
import io
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from solvers.names import check_name

from .errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .fit import FitConfig

__all__ = ["CompareConfig", "ComparisonFailed", "compare", "plot_error_size", "plot_error_time"]

#: Called as ``progress(done, in all, note)``, in percent.
Progress = Callable[[int, int, str], None]
#: Settings that may differ when a comparison goes on.
_FREE = ("data", "models", "seeds", "options", "out", "resume", "overwrite", "device")
#: Settings of `fit` that `compare` decides itself.
_OWN = ("data", "model", "out", "epochs", "max_seconds", "seed", "options", "resume", "overwrite")
#: Colors that people with color blindness tell apart (Okabe & Ito).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8a7a00")


class ComparisonFailed(RuntimeError):
    """No training of the comparison came to an end."""


class CompareConfig(BaseModel):
    """Settings of `compare`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="dataset with the splits train, valid and test")
    models: tuple[str, ...] = Field(description="names in the model registry")
    out: str = Field(description="directory to write")
    seeds: int = Field(3, ge=1, description="trainings of each model, with seeds 0, 1, ...")
    epochs: int | None = Field(None, ge=1, description="of every training; default 50")
    seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="train each for so long, not for epochs"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of models, by model.option or nested"
    )
    fit: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of fit for all models (lr), or for one (model.lr or nested)",
    )
    split: str = Field("test", description="which samples judge the models in the end")
    n_solve: int = Field(8, ge=1, description="samples solved to compare with the solver")
    device: str = Field("cpu", description="where the models run when they are judged")
    resume: bool = Field(False, description="go on with the comparison in `out`")
    overwrite: bool = Field(False, description="remove the comparison that is in `out`")

    @field_validator("data", "out", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, os.PathLike) else value

    @field_validator("models", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        parts = [value] if isinstance(value, str) else list(value)
        return tuple(
            name.strip() for part in parts for name in str(part).split(",") if name.strip()
        )

    @field_validator("models")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("models: need one name at least")
        twice = [m for m in value if value.count(m) > 1]
        if twice:
            raise ValueError(f"models: {twice[0]} is given twice")
        return value


def compare(config: CompareConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train several models on the same data with the same budget, and judge them on test.

    Every model is trained with the seeds 0, 1, ...; weights are chosen on valid alone. The test
    split is not opened before the last training has ended. Models that do not fit the data are
    refused before anything is trained; a training that diverges is told, and the others go on.

    Parameters
    ----------
    config : CompareConfig
    progress : callable, optional
        Called as ``progress(done, in all, note)``.

    Returns
    -------
    dict
        Content of ``comparison.json``: ``metric``, the error that ranks; ``models``, one entry a
        model, best first: ``n_parameters``, ``errors`` (metric -> mean, std, and the value of
        each seed), ``seconds`` of training, ``seconds_per_sample``, ``solver``, ``failed``;
        ``runs``, one entry a training. Beside it lie ``comparison.csv`` (one line a training),
        ``comparison.html``, the plots and the runs.

    Raises
    ------
    UsageError
        Unknown names, models that do not fit the data, settings of another comparison.
    FileExistsError
        `out` exists, and neither `resume` nor `overwrite` is set.
    ComparisonFailed
        All trainings diverged.
    KeyboardInterrupt
        All finished epochs are kept; ``resume`` goes on.
    """
    from pde_data.hdf5 import open_dataset

    if config.epochs is not None and config.seconds is not None:
        raise UsageError("epochs and seconds exclude each other")
    out = Path(config.out)
    _check_out(out, config)
    plans = _plans(config)
    _check_models(config, open_dataset(config.data), plans)
    _prepare(out, config)
    runs = [(m, seed) for seed in range(config.seeds) for m in config.models]
    failed: dict[tuple[str, int], str] = {}
    for i, (model, seed) in enumerate(runs):
        _note(progress, 100 * i / len(runs), f"{model}, seed {seed}")
        reason = _train(plans[model], seed, out, _sub_progress(progress, i, len(runs), model, seed))
        if reason:
            failed[model, seed] = reason
    if len(failed) == len(runs):
        raise ComparisonFailed(f"all trainings diverged; the first: {next(iter(failed.values()))}")
    rows = []
    for model, seed in runs:
        if (model, seed) not in failed:
            _note(progress, 100, f"judging {model}, seed {seed}")
            rows.append(_judge(config, plans[model], model, seed, out))
    result = _summary(config, rows, failed)
    _write(out, result)
    _note(progress, 100, "")
    return result


def _note(progress: Progress | None, done: float, note: str) -> None:
    if progress is not None:
        progress(round(done), 100, note)


def _sub_progress(
    progress: Progress | None, i: int, n: int, model: str, seed: int
) -> Progress | None:
    if progress is None:
        return None

    def update(done: int, total: int, note: str) -> None:
        part = done / total if total else 0.0
        _note(progress, 100 * (i + min(1.0, part)) / n, f"{model}, seed {seed}: {note}")

    return update


# -- before --------------------------------------------------------------------------------------


def _check_out(out: Path, config: CompareConfig) -> None:
    if config.resume and config.overwrite:
        raise UsageError("resume and overwrite exclude each other")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        if config.resume:
            raise UsageError(f"{out}: no comparison to go on with")
        return
    is_ours = (out / "comparison.yaml").is_file()
    if not (config.resume or config.overwrite):
        hint = "; use --resume to go on or --overwrite to start anew" if is_ours else ""
        raise FileExistsError(f"{out} exists already{hint}")
    if not is_ours:
        raise UsageError(f"{out} is not empty and no comparison of opkit; choose another directory")
    if config.resume:
        _check_same(out, config)


def _check_same(out: Path, config: CompareConfig) -> None:
    import yaml

    path = out / "comparison.yaml"
    try:
        old = CompareConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as e:
        raise UsageError(f"{path} is damaged: {' '.join(str(e).split())}") from None
    changes = [
        f"{name} {getattr(old, name)} -> {getattr(config, name)}"
        for name in CompareConfig.model_fields
        if name not in _FREE and getattr(old, name) != getattr(config, name)
    ]
    if changes:
        raise UsageError(
            f"{out} was made with other settings, so it cannot be gone on with: "
            f"{', '.join(changes)}"
        )


def _prepare(out: Path, config: CompareConfig) -> None:
    import yaml

    from .checkpoint import replace_file

    if config.overwrite and out.exists():
        shutil.rmtree(out)
    (out / "runs").mkdir(parents=True, exist_ok=True)
    stated = config.model_dump(mode="json", exclude={"resume", "overwrite"})
    text = yaml.safe_dump(stated, sort_keys=False)
    replace_file(out / "comparison.yaml", lambda p: p.write_text(text, encoding="utf-8"))


def _by_model(config: CompareConfig, name: str) -> tuple[dict[str, Any], dict[str, dict]]:
    """Split settings into those for all and those of each model."""
    shared: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {m: {} for m in config.models}
    for key, value in getattr(config, name).items():
        model, dot, rest = str(key).partition(".")
        if dot or (model in own and isinstance(value, Mapping)):
            if model not in own:
                raise UsageError(
                    f"{name}: {key}={value!r}: {model!r} is not compared here. "
                    f"Models: {', '.join(config.models)}."
                )
            own[model].update({rest: value} if dot else value)
        else:
            shared[model] = value
    return shared, own


def _plans(config: CompareConfig) -> dict[str, FitConfig]:
    """Set up the training of each model."""
    from models import get_model

    from .config import resolve
    from .fit import FitConfig

    for model in config.models:
        get_model(model)
    loose, options = _by_model(config, "options")
    if loose:
        key = next(iter(loose))
        raise UsageError(f"--set {key}={loose[key]!r}: need model.option, such as fno.n_modes=12")
    shared, own = _by_model(config, "fit")
    allowed = [k for k in FitConfig.model_fields if k not in _OWN]
    for key in [*shared, *(k for d in own.values() for k in d)]:
        check_name("setting of fit", key, allowed)
    budget: dict[str, Any] = {"epochs": config.epochs or 50}
    if config.seconds is not None:
        budget = {"max_seconds": config.seconds}
    return {
        m: resolve(
            FitConfig,
            {
                "data": config.data, "model": m, "out": str(Path(config.out) / "runs" / m),
                "options": options[m], **budget, **shared, **own[m],
            },
            what=f"opkit compare, fit of {m}",
        )
        for m in config.models
    }  # fmt: skip


def _check_models(config: CompareConfig, dataset: Any, plans: Mapping[str, FitConfig]) -> None:
    """Build every model once.

    Raises
    ------
    UsageError
        A split is missing, or models do not fit the data: all of them in one line.
    """
    import torch

    from models import build_model, get_model

    from .fit import _complete
    from .tasks import get_task

    for name in dict.fromkeys(("train", "valid", config.split)):
        if name not in dataset or not len(dataset[name]):
            have = ", ".join(f"{s} {len(dataset[s])}" for s in dataset.splits)
            raise UsageError(f"{config.data} has no samples in split {name!r}. It has: {have}.")
    wrong = []
    for model, plan in plans.items():
        entry = get_model(model)
        task_class = get_task(entry.task)
        try:
            full, options = _complete(plan, entry, task_class)
            task = task_class.from_dataset(dataset, options, full.resolution)
            with torch.random.fork_rng(devices=[]):
                module, _ = build_model(model, task.spec(), full.options)
                task.dry_run(module)
        except ValueError as e:
            wrong.append(f"{model}: {' '.join(str(e).split())}")
    if wrong:
        raise UsageError("; ".join(wrong))


# -- trainings -----------------------------------------------------------------------------------


def _train(plan: FitConfig, seed: int, out: Path, progress: Progress | None) -> str:
    """Train, or go on, unless it is done; why it failed, or ``""``."""
    from .fit import TrainingDiverged, fit

    run = Path(f"{plan.out}-{seed}")
    config = plan.model_copy(update={"out": str(run), "seed": seed})
    # the settings that the caller gave, which a model's own defaults must not replace
    config.model_fields_set.update(plan.model_fields_set, {"seed"})
    if _is_trained(run, config):
        return ""
    if (run / "checkpoints" / "last.ckpt").is_file():
        config = config.model_copy(update={"resume": True})
    elif run.exists():
        shutil.rmtree(run)
    try:
        fit(config, progress=progress)
    except TrainingDiverged as e:
        return str(e)
    return ""


def _is_trained(run: Path, config: FitConfig) -> bool:
    """Whether `run` has used up the budget of `config`."""
    history = _history(run)
    if not history or not (run / "model.safetensors").is_file():
        return False
    if config.max_seconds is not None:
        return history["seconds"][-1] >= config.max_seconds
    if config.patience is not None:
        return False  # `fit` knows whether it has stopped
    return history["epoch"][-1] >= config.epochs


def _history(run: Path) -> dict[str, list[float]]:
    """Columns of ``history.csv``."""
    path = run / "history.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return {k: [float(r[k]) for r in rows] for k in (rows[0] if rows else {})}


def _judge(
    config: CompareConfig, plan: FitConfig, model: str, seed: int, out: Path
) -> dict[str, Any]:
    """Evaluate a run, unless that is done; one row of the comparison."""
    from .checkpoint import load_json
    from .evaluate import DataWarning, EvaluateConfig, evaluate
    from .operator import read_description
    from .tasks import get_task

    run = Path(f"{plan.out}-{seed}")
    found = run / "evaluation" / config.split / "metrics.json"
    if found.is_file():
        metrics = load_json(found)
    else:
        with warnings.catch_warnings():
            if seed:  # once is enough
                warnings.simplefilter("ignore", DataWarning)
            metrics = evaluate(
                EvaluateConfig(
                    run=str(run), data=config.data, split=config.split, device=config.device,
                    compare=seed == 0, n_solve=config.n_solve,
                )
            )  # fmt: skip
    description = read_description(run)
    task = get_task(description["task"])
    history = _history(run)
    chooses = f"valid_{next(iter(task.metrics))}"
    best = int(np.nanargmin(history[chooses]))
    return {
        "model": model,
        "seed": seed,
        "task": task.name,
        "n_parameters": description["n_parameters"],
        "options": description["options"],
        "errors": {k: v["mean"] for k, v in metrics.items() if _is_error(v)},
        "valid": {chooses: history[chooses][best]},
        "epochs": int(history["epoch"][-1]),
        "best_epoch": int(history["epoch"][best]),
        "seconds": history["seconds"][-1],
        "seconds_per_sample": metrics.get("seconds_per_sample"),
        "solver": metrics.get("comparison"),
        "curve": {"seconds": history["seconds"], "error": history[chooses]},
        "run": f"runs/{run.name}",
    }


def _is_error(value: Any) -> bool:
    return isinstance(value, Mapping) and "worst_id" in value


# -- results -------------------------------------------------------------------------------------


def _summary(
    config: CompareConfig, rows: Sequence[Mapping[str, Any]], failed: Mapping[tuple[str, int], str]
) -> dict[str, Any]:
    common = [k for k in rows[0]["errors"] if all(k in r["errors"] for r in rows)]
    if not common:
        kinds = ", ".join(sorted({f"{r['model']}: {', '.join(r['errors'])}" for r in rows}))
        raise UsageError(f"the models have no error in common: {kinds}")
    metric = "rel_l2" if "rel_l2" in common else common[0]
    entries = []
    for model in config.models:
        own = [r for r in rows if r["model"] == model]
        lost = {seed: why for (m, seed), why in failed.items() if m == model}
        entry: dict[str, Any] = {"model": model, "seeds": [r["seed"] for r in own]}
        if own:
            entry |= {
                "task": own[0]["task"],
                "n_parameters": own[0]["n_parameters"],
                "options": own[0]["options"],
                "errors": {k: _spread([r["errors"][k] for r in own]) for k in own[0]["errors"]},
                "valid": {
                    k: _spread([r["valid"][k] for r in own]) for k in own[0]["valid"]
                },
                "epochs": _spread([r["epochs"] for r in own]),
                "seconds": _spread([r["seconds"] for r in own]),
                "seconds_per_sample": _median([r["seconds_per_sample"] for r in own]),
                "solver": own[0]["solver"],
            }  # fmt: skip
        entry["failed"] = {str(k): v for k, v in lost.items()}
        entries.append(entry)
    entries.sort(key=lambda e: e["errors"][metric]["mean"] if "errors" in e else math.inf)
    budget = (
        {"seconds": config.seconds}
        if config.seconds is not None
        else {"epochs": config.epochs or 50}
    )
    return {
        "data": Path(config.data).resolve().name,
        "split": config.split,
        "metric": metric,
        "budget": budget,
        "fit": config.fit,
        "n_seeds": config.seeds,
        "models": entries,
        "runs": list(rows),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over the seeds (None of one), and the values."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": [float(v) for v in values],
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def table(result: Mapping[str, Any]) -> str:
    """Lay out a comparison for people."""
    head = ["model", "parameters", f"{result['metric']}, {result['split']}", "training"]
    rows = [[*head, "a sample", "solver as accurate"]]
    rows += [[e["model"], *_cells(e, result["metric"])] for e in result["models"]]
    widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        right = (c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    for e in result["models"]:
        lines += [f"{e['model']}, seed {seed}: {why}" for seed, why in e["failed"].items()]
    budget, value = next(iter(result["budget"].items()))
    seeds = result["n_seeds"]
    spread = f"mean +- standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    lines.append(f"{result['data']}, {value:g} {budget} each, {spread}")
    return "\n".join(lines)


def _cells(entry: Mapping[str, Any], metric: str) -> list[str]:
    from .progress import duration

    if "errors" not in entry:
        return ["", "diverged", "", "", ""]
    solver = entry["solver"]
    sample = entry["seconds_per_sample"]
    return [
        f"{entry['n_parameters']:,}",
        _with_spread(entry["errors"][metric], metric),
        duration(entry["seconds"]["mean"]),
        "" if sample is None else f"{1000 * sample:.3g} ms",
        "" if not solver else f"{1000 * solver['solver_seconds']:.3g} ms",
    ]


def _with_spread(spread: Mapping[str, Any], metric: str) -> str:
    """``"1.23 +- 0.04 %"``; relative errors in percent."""
    scale, unit = (100.0, " %") if metric.startswith("rel_") else (1.0, "")
    mean, std = scale * spread["mean"], spread["std"]
    digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    if digits > 6:
        return f"{mean:.3g}" + (f" +- {scale * std:.2g}" if std is not None else "") + unit
    text = f"{mean:.{digits}f}"
    return text + (f" +- {scale * std:.{digits}f}" if std is not None else "") + unit


def _write(out: Path, result: Mapping[str, Any]) -> None:
    from .checkpoint import replace_file, save_json

    def write(name: str, text: str) -> None:
        replace_file(out / name, lambda p: p.write_text(text, encoding="utf-8"))

    save_json(out / "comparison.json", result)
    write("comparison.csv", _csv(result))
    figures = {"error_time": plot_error_time(result), "error_parameters": plot_error_size(result)}
    for name, ax in figures.items():
        replace_file(
            out / f"{name}.png",
            lambda p, ax=ax: ax.figure.savefig(p, format="png", dpi=200),  # type: ignore[misc]
        )
    write("comparison.html", _page(result, figures))


def _csv(result: Mapping[str, Any]) -> str:
    """One line a training."""
    errors = list(dict.fromkeys(k for r in result["runs"] for k in r["errors"]))
    plain = ("model", "seed", "task", "n_parameters", "epochs", "best_epoch", "seconds",
             "seconds_per_sample")  # fmt: skip
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*plain, *errors, "run"])
    for r in result["runs"]:
        writer.writerow(
            [*(r[k] for k in plain), *(r["errors"].get(k, "") for k in errors), r["run"]]
        )
    return stream.getvalue()


def _styles(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Color and marker by model, by name, so that they stay when the order changes."""
    names = sorted(e["model"] for e in result["models"])
    markers = "os^Dv<>P"
    return {
        m: {"color": _COLORS[i % len(_COLORS)], "marker": markers[(i // len(_COLORS) + i) % 8]}
        for i, m in enumerate(names)
    }


def plot_error_time(result: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Lowest validation error so far over seconds of training: mean and range over the seeds.

    Parameters
    ----------
    result : mapping
        ``comparison.json``.
    """
    from .plots import _log_ticks, _new_axes

    ax = _new_axes(6.4, 4.0) if ax is None else ax
    styles = _styles(result)
    for entry in result["models"]:
        model = entry["model"]
        curves = [r["curve"] for r in result["runs"] if r["model"] == model]
        if not curves:
            continue
        # from when all seeds have an error; a seed that has ended keeps its last one
        start = max(c["seconds"][0] for c in curves)
        times = np.unique(np.concatenate([c["seconds"] for c in curves]))
        times = times[times >= start]
        best = np.stack([_best_so_far(c, times) for c in curves])
        style = styles[model]
        mean = best.mean(0)
        ax.plot(times, mean, color=style["color"], lw=1.6, label=model, drawstyle="steps-post")
        ax.plot(times[-1:], mean[-1:], style["marker"], color=style["color"], ms=5)
        if len(curves) > 1:
            ax.fill_between(
                times, best.min(0), best.max(0), color=style["color"], alpha=0.15, lw=0, step="post"
            )
    percent = result["metric"].startswith("rel_")
    ax.set(xscale="log", yscale="log", xlabel="training time [s]")
    ax.set_ylabel("lowest error on valid so far [dimensionless]")
    _log_ticks(ax.xaxis, 1.0)
    _log_ticks(ax.yaxis, 100.0 if percent else 1.0, " %" if percent else "")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    ax.legend(frameon=False, fontsize="small")
    return ax


def _best_so_far(curve: Mapping[str, Sequence[float]], times: np.ndarray) -> np.ndarray:
    """Lowest error up to each time."""
    best = np.fmin.accumulate(np.asarray(curve["error"], float))
    index = np.searchsorted(np.asarray(curve["seconds"], float), times, side="right") - 1
    return best[np.clip(index, 0, len(best) - 1)]


def plot_error_size(result: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Error on test over the number of parameters: mean, and standard deviation over the seeds.

    Parameters
    ----------
    result : mapping
        ``comparison.json``.
    """
    from .plots import _log_ticks, _new_axes

    ax = _new_axes(6.4, 4.0) if ax is None else ax
    metric, styles = result["metric"], _styles(result)
    for entry in result["models"]:
        if "errors" not in entry:
            continue
        model, error = entry["model"], entry["errors"][metric]
        ax.errorbar(
            entry["n_parameters"], error["mean"], yerr=error["std"] or None, capsize=3, ms=6,
            fmt=styles[model]["marker"], color=styles[model]["color"], label=model,
        )  # fmt: skip
    percent = metric.startswith("rel_")
    ax.set(xscale="log", yscale="log", xlabel="parameters [dimensionless]")
    ax.set_ylabel(f"{metric} on {result['split']} [dimensionless]")
    _log_ticks(ax.xaxis, 1.0)
    ax.xaxis.set_major_formatter(lambda v, _: f"{v / 1e6:g} M" if v >= 1e6 else f"{v / 1e3:g} k")
    _log_ticks(ax.yaxis, 100.0 if percent else 1.0, " %" if percent else "")
    ax.grid(alpha=0.3, which="both", lw=0.5)
    ax.margins(0.12)
    ax.legend(frameon=False, fontsize="small")
    return ax


def _page(result: Mapping[str, Any], figures: Mapping[str, Axes]) -> str:
    from .report import _STYLE, _figure

    e = html.escape
    head = ("model", "parameters", f"{result['metric']} on {result['split']}", "training",
            "time a sample", "solver as accurate")  # fmt: skip
    cells = "".join(
        f"<tr><th>{e(m['model'])}</th>"
        + "".join(
            f'<td class="n">{e(c.replace("+-", "±"))}</td>' for c in _cells(m, result["metric"])
        )
        + "</tr>"
        for m in result["models"]
    )
    lost = "".join(
        f'<p class="warn">{e(m["model"])}, seed {e(seed)}: {e(why)}</p>'
        for m in result["models"]
        for seed, why in m["failed"].items()
    )
    budget, value = next(iter(result["budget"].items()))
    seeds = result["n_seeds"]
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    title = f"Models on {result['data']}"
    pictures = _figure(
        figures["error_time"].figure, "Validation error over training time",
        caption="Lowest error on valid so far, mean (line) and range (band) over the seeds.",
    ) + _figure(
        figures["error_parameters"].figure, "Test error over the number of parameters",
        caption=f"Error on {result['split']}, with standard deviation over the seeds.",
    )  # fmt: skip
    options = "".join(
        f"<tr><th>{e(m['model'])}</th><td>"
        f"{e(', '.join(f'{k} = {v}' for k, v in m.get('options', {}).items()))}</td></tr>"
        for m in result["models"]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{e(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{e(title)}</h1><p>{value:g} {budget} of training each, {spread}. Weights are chosen "
        f"on valid; {e(result['split'])} was not looked at before all trainings had ended.</p>"
        f'<div class="scroll"><table><tr>{"".join(f"<th>{e(h)}</th>" for h in head)}</tr>{cells}'
        f"</table></div>{lost}\n"
        f'<div class="pair">{pictures}</div><h2>Options</h2><div class="scroll">'
        f'<table class="pairs">{options}</table></div>\n</main>\n</body>\n</html>\n'
    )
