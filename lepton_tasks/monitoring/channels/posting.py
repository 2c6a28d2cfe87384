"""POST JSON to somebody else's server, and tell what went wrong without telling the address, which may be a secret.

Not by httpx: it logs the address of every request.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from lepton_tasks.core.access import bearer
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.core.secret import Secret

_TIMEOUT_SECONDS = 10.0


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would take the token and the alerts to another server."""

    def redirect_request(self, *_: Any) -> None:
        """None, so that the redirection is an error."""


def post(url: str | Secret, path: str, body: Any, *, token: Secret | None = None) -> None:
    """POST `body`; raises `UnavailableError` naming the host unless the answer is 2xx.

    Args:
        url: The address, or where it is kept.
        path: What comes behind it.
        body: JSON values.
        token: Sent as ``Authorization: Bearer``.
    """
    address = url.read() if isinstance(url, Secret) else url
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        shown = "the secret's value" if isinstance(url, Secret) else repr(url)
        raise ConfigError(f"{shown} is not an http(s) address.")
    headers = {"Content-Type": "application/json", **bearer(token.read() if token else "")}
    try:
        request = urllib.request.Request(f"{address.rstrip('/')}{path}", json.dumps(body).encode(), headers)
        urllib.request.build_opener(_Stay).open(request, timeout=_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise UnavailableError(f"{host} answers {error.code}.") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(f"{host} does not answer ({type(reason).__name__}).") from None
