"""What a program does to be seen: it sends its traces and metrics to a collector.

Where that is, and how the program is called, say the variables that all programs with OpenTelemetry
know: ``OTEL_EXPORTER_OTLP_ENDPOINT`` and ``OTEL_SERVICE_NAME``. Nothing here is about ``rio``: the
traces come from the tracer provider alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import rio


def start() -> None:
    """Send traces and metrics, if the environment names a collector."""
    if "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ:
        return
    traces = TracerProvider()
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(traces)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))


def measure(server: rio.Server) -> None:
    """Make the counters of a server instruments of OpenTelemetry."""
    meter = metrics.get_meter("shop")

    def observe(name: str) -> Iterable[Observation]:
        return [Observation(getattr(server.statistics(), name))]

    for name in ("calls", "failures"):
        meter.create_observable_counter(f"rio.{name}", [lambda _, name=name: observe(name)])
    meter.create_observable_gauge("rio.live_objects", [lambda _: observe("live_objects")])
