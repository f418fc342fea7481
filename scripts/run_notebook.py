"""Execute notebooks/*.py (jupytext percent scripts) and write the paired .ipynb with outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient


def execute(script: Path) -> Any:
    """Return the notebook of `script` with its outputs; an error in a cell raises."""
    notebook = jupytext.read(script)
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times: noise in every diff
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        jupytext.write(execute(path), path.with_suffix(".ipynb"))
