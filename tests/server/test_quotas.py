"""Clients that take all they can get: the others, and the nodes, still get theirs."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rio
from rio._core.wire import Kind
from rio.errors import BadMessage, NotExecuted, Overloaded
from rio.logs import Logger, SparingLog
from rio.security.proof import Proofs, make_nonce
from rio.server import quotas
from rio.server.quotas import Quotas, TokenBucket
from rio.transport.protocol import VERSION, Hello, encode, write_hello, write_proof
from rio.transport.server_connection import address_of
from tests.server.harness import Cluster, Probe, RawPeer, activations, until


class Touch(rio.Message[None]):
    text: str = ""


class Hold(rio.Message[None]):
    data: bytes = b""


class Box(rio.ServiceObject):
    @rio.handler
    def touch(self, _: Touch) -> None: ...

    @rio.handler
    async def hold(self, _: Hold) -> None:
        await self.app_data.get(Probe).gate("hold").wait()


NODE = rio.Key.generate("node", "node")
ATTACKER = rio.Key.generate("attacker", "call")
HONEST = rio.Key.generate("honest", "call")
KEYS = (NODE, ATTACKER, HONEST)


def security(*keys: rio.Key) -> rio.Security:
    return rio.Security(keys, encryption="none")


class KeyedPeer(RawPeer):
    """A socket whose peer has proven itself, and then writes and reads frames by hand."""

    @classmethod
    async def enter(cls, server: rio.Server, key: rio.Key) -> KeyedPeer:
        host, port = rio.Address.parse(server.address)
        peer = cls(*await asyncio.open_connection(host, port))
        role = "node" if key.role == "node" else "client"
        hello = write_hello(Hello(VERSION, role, key=key.id, nonce=make_nonce()))
        peer.send(hello)
        answer = await peer.body()
        if answer[1] == Kind.ERROR:
            return peer
        await peer.body()
        peer.send(write_proof(Proofs(hello, answer, b"", key.secret).of("client")))
        return peer

    async def body(self) -> bytes:
        return await self.reader.readexactly(
            int.from_bytes(await self.reader.readexactly(4), "big")
        )

    def ask(self, number: int, id: str, message: str = "Touch", **payload: Any) -> None:
        timeout = 2**64 - 1
        self.send(encode([Kind.REQUEST, number, "Box", id, message, timeout, None, payload]))

    def subscribe(self, number: int, id: str) -> None:
        self.send(
            encode([Kind.REQUEST, number, "Box", id, "rio.subscribe", 0, None, {"number": number}])
        )

    async def answers(self, count: int) -> list[list[Any]]:
        return [await self.frame() for _ in range(count)]


@pytest.fixture
async def honest(cluster: Cluster) -> rio.Client:
    return await cluster.client(security=security(HONEST))


async def start(cluster: Cluster, **config: Any) -> rio.Server:
    return await cluster.server(Box, config=rio.ServerConfig(**config), security=security(*KEYS))


async def enter(server: rio.Server, count: int, key: rio.Key = ATTACKER) -> list[KeyedPeer]:
    return [await KeyedPeer.enter(server, key) for _ in range(count)]


async def close(*peers: RawPeer) -> None:
    for peer in peers:
        await peer.close()


def texts(answers: list[list[Any]]) -> str:
    """The text of errors that are all alike."""
    assert {(kind, code) for kind, _, code, *_ in answers} == {(Kind.ERROR, "overloaded")}
    return str(answers[0][3])


# --- calls and bytes ------------------------------------------------------------------------------


async def test_one_key_over_many_connections_has_its_share_of_the_calls_and_others_theirs(
    cluster: Cluster, honest: rio.Client, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(cluster, in_flight_limit=64)
    peers = await enter(server, 20)
    for peer in peers:
        for number in range(1, 11):
            peer.ask(number, f"{number}", "Hold")
    for number in range(11, 75):
        peers[0].ask(number, "1", "Hold")
    await until(lambda: server.statistics().calls == 264)
    assert server.statistics().in_flight < 60
    [refused] = await peers[0].answers(1)
    assert "(in_flight_limit: 64): have fewer under way, or raise the limit" in texts([refused])
    await honest.send(Box, "honest", Touch())
    [member] = await enter(server, 1, NODE)
    for number in range(1, 5):
        member.ask(number, "of a node", "Hold")
    await until(lambda: server.statistics().in_flight >= 60)
    lines = [each.getMessage() for each in caplog.records if "is refused" in each.getMessage()]
    assert 1 <= len(lines) < 10
    assert "key 'attacker' is refused: " in lines[0]
    probe.gate("hold").set()
    await close(*peers, member)


async def test_one_key_over_many_connections_has_its_share_of_the_bytes_and_others_theirs(
    cluster: Cluster, honest: rio.Client, probe: Probe
) -> None:
    server = await start(cluster, frame_limit=64 * 1024, held_limit=1_000_000)
    budget = server._catalog.dispatcher.budget
    peers = await enter(server, 20)
    for peer in peers:
        for number in range(1, 5):
            peer.ask(number, "busy", "Hold", data=bytes(50_000))
    await until(lambda: server.statistics().calls == 80)
    assert 700_000 < budget.used < 937_500
    kind, _, code, text, _ = await peers[-1].frame()
    assert (kind, code) == (Kind.ERROR, "overloaded")
    assert "(held_limit: 1000000): send less at a time, or raise the limit" in text
    waiting = asyncio.ensure_future(honest.send(Box, "busy", Hold(bytes(1000))))
    [member] = await enter(server, 1, NODE)
    member.ask(1, "busy", "Hold", data=bytes(50_000))
    await until(lambda: server.statistics().calls == 82)
    probe.gate("hold").set()
    await waiting
    assert await member.frame() == [Kind.RESPONSE, 1, None]
    await until(lambda: budget.used == 0)
    await close(*peers, member)


# --- objects --------------------------------------------------------------------------------------


async def test_a_flood_of_invented_ids_is_held_to_the_rate_and_others_activate(
    cluster: Cluster, honest: rio.Client
) -> None:
    now = 1000.0
    server = await start(cluster, activation_rate=2.0, activation_burst=10)
    server._catalog.quotas._now = lambda: now
    peers = await enter(server, 2)
    for number in range(1, 21):
        peers[number % 2].ask(number, f"invented {number}")
    answers = [*await peers[0].answers(10), *await peers[1].answers(10)]
    assert sum(answer[0] == Kind.RESPONSE for answer in answers) == 10
    refused = [answer for answer in answers if answer[0] == Kind.ERROR]
    assert "2 a second (activation_rate) after the first 10 (activation_burst)" in texts(refused)
    assert {tuple(answer[4]) for answer in refused} == {(0.5,)}
    await asyncio.gather(*(honest.send(Box, f"mine {number}", Touch()) for number in range(10)))
    peers[0].ask(30, "mine 1")
    assert (await peers[0].frame())[0] == Kind.RESPONSE, "what is in memory costs nothing"
    now += 1.0
    for number in range(31, 35):
        peers[0].ask(number, f"invented {number}")
    answers = await peers[0].answers(4)
    assert sum(answer[0] == Kind.RESPONSE for answer in answers) == 2
    await close(*peers)
    [again] = await enter(server, 1)
    again.ask(1, "other")
    assert (await again.frame())[0] == Kind.ERROR, "to connect anew gives nothing back"
    assert len(activations(server, Box)) == 22
    await close(again)


async def test_nodes_activate_what_they_like(cluster: Cluster) -> None:
    server = await start(cluster, activation_rate=1.0, activation_burst=1)
    [member] = await enter(server, 1, NODE)
    for number in range(1, 11):
        member.ask(number, f"{number}")
    assert {answer[0] for answer in await member.answers(10)} == {Kind.RESPONSE}
    for number in range(10):
        await server.client.send(Box, f"own {number}", Touch())
    await close(member)


async def test_what_does_not_decode_brings_no_object_to_life(
    cluster: Cluster, honest: rio.Client
) -> None:
    server = await start(cluster)
    [peer] = await enter(server, 1)
    peer.ask(1, "a", text=1)
    assert (await peer.frame())[:3] == [Kind.ERROR, 1, BadMessage.code]
    assert not activations(server, Box)
    await close(peer)


async def test_an_object_that_lives_elsewhere_costs_no_activation(cluster: Cluster) -> None:
    one, other = (await start(cluster, activation_burst=1, activation_rate=0.001), None)
    other = await start(cluster)
    ids = [await cluster.activated_on(other, Box, Touch()) for _ in range(3)]
    [peer] = await enter(one, 1)
    for number, id in enumerate(ids, 1):
        peer.ask(number, id)
    assert {answer[2] for answer in await peer.answers(3)} == {"redirect"}
    peer.ask(4, "new")
    assert (await peer.frame())[0] == Kind.RESPONSE
    await close(peer)


# --- subscriptions --------------------------------------------------------------------------------


async def test_subscriptions_are_limited_for_a_connection_and_for_a_client(
    cluster: Cluster, honest: rio.Client
) -> None:
    server = await start(cluster, subscription_limit=3, client_subscription_limit=5)
    first, second = await enter(server, 2)
    for number in range(1, 5):
        first.subscribe(number, f"{number}")
    answers = await first.answers(4)
    assert [answer[0] for answer in answers] == 3 * [Kind.RESPONSE] + [Kind.ERROR]
    assert "3 subscriptions are open on this connection (subscription_limit)" in texts(answers[3:])
    assert "4" in activations(server, Box), "the object has nothing to do with it"
    for number in range(1, 4):
        second.subscribe(number, "1")
    answers = await second.answers(3)
    assert [answer[0] for answer in answers] == 2 * [Kind.RESPONSE] + [Kind.ERROR]
    assert "5 subscriptions on this node (client_subscription_limit)" in texts(answers[2:])
    async with honest.subscribe(Box, "1"):
        first.send(encode([Kind.END, 1]))
        second.subscribe(4, "1")
        assert (await second.frame())[0] == Kind.RESPONSE
    await close(first)
    await until(lambda: server.statistics().subscriptions == 3)
    second.subscribe(5, "1")
    assert (await second.frame())[:3] == [Kind.ERROR, 5, "overloaded"], "3 on this connection"
    await close(second)
    await until(lambda: server.statistics().subscriptions == 0)


async def test_a_subscription_above_the_limit_fails_with_a_clear_error(cluster: Cluster) -> None:
    await start(cluster, subscription_limit=1)
    client = await cluster.client(security=security(HONEST), timeout=0.3)
    async with client.subscribe(Box, "1"):
        with pytest.raises(NotExecuted, match="subscription_limit"):
            async with client.subscribe(Box, "2"):
                pass


# --- connections ----------------------------------------------------------------------------------


async def test_a_flood_of_connections_of_one_key_leaves_some_for_others_and_for_nodes(
    cluster: Cluster, honest: rio.Client, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(cluster, connection_limit=34)
    peers = await enter(server, 40)
    for peer in peers[-4:]:
        assert await peer.closed()
    assert server.statistics().connections == 32
    await honest.send(Box, "a", Touch())
    members = await enter(server, 10, NODE)
    for member in members:
        member.ask(1, "a")
        assert (await member.frame())[0] == Kind.RESPONSE
    lines = [each.getMessage() for each in caplog.records if "is refused" in each.getMessage()]
    assert 1 <= len(lines) < 8
    assert "key 'attacker' may have no further connection" in lines[0]
    assert "(connection_limit: 34)" in lines[0]
    await close(*peers, *members)
    await until(lambda: server.statistics().connections == 1)
    [peer] = await enter(server, 1)
    peer.ask(1, "a")
    assert (await peer.frame())[0] == Kind.RESPONSE
    await close(peer)


async def test_a_client_that_may_have_no_further_connection_is_told_which_limit_it_met(
    cluster: Cluster,
) -> None:
    await cluster.server(Box, config=rio.ServerConfig(connection_limit=1))
    first = await cluster.client()
    await first.send(Box, "a", Touch())
    second = await cluster.client(timeout=0.3)
    with pytest.raises(NotExecuted, match="connection_limit: 1"):
        await second.send(Box, "a", Touch())
    await first.send(Box, "a", Touch())


async def test_strangers_give_way_to_those_who_introduce_themselves(
    cluster: Cluster, honest: rio.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MOST_STRANGERS", 8)
    server = await start(cluster)
    host, port = rio.Address.parse(server.address)
    strangers = [RawPeer(*await asyncio.open_connection(host, port)) for _ in range(20)]
    for stranger in strangers[:12]:
        assert await stranger.closed()
    assert server.statistics().connections == 8
    await honest.send(Box, "a", Touch())
    await close(*strangers)
    await until(lambda: server.statistics().connections == 1)
    assert server._catalog.quotas._stranger_count == 0


def test_of_strangers_the_address_that_has_most_gives_way() -> None:
    class Connection:
        usage: Any = None
        is_node = True
        gone = ""

        def turn_away(self, reason: str) -> None:
            self.gone = reason

    made = Quotas(rio.ServerConfig(), lambda: 0.0)
    made._most_strangers = 4
    many, few = [Connection() for _ in range(9)], [Connection() for _ in range(2)]
    made.meet(few[0], "few")
    for connection in many:
        made.meet(connection, "many")
    made.meet(few[1], "few")
    assert [bool(each.gone) for each in many] == 7 * [True] + 2 * [False]
    assert not any(each.gone for each in few)


@pytest.mark.parametrize(
    ("peer_name", "address"),
    [
        (("10.0.0.7", 5000), "10.0.0.7"),
        (("::ffff:10.0.0.7", 5000, 0, 0), "10.0.0.7"),
        (("2001:db8:1:2:3:4:5:6", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5000, 0, 2), "fe80::/64"),
        ("", "this machine"),
        ("memory", "this machine"),
    ],
)
def test_a_client_without_a_key_is_known_by_its_address(peer_name: Any, address: str) -> None:
    assert address_of(peer_name) == address


async def test_a_client_that_has_left_is_forgotten(cluster: Cluster, honest: rio.Client) -> None:
    server = await start(cluster, activation_rate=10.0)
    kept = server._catalog.quotas
    now = kept._now() + 1000
    kept._now = lambda: now
    [peer] = await enter(server, 1)
    peer.ask(1, "a")
    await peer.frame()
    await honest.send(Box, "a", Touch())
    await close(peer)
    await until(lambda: kept._connections == 1)
    kept.look()
    assert set(kept._accounts) == {"key 'attacker'", "key 'honest'"}, "its bucket is not full"
    now += 60
    kept.look()
    assert set(kept._accounts) == {"key 'honest'"}


# --- the parts ------------------------------------------------------------------------------------


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 60)), max_size=30),
)
def test_a_bucket_gives_no_more_than_burst_and_rate_and_says_when_to_come_again(
    rate: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    now, given_at = 100.0, []
    bucket = TokenBucket(rate, burst, now)
    for passed, attempts in steps:
        now += passed
        for _ in range(attempts):
            wait = bucket.take(now)
            if wait:
                assert len(given_at) >= burst, "the first ones do not wait"
                early, late = now + wait * 0.999, now + wait * 1.001 + 1e-9
                assert bucket._tokens + (early - now) * rate < 1
                assert bucket._tokens + (late - now) * rate >= 1
                break
            given_at.append(now)
    for number, began in enumerate(given_at):
        for count, end in enumerate(given_at[number:], 1):
            assert count <= burst + (end - began) * rate + 1e-6


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(10.0, 1, 100.0)
    assert bucket.take(100.0) == 0
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(50.0) == pytest.approx(0.1)
    bucket.give_back()
    assert bucket.take(100.0) == 0
    assert not bucket.is_full(100.05)
    assert bucket.is_full(100.1001)


def test_of_each_kind_of_trouble_the_log_has_one_line_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 100.0
    log = SparingLog(Logger("rio.server"), lambda: now)
    for _ in range(10):
        for kind in ("calls", "bytes"):
            for number in range(100):
                log.warn(kind, "%s: %s", kind, number)
        now += 0.25
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 6
    assert lines[0] == "calls: 0 (1 times in all)"
    assert lines[2] == "calls: 0 (401 times in all)"


def test_an_error_of_a_limit_can_be_collected() -> None:
    made = Quotas(rio.ServerConfig(), lambda: 0.0)
    account = made.enter("web", "10.0.0.7")
    with pytest.raises(Overloaded, match="too much"):
        raise account.refuse("held_limit", "too much")
    made.leave(account)
    gc.collect()
    assert account.connections == 0
