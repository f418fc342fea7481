"""Sphinx configuration: MyST pages, numpydoc, command-line help written at build time."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (
    "", "generate", "fit", "evaluate", "predict", "report", "verify", "list", "data", "data info",
    "data check", "data index", "data import", "data export", "data repair", "demo",
)  # fmt: skip

project = "opkit"
author = "The opkit developers"
copyright = "2026, The opkit developers"
version = release = installed_version("opkit")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = "opkit"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
suppress_warnings = ["myst.xref_missing", "ref.citation"]


def _escape(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep ``*space`` in a shape and ``|u|`` from being read as markup."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`.*?`)", line)
        parts[::2] = [
            re.sub(r"(?<![\\*\w])\*(?=\w+(?![\w ,.-]*\*))|(?<!\\)\|", r"\\\g<0>", part)
            for part in parts[::2]
        ]
        lines[i] = "".join(parts)


def setup(app: object) -> None:
    """Escape before numpydoc reads."""
    app.connect("autodoc-process-docstring", _escape, priority=100)  # type: ignore[attr-defined]


def _write_command_help() -> None:
    """``api/commands.txt``: what ``opkit COMMAND --help`` says today."""
    parts = []
    for command in COMMANDS:
        help_text = subprocess.run(
            [sys.executable, "-m", "opkit", *command.split(), "--help"],
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": "", "COLUMNS": "100", "HOME": str(HERE)},
        ).stdout
        parts.append(f"$ opkit {command} --help".replace("  ", " ") + f"\n{help_text.rstrip()}\n")
    target = HERE / "api" / "commands.txt"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n\n".join(parts), encoding="utf-8")


def _write_problem_pages() -> None:
    """``problems/*.md``: equation, picture, parameters and verification, from the registry."""
    import json

    from pde_data.problem import list_problems

    results = json.loads((HERE / "problems" / "verification.json").read_text(encoding="utf-8"))
    index = ["# Problems", "", "| | problem | equation |", "|---|---|---|"]
    names = list_problems()
    for name, cls in names.items():
        picture = f"images/problems/{name}.png"
        small = f'<img src="../_images/{name}.png" alt="" style="min-width: 240px">'
        has_picture = (HERE / picture).exists()
        image = small if has_picture else ""
        equation = cls.equation.replace("|", r"\vert ")
        index.append(f"| {image} | [{name}]({name}.md): {cls.title} | ${equation}$ |")
        page = [f"# {name}", "", cls.title + ".", "", "$$", cls.equation, "$$", ""]
        if has_picture:
            page += [f"```{{image}} ../{picture}", f":alt: one sample of {name}", "```", ""]
        page += [f"```bash\nopkit generate {name} -n 100 -o {name}\n```", ""]
        page += ["## Parameters", "", "| `--set` | default | |", "|---|---|---|"]
        for key, f in cls.Params.model_fields.items():
            default = "required" if f.is_required() else f.get_default(call_default_factory=True)
            text = (f.description or "").replace("|", "\\|")
            page.append(f"| `{key}` | `{default}` | {text} |")
        page += [
            "",
            f"Resolution: {cls.resolution_counts}, default {cls.default_resolution}. "
            f"Solvers: {', '.join(cls.solvers)}.",
        ]
        if cls.reference:
            page += ["", f"Source: {cls.reference}"]
        page += [
            "",
            "## Verification",
            "",
            f"`opkit verify {name}`:",
            "",
            "| | check | measured | asked |",
            "|---|---|---|---|",
        ]
        for row in results.get(name, []):
            measured = "" if row["measured"] is None else f"{row['measured']:.4g}"
            mark = "✔" if row["passed"] else "✘"
            note = f" ({row['note']})" if row["note"] else ""
            page.append(f"| {mark} | {row['name']}{note} | {measured} | {row['asked']} |")
        page += [
            "",
            "## Notes",
            "",
            "```{eval-rst}",
            f".. autoclass:: {cls.__module__}.{cls.__qualname__}",
            "   :no-members:",
            "```",
            "",
        ]
        (HERE / "problems" / f"{name}.md").write_text("\n".join(page), encoding="utf-8")
    index += ["", "```{toctree}", ":hidden:", ":maxdepth: 1", "", *names, "```", ""]
    (HERE / "problems" / "index.md").write_text("\n".join(index), encoding="utf-8")


_write_command_help()
_write_problem_pages()
