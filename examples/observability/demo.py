"""Start a collector and two servers of a shop, order something, and show the trace of it."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from opentelemetry import trace

import rio
from examples.observability.collector import Collector, Span, Store
from examples.observability.drawing import depths_of, draw

PATIENCE = 30.0
"""Seconds until all spans of a trace have come."""


@contextmanager
def server(name: str, storage: str) -> Iterator[None]:
    """A server in a process of its own, once it serves."""
    command = [sys.executable, "-m", "examples.observability.server", "--storage", storage]
    environment = {**os.environ, "OTEL_SERVICE_NAME": name}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline().startswith("serving on"):
                raise RuntimeError(f"{name} did not start")
            yield
        finally:
            process.terminate()


async def order(storage: str) -> str:
    """Buy a book with one new cart after the other, until a cart lives on another server than the
    stock. Returns the id of that trace.
    """
    from examples.observability.service import Cart, Order, Stock, Where, customer

    customer.set("ada")
    tracer = trace.get_tracer("shop")
    async with rio.Client(storage) as client:
        await client.ref(Stock, "book").where(Where())
        for number in range(100):
            with tracer.start_as_current_span("buy a book") as span:
                receipt = await client.ref(Cart, f"{number}").order(Order("book"))
            if receipt.cart_at != receipt.stock_at:
                return trace.format_trace_id(span.get_span_context().trace_id)
    raise RuntimeError("all carts live where the stock lives")


def wait_for(store: Store, trace_id: str) -> list[Span]:
    """The spans of a trace, once all have come: each process sends its own when it likes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        spans = store.trace(trace_id)
        known, parents = {span.id for span in spans}, {span.parent for span in spans if span.parent}
        calls = {span.id for span in spans if "rpc.method" in span.attributes}
        answered = {span.parent for span in spans if span.kind == "SERVER" and not redirects(span)}
        clients = {span.id for span in spans if span.kind == "CLIENT" and span.id in calls}
        if spans and parents <= known and clients <= answered and not spans[0].parent:
            return spans
        time.sleep(0.1)
    raise RuntimeError(f"the trace {trace_id} has not come whole")


def redirects(span: Span) -> bool:
    """Whether this server has only said which other one answers."""
    return any(name == "rio.redirect" for _, name in span.events)


def show(spans: list[Span]) -> None:
    depths = depths_of(spans)
    names = {service: service for service in ("client",)}
    for span in spans:
        where = names.setdefault(span.service, f"server {len(names)}")
        print(f"{where:10} {'  ' * depths[span.id]}{span.name} {span.kind}")


def main(picture: Path | None, stay: bool) -> None:
    collector = Collector()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    os.environ["OTEL_SERVICE_NAME"] = "client"
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = os.environ["OTEL_METRIC_EXPORT_INTERVAL"] = "500"
    with tempfile.TemporaryDirectory() as directory, ExitStack() as servers:
        storage = f"sqlite:///{directory}/shop.db"
        for name in ("server a", "server b"):
            servers.enter_context(server(name, storage))
        spans = wait_for(collector.store, asyncio.run(order(storage)))
        show(spans)
        if picture is not None:
            picture.write_text(draw(spans))
        if stay:
            input(f"{collector.url} shows the traces and the metrics; Return ends all: ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, help="write the trace to this file as an SVG")
    parser.add_argument("--stay", action="store_true", help="go on until Return is pressed")
    options = parser.parse_args()
    main(options.picture, options.stay)
