"""Sphinx configuration: MyST pages, numpydoc, command-line help written at build time."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (
    "", "generate", "fit", "evaluate", "predict", "report", "verify", "list", "data", "data info",
    "data check", "data index", "demo",
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
suppress_warnings = ["myst.xref_missing"]


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


_write_command_help()
