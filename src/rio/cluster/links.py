"""The connections between nodes. They carry gossip only, so that no user's request can delay it.

There is one connection for each direction: a node writes to the connections that it made, and reads
from those that were made to it. So an answer proves that both nodes can be reached under their
addresses.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from rio import background
from rio._core.calls import Call
from rio._core.frame import ReceiveBuffer
from rio.errors import ConnectionLost, RioError, WrongServer
from rio.logs import Logger
from rio.security.trust import Trust
from rio.transport import protocol
from rio.transport.client_connection import ClientConnection, open_connection
from rio.transport.protocol import HANDSHAKE_TIMEOUT, Hello

logger = Logger("rio.cluster")

FRAME_LIMIT = 64 * 1024
"""Bytes of a frame that a node reads on the connections that it made, at most: it is sent next to
nothing there.
"""

MAX_WAITING = 32
"""Messages that wait for a connection, at most. The oldest are lost."""

MAX_UNSENT = 256 * 1024
"""Bytes that a peer may leave unread before further messages to it are lost."""

MAX_CONNECTIONS = 256
"""Connections at a time. For one more, the one that was used least recently is closed."""

IDLE_TIMEOUT = 60.0
"""Seconds without a message after which a connection may be closed, which happens when another one
is made.
"""

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to connect to one address."""

DEAD_LINK_TIMEOUT = 5.0
"""Seconds that sent bytes may stay unacknowledged before the system closes the connection, on
systems that have such an option.
"""

Make = Callable[[], ClientConnection]
Connect = Callable[[str, Make, ssl.SSLContext | None], Awaitable[ClientConnection]]


class GossipLinks:
    """Sends messages to addresses, as UDP would: each arrives once or never, and nobody waits for
    it. A :class:`rio.cluster.gossip.transport.GossipTransport`.

    ``hello``: how this node introduces itself. It is called for each connection, as a node learns
    its generation late. ``connect``: how to open a connection. ``security``: by what this node
    proves itself.
    """

    def __init__(
        self,
        hello: Callable[[], Hello],
        *,
        connect: Connect = open_connection,
        security: Trust | None = None,
    ) -> None:
        self._hello = hello
        self._security = security
        self._connect = connect
        self._receive_buffer = ReceiveBuffer()
        self._links: dict[str, GossipLink] = {}
        self._closed = False

    def send(self, address: str, payload: bytes) -> None:
        """Send a message to the node at ``address``, or lose it."""
        if self._closed:
            return
        link = self._links.pop(address, None)
        if link is None:
            self._make_room()
            link = GossipLink(address, self._open)
        self._links[address] = link  # the last one used comes last
        link.send(protocol.write_gossip(payload))

    async def introduction_of(self, address: str) -> Hello:
        """How the node introduces itself that answers at ``address``.

        :raises OSError: nobody answers, or not in time.
        :raises RioError: who answers is no node of this cluster.
        """
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            connection = await self._open(GossipLink(address, self._open))
        connection.close()
        return connection.ready.result()

    def reset(self, address: str) -> None:
        """Close the connection to ``address``. The next message makes a new one."""
        link = self._links.get(address)
        if link is not None:
            link.drop()

    def renew(self) -> None:
        """Other credentials hold now: make all connections anew."""
        for link in self._links.values():
            link.drop()

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        self._closed = True
        links, self._links = self._links, {}
        await asyncio.gather(*(link.close() for link in links.values()))

    def __len__(self) -> int:
        return len(self._links)

    async def _open(self, link: GossipLink) -> ClientConnection:
        loop = asyncio.get_running_loop()

        def make() -> ClientConnection:
            return ClientConnection(
                loop, link, self._hello(), FRAME_LIMIT, self._receive_buffer, self._security
            )

        tls = None if self._security is None else self._security.client_tls("node")
        connection = await self._connect(link.address, make, tls)
        try:
            protocol.check_cluster(connection.ready.result(), self._hello().cluster)
        except WrongServer:
            connection.close()
            raise
        if not connection.usable:
            raise ConnectionLost(f"{link.address} left right after it had introduced itself")
        _give_up_dead_links(connection.transport)
        return connection

    def _make_room(self) -> None:
        """Close the connections that were not used for a while, and the one that was used least
        recently if there are too many.
        """
        now = asyncio.get_running_loop().time()
        for address, link in list(self._links.items()):
            if now - link.used_at > IDLE_TIMEOUT or len(self._links) >= MAX_CONNECTIONS:
                link.drop()
                del self._links[address]
            else:
                break


class GossipLink:
    """One address: the connection, or the messages that wait for it."""

    def __init__(
        self, address: str, open_: Callable[[GossipLink], Awaitable[ClientConnection]]
    ) -> None:
        self.address = address
        self.used_at = 0.0
        self._open = open_
        self._connection: ClientConnection | None = None
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._connecting: asyncio.Task[None] | None = None
        self._retry_at = 0.0

    def send(self, frame: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.used_at = loop.time()
        connection = self._connection
        if connection is not None and connection.is_old:
            connection.close()
        if connection is not None and connection.usable:
            if connection.transport.get_write_buffer_size() + len(connection.writer) <= MAX_UNSENT:
                connection.put(frame)
        elif self._connecting is not None and not self._connecting.done():
            # A task that was cancelled before its first step is done, and still stands here.
            self._waiting.append(frame)
        elif self.used_at >= self._retry_at:
            self._retry_at = self.used_at + RETRY_INTERVAL
            self._waiting.append(frame)
            self._connecting = background.start(
                self._connect(), f"gossip connection to {self.address}"
            )

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                self._connection = await self._open(self)
        except (OSError, RioError) as error:
            logger.debug(
                "no gossip connection to %s: %s", self.address, str(error) or type(error).__name__
            )
        else:
            self._retry_at = 0.0
            for frame in self._waiting:
                self._connection.put(frame)
        finally:
            self._waiting.clear()
            self._connecting = None

    def drop(self) -> None:
        """Close without waiting; the next message makes a new connection."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
            connection.close()
        if self._connecting is not None:
            self._connecting.cancel()
            self._waiting.clear()

    async def close(self) -> None:
        connecting, connection = self._connecting, self._connection
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        if connection is not None:
            connection.close()
            await connection.wait_closed()

    # --- what a connection asks of its owner; a link makes no calls -------------------------------

    def refused(
        self, call: Call, error: tuple[str, str, Any], connection: ClientConnection
    ) -> None: ...
    def lost(self, connection: ClientConnection, calls: list[Call], error: RioError) -> None: ...
    def event(self, connection: ClientConnection, number: int, body: bytes) -> None: ...
    def stream_ended(self, number: int) -> None: ...


def _give_up_dead_links(transport: Any) -> None:
    """Stop writing to a peer that is gone without a word much sooner than after the quarter of an
    hour for which TCP would try.
    """
    own = transport.get_extra_info("socket")
    if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_LINK_TIMEOUT * 1000))
