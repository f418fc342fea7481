"""Shuffled batches of 32 samples, grid 128 x 128, float32, beside plain reads and other loaders.

    python benchmarks/bench_read.py [-n 4096] [--directory DIR]

All read the same bytes: one input and one output field a sample, uncompressed, every file handle
opened anew for each pass. What is compared with:

- plain h5py: one file, two contiguous datasets; batches in the order in which they lie, each
  dropped before the next (the same memory is filled again and again: the fastest there is), and
  both arrays as a whole (into memory that the system has to clear first);
- The Well's `WellDataset` on opkit's own shards, with torch's `DataLoader`;
- neuraloperator's `H5pyDataset` on a file of its layout, its own batching by `DataLoader`;
- a `TensorDataset` of tensors in memory with `DataLoader`, as neuraloperator loads ``.pt`` files,
  beside opkit's cache in memory.

Passes alternate; each number is the best of several. Files are in the page cache: this is the cost
of software, not of the disk. Writes benchmarks/results/read.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from opkit.data import BatchSampler, FieldData, SplitData, make_loader
from opkit.tasks.grid import GridTask
from pde_data.hdf5 import (
    DatasetConfig,
    DatasetSchema,
    FieldSpec,
    ShardWriter,
    close_files,
    open_dataset,
    rebuild_index,
)
from solvers.grids import Grid

POINTS, BATCH = 128, 32
RESULTS = Path(__file__).parent / "results" / "read.json"


def write(root: Path, n: int, compression: str | None) -> None:
    fields = (FieldSpec("a", "coefficient"), FieldSpec("u", "solution"))
    schema = DatasetSchema("bench", "benchmark", Grid.unit(POINTS), fields, ("a",), ("u",))
    config = DatasetConfig(
        "bench", {}, (POINTS, POINTS), "float32", 0, "none", 1e-10, {"train": n}, max(64, n // 128),
        compression,  # type: ignore[arg-type]
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x = np.linspace(0, np.pi, POINTS)
    pool = []
    for _ in range(16):
        k, m = rng.integers(1, 5, 2)
        u = np.outer(np.sin(k * x), np.sin(m * x)) + 1e-3 * rng.normal(size=(POINTS, POINTS))
        pool.append({"a": np.where(u > 0, 12.0, 3.0), "u": u})
    for shard in range(config.n_shards("train")):
        with ShardWriter(root, split="train", shard=shard, schema=schema, config=config) as w:
            for i in w.sample_ids:
                w.add(i, fields=pool[i % 16], residual=0.0, iterations=1, wall_time=0.0)
    rebuild_index(root)


def plain_copy(root: Path, path: Path) -> None:
    """Write the samples into one file with two contiguous datasets."""
    split = open_dataset(root)["train"]
    with h5py.File(path, "w") as f:
        sets = [f.create_dataset(k, (len(split), POINTS, POINTS), "f4") for k in "au"]
        for i in range(0, len(split), 256):
            rows = range(i, min(i + 256, len(split)))
            for name, ds in zip("au", sets, strict=True):
                ds[rows[0] : rows[-1] + 1] = split.read(rows, [name])[name]


def read_plain(path: Path) -> int:
    n = 0
    with h5py.File(path) as f:
        a, u = f["a"], f["u"]
        for i in range(0, len(a), BATCH):
            n += a[i : i + BATCH].nbytes + u[i : i + BATCH].nbytes
    return n


def read_whole(path: Path) -> int:
    with h5py.File(path) as f:
        return f["a"][...].nbytes + f["u"][...].nbytes


def read_opkit(root: Path, seed: int, workers: int = 0) -> int:
    """Every batch as model input and output, shuffled within windows of files."""
    close_files()
    split = open_dataset(root)["train"]
    data = SplitData(split, GridTask.from_schema(split.schema), cache=False)
    sampler = BatchSampler(len(data), BATCH, seed=seed, blocks=data.blocks)
    return sum(x.nbytes + y.nbytes for x, y, _ in make_loader(data, sampler, num_workers=workers))


def read_split(root: Path, seed: int) -> int:
    """Read with the numpy reader alone, in the same order, in this thread."""
    close_files()
    split = open_dataset(root)["train"]
    sampler = BatchSampler(len(split), BATCH, seed=seed, blocks=split.part_sizes)
    return sum(a.nbytes for batch in sampler for a in split.read(batch).values())


def read_fields(root: Path, seed: int) -> int:
    close_files()
    data = FieldData(open_dataset(root)["train"], cache=False)
    sampler = BatchSampler(len(data), BATCH, seed=seed, blocks=data.blocks)
    return sum(t.nbytes for batch in make_loader(data, sampler) for t in batch.values())


def loader_of(dataset: object, seed: int) -> torch.utils.data.DataLoader:
    g = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, generator=g)


def read_well(root: Path, seed: int) -> int:
    from the_well.data import WellDataset

    # static data come as constant fields; the loader wants one directory a split
    data = WellDataset(
        path=str(root / "data" / "train"), n_steps_input=1, n_steps_output=0,
        use_normalization=False,
    )  # fmt: skip
    return sum(batch["constant_fields"].nbytes for batch in loader_of(data, seed))


def read_neuralop(path: Path, seed: int) -> int:
    """Read with neuraloperator's own class, loaded from its file: its package imports much more."""
    spec = importlib.util.find_spec("neuralop")
    name = Path(spec.origin).parent / "data" / "datasets" / "hdf5_dataset.py"
    module_spec = importlib.util.spec_from_file_location("neuralop_hdf5", name)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    data = module.H5pyDataset(path, resolution=1024)  # of 1024: every point
    return sum(b["x"].nbytes + b["y"].nbytes for b in loader_of(data, seed))


