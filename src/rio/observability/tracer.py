"""The spans of calls, turns and their storage, by the API of OpenTelemetry.

Only a program that has imported OpenTelemetry imports this module. Whatever an SDK raises is logged
and nothing else: a trace that cannot be written is no reason for a call to fail.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracer,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation import _SPAN_KEY
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rio._version import __version__
from rio.errors import Redirected
from rio.logs import Logger, mark_records
from rio.observability.trace_context import Trace

logger = Logger("rio.observability")

R = TypeVar("R")

NOT_SAMPLED: Final = False
W3C: Final = TraceContextTextMapPropagator()
SYSTEM: Final = "rio"

# A span that is not sampled has one and the same parent on each node: only the decision travels.
UNSAMPLED_PARENT: Final = SpanContext(
    trace_id=0x72696F20_6E6F7420_73616D70_6C656421,
    span_id=0x72696F20_6E6F7421,
    is_remote=True,
    trace_flags=TraceFlags(TraceFlags.DEFAULT),
)


class TracedCall(Protocol):
    """A call of a client, or a turn on a node."""

    @property
    def type_name(self) -> str: ...
    @property
    def message_name(self) -> str: ...


class TracedTurn(TracedCall, Protocol):
    @property
    def span(self) -> Any:
        """A :class:`TracedSpan`, or ``None``."""
        ...


Attributes: TypeAlias = Mapping[str, str | int]
_NONE: Final[Attributes] = {}


class TracedSpan:
    """The span of a call or a turn that is sampled."""

    __slots__ = ("_has_ended", "_has_failed", "context", "span")

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self._has_ended = self._has_failed = False
        self.context = context
        """That of OpenTelemetry, in which it is the current span."""

    @property
    def trace(self) -> Trace:
        """How it travels with what it brings about."""
        return trace_in(self.context)

    def note(self, event: str, /, **attributes: str) -> None:
        """Something has happened."""
        with _harmless():
            self.span.add_event(event, {f"rio.{name}": value for name, value in attributes.items()})

    def started(self, queue_time: float) -> None:
        """The turn begins, ``queue_time`` seconds after its request came: its message is decoded
        next.
        """
        with _harmless():
            self.span.set_attribute("rio.queue_time", queue_time)
            self.span.add_event("rio.decode")

    def decoded(self) -> None:
        """The handler is called next."""
        self.note("rio.handler")

    def failed(self, error: BaseException) -> None:
        """An exception was raised, or is the answer. The first one says most."""
        if self._has_failed:
            return
        self._has_failed = True
        with _harmless():
            if isinstance(error, Redirected):
                self.span.add_event("rio.redirect", {"server.address": error.detail[0]})
                return
            name = type(error).__qualname__
            self.span.record_exception(error)
            self.span.set_attribute("error.type", name)
            self.span.set_status(StatusCode.ERROR, f"{name}: {error}")

    def end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        with _harmless():
            self.span.end()

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function as a part of the span."""
        token = otel_context.attach(self.context)
        try:
            return function(*arguments)
        finally:
            otel_context.detach(token)


class Unsampled(TracedSpan):
    """Stands for each span that is not sampled."""

    __slots__ = ()

    def __init__(self) -> None:
        span = NonRecordingSpan(UNSAMPLED_PARENT)
        super().__init__(span, trace.set_span_in_context(span, Context()))

    def failed(self, error: BaseException) -> None: ...

    def end(self) -> None: ...


