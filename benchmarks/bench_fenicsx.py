"""Repeated finite-element solves on one mesh: how much of the time is neither assembly nor solve.

``python benchmarks/bench_fenicsx.py`` prints, for each form family, the time of a solve with new
data on a mesh used before, and the shares of

- assembly: DOLFINx's loops over cells, the data at their quadrature points, and in time steps the
  products of matrices that make the right-hand side,
- solve: factorization and substitution by MUMPS,
- rest: everything else, Python above all; asked for is less than 10 %,

and the time of the first solve on a mesh (spaces, patterns, symbolic factorization, forms loaded
from the cache). One core, one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np


class Clock:
    """Adds up the time spent in functions, the outermost one counting."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"assembly": 0.0, "solve": 0.0}
        self.depth = 0

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self.depth:
                return function(*args, **kwargs)
            self.depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[kind] += time.perf_counter() - start
                self.depth -= 1

        return wrapper


def cases(cells: int) -> dict[str, tuple[Callable[[], Any], Callable[[Any, float], Any]]]:
    from solvers.fenicsx import (
        Diffusion,
        Elasticity,
        Heat,
        Hyperelasticity,
        NavierStokes,
        Stokes,
        channel,
        circle,
        plate_with_holes,
        triangulate,
    )

    plate = triangulate(plate_with_holes([circle((0.5, 0.5), 0.2)]), 1 / cells)
    pipe = triangulate(channel(2, 1, [circle((0.5, 0.45), 0.15)]), 2 / cells)

    def a(s: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.exp(np.sin(5 * x[0] + s) * np.cos(4 * x[1]))

    def walls(s: float) -> dict[str, Any]:
        return {
            "wall": 0.0,
            "hole": 0.0,
            "inlet": lambda x: np.stack([(4 + s) * x[1] * (1 - x[1]), 0 * x[0]]),
        }

    return {
        "diffusion P1": (lambda: Diffusion(plate), lambda f, s: f.solve(a(s), 1.0)),
        "diffusion P2": (lambda: Diffusion(plate, degree=2), lambda f, s: f.solve(a(s), 1.0)),
        "heat P1": (
            lambda: Heat(plate),
            lambda f, s: f.solve(a(s), [0.0, 0.05, 0.1], k=a(-s), time_tol=1e-3),
        ),
        "elasticity": (
            lambda: Elasticity(plate),
            lambda f, s: f.solve(a(s), 1.0, {"bottom": 0.0}, traction={"top": (0.0, 1.0)}),
        ),
        "hyperelasticity": (
            lambda: Hyperelasticity(plate),
            lambda f, s: f.solve(1.0, 1.0, {"bottom": 0.0, "top": (0.0, 0.2 + s / 100)}),
        ),
        "Stokes": (lambda: Stokes(pipe), lambda f, s: f.solve(1.0, walls(s))),
        "Navier-Stokes": (lambda: NavierStokes(pipe), lambda f, s: f.solve(0.02, walls(s))),
    }


def main(cells: int = 64, repeats: int = 5) -> dict[str, dict[str, float]]:
    import solvers.fenicsx._algebra as algebra
    import solvers.fenicsx.conduction as conduction
    from solvers.fenicsx._runtime import require_dolfinx
    from solvers.fenicsx._space import FemMesh

    require_dolfinx()
    from dolfinx import fem

    out = {}
    print(f"{'family':<18}{'dofs':>8}{'first':>9}{'repeated':>10}  assembly   solve    rest")
    for name, (make, solve) in cases(cells).items():
        clock = Clock()
        begin = time.perf_counter()
        family = make()
        r = solve(family, 0.0)
        first = time.perf_counter() - begin
        with (
            patch.object(fem, "assemble_matrix", clock.timed("assembly", fem.assemble_matrix)),
            patch.object(fem, "assemble_vector", clock.timed("assembly", fem.assemble_vector)),
            patch.object(FemMesh, "at_quadrature", clock.timed("assembly", FemMesh.at_quadrature)),
            patch.object(conduction, "product", clock.timed("assembly", conduction.product)),
            patch.object(FemMesh, "fill", clock.timed("assembly", FemMesh.fill)),
            patch.object(
                algebra.System, "set_matrix", clock.timed("solve", algebra.System.set_matrix)
            ),
            patch.object(algebra.System, "solve", clock.timed("solve", algebra.System.solve)),
            patch.object(
                algebra.System, "direction", clock.timed("solve", algebra.System.direction)
            ),
        ):
            begin = time.perf_counter()
            for k in range(repeats):
                solve(family, 0.1 * (k + 1))
            total = time.perf_counter() - begin
        share = {k: v / total for k, v in clock.seconds.items()}
        share["rest"] = 1 - sum(share.values())
        out[name] = share
        print(
            f"{name:<18}{r.info['dofs']:>8}{first:>8.3f}s{total / repeats:>9.4f}s"
            f"{share['assembly']:>10.1%}{share['solve']:>8.1%}{share['rest']:>8.1%}"
        )
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=64, help="across the domain")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    main(args.cells, args.repeats)
