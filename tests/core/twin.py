"""The compiled core again, in plain Python over the ``msgpack`` package.

Tests and benchmarks compare the core with it. Everything here is written for reading. The names are
those of :mod:`rio._core.frame` and :mod:`rio._core.dispatch`, so that one test can run on either.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

import msgpack

from rio.errors import (
    BadIdentity,
    CallFailed,
    CallTimeout,
    Expired,
    FrameTooLarge,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    ReplyTooLarge,
    Unavailable,
    UnknownMessage,
    UnknownType,
)

REQUEST, CANCEL = 1, 4
DEFAULT_TIMEOUT = 30.0
MAX_NAME = 128
MAX_ID = 512
ROOM_FOR_HEAD = 32


# --- frames ---------------------------------------------------------------------------------------


class FrameReader:
    def __init__(self, limit: int = 4 * 1024 * 1024) -> None:
        self.limit = limit
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > self.limit:
                raise FrameTooLarge(
                    f"a frame of {size} bytes was announced, the limit is {self.limit}"
                )
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield body


class FrameWriter:
    def __init__(self) -> None:
        self._frames: list[bytes] = []

    def __len__(self) -> int:
        return sum(map(len, self._frames))

    def put(self, body: bytes) -> None:
        self._frames.append(len(body).to_bytes(4, "big") + body)

    def put_response(self, id: int, payload: bytes) -> None:
        self.put(b"\x93\x02" + msgpack.packb(id) + payload)

    def take(self) -> bytes:
        frames, self._frames = self._frames, []
        return b"".join(frames)


class Fields:
    """The fields of one frame, read one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._unpacker = msgpack.Unpacker(raw=False, max_buffer_size=max(1, len(body)))
        self._unpacker.feed(body)
        self.count = self._read(self._unpacker.read_array_header)

    def uint(self) -> int:
        value = self._read(self._unpacker.unpack)
        if type(value) is not int or value < 0:
            raise ProtocolError("no unsigned number")
        return value

    def text(self) -> str:
        value = self._read(self._unpacker.unpack)
        if not isinstance(value, str):
            raise ProtocolError("no string")
        return value

    def binary_or_nil(self) -> bytes | None:
        value = self._read(self._unpacker.unpack)
        if value is not None and not isinstance(value, bytes):
            raise ProtocolError("neither binary nor nil")
        return value

    def rest(self) -> bytes:
        return self._body[self._unpacker.tell() :]

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # a list of what msgpack raises would be long
            raise ProtocolError("no MessagePack") from error


# --- the dispatch table ---------------------------------------------------------------------------


class Method:
    def __init__(
        self,
        handler: Any,
        name: str,
        *,
        function: Callable[..., Any],
        decode: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
        reply_class: type | None,
        is_async: bool,
        takes_app_data: bool,
        timeout: float | None,
    ) -> None:
        self.handler = handler
        self.name = name
        self.function = function
        self.decode = decode
        self.encode = encode
        self.reply_class = reply_class
        self.is_async = is_async
        self.takes_app_data = takes_app_data
        self.timeout = timeout or math.inf


class TypeTable:
    def __init__(self, type_name: str, methods: Iterable[Method]) -> None:
        self.type_name = type_name
        self.methods = {method.name: method for method in methods}
        self.mailboxes: dict[str, Mailbox] = {}


class Mailbox:
    def __init__(self, table: TypeTable, id: str) -> None:
        self.table = table
        self.id = id
        self.instance: Any = None
        self.turn: Any = None
        self.queue: deque[Turn] = deque()
        self.open = False
        self.closing = False
        table.mailboxes[id] = self

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def begin(self, dispatcher: Dispatcher, first: Turn | None = None) -> None:
        self.open = False
        self.turn = LIFECYCLE
        if first is not None:
            first.wait_for(self)

    def start(self, dispatcher: Dispatcher) -> None:
        self.turn = None
        self.open = True
        dispatcher.pump(self)

    def remove(self) -> list[Turn]:
        if self.turn is LIFECYCLE:
            self.turn = None
        self.open = False
        if self.table.mailboxes.get(self.id) is self:
            del self.table.mailboxes[self.id]
        waiting, self.queue = self.queue, deque()
        return [turn for turn in waiting if not turn.abandoned]


