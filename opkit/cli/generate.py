"""``opkit generate``: sample, solve, check and write a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._options import Config, Debug, Json, Set, Text, command_line, emit, option, shown, size, tell


def generate(
    problem: Annotated[
        str | None, typer.Argument(metavar="PROBLEM", help="See opkit list problems.")
    ] = None,
    out: Annotated[Text, option("-o", "--out", metavar="DIR", help="Directory to make.")] = None,
    n: Annotated[Text, option("-n", "--n", metavar="N", help="Training samples.")] = None,
    n_valid: Annotated[
        Text, option("--n-valid", metavar="N", help="Validation samples (default n/10).")
    ] = None,
    n_test: Annotated[
        Text, option("--n-test", metavar="N", help="Test samples (default n/10).")
    ] = None,
    resolution: Annotated[
        Text,
        option("--resolution", metavar="R[,R...]", help="Points an axis (default the problem's)."),
    ] = None,
    seed: Annotated[
        Text, option("--seed", metavar="N", help="Seed of the dataset (default 0).")
    ] = None,
    solver: Annotated[
        Text,
        option("--solver", metavar="NAME", help="See opkit list solvers (default by size)."),
    ] = None,
    set_: Set = None,
    sample_on: Annotated[
        Text,
        option(
            "--sample-on",
            metavar="mesh|grid",
            help="Where the fields of a problem on a mesh are stored (--set sample_on).",
        ),
    ] = None,
    dtype: Annotated[
        Text,
        option("--dtype", metavar="float32|float64", help="Of the fields (default float32)."),
    ] = None,
    workers: Annotated[
        Text, option("--workers", metavar="N", help="Processes (default 1).")
    ] = None,
    cluster: Annotated[
        Text,
        option("--cluster", metavar="ADDRESS", help="Dask scheduler, tcp://host:port."),
    ] = None,
    mpi: Annotated[
        bool, option("--mpi", help="Under mpiexec: all processes share each solve.")
    ] = False,
    resume: Annotated[bool, option("--resume", help="Continue or extend what is there.")] = False,
    overwrite: Annotated[bool, option("--overwrite", help="Replace what is there.")] = False,
    repair: Annotated[
        bool, option("--repair", help="Make damaged shards again; needs -o alone.")
    ] = False,
    shards: Annotated[
        Text, option("--shards", metavar="A:B", help="Make shards A to B-1 only (job arrays).")
    ] = None,
    max_failures: Annotated[
        Text,
        option("--max-failures", metavar="P%", help="Samples that may fail (default 5%)."),
    ] = None,
    rtol: Annotated[
        Text, option("--rtol", metavar="X", help="Relative residual to reach (default 1e-10).")
    ] = None,
    compression: Annotated[
        Text,
        option("--compression", metavar="gzip|none", help="Of the fields (default gzip)."),
    ] = None,
    error_fraction: Annotated[
        Text,
        option(
            "--error-fraction",
            metavar="P%",
            help="Samples whose discretization error is estimated (default 6.25%).",
        ),
    ] = None,
    samples_per_shard: Annotated[
        Text, option("--samples-per-shard", metavar="N", help="Samples a file (default by size).")
    ] = None,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a dataset: sample inputs, solve, check residuals, write HDF5."""
    from opkit._functions import ALIASES, run_generate
    from opkit.config import number, parse_resolution, parse_set, resolve
    from pde_data.generate import GenerateConfig, stored_settings
    from pde_data.problem import get_problem

    given = {
        "problem": problem,
        "out": out,
        "n": number(n),
        "n_valid": number(n_valid),
        "n_test": number(n_test),
        "resolution": parse_resolution(resolution),
        "seed": number(seed),
        "solver": solver,
        "set": parse_set([*(set_ or ()), *([f"sample_on={sample_on}"] if sample_on else [])])
        or None,
        "dtype": dtype,
        "workers": number(workers),
        "cluster": cluster,
        "mpi": mpi or None,
        "resume": resume or None,
        "repair": repair or None,
        "overwrite": overwrite or None,
        "shards": shards,
        "max_failures": number(max_failures),
        "rtol": number(rtol),
        "compression": compression,
        "error_fraction": number(error_fraction),
        "samples_per_shard": number(samples_per_shard),
    }
    if mpi:
        _only_rank_0_speaks()
    if repair and problem is None and out is not None:
        stored = stored_settings(out)
        given |= {k: v for k, v in stored.items() if given[k] is None}
    settings = resolve(
        GenerateConfig, given, config=config, what="opkit generate", aliases=ALIASES["generate"]
    )
    points = get_problem(settings.problem, **settings.params).check_resolution(settings.resolution)
    counts = ", ".join(f"{count} {split}" for split, count in settings.split_sizes.items())
    tell(f"generating {settings.problem} at {size(points)}: {counts} samples, in {settings.out}")
    result = run_generate(settings, command=command_line())
    if json:
        emit(_summary(result))
    else:
        typer.echo(lines(result))
    name = result.path.name
    tell(f"next: opkit data info {shown(result.path)}")
    if model := _first_model(result.path):
        tell(f"      opkit fit {shown(result.path)} -m {model} -o {shown(f'runs/{name}-{model}')}")


