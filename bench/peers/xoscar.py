"""xoscar: an actor in a pool of one process, called by its address and uid.

Messages travel as pickles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import xoscar

from bench.peers.worker import OBJECT_NAME, PING_ID, Laps
from tests.servers import free_port

TITLE = f"xoscar {version('xoscar')}"


@dataclass(slots=True)
class Ping:
    ping_id: str


@dataclass(slots=True)
class Pong:
    ping_id: str


class Player(xoscar.Actor):
    def __init__(self) -> None:
        super().__init__()
        self.pings = 0

    async def ping(self, message: Ping) -> Pong:
        self.pings += 1
        return Pong(message.ping_id)


async def serve(ready: Callable[[str], None]) -> None:
    pool = await xoscar.create_actor_pool(f"127.0.0.1:{free_port()}", n_process=0)
    await xoscar.create_actor(Player, address=pool.external_address, uid=OBJECT_NAME)
    ready(pool.external_address)
    await pool.join()


async def drive(address: str, laps: Laps) -> None:
    player = await xoscar.actor_ref(address=address, uid=OBJECT_NAME)
    await laps.run(lambda: player.ping(Ping(PING_ID)), Pong(PING_ID))
