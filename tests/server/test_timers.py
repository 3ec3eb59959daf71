"""An object's timers send it its own messages, as turns like any other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

import rio
from rio.errors import BadIdentity, Deactivated, HandlerFailed, UnknownMessage
from rio.objects.timers import MAX_TIMERS
from rio.server.activation import Activation
from rio.testing import LocalCluster, run


class Notes(list[tuple[float, str]]):
    """What happened, and when."""

    def of(self, what: str) -> list[float]:
        """When this happened, in hundredths of seconds from the first note."""
        return [round(at - self[0][0], 2) for at, each in self if each == what]


class Tick(rio.Message[None]):
    name: str = "tick"
    lasts: float = 0.0


class Refuse(rio.Message[None]):
    pass


class Fail(rio.Message[None]):
    pass


class Hold(rio.Message[None]):
    seconds: float


class SetTimers(rio.Message[None]):
    every: dict[str, float] = msgspec.field(default_factory=dict)
    after: dict[str, float] = msgspec.field(default_factory=dict)
    lasts: float = 0.0
    message: str = "tick"


class Cancel(rio.Message[bool]):
    name: str


class Unknown(rio.Message[None]):
    pass


class No(rio.ApplicationError):
    pass


class Clock(rio.ServiceObject):
    def note(self, what: str) -> None:
        self.app_data.get(Notes).append((asyncio.get_running_loop().time(), what))

    async def after_load(self) -> None:
        self.note("loaded")

    async def before_shutdown(self) -> None:
        await asyncio.sleep(5.0)
        self.note("gone")

    @rio.handler
    async def tick(self, message: Tick) -> None:
        self.note(message.name)
        await asyncio.sleep(message.lasts)

    @rio.handler
    def refuse(self, message: Refuse) -> None:
        self.note("refuses")
        raise No

    @rio.handler
    def fail(self, message: Fail) -> None:
        self.note("fails")
        raise ZeroDivisionError("on purpose")

    @rio.handler
    async def hold(self, message: Hold) -> None:
        await asyncio.sleep(message.seconds)

    @rio.handler
    def set_timers(self, message: SetTimers) -> None:
        def what(name: str) -> rio.Message[Any]:
            match message.message:
                case "refuse":
                    return Refuse()
                case "fail":
                    return Fail()
            return Tick(name, message.lasts)

        for name, period in message.every.items():
            self.timers.every(name, period, what(name))
        for name, delay in message.after.items():
            self.timers.after(name, delay, what(name))

    @rio.handler
    def cancel(self, message: Cancel) -> bool:
        return self.timers.cancel(message.name)


Steps = Callable[[LocalCluster, Clock, Notes], Awaitable[None]]


def in_virtual_time(steps: Steps, **options: Any) -> None:
    async def main() -> None:
        notes = Notes()
        app_data = rio.AppData()
        app_data.set(notes)
        async with LocalCluster(
            rio.Registry(Clock), nodes=1, app_data=app_data, **options
        ) as cluster:
            await steps(cluster, cluster.client.ref(Clock, "a"), notes)

    run(main())


def the_activation(cluster: LocalCluster) -> Activation:
    catalog = cluster.nodes[0].server._catalog
    return catalog.dispatcher.tables["Clock"].mailboxes["a"]  # type: ignore[no-any-return]


def test_a_timer_sends_its_message_again_and_again_and_another_once() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"tick": 1.0}, after={"once": 2.5}))
        await asyncio.sleep(4.2)
        assert notes.of("tick") == [1.0, 2.0, 3.0, 4.0]
        assert notes.of("once") == [2.5]
        assert len(the_activation(cluster).timers) == 1

    in_virtual_time(steps)


def test_the_period_begins_when_the_turn_has_ended() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"slow": 1.0}, lasts=1.5))
        await asyncio.sleep(6.5)
        assert notes.of("slow") == [1.0, 3.5, 6.0]

    in_virtual_time(steps)


def test_a_tick_waits_at_the_end_of_the_queue_and_is_alone() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"tick": 0.1}))
        held = asyncio.ensure_future(clock.hold(Hold(3.0)))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        before = asyncio.ensure_future(clock.tick(Tick("before")))  # type: ignore[arg-type]
        await asyncio.sleep(2.0)
        assert the_activation(cluster).waiting == 2, "the call, and one tick"
        await asyncio.gather(held, before)
        await asyncio.sleep(0.01)
        assert [what for _, what in notes][1:] == ["before", "tick"]

    in_virtual_time(steps)


def test_an_application_error_is_logged_and_the_timer_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"mistaken": 1.0}, message="refuse"))
        await asyncio.sleep(3.5)
        assert notes.of("refuses") == [1.0, 2.0, 3.0]
        assert "timer 'mistaken' of Clock/a" in caplog.text

    in_virtual_time(steps)


def test_any_other_exception_drops_the_object_with_its_timers() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"bad": 1.0, "good": 0.4}, message="fail"))
        await asyncio.sleep(10.0)
        assert len(notes.of("fails")) == 1
        assert cluster.nodes[0].statistics().live_objects == 0
        with pytest.raises(HandlerFailed):
            await clock.fail(Fail())

    in_virtual_time(steps)


def test_timers_end_before_the_shutdown_hooks() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"tick": 0.5}))
        held = asyncio.ensure_future(clock.hold(Hold(1.0)))  # type: ignore[arg-type]
        await asyncio.sleep(0.75)  # a tick waits
        await cluster.client.admin(rio.AdminCommand.shutdown(Clock, "a"))
        await held
        await asyncio.sleep(10.0)
        assert notes.of("gone") == [6.0]
        assert not [at for at in notes.of("tick") if at > 1.0]
        assert notes.of("loaded") == [0.0], "a tick calls no object to life"

    in_virtual_time(steps)


def test_a_timer_of_the_same_name_replaces_the_earlier_one() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"tick": 1.0}))
        await clock.set_timers(SetTimers(every={"tick": 2.0}))
        await asyncio.sleep(4.5)
        assert notes.of("tick") == [2.0, 4.0]

    in_virtual_time(steps)


def test_a_timer_can_be_cancelled_also_while_its_tick_waits() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"tick": 0.5}))
        held = asyncio.ensure_future(clock.hold(Hold(1.0)))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        cancelled = asyncio.ensure_future(clock.cancel(Cancel("tick")))  # type: ignore[arg-type]
        await held
        assert await cancelled
        assert not await clock.cancel(Cancel("tick"))
        await asyncio.sleep(3.0)
        assert notes.of("tick") == []
        assert cluster.nodes[0].statistics().in_flight == 0

    in_virtual_time(steps)


def test_without_the_lease_a_tick_waits_and_comes_once() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"tick": 0.1}))
        node = cluster.nodes[0]
        node.storage.unavailable = True
        await asyncio.sleep(4.0)
        before = len(notes.of("tick"))
        await asyncio.sleep(2.0)
        assert len(notes.of("tick")) == before
        assert the_activation(cluster).waiting == 1
        node.storage.heal()
        await asyncio.sleep(2.0)
        ticks = notes.of("tick")[before:]
        assert ticks
        assert all(later - earlier > 0.09 for earlier, later in itertools.pairwise(ticks))

    in_virtual_time(steps)


def test_a_tick_is_no_link_of_a_chain_and_has_the_default_deadline() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.set_timers(SetTimers(every={"slow": 1.0}, lasts=100.0))
        await asyncio.sleep(1.1)
        turn = the_activation(cluster).turn
        assert turn is not None
        assert turn.context is None
        assert turn.deadline - the_activation(cluster).used_at == pytest.approx(31.0, abs=1.0)
        await asyncio.sleep(32.0)
        assert notes.of("slow") == [1.0, pytest.approx(32.1, abs=0.2)], (
            "it is cancelled at its deadline, and the timer goes on"
        )

    in_virtual_time(steps)


def test_a_hook_can_set_a_timer_which_waits_for_the_hook() -> None:
    class Early(Clock):
        async def after_load(self) -> None:
            self.timers.every("tick", 0.01, Tick())
            await asyncio.sleep(1.0)
            self.note("loaded")

    async def main() -> None:
        notes = Notes()
        app_data = rio.AppData()
        app_data.set(notes)
        async with LocalCluster(rio.Registry(Early), nodes=1, app_data=app_data) as cluster:
            await cluster.client.ref(Early, "a").hold(Hold(0.0))
            await asyncio.sleep(0.005)
            assert [what for _, what in notes] == ["loaded", "tick"]

    run(main())


def test_what_a_timer_cannot_do_is_refused_at_the_call() -> None:
    async def steps(cluster: LocalCluster, clock: Clock, notes: Notes) -> None:
        await clock.tick(Tick())
        timers = the_activation(cluster).timers
        for seconds in (0.0, 0.009, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="'a': seconds must be a finite number"):
                timers.every("a", seconds, Tick())
        for name in ("", "x" * 129, 5):
            with pytest.raises(BadIdentity, match="name of a timer"):
                timers.after(name, 1.0, Tick())  # type: ignore[arg-type]
        with pytest.raises(UnknownMessage, match=r"'Clock' has no handler for message 'Unknown'"):
            timers.every("a", 1.0, Unknown())
        with pytest.raises(TypeError, match="a timer sends a"):
            timers.every("a", 1.0, "tick")  # type: ignore[arg-type]
        assert len(timers) == 0
        for number in range(MAX_TIMERS):
            timers.every(f"t{number}", 10.0, Tick())
        timers.every("t0", 20.0, Tick())
        with pytest.raises(ValueError, match="has 64 timers already"):
            timers.every("one more", 10.0, Tick())
        assert "t0" in timers
        assert "one more" not in timers
        await cluster.client.admin(rio.AdminCommand.shutdown(Clock, "a"))
        await asyncio.sleep(0.1)
        for late in (lambda: timers.every("a", 1.0, Tick()), lambda: timers.cancel("t0")):
            with pytest.raises(Deactivated):
                late()

    in_virtual_time(steps)
