"""Baselines against exact answers: normal equations, duality, orthogonal wavelets."""

from __future__ import annotations

import numpy as np
import pytest

from opkit.inverse import (
    LinearForward,
    NonlinearForward,
    as_forward,
    discrepancy_weight,
    tikhonov,
    tv,
    wavelet_l1,
)
from opkit.inverse.baselines import _wavelet_prox, gradient, gradient_adjoint
from solvers.observation import Blur, gaussian_kernel, mask_operator

RNG = np.random.default_rng(0)
SHAPE = (8, 7)
BLUR = as_forward(Blur(SHAPE, gaussian_kernel(1.0), boundary="zero"))
BLOCKS = np.zeros((3, *SHAPE))
BLOCKS[0, 2:6, 1:5], BLOCKS[1, 4:, :4], BLOCKS[2, 1:4, 2:6] = 1.0, 0.7, 0.4
DATA = BLUR(BLOCKS) + 0.02 * RNG.standard_normal(BLOCKS.shape)


def total_variation(x: np.ndarray) -> np.ndarray:
    """By loops."""
    out = np.zeros(len(x))
    for b, image in enumerate(x):
        for i, j in np.ndindex(image.shape):
            dx = image[i + 1, j] - image[i, j] if i + 1 < image.shape[0] else 0.0
            dy = image[i, j + 1] - image[i, j] if j + 1 < image.shape[1] else 0.0
            out[b] += np.hypot(dx, dy)
    return out


def test_gradient_and_its_adjoint() -> None:
    x, p = RNG.standard_normal((2, 5, 4, 3)), RNG.standard_normal((3, 2, 5, 4, 3))
    assert np.vdot(gradient(x), p) == pytest.approx(np.vdot(x, gradient_adjoint(p)), rel=1e-13)
    length = np.sqrt(np.sum(gradient(BLOCKS) ** 2, axis=0)).reshape(3, -1).sum(1)
    assert np.allclose(length, total_variation(BLOCKS))


@pytest.mark.parametrize("operator", ["identity", "gradient"])
def test_tikhonov_solves_its_normal_equations(operator: str) -> None:
    n = BLUR.n_unknowns
    A = BLUR(np.eye(n).reshape(-1, *SHAPE)).reshape(n, -1).T
    B = np.eye(n)
    if operator == "gradient":
        B = np.moveaxis(gradient(np.eye(n).reshape(-1, *SHAPE)), 1, -1).reshape(-1, n)
    w = np.array([0.01, 0.1, 1.0])
    found = tikhonov(BLUR, DATA, weight=w, operator=operator)
    for i in range(3):
        x = np.linalg.solve(A.T @ A + w[i] * B.T @ B, A.T @ DATA[i].ravel())
        assert np.abs(found.x[i].ravel() - x).max() < 1e-9
        one = tikhonov(BLUR, DATA[i], weight=float(w[i]), operator=operator)
        assert np.abs(one.x.ravel() - x).max() < 1e-9
        assert found.objective[0, i] == pytest.approx(
            0.5 * np.sum((A @ x - DATA[i].ravel()) ** 2) + 0.5 * w[i] * np.sum((B @ x) ** 2)
        )
    assert found.converged.all() and found.residuals.max() < 1e-9
    assert found.certificate is None


def test_tv_of_a_step_is_known() -> None:
    """Denoising a step of n + m points: both sides move by weight / n and weight / m."""
    y = np.concatenate([np.zeros(4), np.ones(6)])
    r = tv(np.eye(10), y, weight=0.6, tol=1e-9, max_iter=20000)
    exact = np.concatenate([np.full(4, 0.6 / 4), np.full(6, 1 - 0.6 / 6)])
    assert np.abs(r.x - exact).max() < 1e-4
    assert r.converged[0]
    flat = tv(np.eye(10), y, weight=50.0, tol=1e-9, max_iter=20000)
    assert np.allclose(flat.x, 0.6, atol=1e-6)


