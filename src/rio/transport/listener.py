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
        self._closing: set[asyncio.Future[None]] = set()
        """Futures of the servers that are about to be closed."""
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
            self._close_servers()

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
                self._let_go()

    async def close(self) -> None:
        """Let the address go. Idempotent. What was accepted before gets its protocol."""
        self._is_closed = True
        if self._file is not None:
            self._file.remove()
        self._let_go()
        if self._closing:
            await asyncio.wait(self._closing)

    def _let_go(self) -> None:
        self._close_servers()
        for each in self._twins:
            each.close()
        self._twins = []

    def _close_servers(self) -> None:
        loop = asyncio.get_running_loop()
        servers, self._servers = self._servers, []
        if servers:
            closed = loop.create_future()
            self._closing.add(closed)
            closed.add_done_callback(self._closing.discard)
            # asyncio gives what it has accepted to its server in the next turn, and drops it if
            # that is closed by then. A timer runs after all that is accepted in its turn.
            loop.call_later(0, loop.call_soon, _close_all, servers, closed)


def _close_all(servers: list[asyncio.Server], closed: asyncio.Future[None]) -> None:
    for server in servers:
        server.close()
    closed.set_result(None)
