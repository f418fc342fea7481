"""Damaged files, and any order of writing, losing, resuming and reading."""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pde_data.hdf5 import (
    ChecksumError,
    DatasetError,
    ShardWriter,
    check_dataset,
    clean_temporaries,
    find_damaged,
    is_complete_shard,
    open_dataset,
    rebuild_index,
    shard_path,
)

HERE = Path(__file__).parent
S = SimpleNamespace(**runpy.run_path(str(HERE / "h5_samples.py")))


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 500), *(pytest.param(s, 2000, marks=pytest.mark.slow) for s in (1, 2))]
)
def test_mutated_files(tmp_path, seed, count):
    """Whatever is changed in a file of any layout, nothing but a DatasetError comes out of it:
    no crash, no hang, no 512 MiB, no other file."""
    command = [sys.executable, "-W", "ignore", str(HERE / "h5_mutate.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path), str(seed), str(count)],
        capture_output=True, text=True, timeout=580, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 0.8 * count  # that many were really changed


def test_heap_that_hdf5_would_never_leave(tmp_path):
    """An object of the heap of strings that says it is free and of length 0."""
    S.write_dataset(tmp_path / "d", S.ode(), {"train": 2})
    path = open_dataset(tmp_path / "d")["train"].files[0]
    data = bytearray(path.read_bytes())
    heap = data.find(b"GCOL")
    data[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match="heap of strings") as e:
        open_dataset(path)
    assert str(path) in str(e.value)
    assert next(f.kind for f in check_dataset(path)) == "ChecksumError"


class Lifetime(RuleBasedStateMachine):
    """A dataset of four shards of three samples; the model is what each shard holds."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="opkit-test-"))
        self.whole, self.damaged, self.indexed = {}, set(), None

    def teardown(self):
        shutil.rmtree(self.root)

    @initialize(kind=st.sampled_from(["ode", "pipes", "beam", "darcy"]))
    def begin(self, kind):
        self.schema = getattr(S, kind)()
        self.config = S.config_of(self.schema, {"train": 9, "valid": 3}, samples_per_shard=3)

    def path(self, split, k):
        return shard_path(self.root, split, k, problem=self.schema.problem)

    def write(self, split, k, fail):
        stored = S.write_shard(
            self.root, self.schema, self.config, split, k, fail=fail, keep_more=True
        )
        self.whole[split, k] = stored
        self.damaged.discard((split, k))

    shards = st.sampled_from([("train", 0), ("train", 1), ("train", 2), ("valid", 0)])

    @rule(at=shards, fail=st.sets(st.integers(0, 8), max_size=2))
    def write_one(self, at, fail):
        if at not in self.whole:
            self.write(*at, fail)

    @rule(at=shards)
    def write_again(self, at):
        """The same samples come out, failed ones may be there now."""
        if at in self.whole and at not in self.damaged:
            before = self.whole[at]
            self.write(*at, set())
            assert set(before) <= set(self.whole[at])

    @rule(at=shards)
    def killed(self, at):
        """A writer that ends in the middle changes nothing."""
        w = ShardWriter(self.root, split=at[0], shard=at[1], schema=self.schema, config=self.config)
        with pytest.raises(KeyboardInterrupt), w:
            w.fail(w.sample_ids[0], "no")
            raise KeyboardInterrupt
        (self.path(*at).parent / f".{self.path(*at).stem}.abc.tmp").write_bytes(b"half")
        assert clean_temporaries(self.root, *at, problem=self.schema.problem) == 1

    @rule(at=shards, where=st.floats(0.1, 0.9))
    def truncated(self, at, where):
        if at in self.whole:
            data = self.path(*at).read_bytes()
            self.path(*at).write_bytes(data[: int(where * len(data))])
            self.damaged.add(at)

    @rule(at=shards)
    def lost(self, at):
        if self.whole.pop(at, None) is not None:
            self.path(*at).unlink()
            self.damaged.discard(at)

    @rule()
    def index(self):
        if not self.whole or self.damaged:
            with pytest.raises((DatasetError, FileNotFoundError)):
                rebuild_index(self.root)
        elif not any(self.whole.values()):
            return
        else:
            rebuild_index(self.root)
            self.indexed = {at: dict(v) for at, v in self.whole.items()}

    @rule()
    def resume(self):
        """What `opkit generate --resume` does: make what is not complete."""
        for at in [("train", 0), ("train", 1), ("train", 2), ("valid", 0)]:
            ids = self.config.sample_ids(*at)
            done = is_complete_shard(self.path(*at), ids=ids)
            assert done == (at in self.whole and at not in self.damaged)
            if not done:
                self.write(*at, set())
        rebuild_index(self.root)
        self.indexed = {at: dict(v) for at, v in self.whole.items()}
        assert find_damaged(self.root) == []

    @precondition(lambda self: self.indexed is not None)
    @invariant()
    def reading(self):
        """Either the data, or an error that says what is wrong."""
        if self.damaged or self.whole.keys() != self.indexed.keys():
            found = {d.path for d in find_damaged(self.root)}
            gone = {self.path(*at) for at in self.indexed.keys() - self.whole.keys()}
            assert gone | {self.path(*at) for at in self.damaged} <= found
            with pytest.raises(DatasetError):
                self.read_all()
        elif {at: set(v) for at, v in self.whole.items()} == {
            at: set(v) for at, v in self.indexed.items()
        }:
            assert self.read_all() == {i for v in self.whole.values() for i in v}
        else:  # written again with more samples since
            with pytest.raises(DatasetError):
                self.read_all()

    def read_all(self):
        if self.whole.keys() - self.indexed.keys():  # not read, but found
            raise DatasetError("; ".join(map(str, check_dataset(self.root, quick=True))))
        dataset, ids = open_dataset(self.root), set()
        for split in dataset.splits:
            for i, sample_id in enumerate(dataset[split].ids.tolist()):
                fields = next(v for v in self.whole.values() if sample_id in v)[sample_id][0]
                sample = dataset[split][i]
                for name in self.schema.outputs:
                    expected = fields[name].astype(self.schema.dtype)
                    np.testing.assert_array_equal(sample["outputs"][name], expected)
                ids.add(sample_id)
        return ids


TestLifetime = Lifetime.TestCase
TestLifetime.settings = settings(
    max_examples=12,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_a_pickled_schema_is_equal():
    import pickle

    for schema in (S.beam(), S.pipes(), S.ode(), S.sinogram()):
        again = pickle.loads(pickle.dumps(schema))
        assert again == schema and hash(again) == hash(schema)
    other = replace(S.beam(), mesh=S.square_mesh(6), boundary_conditions=())
    assert other != S.beam()
