"""Memory pool settings for the arrays of table parts."""

from __future__ import annotations

import functools

import pyarrow as pa

from lepton_tasks.core.heap import retain_freed_memory

_KEPT = 128 << 20  # bytes


@functools.cache
def share_memory() -> None:
    """Let NumPy and pyarrow take what a part before gave back, from one heap; for the life of the process.

    Otherwise the kernel clears pages for each array: a tenth of the processor time of `transform`, and a seventh of
    its memory, since two heaps are each as large as their busiest moment. Polars' own heap is set in
    ``lepton_tasks/__init__.py``.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    retain_freed_memory(_KEPT)
