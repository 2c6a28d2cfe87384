"""Bound the connections of a server process, so that files and new clients are never shut out."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import resource
import time
from collections.abc import Collection
from typing import Protocol

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
"""To a client that there is no room for."""

_MOST_FILES = 65_536
_MOST_CONNECTIONS = 10_000
_CLOSED_AT_ONCE = 16  # one of so many connections: the search for them is paid for once by as many new ones
_TOLD_SECONDS = 60.0

_log = logging.getLogger("lepton.serving")


class Connection(Protocol):
    """A connection that can be closed to make room."""

    transport: asyncio.Transport

    @property
    def resting_since(self) -> float:
        """Since when nothing has been asked or answered, by the monotonic clock; infinite if something is."""


def most_connections() -> int:
    """How many connections a process may hold; raises its limit of open files as far as it may.

    A quarter of the files is left to models, the request log, gRPC, and to connections that come many at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        soft = files
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(_MOST_CONNECTIONS, soft * 3 // 4)


class Crowd:
    """Makes room for new connections.

    Args:
        most: Connections of this process.
    """

    def __init__(self, most: int = _MOST_CONNECTIONS) -> None:
        self.most = most
        self._told = -math.inf

    def room_for_one(self, connections: Collection[Connection]) -> bool:
        """Whether another connection may stay; of `most`, the longest idle are closed for it."""
        if len(connections) < self.most:
            return True
        now = time.monotonic()
        if now - self._told > _TOLD_SECONDS:
            self._told = now
            _log.warning("%d connections are open, the most of a process: the longest idle ones are closed", self.most)
        idle = [connection for connection in connections if connection.resting_since < now]
        count = max(1, len(connections) // _CLOSED_AT_ONCE)
        for connection in heapq.nsmallest(count, idle, key=lambda one: one.resting_since):
            connection.transport.abort()
        return bool(idle)
