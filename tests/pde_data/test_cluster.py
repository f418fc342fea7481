"""`generate` on a real Dask scheduler and workers, and as a job array of several processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pde_data import problem as registry
from pde_data.generate import GenerateConfig, GenerateError, generate
from pde_data.hdf5 import DatasetSchema, FieldSpec, check_dataset
from pde_data.problem import Problem, Solution
from solvers.grids import Grid

pytest.importorskip("distributed")

# 24 + 3 + 3 shards, 114 samples
SETTINGS = {
    "problem": "darcy", "n": 96, "resolution": 33, "samples_per_shard": 4, "dtype": "float64",
    "params": {"n_modes": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "d"
    return generate(GenerateConfig(out=out, **SETTINGS)).manifest["content_digest"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, directory: Path, workers: int) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.directory, self.processes = directory, []
        self.start(
            "scheduler", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2],
            "--no-dashboard", "--dashboard-address", ":0",
        )  # fmt: skip
        self.wait_for_scheduler()
        for _ in range(workers):
            self.start(
                "worker", self.address, "--nthreads", "1", "--nworkers", "1", "--no-nanny",
                "--no-dashboard", "--dashboard-address", ":0",
                "--local-directory", str(directory / "scratch"),
            )  # fmt: skip

    def wait_for_scheduler(self) -> None:
        end = time.monotonic() + 90
        port = int(self.address.rpartition(":")[2])
        while time.monotonic() < end:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError("the scheduler does not start")

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "dask", *arguments]
        with (self.directory / f"{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
            )

    def stop(self) -> None:
        for p in self.processes[::-1]:
            p.kill()
        for p in self.processes:
            p.wait()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    from pde_data import _cluster

    monkeypatch.setattr(_cluster, "TIMEOUT", 90.0)  # on a busy machine they start slowly
    cluster = Cluster(tmp_path, 2)
    yield cluster
    cluster.stop()


def temporaries(root: Path) -> list[Path]:
    return list(root.glob("data/*/.*"))


def test_a_cluster_makes_the_same_data_though_a_worker_is_killed(tmp_path, whole, cluster):
    events = []

    def kill(event):
        events.append(event)
        if event.done == 40:
            os.kill(cluster.processes[-1].pid, signal.SIGKILL)

    result = generate(
        GenerateConfig(out=tmp_path / "d", cluster=cluster.address, **SETTINGS), progress=kill
    )
    assert cluster.processes[-1].wait(5) == -signal.SIGKILL
    assert result.manifest["content_digest"] == whole
    assert [e.done for e in events] == list(range(115))  # each sample once, whoever made it
    assert (result.solved, result.skipped) == (114, 0)
    assert temporaries(tmp_path / "d") == []
    assert check_dataset(tmp_path / "d", physics=True) == []


def test_an_interrupted_cluster_run_stops_its_workers(tmp_path, whole, cluster):
    root = tmp_path / "d"

    def stop(event):
        if event.done == 30:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        generate(GenerateConfig(out=root, cluster=cluster.address, **SETTINGS), progress=stop)
    assert temporaries(root) == [] and check_dataset(root, physics=True) == []
    time.sleep(2.5)  # what the workers were at comes to nothing
    assert temporaries(root) == []
    again = generate(GenerateConfig(out=root, cluster=cluster.address, resume=True, **SETTINGS))
    assert again.skipped > 0 and again.manifest["content_digest"] == whole


class Broken(Problem):
    """A mistake in the solver, for samples of train from the tenth on."""

    name, title, dim, equation = "broken", "No equation", 1, "u = s"
    solvers: ClassVar[tuple[str, ...]] = ("copy",)

    def schema(self, resolution, dtype="float32"):
        fields = (FieldSpec("s", "s"), FieldSpec("u", "u"))
        grid = Grid.unit(resolution[0], dim=1)
        return DatasetSchema("broken", self.title, grid, fields, ("s",), ("u",), dtype=dtype)

    def sample(self, rng):
        return rng.random()

    def draw(self, rng, sample_id):
        return sample_id

    def solve(self, inputs, resolution, *, solver, rtol=1e-10):
        if 10 <= inputs < 10**9:
            raise KeyError("oops")
        s = np.full(resolution, float(inputs))
        return Solution({"s": s, "u": s}, 0.0, 0, 1e-3, "copy")

    def choose_solver(self, resolution):
        return "copy"


def test_what_fails_on_a_worker_is_told_here(tmp_path, cluster, monkeypatch):
    import cloudpickle

    monkeypatch.setitem(registry._CLASSES, "broken", Broken)
    module = sys.modules[Broken.__module__]  # as in a script: workers cannot import it
    cloudpickle.register_pickle_by_value(module)
    try:
        with pytest.raises(GenerateError, match=r"sample 10: KeyError: 'oops'") as e:
            generate(
                GenerateConfig(
                    problem="broken", out=tmp_path / "d", n=12, samples_per_shard=4,
                    cluster=cluster.address,
                )
            )  # fmt: skip
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert "\n" not in str(e.value) and temporaries(tmp_path / "d") == []
    assert all(p.poll() is None for p in cluster.processes)  # the cluster itself is well


def test_a_cluster_that_is_not_there(tmp_path, monkeypatch):
    from pde_data import _cluster

    monkeypatch.setattr(_cluster, "TIMEOUT", 1.0)
    address = f"tcp://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"cluster={address}: no Dask scheduler answers") as e:
        generate(GenerateConfig(out=tmp_path / "d", cluster=address, **SETTINGS))
    assert "\n" not in str(e.value) and time.monotonic() - start < 20
    assert not (tmp_path / "d").exists()


def test_a_scheduler_without_workers(tmp_path, monkeypatch):
    from pde_data import _cluster

    alone = Cluster(tmp_path, 0)
    try:
        monkeypatch.setattr(_cluster, "TIMEOUT", 10.0)
        with pytest.raises(ValueError, match="the scheduler has no workers; start some with"):
            generate(GenerateConfig(out=tmp_path / "d", cluster=alone.address, **SETTINGS))
    finally:
        alone.stop()


def test_without_dask_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'opkit[cluster]'")):
        generate(GenerateConfig(out=tmp_path / "d", cluster="tcp://127.0.0.1:1", **SETTINGS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "localhost"}, "cluster='localhost': need the address of a scheduler"),
        ({"cluster": "tcp://h:1", "workers": 2}, "workers and cluster exclude each other"),
        ({"cluster": "tcp://h:1", "mpi": True}, "cluster and mpi exclude each other"),
        ({"workers": 2, "mpi": True}, "workers and mpi exclude each other"),
        ({"overwrite": True, "repair": True}, "overwrite and repair exclude each other"),
    ],
)
def test_settings_that_exclude_each_other(tmp_path, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GenerateConfig(out=tmp_path, **{**SETTINGS, **settings})


# -- job arrays ----------------------------------------------------------------------------------

SCRIPT = """
import json, sys
from pde_data.generate import GenerateConfig, generate
generate(GenerateConfig(**json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("ranges", [("0:15", "15:30"), ("0:20", "10:30"), ("0:30", "0:30")])
def test_concurrent_jobs_add_up(tmp_path, whole, ranges):
    root = tmp_path / "d"
    jobs = []
    for part in ranges:
        arguments = json.dumps({**SETTINGS, "out": str(root), "shards": part})
        jobs.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, arguments], stderr=subprocess.PIPE, text=True
            )
        )
        time.sleep(0.3)  # the second starts while the first is at work
    for job in jobs:
        _, err = job.communicate(timeout=120)
        assert job.returncode == 0, err
    manifest = json.loads((root / "dataset.json").read_text())
    assert manifest["content_digest"] == whole
    assert temporaries(root) == [] and check_dataset(root, physics=True) == []
