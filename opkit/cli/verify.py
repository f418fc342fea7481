"""``opkit verify``: what a problem's solvers are compared with, and how they do."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ._options import Debug, Json, Set, Text, emit, option, tell


def verify(
    problems: Annotated[
        list[str], typer.Argument(metavar="PROBLEM...", help="See opkit list problems; or all.")
    ],
    resolution: Annotated[
        Text, option("--resolution", metavar="R[,R...]", help="Default: a small one.")
    ] = None,
    seed: Annotated[Text, option("--seed", metavar="N", help="Of the samples (default 0).")] = None,
    set_: Set = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a problem's solvers: orders, known answers, agreement, invariants. 1 if one fails."""
    from opkit.config import number, parse_resolution, parse_set
    from opkit.errors import UsageError
    from pde_data.problem import list_problems, problem_class
    from pde_data.verification import quick_problem
    from pde_data.verification import verify as checks_of

    params = parse_set(set_ or ())
    n = number(seed) if seed is not None else 0
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise UsageError(f"seed={seed}: need an integer >= 0")
    names = list(list_problems()) if problems == ["all"] else problems
    made = [(name, quick_problem(problem_class(name), **params)) for name in names]
    failed, out = 0, []
    for name, problem in made:
        tell(f"verifying {name}")
        start, rows = time.perf_counter(), []
        for check in checks_of(problem, parse_resolution(resolution), seed=n):
            rows.append(check)
            failed += not check.passed
            if not json:
                if len(rows) == 1:
                    typer.echo(f"{name}: {problem.title}")
                typer.echo(_line(check))
                sys.stdout.flush()
        bad = sum(not c.passed for c in rows)
        seconds = time.perf_counter() - start
        if not json:
            typer.echo(f"  {len(rows) - bad} of {len(rows)} hold")
        tell(f"{name}: {seconds:.0f} s")
        out.append({"problem": name, "passed": not bad, "checks": [asdict(c) for c in rows]})
    if json:
        emit(out)
    raise typer.Exit(1 if failed else 0)


def _line(check: Any) -> str:
    mark = "ok  " if check.passed else "FAIL"
    line = f"  {mark} {check.name:<48} {check.measured:>11.4g}   {check.asked}"
    return f"{line}   ({check.note})" if check.note else line
