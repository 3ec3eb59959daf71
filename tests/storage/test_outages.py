"""PostgreSQL and Redis are stopped, killed, frozen, restarted and failed over under load.

Nothing acknowledged is lost, everything ends in time, and work goes on by itself as soon as the
server is back.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from rio.contracts.membership import MemberStatus
from rio.errors import StorageUnavailable
from rio.storage import Storage, _connector, open_storage
from rio.storage.postgres import PostgresDatabase, PostgresObjectPlacement
from rio.testing import Proxy
from rio.testing.conformance._state import NOTHING, single
from tests.servers import PostgresServer, RedisServer, Server
from tests.storage.steps import ADA, Savers, load_nothing

pytestmark = pytest.mark.servers

LONGEST = 8.0
"""Seconds that an operation may take.

Waiting in line, for a connection and for an answer each have their own limit.
"""


@pytest.fixture(params=[PostgresServer, RedisServer], ids=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server for this test alone."""
    with request.param() as server:
        yield server


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def storage(server: Server) -> AsyncIterator[Storage]:
    async with open_storage(server.url) as storage:
        yield storage


async def in_thread(*steps: Any) -> None:
    """Run in a thread what is done to a server, so that the load goes on meanwhile."""
    for step in steps:
        await asyncio.to_thread(step)


def check(savers: Savers) -> None:
    assert savers.wrong == []
    assert savers.slowest < LONGEST


@pytest.mark.parametrize("how", ["SIGINT", "SIGQUIT"], ids=["fast", "immediate"])
async def test_a_restart_under_load_loses_nothing_and_refuses_little(
    postgres: PostgresServer, how: str
) -> None:
    async with open_storage(postgres.url) as storage, Savers(storage) as savers:
        for _ in range(5):
            await savers.more(200)
            await in_thread(lambda: postgres.stop(signal.Signals[how]), postgres.start)
        await savers.more(200)
    check(savers)
    assert savers.refused <= 5 * 2 * 32  # the operations under way, and perhaps the next ones


async def test_a_killed_server_that_comes_back_has_everything_that_it_acknowledged(
    server: Server, storage: Storage
) -> None:
    async with Savers(storage) as savers:
        for _ in range(5):
            await savers.more(200)
            await in_thread(server.kill, server.start)
        await savers.more(200)
    check(savers)


@pytest.mark.parametrize("seconds", [1.0, 4.0])
async def test_a_server_that_is_frozen_delays_and_refuses_and_loses_nothing(
    server: Server, storage: Storage, seconds: float
) -> None:
    async with Savers(storage, 8) as savers:
        await in_thread(server.pause)
        await asyncio.sleep(seconds)  # the fault itself
        await in_thread(server.resume)
        await savers.more(100)
    check(savers)


async def test_connections_that_are_cut_all_the_time_cost_few_operations(
    server: Server, storage: Storage
) -> None:
    """Work goes on between two cuts.

    A claim and a load are repeated on PostgreSQL. A save never is, and neither is anything on
    Redis.
    """
    async with Savers(storage, 16, pause=0.002) as savers:
        for _ in range(15):
            await cut_one(server)
            await savers.more(100)
    check(savers)
    assert savers.refused <= 15 * 16  # at most as many as were under way


async def cut_one(server: Server) -> None:
    if isinstance(server, PostgresServer):
        connection = await asyncpg.connect(server.url)
        ours = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'rio'"
        )
        for one in random.sample(ours, min(1, len(ours))):
            await connection.fetch("SELECT pg_terminate_backend($1)", one["pid"])
        await connection.close()
    else:
        async with Redis.from_url(server.url) as redis:
            own = await redis.client_id()
            others = [
                client["id"] for client in await redis.client_list() if int(client["id"]) != own
            ]
            for one in random.sample(others, min(1, len(others))):
                await redis.client_kill_filter(_id=one)


