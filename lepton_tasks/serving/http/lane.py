"""Fast path: a uvicorn HTTP protocol that answers prediction requests without ASGI.

All else, and what is not plain about a request (a form, an announced body, one of several in a row), goes to the
application as usual. Why: docs/decisions/078-fast-lane.md.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.http.crowd import REFUSAL, Crowd
from lepton_tasks.serving.http.edge import SAFE_ANSWER, Door, lines_of
from lepton_tasks.serving.http.lane_call import LaneCall, Opening, Route
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.inference.answering import Answerer
from lepton_tasks.serving.inference.asked import Headers, Reply, error_reply
from lepton_tasks.serving.versions.live import Live

_PATHS = re.compile(rb"/(v1|v2)/models/([^/?%]+)(?:/versions/([^/?%]+))?/(predict|infer)")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_MOST_ROUTES = 1024
_SWEEP_SECONDS = 1.0
_GOODBYE_SECONDS = 0.5
_UNREAD_SECONDS = 1.0
_LONGEST_HEAD = 4096  # that a connection remembers
_MOST_HEAD = 64 * 1024  # bytes that are read of address and headers, or of trailers; llhttp itself has no bound
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@functools.lru_cache(maxsize=1024)
def _head(status: int, headers: Headers) -> bytes:
    """The first lines of a reply; most replies have the same."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return _STATUS_LINES[status] + lines.encode("latin-1")


class Lane:
    """What the connections of one server share.

    Args:
        answerer: What answers.
        door: What it asks of every request.
        crowd: How many connections there may be.

    Attributes:
        unread: Connections that were given up while the server stopped, because nobody read what was answered.
        leaving: Whether the server is about to stop: every reply is the last of its connection, and says so.
    """

    def __init__(self, answerer: Answerer, door: Door, crowd: Crowd | None = None) -> None:
        self.answerer, self.door, self._crowd = answerer, door, crowd or Crowd()
        self.unread = 0
        self.leaving = False
        self.connections: set[LaneProtocol] = set()
        self._routes: dict[bytes, Route | None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._common: tuple[object, bytes] = (None, b"")
        self._refusal: tuple[object, object, tuple[Reply, bytes]] | None = None

    @property
    def limits(self) -> Limits:
        """What a request may cost."""
        return self.answerer.limits

    def protocol(self, **arguments: Any) -> LaneProtocol:
        """A connection; uvicorn calls this."""
        return LaneProtocol(self, **arguments)

    def route(self, url: bytes) -> Route | None:
        """What a request to this address asks for, if it is a prediction."""
        if url in self._routes:
            return self._routes[url]
        found = _PATHS.fullmatch(url)
        route: Route | None = None
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

    def refusal(self, live: Live, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Reply, bytes]:
        """The reply to a request that `live` has no room for, and how it is written; `headers` as for `common`."""
        kept = self._refusal
        if kept is None or kept[0] is not live or kept[1] is not headers:
            reply = self.answerer.refusal(live)
            head = _head(reply.status, reply.headers) + self.common(headers)
            written = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(reply.body), reply.body)
            kept = self._refusal = live, headers, (reply, written)
        return kept[2]

    def watch(self, connection: LaneProtocol) -> None:
        """Close the connection, later, should its client be too slow; or now, if there is no room."""
        if not self._crowd.room_for_one(self.connections):
            connection.transport.write(REFUSAL)
            connection.transport.close()
            return
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


