"""Answer a prediction request, independent of the transport: the one code path to a model."""

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
from lepton_tasks.serving.inference.asked import (
    BYTES,
    HEADER_LENGTH,
    JSON,
    TIMEOUT_HEADER,
    Answering,
    Asked,
    Headers,
    Heading,
    Reply,
    error_reply,
)
from lepton_tasks.serving.inference.batching import crowded
from lepton_tasks.serving.inference.samples import PredictJob
from lepton_tasks.serving.inference.tensors import InferJob
from lepton_tasks.serving.observing.telemetry import Call, Telemetry
from lepton_tasks.serving.observing.tracing import TRACEPARENT, Tracer
from lepton_tasks.serving.versions.live import Live
from lepton_tasks.serving.versions.lookup import VERSION_HEADER, Lookup

_MOST_DIGITS = 12  # of a number of bytes


class _Call(Call):
    """A request while it is answered, and what becomes of it."""

    __slots__ = ("asked", "done", "job", "telemetry")

    def __init__(self, asked: Asked, telemetry: Telemetry, done: Callable[[Reply], None]) -> None:
        super().__init__(asked.heading.model, asked.heading.probe, asked.caller)
        self.asked, self.telemetry, self.done = asked, telemetry, done
        self.job: Answering | None = None

    def finish(self, answer: Any) -> None:
        """Reply with the answer, or with the error that it is."""
        job, live = self.job, self.live
        if job is not None:
            self.samples = job.seen
        if live is None or isinstance(answer, Exception):
            self.done(self.refusal(answer))
            return
        self._count(200)
        header_length = job.header_length if isinstance(job, InferJob) else None
        self.done(Reply(200, answer, _headers(live.release.version, header_length)))

    def refusal(self, error: Exception) -> Reply:
        """The reply that tells of an error."""
        reply = error_reply(error)
        self._count(reply.status, reason_of(error))
        if reply.status == 500:
            self.telemetry.unforeseen(self, error)
        if self.live is not None:
            reply.headers += ((VERSION_HEADER, self.live.release.version),)
        return reply

    def cancel(self) -> None:
        """The caller has gone: leave the queue."""
        if self.ticket is not None:
            self.ticket.cancelled = True
        self._count(CLIENT_GONE)

    def _count(self, status: int, reason: str | None = None) -> None:
        asked = self.asked
        self.telemetry.finish(self, asked.heading.api, status, time.perf_counter() - asked.began, reason)


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
        heading = asked.heading
        call = _Call(asked, self._telemetry, done)
        if self._tracer.on or heading.traceparent is not None:
            self._trace(call)
        try:
            live = call.live = self._table.route(heading.model, key=heading.key, version=heading.version)
            job = call.job = _job(asked, live, self.limits.samples)
            seconds = _seconds(heading.timeout_ms, self.limits.seconds)
            call.ticket = live.batcher.submit(job, call.finish, seconds=seconds, size=len(asked.body) or math.inf)
            return call.cancel
        except Exception as error:  # noqa: BLE001  # every request gets a reply
            call.done(call.refusal(error))
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

    def crowded(self, heading: Heading) -> Live | None:
        """The version that has no room for a request, where its heading alone says so."""
        if self._tracer.on or heading.traceparent is not None or heading.version is not None:
            return None
        live = self._table.sole(heading.model)
        return live if live is not None and live.batcher.full else None

    def refusal(self, live: Live) -> Reply:
        """The reply to a request that `live` has no room for."""
        reply = error_reply(crowded(live.batcher.backlog))
        reply.headers += ((VERSION_HEADER, live.release.version),)
        return reply

    def turned_away(self, live: Live, heading: Heading, caller: str, reply: Reply, began: float, now: float) -> None:
        """Keep that such a request was refused; it came at `began` of `time.monotonic`.

        It is counted and logged later, with others: what is done for one now and then is done from cold caches, which
        beside a CNN took 30 us instead of 4.
        """
        call = Call(heading.model, heading.probe, caller, live)
        self._telemetry.refused(call, heading.api, reply, now - began, now)

    def refuse(self, asked: Asked, error: Exception) -> Reply:
        """The reply to a request that is refused before anything is begun."""
        call = _Call(asked, self._telemetry, _nobody)
        with contextlib.suppress(LeptonError):
            call.live = self._table.route(call.model, key=asked.heading.key, version=asked.heading.version)
        return call.refusal(error)

    def _trace(self, call: _Call) -> None:
        """Have the request's spans recorded once it is answered; its reply says to which trace it belongs."""
        trace, done, asked = self._tracer.begin(call.asked.heading.traceparent), call.done, call.asked
        if trace is None:
            return
        call.trace = trace.id

        def answered(reply: Reply) -> None:
            reply.headers += ((TRACEPARENT, trace.header),)
            done(reply)
            if trace.span:
                about = {"http.response.status_code": reply.status, "lepton.api": asked.heading.api}
                name = "predict" if asked.heading.api == "v1" else "infer"
                self._tracer.record(trace, name, *_told(call, asked.began, about))

        call.done = answered


def _nobody(_: Reply) -> None:
    """Who is told of a reply that is returned."""


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


@functools.lru_cache(maxsize=256)
def _headers(version: str, header_length: int | None) -> Headers:
    """Of an answer; most answers have the same."""
    if header_length is None:
        return ("content-type", JSON), (VERSION_HEADER, version)
    return ("content-type", BYTES), (VERSION_HEADER, version), (HEADER_LENGTH, str(header_length))


def _job(asked: Asked, live: Live, most: int) -> Answering:
    if asked.make is not None:
        return asked.make(live)
    heading, version = asked.heading, live.release.version
    if heading.encoding not in (None, "identity"):
        raise MediaTypeError(
            f"the content encoding {heading.encoding!r} is not supported.", fix="Send the body uncompressed."
        )
    if heading.api == "v2":
        header = heading.header_length
        if header is not None and not (header.isdecimal() and len(header) <= _MOST_DIGITS):
            raise DataError(f"{header!r} is not a number of bytes.", where=HEADER_LENGTH)
        length = None if header is None else int(header)
        return InferJob(asked.body, model=heading.model, version=version, most=most, header=length)
    kind, takes, json = heading.kind, live.package.codec.media_type, heading.kind == JSON
    if not (json or asked.payloads or kind == BYTES or _family(kind) == _family(takes)):
        raise MediaTypeError(
            f"the content type {kind!r} is not read here." if kind else "the request has no content type.",
            fix=f"Send {takes}, {'or ' if takes == JSON else ''}a form with the field 'file'"
            f"{'' if takes == JSON else f', or {JSON}'}.",
        )
    return PredictJob(asked.body, model=heading.model, version=version, most=most, json=json, payloads=asked.payloads)


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
        raise DataError(f"{text!r} is not a time in milliseconds.", where=TIMEOUT_HEADER) from error
    return min(milliseconds / 1000, most)
