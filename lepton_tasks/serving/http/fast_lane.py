"""Fast path: a uvicorn HTTP protocol that answers prediction requests without ASGI.

Other requests, and those with a form, ``Expect: 100-continue`` or pipelining, go to the ASGI application. Reasons and
measurements: docs/decisions/078-fast-lane.md.
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
from lepton_tasks.serving.http.connection_limit import REFUSAL, ConnectionLimit
from lepton_tasks.serving.http.fast_lane_request import FastLaneRequest, HttpHead, Route
from lepton_tasks.serving.http.middleware import PREDICTION_HEADERS, AccessControl, header_lines
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.inference.handler import RequestHandler
from lepton_tasks.serving.inference.request import Headers, Reply, error_reply
from lepton_tasks.serving.versions.live import Live

_PATHS = re.compile(rb"/(v1|v2)/models/([^/?%]+)(?:/versions/([^/?%]+))?/(predict|infer)")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_MAX_CACHED_ROUTES = 1024
_SWEEP_INTERVAL = 1.0
_TLS_CLOSE_TIMEOUT = 0.5
_UNREAD_CHECK_INTERVAL = 1.0
_MAX_CACHED_HEAD = 4096  # bytes
_MAX_HEAD_BYTES = 64 * 1024  # request line and headers, or trailers; llhttp itself has no limit
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@functools.lru_cache(maxsize=1024)
def _response_head(status: int, headers: Headers) -> bytes:
    """Status line and headers of a response; cached, because most responses share them."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return _STATUS_LINES[status] + lines.encode("latin-1")


