"""``opkit invert``: reconstruct what measurements came from, with a learned prior."""

from __future__ import annotations

from typing import Annotated

import typer

from ._options import Config, Debug, Json, Set, Text, emit, option, shown, tell


def invert(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] MEASUREMENTS",
            help="Run of opkit fit with the prior (none for baselines); dataset of an inverse "
            "problem, or .npy/.h5 file of data.",
        ),
    ] = None,
    operator: Annotated[
        Text,
        option(
            "--operator",
            metavar="NAME",
            help="blur, compressed_sensing, radon, pde, darcy, mask or matrix; a dataset knows "
            "its own.",
        ),
    ] = None,
    out: Annotated[Text, option("-o", "--out", metavar="DIR", help="Directory to make.")] = None,
    method: Annotated[
        Text,
        option(
            "--method",
            metavar="NAME",
            help="pgd, admm, drs; without a prior tv, tikhonov, wavelet (default pgd, or tv).",
        ),
    ] = None,
    set_: Set = None,
    resolution: Annotated[
        Text, option("--resolution", metavar="R[,R]", help="Points per axis of the unknown.")
    ] = None,
    through: Annotated[
        Text,
        option(
            "--through",
            metavar="RUN",
            help="Trained operator as forward map, instead of the solver (darcy).",
        ),
    ] = None,
    noise: Annotated[
        Text, option("--noise", metavar="X", help="Standard deviation of the noise in the data.")
    ] = None,
    weight: Annotated[
        Text,
        option(
            "--weight",
            metavar="X",
            help="Weight of the prior, 1/step or rho (default what the noise asks, if that "
            "converges); of a baseline tuned or by the noise.",
        ),
    ] = None,
    temper: Annotated[
        bool,
        option("--temper", help="Inflate the noise where data are too precise for the prior."),
    ] = False,
    split: Annotated[
        Text, option("--split", metavar="NAME", help="Which samples (default test).")
    ] = None,
    n: Annotated[Text, option("-n", metavar="N", help="The first N samples only.")] = None,
    max_iter: Annotated[
        Text, option("--max-iter", metavar="N", help="Iterations (default 500).")
    ] = None,
    tol: Annotated[
        Text, option("--tol", metavar="X", help="Relative change that ends (default 1e-6).")
    ] = None,
    start: Annotated[
        Text, option("--start", metavar="NAME", help="tikhonov or zero (default tikhonov).")
    ] = None,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the directory there.")] = False,
    config: Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Reconstruct unknowns from measurements; says whether that is certain to converge."""
    from opkit._functions import ALIASES, run_invert
    from opkit.config import number, parse_resolution, parse_set, resolve
    from opkit.errors import UsageError
    from opkit.inverse.reconstruct import InvertConfig

    names = list(arguments or ())
    if len(names) > 2:
        raise UsageError(f"opkit invert: need [RUN] MEASUREMENTS, found {' '.join(names)}")
    given = {
        "run": names[0] if len(names) == 2 else None,
        "measurements": names[-1] if names else None,
        "operator": operator,
        "out": out,
        "method": method,
        "set": parse_set(set_ or ()) or None,
        "resolution": parse_resolution(resolution),
        "through": through,
        "noise": number(noise),
        "weight": number(weight),
        "temper": temper or None,
        "split": split,
        "n": number(n),
        "max_iter": number(max_iter),
        "tol": number(tol),
        "start": start,
        "overwrite": overwrite or None,
    }
    settings = resolve(
        InvertConfig, given, config=config, what="opkit invert", aliases=ALIASES["invert"]
    )
    tell(f"reconstructing {settings.measurements} by {settings.chosen}, into {settings.out}")
    done = run_invert(settings)
    facts = done.facts
    if json:
        emit(facts)
        return
    line = f"{settings.out}: {facts['converged']} of {facts['n_samples']} converged"
    if facts["diverged"]:
        line += f", {facts['diverged']} diverged"
    if "errors" in facts:
        line += f", relative L2 error {facts['errors']['rel_l2']['mean']:.4g}"
    typer.echo(line)
    if done.result.certificate is not None:
        typer.echo(str(done.result.certificate))
    tell(f"see {shown(done.path / 'report.html')}")
