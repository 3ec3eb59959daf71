"""Providers that gossip, over one storage and an in-memory network, under virtual time.

Some of the cluster is quicker with gossip; the rest stays as it was.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest

from rio._core.gossip import MemberTable
from rio.cluster.config import ClusterConfig, GossipConfig
from rio.cluster.gossip.messages import Update, encode
from rio.contracts.membership import MemberStatus, StatusChange
from rio.errors import JoinFailed, NodeEvicted, StorageUnavailable
from rio.testing.virtual_time import run
from tests.cluster.test_peer_to_peer import STRICT, Cluster, Node, in_virtual_time, seen_as, until

DEAD, CONDEMNED, ACTIVE = MemberStatus.DEAD, MemberStatus.CONDEMNED, MemberStatus.ACTIVE


class Network:
    """The links between a cluster's nodes, which a test can cut."""

    def __init__(self, cluster: Cluster, seed: int = 0) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.loss = 0.0
        self.down: set[Node] = set()
        self.sent = 0
        self.bytes = 0

    def attach(self, node: Node) -> None:
        node.provider.transport = Wire(self, node)

    def deliver(self, source: Node, address: str, payload: bytes) -> None:
        self.sent += 1
        self.bytes += len(payload)
        target = next(
            (
                node
                for node in reversed(self.cluster.nodes)
                if node.provider.address == address and not node.killed
            ),
            None,
        )
        if (
            target is not None
            and not {source, target} & self.down
            and self.rng.random() >= self.loss
            and not source.killed
        ):
            delay = self.rng.uniform(0.0005, 0.005)
            asyncio.get_running_loop().call_later(
                delay, self._arrive, target, source.generation, payload
            )

    @staticmethod
    def _arrive(target: Node, source: int, payload: bytes) -> None:
        if not target.killed:
            target.provider.receive(source, payload)


class Wire:
    def __init__(self, network: Network, node: Node) -> None:
        self.network, self.node = network, node

    def send(self, address: str, payload: bytes) -> None:
        self.network.deliver(self.node, address, payload)

    def reset(self, address: str) -> None: ...


async def talking(
    cluster: Cluster, count: int, config: ClusterConfig = STRICT, seed: int = 0
) -> tuple[Network, list[Node]]:
    """A network, and so many nodes that have joined over it."""
    await cluster.storage.prepare()
    network = Network(cluster, seed)
    return network, [await add(cluster, network, config) for _ in range(count)]


async def add(cluster: Cluster, network: Network, config: ClusterConfig = STRICT) -> Node:
    node = cluster.made(config)
    network.attach(node)
    return await node.start(f"10.0.0.{len(cluster.nodes)}:5000")


# --- joining --------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_node_joins_as_soon_as_a_majority_of_the_others_has_answered(
    cluster: Cluster,
) -> None:
    loop = asyncio.get_running_loop()
    network, _ = await talking(cluster, 4)
    for _ in range(3):
        before = loop.time()
        node = await add(cluster, network)
        assert loop.time() - before < 0.1
        assert seen_as(node, node.generation) == ACTIVE
        await asyncio.sleep(3.0)


@in_virtual_time
async def test_a_node_that_cannot_exchange_probes_with_the_others_does_not_join(
    cluster: Cluster,
) -> None:
    network, nodes = await talking(cluster, 3)
    lonely = cluster.made()
    network.attach(lonely)
    network.down.add(lonely)
    with pytest.raises(
        JoinFailed,
        match=r"lonely:1 could not exchange probes with a majority .* within 60 s.* no answer from"
        r" member 1 \(.*\), member 2 \(.*\), member \d+ \(10\.0\.0\.3:5000\)",
    ):
        await lonely.provider.join("lonely:1")
    assert (await cluster.statuses())[
        lonely.generation
    ] == MemberStatus.JOINING  # it held its lease meanwhile
    await lonely.provider.leave()
    assert (await cluster.statuses())[lonely.generation] == MemberStatus.LEFT
    assert not lonely.admits
    assert all(node.admits for node in nodes)


