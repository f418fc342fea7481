"""The compiled solvers in 1-D to 3-D: against direct solves and their own algebra."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from solvers.diffusion import (
    choose_solver,
    prepare_diffusion,
    solve_diffusion,
    solve_diffusion_batch,
)
from solvers.finite_volume import Robin, discretize
from solvers.grids import Axis, Grid
from solvers.multigrid import _boxmg_3d as kernels
from solvers.multigrid.structured import Line, Plane, Space, is_compiled, prepare
from solvers.result import SolverDidNotConverge

D, N, P, R = "dirichlet", "neumann", "periodic", "robin"
PAIRS = [(D, D), (N, N), (P, P), (D, N), (R, D), (N, R), (R, R)]


def grid_of(shape, boundary, location="node"):
    return Grid(
        tuple(
            Axis(name, n, -0.5, 0.5 + 0.1 * n, location=location, periodic=b[0] == P)
            for name, n, b in zip("xyz", shape, boundary, strict=False)
        )
    )


def sides(grid, boundary, rng):
    out = {}
    for k, pair in enumerate(boundary):
        face = grid.shape[:k] + grid.shape[k + 1 :]
        for s, kind in enumerate(pair):
            if kind == R:
                out[k, s] = Robin(rng.random(face), 0.1 + rng.random(face), rng.normal(size=face))
            elif kind != P:
                out[k, s] = rng.normal(size=face)
    return out


def smooth_field(grid, rng, size):
    """Some random cosines, between -size and size."""
    x = grid.meshgrid()
    out = np.zeros(grid.shape)
    for _ in range(6):
        wave = rng.integers(-3, 4, size=grid.dim)
        phase = sum(w * (v - v.min()) / np.ptp(v) for w, v in zip(wave, x, strict=True))
        out += np.cos(2 * np.pi * (phase + rng.random()))
    return size * out / np.abs(out).max()


def compare(shape, boundary, location, seed, solver="structured", anisotropy=None):
    """Against the direct solver: 1e-9, as its residual of 1e-10 and the conditioning allow."""
    rng = np.random.default_rng(seed)
    grid = grid_of(shape, boundary, location)
    a = np.exp(0.7 * rng.normal(size=grid.shape))
    if anisotropy is not None:
        a = [m * a for m in anisotropy]
    f = rng.normal(size=grid.shape)
    args = dict(
        boundary=boundary, boundary_values=sides(grid, boundary, rng), singular="project",
        reaction=5.0 * rng.random(grid.shape) if seed % 2 else None, rtol=1e-11,
    )  # fmt: skip
    r = solve_diffusion(a, f, grid, solver=solver, **args)
    d = solve_diffusion(a, f, grid, solver="direct", **args)
    assert r.residual <= 1e-11
    assert np.linalg.norm(r.x - d.x) < 1e-9 * np.linalg.norm(d.x)
    return r


@pytest.mark.parametrize("solver", ["structured", "pyamg"])
@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_1d_agrees_with_direct(pair, location, solver):
    for seed, n in enumerate((3, 4, 5, 6, 17, 100, 301)):
        if n > 3 or pair != (D, D):
            compare((n,), (pair,), location, seed, solver)


@pytest.mark.parametrize("solver", ["structured", "pyamg"])
@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("pair", [(N, R), (R, R), (R, D)], ids="-".join)
def test_2d_robin_agrees_with_direct(pair, location, solver):
    for seed, shape in enumerate([(7, 9), (32, 47), (33, 20)]):
        for other in ((D, N), (P, P), (R, R)):
            compare(shape, (pair, other), location, seed, solver)


SHAPES = [(5, 6, 7), (12, 12, 12), (4, 3, 25), (9, 16, 11)]


@pytest.mark.parametrize("location", ["node", "cell_center"])
@pytest.mark.parametrize("b1", PAIRS, ids="-".join)
@pytest.mark.parametrize("b0", PAIRS, ids="-".join)
def test_3d_agrees_with_direct(b0, b1, location):
    """Every kind of side on sizes that coarsen well, badly and along some axes only."""
    third = PAIRS[(PAIRS.index(b0) + 2 * PAIRS.index(b1)) % len(PAIRS)]
    for seed, shape in enumerate(SHAPES):
        r = compare(shape, (b0, b1, third), location, seed)
        assert r.iterations <= 20


@pytest.mark.parametrize("location", ["node", "cell_center"])
def test_3d_pyamg_agrees_with_direct(location):
    for seed, (b0, b1, b2) in enumerate(zip(PAIRS, PAIRS[2:], PAIRS[1:], strict=False)):
        compare((5, 6, 7), (b0, b1, b2), location, seed, "pyamg")


@pytest.mark.parametrize("anisotropy", [(1.0, 1e3), (1e3, 1.0), (1.0, 30.0)])
@pytest.mark.parametrize(
    "boundary", [((D, D), (D, D)), ((N, N), (P, P)), ((R, R), (D, N))], ids=str
)
def test_strong_anisotropy_in_2d(boundary, anisotropy):
    for seed, shape in enumerate([(33, 33), (40, 61), (100, 7)]):
        r = compare(shape, boundary, "node", seed, anisotropy=anisotropy)
        assert r.iterations <= 16


@pytest.mark.parametrize("anisotropy", [(1.0, 1.0, 1e3), (1.0, 1e3, 1e3), (1.0, 30.0, 1e3)])
def test_strong_anisotropy_in_3d(anisotropy):
    for order in itertools.permutations(anisotropy):
        r = compare((14, 15, 12), ((D, D), (N, R), (P, P)), "node", 0, anisotropy=order)
        assert r.iterations <= 16


def test_elongated_grids():
    for shape in [(400, 3), (3, 400), (201, 5)]:
        r = compare(shape, ((N, D), (N, N)), "node", 0)
        assert r.iterations <= 20
    assert solve_diffusion(1.0, 1.0, Grid.unit((2001, 5)), solver="structured").iterations <= 12


@pytest.mark.parametrize("average", ["harmonic", "arithmetic"])
@pytest.mark.parametrize(("low", "high", "most"), [(1.0, 1.0, 11), (3.0, 12.0, 13), (1.0, 1e3, 22)])
def test_3d_iterations_do_not_grow(low, high, most, average):
    """Jumps of the coefficient anywhere; at most 3 more iterations from 17 to 48 points a side."""
    count = {}
    for n in (17, 24, 33, 48):
        grid = Grid.unit(n, dim=3)
        a = np.where(smooth_field(grid, np.random.default_rng(1), 1.0) > 0, high, low)
        count[n] = solve_diffusion(a, 1.0, grid, solver="structured", average=average).iterations
    assert max(count.values()) <= most, count
    assert count[48] <= count[17] + 3, count


@pytest.mark.parametrize(
    "boundary", [((D, D), (N, N), (P, P)), ((P, P), (R, D), (P, P)), ((P, P), (P, P), (P, P))]
)
@pytest.mark.parametrize("shape", [(7, 8, 9), (4, 13, 6), (3, 2, 30)])
def test_coarse_operators_are_galerkin_products(shape, boundary):
    """``P^T A P`` with dense matrices, and restriction the transpose of prolongation."""
    if shape[1] == 2 and boundary[1] == (R, D):
        shape = (3, 3, 30)
    rng = np.random.default_rng(3)
    grid = grid_of(shape, boundary)
    system = discretize(
        np.exp(rng.normal(size=grid.shape)), 0.0, grid, boundary=boundary,
        boundary_values=sides(grid, boundary, rng), singular="project",
    )  # fmt: skip
    space = Space(system)
    op, per = kernels.seven_point(*space.k, space.periodic[0]), space.periodic[0]
    A = kernels.dense(op, per)
    np.testing.assert_allclose(A, system.matrix().toarray() * space.scale, atol=1e-13)
    from solvers.multigrid.structured import _coarsen

    for _ in range(2):
        coarse, coarse_per, weights, tables = _coarsen(op, per)
        cells = np.zeros((3, max(len(t) for t in tables), 4), dtype=np.int64)
        for axis, t in enumerate(tables):
            cells[axis, : len(t)] = t
        m, c = op.shape[1:], coarse.shape[1:]
        T = np.zeros((int(np.prod(m)), int(np.prod(c))))
        for q in range(T.shape[1]):
            e = np.zeros(c, dtype=np.float32)
            e.flat[q] = 1.0
            u = np.zeros(np.add(m, 2), dtype=np.float32)
            kernels.prolong(u, np.pad(e, 1), weights, cells, *weights.shape[1:])
            T[:, q] = u[1:-1, 1:-1, 1:-1].ravel()
        r = rng.normal(size=m).astype(np.float32)
        b = np.zeros(np.add(c, 2), dtype=np.float32)
        kernels.restrict(np.pad(r, 1), b, weights, cells, *weights.shape[1:])
        np.testing.assert_allclose(b[1:-1, 1:-1, 1:-1].ravel(), T.T @ r.ravel(), atol=1e-5)
        B = kernels.dense(coarse, coarse_per)
        np.testing.assert_allclose(B, T.T @ A @ T, atol=1e-6 * np.abs(B).max())  # float32 weights
        if system.singular:
            np.testing.assert_allclose(T.sum(axis=1), 1.0, atol=1e-6)
        op, per, A = coarse, coarse_per, B


def test_which_solver_is_set_up():
    def of(shape, **kwargs):
        return type(prepare(discretize(kwargs.pop("a", 1.0), 1.0, Grid.unit(shape), **kwargs)))

    assert of((9,)) is Line
    assert of((33, 33)) is of((33, 50)) is Plane
    assert of((33, 200)) is of((2001, 5)) is of((33, 33), a=(1.0, 20.0)) is Space
    assert of((9, 9, 9)) is Space
    assert is_compiled(Plane) or is_compiled(Space) or is_compiled(Line)


def test_choice_where_the_strong_direction_changes():
    """Point smoothing fails there: algebraic multigrid takes over, and agrees with direct."""
    grid = Grid.unit(129)
    x = 6.0 * np.cos(3 * np.pi * grid.meshgrid()[0])
    a = (np.exp(x), np.exp(-x))
    assert choose_solver(grid, a=a) == "pyamg"
    assert choose_solver(Grid.unit(9), a=(np.full((9, 9), 1e4), 1.0)) == "structured"
    r = solve_diffusion(a, 1.0, grid)
    assert r.solver.startswith("pyamg")
    d = solve_diffusion(a, 1.0, grid, solver="direct")
    assert np.linalg.norm(r.x - d.x) < 1e-8 * np.linalg.norm(d.x)


@pytest.mark.parametrize("solver", ["structured", "pyamg", "direct"])
@pytest.mark.parametrize("shape", [(40,), (20, 23), (9, 40), (8, 7, 9)])
def test_prepared_and_batched_equal_one_by_one(shape, solver):
    """Bit for bit: a sample does not depend on its neighbors, nor on what was solved before."""
    rng = np.random.default_rng(0)
    boundary = [(R, D)] + [(N, N)] * (len(shape) - 1)
    grid = grid_of(shape, boundary)
    a, f = np.exp(rng.normal(size=(3, *shape))), rng.normal(size=(3, *shape))
    args = dict(boundary=boundary, boundary_values=sides(grid, boundary, rng), solver=solver)
    one = [solve_diffusion(a[i], f[i], grid, **args) for i in range(3)]
    for order in ([2, 0, 1], [1, 1, 0]):
        for i, r in zip(
            order, solve_diffusion_batch(a[order], f[order], grid, **args), strict=True
        ):
            np.testing.assert_array_equal(r.x, one[i].x)
            np.testing.assert_array_equal(r.residuals, one[i].residuals)
    op = prepare_diffusion(a[0], grid, **args)
    assert op.setup_seconds > 0
    for i in (1, 0, 2, 0):
        r = op.solve(f[i])
        np.testing.assert_array_equal(r.x, solve_diffusion(a[0], f[i], grid, **args).x)
    shared = solve_diffusion_batch(a[0], f, grid, **args)
    np.testing.assert_array_equal(shared[0].x, one[0].x)
    tensor = solve_diffusion_batch([a] * len(shape), f[0], grid, **args)
    np.testing.assert_array_equal(tensor[0].x, one[0].x)
    other = {k: v if isinstance(v, Robin) else v + 1.0 for k, v in args["boundary_values"].items()}
    expected = solve_diffusion(a[0], f[0], grid, **{**args, "boundary_values": other})
    np.testing.assert_array_equal(op.solve(f[0], other).x, expected.x)


def test_prepared_and_batched_say_what_is_wrong():
    grid = Grid.unit(9)
    kinds, data = (R, D), {(0, 0): (1.0, 1.0, 0.0), (0, 1): (1.0, 1.0, 0.0)}
    op = prepare_diffusion(1.0, grid, boundary=kinds, boundary_values=data)
    with pytest.raises(ValueError, match=r"boundary_values\[0, 0\]: alpha and beta belong to the"):
        op.solve(1.0, {**data, (0, 0): (2.0, 1.0, 0.0)})
    with pytest.raises(ValueError, match=r"f has shape \(4, 4\)"):
        op.solve(np.ones((4, 4)))
    with pytest.raises(ValueError, match="integrate to 1"):
        prepare_diffusion(1.0, grid, boundary=N).solve(1.0)
    with pytest.raises(ValueError, match=r"leading axis: \{\}"):
        solve_diffusion_batch(1.0, 1.0, grid)
    with pytest.raises(ValueError, match=r"leading axis: \{'a': 2, 'f': 3\}"):
        solve_diffusion_batch(np.ones((2, 9, 9)), np.ones((3, 9, 9)), grid)


def test_3d_does_not_converge():
    grid = Grid.unit(17, dim=3)
    a = np.exp(2.0 * np.random.default_rng(0).normal(size=grid.shape))
    with pytest.raises(SolverDidNotConverge, match=r"boxmg3.* residual .* after 2 iterations") as e:
        solve_diffusion(a, 1.0, grid, solver="structured", maxiter=2)
    assert e.value.residual > 1e-10 and e.value.iterations == 2


@pytest.mark.parametrize("dim", [1, 3])
def test_units_and_zero_source(dim):
    grid = Grid.unit(20, dim=dim)
    a = np.exp(np.random.default_rng(0).normal(size=grid.shape))
    one = solve_diffusion(a, 1.0, grid, solver="structured")
    other = solve_diffusion(1e-12 * a, 1e9, grid, solver="structured")
    assert other.iterations == one.iterations
    np.testing.assert_allclose(other.x * 1e-21, one.x, rtol=1e-9, atol=1e-12 * one.x.max())
    assert np.all(solve_diffusion(a, 0.0, grid, solver="structured").x == 0)


def test_1d_against_a_closed_form():
    """-(a u')' = 1 with a = 3 | 12 from the middle: quadratic on both sides, exact at the nodes."""
    grid = Grid.unit(41, dim=1)
    (x,) = grid.coords
    a = np.where(x < 0.5, 3.0, 12.0)
    half = 0.5 * (x[1] - x[0])
    s = 0.5 - half  # where the harmonic mean puts the interface
    # flux q = x - m; u = int_0^x (m - t) / a dt with u(1) = 0
    m = (s**2 / 6 + (1 - s**2) / 24) / (s / 3 + (1 - s) / 12)
    u = np.where(
        x <= s,
        (m * x - x**2 / 2) / 3,
        (m * s - s**2 / 2) / 3 + (m * (x - s) - (x**2 - s**2) / 2) / 12,
    )
    r = solve_diffusion(a, 1.0, grid, solver="structured")
    # the interface cell's source is not split: a flux of half a half-cell, h^2 / 8 (1/3 - 1/12) off
    assert np.abs(r.x - u).max() < 2 * half**2 / 8
    smooth = solve_diffusion(2.0, 1.0, grid, solver="structured")
    np.testing.assert_allclose(smooth.x, x * (1 - x) / 4, atol=1e-13)
