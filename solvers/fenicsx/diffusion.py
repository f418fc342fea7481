"""Lagrange elements for ``-div(a grad u) + c u = f`` on a node `Grid`, in 1-D to 3-D.

Find `u` in the space of continuous piecewise polynomials with the given Dirichlet values such that

    int a grad u . grad v + c u v dx = int f v dx + sum_sides int g v ds     for all v,

with `g` the outward flux ``a du/dn`` on Neumann sides; a Robin side ``alpha u + beta a du/dn = g``
adds ``int (alpha u - g) / beta v ds`` to the left. Mesh, spaces, compiled forms and what the
solver can know before it sees the coefficient (symbolic factorization, multigrid interpolation) are
kept for the grids used last.

With a communicator of several processes each holds a part of the mesh: they assemble and solve
together, and the values at the grid's points come to rank 0.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from ..finite_volume import check_field, face_values, robin_values
from ..grids import Boundary, Grid, normalize_boundary
from ..names import check_name
from ..result import SolverDidNotConverge, SolveResult
from ._runtime import agree, compile_forms, current_communicator, petsc, require_dolfinx

__all__ = ["CHOLESKY_MAX_DOFS", "choose_algebra", "clear_cache", "solve_diffusion_fenicsx"]

#: A function of coordinates, shape (dim, n) -> (n,).
Function = Callable[[np.ndarray], np.ndarray]
#: Values at the grid's points, or a function of the coordinates.
Data = float | np.ndarray | Function
SideValues = float | Function | Mapping[tuple[int, int], Any]

#: Up to so many degrees of freedom a factorization is the faster one, by dimension. Measured on one
#: core, symbolic analysis reused: in 2-D they break even near 513² (the factorization earlier ahead
#: the rougher the coefficient), in 3-D between 9³ and 17³; in 1-D factorization is O(n).
CHOLESKY_MAX_DOFS = {1: float("inf"), 2: 300_000, 3: 3_000}

CACHE_ENTRIES = 4
CACHE_DOFS = 1_000_000  # of all entries together; the newest one is kept whatever its size
_CELLS = {
    "triangle": ("interval", "triangle", "tetrahedron"),
    "quadrilateral": ("interval", "quadrilateral", "hexahedron"),
}
_cache: OrderedDict[tuple, _Discretization] = OrderedDict()
_lock = threading.RLock()  # PETSc objects serve one thread at a time


def choose_algebra(dim: int, dofs: int) -> Literal["cholesky", "gamg"]:
    """Faster linear solver for so many degrees of freedom."""
    return "cholesky" if dofs <= CHOLESKY_MAX_DOFS[dim] else "gamg"


def clear_cache() -> None:
    """Free all meshes, matrices and factorizations kept for later solves."""
    with _lock:
        while _cache:
            _cache.popitem()[1].destroy()


def solve_diffusion_fenicsx(
    a: Data,
    f: Data,
    grid: Grid,
    *,
    boundary: str | tuple | list = "dirichlet",
    boundary_values: SideValues = 0.0,
    reaction: Data | None = None,
    rtol: float = 1e-10,
    maxiter: int = 200,
    degree: int = 1,
    cell: str = "triangle",
    algebra: str | None = None,
    singular: str = "raise",
    exact: Function | None = None,
    comm: Any = None,
) -> SolveResult:
    """Solve ``-div(a grad u) + c u = f`` with Lagrange elements.

    Parameters
    ----------
    a, f : float, ndarray in the grid's shape, or callable
        Positive coefficient and source. Arrays are taken as piecewise linear functions of the mesh;
        callables get coordinates, shape (dim, n), and enter as polynomials of degree
        ``degree + 1``, so that they leave the order of the elements intact.
    grid : Grid
        Node axes, none periodic.
    boundary : str or sequence
        ``"dirichlet"``, ``"neumann"`` or ``"robin"``, see `solvers.grids.normalize_boundary`.
    boundary_values : float, callable, or mapping ``(axis, side) -> value``
        Dirichlet values, or outward fluxes ``a du/dn`` on Neumann sides; 0 for sides left out. A
        value is a number, an array in the shape of the face, or a callable; on Robin sides
        ``(alpha, beta, g)`` of three such, see `solvers.finite_volume.Robin`. Where Dirichlet sides
        meet, the later axis (then the upper side) wins.
    reaction : float, ndarray or callable, optional
        ``c >= 0``.
    rtol : float
        Relative residual to reach.
    maxiter : int
        Iterations of ``"gamg"``.
    degree : {1, 2}
        Of the elements. With arrays for `a` or `f`, degree 2 is still of second order only.
    cell : {"triangle", "quadrilateral"}
        Simplices or tensor-product cells: tetrahedra or hexahedra in 3-D, no difference in 1-D.
    algebra : {"cholesky", "gamg"}, optional
        Sparse factorization (MUMPS), or conjugate gradients with algebraic multigrid, whose
        interpolation is that of ``a = 1``, so that results do not depend on earlier solves.
        Default: `choose_algebra`.
    singular : {"raise", "project"}
        Without a Dirichlet side and reaction the data must integrate to zero: refuse others, or
        subtract a constant from `f`. Arrays are integrated with the grid's weights, callables
        by the elements, whose quadrature error calls for ``"project"``.
    exact : callable, optional
        Known solution: ``info["l2_error"]`` and ``info["h1_error"]`` are the norms of the error
        over the mesh, not at the nodes alone (less its mean where constants are free).
    comm : mpi4py.MPI.Comm, optional
        Processes that solve together, all called with the same arguments. Default: that of
        `solvers.fenicsx.communicator`, else this process alone.

    Returns
    -------
    SolveResult
        `x` at the grid's points, on rank 0 of `comm`, NaN on the others; of zero mean in the grid's
        weights when constants are free. The residual is that of the equations of the unknowns.
        `info` has `algebra`, `degree`, `cell`, `dofs` and `setup_seconds` (mesh, forms and
        analysis, 0 when kept from earlier).

    Raises
    ------
    ValueError
        Names the argument, its value and what is allowed.
    SolverDidNotConverge
        The residual stays above `rtol`.
    SolverUnavailable
        DOLFINx or a C compiler is missing; says what to install.

    References
    ----------
    .. [1] Baratta et al., "DOLFINx: the next generation FEniCS problem solving environment" (2023),
       doi:10.5281/zenodo.10447666.

    Examples
    --------
    >>> r = solve_diffusion_fenicsx(1.0, 1.0, Grid.unit(65))  # doctest: +SKIP
    >>> round(float(r.x.max()), 3)  # doctest: +SKIP
    0.074
    """
    bc = _check_grid(boundary, grid)
    check_name("cell", cell, _CELLS)
    check_name("singular", singular, ("raise", "project"))
    if algebra is not None:
        check_name("algebra", algebra, ("cholesky", "gamg"))
    if isinstance(degree, bool) or degree not in (1, 2):
        raise ValueError(f"degree={degree!r}: allowed are 1 and 2")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol}: need a number between 0 and 1")
    if isinstance(maxiter, bool) or int(maxiter) != maxiter or maxiter < 1:
        raise ValueError(f"maxiter={maxiter}: need an integer >= 1")
    data: dict[str, np.ndarray | Function] = {
        "a": a if callable(a) else check_field("a", a, grid, positive=True),
        "f": f if callable(f) else check_field("f", f, grid),
    }
    if callable(reaction):
        data["reaction"] = reaction
    elif reaction is not None:
        c = check_field("reaction", reaction, grid, nonnegative=True)
        if np.any(c):
            data["reaction"] = c
    sides = _check_sides(boundary_values, grid, bc)
    nodal = not any(map(callable, data.values())) and not any(
        callable(v)
        for key, value in sides.items()
        if bc[key[0]][key[1]] != "dirichlet"
        for v in (value if isinstance(value, tuple) else (value,))
    )

    require_dolfinx()
    with _lock:
        begin = time.perf_counter()
        disc, is_new = _discretization(
            current_communicator() if comm is None else comm,
            grid, bc, int(degree), cell, 1 if nodal else int(degree) + 1, "reaction" in data,
        )  # fmt: skip
        algebra = choose_algebra(grid.dim, disc.dofs) if algebra is None else algebra
        is_new |= disc.prepare(algebra)
        start = time.perf_counter()
        disc.set_data(data)
        lift = disc.assemble(sides)
        if disc.singular:
            total, scale = _imbalance(data["f"], sides, grid) if nodal else disc.imbalance()
            if singular == "raise" and abs(total) > 1e-10 * scale:
                raise ValueError(
                    f"f and the boundary fluxes integrate to {total:.3g}; without a Dirichlet side "
                    "they must integrate to 0 (singular='project' subtracts a constant from f)"
                )
            disc.balance()
        x, residual, residuals, iterations = disc.solve(algebra, rtol=rtol, maxiter=int(maxiter))
        x += lift
        values = disc.on_grid(x)
        if disc.singular:
            mean = float(np.sum(grid.weights * values)) if disc.comm.rank == 0 else 0.0
            mean = disc.comm.bcast(mean) / float(np.prod([hi - lo for lo, hi in grid.bounds]))
            values = values - mean
            x -= mean
        seconds = time.perf_counter() - start
        info: dict[str, Any] = {
            "algebra": algebra, "degree": int(degree), "cell": disc.cell, "dofs": disc.dofs,
            "setup_seconds": start - begin if is_new else 0.0,
        }  # fmt: skip
        if exact is not None:
            info["l2_error"], info["h1_error"] = disc.errors(x, exact)
    return SolveResult(
        x=values, residual=residual, residuals=residuals, iterations=iterations,
        solver=f"fenicsx.{'cg+gamg' if algebra == 'gamg' else 'mumps-cholesky'}",
        seconds=seconds, info=info,
    )  # fmt: skip


def _check_grid(boundary: str | tuple | list, grid: Grid) -> Boundary:
    for axis in grid.axes:
        if axis.periodic:
            raise ValueError(
                f"axis {axis.name!r} is periodic, solver 'fenicsx' has no periodic sides: "
                "use solver 'structured', 'pyamg' or 'direct'"
            )
        if axis.location != "node":
            raise ValueError(
                f"axis {axis.name!r} has location {axis.location!r}, solver 'fenicsx' needs 'node' "
                "axes: use solver 'structured', 'pyamg' or 'direct'"
            )
    for pair in (kinds := normalize_boundary(boundary, grid)):
        for kind in pair:
            check_name("boundary", kind, ("dirichlet", "neumann", "robin"))
    return kinds


def _check_sides(
    boundary_values: SideValues, grid: Grid, boundary: Boundary
) -> dict[tuple[int, int], Any]:
    """Array in the face's shape, or callable, for every side; on Robin sides a pair of them.

    The pair is ``alpha / beta`` and ``g / beta``.
    """
    sides: dict[tuple[int, int], Any] = {}
    numbers: Any = boundary_values
    if isinstance(boundary_values, Mapping):
        sides = {key: v for key, v in boundary_values.items() if callable(v)}
        numbers = {key: 0.0 if callable(v) else v for key, v in boundary_values.items()}
    elif callable(boundary_values):
        sides = {(k, s): boundary_values for k in range(grid.dim) for s in (0, 1)}
        numbers = 0.0
    for k in range(grid.dim):
        for side in (0, 1):
            if boundary[k][side] == "robin":
                given = numbers.get((k, side)) if isinstance(numbers, Mapping) else None
                if isinstance(given, tuple) and len(given) == 3 and any(map(callable, given)):
                    alpha, beta, g = given
                    sides[k, side] = (_quotient(alpha, beta), _quotient(g, beta))
                else:
                    alpha, beta, g = robin_values(numbers, grid, k, side)
                    sides[k, side] = (alpha / beta, g / beta)
                continue
            array = face_values(numbers, grid, k, side)  # checks the keys, too
            sides.setdefault((k, side), array)
    return sides


def _quotient(a: float | Function, b: float | Function) -> Function:
    """Quotient of functions of the coordinates, or of numbers."""
    return lambda x: np.divide(a(x) if callable(a) else a, b(x) if callable(b) else b)


def _imbalance(f: Any, sides: Mapping[tuple[int, int], Any], grid: Grid) -> tuple[float, float]:
    """Integral of source and fluxes, and of their absolute values, with the grid's weights."""
    parts = [grid.weights * f]
    for (k, _), g in sides.items():
        w = np.ones(())
        for i, axis in enumerate(grid.axes):
            if i != k:
                w = np.multiply.outer(w, axis.weights)
        parts.append(w * g)
    return sum(float(p.sum()) for p in parts), sum(float(np.abs(p).sum()) for p in parts)


