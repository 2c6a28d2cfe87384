"""Limit the open connections of a server process, so that files can be opened and new clients can connect."""

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
"""Response to a client that exceeds the limit."""

_MAX_FILES = 65_536
_MAX_CONNECTIONS = 10_000
_CLOSED_SHARE = 16  # 1/16 of the connections are closed at a time, so that as many new ones need no search
_WARNING_INTERVAL = 60.0  # seconds

_log = logging.getLogger("lepton.serving")


class Connection(Protocol):
    """A connection that can be closed to make room."""

    transport: asyncio.Transport

    @property
    def idle_since(self) -> float:
        """Monotonic time of the last request or response; infinite while one is in progress."""


def max_connections() -> int:
    """The connection limit of this process; raises its limit of open files as far as allowed.

    A quarter of the files is left to models, the request log, gRPC and bursts of new connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        soft = files
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(_MAX_CONNECTIONS, soft * 3 // 4)


class ConnectionLimit:
    """Closes idle connections to make room for new ones.

    Args:
        limit: Maximum number of open connections.
    """

    def __init__(self, limit: int = _MAX_CONNECTIONS) -> None:
        self.limit = limit
        self._warned_at = -math.inf

    def admit(self, connections: Collection[Connection]) -> bool:
        """Whether a new connection may stay; at the limit, the longest idle ones are closed for it."""
        if len(connections) < self.limit:
            return True
        now = time.monotonic()
        if now - self._warned_at > _WARNING_INTERVAL:
            self._warned_at = now
            _log.warning("the limit of %d connections is reached: closing the longest idle ones", self.limit)
        idle = [connection for connection in connections if connection.idle_since < now]
        count = max(1, len(connections) // _CLOSED_SHARE)
        for connection in heapq.nsmallest(count, idle, key=lambda connection: connection.idle_since):
            connection.transport.abort()
        return bool(idle)
