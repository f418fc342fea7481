"""A training step of MgNO against the authors' layout in plain torch, and against FNO.

Forward, backward and AdamW, alternating in one process, on one thread (seconds of the process) and
on two (seconds of the clock). The plain model is the authors' layout as `torch.nn` layers write
it; ours has its weights, and its answers are checked to be equal::

    python benchmarks/bench_mgno.py                 # ratios; a minute
    python benchmarks/bench_mgno.py --full          # sizes up to 256^2, and memory
    python benchmarks/bench_mgno.py --errors        # MgNO and FNO after equal epochs and seconds
    python benchmarks/bench_mgno.py --profile       # where the time goes
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import build_model, mgno_official
from models.spec import ModelSpec
from solvers.grids import Grid

RESULTS = Path(__file__).parent / "results" / "mgno_speed.json"


class PlainCycle(nn.Module):
    """The authors' Darcy cycle: a Conv2d for each A and S, R on f, u restricted too."""

    def __init__(self, n_f: int, n_u: int, smoothing: list[int]) -> None:
        super().__init__()

        def conv(i: int, o: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False)

        last = len(smoothing) - 1
        self.S = nn.ModuleList(nn.ModuleList(conv(n_f, n_u) for _ in range(k)) for k in smoothing)
        self.A = nn.ModuleList(
            nn.ModuleList(conv(n_u, n_f) for _ in range(k - (i == 0)))
            for i, k in enumerate(smoothing)
        )
        self.R = nn.ModuleList(conv(n_f, n_f, 2) for _ in range(last))
        self.Pi = nn.ModuleList(conv(n_u, n_u, 2) for _ in range(last))
        self.P = nn.ModuleList(
            nn.ConvTranspose2d(n_u, n_u, 4, stride=2, padding=1, bias=False) for _ in range(last)
        )

    def forward(self, f: Tensor) -> Tensor:
        """Apply the cycle."""
        right, found = [f], [self.S[0][0](f)]
        for i, (R, Pi) in enumerate(zip(self.R, self.Pi, strict=True)):
            f, u = R(right[-1]), Pi(found[-1])
            for A, S in zip(self.A[i + 1], self.S[i + 1], strict=True):
                u = u + S(f - A(u))
            right.append(f)
            found.append(u)
        for i in reversed(range(len(self.P))):
            found[i] = found[i] + self.P[i](found[i + 1])
        return found[0]


class PlainMgNO(nn.Module):
    """The authors' network for Darcy flow."""

    def __init__(self, channels: int, n_layers: int, smoothing: list[int]) -> None:
        super().__init__()
        sizes = [1] + [channels] * n_layers
        pairs = list(itertools.pairwise(sizes))
        self.cycles = nn.ModuleList(PlainCycle(i, o, smoothing) for i, o in pairs)
        self.pointwise = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in pairs)
        self.head = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network."""
        for cycle, local in zip(self.cycles, self.pointwise, strict=True):
            x = F.gelu(cycle(x) + local(x))
        return self.head(x)


def pair(n: int) -> tuple[nn.Module, nn.Module]:
    """Plain and ours with the same weights, on n x n points; the answers are compared."""
    settings = replace(mgno_official._SETTINGS["darcy_rough"], size=n)
    torch.manual_seed(0)
    plain = PlainMgNO(settings.hidden_channels, settings.n_layers, [1] * 5 + [2])
    ours = mgno_official.OfficialMgNO(settings)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, n, n)
    with torch.no_grad():
        a, b = plain(x), ours(x)
    difference = float((a - b).abs().max() / a.abs().max())
    if difference > 1e-5:
        raise RuntimeError(f"the two models differ by {difference}")
    return plain, ours


def fno(n: int) -> nn.Module:
    """Build the FNO of neuraloperator: 12 modes of either sign, 32 channels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.models import FNO
    return FNO(n_modes=(24, 24), in_channels=1, out_channels=1, hidden_channels=32, n_layers=4)


def our_mgno(n: int, **options: Any) -> nn.Module:
    """Build what `opkit fit -m mgno` takes for Darcy flow on n x n points."""
    spec = ModelSpec(1, 1, Grid.unit(n, dim=2), (("dirichlet",) * 2,) * 2, 0.0)
    return build_model("mgno", spec, options)[0]


def stepper(model: nn.Module, n: int, batch: int, fused: bool = False) -> Callable[[], None]:
    """One training step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(batch, 1, n, n, generator=generator) for _ in range(2))

    def step() -> None:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()

    return step


def alternate(
    steps: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each step, one after the other."""
    out: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(repeats + 2):
        for name, step in steps.items():
            start = clock()
            step()
            if k >= 2:
                out[name].append(clock() - start)
    return out


