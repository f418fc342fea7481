import os
import re
import signal
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pde_data import problem as registry
from pde_data.generate import (
    GenerateConfig,
    GenerateError,
    GenerateResult,
    ProgressEvent,
    WorkerDiedError,
    generate,
)
from pde_data.hdf5 import (
    ConfigMismatchError,
    DatasetSchema,
    FieldSpec,
    TooManyFailuresError,
    check_dataset,
    open_dataset,
    rebuild_index,
)
from pde_data.problem import Parameters, Problem, Solution, get_problem
from solvers.grids import Grid
from solvers.names import UnknownNameError
from solvers.result import SolverDidNotConverge, SolverUnavailable


def make(out, *, progress=None, **settings) -> GenerateResult:
    settings = {"problem": "darcy", "n": 20, "resolution": 9, "params": {"n_modes": 8}, **settings}
    return generate(GenerateConfig(out=out, **settings), progress=progress)


def digest(result: GenerateResult) -> str:
    return result.manifest["content_digest"]


def leftovers(root) -> list[str]:
    return [p.name for p in root.rglob("*") if ".tmp" in p.name]


class SolveNothing(Problem):
    """u = s for s uniform in (0, 1); what happens at s decides `fate`."""

    name, title, dim, equation = "nothing", "No equation", 1, "u = s"
    solvers: ClassVar[tuple[str, ...]] = ("copy",)
    Params = Parameters

    def schema(self, resolution, dtype="float32"):
        fields = (FieldSpec("s", "s", valid_max=1.0), FieldSpec("u", "u", valid_max=1.0))
        return DatasetSchema(
            "nothing", self.title, Grid.unit(resolution[0], dim=1), fields, ("s",), ("u",),
            dtype=dtype,
        )  # fmt: skip

    def sample(self, rng):
        return rng.random()

    @staticmethod
    def fate(x):
        return x

    def solve(self, inputs, resolution, *, solver, rtol=1e-10):
        u = type(self).fate(inputs)
        s = np.full(resolution, inputs)
        return Solution({"s": s, "u": np.full(resolution, u)}, 0.0, 0, 1e-3, "copy")

    def choose_solver(self, resolution):
        return "copy"


@pytest.fixture
def nothing(monkeypatch):
    monkeypatch.setitem(registry._CLASSES, "nothing", SolveNothing)

    def with_fate(fate):
        monkeypatch.setattr(SolveNothing, "fate", staticmethod(fate))

    return with_fate


NOTHING = {"problem": "nothing", "params": {}}


@pytest.fixture(params=["thread", "process"])
def writer(request, monkeypatch):
    """Who writes beside the one that solves."""
    monkeypatch.setattr("pde_data.generate._APART", 1 if request.param == "process" else 10**9)
    return request.param


# -- what is written -----------------------------------------------------------------------------


def test_samples_are_what_the_problem_gives(tmp_path):
    result = make(tmp_path / "d", seed=5, params={"forcing": 2.0}, resolution=(9, 13))
    assert (result.solved, result.skipped, result.failures) == (24, 0, ())
    assert check_dataset(result.path, physics=True) == []
    problem = get_problem("darcy", forcing=2.0)
    data = open_dataset(result.path)
    for split, base, n in (("train", 0, 20), ("valid", 10**9, 2), ("test", 2 * 10**9, 2)):
        assert data[split].ids.tolist() == list(range(base, base + n))
        for k in (0, n - 1):
            seed = np.random.SeedSequence(5, spawn_key=(base + k,)).generate_state(1, np.uint64)[0]
            inputs = problem.sample(np.random.default_rng(int(seed)))
            truth = problem.solve(inputs, (9, 13), solver="structured").fields
            s = data[split][k]
            np.testing.assert_array_equal(s["inputs"]["a"], truth["a"].astype(np.float32))
            np.testing.assert_array_equal(s["outputs"]["u"], truth["u"].astype(np.float32))
    assert np.all(data["train"].quality("residual") <= 1e-10)
    assert result.config.solver == "structured" == data.manifest.get("solver", "structured")
    assert "harmonic" in data.schema.discretization


