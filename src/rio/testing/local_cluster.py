"""A whole cluster in one process, to be broken on purpose: for tests of one's own objects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self

from rio.client.client import Client
from rio.cluster.config import ClusterConfig
from rio.errors import NodeEvicted
from rio.identity import ObjectId, type_name_of
from rio.objects.app_data import AppData
from rio.objects.registry import Registry
from rio.objects.service_object import ServiceObject
from rio.server.server import Server, ServerStatistics
from rio.storage import Storage, open_storage
from rio.testing.faults import StorageFaults
from rio.testing.network import Network
from rio.testing.virtual_time import Host, VirtualTimeLoop


class LocalNode:
    """One server of a :class:`LocalCluster`, on a host of its own."""

    def __init__(
        self, server: Server, address: str, host: Host, storage: StorageFaults, network: Network
    ) -> None:
        self.server = server
        self.host = host
        self.storage = storage
        """This node's way to the storage, and what can go wrong on it."""
        self.evicted = False
        """It has stopped because the others had declared it dead."""
        self._address = address
        self._network = network
        self._serving: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[Server] | None = None

    @property
    def name(self) -> str:
        """Of its host, which the network knows it by."""
        return self.host.name

    @property
    def address(self) -> str:
        """``host:port`` under which the cluster knows it; port 0 before it has one."""
        return self.server.address or self._address

    @property
    def generation(self) -> int:
        """Its number in the membership, 0 before it has one."""
        return self.server.cluster.generation

    @property
    def alive(self) -> bool:
        """Whether its server runs: it has started, and was neither killed nor stopped nor evicted."""
        return self._serving is not None and not self._serving.done() and not self.host.down

    def statistics(self) -> ServerStatistics:
        """The counters of its server now."""
        return self.server.statistics()

    async def start(self) -> None:
        """Bind and join.

        :raises Exception: what :class:`rio.Server` raises where it cannot; the host is down then.
        """
        self._network.add(self.host)
        try:
            await self._start()
        except BaseException:
            self._network.take_down(self.host)
            raise
        self._serving = asyncio.get_running_loop().create_task(
            self._serve(), name=f"serve {self.name}", context=self.host.context()
        )

    async def _start(self) -> None:
        """:raises RuntimeError: it was killed meanwhile."""
        self._starting = asyncio.get_running_loop().create_task(
            self.server.__aenter__(), context=self.host.context()
        )
        try:
            await self._starting
        except asyncio.CancelledError:
            if self.host.down:
                raise RuntimeError(f"{self.name} was killed while it started") from None
            raise
        finally:
            self._starting = None

    async def _serve(self) -> None:
        try:
            await self.server.run(handle_signals=False)
        except NodeEvicted:
            self.evicted = True
        finally:
            self._network.take_down(self.host)

    async def stop(self) -> None:
        """Drain and leave, as after SIGTERM."""
        await self.host.run(self.server.stop())
        await self._ended()

    async def kill(self) -> None:
        """End as by SIGKILL: no hook runs, nothing is saved, nobody is told."""
        self._network.take_down(self.host)
        self.storage.cut_off()
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualTimeLoop):
            loop.resume(self.host, at_once=True)
        if self._starting is not None:
            self._starting.cancel()
        await self.host.run(self.server.stop(drain=False))
        await self._ended()

    async def _ended(self) -> None:
        if self._serving is not None:
            await asyncio.wait((self._serving,))

    def __repr__(self) -> str:
        return f"<LocalNode {self.name}, {'alive' if self.alive else 'evicted' if self.evicted else 'down'}>"


