"""Batches: the right samples, shuffled the same everywhere, read by any number of workers."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
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
    assert not any(t.name.startswith("opkit-read-ahead") for t in threading.enumerate())
    with pytest.raises(IndexError, match="out of range"):
        list(make_loader(data, BatchSampler(len(data) + 3, 2)))


def test_workers_read_few_large_batches_ahead(split, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FieldData(split, cache=False)
    sampler = BatchSampler(len(data), 3)
    size = 3 * sum(t.nbytes for t in data[[0]].values())
    for limit, factor in ((2 * size, 2), (2 * size - 1, 1)):
        monkeypatch.setattr("opkit.data.MAX_AHEAD", limit)
        loader = make_loader(data, sampler, num_workers=2)
        assert loader.prefetch_factor == factor
    rows = [batch["u"] for batch in loader]
    np.testing.assert_array_equal(torch.cat(rows), split.read(range(len(split)), ["u"])["u"])


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
        MissingShardError,
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
    ways = _watch(monkeypatch)
    fast = split.read(index)
    assert ways == {"index": [9], "open file": []}  # nothing was opened in HDF5
    (tmp_path / "dataset.json").rename(tmp_path / "kept")
    opened = open_dataset(tmp_path)["train"].read(index)
    assert ways == {"index": [9], "open file": [True] * 4}  # two fields in two files
    (tmp_path / "kept").rename(tmp_path / "dataset.json")
    monkeypatch.setattr(reader, "MIN_RAW", 10**9)
    slow = split.read(index)
    assert ways == {"index": [9], "open file": [True] * 4}
    for name in slow:
        np.testing.assert_array_equal(fast[name], slow[name])
        np.testing.assert_array_equal(opened[name], slow[name])
    # damage is seen, and told as HDF5 would
    monkeypatch.setattr(reader, "MIN_RAW", 1)
    path = split.files[0]
    value = split.read([5])["a"][0, 50].tobytes()
    close_files()
    data, stat = bytearray(path.read_bytes()), path.stat()
    data[data.index(value) + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match="sample id 5"):
        split.read([4, 5])
    assert ways["open file"][-1] is False
    np.testing.assert_array_equal(split.read([4])["a"], split.read([4], ["a"])["a"])
    # also where the file looks untouched
    close_files()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ways["index"].clear()
    with pytest.raises(ChecksumError, match="sample id 5"):
        split.read([4, 5])
    assert ways["index"] == [1]
    # a copy has other inodes: HDF5 is asked where the samples lie
    expected = slow["u"][[index.index(10), index.index(11)]]
    copy = shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda *_: ["copy"])
    ways["index"].clear()
    np.testing.assert_array_equal(open_dataset(copy)["train"].read([10, 11])["u"], expected)
    assert ways["index"] == []
    path.unlink()
    with pytest.raises(MissingShardError, match="is missing"):
        split.read([4, 6])


def _watch(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """Note how many samples are read by the index, and what else is read past HDF5."""
    from pde_data.hdf5 import Split
    from pde_data.hdf5._raw import RawChunks

    ways: dict[str, list] = {"index": [], "open file": []}
    read, by_index = RawChunks.read, Split._read_past_hdf5

    def note(self, *args):
        left = by_index(self, *args)
        if not left.all():
            ways["index"].append(int((~left).sum()))
        return left

    monkeypatch.setattr(Split, "_read_past_hdf5", note)
    monkeypatch.setattr(
        RawChunks,
        "read",
        lambda self, *a: ways["open file"].append(read(self, *a)) or ways["open file"][-1],
    )
    return ways


@pytest.mark.parametrize("change", ["offset", "step", "n", "bytes", "digest", "text", "far"])
def test_an_index_that_was_tampered_with_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    from pde_data.hdf5 import DatasetConfig, DatasetSchema, FieldSpec, ShardWriter, rebuild_index
    from pde_data.hdf5.manifest import chunks_digest
    from solvers.grids import Grid

    schema = DatasetSchema(
        "plain", "p", Grid.unit(128), (FieldSpec("a", "a"), FieldSpec("u", "u")), ("a",), ("u",)
    )
    config = DatasetConfig(
        "plain", {}, (128, 128), "float32", 0, "none", 1e-10, {"train": 10}, 10, None
    )
    stored = np.random.default_rng(0).normal(size=(10, 128, 128)).astype("f4")
    with ShardWriter(tmp_path, split="train", shard=0, schema=schema, config=config) as w:
        for i in w.sample_ids:
            fields = {"a": stored[i], "u": -stored[i]}
            w.add(i, fields=fields, residual=0.0, iterations=1, wall_time=0.0)
    rebuild_index(tmp_path)
    ways = _watch(monkeypatch)
    order = [7, 1, 3, 9, 0, 2, 8, 4, 5]
    assert np.array_equal(open_dataset(tmp_path)["train"].read(order)["a"], stored[order])
    assert ways["index"] == [9]
    path = tmp_path / "dataset.json"
    manifest = json.loads(path.read_text())
    entry = manifest["splits"]["train"]["shards"][0]
    run = entry["chunks"]["t0_fields/a"][0]
    if change in ("offset", "far"):  # the place of another sample, whose checksum is right
        run[1] = run[1] + run[2] if change == "offset" else 2**62
    elif change == "step":
        run[2] = 0
    elif change == "n":
        run[0] = 1
    elif change == "bytes":
        entry["bytes"] += 1
    elif change == "digest":
        entry["chunks_digest"] = None
    else:
        entry["chunks"] = "nonsense"
    if change in ("far", "n", "text"):  # even if it is as it was written
        entry["chunks_digest"] = chunks_digest(entry)
    path.write_text(json.dumps(manifest))
    ways["index"].clear()
    got = open_dataset(tmp_path)["train"].read(order)
    assert ways["index"] == []
    np.testing.assert_array_equal(got["a"], stored[order])
    np.testing.assert_array_equal(got["u"], -stored[order])


@pytest.mark.parametrize("n", [2, 64, 511, 512, 8192, 17161, 33333])
def test_sums_of_the_checksum_by_definition(n: int) -> None:
    from pde_data.hdf5._raw import _LANES, _sums

    lanes = np.zeros(2 * _LANES, np.uint32)
    random = np.random.default_rng(n).integers(0, 2**16, n)
    for words in (random, np.full(n, 2**16 - 1), np.full(n, 2**16 - 2)):
        first = second = 0
        for w in words.tolist():
            first = (first + w) % 65535
            second = (second + first) % 65535
        assert _sums(words.astype(np.uint16), lanes) == (first, second)


@pytest.mark.parametrize(("size", "most"), [(10**6, 4), (10**7, 3), (40 * 10**6, 1)])
def test_few_large_batches_are_read_ahead(size: int, most: int) -> None:
    import threading

    from opkit.data import _ReadAhead

    started, enough = [], threading.Semaphore(0)

    class Sized(torch.utils.data.Dataset):
        def __getitem__(self, index):
            started.append(index)
            enough.release()
            return {"u": torch.empty(size, dtype=torch.uint8).expand(2, -1)}

    loader = _ReadAhead(Sized(), batch_size=None, sampler=range(12))
    for k, batch in enumerate(loader):
        assert batch["u"].nbytes == 2 * size
        ready = min(12, k + 1 + most)
        while len(started) < ready:
            assert enough.acquire(timeout=60)
        assert len(started) == ready
    assert sorted(started) == list(range(12))
