"""The fast lane: uvicorn's HTTP protocol, in which requests for predictions are answered without ASGI.

All else, and what is not plain about a request (a form, an announced body, one of several in a row), goes to the
application as usual. Why: docs/decisions/078-fast-lane.md.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.http.edge import SAFE_ANSWER, Door, lines_of
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.inference.answering import Answerer, Api, Asked, Headers, Heading, Reply, error_reply

_PATHS = re.compile(rb"/(v1|v2)/models/([^/?%]+)(?:/versions/([^/?%]+))?/(predict|infer)")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_MOST_ROUTES = 1024
_SWEEP_SECONDS = 1.0
_GOODBYE_SECONDS = 0.5
_LONGEST_HEAD = 4096  # that a connection remembers

_Route = tuple[Api, str, str | None]


@functools.lru_cache(maxsize=1024)
def _head(status: int, headers: Headers) -> bytes:
    """The first lines of a reply; most replies have the same."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return _STATUS_LINES[status] + lines.encode("latin-1")


class _Done:
    """Stands for the event that uvicorn sets when a connection is lost."""

    def set(self) -> None:
        """Nobody waits."""


class Opening:
    """What a request in the fast lane says before its body.

    Args:
        route: What its address asks for.
        headers: With names in small letters.
        keep_alive: Whether the connection is to stay.

    Attributes:
        length: Bytes of the body; None if they are not said.
    """

    __slots__ = ("authorization", "heading", "keep_alive", "length", "origin")

    def __init__(self, route: _Route, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> None:
        given, self.keep_alive = dict(headers), keep_alive
        self.authorization, self.origin = given.get(b"authorization"), given.get(b"origin")
        length = given.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() and b"transfer-encoding" not in given else None
        texts = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        self.heading = Heading.read(*route, texts.get)


class LaneCall:
    """One request in the fast lane; in place of uvicorn's cycle of request and response.

    Attributes:
        keep_alive: Whether the connection stays; uvicorn clears it when it shuts down.
        response_complete: Whether it is answered.
    """

    __slots__ = (
        "_asked",
        "_cancel",
        "_length",
        "_parts",
        "_protocol",
        "_refusal",
        "keep_alive",
        "opening",
        "response_complete",
    )

    message_event = _Done()

    def __init__(self, protocol: LaneProtocol, opening: Opening) -> None:
        self._protocol, self.opening = protocol, opening
        self.keep_alive, self.response_complete = opening.keep_alive, False
        self._asked = Asked(opening.heading)
        self._parts: list[bytes] = []
        self._length = 0
        self._cancel: Callable[[], None] | None = None
        self._refusal: Reply | None = None
        try:  # before the body comes: of one who may not ask, no body is kept
            self._asked.caller = protocol.lane.door.guard.admit(opening.authorization, opening.heading.model)
        except LeptonError as error:
            self._refusal = error_reply(error)

    def add(self, part: bytes) -> None:
        """A part of the body; one that makes it too long ends the request."""
        self._length += len(part)
        lane = self._protocol.lane
        if self._length > lane.limits.body_bytes:
            self.keep_alive = False
            self.send(self._refusal or lane.answerer.refuse(self._asked, lane.limits.too_large()))
        elif self._refusal is None:
            self._parts.append(part)

    def run(self) -> None:
        """The body is whole: have it answered."""
        if self._refusal is not None:
            self.send(self._refusal)
            return
        self._asked.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        cancel = self._protocol.lane.answerer.start(self._asked, self.send)
        if not self.response_complete:
            self._cancel = cancel

    def send(self, reply: Reply) -> None:
        """Write the reply."""
        if self.response_complete:
            return
        self.response_complete, self._cancel = True, None  # which leads back here: not left to the garbage collector
        self._protocol.reply(reply, keep_alive=self.keep_alive, origin=self.opening.origin)

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
    """One connection. Requests that came in one piece are answered in their order.

    A client that asks again mostly sends the same bytes before the body; they are compared then, and not parsed.
    """

    def __init__(self, lane: Lane, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.lane = lane
        self._reading_since: float | None = None
        self._idle_since = math.inf
        self._received = self._begun = 0
        self._midway = False
        self._head, self._size = b"", -1  # of the last request that came whole
        self._opening: Opening | None = None

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
        if (
            len(data) == self._size
            and not self._midway
            and self.cycle.response_complete
            and data.startswith(self._head)
        ):
            call = self.cycle = LaneCall(self, self._opening)  # type: ignore[assignment,arg-type]
            call.add(data[len(self._head) :])
            if not call.response_complete:
                call.run()
            return
        whole, self._begun = not self._midway, 0
        self._received += len(data)
        super().data_received(data)
        if whole and self._begun == 1 and not self._midway and isinstance(self.cycle, LaneCall):
            self._remember(data, self.cycle.opening)

    def _remember(self, data: bytes, opening: Opening) -> None:
        """Keep the head of a request that came alone and whole."""
        end = data.find(b"\r\n\r\n") + 4
        if opening.keep_alive and opening.length == len(data) - end and end <= _LONGEST_HEAD and data[:4] == b"POST":
            self._head, self._opening, self._size = data[:end], opening, len(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._midway = True
        self._begun += 1
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
        opening = Opening(route, self.headers, keep_alive=keep)
        self.cycle = LaneCall(self, opening)  # type: ignore[assignment]  # it stands in for one

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not isinstance(self.cycle, LaneCall):
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.add(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._reading_since, self._midway = None, False
        if not isinstance(self.cycle, LaneCall):
            super().on_message_complete()
        elif not self.cycle.response_complete:
            self.cycle.run()

    def reply(self, reply: Reply, *, keep_alive: bool, origin: bytes | None) -> None:
        """Write a reply, and go on or close."""
        if self.transport.is_closing():
            return
        parts = [_head(reply.status, reply.headers), self.lane.common(self.server_state.default_headers)]
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

    def on_response_complete(self) -> None:
        """A request is answered: go on to the next, or wait for it; the lane's sweep ends the waiting, not a timer."""
        self._idle_since = time.monotonic()
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused and not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        """The client does not read: take no more from it until it does."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self.flow.resume_reading()

    def close_if_slow(self, now: float) -> None:
        """Close the connection if its request has been coming in for too long, or has not come at all."""
        if self.transport.is_closing():
            return
        if self._reading_since is not None:
            limits = self.lane.limits
            late = now - self._reading_since > limits.read_seconds + self._received / limits.read_bytes_a_second
        else:
            late = self.cycle.response_complete and now - self._idle_since > self.timeout_keep_alive
        if late:
            self.transport.close()
