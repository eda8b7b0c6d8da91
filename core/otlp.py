"""Spans sent to an OpenTelemetry collector by OTLP over HTTP, from a thread of their own."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from core.tracing import Fact, Span, Tracing

_SEND_SECONDS = 5.0
_HEADER = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracing(Tracing):
    """Sends `share` of all traces to `endpoint`, an address such as http://127.0.0.1:4318."""

    def __init__(self, endpoint: str, service: str, share: float = 1.0) -> None:
        exporter = OTLPSpanExporter(
            endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_SEND_SECONDS
        )
        self._provider = TracerProvider(
            # A trace that came to us half done is recorded where its beginning is.
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({SERVICE_NAME: service}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("solemate")

    def begin(
        self, name: str, *, header: str = "", since: float | None = None, **facts: Fact
    ) -> Span:
        """A span without a parent, or of the caller whose header it is."""
        caller = _PROPAGATOR.extract({_HEADER: header} if header else {})
        span = self._tracer.start_span(
            name,
            caller,
            SpanKind.SERVER if header else SpanKind.CONSUMER,
            _named(facts),
            start_time=_nanoseconds(since),
        )
        return _Recorded(self._tracer, span)

    def close(self) -> None:
        """Send what is left; a collector that is away costs five seconds."""
        self._provider.shutdown()


class _Recorded(Span):
    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def header(self) -> str:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self._span))
        return carrier.get(_HEADER, "")

    def child(self, name: str, *, since: float | None = None, **facts: Fact) -> Span:
        context = set_span_in_context(self._span)
        start = _nanoseconds(since)
        span = self._tracer.start_span(name, context, attributes=_named(facts), start_time=start)
        return _Recorded(self._tracer, span)

    def note(self, **facts: Fact) -> None:
        if self._span.is_recording():
            self._span.set_attributes(_named(facts))

    def end(self, failure: str = "") -> None:
        if not self._span.is_recording():
            return
        if failure:
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


def _named(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {f"solemate.{name}": value for name, value in facts.items()}


def _nanoseconds(since: float | None) -> int | None:
    return None if since is None else int(since * 1e9)
