"""The timers that a live object sets: each sends the object a message of its own.

They live in memory and end with the activation, however that ends.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Protocol

from rio._core.dispatch import Dispatcher, Turn, TurnCaller, TypeTable, outside_of_turns
from rio.errors import UnknownMessage
from rio.identity import ObjectId, check_name, type_name_of
from rio.logs import Logger
from rio.objects.context_var import current_values
from rio.objects.message import DynamicMessage, Message, encode_message
from rio.transport.call_context import context_without_chain

logger = Logger("rio.objects")

MAX_TIMERS = 64
"""Timers of one object."""
SHORTEST_PERIOD = 0.01
"""Seconds of a period or a delay, at least."""
MAX_NAME_BYTES = 128


class TimerOwner(Protocol):
    """The runtime's side of a live object."""

    @property
    def table(self) -> TypeTable: ...
    @property
    def object_id(self) -> ObjectId: ...

    closing: bool

    def check_owning(self) -> None:
        """:raises Deactivated: the object leaves, and can own nothing more."""

    def touch(self) -> None:
        """The object was in use until now."""


class Timers:
    """The timers of one activation: ``self.timers`` of a :class:`rio.ServiceObject`.

    When a timer is due, the object gets the timer's message as a turn like any other, at the end of
    the queue. An :class:`rio.ApplicationError` of the handler is logged, and the timer goes on;
    any other exception drops the object with its timers. ``after_load`` is the place to set them
    again.

    ``in`` tells whether a timer of this name is set, and ``len()`` how many are.
    """

    __slots__ = ("_timers", "dispatcher", "owner")

    def __init__(self, owner: TimerOwner, dispatcher: Dispatcher) -> None:
        self.owner = owner
        self.dispatcher = dispatcher
        self._timers: dict[str, Timer] = {}

    def every(
        self,
        name: str,
        period: float,
        message: Message[Any] | DynamicMessage,
        *,
        keep_alive: bool = False,
    ) -> None:
        """Send the object ``message`` again and again, for the first time in ``period`` seconds.

        The next message is due ``period`` seconds after the turn of the last one has ended, so a
        slow handler is never behind. ``name``, 1 to 128 bytes, replaces a timer of that name.
        ``keep_alive``: the object does not leave for being idle while the timer is set; without it
        the turns of a timer do not count as a use.

        :raises ValueError: the period is shorter than 0.01 s or not finite, or the object has 64
            timers already.
        :raises BadIdentity: the name is not a string, is empty or is too long.
        :raises UnknownMessage: the class has no handler for the message.
        :raises BadMessage: the message holds a value that MessagePack cannot carry.
        :raises Deactivated: the object leaves, or has left.
        """
        self._set(name, period, message, keep_alive, repeat=True)

    def after(
        self,
        name: str,
        delay: float,
        message: Message[Any] | DynamicMessage,
        *,
        keep_alive: bool = False,
    ) -> None:
        """Send the object ``message`` once, in ``delay`` seconds. All else is as for
        :meth:`every`.
        """
        self._set(name, delay, message, keep_alive, repeat=False)

    def cancel(self, name: str) -> bool:
        """End a timer; a turn of it that runs already ends as it would. Returns whether it was set.

        :raises Deactivated: the object leaves, or has left.
        """
        self.owner.check_owning()
        timer = self._timers.get(name)
        if timer is None:
            return False
        timer.stop()
        self.forget(timer)
        return True

    def forget(self, timer: Timer) -> None:
        """A timer is over."""
        del self._timers[timer.name]
        if timer.keep_alive:
            self.owner.touch()

    def __contains__(self, name: object) -> bool:
        return name in self._timers

    def __len__(self) -> int:
        return len(self._timers)

    @property
    def keep_alive(self) -> bool:
        """Whether the object stays in memory for one of them."""
        return any(timer.keep_alive for timer in self._timers.values())

    def holds(self, timer: Timer) -> bool:
        """Whether a timer is still set."""
        return self._timers.get(timer.name) is timer

    def end(self) -> None:
        """End all timers: the object leaves."""
        timers, self._timers = self._timers, {}
        for timer in timers.values():
            timer.stop()

    def _set(
        self,
        name: str,
        seconds: float,
        message: Message[Any] | DynamicMessage,
        keep_alive: bool,
        *,
        repeat: bool,
    ) -> None:
        self.owner.check_owning()
        _check_seconds(name, seconds)
        check_name("name of a timer", name, MAX_NAME_BYTES)
        if len(self._timers) >= MAX_TIMERS and name not in self._timers:
            raise ValueError(
                f"{self.owner.object_id} has {MAX_TIMERS} timers already: cancel one before it "
                f"sets {name!r}"
            )
        timer = Timer(self, name, seconds, self._check_message(message), encode_message(message))
        timer.keep_alive, timer.repeats = keep_alive, repeat
        earlier = self._timers.get(name)
        if earlier is not None:
            earlier.stop()
        self._timers[name] = timer
        timer.arm()

    def _check_message(self, message: Message[Any] | DynamicMessage) -> str:
        """The name of a message that the object handles.

        :raises UnknownMessage: it does not.
        """
        table, name = self.owner.table, _name_of(message)
        if name not in table.methods:
            raise UnknownMessage(self.dispatcher.runtime.unknown_message(table, name))
        return name


