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
"""Chunks begun per thread: the others go on until the first of the window is four times as slow as they are."""


def map_chunks(
    function: Callable[[C], R], chunks: Iterable[C], ctx: RunContext, *, total: int | None, unit: str
) -> Iterator[R]:
    """The function's result for each chunk, in order; at most a window of them is in memory.

    Args:
        function: Importable on a worker and free of shared state. A lost worker's chunk is computed again, so a
            function that writes a file writes it aside and renames it.
        chunks: Rows, by chunks of a length.
        ctx: Says where to compute, and is told the progress.
        total: Rows in all chunks together; None if that is not known.
        unit: What a row is called in the progress line.

    Raises:
        UnavailableError: the Dask cluster does not answer, or has no workers.
        ConfigError: it refuses our certificate, or its workers lack the package or the files.
    """
    tick = ctx.meter(total, unit)
    left = len(chunks) if isinstance(chunks, Sized) else None
    done = 0
    if ctx.environment.dask.address is None:
        results = _on_threads(function, chunks, ctx.environment.dask.workers)
    else:
        from lepton_tasks.data.cluster.remote import on_workers

        results = on_workers(function, chunks, ctx)
    with contextlib.closing(results):
        for rows, result in results:
            done += rows
            left = None if left is None else left - 1
            tick(done, left)
            yield result


def _on_threads(
    function: Callable[[C], R], chunks: Iterable[C], workers: int
) -> collections.abc.Generator[tuple[int, R], None, None]:
    """Length of each chunk and its result; threads are Dask's way on one machine too (docs/decisions/013)."""
    from dask.system import CPU_COUNT  # knows the limits of a container

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
