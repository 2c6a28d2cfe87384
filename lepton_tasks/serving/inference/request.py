"""A prediction request and its reply, independent of the transport."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import orjson
from starlette.exceptions import HTTPException

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.errors import in_words, status_of
from lepton_tasks.serving.http.payload import media_type
from lepton_tasks.serving.inference.batching import Job
from lepton_tasks.serving.observing.tracing import TRACEPARENT
from lepton_tasks.serving.versions.live import Live

HEADER_LENGTH = "inference-header-content-length"
TIMEOUT_HEADER = "lepton-timeout-ms"
JSON, BYTES = "application/json", "application/octet-stream"

Api = Literal["v1", "v2", "grpc"]
Headers = tuple[tuple[str, str], ...]


class ReplyJob(Job, Protocol):
    """A job that returns bytes and has records for the request log."""

    sample_records: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class RequestHead:
    """The parsed head of a prediction request; requests with identical heads may share it.

    Attributes:
        api: ``v1``: encoded samples; ``v2`` and ``grpc``: tensors.
        model: Requested model.
        version: Requested version; None for any.
        kind: Media type of the body, lower-case and without parameters.
        key: Text of the header ``lepton-key``.
        probe: Text of the header ``lepton-probe``.
        timeout_ms: Text of the header ``lepton-timeout-ms``.
        header_length: Text of the header ``Inference-Header-Content-Length``.
        encoding: Text of the header ``Content-Encoding``.
        traceparent: Text of the header ``traceparent``.
    """

    api: Api
    model: str
    version: str | None
    kind: str
    key: str | None
    probe: str
    timeout_ms: str | None
    header_length: str | None
    encoding: str | None
    traceparent: str | None

    @classmethod
    def from_headers(cls, api: Api, model: str, version: str | None, get: Callable[[str], str | None]) -> RequestHead:
        """Parse the headers; `get` returns the value of a lower-case header name."""
        return cls(
            api,
            model,
            version,
            kind=media_type(get("content-type")),
            key=get("lepton-key"),
            probe=(get("lepton-probe") or "")[:32],
            timeout_ms=get(TIMEOUT_HEADER),
            header_length=get(HEADER_LENGTH),
            encoding=get("content-encoding"),
            traceparent=get(TRACEPARENT),
        )


@dataclasses.dataclass(slots=True)
class PredictionRequest:
    """A prediction request.

    Attributes:
        head: Its parsed head.
        body: The whole body.
        payloads: The encoded samples, if the body is a form.
        caller: Id of the API key.
        make_job: Creates the job of a request that is already parsed (gRPC).
        began: `time.perf_counter` on arrival.
    """

    head: RequestHead
    body: bytes = b""
    payloads: list[bytes] | None = None
    caller: str = ""
    make_job: Callable[[Live], ReplyJob] | None = None
    began: float = dataclasses.field(default_factory=time.perf_counter)


@dataclasses.dataclass(slots=True)
class Reply:
    """A reply; `reason` is the error message, if any."""

    status: int
    body: bytes
    headers: Headers
    reason: str = ""


def error_reply(error: Exception) -> Reply:
    """The reply for an error: its message if it is a `LeptonError`, and Retry-After for 429 and 503."""
    status = status_of(error)
    reason = "the server failed; its log says why."
    if isinstance(error, HTTPException):
        reason = error.detail
    elif isinstance(error, LeptonError):
        reason = in_words(error)
    headers: Headers = (("content-type", JSON),)
    if status == 401:
        headers += (("www-authenticate", "Bearer"),)
    if status in (429, 503):
        headers += (("retry-after", str(max(1, math.ceil(getattr(error, "seconds", 1))))),)
    if isinstance(error, HTTPException) and error.headers:
        headers += tuple(error.headers.items())
    return Reply(status, orjson.dumps({"error": reason}), headers, reason)
