"""One call for the diffusion equation on a grid, whatever solves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .finite_volume import (
    BoundaryValues,
    Coefficient,
    FiniteVolumeSystem,
    check_coefficient,
    discretize,
)
from .grids import Grid, normalize_boundary
from .names import check_name
from .result import SolveResult

if TYPE_CHECKING:
    from .multigrid.structured import Prepared

__all__ = [
    "SOLVERS",
    "DiffusionOperator",
    "choose_solver",
    "prepare_diffusion",
    "solve_diffusion",
    "solve_diffusion_batch",
]

#: name -> one line for ``opkit list solvers``
SOLVERS = {
    "structured": "compiled: tridiagonal (1-D), black-box multigrid + CG (2-D, 3-D), grids",
    "pyamg": "PyAMG algebraic multigrid + CG on finite volumes, 1-D to 3-D",
    "direct": "sparse LU (SuperLU) on finite volumes, 1-D to 3-D",
    "fenicsx": "FEniCSx P1/P2 elements, PETSc CG + GAMG or MUMPS Cholesky, node grids",
}
#: Up to this variation of the ratio of couplings along two axes, ``"structured"`` converges fast.
MAX_VARIATION = 1000.0


def choose_solver(
    grid: Grid, boundary: str | tuple | list = "dirichlet", a: Coefficient | None = None
) -> str:
    """Name of the fastest solver for this grid.

    The compiled ones at all sizes (``benchmarks/bench_elliptic.py``). Only an anisotropic
    coefficient `a` (a sequence, one an axis) whose strong direction changes from place to place
    needs algebraic multigrid or, if small, a direct solve.

    Raises
    ------
    ValueError
        `boundary` or `a` does not fit the grid.
    """
    normalize_boundary(boundary, grid)
    if a is not None and not np.isscalar(a):
        fields = check_coefficient(a, grid)
        for k in range(1, grid.dim):
            if fields[k] is not fields[0]:
                ratio = fields[k] / fields[0]
                if ratio.max() > MAX_VARIATION * ratio.min():
                    is_small = np.prod(grid.shape) <= (100**2 if grid.dim == 2 else 16**3)
                    return "direct" if is_small else "pyamg"
    return "structured"


def solve_diffusion(
    a: Coefficient,
    f: float | np.ndarray,
    grid: Grid,
    *,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: BoundaryValues = 0.0,
    reaction: float | np.ndarray | None = None,
    average: str = "harmonic",
    solver: str | None = None,
    rtol: float = 1e-10,
    maxiter: int = 200,
    singular: str = "raise",
    **options: Any,
) -> SolveResult:
    """Solve ``-div(a grad u) + c u = f`` on a grid.

    Parameters
    ----------
    a : float, ndarray in the grid's shape, or a sequence of these, one an axis
        Positive coefficient at the points; several are the diagonal of a tensor.
    f : float or ndarray, shape of the grid
        Source at the points.
    grid : Grid
        1-D to 3-D, node or cell-centered.
    boundary : str or sequence
        ``"dirichlet"``, ``"neumann"``, ``"robin"`` or ``"periodic"``, one for all, per axis or per
        side.
    boundary_values : float or mapping ``(axis, side) -> value``
        Dirichlet values, outward fluxes ``a du/dn`` on Neumann sides, ``(alpha, beta, g)`` for
        ``alpha u + beta a du/dn = g`` on Robin sides (`solvers.finite_volume.Robin`).
    reaction : float or ndarray, optional
        ``c >= 0``.
    average : {"harmonic", "arithmetic"}
        Mean of `a` on a face (finite volumes).
    solver : {"structured", "pyamg", "direct", "fenicsx"}, optional
        Default: `choose_solver`.
    rtol : float
        Relative residual to reach.
    maxiter : int
    singular : {"raise", "project"}
        What to do with data that do not integrate to zero when no side is Dirichlet.
    **options
        Options of that one solver, such as ``degree=2`` for ``"fenicsx"``.

    Returns
    -------
    SolveResult
        `x` in the grid's shape, boundary values included; of zero mean when constants are free.

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge

    Examples
    --------
    >>> from solvers.grids import Grid
    >>> r = solve_diffusion(1.0, 1.0, Grid.unit(65))
    >>> round(float(r.x.max()), 4)  # the series gives 0.07367
    0.0737
    """
    return DiffusionOperator(
        a, grid, f=f, boundary=boundary, boundary_values=boundary_values, reaction=reaction,
        average=average, solver=solver, rtol=rtol, maxiter=maxiter, singular=singular, **options,
    )._first()  # fmt: skip


def prepare_diffusion(
    a: Coefficient,
    grid: Grid,
    *,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: BoundaryValues = 0.0,
    reaction: float | np.ndarray | None = None,
    average: str = "harmonic",
    solver: str | None = None,
    rtol: float = 1e-10,
    maxiter: int = 200,
    singular: str = "raise",
    **options: Any,
) -> DiffusionOperator:
    """Set up a solver for one coefficient and any number of sources.

    Parameters
    ----------
    boundary_values : float or mapping
        Boundary data of solves that bring none; `alpha` and `beta` of Robin sides in any case.
    a, grid, boundary, reaction, average, solver, rtol, maxiter, singular, **options
        As for `solve_diffusion`.

    Returns
    -------
    DiffusionOperator

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.

    Examples
    --------
    >>> from solvers.grids import Grid
    >>> op = prepare_diffusion(1.0, Grid.unit(65))
    >>> [round(float(op.solve(f).x.max()), 4) for f in (1.0, 2.0)]
    [0.0737, 0.1473]
    """
    return DiffusionOperator(
        a, grid, boundary=boundary, boundary_values=boundary_values, reaction=reaction,
        average=average, solver=solver, rtol=rtol, maxiter=maxiter, singular=singular, **options,
    )  # fmt: skip


def solve_diffusion_batch(
    a: Coefficient,
    f: float | np.ndarray,
    grid: Grid,
    *,
    reaction: float | np.ndarray | None = None,
    **arguments: Any,
) -> list[SolveResult]:
    """Solve for many samples: `solve_diffusion` of each, and bit for bit the same.

    Parameters
    ----------
    a, f, reaction : as for `solve_diffusion`, or with a leading axis of samples
        Those without it are shared by all samples. Where `a` and `reaction` are shared, the solver
        is set up once. A sequence, one an axis, has the leading axis in each of its arrays.
    grid : Grid
    **arguments
        As for `solve_diffusion`.

    Returns
    -------
    list of SolveResult

    Raises
    ------
    ValueError
        Numbers of samples that differ, or no array with a leading axis.
    SolverDidNotConverge
        The first sample that fails.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers.grids import Grid
    >>> f = np.ones((3, 65, 65)) * np.array([1.0, 2.0, 3.0])[:, None, None]
    >>> [round(float(r.x.max()), 3) for r in solve_diffusion_batch(1.0, f, Grid.unit(65))]
    [0.074, 0.147, 0.221]
    """
    counts: dict[str, int] = {}

    def samples(name: str, value: Any) -> Callable[[int], Any]:
        if isinstance(value, tuple | list):
            parts = [samples(f"{name}[{k}]", v) for k, v in enumerate(value)]
            return lambda i: [part(i) for part in parts]
        if isinstance(value, np.ndarray) and value.shape[1:] == grid.shape:
            counts[name] = len(value)
            return lambda i: value[i]
        return lambda i: value

    a_of, f_of, c_of = samples("a", a), samples("f", f), samples("reaction", reaction)
    if not counts or len(set(counts.values())) > 1:
        raise ValueError(
            f"samples counted by the leading axis: {counts}, expected one number; arrays of shape "
            f"{('n', *grid.shape)} have one"
        )
    n = next(iter(counts.values()))
    if set(counts) == {"f"}:
        operator = prepare_diffusion(a, grid, reaction=reaction, **arguments)
        return [operator.solve(f_of(i)) for i in range(n)]
    return [
        solve_diffusion(a_of(i), f_of(i), grid, reaction=c_of(i), **arguments) for i in range(n)
    ]


class DiffusionOperator:
    """A diffusion operator with a solver set up for it; made by `prepare_diffusion`.

    It serves one thread at a time.

    Attributes
    ----------
    grid : Grid
    solver : str
    setup_seconds : float
        Wall time of assembly and set-up, compilation excluded.
    """

    def __init__(
        self,
        a: Coefficient,
        grid: Grid,
        *,
        f: float | np.ndarray | None = None,
        boundary: str | tuple | list = "dirichlet",
        boundary_values: BoundaryValues = 0.0,
        reaction: float | np.ndarray | None = None,
        average: str = "harmonic",
        solver: str | None = None,
        rtol: float = 1e-10,
        maxiter: int = 200,
        singular: str = "raise",
        **options: Any,
    ) -> None:
        self.solver = choose_solver(grid, boundary, a) if solver is None else solver
        check_name("solver", self.solver, SOLVERS)
        if not 0 < rtol < 1:
            raise ValueError(f"rtol={rtol}: need a number between 0 and 1")
        if isinstance(maxiter, bool) or int(maxiter) != maxiter or maxiter < 1:
            raise ValueError(f"maxiter={maxiter}: need an integer >= 1")
        self.grid, self.rtol, self.maxiter = grid, float(rtol), int(maxiter)
        self.average, self.singular = average, singular
        self.boundary_values = boundary_values
        self._f = f
        self.setup_seconds = 0.0
        if self.solver == "fenicsx":
            if isinstance(a, tuple | list):
                raise ValueError(
                    "solver 'fenicsx' takes one coefficient, not one an axis: use 'structured', "
                    "'pyamg' or 'direct'"
                )
            self._arguments = {
                "a": a, "boundary": normalize_boundary(boundary, grid), "reaction": reaction,
                "rtol": rtol, "maxiter": maxiter, "singular": singular, **options,
            }  # fmt: skip
            return
        start = time.perf_counter()
        self._system = discretize(
            a, 0.0 if f is None else f, grid, boundary=boundary, boundary_values=boundary_values,
            reaction=reaction, average=average, singular="project" if f is None else singular,
        )  # fmt: skip
        self.setup_seconds = time.perf_counter() - start
        build = _setup(self.solver, self._system)
        start = time.perf_counter()
        self._prepared: Prepared = build(self._system, **options)
        self.setup_seconds += time.perf_counter() - start

    def solve(
        self, f: float | np.ndarray, boundary_values: BoundaryValues | None = None
    ) -> SolveResult:
        """Solve for one source.

        Parameters
        ----------
        f : float or ndarray, shape of the grid
        boundary_values : float or mapping, optional
            Default: those of `prepare_diffusion`.

        Returns
        -------
        SolveResult
            Its `seconds` leave out the set-up. The same bits as from `solve_diffusion`, whatever
            was solved before.

        Raises
        ------
        ValueError
            Also if `alpha` or `beta` of a Robin side differ from the operator's.
        SolverDidNotConverge
        """
        data = self.boundary_values if boundary_values is None else boundary_values
        if self.solver == "fenicsx":
            from .fenicsx.diffusion import solve_diffusion_fenicsx

            return solve_diffusion_fenicsx(
                f=f, grid=self.grid, boundary_values=data, **self._arguments
            )
        start = time.perf_counter()
        return self._run(self._system.with_data(f, data, singular=self.singular), start)

    def _first(self) -> SolveResult:
        """Solve for the source that came with the coefficient."""
        assert self._f is not None
        if self.solver == "fenicsx":
            return self.solve(self._f)
        return self._run(self._system, time.perf_counter() - self.setup_seconds)

    def _run(self, system: FiniteVolumeSystem, start: float) -> SolveResult:
        u, residuals, iterations, name = self._prepared.solve(
            system, rtol=self.rtol, maxiter=self.maxiter
        )
        seconds = time.perf_counter() - start
        residual = system.residual(u)
        if not residual <= self.rtol:
            raise system.failure(name, u, iterations=iterations, rtol=self.rtol)
        return SolveResult(
            x=system.embed(u), residual=residual, residuals=residuals, iterations=iterations,
            solver=name, seconds=seconds, info={"average": self.average},
        )  # fmt: skip


def _setup(solver: str, system: FiniteVolumeSystem) -> Callable[..., Prepared]:
    """Import and compile, which is no part of the time of a solve; return what sets it up."""
    if solver == "direct":
        from .direct import Factorization

        return Factorization
    if solver == "pyamg":
        import pyamg  # noqa: F401

        from .multigrid.pyamg import Hierarchy

        return Hierarchy
    from .multigrid.structured import compile_kernels, prepare

    compile_kernels(system)
    return prepare
