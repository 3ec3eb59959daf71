"""How a client reaches its cluster: who lists the servers, and how it connects to one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from rio.contracts.membership import MembershipSnapshot, MembershipStorage
from rio.errors import ConfigurationError
from rio.security.trust import Trust
from rio.storage import Storage
from rio.storage._url_form import show_url
from rio.storage.local import LocalMembershipStorage
from rio.storage.storage import open_members
from rio.transport import protocol
from rio.transport.client_connection import ClientConnection, open_connection
from rio.transport.protocol import Hello

MakeConnection = Callable[[], ClientConnection]


class ClusterAccess(Protocol):
    """What a client is given to work with. :class:`StorageAccess` is for clients outside of the
    cluster; a server has another one for the client of its own objects.
    """

    async def open(self) -> None:
        """:raises StorageError: the storage cannot be used.
        :raises ConfigurationError: no server can be in it.
        """
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...

    async def read_members(self) -> MembershipSnapshot:
        """:raises StorageError: the storage did not answer."""
        ...

    def introduction(self) -> Hello:
        """How the client introduces itself to a server."""
        ...

    @property
    def security(self) -> Trust | None:
        """By what the client proves itself to a server, and a server to the client."""
        ...

    def connect(self, address: str, make: MakeConnection, /) -> Awaitable[ClientConnection]:
        """Connect, and wait until the server has introduced itself.

        :raises OSError: the server cannot be reached.
        :raises RioError: the server does not speak our protocol.
        """
        ...

    @property
    def name(self) -> str:
        """What lists the servers, as texts name it: without a password."""
        ...

    @property
    def is_patient(self) -> bool:
        """Whether a call waits until its deadline while there is no server at all."""
        ...

    @property
    def preferred_address(self) -> str:
        """The server that is asked first for an object whose place is not known. Empty: none is
        preferred.
        """
        ...


class StorageAccess:
    """Reads the members from a storage, and connects to them over TCP."""

    preferred_address = ""
    is_patient = True

    def __init__(
        self, storage: str | Storage | MembershipStorage, security: Trust | None = None
    ) -> None:
        self.security = security
        self._owned = open_members(storage) if isinstance(storage, str) else None
        opened = self._owned or storage
        self._membership = (
            opened.membership if isinstance(opened, Storage) else cast(MembershipStorage, opened)
        )
        self.name = show_url(storage) if isinstance(storage, str) else repr(self._membership)

    async def open(self) -> None:
        if isinstance(self._owned, LocalMembershipStorage):
            raise ConfigurationError(
                "memory:// is a new, empty storage for each client and server that opens it, so no"
                " server is in this one: give the client the rio.Storage of the servers, or use"
                " server.client"
            )
        if self._owned is not None:
            await self._owned.prepare()

    async def close(self) -> None:
        if self._owned is not None:
            await self._owned.close()

    async def read_members(self) -> MembershipSnapshot:
        return await self._membership.snapshot()

    def introduction(self) -> Hello:
        return Hello(protocol.VERSION, "client")

    def connect(self, address: str, make: MakeConnection, /) -> Awaitable[ClientConnection]:
        if self.security is None:
            return open_connection(address, make)
        self.security.refresh()
        return open_connection(address, make, self.security.client_tls("client"))
