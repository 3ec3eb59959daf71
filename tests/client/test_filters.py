"""Filters of a client: what runs around a call with all its attempts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rio
from rio.errors import (
    BadIdentity,
    CallTimeout,
    ConfigurationError,
    Expired,
    HandlerFailed,
    NotExecuted,
    OutcomeUnknown,
)
from tests.server.harness import Cluster, Probe, until

pytestmark = pytest.mark.virtual_time


class Add(rio.Message[int]):
    amount: int


class Wait(rio.Message[None]): ...


class Fail(rio.Message[int]): ...


class Ask(rio.Message[int]):
    """Have another object add, through a client with filters."""


class Counter(rio.ServiceObject):
    def __init__(self) -> None:
        self.count = 0

    @rio.handler
    def add(self, message: Add) -> int:
        self.count += message.amount
        return self.count

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note("waits")
        await asyncio.Event().wait()

    @rio.handler
    async def fail(self, message: Fail) -> int:
        raise ValueError("odd")

    @rio.handler
    async def ask(self, message: Ask, app: rio.AppData) -> int:
        return await app.get(rio.Client).send(Counter, "asked", Add(1))


async def through(call: rio.Call, proceed: rio.Proceed) -> Any:
    return await proceed()


async def test_filters_are_around_send_and_references_the_first_outermost(
    cluster: Cluster,
) -> None:
    def noting(name: str) -> rio.Filter:
        async def note(call: rio.Call, proceed: rio.Proceed) -> Any:
            return f"{name}({await proceed()})"

        return note

    await cluster.server(Counter)
    client = await cluster.client(filters=[noting("one"), noting("two")])
    assert await client.send(Counter, "a", Add(1)) == "one(two(1))"
    assert await client.ref(Counter, "a").add(Add(1)) == "one(two(2))"
    assert await client.send("Counter", "a", Add(1), returns=int) == "one(two(3))"


async def test_a_filter_sees_the_call_and_may_change_answer_refuse_and_repeat_it(
    cluster: Cluster,
) -> None:
    async def play(call: rio.Call, proceed: rio.Proceed) -> Any:
        assert (str(call.object_id), call.message_name) == ("Counter/a", "Add")
        assert call.instance is call.caller is None
        assert 6 < call.time_left <= 7
        match call.message.amount:
            case 10:
                call.message = Add(20)
            case 30:
                return -30
            case 40:
                raise PermissionError("not forty")
            case 50:
                await proceed()
        return await proceed()

    await cluster.server(Counter)
    client = await cluster.client(filters=[play], timeout=7.0)
    assert await client.send(Counter, "a", Add(10)) == 20
    assert await client.send(Counter, "a", Add(30)) == -30
    with pytest.raises(PermissionError, match="not forty"):
        await client.send(Counter, "a", Add(40))
    assert await client.send(Counter, "a", Add(50)) == 120


async def test_a_dynamic_message_has_its_name(cluster: Cluster) -> None:
    names: list[str] = []

    async def look(call: rio.Call, proceed: rio.Proceed) -> Any:
        names.append(call.message_name)
        return await proceed()

    await cluster.server(Counter)
    client = await cluster.client(filters=[look])
    assert await client.send("Counter", "a", rio.DynamicMessage("Add", {"amount": 2})) == 2
    assert names == ["Add"]


async def test_errors_of_the_call_pass_through_the_filter(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def catch(call: rio.Call, proceed: rio.Proceed) -> Any:
        try:
            return await proceed()
        except HandlerFailed:
            return -1

    await cluster.server(Counter)
    client = await cluster.client(filters=[catch])
    assert await client.send(Counter, "a", Fail()) == -1
    caplog.clear()


async def test_calls_keep_their_order_through_a_filter(cluster: Cluster) -> None:
    await cluster.server(Counter)
    client = await cluster.client(filters=[through])
    counts = await asyncio.gather(*(client.send(Counter, "a", Add(1)) for _ in range(100)))
    assert counts == list(range(1, 101))


async def test_a_filter_that_waits_ends_with_the_deadline_and_says_that_nothing_ran(
    cluster: Cluster,
) -> None:
    async def wait(call: rio.Call, proceed: rio.Proceed) -> Any:
        await asyncio.Event().wait()

    await cluster.server(Counter)
    client = await cluster.client(filters=[wait])
    with pytest.raises(Expired, match="filters of the client still had Add to Counter/a at its"):
        await client.send(Counter, "a", Add(1), timeout=0.05)


async def test_a_filter_that_waits_after_the_call_ends_with_the_deadline_too(
    cluster: Cluster,
) -> None:
    async def wait(call: rio.Call, proceed: rio.Proceed) -> Any:
        await proceed()
        await asyncio.Event().wait()

    await cluster.server(Counter)
    client = await cluster.client(filters=[wait])
    with pytest.raises(CallTimeout, match="filters of the client still had Add to Counter/a"):
        await client.send(Counter, "a", Add(1), timeout=0.5)


async def test_a_call_that_was_sent_gets_the_word_of_the_server_at_its_deadline(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Counter)
    client = await cluster.client(filters=[through])
    await client.send(Counter, "a", Add(1))
    waiting = asyncio.ensure_future(client.send(Counter, "a", Wait(), timeout=5.0))
    await probe.noted("waits")
    with pytest.raises(Expired, match="waited for Counter/a until its deadline"):
        await client.send(Counter, "a", Add(1), timeout=0.05)
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_cancelling_the_awaiting_task_cancels_the_handler(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client(filters=[through])
    waiting = asyncio.ensure_future(client.send(Counter, "a", Wait()))
    await probe.noted("waits")
    waiting.cancel()
    await until(lambda: server.statistics().in_flight == 0)
    assert waiting.cancelled()


async def test_closing_ends_what_the_filters_still_have(cluster: Cluster) -> None:
    async def wait(call: rio.Call, proceed: rio.Proceed) -> Any:
        if call.message.amount:
            await proceed()
        waiting.set()
        await asyncio.Event().wait()

    await cluster.server(Counter)
    client = await cluster.client(filters=[wait])
    for amount, error in ((0, NotExecuted), (1, OutcomeUnknown)):
        waiting = asyncio.Event()
        call = asyncio.ensure_future(client.send(Counter, "a", Add(amount)))
        await waiting.wait()
        late = client.send(Counter, "a", Add(0))  # its filters have not begun
        await client.close()
        with pytest.raises(error, match="the client was closed while its filters had Add to"):
            await call
        with pytest.raises(NotExecuted):
            await late
        await client.start()


async def test_closing_does_not_wait_for_ever_for_a_filter_that_ignores_it(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    begun = asyncio.Event()

    async def ignore(call: rio.Call, proceed: rio.Proceed) -> Any:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    monkeypatch.setattr("rio.client.filtered.CLOSE_TIMEOUT", 0.05)
    await cluster.server(Counter)
    client = await cluster.client(filters=[ignore])
    call = asyncio.ensure_future(client.send(Counter, "a", Add(1)))
    await begun.wait()
    await client.close()
    assert "filters of a call to Counter/a were cancelled and do not end" in caplog.text
    caplog.clear()
    release.set()
    assert await call is None  # what the filter has answered


async def test_tell_goes_through_the_filters_and_its_failure_is_logged(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(call: rio.Call, proceed: rio.Proceed) -> Any:
        if call.message.amount == 13:
            raise PermissionError("not thirteen")
        return await proceed()

    await cluster.server(Counter)
    client = await cluster.client(filters=[refuse])
    client.tell(Counter, "a", Add(2))
    client.tell(Counter, "a", Add(13))
    await until(lambda: "which nobody awaits: PermissionError: not thirteen" in caplog.text)
    assert await client.send(Counter, "a", Add(1)) == 3
    caplog.clear()


async def test_wrong_arguments_are_refused_at_once(cluster: Cluster) -> None:
    await cluster.server(Counter)
    client = await cluster.client(filters=[through])
    with pytest.raises(BadIdentity):
        client.send(Counter, "", Add(1))
    with pytest.raises(ConfigurationError, match="timeout= takes a number of seconds, got nan"):
        client.send(Counter, "a", Add(1), timeout=float("nan"))
    with pytest.raises(TypeError):
        await client.send(Counter, "a", "no message")  # type: ignore[call-overload]
    assert await client.send(Counter, "a", Add(1), timeout=float("inf")) == 1
    await client.close()
    with pytest.raises(RuntimeError, match="not open"):
        client.send(Counter, "a", Add(1))
    await client.start()


async def test_a_call_through_filters_within_a_handler_belongs_to_its_turn(
    cluster: Cluster,
) -> None:
    callers: list[Any] = []

    async def look(call: rio.Call, proceed: rio.Proceed) -> Any:
        callers.append(call.caller)
        return await proceed()

    app = rio.AppData()
    await cluster.server(Counter, app_data=app, filters=[look])
    client = await cluster.client(filters=[through])
    app.set(client)
    assert await client.send(Counter, "a", Ask()) == 1
    assert callers == [None, rio.ObjectId("Counter", "a")]
