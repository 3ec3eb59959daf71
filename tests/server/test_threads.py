"""Handlers that block: each runs in a thread of its own, within its turn."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import rio
from rio.errors import BadRegistration, CallTimeout, Deactivated, HandlerFailed
from tests.server.harness import Cluster, Probe, instance, until


class Block(rio.Message[int]):
    """Block until the test lets go."""


class Compute(rio.Message[str]): ...


class Ask(rio.Message[int]):
    to: str


class Save(rio.Message[int]):
    count: int


class Announce(rio.Message[None]):
    text: str


class Fail(rio.Message[None]):
    how: str


class Count(rio.Message[int]): ...


class Odd(rio.ApplicationError): ...


class Kept(rio.State):
    count: int = 0


class Gate:
    """What threads wait for, and what they have met."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = 0
        self.met: list[BaseException] = []


class Worker(rio.ServiceObject):
    kept: Kept = rio.managed_state()

    @rio.handler(thread=True)
    def block(self, message: Block, app: rio.AppData) -> int:
        gate = app.get(Gate)
        gate.begun += 1
        gate.open.wait()
        self.kept.count = 99
        for function in (self.save_state, lambda: self.send(Worker, "b", Count())):
            try:
                rio.from_thread(function)
            except Exception as error:
                gate.met.append(error)
        return gate.begun

    @rio.handler(thread=True)
    def compute(self, message: Compute) -> str:
        return threading.current_thread().name

    @rio.handler(thread=True)
    def ask(self, message: Ask) -> int:
        return rio.from_thread(self.send, Worker, message.to, Count())

    @rio.handler(thread=True)
    def save(self, message: Save) -> int:
        self.kept.count = message.count
        rio.from_thread(self.save_state)
        return self.kept.count

    @rio.handler(thread=True)
    def announce(self, message: Announce) -> None:
        rio.from_thread(self.publish, message)

    @rio.handler(thread=True)
    def fail(self, message: Fail) -> None:
        match message.how:
            case "application":
                raise Odd
            case "exit":
                sys.exit(3)
            case "stop":
                raise StopIteration
            case "cancelled":
                raise asyncio.CancelledError
        raise ValueError("odd")

    @rio.handler
    def count(self, message: Count) -> int:
        return self.kept.count


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
async def server(cluster: Cluster, gate: Gate) -> rio.Server:
    app = cluster.app_data()
    app.set(gate)
    return await cluster.server(Worker, app_data=app)


async def test_a_blocking_handler_keeps_its_turn_and_not_the_event_loop(
    server: rio.Server, gate: Gate
) -> None:
    client = server.client
    blocked = asyncio.ensure_future(client.send(Worker, "a", Block()))
    await until(lambda: gate.begun == 1)
    behind = asyncio.ensure_future(client.send(Worker, "a", Count()))
    assert await client.send(Worker, "b", Count()) == 0  # others go on
    assert not behind.done()
    gate.open.set()
    assert await blocked == 1
    assert await behind == 99
    assert gate.met == []


async def test_the_thread_is_a_daemon_named_after_its_turn(server: rio.Server) -> None:
    assert await server.client.send(Worker, "a", Compute()) == "Worker/a.Compute"


async def test_from_a_thread_the_object_sends_saves_and_publishes(server: rio.Server) -> None:
    client = server.client
    async with client.subscribe(Worker, "a", Announce) as events:
        assert await client.ref(Worker, "b").save(Save(5)) == 5
        assert await client.ref(Worker, "a").ask(Ask("b")) == 5
        await client.send(Worker, "a", Announce("x"))
        assert await anext(events) == Announce("x")
    await client.admin(rio.AdminCommand.shutdown(Worker, "b"))
    await until(lambda: "b" not in server._catalog.dispatcher.tables["Worker"].mailboxes)
    assert await client.send(Worker, "b", Count()) == 5  # it was stored


async def test_calls_from_a_thread_belong_to_the_turn(server: rio.Server) -> None:
    with pytest.raises(rio.errors.Deadlock):
        await server.client.send(Worker, "a", Ask("a"))


