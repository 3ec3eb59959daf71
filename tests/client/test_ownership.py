"""A client belongs to the event loop in which it was started, and to its process."""

from __future__ import annotations

import asyncio
import enum
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import rio
from rio.errors import (
    BadIdentity,
    CallTimeout,
    ConfigurationError,
    Expired,
    FrameTooLarge,
    RioError,
)
from tests.server.harness import Cluster, Probe, until


class Add(rio.Message[int]):
    data: bytes = b""


class Adder(rio.ServiceObject):
    @rio.handler
    def add(self, message: Add, app: rio.AppData) -> int:
        app.get(Probe).note("add")
        return app.get(Probe).count("add")


async def elsewhere(use: Callable[[], Awaitable[Any]]) -> None:
    """Use a client in an event loop of another thread."""

    async def run() -> None:
        await use()

    await asyncio.to_thread(asyncio.run, run())


# --- threads and loops ----------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_a_client_that_is_used_in_another_thread_refuses_and_nothing_runs(
    cluster: Cluster, probe: Probe, known: bool
) -> None:
    server = await cluster.server(Adder)
    for client in (await cluster.client(), server.client):
        if known:
            await client.send(Adder, "a", Add())
        ran = probe.count("add")
        for use in (
            lambda client=client: client.send(Adder, "a", Add()),
            lambda client=client: client.ref(Adder, "a").add(Add()),
            lambda client=client: anext(client.subscribe(Adder, "a")),
            lambda client=client: client.ping(server.address),
            lambda client=client: client.admin(rio.AdminCommand.shutdown(Adder, "a")),
            lambda client=client: client.admin(rio.AdminCommand.server_exit(server.address)),
            lambda client=client: client.close(),
        ):
            with pytest.raises(
                RuntimeError, match="outside the event loop in which it was started"
            ):
                await elsewhere(use)
        with pytest.raises(RuntimeError, match="outside the event loop in which it was started"):
            await asyncio.to_thread(client.send, Adder, "a", Add())
        assert probe.count("add") == ran
        assert await client.send(Adder, "a", Add()) == ran + 1
    assert server.statistics().in_flight == 0


async def make_tables(url: str) -> None:
    async with rio.open_storage(url):
        pass


def test_a_client_outlives_its_event_loop_with_a_clear_error(tmp_path: Path) -> None:
    asyncio.run(make_tables(f"sqlite:///{tmp_path}/loops.db"))
    client = rio.Client(f"sqlite:///{tmp_path}/loops.db")

    async def call() -> None:
        await client.send(Adder, "a", Add())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.start())
    with pytest.raises(RuntimeError, match="outside the event loop in which it was started"):
        asyncio.run(call())
    loop.run_until_complete(client.close())
    loop.close()


# --- forks ----------------------------------------------------------------------------------------

