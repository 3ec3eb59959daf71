"""Objects that are not in use leave the memory: after a while, or when the memory is short."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from rio._core.dispatch import Dispatcher
from rio.identity import ObjectId
from rio.logs import Logger
from rio.server import memory
from rio.server.config import ServerConfig
from rio.server.limits import Limits
from rio.server.pubsub import Subscribers
from rio.server.segments import Segments

if TYPE_CHECKING:
    from rio.objects.lifecycle import LeavingReason

logger = Logger("rio.server")

MAX_LEAVING = 64
"""Objects that leave at the same time because they are not in use."""
MAX_LEAVING_RATE = 1_000
"""Those that leave in a second."""
MAX_LOOKS = 1_000
"""Objects that are looked at between two ticks, so that the event loop stays free."""
SLOTS = 16
SHORTEST_SLOT = 0.9
"""Seconds of a slot, at least. With the time between two ticks it is one second."""
MEMORY_INTERVAL = 5.0
"""Seconds between two looks at the memory of the process."""
MEMORY_MARGIN = 0.05
"""The share of the limit that is freed in addition."""
WEIGHT = 400
"""Bytes that an object takes at least, about."""


class IdleObject(Protocol):
    """What this module needs to know of an object in memory."""

    object_id: ObjectId
    instance: Any
    limits: Limits
    closing: bool
    used_at: float
    keep_until: float
    slot: Slot | None
    weight: int

    @property
    def open(self) -> bool: ...
    @property
    def turn(self) -> Any: ...
    @property
    def waiting(self) -> int: ...
    @property
    def used_again(self) -> bool: ...
    @property
    def is_kept_alive(self) -> bool: ...
    def leave(self, reason: LeavingReason) -> None: ...


Slot: TypeAlias = "dict[IdleObject, None]"


class Wheel:
    """The objects that share one ``idle_after``, filed by the time at which to look at them.

    An object is filed by its last use, as that was known then. So a call costs nothing here: an
    object that turns out to have been used is filed anew.
    """

    def __init__(self, idle_after: float, now: float) -> None:
        self.idle_after = idle_after
        self._width = max(SHORTEST_SLOT, idle_after / SLOTS)
        self._slots: dict[int, Slot] = {}
        self._overdue: list[Slot] = []
        self.newest = self._slot_of(now + idle_after)
        """Where an object is filed that is used just now."""

    def turn(self, now: float) -> None:
        """Make those slots overdue whose time has come."""
        self.newest = self._slot_of(now + self.idle_after)
        for number in [each for each in self._slots if (each + 1) * self._width <= now]:
            self._overdue.append(self._slots.pop(number))

    def file(self, activation: IdleObject, due: float) -> None:
        activation.slot = self._slot_of(due)
        activation.slot[activation] = None

    def take_overdue(self) -> IdleObject | None:
        """Take out an object at which it is time to look, if there is one."""
        while self._overdue:
            slot = self._overdue[0]
            if slot:
                activation, _ = slot.popitem()
                activation.slot = None
                return activation
            del self._overdue[0]
        return None

    def _slot_of(self, due: float) -> Slot:
        return self._slots.setdefault(math.floor(due / self._width), {})


class IdleObjects:
    """Finds the objects of a node that are not in use, and has them leave.

    None leaves while the node does not hold its lease for certain: its shutdown hooks could not
    save, and what they hold would be lost.
    """

    def __init__(
        self, config: ServerConfig, dispatcher: Dispatcher, subscribers: Subscribers
    ) -> None:
        self._dispatcher = dispatcher
        self._subscribers = subscribers
        self._wheels: dict[float, Wheel] = {}
        self.max_objects = config.max_objects
        self._max_memory = _limit_of_memory(config.max_memory)
        limited = config.max_objects is not None or config.max_memory is not None
        self._segments = Segments() if limited else None
        self._leaving: dict[IdleObject, None] = {}
        self._allowance = 0.0
        """Objects that may begin to leave now."""
        self._looks = 0
        """Objects that may be looked at until the next tick."""
        self._may_evict = True
        self._ticked_at = -math.inf
        self._next_look_at_memory = -math.inf
        self._to_free = 0.0
        """Bytes that the objects which still have to leave take, about."""

    # --- objects come and go ----------------------------------------------------------------------

    def add(self, activation: IdleObject) -> None:
        """An object has come to life."""
        idle_after = activation.limits.idle_after
        if idle_after is not None:
            wheel = self._wheels.get(idle_after) or self._new_wheel(idle_after)
            activation.slot = wheel.newest
            wheel.newest[activation] = None
        if self._segments is not None:
            self._segments.add(activation)

    def remove(self, activation: IdleObject) -> None:
        """An object has left."""
        if activation.slot is not None:
            del activation.slot[activation]
            activation.slot = None
        if self._segments is not None:
            self._segments.remove(activation)
        if activation in self._leaving:
            del self._leaving[activation]
            self._evict(self._dispatcher.now())

    def make_room(self) -> bool:
        """Let an object leave if one more would be too many. Returns whether it may come."""
        assert self.max_objects is not None
        if self._dispatcher.live - len(self._leaving) < self.max_objects:
            return True
        return self._may_leave and self._let_one_leave()

    def _let_one_leave(self) -> bool:
        assert self._segments is not None
        activation = self._segments.next_to_leave(self._is_unused)
        if activation is not None:
            self._let_leave(activation, "memory")
        return activation is not None

    def _new_wheel(self, idle_after: float) -> Wheel:
        wheel = self._wheels[idle_after] = Wheel(idle_after, self._dispatcher.now())
        return wheel

    # --- from time to time ------------------------------------------------------------------------

    def tick(self, *, may_evict: bool) -> None:
        """Have those leave that were idle for long enough.

        ``may_evict``: whether the last renewal of the lease succeeded, and the node does not drain.
        """
        now = self._dispatcher.now()
        self._may_evict = may_evict
        for wheel in self._wheels.values():
            wheel.turn(now)
        self._allow(now)
        self._looks = MAX_LOOKS
        if self._max_memory is not None and now >= self._next_look_at_memory:
            self._next_look_at_memory = now + MEMORY_INTERVAL
            self._look_at_memory(self._max_memory)
        self._evict(now)

    def _allow(self, now: float) -> None:
        gained = MAX_LEAVING_RATE * (now - self._ticked_at)
        self._allowance = min(float(MAX_LEAVING_RATE) / 10, self._allowance + gained)
        self._ticked_at = now

    @property
    def _may_leave(self) -> bool:
        """Whether one more object may begin to leave."""
        return self._may_evict and self._dispatcher.admits and len(self._leaving) < MAX_LEAVING

    def _evict(self, now: float) -> None:
        for wheel in self._wheels.values():
            self._look_at(wheel, now)
        if self._to_free > 0:
            self._free_memory(now)

    def _look_at(self, wheel: Wheel, now: float) -> None:
        while self._looks and self._allowance >= 1 and self._may_leave:
            activation = wheel.take_overdue()
            if activation is None:
                return
            self._looks -= 1
            due = self._idle_at(activation, now, wheel.idle_after)
            if due > now:
                wheel.file(activation, due)
            elif not activation.closing:
                self._let_leave(activation, "idle")

    def _idle_at(self, activation: IdleObject, now: float, idle_after: float) -> float:
        """When the object will have been idle for long enough, unless it is used before."""
        if self._is_in_use(activation) or activation.used_at == -math.inf:
            activation.used_at = now
        return max(activation.used_at + idle_after, activation.keep_until)

    def _is_in_use(self, activation: IdleObject) -> bool:
        return (
            activation.turn is not None
            or activation.waiting > 0
            or activation.is_kept_alive
            or self._subscribers.has_listeners(activation.object_id)
        )

    def _is_unused(self, activation: Any) -> bool:
        """Whether the object may leave before it was idle for long."""
        return (
            activation.open
            and not activation.closing
            and not activation.limits.stays
            and activation.keep_until <= self._dispatcher.now()
            and not self._is_in_use(activation)
        )

    def _let_leave(self, activation: Any, reason: LeavingReason) -> None:
        self._leaving[activation] = None
        self._allowance -= 1
        activation.leave(reason)

    # --- memory -----------------------------------------------------------------------------------

    def _look_at_memory(self, limit: int) -> None:
        over = memory.resident() - limit
        self._to_free = over + MEMORY_MARGIN * limit if over > 0 else 0.0
        if over > 0:
            logger.warning(
                "the process takes %d MiB more than max_memory, %d MiB: objects that are not in "
                "use leave",
                over >> 20,
                limit >> 20,
            )

    def _free_memory(self, now: float) -> None:
        """Of twice as many objects as may leave, let the heaviest and longest idle ones go."""
        assert self._segments is not None
        free = MAX_LEAVING - len(self._leaving)
        candidates: dict[Any, float] = {}
        for _ in range(2 * free if self._may_leave else 0):
            activation: Any = self._segments.next_to_leave(self._is_unused)
            if activation is None or activation in candidates:
                break
            candidates[activation] = _weight_of(activation)
        by_cost = sorted(candidates, key=lambda each: candidates[each] * (now - each.used_at))
        while by_cost and self._to_free > 0 and self._may_leave and self._allowance >= 1:
            activation = by_cost.pop()
            self._to_free -= candidates[activation]
            self._let_leave(activation, "memory")


def _weight_of(activation: IdleObject) -> float:
    """Bytes of memory that an object takes, about."""
    try:
        own = activation.instance.object_weight()
    except Exception as error:
        logger.error("object_weight of %s failed", activation.object_id, exc_info=error)
        own = 0
    return float(WEIGHT + activation.weight + own)


def _limit_of_memory(limit: int | str | None) -> int | None:
    """The limit in bytes.

    :raises ConfigurationError: this system does not tell how much memory a process takes.
    """
    if limit is None:
        return None
    allowed = memory.bytes_of_limit(limit)
    taken = memory.resident()
    if taken > allowed:
        logger.warning(
            "max_memory is %d MiB and the process takes %d MiB already: every object leaves as "
            "soon as it is not in use",
            allowed >> 20,
            taken >> 20,
        )
    return allowed
