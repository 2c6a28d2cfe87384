"""Middleware of every request and reply: keys, security headers, CORS."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.serving.access.auth import Guard
from lepton_tasks.serving.access.keys import LOGS
from lepton_tasks.serving.http.predict import as_response
from lepton_tasks.serving.inference.asked import error_reply

Headers = tuple[tuple[bytes, bytes], ...]

SAFE_ANSWER: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),  # answers are about what somebody sent
)
"""Headers of every prediction."""

SAFE: Headers = (
    *SAFE_ANSWER,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
"""Headers of every other reply; a page brings a policy of its own (`page_policy`)."""

METRICS = "/metrics"
"""Stands for the metrics among the models that a key is for: ``lepton key add prometheus --models /metrics``."""

_OPEN = frozenset({"/docs", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"})
_ADMIN = frozenset({"enrol", "gallery"})  # verbs of a model that ask for the admin token by themselves
_FROM_PAGES = (
    b"authorization, content-type, traceparent, inference-header-content-length, lepton-key, lepton-timeout-ms"
)
_READ = frozenset({b"authorization", b"origin", b"access-control-request-method"})


class Cors:
    """Which pages of other origins may ask; none without further ado.

    Args:
        origins: Such as ``https://shop.example``; ``*`` for all.

    Raises:
        ConfigError: one is not an origin.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        wanted = tuple(origins)
        for origin in wanted:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise ConfigError(
                    f"{origin!r} is not an origin.",
                    where="--cors",
                    fix="Give scheme, host and port: https://shop.example",
                )
        self._any = "*" in wanted
        self._origins = {origin.encode() for origin in wanted}

    def headers(self, origin: bytes | None) -> Headers:
        """What a reply to a page of this origin must say; nothing if it may not ask, or does not."""
        if origin is None or not self._origins:
            return ()
        vary = ((b"vary", b"Origin"),)
        if not self._any and origin not in self._origins:
            return vary
        exposed = b"lepton-version, retry-after, traceparent, inference-header-content-length"
        return (*vary, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", exposed))

    def preflight(self, origin: bytes) -> Headers:
        """What the browser is told that asks before it asks."""
        allowed = self.headers(origin)
        if len(allowed) < 2:
            return allowed
        return (
            *allowed,
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", _FROM_PAGES),
            (b"access-control-max-age", b"600"),
        )


@dataclasses.dataclass(frozen=True)
class Door:
    """What the application and the fast lane ask of every request.

    Attributes:
        guard: What lets requests in.
        cors: Which other origins may ask.
    """

    guard: Guard
    cors: Cors


class Edge:
    """ASGI application around another one.

    Args:
        app: What answers.
        door: What it asks of every request.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._guard, self._cors = app, door.guard, door.cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the id of its key is in ``scope["state"]["key"]``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = {name: value for name, value in scope["headers"] if name in _READ}
        origin = given.get(b"origin")
        added = (*SAFE, *self._cors.headers(origin))

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in present)]
            await send(message)

        if origin is not None and scope["method"] == "OPTIONS" and b"access-control-request-method" in given:
            allowed = self._cors.preflight(origin)
            start = {"type": "http.response.start", "status": 204 if len(allowed) > 1 else 403, "headers": allowed}
            await send_safely(start)
            await send_safely({"type": "http.response.body"})
            return
        model = asked_model(scope["path"].removeprefix(scope.get("root_path", "")))
        try:
            key = "" if model is None else self._guard.admit(given.get(b"authorization"), model)
        except LeptonError as error:
            await as_response(error_reply(error))(scope, receive, send_safely)
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, send_safely)


def asked_model(path: str) -> str | None:
    """The model that a path is about, empty for what any key may ask; None for what asks for none.

    Health and documentation are open to all. Administration asks for its own token. What is not known here needs a key.
    """
    parts = path.split("/")
    if path in _OPEN or path.startswith("/admin/"):
        return None
    if path == METRICS:
        return METRICS
    if len(parts) > 3 and parts[1:3] == ["v1", "requests"]:
        return f"{LOGS}{parts[3]}"
    if len(parts) > 3 and parts[1] in ("v1", "v2") and parts[2] == "models":
        return None if len(parts) > 4 and parts[1] == "v1" and parts[4] in _ADMIN else parts[3]
    return ""


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The headers as they stand in a reply."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def page_policy(html: str) -> str:
    """The content security policy under which a page runs its own inline scripts and styles, and nothing else."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src 'self' data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
