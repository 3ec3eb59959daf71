"""Servers at ``unix:`` addresses, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import rio
from rio.errors import (
    BadAddress,
    BindFailed,
    ConfigurationError,
    NoServersAvailable,
    NotAuthenticated,
)
from rio.identity import MAX_SOCKET_PATH, Address
from rio.security.tls import CAN_USE_KEYS
from rio.transport.listener import Listener
from tests.server.harness import until

pytestmark = [
    pytest.mark.both_loops,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such addresses there"),
]


class Add(rio.Message[int]):
    pass


class Hop(rio.Message[int]):
    other: str


class Counter(rio.ServiceObject):
    value = 0

    @rio.handler
    def add(self, _: Add) -> int:
        self.value += 1
        self.publish(Add())
        return self.value

    @rio.handler
    async def hop(self, message: Hop) -> int:
        return await self.send(Counter, message.other, Add())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: that of pytest's own may be too long for a socket."""
    with TemporaryDirectory(prefix="rio-") as name:
        yield Path(name)


@pytest.fixture
async def storage() -> AsyncIterator[rio.Storage]:
    async with rio.open_storage("memory://") as storage:
        yield storage


def server(storage: rio.Storage, path: Path, **more: Any) -> rio.Server:
    return rio.Server(
        rio.Registry(Counter), storage=storage, cluster="local", address=f"unix:{path}", **more
    )


async def test_clients_and_servers_of_a_machine_reach_each_other(
    storage: rio.Storage, folder: Path
) -> None:
    async with (
        server(storage, folder / "a") as first,
        server(storage, folder / "b") as second,
        rio.Client(storage) as client,
    ):
        assert (first.address, second.address) == (f"unix:{folder}/a", f"unix:{folder}/b")
        addresses = [member.address for member in (await storage.membership.snapshot()).members]
        assert addresses == [first.address, second.address]
        await until(lambda: len(second.members.members) == 2)
        ids = [str(number) for number in range(30)]
        assert [await client.send(Counter, id, Add()) for id in ids] == [1] * 30
        assert [await client.send(Counter, id, Hop(id + "x")) for id in ids] == [1] * 30
        async with client.subscribe(Counter, "0", Add) as events:
            assert await client.send(Counter, "0", Add()) == 2
            assert isinstance(await anext(events), Add)
        assert first.statistics().calls, "both have objects"
        assert second.statistics().calls, "both have objects"
        await client.admin(rio.AdminCommand.server_exit(second.address))
        await until(lambda: second.was_stopped_remotely)
    assert os.listdir(folder) == []


async def test_a_server_sends_a_call_on_to_the_socket_of_another(
    storage: rio.Storage, folder: Path
) -> None:
    async with (
        server(storage, folder / "a") as first,
        server(storage, folder / "b") as second,
    ):
        ids = [str(number) for number in range(5)]
        for id in ids:  # each asks its own node first
            assert await first.client.send(Counter, id, Add()) == 1
            assert await second.client.send(Counter, id, Add()) == 2
        assert (first.statistics().live_objects, second.statistics().live_objects) == (5, 0)


@pytest.mark.parametrize("encryption", ["none", *(["key"] if CAN_USE_KEYS else [])])
async def test_security_holds_at_a_socket_file_too(
    storage: rio.Storage, folder: Path, encryption: Any
) -> None:
    node, web = rio.Key.generate("node", "node"), rio.Key.generate("web", "call")
    security = rio.Security([node, web], encryption=encryption)
    async with (
        server(storage, folder / "a", security=security),
        server(storage, folder / "b", security=security) as second,
        rio.Client(storage, security=rio.Security([web], encryption=encryption)) as client,
        rio.Client(storage, timeout=0.5) as stranger,
    ):
        await until(lambda: len(second.members.members) == 2)
        assert [await client.send(Counter, str(id), Add()) for id in range(10)] == [1] * 10
        with pytest.raises((NoServersAvailable, NotAuthenticated)):
            await stranger.send(Counter, "1", Add())


@pytest.mark.parametrize(
    ("config", "mode"),
    [(rio.ServerConfig(), 0o600), (rio.ServerConfig(socket_mode=0o660), 0o660)],
)
async def test_only_the_user_of_the_server_can_connect_unless_told_otherwise(
    storage: rio.Storage, folder: Path, config: rio.ServerConfig, mode: int
) -> None:
    async with server(storage, folder / "a", config=config):
        assert stat.S_IMODE((folder / "a").stat().st_mode) == mode
        assert stat.S_ISSOCK((folder / "a").stat().st_mode)
    assert not (folder / "a").exists()


@pytest.mark.parametrize("mode", [-1, 0o1000])
def test_a_mode_that_is_none_is_refused(mode: int) -> None:
    with pytest.raises(ConfigurationError, match="socket_mode must be from 0 to 0o777"):
        rio.ServerConfig(socket_mode=mode)