@in_virtual_time
async def test_nodes_join_after_all_have_crashed_though_the_storage_calls_the_old_ones_active(
    cluster: Cluster,
) -> None:
    network, nodes = await talking(cluster, 3)
    await asyncio.sleep(5.0)
    for node in nodes:
        await node.kill()
    started = asyncio.get_running_loop().time()
    fresh = [await add(cluster, network) for _ in range(3)]
    assert asyncio.get_running_loop().time() - started < 3 * 4.0
    assert all(node.admits for node in fresh)


@in_virtual_time
async def test_a_node_that_is_superseded_while_it_joins_gives_up(cluster: Cluster) -> None:
    network, _ = await talking(cluster, 3)
    old = cluster.made()
    network.attach(old)
    network.down.add(old)
    joining = asyncio.create_task(old.provider.join("a:1"))
    await asyncio.sleep(3.0)
    await cluster.storage.register("a:1")
    with pytest.raises(NodeEvicted):
        await joining
    assert not old.admits


@in_virtual_time
async def test_the_storage_may_fail_while_a_node_joins(cluster: Cluster) -> None:
    network, _ = await talking(cluster, 3)
    node = cluster.made()
    network.attach(node)
    network.down.add(node)
    joining = asyncio.create_task(node.provider.join("a:1"))
    await asyncio.sleep(1.0)
    node.storage.fault = "hangs"
    await asyncio.sleep(3.0)
    node.storage.fault = None
    network.down.clear()
    await asyncio.wait_for(joining, 3.0)
    assert node.admits
    await node.provider.leave()


# --- news -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["leave", "drain", "evict", "join"])
@in_virtual_time
async def test_a_change_is_known_to_all_much_sooner_than_by_polling(
    cluster: Cluster, change: str
) -> None:
    slow_polls = ClusterConfig(poll_interval=1.6)
    network, nodes = await talking(cluster, 10, slow_polls)
    await asyncio.sleep(20.0)
    *others, one = nodes
    match change:
        case "leave":
            await one.provider.leave()
            await until(
                lambda: all(
                    (seen_as(node, one.generation) or 0) == MemberStatus.LEFT for node in others
                ),
                within=0.8,
            )
        case "drain":
            await one.provider.drain()
            await until(
                lambda: all(
                    seen_as(node, one.generation) == MemberStatus.DRAINING for node in others
                ),
                within=0.8,
            )
        case "evict":
            await one.kill()
            await until(lambda: cluster.is_dead(one))
            await until(
                lambda: all(seen_as(node, one.generation) == DEAD for node in others), within=0.8
            )
        case "join":
            new = await add(cluster, network, slow_polls)
            await until(
                lambda: all(seen_as(node, new.generation) == ACTIVE for node in nodes), within=0.8
            )


@pytest.mark.parametrize("count", [2, 4])
@in_virtual_time
async def test_each_of_many_changes_is_known_to_all_after_two_rounds_of_gossip(
    cluster: Cluster, count: int
) -> None:
    """However many changes came before it, and also of a node that drains and is gone at once."""
    assert STRICT.gossip is not None
    rounds = 2 * STRICT.gossip.gossip_interval + 0.05  # the messages and the reads
    network, nodes = await talking(cluster, count)
    for _ in range(8):
        new = await add(cluster, network)
        await until(
            lambda new=new: all(seen_as(node, new.generation) == ACTIVE for node in nodes),  # type: ignore[misc]
            within=rounds,
        )
        await new.provider.drain()
        await new.provider.leave()
        await until(
            lambda new=new: all(  # type: ignore[misc]
                seen_as(node, new.generation) == MemberStatus.LEFT for node in nodes
            ),
            within=rounds,
        )