@pytest.mark.parametrize("location", ["node", "cell_center"])
def test_every_solver_makes_the_same_inputs(tmp_path, location):
    found = {}
    for solver in get_problem("darcy").solvers:
        try:
            result = make(
                tmp_path / solver, n=4, solver=solver, dtype="float64", resolution=17,
                params={"location": location, "n_modes": 8},
            )  # fmt: skip
        except (SolverUnavailable, ValueError) as e:
            assert solver == "fenicsx", e
            continue
        assert check_dataset(result.path, physics=True) == []
        data = open_dataset(result.path)
        assert result.config.solver == solver
        found[solver] = data["train"].read(range(4), ["a"])["a"]
    assert len(found) >= 3
    for a in found.values():
        np.testing.assert_array_equal(a, found["direct"])


def test_options_reach_the_file(tmp_path):
    result = make(
        tmp_path / "d", n=3, n_valid=0, n_test=5, dtype="float64", rtol=1e-8, compression="none",
        samples_per_shard=2, solver="direct",
    )  # fmt: skip
    c = result.config
    assert (c.rtol, c.compression, c.samples_per_shard, c.dtype) == (1e-8, None, 2, "float64")
    assert c.n == {"train": 3, "valid": 0, "test": 5}
    assert c.params["low"] == 3.0 and c.params["n_modes"] == 8
    assert [len(s["shards"]) for s in result.manifest["splits"].values()] == [2, 3]


@pytest.mark.parametrize(("n", "share"), [(5, 1 / 16), (40, 1 / 16), (40, 0.0), (10, 1.0)])
def test_which_discretization_errors_are_estimated(tmp_path, n, share):
    result = make(tmp_path / "d", n=n, n_valid=1, n_test=1, error_fraction=share)
    error = open_dataset(result.path)["train"].quality("discretization_error")
    known = set(np.flatnonzero(np.isfinite(error)).tolist())
    if share == 0:
        assert known == set()
    elif share == 1:
        assert known == set(range(n))
    else:
        assert known == {i for i in range(n) if i < 8 or i % 16 == 15}
    problem = get_problem("darcy", n_modes=8)
    for i in known:
        inputs = problem.sample(np.random.default_rng(result.config.sample_seed(i)))
        s = problem.solve(inputs, (9, 9), solver="structured")
        estimate = problem.discretization_error(inputs, s, (9, 9), solver="structured")
        assert error[i] == estimate


def test_progress_counts_samples(tmp_path):
    events: list[ProgressEvent] = []
    make(tmp_path / "d", progress=events.append)
    assert [e.done for e in events] == list(range(25))
    assert {(e.total, e.failed) for e in events} == {(24, 0)}


# -- workers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_shard", [64, 2])  # the parent writes; workers write whole shards
def test_workers_do_not_change_the_data(tmp_path, per_shard):
    events: list[ProgressEvent] = []
    one = make(tmp_path / "one", n=40, samples_per_shard=per_shard, dtype="float64")
    two = make(tmp_path / "two", n=40, samples_per_shard=per_shard, dtype="float64", workers=2,
               progress=events.append)  # fmt: skip
    assert digest(one) == digest(two)
    assert [e.done for e in events] == list(range(49))
    assert check_dataset(two.path, physics=True) == [] and leftovers(two.path) == []
    a, b = open_dataset(one.path), open_dataset(two.path)
    for split in a.splits:
        for column in ("residual", "iterations", "discretization_error", "seed"):
            np.testing.assert_array_equal(a[split].quality(column), b[split].quality(column))


