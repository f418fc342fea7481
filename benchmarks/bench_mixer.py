"""MixER: partition of families, adaptation, its limit, and the cost of a step.

Each run is stored in ``results/mixer.json`` when it ends, and skipped when it is there already::

    python benchmarks/bench_mixer.py                  # all
    python benchmarks/bench_mixer.py static cost      # some
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

import opkit
from models.mixer import MetaTraining, build_mixer
from models.mixer.adaptation import masked_mse
from models.spec import TrajectorySpec

#: Data and runs, kept from one call to the next.
WORK = Path(os.environ.get("OPKIT_BENCH_WORK", tempfile.gettempdir())) / "bench_mixer"
RESULTS = Path(__file__).parent / "results" / "mixer.json"
SEEDS = (0, 1, 2)


def read_results() -> dict[str, Any]:
    """Return what is stored so far."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    return found


def store(key: str, run: Callable[[], dict[str, Any]], force: bool = False) -> dict[str, Any]:
    """Run unless the result is there."""
    found = read_results()
    if key in found and not force:
        return found[key]
    start = time.process_time()
    result = run() | {"cpu_seconds": round(time.process_time() - start, 1)}
    found = read_results()
    found[key] = result
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(key, json.dumps(result), flush=True)
    return result


# -- static: learn the rates at random states of three families ----------------------------------


Static = tuple[torch.Tensor, torch.Tensor, np.ndarray]


def static_data(seed: int, *, new: bool = False) -> Static:
    """States and rates of harmonic oscillators, double wells and Van der Pol oscillators.

    Eight parameters of each (10 % about the center), 48 random states in [-2, 2]^2; rates are
    normalized. `new`: other states, the same normalization.
    """
    c = np.concatenate([v * np.linspace(0.9, 1.1, 8) for v in (2.1, 0.18, 0.886)])[:, None]
    family = np.repeat(np.arange(3), 8)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.random.default_rng(number).uniform(-2, 2, (24, 48, 2))
        y0, y1 = x[..., 0], x[..., 1]
        rates = (-c * y0, -c * y1 - y0**3 + y0, c * y1 * (1 - y0**2) - y0)
        return x, np.stack([y1, np.choose(family[:, None], rates)], axis=-1)

    _, dy = draw(1000 + seed)
    shift, scale = dy.mean((0, 1)), dy.std((0, 1))
    x, dy = draw(1000 + seed + 500 * new)
    return torch.as_tensor(x).float(), torch.as_tensor((dy - shift) / scale).float(), family


def static_run(scheme: str, seed: int, data: Callable[..., Static] = static_data) -> dict[str, Any]:
    """Train one scheme; routing against family, experts used, loss, also at new states."""
    torch.manual_seed(seed)
    x, dy, family = data(seed)
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
        x, dy, _ = data(seed, new=True)
        test = losses_of(experts).mean().item()
    return {
        "ari": adjusted_rand_score(family, experts.numpy()),
        "experts_used": len(experts.unique()),
        "loss": loss,
        "test_loss": test,
        "updates": training.counts.tolist(),
    }


def static_limit_data(seed: int, *, new: bool = False) -> Static:
    """States and rates of nine Lotka-Volterra systems: 48 states in [0.2, 2.5]^2 each."""
    x = np.random.default_rng(2000 + seed + 500 * new).uniform(0.2, 2.5, (9, 48, 2))
    beta, delta = (v.reshape(9, 1) for v in np.meshgrid(*[(0.5, 0.75, 1.0)] * 2, indexing="ij"))
    y0, y1 = x[..., 0], x[..., 1]
    dy = np.stack([0.5 * y0 - beta * y0 * y1, delta * y0 * y1 - 0.5 * y1], axis=-1)
    return torch.as_tensor((x - 1.35) / 0.66).float(), torch.as_tensor(dy).float(), np.zeros(9, int)


def static_limit() -> None:
    """One family without parts, learned from its rates."""
    for scheme in ("one expert", "warmup", "paper"):
        for seed in range(4):

            def run(scheme: str = scheme, seed: int = seed) -> dict[str, Any]:
                found = static_run(scheme, seed, static_limit_data)
                return {k: v for k, v in found.items() if k != "ari"}

            store(f"static limit/{scheme}/{seed}", run)


def static() -> None:
    """Spec's table: which schemes find the families."""
    for scheme in ("warmup", "gradient", "warmup + gradient", "paper", "one expert"):
        for seed in SEEDS:
            store(f"static/{scheme}/{seed}", lambda s=scheme, k=seed: static_run(s, k))


# -- trajectories: three families, five environments of each, four trajectories ------------------

