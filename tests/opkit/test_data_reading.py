"""Batches: the right samples, shuffled the same everywhere, read by any number of workers."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from opkit.data import (
    BatchSampler,
    FieldData,
    SplitData,
    available_memory,
    epoch_seed,
    file_blocks,
    make_loader,
)
from opkit.tasks.grid import GridTask
from pde_data.hdf5 import open_dataset

_spec = importlib.util.spec_from_file_location(
    "opkit_synthetic", Path(__file__).with_name("synthetic.py")
)
synthetic = sys.modules.setdefault("opkit_synthetic", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(synthetic)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("data") / "syn")


@pytest.fixture
def split(data: Path):
    return open_dataset(data)["train"]


@pytest.mark.parametrize("cache", [True, False])
def test_a_batch_holds_what_the_file_does(split, cache: bool) -> None:
    task = GridTask.from_schema(split.schema)
    batch = SplitData(split, task, cache=cache, dtype=torch.float64)[[7, 2, -4]]
    x, y, w = batch
    assert x.shape == (3, 2, 9, 9) and y.shape == (3, 1, 9, 9)
    assert w.tolist() == [1, 1, 0]
    for row, i in enumerate([7, 2, 3]):
        s = split[i]
        np.testing.assert_array_equal(x[row, 0], s["inputs"]["a"])
        np.testing.assert_array_equal(x[row, 1], np.full((9, 9), s["inputs"]["c"]))
        np.testing.assert_array_equal(y[row, 0], s["outputs"]["u"])


@pytest.mark.parametrize(("n", "batch", "world"), [(12, 5, 1), (13, 4, 3), (2, 8, 3), (7, 1, 2)])
def test_every_sample_once_on_all_processes(n: int, batch: int, world: int) -> None:
    samplers = [BatchSampler(n, batch, seed=3, rank=r, world=world) for r in range(world)]
    batches = [list(s) for s in samplers]
    assert len({len(b) for b in batches}) == 1 and len(batches[0]) == len(samplers[0])
    assert {len(part) for b in batches for part in b[:-1]} <= {batch}
    seen = [i for b in batches for part in b for i in part]
    assert sorted(i for i in seen if i >= 0) == list(range(n))
    assert sum(i < 0 for i in seen) == -n % world  # filling, of weight 0


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BatchSampler(20, 6, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 4) == list(BatchSampler(20, 6, seed=1, epoch=4))
    assert len({str(order(s, e)) for s in (0, 1) for e in (0, 1, 2)}) == 6
    assert list(BatchSampler(5, 2)) == [[0, 1], [2, 3], [4]]
    assert epoch_seed(1, 2) == epoch_seed(1, 2) != epoch_seed(1, 2, rank=1)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_give_the_same_batches(split) -> None:
    task = GridTask.from_schema(split.schema)
    lazy = pickle.loads(pickle.dumps(SplitData(split, task, cache=False)))
    held = SplitData(split, task, cache=True)
    assert held.cached and not lazy.cached
    batches = []
    for d, workers in ((held, 0), (lazy, 0), (lazy, 2)):
        loader = make_loader(d, BatchSampler(len(d), 5, seed=0), num_workers=workers)
        batches.append(list(loader))
        del loader
    for others in batches[1:]:
        for a, b in zip(batches[0], others, strict=True):
            assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_what_does_not_fit_is_not_held(split, monkeypatch: pytest.MonkeyPatch) -> None:
    import opkit.data

    task = GridTask.from_schema(split.schema)
    size = 12 * 81 * 3 * 4
    monkeypatch.setattr(opkit.data, "available_memory", lambda: 4 * size)
    assert not SplitData(split, task).cached
    assert SplitData(split, task, limit=6).cached
    monkeypatch.setattr(opkit.data, "available_memory", lambda: 4 * size + 4)
    assert SplitData(split, task).cached
    assert len(SplitData(split, task, limit=6)) == 6
    assert 2**20 < available_memory() < 2**50


# -- what does not fit into memory ---------------------------------------------------------------


def test_samples_are_shuffled_within_windows_of_files() -> None:
    blocks = (5, 7, 3, 6, 4)
    ends = np.cumsum(blocks)
    file_of = np.searchsorted(ends, np.arange(25), side="right")
    orders = []
    for epoch in range(20):
        order = BatchSampler(25, 4, seed=1, epoch=epoch, blocks=blocks, window=2).order()
        assert sorted(order) == list(range(25))
        files = file_of[order]
        first = []  # the files in the order in which they are first used
        for f in files:
            if f not in first:
                first.append(f)
        position = 0
        for k in range(0, 5, 2):
            n = sum(blocks[f] for f in first[k : k + 2])
            assert set(files[position : position + n]) == set(first[k : k + 2])
            position += n
        orders.append(order.tolist())
    assert len({str(o) for o in orders}) == 20
    # the samples of two files are mixed, and any file may come first
    assert any(file_of[o[0]] != file_of[o[1]] for o in orders)
    assert {int(file_of[o[0]]) for o in orders} == set(range(5))
    # few files: as in memory
    near = BatchSampler(25, 4, seed=1, blocks=blocks, window=5).order()
    np.testing.assert_array_equal(near, BatchSampler(25, 4, seed=1).order())
    with pytest.raises(ValueError, match="blocks has 24 samples, expected n=25"):
        BatchSampler(25, 4, blocks=(24,))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("workers", "method"), [(0, "fork"), (2, "fork"), (1, "spawn")])
def test_the_order_does_not_depend_on_who_reads(split, workers: int, method: str) -> None:
    data = FieldData(split, ["a", "u", "c"], cache=False)
    assert data.blocks == (5, 5, 2) and file_blocks(split, 7) == (5, 2)
    sampler = BatchSampler(len(data), 5, seed=3, blocks=data.blocks, window=1)
    loader = make_loader(data, sampler, num_workers=workers, start_method=method)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        indices = list(sampler)
        for index, batch in zip(indices, loader, strict=True):
            expected = split.read(index, ["a", "u", "c"])
            for name, values in expected.items():
                np.testing.assert_array_equal(batch[name], values)


def test_errors_and_early_ends_of_reading_ahead(split) -> None:
    import threading

    data = FieldData(split, cache=False)
    loader = make_loader(data, BatchSampler(len(data), 2))
    for _ in loader:
        break
    names = [t.name for t in threading.enumerate()]
    assert "opkit-read-ahead" not in names
    with pytest.raises(IndexError, match="out of range"):
        list(make_loader(data, BatchSampler(len(data) + 3, 2)))


def test_parts_of_the_fields(split) -> None:
    whole = split.read(range(12), ["a"])["a"]
    for cache in (True, False):
        data = FieldData(split, ["a"], resolution=5, cache=cache)
        np.testing.assert_array_equal(data[[7, 2, -4]]["a"], whole[[7, 2, 3], ::2, ::2])
    with pytest.raises(ValueError, match="resolution=4: axis 'x' has 9 points"):
        FieldData(split, resolution=4)


def test_times_and_components(tmp_path: Path) -> None:
    from pde_data.hdf5 import DatasetConfig, DatasetSchema, FieldSpec, ShardWriter, rebuild_index
    from solvers.grids import Grid

    schema = DatasetSchema(
        "moving", "m", Grid.unit(5), (FieldSpec("v", "v", rank=1, time_varying=True),), ("v",),
        ("v",), problem_type="time_dependent", time=(0.0, 0.5, 1.0, 1.5),
    )  # fmt: skip
    config = DatasetConfig("moving", {}, (5, 5), "float32", 0, "none", 1e-10, {"train": 3}, 2)
    stored = np.random.default_rng(0).normal(size=(3, 4, 5, 5, 2)).astype("f4")
    for shard in range(2):
        with ShardWriter(tmp_path, split="train", shard=shard, schema=schema, config=config) as w:
            for i in w.sample_ids:
                w.add(i, fields={"v": stored[i]}, residual=0.0, iterations=1, wall_time=0.0)
    rebuild_index(tmp_path)
    split = open_dataset(tmp_path)["train"]
    data = FieldData(split, window=slice(1, 4, 2), components={"v": [1]}, cache=False)
    np.testing.assert_array_equal(data[[2, 0]]["v"], stored[[2, 0], 1:4:2][..., [1]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reading_past_hdf5_gives_what_hdf5_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    from pde_data.hdf5 import (
        ChecksumError,
        DatasetConfig,
        DatasetSchema,
        FieldSpec,
        ShardWriter,
        close_files,
        reader,
        rebuild_index,
    )
    from solvers.grids import Grid

    n = 131 if dtype == "float32" else 97  # chunks of one sample, of an odd number of words
    schema = DatasetSchema(
        "plain", "p", Grid.unit(n), (FieldSpec("a", "a"), FieldSpec("u", "u")), ("a",), ("u",),
        dtype=dtype,
    )  # fmt: skip
    config = DatasetConfig("plain", {}, (n, n), dtype, 0, "none", 1e-10, {"train": 12}, 7, None)
    rng = np.random.default_rng(0)
    for shard in range(2):
        with ShardWriter(tmp_path, split="train", shard=shard, schema=schema, config=config) as w:
            for i in w.sample_ids:
                u = np.zeros((n, n)) if i == 3 else rng.normal(size=(n, n))
                w.add(i, fields={"a": u, "u": u**2}, residual=0.0, iterations=1, wall_time=0.0)
    rebuild_index(tmp_path)
    split = open_dataset(tmp_path)["train"]
    index = [11, 3, 3, 0, 7, 6, 1, 10, 2]
    calls = []
    from pde_data.hdf5._raw import RawChunks

    read = RawChunks.read
    monkeypatch.setattr(
        RawChunks, "read", lambda self, *a: calls.append(read(self, *a)) or calls[-1]
    )
    fast = split.read(index)
    assert calls == [True] * 4  # two fields in two files
    monkeypatch.setattr(reader, "MIN_RAW", 10**9)
    slow = split.read(index)
    assert len(calls) == 4
    for name in slow:
        np.testing.assert_array_equal(fast[name], slow[name])
    # damage is seen, and told as HDF5 would
    monkeypatch.setattr(reader, "MIN_RAW", 1)
    path = split.files[0]
    value = split.read([5])["a"][0, 50].tobytes()
    close_files()
    data = bytearray(path.read_bytes())
    data[data.index(value) + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match="sample id 5"):
        split.read([4, 5])
    assert calls[-1] is False
    np.testing.assert_array_equal(split.read([4])["a"], split.read([4], ["a"])["a"])