async def test_what_comes_byte_by_byte_is_understood(server: Server) -> None:
    async with Proxy("127.0.0.1", server.port) as proxy:
        proxy.single_bytes = True
        async with open_storage(server.url.replace(f":{server.port}", f":{proxy.port}")) as storage:
            async with Savers(storage, 8) as savers:
                await savers.more(50)
            generation, snapshot = await storage.membership.register("h:1", b"x" * 100)
            assert await storage.membership.snapshot() == snapshot
            assert await storage.membership.renew(generation)
        assert savers.wrong == []
        assert savers.refused == 0


async def test_a_server_that_is_gone_is_unavailable_and_never_not_found(
    server: Server, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.2)
    token = (await storage.placement.claim(ADA, 1)).token
    await load_nothing(storage.state, ADA, token)
    generation = (await storage.membership.register("h:1")).generation
    server.kill()
    for operation in (
        storage.placement.lookup(ADA),
        storage.placement.claim(ADA, 1),
        storage.placement.release(ADA, token),
        storage.placement.owned_by(1),
        storage.state.load_object(ADA, token),
        storage.state.commit(ADA, token, 0, single(b"x")),
        storage.membership.snapshot(),
        storage.membership.renew(generation),
        storage.membership.set_status(generation, MemberStatus.JOINING, MemberStatus.ACTIVE),
    ):
        with pytest.raises(StorageUnavailable):
            await operation
    server.start()
    assert await as_soon_as_there(lambda: storage.membership.renew(generation))
    placement = await as_soon_as_there(lambda: storage.placement.lookup(ADA))
    assert (placement.generation, placement.token >= token) == (1, True)
    found = await as_soon_as_there(lambda: storage.state.load_object(ADA, placement.token))
    assert found == NOTHING


async def as_soon_as_there(operation: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until the storage answers, and return or raise what it says."""
    async with asyncio.timeout(LONGEST):
        while True:
            try:
                return await operation()
            except StorageUnavailable:
                await asyncio.sleep(0.05)


async def test_numbers_grow_over_kills_and_restarts(server: Server, storage: Storage) -> None:
    tokens, generations, versions = [], [], []
    for _ in range(4):
        generation, snapshot = await storage.membership.register("h:1")
        tokens += [(await storage.placement.claim(ADA, 1)).token for _ in range(25)]
        generations.append(generation)
        versions.append(snapshot.version)
        await in_thread(server.kill, server.start)
    for numbers in tokens, generations, versions:
        assert numbers == sorted(set(numbers))


async def test_more_nodes_than_a_server_has_connections_for_wait_or_are_refused_in_time() -> None:
    """Ten nodes that would each take several connections share five.

    A node that gets none is told so, and none hangs.
    """
    with PostgresServer(max_connections="8", superuser_reserved_connections="0") as server:
        databases = [PostgresDatabase(server.url) for _ in range(10)]
        placements = [PostgresObjectPlacement(database) for database in databases]
        opened = await asyncio.gather(
            *(placement.prepare() for placement in placements), return_exceptions=True
        )
        assert {type(fate) for fate in opened} <= {type(None), StorageUnavailable}
        usable = [
            placement for placement, fate in zip(placements, opened, strict=True) if fate is None
        ]
        async with asyncio.timeout(LONGEST):
            fates = await asyncio.gather(
                *(placement.claim(ADA, 1) for placement in usable), return_exceptions=True
            )
        assert any(not isinstance(fate, BaseException) for fate in fates)
        assert all(
            isinstance(fate, StorageUnavailable)
            for fate in fates
            if isinstance(fate, BaseException)
        )
        await asyncio.gather(*(placement.close() for placement in usable))


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary that waits for its standby, and that standby."""
    with PostgresServer() as primary, primary.standby() as standby:
        primary.wait_for_standby()
        yield primary, standby


async def test_a_standby_that_takes_over_has_everything_and_work_goes_on_there(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """The URL names both servers: after a failover nothing is missing, and tokens still grow."""
    primary, standby = pair
    async with open_storage(
        f"postgres://rio@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
    ) as storage:
        async with Savers(storage) as savers:
            await savers.more(300)
            await in_thread(primary.kill, standby.promote)
            await savers.more(300)
        check(savers)
