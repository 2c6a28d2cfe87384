"""The fast lane: uvicorn's HTTP protocol, in which requests for predictions are answered without ASGI.

All else, and what is not plain about a request (a form, an announced body, one of several in a row), goes to the
application as usual. Why: docs/decisions/078-fast-lane.md.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.http.edge import SAFE_ANSWER, Door, lines_of
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.inference.answering import Answerer, Asked, Reply, error_reply

_PATHS = re.compile(rb"/(v1|v2)/models/([^/?%]+)(?:/versions/([^/?%]+))?/(predict|infer)")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_MOST_ROUTES = 1024
_SWEEP_SECONDS = 1.0
_GOODBYE_SECONDS = 0.5

_Route = tuple[Literal["v1", "v2"], str, str | None]


@functools.lru_cache(maxsize=1024)
def _head(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """The first lines of a reply; most replies have the same."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return _STATUS_LINES[status] + lines.encode("latin-1")


class _Done:
    """Stands for the event that uvicorn sets when a connection is lost."""

    def set(self) -> None:
        """Nobody waits."""


class LaneCall:
    """One request in the fast lane; in place of uvicorn's cycle of request and response.

    Attributes:
        keep_alive: Whether the connection stays; uvicorn clears it when it shuts down.
        response_complete: Whether it is answered.
    """

    message_event = _Done()

    def __init__(self, protocol: LaneProtocol, route: _Route, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self.keep_alive, self.response_complete = keep_alive, False
        self.asked = Asked(route[0], route[1], route[2])
        self._parts: list[bytes] = []
        self._length = 0
        self._cancel: Callable[[], None] | None = None
        self._refusal: Reply | None = None
        self._origin: bytes | None = None

    def admit(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Ask whether the caller may, before the body comes; of one who may not, no body is kept."""
        given, door = dict(headers), self._protocol.lane.door
        self._origin = given.get(b"origin")
        try:
            self.asked.caller = door.guard.admit(given.get(b"authorization"), self.asked.model)
        except LeptonError as error:
            self._refusal = error_reply(error)

    def add(self, part: bytes) -> None:
        """A part of the body; one that makes it too long ends the request."""
        self._length += len(part)
        limits = self._protocol.lane.limits
        if self._length > limits.body_bytes:
            self.keep_alive = False
            self.send(self._refusal or self._protocol.lane.answerer.refuse(self.asked, limits.too_large()))
        elif self._refusal is None:
            self._parts.append(part)

    def run(self, headers: list[tuple[bytes, bytes]]) -> None:
        """The body is whole: have it answered."""
        if self._refusal is not None:
            self.send(self._refusal)
            return
        self.asked.read_headers({name.decode("latin-1"): value.decode("latin-1") for name, value in headers}.get)
        self.asked.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._cancel = self._protocol.lane.answerer.start(self.asked, self.send)

    def send(self, reply: Reply) -> None:
        """Write the reply."""
        if self.response_complete:
            return
        self.response_complete = True
        self._protocol.reply(reply, keep_alive=self.keep_alive, origin=self._origin)

    @property
    def disconnected(self) -> bool:
        """Whether the client has gone."""
        return self.response_complete

    @disconnected.setter
    def disconnected(self, _: bool) -> None:
        self.response_complete = True
        if self._cancel is not None:
            self._cancel()


class Lane:
    """What the connections of one server share.

    Args:
        answerer: What answers.
        door: What it asks of every request.
    """

    def __init__(self, answerer: Answerer, door: Door) -> None:
        self.answerer, self.door = answerer, door
        self.connections: set[LaneProtocol] = set()
        self._routes: dict[bytes, _Route | None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._common: tuple[object, bytes] = (None, b"")

    @property
    def limits(self) -> Limits:
        """What a request may cost."""
        return self.answerer.limits

    def protocol(self, **arguments: Any) -> LaneProtocol:
        """A connection; uvicorn calls this."""
        return LaneProtocol(self, **arguments)

    def route(self, url: bytes) -> _Route | None:
        """What a request to this address asks for, if it is a prediction."""
        if url in self._routes:
            return self._routes[url]
        found = _PATHS.fullmatch(url)
        route: _Route | None = None
        if found and found.group(1, 4) in ((b"v1", b"predict"), (b"v2", b"infer")):
            version = found[3].decode("latin-1") if found[3] else None
            route = "v1" if found[1] == b"v1" else "v2", found[2].decode("latin-1"), version
        if len(self._routes) < _MOST_ROUTES:  # anybody can invent addresses
            self._routes[url] = route
        return route

    def common(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The lines of the headers that every reply has; uvicorn makes a new list of them each second."""
        if self._common[0] is not headers:
            self._common = headers, lines_of((*headers, *SAFE_ANSWER))
        return self._common[1]

    def watch(self, connection: LaneProtocol) -> None:
        """Close the connection, later, should its client be too slow."""
        self.connections.add(connection)
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.close_if_slow(now)
        self._sweeper = None
        if self.connections:
            loop = next(iter(self.connections)).loop
            self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)


class LaneProtocol(HttpToolsProtocol):
    """One connection. Requests that came in one piece are answered in their order."""

    def __init__(self, lane: Lane, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.lane = lane
        self._reading_since: float | None = None
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """A client has connected."""
        super().connection_made(transport)
        self._reading_since = time.monotonic()
        self.lane.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.lane.connections.discard(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: close once nothing is being answered."""
        super().shutdown()
        if self.transport.is_closing() and self.scheme == "https":
            # A client that rests does not see TLS's goodbye, and would be waited for until the drain is over.
            self.loop.call_later(_GOODBYE_SECONDS, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._received += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._reading_since, self._received = time.monotonic(), 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's headers are there: choose its way."""
        route = self.lane.route(self.url)
        free = self.cycle is None or self.cycle.response_complete
        if route is None or not free or self.expect_100_continue or self.parser.get_method() != b"POST":
            super().on_headers_complete()
            return
        if any(name == b"content-type" and value[:10].lower() == b"multipart/" for name, value in self.headers):
            super().on_headers_complete()
            return
        keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        call = self.cycle = LaneCall(self, route, keep_alive=keep)  # type: ignore[assignment]  # it stands in for one
        call.admit(self.headers)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not isinstance(self.cycle, LaneCall):
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.add(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._reading_since = None
        if not isinstance(self.cycle, LaneCall):
            super().on_message_complete()
        elif not self.cycle.response_complete:
            self.cycle.run(self.headers)

    def reply(self, reply: Reply, *, keep_alive: bool, origin: bytes | None) -> None:
        """Write a reply, and go on or close."""
        if self.transport.is_closing():
            return
        parts = [_head(reply.status, tuple(reply.headers.items()))]
        parts.append(self.lane.common(self.server_state.default_headers))
        if origin is not None:
            parts.append(lines_of(self.lane.door.cors.headers(origin)))
        parts.append(b"content-length: %d\r\n" % len(reply.body))
        parts.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        parts.append(reply.body)
        self.transport.write(b"".join(parts))
        if keep_alive:
            self.on_response_complete()
            if self.flow.write_paused:
                self.flow.pause_reading()
        else:
            self.server_state.total_requests += 1
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read: take no more from it until it does."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self.flow.resume_reading()

    def close_if_slow(self, now: float) -> None:
        """Close the connection if its request has been coming in for too long."""
        if self._reading_since is None or self.transport.is_closing():
            return
        limits = self.lane.limits
        if now - self._reading_since > limits.read_seconds + self._received / limits.read_bytes_a_second:
            self.transport.close()
