"""DeepONet's experiments, made anew: generalization, sensors, PDEs, fair comparison, speed.

Data come from `opkit.generate`. Trainings go through `opkit.fit`, or with ``--loop plain`` through
a plain loop over the same task, learner, optimizer and schedule, which takes a third of the time
for nets as small as these. Each experiment leaves one JSON file in the work directory, so that an
interrupted benchmark goes on where it was.

    python benchmarks/bench_deeponet.py [--work DIR] [--only NAME,NAME...] [--seeds 3]
                                        [--loop fit|plain]

`step_deepxde` needs DeepXDE (pip install deepxde), which runs in a process of its own as importing
it changes global state; it is left out where it is not installed. Writes
benchmarks/results/deeponet.json and the table of docs/deeponet.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opkit.checkpoint import save_json
from opkit.fit import FitConfig, fit
from pde_data.hdf5 import open_dataset

RESULTS = Path(__file__).parent / "results" / "deeponet.json"
ODES = ("antiderivative", "nonlinear_ode", "gravity_pendulum")
#: Problem, parameters, samples (train, valid, test), resolution.
DATA: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], int | None]] = {
    **{p: (p, {}, (10_000, 500, 2000), None) for p in ODES},
    **{f"sensors_{m}": ("antiderivative", {"n_sensors": m}, (2000, 200, 2000), None)
       for m in (3, 4, 5)},
    "diffusion_reaction": ("deeponet_diffusion_reaction", {}, (500, 20, 100), None),
    "diffusion_reaction_fine": (
        "deeponet_diffusion_reaction", {"n_times": 201}, (1, 1, 100), 201
    ),
    "triangle": ("darcy_geometry", {"geometry": "triangle"}, (1900, 100, 100), 64),
    "notch": ("darcy_geometry", {}, (1900, 100, 100), 64),
}  # fmt: skip
#: Nets of the paper's ordinary differential equations: [m, 40, 40] and [1, 40, 40], relu.
SMALL = {"latent": 40, "branch_layers": [40], "trunk_layers": [40], "activation": "relu"}


class Bench:
    """Work directory: data, runs and results."""

    def __init__(self, work: Path, seeds: int, loop: str = "fit") -> None:
        self.work, self.seeds, self.loop = work, seeds, loop
        self.op: Any = None
        (work / "data").mkdir(parents=True, exist_ok=True)
        (work / "results").mkdir(exist_ok=True)

    def result(self, name: str) -> Any:
        """Return the result of an experiment, which runs unless it has."""
        path = self.work / "results" / f"{name}.json"
        if not path.is_file():
            start = time.process_time()
            found = EXPERIMENTS[name](self)
            save_json(path, {"result": found, "cpu_seconds": time.process_time() - start})
        return json.loads(path.read_text(encoding="utf-8"))["result"]

    def data(self, name: str) -> Path:
        """Dataset, generated when first asked for."""
        from pde_data.generate import GenerateConfig, generate

        path = self.work / "data" / name
        problem, params, (train, valid, test), resolution = DATA[name]
        if not _whole(path, {"train": train, "valid": valid, "test": test}):
            shutil.rmtree(path, ignore_errors=True)
            generate(
                GenerateConfig(
                    problem=problem, out=str(path), n=train, n_valid=valid, n_test=test,
                    params=params, resolution=resolution, error_fraction=0.0,
                    samples_per_shard=20_000,
                )
            )  # fmt: skip
        return path

    def train(self, data: str, model: str, seed: int, **settings: Any) -> dict[str, Any]:
        """Train, and look at the errors on test and at the points that were trained on."""
        out = self.work / "run"
        config = FitConfig(
            data=str(self.data(data)), model=model, out=str(out), seed=seed, overwrite=out.exists(),
            threads=1, weight_decay=0.0, **settings,
        )  # fmt: skip
        start = time.process_time()
        op = fit(config) if self.loop == "fit" else plain_fit(config)
        seconds = time.process_time() - start
        self.op = op
        errors = errors_on(op, config, "test")
        return {
            "test_mse": float(errors["mse"].mean()),
            "test_rel_l2": float(errors["rel_l2"].mean()),
            "test_rel_l2_median": float(errors["rel_l2"].median()),
            "train_mse": float(errors_on(op, config, "train")["mse"].mean()),
            "steps": config.epochs * config.repeat * -(-n_train(config) // config.batch_size),
            "parameters": op.n_parameters,
            "cpu_seconds": seconds,
            "loop": self.loop,
        }


def _whole(path: Path, counts: dict[str, int]) -> bool:
    """Whether a dataset is there with all its samples: an interrupted one is made anew."""
    if not (path / "dataset.json").is_file():
        return False
    dataset = open_dataset(path)
    return all(s in dataset and len(dataset[s]) == n for s, n in counts.items())


def n_train(config: FitConfig) -> int:
    """Count the training samples."""
    n = len(open_dataset(config.data)["train"])
    return min(n, config.n_train or n)


def plain_fit(config: FitConfig) -> Any:
    """Train as `opkit.fit` does, without files, checkpoints and Lightning."""
    import copy

    from models import build_model, get_model
    from opkit._lightning import learning_rate
    from opkit.data import BatchSampler
    from opkit.fit import _complete
    from opkit.tasks import get_task

    entry = get_model(config.model)
    kind = get_task(entry.task)
    config, options = _complete(config, entry, kind)
    dataset = open_dataset(config.data)
    task = kind.from_dataset(dataset, options)
    torch.manual_seed(config.seed)
    model, resolved = build_model(config.model, task.spec(), config.options)
    normalizer = task.fit_normalizer(dataset["train"], limit=config.n_train)
    task.prepare(model, dataset["train"], normalizer, limit=config.n_train)
    learner: Any = task.learner(model, normalizer, config)
    optimizer = learner.optimizer(config)
    train = task.data(dataset["train"], dtype=torch.float32, limit=config.n_train, train=True)
    valid = task.data(dataset["valid"], dtype=torch.float32)
    everything = valid[np.arange(len(valid))]
    sampler = BatchSampler(len(train), config.batch_size, seed=config.seed, repeat=config.repeat)
    total, step = config.epochs * len(sampler), 0
    best, kept = float("inf"), copy.deepcopy(model.state_dict())
    for epoch in range(config.epochs):
        sampler.set_epoch(epoch)
        for indices in sampler:
            rate = config.lr * learning_rate(config.scheduler, step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = learner.losses(*train[indices]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            error = float(learner.errors(*everything)["rel_l2"].mean())
        if error < best:
            best, kept = error, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    description = {"model": config.model, "options": resolved, "data": {"problem": ""}}
    return task.operator(model, normalizer, description, None)


def errors_on(op: Any, config: FitConfig, name: str) -> dict[str, torch.Tensor]:
    """Errors of each sample of a split; on train at the points that were trained on."""
    split = open_dataset(config.data)[name]
    own = name == "train"
    data = op.task.data(
        split, dtype=torch.float32, limit=config.n_train if own else None, train=own
    )
    learner = op.task.learner(op.model, op.module.normalizer, config)
    parts = []
    with torch.no_grad():
        for start in range(0, len(data), 256):
            batch = data[np.arange(start, min(len(data), start + 256))]
            parts.append(learner.errors(*batch))
    return {k: torch.cat([p[k] for p in parts]).double() for k in parts[0]}


def spread(values: list[float]) -> dict[str, Any]:
    """Median, mean and all values."""
    return {"median": statistics.median(values), "mean": statistics.fmean(values), "all": values}


def full(steps: int, n: int, batch: int) -> dict[str, Any]:
    """Train for about so many steps in ten epochs."""
    per_pass = -(-n // batch)
    return {"batch_size": batch, "epochs": 10, "repeat": max(1, round(steps / 10 / per_pass))}


# -- experiments -------------------------------------------------------------------------------


def generalization(
    bench: Bench, problem: str, widths: tuple[int, ...] = (100, 40, 256), *, large: bool = False
) -> dict[str, Any]:
    """DeepONet against FNN on one random point of each function.

    1,000 functions, 2,000 steps; or `large`, 10,000 and 20,000 as in the paper. The FNN of the
    paper's kind (two hidden layers) in some widths; all seeds of the first, one of the others. Of
    every training the weights that are best on valid are kept.
    """
    n, lr, activation = (10_000, 5e-3, "gelu") if large else (1000, 3e-3, "relu")
    steps = full(20_000, n, 1000) if large else full(2000, n, 500)
    common = {"n_train": n, "task": {"points": 1}, "lr": lr, **steps}
    out: dict[str, Any] = {}
    models: dict[str, tuple[str, dict[str, Any]]] = {
        "deeponet": ("deeponet", {**SMALL, "activation": activation}),
        **{f"fnn_{w}": ("fnn", {"layers": [w, w], "activation": activation}) for w in widths},
    }
    for name, (model, options) in models.items():
        seeds = bench.seeds if name in ("deeponet", f"fnn_{widths[0]}") else 1
        found = [bench.train(problem, model, s, options=options, **common) for s in range(seeds)]
        out[name] = {k: spread([f[k] for f in found]) for k in ("test_mse", "train_mse")}
        out[name]["gap"] = spread([f["test_mse"] - f["train_mse"] for f in found])
        out[name]["parameters"] = found[0]["parameters"]
        out[name]["cpu_seconds"] = found[0]["cpu_seconds"]
    fnns = [k for k in out if k.startswith("fnn")]
    ratios = {
        what: min(out[k][what]["median"] for k in fnns) / out["deeponet"][what]["median"]
        for what in ("test_mse", "gap")
    }
    return {**out, "best_fnn_over_deeponet": ratios}


def order(bench: Bench) -> dict[str, Any]:
    """Test error against the number of triples, m = 100, 2,000 steps.

    The largest set is that of `generalization`, trained in the same way.
    """
    out = {}
    for n in (250, 500):
        settings = {"n_train": n, "task": {"points": 1}, "lr": 3e-3, **full(2000, n, 500)}
        found = [
            bench.train("antiderivative", "deeponet", s, options=SMALL, **settings)
            for s in range(bench.seeds)
        ]
        out[n] = {k: spread([f[k] for f in found]) for k in ("test_mse", "train_mse")}
    largest = bench.result("generalization_antiderivative")["deeponet"]
    out[1000] = {k: largest[k] for k in ("test_mse", "train_mse")}
    errors = [v["test_mse"]["median"] for v in out.values()]
    slope = float(np.polyfit(np.log(list(out)), np.log(errors), 1)[0])
    return {"sizes": {str(n): v for n, v in out.items()}, "slope": slope}


def posterior_floor(m: int, *, length: float = 0.2, n: int = 401) -> float:
    """Variance of the antiderivative given u at m sensors, its mean over y in [0, 1].

    u is a Gaussian process with kernel ``exp(-(x - x')^2 / (2 length^2))``, s(y) its integral from
    0 to y; both covariances by Gauss quadrature.
    """
    x = np.linspace(0, 1, m)
    nodes, weights = np.polynomial.legendre.leggauss(60)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2) / (2 * length**2))

    ys, w = np.polynomial.legendre.leggauss(n // 8)
    total = 0.0
    inverse = np.linalg.inv(kernel(x, x))
    for y, wy in zip((ys + 1) / 2, w / 2, strict=True):
        z, wz = y * (nodes + 1) / 2, y * weights / 2
        variance = wz @ kernel(z, z) @ wz
        cross = wz @ kernel(z, x)
        total += wy * (variance - cross @ inverse @ cross)
    return float(total)


def sensors(bench: Bench) -> dict[str, Any]:
    """Test error against the least that m sensors allow; 2,000 triples."""
    out = {}
    for m in (3, 4, 5):
        floor = posterior_floor(m)
        found = [
            bench.train(
                f"sensors_{m}", "deeponet", s, options=SMALL, task={"points": 1}, lr=3e-3,
                **full(2000, 2000, 1000),
            )["test_mse"]
            for s in range(1)
        ]  # fmt: skip
        out[str(m)] = {"floor": floor, "test_mse": spread(found),
                       "over_floor": spread([f / floor for f in found])}  # fmt: skip
    return out


def paper_size(bench: Bench, problem: str) -> dict[str, Any]:
    """10,000 triples as in the paper, m = 100, and as many steps, of a tenth of the triples."""
    return bench.train(
        problem, "deeponet", 0, task={"points": 1}, lr=5e-3,
        options={**SMALL, "activation": "gelu"}, **full(50_000, 10_000, 1000),
    )  # fmt: skip


def diffusion_reaction(bench: Bench) -> dict[str, Any]:
    """200 functions at 100 points each; new functions, on the grid and off it.

    The solution is almost linear in the source, so a branch without hidden layers on principal
    components is the first choice; one seed with the paper's branch, and of the FNN on components.
    """
    settings = {"n_train": 200, "lr": 5e-3, **full(6000, 200, 20)}
    net = {"latent": 100, "trunk_layers": [100, 100], "activation": "relu"}
    fnn = {"layers": [100, 100, 100], "activation": "gelu"}
    models = {
        "deeponet": ("deeponet", {**net, "branch_layers": []}, 12, bench.seeds),
        "deeponet_deep": ("deeponet", {**net, "branch_layers": [100, 100]}, None, 1),
        "fnn": ("fnn", fnn, None, bench.seeds),
        "fnn_components": ("fnn", fnn, 12, 1),
    }
    out: dict[str, Any] = {}
    for name, (model, options, modes, seeds) in models.items():
        found = []
        for s in range(seeds):
            r = bench.train(
                "diffusion_reaction", model, s, options=options,
                task={"points": 100, "input_modes": modes}, **settings,
            )  # fmt: skip
            r["off_grid_rel_l2_median"] = off_grid(bench.op, bench.data("diffusion_reaction_fine"))
            found.append(r)
        keys = ("test_rel_l2_median", "test_mse", "train_mse", "off_grid_rel_l2_median")
        out[name] = {k: spread([f[k] for f in found]) for k in keys}
        out[name]["gap"] = spread([f["test_mse"] - f["train_mse"] for f in found])
    return out


def off_grid(op: Any, fine: Path) -> float:
    """Median relative L2 error at points of a grid twice as fine that lie on no coarse point."""
    split = open_dataset(fine)["test"]
    values = split.read(np.arange(len(split)))
    u, s = values["u"][:, ::2], values["s"][:, 1::2, 1::2]
    x, t = split.schema.grid.coords[0][1::2], np.array(split.schema.time)[1::2]
    y = np.stack([a.ravel() for a in np.meshgrid(x, t, indexing="xy")], axis=1)
    got = op(u, y).reshape(s.shape)
    errors = np.linalg.norm((got - s).reshape(len(s), -1), axis=1)
    return float(np.median(errors / np.linalg.norm(s.reshape(len(s), -1), axis=1)))


def geometry(bench: Bench, data: str) -> dict[str, Any]:
    """Darcy flow with varying boundary values, 1,900 functions.

    The outputs are standardized at each point as in the paper. The solution is an affine function
    of the boundary values, so a branch without hidden layers suffices, on principal components.
    """
    return bench.train(
        data, "deeponet", 0, batch_size=100, lr=5e-3, epochs=10, repeat=84,
        options={"latent": 100, "branch_layers": [], "trunk_layers": [128, 128, 128],
                 "activation": "relu"},
        task={"queries": 128, "scaling": "pointwise", "input_modes": 12},
    )  # fmt: skip


def geometry_pod(bench: Bench, data: str) -> dict[str, Any]:
    """Do the same by POD-DeepONet: the branch has to reach q times the coefficients."""
    return bench.train(
        data, "pod_deeponet", 0, options={"modes": 20, "branch_layers": []},
        task={"input_modes": 12}, batch_size=100, lr=0.1, epochs=10, repeat=10,
    )  # fmt: skip


def geometry_paper(bench: Bench, data: str) -> dict[str, Any]:
    """Train the paper's nets, [101, 128, 128, 100] and [2, 128, 128, 128, 100]."""
    nets = {"latent": 100, "branch_layers": [128, 128], "trunk_layers": [128, 128, 128],
            "activation": "relu"}  # fmt: skip
    common = {"batch_size": 100, "lr": 5e-3, "epochs": 10}
    return {
        "deeponet": bench.train(
            data, "deeponet", 0, options=nets, repeat=84,
            task={"queries": 128, "scaling": "pointwise"}, **common,
        ),
        "pod_deeponet": bench.train(
            data, "pod_deeponet", 0, options={"modes": 20, "branch_layers": [128, 128]},
            repeat=52, **common,
        ),
    }  # fmt: skip


# -- speed -------------------------------------------------------------------------------------

#: Functions, sensors, points, width.
SPEED = ((150, 100, 100, 40), (1000, 100, 100, 40), (150, 100, 2500, 128))
ROUNDS, STEPS = 7, 60
#: A process that trains with DeepXDE when a line asks it to, and answers seconds a step.
_DEEPXDE = """
import contextlib, io, json, sys, time
import numpy as np
import deepxde as dde
import torch
torch.set_num_threads(1)
b, m, n, w, steps = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.standard_normal((b, m)).astype("f4"), rng.random((n, 1)).astype("f4")
y = rng.standard_normal((b, n)).astype("f4")
with contextlib.redirect_stdout(io.StringIO()):
    data = dde.data.TripleCartesianProd(x, y, (x[0][:1], x[1]), y[:1])
    net = dde.nn.DeepONetCartesianProd([m, w, w], [1, w, w], "relu", "Glorot normal")
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3)
    model.train(iterations=10, display_every=10**9)
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.process_time()
        model.train(iterations=steps, display_every=10**9)
        seconds = (time.process_time() - start) / steps
    print("seconds", seconds, flush=True)
"""


def step_deepxde(bench: Bench) -> dict[str, Any] | str:
    """Seconds of a full-batch step, CPU time of one thread; rounds of all three take turns.

    DeepXDE's includes what `Model.train` does once a call (its losses before and after), spread
    over the steps; ours of `opkit.fit` all that it does for each step.
    """
    if importlib.util.find_spec("deepxde") is None:
        return "DeepXDE is not installed"
    out = {}
    for b, m, n, w in SPEED:
        times = speed(bench, b, m, n, w)
        ratios = {
            f"deepxde_over_{k}": spread(
                [x / y for x, y in zip(times["deepxde"], times[k], strict=True)]
            )
            for k in ("plain_step", "opkit_fit")
        }
        median = {k: statistics.median(v) for k, v in times.items()}
        name = f"{b} functions, {m} sensors, {n} points, width {w}"
        out[name] = {"seconds": median, **ratios}
    return out


def speed(bench: Bench, b: int, m: int, n: int, w: int) -> dict[str, list[float]]:
    """Seconds of a step in `opkit.fit`; between its rounds those of the others."""
    out = bench.work / "speed"
    config = FitConfig(
        data=str(synthetic(bench, b, m, n)), model="deeponet", out=str(out),
        overwrite=out.exists(), epochs=1, repeat=10 + ROUNDS * STEPS, batch_size=b, threads=1,
        scheduler="constant", lr=1e-3,
        options={"latent": w, "branch_layers": [w], "trunk_layers": [w], "activation": "relu",
                 "hard": "none"},
    )  # fmt: skip
    times: dict[str, list[float]] = {"deepxde": [], "plain_step": [], "opkit_fit": []}
    plain = plain_steps(b, m, n, w)
    env = {**os.environ, "DDE_BACKEND": "pytorch", "OMP_NUM_THREADS": "1"}
    argument = json.dumps([b, m, n, w, STEPS])
    with subprocess.Popen(
        [sys.executable, "-c", _DEEPXDE, argument], env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as peer:  # fmt: skip
        ask, answers = peer.stdin, peer.stdout
        assert ask is not None and answers is not None

        def deepxde() -> float:
            ask.write("go\n")
            ask.flush()
            for line in answers:
                if line.startswith("seconds "):
                    return float(line.split()[1])
            raise RuntimeError("DeepXDE ended early")

        start = 0.0

        def watch(done: int, total: int, note: str) -> None:
            nonlocal start
            if (done - 10) % STEPS:
                return
            if done > 10:
                times["opkit_fit"].append((time.process_time() - start) / STEPS)
                times["plain_step"].append(plain())
                times["deepxde"].append(deepxde())
            start = time.process_time()

        fit(config, progress=watch)
        ask.close()
    return times


def plain_steps(b: int, m: int, n: int, w: int) -> Callable[[], float]:
    """Return a function that takes some steps in a plain loop: seconds a step."""
    from models.deeponet import DeepONet

    model = DeepONet(m, 1, w, (w,), (w,), "relu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    u, y, s = torch.randn(b, m), torch.rand(n, 1), torch.randn(b, n)

    def run() -> float:
        start = time.process_time()
        for _ in range(STEPS):
            loss = torch.nn.functional.mse_loss(model(u, y), s)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.process_time() - start) / STEPS

    run()
    return run


def synthetic(bench: Bench, b: int, m: int, n: int) -> Path:
    """Antiderivatives at n times."""
    from pde_data.generate import GenerateConfig, generate

    path = bench.work / "data" / f"speed_{b}_{m}_{n}"
    if not (path / "dataset.json").is_file():
        generate(
            GenerateConfig(
                problem="antiderivative", out=str(path), n=b, n_valid=1, n_test=1, resolution=n,
                params={"n_sensors": m}, error_fraction=0.0,
            )
        )  # fmt: skip
    return path


EXPERIMENTS: dict[str, Callable[[Bench], Any]] = {
    "sensors": sensors,
    "order": order,
    "generalization_antiderivative": lambda b: generalization(b, "antiderivative"),
    "generalization_gravity_pendulum": lambda b: generalization(b, "gravity_pendulum", (100,)),
    "generalization_nonlinear_ode": lambda b: generalization(b, "nonlinear_ode", (100,)),
    "large_nonlinear_ode": lambda b: generalization(b, "nonlinear_ode", (100,), large=True),
    **{f"paper_{p}": (lambda b, p=p: paper_size(b, p)) for p in ODES if p != "nonlinear_ode"},
    "triangle": lambda b: geometry(b, "triangle"),
    "notch": lambda b: geometry(b, "notch"),
    "triangle_pod": lambda b: geometry_pod(b, "triangle"),
    "notch_pod": lambda b: geometry_pod(b, "notch"),
    "diffusion_reaction": diffusion_reaction,
    "triangle_paper_nets": lambda b: geometry_paper(b, "triangle"),
    "notch_paper_nets": lambda b: geometry_paper(b, "notch"),
    "step_deepxde": step_deepxde,
}


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Say what was measured, and beside it what was published or asked, for docs/deeponet.md."""
    out = []

    def has(name: str) -> Any:
        return found[name]["result"] if name in found else None

    titles = {p: p.replace("_", " ") for p in ODES}
    for p, key, n in [*((p, f"generalization_{p}", "1,000") for p in ODES),
                      ("nonlinear_ode", "large_nonlinear_ode", "10,000")]:  # fmt: skip
        if r := has(key):
            d, ratio = r["deeponet"], r["best_fnn_over_deeponet"]
            out.append(
                (
                    f"{titles[p]}, {n} functions: test (training) error, "
                    f"{len(d['test_mse']['all'])} seeds",
                    f"{d['test_mse']['median']:.1e} ({d['train_mse']['median']:.1e})",
                    f"best FNN: {ratio['test_mse']:.2g} times that, its gap {ratio['gap']:.2g} "
                    "times",
                )
            )
    if r := has("order"):
        sizes = ", ".join(f"{n}: {v['test_mse']['median']:.1e}" for n, v in r["sizes"].items())
        out.append((f"antiderivative by functions, {sizes}", f"slope {r['slope']:.2f}", "<= -1"))
    if r := has("sensors"):
        for m, v in r.items():
            out.append(
                (
                    f"antiderivative, {m} sensors, 2,000 functions",
                    f"{v['test_mse']['median']:.2e}, {v['over_floor']['median']:.2f} times the "
                    "least possible",
                    "0.95 to 1.6",
                )
            )
    published = {"antiderivative": "published 9.3e-7"}
    for p in ODES:
        if r := has(f"paper_{p}"):
            out.append(
                (
                    f"{titles[p]}, 10,000 functions: test (training) error",
                    f"{r['test_mse']:.1e} ({r['train_mse']:.1e})",
                    published.get(p, ""),
                )
            )
    if r := has("diffusion_reaction"):
        d, deep, f, fc = (
            100 * r[k]["test_rel_l2_median"]["median"]
            for k in ("deeponet", "deeponet_deep", "fnn", "fnn_components")
        )
        off = r["deeponet"]["off_grid_rel_l2_median"]["median"]
        n = len(r["deeponet"]["test_mse"]["all"])
        out.append(
            (
                f"diffusion-reaction, 200 functions x 100 points, relative L2 ({n} seeds)",
                f"{d:.2f} %, off the grid {100 * off:.2f} %; with the paper's branch {deep:.2f} %",
                f"FNN {f:.2f} %, on principal components {fc:.2f} %; asked < 10 % and half of FNN",
            )
        )
    limits = {"triangle": (0.43, 0.18), "notch": (2.64, 1.00)}
    for name, asked in limits.items():
        own = "linear branch on principal components"
        both = has(name + "_paper_nets") or {}
        parts = [
            ("DeepONet", own, has(name), asked[0]),
            ("POD-DeepONet", own, has(name + "_pod"), asked[1]),
            ("DeepONet", "nets of the paper", both.get("deeponet"), asked[0]),
            ("POD-DeepONet", "fully connected branch", both.get("pod_deeponet"), asked[1]),
        ]
        for model, what, r, limit in parts:
            if r:
                out.append(
                    (
                        f"Darcy on {name}, 1,900 functions, relative L2, {model}, {what}",
                        f"{100 * r['test_rel_l2']:.3f} %",
                        f"published {limit:.2f} %",
                    )
                )
    r = has("step_deepxde")
    for name, v in r.items() if isinstance(r, dict) else ():
        plain, fitted = (v[f"deepxde_over_{k}"]["median"] for k in ("plain_step", "opkit_fit"))
        out.append(
            (
                f"DeepXDE's time for a step over ours, {name}",
                f"{plain:.2f}; through `opkit fit` {fitted:.2f}",
                "1.5",
            )
        )
    return out


def write_docs(found: dict[str, Any]) -> None:
    """Replace the table of docs/deeponet.md."""
    page = Path(__file__).parents[1] / "docs" / "deeponet.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- measured -->\n")
    _, _, after = rest.partition("<!-- end -->")
    lines = ["| | measured | beside it |", "|---|---|---|"]
    lines += [f"| {a} | {b} | {c} |" for a, b, c in rows(found)]
    page.write_text(
        f"{before}<!-- measured -->\n" + "\n".join(lines) + f"\n<!-- end -->{after}",
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench_deeponet"))
    parser.add_argument("--only", default=",".join(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--loop", choices=("fit", "plain"), default="fit")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(args.work, args.seeds, args.loop)
    for name in args.only.split(","):
        if name not in EXPERIMENTS:
            parser.error(f"--only {name}: need {', '.join(EXPERIMENTS)}")
        sys.stdout.write(f"{name} {json.dumps(bench.result(name))}\n")
        sys.stdout.flush()
    found = {
        name: json.loads(p.read_text(encoding="utf-8"))
        for name in EXPERIMENTS
        if (p := bench.work / "results" / f"{name}.json").is_file()
    }
    RESULTS.parent.mkdir(exist_ok=True)
    save_json(RESULTS, found)
    write_docs(found)


if __name__ == "__main__":
    main()
