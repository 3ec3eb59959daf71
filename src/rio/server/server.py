"""One node of a cluster, as its user sees it: prepare, bind, run, drain, stop."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from rio import background
from rio._core.clock import Clock
from rio._core.clock import now as system_now
from rio.client.client import Client, client_of
from rio.client.router import Router
from rio.cluster.config import ClusterConfig
from rio.cluster.links import GossipLinks
from rio.cluster.manifest import make_manifest
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.cluster.provider import ClusterProvider
from rio.contracts.membership import MembershipSnapshot, MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.roles import ROLES
from rio.contracts.state import StateStorage
from rio.errors import (
    BindFailed,
    ConfigurationError,
    JoinFailed,
    NodeEvicted,
    RioError,
    StorageError,
    WrongCluster,
)
from rio.identity import Address
from rio.logs import Logger
from rio.objects.app_data import AppData, of_server, provide
from rio.objects.filters import Filter, check_filters
from rio.objects.registry import Registry
from rio.observability.finder import find_tracer
from rio.security.security import Security, trust_of
from rio.server.acceptor import Acceptor
from rio.server.audit import LiveObjects
from rio.server.catalog import Catalog
from rio.server.config import ServerConfig
from rio.server.connections import Connections
from rio.server.ending import Ending, Step, take
from rio.server.fence import Fence
from rio.server.fork import keep_from_children
from rio.server.loop_watch import LoopWatch
from rio.server.message_router import MessageRouter
from rio.server.node_access import NodeAccess
from rio.server.own_states import OwnStates
from rio.server.ownership import Ownership
from rio.server.states import check_atomic
from rio.server.statistics import ServerStatistics
from rio.server.versions import Versions
from rio.storage.storage import Storage, close_roles, mix_roles
from rio.transport import protocol
from rio.transport.low_latency import Latency, make_spinner
from rio.transport.protocol import Hello

if TYPE_CHECKING:
    import random
    import ssl

    from rio.web.listener import HttpListener

logger = Logger("rio.server")

TICK_INTERVAL = 0.1
"""Seconds between two looks for calls that are past their deadline."""


SECURITY_LOOK_INTERVAL = 1.0
"""Seconds between two looks whether the security file has changed."""


class StoppedWhileStarting(RuntimeError):
    """A server was stopped before it had started."""


class Server:
    """One node: it hosts the objects of a registry and belongs to a cluster. ::

        async with rio.Server(registry, storage="sqlite:///app.db") as server:
            await server.run()

    A server starts once: to come back, make another one.

    ``storage``: a URL or a :class:`rio.Storage`, for membership, placement and state. Each of
    ``membership``, ``placement`` and ``state`` may have a URL or a back end of its own. The server
    prepares all of them, and closes those that it opened from a URL.

    ``address``: where to listen, ``"host:port"``; port 0 takes a free one. ``"unix:/path"`` makes a
    socket file, at which only processes of this machine reach the server. ``advertise``: the
    address under which the others reach this node, if that differs. ``http``: where to show
    ``/members``, ``/metrics``, ``/livez`` and ``/readyz``; nowhere by default. Where ``security``
    has tokens, the first two are shown to clients that send one; otherwise to this machine only,
    unless ``insecure=True``.

    ``cluster``: the name of a preset (``"strict"``, ``"fast"`` or ``"local"``), a
    :class:`rio.ClusterConfig`, or a :class:`rio.ClusterProvider`, whose members are those of the
    server then, whatever ``storage`` is. ``config``: what tunes this
    server, a :class:`rio.ServerConfig`. ``app_data``: what its objects share.

    ``version``: the version of the program, which the other servers learn; by default a digest of
    the types that it serves. ``labels``: what else an operator tells about this server, such as
    ``{"zone": "eu"}``.

    ``security``: by what this node proves itself, and whom it lets in: a :class:`rio.Security` or
    the path of a security file; by default what the variable ``RIO_SECURITY`` names. Without
    security a server listens where only this machine can reach it, unless ``insecure=True``.

    ``filters``: what runs around each handler, within its turn, the first outermost; the filters of
    a class come after them. See :data:`rio.Filter`.

    ``latency``: with ``"low"`` the event loop stays awake for up to 100 µs after each write, as
    long as further calls come in that time. That saves the 5 to 30 µs that the system takes to wake
    the loop, and takes the idle time of a core while calls are under way. It holds for what the
    server's objects send to other nodes too; calls within the server do not need it.

    ``clock``: seconds, for leases and deadlines; a given provider keeps its own, and what real
    time tells of a blocked event loop is not looked at. ``rng``: spreads retries.

    :raises ConfigurationError: an argument cannot be used; the text says which and why.
    :raises BadRegistration: a type or a message of the registry has a reserved name.
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
        cluster: str | ClusterConfig | ClusterProvider = "strict",
        config: ServerConfig | None = None,
        app_data: AppData | None = None,
        version: str | None = None,
        labels: Mapping[str, str] | None = None,
        security: Security | str | os.PathLike[str] | None = None,
        insecure: bool = False,
        filters: Iterable[Filter] = (),
        latency: Latency = "normal",
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(registry, Registry):
            raise ConfigurationError(f"a server takes a rio.Registry, got {registry!r}")
        config = _require_config(config)
        spinner = make_spinner(latency)
        self._bind_address = Address.parse(address)
        self._security = trust_of(security)
        self._is_insecure = insecure
        if self._security is not None:
            self._security.own_key("node")
            self._security.server_tls()
        elif not insecure:
            _refuse_strangers(self._bind_address)
        self._advertise = None if advertise is None else Address.parse(advertise)
        self._http_address = None if http is None else _parse_http(http)
        self._storage, self._opened_roles = mix_roles(
            storage,
            membership=_members_of(cluster, membership),
            placement=placement,
            state=state,
        )
        self._app_data = of_server(app_data)
        self._own_states = OwnStates(registry, self._app_data)
        _refuse_mixed_memories(self._storage, self._own_states.storages)
        for state in self._own_states.storages:
            state.use_placement(self._storage.placement)
        self._cluster = _provider(cluster, self._storage.membership, clock, rng)
        self._drain_timeout = config.drain_timeout
        self._socket_mode = config.socket_mode
        registry.freeze()
        self._manifest = make_manifest(registry, version=version, labels=labels)
        self._manifest.encode()  # what is too long is refused at once
        self._versions = Versions(self._cluster)
        ownership = Ownership(self._storage.placement, self._cluster, self._versions)
        self._catalog = Catalog(
            registry,
            config,
            ownership=ownership,
            versions=self._versions,
            state=self._storage.state,
            own_states=self._own_states.by_field,
            app_data=self._app_data,
            address=self._bind_address,
            clock=clock,
            filters=check_filters("rio.Server", filters, ConfigurationError),
        )
        self._fence = Fence(self._catalog)
        self._audit = LiveObjects(
            self._catalog,
            ownership,
            [self._storage.state, *self._own_states.storages],
            storage_timeout=self._cluster.config.storage_timeout,
        )
        self._connections = Connections(
            self._catalog,
            self._cluster,
            frame_limit=config.frame_limit,
            request_stop=self._stop_for_client,
            security=self._security,
            spinner=spinner,
        )
        self._router = Router(
            NodeAccess(
                self._cluster,
                self._catalog,
                introduction=self._introduction,
                accept=self._connections.make,
                security=self._security,
            ),
            timeout=config.timeout,
            frame_limit=config.frame_limit,
            spinner=spinner,
            clock=clock,
            rng=rng,
        )
        self._router.caller.why_not_open = "this server does not run, and its client with it"
        self._client = client_of(self._router)
        provide(
            self._app_data, self._client, MessageRouter(self._router.caller, config.frame_limit)
        )
        self._links = GossipLinks(self._introduction, security=self._security)
        self._watch: LoopWatch | None = None
        if config.blocked_after is not None and clock is None:
            self._watch = LoopWatch(self._catalog, config.blocked_after)
        self._address = ""
        self._bound_http = ""
        self._acceptor = Acceptor(self._connections.accept, self._catalog.dispatcher.now)
        self._http: HttpListener | None = None
        self._starting: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._asked_to_stop = asyncio.Event()
        self._ending = Ending(self._end)
        self._credentials = self._security and self._security.credentials
        self._security_look_at = 0.0
        self._hurried = self._stopped_remotely = False
        self._patience: asyncio.Timeout | None = None

    # --- what a node shows ------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """``host:port`` under which the others know this node; empty before :meth:`bind`."""
        return self._address

    @property
    def http_address(self) -> str:
        """``host:port`` of the HTTP pages; empty before :meth:`bind`, or without ``http=``."""
        return self._bound_http

    @property
    def http_url(self) -> str:
        """``http://host:port`` of the HTTP pages, or ``https://host:port`` if they are encrypted;
        empty before :meth:`bind`, or without ``http=``.
        """
        scheme = "http" if self._http_tls() is None else "https"
        return self._bound_http and f"{scheme}://{self._bound_http}"

    @property
    def generation(self) -> int:
        """The number of this member; 0 before :meth:`bind`.

        The storage gives each number once: a server that starts again is another member.
        """
        return self._cluster.generation

    @property
    def members(self) -> MembershipSnapshot:
        """The membership as this node knows it."""
        return self._cluster.snapshot

    @property
    def app_data(self) -> AppData:
        """What the objects of this server share."""
        return self._app_data

    @property
    def client(self) -> Client:
        """A client of the whole cluster, which lives as long as the server: do not close it.

        It reaches the objects of this node without a socket.

        :raises RuntimeError: the server is not bound yet.
        """
        if not self._address:
            raise RuntimeError("the server is not bound yet")
        return self._client

    @property
    def ready(self) -> bool:
        """Whether this node takes new objects now: it has joined, holds its lease, and does not
        stop.
        """
        return not self._why_not_ready()

    @property
    def closed(self) -> asyncio.Future[None]:
        """A future of your own that is done when the server has stopped and closed everything: by
        :meth:`stop`, by a signal, or by itself, because the cluster has declared this node dead.
        Then awaiting it raises :class:`rio.errors.NodeEvicted`. It may be cancelled.
        """
        return self._ending.future()

    def statistics(self) -> ServerStatistics:
        """The counters of this node now."""
        catalog = self._catalog
        return ServerStatistics.of(catalog.dispatcher, catalog.subscribers, self._security)

    def __repr__(self) -> str:
        return f"<Server on {self._address or self._bind_address}>"

    # --- beginning --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._refuse_second_start()
        try:
            await self.prepare()
            await self.bind()
        except BaseException:
            await self.stop(drain=False)
            raise
        return self

    async def _start(self, *steps: Step) -> None:
        """Take steps of the start, until they are taken or the server is stopped.

        :raises StoppedWhileStarting: it was stopped.
        """
        task = self._starting = background.start(self._take(steps))
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,))
            raise
        if self._ending.begun:
            raise StoppedWhileStarting(f"{self!r} was stopped while it started")
        task.result()

    def _refuse_second_start(self) -> None:
        if not self._is_new():
            raise RuntimeError(f"{self!r} cannot start again: make another rio.Server")

    def _is_new(self) -> bool:
        """Whether nobody has begun to start or to stop this server; it may be prepared."""
        return not self._acceptor.is_open and not self._ending.begun and not self._is_starting()

    def _is_starting(self) -> bool:
        return self._starting is not None and not self._starting.done()

    async def _take(self, steps: Iterable[Step]) -> None:
        for step in steps:
            await step()
            if self._ending.begun:  # and the step took no notice of its cancellation
                return

    async def _give_up_start(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait((self._starting,))

    async def prepare(self) -> None:
        """Open the storages.

        :raises StorageError: a storage cannot be used.
        :raises ConfigurationError: a storage may forget what it has acknowledged, and the settings
        of the cluster demand that none does; or a class has several states in a storage that cannot
        save them together.
        :raises RuntimeError: the server has started or stopped before.
        """
        self._refuse_second_start()
        await self._start(self._open_storages)

    async def _open_storages(self) -> None:
        for type_name, groups in self._catalog.state_groups.items():
            check_atomic(type_name, groups)
        for role in self._storage:
            await role.prepare()
        await self._own_states.open()
        for role in (*self._storage, *self._own_states.storages):
            self._check_durability(role.why_not_durable)

    def _check_durability(self, why_not: str) -> None:
        if why_not and self._cluster.config.require_durable_storage:
            raise ConfigurationError(why_not)
        if why_not:
            logger.warning("%s; the settings of the cluster accept it", why_not)

    async def bind(self) -> None:
        """Listen, join the cluster, and take requests from now on.

        Requests that arrive before the node has joined are told to come again.

        :raises BindFailed: the address is taken or is not one of this machine.
        :raises StorageError: the membership cannot be written.
        :raises WrongCluster: placements or states belong to another cluster.
        :raises JoinFailed: the other nodes and this one cannot talk to each other, or the address
        that this one advertises does not lead to it.
        :raises RuntimeError: the server has started before, or is stopped meanwhile.
        """
        self._refuse_second_start()
        try:
            await self._start(
                self._listen,
                self._show_pages,
                self._claim_storages,
                self._try_advertised_address,
                self._join,
                self._client.start,
                self._begin_to_serve,
            )
        except BaseException:
            await self.stop(drain=False)
            raise

    async def _join(self) -> None:
        self._catalog.dispatcher.tracer = find_tracer()
        self._catalog.address = Address.parse(self._address)
        self._catalog.use(self._router)
        self._cluster.on_lease = self._fence.move
        self._cluster.before_purge = self._storage.placement.release_all
        self._cluster.transport = self._links
        self._cluster.audit = self._audit
        await self._cluster.join(self._address, manifest=self._manifest)
        self._connections.hello = self._introduction()

    async def _begin_to_serve(self) -> None:
        self._cluster.on_snapshot = self._router.members.use
        self._hold_lease()
        if self._watch is not None:
            self._watch.start()
        self._tick()
        logger.info("serving %s on %s", ", ".join(self._catalog.dispatcher.tables), self._address)

    async def _claim_storages(self) -> None:
        """Refuse placements and states of another cluster, before anything is registered."""
        self._audit.accept_histories()
        cluster_id = (await self._cluster.refresh()).cluster_id
        for role in (self._storage.placement, self._storage.state, *self._own_states.storages):
            owner = await role.adopt(cluster_id)
            if owner != cluster_id:
                raise WrongCluster(
                    f"{role!r} belongs to cluster {owner}, and the membership to {cluster_id}: give"
                    " all roles storages of one cluster; if these are copies of such storages,"
                    " run `rio settings new-id` on all of them"
                )

    async def _try_advertised_address(self) -> None:
        """Who answers there is who the others would talk to. To register at the address of another
        server would end that one.
        """
        if self._advertise is None:
            return
        try:
            answer = await self._links.introduction_of(self._address)
        except (OSError, RioError) as error:
            raise JoinFailed(
                f"this server does not reach itself at {self._address}, which it advertises:"
                f" {error or 'no answer'}; say with advertise= under which address others reach it"
            ) from error
        if answer.generation:
            raise JoinFailed(
                f"member {answer.generation} answers at {self._address}, which this server"
                " advertises: give each server an address of its own"
            )

    async def _listen(self) -> None:
        self._catalog.dispatcher.loop = asyncio.get_running_loop()
        keep_from_children(self._open_sockets)
        try:
            bound = await self._acceptor.bind(self._bind_address, self._socket_mode)
            self._address = str(self._advertised(bound.port))
            if self._security is None and _is_reached_by_others(bound.host):
                logger.warning(
                    "%s is insecure: whoever reaches it can call, read and stop everything",
                    self._address,
                )
            await self._acceptor.start()
        except OSError as error:
            reason = error.strerror or error
            raise BindFailed(
                f"cannot listen on {self._bind_address}: {reason}; choose another address"
                f"{'' if self._bind_address.path else ', or port 0 for any'}"
            ) from error

    def _open_sockets(self) -> Iterator[int]:
        """The numbers of what others reach this node by."""
        yield from self._acceptor.numbers()
        if self._http is not None:
            yield from self._http.numbers()
        for connection in self._catalog.dispatcher.connections:
            own = connection.transport and connection.transport.get_extra_info("socket")
            if own is not None and own.fileno() >= 0:
                yield own.fileno()

    def _advertised(self, port: int) -> Address:
        if self._advertise is not None:
            return Address(self._advertise.host, self._advertise.port or port)
        if self._bind_address.host in ("0.0.0.0", "::"):
            raise ConfigurationError(
                f"{self._bind_address} is every interface: "
                "say with advertise= which address the others shall use"
            )
        return Address(self._bind_address.host, port)

    async def _show_pages(self) -> None:
        if self._http_address is None:
            return
        from rio.server.metrics import NodeMetrics
        from rio.web.guard import Guard
        from rio.web.listener import HttpListener
        from rio.web.pages import NodePages

        metrics = NodeMetrics(
            self._catalog.dispatcher,
            self.statistics,
            lambda: self.members,
            lambda: self.ready,
        )
        pages = Guard(
            NodePages(lambda: self.members, self._why_not_ready, metrics.read),
            lambda: () if self._security is None else self._security.credentials.http_tokens,
            is_local=self._http_address.is_loopback,
            is_insecure=self._is_insecure,
        )
        self._http = HttpListener(pages, self._http_tls)
        self._bound_http = str(await self._http.start(self._http_address))

    def _http_tls(self) -> ssl.SSLContext | None:
        return None if self._security is None else self._security.credentials.http_tls

    def _why_not_ready(self) -> str:
        """Why the node takes no new objects now; empty if it does."""
        if self._asked_to_stop.is_set() or self._catalog.draining:
            return "draining"
        if self._serving is None:
            return "joining"
        if not self._catalog.dispatcher.admits:
            return "fenced: the lease was not renewed in time"
        return ""

    def _introduction(self) -> Hello:
        return Hello(
            protocol.VERSION,
            "node",
            self.generation,
            self._address,
            self._cluster.snapshot.cluster_id,
            protocol.NODE_FEATURES,
        )

    # --- running ----------------------------------------------------------------------------------

    async def run(self, *, handle_signals: bool = True) -> None:
        """Serve until :meth:`stop` is called or a signal arrives; then drain, and return. A server
        that was not started begins with :meth:`prepare` and :meth:`bind`.

        ``handle_signals``: SIGTERM and SIGINT stop the server; a second signal ends the process at
        once, also while the event loop is blocked. In another thread than the main one, the
        program has to handle the signals.

        :raises NodeEvicted: the cluster has declared this node dead, and the node has stopped.
        """
        with self._stop_signals() if handle_signals else nullcontext():
            if self._is_new():
                with suppress(StoppedWhileStarting):
                    await self.__aenter__()
            await self._asked_to_stop.wait()
            await self.stop()
        if self._ending.error is not None:
            raise self._ending.error

    def _stop_signals(self) -> AbstractContextManager[None]:
        from rio.server.signals import stop_signals  # not every server handles them

        return stop_signals(self.request_stop)

    @property
    def was_stopped_remotely(self) -> bool:
        """Whether a client has stopped it, with ``AdminCommand.server_exit`` or ``rio stop``."""
        return self._stopped_remotely

    def _stop_for_client(self) -> None:
        self._stopped_remotely = True
        self.request_stop()

    def request_stop(self) -> None:
        """Have :meth:`run` drain and return. A signal handler of the event loop may call this. A
        server that still starts gives that up.
        """
        self._asked_to_stop.set()
        if self._is_starting():
            self._ending.begin()

    def _hold_lease(self) -> None:
        self._serving = background.start(self._serve_cluster(), "rio server: hold the lease")

    async def _serve_cluster(self) -> None:
        try:
            await self._cluster.serve()
        except NodeEvicted as error:
            logger.error("%s stops: %s", self._address, error)
            self._ending.error = error
            self._asked_to_stop.set()
            self._hurry()
            self._ending.begin()

    def _tick(self) -> None:
        """End what is overdue. A timer does it and not a task, because a task can be cancelled."""
        self._ticking = asyncio.get_running_loop().call_later(TICK_INTERVAL, self._tick)
        if self._serving is not None and self._serving.done() and not self._ending.begun:
            self._hold_lease_again(self._serving)
        self._catalog.sweep()
        self._look_at_security()
        self._acceptor.look()
        self._connections.look()
        self._catalog.idle.tick(may_evict=self._cluster.renewed and not self._catalog.draining)
        if self._watch is not None:
            self._watch.beat()

    def _look_at_security(self) -> None:
        """Take over other credentials, if there are some now."""
        if self._security is None or self._catalog.dispatcher.now() < self._security_look_at:
            return
        self._security_look_at = self._catalog.dispatcher.now() + SECURITY_LOOK_INTERVAL
        self._security.refresh()
        if self._security.credentials is not self._credentials:
            self._credentials = self._security.credentials
            self._connections.check_keys()
            self._links.renew()
            self._router.pool.use_credentials()

    def _hold_lease_again(self, ended: asyncio.Task[None]) -> None:
        error = None if ended.cancelled() else ended.exception()
        logger.error(
            "%s holds its lease again: the task that did so ended", self._address, exc_info=error
        )
        self._hold_lease()

    # --- stopping ---------------------------------------------------------------------------------

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, *, drain: bool = True) -> None:
        """Drain, leave the cluster, and close. Idempotent.

        To drain, each object finishes what waits for it, runs its shutdown hooks, and is released
        for other nodes. Objects that are still busy after ``ServerConfig.drain_timeout`` seconds
        are dropped: their handlers are cancelled, no shutdown hook runs, and nothing is saved.
        ``drain=False`` drops all objects at once, also while the node drains already.

        If the caller is cancelled, the node drops its objects at once and closes all the same.
        Nothing that a storage or a driver raises meanwhile keeps it from that: it is logged.
        """
        self._asked_to_stop.set()
        if not drain:
            self._hurry()
        self._ending.begin()
        try:
            await self._ending.wait()
        except asyncio.CancelledError:
            self._hurry()
            await self._ending.wait()  # whoever is cancelled once more does not wait for the end
            raise

    def _hurry(self) -> None:
        """Drain no longer."""
        self._hurried = True
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(0.0)

    async def _end(self) -> None:
        """In an order in which nothing is admitted here any more before others may admit it."""
        await take("giving up the start", self._give_up_start)
        if self._serving is not None and not self._hurried:
            try:
                await self._drain()
            except (Exception, asyncio.CancelledError):
                logger.exception("%s stops without draining any longer", self._address)
        await take("dropping the objects", self._catalog.abort)
        await take("leaving the cluster", self._leave_cluster)
        await take("closing the connections to other nodes", self._links.close)
        await take("closing the client of the objects", self._client.close)
        await take("closing the connections", self._stop_listening)
        await take("closing the HTTP pages", self._stop_showing_pages)
        await take("ending the search for versions", self._versions.close)
        await take("closing the storages", self._close_storages)

    async def _close_storages(self) -> None:
        await close_roles([*self._opened_roles, *self._own_states.take_unused()])

    async def _drain(self) -> None:
        self._catalog.draining = True
        self._connections.announce_stop()
        await take("telling the cluster that it drains", self._tell_that_it_drains)
        try:
            patience = 0.0 if self._hurried else self._drain_timeout
            async with asyncio.timeout(patience) as self._patience:
                await self._catalog.deactivate_all()
        except TimeoutError:
            logger.warning(
                "%d objects are still busy and are dropped", self._catalog.dispatcher.live
            )
        finally:
            self._patience = None

    async def _tell_that_it_drains(self) -> None:
        try:
            await self._cluster.drain()
        except Exception as error:
            logger.warning(
                "the cluster could not be told that %s drains: %r",
                self._address,
                error,
                exc_info=_unexpected(error),
            )

    def _stop_ticking(self) -> asyncio.Task[None] | None:
        """Begin nothing more by itself. Returns the task that holds the lease, if there is one."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._watch is not None:
            self._watch.stop()
        serving, self._serving = self._serving, None
        return serving

    async def _leave_cluster(self) -> None:
        serving = self._stop_ticking()
        try:
            if self.generation:
                await self._cluster.leave()
        except Exception as error:
            logger.warning(
                "%s could not tell the cluster that it has left: %r",
                self._address,
                error,
                exc_info=_unexpected(error),
            )
        finally:
            self._fence.disarm()
            if serving is not None:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    async def _stop_listening(self) -> None:
        await self._acceptor.close()
        self._connections.refuse()
        await self._connections.close()
        self._catalog.subscribers.close()

    async def _stop_showing_pages(self) -> None:
        if self._http is not None:
            await self._http.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        acceptor = getattr(self, "_acceptor", None)
        if acceptor is not None and acceptor.is_open and not self._ending.begun:
            _warn(
                f"{self!r} was never stopped: use it as `async with`, or await its stop()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


def _require_config(config: ServerConfig | None) -> ServerConfig:
    if config is None:
        return ServerConfig()
    if not isinstance(config, ServerConfig):
        raise ConfigurationError(
            f"config= takes a rio.ServerConfig, got {config!r}; "
            "what all servers of a cluster share is given as cluster="
        )
    return config


def _parse_http(text: str) -> Address:
    """:raises ConfigurationError: HTTP cannot be served there."""
    address = Address.parse(text)
    if address.path:
        raise ConfigurationError(f"http={text!r}: the pages are shown on HOST:PORT only")
    return address


def _refuse_strangers(address: Address) -> None:
    """:raises ConfigurationError: others than this machine reach the address."""
    if not address.is_loopback:
        raise ConfigurationError(
            f"{address} can be reached by others, who could call, read and stop everything: give"
            " the server security=, or set RIO_SECURITY (`rio keygen` makes the file); or say"
            " insecure=True"
        )


def _is_reached_by_others(host: str) -> bool:
    try:
        return not ip_address(host).is_loopback
    except ValueError:  # the name of a host in a network in memory
        return False


def _unexpected(error: Exception) -> Exception | None:
    """What the log shows with its traceback: no storage and no cluster promises to raise that."""
    return None if isinstance(error, StorageError | NodeEvicted) else error


def _refuse_mixed_memories(storage: Storage, own_states: Iterable[StateStorage]) -> None:
    """Each role fences the next: members fence placements, and placements fence states.

    :raises ConfigurationError: a role would be forgotten before what it fences.
    """
    roles = list(storage)
    for index, row in enumerate(ROLES[:-1]):
        lasting = [role for role in (*roles[index + 1 :], *own_states) if not role.volatile]
        if roles[index].volatile and lasting:
            raise ConfigurationError(
                f"the {row.name} is in memory and {type(lasting[0]).__name__} is not: after a"
                " restart nothing would fence it."
                f" Give the {row.name} a database too, {row.name}=..."
            )


def _members_of(
    cluster: str | ClusterConfig | ClusterProvider, membership: MembershipStorage | str | None
) -> MembershipStorage | str | None:
    """Where the members are: where a given provider has them, else where the server is told.

    :raises ConfigurationError: the two are not the same.
    """
    if not isinstance(cluster, ClusterProvider):
        return membership
    if membership is not None and membership is not cluster.storage:
        raise ConfigurationError(
            f"membership= is another storage than the {type(cluster).__name__} of cluster= has:"
            " leave membership= out"
        )
    return cluster.storage


def _provider(
    cluster: str | ClusterConfig | ClusterProvider,
    membership: MembershipStorage,
    clock: Clock | None,
    rng: random.Random | None,
) -> ClusterProvider:
    """What takes a node's part in the cluster: the given one, or one with the given settings."""
    if isinstance(cluster, ClusterProvider):
        return cluster
    settings = ClusterConfig.named(cluster) if isinstance(cluster, str) else cluster
    if not isinstance(settings, ClusterConfig):
        raise ConfigurationError(
            "cluster= takes the name of a preset, a rio.ClusterConfig or a rio.ClusterProvider, "
            f"got {cluster!r}"
        )
    return PeerToPeerClusterProvider(membership, settings, clock=clock or system_now, rng=rng)
