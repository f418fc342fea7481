"""One solve shared by two MPI processes: the fields of one process, and clean ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import check_dataset, open_dataset

MPIEXEC = shutil.which(
    "mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)
pytest.importorskip("dolfinx_solver")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")

SETTINGS = {
    "problem": "darcy", "n": 6, "n_valid": 1, "n_test": 1, "resolution": 33, "dtype": "float64",
    "solver": "fenicsx", "params": {"n_modes": 8}, "samples_per_shard": 2,
}  # fmt: skip
OPTIONS = (
    "darcy", "-n", "6", "--n-valid", "1", "--n-test", "1", "--resolution", "33", "--dtype",
    "float64", "--set", "n_modes=8", "--samples-per-shard", "2", "--mpi",
)  # fmt: skip


def start(ranks: int, *command: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [MPIEXEC, "-n", str(ranks), sys.executable, *command], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def run(ranks: int, *command: str, **options) -> tuple[int, str, str]:
    p = start(ranks, *command, **options)
    out, err = p.communicate(timeout=120)
    return p.returncode, out, err


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "d"
    generate(GenerateConfig(out=out, **SETTINGS))
    return open_dataset(out)


def test_two_ranks_give_the_fields_of_one(tmp_path, alone):
    root = tmp_path / "d"
    code, out, err = run(2, "-m", "opkit", "generate", *OPTIONS, "-o", str(root))
    assert code == 0, err
    assert out.count("samples of darcy") == 1  # rank 0 alone speaks
    together = open_dataset(root)
    assert together.config["solver"] == "fenicsx" and check_dataset(root, physics=True) == []
    for name in alone.splits:
        a, b = (d[name].read(slice(None)) for d in (alone, together))
        for field in a:
            np.testing.assert_allclose(
                b[field], a[field], rtol=0, atol=1e-8 * np.abs(a[field]).max(), err_msg=field
            )
        np.testing.assert_allclose(
            together[name].quality("discretization_error"),
            alone[name].quality("discretization_error"),
            rtol=1e-6,
        )
    resumed = run(2, "-m", "opkit", "generate", *OPTIONS, "-o", str(root), "--resume", "--json")
    assert resumed[0] == 0 and json.loads(resumed[1])["solved"] == 0


SOLVE = """
import sys
from solvers.fenicsx._runtime import require_dolfinx
require_dolfinx()
import numpy as np
from mpi4py import MPI
from solvers.fenicsx import communicator
from solvers.diffusion import solve_diffusion
from solvers.grids import Grid

comm, out = MPI.COMM_WORLD, {}
for dim, n in ((1, 33), (2, 33), (3, 9)):
    grid = Grid.unit(n, dim=dim)
    rng = np.random.default_rng(0)
    a, f = rng.uniform(1, 5, grid.shape), rng.normal(size=grid.shape)
    balanced = f - np.sum(grid.weights * f) / np.sum(grid.weights)
    cases = [(f, {"boundary_values": {(0, 0): 1.5}, "reaction": 2.0, "degree": 2}),
             (f, {"cell": "quadrilateral"}), (balanced, {"boundary": "neumann"})]
    for k, (source, options) in enumerate(cases):
        for algebra in ("cholesky", "gamg"):
            options |= {"solver": "fenicsx", "algebra": algebra}
            with communicator(comm):
                r = solve_diffusion(a, source, grid, rtol=1e-12, **options)
            assert r.residual <= 1e-12 and r.x.shape == grid.shape
            if comm.rank == 0:
                one = solve_diffusion(a, source, grid, rtol=1e-12, **options).x
                error = np.abs(r.x - one).max() / np.abs(one).max()
                assert error < 1e-8, (dim, options, error)
            else:
                assert np.isnan(r.x).all()
exact = lambda x: np.sin(np.pi * x[0]) * np.sin(np.pi * x[1])
errors = [solve_diffusion(1.0, lambda x: 2 * np.pi**2 * exact(x), Grid.unit(17), solver="fenicsx",
                          exact=exact, comm=c).info["l2_error"] for c in (comm, MPI.COMM_SELF)]
