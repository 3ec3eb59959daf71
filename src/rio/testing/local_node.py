"""One server of a cluster in one process."""

from __future__ import annotations

import asyncio

from rio import background
from rio.errors import NodeEvicted
from rio.server.server import Server
from rio.server.statistics import ServerStatistics
from rio.testing.faults import StorageFaults
from rio.testing.network import Network
from rio.testing.virtual_time import Host, VirtualTimeLoop


class LocalNode:
    """One server of a :class:`rio.testing.LocalCluster`, on a host of its own. The cluster makes
    it.
    """

    def __init__(
        self, server: Server, address: str, host: Host, storage: StorageFaults, network: Network
    ) -> None:
        self.server = server
        """The :class:`rio.Server`."""
        self.host = host
        """Where the server runs."""
        self.storage = storage
        """The server's way to the storage, and what can go wrong on it."""
        self.evicted = False
        """Whether the server has stopped because the others had declared it dead."""
        self._address = address
        self._network = network
        self._serving: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[Server] | None = None

    @property
    def name(self) -> str:
        """The name of the host, by which the network knows it."""
        return self.host.name

    @property
    def address(self) -> str:
        """``host:port`` under which the cluster knows the server; port 0 before it has one."""
        return self.server.address or self._address

    @property
    def generation(self) -> int:
        """The server's number in the membership, 0 before it has one."""
        return self.server.generation

    @property
    def alive(self) -> bool:
        """Whether the server runs: it has started, and was not killed, stopped or evicted."""
        return self._serving is not None and not self._serving.done() and not self.host.down

    def statistics(self) -> ServerStatistics:
        """The server's counters at this moment."""
        return self.server.statistics()

    async def start(self) -> None:
        """Let the server bind and join.

        :raises Exception: what :class:`rio.Server` raises if it cannot; then the host is down.
        :raises RuntimeError: the node was killed meanwhile.
        """
        self._network.add(self.host)
        try:
            await self._start()
        except BaseException:
            self._network.take_down(self.host)
            raise
        self._serving = background.start(
            self._serve(), f"serve {self.name}", context=self.host.context()
        )

    async def _start(self) -> None:
        self._starting = background.start(self.server.__aenter__(), context=self.host.context())
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

    async def stop(self, patience: float | None = None) -> None:
        """Let the server drain and leave, as after SIGTERM. After ``patience`` seconds it drains no
        longer.
        """
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(self.server.stop(), context=self.host.context())
        await asyncio.wait((stopping,), timeout=patience)
        if not stopping.done():
            await self.host.run(self.server.stop(drain=False))
        await stopping
        await self._wait_for_end()

    async def kill(self) -> None:
        """End the server as by SIGKILL: no hook runs, nothing is saved, no other node is told."""
        self._network.take_down(self.host)
        self.storage.cut_off()
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualTimeLoop):
            loop.resume(self.host, at_once=True)
        if self._starting is not None:
            self._starting.cancel()
        await self.host.run(self.server.stop(drain=False))
        await self._wait_for_end()

    async def _wait_for_end(self) -> None:
        if self._serving is not None:
            await asyncio.wait((self._serving,))

    def __repr__(self) -> str:
        state = "alive" if self.alive else "evicted" if self.evicted else "down"
        return f"<LocalNode {self.name}, {state}>"
