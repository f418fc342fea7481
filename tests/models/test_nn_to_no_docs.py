"""The example of docs/nn_to_no.md runs as it stands, and its tables are the stored figures."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from models import list_models

PAGE = Path(__file__).parents[2] / "docs" / "nn_to_no.md"


def test_example(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    exec(compile(block, "nn_to_no.md", "exec"), {})
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4 and "False" not in out


def test_every_model_is_told():
    text = PAGE.read_text("utf-8")
    names = [n for n, e in list_models().items() if e.factory.startswith("models.nn_to_no")]
    assert len(names) == 8
    assert [n for n in names if f"`{n}`" not in text] == []


@pytest.mark.parametrize("part", ["grids", "darcy", "meshes"])
def test_tables_are_the_stored_figures(part):
    path = PAGE.parents[1] / "benchmarks" / "bench_nn_to_no.py"
    spec = importlib.util.spec_from_file_location("bench_nn_to_no", path)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules["bench_nn_to_no"] = bench  # its dataclasses look themselves up
    spec.loader.exec_module(bench)
    content = json.loads(bench.RESULTS.read_text())
    assert bench.tables(content)[part] in PAGE.read_text("utf-8")
