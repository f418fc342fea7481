"""What learned proximal networks learn: priors of numbers and digits, against exact answers.

Trains with `opkit.fit` and compares with quadrature: the Laplace prior by proximal matching, by
squared and absolute error; gamma = 0.5; a mixture of two Gaussians; scikit-learn's digits. Each
training leaves one JSON file in the work directory, so that an interrupted benchmark goes on where
it was.

    python benchmarks/bench_lpn.py [--seeds 3] [--work DIR] [--only laplace,gamma,...] [--threads 1]

Writes benchmarks/results/lpn.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import opkit
from models.lpn import LPN
from opkit.checkpoint import save_json
from opkit.fit import FitConfig, fit
from opkit.tasks.denoising import fixed_noise
from pde_data.hdf5 import (
    DatasetConfig,
    DatasetSchema,
    FieldSpec,
    ShardWriter,
    open_dataset,
    rebuild_index,
)
from pde_data.hdf5.schema import ExtraAxis
from solvers.grids import Grid

RESULTS = Path(__file__).parent / "results" / "lpn.json"
Y = np.linspace(-4, 4, 801)
#: Mixture of two Gaussians: centers +- 2, deviation 0.3; noise 0.5.
CENTER, SPREAD, MIXTURE_SIGMA = 2.0, 0.3, 0.5


# -- exact answers -------------------------------------------------------------------------------


def laplace_density(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.exp(-np.abs(x))


def mixture_density(x: np.ndarray) -> np.ndarray:
    return sum(
        0.5 * np.exp(-0.5 * ((x - c) / SPREAD) ** 2) / (SPREAD * math.sqrt(2 * math.pi))
        for c in (-CENTER, CENTER)
    )


def exact(
    y: np.ndarray, density: Callable[[np.ndarray], np.ndarray], sigma: float, loss: str,
    gamma: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Minimizer of the expected loss at each noisy value, by quadrature on a fine grid."""
    x = np.linspace(-14, 14, 28_001)
    out = np.empty(len(y))
    for k, v in enumerate(y):
        p = density(x) * np.exp(-0.5 * ((v - x) / sigma) ** 2)
        p /= p.sum()
        if loss == "l2":
            out[k] = (p * x).sum()
        elif loss == "l1":
            out[k] = x[np.searchsorted(np.cumsum(p), 0.5)]
        else:  # the highest point of the posterior, blurred by exp(-x^2 / gamma^2)
            f = np.linspace(v - 4, v + 4, 1601) if sigma > 0.6 else np.linspace(-4, 4, 3201)
            value = np.exp(-(((f[:, None] - x[None, ::4]) / gamma) ** 2)) @ p[::4]
            out[k] = f[np.argmax(value)]
    return out


def soft(y: np.ndarray) -> np.ndarray:
    return np.sign(y) * np.maximum(np.abs(y) - 1, 0)


def rms(a: np.ndarray) -> float:
    return float(np.sqrt(np.mean(a**2)))


# -- data ----------------------------------------------------------------------------------------


def numbers(root: Path, draw: Callable[[np.random.Generator], float], name: str) -> Path:
    """Dataset of random numbers, a field of one value each."""
    if (root / "manifest.json").is_file():
        return root
    shutil.rmtree(root, ignore_errors=True)
    schema = DatasetSchema(
        problem=name, title="random numbers", grid=Grid(()), layout="series",
        fields=(FieldSpec("x", "number", dims=("value",)),), axes=(ExtraAxis.index("value", 1),),
        inputs=("x",), outputs=("x",),
    )  # fmt: skip
    config = DatasetConfig(
        problem=name, params={}, resolution=(), dtype="float32", seed=0, solver="none", rtol=1.0,
        n={"train": 30_000, "valid": 20_000}, samples_per_shard=10_000,
    )  # fmt: skip
    for split in config.n:
        for shard in range(config.n_shards(split)):
            with ShardWriter(root, split=split, shard=shard, schema=schema, config=config) as w:
                for i in w.sample_ids:
                    x = np.array([draw(w.rng(i))])
                    w.add(i, fields={"x": x}, residual=0.0, iterations=0, wall_time=0.0)
    rebuild_index(root)
    return root