def test_a_process_that_writes_does_not_change_the_data(tmp_path, monkeypatch):
    settings = {"n": 40, "samples_per_shard": 16, "error_fraction": 0.2}
    manifests = []
    for name, limit in (("thread", 10**9), ("process", 1)):
        monkeypatch.setattr("pde_data.generate._APART", limit)
        manifests.append(make(tmp_path / name, **settings).manifest)
    # what the writer says of its shards is what is in them
    assert rebuild_index(tmp_path / "process") == manifests[1]
    assert check_dataset(tmp_path / "process", physics=True) == []
    own = ("stamp", "sha256", "bytes", "frame")  # the time and the run times are in there
    for manifest in manifests:
        for split in manifest["splits"].values():
            split["shards"] = [
                {k: v for k, v in s.items() if k not in own} for s in split["shards"]
            ]
    assert manifests[0] == manifests[1]
    stats = [(tmp_path / d / "stats.yaml").read_text() for d in ("thread", "process")]
    assert stats[0] == stats[1]


def test_a_killed_process_that_writes_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("pde_data.generate._APART", 1)

    def kill(event):
        if event.done == 60:
            for stat in Path("/proc").glob("[0-9]*/stat"):
                parent = stat.read_text().rsplit(")", 1)[1].split()[1]
                if (
                    int(parent) == os.getpid()
                    and b"_writing" in (stat.parent / "cmdline").read_bytes()
                ):
                    os.kill(int(stat.parent.name), signal.SIGKILL)

    settings = {"n": 100, "samples_per_shard": 10}
    with pytest.raises(WorkerDiedError, match="the process that writes was killed"):
        make(tmp_path / "d", progress=kill, **settings)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "d").exists() or check_dataset(tmp_path / "d") == []
    whole = make(tmp_path / "whole", **settings)
    assert digest(make(tmp_path / "d", resume=True, **settings)) == digest(whole)


def test_threads_of_the_caller_do_not_change_the_data(tmp_path):
    from threadpoolctl import threadpool_info, threadpool_limits

    results = []
    for k, threads in enumerate((1, 2)):
        with threadpool_limits(threads):
            before = [lib["num_threads"] for lib in threadpool_info()]
            results.append(make(tmp_path / str(k), n=4, resolution=65, dtype="float64"))
            assert [lib["num_threads"] for lib in threadpool_info()][: len(before)] == before
    assert digest(results[0]) == digest(results[1])


def test_works_outside_the_main_thread(tmp_path):
    out = []
    t = threading.Thread(target=lambda: out.append(make(tmp_path / "d", n=3)))
    t.start()
    t.join()
    assert out[0].solved == 5


def children() -> list[int]:
    """Worker processes of this one."""
    pids = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as f:
            pids += map(int, f.read().split())
    return [p for p in pids if b"popen_loky" in Path(f"/proc/{p}/cmdline").read_bytes()]


@pytest.mark.parametrize("per_shard", [8, 2])
def test_a_killed_worker_is_reported_and_finished_shards_stay(tmp_path, per_shard):
    root, killed = tmp_path / "d", []

    def kill(event):
        if event.done == 20 and not killed:
            killed.extend(children())
            os.kill(killed[0], signal.SIGKILL)

    settings = {"n": 60, "samples_per_shard": per_shard, "workers": 2}
    with pytest.raises(WorkerDiedError, match="a worker process died") as e:
        make(root, progress=kill, **settings)
    assert "\n" not in str(e.value)
    assert killed and not children() and leftovers(root) == []
    assert check_dataset(root, physics=True) == []
    resumed = make(root, resume=True, **{**settings, "workers": 1})
    assert resumed.skipped >= per_shard
    assert digest(resumed) == digest(make(tmp_path / "whole", n=60))


