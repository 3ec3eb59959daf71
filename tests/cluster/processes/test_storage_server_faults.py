"""PostgreSQL and Redis are restarted, killed, frozen, cut off and failed over under a busy cluster.

It pauses where it must and loses nothing. No server ends, is declared dead or gives up an object.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter as Multiset
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis

import rio
from rio.contracts.membership import MemberStatus
from rio.errors import NotActivated
from rio.storage.redis._schema import key_of
from rio.testing import Proxy
from tests.cluster.processes.conftest import MakeCluster
from tests.cluster.processes.harness import Cluster, Load, report, until
from tests.cluster.processes.objects import Add, Counter, Get
from tests.cluster.processes.stores import Store, place_on, serving
from tests.servers import PostgresServer, RedisServer, Server
from tests.storage.test_outages import cut_one

LOST = "has lost its lease"
DELAY = 0.25
"""Seconds that each piece is late, in each direction."""


@pytest.fixture(params=["postgres", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A server for this test alone: the test does it harm."""
    with serving(request.param) as server:
        assert server is not None
        yield asyncio.run(place_on(server))


@pytest.fixture
def server(store: Store) -> Server:
    assert store.server is not None
    return store.server


async def in_thread(*steps: Callable[[], Any]) -> None:
    """Run in a thread what is done to a server, so that the load goes on meanwhile."""
    for step in steps:
        await asyncio.to_thread(step)


class Readers:
    """Callers of live objects, whose calls need no storage.

    The calls never fail while a server holds its lease.
    """

    def __init__(self, client: rio.Client) -> None:
        self.ids = [f"live-{number}" for number in range(12)]
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self._client = client
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Readers:
        await asyncio.gather(*(self._client.send(Counter, id, Get()) for id in self.ids))
        self._tasks = [asyncio.create_task(self._read(id)) for id in self.ids]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        wanted = len(self.seconds) + count
        await until(lambda: len(self.seconds) >= wanted, f"{count} more answers")

    async def _read(self, id: str) -> None:
        while not self._over:
            began = time.monotonic()
            try:
                await self._client.send(Counter, id, Get())
            except rio.RioError as error:
                self.failures.append(repr(error))
            self.seconds.append(time.monotonic() - began)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def checked(cluster: Cluster) -> AsyncIterator[Load]:
    """A load, after which nothing is missing and every server is still there."""
    async with Load(cluster.client) as load:
        await load.more(200)
        yield load
        await load.more(200)
    assert await load.violations(cluster) == []
    assert cluster.evictions == []
    assert [await cluster.status(node) for node in cluster.nodes] == [MemberStatus.ACTIVE] * len(
        cluster.nodes
    )
    assert all(node.alive for node in cluster.nodes)


def loaded(cluster: Cluster, ids: list[str]) -> list[int]:
    """How often each object was activated, on any server."""
    loads = Multiset(
        event.object for node in cluster.nodes for event in node.events if event.what == "loaded"
    )
    return [loads[f"Counter/{id}"] for id in ids]


def fenced(cluster: Cluster) -> bool:
    return any(node.said(LOST) for node in cluster.nodes)


async def test_a_restart_that_is_shorter_than_the_lease_is_not_noticed_by_live_objects(
    make_cluster: MakeCluster, server: Server
) -> None:
    cluster = await make_cluster("strict", *[{}] * 2)
    async with checked(cluster) as load, Readers(cluster.client) as readers:
        for _ in range(3):
            await in_thread(server.stop, server.start)
            await load.more(100)
    assert readers.failures == []
    assert not fenced(cluster)
    report(
        f"3 restarts of {cluster.store.name}: {len(readers.seconds)} calls of live objects, none"
        f" failed; {load.outcomes}"
    )


async def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(
    make_cluster: MakeCluster, server: Server
) -> None:
    cluster = await make_cluster("strict", *[{}] * 2)
    async with checked(cluster) as load:
        for _ in range(3):
            await in_thread(server.kill, server.start)
            await load.more(100)
    report(f"3 times SIGKILL of {cluster.store.name}: {load.outcomes}")