def test_gap_bounds_the_distance_to_the_minimum() -> None:
    """The minimum, computed far more accurately, lies within the gap of every iterate."""
    best = tv(BLUR, DATA, weight=0.02, tol=1e-6, max_iter=5000)
    assert best.converged.all()
    minimum = best.objective[-1]
    assert np.allclose(
        0.5 * np.sum((BLUR(best.x) - DATA) ** 2, axis=(1, 2)) + 0.02 * total_variation(best.x),
        minimum, rtol=1e-12,
    )  # fmt: skip
    rough = tv(BLUR, DATA, weight=0.02, tol=1e-2)
    above = rough.objective - minimum
    assert np.all(above >= -1e-6 * minimum)
    assert np.all(above <= rough.residuals * rough.objective)
    # and no random change of the result is better
    for _ in range(200):
        v = best.x + 10.0 ** RNG.uniform(-4, -1) * RNG.standard_normal(best.x.shape)
        value = 0.5 * np.sum((BLUR(v) - DATA) ** 2, axis=(1, 2)) + 0.02 * total_variation(v)
        assert np.all(value >= minimum * (1 - 1e-6))


def test_tv_without_a_factorization_is_the_same(monkeypatch) -> None:
    from opkit.inverse import baselines

    dense = tv(BLUR, DATA, weight=0.02, tol=1e-3, max_iter=2000)
    monkeypatch.setattr(baselines, "DENSE", 10)
    free = tv(BLUR, DATA, weight=0.02, tol=1e-3, max_iter=2000)
    assert free.converged.all()
    assert np.abs(free.objective[-1] / dense.objective[-1] - 1).max() < 1e-3
    assert np.abs(tikhonov(BLUR, DATA, weight=0.1, operator="gradient").residuals).max() < 1e-8


def test_tv_fills_in_what_is_masked() -> None:
    keep = np.ones(SHAPE, bool)
    keep[3:5, 2:4] = False
    M = as_forward(mask_operator(keep))
    image = np.zeros(SHAPE)
    image[:, 3:] = 1.0
    r = tv(M, M(image), weight=1e-3, tol=1e-4, max_iter=3000)
    assert np.abs(r.x - image).max() < 0.02


def test_scales_of_operator_and_data_do_not_matter() -> None:
    """A -> c A, y -> c y, weight -> c^2 weight: the same minimizer in about as many iterations."""
    a = tv(BLUR, DATA, weight=0.02, tol=1e-4)
    c = 1e-3
    small = LinearForward(
        lambda x: c * BLUR(x), lambda y: c * BLUR.adjoint(y), SHAPE, SHAPE, batched=True
    )
    b = tv(small, c * DATA, weight=0.02 * c**2, tol=1e-4)
    assert b.converged.all()
    assert np.abs(a.x - b.x).max() < 0.02
    assert 0.5 < len(a.residuals) / len(b.residuals) < 2


def test_wavelet_denoising_is_a_threshold() -> None:
    """An orthogonal transform and no operator: soft threshold of the details."""
    pywt = pytest.importorskip("pywt")
    y = RNG.standard_normal((16, 16))
    r = wavelet_l1(np.eye(256), y.ravel(), weight=0.3, wavelet="haar")
    # on vectors; on images the two-dimensional transform
    c = pywt.wavedec(y.ravel(), "haar", mode="periodization", level=8)
    c = [c[0], *[np.sign(d) * np.maximum(np.abs(d) - 0.3, 0) for d in c[1:]]]
    assert np.allclose(r.x, pywt.waverec(c, "haar", mode="periodization"), atol=1e-10)
    A = as_forward(np.eye(256), (16, 16), (16, 16))
    found = wavelet_l1(A, y, weight=0.3)
    c2 = pywt.wavedec2(y, "db4", mode="periodization", level=1)
    details = tuple(np.sign(d) * np.maximum(np.abs(d) - 0.3, 0) for d in c2[1])
    exact = pywt.waverec2([c2[0], details], "db4", mode="periodization")
    assert np.allclose(found.x, exact, atol=1e-10)
    assert found.converged.all()


