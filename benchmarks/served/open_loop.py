"""Open-loop load: requests are sent when they are due, whether the ones before were answered or not.

It sends, and looks for answers, once a millisecond, to take little of a machine that it shares with the server: an
answer may have been there for so long.

A closed loop, such as wrk's, sends no faster than the server answers, so it cannot overload it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
import resource
import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.served.wire import Request

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TICK_SECONDS = 0.001
_LATEST_SECONDS = 15.0  # what is not answered so long after the end never was
_BROKEN = 0
_MOST_BYTES = 65_536  # read at once


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
        """Seconds of the good answers, or of the rejections; of no requests, one that is not a number."""
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
        self.message = message
        self._address, self._phases, self._most = ("127.0.0.1", port), phases, most
        self._epoll = select.epoll()
        self._free: list[_Connection] = []
        self._connections: dict[int, _Connection] = {}
        self._sent = self._answered = 0
        self._waiting: collections.deque[float] = collections.deque()
        self._due, self._seconds, self._status = array("d"), array("d"), array("i")

    def run(self, every: float, watch: Callable[[float], None] | None) -> Answers:
        """Go through the phases, and wait for the last answers."""
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        self._began, total = time.monotonic(), sum(seconds for _, seconds in self._phases)
        next_watch, begun = every, 0.0
        for rate, seconds in self._phases:
            sent = 0
            while (now := self._now()) < begun + seconds:
                for i in range(sent, int((now - begun) * rate)):
                    self._send(begun + i / rate)
                    sent += 1
                if watch is not None and now >= next_watch:
                    watch(now)
                    next_watch += every
                time.sleep(_TICK_SECONDS)
                self._look()
            begun += seconds
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
        while self._answered < self._sent and self._now() < total + _LATEST_SECONDS:
            time.sleep(_TICK_SECONDS)
            self._look()
        for due in (*self._waiting, *(connection.due for connection in self._connections.values())):
            if due is not None:
                self._keep(due, _LATEST_SECONDS, _BROKEN)
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()
        return Answers(np.array(self._due), np.array(self._seconds), np.array(self._status), spent / total)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _send(self, due: float) -> None:
        self._sent += 1
        if self._free:
            self._free.pop().send(due)
        elif len(self._connections) < self._most:
            self._open(due)
        else:
            self._waiting.append(due)

    def _open(self, due: float) -> None:
        """A connection for the request; it is sent once there is one."""
        connection = _Connection(self, self._address, due)
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _look(self) -> None:
        """Read what was answered; write what there was no room for before."""
        for number, events in self._epoll.poll(0, len(self._connections) + 1):
            connection = self._connections[number]
            try:
                if events & select.EPOLLOUT:
                    connection.write()
                    if not connection.rest:
                        self._epoll.modify(number, select.EPOLLIN)
                if events & ~select.EPOLLOUT:
                    connection.read()
            except OSError:
                self._lose(connection)

    def blocked(self, connection: _Connection) -> None:
        """A connection takes no more for now."""
        self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _lose(self, connection: _Connection) -> None:
        """A connection was closed, or was never made."""
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        if connection in self._free:
            self._free.remove(connection)
        if connection.due is not None:
            self._count(connection.due, _BROKEN)
        if self._waiting:
            self._open(self._waiting.popleft())

    def answered(self, connection: _Connection, due: float, status: int) -> None:
        """A request has its answer; its connection takes the next."""
        self._count(due, status)
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._free.append(connection)

    def _count(self, due: float, status: int) -> None:
        self._answered += 1
        self._keep(due, self._now() - due, status)

    def _keep(self, due: float, seconds: float, status: int) -> None:
        self._due.append(due)
        self._seconds.append(seconds)
        self._status.append(status)


class _Connection:
    """One request at a time.

    Attributes:
        due: When the one that is not answered yet was due.
        rest: What is to be sent of it yet.
    """

    def __init__(self, client: _Client, address: tuple[str, int], due: float) -> None:
        self._client = client
        self.due: float | None = due
        self.rest = memoryview(client.message)
        self._buffer = b""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)

    def send(self, due: float) -> None:
        """Send the request that was due then."""
        self.due, self.rest = due, memoryview(self._client.message)
        try:
            self.write()
        except OSError:  # it was closed; epoll says so, too
            return
        if self.rest:
            self._client.blocked(self)

    def write(self) -> None:
        """Send what there is room for; raises `OSError` if the connection is none."""
        with contextlib.suppress(BlockingIOError):
            self.rest = self.rest[self.socket.send(self.rest) :]

    def read(self) -> None:
        """Take a part of an answer; raises `OSError` if the connection is closed."""
        data = self.socket.recv(_MOST_BYTES)
        if not data:
            raise ConnectionResetError
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        found = _LENGTH.search(buffer, 0, end) if end >= 0 else None
        if found is None or len(buffer) < end + 4 + int(found[1]) or self.due is None:
            return
        due, self.due, self._buffer = self.due, None, b""
        self._client.answered(self, due, int(buffer[9:12]))


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
    return _Client(port, message, phases, most).run(every, watch)