def laplace_data(work: Path) -> Path:
    return numbers(work / "laplace", lambda rng: float(rng.laplace()), "laplace")


def mixture_data(work: Path) -> Path:
    def draw(rng: np.random.Generator) -> float:
        return float(rng.choice([-CENTER, CENTER]) + SPREAD * rng.standard_normal())

    return numbers(work / "mixture", draw, "mixture")


def generated(root: Path, problem: str, n: int, held_out: int, **settings: Any) -> Path:
    if not (root / "manifest.json").is_file():
        shutil.rmtree(root, ignore_errors=True)
        opkit.generate(
            problem, out=str(root), n=n, n_valid=held_out, n_test=held_out, workers=1, **settings
        )
    return root


# -- trainings -----------------------------------------------------------------------------------


def train(data: Path, out: Path, threads: int | None, model: str = "lpn", **settings: Any) -> Any:
    op = fit(
        FitConfig(
            data=str(data), model=model, out=str(out), resume=out.exists(), threads=threads,
            **settings,
        )
    )  # fmt: skip
    return op, op.history[-1]["seconds"]


def curve(op: Any, y: np.ndarray) -> np.ndarray:
    return np.asarray(op.denoise(y.reshape(-1, 1, 1))).ravel()


def prior(op: Any, points: list[float]) -> list[float]:
    values = op.regularizer(np.array(points).reshape(-1, 1, 1), method="cg", tol=1e-4)
    return (values - values[0]).tolist()


ONE_D = {"hidden": 50, "layers": 4, "alpha": 0.0, "beta": 20.0, "init": "uniform"}


def fit_numbers(data: Path, out: Path, seed: int, threads: int | None, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "epochs": 12, "repeat": 3, "batch_size": 500, "lr": 4e-3, "seed": seed,
        "options": dict(ONE_D), **changes,
    }  # fmt: skip
    task = {
        "sigma_units": "absolute",
        "sigma": 1.0,
        "pretrain": 0.3,
        "lr_ratio": 0.2,
        **settings.pop("task", {}),
    }
    return train(data, out, threads, task=task, **settings)


def laplace(work: Path, seed: int, loss: str, threads: int | None = 1, **changes: Any) -> dict:
    """Laplace(0, 1) with noise 1: the exact proximal operator is soft thresholding, R = |x|."""
    settings = {"loss": loss, **changes}
    if loss == "proximal_matching":
        # small gammas are noisy: more steps, larger batches, smaller rates; chosen on seed 100
        long = {"epochs": 24, "repeat": 20, "batch_size": 1000, "lr": 2e-3}
        settings = {**long, **settings}
        settings["task"] = {
            "gamma": 0.1, "stages": 4, "pretrain": 0.2, "lr_ratio": 0.1, **settings.get("task", {}),
        }  # fmt: skip
        gamma = settings["task"]["gamma"]
    else:
        settings = {"epochs": 16, "repeat": 6, "batch_size": 1000, **settings}
        gamma = 0.0
    out = work / f"run-laplace-{loss}-{gamma}-{seed}"
    op, seconds = fit_numbers(laplace_data(work), out, seed, threads, **settings)
    f = curve(op, Y)
    target = exact(Y[::10], laplace_density, 1.0, loss, gamma)
    points = [0.0, 0.5, 1.0, 2.0]
    r = prior(op, points)
    grid = np.linspace(-2.5, 2.5, 101)
    inverse = op.prox().invert(torch.tensor(grid).reshape(-1, 1, 1), method="cg", tol=1e-4)
    values = np.asarray(op.regularizer(grid.reshape(-1, 1, 1), method="cg", tol=1e-4))
    above = values - values[50]
    return {
        "loss": loss,
        "gamma": gamma,
        "seed": seed,
        "seconds": seconds,
        "rms_to_soft": rms(f - soft(Y)),
        "rms_to_exact": rms(f[::10] - target),
        "exact_rms_to_soft": rms(target - soft(Y[::10])),
        "f": dict(zip(("0.5", "1", "1.5", "2"), curve(op, np.array([0.5, 1, 1.5, 2])).tolist(),
                      strict=True)),
        "prior": dict(zip(map(str, points), r, strict=True)),
        "largest_gap_of_prior": float(np.abs(above - np.abs(grid)).max()),
        "inversion_residual": float(inverse.residual.max()),
        "smallest_weight": op.model.check_convexity(),
    }  # fmt: skip


