"""A network that misbehaves on command: a TCP proxy between a client and its server."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import NamedTuple, Self

_CHUNK = 1 << 16
"""Bytes that are read at a time, at most."""


class Wire:
    """What happens to the connections that use it. ``requests`` go to the server, ``replies`` come
    from it.

    A :class:`Proxy` is the wire of all its connections, unless :meth:`Proxy.wire_of` says
    otherwise.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        """Seconds by which each piece arrives late, in both directions."""
        self.single_bytes = False
        """Whether bytes are passed on one at a time."""
        self.lost = 0
        """Replies that :meth:`lose_replies` has lost so far."""
        self._requests = _Direction()
        self._replies = _Direction()
        self._refusing = False
        self._to_lose = 0
        self._connections: set[_ProxiedConnection] = set()

    def hold(self, *, requests: bool = True, replies: bool = True) -> None:
        """Hold everything back that goes in these directions, until :meth:`release`. Connections
        stay, and new ones are accepted.
        """
        for direction in self._chosen(requests, replies):
            direction.open.clear()

    def drop(self, *, requests: bool = True, replies: bool = True) -> None:
        """Throw away what goes in these directions, until :meth:`release`. A connection that has
        lost something stays silent in that direction, since TCP has no gaps, and neither end is
        told.
        """
        for direction in self._chosen(requests, replies):
            direction.dropping = True

    def release(self) -> None:
        """End :meth:`drop`, and :meth:`hold`: what was held back arrives."""
        for direction in (self._requests, self._replies):
            direction.dropping = False
            direction.open.set()

    def cut(self) -> None:
        """Reset all present connections."""
        for connection in self._connections:
            connection.reset()

    def refuse(self) -> None:
        """Reset new connections at once, until :meth:`accept`."""
        self._refusing = True

    def accept(self) -> None:
        """End :meth:`refuse`."""
        self._refusing = False

    def lose_replies(self, count: int = 1) -> None:
        """Reset the connection instead of passing on a reply, ``count`` times: the server does what
        it is asked, and its client does not hear of it.
        """
        self._to_lose = count

    def _chosen(self, requests: bool, replies: bool) -> list[_Direction]:
        return [*([self._requests] if requests else []), *([self._replies] if replies else [])]

    # --- for the proxy ----------------------------------------------------------------------------

    async def _carry(self, connection: _ProxiedConnection, server: tuple[str, int]) -> None:
        """Pass on between a client and a server, until both have ended or the connection breaks."""
        self._connections.add(connection)
        try:
            if not self._refusing:
                await connection.open(*server)
                await self._pump_both(connection)
        except OSError:
            pass  # one of the two is not there any more: the reset tells the other
        finally:
            connection.reset()
            self._connections.discard(connection)

    async def _pump_both(self, connection: _ProxiedConnection) -> None:
        pumps = [
            asyncio.create_task(self._pump(connection.client, connection.server, self._requests)),
            asyncio.create_task(self._pump(connection.server, connection.client, self._replies)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
            for pump in done:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: _Side, target: _Side, direction: _Direction) -> None:
        """Pass on until the source has ended.

        :raises ConnectionError: the source or the target is gone, or a reply was lost on purpose.
        """
        pieces: asyncio.Queue[_Piece] = asyncio.Queue(64)
        reading = asyncio.create_task(self._read(source, pieces))
        is_silent = False
        try:
            while True:
                piece = await pieces.get()
                await asyncio.sleep(piece.due - asyncio.get_running_loop().time())
                await direction.open.wait()
                is_silent = is_silent or direction.dropping
                if not is_silent:
                    await self._pass_on(piece, target, direction)
                if not piece.data:
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, source: _Side, pieces: asyncio.Queue[_Piece]) -> None:
        while True:
            piece = await source.read(self.delay)
            await pieces.put(piece)
            if not piece.data:
                return

    async def _pass_on(self, piece: _Piece, target: _Side, direction: _Direction) -> None:
        if piece.error is not None:
            raise piece.error
        if not piece.data:
            target.end()
        elif direction is self._replies and self._to_lose:
            self._to_lose -= 1
            self.lost += 1
            raise ConnectionResetError
        else:
            await self._write(target, piece.data)

    async def _write(self, target: _Side, data: bytes) -> None:
        for piece in _single(data) if self.single_bytes else [data]:
            target.writer.write(piece)
            await target.writer.drain()
            if self.single_bytes:
                await asyncio.sleep(0)


class Proxy(Wire):
    """Listens on 127.0.0.1 at :attr:`port`, and passes bytes on to and from the server at
    ``host:port``::

        async with Proxy("127.0.0.1", 5432) as proxy:
            proxy.hold()                # the server falls silent, connections stay
            proxy.hold(requests=False)  # the server hears everything, and nobody hears the server
            proxy.release()             # what was held back arrives
            proxy.drop()                # what is sent from now on never arrives
            proxy.cut()                 # all connections are reset
            proxy.refuse()              # new connections are reset, until proxy.accept()
            proxy.delay = 0.5           # each piece arrives half a second late, both ways
            proxy.single_bytes = True   # nothing arrives in one piece
            proxy.lose_replies(3)       # the server obeys three times, and its client is not told

    :raises OSError: on entering, 127.0.0.1 cannot be listened on.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.target = host, port
        """The server's address. It may be changed; new connections go there."""
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        """The port at which it listens, once it is entered."""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wire_of(self, client: tuple[str, int]) -> Wire:
        """Return the wire of the client that connects from this address: the proxy itself.

        Override it to treat clients differently.
        """
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection = _ProxiedConnection(_Side(reader, writer))
        try:
            await self.wire_of(writer.get_extra_info("peername")[:2])._carry(
                connection, self.target
            )
        except asyncio.CancelledError:
            connection.reset()


class _Direction:
    """What happens to bytes that go one way."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.dropping = False


class _Piece(NamedTuple):
    """Bytes that were read at a time. At the end there are none, and an error if the connection
    broke.
    """

    due: float
    """The time of the loop at which it is passed on."""
    data: bytes
    error: OSError | None = None


class _Side:
    """The proxy's connection to a client or to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader

    async def read(self, delay: float) -> _Piece:
        """Return the next piece, to be passed on so many seconds later."""
        now = asyncio.get_running_loop().time
        try:
            data = await self._reader.read(_CHUNK)
            return _Piece(now() + delay, data)
        except OSError as error:
            return _Piece(now() + delay, b"", error)

    def end(self) -> None:
        """Pass the end on."""
        if not self.writer.is_closing():
            self.writer.write_eof()

    def reset(self) -> None:
        """Break the connection."""
        connected = self.writer.get_extra_info("socket")
        if connected is not None and not self.writer.is_closing():
            # Without this option the system would end the connection in order.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class _ProxiedConnection:
    """One client's connection and, once that is made, the connection to the server."""

    def __init__(self, client: _Side) -> None:
        self.client = client
        self.server: _Side
        self._ends = [client]
        self._was_reset = False

    async def open(self, host: str, port: int) -> None:
        """Connect to the server.

        :raises OSError: the server is not there, or the connection was reset meanwhile.
        """
        self.server = _Side(*await asyncio.open_connection(host, port))
        self._ends.append(self.server)
        if self._was_reset:
            raise ConnectionResetError

    def reset(self) -> None:
        self._was_reset = True
        for end in self._ends:
            end.reset()


def _single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]
