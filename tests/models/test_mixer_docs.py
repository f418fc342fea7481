"""The example of docs/mixer.md runs as it stands, and the page tells every setting."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "mixer.md"


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    exec(compile(block, "mixer.md", "exec"), {})
    out = capsys.readouterr().out
    for line in ("environment (4,)", "trajectory (3, 2)", "rates (2, 2)", "[0 1 2 3 4 5 6 7]"):
        assert line in out


def test_every_setting_is_told():
    from models import get_model, model_options
    from opkit.tasks.trajectories import TrajectoriesOptions

    text = PAGE.read_text("utf-8")
    assert [n for n in TrajectoriesOptions.model_fields if f"| `{n}` |" not in text] == []
    assert [n for n in model_options(get_model("mixer")) if n not in text] == []
