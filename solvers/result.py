"""What a solver returns, and what it raises when it did not solve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["SolveResult", "SolverDidNotConverge", "SolverUnavailable"]


@dataclass(frozen=True)
class SolveResult:
    """A converged solution together with the evidence for it.

    Attributes
    ----------
    x : ndarray
        The solution, boundary values included, in the shape of the grid (or one
        value a degree of freedom for a mesh).
    residual : float
        Relative algebraic residual ``||b - A x|| / ||b||`` in float64, recomputed from `x`
        after the solver ended, not the solver's own claim.
    residuals : ndarray, shape (iterations + 1,)
        Relative residual after each iteration, as the iteration saw it; direct
        solvers have one entry.
    iterations : int
        Iterations of the outer solver; 0 for a direct one.
    solver : str
        What solved it, such as ``"structured.boxmg+cg"``.
    seconds : float
        Wall time of assembly and solution; mesh and code generation excluded.
    converged : bool
        Always true: a solver that fails raises `SolverDidNotConverge`.
    info : dict
        Anything else worth keeping, plain values only.
    """

    x: np.ndarray
    residual: float
    residuals: np.ndarray
    iterations: int
    solver: str
    seconds: float
    converged: bool = True
    info: dict[str, Any] = field(default_factory=dict)


class SolverDidNotConverge(RuntimeError):
    """The solver stopped short of its tolerance.

    Parameters
    ----------
    solver : str
    iterations : int
    residual : float
        Relative residual reached.
    rtol : float
        Relative residual asked for.
    note : str
        Why, if known, and what to do.
    """

    def __init__(
        self, solver: str, *, iterations: int, residual: float, rtol: float, note: str = ""
    ) -> None:
        self.solver, self.iterations = solver, int(iterations)
        self.residual, self.rtol, self.note = float(residual), float(rtol), note
        super().__init__(
            f"{solver} did not converge: residual {self.residual:.2e} after "
            f"{self.iterations} iterations, asked for {self.rtol:.1e}" + (note and f"; {note}")
        )

    def __reduce__(self) -> tuple[Any, ...]:  # worker processes send it back
        return _rebuild, (self.solver, self.iterations, self.residual, self.rtol, self.note)


def _rebuild(
    solver: str, iterations: int, residual: float, rtol: float, note: str
) -> SolverDidNotConverge:
    return SolverDidNotConverge(
        solver, iterations=iterations, residual=residual, rtol=rtol, note=note
    )


class SolverUnavailable(ImportError):
    """A solver whose package is not installed; the message says what to install."""
