"""The servers that a client knows: one multiplexed connection for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Protocol

from rio import background
from rio._core.calls import Call
from rio._core.frame import ReceiveBuffer
from rio._core.spin import Spinner
from rio.client.access import ClusterAccess
from rio.contracts.membership import MembershipSnapshot, MemberStatus
from rio.errors import NodeEvicted, NotAuthenticated, NotExecuted, RioError, WrongServer
from rio.security.keys import Key
from rio.transport.client_connection import ClientConnection, ClientOwner
from rio.transport.protocol import HANDSHAKE_TIMEOUT, Hello
from rio.transport.pulse import LOOK_INTERVAL

FIRST_AVOIDANCE = 0.2
"""Seconds for which new objects are kept away from a server after it could not be reached once;
doubled with each further failure, up to the longest.
"""
LONGEST_AVOIDANCE = 5.0


class PeerOwner(Protocol):
    """What a peer asks of its client."""

    def now(self) -> float: ...
    def resume(self, peer: Peer, call: Call) -> None: ...
    def send_elsewhere(self, call: Call, error: NotExecuted) -> None: ...
    def yield_calls(self, connection: ClientConnection) -> None:
        """A connection takes no more calls: those that follow wait for those that are on it."""
        ...

    def reconsider(self) -> None:
        """A server has become a better or a worse place for new objects."""
        ...


class PoolOwner(PeerOwner, ClientOwner, Protocol):
    """What a pool asks of its client."""

    def introduction(self) -> Hello:
        """How the client introduces itself to a server."""
        ...

    def check_identity(self, address: str, server: Hello) -> None:
        """Make sure that the server that was found at an address is the one that was meant.

        :raises WrongServer: it is not. No call was sent to it.
        """
        ...


class Pool:
    """All peers of a client, by address.

    ``spinner``: what keeps the loop awake, if anything does.
    """

    def __init__(
        self,
        access: ClusterAccess,
        owner: PoolOwner,
        frame_limit: int,
        spinner: Spinner | None = None,
    ) -> None:
        self._access = access
        self._owner = owner
        self._frame_limit = frame_limit
        self._receive_buffer = ReceiveBuffer()
        self._spinner = spinner
        self._peers: dict[str, Peer] = {}
        self._retired: dict[ClientConnection, str] = {}
        """Connections that take no more calls, and the addresses of their servers."""
        self._timer: asyncio.TimerHandle | None = None
        """When the connections are looked at next; ``None``: they are not."""

    def watch(self) -> None:
        """Look at the connections from now on: those that are dead are given up."""
        self.use_credentials()
        self._close_retired()
        for connection in list(self.connections):
            connection.look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_INTERVAL, self.watch)

    def rest(self) -> None:
        """Look at them no longer. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def peer(self, address: str) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(address, self._owner, self._open)
        return peer

    def address_of(self, connection: ClientConnection) -> str:
        """The address of the server behind a connection; empty if it is not in use any more."""
        addresses = (
            address for address, peer in self._peers.items() if peer.connection is connection
        )
        return next(addresses, "")

    @property
    def connections(self) -> Iterator[ClientConnection]:
        for peer in self._peers.values():
            if peer.connection is not None:
                yield peer.connection
        yield from self._retired

    def __len__(self) -> int:
        return len(self._peers)

    async def _open(self, address: str) -> ClientConnection:
        connection = await self._access.connect(address, self._new_connection)
        try:
            self._owner.check_identity(address, connection.ready.result())
        except WrongServer:
            connection.close()
            raise
        return connection

    def _new_connection(self) -> ClientConnection:
        connection = ClientConnection(
            asyncio.get_running_loop(),
            self._owner,
            self._owner.introduction(),
            self._frame_limit,
            self._receive_buffer,
            self._access.security,
        )
        connection.spinner = self._spinner
        return connection

    # --- other credentials ------------------------------------------------------------------------

    def use_credentials(self) -> None:
        """If another key is to be used, or a proof is old, prove ourselves anew over another
        connection. What is under way ends where it is.
        """
        security = self._access.security
        if security is None:
            return
        security.refresh()
        own_key = security.own_key(self._owner.introduction().role)
        for peer in self._peers.values():
            if (connection := peer.retire_unless(own_key)) is not None:
                self._retired[connection] = peer.address

    def _close_retired(self) -> None:
        for connection in [each for each in self._retired if each.is_idle]:
            del self._retired[connection]
            connection.close()

    # --- following the membership -----------------------------------------------------------------

    def renew(self, address: str) -> None:
        """Another server has taken over an address."""
        if address in self._peers:
            self._peers[address].renew()

    def follow(self, members: MembershipSnapshot) -> None:
        """Leave the servers that the cluster has left."""
        listed = {member.address for member in members.members if not member.status.terminal}
        dead = {member.address for member in members.members if member.status == MemberStatus.DEAD}
        for address in sorted(dead - listed):
            if address in self._peers:
                self._peers[address].abandon()
            self._break_off_retired(
                NodeEvicted(f"the cluster has declared {address} dead"), address
            )
        gone = [
            address for address, peer in self._peers.items() if address not in listed and peer.idle
        ]
        for address in gone:
            del self._peers[address]

    def break_off(self, reason: str) -> None:
        """Break all connections: the servers behind them are not to be asked any more."""
        for peer in list(self._peers.values()):
            peer.break_off(NodeEvicted(f"{reason}: {peer.address} may not belong to it"))
        self._break_off_retired(NodeEvicted(reason))

    def _break_off_retired(self, error: RioError, address: str | None = None) -> None:
        for connection, own in list(self._retired.items()):
            if address in (None, own):
                del self._retired[connection]
                connection.break_off(error)

    def relax(self) -> None:
        """Have idle connections give memory back."""
        for connection in self.connections:
            connection.relax()

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        self.rest()
        peers, self._peers = self._peers, {}
        retired, self._retired = self._retired, {}
        for peer in peers.values():
            peer.begin_to_close()
        for connection in retired:
            connection.close()
        async with AsyncExitStack() as stack:  # all of them, also after a cancellation
            for peer in peers.values():
                stack.push_async_callback(peer.close)
            for connection in retired:
                stack.push_async_callback(connection.wait_closed)


