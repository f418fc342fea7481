"""``opkit invert`` from end to end: datasets, files, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import opkit
from opkit.cli import main
from opkit.inverse.maps import coefficient_map
from opkit.inverse.reconstruct import errors
from pde_data.hdf5 import open_dataset
from pde_data.problem import get_problem


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Digits (blurred), sources, coefficients; a network that has hardly been trained for each."""
    root = tmp_path_factory.mktemp("invert")
    common = {"n": 24, "n_valid": 4, "n_test": 3, "error_fraction": 0.0, "progress": False}
    opkit.generate(
        "deblurring", out=root / "digits", params={"source": "digits", "noise": 0.1}, **common
    )
    opkit.generate(
        "source_recovery", out=root / "sources", resolution=9, params={"n_sensors": 9}, **common
    )
    opkit.generate(
        "darcy_inverse", out=root / "darcy", resolution=9, params={"n_sensors": 9}, **common
    )
    fit = {"model": "lpn", "epochs": 1, "threads": 1, "progress": False}
    small = {"arch": "mlp", "hidden": 16, "layers": 2}
    for name, task in {
        "digits": {"sigma": 0.08, "sigma_units": "absolute"},
        "sources": {"sigma": 0.1, "sigma_units": "absolute"},
        "darcy": {"sigma": 0.05, "sigma_units": "absolute", "log": True},
    }.items():
        opkit.fit(root / name, out=root / f"lpn-{name}", task=task, options=small, **fit)
    return root


def run(capsys, *args: object) -> tuple[int, str, str]:
    status = main([str(a) for a in args])
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.mark.parametrize("method", ["pgd", "admm", "drs"])
def test_learned_prior_on_a_dataset(work: Path, tmp_path: Path, capsys, method: str) -> None:
    out = tmp_path / "inv"
    status, text, err = run(
        capsys, "invert", work / "lpn-digits", work / "digits", "--method", method, "-o", out
    )
    assert status == 0, err
    assert "of 3 converged" in text and "convergence guaranteed: yes" in text
    assert "consistent with the noise: yes" in text
    facts = json.loads((out / "inversion.json").read_text())
    c = facts["certificate"]
    # noise 0.1 and training at 0.08: w = (0.1 / 0.08)^2, above L = 1
    assert facts["weight"] == pytest.approx((0.1 / 0.08) ** 2) == pytest.approx(c["weight"])
    assert c["convergence"] == c["map_consistency"] == "yes"
    assert c["ratio"] == pytest.approx(1.0) and c["lipschitz"] == pytest.approx(1.0)
    assert facts["data"]["problem"] == "deblurring" and facts["sigma_train"] == pytest.approx(0.08)
    with h5py.File(out / "reconstruction.h5") as f:
        x, truth = f["outputs/image"][()], f["truth/image"][()]
        y = f["measurement"][()]
        assert f["residuals"].shape == (facts["iterations"], 3)
        assert x.shape == truth.shape == y.shape == (3, 8, 8)
    # the numbers of the record are those of the file
    assert facts["errors"] == errors(x, truth, (0.0, 1.0))
    A = get_problem("deblurring", source="digits").operator((8, 8))
    chi = [np.mean((A.apply(v) - d) ** 2) / 0.01 for v, d in zip(x, y, strict=True)]
    assert facts["misfit_over_noise"]["mean"] == pytest.approx(np.mean(chi))
    test = open_dataset(work / "digits")["test"]
    assert np.allclose(truth, test.read(slice(None), ["image"])["image"])
    names = {p.name for p in (out / "figures").glob("*.png")}
    assert {"reconstruction.png", "convergence.png", "objective.png", "prior_line.png"} <= names
    page = (out / "report.html").read_text()
    assert "Certificate: holds" in page and "http" not in page.replace("http-equiv", "")
    assert len(facts["prior_line"]["t"]) == len(facts["prior_line"]["value"]) == 36


def test_baselines_are_tuned_on_valid(work: Path, tmp_path: Path, capsys) -> None:
    for method in ("tv", "tikhonov", "wavelet"):
        if method == "wavelet":
            pytest.importorskip("pywt")
        out = tmp_path / method
        status, text, err = run(capsys, "invert", work / "digits", "--method", method, "-o", out)
        assert status == 0, err
        assert "certificate" not in text and "convergence" not in text
        facts = json.loads((out / "inversion.json").read_text())
        assert facts["certificate"] is None and facts["weight_from"] == "4 samples of valid"
        k = int(np.argmin(facts["tuning"]["rel_l2"]))
        assert facts["weight"] == pytest.approx(facts["tuning"]["weights"][k])
        assert 0 < k < len(facts["tuning"]["weights"]) - 1
        assert facts["errors"]["rel_l2"]["mean"] < 1


