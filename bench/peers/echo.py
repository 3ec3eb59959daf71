"""Frames as long as rio's ping, sent back as they are: no objects, no types, no futures.

This is the most that I/O in Python can do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bench.peers.worker import Laps

TITLE = "raw frames, echoed"
YARDSTICK = True

FRAME = (45).to_bytes(4, "big") + bytes(45)
"""The length of a request of rio's ping."""


def whole_frames(data: bytes) -> tuple[int, int]:
    """The number of whole frames at the beginning of the data, and the bytes that they take."""
    count = end = 0
    while (begin := end + 4) <= len(data) and (
        after := begin + int.from_bytes(data[end:begin], "big")
    ) <= len(data):
        count += 1
        end = after
    return count, end


class Frames(asyncio.Protocol):
    """Cuts what arrives into frames, at both ends."""

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        count, end = whole_frames(data)
        self._rest = data[end:]
        self.frames_received(count, data[:end])

    def frames_received(self, count: int, data: bytes) -> None:
        self.transport.write(data)


class Client(Frames):
    def __init__(self) -> None:
        super().__init__()
        self.missing = 0

    def ask(self, in_flight: int) -> asyncio.Future[None]:
        self.answered = asyncio.get_running_loop().create_future()
        self.missing = in_flight
        self.transport.write(FRAME * in_flight)
        return self.answered

    def frames_received(self, count: int, data: bytes) -> None:
        self.missing -= count
        if self.missing == 0:
            self.answered.set_result(None)


async def serve(ready: Callable[[str], None]) -> None:
    server = await asyncio.get_running_loop().create_server(Frames, "127.0.0.1", 0)
    ready(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


async def drive(address: str, laps: Laps) -> None:
    _, client = await asyncio.get_running_loop().create_connection(
        Client, "127.0.0.1", int(address)
    )
    for lap in laps:
        while (before := time.perf_counter()) < lap.until:
            await client.ask(lap.in_flight)
            lap.latencies.extend([time.perf_counter() - before] * lap.in_flight)
