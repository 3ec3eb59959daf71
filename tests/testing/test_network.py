"""The network in memory keeps TCP's promises, and breaks what it is told to break."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rio.testing import Host, Network, run


class Wire:
    """Two hosts, ``a`` and ``b``, and what each has heard."""

    def __init__(self, **options: Any) -> None:
        self.network = Network(random.Random(1), **options)
        self.a = self.network.add(Host("a"))
        self.b = self.network.add(Host("b"))

    @asynccontextmanager
    async def on(self) -> AsyncIterator[Wire]:
        with self.network.on(asyncio.get_running_loop()):
            yield self


class Line(asyncio.Protocol):
    """One end of a connection, which keeps what it hears and when."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.paused = 0
        self.transport: Any = None
        self.eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard.append((round(asyncio.get_running_loop().time(), 6), data))

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(error)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.paused -= 1


async def connect(wire: Wire, make: Callable[[], Any] = Line) -> tuple[Line, Line]:
    """A connection from ``a`` to ``b``: both ends."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Line] = loop.create_future()

    def accept() -> Line:
        line: Line = make()
        accepted.set_result(line)
        return line

    async def listen() -> asyncio.Server:
        return await loop.create_server(accept, "b", 0)

    async def call(port: int) -> Line:
        return (await loop.create_connection(make, "b", port))[1]

    server = await wire.b.run(listen())
    caller = await wire.a.run(call(server.sockets[0].getsockname()[1]))
    called = await accepted
    server.close()
    return caller, called


def in_order(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# --- what TCP promises ----------------------------------------------------------------------------


def test_what_is_sent_arrives_after_the_latency() -> None:
    async def main() -> None:
        async with Wire(latency=0.25).on() as wire:
            a, b = await connect(wire)
            sent = asyncio.get_running_loop().time()
            a.transport.write(b"hello")
            b.transport.write(b"hi")
            await asyncio.sleep(1.0)
            assert b.heard == [(sent + 0.25, b"hello")]
            assert a.heard == [(sent + 0.25, b"hi")]

    run(main())


def test_nothing_is_overtaken_however_long_each_message_takes() -> None:
    async def main() -> None:
        rng = random.Random(4)
        async with Wire(latency=lambda: rng.uniform(0.0, 1.0)).on() as wire:
            a, b = await connect(wire)
            for message in in_order(50):
                a.transport.write(message)
                await asyncio.sleep(0.01)
            await asyncio.sleep(2.0)
            assert [message for _, message in b.heard] == in_order(50)

    run(main())


def test_closing_delivers_what_was_written_and_then_the_end() -> None:
    async def main() -> None:
        async with Wire(latency=0.1).on() as wire:
            a, b = await connect(wire)
            a.transport.writelines([b"last ", b"words"])
            a.transport.close()
            a.transport.write(b"too late")
            assert await a.ended is None
            assert await b.ended is None
            assert [message for _, message in b.heard] == [b"last words"]
            assert b.eof

    run(main())


def test_aborting_resets_the_other_end() -> None:
    async def main() -> None:
        async with Wire().on() as wire:
            a, b = await connect(wire)
            a.transport.abort()
            assert await a.ended is None
            assert isinstance(await b.ended, ConnectionResetError)

    run(main())


def test_a_writer_is_paused_while_the_other_end_does_not_read_and_resumed_when_it_does() -> None:
    async def main() -> None:
        async with Wire().on() as wire:
            a, b = await connect(wire)
            b.transport.pause_reading()
            a.transport.set_write_buffer_limits(1000)
            sent = 0
            while not a.paused:
                a.transport.write(bytes(10_000))
                sent += 10_000
                await asyncio.sleep(0.001)
            assert a.transport.get_write_buffer_size() > 1000
            assert b.heard == []
            b.transport.resume_reading()
            await asyncio.sleep(0.1)
            assert (a.paused, a.transport.get_write_buffer_size()) == (0, 0)
            assert sum(len(message) for _, message in b.heard) == sent

    run(main())


class SmallBuffer(Line, asyncio.BufferedProtocol):
    """A protocol that has room for four bytes at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._room = bytearray(4)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._room[:nbytes]))


