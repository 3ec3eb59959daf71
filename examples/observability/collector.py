"""A collector and viewer as small as can be: it takes what OpenTelemetry sends over HTTP (OTLP with
protobuf), keeps the last traces and the last value of each metric in memory, and shows them as a
page. For real work take Jaeger, Tempo or the like: they are sent the same.
"""

from __future__ import annotations

import gzip
import html
import threading
from collections import OrderedDict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from examples.observability.drawing import draw

MOST_TRACES = 100
MOST_SPANS = 1000
"""Of one trace."""
KINDS = ("", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


class Span(NamedTuple):
    """What the viewer shows of a span."""

    service: str
    name: str
    kind: str
    id: str
    parent: str
    start: int
    """Nanoseconds, as the end."""
    end: int
    failed: bool
    attributes: dict[str, str]
    events: list[tuple[int, str]]


class Store:
    """What has come: the newest traces, and the metrics as they were last told."""

    def __init__(self) -> None:
        self._traces: OrderedDict[str, dict[str, Span]] = OrderedDict()
        self._metrics: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def trace_ids(self) -> list[str]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._traces))

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, each after its parent, and those of a parent by their start."""
        with self._lock:
            spans = list(self._traces.get(trace_id, {}).values())
        known = {span.id for span in spans}
        roots = [span for span in spans if span.parent not in known]
        return [span for root in sorted(roots, key=by_start) for span in below(root, spans)]

    def metrics(self) -> dict[tuple[str, str], str]:
        with self._lock:
            return dict(sorted(self._metrics.items()))

    def add_traces(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            for trace_id, span in spans_in(request):
                spans = self._traces.setdefault(trace_id, {})
                if len(spans) < MOST_SPANS:
                    spans[span.id] = span
            while len(self._traces) > MOST_TRACES:
                self._traces.popitem(last=False)

    def add_metrics(self, request: ExportMetricsServiceRequest) -> None:
        with self._lock:
            for group in request.resource_metrics:
                service = service_of(group.resource)
                for metric in (one for scope in group.scope_metrics for one in scope.metrics):
                    points = metric.gauge.data_points or metric.sum.data_points
                    for point in points:
                        value = point.as_int if point.HasField("as_int") else point.as_double
                        self._metrics[service, metric.name] = f"{value:g}"


def by_start(span: Span) -> int:
    return span.start


def below(span: Span, spans: list[Span]) -> Iterator[Span]:
    yield span
    for child in sorted((one for one in spans if one.parent == span.id), key=by_start):
        yield from below(child, spans)


def spans_in(request: ExportTraceServiceRequest) -> Iterator[tuple[str, Span]]:
    for group in request.resource_spans:
        service = service_of(group.resource)
        for span in (one for scope in group.scope_spans for one in scope.spans):
            yield (
                span.trace_id.hex(),
                Span(
                    service,
                    span.name,
                    KINDS[span.kind],
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    {one.key: text_of(one.value) for one in span.attributes},
                    [(event.time_unix_nano, event.name) for event in span.events],
                ),
            )


def service_of(resource: Any) -> str:
    names = (text_of(one.value) for one in resource.attributes if one.key == "service.name")
    return next(names, "?")


def text_of(value: Any) -> str:
    kind = value.WhichOneof("value")
    return "" if kind is None else str(getattr(value, kind))


class Collector(ThreadingHTTPServer):
    """Listens on a port of this machine, in a thread of its own."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.store = Store()
        threading.Thread(target=self.serve_forever, name="collector", daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        store = self.server.store
        if self.path == "/v1/traces":
            store.add_traces(ExportTraceServiceRequest.FromString(body))
            self.answer("application/x-protobuf", ExportTraceServiceResponse().SerializeToString())
        elif self.path == "/v1/metrics":
            store.add_metrics(ExportMetricsServiceRequest.FromString(body))
            self.answer(
                "application/x-protobuf", ExportMetricsServiceResponse().SerializeToString()
            )
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        self.answer("text/html; charset=utf-8", page(self.server.store, self.path[1:]).encode())

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def page(store: Store, wanted: str) -> str:
    ids = store.trace_ids()
    shown = wanted if wanted in ids else next(iter(ids), "")
    links = "".join(
        f'<li><a href="/{id}">{html.escape(store.trace(id)[0].name)} {id[:8]}</a></li>'
        for id in ids
    )
    rows = "".join(
        f"<tr><td>{html.escape(service)}<td>{html.escape(name)}<td>{value}"
        for (service, name), value in store.metrics().items()
    )
    return (
        "<!doctype html><meta charset=utf-8><title>traces</title>"
        "<style>body{font:14px sans-serif;margin:2em}td{padding:0 1em 0 0}</style>"
        f"<h1>Traces</h1><ul>{links}</ul>{draw(store.trace(shown))}<h1>Metrics</h1>"
        f"<table>{rows}</table>"
    )
