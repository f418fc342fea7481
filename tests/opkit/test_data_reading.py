"""Batches: the right samples, shuffled the same everywhere, read by any number of workers."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from opkit.data import BatchSampler, SplitData, available_memory, epoch_seed, make_loader
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
