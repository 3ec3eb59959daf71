"""rio: an object that is found by its name in a cluster of one server.

Membership and placement are on SQLite.
"""

from __future__ import annotations

from collections.abc import Callable

import rio
from bench.peers.worker import OBJECT_NAME, PING_ID, Laps
from rio.transport.low_latency import Latency

TITLE = "rio, async handler"
STORAGE = "sqlite:///rio.db"


class Pong(rio.Message):
    ping_id: str


class Ping(rio.Message[Pong]):
    ping_id: str


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
    async with rio.Server(rio.Registry(player), storage=STORAGE, latency=latency) as server:
        ready(STORAGE)
        await server.run()


async def drive(
    address: str,
    laps: Laps,
    player: type[rio.ServiceObject] = Player,
    latency: Latency = "normal",
) -> None:
    async with rio.Client(address, latency=latency) as client:
        await laps.run(lambda: client.send(player, OBJECT_NAME, Ping(PING_ID)), Pong(PING_ID))
