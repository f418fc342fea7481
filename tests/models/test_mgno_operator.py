"""The V-cycle against textbook multigrid, pyamg, plain loops and reflected domains."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.mgno import BoundaryTransposedConv, MultigridOperator, pad_boundary

F64 = torch.float64


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def operator(*args, seed: int = 0, **kwargs) -> MultigridOperator:
    """Operator in float64 with weights drawn from `seed`."""
    W = MultigridOperator(*args, **kwargs).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in W.parameters():
            p.copy_(0.3 * torch.randn(p.shape, dtype=F64, generator=generator))
    return W


def rel(a, b) -> float:
    a, b = torch.as_tensor(a).detach(), torch.as_tensor(b).detach()
    return float((a - b).abs().max() / b.abs().max())


# -- 1: textbook multigrid ----------------------------------------------------------------------


def interpolation(n: int) -> sp.csr_array:
    """Linear interpolation from (n - 1) / 2 to n interior vertices."""
    m = (n - 1) // 2
    P = sp.lil_array((n, m))
    for j in range(m):
        P[2 * j, j], P[2 * j + 1, j], P[2 * j + 2, j] = 0.5, 1.0, 0.5
    return P.tocsr()


def laplacian(n: int, h: float, dim: int) -> sp.csr_array:
    T = (
        sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
        / h**2
    )
    total = sp.csr_array((n**dim, n**dim))
    for d in range(dim):
        term = sp.eye_array(1)
        for k in range(dim):
            term = sp.kron(term, T if k == d else sp.eye_array(n))
        total = total + term
    return sp.csr_array(total)


def hierarchy(n: int, dim: int):
    levels, h = [], 1.0 / (n + 1)
    while True:
        A, P = laplacian(n, h, dim), None
        if n > 1:
            P = sp.eye_array(1)
            for _ in range(dim):
                P = sp.kron(P, interpolation(n))
            P = sp.csr_array(P)
        levels.append((A, P))
        if n == 1:
            return levels
        n, h = (n - 1) // 2, 2 * h


def textbook(levels, f, pre, post, omega, dim, i=0):
    A, P = levels[i]
    D = A.diagonal()
    u = np.zeros_like(f)
    for _ in range(pre):
        u = u + omega / D * (f - A @ u)
    if P is not None:
        r = P.T @ (f - A @ u) / 2**dim
        u = u + P @ textbook(levels, r, pre, post, omega, dim, i + 1)
    for _ in range(post):
        u = u + omega / D * (f - A @ u)
    return u


def poisson(n: int, dim: int, pre: int, post: int, **kwargs) -> MultigridOperator:
    levels = int(math.log2(n + 1))
    W = MultigridOperator(
        1, 1, levels=levels, smoothing=[(pre, post)] * levels, dim=dim, **kwargs
    ).double()
    W.init_poisson(1.0 / (n + 1), omega=0.8)
    return W


@pytest.mark.parametrize("cycle", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize(("n", "dim"), [(7, 1), (7, 2), (31, 2), (63, 2), (7, 3)])
def test_equals_textbook_v_cycle(n, dim, cycle):
    W = poisson(n, dim, *cycle)
    f = rand(1, 1, *[n] * dim)
    expected = textbook(hierarchy(n, dim), f.numpy().ravel(), *cycle, 0.8, dim)
    assert rel(W(f).detach().ravel(), expected) <= 1e-12


@pytest.mark.parametrize("cycle", [(1, 1), (2, 1), (2, 2)])
def test_equals_pyamg_with_the_same_levels(cycle):
    from pyamg.multilevel import MultilevelSolver
    from pyamg.relaxation.smoothing import change_smoothers

    n, dim = 31, 2
    levels = []
    for A, P in hierarchy(n, dim):
        level = MultilevelSolver.Level()
        level.A = sp.csr_matrix(A)
        if P is not None:
            level.P = sp.csr_matrix(P)
            level.R = sp.csr_matrix(P.T / 2**dim)
        levels.append(level)

    def coarsest(A, b):  # 1x1: as many Jacobi steps as on the other levels
        return b / A.toarray()[0, 0] * (1 - (1 - 0.8) ** sum(cycle))

    solver = MultilevelSolver(levels, coarse_solver=coarsest)
    change_smoothers(
        solver,
        ("jacobi", {"omega": 0.8, "iterations": cycle[0], "withrho": False}),
        ("jacobi", {"omega": 0.8, "iterations": cycle[1], "withrho": False}),
    )
    f = rand(1, 1, n, n)
    expected = solver.solve(f.numpy().ravel(), x0=np.zeros(n * n), maxiter=1, tol=1e-300)
    assert rel(poisson(n, dim, *cycle)(f).detach().ravel(), expected) <= 1e-12


@pytest.mark.parametrize(("cycle", "factor"), [((1, 1), 0.35), ((2, 1), 0.24), ((2, 2), 0.17)])
@pytest.mark.parametrize("n", [31, 63, 127])
def test_convergence_factor_does_not_depend_on_the_grid(n, cycle, factor):
    W = poisson(n, 2, *cycle)
    A = W.level[0].A[0]
    e, norms = rand(1, 1, n, n), []
    with torch.no_grad():
        for _ in range(22):
            e = e - W(A(e))
            norms.append(float(e.norm()))
            e = e / e.norm()
    assert abs(np.exp(np.mean(np.log(norms[-6:]))) - factor) <= 0.02


@pytest.mark.parametrize(
    ("boundary", "layout", "n"),
    [
        ("dirichlet", "vertex", 31),
        ("dirichlet", "cell", 32),
        ([("dirichlet", "neumann"), "dirichlet"], "vertex", (32, 31)),
        ([("neumann", "dirichlet"), "periodic"], "cell", (32, 32)),
    ],
)
def test_poisson_start_solves_under_every_rule(boundary, layout, n):
    """Iterating from the textbook start reduces the error by the factor of a good V-cycle."""
    shape = (n, n) if isinstance(n, int) else n
    W = MultigridOperator(
        1, 1, levels=4, smoothing=[(2, 2)] * 3 + [(40, 0)], boundary=boundary, layout=layout
    ).double()
    W.init_poisson(1 / 32)
    exact = rand(1, 1, *shape)
    with torch.no_grad():
        f = W.level[0].A[0](exact)
        u = torch.zeros_like(f)
        for _ in range(12):
            u = u + W(f - W.level[0].A[0](u))
    assert rel(u, exact) < 0.35**12


# -- 2: boundary rules are exact -----------------------------------------------------------------

KINDS = {
    # boundary, layout: unknowns for 3 levels, and the field on a periodic axis
    ("dirichlet", "dirichlet", "vertex"): (7, lambda u, z, f: [z, u, z, -f]),
    ("neumann", "neumann", "vertex"): (9, lambda u, z, f: [u, f[1:-1]]),
    ("dirichlet", "neumann", "vertex"): (8, lambda u, z, f: [z, u, f[1:], z, -u, -f[1:]]),
    ("neumann", "dirichlet", "vertex"): (8, lambda u, z, f: [u, z, -f, -u[1:], z, f[:-1]]),
    ("dirichlet", "dirichlet", "cell"): (8, lambda u, z, f: [u, -f]),
    ("neumann", "neumann", "cell"): (8, lambda u, z, f: [u, f]),
    ("dirichlet", "neumann", "cell"): (8, lambda u, z, f: [u, f, -u, -f]),
    ("neumann", "dirichlet", "cell"): (8, lambda u, z, f: [u, -f, -u, f]),
    ("periodic", "periodic", "vertex"): (8, lambda u, z, f: [u]),
    ("periodic", "periodic", "cell"): (8, lambda u, z, f: [u]),
}


def extend(u: torch.Tensor, axes) -> torch.Tensor:
    """The periodic field whose symmetries are the boundary conditions."""
    for d, key in enumerate(axes):
        v = u.movedim(d + 2, 0)
        u = torch.cat(KINDS[key][1](v, torch.zeros_like(v[:1]), v.flip(0))).movedim(0, d + 2)
    return u


def restrict_to_unknowns(U: torch.Tensor, axes) -> torch.Tensor:
    for d, (left, right, layout) in enumerate(axes):
        n = KINDS[left, right, layout][0]
        U = U.narrow(d + 2, int(layout == "vertex" and left == "dirichlet"), n)
    return U


def symmetrize(W: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in W.parameters():
            for d in range(2, p.ndim):
                p.copy_((p + p.flip(d)) / 2)


AXES_2D = [
    (("dirichlet", "dirichlet", "vertex"), ("neumann", "neumann", "vertex")),
    (("dirichlet", "neumann", "vertex"), ("periodic", "periodic", "vertex")),
    (("dirichlet", "dirichlet", "vertex"), ("dirichlet", "dirichlet", "vertex")),
    (("neumann", "dirichlet", "cell"), ("dirichlet", "dirichlet", "cell")),
    (("periodic", "periodic", "cell"), ("neumann", "neumann", "cell")),
    (("dirichlet", "dirichlet", "cell"), ("dirichlet", "dirichlet", "vertex")),
]
AXES = [(key,) for key in KINDS] + AXES_2D + [
    (
        ("dirichlet", "dirichlet", "vertex"),
        ("neumann", "neumann", "vertex"),
        ("periodic", "periodic", "vertex"),
    ),
    (
        ("dirichlet", "neumann", "cell"),
        ("neumann", "neumann", "cell"),
        ("dirichlet", "dirichlet", "cell"),
    ),
    (
        ("dirichlet", "neumann", "vertex"),
        ("neumann", "dirichlet", "vertex"),
        ("neumann", "neumann", "vertex"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "axes", AXES, ids=lambda axes: "-".join(f"{a[0][0]}{a[1][0]}{a[2][0]}" for a in axes)
)
@pytest.mark.parametrize(("coarse", "kernel_size"), [("residual", 3), ("fas", 3), ("restrict", 5)])
def test_boundary_rule_is_exact(axes, coarse, kernel_size):
    """The operator is the periodic one on the reflected field (random symmetric kernels)."""
    common = {
        "levels": 3, "smoothing": [(1, 1), (2, 1), (1, 2)], "dim": len(axes), "coarse": coarse,
        "kernel_size": kernel_size, "layout": [a[2] for a in axes],
    }  # fmt: skip
    W = operator(2, 3, boundary=[a[:2] for a in axes], **common)
    symmetrize(W)
    periodic = operator(2, 3, boundary="periodic", **common)
    periodic.load_state_dict(W.state_dict())
    f = rand(2, 2, *[KINDS[a][0] for a in axes])
    full = periodic(extend(f, axes))
    assert rel(W(f), restrict_to_unknowns(full, axes)) <= 1e-10
    # and the answer has the symmetries itself
    assert rel(extend(W(f), axes), full) <= 1e-10


@pytest.mark.parametrize("layout", ["vertex", "cell"])
@pytest.mark.parametrize("dim", [1, 2])
def test_periodic_operator_commutes_with_shifts(layout, dim):
    levels = 4
    W = operator(2, 2, levels=levels, boundary="periodic", layout=layout, dim=dim)
    f = rand(1, 2, *[16] * dim)
    shifts, dims = [2 ** (levels - 1)] * dim, list(range(2, dim + 2))
    assert rel(W(f.roll(shifts, dims)), W(f).roll(shifts, dims)) <= 1e-12
    assert rel(W(f.roll(1, 2)), W(f).roll(1, 2)) > 1e-3  # but not with single steps


@pytest.mark.parametrize("key", list(KINDS))
@pytest.mark.parametrize("width", [1, 2, 3, (0, 2)])
def test_pad_boundary_equals_the_reflected_field(key, width):
    u = rand(2, 1, KINDS[key][0])
    left, right = (width, width) if isinstance(width, int) else width
    U = extend(u, [key])
    first = int(key[2] == "vertex" and key[0] == "dirichlet")
    index = torch.arange(first - left, first + KINDS[key][0] + right) % U.shape[2]
    assert torch.equal(pad_boundary(u, [(left, right)], [key[:2]], key[2]), U[:, :, index])


def test_pad_boundary_is_a_tensor_product():
    u = rand(1, 2, 5, 4)
    both = pad_boundary(u, [1, 2], ["neumann", ("dirichlet", "periodic")[:1] * 2], "cell")
    one = pad_boundary(u, [1, 0], ["neumann", "dirichlet"], "cell")
    assert torch.equal(both, pad_boundary(one, [0, 2], ["neumann", "dirichlet"], "cell"))
    assert both.shape == (1, 2, 7, 8)


# torch itself scripts its forward-mode rules
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_pad_boundary_is_differentiable_in_every_way():
    """First and second derivatives, forward mode and vmap, against finite differences."""

    def f(x):
        return pad_boundary(x, [1, 2], [("neumann", "dirichlet"), "periodic"], "vertex")

    x = rand(1, 2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda t: f(t) ** 2, (x,))
    batch = rand(3, 1, 2, 4, 3)
    assert torch.equal(torch.func.vmap(f)(batch), torch.stack([f(b) for b in batch]))
    last = rand(2, 2, 4, 6).to(memory_format=torch.channels_last)
    assert torch.equal(f(last), f(last.contiguous()))


def test_prolongation_of_a_constant_and_of_a_line():
    """Linear taps reproduce what the boundary rule allows."""
    P = BoundaryTransposedConv(1, 1, dim=1, boundary="neumann").double()
    with torch.no_grad():
        P.weight.copy_(torch.tensor([[[0.5, 1.0, 0.5]]]))
    assert torch.allclose(P(torch.ones(1, 1, 5, dtype=F64), [9]), torch.ones(1, 1, 9, dtype=F64))
    P = BoundaryTransposedConv(1, 1, dim=1, boundary=[("dirichlet", "neumann")]).double()
    with torch.no_grad():
        P.weight.copy_(torch.tensor([[[0.5, 1.0, 0.5]]]))
    line = torch.arange(1, 9, dtype=F64)
    assert torch.allclose(P(line[None, None, 1::2], [8])[0, 0], line)


# -- 3: linearity, matrices, plain loops ----------------------------------------------------------


def ghost_value(u, index, boundary, layout):
    """u at `index`, which may lie outside: by the definition of the rules, axis by axis."""
    sign, inside = 1.0, []
    for i, n, (left, right), lay in zip(index, u.shape, boundary, layout, strict=True):
        while not 0 <= i < n:
            if left == "periodic":
                i %= n
                continue
            kind = left if i < 0 else right
            if lay == "vertex" and kind == "dirichlet":
                wall = -1 if i < 0 else n
                if i == wall:
                    return 0.0
                i, sign = 2 * wall - i, -sign
            elif lay == "vertex":
                end = 0 if i < 0 else n - 1
                i = 2 * end - i
            else:
                i = -1 - i if i < 0 else 2 * n - 1 - i
                sign = -sign if kind == "dirichlet" else sign
        inside.append(i)
    return sign * u[tuple(inside)]


def loop_conv(u, weight, boundary, layout, stride=1):
    """Convolution of one sample, channel by channel, tap by tap."""
    shape = u.shape[1:]
    taps = weight.shape[2:]
    offset = [
        int(lay == "vertex" and b[0] == "dirichlet")
        for b, lay in zip(boundary, layout, strict=True)
    ]
    if stride == 1:
        sizes, first = shape, [-(k // 2) for k in taps]
    else:
        sizes = tuple((n - o + 1) // 2 for n, o in zip(shape, offset, strict=True))
        first = [o - 1 for o in offset]
    out = np.zeros((weight.shape[0], *sizes))
    for o, c in itertools.product(range(weight.shape[0]), range(weight.shape[1])):
        for x in itertools.product(*map(range, sizes)):
            for t in itertools.product(*map(range, taps)):
                index = [stride * a + s + b for a, s, b in zip(x, first, t, strict=True)]
                out[(o, *x)] += weight[(o, c, *t)] * ghost_value(u[c], index, boundary, layout)
    return out


def loop_prolong(u, weight, size, boundary, layout):
    """Sum over all coarse points, ghosts included, whose taps reach a fine point."""
    offset = [
        int(lay == "vertex" and b[0] == "dirichlet")
        for b, lay in zip(boundary, layout, strict=True)
    ]
    out = np.zeros((weight.shape[1], *size))
    taps = weight.shape[2:]
    for c, o in itertools.product(range(weight.shape[0]), range(weight.shape[1])):
        for x in itertools.product(*map(range, size)):
            for t in itertools.product(*map(range, taps)):
                twice = [a - s + 1 - b for a, s, b in zip(x, offset, t, strict=True)]
                if all(v % 2 == 0 for v in twice):
                    index = [v // 2 for v in twice]
                    out[(o, *x)] += weight[(c, o, *t)] * ghost_value(u[c], index, boundary, layout)
    return out


def loop_cycle(W: MultigridOperator, f, boundary, layout, u=None, i=0):
    """Section 2 of the method in loops; `u` None is zero."""
    level = W.level[i]
    A = iter([a.weight.detach().numpy() for a in level.A])
    shared = level.A[0].weight.detach().numpy() if len(level.A) and W.shared_stencil else None
    S = [s.weight.detach().numpy() for s in level.S]

    def conv(x, w, stride=1):
        return loop_conv(x, w, boundary, layout, stride)

    def defect(u):
        return f - conv(u, shared if shared is not None else next(A))

    pre, post = W.smoothing[i]
    for k in range(pre):
        u = conv(f, S[k]) if u is None else u + conv(defect(u), S[k])
    if i + 1 < W.levels:
        rhs = f if W.coarse == "restrict" or u is None else defect(u)
        start = None
        if W.coarse != "residual" and u is not None:
            start = conv(u, level.Pi.weight.detach().numpy(), 2)
        e = loop_cycle(
            W, conv(rhs, level.R.weight.detach().numpy(), 2), boundary, layout, start, i + 1
        )
        e = loop_prolong(e, level.P.weight.detach().numpy(), f.shape[1:], boundary, layout)
        u = e if u is None else u + e
    for k in range(pre, pre + post):
        u = conv(f, S[k]) if u is None else u + conv(defect(u), S[k])
    return u


DD, NN, PP, DN, ND = (
    ("dirichlet", "dirichlet"), ("neumann", "neumann"), ("periodic", "periodic"),
    ("dirichlet", "neumann"), ("neumann", "dirichlet"),
)  # fmt: skip
LOOPS = [
    ([DD], ["vertex"], (7,)),
    ([NN], ["vertex"], (9,)),
    ([PP], ["vertex"], (8,)),
    ([ND], ["cell"], (8,)),
    ([DD, DD], ["vertex", "vertex"], (7, 3)),
    ([DN, PP], ["vertex", "cell"], (4, 4)),
    ([NN, DD], ["cell", "cell"], (4, 4)),
]


@pytest.mark.parametrize(("boundary", "layout", "shape"), LOOPS)
@pytest.mark.parametrize("coarse", ["residual", "fas", "restrict"])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_plain_loops(boundary, layout, shape, coarse, shared):
    W = operator(
        2, 3, levels=2, smoothing=[(1, 1), (2, 0)], dim=len(shape), boundary=boundary,
        layout=layout, coarse=coarse, shared_stencil=shared,
    )  # fmt: skip
    f = rand(1, 2, *shape)
    expected = loop_cycle(W, f[0].numpy(), boundary, layout)
    assert rel(W(f)[0].detach(), expected) <= 1e-10


@pytest.mark.parametrize("smoothing", [[(0, 1), (1, 0), (0, 1)], [(0, 0), (0, 2), (2, 0)]])
@pytest.mark.parametrize("coarse", ["residual", "fas", "restrict"])
def test_cycles_without_presmoothing(smoothing, coarse):
    W = operator(2, 1, levels=3, smoothing=smoothing, dim=1, coarse=coarse, shared_stencil=False)
    f = rand(1, 2, 7)
    y = W(f)
    assert rel(y[0].detach(), loop_cycle(W, f[0].numpy(), [DD], ["vertex"])) <= 1e-10
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in W.parameters())


@pytest.mark.parametrize("n", [6, 7, 10, 13])
@pytest.mark.parametrize(
    ("boundary", "layout"),
    [(DD, "vertex"), (NN, "vertex"), (DN, "vertex"), (DD, "cell"), (NN, "cell")],
)
def test_uneven_sizes_equal_plain_loops(n, boundary, layout):
    W = operator(1, 2, levels=3, dim=1, boundary=[boundary], layout=layout, uneven="ceil")
    f = rand(1, 1, n)
    assert rel(W(f)[0].detach(), loop_cycle(W, f[0].numpy(), [boundary], [layout])) <= 1e-10


def test_uneven_changes_nothing_on_even_sizes():
    W = operator(1, 2, levels=4, uneven="ceil")
    V = operator(1, 2, levels=4)
    f = rand(1, 1, 31, 15)
    assert torch.equal(W(f), V(f))


@pytest.mark.parametrize("coarse", ["residual", "fas", "restrict"])
def test_linear(coarse):
    W = operator(2, 3, levels=3, smoothing=[(1, 1)] * 3, coarse=coarse)
    f, g = rand(2, 2, 15, 7), rand(2, 2, 15, 7, seed=1)
    assert rel(W(2.5 * f - 0.7 * g), 2.5 * W(f) - 0.7 * W(g)) <= 1e-12
    assert torch.count_nonzero(W(torch.zeros_like(f))) == 0


@pytest.mark.parametrize("coarse", ["residual", "fas", "restrict"])
@pytest.mark.parametrize(
    ("boundary", "layout", "shape"),
    [([NN, NN], "vertex", (5, 5)), ([NN, NN], "cell", (4, 4)), ([DN, PP], "vertex", (4, 4)),
     ([DD], "vertex", (7,))],
)  # fmt: skip
def test_gradients(coarse, boundary, layout, shape):
    """Sums in place, shared ghosts and torch's own paddings leave the derivatives right."""
    W = operator(
        2, 2, levels=2, smoothing=[(2, 1), (1, 1)], dim=len(shape), coarse=coarse,
        boundary=boundary, layout=layout, shared_stencil=False,
    )  # fmt: skip
    names = [name for name, _ in W.named_parameters()]

    def apply(f, *weights):
        return torch.func.functional_call(W, dict(zip(names, weights, strict=True)), f)

    f = rand(1, 2, *shape).requires_grad_()
    weights = [p.detach().clone().requires_grad_() for p in W.parameters()]
    assert torch.autograd.gradcheck(apply, (f, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda g: apply(g, *weights).square(), (f,), fast_mode=True)


# torch itself scripts its forward-mode rules
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_function_transforms(boundary):
    """vmap, forward mode and memory formats: W is linear, so its derivative is itself."""
    n = {"dirichlet": 7, "neumann": 9, "periodic": 8}[boundary]
    W = operator(2, 3, levels=2, boundary=boundary)
    f = rand(4, 1, 2, n, n)
    expected = torch.stack([W(g) for g in f])
    torch.testing.assert_close(torch.func.vmap(W)(f), expected, rtol=0, atol=1e-13)
    value, derivative = torch.func.jvp(W, (f[0],), (f[1],))
    torch.testing.assert_close(value, expected[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(derivative, expected[1], rtol=0, atol=1e-13)
    last = f[0].to(memory_format=torch.channels_last)
    torch.testing.assert_close(W(last), expected[0], rtol=0, atol=1e-13)


def test_as_matrix():
    W = operator(2, 3, levels=2, smoothing=[(1, 1), (2, 0)], boundary=[DD, NN])
    M = W.as_matrix((3, 3)).numpy()
    assert M.shape == (27, 18)
    for column in range(18):
        f = np.zeros(18)
        f[column] = 1.0
        expected = loop_cycle(W, f.reshape(2, 3, 3), [DD, NN], ["vertex", "vertex"])
        np.testing.assert_allclose(M[:, column], expected.ravel(), rtol=0, atol=1e-12)
    f = rand(4, 2, 3, 3)
    assert rel(f.flatten(1) @ torch.as_tensor(M).T, W(f).detach().flatten(1)) <= 1e-12


# -- 4: cost --------------------------------------------------------------------------------------


def flops(W: torch.nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        W(x)
    return counter.get_total_flops()


def test_cost_is_linear():
    W = MultigridOperator(4, 4, levels=5, boundary="periodic")
    a, b = flops(W, torch.zeros(1, 4, 64, 64)), flops(W, torch.zeros(1, 4, 128, 128))
    assert b / a == pytest.approx(4.0, rel=0.02)
    W = MultigridOperator(4, 4, levels=5)
    a, b = flops(W, torch.zeros(1, 4, 63, 63)), flops(W, torch.zeros(1, 4, 127, 127))
    assert b / a == pytest.approx(4.0, rel=0.1)  # (127 / 63)^2 = 4.06
    # the finest level with its transfers, from an operator whose second level does little
    two = MultigridOperator(4, 4, levels=2, smoothing=[(1, 0), (1, 0)])
    coarsest = MultigridOperator(4, 4, levels=1, smoothing=[(1, 0)])
    x = torch.zeros(1, 4, 127, 127)
    finest = flops(two, x) - flops(coarsest, torch.zeros(1, 4, 63, 63))
    assert flops(W, x) <= 1.45 * finest


def test_saved_activations_are_linear_in_the_grid():
    W = MultigridOperator(2, 2, levels=4, boundary="periodic")

    def saved(n: int) -> int:
        tensors: dict[int, int] = {}

        def pack(t):
            tensors[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = W(torch.zeros(1, 2, n, n))
        del y
        weights = {p.untyped_storage().data_ptr() for p in W.parameters()}
        return sum(v for k, v in tensors.items() if k not in weights)

    assert saved(128) / saved(64) == pytest.approx(4.0, rel=0.1)


def test_parameters_grow_by_a_constant_per_level():
    count = [
        sum(p.numel() for p in MultigridOperator(3, 5, levels=k).parameters()) for k in (2, 3, 4, 5)
    ]
    assert len(set(np.diff(count))) == 1
    # finest A, S, R, P of one level: 3 * 3 taps each
    assert np.diff(count)[0] == 9 * (5 * 3 + 3 * 5 + 3 * 3 + 5 * 5)


def test_no_stencil_is_wasted():
    """One pre-smoothing step from zero and a coarse right-hand side R f need no finest A."""
    W = MultigridOperator(1, 1, levels=2, coarse="restrict")
    assert len(W.level[0].A) == 0
    assert len(MultigridOperator(1, 1, levels=1, smoothing=[(1, 0)]).level[0].A) == 0


# -- stencils, refinement, errors -----------------------------------------------------------------


def test_set_stencils_on_the_channel_diagonal_and_in_full():
    W = operator(2, 2, levels=1, smoothing=[(1, 0)], dim=1)
    W.set_stencils(S=[0.0, 3.0, 0.0])
    f = rand(1, 2, 5)
    assert torch.equal(W(f), 3 * f)
    full = rand(2, 2, 3)
    W.set_stencils(S=full, level=0)
    assert torch.equal(W.level[0].S[0].weight, full)
    with pytest.raises(
        ValueError, match=r"S has shape \(2, 2, 5\), expected \(2, 2, 3\) or \(3,\)"
    ):
        W.set_stencils(S=rand(2, 2, 5))
    with pytest.raises(ValueError, match="level=1: need 0 to 0"):
        W.set_stencils(S=full, level=1)


@pytest.mark.parametrize("layout", ["vertex", "cell"])
def test_refined_poisson_is_the_poisson_start_of_the_finer_grid(layout):
    h = 1 / 16
    W = MultigridOperator(1, 1, levels=3, smoothing=[(1, 1)] * 3, layout=layout).double()
    W.init_poisson(h)
    fine = MultigridOperator(1, 1, levels=4, smoothing=[(1, 1)] * 4, layout=layout).double()
    fine.init_poisson(h / 2)
    f = rand(1, 1, 31, 31) if layout == "vertex" else rand(1, 1, 32, 32)
    assert rel(W.refined()(f), fine(f)) <= 1e-12


@pytest.mark.parametrize("coarse", ["residual", "fas", "restrict"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("levels", [1, 3])
def test_refined_keeps_the_learned_levels(coarse, shared, levels):
    W = operator(2, 3, levels=levels, dim=1, coarse=coarse, shared_stencil=shared)
    V = W.refined()
    assert V.levels == levels + 1
    assert V.level_shapes((31,))[1] == (15,)
    for k in range(1, levels):
        for name, p in W.level[k].named_parameters():
            assert torch.equal(p, dict(V.level[k + 1].named_parameters())[name])
    y = V(rand(1, 2, 31))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in V.parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"boundary": "dirichlett"}, "unknown boundary 'dirichlett'. Did you mean 'dirichlet'"),
        ({"layout": "cells"}, "unknown layout 'cells'. Did you mean 'cell'"),
        ({"coarse": "residuals"}, "unknown coarse 'residuals'. Did you mean 'residual'"),
        ({"uneven": "floor"}, "unknown uneven 'floor'"),
        ({"boundary": [("periodic", "neumann"), "periodic"]}, "axis 0 .* must hold on both sides"),
        ({"boundary": ["neumann"]}, "one entry for each of dim=2 axes"),
        ({"smoothing": [(1, 0)]}, "smoothing has 1 entries, expected levels=5"),
        ({"smoothing": [(1, 0)] * 4 + [(0, 0)]}, "coarsest level needs at least one step"),
        ({"smoothing": [(1, -1)] * 5}, "every entry is"),
        ({"kernel_size": 4}, "kernel_size=4: need an odd integer"),
        ({"levels": 0}, "levels=0: need an integer >= 1"),
        ({"dim": 4}, "dim=4: need 1, 2 or 3"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MultigridOperator(1, 1, **kwargs)


@pytest.mark.parametrize(
    ("boundary", "layout", "n", "rule", "nearest"),
    [
        ("dirichlet", "vertex", 60, r"2\*\*k\*m - 1", "47 or 63"),
        ("neumann", "vertex", 64, r"2\*\*k\*m \+ 1", "49 or 65"),
        ("periodic", "vertex", 60, r"2\*\*k\*m with", "48 or 64"),
        ([DN, DN], "vertex", 60, r"2\*\*k\*m with", "48 or 64"),
        ("dirichlet", "cell", 60, r"2\*\*k\*m with", "48 or 64"),
        ("dirichlet", "vertex", 6, r"2\*\*k\*m - 1, m >= 2", "31"),
    ],
)
def test_sizes_that_do_not_coarsen(boundary, layout, n, rule, nearest):
    W = MultigridOperator(1, 1, levels=5, boundary=boundary, layout=layout)
    with pytest.raises(ValueError, match=f"axis 0 has {n} unknowns.*{rule}.*nearest: {nearest};"):
        W(torch.zeros(1, 1, n, n))


def test_wrong_channels_and_axes():
    W = MultigridOperator(2, 1, levels=2)
    with pytest.raises(
        ValueError, match=r"f has shape \(1, 3, 7, 7\), expected \(batch, 2, n1, n2\)"
    ):
        W(torch.zeros(1, 3, 7, 7))
    with pytest.raises(ValueError, match="dim=2"):
        W(torch.zeros(1, 2, 7))
    with pytest.raises(ValueError, match=r"size=.* coarsens to"):
        BoundaryTransposedConv(1, 1, dim=1)(
            torch.zeros(1, 1, 3),
            [
                8,
            ],
        )  # 8 -> 4
    with pytest.raises(ValueError, match="1e8 entries"):
        W.as_matrix((1023, 1023))


def test_nan_is_not_silenced():
    W = operator(1, 1, levels=3)
    f = rand(1, 1, 15, 15)
    f[0, 0, 7, 7] = math.nan
    assert torch.isnan(W(f)).any()


# -- 5: levels matter ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_levels_matter(seed):
    """A trained linear V-cycle on -Laplace u = f, 31^2: deeper is better by far."""
    n, h = 31, 1 / 32
    s = torch.sin(math.pi * h * torch.outer(torch.arange(1, n + 1), torch.arange(1, n + 1)))
    s = (s * math.sqrt(2 * h)).double()
    lam = (2 - 2 * torch.cos(math.pi * h * torch.arange(1, n + 1).double())) / h**2
    lam = lam[:, None] + lam[None]

    def batch(generator):
        f = torch.randn(16, n, n, dtype=F64, generator=generator)
        f = s @ (s @ f @ s / (1 + lam / 200)) @ s  # smooth sources
        f = f / f.flatten(1).norm(dim=1)[:, None, None] * n
        u = s @ (s @ f @ s / lam) @ s
        return f[:, None].float(), 50 * u[:, None].float()  # of order one

    def error(levels, smoothing, seed):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 1, bias=False),
            MultigridOperator(8, 8, levels=levels, smoothing=smoothing),
            torch.nn.Conv2d(8, 1, 1, bias=False),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=600)
        for _ in range(600):
            f, u = batch(generator)
            loss = ((model(f) - u).flatten(1).norm(dim=1) / u.flatten(1).norm(dim=1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        f, u = batch(torch.Generator().manual_seed(10**6))
        with torch.no_grad():
            return float(((model(f) - u).flatten(1).norm(dim=1) / u.flatten(1).norm(dim=1)).mean())

    five = error(5, None, seed)
    assert five <= 0.025
    assert error(3, None, seed) >= 1.3 * five
    assert error(1, [(8, 0)], seed) >= 8 * five
