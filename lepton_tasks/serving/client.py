"""A small client of the inference server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from lepton_tasks.core.access import bearer, own_key, trusted
from lepton_tasks.core.errors import DataError, UnavailableError


class Client:
    """Ask a server for predictions. Usable as a context manager.

    Args:
        url: The server's address, e.g. ``http://127.0.0.1:8100``.
        timeout: Seconds to wait for an answer.
        probe: Why the requests are made up, e.g. ``smoke_test``; monitors leave such requests out.
        api_key: What lets us in; without it that of the environment variable ``LEPTON_API_KEY``, if there is one.
        ca: PEM file of the authority that signed the server's certificate; without it ``LEPTON_SERVING_CA``, and
            without that the authorities that the system trusts.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        probe: str = "",
        api_key: str | None = None,
        ca: str | Path | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = bearer(own_key() if api_key is None else api_key)
        if probe:
            headers["lepton-probe"] = probe
        self._http = httpx.Client(
            base_url=self.url, timeout=timeout, headers=headers, verify=trusted(ca), trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self, name: str, payload: bytes, *, version: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """The answer to one encoded sample: ``{"model", "version", "predictions": [{"label", ...}]}``.

        Args:
            name: The model.
            payload: E.g. a picture file.
            version: The version that is to answer; None for whichever does.
            key: Who asks: while a canary runs, equal keys meet the same version.

        Raises:
            DataError: the server refuses the request; the reason is its own.
            UnavailableError: it does not answer, or is not ready.
        """
        headers = {"content-type": "application/octet-stream"} | ({"lepton-key": key} if key is not None else {})
        of = f"/versions/{version}" if version is not None else ""
        return self._ask("POST", f"/v1/models/{name}{of}/predict", content=payload, headers=headers)

    def models(self) -> list[dict[str, Any]]:
        """What is served."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/models")["models"]
        return found

    def ready(self) -> bool:
        """Whether the server answers and has loaded what it serves."""
        try:
            return bool(self._ask("GET", "/v2/health/ready")["ready"])
        except UnavailableError:
            return False

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            reply = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise UnavailableError(
                f"the inference server does not answer: {error or type(error).__name__}.",
                where=self.url,
                fix="Start it with `lepton up`.",
            ) from error
        return read_reply(reply)


def read_reply(reply: httpx.Response) -> dict[str, Any]:
    """The JSON object of a reply, or the error it tells of."""
    try:
        value = reply.json()
    except ValueError:
        value = {}
    if reply.is_success and isinstance(value, dict):
        return value
    reason = value.get("error") if isinstance(value, dict) else None
    kind = UnavailableError if reply.status_code >= 500 or reply.status_code == 429 else DataError
    raise kind(str(reason or f"the server answered {reply.status_code}."), where=str(reply.url))
