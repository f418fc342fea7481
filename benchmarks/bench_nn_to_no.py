"""Networks turned into operators: errors on grids and meshes that the training has not seen.

    python benchmarks/bench_nn_to_no.py [grids|meshes|all] [--seeds 3] [--directory DIR]

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

RESULTS = Path(__file__).parent / "results" / "nn_to_no.json"
EPSILON, T_END = 0.04, 2.0
REFERENCE = grid((32, 32), layout="periodic")
STEPS = {"one": 400, "two": 400}


def known_rows(out: Path, part: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run with the same settings."""
    stored = json.loads(out.read_text()).get(part, {}) if out.is_file() else {}
    same = all(stored.get(k) == v for k, v in settings.items())
    return list(stored.get("rows", [])) if same else []


def save(out: Path, part: str, content: Any) -> None:
    """Put one part into the file of results."""
    stored = json.loads(out.read_text()) if out.is_file() else {}
    stored[part] = content
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(stored, indent=1) + "\n")


# -- grids -----------------------------------------------------------------------------------------


def allen_cahn(
    directory: Path, name: str, resolution: int, sizes: dict[str, int], seed: int
) -> Any:
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
    settings = {
        "problem": "allen_cahn", "epsilon": EPSILON, "t_end": T_END,
        "n_train": len(x), "n_test": len(xt), "steps": STEPS,
    }  # fmt: skip
    rows = known_rows(out, "grids", settings)
    done = {(r["seed"], r["network"], len(r["trained_at"])) for r in rows}
    for seed in range(seeds):
        for name, build in networks().items():
            for regime, sizes in (("one", [32]), ("two", [32, 64])):
                if (seed, name, len(sizes)) in done:
                    continue
                torch.manual_seed(seed)
                net = build()
                op = to_operator(net, reference=REFERENCE)
                seconds = train(op, draw(x, y, sizes, seed), STEPS[regime], 4e-3)
                net.load_state_dict(op.state_dict())
                methods: dict[str, nn.Module] = {"converted": op}
                if regime == "one":
                    hats = to_operator(net, reference=REFERENCE, interpolation="linear")
                    methods |= {
                        "converted_linear": hats,
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
                save(out, "grids", {**settings, "rows": rows, "summary": summary(rows)})


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


# -- meshes ----------------------------------------------------------------------------------------

MESHES = {"trained": 30, "twice": 42, "four_times": 60}
#: Steps and largest learning rate.
MESH_TRAINING = {"gnn": (400, 1e-2), "transformer": (800, 4e-3)}
#: Of the balls, in mesh widths of the training mesh, and as many nearest neighbors.
RADIUS, NEAREST = 3.0, 28


def l_shape_refined(size: float) -> Any:
    """Triangles of an L-shape, eight times finer about the corner that points inwards."""
    from solvers.fenicsx import triangulate
    from solvers.fenicsx.geometry import Domain, polygon

    near = 0.5 + 0.25 * np.linspace(0, 1, round(0.25 / (size / 8)) + 1)
    corners = [(0, 0), (1, 0), (1, 0.5)]
    corners += [(x, 0.5) for x in near[::-1]] + [(0.5, y) for y in near[1:]]
    corners += [(0.5, 1), (0, 1)]
    return triangulate(Domain(polygon(corners, names="outer")), size)


def mesh_samples(directory: Path, dataset: Any) -> dict[str, Any]:
    """Test functions solved on each mesh: name -> (a, u, points, weights)."""
    from pde_data.problem import get_problem

    problem: Any = get_problem("darcy_geometry", **dataset.config["params"])
    seeds = dataset["test"].quality("seed")
    found = {}
    for name in (*MESHES, "locally_refined"):
        path = directory / f"lshape_{name}.npz"
        if not path.is_file():
            if name == "locally_refined":
                mesh = l_shape_refined(problem.mesh_size((MESHES["trained"],)))
            else:
                mesh = problem.triangulation(None, (MESHES[name],))
            a, u = [], []
            for seed in seeds:
                inputs = problem.sample(np.random.default_rng(int(seed)))
                values, _, _ = problem.compute(inputs, mesh, 1e-10)
                a.append(values["a"])
                u.append(values["u"])
            m = mesh.mesh()
            np.savez(path, a=a, u=u, points=m.points, weights=m.point_weights)
        with np.load(path) as stored:
            found[name] = {k: torch.as_tensor(stored[k]).float() for k in stored.files}
    return found


def mesh_models(bounds: Any, spacing: float) -> dict[str, Callable[[], nn.Module]]:
    """Operators and their twins that count points alike."""
    graph: dict[str, Any] = {
        "bounds": bounds, "radius": RADIUS * spacing, "hidden_channels": 24, "n_layers": 3,
    }  # fmt: skip
    transformer: dict[str, Any] = {
        "bounds": bounds, "hidden_channels": 48, "n_layers": 3, "kind": "linear",
    }  # fmt: skip
    return {
        "gnn": lambda: OperatorGNN(1, 1, **graph),
        "gnn_knn_unweighted": lambda: OperatorGNN(1, 1, weighted=False, knn=NEAREST, **graph),
        "transformer": lambda: PointTransformer(1, 1, **transformer),
        "transformer_unweighted": lambda: PointTransformer(1, 1, weighted=False, **transformer),
    }


def mesh_relative(model: Any, x: Tensor, y: Tensor, points: Tensor, w: Tensor) -> Tensor:
    """Quadrature-weighted relative L2 error of each sample, (b, P, 1)."""
    e = ((model(x, points, w) - y).square()[..., 0] * w).sum(1)
    return (e / (y.square()[..., 0] * w).sum(1)).sqrt()


def meshes(directory: Path, seeds: int, out: Path) -> None:
    """Train on one mesh, test on others."""
    import opkit
    from opkit.tasks.mesh import MeshTask
    from pde_data.hdf5 import open_dataset

    path = directory / "lshape"
    if not path.exists():
        opkit.generate(
            "darcy_geometry", out=str(path), n=160, n_valid=12, n_test=24,
            resolution=MESHES["trained"], seed=3, error_fraction=0.0,
            params={"geometry": "l_shape", "varying": "coefficient", "tau": 3},
        )  # fmt: skip
    dataset = open_dataset(path)
    task = MeshTask.from_dataset(dataset, None)
    xs, ys = task.read(dataset["train"], np.arange(len(dataset["train"])))
    x = torch.as_tensor(np.log(np.stack(xs))).float()
    y = torch.as_tensor(np.stack(ys)).float()
    size = y.std()
    y = y / size
    mesh = dataset["train"].mesh(0)
    points = torch.as_tensor(mesh.points).float()
    w = torch.as_tensor(mesh.point_weights).float()
    tests = mesh_samples(directory, dataset)
    settings = {
        "problem": "darcy_geometry l_shape, varying coefficient, log a to u",
        "nodes": {k: len(s["points"]) for k, s in tests.items()},
        "n_train": len(x), "n_test": len(tests["trained"]["a"]),
        "training": {k: list(v) for k, v in MESH_TRAINING.items()},
        "radius": RADIUS, "nearest": NEAREST,
    }  # fmt: skip
    rows = known_rows(out, "meshes", settings)
    done = {(r["seed"], r["model"]) for r in rows}
    for seed in range(seeds):
        for name, build in mesh_models(task.bounds, task.spacing).items():
            if (seed, name) in done:
                continue
            torch.manual_seed(seed)
            model = build()
            steps, lr = MESH_TRAINING[name.split("_")[0]]
            optimizer = torch.optim.Adam(model.parameters(), lr=lr)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, lr, total_steps=steps, pct_start=0.1
            )
            g = torch.Generator().manual_seed(seed)
            start = time.process_time()
            for _ in range(steps):
                index = torch.randint(len(x), (4,), generator=g)
                loss = mesh_relative(model, x[index], y[index], points, w).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            seconds = time.process_time() - start
            errors = {}
            with torch.no_grad():
                for test, s in tests.items():
                    found = [
                        mesh_relative(
                            model, s["a"][k : k + 4].log()[..., None],
                            s["u"][k : k + 4][..., None] / size, s["points"], s["weights"],
                        )
                        for k in range(0, len(s["a"]), 4)
                    ]  # fmt: skip
                    errors[test] = float(torch.cat(found).mean())
            row = {
                "seed": seed, "model": name, "error": errors,
                "ratio": {k: errors[k] / errors["trained"] for k in errors if k != "trained"},
                "train_cpu_seconds": seconds,
            }  # fmt: skip
            rows.append(row)
            print(
                f"seed {seed} {name:23s} "
                + " ".join(f"{k}: {100 * e:.2f} %" for k, e in errors.items())
                + "   "
                + " ".join(f"x{r:.2f}" for r in row["ratio"].values()),
                flush=True,
            )
            save(out, "meshes", {**settings, "rows": rows, "summary": mesh_summary(rows)})


def mesh_summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, smallest and largest ratio over the seeds."""
    found = []
    for name in dict.fromkeys(r["model"] for r in rows):
        mine = [r for r in rows if r["model"] == name]
        entry: dict[str, Any] = {
            "model": name, "seeds": len(mine),
            "error": statistics.fmean(r["error"]["trained"] for r in mine),
        }  # fmt: skip
        for k in mine[0]["ratio"]:
            values = [r["ratio"][k] for r in mine]
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
