"""Connections without a client behind them: the cost of the sockets alone, and many cheap ones."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self, cast

import msgpack

from bench.load import Latencies
from rio._core.frame import FrameReader
from rio._core.wire import Kind
from rio.identity import Address, type_name_of
from rio.objects import system_messages
from rio.objects.message import Message, encode_message
from rio.transport import protocol
from rio.transport.protocol import Hello

FRAME = (60).to_bytes(4, "big") + bytes(60)
"""The length of a request for a :class:`bench.workload.Room`."""


class Socket(asyncio.Protocol):
    """A connection that is opened and closed."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._closed = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, address: str) -> Self:
        host, port = Address.parse(address)
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def close(self) -> None:
        self.transport.close()
        await self._closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set_result(None)


class EchoClient(Socket):
    """Sends frames to an echo, and a new frame for each that comes back, with no future for any."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._frame = FRAME
        self._left = 0
        self._bytes_left = 0
        self._partial = 0
        self._ended = self._loop.create_future()

    async def run(self, frames: int, in_flight: int, frame: bytes = FRAME) -> None:
        self._frame = frame
        self._ended = self._loop.create_future()
        self._bytes_left = frames * len(frame)
        self._left = frames - in_flight
        self.transport.write(frame * in_flight)
        await self._ended

    def data_received(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        whole, self._partial = divmod(self._partial + len(data), len(self._frame))
        again = min(whole, self._left)
        if again:
            self._left -= again
            self.transport.write(self._frame * again)
        if self._bytes_left == 0:
            self._ended.set_result(None)


class TimedEchoClient(Socket):
    """Sends frames to an echo when it is told to, and reports when each has come back."""

    def __init__(self) -> None:
        super().__init__()
        self._dues: deque[float] = deque()
        self._partial = 0
        self._latencies: Latencies

    def begin(self, dues: list[float], latencies: Latencies) -> None:
        self._dues.extend(dues)
        self._latencies = latencies
        self.transport.write(FRAME * len(dues))

    def data_received(self, data: bytes) -> None:
        whole, self._partial = divmod(self._partial + len(data), len(FRAME))
        for _ in range(whole):
            self._latencies.answered(self._dues.popleft())


class RawConnection(Socket):
    """A connection to a node that has introduced itself. It counts the frames that come."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = FrameReader()
        self._wanted = 1
        self.frames = 0
        self._arrived = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, address: str) -> Self:
        connection = await super().connect(address)
        connection.put(protocol.write_hello(Hello(protocol.VERSION, "client")))
        await connection.arrival(1)
        return connection

    def put(self, body: bytes) -> None:
        self.transport.write(len(body).to_bytes(4, "big") + body)

    def data_received(self, data: bytes) -> None:
        self.frames += len(self._reader.feed(data))
        if self.frames >= self._wanted and not self._arrived.done():
            self._arrived.set_result(None)

    async def arrival(self, frames: int) -> None:
        """Wait until so many frames have come in all."""
        self._wanted = frames
        if self.frames < frames:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived

    def request(self, number: int, object_type: type, id: str, message: Message[Any]) -> None:
        head = [
            Kind.REQUEST,
            number,
            type_name_of(object_type),
            id,
            type_name_of(type(message)),
            30_000,
            None,
        ]
        self.put(
            b"\x98"
            + b"".join(bytes(msgpack.packb(field)) for field in head)
            + encode_message(message)
        )

    async def subscribe(self, object_type: type, id: str, count: int) -> None:
        """Subscribe to an object's events ``count`` times over."""
        for number in range(1, count + 1):
            self.request(number, object_type, id, system_messages.Subscribe(number))
        await self.arrival(self.frames + count)
