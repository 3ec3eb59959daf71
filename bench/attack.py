"""Somebody who does a server all the harm that its key allows: ``python -m bench.attack KIND
ADDRESS``.

Everything is written by hand to sockets: an attacker heeds nothing that a server says. The process
prints ``listening ADDRESS`` when it begins, and ends when its standard input ends. It gives way to
everything else on its core, so that it does not take the time of the client that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvloop

import rio
from rio._core.wire import Kind
from rio.security.proof import Proofs, make_nonce
from rio.transport.protocol import VERSION, Hello, encode, write_hello, write_proof

KEY = rio.Key("attacker", "call", b"the secret of an attacker")
CONNECTIONS = 20
"""Those of an attacker that holds a key."""
STRANGERS = 1000
WRONG_KEYS = 50
"""Attempts to guess a key that are under way at the same time."""
BURST = 500
"""Requests that are written before the attacker looks whether the server takes them."""

numbers = itertools.count(1)
Attack = Callable[[str], Awaitable[None]]


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def request(id: str, message: str = "Ping", timeout: int = 2**64 - 1, **payload: Any) -> bytes:
    call = [Kind.REQUEST, next(numbers), "Room", id, message, timeout, None, payload]
    return frame(encode(call))


class Socket:
    """A connection of an attacker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: str) -> Socket:
        host, port = rio.Address.parse(address)
        return cls(*await asyncio.open_connection(host, port))

    async def body(self) -> bytes:
        return await self.reader.readexactly(
            int.from_bytes(await self.reader.readexactly(4), "big")
        )

    async def prove(self, secret: bytes) -> None:
        hello = write_hello(Hello(VERSION, "client", key=KEY.id, nonce=make_nonce()))
        self.writer.write(frame(hello))
        answer = await self.body()
        await self.body()
        self.writer.write(frame(write_proof(Proofs(hello, answer, b"", secret).of("client"))))

    async def drop_answers(self) -> None:
        while await self.reader.read(1 << 18):
            pass


async def guess_keys(address: str) -> None:
    """Prove oneself by a wrong secret, again and again."""
    connection = await Socket.open(address)
    try:
        await connection.prove(os.urandom(32))
        await connection.drop_answers()
    finally:
        connection.writer.close()


async def stay_a_stranger(address: str) -> None:
    """Say nothing until the server closes."""
    connection = await Socket.open(address)
    try:
        await connection.drop_answers()
    finally:
        connection.writer.close()


async def with_key(address: str, write: Callable[[int], bytes], *, reads: bool = True) -> None:
    """Write without an end what ``write`` makes, on one connection."""
    connection = await Socket.open(address)
    reading = None
    try:
        await connection.prove(KEY.secret)
        if reads:
            reading = asyncio.create_task(connection.drop_answers())
        for number in itertools.count():
            connection.writer.write(write(number))
            await connection.writer.drain()
            await asyncio.sleep(0)
    finally:
        if reading is not None:
            reading.cancel()
        connection.writer.close()


async def flood_calls(address: str) -> None:
    """Call one object as often as possible."""

    def burst(_: int) -> bytes:
        return b"".join(request("popular", ping_id="a") for _ in range(BURST))

    await with_key(address, burst)


async def come_and_go(address: str) -> None:
    """Call an object, and be gone before it has answered."""
    connection = await Socket.open(address)
    try:
        await connection.prove(KEY.secret)
        connection.writer.write(b"".join(request("popular", ping_id="a") for _ in range(BURST)))
        await connection.body()
    finally:
        connection.writer.transport.abort()


async def flood_ids(address: str) -> None:
    """Call objects that nobody has invented before."""

    def burst(_: int) -> bytes:
        return b"".join(request(f"invented {next(numbers)}", ping_id="") for _ in range(BURST))

    await with_key(address, burst)


async def flood_bytes(address: str) -> None:
    """Ask for large replies, and read none of them."""
    large = request("large", "EchoBlock", data=bytes(500_000))
    await with_key(address, lambda _: large, reads=False)


async def flood_timeouts(address: str) -> None:
    """Have calls wait for ever at an object that is never free."""

    def burst(_: int) -> bytes:
        return b"".join(request("busy", "Sleep", seconds=1e9) for _ in range(BURST))

    await with_key(address, burst)


async def flood_subscriptions(address: str) -> None:
    def burst(_: int) -> bytes:
        number = next(numbers)
        return b"".join(
            request(f"followed {each % 50}", "rio.subscribe", number=number * BURST + each)
            for each in range(BURST)
        )

    await with_key(address, burst)


async def half_a_frame(address: str) -> None:
    """Announce 4 MB, and send them but for the last byte."""
    connection = await Socket.open(address)
    try:
        await connection.prove(KEY.secret)
        connection.writer.write((4_000_000).to_bytes(4, "big") + b"\x92\x05\x01" + bytes(3_999_990))
        await connection.drop_answers()
    finally:
        connection.writer.close()


OF_KEY_HOLDERS: dict[str, Attack] = {
    "calls": flood_calls,
    "visits": come_and_go,
    "ids": flood_ids,
    "bytes": flood_bytes,
    "timeouts": flood_timeouts,
    "subscriptions": flood_subscriptions,
    "frames": half_a_frame,
}
KINDS: dict[str, tuple[Attack, int]] = {
    "wrong-keys": (guess_keys, WRONG_KEYS),
    "strangers": (stay_a_stranger, STRANGERS),
    **{kind: (attack, CONNECTIONS) for kind, attack in OF_KEY_HOLDERS.items()},
}


async def again_and_again(attack: Attack, address: str, limit: int | None) -> None:
    """Attack anew whenever the server has ended a connection, ``limit`` times at most."""
    for _ in itertools.count() if limit is None else range(limit):
        with suppress(OSError, asyncio.IncompleteReadError):
            await attack(address)


async def run(kind: str, address: str, limit: int | None) -> None:
    attack, connections = KINDS[kind]
    each = None if limit is None else limit // connections
    tasks = [
        asyncio.create_task(again_and_again(attack, address, each)) for _ in range(connections)
    ]
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)
    print(f"listening {address}", flush=True)
    if limit is not None:
        await asyncio.wait(tasks)
        print("done", flush=True)
    await stopped.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("address")
    parser.add_argument("--limit", type=int, help="how many connections to make, in all")
    options = parser.parse_args()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    socket.setdefaulttimeout(10)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(options.kind, options.address, options.limit))


if __name__ == "__main__":
    main()
