"""How the client of a node's own objects reaches the cluster: through its node."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from rio.client.access import MakeConnection
from rio.cluster.provider import ClusterProvider
from rio.contracts.membership import MembershipSnapshot
from rio.errors import NodeEvicted
from rio.security.trust import Trust
from rio.server.catalog import Catalog
from rio.transport.client_connection import ClientConnection, open_connection
from rio.transport.memory import MemoryTransport
from rio.transport.protocol import Hello
from rio.transport.server_connection import ServerConnection


class NodeAccess:
    """Asks the own node first, without a socket, and the other nodes as any client does.

    ``introduction``: how the node introduces itself, once it has joined. ``accept`` makes the
    server's side of a connection.
    """

    def __init__(
        self,
        cluster: ClusterProvider,
        catalog: Catalog,
        *,
        introduction: Callable[[], Hello],
        accept: Callable[[], ServerConnection],
        security: Trust | None,
    ) -> None:
        self.introduction = introduction
        self.security = security
        self._cluster = cluster
        self._catalog = catalog
        self._accept = accept
        self._context = contextvars.Context()

    name = "the membership of this server"

    @property
    def is_patient(self) -> bool:
        """A node that drains must not wait for another that may never come."""
        return not self._catalog.draining

    async def open(self) -> None:
        # The node takes the calls of its own objects in this context, and not in the caller's.
        self._context = contextvars.copy_context()

    async def close(self) -> None: ...

    async def read_members(self) -> MembershipSnapshot:
        try:
            return await self._cluster.refresh()
        except NodeEvicted:
            return self._cluster.snapshot  # the server hears of it itself, and stops

    @property
    def preferred_address(self) -> str:
        return "" if self._catalog.draining else self._cluster.address

    async def connect(self, address: str, make: MakeConnection, /) -> ClientConnection:
        if address != self._cluster.address:
            tls = None if self.security is None else self.security.client_tls("node")
            return await open_connection(address, make, tls)
        connection = make()
        MemoryTransport.join(asyncio.get_running_loop(), connection, self._accept())
        await connection.ready
        connection.handover = self._context
        return connection
