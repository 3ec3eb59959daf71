"""The client: sends messages to objects wherever they live, and follows them when they move."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import warnings
from collections.abc import Awaitable, Callable, Container
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload
from zlib import crc32

from rio import errors
from rio._core.calls import Call, Caller, ClientHalf, MessageCodec
from rio._core.clock import Clock
from rio._core.frame import DEFAULT_FRAME_LIMIT, ReceiveBuffer
from rio.backoff import backoff
from rio.client import retry
from rio.client.admin import AdminCommand
from rio.client.pool import Peer
from rio.client.retry import Next
from rio.client.subscription import Overflow, Subscription
from rio.contracts.membership import Member, MembershipSnapshot, MembershipStorage, MemberStatus
from rio.errors import (
    BadReply,
    CallTimeout,
    ConnectionLost,
    Draining,
    Expired,
    NodeEvicted,
    NoServersAvailable,
    NotExecuted,
    RioError,
)
from rio.identity import MAX_TYPE_NAME_BYTES, check_name, type_name_of
from rio.objects import system_messages
from rio.objects.application_error import ApplicationError
from rio.objects.message import (
    NO_REPLY_DECLARED,
    DynamicMessage,
    Message,
    encode_message,
    reply_type_of,
)
from rio.objects.ref import Ref, expected_reply
from rio.objects.service_object import ServiceObject
from rio.storage import Storage, open_storage
from rio.transport import call_context, codec, protocol
from rio.transport.client_connection import ClientConnection, open_connection
from rio.transport.codec import ENCODER
from rio.transport.protocol import Hello, Kind

logger = logging.getLogger("rio.client")

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E", bound=Message[Any])

PATIENCE = 5
"""Attempts after which a call gives up if no server at all can be reached."""


class Client(Caller):
    """Sends messages to objects. Safe to share between all tasks of one event loop; use it as
    ``async with rio.Client(storage) as client``.

    ``storage``: a URL, or a :class:`rio.storage.Storage` or :class:`MembershipStorage` of one's
    own, which the client only reads; one that is given as an object is not closed. ``timeout``:
    seconds that a call may take, unless it says otherwise itself. ``refresh_interval``: seconds
    between two reads of the membership; it is read at once when a server cannot be reached.
    ``clock``: what times the deadlines, the system's unless given.
    """

    def __init__(
        self,
        storage: str | Storage | MembershipStorage,
        *,
        timeout: float = 30.0,
        refresh_interval: float = 5.0,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(default_timeout=timeout, clock=clock)
        self._owned_storage = open_storage(storage) if isinstance(storage, str) else None
        opened = self._owned_storage or storage
        self._membership = (
            opened.membership if isinstance(opened, Storage) else cast(MembershipStorage, opened)
        )
        self._refresh_interval = refresh_interval
        self._frame_limit = frame_limit
        self._receive_buffer = ReceiveBuffer()
        self._rng = rng or random.Random()
        self._members = MembershipSnapshot(0, 0)
        self._peers: dict[str, Peer] = {}
        self._preferred: list[Peer] = []
        """What :meth:`_best_peers` said for a call that nobody has refused; good until
        ``_preferred_until``.
        """
        self._preferred_until = -math.inf
        self._offline: dict[Call, Peer | asyncio.TimerHandle | None] = {}
        """Calls that are on no connection: they wait for one, for their next attempt, or (``None``)
        for news of the membership.
        """
        self._subscriptions: dict[int, Subscription[Any]] = {}
        self._last_subscription = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    # --- opening and closing ----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Read the membership. Servers are connected when they are first needed.

        :raises StorageError: the membership cannot be read.
        """
        self.loop = asyncio.get_running_loop()
        if self._owned_storage is not None:
            await self._owned_storage.membership.prepare()
        self._members = await self._read_members()
        self.ranks_changed()
        self._keeper = self.loop.create_task(
            self._keep_members(), name="rio client: follow the membership"
        )

    async def close(self) -> None:
        """Close all connections; calls that wait get :class:`rio.errors.ConnectionLost` or
        :class:`NotExecuted`. Idempotent.
        """
        self.loop = None
        for call in list(self._offline):
            self._withdraw(call)
            call.fail(NotExecuted("the client was closed before the call was sent"))
        for subscription in list(self._subscriptions.values()):
            await subscription.close()
        tasks = [task for task in (self._keeper, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._keeper = None
        for peer in self._peers.values():
            await peer.close()
        self._peers.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._owned_storage is not None:
            await self._owned_storage.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_keeper", None) is not None:
            _warn(
                f"{self!r} was never closed: use it as `async with`, or await its close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def not_started(self) -> None:
        raise RuntimeError(
            "this client is not open: use it as `async with rio.Client(...) as client`, or await client.start()"
        )

    # --- sending ----------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def send(
            self,
            object_type: type[ServiceObject] | str,
            id: str,
            message: Message[R],
            /,
            *,
            timeout: float | None = None,
        ) -> Awaitable[R]: ...
        @overload
        def send(
            self,
            object_type: type[ServiceObject] | str,
            id: str,
            message: DynamicMessage,
            /,
            *,
            timeout: float | None = None,
        ) -> Awaitable[Any]: ...
        @overload
        def send(
            self,
            object_type: type[ServiceObject] | str,
            id: str,
            message: Message[Any] | DynamicMessage,
            /,
            *,
            returns: type[T],
            timeout: float | None = None,
        ) -> Awaitable[T]: ...
        def send(
            self,
            object_type: Any,
            id: str,
            message: Any,
            /,
            *,
            returns: Any = None,
            timeout: float | None = None,
        ) -> Awaitable[Any]:
            """Send a message to an object, wherever it lives, and await the reply. ``timeout`` is
            in seconds.

            The reply is decoded into ``returns``, else into what the message declares, else into
            what the handler of ``object_type`` (if that is a class) returns, else into plain
            values. Cancelling the awaiting task cancels the work.

            :raises ApplicationError: as the handler raised it.
            :raises NotExecuted: it did not run: no server, no time left, or none that could take
            it.
            :raises OutcomeUnknown: it may have run; declare the message ``idempotent`` or
            ``readonly`` to have it repeated instead.
            :raises CallRefused: unknown message, undecodable payload, deadlock.
            :raises HandlerFailed: the handler failed.
            """
            ...

    def ref(self, object_type: type[T], id: str, /) -> T:
        """A reference to an object: ``await client.ref(Account, "ada").deposit(Deposit(1))``.

        Nothing is sent until a handler is called.
        """
        return cast(T, Ref(self, object_type, id))

    @overload
    def subscribe(
        self,
        object_type: type[ServiceObject] | str,
        id: str,
        /,
        *,
        limit: int = 1024,
        overflow: Overflow = "raise",
    ) -> Subscription[DynamicMessage]: ...
    @overload
    def subscribe(
        self,
        object_type: type[ServiceObject] | str,
        id: str,
        event: type[E],
        /,
        *events: type[E],
        limit: int = 1024,
        overflow: Overflow = "raise",
    ) -> Subscription[E]: ...
    def subscribe(
        self,
        object_type: type[ServiceObject] | str,
        id: str,
        /,
        *events: type[Message[Any]],
        limit: int = 1024,
        overflow: Overflow = "raise",
    ) -> Subscription[Any]:
        """What an object publishes: ``async for event in client.subscribe(Room, "lobby", Joined,
        Left)``.

        Only events of the given classes are delivered; with none given, all are, as
        :class:`DynamicMessage`. At most ``limit`` events wait for a slow reader; then ``overflow``
        says what happens: ``"raise"`` drops the oldest and raises :class:`rio.errors.Lagged` at the
        next read, after which reading can go on; ``"drop_oldest"`` and ``"drop_newest"`` count in
        :attr:`Subscription.missed`. The subscription follows the object when it moves. Enter it
        (``async with``) to be sure that it stands, or just read.
        """
        return Subscription(self, object_type, id, events, limit, overflow)

    async def ping(self, address: str) -> float:
        """Seconds that the event loop of the server at ``address`` takes to answer.

        :raises NotExecuted: it cannot be reached. :raises ConnectionLost: it went away.
        """
        connection = await self._peer(address).connected()
        began = self.now()
        await connection.request(Kind.PING)
        return self.now() - began

    async def admin(self, command: AdminCommand) -> None:
        """Have a command carried out.

        :raises NotExecuted: the server cannot be reached.
        """
        await command.run(self)

    async def ask_to_leave(self, address: str) -> None:
        """Ask the server at ``address`` to drain and stop; it has begun on return.

        :raises NotExecuted: it cannot be reached.
        """
        await (await self._peer(address).connected()).request(Kind.GOAWAY)

    @property
    def members(self) -> MembershipSnapshot:
        """The membership as this client knows it."""
        return self._members

    # --- what the core asks -----------------------------------------------------------------------

    def name_of(self, object_type: type[Any] | str) -> str:
        name = object_type if isinstance(object_type, str) else type_name_of(object_type)
        check_name("type name", name, MAX_TYPE_NAME_BYTES)
        return name

    def describe(self, message: Any) -> MessageCodec:
        if isinstance(message, DynamicMessage):
            return MessageCodec(None, encode_message, codec.decoder_of(Any), dynamic_reply=True)
        if not isinstance(message, Message):
            raise TypeError(
                f"send() takes a rio.Message or a rio.DynamicMessage, got {type(message).__name__}: {message!r:.200}"
            )
        cls = type(message)
        declared = reply_type_of(cls)
        bare = declared is NO_REPLY_DECLARED
        return MessageCodec(
            type_name_of(cls),
            ENCODER.encode,
            codec.decoder_of(Any if bare else declared),
            repeatable=cls.__rio_idempotent__ or cls.__rio_readonly__,
            dynamic_reply=bare,
        )

    def reply_decoder(
        self, message: Any, object_type: type[Any] | str, returns: Any
    ) -> Callable[[bytes], Any]:
        return codec.decoder_of(expected_reply(object_type, message, returns))

    def unencodable(self, message: Any, error: Exception) -> RioError:
        return (
            error
            if isinstance(error, RioError)
            else codec.encode_error(error, message, errors.BadMessage)
        )

    def undecodable_reply(self, call: Call, error: Exception) -> RioError:
        text = str(codec.decode_error(error, object, BadReply))
        return BadReply(
            f"the reply of {call.type_name}/{call.id} to {call.message_name} is not what was expected: {text}"
        )

    context_of = staticmethod(call_context.nested_context)

    def arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(max(0.001, deadline - self.now()), self._expire)

    def _expire(self) -> None:
        """End the calls whose deadline has passed, and watch the next deadline."""
        moment, earliest = self.now(), math.inf
        for peer in self._peers.values():
            if peer.connection is not None:
                late, next_deadline = peer.connection.overdue(moment)
                earliest = min(earliest, next_deadline)
                for call in late:
                    call.give_up(
                        CallTimeout(
                            f"{call.type_name}/{call.id} did not answer {call.message_name} in time; it may have run"
                        )
                    )
        for call in list(self._offline):
            if call.deadline <= moment:
                self._withdraw(call)
                what = f"{call.message_name} to {call.type_name}/{call.id}"
                call.fail(Expired(f"{what} found no server that could take it in time{_why(call)}"))
            else:
                earliest = min(earliest, call.deadline)
        self.rearm(earliest)
        if earliest < math.inf:
            self.arm(earliest)

    # --- finding a server -------------------------------------------------------------------------

    def route(self, call: Call) -> None:
        """Send a call whose object's place is not known."""
        if call.future.done():
            return
        peer = self._choose(call)
        if peer is None:
            self._offline[call] = None
            self._refresh_soon()
        else:
            self._submit(peer, call)

    def _choose(self, call: Call) -> Peer | None:
        """A server that may take an object that is nowhere yet, or knows where it is.

        Every client makes the same choice for an object, so that its first calls meet on one
        server, in their order, without a redirect.
        """
        if call.refusals:
            peers, _ = self._best_peers(call.refusals)
        else:
            if self.now() >= self._preferred_until:
                self._preferred, self._preferred_until = self._best_peers({})
            peers = self._preferred
        if not peers:
            return None
        return peers[(crc32(f"{call.type_name}/{call.id}".encode()) + call.attempts) % len(peers)]

    def _best_peers(self, refusals: Container[str]) -> tuple[list[Peer], float]:
        """The servers that new objects are best sent to, but for those that have refused, and until
        when that stays so by itself.
        """
        moment = self.now()
        peers = [
            self._peer(member.address)
            for member in self._members.active
            if member.address not in refusals
        ]
        best = min((peer.rank(moment) for peer in peers), default=None)
        until = min(
            (peer.avoid_until for peer in peers if moment < peer.avoid_until), default=math.inf
        )
        return [peer for peer in peers if peer.rank(moment) == best], until

    def ranks_changed(self) -> None:
        """Servers came or went, or have become better or worse places for new objects."""
        self._preferred_until = -math.inf

    def _submit(self, peer: Peer, call: Call) -> None:
        self._offline[call] = peer
        peer.submit(call)

    def given_to(self, peer: Peer, connection: ClientConnection, call: Call) -> None:
        self._offline.pop(call, None)
        try:
            connection.submit(call)
        except RioError as error:
            call.fail(error)

    def unreachable(self, peer: Peer, call: Call, error: NotExecuted) -> None:
        self._offline.pop(call, None)
        self._refresh_soon()
        nowhere = all(self._peer(member.address).failures for member in self._members.active)
        if nowhere and call.attempts >= PATIENCE:
            call.fail(
                NoServersAvailable(
                    f"none of the {len(self._members.active)} active members can be reached; the last one: {error}"
                )
            )
        else:
            self._later(call, error)

    def _peer(self, address: str) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(address, self, self._connect)
        return peer

    async def _connect(self, peer: Peer) -> ClientConnection:
        return await open_connection(peer.address, self._new_connection)

    def _new_connection(self) -> ClientConnection:
        return ClientConnection(
            self.loop, self, self._hello(), self._frame_limit, self._receive_buffer
        )

    def _hello(self) -> Hello:
        return Hello(protocol.VERSION, "client")

    # --- after an answer that is an error ---------------------------------------------------------

    def refused(
        self, call: Call, error: tuple[str, str, Any], connection: ClientConnection
    ) -> None:
        """A server has answered with an error."""
        code, text, detail = error
        if code == ApplicationError.code:
            self.learn(call.type_name, call.id, connection)
            call.fail(ApplicationError.from_wire(detail))
        else:
            self._failed(call, errors.from_code(code, text, detail), connection)

    def lost(self, connection: ClientConnection, calls: list[Call], error: RioError) -> None:
        """A connection is gone, and with it the answers to these calls."""
        for subscription in list(self._subscriptions.values()):
            subscription.connection_lost(connection)
        for call in calls:
            self._failed(call, error, connection)

    def _failed(self, call: Call, error: RioError, connection: ClientConnection) -> None:
        if call.future.done():
            return
        if self.loop is None:
            call.fail(error)
            return
        match retry.decide(error, repeatable=call.repeatable):
            case Next.FOLLOW:
                self._follow(call, error)
            case Next.ANOTHER:
                self._ask_another(call, error, connection)
            case Next.LATER:
                self.forget(call.type_name, call.id)
                if isinstance(error, (Draining, ConnectionLost)):
                    self._refresh_soon()
                self._later(call, error)
            case Next.RAISE:
                call.fail(error)

    def _follow(self, call: Call, error: RioError) -> None:
        address, generation = error.detail
        call.hops += 1
        member = self._members.find(generation)
        if call.hops > retry.MAX_REDIRECTS:
            call.fail(
                errors.Redirected(
                    f"gave up after {retry.MAX_REDIRECTS} redirects: {error.message}", error.detail
                )
            )
        elif (
            member is None
            or member.status.terminal
            or member.address != address
            or self.now() < self._peer(address).avoid_until
        ):
            self._refresh_soon()
            self._later(call, error)
        else:
            self._submit(self._peer(address), call)

    def _ask_another(self, call: Call, error: RioError, connection: ClientConnection) -> None:
        call.refusals = {**(call.refusals or {}), self._address_of(connection): error.message}
        call.last_error = error
        self.route(call)

    def _address_of(self, connection: ClientConnection) -> str:
        return next(
            (peer.address for peer in self._peers.values() if peer.connection is connection), ""
        )

    def _later(self, call: Call, error: RioError) -> None:
        """Try again after a while; the deadline ends it."""
        call.attempts += 1
        call.hops = 0
        call.last_error = error
        delay = backoff(call.attempts, retry.FIRST_DELAY, retry.LONGEST_DELAY, self._rng)
        self._offline[call] = self.loop.call_later(delay, self._again, call)

    def _again(self, call: Call) -> None:
        self._offline.pop(call, None)
        self.route(call)

    def given_up(self, call: Call) -> None:
        self._withdraw(call)

    def _withdraw(self, call: Call) -> None:
        place = self._offline.pop(call, None)
        if isinstance(place, Peer):
            place.withdraw(call)
        elif place is not None:
            place.cancel()

    # --- the membership ---------------------------------------------------------------------------

    async def _read_members(self) -> MembershipSnapshot:
        return await self._membership.snapshot()

    async def _keep_members(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_interval)
            for peer in self._peers.values():
                if peer.connection is not None:
                    peer.connection.relax()
            await asyncio.shield(self._refresh_soon())

    def _refresh_soon(self) -> asyncio.Task[None]:
        refreshing = self._refreshing
        if refreshing is None:
            refreshing = self._refreshing = self.loop.create_task(
                self._refresh(), name="rio client: read the membership"
            )
        return refreshing

    async def _refresh(self) -> None:
        """Read the membership, and send what waited for it."""
        try:
            self.use_members(await self._read_members())
        except (
            RioError
        ) as error:  # a StorageError, or the NodeEvicted of the node whose client this is
            logger.warning("the membership cannot be read: %s", error)
            self._send_what_waits(error)
        else:
            self._send_what_waits(None)
        finally:
            self._refreshing = None

    def use_members(self, snapshot: MembershipSnapshot) -> None:
        """Take note of a membership that has been read."""
        if snapshot.version >= self._members.version:
            for member in snapshot.members:
                if (
                    member.generation > self._members.generation_high
                    and member.address in self._peers
                ):
                    self._peers[member.address].renewed()
            changed = snapshot.version > self._members.version
            self._members = snapshot
            if changed:
                self.ranks_changed()
                self._hurry()
        listed = {member.address for member in self._members.members if not member.status.terminal}
        self._leave_the_dead(listed)
        for address in [
            address for address, peer in self._peers.items() if address not in listed and peer.idle
        ]:
            del self._peers[address]

    def _leave_the_dead(self, listed: set[str]) -> None:
        """A process that was declared dead may be frozen, with its connections open: nothing that
        is sent there is answered any more.
        """
        dead = {
            member.address for member in self._members.members if member.status == MemberStatus.DEAD
        } - listed
        for address in sorted(dead):
            peer = self._peers.get(address)
            if peer is not None and peer.connection is not None and peer.connection.usable:
                peer.connection.broken(NodeEvicted(f"the cluster has declared {address} dead"))

    def _hurry(self) -> None:
        """Somebody came or went: what waits for its next attempt need not wait longer."""
        for call, place in list(self._offline.items()):
            if place is not None and not isinstance(place, Peer):
                place.cancel()
                self._again(call)

    def _send_what_waits(self, failure: RioError | None) -> None:
        for call in [call for call, place in self._offline.items() if place is None]:
            del self._offline[call]
            peer = self._choose(call)
            if peer is not None:
                self._submit(peer, call)
            elif call.refusals and call.last_error is not None:
                call.fail(call.last_error)  # every server was asked
            else:
                known = f"lists no active server ({_listed(self._members.members)})"
                call.fail(
                    NoServersAvailable(
                        f"the membership {f'cannot be read: {failure}' if failure else known}"
                    )
                )

    # --- subscriptions ----------------------------------------------------------------------------

    def event(self, connection: ClientConnection, number: int, body: bytes) -> None:
        """An event has arrived."""
        subscription = self._subscriptions.get(number)
        if subscription is not None:
            subscription.receive(connection, *protocol.read_event(body))
        elif connection.usable:
            connection.put(protocol.simple(Kind.END, number))  # its caller gave up before it stood

    def stream_ended(self, number: int) -> None:
        """A server has ended a subscription."""
        subscription = self._subscriptions.get(number)
        if subscription is not None:
            subscription.ended()

    async def attach(
        self, subscription: Subscription[Any], object_type: type[Any] | str, id: str
    ) -> ClientConnection | None:
        """Have an object's events sent to ``subscription``, under a new number.

        Returns the connection on which they come.
        """
        self._subscriptions.pop(subscription.number, None)
        self._last_subscription += 1
        subscription.number = self._last_subscription
        self._subscriptions[subscription.number] = subscription
        name = self.name_of(object_type)
        try:
            await self.send(name, id, system_messages.Subscribe(subscription.number))
        except BaseException:
            self._detach(subscription.number, self.known(name, id))
            raise
        return cast("ClientConnection | None", self.known(name, id))

    def detach(self, subscription: Subscription[Any]) -> None:
        """Deliver nothing to ``subscription`` any more."""
        self._detach(subscription.number, subscription.connection)

    def _detach(self, number: int, connection: ClientHalf | None) -> None:
        self._subscriptions.pop(number, None)
        if connection is not None and connection.usable:
            connection.put(protocol.simple(Kind.END, number))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._members.active)} active servers>"


def _listed(members: tuple[Member, ...]) -> str:
    listed = ", ".join(f"{member.address} is {member.status.name}" for member in members)
    return listed or "it is empty: has a server been started on this storage?"


def _why(call: Call) -> str:
    return f"; the last attempt: {call.last_error}" if call.last_error is not None else ""
