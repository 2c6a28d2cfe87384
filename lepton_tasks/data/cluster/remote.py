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
from lepton_tasks.data.cluster.chunks import WINDOW
from lepton_tasks.data.cluster.client import LostError, connected, no_worker, threads_of

C = TypeVar("C", bound=Sized)
R = TypeVar("R")

_LOOK = 2.0  # seconds between looks at the workers while a result is awaited
_LOSSES = 5  # connections lost in a row, without one result in between, before a stage gives up


def on_workers(
    function: Callable[[C], R], chunks: Iterable[C], ctx: RunContext
) -> Generator[tuple[int, R], None, None]:
    """Length of each chunk and its result.

    Dask itself gives a dead worker's chunks to the others. When the scheduler is lost, the chunks whose results have
    not been handed on are sent again, to it or to the one in its place.
    """
    where, root = ctx.environment.dask, ctx.store.root
    root.mkdir(parents=True, exist_ok=True)
    # A file of this moment: a worker that sees it has our state folder, and not one of the same name.
    with tempfile.NamedTemporaryFile(dir=root, prefix=".workers-see-") as mark:
        shared = {mark.name: f"the state folder {root}"}
        data = Path(ctx.environment.data_root).resolve()
        if data.exists():
            shared[str(data)] = f"the data in {data}"
        job = _Job(_Task(function, shared), iter(chunks), where)
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
                if losses == _LOSSES:
                    raise UnavailableError(
                        f"the connection to the Dask cluster at {where.address} was lost {losses} times in a row.",
                        where="dask.address",
                        fix="See the scheduler's log: memory, restarts, the network.",
                    ) from error
                ctx.log.warning(
                    "the scheduler at %s is lost; sending %d chunks again (%r)",
                    *(where.address, len(job.begun), error.__cause__),
                )


@dataclasses.dataclass(frozen=True)
class _Task(Generic[C, R]):
    """The function, as a worker calls it: not before the worker has shown that it sees the files."""

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
    """Chunks on their way: those that were begun outlive a client."""

    def __init__(self, task: _Task[C, R], chunks: Iterator[C], where: Dask) -> None:
        self.begun: collections.deque[C] = collections.deque()
        self._task, self._chunks, self._where = task, chunks, where

    def results(self, client: Any) -> Iterator[tuple[int, R]]:
        """Length and result of each chunk that is not handed on yet, in order."""
        futures = collections.deque(self._send(client, self.begun))
        room, looked = 0, -_LOOK
        while True:
            if time.monotonic() - looked >= _LOOK:  # workers come and go
                room, looked = WINDOW * max(1, self._threads(client)), time.monotonic()
            if len(futures) <= room // 2:  # many at once: what a scheduler pays for one graph does not grow with it
                fresh = list(itertools.islice(self._chunks, room - len(futures)))
                self.begun.extend(fresh)
                futures.extend(self._send(client, fresh))
            if not futures:
                return
            for result in self._first_results(client, futures):
                futures.popleft()
                yield len(self.begun.popleft()), result

    def _send(self, client: Any, chunks: Collection[C]) -> list[Any]:
        from dask.utils import funcname

        # The chunk hides in a partial: Dask would search a bare list for other tasks, row by row.
        tasks = [functools.partial(self._task, chunk) for chunk in chunks]
        try:
            return client.map(operator.call, tasks, key=funcname(self._task.function), pure=False) if tasks else []
        except Exception as error:
            if client.status == "running":
                raise
            raise LostError from error

    def _first_results(self, client: Any, futures: Collection[Any]) -> list[R]:
        """The first result, as soon as it is there, and those that are there behind it."""
        first, seen = next(iter(futures)), time.monotonic()
        while True:
            try:
                first.exception(timeout=_LOOK)
                done = list(itertools.takewhile(lambda future: future.status == "finished", futures))
                gather = functools.partial(client.gather, done or [first], asynchronous=True)
                results: list[R] = client.sync(gather, callback_timeout=self._where.patience)
                return results
            except Exception as error:
                if first.status == "error":
                    raise self._explained(error) from error.__cause__
                # Whatever became of it while we gave up waiting: finished, or lost with its worker and computed again.
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
        """What the function raised, or what to do if it was not the function."""
        import distributed

        if isinstance(error, distributed.KilledWorker):
            return UnavailableError(
                f"{error.allowed_failures + 1} workers died on one chunk, the last at {error.last_worker.address}.",
                where="dask.address",
                fix="Usually it is out of memory: give workers more memory or fewer threads.",
            )
        return error
