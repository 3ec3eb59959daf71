"""The socket on which a server waits for connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

from rio.identity import Address
from rio.transport.listener import Listener
from tests.server.harness import until


@pytest.mark.both_loops
async def test_a_connection_that_comes_as_the_listener_begins_to_rest_is_kept() -> None:
    made: list[asyncio.BaseTransport] = []

    class Kept(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    loop = asyncio.get_running_loop()
    listener = Listener(Kept, 10)
    address = await listener.bind(Address("127.0.0.1", 0))
    await listener.start()
    with socket.create_connection((address.host, address.port)):
        loop.call_later(0, listener.rest)  # in the turn in which it is accepted, and after that
        await until(lambda: listener.rests)
        await listener.wake()
        await until(lambda: made)
        made[0].abort()  # type: ignore[attr-defined]  # it is a transport of a socket
    listener.close()