def test_sources_need_tempering_for_the_weight_of_the_noise(work: Path, tmp_path: Path) -> None:
    plain = opkit.invert(
        work / "sources", work / "lpn-sources", out=tmp_path / "a", max_iter=20, progress=False
    )
    c = plain.facts["certificate"]
    assert c["convergence"] == "yes" and c["map_consistency"] == "no"
    assert "the prior weighs" in c["reasons"][0]
    assert plain.facts["weight"] > plain.facts["weight_asked_by_noise"]
    tempered = opkit.invert(
        work / "sources", work / "lpn-sources", out=tmp_path / "b", temper=True, max_iter=20,
        progress=False,
    )  # fmt: skip
    c = tempered.facts["certificate"]
    assert c["convergence"] == "yes" and c["map_consistency"] == "no"
    assert c["ratio"] == pytest.approx(1.0) and "was inflated" in c["reasons"][0]
    asked = tempered.facts["weight_asked_by_noise"]  # each sample has its own, this is their mean
    assert tempered.result.weight.mean() == pytest.approx(asked)
    assert tempered.facts["misfit_over_noise"]["mean"] < plain.facts["misfit_over_noise"]["mean"]


def test_coefficients_by_the_solver_and_through_an_operator(work: Path, tmp_path: Path) -> None:
    found = opkit.invert(
        work / "darcy", work / "lpn-darcy", out=tmp_path / "a", n=2, max_iter=10, progress=False
    )
    assert found.x.shape == (2, 9, 9) and (found.x > 0).all()
    with h5py.File(tmp_path / "a" / "reconstruction.h5") as f:
        assert np.array_equal(f["outputs/a"][()], found.x)
        assert f["outputs/a"].attrs["units"] == "m^2/(Pa*s)"
    assert found.facts["certificate"]["lipschitz"] is None
    assert found.result.certificate.monotone
    opkit.generate(
        "darcy", out=tmp_path / "d", n=8, n_valid=2, n_test=1, resolution=9, progress=False,
        params={"coefficient": "log_normal"},
    )  # fmt: skip
    assert "misfit_over_noise_by_solver" not in found.facts
    answers = [found.x]
    problem = get_problem("darcy_inverse", n_sensors=9)
    stored = open_dataset(work / "darcy")["test"].read([0, 1], ["measurement", "noise_std"])
    y, noise = (np.asarray(stored[k], float) for k in ("measurement", "noise_std"))
    for model, options in (("mgno", {"hidden_channels": 4}), ("deeponet", {"latent": 4})):
        opkit.fit(
            tmp_path / "d", model=model, out=tmp_path / model, epochs=1, threads=1,
            options=options, progress=False,
        )  # fmt: skip
        through = opkit.invert(
            work / "darcy", work / "lpn-darcy", out=tmp_path / f"by-{model}", n=2, max_iter=5,
            through=tmp_path / model, progress=False,
        )  # fmt: skip
        assert through.x.shape == (2, 9, 9) and np.isfinite(through.x).all()
        assert not any(np.allclose(through.x, x) for x in answers)
        answers.append(through.x)
        # the solver judges what the operator's own misfit cannot
        G = coefficient_map(problem.grid((9, 9)), problem.operator((9, 9)))
        chi = np.mean((G(np.log(through.x)) - y) ** 2, axis=1) / noise**2
        said = through.facts["misfit_over_noise_by_solver"]
        assert said["mean"] == pytest.approx(np.mean(chi), rel=1e-6)
        assert said["mean"] != pytest.approx(through.facts["misfit_over_noise"]["mean"], rel=1e-3)
        assert "by the solver" in (tmp_path / f"by-{model}" / "report.html").read_text()
        with pytest.raises(ValueError, match="is of the task 'denoising'"):
            opkit.invert(
                work / "darcy", work / "lpn-darcy", out=tmp_path / "no",
                through=work / "lpn-darcy", progress=False,
            )  # fmt: skip


