"""A network that misbehaves on command: a TCP proxy to put between a client and its server."""

from __future__ import annotations

import asyncio
from typing import Self

CHUNK = 1 << 16


class Proxy:
    """Passes bytes on between whoever connects to :attr:`port` and the server at ``host:port``.

    ::

        async with Proxy("127.0.0.1", 5432) as proxy:
            proxy.hold()                            # the server falls silent, connections stay
            proxy.release()                         # what was held back arrives
            proxy.cut()                             # all connections are reset
            proxy.refuse()                          # and so are new ones, until proxy.accept()
            proxy.delay = 0.5                       # each piece arrives half a second late, in both directions
            proxy.single_bytes = True               # nothing arrives in one piece
            proxy.lose_replies(3)                   # three times the server does what it is asked, and nobody hears of it
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._to_lose = 0
        self._connections: set[_Connection] = set()
        self.delay = 0.0
        """Seconds by which every piece is late."""
        self.single_bytes = False
        """Pass on one byte at a time."""
        self.lost = 0
        """Replies that were lost so far."""
        self.port = 0
        """Where it listens on 127.0.0.1."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._refusing = True
        self.cut()
        await asyncio.gather(*(connection.ended.wait() for connection in self._connections))

    def hold(self) -> None:
        """Keep back everything, in both directions, until :meth:`release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Reset every connection there is."""
        for connection in self._connections:
            connection.reset()

    def refuse(self) -> None:
        """Reset new connections at once, until :meth:`accept`."""
        self._refusing = True

    def accept(self) -> None:
        self._refusing = False

    def lose_replies(self, count: int = 1) -> None:
        """Let requests pass, and where the server replies reset the connection instead; ``count`` times."""
        self._to_lose = count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            if not self._refusing:
                await self._join(connection, reader)
        except OSError:
            pass  # the server is not there: the client finds out by the reset
        finally:
            connection.reset()
            self._connections.discard(connection)
            connection.ended.set()

    async def _join(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        connection.writers.append(server_writer)
        if connection.was_reset:
            return
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, is_reply=False)),
            asyncio.create_task(self._pump(server_reader, connection.writers[0], is_reply=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        """Pass on until one side ends, or a reply is to be lost."""
        while data := await reader.read(CHUNK):
            if is_reply and self._to_lose:
                self._to_lose -= 1
                self.lost += 1
                return
            if self.delay:
                await asyncio.sleep(self.delay)
            for piece in _single(data) if self.single_bytes else [data]:
                await self._open.wait()
                writer.write(piece)
                await writer.drain()
                if self.single_bytes:
                    await asyncio.sleep(0)


class _Connection:
    """One client's connection and, once it is made, the one to the server."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.was_reset = False
        self.ended = asyncio.Event()

    def reset(self) -> None:
        self.was_reset = True
        for writer in self.writers:
            writer.transport.abort()


def _single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]