# -- resume and extend ---------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(128, 256), (100, 150)])
def test_extended_equals_made_at_once(tmp_path, first, second):
    small = {"resolution": 5}
    part = make(tmp_path / "part", n=first, **small)
    paths = {p: p.stat().st_ino for p in (tmp_path / "part").glob("data/train/*.h5")}
    extended = make(tmp_path / "part", n=second, resume=True, **small)
    assert digest(part) != digest(extended)
    assert digest(extended) == digest(make(tmp_path / "whole", n=second, **small))
    assert extended.config.n == {"train": second, "valid": second // 10, "test": second // 10}
    assert check_dataset(extended.path, physics=True) == []
    full = [p for k, p in enumerate(sorted(paths)) if (k + 1) * 64 <= first]
    assert all(p.stat().st_ino == paths[p] for p in full)  # full shards were not touched


def test_resuming_a_finished_dataset_does_nothing(tmp_path):
    done = make(tmp_path / "d")
    files = {p: p.stat().st_ino for p in (tmp_path / "d").glob("data/*/*.h5")}
    events: list[ProgressEvent] = []
    again = make(tmp_path / "d", resume=True, progress=events.append)
    assert (again.solved, again.skipped) == (0, 24) and digest(again) == digest(done)
    assert events == [ProgressEvent(0, 0, 0)]
    assert {p: p.stat().st_ino for p in (tmp_path / "d").glob("data/*/*.h5")} == files


def test_resuming_with_fewer_samples_keeps_them(tmp_path):
    done = make(tmp_path / "d", n=20, n_valid=9)
    again = make(tmp_path / "d", n=10, resume=True)
    assert again.config.n == {"train": 20, "valid": 9, "test": 2}
    assert digest(again) == digest(done) and again.solved == 0


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty"])
def test_resume_makes_lost_shards_again(tmp_path, damage):
    settings = {"samples_per_shard": 5}
    done = make(tmp_path / "d", **settings)
    path = tmp_path / "d/data/train/darcy_train_00000.h5"  # the one that is read first
    (path.parent / ".darcy_train_00000.abc.tmp").write_bytes(b"stale")
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 2000 if damage == "truncate" else 0])
    again = make(tmp_path / "d", resume=True, **settings)
    assert again.solved == 5 and digest(again) == digest(done) and leftovers(again.path) == []
    assert check_dataset(again.path) == []


def test_resume_keeps_the_shard_size_and_solver(tmp_path):
    make(tmp_path / "d", samples_per_shard=7, solver="direct")
    again = make(tmp_path / "d", n=25, resume=True)
    assert again.config.samples_per_shard == 7 and again.config.solver == "direct"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 17}, "resolution 9x9 -> 17x17"),
        ({"seed": 1}, "seed 0 -> 1"),
        ({"params": {"n_modes": 8, "forcing": 2.0}}, "params.forcing 1.0 -> 2.0"),
        ({"solver": "pyamg"}, "solver structured -> pyamg"),
        ({"dtype": "float64"}, "dtype float32 -> float64"),
        ({"rtol": 1e-6}, "rtol 1e-10 -> 1e-06"),
        ({"samples_per_shard": 3}, "samples_per_shard 64 -> 3"),
    ],
)
def test_resume_refuses_another_configuration(tmp_path, change, message):
    done = make(tmp_path / "d", n=4)
    with pytest.raises(ConfigMismatchError, match=re.escape(message)):
        make(tmp_path / "d", **{"n": 4, "resume": True, **change})
    assert digest(make(tmp_path / "d", n=4, resume=True)) == digest(done)


def test_shards_of_a_job_array_add_up(tmp_path):
    settings = {"n": 11, "samples_per_shard": 4}  # 3 + 1 + 1 shards
    whole = make(tmp_path / "whole", **settings)
    parts = [make(tmp_path / "d", shards=s, **settings) for s in ("2:4", "0:2", "4:9")]
    assert [p.solved for p in parts] == [4, 8, 1]
    assert digest(parts[-1]) == digest(whole) and check_dataset(tmp_path / "d") == []
    with pytest.raises(ValueError, match="shards=5:6: there are 5, numbered from 0"):
        make(tmp_path / "d", shards="5:6", **settings)


