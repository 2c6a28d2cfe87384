"""From a request for predictions to its reply, whatever brought it: the one way to a model's answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import orjson
from starlette.exceptions import HTTPException

from lepton_tasks.core.errors import DataError, LeptonError
from lepton_tasks.serving.errors import CLIENT_GONE, MediaTypeError, reason_of, status_of
from lepton_tasks.serving.http.payload import Limits, media_type
from lepton_tasks.serving.inference.batching import Job
from lepton_tasks.serving.inference.samples import PredictJob
from lepton_tasks.serving.inference.tensors import InferJob
from lepton_tasks.serving.observing.telemetry import Call, Telemetry
from lepton_tasks.serving.observing.tracing import TRACEPARENT, Tracer
from lepton_tasks.serving.versions.live import Live
from lepton_tasks.serving.versions.lookup import VERSION_HEADER, Lookup

HEADER_LENGTH = "inference-header-content-length"
TIMEOUT_HEADER = "lepton-timeout-ms"
_JSON, _BYTES = "application/json", "application/octet-stream"


class Answering(Job, Protocol):
    """A job that answers with bytes and tells the request log what it saw."""

    seen: list[dict[str, Any]]


@dataclasses.dataclass(slots=True)
class Asked:
    """A request for predictions.

    Attributes:
        api: ``v1``: encoded samples; ``v2``: tensors; ``grpc``: tensors, too.
        model: Name asked for.
        version: Version asked for; None for whichever answers.
        body: The whole body.
        kind: Media type of the body, in small letters and without parameters.
        payloads: The encoded samples, where the body was a form.
        key: Text of the header ``lepton-key``.
        caller: Id of the API key that let it in.
        probe: Text of the header ``lepton-probe``.
        timeout_ms: Text of the header ``lepton-timeout-ms``.
        header_length: Text of the header ``Inference-Header-Content-Length``.
        encoding: Text of the header ``Content-Encoding``.
        traceparent: Text of the header ``traceparent``.
        make: Makes the job, where the request is no bytes.
        began: `time.perf_counter` when it came.
    """

    api: Literal["v1", "v2", "grpc"]
    model: str
    version: str | None = None
    body: bytes = b""
    kind: str = ""
    payloads: list[bytes] | None = None
    key: str | None = None
    caller: str = ""
    probe: str = ""
    timeout_ms: str | None = None
    header_length: str | None = None
    encoding: str | None = None
    traceparent: str | None = None
    make: Callable[[Live], Answering] | None = None
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def read_headers(self, get: Callable[[str], str | None]) -> None:
        """Take what matters from the headers, which `get` gives by name."""
        self.kind = media_type(get("content-type"))
        self.key, self.probe = get("lepton-key"), (get("lepton-probe") or "")[:32]
        self.timeout_ms, self.header_length = get(TIMEOUT_HEADER), get(HEADER_LENGTH)
        self.encoding, self.traceparent = get("content-encoding"), get(TRACEPARENT)


@dataclasses.dataclass(slots=True)
class Reply:
    """What goes back: status, headers and body; and why, in words, if it is no answer."""

    status: int
    body: bytes
    headers: dict[str, str]
    reason: str = ""


class Answerer:
    """Answers requests for predictions. Every method runs in the event loop.

    Args:
        table: Which version answers.
        telemetry: What is told of every request.
        limits: What a request may cost.
        tracer: What records traces.
    """

    def __init__(self, table: Lookup, telemetry: Telemetry, limits: Limits, tracer: Tracer) -> None:
        self.limits = limits
        self._table, self._telemetry, self._tracer = table, telemetry, tracer

    def start(self, asked: Asked, done: Callable[[Reply], None]) -> Callable[[], None] | None:
        """Have a request answered; `done` gets the reply, at once if it is refused.

        Returns:
            What to call if the caller goes away, so that the request leaves the queue; None once it is answered.
        """
        call = Call(asked.model, asked.probe, asked.caller)
        if self._tracer.on or asked.traceparent is not None:
            done = self._traced(asked, call, done)
        try:
            live = call.live = self._table.route(asked.model, key=asked.key, version=asked.version)
            job = _job(asked, live, self.limits.samples)
            seconds = _seconds(asked.timeout_ms, self.limits.seconds)

            def finish(answer: Any) -> None:
                call.samples, call.queued = job.seen, ticket.taken - ticket.queued
                if isinstance(answer, Exception):
                    done(self._refuse(call, asked, answer))
                    return
                self._telemetry.finish(call, asked.api, 200, time.perf_counter() - asked.began)
                headers = {"content-type": _JSON, VERSION_HEADER: live.release.version}
                if isinstance(job, InferJob) and job.header_length is not None:
                    headers |= {"content-type": _BYTES, HEADER_LENGTH: str(job.header_length)}
                done(Reply(200, answer, headers))

            call.ticket = ticket = live.batcher.submit(job, finish, seconds=seconds, size=len(asked.body) or math.inf)

            def cancel() -> None:
                ticket.cancelled = True
                self._telemetry.finish(call, asked.api, CLIENT_GONE, time.perf_counter() - asked.began)

            return cancel
        except Exception as error:  # noqa: BLE001  # every request gets a reply
            done(self._refuse(call, asked, error))
            return None

    async def answer(self, asked: Asked) -> Reply:
        """The reply; if the waiting task is cancelled, the request leaves the queue."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        cancel = self.start(asked, lambda reply: None if future.done() else future.set_result(reply))
        try:
            return await future
        except asyncio.CancelledError:
            if cancel is not None:
                cancel()
            raise

    def refuse(self, asked: Asked, error: Exception) -> Reply:
        """The reply to a request that is refused before anything is begun."""
        call = Call(asked.model, asked.probe, asked.caller)
        with contextlib.suppress(LeptonError):
            call.live = self._table.route(asked.model, key=asked.key, version=asked.version)
        return self._refuse(call, asked, error)

    def _traced(self, asked: Asked, call: Call, done: Callable[[Reply], None]) -> Callable[[Reply], None]:
        """`done`, after which the request's spans are recorded; its reply says to which trace it belongs."""
        trace = self._tracer.begin(asked.traceparent)
        if trace is None:
            return done
        call.trace = trace.id

        def answered(reply: Reply) -> None:
            reply.headers[TRACEPARENT] = trace.header
            done(reply)
            if trace.span:
                about = {"http.response.status_code": reply.status, "lepton.api": asked.api}
                name = "predict" if asked.api == "v1" else "infer"
                self._tracer.record(trace, name, *_told(call, asked.began, about))

        return answered

    def _refuse(self, call: Call, asked: Asked, error: Exception) -> Reply:
        reply = error_reply(error)
        self._telemetry.finish(call, asked.api, reply.status, time.perf_counter() - asked.began, reason_of(error))
        if reply.status == 500:
            self._telemetry.unforeseen(call, error)
        if call.live is not None:
            reply.headers[VERSION_HEADER] = call.live.release.version
        return reply