async def test_a_thread_that_outlasts_its_turn_keeps_the_instance_and_can_do_nothing(
    server: rio.Server, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    client = server.client
    await client.send(Worker, "a", Save(1))
    before = instance(server, Worker, "a")
    with pytest.raises(CallTimeout):
        await client.send(Worker, "a", Block(), timeout=0.3)
    assert await client.send(Worker, "a", Count()) == 1  # while the thread still runs
    after = instance(server, Worker, "a")
    assert after is not before
    assert "the thread of Block still runs at the end of its turn" in caplog.text
    gate.open.set()
    await until(lambda: len(gate.met) == 2)
    assert all(type(error) is Deactivated for error in gate.met)
    assert after.kept.count == 1
    caplog.clear()


async def test_a_caller_that_leaves_abandons_the_thread_too(
    server: rio.Server, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    call = asyncio.ensure_future(server.client.send(Worker, "a", Block()))
    await until(lambda: gate.begun == 1)
    call.cancel()
    assert await server.client.send(Worker, "a", Count()) == 0
    assert server.statistics().in_flight == 0
    caplog.clear()


async def test_a_call_from_a_thread_ends_with_the_turn(
    cluster: Cluster, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    met: list[BaseException] = []

    class Forever(rio.Message[None]): ...

    class Waiter(rio.ServiceObject):
        @rio.handler(thread=True)
        def wait(self, message: Forever) -> None:
            try:
                rio.from_thread(probe.gate("never").wait)
            except BaseException as error:
                met.append(error)

        @rio.handler
        def count(self, message: Count) -> int:
            return 0

    server = await cluster.server(Waiter)
    await server.client.send(Waiter, "a", Count())  # a call that waits for its object has not begun
    with pytest.raises(CallTimeout):
        await server.client.send(Waiter, "a", Forever(), timeout=0.2)
    await until(lambda: len(met) == 1)
    assert type(met[0]) is concurrent.futures.CancelledError
    caplog.clear()


async def test_a_node_that_stops_does_not_wait_for_threads(
    cluster: Cluster, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    app = cluster.app_data()
    app.set(gate)
    config = rio.ServerConfig(drain_timeout=0.1)
    server = await cluster.server(Worker, app_data=app, config=config)
    call = asyncio.ensure_future(server.client.send(Worker, "a", Block()))
    await until(lambda: gate.begun == 1)
    await server.stop()
    with pytest.raises(rio.RioError):
        await call
    gate.open.set()
    await until(lambda: len(gate.met) == 2)
    assert all(type(error) is Deactivated for error in gate.met)
    caplog.clear()


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("application", Odd, None),
        ("value", HandlerFailed, "ValueError: odd"),
        ("exit", HandlerFailed, r"sys.exit\(3\)"),
        ("stop", HandlerFailed, "raised StopIteration"),
        ("cancelled", HandlerFailed, "CancelledError"),
    ],
)
async def test_whatever_a_thread_raises_ends_its_call(
    server: rio.Server,
    caplog: pytest.LogCaptureFixture,
    how: str,
    error: type[Exception],
    text: str | None,
) -> None:
    with pytest.raises(error, match=text):
        await server.client.send(Worker, "a", Fail(how))
    assert await server.client.send(Worker, "a", Count()) == 0
    caplog.clear()


async def test_no_more_threads_run_than_the_limit_and_those_that_end_make_room(
    cluster: Cluster, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    app = cluster.app_data()
    app.set(gate)
    config = rio.ServerConfig(thread_limit=2)
    client = (await cluster.server(Worker, app_data=app, config=config)).client
    await client.send(Worker, "c", Count())
    calls = [asyncio.ensure_future(client.send(Worker, f"{n}", Block())) for n in range(3)]
    await until(lambda: gate.begun == 2)
    with pytest.raises(CallTimeout):  # it waits for room
        await client.send(Worker, "c", Compute(), timeout=0.2)
    before = gate.begun
    calls[0].cancel()  # its thread goes on, and counts
    await asyncio.wait(calls[:1])
    with pytest.raises(CallTimeout):
        await client.send(Worker, "c", Compute(), timeout=0.2)
    assert gate.begun == before
    gate.open.set()
    await asyncio.wait(calls)
    assert await client.send(Worker, "c", Compute()) == "Worker/c.Compute"
    caplog.clear()


async def test_filters_are_around_a_thread(cluster: Cluster, gate: Gate) -> None:
    async def shout(call: rio.Call, proceed: rio.Proceed) -> Any:
        return (await proceed()).upper()

    app = cluster.app_data()
    app.set(gate)
    server = await cluster.server(Worker, app_data=app, filters=[shout])
    assert await server.client.send(Worker, "a", Compute()) == "WORKER/A.COMPUTE"


def test_an_async_handler_takes_no_thread() -> None:
    with pytest.raises(BadRegistration, match="thread=True is for a plain def"):

        class Wrong(rio.ServiceObject):
            @rio.handler(thread=True)
            async def compute(self, message: Compute) -> str:
                return ""


def test_from_thread_elsewhere_says_where_it_belongs() -> None:
    with pytest.raises(RuntimeError, match=r"marked @rio.handler\(thread=True\)"):
        rio.from_thread(print)


PROGRAM = """
import asyncio, threading, time, rio

class Block(rio.Message[None]): ...

begun = threading.Event()

class Worker(rio.ServiceObject):
    @rio.handler(thread=True)
    def block(self, message: Block) -> None:
        begun.set()
        time.sleep(3600)

async def main():
    async with rio.Server(
        rio.Registry(Worker), storage="memory://", config=rio.ServerConfig(drain_timeout=0.1)
    ) as server:
        call = asyncio.ensure_future(server.client.send(Worker, "a", Block()))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        call.cancel()
        print("given up")

rio.run(main())
print("ended")
"""


def test_a_process_ends_while_a_thread_blocks() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.split("\n")[:2] == ["given up", "ended"]
