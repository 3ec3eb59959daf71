"""A call that may have run is never sent again, unless its message allows it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

import rio
from rio.client import retry
from rio.client.pool import Peer
from rio.client.retry import Next
from rio.contracts.membership import MembershipSnapshot, MemberStatus
from rio.errors import (
    BadMessage,
    CallTimeout,
    ConnectionLost,
    Deadlock,
    Draining,
    Expired,
    HandlerFailed,
    NoServersAvailable,
    NotActivated,
    NotExecuted,
    OutcomeUnknown,
    Overloaded,
    Redirected,
    RioError,
    StorageUnavailable,
    Superseded,
    Unavailable,
    UnknownMessage,
    UnknownType,
)
from rio.storage.local import LocalMembershipStorage
from tests.server.harness import Cluster, Patient, Probe, crash, sever, until

pytestmark = pytest.mark.virtual_time


class Count(rio.Message[int]):
    gate: str = ""


class CountOften(rio.Message[int], idempotent=True):
    gate: str = ""


class Look(rio.Message[int], readonly=True):
    gate: str = ""


class Counter(rio.ServiceObject):
    async def _count(self, gate: str, probe: Probe) -> int:
        probe.note(f"{self.id} counts")
        if gate:
            await probe.gate(gate).wait()
        return probe.count(f"{self.id} counts")

    @rio.handler
    async def count(self, message: Count, app: rio.AppData) -> int:
        return await self._count(message.gate, app.get(Probe))

    @rio.handler
    async def count_often(self, message: CountOften, app: rio.AppData) -> int:
        return await self._count(message.gate, app.get(Probe))

    @rio.handler
    async def look(self, message: Look, app: rio.AppData) -> int:
        return await self._count(message.gate, app.get(Probe))


# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeatable", [False, True], ids=["once", "repeatable"])
@pytest.mark.parametrize(
    ("error", "once", "repeatable_too"),
    [
        (Redirected(), Next.FOLLOW, Next.FOLLOW),
        (UnknownType(), Next.ANOTHER, Next.ANOTHER),
        (NotExecuted(), Next.LATER, Next.LATER),
        (Draining(), Next.LATER, Next.LATER),
        (Unavailable(), Next.LATER, Next.LATER),
        (Overloaded(), Next.LATER, Next.LATER),
        (Expired(), Next.RAISE, Next.RAISE),
        (NotActivated(), Next.RAISE, Next.RAISE),
        (OutcomeUnknown(), Next.RAISE, Next.LATER),
        (ConnectionLost(), Next.RAISE, Next.LATER),
        (Superseded(), Next.RAISE, Next.LATER),
        (CallTimeout(), Next.RAISE, Next.RAISE),
        (HandlerFailed(), Next.RAISE, Next.RAISE),
        (UnknownMessage(), Next.RAISE, Next.RAISE),
        (BadMessage(), Next.RAISE, Next.RAISE),
        (Deadlock(), Next.RAISE, Next.RAISE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RioError) else "",
)
def test_what_is_done_about_an_error(
    error: RioError, once: Next, repeatable_too: Next, repeatable: bool
) -> None:
    assert retry.decide(error, repeatable=repeatable) is (repeatable_too if repeatable else once)


# --- a connection that breaks ---------------------------------------------------------------------


async def test_a_call_whose_server_vanishes_is_unknown_and_ran_once(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Counter, "a", Count("never")))
    await probe.noted("a counts")
    sever(server)
    with pytest.raises(
        ConnectionLost, match="the connection broke before the answer came"
    ) as caught:
        await call
    assert isinstance(caught.value, OutcomeUnknown)
    assert await client.send(Counter, "b", Count()) == 1
    assert probe.count("a counts") == 1


async def test_of_a_thousand_calls_whose_server_vanishes_none_runs_twice(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    calls = [
        asyncio.ensure_future(client.send(Counter, f"c{n}", Count("never"))) for n in range(1000)
    ]
    await probe.noted("c999 counts")
    sever(server)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectionLost}
    await until(lambda: server.statistics().in_flight == 0)
    assert sorted(probe.log) == sorted(f"c{n} counts" for n in range(1000))


@pytest.mark.parametrize("message", [CountOften, Look])
async def test_a_repeatable_call_whose_server_vanishes_is_sent_again(
    cluster: Cluster, probe: Probe, message: type[Count]
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Counter, "a", message("go")))
    await probe.noted("a counts")
    sever(server)
    probe.gate("go").set()
    assert await call == 2


async def test_a_repeatable_call_ends_at_its_deadline_all_the_same(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Counter, "a", Look("never"), timeout=0.3))
    for times in (1, 2, 3):
        await probe.noted("a counts", times)
        sever(server)
    with pytest.raises(RioError) as caught:
        await call
    assert isinstance(caught.value, CallTimeout | Expired)


@pytest.mark.parametrize("message", [CountOften, Look])
@pytest.mark.parametrize("later", ["overloaded", "gone", "closed"])
async def test_once_an_attempt_may_have_run_the_outcome_is_unknown_whatever_later_ones_met(
    cluster: Cluster, probe: Probe, message: type[Count], later: str
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client(rng=Patient() if later == "closed" else None)
    call = asyncio.ensure_future(client.send(Counter, "a", message("never"), timeout=0.5))
    await probe.noted("a counts")
    if later == "overloaded":
        server._catalog.dispatcher.in_flight_limit = 0
    if later == "gone":
        await crash(server)
    else:
        sever(server)
    if later == "closed":
        await until(lambda: client._router.waiting)
        await client.close()
    with pytest.raises(OutcomeUnknown) as caught:
        await call
    assert isinstance(caught.value.__cause__, NotExecuted)
    assert "an earlier attempt ended with: the connection broke" in str(caught.value)


async def test_a_call_that_was_not_sent_when_the_connection_broke_is_sent_on_the_next_one(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    await client.send(Counter, "a", Count())
    sever(server)
    await until(lambda: server.statistics().connections == 0)
    await asyncio.gather(*(client.send(Counter, f"c{n}", Count()) for n in range(20)))
    assert server.statistics().connections == 1


async def test_an_answer_that_is_lost_between_objects_is_unknown_to_the_handler(
    cluster: Cluster, probe: Probe
) -> None:
    class Ask(rio.Message[str]):
        to: str

    class Asker(rio.ServiceObject):
        @rio.handler
        async def ask(self, message: Ask) -> str:
            try:
                return str(await self.send(Counter, message.to, Count("never")))
            except OutcomeUnknown as error:
                return type(error).__name__

    asker = await cluster.server(Asker)
    counter = await cluster.server(Counter)
    call = asyncio.ensure_future(asker.client.send(Asker, "x", Ask("a")))
    await probe.noted("a counts")
    sever(counter)
    assert await call == "ConnectionLost"
    assert probe.count("a counts") == 1


async def test_closing_a_client_ends_all_its_calls(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Counter)
    async with rio.Client(cluster.storage) as client:
        calls = [
            asyncio.ensure_future(client.send(Counter, "a", message("never")))
            for message in (Count, CountOften, Look)
        ]
        await probe.noted("a counts")
        server._catalog.draining = True
        calls.append(asyncio.ensure_future(client.send(Counter, "b", Look())))
        await until(
            lambda: client._router.waiting
        )  # the call was refused, and waits for its next attempt
    assert [
        type(outcome).__name__ for outcome in await asyncio.gather(*calls, return_exceptions=True)
    ] == [
        *["ConnectionLost"] * 3,
        "NotExecuted",
    ]
    server._catalog.draining = False
    with pytest.raises(RuntimeError, match="this client is not open"):
        client.send(Counter, "a", Count())


# --- no server ------------------------------------------------------------------------------------


async def test_a_call_waits_for_the_first_server(cluster: Cluster, probe: Probe) -> None:
    client = await cluster.client()
    calls = [asyncio.ensure_future(client.send(Counter, f"c{n % 3}", Count())) for n in range(9)]
    await until(lambda: client._router.members._misses > 1)
    assert not any(call.done() for call in calls)
    await cluster.server(Counter)
    assert sorted(await asyncio.gather(*calls)) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("how_it_ends", ["stop", "crash"])
async def test_a_call_waits_while_the_only_server_is_started_again(
    cluster: Cluster, probe: Probe, how_it_ends: str
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    assert await client.send(Counter, "a", Count()) == 1
    await (server.stop() if how_it_ends == "stop" else crash(server))
    calls = [asyncio.ensure_future(client.send(Counter, "a", Count())) for _ in range(3)]
    await until(lambda: len(client._router.waiting) == 3)
    await cluster.server(Counter)
    assert await asyncio.gather(*calls) == [2, 3, 4]


@pytest.mark.virtual_time(False)
async def test_an_empty_membership_is_told_at_the_deadline_with_its_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bank.db"
    async with rio.storage.open_storage(url), rio.Client(url) as client:
        with pytest.raises(
            NoServersAvailable,
            match=rf"Count to Counter/a found no server in time: {url} lists no active server:"
            " it holds no members: has a server been started on this storage",
        ):
            await client.send(Counter, "a", Count(), timeout=0.1)


async def test_one_read_of_the_members_at_a_time_serves_all_calls_that_wait(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    snapshot = LocalMembershipStorage.snapshot

    async def count(membership: LocalMembershipStorage) -> MembershipSnapshot:
        nonlocal reads
        reads += 1
        return await snapshot(membership)

    client = await cluster.client()
    monkeypatch.setattr(LocalMembershipStorage, "snapshot", count)
    calls = [client.send(Counter, f"c{n}", Count(), timeout=1.0) for n in range(500)]
    assert {type(error) for error in await asyncio.gather(*calls, return_exceptions=True)} == {
        NoServersAvailable
    }
    assert reads < 100


async def test_a_repeatable_call_that_may_have_run_says_so_when_no_server_comes_back(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Counter, "a", CountOften("gate"), timeout=1.0))
    await until(lambda: cluster.calls() == 1)
    await crash(server)
    with pytest.raises(rio.errors.CallTimeout, match="may have run: an earlier attempt"):
        await call


async def test_a_membership_without_an_active_server_is_told_with_what_there_is(
    cluster: Cluster,
) -> None:
    registered = await cluster.storage.membership.register("127.0.0.1:1")
    client = await cluster.client()
    with pytest.raises(
        NoServersAvailable, match=r"lists no active server: it holds 1: 127\.0\.0\.1:1 is JOINING"
    ):
        await client.send(Counter, "a", Count(), timeout=0.1)
    await cluster.storage.membership.set_status(
        registered.generation, MemberStatus.JOINING, MemberStatus.DEAD
    )


async def test_servers_that_cannot_be_reached_are_told_at_the_deadline(
    cluster: Cluster,
) -> None:
    membership = cluster.storage.membership
    for port in (1, 2):
        registered = await membership.register(f"127.0.0.1:{port}")
        await membership.set_status(
            registered.generation, MemberStatus.JOINING, MemberStatus.ACTIVE
        )
    client = await cluster.client()
    with pytest.raises(
        NoServersAvailable,
        match=r"none of the 2 active members can be reached; the last one: 127\.0\.0\.1:[12]"
        r" cannot be reached",
    ):
        await client.send(Counter, "a", Count(), timeout=1.0)


async def test_a_server_that_cannot_be_reached_is_left_out_while_another_can(
    cluster: Cluster, probe: Probe
) -> None:
    dead = await cluster.storage.membership.register("127.0.0.1:1")
    await cluster.storage.membership.set_status(
        dead.generation, MemberStatus.JOINING, MemberStatus.ACTIVE
    )
    await cluster.server(Counter)
    client = await cluster.client()
    assert set(
        await asyncio.gather(*(client.send(Counter, f"c{n}", Count()) for n in range(40)))
    ) == {1}


async def test_a_server_that_could_not_be_reached_is_tried_again_after_a_while(
    cluster: Cluster, probe: Probe
) -> None:
    knocked = asyncio.Event()

    async def knock(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocked.set()
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(knock, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    listener.close()
    await listener.wait_closed()
    silent = await cluster.storage.membership.register(f"{host}:{port}")
    await cluster.storage.membership.set_status(
        silent.generation, MemberStatus.JOINING, MemberStatus.ACTIVE
    )
    await cluster.server(Counter)
    client = await cluster.client()
    await asyncio.gather(*(client.send(Counter, f"c{n}", Count()) for n in range(40)))
    listener = await asyncio.start_server(knock, host, port)
    for number in itertools.count(40):
        await client.send(Counter, f"c{number}", Count())
        if knocked.is_set():
            break
        await asyncio.sleep(0.1)
    listener.close()
    await listener.wait_closed()


async def test_servers_are_not_looked_at_one_by_one_for_each_call(
    cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = [await cluster.server(Counter) for _ in range(3)]
    client = await cluster.client()
    await asyncio.gather(*(client.send(Counter, f"c{n}", Count()) for n in range(40)))
    looks = 0

    def rank(peer: Peer, moment: float) -> tuple[bool, bool]:
        nonlocal looks
        looks += 1
        return False, False

    monkeypatch.setattr(Peer, "rank", rank)
    await asyncio.gather(*(client.send(Counter, f"d{n}", Count()) for n in range(40)))
    assert looks < 40
    assert {cluster.home(Counter, f"d{n}") for n in range(40)} == set(servers)


async def test_a_membership_that_cannot_be_read_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await cluster.client()

    async def fail(_: object) -> None:
        raise StorageUnavailable("no answer")

    monkeypatch.setattr(LocalMembershipStorage, "snapshot", fail)
    with pytest.raises(NoServersAvailable, match=r"the members of .* cannot be read: no answer"):
        await client.send(Counter, "a", Count(), timeout=0.1)
    with pytest.raises(StorageUnavailable):
        async with rio.Client(cluster.storage):
            pass


async def test_a_client_that_was_opened_before_any_server_finds_the_first_one(
    cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    await cluster.server(Counter)
    assert await client.send(Counter, "a", Count()) == 1


# --- servers that come back -----------------------------------------------------------------------


async def test_a_client_goes_on_after_a_server_was_restarted_on_its_port(
    cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    address = "127.0.0.1:0"
    for restart in range(5):
        registry = rio.Registry(Counter)
        async with rio.Server(
            registry,
            storage=cluster.storage,
            cluster="local",
            address=address,
            app_data=cluster.app_data(),
        ) as server:
            address = server.address
            assert await client.send(Counter, "a", Count()) == restart + 1
            assert await client.send(Counter, f"new{restart}", Count()) == 1


async def test_a_server_that_came_back_on_its_port_is_a_new_member_and_takes_its_objects_back(
    cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    first = await cluster.server(Counter)
    assert await client.send(Counter, "a", Count()) == 1
    await crash(first)
    second = await cluster.server(Counter, address=first.address)
    assert second.address == first.address
    assert second.generation != first.generation
    assert await client.send(Counter, "a", Count()) == 2
    assert await client.send(Counter, "b", Count()) == 1
    assert cluster.home(Counter, "a") is second


async def test_the_objects_of_a_server_that_died_move_when_it_is_declared_dead(
    cluster: Cluster, probe: Probe
) -> None:
    first = await cluster.server(Counter)
    assert await first.client.send(Counter, "a", Count()) == 1
    second = await cluster.server(Counter)
    client = await cluster.client()
    await crash(first)
    call = asyncio.ensure_future(client.send(Counter, "a", Count()))
    await until(lambda: second.statistics().failures > 0)
    assert not call.done(), "nobody may take the object while its owner may live"
    await cluster.storage.membership.set_status(
        first.generation, MemberStatus.ACTIVE, MemberStatus.DEAD
    )
    assert await call == 2
    assert cluster.home(Counter, "a") is second


async def test_a_call_to_an_overloaded_node_is_made_again_until_it_is_taken(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter, config=rio.ServerConfig(in_flight_limit=1))
    client = await cluster.client()
    first = asyncio.ensure_future(client.send(Counter, "a", Count("go")))
    await probe.noted("a counts")
    second = asyncio.ensure_future(client.send(Counter, "b", Count()))
    await until(lambda: server.statistics().failures >= 2)
    probe.gate("go").set()
    assert await asyncio.gather(first, second) == [1, 1]
    assert probe.count("b counts") == 1


async def test_an_object_that_fails_to_activate_is_not_tried_again_behind_the_callers_back(
    cluster: Cluster, probe: Probe
) -> None:
    class Sick(rio.ServiceObject):
        async def after_load(self, app: rio.AppData) -> None:
            app.get(Probe).note("tried")
            raise ValueError("no")

        @rio.handler
        async def count(self, message: Count) -> int:
            return 0

    await cluster.nodes(2, Sick)
    client = await cluster.client()
    with pytest.raises(NotActivated):
        await client.send(Sick, "a", Count())
    assert probe.count("tried") == 1
