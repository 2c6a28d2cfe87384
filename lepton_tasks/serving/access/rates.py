"""Token buckets shared by several processes."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

_SLOT = struct.Struct("=d")
_TRIES = 100  # some 50 us; who holds a slot needs 2


class Rates:
    """How much of its rate each key has used, in a file that the processes of a server share.

    Kept is, for each slot, the moment from which on its bucket is full: the generic cell rate algorithm, a token bucket
    in one number.

    Args:
        path: The file, made if it is missing; without one, memory of this process.
        slots: Numbers it holds.

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
            slot: The key's place.
            interval: Seconds between two requests of the rate.
            burst: Requests that may come at once.
            now: Seconds.

        Returns:
            Seconds until it would be taken; 0 if it is.
        """
        at, room = slot * _SLOT.size, burst * interval
        locked = self._lock(at)
        try:
            return self._take(at, interval, room, now)
        finally:
            if locked:
                fcntl.lockf(self._handle, fcntl.LOCK_UN, _SLOT.size, at)

    def _take(self, at: int, interval: float, room: float, now: float) -> float:
        (until,) = _SLOT.unpack_from(self._until, at)
        if not now < until <= now + room + 1e-6:  # over, or left by another boot of the machine
            until = now
        wait = float(until - now + interval - room)
        if wait > 1e-9:  # what rounding makes of zero
            return wait
        _SLOT.pack_into(self._until, at, until + interval)
        return 0.0

    def _lock(self, at: int) -> bool:
        """Hold a slot against other processes; False if one of them does not let go, for which nobody here waits."""
        for _ in range(_TRIES if self._handle >= 0 else 0):
            try:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT.size, at)
                return True
            except OSError:
                continue
        return False
