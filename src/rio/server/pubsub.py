"""Events: who on this node's connections listens to which object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rio._core import wire
from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio.errors import FrameTooLarge, RioError
from rio.identity import ObjectId
from rio.transport import protocol

MAX_UNSENT = 1024 * 1024
"""Bytes that may wait for a slow subscriber's connection. Above that events are dropped, and the
subscriber is told how many.
"""
ROOM_FOR_HEAD = 160
"""Bytes that an event takes besides its payload, at most."""
ROOM_FOR_NUMBERS = 30
"""Those of them that are not its name, at most."""


class EventSink(Protocol):
    """The connection of a subscriber."""

    send_limit: int
    """Bytes of the largest frame that the subscriber reads."""

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

    __slots__ = ("number", "object_id", "sequence", "sink")

    def __init__(self, object_id: ObjectId, sink: EventSink, number: int) -> None:
        self.object_id = object_id
        self.sink = sink
        self.number = number
        self.sequence = 0

    def deliver(self, tail: bytes) -> bool:
        self.sequence += 1
        if self.sink.unsent > MAX_UNSENT or len(tail) + ROOM_FOR_NUMBERS > self.sink.send_limit:
            return False
        self.sink.put(wire.write_event(self.number, self.sequence, tail))
        return True

    def tell_of_drops(self) -> bool:
        self.sequence -= 1  # the notice has the number of the last event, which was dropped
        return self.deliver(_NOTICE)


class MessageRouter:
    """Delivers what objects publish. An entry exists only while somebody listens.

    ``frame_limit``: bytes of an event with its names, at most.
    """

    def __init__(self, frame_limit: int = DEFAULT_FRAME_LIMIT) -> None:
        self._frame_limit = frame_limit
        self._listeners: dict[ObjectId, dict[tuple[int, int], Listener]] = {}
        self._of_sink: dict[int, dict[int, Listener]] = {}
        self._behind: dict[Listener, None] = {}
        """Whose last event was dropped: they do not know of it yet."""
        self.delivered = 0
        self.dropped = 0
        self.on_last_left: Callable[[ObjectId], None] = _ignore
        """Called when nobody listens to an object any more."""

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._listeners.values()))

    def has_listeners(self, object_id: ObjectId) -> bool:
        """Whether somebody listens to an object."""
        return object_id in self._listeners

    def subscribe(self, object_id: ObjectId, sink: EventSink, number: int) -> int:
        """Deliver the object's events to ``sink`` as subscription ``number``, which is the sink's
        choice. Repeating it changes nothing. Returns how many events it has counted already.
        """
        key = (id(sink), number)
        listeners = self._listeners.setdefault(object_id, {})
        if key not in listeners:
            listeners[key] = self._of_sink.setdefault(id(sink), {})[number] = Listener(
                object_id, sink, number
            )
        return listeners[key].sequence

    def unsubscribe(self, sink: EventSink, number: int) -> None:
        """End one subscription; unknown ones are ignored, since both sides may end it at once."""
        listener = self._of_sink.get(id(sink), {}).pop(number, None)
        if listener is not None:
            self._remove(listener)

    def disconnect(self, sink: EventSink) -> None:
        """End all subscriptions of a connection that is gone."""
        for listener in self._of_sink.pop(id(sink), {}).values():
            self._remove(listener)

    def publish(self, object_id: ObjectId, type_name: str, payload: bytes) -> int:
        """Deliver an event that is encoded already. Returns to how many.

        :raises FrameTooLarge: the event does not fit into a frame, whether somebody listens or not.
        """
        if len(payload) + ROOM_FOR_HEAD > self._frame_limit:
            raise FrameTooLarge(
                f"{type_name} of {object_id} takes {len(payload)} bytes, "
                f"the frame limit is {self._frame_limit}"
            )
        listeners = self._listeners.get(object_id)
        if not listeners:
            return 0
        tail = protocol.write_event_tail(type_name, payload)
        behind = [listener for listener in listeners.values() if not listener.deliver(tail)]
        if behind or self._behind:
            for listener in listeners.values():
                self._behind.pop(listener, None)
            self._behind.update(dict.fromkeys(behind))
        sent = len(listeners) - len(behind)
        self.delivered += sent
        self.dropped += len(behind)
        return sent

    def tell_of_drops(self) -> None:
        """Tell the subscribers whose last event was dropped, and whose connection has room again,
        the number of that event. Call it now and then.
        """
        for listener in list(self._behind):
            if listener.tell_of_drops():
                del self._behind[listener]

    def end(self, object_id: ObjectId, error: RioError) -> None:
        """The object leaves this node: tell all who listen, so that they look for it."""
        for listener in list(self._listeners.get(object_id, {}).values()):
            listener.sink.put(protocol.write_end(listener.number, error))
            self.unsubscribe(listener.sink, listener.number)

    def _remove(self, listener: Listener) -> None:
        self._behind.pop(listener, None)
        listeners = self._listeners[listener.object_id]
        del listeners[(id(listener.sink), listener.number)]
        if not listeners:
            del self._listeners[listener.object_id]
            self.on_last_left(listener.object_id)
        of_sink = self._of_sink.get(id(listener.sink))
        if of_sink is not None and not of_sink:
            del self._of_sink[id(listener.sink)]


def _ignore(_: ObjectId) -> None: ...


_NOTICE = protocol.write_event_tail(protocol.DROPPED, protocol.encode(None))
