"""Malloc settings: how much freed memory the process retains for reuse."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM, _MAPPED = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_LARGEST = 32 << 20  # bytes per array, malloc's maximum for this setting


def retain_freed_memory(most: int) -> None:
    """Let the heap retain up to `most` freed bytes, in arrays of up to 32 MiB; for the lifetime of the process.

    Otherwise malloc returns large arrays to the kernel at once, and the pages of the next array must be zeroed again.
    No-op unless the C library is glibc.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MAPPED, _LARGEST)
        libc.mallopt(_TRIM, most)
