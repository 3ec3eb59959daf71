"""The client: sends messages to objects wherever they live, and follows them when they move."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from rio._core.clock import Clock
from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio._core.wire import Kind
from rio.client.access import StorageAccess
from rio.client.admin import AdminCommand, ServerExit, Shutdown
from rio.client.attachment import Attachment
from rio.client.event_queue import EventQueue, Overflow
from rio.client.filtered import FilteredCaller
from rio.client.router import Router
from rio.client.subscription import Subscription
from rio.contracts.membership import MembershipSnapshot, MembershipStorage
from rio.errors import ConfigurationError
from rio.identity import ObjectId, name_of_type
from rio.objects import system_messages
from rio.objects.filters import Filter, check_filters
from rio.objects.message import DynamicMessage, Message
from rio.objects.ref import ref
from rio.objects.sender import Carrier, Sender
from rio.objects.service_object import ServiceObject
from rio.security.security import Security, trust_of
from rio.storage import Storage
from rio.transport.low_latency import Latency, make_spinner

if TYPE_CHECKING:
    import random

T = TypeVar("T")
E = TypeVar("E", bound=Message[Any])


class Client(Sender):
    """Sends messages to objects. All tasks of one event loop can share a client; use it as
    ``async with rio.Client(storage) as client``. In another thread or event loop, and in the child
    of a fork, its methods raise :class:`RuntimeError`, and do nothing.

    ``storage`` says where the members of the cluster are listed: a URL, a
    :class:`rio.storage.Storage`, or a :class:`rio.contracts.MembershipStorage` of your own. The
    client only reads it, and closes it only if it opened it from a URL. ``timeout``: seconds that a
    call may take, unless the call says otherwise. ``refresh_interval``: seconds between two reads
    of the membership; the client also reads it at once when it cannot reach a server.
    ``route_limit``: of how many objects the client remembers where they live. ``frame_limit``:
    bytes that a message or a reply may have. ``security``: by what the client proves itself, a
    :class:`rio.Security` or the path of a security file; by default what the variable
    ``RIO_SECURITY`` names. ``filters``: what runs around each call, the first
    outermost; see :data:`rio.Filter`. ``latency``: with ``"low"`` the event loop stays awake for
    up to 100 µs after each write, as long as answers come in that time. That saves the 5 to 30 µs
    that the system takes to wake the loop, and takes the idle time of a core while calls are under
    way. ``clock`` and ``rng`` replace the system's clock and the random delays in tests.

    :raises ConfigurationError: the URL names no storage, a time is not above 0, a filter is none,
        or ``latency`` is neither ``"normal"`` nor ``"low"``.
    """

    def __init__(
        self,
        storage: str | Storage | MembershipStorage,
        *,
        timeout: float = 30.0,
        refresh_interval: float = 5.0,
        route_limit: int = 200_000,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
        security: Security | str | os.PathLike[str] | None = None,
        filters: Iterable[Filter] = (),
        latency: Latency = "normal",
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        filters = check_filters("rio.Client", filters, ConfigurationError)
        self._use(
            Router(
                StorageAccess(storage, trust_of(security)),
                timeout=timeout,
                refresh_interval=refresh_interval,
                route_limit=route_limit,
                frame_limit=frame_limit,
                spinner=make_spinner(latency),
                clock=clock,
                rng=rng,
            ),
            filters,
        )

    def _use(self, router: Router, filters: Sequence[Filter] = ()) -> None:
        self._router = router
        self._filtered = FilteredCaller(router.caller, filters) if filters else None
        if type(self).send is Sender.send:
            # On the instance it hides the method of the class, so that a call runs without a Python
            # frame of ours. A subclass that overrides the method keeps its own.
            self.send = self._carrier().send  # type: ignore[method-assign]  # on purpose, as above

    def _carrier(self) -> Carrier:
        return self._filtered or self._router.caller

    # --- opening and closing ----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Read the membership. Servers are connected when they are first needed.

        :raises StorageError: the membership cannot be read, or nothing of ``rio`` is there.
        :raises RuntimeError: the client is open already, or was closed meanwhile.
        """
        await self._router.open()

    async def close(self) -> None:
        """Close all connections. Idempotent; afterwards the client can be started again.

        Calls that wait for a reply end with :class:`rio.errors.ConnectionLost`, calls that wait for
        a server with :class:`rio.errors.NotExecuted`. If the caller is cancelled, the client closes
        all the same.

        :raises RuntimeError: the client was started in another thread or event loop.
        """
        try:
            await self._router.close()
        finally:
            if self._filtered is not None:
                await self._filtered.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        router = getattr(self, "_router", None)
        if router is not None and router.is_open:
            _warn(
                f"{self!r} was never closed: use it as `async with`, or await its close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    # --- sending ----------------------------------------------------------------------------------

    def ref(self, object_type: type[T], id: str, /) -> T:
        """A reference to an object: ``await client.ref(Account, "ada").deposit(Deposit(1))``.

        Nothing is sent until a handler is called. The call is that of :meth:`send`, with its
        errors, and takes ``timeout=`` in seconds.

        :raises BadIdentity: ``id`` is not a string of 1 to 512 bytes.
        :raises TypeError: ``object_type`` is not a subclass of :class:`rio.ServiceObject`.
        """
        return ref(self, object_type, id)

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
        """Follow what an object publishes: ``async for event in client.subscribe(Room, "lobby",
        Joined, Left)``.

        Only events of the given classes are delivered; with none given, all are, as
        :class:`rio.DynamicMessage`. At most ``limit`` events wait for a slow reader. Then
        ``overflow`` says what happens: ``"raise"`` drops the oldest event and raises
        :class:`rio.errors.Gap` at the next read, after which reading can go on;
        ``"drop_oldest"`` and ``"drop_newest"`` count the event in :attr:`Subscription.missed`.

        The subscription follows the object when it moves, and waits for a server, for at most
        :attr:`timeout` seconds, when there is none. With ``"raise"``, events that were lost
        meanwhile, or may have been, are a :class:`rio.errors.Gap` too. Enter it (``async with``) to
        be sure that it stands, or just read.

        :raises BadIdentity: ``object_type`` or ``id`` is empty, too long or not valid text.
        :raises ConfigurationError: ``limit`` is below 1, or ``overflow`` is none of the three.
        :raises TypeError: one of ``events`` is no subclass of :class:`rio.Message`.
        """
        queue: EventQueue[Any] = EventQueue(events, limit, overflow)
        object_id = ObjectId.check(name_of_type(object_type), id)
        return Subscription(Attachment(self._router.subscriptions, object_id, queue), queue)

    # --- the cluster ------------------------------------------------------------------------------

    async def ping(self, address: str) -> float:
        """Seconds that the event loop of the server at ``address``, ``"host:port"``, takes to
        answer.

        :raises NotExecuted: the server cannot be reached.
        :raises ConnectionLost: the connection broke before the answer came.
        :raises CallTimeout: the answer did not come within :attr:`timeout`.
        """
        return await self._router.request(address, Kind.PING)

    async def admin(self, command: AdminCommand) -> None:
        """Carry out a command to the cluster, as ``AdminCommand.shutdown(Account, "ada")``.

        On return the object is about to be deactivated, or was not in memory; or the server has
        begun to drain. A handler can send commands as well: ``app.get(rio.Client)`` is that of its
        server.

        :raises NotExecuted: the server cannot be reached.
        :raises ConnectionLost: the connection broke before the answer came.
        :raises CallTimeout: the answer did not come within :attr:`timeout`.
        :raises TypeError: ``command`` is none.
        """
        match command:
            case Shutdown(object_type, id, force):
                await self._router.caller.send(object_type, id, system_messages.Shutdown(force))
            case ServerExit(address):
                await self._router.request(address, Kind.GOAWAY)
            case _:
                raise TypeError(f"admin() takes a rio.AdminCommand, got {command!r:.200}")

    @property
    def members(self) -> MembershipSnapshot:
        """The membership as this client last read it."""
        return self._router.members.snapshot

    @property
    def timeout(self) -> float:
        """Seconds that a call may take, unless the call says otherwise."""
        return self._router.caller.default_timeout

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.members.active)} active servers>"


def client_of(router: Router) -> Client:
    """A client whose router was made elsewhere, for a server's own objects."""
    client = Client.__new__(Client)
    client._use(router)
    return client
