"""The storage is away for a while, or takes nothing more.

Everything pauses, nothing is lost, and no server is declared dead.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing

import msgspec
import pytest

from rio.contracts.membership import MemberStatus
from rio.errors import OutcomeUnknown
from tests.cluster.processes.conftest import MakeCluster
from tests.cluster.processes.harness import Cluster, Load, report, until
from tests.cluster.processes.objects import Add, Counter


@pytest.mark.parametrize("how", ["writing", "reading and writing"])
async def test_an_outage_longer_than_the_lease_evicts_nobody_and_ends_nobody(
    make_cluster: MakeCluster, how: str
) -> None:
    cluster = await make_cluster("local", *[{}] * 3)
    async with Load(cluster.client) as load:
        await load.more(300)
        async with cluster.unusable(how):
            began = time.monotonic()
            for node in (
                cluster.nodes
            ):  # each has paused and cancelled its handlers: its lease ended a second ago
                await until(
                    lambda node=node: node.said("has lost its lease"),
                    f"the end of the lease of {node.address}",
                )
            lasted = time.monotonic() - began
        back = time.monotonic()
        await load.more(1)
        first = time.monotonic() - back
        await load.more(300)
    assert lasted > cluster.config.lease_local
    assert await load.violations(cluster) == []
    assert_all_there(cluster)
    assert [await cluster.status(node) for node in cluster.nodes] == [MemberStatus.ACTIVE] * 3
    report(
        f"outage ({how}) of {lasted:.2f} s: the first call is acknowledged {first:.2f} s after its"
        f" end; {load.outcomes}"
    )


async def test_a_full_disk_refuses_saves_and_changes_nothing_until_there_is_room_again(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", *[{}] * 2)
    client = cluster.client
    async with Load(client, callers=8) as load:
        await load.more(200)
        await client.send(Counter, "full", Add("test", 1))
        limit_file_sizes(cluster, 0)
        with pytest.raises(
            OutcomeUnknown,
            match=r"may not have saved its state: .*the disk or a limit on file sizes refused",
        ):
            await client.send(Counter, "full", Add("test", 2))
        stored = await asyncio.to_thread(stored_value, cluster, "full")
        for node in cluster.nodes:
            await until(
                lambda node=node: node.said("has lost its lease"),
                f"the end of the lease of {node.address}",
            )
        limit_file_sizes(cluster, None)
        await load.more(200)
    assert stored == await cluster.value("full") == 1
    assert (await client.send(Counter, "full", Add("test", 3))).value == 2
    assert await load.violations(cluster) == []
    assert_all_there(cluster)


def assert_all_there(cluster: Cluster) -> None:
    assert cluster.evictions == []
    assert all(node.alive for node in cluster.nodes)


def limit_file_sizes(cluster: Cluster, limit: int | None) -> None:
    """Do to a process what a full disk does: it can make no file longer.

    The lock file and the log are mapped, not written.
    """
    import resource  # here, because Windows has none

    limits = (resource.RLIM_INFINITY if limit is None else limit, resource.RLIM_INFINITY)
    for node in cluster.nodes:
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, limits)


def stored_value(cluster: Cluster, id: str) -> int:
    with closing(sqlite3.connect(cluster.store.database)) as connection:
        [(data,)] = connection.execute(
            "SELECT data FROM rio_object WHERE type_name = 'Counter' AND id = ?", (id,)
        )
    return msgspec.msgpack.decode(data)["value"]