def best(tasks: dict[str, Callable[[int], int]], repeat: int, expected: int) -> dict[str, float]:
    times = dict.fromkeys(tasks, np.inf)
    for k in range(repeat):
        for name, task in tasks.items():
            start = time.perf_counter()
            n = task(k)
            times[name] = min(times[name], time.perf_counter() - start)
            if n != expected:
                raise SystemExit(f"{name}: read {n} bytes, expected {expected}")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--directory", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tmp = Path(tempfile.mkdtemp(dir=args.directory))
    try:
        raw, packed, plain = tmp / "raw", tmp / "packed", tmp / "plain.h5"
        write(raw, args.n, None)
        write(packed, args.n, "gzip")
        plain_copy(raw, plain)
        neural = tmp / "neural.h5"
        with h5py.File(plain) as f, h5py.File(neural, "w") as g:
            for a, b in (("a", "x"), ("u", "y")):
                f.copy(a, g, b)
        held = SplitData(
            open_dataset(raw)["train"], GridTask.from_schema(open_dataset(raw).schema), cache=True
        )
        held.load()
        tensors = torch.utils.data.TensorDataset(*held[np.arange(args.n)][:2])

        def from_cache(seed: int) -> int:
            loader = make_loader(held, BatchSampler(len(held), BATCH, seed=seed))
            return sum(x.nbytes + y.nbytes for x, y, _ in loader)

        def from_tensors(seed: int) -> int:
            return sum(x.nbytes + y.nbytes for x, y in loader_of(tensors, seed))

        tasks: dict[str, Callable[[int], int]] = {
            "plain h5py, contiguous, in order": lambda seed: read_plain(plain),
            "plain h5py, contiguous, whole": lambda seed: read_whole(plain),
            "opkit, numpy reader": lambda seed: read_split(raw, seed),
            "opkit, torch loader": lambda seed: read_opkit(raw, seed),
            "opkit, torch loader of fields": lambda seed: read_fields(raw, seed),
            "opkit, torch loader, gzip": lambda seed: read_opkit(packed, seed),
            "The Well, WellDataset": lambda seed: read_well(raw, seed),
            "neuraloperator, H5pyDataset": lambda seed: read_neuralop(neural, seed),
            "opkit, in memory": from_cache,
            "TensorDataset, in memory": from_tensors,
        }
        expected = args.n * 2 * POINTS**2 * 4
        for name in ("The Well, WellDataset", "neuraloperator, H5pyDataset"):
            with contextlib.redirect_stdout(None):
                try:
                    tasks[name](0)
                except (ImportError, OSError, AttributeError, TypeError, ValueError) as e:
                    print(f"{name}: left out, {type(e).__name__}: {e}")
                    del tasks[name]
        times = best(tasks, args.repeat, expected)
        reference = times["plain h5py, contiguous, in order"]
        print(
            f"{args.n} samples of 2 x {POINTS}^2 float32, batches of {BATCH}, best of {args.repeat}"
        )
        facts = {
            name: {"GB/s": round(expected / t / 1e9, 2), "of plain h5py": round(reference / t, 2)}
            for name, t in times.items()
        }
        RESULTS.write_text(json.dumps({"samples": args.n, **facts}, indent=1) + "\n")
        for name, t in times.items():
            print(f"{name:34s} {expected / t / 1e9:6.2f} GB/s  {reference / t:5.2f} of plain h5py")
    finally:
        shutil.rmtree(tmp)


if __name__ == "__main__":
    main()
