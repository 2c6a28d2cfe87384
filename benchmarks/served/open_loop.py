"""Open-loop load: requests are sent when they are due, whether the ones before were answered or not.

It sends, and looks for answers, once a millisecond, to take little of a machine that it shares with the server: an
answer may have been there for so long.

A closed loop, such as wrk's, sends no faster than the server answers, so it cannot overload it.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import re
import resource
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import uvloop

from benchmarks.served.wire import Request

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TICK_SECONDS = 0.001
_LATEST_SECONDS = 15.0  # what is not answered so long after the end never was
_BROKEN = 0


@dataclasses.dataclass(frozen=True)
class Answers:
    """Every request of a run, in the order of the answers.

    Attributes:
        due: When it was to be sent, in seconds since the begin.
        seconds: From then to its answer, so that what waits for a connection counts.
        status: HTTP status; 0 for none.
        cpu_share: Share of one core that the client took until the last phase was over.
    """

    due: np.ndarray
    seconds: np.ndarray
    status: np.ndarray
    cpu_share: float

    def between(self, start: float, end: float) -> Answers:
        """The requests that were due in these seconds."""
        chosen = (self.due >= start) & (self.due < end)
        return Answers(self.due[chosen], self.seconds[chosen], self.status[chosen], self.cpu_share)

    def answered(self, start: float, end: float) -> Answers:
        """The requests that were answered in these seconds, whenever they were due."""
        done = self.due + self.seconds
        chosen = (done >= start) & (done < end) & (self.status != _BROKEN)
        return Answers(self.due[chosen], self.seconds[chosen], self.status[chosen], self.cpu_share)

    def times(self, *, good: bool) -> np.ndarray:
        """Seconds of the good answers, or of the refusals; of no requests, one that is not a number."""
        chosen = self.status == 200 if good else self.status >= 400
        return self.seconds[chosen] if chosen.any() else np.array([np.nan])

    def share(self, *, good: bool) -> float:
        """Of all requests, those that were answered well, or refused."""
        return float(((self.status == 200) if good else (self.status >= 400)).mean()) if len(self.status) else 0.0


class _Client:
    """Sends what is due over connections that are free, and opens more while none is.

    Args:
        port: On 127.0.0.1.
        message: One whole request.
        phases: Requests a second, and for how many seconds, one after the other.
        most: Connections at once; beyond them requests wait.
    """

    def __init__(self, port: int, message: bytes, phases: Sequence[tuple[float, float]], most: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.message = message
        self._port, self._phases, self._most = port, phases, most
        self._free: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._opening = self._sent = self._answered = 0
        self._waiting: collections.deque[float] = collections.deque()
        self._due, self._seconds, self._status = array("d"), array("d"), array("i")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, every: float, watch: Callable[[float], None] | None) -> Answers:
        """Go through the phases, and wait for the last answers."""
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        self.began, total = self.loop.time(), sum(seconds for _, seconds in self._phases)
        next_watch, begun = every, 0.0
        for rate, seconds in self._phases:
            sent = 0
            while (now := self.loop.time() - self.began) < begun + seconds:
                for i in range(sent, int((now - begun) * rate)):
                    self._send(begun + i / rate)
                    sent += 1
                if watch is not None and now >= next_watch:
                    watch(now)
                    next_watch += every
                await asyncio.sleep(0)  # writes what was sent
                time.sleep(_TICK_SECONDS)  # with the loop: to be woken by each answer would take a quarter more time
                await asyncio.sleep(0)  # reads what was answered meanwhile
            begun += seconds
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
        while self._answered < self._sent and self.loop.time() - self.began < total + _LATEST_SECONDS:
            await asyncio.sleep(0.01)
        for due in (*self._waiting, *(connection.due for connection in self._connections)):
            if due is not None:
                self._keep(due, _LATEST_SECONDS, _BROKEN)
        return Answers(np.array(self._due), np.array(self._seconds), np.array(self._status), spent / total)

    def _send(self, due: float) -> None:
        self._sent += 1
        if self._free:
            self._free.pop().send(due)
            return
        self._waiting.append(due)
        if len(self._connections) + self._opening < self._most:
            self._opening += 1
            task = self.loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            await self.loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError:
            if self._waiting:
                self.answered(self._waiting.popleft(), _BROKEN)
        finally:
            self._opening -= 1

    def opened(self, connection: _Connection) -> None:
        """A connection can be used."""
        self._connections.add(connection)
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        """A connection waits for work."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection was closed."""
        self._connections.discard(connection)
        if connection in self._free:
            self._free.remove(connection)

    def answered(self, due: float, status: int) -> None:
        """A request has its answer, or none."""
        self._answered += 1
        self._keep(due, self.loop.time() - self.began - due, status)

    def _keep(self, due: float, seconds: float, status: int) -> None:
        self._due.append(due)
        self._seconds.append(seconds)
        self._status.append(status)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self.due: float | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is no subclass of asyncio's
        self._client.opened(self)

    def send(self, due: float) -> None:
        self.due = due
        self._transport.write(self._client.message)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        found = _LENGTH.search(buffer, 0, end) if end >= 0 else None
        if found is None or len(buffer) < end + 4 + int(found[1]) or self.due is None:
            return
        due, self.due, self._buffer = self.due, None, b""
        self._client.answered(due, int(buffer[9:12]))
        if not self._transport.is_closing():
            self._client.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)
        if self.due is not None:
            self._client.answered(self.due, _BROKEN)
            self.due = None


def send(
    port: int,
    path: str,
    request: Request,
    phases: Sequence[tuple[float, float]],
    *,
    most: int = 10_000,
    every: float = 1.0,
    watch: Callable[[float], None] | None = None,
) -> Answers:
    """Send `request` at the given rates.

    Args:
        port: On 127.0.0.1.
        path: Of the URL.
        request: What is posted.
        phases: Requests a second, and for how many seconds, one after the other.
        most: Connections at once: more than may wait in the server, or requests would wait here, unseen by it.
        every: Seconds between two calls of `watch`.
        watch: Told the seconds since the begin, now and then.
    """
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(request.body)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    message = "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body

    async def run() -> Answers:
        return await _Client(port, message, phases, most).run(every, watch)

    return uvloop.run(run())
