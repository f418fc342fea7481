"""Networks turned into operators: errors on grids and meshes that the training has not seen.

    python benchmarks/bench_nn_to_no.py [grids|darcy|meshes|all] [--seeds 3] [--directory DIR]
    python benchmarks/bench_nn_to_no.py tables

``grids``: a CNN and a U-Net learn one step of the Allen-Cahn equation (periodic, u at t=0 to u at
t=2; the solver's own solutions) at 32^2 alone, or with each batch at 32^2 or 64^2. They are tested
at 32^2, 64^2 and 128^2 on the same functions: converted, plain with the same weights, and behind
interpolation to the training grid with the right coordinates.

``darcy``: the same for a U-Net and Darcy flow (33^2, 65^2, 129^2 points, walls), on data of the
structured solver.

``meshes``: `OperatorGNN`, `PointTransformer` and their unweighted twins learn Darcy flow on an
L-shape on one DOLFINx mesh and are tested on meshes of twice and four times as many nodes and on
one refined in a part of the domain.

Figures go to ``benchmarks/results/nn_to_no.json``, and a run goes on where an earlier one with the
same settings ended. ``tables`` prints those of the page on the documentation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
STEPS = 400


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


@dataclass(frozen=True)
class Case:
    """A problem on grids: what is learned, and by which networks.

    Parameters
    ----------
    problem, title : str
    params : mapping
        Of the problem.
    reference : Grid
        Where the networks are trained.
    networks : mapping
        Name -> function that builds the plain network.
    seeds : tuple of int
        Of the training and the test data.
    moving : bool
        Learn the first stored time to the last; else input to output.
    center, spread : float
        Of the input.
    """

    problem: str
    title: str
    params: dict[str, Any]
    reference: Grid
    networks: dict[str, Callable[[Grid], nn.Module]]
    seeds: tuple[int, int]
    moving: bool
    center: float = 0.0
    spread: float = 1.0

    @property
    def closed(self) -> int:
        """1 where both ends of an axis are points."""
        return self.reference.shape[0] % 2

    def sizes(self, *factors: int) -> list[int]:
        """Points per axis of grids so many times finer."""
        n = self.reference.shape[0] - self.closed
        return [n * k + self.closed for k in factors]

    def data(self, directory: Path, name: str, factor: int, n: dict[str, int], seed: int) -> Any:
        """Dataset on a grid `factor` times finer than the reference, made if it is not there."""
        import opkit
        from pde_data.hdf5 import open_dataset

        path = directory / name
        if not path.exists():
            opkit.generate(
                self.problem, out=str(path), resolution=self.sizes(factor)[0], seed=seed,
                error_fraction=0.0, params=self.params, **n,
            )  # fmt: skip
        return open_dataset(path)

    def pairs(self, split: Any) -> tuple[Tensor, Tensor]:
        """Read inputs and outputs of all samples, float32, (n, 1, *n)."""
        index, schema = np.arange(len(split)), split.schema
        out = schema.outputs[0]
        if self.moving:
            found = [
                split.read(index, [out], window=w)[out][:, 0]
                for w in (slice(0, 1), slice(-1, None))
            ]
        else:
            values = split.read(index, [schema.inputs[0], out])
            found = [values[schema.inputs[0]], values[out]]
        x, y = (torch.as_tensor(v)[:, None].float() for v in found)
        return (x - self.center) / self.spread, y

    def at(self, u: Tensor, n: int) -> Tensor:
        """Every k-th point of a field."""
        k = (u.shape[-1] - self.closed) // (n - self.closed)
        return u[..., ::k, ::k].contiguous()

    def weights(self, n: int) -> Tensor:
        """Quadrature weights on n^2 points."""
        return torch.as_tensor(self.reference.resized((n, n)).weights).float()


def _cnn(g: Grid) -> nn.Module:
    return CNN(1, 1, grid=g, hidden_channels=16, n_layers=3, kernel_size=7)


CASES = {
    "grids": Case(
        "allen_cahn", "a step of the Allen-Cahn equation, periodic",
        {
            "epsilon": 0.04, "t_end": 2.0, "n_times": 2, "n_modes": 8, "alpha": 4,
            "time_rtol": 1e-4,
        },
        grid((32, 32), layout="periodic"),
        {"cnn": _cnn, "unet": lambda g: UNet(1, 1, grid=g, hidden_channels=12, n_levels=2)},
        (1, 2), True,
    ),
    "darcy": Case(
        "darcy", "Darcy flow, smooth coefficient, u = 0 on the walls",
        {"coefficient": "smooth"},
        grid((33, 33)),
        {"unet": lambda g: UNet(1, 1, grid=g, hidden_channels=12, n_levels=3)},
        (1, 2), False, 7.5, 4.5,
    ),
}  # fmt: skip


def relative(model: nn.Module, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Relative L2 error of each sample, weighed by quadrature."""
    e, t = ((model(x) - y).square() * w).flatten(1).sum(1), (y.square() * w).flatten(1).sum(1)
    return (e / t).sqrt()


