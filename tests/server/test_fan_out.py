"""An object that sends far more calls at once than a node runs: they wait for room, and nobody
else waits for them.
"""

from __future__ import annotations

import asyncio

import pytest

import rio
from rio.errors import NotExecuted
from tests.server.harness import Cluster, Probe, compute, until

pytestmark = pytest.mark.virtual_time


class Spread(rio.Message[int]):
    """Call ``calls`` objects at once, each of which does the same ``depth`` times."""

    calls: int
    depth: int = 0


class Add(rio.Message[int]):
    number: int = 0


class Wait(rio.Message[None]):
    pass


class Root(rio.ServiceObject):
    @rio.handler
    async def spread(self, message: Spread) -> int:
        if not message.depth:
            calls = (self.send(Leaf, f"{n % 500}", Add()) for n in range(message.calls))
        else:
            below = Spread(message.calls, message.depth - 1)
            calls = (self.send(Root, f"{self.id}.{n}", below) for n in range(message.calls))
        return sum(await asyncio.gather(*calls))


class Leaf(rio.ServiceObject):
    def __init__(self) -> None:
        self.seen: list[int] = []

    @rio.handler
    async def add(self, message: Add) -> int:
        self.seen.append(message.number)
        compute(0.0002)
        await asyncio.sleep(0)
        return 1

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note("waits")
        await app.get(Probe).gate("go").wait()


def narrow(server: rio.Server, window: int) -> None:
    """Let the node's own client have so many calls under way."""
    [connection] = [
        connection for connection in server._router.pool.connections if connection.handover
    ]
    connection.window = window


async def test_a_fan_out_that_is_larger_than_the_node_ends_and_keeps_the_lease(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Root, Leaf)
    client = await cluster.client()
    fanned = asyncio.ensure_future(client.send(Root, "r", Spread(20_000), timeout=60))
    others = 0
    while not fanned.done():
        assert await client.send(Leaf, "bystander", Add()) == 1
        others += 1
    assert await fanned == 20_000
    assert others > 10
    assert server._catalog.dispatcher.fenced == 0


async def test_calls_within_calls_do_not_wait_for_each_others_room(cluster: Cluster) -> None:
    server = await cluster.server(Root, Leaf)
    await server.client.send(Leaf, "0", Add())
    narrow(server, 3)
    assert await server.client.send(Root, "r", Spread(6, depth=3)) == 6**4


async def test_calls_that_wait_for_room_keep_their_order(cluster: Cluster) -> None:
    server = await cluster.server(Leaf)
    await server.client.send(Leaf, "a", Add(-1))
    narrow(server, 3)
    await asyncio.gather(*(server.client.send(Leaf, "a", Add(n)) for n in range(100)))
    leaf = server._catalog.dispatcher.tables["Leaf"].mailboxes["a"].instance
    assert leaf.seen == [-1, *range(100)]


async def test_calls_that_wait_for_room_go_to_another_server_when_theirs_stops(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Leaf)
    client = await cluster.client()
    await client.send(Leaf, "a", Add())
    [connection] = client._router.pool.connections
    connection.window = 1
    held = [asyncio.ensure_future(client.send(Leaf, "w", Wait())) for _ in range(2)]
    await probe.noted("waits")
    waiting = [asyncio.ensure_future(client.send(Leaf, f"{n}", Add())) for n in range(5)]
    await until(lambda: connection.unwritten == 5)
    await cluster.server(Leaf)
    await server.stop(drain=False)
    assert await asyncio.gather(*waiting) == [1] * 5
    probe.gate("go").set()
    await asyncio.gather(*held, return_exceptions=True)


async def test_a_client_that_is_closed_says_that_calls_without_room_did_not_run(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Leaf)
    client = await cluster.client()
    await client.send(Leaf, "a", Add())
    [connection] = client._router.pool.connections
    connection.window = 1
    held = [asyncio.ensure_future(client.send(Leaf, "w", Wait())) for _ in range(2)]
    await probe.noted("waits")
    waiting = asyncio.ensure_future(client.send(Leaf, "a", Add()))
    await until(lambda: connection.unwritten == 1)
    await client.close()
    with pytest.raises(NotExecuted):
        await waiting
    probe.gate("go").set()
    await asyncio.gather(*held, return_exceptions=True)
