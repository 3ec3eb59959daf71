"""The deadlines of a client's calls: one timer ends whatever has passed its own."""

from __future__ import annotations

import asyncio
import math

from rio._core.calls import Call, Caller
from rio.client.pool import Pool
from rio.client.waiting_calls import WaitingCalls
from rio.errors import CallTimeout, Expired, NoServersAvailable
from rio.transport.client_connection import ClientConnection

SHORTEST_WAIT = 0.1
"""Seconds to wait, after its deadline, for the server's word whether a call has begun; four round
trips if that is more, up to ``LONGEST_WAIT``.
"""
LONGEST_WAIT = 1.0


class Deadlines:
    """Ends calls at their deadlines, those on a connection and those that wait for one.

    Only the server knows whether a call has begun that it was sent. It is asked, and has a moment
    to answer, so that a caller may repeat a call that waited for its turn.
    """

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
                earliest = min(earliest, self._end_or_ask(call, connection, moment))
        return earliest

    def _end_or_ask(self, call: Call, connection: ClientConnection, moment: float) -> float:
        """End a call, or ask the server first whether it has begun. Returns until when to wait for
        that answer: ``inf`` if there is none to wait for.
        """
        if call.is_unwritten:
            call.give_up(_expiry_of_unwritten(call))
            return math.inf
        if call.overdue or not connection.answers_cancel:
            connection.doubt()
            call.give_up(_timeout_of(call))
            return math.inf
        patience = max(SHORTEST_WAIT, min(4 * connection.round_trip, LONGEST_WAIT))
        until = moment + patience
        connection.cancel_overdue(call, until)
        return until

    def _end_waiting(self, moment: float) -> float:
        """End the calls that were not sent in time. Returns the next deadline of the others."""
        late, earliest = self._waiting.find_overdue(moment)
        for call in late:
            self._waiting.withdraw(call)
            call.fail(expiry_of(call))
        return earliest


def expiry_of(call: Call) -> Expired | NoServersAvailable:
    """The error of a call that did not begin, with what is known of the reason."""
    error = call.last_error or (call.line and call.line.last_error)
    if isinstance(error, NoServersAvailable):
        return NoServersAvailable(
            f"{call.message_name} to {call.type_name}/{call.id} found no server in time: {error}"
        )
    why = "" if error is None else f"; the last attempt: {error}"
    return Expired(
        f"{call.message_name} to {call.type_name}/{call.id}"
        f" found no server that could take it in time{why}"
    )


def _expiry_of_unwritten(call: Call) -> Expired:
    return Expired(
        f"{call.message_name} to {call.type_name}/{call.id} waited until its deadline behind other"
        " calls to the same server, and was not sent"
    )


def _timeout_of(call: Call) -> CallTimeout:
    return CallTimeout(
        f"{call.type_name}/{call.id} did not answer {call.message_name} in time; it may have run"
    )
