"""A node for the tests of the dispatcher, on the compiled core or on its twin.

It has connections whose bytes a test can look at, a small runtime, and objects that wait for the
test's word.
"""

from __future__ import annotations

import asyncio
import contextvars
from types import ModuleType, SimpleNamespace
from typing import Any

import msgpack
import msgspec

from rio._core import dispatch
from rio.errors import BadMessage, BadReply, HandlerFailed, RioError, Unavailable
from tests.core import twin

FRAME_LIMIT = 64 * 1024


class Note(msgspec.Struct):
    """The message of all tests.

    ``n`` is the number by which the log tells it from others. The rest says what the handler does.
    """

    n: int
    do: str = ""


class Echo(msgspec.Struct):
    n: int


class Wire:
    """The transport of a connection. It keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.frames: list[list[Any]] = []
        self._reader = twin.FrameReader(2**32)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.frames += [msgpack.unpackb(body) for body in self._reader.feed(data)]

    def answers(self) -> dict[int, Any]:
        """Request id to reply, or to the code of the error."""
        return {
            frame[1]: frame[2]["n"] if isinstance(frame[2], dict) else frame[2]
            for frame in self.frames
        }


def request(
    id: int,
    n: int,
    do: str = "",
    *,
    object: str = "a",
    message: str = "plain",
    timeout: int = 0,
    **fields: Any,
) -> bytes:
    """The body of a request."""
    payload = fields.get("payload", msgpack.packb({"n": n, "do": do}))
    head = [
        1,
        id,
        fields.get("type_name", "Thing"),
        object,
        message,
        timeout,
        fields.get("context"),
    ]
    return b"\x98" + b"".join(map(msgpack.packb, head)) + bytes(payload)


def cancel(id: int) -> bytes:
    return bytes(msgpack.packb([4, id]))


def frames(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


class Node:
    """One dispatcher and its runtime. ``core`` is :mod:`rio._core.dispatch` or its twin."""

    def __init__(self, core: ModuleType, *, slow: bool = False, **limits: int) -> None:
        self.core = core
        self.slow = slow
        """Activations wait for :meth:`activated` instead of ending at once."""
        self.time = 100.0
        self.log: list[tuple[str, str, int]] = []
        """(object, what, message number)"""
        self.gates: dict[int, asyncio.Future[None]] = {}
        """Message number to what its handler waits for."""
        self.opening: list[Any] = []
        self.failed: list[BaseException] = []
        self.broken: list[BaseException] = []
        self.control: list[tuple[int, int]] = []
        handlers = [("plain", plain, False), ("wait", wait, True), ("quick", quick, True)]
        table = core.TypeTable("Thing", [self._method(*handler) for handler in handlers])
        self.dispatcher = core.Dispatcher(self, [table], clock=lambda: self.time, **limits)
        self.dispatcher.loop = asyncio.get_running_loop()
        self.dispatcher.set_lease(1000.0)
        self._connection = type("TestConnection", (Reports, core.ServerHalf), {})

    def _method(
        self,
        name: str,
        function: Any,
        is_async: bool,
        timeout: float | None = None,
        takes_app_data: bool = False,
    ) -> Any:
        return self.core.Method(
            SimpleNamespace(),
            name,
            function=function,
            decode=msgspec.msgpack.Decoder(Note).decode,
            encode=msgspec.msgpack.Encoder().encode,
            reply_class=Echo,
            is_async=is_async,
            takes_app_data=takes_app_data,
            timeout=timeout,
        )

    def add_method(
        self,
        name: str,
        function: Any,
        *,
        is_async: bool,
        timeout: float | None = None,
        takes_app_data: bool = False,
    ) -> None:
        """Set the limits of the dispatcher, before the first connection."""
        table = self.dispatcher.tables["Thing"]
        methods = [
            *table.methods.values(),
            self._method(name, function, is_async, timeout, takes_app_data),
        ]
        self.dispatcher.tables["Thing"] = self.core.TypeTable("Thing", methods)
        self.dispatcher.loop = asyncio.get_running_loop()

    def connect(self, frame_limit: int = FRAME_LIMIT) -> Any:
        connection = self._connection(self.dispatcher, frame_limit)
        connection.node = self
        connection.transport = Wire()
        connection.accepted = True
        self.dispatcher.connections[connection] = None
        return connection

    def disconnect(self, connection: Any) -> None:
        connection.transport = None
        self.dispatcher.connections.pop(connection, None)
        connection.abandon()

    def activated(self, *, fail: bool = False) -> None:
        """End the oldest activation that is under way."""
        mailbox = self.opening.pop(0)
        if fail:
            for turn in mailbox.remove():
                turn.fail(Unavailable("it could not be activated"))
        else:
            mailbox.instance = Thing(self, mailbox)
            mailbox.start(self.dispatcher)

    def open_gate(self, n: int) -> None:
        self.gates.pop(n).set_result(None)

    def numbers(self, object: str, what: str) -> list[int]:
        """The messages of an object of which the log says ``what``."""
        return [n for where, noted, n in self.log if (where, noted) == (object, what)]

    # --- what the dispatcher asks of a runtime ----------------------------------------------------

    def activate(self, turn: Any) -> None:
        mailbox = self.core.Mailbox(turn.table, turn.id)
        contextvars.copy_context().run(mailbox.begin, self.dispatcher, turn)
        self.opening.append(mailbox)
        if not self.slow:
            self.activated()

    def deactivate(self, mailbox: Any) -> None:
        self.log.append((mailbox.id, "removed", 0))
        for turn in mailbox.remove():
            standing = turn.table.mailboxes.get(turn.id)
            if standing is None:
                self.activate(turn)
            else:
                turn.wait_for(standing)

    def answer_failure(self, turn: Any, error: BaseException) -> None:
        self.failed.append(error)
        turn.mailbox.closing = True
        turn.fail(error if isinstance(error, RioError) else HandlerFailed(type(error).__name__))

    def read_values(self, context: bytes) -> None: ...

    def note_waiting(self, turn: Any) -> None:
        if turn.context == b"cycle":
            turn.refuse(Unavailable("it would wait for itself"))

    def undecodable(self, turn: Any, error: Exception) -> RioError:
        return BadMessage(str(error))

    def encode_reply(self, turn: Any, value: Any) -> bytes:
        if isinstance(value, bytes):
            return msgspec.msgpack.encode(value)
        raise BadReply(f"{value!r} is no reply")

    def unencodable(self, value: Any, error: Exception) -> RioError:
        return error if isinstance(error, RioError) else BadReply(str(error))

    def unknown_type(self, type_name: str) -> str:
        return f"no type {type_name!r}"

    def find_method(self, table: Any, message_name: str) -> None: ...

    def unknown_message(self, table: Any, message_name: str) -> str:
        return f"no message {message_name!r}"


class Reports:
    """The half of a connection, with the part that it leaves to its subclass."""

    node: Node
    unsent = 0

    def frame_received(self, kind: int, id: int, body: bytes) -> None:
        self.node.control.append((kind, id))

    def answer_error(self, id: int, error: RioError) -> None:
        self.put(msgpack.packb([3, id, error.code]))  # type: ignore[attr-defined]  # of the connection

    def break_off(self, error: BaseException) -> None:
        self.node.broken.append(error)

    def watch(self) -> None: ...

    def cut_off(self, reason: str) -> None:
        self.node.broken.append(RuntimeError(reason))


def read(connection: Any, *bodies: bytes) -> None:
    """Deliver these frames whole in one read."""
    read_bytes(connection, frames(*bodies))


def read_bytes(connection: Any, data: bytes) -> None:
    if isinstance(connection, dispatch.ServerHalf):
        while data:
            room = memoryview(connection.get_buffer(-1))
            taken = min(len(room), len(data))
            room[:taken] = data[:taken]
            room.release()
            connection.buffer_updated(taken)
            data = data[taken:]
    else:
        connection.received(data)


async def settle() -> None:
    """Let everything happen that needs no more news from outside."""
    for _ in range(8):
        await asyncio.sleep(0)


# --- the objects ----------------------------------------------------------------------------------


class Thing:
    def __init__(self, node: Node, mailbox: Any) -> None:
        self.node = node
        self.mailbox = mailbox
        self.busy = False

    def note(self, what: str, message: Note) -> None:
        self.node.log.append((self.mailbox.id, what, message.n))

    def begin(self, message: Note) -> None:
        self.note("begin", message)
        assert not self.busy, "two turns at once"
        self.busy = True

    def end(self, message: Note) -> Any:
        self.busy = False
        self.note("end", message)
        if message.do == "raise":
            raise ValueError("as told")
        if message.do == "exit":
            raise SystemExit(3)
        if message.do == "close":
            self.mailbox.closing = True
        if message.do == "odd":
            return {"no": "echo"}
        if message.do == "big":
            return b"x" * FRAME_LIMIT
        return Echo(message.n)


def plain(thing: Thing, message: Note) -> Any:
    thing.begin(message)
    return thing.end(message)


async def quick(thing: Thing, message: Note) -> Any:
    thing.begin(message)
    return thing.end(message)


async def wait(thing: Thing, message: Note) -> Any:
    thing.begin(message)
    gate = thing.node.gates[message.n] = asyncio.get_running_loop().create_future()
    try:
        await gate
    except asyncio.CancelledError:
        thing.busy = False
        thing.note("cancelled", message)
        thing.node.gates.pop(message.n, None)
        if message.do == "stay":
            return Echo(message.n)
        raise
    return thing.end(message)
