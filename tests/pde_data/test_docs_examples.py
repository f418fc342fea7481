"""The Python examples of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opkit.cli import main

DOCS = Path(__file__).parents[2] / "docs"


def _blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.M | re.S)


def test_reading_files_without_opkit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = re.search(
        r"^opkit (generate darcy .*)$", (DOCS / "reading_files.md").read_text(), re.M
    )
    assert main(command[1].split()) == 0
    blocks = _blocks("reading_files.md")
    assert len(blocks) >= 4
    capsys.readouterr()
    names = {}
    for block in blocks:
        exec(compile(block, "reading_files.md", "exec"), names)
    out = capsys.readouterr().out
    assert "pressure in Pa" in out and "x_wall" in out
    assert "(17, 17) (17, 17)" in out and "(3, 17, 17)" in out


def test_adding_a_problem(tmp_path, monkeypatch, capsys):
    """The page's problem, registered from outside, generates, verifies and trains."""
    from pde_data import problem as registry
    from pde_data.verification import verify

    (block,) = _blocks("adding_a_problem.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 45
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    names = {"__name__": "added"}
    exec(compile(block, "adding_a_problem.md", "exec"), names)
    (cls,) = [v for k, v in names.items() if k == "SineSource"]
    checks = list(verify(cls()))
    assert [c for c in checks if not c.passed] == []
    assert any(c.kind == "order" for c in checks)
    out = tmp_path / "d"
    assert main(f"generate sine_source -n 4 --resolution 17 --set n_waves=3 -o {out}".split()) == 0
    assert main(f"data check {out} --physics".split()) == 0
    with pytest.raises(ValueError, match="n_waves"):
        cls(n_waves=0)
    assert main(["list", "problems"]) == 0
    assert "sine_source" in capsys.readouterr().out


def test_solvers_page(capsys):
    names = {}
    for block in _blocks("solvers.md"):
        exec(compile(block, "solvers.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[0].split()[-1]) == pytest.approx(0.07367, abs=2e-5)
    assert float(lines[2]) == pytest.approx(1 / 3)
    assert float(lines[4]) == pytest.approx(1.0, abs=1e-3)