class Timer(TurnCaller):
    """One timer; the turns of its messages answer to it."""

    def __init__(
        self, timers: Timers, name: str, seconds: float, message_name: str, payload: bytes
    ) -> None:
        self.name = name
        self.keep_alive = False
        self.repeats = False
        self.uses = False
        self._timers = timers
        self._seconds = seconds
        self._message_name = message_name
        self._payload = payload
        self._context = outside_of_turns()
        self._call_context = _carried(timers.dispatcher)
        """What the message carries: the values and the trace of the code that sets the timer."""
        self._handle: asyncio.TimerHandle | None = None
        self._turn: Turn | None = None

    def arm(self) -> None:
        """Send the message when the period is over."""
        loop = self._timers.dispatcher.loop
        self._handle = loop.call_later(self._seconds, self._fire, context=self._context)

    def stop(self) -> None:
        """Send nothing more, and take back what was sent and has not begun."""
        if self._handle is not None:
            self._handle.cancel()
        if self._turn is not None and not self._turn.running:
            self._turn.cancel()

    def reply(self, turn: Turn, payload: bytes) -> None:
        self._go_on()

    def fail(self, turn: Turn, error: BaseException) -> None:
        if self._timers.holds(self):
            logger.warning("timer %r of %s: %s", self.name, self._timers.owner.object_id, error)
        self._go_on()

    def _fire(self) -> None:
        self._handle = None
        owner = self._timers.owner
        if owner.closing:
            return  # the object leaves after its turn, and its timers end
        turn = self._timers.dispatcher.admit(
            self,
            *owner.object_id,
            self._message_name,
            self._payload,
            context=self._call_context,
        )
        self._turn = None if turn.finished else turn

    def _go_on(self) -> None:
        self._turn = None
        if not self._timers.holds(self):
            return
        if self.repeats:
            self.arm()
        else:
            self._timers.forget(self)


def _carried(dispatcher: Dispatcher) -> bytes | None:
    values = current_values()
    encoded = {} if values is None else values.encoded
    trace = None if dispatcher.tracer is None else dispatcher.tracer.trace_here()
    return context_without_chain(encoded, trace)


def _name_of(message: Message[Any] | DynamicMessage) -> str:
    if isinstance(message, DynamicMessage):
        return message.type_name
    if not isinstance(message, Message):
        raise TypeError(
            f"a timer sends a rio.Message or a rio.DynamicMessage, got {message!r:.200}"
        )
    return type_name_of(type(message))


def _check_seconds(name: str, seconds: float) -> None:
    if not SHORTEST_PERIOD <= seconds < math.inf:
        raise ValueError(
            f"timer {name!r}: seconds must be a finite number of at least {SHORTEST_PERIOD}, got "
            f"{seconds!r}"
        )
