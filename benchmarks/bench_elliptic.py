"""Darcy with coefficients 3 / 12 at 421 x 421, residual 1e-10, one core: opkit against the peers.

Prints ratios measured in one run: on shared machines only these mean anything.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pyamg
import scipy.sparse.linalg as spla
from threadpoolctl import threadpool_limits

from pde_data.problem import get_problem
from solvers.diffusion import solve_diffusion
from solvers.finite_volume import discretize
from solvers.grids import Grid


def timed(call, repeats: int) -> float:
    """Smallest wall time of `repeats` calls."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=421)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    n, grid = args.n, Grid.unit(args.n)
    a = get_problem("darcy").sample(np.random.default_rng(0))["a"](grid)
    system = discretize(a, 1.0, grid)
    A, b = system.matrix(), system.rhs.ravel()
    ours = solve_diffusion(a, 1.0, grid, solver="structured")  # compiles

    def peer_pyamg() -> None:
        ml = pyamg.ruge_stuben_solver(A)
        x = ml.solve(b, tol=1e-10, accel="cg")
        residual = np.linalg.norm(b - A @ x) / np.linalg.norm(b)
        if residual > 1.1e-10:
            raise RuntimeError(f"pyamg reached {residual:.1e}")

    warnings.simplefilter("ignore", spla.MatrixRankWarning)
    with threadpool_limits(1):
        seconds = {
            "opkit structured (assembly included)": timed(
                lambda: solve_diffusion(a, 1.0, grid, solver="structured"), 2 * args.repeats
            ),
            "scipy spsolve": timed(lambda: spla.spsolve(A.tocsc(), b), 1),
            "PyAMG Ruge-Stueben + CG": timed(peer_pyamg, args.repeats),
            "opkit direct": timed(lambda: solve_diffusion(a, 1.0, grid, solver="direct"), 1),
        }
        try:
            solve_diffusion(a, 1.0, grid, solver="fenicsx")
            seconds["opkit fenicsx (P1, warm)"] = timed(
                lambda: solve_diffusion(a, 1.0, grid, solver="fenicsx"), args.repeats
            )
        except ImportError as e:
            print(f"fenicsx left out: {e}")
    base = seconds["opkit structured (assembly included)"]
    print(f"{n} x {n}, {ours.iterations} iterations, residual {ours.residual:.1e}")
    for name, s in seconds.items():
        print(f"{name:40s} {1e3 * s:9.1f} ms   ratio {s / base:6.1f}")
    print("required: spsolve >= 25 (aim 50), PyAMG >= 8 (aim 15)")


if __name__ == "__main__":
    main()
