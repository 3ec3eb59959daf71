"""Objects with very many listeners: a turn of the loop serves a group, and no listener can tell."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rio._core.budget import Usage
from rio.errors import Unavailable
from rio.identity import ObjectId
from rio.server import audience, pubsub
from rio.server.pubsub import Subscribers
from rio.transport import protocol

ROOM = ObjectId("Room", "lobby")
GONE = Unavailable("gone")
NOTICE = protocol.write_event_tail(protocol.DROPPED, protocol.encode(None))


class Sink:
    """A connection that keeps what is put into it."""

    def __init__(self) -> None:
        self.send_limit = 1 << 20
        self.unsent = 0
        self.usage = Usage()
        self.frames: list[Any] = []
        self.is_gone = False

    def put(self, body: Any) -> None:
        assert not self.is_gone, "nobody reads what is written to a connection that is gone"
        self.frames.append(body)


@pytest.fixture(autouse=True)
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the frames be tuples."""
    monkeypatch.setattr("rio.server.audience.wire.write_event", lambda *parts: parts)
    monkeypatch.setattr(
        "rio.server.pubsub.protocol.write_end", lambda number, _: (number, "end", None)
    )


async def turns_until_done(subscribers: Subscribers) -> int:
    """How many turns of the loop the work takes that is left."""
    turns = 0
    while subscribers._work:
        turns += 1
        await asyncio.sleep(0)
    return turns


# --- bounded work in a turn -----------------------------------------------------------------------


async def test_an_event_serves_a_group_in_each_turn_of_the_loop() -> None:
    subscribers, sink = Subscribers(), Sink()
    listeners = 5 * audience.GROUP
    for number in range(listeners):
        subscribers.subscribe(ROOM, sink, number)
    subscribers.publish(ROOM, "Said", b"x")
    served = [0]
    while subscribers._work:
        await asyncio.sleep(0)
        served.append(len(sink.frames))
    steps = [after - before for before, after in pairwise(served)]
    assert max(steps) == audience.GROUP
    assert sum(steps) == listeners == subscribers.delivered
    assert [frame[:2] for frame in sink.frames] == [(number, 1) for number in range(listeners)]


@pytest.mark.parametrize("what", ["disconnect", "end", "tell_of_drops"])
async def test_what_concerns_all_listeners_serves_a_group_in_each_turn(what: str) -> None:
    subscribers, sink = Subscribers(), Sink()
    for number in range(3 * audience.GROUP):
        subscribers.subscribe(ROOM, sink, number)
    if what == "disconnect":
        sink.is_gone = True
        subscribers.disconnect(sink)
    elif what == "end":
        subscribers.end(ROOM, GONE)
        assert not subscribers.has_listeners(ROOM)
    else:
        sink.unsent = 1 << 30
        subscribers.publish(ROOM, "Said", b"x")
        await turns_until_done(subscribers)
        assert len(subscribers._behind) == 3 * audience.GROUP
        sink.unsent = 0
        for left in (2, 1, 0):
            subscribers.tell_of_drops()
            assert len(subscribers._behind) == left * audience.GROUP
        return
    assert await turns_until_done(subscribers) == 4
    assert len(subscribers) == 0
    assert not subscribers._of_sink
    assert not subscribers._gone
    assert not subscribers._audiences


async def test_a_few_listeners_are_served_at_once_while_others_wait() -> None:
    subscribers, sink, other = Subscribers(), Sink(), Sink()
    for number in range(2 * audience.GROUP):
        subscribers.subscribe(ROOM, sink, number)
    small = ObjectId("Room", "closet")
    subscribers.subscribe(small, other, 1)
    subscribers.publish(ROOM, "Said", b"x")
    subscribers.publish(small, "Said", b"x")
    assert len(other.frames) == 1
    assert sink.frames == []
    await turns_until_done(subscribers)


async def test_a_router_that_is_closed_does_nothing_more() -> None:
    subscribers, sink = Subscribers(), Sink()
    for number in range(2 * audience.GROUP):
        subscribers.subscribe(ROOM, sink, number)
    subscribers.publish(ROOM, "Said", b"x")
    subscribers.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert sink.frames == []


