"""Cost of the dataset format: random reads, writing, index.

    python benchmarks/bench_hdf5.py

Each number is measured beside what it is compared with, in one run, on one core; minima over
repetitions. Cold caches are not forced: this is decoding and HDF5 overhead, not the disk.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from pde_data.hdf5 import (
    DatasetConfig,
    DatasetSchema,
    FieldSpec,
    ShardWriter,
    check_dataset,
    open_dataset,
    rebuild_index,
)
from solvers.grids import Grid


def best(f: Callable[[], object], repeat: int = 3) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def fields(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Make a two-valued coefficient and a smooth solution, as Darcy flow has them."""
    x = np.pi * np.linspace(0, 1, n)
    k = np.arange(1, 17)
    modes = rng.normal(size=(16, 16)) / (k[:, None] ** 2 + k**2)
    u = np.sin(np.outer(x, k)) @ modes @ np.sin(np.outer(k, x))
    return {"a": np.where(u > 0, 12.0, 3.0), "u": u}


def schema_of(n: int) -> DatasetSchema:
    names = (FieldSpec("a", "coefficient"), FieldSpec("u", "solution"))
    return DatasetSchema("darcy", "benchmark", Grid.unit(n), names, ("a",), ("u",))


def config_of(n: int, count: int, size: int, compression: str | None = "gzip") -> DatasetConfig:
    return DatasetConfig(
        "darcy",
        {},
        (n, n),
        "float32",
        0,
        "none",
        1e-10,
        {"train": count},
        size,
        compression,  # type: ignore[arg-type]
    )


def write(root: Path, n: int, count: int, size: int, compression: str | None = "gzip") -> float:
    """Write a dataset and return the seconds spent in the writer."""
    schema, config = schema_of(n), config_of(n, count, size, compression)
    rng = np.random.default_rng(0)
    pool = [fields(n, rng) for _ in range(min(count, 16))]
    start = time.perf_counter()
    for k in range(config.n_shards("train")):
        with ShardWriter(root, split="train", shard=k, schema=schema, config=config) as w:
            for i in w.sample_ids:
                w.add(i, fields=pool[i % 16], residual=0.0, iterations=1, wall_time=0.0)
    return time.perf_counter() - start


def write_by_hdf5(path: Path, n: int, count: int, **storage: object) -> float:
    """Write the same fields through HDF5's own filters."""
    rng = np.random.default_rng(0)
    pool = [fields(n, rng) for _ in range(min(count, 16))]
    start = time.perf_counter()
    with h5py.File(path, "w") as f:
        for name in ("a", "u"):
            f.create_dataset(name, (count, n, n), "f4", compression="gzip", shuffle=True, **storage)
        block = {name: np.stack([p[name] for p in pool]) for name in ("a", "u")}
        for i in range(0, count, 16):
            for name in ("a", "u"):
                f[name][i : i + 16] = block[name][: count - i]
    return time.perf_counter() - start


def read_all(path: Path, order: np.ndarray) -> None:
    with h5py.File(path) as f:
        a, u = f["a"], f["u"]
        for i in order:
            a[i], u[i]


def main() -> None:
    tmp = Path(tempfile.mkdtemp())
    try:
        n, count = 241, 512
        write(tmp / "d", n, count, 64)
        write_by_hdf5(tmp / "auto.h5", n, count, chunks=True)
        order = np.random.default_rng(1).permutation(count)[:64]
        split = open_dataset(tmp / "d")["train"]
        ours = best(lambda: [split.read([i]) for i in order]) / len(order)
        auto = best(lambda: read_all(tmp / "auto.h5", order), 2) / len(order)
        print(
            f"random read of 2 x {n}²: {ours * 1e3:.2f} ms a sample; h5py's own chunks "
            f"{auto * 1e3:.1f} ms ({auto / ours:.0f} times; needed: 10)"
        )

        for n, count in ((128, 256), (421, 64)):
            shutil.rmtree(tmp / "w", ignore_errors=True)
            first = write(tmp / "w", n, count, 64)
            shutil.rmtree(tmp / "w")
            ours = min(first, write(tmp / "w", n, count, 64)) / count
            level4 = (
                write_by_hdf5(
                    tmp / "l4.h5", n, count, chunks=(1, n, n), compression_opts=4, fletcher32=True
                )
                / count
            )
            size = sum(p.stat().st_size for p in (tmp / "w").rglob("*.h5")) / count
            size4 = (tmp / "l4.h5").stat().st_size / count
            print(
                f"write 2 x {n}²: {ours * 1e3:.2f} ms a sample, {size / 1024:.0f} KiB (digests, "
                f"checks, statistics included); HDF5's gzip level 4 alone {level4 * 1e3:.2f} ms, "
                f"{size4 / 1024:.0f} KiB"
            )

        shutil.rmtree(tmp / "w")
        write(tmp / "w", 33, 10_000, 79)
        print(
            f"index of 10,000 samples in {-(-10_000 // 79)} shards: "
            f"{best(lambda: rebuild_index(tmp / 'w'), 1):.1f} s; open_dataset "
            f"{best(lambda: open_dataset(tmp / 'w')) * 1e3:.0f} ms; quick check "
            f"{best(lambda: check_dataset(tmp / 'w', quick=True), 1):.1f} s; full check "
            f"{best(lambda: check_dataset(tmp / 'w'), 1):.1f} s"
        )
    finally:
        shutil.rmtree(tmp)


if __name__ == "__main__":
    main()
