"""Whole servers that are slow, or lose their storage together (D5, D6).

The tests say which servers are evicted, which are not, and how soon all goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Literal

import pytest

from rio.cluster.config import ClusterConfig
from rio.contracts.membership import MemberStatus
from rio.testing import LocalCluster, LocalNode, run
from tests.effort import how_to_replay, seeds
from tests.simulation.objects import registry

STRICT = ClusterConfig.strict()


async def ended(cluster: LocalCluster) -> set[int]:
    """The generations of members that were condemned, have left or are dead."""
    members = (await cluster.storage.membership.snapshot()).members
    return {member.generation for member in members if member.status >= MemberStatus.CONDEMNED}


def admits(node: LocalNode) -> bool:
    return node.alive and node.host.clock() < node.server._cluster._lease.until


async def until_all_admit(nodes: Sequence[LocalNode]) -> float:
    """Seconds that it takes."""
    began = asyncio.get_running_loop().time()
    while not all(map(admits, nodes)):  # noqa: ASYNC110  # virtual time
        await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began


def test_a_server_that_stalls_again_and_again_has_nobody_else_evicted() -> None:
    async def main(seed: int) -> None:
        rng = random.Random(seed)
        async with LocalCluster(
            registry(), nodes=4, cluster=STRICT, latency=0.001, app_data=None
        ) as cluster:
            others = {node.generation for node in cluster.nodes[1:]}
            while asyncio.get_running_loop().time() < 120.0:
                await asyncio.sleep(rng.uniform(1.0, 6.0))
                if cluster.nodes[0].host.down:
                    await cluster.restart(0)
                cluster.stall(0, rng.uniform(2.0, 20.0))
            assert not others & await ended(cluster), how_to_replay(seed)
            assert all(node.alive for node in cluster.nodes[1:])

    for seed in seeds(5):
        run(main(seed), seed=seed)


@pytest.mark.parametrize("how", ["unavailable", "silent"])
def test_a_storage_that_is_away_for_all_evicts_nobody_and_all_go_on_soon_after(
    how: Literal["unavailable", "silent"],
) -> None:
    async def main(seed: int) -> float:
        rng = random.Random(seed)
        async with LocalCluster(registry(), nodes=0, cluster=STRICT, latency=0.001) as cluster:
            for _ in range(4):
                await cluster.start_node(rate=rng.uniform(0.95, 1.05))
            await asyncio.sleep(rng.uniform(5.0, 10.0))
            for node in cluster.nodes:
                setattr(node.storage, how, True)
            await asyncio.sleep(15.0)
            assert not any(map(admits, cluster.nodes))
            cluster.heal()
            paused = await until_all_admit(cluster.nodes)
            await asyncio.sleep(30.0)
            assert await ended(cluster) == set(), how_to_replay(seed)
            return paused

    longest = max(run(main(seed), seed=seed) for seed in seeds(10))
    print(f"\nstorage {how} for 15 s: all admit again within {longest:.2f} s")
    assert longest <= 2.0