def test_tikhonov_of_a_coefficient(work: Path, tmp_path: Path) -> None:
    """The nonlinear map: weight tuned on valid, what is written is a minimum with that weight."""
    found = opkit.invert(work / "darcy", out=tmp_path / "a", method="tikhonov", n=2, progress=False)
    facts = found.facts
    assert facts["weight_from"] == "4 samples of valid" and facts["converged"] == 2
    assert facts["weight"] in facts["tuning"]["weights"]
    assert (found.x > 0).all() and facts["errors"]["rel_l2"]["mean"] < 1
    given = opkit.invert(
        work / "darcy", out=tmp_path / "b", method="tikhonov", n=2, weight=facts["weight"],
        progress=False,
    )  # fmt: skip
    assert np.allclose(given.x, found.x)
    data = open_dataset(work / "darcy")["test"].read([0, 1], ["measurement"])["measurement"]
    np.save(tmp_path / "y.npy", data)
    noise = 3e-4
    free = opkit.invert(
        tmp_path / "y.npy", out=tmp_path / "c", method="tikhonov", operator="darcy",
        params={"n_sensors": 9}, resolution=9, noise=noise, progress=False,
    )  # fmt: skip
    assert free.facts["weight_from"] == "discrepancy principle"
    assert free.facts["misfit_over_noise"]["mean"] == pytest.approx(1.0, rel=0.2)


def test_files_of_data(work: Path, tmp_path: Path, capsys) -> None:
    """An .npy or .h5 array with an operator is the dataset's case without its truth."""
    rng = np.random.default_rng(0)
    A = get_problem("deblurring", width=0.7).operator((8, 8))
    image = np.zeros((2, 8, 8))
    image[0, 2:6, 3:5], image[1, 1:7, 2:4] = 1.0, 0.8
    y = np.stack([A.apply(v) for v in image]) + 0.1 * rng.standard_normal((2, 8, 8))
    np.save(tmp_path / "y.npy", y)
    blur = ("--operator", "blur", "--set", "width=0.7", "--noise", "0.1")
    status, _, err = run(
        capsys, "invert", work / "lpn-digits", tmp_path / "y.npy", *blur, "-o", tmp_path / "a"
    )
    assert status == 0, err
    status, _, err = run(
        capsys, "invert", tmp_path / "y.npy", *blur, "--method", "tikhonov", "-o", tmp_path / "b"
    )
    assert status == 0, err
    facts = json.loads((tmp_path / "b" / "inversion.json").read_text())
    assert facts["weight_from"] == "discrepancy principle"
    assert facts["misfit_over_noise"]["mean"] == pytest.approx(1.0, rel=0.1)
    assert "errors" not in facts
    mask = rng.random((8, 8)) < 0.7
    np.save(tmp_path / "mask.npy", mask)
    with h5py.File(tmp_path / "y.h5", "w") as f:
        f["measurement"] = y[:, mask]
    status, _, err = run(
        capsys, "invert", tmp_path / "y.h5", "--operator", "mask", "--set",
        f"file={tmp_path / 'mask.npy'}", "--noise", "0.1", "--json", "-o", tmp_path / "c",
    )  # fmt: skip
    assert status == 0, err
    np.save(tmp_path / "matrix.npy", rng.standard_normal((20, 64)))
    np.save(tmp_path / "z.npy", rng.standard_normal((2, 20)))
    status, _, err = run(
        capsys, "invert", tmp_path / "z.npy", "--operator", "matrix", "--set",
        f"file={tmp_path / 'matrix.npy'}", "--resolution", "8,8", "--weight", "0.1", "-o",
        tmp_path / "d",
    )  # fmt: skip
    assert status == 0, err
    with h5py.File(tmp_path / "d" / "reconstruction.h5") as f:
        assert f["outputs/x"].shape == (2, 8, 8)


