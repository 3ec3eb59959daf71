"""A server that has no file descriptors left for clients says so, a few times, accepts nothing,
keeps some for itself, and goes on when it has some again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import rio
from rio._core.wire import Kind
from rio.server import descriptors as module
from rio.server.descriptors import REPEAT, RESERVE, Descriptors
from rio.transport.protocol import VERSION, Hello, write_bare, write_hello
from tests.cli.processes import Running, python
from tests.server.harness import Cluster, RawPeer

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "rio.server"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_lack_of_descriptors_is_told_once_a_minute_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    caplog.set_level(logging.INFO, logger="rio.server")
    time = [0.0]
    descriptors = Descriptors(lambda: time[0])
    assert not descriptors.are_scarce()
    assert lines(caplog) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(os, "listdir", refuse)
        for _ in range(1000):
            assert descriptors.are_scarce()
            assert not descriptors.are_enough()
            time[0] += 0.1
    assert len(lines(caplog)) == 1 + int(100 // REPEAT)
    assert "nearly all are in use: no new connections are accepted" in lines(caplog)[0]
    assert descriptors.are_enough()
    assert descriptors.are_enough()
    assert lines(caplog)[-1] == "there are descriptors again: new connections are accepted"
    assert len(lines(caplog)) == 2 + int(100 // REPEAT)


@pytest.mark.parametrize(
    ("limit", "kept"), [(1600, RESERVE), (1_000_000, RESERVE), (800, 100), (64, 8)]
)
def test_a_reserve_is_kept_and_a_little_more_ends_the_lack(
    monkeypatch: pytest.MonkeyPatch, limit: int, kept: int
) -> None:
    monkeypatch.setattr(module, "descriptor_limit", lambda: limit)
    numbers = [limit - kept - 1, limit - kept]
    monkeypatch.setattr(module, "_next_number", lambda: numbers.pop(0))
    counts = [limit - kept - kept // 8, limit - kept - kept // 8 - 1]
    monkeypatch.setattr(module, "_count", lambda: counts.pop(0))
    descriptors = Descriptors(lambda: 0.0)
    assert [descriptors.are_scarce() for _ in range(2)] == [False, True]
    assert [descriptors.are_enough() for _ in range(2)] == [False, True]


@linux
def test_looking_leaves_nothing_open() -> None:
    descriptors = Descriptors(lambda: 0.0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        assert not descriptors.are_scarce()
        assert descriptors.are_enough()
    assert len(os.listdir("/proc/self/fd")) == before


class Ping(rio.Message[str]): ...


class Thing(rio.ServiceObject):
    @rio.handler
    def ping(self, message: Ping) -> str:
        return self.id


async def test_a_server_that_rests_accepts_nothing_and_then_those_who_have_waited(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Thing)
    acceptor = server._acceptor
    assert acceptor._listener is not None
    with monkeypatch.context() as patch:
        patch.setattr(module, "_next_number", lambda: sys.maxsize)
        patch.setattr(module, "_count", lambda: sys.maxsize)
        acceptor._look_at = 0.0
        acceptor.look()
        assert acceptor._listener.rests
        assert len(list(acceptor.numbers())) == 1  # the address is still taken
        client = await cluster.client()
        call = asyncio.ensure_future(client.send(Thing, "a", Ping()))
        for _ in range(20):
            acceptor._look_at = 0.0
            acceptor.look()  # it goes on resting
            await asyncio.sleep(0)
        assert not call.done()
    assert await call == "a"
    assert not acceptor._listener.rests


@pytest.mark.parametrize("turns", [None, 0, 1, 2, 3])
async def test_a_server_that_rests_can_be_stopped(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, turns: int | None
) -> None:
    server = await cluster.server(Thing)
    address = rio.Address.parse(server.address)
    monkeypatch.setattr(module, "_next_number", lambda: sys.maxsize)
    server._acceptor._look_at = 0.0
    server._acceptor.look()
    if turns is not None:  # it is about to accept again
        server._acceptor._look_at = 0.0
        server._acceptor.look()
        for _ in range(turns):
            await asyncio.sleep(0)
    await server.stop()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((address.host, address.port))  # it is free
        again.listen()


# --- a process that has no more -------------------------------------------------------------------

SERVICE = """
import rio


class Ping(rio.Message[str]): ...


class Thing(rio.ServiceObject):
    @rio.handler
    def ping(self, message: Ping) -> str:
        return self.id


registry = rio.Registry(Thing)
"""
CALLER = """
import sys, rio, service

async def main():
    async with rio.Client("sqlite:///things.db", timeout=60) as client:
        print(await client.send(service.Thing, "a", service.Ping()))

rio.run(main())
"""


@contextmanager
def few_descriptors(limit: int) -> Iterator[None]:
    """Let the processes that are started meanwhile have so many descriptors."""
    import resource  # here, because Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HELLO = write_hello(Hello(VERSION, "node"))


def knock(stack: ExitStack, address: rio.Address) -> None:
    """Connect as a node would: connections of clients are not allowed to be so many."""
    node = stack.enter_context(socket.socket())
    node.setblocking(False)
    node.connect_ex((address.host, address.port))
    with suppress(OSError):  # it is not accepted yet
        node.send(len(HELLO).to_bytes(4, "big") + HELLO)


@asynccontextmanager
async def pacer(address: rio.Address) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Has a server answer over a connection of its own: so the server has seen who knocked before,
    and the queue of the system is not full.
    """
    async with RawPeer(*await asyncio.open_connection(*address)) as peer:
        peer.send(HELLO)
        assert (await peer.frame())[0] == Kind.HELLO

        async def answer() -> None:
            peer.send(write_bare(Kind.PING, 1))
            while (await peer.frame())[0] != Kind.PONG:
                pass

        yield answer


@linux
@pytest.mark.parametrize("loop_of_server", ["uvloop", "asyncio"])
async def test_peers_that_take_all_descriptors_cost_one_line_and_no_lease(
    tmp_path: Path, loop_of_server: str
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    if loop_of_server == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError")
    arguments = ("run", "service:registry", "--storage", "sqlite:///things.db")
    limit = 256
    with few_descriptors(limit):
        running = Running(*arguments, cwd=tmp_path)
    with running as server:
        address = rio.Address.parse(server.address())
        process = server.process.pid
        async with pacer(address) as answer:
            with ExitStack() as stack:
                while "no new connections are accepted" not in server.errors():
                    knock(stack, address)
                    await answer()
                # all but the reserve are in use, and stay so
                folder = f"/proc/{process}/fd"
                for _ in range(100):
                    knock(stack, address)
                    await answer()
                    assert limit // 2 < len(os.listdir(folder)) < limit - 10
        caller = await asyncio.to_thread(python, "-c", CALLER, cwd=tmp_path)
        assert caller.stdout == "a\n", caller.stderr
        log = [line for line in server.errors().splitlines() if "slow" not in line]
        assert sum("no new connections are accepted" in line for line in log) == 1
        assert sum("there are descriptors again" in line for line in log) == 1
        assert "out of system resource" not in server.errors()
        assert "Traceback" not in server.errors()
        assert server.process.poll() is None
