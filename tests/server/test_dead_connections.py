"""A connection whose other end is gone without a word is given up, by clients and by servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import ModuleType

import pytest

import rio
from rio._core.wire import Kind
from rio.client import pool
from rio.errors import CallTimeout, ConnectionLost, RioError
from rio.server import connections
from rio.testing import Proxy
from rio.transport import client_connection, protocol, pulse, server_connection
from tests.server.harness import Cluster, Probe, RawPeer, until
from tests.servers import free_port


class Add(rio.Message[int]):
    pass


class Look(rio.Message[int], readonly=True):
    pass


class Wait(rio.Message[None]):
    pass


class Counter(rio.ServiceObject):
    def __init__(self) -> None:
        self.count = 0

    @rio.handler
    def add(self, message: Add) -> int:
        self.count += 1
        return self.count

    @rio.handler
    def look(self, message: Look) -> int:
        return self.count

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note("waits")
        await app.get(Probe).gate("go").wait()


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter: list[tuple[ModuleType, str, float]] = [
        (pool, "LOOK_INTERVAL", 0.05),
        (connections, "LOOK_INTERVAL", 0.05),
        (pulse, "ASK_AFTER", 0.3),
        (client_connection, "CLIENT_PATIENCE", 0.6),
    ]
    for module, name, seconds in shorter:
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def _hasty_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_connection, "SERVER_PATIENCE", 0.3)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", free_port()) as proxy:
        yield proxy


async def behind(cluster: Cluster, proxy: Proxy) -> tuple[rio.Server, rio.Client]:
    """A server that is reached through the proxy alone, and a client that is connected to it."""
    server = await cluster.server(
        Counter,
        address=f"127.0.0.1:{proxy.target[1]}",
        advertise=f"127.0.0.1:{proxy.port}",
    )
    client = await cluster.client()
    assert await client.send(Counter, "a", Add()) == 1
    return server, client


@pytest.mark.both_loops
async def test_a_dropped_flow_is_replaced_although_nobody_calls(
    cluster: Cluster, proxy: Proxy
) -> None:
    _, client = await behind(cluster, proxy)
    [before] = client._router.pool.connections
    await drop_the_flow(proxy, client)
    await until(lambda: not before.usable)
    assert await client.send(Counter, "a", Add()) == 2


async def drop_the_flow(proxy: Proxy, client: rio.Client) -> None:
    """Lose a request, so that the server hears nothing more on this connection. New ones work."""
    proxy.drop()
    with pytest.raises(CallTimeout):
        await client.send(Counter, "a", Look(), timeout=0.05)
    proxy.release()


@pytest.mark.both_loops
async def test_calls_on_a_dropped_flow_end_and_those_that_may_be_repeated_are(
    cluster: Cluster, proxy: Proxy
) -> None:
    _, client = await behind(cluster, proxy)
    await drop_the_flow(proxy, client)
    once, again = client.send(Counter, "a", Add()), client.send(Counter, "a", Look())
    with pytest.raises(ConnectionLost, match="says nothing any more"):
        await once
    assert await again == 1


async def test_a_slow_handler_does_not_make_a_connection_silent(
    cluster: Cluster, proxy: Proxy, probe: Probe
) -> None:
    _, client = await behind(cluster, proxy)
    [before] = client._router.pool.connections
    waiting = asyncio.ensure_future(client.send(Counter, "w", Wait()))
    await probe.noted("waits")
    seen = before.received
    await until(lambda: before.received > seen + 20)  # several answers to a PING, and nothing else
    assert before.usable
    probe.gate("go").set()
    await waiting


async def test_a_ping_to_a_server_that_does_not_answer_ends(cluster: Cluster, proxy: Proxy) -> None:
    server, client = await behind(cluster, proxy)
    proxy.drop()
    with pytest.raises(RioError):
        await client.ping(server.address)
    proxy.release()
    assert await client.ping(server.address) > 0


@pytest.mark.both_loops
@pytest.mark.usefixtures("_hasty_server")
async def test_a_client_that_is_gone_without_a_word_is_cut_off(cluster: Cluster) -> None:
    server = await cluster.server(Counter)
    async with await RawPeer.connect(server) as peer:
        await until(lambda: len(server._catalog.dispatcher.connections) == 1)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                kind, *_ = await peer.frame()
                assert kind == Kind.PING
        await until(lambda: not server._catalog.dispatcher.connections)


@pytest.mark.usefixtures("_hasty_server")
async def test_a_client_that_answers_keeps_its_connection(cluster: Cluster) -> None:
    server = await cluster.server(Counter)
    async with await RawPeer.connect(server) as peer:
        for _ in range(6):  # twice as long as a silent one would last
            kind, number = await peer.frame()
            assert kind == Kind.PING
            peer.send(protocol.write_bare(Kind.PONG, number))
        assert len(server._catalog.dispatcher.connections) == 1