def mixture(work: Path, seed: int, threads: int | None = 1, **changes: Any) -> dict:
    """Two Gaussians with noise 0.5: between them the denoiser must be expansive."""
    task = {"sigma": MIXTURE_SIGMA, "gamma": 0.4, "stages": 4}
    out = work / f"run-mixture-{seed}"
    op, seconds = fit_numbers(mixture_data(work), out, seed, threads, task=task, **changes)
    gamma = task["gamma"] * MIXTURE_SIGMA
    y = np.linspace(-3, 3, 121)
    f, target = curve(op, y), exact(y, mixture_density, MIXTURE_SIGMA, "pm", gamma)
    far = np.abs(y) > 0.15  # the exact curve jumps at 0
    fine = np.linspace(-0.3, 0.3, 601)
    slope = np.gradient(curve(op, fine), fine)
    r = prior(op, [0.0, -2.0, 2.0])
    return {
        "seed": seed,
        "gamma": gamma,
        "seconds": seconds,
        "largest_slope_between": float(slope.max()),
        "prior_at_0_above_modes": -max(r[1], r[2]),
        "rms_to_exact": rms((f - target)[far]),
        "y": y.tolist(),
        "f": f.tolist(),
        "exact": target.tolist(),
    }


def digits(work: Path, seed: int, threads: int | None = 1, **changes: Any) -> dict:
    """Digits 8 x 8 with noise 0.1: R must rise with added noise."""
    data = generated(
        work / "digits", "deblurring", 1400, 100, params={"source": "digits", "kernel": "none"}
    )
    settings: dict[str, Any] = {
        "epochs": 50, "batch_size": 16, "lr": 3e-3, "seed": seed,
        "options": {"hidden": 128, "layers": 3, "init": "balanced"},
        "task": {"sigma": 0.1, "sigma_units": "absolute"}, **changes,
    }  # fmt: skip
    op, seconds = train(data, work / f"run-digits-{seed}", threads, **settings)
    split = open_dataset(data)["test"]
    clean = op.task.read(split, np.arange(len(split))).astype(float)
    noise = np.stack([fixed_noise(i, op.shape) for i in split.ids])
    levels = (0.0, 0.05, 0.1, 0.2, 0.3)
    values = [np.asarray(op.regularizer(clean + s * noise, method="cg")) for s in levels]
    rise = np.stack(values) - values[0]
    noisy = clean + 0.1 * noise
    x = torch.tensor(noisy[:10])
    prox = op.prox()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: prox(v[None])[0].flatten()))(x)
    jacobian = jacobian.detach().reshape(10, 64, 64)
    eigenvalues = torch.linalg.eigvalsh(0.5 * (jacobian + jacobian.mT))

    def quality(a: np.ndarray) -> float:
        return float(np.mean(-10 * np.log10(((a - clean) ** 2).mean(axis=(1, 2, 3)))))

    return {
        "seed": seed,
        "seconds": seconds,
        "n": len(clean),
        "psnr_noisy": quality(noisy),
        "psnr": quality(np.asarray(op.denoise(noisy))),
        "levels": list(levels),
        "mean_rise": rise.mean(axis=1).tolist(),
        "higher_than_clean": (rise[1:] > 0).sum(axis=1).tolist(),
        "asymmetry": float((jacobian - jacobian.mT).abs().max() / jacobian.abs().max()),
        "eigenvalues": [float(eigenvalues.min()), float(eigenvalues.max())],
    }


