"""Tells that an event loop stands still, and which code blocks it."""

from __future__ import annotations

import math
import sys
import threading
from types import FrameType

from rio._core.clock import now
from rio.logs import Logger
from rio.objects.service_object import ServiceObject
from rio.server.catalog import Catalog
from rio.server.stacks import is_of_the_loop, lines_of

logger = Logger("rio.server")

LOOKS = 4
"""How often the thread looks while the loop may stand still without being told of."""

UNSEEN = (
    "; no Python code of it was seen to run meanwhile: the process was stopped, or native code ran"
)


class LoopWatch:
    """A thread that looks whether the event loop of a node still turns.

    The loop calls :meth:`beat` again and again. No call pays for it: only where the loop stands
    still does the thread look at what runs there.

    ``blocked_after``: seconds between two beats from which on the loop counts as blocked.
    """

    def __init__(self, catalog: Catalog, blocked_after: float) -> None:
        self._catalog = catalog
        self._blocked_after = blocked_after
        self._beat = math.inf
        self._told = math.inf
        """The beat after which the loop stood still when the thread told so last."""
        self._loop_thread = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch the loop of the thread that calls this."""
        self._beat = now()
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._watch, name="rio server: watch the loop", daemon=True).start()

    def beat(self) -> None:
        """The loop turns. If it has stood still until now, that is logged."""
        last, self._beat = self._beat, now()
        stood = self._beat - last
        if stood >= self._blocked_after:
            logger.warning(
                "the event loop of %s goes on: it stood still for %.1f s%s",
                self._catalog.address,
                stood,
                "" if self._told == last else UNSEEN,
            )

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._blocked_after / LOOKS):
            last = self._beat
            stood = now() - last
            if stood >= self._blocked_after and self._told != last:
                self._look(last, stood)

    def _look(self, last: float, stood: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        if is_of_the_loop(frame) or self._beat != last:
            return  # it waits, or native code runs: no code of a user is to blame
        assert frame is not None
        self._told = last
        place = _innermost_of_an_object(frame)
        logger.warning(
            "%s has blocked the event loop of %s for %.1f s%s; everything else on this server"
            " waits:\n%s",
            "code that belongs to no object" if place is None else self._describe(place),
            self._catalog.address,
            stood,
            self._describe_lease(),
            lines_of(frame),
        )

    def _describe(self, place: FrameType) -> str:
        instance = _object_of(place)
        assert instance is not None
        object_id = instance.object_id
        table = self._catalog.dispatcher.tables.get(object_id.type_name)
        mailbox = None if table is None else table.mailboxes.get(object_id.id)
        if mailbox is None or mailbox.turn is None:
            return str(object_id)
        return f"{object_id}, in {mailbox.turn.message_name},"

    def _describe_lease(self) -> str:
        dispatcher = self._catalog.dispatcher
        left = dispatcher.lease_until - dispatcher.now()
        return f", with {left:.1f} s of lease left" if math.isfinite(left) else ""


def _innermost_of_an_object(frame: FrameType | None) -> FrameType | None:
    """The frame of a method of an object, or of another function that takes one first."""
    while frame is not None and _object_of(frame) is None:
        frame = frame.f_back
    return frame


def _object_of(frame: FrameType) -> ServiceObject | None:
    if not frame.f_code.co_argcount:
        return None
    first = frame.f_locals.get(frame.f_code.co_varnames[0])
    # not isinstance(), which may run code of a user
    return first if issubclass(type(first), ServiceObject) and "object_id" in vars(first) else None