class Peer:
    """One server: its connection, or the calls that wait for it."""

    def __init__(
        self,
        address: str,
        owner: PeerOwner,
        open_connection: Callable[[str], Awaitable[ClientConnection]],
    ) -> None:
        self.address = address
        self.connection: ClientConnection | None = None
        self.draining = False
        """The server has said that it is about to stop: new objects go elsewhere."""
        self.failures = 0
        """How often in a row the server could not be reached."""
        self.avoid_until = 0.0
        """Until when new objects are kept away from the server, because it could not be reached."""
        self._owner = owner
        self._open = open_connection
        self._waiting: dict[Call, None] = {}
        self._connecting: asyncio.Task[None] | None = None

    def rank(self, moment: float) -> tuple[bool, bool]:
        """How good a place for new objects it is. A server that drains ranks last, and before it a
        server that could not be reached a short while ago.
        """
        return self.draining, moment < self.avoid_until

    def renew(self) -> None:
        """Another server has taken over the address."""
        self.failures = 0
        self.avoid_until = 0.0
        self.draining = False
        self._owner.reconsider()

    # --- calls that wait for the connection -------------------------------------------------------

    def add(self, call: Call) -> None:
        """Have a call wait until the server is connected."""
        self._waiting[call] = None
        self._start_connecting()

    def withdraw(self, call: Call) -> None:
        """The caller has given up a call that waits here."""
        self._waiting.pop(call, None)

    def _take_waiting(self) -> dict[Call, None]:
        waiting, self._waiting = self._waiting, {}
        return waiting

    # --- the connection ---------------------------------------------------------------------------

    async def connect(self) -> ClientConnection:
        """The connection, made if necessary.

        :raises NotExecuted: the server cannot be reached.
        """
        if self.connection is None or not self.connection.usable:
            await asyncio.wait((self._start_connecting(),))
        if self.connection is None or not self.connection.usable:
            raise NotExecuted(f"{self.address} cannot be reached")
        return self.connection

    @property
    def idle(self) -> bool:
        """Whether nothing is lost by forgetting it."""
        return (
            not self._waiting
            and self._connecting is None
            and (self.connection is None or not self.connection.usable)
        )

    def abandon(self) -> None:
        """Break the connection to a server that the cluster has declared dead.

        Its process may be frozen, with its connections open: it will not answer any more.
        """
        self.break_off(NodeEvicted(f"the cluster has declared {self.address} dead"))

    def retire_unless(self, key: Key) -> ClientConnection | None:
        """Give the connection away, if there is one over a socket that has proven itself by another
        key, or long ago: further calls make another one.
        """
        connection = self.connection
        if connection is None or not connection.usable or connection.handover is not None:
            return None
        if connection.key == key and not connection.is_old:
            return None
        self.connection = None
        connection.usable = False
        self._owner.yield_calls(connection)
        return connection

    def break_off(self, reason: RioError) -> None:
        """Break the connection: an answer that would still come is not to be trusted."""
        if self.connection is not None and self.connection.usable:
            self.connection.break_off(reason)

    def begin_to_close(self) -> None:
        """Send what is written, and connect no more."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self.connection is not None:
            self.connection.close()

    async def close(self) -> None:
        self.begin_to_close()
        try:
            if self._connecting is not None:
                await asyncio.gather(self._connecting, return_exceptions=True)
        finally:
            connection, self.connection = self.connection, None
            if connection is not None:
                connection.close()  # once more: it may have been made meanwhile
        if connection is not None:
            await connection.wait_closed()

    def _start_connecting(self) -> asyncio.Task[None]:
        if self._connecting is None or self._connecting.done():
            self._connecting = background.start(self._connect(), f"connect to {self.address}")
            self._connecting.add_done_callback(self._settle)
        return self._connecting

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                self.connection = await self._open(self.address)
        except NotAuthenticated as error:
            self._use_failure(NotAuthenticated(f"{self.address}: {error.message}"))
        except (OSError, RioError) as error:
            reason = str(error) or type(error).__name__
            self._use_failure(NotExecuted(f"{self.address} cannot be reached: {reason}"))
        except Exception as error:  # an address that is no name of a host raises a UnicodeError
            reason = f"{type(error).__name__}: {error}"
            self._use_failure(NotExecuted(f"{self.address} cannot be reached: {reason}"))
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            self._use_failure(NotExecuted(f"{self.address} was not connected to: {reason}"))
            raise
        else:
            self._use_connection(self.connection)

    def _settle(self, task: asyncio.Task[None]) -> None:
        """Note the failure of a task that did not do so itself: one that is cancelled before its
        first step runs none of its code.
        """
        if task is self._connecting:
            self._connecting = None
            if task.cancelled():
                self._use_failure(NotExecuted(f"{self.address} was not connected to: cancelled"))

    def _use_connection(self, connection: ClientConnection) -> None:
        if not connection.usable:  # the server has said hello and goodbye in one breath
            self._use_failure(NotExecuted(f"{self.address} closed the connection at once"))
            return
        self._connecting = None
        self.renew()
        connection.on_goaway = self._note_draining
        for call in self._take_waiting():
            self._owner.resume(self, call)

    def _use_failure(self, error: NotExecuted) -> None:
        self.connection = None
        self._connecting = None
        self.failures += 1
        doublings = min(self.failures - 1, 32)  # more would overflow a float
        self.avoid_until = self._owner.now() + min(
            LONGEST_AVOIDANCE, FIRST_AVOIDANCE * 2.0**doublings
        )
        self._owner.reconsider()
        for call in self._take_waiting():
            self._owner.send_elsewhere(call, error)

    def _note_draining(self) -> None:
        self.draining = True
        self._owner.reconsider()
