"""A cluster in one process, and a probe through which its objects talk to the test."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import msgspec

import rio
from rio._core.wire import Kind
from rio.errors import CallTimeout, NotExecuted
from rio.storage import Storage
from rio.testing import VirtualTimeLoop
from rio.transport.protocol import VERSION, Hello, write_hello

NO_ANSWER = (NotExecuted, CallTimeout)
"""How a call ends that every server refuses for now.

Most often its time runs out between two attempts, at times during one.
"""


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition, up to the time limit of the test."""
    while not condition():  # noqa: ASYNC110  # what is waited for notifies nobody
        await asyncio.sleep(0.002)


def compute(seconds: float) -> None:
    """Let virtual time pass as code does that computes: meanwhile the loop runs nothing."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._jump.now += seconds


class Patient(random.Random):
    """The settings of a client that waits long before it tries again."""

    def uniform(self, a: float, b: float) -> float:
        return 60.0


class Probe:
    """What the objects of one test have done, and the gates at which they wait."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def note(self, what: str) -> None:
        self.log.append(what)

    def count(self, what: str) -> int:
        return self.log.count(what)

    def gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    async def noted(self, what: str, times: int = 1) -> None:
        await until(lambda: self.count(what) >= times)


class Cluster:
    """Servers and clients of one storage, stopped and closed in the right order."""

    def __init__(self, storage: Storage, probe: Probe, stack: AsyncExitStack) -> None:
        self.storage = storage
        self.probe = probe
        self.servers: list[rio.Server] = []
        loop = asyncio.get_running_loop()
        self.clock = loop.time if isinstance(loop, VirtualTimeLoop) else None
        """That of a virtual loop, and else that of the system."""
        self._stack = stack

    def app_data(self) -> rio.AppData:
        data = rio.AppData()
        data.set(self.probe)
        return data

    async def server(
        self,
        *classes: type[rio.ServiceObject],
        registry: rio.Registry | None = None,
        **options: Any,
    ) -> rio.Server:
        options = {
            "storage": self.storage,
            "cluster": "local",
            "app_data": self.app_data(),
            "clock": self.clock,
            **options,
        }
        server = rio.Server(registry or rio.Registry(*classes), **options)
        await self._stack.enter_async_context(server)
        self.servers.append(server)
        return server

    async def nodes(
        self, count: int, *classes: type[rio.ServiceObject], **options: Any
    ) -> list[rio.Server]:
        return [await self.server(*classes, **options) for _ in range(count)]

    async def client(self, **options: Any) -> rio.Client:
        options = {"clock": self.clock, **options}
        return await self._stack.enter_async_context(rio.Client(self.storage, **options))

    def calls(self) -> int:
        """The number of requests that all servers have taken."""
        return sum(server.statistics().calls for server in self.servers)

    def home(self, object_type: type[rio.ServiceObject], id: str) -> rio.Server | None:
        """The server that has an object in memory."""
        homes = [server for server in self.servers if id in activations(server, object_type)]
        assert len(homes) <= 1, f"{id} is active on {homes}"
        return homes[0] if homes else None

    async def activated_on(
        self,
        server: rio.Server,
        object_type: type[rio.ServiceObject],
        message: rio.Message[Any],
        prefix: str = "on",
    ) -> str:
        """The id of an object that lives on ``server``. ``message`` activates it."""
        for number in range(1000):
            id = f"{prefix}{number}"
            if self.home(object_type, id) is None:
                await server.client.send(object_type, id, message)
                assert self.home(object_type, id) is server
                return id
        raise AssertionError("no free id")


def activations(server: rio.Server, object_type: type[rio.ServiceObject]) -> dict[str, Any]:
    """The objects of a type in a server's memory, by id."""
    return server._catalog.dispatcher.tables[object_type.__rio_type_name__].mailboxes


def activation(server: rio.Server, object_type: type[rio.ServiceObject], id: str) -> Any:
    return activations(server, object_type)[id]


def instance(server: rio.Server, object_type: type[rio.ServiceObject], id: str) -> Any:
    """The object itself, as it lies in memory."""
    return activation(server, object_type, id).instance


def sever(server: rio.Server) -> int:
    """Cut all connections of a server at once, as its death would. Returns their number."""
    cut = [
        connection.transport
        for connection in list(server._catalog.dispatcher.connections)
        if connection.transport is not None
    ]
    for transport in cut:
        transport.abort()
    return len(cut)


async def crash(server: rio.Server) -> None:
    """Have a server vanish as by SIGKILL.

    Its socket is closed, its tasks end, and it tells nobody.
    """

    async def tell_nobody() -> None: ...

    server._cluster.leave = tell_nobody  # type: ignore[method-assign]
    sever(server)
    await server.stop(drain=False)


# --- a peer that speaks bytes ---------------------------------------------------------------------


class RawPeer:
    """A socket whose frames a test reads and writes by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: rio.Server, *, greet: bool = True) -> RawPeer:
        host, port = rio.Address.parse(server.address)
        peer = cls(*await asyncio.open_connection(host, port))
        if greet:
            peer.send(write_hello(Hello(VERSION, "client")))
            assert (await peer.frame())[0] == Kind.HELLO
        return peer

    def send(self, body: bytes) -> None:
        self.writer.write(len(body).to_bytes(4, "big") + body)

    async def frame(self) -> list[Any]:
        """Wait for the next frame, and decode it.

        :raises asyncio.IncompleteReadError: the server has closed.
        :raises ConnectionError: the server has closed.
        """
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        return msgspec.msgpack.decode(await self.reader.readexactly(size))

    async def closed(self) -> bool:
        """Wait until the server has closed. What still arrives is dropped."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> RawPeer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
