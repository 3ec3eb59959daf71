"""The server's end of a connection until it is encrypted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Protocol

from rio import background
from rio.logs import Logger
from rio.transport.protocol import HANDSHAKE_TIMEOUT
from rio.transport.server_connection import ServerConnection, address_of, name_of

logger = Logger("rio.transport")


class HandshakeOwner(Protocol):
    """What a handshake asks of its node."""

    refuses: bool
    """Whether it takes no more connections."""

    def begin(self, handshake: TlsHandshake) -> None: ...
    def end(self, handshake: TlsHandshake) -> None:
        """It was given up, or its connection has been made."""
        ...

    def note_refused(self, peer: str, reason: str) -> None:
        """A peer was not accepted."""
        ...


class TlsHandshake(asyncio.Protocol):
    """A connection counts, and can be turned away, while the two sides agree on TLS.

    The loops encrypt too, but tell nobody of a connection until its handshake has ended. So it is
    accepted in the clear, and then its socket is given to the loop to be encrypted. ``connection``:
    what takes its place then.
    """

    def __init__(
        self, connection: ServerConnection, tls: ssl.SSLContext, owner: HandshakeOwner
    ) -> None:
        self.connection = connection
        self._tls = tls
        self._owner = owner
        self._socket: socket.socket | None = None
        """What is to be encrypted, until the loop has it."""
        self._task: asyncio.Task[None]
        self._peer_name = ""
        self.address = ""
        """From where it comes, as far as quotas are concerned."""

    def connection_made(self, transport: Any) -> None:
        accepted = transport.get_extra_info("socket")
        if self._owner.refuses:
            transport.abort()
        elif accepted is None:  # in a network in memory there is nothing to encrypt
            transport.set_protocol(self.connection)
            self.connection.connection_made(transport)
        else:
            self._begin(transport, accepted)

    def _begin(self, transport: Any, accepted: Any) -> None:
        self._peer_name = name_of(transport)
        self.address = address_of(transport.get_extra_info("peername"))
        try:
            self._socket = socket.fromfd(accepted.fileno(), accepted.family, accepted.type)
        except OSError as error:
            self._owner.note_refused(self._peer_name, f"its socket cannot be used: {error}")
            return
        finally:
            transport.abort()  # before it has read anything; the other descriptor stays
        self._socket.setblocking(False)
        self._task = background.start(self._agree(), f"agree on TLS with {self._peer_name}")
        self._task.add_done_callback(self._note_end)
        self._owner.begin(self)

    async def _agree(self) -> None:
        accepted, self._socket = self._socket, None
        assert accepted is not None
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: self.connection,
            accepted,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
        )

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if self._socket is not None:  # the task was cancelled before it began
            self._socket.close()
        self._owner.end(self)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):  # also one of TLS
            logger.debug("%s and this node do not agree on TLS: %r", self._peer_name, error)
        elif error is not None:
            logger.error("the connection from %s failed", self._peer_name, exc_info=error)

    def turn_away(self, reason: str) -> None:
        """Close at once: others need its place."""
        self._owner.note_refused(self._peer_name, reason)
        self.cancel()

    def cancel(self) -> asyncio.Task[None]:
        """Give it up, after it has begun. Returns its task."""
        self._task.cancel()
        return self._task
