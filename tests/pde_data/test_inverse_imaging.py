"""Imaging problems: the stored measurement is the operator's image of the stored image."""

from __future__ import annotations

import numpy as np
import pytest

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import check_dataset, open_dataset
from pde_data.problem import ProblemError, get_problem
from solvers.observation import adjoint_gap

NAMES = ["deblurring", "compressed_sensing", "tomography"]
VARIANTS = [
    ("deblurring", {}),
    ("deblurring", {"kernel": "disk", "width": 2.5, "boundary": "zero"}),
    ("deblurring", {"kernel": "motion", "width": 5.0, "angle": 0.6, "noise_scale": "relative"}),
    ("deblurring", {"kernel": "none"}),
    ("deblurring", {"width": 6.0}),  # a kernel wider than the image
    ("compressed_sensing", {}),
    ("compressed_sensing", {"matrix": "cosine", "ratio": 0.5, "noise": 0.1}),
    ("tomography", {"n_angles": 7}),
    ("tomography", {"n_angles": 5, "arc": 90.0, "n_detectors": 11, "noise_scale": "absolute"}),
]


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_checks(name, params):
    failed = [c for c in get_problem(name, **params).checks() if not c.passed]
    assert not failed, failed


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_measurement_is_the_operator_applied(name, params):
    p = get_problem(name, **params)
    inputs = p.draw(np.random.default_rng(1), 0)
    A = p.operator((16, 16))
    assert adjoint_gap(A, np.random.default_rng(0)) < 1e-12
    for solver in p.solvers:
        s = p.solve(inputs, (16, 16), solver=solver)
        assert s.residual < 1e-13
        clean = A.apply(s.fields["image"])
        assert np.abs(s.fields["clean"] - clean).max() < 1e-13 * max(1, np.abs(clean).max())
    rms = np.sqrt(np.mean(clean**2))
    relative = p.params.noise_scale == "relative"
    assert s.scalars["noise_std"] == pytest.approx(p.params.noise * (rms if relative else 1))
    noise = s.fields["measurement"] - s.fields["clean"]
    assert noise.std() == pytest.approx(s.scalars["noise_std"], rel=5 / np.sqrt(2 * noise.size))


def test_without_noise():
    s = get_problem("tomography", noise=0.0, n_angles=4)
    s = s.solve(s.sample(np.random.default_rng(0)), (12, 12), solver="fast")
    assert np.array_equal(s.fields["measurement"], s.fields["clean"])


def test_a_wrong_operator_shows_in_the_residual(monkeypatch):
    p = get_problem("tomography", n_angles=4)
    inputs = p.sample(np.random.default_rng(0))
    A = p.operator((12, 12))
    broken = A.matrix.copy()
    broken.data *= 1.001
    monkeypatch.setattr(A, "matrix", broken)
    assert p.solve(inputs, (12, 12), solver="fast").residual > 5e-4


@pytest.mark.parametrize("source", ["inclusions", "gaussian", "phantom", "digits", "photos"])
@pytest.mark.parametrize("name", NAMES)
def test_dataset(name, source, tmp_path):
    n = 8 if source == "digits" else 12
    config = GenerateConfig(
        problem=name, out=tmp_path / "d", n=12, n_valid=4, n_test=4, resolution=n, dtype="float64",
        params={"source": source},
    )  # fmt: skip
    generate(config)
    assert check_dataset(tmp_path / "d", physics=True) == []
    ds = open_dataset(tmp_path / "d")
    A = get_problem(name, source=source).operator((n, n))
    for split in ("train", "test"):
        s = ds[split][2]
        y, x = s["inputs"]["measurement"], s["outputs"]["image"]
        assert y.shape == A.data_shape and x.shape == (n, n)
        std = s["params"]["noise_std"]
        assert np.abs(y - A.apply(x)).max() < 6 * std
        assert np.abs(y - A.apply(x)).max() > 0.5 * std
    if source in ("digits", "photos"):
        groups = [set(ds[k].quality("group").tolist()) for k in ("train", "valid", "test")]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_sinogram_axes():
    p = get_problem("tomography", n_angles=6, n_detectors=10)
    angle, detector = p.schema((8, 8)).axes
    assert angle.coords == pytest.approx(np.pi * np.arange(6) / 6)
    assert detector.coords == pytest.approx(np.sqrt(2) * (np.arange(10) - 4.5) / 5)


@pytest.mark.parametrize(
    ("name", "params", "resolution", "message"),
    [
        ("deblurring", {"source": "digits"}, (16, 16), "source='digits' has 8 x 8 pixels"),
        ("tomography", {"source": "photos"}, (200, 200), "at most 172 x 384 pixels"),
        ("compressed_sensing", {}, (256, 256), "use matrix='cosine'"),
    ],
)
def test_mistakes_get_one_line(name, params, resolution, message):
    p = get_problem(name, **params)
    with pytest.raises(ProblemError, match=message):
        p.schema(resolution)
        p.operator(resolution)


def test_unknown_values():
    with pytest.raises(ProblemError, match="width=0"):
        get_problem("deblurring", width=0.0)
    with pytest.raises(ProblemError, match=r"ratio=1\.5"):
        get_problem("compressed_sensing", ratio=1.5)
