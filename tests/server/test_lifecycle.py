"""From the claim to the release: hooks in their order, and nothing left half done."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec
import pytest

import rio
from rio.errors import HandlerFailed, NotActivated, OutcomeUnknown, Overloaded
from tests.server.harness import Cluster, Probe, RawPeer, activation, instance, until


class Get(rio.Message[int], readonly=True):
    pass


class Add(rio.Message[int]):
    amount: int


class Wait(rio.Message[None]):
    gate: str


class Leave(rio.Message[str]):
    """Ask for the object's own shutdown, in the middle of the turn."""


class LeaveLater(rio.Message[None]):
    """Start a task that outlives the turn, asks for the shutdown, and then calls the object."""


class Fail(rio.Message[None]):
    pass


class Total(rio.State):
    value: int = 0


class Living(rio.ServiceObject):
    total: Total = rio.managed_state()
    fails: ClassVar[dict[str, BaseException]] = {}
    """The exception that a hook raises, by the hook's name; only for ids that start with "bad"."""

    def __init__(self) -> None:
        self.background: list[asyncio.Task[int]] = []

    async def _hook(self, name: str, probe: Probe) -> None:
        probe.note(f"{self.id} {name}")
        if self.id.startswith("bad") and name in self.fails:
            await asyncio.sleep(0)
            raise self.fails[name]
        if self.id.startswith("slow"):
            await probe.gate(f"{self.id} {name}").wait()

    async def before_load(self, app: rio.AppData) -> None:
        assert not hasattr(self, "total")
        assert self.object_id == ("Living", self.id)
        await self._hook("before_load", app.get(Probe))

    async def load(self, app: rio.AppData) -> None:
        await self._hook("load", app.get(Probe))
        await self.load_state()

    async def after_load(self, app: rio.AppData) -> None:
        assert self.total.value >= 0
        await self._hook("after_load", app.get(Probe))

    async def before_shutdown(self, app: rio.AppData) -> None:
        await self._hook("before_shutdown", app.get(Probe))

    async def shutdown(self, app: rio.AppData) -> None:
        await self._hook("shutdown", app.get(Probe))
        await self.save_state()

    @rio.handler
    def get(self, message: Get) -> int:
        return self.total.value

    @rio.handler
    async def add(self, message: Add, app: rio.AppData) -> int:
        app.get(Probe).note(f"{self.id} add")
        self.total.value += message.amount
        return self.total.value

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note(f"{self.id} waits")
        await app.get(Probe).gate(message.gate).wait()
        app.get(Probe).note(f"{self.id} waited")

    @rio.handler
    async def leave(self, message: Leave) -> str:
        await self.shutdown()
        return "still here"

    @rio.handler
    async def leave_later(self, message: LeaveLater, app: rio.AppData) -> None:
        probe = app.get(Probe)

        async def later() -> int:
            await probe.gate("leave").wait()
            await self.shutdown()
            return await self.send(Living, self.id, Get())

        task = asyncio.create_task(later())
        self.background.append(task)
        task.add_done_callback(lambda _: probe.note("task done"))

    @rio.handler
    async def fail(self, message: Fail) -> None:
        raise ZeroDivisionError("on purpose")


LOADS = ["before_load", "load", "after_load"]
ENDS = ["before_shutdown", "shutdown"]


def hooks(id: str, *names: str) -> list[str]:
    return [f"{id} {name}" for name in names]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    monkeypatch.setattr(Living, "fails", {})
    return Living.fails


async def owner(cluster: Cluster, id: str) -> int | None:
    placement = await cluster.storage.placement.lookup(rio.ObjectId("Living", id))
    return None if placement is None else placement.generation


async def test_hooks_run_in_their_order_around_the_messages(cluster: Cluster, probe: Probe) -> None:
    await cluster.server(Living)
    client = await cluster.client()
    await client.send(Living, "a", Add(1))
    await client.admin(rio.AdminCommand.shutdown(Living, "a"))
    await until(lambda: cluster.home(Living, "a") is None)
    assert probe.log == [*hooks("a", *LOADS), "a add", *hooks("a", *ENDS)]