class Tracer:
    """Makes the spans of one process.

    ``attach(context)`` makes a context of OpenTelemetry the current one, and ``get_context()``
    returns that; the current span is under ``span_key`` in it.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self.unsampled = Unsampled()
        self.nothing = Context()
        self.attach: Callable[[Context], object] = otel_context.attach
        self.get_context: Callable[[], Context] = otel_context.get_current
        self.span_key = _SPAN_KEY
        runtime = getattr(otel_context._RUNTIME_CONTEXT, "_current_context", None)
        if isinstance(runtime, contextvars.ContextVar):  # the same, without a Python frame
            self.attach, self.get_context = runtime.set, runtime.get

    # --- calls and turns --------------------------------------------------------------------------

    def begin_call(self, call: TracedCall) -> TracedSpan | None:
        """The span of a client's call; ``None`` if it is not sampled."""
        parent = otel_context.get_current()
        return self._begin(_name_of(call), SpanKind.CLIENT, parent, _rpc(call))

    def begin_turn(
        self,
        turn: TracedCall,
        came_with: Trace,
        *,
        age: float,
        server: tuple[str, int],
        is_new: bool = False,
    ) -> TracedSpan:
        """The span of a turn, from the arrival of its request ``age`` seconds ago.

        ``is_new``: it only links to the trace with which it came.
        """
        parent = context_of(came_with)
        links = []
        if is_new:
            links = [Link(trace.get_current_span(parent).get_span_context())]
            parent = Context()
        attributes = {**_rpc(turn), "server.address": server[0]}
        if server[1]:  # a unix: address has none
            attributes["server.port"] = server[1]
        start = time.time_ns() - int(age * 1e9)
        name = _name_of(turn)
        return (
            self._begin(name, SpanKind.SERVER, parent, attributes, start, links) or self.unsampled
        )

    def trace_here(self) -> Trace:
        """How the trace of the running code travels."""
        return trace_in(otel_context.get_current())

    def _begin(
        self,
        name: str,
        kind: SpanKind,
        parent: Context,
        attributes: Attributes,
        start: int | None = None,
        links: Sequence[Link] = (),
    ) -> TracedSpan | None:
        with _harmless():
            span = self._tracer.start_span(name, parent, kind, attributes, links, start)
            if span.is_recording() or span.get_span_context().trace_flags.sampled:
                return TracedSpan(span, trace.set_span_in_context(span, parent))
        return None

    # --- what a node does for them ----------------------------------------------------------------

    def enter(self, name: str, turn: TracedTurn | None) -> TracedSpan | None:
        """Make a step on behalf of a turn the span of the running task, which ends it. ``None``:
        nobody traces the turn.
        """
        if turn is None or turn.span is None:
            return None
        span = self._begin_step(name, SpanKind.INTERNAL, turn.span.context) or self.unsampled
        self.attach(span.context)
        return span

    async def around(self, work: Awaitable[R], name: str) -> R:
        """Do some work of a node, as a span of its own within that of the running code."""
        with self._step(name):
            return await work

    async def around_storage(
        self, work: Awaitable[R], operation: str, type_name: str, storage: str
    ) -> R:
        """The same for an operation of a storage, with the names that databases have."""
        attributes = {
            "db.system.name": SYSTEM,
            "db.operation.name": operation,
            "db.collection.name": type_name,
            "rio.storage": storage,
        }
        with self._step(f"{operation} {type_name}", SpanKind.CLIENT, attributes):
            return await work

    @contextmanager
    def _step(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = _NONE,
    ) -> Iterator[None]:
        span = self._begin_step(name, kind, otel_context.get_current(), attributes)
        if span is None:
            yield
            return
        token = otel_context.attach(span.context)
        try:
            yield
        except BaseException as error:
            span.failed(error)
            raise
        finally:
            otel_context.detach(token)
            span.end()

    def _begin_step(
        self, name: str, kind: SpanKind, where: Context, attributes: Attributes = _NONE
    ) -> TracedSpan | None:
        """The span of something that a node does; ``None``: it is in no trace that is sampled."""
        if not trace.get_current_span(where).get_span_context().trace_flags.sampled:
            return None
        return self._begin(name, kind, where, attributes)


def find_marks() -> Mapping[str, str]:
    """The ids of the trace and the span in which the running code is, for the log."""
    span = trace.get_current_span().get_span_context()
    if not span.trace_flags.sampled:
        return {}
    return {
        "trace_id": trace.format_trace_id(span.trace_id),
        "span_id": trace.format_span_id(span.span_id),
    }


def make_tracer() -> Tracer | None:
    """``None``: the program has set no provider that traces."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider)):
        return None
    tracer = provider.get_tracer("rio", __version__)
    if isinstance(tracer, NoOpTracer):
        return None
    mark_records(find_marks)
    return Tracer(tracer)


# --- how a trace travels --------------------------------------------------------------------------


def trace_in(context: Context) -> Trace:
    """How the trace travels that is current in a context of OpenTelemetry."""
    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return None
    if not span.trace_flags.sampled:
        return NOT_SAMPLED
    carrier: dict[str, str] = {}
    W3C.inject(carrier, context)
    return tuple(carrier.values())


def context_of(came_with: Trace) -> Context:
    """The context of OpenTelemetry for what came with a request."""
    if came_with is NOT_SAMPLED:
        return trace.set_span_in_context(NonRecordingSpan(UNSAMPLED_PARENT), Context())
    if not isinstance(came_with, tuple):
        return Context()
    carrier = dict(zip(("traceparent", "tracestate"), came_with, strict=False))
    return W3C.extract(carrier, Context())


# --- names and attributes, by the conventions of OpenTelemetry ------------------------------------


def _name_of(call: TracedCall) -> str:
    return f"{call.type_name}/{call.message_name}"


def _rpc(call: TracedCall) -> dict[str, str | int]:
    return {"rpc.system.name": SYSTEM, "rpc.method": _name_of(call)}


@contextmanager
def _harmless() -> Iterator[None]:
    """Log what an SDK raises."""
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        logger.warning("OpenTelemetry has failed, and a part of a trace is lost: %s", name)
