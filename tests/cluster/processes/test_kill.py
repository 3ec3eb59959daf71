"""SIGKILL, at any moment and at chosen ones."""

from __future__ import annotations

import asyncio
import signal
import time

import rio
from rio.contracts.membership import MemberStatus
from tests.cluster.processes.conftest import MakeCluster, on_every_storage
from tests.cluster.processes.harness import Cluster, Load, report, until
from tests.cluster.processes.history import fifo
from tests.cluster.processes.objects import KILL_AT, POINTS, Asker, AskOwners, Counter, Owner


async def all_answer(cluster: Cluster, load: Load, since: float) -> list[float]:
    """Wait until every object answers; seconds since then, in ascending order."""

    async def answered(id: str) -> float:
        await cluster.value(id)
        return time.monotonic() - since

    return sorted(await asyncio.gather(*(answered(id) for id in load.counters)))


@on_every_storage
async def test_a_killed_server_loses_nothing_that_was_acknowledged_and_its_objects_answer_again(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", *[{}] * 3)
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
        f"SIGKILL of 1 of 3 on {cluster.store.name}: {len(lost)} of {len(load.counters)} objects"
        " were there, all answer after "
        f"{seconds[-1]:.2f} s (failover bound {cluster.config.failover_bound:.2f} s);"
        f" {load.outcomes}"
    )


@on_every_storage
async def test_when_all_servers_are_killed_and_started_again_the_state_is_what_was_acknowledged(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", *[{}] * 3)
    async with Load(cluster.client) as load:
        await load.more(500)
    before = await values(cluster, load)
    killed_at = time.monotonic()
    await asyncio.gather(*(node.kill() for node in cluster.nodes))
    await asyncio.gather(*(cluster.start(address=node.address) for node in cluster.nodes[:3]))
    assert await values(cluster, load) == before
    seconds = time.monotonic() - killed_at
    assert await load.violations(cluster) == []
    report(
        f"SIGKILL of 3 of 3 on {cluster.store.name}: at their addresses all answer after"
        f" {seconds:.2f} s; {load.outcomes}"
    )


async def values(cluster: Cluster, load: Load) -> list[int]:
    return await asyncio.gather(*(cluster.value(id) for id in load.counters))


async def test_when_all_servers_are_killed_others_take_over_all_that_they_had(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("local", *[{}] * 3)
    async with Load(cluster.client) as load:
        await load.more(500)
        killed_at = time.monotonic()
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        await asyncio.gather(*(cluster.start() for _ in range(3)))
        seconds = await all_answer(cluster, load, killed_at)
        await load.more()
    assert await load.violations(cluster) == []
    report(
        f"SIGKILL of 3 of 3: on new addresses all answer after {seconds[-1]:.2f} s; {load.outcomes}"
    )


@on_every_storage
async def test_a_server_that_comes_back_at_its_address_serves_at_once(
    make_cluster: MakeCluster,
) -> None:
    """No lease is waited for: binding the address proves that the predecessor is gone."""
    cluster = await make_cluster("strict", *[{}] * 2)
    async with Load(cluster.client) as load:
        await load.more(300)
        old = cluster.nodes[0]
        await old.kill()
        new = await cluster.start(address=old.address)
        seconds = await all_answer(cluster, load, old.killed_at)
        await load.more()
        assert await takes_new_objects(cluster, new.process.pid)
    assert await load.violations(cluster) == []
    assert new.generation > old.generation
    assert await cluster.status(old) == MemberStatus.DEAD
    assert cluster.evictions == []
    report(
        f"restart at the same address on {cluster.store.name}: all answer after {seconds[-1]:.2f}"
        f" s; {load.outcomes}"
    )


async def takes_new_objects(cluster: Cluster, process: int) -> bool:
    """Whether a server gets some of the new objects.

    Those of its predecessor may all be with its neighbour already.
    """
    async with rio.Client(cluster.url) as newcomer:
        owners = [
            (await newcomer.send(Counter, f"new-{number}", Owner())).value for number in range(50)
        ]
    return process in owners


@on_every_storage
async def test_servers_killed_in_the_middle_leave_their_objects_usable(
    make_cluster: MakeCluster,
) -> None:
    """Each server is killed in the middle of something else."""
    cluster = await make_cluster("local", *({KILL_AT: point} for point in POINTS), {})
    victims = cluster.nodes[: len(POINTS)]
    async with Load(
        cluster.client, callers=16, counters=48, bags=0, pause=0.02, name="victim"
    ) as load:
        for victim, point in zip(victims, POINTS, strict=True):
            if point.endswith("release"):
                await until(lambda victim=victim: victim.turns, "a victim on that server")
                victim.terminate()
        assert [await victim.ended() for victim in victims] == [-signal.SIGKILL] * len(POINTS)
        await all_answer(cluster, load, time.monotonic())
        await load.more(50)
    assert await load.violations(cluster) == []
    report(
        f"killed at {len(POINTS)} points on {cluster.store.name}: the slowest call took"
        f" {load.slowest():.2f} s; {load.outcomes}"
    )


@on_every_storage
async def test_an_object_is_claimed_by_one_of_two_servers_that_want_it_at_the_same_time(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("strict", *[{}] * 2)
    askers: dict[int, str] = {}
    for number in range(1000):
        process = (await cluster.client.send(Asker, str(number), Owner())).value
        askers.setdefault(process, str(number))
        if len(askers) == 2:
            break
    ids = [str(number) for number in range(500)]
    question = AskOwners(ids, time.monotonic() + 0.1)
    answers = await asyncio.gather(
        *(cluster.client.send(Asker, asker, question) for asker in askers.values())
    )
    assert answers[0].processes == answers[1].processes
    loaded = [
        event.object for node in cluster.nodes for event in node.events if event.what == "loaded"
    ]
    assert sorted(loaded.count(f"Counter/{id}") for id in ids) == [1] * 500
    won = sorted(list(answers[0].processes.values()).count(process) for process in askers)
    report(
        f"500 objects that two servers want at the same time on {cluster.store.name}: {won[0]} and"
        f" {won[1]} were won"
    )