def speed(n: int, threads: int, repeats: int, batch: int) -> dict[str, Any]:
    """Medians and the ratios of the medians, of the smallest, and by pairs."""
    torch.set_num_threads(threads)
    plain, ours = pair(n)
    steps = {
        "plain": stepper(plain, n, batch),
        "ours": stepper(ours, n, batch),
        "ours, fused AdamW": stepper(ours, n, batch, fused=True),
        "default": stepper(our_mgno(n + 1), n + 1, batch),
        "default, solution": stepper(our_mgno(n + 1, continuation="solution"), n + 1, batch),
        "fno": stepper(fno(n), n, batch),
    }
    times = alternate(steps, repeats, time.process_time if threads == 1 else time.perf_counter)
    reference = times["plain"]
    out: dict[str, Any] = {"n": n, "threads": threads, "batch": batch}
    for name, t in times.items():
        by_pair = sorted(a / b for a, b in zip(reference, t, strict=True))
        out[name] = {
            "ms": round(1000 * statistics.median(t), 1),
            "ratio": round(statistics.median(by_pair), 2),
            "ratio_of_fastest": round(min(reference) / min(t), 2),
        }
        print(
            f"  {name:20s} {out[name]['ms']:8.1f} ms   plain / this: {out[name]['ratio']:.2f} "
            f"(fastest of each {out[name]['ratio_of_fastest']:.2f})"
        )
    return out


MEMORY = """
import re, sys, torch
sys.path.insert(0, {here!r})
import bench_mgno as b
torch.set_num_threads(1)
# of this process alone: what getrusage tells begins with the parent's
peak = lambda: int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
model = b.pair({n})[{which}]
step = b.stepper(model, {n}, {batch})
before = peak()
step(); step(); step()
print(peak() - before)
"""


def memory(n: int, batch: int) -> dict[str, Any]:
    """Peak memory that training adds, in MiB, in a process of its own for each (Linux)."""
    out: dict[str, Any] = {"n": n, "batch": batch}
    for which, name in enumerate(("plain", "ours")):
        code = MEMORY.format(here=str(Path(__file__).parent), n=n, which=which, batch=batch)
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        out[name] = round(float(run.stdout.split()[-1]), 1)
    print(f"  memory {n}^2: plain {out['plain']} MiB, ours {out['ours']} MiB")
    return out


def saved(n: int, batch: int) -> dict[str, Any]:
    """Bytes that autograd keeps for the backward pass, in MiB."""
    out: dict[str, Any] = {"n": n, "batch": batch}
    for name, model in zip(("plain", "ours"), pair(n), strict=True):
        kept: dict[int, int] = {}

        def pack(t: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(torch.randn(batch, 1, n, n))
        out[name] = round(sum(kept.values()) / 2**20, 1)
        del y
    print(f"  kept for the backward pass, {n}^2: plain {out['plain']} MiB, ours {out['ours']} MiB")
    return out


def errors() -> dict[str, Any]:
    """MgNO and neuraloperator's FNO on a small Darcy set: equal epochs, then equal seconds."""
    import opkit

    out: dict[str, Any] = {}
    models = {
        "mgno": ("mgno", {"hidden_channels": 16}),
        "fno": ("fno", {"n_modes": 24, "hidden_channels": 32}),
    }
    with tempfile.TemporaryDirectory() as tmp:
        data = Path(tmp) / "darcy"
        opkit.generate(
            "darcy", out=data, n=200, n_test=50, resolution=33, seed=5, progress=False,
            set={"preset": "mgno_rough", "solve_refinement": 4},
        )  # fmt: skip
        for budget in ({"epochs": 8}, {"max_seconds": 40.0}):
            for name, (model, options) in models.items():
                run = Path(tmp) / f"{name}-{next(iter(budget))}"
                opkit.fit(data, model=model, out=run, set=options, threads=1, accelerator="cpu",
                          progress=False, **budget)  # fmt: skip
                metrics = opkit.evaluate(run, data, compare=False, progress=False)
                rows = (run / "history.csv").read_text().split()
                key, value = next(iter(budget.items()))
                result = {
                    "rel_l2": round(metrics["rel_l2"]["mean"], 4),
                    "rel_h1": round(metrics["rel_h1"]["mean"], 4),
                    "epochs": len(rows) - 1,
                    "seconds": round(float(rows[-1].split(",")[-1]), 1),
                }
                out[f"{name}, {key} {value:g}"] = result
                print(f"  {name:5s} {key} {value:g}: {result}")
    return out


def profile(n: int, batch: int) -> None:
    """Where the time of a step goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorder

    torch.set_num_threads(1)
    for name, model in zip(("plain", "ours"), pair(n), strict=True):
        step = stepper(model, n, batch)
        step()
        with recorder(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(3):
                step()
        print(name)
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--threads", type=int, nargs="*", default=(1, 2))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if args.profile:
        profile(64, args.batch)
        return
    if args.errors:
        found["errors"] = errors()
    else:
        sizes = (64, 128, 256) if args.full else (64,)
        for n, threads in itertools.product(sizes, args.threads):
            repeats = max(3, args.repeats * 64 * 64 // n**2) if n > 128 else args.repeats
            print(f"{n}^2, batch {args.batch}, {threads} thread(s); 1.5 is asked of ours")
            found[f"step {n} {threads}"] = speed(n, threads, repeats, args.batch)
        found["saved 64"] = saved(64, args.batch)
        if args.full:
            found["memory 128"] = memory(128, args.batch)
        for name, result in found.get("errors", {}).items():
            print(f"  {name}: {result}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    import mgno_docs

    mgno_docs.write()


if __name__ == "__main__":
    main()
