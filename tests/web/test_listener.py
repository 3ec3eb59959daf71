"""The small HTTP server answers what it should and survives the rest."""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from rio.contracts.membership import MembershipSnapshot
from rio.errors import BindFailed
from rio.identity import Address
from rio.storage.local import LocalMembershipStorage
from rio.web import listener
from rio.web.listener import Answer, HttpListener
from rio.web.pages import NodePages

pytestmark = pytest.mark.both_loops


class Node:
    """The data that the pages show."""

    snapshot = MembershipSnapshot(0, 0)
    reason = ""


@pytest.fixture
async def node() -> Node:
    node = Node()
    async with LocalMembershipStorage(clock=lambda: 0.0) as membership:
        for address in "127.0.0.1:5000", "127.0.0.1:5000", "[::1]:80":
            node.snapshot = (await membership.register(address, b"\xff")).snapshot
    return node


@pytest.fixture
async def address(node: Node) -> AsyncIterator[Address]:
    http = HttpListener(NodePages(lambda: node.snapshot, lambda: node.reason))
    yield await http.start(Address("127.0.0.1", 0))
    await http.close()
    await http.close()


async def ask(address: Address, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body of the answer to some bytes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    status, *headers = head.decode().split("\r\n")
    return int(status.split(" ")[1]), dict(header.split(": ", 1) for header in headers), body


async def get(address: Address, path: str) -> tuple[int, bytes]:
    status, _, body = await ask(address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return status, body


async def test_members_are_shown_as_json(address: Address, node: Node) -> None:
    status, headers, body = await ask(address, b"GET /members?x=1 HTTP/1.1\r\n\r\n")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    shown = json.loads(body)
    assert (shown["version"], shown["generation_high"]) == (node.snapshot.version, 3)
    assert [(m["generation"], m["host"], m["port"], m["status"]) for m in shown["members"]] == [
        (1, "127.0.0.1", 5000, "DEAD"),
        (2, "127.0.0.1", 5000, "JOINING"),
        (3, "::1", 80, "JOINING"),
    ]


@pytest.mark.parametrize(
    ("path", "generation"),
    [
        ("/members/127.0.0.1/5000", 2),
        ("/members/::1/80", 3),
        ("/members/[::1]/80/", 3),
        ("/members/%3A%3a1/80", 3),
    ],
)
async def test_the_newest_member_at_an_address_is_shown(
    address: Address, path: str, generation: int
) -> None:
    status, body = await get(address, path)
    assert (status, json.loads(body)["generation"]) == (200, generation)


@pytest.mark.parametrize(
    "path",
    [
        "/members/127.0.0.1/5001",
        "/members/x/y",
        "/members/x/99999",
        "/members/x/-1",
        "/members/1",
        "/x",
        "/../etc",
    ],
)
async def test_what_is_not_there_is_not_found(address: Address, path: str) -> None:
    assert (await get(address, path))[0] == 404


async def test_it_lives_whether_it_is_ready_or_not(address: Address, node: Node) -> None:
    assert await get(address, "/readyz") == (200, b"ok\n")
    node.reason = "draining"
    assert await get(address, "/readyz") == (503, b"draining\n")
    assert await get(address, "/livez") == (200, b"ok\n")


async def test_head_has_no_body(address: Address) -> None:
    status, headers, body = await ask(address, b"HEAD /livez HTTP/1.1\r\n\r\n")
    assert (status, headers["Content-Length"], body) == (200, "3", b"")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /members HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET members HTTP/1.1\r\n\r\n", 400),
        (b"GET /members\r\n\r\n", 400),
        (b"GET /members HTTP/2.0\r\n\r\n", 400),
        (b"\xff\xfe \x00 \x80\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000, 431),
    ],
)
async def test_what_is_no_request_is_refused(
    address: Address, request_bytes: bytes, status: int
) -> None:
    assert (await ask(address, request_bytes))[0] == status
    assert (await get(address, "/livez"))[0] == 200


async def test_a_client_that_leaves_early_hurts_nobody(address: Address) -> None:
    for request in b"", b"GET /members HTT":
        _, writer = await asyncio.open_connection(*address)
        writer.write(request)
        writer.transport.abort()
    assert (await get(address, "/livez"))[0] == 200


async def test_a_client_that_says_nothing_is_dropped(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "TIMEOUT", 0.05)
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    writer.close()


async def test_more_clients_than_it_serves_are_disconnected(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 0)
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    writer.close()
    monkeypatch.undo()
    assert (await get(address, "/livez"))[0] == 200


async def test_clients_that_were_answered_and_stay_lock_nobody_out(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    stay = []
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        stay.append(writer)
    assert (await get(address, "/livez"))[0] == 200
    for writer in stay:
        writer.close()


async def test_a_page_that_fails_is_an_error_and_no_more() -> None:
    def fail(path: str) -> Answer:
        if path == "/":
            raise RuntimeError("no")
        return Answer(HTTPStatus.OK, b"ok")

    http = HttpListener(fail)
    address = await http.start(Address("127.0.0.1", 0))
    assert (await get(address, "/"))[0] == 500
    assert await get(address, "/x") == (200, b"ok")
    await http.close()


async def test_an_address_that_is_taken_is_a_bind_error(address: Address) -> None:
    with pytest.raises(BindFailed, match="choose another address"):
        await HttpListener(lambda path: Answer(HTTPStatus.OK, b"")).start(address)