def test_repair_makes_damaged_shards_again_and_no_others(tmp_path):
    settings = {"samples_per_shard": 5}
    done = make(tmp_path / "d", **settings)
    shards = sorted((tmp_path / "d").glob("data/train/*.h5"))
    inodes = {p: p.stat().st_ino for p in shards}
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 1  # resume does not see it
    shards[1].write_bytes(data)
    shards[3].unlink()
    assert check_dataset(tmp_path / "d") != []
    # a larger n does not extend what is to be repaired
    again = make(tmp_path / "d", n=40, repair=True, **settings)
    assert (again.solved, digest(again)) == (10, digest(done)) and again.config.n["train"] == 20
    assert check_dataset(tmp_path / "d", physics=True) == []
    untouched = [p for p in shards if p.stat().st_ino == inodes[p]]
    assert {shards[0], shards[2]} <= set(untouched)
    with pytest.raises(FileExistsError, match="not an opkit dataset"):
        (tmp_path / "x").mkdir()
        (tmp_path / "x/notes").write_text("mine")
        make(tmp_path / "x", repair=True)


def test_resuming_does_not_bless_a_decayed_shard(tmp_path):
    make(tmp_path / "d", samples_per_shard=5)
    path = tmp_path / "d/data/train/darcy_train_00001.h5"
    st = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as f:  # as a failing disk would: nothing but the content changes
        f.write(data)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    for n in (20, 30):  # with nothing to do, and with an index to write
        make(tmp_path / "d", n=n, resume=True, samples_per_shard=5)
        findings = check_dataset(tmp_path / "d")
        assert any("SHA-256" in str(f) for f in findings)


def test_a_stale_index_is_written_anew(tmp_path):
    done = make(tmp_path / "d", samples_per_shard=5)
    index = tmp_path / "d/dataset.json"
    text = index.read_text()
    for damage in ("", "{}", text.replace('"train_00001', '"train_0000x')):
        index.write_text(damage)
        assert digest(make(tmp_path / "d", resume=True)) == digest(done)
        assert check_dataset(tmp_path / "d") == []
    (tmp_path / "d/train.h5").unlink()
    make(tmp_path / "d", resume=True)
    assert check_dataset(tmp_path / "d") == [] and (tmp_path / "d/train.h5").exists()


# -- the directory -------------------------------------------------------------------------------


def test_an_existing_dataset_is_not_touched_unasked(tmp_path):
    done = make(tmp_path / "d", n=3)
    with pytest.raises(FileExistsError, match=r"--resume .* --overwrite"):
        make(tmp_path / "d", n=3, seed=1)
    assert check_dataset(tmp_path / "d") == []
    new = make(tmp_path / "d", n=4, seed=1, overwrite=True)
    assert new.config.n["train"] == 4 and digest(new) != digest(done)
    assert check_dataset(tmp_path / "d", physics=True) == []