#: Models to try first, one for each task.
SUGGESTED = ("mgno", "deeponet", "mixer", "lpn")


def _first_model(path: Path) -> str | None:
    """Find a model whose task learns from these data."""
    from models import list_models
    from opkit.errors import UsageError
    from opkit.tasks import get_task
    from pde_data.hdf5 import open_dataset

    dataset, models = open_dataset(path), list_models()
    suggested = [m for m in SUGGESTED if m in models]
    if any(s.name == "environment" and s.value is None for s in dataset.schema.scalars):
        # samples of several systems: first what learns which is which
        suggested.sort(key=lambda m: models[m].task != "trajectories")
    for model in suggested:
        task = get_task(models[model].task)
        try:
            task.from_dataset(dataset, task.Options())
        except UsageError:
            continue
        return model
    return None


def _only_rank_0_speaks() -> None:
    """Let one of the processes of mpiexec say for all what there is to say."""
    import os

    from pde_data.generate import mpi_rank

    if mpi_rank() != 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)


def _summary(result: Any) -> dict[str, Any]:
    keys = ("written", "failed", "residual_max", "discretization_error")
    splits = result.manifest["splits"]
    return {
        "path": str(result.path),
        "problem": result.config.problem,
        "resolution": list(result.config.resolution),
        "solver": result.config.solver,
        "solved": result.solved,
        "skipped": result.skipped,
        "failed": len(result.failures),
        "seconds": result.seconds,
        "content_digest": result.manifest["content_digest"],
        "splits": {name: {k: s.get(k) for k in keys} for name, s in splits.items()},
    }


def lines(result: Any) -> str:
    """Tell a person what was made and how good it is."""
    from opkit.progress import duration

    splits = result.manifest["splits"]
    counts = ", ".join(f"{s['written']} {name}" for name, s in splits.items())
    told = [
        f"{result.path}: {counts} samples of {result.config.problem} at "
        f"{size(result.config.resolution)}, solver {result.config.solver}; "
        f"{result.solved} solved now in {duration(result.seconds)}"
    ]
    worst = max((s.get("residual_max") or 0.0 for s in splits.values()), default=0.0)
    evidence = f"largest residual {worst:.1e}"
    errors = [s.get("discretization_error") or {"n": 0} for s in splits.values()]
    if n := sum(e["n"] for e in errors):
        mean = sum(e["n"] * e["mean"] for e in errors if e["n"]) / n
        shown_mean = f"{mean:.2%}" if mean >= 1e-4 else f"{mean:.1e}"
        evidence += f"; estimated discretization error {shown_mean} (mean of {n} samples)"
    told.append(evidence)
    if result.failures:
        first_id, reason = result.failures[0]
        told.append(f"{len(result.failures)} samples failed; first: id {first_id}: {reason}")
    return "\n".join(told)
