"""The dispatcher of a node, through a connection that is accepted. An execution is a frame.

Each request is answered, once, and at the end nothing is left of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack

from fuzz.mutator import Mutator
from rio._core import dispatch
from rio.errors import RioError
from tests.core.node import Node, cancel, request, settle

FRAMES = 64
CORPUS = [
    *(request(id, 1, do, message=message) for id, do, message in [
        (1, "", "plain"), (2, "odd", "plain"), (3, "raise", "plain"), (4, "", "quick"),
        (5, "close", "quick"), (6, "big", "plain"), (7, "", "wait"), (8, "stay", "wait"),
    ]),
    request(9, 1, object="b", timeout=20, context=b"\x81\xa5chain\x90"),
    request(10, 1, object="b", context=b"\x81\xa5trace\xc2", message="wait"),
    request(11, 1, object="b", context=b"cycle", message="wait"),
    *map(cancel, (1, 7, 8, 9)),
    *(msgpack.packb([kind, 0]) for kind in (5, 7, 9)),
]  # fmt: skip


class Target:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def make(self, mutator: Mutator) -> bytes:
        return mutator.stream(FRAMES)

    def run(self, conversation: bytes) -> int:
        return self._loop.run_until_complete(self._handle(conversation))

    async def _handle(self, conversation: bytes) -> int:
        node = Node(dispatch)
        connection, handled, at = node.connect(), 0, 0
        asked = 0  # requests before those of this connection
        while at < len(conversation):
            size = 4 + int.from_bytes(conversation[at : at + 4], "big")
            connection.receive(conversation[at : at + size])
            at += size
            handled += 1
            if node.broken:
                error = node.broken.pop()
                assert isinstance(error, RioError), f"{error!r} breaks the connection"
                node.disconnect(connection)
                await settle()
                connection, asked = node.connect(), node.dispatcher.calls
        await settle()
        node.time += 1000
        node.dispatcher.set_lease(node.time + 1000)
        node.dispatcher.sweep()
        await settle()
        answers = [frame[1] for frame in connection.transport.frames]
        assert len(answers) == node.dispatcher.calls - asked, "a request has not one answer"
        node.disconnect(connection)
        await settle()
        check_empty(node)
        return handled

    def close(self) -> None:
        self._loop.close()


def check_empty(node: Any) -> None:
    dispatcher = node.dispatcher
    assert dispatcher.in_flight == 0, f"{dispatcher.in_flight} calls are left"
    assert dispatcher.budget.used == 0, f"{dispatcher.budget.used} bytes are left"
    assert not dispatcher.connections
