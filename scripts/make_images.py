"""Draw the picture of README and docs from what ``make demo`` left: docs/images/darcy.png."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import opkit
from opkit.plots import plot_sample


def main(demo: Path, out: Path) -> None:
    """Draw the median test sample of the demo."""
    run = demo / "run"
    grid = opkit.load(run).grid
    with np.load(run / "evaluation" / "test" / "samples.npz", allow_pickle=False) as s:
        k = s["roles"].tolist().index("median")
        figure = plot_sample(
            s["inputs"][k], s["truth"][k], s["prediction"][k], [a.coords for a in grid.axes],
            input_labels=["a [m²/(Pa s)]"], output_labels=["u [Pa]"],
            axis_units=[a.units for a in grid.axes],
        )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"), Path("docs/images/darcy.png"))
