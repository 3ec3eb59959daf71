"""The deadlines of a client's calls: one timer ends whatever has passed its own."""

from __future__ import annotations

import asyncio
import math

from rio._core.calls import Call, Caller
from rio.client.pool import Pool
from rio.client.waiting_calls import WaitingCalls
from rio.errors import CallTimeout, Expired


class Deadlines:
    """Ends calls at their deadlines, those on a connection and those that wait for one."""

    def __init__(self, caller: Caller, pool: Pool, waiting: WaitingCalls) -> None:
        self._caller = caller
        self._pool = pool
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, deadline: float) -> None:
        """Look for overdue calls at this moment, and no earlier."""
        self.close()
        delay = max(0.001, deadline - self._caller.now())
        self._timer = self._caller.loop.call_later(delay, self._end_overdue)

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    def _end_overdue(self) -> None:
        moment = self._caller.now()
        earliest = min(self._end_sent(moment), self._end_waiting(moment))
        self._caller.rearm(earliest)
        if earliest < math.inf:
            self.arm(earliest)

    def _end_sent(self, moment: float) -> float:
        """End the calls that were not answered in time. Returns the next deadline of the others."""
        earliest = math.inf
        for connection in self._pool.connections:
            late, next_deadline = connection.find_overdue(moment)
            earliest = min(earliest, next_deadline)
            for call in late:
                call.give_up(_timeout_of(call))
        return earliest

    def _end_waiting(self, moment: float) -> float:
        """End the calls that were not sent in time. Returns the next deadline of the others."""
        late, earliest = self._waiting.find_overdue(moment)
        for call in late:
            self._waiting.withdraw(call)
            call.fail(_expiry_of(call))
        return earliest


def _timeout_of(call: Call) -> CallTimeout:
    return CallTimeout(
        f"{call.type_name}/{call.id} did not answer {call.message_name} in time; it may have run"
    )


def _expiry_of(call: Call) -> Expired:
    error = call.last_error or (call.line and call.line.last_error)
    why = "" if error is None else f"; the last attempt: {error}"
    return Expired(
        f"{call.message_name} to {call.type_name}/{call.id}"
        f" found no server that could take it in time{why}"
    )
