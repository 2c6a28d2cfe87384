"""Tracing of predictions: W3C trace context in and out, spans to an OpenTelemetry collector.

Spans are exported only where the standard variables name a collector (``OTEL_EXPORTER_OTLP_ENDPOINT``, or that of
traces) and the OpenTelemetry packages are installed. The serving image is without them: installing
``opentelemetry-exporter-otlp-proto-http`` (or ``-grpc``) there is enough.

Source: https://www.w3.org/TR/trace-context/,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

TRACEPARENT = "traceparent"

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LENGTH = 55  # of version 00, which nothing may follow
_CAPACITY = 8192  # requests that may wait to be exported
_BATCH = 256
_EVERY_SECONDS = 1.0
_CLOSING_SECONDS = 3.0
_SHARES = {"always_on": 1.0, "always_off": 0.0}

_log = logging.getLogger("lepton.serving.tracing")

Stages = Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """The place of one request in a trace.

    Attributes:
        id: The trace's id: 32 hex digits.
        header: ``traceparent`` of the reply.
        span: Id of the request's own span, 16 hex digits; empty if none is recorded.
        parent: Id of the caller's span; empty without one.
    """

    id: str
    header: str
    span: str = ""
    parent: str = ""


def trace_id(traceparent: str | None) -> str:
    """The id of the trace that a header names; empty for none."""
    found = _FORM.fullmatch(traceparent) if traceparent is not None else None
    return found[1] if found else ""


class Tracer:
    """Records what happened to requests. Without an exporter it only hands the caller's trace context back.

    Args:
        export: Takes spans of requests, in a thread of their own; without it none are recorded.
        share: Share of the requests that are recorded if the caller does not say.
        heeds_parent: Whether the caller may say.
    """

    def __init__(
        self, export: Callable[[Sequence[Span]], None] | None = None, *, share: float = 1.0, heeds_parent: bool = True
    ) -> None:
        self.on, self.dropped = export is not None, 0
        self._export, self._share, self._heeds_parent = export, share, heeds_parent
        self._random = random.Random()
        self._waiting: collections.deque[Span] = collections.deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)

    def start(self) -> None:
        """Begin to export."""
        if self.on:
            self._thread.start()

    def close(self) -> None:
        """Export what waits, and end; a collector that does not answer is not waited for longer than some seconds."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_SECONDS)

    def begin(self, traceparent: str | None) -> Trace | None:
        """The trace of a request that comes in; None if there is none and none is recorded.

        Args:
            traceparent: The header; one that is not well formed counts as none.
        """
        if traceparent is None and not self.on:
            return None
        found = _FORM.fullmatch(traceparent) if traceparent is not None else None
        if found is None or (found[0][:2] == "00" and found[4]):
            if not self.on:
                return None
            trace, parent, sampled = f"{self._random.getrandbits(128) or 1:032x}", "", None
        else:
            trace, parent, sampled = found[1], found[2], bool(int(found[3], 16) & 1)
            if not self.on:
                return Trace(trace, found[0][:_LENGTH])
        if sampled is None or not self._heeds_parent:
            sampled = int(trace[16:], 16) < self._share * 2**64  # the same decision wherever the trace goes
        span = f"{self._random.getrandbits(64) or 1:016x}"
        return Trace(trace, f"00-{trace}-{span}-{int(sampled):02x}", span if sampled else "", parent)

    def record(self, trace: Trace, name: str, stages: Stages, attributes: Mapping[str, Any]) -> None:
        """Have the spans of a request exported: one of its own, and one for each stage. Returns at once.

        Args:
            trace: What `begin` gave.
            name: Of the request's span.
            stages: Begin and end of each stage, ``total`` for the request, as `time.perf_counter` tells.
            attributes: Of the request's span; ``http.response.status_code`` above 499 marks it as failed.
        """
        if not trace.span or not self.on:
            return
        if len(self._waiting) >= _CAPACITY:
            self.dropped += 1
            return
        shift = time.time() - time.perf_counter()
        self._waiting.append(Span(trace, name, shift, dict(stages), dict(attributes)))

    def _work(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(_EVERY_SECONDS)
            while self._waiting:
                count = min(_BATCH, len(self._waiting))
                spans = [self._waiting.popleft() for _ in range(count)]
                try:
                    if self._export is not None:
                        self._export(spans)
                except Exception:  # noqa: BLE001  # whatever the exporter meets, requests go on, and so do later exports
                    self.dropped += count
                    _log.exception("%d requests are missing in the traces", count)


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """What `Tracer.record` was told; `shift` makes seconds since the epoch of its times."""

    trace: Trace
    name: str
    shift: float
    stages: dict[str, tuple[float, float]]
    attributes: dict[str, Any]


def tracer_of(environment: Mapping[str, str]) -> Tracer:
    """The tracer that the standard variables ask for; one that records nothing if they do not.

    Args:
        environment: The server's environment variables.
    """

    def setting(name: str, default: str = "") -> str:
        return environment.get(name, "").strip() or default

    wanted = setting("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or setting("OTEL_EXPORTER_OTLP_ENDPOINT")
    off = setting("OTEL_SDK_DISABLED").lower() == "true" or setting("OTEL_TRACES_EXPORTER", "otlp") == "none"
    if not wanted or off:
        return Tracer()
    protocol = setting("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or setting("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    package = f"opentelemetry.exporter.otlp.proto.{'grpc' if protocol == 'grpc' else 'http'}"
    if not _installed(package):
        _log.error("no traces are exported to %s: the package of %s is not installed.", wanted, package)
        return Tracer()
    from lepton_tasks.serving.observing.otlp import exporter

    sampler = setting("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    kind = sampler.removeprefix("parentbased_")
    share = _SHARES.get(kind, 1.0)
    if kind == "traceidratio":
        share = float(setting("OTEL_TRACES_SAMPLER_ARG", "1"))
    _log.info("traces go to %s", wanted)
    return Tracer(exporter(protocol), share=share, heeds_parent=sampler.startswith("parentbased_"))


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(f"{package}.trace_exporter") is not None
    except ModuleNotFoundError:
        return False
