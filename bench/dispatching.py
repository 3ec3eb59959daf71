"""A dispatcher with objects and one connection, but without a socket.

The benchmarks feed reads to the connection. What it writes is thrown away.
"""

from __future__ import annotations

import asyncio
import math
import time
from types import ModuleType
from typing import Any

import msgpack

from tests.core import twin
from tests.core.node import Echo, Node, Note, frames, read_bytes, request

OBJECTS = 1000


def plain(_: Any, message: Note) -> Echo:
    return Echo(message.n)


async def quick(_: Any, message: Note) -> Echo:
    return Echo(message.n)


class Discard:
    """A transport that throws away what is written."""

    def write(self, data: bytes) -> None: ...


class Dispatching:
    """The compiled core or its twin, on the running loop, and the bytes of one read of requests."""

    def __init__(self, core: ModuleType, *, is_async: bool, requests: int) -> None:
        node = Node(core)
        node.add_method("bench", quick if is_async else plain, is_async=is_async)
        clock = (
            {"clock": time.monotonic} if core is twin else {}
        )  # the clock of the tests stands still, and is called from C
        node.dispatcher = core.Dispatcher(node, node.dispatcher.tables.values(), **clock)
        node.dispatcher.loop = asyncio.get_running_loop()
        node.dispatcher.set_lease(math.inf)
        node.dispatcher.loop_budget = math.inf
        self._connection = node.connect()
        self._connection.transport = Discard()
        self._dispatcher = node.dispatcher
        payload = msgpack.packb({"n": 1, "do": ""})
        fields = {"message": "bench", "timeout": 30_000, "payload": payload}
        self._read = frames(
            *(request(id, 1, object=str(id % OBJECTS), **fields) for id in range(1, requests + 1))
        )
        self.read()  # activates the objects
        assert self._dispatcher.failures == 0

    def read(self) -> None:
        """Feed one read that holds all requests. All are answered when this returns."""
        read_bytes(self._connection, self._read)