def test_wavelet_reconstruction_is_a_minimum() -> None:
    pytest.importorskip("pywt")
    A = as_forward(Blur((16, 16), gaussian_kernel(1.0)))
    x = np.zeros((1, 16, 16))
    x[0, 4:12, 4:8] = 1.0
    y = A(x) + 0.01 * RNG.standard_normal(x.shape)
    r = wavelet_l1(A, y, weight=0.01, wavelet="haar", tol=1e-9, max_iter=2000)
    count = _wavelet_prox((16, 16), "haar", None)[1]
    for _ in range(100):
        v = r.x + 10.0 ** RNG.uniform(-4, -1) * RNG.standard_normal(x.shape)
        value = 0.5 * np.sum((A(v) - y) ** 2) + 0.01 * count(v)[0]
        assert value >= r.objective[-1, 0] - 1e-9


def test_discrepancy_principle_meets_the_noise() -> None:
    w = discrepancy_weight(
        lambda w: tikhonov(BLUR, DATA, weight=w), 0.02, BLUR.n_data, low=1e-6, high=10.0, steps=40
    )
    misfit = 2 * tikhonov(BLUR, DATA, weight=w).misfit.mean()
    assert misfit == pytest.approx(BLUR.n_data * 0.02**2, rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tikhonov(BLUR, DATA, weight=0.0), r"weight=0\.0: need a positive number"),
        (lambda: tikhonov(BLUR, DATA, weight=1.0, operator="laplace"), "operator"),  # type: ignore
        (lambda: tv(BLUR, DATA[:, :5], weight=1.0), r"data has shape \(3, 5, 7\), expected"),
        (lambda: tv(BLUR, DATA, weight=1.0, tol=0.0), r"tol=0\.0"),
        (lambda: tv(BLUR, np.full(SHAPE, np.nan), weight=1.0), "not finite"),
        (lambda: wavelet_l1(BLUR, DATA, weight=1.0, wavelet="bior2.2"), "not orthogonal"),
        (lambda: wavelet_l1(BLUR, DATA, weight=1.0, wavelet="nope"), "no discrete wavelet"),
        (lambda: wavelet_l1(BLUR, DATA, weight=1.0, level=3), "allow at most 0 levels"),
    ],
)
def test_bad_input_is_one_line(call, message: str) -> None:
    if "wavelet" in message or "orthogonal" in message or "levels" in message:
        pytest.importorskip("pywt")
    with pytest.raises(ValueError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("operator", ["identity", "gradient"])
def test_tikhonov_of_a_nonlinear_map(operator: str) -> None:
    """A linear map in nonlinear clothes gives the exact answer; a cubic one a stationary point."""
    A = RNG.standard_normal((9, 12))
    w = np.array([0.3, 0.03])
    y = RNG.standard_normal((2, 9))

    def linear(x: np.ndarray, d: np.ndarray) -> tuple[float, np.ndarray]:
        r = A @ x.ravel() - d
        return 0.5 * float(r @ r), (A.T @ r).reshape(x.shape)

    G = NonlinearForward(linear, (4, 3), (9,), apply=lambda x: A @ x.ravel())
    found = tikhonov(G, y, weight=w, operator=operator)
    exact = tikhonov(as_forward(A, (4, 3)), y, weight=w, operator=operator)
    assert np.abs(found.x - exact.x).max() < 1e-5 and found.converged.all()
    assert np.allclose(found.objective, exact.objective, rtol=1e-8)

    def cubic(x: np.ndarray, d: np.ndarray) -> tuple[float, np.ndarray]:
        r = A @ (x + 0.1 * x**3).ravel() - d
        return 0.5 * float(r @ r), (A.T @ r).reshape(x.shape) * (1 + 0.3 * x**2)

    G = NonlinearForward(cubic, (4, 3), (9,))
    assert G.gradient_test(RNG.standard_normal((4, 3)), y[0]) < 1e-6
    one = tikhonov(G, y[1], weight=0.03, operator=operator)

    def objective(x: np.ndarray) -> float:
        b = gradient(x[None]) if operator == "gradient" else x
        return cubic(x, y[1])[0] + 0.015 * float(np.sum(b**2))

    assert one.x.shape == (4, 3) and one.objective[0, 0] == pytest.approx(objective(one.x))
    for _ in range(20):
        d = RNG.standard_normal((4, 3))
        slope = (objective(one.x + 1e-4 * d) - objective(one.x - 1e-4 * d)) / 2e-4
        assert abs(slope) < 1e-4
