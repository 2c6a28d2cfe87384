"""Where the arrays of a part get their memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools

import pyarrow as pa

_TRIM, _MAPPED = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_LARGEST, _KEPT = 32 << 20, 128 << 20  # bytes


@functools.cache
def share_memory() -> None:
    """Let NumPy and pyarrow take what a part before gave back, from one heap; for the life of the process.

    Otherwise both give arrays of some MB back to the kernel at once, and get new pages for the next, each of which it
    must clear: a tenth of the processor time of `transform`, and a seventh of its memory, since two heaps are each as
    large as their busiest moment. Polars' own heap is set in ``lepton_tasks/__init__.py``.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(AttributeError, OSError):  # only the GNU library has it
        libc = ctypes.CDLL(None)
        libc.mallopt(_MAPPED, _LARGEST)
        libc.mallopt(_TRIM, _KEPT)
