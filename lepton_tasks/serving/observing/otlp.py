"""Export request spans with OpenTelemetry; imported only if installed and configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lepton_tasks.serving.observing.tracing import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

SERVICE = "lepton-serving"
TOTAL = "total"
"""Key of the whole request among a span's stages."""


def exporter(protocol: str) -> Callable[[Sequence[Span]], None]:
    """Exporter of spans to the collector configured by ``OTEL_*``.

    Args:
        protocol: ``grpc`` or ``http/protobuf``.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    made: SpanExporter
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        made = GrpcExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        made = HttpExporter()
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
    resource = Resource({"service.name": SERVICE}).merge(Resource.create())
    if resource.attributes.get("service.name", "").startswith("unknown_service"):  # type: ignore[union-attr]  # a string
        resource = resource.merge(Resource({"service.name": SERVICE}))

    def export(spans: Sequence[Span]) -> None:
        whole = [one for span in spans for one in _spans(span, resource)]
        if made.export(whole) is not SpanExportResult.SUCCESS:
            raise ConnectionError("the collector did not take them")

    return export


def _spans(span: Span, resource: Resource) -> Iterator[ReadableSpan]:
    """The request's span, then a child span per stage."""
    import random

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    flags, scope = TraceFlags(TraceFlags.SAMPLED), InstrumentationScope("lepton")

    def context(identity: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(int(span.trace.id, 16), identity, remote, flags)

    def nanoseconds(moment: float) -> int:
        return int((moment + span.shift) * 1e9)

    def made(
        name: str, own: SpanContext, parent: SpanContext | None, times: tuple[float, float], **more: Any
    ) -> ReadableSpan:
        begin, end = map(nanoseconds, times)
        return ReadableSpan(
            name, own, parent, resource, start_time=begin, end_time=end, instrumentation_scope=scope, **more
        )

    own = context(int(span.trace.span, 16))
    caller = context(int(span.trace.parent, 16), remote=True) if span.trace.parent else None
    failed = span.attributes.get("http.response.status_code", 200) >= 500
    status = Status(StatusCode.ERROR if failed else StatusCode.UNSET)
    yield made(
        span.name, own, caller, span.stages[TOTAL], kind=SpanKind.SERVER, attributes=span.attributes, status=status
    )
    for name, times in span.stages.items():
        if name != TOTAL:
            yield made(name, context(random.getrandbits(64) or 1), own, times)