def test_overwrite_leaves_what_is_not_its_own(tmp_path):
    make(tmp_path / "d", n=70)
    (tmp_path / "d/notes.txt").write_text("mine")
    (tmp_path / "d/data/train/.darcy_train_00001.xyz.tmp").write_bytes(b"stale")
    make(tmp_path / "d", n=3, overwrite=True)
    assert (tmp_path / "d/notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "d").glob("data/train/*.h5"))) == 1 and not leftovers(tmp_path)


def test_a_bad_argument_does_not_cost_the_old_dataset(tmp_path):
    make(tmp_path / "d", n=3)
    for bad in ({"params": {"low": -1}}, {"resolution": 2}, {"solver": "x"}, {"problem": "darci"}):
        with pytest.raises(ValueError):
            make(tmp_path / "d", n=3, overwrite=True, **bad)
    assert check_dataset(tmp_path / "d") == []


@pytest.mark.parametrize("option", [{}, {"resume": True}, {"overwrite": True}, {"shards": "0:1"}])
def test_a_directory_of_something_else_is_refused(tmp_path, option):
    (tmp_path / "home/data").mkdir(parents=True)
    (tmp_path / "home/data/thesis.h5").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="not an opkit dataset; choose another"):
        make(tmp_path / "home", n=3, **option)
    assert (tmp_path / "home/data/thesis.h5").read_bytes() == b"precious"
    assert len(list((tmp_path / "home").rglob("*"))) == 2
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(FileExistsError, match="is a file"):
        make(file, n=3, **option)


@pytest.mark.parametrize("inside", [".", "data/train"])
def test_an_empty_directory_will_do(tmp_path, inside):
    (tmp_path / "d" / inside).mkdir(parents=True)
    assert make(tmp_path / "d", n=3).solved == 5


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0: input should be greater than or equal to 1"),
        ({"n": -3}, "n=-3"),
        ({"n": 2.5}, "n=2.5"),
        ({"n": True}, "n=True: need a number"),
        ({"n_valid": -1}, "n_valid=-1: input should be greater than or equal to 0"),
        ({"seed": -1}, "seed=-1: input should be greater than or equal to 0"),
        ({"workers": 0}, "workers=0: input should be greater than or equal to 1"),
        ({"workers": "many"}, "workers='many'"),
        ({"dtype": "float16"}, "dtype='float16': input should be 'float32' or 'float64'"),
        ({"rtol": 0.0}, "rtol=0.0: input should be greater than 0"),
        ({"compression": "lzf"}, "compression='lzf'"),
        ({"max_failures": "120%"}, "max_failures=1.2: input should be less than or equal to 1"),
        ({"shards": "8"}, "shards='8': need A:B with 0 <= A < B"),
        ({"shards": "8:8"}, "shards='8:8'"),
        ({"resume": True, "overwrite": True}, "overwrite and resume exclude each other"),
        ({"resolution": 4}, "resolution=4: darcy needs at least 5"),
        ({"resolution": 9.5}, "resolution=9.5: need an integer"),
        ({"resolution": (9, 9, 9)}, "has 3 entries; darcy has 2 axes"),
        ({"params": {"taw": 1}}, "has no parameter 'taw'. Did you mean 'tau'"),
        ({"wrokers": 2}, "wrokers"),
    ],
)
def test_bad_arguments_are_named_in_one_line(tmp_path, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as e:
        make(tmp_path / "d", **settings)
    assert "\n" not in str(e.value) and not (tmp_path / "d").exists()


def test_unknown_names(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'structured'"):
        make(tmp_path / "d", solver="strutured")
    with pytest.raises(ValueError, match="solver 'fenicsx' needs location='node'"):
        make(tmp_path / "d", solver="fenicsx", params={"location": "cell_center"})
    assert GenerateConfig(problem="darcy", out="d", n=7, max_failures="5%").max_failures == 0.05


# -- failures ------------------------------------------------------------------------------------


def fail_below(share):
    def fate(x):
        if x < share:
            raise SolverDidNotConverge("toy", iterations=200, residual=3e-4, rtol=1e-10)
        return x

    return fate


def test_failures_are_recorded_and_leave_gaps(tmp_path, nothing, writer):
    nothing(fail_below(0.1))
    result = make(tmp_path / "d", n=100, max_failures=0.3, **NOTHING)
    reason = "toy did not converge: residual 3.00e-04 after 200 iterations, asked for 1.0e-10"
    expected = [
        i
        for base in (0, 10**9, 2 * 10**9)
        for i in range(base, base + (10 if base else 100))
        if np.random.default_rng(result.config.sample_seed(i)).random() < 0.1
    ]
    assert len(expected) > 3 and list(result.failures) == [(i, reason) for i in expected]
    assert result.solved == 120 - len(expected)
    data = open_dataset(result.path)
    assert not set(expected) & set(data["train"].ids.tolist())
    assert result.manifest["splits"]["train"]["failed"] == sum(i < 100 for i in expected)
    assert check_dataset(result.path) == []
    assert make(tmp_path / "d", n=100, max_failures=0.3, resume=True, **NOTHING).skipped == 120


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "non-finite"), (np.inf, "non-finite"), (1.5, "above valid_max")]
)
def test_bad_values_are_failures(tmp_path, nothing, writer, value, message):
    nothing(lambda x: value if x < 0.1 else x)
    result = make(tmp_path / "d", n=60, max_failures=0.5, **NOTHING)
    assert result.failures and all(message in reason for _, reason in result.failures)
    assert open_dataset(result.path)["train"].read([0], ["u"])["u"].max() <= 1


def test_too_many_failures_stop_the_run(tmp_path, nothing):
    nothing(fail_below(0.3))
    settings = {"n": 100, "samples_per_shard": 10, "error_fraction": 0, **NOTHING}
    with pytest.raises(TooManyFailuresError, match=r"max_failures=0.05 of 120 allows 6") as e:
        make(tmp_path / "d", **settings)
    config = GenerateConfig(out="d", **settings)
    ids = [i for i in range(100) if np.random.default_rng(int(
        np.random.SeedSequence(config.seed, spawn_key=(i,)).generate_state(1, np.uint64)[0]
    )).random() < 0.3]  # fmt: skip
    line = str(e.value)
    assert line.startswith("7 samples failed") and f"First: id {ids[0]}, toy" in line
    assert "\n" not in line and leftovers(tmp_path) == []
    finished = ids[6] // 10
    assert len(list((tmp_path / "d").glob("data/train/*.h5"))) == finished > 0
    assert check_dataset(tmp_path / "d") == []
    # on resume the failures in the finished shards count
    with pytest.raises(TooManyFailuresError, match=f"First: id {ids[0]},"):
        make(tmp_path / "d", resume=True, **settings)


def test_too_many_failures_stop_a_process_that_writes(tmp_path, nothing, monkeypatch):
    monkeypatch.setattr("pde_data.generate._APART", 1)
    nothing(lambda x: 1.5 if x < 0.3 else x)
    settings = {"n": 100, "samples_per_shard": 10, "error_fraction": 0, **NOTHING}
    with pytest.raises(TooManyFailuresError, match="above valid_max"):
        make(tmp_path / "d", **settings)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "d").exists() or check_dataset(tmp_path / "d") == []


def test_the_last_event_knows_all_failures(tmp_path, nothing, writer):
    nothing(fail_below(0.3))
    events = []
    settings = {"n": 20, "samples_per_shard": 10, "error_fraction": 0, **NOTHING}
    result = make(tmp_path / "d", max_failures=1.0, progress=events.append, **settings)
    assert [e.done for e in events] == list(range(events[-1].total + 1))
    assert events[-1].failed == len(result.failures) > 0


def test_an_error_that_is_no_failure_names_the_sample(tmp_path, nothing):
    def fate(x):
        raise KeyError("oops")

    nothing(fate)
    with pytest.raises(GenerateError, match="sample 0: KeyError: 'oops'"):
        make(tmp_path / "d", **NOTHING)
    assert not (tmp_path / "d").exists()  # nothing half-written


def test_a_failing_estimate_does_not_reject_the_sample(tmp_path, nothing, monkeypatch):
    def no_estimate(*args, **kwargs):
        raise SolverDidNotConverge("fine grid", iterations=1, residual=1.0, rtol=1e-10)

    nothing(lambda x: x)
    monkeypatch.setattr(SolveNothing, "discretization_error", no_estimate)
    result = make(tmp_path / "d", n=10, **NOTHING)
    assert result.failures == ()
    assert np.isnan(open_dataset(result.path)["train"].quality("discretization_error")).all()
