"""One node of the cluster: prepare, bind, run, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

import msgspec

from rio._core.clock import Clock
from rio._core.clock import now as system_now
from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio.client.client import Client, client_of
from rio.client.router import Router
from rio.cluster.config import ClusterConfig
from rio.cluster.links import GossipLinks
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.cluster.provider import ClusterProvider
from rio.contracts.membership import MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.errors import BindFailed, ConfigurationError, NodeEvicted, StorageError
from rio.identity import Address
from rio.objects.app_data import AppData
from rio.objects.registry import Registry
from rio.server.node_access import NodeAccess
from rio.server.service import Service
from rio.storage.storage import Storage, close_roles, mix_roles
from rio.transport import protocol
from rio.transport.protocol import Hello
from rio.transport.server_connection import ServerConnection

if TYPE_CHECKING:
    from rio.web.listener import HttpListener

logger = logging.getLogger("rio.server")

SWEEP_INTERVAL = 0.1
"""Seconds between two looks for calls that are past their deadline."""
FAREWELL_TIMEOUT = 1.0
"""Seconds that clients have to close, once they were told that the server has stopped."""
FENCE_GRACE = 1.0
"""Seconds without the lease after which handlers that still run are cancelled."""


class ServerStatistics(msgspec.Struct, frozen=True):
    """Counters of one node at one moment."""

    live_objects: int
    calls: int
    """Requests taken since the start."""
    failures: int
    """Of those, answered with an error."""
    in_flight: int
    """Of those, waiting or running now."""
    fenced: int
    """Turns and replies that were held back for want of the lease."""
    connections: int
    subscriptions: int
    events_delivered: int
    events_dropped: int


class Server:
    """Hosts the objects of a registry: ``async with rio.Server(registry,
    storage="sqlite:///app.db") as server: await server.run()``.

    ``storage``: a URL or a :class:`rio.storage.Storage` for membership, placement and state; each
    of the three can be given a URL or a back end of its own. Back ends that are given as objects
    are prepared here and not closed. ``address``: where to listen, ``"host:port"``; port 0 takes a
    free one. ``advertise``: the address under which the others reach this node, where that differs.
    ``http``: where to show ``/members``, ``/livez`` and ``/readyz`` (:mod:`rio.web.pages`) to
    whoever asks; nowhere by default. ``cluster``: settings, or the name of a preset (``"strict"``,
    ``"fast"``, ``"local"``), or a :class:`ClusterProvider` class' instance of one's own.
    ``drain_timeout``: seconds that :meth:`stop` gives to objects that are busy.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        storage: str | Storage | None = None,
        membership: MembershipStorage | str | None = None,
        placement: ObjectPlacement | str | None = None,
        state: StateStorage | str | None = None,
        address: str = "127.0.0.1:0",
        advertise: str | None = None,
        http: str | None = None,
        cluster: ClusterConfig | str = "strict",
        provider: ClusterProvider | None = None,
        app_data: AppData | None = None,
        timeout: float = 30.0,
        drain_timeout: float = 20.0,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(registry, Registry):
            raise ConfigurationError(f"a server takes a rio.Registry, got {registry!r}")
        self._bind_address = Address.parse(address)
        self._advertise = None if advertise is None else Address.parse(advertise)
        self._http_address = None if http is None else Address.parse(http)
        self._storage, self._opened_roles = mix_roles(
            storage, membership=membership, placement=placement, state=state
        )
        config = ClusterConfig.named(cluster) if isinstance(cluster, str) else cluster
        self.cluster = provider or PeerToPeerClusterProvider(
            self._storage.membership, config, clock=clock or system_now, rng=rng
        )
        self.app_data = app_data or AppData()
        registry.freeze()
        self._service = Service(
            registry,
            placement=self._storage.placement,
            state=self._storage.state,
            cluster=self.cluster,
            app_data=self.app_data,
            clock=clock,
            frame_limit=frame_limit,
        )
        self._own_states = dict.fromkeys(
            field.storage
            for registered in registry
            for field in registered.managed_states
            if field.storage is not None
        )
        self._timeout = timeout
        self._drain_timeout = drain_timeout
        self._frame_limit = frame_limit
        self._clock = clock
        self._rng = rng
        self.address = ""
        """``host:port`` under which this node is known; empty before :meth:`bind`."""
        self.http_address = ""
        """``host:port`` at which it answers HTTP; empty before :meth:`bind`, and where it does not.
        """
        self.hello = Hello(protocol.VERSION, "node")
        self._listener: asyncio.Server | None = None
        self._http: HttpListener | None = None
        self._client: Client | None = None
        self._links: GossipLinks | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._asked_to_stop = asyncio.Event()
        self._stopped = False
        self._ended = asyncio.Event()
        self._is_deserted = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._evicted: NodeEvicted | None = None
        self._fencing: asyncio.TimerHandle | None = None

    # --- the life of a server ---------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self.prepare()
            await self.bind()
        except BaseException:
            self._stopped = True
            await self._release_resources()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def prepare(self) -> None:
        """Open the storages.

        :raises StorageError: one of them cannot be used.
        :raises ConfigurationError: one of them may forget what it has acknowledged, and the
        settings of the cluster demand that none does.
        """
        for role in (*self._storage, *self._own_states):
            await role.prepare()
            self._check_durability(role.why_not_durable)

    def _check_durability(self, why_not: str) -> None:
        if why_not and self.cluster.config.require_durable_storage:
            raise ConfigurationError(why_not)
        if why_not:
            logger.warning("%s; the settings of the cluster accept it", why_not)

    async def bind(self) -> None:
        """Listen, join the cluster, and take requests from now on; those that come before it has
        joined are told to come again.

        :raises BindFailed: the address is taken or is not one of this machine.
        :raises StorageError: the membership cannot be written.
        """
        loop = asyncio.get_running_loop()
        self._listener = await self._listen(loop)
        self.address = str(self._advertised())
        if self._http_address is not None:
            self.http_address = await self._start_http(self._http_address)
        router = self._new_router()
        self._client = client_of(router)
        self._service.start(loop, Address.parse(self.address), self._client.send)
        self.cluster.on_lease = self._lease_moved
        self.cluster.transport = self._links = GossipLinks(self._introduction)
        await self.cluster.join(self.address)
        self.hello = self._introduction()
        await self._client.start()
        self.cluster.on_snapshot = router.members.use
        self._tasks = [
            loop.create_task(self._serve_cluster(), name="rio server: hold the lease"),
            loop.create_task(self._sweep(), name="rio server: end what is overdue"),
        ]
        logger.info("serving %s on %s", ", ".join(self._service.dispatcher.tables), self.address)

    async def run(self, *, handle_signals: bool = True) -> None:
        """Serve until :meth:`stop` is called or, with ``handle_signals``, SIGTERM or SIGINT
        arrives; then drain, and return.

        A second signal ends the process at once.

        :raises NodeEvicted: the cluster has declared this node dead; it has stopped.
        """
        with self._signals() if handle_signals else _no_signals():
            await self._asked_to_stop.wait()
            await self.stop()
        if self._evicted is not None:
            raise self._evicted

    def request_stop(self) -> None:
        """Have :meth:`run` drain and return.

        Safe to call from a signal handler of the event loop.
        """
        self._asked_to_stop.set()

    async def stop(self, *, drain: bool = True) -> None:
        """Drain: let objects finish, shut down and go to other nodes; then leave the cluster and
        close. Idempotent.

        ``drain=False``: at once, also while it drains already; handlers are cancelled, no shutdown
        hook runs and nothing is saved.
        """
        if self._stopped:
            if not drain and self._patience is not None:
                self._patience.reschedule(0.0)
            await self._ended.wait()
            return
        self._stopped = True
        self._asked_to_stop.set()
        try:
            if drain and self._evicted is None and self._listener is not None:
                await self._drain()
        finally:
            await self._release_resources()

    async def _drain(self) -> None:
        self._service.draining = True
        for connection in self._service.dispatcher.connections:
            connection.put(protocol.goaway(f"{self.address} is about to stop"))
        try:
            await self.cluster.drain()
        except (StorageError, NodeEvicted) as error:
            logger.warning("the cluster could not be told that %s drains: %s", self.address, error)
        try:
            async with asyncio.timeout(self._drain_timeout) as self._patience:
                await self._service.deactivate_all()
        except TimeoutError:
            logger.warning(
                "%d objects are still busy and are dropped", self._service.dispatcher.live
            )
        finally:
            self._patience = None

    async def _release_resources(self) -> None:
        """Close everything, in the order in which nothing is admitted any more before others may
        admit it.
        """
        leaving = asyncio.ensure_future(self._leave())
        try:
            await asyncio.shield(leaving)
        finally:
            if (
                not leaving.done()
            ):  # whoever stops us was cancelled: nobody else would close what is open
                await asyncio.wait((leaving,))
            self._ended.set()

    async def _leave(self) -> None:
        await self._service.abort()
        if self.cluster.generation:
            try:
                await self.cluster.leave()
            except (StorageError, NodeEvicted) as error:
                logger.warning(
                    "%s could not tell the cluster that it has left: %s", self.address, error
                )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._fencing is not None:
            self._fencing.cancel()
        if self._links is not None:
            await self._links.close()
        if self._client is not None:
            await self._client.close()
        if self._listener is not None:
            self._listener.close()
            await self._close_connections()
            await self._listener.wait_closed()
        if self._http is not None:
            await self._http.close()
        await close_roles(self._opened_roles)

    async def _close_connections(self) -> None:
        """Have the clients close, so that none loses a call that is on its way; after a while,
        close.
        """
        connections = self._service.dispatcher.connections
        for connection in list(connections):
            connection.dismiss(f"{self.address} has stopped")
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                while connections:
                    self._is_deserted.clear()
                    await self._is_deserted.wait()
        for connection in list(connections):
            connection.cut_off(f"{self.address} has stopped")

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_listener", None) is not None and not self._stopped:
            _warn(
                f"{self!r} was never stopped: use it as `async with`, or await its stop()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    # --- listening --------------------------------------------------------------------------------

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        host, port = self._bind_address
        try:
            return await loop.create_server(self.new_connection, host, port)
        except OSError as error:
            reason = error.strerror or error
            raise BindFailed(
                f"cannot listen on {self._bind_address}: {reason}; choose another address, or port 0 for any"
            ) from error

    async def _start_http(self, address: Address) -> str:
        from rio.web.listener import HttpListener
        from rio.web.pages import NodePages

        self._http = HttpListener(NodePages(lambda: self.cluster.snapshot, self._why_not_ready))
        return str(await self._http.start(address))

    def new_connection(self) -> ServerConnection:
        """The server's side of a connection that is about to be made."""
        return ServerConnection(self._service.dispatcher, self, self._frame_limit)

    def _new_router(self) -> Router:
        """The router of a client that reaches this node without a socket."""
        access = NodeAccess(
            self.cluster,
            self._service,
            self.address,
            introduction=self._introduction,
            accept=self.new_connection,
        )
        return Router(
            access,
            timeout=self._timeout,
            frame_limit=self._frame_limit,
            clock=self._clock,
            rng=self._rng,
        )

    def _introduction(self) -> Hello:
        return Hello(protocol.VERSION, "node", self.cluster.generation, self.address)

    def _advertised(self) -> Address:
        assert self._listener is not None
        bound = self._listener.sockets[0].getsockname()
        if self._advertise is not None:
            return Address(self._advertise.host, self._advertise.port or bound[1])
        if self._bind_address.host in ("0.0.0.0", "::"):
            raise ConfigurationError(
                f"{self._bind_address} is every interface: say with advertise= which address the others shall use"
            )
        return Address(self._bind_address.host, bound[1])

    def _why_not_ready(self) -> str:
        """Why it does not take new objects now, for ``/readyz``."""
        if self._asked_to_stop.is_set() or self._service.draining:
            return "draining"
        if not self._tasks:
            return "joining"
        return (
            ""
            if self._service.dispatcher.admits
            else "fenced: the storage has not answered for a while"
        )

    # --- what connections ask ---------------------------------------------------------------------

    def unsubscribe(self, connection: ServerConnection, number: int) -> None:
        self._service.router.unsubscribe(connection, number)

    def disconnected(self, connection: ServerConnection) -> None:
        self._service.router.disconnect(connection)
        if not self._service.dispatcher.connections:
            self._is_deserted.set()

    def gossip(self, source: int, payload: bytes) -> None:
        self.cluster.receive(source, payload)

    def leave_requested(self) -> None:
        logger.info("%s was asked to stop", self.address)
        self.request_stop()

    # --- the cluster ------------------------------------------------------------------------------

    def _lease_moved(self, until: float) -> None:
        dispatcher = self._service.dispatcher
        dispatcher.set_lease(until)
        if self._fencing is not None:
            self._fencing.cancel()
            self._fencing = None
        if until < math.inf and self._listener is not None:
            delay = max(0.0, until - dispatcher.now()) + FENCE_GRACE
            self._fencing = asyncio.get_running_loop().call_later(delay, self._cancel_fenced)

    def _cancel_fenced(self) -> None:
        """The lease has been gone for a while: no handler may go on, others may soon own its
        object.
        """
        cancelled = self._service.cancel_running()
        logger.warning(
            "%s has lost its lease: %d running handlers and hooks were cancelled",
            self.address,
            len(cancelled),
        )

    async def _serve_cluster(self) -> None:
        try:
            await self.cluster.serve()
        except NodeEvicted as error:
            logger.error("%s stops: %s", self.address, error)
            self._evicted = error
            await self._service.abort()
            await self._close_connections()
            self.request_stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            self._service.dispatcher.sweep()

    # --- for users --------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """A client of the whole cluster that reaches this node's own objects without a socket.

        It lives as long as the server.
        """
        if self._client is None:
            raise RuntimeError("the server is not bound yet")
        return self._client

    def statistics(self) -> ServerStatistics:
        """The counters of this node now."""
        dispatcher, router = self._service.dispatcher, self._service.router
        return ServerStatistics(
            live_objects=dispatcher.live,
            calls=dispatcher.calls,
            failures=dispatcher.failures,
            in_flight=dispatcher.in_flight,
            fenced=dispatcher.fenced,
            connections=len(dispatcher.connections),
            subscriptions=len(router),
            events_delivered=router.delivered,
            events_dropped=router.dropped,
        )

    def __repr__(self) -> str:
        return f"<Server on {self.address or self._bind_address}>"

    # --- odds and ends ----------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        installed = []
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self._signalled, number)
            except (NotImplementedError, RuntimeError, ValueError):
                # not the main thread, or not on this platform: whoever runs us handles signals
                continue
            installed.append(number)
        try:
            yield
        finally:
            for number in installed:
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        logger.info("%s received: %s drains", signal.Signals(number).name, self.address)
        self.request_stop()
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def _no_signals() -> Iterator[None]:
    yield
