"""The examples of the pages on baselines and comparisons run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models import get_model, model_options

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    pytest.param(name, code, id=f"{name}-{i}")
    for name in ("baselines", "compare")
    for i, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", (DOCS / f"{name}.md").read_text("utf-8"), re.M | re.S)
    )
]


@pytest.mark.parametrize(("name", "code"), EXAMPLES)
def test_examples(name, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{name}.md", "exec"), {})
    out = capsys.readouterr().out
    if "build_model" in code:
        assert out.count("(1, 1, 33, 33)") == 7
    elif "compare(" in code:
        assert out.count(" parameters, ") == 2
    else:
        assert out.endswith("tied to its grid True\n")


def test_options_named_on_the_page_exist():
    text = (DOCS / "baselines.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", text, re.M)
    assert len(rows) == 7
    for name, stated in rows:
        for option in re.findall(r"`(\w+)`", stated):
            assert option in model_options(get_model(name)), (name, option)