@in_virtual_time
async def test_healthy_nodes_talk_for_ten_minutes_and_nothing_happens(cluster: Cluster) -> None:
    network, nodes = await talking(cluster, 5)
    await asyncio.sleep(10.0)
    network.bytes = network.sent = 0
    await asyncio.sleep(600.0)
    assert all(node.admits for node in nodes)
    assert set((await cluster.statuses()).values()) == {ACTIVE}
    assert network.bytes / 5 / 600 < 120


# --- who is condemned -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
@in_virtual_time
async def test_a_node_that_renews_but_cannot_be_reached_is_condemned_and_stops(
    cluster: Cluster, count: int
) -> None:
    network, nodes = await talking(cluster, count)
    await asyncio.sleep(10.0)
    *others, victim = nodes
    network.down.add(victim)
    await until(lambda: victim.evicted, within=25.0)
    assert victim.leases[-1] == -math.inf
    assert all(node.admits for node in others)
    assert (await cluster.statuses())[victim.generation] == CONDEMNED
    await victim.provider.leave()
    assert (await cluster.statuses())[victim.generation] == MemberStatus.LEFT


@in_virtual_time
async def test_an_operator_can_condemn_a_member(cluster: Cluster) -> None:
    _, (one, other, victim) = await talking(cluster, 3)
    assert await one.provider.condemn(victim.generation) is True  # type: ignore[attr-defined]
    assert await other.provider.condemn(victim.generation) is False  # type: ignore[attr-defined]
    assert await other.provider.condemn(999) is False  # type: ignore[attr-defined]
    await until(lambda: victim.evicted, within=STRICT.renew_interval + 0.1)


@in_virtual_time
async def test_one_message_in_ten_lost_harms_nobody(cluster: Cluster) -> None:
    network, nodes = await talking(cluster, 5)
    network.loss = 0.1
    await asyncio.sleep(300.0)
    assert all(node.admits for node in nodes)
    assert set((await cluster.statuses()).values()) == {ACTIVE}


@in_virtual_time
async def test_a_lie_costs_a_node_no_more_than_a_short_pause(cluster: Cluster) -> None:
    _, (victim, liar, _) = await talking(cluster, 3)
    await asyncio.sleep(10.0)
    table = MemberTable()
    table.put_snapshot(10**9, 10**9, [(victim.generation, DEAD)])
    for _ in range(20):
        victim.provider.receive(
            liar.generation,
            encode(Update(victim.generation, liar.generation, 10**9, 0, table.encode())),
        )
        assert not victim.admits or -math.inf in victim.leases
        await asyncio.sleep(1.1 * STRICT.renew_interval)
        assert victim.admits
    assert victim.leases.count(-math.inf) == 1  # then the others stop believing it
    assert not victim.stopped


# --- without gossip all is as it was --------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4])
@in_virtual_time
async def test_when_no_message_arrives_the_leases_decide_as_ever(
    cluster: Cluster, count: int
) -> None:
    network, (*others, victim) = await talking(cluster, count)
    await asyncio.sleep(10.0)
    network.down.update(cluster.nodes)
    await asyncio.sleep(120.0)
    assert set((await cluster.statuses()).values()) == {ACTIVE}
    await victim.kill()
    took = await until(lambda: cluster.is_dead(victim))
    assert STRICT.lease_evict - STRICT.renew_interval < took <= STRICT.failover_bound
    # of two that are left, the one that joined later is condemned at once
    assert all(node.admits for node in (others if count > 3 else others[:1]))


@in_virtual_time
async def test_an_outage_of_the_storage_evicts_nobody(cluster: Cluster) -> None:
    _, nodes = await talking(cluster, 5)
    await asyncio.sleep(10.0)
    for node in nodes:
        node.storage.fault = "hangs"
    await asyncio.sleep(15.0)
    assert not any(node.admits for node in nodes)
    for node in nodes:
        node.storage.fault = None
    await until(lambda: all(node.admits for node in nodes), within=2.0)
    await asyncio.sleep(30.0)
    assert set((await cluster.statuses()).values()) == {ACTIVE}


