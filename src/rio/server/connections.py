"""The connections of a node: what they ask of it, and how they end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from rio._core.budget import Usage
from rio._core.spin import Spinner
from rio.cluster.provider import ClusterProvider
from rio.logs import Logger
from rio.security.disclosure import Disclosure
from rio.security.keys import Key
from rio.security.trust import Trust
from rio.server.catalog import Catalog
from rio.transport import protocol
from rio.transport.protocol import Hello
from rio.transport.pulse import LOOK_INTERVAL
from rio.transport.server_connection import ServerConnection
from rio.transport.tls_handshake import TlsHandshake

logger = Logger("rio.server")

FAREWELL_TIMEOUT = 1.0
"""Seconds that clients have to close after they were told that the server has stopped."""


class Connections:
    """The owner of the node's :class:`ServerConnection`\\ s.

    ``request_stop``: what to call if a client asks the node to stop. ``spinner``: what keeps the
    loop awake, if anything does.
    """

    def __init__(
        self,
        catalog: Catalog,
        cluster: ClusterProvider,
        *,
        frame_limit: int,
        request_stop: Callable[[], None],
        security: Trust | None,
        spinner: Spinner | None,
    ) -> None:
        self.security = security
        self.hello = Hello(protocol.VERSION, "node")
        """How the node introduces itself to those who connect to it."""
        self._catalog = catalog
        self._cluster = cluster
        self._frame_limit = frame_limit
        self._spinner = spinner
        self._request_stop = request_stop
        self._handshakes: dict[ServerConnection, TlsHandshake] = {}
        """Those of the connections that are not made yet."""
        self._all_gone = asyncio.Event()
        self._quotas = catalog.quotas
        self._disclosure = Disclosure(catalog.dispatcher.now)
        self._look_at = 0.0
        self.refuses = False

    def make(self) -> ServerConnection:
        """The node's half of a connection that is about to be made."""
        connection = ServerConnection(self._catalog.dispatcher, self, self._frame_limit)
        connection.spinner = self._spinner
        return connection

    def accept(self) -> asyncio.BaseProtocol:
        """The node's half of a connection that somebody has made to it. What it is encrypted with
        may change at any time.
        """
        tls = None if self.security is None else self.security.server_tls()
        return self.make() if tls is None else TlsHandshake(self.make(), tls, self)

    def refuse(self) -> None:
        """Take no more connections: one that the loop has accepted already is closed at once."""
        self.refuses = True

    def look(self) -> None:
        """Cut off the clients that are gone without a word. Called again and again."""
        self._quotas.look()
        now = self._catalog.dispatcher.loop.time()
        if now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL
            for connection in list(self._catalog.dispatcher.connections):
                connection.look()

    def check_keys(self) -> None:
        """Other credentials hold now: cut the connections whose key allows less than before."""
        assert self.security is not None
        known = self.security.credentials
        for connection in list(self._catalog.dispatcher.connections):
            key = connection.key
            if key is None or not connection.is_remote:
                continue
            now = known.keys.get(key.id)
            if now is None or now.is_narrower_than(key):
                connection.cut_off(f"key {key.id!r} was removed, or allows less now")
            else:
                connection.rights = connection.rights and known.rights.get(key.id)

    # --- what a connection asks -------------------------------------------------------------------

    def unsubscribe(self, connection: ServerConnection, number: int) -> None:
        self._catalog.subscribers.unsubscribe(connection, number)

    def forget(self, connection: ServerConnection) -> None:
        self._catalog.subscribers.disconnect(connection)
        if not self._catalog.dispatcher.connections:
            self._all_gone.set()

    def gossip(self, peer: Hello, payload: bytes) -> None:
        """Hear a member, or one that is newer than what this node has read; nobody else."""
        member = self._cluster.snapshot.find(peer.generation)
        if member is None or (member.address == peer.address and not member.status.terminal):
            self._cluster.receive(peer.generation, payload)

    def note_refused(self, peer: str, reason: str) -> None:
        self._quotas.log.warn("refused", "the connection from %s is refused: %s", peer, reason)

    def note_ended(self, peer: str, how: str, reason: str) -> None:
        self._quotas.log.warn(how, "%s the connection from %s: %s", how, peer, reason)

    def meet(self, connection: ServerConnection) -> None:
        handshake = self._handshakes.get(connection)
        if handshake is not None:  # it is the same stranger
            self.end(handshake)
        self._quotas.meet(connection, connection.address)

    def conceal(self, error: BaseException, key: Key) -> BaseException:
        return self._disclosure.conceal(error, key.id)

    def check_room(self, key: Key | None, address: str) -> None:
        self._quotas.check_room(None if key is None else key.id, address)

    def enter(self, key: Key | None, address: str) -> Usage:
        return self._quotas.enter(None if key is None else key.id, address)

    def begin(self, handshake: TlsHandshake) -> None:
        self._handshakes[handshake.connection] = handshake
        self._quotas.meet(handshake, handshake.address)

    def end(self, handshake: TlsHandshake) -> None:
        self._quotas.part(handshake, handshake.address)
        self._handshakes.pop(handshake.connection, None)

    def part(self, connection: ServerConnection) -> None:
        self._quotas.part(connection, connection.address)

    def leave(self, usage: Usage) -> None:
        self._quotas.leave(usage)

    def request_stop(self) -> None:
        logger.info("%s was asked to stop", self._catalog.address)
        self._request_stop()

    # --- the end of the node ----------------------------------------------------------------------

    def announce_stop(self) -> None:
        """Tell the peers that the node is about to stop: new objects go to other nodes."""
        for connection in self._catalog.dispatcher.connections:
            connection.put(protocol.write_goaway(f"{self._catalog.address} is about to stop"))

    async def close(self) -> None:
        """Have the clients close, so that none loses a call that is on its way; after
        :data:`FAREWELL_TIMEOUT`, close.
        """
        if self._handshakes:
            await asyncio.wait([each.cancel() for each in self._handshakes.values()])
        connections = self._catalog.dispatcher.connections
        for connection in list(connections):
            connection.dismiss(f"{self._catalog.address} has stopped")
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                while connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        for connection in list(connections):
            connection.cut_off(f"{self._catalog.address} has stopped")