class LocalCluster:
    """Servers, a network and a storage in one process::

        async with LocalCluster(rio.Registry(Account), nodes=3) as cluster:
            await cluster.client.send(Account, "ada", Deposit(100))
            await cluster.kill(1)
            cluster.partition([0], [2])
            cluster.heal()
            await cluster.restart(1)
            assert cluster.nodes[0].statistics().live_objects == 1

    It runs on any event loop in real time, and in virtual time under :func:`rio.testing.run`, where
    a minute takes milliseconds and a ``seed`` always gives the same run. The servers, the protocol
    and the client are those of production; nothing touches a real socket. A node that is killed is
    cut off from everything, then its handlers are cancelled: their ``finally`` blocks do run.

    ``nodes``: how many are started. ``cluster``: settings, or the name of a preset. ``storage``: a
    :class:`rio.storage.Storage` or a URL, in memory unless given; a storage that is given as an
    object is not closed. ``app_data``: what all nodes share, or what makes one for each.
    ``latency``: seconds that a message takes, or what to call for each. ``seed``: of :attr:`rng`,
    by default that of :func:`rio.testing.run`. ``options``: those of :class:`rio.Server`, for every
    node.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        nodes: int = 3,
        cluster: ClusterConfig | str = "local",
        storage: Storage | str = "memory://",
        app_data: AppData | Callable[[], AppData] | None = None,
        latency: float | Callable[[], float] = 0.0,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        self.nodes: list[LocalNode] = []
        """All that were started, in their order, those that are down included."""
        self.rng = random.Random(_seed_of_the_loop() if seed is None else seed)
        """Where the randomness of everything in this cluster comes from."""
        self.network = Network(random.Random(self.rng.random()), latency=latency)
        self.storage = open_storage(storage) if isinstance(storage, str) else storage
        """What all nodes share, without the faults of any of them."""
        self._owns_storage = isinstance(storage, str)
        self._registry = registry
        self._count = nodes
        self._app_data = app_data
        self._options = {"cluster": cluster, **options}
        self._client: Client | None = None
        self._names = 0
        self._stack = AsyncExitStack()

    # --- opening and closing ----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self.network.on(asyncio.get_running_loop()))
            await self.storage.prepare()
            if self._owns_storage:
                stack.push_async_callback(self.storage.close)
            stack.push_async_callback(self._settle)
            stack.push_async_exit(self._stop_nodes)
            for _ in range(self._count):
                await self.start_node()
            self._client = await stack.enter_async_context(self.new_client())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.network.loss = 0.0
        self.heal()
        await self._stack.__aexit__(*error)

    async def _stop_nodes(self, failure: type[BaseException] | None, *_: object) -> None:
        """Politely, one after the other; at once where the test has failed."""
        for node in self.nodes:
            if node.alive:
                await (node.stop() if failure is None else node.kill())

    async def _settle(self) -> None:
        for node in self.nodes:
            await node.storage.settle()

    # --- who is there -----------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """A client outside of the cluster, on the host that the network calls ``client``."""
        if self._client is None:
            raise RuntimeError(
                "the cluster is not open: use it as `async with LocalCluster(...) as cluster`"
            )
        return self._client

    def new_client(self, **options: Any) -> Client:
        """Another client, to be used as ``async with``.

        The host on which it runs is that of the code that uses it.
        """
        host = self.network.outside
        options = {
            "rng": random.Random(self.rng.random()),
            "clock": self._clock_of(host),
            **options,
        }
        return Client(self.storage, **options)

    async def start_node(
        self, *, rate: float = 1.0, offset: float = 0.0, **options: Any
    ) -> LocalNode:
        """Start another server, which joins.

        ``rate``, ``offset``: of its clock, in virtual time; see :class:`Host`.
        """
        host = Host(f"node-{self._names}", rate=rate, offset=offset)
        self._names += 1
        node = self._made(host, f"{host.name}:0", options)
        self.nodes.append(node)
        await node.start()
        return node

    async def restart(
        self,
        node: LocalNode | int,
        *,
        rate: float | None = None,
        offset: float | None = None,
        **options: Any,
    ) -> LocalNode:
        """Start a server anew at the address of one that is down, in its place in :attr:`nodes`.
        Its clock stays unless one is given.

        :raises ValueError: it is up.
        """
        old = self._node(node)
        if not old.host.down:
            raise ValueError(f"{old.name} is up: stop it or kill it first")
        host = Host(
            old.name,
            rate=rate or old.host.rate,
            offset=old.host.offset if offset is None else offset,
        )
        new = self._made(host, old.address, options)
        self.nodes[self.nodes.index(old)] = new
        await new.start()
        return new

    def _made(self, host: Host, address: str, options: dict[str, Any]) -> LocalNode:
        faults = StorageFaults(random.Random(self.rng.random()))
        app_data = self._app_data() if callable(self._app_data) else self._app_data
        options = {
            "app_data": app_data,
            "clock": self._clock_of(host),
            "rng": random.Random(self.rng.random()),
            **self._options,
            **options,
        }
        server = Server(
            self._registry, storage=faults.wrap(self.storage), address=address, **options
        )
        return LocalNode(server, address, host, faults, self.network)

    def _clock_of(self, host: Host) -> Callable[[], float] | None:
        return host.clock if isinstance(asyncio.get_running_loop(), VirtualTimeLoop) else None

    def _node(self, node: LocalNode | int) -> LocalNode:
        return self.nodes[node] if isinstance(node, int) else node

    def _name(self, node: LocalNode | int | str) -> str:
        return node if isinstance(node, str) else self._node(node).name

    # --- what goes wrong --------------------------------------------------------------------------

    async def stop(self, node: LocalNode | int) -> None:
        """Have a node drain and leave, as after SIGTERM."""
        await self._node(node).stop()

    async def kill(self, node: LocalNode | int) -> None:
        """End a node as by SIGKILL: no hook runs, nothing is saved, nobody is told."""
        await self._node(node).kill()

    def partition(self, *groups: list[LocalNode | int | str]) -> None:
        """Let no two nodes of different groups hear each other, until :meth:`heal`. The client is
        ``"client"``; who is in no group hears everyone. The storage stays in reach: that is up to
        ``nodes[0].storage``."""
        self.network.partition(*([self._name(node) for node in group] for group in groups))

    def cut(self, source: LocalNode | int | str, target: LocalNode | int | str) -> None:
        """Let nothing that one node sends arrive at another one, until :meth:`heal`; the way back
        stays open.
        """
        self.network.cut(self._name(source), self._name(target))

    def heal(self) -> None:
        """Undo every :meth:`partition` and :meth:`cut`, and :meth:`StorageFaults.heal` each node's
        way to the storage.
        """
        self.network.heal()
        for node in self.nodes:
            node.storage.heal()

    def stall(self, node: LocalNode | int, seconds: float) -> None:
        """Run nothing of a node for a while, as if its process were stopped. Only in virtual time.

        :raises RuntimeError: this is real time.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop):
            raise RuntimeError(
                "a node can only be stalled in virtual time: run the test by rio.testing.run()"
            )
        loop.stall(self._node(node).host, seconds)

    async def home(self, object_type: type[ServiceObject] | str, id: str) -> LocalNode:
        """The node on which an object lives.

        :raises LookupError: it is in the memory of none that is up.
        """
        object_id = ObjectId(
            object_type if isinstance(object_type, str) else type_name_of(object_type), id
        )
        placement = await self.storage.placement.lookup(object_id)
        for node in self.nodes:
            if placement is not None and node.alive and node.generation == placement.generation:
                return node
        raise LookupError(f"{object_id} is on no node that is up")


def _seed_of_the_loop() -> int | None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return 0
    return loop.seed if isinstance(loop, VirtualTimeLoop) else 0
