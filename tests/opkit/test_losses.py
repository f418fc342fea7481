"""Norms against integrals done by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from opkit.losses import FieldNorm, RelativeError
from solvers.grids import Axis, Grid


def _field(grid: Grid, f) -> torch.Tensor:
    return torch.as_tensor(f(*grid.meshgrid()))[None, None]


def _loop(u: np.ndarray, grid: Grid, walls=None) -> float:
    """The H1 norm squared, edge by edge."""
    total = 0.0
    for index in np.ndindex(grid.shape):
        w = [a.weights[i] for a, i in zip(grid.axes, index, strict=True)]
        total += np.prod(w) * u[index] ** 2
        for d, axis in enumerate(grid.axes):
            h = axis.spacing
            across = np.prod([x for k, x in enumerate(w) if k != d])
            ends = (None, None) if walls is None else walls[d]
            cell = axis.location == "cell_center" and not axis.periodic
            nxt = list(index)
            nxt[d] += 1
            length = h
            if cell and index[d] == 0 and ends[0] is not None:
                total += across * h / 2 * ((u[index] - ends[0]) / (h / 2)) ** 2
            if cell and index[d] == axis.n - 1 and ends[1] is not None:
                total += across * h / 2 * ((u[index] - ends[1]) / (h / 2)) ** 2
            if cell and index[d] == 0 and ends[0] is None:
                length += h / 2
            if cell and index[d] == axis.n - 2 and ends[1] is None:
                length += h / 2
            if nxt[d] == axis.n:
                if not axis.periodic:
                    continue
                nxt[d] = 0
            total += across * length * ((u[tuple(nxt)] - u[index]) / h) ** 2
    return total


@pytest.mark.parametrize("n", [3, 9, 65, 513])
def test_h1_of_x_is_sqrt_of_four_thirds(n: int) -> None:
    grid = Grid.unit(n, dim=1)
    value = FieldNorm(grid, kind="h1")(_field(grid, lambda x: x))
    h = 1 / (n - 1)
    assert float(value) == pytest.approx(1 / 3 + h**2 / 6 + 1, rel=1e-13)  # trapezoidal rule of x^2
    assert float(value.sqrt()) == pytest.approx(1.1547005383792515, abs=h**2 / 10)


@pytest.mark.parametrize("n", [2, 5, 64])
def test_cell_centers_miss_no_half_cell(n: int) -> None:
    grid = Grid.unit(n, dim=1, location="cell_center")
    u = _field(grid, lambda x: 3 * x + 1)
    energy = FieldNorm(grid, kind="h1")(u) - FieldNorm(grid)(u)
    assert float(energy) == pytest.approx(9, rel=1e-12)  # |u'|^2 = 9 everywhere
    walled = FieldNorm(grid, kind="h1", dirichlet=((1.0, 4.0),))
    assert float(walled(u) - FieldNorm(grid)(u)) == pytest.approx(9, rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_sine_on_periodic_grids(dim: int) -> None:
    n = 48 if dim < 3 else 24
    grid = Grid(tuple(Axis(a, n, 0.0, 2.0, periodic=True) for a in "xyz"[:dim]))
    u = _field(grid, lambda *x: np.sin(np.pi * x[0]) + 0 * x[-1])
    half = 2.0**dim / 2  # of sin^2 over the domain
    assert float(FieldNorm(grid)(u)) == pytest.approx(half, rel=1e-12)
    h = 2 / n
    slope = (2 / h * np.sin(np.pi * h / 2)) ** 2  # of the difference quotient, pi^2 in the limit
    assert float(FieldNorm(grid, kind="h1")(u)) == pytest.approx(half * (1 + slope), rel=1e-12)


@pytest.mark.parametrize("location", ["node", "cell_center"])
def test_h1_norm_converges_with_second_order(location: str) -> None:
    def f(x, y):
        return np.sin(2 * x) * np.exp(y)

    # the integrals of u^2 and |grad u|^2 over the unit square
    e2 = (np.e**2 - 1) / 2
    sin2, cos2 = 0.5 - np.sin(4) / 8, 0.5 + np.sin(4) / 8
    exact = e2 * (sin2 + 4 * cos2 + sin2)
    errors = []
    for n in (17, 33, 65):
        grid = Grid.unit(n if location == "node" else n - 1, location=location)
        errors.append(abs(float(FieldNorm(grid, kind="h1")(_field(grid, f))) - exact))
    rate = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(rate - 2) < 0.2), rate
    assert errors[-1] < 0.02 * exact


@pytest.mark.parametrize(
    "axes",
    [
        (Axis("x", 5), Axis("y", 4, -1.0, 2.0, periodic=True)),
        (Axis("x", 4, location="cell_center"), Axis("y", 3), Axis("z", 5, 0.0, 0.5)),
        (Axis("x", 4, location="cell_center"), Axis("y", 6, location="cell_center")),
        (Axis("x", 6, location="cell_center", periodic=True),),
    ],
)
def test_against_a_double_loop(axes: tuple[Axis, ...]) -> None:
    grid = Grid(axes)
    u = np.random.default_rng(0).normal(size=grid.shape)
    walls = tuple((0.3, None) for _ in axes)
    for w in (None, walls):
        norm = FieldNorm(grid, kind="h1", dirichlet=w)
        value = float(norm(torch.as_tensor(u)[None, None]))
        assert value == pytest.approx(_loop(u, grid, w), rel=1e-12)


def test_relative_error_by_hand() -> None:
    grid = Grid((Axis("x", 3, 0.0, 2.0),))  # weights 1/2, 1, 1/2
    truth = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 2.0, 0.0]]])
    prediction = torch.tensor([[[2.0, 1.0, 2.0]], [[0.0, 1.0, 0.0]]])
    # |e|^2 = 2, 1; |u|^2 = 3, 4
    expected = torch.tensor([(2 / 3) ** 0.5, 0.5])
    loss = RelativeError(grid)
    torch.testing.assert_close(loss.per_sample(prediction, truth), expected)
    torch.testing.assert_close(loss(prediction, truth), expected.mean())
    # gradients: e' = (0, 2), (-1, 1); u' = (-1, -1), (2, -2)
    h1 = RelativeError(grid, kind="h1").per_sample(prediction, truth)
    torch.testing.assert_close(h1, torch.tensor([(6 / 5) ** 0.5, (3 / 12) ** 0.5]))


def test_fields_are_not_added_across_units() -> None:
    grid = Grid.unit(5, dim=1)
    truth = torch.ones(2, 3, 5)
    truth[:, 2] = 1e-12
    prediction = truth.clone()
    prediction[:, 2] *= 1.5
    per_field = RelativeError(grid, components=(2, 1)).per_field(prediction, truth)
    torch.testing.assert_close(per_field, torch.tensor([[0.0, 0.5]]).expand(2, 2))


def test_small_units_survive_float32() -> None:
    grid = Grid(tuple(Axis(a, 9, 0.0, 1e-9) for a in "xyz"))
    truth = 1e-25 * (1 + torch.rand(2, 1, 9, 9, 9, generator=torch.Generator().manual_seed(0)))
    for kind in ("l2", "h1"):
        loss = RelativeError(grid, kind=kind, scales=[1e-25])
        torch.testing.assert_close(loss(0.9 * truth, truth), torch.tensor(0.1), rtol=1e-5, atol=0)


def test_zero_error_has_zero_gradient_and_zero_truth_is_not_hidden() -> None:
    grid = Grid.unit(5, dim=1)
    truth = torch.ones(1, 1, 5)
    prediction = truth.clone().requires_grad_()
    loss = RelativeError(grid, kind="h1")(prediction, truth)
    loss.backward()
    assert loss.item() == 0 and torch.all(prediction.grad == 0)
    zero = torch.zeros(1, 1, 5)
    assert torch.isinf(RelativeError(grid)(truth, zero))
    assert torch.isnan(RelativeError(grid)(zero, zero))
    assert torch.isnan(RelativeError(grid)(truth * torch.nan, truth))


def test_errors_name_the_shapes() -> None:
    grid = Grid.unit(5)
    with pytest.raises(
        ValueError, match=r"shape \(1, 1, 5, 4\), expected \(batch, channel, 5, 5\)"
    ):
        FieldNorm(grid)(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ValueError, match="unknown loss 'h2'"):
        FieldNorm(grid, kind="h2")
    with pytest.raises(ValueError, match="prediction has shape"):
        RelativeError(grid)(torch.zeros(1, 1, 5, 5), torch.zeros(1, 2, 5, 5))


# -- order of convergence under each layout ---------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "name"),
    [*itertools.product(["vertex", "cell"], ["x", "x^2", "sin"]), ("periodic", "sin")],
)
def test_h1_norms_converge_with_second_order(layout: str, name: str) -> None:
    """The norm of x, x^2 and a sine on [0, 2] against the integrals."""
    f, exact = {
        "x": (lambda x: x, 8 / 3 + 2),
        "x^2": (lambda x: x**2, 32 / 5 + 32 / 3),
        "sin": (lambda x: np.sin(np.pi * x), 1 + np.pi**2),
    }[name]
    errors = []
    for n in (16, 32, 64, 128):
        axis = {
            "vertex": Axis("x", n + 1, 0.0, 2.0),
            "cell": Axis("x", n, 0.0, 2.0, location="cell_center"),
            "periodic": Axis("x", n, 0.0, 2.0, periodic=True),
        }[layout]
        grid = Grid((axis,))
        norm = FieldNorm(grid, kind="h1")(_field(grid, f)).sqrt()
        errors.append(abs(float(norm) - exact**0.5))
    rate = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(rate >= 1.8), (errors, rate)


# -- the spectral norm of the MgNO authors' program ------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "k_max"), [((48, 40), 20), ((45, 49), 20), ((30,), 7), ((9, 8, 6), None)]
)
def test_spectral_norm_against_all_coefficients(shape: tuple[int, ...], k_max: int | None) -> None:
    grid = Grid(tuple(Axis(a, n) for a, n in zip("xyz", shape, strict=False)))
    u, v = np.random.default_rng(0).normal(size=(2, 3, 1, *shape))
    weight = np.ones(shape)
    for d, n in enumerate(shape):
        k = np.concatenate([np.arange((n + 1) // 2), np.arange(-(n // 2), 0)])
        if k_max is not None:
            k = np.where(np.abs(k) < k_max, k, 0)
        one = [1] * len(shape)
        one[d] = n
        weight = weight + k.reshape(one) ** 2.0
    axes = tuple(range(2, u.ndim))

    def norm(w: np.ndarray) -> np.ndarray:
        modes = np.fft.fftn(w, axes=axes, norm="ortho")
        return np.sqrt((weight * np.abs(modes) ** 2).sum(axis=axes))[:, 0]

    loss = RelativeError(grid, kind="h1_spectral", k_max=k_max)
    found = loss.per_sample(torch.as_tensor(u), torch.as_tensor(v))
    np.testing.assert_allclose(found.numpy(), norm(u - v) / norm(v), rtol=1e-12)


def test_spectral_norm_is_no_sobolev_norm() -> None:
    """Integer wave numbers whatever the length; the values of x count as a jump at the end."""
    for length in (1.0, 7.0):
        grid = Grid((Axis("x", 64, 0.0, length, periodic=True),))
        u = _field(grid, lambda x, s=length: np.sin(2 * np.pi * 3 * x / s))
        value = FieldNorm(grid, kind="h1_spectral", average=True)(u)
        assert float(value) == pytest.approx((1 + 3**2) / 2, rel=1e-12)
        cut = FieldNorm(grid, kind="h1_spectral", average=True, k_max=3)(u)
        assert float(cut) == pytest.approx(1 / 2, rel=1e-12)  # the weight of fine detail is 1
    norms = [
        float(FieldNorm(Grid.unit(n, dim=1), kind="h1_spectral", k_max=None)(
            torch.linspace(0, 1, n, dtype=torch.float64)[None, None]
        ))
        for n in (65, 129, 257)
    ]  # fmt: skip
    # grows with the grid: no limit
    assert norms[1] > 1.8 * norms[0]
    assert norms[2] > 1.8 * norms[1]


def test_spectral_norm_has_gradients_and_refuses_bad_limits() -> None:
    grid = Grid.unit(6, dim=2)
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = FieldNorm(grid, kind="h1_spectral")
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))
    with pytest.raises(ValueError, match="k_max=0: need an integer >= 1"):
        FieldNorm(grid, kind="h1_spectral", k_max=0)
