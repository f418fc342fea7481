"""The loop that makes a dataset: sample, solve, check, write; in parallel, resumable."""

from __future__ import annotations

import json
import math
import os
import queue
import re
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from solvers.meshes import Mesh
from solvers.result import SolverDidNotConverge

from ._writing import StoppedError, WriterProcess
from .hdf5 import (
    ConfigMismatchError,
    DatasetConfig,
    DatasetSchema,
    InvalidSampleError,
    NotAnOpkitFileError,
    ShardWriter,
    TooManyFailuresError,
    clean_temporaries,
    default_samples_per_shard,
    rebuild_index,
    shard_path,
)
from .hdf5.errors import DatasetError
from .hdf5.manifest import ShardFacts, current_index, sound_shards
from .hdf5.reader import read_manifest
from .hdf5.schema import SPLIT_CODES, SPLIT_STRIDE
from .problem import Problem, get_problem, validation_line

__all__ = [
    "GenerateConfig",
    "GenerateError",
    "GenerateResult",
    "Progress",
    "ProgressEvent",
    "WorkerDiedError",
    "generate",
    "mpi_rank",
    "stored_settings",
]

#: What counts as a failed sample; anything else is a mistake and stops the run.
_SAMPLE_FAILURES = (
    SolverDidNotConverge,
    InvalidSampleError,
    FloatingPointError,
    np.linalg.LinAlgError,
)
#: From this many shards a worker on, workers write whole shards; below, they solve small blocks
#: and the parent writes, so that a small dataset keeps all workers busy.
_SHARDS_PER_WORKER = 8
#: Bytes of solved samples that may wait for the thread that writes, but two samples at least.
_AHEAD = 2**24
#: From this many samples on a process of its own writes.
_APART = 512
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class GenerateError(RuntimeError):
    """The work failed; what is finished is kept."""


class WorkerDiedError(GenerateError):
    """A worker process was killed, most likely for want of memory."""


# -- settings ------------------------------------------------------------------------------------


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("need a number")
    return value