def speed(work: Path, seed: int, threads: int | None = 1) -> dict:
    """Training step and evaluation: the gradient written out against autograd's."""
    cases: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
        "numbers": ((1,), {"hidden": 50, "layers": 4}, 1000),
        "digits": ((1, 8, 8), {"hidden": 128, "layers": 3}, 64),
        "images": ((1, 32, 32), {"arch": "conv", "hidden": 32, "layers": 4}, 16),
    }
    out = {}
    for name, (shape, options, batch) in cases.items():
        net = LPN(shape, **options)
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))

        def written(net: LPN = net, x: torch.Tensor = x) -> None:
            (net(x) - x).square().mean().backward()

        def automatic(net: LPN = net, x: torch.Tensor = x) -> None:
            y = x.clone().requires_grad_(True)
            (f,) = torch.autograd.grad(net.potential(y).sum(), y, create_graph=True)
            (f - x).square().mean().backward()

        times: dict[str, list[float]] = {"written": [], "automatic": []}
        for step in range(23):
            for key, function in (("written", written), ("automatic", automatic)):
                start = time.process_time()
                function()
                if step > 2:
                    times[key].append(time.process_time() - start)
        out[name] = statistics.median(times["automatic"]) / statistics.median(times["written"])
    return {"automatic_over_written": out}


# -- all of it -----------------------------------------------------------------------------------


def plan(seeds: int) -> dict[str, Callable[[Path, int | None], dict]]:
    """Name of a training -> what runs it, cheap ones first."""
    jobs: dict[str, Callable[[Path, int | None], dict]] = {}

    def add(name: str, function: Callable[..., dict], *args: Any, **kwargs: Any) -> None:
        jobs[name] = lambda work, threads: function(work, *args, threads=threads, **kwargs)

    add("speed", speed, 0)
    for seed in range(seeds):
        for loss in ("proximal_matching", "l2", "l1"):
            add(f"laplace-{loss}-{seed}", laplace, seed, loss)
        if seed == 0:
            task = {"gamma": 0.5, "stages": 3}
            add("gamma-0", laplace, 0, "proximal_matching", task=task, epochs=12)
            add("mixture-0", mixture, 0)
        add(f"digits-{seed}", digits, seed)
    return jobs


def summary(found: dict[str, dict]) -> dict[str, Any]:
    """Means over seeds beside the exact answers."""
    out: dict[str, Any] = {}
    for loss in ("proximal_matching", "l2", "l1"):
        runs = [v for k, v in found.items() if k.startswith(f"laplace-{loss}-")]
        if runs:
            out[loss] = {
                "seeds": len(runs),
                "exact_rms_to_soft": runs[0]["exact_rms_to_soft"],
                **{
                    key: [min(values), statistics.mean(values), max(values)]
                    for key, values in {
                        "rms_to_soft": [r["rms_to_soft"] for r in runs],
                        "rms_to_exact": [r["rms_to_exact"] for r in runs],
                        "R(1)-R(0)": [r["prior"]["1.0"] for r in runs],
                        "R(2)-R(0)": [r["prior"]["2.0"] for r in runs],
                    }.items()
                },
            }
    return out


