"""Connections whose TLS handshake does not end are limited as others that say nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

import rio
from rio.server import quotas
from rio.transport import tls_handshake
from tests.server.harness import Cluster, until
from tests.server.test_security import certificate_files

pytestmark = pytest.mark.both_loops

NODE = rio.Key.generate("node", "node")
WEB = rio.Key.generate("web", "call")
BEGUN = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The begin of a client's first word in TLS."""
LIMIT = 8


class Ping(rio.Message[str]):
    pass


class Thing(rio.ServiceObject):
    @rio.handler
    def ping(self, _: Ping) -> str:
        return self.id


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    return certificate_files(trustme.CA(), tmp_path)


@pytest.fixture
async def server(
    cluster: Cluster, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> rio.Server:
    monkeypatch.setattr(quotas, "MOST_STRANGERS", LIMIT)
    return await cluster.server(Thing, security=rio.Security([NODE, WEB], **files))


@pytest.fixture
async def honest(cluster: Cluster, files: dict[str, Any]) -> rio.Client:
    return await cluster.client(security=rio.Security([WEB], ca=files["ca"]))


class Stalled:
    """A socket that begins a handshake and says nothing more."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own

    @classmethod
    async def connect(
        cls, server: rio.Server, said: bytes = BEGUN, source: str = "127.0.0.1"
    ) -> Stalled:
        own = socket.socket()
        own.setblocking(False)
        own.bind((source, 0))
        loop = asyncio.get_running_loop()
        await loop.sock_connect(own, rio.Address.parse(server.address))
        await loop.sock_sendall(own, said)
        return cls(own)

    async def closed(self) -> bool:
        """Wait until the server has closed it."""
        with suppress(ConnectionError):
            while await asyncio.get_running_loop().sock_recv(self._own, 1000):
                pass
        self._own.close()
        return True

    @property
    def is_open(self) -> bool:
        """Whether the server has neither closed it nor said anything."""
        try:
            return bool(self._own.recv(1000)) and False
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    def leave(self) -> None:
        self._own.close()


def count(server: rio.Server) -> int:
    return server._catalog.quotas._stranger_count


@pytest.mark.parametrize("said", [b"", BEGUN[:1], BEGUN])
async def test_the_oldest_handshake_gives_way_and_who_has_a_key_gets_through(
    server: rio.Server, honest: rio.Client, said: bytes
) -> None:
    stalled = [await Stalled.connect(server, said) for _ in range(200)]
    for each in stalled[:-LIMIT]:
        assert await each.closed()
    assert count(server) == LIMIT
    assert [each.is_open for each in stalled[-LIMIT:]] == [True] * LIMIT
    assert await honest.send(Thing, "a", Ping()) == "a"
    assert not stalled[-LIMIT].is_open, "it gave way to the honest client"
    for each in stalled[-LIMIT:]:
        each.leave()
    await until(lambda: count(server) == 0)
    assert server.statistics().connections == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="it has one loopback address")
async def test_the_address_that_has_most_handshakes_gives_way(server: rio.Server) -> None:
    few = [await Stalled.connect(server, source="127.0.0.2") for _ in range(2)]
    many = [await Stalled.connect(server) for _ in range(20)]
    for each in many[: -(LIMIT - 2)]:
        assert await each.closed()
    assert [each.is_open for each in few] == [True, True]
    for each in few + many:
        each.leave()
    await until(lambda: count(server) == 0)


async def test_those_before_and_those_after_the_handshake_are_limited_together(
    server: rio.Server, files: dict[str, Any]
) -> None:
    context = ssl.create_default_context(cafile=files["ca"][0])
    context.check_hostname = False
    host, port = rio.Address.parse(server.address)
    silent = [await asyncio.open_connection(host, port, ssl=context) for _ in range(LIMIT)]
    await until(lambda: server.statistics().connections == LIMIT)
    await until(lambda: count(server) == LIMIT)
    stalled = [await Stalled.connect(server) for _ in range(LIMIT)]
    for reader, writer in silent:
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    assert [each.is_open for each in stalled] == [True] * LIMIT
    for each in stalled:
        each.leave()
    await until(lambda: count(server) == 0)


async def test_a_handshake_that_fails_or_takes_too_long_does_not_count_any_more(
    server: rio.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_handshake, "HANDSHAKE_TIMEOUT", 0.2)
    slow = [await Stalled.connect(server) for _ in range(2)]
    wrong = [await Stalled.connect(server, b"GET / HTTP/1.1\r\n\r\n") for _ in range(2)]
    for each in [*wrong, *slow]:
        assert await each.closed()
    await until(lambda: count(server) == 0)
    assert not server._connections._handshakes


async def test_a_server_that_stops_waits_for_no_handshake(server: rio.Server) -> None:
    stalled = [await Stalled.connect(server) for _ in range(3)]
    await until(lambda: count(server) == 3)
    late = await Stalled.connect(server)
    await server.stop()
    for each in [*stalled, late]:
        assert await each.closed()
    assert count(server) == 0
    assert not [each for each in asyncio.all_tasks() if "agree on TLS" in each.get_name()]


async def test_a_handshake_that_is_given_up_at_once_leaves_nothing_open(
    server: rio.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._catalog.quotas, "_most_strangers", 0)
    for _ in range(3):
        assert await (await Stalled.connect(server)).closed()
    await until(lambda: count(server) == 0)


@pytest.mark.virtual_time
async def test_a_network_in_memory_has_nothing_to_encrypt(
    server: rio.Server, honest: rio.Client
) -> None:
    assert await honest.send(Thing, "a", Ping()) == "a"
    assert not any(each.is_encrypted for each in server._catalog.dispatcher.connections)
