"""Draw each problem and verify it: docs/images/problems/NAME.png, docs/problems/verification.json.

The pages themselves are written from these and the registry when the documentation is built.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

from opkit.gallery import plot_problem
from pde_data.problem import list_problems
from pde_data.verification import quick_problem, verify

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images" / "problems"
RESULTS = ROOT / "docs" / "problems" / "verification.json"


def main(names: list[str]) -> int:
    """Draw and verify the problems `names`, all by default."""
    problems = list_problems()
    IMAGES.mkdir(parents=True, exist_ok=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if names and RESULTS.exists() else {}
    failed = 0
    for name in names or problems:
        start = time.perf_counter()
        cls = problems[name]
        figure = plot_problem(cls(**cls.picture_params), cls.picture_resolution)
        figure.savefig(IMAGES / f"{name}.png", dpi=80)
        rows = []
        for check in verify(quick_problem(cls)):
            row = asdict(check)
            measured = float(row["measured"])
            row["measured"] = float(f"{measured:.4g}") if math.isfinite(measured) else None
            rows.append(row)
            failed += not check.passed
        results[name] = rows
        sys.stderr.write(f"{name}: {len(rows)} checks, {time.perf_counter() - start:.0f} s\n")
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
