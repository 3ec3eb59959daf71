"""Without its lease a node starts nothing, saves nothing and acknowledges nothing.

With the lease, it goes on where it was.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import rio
from rio._core.clock import now
from rio.cluster.loops import Loop
from rio.contracts.membership import MemberStatus
from rio.contracts.placement import Placement
from rio.errors import CallTimeout, Expired, NodeEvicted, OutcomeUnknown, StorageUnavailable
from rio.identity import ObjectId
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement
from tests.server.harness import NO_ANSWER, Cluster, Probe, instance, until

pytestmark = pytest.mark.virtual_time


class Add(rio.Message[int]):
    amount: int = 1
    gate: str = ""
    save: bool = False
    patient: bool = False
    """Ignore a cancellation."""


class Get(rio.Message[int], readonly=True):
    pass


class Total(rio.State):
    value: int = 0


class Holder(rio.ServiceObject):
    total: Total = rio.managed_state()

    async def after_load(self, app: rio.AppData) -> None:
        probe = app.get(Probe)
        probe.note(f"{self.id} loads")
        if self.id == "slow":
            try:
                await probe.gate("load").wait()
            except asyncio.CancelledError:
                probe.note("loading cancelled")
                raise

    async def shutdown(self, app: rio.AppData) -> None:
        app.get(Probe).note(f"{self.id} shut down")
        await self.save_state()

    @rio.handler
    async def add(self, message: Add, app: rio.AppData) -> int:
        probe = app.get(Probe)
        probe.note(f"{self.id} adds")
        self.total.value += message.amount
        try:
            if message.gate:
                await probe.gate(message.gate).wait()
        except asyncio.CancelledError:
            probe.note(f"{self.id} cancelled")
            if not message.patient:
                raise
        if message.save:
            await self.save_state()
        return self.total.value

    @rio.handler
    def get(self, message: Get) -> int:
        return self.total.value


class Leash(rio.ClusterProvider):
    """A provider whose lease the test holds in its hands."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.storage.membership)
        self._evicted = asyncio.Event()

    def hold(self) -> None:
        self.on_lease(math.inf)

    def let_go(self) -> None:
        self.on_lease(-math.inf)

    def evict(self) -> None:
        self._evicted.set()

    def _lease_duration(self) -> float:
        return math.inf

    async def _renew(self) -> None:
        self._extend(self._clock())

    async def _evict(self, member: object) -> None: ...

    def _loops(self) -> list[Loop]:
        return [*super()._loops(), self._wait_for_eviction]

    async def _wait_for_eviction(self) -> None:
        await self._evicted.wait()
        self._raise_evicted("was evicted by the test")


@pytest.fixture
def leash(cluster: Cluster) -> Leash:
    return Leash(cluster)


@pytest.fixture
async def server(cluster: Cluster, leash: Leash) -> rio.Server:
    return await cluster.server(Holder, cluster=leash)


@pytest.fixture
async def client(cluster: Cluster, server: rio.Server) -> rio.Client:
    return await cluster.client()


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with which handlers are cancelled as soon as the lease has ended."""
    monkeypatch.setattr("rio.server.fence.FENCE_GRACE", 0.0)


async def stored(cluster: Cluster, id: str) -> int:
    """The version of the object's state in the storage."""
    entry = cluster.storage.state._objects.get(ObjectId("Holder", id))  # type: ignore[attr-defined]
    return 0 if entry is None else int(entry[1].version)


# --- turns ----------------------------------------------------------------------------------------


async def test_without_the_lease_nothing_starts_and_with_it_all_goes_on_in_order(
    client: rio.Client, server: rio.Server, leash: Leash, probe: Probe
) -> None:
    assert await client.send(Holder, "a", Add()) == 1
    leash.let_go()
    calls = [asyncio.ensure_future(client.send(Holder, "a", Add())) for _ in range(10)]
    await until(lambda: server.statistics().in_flight == 10)
    assert probe.count("a adds") == 1
    assert server.statistics().fenced == 1
    leash.hold()
    assert await asyncio.gather(*calls) == list(range(2, 12)), (
        "the memory is intact, though it was never saved"
    )
    assert probe.count("a loads") == 1


async def test_calls_that_wait_for_the_lease_end_at_their_deadline_and_did_not_run(
    client: rio.Client, server: rio.Server, leash: Leash, probe: Probe
) -> None:
    assert await client.send(Holder, "a", Add()) == 1
    leash.let_go()
    for _ in range(3):
        with pytest.raises((CallTimeout, Expired)):
            await client.send(Holder, "a", Add(), timeout=0.02)
    await until(lambda: server.statistics().in_flight == 0)
    leash.hold()
    assert await client.send(Holder, "a", Add()) == 2


