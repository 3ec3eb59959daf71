"""One message at a time for each object, and all objects at once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

import rio
from tests.server.harness import Cluster, Probe, RawPeer, until


class Step(rio.Message[int]):
    number: int
    gate: str = ""


class Plain(rio.Message[int]):
    number: int


class Seen(rio.Message[list[int]]):
    pass


class WithData(rio.Message[str]):
    pass


class PlainWithData(rio.Message[str]):
    pass


class Worker(rio.ServiceObject):
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.running = 0

    async def before_load(self, app: rio.AppData) -> None:
        app.get(Probe).note("before_load")

    async def after_load(self, app: rio.AppData) -> None:
        app.get(Probe).note("after_load")
        await asyncio.sleep(0)

    @rio.handler
    async def step(self, message: Step, app: rio.AppData) -> int:
        self.running += 1
        assert self.running == 1, "two turns at once"
        self.seen.append(message.number)
        app.get(Probe).note(f"{self.id} {message.number}")
        if message.gate:
            await app.get(Probe).gate(message.gate).wait()
        else:
            await asyncio.sleep(0)
        self.running -= 1
        return message.number

    @rio.handler
    def plain(self, message: Plain) -> int:
        assert self.running == 0, "a plain handler during another turn"
        self.seen.append(message.number)
        return message.number

    @rio.handler
    def all_seen(self, message: Seen) -> list[int]:
        return self.seen

    @rio.handler
    async def with_data(self, message: WithData, app: rio.AppData) -> str:
        return f"{app is self.app_data} {Probe in app}"

    @rio.handler
    def plain_with_data(self, message: PlainWithData, app: rio.AppData) -> str:
        return f"{app is self.app_data} {Probe in app}"


@pytest.mark.both_loops
async def test_an_object_handles_one_message_at_a_time_and_the_others_in_the_order_they_came(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Worker)
    client = await cluster.client()
    first = asyncio.ensure_future(client.send(Worker, "a", Step(0, gate="go")))
    await probe.noted("a 0")
    later = [
        asyncio.ensure_future(client.send(Worker, "a", Plain(n) if n % 3 == 0 else Step(n)))
        for n in range(1, 100)
    ]
    probe.gate("go").set()
    assert await asyncio.gather(first, *later) == list(range(100))
    assert await client.send(Worker, "a", Seen()) == list(range(100))


async def test_first_messages_are_handled_in_the_order_they_were_sent(cluster: Cluster) -> None:
    await cluster.server(Worker)
    client = await cluster.client()
    await asyncio.gather(*(client.send(Worker, "new", Step(n)) for n in range(50)))
    assert await client.send(Worker, "new", Seen()) == list(range(50))


async def test_other_objects_run_while_one_waits(cluster: Cluster, probe: Probe) -> None:
    await cluster.server(Worker)
    client = await cluster.client()
    waiting = asyncio.ensure_future(client.send(Worker, "slow", Step(1, gate="go")))
    await probe.noted("slow 1")
    assert await asyncio.gather(
        *(client.send(Worker, f"fast{n}", Step(n)) for n in range(20))
    ) == list(range(20))
    assert not waiting.done()
    probe.gate("go").set()
    assert await waiting == 1


async def test_messages_on_one_connection_do_not_wait_for_each_other_unless_they_share_the_object(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Worker)
    client = await cluster.client()
    slow = [
        asyncio.ensure_future(client.send(Worker, f"s{n}", Step(n, gate="go"))) for n in range(30)
    ]
    for n in range(30):
        await probe.noted(f"s{n} {n}")
    assert server.statistics().in_flight == 30
    assert server.statistics().connections == 1
    probe.gate("go").set()
    assert await asyncio.gather(*slow) == list(range(30))


@pytest.mark.parametrize("count", [2, 100])
@pytest.mark.parametrize("nodes", [1, 3])
async def test_first_messages_that_arrive_together_activate_once(
    cluster: Cluster, probe: Probe, count: int, nodes: int
) -> None:
    await cluster.nodes(nodes, Worker)
    clients = [await cluster.client() for _ in range(4)]
    replies = await asyncio.gather(
        *(clients[n % 4].send(Worker, "one", Step(n)) for n in range(count))
    )
    assert replies == list(range(count))
    assert probe.count("before_load") == probe.count("after_load") == 1
    assert sorted(await clients[0].send(Worker, "one", Seen())) == list(range(count))
    assert sum(server.statistics().live_objects for server in cluster.servers) == 1


async def test_many_objects_are_activated_together(cluster: Cluster, probe: Probe) -> None:
    await cluster.nodes(2, Worker)
    client = await cluster.client()
    assert await asyncio.gather(
        *(client.send(Worker, f"w{n}", Step(n)) for n in range(300))
    ) == list(range(300))
    assert probe.count("after_load") == 300
    assert sum(server.statistics().live_objects for server in cluster.servers) == 300


async def test_handlers_and_hooks_are_given_the_application_data(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Worker)
    client = await cluster.client()
    assert await client.send(Worker, "a", WithData()) == "True True"
    assert await client.send(Worker, "a", PlainWithData()) == "True True"
    assert probe.log == ["before_load", "after_load"]


async def test_a_reference_calls_plain_and_async_handlers_alike(cluster: Cluster) -> None:
    server = await cluster.server(Worker)
    client = await cluster.client()
    for sender in (client, server.client):
        worker = sender.ref(Worker, "a")
        assert await worker.step(Step(1)) == 1
        assert await worker.plain(Plain(2)) == 2


async def test_messages_of_two_clients_interleave_but_each_keeps_its_order(
    cluster: Cluster,
) -> None:
    await cluster.nodes(2, Worker)
    one, two = await cluster.client(), await cluster.client()
    await one.send(Worker, "a", Seen())
    await two.send(Worker, "a", Seen())
    sent = [
        client.send(Worker, "a", Step(n * 2 + k))
        for n in range(50)
        for k, client in enumerate((one, two))
    ]
    await asyncio.gather(*sent)
    seen = await one.send(Worker, "a", Seen())
    assert [n for n in seen if n % 2 == 0] == list(range(0, 100, 2))
    assert [n for n in seen if n % 2 == 1] == list(range(1, 100, 2))


async def test_a_caller_that_gives_up_while_waiting_takes_its_message_out_of_the_queue(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Worker)
    client = await cluster.client()
    first = asyncio.ensure_future(client.send(Worker, "a", Step(0, gate="go")))
    await probe.noted("a 0")
    queued = [asyncio.ensure_future(client.send(Worker, "a", Step(n))) for n in (1, 2, 3)]
    await until(lambda: server.statistics().in_flight == 4)
    queued[1].cancel()
    await until(lambda: server.statistics().in_flight == 3)
    probe.gate("go").set()
    assert await asyncio.gather(first, queued[0], queued[2]) == [0, 1, 3]
    assert await client.send(Worker, "a", Seen()) == [0, 1, 3]


async def test_more_than_the_limit_of_waiting_calls_is_overloaded_and_the_rest_is_served(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Worker, config=rio.ServerConfig(waiting_limit=2))
    client = await cluster.client()
    first = asyncio.ensure_future(client.send(Worker, "a", Step(0, gate="go")))
    await probe.noted("a 0")
    queued = [asyncio.ensure_future(client.send(Worker, "a", Step(n))) for n in (1, 2)]
    await until(lambda: server.statistics().in_flight == 3)
    async with await RawPeer.connect(server) as peer:
        peer.send(msgspec.msgpack.encode((1, 7, "Worker", "a", "Step", 1000, None, {"number": 9})))
        kind, id, code, text, _ = await peer.frame()
        assert (kind, id, code) == (3, 7, "overloaded")
        assert "2 calls wait for Worker/a" in text
    third = asyncio.ensure_future(client.send(Worker, "a", Step(3)))
    await until(lambda: server.statistics().failures >= 2)
    probe.gate("go").set()
    assert await asyncio.gather(first, *queued, third) == [0, 1, 2, 3]
