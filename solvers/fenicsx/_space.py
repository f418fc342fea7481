"""A triangulation in DOLFINx: spaces, numbering, data at quadrature points, compiled forms."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..names import check_name
from ._runtime import _exclusive, _missing_tool, cache_dir, require_dolfinx
from .geometry import Triangulation

__all__ = ["Data", "FemMesh", "abstract_space", "compile_abstract", "fem_mesh"]

#: A number, values at the points of the triangulation, or a function of coordinates, shape (2, n).
Data = float | np.ndarray | Callable[[np.ndarray], Any]

_meshes: weakref.WeakKeyDictionary[Triangulation, FemMesh] = weakref.WeakKeyDictionary()


def fem_mesh(mesh: Triangulation | FemMesh) -> FemMesh:
    """Return the DOLFINx side of a triangulation, made once."""
    if isinstance(mesh, FemMesh):
        return mesh
    if not isinstance(mesh, Triangulation):
        raise ValueError(
            f"mesh is a {type(mesh).__name__}, expected a Triangulation (see triangulate)"
        )
    if mesh not in _meshes:
        _meshes[mesh] = FemMesh(mesh)
    return _meshes[mesh]


class FemMesh:
    """DOLFINx mesh of a `Triangulation` on one process, and the numbering of its unknowns.

    Nodes of degree 1 are the points of the triangulation; those of degree 2 the points and then the
    middles of the edges, in the order of ``triangulation.edges``.

    Attributes
    ----------
    mesh : dolfinx.mesh.Mesh
    """

    def __init__(self, triangulation: Triangulation) -> None:
        require_dolfinx()
        import basix.ufl
        import ufl
        from dolfinx.mesh import create_mesh
        from mpi4py import MPI

        # not the triangulation itself: it is the weak key of this object
        self.points, self.cells = triangulation.points, triangulation.cells
        self.areas, self.names = triangulation.areas, triangulation.names
        self.size = triangulation.size
        self.edges, self.cell_edges = triangulation.edges
        self._facets, self._markers = triangulation.facets, triangulation.markers
        element = basix.ufl.element("Lagrange", "triangle", 1, shape=(2,))
        self.mesh = create_mesh(
            MPI.COMM_SELF, self.cells.astype(np.int64), ufl.Mesh(element), self.points
        )
        #: cell of the triangulation for each cell of DOLFINx, and back
        self.order = np.asarray(self.mesh.topology.original_cell_index, np.int64)
        self.place = np.empty_like(self.order)
        self.place[self.order] = np.arange(len(self.order))
        self._spaces: dict[Any, Any] = {}
        self._quadrature: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._quadrature_points: dict[int, np.ndarray] = {}
        self._part_nodes: dict[tuple[str, int], np.ndarray] = {}

    # -- spaces and numbering ------------------------------------------------------------

    def space(self, degree: int, shape: tuple[int, ...] = ()) -> Any:
        """Lagrange space."""
        import basix.ufl

        return self._space(
            ("P", degree, shape),
            lambda: basix.ufl.element("Lagrange", "triangle", degree, shape=shape or None),
        )

    def taylor_hood(self) -> Any:
        """Space of velocity (P2) and pressure (P1)."""
        return self._space(("TH",), _taylor_hood)

    def quadrature_space(self, degree: int, shape: tuple[int, ...] = ()) -> Any:
        """Space of values at the quadrature points."""
        return self._space(("Q", degree, shape), lambda: _quadrature_element(degree, shape))

    def _space(self, key: Any, element: Callable[[], Any]) -> Any:
        from dolfinx import fem

        if key not in self._spaces:
            self._spaces[key] = fem.functionspace(self.mesh, element())
        return self._spaces[key]

    def n_nodes(self, degree: int) -> int:
        """Count the nodes of elements of this degree."""
        return len(self.points) + (len(self.edges) if degree == 2 else 0)

    def node_points(self, degree: int) -> np.ndarray:
        """Coordinates of the nodes, shape (n, 2)."""
        if degree == 1:
            return self.points
        return np.concatenate([self.points, self.points[self.edges].mean(axis=1)])

    def _cell_nodes(self, degree: int) -> np.ndarray:
        """Nodes of each cell in the local order of DOLFINx, cells as in the triangulation."""
        if degree == 1:
            return self.cells
        return np.concatenate([self.cells, len(self.points) + self.cell_edges], axis=1)

    def node_weights(self, degree: int) -> np.ndarray:
        """Quadrature weights of the nodes, those of ``triangulation.mesh(degree=degree)``."""
        share = [1 / 3] * 3 if degree == 1 else [1 / 12] * 3 + [1 / 4] * 3
        return np.bincount(
            self._cell_nodes(degree).ravel(),
            (self.areas[:, None] * np.array(share)).ravel(),
            minlength=self.n_nodes(degree),
        )

    def dofs(self, space: Any, degree: int) -> np.ndarray:
        """Block of unknowns of a (scalar or blocked) Lagrange space at each node."""
        out = np.empty(self.n_nodes(degree), np.int64)
        out[self._cell_nodes(degree)[self.order].ravel()] = space.dofmap.list.ravel()
        return out

    # -- boundary ------------------------------------------------------------------------

    def part(self, name: str) -> np.ndarray:
        """Facets of a part of the boundary."""
        check_name("part of the boundary", name, self.names)
        return np.flatnonzero(self._markers == self.names.index(name))

    @cached_property
    def _facet_edges(self) -> np.ndarray:
        """Edge of each boundary facet."""
        n = len(self.points)
        keys = self.edges[:, 0] * n + self.edges[:, 1]
        pairs = np.sort(self._facets, axis=1)
        return np.searchsorted(keys, pairs[:, 0] * n + pairs[:, 1])

    def part_nodes(self, name: str, degree: int) -> np.ndarray:
        """Nodes on a part of the boundary."""
        if (name, degree) not in self._part_nodes:
            facets = self.part(name)
            nodes = np.unique(self._facets[facets])
            if degree == 2:
                nodes = np.concatenate([nodes, len(self.points) + self._facet_edges[facets]])
            self._part_nodes[name, degree] = nodes
        return self._part_nodes[name, degree]

    @cached_property
    def _facet_entities(self) -> np.ndarray:
        """DOLFINx cell and local facet of each boundary facet, int32, shape (k, 2)."""
        owner = np.full(len(self.edges), -1)
        owner[self.cell_edges.ravel()] = np.arange(self.cell_edges.size)  # boundary: one owner
        flat = owner[self._facet_edges]
        return np.stack([self.place[flat // 3], flat % 3], axis=1).astype(np.int32)

    def part_entities(self, name: str) -> np.ndarray:
        """Return the pairs (cell, facet), flattened, that DOLFINx integrates over for a part."""
        return self._facet_entities[self.part(name)].ravel()

    def cell_entities(self) -> np.ndarray:
        """All cells."""
        return np.arange(len(self.cells), dtype=np.int32)

    def boundary_integral(self, u: np.ndarray, part: str) -> np.ndarray:
        """Integral over a part of the boundary of a P2 function (nodes, ...): Simpson's rule."""
        a, b, middle, _ = self._sides(part)
        length = np.linalg.norm(self.points[b] - self.points[a], axis=1)
        return np.einsum("k,k...->...", length / 6, u[a] + 4 * u[middle] + u[b])

    def boundary_flux(self, u: np.ndarray, part: str) -> float:
        """Integral of the outward normal component of a P2 vector field (nodes, 2)."""
        a, b, middle, normal = self._sides(part)
        return float(((u[a] + 4 * u[middle] + u[b]) * normal).sum() / 6)

    def _sides(self, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Nodes at ends and middles of the facets of a part, and outward normals times length."""
        facets = self.part(part)
        a, b = self._facets[facets].T
        edge = self.points[b] - self.points[a]
        normal = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
        cell, corner = self._facet_entities[facets].T  # facets of a loop run either way
        third = self.points[self.cells[self.order[cell], corner]]
        sign = np.sign((normal * (self.points[a] - third)).sum(axis=1))
        return a, b, len(self.points) + self._facet_edges[facets], sign[:, None] * normal

    # -- data ----------------------------------------------------------------------------

    def quadrature(self, degree: int) -> tuple[np.ndarray, np.ndarray]:
        """Barycentric coordinates, shape (q, 3), and weights (q,) that add up to 1."""
        if degree not in self._quadrature:
            import basix

            x, w = basix.make_quadrature(basix.CellType.triangle, degree)
            self._quadrature[degree] = np.column_stack([1 - x.sum(axis=1), x]), w / w.sum()
        return self._quadrature[degree]

    def quadrature_points(self, degree: int) -> np.ndarray:
        """Quadrature points in the triangulation's cell order, shape (m, q, 2)."""
        if degree not in self._quadrature_points:
            self._quadrature_points[degree] = np.einsum(
                "qk,mkd->mqd", self.quadrature(degree)[0], self.points[self.cells]
            )
        return self._quadrature_points[degree]

    def at_quadrature(
        self, value: Data, degree: int, name: str, shape: tuple[int, ...] = ()
    ) -> np.ndarray:
        """Values at the quadrature points of each cell, shape (m, q, *shape)."""
        m, q = len(self.cells), len(self.quadrature(degree)[1])
        if callable(value):
            x = self.quadrature_points(degree).reshape(-1, 2).T
            return evaluate(value, x, name, shape).reshape(m, q, *shape)
        array = _finite(value, name)
        if array.shape == shape:
            return np.broadcast_to(array, (m, q, *shape))
        if array.shape != (len(self.points), *shape):
            raise ValueError(
                f"{name} has shape {array.shape}, expected {shape or 'a number'} or values at the "
                f"points, {(len(self.points), *shape)}"
            )
        return np.einsum("qk,mk...->mq...", self.quadrature(degree)[0], array[self.cells])

    def fill(self, function: Any, values: np.ndarray) -> None:
        """Put values at quadrature points, shape (m, q, *shape), into a function."""
        block = function.function_space.dofmap.list  # (m, q)
        size = int(np.prod(values.shape[2:], dtype=int))
        function.x.array.reshape(-1, size)[block.ravel()] = values[self.order].reshape(-1, size)

    def at_nodes(
        self,
        value: Data,
        degree: int,
        name: str,
        shape: tuple[int, ...] = (),
        nodes: np.ndarray | None = None,
    ) -> np.ndarray:
        """Values at nodes (all, or those given), shape (n, *shape)."""
        if nodes is None:
            nodes = np.arange(self.n_nodes(degree))
        if callable(value):
            return evaluate(value, self.node_points(degree)[nodes].T, name, shape)
        array = _finite(value, name)
        if array.shape == shape:
            return np.broadcast_to(array, (len(nodes), *shape))
        n = len(self.points)
        if array.shape == (n, *shape) and degree == 2:
            array = np.concatenate([array, array[self.edges].mean(axis=1)])
        if array.shape != (self.n_nodes(degree), *shape):
            raise ValueError(
                f"{name} has shape {array.shape}, expected {shape or 'a number'} or values at the "
                f"points, {(n, *shape)}"
            )
        return np.asarray(array[nodes])

    # -- what is taken from a solution ---------------------------------------------------

    @cached_property
    def _corner_gradients(self) -> np.ndarray:
        """Gradients of the barycentric coordinates, shape (m, 3, 2)."""
        x = self.points[self.cells]
        opposite = np.roll(x, -2, axis=1) - np.roll(x, -1, axis=1)  # corner k+2 minus k+1
        normal = np.stack([-opposite[..., 1], opposite[..., 0]], axis=-1)
        return normal / (2 * self.areas[:, None, None])

    def values(self, u: np.ndarray, degree: int, quadrature: int) -> np.ndarray:
        """Values at quadrature points of a nodal function (n, ...); shape (m, q, ...)."""
        lam = self.quadrature(quadrature)[0]
        if degree == 1:
            shape = lam
        else:
            i, j = [1, 0, 0], [2, 2, 1]
            shape = np.concatenate([lam * (2 * lam - 1), 4 * lam[:, i] * lam[:, j]], axis=1)
        return np.einsum("qk,mk...->mq...", shape, u[self._cell_nodes(degree)])

    def gradients(self, u: np.ndarray, degree: int, quadrature: int) -> np.ndarray:
        """Gradients at quadrature points, shape (m, q, ..., 2)."""
        slope = self._slopes(degree, quadrature)
        local = u[self._cell_nodes(degree)]
        m, k = local.shape[:2]
        out = slope @ local.reshape(m, k, -1)
        return np.moveaxis(out.reshape(m, -1, 2, *local.shape[2:]), 2, -1)

    def _slopes(self, degree: int, quadrature: int) -> np.ndarray:
        """Gradients of the shape functions, shape (m, 2 q, k), the two components together."""
        if ("slopes", degree, quadrature) in self._spaces:
            return self._spaces["slopes", degree, quadrature]
        lam, g = self.quadrature(quadrature)[0], self._corner_gradients
        if degree == 1:
            slope = np.broadcast_to(g[:, None], (len(g), len(lam), 3, 2))
        else:
            corner = (4 * lam - 1)[None, :, :, None] * g[:, None]
            i, j = [1, 0, 0], [2, 2, 1]
            edge = 4 * (
                lam[None, :, i, None] * g[:, None, j] + lam[None, :, j, None] * g[:, None, i]
            )
            slope = np.concatenate([corner, edge], axis=2)
        m, q, k, _ = slope.shape
        kept = np.ascontiguousarray(np.swapaxes(slope, 2, 3)).reshape(m, 2 * q, k)
        self._spaces["slopes", degree, quadrature] = kept
        return kept

    def project(self, values: np.ndarray, quadrature: int) -> np.ndarray:
        """L2 projection of values at quadrature points onto P1: values at the points, (n, ...)."""
        lam, w = self.quadrature(quadrature)
        load = np.einsum("qk,q,m,mq...->mk...", lam, w, self.areas, values)
        flat = load.reshape(self.cells.size, -1)
        n = len(self.points)
        b = np.stack(
            [np.bincount(self.cells.ravel(), column, minlength=n) for column in flat.T], axis=1
        )
        return self._mass_factor.solve(b).reshape(n, *values.shape[2:])

    @cached_property
    def _mass_factor(self) -> Any:
        import scipy.sparse as sp
        from scipy.sparse.linalg import splu

        local = (np.ones((3, 3)) + np.eye(3)) / 12
        data = (self.areas[:, None, None] * local).ravel()
        i = np.repeat(self.cells, 3, axis=1).ravel()
        j = np.tile(self.cells, (1, 3)).ravel()
        n = len(self.points)
        return splu(sp.csc_matrix((data, (i, j)), shape=(n, n)), permc_spec="MMD_AT_PLUS_A")

    def integrate(self, values: np.ndarray, quadrature: int) -> np.ndarray:
        """Integrals over the domain of values at quadrature points, shape of one value."""
        w = self.quadrature(quadrature)[1]
        return np.einsum("q,m,mq...->...", w, self.areas, values)

    def errors(
        self,
        u: np.ndarray,
        degree: int,
        exact: Callable[[np.ndarray], Any],
        gradient: Callable[[np.ndarray], Any] | None = None,
    ) -> tuple[float, float]:
        """L2 norms of the error and, with the exact gradient (shape (..., 2, n)), of its gradient.

        Norms over the mesh by a quadrature two degrees finer than the elements need.
        """
        q = 2 * degree + 2
        x = self.quadrature_points(q).reshape(-1, 2).T
        values = self.values(u, degree, q)
        truth = evaluate(exact, x, "exact", values.shape[2:]).reshape(values.shape)
        square = (values - truth) ** 2
        l2 = self.integrate(square.reshape(*square.shape[:2], -1).sum(axis=2), q)
        h1: Any = np.nan
        if gradient is not None:
            slopes = self.gradients(u, degree, q)
            truth = evaluate(gradient, x, "gradient", slopes.shape[2:]).reshape(slopes.shape)
            square = (slopes - truth) ** 2
            h1 = self.integrate(square.reshape(*square.shape[:2], -1).sum(axis=2), q)
        return float(np.sqrt(l2)), float(np.sqrt(h1))


def evaluate(
    function: Callable[[np.ndarray], Any], x: np.ndarray, name: str, shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Values of a function of coordinates (2, n), which returns (*shape, n); shape (n, *shape)."""
    values = np.asarray(function(x), np.float64)
    n = x.shape[1]
    if values.shape == shape:  # a constant
        values = np.broadcast_to(values[..., None], (*shape, n))
    if values.shape != (*shape, n):
        raise ValueError(
            f"{name} returned shape {values.shape} for coordinates of shape {x.shape}, expected "
            f"{(*shape, n)}"
        )
    return _finite(np.moveaxis(values, -1, 0), name)


def _finite(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array


# -- forms ---------------------------------------------------------------------------------------


def _quadrature_element(degree: int, shape: tuple[int, ...]) -> Any:
    import basix.ufl

    return basix.ufl.quadrature_element("triangle", value_shape=shape, degree=degree)


def _taylor_hood() -> Any:
    import basix.ufl

    return basix.ufl.mixed_element(
        [
            basix.ufl.element("Lagrange", "triangle", 2, shape=(2,)),
            basix.ufl.element("Lagrange", "triangle", 1),
        ]
    )


def abstract_space(kind: str, degree: int = 1, shape: tuple[int, ...] = ()) -> Any:
    """UFL space on any triangle mesh: ``"P"`` Lagrange, ``"Q"`` quadrature points, ``"TH"``."""
    import basix.ufl
    import ufl

    domain = _abstract_domain()
    if kind == "TH":
        return ufl.FunctionSpace(domain, _taylor_hood())
    if kind == "Q":
        return ufl.FunctionSpace(domain, _quadrature_element(degree, shape))
    element = basix.ufl.element("Lagrange", "triangle", degree, shape=shape or None)
    return ufl.FunctionSpace(domain, element)


_domain: list[Any] = []


def _abstract_domain() -> Any:
    if not _domain:
        import basix.ufl
        import ufl

        _domain.append(ufl.Mesh(basix.ufl.element("Lagrange", "triangle", 1, shape=(2,))))
    return _domain[0]


def compile_abstract(form: Any) -> Any:
    """Compile a form that knows no mesh, or load it from the cache.

    Raises
    ------
    SolverUnavailable
        No C compiler, or no Python headers.
    """
    from dolfinx import fem
    from mpi4py import MPI

    from ..result import SolverUnavailable

    options = {"cache_dir": str(cache_dir()), "timeout": 120}
    try:
        with _exclusive(cache_dir()):
            return fem.compile_form(MPI.COMM_SELF, form, jit_options=options)
    except Exception as err:
        reason = _missing_tool()
        if reason is None:
            raise
        raise SolverUnavailable(
            f"solver 'fenicsx' compiles its forms with a C compiler when it runs, {reason}"
        ) from err


def bind(
    compiled: Any,
    spaces: list[Any],
    mesh: FemMesh,
    *,
    coefficients: Mapping[Any, Any] | None = None,
    constants: Mapping[Any, Any] | None = None,
    part: str | None = None,
) -> Any:
    """Give a compiled form its mesh, spaces and data.

    Forms on the boundary are integrals over ``ds(1)``: those over ``ds`` take all of it.
    """
    from dolfinx import fem

    if part is None:
        domains = {fem.IntegralType.cell: [(-1, mesh.cell_entities())]}
    else:
        domains = {fem.IntegralType.exterior_facet: [(1, mesh.part_entities(part))]}
    return fem.create_form(
        compiled, spaces, mesh.mesh, domains, dict(coefficients or {}), dict(constants or {})
    )
