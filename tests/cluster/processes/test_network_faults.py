"""Servers that cannot reach each other or their storage lose nothing, and no object lives twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from rio.contracts.membership import MemberStatus
from tests.cluster.processes.conftest import MakeCluster
from tests.cluster.processes.harness import Cluster, Load, report, until
from tests.cluster.processes.network import Network

pytestmark = pytest.mark.parametrize("store", ["postgres"], indirect=True)

EVICTED = 70
"""The exit code of a server that was declared dead."""


@asynccontextmanager
async def networked(
    make_cluster: MakeCluster, number: int
) -> AsyncIterator[tuple[Cluster, Network]]:
    cluster = await make_cluster("local")
    async with Network(cluster) as network:
        await network.start(number)
        yield cluster, network


@asynccontextmanager
async def checked(cluster: Cluster) -> AsyncIterator[Load]:
    """A load, after which nothing is missing and nothing has lived twice."""
    async with Load(cluster.client) as load:
        await load.more(200)
        yield load
        await load.more(200)
    assert await load.violations(cluster) == []


def ring(network: Network) -> None:
    """Each server reaches its two neighbours, so that each has another majority."""
    nodes = network.nodes
    for index, node in enumerate(nodes):
        network.split([node], [nodes[(index + 2) % len(nodes)]])


def bridge(network: Network) -> None:
    """Two halves, and one server that reaches both."""
    network.split(network.nodes[:2], network.nodes[3:])


async def test_the_smaller_half_of_five_is_condemned_and_the_larger_goes_on(
    make_cluster: MakeCluster,
) -> None:
    async with networked(make_cluster, 5) as (cluster, network):
        smaller, larger = network.nodes[:2], network.nodes[2:]
        async with checked(cluster) as load:
            network.split(smaller, larger)
            split = time.monotonic()
            assert [await node.ended() for node in smaller] == [EVICTED] * 2
            await asyncio.gather(*(cluster.value(id) for id in load.counters))
            moved = time.monotonic() - split
            network.heal()
        assert [await cluster.status(node) for node in larger] == [MemberStatus.ACTIVE] * 3
        report(
            f"two of five cut off: all objects answer on the other three after {moved:.2f} s;"
            f" {load.outcomes}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("split", [bridge, ring])
async def test_servers_that_reach_a_majority_and_not_the_same_stay_or_go_and_nothing_is_lost(
    make_cluster: MakeCluster, split: Callable[[Network], None]
) -> None:
    async with networked(make_cluster, 5) as (cluster, network):
        async with checked(cluster) as load:
            split(network)
            await asyncio.sleep(5.0)  # the fault itself
            network.heal()
            healed = time.monotonic()
            await asyncio.gather(*(cluster.value(id) for id in load.counters))
            recovered = time.monotonic() - healed
        gone = [node for node in network.nodes if not node.alive]
        assert len(gone) <= 2
        assert {await node.ended() for node in gone} <= {EVICTED}
        report(
            f"{split.__name__}: {len(gone)} of 5 were condemned, all objects answer"
            f" {recovered:.2f} s after it healed; {load.outcomes}"
        )


@pytest.mark.parametrize("deaf", [True, False], ids=["deaf", "dumb"])
async def test_a_server_that_only_hears_or_only_talks_costs_nothing(
    make_cluster: MakeCluster, deaf: bool
) -> None:
    async with networked(make_cluster, 3) as (cluster, network):
        async with checked(cluster) as load:
            odd, *others = network.nodes
            for other in others:
                network.lose(other, odd) if deaf else network.lose(odd, other)
            await asyncio.sleep(4.0)  # the fault itself
            network.heal()
            await asyncio.gather(*(cluster.value(id) for id in load.counters))
        assert all(node.alive for node in others)
        report(
            f"one of three is {'deaf' if deaf else 'dumb'}: it is"
            f" {'still there' if odd.alive else 'condemned'}; {load.outcomes}"
        )


async def test_a_server_without_its_storage_is_fenced_and_its_objects_move(
    make_cluster: MakeCluster,
) -> None:
    async with networked(make_cluster, 3) as (cluster, network):
        async with checked(cluster) as load:
            victim = network.nodes[0]
            cut = time.monotonic()
            network.storage_of(victim).hold()
            await cluster.dead(victim)
            await asyncio.gather(*(cluster.value(id) for id in load.counters))
            moved = time.monotonic() - cut
            assert victim.said("has lost its lease")
            network.heal()
            assert await victim.ended() == EVICTED
        assert [node.alive for node in network.nodes] == [False, True, True]
        report(
            f"cut from the storage: all objects answer elsewhere after {moved:.2f} s;"
            f" {load.outcomes}"
        )


async def test_a_server_that_renews_but_reaches_nobody_is_condemned(
    make_cluster: MakeCluster,
) -> None:
    """Nor does it evict any server, however often it votes."""
    async with networked(make_cluster, 4) as (cluster, network):
        async with checked(cluster) as load:
            liar, *others = network.nodes
            cut = time.monotonic()
            network.isolate(liar)
            assert await liar.ended() == EVICTED
            condemned = time.monotonic() - cut
            await asyncio.gather(*(cluster.value(id) for id in load.counters))
        assert all(node.alive for node in others)
        assert [await cluster.status(node) for node in others] == [MemberStatus.ACTIVE] * 3
        report(f"cut from its peers: condemned after {condemned:.2f} s; {load.outcomes}")


async def test_of_two_servers_that_cannot_reach_each_other_one_survives(
    make_cluster: MakeCluster,
) -> None:
    async with networked(make_cluster, 2) as (cluster, network):
        async with checked(cluster) as load:
            network.isolate(network.nodes[0])
            await until(
                lambda: not all(node.alive for node in network.nodes), "the end of one of two"
            )
            await asyncio.gather(*(cluster.value(id) for id in load.counters))
        [survivor] = [node for node in network.nodes if node.alive]
        assert await cluster.status(survivor) == MemberStatus.ACTIVE
        report(f"two that cannot reach each other: one survives; {load.outcomes}")