assert abs(errors[0] - errors[1]) < 1e-12 * errors[1] + 1e-14
for bad in ({"a": lambda x: np.where(x[0] < 0.1, -1.0, 1.0)},
            {"f": lambda x: np.where(x[0] > 0.9, np.nan, 1.0)},
            {"boundary_values": lambda x: np.where(x[0] > 0.9, np.nan, 1.0)}):
    try:  # what one process alone can see is an error on all
        arguments = {"a": 1.0, "f": 1.0, "grid": Grid.unit(17), **bad}
        solve_diffusion(**arguments, solver="fenicsx", comm=comm)
    except ValueError:
        continue
    raise AssertionError(bad)
print(f"rank {comm.rank} done", flush=True)
"""


def test_solves_shared_by_two_ranks_equal_those_of_one():
    code, out, err = run(2, "-c", SOLVE)
    assert code == 0, err
    assert out.count("done") == 2


FAILING = """
import sys
from solvers.fenicsx._runtime import require_dolfinx
require_dolfinx()
from mpi4py import MPI
import pde_data._mpi
from pde_data.generate import GenerateConfig, generate
from pde_data.problems.darcy import Darcy
from solvers.result import SolverDidNotConverge

rank, solve, how, root = MPI.COMM_WORLD.rank, Darcy.solve, sys.argv[1], sys.argv[2]
pde_data._mpi.PATIENCE = 1.0
calls = []

def failing(self, inputs, resolution, **options):
    calls.append(0)
    if len(calls) == 4 and (rank == 1 or how.startswith("all")):
        if how == "late":  # after the last message of the solve
            solve(self, inputs, resolution, **options)
        if how == "all-diverge":
            raise SolverDidNotConverge("cg", iterations=3, residual=0.5, rtol=1e-10)
        raise KeyError("oops")
    return solve(self, inputs, resolution, **options)

Darcy.solve = failing
try:
    r = generate(GenerateConfig(problem="darcy", out=root, n=6, n_valid=0, n_test=0, resolution=17,
                 params={"n_modes": 8}, samples_per_shard=2, error_fraction=0, mpi=True,
                 max_failures=0.5))
    if rank == 0:
        print(len(r.failures), flush=True)
except Exception as e:
    if rank == 0:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
    sys.exit(1)
"""


@pytest.mark.parametrize("how", ["all", "late", "early", "all-diverge"])
def test_a_failure_on_one_rank_ends_all_or_is_recorded(tmp_path, how):
    root = tmp_path / "d"
    code, out, err = run(2, "-c", FAILING, how, str(root))
    if how == "all-diverge":
        assert (code, out.strip()) == (0, "1"), err
        assert check_dataset(root) == []
        return
    assert code != 0
    lines = [line for line in err.splitlines() if "oops" in line]
    assert len(lines) == 1 and "sample 3: KeyError: 'oops'" in lines[0], err
    assert [p.name for p in root.glob("data/train/*.h5")] == ["darcy_train_00000.h5"]
    if how != "early":  # there the others hang in a message and are ended where they are
        assert check_dataset(root) == [] and not list(root.glob("data/*/.*"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_half_written(tmp_path, signum):
    root = tmp_path / "d"
    options = [*OPTIONS, "-o", str(root)]
    options[options.index("6")] = "30"
    p = start(2, "-m", "opkit", "generate", *options)
    end = time.monotonic() + 90
    while len(list(root.glob("data/train/*.h5"))) < 3:
        assert p.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    os.killpg(p.pid, signum)
    p.communicate(timeout=60)
    assert p.returncode != 0
    end = time.monotonic() + 20
    while any(_in_group(p.pid)):
        assert time.monotonic() < end
        time.sleep(0.1)
    shards = len(list(root.glob("data/train/*.h5")))
    again = [*options, "--resume", "--json"]
    code, out, err = run(2, "-m", "opkit", "generate", *again)
    assert code == 0, err
    assert json.loads(out)["skipped"] >= 2 * shards
    assert not list(root.glob("data/*/.*")) and check_dataset(root, physics=True) == []


def _in_group(pgid: int):
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(group) == pgid and state != "Z":
            yield stat


def test_what_mpi_cannot_do_is_one_line(tmp_path):
    command = ("-m", "opkit", "generate", *OPTIONS, "-o", str(tmp_path / "d"), "--solver", "pyamg")
    code, _, err = run(2, *command)
    assert code == 2 and "solver=pyamg: with mpi allowed: fenicsx" in err
    assert len([line for line in err.splitlines() if "pyamg" in line]) == 1