class FastLane:
    """State shared by the connections of one server process.

    Args:
        handler: Handles the prediction requests.
        access: API keys and CORS.
        limit: Limits the number of connections.

    Attributes:
        unread: Connections aborted during shutdown because the client did not read its response.
        stopping: Whether the server is about to stop: every response then closes its connection.
    """

    def __init__(self, handler: RequestHandler, access: AccessControl, limit: ConnectionLimit | None = None) -> None:
        self.handler, self.access, self._limit = handler, access, limit or ConnectionLimit()
        self.unread = 0
        self.stopping = False
        self.connections: set[FastLaneProtocol] = set()
        self._routes: dict[bytes, Route | None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._common: tuple[object, bytes] = (None, b"")
        self._cached_overload: tuple[object, object, tuple[Reply, bytes]] | None = None

    @property
    def limits(self) -> Limits:
        """Size and time limits of requests."""
        return self.handler.limits

    def protocol(self, **arguments: Any) -> FastLaneProtocol:
        """Protocol factory for uvicorn."""
        return FastLaneProtocol(self, **arguments)

    def route(self, url: bytes) -> Route | None:
        """API, model and version of a prediction URL; None for other URLs."""
        if url in self._routes:
            return self._routes[url]
        found = _PATHS.fullmatch(url)
        route: Route | None = None
        if found and found.group(1, 4) in ((b"v1", b"predict"), (b"v2", b"infer")):
            version = found[3].decode("latin-1") if found[3] else None
            route = "v1" if found[1] == b"v1" else "v2", found[2].decode("latin-1"), version
        if len(self._routes) < _MAX_CACHED_ROUTES:  # clients can send arbitrary URLs
            self._routes[url] = route
        return route

    def common(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The header lines of every response; rebuilt when uvicorn replaces its list of headers, once a second."""
        if self._common[0] is not headers:
            self._common = headers, header_lines((*headers, *PREDICTION_HEADERS))
        return self._common[1]

    def overload_response(self, live: Live, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Reply, bytes]:
        """The 503 response of an overloaded version, also as bytes; `headers` as for `common`."""
        cached = self._cached_overload
        if cached is None or cached[0] is not live or cached[1] is not headers:
            reply = self.handler.overload_response(live)
            head = _response_head(reply.status, reply.headers) + self.common(headers)
            written = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(reply.body), reply.body)
            cached = self._cached_overload = live, headers, (reply, written)
        return cached[2]

    def watch(self, connection: FastLaneProtocol) -> None:
        """Register a connection for the slow-client sweep; refuse it at the connection limit."""
        if not self._limit.admit(self.connections):
            connection.transport.write(REFUSAL)
            connection.transport.close()
            return
        self.connections.add(connection)
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(_SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.close_if_slow(now)
        self._sweeper = None
        if self.connections:
            loop = next(iter(self.connections)).loop
            self._sweeper = loop.call_later(_SWEEP_INTERVAL, self._sweep)


class _PipelineFlowControl(FlowControl):
    """Pauses reading while pipelined requests wait; otherwise a client that never reads could send without limit.

    uvicorn resumes reading, and buffers what arrives, whenever the application reads a request body.
    """

    def __init__(self, protocol: FastLaneProtocol) -> None:
        super().__init__(protocol.transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Resume, unless pipelined requests wait."""
        if not self._protocol.pipeline:
            super().resume_reading()


class FastLaneProtocol(HttpToolsProtocol):
    """One connection. Pipelined requests are answered in order.

    Clients mostly repeat the same request head, so a head identical to the last one is not parsed again.
    """

    def __init__(self, lane: FastLane, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.lane = lane
        self._reading_since: float | None = None
        self._idle_start = math.inf
        self._received = self._requests_in_read = 0
        self._non_body_bytes = 0  # received since the request or its last body chunk
        self._incomplete = False
        self._last_bytes, self._last_size = b"", -1  # of the last request that arrived in one piece
        self._last_head: HttpHead | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Start tracking the connection."""
        super().connection_made(transport)
        self.flow = _PipelineFlowControl(self)
        self._reading_since = time.monotonic()
        self.lane.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop tracking the connection."""
        self.lane.connections.discard(self)
        super().connection_lost(exc)

    @property
    def idle_since(self) -> float:
        """Monotonic time of the last request or response; infinite while one is in progress."""
        if self._incomplete or self.transport.is_closing():
            return math.inf
        if self.cycle is None and self._reading_since is not None:
            return self._reading_since
        return self._idle_start if self.cycle is not None and self.cycle.response_complete else math.inf

    def shutdown(self) -> None:
        """Close the connection, after the response in progress."""
        super().shutdown()
        if self.transport.is_closing() and self.scheme == "https":
            # An idle client does not answer the TLS close, which would delay the shutdown until the drain timeout.
            self.loop.call_later(_TLS_CLOSE_TIMEOUT, self.transport.abort)
        self.loop.call_later(_UNREAD_CHECK_INTERVAL, self._abandon_unread, 0)

    def _abandon_unread(self, before: int) -> None:
        """During shutdown: abort if the client reads nothing; `before` is the earlier size of the write buffer."""
        if self not in self.lane.connections:
            return
        left = self.transport.get_write_buffer_size()
        if left and left == before:
            self.lane.unread += 1
            self.transport.abort()
        else:
            self.loop.call_later(_UNREAD_CHECK_INTERVAL, self._abandon_unread, left)

    def data_received(self, data: bytes) -> None:
        """Handle a repeated request head from the cache, else parse the bytes."""
        if (
            len(data) == self._last_size
            and not self._incomplete
            and self.cycle.response_complete
            and data.startswith(self._last_bytes)
        ):
            if self._refuse_overload(self._last_head):  # type: ignore[arg-type]
                return
            call = self.cycle = FastLaneRequest(self, self._last_head)  # type: ignore[assignment,arg-type]
            call.add(data[len(self._last_bytes) :])
            if not call.response_complete:
                call.run()
            return
        whole, self._requests_in_read = not self._incomplete, 0
        self._received += len(data)
        self._non_body_bytes += len(data)
        super().data_received(data)
        if self._incomplete and self._non_body_bytes > _MAX_HEAD_BYTES:
            self._refuse_large_head()
        elif whole and self._requests_in_read == 1 and not self._incomplete and isinstance(self.cycle, FastLaneRequest):
            self._cache_head(data, self.cycle.head)

    def _refuse_overload(self, head: HttpHead) -> bool:
        """Refuse a request that exceeds the queue before any work is done for it, which keeps refusals cheap."""
        lane, request, began = self.lane, head.request, time.monotonic()
        live = lane.handler.overloaded(request)
        if live is None or head.origin is not None or self.flow.write_paused or lane.stopping:
            return False
        try:
            caller = lane.access.guard.admit(head.authorization, request.model)
        except LeptonError as error:
            self.send_response(error_reply(error), keep_alive=True, origin=None)
            return True
        reply, written = lane.overload_response(live, self.server_state.default_headers)
        self.transport.write(written)
        self.server_state.total_requests += 1
        now = self._idle_start = time.monotonic()
        lane.handler.record_overload(live, request, caller, reply, began, now)
        return True

    def _refuse_large_head(self) -> None:
        """Close the connection; with status 431 unless another response is in progress."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_HEAD_TOO_LARGE)
        self.transport.close()

    def _cache_head(self, data: bytes, head: HttpHead) -> None:
        """Cache the head of a request that arrived alone and complete."""
        end = data.find(b"\r\n\r\n") + 4
        if head.keep_alive and head.length == len(data) - end and end <= _MAX_CACHED_HEAD and data[:4] == b"POST":
            self._last_bytes, self._last_head, self._last_size = data[:end], head, len(data)

    def on_message_begin(self) -> None:
        """Start the read timeout of a request."""
        self._incomplete = True
        self._requests_in_read += 1
        self._reading_since = time.monotonic()
        self._received = self._non_body_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Choose between the fast lane and the ASGI application."""
        route = self.lane.route(self.url)
        free = self.cycle is None or self.cycle.response_complete
        if route is None or not free or self.expect_100_continue or self.parser.get_method() != b"POST":
            super().on_headers_complete()
            return
        if any(name == b"content-type" and value[:10].lower() == b"multipart/" for name, value in self.headers):
            super().on_headers_complete()
            return
        keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        head = HttpHead(route, self.headers, keep_alive=keep)
        self.cycle = FastLaneRequest(self, head)  # type: ignore[assignment]  # replaces uvicorn's cycle

    def on_body(self, body: bytes) -> None:
        """Add a chunk of the body."""
        self._non_body_bytes = 0
        if not isinstance(self.cycle, FastLaneRequest):
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.add(body)

    def on_message_complete(self) -> None:
        """Run the complete request."""
        self._reading_since, self._incomplete = None, False
        if not isinstance(self.cycle, FastLaneRequest):
            super().on_message_complete()
        elif not self.cycle.response_complete:
            self.cycle.run()

    def send_response(self, reply: Reply, *, keep_alive: bool, origin: bytes | None) -> None:
        """Write a response; then wait for the next request or close."""
        if self.transport.is_closing():
            return
        parts = [_response_head(reply.status, reply.headers), self.lane.common(self.server_state.default_headers)]
        if origin is not None:
            parts.append(header_lines(self.lane.access.cors.headers(origin)))
        parts.append(b"content-length: %d\r\n" % len(reply.body))
        stopping = self.lane.stopping  # the default headers then contain `connection: close`
        parts.append(b"\r\n" if keep_alive or stopping else b"connection: close\r\n\r\n")
        parts.append(reply.body)
        self.transport.write(b"".join(parts))
        if keep_alive and not stopping:
            self.on_response_complete()
            if self.flow.write_paused:
                self.flow.pause_reading()
        else:
            self.server_state.total_requests += 1
            self.transport.close()

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or wait; the sweep replaces uvicorn's keep-alive timer."""
        self._idle_start = time.monotonic()
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused and not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        """Stop reading requests while the client does not read responses."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading requests."""
        super().resume_writing()
        self.flow.resume_reading()

    def close_if_slow(self, now: float) -> None:
        """Close the connection if its request arrives too slowly, or the keep-alive time is over."""
        if self.transport.is_closing():
            return
        if self._reading_since is not None:
            limits = self.lane.limits
            late = now - self._reading_since > limits.read_seconds + self._received / limits.read_bytes_a_second
        else:
            late = self.cycle.response_complete and now - self._idle_start > self.timeout_keep_alive
        if late:
            self.transport.close()
