"""Calls that would wait for themselves: which those are, and when they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rio._core.calls import Call
from rio._core.dispatch import Dispatcher, Turn
from rio.transport.call_context import Cycle, find_cycle


class Deadlocks:
    """The calls that wait for an object whose running turn has brought them about.

    Such a call is refused once that turn awaits it, or awaits another call that does. Until then
    the turn can end, and the call run: whoever sends a message and does not await it waits for
    nothing.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._suspects: dict[Turn, Cycle] = {}
        """The calls that wait, and what would close the circle."""
        self._is_looking = False
        self.find_awaited: Callable[[Turn], Iterable[Call]] = _find_none
        """The calls of a turn whose answers are awaited, once the node has a client."""

    def note(self, turn: Turn) -> None:
        """A call that was made during other turns waits for a busy object."""
        cycle = find_cycle(turn, turn.mailbox.turn)
        if cycle is None:
            return
        self._suspects[turn] = cycle
        if not self._is_looking:
            # In this turn of the loop the call that closes the circle may not be awaited yet.
            self._is_looking = True
            self._dispatcher.loop.call_soon(self._look_first)

    def _look_first(self) -> None:
        self._is_looking = False
        self.look()

    def look(self) -> None:
        """Refuse the calls that wait for themselves by now."""
        awaited: dict[Turn, list[Call]] = {}
        for turn, cycle in list(self._suspects.items()):
            running = turn.mailbox.turn
            if turn.finished or running is None or running.number != cycle.running:
                del self._suspects[turn]
                continue
            calls = awaited.get(running)
            if calls is None:
                calls = awaited[running] = list(self.find_awaited(running))
            if any(cycle.is_closed_by(call, turn) for call in calls):
                del self._suspects[turn]
                turn.refuse(cycle.error)


def _find_none(_: Turn) -> Iterable[Call]:
    return ()
