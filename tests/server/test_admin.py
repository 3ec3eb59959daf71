"""Commands to objects: from inside of others, to what is not in memory, and to what hangs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import rio
from rio.errors import CallTimeout, NotExecuted, OutcomeUnknown, StorageUnavailable
from tests.server.harness import Cluster, Probe, until


class Note(rio.Message[None]):
    pass


class Hang(rio.Message[None]):
    pass


class Block(rio.Message[None]):
    pass


LET_GO = threading.Event()
"""Ends the thread of a handler that blocks."""


class Dismiss(rio.Message[None]):
    id: str
    force: bool = False


class Kept(rio.State):
    notes: int = 0


class Worker(rio.ServiceObject):
    kept: Kept = rio.managed_state()

    async def after_load(self, app: rio.AppData) -> None:
        app.get(Probe).note(f"activated {self.id}")

    async def before_shutdown(self, app: rio.AppData) -> None:
        self.kept.notes += 1
        await self.save_state()
        app.get(Probe).note(f"left {self.id}: {self.leaving}")

    @rio.handler
    def note(self, message: Note) -> None: ...

    @rio.handler
    async def hang(self, message: Hang, app: rio.AppData) -> None:
        app.get(Probe).note(f"hangs {self.id}")
        try:
            await app.get(Probe).gate("never").wait()
        finally:
            app.get(Probe).note(f"hangs no more {self.id}")

    @rio.handler(thread=True)
    def block(self, message: Block, app: rio.AppData) -> None:
        app.get(Probe).note(f"blocks {self.id}")
        LET_GO.wait()

    @rio.handler
    async def dismiss(self, message: Dismiss, app: rio.AppData) -> None:
        command = rio.AdminCommand.shutdown(Worker, message.id, force=message.force)
        await app.get(rio.Client).admin(command)


async def test_a_shutdown_of_what_is_not_in_memory_activates_and_writes_nothing(
    cluster: Cluster, probe: Probe
) -> None:
    servers = await cluster.nodes(2, Worker)
    client = await cluster.client()
    for asker in (client, *(server.client for server in servers)):
        for force in (False, True):
            await asker.admin(rio.AdminCommand.shutdown(Worker, "none", force=force))
    assert probe.log == []
    assert await cluster.storage.placement.lookup(rio.ObjectId("Worker", "none")) is None
    assert [await cluster.storage.placement.owned_by(each.generation) for each in servers] == [
        [],
        [],
    ]


async def test_an_object_shuts_down_another_on_any_node(cluster: Cluster, probe: Probe) -> None:
    first, second = await cluster.nodes(2, Worker)
    here = await cluster.activated_on(first, Worker, Note(), "here")
    there = await cluster.activated_on(second, Worker, Note(), "there")
    asker = await cluster.activated_on(first, Worker, Note(), "asker")
    for id in (here, there):
        await first.client.send(Worker, asker, Dismiss(id))
        await probe.noted(f"left {id}: asked")
    await until(lambda: cluster.home(Worker, there) is None)


async def test_an_object_that_dismisses_itself_leaves_after_its_turn(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Worker)
    await server.client.send(Worker, "a", Dismiss("a"))
    await probe.noted("left a: asked")


async def test_a_shutdown_lets_the_running_turn_end(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Worker)
    client = await cluster.client()
    hanging = asyncio.ensure_future(client.send(Worker, "a", Hang()))
    await probe.noted("hangs a")
    await client.admin(rio.AdminCommand.shutdown(Worker, "a"))
    assert "hangs no more a" not in probe.log
    probe.gate("never").set()
    await hanging
    await probe.noted("left a: asked")
    await until(lambda: cluster.home(Worker, "a") is not server)


@pytest.mark.parametrize("asker", ["client", "another node"])
async def test_a_forced_shutdown_cancels_the_turn_that_hangs_and_runs_the_hooks(
    cluster: Cluster, probe: Probe, asker: str
) -> None:
    home, other = await cluster.nodes(2, Worker)
    client = await cluster.client() if asker == "client" else other.client
    id = await cluster.activated_on(home, Worker, Note())
    hanging = asyncio.ensure_future(home.client.send(Worker, id, Hang()))
    await probe.noted(f"hangs {id}")
    waiting = asyncio.ensure_future(home.client.send(Worker, id, Note()))
    await client.admin(rio.AdminCommand.shutdown(Worker, id))  # waits for the turn
    await client.admin(rio.AdminCommand.shutdown(Worker, id, force=True))
    with pytest.raises(OutcomeUnknown, match="shut down by force while it handled Hang"):
        await hanging
    await waiting  # and brought it back
    assert probe.log[1:] == [
        f"hangs {id}",
        f"hangs no more {id}",
        f"left {id}: asked",
        f"activated {id}",
    ]


async def test_a_forced_shutdown_drops_an_object_whose_thread_hangs(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Worker)
    blocking = asyncio.ensure_future(server.client.send(Worker, "a", Block()))
    await probe.noted("blocks a")
    await server.client.admin(rio.AdminCommand.shutdown(Worker, "a", force=True))
    with pytest.raises(OutcomeUnknown, match="shut down by force"):
        await blocking
    await server.client.send(Worker, "a", Note())
    assert probe.log == ["activated a", "blocks a", "activated a"]
    LET_GO.set()


async def test_a_forced_shutdown_of_an_idle_object_is_a_shutdown(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Worker)
    await server.client.send(Worker, "a", Note())
    await server.client.admin(rio.AdminCommand.shutdown(Worker, "a", force=True))
    await probe.noted("left a: asked")
    await server.client.send(Worker, "a", Note())
    assert probe.count("activated a") == 2


async def test_an_owner_that_cannot_be_looked_up_is_looked_up_again(
    cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = await cluster.nodes(2, Worker)
    id = await cluster.activated_on(home, Worker, Note())
    lookup = cluster.storage.placement.lookup
    problems: list[BaseException] = [
        StorageUnavailable("it does not answer"),
        ValueError("a fault of the driver"),
        asyncio.CancelledError(),
    ]

    async def fail_at_first(object_id: rio.ObjectId) -> Any:
        if problems:
            raise problems.pop()
        return await lookup(object_id)

    monkeypatch.setattr(cluster.storage.placement, "lookup", fail_at_first)
    await other.client.admin(rio.AdminCommand.shutdown(Worker, id))
    await probe.noted(f"left {id}: asked")
    assert not problems


@pytest.mark.virtual_time
async def test_a_lookup_that_never_returns_ends_with_the_call(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Worker, config=rio.ServerConfig(timeout=0.3))
    started, ended = asyncio.Event(), asyncio.Event()

    async def never(_: rio.ObjectId) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(cluster.storage.placement, "lookup", never)
    with pytest.raises((CallTimeout, NotExecuted)):
        await server.client.admin(rio.AdminCommand.shutdown(Worker, "a"))
    assert started.is_set()
    await ended.wait()
