"""An OpenTelemetry collector that takes OTLP over HTTP on loopback, and keeps what it is sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class SentSpan:
    """A span as it came; `parent` is the name of the span that it is a part of, "" for none."""

    service: str
    name: str
    trace: bytes
    id: bytes
    parent_id: bytes
    seconds: float
    facts: dict[str, object]
    failure: str


@dataclass
class Collector:
    """What was sent, span by span and as it was sent."""

    address: str = ""
    spans: list[SentSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def named(self, name: str) -> SentSpan:
        """The only span of this name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def parents(self) -> dict[str, str]:
        """Each span's name, and that of the span that it is a part of."""
        names = {span.id: span.name for span in self.spans}
        return {span.name: names.get(span.parent_id, "") for span in self.spans}

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            about = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_read(about["service.name"], span) for span in scope.spans]


def _read(service: str, span: object) -> SentSpan:
    facts = {
        one.key: getattr(one.value, str(one.value.WhichOneof("value")))
        for one in span.attributes  # type: ignore[attr-defined]
    }
    return SentSpan(
        service,
        span.name,  # type: ignore[attr-defined]
        span.trace_id,  # type: ignore[attr-defined]
        span.span_id,  # type: ignore[attr-defined]
        span.parent_span_id,  # type: ignore[attr-defined]
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,  # type: ignore[attr-defined]
        facts,
        span.status.message,  # type: ignore[attr-defined]
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector at `address` while the block runs."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    collector.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
