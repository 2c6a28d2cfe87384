"""Memory pool settings for the arrays of table parts."""

from __future__ import annotations

import functools

import pyarrow as pa

from lepton_tasks.core.heap import retain_freed_memory

_RETAINED = 128 << 20  # bytes


@functools.cache
def use_shared_heap() -> None:
    """Let NumPy and pyarrow share one heap that retains freed memory; for the lifetime of the process.

    Otherwise the kernel zeroes pages for each array, for a tenth of the processor time of `transform`, and two heaps
    with separate peaks take a seventh more memory. Polars' own heap is configured in ``lepton_tasks/__init__.py``.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    retain_freed_memory(_RETAINED)
