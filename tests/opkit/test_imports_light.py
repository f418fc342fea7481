"""Importing a package loads nothing heavy, and every public name exists."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "dolfinx", "matplotlib", "lightning", "neuralop", "numba", "h5py", "xarray")


def loaded_after(code: str) -> set[str]:
    """Names of the modules that are loaded after `code` ran in a fresh interpreter."""
    code += "\nimport sys, json; print(json.dumps([m for m in sys.modules if '.' not in m]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", ["opkit", "pde_data", "models", "solvers"])
def test_packages_import_nothing_heavy(package: str) -> None:
    assert loaded_after(f"import {package}").isdisjoint(HEAVY)


def test_import_opkit_does_not_even_load_numpy() -> None:
    assert loaded_after("import opkit; opkit.__version__").isdisjoint({"numpy", "pydantic", "rich"})


def test_help_loads_neither_numpy_nor_pydantic_nor_rich() -> None:
    loaded = loaded_after("from opkit.cli import main; main(['--help'])")
    assert loaded.isdisjoint({*HEAVY, "numpy", "pydantic", "rich", "yaml"})


def test_generate_loads_no_torch(tmp_path: Path) -> None:
    arguments = ["generate", "darcy", "-n", "2", "--resolution", "9", "-o", str(tmp_path / "d")]
    loaded = loaded_after(f"from opkit.cli import main; main({arguments!r})")
    assert "h5py" in loaded and loaded.isdisjoint({"torch", "lightning", "matplotlib"})


@pytest.mark.parametrize("kind", ["problems", "models", "solvers", "metrics"])
def test_list_loads_nothing_heavy(kind: str) -> None:
    loaded = loaded_after(f"from opkit.cli import main; assert main(['list', '{kind}']) == 0")
    assert loaded.isdisjoint({*HEAVY, "scipy", "rich"})


def test_making_data_loads_no_torch() -> None:
    assert "torch" not in loaded_after("import opkit; opkit.generate; opkit.open_dataset")


@pytest.mark.parametrize("package", ["opkit", "pde_data", "models", "solvers"])
def test_every_public_name_exists(package: str) -> None:
    top = importlib.import_module(package)
    names = [package] + [
        m.name
        for m in pkgutil.walk_packages(top.__path__, f"{package}.")
        if "__main__" not in m.name and "fenicsx" not in m.name
    ]
    assert len(names) > 3
    for name in names:
        module = sys.modules.get(name) or importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            assert getattr(module, public) is not None, f"{name}.{public}"


def test_functions_stay_functions_after_their_modules_are_loaded() -> None:
    code = (
        "import opkit, opkit.report, opkit.evaluate\n"
        "from opkit.report import report\n"
        "assert opkit.report is report, opkit.report\n"
        "assert callable(opkit.evaluate) and callable(opkit.fit)\n"
        "from opkit.fit import FitConfig\n"
        "assert callable(opkit.fit)"
    )
    loaded_after(code)


def test_unknown_attribute_is_an_attribute_error() -> None:
    import opkit

    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        _ = opkit.genrate
    assert {"fit", "load", "__version__"} <= set(dir(opkit))