DYING = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.kill(os.getpid(), 9)
"""


async def test_the_file_of_a_dead_process_is_replaced(storage: rio.Storage, folder: Path) -> None:
    command = (sys.executable, "-c", DYING, str(folder / "a"))
    await asyncio.to_thread(subprocess.run, command, check=False)
    assert (folder / "a").exists()
    async with server(storage, folder / "a"), rio.Client(storage) as client:
        assert await client.send(Counter, "a", Add()) == 1


@pytest.mark.parametrize("state", ["accepts", "is full", "is a file", "is a folder", "is nowhere"])
async def test_what_somebody_else_has_stays(storage: rio.Storage, folder: Path, state: str) -> None:
    path = folder / "a"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        match state:
            case "is a file":
                path.write_text("precious")
            case "is a folder":
                path.mkdir()
            case "is nowhere":
                path = folder / "missing" / "a"
            case _:
                listener.bind(str(path))
                listener.listen(0)
                if state == "is full":
                    other.connect(str(path))
        before = path.lstat().st_ino if path.exists() else None
        with pytest.raises(BindFailed) as caught:
            async with server(storage, path):
                pass
        after = path.lstat().st_ino if path.exists() else None
    reason = {
        "is a file": "a file that is no socket is there",
        "is a folder": "a file that is no socket is there",
        "is nowhere": "No such file or directory",
    }.get(state, "another server listens there")
    assert str(caught.value) == f"cannot listen on unix:{path}: {reason}; choose another address"
    assert before == after


async def test_a_server_that_lives_keeps_its_path(storage: rio.Storage, folder: Path) -> None:
    async with server(storage, folder / "a") as first, rio.Client(storage) as client:
        with pytest.raises(BindFailed, match="another server listens there"):
            async with server(storage, folder / "a"):
                pass
        first._acceptor._listener.rest()  # as it does while descriptors are scarce
        with pytest.raises(BindFailed, match="another server listens there"):
            async with server(storage, folder / "a"):
                pass
        await first._acceptor._listener.wake()
        assert await client.send(Counter, "a", Add()) == 1
        members = (await storage.membership.snapshot()).members
        assert [member.generation for member in members] == [first.generation]


async def test_of_servers_that_start_at_once_one_has_the_path(folder: Path) -> None:
    async def start() -> rio.Server | None:
        made = server(rio.open_storage("memory://"), folder / "a")
        with suppress(BindFailed):
            return await made.__aenter__()
        return None

    started = [each for each in await asyncio.gather(*(start() for _ in range(5))) if each]
    assert len(started) == 1
    await started[0].stop()


async def test_a_server_that_stops_leaves_the_file_of_its_successor(folder: Path) -> None:
    address = Address.parse(f"unix:{folder}/a")
    listeners = [Listener(asyncio.Protocol, 5) for _ in range(2)]
    await listeners[0].bind(address)
    (folder / "a").unlink()  # by an operator, say
    await listeners[1].bind(address)
    await listeners[0].close()
    assert (folder / "a").exists()
    await listeners[1].close()
    await listeners[1].close()
    assert not (folder / "a").exists()


async def test_a_start_that_fails_leaves_no_file(folder: Path) -> None:
    made = rio.Server(
        rio.Registry(Counter),
        storage=f"sqlite:///{folder}/nowhere/a.db",
        address=f"unix:{folder}/a",
    )
    with pytest.raises(rio.errors.RioError):
        async with made:
            pass
    async with server(rio.open_storage("memory://"), folder / "b", http="127.0.0.1:0") as first:
        with pytest.raises(BindFailed, match="cannot serve HTTP"):
            async with server(rio.open_storage("memory://"), folder / "c", http=first.http_address):
                pass
        assert os.listdir(folder) == ["b"]


# --- addresses


def test_an_address_is_what_it_was() -> None:
    address = Address.parse("unix:/run/rio/a.sock")
    assert (address.path, address.port, str(address)) == (
        "/run/rio/a.sock",
        0,
        "unix:/run/rio/a.sock",
    )
    assert address.is_loopback
    assert Address.parse("localhost:80").path == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("unix:", "write the whole path, unix:/PATH"),
        ("unix:a.sock", "write the whole path, unix:/PATH"),
        ("unix:/a\0b", "write the whole path, unix:/PATH"),
        ("unix:/a\nb", "write the whole path, unix:/PATH"),
        (
            "unix:/" + "x" * MAX_SOCKET_PATH,
            rf"has {MAX_SOCKET_PATH + 1} bytes, and that of a socket",
        ),
        ("unix:/" + "ä" * (MAX_SOCKET_PATH // 2 + 1), "bytes, and that of a socket"),
        ("/run/a.sock", r"write HOST:PORT, \[IPV6\]:PORT or unix:/PATH"),
    ],
)
def test_a_path_that_no_socket_can_have_is_no_address(text: str, problem: str) -> None:
    with pytest.raises(BadAddress, match=problem):
        rio.Server(rio.Registry(Counter), storage="memory://", address=text)


async def test_the_longest_path_serves(storage: rio.Storage, folder: Path) -> None:
    path = folder / ("x" * (MAX_SOCKET_PATH - len(str(folder)) - 1))
    async with server(storage, path), rio.Client(storage) as client:
        assert await client.send(Counter, "a", Add()) == 1


def test_windows_has_no_such_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BadAddress, match="not an address on Windows: write HOST:PORT"):
        rio.Server(rio.Registry(Counter), storage="memory://", address="unix:/run/a.sock")


def test_pages_are_not_shown_at_a_socket_file(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="the pages are shown on HOST:PORT only"):
        rio.Server(rio.Registry(Counter), storage="memory://", http=f"unix:{folder}/a")