@pytest.mark.parametrize("hook", LOADS)
async def test_a_hook_that_raises_fails_the_activation(
    cluster: Cluster,
    probe: Probe,
    fails: dict[str, BaseException],
    hook: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails[hook] = ValueError("the hook's own reason")
    server = await cluster.server(Living)
    client = await cluster.client()
    with pytest.raises(
        NotActivated, match="Living/bad could not be activated: ValueError: the hook's own reason"
    ) as caught:
        await client.send(Living, "bad", Add(1))
    assert caught.value.detail[0] == "ValueError"
    assert "self.fails[name]\nValueError: the hook" in caught.value.detail[1]
    assert probe.log == hooks("bad", *LOADS[: LOADS.index(hook) + 1]), (
        "no later hook, no handler, no shutdown hook"
    )
    assert server.statistics().live_objects == 0
    assert server.statistics().in_flight == 0
    assert await owner(cluster, "bad") is None
    assert "Living/bad could not be activated" in caplog.text
    fails.clear()
    assert await client.send(Living, "bad", Add(1)) == 1, "the next message tries again"


@pytest.mark.parametrize("hook", LOADS)
@pytest.mark.parametrize(
    "error",
    [
        Overloaded("said by somebody whom the hook called"),
        OutcomeUnknown("as well"),
        asyncio.CancelledError("in the hook"),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_hook_raises_the_claim_is_given_back_and_it_is_not_repeated(
    cluster: Cluster, probe: Probe, fails: dict[str, BaseException], hook: str, error: BaseException
) -> None:
    fails[hook] = error
    server, other = await cluster.nodes(2, Living)
    client = await cluster.client()
    with pytest.raises(NotActivated, match="Living/bad could not be activated"):
        await server.client.send(Living, "bad", Add(1))
    assert probe.count("bad before_load") == 1
    assert await owner(cluster, "bad") is None
    assert server.statistics().live_objects == 0
    fails.clear()
    assert await other.client.send(Living, "bad", Add(1)) == 1
    assert cluster.home(Living, "bad") is other
    assert await client.send(Living, "bad", Get()) == 1


class Stillborn(rio.ServiceObject):
    async def before_load(self, app: rio.AppData) -> None:
        app.get(Probe).note("loads")
        await app.get(Probe).gate("fail").wait()
        raise ValueError("no")

    @rio.handler
    def add(self, message: Add) -> int:
        return message.amount


async def test_all_who_wait_for_an_activation_hear_of_its_failure(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Stillborn)
    client = await cluster.client()
    calls = [asyncio.ensure_future(client.send(Stillborn, "a", Add(1))) for _ in range(20)]
    await until(lambda: server.statistics().in_flight == 20)
    probe.gate("fail").set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {NotActivated}
    assert probe.count("loads") == 1


@pytest.mark.parametrize("hook", ENDS)
@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(3), asyncio.CancelledError("no")],
    ids=lambda error: type(error).__name__,
)
async def test_a_shutdown_hook_that_raises_is_logged_and_the_object_goes_all_the_same(
    cluster: Cluster,
    probe: Probe,
    fails: dict[str, BaseException],
    hook: str,
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails[hook] = error
    await cluster.server(Living)
    client = await cluster.client()
    await client.send(Living, "bad", Add(5))
    await client.admin(rio.AdminCommand.shutdown(Living, "bad"))
    await until(lambda: cluster.home(Living, "bad") is None)
    assert await owner(cluster, "bad") is None
    assert "the shutdown hook of Living/bad failed" in caplog.text
    saved = 5 if hook == "before_shutdown" else 0
    assert await client.send(Living, "bad", Get()) == saved, "shutdown, which saves, runs last"


async def test_a_handler_may_ask_for_its_objects_shutdown_and_finish_first(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Living)
    client = await cluster.client()
    await client.send(Living, "a", Add(3))
    assert await client.send(Living, "a", Leave()) == "still here"
    await until(lambda: cluster.home(Living, "a") is None)
    assert probe.log[-2:] == hooks("a", *ENDS)
    assert await owner(cluster, "a") is None


class Leaver(rio.ServiceObject):
    """Leaves at the end of its loading hooks: ``always``, or in its first lives only."""

    lives: ClassVar[int] = 0

    async def after_load(self) -> None:
        type(self).lives += 1
        if self.id == "always" or self.lives < 3:
            await self.shutdown()

    @rio.handler
    def leave(self, message: Leave) -> str:
        return self.id


async def test_an_object_that_leaves_before_each_message_is_brought_to_life_a_few_times_only(
    cluster: Cluster,
) -> None:
    await cluster.server(Leaver)
    client = await cluster.client()
    Leaver.lives = 0
    assert await client.send(Leaver, "in the third life", Leave()) == "in the third life"
    Leaver.lives = 0
    with pytest.raises(NotActivated, match=r"Leaver/always has left the memory 3 times before"):
        await client.send(Leaver, "always", Leave())
    assert Leaver.lives == 3
    await until(lambda: cluster.home(Leaver, "always") is None)


async def test_a_task_outside_of_any_turn_may_ask_for_the_shutdown_and_then_call_the_object(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Living)
    client = await cluster.client()
    await client.send(Living, "a", Add(7))
    await client.send(Living, "a", LeaveLater())
    (task,) = instance(server, Living, "a").background
    probe.gate("leave").set()
    await probe.noted("task done")
    assert task.result() == 7, "no deadlock: the task is not part of the shutdown"
    assert probe.count("a before_load") == 2


async def test_reactivation_loads_what_was_saved(cluster: Cluster, probe: Probe) -> None:
    await cluster.nodes(2, Living)
    client = await cluster.client()
    for total in range(1, 6):
        assert await client.send(Living, "a", Add(1)) == total
        await client.admin(rio.AdminCommand.shutdown(Living, "a"))
        await until(lambda: cluster.home(Living, "a") is None)
    assert probe.count("a before_load") == 5


async def test_calls_that_wait_while_the_object_goes_are_all_answered_in_order(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Living)
    client = await cluster.client()
    waits = asyncio.ensure_future(client.send(Living, "a", Wait("go")))
    await probe.noted("a waits")
    queued = [asyncio.ensure_future(client.send(Living, "a", Add(1))) for _ in range(3)]
    leaves = asyncio.ensure_future(client.send(Living, "a", Leave()))
    queued += [asyncio.ensure_future(client.send(Living, "a", Add(1))) for _ in range(20)]
    await until(lambda: server.statistics().in_flight == 25)
    probe.gate("go").set()
    await waits
    assert await asyncio.gather(*queued) == list(range(1, 24))
    assert await leaves == "still here"
    assert probe.count("a before_load") == 2


async def test_calls_that_come_while_the_hooks_run_are_answered_by_the_next_activation(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Living)
    client = await cluster.client()
    for hook in LOADS:
        probe.gate(f"slow {hook}").set()
    await client.send(Living, "slow", Add(1))
    await client.admin(rio.AdminCommand.shutdown(Living, "slow"))
    await probe.noted("slow before_shutdown")
    late = [asyncio.ensure_future(client.send(Living, "slow", Add(1))) for _ in range(10)]
    await until(lambda: server.statistics().in_flight == 10)
    probe.gate("slow before_shutdown").set()
    probe.gate("slow shutdown").set()
    assert await asyncio.gather(*late) == list(range(2, 12))


async def test_an_admin_command_shuts_an_object_down_on_whichever_node_it_lives(
    cluster: Cluster, probe: Probe
) -> None:
    servers = await cluster.nodes(3, Living)
    client = await cluster.client()
    for number, server in enumerate(servers):
        await server.client.send(Living, f"o{number}", Add(1))
    for number in range(3):
        await client.admin(rio.AdminCommand.shutdown("Living", f"o{number}"))
    await until(lambda: all(cluster.home(Living, f"o{number}") is None for number in range(3)))
    assert [await owner(cluster, f"o{number}") for number in range(3)] == [None, None, None]


async def test_a_caller_that_gives_up_during_the_activation_does_not_end_it(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Living)
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Living, "slow", Add(1)))
    await probe.noted("slow before_load")
    call.cancel()
    await until(lambda: server.statistics().in_flight == 0)
    for hook in LOADS:
        probe.gate(f"slow {hook}").set()
    assert await client.send(Living, "slow", Get()) == 0, (
        "the message was taken out, the object came to life"
    )
    assert probe.count("slow before_load") == 1
    for hook in ENDS:
        probe.gate(f"slow {hook}").set()


