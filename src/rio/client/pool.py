"""The servers that a client is connected to: one multiplexed connection for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from rio._core.calls import Call
from rio.errors import NotExecuted, RioError
from rio.transport.client_connection import ClientConnection
from rio.transport.protocol import HANDSHAKE_TIMEOUT

logger = logging.getLogger("rio.client")

LONGEST_AVOIDANCE = 5.0
"""Seconds for which new objects are kept away from a server that could not be reached, at most."""

Connect = Callable[["Peer"], Awaitable[ClientConnection]]


class PeerOwner(Protocol):
    """What a peer asks of its client."""

    def now(self) -> float: ...
    def unreachable(self, peer: Peer, call: Call, error: NotExecuted) -> None: ...
    def given_to(self, peer: Peer, connection: ClientConnection, call: Call) -> None: ...
    def ranks_changed(self) -> None: ...


class Peer:
    """One server: its connection, or the calls that wait for it."""

    def __init__(self, address: str, owner: PeerOwner, connect: Connect) -> None:
        self.address = address
        self.connection: ClientConnection | None = None
        self.draining = False
        """It has said that it is about to stop: new objects go elsewhere."""
        self.failures = 0
        """How often in a row it could not be reached."""
        self.avoid_until = 0.0
        """Until when new objects are kept away from it, because it could not be reached."""
        self._owner = owner
        self._connect = connect
        self._waiting: dict[Call, None] = {}
        self._connecting: asyncio.Task[None] | None = None

    def submit(self, call: Call) -> None:
        """Send a call now, or as soon as the server is connected."""
        if self.connection is not None and self.connection.usable:
            self._owner.given_to(self, self.connection, call)
            return
        self._waiting[call] = None
        self.start_connecting()

    def withdraw(self, call: Call) -> None:
        """The caller has given up a call that may be waiting here."""
        self._waiting.pop(call, None)

    @property
    def waiting(self) -> list[Call]:
        """The calls that wait for the connection."""
        return list(self._waiting)

    def rank(self, moment: float) -> tuple[bool, bool]:
        """What a new object is better not sent to sorts last: a server that drains, or that could
        not be reached a short while ago.
        """
        return self.draining, moment < self.avoid_until

    def renewed(self) -> None:
        """Another server has taken over the address."""
        self.failures = 0
        self.avoid_until = 0.0
        self.draining = False
        self._owner.ranks_changed()

    @property
    def idle(self) -> bool:
        """Whether nothing is lost by forgetting it."""
        return (
            not self._waiting
            and self._connecting is None
            and (self.connection is None or not self.connection.usable)
        )

    def start_connecting(self) -> asyncio.Task[None]:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(
                self._connect_and_send(), name=f"connect to {self.address}"
            )
        return self._connecting

    async def connected(self) -> ClientConnection:
        """The connection, made if necessary.

        :raises NotExecuted: the server cannot be reached.
        """
        if self.connection is None or not self.connection.usable:
            await asyncio.shield(self.start_connecting())
        if self.connection is None or not self.connection.usable:
            raise NotExecuted(f"{self.address} cannot be reached")
        return self.connection

    async def _connect_and_send(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                self.connection = await self._connect(self)
        except (OSError, RioError) as error:
            self._failed(
                NotExecuted(
                    f"{self.address} cannot be reached: {str(error) or type(error).__name__}"
                )
            )
        except BaseException as error:
            self._failed(
                NotExecuted(f"{self.address} was not connected to: {type(error).__name__}: {error}")
            )
            raise
        else:
            self._succeeded(self.connection)

    def _succeeded(self, connection: ClientConnection) -> None:
        if not connection.usable:  # it has said hello and goodbye in one breath
            self._failed(NotExecuted(f"{self.address} closed the connection at once"))
            return
        self._connecting = None
        self.renewed()
        connection.on_goaway = self._goes_away
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            self._owner.given_to(self, connection, call)

    def _failed(self, error: NotExecuted) -> None:
        self.connection = None
        self._connecting = None
        self.failures += 1
        self.avoid_until = self._owner.now() + min(
            LONGEST_AVOIDANCE, 0.1 * 2.0 ** min(self.failures, 32)
        )
        self._owner.ranks_changed()
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            self._owner.unreachable(self, call, error)

    def _goes_away(self) -> None:
        self.draining = True
        self._owner.ranks_changed()

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self.connection is not None:
            self.connection.close()
            await self.connection.wait_closed()
            self.connection = None
