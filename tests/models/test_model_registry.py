"""Options of registered models and their errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models import ModelEntry, ModelSpec, build_model, get_model, model_options
from models.registry import register_model
from solvers.grids import Grid

SMALL = {
    "mgno": {"hidden_channels": 4, "n_layers": 2},
    "fno": {"hidden_channels": 4, "n_layers": 2},
}


def spec(dim=2, n=17, kind="dirichlet", channels=(2, 1), location="node") -> ModelSpec:
    grid = Grid.unit(n, dim=dim, periodic=kind == "periodic", location=location)
    return ModelSpec(*channels, grid, ((kind, kind),) * dim, 0.0)


def test_options_are_those_of_the_factory():
    options = model_options(get_model("mgno"))
    assert options["hidden_channels"] == (int, 24)
    assert "spec" not in options
    assert set(options) == set(build_model("mgno", spec(), SMALL["mgno"])[1])


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("mgno", {"hidden_channels": "6"}, {"hidden_channels": 6}),
        ("mgno", {"hidden_channels": 6.0}, {"hidden_channels": 6}),
        ("mgno", {"levels": "none"}, {"levels": 4}),
        ("mgno", {"levels": "2"}, {"levels": 2, "smoothing": [[1, 0], [2, 0]]}),
        ("mgno", {"smoothing": "[[1, 1], [2, 0]]"}, {"smoothing": [[1, 1], [2, 0]], "levels": 2}),
        ("mgno", {"pointwise": "false"}, {"pointwise": False}),
        ("mgno", {"bias": "none"}, {"bias": None}),
        ("mgno", {"coarse": "fas"}, {"coarse": "fas"}),
        ("fno", {"n_modes": "8"}, {"n_modes": [8, 8]}),
        ("fno", {"n_modes": "8,4"}, {"n_modes": [8, 4]}),
        ("fno", {"n_modes": "[8, 4]"}, {"n_modes": [8, 4]}),
        ("fno", {"padding": "1e-1"}, {"padding": 0.1}),
        ("fno", {"padding": 0}, {"padding": 0.0}),
    ],
)
def test_values_from_the_command_line(name, given, expected):
    _, resolved = build_model(name, spec(), SMALL[name] | given)
    assert {k: resolved[k] for k in expected} == expected
    assert all(type(resolved[k]) is type(v) for k, v in expected.items())


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("mgnoo", {}, "unknown model 'mgnoo'. Did you mean 'mgno'"),
        (
            "mgno",
            {"hiden_channels": 8},
            "mgno has no option 'hiden_channels'. Did you mean 'hidden_",
        ),
        ("mgno", {"hidden_channels": "many"}, "hidden_channels='many': mgno needs an integer here"),
        ("mgno", {"hidden_channels": 6.5}, "hidden_channels=6.5: mgno needs an integer here"),
        ("mgno", {"hidden_channels": True}, "hidden_channels=True: mgno needs an integer"),
        ("mgno", {"levels": "x"}, "levels='x': mgno needs an integer or none here"),
        ("mgno", {"pointwise": "maybe"}, "pointwise='maybe': mgno needs true or false here"),
        ("mgno", {"pointwise": 2}, "pointwise=2: mgno needs true or false here"),
        ("mgno", {"coarse": "full"}, "coarse='full': mgno needs 'residual' or 'fas' or 'restrict'"),
        ("mgno", {"smoothing": "[[1, 0"}, "mgno needs a list of .a list of .an integer.. or none"),
        ("fno", {"padding": "nan"}, "padding='nan': fno needs a number here"),
        (
            "fno",
            {"n_modes": "8;4"},
            "n_modes='8;4': fno needs an integer or a list of .an integer.",
        ),
    ],
)
def test_option_errors(name, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(name, spec(), given)
    assert "\n" not in str(caught.value)


def test_registering_twice():
    entry = get_model("mgno")
    assert register_model(entry) is entry
    with pytest.raises(ValueError, match="model 'mgno' is registered already"):
        register_model(ModelEntry("mgno", "another", "grid", "math:sqrt"))


def test_listing_models_imports_no_torch():
    code = (
        "import sys, models; models.list_models(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'neuralop', 'h5py', 'dolfinx')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
