"""What a program that uses OpenTelemetry sees of its calls."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
)

import rio
from rio import logs
from tests.client.test_client import frames_per_call
from tests.server.harness import Cluster, Probe, until

Provide = Callable[..., TracerProvider]


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def clear(self) -> None:
        self._exporter.clear()

    def named(self, name: str, kind: SpanKind | None = None) -> list[ReadableSpan]:
        return [each for each in self.all() if each.name == name and kind in (None, each.kind)]

    def one(self, name: str, kind: SpanKind | None = None) -> ReadableSpan:
        [span] = self.named(name, kind)
        return span

    def tree(self) -> dict[str, list[str]]:
        """The names of the children by that of their parent; roots are children of ``""``."""
        names = {id_of(span): f"{span.name} {span.kind.name}" for span in self.all()}
        tree: dict[str, list[str]] = {}
        for span in self.all():
            parent = "" if span.parent is None else names[span.parent.span_id]
            tree.setdefault(parent, []).append(names[id_of(span)])
        return tree


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provide]:
    """Make a provider that of the program, for one test."""
    made: list[TracerProvider] = []

    def provide(processor: SpanProcessor, sampler: Sampler | None = None) -> TracerProvider:
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        made.append(provider)
        return provider

    monkeypatch.setattr(logs, "_find_marks", dict)
    yield provide
    for provider in made:
        provider.shutdown()


@pytest.fixture
def spans(provide: Provide) -> Spans:
    exporter = InMemorySpanExporter()
    provide(SimpleSpanProcessor(exporter))
    return Spans(exporter)


class Count(rio.State):
    value: int = 0


class Add(rio.Message[int]): ...


class Pass(rio.Message[int]):
    """Has the object add, through another one."""

    through: str
    to: str


class Who(rio.Message[str]):
    """Answered with the trace id that the handler's code finds."""


class Fail(rio.Message[None]): ...


class Refuse(rio.Message[None]): ...


class Declined(rio.ApplicationError): ...


class Remind(rio.Message[None]):
    repeat: bool = False


class Hold(rio.Message[None]): ...


class Announce(rio.Message[None]):
    """Has the object publish it."""


class Counter(rio.ServiceObject):
    count: Count = rio.managed_state()

    @rio.handler
    async def add(self, _: Add) -> int:
        self.count.value += 1
        await self.save_state()
        return self.count.value

    @rio.handler
    async def pass_on(self, message: Pass) -> int:
        if message.through:
            return await self.send(Counter, message.through, Pass("", message.to))
        return await self.send(Counter, message.to, Add())

    @rio.handler
    def who(self, _: Who) -> str:
        return f"{get_current_span().get_span_context().trace_id:032x}"

    @rio.handler
    def fail(self, _: Fail) -> None:
        raise ZeroDivisionError("of the handler")

    @rio.handler
    async def refuse(self, _: Refuse) -> None:
        await asyncio.sleep(0)
        raise Declined

    @rio.handler
    def remind(self, message: Remind) -> None:
        set_timer = self.timers.every if message.repeat else self.timers.after
        set_timer("reminder", 0.01, Who())

    @rio.handler
    def announce(self, message: Announce) -> None:
        self.publish(message)

    @rio.handler
    async def hold(self, _: Hold, app: rio.AppData) -> None:
        await app.get(Probe).gate("hold").wait()


def tracer() -> trace.Tracer:
    return trace.get_tracer("of the test")


def not_sampled() -> trace.Span:
    """The span of a caller that is not sampled."""
    return NonRecordingSpan(SpanContext(7, 7, is_remote=False, trace_flags=TraceFlags(0)))


async def test_what_a_turn_publishes_is_an_event_of_its_span(
    spans: Spans, cluster: Cluster
) -> None:
    await cluster.server(Counter)
    client = await cluster.client()
    with tracer().start_as_current_span("round"):
        await client.send(Counter, "a", Announce())
    [event] = [
        each
        for each in spans.one("Counter/Announce", SpanKind.SERVER).events
        if each.name == "rio.publish"
    ]
    assert event.attributes == {"rio.event": "Announce"}


async def test_one_trace_goes_from_the_client_over_objects_on_two_nodes_to_the_storage(
    spans: Spans, cluster: Cluster
) -> None:
    first, second = await cluster.nodes(2, Counter)
    here = await cluster.activated_on(first, Counter, Who())
    there = await cluster.activated_on(second, Counter, Who())
    client = await cluster.client()
    await client.send(Counter, here, Who())
    await first.client.send(Counter, there, Who())
    await second.client.send(Counter, "new", Who())
    await second.client.admin(rio.AdminCommand.shutdown(Counter, "new"))
    await until(lambda: cluster.home(Counter, "new") is None)
    spans.clear()
    assert await client.send(Counter, here, Pass(there, "new")) == 1
    assert len(spans.named("Counter/Pass")) == 4
    assert len({span.context.trace_id for span in spans.all() if span.context}) == 1
    tree = spans.tree()
    assert tree[""] == ["Counter/Pass CLIENT"]
    assert tree["Counter/Pass CLIENT"] == ["Counter/Pass SERVER"] * 2
    assert tree["Counter/Add CLIENT"] == ["Counter/Add SERVER"]
    assert sorted(tree["Counter/Add SERVER"]) == ["rio.activate INTERNAL", "save Counter CLIENT"]
    assert tree["rio.activate INTERNAL"] == ["rio.claim INTERNAL", "load Counter CLIENT"]


