"""A whole cluster in one process, for tests of objects. It can be broken on purpose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self

from rio.client.client import Client
from rio.cluster.config import ClusterConfig
from rio.identity import ObjectId, name_of_type
from rio.objects.app_data import AppData
from rio.objects.registry import Registry, replace_storages
from rio.objects.service_object import ServiceObject
from rio.server.server import Server
from rio.storage import Storage, open_storage
from rio.testing.faults import StorageFaults
from rio.testing.local_node import LocalNode
from rio.testing.network import Network
from rio.testing.virtual_time import Host, VirtualTimeLoop

_PATIENCE = 1.0
"""Seconds for which a node may drain when its cluster closes, in real time."""


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
    :class:`rio.storage.Storage` or a URL, by default in memory; a storage that is given as an
    object is not closed. ``app_data``: shared by all nodes, or a function that makes one for each.
    ``latency``: seconds that a message takes, or a function that returns them for each message.
    ``seed``: the seed of :attr:`rng`, by default that of :func:`rio.testing.run`. ``options``:
    further options of :class:`rio.Server`, for every node.

    :raises Exception: on entering, what :class:`rio.Server` raises if a node cannot start.
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
        """All nodes that were started, in order; also those that are down."""
        self.rng = random.Random(_seed_of_the_loop() if seed is None else seed)
        """The source of all randomness in this cluster."""
        self.network = Network(random.Random(self.rng.random()), latency=latency)
        """The network between the nodes, and what can go wrong in it."""
        self.storage = open_storage(storage) if isinstance(storage, str) else storage
        """The storage that all nodes share, without the faults of any of them."""
        self._owns_storage = isinstance(storage, str)
        self._registry = registry
        self._count = nodes
        self._app_data = app_data
        self._options = {"cluster": cluster, **options}
        self._client: Client | None = None
        self._names = 0
        self._stack = AsyncExitStack()
        self._expect_node()

    # --- opening and closing ----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.nodes.clear()  # those of the time when it was open before
            self._names = 0
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
        self._client = None
        await self._stack.__aexit__(*error)

    async def _stop_nodes(self, failure: type[BaseException] | None, *_: object) -> None:
        """Let the nodes leave, one after the other; end them at once if the test has failed. What
        is busy does not keep a test for long in real time.
        """
        patience = None if isinstance(asyncio.get_running_loop(), VirtualTimeLoop) else _PATIENCE
        for node in self.nodes:
            if node.alive:
                await (node.stop(patience) if failure is None else node.kill())

    async def _settle(self) -> None:
        for node in self.nodes:
            await node.storage.settle()

    # --- clients and nodes ------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """A client outside of the cluster, on the host that the network calls ``client``.

        :raises RuntimeError: the cluster is not open.
        """
        if self._client is None:
            raise RuntimeError(
                "the cluster is not open: use it as `async with LocalCluster(...) as cluster`"
            )
        return self._client

    def new_client(self, **options: Any) -> Client:
        """Return another client, to be used as ``async with``. It runs on the host of the code that
        uses it. ``options``: those of :class:`rio.Client`.
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
        """Start another server, which joins, and return its node.

        ``rate``, ``offset``: of the host's clock, in virtual time; see :class:`Host`. ``options``:
        those of :class:`rio.Server`, for this node.

        :raises Exception: what :class:`rio.Server` raises if it cannot start.
        """
        host = Host(f"node-{self._names}", rate=rate, offset=offset)
        self._names += 1
        self._expect_node()
        node = self._new_node(host, f"{host.name}:0", options)
        self.nodes.append(node)
        await node.start()
        return node

    def _expect_node(self) -> None:
        """Let the network know the name of the next node: a test may cut it off beforehand."""
        host = Host(f"node-{self._names}")
        host.down = True
        self.network.add(host)

    async def restart(
        self,
        node: LocalNode | int,
        *,
        rate: float | None = None,
        offset: float | None = None,
        **options: Any,
    ) -> LocalNode:
        """Start a server at the address of a node that is down, and return the new node. It takes
        the place of the old one in :attr:`nodes`. ``rate`` and ``offset`` are those of the old one
        unless given.

        :raises ValueError: the node is up.
        :raises Exception: what :class:`rio.Server` raises if it cannot start.
        """
        old = self._node(node)
        if not old.host.down:
            raise ValueError(f"{old.name} is up: stop it or kill it first")
        host = Host(
            old.name,
            rate=rate or old.host.rate,
            offset=old.host.offset if offset is None else offset,
        )
        new = self._new_node(host, old.address, options)
        self.nodes[self.nodes.index(old)] = new
        await new.start()
        return new

    def _new_node(self, host: Host, address: str, options: dict[str, Any]) -> LocalNode:
        faults = StorageFaults(random.Random(self.rng.random()))
        app_data = self._app_data() if callable(self._app_data) else self._app_data
        options = {
            "app_data": app_data,
            "clock": self._clock_of(host),
            "rng": random.Random(self.rng.random()),
            "insecure": True,  # the network is in memory
            **self._options,
            **options,
        }
        registry = replace_storages(self._registry, faults.wrap_state)
        server = Server(registry, storage=faults.wrap(self.storage), address=address, **options)
        return LocalNode(server, address, host, faults, self.network)

    def _clock_of(self, host: Host) -> Callable[[], float] | None:
        return host.clock if isinstance(asyncio.get_running_loop(), VirtualTimeLoop) else None

    def _node(self, node: LocalNode | int) -> LocalNode:
        found = self.nodes[node] if isinstance(node, int) else node
        if found not in self.nodes:
            raise LookupError(f"{found!r} is no node of this cluster: {self.nodes}")
        return found

    def _name(self, node: LocalNode | int | str) -> str:
        return node if isinstance(node, str) else self._node(node).name

    # --- what goes wrong --------------------------------------------------------------------------

    async def stop(self, node: LocalNode | int) -> None:
        """Let a node drain and leave, as after SIGTERM."""
        await self._node(node).stop()

    async def kill(self, node: LocalNode | int) -> None:
        """End a node as by SIGKILL: no hook runs, nothing is saved, also not in the storages of
        their own that states have, and no other node is told.
        """
        await self._node(node).kill()

    def partition(self, *groups: list[LocalNode | int | str]) -> None:
        """Let no two nodes of different groups hear each other, until :meth:`heal`. The client is
        ``"client"``, and the next node to start has a name already: with two nodes, ``"node-2"``. A
        node in no group hears all others. All nodes still reach the storage;
        :attr:`LocalNode.storage` changes that.

        :raises LookupError: there is no such node.
        """
        self.network.partition(*([self._name(node) for node in group] for group in groups))

    def cut(self, source: LocalNode | int | str, target: LocalNode | int | str) -> None:
        """Let nothing that ``source`` sends arrive at ``target``, until :meth:`heal`. The way back
        stays open.

        :raises LookupError: there is no such node.
        """
        self.network.cut(self._name(source), self._name(target))

    def heal(self) -> None:
        """Undo every :meth:`partition` and :meth:`cut`, and heal each node's way to the storage, as
        :meth:`StorageFaults.heal` does.
        """
        self.network.heal()
        for node in self.nodes:
            node.storage.heal()

    def stall(self, node: LocalNode | int, seconds: float) -> None:
        """Run no code of a node for so many seconds, as if its process were stopped. This works in
        virtual time only.

        :raises RuntimeError: this is real time.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop):
            raise RuntimeError(
                "a node can only be stalled in virtual time: run the test by rio.testing.run()"
            )
        loop.stall(self._node(node).host, seconds)

    async def home(self, object_type: type[ServiceObject] | str, id: str) -> LocalNode:
        """Return the node on which an object lives.

        :raises LookupError: no node that is up has it in memory.
        :raises BadIdentity: ``object_type`` or ``id`` is empty, too long or not valid text.
        """
        object_id = ObjectId.check(name_of_type(object_type), id)
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
