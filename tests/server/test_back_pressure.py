"""Peers that do not keep up with what they are sent: the server waits for them and not in memory.

Only those who take nothing at all for a while are cut off.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rio
from rio._core.wire import Kind
from rio.errors import OutcomeUnknown, Overloaded
from tests.server.harness import Cluster, Probe, RawPeer, until
from tests.server.test_hostile import request

pytestmark = pytest.mark.both_loops

MB = 1_000_000


class Fetch(rio.Message[bytes]):
    size: int


class FetchLater(rio.Message[bytes]):
    size: int


class FetchAgain(rio.Message[bytes], readonly=True):
    size: int


class Put(rio.Message[int]):
    data: bytes


class PutSlowly(rio.Message[int]):
    data: bytes


class Number(rio.Message[int]):
    number: int


class Shelf(rio.ServiceObject):
    last = 0

    @rio.handler
    def fetch(self, message: Fetch) -> bytes:
        return bytes(message.size)

    @rio.handler
    async def fetch_later(self, message: FetchLater) -> bytes:
        await asyncio.sleep(0)
        return bytes(message.size)

    @rio.handler
    def put(self, message: Put) -> int:
        return len(message.data)

    @rio.handler
    async def fetch_again(self, message: FetchAgain) -> bytes:
        await asyncio.sleep(0)
        return bytes(message.size)

    @rio.handler
    async def put_slowly(self, message: PutSlowly) -> int:
        await self.app_data.get(Probe).gate("put").wait()
        return len(message.data)

    @rio.handler
    async def number(self, message: Number) -> int:
        await asyncio.sleep(0)
        before, self.last = self.last, message.number
        return before


def connections(server: rio.Server) -> list[Any]:
    return [each for each in server._catalog.dispatcher.connections if each.peer is not None]


async def deaf_peer(server: rio.Server) -> RawPeer:
    """A peer that reads nothing from now on."""
    peer = await RawPeer.connect(server)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    return peer


def ask(peer: RawPeer, count: int, name: str = "Fetch", *, id: str = "a", first: int = 1) -> None:
    """Ask for so many replies of 1 MB; with an id like ``"a-"``, each of another object."""
    for number in range(first, first + count):
        size = {"size": MB}
        to = f"{id}{number % 200}" if id.endswith("-") else id
        peer.send(request(number, type="Shelf", id=to, message=name, timeout=60_000, payload=size))


def budget(server: rio.Server) -> Any:
    return server._catalog.dispatcher.budget


@pytest.mark.parametrize("message", [Fetch, FetchLater])
async def test_large_replies_at_once_reach_a_client_that_reads(
    cluster: Cluster, message: Any
) -> None:
    server = await cluster.server(Shelf)
    client = await cluster.client()
    replies = await asyncio.gather(
        *(client.send(Shelf, str(number), message(3_900_000)) for number in range(12))
    )
    assert [len(reply) for reply in replies] == [3_900_000] * 12
    assert len(connections(server)) == 1, "the client was not cut off"


@pytest.mark.parametrize("end", ["", "-"], ids=["one-object-each", "many-objects-each"])
@pytest.mark.parametrize("name", ["Fetch", "FetchLater"])
async def test_clients_that_never_read_large_replies_cost_bounded_room(
    cluster: Cluster, client: rio.Client, name: str, end: str
) -> None:
    server = cluster.servers[0]
    peers = [await deaf_peer(server) for _ in range(20)]
    largest = asked = 0
    # A busy server refuses some calls, and of clients that take nothing it may cut some off.
    while sum(not each.held for each in connections(server)) > 1:
        for number, peer in enumerate(peers):
            if not peer.writer.transport.is_closing():
                ask(peer, 100, name, id=f"shelf {number}{end}", first=asked + 1)
        asked += 100
        for _ in range(50):
            await asyncio.sleep(0.001)
            largest = max(largest, sum(each.unsent for each in connections(server)))
    assert largest < 64 * MB
    assert await client.send(Shelf, "a", Put(b"x")) == 1, "nobody else notices"
    for peer in peers:
        await peer.close()


async def test_what_was_held_back_is_answered_once_the_client_reads(
    cluster: Cluster, client: rio.Client
) -> None:
    server = cluster.servers[0]
    peer = await deaf_peer(server)
    ask(peer, 15, "FetchLater")
    ask(peer, 15, first=16)
    await until(lambda: any(each.held for each in connections(server)))
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    frames = [await peer.frame() for _ in range(30)]
    assert [(kind, id) for kind, id, _ in frames] == [(Kind.RESPONSE, n) for n in range(1, 31)]
    assert server.statistics().in_flight == 0
    await peer.close()


async def test_the_calls_of_a_client_that_was_held_back_keep_their_order(
    cluster: Cluster, client: rio.Client
) -> None:
    server = cluster.servers[0]
    peer = await deaf_peer(server)
    others = []
    for number in range(1, 61):
        name, payload = (
            ("FetchLater", {"size": MB}) if number % 2 else ("Number", {"number": number})
        )
        peer.send(
            request(number, type="Shelf", id="a", message=name, timeout=60_000, payload=payload)
        )
        others.append(asyncio.ensure_future(client.send(Shelf, "a", FetchLater(1))))
        await asyncio.sleep(0)
    await until(lambda: any(each.held for each in connections(server)))
    await asyncio.gather(*others)
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    answers = dict([(await peer.frame())[1:] for _ in range(60)])
    assert [answers[number] for number in range(2, 61, 2)] == list(range(0, 60, 2))
    await peer.close()


async def test_a_call_that_is_held_back_does_not_run_after_its_deadline(
    cluster: Cluster, client: rio.Client
) -> None:
    server = cluster.servers[0]
    peer = await deaf_peer(server)
    ask(peer, 20)
    await until(lambda: any(each.held for each in connections(server)))
    calls = server.statistics().calls
    peer.send(
        request(99, type="Shelf", id="b", message="Number", payload={"number": 1}, timeout=50)
    )
    await asyncio.sleep(0.2)
    assert server.statistics().calls == calls
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    answers = {id: kind for kind, id, *_ in [await peer.frame() for _ in range(21)]}
    assert answers[99] == Kind.ERROR
    await peer.close()


@pytest.mark.virtual_time
async def test_a_client_that_reads_slowly_is_not_cut_off(
    cluster: Cluster, client: rio.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.transport.server_connection.STALL_TIMEOUT", 0.2)
    server = cluster.servers[0]
    peer = await deaf_peer(server)
    ask(peer, 40)
    await until(lambda: any(each.held for each in connections(server)))
    received = 0
    while received < 40 * MB:
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        received += len(await peer.reader.read(4 * MB))
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.15)  # at least one read between two looks
        assert len(connections(server)) == 2, "neither this client nor the other was cut off"
    await peer.close()


async def test_unsent_bytes_of_one_turn_of_the_loop_count(cluster: Cluster) -> None:
    await cluster.server(Shelf)
    client = await cluster.client()
    await client.send(Shelf, "a", Put(b""))
    calls = [client.send(Shelf, "a", Put(bytes(2 * MB))) for _ in range(60)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    refused = [end for end in ends if isinstance(end, Overloaded)]
    assert 20 < len(refused) < 30
    assert ends.count(2 * MB) == 60 - len(refused)


async def test_replies_that_were_dropped_are_asked_for_again_where_that_does_no_harm(
    cluster: Cluster,
) -> None:
    server = await cluster.server(
        Shelf, config=rio.ServerConfig(frame_limit=2 * MB, held_limit=4 * MB)
    )
    client = await cluster.client()
    calls = [client.send(Shelf, str(number), FetchAgain(MB)) for number in range(40)]
    assert [len(reply) for reply in await asyncio.gather(*calls)] == [MB] * 40
    assert server.statistics().failures, "some did not find room"
    await until(lambda: budget(server).used == 0)


async def test_a_reply_that_finds_no_room_is_told_to_have_run(cluster: Cluster) -> None:
    server = await cluster.server(
        Shelf, config=rio.ServerConfig(frame_limit=2 * MB, held_limit=4 * MB)
    )
    peer = await deaf_peer(server)
    ask(peer, 40, "FetchLater", id="shelf-")
    await until(lambda: server.statistics().failures)
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    answers = [await peer.frame() for _ in range(40)]
    errors = [answer for answer in answers if answer[0] == Kind.ERROR]
    assert errors
    for _, _, code, text, _ in errors:
        assert code == OutcomeUnknown.code
        assert "reply of 1000005 bytes was dropped" in text
        assert "held_limit: 4000000" in text
    await peer.close()


async def test_messages_that_wait_are_refused_beyond_the_limit_and_leave_room_for_others(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Shelf, config=rio.ServerConfig(held_limit=10 * MB))
    greedy, modest = await RawPeer.connect(server), await RawPeer.connect(server)
    for number in range(1, 41):
        large = {"data": bytes(MB)}
        put = request(
            number, type="Shelf", id="a", message="PutSlowly", timeout=60_000, payload=large
        )
        greedy.send(put)
    kind, _, code, text, _ = await greedy.frame()
    assert (kind, code) == (Kind.ERROR, Overloaded.code)
    assert "(held_limit: 10000000)" in text
    assert 8 * MB < budget(server).used <= 10 * MB
    payload = {"data": bytes(MB // 100)}
    modest.send(request(1, type="Shelf", id="a", message="PutSlowly", payload=payload))
    await until(lambda: server.statistics().calls == 41)
    probe.gate("put").set()
    assert await modest.frame() == [Kind.RESPONSE, 1, MB // 100]
    answers = [(await greedy.frame())[0] for _ in range(39)]
    assert answers.count(Kind.RESPONSE) >= 9
    assert budget(server).used == 0
    await greedy.close()
    await modest.close()


async def test_nothing_is_held_for_callers_who_have_left(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Shelf)
    async with await RawPeer.connect(server) as peer:
        for number in range(1, 6):
            payload = {"data": bytes(MB)}
            peer.send(request(number, type="Shelf", id="a", message="PutSlowly", payload=payload))
        peer.send(request(6, type="Shelf", id="a", message="PutSlowly", payload=payload, timeout=1))
        await until(lambda: server.statistics().failures)
        assert 4 * MB < budget(server).used < 5 * MB, "the first is being handled"
    await until(lambda: budget(server).used == 0)


async def test_clients_that_take_nothing_leave_sooner_when_there_is_no_room(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.transport.server_connection.HASTY_TIMEOUT", 0.3)
    server = await cluster.server(
        Shelf, config=rio.ServerConfig(frame_limit=2 * MB, held_limit=4 * MB)
    )
    client = await cluster.client()
    peers = [await deaf_peer(server) for _ in range(8)]
    for peer in peers:
        ask(peer, 12)
    before = len(connections(server))
    # On a busy machine the first have gone before anybody looks.
    await until(lambda: budget(server).is_half_used or len(connections(server)) < before)
    await until(lambda: not budget(server).is_half_used)
    await until(lambda: len(connections(server)) < before)
    assert connections(server), "some had to go, and the others stay"
    assert await client.send(Shelf, "a", Put(b"x")) == 1
    for peer in peers:
        await peer.close()


@pytest.fixture
async def client(cluster: Cluster) -> rio.Client:
    await cluster.server(Shelf, config=rio.ServerConfig(held_limit=50 * 1024 * 1024))
    client = await cluster.client()
    await client.send(Shelf, "a", Put(b""))
    return client
