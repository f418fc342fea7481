"""Writing shards in a process beside the one that solves.

A thread would do where solving is all compiled code. Where it is not, both want the interpreter:
with a millisecond a sample, solving takes twice as long beside a thread that writes.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generate import _Job, _Outcome, _Todo

__all__ = ["StoppedError", "serve", "write_apart"]


class StoppedError(Exception):
    """No more samples come."""


def write_apart(
    job: _Job, todo: _Todo, outcomes: Iterator[_Outcome], judge: Callable[[int, str], None]
) -> None:
    """Write shards in another process, from outcomes in the order of ids.

    Parameters
    ----------
    judge : callable
        Gets id and reason of each sample that fails.

    Raises
    ------
    WorkerDiedError
        The process was killed.
    StoppedError
        From `outcomes`. What came before is written.
    """
    from joblib.externals.loky.cloudpickle_wrapper import dumps

    task = dumps((job.writer_options(), todo))
    ours, theirs = Pipe()
    process = _start(theirs)
    theirs.close()
    try:
        with ThreadPoolExecutor(1, "opkit-writer-says") as pool:  # so that neither side waits
            said = pool.submit(_listen, ours, judge)
            try:
                ours.send_bytes(task)
                for _ in range(sum(len(job.config.sample_ids(*shard)) for shard in todo)):
                    outcome = next(outcomes)
                    if said.done():
                        break
                    ours.send(outcome)
            except StoppedError:
                ours.send(None)
                said.result()
                raise
            except (BrokenPipeError, ConnectionResetError):  # `said` knows why
                pass
            said.result()
    except BaseException:
        process.kill()  # if it is not gone; it leaves a temporary file at most
        raise
    finally:
        ours.close()
        process.wait()


def _start(connection: Connection) -> subprocess.Popen[bytes]:
    """Start a process that serves a connection; it never hears of SIGINT and SIGTERM."""
    fd = connection.fileno()
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:  # it inherits what this thread lets through
        return subprocess.Popen(
            [sys.executable, "-P", "-c", f"from pde_data._writing import serve; serve({fd})"],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _listen(connection: Connection, judge: Callable[[int, str], None]) -> None:
    """Pass on what the process says, until it is done."""
    from .generate import WorkerDiedError

    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerDiedError(
                "the process that writes was killed; finished shards are kept, --resume goes on"
            ) from None
        if message is None:
            return
        if isinstance(message, BaseException):
            raise message
        judge(*message)


# -- the process ---------------------------------------------------------------------------------


def serve(fd: int) -> None:
    """Write the shards that a connection asks for; it ends with the process at the other end."""
    from .generate import _write
    from .hdf5 import ShardWriter

    connection = Connection(fd)

    def outcomes() -> Iterator[_Outcome]:
        while (o := connection.recv()) is not None:
            yield o
        raise StoppedError

    def report(sample_id: int, reason: str) -> None:
        if reason:
            connection.send((sample_id, reason))

    try:
        options, todo = pickle.loads(connection.recv_bytes())
        stream = outcomes()
        for split, shard in todo:
            _write(ShardWriter(split=split, shard=shard, **options), stream, report)
    except EOFError:  # the other process was killed
        return
    except StoppedError:
        connection.send(None)
    except BaseException as e:
        connection.send_bytes(_portable(e))
    else:
        connection.send(None)


def _portable(error: BaseException) -> bytes:
    """Pickle an error; one that would not survive that, as its text."""
    from .generate import GenerateError

    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = pickle.dumps(GenerateError(f"{type(error).__name__}: {error}"))
    return data
