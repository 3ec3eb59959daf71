"""What a server sends to a client. An execution is a frame.

Each call ends: by its answer, or when the connection does.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from fuzz.mutator import Mutator
from rio._core.calls import Call, Caller, MessageCodec
from rio._core.frame import ReceiveBuffer
from rio.errors import RioError, from_code
from rio.transport import protocol
from rio.transport.client_connection import ClientConnection
from rio.transport.protocol import VERSION, Hello
from tests.core.every_method import Owner, Sink

CALLS = 6
"""Under way on each connection."""
FRAMES = 64
encode = msgspec.msgpack.encode
CORPUS = [
    *(encode([2, id, {"n": id}]) for id in range(1, CALLS + 1)),
    *(encode([3, 1 + number % CALLS, *error]) for number, error in enumerate([
        ("handler_failed", "no", ["ValueError", "Traceback"]), ("overloaded", "busy", [1.5]),
        ("not_here", "moved", ["10.0.0.7:7000", 3]), ("redirect", "moved", ["10.0.0.7:7000", 3]),
        ("application_error", "no", ["Kind", b"\x80"]), ("expired", "late", None),
        ("call_timeout", "late", None), ("unknown_type", "what", None),
        ("protocol_version_mismatch", "no", [1]), ("outcome_unknown", "who knows", None),
    ])),
    encode([3, 0, "overloaded", "all", None]),
    encode([5, 3, "expired", "ended", None]),
    encode([6, 3, 1, "Event", {"n": 1}]),
    *(encode([kind, id]) for kind in (7, 8) for id in (0, 7)),
    encode([9, 0, "draining", 3]),
    encode([9, 0, "draining", None]),
    encode([9, 7]),
    protocol.write_hello(Hello(VERSION, "node", 3, "10.0.0.7:7000")),
]  # fmt: skip


class Client(Owner):
    """The owner of the connection and of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self, self)
        self.caller.loop = asyncio.get_running_loop()

    def codec_of(self, message: Any) -> MessageCodec:
        return MessageCodec("plain", encode, msgspec.msgpack.Decoder(dict[str, int]).decode)

    def route(self, call: Call) -> None:
        self.line.submit(call)

    def refused(self, call: Call, error: tuple[str, str, Any], _: ClientConnection) -> None:
        call.fail(from_code(*error))

    def lost(self, _: ClientConnection, calls: list[Call], error: RioError) -> None:
        for call in calls:
            call.fail(error)

    def event(self, _: ClientConnection, number: int, body: bytes) -> None:
        protocol.read_event(body)

    def stream_ended(self, number: int) -> None: ...

    line: Line


class Line(ClientConnection):
    broken: Exception | None = None

    def break_off(self, error: Exception) -> None:
        self.broken = error
        super().break_off(error)


class Pipe(Sink):
    def get_extra_info(self, name: str) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Target:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def make(self, mutator: Mutator) -> bytes:
        return mutator.stream(FRAMES)

    def run(self, conversation: bytes) -> int:
        return self._loop.run_until_complete(self._handle(conversation))

    async def _handle(self, conversation: bytes) -> int:
        owner, handled, at = Client(), 0, 0
        calls = connect(owner)
        while at < len(conversation):
            size = 4 + int.from_bytes(conversation[at : at + 4], "big")
            owner.line.receive(conversation[at : at + size])
            at += size
            handled += 1
            left = sum(not call.done() for call in calls)
            assert left == owner.line.waiting, f"{left} calls wait, {owner.line.waiting} are known"
            if owner.line.transport is None or not left:
                check_end(owner.line, calls)
                await asyncio.sleep(0)
                calls = connect(owner)
        check_end(owner.line, calls)
        await asyncio.sleep(0)
        return handled

    def close(self) -> None:
        self._loop.close()


def connect(owner: Client) -> list[Any]:
    loop = asyncio.get_running_loop()
    line = Line(loop, owner, Hello(VERSION, "client"), 65_536, ReceiveBuffer())  # type: ignore[arg-type]
    line.connection_made(Pipe())
    body = CORPUS[-1]
    line.receive(len(body).to_bytes(4, "big") + body)
    assert line.usable
    owner.line = line
    owner.caller.forget("Thing", "a")
    return [owner.caller.send("Thing", "a", {"n": 1}) for _ in range(CALLS)]


def check_end(line: Line, calls: list[Any]) -> None:
    line.connection_lost(None)
    assert line.broken is None or isinstance(line.broken, RioError), f"{line.broken!r} breaks it"
    assert all(call.done() for call in calls), "a call does not end"
    for call in calls:
        call.exception()