async def test_spans_have_the_names_and_attributes_that_others_have(
    spans: Spans, cluster: Cluster
) -> None:
    server = await cluster.server(Counter)
    await server.client.send(Counter, "a", Add())
    call = spans.one("Counter/Add", SpanKind.CLIENT)
    assert call.attributes == {"rpc.system.name": "rio", "rpc.method": "Counter/Add"}
    turn = spans.one("Counter/Add", SpanKind.SERVER)
    attributes = dict(turn.attributes or {})
    assert 0 <= attributes.pop("rio.queue_time") < 60
    host, _, port = server.address.rpartition(":")
    assert attributes == {
        "rpc.system.name": "rio",
        "rpc.method": "Counter/Add",
        "server.address": host,
        "server.port": int(port),
    }
    assert events_of(turn) == ["rio.decode", "rio.handler"]
    save = spans.one("save Counter")
    assert save.attributes == {
        "db.system.name": "rio",
        "db.operation.name": "save",
        "db.collection.name": "Counter",
        "rio.storage": "LocalState",
    }


async def test_the_time_in_the_queue_is_a_part_of_the_span(spans: Spans, cluster: Cluster) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    holding = asyncio.ensure_future(client.send(Counter, "a", Hold()))
    await until(lambda: cluster.home(Counter, "a"))
    waiting = asyncio.ensure_future(client.send(Counter, "a", Add()))
    await until(lambda: server.statistics().calls == 2)
    await asyncio.sleep(0.02)
    cluster.probe.gate("hold").set()
    await asyncio.gather(holding, waiting)
    turn = spans.one("Counter/Add", SpanKind.SERVER)
    assert turn.attributes is not None
    assert turn.start_time is not None
    assert turn.attributes["rio.queue_time"] >= 0.02  # type: ignore[operator]
    began = turn.events[0].timestamp
    assert (began - turn.start_time) / 1e9 >= 0.02


