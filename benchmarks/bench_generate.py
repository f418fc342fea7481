"""Generation of Darcy data at 421 x 421: two workers against one, and what writing costs.

Starting workers takes two to three seconds, so few samples say little. The share of writing is the
time that the one process of the first run spends in the writer.

``--small`` generates samples of 64 KB instead (two float32 fields of 91 x 91), by a problem whose
solve takes about a millisecond and by darcy, without estimates of the discretization error: `draw`
and `solve` in a loop against all of `generate` with start-up and index, in turn. Two things are
measured: wall times, of which the better ratio counts and which mean something on two idle cores
only; and the processor time of the process that solves and of the one that writes. The first bounds
the throughput, and the second does while it stays below the first. Then what it takes to resume
the finished dataset, through the command line where that knows the problem.
Writes benchmarks/results/generate_small.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import DatasetSchema, FieldSpec, ShardWriter, open_dataset
from pde_data.problem import Problem, Solution, get_problem, register
from solvers.grids import Grid


def run(root: Path, n: int, resolution: int, workers: int) -> tuple[float, float]:
    """Wall time of a generation and the time inside `ShardWriter.add` and its end."""
    spent = [0.0]
    add, leave = ShardWriter.add, ShardWriter.__exit__

    def timed(method):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - start

        return wrapper

    ShardWriter.add, ShardWriter.__exit__ = timed(add), timed(leave)
    try:
        start = time.perf_counter()
        generate(
            GenerateConfig(
                problem="darcy", out=root, n=n, n_valid=1, n_test=1, resolution=resolution,
                workers=workers,
            )
        )  # fmt: skip
        return time.perf_counter() - start, spent[0]
    finally:
        ShardWriter.add, ShardWriter.__exit__ = add, leave


RESULTS = Path(__file__).parent / "results" / "generate_small.json"
#: Cosines that make a millisecond, found by `calibrate`.
ROUNDS = 1


def calibrate() -> None:
    global ROUNDS
    problem, inputs = get_problem("cheap"), np.random.default_rng(0).normal(size=(91, 91))
    ROUNDS, taken = 100, []
    for _ in range(10):
        start = time.process_time()  # others may be at work on this machine
        problem.solve(inputs, (91, 91), solver="copy")
        taken.append(time.process_time() - start)
    ROUNDS = max(1, round(0.1 / min(taken)))


@register
class Cheap(Problem):
    """A millisecond of work a sample."""

    name, title, equation = "cheap", "A millisecond of work", "u = a"
    solvers = ("copy",)

    def schema(self, resolution, dtype="float32"):  # noqa: D102
        fields = (FieldSpec("a", "a"), FieldSpec("u", "u"))
        return DatasetSchema(
            self.name, self.title, Grid.unit(resolution[0]), fields, ("a",), ("u",), dtype=dtype
        )

    def sample(self, rng):  # noqa: D102
        return rng.normal(size=(91, 91))

    def solve(self, inputs, resolution, *, solver, rtol=1e-10):  # noqa: D102
        u = inputs
        for _ in range(ROUNDS):  # the same work however many threads there are
            u = np.cos(u)
        return Solution({"a": inputs, "u": u}, 0.0, 0, 1e-3, "copy")

    def choose_solver(self, resolution):  # noqa: D102
        return "copy"


def clocks() -> np.ndarray:
    """Seconds: wall, processor time of this process and of those that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), time.process_time(), ended.ru_utime + ended.ru_stime])


def small(root: Path, name: str, n: int, repeats: int) -> dict[str, object]:
    problem = get_problem(name)
    solver = problem.choose_solver((91, 91))
    problem.solve(problem.sample(np.random.default_rng(0)), (91, 91), solver=solver)
    settings = dict(problem=name, n=n, n_valid=0, n_test=0, resolution=91, error_fraction=0)
    runs = []
    for k in range(repeats):
        marks = [clocks()]
        for i in range(n):
            inputs = problem.draw(np.random.default_rng(i), i)
            problem.solve(inputs, (91, 91), solver=solver)
        marks.append(clocks())
        generate(GenerateConfig(out=root / f"{name}{k}", **settings))
        marks.append(clocks())
        runs.append(np.diff(marks, axis=0))
        (wall, alone, _), (whole, solving, writing) = runs[-1].tolist()
        print(
            f"{name}: {n} samples of 64 KB, {wall:.2f} s alone, {whole:.2f} s generated, ratio "
            f"{wall / whole:.2f} (required 0.85 on two idle cores); processor time {alone:.2f} s "
            f"alone, {solving:.2f} s beside {writing:.2f} s of writing, ratio "
            f"{alone / max(solving, writing):.2f}"
        )
    alone, whole = np.min(runs, axis=0).tolist()
    before = clocks()
    if name == "cheap":  # known to this process alone
        generate(GenerateConfig(out=root / f"{name}0", **settings, resume=True))
    else:
        options = [f"--{k.replace('_', '-')}={v}" for k, v in settings.items() if k != "problem"]
        command = [sys.executable, "-c", "from opkit.cli import main; main()", "generate", name]
        subprocess.run(
            [*command, *options, f"--out={root / f'{name}0'}", "--resume"],
            check=True, capture_output=True,
        )  # fmt: skip
    wall, here, there = (clocks() - before).tolist()
    resumed = {"wall": round(wall, 2), "processor": round(here + there, 2)}
    print(f"{name}: resumed in {resumed} s")
    busy = max(whole[1], whole[2])
    return {
        "samples": n,
        "wall, of the solver's throughput": round(float(max(r[0, 0] / r[1, 0] for r in runs)), 2),
        "processor milliseconds a sample": {
            "solver alone": round(1e3 * alone[1] / n, 2),
            "process that solves": round(1e3 * whole[1] / n, 2),
            "process that writes": round(1e3 * whole[2] / n, 2),
        },
        "processor, of the solver's throughput": round(alone[1] / busy, 2),
        "seconds to resume": resumed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--resolution", type=int, default=421)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    if args.small:
        with tempfile.TemporaryDirectory() as tmp:
            calibrate()
            load = round(os.getloadavg()[0], 1)
            facts: dict[str, object] = {"processes at work before": load}
            for name in ("cheap", "darcy"):
                facts[name] = small(Path(tmp), name, args.n, args.repeat)
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
        return
    with tempfile.TemporaryDirectory() as tmp:
        run(Path(tmp) / "warm", 2, args.resolution, 1)  # compiled kernels are loaded
        one, writing = run(Path(tmp) / "one", args.n, args.resolution, 1)
        two, _ = run(Path(tmp) / "two", args.n, args.resolution, 2)
        digests = [open_dataset(Path(tmp) / d).content_digest for d in ("one", "two")]
        if digests[0] != digests[1]:
            raise SystemExit("the data depend on the number of workers")
    print(f"darcy {args.resolution} x {args.resolution}, {args.n} samples")
    print(f"one worker   {one:7.1f} s, {args.n / one:6.1f} samples/s")
    print(f"two workers  {two:7.1f} s, ratio {one / two:.2f} (required 1.7 on two idle cores)")
    print(f"writing      {100 * writing / one:7.1f} % of the time of one worker (required < 10)")


if __name__ == "__main__":
    main()