LIFECYCLE = object()
"""Takes the place of a turn while the hooks of a mailbox run."""


# --- one request ----------------------------------------------------------------------------------


class Turn:
    def __init__(self, connection: ServerHalf, request_id: int) -> None:
        self.connection = connection
        self.request_id = request_id
        self.mailbox: Mailbox | None = None
        self.table: Any = None
        self.method: Any = None
        self.id = ""
        self.context: bytes | None = None
        self.payload = b""
        self.deadline = math.inf
        self.finished = False
        self.abandoned = False
        self.expired = False
        self.steps: Steps | None = None

    @property
    def running(self) -> bool:
        return not self.finished and self.mailbox is not None and self.mailbox.turn is self

    def wait_for(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        mailbox.queue.append(self)
        self.connection.turns[self.request_id] = self

    def refuse(self, error: BaseException) -> None:
        assert self.mailbox is not None
        self.mailbox.queue.remove(self)
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        self.end()
        if self.abandoned:
            return
        dispatcher = self.connection.dispatcher
        dispatcher.failures += 1
        if isinstance(error, CallFailed) and not dispatcher.admits:
            dispatcher.fenced += 1
            error = OutcomeUnknown("the lease was lost")
        self.connection.answer_error(self.request_id, error)

    def cancel(self) -> None:
        if self.steps is not None:
            self.steps.cancel()
        elif not self.running:
            self.end()
            self.abandoned = True
            if self.mailbox is not None and self in self.mailbox.queue:
                self.mailbox.queue.remove(self)

    def withdraw(self) -> None:
        """The caller gives up, and is told whether the turn has begun."""
        if not self.abandoned:
            error = CallTimeout("it has begun") if self.running else Expired("it has not begun")
            self.connection.answer_error(self.request_id, error)
        self.give_up()

    def give_up(self) -> None:
        self.abandoned = True
        if not self.expired:
            self.cancel()

    def end(self) -> None:
        self.finished = True
        if self.connection.turns.get(self.request_id) is self:
            del self.connection.turns[self.request_id]

    def handled(self, value: Any, error: BaseException | None) -> None:
        """End the turn: answer, and give the object to the next message."""
        assert self.mailbox is not None
        dispatcher = self.connection.dispatcher
        waited, self.steps = self.steps is not None, None
        try:
            if error is None:
                dispatcher.answer(self, value)
            elif isinstance(error, asyncio.CancelledError):
                self._was_cancelled()
            else:
                dispatcher.runtime.answer_failure(self, error)
        finally:
            self.end()
            self.mailbox.turn = None
        if waited:
            dispatcher.pump(self.mailbox)
        elif self.mailbox.closing:
            dispatcher.runtime.deactivate(self.mailbox)

    def _was_cancelled(self) -> None:
        dispatcher = self.connection.dispatcher
        if self.abandoned:
            return
        if self.expired:
            self.fail(CallTimeout("cancelled at the deadline"))
        elif not dispatcher.admits:
            self.fail(OutcomeUnknown("the lease was lost"))
        else:
            dispatcher.runtime.answer_failure(self, asyncio.CancelledError())


class Steps:
    """A coroutine that runs up to its first wait at once.

    It goes on when what it waits for is done.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._waits_for: Any = None

    def ended(self) -> tuple[Any, BaseException | None] | None:
        """Make one step. Returns the result or the error, if it was the last."""
        try:
            self._waits_for = self._coroutine.send(None)
        except StopIteration as stop:
            return stop.value, None
        except BaseException as error:
            return None, error
        self._waits_for._asyncio_future_blocking = False
        return None

    def then(self, handled: Callable[[Any, BaseException | None], None]) -> None:
        def go_on(_: object) -> None:
            outcome = self.ended()
            if outcome is None:
                self.then(handled)
            else:
                handled(*outcome)

        self._waits_for.add_done_callback(go_on)

    def cancel(self) -> None:
        self._waits_for.cancel()


# --- one connection, one node ---------------------------------------------------------------------


class ServerHalf:
    def __init__(self, dispatcher: Dispatcher, frame_limit: int = 4 * 1024 * 1024) -> None:
        self.dispatcher = dispatcher
        self.reader = FrameReader(frame_limit)
        self.writer = FrameWriter()
        self.transport: Any = None
        self.turns: dict[int, Turn] = {}
        self.accepted = False
        self._flush_is_due = False

    @property
    def in_flight(self) -> list[Turn]:
        return list(self.turns.values())

    def received(self, data: bytes) -> None:
        """Do what the compiled one does in ``get_buffer`` and ``buffer_updated``."""
        try:
            for body in self.reader.feed(data):
                self._frame(body)
        except (ProtocolError, FrameTooLarge) as error:
            self.break_off(error)
        self.flush()

    def flush(self) -> None:
        self._flush_is_due = False
        if len(self.writer) and self.transport is not None:
            self.transport.write(self.writer.take())

    def put(self, body: bytes) -> None:
        self.writer.put(body)
        self.written()

    def written(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self.dispatcher.loop.call_soon(self.flush)

    def abandon(self) -> None:
        for turn in self.in_flight:
            turn.give_up()

    def frame_received(self, kind: int, id: int, body: bytes) -> None:
        raise NotImplementedError

    def answer_error(self, id: int, error: BaseException) -> None:
        raise NotImplementedError

    def break_off(self, error: Exception) -> None:
        raise NotImplementedError

    def _frame(self, body: bytes) -> None:
        fields = Fields(body)
        if fields.count < 2:
            raise ProtocolError("neither kind nor id")
        kind, id = fields.uint(), fields.uint()
        if kind == REQUEST and self.accepted:
            if fields.count != 8:
                raise ProtocolError("a request has 8 fields")
            self._request(id, fields)
        elif kind == CANCEL and self.accepted:
            turn = self.turns.get(id)
            if turn is not None:
                turn.withdraw()
        else:
            self.frame_received(kind, id, body)

    def _request(self, request_id: int, fields: Fields) -> None:
        type_name, id, message_name = fields.text(), fields.text(), fields.text()
        timeout, context, payload = fields.uint(), fields.binary_or_nil(), fields.rest()
        if request_id in self.turns:
            raise ProtocolError("the request id is in use")
        dispatcher = self.dispatcher
        dispatcher.calls += 1
        turn = Turn(self, request_id)
        try:
            check_size(type_name, MAX_NAME)
            check_size(id, MAX_ID)
            check_size(message_name, MAX_NAME)
            turn.table = dispatcher.tables.get(type_name)
            if turn.table is None:
                raise UnknownType(dispatcher.runtime.unknown_type(type_name))
            turn.method = turn.table.methods.get(message_name)
            if turn.method is None:
                turn.method = dispatcher.runtime.find_method(turn.table, message_name)
            if turn.method is None:
                raise UnknownMessage(dispatcher.runtime.unknown_message(turn.table, message_name))
        except (BadIdentity, UnknownType, UnknownMessage, Unavailable) as error:
            return turn.fail(error)
        turn.id, turn.context, turn.payload = id, context, payload
        turn.deadline = dispatcher.now() + (timeout / 1000 if timeout else DEFAULT_TIMEOUT)
        dispatcher.admit(turn)
        return None


def check_size(name: str, limit: int) -> None:
    if not 1 <= len(name.encode()) <= limit:
        raise BadIdentity("a name is empty or too long")


class Dispatcher:
    def __init__(
        self,
        runtime: Any,
        tables: Iterable[TypeTable],
        *,
        clock: Callable[[], float],
        waiting_limit: int = 1024,
        in_flight_limit: int = 8192,
    ) -> None:
        self.runtime = runtime
        self.tables = {table.type_name: table for table in tables}
        self.loop: Any = None
        self.app_data: Any = None
        self.lease_until = 0.0
        self.waiting_limit = waiting_limit
        self.in_flight_limit = in_flight_limit
        self.connections: dict[ServerHalf, None] = {}
        self.now = clock
        self.calls = self.failures = self.fenced = 0

    @property
    def admits(self) -> bool:
        return self.now() < self.lease_until

    @property
    def in_flight(self) -> int:
        return sum(len(connection.turns) for connection in self.connections)

    @property
    def live(self) -> int:
        return len(self.mailboxes())

    def mailboxes(self) -> list[Mailbox]:
        return [mailbox for table in self.tables.values() for mailbox in table.mailboxes.values()]

    def set_lease(self, until: float) -> None:
        self.lease_until = until
        for mailbox in self.mailboxes() if self.admits else ():
            self.pump(mailbox)

    def sweep(self) -> None:
        for turn in [turn for connection in self.connections for turn in connection.in_flight]:
            if turn.deadline < self.now() and not turn.expired and not turn.abandoned:
                turn.expired = True
                if turn.running:
                    turn.cancel()
                else:
                    self._expire(turn)

    def cancel_running(self) -> list[Turn]:
        running = [mailbox.turn for mailbox in self.mailboxes() if isinstance(mailbox.turn, Turn)]
        for turn in running:
            turn.cancel()
        return running

    def admit(self, turn: Turn) -> None:
        mailbox = turn.table.mailboxes.get(turn.id)
        is_free = (
            mailbox is not None
            and mailbox.turn is None
            and mailbox.open
            and not mailbox.queue
            and not mailbox.closing
        )
        if self.in_flight >= self.in_flight_limit:
            turn.fail(Overloaded("too many calls on this node"))
        elif mailbox is None:
            self.runtime.activate(turn)
        elif is_free and self.admits:
            turn.mailbox = mailbox
            self._start(turn)
        elif len(mailbox.queue) >= self.waiting_limit:
            turn.fail(Overloaded("too many calls wait for this object"))
        else:
            self.fenced += is_free
            turn.wait_for(mailbox)
            if turn.context is not None and mailbox.turn is not None:
                self.runtime.note_waiting(turn)

    def pump(self, mailbox: Mailbox) -> None:
        while mailbox.turn is None and mailbox.open and not mailbox.closing and mailbox.queue:
            if not self.admits:
                self.fenced += 1
                return
            self._start(mailbox.queue.popleft())
        if mailbox.closing and mailbox.turn is None and mailbox.open:
            self.runtime.deactivate(mailbox)

    def _start(self, turn: Turn) -> None:
        method, mailbox = turn.method, turn.mailbox
        assert mailbox is not None
        if self.now() > turn.deadline:
            return self._expire(turn)
        turn.deadline = min(turn.deadline, self.now() + method.timeout)
        try:
            message = method.decode(turn.payload)
        except Exception as error:
            return turn.fail(self.runtime.undecodable(turn, error))
        mailbox.turn = turn
        try:
            result = method.function(
                mailbox.instance, message, *([self.app_data] if method.takes_app_data else [])
            )
        except BaseException as error:
            return turn.handled(None, error)
        if not method.is_async:
            return turn.handled(result, None)
        steps = Steps(result)
        outcome = steps.ended()
        if outcome is not None:
            return turn.handled(*outcome)
        turn.steps = steps
        turn.connection.turns[turn.request_id] = turn
        steps.then(turn.handled)
        return None

    def answer(self, turn: Turn, value: Any) -> None:
        if turn.abandoned:
            return
        if not self.admits:
            self.fenced += 1
            return turn.fail(OutcomeUnknown("the lease was lost"))
        try:
            encode = (
                turn.method.encode
                if type(value) is turn.method.reply_class
                else lambda value: self.runtime.encode_reply(turn, value)
            )
            payload = encode(value)
        except Exception as error:
            return turn.fail(self.runtime.unencodable(value, error))
        if len(payload) + ROOM_FOR_HEAD > turn.connection.reader.limit:
            return turn.fail(ReplyTooLarge("the reply is too large"))
        turn.end()
        turn.connection.writer.put_response(turn.request_id, payload)
        turn.connection.written()
        return None

    def _expire(self, turn: Turn) -> None:
        if turn.mailbox is not None and turn in turn.mailbox.queue:
            turn.mailbox.queue.remove(turn)
        turn.fail(Expired("it waited until its deadline"))
