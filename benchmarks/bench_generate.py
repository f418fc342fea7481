"""Generation of Darcy data at 421 x 421: two workers against one, and what writing costs.

Starting workers takes two to three seconds, so few samples say little. The share of writing is the
time that the one process of the first run spends in the writer.

``--small`` generates samples of 64 KB instead (two float32 fields of 91 x 91), by a problem whose
solve takes about a millisecond and by darcy, without estimates of the discretization error. The
ratio is that of wall times, `draw` and `solve` in a loop against all of `generate` with start-up
and index, in turn, the better of two; the processor times of this process are given too. Then the
time that resuming the finished dataset takes. Writes benchmarks/results/generate_small.json.
"""

from __future__ import annotations

import argparse
import json
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
        start = time.perf_counter()
        problem.solve(inputs, (91, 91), solver="copy")
        taken.append(time.perf_counter() - start)
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


def small(root: Path, name: str, n: int, repeats: int = 2) -> dict[str, float]:
    problem = get_problem(name)
    solver = problem.choose_solver((91, 91))
    problem.solve(problem.sample(np.random.default_rng(0)), (91, 91), solver=solver)
    settings = dict(problem=name, n=n, n_valid=0, n_test=0, resolution=91, error_fraction=0)
    best = 0.0
    for k in range(repeats):
        clocks = [(time.perf_counter(), time.process_time())]
        for i in range(n):
            inputs = problem.draw(np.random.default_rng(i), i)
            problem.solve(inputs, (91, 91), solver=solver)
        clocks.append((time.perf_counter(), time.process_time()))
        generate(GenerateConfig(out=root / f"{name}{k}", **settings))
        clocks.append((time.perf_counter(), time.process_time()))
        (alone, alone_cpu), (whole, whole_cpu) = np.diff(clocks, axis=0)
        best = max(best, alone / whole)
        print(
            f"{name}: {n} samples of 64 KB, {alone:.2f} s alone, {whole:.2f} s generated, "
            f"ratio {alone / whole:.2f} (required 0.85 on two idle cores); processor time "
            f"{alone_cpu:.2f} s and {whole_cpu:.2f} s, ratio {alone_cpu / whole_cpu:.2f}"
        )
    start = time.perf_counter()
    generate(GenerateConfig(out=root / f"{name}0", **settings, resume=True))
    resumed = time.perf_counter() - start
    print(f"{name}: resumed in {resumed:.2f} s")
    return {
        "samples": n,
        "milliseconds a sample": round(1e3 * alone / n, 2),
        "of the solver's throughput": round(best, 2),
        "seconds to resume": round(resumed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--resolution", type=int, default=421)
    args = parser.parse_args()
    if args.small:
        with tempfile.TemporaryDirectory() as tmp:
            calibrate()
            facts = {name: small(Path(tmp), name, args.n) for name in ("cheap", "darcy")}
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
