"""The server's end of a socket: handshake, back-pressure, broken connections."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from rio._core.budget import Usage
from rio._core.dispatch import HIGH_WATER, Dispatcher, ServerHalf
from rio._core.wire import Kind
from rio.errors import Forbidden, NotAuthenticated, ProtocolError, RioError
from rio.logs import Logger
from rio.security.acts import note_act
from rio.security.keys import UNLIMITED, Key
from rio.security.proof import PROOF_LIFE, Proofs, make_nonce
from rio.security.tls import digest_of_own
from rio.security.trust import Trust
from rio.transport import protocol
from rio.transport.call_context import sift_context
from rio.transport.protocol import HANDSHAKE_TIMEOUT, Hello, text_of
from rio.transport.pulse import SERVER_PATIENCE, Pulse, Verdict, watch_acknowledgements

logger = Logger("rio.transport")

STALL_TIMEOUT = 10.0
"""Seconds without a byte taken after which a peer is cut off that has bytes to take."""
HASTY_TIMEOUT = 1.0
"""The same, while the node holds more than half of the bytes that it may hold for its peers."""


HELLO_LIMIT = 64 * 1024
"""Bytes of a frame that a peer may send before it is accepted."""
IPV6_NETWORK = 64
"""Bits of an IPv6 address that name its network: whoever has one address has all of a network."""


class ServerOwner(Protocol):
    """What a server's connection asks of its node."""

    hello: Hello
    security: Trust | None
    refuses: bool
    """Whether it takes no more connections."""

    def unsubscribe(self, connection: ServerConnection, number: int) -> None: ...
    def forget(self, connection: ServerConnection) -> None: ...
    def note_refused(self, peer: str, reason: str) -> None:
        """A peer was not accepted."""
        ...

    def note_ended(self, peer: str, how: str, reason: str) -> None:
        """A connection was ended because of what the peer does. ``how``: a verb."""
        ...

    def meet(self, connection: ServerConnection) -> None:
        """A connection was made whose peer has not introduced itself."""
        ...

    def part(self, connection: ServerConnection) -> None:
        """It has now, or is gone. Idempotent."""
        ...

    def conceal(self, error: BaseException, key: Key) -> BaseException:
        """The error as a client with limited rights gets it."""
        ...

    def check_room(self, key: Key | None, address: str) -> None:
        """:raises Overloaded: the client may have no further connection."""
        ...

    def enter(self, key: Key | None, address: str) -> Usage:
        """A client has a connection. Returns what it uses over all that it has."""
        ...

    def leave(self, usage: Usage) -> None:
        """A connection of a client that had entered is gone."""
        ...

    def request_stop(self) -> None: ...
    def gossip(self, peer: Hello, payload: bytes) -> None: ...


