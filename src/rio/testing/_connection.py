"""One connection of a network in memory."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias, cast

from rio.testing.virtual_time import Host, call_at_true_time, true_time

KERNEL_BUFFER = 256 * 1024
"""Bytes on their way above which a transport counts them as waiting."""

ProtocolFactory: TypeAlias = Callable[[], asyncio.BaseProtocol]


class Carrier(NamedTuple):
    """What a connection asks of its network."""

    delay: Callable[[], float]
    """Seconds that the next message takes."""
    draws_loss: Callable[[], bool]
    """Whether the next message is lost."""
    is_cut: Callable[[Host, Host], bool]
    """Whether nothing that the first host sends arrives at the second one."""
    note_end: Callable[[Connection], None]
    """Called when both ends of a connection have finished."""


class Connection:
    """A connection between two hosts: its two ends."""

    def __init__(
        self,
        carrier: Carrier,
        one: tuple[Host, contextvars.Context],
        other: tuple[Host, contextvars.Context],
        address: tuple[str, int],
    ) -> None:
        self.carrier = carrier
        self.loop = asyncio.get_running_loop()
        self.client = Endpoint(self, *one, address)
        self.server = Endpoint(self, *other, (one[0].name, 0))
        self.client.peer, self.server.peer = self.server, self.client

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.client.host, self.server.host

    def accept(self, factory: ProtocolFactory) -> None:
        """Make the server's protocol, on its host."""
        self.server.start(factory)

    def establish(self, factory: ProtocolFactory) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Make the client's protocol, and return it with its transport.

        :raises ConnectionResetError: the server has closed the connection at once.
        """
        if self.client.is_closing():
            raise ConnectionResetError(f"{self.server.host.name} closed the connection at once")
        protocol = factory()
        self.client.attach(protocol)
        self.wake()
        return self.client, protocol

    def wake(self) -> None:
        """Deliver what is due: something may get through again."""
        self.client.plan_delivery()
        self.server.plan_delivery()

    def reset(self) -> None:
        """Break the connection: both ends find it reset, and what is on its way is lost."""
        for end in (self.client, self.server):
            end.finish(ConnectionResetError("the connection was reset"))

    def lose_host(self, host: Host) -> None:
        """Reset the connection, as a host's process is gone. What it has sent still arrives."""
        for end in (self.client, self.server):
            if end.host is host:
                end.vanish()

    def note_finish(self) -> None:
        """One end has finished."""
        if self.client.is_finished and self.server.is_finished:
            self.carrier.note_end(self)


class Endpoint(asyncio.Transport):
    """One end of a connection: the transport of its protocol, and what is on its way to it."""

    def __init__(
        self,
        connection: Connection,
        host: Host,
        context: contextvars.Context,
        peername: tuple[str, int],
    ) -> None:
        super().__init__({"peername": peername, "sockname": (host.name, 0)})
        self.host = host
        self.peer: Endpoint = self
        self.is_finished = False
        """Whether nothing arrives any more. The protocol has been told, or will be at once."""
        self._connection = connection
        self._context = context
        self._protocol: asyncio.BaseProtocol | None = None
        self._arriving: deque[tuple[float, bytes | Exception | None]] = deque()
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        self._on_its_way = 0
        self._closing = False
        self._paused = False
        self._full = False
        self._high = 64 * 1024

    # --- its protocol -----------------------------------------------------------------------------

    def start(self, factory: ProtocolFactory) -> None:
        """Make the protocol on the end's own host, as a listening socket does."""
        self._connection.loop.call_soon(self._accept, factory, context=self._context)

    def _accept(self, factory: ProtocolFactory) -> None:
        if not self.is_finished:
            self.attach(factory())
            self.plan_delivery()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def attach(self, protocol: asyncio.BaseProtocol) -> None:
        self.set_protocol(protocol)
        protocol.connection_made(self)

    # --- sending ----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self.is_finished or not data:
            return
        if self._connection.carrier.draws_loss():
            self._connection.reset()
        elif not self.host.down:
            self._on_its_way += len(data)
            self.peer.put_on_way(bytes(data))
            self._tell_protocol()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Close, after what was written has arrived."""
        if not self._closing:
            self._closing = True
            self.peer.put_on_way(None)
            self.finish(None)

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self.peer.put_on_way(ConnectionResetError("the peer has reset the connection"))
            self.finish(None)

    def vanish(self) -> None:
        """Reset the connection, as the system does when a process is gone."""
        if not self.is_finished:
            self._closing = True
            self.peer.put_on_way(ConnectionResetError("the peer's process is gone"))
            self.finish(ConnectionResetError("this host is down"))

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise NotImplementedError  # can_write_eof() says so

    def is_closing(self) -> bool:
        return self._closing or self.is_finished

    def get_write_buffer_size(self) -> int:
        return max(0, self._on_its_way - KERNEL_BUFFER)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._high // 4, self._high

    def note_delivery(self, size: int) -> None:
        """The peer has read so many bytes."""
        self._on_its_way -= size
        self._tell_protocol()

    def _tell_protocol(self) -> None:
        waiting = self.get_write_buffer_size()
        if self._protocol is None or self.is_finished:
            return
        if not self._full and waiting > self._high:
            self._full = True
            self._soon(cast(asyncio.Protocol, self._protocol).pause_writing)
        elif self._full and waiting <= self._high // 4:
            self._full = False
            self._soon(cast(asyncio.Protocol, self._protocol).resume_writing)

    def _soon(self, what: Callable[..., object], *args: Any) -> None:
        self._connection.loop.call_soon(what, *args, context=self._context)

    # --- receiving --------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self.plan_delivery()

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def put_on_way(self, what: bytes | Exception | None) -> None:
        """Let data arrive here, or the end of the connection: ``None`` if it was closed."""
        if not self.is_finished:
            self._due = max(
                self._due, true_time(self._connection.loop) + self._connection.carrier.delay()
            )
            self._arriving.append((self._due, what))
            self.plan_delivery()

    def plan_delivery(self) -> None:
        """Deliver the next message when it is due."""
        if (
            self._timer is None
            and self._arriving
            and self._protocol is not None
            and not self.is_finished
        ):
            self._timer = call_at_true_time(
                self._connection.loop, self._arriving[0][0], self._deliver, context=self._context
            )

    def _deliver(self) -> None:
        self._timer = None
        now = true_time(self._connection.loop) + 1e-9
        while self._arriving and self._arriving[0][0] <= now and self._is_open():
            _, what = self._arriving.popleft()
            if isinstance(what, bytes):
                self.peer.note_delivery(len(what))
                self._feed(what)
            else:
                self._end(what)
        if self._is_open():
            self.plan_delivery()

    def _is_open(self) -> bool:
        return not (
            self._paused
            or self.is_finished
            or self._connection.carrier.is_cut(self.peer.host, self.host)
        )

    def _feed(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, protocol).data_received(data)
            return
        view = memoryview(data)
        while view and not self.is_closing():
            room = memoryview(protocol.get_buffer(len(view)))
            size = min(len(room), len(view))
            room[:size] = view[:size]
            protocol.buffer_updated(size)
            view = view[size:]

    def _end(self, error: Exception | None) -> None:
        if error is None:
            cast(asyncio.Protocol, self._protocol).eof_received()
        self.finish(error)

    def finish(self, error: Exception | None) -> None:
        """Let nothing more arrive, and tell the protocol."""
        if self.is_finished:
            return
        self.is_finished = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arriving.clear()
        if self._protocol is not None:
            self._soon(self._protocol.connection_lost, error)
        self._connection.note_finish()