async def test_what_waits_for_many_listeners_is_bounded_and_what_is_dropped_is_counted() -> None:
    subscribers, sink = Subscribers(), Sink()
    listeners = 2 * audience.GROUP
    for number in range(listeners):
        subscribers.subscribe(ROOM, sink, number)
    large = b"x" * (audience.MOST_WAITING_BYTES // 4)
    subscribers._frame_limit = 1 << 26
    sink.send_limit = 1 << 26
    for _ in range(10):
        subscribers.publish(ROOM, "Said", large)
    held = sum(len(event.tail or b"") for event in subscribers._audiences[ROOM]._waiting)
    assert held <= audience.MOST_WAITING_BYTES
    await turns_until_done(subscribers)
    subscribers.publish(ROOM, "Said", b"y")
    await turns_until_done(subscribers)
    of_one = [frame[1] for frame in sink.frames if frame[0] == 0]
    assert of_one == [1, 2, 3, 11]
    assert subscribers.dropped == 7 * listeners


async def test_an_event_that_cannot_be_delivered_does_not_hold_up_those_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router, sink = Subscribers(), Sink()
    for number in range(2 * audience.GROUP):
        router.subscribe(ROOM, sink, number)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def fail(_: Any) -> None:
        raise MemoryError

    router.publish(ROOM, "Said", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(sink, "put", fail)
        await turns_until_done(router)
    assert len(failures) == 1
    assert not router._audiences[ROOM]._waiting
    router.publish(ROOM, "Said", b"y")
    await turns_until_done(router)
    assert len(sink.frames) == 2 * audience.GROUP


# --- as if there were no groups -------------------------------------------------------------------


class Follower:
    """What one subscription has to hear."""

    def __init__(self, sink: Sink, number: int, room: ObjectId) -> None:
        self.sink = sink
        self.number = number
        self.room = room
        self.events: list[bytes] = []
        self.ended = False
        self.left = False


class World:
    """A subscribers with small groups, and what its listeners have to hear."""

    rooms: ClassVar = [ObjectId("Room", "a"), ObjectId("Room", "b")]

    def __init__(self) -> None:
        self.subscribers = Subscribers()
        self.sinks = [Sink() for _ in range(4)]
        self.followers: list[Follower] = []
        self.published = 0

    def active(self) -> list[Follower]:
        return [each for each in self.followers if not (each.left or each.ended)]

    async def do(self, what: str, one: int, other: int) -> None:
        room, sink = self.rooms[one % 2], self.sinks[other % len(self.sinks)]
        match what:
            case "subscribe":
                number = len(self.followers) + 1
                assert self.subscribers.subscribe(room, sink, number) == 0
                self.followers.append(Follower(sink, number, room))
            case "subscribe again" if active := self.active():
                again = active[one % len(active)]
                counted = self.subscribers.subscribe(again.room, again.sink, again.number)
                assert counted == len(again.events)
            case "unsubscribe" if active := self.active():
                leaver = active[one % len(active)]
                leaver.left = True
                self.subscribers.unsubscribe(leaver.sink, leaver.number)
            case "publish":
                self.published += 1
                payload = b"%d" % self.published
                self.subscribers.publish(room, "Said", payload)
                for each in self.active():
                    if each.room == room:
                        each.events.append(protocol.write_event_tail("Said", payload))
            case "disconnect":
                sink.is_gone = True
                self.sinks[other % len(self.sinks)] = Sink()
                for each in self.active():
                    each.left = each.left or each.sink is sink
                self.subscribers.disconnect(sink)
            case "end":
                self.subscribers.end(room, GONE)
                for each in self.active():
                    each.ended = each.room == room
            case "stall":
                sink.unsent = 0 if sink.unsent else 1 << 30
            case "turn":
                await asyncio.sleep(0)
            case "tell":
                self.subscribers.tell_of_drops()

    async def settle(self) -> None:
        await turns_until_done(self.subscribers)
        for sink in self.sinks:
            sink.unsent = 0
        while self.subscribers._behind:
            self.subscribers.tell_of_drops()

    def check(self) -> None:
        for each in self.followers:
            frames = [frame for frame in each.sink.frames if frame[0] == each.number]
            ends = [frame for frame in frames if frame[1] == "end"]
            events = [frame for frame in frames if frame[1] != "end"]
            for _, sequence, tail in events:
                assert tail in (NOTICE, each.events[sequence - 1])
            sequences = [frame[1] for frame in events if frame[2] != NOTICE]
            assert sequences == sorted(set(sequences)), "in order, and each once"
            if each.ended:
                # Who is disconnected while the end is on its way to the groups does not hear of it.
                assert ends == frames[-1:] or (each.sink.is_gone and not ends)
            else:
                assert not ends
            if not each.left and not each.ended:
                heard_of = max((frame[1] for frame in events), default=0)
                assert heard_of == len(each.events), "it knows of each that it did not get"
        assert len(self.subscribers) == len(self.active())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["subscribe"] * 4
            + ["subscribe again", "unsubscribe", "disconnect", "end", "stall", "tell"]
            + ["publish", "turn"] * 3
        ),
        st.integers(0, 50),
        st.integers(0, 50),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_listeners_in_groups_hear_what_they_would_hear_at_once(
    steps: list[tuple[str, int, int]],
) -> None:
    async def run() -> None:
        world = World()
        for step in steps:
            await world.do(*step)
        await world.settle()
        world.check()

    with pytest.MonkeyPatch.context() as patch:
        for module in (audience, pubsub):
            patch.setattr(module, "GROUP", 2)
        patch.setattr(audience, "MOST_WAITING", 3)
        asyncio.run(run())
