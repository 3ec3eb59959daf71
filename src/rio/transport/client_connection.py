"""The client's end of a socket: the handshake, frames that answer no call, and the end."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from rio._core.calls import Call, ClientHalf
from rio._core.frame import FRAME_HEADER, ReceiveBuffer
from rio._core.wire import Kind
from rio.errors import (
    ConnectionLost,
    Draining,
    NotAuthenticated,
    NotExecuted,
    ProtocolError,
    RioError,
    from_code,
)
from rio.identity import Address
from rio.security.proof import Proofs, make_nonce, renewal
from rio.security.tls import digest_of_peer
from rio.security.trust import Trust
from rio.transport import protocol
from rio.transport.protocol import HANDSHAKE_TIMEOUT, Hello, text_of
from rio.transport.pulse import CLIENT_PATIENCE, Pulse, Verdict, watch_acknowledgements

CLOSE_TIMEOUT = 2.0
"""Seconds for which whoever closes a connection waits for a server to take what was written."""


class ClientOwner(Protocol):
    """What a client's connection asks of its client."""

    def refused(
        self, call: Call, error: tuple[str, str, Any], connection: ClientConnection
    ) -> None: ...
    def lost(self, connection: ClientConnection, calls: list[Call], error: RioError) -> None: ...
    def event(self, connection: ClientConnection, number: int, body: bytes) -> None: ...
    def stream_ended(self, number: int) -> None: ...