async def test_without_the_lease_no_object_is_brought_to_life(
    client: rio.Client, cluster: Cluster, server: rio.Server, leash: Leash, probe: Probe
) -> None:
    leash.let_go()
    with pytest.raises(NO_ANSWER):
        await client.send(Holder, "new", Add(), timeout=0.05)
    assert await cluster.storage.placement.lookup(ObjectId("Holder", "new")) is None
    waiting = asyncio.ensure_future(client.send(Holder, "new", Add()))
    await until(lambda: server.statistics().failures >= 3)
    leash.hold()
    assert await waiting == 1
    assert probe.count("new loads") == 1


async def test_an_object_whose_claim_came_back_after_the_lease_ended_is_not_loaded(
    client: rio.Client,
    server: rio.Server,
    leash: Leash,
    probe: Probe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = LocalObjectPlacement.claim

    async def claim_and_lose(self: LocalObjectPlacement, *args: Any, **kwargs: Any) -> Placement:
        placement = await claim(self, *args, **kwargs)
        leash.let_go()
        return placement

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjectPlacement, "claim", claim_and_lose)
        with pytest.raises(NO_ANSWER):
            await client.send(Holder, "a", Add(), timeout=0.05)
    assert probe.log == []
    leash.hold()
    assert await client.send(Holder, "a", Add()) == 1


# --- saves and replies ----------------------------------------------------------------------------


async def test_nothing_is_saved_after_the_lease_has_ended(
    client: rio.Client, cluster: Cluster, server: rio.Server, leash: Leash, probe: Probe
) -> None:
    assert await client.send(Holder, "a", Add(save=True)) == 1
    call = asyncio.ensure_future(client.send(Holder, "a", Add(gate="go", save=True)))
    await probe.noted("a adds", 2)
    leash.let_go()
    probe.gate("go").set()
    with pytest.raises(
        OutcomeUnknown,
        match="StorageUnavailable: Holder/a was not saved: the node has lost its lease",
    ):
        await call
    assert await stored(cluster, "a") == 1
    leash.hold()
    assert await client.send(Holder, "a", Get()) == 1, "loaded again"


async def test_a_reply_computed_after_the_lease_has_ended_is_not_acknowledged(
    client: rio.Client, server: rio.Server, leash: Leash, probe: Probe
) -> None:
    call = asyncio.ensure_future(client.send(Holder, "a", Add(gate="go")))
    await probe.noted("a adds")
    leash.let_go()
    probe.gate("go").set()
    with pytest.raises(OutcomeUnknown, match="the node lost its lease while Holder/a handled Add"):
        await call
    assert server.statistics().fenced == 1
    leash.hold()
    assert await client.send(Holder, "a", Get()) == 1, (
        "it did run, and the object is still in memory"
    )
    assert probe.count("a loads") == 1


# --- what still runs when the lease ends ----------------------------------------------------------


async def test_running_handlers_are_cancelled_after_the_grace_and_their_callers_told(
    client: rio.Client,
    server: rio.Server,
    leash: Leash,
    probe: Probe,
    no_grace: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = [
        asyncio.ensure_future(client.send(Holder, id, Add(gate="never"))) for id in ("a", "b", "c")
    ]
    await probe.noted("c adds")
    leash.let_go()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}
    assert [probe.count(f"{id} cancelled") for id in ("a", "b", "c")] == [1, 1, 1]
    assert "has lost its lease: 3 running handlers and hooks were cancelled" in caplog.text
    leash.hold()
    assert await client.send(Holder, "a", Add()) == 2
    assert probe.count("a loads") == 1, "a cancellation costs no memory"


async def test_a_handler_that_takes_no_notice_of_the_cancellation_acknowledges_nothing(
    client: rio.Client, server: rio.Server, leash: Leash, probe: Probe, no_grace: None
) -> None:
    call = asyncio.ensure_future(client.send(Holder, "a", Add(gate="never", patient=True)))
    await probe.noted("a adds")
    leash.let_go()
    with pytest.raises(OutcomeUnknown):
        await call


async def test_a_lease_that_comes_back_within_the_grace_cancels_nothing(
    client: rio.Client, server: rio.Server, leash: Leash, probe: Probe
) -> None:
    call = asyncio.ensure_future(client.send(Holder, "a", Add(gate="go")))
    await probe.noted("a adds")
    leash.let_go()
    leash.hold()
    assert server._fence._timer is None
    probe.gate("go").set()
    assert await call == 1


