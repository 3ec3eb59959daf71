"""SIGTERM: a server hands its objects over, and no caller notices."""

from __future__ import annotations

import time

from rio.contracts.membership import MemberStatus
from tests.cluster.processes.conftest import MakeCluster, on_every_storage
from tests.cluster.processes.harness import Load, report


@on_every_storage
async def test_all_servers_are_replaced_one_by_one_and_no_call_fails(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("strict", *[{}] * 3)
    gaps, drains = [], []
    async with Load(cluster.client, counters=200, callers=40) as load:
        await load.more(500)
        for old in cluster.nodes[:3]:
            await cluster.start()
            began = time.monotonic()
            old.terminate()
            assert await old.ended() == 0
            drains.append(time.monotonic() - began)
            await load.more()
            gaps.append(load.slowest(began))
            assert await cluster.status(old) == MemberStatus.LEFT
    assert load.errors == []
    assert await load.violations(cluster) == []
    report(
        f"SIGTERM x 3 on {cluster.store.name}: the slowest call took {max(gaps):.3f} s, a drain"
        f" {max(drains):.2f} s; {load.outcomes}"
    )
