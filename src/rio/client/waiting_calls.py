"""The calls of a client that are on no connection."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

from rio._core.calls import Call
from rio.client.lines import Line
from rio.client.pool import Peer


class WaitingCalls:
    """Each call with what it waits for: a server's connection (the peer), its next attempt (the
    timer), the calls before it (the line), or news of the membership (``None``).
    """

    def __init__(self) -> None:
        self._calls: dict[Call, Peer | asyncio.TimerHandle | Line | None] = {}

    def add(self, call: Call, awaited: Peer | asyncio.TimerHandle | Line | None) -> None:
        self._calls[call] = awaited

    def discard(self, call: Call) -> None:
        """A call waits no longer, because what it waited for has come."""
        self._calls.pop(call, None)

    def withdraw(self, call: Call) -> None:
        """Nobody waits for a call's reply any more: forget it everywhere."""
        awaited = self._calls.pop(call, None)
        if isinstance(awaited, Peer):
            awaited.withdraw(call)
        elif isinstance(awaited, asyncio.TimerHandle):
            awaited.cancel()

    @property
    def need_members(self) -> bool:
        """Whether a call waits for news of the membership."""
        return any(awaited is None for awaited in self._calls.values())

    def take_for_members(self) -> list[Call]:
        """Take out the calls that wait for news of the membership."""
        calls = [call for call, awaited in self._calls.items() if awaited is None]
        for call in calls:
            del self._calls[call]
        return calls

    def take_for_attempt(self) -> list[Call]:
        """Take out the calls that wait for their next attempt."""
        timers = {
            call: awaited
            for call, awaited in self._calls.items()
            if isinstance(awaited, asyncio.TimerHandle)
        }
        for call, timer in timers.items():
            timer.cancel()
            del self._calls[call]
        return list(timers)

    def find_overdue(self, now: float) -> tuple[list[Call], float]:
        """The calls whose deadline has passed, and the earliest deadline of the others (``inf`` if
        there is none).
        """
        late = [call for call in self._calls if call.deadline <= now]
        earliest = min(
            (call.deadline for call in self._calls if call.deadline > now), default=math.inf
        )
        return late, earliest

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)
