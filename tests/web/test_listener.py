"""The small HTTP server answers what it should and survives the rest."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus

import pytest

from rio.contracts.membership import MembershipSnapshot
from rio.errors import BindFailed
from rio.identity import Address
from rio.storage.local import LocalMembershipStorage
from rio.web import listener
from rio.web.guard import Guard
from rio.web.listener import Answer, HttpListener, Request
from rio.web.pages import NodePages
from tests.server.harness import until

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
    http = HttpListener(Guard(NodePages(lambda: node.snapshot, lambda: node.reason)))
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
    status, _, body = await ask(address, head(f"GET {path}"))
    return status, body


def head(line: str, *headers: str) -> bytes:
    """A request, after which the server disconnects."""
    lines = [f"{line} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def test_members_are_shown_as_json(address: Address, node: Node) -> None:
    status, headers, body = await ask(address, head("GET /members?x=1"))
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
        "/members/1",
        "/x",
        "/../etc",
    ],
)
async def test_what_is_not_there_is_not_found(address: Address, path: str) -> None:
    assert (await get(address, path))[0] == 404


@pytest.mark.parametrize("port", ["y", "99999", "-1", "9" * 5000])
async def test_what_is_no_port_is_refused_and_not_logged(
    address: Address, port: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await get(address, f"/members/127.0.0.1/{port}") == (
        400,
        b"a port is a number from 0 to 65535: /members/{ip}/{port}\n",
    )
    assert caplog.text == ""


async def test_it_lives_whether_it_is_ready_or_not(address: Address, node: Node) -> None:
    assert await get(address, "/readyz") == (200, b"ok\n")
    node.reason = "draining"
    assert await get(address, "/readyz") == (503, b"draining\n")
    assert await get(address, "/livez") == (200, b"ok\n")


async def test_head_has_no_body(address: Address) -> None:
    status, headers, body = await ask(address, head("HEAD /livez"))
    assert (status, headers["Content-Length"], body) == (200, "3", b"")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /members HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET http://x/members HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nA\r\n b: c\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
        (b"GET members HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
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


async def test_a_head_of_just_the_size_is_read(address: Address) -> None:
    start, end = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ", b"\r\n\r\n"
    room = listener.MAX_HEAD - len(start + end)
    assert (await ask(address, start + b"x" * room + end))[0] == 200
    assert (await ask(address, start + b"x" * (room + 1) + end))[0] == 431


async def test_what_a_path_holds_gets_into_no_header(address: Address) -> None:
    status, headers, body = await ask(address, head("GET /%0d%0aX-Injected:%201/%ff/%2e%2e"))
    assert (status, "X-Injected" in headers, b"Injected" in body) == (404, False, False)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next answer on a connection that stays."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    [length] = [line.partition(": ")[2] for line in lines if line.startswith("Content-Length")]
    return int(lines[0].split(" ")[1]), await reader.readexactly(int(length))


STAYING = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
MEMBERS = STAYING.replace(b"livez", b"members")


async def test_a_connection_serves_one_request_after_the_other(address: Address) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(3):
        writer.write(STAYING)
        assert await read_answer(reader) == (200, b"ok\n")
    writer.write(STAYING.replace(b"1.1", b"1.0"))
    assert await read_answer(reader) == (200, b"ok\n")
    assert await reader.read() == b"", "a client of HTTP/1.0 does not know that it stays"
    writer.close()


@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
async def test_requests_that_come_at_once_are_answered_in_their_order(
    address: Address, node: Node, piece: int
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    rounds = 2 if piece == 1 else 40
    requests = (STAYING + STAYING.replace(b"livez", b"x") + MEMBERS) * rounds
    for start in range(0, len(requests), piece):
        writer.write(requests[start : start + piece])
        await asyncio.sleep(0)
    writer.write_eof()
    for _ in range(rounds):
        assert await read_answer(reader) == (200, b"ok\n")
        assert (await read_answer(reader))[0] == 404
        assert json.loads((await read_answer(reader))[1])["version"] == node.snapshot.version
    assert await reader.read() == b""
    writer.close()


async def test_other_clients_come_between_the_requests_of_one(address: Address) -> None:
    reader, writer = await asyncio.open_connection(*address)
    other_reader, other_writer = await asyncio.open_connection(*address)
    writer.write(STAYING * 3000)
    await read_answer(reader)
    other_writer.write(STAYING)
    assert await read_answer(other_reader) == (200, b"ok\n")
    left = sum([(await read_answer(reader))[0] == 200 for _ in range(2999)])
    assert left == 2999
    for each in writer, other_writer:
        each.close()


async def test_a_client_that_takes_no_answers_gets_no_more_and_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = 0

    def page(request: Request) -> Answer:
        nonlocal answered
        answered += 1
        return Answer(HTTPStatus.OK, b"x" * (1 << 20))

    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.5)
    http = HttpListener(page)
    address = await http.start(Address("127.0.0.1", 0))
    _, writer = await asyncio.open_connection(*address, limit=1)
    writer.write(STAYING * 500)
    await until(lambda: answered > 0 and not http._connections)
    assert answered < 50
    writer.transport.abort()
    await http.close()


async def test_a_client_that_leaves_early_hurts_nobody(address: Address) -> None:
    for request in b"", b"GET /members HTT":
        _, writer = await asyncio.open_connection(*address)
        writer.write(request)
        writer.transport.abort()
    assert (await get(address, "/livez"))[0] == 200


async def test_a_client_that_says_nothing_is_dropped(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.05)
    monkeypatch.setattr(listener, "IDLE_TIMEOUT", 0.05)
    for request in b"", b"GET /livez HT", STAYING, STAYING + b"GET":
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200") == request.startswith(STAYING)
        writer.close()


async def test_a_client_that_sends_a_byte_now_and_then_is_dropped(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.1)
    reader, writer = await asyncio.open_connection(*address)
    dropped = asyncio.ensure_future(reader.read())
    while not dropped.done():
        writer.write(b"x")
        await asyncio.wait((dropped,), timeout=0.01)
    with suppress(ConnectionError):
        assert await dropped == b""
    writer.close()


async def test_unfinished_requests_of_many_lock_nobody_out(address: Address) -> None:
    """What probes the node would take it for dead."""
    held = [await asyncio.open_connection(*address) for _ in range(130)]
    for _, writer in held:
        writer.write(b"GET /livez HTTP/1.1\r\nX-Unfinished: ")
    for _ in range(50):
        assert await get(address, "/livez") == (200, b"ok\n")
    for _, writer in held:
        writer.transport.abort()


async def test_a_host_with_many_connections_takes_no_place_of_another_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    http = HttpListener(lambda request: Answer(HTTPStatus.OK, b"ok\n"))
    address = await http.start(Address("127.0.0.1", 0))
    collector, writer = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
    crowd = [await asyncio.open_connection(*address) for _ in range(20)]
    await until(lambda: [each.source for each in http._connections][:1] == ["127.0.0.2"])
    writer.write(STAYING)
    assert await read_answer(collector) == (200, b"ok\n")
    for _, each in [*crowd, (collector, writer)]:
        each.transport.abort()
    await http.close()


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
        writer.write(STAYING)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        stay.append(writer)
    assert (await get(address, "/livez"))[0] == 200
    for writer in stay:
        writer.close()


async def test_a_page_that_fails_is_an_error_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> Answer:
        if request.path == "/":
            raise RuntimeError("no")
        return Answer(HTTPStatus.OK, b"ok")

    http = HttpListener(fail)
    address = await http.start(Address("127.0.0.1", 0))
    for _ in range(20):
        assert (await get(address, "/"))[0] == 500
    assert [record.getMessage() for record in caplog.records] == [
        "the page '/' failed (1 failures in all)"
    ]
    assert await get(address, "/x") == (200, b"ok")
    await http.close()


async def test_an_address_that_is_taken_is_a_bind_error(address: Address) -> None:
    with pytest.raises(BindFailed, match="choose another address"):
        await HttpListener(lambda request: Answer(HTTPStatus.OK, b"")).start(address)
