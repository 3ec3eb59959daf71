"""Events: who on this node's connections listens to which object."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import islice

from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio.errors import FrameTooLarge, RioError
from rio.identity import ObjectId
from rio.server.audience import GROUP, Audience, EventSink, Listener, Waiting
from rio.transport import protocol

ROOM_FOR_HEAD = 160
"""Bytes that an event takes besides its payload, at most."""

Slices = Generator[None]
"""Work that takes one turn of the loop after the other."""


class Subscribers:
    """Delivers what objects publish. An entry exists only while somebody listens.

    An object may have any number of listeners. What concerns more than a group of them is done
    group by group, each in a turn of the loop, in the order in which it was asked for.

    ``frame_limit``: bytes of an event with its names, at most.
    """

    def __init__(self, frame_limit: int = DEFAULT_FRAME_LIMIT) -> None:
        self._frame_limit = frame_limit
        self._audiences: dict[ObjectId, Audience] = {}
        self._of_sink: dict[int, dict[int, Listener]] = {}
        self._gone: dict[int, EventSink] = {}
        """Connections that are gone, and whose listeners are being removed."""
        self._behind: dict[Listener, None] = {}
        """Whose last event was dropped: they do not know of it yet."""
        self._work: deque[Slices] = deque()
        self._next_slice: asyncio.Handle | None = None
        self.delivered = 0
        self.dropped = 0
        self.on_last_left: Callable[[ObjectId], None] = _ignore
        """Called when nobody listens to an object any more."""

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return sum(audience.count for audience in self._audiences.values())

    def has_listeners(self, object_id: ObjectId) -> bool:
        """Whether somebody listens to an object."""
        return object_id in self._audiences

    def count_of(self, sink: EventSink) -> int:
        """How many subscriptions a connection has."""
        return len(self._of_sink.get(id(sink), ()))

    # --- those who listen -------------------------------------------------------------------------

    def subscribe(self, object_id: ObjectId, sink: EventSink, number: int) -> int:
        """Deliver the object's events to ``sink`` as subscription ``number``, which is the sink's
        choice. Repeating it changes nothing. Returns how many events it has counted already, with
        those that are on their way to it.
        """
        audience = self._audiences.get(object_id)
        if audience is None:
            audience = self._audiences[object_id] = Audience(object_id)
        of_sink = self._of_sink.setdefault(id(sink), {})
        listener = of_sink.get(number)
        if listener is None or listener.audience is not audience:
            listener = of_sink[number] = Listener(audience, sink, number)
            audience.add(listener)
            sink.usage.subscriptions += 1
        return audience.published - listener.since

    def unsubscribe(self, sink: EventSink, number: int) -> None:
        """End one subscription; unknown ones are ignored, since both sides may end it at once."""
        listener = self._of_sink.get(id(sink), {}).get(number)
        if listener is not None:
            self._remove(listener)

    def disconnect(self, sink: EventSink) -> None:
        """End all subscriptions of a connection that is gone."""
        listeners = self._of_sink.pop(id(sink), {})
        self._gone[id(sink)] = sink
        self._do(self._remove_all(sink, listeners.values()), in_slices=len(listeners) > GROUP)

    def end(self, object_id: ObjectId, error: RioError) -> None:
        """The object leaves this node: tell all who listen, so that they look for it."""
        audience = self._audiences.pop(object_id, None)
        if audience is not None:
            self._do(self._end_all(audience, error), in_slices=not audience.is_small)

    def _remove_all(self, sink: EventSink, listeners: Iterable[Listener]) -> Slices:
        rest = iter(listeners)
        try:
            while group := list(islice(rest, GROUP)):
                for listener in group:
                    self._remove(listener)
                yield
        finally:
            del self._gone[id(sink)]

    def _end_all(self, audience: Audience, error: RioError) -> Slices:
        for group in list(audience.groups.values()):
            for listener in list(group.values()):
                if id(listener.sink) not in self._gone:
                    listener.sink.put(protocol.write_end(listener.number, error))
                self._remove(listener)
            yield

    def _remove(self, listener: Listener) -> None:
        audience = listener.audience
        if not audience.remove(listener):
            return
        listener.sink.usage.subscriptions -= 1
        self._behind.pop(listener, None)
        if not audience.count and self._audiences.get(audience.object_id) is audience:
            del self._audiences[audience.object_id]
            self.on_last_left(audience.object_id)
        of_sink = self._of_sink.get(id(listener.sink))
        if of_sink is not None and of_sink.get(listener.number) is listener:
            del of_sink[listener.number]
            if not of_sink:
                del self._of_sink[id(listener.sink)]

    # --- events -----------------------------------------------------------------------------------

    def publish(self, object_id: ObjectId, type_name: str, payload: bytes) -> None:
        """Deliver an event that is encoded already.

        :raises FrameTooLarge: the event does not fit into a frame, whether somebody listens or not.
        """
        check_size(object_id, type_name, payload, self._frame_limit)
        audience = self._audiences.get(object_id)
        if audience is None:
            return
        tail = protocol.write_event_tail(type_name, payload)
        audience.published += 1
        if audience.is_small and not self._gone:
            listeners = audience.groups[audience.newest].values()
            behind = [listener for listener in listeners if not listener.deliver(tail)]
            if behind or self._behind:
                self._note_behind(listeners, behind)
            self._count(len(listeners), len(behind))
        elif waiting := audience.queue(tail):
            self._do(self._deliver_to_all(audience, waiting), in_slices=True)

    def _deliver_to_all(self, audience: Audience, event: Waiting) -> Slices:
        event.begun = True
        try:
            for group in list(audience.groups.values()):
                self._deliver_to_group(group.values(), event)
                yield
        finally:
            audience.take(event)

    def _deliver_to_group(self, listeners: Iterable[Listener], event: Waiting) -> None:
        owed, behind = [], []
        for listener in listeners:
            count = event.is_owed_to(listener)
            if not count or id(listener.sink) in self._gone:
                continue
            owed.append(listener)
            if event.tail is None:
                listener.sequence += count
                self.dropped += count - 1
                behind.append(listener)
            elif not listener.deliver(event.tail):
                behind.append(listener)
        self._note_behind(owed, behind)
        self._count(len(owed), len(behind))

    def _note_behind(self, listeners: Iterable[Listener], behind: Iterable[Listener]) -> None:
        for listener in listeners:
            self._behind.pop(listener, None)
        self._behind.update(dict.fromkeys(behind))

    def _count(self, listeners: int, behind: int) -> None:
        self.delivered += listeners - behind
        self.dropped += behind

    def tell_of_drops(self) -> None:
        """Tell some of the subscribers whose last event was dropped, and whose connection has room
        again, the number of that event. Call it again and again.
        """
        for listener in list(islice(self._behind, GROUP)):
            del self._behind[listener]
            if id(listener.sink) not in self._gone and not listener.tell_of_drops():
                self._behind[listener] = None  # behind the others

    # --- work in slices ---------------------------------------------------------------------------

    def _do(self, work: Slices, *, in_slices: bool) -> None:
        """Do some work, now or in turns of the loop to come."""
        if in_slices:
            self._work.append(work)
            self._schedule()
        else:
            for _ in work:
                pass

    def _schedule(self) -> None:
        if self._next_slice is None and self._work:
            self._next_slice = asyncio.get_running_loop().call_soon(self._do_slice)

    def _do_slice(self) -> None:
        self._next_slice = None
        try:
            next(self._work[0])
        except StopIteration:
            self._work.popleft()
        except BaseException:
            self._work.popleft()
            raise
        finally:
            self._schedule()

    def close(self) -> None:
        """The node has ended: drop the work that is left."""
        self._work.clear()
        if self._next_slice is not None:
            self._next_slice.cancel()


def check_size(object_id: ObjectId, type_name: str, payload: bytes, limit: int) -> None:
    """:raises FrameTooLarge: the event does not fit into a frame of ``limit`` bytes."""
    if len(payload) + ROOM_FOR_HEAD > limit:
        raise FrameTooLarge(
            f"{type_name} of {object_id} takes {len(payload)} bytes, the frame limit is {limit}"
        )


def _ignore(_: ObjectId) -> None: ...