def test_a_protocol_with_a_buffer_of_its_own_gets_what_fits() -> None:
    async def main() -> None:
        async with Wire().on() as wire:
            a, b = await connect(wire, SmallBuffer)
            a.transport.write(b"ten bytes!")
            await asyncio.sleep(0.1)
            assert [message for _, message in b.heard] == [b"ten ", b"byte", b"s!"]

    run(main())


async def shout() -> None:
    """A server and a client by asyncio's streams."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("b", 7000)
        writer.write(b"hello\n")
        reply = await reader.read()
        writer.close()
        await writer.wait_closed()
        return reply

    async with Wire().on() as wire:
        server = await wire.b.run(asyncio.start_server(answer, "b", 7000))
        assert await wire.a.run(ask()) == b"HELLO\n"
        server.close()


def test_streams_work_in_virtual_time() -> None:
    run(shout())


@pytest.mark.both_loops
async def test_streams_work_in_real_time() -> None:
    await shout()


@pytest.mark.both_loops
async def test_addresses_of_no_host_lead_where_they_led_before() -> None:
    async with Wire().on():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Line, "127.0.0.1", 0)
        transport, line = await loop.create_connection(Line, *server.sockets[0].getsockname())
        transport.close()
        await line.ended
        server.close()
        await server.wait_closed()
    assert "create_server" not in vars(loop)


# --- who is there ---------------------------------------------------------------------------------


def test_nobody_connects_where_nobody_listens() -> None:
    async def main() -> None:
        async with Wire(latency=0.5).on():
            with pytest.raises(ConnectionRefusedError, match="b:7000"):
                await asyncio.get_running_loop().create_connection(Line, "b", 7000)
            assert asyncio.get_running_loop().time() == 0.5  # there is no way back to be waited for

    run(main())


def test_an_address_is_listened_on_once_and_on_its_own_host_only() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Wire().on() as wire:
            server = await wire.b.run(listen())
            with pytest.raises(OSError, match="in use"):
                await wire.b.run(listen())
            with pytest.raises(OSError, match="not an address of a"):
                await wire.a.run(listen())
            with pytest.raises(OSError, match="not an address of client"):
                await loop.create_server(Line, "b", 7000)
            assert server.is_serving()
            server.close()
            await server.wait_closed()
            assert not server.is_serving()
            (await wire.b.run(listen())).close()

    async def listen() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(Line, "b", 7000)

    run(main())


def test_a_name_belongs_to_one_host_that_is_up() -> None:
    network = Network()
    first = network.add(Host("a"))
    assert network.add(first) is first
    with pytest.raises(ValueError, match="a host called a already"):
        network.add(Host("a"))
    network.take_down(first)
    network.add(Host("a"))


def test_hosts_of_one_name_in_two_networks_do_not_hear_each_other() -> None:
    async def main() -> None:
        async with Wire().on() as one, Wire().on() as other:
            for wire in (one, other):
                a, b = await connect(wire)
                a.transport.write(b"to this one")
                await asyncio.sleep(0.1)
                assert [message for _, message in b.heard] == [b"to this one"]
            one.network.break_connections()
            assert other.network.break_connections() == 1

    run(main())


def test_a_host_that_goes_down_resets_its_connections_and_listens_no_more() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Wire(latency=0.1).on() as wire:
            a, b = await connect(wire)
            b.transport.write(b"sent before")
            wire.network.take_down(wire.b)
            b.transport.write(b"sent after")
            assert isinstance(await b.ended, ConnectionResetError)
            assert isinstance(await a.ended, ConnectionResetError)
            assert [message for _, message in a.heard] == [b"sent before"]
            with pytest.raises(OSError, match="not an address"):
                await wire.b.run(listen())
            with pytest.raises(ConnectionRefusedError):
                await wire.a.run(call(loop))

    async def listen() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(Line, "b", 7000)

    async def call(loop: asyncio.AbstractEventLoop) -> None:
        await loop.create_connection(Line, "b", 7000)

    run(main())


# --- what goes wrong ------------------------------------------------------------------------------


def test_what_was_cut_arrives_after_healing_and_the_other_way_stays_open() -> None:
    async def main() -> None:
        async with Wire(latency=0.1).on() as wire:
            a, b = await connect(wire)
            wire.network.cut("a", "b")
            a.transport.write(b"one")
            b.transport.write(b"other way")
            await asyncio.sleep(5.0)
            assert ([message for _, message in a.heard], b.heard) == ([b"other way"], [])
            a.transport.write(b"two")
            wire.network.heal()
            await asyncio.sleep(0.05)
            assert [message for _, message in b.heard] == [b"one"]
            await asyncio.sleep(1.0)
            assert [message for _, message in b.heard] == [b"one", b"two"]

    run(main())


def test_connecting_waits_while_nothing_gets_through() -> None:
    async def main() -> None:
        async with Wire().on() as wire:
            wire.network.cut("b", "a")
            connecting = asyncio.create_task(connect(wire))
            await asyncio.sleep(100.0)
            assert not connecting.done()
            wire.network.heal("b", "a")
            await connecting

    run(main())


def test_groups_are_parted_from_each_other_and_from_nobody_else() -> None:
    hosts = {name: Host(name) for name in "abcd"}
    network = Network()
    for host in hosts.values():
        network.add(host)
    network.partition(["a"], ["b", "c"])

    def heard(one: str, other: str) -> bool:
        return not network.is_cut(hosts[one], hosts[other])

    assert [pair for pair in ("ab", "ba", "ac", "ca") if heard(*pair)] == []
    assert all(heard(*pair) for pair in ("bc", "cb", "ad", "da", "bd", "db"))
    network.heal("a")
    assert [pair for pair in ("ab", "ac", "ba", "ca") if heard(*pair)] == ["ab", "ac"]
    network.heal(target="a")
    assert all(heard(*pair) for pair in ("ba", "ca"))


def test_a_name_that_no_host_has_is_refused() -> None:
    network = Network()
    network.add(Host("a"))
    for mistake in (
        lambda: network.cut("a", "b"),
        lambda: network.partition(["a"], ["b"]),
        lambda: network.heal("b"),
        lambda: network.heal(target="b"),
    ):
        with pytest.raises(LookupError, match="no host 'b', only client, a"):
            mistake()


def test_broken_connections_are_reset_at_both_ends_and_nothing_more_arrives() -> None:
    async def main() -> None:
        async with Wire(latency=0.1).on() as wire:
            a, b = await connect(wire)
            a.transport.write(b"on its way")
            assert wire.network.break_connections("b", "c") == 0
            assert wire.network.break_connections("b", "a") == 1
            assert isinstance(await a.ended, ConnectionResetError)
            assert isinstance(await b.ended, ConnectionResetError)
            assert b.heard == []
            await connect(wire)

    run(main())


def test_a_message_that_is_lost_breaks_its_connection() -> None:
    async def main() -> None:
        async with Wire().on() as wire:
            a, b = await connect(wire)
            a.transport.write(b"arrives")
            await asyncio.sleep(0.1)
            wire.network.loss = 1.0
            a.transport.write(b"lost")
            assert isinstance(await a.ended, ConnectionResetError)
            assert isinstance(await b.ended, ConnectionResetError)
            assert [message for _, message in b.heard] == [b"arrives"]

    run(main())


def test_a_caller_who_gives_up_connecting_leaves_no_connection_behind() -> None:
    async def main() -> None:
        async with Wire(latency=1.0).on() as wire:
            connecting = asyncio.create_task(connect(wire))
            await asyncio.sleep(1.5)  # it was accepted, and a does not know yet
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            assert wire.network.break_connections() == 0

    run(main())
