"""Who listens to one object."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from rio._core import wire
from rio._core.budget import Usage
from rio.identity import ObjectId
from rio.transport import protocol

MAX_UNSENT = 1024 * 1024
"""Bytes that may wait for a slow subscriber's connection. Above that events are dropped, and the
subscriber is told how many.
"""
ROOM_FOR_NUMBERS = 30
"""Bytes that an event takes besides its payload and its name, at most."""
GROUP = 1000
"""Listeners that are served in one turn of the loop, at most."""
MOST_WAITING = 1000
"""Events that wait for the listeners of one object, at most."""
MOST_WAITING_BYTES = 16 * 1024 * 1024
"""Their bytes, at most, unless it is one event."""


class EventSink(Protocol):
    """The connection of a subscriber."""

    send_limit: int
    """Bytes of the largest frame that the subscriber reads."""
    usage: Usage
    """What its client uses."""

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        ...

    def put(self, body: bytes) -> None: ...


class Listener:
    """One subscription on one connection.

    A gap in the sequence tells the subscriber how many events were dropped. If no event comes after
    them, a notice does.
    """

    __slots__ = ("audience", "group", "number", "sequence", "since", "sink")

    def __init__(self, audience: Audience, sink: EventSink, number: int) -> None:
        self.audience = audience
        self.sink = sink
        self.number = number
        self.sequence = 0
        self.since = audience.published
        """The events that the audience had before."""
        self.group = 0

    @property
    def key(self) -> tuple[int, int]:
        return id(self.sink), self.number

    def deliver(self, tail: bytes) -> bool:
        self.sequence += 1
        if self.sink.unsent > MAX_UNSENT or len(tail) + ROOM_FOR_NUMBERS > self.sink.send_limit:
            return False
        self.sink.put(wire.write_event(self.number, self.sequence, tail))
        return True

    def tell_of_drops(self) -> bool:
        self.sequence -= 1  # the notice has the number of the last event, which was dropped
        return self.deliver(_NOTICE)


class Waiting:
    """An event that the listeners of a large audience get one group after the other. Without a
    ``tail`` it stands for ``count`` events that were dropped.
    """

    __slots__ = ("begun", "count", "number", "tail")

    def __init__(self, number: int, tail: bytes | None) -> None:
        self.number = number
        """That of the first event: how many the audience has had with it."""
        self.tail = tail
        self.count = 1
        self.begun = False

    def is_owed_to(self, listener: Listener) -> int:
        """How many of the events a listener has to get: those after it came."""
        return max(0, self.number + self.count - 1 - max(self.number - 1, listener.since))


class Audience:
    """The listeners of one object, in groups of at most :data:`GROUP`."""

    __slots__ = ("_bytes", "_waiting", "count", "groups", "newest", "object_id", "published")

    def __init__(self, object_id: ObjectId) -> None:
        self.object_id = object_id
        self.count = 0
        self.published = 0
        """Events since there is this audience."""
        self.newest = 0
        self.groups: dict[int, dict[tuple[int, int], Listener]] = {0: {}}
        """By numbers; new listeners come to the newest."""
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0

    def add(self, listener: Listener) -> None:
        if len(self.groups[self.newest]) >= GROUP:
            self.newest += 1
            self.groups[self.newest] = {}
        listener.group = self.newest
        self.groups[self.newest][listener.key] = listener
        self.count += 1

    def remove(self, listener: Listener) -> bool:
        """Returns whether it was there."""
        group = self.groups.get(listener.group, {})
        if group.pop(listener.key, None) is None:
            return False
        self.count -= 1
        if not group and len(self.groups) > 1:
            del self.groups[listener.group]
            self.newest = next(reversed(self.groups))
        return True

    @property
    def is_small(self) -> bool:
        """Whether an event can be given to all at once."""
        return len(self.groups) == 1 and not self._waiting

    def queue(self, tail: bytes) -> Waiting | None:
        """Have the event that was published last wait. If too many do, it is dropped. Returns what
        has to be delivered, unless that waits already.
        """
        last = self._waiting[-1] if self._waiting else None
        if last is None or (
            len(self._waiting) < MOST_WAITING and self._bytes + len(tail) <= MOST_WAITING_BYTES
        ):
            self._bytes += len(tail)
            event = Waiting(self.published, tail)
        elif last.tail is None and not last.begun:
            last.count += 1
            return None
        else:
            event = Waiting(self.published, None)
        self._waiting.append(event)
        return event

    def take(self, event: Waiting) -> None:
        """It waits no longer: all listeners have got it, or it could not be delivered."""
        self._waiting.remove(event)
        self._bytes -= len(event.tail or b"")


_NOTICE = protocol.write_event_tail(protocol.DROPPED, protocol.encode(None))
