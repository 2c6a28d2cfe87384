"""`map_chunks`: apply a function to chunks in parallel, on local threads or a Dask cluster."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from lepton_tasks.core.context import RunContext

C = TypeVar("C", bound=Sized)
R = TypeVar("R")

WINDOW = 4
"""Chunks in flight per thread: a chunk may take four times as long as the others before they have to wait for it."""


def map_chunks(
    function: Callable[[C], R], chunks: Iterable[C], ctx: RunContext, *, total: int | None, unit: str
) -> Iterator[R]:
    """The function's result for each chunk, in order; at most a window of results is in memory.

    Args:
        function: Importable on a worker and free of shared state. A lost worker's chunk is computed again, so files
            must be written to a temporary name and renamed.
        chunks: Chunks of rows, with a length.
        ctx: Run context: Dask settings and progress.
        total: Number of rows in all chunks; None if unknown.
        unit: Name of the rows in the progress line.

    Raises:
        UnavailableError: the Dask cluster does not answer, or has no workers.
        ConfigError: the cluster rejects the certificate, or its workers lack the package or the files.
    """
    tick = ctx.meter(total, unit)
    left = len(chunks) if isinstance(chunks, Sized) else None
    done = 0
    if ctx.environment.dask.address is None:
        results = _on_threads(function, chunks, ctx.environment.dask.workers)
    else:
        from lepton_tasks.data.cluster.remote import on_workers

        results = on_workers(function, chunks, ctx, window=WINDOW)
    with contextlib.closing(results):
        for rows, result in results:
            done += rows
            left = None if left is None else left - 1
            tick(done, left)
            yield result


def _on_threads(
    function: Callable[[C], R], chunks: Iterable[C], workers: int
) -> collections.abc.Generator[tuple[int, R], None, None]:
    """Length of each chunk and its result; Dask itself uses threads on one machine, too (docs/decisions/013)."""
    from dask.system import CPU_COUNT  # respects container limits

    threads = workers or CPU_COUNT
    remaining = iter(chunks)
    window: collections.deque[tuple[int, Future[R]]] = collections.deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="dask") as pool:
        try:
            while True:
                for chunk in itertools.islice(remaining, WINDOW * threads - len(window)):
                    window.append((len(chunk), pool.submit(function, chunk)))
                if not window:
                    return
                rows, future = window.popleft()
                yield rows, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
