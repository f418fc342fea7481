"""The example of docs/lpn.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "lpn.md"


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    names = {}
    exec(compile(block, "lpn.md", "exec"), names)
    out = capsys.readouterr().out
    assert "denoised (3, 8, 8)" in out
    op, noisy, clean = names["op"], names["noisy"], names["clean"]
    assert (op.regularizer(noisy) - op.regularizer(clean)).mean() > 0
    assert "weights >= 0: True" in out


def test_every_option_is_told():
    from opkit.tasks.denoising import DenoisingOptions

    text = PAGE.read_text("utf-8")
    assert [n for n in DenoisingOptions.model_fields if f"| `{n}` |" not in text] == []
