"""MgNO's acceptance checks 6 and 7, its speed claims' sameness, and data of every kind.

Checks 1 to 5 and 8 are in ``tests/models/test_mgno_operator.py`` and ``test_mgno_model.py``.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import opkit
from models import build_model
from opkit.tasks.grid import GridTask

ROOT = Path(__file__).parents[2]
F64 = torch.float64


def script(name: str) -> ModuleType:
    """Module of a benchmark."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# -- the faster layout is the authors' one ---------------------------------------------------------


def test_official_network_equals_the_plain_layers() -> None:
    """Values and all gradients, float64; two smoothing steps on the coarsest of six levels."""
    plain, ours = (m.double() for m in script("bench_mgno").pair(32))
    x = torch.randn(2, 1, 32, 32, dtype=F64, generator=torch.Generator().manual_seed(1))
    grads = []
    for model in (plain, ours):
        inside = x.clone().requires_grad_()
        y = model(inside)
        (y * torch.cos(y)).sum().backward()
        found = {k: p.grad for k, p in model.named_parameters()}
        grads.append({**found, "output": y.detach(), "input": inside.grad})
    assert grads[0].keys() == grads[1].keys()
    for name, expected in grads[0].items():
        error = (grads[1][name] - expected).abs().max() / expected.abs().max()
        assert float(error) <= 1e-10, name


def test_official_network_keeps_no_more_memory() -> None:
    bench = script("bench_mgno")
    kept = bench.saved(32, 2)
    assert kept["ours"] <= kept["plain"]


# -- boundary and layout come from the data ----------------------------------------------------

KINDS = {
    ("dirichlet", "node"): (("dirichlet", "dirichlet"), "vertex", 17),
    ("dirichlet", "cell_center"): (("dirichlet", "dirichlet"), "cell", 16),
    ("neumann", "node"): (("neumann", "neumann"), "vertex", 17),
    ("neumann", "cell_center"): (("neumann", "neumann"), "cell", 16),
    ("periodic", "node"): (("periodic", "periodic"), "vertex", 16),
    ("periodic", "cell_center"): (("periodic", "periodic"), "cell", 16),
    ("mixed", "node"): (("dirichlet", "neumann"), "vertex", 17),
    ("mixed", "cell_center"): (("dirichlet", "neumann"), "cell", 16),
}


@pytest.mark.parametrize(
    ("kind", "location", "dim"),
    [
        *((*key, dim) for key in KINDS for dim in (1, 2)),
        ("mixed", "node", 3),
        ("neumann", "cell_center", 3),
    ],
)
def test_boundary_and_layout_are_those_of_the_dataset(
    kind: str, location: str, dim: int, tmp_path: Path
) -> None:
    pair, layout, n = KINDS[kind, location]
    data = tmp_path / "data"
    opkit.generate(
        "poisson", out=data, n=2, n_valid=1, n_test=1, resolution=n, error_fraction=0.0,
        set={"dim": dim, "boundary": kind, "location": location}, progress=False,
    )  # fmt: skip
    dataset = opkit.open_dataset(data)
    task = GridTask.from_schema(dataset.schema)
    model, _ = build_model("mgno", task.spec(), {"hidden_channels": 4})
    assert [(a.left, a.right) for a in model.axes] == [pair] * dim
    assert [a.layout for a in model.axes] == [layout] * dim
    x, u = (torch.as_tensor(v) for v in task.read(dataset["train"], [0, 1]))
    y = model(x.float()).detach()
    assert y.shape == u.shape
    for d, side in itertools.product(range(dim), (0, -1)):
        wall = pair[side] == "dirichlet" and layout == "vertex"
        truth, found = (t.select(d + 2, side) for t in (u, y))
        assert bool((found == 0).all()) == wall
        assert bool((truth == 0).all()) == wall


@pytest.mark.parametrize("kind", ["dirichlet", "mixed"])
def test_fit_needs_no_flag(kind: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    opkit.generate(
        "poisson", out=data, n=4, n_valid=2, n_test=2, resolution=17, error_fraction=0.0,
        set={"boundary": kind}, progress=False,
    )  # fmt: skip
    operator = opkit.fit(
        data, model="mgno", out=tmp_path / "run", epochs=1, set={"hidden_channels": 4},
        loss="h1_spectral", accelerator="cpu", progress=False,
    )  # fmt: skip
    u = operator(torch.randn(1, 1, 17, 17))
    assert bool((u[..., 0, :] == 0).all())
    assert bool((u[..., -1, 1:] == 0).all()) == (kind == "dirichlet")


# -- documentation ---------------------------------------------------------------------------------


def test_the_pages_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "mgno.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(compile(block, "mgno.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert float(first.split()[1]) < 1e-7
    assert second == "torch.Size([2, 1, 33, 33])"


def test_the_pages_figures_are_those_stored() -> None:
    page = (ROOT / "docs" / "mgno.md").read_text(encoding="utf-8")
    assert script("mgno_docs").filled(page) == page, "run benchmarks/mgno_docs.py"


# -- 6 and 7: trained networks ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_darcy_trained_anew(tmp_path: Path) -> None:
    """Check 6 on one seed of the rough coefficient: FNO has twice the parameters."""
    bench = script("bench_mgno_accuracy")
    runs = {m: bench.darcy("rough", m, 0, tmp_path, bench.EPOCHS["darcy"]) for m in bench.MODELS}
    sys.stdout.write(json.dumps(runs, indent=1))
    assert 2 * runs["mgno"]["n_parameters"] <= runs["fno"]["n_parameters"]
    assert runs["mgno"]["rel_h1"] <= 0.75 * runs["fno"]["rel_h1"]
    assert runs["mgno"]["rel_l2"] <= 0.9 * runs["fno"]["rel_l2"]
    for other in ("unet", "dilresnet"):
        assert abs(runs[other]["n_parameters"] / runs["mgno"]["n_parameters"] - 1) < 0.1
        assert runs["mgno"]["rel_h1"] < runs[other]["rel_h1"]
    assert runs["mgno"]["rel_h1"] < runs["mgno_l2"]["rel_h1"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("data", ["neumann", "periodic"])
def test_rules_trained_anew(data: str, tmp_path: Path) -> None:
    """Check 7 on one seed: the right rule against zeros."""
    bench = script("bench_mgno_accuracy")
    right, zeros = (
        bench.rule(data, which, 0, tmp_path, bench.EPOCHS["rules"]) for which in ("right", "zeros")
    )
    sys.stdout.write(json.dumps({"right": right, "zeros": zeros}, indent=1))
    assert right["rel_l2"] <= 0.8 * zeros["rel_l2"]
    layer, inside = (right[k] / zeros[k] for k in ("rms_layer", "rms_inside"))
    assert layer < inside