FORKS = """
import asyncio, os, select, sys, threading
import rio

gate = asyncio.Event()
begun = 0

class Add(rio.Message[int]):
    n: int

class Adder(rio.ServiceObject):
    @rio.handler
    async def add(self, message: Add) -> int:
        global begun
        begun += 1
        if message.n:
            await gate.wait()
        return message.n

up = threading.Event()

async def serve():
    global server_loop
    server_loop = asyncio.get_running_loop()
    async with rio.Server(rio.Registry(Adder), storage=sys.argv[1], cluster="local"):
        up.set()
        await asyncio.Event().wait()

threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
up.wait()
loop = asyncio.new_event_loop()
client = rio.Client(sys.argv[1])
loop.run_until_complete(client.start())
async def ask():
    await client.send(Adder, "a0", Add(0))
    calls = [client.send(Adder, f"a{n}", Add(n)) for n in range(200)]
    while begun < 201:
        await asyncio.sleep(0.001)
    return calls + [client.send(Adder, f"b{n}", Add(n)) for n in range(200)]
calls = loop.run_until_complete(ask())
children = []
parent_has_all, tell_children = os.pipe()
for which in ("inherited", "own"):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.close(tell_children)
    async def use():
        # not by a reader of the loop, whose selector is the parent's too
        while not select.select([parent_has_all], [], [], 0)[0]:
            await asyncio.sleep(0.001)
        try:
            await client.send(Adder, "a", Add(1))
        except RuntimeError as error:
            assert "before its process was forked" in str(error), error
        else:
            os._exit(3)
        await client.close()
    if which == "inherited":
        loop.run_until_complete(use())
    else:
        asyncio.run(use())
    os._exit(0)
server_loop.call_soon_threadsafe(gate.set)
async def receive():
    return await asyncio.wait_for(asyncio.gather(*calls), 30)
got = loop.run_until_complete(receive())
os.close(tell_children)
assert got == [*range(200), *range(200)], got
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
loop.run_until_complete(client.close())
print("all answered")
os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_the_child_of_a_fork_cannot_use_the_client_and_takes_no_answer_of_the_parent(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, f"sqlite:///{tmp_path}/f.db"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "all answered\n", ran.stderr


# --- opening and closing --------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory", "sqlite"])
async def test_a_client_that_was_closed_can_be_started_again(
    cluster: Cluster, probe: Probe, url: str, tmp_path: Path
) -> None:
    storage = cluster.storage if url == "memory" else f"sqlite:///{tmp_path}/again.db"
    server = await cluster.server(Adder, storage=storage)
    client = rio.Client(storage, refresh_interval=0.02)
    for round in range(3):
        async with client:
            assert await client.send(Adder, "a", Add()) == round + 1
            server._catalog.draining = True
            with pytest.raises(Expired):  # calls have a deadline again
                await client.send(Adder, f"new{round}", Add(), timeout=0.1)
            server._catalog.draining = False
            members = client._router.members
            read = members.snapshot
            await until(lambda members=members, read=read: members.snapshot is not read)


async def test_a_client_that_is_open_is_not_started_again(cluster: Cluster) -> None:
    client = await cluster.client()
    with pytest.raises(RuntimeError, match="open already"):
        await client.start()
    with pytest.raises(RuntimeError, match="open already"):
        async with client:
            pass
    await cluster.server(Adder)
    assert await client.send(Adder, "a", Add()) == 1


async def test_a_client_can_be_closed_by_several_at_once_while_it_connects(
    cluster: Cluster,
) -> None:
    servers = await cluster.nodes(3, Adder)
    for turns in range(12):
        client = await cluster.client()
        calls = [client.send(Adder, f"{turns}-{n}", Add()) for n in range(20)]
        pings = [asyncio.ensure_future(client.ping(server.address)) for server in servers]
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.gather(*(client.close() for _ in range(3)))
        outcomes = await asyncio.gather(*calls, *pings, return_exceptions=True)
        assert all(
            isinstance(outcome, int | float | RioError | RuntimeError) for outcome in outcomes
        ), outcomes
        assert len(client._router.pool) == 0


@pytest.mark.parametrize("turns", range(8))
async def test_closing_a_client_that_starts_leaves_nothing_open(turns: int, tmp_path: Path) -> None:
    await make_tables(f"sqlite:///{tmp_path}/start.db")
    client = rio.Client(f"sqlite:///{tmp_path}/start.db")
    starting = asyncio.ensure_future(client.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    await client.close()
    await asyncio.gather(starting, return_exceptions=True)
    await client.close()
    assert not client._router.is_open
    storage: Any = client._router._access
    assert not storage._membership._is_open
    assert not storage._membership._shared._is_open
    with pytest.raises(RuntimeError, match="not open"):
        client.send(Adder, "a", Add())


# --- errors of send() -----------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_each_error_of_a_call_comes_through_its_future(
    cluster: Cluster, probe: Probe, known: bool
) -> None:
    await cluster.server(Adder)
    client = await cluster.client(frame_limit=10_000)
    if known:
        await client.send(Adder, "a", Add())
    calls = [client.send(Adder, "a", Add()) for _ in range(3)]
    calls.append(client.send(Adder, "a", Add(b"x" * 20_000)))
    calls.append(client.send(Adder, "", Add()))
    calls.append(client.send(Adder, 42, Add()))  # type: ignore[call-overload]
    calls.append(client.send("", "a", Add()))
    calls.append(client.send(42, "a", Add()))  # type: ignore[call-overload]
    calls.append(client.send(Adder, "a", "no message"))  # type: ignore[call-overload]
    calls.append(client.send(Adder, "a", Add(object())))  # type: ignore[arg-type]
    calls.append(client.send(Adder, "a", Add(), timeout=float("nan")))
    calls.append(client.send(Adder, "a", Add()))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    ran = int(known)
    assert outcomes[:3] == [ran + 1, ran + 2, ran + 3]
    assert [type(outcome).__name__ for outcome in outcomes[3:-1]] == [
        *[FrameTooLarge.__name__, *["BadIdentity"] * 4, "TypeError", "BadMessage"],
        ConfigurationError.__name__,
    ]
    assert outcomes[-1] == ran + 4
    assert not client._router.waiting
    assert len(client._router._lines) == 0


class Name(enum.StrEnum):
    ADA = "ada"


async def test_whatever_takes_an_identity_takes_and_refuses_the_same(cluster: Cluster) -> None:
    await cluster.server(Adder)
    client = await cluster.client()
    assert await client.send(Adder, Name.ADA, Add()) == 1
    assert await client.ref(Adder, Name.ADA).add(Add()) == 2
    assert await client.send(Adder, "ada", Add()) == 3
    for wrong in (42, None, b"ada"):
        with pytest.raises(BadIdentity, match="object id must be a str, got"):
            await client.send(Adder, wrong, Add())  # type: ignore[call-overload]
        with pytest.raises(BadIdentity, match="object id must be a str, got"):
            client.tell(Adder, wrong, Add())  # type: ignore[arg-type]
        with pytest.raises(BadIdentity, match="object id must be a str, got"):
            client.ref(Adder, wrong)  # type: ignore[arg-type]
        with pytest.raises(BadIdentity, match="object id must be a str, got"):
            client.subscribe(Adder, wrong)  # type: ignore[call-overload]
        with pytest.raises(BadIdentity, match="type name must be a str, got"):
            await client.send(wrong, "a", Add())  # type: ignore[call-overload]
        with pytest.raises(BadIdentity, match="type name must be a str, got"):
            client.subscribe(wrong, "a")  # type: ignore[call-overload]


@pytest.mark.parametrize("timeout", [0, 0.0, -1, float("-inf")])
async def test_a_call_without_time_is_not_sent(
    cluster: Cluster, probe: Probe, timeout: float
) -> None:
    server = await cluster.server(Adder)
    client = await cluster.client()
    for _ in range(2):
        with pytest.raises(Expired, match="was over before it was sent"):
            await client.send(Adder, "a", Add(), timeout=timeout)
        await client.send(Adder, "a", Add())
    assert probe.count("add") == 2
    assert server.statistics().in_flight == 0


@pytest.mark.parametrize("setting", ["timeout", "refresh_interval"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_client_without_time_is_refused(setting: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=setting):
        rio.Client("memory://", **{setting: value})  # type: ignore[arg-type]


async def test_a_ping_to_a_server_that_is_frozen_ends_in_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Adder)
    client = await cluster.client(timeout=0.2)
    await client.send(Adder, "a", Add())
    for connection in server._catalog.dispatcher.connections:
        if connection.transport is not None:
            connection.transport.pause_reading()
    with pytest.raises(CallTimeout, match=r"did not answer within 0\.2 seconds"):
        await client.ping(server.address)
    with pytest.raises(CallTimeout, match=r"did not answer within 0\.2 seconds"):
        await client.admin(rio.AdminCommand.server_exit(server.address))
    for connection in server._catalog.dispatcher.connections:
        if connection.transport is not None:
            connection.transport.resume_reading()
