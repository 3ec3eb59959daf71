"""Providers over one storage, under virtual time: fences, evictions, and what they leave."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

import pytest

from rio.backoff import backoff
from rio.cluster.config import ClusterConfig
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.cluster.provider import ClusterProvider, LocalClusterProvider
from rio.cluster.storage_calls import MAX_ABANDONED_CALLS
from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    Renewal,
    StatusChange,
    Vote,
)
from rio.errors import ConfigurationError, NodeEvicted, StorageUnavailable
from rio.storage.local import LocalMembershipStorage
from rio.testing.virtual_time import run

Fault = Literal["down", "hangs", "read-only", "slow reads", "broken driver", "ignores cancellation"]

STRICT = ClusterConfig.strict()


class FaultyStorage(MembershipStorage):
    """One node's way to the shared storage, which a test can break."""

    def __init__(self, shared: MembershipStorage, fault: Fault | None = None) -> None:
        self.shared = shared
        self.fault = fault
        self.delay: Callable[[], float] | None = None
        self.past = ""

    @property
    def history(self) -> str:
        return self.past

    async def _way(self, *, writes: bool) -> None:
        if self.delay is not None:
            await asyncio.sleep(self.delay())
        match self.fault:
            case "down":
                raise StorageUnavailable("down")
            case "broken driver":
                raise KeyError("what no contract allows")
            case "hangs":
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.01)  # drivers have to clean up
            case "ignores cancellation":
                await deaf(50.0)
            case "read-only" if writes:
                raise StorageUnavailable("read-only")
            case "slow reads" if not writes:
                await asyncio.Event().wait()

    async def prepare(self) -> None:
        await self.shared.prepare()

    async def close(self) -> None:
        await self.shared.close()

    async def register(
        self, address: str, metadata: bytes = b"", manifest: bytes = b""
    ) -> Registered:
        await self._way(writes=True)
        return await self.shared.register(address, metadata, manifest)

    async def renew(self, generation: int) -> Renewal | None:
        await self._way(writes=True)
        return await self.shared.renew(generation)

    async def snapshot(self) -> MembershipSnapshot:
        await self._way(writes=False)
        return await self.shared.snapshot()

    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        await self._way(writes=True)
        return await self.shared.set_status(
            generation, expected, status, expected_counter=expected_counter
        )

    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        await self._way(writes=True)
        return await self.shared.vote(generation, vote)

    async def set_manifest(self, generation: int, manifest: bytes) -> bool:
        await self._way(writes=True)
        return await self.shared.set_manifest(generation, manifest)

    async def read_manifests(self, generations: Sequence[int]) -> Mapping[int, bytes]:
        await self._way(writes=False)
        return await self.shared.read_manifests(generations)

    async def set_settings(self, settings: bytes, version: int) -> bool:
        await self._way(writes=True)
        return await self.shared.set_settings(settings, version)

    async def change_cluster_id(self, cluster_id: str) -> MembershipSnapshot:
        await self._way(writes=True)
        return await self.shared.change_cluster_id(cluster_id)

    async def purge(self, generation: int) -> bool:
        await self._way(writes=True)
        return await self.shared.purge(generation)


