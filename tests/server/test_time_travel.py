"""A storage that goes back in time, or loses its placements, under live objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import rio
from rio.cluster.config import ClusterConfig
from rio.contracts.placement import Placement
from rio.identity import ObjectId
from rio.testing import LocalCluster, LocalNode, run

CONFIG = ClusterConfig.strict()


class Note(rio.Message[str], readonly=True):
    pass


class Add(rio.Message[int]):
    pass


class Sum(rio.State):
    value: int = 0


class Keeper(rio.ServiceObject):
    sum: Sum = rio.managed_state()

    @rio.handler
    async def add(self, _: Add) -> int:
        self.sum.value += 1
        await self.save_state()
        return self.sum.value

    @rio.handler
    def note(self, _: Note) -> str:
        return str(self.address)


def keeps(node: LocalNode) -> dict[str, Any]:
    """The objects in the memory of a node, by id."""
    tables = node.server._catalog.dispatcher.tables
    return tables["Keeper"].mailboxes


def admits(node: LocalNode) -> bool:
    return node.server._catalog.dispatcher.admits


class Broken:
    """A cluster on a storage in memory, whose placements a test can see and change."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.nodes = cluster.nodes
        placements: Any = cluster.storage.placement
        self.placements: dict[ObjectId, Placement] = placements._placements

    async def fill(self, *ids: str) -> None:
        for id in ids:
            await self.cluster.client.send(Keeper, id, Note())

    def owner(self, id: str) -> LocalNode:
        [node] = [node for node in self.nodes if id in keeps(node)]
        return node

    def other(self, id: str) -> LocalNode:
        return next(node for node in self.nodes if id not in keeps(node))

    async def claim(self, id: str, node: LocalNode) -> Placement:
        """Claim an object for a node, as if the node had been called for it."""
        return await self.cluster.storage.placement.claim(ObjectId("Keeper", id), node.generation)

    async def until(self, condition: Callable[[], bool], within: float) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            assert loop.time() - began < within, "it did not come to that"
            await asyncio.sleep(0.01)
        return loop.time() - began


def in_a_cluster(test: Callable[[Broken], Awaitable[None]]) -> Callable[[], None]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Broken]:
        async with LocalCluster(rio.Registry(Keeper), nodes=2, cluster=CONFIG) as cluster:
            yield Broken(cluster)

    async def main() -> None:
        async with opened() as opened_test:
            await test(opened_test)

    def runner() -> None:
        run(main())

    runner.__name__, runner.__doc__ = test.__name__, test.__doc__
    return runner


@in_a_cluster
async def test_an_object_whose_placement_was_lost_does_not_live_twice_for_longer_than_the_lease(
    test: Broken,
) -> None:
    await test.fill(*"abcdef")
    owner, other = test.owner("a"), test.other("a")
    test.placements.clear()
    claimed = await test.claim("a", other)
    assert claimed.generation == other.generation
    await test.until(lambda: not admits(owner), CONFIG.lease_local)
    await test.until(lambda: admits(owner), CONFIG.lease_evict + 2 * CONFIG.renew_interval)
    assert "a" not in keeps(owner)
    assert await test.cluster.client.send(Keeper, "a", Note()) == other.address
    for id in "bcdef":
        home = await test.cluster.client.send(Keeper, id, Note())
        assert test.owner(id).address == home
    assert all(node.alive for node in test.nodes)


@in_a_cluster
async def test_an_older_placement_table_is_noticed_by_its_newest_claim(test: Broken) -> None:
    await test.fill("old")
    owner = test.owner("old")
    before = dict(test.placements)
    newer = [str(number) for number in range(20)]
    await test.fill(*newer)
    lost = [id for id in newer if id in keeps(owner)]
    assert lost
    test.placements.clear()
    test.placements.update(before)
    await test.until(lambda: not admits(owner), CONFIG.lease_local)
    await test.until(lambda: admits(owner), CONFIG.lease_evict + 2 * CONFIG.renew_interval)
    assert list(keeps(owner)) == ["old"]  # whose claim is still there
    await test.fill(*newer)


@in_a_cluster
async def test_claims_of_the_new_time_do_not_hide_that_older_ones_are_gone(test: Broken) -> None:
    await test.fill(*(str(number) for number in range(10)))
    owner = test.owner("0")
    await asyncio.sleep(3.5 * CONFIG.renew_interval)  # between two looks
    test.placements.clear()
    filling = asyncio.create_task(test.fill(*(f"new-{number}" for number in range(300))))
    await test.until(lambda: not admits(owner), CONFIG.lease_local)
    assert any(id.startswith("new") for id in keeps(owner))
    await filling


@in_a_cluster
async def test_an_object_does_not_remember_what_the_storage_has_lost(test: Broken) -> None:
    states: Any = test.cluster.storage.state
    client = test.cluster.client
    for _ in range(3):
        await client.send(Keeper, "saved", Add())
    before = dict(states._objects)
    assert await client.send(Keeper, "saved", Add()) == 4
    states._objects.clear()
    states._objects.update(before)
    home = test.owner("saved")
    others = [str(number) for number in range(20)]
    await test.fill(*others)
    lost = next(id for id in others if id in keeps(home))
    del test.placements[ObjectId("Keeper", lost)]
    await test.until(lambda: not admits(home), CONFIG.lease_local)
    await test.until(lambda: admits(home), CONFIG.lease_evict + 2 * CONFIG.renew_interval)
    assert "saved" not in keeps(home)
    assert await client.send(Keeper, "saved", Add()) == 4


@in_a_cluster
async def test_nobody_pauses_while_the_placements_are_as_they_were_left(test: Broken) -> None:
    async def call_again_and_again(number: int) -> None:
        for _ in range(40):
            await test.fill(str(number))
            await test.cluster.client.admin(rio.AdminCommand.shutdown("Keeper", str(number)))
            await asyncio.sleep(0.1 * number % 0.7)

    seen: list[bool] = []

    async def watch() -> None:
        while True:
            seen.append(all(map(admits, test.nodes)))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*map(call_again_and_again, range(10)))
    watching.cancel()
    assert len(seen) > 100
    assert all(seen)


@in_a_cluster
async def test_a_claim_that_arrived_late_costs_no_pause(test: Broken) -> None:
    await test.fill("a")
    owner = test.owner("a")
    token = test.placements[ObjectId("Keeper", "a")].token
    assert (await test.claim("a", owner)).token > token
    for _ in range(100):
        assert admits(owner)
        await asyncio.sleep(0.1)


@in_a_cluster
async def test_what_was_lost_is_found_among_objects_that_come_and_go(test: Broken) -> None:
    await test.fill(*(str(number) for number in range(300)))
    owner = test.owner("299")
    del test.placements[ObjectId("Keeper", "299")]
    await test.until(lambda: not admits(owner), CONFIG.lease_local)


@in_a_cluster
async def test_nothing_is_claimed_on_another_database_server_before_the_node_has_looked(
    test: Broken,
) -> None:
    await test.fill("a")
    owner = test.owner("a")
    ownership = owner.server._catalog.ownership
    placement: Any = ownership._placement
    type(placement).history = "promoted"
    with pytest.raises(rio.errors.Unavailable, match="has taken over"):
        await ownership.claim(ObjectId("Keeper", "new"), "Add")
    await test.until(lambda: not admits(owner), CONFIG.lease_local)
    await test.until(lambda: admits(owner), CONFIG.lease_evict + 2 * CONFIG.renew_interval)
    assert "a" in keeps(owner)  # its claim is there: it never left
    assert await ownership.claim(ObjectId("Keeper", "new"), "Add")