async def test_a_handler_that_fails_costs_the_object_its_memory_and_nothing_else(
    cluster: Cluster, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.server(Living)
    client = await cluster.client()
    await client.send(Living, "saved", Add(1))
    await client.admin(rio.AdminCommand.shutdown(Living, "saved"))
    await until(lambda: cluster.home(Living, "saved") is None)
    await client.send(Living, "saved", Add(10))
    await client.send(Living, "other", Add(1))
    with pytest.raises(HandlerFailed, match="ZeroDivisionError: on purpose"):
        await client.send(Living, "saved", Fail())
    assert await client.send(Living, "saved", Get()) == 1, (
        "what was saved stands, what was not is gone"
    )
    assert await client.send(Living, "other", Get()) == 1
    assert probe.count("saved before_shutdown") == 1, (
        "its memory is not to be trusted: no hook runs on it"
    )
    assert "Living/saved failed in" in caplog.text


async def test_calls_behind_a_failing_handler_are_answered_by_the_next_activation(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Living)
    client = await cluster.client()
    waits = asyncio.ensure_future(client.send(Living, "a", Wait("go")))
    await probe.noted("a waits")
    calls = [
        asyncio.ensure_future(client.send(Living, "a", message))
        for message in (Add(1), Fail(), Add(1), Add(1))
    ]
    await until(lambda: server.statistics().in_flight == 5)
    probe.gate("go").set()
    await waits
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], HandlerFailed)
    assert outcomes[2:] == [1, 2]


async def test_stopping_while_an_object_is_being_activated_leaves_nothing_behind(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Living, config=rio.ServerConfig(drain_timeout=0.05))
    async with await RawPeer.connect(server) as peer:
        peer.send(msgspec.msgpack.encode((1, 1, "Living", "slow", "Get", 60_000, None, {})))
        await probe.noted("slow before_load")
        await server.stop()
        assert (await peer.frame())[0] == 9, "it says that it goes away"
        kind, id, code, *_ = await peer.frame()
        assert (kind, id, code) == (3, 1, "unavailable")
    assert server.statistics().live_objects == 0


async def test_stopping_waits_until_cancelled_handlers_have_ended(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Living, config=rio.ServerConfig(drain_timeout=0.05))
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Living, "a", Wait("never")))
    await probe.noted("a waits")
    turn = activation(server, Living, "a").turn
    await server.stop()
    assert turn.finished
    with pytest.raises(OutcomeUnknown):
        await call
