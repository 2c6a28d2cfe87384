"""Dask: threads of this process, or the workers of a cluster, behind one function."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, TypeVar

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import Dask
from lepton_tasks.core.errors import UnavailableError

T = TypeVar("T")
R = TypeVar("R")

_WINDOW = 8  # tasks in flight per worker: enough that the wait for the last of a window is short, few enough for memory
_PATIENCE = 10  # seconds


def map_chunks(
    function: Callable[[list[T]], R], chunks: Iterable[list[T]], ctx: RunContext, *, total: int, unit: str
) -> Iterator[R]:
    """The function's result for each chunk, in order; at most a window of them is held in memory.

    Args:
        function: Called on a worker; importable there, free of shared state.
        chunks: Lists of rows.
        ctx: Says where to compute, and is told the progress.
        total: Rows in all chunks together.
        unit: What a row is called in the progress line.

    Raises:
        UnavailableError: the Dask cluster does not answer.
    """
    from dask.base import compute
    from dask.delayed import delayed

    tick, done = ctx.meter(total, unit), 0
    remaining = iter(chunks)
    with _scheduler(ctx.environment.dask) as (scheduler, workers):
        while window := list(itertools.islice(remaining, _WINDOW * workers)):
            # The chunk hides in a partial: Dask would search a bare list for other tasks, row by row.
            tasks = [delayed(functools.partial(function, chunk), pure=False)() for chunk in window]
            yield from compute(*tasks, scheduler=scheduler)
            done += sum(map(len, window))
            tick(done)


@contextlib.contextmanager
def _scheduler(where: Dask) -> Iterator[tuple[Any, int]]:
    """What `dask.compute` takes as scheduler, and how many tasks it runs at once."""
    if where.address is None:
        from dask.system import CPU_COUNT

        workers = where.workers or CPU_COUNT
        with ThreadPoolExecutor(workers, thread_name_prefix="dask") as pool:
            yield pool, workers
        return
    import distributed
    from distributed.comm.core import CommClosedError

    lost = (OSError, TimeoutError, CancelledError, CommClosedError, distributed.KilledWorker)
    try:
        client: Any = distributed.Client(where.address, timeout=_PATIENCE, set_as_default=False)
        with client:
            client.wait_for_workers(1, timeout=_PATIENCE)  # without a worker, a computation would wait for ever
            yield client, sum(client.nthreads().values())
    except lost as error:
        raise UnavailableError(
            f"the Dask cluster at {where.address} does not answer or lost its workers ({type(error).__name__}).",
            where="dask.address",
            fix="Start it, or set the address to null to use this machine's threads.",
        ) from error
