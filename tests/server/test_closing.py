"""Closing ends, whatever the other ends of the connections do."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

import rio
from rio.errors import RioError
from rio.testing import Proxy
from rio.transport import client_connection
from tests.server.harness import Cluster, until
from tests.servers import free_port


class Take(rio.Message[int]):
    data: bytes


class Sink(rio.ServiceObject):
    @rio.handler
    def take(self, message: Take) -> int:
        return len(message.data)


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "CLOSE_TIMEOUT", 0.1)


async def send_what_nobody_takes(sender: rio.Client, proxy: Proxy) -> list[asyncio.Future[int]]:
    """Calls that stay in the transport."""
    assert await sender.send(Sink, "a", Take(b"")) == 0
    proxy.hold()
    calls = [asyncio.ensure_future(sender.send(Sink, "a", Take(bytes(10**6)))) for _ in range(40)]
    [connection] = [
        connection
        for connection in sender._router.pool.connections
        if connection.transport.get_extra_info("peername") != "memory"
    ]
    await until(lambda: connection.congested)
    return calls


@pytest.mark.both_loops
async def test_a_client_closes_although_its_server_takes_nothing(cluster: Cluster) -> None:
    async with Proxy("127.0.0.1", free_port()) as proxy:
        await cluster.server(
            Sink, address=f"127.0.0.1:{proxy.target[1]}", advertise=f"127.0.0.1:{proxy.port}"
        )
        client = await cluster.client()
        calls = await send_what_nobody_takes(client, proxy)
        await client.close()
        for call in calls:
            with pytest.raises(RioError):
                await call
        proxy.release()


@pytest.mark.both_loops
async def test_a_server_stops_although_a_peer_takes_nothing(cluster: Cluster) -> None:
    async with Proxy("127.0.0.1", free_port()) as proxy:
        await cluster.server(
            Sink, address=f"127.0.0.1:{proxy.target[1]}", advertise=f"127.0.0.1:{proxy.port}"
        )
        assert await (await cluster.client()).send(Sink, "a", Take(b"")) == 0
        other = await cluster.server(Sink)
        calls = await send_what_nobody_takes(other.client, proxy)
        await other.stop(drain=False)
        for call in calls:
            with pytest.raises(RioError):
                await call
        proxy.release()


@pytest.mark.both_loops
async def test_a_connection_that_is_made_after_the_listener_closed_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Sink)
    loop = asyncio.get_running_loop()
    late, accepted = socket.socketpair()
    late.setblocking(False)
    close = server._connections.close

    async def make_another() -> None:
        await loop.connect_accepted_socket(server._connections.make, accepted)
        await close()

    monkeypatch.setattr(server._connections, "close", make_another)
    await server.stop()
    with suppress(ConnectionError):
        assert await loop.sock_recv(late, 100) == b""
    assert not server._catalog.dispatcher.connections
    late.close()
