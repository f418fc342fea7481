"""A Dask cluster as `generate` needs it: shards go out, lines of progress and results come back.

Dask is used directly, not through joblib's backend for it: that one hands back whole results only,
so a sample's progress and too many failures would show a shard late, and an interrupted call could
not tell its workers to stop.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

__all__ = ["Cluster", "connected"]

#: Seconds to wait for the scheduler, and then for its first worker.
TIMEOUT = 10.0


class Cluster:
    """Tasks on a Dask cluster; see `connected`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._topic = f"opkit-{uuid.uuid4().hex}"
        self._events: deque[list[Any]] = deque()
        self._futures: set[Any] = set()
        client.subscribe_topic(self._topic, lambda event: self._events.append(event[1]))

    @property
    def pending(self) -> bool:
        """Whether there are tasks without a result."""
        return bool(self._futures)

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Call ``function(*args, tell)`` on a worker; what it tells comes back from `events`."""
        import cloudpickle

        task = cloudpickle.dumps((function, args))  # so that the scheduler need not know the parts
        key = f"opkit-shard-{uuid.uuid4().hex}"
        self._futures.add(self._client.submit(_call, task, self._topic, pure=False, key=key))

    def events(self) -> Iterator[list[Any]]:
        """Return what has been told since the last call; what lost workers told comes twice."""
        while self._events:
            yield self._events.popleft()

    def results(self) -> Iterator[Any]:
        """Return values of the tasks done since the last call.

        Raises
        ------
        WorkerDiedError
            Several workers in turn died over one task, or the scheduler is gone.
        Exception
            What a task has raised.
        """
        for future in [f for f in self._futures if f.done()]:
            self._futures.remove(future)
            yield _result(future)

    def cancel(self) -> None:
        """Drop all tasks; those that run see to it themselves that they end."""
        self._client.cancel(list(self._futures))
        self._futures.clear()


def _result(future: Any) -> Any:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    from .generate import WorkerDiedError

    try:
        return future.result()
    except KilledWorker as e:
        raise WorkerDiedError(
            f"several workers of the cluster died over the same shard ({_line(e)}); for want of "
            "memory? Finished shards are kept: resume"
        ) from None
    except CancelledError:
        raise WorkerDiedError(
            "the scheduler of the cluster has dropped the work; is it still running? Finished "
            "shards are kept: resume"
        ) from None


def _call(task: bytes, topic: str) -> Any:
    """Run in a worker."""
    import cloudpickle
    from distributed import get_worker

    worker = get_worker()
    function, args = cloudpickle.loads(task)

    def tell(*event: Any) -> None:
        worker.log_event(topic, list(event))

    return function(*args, tell)


@contextmanager
def connected(
    address: str, interruptible: Callable[[], AbstractContextManager[None]]
) -> Iterator[Cluster]:
    """Connect to a scheduler; its work for us is dropped when the block ends badly.

    Parameters
    ----------
    address : str
        ``tcp://host:port``.
    interruptible : callable
        Context manager in which Ctrl-C may raise.

    Raises
    ------
    ValueError
        Dask is not installed, nobody answers, or the scheduler has no workers: one line.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as e:
        raise ValueError(
            f"cluster={address}: needs Dask ({e}): pip install 'opkit[cluster]'"
        ) from None
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what matters comes as an exception
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": TIMEOUT}), interruptible():
            client = _client(Client, address)
        try:
            cluster = Cluster(client)
            try:
                yield cluster
            except BaseException:
                with suppress(Exception):  # the first error is the one to report
                    cluster.cancel()
                raise
        finally:
            with suppress(Exception):
                client.close(timeout=2)
    finally:
        log.setLevel(level)


def _client(kind: Any, address: str) -> Any:
    try:
        client = kind(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as e:
        raise ValueError(
            f"cluster={address}: no Dask scheduler answers there ({_line(e)})"
        ) from None
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError:
        client.close(timeout=2)
        raise ValueError(
            f"cluster={address}: the scheduler has no workers; start some with: dask worker "
            f"{address} --nthreads 1"
        ) from None
    return client


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
