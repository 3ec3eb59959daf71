"""The database goes back in time under servers that run.

What was written before may be lost. What is acknowledged afterwards is kept, and as soon as the
leases of that moment are over no object is active twice.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rio
from rio.contracts.membership import MemberStatus
from tests.cluster.processes.conftest import MakeCluster
from tests.cluster.processes.harness import Cluster, Load, report, until
from tests.cluster.processes.restores import (
    Backup,
    Restored,
    lose_placements,
    timed,
    violations_after,
)
from tests.cluster.processes.stores import STORAGES, Store, file_in, place_on, serving
from tests.servers import PostgresServer

EVICTED = 70
GOES_ON = "goes on"


@pytest.fixture(params=STORAGES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A storage for this test alone: the test does it harm."""
    with serving(request.param) as server:
        yield file_in(tmp_path) if server is None else asyncio.run(place_on(server))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a user without rights may write."""
    with tempfile.TemporaryDirectory(prefix="rio-backup-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder / "backup"


async def replace_the_evicted(cluster: Cluster) -> int:
    """Start a server for each that was evicted, as a supervisor does; how many there are."""
    ended = [node for node in cluster.nodes if not node.alive]
    assert [node.process.returncode for node in ended] == [EVICTED] * len(ended)
    for _ in ended:
        await cluster.start()
    return len(ended)


async def settle(cluster: Cluster, restored: Restored) -> None:
    """Wait until every server has noticed, and goes on or has ended."""
    await until(lambda: time.monotonic() > restored.settled(cluster.config))
    await until(
        lambda: all(not node.alive or node.said(GOES_ON) for node in cluster.nodes[:3]),
        "every server has looked at its objects",
    )


async def check(cluster: Cluster, load: Load, restored: Restored, what: str) -> None:
    await settle(cluster, restored)
    replaced = await replace_the_evicted(cluster)
    await load.more(300)
    later = load.acknowledged(restored.ended)
    report(
        f"{cluster.store.name}, {what}: {replaced} of 3 servers were evicted; {later} calls later"
    )


@pytest.mark.parametrize("store", ["redis"], indirect=True)
async def test_a_database_that_is_restored_to_an_older_state_loses_nothing_of_the_new_time(
    make_cluster: MakeCluster, folder: Path
) -> None:
    cluster = await make_cluster("local", {}, {})
    async with Load(cluster.client, counters=30, bags=0, name="old") as old:
        await old.more(100)
        backup = await asyncio.to_thread(Backup, cluster.store, folder)
        await cluster.start()  # a member that the backup does not know
        async with Load(cluster.client, counters=60) as load:
            await load.more(300)
            restored = await asyncio.to_thread(backup.restore)
            await check(cluster, load, restored, "restored")
    for each in (old, load):
        assert await violations_after(each, cluster, restored) == []


async def test_placements_that_are_lost_alone_cost_a_pause_and_no_acknowledged_call(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", {}, {}, {})
    async with Load(cluster.client, counters=60) as load:
        await load.more(300)
        restored = await asyncio.to_thread(lose_placements, cluster.store)
        await check(cluster, load, restored, "placements lost")
    assert await violations_after(load, cluster, restored) == []
    assert all(node.alive for node in cluster.nodes)
    assert cluster.evictions == []


# --- standbys -------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with PostgresServer() as primary, primary.standby() as standby:
        yield primary, standby


async def cluster_on(
    pair: tuple[PostgresServer, PostgresServer], make_cluster: MakeCluster, nodes: int
) -> Cluster:
    primary, standby = pair
    cluster = await make_cluster("local")
    cluster.url = f"postgres://rio@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
    await asyncio.gather(*(cluster.start() for _ in range(nodes)))
    return cluster


def on_postgres(test: Callable[..., object]) -> object:
    return pytest.mark.parametrize("store", ["postgres"], indirect=True)(test)


@on_postgres
async def test_a_switchover_to_a_synchronous_standby_costs_a_pause_and_restarts_no_server(
    make_cluster: MakeCluster, pair: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, standby = pair
    await asyncio.to_thread(primary.wait_for_standby)
    cluster = await cluster_on(pair, make_cluster, 3)
    async with rio.Client(cluster.url) as cluster.client:
        async with Load(cluster.client) as load:
            await load.more(200)
            began = time.monotonic()
            await asyncio.to_thread(primary.stop)
            await asyncio.to_thread(standby.promote)
            await until(lambda: all(node.said(GOES_ON) for node in cluster.nodes))
            await load.more(200)
        report(f"switchover: the slowest call took {load.slowest(began):.2f} s; {load.outcomes}")
        assert await load.violations(cluster) == []
        assert all(node.alive for node in cluster.nodes)
        assert cluster.evictions == []
        statuses = [await cluster.status(node) for node in cluster.nodes]
        assert statuses == [MemberStatus.ACTIVE] * 3


@on_postgres
async def test_a_late_standby_that_takes_over_loses_nothing_of_the_new_time(
    make_cluster: MakeCluster, pair: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, standby = pair
    cluster = await cluster_on(pair, make_cluster, 3)
    async with rio.Client(cluster.url) as cluster.client:
        async with Load(cluster.client, counters=20, bags=0, name="old") as old:
            await old.more(100)
            await asyncio.to_thread(standby.fall_behind)
            async with Load(cluster.client, counters=60) as load:
                await load.more(300)

                def take_over() -> None:
                    primary.kill()
                    standby.promote()

                restored = await asyncio.to_thread(timed, take_over)
                await check(cluster, load, restored, "late standby")
        for each in (old, load):
            assert await violations_after(each, cluster, restored) == []
