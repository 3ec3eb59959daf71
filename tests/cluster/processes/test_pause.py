"""A process does not run for a while: a signal stops it, or its own handler holds it up."""

from __future__ import annotations

import asyncio
import time

import pytest

from rio.contracts.membership import MemberStatus
from rio.errors import OutcomeUnknown
from tests.cluster.processes.conftest import MakeCluster, on_every_storage
from tests.cluster.processes.harness import Cluster, Load, Node, report, until
from tests.cluster.processes.history import fifo
from tests.cluster.processes.objects import Add, Block, Counter

EVICTED = 70


async def test_a_pause_that_is_shorter_than_the_lease_costs_nothing(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("strict", *[{}] * 3)
    async with Load(cluster.client, burst=3) as load:
        await load.more(300)
        node = cluster.nodes[0]
        renewed = await cluster.lease_counters()
        await node.stop(cluster.store)
        # the others have renewed their leases twice: about two seconds
        await until(lambda: others_renewed(cluster, renewed, node, 2), "renewals of the others")
        node.resume()
        await load.more()
    assert load.errors == []
    assert await load.violations(cluster) == []
    assert fifo(cluster.turns) == []
    assert cluster.evictions == []
    assert [await cluster.status(node) for node in cluster.nodes] == [MemberStatus.ACTIVE] * 3


async def test_a_call_that_is_given_up_while_the_server_is_stopped_is_not_executed_later(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("strict", {})
    (node,) = cluster.nodes
    client = cluster.client
    assert (await client.send(Counter, "a", Add("test", 1))).value == 1
    await node.stop(cluster.store)
    given_up = [client.send(Counter, "a", Add("test", n), timeout=0.3) for n in (2, 3)]
    wanted = client.send(Counter, "a", Add("test", 4))
    answers = await asyncio.gather(*given_up, return_exceptions=True)
    node.resume()
    assert all(isinstance(answer, OutcomeUnknown) for answer in answers), answers
    assert (await wanted).value == 2
    assert await cluster.value("a") == 2
    assert [
        turn.number for turn in cluster.turns if turn.object == "Counter/a" and turn.number
    ] == [
        1,
        4,
    ]


async def others_renewed(
    cluster: Cluster, before: dict[int, int], stopped: Node, times: int
) -> bool:
    after = await cluster.lease_counters()
    return all(
        after[generation] >= before[generation] + times
        for generation in before
        if generation != stopped.generation
    )


@on_every_storage
async def test_a_pause_that_is_longer_than_the_lease_ends_the_server_and_its_late_save_is_refused(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", *[{}] * 3)
    client = cluster.client
    assert (await client.send(Counter, "settled", Add("test", 1))).value == 1
    async with Load(client) as load:
        await load.more(300)
        late = asyncio.gather(
            *(client.send(Counter, "late", Add("test", number)) for number in (1, 2)),
            return_exceptions=True,
        )
        await until(
            lambda: any(turn.object == "Counter/late" for turn in cluster.turns),
            "the save that will be late",
        )
        node = cluster.owner("Counter/late")
        await node.stop(cluster.store)
        stopped = time.monotonic()
        await cluster.dead(node)
        assert (
            await cluster.value("late") == 0
        )  # the object has been claimed, and loaded as it was before the save
        for id in load.counters:
            await cluster.value(id)
        elsewhere = time.monotonic() - stopped
        node.resume()
        assert await node.ended() == EVICTED
        await load.more()
        answers = await late
    assert [event.object for event in node.events if event.what == "refused"] == ["Counter/late"]
    assert all(isinstance(answer, OutcomeUnknown) for answer in answers[:1]), answers
    assert await cluster.value("late") == sum(
        not isinstance(answer, BaseException) for answer in answers
    )
    assert await load.violations(cluster) == []
    assert node.said("it is fenced and stops")
    report(
        f"SIGSTOP beyond the lease on {cluster.store.name}: all objects answer elsewhere after"
        f" {elsewhere:.2f} s; {load.outcomes}"
    )


@on_every_storage
async def test_a_pause_around_the_edges_of_the_lease_loses_nothing_whether_the_server_ends_or_not(
    make_cluster: MakeCluster,
) -> None:
    """Four servers at the same time, so that one is left to see what they do."""
    cluster = await make_cluster("local", *[{}] * 5)
    edges = [
        factor * edge
        for edge in (cluster.config.lease_local, cluster.config.lease_evict)
        for factor in (0.97, 1.03)
    ]
    paused = cluster.nodes[: len(edges)]
    async with Load(cluster.client) as load:
        await load.more(300)
        await asyncio.gather(
            *(cluster.pause(node, seconds) for node, seconds in zip(paused, edges, strict=True))
        )
        await asyncio.gather(*(cluster.value(id) for id in load.counters))
        await load.more()
    assert await load.violations(cluster) == []
    for node in paused:
        expected = (None, MemberStatus.ACTIVE) if node.alive else (EVICTED, MemberStatus.DEAD)
        assert (node.process.returncode, await cluster.status(node)) == expected
    gone = ", ".join(
        f"{seconds:.2f} s: {'serves on' if node.alive else 'evicted'}"
        for node, seconds in zip(paused, edges, strict=True)
    )
    report(f"SIGSTOP around the lease on {cluster.store.name}, {gone}; {load.outcomes}")


async def test_a_handler_that_blocks_beyond_the_lease_is_not_acknowledged_and_its_server_stops(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", *[{}] * 3)
    async with Load(cluster.client) as load:
        await load.more(200)
        await cluster.value("blocking")
        node = cluster.owner("Counter/blocking")
        blocked = cluster.client.send(Counter, "blocking", Block(2 * cluster.config.failover_bound))
        await cluster.dead(node)
        assert await cluster.value("blocking") == 0
        with pytest.raises(OutcomeUnknown):
            await blocked
        assert await node.ended() == EVICTED
        await load.more()
    assert await cluster.value("blocking") == 0
    assert (await cluster.client.send(Counter, "blocking", Add("test", 1))).value == 1
    assert await load.violations(cluster) == []


async def test_a_lone_server_that_was_blocked_beyond_its_lease_recovers(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", *[{}] * 1)
    async with Load(cluster.client, callers=8) as load:
        await load.more(100)
        with pytest.raises(OutcomeUnknown):
            await cluster.client.send(Counter, "blocking", Block(1.5 * cluster.config.lease_local))
        await load.more(100)
    assert await load.violations(cluster) == []
    assert await cluster.value("blocking") == 0
    assert (await cluster.client.send(Counter, "blocking", Add("test", 1))).value == 1
    assert cluster.nodes[0].alive
