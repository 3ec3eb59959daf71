"""rio: an object that is found by its name in a cluster of one server.

Membership and placement are on SQLite.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import rio
from bench.peers.worker import KINDS_OF_WORK, OBJECT_NAME, PING_ID, SAVING, Laps
from rio.transport.low_latency import Latency

TITLE = "rio, async handler"
STORAGE = "sqlite:///rio.db"
WORKS = KINDS_OF_WORK


class Pong(rio.Message):
    ping_id: str


class Ping(rio.Message[Pong]):
    ping_id: str


class Save(rio.Message[Pong]):
    ping_id: str


class Pings(rio.State):
    count: int = 0


class Saver(rio.ServiceObject):
    pings: Pings = rio.managed_state()

    @rio.handler
    async def save(self, message: Save) -> Pong:
        self.pings.count += 1
        await self.save_state()
        return Pong(message.ping_id)


class Player(rio.ServiceObject):
    pings = 0

    @rio.handler
    async def ping(self, message: Ping) -> Pong:
        self.pings += 1
        return Pong(message.ping_id)


async def serve(
    ready: Callable[[str], None],
    player: type[rio.ServiceObject] = Player,
    latency: Latency = "normal",
) -> None:
    types = rio.Registry(player, Saver)
    async with rio.Server(types, storage=STORAGE, latency=latency) as server:
        ready(STORAGE)
        await server.run()


async def drive(
    address: str,
    laps: Laps,
    player: type[rio.ServiceObject] = Player,
    latency: Latency = "normal",
) -> None:
    numbers = itertools.count()
    async with rio.Client(address, latency=latency) as client:
        calls = {
            "pings": lambda: client.send(player, OBJECT_NAME, Ping(PING_ID)),
            "activations": lambda: client.send(player, f"{next(numbers)}", Ping(PING_ID)),
            "saves": lambda: client.send(Saver, f"{next(numbers) % SAVING}", Save(PING_ID)),
        }
        await laps.run(calls[laps.work], Pong(PING_ID))
