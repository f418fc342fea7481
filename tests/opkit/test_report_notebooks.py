"""The notebooks run from start to end, and the executed copies are those of the scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
SMALL = {"OPKIT_NOTEBOOK_N": "16", "OPKIT_NOTEBOOK_EPOCHS": "2", "OMP_NUM_THREADS": "1"}


def cells(path: Path) -> list[tuple[str, str]]:
    """Kind and source of the cells of a notebook or script."""
    import jupytext

    return [(c.cell_type, c.source.strip()) for c in jupytext.read(path).cells]


def outputs(path: Path) -> list[dict]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [o for c in notebook["cells"] for o in c.get("outputs", ())]


def test_there_are_notebooks() -> None:
    assert [s.stem for s in SCRIPTS][:1] == ["01_darcy"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_executed_copy_is_that_of_the_script(script: Path) -> None:
    executed = script.with_suffix(".ipynb")
    assert cells(executed) == cells(script), f"run scripts/run_notebook.py {script}"
    found = outputs(executed)
    assert not [o for o in found if o["output_type"] == "error"]
    assert [o for o in found if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_notebook_runs(script: Path, tmp_path: Path) -> None:
    copy = tmp_path / script.name
    shutil.copy(script, copy)
    command = [sys.executable, str(ROOT / "scripts" / "run_notebook.py"), str(copy)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env={**os.environ, **SMALL}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = outputs(copy.with_suffix(".ipynb"))
    assert not [o for o in found if o["output_type"] == "error"]
    assert [o for o in found if "image/png" in o.get("data", {})]
    if script.stem == "01_darcy":
        text = "".join("".join(o.get("text", "")) for o in found)
        assert "16 samples, largest residual" in text
        assert "relative L2 error: mean" in text
