"""Networks turned into operators: errors on grids and meshes that the training has not seen.

    python benchmarks/bench_nn_to_no.py [grids|meshes|all] [--seeds 3] [--directory DIR] [--out FILE]

``grids``: a CNN and a U-Net learn one step of the Allen-Cahn equation (periodic, u at t=0 to u at
t=2; the solver's own solutions) at 32^2 alone, or with each batch at 32^2 or 64^2. They are tested
at 32^2, 64^2 and 128^2 on the same functions: converted, plain with the same weights, and behind
interpolation to the training grid with the right coordinates.

``meshes``: `OperatorGNN`, `PointTransformer` and their unweighted twins learn Darcy flow on an
L-shape on one DOLFINx mesh and are tested on meshes of twice and four times as many nodes and on
one refined in a part of the domain.

Figures go to ``benchmarks/results/nn_to_no.json``; what is compared is measured in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.nn_to_no import (
    InputOutputInterpolation,
    OperatorGNN,
    PointTransformer,
    grid,
    to_operator,
)
from models.nn_to_no.networks import CNN, UNet
from solvers.grids import Grid

RESULTS = Path(__file__).parent / "results" / "nn_to_no.json"
EPSILON, T_END = 0.04, 2.0
REFERENCE = grid((32, 32), layout="periodic")
STEPS = {"one": 500, "two": 600}


def save(out: Path, part: str, content: Any) -> None:
    """Put one part into the file of results."""
    stored = json.loads(out.read_text()) if out.is_file() else {}
    stored[part] = content
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(stored, indent=1) + "\n")


# -- grids -----------------------------------------------------------------------------------------


def allen_cahn(directory: Path, name: str, resolution: int, sizes: dict[str, int], seed: int) -> Any:
    """Dataset of one step, made if it is not there."""
    import opkit
    from pde_data.hdf5 import open_dataset

    path = directory / name
    if not path.exists():
        opkit.generate(
            "allen_cahn", out=str(path), resolution=resolution, seed=seed, error_fraction=0.0,
            params={
                "epsilon": EPSILON, "t_end": T_END, "n_times": 2, "n_modes": 8, "alpha": 4,
                "time_rtol": 1e-4,
            },
            **sizes,
        )  # fmt: skip
    return open_dataset(path)


def step_pairs(split: Any) -> tuple[Tensor, Tensor]:
    """Fields at the first and the last stored time, float32, (n, 1, *n)."""
    name = split.schema.outputs[0]
    index = np.arange(len(split))
    a, b = (
        torch.as_tensor(split.read(index, [name], window=w)[name][:, 0])[:, None].float()
        for w in (slice(0, 1), slice(-1, None))
    )
    return a, b


def at(u: Tensor, n: int) -> Tensor:
    """Every k-th point of a periodic field."""
    k = u.shape[-1] // n
    return u[..., ::k, ::k].contiguous()


def relative(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean relative L2 error; all points of a periodic grid weigh the same."""
    with torch.no_grad():
        p = torch.cat([model(part) for part in x.split(8)])
    return float(((p - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean())


def train(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], steps: int, lr: float
) -> float:
    """Adam, relative L2 loss, one cycle of the learning rate; returns seconds of processor time."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    start = time.process_time()
    for _ in range(steps):
        x, y = next(batches)
        loss = ((model(x) - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return time.process_time() - start


def draw(
    x: Tensor, y: Tensor, sizes: list[int], seed: int, batch: int = 8
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, each at one of the resolutions; as many points in each."""
    g = torch.Generator().manual_seed(seed)
    data = {n: (at(x, n), at(y, n)) for n in sizes}
    while True:
        n = sizes[int(torch.randint(len(sizes), (), generator=g))]
        size = max(2, batch * min(sizes) ** 2 // n**2)
        index = torch.randint(len(x), (size,), generator=g)
        yield data[n][0][index], data[n][1][index]


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Plain networks on the reference grid."""
    return {
        "cnn": lambda: CNN(1, 1, grid=REFERENCE, hidden_channels=16, n_layers=3, kernel_size=7),
        "unet": lambda: UNet(1, 1, grid=REFERENCE, hidden_channels=12, n_levels=2),
    }


def zero_shot(directory: Path, seeds: int, out: Path) -> None:
    """Train at one and at two resolutions, test at three."""
    train_set = allen_cahn(directory, "ac64", 64, {"n": 256, "n_valid": 16, "n_test": 1}, 1)
    test_set = allen_cahn(directory, "ac128", 128, {"n": 1, "n_valid": 1, "n_test": 40}, 2)
    x, y = step_pairs(train_set["train"])
    xt, yt = step_pairs(test_set["test"])
    tests = {n: (at(xt, n), at(yt, n)) for n in (32, 64, 128)}
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for name, build in networks().items():
            for regime, sizes in (("one", [32]), ("two", [32, 64])):
                torch.manual_seed(seed)
                net = build()
                op = to_operator(net, reference=REFERENCE)
                seconds = train(op, draw(x, y, sizes, seed), STEPS[regime], 4e-3)
                net.load_state_dict(op.state_dict())
                methods: dict[str, nn.Module] = {"converted": op}
                if regime == "one":
                    methods |= {
                        "plain": net,
                        "resize": InputOutputInterpolation(net, REFERENCE, "linear"),
                        "resize_fourier": InputOutputInterpolation(net, REFERENCE, "fourier"),
                    }
                for method, model in methods.items():
                    errors = {n: relative(model, *tests[n]) for n in tests}
                    row = {
                        "seed": seed, "network": name, "trained_at": sizes, "method": method,
                        "error": {str(n): e for n, e in errors.items()},
                        "ratio_64": errors[64] / errors[32],
                        "ratio_128": errors[128] / errors[32],
                        "train_cpu_seconds": seconds,
                    }  # fmt: skip
                    rows.append(row)
                    print(
                        f"seed {seed} {name:5s} {sizes!s:9s} {method:15s} "
                        + " ".join(f"{n}: {100 * e:6.2f} %" for n, e in errors.items())
                        + f"   x{row['ratio_64']:.2f} x{row['ratio_128']:.2f}",
                        flush=True,
                    )
                content = {
                    "problem": "allen_cahn", "epsilon": EPSILON, "t_end": T_END,
                    "n_train": len(x), "n_test": len(xt), "steps": STEPS, "rows": rows,
                    "summary": summary(rows),
                }  # fmt: skip
                save(out, "grids", content)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, smallest and largest ratio over the seeds."""
    found = []
    keys = dict.fromkeys((r["network"], tuple(r["trained_at"]), r["method"]) for r in rows)
    for key in keys:
        mine = [r for r in rows if (r["network"], tuple(r["trained_at"]), r["method"]) == key]
        entry: dict[str, Any] = {
            "network": key[0], "trained_at": list(key[1]), "method": key[2], "seeds": len(mine),
        }  # fmt: skip
        for n in ("32", "64", "128"):
            entry[f"error_{n}"] = statistics.fmean(r["error"][n] for r in mine)
        for k in ("ratio_64", "ratio_128"):
            values = [r[k] for r in mine]
            entry[k] = [min(values), statistics.fmean(values), max(values)]
        found.append(entry)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", nargs="?", default="all", choices=["grids", "meshes", "all"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="for the data; default a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        if args.part in ("grids", "all"):
            zero_shot(directory, args.seeds, args.out)
        if args.part in ("meshes", "all"):
            meshes(directory, args.seeds, args.out)


if __name__ == "__main__":
    main()
