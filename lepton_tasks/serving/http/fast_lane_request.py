"""One request on the fast path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.inference.request import Api, PredictionRequest, Reply, RequestHead, error_reply

if TYPE_CHECKING:
    from lepton_tasks.serving.http.fast_lane import FastLaneProtocol

Route = tuple[Api, str, str | None]
"""API, model and optional version of a prediction URL."""


_UNCOUNTED_BYTES = 4096  # small bodies are not counted as buffered


class _IgnoredEvent:
    """Replaces the event that uvicorn sets when a connection is lost."""

    def set(self) -> None:
        """Do nothing: no task waits for the event."""


class HttpHead:
    """The parsed head of a fast-lane request; identical heads of one connection share it.

    Args:
        route: API, model and version.
        headers: With lower-case names.
        keep_alive: Whether the connection stays open.

    Attributes:
        request: What the handler needs of it.
        length: Content length in bytes; None if not given.
    """

    __slots__ = ("authorization", "keep_alive", "length", "origin", "request")

    def __init__(self, route: Route, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> None:
        fields, self.keep_alive = dict(headers), keep_alive
        self.authorization, self.origin = fields.get(b"authorization"), fields.get(b"origin")
        length = fields.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() and b"transfer-encoding" not in fields else None
        texts = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        self.request = RequestHead.from_headers(*route, texts.get)


class FastLaneRequest:
    """One request in the fast lane; replaces uvicorn's `RequestResponseCycle`.

    Attributes:
        keep_alive: Whether the connection stays open; uvicorn clears it on shutdown.
        response_complete: Whether the response is written.
    """

    __slots__ = (
        "_buffered",
        "_cancel",
        "_length",
        "_parts",
        "_protocol",
        "_refusal",
        "_request",
        "head",
        "keep_alive",
        "response_complete",
    )

    message_event = _IgnoredEvent()

    def __init__(self, protocol: FastLaneProtocol, head: HttpHead) -> None:
        self._protocol, self.head = protocol, head
        self.keep_alive, self.response_complete = head.keep_alive, False
        self._request = PredictionRequest(head.request)
        self._parts: list[bytes] = []
        self._length = self._buffered = 0
        self._cancel: Callable[[], None] | None = None
        self._refusal: Reply | None = None
        try:  # before the body: that of an unauthorised client is discarded
            self._request.caller = protocol.lane.access.guard.admit(head.authorization, head.request.model)
        except LeptonError as error:
            self._refusal = error_reply(error)

    def add(self, part: bytes) -> None:
        """Add a chunk of the body; refuse the request if it is too large."""
        self._length += len(part)
        lane = self._protocol.lane
        if self._length > lane.limits.body_bytes:
            self.keep_alive = False
            self.send(self._refusal or lane.handler.refuse(self._request, lane.limits.too_large()))
        elif self._refusal is None:
            self._parts.append(part)
            if self._length > _UNCOUNTED_BYTES:
                self._count_buffered()

    def run(self) -> None:
        """Start the handler with the complete body."""
        if self._refusal is not None:
            self.send(self._refusal)
            return
        self._request.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        cancel = self._protocol.lane.handler.start(self._request, self.send)
        if not self.response_complete:
            self._cancel = cancel

    def send(self, reply: Reply) -> None:
        """Write the response."""
        if self.response_complete:
            return
        self.response_complete, self._cancel = True, None  # breaks a reference cycle
        if self._buffered:
            self._release_body()
        self._protocol.send_response(reply, keep_alive=self.keep_alive, origin=self.head.origin)

    def _count_buffered(self) -> None:
        """Add the body to the buffered bytes of all requests; refuse the request if they exceed the limit."""
        lane = self._protocol.lane
        lane.limits.buffered.current += self._length - self._buffered
        self._buffered = self._length
        try:
            lane.limits.buffered.check()
        except LeptonError as error:
            self.keep_alive = False
            self.send(lane.handler.refuse(self._request, error))

    def _release_body(self) -> None:
        """Free the body: an idle connection keeps its last request."""
        self._protocol.lane.limits.buffered.current -= self._buffered
        self._buffered, self._request.body = 0, b""
        self._parts.clear()

    @property
    def disconnected(self) -> bool:
        """Whether the client has disconnected; setting it cancels the request."""
        return self.response_complete

    @disconnected.setter
    def disconnected(self, _: bool) -> None:
        self.response_complete = True
        self._release_body()
        if self._cancel is not None:
            self._cancel()