async def test_a_server_that_is_frozen_for_less_than_the_lease_pauses_nobody(
    make_cluster: MakeCluster, server: Server
) -> None:
    cluster = await make_cluster("strict", *[{}] * 2)
    async with checked(cluster) as load, Readers(cluster.client) as readers:
        await in_thread(server.pause)
        await asyncio.sleep(2.0)  # the fault itself
        await in_thread(server.resume)
        await load.more(100)
    assert readers.failures == []
    assert not fenced(cluster)
    report(f"{cluster.store.name} frozen for 2 s: {load.outcomes}")


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_an_outage_longer_than_the_lease_pauses_everybody_and_moves_nothing(
    make_cluster: MakeCluster, server: Server, how: str
) -> None:
    cluster = await make_cluster("local", *[{}] * 3)
    go, come_back = {
        "frozen": (server.pause, server.resume),
        "killed": (server.kill, server.start),
    }[how]
    async with checked(cluster) as load, Readers(cluster.client) as readers:
        await in_thread(go)
        for node in cluster.nodes:
            await until(
                lambda node=node: node.said(LOST), f"the end of the lease of {node.address}"
            )
        await in_thread(come_back)
        back = time.monotonic()
        await load.more(1)
        first = time.monotonic() - back
        await readers.more(100)
    assert loaded(cluster, readers.ids) == [1] * len(
        readers.ids
    )  # objects whose save was cut off had to be loaded again
    report(
        f"{cluster.store.name} {how}: the first call is acknowledged {first:.2f} s after its"
        f" return; {load.outcomes}"
    )


async def test_connections_that_are_cut_all_the_time_cost_few_calls(
    make_cluster: MakeCluster, server: Server
) -> None:
    cluster = await make_cluster("strict", *[{}] * 2)
    async with checked(cluster) as load:
        for _ in range(15):
            await cut_one(server)
            await load.more(200)
    assert not fenced(cluster)
    failed = len(load.calls) - load.acknowledged()
    assert failed < 0.05 * len(load.calls)
    report(
        f"15 connections of {cluster.store.name} were cut: {failed} of {len(load.calls)}"
        f" calls failed; {load.outcomes}"
    )


async def test_a_slow_storage_slows_no_call_of_a_live_object(
    make_cluster: MakeCluster, server: Server
) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy:
        cluster = await make_cluster("strict")
        cluster.url = cluster.url.replace(f":{server.port}", f":{proxy.port}")
        await asyncio.gather(*(cluster.start() for _ in range(2)))
        async with Load(cluster.client) as load, Readers(cluster.client) as readers:
            await readers.more(200)
            before = statistics.median(readers.seconds)
            proxy.delay = DELAY
            asked = len(readers.seconds)
            await readers.more(2000)
            during = statistics.median(readers.seconds[asked:])
            saves = load.slowest(time.monotonic() - 1)
            proxy.delay = 0.0
            await load.more(200)
        assert await load.violations(cluster) == []
        assert readers.failures == []
        assert during < 2 * DELAY
        assert not fenced(cluster)
        report(
            f"{cluster.store.name} 500 ms away: calls of live objects take {during * 1e3:.2f} ms"
            f" instead of {before * 1e3:.2f} ms, "
            f"those that save up to {saves:.2f} s"
        )


async def test_a_state_that_cannot_be_read_is_told_and_not_touched(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("strict", *[{}] * 2)
    await cluster.client.send(Counter, "ada", Add("test", 1))
    await cluster.client.admin(rio.AdminCommand.shutdown("Counter", "ada"))
    await set_state(cluster.store, b"\xc1 rotten")
    with pytest.raises(NotActivated, match="StateCorrupt"):
        await cluster.client.send(Counter, "ada", Add("test", 2), timeout=1.0)
    assert await get_state(cluster.store) == b"\xc1 rotten"


def namespace_of(store: Store) -> str:
    return next(iter(parse_qs(urlsplit(store.url).query).values()))[0]


async def set_state(store: Store, data: bytes) -> None:
    if isinstance(store.server, PostgresServer):
        connection = await asyncpg.connect(store.url)
        await connection.execute("UPDATE rio_object SET data = $1 WHERE id = $2", data, b"ada")
        await connection.close()
    else:
        assert isinstance(store.server, RedisServer)
        async with Redis.from_url(store.server.url) as redis:
            assert await redis.hset(object_key(store), ":sum", b"0:" + data) == 0


async def get_state(store: Store) -> bytes:
    if isinstance(store.server, PostgresServer):
        connection = await asyncpg.connect(store.url)
        found: bytes = await connection.fetchval(
            "SELECT data FROM rio_object WHERE id = $1", b"ada"
        )
        await connection.close()
    else:
        assert isinstance(store.server, RedisServer)
        async with Redis.from_url(store.server.url) as redis:
            found = (await redis.hget(object_key(store), ":sum")).removeprefix(b"0:")
    return found


def object_key(store: Store) -> str:
    return key_of(namespace_of(store), "state:object:7:Counterada").decode()
