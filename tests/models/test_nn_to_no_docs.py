"""The example of docs/nn_to_no.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

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
