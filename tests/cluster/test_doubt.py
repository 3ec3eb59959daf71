"""A storage that may have forgotten something makes a node pause, look, and go on."""

from __future__ import annotations

import asyncio
import math

from rio.cluster.config import ClusterConfig
from rio.cluster.doubt import Audit
from rio.errors import StorageUnavailable
from tests.cluster.test_peer_to_peer import STRICT, Cluster, Node, in_virtual_time, until


class Watch(Audit):
    """An audit that notes when it is asked, and finds what it is told."""

    def __init__(self, node: Node) -> None:
        self.loss = ""
        self.audits: list[float] = []
        self.fails = False
        self._clock = node.clock
        node.provider.audit = self

    async def find_loss(self) -> str:
        return self.loss

    async def drop_what_was_lost(self) -> None:
        self.audits.append(self._clock())
        if self.fails:
            raise StorageUnavailable("away")
        self.loss = ""


def pauses(node: Node) -> int:
    return node.leases.count(-math.inf)


@in_virtual_time
async def test_another_database_server_is_a_pause_an_audit_and_no_eviction(
    cluster: Cluster,
) -> None:
    nodes = await cluster.started(3)
    watches = [Watch(node) for node in nodes]
    await asyncio.sleep(5.0)
    for node in nodes:
        node.storage.past = "promoted"
    await until(lambda: all(pauses(node) == 1 for node in nodes), STRICT.renew_interval + 0.1)
    for node in nodes:
        assert not node.admits
    paused = await until(lambda: all(node.admits for node in nodes))
    assert STRICT.lease_evict - 0.1 <= paused + STRICT.renew_interval
    assert paused <= STRICT.lease_evict + STRICT.renew_interval + 0.1
    assert [len(watch.audits) for watch in watches] == [1, 1, 1]
    await asyncio.sleep(60.0)
    assert [pauses(node) for node in nodes] == [1, 1, 1]
    assert not any(node.stopped for node in nodes)
    assert not any([await cluster.is_dead(node) for node in nodes])


@in_virtual_time
async def test_identifiers_of_a_history_are_not_ordered(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    watch = Watch(node)
    for number, past in enumerate(("b", "a", "c", ""), 1):
        node.storage.past = past
        await until(lambda number=number: pauses(node) == number)
        await until(lambda: node.admits)
        assert len(watch.audits) == number


@in_virtual_time
async def test_a_loss_that_the_audit_finds_is_a_pause(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    watch = Watch(node)
    watch.loss = "a claim is gone"
    await until(lambda: pauses(node) == 1, 2 * STRICT.renew_interval)
    await until(lambda: node.admits)
    assert len(watch.audits) == 1


@in_virtual_time
async def test_a_node_goes_on_only_after_an_audit_that_was_answered(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    watch = Watch(node)
    watch.fails = True
    node.storage.past = "promoted"
    await until(lambda: len(watch.audits) >= 3)
    assert not node.admits
    watch.fails = False
    await until(lambda: node.admits)


@in_virtual_time
async def test_a_loss_during_a_pause_makes_it_longer(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    watch = Watch(node)
    node.storage.past = "promoted"
    await until(lambda: pauses(node) == 1)
    await asyncio.sleep(0.9 * STRICT.lease_evict)
    node.storage.past = "promoted again"
    await until(lambda: pauses(node) == 2)
    again = node.clock() - 0.02  # until() looks every 10 ms
    await until(lambda: node.admits)
    assert watch.audits[-1] >= again + STRICT.lease_evict
    assert node.clock() >= again + STRICT.lease_evict


@in_virtual_time
async def test_renewals_during_a_pause_keep_the_member_alive_and_do_not_end_it(
    cluster: Cluster,
) -> None:
    config = ClusterConfig.local()
    node, other = await cluster.started(2, config)
    Watch(node)
    node.storage.past = "promoted"
    await until(lambda: pauses(node) == 1)
    began = node.clock()
    await until(lambda: node.admits)
    assert node.clock() - began >= config.lease_evict
    assert not await cluster.is_dead(node)
    assert other.admits
    assert not pauses(other)
