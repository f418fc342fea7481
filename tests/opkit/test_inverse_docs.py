"""The example of docs/inverse.md runs as it stands, and what the page promises is there."""

from __future__ import annotations

import re
from pathlib import Path

import opkit.inverse

PAGE = Path(__file__).parents[2] / "docs" / "inverse.md"


def test_example_runs(capsys) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    exec(compile(block, "inverse.md", "exec"), {})
    error, certificate, others = capsys.readouterr().out.splitlines()
    assert float(error.split()[1]) < 0.1 and float(others.split()[1]) < 0.1
    assert certificate == "True True"


def test_page_names_what_exists() -> None:
    from opkit.inverse.reconstruct import FILES, OPERATORS

    text = PAGE.read_text("utf-8")
    for name in (*OPERATORS, *FILES):
        assert f"`{name}`" in text
    for name in opkit.inverse.__all__:
        assert getattr(opkit.inverse, name).__doc__
