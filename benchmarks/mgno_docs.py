"""Write the measured figures of docs/mgno.md from ``results/mgno_*.json``.

::

    python benchmarks/mgno_docs.py
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "mgno.md"
TITLES = {
    "mgno": "MgNO",
    "mgno_l2": "MgNO, L2 loss",
    "fno": "FNO",
    "unet": "U-Net",
    "dilresnet": "dilated ResNet",
}
SEEDS = (0, 1, 2)


def load(name: str) -> dict[str, Any]:
    """Read stored results."""
    path = HERE / "results" / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def percent(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def by_seed(found: dict[str, Any], a: str, b: str, error: str) -> list[float]:
    """Errors of runs `a` over those of `b`, for the seeds that both have."""
    return [
        found[f"{a} {s}"][error] / found[f"{b} {s}"][error]
        for s in SEEDS
        if f"{a} {s}" in found and f"{b} {s}" in found
    ]


def numbers(values: list[float]) -> str:
    """Ratios by seed."""
    return ", ".join(f"{v:.2f}" for v in values) or "–"


def darcy(found: dict[str, Any]) -> str:
    """Table of check 6."""
    lines = [
        "| coefficient | model | parameters | seeds | L2, % | H1, % |",
        "|---|---|---|---|---|---|",
    ]
    for data in ("rough", "multiscale"):
        for model, title in TITLES.items():
            runs = [found[k] for s in SEEDS if (k := f"{data} {model} {s}") in found]
            if runs:
                lines.append(
                    f"| {data} | {title} | {runs[0]['n_parameters']:,} | {len(runs)} | "
                    f"{percent([r['rel_l2'] for r in runs])} | "
                    f"{percent([r['rel_h1'] for r in runs])} |"
                )
    for data in ("rough", "multiscale"):
        h1, l2 = (by_seed(found, f"{data} mgno", f"{data} fno", e) for e in ("rel_h1", "rel_l2"))
        if h1:
            lines += [
                "",
                f"MgNO over FNO by seed, {data}: H1 {numbers(h1)}; L2 {numbers(l2)}.",
            ]
    return "\n".join(lines)


def rules(found: dict[str, Any]) -> str:
    """Table of check 7."""
    lines = ["| sides | L2 | within 2h of the boundary | inside |", "|---|---|---|---|"]
    for data, title in (("neumann", "Neumann, Poisson"), ("periodic", "periodic, Navier–Stokes")):
        cells = [
            numbers(by_seed(found, f"{data} right", f"{data} zeros", e))
            for e in ("rel_l2", "rms_layer", "rms_inside")
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speed(found: dict[str, Any]) -> str:
    """Table of the steps."""
    names = {
        "ours": "ours, same AdamW",
        "ours, fused AdamW": "ours, fused AdamW",
        "default": "`opkit fit -m mgno` (one more convolution on the finest level)",
        "default, solution": "the same, `continuation=solution`",
        "fno": "neuraloperator's FNO, 12 modes, 32 channels",
    }
    cases = sorted((k for k in found if k.startswith("step ")), key=lambda k: found[k]["n"])
    heads = [f"{found[k]['n']}², {found[k]['threads']} thread(s)" for k in cases]
    lines = [f"| plain layout over | {' | '.join(heads)} |", "|---" * (len(cases) + 1) + "|"]
    lines += [
        f"| {title} | {' | '.join(format(found[k][name]['ratio'], '.2f') for k in cases)} |"
        for name, title in names.items()
    ]
    if "memory 128" in found:
        m = found["memory 128"]
        lines += ["", f"Peak memory of training at 128²: {m['ours']} MiB, plain {m['plain']} MiB."]
    if "errors" in found:
        lines += ["", "MgNO and FNO on 200 samples of rough Darcy flow, 33²:", ""]
        lines += ["| | L2, % | H1, % | epochs | seconds |", "|---|---|---|---|---|"]
        lines += [
            f"| {k} | {100 * r['rel_l2']:.1f} | {100 * r['rel_h1']:.1f} | {r['epochs']} | "
            f"{r['seconds']:.0f} |"
            for k, r in sorted(found["errors"].items())
        ]
    return "\n".join(lines)


def filled(page: str) -> str:
    """Put the tables of the stored results into the page."""
    accuracy = load("mgno_accuracy")
    tables = {
        "darcy": darcy(accuracy),
        "rules": rules(accuracy),
        "speed": speed(load("mgno_speed")),
    }
    for name, text in tables.items():
        page, n = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)",
            lambda m, t=text: f"{m[1]}{t}\n{m[2]}",
            page,
            flags=re.S,
        )
        if n != 1:
            raise ValueError(f"{PAGE} has {n} places for {name}")
    return page


def write() -> None:
    """Bring the page up to date."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
