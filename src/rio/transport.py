"""Sockets on one side, the compiled core on the other: handshake, back-pressure, broken
connections.

:class:`MemoryTransport` joins the two halves in one process, so that an object calls its neighbour,
and a test a whole cluster, through the same code as over TCP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

from rio import protocol
from rio._core.calls import Call, ClientConnection
from rio._core.dispatch import Connection, Dispatcher
from rio._core.frame import ReceiveBuffer
from rio.errors import ConnectionLost, Draining, FrameTooLarge, ProtocolError, RioError, from_code
from rio.protocol import Hello, Kind

logger = logging.getLogger("rio.transport")

HANDSHAKE_TIMEOUT = 5.0
"""Seconds a peer may take to introduce itself."""
STALL_TIMEOUT = 10.0
"""Seconds a peer may leave what it was sent unread before it is cut off."""
HIGH_WATER = 1024 * 1024
"""Unsent bytes at which a connection is no longer read."""
MAX_UNSENT = 16 * 1024 * 1024
"""Unsent bytes at which a peer is cut off."""


class ServerOwner(Protocol):
    """What a connection asks of its node."""

    hello: Hello

    def unsubscribe(self, connection: ServerProtocol, number: int) -> None: ...
    def disconnected(self, connection: ServerProtocol) -> None: ...
    def leave_requested(self) -> None: ...
    def gossip(self, source: int, payload: bytes) -> None: ...


class ServerProtocol(Connection, asyncio.BufferedProtocol):
    """The server's side of one connection."""

    def __init__(self, dispatcher: Dispatcher, owner: ServerOwner, frame_limit: int) -> None:
        super().__init__(dispatcher, frame_limit)
        self._owner = owner
        self._timer: asyncio.TimerHandle | None = None
        self._is_dismissed = False
        self.peer: Hello | None = None
        """Who is at the other end, once it has said so."""

    # --- what the transport tells -----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(HIGH_WATER)
        self.dispatcher.connections[self] = None
        self._set_timer(HANDSHAKE_TIMEOUT, "the peer did not introduce itself")

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._clear_timer()
        self.dispatcher.connections.pop(self, None)
        self.abandon()
        self._owner.disconnected(self)

    def eof_received(self) -> bool:
        """The peer is gone; one that only stopped sending cannot be told from it.

        Stop its work, send what is written, and close.
        """
        self.abandon()
        self.close()
        return False

    def pause_writing(self) -> None:
        """The peer does not read its answers: take no more requests from it, and do not wait for
        ever.
        """
        self.watched = True
        if not self.transport.is_closing():
            self.transport.pause_reading()
        self._set_timer(STALL_TIMEOUT, "the peer does not read what it is sent")

    def resume_writing(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self._clear_timer()
            self.watched = False
            self.transport.resume_reading()

    # --- what the core leaves to us ---------------------------------------------------------------

    def control(self, kind: int, id: int, body: bytes) -> None:
        if self._is_dismissed:
            return
        if not self.accepted:
            self._greet(body)
        elif kind == Kind.PING:
            self.put(protocol.simple(Kind.PONG, id))
        elif kind == Kind.END:
            self._owner.unsubscribe(self, id)
        elif kind == Kind.GOAWAY:
            self.put(protocol.simple(Kind.GOAWAY, id))
            self._owner.leave_requested()
        elif kind == Kind.GOSSIP and self.peer is not None and self.peer.role == "node":
            self._owner.gossip(self.peer.generation, protocol.read_gossip(body))
        else:
            raise ProtocolError(f"a server takes no frame of kind {kind} from this peer")

    def _greet(self, body: bytes) -> None:
        self.peer = protocol.read_hello(body)
        self._clear_timer()
        self.accepted = True
        self.put(protocol.hello(self._owner.hello))

    def answer_error(self, id: int, error: BaseException) -> None:
        if self.transport is None:
            return
        body = protocol.error(id, error)
        if len(body) > self.reader.limit:
            body = protocol.error(
                id,
                FrameTooLarge(
                    f"the answer was a {type(error).__name__} that takes {len(body)} bytes"
                ),
            )
        self.put(body)

    def broken(self, error: RioError) -> None:
        """The bytes are no frames of ours: say so, and close."""
        logger.warning("closing the connection from %s: %s", self._peer_name(), error)
        self.answer_error(0, error)
        self.close()

    # --- for the node -----------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        waiting = len(self.writer)
        return (
            waiting
            if self.transport is None
            else waiting + int(self.transport.get_write_buffer_size())
        )

    def flushed(self) -> None:
        if self.unsent > MAX_UNSENT:
            self.cut_off("the peer does not read what it is sent")

    def dismiss(self, text: str) -> None:
        """Take no more requests and tell the client which was the last, so that it sends the others
        elsewhere. It is to close.
        """
        if self.accepted:
            self.accepted = False
            self._is_dismissed = True
            self.put(protocol.goaway(text, self.last_request))
            self.flush()
        else:
            self.close()

    def cut_off(self, reason: str) -> None:
        """Close at once, whatever is not sent yet."""
        logger.warning("cutting off the connection from %s: %s", self._peer_name(), reason)
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """Send what is written, then close; at once if the peer does not read it."""
        self.watched = False
        self.flush()
        if self.transport is not None:
            self.transport.close()
            self._set_timer(STALL_TIMEOUT, "the peer does not read what it is sent")

    def _set_timer(self, delay: float, reason: str) -> None:
        self._clear_timer()
        self._timer = self.dispatcher.loop.call_later(delay, self.cut_off, reason)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _peer_name(self) -> str:
        return str(None if self.transport is None else self.transport.get_extra_info("peername"))


class ClientOwner(Protocol):
    """What a connection asks of its client."""

    def refused(
        self, call: Call, error: tuple[str, str, Any], connection: ClientProtocol
    ) -> None: ...
    def lost(self, connection: ClientProtocol, calls: list[Call], error: RioError) -> None: ...
    def event(self, connection: ClientProtocol, number: int, body: bytes) -> None: ...
    def stream_ended(self, number: int) -> None: ...


class ClientProtocol(ClientConnection, asyncio.BufferedProtocol):
    """The client's side of one connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: ClientOwner,
        hello: Hello,
        frame_limit: int,
        receive_buffer: ReceiveBuffer,
    ) -> None:
        super().__init__(loop, frame_limit, receive_buffer)
        self._owner = owner
        self._hello = hello
        self._replies: dict[int, asyncio.Future[None]] = {}
        self._closed = loop.create_future()
        self.ready: asyncio.Future[Hello] = loop.create_future()
        """Who the server is, once it has said so; or why it would not."""
        self.on_goaway: Callable[[], None] = _nothing

    # --- what the transport tells -----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.put(protocol.hello(self._hello))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self._lose(
            ConnectionLost(
                f"the connection broke before the answer came: {exc or 'the server closed it'}"
            )
        )

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """The server does not keep up: calls are still taken up to ``unsent_limit``, each caller
        waits for its own answer.
        """
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    # --- what the core leaves to us ---------------------------------------------------------------

    def control(self, kind: int, id: int, body: bytes) -> None:
        if kind == Kind.HELLO:
            self.usable = True
            if not self.ready.done():
                self.ready.set_result(protocol.read_hello(body))
        elif kind == Kind.EVENT:
            self._owner.event(self, id, body)
        elif kind == Kind.END:
            self._owner.stream_ended(id)
        elif kind == Kind.GOAWAY and id == 0:
            self._goes_away(*protocol.read_goaway(body))
        elif kind in (Kind.PONG, Kind.GOAWAY):
            reply = self._replies.pop(id, None)
            if reply is not None and not reply.done():
                reply.set_result(None)
        elif kind == Kind.ERROR and id == 0:
            self.broken(from_code(*protocol.read_error(body)))
        elif kind not in (
            Kind.RESPONSE,
            Kind.ERROR,
        ):  # those are late answers to calls that were given up
            self.broken(ProtocolError(f"a client takes no frame of kind {kind}"))

    def _goes_away(self, text: str, last_request: int | None) -> None:
        self.on_goaway()
        if last_request is not None:  # it has stopped: what it did not read has not run
            self.usable = False
            self._owner.lost(self, self.take_calls(last_request), Draining(text))
            self._lose(ConnectionLost(f"the connection was closed before the answer came: {text}"))

    def answered_with_error(self, call: Call, body: bytes) -> None:
        self._owner.refused(call, protocol.read_error(body), self)

    def broken(self, error: RioError) -> None:
        """The server does not speak the protocol, or will not speak with us."""
        if not self.ready.done():
            self.ready.set_exception(error)
        self._lose(ConnectionLost(f"the connection was given up: {error}"))

    # --- for the client ---------------------------------------------------------------------------

    async def request(self, kind: Kind) -> None:
        """Send a PING or a GOAWAY, and wait until it is answered.

        :raises ConnectionLost: it was not.
        """
        number = self.next_id()
        reply = self._replies[number] = self.loop.create_future()
        try:
            self.put(protocol.simple(kind, number))
            await reply
        finally:
            self._replies.pop(number, None)

    def close(self) -> None:
        """Send what is written, then close."""
        self.flush()
        self._lose(ConnectionLost("the client was closed before the answer came"))

    async def wait_closed(self) -> None:
        await self._closed

    def _lose(self, error: ConnectionLost) -> None:
        transport, self.transport = self.transport, None
        self.usable = False
        if transport is not None:
            transport.close()
        if not self.ready.done():
            self.ready.set_exception(error)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)
        self._owner.lost(self, self.take_calls(), error)


def _nothing() -> None: ...


def _lose(data: bytes) -> None: ...


Half: TypeAlias = ServerProtocol | ClientProtocol


class MemoryTransport:
    """One end of a connection inside a process: what is written here arrives at the other end's
    protocol at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, own: Half, other: Half) -> None:
        self._loop = loop
        self._own = own
        self._closed = False
        self.write: Callable[[bytes], None] = other.receive
        self.peer: MemoryTransport | None = None

    @classmethod
    def join(cls, loop: asyncio.AbstractEventLoop, one: Half, other: Half) -> None:
        """Connect two protocols."""
        first, second = cls(loop, one, other), cls(loop, other, one)
        first.peer, second.peer = second, first
        one.connection_made(cast(asyncio.BaseTransport, first))  # a transport by its methods
        other.connection_made(cast(asyncio.BaseTransport, second))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.write = _lose
            self._loop.call_soon(self._own.connection_lost, None)
            if self.peer is not None:
                self.peer.close()

    abort = close

    def is_closing(self) -> bool:
        return self._closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return "memory" if name == "peername" else default
