"""The database goes back in time under servers that run.

What was written before may be lost. What is acknowledged afterwards is kept, and as soon as the
leases of that moment are over no object is active twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.processes.conftest import MakeCluster, on_storage_servers
from tests.cluster.processes.harness import Cluster, Load, report, until
from tests.cluster.processes.restores import Loss, fail_over, lose_placements, replace_file, restore
from tests.cluster.processes.stores import STORAGES, Store, file_in, place_on, serving

EVICTED = 70
GOES_ON = "goes on"


@pytest.fixture(params=STORAGES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A storage for this test alone: the test does it harm."""
    with serving(request.param) as server:
        yield file_in(tmp_path) if server is None else asyncio.run(place_on(server))


async def replace_the_evicted(cluster: Cluster) -> int:
    """Start a server for each that was evicted, as a supervisor does; how many there are."""
    ended = [node for node in cluster.nodes if not node.alive]
    assert [node.process.returncode for node in ended] == [EVICTED] * len(ended)
    for _ in ended:
        await cluster.start()
    return len(ended)


async def settle(cluster: Cluster, loss: Loss) -> int:
    """Wait until every server goes on or has ended, and start those that are missing."""
    await until(lambda: time.monotonic() > loss.settled(cluster.config))
    await until(
        lambda: all(not node.alive or node.said(GOES_ON) for node in cluster.nodes),
        "every server has looked at its objects",
    )
    return await replace_the_evicted(cluster)


async def check(cluster: Cluster, load: Load, loss: Loss, what: str) -> None:
    """Wait until all is well again, and have some more calls."""
    evicted = await settle(cluster, loss)
    await load.more(300)
    report(
        f"{cluster.store.name}, {what}: {evicted} of {len(cluster.nodes) - evicted} servers were"
        f" evicted; the slowest call took {load.slowest(loss.ended):.2f} s; {load.outcomes}"
    )


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_file_that_is_replaced_by_an_older_one_loses_nothing_of_the_new_time(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", {}, {}, {})
    async with Load(cluster.client) as load:
        await load.more(200)
        loss = await replace_file(cluster.store, partial(load.more, 200))
        await check(cluster, load, loss, "file replaced")
    assert await load.violations(cluster, loss) == []


async def test_a_database_that_is_restored_to_an_older_state_loses_nothing_of_the_new_time(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", {}, {})
    async with Load(cluster.client) as load:
        await load.more(200)

        async def join_and_work() -> None:
            await cluster.start()  # a member that the backup does not know
            async with Load(cluster.client, bags=0, name="new") as new:
                await new.more(200)

        loss = await restore(cluster.store, join_and_work)
        await check(cluster, load, loss, "restored")
    assert await load.violations(cluster, loss) == []


async def test_placements_that_are_lost_alone_cost_a_pause_and_no_acknowledged_call(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", {}, {}, {})
    async with Load(cluster.client) as load:
        await load.more(300)
        loss = await lose_placements(cluster.store)
        await check(cluster, load, loss, "placements lost")
    assert await load.violations(cluster, loss) == []
    assert all(node.alive for node in cluster.nodes)
    assert cluster.evictions == []


@on_storage_servers
async def test_a_standby_that_is_up_to_date_takes_over_with_a_pause_and_no_server_is_restarted(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", {}, {}, {})
    assert cluster.store.server is not None
    async with Load(cluster.client) as load:
        await load.more(200)
        loss = await fail_over(cluster.store.server, partial(load.more, 200), late=False)
        await check(cluster, load, loss, "a switchover")
    assert await load.violations(cluster, loss) == []
    assert all(node.alive for node in cluster.nodes)
    assert cluster.evictions == []


@on_storage_servers
async def test_a_late_standby_that_takes_over_loses_nothing_of_the_new_time(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", {}, {}, {})
    assert cluster.store.server is not None
    async with Load(cluster.client) as load:
        await load.more(200)

        async def work() -> None:
            async with Load(cluster.client, bags=0, name="new") as new:
                await new.more(300)

        loss = await fail_over(cluster.store.server, work, late=True)
        await check(cluster, load, loss, "a late standby")
    assert await load.violations(cluster, loss) == []
