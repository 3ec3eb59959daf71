"""After the end of an activation nothing that kept the object can use it, however it ended."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import rio
from rio.errors import Deactivated, NotAttached, OutcomeUnknown, RioError
from rio.identity import ObjectId
from rio.storage.local import LocalState
from tests.server.harness import NO_ANSWER, Cluster, Probe, instance, until
from tests.server.test_lease import Leash

pytestmark = pytest.mark.virtual_time


class Get(rio.Message[int], readonly=True):
    pass


class Add(rio.Message[int]):
    save: bool = False
    again: bool = False
    """Save once more if the first save fails."""


class Fail(rio.Message[None]):
    pass


class Happened(rio.Message):
    pass


class Total(rio.State):
    value: int = 0


class Kept(rio.ServiceObject):
    """An object that others keep for longer than it is in memory."""

    total: Total = rio.managed_state()

    async def shutdown(self, app: rio.AppData) -> None:
        probe = app.get(Probe)
        probe.note(f"leaves: {self.leaving}")
        if self.id.startswith("slow"):
            await probe.gate("hook").wait()
            await asyncio.wait_for(self.save_state(), 1.0)
            assert await self.send(Kept, "other", Get()) == 0
            self.publish(Happened())
            probe.note("saved in the hook")

    @rio.handler
    def get(self, message: Get) -> int:
        return self.total.value

    @rio.handler
    async def add(self, message: Add) -> int:
        self.total.value += 1
        if message.save:
            try:
                await self.save_state()
            except RioError:
                if not message.again:
                    raise
                await self.save_state()
        return self.total.value

    @rio.handler
    def fail(self, message: Fail) -> None:
        raise ZeroDivisionError("on purpose")


USES: dict[str, Callable[[Kept], Any]] = {
    "save_state": lambda kept: kept.save_state(),
    "load_state": lambda kept: kept.load_state(),
    "send": lambda kept: kept.send(Kept, "other", Get()),
    "ref": lambda kept: kept.ref(Kept, "other").get(Get()),
    "publish": lambda kept: kept.publish(Happened()),
    "shutdown": lambda kept: kept.shutdown(),
    "app_data": lambda kept: kept.app_data,
    "token": lambda kept: kept.token,
    "address": lambda kept: kept.address,
    "leaving": lambda kept: kept.leaving,
    "keep_alive": lambda kept: kept.keep_alive(1.0),
    "timers": lambda kept: kept.timers,
    "tasks": lambda kept: kept.tasks,
}


async def use(kept: Kept, name: str) -> None:
    result = USES[name](kept)
    if isinstance(result, Awaitable):
        await result


async def assert_that_nothing_works(kept: Kept) -> None:
    for name in USES:
        with pytest.raises(Deactivated, match=f"{kept.object_id} has left the memory"):
            await use(kept, name)


class Ends:
    """The ways in which the activation of ``Kept/a`` on the first server ends."""

    def __init__(self, cluster: Cluster, leash: Leash, state: LocalState) -> None:
        self.cluster = cluster
        self.leash = leash
        self.state = state
        self.server = cluster.servers[0]

    async def asked(self) -> None:
        await self.server.client.admin(rio.AdminCommand.shutdown(Kept, "a"))

    async def failed(self) -> None:
        with pytest.raises(RioError, match="ZeroDivisionError"):
            await self.server.client.send(Kept, "a", Fail())

    async def superseded(self) -> None:
        object_id = ObjectId("Kept", "a")
        placement = await self.cluster.storage.placement.lookup(object_id)
        assert placement is not None
        await self.cluster.storage.placement.claim(object_id, 4711, supersede=placement.token)
        await self.state.load_object(object_id, placement.token + 1)
        with pytest.raises(OutcomeUnknown):
            await self.server.client.send(Kept, "a", Add(save=True))

    async def save_without_the_lease(self) -> None:
        kept = instance(self.server, Kept, "a")
        self.leash.let_go()
        with pytest.raises(RioError, match="lost its lease"):
            await kept.save_state()
        self.leash.hold()

    async def evicted(self) -> None:
        self.leash.evict()

    async def drained(self) -> None:
        await self.server.stop()

    async def stopped(self) -> None:
        await self.server.stop(drain=False)


WAYS = [name for name in vars(Ends) if not name.startswith("_")]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> LocalState:
    return LocalState()


@pytest.fixture
async def leash(cluster: Cluster, state: LocalState) -> Leash:
    leash = Leash(cluster)
    await cluster.server(Kept, cluster=leash, state=state)
    return leash


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_that_outlives_its_object_can_do_nothing_with_it(
    cluster: Cluster, leash: Leash, state: LocalState, way: str
) -> None:
    server = cluster.servers[0]
    await server.client.send(Kept, "a", Add())
    kept = instance(server, Kept, "a")
    sends = kept.ref(Kept, "other")
    await getattr(Ends(cluster, leash, state), way)()
    await until(lambda: cluster.home(Kept, "a") is None)
    await assert_that_nothing_works(kept)
    with pytest.raises(Deactivated):
        await sends.get(Get())
    assert kept.id == "a", "what it is can still be read"
    assert kept.total.value >= 1


async def test_a_save_after_the_end_writes_nothing(
    cluster: Cluster, leash: Leash, state: LocalState
) -> None:
    client = cluster.servers[0].client
    await client.send(Kept, "a", Add())
    kept = instance(cluster.servers[0], Kept, "a")
    await client.admin(rio.AdminCommand.shutdown(Kept, "a"))
    await until(lambda: cluster.home(Kept, "a") is None)
    with pytest.raises(Deactivated):
        await kept.save_state()
    assert await client.send(Kept, "a", Get()) == 0


async def test_while_the_hooks_run_only_their_own_code_can_use_the_object(
    cluster: Cluster, leash: Leash, probe: Probe
) -> None:
    client = cluster.servers[0].client
    await client.send(Kept, "slow", Add())
    kept = instance(cluster.servers[0], Kept, "slow")
    sends = kept.ref(Kept, "other")
    await client.admin(rio.AdminCommand.shutdown(Kept, "slow"))
    await probe.noted("leaves: asked")
    await assert_that_nothing_works(kept)
    with pytest.raises(Deactivated):
        await sends.get(Get())
    probe.gate("hook").set()
    await probe.noted("saved in the hook")
    await until(lambda: cluster.home(Kept, "slow") is None)
    await assert_that_nothing_works(kept)
    assert await client.send(Kept, "slow", Get()) == 1


async def test_a_save_that_waited_for_another_one_is_refused_after_the_end(
    cluster: Cluster, leash: Leash, state: LocalState
) -> None:
    client = cluster.servers[0].client
    await client.send(Kept, "a", Add())
    kept = instance(cluster.servers[0], Kept, "a")
    first, second = (
        asyncio.ensure_future(kept.save_state()),
        asyncio.ensure_future(kept.save_state()),
    )
    await asyncio.sleep(0)
    await client.admin(rio.AdminCommand.shutdown(Kept, "a"))
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, Deactivated) for outcome in outcomes)


async def test_a_handler_that_saves_again_after_a_failed_save_is_not_acknowledged(
    cluster: Cluster, leash: Leash
) -> None:
    client = cluster.servers[0].client
    await client.send(Kept, "a", Add())
    leash.let_go()
    with pytest.raises((OutcomeUnknown, *NO_ANSWER)):
        await client.send(Kept, "a", Add(save=True, again=True), timeout=0.2)
    leash.hold()
    assert await client.send(Kept, "a", Get()) in (0, 1)


async def test_an_instance_that_no_server_has_activated_says_so() -> None:
    for name in USES:
        with pytest.raises(NotAttached):
            await use(Kept(), name)


async def test_an_object_knows_why_it_leaves(cluster: Cluster, leash: Leash, probe: Probe) -> None:
    client = cluster.servers[0].client
    await client.send(Kept, "a", Add())
    assert instance(cluster.servers[0], Kept, "a").leaving is None
    await client.admin(rio.AdminCommand.shutdown(Kept, "a"))
    await probe.noted("leaves: asked")
    await client.send(Kept, "b", Add())
    await cluster.servers[0].stop()
    assert probe.log == ["leaves: asked", "leaves: drain"]


async def test_a_save_in_a_shutdown_hook_waits_for_the_lease(
    cluster: Cluster, leash: Leash, probe: Probe
) -> None:
    server = cluster.servers[0]
    await server.client.send(Kept, "slow", Add())
    await server.client.admin(rio.AdminCommand.shutdown(Kept, "slow"))
    await probe.noted("leaves: asked")
    leash.let_go()
    probe.gate("hook").set()
    await asyncio.sleep(0.05)
    assert not probe.count("saved in the hook")
    server._catalog.cancel_running()  # what a node does that has been without its lease for long
    await asyncio.sleep(0.05)
    leash.hold()
    await probe.noted("saved in the hook")
    assert await server.client.send(Kept, "slow", Get()) == 1
    assert server._catalog.dispatcher.lease_until == math.inf


async def test_a_save_in_a_shutdown_hook_waits_for_the_lease_no_longer_than_the_hook_may(
    cluster: Cluster, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    leash = Leash(cluster)
    config = rio.ServerConfig(deactivate_timeout=0.2)
    server = await cluster.server(Kept, cluster=leash, config=config)
    await server.client.send(Kept, "slow", Add())
    await server.client.admin(rio.AdminCommand.shutdown(Kept, "slow"))
    await probe.noted("leaves: asked")
    leash.let_go()
    probe.gate("hook").set()
    await until(lambda: cluster.home(Kept, "slow") is None)
    assert "shutdown took longer than 0.2 s (deactivate_timeout)" in caplog.text
    assert not probe.count("saved in the hook")
    leash.hold()
    assert await server.client.send(Kept, "slow", Get()) == 0
