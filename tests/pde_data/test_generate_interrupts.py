"""Ctrl-C, SIGTERM, SIGKILL and a full disk, on real processes."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import check_dataset, is_complete_shard

SETTINGS = {
    "problem": "darcy", "n": 96, "resolution": 33, "samples_per_shard": 4,
    "params": {"n_modes": 32},
}  # fmt: skip
SCRIPT = """
import json, os, sys
import pde_data.generate
from pde_data.generate import GenerateConfig, generate
settings = json.loads(sys.argv[1])
if settings.pop("apart", False):
    pde_data.generate._APART = 1
limit = settings.pop("limit", None)
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def progress(event):
    print(event.done, event.total, flush=True)
try:
    generate(GenerateConfig(**settings), progress=progress)
except KeyboardInterrupt:
    sys.exit(130)
except OSError as e:
    print(str(e), file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "d"
    return generate(GenerateConfig(out=out, **SETTINGS)).manifest["content_digest"]


def start(root: Path, **settings) -> subprocess.Popen:
    """`generate` in a process group of its own, as in a terminal."""
    arguments = json.dumps({**SETTINGS, "out": str(root), **settings})
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def group(pgid: int) -> list[int]:
    """Processes of a group that are alive."""
    found = []
    for p in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = p.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(pgrp) == pgid and state != "Z":
            found.append(int(p.parent.name))
    return found


def wait_until_gone(pgid: int, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while group(pgid):
        assert time.monotonic() < end, f"processes {group(pgid)} are left over"
        time.sleep(0.1)


def shards(root: Path) -> list[Path]:
    return list(root.glob("data/*/*.h5"))


def temporaries(root: Path) -> list[Path]:
    return list(root.glob("data/*/.*"))


def finish(root: Path, workers: int = 1) -> str:
    result = generate(GenerateConfig(out=root, resume=True, **SETTINGS, workers=workers))
    assert temporaries(root) == [] and check_dataset(root, physics=True) == []
    return result.manifest["content_digest"]


@pytest.mark.parametrize(
    ("signum", "done", "apart"),
    [
        (signal.SIGINT, 1, False), (signal.SIGINT, 37, False), (signal.SIGTERM, 52, False),
        (signal.SIGINT, 1, True), (signal.SIGTERM, 37, True),
    ],
)  # fmt: skip
def test_interrupted_in_this_process(tmp_path, whole, monkeypatch, signum, done, apart):
    """Beside it a thread writes, or a process."""
    monkeypatch.setattr("pde_data.generate._APART", 1 if apart else 10**9)
    root = tmp_path / "d"
    before = signal.getsignal(signum)

    def stop(event):
        if event.done == done:
            os.kill(os.getpid(), signum)

    with pytest.raises(KeyboardInterrupt):
        generate(GenerateConfig(out=root, **SETTINGS), progress=stop)
    assert signal.getsignal(signum) is before
    assert len(shards(root)) == done // 4 and temporaries(root) == []
    if done < 4:
        assert not root.exists()  # nothing half-written
    else:
        assert check_dataset(root, physics=True) == []
        assert finish(root) == whole


@pytest.mark.parametrize("whom", ["group", "parent"])
@pytest.mark.parametrize(
    ("per_shard", "signum"), [(4, signal.SIGINT), (64, signal.SIGINT), (4, signal.SIGTERM)]
)
def test_interrupted_with_workers(tmp_path, whole, whom, per_shard, signum):
    """A terminal sends Ctrl-C to all processes; a batch system may tell the parent alone."""
    root = tmp_path / "d"
    p = start(root, workers=2, samples_per_shard=per_shard)
    for line in p.stdout:  # far enough for some shards to be finished
        if int(line.split()[0]) == 70:
            break
    (os.killpg if whom == "group" else os.kill)(p.pid, signum)
    sent = time.monotonic()
    _, err = p.communicate(timeout=60)
    assert time.monotonic() - sent < 30
    assert p.returncode == 130 and err == ""
    wait_until_gone(p.pid)
    assert shards(root) and temporaries(root) == []
    assert check_dataset(root, physics=True) == []
    if per_shard == 4:
        assert finish(root) == whole


def kill_and_resume(root: Path, rng: random.Random, **settings) -> None:
    """Kill a run at a random moment; every shard that is visible is sound."""
    p = start(root, resume=True, **settings)
    first = p.stdout.readline().split()  # imports are over
    assert first and first[0] == "0"
    time.sleep(rng.uniform(0, 2.5))
    p.kill()
    p.communicate()
    for path in shards(root):
        assert is_complete_shard(path), path
    wait_until_gone(p.pid)  # workers notice that their parent is gone
    for path in shards(root):
        assert is_complete_shard(path), path


@pytest.mark.parametrize(("workers", "apart"), [(1, False), (1, True), (2, False)])
def test_killed_and_resumed(tmp_path, whole, workers, apart):
    rng = random.Random(workers)
    for _ in range(2):
        kill_and_resume(tmp_path / "d", rng, workers=workers, apart=apart)
    assert finish(tmp_path / "d", workers) == whole


def test_interrupted_with_a_process_that_writes(tmp_path, whole):
    """Ctrl-C in a terminal goes to that process, too."""
    root = tmp_path / "d"
    p = start(root, apart=True)
    for line in p.stdout:
        if int(line.split()[0]) == 70:
            break
    os.killpg(p.pid, signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and err == ""
    wait_until_gone(p.pid)
    assert shards(root) and temporaries(root) == []
    assert finish(root) == whole


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, whole):
    rng, kills, k = random.Random(0), 0, 0
    while kills < 20:
        root = tmp_path / str(k)
        for _ in range(4):
            kill_and_resume(root, rng, workers=2)
            kills += 1
        assert finish(root) == whole
        k += 1


@pytest.mark.parametrize(("workers", "apart"), [(1, False), (1, True), (2, False)])
def test_a_full_disk(tmp_path, workers, apart):
    root = tmp_path / "d"
    p = start(root, workers=workers, apart=apart, limit=20_000, samples_per_shard=48, n=96)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 1
    assert len(err.strip().splitlines()) == 1 and re.search("cannot write .*d/data/train", err), err
    wait_until_gone(p.pid)
    assert not root.exists() or shards(root) + temporaries(root) == []


PROBLEM = '''
import sys
from pydantic import Field
from pde_data import GaussianField, Parameters, Problem, Solution, register
from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import BoundarySpec, DatasetSchema, FieldSpec, check_dataset
from solvers.diffusion import solve_diffusion
from solvers.grids import Axis, Grid


class RodParameters(Parameters):
    tau: float = Field(5.0, gt=0, description="inverse correlation length of the source, 1/m")


@register
class Rod(Problem):
    """Temperature of a rod with random sources, both ends at zero."""

    name, title, equation, dim = "rod", "Heated rod", "-u'' = f", 1
    solvers = ("direct", "pyamg")
    Params = RodParameters

    def schema(self, resolution, dtype="float32"):
        return DatasetSchema(
            problem="rod", title=self.title, grid=Grid((Axis("x", resolution[0], units="m"),)),
            fields=(FieldSpec("f", "source", "K/m^2"), FieldSpec("u", "temperature", "K")),
            inputs=("f",), outputs=("u",), equation=self.equation, dtype=dtype,
            boundary_conditions=(BoundarySpec("x", "dirichlet", ("u",), units="K"),),
        )

    def sample(self, rng):
        return GaussianField(2.0, self.params.tau, n_modes=16, bounds=((0, 1),)).draw(rng)

    def solve(self, inputs, resolution, *, solver, rtol=1e-10):
        grid = self.schema(resolution).grid
        r = solve_diffusion(1.0, inputs(grid), grid, solver=solver, rtol=rtol)
        fields = {"f": inputs(grid), "u": r.x}
        return Solution(fields, r.residual, r.iterations, r.seconds, r.solver)

    def choose_solver(self, resolution):
        return "direct"


for workers in (1, 2):
    out = f"{sys.argv[1]}/{workers}"
    config = GenerateConfig(problem="rod", out=out, n=20, workers=workers, params={"tau": 8.0})
    result = generate(config)
    assert check_dataset(out, physics=True) == []
    errors = result.manifest["splits"]["train"]["discretization_error"]
    print(result.manifest["content_digest"], 0 < errors["max"] < 0.01)
'''


def test_a_problem_of_ones_own_in_a_script(tmp_path):
    """No ``if __name__``, no module to import: workers get the class itself."""
    script = tmp_path / "rod.py"
    script.write_text(PROBLEM)
    p = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    one, two = p.stdout.splitlines()
    assert one == two and one.endswith("True")
