"""The socket on which a server waits for connections."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator

from rio.identity import Address
from rio.transport.socket_file import OWNER_ONLY, SocketFile


class Listener:
    """Listens on an address. While it rests it accepts nothing; the system holds those who come.

    ``make``: makes the protocol of a connection. ``backlog``: the connections that the system holds
    until they are accepted; so many are accepted in one turn of the loop, at most.
    """

    def __init__(self, make: Callable[[], asyncio.BaseProtocol], backlog: int) -> None:
        self._make = make
        self._backlog = backlog
        self._servers: list[asyncio.Server] = []
        self._twins: list[socket.socket] = []
        """The same sockets under other descriptors: they are made while there are some."""
        self._file: SocketFile | None = None
        self.rests = False
        self._is_closed = False

    async def bind(self, address: Address, mode: int = OWNER_ONLY) -> Address:
        """Take the address, and return that of the first socket. Nothing is accepted yet.

        ``mode``: who may connect to a ``unix:`` address, as in ``chmod``.

        :raises OSError: the address cannot be had.
        """
        if address.path:
            await self._bind_file(SocketFile(address.path, mode, self._backlog))
            return address
        server = await asyncio.get_running_loop().create_server(
            self._make, *address, backlog=self._backlog, start_serving=False
        )
        self._keep(server)
        return Address(*server.sockets[0].getsockname()[:2])

    async def _bind_file(self, file: SocketFile) -> None:
        self._file = file
        try:
            server = await asyncio.get_running_loop().create_server(
                self._make, sock=file.socket, backlog=self._backlog, start_serving=False
            )
            self._keep(server)
        except BaseException:
            file.socket.close()
            raise

    def _keep(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        numbers = [number for each in server.sockets if (number := each.fileno()) >= 0]
        self._twins += [socket.socket(fileno=os.dup(number)) for number in numbers]

    async def start(self) -> None:
        """Accept connections from now on."""
        for server in self._servers:
            await server.start_serving()

    def numbers(self) -> Iterator[int]:
        """The descriptors of the sockets."""
        for server in self._servers:
            yield from (number for each in server.sockets if (number := each.fileno()) >= 0)
        yield from (each.fileno() for each in self._twins)

    def rest(self) -> None:
        """Accept nothing until :meth:`wake`. Idempotent."""
        if not self._is_closed:
            self.rests = True
            # What asyncio has accepted in this turn is given to its server in the next one.
            servers, self._servers = self._servers, []
            for server in servers:
                asyncio.get_running_loop().call_soon(server.close)

    async def wake(self) -> None:
        """Accept connections again.

        :raises OSError: there are no descriptors. It goes on resting.
        """
        loop = asyncio.get_running_loop()
        twins, self._twins = self._twins, []
        try:
            while twins and not self._is_closed:
                server = await loop.create_server(self._make, sock=twins[-1], backlog=self._backlog)
                twins.pop()
                self._keep(server)
            self.rests = False
        finally:
            self._twins += twins
            if self._is_closed:  # meanwhile
                self.close()

    def close(self) -> None:
        """Let the address go. Idempotent."""
        self._is_closed = True
        if self._file is not None:
            self._file.remove()
        self._close_servers()
        for each in self._twins:
            each.close()
        self._twins = []

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []
