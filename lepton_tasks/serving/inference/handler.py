"""Handle prediction requests, independent of the transport."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Callable
from typing import Any

from lepton_tasks.core.errors import DataError, LeptonError
from lepton_tasks.serving.errors import CLIENT_GONE, MediaTypeError, reason_of
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.inference.batching import queue_full
from lepton_tasks.serving.inference.request import (
    BYTES,
    HEADER_LENGTH,
    JSON,
    TIMEOUT_HEADER,
    Headers,
    PredictionRequest,
    Reply,
    ReplyJob,
    RequestHead,
    error_reply,
)
from lepton_tasks.serving.inference.samples import PredictJob
from lepton_tasks.serving.inference.tensors import InferJob
from lepton_tasks.serving.observing.telemetry import Call, Telemetry
from lepton_tasks.serving.observing.tracing import TRACEPARENT, Tracer
from lepton_tasks.serving.versions.live import Live
from lepton_tasks.serving.versions.lookup import VERSION_HEADER, Lookup

_MAX_LENGTH_DIGITS = 12  # of a header length


class _Call(Call):
    """A request in progress."""

    __slots__ = ("done", "job", "request", "telemetry")

    def __init__(self, request: PredictionRequest, telemetry: Telemetry, done: Callable[[Reply], None]) -> None:
        super().__init__(request.head.model, request.head.probe, request.caller)
        self.request, self.telemetry, self.done = request, telemetry, done
        self.job: ReplyJob | None = None

    def finish(self, answer: Any) -> None:
        """Reply with the result, which may be an exception."""
        job, live = self.job, self.live
        if job is not None:
            self.samples = job.sample_records
        if live is None or isinstance(answer, Exception):
            self.done(self.error_response(answer))
            return
        self._count(200)
        header_length = job.header_length if isinstance(job, InferJob) else None
        self.done(Reply(200, answer, _response_headers(live.release.version, header_length)))

    def error_response(self, error: Exception) -> Reply:
        """Count the error and return its reply."""
        reply = error_reply(error)
        self._count(reply.status, reason_of(error))
        if reply.status == 500:
            self.telemetry.unforeseen(self, error)
        if self.live is not None:
            reply.headers += ((VERSION_HEADER, self.live.release.version),)
        return reply

    def cancel(self) -> None:
        """Take the request from the queue because the client has disconnected."""
        if self.ticket is not None:
            self.ticket.cancelled = True
        self._count(CLIENT_GONE)

    def _count(self, status: int, reason: str | None = None) -> None:
        request = self.request
        self.telemetry.finish(self, request.head.api, status, time.perf_counter() - request.began, reason)


class RequestHandler:
    """Runs prediction requests. All methods must be called in the event loop.

    Args:
        table: Routes requests to versions.
        telemetry: Metrics and request log.
        limits: Limits per request.
        tracer: Records traces.
    """

    def __init__(self, table: Lookup, telemetry: Telemetry, limits: Limits, tracer: Tracer) -> None:
        self.limits = limits
        self._table, self._telemetry, self._tracer = table, telemetry, tracer

    def start(self, request: PredictionRequest, done: Callable[[Reply], None]) -> Callable[[], None] | None:
        """Start a request; `done` is called with the reply, immediately if the request is refused.

        Returns:
            Function that cancels the request if the client disconnects; None if it was refused.
        """
        head = request.head
        call = _Call(request, self._telemetry, done)
        if self._tracer.on or head.traceparent is not None:
            self._trace(call)
        try:
            live = call.live = self._table.route(head.model, key=head.key, version=head.version)
            job = call.job = _make_job(request, live, self.limits.samples)
            seconds = _timeout(head.timeout_ms, self.limits.seconds)
            call.ticket = live.batcher.submit(job, call.finish, seconds=seconds, size=len(request.body) or math.inf)
            return call.cancel
        except Exception as error:  # noqa: BLE001  # every request gets a reply
            call.done(call.error_response(error))
            return None

    async def handle(self, request: PredictionRequest) -> Reply:
        """Handle a request; cancelling the task takes it from the queue."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        cancel = self.start(request, lambda reply: None if future.done() else future.set_result(reply))
        try:
            return await future
        except asyncio.CancelledError:
            if cancel is not None:
                cancel()
            raise

    def overloaded(self, head: RequestHead) -> Live | None:
        """The version with a full queue that would serve the request; None if there is room or the head cannot tell."""
        if self._tracer.on or head.traceparent is not None or head.version is not None:
            return None
        live = self._table.only_version(head.model)
        return live if live is not None and live.batcher.full else None

    def overload_response(self, live: Live) -> Reply:
        """The 503 reply while the queue of `live` is full."""
        reply = error_reply(queue_full(live.batcher.backlog))
        reply.headers += ((VERSION_HEADER, live.release.version),)
        return reply

    def record_overload(
        self, live: Live, head: RequestHead, caller: str, reply: Reply, began: float, now: float
    ) -> None:
        """Record a request refused for overload; `began` and `now` are times of `time.monotonic`.

        Telemetry counts and logs such requests in batches: one at a time, with cold caches beside a CNN, each took
        30 us instead of 4.
        """
        call = Call(head.model, head.probe, caller, live)
        self._telemetry.refused(call, head.api, reply, now - began, now)

    def refuse(self, request: PredictionRequest, error: Exception) -> Reply:
        """The reply to a request that is refused before it is queued."""
        call = _Call(request, self._telemetry, _ignore)
        with contextlib.suppress(LeptonError):
            call.live = self._table.route(call.model, key=request.head.key, version=request.head.version)
        return call.error_response(error)

    def _trace(self, call: _Call) -> None:
        """Record the request's spans when it finishes, and add the ``traceparent`` header to its reply."""
        trace, done, request = self._tracer.begin(call.request.head.traceparent), call.done, call.request
        if trace is None:
            return
        call.trace = trace.id

        def finish(reply: Reply) -> None:
            reply.headers += ((TRACEPARENT, trace.header),)
            done(reply)
            if trace.span:
                about = {"http.response.status_code": reply.status, "lepton.api": request.head.api}
                name = "predict" if request.head.api == "v1" else "infer"
                self._tracer.record(trace, name, *_span_data(call, request.began, about))

        call.done = finish


