"""Every registered grid model on one page: parameters, cost of a step, dependence on the grid.

Forward and backward passes of a batch on n^2 points are timed with process time, in turns, against
the FNO's; ratios are medians over the turns, so a busy machine shifts them little. The certificate
of random weights (`opkit.discretization_report`) is taken on a periodic and on a closed square, of
models built for (n/2)^2 points on that grid and on twice and four times finer ones. Beside the
registry, neuraloperator's models that are left out are measured for the reason why. A run that was
cut off goes on where it was; the steps are timed again.

    python benchmarks/bench_models.py [--n 32] [--turns 3] [--out benchmarks/results/models.json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from models import ModelSpec, build_model, list_models
from models.baselines.spectral import spectral_conv
from opkit import discretization_report
from opkit.operator import count_parameters
from solvers.grids import Grid


def spec(n: int, periodic: bool) -> ModelSpec:
    grid = Grid.unit(n if periodic else n + 1, dim=2, periodic=periodic)
    kind = "periodic" if periodic else "dirichlet"
    return ModelSpec(1, 1, grid, ((kind, kind),) * 2, None if periodic else 0.0)


def step(model: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.process_time()
    model(x).square().mean().backward()
    return time.process_time() - start


def steps(names: list[str], n: int, turns: int, batch: int) -> dict[str, dict[str, Any]]:
    """Parameters and ratio of a step to the FNO's; default options, random weights."""
    built = {}
    for name in names:
        torch.manual_seed(0)
        built[name] = build_model(name, spec(n, True), None)[0]
    x = torch.randn(batch, 1, n, n, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + 1):
        for name, model in built.items():
            s = step(model, x)
            if turn:  # the first warms up
                seconds[name].append(s)
    out = {}
    for name, model in built.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds["fno"], strict=True)]
        out[name] = {"n_parameters": count_parameters(model), "step": statistics.median(ratios)}
    return out


def certificates(name: str, n: int) -> dict[str, Any]:
    """Verdict, drift and order with random weights on two kinds of squares."""
    out = {}
    for periodic in (True, False):
        s = spec(n, periodic)
        torch.manual_seed(0)
        model = build_model(name, s, None)[0]
        closed = 0 if periodic else 1
        report = discretization_report(
            model, s.grid, resolutions=[n * k + closed for k in (1, 2, 4)], n_inputs=2
        )
        order = report.observed_order
        out["periodic" if periodic else "closed"] = {
            "verdict": report.verdict,
            "drift": report.largest_drift,
            "order": order if math.isfinite(order) else None,
        }
    return out


def left_out() -> dict[str, Any]:
    """Measure what keeps neuraloperator's CODANO and GINO out of the registry."""
    from neuralop.models import CODANO, GINO

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        codano = CODANO(
            lifting_channels=16, hidden_variable_codimension=8, projection_channels=16, n_layers=3,
            n_modes=[[8, 8]] * 3, n_heads=[2] * 3, per_layer_scaling_factors=[[1, 1]] * 3,
            attention_scaling_factors=[1] * 3, conv_module=spectral_conv(), attention_token_dim=4,
            domain_padding=None,
        )  # fmt: skip
        gino = GINO(
            in_channels=1, out_channels=1, gno_coord_dim=2, in_gno_radius=0.1, out_gno_radius=0.1,
            fno_n_modes=(8, 8), fno_hidden_channels=16, fno_n_layers=2, gno_embed_channels=8,
            in_gno_channel_mlp_hidden_layers=[16, 16], fno_conv_module=spectral_conv(),
            out_gno_channel_mlp_hidden_layers=[16, 16], gno_use_open3d=False,
            gno_use_torch_scatter=False,
        )  # fmt: skip
    report = discretization_report(
        codano.double(), Grid.unit(32, periodic=True), resolutions=(16, 32, 64, 128),
        reference=16, in_channels=3, n_inputs=2,
    )  # fmt: skip
    codano(torch.randn(1, 3, 16, 16, dtype=torch.float64)).square().sum().backward()
    grads = [p.grad for p in codano.parameters()]
    dead = sum(g is None or float(g.abs().max()) < 1e-12 for g in grads)
    t = torch.linspace(0, 1, 17, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(t, t, indexing="ij"), -1)
    flat = points.reshape(-1, 2)
    problem = ""
    try:
        y = gino.double()(
            x=flat[None, :, :1], input_geom=flat[None], latent_queries=points[None],
            output_queries=flat,
        )  # fmt: skip
        problem = "" if y.dtype == torch.float64 else f"returns {y.dtype}"
    except RuntimeError as e:
        problem = str(e)
    return {
        "codano": {
            "verdict": report.verdict,
            "drift": list(report.drift),
            "parameters_without_gradient": [dead, len(grads)],
        },
        "gino": {"in_double_precision": problem},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    default = Path(__file__).parent / "results" / "models.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings = {"n": args.n, "certificate_n": args.n // 2, "batch": args.batch}
    result: dict[str, Any] = {**settings, "models": {}}
    if args.out.is_file():
        stored = json.loads(args.out.read_text())
        if all(stored.get(k) == v for k, v in settings.items()):
            result = stored
    args.out.parent.mkdir(exist_ok=True)

    def save() -> None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")

    names = [name for name, e in list_models().items() if e.task == "grid"]
    for name, found in steps(names, args.n, args.turns, args.batch).items():
        result["models"].setdefault(name, {}).update(found)
    save()
    for name in names:
        if "periodic" not in result["models"][name]:
            result["models"][name] |= certificates(name, args.n // 2)
            save()
        print(f"{name:22} {result['models'][name]}", flush=True)
    if "left_out" not in result:
        result["left_out"] = left_out()
        save()
    print(args.out)


if __name__ == "__main__":
    main()
