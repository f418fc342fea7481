"""The finite-element solver: algebra, boundary data, null space, cache, processes, messages."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest

pytest.importorskip("dolfinx_solver")

from solvers.diffusion import solve_diffusion
from solvers.fenicsx import diffusion
from solvers.fenicsx.diffusion import choose_algebra, clear_cache, solve_diffusion_fenicsx
from solvers.grids import Axis, Grid
from solvers.result import SolverDidNotConverge


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    yield
    clear_cache()


def rough(grid, seed=0, contrast=4.0):
    rng = np.random.default_rng(seed)
    return np.where(rng.standard_normal(grid.shape) > 0, contrast, 1.0)


MIXED = [("dirichlet", "neumann"), ("neumann", "dirichlet"), "dirichlet"]


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize(
    ("dim", "n", "boundary"),
    [(1, 40, "dirichlet"), (2, 25, "dirichlet"), (2, 25, "neumann"), (2, 24, MIXED[:2]),
     (3, 8, MIXED)],
)  # fmt: skip
def test_gamg_agrees_with_cholesky(dim, n, boundary, cell, degree):
    grid = Grid.unit(n, dim=dim)
    a, f = rough(grid, contrast=20.0), np.random.default_rng(1).standard_normal(grid.shape)
    results = [
        solve_diffusion_fenicsx(
            a, f, grid, boundary=boundary, boundary_values=0.3, singular="project",
            cell=cell, degree=degree, algebra=algebra, rtol=1e-12,
        )
        for algebra in ("cholesky", "gamg")
    ]  # fmt: skip
    exact, iterated = (r.x for r in results)
    assert np.abs(exact - iterated).max() < 1e-8 * np.abs(exact).max()
    assert all(r.residual <= 1e-12 for r in results)
    assert results[0].iterations == 0 and results[1].iterations > 0
    assert results[1].residuals.shape == (results[1].iterations + 1,)
    assert results[1].residuals[0] == 1.0
    assert results[1].residuals[-1] == pytest.approx(results[1].residual, rel=1e-2, abs=1e-14)


def test_matches_the_stencil_of_linear_elements():
    """P1 on right triangles, a = 1, is the five-point stencil: a dense matrix by hand."""
    n, h = 6, 0.2
    grid, g = Grid.unit(n), np.random.default_rng(2).standard_normal(6)
    inner = n - 2
    T = 2 * np.eye(inner) - np.eye(inner, k=1) - np.eye(inner, k=-1)
    A = np.kron(T, np.eye(inner)) + np.kron(np.eye(inner), T)
    b = np.full((inner, inner), h**2)
    b[:, -1] += g[1:-1]
    result = solve_diffusion_fenicsx(1.0, 1.0, grid, boundary_values={(1, 1): g})
    expected = np.linalg.solve(A, b.ravel()).reshape(inner, inner)
    np.testing.assert_allclose(result.x[1:-1, 1:-1], expected, atol=1e-13)
    np.testing.assert_array_equal(result.x[:, -1], g)
    np.testing.assert_array_equal(result.x[0, :-1], 0.0)


def test_solution_of_the_series():
    """-laplace(u) = 1 on the unit square: 0.0736713532 at the center (series, 200 terms)."""
    k = np.arange(1, 400, 2)
    i, j = np.meshgrid(k, k)
    signs = np.sin(i * np.pi / 2) * np.sin(j * np.pi / 2)
    center = (16 / np.pi**4 * signs / (i * j * (i**2 + j**2))).sum()
    result = solve_diffusion_fenicsx(1.0, 1.0, Grid.unit(33), degree=2)
    assert result.x[16, 16] == pytest.approx(center, abs=1e-7)


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
def test_agrees_with_finite_volumes(cell):
    """Two discretizations of one smooth problem, in grid order: rules out transposed axes."""
    grid = Grid((Axis("x", 33, 0, 1), Axis("y", 49, -1, 1)))
    x, y = grid.meshgrid()
    a, f = np.exp(0.5 * np.sin(3 * x + y)), x * np.cos(2 * y) + 1
    options = {
        "boundary": MIXED[:2],
        "boundary_values": {
            (0, 0): y[0] ** 2, (0, 1): np.sin(y[0]), (1, 0): x[:, 0], (1, 1): 1 - x[:, 0] ** 2,
        },
        "reaction": 1 + x * y**2,
    }  # fmt: skip
    fem = solve_diffusion(a, f, grid, solver="fenicsx", cell=cell, **options)
    fv = solve_diffusion(a, f, grid, solver="direct", **options)
    # both O(h^2); h^2 = 1e-3
    assert grid.norm(fem.x - fv.x) < 1e-3 * grid.norm(fv.x)


def test_later_axis_wins_where_dirichlet_sides_meet():
    sides = {(k, s): 1.0 + 2 * k + s for k in (0, 1) for s in (0, 1)}
    for degree in (1, 2):
        x = solve_diffusion_fenicsx(1.0, 0.0, Grid.unit(5), boundary_values=sides, degree=degree).x
        assert (x[:, 0] == 3).all() and (x[:, -1] == 4).all()
        assert (x[0, 1:-1] == 1).all() and (x[-1, 1:-1] == 2).all()


def test_linear_in_the_data():
    grid = Grid.unit(12)
    a = rough(grid)
    rng = np.random.default_rng(3)
    f = rng.standard_normal((2, 12, 12))
    g = rng.standard_normal((2, 12))

    def solve(f, g):
        return solve_diffusion_fenicsx(
            a, f, grid, boundary=MIXED[:2], boundary_values={(0, 0): g, (0, 1): 2 * g}
        ).x

    total = solve(f[0] + f[1], g[0] + g[1])
    np.testing.assert_allclose(total, solve(f[0], g[0]) + solve(f[1], g[1]), atol=1e-11)


@pytest.mark.parametrize("algebra", ["cholesky", "gamg"])
@pytest.mark.parametrize("degree", [1, 2])
def test_pure_neumann(degree, algebra):
    grid = Grid((Axis("x", 21), Axis("y", 17, 0, 2)))
    x, y = grid.meshgrid()
    f = np.cos(np.pi * x) * np.cos(np.pi * y / 2)  # its sum with the grid's weights is 0

    def solve(f, **options):
        return solve_diffusion_fenicsx(
            1.0, f, grid, boundary="neumann", degree=degree, cell="quadrilateral",
            algebra=algebra, **options,
        ).x  # fmt: skip

    result = solve(f)
    assert abs(np.sum(grid.weights * result)) < 1e-13
    u = f / (np.pi**2 * 1.25)
    # piecewise linear f and u: relative error below (pi / 2 h_y)^2 / 6 = 0.0065
    assert grid.norm(result - u) < 0.0065 * grid.norm(u)

    with pytest.raises(ValueError, match=r"integrate to 0\.5.*singular='project'"):
        solve(f + 0.25)
    np.testing.assert_allclose(solve(f + 0.25, singular="project"), result, atol=1e-10)
    # balanced by fluxes: int f = 1/2 leaves through both ends of x (length 2 each); the parabola is
    # exact at the nodes
    balanced = solve(f + 0.25, boundary_values={(0, 0): -0.125, (0, 1): -0.125})
    parabola = -0.125 * (x**2 - x)
    parabola -= np.sum(grid.weights * parabola) / 2
    np.testing.assert_allclose(balanced - result, parabola, atol=1e-10)


def test_reaction_makes_neumann_regular():
    grid = Grid.unit(9)
    for algebra in ("cholesky", "gamg"):
        result = solve_diffusion_fenicsx(
            rough(grid), 6.0, grid, boundary="neumann", reaction=2.0, algebra=algebra
        )
        np.testing.assert_allclose(result.x, 3.0, rtol=1e-9)
    with pytest.raises(ValueError, match="integrate to 6"):  # no reaction after all
        solve_diffusion_fenicsx(rough(grid), 6.0, grid, boundary="neumann", reaction=0.0)


def test_zero_data():
    for boundary in ("dirichlet", "neumann"):
        result = solve_diffusion_fenicsx(1.0, 0.0, Grid.unit(6), boundary=boundary)
        assert not result.x.any() and result.residual == 0.0


def test_not_converging_raises():
    grid = Grid.unit(33)
    with pytest.raises(SolverDidNotConverge, match=r"cg\+gamg did not converge.*1 iteration"):
        solve_diffusion_fenicsx(rough(grid), 1.0, grid, algebra="gamg", maxiter=1)
    with pytest.raises(SolverDidNotConverge, match="mumps-cholesky"):  # below rounding
        solve_diffusion_fenicsx(rough(grid), 1.0, grid, algebra="cholesky", rtol=1e-17)
    # and the next solve with the same objects is right
    good = [
        solve_diffusion_fenicsx(rough(grid), 1.0, grid, algebra=algebra).x
        for algebra in ("gamg", "cholesky")
    ]
    assert np.abs(good[0] - good[1]).max() < 1e-8 * np.abs(good[1]).max()


def test_residual_is_measured_on_the_answer(monkeypatch):
    """A damaged solution must not pass, whatever the iteration claims."""
    grid = Grid.unit(9)
    solve_diffusion_fenicsx(1.0, 1.0, grid, algebra="cholesky")
    disc = next(reversed(diffusion._cache.values()))
    ksp = disc.ksp["cholesky"]

    class Wrong:
        def __getattr__(self, name):
            return getattr(ksp, name)

        def solve(self, b, x):
            ksp.solve(b, x)
            x.scale(1.7)

    monkeypatch.setitem(disc.ksp, "cholesky", Wrong())
    with pytest.raises(SolverDidNotConverge, match=r"residual 7\.00e-01"):
        solve_diffusion_fenicsx(1.0, 1.0, grid, algebra="cholesky")


@pytest.mark.parametrize("algebra", ["cholesky", "gamg"])
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
def test_results_do_not_depend_on_earlier_solves(boundary, algebra):
    grid = Grid.unit(20)
    f = np.random.default_rng(4).standard_normal(grid.shape)

    def solve(seed):
        return solve_diffusion_fenicsx(
            rough(grid, seed, 50.0), f, grid, boundary=boundary, algebra=algebra,
            singular="project",
        ).x  # fmt: skip

    clear_cache()
    first = solve(1)
    solve(2)
    solve_diffusion_fenicsx(
        1.0, f, grid, boundary=boundary, reaction=3.0, boundary_values={(0, 0): 1.0},
        algebra=algebra,
    )  # fmt: skip
    np.testing.assert_array_equal(solve(1), first)


def test_arrays_and_functions_agree_on_linear_data():
    grid = Grid.unit(7)
    x, y = grid.meshgrid()
    sides = {(0, 0): 1 + y[0], (0, 1): y[0] - 2, (1, 0): x[:, 0], (1, 1): 2 * x[:, 0]}
    functions = {
        (0, 0): lambda p: 1 + p[1], (0, 1): lambda p: p[1] - 2,
        (1, 0): lambda p: p[0], (1, 1): lambda p: 2 * p[0],
    }  # fmt: skip
    for degree in (1, 2):
        arrays = solve_diffusion_fenicsx(
            1 + x, y, grid, boundary=MIXED[:2], boundary_values=sides, reaction=x + y,
            degree=degree,
        )  # fmt: skip
        for a, c in ((lambda p: 1 + p[0], lambda p: p[0] + p[1]), (1 + x, x + y)):
            called = solve_diffusion_fenicsx(
                a, lambda p: p[1], grid, boundary=MIXED[:2], boundary_values=functions,
                reaction=c, degree=degree,
            )  # fmt: skip
            np.testing.assert_allclose(called.x, arrays.x, atol=1e-12)
    one = solve_diffusion_fenicsx(lambda p: 2.0, 1.0, grid)  # a constant may be a number
    np.testing.assert_allclose(one.x, solve_diffusion_fenicsx(2.0, 1.0, grid).x, atol=1e-14)


def test_info_and_choice():
    result = solve_diffusion_fenicsx(1.0, 1.0, Grid.unit((5, 6)), degree=2)
    assert result.solver == "fenicsx.mumps-cholesky"
    info = {k: result.info[k] for k in ("algebra", "degree", "cell", "dofs")}
    assert info == {"algebra": "cholesky", "degree": 2, "cell": "triangle", "dofs": 9 * 11}
    assert result.info["setup_seconds"] > 0
    assert solve_diffusion_fenicsx(2.0, 1.0, Grid.unit((5, 6)), degree=2).info["setup_seconds"] == 0
    cube = solve_diffusion_fenicsx(1.0, 1.0, Grid.unit(5, dim=3), cell="quadrilateral")
    assert cube.info["cell"] == "hexahedron" and cube.info["dofs"] == 125
    assert choose_algebra(1, 10**7) == "cholesky"
    assert choose_algebra(2, 257**2) == "cholesky" and choose_algebra(2, 1025**2) == "gamg"
    assert choose_algebra(3, 10**3) == "cholesky" and choose_algebra(3, 33**3) == "gamg"


def test_cache_is_small():
    clear_cache()
    for n in range(4, 12):
        solve_diffusion_fenicsx(1.0, 1.0, Grid.unit(n))
        assert 1 <= len(diffusion._cache) <= diffusion.CACHE_ENTRIES
    newest = next(reversed(diffusion._cache))
    assert newest[0] == (11, 11)


def test_units_and_names_of_axes_share_the_cache():
    clear_cache()
    solve_diffusion_fenicsx(1.0, 1.0, Grid((Axis("x", 5, units="m"),)))
    solve_diffusion_fenicsx(1.0, 1.0, Grid((Axis("r", 5),)))
    assert len(diffusion._cache) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 0.0}, "a must be positive, its minimum is 0"),
        ({"a": np.ones((4, 5))}, r"a has shape \(4, 5\), expected \(5, 5\)"),
        ({"a": lambda x: x[0] - 0.5}, "a must be positive, its minimum is -0.5"),
        ({"a": lambda x: np.ones(3)}, r"a returned shape \(3,\)"),
        ({"f": np.full((5, 5), np.nan)}, "f holds NaN"),
        ({"f": lambda x: np.full(x.shape[1], np.inf)}, "f holds NaN or infinity"),
        ({"reaction": -1.0}, "reaction must not be negative"),
        ({"reaction": lambda x: -x[0]}, "reaction must not be negative"),
        (
            {"reaction": lambda x: 0 * x[0], "boundary": "neumann", "f": lambda x: x[0]},
            "reaction is 0 everywhere",
        ),
        ({"rtol": 0.0}, "rtol=0.0"),
        ({"maxiter": 0}, "maxiter=0"),
        ({"degree": 3}, "degree=3: allowed are 1 and 2"),
        ({"degree": True}, "degree=True"),
        ({"cell": "triangles"}, "Did you mean 'triangle'"),
        ({"algebra": "lu"}, "unknown algebra 'lu'"),
        ({"singular": "ignore"}, "unknown singular 'ignore'"),
        ({"boundary": "robin"}, r"boundary_values\[0, 0\] is None: a 'robin' side needs"),
        (
            {
                "boundary": [("robin", "neumann"), "neumann"],
                "boundary_values": {(0, 0): (0.0, 1.0, 0.0)},
            },
            "alpha is 0 on all Robin sides",
        ),
        (
            {
                "boundary": [("robin", "neumann"), "neumann"],
                "boundary_values": {(0, 0): (lambda x: x[1] - 0.5, 1.0, 0.0)},
            },
            r"boundary_values\[0, 0\]: alpha / beta is negative",
        ),
        ({"boundary_values": {(2, 0): 1.0}}, r"key \(2, 0\)"),
        ({"boundary_values": {(2, 0): lambda x: x[0]}}, r"key \(2, 0\)"),
        ({"boundary_values": {(0, 1): np.ones(4)}}, r"shape \(4,\)"),
        ({"grid": Grid.unit(5, periodic=True), "boundary": "periodic"}, "use solver 'structured'"),
        ({"grid": Grid.unit(5, location="cell_center")}, "'cell_center'.*use solver 'structured'"),
        ({"grid": Grid.unit(2)}, r"shape \(2, 2\) leaves no unknown"),
    ],
)
def test_bad_input_gets_one_line(change, message):
    arguments = {"a": 1.0, "f": 1.0, "grid": Grid.unit(5)} | change
    with pytest.raises(ValueError, match=message) as error:
        solve_diffusion_fenicsx(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes(method):
    tasks = [(1.0, 1.0, Grid.unit(n)) for n in (9, 11)]
    expected = [solve_diffusion_fenicsx(*t).x for t in tasks]  # before a fork: a filled cache
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        results = [pool.submit(solve_diffusion_fenicsx, *t) for t in tasks * 2]
        for future, x in zip(results, expected * 2, strict=True):
            np.testing.assert_array_equal(future.result(timeout=240).x, x)


def test_loky_workers():
    tasks = [(1.0, 1.0, Grid.unit(n)) for n in (9, 11, 12)]
    with joblib.parallel_config(backend="loky", n_jobs=2):
        results = joblib.Parallel()(joblib.delayed(solve_diffusion_fenicsx)(*t) for t in tasks)
    for result, task in zip(results, tasks, strict=True):
        np.testing.assert_array_equal(result.x, solve_diffusion_fenicsx(*task).x)


def _run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | env,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


SOLVE = (
    "from solvers.fenicsx import solve_diffusion_fenicsx as s\n"
    "from solvers.grids import Grid\n"
    "print(s(1.0, 1.0, Grid.unit(5, dim=1), boundary=[('dirichlet', 'neumann')]).x[-1])"
)


def test_forms_are_cached_where_the_user_says(tmp_path):
    out = _run(SOLVE, XDG_CACHE_HOME=str(tmp_path))
    assert out.returncode == 0 and float(out.stdout) == pytest.approx(0.5), out.stderr
    folder = tmp_path / "opkit" / "fenicsx"
    sources = sorted(folder.glob("*.c"))
    assert len(sources) == 4
    # a process killed while compiling leaves a source without its mark
    for path in folder.glob(sources[0].stem + "*"):
        if path != sources[0]:
            path.unlink()
    again = _run(SOLVE, XDG_CACHE_HOME=str(tmp_path))
    assert again.returncode == 0 and again.stdout == out.stdout, again.stderr
    assert sources[0].with_suffix(".c.cached").exists()


def test_missing_compiler_is_one_clear_line(tmp_path):
    code = (
        "from solvers.result import SolverUnavailable\n"
        "try:\n"
        "    " + SOLVE.replace("\n", "\n    ") + "\n"
        "except SolverUnavailable as error:\n"
        "    print('message:', error)"
    )
    out = _run(code, XDG_CACHE_HOME=str(tmp_path), CC="no-such-compiler")
    line = out.stdout.strip().splitlines()[-1]
    assert line.startswith("message: solver 'fenicsx' compiles its forms with a C compiler")
    assert "found no 'no-such-compiler': install one" in line, out.stderr


def test_unwritable_cache_falls_back(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    out = _run(SOLVE, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert out.returncode == 0 and float(out.stdout) == pytest.approx(0.5), out.stderr


def test_missing_dolfinx_says_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['dolfinx_solver'] = sys.modules['dolfinx'] = None\n"
        "from solvers.result import SolverUnavailable\n"
        "try:\n"
        "    " + SOLVE.replace("\n", "\n    ") + "\n"
        "except SolverUnavailable as error:\n"
        "    print(error)"
    )
    out = _run(code)
    assert out.stdout.strip().endswith("pip install 'opkit[fem]'"), out.stderr


def test_import_loads_no_dolfinx():
    code = "import sys, solvers.fenicsx.diffusion, solvers.verify\n" + (
        "print([m for m in ('dolfinx', 'petsc4py', 'mpi4py', 'ufl', 'torch') if m in sys.modules])"
    )
    assert _run(code).stdout.strip() == "[]"
