"""Forward maps: adjoints, norms and their bounds, normal equations, adapters."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from opkit.inverse import LinearForward, NonlinearForward, as_forward, temper
from opkit.inverse.maps import (
    coefficient_map,
    differentiable_map,
    operator_map,
    problem_map,
    source_map,
)
from pde_data.problem import get_problem
from solvers import Grid, point_sensors, solve_diffusion
from solvers.grids import Axis
from solvers.observation import (
    Blur,
    CosineSensing,
    gaussian_kernel,
    gaussian_sensing,
    mask_operator,
    motion_kernel,
    radon_operator,
)

RNG = np.random.default_rng(0)
CELLS = Grid(
    tuple(Axis(a, n, -1.0, 1.0, location="cell_center") for a, n in zip("xy", (10, 8), strict=True))
)
DENSE = RNG.standard_normal((11, 24))
OPERATORS = {
    "matrix": (DENSE, (24,), (11,)),
    "matrix with shapes": (DENSE, (4, 6), (11,)),
    "sparse": (sp.random_array((9, 30), density=0.2, rng=RNG, format="csr"), (5, 6), (9,)),
    "scipy": (aslinearoperator(DENSE), None, None),
    "blur periodic": (Blur((12, 9), gaussian_kernel(1.3)), None, None),
    "blur zero": (Blur((12, 9), motion_kernel(4.0, 0.6), boundary="zero"), None, None),
    "blur wide": (Blur((5, 6), gaussian_kernel(3.0)), None, None),
    "mask": (mask_operator(RNG.random((6, 7)) < 0.4), None, None),
    "gaussian": (gaussian_sensing((6, 7), 11, RNG), None, None),
    "cosine": (CosineSensing((6, 7), 11, RNG), None, None),
    "radon": (
        radon_operator(CELLS, np.linspace(0, 3, 7), np.linspace(-1.3, 1.3, 12)), None, None
    ),
    "sensors": (point_sensors(CELLS, RNG.uniform(-1, 1, (20, 2))), None, None),
}  # fmt: skip
PROBLEMS = {
    "deblurring": {},
    "compressed_sensing": {"matrix": "cosine"},
    "tomography": {"n_angles": 7},
    "source_recovery": {"n_sensors": 9},
}


def build(name: str) -> LinearForward:
    if name in PROBLEMS:
        made = problem_map(get_problem(name, **PROBLEMS[name]), (12, 12))
    else:
        operator, ins, outs = OPERATORS[name]
        made = as_forward(operator, ins, outs)
    assert isinstance(made, LinearForward)
    return made


def dense_of(A: LinearForward) -> np.ndarray:
    """(data, unknowns), through the map itself."""
    return A(np.eye(A.n_unknowns).reshape(-1, *A.in_shape)).reshape(A.n_unknowns, -1).T


EVERY = [*OPERATORS, *PROBLEMS]


@pytest.mark.parametrize("name", EVERY)
def test_adjoint_is_exact(name: str) -> None:
    A = build(name)
    assert A.adjoint_test() < 1e-12
    transposed = A.adjoint(np.eye(A.n_data).reshape(-1, *A.out_shape)).reshape(A.n_data, -1)
    assert np.allclose(transposed, dense_of(A), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", EVERY)
def test_batch_equals_one_by_one(name: str) -> None:
    A = build(name)
    x = RNG.standard_normal((3, *A.in_shape))
    assert np.allclose(A(x), np.stack([A(v) for v in x]), rtol=0, atol=1e-14)
    assert A(x[:0]).shape == (0, *A.out_shape)
    y = RNG.standard_normal((3, *A.out_shape))
    assert np.allclose(A.adjoint(y), np.stack([A.adjoint(v) for v in y]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [n for n in OPERATORS if hasattr(OPERATORS[n][0], "apply")])
def test_it_is_the_operator_that_was_given(name: str) -> None:
    operator = OPERATORS[name][0]
    x = RNG.standard_normal(operator.field_shape)
    assert np.allclose(build(name)(x), operator.apply(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", EVERY)
def test_norm_and_its_bound(name: str) -> None:
    """Power iteration from below, the bound from above and not far."""
    A = build(name)
    exact = float(np.linalg.norm(dense_of(A), 2))
    assert A.norm() == pytest.approx(exact, rel=1e-4)
    assert A.norm() <= exact * (1 + 1e-12)
    bound = A.norm_bound()
    # a blur that is cut at the ends has a smaller norm than its kernel says
    assert exact <= bound.value <= (1.5 if bound.source == "kernel" else 1.05) * exact + 1e-15
    # a space of few dimensions is exhausted, so that the bound only adds its factor
    assert exact <= A._lanczos() <= 1.1 * exact


def test_bound_of_large_maps_is_safe() -> None:
    """No spectrum: a diagonal with a cluster at the top, whose norm power iteration misses."""
    d = np.concatenate([1.0 - 1e-3 * np.linspace(0, 1, 100) ** 2, np.linspace(0, 0.99, 4900)])
    A = LinearForward(lambda x: d * x, lambda y: d * y, (5000,), (5000,))
    bound = A.norm_bound()
    assert bound.source == "lanczos"
    assert 1.0 <= bound.value < 1.02
    assert A.norm(maxiter=30) < 1.0


@pytest.mark.parametrize("name", ["matrix", "sparse", "blur periodic", "radon", "source_recovery"])
@pytest.mark.parametrize("solver", [None, "direct", "cg"])
def test_normal_equations(name: str, solver: str | None) -> None:
    A = build(name)
    dense = dense_of(A)
    b = RNG.standard_normal((3, *A.in_shape))
    tau = np.array([1.0, 0.1, 2.0]) * np.linalg.norm(dense, 2) ** 2
    exact = np.stack(
        [
            np.linalg.solve(dense.T @ dense + t * np.eye(A.n_unknowns), v.ravel())
            for v, t in zip(b, tau, strict=True)
        ]
    )
    found = A.solve_normal(b, tau, solver=solver).reshape(3, -1)
    assert np.allclose(found, exact, rtol=0, atol=1e-10 * np.abs(exact).max())


def test_source_map_is_the_solver_followed_by_the_sensors() -> None:
    grid = Grid.unit((9, 13), dim=2)
    C = point_sensors(grid, RNG.uniform(0.1, 0.9, (5, 2)))
    a = np.exp(0.3 * RNG.standard_normal(grid.shape))
    A = source_map(grid, C, a=a)
    q = RNG.standard_normal(grid.shape)
    u = solve_diffusion(a, q, grid, rtol=1e-12).x
    assert np.allclose(A(q), C.apply(u), rtol=0, atol=1e-12)


def test_problems_are_mapped_as_they_generate() -> None:
    for name in (*PROBLEMS, "darcy_inverse"):
        p = get_problem(name, **PROBLEMS.get(name, {"n_sensors": 9}))
        shape = (12, 12)
        rng = np.random.default_rng(1)
        s = p.solve(
            p.draw(rng, 0) if hasattr(p, "source") else p.sample(rng), shape,
            solver=p.choose_solver(shape), rtol=1e-12,
        )  # fmt: skip
        unknown = s.fields[p.schema(shape).outputs[0]]
        x = np.log(unknown) if name == "darcy_inverse" else unknown
        assert np.allclose(problem_map(p, shape)(x), s.fields["clean"], rtol=1e-8, atol=1e-10)


# -- nonlinear -----------------------------------------------------------------------------------


def test_coefficient_map_has_the_right_gradient() -> None:
    grid = Grid.unit((9, 9), dim=2)
    G = coefficient_map(grid, point_sensors(grid, RNG.uniform(0.1, 0.9, (12, 2))))
    x = 0.5 * RNG.standard_normal((2, *grid.shape))
    y = G(x) + 0.01
    h, g = G.misfit_and_gradient(x, y)
    assert np.allclose(h, 0.5 * 12 * 0.01**2, rtol=1e-9)
    assert G.gradient_test(x[0], 0.9 * y[0]) < 1e-5  # the bound that the issue asks for
    assert g.shape == x.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trained_operator_as_forward_map(tmp_path) -> None:
    """Values are the operator's own, gradients autograd's, in double precision."""
    import opkit

    opkit.generate(
        "darcy", out=tmp_path / "d", n=6, n_valid=2, n_test=1, resolution=17,
        params={"coefficient": "log_normal"}, progress=False,
    )  # fmt: skip
    op = opkit.fit(
        tmp_path / "d", model="mgno", out=tmp_path / "r", epochs=1, threads=1,
        options={"hidden_channels": 4}, progress=False,
    )  # fmt: skip
    grid = Grid.unit((17, 17), dim=2)
    C = point_sensors(grid, RNG.uniform(0.1, 0.9, (7, 2)))
    G = operator_map(op, grid, C)
    x = 0.3 * RNG.standard_normal((2, 17, 17))
    u = op(np.exp(x))
    assert np.allclose(G(x), np.stack([C.apply(v) for v in u]), rtol=0, atol=1e-5 * np.abs(u).max())
    assert G.gradient_test(x[0], 0.5 * G(x[0])) < 1e-7
    assert str(op.dtype) == "torch.float32"  # left as it was
    with pytest.raises(ValueError, match="the operator has 2 space dimensions, the unknown 1"):
        operator_map(op, Grid.unit(17, dim=1), C)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("model", ["deeponet", "pod_deeponet"])
def test_trained_operator_at_points_as_forward_map(tmp_path, model: str) -> None:
    """DeepONet: its own values on the grid, seen by the sensors; gradients are autograd's."""
    import opkit

    darcy = {"resolution": (9, 11), "params": {"coefficient": "log_normal"}, "progress": False}
    opkit.generate("darcy", out=tmp_path / "d", n=6, n_valid=2, n_test=1, **darcy)
    options = {"latent": 4} if model == "deeponet" else {"modes": 4}
    settings = {"epochs": 1, "threads": 1, "progress": False, "options": options}
    op = opkit.fit(tmp_path / "d", model=model, out=tmp_path / "r", **settings)
    grid = Grid.unit((9, 11), dim=2)
    C = point_sensors(grid, RNG.uniform(0.1, 0.9, (7, 2)))
    G = operator_map(op, grid, C)
    x = 0.3 * RNG.standard_normal((2, 9, 11))
    # the operator at all points of the grid, in their order
    u = op(np.exp(x), np.stack([p.ravel() for p in grid.meshgrid()], axis=1))
    expected = np.stack([C.apply(v.reshape(grid.shape)) for v in u])
    assert np.allclose(G(x), expected, rtol=0, atol=1e-5 * np.abs(u).max())
    assert np.abs(G(x)[0] - G(x)[1]).max() > 1e-5 * np.abs(u).max()
    assert G.gradient_test(x[0], 0.5 * G(x[0])) < 1e-7
    direct = operator_map(op, grid, C, log=False)
    assert np.allclose(direct(np.exp(x)), G(x), rtol=1e-12, atol=0)
    assert str(op.dtype) == "torch.float32"  # left as it was
    other = Grid.unit((9, 9), dim=2)
    with pytest.raises(ValueError, match=r"the operator sees a at y=0\.\d+, which is no point"):
        operator_map(op, other, point_sensors(other, np.array([[0.5, 0.5]])))
    with pytest.raises(ValueError, match=r"sensors have shape \(1, 81\), expected \(n_sensors, 99"):
        operator_map(op, grid, point_sensors(other, np.array([[0.5, 0.5]])))
    line = Grid.unit(9, dim=1)
    with pytest.raises(
        ValueError, match="sensors in 2 and points in 2 dimensions, the unknown has"
    ):
        operator_map(op, line, point_sensors(line, np.array([[0.5]])))
    # fewer sensors than points: some of the grid's
    op = opkit.fit(
        tmp_path / "d", model=model, out=tmp_path / "s", task={"sensors": 20}, **settings
    )
    m = op.sensors().round(12)
    at = [
        np.argmin(np.abs(np.stack([p.ravel() for p in grid.meshgrid()], 1) - s).sum(1)) for s in m
    ]
    u = op(np.exp(x).reshape(2, -1)[:, at], np.stack([p.ravel() for p in grid.meshgrid()], axis=1))
    expected = np.stack([C.apply(v.reshape(grid.shape)) for v in u])
    assert np.allclose(operator_map(op, grid, C)(x), expected, atol=1e-5 * np.abs(u).max(), rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operators_that_are_no_forward_map(tmp_path) -> None:
    import opkit

    opkit.generate("antiderivative", out=tmp_path / "d", n=6, n_valid=2, n_test=1, progress=False)
    fit = {"epochs": 1, "threads": 1, "progress": False}
    op = opkit.fit(tmp_path / "d", model="deeponet", out=tmp_path / "r", **fit)
    grid = Grid.unit((9, 9), dim=2)
    C = point_sensors(grid, np.array([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="is asked at time: need a field in space"):
        operator_map(op, grid, C)
    prior = opkit.fit(tmp_path / "d", model="lpn", out=tmp_path / "p", **fit)
    with pytest.raises(ValueError, match="is of the task 'denoising'"):
        operator_map(prior, grid, C)


def test_gradient_test_finds_a_wrong_gradient() -> None:
    def wrong(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.5 * float(np.sum((x - y) ** 2)), 1.01 * (x - y)

    G = NonlinearForward(wrong, (5,), (5,))
    assert G.gradient_test(RNG.standard_normal(5), np.zeros(5)) == pytest.approx(
        0.01 / 1.01, rel=1e-6
    )
    with pytest.raises(ValueError, match="no apply"):
        G(np.zeros(5))
    short = NonlinearForward(lambda x, y: (0.0, x[:2]), (5,), (5,))
    with pytest.raises(ValueError, match=r"gave shapes \(1,\) and \(1, 2\), expected \(1,\) and"):
        short.misfit_and_gradient(np.zeros((1, 5)), np.zeros((1, 5)))


def test_torch_function_as_forward_map() -> None:
    G = differentiable_map(lambda t: (t**2).sum(1, keepdim=True), (4,), (1,))
    x = RNG.standard_normal((3, 4))
    assert np.allclose(G(x), (x**2).sum(1, keepdims=True))
    assert G.gradient_test(x[0], np.array([0.3])) < 1e-8


# -- tempering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_tempered_singular_values_are_capped(shape: tuple[int, int]) -> None:
    matrix = RNG.standard_normal(shape)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    noise, sigma = 0.1, 0.1 / np.median(s)
    P, weigh = temper(matrix, noise, sigma, margin=1.0)
    capped = np.minimum(s, noise / sigma)
    assert np.allclose(dense_of(P), (u * capped) @ vt, rtol=0, atol=1e-12)
    assert P.inflated == np.sum(s > noise / sigma) > 0
    assert P.adjoint_test() < 1e-12
    # only those directions of the data change
    y = RNG.standard_normal((1, shape[0]))
    change = (weigh(y) - y) @ u
    assert np.allclose(change, (y @ u) * (capped / s - 1), rtol=0, atol=1e-12)
    rest = (weigh(y) - y) - change @ u.T
    assert np.abs(rest).max() < 1e-12


def test_nothing_is_tempered_where_data_are_vague() -> None:
    P, weigh = temper(np.eye(3), noise=1.0, sigma=0.1)
    assert P.inflated == 0
    assert np.array_equal(weigh(np.ones((1, 3))), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"sigma=0\.0: need a positive number"):
        temper(np.eye(3), noise=1.0, sigma=0.0)


def test_tempered_coefficients() -> None:
    """The derivative at a point is capped there, and the gradient stays exact everywhere."""
    grid = Grid.unit((7, 7), dim=2)
    G = coefficient_map(grid, point_sensors(grid, RNG.uniform(0.1, 0.9, (6, 2))))

    def derivative(F: NonlinearForward, x: np.ndarray) -> np.ndarray:
        y = F(x) - np.eye(6)
        return F.misfit_and_gradient(np.stack([x] * 6), y)[1].reshape(6, -1)

    at = 0.3 * RNG.standard_normal(grid.shape)
    s = np.linalg.svd(derivative(G, at), compute_uv=False)
    P, weigh = temper(G, 1e-3, 1e-3 / s[2], margin=1.0, at=at)
    assert isinstance(P, NonlinearForward) and P.inflated in (2, 3)
    assert np.allclose(
        np.linalg.svd(derivative(P, at), compute_uv=False), np.minimum(s, s[2]), rtol=1e-8
    )
    x = 0.3 * RNG.standard_normal(grid.shape)
    assert np.allclose(P(x), weigh(G(x)[None])[0])
    assert P.gradient_test(x, weigh(0.9 * G(at)[None])[0]) < 1e-6
    with pytest.raises(ValueError, match=r"at has shape \(3,\), expected \(7, 7\)"):
        temper(G, 1e-3, 1.0, at=np.zeros(3))


# -- what is refused -----------------------------------------------------------------------------


def test_wrong_adjoint_is_named() -> None:
    A = LinearForward(lambda x: 2 * x, lambda y: 2 * y * (1 + 1e-5), (4,), (4,))
    with pytest.raises(ValueError, match=r"rmatvec is not the adjoint of matvec.*allowed is 1e-06"):
        A.check()
    good = LinearForward(lambda x: 2 * x, lambda y: 2 * y * (1 + 1e-9), (4,), (4,))
    good.check()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_forward(np.ones((2, 3)), (4,)), r"matrix has shape \(2, 3\), expected"),
        (lambda: as_forward(np.ones(3)), r"matrix has shape \(3,\), expected \(data, unknowns\)"),
        (lambda: as_forward(np.full((2, 2), np.nan)), "NaN or infinity"),
        (lambda: as_forward(aslinearoperator(DENSE), (5,)), r"operator has shape \(11, 24\)"),
        (lambda: LinearForward(abs, abs, (), (1,)), r"in_shape=\(\): need sizes >= 1"),
        (lambda: build("matrix")(np.ones(23)), r"x has shape \(23,\), expected \(24,\)"),
        (lambda: build("matrix").adjoint(np.ones((2, 3))), r"y has shape \(2, 3\)"),
        (
            lambda: LinearForward(lambda x: x[:2], lambda y: y, (3,), (3,))(np.ones(3)),
            r"matvec gave shape \(2,\)",
        ),
        (lambda: problem_map(get_problem("darcy"), (9, 9)), "'darcy' is no inverse problem"),
    ],
)
def test_bad_input_is_one_line(make, message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        make()
    assert "\n" not in str(e.value)


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="operator is a str: need"):
        as_forward("blur")


def test_any_scipy_operator_serves() -> None:
    class Shift(LinearOperator):
        def __init__(self) -> None:
            super().__init__(np.dtype(float), (5, 5))

        def _matvec(self, x: np.ndarray) -> np.ndarray:
            return np.roll(x, 1)

        def _rmatvec(self, y: np.ndarray) -> np.ndarray:
            return np.roll(y, -1)

    A = as_forward(Shift())
    A.check()
    assert A.norm_bound().value == pytest.approx(1.0)
