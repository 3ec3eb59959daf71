"""Events that an application publishes from outside of the objects, by ``rio.MessageRouter``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import rio
from rio.errors import BadMessage, FrameTooLarge, UnknownMessage
from rio.objects.system_messages import Publish
from tests.server.harness import Cluster, Probe, until


class Dealt(rio.Message):
    card: str


class Sit(rio.Message[None]):
    pass


class Hold(rio.Message[None]):
    pass


class Announce(rio.Message[None]):
    table: str
    card: str


class Table(rio.ServiceObject):
    async def after_load(self, app: rio.AppData) -> None:
        app.get(Probe).note(f"activated {self.id}")

    @rio.handler
    def sit(self, message: Sit) -> None: ...

    @rio.handler
    async def hold(self, message: Hold, app: rio.AppData) -> None:
        app.get(Probe).note("held")
        await app.get(Probe).gate("hold").wait()


class Dealer(rio.ServiceObject):
    async def after_load(self, app: rio.AppData) -> None:
        app.get(rio.MessageRouter).publish(Table, self.id, Dealt("from a hook"))

    @rio.handler
    def announce(self, message: Announce, app: rio.AppData) -> None:
        app.get(rio.MessageRouter).publish(Table, message.table, Dealt(message.card))


def router_of(server: rio.Server) -> rio.MessageRouter:
    return server.app_data.get(rio.MessageRouter)


async def test_events_reach_the_subscribers_from_wherever_they_are_published(
    cluster: Cluster,
) -> None:
    home, other = await cluster.nodes(2, Table, Dealer)
    id = await cluster.activated_on(home, Table, Sit())
    client = await cluster.client()
    async with client.subscribe(Table, id, Dealt) as events:
        for server in (home, other):
            announce = Announce(id, "from a handler")
            dealer = await cluster.activated_on(server, Dealer, announce, "dealer")
            assert (await anext(events)).card == "from a handler"

            async def work(router: rio.MessageRouter) -> None:
                router.publish("Table", id, Dealt("from a task"))

            await asyncio.create_task(work(router_of(server)))
            assert (await anext(events)).card == "from a task"

            await asyncio.to_thread(router_of(server).publish, Table, id, Dealt("from a thread"))
            assert (await anext(events)).card == "from a thread"
            await server.client.admin(rio.AdminCommand.shutdown(Dealer, dealer))
    assert events.missed == 0


async def test_a_hook_publishes_for_another_object(cluster: Cluster) -> None:
    server = await cluster.server(Table, Dealer)
    async with server.client.subscribe(Table, "t", Dealt) as events:
        await server.client.send(Dealer, "t", Announce("t", "second"))
        assert [(await anext(events)).card for _ in range(2)] == ["from a hook", "second"]


async def test_events_of_one_thread_keep_their_order(cluster: Cluster) -> None:
    home, other = await cluster.nodes(2, Table)
    id = await cluster.activated_on(home, Table, Sit())
    async with other.client.subscribe(Table, id, Dealt) as events:
        cards = [f"card {number}" for number in range(50)]

        def deal() -> None:
            for card in cards:
                router_of(other).publish(Table, id, Dealt(card))

        await asyncio.to_thread(deal)
        assert [(await anext(events)).card for _ in cards] == cards


async def test_a_busy_object_holds_up_no_event(cluster: Cluster, probe: Probe) -> None:
    home, other = await cluster.nodes(2, Table)
    id = await cluster.activated_on(home, Table, Sit())
    async with other.client.subscribe(Table, id, Dealt) as events:
        held = asyncio.ensure_future(other.client.send(Table, id, Hold()))
        await probe.noted("held")
        router_of(other).publish(Table, id, Dealt("meanwhile"))
        assert (await anext(events)).card == "meanwhile"
        assert not held.done()
        probe.gate("hold").set()
        await held


async def test_an_object_that_is_not_in_memory_is_not_activated(
    cluster: Cluster, probe: Probe
) -> None:
    servers = await cluster.nodes(2, Table)
    for server in servers:
        before = server.statistics().calls
        router_of(server).publish(Table, "none", Dealt("lost"))
        await until(lambda server=server, before=before: server.statistics().calls > before)
        # The next message of this connection comes after it.
        with pytest.raises(UnknownMessage):
            await server.client.send(Table, "none", rio.DynamicMessage("Unheard"))
    assert not probe.log
    assert cluster.home(Table, "none") is None
    placement = cluster.storage.placement
    assert await placement.lookup(rio.ObjectId("Table", "none")) is None


async def test_an_event_follows_an_object_that_has_moved(cluster: Cluster) -> None:
    first, second, third = await cluster.nodes(3, Table)
    id = await cluster.activated_on(first, Table, Sit())
    router_of(third).publish(Table, id, Dealt("before"))
    async with second.client.subscribe(Table, id, Dealt) as events:
        router_of(third).publish(Table, id, Dealt("first"))
        assert (await anext(events)).card in ("before", "first")
        await second.client.admin(rio.AdminCommand.shutdown(Table, id))
        await until(lambda: events.moves == 1)
        router_of(third).publish(Table, id, Dealt("after"))
        card = ""
        while card != "after":
            try:
                card = (await anext(events)).card
            except rio.errors.Gap:
                continue


async def test_servers_that_share_their_data_have_a_router_each(cluster: Cluster) -> None:
    shared = cluster.app_data()
    first, second = await cluster.nodes(2, Table, app_data=shared)
    assert router_of(first) is not router_of(second)
    assert first.app_data.get(rio.Client) is first.client
    assert rio.MessageRouter not in shared
    shared.set("later")
    assert second.app_data.get(str) == "later"
    await second.stop()
    async with first.client.subscribe(Table, "t", Dealt) as events:
        router_of(first).publish(Table, "t", Dealt("still"))
        assert (await anext(events)).card == "still"
    with pytest.raises(RuntimeError, match="does not run"):
        router_of(second).publish(Table, "t", Dealt("late"))


async def test_an_application_can_put_its_own_router_there(cluster: Cluster) -> None:
    class Recorder:
        pass

    data = cluster.app_data()
    recorder: Any = Recorder()
    data.set(recorder, as_type=rio.MessageRouter)
    server = await cluster.server(Table, app_data=data)
    assert router_of(server) is recorder


async def test_what_cannot_be_published_is_refused_at_once(cluster: Cluster) -> None:
    server = await cluster.server(Table, config=rio.ServerConfig(frame_limit=4096))
    router = router_of(server)
    wrong: Any = Dealt(3)  # type: ignore[arg-type]
    with pytest.raises(BadMessage, match=r"Dealt\.card: Expected `str`"):
        router.publish(Table, "t", wrong)
    with pytest.raises(BadMessage, match=r"Dealt\.card"):
        await asyncio.to_thread(router.publish, Table, "t", wrong)
    with pytest.raises(TypeError, match=r"an event is a rio\.Message"):
        router.publish(Table, "t", "text")  # type: ignore[arg-type]
    with pytest.raises(rio.errors.BadIdentity):
        router.publish(Table, "", Dealt("A"))
    with pytest.raises(FrameTooLarge):
        router.publish(Table, "t", Dealt("A" * 5000))


async def test_an_event_that_reaches_no_node_is_told_in_the_log(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    server = await cluster.server(Table)
    with caplog.at_level(logging.WARNING, "rio"):
        router_of(server).publish("Chess", "t", Dealt("A"))
        await until(
            lambda: "rio.publish to Chess/t, which nobody awaits, has failed" in caplog.text
        )


async def test_a_client_cannot_publish(cluster: Cluster) -> None:
    await cluster.server(Table)
    client = await cluster.client()
    async with client.subscribe(Table, "t", Dealt) as events:
        forged: Any = Publish("Dealt", b"\x81\xa4card\xa1A")
        with pytest.raises(UnknownMessage, match="only the members of a cluster"):
            await client.send(Table, "t", forged)
        assert not events._queue.is_readable