class _Flow(FlowControl):
    """Reads no more while requests wait for those before them: a client that never reads could send for ever.

    uvicorn reads on whenever one of them asks for its body, and keeps whatever comes.
    """

    def __init__(self, protocol: LaneProtocol) -> None:
        super().__init__(protocol.transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Unless requests wait."""
        if not self._protocol.pipeline:
            super().resume_reading()


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
        self._beside_body = 0  # bytes since the request began, or since the last part of its body
        self._midway = False
        self._head, self._size = b"", -1  # of the last request that came whole
        self._opening: Opening | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """A client has connected."""
        super().connection_made(transport)
        self.flow = _Flow(self)
        self._reading_since = time.monotonic()
        self.lane.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.lane.connections.discard(self)
        super().connection_lost(exc)

    @property
    def resting_since(self) -> float:
        """Since when nothing has been asked or answered, by the monotonic clock; infinite if something is."""
        if self._midway or self.transport.is_closing():
            return math.inf
        if self.cycle is None and self._reading_since is not None:
            return self._reading_since
        return self._idle_since if self.cycle is not None and self.cycle.response_complete else math.inf

    def shutdown(self) -> None:
        """The server stops: close once nothing is being answered."""
        super().shutdown()
        if self.transport.is_closing() and self.scheme == "https":
            # A client that rests does not see TLS's goodbye, and would be waited for until the drain is over.
            self.loop.call_later(_GOODBYE_SECONDS, self.transport.abort)
        self.loop.call_later(_UNREAD_SECONDS, self._abandon_unread, 0)

    def _abandon_unread(self, before: int) -> None:
        """While the server stops: give up on a client that reads no answer; `before` are bytes that waited for it."""
        if self not in self.lane.connections:
            return
        left = self.transport.get_write_buffer_size()
        if left and left == before:
            self.lane.unread += 1
            self.transport.abort()
        else:
            self.loop.call_later(_UNREAD_SECONDS, self._abandon_unread, left)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if (
            len(data) == self._size
            and not self._midway
            and self.cycle.response_complete
            and data.startswith(self._head)
        ):
            if self._turned_away(self._opening):  # type: ignore[arg-type]
                return
            call = self.cycle = LaneCall(self, self._opening)  # type: ignore[assignment,arg-type]
            call.add(data[len(self._head) :])
            if not call.response_complete:
                call.run()
            return
        whole, self._begun = not self._midway, 0
        self._received += len(data)
        self._beside_body += len(data)
        super().data_received(data)
        if self._midway and self._beside_body > _MOST_HEAD:
            self._refuse_head()
        elif whole and self._begun == 1 and not self._midway and isinstance(self.cycle, LaneCall):
            self._remember(data, self.cycle.opening)

    def _turned_away(self, opening: Opening) -> bool:
        """Refuse a request that there is no room for before anything is made of it: so a server that is asked for more
        than it can do has its time for the rest."""
        lane, heading, began = self.lane, opening.heading, time.monotonic()
        live = lane.answerer.crowded(heading)
        if live is None or opening.origin is not None or self.flow.write_paused or lane.leaving:
            return False
        try:
            caller = lane.door.guard.admit(opening.authorization, heading.model)
        except LeptonError as error:
            self.reply(error_reply(error), keep_alive=True, origin=None)
            return True
        reply, written = lane.refusal(live, self.server_state.default_headers)
        self.transport.write(written)
        self.server_state.total_requests += 1
        now = self._idle_since = time.monotonic()
        lane.answerer.turned_away(live, heading, caller, reply, began, now)
        return True

    def _refuse_head(self) -> None:
        """End a request whose headers have no end; it is told so if nobody else is being answered."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LONG)
        self.transport.close()

    def _remember(self, data: bytes, opening: Opening) -> None:
        """Keep the head of a request that came alone and whole."""
        end = data.find(b"\r\n\r\n") + 4
        if opening.keep_alive and opening.length == len(data) - end and end <= _LONGEST_HEAD and data[:4] == b"POST":
            self._head, self._opening, self._size = data[:end], opening, len(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._midway = True
        self._begun += 1
        self._reading_since = time.monotonic()
        self._received = self._beside_body = 0
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
        self._beside_body = 0
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
        leaving = self.lane.leaving  # the headers of every reply say it then
        parts.append(b"\r\n" if keep_alive or leaving else b"connection: close\r\n\r\n")
        parts.append(reply.body)
        self.transport.write(b"".join(parts))
        if keep_alive and not leaving:
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