@in_virtual_time
async def test_gossip_can_be_switched_off(cluster: Cluster) -> None:
    network, nodes = await talking(cluster, 3, ClusterConfig(gossip=None))
    await asyncio.sleep(30.0)
    assert network.sent == 0
    assert all(node.admits for node in nodes)


@in_virtual_time
async def test_a_provider_that_does_not_gossip_ignores_messages(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    node.provider.receive(7, b"anything")
    assert node.admits


@pytest.mark.parametrize("seed", range(6))
@in_virtual_time
async def test_no_node_admits_at_the_moment_it_is_declared_dead(
    cluster: Cluster, seed: int
) -> None:
    rng, loop = random.Random(seed), asyncio.get_running_loop()
    network, _ = await talking(cluster, 0, seed=seed)
    ended: list[tuple[MemberStatus, bool]] = []
    set_status = cluster.storage.set_status

    async def watched(
        generation: int, expected: MemberStatus, status: MemberStatus, **options: Any
    ) -> StatusChange:
        change = await set_status(generation, expected, status, **options)
        if change.applied and status >= CONDEMNED:
            ended.extend(
                (status, node.admits) for node in cluster.nodes if node.generation == generation
            )
        return change

    cluster.storage.set_status = watched  # type: ignore[method-assign]
    while loop.time() < 300.0:
        while len(live := [node for node in cluster.nodes if not node.stopped]) < 5:
            await start_somehow(cluster, network, rng)
        victim = rng.choice(live)
        match rng.choice(("kill", "cut", "outage", "unreachable", "loss")):
            case "kill":
                await victim.kill()
            case "cut":
                victim.storage.fault = rng.choice(("down", "hangs", "read-only", "slow reads"))
            case "outage":
                for node in live:
                    node.storage.fault = "hangs"
            case "unreachable":
                network.down.add(victim)
            case "loss":
                network.loss = 0.3
        await asyncio.sleep(rng.choice((0.5, 3.0, 7.0, 12.0, 20.0)))
        for node in live:
            node.storage.fault = None
        network.down.clear()
        network.loss = 0.0
        await asyncio.sleep(rng.uniform(0.0, 10.0))
    assert {status for status, _ in ended} >= {DEAD}
    assert not any(admitted for status, admitted in ended if status == DEAD)


async def start_somehow(cluster: Cluster, network: Network, rng: random.Random) -> None:
    node = cluster.made(rate=rng.uniform(0.9, 1.1))
    network.attach(node)
    node.storage.delay = lambda: (
        rng.uniform(0.001, 0.02) if rng.random() < 0.97 else rng.uniform(0.05, 2.5)
    )
    while node.serving is None:
        try:
            await node.start(f"10.0.0.{len(cluster.nodes)}:5000")
        except (StorageUnavailable, JoinFailed):
            await node.provider.leave()
            await asyncio.sleep(0.1)


def test_the_same_program_takes_the_same_steps() -> None:
    async def trace() -> list[tuple[float, int, float]]:
        cluster = Cluster()
        network, nodes = await talking(cluster, 5)
        steps: list[tuple[float, int, float]] = []
        loop = asyncio.get_running_loop()
        for node in nodes:
            node.provider.on_lease = lambda lease, node=node: steps.append(
                (loop.time(), node.generation, lease)
            )  # type: ignore[misc]
        network.loss = 0.2
        await asyncio.sleep(30.0)
        network.down.add(nodes[2])
        await asyncio.sleep(30.0)
        await cluster.stop()
        return [*steps, (network.sent, network.bytes, 0.0)]

    first, second = run(trace()), run(trace())
    assert len(first) > 200
    assert first == second


def test_the_presets_gossip_in_proportion() -> None:
    for config in (ClusterConfig.strict(), ClusterConfig.fast(), ClusterConfig.local()):
        assert config.gossip == GossipConfig.every(config.renew_interval)
