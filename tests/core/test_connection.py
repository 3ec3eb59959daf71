"""What both halves of a connection share."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from rio._core.calls import ClientHalf
from rio._core.wire import Kind


class Line(ClientHalf):
    """Notes the frames that it is left with, and on the first one receives ``more``."""

    def __init__(self, more: bytes) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.transport: Any = self
        self.more = more
        self.ids: list[int] = []

    def frame_received(self, kind: int, id: int, body: bytes) -> None:
        self.ids.append(id)
        if len(self.ids) == 1:
            self.receive(self.more)

    def break_off(self, error: Exception) -> None:
        raise error


def pongs(ids: range) -> bytes:
    bodies = [msgspec.msgpack.encode([int(Kind.PONG), id]) for id in ids]
    return b"".join(struct.pack(">I", len(body)) + body for body in bodies)


def test_what_is_received_while_a_large_batch_is_handled_comes_after_it() -> None:
    line = Line(pongs(range(30_000, 30_003)))
    batch = pongs(range(30_000))
    assert len(batch) > 200_000
    line.receive(batch)
    assert line.ids == list(range(30_003))
