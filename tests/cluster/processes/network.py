"""The network between server processes, link by link.

A proxy stands in front of each server, and knows the process that connects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from rio.testing import Proxy, Wire
from tests.cluster.processes.harness import Cluster, Node
from tests.servers import free_port


class Front(Proxy):
    """The proxy in front of one server, with a wire for each process that connects."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self._wires: dict[int, Wire] = {}

    def wire_of(self, client: tuple[str, int]) -> Wire:
        return self.wire_from(owner_of(client[1]))

    def wire_from(self, pid: int) -> Wire:
        return self._wires.setdefault(pid, Wire())


class Network:
    """The links between the servers of a cluster, and between each of them and its storage."""

    def __init__(self, cluster: Cluster) -> None:
        self.nodes: list[Node] = []
        self._cluster = cluster
        self._fronts: dict[Node, Front] = {}
        self._storages: dict[Node, Proxy] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cluster.end()
        await self._stack.aclose()

    async def start(self, number: int, environ: Mapping[str, str] | None = None) -> list[Node]:
        """Start so many servers, with a proxy before each, and one before the storage of each."""
        return [await (await self._launch(environ or {})).listening() for _ in range(number)]

    async def _launch(self, environ: Mapping[str, str]) -> Node:
        server = self._cluster.store.server
        assert server is not None, "the storage must be a server for there to be a network"
        front = await self._stack.enter_async_context(Front(free_port()))
        storage = await self._stack.enter_async_context(Proxy("127.0.0.1", server.port))
        direct, self._cluster.url = (
            self._cluster.url,
            self._cluster.url.replace(f":{server.port}", f":{storage.port}"),
        )
        try:
            advertised = {"RIO_ADVERTISE": f"127.0.0.1:{front.port}", **environ}
            node = await self._cluster.launch(
                address=f"127.0.0.1:{front.target[1]}", environ=advertised
            )
        finally:
            self._cluster.url = direct
        self.nodes.append(node)
        self._fronts[node], self._storages[node] = front, storage
        return node

    def storage_of(self, node: Node) -> Proxy:
        """The proxy between a server and its storage."""
        return self._storages[node]

    def lose(self, source: Node, target: Node) -> None:
        """Let nothing that ``source`` sends reach ``target``, until :meth:`heal`."""
        self._fronts[target].wire_from(source.process.pid).hold(replies=False)
        self._fronts[source].wire_from(target.process.pid).hold(requests=False)

    def split(self, one: Iterable[Node], other: Iterable[Node]) -> None:
        """Cut every link between a server of the one side and a server of the other."""
        others = list(other)
        for node in one:
            for peer in others:
                if node is not peer:
                    self.lose(node, peer)
                    self.lose(peer, node)

    def isolate(self, node: Node) -> None:
        self.split([node], self.nodes)

    def heal(self) -> None:
        """Let everything arrive again, also what was on its way."""
        for front in self._fronts.values():
            for pid in (node.process.pid for node in self.nodes):
                front.wire_from(pid).release()
        for storage in self._storages.values():
            storage.release()


def owner_of(port: int) -> int:
    """The process that has connected from a port of this machine; 0 if it is gone."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, _, _, _, _, _, _, _, inode = line.split()[1:10]
        if int(local.rpartition(":")[2], 16) == port and inode != "0":
            return _process_with(f"socket:[{inode}]")
    return 0


def _process_with(name: str) -> int:
    """The process that has a file of this name open: this one, or one of its descendants."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file) == name for file in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue  # the process belongs to another user, or has ended
    return 0