async def test_a_handler_runs_in_its_span_and_finds_that_of_no_other_turn(
    spans: Spans, cluster: Cluster
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()

    async def ask() -> tuple[str, str]:
        with tracer().start_as_current_span("request") as span:
            found = await client.send(Counter, "a", Who())
            return found, f"{span.get_span_context().trace_id:032x}"

    answers = await asyncio.gather(*(ask() for _ in range(20)))
    assert all(found == own for found, own in answers)
    assert len(set(answers)) == 20
    with tracer().start_as_current_span("of the program"):
        other = await cluster.server(Counter)
    assert other is not server
    assert get_current_span() is trace.INVALID_SPAN


# --- sampling -------------------------------------------------------------------------------------


async def test_what_a_caller_does_not_sample_nobody_does(spans: Spans, cluster: Cluster) -> None:
    first, second = await cluster.nodes(2, Counter)
    here = await cluster.activated_on(first, Counter, Who())
    there = await cluster.activated_on(second, Counter, Who())
    client = await cluster.client()
    spans.clear()
    with trace.use_span(not_sampled()):
        assert await client.send(Counter, here, Pass(there, "new")) == 1
        assert await client.send(Counter, here, Pass(there, "new")) == 2
        client.tell(Counter, here, Pass(there, "new"))
    await until(lambda: first.statistics().calls + second.statistics().calls > 9)
    assert spans.all() == ()


async def test_a_call_that_is_not_sampled_runs_no_python_frame_of_ours(
    spans: Spans, cluster: Cluster
) -> None:
    await cluster.server(Counter)
    client = await cluster.client()
    with trace.use_span(not_sampled()):
        await client.send(Counter, "a", Who())
        assert await frames_per_call(lambda: client.send(Counter, "a", Who())) == {}
    assert spans.all() == ()


async def test_a_program_that_has_set_no_provider_is_not_traced(cluster: Cluster) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    assert server._catalog.dispatcher.tracer is None
    assert client._router.caller.tracer is None
    assert await client.send(Counter, "a", Add()) == 1


async def test_the_sampler_of_the_program_decides_about_a_new_trace(
    provide: Provide, cluster: Cluster
) -> None:
    exporter = InMemorySpanExporter()
    provide(SimpleSpanProcessor(exporter), ParentBased(ALWAYS_OFF))
    server = await cluster.server(Counter)
    client = await cluster.client()
    assert await client.send(Counter, "a", Pass("b", "c")) == 1
    assert await server.client.send(Counter, "a", Pass("b", "c")) == 2
    assert exporter.get_finished_spans() == ()


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "raised", "answered"),
    [(Fail(), "ZeroDivisionError", "HandlerFailed"), (Refuse(), "Declined", "Declined")],
)
async def test_errors_are_recorded_with_their_class(
    spans: Spans,
    cluster: Cluster,
    message: rio.Message[None],
    raised: str,
    answered: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    await cluster.server(Counter)
    client = await cluster.client()
    with pytest.raises((rio.errors.HandlerFailed, Declined)):
        await client.send(Counter, "a", message)
    name = f"Counter/{type(message).__name__}"
    for kind, error in ((SpanKind.SERVER, raised), (SpanKind.CLIENT, answered)):
        span = spans.one(name, kind)
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == error
        assert events_of(span)[-1] == "exception"


async def test_a_redirect_is_an_event_of_the_call_and_no_error_of_the_turn(
    spans: Spans, cluster: Cluster
) -> None:
    first, second = await cluster.nodes(2, Counter)
    there = await cluster.activated_on(second, Counter, Who())
    spans.clear()
    assert await first.client.send(Counter, there, Add()) == 1
    await until(lambda: spans.named("Counter/Add", SpanKind.CLIENT))
    turns = {
        "rio.redirect" in events_of(span): span.status.status_code
        for span in spans.named("Counter/Add", SpanKind.SERVER)
    }
    call = spans.one("Counter/Add", SpanKind.CLIENT)
    assert call.status.status_code is StatusCode.UNSET
    if True in turns:  # the client has asked the wrong node
        assert "rio.retry" in events_of(call)
    assert set(turns.values()) == {StatusCode.UNSET}


async def test_a_turn_that_never_begins_is_a_span_with_its_error(
    spans: Spans, cluster: Cluster
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    holding = asyncio.ensure_future(client.send(Counter, "a", Hold()))
    await until(lambda: cluster.home(Counter, "a"))
    with pytest.raises(rio.errors.Expired):
        await client.send(Counter, "a", Add(), timeout=0.05)
    await until(lambda: spans.named("Counter/Add", SpanKind.SERVER))
    turn = spans.one("Counter/Add", SpanKind.SERVER)
    assert turn.attributes is not None
    assert turn.attributes["error.type"] == "Expired"
    assert "rio.handler" not in events_of(turn)
    cluster.probe.gate("hold").set()
    await holding
    assert server.ready


# --- logs -----------------------------------------------------------------------------------------


async def test_what_the_log_says_of_a_failed_turn_has_its_trace_and_span_id(
    spans: Spans, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.server(Counter)
    client = await cluster.client()
    with pytest.raises(rio.errors.HandlerFailed):
        await client.send(Counter, "a", Fail())
    turn = spans.one("Counter/Fail", SpanKind.SERVER)
    assert turn.context is not None
    [record] = [each for each in caplog.records if "is dropped from memory" in each.message]
    assert record.trace_id == f"{turn.context.trace_id:032x}"  # type: ignore[attr-defined]
    assert record.span_id == f"{turn.context.span_id:016x}"  # type: ignore[attr-defined]
    assert not any(hasattr(each, "trace_id") for each in caplog.records if each is not record)


# --- timers and publications ----------------------------------------------------------------------


async def test_the_message_of_a_timer_is_a_part_of_the_trace_that_has_set_it(
    spans: Spans, cluster: Cluster
) -> None:
    server = await cluster.server(Counter)
    await server.client.send(Counter, "a", Remind())
    await until(lambda: spans.named("Counter/Who"))
    assert spans.tree()["Counter/Remind SERVER"][-1] == "Counter/Who SERVER"


async def test_each_message_of_a_timer_that_repeats_is_a_trace_with_a_link(
    spans: Spans, cluster: Cluster
) -> None:
    server = await cluster.server(Counter)
    await server.client.send(Counter, "a", Remind(repeat=True))
    await until(lambda: len(spans.named("Counter/Who")) >= 2)
    remind = spans.one("Counter/Remind", SpanKind.SERVER)
    for span in spans.named("Counter/Who"):
        assert span.parent is None
        assert [link.context.span_id for link in span.links] == [id_of(remind)]


# --- an SDK or a collector that fails -------------------------------------------------------------


class Broken(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("of the processor")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("of the processor")


class Refusing(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise ConnectionRefusedError("the collector is gone")


@pytest.mark.parametrize("processor", [Broken, lambda: SimpleSpanProcessor(Refusing())])
async def test_calls_go_on_whatever_an_sdk_raises(
    provide: Provide,
    cluster: Cluster,
    processor: Callable[[], SpanProcessor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    provide(processor())
    server = await cluster.server(Counter)
    client = await cluster.client()
    assert await client.send(Counter, "a", Pass("b", "c")) == 1
    assert await server.client.send(Counter, "a", Pass("b", "c")) == 2
    with pytest.raises(rio.errors.HandlerFailed):
        await client.send(Counter, "a", Fail())


async def test_a_collector_that_hangs_holds_up_no_call_and_nothing_grows(
    provide: Provide, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    release = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            release.wait()
            return SpanExportResult.FAILURE

    processor = BatchSpanProcessor(
        Hanging(), max_queue_size=50, max_export_batch_size=10, schedule_delay_millis=1
    )
    provide(processor)
    await cluster.server(Counter)
    client = await cluster.client()
    for number in range(300):
        assert await client.send(Counter, "a", Add()) == number + 1
    assert len(processor._batch_processor._queue) <= 50
    release.set()
