"""The membership over HTTP: a node shows it, a client reads it, and nothing writes it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from rio.contracts.membership import MembershipSnapshot, MembershipStorage, MemberStatus, Vote
from rio.errors import ConfigurationError, StorageClosed, StorageUnavailable
from rio.identity import Address
from rio.storage import open_storage
from rio.storage.http import HttpMembershipStorage
from rio.storage.local import LocalMembershipStorage
from rio.web.guard import Guard
from rio.web.listener import HttpListener
from rio.web.pages import NodePages

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def membership() -> AsyncIterator[MembershipStorage]:
    """Two members, one of them with everything that a member can have."""
    async with LocalMembershipStorage() as membership:
        first = (await membership.register("127.0.0.1:5000", b"\x00\xff")).generation
        second = (await membership.register("[::1]:80")).generation
        for generation in first, second:
            await membership.set_status(generation, MemberStatus.JOINING, MemberStatus.ACTIVE)
        await membership.renew(first)
        await membership.vote(first, Vote(second, 2.5))
        yield membership


@pytest.fixture
async def url(membership: MembershipStorage) -> AsyncIterator[str]:
    snapshot = await membership.snapshot()
    http = HttpListener(Guard(NodePages(lambda: snapshot, str)))
    yield f"http://{await http.start(Address('127.0.0.1', 0))}"
    await http.close()


Serve = Callable[[bytes], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve the same bytes to every client."""
    servers = []

    async def serve_bytes(answer: bytes) -> str:
        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        servers.append(await asyncio.start_server(respond, "127.0.0.1", 0))
        return f"127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield serve_bytes
    for server in servers:
        server.close()
        await server.wait_closed()


def response(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


async def test_a_client_reads_exactly_what_the_node_knows(
    membership: MembershipStorage, url: str
) -> None:
    async with HttpMembershipStorage(url) as shown:
        assert await shown.snapshot() == await membership.snapshot()


async def test_the_first_of_several_nodes_that_answers_is_asked_first_from_then_on(
    url: str, serve: Serve
) -> None:
    broken = await serve(response(b"", b"500 Oops"))
    async with HttpMembershipStorage(url.replace("http://", f"http://{broken},")) as shown:
        snapshot = await shown.snapshot()
        assert len(snapshot.members) == 2
        assert shown._bases[0].geturl() == url


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "0 bytes read"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "answered 'SSH"),
        (response(b"gone", b"404 Not Found"), "404"),
        (response(b"<html>"), "malformed"),
        (response(b"[]"), "Expected `object`"),
        # From CPython 3.14 on the stack alone limits how deep a list may be.
        (
            response(b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"),
            "nested too deeply|missing required field",
        ),
        (
            response(b'{"version": 1, "generation_high": 1, "members": [{"generation": "1"}]}'),
            "Expected `int`",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "how long"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{}", "more than any"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}", "2 bytes read"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * (1 << 16) + b"\r\n\r\n", "limit"),
    ],
)
async def test_an_answer_that_is_no_membership_is_unavailable(
    serve: Serve, answer: bytes, text: str
) -> None:
    async with HttpMembershipStorage(f"http://{await serve(answer)}") as shown:
        with pytest.raises(StorageUnavailable, match=text):
            await shown.snapshot()


@pytest.fixture
async def unready(membership: MembershipStorage) -> AsyncIterator[list[str]]:
    """Hosts that are not ready: one that joins, one with older news, and one with all of them."""
    known = await membership.snapshot()
    old = MembershipSnapshot(1, 1, known.members[:1])
    pages = [
        NodePages(lambda each=each: each, lambda: "fenced")
        for each in (MembershipSnapshot(0, 0), old, known)
    ]
    listeners = [HttpListener(Guard(each)) for each in pages]
    yield [str(await each.start(Address("127.0.0.1", 0))) for each in listeners]
    for each in listeners:
        await each.close()


async def test_a_server_that_is_not_ready_is_believed_only_if_none_is(
    membership: MembershipStorage, url: str, unready: list[str]
) -> None:
    known = await membership.snapshot()
    hosts = [*unready[:2], url.removeprefix("http://"), unready[2]]
    async with HttpMembershipStorage(f"http://{','.join(hosts)}") as shown:
        assert await shown.snapshot() == known
        assert str(shown._bases[0].netloc) == hosts[2], "it is asked first from then on"
    async with HttpMembershipStorage(f"http://{','.join(unready)}") as shown:
        assert await shown.snapshot() == known, "the newest"
    async with HttpMembershipStorage(f"http://{unready[0]}") as shown:
        with pytest.raises(StorageUnavailable, match="it is not ready"):
            await shown.snapshot()


async def test_fields_of_a_newer_version_are_ignored(serve: Serve) -> None:
    where = await serve(
        response(b'{"version": 3, "generation_high": 2, "members": [], "colour": "red"}')
    )
    async with HttpMembershipStorage(f"http://{where}") as shown:
        assert await shown.snapshot() == MembershipSnapshot(3, 2)


async def test_a_status_of_a_newer_version_is_neither_active_nor_terminal(serve: Serve) -> None:
    where = await serve(
        response(
            b'{"version":1,"generation_high":1,"members":'
            b'[{"generation":1,"address":"h:1","status":"ODD","lease_counter":0,"metadata":"","votes":[]}]}'
        )
    )
    async with HttpMembershipStorage(f"http://{where}") as shown:
        snapshot = await shown.snapshot()
    assert snapshot.active == ()
    status = snapshot.status_of(1)
    assert status is not None
    assert not status.terminal


async def test_a_node_that_is_silent_is_given_up(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        async with HttpMembershipStorage(f"http://{host}", timeout=0.05) as shown:
            with pytest.raises(StorageUnavailable, match="no answer in time"):
                await shown.snapshot()
        async with HttpMembershipStorage(
            url.replace("http://", f"http://{host},"), timeout=0.5
        ) as shown:
            assert len((await shown.snapshot()).members) == 2


async def test_a_node_that_is_not_there_is_unavailable(unused_port: int) -> None:
    async with HttpMembershipStorage(f"http://127.0.0.1:{unused_port}") as shown:
        with pytest.raises(StorageUnavailable, match=str(unused_port)):
            await shown.snapshot()


async def test_nothing_can_be_written(url: str) -> None:
    async with HttpMembershipStorage(url) as shown:
        for write in (
            shown.register("h:1"),
            shown.renew(1),
            shown.set_status(1, MemberStatus.ACTIVE, MemberStatus.DEAD),
            shown.vote(1, Vote(2, 0.0)),
            shown.purge(1),
        ):
            with pytest.raises(ConfigurationError, match="only shows"):
                await write


async def test_it_is_read_while_it_is_open_only(url: str) -> None:
    shown = HttpMembershipStorage(url)
    with pytest.raises(StorageClosed):
        await shown.snapshot()


async def test_a_url_opens_the_membership_for_clients_and_refuses_servers(url: str) -> None:
    storage = open_storage(url)
    async with storage.membership:
        assert len((await storage.membership.snapshot()).members) == 2
    with pytest.raises(ConfigurationError, match="for clients"):
        await storage.prepare()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:80",
        "http://host:x",
        "http://a:1,",
        "ftp://host",
    ],
)
def test_a_url_that_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no HTTP server"):
        HttpMembershipStorage(url)
