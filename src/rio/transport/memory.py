"""A connection inside one process.

An object calls its neighbour, and a test a whole cluster, through the same code as over TCP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from rio.transport.client_connection import ClientConnection
from rio.transport.server_connection import ServerConnection

End: TypeAlias = ServerConnection | ClientConnection


class MemoryTransport:
    """The transport of one end: what this end writes reaches the other end at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, own: End, other: End) -> None:
        self._loop = loop
        self._own = own
        self._closed = False
        self.write: Callable[[bytes], None] = other.receive
        self.peer: MemoryTransport | None = None

    @classmethod
    def join(cls, loop: asyncio.AbstractEventLoop, one: End, other: End) -> None:
        """Connect two ends."""
        first, second = cls(loop, one, other), cls(loop, other, one)
        first.peer, second.peer = second, first
        one.connection_made(cast(asyncio.BaseTransport, first))  # a transport by its methods
        other.connection_made(cast(asyncio.BaseTransport, second))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.write = _lose
            self._loop.call_soon(self._own.connection_lost, None)
            if self.peer is not None:
                self.peer.close()

    abort = close

    def is_closing(self) -> bool:
        return self._closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return "memory" if name == "peername" else default


def _lose(data: bytes) -> None:
    """What writes to an end that is closed."""
