"""Request tracing: W3C trace context, spans exported to an OpenTelemetry collector.

Spans are exported only if the standard variables configure a collector (``OTEL_EXPORTER_OTLP_ENDPOINT``, or
``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``) and the OpenTelemetry packages are installed. The serving image lacks them;
installing ``opentelemetry-exporter-otlp-proto-http`` (or ``-grpc``) is enough.

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
_LENGTH = 55  # of version 00, which allows no suffix
_CAPACITY = 8192  # requests pending export
_BATCH = 256
_EVERY_SECONDS = 1.0
_CLOSING_SECONDS = 3.0
_SHARES = {"always_on": 1.0, "always_off": 0.0}

_log = logging.getLogger("lepton.serving.tracing")

Stages = Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """Trace context of one request.

    Attributes:
        id: Trace id, 32 hex digits.
        header: ``traceparent`` of the reply.
        span: Id of the request's own span, 16 hex digits; empty if none is recorded.
        parent: Id of the caller's span; empty without one.
    """

    id: str
    header: str
    span: str = ""
    parent: str = ""


def trace_id(traceparent: str | None) -> str:
    """Trace id of a ``traceparent`` header; empty if absent or malformed."""
    found = _FORM.fullmatch(traceparent) if traceparent is not None else None
    return found[1] if found else ""


class Tracer:
    """Record request spans; without an exporter, only return the caller's trace context.

    Args:
        export: Exports request spans, in a background thread; without it none are recorded.
        share: Fraction of requests sampled if the caller makes no sampling decision.
        heeds_parent: Whether the caller's sampling decision is honoured.
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
        """Start exporting."""
        if self.on:
            self._thread.start()

    def close(self) -> None:
        """Export pending spans and stop; waits at most a few seconds for the collector."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_SECONDS)

    def begin(self, traceparent: str | None) -> Trace | None:
        """Trace context of an incoming request; None if there is neither a parent nor an exporter.

        Args:
            traceparent: The header; a malformed one is ignored.
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
            sampled = int(trace[16:], 16) < self._share * 2**64  # the same decision in every service
        span = f"{self._random.getrandbits(64) or 1:016x}"
        return Trace(trace, f"00-{trace}-{span}-{int(sampled):02x}", span if sampled else "", parent)

    def record(self, trace: Trace, name: str, stages: Stages, attributes: Mapping[str, Any]) -> None:
        """Queue the spans of a request for export: its own, and one per stage. Does not block.

        Args:
            trace: Result of `begin`.
            name: Name of the request's span.
            stages: Start and end of each stage, ``total`` for the request, in `time.perf_counter` seconds.
            attributes: Attributes of that span; ``http.response.status_code`` above 499 marks it as failed.
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
                except Exception:  # noqa: BLE001  # requests and later exports must continue
                    self.dropped += count
                    _log.exception("%d requests are missing in the traces", count)


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Arguments of `Tracer.record`; adding `shift` converts its times to seconds since the epoch."""

    trace: Trace
    name: str
    shift: float
    stages: dict[str, tuple[float, float]]
    attributes: dict[str, Any]


def tracer_of(environment: Mapping[str, str]) -> Tracer:
    """Tracer configured by the standard variables; records nothing without them.

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