def tables(found: dict[str, dict]) -> list[str]:
    """Write what was measured as tables, for docs/lpn.md."""
    exact_rms = {}
    for loss in ("l2", "l1"):
        exact_rms[loss] = rms(exact(Y[::10], laplace_density, 1.0, loss) - soft(Y[::10]))
    out = [
        "| training | seed | rms to soft thresholding | rms to the exact minimizer of its loss | "
        "R(1) − R(0), truth 1 | R(2) − R(0), truth 2 |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "proximal_matching": "proximal matching, γ = 0.1",
        "l2": f"squared error (exact: {exact_rms['l2']:.3f})",
        "l1": f"absolute error (exact: {exact_rms['l1']:.3f})",
    }
    for key, r in found.items():
        if key.startswith("laplace-") or key == "gamma-0":
            name = names[r["loss"]] if key != "gamma-0" else (
                f"proximal matching, γ = 0.5: f(1) = {r['f']['1']:.3f}, f(2) = {r['f']['2']:.3f} "
                "(exact: 0.311, 1.002)"
            )  # fmt: skip
            out.append(
                f"| {name} | {r['seed']} | {r['rms_to_soft']:.4f} | {r['rms_to_exact']:.4f} | "
                f"{r['prior']['1.0']:.3f} | {r['prior']['2.0']:.3f} |"
            )
    out.append("")
    if "mixture-0" in found:
        r = found["mixture-0"]
        out += [
            f"Two Gaussians (centers ± 2, deviation 0.3) with noise 0.5, γ = {r['gamma']:g}: "
            f"largest slope between the modes {r['largest_slope_between']:.2f} (above 1: R is not "
            f"convex there), R(0) − R(± 2) = {r['prior_at_0_above_modes']:.2f}, rms to the exact "
            f"curve outside of its jump {r['rms_to_exact']:.3f}.",
            "",
        ]
    runs = [r for k, r in found.items() if k.startswith("digits-")]
    if runs:

        def span(values: list[float], form: str) -> str:
            low, high = format(min(values), form), format(max(values), form)
            return low if low == high else f"{low} to {high}"

        rises = ", ".join(
            span([r["mean_rise"][k] for r in runs], ".3g") for k in range(1, len(runs[0]["levels"]))
        )
        above = min(min(r["higher_than_clean"]) for r in runs)
        ends = [[r["eigenvalues"][k] for r in runs] for k in (0, 1)]
        out += [
            f"Digits (8 x 8, noise 0.1, 3 x 128 units, 4,400 steps; {len(runs)} seeds): "
            f"{span([r['psnr_noisy'] for r in runs], '.1f')} → "
            f"{span([r['psnr'] for r in runs], '.1f')} dB; for at least {above} of "
            f"{runs[0]['n']} test images R is larger with noise 0.05, 0.1, 0.2 and 0.3 than "
            f"without (mean rise {rises}); asymmetry of the Jacobian at most "
            f"{max(r['asymmetry'] for r in runs):.0e}, eigenvalues {min(ends[0]):.4f} to "
            f"{max(ends[1]):.2f}.",
            "",
        ]
    return out


def write_docs(found: dict[str, dict]) -> None:
    """Replace the tables of docs/lpn.md."""
    page = Path(__file__).parents[1] / "docs" / "lpn.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- measured -->\n")
    after = rest.partition("<!-- end -->")[2]
    text = "\n".join(tables(found))
    page.write_text(f"{before}<!-- measured -->\n{text}\n<!-- end -->{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/bench_lpn"))
    parser.add_argument("--only", default="", help="parts, by the start of their names")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    wanted = tuple(args.only.split(",")) if args.only else ("",)
    found = {}
    for name, job in plan(args.seeds).items():
        path = args.work / f"{name}.json"
        if not path.is_file() and name.startswith(wanted):
            save_json(path, job(args.work, args.threads))
        if path.is_file():
            found[name] = json.loads(path.read_text())
            print(name, {k: v for k, v in found[name].items() if not isinstance(v, list)})
    RESULTS.parent.mkdir(exist_ok=True)
    save_json(RESULTS, {"summary": summary(found), "runs": found})
    write_docs(found)
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
