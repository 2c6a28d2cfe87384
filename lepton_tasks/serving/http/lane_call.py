"""One request on the fast path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.inference.asked import Api, Asked, Heading, Reply, error_reply

if TYPE_CHECKING:
    from lepton_tasks.serving.http.lane import LaneProtocol

Route = tuple[Api, str, str | None]
"""What an address asks for: the API, the model, the version if it names one."""


_SMALL = 4096  # bytes of a body that are not worth counting


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

    def __init__(self, route: Route, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> None:
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
        "_held",
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
        self._length = self._held = 0
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
            if self._length > _SMALL:
                self._hold()

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
        if self._held:
            self._let_go()
        self._protocol.reply(reply, keep_alive=self.keep_alive, origin=self.opening.origin)

    def _hold(self) -> None:
        """Count what is kept of the body among those of all requests; refuse it if they are too many."""
        lane = self._protocol.lane
        lane.limits.held.now += self._length - self._held
        self._held = self._length
        try:
            lane.limits.held.check()
        except LeptonError as error:
            self.keep_alive = False
            self.send(lane.answerer.refuse(self._asked, error))

    def _let_go(self) -> None:
        """Keep no large body: a connection that rests keeps its last call."""
        self._protocol.lane.limits.held.now -= self._held
        self._held, self._asked.body = 0, b""
        self._parts.clear()

    @property
    def disconnected(self) -> bool:
        """Whether the client has gone."""
        return self.response_complete

    @disconnected.setter
    def disconnected(self, _: bool) -> None:
        self.response_complete = True
        self._let_go()
        if self._cancel is not None:
            self._cancel()
