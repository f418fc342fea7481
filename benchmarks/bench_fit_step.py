"""What a training step costs through opkit: fit against a bare model in a bare torch loop.

Both train neuraloperator's FNO of the same size on the same shapes with the relative L2 loss and
AdamW; the bare loop holds its data in memory and does nothing else. Epochs of the two alternate in
one run, so that both see the same machine. Prints seconds a step and the ratio.

    python benchmarks/bench_fit_step.py [--resolution 64] [--batch 16] [--loss l2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from opkit._lightning import Recorder
from opkit.fit import FitConfig, fit
from pde_data.hdf5 import DatasetConfig, DatasetSchema, FieldSpec, ShardWriter, rebuild_index
from solvers.grids import Grid


def make_data(root: Path, n: int, resolution: int) -> Path:
    grid = Grid.unit(resolution, periodic=True)
    schema = DatasetSchema(
        problem="noise", title="smooth noise", grid=grid, inputs=("a",), outputs=("u",),
        fields=(FieldSpec("a", "input"), FieldSpec("u", "output")),
    )  # fmt: skip
    config = DatasetConfig(
        problem="noise", params={}, resolution=grid.shape, dtype="float32", seed=0, solver="none",
        rtol=1.0, n={"train": n, "valid": 1}, samples_per_shard=n,
    )  # fmt: skip
    for split in config.n:
        with ShardWriter(root, split=split, shard=0, schema=schema, config=config) as w:
            for i in w.sample_ids:
                a = w.rng(i).normal(size=grid.shape)
                fields = {"a": a, "u": np.roll(a, 1, 0) + a}
                w.add(i, fields=fields, residual=0.0, iterations=0, wall_time=0.0)
    rebuild_index(root)
    return root


class Bare:
    """The loop one writes without a library."""

    def __init__(self, data: Path, batch: int, options: dict[str, int]) -> None:
        from pde_data.hdf5 import open_dataset

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from neuralop.models import FNO
        values = open_dataset(data)["train"].read(slice(None), ["a", "u"])
        self.x, self.y = (torch.as_tensor(values[k])[:, None] for k in ("a", "u"))
        m = options["n_modes"]
        rest = {k: v for k, v in options.items() if k != "n_modes"}
        self.model = FNO(
            n_modes=(m, m), in_channels=1, out_channels=1, positional_embedding=None, **rest
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batch = batch

    def epoch(self) -> float:
        """Seconds a step."""
        start = time.perf_counter()
        order = torch.randperm(len(self.x))
        steps = 0
        for index in order.split(self.batch):
            x, y = self.x[index], self.y[index]
            self.optimizer.zero_grad()
            error = (self.model(x) - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
            loss = error.mean()
            loss.backward()
            self.optimizer.step()
            steps += 1
        return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="an epoch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--loss", choices=("l2", "h1"), default="l2")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = {"n_modes": 16, "hidden_channels": 32, "n_layers": 4}
    bare_seconds: list[float] = []
    fit_seconds: list[float] = []
    with tempfile.TemporaryDirectory() as tmp:
        data = make_data(Path(tmp) / "data", args.batch * args.steps, args.resolution)
        bare = Bare(data, args.batch, options)
        bare.epoch()

        class Alternate(Recorder):
            """Times the steps of an epoch of fit, then lets the bare loop have a turn."""

            def on_train_batch_start(self, trainer, module, batch, index) -> None:
                if index == 0:
                    self.clock = time.perf_counter()

            def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
                if index == args.steps - 1:
                    fit_seconds.append((time.perf_counter() - self.clock) / args.steps)

            def on_train_epoch_end(self, trainer, module) -> None:
                super().on_train_epoch_end(trainer, module)
                bare_seconds.append(bare.epoch())

        import opkit._lightning

        opkit._lightning.Recorder = Alternate
        fit(
            FitConfig(
                data=data, model="fno", out=Path(tmp) / "run", epochs=args.epochs, loss=args.loss,
                batch_size=args.batch, options={**options, "coordinates": False, "padding": 0.0},
                accelerator="cpu",
            )
        )  # fmt: skip
    # the first epoch of fit warms up
    pairs = list(zip(fit_seconds[1:], bare_seconds[1:], strict=True))
    ratios = sorted(a / b for a, b in pairs)
    a, b = (1000 * statistics.median(p[k] for p in pairs) for k in (0, 1))
    print(
        f"fno {args.resolution}^2, batch {args.batch}, loss {args.loss}, {args.threads} thread: "
        f"bare {b:.1f} ms, opkit fit {a:.1f} ms a step; ratio {statistics.median(ratios):.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}), at most 1.1 is asked for"
    )


if __name__ == "__main__":
    main()
