"""Calls of one client to one object run in the order in which they were made, wherever it lives."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

import rio
from rio.contracts.membership import MemberStatus
from rio.errors import Expired, NoServersAvailable, RioError
from rio.identity import ObjectId
from rio.security import proof
from tests.server.harness import Cluster, activation

pytestmark = pytest.mark.virtual_time

OBJECTS = 40


class Put(rio.Message[int]):
    """Answers with the number of messages that came before."""

    number: int
    pause: float = 0.0


class Log(rio.ServiceObject):
    seen: ClassVar[dict[str, list[int]]] = {}
    """What each object has taken in, on all nodes."""

    @rio.handler
    async def put(self, message: Put) -> int:
        seen = self.seen.setdefault(self.id, [])
        seen.append(message.number)
        if message.pause:
            await asyncio.sleep(message.pause)
        return len(seen) - 1


@pytest.fixture(autouse=True)
def _new_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Log, "seen", {})


async def stream(client: rio.Client, ids: list[str], count: int) -> None:
    """Send ``count`` numbers to each object without waiting for answers, a few in each turn of the
    loop, and hold what arrived against what was sent.
    """
    calls: list[Any] = []
    for number in range(count):
        calls += [client.send(Log, id, Put(number)) for id in ids]
        await asyncio.sleep(0.0005 if number % 4 else 0)
    await asyncio.gather(*calls)
    assert {id: Log.seen[id] for id in ids} == {id: list(range(count)) for id in ids}


def no_calls_wait(client: rio.Client) -> bool:
    return not len(client._router.waiting) and not len(client._router._lines)


@pytest.mark.parametrize("newcomers", [1, 2])
async def test_a_new_client_keeps_the_order_of_its_calls_after_a_cluster_has_grown(
    cluster: Cluster, newcomers: int
) -> None:
    ids = [f"log{number}" for number in range(OBJECTS)]
    first = await cluster.server(Log)
    await asyncio.gather(*(first.client.send(Log, id, Put(-1)) for id in ids))
    Log.seen.clear()
    await cluster.nodes(newcomers, Log)
    client = await cluster.client()
    await stream(client, ids, 100)
    assert no_calls_wait(client)


async def test_a_client_keeps_the_order_of_its_calls_while_a_server_stops(
    cluster: Cluster,
) -> None:
    one, *_ = await cluster.nodes(3, Log)
    client = await cluster.client()
    ids = [f"log{number}" for number in range(OBJECTS)]
    stopping = asyncio.get_running_loop().create_task(stop_soon(one))
    await stream(client, ids, 200)
    await stopping
    assert no_calls_wait(client)


async def stop_soon(server: rio.Server) -> None:
    await asyncio.sleep(0.02)
    await server.stop()


async def test_a_client_keeps_the_order_of_its_calls_while_their_objects_move(
    cluster: Cluster,
) -> None:
    one, two = await cluster.nodes(2, Log)
    client = await cluster.client()
    ids = [await cluster.activated_on(one, Log, Put(0)) for _ in range(8)]
    Log.seen.clear()
    moving = asyncio.gather(*(move(one, two, id) for id in ids))
    await stream(client, ids, 400)
    await moving
    assert no_calls_wait(client)


async def move(one: rio.Server, two: rio.Server, id: str) -> None:
    """Have an object leave the first server, and claim it for the second before a call does."""
    await asyncio.sleep(0.01)
    placement = two._catalog.ownership._placement
    object_id = ObjectId("Log", id)
    activation(one, Log, id).leave("moved")
    generation: int | None = one.generation
    while generation == one.generation:
        await asyncio.sleep(0)
        generation = (await placement.claim(object_id, two.generation)).generation


async def test_a_client_keeps_the_order_of_calls_that_a_busy_object_refuses(
    cluster: Cluster,
) -> None:
    await cluster.server(Log, config=rio.ServerConfig(waiting_limit=4))
    client = await cluster.client()
    first = client.send(Log, "busy", Put(0, pause=0.05))
    calls = [client.send(Log, "busy", Put(number)) for number in range(1, 50)]
    assert await asyncio.gather(first, *calls) == list(range(50))
    assert no_calls_wait(client)


async def test_a_client_keeps_the_order_of_its_calls_when_it_proves_itself_anew(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "RENEW_AFTER", 0)
    monkeypatch.setattr(proof, "RENEW_SPREAD", 1)
    security = rio.Security([rio.Key.generate("node", "node")], encryption="none")
    one, two = await cluster.nodes(2, Log, security=security)
    client = await cluster.client(security=security)
    id = await cluster.activated_on(one, Log, Put(0))
    await client.send(Log, id, Put(0))
    Log.seen.clear()
    calls = [client.send(Log, id, Put(number, pause=0.01)) for number in range(20)]
    client._router.pool.use_credentials()
    calls += [client.send(Log, id, Put(number)) for number in range(20, 40)]
    await move(one, two, id)
    assert await asyncio.gather(*calls) == list(range(40))
    assert no_calls_wait(client)


# --- calls that end while they wait for others ----------------------------------------------------


@pytest.fixture
async def crowded(cluster: Cluster) -> rio.Client:
    """The client of an object that is busy for a while, and takes two calls besides."""
    await cluster.server(Log, config=rio.ServerConfig(waiting_limit=2))
    client = await cluster.client(timeout=5.0)
    await client.send(Log, "busy", Put(0))
    Log.seen.clear()
    return client


async def test_a_call_that_waits_for_others_expires_without_having_run(
    crowded: rio.Client,
) -> None:
    first = crowded.send(Log, "busy", Put(0, pause=0.3))
    calls = [
        crowded.send(Log, "busy", Put(number), timeout=0.1 if number > 2 else 5.0)
        for number in range(1, 20)
    ]
    answers = await asyncio.gather(first, *calls, return_exceptions=True)
    assert answers[:3] == [0, 1, 2]
    assert {type(answer) for answer in answers[3:]} == {Expired}
    assert all("the last attempt: " in str(answer) for answer in answers[3:])
    assert Log.seen["busy"] == [0, 1, 2]
    assert no_calls_wait(crowded)


async def test_calls_that_are_cancelled_while_they_wait_hold_up_no_others(
    crowded: rio.Client,
) -> None:
    first = crowded.send(Log, "busy", Put(0, pause=0.1))
    calls = [crowded.send(Log, "busy", Put(number)) for number in range(1, 60)]
    await asyncio.sleep(0.05)
    for call in calls[2::2]:
        assert asyncio.isfuture(call)
        call.cancel()
    await asyncio.gather(first, *calls, return_exceptions=True)
    assert Log.seen["busy"] == [0, 1, 2, *range(4, 60, 2)]
    assert no_calls_wait(crowded)


async def test_all_calls_to_one_object_hear_at_their_deadline_that_no_server_can_be_reached(
    cluster: Cluster,
) -> None:
    await cluster.storage.membership.prepare()
    gone = await cluster.storage.membership.register("127.0.0.1:1")
    await cluster.storage.membership.set_status(
        gone.generation, MemberStatus.JOINING, MemberStatus.ACTIVE
    )
    client = await cluster.client()
    calls = [client.send(Log, "log", Put(number), timeout=1.0) for number in range(50)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {NoServersAvailable}
    assert no_calls_wait(client)


async def test_a_client_that_is_closed_ends_the_calls_that_wait_for_others(
    crowded: rio.Client,
) -> None:
    calls = [crowded.send(Log, "busy", Put(number, pause=0.1)) for number in range(20)]
    await asyncio.sleep(0.05)
    await crowded.close()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, RioError) for answer in answers)
    assert no_calls_wait(crowded)


async def test_calls_to_an_object_that_was_found_stand_in_no_line(cluster: Cluster) -> None:
    one, _ = await cluster.nodes(2, Log)
    client = await cluster.client()
    id = await cluster.activated_on(one, Log, Put(0))
    await asyncio.gather(*(client.send(Log, id, Put(number)) for number in range(10)))
    for number in range(100):  # never without a call under way
        call = client.send(Log, id, Put(number, pause=0.001))
        assert no_calls_wait(client)
        await asyncio.sleep(0)
    await call
