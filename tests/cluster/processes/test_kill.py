"""SIGKILL, at any moment and at chosen ones."""

from __future__ import annotations

import asyncio
import time

import pytest

from rio.cluster.membership import MemberStatus
from tests.cluster.processes.conftest import MakeCluster
from tests.cluster.processes.harness import Cluster, Load, Node, report, until
from tests.cluster.processes.history import fifo
from tests.cluster.processes.objects import Add, Counter


async def all_answer(cluster: Cluster, load: Load, since: float) -> list[float]:
    """Wait until every object answers; seconds since then, in ascending order."""

    async def answered(id: str) -> float:
        await cluster.value(id)
        return time.monotonic() - since

    return sorted(await asyncio.gather(*(answered(id) for id in load.counters)))


async def test_a_killed_server_loses_nothing_that_was_acknowledged_and_its_objects_answer_again(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("local", 3)
    async with Load(cluster.client, burst=3) as load:
        await load.more(500)
        in_order = fifo(cluster.turns)
        victim = cluster.nodes[0]
        lost = [id for id in load.counters if cluster.owner(f"Counter/{id}") is victim]
        await victim.kill()
        seconds = await all_answer(cluster, load, victim.killed_at)
        await load.more()
    assert await load.violations(cluster) == []
    assert in_order == []
    assert await cluster.status(victim) == MemberStatus.DEAD
    report(
        f"SIGKILL of 1 of 3: {len(lost)} of {len(load.counters)} objects were there, all answer after {seconds[-1]:.2f} s "
        f"(failover bound {cluster.config.failover_bound:.2f} s); {load.outcomes}"
    )


async def test_when_all_servers_are_killed_and_started_again_the_state_is_what_was_acknowledged(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("local", 3)
    async with Load(cluster.client) as load:
        await load.more(500)
        killed_at = time.monotonic()
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        await asyncio.gather(*(cluster.start() for _ in range(3)))
        seconds = await all_answer(cluster, load, killed_at)
        await load.more()
    assert await load.violations(cluster) == []
    before = [await cluster.value(id) for id in load.counters]
    await asyncio.gather(*(node.kill() for node in cluster.nodes))
    await cluster.start()
    assert [await cluster.value(id) for id in load.counters] == before
    report(f"SIGKILL of 3 of 3: on new addresses all answer after {seconds[-1]:.2f} s; {load.outcomes}")


async def test_a_server_that_comes_back_at_its_address_serves_at_once(make_cluster: MakeCluster) -> None:
    """That it could bind the address proves that its predecessor is gone: nobody waits for a lease to end."""
    cluster = await make_cluster("strict", 2)
    async with Load(cluster.client) as load:
        await load.more(300)
        old = cluster.nodes[0]
        await old.kill()
        new = await cluster.start(old.address)
        seconds = await all_answer(cluster, load, old.killed_at)
        await until(lambda: new.turns, "turns of the new server")
        await load.more()
    assert await load.violations(cluster) == []
    assert new.generation > old.generation
    assert await cluster.status(old) == MemberStatus.DEAD
    assert cluster.evictions == []
    report(f"restart at the same address: all answer after {seconds[-1]:.2f} s; {load.outcomes}")


@pytest.mark.parametrize("point", ["after claim", "after load", "before save", "after save", "before release", "after release"])
async def test_a_server_killed_in_the_middle_leaves_its_object_usable(make_cluster: MakeCluster, point: str) -> None:
    cluster = await make_cluster("local", 1)
    victim = await cluster.start(environ={"RIO_TEST_KILL_AT": point})
    async with Load(cluster.client, callers=8, counters=12, bags=0, pause=0.02, name="victim") as load:
        if point.endswith("release"):
            await until(lambda: owned_by(victim, load), "a victim on that server")
            victim.terminate()
        assert await victim.ended() == -9
        seconds = await all_answer(cluster, load, time.monotonic())
        await load.more(50)
    assert await load.violations(cluster) == []
    report(f"killed {point}: all answer after {seconds[-1]:.2f} s; {load.outcomes}")


def owned_by(node: Node, load: Load) -> bool:
    return any(turn.object.startswith("Counter/victim") for turn in node.turns) and load.acknowledged() > 0


async def test_an_object_is_claimed_by_one_of_two_servers_that_want_it_at_the_same_time(make_cluster: MakeCluster) -> None:
    from tests.cluster.processes.objects import AskOwners, Asker, Owner

    cluster = await make_cluster("strict", 2)
    askers: dict[int, str] = {}
    for number in range(1000):
        process = (await cluster.client.send(Asker, str(number), Owner())).value
        askers.setdefault(process, str(number))
        if len(askers) == 2:
            break
    ids = [str(number) for number in range(500)]
    answers = await asyncio.gather(*(cluster.client.send(Asker, asker, AskOwners(ids)) for asker in askers.values()))
    assert answers[0].processes == answers[1].processes
    assert set(answers[0].processes.values()) == set(askers)  # each has won some
    loaded = [event.object for node in cluster.nodes for event in node.events if event.what == "loaded"]
    assert sorted(loaded.count(f"Counter/{id}") for id in ids) == [1] * 500
    assert (await cluster.client.send(Counter, "0", Add("test", 1))).value == 1
