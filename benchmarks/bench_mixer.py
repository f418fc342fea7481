"""MixER: partition of families, adaptation, its limit, and the cost of a step.

Each run is stored in ``results/mixer.json`` when it ends, and skipped when it is there already::

    python benchmarks/bench_mixer.py                  # all
    python benchmarks/bench_mixer.py static cost      # some
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from models.mixer import MetaTraining, MixER, build_mixer
from models.spec import TrajectorySpec

RESULTS = Path(__file__).parent / "results" / "mixer.json"
SEEDS = (0, 1, 2)


def store(key: str, run: Callable[[], dict[str, Any]], force: bool = False) -> dict[str, Any]:
    """Run unless the result is there."""
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if key in found and not force:
        return found[key]
    start = time.process_time()
    result = run() | {"cpu_seconds": round(time.process_time() - start, 1)}
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found[key] = result
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(key, json.dumps(result), flush=True)
    return result


# -- static: learn the rates at random states of three families ----------------------------------


def static_data(seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """States and rates of harmonic oscillators, double wells and Van der Pol oscillators.

    Eight parameters of each (10 % about the center), 48 random states in [-2, 2]^2; normalized.
    """
    rng = np.random.default_rng(1000 + seed)
    x = rng.uniform(-2, 2, (24, 48, 2))
    y0, y1 = x[..., 0], x[..., 1]
    c = np.concatenate([v * np.linspace(0.9, 1.1, 8) for v in (2.1, 0.18, 0.886)])[:, None]
    rates = (-c * y0, -c * y1 - y0**3 + y0, c * y1 * (1 - y0**2) - y0)
    family = np.repeat(np.arange(3), 8)
    dy = np.stack([y1, np.choose(family[:, None], rates)], axis=-1)
    dy = (dy - dy.mean((0, 1))) / dy.std((0, 1))
    return torch.as_tensor(x).float(), torch.as_tensor(dy).float(), family


def static_run(scheme: str, seed: int) -> dict[str, Any]:
    """Train one scheme; routing against family, experts used, loss."""
    torch.manual_seed(seed)
    x, dy, family = static_data(seed)
    n, p, _ = x.shape
    gating = {"one expert": "warmup", "warmup + gradient": "gradient"}.get(scheme, scheme)
    e = 1 if scheme == "one expert" else 3
    model = build_mixer(
        TrajectorySpec(2, n, 3), n_experts=e, gating=gating, context_size=12, width=32, depth=2
    )
    paper = scheme in ("paper", "gradient")
    warmup = 0.0 if paper or e == 1 else 0.4
    steps = 24 * (120 if paper else 50)
    training = MetaTraining(
        model, warmup=warmup, beta=10.0 if paper else 0.0, gate_every=1 if paper else 4, seed=seed
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    environments = torch.arange(n)
    rows = environments.repeat_interleave(p)

    def losses_of(experts: torch.Tensor) -> torch.Tensor:
        context = model.contexts.values[rows % n]
        y = model.rates(x.flatten(0, 1), context, experts[rows % n])
        return (y.view(n, p, 2) - dy).square().mean((1, 2))

    def every() -> tuple[torch.Tensor, torch.Tensor]:
        each = [losses_of(torch.full((n,), k)) for k in range(e)]
        return environments, torch.stack(each, dim=1)

    for step in range(steps):
        training.before_step(step, steps)
        losses = losses_of(model.experts())
        if paper:
            some = training.contributors(-(-n // e))
            losses = losses[some]
        optimizer.zero_grad()
        (losses.mean() + training.penalty()).backward()
        optimizer.step()
        training.after_step(step, steps, every, optimizer)
    training.finish()
    with torch.no_grad():
        experts = model.experts()
        loss = losses_of(experts).mean().item()
    return {
        "ari": adjusted_rand_score(family, experts.numpy()),
        "experts_used": len(experts.unique()),
        "loss": loss,
        "updates": training.counts.tolist(),
    }


def static() -> None:
    """Spec's table: which schemes find the families."""
    for scheme in ("warmup", "gradient", "warmup + gradient", "paper", "one expert"):
        for seed in SEEDS:
            store(f"static/{scheme}/{seed}", lambda s=scheme, k=seed: static_run(s, k))


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs = {"static": static}
    for name in sys.argv[1:] or jobs:
        jobs[name]()
