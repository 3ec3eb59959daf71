"""gRPC through grpc.aio: a service that finds the object by the name in the message.

One channel, which is one HTTP/2 connection.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import grpc

from bench.peers.worker import OBJECT_NAME, PING_ID, Laps

TITLE = f"grpc.aio {version('grpcio')}"

messages, services = grpc.protos_and_services("bench/peers/ping.proto")


class Player:
    def __init__(self) -> None:
        self.pings = 0

    async def ping(self, message: messages.Ping) -> messages.Pong:
        self.pings += 1
        return messages.Pong(ping_id=message.ping_id)


class Players(services.PlayersServicer):
    def __init__(self) -> None:
        self._players = {OBJECT_NAME: Player()}

    async def Send(
        self, request: messages.Ping, context: grpc.aio.ServicerContext
    ) -> messages.Pong:
        return await self._players[request.player].ping(request)


async def serve(ready: Callable[[str], None]) -> None:
    server = grpc.aio.server(
        options=[("grpc.server.max_pending_requests", 4096)]
    )  # it refuses some at random from 1,000 on
    services.add_PlayersServicer_to_server(Players(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()


async def drive(address: str, laps: Laps) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        players = services.PlayersStub(channel)
        await laps.run(
            lambda: players.Send(messages.Ping(player=OBJECT_NAME, ping_id=PING_ID)),
            messages.Pong(ping_id=PING_ID),
        )
