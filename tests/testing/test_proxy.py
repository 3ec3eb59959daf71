"""The proxy does to a connection what it was told, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rio.testing import Proxy, Wire

pytestmark = pytest.mark.both_loops


class Echo:
    """A server that answers each line with the same line.

    At the end of the input, it sends ``bye``.
    """

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.hears = asyncio.Event()
        self.resets = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard.append(line)
                self.hears.set()
                writer.write(line)
                await writer.drain()
            writer.write(b"bye\n")
            writer.write_eof()
        except ConnectionError:
            self.resets += 1
        finally:
            writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()
    await server.wait_closed()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, line: bytes) -> None:
        self.writer.write(line)

    async def ask(self, line: bytes) -> bytes:
        self.say(line)
        return await self.reader.readline()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    yield client
    client.writer.transport.abort()


async def is_silent(client: Client) -> bool:
    """Whether nothing comes, for as long as the test cares to look."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.reader.readline()
    return True


async def test_bytes_pass_in_order_whole_or_one_at_a_time(proxy: Proxy, client: Client) -> None:
    for single in False, True:
        proxy.single_bytes = single
        for number in range(20):
            line = b"%d %s\n" % (number, b"x" * number * 10)
            assert await client.ask(line) == line


async def test_one_side_may_end_before_the_other(client: Client, echo: Echo) -> None:
    client.say(b"last\n")
    client.writer.write_eof()
    assert await client.reader.read() == b"last\nbye\n"
    assert echo.resets == 0


async def test_what_is_held_back_arrives_later(proxy: Proxy, client: Client, echo: Echo) -> None:
    assert await client.ask(b"1\n") == b"1\n"
    proxy.hold()
    client.say(b"2\n")
    assert await is_silent(client)
    assert echo.heard == [b"1\n"]
    proxy.release()
    assert await client.reader.readline() == b"2\n"


async def test_a_connection_can_be_deaf_or_dumb(proxy: Proxy, client: Client, echo: Echo) -> None:
    proxy.hold(requests=False)
    client.say(b"1\n")
    await echo.hears.wait()
    assert await is_silent(client)
    proxy.release()
    assert await client.reader.readline() == b"1\n"
    proxy.hold(replies=False)
    client.say(b"2\n")
    assert await is_silent(client)
    assert echo.heard == [b"1\n"]
    proxy.release()
    assert await client.reader.readline() == b"2\n"


async def test_what_is_dropped_never_arrives_and_its_connection_stays_silent(
    proxy: Proxy, client: Client, echo: Echo
) -> None:
    proxy.drop(requests=False)
    client.say(b"1\n")
    await echo.hears.wait()
    assert await is_silent(client)
    proxy.release()
    client.say(b"2\n")
    assert await is_silent(client)
    assert echo.heard == [b"1\n", b"2\n"]
    other = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    assert await other.ask(b"3\n") == b"3\n"
    other.writer.transport.abort()


async def test_a_delay_is_the_same_for_each_piece_however_many_there_are(
    proxy: Proxy, client: Client
) -> None:
    """Ten pieces, each of which waits for the one before, would take ten times as long."""
    proxy.delay = 0.2
    now = asyncio.get_running_loop().time
    began = now()
    for number in range(10):
        client.say(b"%d\n" % number)
        await asyncio.sleep(0.01)
    assert [await client.reader.readline() for _ in range(10)] == [
        b"%d\n" % number for number in range(10)
    ]
    assert 0.4 <= now() - began < 10 * 0.4


async def test_a_cut_resets_all_and_a_refusal_all_who_come(proxy: Proxy, client: Client) -> None:
    assert await client.ask(b"1\n") == b"1\n"
    proxy.cut()
    with pytest.raises(ConnectionError):
        await client.reader.read()
    proxy.refuse()
    refused = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    with pytest.raises(ConnectionError):
        await refused.reader.read()
    refused.writer.transport.abort()
    proxy.accept()
    accepted = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    assert await accepted.ask(b"5\n") == b"5\n"
    accepted.writer.transport.abort()


async def test_a_lost_reply_was_a_request_that_was_carried_out(
    proxy: Proxy, client: Client, echo: Echo
) -> None:
    proxy.lose_replies(1)
    with pytest.raises(ConnectionError):
        await client.ask(b"1\n")
    assert (echo.heard, proxy.lost) == ([b"1\n"], 1)
    other = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    assert await other.ask(b"2\n") == b"2\n"
    other.writer.transport.abort()


async def test_a_server_that_is_not_there_is_a_reset(unused_tcp_port: int) -> None:
    async with Proxy("127.0.0.1", unused_tcp_port) as proxy:
        client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
        with pytest.raises(ConnectionError):
            await client.reader.read()
        client.writer.transport.abort()


async def test_each_client_can_have_a_wire_of_its_own(echo: Echo) -> None:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)

    class Sorting(Proxy):
        def __init__(self, port: int) -> None:
            super().__init__("127.0.0.1", port)
            self.wires: dict[int, Wire] = {}

        def wire_of(self, client: tuple[str, int]) -> Wire:
            return self.wires.setdefault(client[1], Wire())

    async with Sorting(server.sockets[0].getsockname()[1]) as proxy:
        one, two = [
            Client(*await asyncio.open_connection("127.0.0.1", proxy.port)) for _ in range(2)
        ]
        assert await one.ask(b"1\n") + await two.ask(b"2\n") == b"1\n2\n"
        proxy.wires[one.writer.get_extra_info("sockname")[1]].hold()
        one.say(b"3\n")
        assert await two.ask(b"4\n") == b"4\n"
        assert await is_silent(one)
        for client in one, two:
            client.writer.transport.abort()
    server.close()
    await server.wait_closed()
