"""The example of docs/deeponet.md runs as it stands, and the page tells every setting."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "deeponet.md"


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    exec(compile(block, "deeponet.md", "exec"), {})
    out = capsys.readouterr().out
    assert "answer (1001,) error 0.0" in out  # below 0.1
    assert "exact at 0: True" in out
    assert "derivatives along y (5, 1)" in out


def test_every_setting_and_model_is_told():
    from models import list_models
    from opkit.tasks.points import PointsOptions

    text = PAGE.read_text("utf-8")
    assert [n for n in PointsOptions.model_fields if f"| `{n}` |" not in text] == []
    ours = [n for n, e in list_models().items() if e.factory.startswith("models.deeponet")]
    assert len(ours) == 5 and [n for n in ours if f"| `{n}` |" not in text] == []
