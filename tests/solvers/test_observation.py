"""Observation operators: exact adjoints, brute force, analytic transforms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.sparse.linalg import aslinearoperator

from solvers.grids import Axis, Grid
from solvers.observation import (
    Blur,
    CosineSensing,
    adjoint_gap,
    disk_kernel,
    gaussian_kernel,
    gaussian_sensing,
    mask_operator,
    motion_kernel,
    point_sensors,
    radon_operator,
    ray_integrals,
)

RNG = np.random.default_rng(0)


def cells(n, m=None, size=2.0):
    half = size / 2
    return Grid(
        tuple(
            Axis(a, k, -half, half, location="cell_center")
            for a, k in zip("xy", (n, m or n), strict=True)
        )
    )


ANGLES = np.linspace(0, np.pi, 12, endpoint=False)
OFFSETS = np.linspace(-1.3, 1.3, 15)
OPERATORS = {
    "blur periodic": Blur((12, 9), gaussian_kernel(1.3)),
    "blur zero": Blur((12, 9), motion_kernel(4.0, 0.6), boundary="zero"),
    "blur wide": Blur((5, 6), gaussian_kernel(3.0)),
    "blur 1-D": Blur((17,), gaussian_kernel(1.0, dim=1), boundary="zero"),
    "mask": mask_operator(RNG.random((6, 7)) < 0.4),
    "gaussian": gaussian_sensing((6, 7), 11, np.random.default_rng(1)),
    "cosine": CosineSensing((6, 7), 11, np.random.default_rng(1)),
    "radon": radon_operator(cells(10, 8), ANGLES, OFFSETS),
    "sensors": point_sensors(cells(10, 8), RNG.uniform(-1, 1, (20, 2))),
    "sensors periodic": point_sensors(Grid.unit((7, 6), periodic=True), RNG.random((9, 2))),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_is_exact(name):
    A = OPERATORS[name]
    assert adjoint_gap(A, np.random.default_rng(3)) < 1e-12
    dense = A @ np.eye(A.shape[1])
    assert np.allclose(A.T @ np.eye(A.shape[0]), dense.T, rtol=0, atol=1e-14)
    x = np.random.default_rng(4).standard_normal(A.field_shape)
    y = A.apply(x)
    assert y.shape == A.data_shape
    assert np.allclose(A.adjoint_apply(y).ravel(), dense.T @ y.ravel(), rtol=0, atol=1e-12)
    assert np.allclose((2 * A + A).matvec(x.ravel()), 3 * y.ravel())  # operators combine


def test_adjoint_gap_sees_a_wrong_adjoint():
    A = aslinearoperator(np.triu(np.ones((5, 5))))
    A._rmatvec = lambda y: y
    assert adjoint_gap(A, np.random.default_rng(0)) > 1e-2


@pytest.mark.parametrize("kernel", [gaussian_kernel(1.1), disk_kernel(2.5), motion_kernel(5, 0.7)])
def test_blur_of_a_delta_is_the_kernel(kernel):
    assert kernel.sum() == pytest.approx(1, abs=1e-14)
    assert kernel.min() >= 0
    h = kernel.shape[0] // 2
    x = np.zeros((31, 25))
    x[15, 12] = 1.0
    for boundary in ("periodic", "zero"):
        y = Blur(x.shape, kernel, boundary=boundary).apply(x)
        assert np.abs(y[15 - h : 16 + h, 12 - h : 13 + h] - kernel).max() < 1e-15
        assert y.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("boundary", "mode"), [("periodic", "wrap"), ("zero", "constant")])
def test_blur_against_scipy_and_the_direct_sum(boundary, mode):
    rng = np.random.default_rng(5)
    x, kernel = rng.standard_normal((20, 17)), rng.random((5, 7))  # not symmetric
    A = Blur(x.shape, kernel, boundary=boundary)
    assert np.abs(A.apply(x) - convolve(x, kernel, mode=mode)).max() < 1e-13
    assert np.abs(A.apply(x) - A.direct(x)).max() < 1e-13


def test_gaussian_blur_damps_a_wave_by_its_transform():
    n, width = 64, 2.0
    wave = np.cos(2 * np.pi * 3 * np.arange(n) / n)[:, None] * np.ones(n)
    y = Blur((n, n), gaussian_kernel(width, 41)).apply(wave)
    factor = np.exp(-0.5 * (width * 2 * np.pi * 3 / n) ** 2)
    assert np.abs(y - factor * wave).max() < 1e-6  # the sampled, cut Gaussian


def test_motion_and_disk_kernels_have_their_moments():
    k = motion_kernel(9.0, 0.5)
    i = np.arange(k.shape[0]) - k.shape[0] // 2
    second = np.sum(k * np.add.outer(i**2, i**2))
    # of a uniform line, and at most 1/4 an axis of bilinear spreading
    assert 81 / 12 <= second <= 81 / 12 + 0.5
    k = disk_kernel(6.0)
    i = np.arange(k.shape[0]) - k.shape[0] // 2
    assert np.sum(k * np.add.outer(i**2, i**2)) == pytest.approx(18 + 1 / 6, rel=5e-3)


def test_cosine_sensing():
    rng = np.random.default_rng(6)
    A = CosineSensing((8, 8), 64, rng)  # all rows: orthogonal
    assert np.allclose(A.T @ (A @ np.eye(64)), np.eye(64), atol=1e-13)
    B = CosineSensing((9, 7), 20, rng)
    x = rng.standard_normal((9, 7))
    assert np.abs(B.apply(x) - B.direct(x)).max() < 1e-13


def test_sensing_keeps_the_norm_on_average():
    x = np.random.default_rng(7).standard_normal((8, 8))
    for make in (gaussian_sensing, CosineSensing):
        squares = [
            np.sum(make((8, 8), 16, np.random.default_rng(s)).apply(x) ** 2) for s in range(400)
        ]
        assert np.mean(squares) == pytest.approx(np.sum(x**2), rel=0.06)


def test_radon_of_a_box_is_exact():
    grid = cells(8)
    x = np.zeros(grid.shape)
    x[2:6, 3:5] = 2.0  # [-0.5, 0.5] x [-0.25, 0.25]
    angles = np.array([0.0, np.pi / 2, np.pi / 4, 0.3])
    offsets = np.array([-0.6, -0.1, 0.0, 0.2, 0.4])
    sinogram = radon_operator(grid, angles, offsets).apply(x)
    expected = np.zeros((4, 5))
    expected[0] = 2 * 0.5 * (np.abs(offsets) < 0.5)
    expected[1] = 2 * 1.0 * (np.abs(offsets) < 0.25)
    for a in (2, 3):  # trapezoid: overlap of the projections of the two sides
        c, s = np.cos(angles[a]), np.sin(angles[a])
        wide, narrow = sorted((1.0 * c, 0.5 * s), reverse=True)
        height = min(1.0 / s, 0.5 / c)
        top, base = 0.5 * (wide - narrow), 0.5 * (wide + narrow)
        ramp = np.clip((base - np.abs(offsets)) / (base - top), 0, 1)
        expected[a] = 2 * height * ramp
    assert np.abs(sinogram - expected).max() < 1e-13


def test_radon_of_a_disk_approaches_the_chord():
    radius, errors = 0.7, []
    for n in (32, 64, 128):
        grid = cells(n)
        fine = (np.arange(8 * n) + 0.5) / (4 * n) - 1.0
        inside = (fine[:, None] ** 2 + fine**2 <= radius**2).astype(float)
        x = inside.reshape(n, 8, n, 8).mean(axis=(1, 3))
        offsets = np.linspace(-1.2, 1.2, 41)
        sinogram = radon_operator(grid, ANGLES + 0.1, offsets).apply(x)
        chord = 2 * np.sqrt(np.maximum(radius**2 - offsets**2, 0))
        errors.append(np.sqrt(np.mean((sinogram - chord) ** 2)))
    assert errors[0] < 0.05 and errors[2] < errors[0] / 3


def test_radon_conserves_mass_and_matches_cell_by_cell():
    grid = cells(9, 7)
    x = np.random.default_rng(8).random(grid.shape)
    offsets = np.linspace(-1.5, 1.5, 3001)
    A = radon_operator(grid, ANGLES, offsets)
    sinogram = A.apply(x)
    mass = x.sum() * np.prod(grid.spacing)
    assert np.allclose(sinogram.sum(axis=1) * (offsets[1] - offsets[0]), mass, rtol=2e-3)
    some = np.arange(0, 3001, 150)  # the middle one runs along edges at angle pi/2
    a, s = (v.ravel() for v in np.meshgrid(np.arange(ANGLES.size), some, indexing="ij"))
    again = ray_integrals(x, grid, ANGLES[a], offsets[s])
    assert np.abs(sinogram[a, s] - again).max() < 1e-12


def test_radon_along_edges_takes_half_of_each_side():
    grid = cells(4)
    x = np.arange(16.0).reshape(4, 4)
    y = radon_operator(grid, np.array([0.0, np.pi / 2]), np.array([0.0, 0.5])).apply(x)
    assert y[0, 0] == pytest.approx(0.5 * 0.5 * (x[1].sum() + x[2].sum()))
    assert y[1, 1] == pytest.approx(0.5 * 0.5 * (x[:, 2].sum() + x[:, 3].sum()))
    assert ray_integrals(x, grid, [0.0], [0.0])[0] == pytest.approx(y[0, 0])


def test_radon_against_scikit_image():
    radon = pytest.importorskip("skimage.transform").radon
    n = 64
    grid = Grid(tuple(Axis(a, n, -n / 2, n / 2, location="cell_center") for a in "xy"))
    i = np.arange(n) - n // 2  # theirs turns about pixel n // 2
    x = np.exp(-((i[:, None] - 6) ** 2 / 50 + (i - 9) ** 2 / 120))
    x[i[:, None] ** 2 + i**2 >= (n // 2 - 1) ** 2] = 0.0
    theta = np.array([0.0, 30.0, 75.0, 140.0])
    theirs = radon(x, theta, circle=True)
    for k, angle in enumerate(np.deg2rad(90.0 + theta)):
        shift = 0.5 * (np.cos(angle) + np.sin(angle))
        ours = radon_operator(grid, np.array([angle]), i + shift).apply(x)[0]
        # theirs interpolates the turned image linearly
        assert np.linalg.norm(ours - theirs[:, k]) < 0.02 * np.linalg.norm(ours)


@pytest.mark.parametrize(
    "grid",
    [Grid.unit((6, 9)), Grid.unit((5, 7), location="cell_center"), Grid.unit((4, 3, 5)),
     Grid.unit(8, dim=1)],
)  # fmt: skip
def test_sensors_are_exact_for_multilinear_fields(grid):
    rng = np.random.default_rng(9)
    points = rng.random((30, grid.dim))
    points[0], points[1] = 0.0, 1.0
    c = rng.standard_normal((2,) * grid.dim)

    def field(*x):
        total = 0.0
        for index in np.ndindex(c.shape):
            total = total + c[index] * np.prod(
                [v**k for v, k in zip(x, index, strict=True)], axis=0
            )
        return total

    y = point_sensors(grid, points).apply(field(*grid.meshgrid()))
    assert np.abs(y - field(*points.T)).max() < 1e-12


def test_sensors_wrap_around_periodic_axes():
    grid = Grid.unit(8, dim=1, periodic=True)
    x = np.sin(2 * np.pi * grid.coords[0])
    y = point_sensors(grid, np.array([[15 / 16], [1.0]])).apply(x)
    assert y == pytest.approx([0.5 * x[-1], 0.0], abs=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_kernel(-1.0), "width=-1.0"),
        (lambda: gaussian_kernel(1.0, 4), "size=4: need an odd integer"),
        (lambda: Blur((4, 4), np.ones((2, 3))), "kernel has shape"),
        (lambda: Blur((4, 4), np.ones((3, 3)), boundary="reflect"), "unknown boundary"),
        (lambda: mask_operator(np.zeros((2, 2), bool)), "at least one True"),
        (lambda: gaussian_sensing((4, 4), 17, RNG), "n_measurements=17: need an integer from 1"),
        (lambda: radon_operator(Grid.unit(5), ANGLES, OFFSETS), "grid of cells"),
        (lambda: point_sensors(Grid.unit(5), np.array([[0.5, 1.2]])), "point 0 at y=1.2"),
        (lambda: OPERATORS["mask"].apply(np.zeros((3, 3))), "x has shape"),
    ],
)
def test_mistakes_get_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
