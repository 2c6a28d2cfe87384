"""Settings shared by both clients: address, credentials, timeouts. Does not import httpx."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lepton_tasks.core.access import bearer, own_key, trusted
from lepton_tasks.core.errors import LeptonError, UnavailableError
from lepton_tasks.serving.calls import Answer, Call


class Connection:
    """Settings of both clients.

    Args:
        url: The server's URL, e.g. ``http://127.0.0.1:8100``.
        timeout: Seconds per call, including retries.
        api_key: API key; by default, that of ``LEPTON_API_KEY``. Enrolment requires the admin token.
        ca: PEM file of the certificate authority; by default ``LEPTON_SERVING_CA``, else the system's authorities.
        retries: Maximum retries if the server is busy (429, 503).
        host: ``name:port`` for the Host header and the certificate, if different from the URL.
        probe: Marks requests as synthetic, e.g. ``smoke_test``; monitors ignore them.
        transport: httpx transport, e.g. for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        api_key: str | None = None,
        ca: str | Path | None = None,
        retries: int = 2,
        host: str = "",
        probe: str = "",
        transport: Any = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout, self._retries = timeout, retries
        headers = bearer(own_key() if api_key is None else api_key)
        headers |= {name: value for name, value in (("lepton-probe", probe), ("host", host)) if value}
        self._extensions = {"sni_hostname": host.rpartition(":")[0]} if host else None
        self.options: dict[str, Any] = {
            "base_url": self.url,
            "timeout": timeout,
            "headers": headers,
            "verify": trusted(ca),
            "trust_env": False,
            "transport": transport,
        }

    def request_of(self, call: Call) -> dict[str, Any]:
        """The call as arguments of httpx."""
        return {
            "method": call.method,
            "url": call.path,
            "params": {name: value for name, value in call.params.items() if value is not None} or None,
            "headers": call.headers,
            "content": call.body,
            "files": call.files,
            "extensions": self._extensions,
        }

    def pause(self, call: Call, answer: Answer, attempt: int, until: float) -> float | None:
        """Seconds to wait before the next attempt; None if this answer is the last."""
        seconds = call.wait(answer, attempt) if attempt < self._retries else None
        return None if seconds is None or time.monotonic() + seconds > until else seconds

    def silent(self, error: Exception) -> LeptonError:
        """The error for a server that does not respond."""
        late = type(error).__name__ in ("ReadTimeout", "WriteTimeout", "PoolTimeout")
        return UnavailableError(
            f"the inference server does not answer: {error or type(error).__name__}.",
            where=self.url,
            fix=f"Allow more than {self.timeout:g} s of `timeout`." if late else "Start it with `lepton up`.",
        )


def answer_of(reply: Any) -> Answer:
    """Convert a response of httpx."""
    return Answer(
        reply.status_code, {name.lower(): value for name, value in reply.headers.items()}, reply.content, str(reply.url)
    )