FAMILIES = ("harmonic_oscillator", "double_well", "duffing")
FIT = {
    "repeat": 96, "lr": 5e-3, "threads": 1, "progress": False,
}  # fmt: skip
SCHEMES: dict[str, dict[str, Any]] = {
    "warmup": {},
    "gradient": {"gating": "gradient"},
    "paper": {"gating": "paper"},
    "one expert": {"n_experts": 1},
}


def dataset(name: str, **options: Any) -> Path:
    """Make a dataset once."""
    path = WORK / name
    if not path.is_dir():
        opkit.generate("ode_families", out=path, progress=False, **options)
    return path


def families(seed: int) -> tuple[Path, Path]:
    """Training set, and a set of other parameters with one trajectory each to adapt to."""
    names = list(FAMILIES)
    train = dataset(
        f"families{seed}", n=60, n_valid=15, n_test=120, seed=10 + seed,
        set={"families": names, "n_environments": 5},
    )  # fmt: skip
    new = dataset(
        f"new{seed}", n=12, n_valid=12, n_test=96, seed=20 + seed,
        set={"families": names, "environments": "adaptation"},
    )  # fmt: skip
    return train, new


def trained(
    data: Path, scheme: str, seed: int, horizon: int, *, epochs: int = 16, **options: Any
) -> Path:
    """Train a scheme once."""
    run = WORK / f"{data.name}-{scheme.replace(' ', '-')}-{seed}"
    started = (run / "checkpoints" / "last.ckpt").is_file()
    if not started or len(opkit.load(run).history) < epochs:
        more = {"resume": True} if started else {"overwrite": True}
        opkit.fit(
            data, model="mixer", out=run, seed=seed, set=SCHEMES[scheme] | options,
            task={"horizon": horizon}, epochs=epochs, **FIT, **more,
        )  # fmt: skip
    return run


def judged(run: Path, data: Path) -> dict[str, Any]:
    """Errors on test, and how the environments are shared out."""
    m = opkit.evaluate(run, data, progress=False)
    return {
        "rel_l2_median": m["rel_l2"]["median"],
        "rel_l2_mean": m["rel_l2"]["mean"],
        "mse_median": m["mse"]["median"],
        "mse_mean": m["mse"]["mean"],
        "experts_used": m["experts_used"],
        "ari": m["adjusted_rand_index"],
        "blown_up": len(m["blown_up"]),
    }


def trajectories(schemes: Sequence[str] = ("warmup", "one expert")) -> None:
    """Partition and test errors."""
    for seed in SEEDS:
        for scheme in schemes:

            def run(scheme: str = scheme, seed: int = seed) -> dict[str, Any]:
                data, _ = families(seed)
                return judged(trained(data, scheme, seed, 4), data)

            store(f"trajectories/{scheme}/{seed}", run)


# -- adaptation: unseen parameters, one trajectory -----------------------------------------------


def adapt_run(seed: int) -> dict[str, Any]:
    """Errors on 8 other trajectories of each new environment, before and after."""
    data, new = families(seed)
    run = trained(data, "warmup", seed, 4)
    out = WORK / f"adapted{seed}"
    before = opkit.load(run)
    weights = {k: v.clone() for k, v in before.model.state_dict().items() if "bank" in k}
    op = opkit.adapt(run, new, out=out, steps=400, threads=1, overwrite=True, progress=False)
    same = all(torch.equal(v, weights[k]) for k, v in op.model.state_dict().items() if k in weights)
    found = judged(out, new)
    # the family of a training expert is the one of most of its environments
    owner = {}
    families_of = np.array(before.task.families)
    for k in np.unique(before.experts):
        kinds, count = np.unique(families_of[before.experts == k], return_counts=True)
        owner[int(k)] = kinds[count.argmax()]
    right = [owner.get(int(e)) == f for e, f in zip(op.experts, op.task.families, strict=True)]
    routed = op.experts.copy()
    op.model.contexts.values.data.zero_()
    op.model.assigned.fill_(-1)
    split = opkit.open_dataset(new)["test"]
    zero = errors_of(op, split)
    op.model.assigned.copy_(torch.as_tensor(routed))
    best = errors_of(op, split)
    return found | {
        "weights_identical": same,
        "routed_right": float(np.mean(right)),
        "mse_mean_zero_context": float(zero.mean()),
        "mse_mean_zero_context_right_expert": float(best.mean()),
        "improvement_of_mse": float(zero.mean() / found["mse_mean"]),
        "improvement_right_expert": float(best.mean() / found["mse_mean"]),
    }


