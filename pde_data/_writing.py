"""Writing shards in a process beside the one that solves.

A thread would do where solving is all compiled code. Where it is not, both want the interpreter:
with a millisecond a sample, solving takes twice as long beside a thread that writes.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .generate import _Job, _Outcome, _Todo
    from .hdf5.manifest import ShardFacts

__all__ = ["StoppedError", "WriterProcess", "serve"]

#: Bytes of solved samples that may wait there: it takes a while to start.
AHEAD = 2**25
#: PETSc, once loaded, ends the process on SIGPIPE.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class StoppedError(Exception):
    """No more samples come."""


class WriterProcess:
    """A process that writes shards from what it is sent, in the order of ids.

    Parameters
    ----------
    judge : callable
        Gets id and reason of each sample that fails, in a thread of its own.

    Attributes
    ----------
    facts : dict of Path to ShardFacts
        Of the shards that are finished.
    """

    def __init__(self, job: _Job, todo: _Todo, judge: Callable[[int, str], None]) -> None:
        from joblib.externals.loky.cloudpickle_wrapper import dumps

        self.facts: dict[Path, ShardFacts] = {}
        self._judge = judge
        most = max(2, AHEAD // job.schema.sample_bytes())
        task = dumps((job.writer_options(), todo, most))
        self._connection, tells = Pipe()
        self._samples, theirs = socket.socketpair()
        self._process = _start(tells.fileno(), theirs.fileno())
        tells.close()
        theirs.close()
        self._pool = ThreadPoolExecutor(1, "opkit-writer")  # listens, so that neither side waits
        self._said = self._pool.submit(self._listen)
        _send(self._samples, [task])

    def __enter__(self) -> Self:
        return self

    def put(self, outcome: _Outcome | None) -> None:
        """Send a sample; None: no more come, but those before are to be written."""
        try:
            _send(self._samples, _parts(outcome))
        except (BrokenPipeError, ConnectionResetError):  # `result` says why
            wait([self._said])

    def done(self) -> bool:
        """Whether all is written, or has failed."""
        return self._said.done()

    def result(self) -> None:
        """Raise what went wrong.

        Raises
        ------
        WorkerDiedError
            The process was killed.
        """
        self._said.result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            wait([self._said])
        finally:
            if not self._said.done() or self._said.exception() is not None:
                self._process.kill()  # it leaves a temporary file at most
            self._process.wait()
            self._pool.shutdown()
            self._connection.close()
            self._samples.close()

    def _listen(self) -> None:
        """Take in what the process says, until it is done."""
        from .generate import WorkerDiedError

        while True:
            try:
                what, value = self._connection.recv()
            except (EOFError, ConnectionResetError):
                raise WorkerDiedError(
                    "the process that writes was killed; for want of memory? Finished shards are "
                    "kept: resume"
                ) from None
            if what == "end":
                return
            if what == "error":
                raise value
            if what == "failed":
                self._judge(*value)
            else:
                self.facts[value.path] = value


def _start(*fds: int) -> subprocess.Popen[bytes]:
    """Start a process that serves; it never hears of SIGINT and SIGTERM."""
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:  # it inherits what this thread lets through
        return subprocess.Popen(
            [sys.executable, "-P", "-c", f"from pde_data._writing import serve; serve{fds}"],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- messages: the sizes of their parts, then these ----------------------------------------------


def _parts(value: object) -> list[bytes | memoryview]:
    """Pickle with the arrays beside, so that they are not copied."""
    arrays: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    return [text, *(a.raw() for a in arrays)]


def _send(to: socket.socket, parts: Sequence[bytes | memoryview]) -> None:
    sizes = struct.pack(f"<{len(parts) + 1}Q", len(parts), *(len(p) for p in parts))
    for part in (sizes, *parts):
        to.sendall(part, _NO_SIGNAL)


def _receive(source: socket.socket) -> list[bytearray]:
    """Receive the parts of a message; none at the end."""
    count = _read(source, 8)
    if not count:
        return []
    n = struct.unpack("<Q", count)[0]
    return [_read(source, size) for size in struct.unpack(f"<{n}Q", _read(source, 8 * n))]


def _read(source: socket.socket, n: int) -> bytearray:
    data, done = bytearray(n), 0
    with memoryview(data) as view:
        while done < n:
            got = source.recv_into(view[done:], n - done, socket.MSG_WAITALL)
            if not got:
                return bytearray()
            done += got
    return data


# -- the process ---------------------------------------------------------------------------------


def serve(tell: int, listen: int) -> None:
    """Write the shards that another process asks for; it ends with that."""
    connection, source = Connection(tell), socket.socket(fileno=listen)
    try:
        (task,) = _receive(source)
        arrived = queue.SimpleQueue[list[bytearray]]()
        room = threading.Semaphore(1)  # until it is known how much there is
        threading.Thread(target=_fetch, args=(source, arrived, room), daemon=True).start()
        _write_all(connection, task, arrived, room)
        last = pickle.dumps(("end", None))
    except BaseException as e:
        last = _portable(e)
    with suppress(OSError):  # nobody is there any more
        connection.send_bytes(last)


def _fetch(
    source: socket.socket, arrived: queue.SimpleQueue[list[bytearray]], room: threading.Semaphore
) -> None:
    """Take samples as they come, while there is room."""
    parts = [bytearray()]
    while parts:
        room.acquire()
        try:
            parts = _receive(source)
        except OSError:
            parts = []
        arrived.put(parts)


def _write_all(
    connection: Connection,
    task: bytes | bytearray,
    arrived: queue.SimpleQueue[list[bytearray]],
    room: threading.Semaphore,
) -> None:
    from .generate import _write
    from .hdf5 import ShardWriter
    from .hdf5.manifest import all_facts

    options, todo, most = pickle.loads(task)
    room.release(most)

    def outcomes() -> Iterator[_Outcome]:
        while parts := arrived.get():
            outcome = pickle.loads(parts[0], buffers=parts[1:])
            if outcome is None:
                break
            yield outcome
            room.release()
        raise StoppedError

    def report(sample_id: int, reason: str) -> None:
        if reason:
            connection.send(("failed", (sample_id, reason)))

    facts: ShardFacts | None = None

    def tell(done: ShardWriter) -> None:
        nonlocal facts
        assert done.published is not None
        done.published.result()
        facts = all_facts(done.path) if facts is None else done.facts(facts)
        connection.send(("shard", facts))

    stream, last = outcomes(), None
    # a thread waits for the disk meanwhile
    with suppress(StoppedError), ThreadPoolExecutor(1) as publisher:
        for split, shard in todo:
            writer = ShardWriter(split=split, shard=shard, publisher=publisher, **options)
            _write(writer, stream, report)
            if last is not None:
                tell(last)
            last = writer
        if last is not None:
            tell(last)


def _portable(error: BaseException) -> bytes:
    """Pickle an error; one that would not survive that, as its text."""
    from .generate import GenerateError

    try:
        data = pickle.dumps(("error", error))
        pickle.loads(data)
    except Exception:
        data = pickle.dumps(("error", GenerateError(f"{type(error).__name__}: {error}")))
    return data
