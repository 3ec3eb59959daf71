"""A subscription that could not be made is made by the next read."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

import rio
from rio.client import subscriptions
from rio.errors import Gap, NoServersAvailable, RioError
from tests.server.harness import Cluster, crash, sever, until

pytestmark = pytest.mark.virtual_time


class Say(rio.Message[None]):
    text: str


class Said(rio.Message):
    text: str


class Room(rio.ServiceObject):
    @rio.handler
    def say(self, message: Say) -> None:
        self.publish(Said(message.text))


async def test_a_first_read_that_found_no_server_does_not_spoil_the_next(cluster: Cluster) -> None:
    client = await cluster.client(timeout=2.0)
    events = client.subscribe(Room, "lobby", Said)
    with pytest.raises(NoServersAvailable):
        await anext(events)
    server = await cluster.server(Room)
    await _say_when_subscribed(server, events)


async def test_a_first_read_waits_for_the_first_server(cluster: Cluster) -> None:
    client = await cluster.client()
    events = client.subscribe(Room, "lobby", Said)
    reading = asyncio.ensure_future(anext(events))
    await until(lambda: client._router.members._misses > 1)
    server = await cluster.server(Room)
    await until(lambda: server.statistics().subscriptions == 1)
    await server.client.send(Room, "lobby", Say("hello"))
    assert await reading == Said("hello")


@pytest.mark.parametrize("how_it_ends", ["stop", "crash"])
async def test_a_subscription_waits_while_the_only_server_is_started_again(
    cluster: Cluster, how_it_ends: str
) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        await (server.stop() if how_it_ends == "stop" else crash(server))
        reading = asyncio.ensure_future(anext(events))
        await until(lambda: len(client._router.waiting) == 1)
        server = await cluster.server(Room)
        with pytest.raises(Gap):
            await reading
        assert server.statistics().subscriptions == events.moves == 1
        await server.client.send(Room, "lobby", Say("hello"))
        assert await anext(events) == Said("hello")


async def test_a_first_read_that_was_cancelled_does_not_spoil_the_next(cluster: Cluster) -> None:
    client = await cluster.client()
    server = await cluster.server(Room)
    events = client.subscribe(Room, "lobby", Said)
    reading = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait((reading,))
    await _say_when_subscribed(server, events)


async def _say_when_subscribed(server: rio.Server, events: rio.Subscription[Said]) -> None:
    reading = asyncio.ensure_future(anext(events))
    await until(lambda: server.statistics().subscriptions == 1)
    await server.client.send(Room, "lobby", Say("hello"))
    assert await reading == Said("hello")
    await events.close()


async def test_a_reader_who_tries_again_after_an_error_reads_on(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    client = await cluster.client(timeout=0.3)
    events = client.subscribe(Room, "lobby", Said)
    async with events:
        server._catalog.dispatcher.in_flight_limit = 0
        sever(server)
        with pytest.raises(RioError):
            await anext(events)
        server._catalog.dispatcher.in_flight_limit = 1000
        await _say_when_subscribed(server, events)


@pytest.mark.parametrize("turns", range(5))
async def test_subscriptions_that_were_given_up_are_not_left_on_the_server(
    cluster: Cluster, turns: int
) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    reading = [
        asyncio.ensure_future(anext(client.subscribe(Room, f"room{n}", Said))) for n in range(100)
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    for reader in reading:
        reader.cancel()
    await asyncio.wait(reading)
    await client.ping(server.address)  # behind all that was sent
    await until(lambda: server.statistics().in_flight == 0)
    assert server.statistics().subscriptions == 0


# --- very many subscriptions ----------------------------------------------------------------------


async def _subscribe_in_groups(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, count: int
) -> tuple[rio.Server, rio.Client, list[rio.Subscription[Said]]]:
    """So many subscriptions of one client, of which three make a group."""
    monkeypatch.setattr(subscriptions, "GROUP", 3)
    server = await cluster.server(Room)
    client = await cluster.client()
    events = [client.subscribe(Room, "lobby", Said) for _ in range(count)]
    for each in events:
        await each.__aenter__()
    return server, client, events


async def _lose_the_connection(server: rio.Server, client: rio.Client) -> Any:
    sever(server)
    rooms = client._router.subscriptions
    while not rooms._lost:  # noqa: ASYNC110  # each turn of the loop counts
        await asyncio.sleep(0)
    return rooms


async def test_a_group_of_subscriptions_looks_for_its_objects_in_each_turn_of_the_loop(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client, events = await _subscribe_in_groups(cluster, monkeypatch, 11)
    rooms = await _lose_the_connection(server, client)
    left = [len(events)]
    while rooms._lost:
        left.append(len(rooms._lost))
        await asyncio.sleep(0)
    left.append(0)
    assert all(before - after <= 3 for before, after in pairwise(left))
    await until(lambda: server.statistics().subscriptions == len(events))
    assert [each.moves for each in events] == [1] * len(events)
    await server.client.send(Room, "lobby", Say("hello"))
    assert [await anext(each) for each in events] == [Said("hello")] * len(events)


async def test_a_subscription_that_waits_to_look_for_its_object_can_be_entered_or_closed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client, events = await _subscribe_in_groups(cluster, monkeypatch, 11)
    rooms = await _lose_the_connection(server, client)
    entered, closed = events[-1], events[-2]
    assert len(rooms._lost) > 2
    entering = asyncio.ensure_future(entered.__aenter__())
    await closed.close()
    await entering
    await until(lambda: server.statistics().subscriptions == len(events) - 1)
    assert not rooms._lost
    assert entered.moves == 1
    assert closed.moves == 0
    await server.client.send(Room, "lobby", Say("hello"))
    assert await anext(entered) == Said("hello")
    with pytest.raises(StopAsyncIteration):
        await anext(closed)


async def test_a_client_closes_a_group_of_subscriptions_in_each_turn_of_the_loop(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client, events = await _subscribe_in_groups(cluster, monkeypatch, 11)
    rooms = client._router.subscriptions
    closing = asyncio.ensure_future(client.close())
    left = [len(rooms)]
    while not closing.done():
        await asyncio.sleep(0)
        left.append(len(rooms))
    assert all(before - after <= 3 for before, after in pairwise(left))
    await _expect_the_end(rooms, events)


async def test_a_client_can_be_closed_while_subscriptions_wait_to_look_for_their_objects(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client, events = await _subscribe_in_groups(cluster, monkeypatch, 11)
    rooms = await _lose_the_connection(server, client)
    await client.close()
    await _expect_the_end(rooms, [each for each in events if not each._queue.is_readable])


async def _expect_the_end(rooms: Any, events: list[rio.Subscription[Said]]) -> None:
    assert len(rooms) == len(rooms._lost) == 0
    assert events
    for each in events:
        with pytest.raises(StopAsyncIteration):
            await anext(each)
