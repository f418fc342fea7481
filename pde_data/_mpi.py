"""`generate` under mpiexec: all processes solve each sample together, rank 0 does all else.

The others only follow: they wait for the id of the next sample, solve it, and wait again. So all
that can go wrong between two samples (a full disk, Ctrl-C, too many failures) happens on rank 0,
which then tells them to stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .generate import (
        GenerateConfig,
        GenerateResult,
        Progress,
        _Job,
        _Outcome,
        _Signals,
        _Tally,
        _Todo,
    )

__all__ = ["generate_together"]

#: Seconds that a process whose solve has failed waits for the others to get as far.
PATIENCE = 60.0


def generate_together(
    config: GenerateConfig, progress: Progress | None, command: str | None
) -> GenerateResult:
    """`generate` on all processes; all get the same result or the same exception."""
    from solvers.fenicsx._runtime import communicator, require_dolfinx

    require_dolfinx()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()  # the solver's messages go another way
    try:
        with communicator(MPI.COMM_WORLD):
            if comm.rank == 0:
                return _lead(config, progress, command, comm)
            return _follow(comm)
    finally:
        comm.Free()


def _lead(
    config: GenerateConfig, progress: Progress | None, command: str | None, comm: Any
) -> GenerateResult:
    from .generate import _carry_out, _plan

    start = time.perf_counter()
    end: Any = None
    try:
        end = _carry_out(_plan(config), config, progress, command, start, _runner(comm))
        return end
    except BaseException as e:
        end = e
        raise
    finally:
        comm.bcast(("end", _portable(end)))


def _runner(comm: Any) -> Callable[..., None]:
    from .generate import _single_thread, _write

    def run(
        job: _Job, todo: _Todo, tally: _Tally, signals: _Signals, config: GenerateConfig
    ) -> None:
        def outcomes() -> Iterator[_Outcome]:
            for split, shard in todo:
                for i in job.config.sample_ids(split, shard):
                    with signals.interruptible():  # not later: the others would wait for ever
                        pass
                    comm.bcast(("solve", i))
                    yield _solve_together(job, i, comm)

        comm.bcast(("job", job))
        stream = outcomes()
        with _single_thread():
            for split, shard in todo:
                _write(job.writer(split, shard), stream, tally.add)

    return run


def _follow(comm: Any) -> GenerateResult:
    import signal
    import threading

    from .generate import _single_thread

    if threading.current_thread() is threading.main_thread():  # rank 0 decides when to stop
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job: Any = None
    with _single_thread():
        while True:
            what, value = comm.bcast(None)
            if what == "end":
                if isinstance(value, BaseException):
                    raise value
                return value
            if what == "job":
                job = value
            else:
                _solve_together(job, value, comm)


def _solve_together(job: _Job, sample_id: int, comm: Any) -> _Outcome:
    """Solve one sample on all processes; it has failed if it has on any.

    Raises
    ------
    GenerateError
        On all processes. One that fails where the others wait for it ends them all.
    """
    from .generate import GenerateError, _Outcome, _solve

    error = ""
    try:
        outcome = _solve(job, sample_id, comm)
    except Exception as e:
        error = str(e) if isinstance(e, GenerateError) else f"sample {sample_id}: {_named(e)}"
        outcome = _Outcome(sample_id, reason=error)
    mine, total = np.array([bool(outcome.reason)], "i4"), np.zeros(1, "i4")
    request = comm.Iallreduce(mine, total)
    if outcome.reason:
        end = time.monotonic() + PATIENCE
        while not request.Test():
            if time.monotonic() > end:
                line = f"error: rank {comm.rank}: {outcome.reason}; the others do not answer\n"
                os.write(2, line.encode())
                comm.Abort(1)
            time.sleep(0.01)
    else:
        request.Wait()
    if not total[0]:
        return outcome
    told = comm.allgather((outcome.reason, error))
    if error := next((e for _, e in told if e), ""):
        raise GenerateError(error)
    return _Outcome(sample_id, reason=next(r for r, _ in told if r))


def _named(e: Exception) -> str:
    return f"{type(e).__name__}: {e}"


def _portable(end: Any) -> Any:
    """Return what can be sent: a plain exception where that one cannot."""
    import pickle

    try:
        pickle.loads(pickle.dumps(end))
    except Exception:
        from .generate import GenerateError

        return GenerateError(str(end))
    return end
