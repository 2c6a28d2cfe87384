"""Middleware of every request and response: API keys, security headers, CORS."""

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
from lepton_tasks.serving.inference.request import error_reply

Headers = tuple[tuple[bytes, bytes], ...]

PREDICTION_HEADERS: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),  # predictions describe the client's data
)
"""Headers of every prediction response."""

SECURITY_HEADERS: Headers = (
    *PREDICTION_HEADERS,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
"""Headers of every other response; HTML pages set their own policy (`page_policy`)."""

METRICS = "/metrics"
"""Path, and the name that grants it in a key's list of models: ``lepton key add prometheus --models /metrics``."""

_PUBLIC_PATHS = frozenset({"/docs", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"})
_ADMIN_VERBS = frozenset({"enrol", "gallery"})  # their routes check the admin token themselves
_CORS_REQUEST_HEADERS = (
    b"authorization, content-type, traceparent, inference-header-content-length, lepton-key, lepton-timeout-ms"
)
_HEADERS_READ = frozenset({b"authorization", b"origin", b"access-control-request-method"})


class Cors:
    """Cross-origin policy: which other origins may send requests; none by default.

    Args:
        origins: E.g. ``https://shop.example``; ``*`` allows all.

    Raises:
        ConfigError: one is not an origin.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        allowed = tuple(origins)
        for origin in allowed:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise ConfigError(
                    f"{origin!r} is not an origin.",
                    where="--cors",
                    fix="Give scheme, host and port: https://shop.example",
                )
        self._any = "*" in allowed
        self._origins = {origin.encode() for origin in allowed}

    def headers(self, origin: bytes | None) -> Headers:
        """The CORS headers of a response to this origin; without ``access-control-*`` if it is not allowed."""
        if origin is None or not self._origins:
            return ()
        vary = ((b"vary", b"Origin"),)
        if not self._any and origin not in self._origins:
            return vary
        exposed = b"lepton-version, retry-after, traceparent, inference-header-content-length"
        return (*vary, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", exposed))

    def preflight(self, origin: bytes) -> Headers:
        """The headers of the response to a preflight request."""
        allowed = self.headers(origin)
        if len(allowed) < 2:
            return allowed
        return (
            *allowed,
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", _CORS_REQUEST_HEADERS),
            (b"access-control-max-age", b"600"),
        )


@dataclasses.dataclass(frozen=True)
class AccessControl:
    """Access rules shared by the application and the fast lane.

    Attributes:
        guard: Checks API keys.
        cors: Cross-origin policy.
    """

    guard: Guard
    cors: Cors


class SecurityMiddleware:
    """ASGI middleware that checks keys, answers preflight requests and adds security headers.

    Args:
        app: The wrapped application.
        access: Rules for every request.
    """

    def __init__(self, app: ASGIApp, access: AccessControl) -> None:
        self._app, self._guard, self._cors = app, access.guard, access.cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; the id of its API key is passed on in ``scope["state"]["key"]``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_headers = {name: value for name, value in scope["headers"] if name in _HEADERS_READ}
        origin = request_headers.get(b"origin")
        added = (*SECURITY_HEADERS, *self._cors.headers(origin))

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in present)]
            await send(message)

        if origin is not None and scope["method"] == "OPTIONS" and b"access-control-request-method" in request_headers:
            allowed = self._cors.preflight(origin)
            start = {"type": "http.response.start", "status": 204 if len(allowed) > 1 else 403, "headers": allowed}
            await send_safely(start)
            await send_safely({"type": "http.response.body"})
            return
        model = model_of_path(scope["path"].removeprefix(scope.get("root_path", "")))
        try:
            key = "" if model is None else self._guard.admit(request_headers.get(b"authorization"), model)
        except LeptonError as error:
            await as_response(error_reply(error))(scope, receive, send_safely)
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, send_safely)


def model_of_path(path: str) -> str | None:
    """The model whose API keys a path requires; empty if any key will do, None if no key is needed.

    Health and documentation are public, admin routes check their own token, unknown paths require a key.
    """
    parts = path.split("/")
    if path in _PUBLIC_PATHS or path.startswith("/admin/"):
        return None
    if path == METRICS:
        return METRICS
    if len(parts) > 3 and parts[1:3] == ["v1", "requests"]:
        return f"{LOGS}{parts[3]}"
    if len(parts) > 3 and parts[1] in ("v1", "v2") and parts[2] == "models":
        return None if len(parts) > 4 and parts[1] == "v1" and parts[4] in _ADMIN_VERBS else parts[3]
    return ""


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The headers as HTTP/1.1 lines."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def page_policy(html: str) -> str:
    """The content security policy that allows a page's own inline scripts and styles, and nothing else."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src 'self' data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