class ClientConnection(ClientHalf, asyncio.BufferedProtocol):
    """The client's end of one connection, on an asyncio transport."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: ClientOwner,
        hello: Hello,
        frame_limit: int,
        receive_buffer: ReceiveBuffer,
        security: Trust | None = None,
    ) -> None:
        super().__init__(loop, frame_limit, receive_buffer)
        self._owner = owner
        self._hello = msgspec.structs.replace(hello, frame_limit=frame_limit)
        self.key = None if security is None else security.own_key(hello.role)
        """By which key this side proves itself; ``None``: it does not."""
        if self.key is not None:
            self._hello = msgspec.structs.replace(self._hello, key=self.key.id, nonce=make_nonce())
        self._server_hello = b""
        self._replies: dict[int, asyncio.Future[None]] = {}
        self._closed = loop.create_future()
        self._closing: Any = None
        """The transport, once it was closed."""
        self._close_by = 0.0
        self.ready: asyncio.Future[Hello] = loop.create_future()
        """The server's introduction, or the error because of which there is none."""
        self.ready.add_done_callback(_take_note)
        self.on_goaway: Callable[[], None] = _nothing
        self.answers_cancel = False
        """Whether the server answers a CANCEL, and so tells whether the call has begun."""
        self.round_trip = 0.0
        """Seconds that the handshake took."""
        self._connected_at = 0.0
        self._renew_at = math.inf
        self._pulse = Pulse(CLIENT_PATIENCE)
        self._asked = 0
        """Bytes of the server's questions. They do not show that it hears."""

    # --- what the transport tells -----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.is_encrypted = transport.get_extra_info("ssl_object") is not None
        if transport.get_extra_info("socket") is None:
            self.spinner = None  # within the process, an answer wakes the loop by itself
        self._connected_at = self.loop.time()
        if self.key is not None:
            self._renew_at = self._connected_at + renewal()
        watch_acknowledgements(transport)
        self.put(protocol.write_hello(self._hello))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        text = f"the connection broke before the answer came: {exc or 'the server closed it'}"
        if not self.ready.done() and self.key is None:
            text += " before it said who it is; if it encrypts, give security= or set RIO_SECURITY"
        self._lose(ConnectionLost(text))

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """The server does not keep up. The connection still takes calls up to ``unsent_limit``;
        each caller waits for its own answer.
        """
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    # --- what the core leaves to its owner --------------------------------------------------------

    def frame_received(self, kind: int, id: int, body: bytes) -> None:
        if not self.ready.done() and kind in (Kind.HELLO, Kind.PROOF):
            self._greet(kind, body)
        elif kind == Kind.EVENT:
            self._owner.event(self, id, body)
        elif kind == Kind.END:
            self._owner.stream_ended(id)
        elif kind == Kind.GOAWAY and id == 0:
            self._note_goaway(*protocol.read_goaway(body))
        elif kind == Kind.PING:
            self._asked += FRAME_HEADER + len(body)
            self.put(protocol.write_bare(Kind.PONG, id))
        elif kind in (Kind.PONG, Kind.GOAWAY):
            reply = self._replies.pop(id, None)
            if reply is not None and not reply.done():
                reply.set_result(None)
        elif kind == Kind.ERROR and id in self._replies:
            error = from_code(*protocol.read_error(body))  # while it is known who waits for it
            reply = self._replies.pop(id)
            if not reply.done():
                reply.set_exception(error)
        elif kind == Kind.ERROR and id == 0:
            self.break_off(from_code(*protocol.read_error(body)))
        elif kind not in (Kind.RESPONSE, Kind.ERROR):  # those answer calls that were given up
            self.break_off(ProtocolError(f"a client takes no frame of kind {kind}"))

    def _greet(self, kind: int, body: bytes) -> None:
        if kind == Kind.HELLO and not self._server_hello:
            self._server_hello = body
            hello = protocol.read_hello(body)
            if self.key is None:
                self._use(hello)
            elif not hello.nonce:
                raise NotAuthenticated(
                    "the server does not prove itself: give it security=, or take it from this side"
                )
        elif self.key is None or not self._server_hello:
            raise ProtocolError(f"a client takes no frame of kind {kind} here")
        else:
            self._check_proof(protocol.read_proof(body), self.key.secret)

    def _check_proof(self, proof: bytes, secret: bytes) -> None:
        digest = digest_of_peer(self.transport.get_extra_info("ssl_object"))
        own_hello = protocol.write_hello(self._hello)
        proofs = Proofs(own_hello, self._server_hello, digest, secret)
        if not proofs.is_of("server", proof):
            raise NotAuthenticated(
                f"the server knows another secret of key {self._hello.key!r}, or is none of ours"
            )
        self.put(protocol.write_proof(proofs.of("client")))
        self._use(protocol.read_hello(self._server_hello))

    def _use(self, hello: Hello) -> None:
        """The server has introduced itself, and is the one that it says."""
        self.send_limit = min(self.send_limit, hello.frame_limit)
        self.window = max(1, hello.in_flight_limit // 2)
        self.usable = True
        self.answers_cancel = protocol.CANCEL_ANSWER in hello.features
        self.round_trip = self.loop.time() - self._connected_at
        self._server_hello = b""
        self.ready.set_result(hello)

    def _note_goaway(self, text: str, last_request: int | None) -> None:
        self.on_goaway()
        if last_request is not None:  # the server has stopped: what it did not read has not run
            self.usable = False
            unread = [*self.take_calls(last_request), *self.take_unwritten()]
            self._owner.lost(self, unread, Draining(text))
            self._lose(ConnectionLost(f"the connection was closed before the answer came: {text}"))

    def error_received(self, call: Call, body: bytes) -> None:
        self._owner.refused(call, protocol.read_error(body), self)

    def break_off(self, error: Exception) -> None:
        """Close because the server does not speak the protocol, is not to be trusted, or something
        of ours has failed on this connection.
        """
        if not self.ready.done():
            self.ready.set_exception(error)
        if self.transport is not None:
            self.transport.abort()  # the peer may be frozen: it would keep the socket open
        self._lose(ConnectionLost(f"the connection was given up: {text_of(error)}"))

    # --- for the client ---------------------------------------------------------------------------

    @property
    def is_old(self) -> bool:
        """Whether this side has to prove itself anew, over another connection."""
        return bool(self.loop.time() >= self._renew_at)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost by closing it: no answer is awaited."""
        return not (self.waiting or self.unwritten or self._replies)

    def look(self) -> None:
        """Ask a server that has said nothing for a while whether it lives, and give up one that
        does not answer.
        """
        if not self.usable or self.handover is not None:
            return
        verdict = self._pulse.look(self.received - self._asked, self.loop.time())
        if verdict is Verdict.ASK:
            self._ask()
        elif verdict is Verdict.DEAD:
            self.transport.abort()  # to close it would wait for the peer
            self._lose(ConnectionLost("the server says nothing any more: the connection is dead"))

    def doubt(self) -> None:
        """A call was not answered in time: ask the server now whether it lives."""
        if self.usable and self.handover is None and not self._pulse.is_asked:
            self._pulse.ask(self.loop.time())
            self._ask()

    def _ask(self) -> None:
        self.put(protocol.write_bare(Kind.PING, 0))

    async def request(self, kind: Kind) -> None:
        """Send a PING or a GOAWAY, and wait for the answer.

        :raises ConnectionLost: the connection ended before the answer came.
        """
        number = self.next_id()
        reply = self._replies[number] = self.loop.create_future()
        try:
            self.put(protocol.write_bare(kind, number))
            await reply
        finally:
            self._replies.pop(number, None)

    def close(self) -> None:
        """Send what is written, then close."""
        self.flush()
        self._lose(ConnectionLost("the client was closed before the answer came"))

    async def wait_closed(self) -> None:
        """Wait until a connection that was closed has sent what was written. A server that does not
        take it has ``CLOSE_TIMEOUT`` seconds; then it is lost.
        """
        try:
            patience = max(0.0, self._close_by - self.loop.time())
            await asyncio.wait((self._closed,), timeout=patience)
        finally:
            if not self._closed.done() and self._closing is not None:
                self._closing.abort()
        await asyncio.wait((self._closed,))

    def _lose(self, error: ConnectionLost) -> None:
        transport, self.transport = self.transport, None
        self.usable = False
        if transport is not None:
            self._closing, self._close_by = transport, self.loop.time() + CLOSE_TIMEOUT
            transport.close()
        if not self.ready.done():
            self.ready.set_exception(error)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)
        calls, unwritten = self.take_calls(), self.take_unwritten()
        if unwritten:  # before those that may run again, which stand before them then
            self._owner.lost(self, unwritten, NotExecuted(f"it was not sent: {error}"))
        self._owner.lost(self, calls, error)


def _nothing() -> None: ...


def _take_note(ready: asyncio.Future[Hello]) -> None:
    """Whoever connects may have been cancelled, and not ask for the error any more."""
    if not ready.cancelled():
        ready.exception()


async def open_connection(
    address: str, make: Callable[[], ClientConnection], tls: ssl.SSLContext | None = None
) -> ClientConnection:
    """Connect to an address, and wait until the server has introduced itself.

    :raises OSError: the server cannot be reached.
    :raises NotAuthenticated: one of the two could not prove itself to the other.
    :raises RioError: the server does not speak this protocol.
    """
    options = {} if tls is None else {**_OPTIONS, "ssl": tls}
    connecting = _connect(Address.parse(address), make, options)
    connection = await (connecting if tls is None else _encrypt(connecting))
    try:
        await connection.ready
    except BaseException:
        connection.close()
        raise
    return connection


async def _connect(
    address: Address, make: Callable[[], ClientConnection], options: dict[str, Any]
) -> ClientConnection:
    loop = asyncio.get_running_loop()
    if address.path:
        _, connection = await loop.create_unix_connection(make, address.path, **options)
    else:
        _, connection = await loop.create_connection(make, *address, **options)
    return connection


async def _encrypt(connecting: Awaitable[ClientConnection]) -> ClientConnection:
    try:
        return await connecting
    except ssl.SSLError as error:
        raise NotAuthenticated(
            f"the two sides do not agree on TLS, or on who may be trusted: {error}"
        ) from error
    except (ConnectionAbortedError, ConnectionResetError) as error:
        raise ConnectionResetError(
            "the server ended the TLS handshake: it may not know our key, or does not encrypt"
        ) from error


_OPTIONS: dict[str, Any] = {
    "server_hostname": "",  # the proof says who the server is, wherever it runs
    "ssl_handshake_timeout": HANDSHAKE_TIMEOUT,
    "ssl_shutdown_timeout": CLOSE_TIMEOUT,
}