class ServerConnection(ServerHalf, asyncio.BufferedProtocol):
    """The server's end of one connection, on an asyncio transport."""

    def __init__(self, dispatcher: Dispatcher, owner: ServerOwner, frame_limit: int) -> None:
        super().__init__(dispatcher, frame_limit)
        self._owner = owner
        self._timer: asyncio.TimerHandle | None = None
        self._is_dismissed = False
        self._is_stalled = False
        self._taken = 0
        self._seen_taken = -1
        self._seen_taken_at = 0.0
        self._pulse = Pulse(SERVER_PATIENCE)
        self._frame_limit = frame_limit
        self.reader.limit = min(frame_limit, HELLO_LIMIT)
        self.peer: Hello | None = None
        """How the other end has introduced itself; ``None`` until it is accepted."""
        self.key: Key | None = None
        """By which key the other end has proven itself; ``None`` if none is asked for."""
        self._proven_at = 0.0
        self._take_proof: Callable[[bytes], None] | None = None
        """What checks its proof, once it has introduced itself."""
        self.address = ""
        """From where it comes, as far as quotas are concerned."""
        self._has_entered = False
        """It counts as one of its client."""

    # --- what the transport tells -----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        if self._owner.refuses:
            transport.abort()
            return
        self.transport = transport
        self.address = address_of(transport.get_extra_info("peername"))
        self.is_encrypted = transport.get_extra_info("ssl_object") is not None
        if transport.get_extra_info("socket") is None:
            self.spinner = None  # within the process, a call wakes the loop by itself
        transport.set_write_buffer_limits(HIGH_WATER)
        watch_acknowledgements(transport)
        self.dispatcher.connections[self] = None
        self._owner.meet(self)
        self._set_timer(HANDSHAKE_TIMEOUT, self._give_up_stranger)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.note_unsent(0)
        self._clear_timer()
        self.dispatcher.connections.pop(self, None)
        self.abandon()
        self._owner.forget(self)
        self._owner.part(self)
        if self._has_entered:
            self._has_entered = False
            self._owner.leave(self.usage)

    def eof_received(self) -> bool:
        """The peer is gone, or will send no more, which looks the same from here.

        Stop its work, send what is written, and close.
        """
        self.abandon()
        self.close()
        return False

    def pause_writing(self) -> None:
        """The peer does not keep up with its answers: take no more requests from it, not even of
        those that have arrived, and cut it off if it takes nothing at all.
        """
        self._is_stalled = True
        self.hold()
        self.note_unsent(self.unsent)
        if not self.transport.is_closing():
            self.transport.pause_reading()
        self._watch_progress()

    def resume_writing(self) -> None:
        self._is_stalled = False
        self.note_unsent(0)
        self._seen_taken = -1
        if self.transport is not None and not self.transport.is_closing():
            self.transport.set_write_buffer_limits(HIGH_WATER)
            self._clear_timer()
            # In a turn of its own: the transport is in the middle of its write.
            self.dispatcher.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing() and not self._is_stalled:
            self.take_rest()
            if self.may_read:
                self.transport.resume_reading()

    def stop_reading(self) -> None:
        """There is no room for what the peer sends, or no time."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        """There are both now."""
        if self.may_read and not self._is_stalled and not self.transport.is_closing():
            self.transport.resume_reading()

    # --- what the core leaves to its owner --------------------------------------------------------

    def frame_received(self, kind: int, id: int, body: bytes) -> None:
        if self._is_dismissed:
            return
        if not self.accepted:
            self._greet(body)
        elif kind == Kind.PING:
            self.put(protocol.write_bare(Kind.PONG, id))
        elif kind == Kind.PONG:
            pass  # it has been heard of
        elif kind == Kind.END:
            self._owner.unsubscribe(self, id)
        elif kind == Kind.GOAWAY:
            self._stop_node(id)
        elif kind == Kind.GOSSIP and self.peer is not None and self.is_node:
            self._owner.gossip(self.peer, protocol.read_gossip(body))
        else:
            raise ProtocolError(f"a server takes no frame of kind {kind} from this peer")

    def _greet(self, body: bytes) -> None:
        if self._take_proof is None:
            self._take_hello(body)
        else:
            self._take_proof(protocol.read_proof(body))

    def _take_hello(self, body: bytes) -> None:
        peer = protocol.read_hello(body)
        protocol.check_cluster(peer, self._owner.hello.cluster)
        security = self._owner.security
        if security is None:
            self._check_room(peer, None)
            self._accept(peer)
            self.put(protocol.write_hello(self._introduction()))
            return
        key = security.key_of(peer.key, peer.role, self._shows_certificate())
        self._check_room(peer, key)  # later, the client would have sent calls already
        hello = protocol.write_hello(self._introduction(make_nonce()))
        digest = digest_of_own(self.transport.get_extra_info("ssl_object"))
        proofs = Proofs(body, hello, digest, key.secret)
        self.put(hello)
        self.put(protocol.write_proof(proofs.of("server")))
        self._take_proof = functools.partial(self._admit, security, key, peer, proofs)

    def _check_room(self, peer: Hello, key: Key | None) -> None:
        if peer.role != "node":
            self._owner.check_room(key, self.address)

    def _admit(self, security: Trust, key: Key, peer: Hello, proofs: Proofs, proof: bytes) -> None:
        if not proofs.is_of("client", proof):
            raise NotAuthenticated(f"the proof of key {key.id!r} is wrong")
        if security.credentials.keys.get(key.id) != key:
            raise NotAuthenticated(f"key {key.id!r} has changed meanwhile")
        self._take_proof = None
        self.key = key
        self._proven_at = self.dispatcher.loop.time()
        self.rights = security.credentials.rights.get(key.id)
        self._accept(peer)
        if not self.is_node:
            self.authorize = security.authorizer(key)
            self.sift_context = sift_context

    def _accept(self, peer: Hello) -> None:
        self._clear_timer()
        self._owner.part(self)
        self.peer = peer
        self.is_node = peer.role == "node"
        if not self.is_node:
            self.note_unsent(0)
            self.usage = self._owner.enter(self.key, self.address)
            self._has_entered = True
        self.accepted = True
        self.reader.limit = self._frame_limit
        self.send_limit = min(self.send_limit, peer.frame_limit)

    def _shows_certificate(self) -> bool:
        """Whether the peer has one, or is this process itself, with which nothing is encrypted."""
        channel = self.transport.get_extra_info("ssl_object")
        return channel is None or channel.getpeercert(binary_form=True) is not None

    def _introduction(self, nonce: bytes = b"") -> Hello:
        """The node's HELLO, with the limits that hold on this connection."""
        return msgspec.structs.replace(
            self._owner.hello,
            frame_limit=self._frame_limit,
            in_flight_limit=self.dispatcher.in_flight_limit,
            nonce=nonce,
        )

    def _stop_node(self, id: int) -> None:
        if self.key is not None and self.key.role not in UNLIMITED:
            reason = f"key {self.key.id!r} may not stop a server"
            self._note_stop(reason)
            self.answer_error(id, Forbidden(reason))
            return
        self._note_stop()
        self.put(protocol.write_bare(Kind.GOAWAY, id))
        self._owner.request_stop()

    def _note_stop(self, refused: str = "") -> None:
        who = None if self.key is None else self.key.identity
        note_act("stop", self._owner.hello.address, who, self.peer_name, refused)

    def answer_error(self, id: int, error: BaseException) -> None:
        if self.transport is None:
            return
        if self.rights is not None and self.key is not None:
            error = self._owner.conceal(error, self.key)
        body = protocol.write_error(id, error)
        if len(body) > self.send_limit:
            body = protocol.write_error(id, protocol.without_payload(error, len(body)))
        self.put(body)

    def break_off(self, error: Exception) -> None:
        """The peer does not speak the protocol, or something of ours has failed on this connection:
        tell the peer so, and close.
        """
        if isinstance(error, RioError) and not self.accepted:
            self._owner.note_refused(self.peer_name, text_of(error))
        else:
            self._note_broken(error)
        self.answer_error(0, error)
        self.close()

    def _note_broken(self, error: Exception) -> None:
        peer, text = self.peer_name, text_of(error)
        if isinstance(error, RioError):
            self._owner.note_ended(peer, "closing", text)
        else:
            logger.warning("closing the connection from %s: %s", peer, text, exc_info=error)

    # --- for the node -----------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        unsent = len(self.writer)
        if self.transport is not None:
            unsent += int(self.transport.get_write_buffer_size())
        return unsent

    def dismiss(self, text: str) -> None:
        """Take no more requests, and tell the client which one was the last, so that it sends the
        others elsewhere and closes.
        """
        if self.accepted:
            self.accepted = False
            self._is_dismissed = True
            self.put(protocol.write_goaway(text, self.last_request))
            self.flush()
        else:
            self.close()

    def cut_off(self, reason: str) -> None:
        """Close at once, and lose what is not sent yet."""
        self._owner.note_ended(self.peer_name, "cutting off", reason)
        if self.transport is not None:
            self.transport.abort()

    def turn_away(self, reason: str) -> None:
        """Close at once a connection that has not introduced itself."""
        self._owner.note_refused(self.peer_name, reason)
        self.transport.abort()

    def _give_up_stranger(self) -> None:
        self.turn_away("it did not introduce itself in time")

    def close(self) -> None:
        """Send what is written, then close; cut the peer off if it does not read."""
        self.flush()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
            self._watch_progress()

    def stall(self) -> None:
        """Run no more calls of the peer until it has taken all that is written."""
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(0)

    def watch(self) -> None:
        """Count anew what the peer has not taken. If the node holds much for its peers, one that
        takes nothing is cut off soon.
        """
        unsent = self.unsent
        self.note_unsent(unsent)
        now, taken = self.dispatcher.loop.time(), self._count_taken()
        if not unsent:
            self._seen_taken = -1
        elif taken > self._seen_taken:
            self._seen_taken, self._seen_taken_at = taken, now
        elif self.dispatcher.budget.is_half_used and now - self._seen_taken_at > HASTY_TIMEOUT:
            self.cut_off(
                "the peer does not read what it is sent, and the node holds more than half"
                f" of its held_limit of {self.dispatcher.budget.limit} bytes"
            )
            self.dispatcher.budget.leaving += unsent

    def look(self) -> None:
        """Ask a client that has said nothing for a while whether it lives, and cut off one that
        does not answer. Of a client that is not read from, nothing can be heard; it is told that
        this server lives. Whoever has proven itself long ago has to do so again.
        """
        if not self.accepted or not self.is_remote:
            return
        now = self.dispatcher.loop.time()
        if self.key is not None and now - self._proven_at > PROOF_LIFE:
            self.cut_off(f"the proof of key {self.key.id!r} is too old")
            return
        verdict = self._pulse.look(self.received, now)
        if verdict is Verdict.ALIVE:
            return
        if not self.may_read:
            if not self.unsent:
                self.put(protocol.write_bare(Kind.PONG, 0))
        elif verdict is Verdict.ASK:
            self.put(protocol.write_bare(Kind.PING, 0))
        else:
            self.cut_off("the peer says nothing any more")

    def _watch_progress(self) -> None:
        """Look after a while whether the peer has taken anything meanwhile."""
        self._taken = self._count_taken()
        self._set_timer(STALL_TIMEOUT, self._check_progress)

    def _check_progress(self) -> None:
        if self._count_taken() > self._taken:
            self._watch_progress()
        else:
            self.cut_off("the peer does not read what it is sent")

    def _count_taken(self) -> int:
        """Bytes that the peer has taken since the connection was made."""
        return self.written - int(self.transport.get_write_buffer_size())

    def _set_timer(self, delay: float, action: Callable[..., None], *args: object) -> None:
        self._clear_timer()
        self._timer = self.dispatcher.loop.call_later(delay, action, *args)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def peer_name(self) -> str:
        """The address of the other end, for the log."""
        return name_of(self.transport)


def name_of(transport: Any) -> str:
    """The address of the other end, for the log. At a ``unix:`` address nobody has one."""
    name = None if transport is None else transport.get_extra_info("peername")
    return str(name or "a process of this machine")


def address_of(peer_name: Any) -> str:
    """The address by which a peer counts, from what its transport says of it. At a ``unix:``
    address nobody has one.
    """
    if not isinstance(peer_name, tuple):
        return "this machine"
    host: str = peer_name[0].partition("%")[0]
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_NETWORK), strict=False))
