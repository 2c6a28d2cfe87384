"""Run chunks on Dask workers: results in order, lost work is recomputed."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import operator
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, Generic, TypeVar

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import Dask
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.data.cluster.client import LostError, connected, no_worker, threads_of

C = TypeVar("C", bound=Sized)
R = TypeVar("R")

_POLL_SECONDS = 2.0  # between checks of the workers while waiting for a result
_MAX_LOSSES = 5  # consecutive connection losses without a result in between before the stage fails


def on_workers(
    function: Callable[[C], R], chunks: Iterable[C], ctx: RunContext, *, window: int
) -> Generator[tuple[int, R], None, None]:
    """Length of each chunk and its result.

    Dask itself reassigns a dead worker's chunks. After a loss of the scheduler, chunks without a delivered result are
    sent again, to it or to its replacement.
    """
    where, root = ctx.environment.dask, ctx.store.root
    root.mkdir(parents=True, exist_ok=True)
    # A fresh file proves that a worker shares this state folder, and not another one of the same name.
    with tempfile.NamedTemporaryFile(dir=root, prefix=".workers-see-") as marker:
        shared = {marker.name: f"the state folder {root}"}
        data = Path(ctx.environment.data_root).resolve()
        if data.exists():
            shared[str(data)] = f"the data in {data}"
        job = _Job(_Task(function, shared), iter(chunks), where, window)
        losses = 0
        while True:
            try:
                with connected(ctx) as client:
                    for rows, result in job.results(client):
                        losses = 0
                        yield rows, result
                    return
            except LostError as error:
                losses += 1
                if losses == _MAX_LOSSES:
                    raise UnavailableError(
                        f"the connection to the Dask cluster at {where.address} was lost {losses} times in a row.",
                        where="dask.address",
                        fix="See the scheduler's log: memory, restarts, the network.",
                    ) from error
                ctx.log.warning(
                    "the scheduler at %s is lost; sending %d chunks again (%r)",
                    *(where.address, len(job.in_flight), error.__cause__),
                )


@dataclasses.dataclass(frozen=True)
class _Task(Generic[C, R]):
    """The function as called on a worker, after a check that the worker sees the shared files."""

    function: Callable[[C], R]
    shared: Mapping[str, str]

    def __call__(self, chunk: C) -> R:
        for path, name in self.shared.items():
            if not Path(path).exists():
                raise ConfigError(
                    f"the worker on {socket.gethostname()} does not see {name}.",
                    where="dask.address",
                    fix="All hosts share these folders, at the same paths: mount them there.",
                )
        return self.function(chunk)


class _Job(Generic[C, R]):
    """Chunks in flight; they survive the loss of a client."""

    def __init__(self, task: _Task[C, R], chunks: Iterator[C], where: Dask, window: int) -> None:
        self.in_flight: collections.deque[C] = collections.deque()
        self._task, self._chunks, self._where, self._window = task, chunks, where, window

    def results(self, client: Any) -> Iterator[tuple[int, R]]:
        """Length and result of each chunk not delivered yet, in order."""
        futures = collections.deque(self._send(client, self.in_flight))
        room, looked = 0, -_POLL_SECONDS
        while True:
            if time.monotonic() - looked >= _POLL_SECONDS:  # workers come and go
                room, looked = self._window * max(1, self._threads(client)), time.monotonic()
            if len(futures) <= room // 2:  # submit many at once: the cost per graph does not grow with its size
                fresh = list(itertools.islice(self._chunks, room - len(futures)))
                self.in_flight.extend(fresh)
                futures.extend(self._send(client, fresh))
            if not futures:
                return
            for result in self._first_results(client, futures):
                futures.popleft()
                yield len(self.in_flight.popleft()), result

    def _send(self, client: Any, chunks: Collection[C]) -> list[Any]:
        from dask.utils import funcname

        # Wrap the chunk in a partial: Dask would search a bare list for nested tasks, row by row.
        tasks = [functools.partial(self._task, chunk) for chunk in chunks]
        try:
            return client.map(operator.call, tasks, key=funcname(self._task.function), pure=False) if tasks else []
        except Exception as error:
            if client.status == "running":
                raise
            raise LostError from error

    def _first_results(self, client: Any, futures: Collection[Any]) -> list[R]:
        """The first result, once it is ready, and the ready ones directly after it."""
        first, seen = next(iter(futures)), time.monotonic()
        while True:
            try:
                first.exception(timeout=_POLL_SECONDS)
                done = list(itertools.takewhile(lambda future: future.status == "finished", futures))
                gather = functools.partial(client.gather, done or [first], asynchronous=True)
                results: list[R] = client.sync(gather, callback_timeout=self._where.patience)
                return results
            except Exception as error:
                if first.status == "error":
                    raise self._explained(error) from error.__cause__
                # It may have finished in the meantime, or been lost with its worker and be computed again.
                if first.status == "cancelled" or not isinstance(error, TimeoutError):
                    raise LostError from error
            if self._threads(client):
                seen = time.monotonic()
            elif time.monotonic() - seen > self._where.patience:
                raise no_worker(self._where)

    def _threads(self, client: Any) -> int:
        try:
            return threads_of(client, self._where)
        except OSError as error:
            raise LostError from error

    def _explained(self, error: Exception) -> Exception:
        """The function's exception, or an explanation if it was not the function."""
        import distributed

        if isinstance(error, distributed.KilledWorker):
            return UnavailableError(
                f"{error.allowed_failures + 1} workers died on one chunk, the last at {error.last_worker.address}.",
                where="dask.address",
                fix="Usually it is out of memory: give workers more memory or fewer threads.",
            )
        return error