def _discretization(
    comm: Any,
    grid: Grid,
    boundary: Boundary,
    degree: int,
    cell: str,
    data_degree: int,
    has_reaction: bool,
) -> tuple[_Discretization, bool]:
    """Return the one kept for these arguments, or make it; and whether it is new."""
    from mpi4py import MPI

    same = (MPI.IDENT, MPI.CONGRUENT)
    key = (grid.shape, grid.bounds, boundary, degree, cell, data_degree, has_reaction, comm.size)
    if key in _cache:
        if MPI.Comm.Compare(comm, _cache[key].comm) in same:
            _cache.move_to_end(key)
            return _cache[key], False
        _cache.pop(key).destroy()
    disc = _Discretization(comm, grid, boundary, degree, cell, data_degree, has_reaction)
    _cache[key] = disc
    # by size of the communicator: what one process solves alone must not make it drop what it
    # shares, which all have to drop together
    mine = [k for k in _cache if k[-1] == comm.size]
    while len(mine) > 1 and (
        len(mine) > CACHE_ENTRIES or sum(_cache[k].dofs for k in mine) > CACHE_DOFS
    ):
        _cache.pop(mine.pop(0)).destroy()
    return disc, True


class _Discretization:
    """Everything about one grid that does not depend on the data, and the objects it fills.

    The matrix has the rows and columns of Dirichlet values replaced by those of the identity, and
    the right-hand side is 0 there: the solver sees the unknowns alone.
    """

    def __init__(
        self,
        comm: Any,
        grid: Grid,
        boundary: Boundary,
        degree: int,
        cell: str,
        data_degree: int,
        has_reaction: bool,
    ) -> None:
        import ufl
        from dolfinx import fem, mesh
        from dolfinx.fem.petsc import create_matrix

        PETSc = petsc()
        self.grid, self.boundary, self.degree = grid, boundary, degree
        self.cell = _CELLS[cell][grid.dim - 1]
        dim = grid.dim
        corners = [[lo for lo, _ in grid.bounds], [hi for _, hi in grid.bounds]]
        cells = [n - 1 for n in grid.shape]
        kind = mesh.CellType[self.cell]
        if dim == 1:
            self.mesh = mesh.create_interval(comm, cells[0], [c[0] for c in corners])
        elif dim == 2:
            self.mesh = mesh.create_rectangle(comm, corners, cells, cell_type=kind)
        else:
            self.mesh = mesh.create_box(comm, corners, cells, cell_type=kind)

        self.comm = comm = self.mesh.comm
        self.V = fem.functionspace(self.mesh, ("Lagrange", degree))
        self.W1 = self.V if degree == 1 else fem.functionspace(self.mesh, ("Lagrange", 1))
        self.W = (
            self.W1 if data_degree == 1 else fem.functionspace(self.mesh, ("Lagrange", data_degree))
        )
        self.dofs = int(self.V.dofmap.index_map.size_global)
        self.owned = int(self.V.dofmap.index_map.size_local)  # come first; then ghosts
        self.points = self._grid_points(self.V)
        self.points1 = self.points if self.W1 is self.V else self._grid_points(self.W1)
        self._prepare_gather()

        # Coefficients; the boundary flux is filled side by side
        self.a, self.f, self.c, self.g = (fem.Function(self.W) for _ in range(4))
        self.has_reaction = has_reaction
        u, v = ufl.TrialFunction(self.V), ufl.TestFunction(self.V)
        # Exact for the polynomials at hand (tensor cells: in each direction)
        is_simplex = cell == "triangle" or dim == 1
        loss = 2 if is_simplex else 0  # degrees that two gradients take away

        def over(measure: str, q: int, facets: np.ndarray | None = None) -> Any:
            options: dict[str, Any] = {"metadata": {"quadrature_degree": q}, "domain": self.mesh}
            if facets is not None:
                tags = mesh.meshtags(self.mesh, dim - 1, facets, np.ones(len(facets), np.int32))
                options |= {"subdomain_data": tags, "subdomain_id": 1}
            return ufl.Measure(measure, **options)

        forms = [
            self.a
            * ufl.inner(ufl.grad(u), ufl.grad(v))
            * over("dx", 2 * degree - loss + data_degree),
            self.c * u * v * over("dx", 2 * degree + data_degree),
            self.f * v * over("dx", degree + data_degree),
        ]
        self.mesh.topology.create_connectivity(dim - 1, dim)
        fixed: dict[tuple[int, int], np.ndarray] = {}
        neumann: list[tuple[int, int]] = []  # and Robin, both have a flux
        self.transfer: dict[tuple[int, int], Any] = {}  # alpha / beta on Robin sides
        losses: list[Any] = []
        self.side_dofs: dict[tuple[int, int], np.ndarray] = {}
        for k, pair in enumerate(boundary):
            for side, name in enumerate(pair):
                end, tol = grid.bounds[k][side], 1e-6 * grid.spacing[k]
                facets = mesh.locate_entities_boundary(
                    self.mesh, dim - 1, lambda x, k=k, end=end, tol=tol: np.abs(x[k] - end) < tol
                )
                space = self.V if name == "dirichlet" else self.W
                dofs = fem.locate_dofs_topological(space, dim - 1, facets)
                self.side_dofs[k, side] = dofs
                if name == "dirichlet":
                    fixed[k, side] = dofs
                else:
                    neumann.append((k, side))
                    forms.append(self.g * v * over("ds", degree + data_degree, facets))
                if name == "robin":
                    self.transfer[k, side] = fem.Function(self.W)
                    ds = over("ds", 2 * degree + data_degree, facets)
                    losses.append(self.transfer[k, side] * u * v * ds)
        forms += losses
        self.stiffness, self.mass, self.load, *others = compile_forms(forms, comm=comm)
        self.flux = dict(zip(neumann, others, strict=False))
        self.loss = others[len(neumann) :]

        self.fixed = np.unique(np.concatenate([np.empty(0, np.int32), *fixed.values()]))
        n_fixed = self._sum(int(np.count_nonzero(self.fixed < self.owned)))
        if n_fixed == self.dofs:
            raise ValueError(f"a grid of shape {grid.shape} leaves no unknown: need more points")
        self.has_fixed = n_fixed > 0
        self.singular = not self.has_fixed and not has_reaction and not self.loss
        zero = fem.Function(self.V)
        self.bcs = [fem.dirichletbc(zero, self.fixed.astype(np.int32))] if self.has_fixed else []

        self.A = create_matrix(self.stiffness)
        self.A.setOption(PETSc.Mat.Option.SPD, True)
        self.pinned: Any = None  # A without the row and column of one unknown, when singular
        self.b, self.x, self.r = (self.A.createVecLeft() for _ in range(3))
        self.work = fem.Function(self.V)  # a right-hand side with the ghosts' share
        self.kernel: Any = None
        if self.singular:
            self.kernel = PETSc.NullSpace().create(constant=True, comm=comm)
            self.A.setNullSpace(self.kernel)
        self.ones: np.ndarray | None = None
        self.ksp: dict[str, Any] = {}

    def _sum(self, value: Any) -> Any:
        """Sum over the processes."""
        return self.comm.allreduce(value) if self.comm.size > 1 else value

    def _grid_points(self, space: Any) -> np.ndarray:
        """Grid point of each degree of freedom, numbered in C order; -1 for those between."""
        x = space.tabulate_dof_coordinates()
        index = np.empty((self.grid.dim, len(x)), dtype=np.intp)
        at_node = np.ones(len(x), dtype=bool)
        for k, axis in enumerate(self.grid.axes):
            s = (x[:, k] - axis.lower) / axis.spacing
            index[k] = np.rint(s)
            at_node &= np.abs(s - index[k]) < 1e-3  # others lie midway
        at_node &= np.all((index >= 0) & (index < np.reshape(self.grid.shape, (-1, 1))), axis=0)
        out = np.full(len(x), -1, dtype=np.intp)
        out[at_node] = np.ravel_multi_index(tuple(index[:, at_node]), self.grid.shape)
        return out

    def _prepare_gather(self) -> None:
        """Where on rank 0 the owned values of all processes belong."""
        self._nodes = np.flatnonzero(self.points[: self.owned] >= 0)
        mine, size = self.points[self._nodes], self.comm.size
        parts = [mine] if size == 1 else self.comm.gather(mine)
        self._counts = [len(p) for p in parts] if parts is not None else None
        self._places = np.concatenate(parts) if parts is not None else np.empty(0, np.intp)
        wrong = ""
        if self.comm.rank == 0:
            n = math.prod(self.grid.shape)
            if not np.array_equal(np.bincount(self._places, minlength=n), np.ones(n, int)):
                wrong = f"mesh and grid {self.grid.shape} do not match"
        if wrong := self.comm.bcast(wrong) if size > 1 else wrong:
            raise RuntimeError(wrong)

    def on_grid(self, x: np.ndarray) -> np.ndarray:
        """Values at the grid's points from the owned ones; on other ranks than 0 NaN."""
        mine = np.ascontiguousarray(x[self._nodes])
        if self.comm.size > 1:
            together = np.empty(len(self._places))
            self.comm.Gatherv(mine, (together, self._counts))
            mine = together
        if self.comm.rank != 0:
            return np.broadcast_to(np.nan, self.grid.shape)
        out = np.empty(math.prod(self.grid.shape))
        out[self._places] = mine
        return out.reshape(self.grid.shape)

    def _on_face(self, points: np.ndarray, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Degrees of freedom at grid points of a side, and their numbers on that face."""
        axis, side = key
        dofs = np.flatnonzero(points >= 0)
        index = list(np.unravel_index(points[dofs], self.grid.shape))
        there = index.pop(axis) == side * (self.grid.shape[axis] - 1)
        shape = self.grid.shape[:axis] + self.grid.shape[axis + 1 :]
        if not shape:
            return dofs[there], np.zeros(np.count_nonzero(there), np.intp)
        return dofs[there], np.ravel_multi_index(tuple(i[there] for i in index), shape)

    def _points(self, space: Any) -> np.ndarray:
        """Coordinates of the degrees of freedom, shape (dim, n)."""
        return np.ascontiguousarray(space.tabulate_dof_coordinates().T[: self.grid.dim])

    # --- data ---------------------------------------------------------------------------

    def set_data(self, data: Mapping[str, Any]) -> None:
        """Fill coefficient, source and reaction."""
        self._fill(self.a, data["a"], "a")
        low = np.min(self.a.x.array, initial=np.inf)
        agree(self.comm, f"a must be positive, its minimum is {low:.6g}" if low <= 0 else "")
        self._fill(self.f, data["f"], "f")
        if self.has_reaction:
            self._fill(self.c, data["reaction"], "reaction")
            low = np.min(self.c.x.array, initial=np.inf)
            wrong = f"reaction must not be negative, its minimum is {low:.6g}" if low < 0 else ""
            agree(self.comm, wrong)
            if not self.has_fixed and not self._sum(int(np.any(self.c.x.array))):
                raise ValueError("reaction is 0 everywhere: leave it out")

    def _fill(self, function: Any, value: Any, name: str) -> None:
        if callable(value):
            function.x.array[:] = self._evaluate(value, self._points(self.W), name)
        elif self.W is self.W1:
            function.x.array[:] = np.ravel(value)[self.points1]
        else:
            function.interpolate(self._linear(slice(None), np.ravel(value)[self.points1]))

    def _evaluate(self, function: Function, points: np.ndarray, name: str) -> np.ndarray:
        """Values at points; what is wrong in the part of one process is an error on all."""
        values, problem = np.empty(0), ""
        try:
            values = _evaluate(function, points, name)
        except ValueError as e:
            problem = str(e)
        agree(self.comm, problem)  # before any of them goes on to wait for the others
        return values

    def _linear(self, dofs: np.ndarray | slice, value: Any) -> Any:
        """Piecewise linear function with these values, 0 elsewhere."""
        from dolfinx import fem

        function = fem.Function(self.W1)
        function.x.array[dofs] = value
        return function

    def _side(self, key: tuple[int, int], value: Any, space: Any) -> np.ndarray:
        """Coefficients in `space` of the values on one side, for its degrees of freedom there."""
        from dolfinx import fem

        dofs = self.side_dofs[key]
        if callable(value):
            name = f"boundary_values{list(key)}"
            return self._evaluate(value, self._points(space)[:, dofs], name)
        face, place = self._on_face(self.points1, key)
        function = self._linear(face, np.ravel(value)[place])
        if space is not self.W1:
            higher = fem.Function(space)
            higher.interpolate(function)
            if space is self.V:  # without the rounding of the interpolation
                face, place = self._on_face(self.points, key)
                higher.x.array[face] = np.ravel(value)[place]
            function = higher
        return np.array(function.x.array[dofs])

    # --- equations ----------------------------------------------------------------------

    def assemble(self, sides: Mapping[tuple[int, int], Any]) -> np.ndarray:
        """Assemble matrix and right-hand side; return the owned Dirichlet values, else 0."""
        from dolfinx import la
        from dolfinx.fem import assemble_vector
        from dolfinx.fem.petsc import assemble_matrix

        lift, fluxes = np.zeros(len(self.work.x.array)), {}
        for key in sorted(sides):  # the later axis and side win
            if self.boundary[key[0]][key[1]] == "dirichlet":
                lift[self.side_dofs[key]] = self._side(key, sides[key], self.V)
                continue
            value = sides[key]
            if isinstance(value, tuple):
                transfer = self._side(key, value[0], self.W)
                wrong = f"boundary_values{list(key)}: alpha / beta is negative"
                agree(self.comm, wrong if np.any(transfer < 0) else "")
                self.transfer[key].x.array[self.side_dofs[key]] = transfer
                value = value[1]
            if _is_nonzero(value):
                fluxes[key] = self._side(key, value, self.W)
        if self.loss and not self.has_fixed and not self.has_reaction:
            total = sum(float(t.x.array.sum()) for t in self.transfer.values())
            if not self._sum(total) > 0:
                raise ValueError("alpha is 0 on all Robin sides: make them 'neumann' sides")
        rhs = self.work.x.array
        rhs[:] = 0.0
        assemble_vector(rhs, self.load)
        for key, values in fluxes.items():
            self.g.x.array[:] = 0.0
            self.g.x.array[self.side_dofs[key]] = values
            assemble_vector(rhs, self.flux[key])
        if self._sum(int(np.any(lift))):
            self._lift(rhs, lift)
        self.work.x.scatter_reverse(la.InsertMode.add)
        rhs[self.fixed] = 0.0
        self.b.getArray()[:] = rhs[: self.owned]

        self.A.zeroEntries()
        forms = self._bilinear()
        for form in forms:  # the first one fills the whole pattern, the last one sets the diagonal
            assemble_matrix(self.A, form, self.bcs, diag=1.0 if form is forms[-1] else 0.0)
            self.A.assemble()
        return lift[: self.owned]

    def _bilinear(self) -> list[Any]:
        return [self.stiffness, *([self.mass] if self.has_reaction else []), *self.loss]

    def _lift(self, rhs: np.ndarray, lift: np.ndarray) -> None:
        from dolfinx import fem

        values = fem.Function(self.V)
        values.x.array[:] = lift
        bc = [fem.dirichletbc(values, self.fixed.astype(np.int32))]
        forms = self._bilinear()
        fem.apply_lifting(rhs, forms, [bc] * len(forms))

    def imbalance(self) -> tuple[float, float]:
        """Integral of source and fluxes, and of their absolute values, by the elements."""
        rhs = self.b.getArray()
        return self._sum(float(rhs.sum())), self._sum(float(np.abs(rhs).sum()))

    def balance(self) -> None:
        """Subtract the constant from `f` that makes the equations solvable."""
        from dolfinx import la
        from dolfinx.fem import assemble_vector

        if self.ones is None:  # int v dx
            source = self.f.x.array.copy()
            self.f.x.array[:] = 1.0
            self.work.x.array[:] = 0.0
            assemble_vector(self.work.x.array, self.load)
            self.work.x.scatter_reverse(la.InsertMode.add)
            self.ones = self.work.x.array[: self.owned].copy()
            self.f.x.array[:] = source
        rhs = self.b.getArray()
        rhs -= self.ones * (self._sum(rhs.sum()) / self._sum(self.ones.sum()))

    # --- algebra ------------------------------------------------------------------------

    def prepare(self, algebra: str) -> bool:
        """Analyze the matrix of ``a = 1`` for a solver; whether there was anything to do."""
        PETSc = petsc()

        if algebra in self.ksp:
            return False
        ksp = PETSc.KSP().create(comm=self.comm)
        options = {"ksp_norm_type": "unpreconditioned", "ksp_type": "cg", "pc_type": "gamg",
                   "pc_gamg_reuse_interpolation": True}  # fmt: skip
        h = self.grid.spacing
        if self.grid.dim == 2 or max(h) > 2 * min(h):  # cheaper without on isotropic 3-D meshes
            options["pc_gamg_threshold"] = 0.02
        if algebra == "cholesky":
            options = {"ksp_type": "preonly", "pc_type": "cholesky",
                       "pc_factor_mat_solver_type": "mumps", "mat_mumps_icntl_14": 50}  # fmt: skip
        prefix = f"opkit_fenicsx_{id(self)}_{algebra}_"
        database = PETSc.Options()
        ksp.setOptionsPrefix(prefix)
        for key, value in options.items():
            database[prefix + key] = value
        ksp.setFromOptions()
        self.ksp[algebra] = ksp
        self.a.x.array[:] = 1.0
        self.c.x.array[:] = 0.0 if self.has_fixed else 1.0
        shape = self.grid.shape
        ones = {(k, s): np.ones(shape[:k] + shape[k + 1 :]) for k, s in self.transfer}
        self.assemble({key: (one, 0.0) for key, one in ones.items()})
        ksp.setOperators(self._operator(algebra))
        ksp.setUp()
        for key in options:
            database.delValue(prefix + key)
        return True

    def _operator(self, algebra: str) -> Any:
        """Matrix that the solver gets."""
        PETSc = petsc()

        if algebra == "gamg" or not self.singular:
            return self.A
        # The equations are consistent: with one unknown set to 0 the one left out holds as well
        if self.pinned is None:
            self.pinned = self.A.duplicate(copy=False)
            self.pinned.setOption(PETSc.Mat.Option.SPD, True)
        self.A.copy(self.pinned, structure=PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
        self.pinned.zeroRowsColumns([0] if self.comm.rank == 0 else [], diag=1.0)
        return self.pinned

    def solve(
        self, algebra: str, *, rtol: float, maxiter: int
    ) -> tuple[np.ndarray, float, np.ndarray, int]:
        """Solve what `assemble` left, and measure the residual.

        Rounding parts the residual that the iteration carries along from the true one, more so the
        finer the mesh; the solve is then repeated for the remaining residual.
        """
        ksp = self.ksp[algebra]
        ksp.setOperators(self._operator(algebra))
        name = "fenicsx.cg+gamg" if algebra == "gamg" else "fenicsx.mumps-cholesky"
        norm = float(self.b.norm())
        x = np.zeros(self.owned)
        if norm == 0.0:
            return x, 0.0, np.zeros(1), 0
        self.b.copy(self.r)
        history, iterations, residual, before = [1.0], 0, 1.0, np.inf
        while not residual <= rtol and residual < 0.5 * before and iterations < maxiter:
            if self.singular:
                rest = self.r.getArray()
                rest -= self._sum(rest.sum()) / self.dofs
                if algebra == "cholesky" and self.comm.rank == 0:
                    rest[0] = 0.0
            goal = 0.9 * rtol * norm / float(self.r.norm())
            ksp.setTolerances(rtol=min(goal, 0.9), atol=0.0, max_it=maxiter - iterations)
            ksp.setConvergenceHistory(reset=True)
            ksp.solve(self.r, self.x)
            x += self.x.getArray()
            if algebra == "gamg":
                iterations += int(ksp.getIterationNumber())
                history += [float(v) / norm for v in ksp.getConvergenceHistory()[1:]]
            self.x.getArray()[:] = x
            self.A.mult(self.x, self.r)
            self.r.aypx(-1.0, self.b)
            before, residual = residual, float(self.r.norm()) / norm
        if not residual <= rtol:
            raise SolverDidNotConverge(name, iterations=iterations, residual=residual, rtol=rtol)
        residuals = np.array(history if algebra == "gamg" else [residual])
        return x, residual, residuals, iterations

    def errors(self, x: np.ndarray, exact: Function) -> tuple[float, float]:
        """L2 and H1 norm of the error, `exact` interpolated two degrees above the elements."""
        import ufl
        from dolfinx import fem

        space = fem.functionspace(self.mesh, ("Lagrange", self.degree + 2))
        solution, truth = fem.Function(self.V), fem.Function(space)
        solution.x.array[: self.owned] = x
        solution.x.scatter_forward()
        truth.x.array[:] = _evaluate(exact, self._points(space), "exact")
        dx = ufl.dx(domain=self.mesh, metadata={"quadrature_degree": 2 * self.degree + 4})
        e = solution - truth
        mean, square, slope = (
            self._sum(float(fem.assemble_scalar(form)))
            for form in compile_forms(
                [e * dx, e**2 * dx, ufl.inner(ufl.grad(e), ufl.grad(e)) * dx], comm=self.comm
            )
        )
        if self.singular:
            square -= mean**2 / float(np.prod([hi - lo for lo, hi in self.grid.bounds]))
        square = max(square, 0.0)
        return float(np.sqrt(square)), float(np.sqrt(square + slope))

    def destroy(self) -> None:
        """Free the PETSc objects, before the mesh whose communicator they share."""
        vectors = (self.b, self.x, self.r)
        for item in (*self.ksp.values(), self.pinned, self.A, *vectors, self.kernel):
            if item is not None:
                item.destroy()
        self.ksp.clear()


def _evaluate(function: Function, points: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(function(points), dtype=np.float64)
    if values.shape not in ((), points.shape[1:]):
        raise ValueError(
            f"{name} returned shape {values.shape} for coordinates of shape {points.shape}, "
            f"expected {points.shape[1:]}"
        )
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} holds NaN or infinity")
    return np.broadcast_to(values, points.shape[1:])


def _is_nonzero(value: Any) -> bool:
    return callable(value) or bool(np.any(value))
