"""Malloc settings: how much freed memory the process keeps for reuse."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM, _MAPPED = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_LARGEST = 32 << 20  # bytes of an array, the most that malloc takes


def keep_freed(most: int) -> None:
    """Let the heap keep `most` bytes that were freed, in arrays of up to 32 MiB; for the life of the process.

    Otherwise malloc gives large arrays back to the kernel at once, and gets pages for the next that must be cleared.
    Does nothing where the C library is not GNU's.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MAPPED, _LARGEST)
        libc.mallopt(_TRIM, most)