def tested(model: nn.Module, x: Tensor, y: Tensor, w: Tensor) -> float:
    """Mean error."""
    with torch.no_grad():
        parts = zip(x.split(8), y.split(8), strict=True)
        return float(torch.cat([relative(model, a, b, w) for a, b in parts]).mean())


def train(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor, Tensor]], steps: int, lr: float
) -> float:
    """Adam, relative L2 loss, one cycle of the learning rate; returns seconds of processor time."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    start = time.process_time()
    for _ in range(steps):
        loss = relative(model, *next(batches)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return time.process_time() - start


def draw(
    case: Case, x: Tensor, y: Tensor, sizes: list[int], seed: int, batch: int = 8
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches, each at one of the resolutions; about as many points in each."""
    g = torch.Generator().manual_seed(seed)
    data = {n: (case.at(x, n), case.at(y, n), case.weights(n)) for n in sizes}
    while True:
        n = sizes[int(torch.randint(len(sizes), (), generator=g))]
        size = max(2, round(batch * min(sizes) ** 2 / n**2))
        index = torch.randint(len(x), (size,), generator=g)
        yield data[n][0][index], data[n][1][index], data[n][2]


def zero_shot(directory: Path, seeds: int, out: Path, part: str = "grids") -> None:
    """Train at one and at two resolutions, test at three."""
    case = CASES[part]
    name = {"allen_cahn": "ac"}.get(case.problem, case.problem)
    few = {"n": 1, "n_valid": 1, "n_test": 40}
    train_set = case.data(
        directory, f"{name}{case.sizes(2)[0]}", 2, {"n": 256, "n_valid": 16, "n_test": 1},
        case.seeds[0],
    )  # fmt: skip
    test_set = case.data(directory, f"{name}{case.sizes(4)[0]}", 4, few, case.seeds[1])
    x, y = case.pairs(train_set["train"])
    xt, yt = case.pairs(test_set["test"])
    size = y.std() if not case.moving else 1.0
    y, yt = y / size, yt / size
    coarse, middle, fine = case.sizes(1, 2, 4)
    tests = {n: (case.at(xt, n), case.at(yt, n), case.weights(n)) for n in (coarse, middle, fine)}
    settings = {
        "problem": case.problem, "title": case.title, "params": case.params,
        "n_train": len(x), "n_test": len(xt), "steps": STEPS,
    }  # fmt: skip
    rows = known_rows(out, part, settings)
    done = {(r["seed"], r["network"], len(r["trained_at"])) for r in rows}
    for seed in range(seeds):
        for name, build in case.networks.items():
            for trained_at in ([coarse], [coarse, middle]):
                if (seed, name, len(trained_at)) in done:
                    continue
                torch.manual_seed(seed)
                net = build(case.reference)
                op = to_operator(net, reference=case.reference)
                seconds = train(op, draw(case, x, y, trained_at, seed), STEPS, 4e-3)
                net.load_state_dict(op.state_dict())
                methods: dict[str, nn.Module] = {"converted": op}
                if len(trained_at) == 1:
                    hats = to_operator(net, reference=case.reference, interpolation="linear")
                    methods |= {
                        "converted_linear": hats,
                        "plain": net,
                        "resize": InputOutputInterpolation(net, case.reference, "linear"),
                        "resize_fourier": InputOutputInterpolation(net, case.reference, "fourier"),
                    }
                for method, model in methods.items():
                    errors = {n: tested(model, *tests[n]) for n in tests}
                    row = {
                        "seed": seed, "network": name, "trained_at": trained_at, "method": method,
                        "error": {str(n): e for n, e in errors.items()},
                        "ratio_2x": errors[middle] / errors[coarse],
                        "ratio_4x": errors[fine] / errors[coarse],
                        "train_cpu_seconds": seconds,
                    }  # fmt: skip
                    rows.append(row)
                    print(
                        f"{part} seed {seed} {name:5s} {trained_at!s:9s} {method:16s} "
                        + " ".join(f"{n}: {100 * e:6.2f} %" for n, e in errors.items())
                        + f"   x{row['ratio_2x']:.2f} x{row['ratio_4x']:.2f}",
                        flush=True,
                    )
                save(out, part, {**settings, "rows": rows, "summary": summary(rows)})


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, smallest and largest ratio over the seeds."""
    found = []
    keys = dict.fromkeys((r["network"], tuple(r["trained_at"]), r["method"]) for r in rows)
    for key in keys:
        mine = [r for r in rows if (r["network"], tuple(r["trained_at"]), r["method"]) == key]
        entry: dict[str, Any] = {
            "network": key[0], "trained_at": list(key[1]), "method": key[2], "seeds": len(mine),
        }  # fmt: skip
        entry["error"] = {
            n: statistics.fmean(r["error"][n] for r in mine) for n in mine[0]["error"]
        }
        for k in ("ratio_2x", "ratio_4x"):
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


# -- tables ----------------------------------------------------------------------------------------

NAMES = {
    "cnn": "CNN", "unet": "U-Net", "converted": "converted", "converted_linear": "converted, hats",
    "plain": "plain", "resize": "interpolated to the training grid, linear",
    "resize_fourier": "interpolated to the training grid, Fourier",
    "gnn": "`OperatorGNN`", "gnn_knn_unweighted": "nearest neighbors, no weights",
    "transformer": "`PointTransformer`", "transformer_unweighted": "transformer, no weights",
}  # fmt: skip


def tables(content: dict[str, Any]) -> dict[str, str]:
    """Markdown of each part: mean errors, and the ratio of each seed."""
    out = {}
    for part in ("grids", "darcy"):
        if part not in content:
            continue
        rows = content[part]["rows"]
        sizes = list(rows[0]["error"])
        lines = [
            f"| network | trained at | as | {' | '.join(f'{n}²' for n in sizes)} | "
            f"ratio at {sizes[1]}² | ratio at {sizes[2]}² |",
            "|" + "---|" * 8,
        ]
        for entry in content[part]["summary"]:
            key = ("network", "trained_at", "method")
            mine = [r for r in rows if all(r[k] == entry[k] for k in key)]
            lines.append(
                f"| {NAMES[entry['network']]} | {', '.join(f'{n}²' for n in entry['trained_at'])} "
                f"| {NAMES[entry['method']]} | "
                + " | ".join(f"{100 * entry['error'][n]:.2f} %" for n in sizes)
                + "".join(
                    f" | {', '.join(f'{r[k]:.2f}' for r in mine)}" for k in ("ratio_2x", "ratio_4x")
                )
                + " |"
            )
        out[part] = "\n".join(lines)
    if "meshes" in content:
        rows, tests = content["meshes"]["rows"], ("twice", "four_times", "locally_refined")
        nodes = content["meshes"]["nodes"]
        lines = [
            f"| network | error at {nodes['trained']} nodes | ratio at {nodes['twice']} | "
            f"ratio at {nodes['four_times']} | ratio at {nodes['locally_refined']}, refined in a "
            "part |",
            "|" + "---|" * 5,
        ]
        for entry in content["meshes"]["summary"]:
            mine = [r for r in rows if r["model"] == entry["model"]]
            lines.append(
                f"| {NAMES[entry['model']]} | {100 * entry['error']:.2f} %"
                + "".join(f" | {', '.join(f'{r["ratio"][k]:.2f}' for r in mine)}" for k in tests)
                + " |"
            )
        out["meshes"] = "\n".join(lines)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parts = ["grids", "darcy", "meshes", "all", "tables"]
    parser.add_argument("part", nargs="?", default="all", choices=parts)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="for the data; default a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.part == "tables":
        print("\n\n".join(tables(json.loads(args.out.read_text())).values()))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        for part in CASES:
            if args.part in (part, "all"):
                zero_shot(directory, args.seeds, args.out, part)
        if args.part in ("meshes", "all"):
            meshes(directory, args.seeds, args.out)


if __name__ == "__main__":
    main()
