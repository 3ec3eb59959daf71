"""The settings that all members share: who may join, and how a running cluster changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest

from rio.cluster import settings
from rio.cluster.config import ClusterConfig
from rio.cluster.provider import LocalClusterProvider
from rio.cluster.settings import (
    UNWATCHED,
    Admission,
    SettingsRow,
    SharedSettings,
    change_settings,
    decode_row,
    make_new_cluster,
)
from rio.contracts.membership import Member, MemberStatus
from rio.errors import ConfigurationError, JoinFailed
from tests.cluster.test_peer_to_peer import Cluster, in_virtual_time, until

STRICT, FAST, LOCAL = ClusterConfig.strict(), ClusterConfig.fast(), ClusterConfig.local()


async def row_of(cluster: Cluster) -> SettingsRow:
    row = decode_row((await cluster.storage.snapshot()).settings)
    assert row is not None
    return row


@asynccontextmanager
async def watched(cluster: Cluster) -> AsyncIterator[None]:
    """Check all the time that no node admits which the others have declared dead."""

    async def watch() -> None:
        while True:
            statuses = await cluster.statuses()
            for node in cluster.nodes:
                if node.generation and statuses[node.generation] >= MemberStatus.LEFT:
                    assert not node.admits, "a node that was declared dead admits calls"
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        yield
        assert not watching.done(), await watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


DEEP = b"\x81\xa4more" + b"\x91" * 5000 + b"\xc0"


@pytest.mark.parametrize("data", [b"\xc1", b"\x81\xa6preset\xa1\xff", DEEP])
def test_settings_that_cannot_be_read_are_those_of_another_version(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="upgrade rio"):
        decode_row(data)


# --- joining --------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_server_with_other_settings_is_refused_while_a_member_lives(
    cluster: Cluster,
) -> None:
    await cluster.started(1, LOCAL)
    text = "the cluster runs .*lease_evict 1.95.*this server .*lease_evict 6.5.* same --cluster"
    with pytest.raises(JoinFailed, match=text):
        await cluster.node(config=STRICT)
    assert len(await cluster.statuses()) == 1  # it was never registered
    await cluster.node(config=LOCAL)


@in_virtual_time
async def test_servers_whose_settings_are_whole_numbers_join_each_other(cluster: Cluster) -> None:
    """The storage keeps 5 and 5.0 as different bytes."""
    await cluster.started(2, ClusterConfig(lease_local=5, lease_evict=7, poll_interval=1))
    await cluster.node(config=ClusterConfig(lease_local=5.0, lease_evict=7.0, poll_interval=1.0))
    assert len(await cluster.statuses()) == 3  # each has registered once


@in_virtual_time
async def test_stale_members_refuse_nobody_for_ever(cluster: Cluster) -> None:
    """A power cut leaves members that look alive."""
    one, two = await cluster.started(2, LOCAL)
    await one.kill()
    await two.kill()
    loop = asyncio.get_running_loop()
    began = loop.time()
    three = await cluster.node(config=STRICT)
    assert STRICT.lease_evict <= loop.time() - began <= STRICT.lease_evict + 1
    assert await cluster.is_dead(one)
    assert await cluster.is_dead(two)
    assert three.admits
    assert (await row_of(cluster)).now == SharedSettings.of(STRICT)


@in_virtual_time
async def test_a_server_that_restarts_at_its_address_may_bring_other_settings(
    cluster: Cluster,
) -> None:
    (one,) = await cluster.started(1, LOCAL)
    await one.kill()
    began = asyncio.get_running_loop().time()
    await cluster.node("10.0.0.1:5000", STRICT)
    assert asyncio.get_running_loop().time() - began < 1


@in_virtual_time
async def test_after_all_have_left_the_next_server_brings_its_settings(cluster: Cluster) -> None:
    (one,) = await cluster.started(1, LOCAL)
    await one.provider.leave()
    await cluster.node(config=STRICT)
    assert (await row_of(cluster)).now == SharedSettings.of(STRICT)


@in_virtual_time
async def test_of_servers_that_start_at_once_with_different_settings_only_equals_live(
    cluster: Cluster,
) -> None:
    await cluster.storage.prepare()
    nodes = [cluster.made(config) for config in (LOCAL, STRICT, FAST) * 3]
    joined = await asyncio.gather(
        *(node.start(f"h:{number}") for number, node in enumerate(nodes)), return_exceptions=True
    )
    alive = [node for node, outcome in zip(nodes, joined, strict=True) if outcome is node]
    assert alive
    assert len({SharedSettings.of(node.provider.config) for node in alive}) == 1
    assert all(isinstance(outcome, JoinFailed) or outcome in nodes for outcome in joined)


@in_virtual_time
async def test_a_provider_without_a_lease_does_not_mix_with_others(cluster: Cluster) -> None:
    await cluster.storage.prepare()
    await cluster.node(kind=LocalClusterProvider)
    with pytest.raises(JoinFailed, match="lease_local inf"):
        await cluster.node(config=STRICT)
    await cluster.node(kind=LocalClusterProvider, config=LOCAL)
    assert (await row_of(cluster)).now == UNWATCHED


@in_virtual_time
async def test_a_provider_without_a_lease_does_not_join_others(cluster: Cluster) -> None:
    await cluster.started(1, LOCAL)
    with pytest.raises(JoinFailed, match="this server lease_local inf"):
        await cluster.node(kind=LocalClusterProvider)


# --- changing a running cluster -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [(LOCAL, STRICT), (STRICT, LOCAL), (FAST, STRICT)],
    ids=["widen", "narrow", "widen a little"],
)
@in_virtual_time
async def test_a_running_cluster_changes_its_settings_and_nobody_pauses(
    cluster: Cluster, before: ClusterConfig, after: ClusterConfig
) -> None:
    await cluster.storage.prepare()
    nodes = [await cluster.node(config=before, rate=rate) for rate in (0.91, 1.0, 1.09)]
    async with watched(cluster):
        await change_settings(cluster.storage, after, timeout=60)
        for _ in range(1000):
            assert all(node.admits for node in nodes)
            await asyncio.sleep(0.01)
    goal = SharedSettings.of(after)
    assert {SharedSettings.of(node.provider.config) for node in nodes} == {goal}
    row = await row_of(cluster)
    assert (row.now, row.goal, row.revision) == (goal, goal, 3)
    with pytest.raises(JoinFailed):
        await cluster.node(config=before)
    await cluster.node(config=after)


@pytest.mark.parametrize(
    ("before", "after"), [(LOCAL, STRICT), (STRICT, LOCAL)], ids=["widen", "narrow"]
)
@in_virtual_time
async def test_a_change_waits_for_a_member_that_is_frozen_in_the_middle(
    cluster: Cluster, before: ClusterConfig, after: ClusterConfig
) -> None:
    nodes = await cluster.started(3, before)
    await asyncio.sleep(before.poll_interval / 2)
    async with watched(cluster):
        changing = asyncio.create_task(change_settings(cluster.storage, after, timeout=60))
        await asyncio.sleep(0.01)  # the first step is written, and nobody has read it
        nodes[2].storage.fault = "down"
        while not await cluster.is_dead(nodes[2]):
            assert not changing.done()
            assert (await row_of(cluster)).revision <= 2
            await asyncio.sleep(0.05)
        await changing
        nodes[2].storage.fault = None
        await until(lambda: nodes[2].evicted)
    goal = SharedSettings.of(after)
    assert {SharedSettings.of(node.provider.config) for node in nodes[:2]} == {goal}


@in_virtual_time
async def test_a_lease_of_the_old_settings_ends_before_their_end_is_acknowledged(
    cluster: Cluster,
) -> None:
    (node,) = await cluster.started(1, STRICT)
    await asyncio.sleep(0.5)
    changing = asyncio.create_task(change_settings(cluster.storage, LOCAL, timeout=60))
    await until(lambda: node.provider.config.lease_local == LOCAL.lease_local)
    until_then = node.leases[-1]
    while (await row_of(cluster)).revision == 2:
        assert node.provider.config.lease_evict == STRICT.lease_evict
        await asyncio.sleep(0.01)
    assert node.clock() >= until_then
    await changing


@pytest.mark.parametrize("goal", [STRICT, LOCAL], ids=["on", "back"])
@in_virtual_time
async def test_a_change_that_was_interrupted_goes_on_or_back(
    cluster: Cluster, goal: ClusterConfig
) -> None:
    node, _ = await cluster.started(2, LOCAL)
    changing = asyncio.create_task(change_settings(cluster.storage, STRICT))
    await until(lambda: node.provider.config.lease_evict == STRICT.lease_evict)
    changing.cancel()
    await asyncio.gather(changing, return_exceptions=True)
    assert (await row_of(cluster)).now == SharedSettings(1.5, 6.5, 0.3)
    async with watched(cluster):
        await change_settings(cluster.storage, goal, timeout=60)
    assert (await row_of(cluster)).now == SharedSettings.of(goal)


@in_virtual_time
async def test_a_change_that_nobody_acknowledges_times_out(cluster: Cluster) -> None:
    (node,) = await cluster.started(1, LOCAL)
    await node.kill()
    with pytest.raises(TimeoutError):
        await change_settings(cluster.storage, STRICT, timeout=3)
    assert (await row_of(cluster)).now == SharedSettings(1.5, 6.5, 0.3)


# --- a copy of a database -------------------------------------------------------------------------


@in_virtual_time
async def test_a_copy_gets_an_identity_of_its_own_and_loses_its_members(cluster: Cluster) -> None:
    (node,) = await cluster.started(1, LOCAL)
    await node.kill()  # nobody renews in a copy
    before = await cluster.storage.snapshot()
    old, new = await make_new_cluster(cluster.storage)
    after = await cluster.storage.snapshot()
    assert (old, new) == (before.cluster_id, after.cluster_id)
    assert old != new
    assert after.status_of(node.generation) == MemberStatus.DEAD


@in_virtual_time
async def test_a_cluster_that_lives_is_no_copy(cluster: Cluster) -> None:
    (node,) = await cluster.started(1, LOCAL)
    before = await cluster.storage.snapshot()
    with pytest.raises(ConfigurationError, match="lives in this storage, so it is no copy"):
        await make_new_cluster(cluster.storage)
    assert (await cluster.storage.snapshot()).cluster_id == before.cluster_id
    assert node.admits


# --- planted mistakes -----------------------------------------------------------------------------


@in_virtual_time
async def test_settings_that_are_not_compared_let_a_dead_node_answer(cluster: Cluster) -> None:
    """What the guard is for: without it, a cut-off ``strict`` node outlives its eviction."""

    async def admit(admission: Any) -> SettingsRow:
        shared = SharedSettings.of(LOCAL)
        row = SettingsRow(1, shared, shared)
        await admission._write(row, (await admission._read()).version)
        return row

    with (
        mock.patch.object(Admission, "wait", admit),
        mock.patch.object(SharedSettings, "apply_to", lambda shared, config: config),
    ):
        await cluster.storage.prepare()
        strict = await cluster.node(config=STRICT)
        await cluster.node(config=LOCAL)
        strict.storage.fault = "down"
        await until(lambda: cluster.is_dead(strict))
        assert strict.admits


@in_virtual_time
async def test_a_change_that_waits_for_nobody_lets_a_dead_node_answer(cluster: Cluster) -> None:
    """What the acknowledgements are for."""

    async def nobody_lags(*_: object) -> list[Member]:
        return []

    node, frozen = await cluster.started(2, STRICT)
    frozen.storage.fault = "down"
    with mock.patch.object(settings, "read_laggards", nobody_lags):
        await change_settings(cluster.storage, LOCAL)
    await until(lambda: cluster.is_dead(frozen))
    assert frozen.admits
    assert node.admits