def _fraction(value: Any) -> Any:
    """``"5%"`` as 0.05."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return _no_bool(value)


_Int = Annotated[int, BeforeValidator(_no_bool)]


class GenerateConfig(BaseModel):
    """Settings of `generate`; the names are those of ``opkit generate``.

    Raises
    ------
    ValueError
        One line with the argument, its value and what is allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str = Field(description="name in the registry")
    out: Path = Field(description="directory of the dataset")
    n: _Int = Field(ge=1, lt=SPLIT_STRIDE, description="samples to train on")
    n_valid: _Int | None = Field(
        None, ge=0, lt=SPLIT_STRIDE, description="validation samples; default n/10, at least 1"
    )
    n_test: _Int | None = Field(
        None, ge=0, lt=SPLIT_STRIDE, description="test samples; default n/10, at least 1"
    )
    resolution: int | tuple[int, ...] | None = Field(
        None, description="points per axis, one number or one an axis; default the problem's"
    )
    seed: _Int = Field(0, ge=0, description="seed of the dataset")
    solver: str | None = Field(None, description="default: the fastest for the problem and size")
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the problem")
    dtype: Literal["float32", "float64"] = Field("float32", description="of the stored fields")
    workers: _Int = Field(1, ge=1, description="processes")
    cluster: str | None = Field(
        None,
        description="tcp://host:port of a Dask scheduler, whose workers see `out` under the same "
        "path; each makes whole shards",
    )
    mpi: bool = Field(
        False, description="under mpiexec: all processes solve each sample together, rank 0 writes"
    )
    resume: bool = Field(False, description="continue the dataset in `out`, or extend it")
    overwrite: bool = Field(False, description="replace the dataset in `out`")
    repair: bool = Field(
        False, description="make the damaged or missing shards in `out` again, and no others"
    )
    shards: str | None = Field(
        None,
        description="A:B, make only shards A to B-1, counted over train, valid, test in this "
        "order; for job arrays, implies resume",
    )
    max_failures: Annotated[float, BeforeValidator(_fraction)] = Field(
        0.05, ge=0, le=1, description="share of samples that may fail, such as 0.05 or 5%"
    )
    rtol: float = Field(1e-10, gt=0, lt=1, description="relative residual of the solver")
    compression: Literal["gzip"] | None = Field("gzip", description="of the stored fields")
    error_fraction: Annotated[float, BeforeValidator(_fraction)] = Field(
        1 / 16,
        ge=0,
        le=1,
        description="share of samples whose discretization error is estimated, at least 8 of each "
        "split; 0 for none",
    )
    samples_per_shard: _Int | None = Field(
        None, ge=1, description="default max(64, n/128), less if a shard would exceed 256 MiB"
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise ValueError(validation_line(e)) from None

    @field_validator("resolution", mode="before")
    @classmethod
    def _as_given(cls, value: Any) -> Any:
        # check_resolution says better what is wrong than a union of types
        if isinstance(value, list):
            return tuple(value)
        entries = value if isinstance(value, tuple) else (value,)
        for r in entries:
            if r is not None and (isinstance(r, bool) or not isinstance(r, int | np.integer)):
                raise ValueError("need an integer, or one an axis")
        return value

    @field_validator("compression", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "none" else value

    @field_validator("shards")
    @classmethod
    def _range(cls, value: str | None) -> str | None:
        if value is not None:
            m = re.fullmatch(r"(\d+):(\d+)", value)
            if m is None or not int(m[1]) < int(m[2]):
                raise ValueError("need A:B with 0 <= A < B, such as 0:8")
        return value

    @field_validator("cluster")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z]+://[^/\s]+:\d+/?", value):
            raise ValueError("need the address of a scheduler, such as tcp://host:8786")
        return value

    @model_validator(mode="after")
    def _exclusive(self) -> GenerateConfig:
        given = {n for n in type(self).model_fields if getattr(self, n) not in (None, False)}
        if self.workers == 1:
            given.discard("workers")
        for names in (
            ("overwrite", "resume"), ("overwrite", "shards"), ("overwrite", "repair"),
            ("repair", "shards"), ("cluster", "mpi"), ("workers", "cluster"), ("workers", "mpi"),
        ):  # fmt: skip
            if given.issuperset(names):
                raise ValueError(f"{names[0]} and {names[1]} exclude each other")
        return self

    @property
    def split_sizes(self) -> dict[str, int]:
        """Samples asked for per split."""
        tenth = max(1, self.n // 10)
        given = {"train": self.n, "valid": self.n_valid, "test": self.n_test}
        return {split: tenth if n is None else n for split, n in given.items()}


@dataclass(frozen=True)
class ProgressEvent:
    """How far `generate` is.

    Attributes
    ----------
    done : int
        Samples solved or failed in this run.
    total : int
        Samples to do in this run.
    failed : int
        Of `done`, as far as known: all of them in the last event.
    """

    done: int
    total: int
    failed: int


#: Called in the thread of `generate`, first with ``done=0``.
Progress = Callable[[ProgressEvent], None]


@dataclass(frozen=True)
class GenerateResult:
    """What `generate` made.

    Attributes
    ----------
    path : Path
    config : DatasetConfig
        As written into the files; with the solver that was chosen.
    solved : int
        Samples written in this run.
    skipped : int
        Samples that were there already.
    failures : tuple of (int, str)
        Ids and reasons of the samples that failed in this run.
    seconds : float
    manifest : dict
        Content of ``dataset.json``.
    """

    path: Path
    config: DatasetConfig
    solved: int
    skipped: int
    failures: tuple[tuple[int, str], ...]
    seconds: float
    manifest: dict[str, Any]


# -- samples and shards --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """All that a worker needs."""

    root: Path
    problem: Problem
    schema: DatasetSchema
    config: DatasetConfig
    error_fraction: float
    command: str | None

    def estimates(self, sample_id: int) -> bool:
        """Whether the discretization error of a sample is estimated.

        The first samples of each split and every 16th: a property of the id alone, the same for
        any number of workers or samples; samples are independent, so this is a random subset.
        """
        i, share = sample_id % SPLIT_STRIDE, self.error_fraction
        first = i < self.problem.min_estimates
        return share > 0 and (first or math.floor((i + 1) * share) > i * share)

    def writer(self, split: str, shard: int) -> ShardWriter:
        return ShardWriter(split=split, shard=shard, **self.writer_options())

    def writer_options(self) -> dict[str, Any]:
        """Arguments of `ShardWriter` that all shards share."""
        return {
            "root": self.root, "schema": self.schema, "config": self.config,
            "command": self.command, "estimator": self._estimator(),
        }  # fmt: skip

    def _estimator(self) -> dict[str, Any] | None:
        if not self.error_fraction:
            return None
        order = self.problem.convergence_order(self.config.solver)
        if math.isinf(order):
            return {"estimator": "reference"}
        return {"estimator": "richardson", "order": order}


@dataclass(frozen=True)
class _Outcome:
    """A solved sample, or why it failed."""

    sample_id: int
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    residual: float = math.nan
    iterations: int = 0
    seconds: float = 0.0
    error: float = math.nan
    time_error: float = math.nan
    mesh: Mesh | None = None
    time: np.ndarray | None = None
    group: int | None = None
    reason: str = ""


def _solve(job: _Job, sample_id: int, comm: Any = None) -> _Outcome:
    """Draw and solve one sample; with the other processes of `comm`, if given."""
    problem, c = job.problem, job.config
    try:
        inputs = problem.draw(np.random.default_rng(c.sample_seed(sample_id)), sample_id)
        s = problem.solve(inputs, c.resolution, solver=c.solver, rtol=c.rtol)
        error = math.nan
        estimate = job.estimates(sample_id) and all(np.isfinite(v).all() for v in s.fields.values())
        if comm.bcast(estimate) if comm is not None else estimate:
            with suppress(*_SAMPLE_FAILURES):  # the sample itself is good
                error = problem.discretization_error(
                    inputs, s, c.resolution, solver=c.solver, rtol=c.rtol
                )
    except _SAMPLE_FAILURES as e:
        return _Outcome(sample_id, reason=str(e) or type(e).__name__)
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as e:
        raise GenerateError(f"sample {sample_id}: {type(e).__name__}: {e}") from e
    if comm is not None and comm.rank != 0:  # the fields are on rank 0
        return _Outcome(sample_id)
    with np.errstate(over="ignore"):  # the writer looks for infinity
        fields = {name: np.asarray(v, c.dtype) for name, v in s.fields.items()}
    return _Outcome(
        sample_id, fields, s.scalars, s.residual, s.iterations, s.seconds, error,
        s.time_error, s.mesh, s.time, s.group,
    )  # fmt: skip


def _write(writer: ShardWriter, outcomes: Iterator[_Outcome], report: Callable[..., None]) -> None:
    """Write one shard from outcomes in the order of ids; `report` gets id and reason of each."""
    with writer as w:
        for _ in w.sample_ids:
            o = next(outcomes)
            reason = o.reason
            if not reason:
                try:
                    w.add(
                        o.sample_id, fields=o.fields, residual=o.residual, iterations=o.iterations,
                        wall_time=o.seconds, scalars=o.scalars, discretization_error=o.error,
                        time_error=o.time_error, mesh=o.mesh, time=o.time, group=o.group,
                    )  # fmt: skip
                except InvalidSampleError as e:
                    reason = str(e)
            if reason:
                w.fail(o.sample_id, reason)
            report(o.sample_id, reason)


# -- what runs in a worker process ---------------------------------------------------------------


def _start_worker(parent: int) -> None:
    """Ctrl-C is the parent's to handle; a worker whose parent is gone ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)


def _solve_block(job: _Job, ids: Sequence[int]) -> list[_Outcome]:
    return [_solve(job, i) for i in ids]


def _make_shard(job: _Job, split: str, shard: int, events: str) -> None:
    """Solve and write one shard; a line in the file `events` for each sample."""
    fd = os.open(events, os.O_WRONLY | os.O_APPEND)
    try:

        def report(sample_id: int, reason: str) -> None:
            os.write(fd, (json.dumps([sample_id, reason]) + "\n").encode())

        outcomes = (_solve(job, i) for i in job.config.sample_ids(split, shard))
        _write(job.writer(split, shard), outcomes, report)
    finally:
        os.close(fd)


# -- the parent ----------------------------------------------------------------------------------


class _Signals:
    """SIGINT and SIGTERM raise KeyboardInterrupt, but only where nothing can break.

    HDF5 does not survive an exception in the middle of a write, so a signal waits until the
    program solves a sample or waits for one. A second signal does not wait.
    """

    def __init__(self) -> None:
        self._safe = self._pending = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(s) is not signal.SIG_IGN:
                    self._old[s] = signal.signal(s, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._old.items():
            signal.signal(s, handler)
        self._old = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._safe or self._pending:
            self._safe = False
            raise KeyboardInterrupt
        self._pending = True

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        self._safe = True
        try:
            if self._pending:
                raise KeyboardInterrupt
            yield
        finally:
            self._safe = False


class _Tally:
    """Counts samples, tells the caller, stops at too many failures."""

    def __init__(
        self, total: int, asked: int, old_failures: Mapping[int, str], limit: float,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.done, self.total = 0, total
        self.failures: dict[int, str] = {}
        self._old, self._asked, self._limit, self._progress = old_failures, asked, limit, progress
        self._tell()

    def add(self, sample_id: int, reason: str) -> None:
        """Count a sample, and stop if it is one failure too many."""
        try:
            self.judge(sample_id, reason)
        finally:
            self.step()

    def step(self) -> None:
        """Count a sample that is solved or has failed."""
        self.done += 1
        self._tell()

    def judge(self, sample_id: int, reason: str) -> None:
        """Keep the reason if the sample has failed; may be called in another thread."""
        if not reason:
            return
        self.failures[sample_id] = reason
        failed = {**self._old, **self.failures}
        if len(failed) > self._limit * self._asked:
            first = min(failed)
            raise TooManyFailuresError(
                f"{len(failed)} samples failed so far, max_failures={self._limit:g} of "
                f"{self._asked} allows {math.floor(self._limit * self._asked)}. First: id {first}, "
                f"{failed[first]}"
            )

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(ProgressEvent(self.done, self.total, len(self.failures)))


_Todo = list[tuple[str, int]]


class _WriterThread:
    """A thread that writes shards from what it is given, in the order of ids.

    The interface is that of `WriterProcess`.
    """

    def __init__(self, job: _Job, todo: _Todo, judge: Callable[[int, str], None]) -> None:
        self._solved: queue.Queue[_Outcome | None] = queue.Queue(
            max(2, min(64, _AHEAD // job.schema.sample_bytes()))
        )
        self.facts: dict[Path, ShardFacts] = {}
        self._pool = ThreadPoolExecutor(1, "opkit-writer")
        self._writing = self._pool.submit(self._write, job, todo, judge)

    def _write(self, job: _Job, todo: _Todo, judge: Callable[[int, str], None]) -> None:
        stream = self._outcomes()
        for split, shard in todo:
            _write(job.writer(split, shard), stream, judge)

    def _outcomes(self) -> Iterator[_Outcome]:
        while (o := self._solved.get()) is not None:
            yield o
        raise StoppedError

    def __enter__(self) -> _WriterThread:
        return self

    def put(self, outcome: _Outcome | None) -> None:
        while not self._writing.done():
            with suppress(queue.Full):
                return self._solved.put(outcome, timeout=0.1)

    def done(self) -> bool:
        return self._writing.done()

    def result(self) -> None:
        self._writing.result()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _run_serial(
    job: _Job, todo: _Todo, tally: _Tally, signals: _Signals
) -> Mapping[Path, ShardFacts]:
    """Solve here; a thread or a process beside writes what is solved.

    Signals reach this thread alone, so none can disturb HDF5 there.
    """
    apart = tally.total >= _APART and bool(sys.executable) and len(os.sched_getaffinity(0)) > 1
    kind = WriterProcess if apart else _WriterThread
    with _single_thread(), kind(job, todo, tally.judge) as writer:
        try:
            for split, shard in todo:
                for i in job.config.sample_ids(split, shard):
                    with signals.interruptible():
                        o = _solve(job, i)
                    writer.put(o)
                    if writer.done():
                        writer.result()
                    if tally.done + 1 < tally.total:
                        tally.step()
            while not writer.done():
                with signals.interruptible():
                    time.sleep(0.005)
            writer.result()
            tally.step()  # the last one, when all failures are known
        except BaseException:
            writer.put(None)  # what is solved is still written: it may complete a shard
            raise
    return writer.facts


def _run_blocks(
    job: _Job, todo: _Todo, tally: _Tally, signals: _Signals, workers: int, pool: Executor
) -> None:
    """Workers solve blocks of a few samples; shards are written here, in order."""
    ids = [i for split, shard in todo for i in job.config.sample_ids(split, shard)]
    # small enough to share the work evenly, and to hold a few blocks a worker in memory
    size = max(1, min(16, len(ids) // (16 * workers), 2**24 // job.schema.sample_bytes()))
    blocks = deque(ids[k : k + size] for k in range(0, len(ids), size))
    pending: deque[Future[list[_Outcome]]] = deque()

    def outcomes() -> Iterator[_Outcome]:
        while blocks or pending:
            while blocks and len(pending) < 3 * workers:
                pending.append(pool.submit(_solve_block, job, blocks.popleft()))
            with signals.interruptible():
                block = pending[0].result()
            pending.popleft()
            yield from block

    stream = outcomes()
    for split, shard in todo:
        _write(job.writer(split, shard), stream, tally.add)


def _run_shards(
    job: _Job, todo: _Todo, tally: _Tally, signals: _Signals, workers: int, pool: Executor
) -> None:
    """Workers solve and write whole shards; here only their progress is read."""
    fd, events = tempfile.mkstemp(prefix="opkit-progress-")
    try:
        with os.fdopen(fd, "rb") as log:
            waiting, running, rest = deque(todo), set[Future[None]](), b""
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    running.add(pool.submit(_make_shard, job, *waiting.popleft(), events))
                with signals.interruptible():
                    finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                *lines, rest = (rest + log.read()).split(b"\n")
                for line in lines:
                    tally.add(*json.loads(line))
                for f in finished:
                    f.result()
    finally:
        os.unlink(events)


def _run_cluster(job: _Job, todo: _Todo, tally: _Tally, signals: _Signals, address: str) -> None:
    """Workers of a Dask cluster solve and write whole shards; here only their progress is read.

    Dask makes the shards of a worker that is lost again elsewhere.
    """
    from ._cluster import connected

    job = replace(job, root=job.root.absolute())
    for split, _ in todo:
        (job.root / "data" / split).mkdir(parents=True, exist_ok=True)
    seen = set[int]()

    def add(sample_id: int, reason: str) -> None:
        if sample_id not in seen:  # a shard made again reports again
            seen.add(sample_id)
            tally.add(sample_id, reason)

    try:
        with connected(address, signals.interruptible) as cluster:
            for split, shard in todo:
                cluster.submit(_make_shard_there, job, split, shard)
            while cluster.pending:
                with signals.interruptible():
                    time.sleep(0.1)
                for event in cluster.events():
                    add(*event)
                for result in cluster.results():
                    split, shard, reports = result
                    for event in reports:
                        add(*event)
                    _wait_for(shard_path(job.root, split, shard, problem=job.problem.name), signals)
    finally:  # of lost workers; those still at work see that theirs are gone, and stop
        for split, shard in todo:
            clean_temporaries(job.root, split, shard, problem=job.problem.name, force=True)


def _wait_for(path: Path, signals: _Signals, seconds: float = 30.0) -> None:
    """Wait until a shard that a worker has written shows here: network file systems are slow."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise GenerateError(
                f"a worker wrote {path}, and it is not there: out must lie in a directory that all "
                "machines of the cluster share"
            )
        os.listdir(path.parent)  # makes NFS ask the server
        with signals.interruptible():
            time.sleep(0.2)


#: Solvers keep work space from one solve to the next: one sample at a time in a process.
_ONE_AT_A_TIME = threading.Lock()


def _make_shard_there(
    job: _Job, split: str, shard: int, tell: Callable[[int, str], None]
) -> tuple[str, int, list[tuple[int, str]]]:
    """Solve and write one shard in a worker of a cluster; returns id and reason of each sample."""
    if not job.root.is_dir():
        raise GenerateError(
            f"out={job.root} is no directory on a worker: it must lie in one that all machines of "
            "the cluster share"
        )
    path = shard_path(job.root, split, shard, problem=job.problem.name)
    reports: list[tuple[int, str]] = []
    looked = time.monotonic()

    def report(sample_id: int, reason: str) -> None:
        nonlocal looked
        reports.append((sample_id, reason))
        tell(sample_id, reason)
        if time.monotonic() - looked > 1:
            looked = time.monotonic()
            if not any(path.parent.glob(f".{path.stem}.*.tmp")):
                raise GenerateError(f"{path.name}: the run has ended, this shard is not wanted")

    with _ONE_AT_A_TIME, _single_thread():
        outcomes = (_solve(job, i) for i in job.config.sample_ids(split, shard))
        _write(job.writer(split, shard), outcomes, report)
    return split, shard, reports


@contextmanager
def _pool(workers: int, signals: _Signals) -> Iterator[Executor]:
    """Start processes that are gone when the block ends, at once if it ends badly."""
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

    pool = ProcessPoolExecutor(
        workers, initializer=_start_worker, initargs=(os.getpid(),), env=_THREADS
    )
    # Ctrl-C in a terminal goes to all processes; those that start here never see it
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pool.submit(os.getpid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    try:
        yield pool
    except BrokenProcessPool as e:
        _kill(pool)
        with signals.interruptible():  # a signal to all processes counts as an interruption
            time.sleep(0.2)
        raise WorkerDiedError(
            f"a worker process died ({' '.join(str(e).split())[:200]}); for want of memory? "
            "Finished shards are kept: resume, with fewer workers"
        ) from None
    except BaseException:
        _kill(pool)
        raise
    pool.shutdown(wait=True)


def _kill(pool: Any) -> None:
    """End all workers now.

    The queue of tasks is emptied first: loky's manager thread would look for them among those it
    has just thrown away, and print a KeyError.
    """
    with suppress(AttributeError, queue.Empty):
        while True:
            pool._work_ids.get_nowait()
    pool.shutdown(wait=True, kill_workers=True)


@contextmanager
def _single_thread() -> Iterator[None]:
    """One BLAS and OpenMP thread, in libraries loaded now or later: the same bits everywhere."""
    import scipy.sparse.linalg  # noqa: F401  # brings a BLAS of its own
    from threadpoolctl import threadpool_limits

    old = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(_THREADS)
    try:
        with threadpool_limits(1):
            yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# -- the directory -------------------------------------------------------------------------------


def _owned_files(root: Path) -> list[Path]:
    """Find what opkit itself has put into a dataset's directory."""
    names = ["dataset.json", "stats.yaml", *(f"{s}.h5" for s in SPLIT_CODES)]
    names += [f"{p.name}.h5" for p in (root / "data").glob("test_*") if p.is_dir()]
    owned = [root / n for n in names if (root / n).is_file()]
    for split in (root / "data").glob("*"):
        if split.name in SPLIT_CODES or split.name.startswith("test_"):
            owned += [p for p in split.iterdir() if re.fullmatch(r".*\.h5|\..*\.tmp", p.name)]
    return owned


def _remove_empty(root: Path) -> None:
    """Remove directories that hold nothing."""
    for path in [*(root / "data").glob("*"), root / "data", root]:
        with suppress(OSError):
            path.rmdir()


def _open_directory(config: GenerateConfig) -> bool:
    """Whether there is a dataset to continue.

    Raises
    ------
    FileExistsError
        There is something that must not be touched, or nobody said what to do with it.
    """
    root = config.out
    if not root.exists():
        return False
    if not root.is_dir():
        raise FileExistsError(f"out={root}: is a file; choose a directory")
    if all(p.is_dir() for p in root.rglob("*")):  # or killed before the first shard
        return False
    owned = _owned_files(root)
    if not any(p.parent.parent == root / "data" for p in owned):
        raise FileExistsError(
            f"out={root}: exists, is not empty and not an opkit dataset; choose another directory"
        )
    if not (config.resume or config.overwrite or config.shards or config.repair):
        raise FileExistsError(
            f"out={root}: exists already. --resume continues or extends it, --overwrite replaces it"
        )
    return not config.overwrite


def _continued(
    new: DatasetConfig, facts: Sequence[ShardFacts], config: GenerateConfig
) -> DatasetConfig:
    """Adapt to the dataset that is continued: its shard size, and never fewer samples.

    Raises
    ------
    ConfigMismatchError
    """
    if not facts:
        if config.repair:
            raise NotAnOpkitFileError(f"out={config.out}: no dataset to repair there")
        return new
    known = [DatasetConfig.from_dict(f.config) for f in facts]
    old = known[0]
    if config.samples_per_shard is None:
        new = replace(new, samples_per_shard=old.samples_per_shard)
    if config.solver is None and new.solver != old.solver:  # the default may change with versions
        new = replace(new, solver=old.solver)
    if old.sha256 != new.sha256:
        raise ConfigMismatchError(
            f"out={config.out} was made with another configuration: {old.differences(new)}. Choose "
            "a new directory, or drop the change."
        )
    asked = {s: 0 for s in new.n} if config.repair else new.n
    return replace(new, n={s: max(n, *(k.n.get(s, 0) for k in known)) for s, n in asked.items()})


def generate(
    config: GenerateConfig, *, progress: Progress | None = None, command: str | None = None
) -> GenerateResult:
    """Make a dataset, or continue or extend one.

    Parameters
    ----------
    config : GenerateConfig
    progress : callable, optional
        Gets a `ProgressEvent` at the start and after each sample.
    command : str, optional
        Command line for the files' provenance.

    Returns
    -------
    GenerateResult

    Raises
    ------
    ValueError
        Unknown problem, solver or parameter, bad resolution: one line.
    FileExistsError
        `out` exists, and none of `resume`, `overwrite`, `shards` and `repair` is given, or it is
        no dataset.
    ConfigMismatchError
        The dataset to continue was made with another configuration.
    TooManyFailuresError
        More than `max_failures` of the samples failed.
    WorkerDiedError
        A worker process was killed.
    OSError
        Disk full.
    KeyboardInterrupt
        On SIGINT or SIGTERM. As with all of these, finished shards are kept and indexed, and
        temporary files are gone.

    Notes
    -----
    A sample depends on problem, parameters, resolution, solver, seed and its id alone: neither the
    number of workers nor an interruption changes a bit of it. BLAS runs on one thread.

    Examples
    --------
    >>> config = GenerateConfig(problem="darcy", out="darcy", n=100, resolution=65, workers=2)
    >>> generate(config).manifest["splits"]["train"]["written"]  # doctest: +SKIP
    100
    """
    if config.mpi:
        from ._mpi import generate_together

        return generate_together(config, progress, command)
    start = time.perf_counter()
    plan = _plan(config)
    return _carry_out(plan, config, progress, command, start, _run)


@dataclass(frozen=True)
class _Plan:
    """What is to be done."""

    problem: Problem
    schema: DatasetSchema
    dataset: DatasetConfig
    #: All shards asked for, and those to make.
    shards: _Todo
    todo: _Todo
    #: Samples asked for, and those to do.
    asked: int
    total: int
    old_failures: dict[int, str]
    #: What is known about the shards there are.
    sound: dict[Path, ShardFacts]


def _plan(config: GenerateConfig) -> _Plan:
    problem = get_problem(config.problem, **config.params)
    resolution = problem.check_resolution(config.resolution)
    solver = problem.check_solver(_mpi_solver(problem, config) or problem.choose_solver(resolution))
    schema = problem.schema(resolution, config.dtype)
    sizes, root = config.split_sizes, config.out
    dataset = DatasetConfig(
        problem=problem.name,
        params=problem.params.model_dump(mode="json"),
        resolution=resolution,
        dtype=config.dtype,
        seed=config.seed,
        solver=solver,
        rtol=config.rtol,
        n=sizes,
        samples_per_shard=config.samples_per_shard
        or default_samples_per_shard(max(sizes.values()), schema.sample_bytes()),
        compression=config.compression,
    )
    facts = sound_shards(root) if _open_directory(config) else []
    dataset = _continued(dataset, facts, config)
    schema = replace(schema, discretization=problem.discretization(dataset.solver, resolution))
    shards = [(s, k) for s in dataset.n for k in range(dataset.n_shards(s))]
    if config.shards is not None:
        first, last = map(int, config.shards.split(":"))
        if first >= len(shards):
            raise ValueError(f"shards={config.shards}: there are {len(shards)}, numbered from 0")
        shards = shards[first:last]
    if config.overwrite and root.is_dir():
        for path in _owned_files(root):
            path.unlink()
    damaged = _damaged(root, shards) if config.repair else None
    sound = {f.path: f for f in facts}
    todo, old_failures = [], dict[int, str]()
    for split, k in shards:
        path = shard_path(root, split, k, problem=problem.name)
        ids = dataset.sample_ids(split, k)
        if path not in sound or (split, k) in (damaged or ()):
            todo.append((split, k))
        elif damaged is None and not sound[path].accounts_for(ids):
            todo.append((split, k))
        else:
            old_failures.update({i: reason for i, _, reason in sound[path].failures})
    if damaged is not None:  # a shard that stays would be compared with the new one
        for split, k in todo:
            shard_path(root, split, k, problem=problem.name).unlink(missing_ok=True)
    return _Plan(
        problem, schema, dataset, shards, todo,
        asked=sum(len(dataset.sample_ids(s, k)) for s, k in shards),
        total=sum(len(dataset.sample_ids(s, k)) for s, k in todo),
        old_failures=old_failures, sound=sound,
    )  # fmt: skip


def _mpi_solver(problem: Problem, config: GenerateConfig) -> str | None:
    """Solver asked for; under MPI one that can be shared."""
    able = problem.mpi_solvers
    if not config.mpi:
        return config.solver
    if not able:
        raise ValueError(f"mpi: no solver of {problem.name} can share a solve; leave --mpi out")
    if config.solver is not None and problem.check_solver(config.solver) not in able:
        raise ValueError(f"solver={config.solver}: with mpi allowed: {', '.join(able)}")
    return config.solver or able[0]


def _damaged(root: Path, shards: _Todo) -> set[tuple[str, int]]:
    """Shards to make again, by reading everything."""
    from .hdf5 import find_damaged

    return {(d.split, d.shard) for d in find_damaged(root)} & set(shards)


def _carry_out(
    plan: _Plan,
    config: GenerateConfig,
    progress: Progress | None,
    command: str | None,
    start: float,
    run: Callable[
        [_Job, _Todo, _Tally, _Signals, GenerateConfig], Mapping[Path, ShardFacts] | None
    ],
) -> GenerateResult:
    """Make the shards of a plan, and the index."""
    root, dataset, todo, name = config.out, plan.dataset, plan.todo, plan.problem.name
    tally = _Tally(plan.total, plan.asked, plan.old_failures, config.max_failures, progress)
    job = _Job(root, plan.problem, plan.schema, dataset, config.error_fraction, command)
    known = _digests(root)
    for split, k in todo:
        clean_temporaries(root, split, k, problem=name)
    with _Signals() as signals:
        facts = dict(plan.sound)
        try:
            if todo:
                facts.update(run(job, todo, tally, signals, config) or {})
        except BaseException:
            for split, k in todo:
                clean_temporaries(root, split, k, problem=name)
            with suppress(DatasetError, OSError):  # the first error is the one to report
                if any(shard_path(root, s, k, problem=name).exists() for s, k in plan.shards):
                    _index(root, dataset.n, facts)
            _remove_empty(root)
            raise
        manifest = _index(root, dataset.n, facts)
    if config.repair:
        _check_repaired(root, known, _digests(root))
    return GenerateResult(
        path=root,
        config=dataset,
        solved=tally.done - len(tally.failures),
        skipped=plan.asked - plan.total,
        failures=tuple(sorted(tally.failures.items())),
        seconds=time.perf_counter() - start,
        manifest=manifest,
    )


def _run(
    job: _Job, todo: _Todo, tally: _Tally, signals: _Signals, config: GenerateConfig
) -> Mapping[Path, ShardFacts] | None:
    """Make shards; returns what is known about them, if anything."""
    workers = min(config.workers, tally.total)
    if config.cluster is not None:
        _run_cluster(job, todo, tally, signals, config.cluster)
    elif workers <= 1:
        return _run_serial(job, todo, tally, signals)
    else:
        with _pool(workers, signals) as pool:
            whole = len(todo) >= _SHARDS_PER_WORKER * workers
            (_run_shards if whole else _run_blocks)(job, todo, tally, signals, workers, pool)
    return None


# -- the index -----------------------------------------------------------------------------------


def _index(
    root: Path, requested: Mapping[str, int], facts: Mapping[Path, ShardFacts] | None = None
) -> dict[str, Any]:
    """Write ``dataset.json``, statistics and views, unless they are up to date.

    Other jobs may finish shards meanwhile and write theirs: whoever writes last looks again.
    """
    while True:
        before = _stamps(root)
        manifest = current_index(root, requested=requested)
        if manifest is None:
            manifest = rebuild_index(root, requested=requested, reuse=True, facts=facts)
        if _stamps(root) == before:
            return manifest


def _stamps(root: Path) -> list[tuple[Any, ...]]:
    """All shards, so that a new or replaced one shows."""
    out = []
    for path in sorted((root / "data").glob("*/[!.]*.h5")):
        st = path.stat()
        out.append((path, st.st_ino, st.st_mtime_ns, st.st_size))
    return out


def _digests(root: Path) -> dict[str, str]:
    """Content of each shard, according to ``dataset.json``; empty if that cannot be read."""
    with suppress(DatasetError, OSError, KeyError):
        splits = read_manifest(root)["splits"].values()
        return {s["file"]: s["content_digest"] for i in splits for s in i["shards"]}
    return {}


def _check_repaired(root: Path, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise unless the shards made again hold what they held."""
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            raise GenerateError(
                f"{root / name}: came out different from the one stored before; the software or "
                "the machine has changed. The other shards are as they were: start a new dataset"
            )


# -- for the command line ------------------------------------------------------------------------


def mpi_rank() -> int:
    """Rank of this process among those of mpiexec.

    Raises
    ------
    SolverUnavailable
        DOLFINx, which brings MPI, is not installed.
    """
    from solvers.fenicsx._runtime import require_dolfinx

    require_dolfinx()
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.rank)


def stored_settings(root: str | Path) -> dict[str, Any]:
    """Return what a dataset was made with, under the names of ``opkit generate``.

    Raises
    ------
    NotAnOpkitFileError
        There is no sound shard in `root`.
    """
    facts = sound_shards(Path(root))
    if not facts:
        raise NotAnOpkitFileError(f"out={root}: no dataset to repair there")
    c = DatasetConfig.from_dict(facts[0].config)
    n = {s: max(f.config["n"].get(s, 0) for f in facts) for s in SPLIT_CODES}
    return {
        "problem": c.problem,
        "n": n["train"],
        "n_valid": n["valid"],
        "n_test": n["test"],
        "resolution": c.resolution,
        "seed": c.seed,
        "solver": c.solver,
        "set": dict(c.params),
        "dtype": c.dtype,
        "rtol": c.rtol,
        "compression": c.compression or "none",
        "samples_per_shard": c.samples_per_shard,
    }
