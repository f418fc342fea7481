"""Reconstructions with learned proximal networks against Tikhonov, TV and plain denoisers.

Two linear inverse problems at three noise levels, three seeds each (of training, test samples and
noise): deblurring of scikit-learn's digits, and sources of Poisson's equation from 64 sensors; and
one nonlinear, the coefficient of Darcy's equation from 64 sensors, by the solver's adjoint and
through trained operators (MgNO, DeepONet), judged by the solver. One prior a seed serves all noise
levels, the data tempered where they are more precise than its training noise; `lpn_matched`
(digits) has a prior trained at each noise level instead, and nothing is tempered. Plain denoisers
(DnCNN, U-Net) have as many parameters, the same data, noise and weight; for digits the same time of
training, `dncnn_long` the same number of steps, for sources the same number of steps. Weights of
Tikhonov (both operators) and TV are tuned on validation samples. For a trained operator the noise
is that of the data and the operator's own error on validation samples together. Every training and
every cell of the table leaves a file in the work directory, so that an interrupted benchmark goes
on.

    python benchmarks/bench_inverse.py [--seeds 3] [--work DIR] [--only digits,source,darcy]
        [--steps F]

Writes benchmarks/results/inverse.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import opkit
from opkit.checkpoint import save_json
from opkit.inverse import pnp_tempered, tikhonov, tv
from opkit.inverse.maps import operator_map, problem_map
from opkit.inverse.reconstruct import errors
from pde_data.hdf5 import open_dataset
from pde_data.problem import get_problem

RESULTS = Path(__file__).parent / "results" / "inverse.json"
N_TEST, N_TUNE = 20, 20
#: Weights over ``|A|^2`` that are tried on validation samples.
WEIGHTS = np.logspace(-6, 0, 25)
COARSE = np.logspace(-5.5, -1, 10)
METHODS = ("lpn", "dncnn", "unet", "tv", "tikhonov", "lpn_matched", "dncnn_long")
MODELS = {
    "lpn": "lpn", "lpn_matched": "lpn", "dncnn": "dncnn", "dncnn_long": "dncnn_long",
    "unet": "unet_denoiser",
}  # fmt: skip
TITLES = {
    "lpn": "LPN", "dncnn": "DnCNN", "unet": "U-Net", "tv": "TV", "tikhonov": "Tikhonov",
    "lpn_matched": "LPN trained at the noise", "dncnn_long": "DnCNN, as many steps as LPN",
    "lpn_mgno": "LPN, through MgNO", "lpn_deeponet": "LPN, through DeepONet",
}  # fmt: skip
#: The data of the sources are far too precise to train a prior at their noise.
DIGITS_ALONE = ("lpn_matched", "dncnn_long")

DIGITS: dict[str, Any] = {
    "problem": "deblurring",
    "unknown": "image",
    "params": {"source": "digits", "width": 0.8},
    "resolution": 8,
    "levels": (0.05, 0.1, 0.2),
    "sigma": 0.15,
    "n_train": 1000,
    # a step of the convolutions takes four times as long: 17 to 19 s of a core for LPN and DnCNN
    "epochs": {"lpn": 160, "dncnn": 40, "unet_denoiser": 40, "dncnn_long": 160},
    "lpn": {"arch": "mlp", "hidden": 128, "layers": 3},
    "dncnn": {"hidden_channels": 40, "depth": 6},
    "unet_denoiser": {"hidden_channels": 24},
    "lr": {"lpn": 2e-3, "dncnn": 2e-3, "unet_denoiser": 2e-3},
    "loss": "proximal_matching",
    "range": 1.0,
    "max_iter": 500,
}
SOURCE: dict[str, Any] = {
    "problem": "source_recovery",
    "unknown": "q",
    "params": {},
    "resolution": 32,
    "levels": (0.01, 0.03, 0.1),
    "sigma": 0.15,
    "n_train": 3000,
    "epochs": {"lpn": 40, "dncnn": 40, "unet_denoiser": 40},
    "lpn": {"arch": "conv", "hidden": 32, "layers": 4},
    "dncnn": {"hidden_channels": 34, "depth": 5},
    "unet_denoiser": {"hidden_channels": 8},
    "lr": {"lpn": 1e-2, "dncnn": 2e-3, "unet_denoiser": 2e-3},
    "loss": "l2",
    "range": 1.0,
    "max_iter": 150,
}
#: Of log a, whose deviation is 1; the operators learn from solutions of the same equation.
DARCY: dict[str, Any] = {
    "problem": "darcy_inverse",
    "unknown": "a",
    "params": {},
    "resolution": 17,
    "levels": (0.01,),
    "sigma": 0.15,
    "n_train": 2000,
    "epochs": {"lpn": 30},
    "lpn": {"arch": "conv", "hidden": 24, "layers": 3},
    "lr": {"lpn": 1e-2},
    "loss": "l2",
    "range": 6.0,
    "max_iter": 150,
    "forward": {
        "problem": "darcy",
        "params": {"coefficient": "log_normal", "alpha": 3.0, "tau": 3.0, "n_modes": 64},
        "mgno": {"epochs": 20, "batch_size": 16, "options": {"hidden_channels": 12}},
        "deeponet": {"epochs": 60, "batch_size": 16, "task": {"input_modes": 48}},
    },
}
DARCY_METHODS = ("lpn", "tikhonov", "lpn_mgno", "lpn_deeponet")
TASKS = {"digits": DIGITS, "source": SOURCE, "darcy": DARCY}


# -- data and priors -----------------------------------------------------------------------------


def dataset(work: Path, name: str, level: float, seed: int, *, train: int) -> Path:
    """Make a dataset once; without training samples for test and validation alone."""
    task = TASKS[name]
    path = work / f"{name}-{level:g}-{seed}-{train}"
    # the digits are a list from which an id chooses, whatever the seed: each seed takes other ids
    n_test = N_TEST * (seed + 1) if name == "digits" else N_TEST
    if not (path / "dataset.json").exists():
        opkit.generate(
            task["problem"], out=path, n=max(train, 1), n_valid=N_TUNE, n_test=n_test,
            resolution=task["resolution"], seed=1000 + seed, error_fraction=0.0, overwrite=True,
            params={**task["params"], "noise": level}, dtype="float64", progress=False,
        )  # fmt: skip
    return path


def prior(work: Path, name: str, model: str, sigma: float, seed: int, steps: float) -> Any:
    """Train a denoiser once."""
    task = TASKS[name]
    epochs = task["epochs"][model]
    out = work / f"{name}-{model}-{sigma:g}-{seed}"
    model = model.removesuffix("_long")
    if not (out / "done.json").exists():
        # clean fields do not depend on the noise in the measurements
        data = dataset(work, name, task["levels"][0], seed, train=task["n_train"])
        start = time.process_time()
        opkit.fit(
            data, model=model, out=out, seed=seed, threads=1, overwrite=True, progress=False,
            epochs=max(1, round(steps * epochs)), batch_size=16, lr=task["lr"][model],
            options=task[model],
            task={
                "sigma": sigma, "sigma_units": "absolute", "log": name == "darcy", "lr_ratio": 1.0,
            },
            loss=task["loss"] if model == "lpn" else "l2",
        )  # fmt: skip
        save_json(out / "done.json", {"cpu_seconds": time.process_time() - start})
    return opkit.load(out)


def read(split: Any, unknown: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    v = split.read(slice(None), ["measurement", "noise_std", unknown])
    return (np.asarray(v[k], float) for k in ("measurement", "noise_std", unknown))


# -- one cell ------------------------------------------------------------------------------------


def best_of(
    solve: Callable[[np.ndarray, float], Any], weights: np.ndarray, valid: tuple[Any, ...]
) -> tuple[float, float]:
    """Lowest mean relative error on validation samples, and its weight."""
    y, _, truth = valid
    found = [(errors(solve(y, float(w)).x, truth)["rel_l2"]["mean"], float(w)) for w in weights]
    return min(found)


def cell(work: Path, name: str, level: float, seed: int, method: str, steps: float) -> dict:
    task = TASKS[name]
    data = open_dataset(dataset(work, name, level, seed, train=0))
    problem = get_problem(task["problem"], **data.config["params"])
    A = problem_map(problem, data.schema.grid.shape)
    y, noise, truth = (v[-N_TEST:] for v in read(data["test"], task["unknown"]))
    valid = tuple(read(data["valid"], task["unknown"]))
    size = A.norm_bound().value ** 2
    out: dict[str, Any] = {"task": name, "noise": level, "seed": seed, "method": method}
    start = time.process_time()
    if method in MODELS:
        sigma = level / 1.005 if method == "lpn_matched" else task["sigma"]
        op = prior(work, name, MODELS[method], sigma, seed, steps)
        start = time.process_time()
        x0 = tikhonov(
            A,
            y,
            weight=best_of(lambda d, w: tikhonov(A, d, weight=w), WEIGHTS[::2] * size, valid)[1],
        ).x
        r = pnp_tempered(A, y, op, sigma_noise=noise, x0=x0, max_iter=task["max_iter"], tol=1e-6)
        assert r.certificate is not None
        out |= {
            "diverged": int(r.diverged.sum()),
            "converged": int(r.converged.sum()), "iterations": int(r.iterations.max()),
            "fixed_point": float(np.max(r.fixed_point[np.isfinite(r.fixed_point)])),
            "certificate": r.certificate.as_dict(), "n_parameters": op.n_parameters,
        }  # fmt: skip
        x = np.where(np.isfinite(r.x), r.x, 0.0)
    elif method == "tv":
        some = tuple(v[:10] for v in valid)

        def quick(d: np.ndarray, w: float) -> Any:
            return tv(A, d, weight=w, tol=2e-2, max_iter=200)

        rough = best_of(quick, COARSE * size, some)
        tuned = best_of(quick, rough[1] * np.array([0.4, 0.6, 1.0, 1.6, 2.5]), some)
        r = tv(A, y, weight=tuned[1], tol=2e-3, max_iter=1000)
        out |= {"weight": tuned[1], "gap": float(r.residuals[-1].max())}
        x = r.x
    else:
        tried = {
            o: best_of(
                lambda d, w, o=o: tikhonov(A, d, weight=w, operator=o), WEIGHTS * size, valid
            )
            for o in ("identity", "gradient")
        }
        operator = min(tried, key=lambda o: tried[o][0])
        out |= {"weight": tried[operator][1], "operator": operator}
        x = tikhonov(A, y, weight=tried[operator][1], operator=operator).x
    out["cpu_seconds"] = time.process_time() - start
    return out | {"errors": errors(x, truth, (0.0, task["range"]))}


# -- a coefficient, through the solver or a trained operator -------------------------------------


def forward_operator(work: Path, model: str, seed: int, steps: float) -> Any:
    """Train an operator from coefficient to solution once."""
    task = DARCY["forward"]
    data, out = work / f"darcy-forward-{seed}", work / f"darcy-{model}-{seed}"
    if not (data / "dataset.json").exists():
        opkit.generate(
            task["problem"], out=data, n=DARCY["n_train"], n_valid=50, n_test=50,
            resolution=DARCY["resolution"], seed=2000 + seed, error_fraction=0.0, overwrite=True,
            params=task["params"], progress=False,
        )  # fmt: skip
    if not (out / "done.json").exists():
        start = time.process_time()
        settings = {**task[model], "epochs": max(1, round(steps * task[model]["epochs"]))}
        opkit.fit(
            data, model=model, out=out, seed=seed, threads=1, overwrite=True, progress=False,
            **settings,
        )  # fmt: skip
        save_json(out / "done.json", {"cpu_seconds": time.process_time() - start})
    return opkit.load(out)


def darcy_cell(work: Path, level: float, seed: int, method: str, steps: float) -> dict:
    data = open_dataset(dataset(work, "darcy", level, seed, train=0))
    problem = get_problem("darcy_inverse", **data.config["params"])
    shape = data.schema.grid.shape
    solver = problem_map(problem, shape)
    y, noise, a = read(data["test"], "a")
    y_valid, noise_valid, a_valid = read(data["valid"], "a")
    out: dict[str, Any] = {"task": "darcy", "noise": level, "seed": seed, "method": method}
    model = method.removeprefix("lpn_") if "_" in method else ""
    if method == "tikhonov":
        start = time.process_time()
        tried = {}
        for operator in ("identity", "gradient"):
            for c in 10.0 ** np.arange(-2.0, 2.1):  # times the noise's variance
                x = tikhonov(
                    solver, y_valid[:10], weight=c * noise_valid[:10] ** 2, operator=operator
                ).x
                tried[errors(x, np.log(a_valid[:10]))["rel_l2"]["mean"]] = (operator, c)
        operator, c = tried[min(tried)]
        r = tikhonov(solver, y, weight=c * noise**2, operator=operator)
        out |= {"weight": c, "operator": operator, "converged": int(r.converged.sum())}
    else:
        op = prior(work, "darcy", "lpn", DARCY["sigma"], seed, steps)
        G, std = solver, noise
        if model:
            trained = forward_operator(work, model, seed, steps)
            G = operator_map(trained, data.schema.grid, problem.operator(shape))
            # relative, and the median: a few coefficients far out have errors of half their size
            seen = solver(np.log(a_valid))
            gap = np.linalg.norm(G(np.log(a_valid)) - seen, axis=1) / np.linalg.norm(seen, axis=1)
            own = float(np.median(gap))
            std = np.sqrt(noise**2 + own**2 * np.mean(y**2, axis=1))
            done = json.loads((work / f"darcy-{model}-{seed}" / "done.json").read_text())
            out |= {"operator": model, "operator_n_parameters": trained.n_parameters,
                    "operator_rel_error": {"median": own, "worst": float(gap.max())},
                    "operator_error_over_noise": own / level,
                    "operator_cpu_seconds": done["cpu_seconds"]}  # fmt: skip
        start = time.process_time()
        r = pnp_tempered(G, y, op, sigma_noise=std, max_iter=DARCY["max_iter"], tol=1e-4)
        assert r.certificate is not None
        out |= {
            "diverged": int(r.diverged.sum()), "converged": int(r.converged.sum()),
            "iterations": int(r.iterations.max()), "restarts": len(r.restarts),
            "certificate": r.certificate.as_dict(), "n_parameters": op.n_parameters,
        }  # fmt: skip
        if model:
            out["misfit_of_operator"] = float(np.mean((G(r.x) - y) ** 2 / noise[:, None] ** 2))
    out["cpu_seconds"] = time.process_time() - start
    # what the solver says of the reconstruction; 1 where the residual is as large as the noise
    chi = np.mean((solver(r.x) - y) ** 2, axis=1) / noise**2
    out["misfit_of_solver"] = {"mean": float(chi.mean()), "median": float(np.median(chi))}
    return out | {"errors": errors(r.x, np.log(a), (-DARCY["range"] / 2, DARCY["range"] / 2))}


# -- the table -----------------------------------------------------------------------------------


def summary(cells: list[dict]) -> list[dict]:
    """Mean and spread over the seeds for each task, noise and method."""
    rows = []
    keys = dict.fromkeys((c["task"], c["noise"], c["method"]) for c in cells)
    for task, noise, method in keys:
        mine = [c for c in cells if (c["task"], c["noise"], c["method"]) == (task, noise, method)]
        row: dict[str, Any] = {
            "task": task, "noise": noise, "method": method, "seeds": len(mine),
            "samples": N_TEST * len(mine), "diverged": sum(c.get("diverged", 0) for c in mine),
        }  # fmt: skip
        for k in ("rel_l2", "psnr", "ssim"):
            values = [c["errors"][k]["mean"] for c in mine if k in c["errors"]]
            if values:
                row[k] = statistics.fmean(values)
                row[f"{k}_std"] = statistics.stdev(values) if len(values) > 1 else None
        if method.startswith("lpn"):
            certificates = [c["certificate"] for c in mine]
            row["guaranteed"] = sum(c["convergence"] == "yes" for c in certificates)
            row["consistent"] = sum(c["map_consistency"] == "yes" for c in certificates)
            row["monotone"] = sum(c["monotone"] for c in certificates)
        if "converged" in mine[0]:
            row["converged"] = sum(c["converged"] for c in mine)
        if "misfit_of_solver" in mine[0]:
            row["misfit_of_solver"] = statistics.fmean(c["misfit_of_solver"]["mean"] for c in mine)
        if "operator_error_over_noise" in mine[0]:
            row["operator_error_over_noise"] = statistics.fmean(
                c["operator_error_over_noise"] for c in mine
            )
        rows.append(row)
    return rows


def comparison(rows: list[dict]) -> list[dict]:
    """LPN against the best baseline and the plain denoiser, at each noise level."""
    out = []
    for task, noise in dict.fromkeys((r["task"], r["noise"]) for r in rows):
        by = {r["method"]: r for r in rows if (r["task"], r["noise"]) == (task, noise)}
        if "lpn" not in by or not {"tv", "tikhonov"} <= set(by):
            continue
        best = min(("tv", "tikhonov"), key=lambda m: by[m]["rel_l2"])
        entry = {
            "task": task, "noise": noise, "best_baseline": best,
            "rel_l2_ratio": by["lpn"]["rel_l2"] / by[best]["rel_l2"],
            "gain_db": by["lpn"]["psnr"] - max(by[m]["psnr"] for m in ("tv", "tikhonov")),
        }  # fmt: skip
        for plain in ("dncnn", "unet", "dncnn_long"):
            if plain in by:
                entry[f"behind_{plain}_db"] = by[plain]["psnr"] - by["lpn"]["psnr"]
        out.append(entry)
    return out


def tables(rows: list[dict]) -> list[str]:
    """Write what was measured as tables, for docs/inverse.md."""
    out = []
    for task, title in (
        ("digits", "Digits: PSNR in dB (SSIM), mean and deviation over the seeds"),
        ("source", "Sources: relative L2 error, mean and deviation over the seeds"),
    ):
        mine = [r for r in rows if r["task"] == task]
        methods = [m for m in METHODS if any(r["method"] == m for r in mine)]
        if not mine:
            continue
        out += [f"**{title}**", "", "| noise | " + " | ".join(TITLES[m] for m in methods)
                + " | LPN against the best baseline | its certificates |"]  # fmt: skip
        out.append("|---" * (len(methods) + 3) + "|")
        for noise in sorted({r["noise"] for r in mine}):
            by = {r["method"]: r for r in mine if r["noise"] == noise}
            cells = [_shown(task, by[m]) if m in by else "" for m in methods]
            judged = next((c for c in comparison(list(by.values()))), None)
            beside = said = ""
            if judged is not None:
                beside = f"{judged['gain_db']:+.2f} dB, {judged['rel_l2_ratio']:.3f} of its error"
            if "lpn" in by:
                r = by["lpn"]
                said = (
                    f"convergence {r['guaranteed']} of {r['seeds']}, consistency "
                    f"{r['consistent']} of {r['seeds']}"
                )
            out.append(f"| {noise:g} | " + " | ".join([*cells, beside, said]) + " |")
        out.append("")
    mine = [r for r in rows if r["task"] == "darcy"]
    if mine:
        out += ["**Log-coefficient of Darcy's equation**", "", "| | seeds | relative L2 error | "
                "squared residual over noise, by the solver | operator's error over noise |",
                "|---|---|---|---|---|"]  # fmt: skip
        for r in mine:
            own = r.get("operator_error_over_noise")
            out.append(
                f"| {TITLES[r['method']]} | {r['seeds']} | {_spread(r, 'rel_l2')} | "
                f"{r['misfit_of_solver']:.2g} | {'' if own is None else f'{own:.2g}'} |"
            )
        out.append("")
    return out


def _spread(row: dict, key: str, digits: int = 3) -> str:
    std = row.get(f"{key}_std")
    return f"{row[key]:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def _shown(task: str, row: dict) -> str:
    text = _spread(row, "rel_l2") if task == "source" else f"{_spread(row, 'psnr', 2)}"
    if task == "digits" and "ssim" in row:
        text += f" ({row['ssim']:.3f})"
    if row["seeds"] < 3:
        text += f", {row['seeds']} seed" + "s" * (row["seeds"] > 1)
    return text + (f", {row['diverged']} diverged" if row["diverged"] else "")


def write_docs(rows: list[dict]) -> None:
    """Replace the tables of docs/inverse.md."""
    page = Path(__file__).parents[1] / "docs" / "inverse.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- measured -->\n")
    after = rest.partition("<!-- end -->")[2]
    text = "\n".join(tables(rows))
    page.write_text(f"{before}<!-- measured -->\n{text}\n<!-- end -->{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build/bench_inverse"))
    parser.add_argument("--only", default="digits,source,darcy")
    parser.add_argument("--methods", default="", help="default all of each problem")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the training epochs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for name in args.only.split(","):
            methods = DARCY_METHODS if name == "darcy" else METHODS
            for method in args.methods.split(",") if args.methods else methods:
                if method not in methods or (method in DIGITS_ALONE and name != "digits"):
                    continue
                for level in TASKS[name]["levels"]:
                    path = args.work / f"cell-{name}-{level:g}-{seed}-{method}.json"
                    if not path.exists():
                        if name == "darcy":
                            found = darcy_cell(args.work, level, seed, method, args.steps)
                        else:
                            found = cell(args.work, name, level, seed, method, args.steps)
                        save_json(path, found)
                    c = json.loads(path.read_text())
                    e = c["errors"]
                    line = (
                        f"{name:7} noise {level:<5g} seed {seed} {method:12} rel L2 "
                        f"{e['rel_l2']['mean']:.4f} PSNR {e['psnr']['mean']:.2f}"
                    )
                    if name == "darcy":
                        line += f" misfit {c['misfit_of_solver']['mean']:.2f}"
                    print(line, flush=True)
    cells = [json.loads(p.read_text()) for p in sorted(args.work.glob("cell-*.json"))]
    rows = summary(cells)
    save_json(
        args.out,
        {"table": rows, "comparison": comparison(rows), "cells": cells,
         "settings": {k: {a: b for a, b in v.items()} for k, v in TASKS.items()},
         "steps": args.steps},
    )  # fmt: skip
    if args.out == RESULTS:
        write_docs(rows)
    for c in comparison(rows):
        print(json.dumps(c))
    print("wrote", args.out)


if __name__ == "__main__":
    main()
