"""aiohttp: JSON over HTTP/1.1.

A connection carries one request at a time, so each call in flight has a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version

from aiohttp import ClientSession, TCPConnector, web

from bench.peers.worker import OBJECT_NAME, PING_ID, Laps

TITLE = f"aiohttp {version('aiohttp')}, JSON"


@dataclass(slots=True)
class Ping:
    ping_id: str


@dataclass(slots=True)
class Pong:
    ping_id: str


class Player:
    def __init__(self) -> None:
        self.pings = 0

    async def ping(self, message: Ping) -> Pong:
        self.pings += 1
        return Pong(message.ping_id)


async def serve(ready: Callable[[str], None]) -> None:
    players = {OBJECT_NAME: Player()}

    async def ping(request: web.Request) -> web.Response:
        player = players[request.match_info["name"]]
        return web.json_response(asdict(await player.ping(Ping(**await request.json()))))

    application = web.Application()
    application.router.add_post("/players/{name}/ping", ping)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ready(f"http://127.0.0.1:{runner.addresses[0][1]}/players/{OBJECT_NAME}/ping")
    await asyncio.Event().wait()


async def drive(address: str, laps: Laps) -> None:
    async with ClientSession(connector=TCPConnector(limit=0)) as session:

        async def ping() -> Pong:
            async with session.post(address, json=asdict(Ping(PING_ID))) as response:
                return Pong(**await response.json())

        await laps.run(ping, Pong(PING_ID))
