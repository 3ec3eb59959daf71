"""Accepts the connections of a node, as long as the process has descriptors for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from rio import background
from rio.identity import Address
from rio.logs import Logger
from rio.server.descriptors import Descriptors, reserve
from rio.transport.listener import Listener

logger = Logger("rio.server")

LOOK_INTERVAL = 0.5
"""Seconds between two looks at the descriptors."""
BACKLOG = 100
"""Connections that the system holds until they are accepted, at most: asyncio's own number. Where
descriptors are few, a quarter of the reserve: so many may be accepted at once, and twice more
before that is noticed.
"""


class Acceptor:
    """``make``: makes the node's half of a connection. ``now``: seconds, for the log."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol], now: Callable[[], float]) -> None:
        self._make = make
        self._now = now
        self._descriptors = Descriptors(now)
        self._listener: Listener | None = None
        self._waking: asyncio.Task[None] | None = None
        self._look_at = 0.0
        self._is_about_to_rest = False

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    async def bind(self, address: Address, mode: int) -> Address:
        """Take the address, and return that of the first socket. ``mode``: who may connect to a
        ``unix:`` address.

        :raises OSError: the address cannot be had.
        """
        backlog = max(1, min(BACKLOG, reserve() // 4))
        listener = Listener(self._make_and_look, backlog)
        try:
            bound = await listener.bind(address, mode)
        except BaseException:
            await listener.close()
            raise
        self._listener = listener
        return bound

    async def start(self) -> None:
        """Accept connections from now on."""
        assert self._listener is not None
        await self._listener.start()

    def numbers(self) -> Iterator[int]:
        """The descriptors of the listening sockets."""
        return iter(()) if self._listener is None else self._listener.numbers()

    def _make_and_look(self) -> asyncio.BaseProtocol:
        # Each that comes is looked at: at the limit the loops spin, and asyncio floods the log.
        listener = self._listener
        if listener is not None and not self._is_about_to_rest and self._descriptors.are_scarce():
            self._is_about_to_rest = True
            asyncio.get_running_loop().call_soon(self._rest)  # uvloop is in the middle of accepting
        return self._make()

    def _rest(self) -> None:
        self._is_about_to_rest = False
        if self._listener is not None:
            self._listener.rest()

    def look(self) -> None:
        """Rest while descriptors are scarce. Call it now and then."""
        listener = self._listener
        if listener is None or self._now() < self._look_at:
            return
        self._look_at = self._now() + LOOK_INTERVAL
        if not listener.rests:
            if self._descriptors.are_scarce():
                listener.rest()
        elif self._waking is None and self._descriptors.are_enough():
            self._waking = background.start(listener.wake(), "accept connections again")
            self._waking.add_done_callback(self._note_woken)

    def _note_woken(self, task: asyncio.Task[None]) -> None:
        self._waking = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("no connections are accepted", exc_info=task.exception())

    async def close(self) -> None:
        """Let the address go. Idempotent."""
        if self._listener is not None:
            await self._listener.close()
            if self._waking is not None:
                await asyncio.wait((self._waking,))
                await self._listener.close()  # of what was made meanwhile
