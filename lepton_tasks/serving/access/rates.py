"""Token buckets shared by several processes."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

_SLOT = struct.Struct("=d")
_MAX_TRIES = 100  # about 50 us; a slot is locked for 2 us


class Rates:
    """The used rate of each key, in a file shared by the processes of a server.

    Each slot stores the time at which its token bucket is full again: the generic cell rate algorithm, a token bucket
    in one number.

    Args:
        path: The file, created if missing; None for memory of this process.
        slots: Number of slots.

    Source: ITU-T I.371, annex A.
    """

    def __init__(self, path: Path | None, slots: int) -> None:
        size = slots * _SLOT.size
        if path is None:
            self._handle = -1
            self._until: bytearray | mmap.mmap = bytearray(size)
            return
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._handle, size)
        self._until = mmap.mmap(self._handle, size)

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def take(self, slot: int, interval: float, burst: int, now: float) -> float:
        """Count one request.

        Args:
            slot: The key's slot.
            interval: Seconds between two requests at the rate limit.
            burst: Requests allowed at once.
            now: Monotonic seconds.

        Returns:
            0 if the request is allowed, else the seconds until it would be.
        """
        at, capacity = slot * _SLOT.size, burst * interval
        locked = self._lock(at)
        try:
            return self._take(at, interval, capacity, now)
        finally:
            if locked:
                fcntl.lockf(self._handle, fcntl.LOCK_UN, _SLOT.size, at)

    def _take(self, at: int, interval: float, capacity: float, now: float) -> float:
        (until,) = _SLOT.unpack_from(self._until, at)
        if not now < until <= now + capacity + 1e-6:  # in the past, or from before a reboot
            until = now
        wait = float(until - now + interval - capacity)
        if wait > 1e-9:  # above rounding errors
            return wait
        _SLOT.pack_into(self._until, at, until + interval)
        return 0.0

    def _lock(self, at: int) -> bool:
        """Lock a slot against other processes; False if another process holds it for too long."""
        for _ in range(_MAX_TRIES if self._handle >= 0 else 0):
            try:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT.size, at)
                return True
            except OSError:
                continue
        return False