def _told(
    call: Call, began: float, attributes: dict[str, Any]
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Begin and end of a request and of its stages, and the attributes with what is known of its answer."""
    stages = {"total": (began, time.perf_counter())}
    if call.live is not None:
        attributes |= {"lepton.model": call.model, "lepton.version": call.live.release.version}
    if call.ticket is not None and call.ticket.timings is not None:
        batch, end = call.ticket.timings, call.ticket.timings.began
        stages["queue"] = call.ticket.queued, call.ticket.taken
        for stage, seconds in (("decode", batch.decode), ("run", batch.run), ("encode", batch.encode)):
            stages[stage] = end, end + seconds
            end += seconds
        attributes["lepton.batch"] = batch.jobs
    return stages, attributes


def error_reply(error: Exception) -> Reply:
    """The reply that tells of an error: its reason if it is one of ours, and a Retry-After where that may help."""
    status = status_of(error)
    reason = "the server failed; its log says why."
    if isinstance(error, HTTPException):
        reason = error.detail
    elif isinstance(error, LeptonError):
        reason = str(error)
    headers = {"content-type": _JSON}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(getattr(error, "seconds", 1))))
    if isinstance(error, HTTPException) and error.headers:
        headers |= error.headers
    return Reply(status, orjson.dumps({"error": reason}), headers, reason)


def _job(asked: Asked, live: Live, most: int) -> Answering:
    if asked.make is not None:
        return asked.make(live)
    if asked.encoding not in (None, "identity"):
        raise MediaTypeError(f"the content encoding {asked.encoding!r} is not read.", fix="Send the body as it is.")
    model, version = asked.model, live.release.version
    if asked.api == "v2":
        header = asked.header_length
        if header is not None and not header.isdecimal():
            raise DataError(f"{header!r} is no number of bytes.", where=HEADER_LENGTH)
        length = None if header is None else int(header)
        return InferJob(asked.body, model=model, version=version, most=most, header=length)
    takes = live.package.codec.media_type
    json = asked.kind == _JSON
    if not (json or asked.payloads or asked.kind == _BYTES or _family(asked.kind) == _family(takes)):
        raise MediaTypeError(
            f"the content type {asked.kind!r} is not read here.",
            fix=f"Send {takes}, a form with the field 'file', or application/json.",
        )
    return PredictJob(asked.body, model=model, version=version, most=most, json=json, payloads=asked.payloads)


def _family(kind: str) -> str:
    return kind.partition("/")[0]


def _seconds(text: str | None, most: float) -> float:
    """The time that a caller gives, in seconds, at most `most`."""
    if text is None:
        return most
    try:
        milliseconds = float(text)
        if not milliseconds > 0:
            raise ValueError(text)
    except ValueError as error:
        raise DataError(f"{text!r} is no time in milliseconds.", where=TIMEOUT_HEADER) from error
    return min(milliseconds / 1000, most)