async def test_an_activation_under_way_is_given_up_after_the_grace_and_made_again_with_the_lease(
    client: rio.Client, server: rio.Server, leash: Leash, probe: Probe, no_grace: None
) -> None:
    call = asyncio.ensure_future(client.send(Holder, "slow", Add()))
    await probe.noted("slow loads")
    leash.let_go()
    await probe.noted("loading cancelled")
    await until(lambda: server.statistics().live_objects == 0)
    assert not call.done(), "it did not run: the client tries again"
    probe.gate("load").set()
    leash.hold()
    assert await call == 1


# --- eviction -------------------------------------------------------------------------------------


async def test_a_server_that_is_evicted_stops_and_says_so(
    client: rio.Client, cluster: Cluster, server: rio.Server, leash: Leash, probe: Probe
) -> None:
    running = asyncio.ensure_future(server.run(handle_signals=False))
    await client.send(Holder, "idle", Add())
    call = asyncio.ensure_future(client.send(Holder, "busy", Add(gate="never")))
    await probe.noted("busy adds")
    leash.evict()
    with pytest.raises(NodeEvicted, match="was evicted by the test"):
        await running
    with pytest.raises(OutcomeUnknown):
        await call
    assert probe.count("busy cancelled") == 1
    assert probe.count("idle shut down") == probe.count("busy shut down") == 0, (
        "no hook runs: the objects may live elsewhere by now"
    )
    assert await stored(cluster, "idle") == await stored(cluster, "busy") == 0
    assert server.statistics().live_objects == server.statistics().connections == 0


async def test_a_member_that_was_declared_dead_stops_and_its_objects_live_elsewhere(
    cluster: Cluster, probe: Probe
) -> None:
    first = await cluster.server(Holder)
    running = asyncio.ensure_future(first.run(handle_signals=False))
    await first.client.send(Holder, "a", Add(amount=5, save=True))
    await first.client.send(Holder, "a", Add(amount=100))
    second = await cluster.server(Holder)
    client = await cluster.client()
    await cluster.storage.membership.set_status(
        first.generation, MemberStatus.ACTIVE, MemberStatus.DEAD
    )
    await second._cluster.refresh()
    assert await second.client.send(Holder, "a", Add(save=True)) == 6, "what was saved"
    with pytest.raises(NodeEvicted):
        await running
    assert await client.send(Holder, "a", Add(save=True)) == 7
    assert await stored(cluster, "a") == 3
    assert cluster.home(Holder, "a") is second


async def test_an_evicted_node_that_does_not_know_it_yet_can_save_nothing(
    cluster: Cluster, probe: Probe
) -> None:
    first = await cluster.server(Holder, cluster=Leash(cluster))
    await first.client.send(Holder, "a", Add(save=True))
    call = asyncio.ensure_future(
        first.client.send(Holder, "a", Add(amount=1000, gate="go", save=True))
    )
    await probe.noted("a adds", 2)
    await cluster.storage.membership.set_status(
        first.generation, MemberStatus.ACTIVE, MemberStatus.DEAD
    )
    second = await cluster.server(Holder)
    assert await second.client.send(Holder, "a", Add(save=True)) == 2
    probe.gate("go").set()
    with pytest.raises(OutcomeUnknown):
        await call
    assert await second.client.send(Holder, "a", Add(save=True)) == 3


# --- the clock ------------------------------------------------------------------------------------


async def test_a_node_that_was_suspended_admits_nothing_until_it_has_renewed(
    cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = 0.0
    server = await cluster.server(Holder, clock=lambda: now() + slept)
    client = await cluster.client()
    assert await client.send(Holder, "a", Add()) == 1
    renew = LocalMembershipStorage.renew
    failures = 0

    async def fail(*_: object) -> bool:
        nonlocal failures
        failures += 1
        raise StorageUnavailable("the network is not up yet")

    monkeypatch.setattr(LocalMembershipStorage, "renew", fail)
    slept = 60.0
    call = asyncio.ensure_future(client.send(Holder, "a", Add()))
    await until(lambda: failures >= 2 and server.statistics().in_flight == 1)
    assert probe.count("a adds") == 1
    monkeypatch.setattr(LocalMembershipStorage, "renew", renew)
    assert await call == 2
    assert probe.count("a loads") == 1
    assert instance(server, Holder, "a").total.value == 2