def errors_of(op: Any, split: Any) -> np.ndarray:
    """Mean squared error of each trajectory."""
    a = op.task.read(split, np.arange(len(split)))
    return ((op(a.x[:, 0], a.times, a.environment) - a.x) ** 2).mean((1, 2))


def adapt() -> None:
    """Adaptation of each seed's model."""
    for seed in SEEDS:
        store(f"adapt/{seed}", lambda s=seed: adapt_run(s))


# -- the limit: nine related environments of one family -------------------------------------------


def limit(schemes: Sequence[str] = ("warmup", "one expert", "paper")) -> None:
    """Lotka-Volterra: one family, so that a single expert has all data."""
    for scheme in schemes:
        for seed in SEEDS:

            def run(scheme: str = scheme, seed: int = seed) -> dict[str, Any]:
                data = dataset(
                    f"lotka{seed}", n=36, n_valid=18, n_test=288, seed=30 + seed,
                    set={"families": ["lotka_volterra"]},
                )  # fmt: skip
                options = {} if scheme == "one expert" else {"n_experts": 3}
                run = trained(data, scheme, seed, 5, epochs=8, **options)
                return judged(run, data)

            store(f"limit/{scheme}/{seed}", run)


# -- cost of a step ------------------------------------------------------------------------------


#: How 64 systems are shared out: evenly; nearly all at the first expert and one at each of the
#: others; all at the first.
SPREADS: dict[str, Callable[[int], torch.Tensor]] = {
    "balanced": lambda e: torch.arange(64) % e,
    "skewed": lambda e: (torch.arange(64) - 64 + e).clamp_min(0),
    "all at one": lambda e: torch.zeros(64, dtype=torch.long),
}


def cost_run(n_experts: int, spread: str, per: int) -> dict[str, Any]:
    """CPU time of training steps over that of a single expert on the same batch, interleaved.

    64 environments, `per` trajectories of 6 times each, width 64; a MixER step alone, and with
    the gate's updates at their default rate. Median of ratios of neighbors.
    """
    torch.manual_seed(0)
    n = 64
    models = {}
    for name, e in (("single", 1), ("mixer", n_experts)):
        m = build_mixer(TrajectorySpec(2, n, None), n_experts=e)
        with torch.no_grad():
            m.contexts.values.normal_()
        m.assigned.copy_(SPREADS[spread](e))
        models[name] = (m, torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True))
    environments = torch.arange(n).repeat_interleave(per)
    x = torch.randn(n * per, 6, 2)
    times = (0.2 * torch.arange(6.0)).expand(n * per, 6)
    observed = torch.ones_like(x, dtype=torch.bool)

    def step(name: str) -> float:
        m, optimizer = models[name]
        start = time.process_time()
        optimizer.zero_grad()
        masked_mse(m(x[:, 0], times, environments), x, observed).mean().backward()
        optimizer.step()
        return time.process_time() - start

    gate = MetaTraining(models["mixer"][0], inner_steps=0, gate_every=1)

    def every() -> tuple[torch.Tensor, torch.Tensor]:
        m = models["mixer"][0]
        each = masked_mse(m.every_expert(x[:, 0], times, environments), x, observed)
        return torch.arange(n), each.view(n_experts, n, per).mean(2).T

    def update() -> float:
        start = time.process_time()
        gate.after_step(0, 1, every)
        return time.process_time() - start

    for _ in range(3):
        step("single"), step("mixer"), update()
    single, mixer, updates = [], [], []
    for _ in range(30 if per < 64 else 8):
        single.append(step("single"))
        mixer.append(step("mixer"))
        updates.append(update())
    single_, mixer_, update_ = map(np.array, (single, mixer, updates))
    return {
        "step": float(np.median(mixer_ / single_)),
        "step_p25_p75": np.percentile(mixer_ / single_, [25, 75]).round(3).tolist(),
        "update": float(np.median(update_ / single_)),
        "with_updates": float(np.median((mixer_ + update_ / max(12, 4 * n_experts)) / single_)),
    }


def cost() -> None:
    """Top-1 is sparse."""
    for per in (4, 16, 64):
        for e in (3, 10):
            for spread in SPREADS:
                key = f"cost/{64 * per} trajectories, {e} experts, {spread}"
                store(key, lambda e=e, s=spread, p=per: cost_run(e, s, p))


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs: dict[str, Callable[[], None]] = {
        "static": static,
        "cost": cost,
        "trajectories": trajectories,
        "adapt": adapt,
        "static_limit": static_limit,
        "limit": limit,
        "others": lambda: trajectories(("gradient", "paper")),
    }
    for name in sys.argv[1:] or jobs:
        jobs[name]()