async def deaf(seconds: float) -> None:
    """Swallow a cancellation for a while, as some drivers do."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        try:
            await asyncio.sleep(end - loop.time())
        except asyncio.CancelledError:
            continue


class Node:
    """A server reduced to its membership.

    It admits by its lease and its own clock, and notes what it is told.
    """

    def __init__(
        self,
        cluster: Cluster,
        provider: ClusterProvider,
        storage: FaultyStorage,
        clock: Callable[[], float],
    ) -> None:
        self.cluster, self.provider, self.storage, self.clock = cluster, provider, storage, clock
        self.leases: list[float] = []
        self.snapshots: list[MembershipSnapshot] = []
        provider.on_lease = self.leases.append
        provider.on_snapshot = self.snapshots.append
        self.serving: asyncio.Task[None] | None = None
        self.killed = False

    @property
    def generation(self) -> int:
        return self.provider.generation

    @property
    def admits(self) -> bool:
        return not self.killed and bool(self.leases) and self.clock() < self.leases[-1]

    @property
    def stopped(self) -> bool:
        return self.serving is None or self.serving.done()

    @property
    def evicted(self) -> bool:
        return (
            self.serving is not None
            and self.serving.done()
            and isinstance(self.serving.exception(), NodeEvicted)
        )

    async def start(self, address: str) -> Node:
        await self.provider.join(address)
        self.serving = asyncio.create_task(self.provider.serve())
        return self

    async def kill(self) -> None:
        """End as by SIGKILL: nothing more is sent, and nobody is told."""
        assert self.serving is not None
        self.killed = True
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)


class Cluster:
    """The shared storage and its nodes."""

    def __init__(self) -> None:
        self.storage = LocalMembershipStorage()
        self.nodes: list[Node] = []

    async def node(
        self,
        address: str | None = None,
        config: ClusterConfig = STRICT,
        *,
        kind: type[ClusterProvider] = PeerToPeerClusterProvider,
        rate: float = 1.0,
    ) -> Node:
        node = self.made(config, kind=kind, rate=rate)
        return await node.start(address or f"10.0.0.{len(self.nodes)}:5000")

    def made(
        self,
        config: ClusterConfig = STRICT,
        *,
        kind: type[ClusterProvider] = PeerToPeerClusterProvider,
        rate: float = 1.0,
    ) -> Node:
        """A node that has not joined. Its clock starts anywhere."""
        loop, number = asyncio.get_running_loop(), len(self.nodes)
        storage = FaultyStorage(self.storage)

        def clock() -> float:
            return 1000.0 * number + rate * loop.time()

        self.nodes.append(
            Node(
                self, kind(storage, config, clock=clock, rng=random.Random(number)), storage, clock
            )
        )
        return self.nodes[-1]

    async def started(self, count: int, config: ClusterConfig = STRICT) -> list[Node]:
        await self.storage.prepare()
        return [await self.node(config=config) for _ in range(count)]

    async def statuses(self) -> dict[int, MemberStatus]:
        return {
            member.generation: member.status for member in (await self.storage.snapshot()).members
        }

    async def is_dead(self, node: Node) -> bool:
        return (await self.statuses())[node.generation] == MemberStatus.DEAD

    async def stop(self) -> None:
        for node in self.nodes:
            if node.serving is not None:
                await node.kill()


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a virtual loop, with a fresh ``cluster`` as its first parameter.

    Also check that the test left no task behind.
    """

    def runner(**arguments: Any) -> None:
        async def main() -> None:
            cluster = Cluster()
            await test(cluster, **arguments)
            await cluster.stop()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(main())

    _, *parameters = inspect.signature(test).parameters.values()
    runner.__name__, runner.__doc__ = test.__name__, test.__doc__
    runner.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return runner


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float = 60.0) -> float:
    """Wait in steps of 10 ms; the virtual seconds that it took."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while not (await holds if inspect.isawaitable(holds := condition()) else holds):
        assert loop.time() - start < within, "it did not come to that"
        await asyncio.sleep(0.01)
    return loop.time() - start


def seen_as(node: Node, generation: int) -> MemberStatus | None:
    return node.provider.snapshot.status_of(generation)


# --- joining --------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_node_that_joined_is_active_and_holds_a_lease(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    assert await cluster.statuses() == {node.generation: MemberStatus.ACTIVE}
    assert node.leases == [STRICT.lease_local]
    assert node.provider.snapshot.status_of(node.generation) == MemberStatus.ACTIVE
    assert [snapshot.version for snapshot in node.snapshots] == [2, 3]


@in_virtual_time
async def test_nodes_see_each_other_within_one_poll(cluster: Cluster) -> None:
    first, second = await cluster.started(2)
    await asyncio.sleep(STRICT.poll_interval + 0.1)
    assert (
        seen_as(first, second.generation)
        == seen_as(second, first.generation)
        == MemberStatus.ACTIVE
    )


@in_virtual_time
async def test_healthy_nodes_renew_for_an_hour_and_nobody_is_fenced_or_evicted(
    cluster: Cluster,
) -> None:
    nodes = await cluster.started(3)
    await asyncio.sleep(3600.0)
    assert all(node.admits for node in nodes)
    assert all(
        len(node.leases) == pytest.approx(3600, abs=5) and node.leases == sorted(node.leases)
        for node in nodes
    )
    assert set((await cluster.statuses()).values()) == {MemberStatus.ACTIVE}
    versions = [snapshot.version for snapshot in nodes[0].snapshots]
    assert versions == sorted(set(versions))  # each member is told once
    assert versions[-1] == 7  # the settings, two by each member that joined, and none since
    known = nodes[0].provider.snapshot.find(nodes[1].generation)
    assert known is not None
    # while the snapshot itself stays fresh
    assert known.lease_counter == pytest.approx(3600, abs=5)


@in_virtual_time
async def test_a_join_that_the_storage_refuses_says_so(cluster: Cluster) -> None:
    node = cluster.made()
    node.storage.fault = "hangs"
    with pytest.raises(StorageUnavailable, match="did not answer within 2 s"):
        await node.provider.join("a:1")
    await node.provider.leave()  # there is nothing to take back
    with pytest.raises(RuntimeError, match="join"):
        await node.provider.serve()


# --- eviction -------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("preset", ["strict", "fast", "local"])
@in_virtual_time
async def test_a_killed_node_is_evicted_after_lease_evict_and_within_the_failover_bound(
    cluster: Cluster, preset: str, age: float
) -> None:
    config = ClusterConfig.named(preset)
    watcher, victim = await cluster.started(2, config)
    await asyncio.sleep(20.0 + age * config.renew_interval)
    await victim.kill()
    took = await until(lambda: cluster.is_dead(victim))
    assert config.lease_evict - config.renew_interval < took <= config.failover_bound
    assert watcher.admits


@in_virtual_time
async def test_a_silent_member_of_any_status_is_evicted(cluster: Cluster) -> None:
    (watcher,) = await cluster.started(1)
    silent = {}
    for status in (
        MemberStatus.JOINING,
        MemberStatus.ACTIVE,
        MemberStatus.DRAINING,
        MemberStatus.CONDEMNED,
    ):
        generation = (await cluster.storage.register(f"{status.name}:1")).generation
        if status > MemberStatus.JOINING:
            await cluster.storage.set_status(generation, MemberStatus.JOINING, status)
        silent[generation] = status
    await asyncio.sleep(STRICT.lease_evict - 0.1)
    assert {
        generation: status
        for generation, status in (await cluster.statuses()).items()
        if generation in silent
    } == silent
    await asyncio.sleep(STRICT.failover_bound)
    assert {
        status for generation, status in (await cluster.statuses()).items() if generation in silent
    } == {MemberStatus.DEAD}
    assert watcher.admits


@in_virtual_time
async def test_a_renewal_that_comes_just_before_the_eviction_wins(cluster: Cluster) -> None:
    (watcher,) = await cluster.started(1)
    late = (await cluster.storage.register("late:1")).generation
    evict = watcher.storage.set_status

    async def renewed_meanwhile(*args: Any, **kwargs: Any) -> StatusChange:
        await cluster.storage.renew(late)
        return await evict(*args, **kwargs)

    watcher.storage.set_status = renewed_meanwhile  # type: ignore[method-assign]
    await asyncio.sleep(30.0)
    assert (await cluster.statuses())[late] == MemberStatus.JOINING


@pytest.mark.parametrize("rates", [(1.0, 1.0), (1.1, 0.9), (0.9, 1.1)], ids=str)
@pytest.mark.parametrize("fault", ["down", "hangs", "read-only"])
@in_virtual_time
async def test_a_node_that_loses_the_storage_is_fenced_before_it_is_evicted_and_then_stops(
    cluster: Cluster, fault: Fault, rates: tuple[float, float]
) -> None:
    await cluster.storage.prepare()
    _, cut = await cluster.node(rate=rates[0]), await cluster.node(rate=rates[1])
    await asyncio.sleep(10.3)
    cut.storage.fault = fault
    fenced = await until(lambda: not cut.admits)
    assert (await cluster.statuses())[cut.generation] == MemberStatus.ACTIVE
    assert fenced <= STRICT.lease_local / rates[1]
    await until(lambda: cluster.is_dead(cut))
    assert not cut.admits
    assert not cut.evicted or fault == "read-only"  # without a read it cannot know
    cut.storage.fault = None
    await until(lambda: cut.evicted, within=STRICT.storage_timeout + STRICT.renew_interval)
    assert cut.leases[-1] == -math.inf


@pytest.mark.parametrize("status", [MemberStatus.CONDEMNED, MemberStatus.DEAD])
@in_virtual_time
async def test_an_evicted_node_is_fenced_first_and_its_serve_then_raises(
    cluster: Cluster, status: MemberStatus
) -> None:
    _, node = await cluster.started(2)
    order: list[str] = []
    node.provider.on_lease = lambda lease_until: order.append(f"lease {lease_until}")
    assert node.serving is not None
    node.serving.add_done_callback(lambda task: order.append(type(task.exception()).__name__))
    await cluster.storage.set_status(node.generation, MemberStatus.ACTIVE, status)
    await until(lambda: node.evicted, within=STRICT.renew_interval + 0.1)
    assert order[-2:] == ["lease -inf", "NodeEvicted"]


@pytest.mark.parametrize("purged", [False, True])
@in_virtual_time
async def test_a_node_that_cannot_renew_learns_of_its_eviction_from_a_snapshot(
    cluster: Cluster, purged: bool
) -> None:
    _, node = await cluster.started(2)
    node.storage.fault = "read-only"
    await cluster.storage.set_status(node.generation, MemberStatus.ACTIVE, MemberStatus.DEAD)
    if purged:
        await cluster.storage.purge(node.generation)
    await until(lambda: node.evicted, within=STRICT.poll_interval + 0.1)
    with pytest.raises(NodeEvicted):
        await node.provider.refresh()


@in_virtual_time
async def test_a_node_that_cannot_read_learns_of_its_eviction_from_its_renewal(
    cluster: Cluster,
) -> None:
    _, node = await cluster.started(2)
    node.storage.fault = "slow reads"
    await cluster.storage.set_status(node.generation, MemberStatus.ACTIVE, MemberStatus.DEAD)
    await until(lambda: node.evicted, within=STRICT.renew_interval + 0.1)
    assert not node.admits


@in_virtual_time
async def test_a_restart_on_the_same_address_ends_the_older_generation(cluster: Cluster) -> None:
    (old,) = await cluster.started(1)
    new = await cluster.node(old.provider.address)
    assert new.generation > old.generation
    assert (await cluster.statuses()) == {
        old.generation: MemberStatus.DEAD,
        new.generation: MemberStatus.ACTIVE,
    }
    await until(lambda: old.evicted, within=STRICT.renew_interval + 0.1)
    assert not old.admits
    assert new.admits


@in_virtual_time
async def test_an_evicted_node_may_join_again_as_a_new_member(cluster: Cluster) -> None:
    _, node = await cluster.started(2)
    before = node.generation
    await cluster.storage.set_status(before, MemberStatus.ACTIVE, MemberStatus.DEAD)
    await until(lambda: node.evicted)
    await node.provider.leave()
    await node.start(node.provider.address)
    assert node.generation > before
    assert node.admits
    await asyncio.sleep(60.0)
    assert node.admits
    assert (await cluster.statuses())[node.generation] == MemberStatus.ACTIVE


@in_virtual_time
async def test_with_a_limit_only_the_next_members_on_the_ring_evict(cluster: Cluster) -> None:
    nodes = await cluster.started(4, ClusterConfig(limit_monitored_members=1))
    evictions: list[tuple[int, int]] = []
    for node in nodes:
        evict = node.provider._evict

        async def noted(member: Member, node: Node = node, evict: Any = evict) -> None:
            evictions.append((node.generation, member.generation))
            await evict(member)

        node.provider._evict = noted  # type: ignore[method-assign]
    await nodes[1].kill()
    await nodes[2].kill()
    await asyncio.sleep(STRICT.failover_bound + STRICT.poll_interval)
    assert evictions == [
        (nodes[0].generation, nodes[1].generation),
        (nodes[0].generation, nodes[2].generation),
    ]


@in_virtual_time
async def test_half_of_a_large_cluster_is_evicted_within_the_bound(cluster: Cluster) -> None:
    nodes = await cluster.started(40)
    for node in nodes[::2]:
        await node.kill()
    await asyncio.sleep(STRICT.failover_bound)
    statuses = await cluster.statuses()
    assert {statuses[node.generation] for node in nodes[::2]} == {MemberStatus.DEAD}
    assert {statuses[node.generation] for node in nodes[1::2]} == {MemberStatus.ACTIVE}


@in_virtual_time
async def test_many_evictions_over_a_slow_storage_do_not_hold_up_the_reads(
    cluster: Cluster,
) -> None:
    (node,) = await cluster.started(1)
    for number in range(40):
        await cluster.storage.register(f"dead:{number}")
    loop, reads, snapshot = asyncio.get_running_loop(), [], node.storage.snapshot

    async def noted() -> MembershipSnapshot:
        reads.append(loop.time())
        return await snapshot()

    node.storage.snapshot = noted  # type: ignore[method-assign]
    node.storage.delay = lambda: 0.2
    await asyncio.sleep(30.0)
    assert max(later - earlier for earlier, later in itertools.pairwise(reads)) < 1.5
    statuses = await cluster.statuses()
    assert [status for status in statuses.values() if status != MemberStatus.DEAD] == [
        MemberStatus.ACTIVE
    ]


# --- a storage that fails -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["down", "hangs", "read-only", "slow reads", "broken driver", "ignores cancellation"]
)
@in_virtual_time
async def test_an_outage_of_15_s_ends_no_node_and_the_lease_is_back_within_two_seconds(
    cluster: Cluster, fault: Fault
) -> None:
    nodes = await cluster.started(5)
    await asyncio.sleep(10.0)
    for node in nodes:
        node.storage.fault = fault
    await asyncio.sleep(15.0)
    assert all(
        node.admits == (fault == "slow reads") for node in nodes
    )  # renewals do not wait for reads
    for node in nodes:
        node.storage.fault = None
    await until(lambda: all(node.admits for node in nodes), within=STRICT.storage_timeout + 0.1)
    await asyncio.sleep(60.0)  # longer than a driver that ignores cancellation hangs
    assert all(node.admits for node in nodes)
    assert set((await cluster.statuses()).values()) == {MemberStatus.ACTIVE}


@in_virtual_time
async def test_a_lease_is_counted_from_the_sending_of_the_renewal(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    await asyncio.sleep(3.5)
    margins: list[float] = []
    node.provider.on_lease = lambda lease_until: margins.append(lease_until - node.clock())
    node.storage.delay = lambda: 1.5
    await asyncio.sleep(20.0)
    assert margins
    assert margins == [pytest.approx(STRICT.lease_local - 1.5)] * len(margins)


@in_virtual_time
async def test_a_renewal_that_failed_is_tried_again_long_before_the_next_one_is_due(
    cluster: Cluster,
) -> None:
    (node,) = await cluster.started(1)
    await asyncio.sleep(9.99)
    node.storage.fault = "down"
    await asyncio.sleep(0.02)
    node.storage.fault = None
    renewals = len(node.leases)
    assert await until(lambda: len(node.leases) > renewals) < 0.2


@in_virtual_time
async def test_a_stuck_read_never_delays_a_renewal(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    node.storage.fault = "slow reads"
    before = len(node.leases)
    await asyncio.sleep(100.0)
    assert len(node.leases) - before == pytest.approx(100, abs=1)


@in_virtual_time
async def test_calls_that_hang_for_ever_are_bounded(cluster: Cluster) -> None:
    (node,) = await cluster.started(1)
    node.storage.fault = "ignores cancellation"
    for _ in range(MAX_ABANDONED_CALLS):
        await asyncio.gather(
            node.provider.refresh(), node.provider.refresh(), return_exceptions=True
        )
    assert len(node.provider._calls._abandoned) == MAX_ABANDONED_CALLS
    with pytest.raises(StorageUnavailable, match="64 earlier calls of the storage still hang"):
        await node.provider.refresh()
    node.storage.fault = None
    await asyncio.sleep(60.0)
    assert node.admits
    assert not node.provider._calls._abandoned


@in_virtual_time
async def test_a_storage_failure_is_told_once_and_its_end_too(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rio.cluster")
    (node,) = await cluster.started(1)
    node.storage.fault = "down"
    await asyncio.sleep(10.0)
    node.storage.fault = None
    await asyncio.sleep(2.0)
    told = [record.getMessage() for record in caplog.records]
    assert sum("renewing the lease failed" in line for line in told) == 1
    assert sum("renewing the lease works again" in line for line in told) == 1


@pytest.mark.parametrize(
    ("failures", "most"), [(1, 0.05), (2, 0.1), (5, 0.8), (6, 1.0), (10_000, 1.0)]
)
def test_a_retry_waits_longer_after_each_failure_but_no_longer_than_the_interval(
    failures: int, most: float
) -> None:
    rng = random.Random(1)
    delays = [backoff(failures, 0.05, 1.0, rng) for _ in range(1000)]
    assert max(delays) <= most
    assert max(delays) > 0.9 * most


# --- drain, leave, purge --------------------------------------------------------------------------


@in_virtual_time
async def test_a_node_drains_keeps_its_lease_and_leaves(cluster: Cluster) -> None:
    other, node = await cluster.started(2)
    await node.provider.drain()
    await asyncio.sleep(30.0)
    assert seen_as(other, node.generation) == MemberStatus.DRAINING
    assert node.admits
    await node.provider.leave()
    assert not node.admits
    assert (await cluster.statuses())[node.generation] == MemberStatus.LEFT
    assert node.serving is not None
    assert await node.serving is None  # leave() ends it, without an error
    await node.provider.leave()
    await asyncio.sleep(STRICT.poll_interval)
    assert seen_as(other, node.generation) == MemberStatus.LEFT


@in_virtual_time
async def test_a_node_leaves_without_draining_and_after_serve_was_cancelled(
    cluster: Cluster,
) -> None:
    _, node = await cluster.started(2)
    await node.kill()
    await node.provider.leave()
    assert (await cluster.statuses())[node.generation] == MemberStatus.LEFT


@in_virtual_time
async def test_draining_an_evicted_node_raises(cluster: Cluster) -> None:
    _, node = await cluster.started(2)
    await cluster.storage.set_status(node.generation, MemberStatus.ACTIVE, MemberStatus.DEAD)
    with pytest.raises(NodeEvicted):
        await node.provider.drain()
    assert not node.admits


@in_virtual_time
async def test_a_node_that_cannot_tell_that_it_leaves_is_fenced_and_evicted(
    cluster: Cluster,
) -> None:
    other, node = await cluster.started(2)
    node.storage.fault = "hangs"
    with pytest.raises(StorageUnavailable):
        await node.provider.leave()
    assert not node.admits
    await until(
        lambda: seen_as(other, node.generation) == MemberStatus.DEAD, within=STRICT.failover_bound
    )


@in_virtual_time
async def test_a_renewal_that_succeeds_while_the_node_leaves_does_not_lift_the_fence(
    cluster: Cluster,
) -> None:
    (node,) = await cluster.started(1)
    node.storage.delay = lambda: 1.0
    leaving = asyncio.create_task(node.provider.leave())
    await asyncio.sleep(0.1)
    node.storage.delay = None
    await node.provider._renew()
    assert not node.admits
    await leaving


@in_virtual_time
async def test_members_that_ended_are_purged_in_time_and_stay_dead(cluster: Cluster) -> None:
    config = ClusterConfig(drop_inactive_after=100.0)
    nodes = await cluster.started(3, config)
    await nodes[2].kill()
    await nodes[2].provider.leave()
    await asyncio.sleep(99.0)
    assert nodes[2].generation in await cluster.statuses()
    await asyncio.sleep(5.0)
    assert nodes[2].generation not in await cluster.statuses()
    assert (
        seen_as(nodes[0], nodes[2].generation)
        == seen_as(nodes[1], nodes[2].generation)
        == MemberStatus.DEAD
    )


# --- cancellation ---------------------------------------------------------------------------------


def test_serve_cancelled_at_any_step_leaves_no_task() -> None:
    async def check(steps: int, fault: Fault | None) -> None:
        cluster = Cluster()
        (node,) = await cluster.started(1)
        node.storage.fault = fault
        node.storage.delay = lambda: 0.0
        for _ in range(steps):
            await asyncio.sleep(0)
        await node.kill()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    for steps in range(25):
        for fault in (None, "hangs", "down"):
            run(check(steps, fault))


def test_join_cancelled_at_any_step_is_taken_back_by_leave() -> None:
    async def check(steps: int) -> bool:
        cluster = Cluster()
        await cluster.storage.prepare()
        node = cluster.made()
        node.storage.delay = lambda: 0.0
        joining = asyncio.create_task(node.provider.join("a:1"))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = joining.done()
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        await node.provider.leave()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not node.admits
        status = (await cluster.statuses()).get(node.generation, MemberStatus.LEFT)
        assert status == MemberStatus.LEFT
        return finished

    finished = [run(check(steps)) for steps in range(40)]
    assert finished[0] is False
    assert finished[-1] is True


# --- the whole, under every fault -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@in_virtual_time
async def test_no_node_admits_at_the_moment_it_is_declared_dead(
    cluster: Cluster, seed: int
) -> None:
    rng, loop = random.Random(seed), asyncio.get_running_loop()
    await cluster.storage.prepare()
    admitted_when_declared_dead: list[bool] = []
    set_status = cluster.storage.set_status

    async def watched(
        generation: int, expected: MemberStatus, status: MemberStatus, **options: Any
    ) -> StatusChange:
        change = await set_status(generation, expected, status, **options)
        if change.applied and status == MemberStatus.DEAD:
            admitted_when_declared_dead.extend(
                node.admits for node in cluster.nodes if node.generation == generation
            )
        return change

    cluster.storage.set_status = watched  # type: ignore[method-assign]
    while loop.time() < 300.0:
        while len(live := [node for node in cluster.nodes if not node.stopped]) < 5:
            await start_somehow(cluster, rng)
        victim = rng.choice(live)
        match rng.choice(("kill", "cut", "outage", "quiet")):
            case "kill":
                await victim.kill()
            case "cut":
                victim.storage.fault = rng.choice(("down", "hangs", "read-only", "slow reads"))
            case "outage":
                for node in live:
                    node.storage.fault = "hangs"
        await asyncio.sleep(rng.choice((0.5, 3.0, 6.0, 7.0, 12.0)))
        for node in live:
            node.storage.fault = None
        await asyncio.sleep(rng.uniform(0.0, 10.0))
    assert len(admitted_when_declared_dead) >= 3
    assert not any(admitted_when_declared_dead)


async def start_somehow(cluster: Cluster, rng: random.Random) -> None:
    """A node with a drifting clock, and a storage that is slow at times."""
    node = cluster.made(rate=rng.uniform(0.9, 1.1))
    node.storage.delay = lambda: (
        rng.uniform(0.001, 0.02) if rng.random() < 0.97 else rng.uniform(0.05, 2.5)
    )
    while node.serving is None:
        try:
            await node.start(f"10.0.0.{len(cluster.nodes)}:5000")
        except StorageUnavailable:
            await asyncio.sleep(0.1)


def test_the_same_program_takes_the_same_steps() -> None:
    async def trace() -> list[tuple[float, int, float]]:
        cluster = Cluster()
        steps: list[tuple[float, int, float]] = []
        loop = asyncio.get_running_loop()
        for node in await cluster.started(4):
            rng = random.Random(node.generation)
            node.storage.delay = lambda rng=rng: rng.random()
            node.provider.on_lease = lambda lease, node=node: steps.append(
                (loop.time(), node.generation, lease)
            )  # type: ignore[misc]
        await asyncio.sleep(60.0)
        await cluster.stop()
        return steps

    first, second = run(trace()), run(trace())
    assert len(first) > 200
    assert first == second


# --- the settings, and the single process ---------------------------------------------------------


def test_the_provider_takes_the_settings_of_rio_rs_as_keywords() -> None:
    storage = LocalMembershipStorage()
    provider = PeerToPeerClusterProvider(
        storage, interval_secs=1, num_failures_threshold=5, drop_inactive_after_secs=60
    )
    assert provider._config == ClusterConfig(drop_inactive_after=60)
    assert PeerToPeerClusterProvider(storage)._config == STRICT
    with pytest.raises(ConfigurationError, match="not both: interval_secs"):
        PeerToPeerClusterProvider(storage, STRICT, interval_secs=1)


@in_virtual_time
async def test_a_local_node_has_a_lease_without_end_and_evicts_nobody(cluster: Cluster) -> None:
    await cluster.storage.prepare()
    first = await cluster.node(kind=LocalClusterProvider)
    second = await cluster.node(kind=LocalClusterProvider)
    await second.kill()
    await asyncio.sleep(3600.0)
    assert first.leases == [math.inf]
    assert seen_as(first, second.generation) == MemberStatus.ACTIVE


@in_virtual_time
async def test_a_local_node_stops_when_another_takes_its_address(cluster: Cluster) -> None:
    await cluster.storage.prepare()
    old = await cluster.node("a:1", kind=LocalClusterProvider)
    new = await cluster.node("a:1", kind=LocalClusterProvider)
    await until(lambda: old.evicted, within=STRICT.poll_interval + 0.1)
    assert old.leases == [math.inf, -math.inf]
    await new.provider.drain()
    await new.provider.leave()
    assert await cluster.statuses() == {
        old.generation: MemberStatus.DEAD,
        new.generation: MemberStatus.LEFT,
    }


@in_virtual_time
async def test_restarts_without_end_do_not_fill_the_storage(cluster: Cluster) -> None:
    await cluster.storage.prepare()
    for _ in range(100):
        await cluster.storage.register("a:1")
    await cluster.node("a:1", kind=LocalClusterProvider)
    await asyncio.sleep(5.0)
    assert len(await cluster.statuses()) == 64 + 1
