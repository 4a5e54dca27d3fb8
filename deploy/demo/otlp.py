"""A small trace collector: OTLP over HTTP in, spans in memory out.

It stands in for Jaeger, so that the demo can print a trace and the tests can look at one without installing anything.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first span of a trace."""
    service: str
    name: str
    kind: int
    """As in OTLP: 1 internal, 2 server, 3 client."""
    start_ns: int
    end_ns: int
    attributes: dict[str, object]
    links: tuple[tuple[str, str], ...]
    """(trace id, span id) of each linked span."""

    @property
    def milliseconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


class Spans:
    """Every span that came in, and a way to wait for those one looks for."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._changed = threading.Condition()

    def add(self, request: ExportTraceServiceRequest) -> None:
        with self._changed:
            self._spans.extend(decode(request))
            self._changed.notify_all()

    def of_trace(self, trace_id: str) -> list[Span]:
        """Spans of the trace, and spans elsewhere that link to it, in order of their start."""
        with self._changed:
            found = [s for s in self._spans if s.trace_id == trace_id or any(t == trace_id for t, _ in s.links)]
        return sorted(found, key=lambda span: span.start_ns)

    def wait_for(self, trace_id: str, complete: Callable[[list[Span]], bool], seconds: float) -> list[Span]:
        """What there is of the trace once `complete` says so, or after that time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not complete(found := self.of_trace(trace_id)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return found


class HttpCollector:
    """Listens on a port of the kernel's choice; `spans` fills while it runs."""

    def __init__(self) -> None:
        self.spans = Spans()
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                known = self.path == "/v1/traces"
                if known:
                    spans.add(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def decode(request: ExportTraceServiceRequest) -> list[Span]:
    spans = []
    for resource_spans in request.resource_spans:
        resource = {a.key: attribute(a.value) for a in resource_spans.resource.attributes}
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                spans.append(
                    Span(
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        service=str(resource.get("service.name", "unknown")),
                        name=span.name,
                        kind=span.kind,
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes={a.key: attribute(a.value) for a in span.attributes},
                        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    )
                )
    return spans


def attribute(value: object) -> object:
    """The Python value inside an OTLP AnyValue; lists and maps stay as they are."""
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)