def test_settings_from_a_file(work: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(
        f"measurements: {work / 'digits'}\nmethod: tikhonov\nweight: 0.5\n"
    )
    status, _, err = run(capsys, "invert", "--config", tmp_path / "c.yaml", "-o", tmp_path / "o")
    assert status == 0, err
    facts = json.loads((tmp_path / "o" / "inversion.json").read_text())
    assert facts["weight"] == 0.5 and facts["weight_from"] == "given"


def test_what_is_there_is_not_replaced_unasked(work: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "o"
    args = ("invert", work / "digits", "--method", "tikhonov", "--weight", "0.1", "-o", out)
    assert run(capsys, *args)[0] == 0
    status, _, err = run(capsys, *args)
    assert status == 2 and "exists already" in err
    assert run(capsys, *args, "--overwrite")[0] == 0
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("keep")
    status, _, err = run(capsys, *args[:-1], other, "--overwrite")
    assert status == 2 and "no inversion of opkit" in err
    assert (other / "notes.txt").read_text() == "keep"
    assert not list(tmp_path.glob(".*tmp"))


def bad(work: Path, tmp_path: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    np.save(tmp_path / "y.npy", np.zeros((2, 8, 8)))
    np.save(tmp_path / "nan.npy", np.full((2, 8, 8), np.nan))
    np.save(tmp_path / "short.npy", np.zeros((2, 5)))
    lpn, digits, y = work / "lpn-digits", work / "digits", tmp_path / "y.npy"
    blur = ("--operator", "blur")
    return {
        "no noise": ((lpn, y, *blur), "noise is missing: give the standard deviation"),
        "no noise, baseline": ((y, *blur), "noise is missing"),
        "no operator": ((lpn, y, "--noise", 1), "operator is missing: name what maps"),
        "unknown operator": ((y, "--operator", "blurr"), "Did you mean 'blur'?"),
        "nan": ((lpn, tmp_path / "nan.npy", *blur, "--noise", 1), "128 values that are not finite"),
        "shape": (
            (tmp_path / "short.npy", "--operator", "pde", "--resolution", 9, "--noise", 1),
            "data has shape (2, 5), expected (64,) or (batch, 64): the operator maps (9, 9)",
        ),
        "no resolution": ((y, "--operator", "radon", "--noise", 1), "resolution is missing"),
        "other field": (
            (work / "lpn-sources", digits), "the prior is for q of shape (1, 9, 9), the unknown"
        ),
        "not log": ((work / "lpn-sources", work / "darcy"), "train it with --task log=true"),
        "log": ((work / "lpn-darcy", work / "sources"), "train it with --task log=false"),
        "no prior": ((digits, "--method", "pgd"), "method='pgd' needs a run of opkit fit"),
        "needless prior": ((lpn, digits, "--method", "tv"), "uses no prior"),
        "nonlinear": (
            (work / "lpn-darcy", work / "darcy", "--method", "admm"), "needs a linear operator"
        ),
        "nonlinear baseline": ((work / "darcy", "--method", "tv"), "needs a linear operator"),
        "known operator": ((digits, "--operator", "radon"), "whose operator is known: leave it"),
        "known parameters": ((digits, "--set", "width=2"), "the dataset knows the parameters"),
        "noise as parameter": ((y, *blur, "--set", "noise=1"), "is the option --noise"),
        "bad parameter": ((y, *blur, "--set", "widht=1", "--noise", 1), "widht"),
        "no such data": ((tmp_path / "none.npy", *blur), "no such file or directory"),
        "no run": ((tmp_path / "none", digits), "no such run directory"),
        "negative": ((digits, "--weight", -1), "weight=-1"),
        "three": ((lpn, digits, digits), "need [RUN] MEASUREMENTS"),
        "split": ((digits, "--split", "tets"), "has no split 'tets'"),
    }  # fmt: skip


@pytest.mark.parametrize("case", range(23))
def test_mistakes_are_one_line(work: Path, tmp_path: Path, capsys, case: int) -> None:
    name, (args, message) = list(bad(work, tmp_path).items())[case]
    status, _, err = run(capsys, "invert", *args, "-o", tmp_path / "out")
    lines = [line for line in err.splitlines() if not line.startswith("reconstructing")]
    assert status == 2, (name, err)
    assert len(lines) == 1 and message in lines[0], name
    assert not (tmp_path / "out").exists()


def test_a_plain_denoiser_serves_without_a_guarantee(work: Path, tmp_path: Path) -> None:
    opkit.fit(
        work / "digits", model="dncnn", out=tmp_path / "r", epochs=1, threads=1, loss="l2",
        task={"sigma": 0.1, "sigma_units": "absolute"}, progress=False,
        options={"hidden_channels": 4, "depth": 2},
    )  # fmt: skip
    found = opkit.invert(
        work / "digits", tmp_path / "r", out=tmp_path / "o", max_iter=5, progress=False
    )
    c = found.facts["certificate"]
    assert c["convergence"] == "no" and "no potential" in c["reasons"][0]
    assert found.facts["prior_line"] is None
    assert "does not hold" in (tmp_path / "o" / "report.html").read_text()


def test_errors_by_hand() -> None:
    truth = np.zeros((2, 8, 8))
    truth[:, :4] = 1.0
    x = truth.copy()
    x[0] += 0.5
    found = errors(x, truth, (0.0, 1.0))
    assert found["rel_l2"]["worst"] == pytest.approx(0.5 * 8 / np.sqrt(32))
    assert found["rel_l2"]["mean"] == pytest.approx(0.25 * 8 / np.sqrt(32))
    assert found["psnr"]["worst"] == pytest.approx(10 * np.log10(1 / 0.25))
    assert found["ssim"]["worst"] < 1.0 and found["ssim"]["median"] <= 1.0
