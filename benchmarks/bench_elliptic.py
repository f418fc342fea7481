"""Diffusion on grids, relative residual 1e-10, one core: opkit against the peers.

Darcy with coefficients 3 / 12 at 421 x 421; a smooth and a 3 / 12 coefficient at 64 x 64 x 64;
many sources of one operator. Calls are interleaved and the shortest of each counts, in processor
time (everything runs on one thread), so that other users of the machine count little. The peers get
the assembled matrix, opkit's times include the assembly.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import pyamg
import scipy.sparse.linalg as spla
from threadpoolctl import threadpool_limits

from pde_data.problem import get_problem
from solvers.diffusion import solve_diffusion, solve_diffusion_batch
from solvers.finite_volume import FiniteVolumeSystem, discretize
from solvers.grids import Grid

RTOL = 1e-10


def race(calls: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Shortest processor time of each call; repeats are interleaved."""
    best = dict.fromkeys(calls, np.inf)
    for turn in range(max(n for _, n in calls.values())):
        for name, (call, n) in calls.items():
            if turn < n:
                start = time.process_time()
                call()
                best[name] = min(best[name], time.process_time() - start)
    return best


def show(title: str, seconds: dict[str, float], required: str) -> None:
    print(title)
    base = next(iter(seconds.values()))
    for name, s in seconds.items():
        print(f"  {name:38s} {1e3 * s:9.1f} ms   ratio {s / base:6.1f}")
    print(f"  required: {required}\n", flush=True)


def peer(build: Callable, system: FiniteVolumeSystem, **options: object) -> Callable[[], None]:
    """PyAMG's own set-up and solve."""
    A, b = system.matrix(), system.rhs.ravel()

    def run() -> None:
        x = build(A, **options).solve(b, tol=RTOL, accel="cg")
        residual = np.linalg.norm(b - A @ x) / np.linalg.norm(b)
        if residual > 1.1 * RTOL:
            raise RuntimeError(f"pyamg reached {residual:.1e}")

    return run


def plane(n: int, repeats: int) -> None:
    grid = Grid.unit(n)
    a = get_problem("darcy").sample(np.random.default_rng(0))["a"](grid)
    system = discretize(a, 1.0, grid)
    A, b = system.matrix().tocsc(), system.rhs.ravel()
    ours = solve_diffusion(a, 1.0, grid, solver="structured")  # compiles

    def by(solver: str) -> Callable[[], object]:
        return lambda: solve_diffusion(a, 1.0, grid, solver=solver)

    calls: dict[str, tuple[Callable[[], object], int]] = {
        "opkit structured": (by("structured"), 4 * repeats),
        "scipy spsolve": (lambda: spla.spsolve(A, b), 1),
        "PyAMG Ruge-Stueben + CG": (peer(pyamg.ruge_stuben_solver, system), repeats),
        "opkit pyamg": (by("pyamg"), repeats),
        "opkit direct": (by("direct"), 1),
    }  # fmt: skip
    try:
        solve_diffusion(a, 1.0, grid, solver="fenicsx")
        calls["opkit fenicsx (P1, warm)"] = (by("fenicsx"), repeats)
    except ImportError as e:
        print(f"fenicsx left out: {e}")
    title = f"{n} x {n}, a = 3 | 12: {ours.iterations} iterations, residual {ours.residual:.1e}"
    show(title, race(calls), "spsolve >= 25 (aim 50), PyAMG >= 8 (aim 15)")


def smooth(grid: Grid) -> np.ndarray:
    """Sum of a few cosines, of unit size."""
    x, y, z = grid.meshgrid()
    s = np.cos(2 * np.pi * (x + y)) + np.cos(2 * np.pi * (y - 2 * z) + 1.0)
    return (s + np.cos(2 * np.pi * (2 * x - y + z) + 2.0)) / 3.0


def space(n: int, repeats: int) -> None:
    grid = Grid.unit(n, dim=3)
    field = smooth(grid)
    for name, a in {"exp(smooth)": np.exp(field), "3 | 12": np.where(field > 0, 12.0, 3.0)}.items():
        system = discretize(a, 1.0, grid)
        ours = solve_diffusion(a, 1.0, grid, solver="structured")  # compiles
        aggregation = peer(pyamg.smoothed_aggregation_solver, system, symmetry="symmetric")
        seconds = race(
            {
                "opkit structured": (
                    lambda a=a: solve_diffusion(a, 1.0, grid, solver="structured"), 4 * repeats,
                ),
                "PyAMG Ruge-Stueben + CG": (peer(pyamg.ruge_stuben_solver, system), repeats),
                "PyAMG smoothed aggregation + CG": (aggregation, repeats),
            }
        )  # fmt: skip
        title = f"{n}^3, a = {name}: {ours.iterations} iterations, residual {ours.residual:.1e}"
        show(title, seconds, "PyAMG (either) >= 5")


def repeated(n: int, repeats: int) -> None:
    grid = Grid.unit(n)
    rng = np.random.default_rng(0)
    a = get_problem("darcy").sample(rng)["a"](grid)
    f = rng.normal(size=(8, *grid.shape))
    for solver in ("structured", "pyamg", "direct"):

        def once(s: str = solver) -> None:
            solve_diffusion_batch(a, f, grid, solver=s)

        def anew(s: str = solver) -> None:
            for v in f:
                solve_diffusion(a, v, grid, solver=s)

        seconds = race({"set up once": (once, repeats), "set up anew": (anew, repeats)})
        show(f"{n} x {n}, 8 sources of one operator, solver {solver!r}", seconds, "> 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=421, help="points a side in 2-D")
    parser.add_argument("--n3", type=int, default=64, help="points a side in 3-D")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore", spla.MatrixRankWarning)
    with threadpool_limits(1):
        plane(args.n, args.repeats)
        space(args.n3, args.repeats)
        repeated(129, args.repeats)


if __name__ == "__main__":
    main()
