"""The certificate against models and sequences whose behavior is known."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import ModelSpec, build_model, model_options
from models.nn_to_no import to_operator
from models.registry import get_model
from opkit import discretization_report
from opkit.cli import main
from opkit.discretization import DiscretizationReport, certify, smooth_fields
from opkit.errors import UsageError
from pde_data.generate import GenerateConfig, generate
from solvers.grids import Grid


def periodic(n, dim=2):
    return Grid.unit(n, dim=dim, periodic=True)


def outputs(factor, grids):
    """The field 1 + cos(2 pi x), times a factor of the spacing."""
    fields = [1 + np.cos(2 * np.pi * g.meshgrid()[0]) for g in grids]
    return [factor(g.spacing[0]) * f[None, None] for f, g in zip(fields, grids, strict=True)]


def certified(factor, ns=(16, 32, 64, 128), reference=32, **options):
    grids = [periodic(n) for n in ns]
    return certify(
        outputs(factor, grids), grids, reference=periodic(reference), model="m", inputs="i",
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("p", [1, 2])
def test_numbers_by_hand(p):
    """Outputs (1 + h^p) f: every distance and the order are known exactly."""
    r = certified(lambda h: 1 + h**p)
    h = 1 / np.array([16, 32, 64, 128])
    size = 1 + h**p
    np.testing.assert_allclose(r.change[:-1], (size[:-1] - size[1:]) / size[:-1], rtol=1e-9)
    # relative to the coarser grid of the two
    drift = [(size[0] - size[1]) / size[0], 0, *(size[1] - size[2:]) / size[1]]
    np.testing.assert_allclose(r.drift, drift, rtol=1e-9, atol=1e-14)
    assert r.observed_order == pytest.approx(p, abs=0.1)
    assert math.isnan(r.order[0]) and r.order[2] == pytest.approx(p, abs=0.1)
    assert r.shapes == ((16, 16), (32, 32), (64, 64), (128, 128)) and r.reference == (32, 32)
    assert r.verdict == "agnostic"


def test_converging_away_from_the_training_is_no_agnostic_model():
    """The trap: a fixed stencil converges as the grid is refined, to another map."""
    r = certified(lambda h: 1 + 32 * h)
    assert r.findings["converges"][0] and not r.findings["stays"][0]
    assert r.largest_drift == pytest.approx(1 - (1 + 0.25) / 2)
    assert r.verdict == "tied to its grid"


def test_wandering_outputs_do_not_converge():
    r = certified(lambda h: 1 + 0.05 * (-1) ** round(math.log2(1 / h)))
    assert not r.findings["converges"][0] and r.findings["stays"][0]
    assert not r.agnostic


def test_growing_error_counts():
    grids = [periodic(n) for n in (32, 64, 128)]
    truth = outputs(lambda h: 1.0, grids)
    found = outputs(lambda h: 1.01 if h == 1 / 32 else 1.05, grids)
    r = certify(found, grids, reference=grids[0], model="m", inputs="i", truth=truth)
    np.testing.assert_allclose(r.error, [0.01, 0.05, 0.05], rtol=1e-10)
    assert r.error_growth == pytest.approx(5.0)
    assert r.findings["stays"][0] and not r.findings["error"][0] and not r.agnostic
    assert certify(
        found, grids, reference=grids[0], model="m", inputs="i", truth=truth, max_growth=6
    ).findings["error"][0]


def test_fields_count_by_themselves():
    """A small field beside a large one: each is relative to itself."""
    grids = [periodic(n) for n in (16, 32, 64)]
    large = outputs(lambda h: 1000.0, grids)
    small = outputs(lambda h: 1 + (h == 1 / 64), grids)
    both = [np.concatenate(p, axis=1) for p in zip(large, small, strict=True)]
    reference = {"reference": grids[0], "model": "m", "inputs": "i"}
    assert certify(both, grids, components=(1, 1), **reference).drift[2] == pytest.approx(0.5)
    assert certify(both, grids, **reference).drift[2] < 0.01


def test_grids_that_are_not_nested():
    """Closed grids of 20 and 30 points share two; the finer output is interpolated."""
    grids = [Grid.unit(n, dim=1) for n in (20, 30, 50)]
    found = [np.sin(3 * g.coords[0])[None, None] for g in grids]
    r = certify(found, grids, reference=grids[0], model="m", inputs="i")
    assert max(r.change[:-1]) < 1e-4 and r.agnostic


def test_round_trip_text_and_plot():
    for factor in (lambda h: 1 + h, lambda h: 1.0):
        r = certified(factor)
        again = DiscretizationReport.from_dict(json.loads(json.dumps(r.as_dict())))
        assert again.as_dict() == r.as_dict()
        text = str(again)
        assert r.verdict in text and "32x32" in text and "nan" not in text
        lines = r.plot().get_lines()
        assert len(lines) >= 2
        np.testing.assert_array_equal(lines[-2].get_ydata(), [0.2, 0.2])
        assert r.figure().axes


# -- models ---------------------------------------------------------------------------------------


def registered(name, n=16, **options):
    torch.manual_seed(0)
    small = {"hidden_channels": 8, "n_layers": 2, "n_blocks": 2, "n_modes": 8} | options
    known = {k: v for k, v in small.items() if k in model_options(get_model(name))}
    s = ModelSpec(1, 1, periodic(n), (("periodic", "periodic"),) * 2, None)
    return build_model(name, s, known)[0]


@pytest.mark.parametrize("name", ["fno", "tfno", "uno"])
def test_fourier_operators_are_agnostic(name):
    r = discretization_report(registered(name), resolutions=(16, 32, 64), n_inputs=2)
    assert r.agnostic, str(r)
    assert r.reference == (16, 16) and r.largest_drift < 1e-3


@pytest.mark.parametrize("name", ["unet", "vit", "dilresnet", "mgno"])
def test_models_of_points_are_tied(name):
    r = discretization_report(registered(name), resolutions=(16, 32, 64), n_inputs=2)
    assert r.verdict == "tied to its grid", str(r)
    assert r.largest_drift > 0.25


def test_a_cnn_is_tied_and_its_conversion_is_not():
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for c in (1, 8, 8):
        layers += [nn.Conv2d(c, 8, 5, padding=2, padding_mode="circular"), nn.GELU()]
    cnn = nn.Sequential(*layers[:-1], nn.Conv2d(8, 1, 1)).double()
    reference = periodic(16)
    options = {"resolutions": (16, 32, 64), "n_inputs": 2, "reference": 16}
    plain = discretization_report(cnn, reference, **options)
    converted = discretization_report(to_operator(cnn, reference=reference), reference, **options)
    assert not plain.agnostic and plain.largest_drift > 0.25, str(plain)
    assert converted.agnostic, str(converted)
    assert converted.observed_order > 1.8 and converted.largest_drift < 0.2


def test_functions():
    r = discretization_report(lambda u: u.square(), resolutions=(16, 32, 64))
    assert r.agnostic and max(r.change[:2]) < 1e-12 and r.n_inputs == 4
    # the sum over points, without a weight
    r = discretization_report(lambda u: u * 0 + u.square().sum(), resolutions=(16, 32, 64))
    assert not r.agnostic and r.drift[1] == pytest.approx(3, rel=1e-6)


def test_smooth_fields_are_the_same_function_on_every_grid():
    for domain in (Grid.unit(9, dim=2), periodic(8), Grid.unit(7, dim=1), Grid.unit(5, dim=3)):
        f = smooth_fields(domain, 2, 3, seed=1)
        coarse, fine = f(domain), f(domain.refined(2))
        assert coarse.shape == (2, 3, *domain.shape)
        every = (..., *(slice(None, None, 2),) * domain.dim)
        np.testing.assert_allclose(fine[every], coarse, atol=1e-12)
        assert 0.2 < coarse.std() < 3
    other = smooth_fields(domain, 2, 3, seed=2)(domain)
    assert np.abs(other - coarse).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"resolutions": (16, 32), "reference": 32},
            "need one finer than the reference grid 32x32",
        ),
        ({"resolutions": (2, 32)}, "resolution 2: need numbers >= 4"),
        ({"resolutions": ((8, 8, 8), 32)}, r"resolution \(8, 8, 8\): need numbers"),
        ({"n_inputs": 0}, "n_inputs=0: need an integer >= 1"),
        ({"data": "darcy"}, "data='darcy': a problem or dataset goes with a trained run"),
        ({"tolerance": 0}, "tolerance=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        discretization_report(lambda u: u, **arguments)
    assert "\n" not in str(caught.value)


def test_models_that_fail():
    def refuses(u):
        if u.shape[-1] > 32:
            raise ValueError("too many points")
        return u

    with pytest.raises(UsageError, match="does not accept 64x64 points: too many points"):
        discretization_report(refuses, resolutions=(32, 64))
    with pytest.raises(UsageError, match="not finite on 32x32"):
        discretization_report(lambda u: u / 0, resolutions=(32, 64))
    with pytest.raises(UsageError, match="gives 16x16 points on a grid of 32x32"):
        discretization_report(lambda u: u[..., ::2, ::2], resolutions=(32, 64))
    with pytest.raises(UsageError, match="need a run, an operator or a function"):
        discretization_report(3)
    grids = [periodic(16), periodic(16)]
    with pytest.raises(UsageError, match="one is given twice"):
        certify(outputs(lambda h: 1.0, grids), grids, reference=grids[0], model="m", inputs="i")


# -- a trained run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from opkit.fit import FitConfig, fit

    root = tmp_path_factory.mktemp("certificate")
    generate(
        GenerateConfig(
            problem="darcy", out=root / "darcy", n=8, n_valid=2, n_test=3, resolution=9, seed=1
        )
    )
    fit(
        FitConfig(
            data=root / "darcy", model="fno", out=root / "run", epochs=1, threads=1,
            options={"n_modes": 8, "hidden_channels": 4, "n_layers": 2},
        )
    )  # fmt: skip
    return root / "run", root / "darcy"


def test_evaluate_adds_the_certificate(run, capsys):
    arguments = ["evaluate", *map(str, run), "--no-compare", "--repeats", "1", "--n-solve", "2"]
    assert main([*arguments, "--resolution", "9,17,33"]) == 0
    out = capsys.readouterr().out
    assert "fno: " in out and "33x33" in out
    found = run[0] / "evaluation" / "test"
    facts = json.loads((found / "metrics.json").read_text())["discretization"]
    assert facts["shapes"] == [[9, 9], [17, 17], [33, 33]] and facts["reference"] == [9, 9]
    assert facts["n_inputs"] == 2
    # the error on each grid is that of the evaluation on that grid
    for i, name in ((1, "test_res17"), (2, "test_res33")):
        other = json.loads((found.parent / name / "metrics.json").read_text())
        assert facts["error"][i] == pytest.approx(other["rel_l2"]["mean"], rel=1e-6)
    with (found / "discretization.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["resolution"] for r in rows] == ["9x9", "17x17", "33x33"]
    assert [float(r["drift"]) for r in rows] == pytest.approx(facts["drift"])
    assert main(["report", str(run[0])]) == 0
    capsys.readouterr()
    page = (run[0] / "report.html").read_text()
    assert f"Dependence on the grid: {facts['verdict']}" in page
    # two grids are too few for a rate: no certificate
    assert main([*arguments, "--resolution", "17", "--json"]) == 0
    assert "discretization" not in json.loads(capsys.readouterr().out)


def test_several_resolutions_and_one_per_axis(run, capsys):
    arguments = [
        "evaluate",
        *map(str, run),
        "--no-compare",
        "--repeats",
        "1",
        "--n-solve",
        "1",
        "--json",
    ]
    assert main([*arguments, "--resolution", "9x17"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["resolutions"]) == ["test_res9x17"]
    assert found["resolutions"]["test_res9x17"]["data"]["resolution"] == [9, 17]


def test_a_run_in_python(run):
    r = discretization_report(run[0], resolutions=(17, 33), n_inputs=2)
    assert r.reference == (9, 9) and len(r.error) == 3 and "darcy" in r.inputs
    same = discretization_report(run[0], run[1], resolutions=(17, 33), n_inputs=2)
    assert same == r
    with pytest.raises(UsageError, match="neither a dataset nor a problem"):
        discretization_report(run[0], "nowhere", resolutions=(17, 33))
    with pytest.raises(
        UsageError, match="'burgers' does not fit the operator, whose grid has 2 axes"
    ):
        discretization_report(run[0], "burgers", resolutions=(17, 33))
