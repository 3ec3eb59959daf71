"""Filters on a server and on a class: what runs around a handler."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rio
from rio.errors import BadRegistration, CallTimeout, ConfigurationError, HandlerFailed
from tests.server.harness import Cluster, Probe, instance

pytestmark = pytest.mark.virtual_time


class Note(rio.Message[str]):
    text: str


class NoteLater(rio.Message[str]):
    text: str


class Relay(rio.Message[str]):
    to: str


class Other(rio.Message[str]):
    text: str


class RefusedByFilter(rio.ApplicationError):
    by: str


def noting(name: str) -> rio.Filter:
    async def note(call: rio.Call, proceed: rio.Proceed) -> Any:
        assert call.instance is not None
        call.instance.log.append(f"{name} before")
        reply = await proceed()
        call.instance.log.append(f"{name} after")
        return f"{reply} {name}"

    return note


class Notes(rio.ServiceObject, filters=[noting("class")]):
    def __init__(self) -> None:
        self.log: list[str] = []

    @rio.handler
    def note(self, message: Note) -> str:
        self.log.append(message.text)
        return message.text

    @rio.handler
    async def note_later(self, message: NoteLater, app: rio.AppData) -> str:
        await asyncio.sleep(0)
        app.get(Probe).note(message.text)
        return message.text

    @rio.handler
    async def relay(self, message: Relay) -> str:
        return await self.send(Notes, message.to, Note("relayed"))


class LessNotes(Notes, filters=[noting("subclass")]):
    pass


class Plain(rio.ServiceObject):
    @rio.handler
    def note(self, message: Note) -> str:
        return message.text

    @rio.handler
    async def relay(self, message: Relay) -> str:
        return await self.send(Plain, message.to, Note("relayed"))


async def test_the_filters_of_server_base_class_and_class_run_in_this_order_and_back(
    cluster: Cluster,
) -> None:
    server = await cluster.server(LessNotes, filters=[noting("server")])
    client = await cluster.client()
    assert await client.send(LessNotes, "a", Note("x")) == "x subclass class server"
    assert instance(server, LessNotes, "a").log == [
        "server before",
        "class before",
        "subclass before",
        "x",
        "subclass after",
        "class after",
        "server after",
    ]


async def test_a_filter_is_around_async_handlers_that_take_app_data(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Notes)
    client = await cluster.client()
    assert await client.send(Notes, "a", NoteLater("x")) == "x class"
    assert probe.log == ["x"]


async def test_a_filter_sees_the_object_the_message_the_deadline_and_who_waits(
    cluster: Cluster,
) -> None:
    seen: list[Any] = []

    async def look(call: rio.Call, proceed: rio.Proceed) -> Any:
        seen.append((str(call.object_id), call.message_name, call.message, call.caller))
        assert 3 < call.time_left <= 5
        assert repr(call) == f"<call of {call.object_id}.{call.message_name}>"
        return await proceed()

    await cluster.server(Plain, filters=[look])
    client = await cluster.client(timeout=5.0)
    await client.send(Plain, "a", Relay("b"))
    assert seen == [
        ("Plain/a", "Relay", Relay("b"), None),
        ("Plain/b", "Note", Note("relayed"), rio.ObjectId("Plain", "a")),
    ]


async def test_a_filter_may_change_the_message_answer_by_itself_and_try_again(
    cluster: Cluster,
) -> None:
    async def change(call: rio.Call, proceed: rio.Proceed) -> Any:
        match call.message.text:
            case "change":
                call.message = Note("changed")
            case "answer":
                return "answered"
            case "twice":
                return await proceed() + await proceed()
        return await proceed()

    await cluster.server(Plain, filters=[change])
    client = await cluster.client()
    assert await client.send(Plain, "a", Note("change")) == "changed"
    assert await client.send(Plain, "a", Note("answer")) == "answered"
    assert await client.send(Plain, "a", Note("twice")) == "twicetwice"


async def test_an_application_error_of_a_filter_arrives_and_keeps_the_object(
    cluster: Cluster,
) -> None:
    async def refuse(call: rio.Call, proceed: rio.Proceed) -> Any:
        if call.message.text == "refuse":
            raise RefusedByFilter(by="the filter")
        return await proceed()

    server = await cluster.server(Plain, filters=[refuse])
    client = await cluster.client()
    await client.send(Plain, "a", Note("x"))
    before = instance(server, Plain, "a")
    with pytest.raises(RefusedByFilter, match="the filter"):
        await client.send(Plain, "a", Note("refuse"))
    assert instance(server, Plain, "a") is before


@pytest.mark.parametrize("wrong", [ValueError("odd"), CallTimeout("elsewhere")])
async def test_a_filter_that_fails_before_the_handler_has_run_keeps_the_object(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, wrong: Exception
) -> None:
    async def fail(call: rio.Call, proceed: rio.Proceed) -> Any:
        if call.message.text == "fail":
            raise wrong
        return await proceed()

    server = await cluster.server(Plain, filters=[fail])
    client = await cluster.client()
    await client.send(Plain, "a", Note("x"))
    before = instance(server, Plain, "a")
    with pytest.raises(
        HandlerFailed,
        match=r"a filter before Note of Plain/a failed, and the handler did not run: .*(odd|else)",
    ):
        await client.send(Plain, "a", Note("fail"))
    assert await client.send(Plain, "a", Note("x")) == "x"
    assert instance(server, Plain, "a") is before
    assert sum("Plain/a did not run" in each.getMessage() for each in caplog.records) == 1
    caplog.clear()


async def test_a_filter_that_fails_after_the_handler_has_run_drops_the_object(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(call: rio.Call, proceed: rio.Proceed) -> Any:
        reply = await proceed()
        if reply == "fail":
            raise ValueError("odd")
        return reply

    server = await cluster.server(Plain, filters=[fail])
    client = await cluster.client()
    await client.send(Plain, "a", Note("x"))
    before = instance(server, Plain, "a")
    with pytest.raises(HandlerFailed, match="odd"):
        await client.send(Plain, "a", Note("fail"))
    await client.send(Plain, "a", Note("x"))
    assert instance(server, Plain, "a") is not before
    caplog.clear()


async def test_a_message_of_another_class_does_not_reach_the_handler(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def change(call: rio.Call, proceed: rio.Proceed) -> Any:
        call.message = Other("x")
        return await proceed()

    await cluster.server(Plain, filters=[change])
    client = await cluster.client()
    with pytest.raises(HandlerFailed, match=r"takes a Note, and a filter has put Other\(text='x'"):
        await client.send(Plain, "a", Note("x"))
    caplog.clear()


async def test_a_reply_of_a_filter_is_checked_as_that_of_the_handler(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(call: rio.Call, proceed: rio.Proceed) -> Any:
        return 5

    await cluster.server(Plain, filters=[answer])
    client = await cluster.client()
    with pytest.raises(rio.errors.BadReply, match="returned a int"):
        await client.send(Plain, "a", Note("x"))
    caplog.clear()


async def test_a_filter_that_waits_ends_at_the_deadline_and_holds_its_object_until_then(
    cluster: Cluster, probe: Probe
) -> None:
    async def wait(call: rio.Call, proceed: rio.Proceed) -> Any:
        if call.message.text == "wait":
            probe.note("waits")
            await asyncio.Event().wait()
        return await proceed()

    server = await cluster.server(Plain, filters=[wait])
    client = await cluster.client()
    await client.send(Plain, "a", Note("x"))
    before = instance(server, Plain, "a")
    waiting = asyncio.ensure_future(client.send(Plain, "a", Note("wait"), timeout=0.2))
    await probe.noted("waits")
    behind = asyncio.ensure_future(client.send(Plain, "a", Note("behind")))
    with pytest.raises(CallTimeout):
        await waiting
    assert await behind == "behind"
    assert instance(server, Plain, "a") is before


async def test_events_and_shutdowns_pass_by_the_filters(cluster: Cluster, probe: Probe) -> None:
    async def note(call: rio.Call, proceed: rio.Proceed) -> Any:
        probe.note(call.message_name)
        return await proceed()

    await cluster.server(Plain, filters=[note])
    client = await cluster.client(filters=[note])
    async with client.subscribe(Plain, "a", Other):
        pass
    await client.admin(rio.AdminCommand.shutdown(Plain, "a"))
    assert probe.log == []


async def test_a_type_without_filters_keeps_the_handler_itself_in_its_row(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Plain, Notes)
    tables = server._catalog.dispatcher.tables
    names = {name: repr(table.methods["Note"].handler) for name, table in tables.items()}
    assert set(names) == {"Plain", "Notes"}
    assert not Plain.__rio_filters__
    assert len(Notes.__rio_filters__) == 1


async def plain(call: rio.Call, proceed: rio.Proceed) -> Any:
    return await proceed()


def no_coroutine(call: rio.Call, proceed: rio.Proceed) -> Any:
    return proceed()


async def takes_one(call: rio.Call) -> Any: ...


class Callable:
    async def __call__(self, call: rio.Call, proceed: rio.Proceed) -> Any:
        return await proceed()


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        ([no_coroutine], r"the filter no_coroutine \(.*test_filters.py:\d+\) is no async function"),
        ([takes_one], r"the filter takes_one \(.*\) does not take a call and a function"),
        ([Callable], "the filter Callable .*cannot be called with a call"),
        ([5], "the filter 5 cannot be called"),
        (plain, "filters= takes a list of filters, got <function plain"),
        ("plain", "filters= takes a list of filters, got 'plain'"),
        (None, "filters= takes a list of filters, got None"),
    ],
)
def test_what_is_no_filter_is_refused_with_its_name(filters: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"rio.Server: {problem}"):
        rio.Server(rio.Registry(Plain), storage="memory://", filters=filters)
    with pytest.raises(ConfigurationError, match=f"rio.Client: {problem}"):
        rio.Client("memory://", filters=filters)
    with pytest.raises(BadRegistration, match=f"Wrong: {problem}"):

        class Wrong(rio.ServiceObject, filters=filters):
            pass


async def test_an_object_with_an_async_call_is_a_filter(cluster: Cluster) -> None:
    await cluster.server(Plain, filters=[Callable()])
    client = await cluster.client(filters=[Callable()])
    assert await client.send(Plain, "a", Note("x")) == "x"


async def test_a_direct_call_of_a_handler_passes_no_filter() -> None:
    notes = Notes()
    assert await notes.note(Note("x")) == "x"
    assert notes.log == ["x"]
