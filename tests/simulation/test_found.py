"""What the simulation has found, each case as small as possible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rio.cluster.config import ClusterConfig
from rio.cluster.lease import LiveMembers
from rio.cluster.links import RETRY_INTERVAL, GossipLinks
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus
from rio.testing import LocalCluster, run
from rio.transport.client_connection import ClientConnection
from rio.transport.protocol import VERSION, Hello
from tests.simulation.objects import registry


def test_a_link_that_was_given_up_before_it_began_is_made_again() -> None:
    attempts: list[str] = []

    async def connect(
        address: str, make: Callable[[], ClientConnection], tls: object
    ) -> ClientConnection:
        attempts.append(address)
        raise ConnectionRefusedError

    async def main() -> None:
        links = GossipLinks(lambda: Hello(VERSION, "node"), connect=connect)
        links.send("a:1", b"news")
        links.reset("a:1")
        await asyncio.sleep(RETRY_INTERVAL)
        assert attempts == []
        links.send("a:1", b"more")
        await asyncio.sleep(0.1)
        assert attempts == ["a:1"]
        await links.close()

    run(main())


def test_a_node_joins_soon_although_the_only_other_one_dies_meanwhile() -> None:
    async def main() -> None:
        config = ClusterConfig.local()
        async with LocalCluster(registry(), nodes=1, cluster=config, latency=0.001) as cluster:
            cluster.cut(0, "node-1")  # so that they do not meet
            joining = asyncio.create_task(cluster.start_node())
            await asyncio.sleep(3.0)
            assert not joining.done()
            await cluster.kill(0)
            began = asyncio.get_running_loop().time()
            await joining
            assert asyncio.get_running_loop().time() - began < config.failover_bound

    run(main())


def snapshot(*counters: int) -> MembershipSnapshot:
    members = [
        Member(number, f"h:{number}", MemberStatus.ACTIVE, counter)
        for number, counter in enumerate(counters, 1)
    ]
    return MembershipSnapshot(1, len(members), tuple(members))


def test_who_was_seen_to_renew_is_live_until_it_is_seen_not_to() -> None:
    live, both = LiveMembers(2.0), frozenset({1, 2})
    assert live.of(both) == both
    for moment, counters in ((0.0, (1, 1)), (1.0, (2, 2)), (2.0, (3, 2)), (2.9, (4, 2))):
        live.read(snapshot(*counters), moment)
        assert live.of(both) == both
    live.read(snapshot(5, 2), 3.0)
    assert live.of(both) == {1}
    live.read(snapshot(5, 3), 4.0)
    assert live.of(both) == both


def test_who_could_not_read_for_a_while_calls_nobody_silent() -> None:
    live, both = LiveMembers(2.0), frozenset({1, 2})
    live.read(snapshot(1, 1), 0.0)
    assert live.of(both) == both  # however late it is
    live.read(snapshot(2, 1), 3.0)
    assert live.of(both) == both
    live.read(snapshot(3, 1), 5.0)
    assert live.of(both) == {1}


def test_a_member_that_is_new_has_the_time_to_renew() -> None:
    live = LiveMembers(2.0)
    live.read(snapshot(1), 0.0)
    live.read(snapshot(2, 1), 1.9)
    live.read(snapshot(3, 1), 3.0)
    assert live.of(frozenset({1, 2, 3})) == {1, 2, 3}
