"""The order of the calls to an object when one of them has to be sent again, or has to wait.

As long as calls to an object leave at once and are not refused, they leave over one connection and
arrive in their order, and the compiled caller sends them alone. When one comes back, or no server
is connected, the calls to its object stand in a line: a call leaves only when each call before it
is answered, or under way on the same connection. The line ends when nobody stands in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from rio._core.calls import Call, Caller
from rio.transport.client_connection import ClientConnection


class LinesOwner(Protocol):
    """What a line asks of its client."""

    caller: Caller

    def start(self, call: Call) -> None:
        """Find a server for a call that is the first of its line."""
        ...

    def submit(self, call: Call, connection: ClientConnection) -> None:
        """Write a call that may have waited."""
        ...


class Line:
    """The calls to one object, in the order in which they were made."""

    __slots__ = (
        "_calls",
        "_connection",
        "_home",
        "_is_advancing",
        "_key",
        "_lines",
        "_started",
        "last_error",
    )

    def __init__(self, lines: Lines, key: tuple[str, str]) -> None:
        self.last_error: BaseException | None = None
        """Why the last attempt of one of its calls came to nothing."""
        self._lines = lines
        self._key = key
        self._calls: OrderedDict[Call, ClientConnection | None] = OrderedDict()
        """Each with the connection on which it still is, from which it will be answered or come
        back; ``None``: it is on none, and waits.
        """
        self._connection: ClientConnection | None = None
        """Where the last call that has left went, unless one has come back from there."""
        self._home: ClientConnection | None = None
        """Behind which connection the object has answered last."""
        self._started: Call | None = None
        """The call for which a server is looked for."""
        self._is_advancing = False

    # --- calls come -------------------------------------------------------------------------------

    def join(self, call: Call) -> None:
        """A new call: it is the last."""
        call.enter(self)
        self._calls[call] = None

    def prepend(self, call: Call, connection: ClientConnection) -> None:
        """A call was sent before those that stand here: it is the first."""
        call.enter(self)
        self._calls[call] = connection
        self._calls.move_to_end(call, last=False)

    def take_back(self, call: Call, connection: ClientConnection) -> None:
        """A call has come back without having run; it keeps its place."""
        self._calls[call] = None
        if connection is self._connection:
            self._connection = None

    # --- calls wait -------------------------------------------------------------------------------

    def begins_with(self, call: Call) -> bool:
        """Whether a call may go to any server: no other has to run before it."""
        return self._connection is None and next(iter(self._calls)) is call

    def claim_start(self, call: Call) -> None:
        """A server is looked for on behalf of this call."""
        self._started = call

    def park(self, call: Call) -> None:
        """A call has to wait for those before it, or to follow them."""
        if call is self._started:
            self._started = None
        self.advance()

    # --- calls leave ------------------------------------------------------------------------------

    def advance(self) -> None:
        """Let the calls leave that may."""
        if self._is_advancing:
            return  # a call has left or ended meanwhile: the loop below sees it
        self._is_advancing = True
        try:
            while (call := self._next()) is not None:
                if self._connection is not None:
                    self.send(call, self._connection)
                else:
                    self._started = call
                    self._lines.owner.start(call)
        finally:
            self._is_advancing = False

    def _next(self) -> Call | None:
        """The call that may leave now."""
        if not self._calls or self._lines.owner.caller.loop is None:
            return None
        call = next(iter(self._calls))
        if self._calls[call] is not None:
            return None
        if self._connection is not None and not self._connection.usable:
            self._connection = None
        return None if self._connection is None and call is self._started else call

    def send(self, call: Call, connection: ClientConnection) -> None:
        """The first call leaves. On return it may be answered."""
        self._connection = connection
        self._remove(call)
        call.settle()
        self._lines.owner.submit(call, connection)

    # --- calls end --------------------------------------------------------------------------------

    def note_answer(self, call: Call, connection: ClientConnection) -> None:
        """The object has answered a call: it lives behind this connection."""
        self._home = connection
        self.leave(call)

    def leave(self, call: Call) -> None:
        """A call has ended."""
        self._remove(call)
        self.advance()

    def dismiss(self) -> list[Call]:
        """Take out all calls that wait."""
        calls = [call for call, connection in self._calls.items() if connection is None]
        for call in calls:
            self._remove(call)
            call.settle()
        return calls

    def _remove(self, call: Call) -> None:
        del self._calls[call]
        if call is self._started:
            self._started = None
        if not self._calls:
            self._lines.end(self._key)

    @property
    def place(self) -> ClientConnection | None:
        """The connection behind which the object lives, as far as is known."""
        return self._connection or self._home


class Lines:
    """The lines of a client, one for each object to which calls stand in it."""

    def __init__(self, owner: LinesOwner) -> None:
        self.owner = owner
        self._lines: dict[tuple[str, str], Line] = {}

    def find(self, type_name: str, id: str) -> Line | None:
        """The line in which a new call to an object has to stand."""
        return self._lines.get((type_name, id)) if self._lines else None

    def join(self, call: Call) -> Line:
        """The line of a new call."""
        line = self._of(call)
        line.join(call)
        return line

    def take_back(self, call: Call, connection: ClientConnection) -> Line:
        """The line of a call that has come back from a connection without having run."""
        if call.line is None:
            self.line_up(connection.find_companions(call), connection)
        line = self._lines[call.type_name, call.id]
        line.take_back(call, connection)
        return line

    def line_up(self, calls: Iterable[Call], connection: ClientConnection) -> None:
        """Have calls stand in lines that are under way, in the order of ``calls``."""
        for call in reversed(list(calls)):
            if call.line is None:
                self._of(call).prepend(call, connection)

    def end(self, key: tuple[str, str]) -> None:
        """The last call has left or ended: new ones follow it, and stand in no line."""
        place = self._lines.pop(key).place
        if place is not None:
            self.owner.caller.learn(*key, place)

    def __len__(self) -> int:
        return len(self._lines)

    def _of(self, call: Call) -> Line:
        key = (call.type_name, call.id)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(self, key)
        return line