def _ignore(_: Reply) -> None:
    """Callback of a request whose reply is returned instead."""


def _span_data(
    call: Call, began: float, attributes: dict[str, Any]
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Begin and end of the request and its stages, and the span attributes."""
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


@functools.lru_cache(maxsize=256)
def _response_headers(version: str, header_length: int | None) -> Headers:
    """Headers of a successful reply; cached, because most replies share them."""
    if header_length is None:
        return ("content-type", JSON), (VERSION_HEADER, version)
    return ("content-type", BYTES), (VERSION_HEADER, version), (HEADER_LENGTH, str(header_length))


def _make_job(request: PredictionRequest, live: Live, most: int) -> ReplyJob:
    if request.make_job is not None:
        return request.make_job(live)
    head, version = request.head, live.release.version
    if head.encoding not in (None, "identity"):
        raise MediaTypeError(
            f"the content encoding {head.encoding!r} is not supported.", fix="Send the body uncompressed."
        )
    if head.api == "v2":
        header = head.header_length
        if header is not None and not (header.isdecimal() and len(header) <= _MAX_LENGTH_DIGITS):
            raise DataError(f"{header!r} is not a number of bytes.", where=HEADER_LENGTH)
        length = None if header is None else int(header)
        return InferJob(request.body, model=head.model, version=version, most=most, header=length)
    kind, takes, json = head.kind, live.package.codec.media_type, head.kind == JSON
    if not (json or request.payloads or kind == BYTES or _main_type(kind) == _main_type(takes)):
        raise MediaTypeError(
            f"the content type {kind!r} is not read here." if kind else "the request has no content type.",
            fix=f"Send {takes}, {'or ' if takes == JSON else ''}a form with the field 'file'"
            f"{'' if takes == JSON else f', or {JSON}'}.",
        )
    return PredictJob(request.body, model=head.model, version=version, most=most, json=json, payloads=request.payloads)


def _main_type(kind: str) -> str:
    return kind.partition("/")[0]


def _timeout(text: str | None, most: float) -> float:
    """The client's timeout in seconds, at most `most`."""
    if text is None:
        return most
    try:
        milliseconds = float(text)
        if not milliseconds > 0:
            raise ValueError(text)
    except ValueError as error:
        raise DataError(f"{text!r} is not a time in milliseconds.", where=TIMEOUT_HEADER) from error
    return min(milliseconds / 1000, most)
