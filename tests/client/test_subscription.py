"""A subscription that could not be made is made by the next read."""

from __future__ import annotations

import asyncio

import pytest

import rio
from rio.errors import NoServersAvailable
from tests.server.harness import Cluster, until


class Say(rio.Message[None]):
    text: str


class Said(rio.Message):
    text: str


class Room(rio.ServiceObject):
    @rio.handler
    def say(self, message: Say) -> None:
        self.publish(Said(message.text))


async def test_a_first_read_that_found_no_server_does_not_spoil_the_next(cluster: Cluster) -> None:
    client = await cluster.client()
    events = client.subscribe(Room, "lobby", Said)
    with pytest.raises(NoServersAvailable):
        await anext(events)
    server = await cluster.server(Room)
    await _say_when_subscribed(server, events)


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
